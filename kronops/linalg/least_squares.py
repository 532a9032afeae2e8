"""`lsmr`: least squares, for matrices of any shape."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from kronops.backends.standard import Array
from kronops.linalg.arguments import as_iterations
from kronops.linalg.progress import Table
from kronops.linalg.systems import System
from kronops.scalars import as_nonnegative

__all__ = ["LeastSquaresResult", "lsmr"]

REASONS = (
    "x = 0, or x0, is a solution",
    "a solution: the residual is as small as atol and btol ask",
    "a least-squares solution: Aᴴ r is as small as atol asks",
    "the condition number has reached conlim",
    "a solution: the residual is as small as rounding allows",
    "a least-squares solution: Aᴴ r is as small as rounding allows",
    "the condition number has reached 1 / eps",
    "the limit on iterations is reached",
)


class LeastSquaresResult(NamedTuple):
    """What `lsmr` returns, a tuple in SciPy's order; ``r = b - A x``."""

    x: Array
    istop: int
    itn: int
    normr: float
    normar: float
    norma: float
    conda: float
    normx: float


def lsmr(
    A: Any,
    b: Array,
    damp: float | None = 0.0,
    atol: float | None = 1e-6,
    btol: float | None = 1e-6,
    conlim: float | None = 1e8,
    maxiter: int | None = None,
    show: bool = False,
    x0: Array | None = None,
) -> LeastSquaresResult:
    """The ``x`` that minimises ``‖b - A x‖² + damp² ‖x - x0‖²``, by LSMR [1]_.

    `scipy.sparse.linalg.lsmr` for arrays of every library. ``A`` may have any shape and any rank;
    of several solutions, without ``x0``, it is the one of least norm. In exact arithmetic these
    are the iterates of `minres` for the normal equations ``AᴴA x = Aᴴb``, which are never formed.
    One product with ``A`` and one with ``Aᴴ`` an iteration. The host waits for the device twice an
    iteration: for two entries of a bidiagonal matrix, and for the norm of ``x``; vectors stay on
    the device.

    Parameters
    ----------
    A : operator, array (m, n), or object with ``shape``, ``matvec`` and ``rmatvec``
        Real or complex.
    b : array (m,) or (m, 1)
        The right-hand side. The iteration runs in the dtype that ``A`` and ``b`` have in common.
    damp : float
        Not negative.
    atol, btol : float
        The iteration stops as soon as ``‖r‖ <= atol ‖A‖ ‖x‖ + btol ‖b‖`` or
        ``‖Aᴴ r‖ <= atol ‖A‖ ‖r‖``, in estimates that cost nothing. None stands for the default.
    conlim : float
        It stops too where an estimate of the condition number of ``A`` reaches this; 0 or infinity:
        only near ``1 / eps``. None stands for the default.
    maxiter : int, optional
        The largest number of iterations, ``min(m, n)`` if not given.
    show : bool
        Whether to print a table of the iteration, and why it ended.
    x0 : array (n,) or (n, 1), optional
        The first guess, and where damping pulls to; zero if not given.

    Returns
    -------
    x : array (n,)
        The solution.
    istop : int
        Why the iteration ended: 0 ``x = 0`` or ``x0`` is a solution; 1 the residual, 2 ``Aᴴ r`` is
        as small as was asked for; 3 the condition number reached ``conlim``; 4, 5, 6 the same as
        1, 2, 3 with the rounding unit of the dtype for tolerances; 7 ``maxiter`` iterations are
        done.
    itn : int
        The number of iterations.
    normr, normar, norma, conda, normx : float
        Estimates of ``‖r‖``, ``‖Aᴴ r‖`` (both of the damped problem), of the Frobenius norm and
        the condition number of ``A``, and ``‖x‖``.

    Raises
    ------
    ValueError
        Shapes do not fit, or ``b`` is not finite.
    TypeError
        Arguments are of two libraries or on two devices, or values cannot be seen (under
        ``jax.jit``), or derivatives are followed (``op.solve`` is differentiable).
    LinAlgError
        A product is not finite.

    Notes
    -----
    SciPy's counts 1 among the numbers whose ratio is the condition number: there the units of a
    small ``A`` matter, and ``conlim`` ends the iteration too early.

    References
    ----------
    .. [1] Fong and Saunders, LSMR: an iterative algorithm for sparse least-squares problems, 2011.
       https://arxiv.org/abs/1006.0758

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.linalg import lsmr
    >>> tall = kronops.kron(np.asarray([[1.0], [1.0]]), np.diag([1.0, 2.0]))
    >>> result = lsmr(tall, np.asarray([1.0, 2.0, 3.0, 6.0]))
    >>> result.x, result.istop, result.itn
    (array([2., 2.]), 2, 2)
    """
    system = System.of("lsmr", A, b, x0)
    damp = as_nonnegative(0.0 if damp is None else damp, "damp")
    limits = Limits.of(atol, btol, conlim, system.epsilon)
    maxiter = as_iterations(maxiter, min(system.A.rows, system.A.columns))
    table = Table(show, *_heading(system, damp, limits, maxiter))
    if system.trivial:
        table.end(REASONS[0])
        return LeastSquaresResult(system.zeros(), 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0)
    x, r = system.start()
    norm_b, norm_x = system.read(system.norm(system.b), system.norm(x))
    bases = Bidiagonalisation(system, r)
    steps = Steps(bases.alpha, bases.beta, damp)
    h, h_bar = bases.v, system.zeros()
    istop = iteration = 0
    while steps.gradient and not istop:
        iteration += 1
        to_h_bar, to_x, to_h = steps.advance(*bases.advance())
        h_bar = h - to_h_bar * h_bar
        x = x + to_x * h_bar
        h = bases.v - to_h * h
        (norm_x,) = system.read(system.norm(x))
        istop = limits.reached(steps, norm_b, norm_x) or (7 if iteration >= maxiter else 0)
        if table.wants(iteration, istop > 0):
            table.row(iteration, system.first(x), *steps.summary(system.unit))
    table.end(REASONS[istop])
    norms = steps.summary(system.unit)
    return LeastSquaresResult(system.shown(x), istop, iteration, *norms, norm_x * system.unit)


