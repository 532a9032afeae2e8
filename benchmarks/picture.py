"""Pictures of the committed results, for docs/benchmarks.md: drawn by ``benchmarks/page.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from kronops.bench.cases import COLUMNS, SIDES

__all__ = ["growth", "ratios"]

# For light pages and for dark ones: no background, and greys that both show.
INK, FAINT = "#7a828c", "#7a828c40"
COLOURS = ("#3b8fd4", "#e0792f", "#2ea27a", "#c95f97", "#9a8328")
DRAWN = ("axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "text.color", "xtick.color")
STYLE = dict.fromkeys((*DRAWN, "ytick.color", "legend.labelcolor"), INK)
STYLE |= {"legend.framealpha": 0}
FILLED = {"float32": "none", "float64": "full"}


@rc_context(STYLE)
def ratios(cases: Sequence[dict[str, Any]], target: Path) -> None:
    """A dot for each case: the fastest peer's time by ours."""
    names = list(dict.fromkeys(case["factors"] for case in cases))[::-1]
    figure = Figure(figsize=(11, 0.26 * len(names) + 1.4), dpi=150, layout="constrained")
    for axes, columns in zip(figure.subplots(1, 3, sharex=True, sharey=True), COLUMNS, strict=True):
        axes.axvline(1, color=INK, linewidth=1)
        for case in cases:
            if case["columns"] == columns and case["ratio"]:
                side = SIDES.index(case["side"])
                height = names.index(case["factors"]) + 0.15 - 0.3 * side
                axes.plot(case["ratio"], height, **_style(side, case["dtype"]))
        axes.set(xscale="log", yticks=range(len(names)), yticklabels=names)
        axes.set_title(f"{columns} vector{'s' * (columns > 1)}", fontsize=11)
        axes.grid(axis="both", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks([0.25, 0.5, 1, 2, 4, 8])
        axes.set_xlabel("time of the fastest peer ÷ ours")
    for side, name in enumerate(SIDES):
        for dtype in FILLED:
            axes.plot([], [], label=f"{name}, {dtype}", **_style(side, dtype))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    _write(figure, target)


@rc_context(STYLE)
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
            line = [last * (n / sizes[-1]) ** theory[name] for n in sizes[-3:]]
            axes.plot(sizes[-3:], line, "--", color=colour, linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="n")
        axes.set_title(family, fontsize=11)
        axes.grid(color=FAINT, linewidth=0.6)
    axes.plot([], [], "--", color=INK, linewidth=1, label="theory")
    axes.legend(frameon=False)
    figure.supylabel("seconds", fontsize=10)
    _write(figure, target)


def _style(side: int, dtype: str) -> dict[str, Any]:
    style = {"marker": "o", "linestyle": "none", "markersize": 4.5}
    return style | {"color": COLOURS[side], "fillstyle": FILLED[dtype]}


def _write(figure: Figure, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, transparent=True, metadata={"Software": None})
