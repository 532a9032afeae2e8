"""What the spectra of curvature blocks say of them, as numbers and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BlockDiagnostics", "Diagnostics", "diagnose"]


class BlockDiagnostics(NamedTuple):
    """Numbers about one block ``F`` with eigenvalues ``μ_i``; NaN where structure tells none.

    Attributes
    ----------
    size : int
        The number of parameters.
    smallest, largest : float
        The extreme eigenvalues of ``F``, undamped.
    condition : float
        ``(largest + λ) / (smallest + λ)`` of the damped block; infinite where it is singular.
    stable_rank : float
        ``‖F‖_F² / ‖F‖₂²``, at least 1 and at most the rank; 0 of a block that is zero.
    effective_dimension : float
        ``Σ μ_i / (μ_i + λ)``: how many directions the data tell more of than the damping. Without
        damping the rank, where eigenvalues below the rounding of the largest are zero.
    """

    size: int
    smallest: float
    largest: float
    condition: float
    stable_rank: float
    effective_dimension: float


class Diagnostics(dict[str, BlockDiagnostics]):
    """`BlockDiagnostics` by the names of the layers; printed as a table.

    Examples
    --------
    >>> import numpy as np
    >>> Diagnostics({"readout": diagnose(2, np.array([1.0, 3.0]), damping=1.0)})
    layer    size  smallest  largest  condition  stable rank  effective dimension
    readout     2         1        3          2        1.111                 1.25
    """

    def __repr__(self) -> str:
        heads = ["layer", *(field.replace("_", " ") for field in BlockDiagnostics._fields)]
        rows = [heads, *([name, *map(_written, block)] for name, block in self.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(_aligned(row, widths)) for row in rows)


def diagnose(size: int, eigenvalues: Any, damping: float) -> BlockDiagnostics:
    """The numbers, from all eigenvalues of the undamped block; None: nobody knows them."""
    if eigenvalues is None:
        return BlockDiagnostics(size, *[math.nan] * 5)
    smallest, largest = float(eigenvalues.min()), float(eigenvalues.max())
    scale = float(np.max(np.abs(eigenvalues)))
    rounding = len(eigenvalues) * np.finfo(eigenvalues.dtype).eps * scale
    some = eigenvalues[eigenvalues > rounding].astype(np.float64)
    below = smallest + damping
    return BlockDiagnostics(
        size,
        smallest,
        largest,
        (largest + damping) / below if below > 0 else math.inf,
        float(np.sum((eigenvalues.astype(np.float64) / scale) ** 2)) if scale else 0.0,
        float(np.sum(some / (some + damping))),
    )


def _written(number: float) -> str:
    return f"{number:.4g}" if isinstance(number, float) else str(number)


def _aligned(row: list[str], widths: list[int]) -> Iterator[str]:
    yield row[0].ljust(widths[0])
    yield from (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
