"""Draw the picture of the README and the first page: python docs/picture.py (or make picture).

A covariance with Kronecker structure beside its two factors, and its inverse beside theirs, for
light pages and for dark ones. What is drawn is what kronops computes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from kronops import kron

FOLDER = Path(__file__).parent / "_static"


class Look(NamedTuple):
    """Letters, lines and notes, colours of entries with zero in the middle, and the page."""

    ink: str
    muted: str
    colours: str
    page: str


LIGHT = Look("#1f2933", "#5f6c7b", "RdBu", "white")
DARK = Look("#ced6dd", "#9aa5b1", "berlin_r", "#14181e")


def correlation(size: int, neighbour: float) -> np.ndarray:
    """A stationary first-order chain: its inverse is tridiagonal."""
    steps = np.arange(size)
    return neighbour ** np.abs(steps[:, None] - steps)


def draw(axes, matrix: np.ndarray, title: str, note: str, block: int, look: Look) -> None:
    """One matrix, zero in the page's colour, with thin lines between blocks."""
    limit = np.abs(matrix).max()
    axes.imshow(matrix, cmap=look.colours, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=look.muted, linewidth=0.8)
    for cut in range(block, len(matrix), block):
        axes.axhline(cut - 0.5, color=look.muted, linewidth=0.5)
        axes.axvline(cut - 0.5, color=look.muted, linewidth=0.5)
    axes.set_title(title, color=look.ink, fontsize=12, pad=6)
    axes.set_xlabel(note, color=look.muted, fontsize=9, labelpad=6)


def draw_equation(figure, operator, names: tuple[str, str], call: str, look: Look) -> None:
    """Two factors and the operator they stand for."""
    grid = figure.add_gridspec(
        1, 3, width_ratios=(5, 8, 20), left=0.03, right=0.97, bottom=0.08, top=0.8, wspace=0.28
    )
    factors = [factor.to_dense() for factor in operator.factors]
    matrices = [*factors, operator.to_dense()]
    titles = [*names, " ⊗ ".join(names)]
    notes = [f"{len(matrix)} × {len(matrix)}" for matrix in matrices]
    notes[-1] += ", never formed"
    blocks = [len(matrices[0]), len(matrices[1]), len(factors[1])]
    places = [figure.add_subplot(cell) for cell in grid]
    for axes, matrix, title, note, block in zip(
        places, matrices, titles, notes, blocks, strict=True
    ):
        draw(axes, matrix, title, note, block, look)
    for sign, left, right in (("⊗", places[0], places[1]), ("=", places[1], places[2])):
        x = (left.get_position().x1 + right.get_position().x0) / 2
        figure.text(x, 0.44, sign, size=14, color=look.ink, ha="center", va="center")
    figure.text(0.5, 0.93, call, family="monospace", size=11, color=look.ink, ha="center")


def pictures() -> Iterator[tuple[str, Figure, Look]]:
    """For the README both in a row; for the first page, which may be a phone's, one by one."""
    covariance = kron(correlation(5, 0.6), correlation(8, -0.75))
    product = covariance, ("A", "G"), "kron(A, G)"
    inverse = covariance.inverse(), ("A⁻¹", "G⁻¹"), "kron(A, G).inverse()"
    row = Figure(figsize=(11, 3.6), dpi=150)
    for part, equation in zip(row.subfigures(1, 2), (product, inverse), strict=True):
        draw_equation(part, *equation, LIGHT)
    yield "structure", row, LIGHT
    for name, equation in (("product", product), ("inverse", inverse)):
        for mode, look in (("light", LIGHT), ("dark", DARK)):
            half = Figure(figsize=(5.5, 3.6), dpi=150)
            draw_equation(half, *equation, look)
            yield f"{name}-{mode}", half, look


def main() -> None:
    """Write the pictures to their place among the documentation's files."""
    FOLDER.mkdir(exist_ok=True)
    for name, figure, look in pictures():
        figure.savefig(FOLDER / f"{name}.png", facecolor=look.page, metadata={"Software": None})


if __name__ == "__main__":
    main()
