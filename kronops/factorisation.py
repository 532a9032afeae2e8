"""Dense square matrices, factorised once: solves, determinants, and how far from singular.

Rows and columns are scaled by powers of two first (exactly), so that what is called singular does
not depend on units, and entries of 1e±150 do no harm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array, Backend
from kronops.checks import epsilon, is_complex
from kronops.errors import LinAlgError, LinAlgWarning, warn

__all__ = [
    "AdjointFactorisation",
    "Factorisation",
    "RefinedFactorisation",
    "RefinedInverse",
    "factorise",
    "one_norm",
    "power_of_two",
    "singular",
]


@dataclasses.dataclass(frozen=True)
class Factorisation:
    """``diag(1/rows) · S · diag(1/columns)`` with ``S = L Lᴴ`` (``definite``) or ``S = L U``."""

    backend: Backend
    dtype: Any
    rows: Array
    columns: Array
    definite: bool
    factors: Any

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """The solution for right-hand sides ``(n, k)``."""
        before, after = (self.columns, self.rows) if adjoint else (self.rows, self.columns)
        # In the precision of the factors, where half precision would leave its range.
        scaled = self.backend.double(b) * before[:, None]
        solved = self._solve_scaled(scaled, adjoint) * after[:, None]
        xp = self.backend.xp
        return xp.astype(solved, xp.result_type(self.dtype, b.dtype), copy=False)

    def inverse(self, last: bool = False) -> Array:
        """The inverse's matrix; if it is the ``last`` that is asked for, in the factors' memory."""
        xp = self.backend.xp
        if self.definite:
            made = self.backend.cholesky_inverse(self.factors, self.rows, own=last)
        else:
            device = self.backend.device(self.rows)
            identity = xp.eye(self.rows.shape[0], dtype=self.dtype, device=device)
            scaled = self.backend.lu_solve(self.factors, identity)
            made = scaled * self.columns[:, None] * self.rows
        return xp.astype(made, self.dtype, copy=False)

    def adjoint(self) -> AdjointFactorisation:
        """For systems with the adjoint."""
        return AdjointFactorisation(self)

    def refined(self, matrix: Array) -> RefinedFactorisation:
        """The same of ``matrix``, which it was made of, with a step of refinement in each solve."""
        factors = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        high, low = _halves(matrix * self.rows[:, None] * self.columns)
        return RefinedFactorisation(**factors, high=high, low=low)

    def slogdet(self) -> tuple[Array, Array]:
        """Sign and logarithm of the absolute determinant."""
        xp = self.backend.xp
        if self.definite:
            sign = xp.ones((), dtype=self.dtype, device=self.backend.device(self.rows))
            logabsdet = 2 * xp.sum(xp.log(xp.abs(xp.linalg.diagonal(self.factors))))
        else:
            sign, logabsdet = self.backend.lu_slogdet(self.factors)
        # The scales are powers of two: their logarithms add up exactly before the one product.
        exponent = xp.sum(xp.log2(self.rows)) + xp.sum(xp.log2(self.columns))
        logabsdet = logabsdet - xp.astype(exponent, logabsdet.dtype) * math.log(2.0)
        real = self.backend.real_dtype(self.dtype)
        return xp.astype(sign, self.dtype, copy=False), xp.astype(logabsdet, real, copy=False)

    def cholesky(self) -> Array:
        """The lower triangular ``L`` of the matrix itself, if ``definite``."""
        lower = self.backend.xp.astype(self.factors, self.dtype, copy=False)
        return lower / self.rows[:, None]

    def check_condition(
        self, matrix: Array, what: str, refuse: bool = True, inverse: Array | None = None
    ) -> float:
        """Refuse a matrix that is singular to rounding (or warn); warn of one that is nearly so.

        Singular is a matrix that is so both as it is and scaled, by the precision it was given in;
        the warning is about the matrix as it is. Its condition number in the 1-norm is returned:
        estimated, unless the ``inverse`` is given.
        """
        if not matrix.shape[0]:
            return 1.0
        eps = epsilon(matrix)
        matrix = self.backend.wide(matrix)  # half precision does not hold the sums
        inverse = None if inverse is None else self.backend.wide(inverse)
        condition = self._condition(matrix, inverse, plain=True)
        spread = _spread(self.rows) * _spread(self.columns)
        if not condition * spread <= 0.1 / eps:  # by which the scaled one is larger at most
            scaled = self._condition(matrix, inverse, plain=False)
            if refuse and min(condition, scaled) > 4.0 / eps:
                raise LinAlgError(singular(what))
            if scaled > 0.1 / eps or (spread == 1.0 and math.isinf(condition)):
                # Without scales only sums out of range make a difference.
                condition = min(condition, scaled)
        if condition > 0.1 / eps:
            warn(
                f"{what} has condition number {condition:.1e}: "
                f"few or no digits of what is computed from it may be right",
                LinAlgWarning,
            )
        return condition

    def _condition(self, matrix: Array, inverse: Array | None, plain: bool) -> float:
        """That of the matrix as it is (``plain``), or scaled."""
        rows, columns = (None, None) if plain else (self.rows, self.columns)
        norm = one_norm(matrix, rows, columns)
        if inverse is None:
            try:
                return norm * self._inverse_norm(self.solve if plain else self._solve_scaled)
            except LinAlgError:  # a library without LU notices only now
                return math.inf
        below = one_norm(inverse) if plain else one_norm(inverse, 1 / self.columns, 1 / self.rows)
        condition = norm * below
        return condition if math.isfinite(condition) else math.inf

    def _solve_scaled(self, b: Array, adjoint: bool) -> Array:
        if not self.definite:
            return self.backend.lu_solve(self.factors, b, adjoint=adjoint)
        return self.backend.cholesky_solve(self.factors, b)

    def _inverse_norm(self, solve: Callable[[Array, bool], Array]) -> float:
        """The inverse's 1-norm, estimated from below by a few solves (Higham 1988, alg. 4.1).

        Hager's search starts from equal entries, which may be a fixed point of it: the solution
        for entries that alternate and grow guards against that, as in LAPACK.
        """
        xp = self.backend.xp
        n = self.rows.shape[0]
        dtype = xp.result_type(self.dtype, xp.float32)
        x = xp.full((n, 1), 1.0 / n, dtype=dtype, device=self.backend.device(self.rows))
        steps = xp.arange(n, device=self.backend.device(self.rows))
        estimate = 0.0
        for _ in range(5):
            y = solve(x, False)
            magnitude = xp.abs(y)
            grown = float(xp.sum(magnitude))
            if not math.isfinite(grown):
                return math.inf
            if grown <= estimate:
                break
            estimate = grown
            unit = xp.where(magnitude == 0, xp.ones_like(magnitude), magnitude)
            slopes = xp.abs(solve(y / unit, True))[:, 0]
            if float(xp.max(slopes)) <= grown:  # no unit vector promises more
                break
            steepest = xp.argmax(slopes)
            x = xp.zeros_like(x) + xp.astype(steps == steepest, x.dtype)[:, None]
        numbers = xp.astype(steps, self.backend.real_dtype(x.dtype))
        growing = (1.0 - 2.0 * (numbers % 2.0)) * (1.0 + numbers / max(n - 1, 1))
        guard = solve(xp.astype(growing, x.dtype)[:, None], False)
        guarded = 2.0 * float(xp.sum(xp.abs(guard))) / (3.0 * n)
        return max(estimate, guarded) if math.isfinite(guarded) else math.inf


@dataclasses.dataclass(frozen=True)
class AdjointFactorisation:
    """The adjoint's, which is that of the matrix itself."""

    base: Factorisation

    def solve(self, b: Array) -> Array:
        """The solution for right-hand sides ``(n, k)``."""
        return self.base.solve(b, adjoint=True)

    def adjoint(self) -> Factorisation:
        """That of the matrix."""
        return self.base

    def inverse(self) -> Array:
        """The inverse's matrix."""
        return self.base.backend.adjoint(self.base.inverse())


