"""`solve_masked`: systems with some rows and columns of an operator that is easy to invert."""

from __future__ import annotations

from typing import Any, NamedTuple

from kronops.backends.standard import Array
from kronops.errors import LinAlgWarning, warn
from kronops.linalg.conjugate_gradients import cg
from kronops.linalg.systems import System
from kronops.operator import LinearOperator
from kronops.operators.masked import MaskedOperator
from kronops.scalars import as_nonnegative

__all__ = ["MaskedSolution", "solve_masked"]


class MaskedSolution(NamedTuple):
    """What `solve_masked` returns; ``residual`` is ``‖b - op x‖₂`` of this very ``x``."""

    x: Array
    residual: float
    iterations: int


def solve_masked(
    op: LinearOperator,
    b: Array,
    x0: Array | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
) -> MaskedSolution:
    """``op x = b`` for ``op = P B Pᴴ``, by conjugate gradients preconditioned by ``P B⁻¹ Pᴴ``.

    Nothing is written out: an iteration is one product with ``B`` and one with its inverse. The
    preconditioner differs from the inverse of ``op`` by a matrix whose rank is at most the number
    of coordinates that are left out, since ``(P B Pᴴ)⁻¹`` is a Schur complement of ``B⁻¹``; with
    ``m`` of them, exact arithmetic needs ``m + 1`` iterations at most.

    Parameters
    ----------
    op : MaskedOperator, or what `LinearOperator.masked` gives if nothing is left out
        Of a Hermitian positive definite ``B`` whose inverse is cheap: a Kronecker product, or one
        with damping.
    b : array (k,) or (k, 1)
    x0 : array (k,) or (k, 1), optional
        The first guess; zero if not given.
    rtol, atol : float
        The iteration stops as soon as ``‖b - op x‖ <= max(rtol ‖b‖, atol)``.
    maxiter : int, optional
        The largest number of iterations, ``10 k`` if not given.

    Returns
    -------
    x : array (k,)
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
        ``B`` is singular, or the iteration breaks down, as it is not positive definite.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.linalg import solve_masked
    >>> grid = kronops.kron(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, 1.0], [1.0, 3.0]]))
    >>> op = grid.masked(np.array([[True, False], [True, True]]))
    >>> x, residual, iterations = solve_masked(op, np.array([10.0, 11.0, 9.0]), rtol=1e-12)
    >>> x
    array([1., 1., 1.])
    >>> residual < 1e-12, iterations
    (True, 2)
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(f"op is a {type(op).__name__}: a MaskedOperator is needed")
    # A mask that leaves nothing out makes no MaskedOperator: the inverse itself preconditions.
    inverse = op.with_base(op.base.inverse()) if isinstance(op, MaskedOperator) else op.inverse()
    steps: list[Any] = []
    x, _ = cg(
        op,
        b,
        x0,
        rtol=rtol,
        atol=atol,
        maxiter=maxiter,
        M=inverse,
        callback=lambda _: steps.append(None),
    )
    system = System.of("solve_masked", op, b, x)
    norm, residual = system.read(system.norm(system.b), system.norm(system.start()[1]))
    wanted = max(as_nonnegative(rtol, "rtol") * norm, as_nonnegative(atol, "atol") / system.unit)
    if residual > wanted:
        warn(
            f"solve_masked ends after {len(steps)} iterations with a residual of "
            f"{residual * system.unit:.1e}, more than {wanted * system.unit:.1e}: allow more "
            f"iterations, or a larger rtol",
            LinAlgWarning,
        )
    return MaskedSolution(x, residual * system.unit, len(steps))
