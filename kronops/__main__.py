"""``python -m kronops``: what is installed, which libraries and devices work, a self-check.

``python -m kronops bench`` times some products beside those of the other libraries that are
installed, in about half a minute of processor time.
"""

from __future__ import annotations

import argparse
import sys

from kronops.bench.command import bench
from kronops.installation import checks, show_versions


def main() -> int:
    """Do what the command line says; 1 if anything does not work."""
    parser = argparse.ArgumentParser(
        prog="python -m kronops",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="bench")
    timed = commands.add_parser("bench", help="products beside those of other libraries")
    timed.add_argument(
        "--seconds", type=float, default=6.0, help="of measuring, beside imports (default: 6)"
    )
    options = parser.parse_args()
    return bench(options.seconds) if options.command == "bench" else check()


def check() -> int:
    """Print versions, then each library and device with what is wrong there; 1 if anything is."""
    show_versions()
    sys.stdout.write("\nA product, a solve and a determinant, checked:\n")
    failed = False
    for each in checks():
        place = f"{each.library} {each.device}".strip()
        sys.stdout.write(f"{place:17} {each.problem or 'ok'}\n")
        failed |= each.problem is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
