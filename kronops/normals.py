"""Standard normal numbers from the source of randomness that the user brings."""

from __future__ import annotations

from typing import Any

from kronops.backends.standard import Array, Backend

__all__ = ["Normals"]


class Normals:
    """Independent standard normal numbers in the library, dtype and device of an operator.

    Parameters
    ----------
    backend : Backend
    source : generator or key
        A `numpy.random.Generator` for any library, or the library's own: a ``jax.random`` key, a
        ``torch.Generator``, a ``cupy.random.Generator``. Of a complex dtype the real and imaginary
        parts have variance one half each.
    dtype, device
        Those of the numbers.
    count : int
        The number of draws, which are columns.

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.backends import backend_of
    >>> normals = Normals(backend_of(np.ones(1)), np.random.default_rng(0), np.float32, None, 3)
    >>> normals.columns(2).shape, normals.columns(4).dtype
    ((2, 3), dtype('float32'))
    """

    def __init__(self, backend: Backend, source: Any, dtype: Any, device: Any, count: int) -> None:
        self.backend = backend
        self.source = source
        self.dtype = dtype
        self.device = device
        self.count = count

    def columns(self, n: int) -> Array:
        """An array ``(n, count)`` that no call before has given."""
        xp = self.backend.xp
        if self.backend.kind(self.dtype) != "complex floating":
            return self._real(n)
        return xp.astype((self._real(n) + 1j * self._real(n)) * 0.5**0.5, self.dtype)

    def _real(self, n: int) -> Array:
        dtype = self.backend.real_dtype(self.dtype)
        drawn, self.source = self.backend.normal(self.source, (n, self.count), dtype, self.device)
        return drawn
