"""Singular vectors of Kronecker products of wide and tall factors, those of zero among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kronops.backends.standard import Array
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.selection import SelectionOperator

__all__ = ["with_zeros"]


def with_zeros(
    triplets: tuple[KroneckerOperator, Array, KroneckerOperator],
) -> tuple[LinearOperator, Array, LinearOperator]:
    """``U``, ``S``, ``V`` with ``min(m, n)`` values, of the products of the factors' vectors.

    A wide factor beside a tall one leaves fewer such products than the matrix has rows and columns:
    the rest of both bases belongs to singular values that are zero. It consists of products with
    the vectors that complete the factors' bases.
    """
    left, values, right = triplets
    count = min(left.shape[0], right.shape[0])
    zeros = left.backend.xp.zeros(
        (count - values.shape[0],), dtype=values.dtype, device=left.device
    )
    made = left.backend.xp.concat([values, zeros])
    return _completed(left, count), made, _completed(right, count)


def _completed(vectors: KroneckerOperator, count: int) -> LinearOperator:
    """``vectors``, orthonormal columns, and as many more as make ``count``."""
    basis = KroneckerOperator(
        [_with_complement(factor) for factor in vectors.factors], vectors.scale, check_finite=False
    )
    given = _positions([factor.shape for factor in vectors.factors])
    others = np.setdiff1d(np.arange(basis.shape[1]), given, assume_unique=True)
    kept = np.concat([given, others[: count - len(given)]])
    return basis @ SelectionOperator.of(kept, basis.shape[1], vectors._like).H


def _positions(shapes: Sequence[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """Where products of the first ``k`` columns are, among those of all ``m`` of each factor."""
    columns = np.indices([k for _, k in shapes]).reshape(len(shapes), -1)
    sizes = [m for m, _ in shapes]
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    return np.asarray(strides) @ columns


def _with_complement(factor: LinearOperator) -> LinearOperator:
    """Orthonormal columns and those that complete them, the range of ``I - Q Qᴴ``."""
    m, k = factor.shape
    if m == k:
        return factor
    backend, vectors = factor.backend, factor._to_dense()
    eye = backend.xp.eye(m, dtype=vectors.dtype, device=factor.device)
    projector = eye - backend.xp.matmul(vectors, backend.adjoint(vectors))
    _, rest = backend.eigh(0.5 * projector + 0.5 * backend.adjoint(projector))
    square = backend.xp.concat([vectors, rest[:, k:]], axis=1)
    return DenseOperator(square, "general", check_finite=False)
