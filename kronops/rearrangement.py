"""Matrices rearranged so that Kronecker products become products of vectors.

Van Loan and Pitsianis's rearrangement of a matrix with rows ``(i1, …, iN)`` and columns
``(j1, …, jN)`` is the tensor with the axes ``(i1, j1), …, (iN, jN)``: that of ``A1 ⊗ … ⊗ AN`` is
the outer product of the vectors ``vec A1, …, vec AN``. It has the same entries, and so the same
Frobenius norm.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.checks import epsilon
from kronops.columns import scaled_norm
from kronops.errors import LinAlgError, LinAlgWarning, warn
from kronops.kronecker_terms import Shapes, kronecker_terms
from kronops.operator import LinearOperator
from kronops.scalars import Scalar
from kronops.scaling import dtype_exponent, exponent, product_of_scalars, rescale, split

__all__ = ["Rearranged", "Shapes", "leading_part", "of_matrix", "of_terms", "progress"]

_PASSES = 200  # over all columns, at most
_SPARE = 4  # vectors beside those that are asked for, which make the passes fewer


class Rearranged(NamedTuple):
    """A tensor ``(basis1 ⊗ … ⊗ basisN) core``; each basis orthonormal, or None, the identity."""

    core: Array
    bases: list[Array | None]


def of_matrix(op: LinearOperator, matrix: Array, shapes: Shapes) -> Rearranged:
    """The rearrangement of a matrix: its own entries in another order."""
    xp, count = op.backend.xp, len(shapes)
    split = xp.reshape(matrix, (*(m for m, _ in shapes), *(n for _, n in shapes)))
    order = tuple(axis for i in range(count) for axis in (i, count + i))
    tensor = xp.permute_dims(split, order)
    return Rearranged(xp.reshape(tensor, tuple(m * n for m, n in shapes)), [None] * count)


def of_terms(op: LinearOperator, shapes: Shapes) -> Rearranged | None:
    """That of a sum of Kronecker products of factors of these shapes, a small core; else None.

    The vectors of the factors are orthonormalised; no entry of the matrix is formed.
    """
    found = kronecker_terms(op, shapes)
    if found is None:
        return None
    xp = op.backend.xp
    terms = [_of_size_one(scale, [f._to_dense() for f in factors]) for scale, factors in found]
    core, bases = None, []
    for i in range(len(shapes)):
        vectors = [xp.reshape(factors[i], (-1,)) for _, factors in terms]
        basis, coefficients = op.backend.qr(xp.stack(op.backend.promote(*vectors), axis=1))
        bases.append(basis)
        core = coefficients if core is None else core[..., None, :] * coefficients
    scales = [rescale(xp.ones((1,), dtype=op.dtype, device=op.device), [c]) for c, _ in terms]
    return Rearranged(xp.sum(core * xp.concat(scales), axis=-1), bases)


def _of_size_one(scale: Scalar, factors: list[Array]) -> tuple[Scalar, list[Array]]:
    """The same term of factors whose entries are near one; powers of two go to the scale."""
    if is_array(scale):
        return scale, factors
    powers = [exponent(factor) for factor in factors]
    limit = dtype_exponent(factors[0])
    made = [
        rescale(factor, split(1.0, -power, limit))
        for factor, power in zip(factors, powers, strict=True)
    ]
    mantissa, power = product_of_scalars([scale, *split(1.0, sum(powers), 1000)])
    return mantissa * 2.0**power, made


# -- by products alone -------------------------------------------------------------------------


def leading_part(op: LinearOperator, shapes: Shapes, terms: int) -> Rearranged:
    """The best approximation of rank ``terms``, of two factors, by products with ``op`` alone.

    Subspace iteration with the rearranged matrix: a pass takes the products with all columns of
    the identity, some at a time. It ends where a pass adds nothing but rounding.
    """
    xp, backend = op.backend.xp, op.backend
    (m1, n1), (m2, n2) = shapes
    width = min(terms + _SPARE, m1 * n1, m2 * n2)
    drawn, _ = backend.normal(
        np.random.default_rng(0), (m2 * n2, width), backend.real_dtype(op.dtype), op.device
    )
    right, _ = backend.qr(xp.astype(drawn, op.dtype))
    captured = 0.0
    for _ in range(_PASSES):
        kept = right
        left, back = _both_products(op, shapes, kept)
        basis, core = backend.qr(left)
        found = scaled_norm(xp, xp.linalg.svdvals(core)[: min(terms, width)])
        before, captured = captured, progress(op, found)
        if captured <= before * (1 + 2 * epsilon(right)):
            break
        right, _ = backend.qr(back)
    else:
        warn(
            f"nearest_kronecker has not converged after {_PASSES} passes: other products may be "
            f"nearer by a little; the error is that of the one given",
            LinAlgWarning,
        )
    return Rearranged(core, [basis, backend.conj(kept)])


def _both_products(op: LinearOperator, shapes: Shapes, right: Array) -> tuple[Array, Array]:
    """``R X`` and ``Rᴴ R X`` of the rearranged matrix ``R``, in one pass over the columns."""
    xp, backend = op.backend.xp, op.backend
    (m1, n1), (m2, n2) = shapes
    pieces, back = [], xp.zeros_like(right)
    for column in range(n1):
        ones = xp.eye(n1 * n2, n2, k=-column * n2, dtype=op.dtype, device=op.device)
        rows = xp.reshape(op._matmat(ones), (m1, m2 * n2))  # those of R for this column of A1
        piece = xp.matmul(rows, right)
        back = back + xp.matmul(backend.adjoint(rows), piece)
        pieces.append(piece)
    left = xp.stack(pieces, axis=1)  # rows (i1, j1)
    return xp.reshape(left, (m1 * n1, right.shape[1])), back


def progress(op: LinearOperator, number: Array) -> float:
    """An array without axes that says how far an iteration has come, as a number."""
    seen = op.backend.values(number)
    if seen is None:
        raise TypeError(
            "nearest_kronecker looks at its progress to know when to stop, and it cannot be seen "
            "here (inside jax.jit, say): call it outside, or give a matrix and two shapes"
        )
    if not math.isfinite(float(seen)):
        raise LinAlgError("nearest_kronecker breaks down: products with the operator overflow")
    return float(seen)
