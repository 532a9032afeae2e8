"""How damping is split over the factors of a Kronecker product."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kronops.backends.standard import Array
from kronops.checks import as_scalar

__all__ = ["damping_shares", "mean_eigenvalue"]


def damping_shares(means: Sequence[float], value: float, pi: str | float) -> list[float]:
    """What factored damping adds to each factor, from their mean eigenvalues.

    The shares multiply to ``value``. Each of ``N`` factors gets ``value**(1/N)`` times its mean
    over the geometric mean of all (Martens and Grosse 2015, section 6.3, for two); all get the
    same where a mean is not positive.

    Examples
    --------
    >>> damping_shares([4.0, 1.0], 0.01, "trace")
    [0.2, 0.05]
    """
    count = len(means)
    root = value ** (1 / count)
    if pi != "trace":
        number = None if isinstance(pi, str) else as_scalar(pi, "pi")
        if number is None or isinstance(number, complex) or number <= 0:
            raise ValueError(f'pi = {pi!r}: "trace" or a number > 0 would do')
        if count != 2:
            raise ValueError(f'pi = {pi} splits damping between two factors, not {count}: "trace"')
        return [root * number, root / number]
    if not all(mean > 0 and math.isfinite(mean) for mean in means):
        return [root] * count
    logs = [math.log(mean) for mean in means]
    centre = sum(logs) / count
    return [root * math.exp(log - centre) for log in logs]


def mean_eigenvalue(trace: Array, size: int) -> float:
    """The trace over the size, as a Python number."""
    return complex(trace).real / max(size, 1)
