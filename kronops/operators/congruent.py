"""What becomes simple in bases that need not be orthogonal: ``V C Vᴴ``."""

from __future__ import annotations

import dataclasses

from kronops.backends.standard import Array
from kronops.explaining import Account, default_account
from kronops.operator import LinearOperator
from kronops.operators.kronecker import KroneckerOperator

__all__ = ["CongruentOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CongruentOperator(LinearOperator):
    """``V C Vᴴ`` with a ``V`` whose inverse is known: a generalised eigenproblem, solved.

    Parameters
    ----------
    core : LinearOperator
        ``C``, easy to solve with: diagonal, or a Kronecker product or sum with a shift.
    duals : KroneckerOperator
        ``V``.
    vectors : KroneckerOperator
        ``V⁻ᴴ``, whose columns are the generalised eigenvectors if ``C`` is diagonal.
    log_volume : array, shape ()
        ``log |det V|``.

    Notes
    -----
    A solve costs two products with ``V⁻¹`` and one solve with ``C``. It is as accurate as ``V`` is
    well-conditioned, and therefore refined by what asks for it [1]_.

    References
    ----------
    .. [1] Golub and Van Loan, Matrix Computations, 4th edition, 2013, section 8.7.
    """

    core: LinearOperator
    duals: KroneckerOperator
    vectors: KroneckerOperator
    log_volume: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.duals.shape

    @property
    def domain_shape(self) -> tuple[int, ...]:
        return self.duals.range_shape

    @property
    def hermitian(self) -> bool:
        return self.core.hermitian

    def _matmat(self, x: Array) -> Array:
        return self.duals._matmat(self.core._matmat(self.duals.H._matmat(x)))

    def _adjoint(self) -> LinearOperator:
        return self if self.hermitian else self._with(self.core.H)

    def _inverse(self) -> LinearOperator:
        core = self.core.inverse()
        return CongruentOperator(core, self.vectors, self.duals, -self.log_volume)

    def _slogdet(self) -> tuple[Array, Array]:
        sign, logabsdet = self.core._slogdet()
        return sign, logabsdet + 2 * self.log_volume

    def _root(self) -> LinearOperator:
        return self.duals @ self.core._root()

    def _account(self, operation: str, columns: int) -> Account:
        if operation == "eigh":
            return default_account(self, operation, columns, own=False)
        if operation == "logdet":
            parts = [self.core._account(operation, columns)]
            return Account(self, "log |V C Vᴴ| = log |C| + 2 log |V|", parts=parts)
        words = {"multiply": "V C Vᴴ x", "multiply_inverse": "V⁻ᴴ C⁻¹ V⁻¹ x"}[operation]
        rotation = self.duals._account("multiply", columns)
        parts = [rotation, self.core._account(operation, columns), rotation]
        return Account(self, words, parts=parts)

    def _with(self, core: LinearOperator) -> CongruentOperator:
        return CongruentOperator(core, self.duals, self.vectors, self.log_volume)
