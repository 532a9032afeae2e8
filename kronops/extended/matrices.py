"""Inverse, determinant and eigenvectors of one matrix, in more digits than a dtype has.

All of it is made of factorisations in the dtype itself, which have some digits right, and of
products of matrices that have more (`kronops.extended.maps`). Values are looked at.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.errors import LinAlgError
from kronops.extended.expansions import Expansion, Precision, multiply, total
from kronops.extended.maps import MatrixMap, joined, matmul, units
from kronops.factorisation import one_norm, power_of_two, singular

__all__ = [
    "LogOfProduct",
    "condition",
    "eigenvectors",
    "identity",
    "inverse",
    "log_of_product",
    "logdet",
    "norm",
]

_ROUNDS = 20  # at most; each adds half as many digits as the dtype has, or more
_NEAR = 0.1  # to the identity: Newton's iteration is sure to converge


def identity(matrix: Expansion) -> Expansion:
    """Of the matrix's size."""
    like, device = matrix.parts[0], matrix.backend.device(matrix.parts[0])
    return Expansion((matrix.xp.eye(matrix.shape[0], dtype=like.dtype, device=device),))


def norm(matrix: Expansion) -> float:
    """The 1-norm; infinite where no float holds it."""
    try:
        return math.ldexp(one_norm(matrix.leading), matrix.exponent)
    except OverflowError:
        return math.inf


def condition(matrix: Expansion, inverse: Expansion) -> float:
    """The condition number in the 1-norm; infinite where no float holds it."""
    sizes = one_norm(matrix.leading) * one_norm(inverse.leading)
    try:
        return math.ldexp(sizes, matrix.exponent + inverse.exponent)
    except OverflowError:
        return math.inf


def inverse(matrix: Expansion, precision: Precision, what: str) -> tuple[Expansion, float]:
    """The inverse ``R``, and the norm of ``I - R A`` that rounding leaves.

    ``R`` is multiplied by the inverse of what ``R A`` is, as long as that is far from the identity:
    each time ``1/eps`` of the condition number is taken away [1]_. Then follows Newton's iteration.
    Rows and columns are scaled by powers of two first.

    Raises
    ------
    LinAlgError
        Singular, or so nearly that ``precision`` does not tell.

    References
    ----------
    .. [1] Rump, Inversion of extremely ill-conditioned matrices in floating-point, Japan J. Indust.
       Appl. Math. 26, 2009. https://doi.org/10.1007/BF03186534
    """
    xp = matrix.xp
    magnitude = xp.abs(matrix.leading)
    rows = units(xp, magnitude, 1)
    columns = units(xp, magnitude * rows[:, None], 0)
    scaled = Expansion(tuple(part * rows[:, None] * columns for part in matrix.parts))
    found, error = _inverse_of_scaled(scaled, precision, what)
    spread = float(xp.max(columns)) / float(xp.min(columns))
    found = found.map(lambda part: part * columns[:, None] * rows).times_power(-matrix.exponent)
    return found.normalised(), error * spread


def _inverse_of_scaled(
    matrix: Expansion, precision: Precision, what: str
) -> tuple[Expansion, float]:
    one, of_matrix = identity(matrix), MatrixMap.of(matrix.adjoint, precision)
    found, best, least = one, one, math.inf
    for _ in range(_ROUNDS):
        image = of_matrix(found.adjoint).adjoint  # R A
        rest = total([one, -image], precision.terms)
        error = norm(rest)
        if least < _NEAR and not error < least / 10:
            break
        best, least = found, error
        if error <= precision.rounding:
            break
        if error < _NEAR:
            found = total([found, matmul(_short(rest), found, precision)], precision.terms)
        else:
            found = matmul(_rough_inverse(image, what), found, precision)
    if not least < _NEAR:
        raise LinAlgError(singular(what))
    return best, least


def _rough_inverse(matrix: Expansion, what: str) -> Expansion:
    """In the dtype; of a matrix near by, if it is exactly singular when it is rounded."""
    backend, xp, rough = matrix.backend, matrix.xp, matrix.leading
    n, one = rough.shape[0], identity(matrix).leading
    steps = xp.astype(
        xp.arange(n * n, device=backend.device(rough)), backend.real_dtype(rough.dtype)
    )
    for units_of_tilt in (0, 4, 32, 256, 2048):  # one may be singular again
        tilt = units_of_tilt * float(xp.finfo(rough.dtype).eps)
        tilted = rough * (1.0 + tilt * xp.reshape(xp.cos(steps), (n, n)))
        try:
            made = backend.lu_solve(backend.lu(tilted), one)
        except LinAlgError:
            continue
        if backend.all_finite(made):
            return Expansion((made,), -matrix.exponent).normalised()
    raise LinAlgError(singular(what))


