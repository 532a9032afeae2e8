"""Some coordinates of a vector: what picks rows and columns of operators."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.explaining import Account
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator

__all__ = ["SelectionOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SelectionOperator(LinearOperator):
    """``P`` with ``P x = x[kept]``; ``Pᴴ x`` is zero but there.

    Parameters
    ----------
    kept : integer array, shape (k,)
        Positions, each once, in any order.
    places : integer array, shape (n,)
        Of each coordinate its place in ``kept``; ``k`` if it is not there.
    like : array
        Real; gives the dtype, which serves complex operators too.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.operators.selection import SelectionOperator
    >>> pick = SelectionOperator.of(np.array([2, 0]), 4, like=np.zeros(1))
    >>> pick @ np.array([10.0, 20.0, 30.0, 40.0])
    array([30., 10.])
    >>> pick.H @ np.array([1.0, 2.0])
    array([2., 0., 1., 0.])
    """

    kept: Array
    places: Array
    like: Array

    @classmethod
    def of(cls, kept: np.ndarray[Any, Any], n: int, like: Array) -> SelectionOperator:
        """``P`` for positions among ``n``, in the library and on the device of ``like``."""
        backend = backend_of(like)
        places = np.full(n, len(kept))
        places[kept] = np.arange(len(kept))
        # JAX may not have the longer ones.
        integers = np.int32 if n < 2**31 else np.int64
        device = backend.device(like)
        made = [backend.from_numpy(part.astype(integers), device) for part in (kept, places)]
        dtype = backend.real_dtype(like.dtype)
        return cls(made[0], made[1], backend.xp.zeros((0,), dtype=dtype, device=device))

    @property
    def shape(self) -> tuple[int, int]:
        (k,), (n,) = self.kept.shape, self.places.shape
        return k, n

    def _matmat(self, x: Array) -> Array:
        made = self.backend.xp.take(x, self.kept, axis=-2)
        return self.backend.xp.astype(made, self._common(x), copy=False)

    def _rmatmat(self, x: Array) -> Array:
        """A zero is put behind ``x``, and taken from there where nothing was kept."""
        xp = self.backend.xp
        zero = xp.zeros((*x.shape[:-2], 1, x.shape[-1]), dtype=x.dtype, device=self.device)
        made = xp.take(xp.concat([x, zero], axis=-2), self.places, axis=-2)
        return xp.astype(made, self._common(x), copy=False)

    def _common(self, x: Array) -> Any:
        return self.backend.xp.result_type(x.dtype, self.dtype)

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        """Rows of a matrix, and of what is picked already."""
        take = self.backend.xp.take
        if isinstance(other, DenseOperator):
            rows = take(other._entries, self.kept, axis=0)
            return DenseOperator(rows, check_finite=False, name=other.name)
        if isinstance(other, SelectionOperator):
            kept = self.backend.to_numpy(take(other.kept, self.kept))
            return SelectionOperator.of(kept, other.shape[1], self.like)
        return None

    def _account(self, operation: str, columns: int) -> Account:
        if operation != "multiply":
            return super()._account(operation, columns)
        return Account(self, "x[kept]", numbers=2 * self.shape[0] * columns)
