"""What the scripts share: their options, their results as files, and tables of rows."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from threads import restart_with

from kronops.bench.measuring import environment

__all__ = ["add_options", "add_output", "save", "table"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark can be told."""
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every library")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where the results go."""
    parser.add_argument("--json", type=Path, help="where to write the results")


def save(report: dict[str, Any], path: Path | None) -> None:
    """Write the results, if they are wanted."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def table(
    name: str,
    description: str,
    measure: Callable[[], Iterator[dict[str, Any]]],
    distributions: Iterable[str] = ("numpy", "scipy"),
) -> None:
    """A script that prints rows of results as they come, and keeps them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args()
    restart_with(options.threads)
    report: dict[str, Any] = {"benchmark": name, **environment(distributions), "rows": []}
    print(f"{report['date']}, {report['cpu']}, {report['threads']} threads, {report['blas']}")
    for row in measure():
        report["rows"].append(row)
        cells = (f"{key} {f'{v:.3g}' if isinstance(v, float) else v}" for key, v in row.items())
        print(", ".join(cells), flush=True)
        save(report, options.json)
