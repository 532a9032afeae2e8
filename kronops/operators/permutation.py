"""A reordering of coordinates: what sorts the eigenvectors of a structured operator."""

from __future__ import annotations

import dataclasses

from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.explaining import Account
from kronops.operator import LinearOperator

__all__ = ["PermutationOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PermutationOperator(LinearOperator):
    """``P`` with ``(P x)[order] = x``: column ``j`` of ``A P`` is column ``order[j]`` of ``A``.

    Parameters
    ----------
    order : integer array, shape (n,)
    like : array
        Gives the dtype.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.operators.permutation import PermutationOperator
    >>> PermutationOperator(np.array([1, 2, 0]), np.zeros(1)) @ np.array([10.0, 20.0, 30.0])
    array([30., 10., 20.])
    """

    order: Array
    like: Array

    @property
    def shape(self) -> tuple[int, int]:
        n = self.order.shape[0]
        return n, n

    def _matmat(self, x: Array) -> Array:
        return self.backend.xp.take(x, self._inverse_order, axis=-2)

    def _adjoint(self) -> LinearOperator:
        return PermutationOperator(self._inverse_order, self.like)

    def _inverse(self) -> LinearOperator:
        return self.H

    def _account(self, operation: str, columns: int) -> Account:
        if not operation.startswith("multiply"):
            return super()._account(operation, columns)
        return Account(self, "coordinates reordered", numbers=2 * self.shape[0] * columns)

    @cached
    def _inverse_order(self) -> Array:
        return self.backend.xp.argsort(self.order)
