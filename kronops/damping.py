"""How damping is split over the factors of a Kronecker product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.scalars import Scalar, as_multiplier, as_scalar

__all__ = ["damping_shares", "mean_eigenvalue"]


def damping_shares(means: Sequence[Array], value: Scalar, pi: Any) -> list[Scalar]:
    """What factored damping adds to each factor, from their mean eigenvalues.

    The shares multiply to ``value``. Each of ``N`` factors gets ``value**(1/N)`` times its mean
    over the geometric mean of all (Martens and Grosse 2015, section 6.3, for two); all get the
    same where a mean is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> damping_shares([np.asarray(4.0), np.asarray(1.0)], 0.01, "trace")
    [0.2, 0.05]
    """
    count = len(means)
    root = value ** (1 / count)
    if not (isinstance(pi, str) and pi == "trace"):
        number = None if isinstance(pi, str) else as_scalar(pi, "pi")
        if number is None or isinstance(number, complex) or number <= 0:
            raise ValueError(f'pi = {pi!r}: "trace" or a number > 0 would do')
        if count != 2:
            raise ValueError(f'pi = {pi} splits damping between two factors, not {count}: "trace"')
        return [root * number, root / number]
    xp = backend_of(*means).xp
    stacked = xp.stack(list(means))
    usable = xp.all((stacked > 0) & xp.isfinite(stacked))
    logs = xp.log(xp.where(usable, stacked, xp.ones_like(stacked)))
    shares = root * xp.exp(logs - xp.mean(logs))
    return [as_multiplier(shares[i], "a share of the damping", shares) for i in range(count)]


def mean_eigenvalue(trace: Array, size: int) -> Array:
    """The real part of the trace over the size."""
    backend = backend_of(trace)
    complex_ = backend.kind(trace.dtype) == "complex floating"
    return (backend.xp.real(trace) if complex_ else trace) / max(size, 1)