class Limits(NamedTuple):
    """The tolerances of the user, and the unit of rounding."""

    atol: float
    btol: float
    conlim: float
    rounding: float

    @classmethod
    def of(cls, atol: Any, btol: Any, conlim: Any, rounding: float) -> Limits:
        """Checked, with the defaults in place of None, and no condition number for no limit."""
        atol = as_nonnegative(1e-6 if atol is None else atol, "atol")
        btol = as_nonnegative(1e-6 if btol is None else btol, "btol")
        conlim = 1e8 if conlim is None else conlim
        if conlim != math.inf:
            conlim = as_nonnegative(conlim, "conlim") or math.inf
        return cls(atol, btol, conlim, rounding)

    def reached(self, steps: Steps, norm_b: float, norm_x: float) -> int:
        """SciPy's number for the first reason to stop, by precedence; 0 to go on."""
        residual, gradient, norm, condition = steps.summary()
        growth = norm * norm_x / norm_b
        relative = residual / norm_b
        slope = gradient / (norm * residual) if norm * residual else math.inf
        reasons = (
            relative <= self.btol + self.atol * growth,
            slope <= self.atol,
            condition >= self.conlim,
            relative / (1 + growth) <= self.rounding / 2,
            slope <= self.rounding / 2,
            condition >= 2 / self.rounding,
        )
        return reasons.index(True) + 1 if True in reasons else 0


class Bidiagonalisation:
    """The process of Golub and Kahan: orthonormal ``u`` and ``v`` with ``A V = U B``, from ``r``.

    ``beta`` and ``alpha`` are the newest entries of the lower bidiagonal ``B``.
    """

    def __init__(self, system: System, r: Array) -> None:
        self.system = system
        self.u, beta = self._normalised(r)
        self.v, alpha = self._normalised(system.A.rmatvec(self.u))
        self.alpha, self.beta = system.read(alpha, beta)
        system.require_range(self.alpha, self.v)

    def advance(self) -> tuple[float, float]:
        """One more ``u`` and ``v``; their ``alpha`` and ``beta``."""
        products = self.system.A
        self.u, beta = self._normalised(products.matvec(self.v) - self.alpha * self.u)
        self.v, alpha = self._normalised(products.rmatvec(self.u) - beta * self.v)
        self.alpha, self.beta = self.system.read(alpha, beta)
        return self.alpha, self.beta

    def _normalised(self, vector: Array) -> tuple[Array, Array]:
        """``vector`` over its norm, and the norm, on the device; zero stays zero."""
        xp, norm = self.system.backend.xp, self.system.norm(vector)
        return vector / xp.where(norm > 0, norm, xp.ones_like(norm)), norm


