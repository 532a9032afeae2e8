"""A Kronecker product of general factors plus a multiple of the identity, solved exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.explaining import Account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.kronecker import KroneckerOperator, sample_of_sum
from kronops.operators.schur_basis import SchurBasisOperator, substitute_rows
from kronops.scalars import Scalar, binary_exponent, conjugate
from kronops.scaling import dtype_exponent, exponent, outer, rescale, split

__all__ = ["KroneckerSchurOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KroneckerSchurOperator(SchurBasisOperator):
    """``base + shift·I`` for a Kronecker product whose factors are not Hermitian.

    With the complex Schur forms ``Aᵢ = Zᵢ Tᵢ Zᵢᴴ`` the operator is
    ``(⊗ Zᵢ)(scale · ⊗ Tᵢ + shift·I)(⊗ Zᵢ)ᴴ``, and the middle is upper triangular.

    Parameters
    ----------
    base : KroneckerOperator
        With square factors.
    shift : float or complex

    Notes
    -----
    The Schur forms cost about ``25 nᵢ³`` flops, once for all shifts. A solve is a back
    substitution with ``n1 ⋯ n_{N-1}`` triangular solves of size ``nN``, the generalisation of
    Bartels and Stewart's algorithm [1]_; what is between them are products of matrices.

    References
    ----------
    .. [1] Bartels and Stewart, Solution of the matrix equation AX + XB = C, CACM 15, 1972.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> shear = np.array([[1.0, 1.0], [0.0, 1.0]])
    >>> op = kronops.kron(shear, shear).damped(1.0)
    >>> op @ op.solve(np.array([1.0, 2.0, 3.0, 4.0]))
    array([1., 2., 3., 4.])
    """

    base: KroneckerOperator
    shift: Scalar

    @property
    def shape(self) -> tuple[int, int]:
        return self.base.shape

    @property
    def domain_shape(self) -> tuple[int, ...]:
        return self.base.domain_shape

    def _matmat(self, x: Array) -> Array:
        return self.base._matmat(x) + rescale(x, [self.shift])

    def _adjoint(self) -> LinearOperator:
        return self.base.H._shifted(conjugate(self.shift))

    def _transpose(self) -> LinearOperator:
        return self.base.T._shifted(self.shift)

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return KroneckerSchurOperator(self.base, self.shift + scalar)

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        if not is_array(scalar) and scalar == 0:
            return None
        return KroneckerSchurOperator(scalar * self.base, scalar * self.shift)

    def _exponent(self) -> int:
        return max(self.base._exponent(), binary_exponent(self.shift))

    def _diagonal(self) -> Array:
        diagonal = self.base._diagonal()
        return diagonal + rescale(self.backend.xp.ones_like(diagonal), [self.shift])

    def _trace(self) -> Array:
        return self.base._trace() + self.shape[0] * self.shift

    def _sample(self, normals: Normals) -> Array:
        """Of a product whose symmetry nobody can see; an error if it is seen to have none."""
        return sample_of_sum(self.base, self.shift, normals)

    # -- in the Schur bases --------------------------------------------------------------------

    @property
    def schur_factors(self) -> tuple[LinearOperator, ...]:
        return self.base.factors

    @property
    def _label(self) -> str:
        return "the damped Kronecker product"

    def _combined(self, spectra: Sequence[Array], shift: Scalar) -> Array:
        values = outer(spectra, self.base.scale)
        return values + rescale(self.backend.xp.ones_like(values), [shift])

    def _restricted(self, spectra: Sequence[Array], shift: Scalar) -> tuple[Array, Array]:
        one = self.backend.xp.ones((1,), dtype=shift.dtype, device=self.device)
        weights = outer([one, *spectra], self.base.scale)
        return weights, rescale(self.backend.xp.ones_like(weights), [shift])

    def _substitute(self, triangles: list[Array], b: Array) -> Array:
        # Triangles near one: what is between them in a substitution may be out of range, or lost.
        sizes = [exponent(triangle) for triangle in triangles]
        triangles = [
            rescale(triangle, split(1.0, -size, dtype_exponent(triangle)))
            for triangle, size in zip(triangles, sizes, strict=True)
        ]
        one = self.backend.xp.ones((), dtype=triangles[0].dtype, device=self.device)
        scale = rescale(one, split(self.base.scale, sum(sizes), dtype_exponent(one)))
        return self._solve_triangular(triangles, scale, b)

    def _account(self, operation: str, columns: int) -> Account:
        n = self.shape[0]
        if operation == "multiply":
            parts = [self.base._account(operation, columns)]
            return Account(self, "(A ⊗ B + c I) x, as it is defined", 2 * n * columns, parts=parts)
        return self._schur_account(operation, columns, "T_A ⊗ T_B + c I")

    def _solve_triangular(self, triangles: list[Array], scale: Array, b: Array) -> Array:
        """Solve ``(scale · T1 ⊗ … ⊗ TN + shift·I) x = b`` for ``b`` of shape ``(n, k)``."""
        xp = self.backend.xp
        first, rest = triangles[0], triangles[1:]
        if not rest:
            identity = xp.eye(first.shape[0], dtype=first.dtype, device=self.device)
            matrix = scale * first + rescale(identity, [self.shift])
            return self.backend.solve_triangular(matrix, b, lower=False)
        below = KroneckerOperator(rest, check_finite=False)
        inner = below.shape[0], b.shape[1]

        def solve_row(entry: Array, row: Array) -> Array:
            solved = self._solve_triangular(rest, scale * entry, xp.reshape(row, inner))
            return xp.reshape(solved, row.shape)

        def image(rows: Array) -> Array:
            stack = xp.reshape(rows, (rows.shape[0], *inner))
            return xp.reshape(scale * below._matmat(stack), rows.shape)

        wide = xp.reshape(b, (first.shape[0], math.prod(inner)))
        return xp.reshape(substitute_rows(first, wide, solve_row, image), b.shape)
