"""A Kronecker product of general factors plus a multiple of the identity, solved exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from kronops import spectrum
from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.explaining import Account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.kronecker import KroneckerOperator, sample_of_sum
from kronops.scalars import Scalar, binary_exponent, conjugate
from kronops.scaling import dtype_exponent, exponent, outer, rescale, split

__all__ = ["KroneckerSchurOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KroneckerSchurOperator(LinearOperator):
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
    Bartels and Stewart's algorithm [1]_.

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

    def _slogdet(self) -> tuple[Array, Array]:
        xp = self.backend.xp
        if self.base._tracked:
            sign, logabsdet = self._differentiable_slogdet()
        else:
            flat = xp.reshape(self._eigenvalues, (-1,))
            sign, logabsdet = DiagonalOperator(flat, check_finite=False)._slogdet()
        # Complex eigenvalues of a real matrix come in pairs: the sign is real up to rounding.
        if not self._complex:
            real = xp.real(sign)
            one = xp.ones_like(real)
            sign = xp.where(real > 0, one, xp.where(real < 0, -one, 0 * one))
        return sign, logabsdet

    def _differentiable_slogdet(self) -> tuple[Array, Array]:
        """From ``log det``, which is holomorphic in the factors and in the shift."""
        xp = self.backend.xp
        matrices = [factor._to_dense() for factor in self.base.factors]
        shift = rescale(xp.ones((), dtype=self.dtype, device=self.device), [self.shift])
        logarithm = self.backend.with_gradients(
            self._log_determinant, self._log_determinant_gradients, [*matrices, shift]
        )
        angle = xp.imag(logarithm)
        return xp.cos(angle) + 1j * xp.sin(angle), xp.real(logarithm)

    def _log_determinant(self, arrays: Sequence[Array]) -> Array:
        *matrices, shift = arrays
        xp = self.backend.xp
        spectra = [_spectrum(DenseOperator(m, check_finite=False)) for m in matrices]
        return xp.sum(xp.log(outer(spectra, self.base.scale) + shift))

    def _log_determinant_gradients(self, arrays: Sequence[Array]) -> list[Array]:
        """``∂ log det / ∂Aₖ = Σⱼ μⱼ (μⱼ Aₖ + shift)⁻ᵀ``, with ``μ`` the spectrum of the others."""
        *matrices, shift = arrays
        xp = self.backend.xp
        factors = [DenseOperator(matrix, check_finite=False) for matrix in matrices]
        spectra = [_spectrum(factor) for factor in factors]
        gradients = []
        for k, factor in enumerate(factors):
            one = xp.ones((1,), dtype=spectra[k].dtype, device=self.device)
            mu = outer([one, *spectra[:k], *spectra[k + 1 :]], self.base.scale)
            gradients.append(xp.matrix_transpose(_sum_of_resolvents(factor, mu, shift)))
        return [*gradients, xp.sum(1 / (outer(spectra, self.base.scale) + shift))]

    def _solve(self, x: Array) -> Array:
        xp = self.backend.xp
        if not self.shape[0]:
            return self._matmat(x)
        forms = self.base.kept_schur
        triangles = [triangle for triangle, _ in forms]
        values = outer([xp.linalg.diagonal(t) for t in triangles], self.base.scale)
        shifts = rescale(xp.ones_like(values), [self.shift])
        spectrum.check_condition(values + shifts, True, "the damped Kronecker product")
        basis = KroneckerOperator([z for _, z in forms], check_finite=False)
        rotated = basis.H._matmat(xp.astype(x, xp.result_type(x.dtype, values.dtype), copy=False))
        tensor = xp.reshape(rotated, (*x.shape[:-2], *self.domain_shape, x.shape[-1]))
        batch = x.ndim - 2
        tensor = xp.moveaxis(tensor, tuple(range(batch)), tuple(range(-1 - batch, -1)))
        columns = math.prod(x.shape[:-2]) * x.shape[-1]
        flat = xp.reshape(tensor, (*self.domain_shape, columns))
        # Triangles near one: what is between them in a substitution may be out of range, or lost.
        sizes = [exponent(triangle) for triangle in triangles]
        triangles = [
            rescale(triangle, split(1.0, -size, dtype_exponent(triangle)))
            for triangle, size in zip(triangles, sizes, strict=True)
        ]
        one = xp.ones((), dtype=rotated.dtype, device=self.device)
        scale = rescale(one, split(self.base.scale, sum(sizes), dtype_exponent(one)))
        solved = xp.reshape(self._substitute(triangles, scale, flat), tensor.shape)
        solved = xp.moveaxis(solved, tuple(range(-1 - batch, -1)), tuple(range(batch)))
        made = basis._matmat(xp.reshape(solved, rotated.shape))
        real = not self._complex and self.backend.kind(x.dtype) != "complex floating"
        made = xp.real(made) if real else made
        return xp.astype(made, xp.result_type(self.dtype, x.dtype), copy=False)

    def _account(self, operation: str, columns: int) -> Account:
        n, sizes = self.shape[0], [factor.shape[0] for factor in self.base.factors]
        if operation == "multiply":
            parts = [self.base._account(operation, columns)]
            return Account(self, "(A ⊗ B + c I) x, as it is defined", 2 * n * columns, parts=parts)
        once = sum(25 * size**3 for size in sizes)
        if operation == "logdet":
            return Account(self, "log |T_A ⊗ T_B + c I|, of Schur forms", n, n, once)
        if operation == "eigh":
            return super()._account(operation, columns)
        # Two rotations and a substitution, each of about the cost of a product, in complex numbers.
        flops = 4 * 3 * 2 * n * sum(sizes) * columns
        words = "Z (T_A ⊗ T_B + c I)⁻¹ Zᴴ x, of complex Schur forms, by back substitution"
        return Account(self, words, flops, 2 * 3 * 2 * n * len(sizes) * columns, once)

    def _sample(self, normals: Normals) -> Array:
        """Of a product whose symmetry nobody can see; an error if it is seen to have none."""
        return sample_of_sum(self.base, self.shift, normals)

    def _substitute(self, triangles: list[Array], scale: Array, b: Array) -> Array:
        """Solve ``(scale · T1 ⊗ … ⊗ TN + shift·I) X = B`` for ``B`` of shape ``(n1, …, nN, k)``."""
        xp = self.backend.xp
        first, rest = triangles[0], triangles[1:]
        if not rest:
            identity = xp.eye(first.shape[0], dtype=first.dtype, device=self.device)
            matrix = scale * first + rescale(identity, [self.shift])
            return self.backend.solve_triangular(matrix, b, lower=False)
        below = KroneckerOperator(rest, check_finite=False)
        rows: list[Array] = []
        images: list[Array] = []  # (T2 ⊗ … ⊗ TN) of the rows already solved, the first row first
        for i in reversed(range(first.shape[0])):
            right = b[i, ...]
            if images:
                known = xp.tensordot(first[i, i + 1 :], xp.stack(images), axes=1)
                right = right - scale * known
            row = self._substitute(rest, scale * first[i, i], right)
            rows.insert(0, row)
            flat = xp.reshape(row, (below.shape[1], row.shape[-1]))
            images.insert(0, xp.reshape(below._matmat(flat), row.shape))
        return xp.stack(rows)

    @cached
    def _eigenvalues(self) -> Array:
        diagonals = [self.backend.xp.linalg.diagonal(t) for t, _ in self.base.kept_schur]
        values = outer(diagonals, self.base.scale)
        return values + rescale(self.backend.xp.ones_like(values), [self.shift])


def _spectrum(factor: DenseOperator) -> Array:
    """The eigenvalues, complex; in general the diagonal of the Schur form."""
    backend, xp = factor.backend, factor.backend.xp
    if not factor.hermitian:
        return xp.linalg.diagonal(backend.schur(factor.matrix)[0])
    values = factor._eigenbasis()[0]
    return xp.astype(values, xp.result_type(values.dtype, xp.complex64))


def _sum_of_resolvents(factor: DenseOperator, mu: Array, shift: Array) -> Array:
    """``Σⱼ μⱼ (μⱼ A + shift)⁻¹``."""
    xp = factor.backend.xp
    mu = mu[:, None]
    if factor.hermitian:
        values, basis = factor._eigenbasis()
        return factor._algebra.spectral(
            basis, xp.sum(mu / (mu * values + shift), axis=0)
        ).to_dense()
    identity = xp.eye(factor.shape[0], dtype=mu.dtype, device=factor.device)
    mu = mu[..., None]
    return xp.sum(mu * xp.linalg.inv(mu * factor.matrix + shift * identity), axis=0)
