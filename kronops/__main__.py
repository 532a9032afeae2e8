"""``python -m kronops``: what is installed, which libraries and devices work, a self-check."""

from __future__ import annotations

import argparse
import sys

from kronops.installation import checks, show_versions


def main() -> int:
    """Print versions, then each library and device with what is wrong there; 1 if anything is."""
    argparse.ArgumentParser(prog="python -m kronops", description=__doc__).parse_args()
    show_versions()
    sys.stdout.write("\nA product, a solve and a determinant, checked:\n")
    failed = False
    for check in checks():
        place = f"{check.library} {check.device}".strip()
        sys.stdout.write(f"{place:17} {check.problem or 'ok'}\n")
        failed |= check.problem is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
