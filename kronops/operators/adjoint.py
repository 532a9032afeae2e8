"""Adjoints and transposes of operators that have no closer name for them."""

from __future__ import annotations

import dataclasses

from kronops.backends.standard import Array
from kronops.explaining import Account
from kronops.operator import LinearOperator
from kronops.vectors import Shape

__all__ = ["AdjointOperator", "TransposedOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Flipped(LinearOperator):
    """What an adjoint and a transpose share: the shapes exchanged."""

    base: LinearOperator

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.base.shape
        return n, m

    @property
    def domain_shape(self) -> Shape:
        return self.base.range_shape

    @property
    def range_shape(self) -> Shape:
        return self.base.domain_shape

    @property
    def hermitian(self) -> bool:
        return self.base.hermitian

    def _account(self, operation: str, columns: int) -> Account:
        if operation != "logdet":
            return super()._account(operation, columns)
        return Account(self, "that of A", parts=[self.base._account(operation, columns)])

    def _spectral_norm(self) -> Array:
        return self.base._spectral_norm()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AdjointOperator(_Flipped):
    """``baseᴴ``, of an operator that gives its adjoint's product by ``_rmatmat``.

    Parameters
    ----------
    base : LinearOperator

    Examples
    --------
    >>> import numpy as np, kronops
    >>> product = kronops.DenseOperator(np.ones((2, 3))) @ kronops.DenseOperator(np.ones((3, 2)))
    >>> kronops.AdjointOperator(product).H is product
    True
    """

    def _matmat(self, x: Array) -> Array:
        return self.base._rmatmat(x)

    def _rmatmat(self, x: Array) -> Array:
        return self.base._matmat(x)

    def _adjoint(self) -> LinearOperator:
        return self.base

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        return self.base._kept_svd[::-1]

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self.base._pinv(cutoff).H

    def _slogdet(self) -> tuple[Array, Array]:
        sign, logabsdet = self.base._slogdet()
        return self.backend.conj(sign), logabsdet


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransposedOperator(_Flipped):
    """``baseᵀ = conj(baseᴴ)``, of a complex operator.

    Parameters
    ----------
    base : LinearOperator

    Examples
    --------
    >>> import numpy as np, kronops
    >>> op = kronops.IdentityOperator(2, like=np.zeros(1)) * 1j + kronops.kron(np.ones((2, 2)))
    >>> kronops.TransposedOperator(op).to_dense()
    array([[1.+1.j, 1.+0.j],
           [1.+0.j, 1.+1.j]])
    """

    def _matmat(self, x: Array) -> Array:
        return self.backend.conj(self.base.H._matmat(self.backend.conj(x)))

    def _adjoint(self) -> LinearOperator:
        return TransposedOperator(self.base.H)

    def _transpose(self) -> LinearOperator:
        return self.base

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        left, values, right = self.base._kept_svd
        return right.H.T, values, left.H.T

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self.base._pinv(cutoff).T

    def _slogdet(self) -> tuple[Array, Array]:
        return self.base._slogdet()

    def _account(self, operation: str, columns: int) -> Account:
        if operation != "multiply":
            return super()._account(operation, columns)
        product = self.base.H._account(operation, columns)
        return Account(self, "Aᵀ x = conj(Aᴴ conj(x))", parts=[product])
