"""`nearest_kronecker`: the Kronecker products that are closest to a matrix or an operator."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

from kronops.backends.standard import Array
from kronops.checks import epsilon, is_complex
from kronops.columns import scaled_norm
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.rearrangement import (
    Rearranged,
    Shapes,
    leading_part,
    of_matrix,
    of_terms,
    progress,
)
from kronops.scaling import dtype_exponent, split

__all__ = ["NearestKroneckerResult", "nearest_kronecker"]

_SWEEPS = 500  # over the factors, at most


class NearestKroneckerResult(NamedTuple):
    """The operator found, and its distance in the Frobenius norm, an array without axes."""

    operator: LinearOperator
    error: Array


def nearest_kronecker(
    matrix_or_operator: Any, shapes: Iterable[tuple[int, int]], terms: int = 1
) -> NearestKroneckerResult:
    """The Kronecker product nearest to a matrix, or the sum of ``terms`` of them.

    Nearest in the Frobenius norm: a Kronecker product, rearranged, is of rank one [1]_.

    Parameters
    ----------
    matrix_or_operator : array (m, n), or LinearOperator
    shapes : sequence of pairs of int
        ``(mᵢ, nᵢ)`` of two or more factors, with ``Π mᵢ = m`` and ``Π nᵢ = n``.
    terms : int
        How many products.

    Returns
    -------
    operator : LinearOperator
        A `KroneckerOperator`, or a sum of such.
    error : array without axes
        ``‖matrix - operator‖``, computed and not estimated.

    Raises
    ------
    ValueError
        Shapes that do not fit; fewer than two; ``terms < 1``; a matrix that is not finite.
    TypeError
        Values that cannot be seen, under ``jax.jit``, where an iteration looks at them.

    Warns
    -----
    LinAlgWarning
        The iteration for an operator has not converged.

    Notes
    -----
    *Two factors*: a global optimum, from a singular value decomposition of the rearranged matrix.
    *More*: for each term a local optimum, which depends on the start: alternating least squares
    from the leading singular vector of every unfolding [2]_; several terms are found one after
    another, each for what the others have left, and are not optimised together.

    Hermitian matrices have Hermitian factors, where singular values are apart, and positive
    definite ones a positive definite product as their first term.

    Sums of Kronecker products of these very shapes (and damped ones) are not written out: the
    cost is that of factors of ``r`` terms, ``O(r² Σ mᵢ nᵢ)``. Any other operator is approximated by
    products alone for two factors, some tens of times ``n`` of them, and written out for more.

    References
    ----------
    .. [1] Van Loan and Pitsianis, Approximation with Kronecker products, in Linear Algebra for
       Large Scale and Real-Time Applications, 1993.
    .. [2] De Lathauwer, De Moor and Vandewalle, On the best rank-1 and rank-(R1, …, RN)
       approximation of higher-order tensors, SIAM J. Matrix Anal. Appl. 21, 2000.
       https://doi.org/10.1137/S0895479898346995

    Examples
    --------
    >>> import numpy as np, kronops
    >>> a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.5], [0.5, 3.0]])
    >>> op, error = kronops.nearest_kronecker(np.kron(a, b) + 0.1 * np.eye(4), [(2, 2), (2, 2)])
    >>> [factor.shape for factor in op.factors], round(float(error), 4)
    ([(2, 2), (2, 2)], 0.043)
    >>> bool(op.cholesky().diagonal().min() > 0)
    True
    """
    given = matrix_or_operator
    op = given if isinstance(given, LinearOperator) else DenseOperator(given)
    shapes, terms = _as_shapes(shapes, op), _as_terms(terms)
    power = op._exponent()
    if abs(power) <= dtype_exponent(op._like) // 4:
        return _found(op, shapes, terms)
    # Else squares would leave the range. One power of two alone may be out of it, too.
    down, up = (split(1.0, sign * power, 1000) for sign in (-1, 1))
    found, error = _found(functools.reduce(operator.mul, down, op), shapes, terms)
    return NearestKroneckerResult(
        functools.reduce(operator.mul, up, found), functools.reduce(operator.mul, up, error)
    )


def _found(op: LinearOperator, shapes: Shapes, terms: int) -> NearestKroneckerResult:
    """From terms of these shapes, from the matrix, or from products alone."""
    exact = of_terms(op, shapes)
    if exact is not None:
        return _nearest(op, exact, shapes, terms)
    if isinstance(op, DenseOperator) or len(shapes) > 2:
        matrix = op.to_dense() if len(shapes) > 2 else op._to_dense()
        return _nearest(op, of_matrix(op, matrix, shapes), shapes, terms)
    found, _ = _nearest(op, leading_part(op, shapes, terms), shapes, terms)
    return NearestKroneckerResult(found, (op - found).norm())


def _nearest(
    op: LinearOperator, tensor: Rearranged, shapes: Shapes, terms: int
) -> NearestKroneckerResult:
    """Terms of rank one of the core, brought back to the shapes of factors."""
    split = _two_factors if len(shapes) == 2 else _one_by_one
    vectors, error = split(op, tensor.core, terms)
    made = [_as_product(op, term, tensor.bases, shapes) for term in vectors]
    return NearestKroneckerResult(functools.reduce(operator.add, made), error)


# -- terms of rank one of a tensor -----------------------------------------------------------------


def _two_factors(
    op: LinearOperator, core: Array, terms: int
) -> tuple[list[tuple[Array, ...]], Array]:
    """The leading singular triplets, and the norm of the others."""
    xp = op.backend.xp
    left, values, right = xp.linalg.svd(op.backend.wide(core), full_matrices=False)
    left, values, right = (_rounded(op, part) for part in (left, values, right))
    terms = min(terms, values.shape[0])
    roots = xp.sqrt(values)
    vectors = [(left[:, k] * roots[k], right[k, :] * roots[k]) for k in range(terms)]
    return vectors, scaled_norm(xp, values[terms:])


def _one_by_one(
    op: LinearOperator, core: Array, terms: int
) -> tuple[list[tuple[Array, ...]], Array]:
    """Local optima of rank one, each of what those before have left."""
    vectors = []
    for _ in range(terms):
        term = _rank_one(op, core)
        vectors.append(term)
        core = core - functools.reduce(lambda left, right: left[..., None] * right, term)
    return vectors, scaled_norm(op.backend.xp, core)


def _rank_one(op: LinearOperator, core: Array) -> tuple[Array, ...]:
    """By alternating least squares, whose objective never falls."""
    xp = op.backend.xp
    units = [_leading_vector(op, core, axis) for axis in range(core.ndim)]
    reached = 0.0
    for _ in range(_SWEEPS):
        for axis in range(core.ndim):
            vector = _contracted(op, core, units, axis)
            size = scaled_norm(xp, vector)
            units[axis] = vector / xp.where(size == 0, xp.ones_like(size), size)
        before, reached = reached, progress(op, size)
        if reached <= before * (1 + epsilon(core)):
            break
    share = size ** (1 / core.ndim)
    return tuple(unit * share for unit in units)


def _leading_vector(op: LinearOperator, core: Array, axis: int) -> Array:
    """Of the unfolding along ``axis``."""
    unfolded = op.backend.xp.moveaxis(core, (axis,), (0,))
    matrix = op.backend.xp.reshape(unfolded, (core.shape[axis], -1))
    left, _, _ = op.backend.xp.linalg.svd(op.backend.wide(matrix), full_matrices=False)
    return _rounded(op, left[:, 0])


def _contracted(op: LinearOperator, core: Array, units: list[Array], axis: int) -> Array:
    """``core`` times the conjugates of all vectors but that of ``axis``."""
    xp = op.backend.xp
    for other in reversed(range(len(units))):
        if other != axis:
            unit = op.backend.conj(units[other])
            core = xp.tensordot(core, unit, axes=((other,), (0,)))
    return core


# -- factors ---------------------------------------------------------------------------------------


def _as_product(
    op: LinearOperator, vectors: tuple[Array, ...], bases: list[Array | None], shapes: Shapes
) -> KroneckerOperator:
    xp = op.backend.xp
    parts = zip(vectors, bases, shapes, strict=True)
    matrices = [
        xp.reshape(vector if basis is None else xp.matmul(basis, vector), shape)
        for vector, basis, shape in parts
    ]
    if all(m == n for m, n in shapes):
        phases = [_phase(op, matrix) for matrix in matrices]
        matrices = [matrix / phase for matrix, phase in zip(matrices, phases, strict=True)]
        matrices[0] = matrices[0] * math.prod(phases[1:], start=phases[0])
        if op.hermitian:
            matrices = [_symmetrised(op, matrix) for matrix in matrices]
    return KroneckerOperator(matrices, check_finite=False)


def _phase(op: LinearOperator, matrix: Array) -> Array:
    """The number of magnitude one which divides a multiple of a Hermitian matrix out to one.

    Of the two such, that which leaves the trace positive: definite factors become positive.
    """
    xp = op.backend.xp
    phase = xp.ones((), dtype=matrix.dtype, device=op.device)
    if is_complex(matrix):
        square = xp.sum(matrix * xp.matrix_transpose(matrix))
        phase = xp.sqrt(_sign(xp, square))
    trace = xp.linalg.trace(matrix / phase)
    negative = (xp.real(trace) if is_complex(trace) else trace) < 0
    return xp.where(negative, -phase, phase)


def _sign(xp: Any, number: Array) -> Array:
    """The phase; one of zero."""
    size = xp.abs(number)
    return xp.where(size == 0, xp.ones_like(number), number / xp.where(size == 0, 1.0, size))


def _symmetrised(op: LinearOperator, matrix: Array) -> Array:
    """The Hermitian part, where it is all there is but for rounding.

    Where singular values are equal, Hermitian and skew factors may come mixed.
    """
    xp = op.backend.xp
    adjoint = op.backend.adjoint(matrix)
    rest = scaled_norm(xp, matrix - adjoint)
    near = rest <= epsilon(matrix) ** 0.5 * scaled_norm(xp, matrix)
    return xp.where(near, 0.5 * matrix + 0.5 * adjoint, matrix)


# -- inside ----------------------------------------------------------------------------------------


def _rounded(op: LinearOperator, array: Array) -> Array:
    """Half precision is decomposed in single."""
    dtype = op.dtype if is_complex(array) else op.backend.real_dtype(op.dtype)
    return op.backend.xp.astype(array, dtype, copy=False)


def _as_terms(terms: Any) -> int:
    try:
        number = operator.index(terms)
    except TypeError:
        raise TypeError(f"terms = {terms!r}: an integer ≥ 1 would do") from None
    if number < 1:
        raise ValueError(f"terms = {number}: an integer ≥ 1 would do")
    return number


def _as_shapes(shapes: Any, op: LinearOperator) -> Shapes:
    try:
        pairs = tuple((operator.index(m), operator.index(n)) for m, n in shapes)
    except (TypeError, ValueError):
        raise TypeError(
            f"shapes = {shapes!r}: pairs (rows, columns) of integers are needed"
        ) from None
    if len(pairs) < 2:
        raise ValueError(f"shapes = {shapes!r}: those of two factors or more are needed")
    rows, columns = (math.prod(pair[i] for pair in pairs) for i in (0, 1))
    if (rows, columns) != op.shape or min(map(min, pairs)) < 1:
        raise ValueError(
            f"shapes = {shapes!r} are factors of a matrix of shape {(rows, columns)}, the one "
            f"given is {op.shape}: sizes ≥ 1 whose products are these would do"
        )
    return pairs
