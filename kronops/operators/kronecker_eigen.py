"""Operators that are diagonal in a Kronecker product of bases: exact damping, EKFAC."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any

from kronops import spectrum, tree
from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import as_inexact, check_finite_values, epsilon, is_complex
from kronops.columns import scaled_norm
from kronops.errors import LinAlgError
from kronops.explaining import Account
from kronops.linear_system import solve
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.dense import same
from kronops.operators.diagonal import DiagonalOperator, polar
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator, as_factors, sample_of_sum
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.scaled import identity_multiple
from kronops.scalars import Scalar, conjugate, is_real, real_if_real
from kronops.scaling import exponent, rescale
from kronops.vectors import unflatten

__all__ = ["KroneckerEigenOperator"]


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
    ``damped`` makes keeps its definition ``base + shift·I``: products, traces and diagonals go
    through that, at half the cost and with componentwise accuracy, and solves through the
    eigenvalues, which are formed when they are first needed.

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

    # Either a unitary rotation and eigenvalues, or what they follow from: base + shift·I, or its
    # inverse. Nothing that follows from arrays is a field, so that moving these moves all of it.
    rotation: KroneckerOperator | None
    values: Array | None
    base: Any  # a Kronecker product or sum, which keeps its `kept_basis`, or None
    shift: Scalar
    inverted: bool
    _internal = (
        "base",
        "basis",
        "definition",
        "from_basis",
        "from_shift",
        "inverted",
        "rotation",
        "shift",
        "values",
    )

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
        fields = _of_basis(basis, backend_of(values).snapshot(values))
        for name, content in fields.items():
            object.__setattr__(self, name, content)
        self._check_one_home()

    @classmethod
    def from_basis(cls, basis: Any, eigenvalues: Array) -> KroneckerEigenOperator:
        """From a unitary Kronecker product and eigenvalues made here: nothing is checked."""
        made: KroneckerEigenOperator = tree.rebuild(cls, _of_basis(basis, eigenvalues))
        return made

    @classmethod
    def from_shift(
        cls, base: LinearOperator, shift: Scalar, inverted: bool = False
    ) -> KroneckerEigenOperator:
        """``base + shift·I`` of a Hermitian Kronecker product, or its inverse; or that of a sum."""
        rest = {"rotation": None, "values": None}
        fields = {"base": base, "shift": shift, "inverted": inverted, **rest}
        made: KroneckerEigenOperator = tree.rebuild(cls, fields)
        made._check_one_home()
        return made

    @cached
    def basis(self) -> KroneckerOperator:
        """``⊗ Qᵢ``, unitary."""
        return self.rotation or self._definition.kept_basis

    @cached
    def eigenvalues(self) -> Array:
        """``λ``, in the domain shape (flat where no array has so many axes)."""
        if self.base is None:
            return self._unflattened(self.values)
        values = spectrum.in_range(self.base._eigenbasis()[0], self._label)
        one = self.backend.xp.ones((), dtype=values.dtype, device=self.device)
        shifted = values + rescale(one, [self.shift])
        if self.inverted:
            shifted = spectrum.reciprocal(shifted, self._label)
        return self._unflattened(shifted)

    @cached
    def definition(self) -> LinearOperator | None:
        """``base + shift·I`` as a sum, of operators that are this sum."""
        if self.base is None or self.inverted:
            return None
        return self._algebra.shift(self.base, self.shift)

    @property
    def bases(self) -> tuple[LinearOperator, ...]:
        """``Qᵢ``, as operators."""
        return self.basis.factors

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self._definition.shape
        return rows, columns

    @property
    def domain_shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._definition.domain_shape  # which knows its layout
        return shape

    @property
    def hermitian(self) -> bool:
        if self.base is not None:
            return self.base.hermitian and is_real(real_if_real(self.shift))
        return not is_complex(self.eigenvalues)

    def _matmat(self, x: Array) -> Array:
        if self.definition is not None:
            return self.definition._matmat(x)
        if self.inverted:
            return solve(self.inverse(), x)
        return self.basis._matmat(self._flat[:, None] * self.basis.H._matmat(x))

    def _solve(self, x: Array) -> Array:
        return self.basis._matmat(self.basis.H._matmat(x) / self._flat[:, None])

    def _adjoint(self) -> LinearOperator:
        if self.hermitian:
            return self
        if self.base is not None:
            return self.from_shift(self.base._adjoint(), conjugate(self.shift), self.inverted)
        return self._with(self.backend.xp.conj(self.eigenvalues))

    def _transpose(self) -> LinearOperator:
        if self.base is not None:
            return self.from_shift(self.base._transpose(), self.shift, self.inverted)
        return self.from_basis(self.basis.H.T, self.eigenvalues)

    # -- functions of the eigenvalues ----------------------------------------------------------

    def _inverse(self) -> LinearOperator:
        if self.inverted and isinstance(self.base, KroneckerOperator):
            return self.from_shift(self.base, self.shift)
        if self.inverted:  # a Kronecker sum holds its shift itself
            shifted: LinearOperator = self.base._shifted(self.shift)
            return shifted
        spectrum.check_condition(self._untracked._flat, self.base is not None, self._label)
        if self.base is not None:
            return self.from_shift(self.base, self.shift, inverted=True)
        return self._with(spectrum.reciprocal(self.eigenvalues, self._label))

    def _power(self, p: float) -> LinearOperator:
        if p < 0:
            return self.inverse().power(-p)
        if p.is_integer() and self._varies:
            return super()._power(p)
        return self._with(spectrum.power(self.eigenvalues, p, self._label))

    def _expm(self) -> LinearOperator:
        return self._with(spectrum.exp(self.eigenvalues, self._label))

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        return self.eigenvalues, self.basis

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        phases, magnitudes = polar(self._flat)
        return self.basis @ phases, magnitudes, self.basis

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self._with(spectrum.truncated_reciprocal(self.eigenvalues, cutoff))

    def _slogdet(self) -> tuple[Array, Array]:
        if self.inverted:
            sign, logabsdet = self.inverse()._slogdet()
            return self.backend.conj(sign), -logabsdet
        if self._varies:
            return KroneckerSchurOperator(self._definition, self.shift)._slogdet()
        computed = self.base is not None
        if computed:
            spectrum.check_condition(self._untracked._flat, computed, self._label, refuse=False)
        sign, logabsdet = DiagonalOperator(self._flat, check_finite=False)._slogdet()
        return self.backend.xp.astype(sign, self.dtype), logabsdet

    def _exponent(self) -> int:
        return (
            exponent(self.eigenvalues) if self.definition is None else self.definition._exponent()
        )

    def _trace(self) -> Array:
        if self.definition is not None:
            return self.definition._trace()
        return self.backend.xp.astype(self.backend.xp.sum(self.eigenvalues), self.dtype)

    def _diagonal(self) -> Array:
        """``Σₖ |Q_ik|² λₖ``: a Kronecker product of the squared bases, times the eigenvalues."""
        if self.definition is not None:
            return self.definition._diagonal()
        squares = [
            base if isinstance(base, IdentityOperator) else abs(base._to_dense()) ** 2
            for base in self.bases
        ]
        made = KroneckerOperator(squares)._matmat(self._flat[:, None])[:, 0]
        return self.backend.xp.astype(made, self.dtype, copy=False)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        if self.definition is not None:
            return self.definition._submatrix(rows, columns)
        return super()._submatrix(rows, columns)

    def _entry(self, row: int, column: int) -> Array:
        if self.definition is not None:
            return self.definition._entry(row, column)
        return super()._entry(row, column)

    def _column(self, column: int) -> Array:
        if self.definition is not None:
            return self.definition._column(column)
        return super()._column(column)

    def _norm(self, ord: Any) -> Array:
        xp = self.backend.xp
        if ord == "fro":
            return scaled_norm(xp, self.eigenvalues)
        if ord not in (2, "nuc"):
            return super()._norm(ord)
        magnitude = xp.abs(self.eigenvalues)
        return xp.max(magnitude) if ord == 2 and self.shape[0] else xp.sum(magnitude)

    def _root(self) -> LinearOperator:
        roots = spectrum.power(self._flat, 0.5, self._label)
        return self.basis @ DiagonalOperator(roots, check_finite=False)

    def _sample(self, normals: Normals) -> Array:
        if self.base is None:
            return super()._sample(normals)
        if self.inverted:
            return solve(self.inverse(), self.inverse()._sample(normals))
        with contextlib.suppress(LinAlgError):  # base alone may be no covariance
            return sample_of_sum(self.base, self.shift, normals)
        return super()._sample(normals)

    # -- closed forms --------------------------------------------------------------------------

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        if self.base is not None and not self.inverted:
            return self.from_shift(self.base, self.shift + scalar)
        constant = rescale(self.backend.xp.ones_like(self.eigenvalues), [scalar])
        return self._with(self.eigenvalues + constant)

    def _scaled(self, scalar: Scalar) -> LinearOperator:
        if self.base is not None and is_real(scalar) and (is_array(scalar) or scalar != 0):
            factor = 1 / scalar if self.inverted else scalar
            base = self._algebra.scale(factor, self.base)
            if isinstance(base, type(self.base)):
                return self.from_shift(base, factor * self.shift, self.inverted)
        return self._with(rescale(self.eigenvalues, [scalar]))

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, KroneckerEigenOperator) and self._same_basis(other):
            return self._with(self.eigenvalues + other.eigenvalues)
        multiple = identity_multiple(other)
        return None if multiple is None else self._shifted(multiple)

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, KroneckerEigenOperator) and self._same_basis(other):
            return self._with(self.eigenvalues * other.eigenvalues)
        return None

    def _named_parts(self) -> dict[str, Any]:
        arguments = {"rotation": "bases", "values": "eigenvalues"}
        return {arguments.get(name, name): part for name, part in super()._named_parts().items()}

    def _account(self, operation: str, columns: int) -> Account:
        n = self.shape[0]
        if self.inverted and operation.startswith("multiply"):
            other = "multiply" if operation == "multiply_inverse" else "multiply_inverse"
            account = self.inverse()._account(other, columns)
            return Account(self, "by the operator that is inverted", parts=[account])
        if operation == "multiply" and self.definition is not None:
            sum_ = self.definition._account(operation, columns)
            return Account(self, "(A ⊗ B + c I) x, as it is defined", parts=[sum_])
        once = [self.base._account("eigh", 1)] if self.base is not None else []
        if operation in ("logdet", "eigh"):
            words = {"logdet": "the sum of log |λ|", "eigh": "Q diag(λ) Qᴴ"}[operation]
            return Account(self, words, n, n, parts=once)
        words = "Q diag(λ) Qᴴ x" if operation == "multiply" else "Q diag(1 / λ) Qᴴ x"
        rotations = [self._definition._account("multiply", columns)] * 2  # Q is of these shapes
        return Account(self, words, n * columns, n, parts=[*once, *rotations])

    # -- inside --------------------------------------------------------------------------------

    @property
    def _definition(self) -> Any:
        """The Kronecker product or sum among the fields, of this operator's shapes."""
        return self.base or self.rotation

    @property
    def _varies(self) -> bool:
        """Whether it is Hermitian only now: its derivatives are those of a general product."""
        return self.base is not None and not self.base.hermitian

    @property
    def _flat(self) -> Array:
        return self.backend.xp.reshape(self.eigenvalues, (-1,))

    def _unflattened(self, values: Array) -> Array:
        return unflatten(self.backend.xp.reshape(values, (-1,)), self.domain_shape)

    @property
    def _label(self) -> str:
        return f"the Kronecker-eigen operator {self.domain_shape}"

    def _with(self, eigenvalues: Array) -> KroneckerEigenOperator:
        return self.from_basis(self.basis, eigenvalues)

    def _same_basis(self, other: KroneckerEigenOperator) -> bool:
        return self.domain_shape == other.domain_shape and all(
            same(a, b) for a, b in zip(self.bases, other.bases, strict=True)
        )


def _of_basis(basis: KroneckerOperator, eigenvalues: Array) -> dict[str, Any]:
    fields = {"rotation": basis, "values": eigenvalues}
    return fields | {"base": None, "shift": 0.0, "inverted": False}


def _require_unitary(factor: LinearOperator, name: str) -> None:
    if not factor._square:
        raise ValueError(f"{name} has shape {factor.shape}: a square unitary matrix is needed")
    if isinstance(factor, IdentityOperator):
        return
    xp = factor.backend.xp
    matrix = factor.backend.values(factor.to_dense())
    if matrix is None or not factor.shape[0]:
        return
    identity = xp.eye(factor.shape[0], dtype=factor.dtype, device=factor.device)
    gap = xp.abs(xp.matmul(factor.backend.adjoint(matrix), matrix) - identity)
    if float(xp.max(gap)) > 100 * factor.shape[0] * epsilon(matrix):
        raise ValueError(f"{name} {factor.shape} is not unitary: QᴴQ differs from the identity")
