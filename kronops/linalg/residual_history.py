"""`ResidualHistory`: a callback that keeps the norms of residuals."""

from __future__ import annotations

from typing import Any

from kronops.backends.standard import Array
from kronops.linalg.systems import System

__all__ = ["ResidualHistory"]


class ResidualHistory:
    """The norms ``‖b - A x‖₂`` of an iteration, kept by a callback that solvers call with ``x``.

    Solvers hand ``x`` to their callbacks and keep its residual to themselves. Here it is computed
    anew from ``x``, which is what users want to know, at the price of one more product with ``A``
    in each iteration. It serves `kronops.linalg.cg` and `kronops.linalg.minres`, and those solvers
    of `scipy.sparse.linalg` whose callback takes ``x``, for arrays of every library.

    Parameters
    ----------
    A : operator, array (n, n), or object with ``shape`` and ``matvec``
    b : array (n,) or (n, 1)
    x0 : array (n,) or (n, 1), optional
        The first guess; zero if not given.

    Attributes
    ----------
    norms : list of float
        ``norms[k]`` is that of the residual after ``k`` iterations; the first is of ``x0``.

    Raises
    ------
    ValueError
        Shapes do not fit, or ``b`` is not finite.
    TypeError
        What `kronops.linalg.cg` refuses.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.linalg import ResidualHistory, cg
    >>> A, b = kronops.DiagonalOperator(np.array([1.0, 2.0])), np.array([3.0, 4.0])
    >>> history = ResidualHistory(A, b)
    >>> x, _ = cg(A, b, rtol=1e-12, callback=history)
    >>> [round(norm, 6) for norm in history.norms]
    [5.0, 1.463415, 0.0]
    """

    def __init__(self, A: Any, b: Array, x0: Array | None = None) -> None:
        self._system = A, b
        self.norms: list[float] = []
        self(x0)

    def __call__(self, x: Array | None) -> None:
        """Append the norm of the residual of ``x``."""
        system = System.of("ResidualHistory", *self._system, x)
        (norm,) = system.read(system.norm(system.start()[1]))
        self.norms.append(norm * system.unit)
