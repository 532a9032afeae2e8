"""`iterative_solve`: systems of operators whose own inverse has no closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kronops.backends.standard import Array
from kronops.errors import LinAlgWarning, warn
from kronops.linalg.arguments import as_iterations
from kronops.linalg.conjugate_gradients import cg
from kronops.linalg.least_squares import lsmr
from kronops.linalg.systems import System
from kronops.operator import LinearOperator
from kronops.scalars import as_nonnegative

__all__ = ["IterativeSolution", "iterative_solve"]


class IterativeSolution(NamedTuple):
    """What `iterative_solve` returns; ``residual`` is ``‖b - op x‖₂`` of this very ``x``."""

    x: Array
    residual: float
    iterations: int


def iterative_solve(
    op: LinearOperator,
    b: Array,
    x0: Array | None = None,
    *,
    M: LinearOperator | None = None,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    callback: Callable[[Array], object] | None = None,
) -> IterativeSolution:
    """``op x = b`` by products alone, with a preconditioner that is made of ``op``'s structure.

    By `cg` if ``op`` is Hermitian, else by `lsmr` of ``op M``. Nothing is written out, and the
    result says how good it is. An operator without an inverse in closed form brings along that of
    a neighbour:

    - a masked operator ``P B Pᴴ`` takes ``P B⁻¹ Pᴴ``. It differs from the inverse by a matrix
      whose rank is at most the number ``m`` of coordinates that are left out, since
      ``(P B Pᴴ)⁻¹`` is a Schur complement of ``B⁻¹``: exact arithmetic needs ``m + 1`` iterations
      at most;
    - a sum of Kronecker products takes one of them plus the Kronecker product that is nearest to
      the others [1]_; a diagonal among the terms is approximated by a product of diagonals.

    Parameters
    ----------
    op : LinearOperator
        Square; if Hermitian, then positive definite.
    b : array (n,) or (n, 1)
    x0 : array (n,) or (n, 1), optional
        The first guess; zero if not given.
    M : LinearOperator, optional
        An approximation of the inverse of ``op`` to take in place of its own; Hermitian positive
        definite if ``op`` is.
    rtol, atol : float
        The iteration stops as soon as ``‖b - op x‖ <= max(rtol ‖b‖, atol)``.
    maxiter : int, optional
        The largest number of iterations, ``10 n`` if not given.
    callback : callable, optional
        ``callback(x)`` is called after each iteration of `cg`.

    Returns
    -------
    x : array (n,)
        The solution.
    residual : float
        ``‖b - op x‖₂``, computed anew from ``x``. A `LinAlgWarning` says where it is more than was
        asked for.
    iterations : int

    Raises
    ------
    ValueError
        Shapes do not fit, or ``b`` is not finite.
    TypeError
        ``op`` is no operator; or what `cg` refuses.
    LinAlgError
        The preconditioner is singular, or the iteration breaks down, as ``op`` is not positive
        definite (`minres` solves Hermitian systems that are indefinite).

    References
    ----------
    .. [1] Van Loan and Pitsianis, Approximation with Kronecker products, 1993.
       https://doi.org/10.1007/978-94-015-8196-7_17

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.linalg import iterative_solve
    >>> grid = kronops.kron(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, 1.0], [1.0, 3.0]]))
    >>> noise = kronops.DiagonalOperator(np.array([1.0, 2.0, 3.0, 4.0]))  # one for each point
    >>> x, residual, iterations = iterative_solve(grid + noise, np.ones(4), rtol=1e-12)
    >>> np.allclose((grid + noise) @ x, 1.0), residual < 2e-12
    (True, True)
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(f"op is a {type(op).__name__}: an operator is needed (DenseOperator(op))")
    if M is not None and not isinstance(M, LinearOperator):
        raise TypeError(f"M is a {type(M).__name__}: an operator is needed (DenseOperator(M))")
    op._require_square("a solve")
    system = System.of("iterative_solve", op, b, x0)
    wanted, size = _wanted_and_seen(system, rtol, atol)  # or says what is hidden
    M = op._preconditioner() if M is None else M
    if op.hermitian:
        steps: list[Any] = []

        def count(x: Array) -> None:
            steps.append(None)
            if callback is not None:
                callback(x)

        x, _ = cg(op, b, x0, rtol=rtol, atol=atol, maxiter=maxiter, M=M, callback=count)
        iterations = len(steps)
    else:
        x, iterations = _general(op, M, system, wanted, size, maxiter)
    return _judged(op, b, x, iterations, rtol, atol)


def _general(
    op: LinearOperator,
    M: LinearOperator,
    system: System,
    wanted: float,
    size: float,
    maxiter: int | None,
) -> tuple[Array, int]:
    """By `lsmr` of ``op M y = b - op x0``, ``x = x0 + M y``."""
    x, residual = system.start()
    if size <= wanted:
        return system.shown(x), 0
    btol = wanted / size
    maxiter = as_iterations(maxiter, 10 * op.shape[0])
    solved = lsmr(op @ M, system.shown(residual), 0.0, 0.0, btol, conlim=0.0, maxiter=maxiter)
    return system.shown(x) + M @ solved.x, solved.itn


def _judged(
    op: LinearOperator, b: Array, x: Array, iterations: int, rtol: float, atol: float
) -> IterativeSolution:
    """The solution with its residual, and a warning if that is not what was asked for."""
    system = System.of("iterative_solve", op, b, x)
    wanted, residual = _wanted_and_seen(system, rtol, atol)
    if residual > wanted:
        warn(
            f"iterative_solve ends after {iterations} iterations with a residual of "
            f"{residual * system.unit:.1e}, more than {wanted * system.unit:.1e}: allow more "
            f"iterations, or a larger rtol",
            LinAlgWarning,
        )
    return IterativeSolution(x, residual * system.unit, iterations)


def _wanted_and_seen(system: System, rtol: float, atol: float) -> tuple[float, float]:
    """The norm that the residual should come down to, and that of the first guess's."""
    norm, residual = system.read(system.norm(system.b), system.norm(system.start()[1]))
    relative, absolute = as_nonnegative(rtol, "rtol"), as_nonnegative(atol, "atol")
    return max(relative * norm, absolute / system.unit), residual
