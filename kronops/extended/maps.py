"""Linear maps of expansions: the structures of operators, in more digits than a dtype has."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kronops.backends.standard import Array
from kronops.extended.expansions import (
    Expansion,
    Precision,
    distilled,
    multiply,
    slices,
    total,
)
from kronops.factorisation import power_of_two

__all__ = [
    "BlockMap",
    "DiagonalMap",
    "EntriesMap",
    "KroneckerMap",
    "LinearMap",
    "MatrixMap",
    "ProductMap",
    "SumMap",
    "joined",
    "matmul",
    "units",
]


class LinearMap(Protocol):
    """From expansions of shape ``(n, k)`` to expansions of shape ``(m, k)``."""

    def __call__(self, x: Expansion, /) -> Expansion:
        """The product."""


@dataclasses.dataclass(frozen=True)
class MatrixMap:
    """A matrix, whose products are exact but for the digits that are left out at the end.

    Rows and columns of both matrices are brought near one by powers of two, and both are cut into
    slices of so few ``bits`` that products of slices are exact in any order of summation. Those of
    one size are added up within one product of matrices.
    """

    sliced: Array  # (m, count·n)
    rows: Array
    columns: Array
    bits: int
    levels: int
    exponent: int
    precision: Precision

    @classmethod
    def of(cls, matrix: Expansion, precision: Precision) -> MatrixMap:
        """Of the matrix, sliced once for all products."""
        xp, n = matrix.xp, max(matrix.shape[1], 1)
        digits = round(-math.log2(precision.eps)) + 1
        terms = 2 * n * precision.terms * digits  # an upper bound of how many are added up
        bits = (digits - 2 - math.ceil(math.log2(terms))) // 2
        levels = math.ceil((digits * precision.terms + 4) / bits) + 1
        magnitude = xp.abs(matrix.leading)
        rows = units(xp, magnitude, 1)
        columns = units(xp, magnitude * rows[:, None], 0)
        scaled = matrix.map(lambda part: part * rows[:, None] * columns)
        pieces = slices(scaled, bits, levels)
        return cls(
            xp.concat(pieces, axis=1), rows, columns, bits, levels, matrix.exponent, precision
        )

    def __call__(self, x: Expansion) -> Expansion:
        xp, n = x.xp, self.columns.shape[0]
        x = x.map(lambda part: part / self.columns[:, None])
        scale = units(xp, xp.abs(x.leading), 0)
        pieces = slices(x.map(lambda part: part * scale), self.bits, self.levels)
        pieces += [xp.zeros_like(pieces[0])] * (self.levels - len(pieces))
        stacked = xp.concat(pieces[::-1], axis=0)  # the smallest first
        count = self.sliced.shape[1] // max(n, 1)
        made = []
        for level in range(1, self.levels + 1):
            width, start = min(level, count) * n, (self.levels - level) * n
            left, right = self.sliced[:, :width], stacked[start : start + width, :]
            made.append(xp.matmul(*x.backend.promote(left, right)))
        product = Expansion(distilled(made, self.precision.terms), x.exponent + self.exponent)
        return product.map(lambda part: part / self.rows[:, None] / scale).normalised()


@dataclasses.dataclass(frozen=True)
class DiagonalMap:
    """Numbers of shape ``(n,)`` to multiply by."""

    diagonal: Expansion
    precision: Precision

    def __call__(self, x: Expansion) -> Expansion:
        numbers = self.diagonal.map(lambda part: part[:, None])
        return multiply(numbers, x, self.precision.terms).normalised()


@dataclasses.dataclass(frozen=True)
class EntriesMap:
    """A map that moves entries and rounds none, by a function of arrays."""

    function: Callable[[Array], Array]

    def __call__(self, x: Expansion) -> Expansion:
        return x.map(self.function)


@dataclasses.dataclass(frozen=True)
class KroneckerMap:
    """``A1 ⊗ … ⊗ AN`` of maps and their sizes ``(mᵢ, nᵢ)``."""

    factors: tuple[LinearMap, ...]
    sizes: tuple[tuple[int, int], ...]

    def __call__(self, x: Expansion) -> Expansion:
        k = x.shape[1]
        left, right = 1, x.shape[0] * k
        for factor, (m, n) in zip(self.factors, self.sizes, strict=True):
            right //= n
            made = factor(_moved(x, (left, n, right), 1, 0, (n, left * right)))
            x = _moved(made, (m, left, right), 0, 1, (left * m, right))
            left *= m
        return x.map(lambda part: x.xp.reshape(part, (left, k)))


def _moved(
    x: Expansion, view: tuple[int, ...], source: int, target: int, shape: tuple[int, ...]
) -> Expansion:
    """Entries seen as ``view``, with one axis moved, in another shape."""
    xp = x.xp
    return x.map(
        lambda part: xp.reshape(xp.moveaxis(xp.reshape(part, view), (source,), (target,)), shape)
    )


@dataclasses.dataclass(frozen=True)
class SumMap:
    """``A + B + …``."""

    terms: tuple[LinearMap, ...]
    precision: Precision

    def __call__(self, x: Expansion) -> Expansion:
        made = total([term(x) for term in self.terms], self.precision.terms)
        return made.normalised()


@dataclasses.dataclass(frozen=True)
class ProductMap:
    """``A B …``."""

    factors: tuple[LinearMap, ...]

    def __call__(self, x: Expansion) -> Expansion:
        for factor in reversed(self.factors):
            x = factor(x)
        return x


@dataclasses.dataclass(frozen=True)
class BlockMap:
    """``blockdiag(A, B, …)`` of maps and their numbers of columns."""

    blocks: tuple[LinearMap, ...]
    sizes: tuple[int, ...]
    precision: Precision

    def __call__(self, x: Expansion) -> Expansion:
        made, start = [], 0
        for block, size in zip(self.blocks, self.sizes, strict=True):
            rows = slice(start, start + size)
            made.append(block(x.cut((rows, slice(None)))))
            start += size
        return joined(made, 0, self.precision)


def joined(pieces: Sequence[Expansion], axis: int, precision: Precision) -> Expansion:
    """One array after the other along an axis."""
    top = max(piece.exponent for piece in pieces)
    levels = zip(*(piece.at(top).padded(precision.terms) for piece in pieces), strict=True)
    backend = pieces[0].backend
    parts = [backend.xp.concat(backend.promote(*level), axis=axis) for level in levels]
    return Expansion(tuple(parts), top)


def matmul(left: Expansion, right: Expansion, precision: Precision) -> Expansion:
    """The product of two matrices."""
    return MatrixMap.of(left, precision)(right)


def units(xp: Any, magnitude: Array, axis: int) -> Array:
    """Powers of two that bring the largest of each row or column below one, and near it."""
    return 0.5 * power_of_two(xp, xp.max(magnitude, axis=axis))
