"""Solves and determinants of what is triangular in the Schur bases of its Kronecker factors."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from kronops import spectrum
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import epsilon
from kronops.columns import scaled_norm
from kronops.explaining import Account, default_account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.refinement import norm_estimate
from kronops.scalars import Scalar
from kronops.scaling import rescale

__all__ = ["SchurBasisOperator", "substitute_rows"]


class SchurBasisOperator(LinearOperator):
    """``(⊗ Zᵢ) M (⊗ Zᵢ)ᴴ`` with ``M`` upper triangular, by the factors' forms ``Aᵢ = Zᵢ Tᵢ Zᵢᴴ``.

    Subclasses have a ``shift``, and say how ``M`` is made of the ``Tᵢ``: by their sum or their
    product, plus the shift times the identity. The forms are kept by the factors, for all shifts.
    """

    shift: Scalar
    _internal: ClassVar[tuple[str, ...]] = ("schur_factors",)

    @property
    @abstractmethod
    def schur_factors(self) -> tuple[LinearOperator, ...]:
        """``Aᵢ``, square."""

    @property
    @abstractmethod
    def _label(self) -> str:
        """What error messages call the operator."""

    def _spectrum(self, factor: LinearOperator) -> Array:
        """The eigenvalues of a factor, flat."""
        return self.backend.xp.linalg.diagonal(factor._schur_form[0])

    @abstractmethod
    def _combined(self, spectra: Sequence[Array], shift: Scalar) -> Array:
        """The eigenvalues, flat, from those of the factors."""

    @abstractmethod
    def _restricted(self, spectra: Sequence[Array], shift: Scalar) -> tuple[Array, Array]:
        """``w, s``, flat: on each eigenvector of the factors but one it is ``wⱼ A + sⱼ I``."""

    @abstractmethod
    def _substitute(self, triangles: list[Array], b: Array) -> Array:
        """``M⁻¹ b`` for ``b`` of shape ``(n, k)``."""

    @cached
    def _spectra(self) -> list[Array]:
        return [self._spectrum(factor) for factor in self.schur_factors]

    @cached
    def _eigenvalues(self) -> Array:
        return self._combined(self._spectra, self.shift)

    def _check_regular(self, refuse: bool = True) -> None:
        """`LinAlgError` if an eigenvalue is zero, `LinAlgWarning` if one is nearly so."""
        spectrum.check_condition(self._eigenvalues, True, self._label, refuse)

    @cached
    def _growth(self) -> float:
        """An estimate of the condition number, which eigenvalues do not bound; it warns.

        For a vector of normal numbers ``‖op⁻¹ z‖`` is the Frobenius norm of the inverse in the mean
        (Kenney and Laub, Small-sample statistical condition estimates, SIAM J. Sci. Comput. 15,
        1994); two such vectors are enough to see that nothing is left of the digits.
        """
        triangles = [form for form, _ in (factor._schur_form for factor in self.schur_factors)]
        if any(self.backend.values(triangle) is None for triangle in triangles):
            return math.inf  # nobody knows
        rng, dtype = np.random.default_rng(0), triangles[0].dtype
        grown = 0.0
        for _ in range(2):  # one after the other, for the memory
            draw = Normals(self.backend, rng, dtype, self.device, count=1).columns(self.shape[0])
            solved = self._substitute(triangles, draw)
            grown = max(grown, float(scaled_norm(self.backend.xp, solved[:, 0])))
            del draw, solved
        condition = norm_estimate(self) * grown
        if condition > 0.1 / epsilon(self._like):
            spectrum.warn_of(condition, self._label)
        return condition

    def _solve(self, x: Array) -> Array:
        if not self.shape[0]:
            return self._matmat(x)
        self._check_regular()
        _ = self._untracked._growth
        xp = self.backend.xp
        forms = [factor._schur_form for factor in self.schur_factors]
        basis = KroneckerOperator([z for _, z in forms], check_finite=False)
        columns = xp.moveaxis(basis.H._matmat(x), (-2,), (0,))
        flat = xp.reshape(columns, (self.shape[0], math.prod(columns.shape[1:])))
        solved = self._substitute([triangle for triangle, _ in forms], flat)
        made = basis._matmat(xp.moveaxis(xp.reshape(solved, columns.shape), (0,), (-2,)))
        real = not self._complex and self.backend.kind(x.dtype) != "complex floating"
        return xp.astype(
            xp.real(made) if real else made, xp.result_type(self.dtype, x.dtype), copy=False
        )

    def _slogdet(self) -> tuple[Array, Array]:
        xp = self.backend.xp
        if any(factor._tracked for factor in self.schur_factors):
            sign, logabsdet = self._differentiable_slogdet()
        else:
            self._check_regular(refuse=False)
            sign, logabsdet = DiagonalOperator(self._eigenvalues, check_finite=False)._slogdet()
        # Complex eigenvalues of a real matrix come in pairs: the sign is real up to rounding.
        if not self._complex:
            real = xp.real(sign)
            one = xp.ones_like(real)
            sign = xp.where(real > 0, one, xp.where(real < 0, -one, 0 * one))
        return sign, logabsdet

    def _schur_account(self, operation: str, columns: int, middle: str) -> Account:
        """Of what is not a product; ``middle``: how the triangular matrix is made."""
        n, sizes = self.shape[0], [factor.shape[0] for factor in self.schur_factors]
        once = sum(25 * size**3 for size in sizes)
        if operation == "eigh":
            return default_account(self, operation, columns, own=False)
        if operation == "logdet":
            return Account(self, f"log |{middle}|, of complex Schur forms", n, n, once)
        # Two rotations and a substitution, each of about the cost of a product, in complex numbers.
        flops = 4 * 3 * 2 * n * sum(sizes) * columns
        words = f"Z ({middle})⁻¹ Zᴴ x, of complex Schur forms, by back substitution"
        return Account(self, words, flops, 2 * 3 * 2 * n * len(sizes) * columns, once)

    def _differentiable_slogdet(self) -> tuple[Array, Array]:
        """From ``log det``, which is holomorphic in the factors and in the shift."""
        xp = self.backend.xp
        matrices = [factor._to_dense() for factor in self.schur_factors]
        shift = rescale(xp.ones((), dtype=self.dtype, device=self.device), [self.shift])
        logarithm = self.backend.with_gradients(
            self._log_determinant, self._log_determinant_gradients, [*matrices, shift]
        )
        angle = xp.imag(logarithm)
        return xp.cos(angle) + 1j * xp.sin(angle), xp.real(logarithm)

    def _log_determinant(self, arrays: Sequence[Array]) -> Array:
        *matrices, shift = arrays
        xp = self.backend.xp
        spectra = [_eigenvalues(DenseOperator(m, check_finite=False)) for m in matrices]
        return xp.sum(xp.log(self._combined(spectra, shift)))

    def _log_determinant_gradients(self, arrays: Sequence[Array]) -> list[Array]:
        """``∂ log det / ∂Aₖ = Σⱼ wⱼ (wⱼ Aₖ + sⱼ)⁻ᵀ``, over the eigenvectors of the others."""
        *matrices, shift = arrays
        xp = self.backend.xp
        factors = [DenseOperator(matrix, check_finite=False) for matrix in matrices]
        spectra = [_eigenvalues(factor) for factor in factors]
        gradients = []
        for k, factor in enumerate(factors):
            weights, shifts = self._restricted([*spectra[:k], *spectra[k + 1 :]], shift)
            gradients.append(xp.matrix_transpose(_sum_of_resolvents(factor, weights, shifts)))
        return [*gradients, xp.sum(1 / self._combined(spectra, shift))]


def substitute_rows(
    triangle: Array,
    b: Array,
    solve_row: Callable[[Array, Array], Array],
    image: Callable[[Array], Array],
) -> Array:
    """Rows ``xᵢ`` with ``solve_row(tᵢᵢ, bᵢ - Σ_{j>i} tᵢⱼ image(xⱼ)) = xᵢ``, the last row first.

    The rows are halved again and again, so that the sums are products of large matrices. ``b`` has
    shape ``(n, m)``; ``image`` is linear and acts on each of the rows that it is given.
    """
    n = triangle.shape[0]
    if n == 1:
        return solve_row(triangle[0, 0], b)
    xp, half = backend_of(triangle).xp, n // 2
    lower = substitute_rows(triangle[half:, half:], b[half:, :], solve_row, image)
    rest = b[:half, :] - xp.matmul(triangle[:half, half:], image(lower))
    upper = substitute_rows(triangle[:half, :half], rest, solve_row, image)
    return xp.concat([upper, lower])


def _eigenvalues(factor: DenseOperator) -> Array:
    """The eigenvalues, complex; in general the diagonal of the Schur form."""
    backend, xp = factor.backend, factor.backend.xp
    if not factor.hermitian:
        return xp.linalg.diagonal(backend.schur(factor._finite)[0])
    values = factor._eigenbasis()[0]
    return xp.astype(values, xp.result_type(values.dtype, xp.complex64))


def _sum_of_resolvents(factor: DenseOperator, weights: Array, shifts: Array) -> Array:
    """``Σⱼ wⱼ (wⱼ A + sⱼ)⁻¹``."""
    xp = factor.backend.xp
    weights, shifts = weights[:, None], shifts[:, None]
    if factor.hermitian:
        values, basis = factor._eigenbasis()
        terms = weights / (weights * values + shifts)
        return factor._algebra.spectral(basis, xp.sum(terms, axis=0)).to_dense()
    weights, shifts = weights[..., None], shifts[..., None]
    identity = xp.eye(factor.shape[0], dtype=weights.dtype, device=factor.device)
    inverses = xp.linalg.inv(weights * factor.matrix + shifts * identity)
    return xp.sum(weights * inverses, axis=0)
