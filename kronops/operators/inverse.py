"""The inverse of an operator whose inverse is a solve."""

from __future__ import annotations

import dataclasses
from typing import Any

from kronops import spectrum, tree
from kronops.backends.standard import Array, Backend
from kronops.caching import cached, fact
from kronops.errors import LinAlgError
from kronops.explaining import Account
from kronops.linear_system import solve
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.vectors import Shape

__all__ = ["InverseOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class InverseOperator(LinearOperator):
    """``base⁻¹``: its product is a solve with ``base``, whose factorisation is kept there.

    Parameters
    ----------
    base : LinearOperator
        A square operator.

    Raises
    ------
    LinAlgError
        ``base`` is singular; found out by the first product.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> inverse = kronops.DenseOperator(np.array([[2.0, 0.0], [0.0, 4.0]])).inverse()
    >>> inverse @ np.ones(2)
    array([0.5 , 0.25])
    """

    base: LinearOperator
    _internal = ("of",)

    @staticmethod
    def of(base: LinearOperator) -> InverseOperator:
        """That of an operator: its arrays have been checked when it was built."""
        made: InverseOperator = tree.rebuild(InverseOperator, {"base": base})
        return made

    @fact
    def backend(self) -> Backend:
        return self.base.backend

    @fact
    def dtype(self) -> Any:
        return self.base.dtype

    @fact
    def shape(self) -> tuple[int, int]:
        return self.base.shape

    @property
    def domain_shape(self) -> Shape:
        return self.base.range_shape

    @property
    def range_shape(self) -> Shape:
        return self.base.domain_shape

    @property
    def hermitian(self) -> bool:
        return self.base.hermitian

    def _matmat(self, x: Array) -> Array:
        return solve(self.base, x)

    # As a Kronecker factor it is a matrix, where that is as good: then products are planned. It is
    # factorised to know; until then it is an operator to those who only want to know.

    @property
    def _step_kind(self) -> str:  # type: ignore[override]
        return "operator" if self._matrix is None else "dense"

    @property
    def _step_kind_is_known(self) -> bool:  # type: ignore[override]
        return "_matrix" in self.__dict__

    def _step_array(self) -> Array:
        return super()._step_array() if self._matrix is None else self._matrix

    @cached
    def _matrix(self) -> Array | None:
        return self.base.written_inverse if isinstance(self.base, DenseOperator) else None

    def _adjoint(self) -> LinearOperator:
        return self if self.base.hermitian else self.base.H.inverse()

    def _transpose(self) -> LinearOperator:
        return self.base.T.inverse()

    def _inverse(self) -> LinearOperator:
        return self.base

    def _solve(self, x: Array) -> Array:
        return self.base._matmat(x)

    def _exponent(self) -> int:
        return -self.base._exponent()

    def _slogdet(self) -> tuple[Array, Array]:
        sign, logabsdet = self.base._slogdet()
        seen = self.backend.values(sign)
        if seen is not None and complex(seen) == 0:
            raise LinAlgError("the operator that is inverted is singular: add damping")
        return self.backend.conj(sign), -logabsdet

    def _to_dense(self) -> Array:
        if isinstance(self.base, DenseOperator) and not self._tracked:
            return self.base.inverse_matrix()
        return super()._to_dense()

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        values, basis = self.base._eigenbasis()
        return spectrum.reciprocal(values, "the operator"), basis

    def _account(self, operation: str, columns: int) -> Account:
        identities = {
            "multiply": ("A⁻¹ x, a solve", "multiply_inverse"),
            "multiply_inverse": ("(A⁻¹)⁻¹ = A", "multiply"),
            "logdet": ("log |A⁻¹| = -log |A|", "logdet"),
            "eigh": ("A⁻¹ has the eigenvectors of A", "eigh"),
        }
        identity, of_base = identities[operation]
        return Account(self, identity, parts=[self.base._account(of_base, columns)])

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        left, values, right = self.base._kept_svd
        spectrum.check_condition(values, True, "the operator that is inverted")
        return right, spectrum.reciprocal(values, "the operator that is inverted"), left

    def _norm(self, ord: Any) -> Array:
        if ord == "fro" or not isinstance(self.base, DenseOperator):
            return super()._norm(ord)
        # A matrix's inverse is a matrix: no structure is lost.
        return DenseOperator(self._to_dense(), check_finite=False)._norm(ord)

    def _power(self, p: float) -> LinearOperator:
        return self.base.power(-p)

    def _logm(self) -> LinearOperator:
        return -self.base._logm()

    def _root(self) -> LinearOperator:
        return self.base._root().inverse().H

    def _cholesky(self) -> LinearOperator:
        """With ``J`` the reversal and ``J M J = L Lᴴ``: ``M⁻¹ = (J L⁻ᴴ J)(J L⁻ᴴ J)ᴴ``."""
        if not isinstance(self.base, DenseOperator):
            return super()._cholesky()
        xp = self.backend.xp
        reversed_: Any = tree.map_leaves(self.base, lambda leaf: xp.flip(leaf))
        lower = self.backend.wide(reversed_.cholesky().matrix)
        identity = xp.eye(self.shape[0], dtype=lower.dtype, device=self.device)
        solved = self.backend.solve_triangular(lower, identity, lower=True, adjoint=True)
        made = xp.astype(xp.flip(solved), self.dtype, copy=False)
        return DenseOperator(made, domain_shape=self.domain_shape)
