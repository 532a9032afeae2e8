"""The pictures of the demonstration: convergence, training, spectra."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from report import TIGHTLY

if TYPE_CHECKING:
    from digits import Outcome

# Okabe and Ito's colours, which all readers can tell apart.
COLOURS = {
    "none": "#000000",
    "diagonal": "#E69F00",
    "Kronecker": "#0072B2",
    "Kronecker, exact damping": "#56B4E9",
    "series, option 1": "#CC79A7",
    "series, option 2": "#009E73",
}
DASHED = ("Kronecker, exact damping", "series, option 1")
OPTIMISERS = ("#009E73", "#E69F00", "#0072B2")


def draw(outcomes: list[Outcome], output: Path) -> list[Path]:
    """Draw all pictures into a folder, and say where they are."""
    output.mkdir(parents=True, exist_ok=True)
    pictures = {"convergence": convergence, "training": training, "spectra": spectra}
    paths = []
    for name, picture in pictures.items():
        paths.append(output / f"{name}.png")
        picture(outcomes).savefig(paths[-1], dpi=150)
    return paths


def panels(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, without the frame's upper and right edge."""
    figure = Figure(figsize=(11.0, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e5e5", linewidth=0.6)
    return figure, grid


def style(name: str) -> dict[str, Any]:
    """The line of one preconditioner, the same in all pictures."""
    dashes = (0, (3, 1.5)) if name in DASHED else "solid"
    return {"color": COLOURS[name], "linewidth": 1.5, "linestyle": dashes}


def convergence(outcomes: list[Outcome]) -> Figure:
    """Relative residuals at the last step, and the iterations that each step needed."""
    figure, grid = panels(2, len(outcomes), 7.6)
    for column, outcome in zip(grid.T, outcomes, strict=True):
        residuals, iterations = column
        for name, history in outcome.residuals.items():
            residuals.semilogy(history, label=name, **style(name))
            counts = [solve.tight for solve in outcome.probe.solves[name]]
            iterations.plot(range(1, len(counts) + 1), counts, **style(name))
        residuals.set_title(f"{outcome.name}, step {outcome.probe.step}")
        residuals.set(xlabel="iterations of conjugate gradients", ylabel="relative residual")
        residuals.legend(frameon=False)
        iterations.set(xlabel="training step", ylabel=f"iterations {TIGHTLY}", ylim=(0, None))
        iterations.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def training(outcomes: list[Outcome]) -> Figure:
    """Loss and accuracy by steps, and accuracy by seconds."""
    figure, grid = panels(len(outcomes), 3, 3.4 * len(outcomes))
    for row, outcome in zip(grid, outcomes, strict=True):
        shown = outcome.runs[0].steps[-1]
        for run, colour in zip(outcome.runs, OPTIMISERS, strict=True):
            line = {"color": colour, "label": run.name, "linewidth": 1.5}
            row[0].semilogy(run.steps, run.losses, **line)
            row[1].plot(run.steps, run.accuracies, **line)
            row[2].semilogx(run.seconds[1:], run.accuracies[1:], **line)
        for axes in row[:2]:
            axes.set(xlim=(0, shown), xlabel="steps")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in row[1:]:
            axes.set(ylim=(0, 1), ylabel="test accuracy")
        row[2].set_xlabel("seconds")
        row[0].set_ylabel("training loss, with prior")
        row[1].set_title(outcome.name)
        row[0].legend(frameon=False, loc="lower left", fontsize="small")
    return figure


def spectra(outcomes: list[Outcome]) -> Figure:
    """Eigenvalues of `F + λI` and of `M (F + λI)`, each spectrum in descending order."""
    figure, grid = panels(1, len(outcomes), 4.2)
    for axes, outcome in zip(grid[0], outcomes, strict=True):
        for name, spectrum in outcome.spectra.items():
            label = "none: F + λI itself" if name == "none" else name
            axes.semilogy(spectrum[::-1], label=label, **style(name))
        axes.set_title(f"{outcome.name}, step {outcome.probe.step}")
        axes.set_xlabel("number of the eigenvalue")
        axes.legend(frameon=False)
    grid[0, 0].set_ylabel("eigenvalue of M (F + λI)")
    return figure
