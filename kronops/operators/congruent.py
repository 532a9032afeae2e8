"""What becomes simple in bases that need not be orthogonal: ``V C Vᴴ``."""

from __future__ import annotations

import dataclasses

from kronops.backends.standard import Array
from kronops.checks import epsilon
from kronops.errors import LinAlgWarning, warn
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
    condition : float
        About the largest condition number of ``Vᵢ Vᵢᴴ`` of the factors.

    Notes
    -----
    A solve costs two products with ``V⁻¹`` and one solve with ``C`` [1]_. It loses as many digits
    as ``condition`` has, and is therefore refined by what asks for it. The determinant is not; its
    logarithm has an error of about ``10 eps condition``, times the condition number of the operator
    itself at worst (tests/test_sums.py), with a warning where that is more than the root of
    ``eps``.

    References
    ----------
    .. [1] Golub and Van Loan, Matrix Computations, 4th edition, 2013, section 8.7.
    """

    core: LinearOperator
    duals: KroneckerOperator
    vectors: KroneckerOperator
    log_volume: Array
    condition: float

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
        return CongruentOperator(core, self.vectors, self.duals, -self.log_volume, self.condition)

    def _slogdet(self) -> tuple[Array, Array]:
        eps = epsilon(self._like)
        if 10 * eps * self.condition > eps**0.5:
            warn(
                f"the determinant of the sum of Kronecker products {self.shape} is computed "
                f"relative to terms of condition number {self.condition:.1e}, and its logarithm "
                f"has an error of about {10 * eps * self.condition:.0e}: damp the terms, or write "
                f"the sum out, DenseOperator(op.to_dense())",
                LinAlgWarning,
            )
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
        return dataclasses.replace(self, core=core)
