"""How far the two dampings of a Kronecker product are apart."""

from __future__ import annotations

import math
from typing import Any

from kronops import KroneckerOperator
from kronops.damping import damping_shares, mean_eigenvalue

__all__ = ["factored_gap"]


def factored_gap(operator: KroneckerOperator, damping: float, pi: str | float) -> float:
    """``‖c (A + s I) ⊗ (G + t I) − E‖_F / ‖E‖_F`` with ``E = c A ⊗ G + λ I`` and ``c s t = λ``.

    All terms are positive where ``A`` and ``G`` are semidefinite: nothing cancels.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> factored_gap(kronops.kron(np.eye(2), np.eye(2)), 1.0, "trace")  # 2² and 1 + 1
    1.0
    """
    c: Any = operator.scale
    (p, q), traces = (f.shape[0] for f in operator.factors), [f.trace() for f in operator.factors]
    means = [mean_eigenvalue(t, n) for t, n in zip(traces, (p, q), strict=True)]
    shares = map(float, damping_shares(means, damping / c, pi))
    # Squares of numbers near one leave the range of floats nowhere.
    (s, norm_a, trace_a), (t, norm_g, trace_g) = (
        _relative(share, float(factor.norm()), float(trace))
        for share, factor, trace in zip(shares, operator.factors, traces, strict=True)
    )
    gap = _square(t * norm_a) * q + _square(s * norm_g) * p + 2 * s * t * trace_a * trace_g
    exact = _square(norm_a * norm_g) + 2 * s * t * trace_a * trace_g + _square(s * t) * p * q
    return math.sqrt(gap / exact) if gap else 0.0


def _relative(share: float, norm: float, trace: float) -> tuple[float, float, float]:
    """All three divided by the larger of the first two."""
    size = max(share, norm) or 1.0
    return share / size, norm / size, trace / size


def _square(x: float) -> float:
    return x * x