def _short(numbers: Expansion) -> Expansion:
    """One term of it."""
    return Expansion((numbers.leading,), numbers.exponent).normalised()


def eigenvectors(matrix: Expansion, precision: Precision) -> tuple[Expansion, Expansion, float]:
    """Eigenvalues ``(n,)``, vectors ``X``, and what is left beside the diagonal of ``Xᴴ A X``.

    Vectors are made orthonormal by Newton's iteration, and turned by what is left: over the gap of
    two eigenvalues, where it is small beside that; inside clusters by their own eigenvectors [1]_.
    Each turn adds half the digits of the dtype, or more. The matrix is Hermitian.

    References
    ----------
    .. [1] Ogita and Aishima, Iterative refinement for symmetric eigenvalue decomposition II:
       clustered eigenvalues, Japan J. Indust. Appl. Math. 36, 2019.
       https://doi.org/10.1007/s13160-019-00348-4
    """
    matrix = matrix.normalised()
    xp, exponent, matrix = matrix.xp, matrix.exponent, Expansion(matrix.parts)
    of_matrix = MatrixMap.of(matrix, precision)
    apart, size = 1.0 - identity(matrix).leading, norm(matrix) or 1.0
    vectors = Expansion((matrix.backend.eigh(matrix.leading)[1],))
    best, least = (matrix, vectors), math.inf
    for _ in range(_ROUNDS):
        vectors = _orthonormal(vectors, precision)
        image = matmul(vectors.adjoint, of_matrix(vectors), precision)
        rest = Expansion((image.leading * apart,), image.exponent)
        error = norm(rest) / size
        if not error < least / 10:
            break
        best, least = (image, vectors), error
        if error <= precision.rounding:
            break
        vectors = _turned(vectors, image, rest, precision)
    image, vectors = best
    values = image.map(lambda part: xp.real(xp.linalg.diagonal(part)))
    return values.times_power(exponent), vectors, least


def _orthonormal(vectors: Expansion, precision: Precision) -> Expansion:
    """The nearest unitary matrix: ``X + X (I - Xᴴ X) / 2``, again and again."""
    one, least = identity(vectors), math.inf
    for _ in range(_ROUNDS):
        rest = total([one, -matmul(vectors.adjoint, vectors, precision)], precision.terms)
        error = norm(rest)
        if not error < least / 10 or error <= precision.rounding:
            break
        least = error
        half = _short(rest).times_power(-1)
        vectors = total([vectors, matmul(vectors, half, precision)], precision.terms)
    return vectors


def _turned(
    vectors: Expansion, image: Expansion, rest: Expansion, precision: Precision
) -> Expansion:
    """Vectors nearer to eigenvectors, of ``image = Xᴴ A X`` with the off-diagonal part ``rest``."""
    xp, backend = image.xp, image.backend
    values = image.map(lambda part: xp.real(xp.linalg.diagonal(part)))
    pairs = [values.map(lambda part: part[None, :]), -values.map(lambda part: part[:, None])]
    gaps = total(pairs, precision.terms).leading
    near = float(xp.max(xp.abs(rest.leading))) / precision.eps**0.5
    steps = backend.to_numpy(xp.linalg.diagonal(gaps, offset=1))
    edges = [0, *(i + 1 for i, step in enumerate(steps) if step > near), gaps.shape[0]]
    clusters = [slice(*edge) for edge in pairwise(edges)]
    same = _block_diagonal([xp.ones_like(gaps[here, here]) for here in clusters]) > 0
    turn = xp.where(same, xp.zeros_like(rest.leading), rest.leading / xp.where(same, 1.0, gaps))
    moved = total([vectors, matmul(vectors, Expansion((turn,)), precision)], precision.terms)
    if len(clusters) == gaps.shape[0]:
        return moved
    inside = _block_diagonal([_eigenvectors_of_block(image, here, precision) for here in clusters])
    return matmul(moved, Expansion((inside,)), precision)


