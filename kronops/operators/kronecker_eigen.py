"""Operators that are diagonal in a Kronecker product of bases: exact damping, EKFAC."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from kronops import spectrum, tree
from kronops.backends.standard import Array
from kronops.checks import as_inexact, check_finite_values, epsilon, is_complex
from kronops.columns import scaled_norm
from kronops.operator import LinearOperator
from kronops.operators.dense import same
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator, as_factors
from kronops.operators.scaled import identity_multiple
from kronops.scaling import exponent, rescale

__all__ = ["KroneckerEigenOperator"]

Scalar = float | complex


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class KroneckerEigenOperator(LinearOperator):
    """``(⊗ Qᵢ) diag(λ) (⊗ Qᵢ)ᴴ``: a Kronecker product's eigenbasis with any eigenvalues.

    Parameters
    ----------
    bases : sequence of arrays or operators
        ``Qᵢ``, unitary, of shape ``(nᵢ, nᵢ)``.
    eigenvalues : array
        ``λ``, of shape ``(n1, …, nN)`` or flat.
    layout : {"in,out", "out,in"}
        Of ``(weights, bias)`` pairs, as of `KroneckerOperator`.
    check_finite : bool
        Whether NaN and infinity are looked for, and whether the bases are unitary.

    Raises
    ------
    ValueError
        Bases that are not unitary; eigenvalues of another size.

    Notes
    -----
    Exact damping of a Kronecker product, ``c·A ⊗ G + λ I``, is of this form [1]_, and so is
    EKFAC [2]_. A change of the damping costs ``n`` flops, a product ``4 n Σ nᵢ``. What
    ``damped`` makes keeps its ``definition``: products go through that, at half the cost and with
    componentwise accuracy, and solves through the eigenvalues.

    References
    ----------
    .. [1] Grosse and Martens, A Kronecker-factored approximate Fisher matrix for convolution
       layers, 2016, appendix B. https://arxiv.org/abs/1602.01407
    .. [2] George et al., Fast approximate natural gradient descent in a Kronecker-factored
       eigenbasis, 2018. https://arxiv.org/abs/1806.03884

    Examples
    --------
    >>> import numpy as np, kronops
    >>> swap = np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2)
    >>> op = kronops.KroneckerEigenOperator([swap, np.eye(2)], np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> op.eigh().eigenvalues
    array([1., 2., 3., 4.])
    """

    basis: KroneckerOperator
    eigenvalues: Array
    definition: LinearOperator | None

    def __init__(
        self,
        bases: Iterable[Any],
        eigenvalues: Any,
        *,
        layout: str = "in,out",
        check_finite: bool = True,
    ) -> None:
        factors = as_factors(bases, "bases", check_finite)
        values = as_inexact(eigenvalues, "eigenvalues")
        if check_finite:
            check_finite_values(values, "eigenvalues")
            for index, factor in enumerate(factors):
                _require_unitary(factor, f"bases[{index}]")
        basis = KroneckerOperator(factors, layout=layout)
        if tuple(values.shape) not in (basis.domain_shape, (basis.shape[0],)):
            raise ValueError(
                f"eigenvalues has shape {tuple(values.shape)}: "
                f"{basis.domain_shape} or ({basis.shape[0]},) would do"
            )
        copy = basis.backend.snapshot(values)
        object.__setattr__(self, "basis", basis)
        object.__setattr__(self, "eigenvalues", basis.backend.xp.reshape(copy, basis.domain_shape))
        object.__setattr__(self, "definition", None)
        self._check_one_home()

    @classmethod
    def from_basis(
        cls, basis: Any, eigenvalues: Array, definition: LinearOperator | None = None
    ) -> KroneckerEigenOperator:
        """From a unitary Kronecker product and eigenvalues made here: nothing is checked."""
        values = basis.backend.xp.reshape(eigenvalues, basis.domain_shape)
        made: KroneckerEigenOperator = tree.rebuild(
            cls, {"basis": basis, "eigenvalues": values, "definition": definition}
        )
        return made

    @property
    def bases(self) -> tuple[LinearOperator, ...]:
        """``Qᵢ``, as operators."""
        return self.basis.factors

    @property
    def shape(self) -> tuple[int, int]:
        return self.basis.shape

    @property
    def domain_shape(self) -> tuple[int, ...]:
        return self.basis.domain_shape

    @property
    def hermitian(self) -> bool:
        return not is_complex(self.eigenvalues)

    def _matmat(self, x: Array) -> Array:
        if self.definition is not None:
            return self.definition._matmat(x)
        return self.basis._matmat(self._flat[:, None] * self.basis.H._matmat(x))

    def _adjoint(self) -> LinearOperator:
        if self.hermitian:
            return self
        definition = self.definition and self.definition.H
        return self._with(self.backend.xp.conj(self.eigenvalues), definition)

    def _transpose(self) -> LinearOperator:
        definition = self.definition and self.definition.T
        return self.from_basis(self.basis.H.T, self.eigenvalues, definition)

    # -- functions of the eigenvalues ----------------------------------------------------------

    def _inverse(self) -> LinearOperator:
        spectrum.check_condition(self._flat, self.definition is not None, self._label)
        return self._with(spectrum.reciprocal(self.eigenvalues, self._label))

    def _power(self, p: float) -> LinearOperator:
        if p < 0:
            return self.inverse().power(-p)
        return self._with(spectrum.power(self.eigenvalues, p, self._label))

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        return self.eigenvalues, self.basis

    def _slogdet(self) -> tuple[Array, Array]:
        return DiagonalOperator(self._flat, check_finite=False)._slogdet()

    def _exponent(self) -> int:
        return exponent(self.eigenvalues)

    def _trace(self) -> Array:
        return self.backend.xp.sum(self.eigenvalues)

    def _diagonal(self) -> Array:
        """``Σₖ |Q_ik|² λₖ``: a Kronecker product of the squared bases, times the eigenvalues."""
        squares = [
            base if isinstance(base, IdentityOperator) else abs(base._to_dense()) ** 2
            for base in self.bases
        ]
        return KroneckerOperator(squares)._matmat(self._flat[:, None])[:, 0]

    def _norm(self, ord: Any) -> Array:
        xp = self.backend.xp
        if ord == "fro":
            return scaled_norm(xp, self.eigenvalues)
        if ord not in (2, "nuc"):
            return super()._norm(ord)
        magnitude = xp.abs(self.eigenvalues)
        return xp.max(magnitude) if ord == 2 and self.shape[0] else xp.sum(magnitude)

    # -- closed forms --------------------------------------------------------------------------

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        constant = rescale(self.backend.xp.ones_like(self.eigenvalues), [scalar])
        definition = self.definition and self._algebra.shift(self.definition, scalar)
        return self._with(self.eigenvalues + constant, definition)

    def _scaled(self, scalar: Scalar) -> LinearOperator:
        definition = self.definition and self.definition * scalar
        return self._with(rescale(self.eigenvalues, [scalar]), definition)

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, KroneckerEigenOperator) and self._same_basis(other):
            return self._with(self.eigenvalues + other.eigenvalues)
        multiple = identity_multiple(other)
        return None if multiple is None else self._shifted(multiple)

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, KroneckerEigenOperator) and self._same_basis(other):
            return self._with(self.eigenvalues * other.eigenvalues)
        return None

    # -- inside --------------------------------------------------------------------------------

    @property
    def _flat(self) -> Array:
        return self.backend.xp.reshape(self.eigenvalues, (-1,))

    @property
    def _label(self) -> str:
        return f"the Kronecker-eigen operator {self.domain_shape}"

    def _with(
        self, eigenvalues: Array, definition: LinearOperator | None = None
    ) -> KroneckerEigenOperator:
        return self.from_basis(self.basis, eigenvalues, definition)

    def _same_basis(self, other: KroneckerEigenOperator) -> bool:
        return self.domain_shape == other.domain_shape and all(
            same(a, b) for a, b in zip(self.bases, other.bases, strict=True)
        )


def _require_unitary(factor: LinearOperator, name: str) -> None:
    if not factor._square:
        raise ValueError(f"{name} has shape {factor.shape}: a square unitary matrix is needed")
    if isinstance(factor, IdentityOperator):
        return
    xp = factor.backend.xp
    matrix = factor.to_dense()
    if not factor.backend.values_visible(matrix) or not factor.shape[0]:
        return
    identity = xp.eye(factor.shape[0], dtype=factor.dtype, device=factor.device)
    gap = xp.abs(xp.matmul(factor.backend.adjoint(matrix), matrix) - identity)
    if float(xp.max(gap)) > 100 * factor.shape[0] * epsilon(matrix):
        raise ValueError(f"{name} {factor.shape} is not unitary: QᴴQ differs from the identity")
