"""Iterative refinement: a solve that loses digits, made backward stable by the residual."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.checks import epsilon
from kronops.columns import scaled_norm
from kronops.errors import LinAlgError
from kronops.scaling import largest

if TYPE_CHECKING:
    from kronops.operator import LinearOperator

__all__ = ["norm_estimate", "refined"]

_STEPS = 20  # at most; every one but the last has halved the backward error
_BLIND_STEPS = 2


def refined(
    op: LinearOperator,
    approximate: Callable[[Array], Array],
    b: Array,
    size: Callable[[], float],
    advice: str,
) -> Array:
    """``op⁻¹ b`` from an approximate inverse that has some digits right.

    The residual is computed in the precision of the operator: the result is backward stable, and
    no more [1]_. It stops as soon as the largest normwise backward error of the columns of ``b``
    is a few units of rounding. Where nobody can see the residual two steps are taken.

    Parameters
    ----------
    op : LinearOperator
        Gives the residuals.
    approximate : callable
        From a right-hand side ``(..., n, k)`` to a solution.
    b : array, shape (..., n, k)
    size : callable
        Gives the norm of ``op``, or an estimate from below; asked where residuals are seen.
    advice : str
        The end of the error's message.

    Raises
    ------
    LinAlgError
        The backward error stays above ``10 eps Σ nᵢ``, the sum being over the domain shape.

    References
    ----------
    .. [1] Skeel, Iterative refinement implies numerical stability for Gaussian elimination,
       Math. Comp. 35, 1980. https://doi.org/10.1090/S0025-5718-1980-0572859-4
    """
    x = approximate(b)
    if backend_of(b).values(x) is None:
        for _ in range(_BLIND_STEPS):
            x = x + approximate(b - op._matmat(x))
        return x
    if not math.isfinite(largest(b)):
        return x
    eps, norm, kept, least = epsilon(x), size(), x, math.inf
    for _ in range(_STEPS):
        residual = b - op._matmat(x)
        error = _backward_error(residual, norm, x, b)
        if error < least:
            kept = x
        if error <= 4 * eps or not error <= least / 2:
            break
        least = error
        x = x + approximate(residual)
    least = min(least, error)
    shape = op.domain_shape
    if not least <= 10 * eps * max(sum(shape) if isinstance(shape, tuple) else op.shape[1], 1):
        raise LinAlgError(f"a solve ends with a backward error of {least:.1e}: {advice}")
    return kept


def norm_estimate(op: LinearOperator) -> float:
    """About ``‖op‖₂``, from below, by three steps of the power method."""
    xp, n = op.backend.xp, op.shape[1]
    x = xp.cos(xp.arange(n, dtype=op.backend.real_dtype(op.dtype), device=op.device))[:, None]
    size = 0.0
    for _ in range(3):
        length = float(scaled_norm(xp, x))
        if not 0 < length < math.inf:
            break
        image = op._matmat(x / length)
        size = max(size, float(scaled_norm(xp, image)))
        x = op.H._matmat(image)
    return size


def _backward_error(residual: Array, norm: float, x: Array, b: Array) -> float:
    """The largest ``‖r‖ / (‖A‖ ‖x‖ + ‖b‖)`` of all columns, in the maximum norm."""
    xp = backend_of(residual).xp
    if 0 in residual.shape:
        return 0.0
    errors, solutions, sides = (xp.max(xp.abs(part), axis=-2) for part in (residual, x, b))
    allowed = norm * solutions + sides
    relative = errors / xp.where(allowed == 0, xp.ones_like(allowed), allowed)
    return float(xp.max(relative))
