"""Write the tables and pictures of the docs from the results that are committed.

    python benchmarks/page.py

Of every benchmark, library and number of threads, the latest file in benchmarks/results counts.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kronops.bench.cases import DTYPES, SIDES

__all__ = ["PAGES", "filled", "results"]

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
HOSTILE = PAGE.with_name("hostile.md")
PLANNING = PAGE.with_name("planning_ahead.md")
CLUSTER = PAGE.with_name("cluster.md")
PAGES = (PAGE, HOSTILE, PLANNING, CLUSTER)
PICTURES = PAGE.parent / "_static"

Report = dict[str, Any]

TITLES = {
    "": "",
    "numpy": "NumPy alone",
    "numba": "NumPy, with the extra `numba`",
    "torch": "PyTorch, beside PyTorch",
    "jax": "JAX, beside JAX",
    "cupy": "CuPy, with the kernel for small factors",
}
ORDER = list(TITLES)
BY_HAND = "NumPy matmul"


def results() -> list[Report]:
    """The latest reports, one for each benchmark, library and number of threads."""
    paths = sorted((HERE / "results").glob("*.json"))  # the date comes first in their names
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    latest = {(r["benchmark"], ORDER.index(r.get("ours", "")), r["threads"]): r for r in reports}
    return [latest[key] for key in sorted(latest)]


def filled(reports: Sequence[Report], page: Path = PAGE) -> str:
    """A page with what lies between its marks made anew."""
    text = page.read_text(encoding="utf-8")
    for name, write in SECTIONS.items():
        found = [report for report in reports if report["benchmark"] == name]
        made = "\n\n".join(map(write, found)) if found else "No results are committed yet."
        marked = re.compile(f"<!-- {name} -->.*<!-- end of {name} -->", re.DOTALL)
        block = f"<!-- {name} -->\n{made}\n<!-- end of {name} -->"
        text = marked.sub(lambda _, block=block: block, text)
    return text


# -- sections --------------------------------------------------------------------------------------


def kronecker(report: Report) -> str:
    """Where and how it was measured, the ratios, and every case in which a peer is ahead."""
    threads = report["threads"]
    cases = [case for case in report["cases"] if case["ratio"]]
    speeds = [f"{d} {f / 1e9:.0f} Gflop/s" for d, f in report["gemm flops"].items()]
    found = ", ".join(f"{name} {v}" for name, v in report["versions"].items() if v)
    parts = [
        f"### {TITLES[report['ours']]}, {counted(threads)}",
        f"{where(report)} Large products of matrices: {', '.join(speeds)}. Versions: {found}.",
        f"![A dot for each case: its fastest peer's time by ours](_static/{picture_of(report)})",
        summary(cases),
        *without_by_hand(cases),
        grid(cases),
        f"Where a peer stays ahead, {counted(threads)}:",
        ahead(cases),
    ]
    if report["missing"]:
        parts.append("Not installed: " + ", ".join(report["missing"]) + ".")
    if report["left out"]:
        names = dict.fromkeys(f"{factors} with {k}" for _, factors, k, *_ in report["left out"])
        limit = (
            f"Left out, for their arrays exceed {report['memory']:g} GiB in one dtype at least: "
        )
        parts.append(limit + "; ".join(names) + ".")
    return "\n\n".join(parts)


def summary(cases: Sequence[Report]) -> str:
    """Means of the ratios by group, and what they would be at the bound."""
    lines = [
        "| group | cases | geometric mean | at the bound | least | a peer ahead in |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[Report]] = {case["group"]: [] for case in cases}
    for case in cases:
        groups[case["group"]].append(case)
    groups["all but small"] = [case for case in cases if case["group"] != "small"]
    groups["all"] = list(cases)
    for group, found in groups.items():
        if found:
            ratios = [case["ratio"] for case in found]
            bound = statistics.geometric_mean(case["ratio"] / case["roof"] for case in found)
            lines.append(
                f"| {group} | {len(found)} | {statistics.geometric_mean(ratios):.2f} "
                f"| {bound:.2f} | {min(ratios):.2f} | {sum(ratio < 1 for ratio in ratios)} |"
            )
    return "\n".join(lines)


def without_by_hand(cases: Sequence[Report]) -> list[str]:
    """The mean ratio to the fastest peer but the one that no library has."""
    if not any(BY_HAND in case["peers"] for case in cases):
        return []
    ratios = []
    for case in cases:
        others = [peer.get("ratio") for name, peer in case["peers"].items() if name != BY_HAND]
        by_hand = case["fastest"] == BY_HAND
        ratios.append(min(filter(None, others)) if by_hand else case["ratio"])
    mean = statistics.geometric_mean(ratios)
    return [f"Without {BY_HAND}, which is written by hand, the mean of all cases is {mean:.2f}."]


def grid(cases: Sequence[Report]) -> str:
    """A row for each set of factors and number of vectors; ratios, their peers, the roof."""
    kinds = [(side, dtype) for dtype in DTYPES for side in SIDES]
    heads = [f"`{side}`, {dtype}" for side, dtype in kinds]
    lines = ["| factors | vectors | " + " | ".join(heads) + " |", "|---|---" + "|---" * 4 + "|"]
    rows: dict[tuple[str, int], dict[tuple[str, str], str]] = {}
    for case in cases:
        cells = rows.setdefault((case["factors"], case["columns"]), {})
        cells[case["side"], case["dtype"]] = (
            f"**{case['ratio']:.2f}** {case['fastest']}, {case['roof']:.0%}"
        )
    lines += [
        f"| {escaped(name)} | {columns} | {' | '.join(cells.get(k, '') for k in kinds)} |"
        for (name, columns), cells in rows.items()
    ]
    return "\n".join(lines)


def ahead(cases: Iterable[Report]) -> str:
    """Every case in which a peer is faster, the largest loss first."""
    behind = sorted((case for case in cases if case["ratio"] < 1), key=lambda case: case["ratio"])
    if not behind:
        return "Nowhere."
    lines = ["| product | vectors | dtype | ratio | peer | its time | ours |", "|---" * 7 + "|"]
    for case in behind:
        last = case["last rounds"]
        lines.append(
            f"| {escaped(case['factors'])}, `{case['side']}` | {case['columns']} | {case['dtype']} "
            f"| {case['ratio']:.2f} | {case['fastest']} | {time(last['median'])} "
            f"| {time(last['kronops'])} |"
        )
    return "\n".join(lines)


def rows(report: Report) -> str:
    """The rows of a smaller benchmark, in tables of those with the same columns."""
    parts = [f"{counted(report['threads'])}. {where(report)}"]
    kinds: dict[tuple[str, ...], list[Report]] = {}
    for row in report["rows"]:
        kinds.setdefault(tuple(row), []).append(row)
    for heads, several in kinds.items():
        lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        lines += [
            "| " + " | ".join(cell(key, row[key], row) for key in heads) + " |" for row in several
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def sharded(report: Report) -> str:
    """Times by processes, beside what was predicted of them."""
    parts = [
        "| scaling | processes | vector | seconds | predicted / measured | bytes sent "
        "| predicted / sent | efficiency |\n" + "|---" * 8 + "|"
    ]
    for row in report["rows"]:
        sent, bytes_ratio = row["bytes_sent"], "–"
        if sent:
            bytes_ratio = f"{row['predicted_bytes'] / sent:.2f}"
        parts[0] += (
            f"\n| {row['scaling']} | {row['processes']} | {row['shape']} | {time(row['seconds'])} "
            f"| {row['predicted_over_measured']:.2f} | {sent:,} | {bytes_ratio} "
            f"| {row['efficiency']:.2f} |"
        )
    return "\n\n".join([f"{counted(report['threads'])} for each process. {where(report)}", *parts])


def workers(report: Report) -> str:
    """Products on one and two of Dask's workers, and what travelled beside what was predicted."""
    heads = ["scaling", "workers", "vector", "seconds", "speed", "bytes sent", "predicted / sent"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in report["rows"]:
        sent = max(row["bytes sent"])
        ratio = f"{row['bytes predicted'] / sent:.2f}" if sent else "–"
        lines.append(
            f"| {row['scaling']} | {row['workers']} | {row['shape']} | {time(min(row['seconds']))} "
            f"| {row['speed']:.2f} | {sent:,} | {ratio} |"
        )
    return "\n\n".join([f"Workers of one thread. {where(report)}", "\n".join(lines)])


def out_of_core(report: Report) -> str:
    """The most memory that a worker had, and how right the products were."""
    heads = [
        "product",
        "workers",
        "vector",
        "chunks",
        "a worker may have",
        "had",
        "when it started",
    ]
    heads += ["error", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    sizes = ("vector MiB", "chunk MiB", "allowed MiB", "peak MiB", "MiB before")
    for row in report["rows"]:
        cells = [f"{row[name]:,} MiB" for name in sizes]
        lines.append(
            f"| `{row['product']}` | {row['workers']} | {' | '.join(cells)} | {row['error']:.1g} "
            f"| {time(row['seconds'])} |"
        )
    return "\n\n".join([f"Workers of one thread. {where(report)}", "\n".join(lines)])


def hard_instances(report: Report) -> str:
    """Errors in units of rounding by library, how often each keeps 16 of them, and costs."""
    errors = [row for row in report["rows"] if "instance" in row]
    libraries = [k for k in errors[0] if k not in ("instance", "condition") and " warns" not in k]
    lines = [
        "| instance | condition | " + " | ".join(libraries) + " |",
        "|---" * (len(libraries) + 2) + "|",
    ]
    for row in errors:
        cells = [units(row.get(name)) + " ⚠" * (f"{name} warns" in row) for name in libraries]
        lines.append(f"| {row['instance']} | {row['condition']:.0e} | {' | '.join(cells)} |")
    kept = [sum(_within(row.get(name), 16) for row in errors) for name in libraries]
    lines.append(f"| **within 16 units** | of {len(errors)} | {' | '.join(map(str, kept))} |")
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items() if v)
    others = report | {"rows": [row for row in report["rows"] if "instance" not in row]}
    return "\n\n".join([f"Versions: {versions}.", "\n".join(lines), rows(others)])


def _within(value: Any, most: float) -> bool:
    return isinstance(value, float) and value <= most


def units(value: Any) -> str:
    """An error in units of rounding, or why there is none."""
    if not isinstance(value, float):
        return "–" if value is None or value.startswith("not ") else value
    return f"{value:.1f}" if value < 1000 else f"{value:.0e}"


def growth(report: Report) -> str:
    return f"![Seconds by n, theory dashed](_static/growth.png)\n\n{rows(report)}"


def hostile(report: Report) -> str:
    """How often each library said what, and what it said to each call."""
    libraries, calls = report["libraries"], report["rows"]
    words = ("ok", "clear", "vague", "wrong", "-")
    lines = ["| library | " + " | ".join(words[:-1]) + " | not there |", "|---" * 6 + "|"]
    for name in libraries:
        found = [call[name][0] for call in calls]
        counts = " | ".join(str(found.count(word)) for word in words)
        lines.append(f"| {name} | {counts} |")
    table = ["| call | " + " | ".join(libraries) + " |", "|---" * (1 + len(libraries)) + "|"]
    marks = {"wrong": "**wrong**", "-": ""}
    for call in calls:
        cells = [marks.get(call[name][0], call[name][0]) for name in libraries]
        table.append(f"| {call['call']} | " + " | ".join(cells) + " |")
    found = ", ".join(f"{name} {v}" for name, v in report["versions"].items() if v)
    head = f"{len(calls)} calls. {where(report)} Versions: {found}."
    return "\n\n".join([head, "\n".join(lines), "\n".join(table)])


SECTIONS = {
    "hostile": hostile,
    "kronecker": kronecker,
    "gpu": kronecker,
    "solvers": rows,
    "inverses": rows,
    "growth": growth,
    "hard instances": hard_instances,
    "curvature": rows,
    "sharded": sharded,
    "workers": workers,
    "out of core": out_of_core,
}


# -- words -----------------------------------------------------------------------------------------


def picture_of(report: Report) -> str:
    return f"ratios-{report['ours']}-{report['threads']}.png"


def where(report: Report) -> str:
    gpu = f"{report['gpu']}, and " if "gpu" in report else ""
    return (
        f"Measured on {report['date']} on {gpu}{report['cpu']} "
        f"({report['processors']} processors), "
        f"Python {report['python']}, {report['blas']}."
    )


def counted(threads: int) -> str:
    return f"{threads} thread" + "s" * (threads > 1)


def cell(key: str, value: Any, row: Report) -> str:
    """A time, unless it is a ratio, a slope or a size."""
    if not isinstance(value, float):
        return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    if key.endswith((", median", ", worst")):
        return f"{value:.2g}" if value < 1000 else f"{value:.0e}"
    if key == "damping":
        return f"{value:g}"
    plain = "ratio" in key or row.get("n") in ("slope", "theory")
    return f"{value:.2f}" if plain else time(value)


def time(value: float) -> str:
    unit, factor = next(
        (pair for pair in (("s", 1.0), ("ms", 1e3)) if value * pair[1] >= 1), ("µs", 1e6)
    )
    return f"{value * factor:.3g} {unit}"


def escaped(name: str) -> str:
    return f"`{name}`"


def main() -> None:
    import picture

    reports = results()
    for report in reports:
        if SECTIONS.get(report["benchmark"]) is kronecker:
            picture.ratios(report["cases"], PICTURES / picture_of(report))
        if report["benchmark"] == "growth":
            picture.growth(report["rows"], PICTURES / "growth.png")
    for page in PAGES:
        page.write_text(filled(reports, page), encoding="utf-8")


if __name__ == "__main__":
    main()
