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

__all__ = ["AdjointFactorisation", "Factorisation", "factorise", "one_norm", "singular"]


@dataclasses.dataclass(frozen=True)
class Factorisation:
    """``diag(1/rows) · S · diag(1/columns)`` with ``S = L Lᴴ`` (``definite``) or ``S = L U``."""

    backend: Backend
    scaled: Array
    rows: Array
    columns: Array
    definite: bool
    factors: Any

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """The solution for right-hand sides ``(n, k)``."""
        before, after = (self.columns, self.rows) if adjoint else (self.rows, self.columns)
        solved = self._solve_scaled(b * before[:, None], adjoint)
        # Half precision is factorised in single: the result is rounded to what was asked for.
        xp = self.backend.xp
        dtype = xp.result_type(self.scaled.dtype, b.dtype)
        return xp.astype(solved, dtype, copy=False) * after[:, None]

    def inverse(self) -> Array:
        """The inverse's matrix."""
        if self.definite:
            scaled = self.backend.cholesky_inverse(self.factors)
        else:
            xp, device = self.backend.xp, self.backend.device(self.scaled)
            identity = xp.eye(self.scaled.shape[0], dtype=self.scaled.dtype, device=device)
            scaled = self.backend.lu_solve(self.factors, identity)
        made = scaled * self.columns[:, None] * self.rows
        return self.backend.xp.astype(made, self.scaled.dtype, copy=False)

    def adjoint(self) -> AdjointFactorisation:
        """For systems with the adjoint."""
        return AdjointFactorisation(self)

    def slogdet(self) -> tuple[Array, Array]:
        """Sign and logarithm of the absolute determinant."""
        xp = self.backend.xp
        if self.definite:
            sign = xp.ones((), dtype=self.scaled.dtype, device=self.backend.device(self.scaled))
            logabsdet = 2 * xp.sum(xp.log(xp.abs(xp.linalg.diagonal(self.factors))))
        else:
            sign, logabsdet = self.backend.lu_slogdet(self.factors)
        # The scales are powers of two: their logarithms add up exactly before the one product.
        exponent = xp.sum(xp.log2(self.rows)) + xp.sum(xp.log2(self.columns))
        return sign, logabsdet - exponent * math.log(2.0)

    def cholesky(self) -> Array:
        """The lower triangular ``L`` of the matrix itself, if ``definite``."""
        lower = self.backend.xp.astype(self.factors, self.scaled.dtype, copy=False)
        return lower / self.rows[:, None]

    def check_condition(self, matrix: Array, what: str, refuse: bool = True) -> float:
        """Refuse a matrix that is singular to rounding (or warn); warn of one that is nearly so.

        Singular is judged on the scaled matrix; the warning is about the matrix as it is. Its
        condition number is returned.
        """
        if not matrix.shape[0]:
            return 1.0
        eps = epsilon(self.scaled)
        try:
            condition = one_norm(self.scaled) * self._inverse_norm(self._solve_scaled)
        except LinAlgError:  # a library without LU notices only now
            condition = math.inf
        if refuse and condition > 4.0 / eps:
            raise LinAlgError(singular(what))
        if condition <= 0.1 / eps:
            condition = one_norm(matrix) * self._inverse_norm(self.solve)
        if condition > 0.1 / eps:
            warn(
                f"{what} has condition number {condition:.1e}: "
                f"few or no digits of what is computed from it may be right",
                LinAlgWarning,
            )
        return condition

    def _solve_scaled(self, b: Array, adjoint: bool = False) -> Array:
        if not self.definite:
            return self.backend.lu_solve(self.factors, b, adjoint=adjoint)
        return self.backend.cholesky_solve(self.factors, b)

    def _inverse_norm(self, solve: Callable[[Array, bool], Array]) -> float:
        """The inverse's 1-norm, estimated from below by a few solves (Higham 1988, alg. 4.1).

        Hager's search starts from equal entries, which may be a fixed point of it: the solution
        for entries that alternate and grow guards against that, as in LAPACK.
        """
        xp = self.backend.xp
        n = self.scaled.shape[0]
        x = xp.full((n, 1), 1.0 / n, dtype=self.scaled.dtype, device=self.backend.device(self.rows))
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
            steepest = xp.argmax(xp.abs(solve(y / unit, True))[:, 0])
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


def factorise(matrix: Array, hermitian: bool, claimed: bool, what: str) -> Factorisation:
    """Cholesky if positive definite, else LU, of a square matrix.

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
    if hermitian and (claimed or backend.values(matrix) is not None):
        matrix = 0.5 * matrix + 0.5 * backend.adjoint(matrix)
        try:
            scale = _definite_scale(backend, matrix)
            scaled = matrix * scale[:, None] * scale
            return Factorisation(backend, scaled, scale, scale, True, backend.cholesky(scaled))
        except LinAlgError:
            if claimed:
                raise LinAlgError(f"{what} is not positive definite") from None
    rows, columns = _scales(backend, matrix, what)
    scaled = matrix * rows[:, None] * columns
    try:
        return Factorisation(backend, scaled, rows, columns, False, backend.lu(scaled))
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
    values = backend.values(matrix)
    if seen is not None and values is not None and matrix.shape[0]:
        # No entry of a positive definite matrix exceeds the roots of its row and column.
        root = backend.xp.sqrt(seen)
        largest = backend.xp.max(backend.xp.abs(values), axis=1)
        if bool(backend.xp.any(largest > 1.01 * root * backend.xp.max(root))):
            raise LinAlgError("the matrix is not positive definite")
    return _power_of_two(backend.xp, backend.xp.sqrt(diagonal))


def _scales(backend: Backend, matrix: Array, what: str) -> tuple[Array, Array]:
    """Powers of two that bring the largest entry of every row and column near one."""
    xp = backend.xp
    magnitude = xp.abs(matrix)
    if 0 in matrix.shape:
        empty = xp.reshape(magnitude, (-1,))
        return empty, empty
    rows = _power_of_two(xp, _positive(backend, xp.max(magnitude, axis=1), what))
    largest = xp.max(magnitude * rows[:, None], axis=0)
    return rows, _power_of_two(xp, _positive(backend, largest, what))


def _positive(backend: Backend, largest: Array, what: str) -> Array:
    """The largest magnitudes of rows or columns, none of them zero."""
    values = backend.values(largest)
    if values is not None and bool(backend.xp.any(values == 0)):
        raise LinAlgError(singular(what))
    return largest


def _power_of_two(xp: Any, magnitude: Array) -> Array:
    """The reciprocals of positive numbers, rounded to powers of two that can be represented."""
    limit = math.log2(float(xp.finfo(magnitude.dtype).max)) - 4.0
    unit = xp.where(magnitude == 0, xp.ones_like(magnitude), magnitude)
    return 2.0 ** xp.clip(-xp.round(xp.log2(unit)), -limit, limit)


def one_norm(matrix: Array) -> float:
    """The largest sum of the magnitudes of a column."""
    xp = backend_of(matrix).xp
    return float(xp.max(xp.sum(xp.abs(matrix), axis=0)))
