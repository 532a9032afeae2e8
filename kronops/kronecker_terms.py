"""Operators as sums of Kronecker products of factors of given shapes, where they are that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from kronops.checks import epsilon
from kronops.operator import LinearOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.scaled import ScaledOperator, identity_multiple
from kronops.operators.sum import SumOperator
from kronops.scalars import Scalar
from kronops.scaling import outer

__all__ = ["KroneckerTerm", "Shapes", "factor_shapes", "first_product", "kronecker_terms"]

Shapes = tuple[tuple[int, int], ...]


class KroneckerTerm(NamedTuple):
    """``scale · A1 ⊗ … ⊗ AN``."""

    scale: Scalar
    factors: tuple[LinearOperator, ...]


def first_product(op: Any) -> KroneckerOperator | KroneckerSumOperator | None:
    """The first Kronecker product or sum that ``op`` is a sum with, or None."""
    if isinstance(op, ScaledOperator):
        return first_product(op.base)
    if isinstance(op, SumOperator):
        return next((found for found in map(first_product, op.terms) if found is not None), None)
    if isinstance(op, (KroneckerEigenOperator, KroneckerSchurOperator)):
        return first_product(op.base)
    return op if isinstance(op, (KroneckerOperator, KroneckerSumOperator)) else None


def factor_shapes(op: LinearOperator) -> Shapes | None:
    """The shapes of the factors of the first Kronecker product or sum in ``op``, or None."""
    first = first_product(op)
    return None if first is None else tuple(factor.shape for factor in first.factors)


def kronecker_terms(op: LinearOperator, shapes: Shapes) -> list[KroneckerTerm] | None:
    """Terms that add up to ``op``, of factors of these shapes; None if it is no such sum."""
    if isinstance(op, ScaledOperator):
        inner = kronecker_terms(op.base, shapes)
        return inner and [KroneckerTerm(op.scalar * scale, factors) for scale, factors in inner]
    if isinstance(op, (SumOperator, KroneckerSumOperator)):
        parts = [kronecker_terms(term, shapes) for term in op.terms]
        return None if None in parts else [term for part in parts for term in part or []]
    if isinstance(op, (KroneckerEigenOperator, KroneckerSchurOperator)):
        if op.base is None or getattr(op, "inverted", False):
            return None
        inner = kronecker_terms(op.base, shapes)
        return inner and [*inner, KroneckerTerm(op.shift, _identities(op, shapes))]
    if isinstance(op, KroneckerOperator):
        alike = tuple(factor.shape for factor in op.factors) == shapes
        return [KroneckerTerm(op.scale, op.factors)] if alike else None
    if any(m != n for m, n in shapes):
        return None
    if identity_multiple(op) is not None:
        return [KroneckerTerm(1.0, _identities(op, shapes))]
    if isinstance(op, DiagonalOperator):
        diagonals = separated(op, shapes)
        return None if diagonals is None else [KroneckerTerm(1.0, diagonals)]
    return None


def _identities(op: LinearOperator, shapes: Shapes) -> tuple[LinearOperator, ...]:
    return tuple(IdentityOperator(n, like=op._like) for _, n in shapes)


def separated(op: DiagonalOperator, shapes: Shapes) -> tuple[DiagonalOperator, ...] | None:
    """Diagonals whose Kronecker product is ``op`` to rounding of each entry, where that is seen.

    They are the lines through the largest entry, one along each axis.
    """
    xp, seen = op.backend.xp, op.backend.values(op._flat)
    if seen is None or op._tracked or not op.shape[0]:
        return None
    sizes = tuple(n for _, n in shapes)
    peak = int(xp.argmax(xp.abs(seen)))
    largest, place = seen[peak], [int(i) for i in np.unravel_index(peak, sizes)]
    tensor = xp.reshape(seen, sizes)
    lines = [tensor[(*place[:axis], slice(None), *place[axis + 1 :])] for axis in range(len(sizes))]
    lines[1:] = [line / xp.where(largest == 0, 1.0, largest) for line in lines[1:]]
    allowed = 4 * len(sizes) * epsilon(seen) * xp.abs(seen)
    if bool(xp.any(xp.abs(outer(lines) - seen) > allowed)):
        return None
    return tuple(DiagonalOperator(line, check_finite=False) for line in lines)
