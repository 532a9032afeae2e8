"""`cg`: conjugate gradients, for Hermitian positive definite systems."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from kronops.backends.standard import Array
from kronops.linalg.arguments import as_iterations
from kronops.linalg.systems import System
from kronops.scalars import as_nonnegative

__all__ = ["cg"]


def cg(
    A: Any,
    b: Array,
    x0: Array | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable[[Array], object] | None = None,
) -> tuple[Array, int]:
    """``A x = b`` for a Hermitian positive definite ``A``, by conjugate gradients [1]_.

    `scipy.sparse.linalg.cg` for arrays of every library. One product with ``A`` and one with
    ``M`` an iteration, five vectors of memory. One number an iteration, the norm of the
    residual, is read by the host; everything else stays on the device.

    Parameters
    ----------
    A : operator, array (n, n), or object with ``shape`` and ``matvec``
        Hermitian positive definite, real or complex.
    b : array (n,) or (n, 1)
        The right-hand side. The iteration runs in the dtype that ``A`` and ``b`` have in common.
    x0 : array (n,) or (n, 1), optional
        The first guess; zero if not given.
    rtol, atol : float
        The iteration stops as soon as ``‖b - A x‖ <= max(rtol ‖b‖, atol)``.
    maxiter : int, optional
        The largest number of iterations, ``10 n`` if not given.
    M : like ``A``, optional
        A Hermitian positive definite approximation of the inverse of ``A``.
    callback : callable, optional
        ``callback(x)`` is called after each iteration.

    Returns
    -------
    x : array (n,)
        The solution.
    info : int
        0 if ``x`` was seen to be as good as was asked for; else ``maxiter``. As in SciPy, the
        residual is tested before each iteration, and so not after the last. Inside ``jax.jit`` an
        array; where the iteration breaks down there it is ``maxiter``, and ``x`` may be NaN.

    Raises
    ------
    ValueError
        Shapes do not fit, or ``b`` is not finite.
    TypeError
        Arguments are of two libraries or on two devices, or values cannot be seen (in a graph of
        Dask; ``jax.jit`` compiles the iteration), or derivatives are followed (``op.solve`` is
        differentiable).
    LinAlgError
        The iteration breaks down, as ``A`` or ``M`` is not positive definite or not finite.

    References
    ----------
    .. [1] Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952,
       section 3. https://doi.org/10.6028/jres.049.044

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.linalg import cg
    >>> A = kronops.kron(np.diag([1.0, 2.0]), np.eye(2)) + kronops.DiagonalOperator(np.ones(4))
    >>> x, info = cg(A, np.asarray([2.0, 4.0, 6.0, 12.0]))
    >>> x, info
    (array([1., 2., 2., 4.]), 0)
    """
    system = System.of("cg", A, b, x0, M)
    rtol, atol = as_nonnegative(rtol, "rtol"), as_nonnegative(atol, "atol")
    maxiter = as_iterations(maxiter, 10 * system.A.rows)
    if system.hidden:
        return _compiled(system, rtol, atol, maxiter, callback)
    if system.trivial:
        return system.zeros(), 0
    (norm_b,) = system.read(system.norm(system.b))
    tolerance = max(rtol * norm_b, atol / system.unit)
    x, r = system.start()
    p, rho = system.zeros(), math.inf  # the first p is then z
    for _ in range(maxiter):
        (residual,) = system.read(system.norm(r))
        if residual <= tolerance:
            return system.shown(x), 0
        x, r, p, rho = _step(system, x, r, p, rho)
        if callback is not None:
            callback(system.shown(x))
    return system.shown(x), maxiter


def _step(system: System, x: Array, r: Array, p: Array, rho_old: Any) -> tuple[Array, ...]:
    """Equations 3:1 of the paper, with directions made of z = M r where it has r."""
    z = system.precondition(r)
    rho = system.inner(r, z)
    p = z + (rho / rho_old) * p
    q = system.A.matvec(p)
    step = rho / system.inner(p, q)
    return x + step * p, r - step * q, p, rho


def _compiled(
    system: System, rtol: float, atol: float, maxiter: int, callback: Any
) -> tuple[Array, Any]:
    """The same iteration where nobody sees the residual, as a loop of the library's compiler."""
    if callback is not None:
        raise TypeError("callback: inside jax.jit nobody is called after an iteration; pass None")
    xp = system.backend.xp
    norm_b = system.norm(system.b)
    tolerance = xp.maximum(rtol * norm_b, atol * xp.ones_like(norm_b))
    trivial = norm_b == 0
    x, r = system.start()

    def goes_on(state: tuple[Array, ...]) -> Array:
        return ~trivial & (state[-1] < maxiter) & (system.norm(state[1]) > tolerance)

    def advance(state: tuple[Array, ...]) -> tuple[Array, ...]:
        *vectors, count = state
        return *_step(system, *vectors), count + 1

    first = x, r, system.zeros(), xp.full_like(norm_b, math.inf), xp.asarray(0)
    x, r, *_, count = system.backend.while_loop(goes_on, advance, first)
    solved = trivial | ((count < maxiter) & (system.norm(r) <= tolerance))
    return xp.where(trivial, xp.zeros_like(x), x), xp.where(solved, 0, maxiter)