@dataclasses.dataclass(frozen=True)
class RefinedFactorisation(Factorisation):
    """Solves of ill-conditioned systems, with one step of refinement by an accurate residual.

    A solve leaves a forward error of about ``κ eps``, and the step squares it, if the residual is
    as accurate as in twice the precision (Higham, Accuracy and Stability of Numerical Algorithms,
    2002, section 12.1). Here that takes two matrix products: of the matrix's halves, of which the
    higher one has so few bits that nothing is rounded (Ozaki, Ogita, Oishi and Rump, Error-free
    transformations of matrix multiplication, Numer. Algorithms 59, 2012).
    """

    high: Array
    low: Array

    @staticmethod
    def serves(matrix: Array, condition: float) -> bool:
        """Whether half of the digits may be lost; single precision is solved with in double."""
        eps = epsilon(matrix)
        return eps < 1e-12 and eps**-0.5 < condition < math.inf

    def _solve_scaled(self, b: Array, adjoint: bool) -> Array:
        solve = super()._solve_scaled

        def refined(b: Array) -> Array:
            x = solve(b, adjoint)
            return x + solve(self._residual(b, x, adjoint), adjoint)

        # So many that products of matrices are at full speed.
        return _few_at_a_time(refined, b, axis=1, size=min(b.shape[0], 16))

    def _residual(self, b: Array, x: Array, adjoint: bool) -> Array:
        """``b - A x``, to about ``n 2**-70`` of ``|A| |x|``."""
        backend = self.backend
        xp, matmul = backend.xp, backend.xp.matmul
        turned = backend.adjoint if adjoint else lambda half: half
        high, low, b, x = backend.promote(turned(self.high), turned(self.low), b, x)
        size = power_of_two(xp, xp.max(xp.abs(x), axis=0))  # of each column alone
        x, b = x * size, b * size
        x_high, x_low = _halves(x)
        return ((b - matmul(high, x_high)) - (matmul(high, x_low) + matmul(low, x))) / size


