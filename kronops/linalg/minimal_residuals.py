"""`minres`: minimal residuals, for Hermitian systems that need not be definite."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any

from kronops.backends.standard import Array
from kronops.errors import LinAlgError, LinAlgWarning, warn
from kronops.linalg.arguments import as_iterations
from kronops.linalg.progress import Table
from kronops.linalg.systems import System
from kronops.scalars import as_nonnegative, as_scalar

__all__ = ["minres"]


class Stop(enum.Enum):
    """Why the iteration ends."""

    EIGENVECTOR = "the first residual is an eigenvector: there is nothing beyond one step"
    SOLUTION = "a solution: the residual is as small as rtol asks"
    LEAST_SQUARES = "a least-squares solution: A r is as small as rtol asks"
    CONDITION = "the condition number is near 1 / eps and leaves no digits"
    LIMIT = "the limit on iterations is reached"


def minres(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    rtol: float = 1e-5,
    shift: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[[Array], object] | None = None,
    show: bool = False,
    check: bool = False,
) -> tuple[Array, int]:
    """``(A - shift I) x = b`` for a Hermitian ``A``, indefinite or singular too [1]_.

    `scipy.sparse.linalg.minres` for arrays of every library, and for complex ones. Each iterate
    has the least residual of its Krylov space. One product with ``A`` and one with ``M`` an
    iteration, eight vectors of memory. The host waits for the device twice an iteration: for two
    entries of the tridiagonal matrix, and for the norm of ``x``; vectors stay on the device.

    Parameters
    ----------
    A : operator, array (n, n), or object with ``shape`` and ``matvec``
        Hermitian.
    b : array (n,) or (n, 1)
        The right-hand side. The iteration runs in the dtype that ``A`` and ``b`` have in common.
    x0 : array (n,) or (n, 1), optional
        The first guess; zero if not given.
    rtol : float
        The iteration stops as soon as ``‖r‖ <= rtol ‖A‖ ‖x‖`` or ``‖A r‖ <= rtol ‖A‖ ‖r‖``, in
        estimates: the Frobenius norm of the tridiagonal matrix for ``‖A‖``, and with ``M`` the
        norms that it induces. Below the rounding unit ``eps`` of the dtype there is nothing to
        gain, nor beyond a condition number of ``0.1 / eps``: it stops there too.
    shift : float
        Real.
    maxiter : int, optional
        The largest number of iterations, ``5 n`` if not given.
    M : like ``A``, optional
        A Hermitian positive definite approximation of the inverse of ``A - shift I``.
    callback : callable, optional
        ``callback(x)`` is called after each iteration.
    show : bool
        Whether to print a table of the iteration, and why it ended.
    check : bool
        Whether to try on two vectors that ``A`` and ``M`` are Hermitian, for two products each.

    Returns
    -------
    x : array (n,)
        The solution; of least squares, if the system has none.
    info : int
        0, or ``maxiter`` if the iteration ended there without reason to stop.

    Raises
    ------
    ValueError
        Shapes do not fit, ``b`` is not finite, or ``check`` finds ``A`` or ``M`` not Hermitian.
    TypeError
        Arguments are of two libraries or on two devices, or values cannot be seen (under
        ``jax.jit``), or derivatives are followed (``op.solve`` is differentiable).
    LinAlgError
        ``M`` is not positive definite, or a product is not finite.

    Warns
    -----
    LinAlgWarning
        The iteration stops for the condition number, before the residual is small.

    Notes
    -----
    Where this differs from SciPy's, its answer does not depend on the units of ``A`` and ``b``:
    ``‖b‖`` is no part of the norm of ``A``, and what counts as zero is relative. With both ``x0``
    and ``shift``, the first residual is shifted too. Of the solutions of a singular system it
    finds one, not the smallest; `lsmr` does.

    References
    ----------
    .. [1] Paige and Saunders, Solution of sparse indefinite systems of linear equations, 1975.
       https://doi.org/10.1137/0712047

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.linalg import minres
    >>> indefinite = kronops.kron(np.diag([1.0, -2.0]), np.eye(2))
    >>> x, info = minres(indefinite, np.asarray([1.0, 2.0, 2.0, 4.0]))
    >>> x, info
    (array([ 1.,  2., -1., -2.]), 0)
    """
    system = System.of("minres", A, b, x0, M)
    rtol, shift = as_nonnegative(rtol, "rtol"), _as_shift(shift)
    maxiter = as_iterations(maxiter, 5 * system.A.rows)
    table = Table(show, *_heading(system.A.rows, shift, rtol, maxiter))
    if system.trivial:
        table.end("b = 0: so is x")
        return system.zeros(), 0
    x, r = system.start(shift)
    if check:
        _check_hermitian(system, r)
    y = system.precondition(r)
    beta = _root(system, r, y)
    if beta == 0:
        table.end("x0 is a solution")
        return system.shown(x), 0
    lanczos, factors = Lanczos(system, shift, r, y, beta), Factors(beta, system.epsilon)
    w_old, w = system.zeros(), system.zeros()
    stop, iteration = None, 0
    while stop is None:
        iteration += 1
        v, *entries = lanczos.advance()
        factors.advance(*entries)
        # The columns of W = V R⁻¹, by the three diagonals of R; then x = x0 + W (φ1, …, φk).
        w_old, w = w, (v - factors.epsilon * w_old - factors.delta * w) / factors.gamma
        x = x + factors.phi * w
        (norm_x,) = system.read(system.norm(x))
        stop = factors.stop(norm_x, rtol) or (Stop.LIMIT if iteration >= maxiter else None)
        if table.wants(iteration, stop is not None):
            table.row(iteration, system.first(x), *factors.summary(norm_x))
        if callback is not None:
            callback(system.shown(x))
    if stop is Stop.CONDITION:
        warn(f"minres stops after {iteration} iterations: {stop.value}", LinAlgWarning)
    table.end(stop.value)
    return system.shown(x), maxiter if stop is Stop.LIMIT else 0


class Lanczos:
    """The Lanczos process for ``A - shift I``, in the inner product of ``M``.

    ``r_{k+1} = (A - shift I) v_k - (α_k / β_k) r_k - (β_k / β_{k-1}) r_{k-1}`` with
    ``v_k = M r_k / β_k``; ``r`` and ``y = M r`` are kept, and the length ``beta`` of the latter.
    """

    def __init__(self, system: System, shift: float, r: Array, y: Array, beta: float) -> None:
        self.system, self.shift = system, shift
        self.r_old, self.r, self.y = system.zeros(), r, y
        self.beta_old, self.beta = math.inf, beta  # the first step knows no older vector

    def advance(self) -> tuple[Array, float, float, float]:
        """The next vector ``v``, and its column of the tridiagonal matrix: above, on, below."""
        system, beta = self.system, self.beta
        v = self.y / beta
        product = system.A.matvec(v)
        if self.shift:
            product = product - self.shift * v
        product = product - (beta / self.beta_old) * self.r_old
        alpha = system.inner(v, product)
        self.r_old, self.r = self.r, product - (alpha / beta) * self.r
        self.y = system.precondition(self.r)
        diagonal, squared = system.read(alpha, system.inner(self.r, self.y))
        first = math.isinf(self.beta_old)
        self.beta_old, self.beta = beta, _require_definite(squared)
        if first:
            system.require_range(math.hypot(diagonal, self.beta), product)
        return v, 0.0 if first else beta, diagonal, self.beta


class Factors:
    """The QR factorisation of the tridiagonal matrix, by a reflection for each column.

    Of the last column of ``R``: ``gamma``, ``delta`` and ``epsilon`` on the diagonal and above it.
    ``phi`` is the last entry of the rotated right-hand side, ``phi_bar`` the residual's norm.
    """

    def __init__(self, beta: float, rounding: float) -> None:
        self.phi_bar, self.rounding = beta, rounding
        self.cosine, self.sine = -1.0, 0.0
        self.delta_bar = self.epsilon_next = self.norm = 0.0
        self.largest, self.smallest = 0.0, math.inf
        self.eigenvector = False

    def advance(self, above: float, diagonal: float, below: float) -> None:
        """Take in a column of the tridiagonal matrix."""
        cosine, sine = self.cosine, self.sine
        self.epsilon, self.epsilon_next = self.epsilon_next, sine * below
        self.delta = cosine * self.delta_bar + sine * diagonal
        gamma_bar = sine * self.delta_bar - cosine * diagonal
        self.delta_bar = -cosine * below
        self.slope = math.hypot(gamma_bar, self.delta_bar)  # ‖A r‖ / ‖r‖ before this step
        self.norm = math.hypot(self.norm, above, diagonal, below)
        self.eigenvector = above == 0 and below <= 10 * self.rounding * self.norm
        self.gamma = math.hypot(gamma_bar, below)
        if self.gamma > self.rounding * self.norm:
            self.cosine, self.sine = gamma_bar / self.gamma, below / self.gamma
        else:  # a singular matrix, up to rounding: the residual keeps what is left of it
            self.gamma = self.rounding * self.norm or 1.0
            self.cosine, self.sine = 0.0, 1.0
        self.largest = max(self.largest, self.gamma)
        self.smallest = min(self.smallest, self.gamma)
        self.phi, self.phi_bar = self.cosine * self.phi_bar, self.sine * self.phi_bar

    def stop(self, norm_x: float, rtol: float) -> Stop | None:
        """Why to stop at an ``x`` of this norm; None to go on."""
        residual, gradient, _, condition = self.summary(norm_x)
        tolerance = max(rtol, self.rounding)
        reasons = {
            Stop.EIGENVECTOR: self.eigenvector,
            Stop.SOLUTION: residual <= tolerance,
            Stop.LEAST_SQUARES: gradient <= tolerance,
            Stop.CONDITION: condition >= 0.1 / self.rounding,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def summary(self, norm_x: float) -> tuple[float, float, float, float]:
        """``‖r‖ / (‖A‖ ‖x‖)``, ``‖A r‖ / (‖A‖ ‖r‖)``, ``‖A‖`` and the condition number."""
        residual = self.phi_bar / (self.norm * norm_x) if self.norm * norm_x else math.inf
        gradient = self.slope / self.norm if self.norm else math.inf
        return residual, gradient, self.norm, self.largest / self.smallest


def _heading(n: int, shift: float, rtol: float, maxiter: int) -> tuple[str, tuple[str, ...]]:
    title = f"minres: {n} unknowns, shift = {shift:g}, rtol = {rtol:g}, maxiter = {maxiter}"
    return title, ("x[0]", "|r| / |A||x|", "|Ar| / |A||r|", "norm of A", "condition of A")


def _as_shift(shift: Any) -> float:
    scalar = as_scalar(shift, "shift")
    if isinstance(scalar, complex):
        raise TypeError(f"shift = {scalar} is complex: a real number would do")
    return scalar


def _root(system: System, r: Array, y: Array) -> float:
    """``√(rᴴ y)`` of ``y = M r``, which is zero for ``r = 0`` alone."""
    norm, squared = system.read(system.norm(r), system.inner(r, y))
    if norm and not squared:
        raise LinAlgError("rᴴ M r = 0 for a vector r that is not zero: M is not positive definite")
    return _require_definite(squared)


def _require_definite(squared: float) -> float:
    if squared < 0:
        raise LinAlgError(f"rᴴ M r = {squared:.3g} < 0: M is not positive definite")
    return math.sqrt(squared)


def _check_hermitian(system: System, r: Array) -> None:
    """Compare ``‖A p‖²`` with ``pᴴ A (A p)``, for the residual and for one fixed vector."""
    xp, device = system.backend.xp, system.backend.device(r)
    steps = xp.arange(r.shape[0], dtype=xp.float32, device=device)
    fixed = xp.astype(xp.cos(xp.square(steps)), r.dtype)
    for products in filter(None, (system.A, system.M)):
        for p in (r, fixed):
            once = products.matvec(p)
            twice = products.matvec(once)
            left, right, length, far = system.read(
                system.inner(once, once), system.inner(p, twice), system.norm(p), system.norm(twice)
            )
            if abs(left - right) > system.epsilon ** (1 / 3) * max(left, length * far):
                raise ValueError(
                    f"{products.name} is not Hermitian: of a vector p, |{products.name} p|² is "
                    f"{left:.6g} and pᴴ {products.name} {products.name} p is {right:.6g}"
                )
