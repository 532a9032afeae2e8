"""The two sums over lags in the block of a time series: a weight in closed form, a Stein equation.

Both work by doubling, so that ``T`` lags cost ``log2 T`` steps, and neither subtracts numbers that
are nearly equal.
"""

from __future__ import annotations

import math

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.checks import epsilon
from kronops.errors import LinAlgError

__all__ = ["stein_powers", "stein_solve", "weights"]


def weights(x: Array, timesteps: int) -> Array:
    """``f_T(x) = Σ_{|d|<T} (T − |d|) x^|d|``, to a few units of rounding for ``−1 ≤ x ≤ 1``.

    With ``g = Σ_{d<T} yᵈ`` and ``h = Σ_{d<T} (T−d) yᵈ`` for ``y = |x|``, both by doubling over the
    bits of ``T``, every term being positive:

    - ``x ≥ 0``: ``f = 2h − T``;
    - ``x < 0``: the closed form ``[T(1−y²) + 2y(1−xᵀ)] / (1+y)²``, in which ``1 − xᵀ`` is
      ``1 + yᵀ`` for odd ``T`` and ``(1−y) g`` for even ``T``: nothing cancels.

    Parameters
    ----------
    x : real array
    timesteps : int
        ``T ≥ 1``.

    Returns
    -------
    array
        Of the shape of ``x``.

    Examples
    --------
    >>> import numpy as np
    >>> weights(np.array([-1.0, 0.0, 1.0]), 4)
    array([ 0.,  4., 16.])
    """
    xp = backend_of(x).xp
    y = xp.abs(x)
    g, h = xp.ones_like(y), xp.ones_like(y)
    steps = 1
    for bit in bin(timesteps)[3:]:
        # The power is taken afresh: repeated squaring would double its error at every step.
        power = y ** float(steps)
        g, h, steps = (1 + power) * g, (1 + power) * h + steps * g, 2 * steps
        if bit == "1":
            g = 1 + y * g
            h, steps = h + g, steps + 1
    if timesteps % 2:
        last = 1 + y ** float(timesteps)
    else:
        last = (1 - y) * g
    negative = (timesteps * (1 - y) * (1 + y) + 2 * y * last) / (1 + y) ** 2
    return xp.where(x < 0, negative, 2 * h - timesteps)


def stein_powers(a: Array, b: Array) -> list[tuple[Array, Array]]:
    """``(A^(2^k), B^(2^k))`` for ``k = 0, 1, …`` until their Kronecker product is below rounding.

    Raises
    ------
    LinAlgError
        ``A ⊗ B`` has spectral radius one to working precision.
    """
    backend = backend_of(a, b)
    xp = backend.xp
    eps = epsilon(a)
    doublings = round(-math.log2(eps)) - 4
    powers = [(a, b)]
    largest = 2 * math.sqrt(a.shape[0] * b.shape[0])  # contractions have norms of √n at most
    for k in range(doublings + 6):
        seen_a, seen_b = backend.values(a), backend.values(b)
        if seen_a is not None and seen_b is not None:
            size = float(xp.linalg.matrix_norm(seen_a)) * float(xp.linalg.matrix_norm(seen_b))
            if size < eps:
                break
            if not size <= largest or (k >= doublings and size > 0.5):
                raise LinAlgError(
                    "the series block of option 2 is infinite: the correlations do not decay "
                    "(norm 1 to rounding); add damping, or use option 1"
                )
        a, b = xp.matmul(a, a), xp.matmul(b, b)
        powers.append((a, b))
    return powers


def stein_solve(powers: list[tuple[Array, Array]], v: Array) -> Array:
    """``X`` with ``X − A X Bᵀ = V``, by Smith's doubling: ``X = Σ Aᵏ V (Bᵀ)ᵏ``.

    Parameters
    ----------
    powers : list of pairs of arrays
        From `stein_powers`.
    v : array, shape (..., m, n)

    References
    ----------
    Smith, Matrix equation XA + BX = C, SIAM J. Appl. Math. 16, 1968.

    Examples
    --------
    >>> import numpy as np
    >>> a, b = np.array([[0.5]]), np.array([[0.5]])
    >>> stein_solve(stein_powers(a, b), np.array([[3.0]]))
    array([[4.]])
    """
    xp = backend_of(v).xp
    for a, b in powers:
        v = v + xp.matmul(xp.matmul(a, v), xp.matrix_transpose(b))
    return v
