"""What the spectra of curvature blocks say of them, as numbers and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from kronops import BlockDiagonalOperator, KroneckerOperator
from kronops.backends import backend_of
from kronops.operators.grouped import GroupedOperator

__all__ = ["BlockDiagnostics", "Diagnostics", "Spectrum", "diagnose", "spectrum_of"]

HostArray = np.ndarray[Any, np.dtype[np.float64]]


class Spectrum(NamedTuple):
    """All eigenvalues, ``values · 2**exponent`` with values around one, in NumPy.

    So products of eigenvalues of factors neither underflow nor overflow, whatever their dtype.
    """

    values: HostArray
    exponent: int
    epsilon: float

    @staticmethod
    def of(eigenvalues: Any, epsilon: float, exponent: int = 0) -> Spectrum:
        """Of an array of floats, times ``2**exponent``."""
        values = np.asarray(eigenvalues).reshape(-1).astype(np.float64)
        power = int(np.frexp(np.max(np.abs(values)))[1])
        return Spectrum(np.ldexp(values, -power), power + exponent, epsilon)


def spectrum_of(operator: Any) -> Spectrum:
    """The eigenvalues of a symmetric operator, from those of its parts.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> tiny = np.float32(1e-30) * np.eye(1, dtype=np.float32)
    >>> spectrum = spectrum_of(kronops.kron(tiny, tiny))  # 1e-60, which float32 does not hold
    >>> float(np.ldexp(spectrum.values, spectrum.exponent)[0])
    1e-60
    """
    if isinstance(operator, GroupedOperator):
        return spectrum_of(operator.core)
    if isinstance(operator, BlockDiagonalOperator):
        parts = [spectrum_of(block) for block in operator.operators]
        top = max((part.exponent for part in parts if part.values.any()), default=0)
        values = [np.ldexp(part.values, part.exponent - top) for part in parts]
        return Spectrum.of(np.concatenate(values), parts[0].epsilon, top)
    if isinstance(operator, KroneckerOperator):
        parts = [spectrum_of(factor) for factor in operator.factors]
        products: Any = reduce(np.multiply.outer, (part.values for part in parts))
        exponents = sum(part.exponent for part in parts)
        return Spectrum.of(operator.scale * products, parts[0].epsilon, exponents)
    eigenvalues = operator.eigh().eigenvalues
    host = backend_of(eigenvalues).to_numpy(eigenvalues)
    return Spectrum.of(host, float(np.finfo(host.dtype).eps))


class BlockDiagnostics(NamedTuple):
    """Numbers about one block ``F`` with eigenvalues ``μ_i``; NaN where structure tells none.

    Attributes
    ----------
    size : int
        The number of parameters.
    smallest, largest : float
        The extreme eigenvalues of ``F``, undamped; infinite where they are too large for a float.
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
    >>> spectrum = Spectrum.of([1.0, 3.0], epsilon=2.0**-52)
    >>> Diagnostics({"readout": diagnose(2, spectrum, damping=1.0)})
    layer    size  smallest  largest  condition  stable rank  effective dimension
    readout     2         1        3          2        1.111                 1.25
    """

    def __repr__(self) -> str:
        heads = ["layer", *(field.replace("_", " ") for field in BlockDiagnostics._fields)]
        rows = [heads, *([name, *map(_written, block)] for name, block in self.items())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(_aligned(row, widths)) for row in rows)


def diagnose(size: int, spectrum: Spectrum | None, damping: float) -> BlockDiagnostics:
    """The numbers, from the spectrum of the undamped block; None: nobody knows it."""
    if spectrum is None:
        return BlockDiagnostics(size, *[math.nan] * 5)
    values, exponent, epsilon = spectrum
    scale = float(np.max(np.abs(values)))
    with np.errstate(over="ignore", under="ignore"):
        smallest, largest = map(float, np.ldexp([values.min(), values.max()], exponent))
    # Relative to the larger of the block and the damping, so that their sum is a float.
    top = max(exponent, math.frexp(damping)[1]) if damping else exponent
    mu, damped = np.ldexp(values, exponent - top), math.ldexp(damping, -top)
    below = float(mu.min()) + damped
    some = mu[values > len(values) * epsilon * scale]
    return BlockDiagnostics(
        size,
        smallest,
        largest,
        (float(mu.max()) + damped) / below if below > 0 else math.inf,
        float(np.sum((values / scale) ** 2)) if scale else 0.0,
        float(np.sum(some / (some + damped))),
    )


def _written(number: float) -> str:
    return f"{number:.4g}" if isinstance(number, float) else str(number)


def _aligned(row: list[str], widths: list[int]) -> Iterator[str]:
    yield row[0].ljust(widths[0])
    yield from (text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
