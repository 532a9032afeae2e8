"""Pictures of the committed results, for docs/benchmarks.md: drawn by ``benchmarks/page.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cases import COLUMNS, SIDES
from matplotlib.figure import Figure

__all__ = ["growth", "ratios"]

INK, MUTED = "#1f2933", "#5f6c7b"
COLOURS = ("#2563a8", "#c2571a", "#3f8f4f", "#8a4fa3", "#b59410")
MARKS = {"float64": "o", "float32": "s"}


def ratios(cases: Sequence[dict[str, Any]], target: Path) -> None:
    """A dot for each case: the fastest peer's time by ours."""
    names = list(dict.fromkeys(case["factors"] for case in cases))[::-1]
    figure = Figure(figsize=(11, 0.26 * len(names) + 1.4), dpi=150, layout="constrained")
    for axes, columns in zip(figure.subplots(1, 3, sharex=True, sharey=True), COLUMNS, strict=True):
        axes.axvline(1, color=INK, linewidth=1)
        for case in cases:
            if case["columns"] == columns and case["ratio"]:
                side = SIDES.index(case["side"])
                axes.plot(
                    case["ratio"],
                    names.index(case["factors"]) + 0.15 - 0.3 * side,
                    MARKS[case["dtype"]],
                    color=COLOURS[side],
                    markersize=4,
                )
        axes.set(xscale="log", yticks=range(len(names)), yticklabels=names)
        axes.set_title(f"{columns} vector{'s' * (columns > 1)}", color=INK, fontsize=11)
        axes.grid(axis="both", color="#e3e7eb", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter("{x:g}")
    for side, colour in zip(SIDES, COLOURS, strict=False):
        for dtype, mark in MARKS.items():
            axes.plot([], [], mark, color=colour, markersize=4, label=f"{side}, {dtype}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.supxlabel("time of the fastest peer ÷ time of kronops", color=INK, fontsize=10)
    _write(figure, target)


def growth(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Seconds by ``n`` in logarithms, a panel for each family, theory as dashed lines."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained")
    for axes, family in zip(figure.subplots(1, 2, sharey=True), families, strict=True):
        several = [row for row in rows if row["family"] == family]
        timed = [row for row in several if isinstance(row["n"], int)]
        (theory,) = (row for row in several if row["n"] == "theory")
        sizes = [row["n"] for row in timed]
        for colour, name in zip(COLOURS, list(timed[0])[2:], strict=True):
            axes.plot(sizes, [row[name] for row in timed], "o-", color=colour, label=name, ms=4)
            last = timed[-1][name]
            line = [last * (n / sizes[-1]) ** theory[name] for n in sizes[-4:]]
            axes.plot(sizes[-4:], line, "--", color=colour, linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="n")
        axes.set_title(family, color=INK, fontsize=11)
        axes.grid(color="#e3e7eb", linewidth=0.6)
    axes.legend(frameon=False)
    figure.supylabel("seconds", color=INK, fontsize=10)
    _write(figure, target)


def _write(figure: Figure, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, facecolor="white", metadata={"Software": None})