@dataclasses.dataclass(frozen=True)
class RefinedInverse:
    """Solves by the inverse's matrix, with one step of refinement: nothing but matrix products.

    The inverse alone leaves a residual of about ``κ eps``, relative to the right-hand side, and the
    step squares it: as small as that of other solves while ``κ² ≤ 1/eps`` (Higham, Accuracy and
    Stability of Numerical Algorithms, 2002, sections 12.1 and 14.1).
    """

    matrix: Array
    inverted: Array

    @staticmethod
    def serves(matrix: Array, condition: float) -> bool:
        """Whether it is as good as other solves, and faster.

        Of single precision little is left beyond conditions for which the inverse needs no step.
        """
        eps = epsilon(matrix)
        return matrix.shape[0] <= 32 and eps < 1e-12 and condition <= 0.1 * eps**-0.5

    def solve(self, b: Array) -> Array:
        """The solution for right-hand sides ``(..., n, k)``, of which few are taken at a time."""
        axis = -1 if b.ndim == 2 else 0
        size = math.prod(b.shape) // max(b.shape[axis], 1)
        return _few_at_a_time(self.refined, b, axis, size)

    def refined(self, b: Array) -> Array:
        """The same of all at once; of stacks of matrices, for a stack of right-hand sides."""
        backend = backend_of(b)
        matrix, inverted, b = backend.promote(self.matrix, self.inverted, b)
        matmul = backend.xp.matmul
        x = matmul(inverted, b)
        return x + matmul(inverted, b - matmul(matrix, x))

    def adjoint(self) -> RefinedInverse:
        """For systems with the adjoint."""
        adjoint = backend_of(self.matrix).adjoint
        return RefinedInverse(adjoint(self.matrix), adjoint(self.inverted))

    def inverse(self) -> Array:
        """The inverse's matrix."""
        return backend_of(self.inverted).copy(self.inverted)


def _few_at_a_time(function: Callable[[Array], Array], b: Array, axis: int, size: int) -> Array:
    """``function`` of right-hand sides of a ``size`` along an axis, few enough for small arrays."""
    backend = backend_of(b)
    bands = backend.bands(b.shape[axis], size)
    made = [function(b[band, ...] if axis == 0 else b[:, band]) for band in bands]
    return made[0] if len(made) == 1 else backend.xp.concat(made, axis=axis)