class Steps:
    """The two QR factorisations of the bidiagonal matrix, and the norms that they tell.

    Names are those of the paper: ``hat`` is for the rotation of the damping, ``bar`` for the
    second factorisation.
    """

    def __init__(self, alpha: float, beta: float, damp: float) -> None:
        self.damp = damp
        self.alpha, self.alpha_bar = alpha, alpha
        self.rho = self.rho_bar = self.c_bar = 1.0
        self.s_bar = self.zeta = 0.0
        self.zeta_bar = alpha * beta
        self.residual = ResidualNorm(beta)
        self.norm, self.condition = 0.0, 1.0
        self.largest, self.smallest = 0.0, math.inf

    @property
    def gradient(self) -> float:
        """``‖Aᴴ r‖``."""
        return abs(self.zeta_bar)

    def advance(self, alpha: float, beta: float) -> tuple[float, float, float]:
        """Take in a column; what ``h_bar``, ``x`` and ``h`` are then updated by."""
        rho_old, rho_bar_old, zeta_old = self.rho, self.rho_bar, self.zeta
        c_hat, s_hat, alpha_hat = rotation(self.alpha_bar, self.damp)
        c, s, self.rho = rotation(alpha_hat, beta)
        theta, self.alpha_bar = s * alpha, c * alpha
        theta_bar, corner = self.s_bar * self.rho, self.c_bar * self.rho
        self.c_bar, self.s_bar, self.rho_bar = rotation(corner, theta)
        self.zeta, self.zeta_bar = self.c_bar * self.zeta_bar, -self.s_bar * self.zeta_bar

        self.residual.rotate(c_hat, s_hat, c, s)
        self.residual.advance(theta_bar, self.rho_bar, zeta_old, self.zeta)
        self.norm, self.alpha = math.hypot(self.norm, self.alpha, beta), alpha
        # The diagonal of the second factor, whose last entry is still `corner`, stands for the
        # singular values.
        self.condition = max(self.largest, corner) / min(self.smallest, corner)
        self.largest = max(self.largest, self.rho_bar)
        self.smallest = min(self.smallest, self.rho_bar)
        return (
            theta_bar * self.rho / (rho_old * rho_bar_old),
            self.zeta / (self.rho * self.rho_bar),
            theta / self.rho,
        )

    def summary(self, unit: float = 1.0) -> tuple[float, float, float, float]:
        """``‖r‖``, ``‖Aᴴ r‖``, ``‖A‖`` and the condition number."""
        return self.residual.norm * unit, self.gradient * unit, self.norm, self.condition


class ResidualNorm:
    """``‖r‖`` of the (damped) problem, by a third factorisation."""

    def __init__(self, beta: float) -> None:
        self.norm = self.beta_ddot = beta
        self.beta_hat = self.beta_dot = self.damped = 0.0
        self.rho_dot, self.tau, self.theta = 1.0, 0.0, 0.0

    def rotate(self, c_hat: float, s_hat: float, c: float, s: float) -> None:
        """The right-hand side, under the rotations of the first factorisation."""
        self.damped = math.hypot(self.damped, s_hat * self.beta_ddot)
        rest = c_hat * self.beta_ddot
        self.beta_hat, self.beta_ddot = c * rest, -s * rest

    def advance(self, theta_bar: float, rho_bar: float, zeta_old: float, zeta: float) -> None:
        """The third rotation, and the part of the right-hand side that ``x`` fits."""
        c, s, rho = rotation(self.rho_dot, theta_bar)
        self.tau = (zeta_old - self.theta * self.tau) / rho
        self.theta, self.rho_dot = s * rho_bar, c * rho_bar
        self.beta_dot = c * self.beta_hat - s * self.beta_dot
        fitted = (zeta - self.theta * self.tau) / self.rho_dot
        self.norm = math.hypot(self.damped, self.beta_dot - fitted, self.beta_ddot)


def rotation(a: float, b: float) -> tuple[float, float, float]:
    """``c``, ``s``, ``r`` with ``c a + s b = r`` and ``c b = s a``."""
    r = math.hypot(a, b)
    return (a / r, b / r, r) if r else (1.0, 0.0, 0.0)


def _heading(
    system: System, damp: float, limits: Limits, maxiter: int
) -> tuple[str, tuple[str, ...]]:
    title = (
        f"lsmr: {system.A.rows} equations, {system.A.columns} unknowns, damp = {damp:g}, "
        f"atol = {limits.atol:g}, btol = {limits.btol:g}, conlim = {limits.conlim:g}, "
        f"maxiter = {maxiter}"
    )
    return title, ("x[0]", "norm of r", "norm of Aᴴr", "norm of A", "condition of A")
