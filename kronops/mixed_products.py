"""Products of two Kronecker products, factor by factor, and where that is worth its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.planning import stretch
from kronops.scalars import Scalar
from kronops.scaling import comfortable, dtype_exponent, rescale, split

__all__ = ["mixed_product"]

Factors = tuple[LinearOperator, ...]


def mixed_product(left: KroneckerOperator, right: KroneckerOperator) -> KroneckerOperator | None:
    """``(A ⊗ B)(C ⊗ D) = A C ⊗ B D`` of runs of factors that fit; None where nothing is won."""
    runs = _matching_runs(left.factors, right.factors)
    if len(runs) == 1 and len(left.factors) + len(right.factors) > 2:
        return None  # all of one by all of the other, which is the product of both
    written_out = all(_is_written_out(*run) for run in runs)
    if not written_out and not (left._products.moderate and right._products.moderate):
        return None  # each keeps its factors in range by itself
    factors, scalars = [], [left.scale, right.scale]
    for run in runs:
        factor, powers = _mixed(*run)
        factors.append(factor)
        scalars.extend(powers)
    return left._with(factors, *scalars)


def _matching_runs(left: Factors, right: Factors) -> list[tuple[Factors, Factors]]:
    """Pairs of runs, as short as they can be, whose inner sizes have the same product.

    A factor of inner size one may stand beside no factor at all.
    """
    p = [factor.shape[1] for factor in left]
    q = [factor.shape[0] for factor in right]
    if 0 in p + q and p != q:
        return [(left, right)]
    runs = []
    i = j = 0
    while i < len(p) or j < len(q):
        a, b = i, j
        if p[a : a + 1] == q[b : b + 1]:
            i, j = a + 1, b + 1
        elif p[a : a + 1] == [1]:
            i = a + 1
        elif q[b : b + 1] == [1]:
            j = b + 1
        else:
            i, j = a + 1, b + 1
            while (gap := math.prod(p[a:i]) - math.prod(q[b:j])) != 0:
                i, j = (i + 1, j) if gap < 0 else (i, j + 1)
        runs.append((left[a:i], right[b:j]))
    return runs


def _mixed(left: Factors, right: Factors) -> tuple[LinearOperator, list[Scalar]]:
    """The product of two runs of factors, and scalars that belong to it."""
    if not (left and right):
        return (left or right)[0], []
    if not _is_written_out(left, right):
        return _run(left) @ _run(right), []
    members: tuple[Any, ...] = (*left, *right)
    limit = dtype_exponent(members[0]._like)
    powers = [factor._exponent() for factor in members]
    if comfortable(powers, limit):
        powers = [0] * len(powers)
    near_one = [
        factor.with_matrix(rescale(factor._entries, split(1.0, -power, limit)))
        for factor, power in zip(members, powers, strict=True)
    ]
    a, b = _run(near_one[: len(left)]), _run(near_one[len(left) :])
    matrix = a._matmat(b._entries) if len(right) == 1 else b.T._apply_last(a._entries)
    made = DenseOperator(matrix, name="a product of factors", check_finite=False)
    return made, split(1.0, sum(powers), limit)


def _is_written_out(left: Factors, right: Factors) -> bool:
    """Whether the product of two runs of matrices becomes a matrix, or is one factor anyway.

    It does if products with it cost no more than with both runs. One of these is a single matrix,
    so that nothing larger is made on the way.
    """
    if not (left and right):
        return True
    if min(len(left), len(right)) > 1:
        return False
    if not all(isinstance(factor, DenseOperator) for factor in (*left, *right)):
        return False
    rows = math.prod(factor.shape[0] for factor in left)
    columns = math.prod(factor.shape[1] for factor in right)
    return rows * columns <= _multiplications(left) + _multiplications(right)


def _multiplications(factors: Factors) -> int:
    """Of a product with one vector, by the factors that shrink it first."""
    size, total = math.prod(factor.shape[1] for factor in factors), 0
    for rows, columns in sorted((f.shape for f in factors), key=lambda shape: stretch(*shape)):
        total += size * rows
        size = size // max(columns, 1) * rows
    return total


def _run(factors: Sequence[LinearOperator]) -> Any:
    return factors[0] if len(factors) == 1 else KroneckerOperator(factors)
