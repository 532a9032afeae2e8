"""Eigenvalues and eigenvectors of Hermitian operators, in more digits than a dtype has."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from kronops.extended.expansions import Expansion, Precision, multiply, total
from kronops.extended.maps import EntriesMap, KroneckerMap, LinearMap, MatrixMap
from kronops.extended.matrices import eigenvectors
from kronops.extended.products import number, plus
from kronops.extended.writing import written
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.scaled import ScaledOperator

__all__ = ["Spectrum", "spectrum"]


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """``Q diag(values) Qᴴ``, up to ``error`` relative to the largest of the values ``(n,)``."""

    basis: LinearMap
    adjoint: LinearMap
    values: Expansion
    error: float


@functools.singledispatch
def spectrum(op: LinearOperator, precision: Precision) -> Spectrum:
    """Of an operator that is Hermitian up to rounding."""
    return _of_matrix(written(op, precision), precision)


def _of_matrix(matrix: Expansion, precision: Precision) -> Spectrum:
    values, vectors, error = eigenvectors(matrix, precision)
    basis, adjoint = (MatrixMap.of(part, precision) for part in (vectors, vectors.adjoint))
    return Spectrum(basis, adjoint, values, error)


@spectrum.register
def _(op: DenseOperator, precision: Precision) -> Spectrum:
    return _of_matrix(precision.of(op._entries), precision)


@spectrum.register(DiagonalOperator)
@spectrum.register(IdentityOperator)
def _(op: LinearOperator, precision: Precision) -> Spectrum:
    same = EntriesMap(lambda part: part)
    values = precision.of(op._diagonal())
    return Spectrum(same, same, values.map(op.backend.xp.real) if op._complex else values, 0.0)


@spectrum.register
def _(op: ScaledOperator, precision: Precision) -> Spectrum:
    base = spectrum(op.base, precision)
    values = multiply(base.values, number(op.scalar, op, precision), precision.terms)
    return dataclasses.replace(base, values=values)


@spectrum.register
def _(op: KroneckerOperator, precision: Precision) -> Spectrum:
    made = _of_factors(op, precision, lambda a, b: multiply(a, b, precision.terms))
    values = multiply(made.values, number(op.scale, op, precision), precision.terms)
    return dataclasses.replace(made, values=values)


@spectrum.register
def _(op: KroneckerSumOperator, precision: Precision) -> Spectrum:
    made = _of_factors(op, precision, lambda a, b: total([a, b], precision.terms))
    shift = plus(None, op.shift, op, precision)
    if shift is None:
        return made
    return dataclasses.replace(made, values=total([made.values, shift], precision.terms))


def _of_factors(
    op: KroneckerOperator | KroneckerSumOperator,
    precision: Precision,
    combined: Callable[[Expansion, Expansion], Expansion],
) -> Spectrum:
    """Bases side by side, and every choice of an eigenvalue of each factor, combined."""
    parts = [spectrum(factor, precision) for factor in op.factors]
    sizes = tuple(factor.shape for factor in op.factors)
    basis, adjoint = (
        KroneckerMap(tuple(maps), sizes)
        for maps in zip(*((part.basis, part.adjoint) for part in parts), strict=True)
    )
    values = parts[0].values
    for part in parts[1:]:
        grid = combined(
            values.map(lambda numbers: numbers[:, None]),
            part.values.map(lambda numbers: numbers[None, :]),
        )
        values = grid.map(lambda numbers: op.backend.xp.reshape(numbers, (-1,)))
    return Spectrum(basis, adjoint, values, sum(part.error for part in parts))