def _eigenvectors_of_block(image: Expansion, here: slice, precision: Precision) -> Array:
    """In the dtype, of what is left of a cluster when its first eigenvalue is taken away."""
    block = image.cut((here, here))
    if block.shape[0] == 1:
        return image.xp.ones_like(block.leading)
    first = identity(block).map(lambda one: one * image.parts[0][here.start, here.start])
    left = total([block, -Expansion(first.parts, image.exponent)], precision.terms)
    return image.backend.eigh(left.normalised().leading)[1]


def _block_diagonal(blocks: list[Array]) -> Array:
    xp = backend_of(blocks[0]).xp
    n, start, rows = sum(block.shape[0] for block in blocks), 0, []
    for block in blocks:
        size = block.shape[0]
        nothing = xp.zeros_like(xp.broadcast_to(block[:, :1], (size, n)))
        rows.append(xp.concat([nothing[:, :start], block, nothing[:, start + size :]], axis=1))
        start += size
    return xp.concat(rows, axis=0)


class LogOfProduct(NamedTuple):
    """``sign * exp(log) * 2**power``: arrays without axes, and an exact integer."""

    sign: Array
    log: Array
    power: int


def logdet(matrix: Expansion, precision: Precision, what: str) -> LogOfProduct:
    """Sign and logarithm of the absolute determinant.

    The matrix is multiplied by triangular matrices ``X``, whose determinants are exact products,
    until it is nearly unitary, ``Bᴴ B = I + F``: then ``log |det B|`` is half the trace of
    ``F - F²/2``. The ``X`` are inverses of the triangles of QR factorisations in the dtype.
    """
    backend, xp, one = matrix.backend, matrix.xp, identity(matrix).leading
    current, diagonals = matrix.normalised(), []
    exponent, current = current.exponent, Expansion(current.parts)
    for _ in range(_ROUNDS):
        _, triangle = backend.qr(current.leading)
        diagonal = xp.linalg.diagonal(triangle)
        least = precision.eps * float(xp.max(xp.abs(triangle)))
        tiny = xp.astype(xp.abs(diagonal) < least * precision.eps, one.dtype)
        tilted = triangle + one * (least * tiny)
        inverted = xp.triu(backend.solve_triangular(tilted, one, lower=False))
        diagonals.append(xp.linalg.diagonal(inverted))
        current = matmul(current, Expansion((inverted,)), precision).at(0)
        gram = matmul(current.adjoint, current, precision)
        rest = total([gram, -Expansion((one,))], precision.terms)
        if norm(rest) < 1e-6:
            break
    else:
        raise LinAlgError(singular(what))
    small = rest.rounded(one.dtype)
    own = 0.5 * xp.sum(xp.real(xp.linalg.diagonal(small - 0.5 * xp.matmul(small, small))))
    own_sign, _ = backend.lu_slogdet(backend.lu(current.rounded(one.dtype)))
    sign, log, power = log_of_product(Expansion((xp.concat(diagonals),)), precision)
    return LogOfProduct(own_sign / sign, own - log, exponent * one.shape[0] - power)


def log_of_product(numbers: Expansion, precision: Precision) -> LogOfProduct:
    """The product of numbers ``(n,)``, none of them zero: mantissas multiplied, powers added."""
    xp = numbers.xp
    powers = numbers.exponent * numbers.shape[0]
    while True:
        scale = power_of_two(xp, xp.abs(numbers.leading))
        powers -= round(float(xp.sum(xp.log2(scale))))
        numbers = Expansion(tuple(part * scale for part in numbers.parts))
        half, odd = divmod(numbers.shape[0], 2)
        if half == 0:
            break
        # Of an odd number the last waits for the next turn.
        left, right, last = (
            numbers.cut(slice(start, stop))
            for start, stop in ((0, half), (half, 2 * half), (2 * half, 2 * half + odd))
        )
        numbers = joined([multiply(left, right, precision.terms), last], 0, precision)
    sign = xp.sign(numbers.leading[0])
    rest = sum((part[0] / sign for part in numbers.parts[1:]), 0.0 * sign)
    mantissa = xp.log1p(xp.real(numbers.parts[0][0] / sign - 1.0 + rest))
    return LogOfProduct(sign, mantissa, powers)