def _halves(numbers: Array) -> tuple[Array, Array]:
    """Two matrices that add up to one of numbers up to about two.

    The first has so few bits that products of such matrices, sums over this many rows, are exact.
    """
    backend = backend_of(numbers)
    xp = backend.xp
    digits = -round(math.log2(epsilon(numbers)))
    terms = numbers.shape[0] * (2 if is_complex(numbers) else 1)
    grid = 2.0 ** ((digits - 2 - math.ceil(math.log2(max(terms, 1)))) // 2)
    if is_complex(numbers):
        high = (xp.round(xp.real(numbers) * grid) + 1j * xp.round(xp.imag(numbers) * grid)) / grid
    else:
        high = xp.round(numbers * grid) / grid
    return high, numbers - high


def factorise(matrix: Array, hermitian: bool, claimed: bool, what: str) -> Factorisation:
    """Cholesky if positive definite, else LU, of a square matrix.

    Matrices of single and half precision are factorised, and solved with, in double where the
    library has it; what is made is rounded to what was given.

    Parameters
    ----------
    matrix : array, shape (n, n)
    hermitian : bool
        Whether Cholesky is tried: its failure shows that the matrix is indefinite.
    claimed : bool
        Whether the matrix was claimed positive definite, so that this failure is an error.
    what : str
        The name of the matrix in messages.

    Raises
    ------
    LinAlgError
        Exactly singular, or not positive definite although ``claimed``.
    """
    backend = backend_of(matrix)
    wide = backend.double(matrix)
    if hermitian and (claimed or backend.values(matrix) is not None):
        try:
            scale = _definite_scale(backend, matrix)
            factor = backend.scaled_cholesky(wide, scale)
            return Factorisation(backend, matrix.dtype, scale, scale, True, factor)
        except LinAlgError:
            if claimed:
                raise LinAlgError(f"{what} is not positive definite") from None
    rows, columns = _scales(backend, matrix, what)
    scaled = wide * rows[:, None] * columns
    try:
        return Factorisation(backend, matrix.dtype, rows, columns, False, backend.lu(scaled))
    except LinAlgError:
        raise LinAlgError(singular(what)) from None


def singular(what: str) -> str:
    """What is said of a singular matrix."""
    return f"{what} is singular: add damping"


def _definite_scale(backend: Backend, matrix: Array) -> Array:
    """Powers of two that bring the diagonal near one; `LinAlgError` where it is not positive."""
    diagonal = backend.xp.linalg.diagonal(matrix)
    if is_complex(diagonal):
        diagonal = backend.xp.real(diagonal)
    seen = backend.values(diagonal)
    if seen is not None and bool(backend.xp.any(seen <= 0)):
        raise LinAlgError("the matrix is not positive definite")
    return power_of_two(backend.xp, backend.xp.sqrt(diagonal))


def _scales(backend: Backend, matrix: Array, what: str) -> tuple[Array, Array]:
    """Powers of two that bring the largest entry of every row and column near one."""
    xp = backend.xp
    magnitude = xp.abs(matrix)
    if 0 in matrix.shape:
        empty = xp.reshape(magnitude, (-1,))
        return empty, empty
    rows = power_of_two(xp, _positive(backend, xp.max(magnitude, axis=1), what))
    largest = xp.max(magnitude * rows[:, None], axis=0)
    return rows, power_of_two(xp, _positive(backend, largest, what))


def _positive(backend: Backend, largest: Array, what: str) -> Array:
    """The largest magnitudes of rows or columns, none of them zero."""
    values = backend.values(largest)
    if values is not None and bool(backend.xp.any(values == 0)):
        raise LinAlgError(singular(what))
    return largest


def power_of_two(xp: Any, magnitude: Array) -> Array:
    """The reciprocals of positive numbers, rounded to powers of two that can be represented."""
    limit = math.log2(float(xp.finfo(magnitude.dtype).max)) - 4.0
    unit = xp.where(magnitude == 0, xp.ones_like(magnitude), magnitude)
    return 2.0 ** xp.clip(-xp.round(xp.log2(unit)), -limit, limit)


def one_norm(matrix: Array, rows: Array | None = None, columns: Array | None = None) -> float:
    """The largest sum of the magnitudes of a column, of ``diag(rows) · M · diag(columns)``."""
    backend = backend_of(matrix)
    xp = backend.xp
    sums = xp.zeros_like(xp.abs(matrix[0, :]))
    for band in backend.bands(*matrix.shape):
        sizes = xp.abs(matrix[band, :])
        sums = sums + xp.sum(sizes if rows is None else sizes * rows[band][:, None], axis=0)
    return float(xp.max(sums if columns is None else sums * columns))


def _spread(numbers: Array) -> float:
    """The largest over the smallest of positive numbers."""
    xp = backend_of(numbers).xp
    return float(xp.max(numbers)) / float(xp.min(numbers))
