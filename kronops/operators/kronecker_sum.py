"""Kronecker sums of any number of factors: separable equations, and those of Sylvester."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kronops import spectrum, tree
from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.caching import cached, fact
from kronops.checks import epsilon, is_complex
from kronops.columns import scaled_norm
from kronops.errors import LinAlgError
from kronops.explaining import Account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.diagonal import DiagonalOperator, polar
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator, as_factors
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.scaled import identity_multiple
from kronops.operators.schur_basis import SchurBasisOperator, substitute_rows
from kronops.scalars import Scalar, binary_exponent, conjugate, is_real, real_if_real
from kronops.scaling import dtype_exponent, rescale
from kronops.vectors import unflatten

__all__ = ["KroneckerSumOperator"]

_ROWS_AT_ONCE = 64  # of triangles that are solved with row by row


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class KroneckerSumOperator(SchurBasisOperator):
    """``A1 ⊕ … ⊕ AN = Σ I ⊗ … ⊗ Aᵢ ⊗ … ⊗ I``, with ``(A ⊕ B) vec(X) = vec(A X + X Bᵀ)``.

    Parameters
    ----------
    factors : sequence of arrays or operators
        One or more, square. Kronecker sums among them are flattened.
    check_finite : bool
        Whether NaN and infinity are looked for in the factors that are arrays.

    Raises
    ------
    ValueError
        No factors; a factor that is not 2-D, not square or not finite.
    TypeError
        Factors of two libraries or devices.

    Notes
    -----
    The eigenvalues are all sums of one eigenvalue of each factor. A product with one vector costs
    ``2 n Σ nᵢ`` flops. Hermitian factors are diagonalised once, ``9 nᵢ³`` flops each, and a solve
    costs ``4 n Σ nᵢ`` [1]_; near singularity, beyond condition numbers of ``1/√eps``, it costs
    ``10 n Σ nᵢ``, for it is refined once, by a residual in the same precision, which wins back
    what the rounding of eigenvectors loses. Other factors are brought to Schur form, ``25 nᵢ³``
    each, and a solve is a back substitution [2]_, ``n Σ nᵢ`` complex multiplications. Either serves
    every multiple of the operator and of the identity that is added: a new shift decomposes
    nothing.

    References
    ----------
    .. [1] Lynch, Rice and Thomas, Direct solution of partial difference equations by tensor product
       methods, Numer. Math. 6, 1964.
    .. [2] Bartels and Stewart, Solution of the matrix equation AX + XB = C, CACM 15, 1972.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> second_difference = 2 * np.eye(3) - np.eye(3, k=1) - np.eye(3, k=-1)
    >>> laplacian = kronops.KroneckerSumOperator([second_difference, second_difference])
    >>> laplacian.multiply(np.ones((3, 3)))
    array([[2., 1., 2.],
           [1., 0., 1.],
           [2., 1., 2.]])
    >>> np.allclose(laplacian.multiply_inverse(laplacian.multiply(np.eye(3))), np.eye(3))
    True
    """

    factors: tuple[LinearOperator, ...]
    shift: Scalar  # times the identity; not in a factor, whose decomposition it would undo
    _internal = ("kept_basis", "shift", "terms")

    def __init__(self, factors: Iterable[Any], *more: Any, check_finite: bool = True) -> None:
        if more:
            raise TypeError("factors are given one by one: a list is needed, [A, B]")
        flat: list[LinearOperator] = []
        shift: Scalar = 0.0
        for index, factor in enumerate(as_factors(factors, "factors", check_finite)):
            if not factor._square:
                raise ValueError(
                    f"factors[{index}] has shape {factor.shape}: a square matrix is needed"
                )
            if isinstance(factor, KroneckerSumOperator):
                flat.extend(factor.factors)
                shift = shift + factor.shift
            else:
                flat.append(factor)
        object.__setattr__(self, "factors", tuple(flat))
        object.__setattr__(self, "shift", shift)
        self._check_one_home()

    @fact
    def shape(self) -> tuple[int, int]:
        n = math.prod(self.domain_shape)
        return n, n

    @fact
    def domain_shape(self) -> tuple[int, ...]:
        return tuple(factor.shape[0] for factor in self.factors)

    @cached
    def hermitian(self) -> bool:
        real = is_real(real_if_real(self.shift))
        return real and all(factor.hermitian for factor in self.factors)

    # -- products ------------------------------------------------------------------------------

    def _matmat(self, x: Array) -> Array:
        return self._product(x, math.prod(x.shape[:-2]), x.shape[-1])

    def _apply_last(self, x: Array) -> Array:
        return self._product(x, math.prod(x.shape[:-1]), 1)

    def _product(self, x: Array, left: int, right: int) -> Array:
        """The sum of each factor's product with its axis of ``x``, seen as ``(left, n, right)``."""
        return functools.reduce(operator.add, self._parts(x, left, right))

    def _parts(self, x: Array, left: int, right: int) -> Iterator[Array]:
        right *= self.shape[0]
        for factor in self.factors:
            size = factor.shape[0]
            right //= max(size, 1)
            made = self.backend.apply_operator(factor, x, (left, size, right))
            yield self.backend.reshape(made, x.shape)
            left *= size
        if self._has_shift:
            yield rescale(x, [self.shift])

    def _adjoint(self) -> LinearOperator:
        if self.hermitian:
            return self
        return self._with([factor.H for factor in self.factors], conjugate(self.shift))

    def _transpose(self) -> LinearOperator:
        return self._with([factor.T for factor in self.factors], self.shift)

    # -- numbers -------------------------------------------------------------------------------

    def _exponent(self) -> int:
        parts = [factor._exponent() for factor in self.factors]
        return max(*parts, binary_exponent(self.shift)) if self._has_shift else max(parts)

    def _trace(self) -> Array:
        n = self.shape[0]
        traces = [factor._trace() * (n / max(factor.shape[0], 1)) for factor in self.factors]
        total = functools.reduce(operator.add, traces)
        return total + rescale(self.backend.xp.ones_like(total), [n * self.shift])

    def _diagonal(self) -> Array:
        return spectrum.sums([factor._diagonal() for factor in self.factors], self.shift)

    def _to_dense(self) -> Array:
        return functools.reduce(operator.add, [term._to_dense() for term in self.terms])

    def _entry(self, row: int, column: int) -> Array:
        return functools.reduce(operator.add, [t._entry(row, column) for t in self.terms])

    def _column(self, column: int) -> Array:
        return functools.reduce(operator.add, [t._column(column) for t in self.terms])

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        return functools.reduce(operator.add, [t._submatrix(rows, columns) for t in self.terms])

    def _slogdet(self) -> tuple[Array, Array]:
        if not self.hermitian:
            return super()._slogdet()
        self._untracked._check_regular(refuse=False)
        return DiagonalOperator(self._eigenvalues, check_finite=False)._slogdet()

    def _norm(self, ord: Any) -> Array:
        xp = self.backend.xp
        if not self.shape[0]:
            return xp.abs(self._trace())
        if ord == "fro":
            return self._frobenius_norm()
        if ord in (1, math.inf):
            return self._largest_sum(axis=0 if ord == 1 else 1)
        if not self.hermitian:
            return super()._norm(ord)
        magnitudes = xp.abs(self._eigenvalues)
        return xp.max(magnitudes) if ord == 2 else xp.sum(magnitudes)

    def _frobenius_norm(self) -> Array:
        """From parts that are orthogonal: a multiple of I, and factors less their mean diagonal."""
        xp, n = self.backend.xp, self.shape[0]
        means = [factor._trace() / factor.shape[0] for factor in self.factors]
        mean = functools.reduce(operator.add, means)
        total = mean + rescale(xp.ones_like(mean), [self.shift])
        parts = [xp.reshape(total, (1,)) * math.sqrt(n)]
        for factor, mean in zip(self.factors, means, strict=True):
            rest = xp.reshape(factor._shifted(-mean)._to_dense(), (-1,))
            parts.append(rest * math.sqrt(n // factor.shape[0]))
        return scaled_norm(xp, xp.concat(self.backend.promote(*parts)))

    def _largest_sum(self, axis: int) -> Array:
        """The largest sum of magnitudes in a column (``axis`` 0) or row.

        Only on the diagonal do the terms meet.
        """
        xp = self.backend.xp
        outside = []
        for factor in self.factors:
            apart = 1.0 - xp.eye(factor.shape[0], dtype=factor.dtype, device=self.device)
            outside.append(xp.sum(xp.abs(factor._to_dense() * apart), axis=axis))
        return xp.max(spectrum.sums(outside) + xp.abs(self._diagonal()))

    # -- functions of the eigenvalues ----------------------------------------------------------

    def _inverse(self) -> LinearOperator:
        twin = self._untracked
        if not twin.hermitian:
            return super()._inverse()
        twin._check_regular()
        return KroneckerEigenOperator.from_shift(self, 0.0, inverted=True)

    def _solve(self, x: Array) -> Array:
        if not self.hermitian:
            return super()._solve(x)
        self._check_regular()
        solved = self._diagonalised(x)
        if not self._near_singular:
            return solved
        correction = self._diagonalised(x - self._matmat(solved))
        xp = self.backend.xp  # residuals may be out of range where solutions are not
        return solved + xp.where(xp.isfinite(correction), correction, xp.zeros_like(correction))

    @cached
    def _near_singular(self) -> bool:
        """Whether a solve is refined once, as far as anybody sees."""
        found = spectrum.extreme_sums(self._spectra, self.shift)
        return found is not None and found[0] < epsilon(self._like) ** 0.5 * found[1]

    def _diagonalised(self, x: Array) -> Array:
        rotated = self.kept_basis.H._matmat(x)
        return self.kept_basis._matmat(rotated / self._eigenvalues[:, None])

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        pairs = [factor._eigenbasis() for factor in self.factors]
        spectra = [self.backend.xp.reshape(values, (-1,)) for values, _ in pairs]
        values = spectrum.sums(spectra, self.shift)
        return unflatten(values, self.domain_shape), self.kept_basis

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        if not self.hermitian:
            return super()._svd()
        phases, magnitudes = polar(self._eigenvalues)
        return self.kept_basis @ phases, magnitudes, self.kept_basis

    def _pinv(self, cutoff: Array) -> LinearOperator:
        if not self.hermitian:
            return super()._pinv(cutoff)
        values, basis = self._eigenbasis()
        return self._algebra.spectral(basis, spectrum.truncated_reciprocal(values, cutoff))

    def _power(self, p: float) -> LinearOperator:
        if p == 0 or (p.is_integer() and not self.hermitian):
            return super()._power(p)
        if p < 0 and self._untracked.hermitian:
            return self.inverse().power(-p)
        values, basis = self._eigenbasis()
        return self._algebra.spectral(basis, spectrum.power(values, p, self._label))

    def _expm(self) -> LinearOperator:
        """``exp(Σ cᵢ) · ⊗ exp(Aᵢ - cᵢ I)``, with ``cᵢ`` that keep large factors in range."""
        factors, shifts = self._shifted_factors, [0.0] * len(self.factors)
        if self.shape[0] and self._is_large:
            spectra = [self._spectrum(factor._untracked) for factor in factors]
            shifts = [float(self.backend.xp.max(_real(values))) for values in spectra]
            pairs = zip(factors, shifts, strict=True)
            factors = [factor._shifted(-shift) for factor, shift in pairs]
        try:
            scale = math.exp(math.fsum(shifts))
        except OverflowError:
            raise OverflowError(f"the exponential of {self._label} is out of range") from None
        return KroneckerOperator([factor._expm() for factor in factors], scale=scale)

    @property
    def _is_large(self) -> bool:
        """Whether the exponential of a factor may be out of range, as far as that is seen."""
        limit = 0.5 * math.log(2.0) * dtype_exponent(self._like)
        norms = [self.backend.values(factor._norm("fro")) for factor in self._shifted_factors]
        seen = [float(norm) for norm in norms if norm is not None]
        return len(seen) == len(norms) and max(seen) > limit

    def _root(self) -> LinearOperator:
        values, basis = self._eigenbasis()
        roots = spectrum.power(self.backend.xp.reshape(values, (-1,)), 0.5, self._label)
        return basis @ DiagonalOperator(roots, check_finite=False)

    def _sample(self, normals: Normals) -> Array:
        """A sum of draws for each term, without eigenvectors; else of the whole by these.

        A factor alone may be no covariance, which nobody sees before a graph is computed.
        """
        if not self._tracked and self.backend.values(self._like) is None:
            return super()._sample(normals)
        with contextlib.suppress(LinAlgError):
            return functools.reduce(operator.add, [t._sample(normals) for t in self.terms])
        return super()._sample(normals)

    @cached
    def kept_basis(self) -> KroneckerOperator:
        """The product of the factors' eigenbases, which these keep for all shifts."""
        bases = [factor._eigenbasis()[1] for factor in self.factors]
        return KroneckerOperator(bases, check_finite=False)

    def _account(self, operation: str, columns: int) -> Account:
        n, sizes = self.shape[0], [max(size, 1) for size in self.domain_shape]
        if operation == "multiply":
            parts = [
                factor._account(operation, columns * n // size)
                for factor, size in zip(self.factors, sizes, strict=True)
            ]
            added = n * (len(parts) - 1 + 2 * self._has_shift) * columns
            return Account(self, "(A ⊕ B) vec(X) = vec(A X + X Bᵀ)", added, 3 * added, parts=parts)
        if not self._untracked.hermitian:
            if operation == "eigh":
                return Account(self, "refused, for not all factors are Hermitian")
            return self._schur_account(operation, columns, "T_A ⊕ T_B + c I")
        once = [factor._account("eigh", 1) for factor in self.factors]
        if operation == "multiply_inverse":
            words = "Q diag(1 / (λ_A + λ_B + c)) Qᴴ x, the fast diagonalisation"
            flops, moved = 4 * n * sum(sizes) * columns, 4 * n * len(sizes) * columns
            if "_spectra" in self.__dict__ and self._near_singular:
                words, flops, moved = f"{words}, refined once", flops * 5 // 2, moved * 5 // 2
            return Account(self, words, flops, moved, parts=once)
        named = {"logdet": "the sum of log |λ_A + λ_B + c|", "eigh": "Q diag(λ_A + λ_B + c) Qᴴ"}
        return Account(self, named[operation], n, n, parts=once)

    # -- in the Schur bases --------------------------------------------------------------------

    @property
    def schur_factors(self) -> tuple[LinearOperator, ...]:
        return self.factors

    def _spectrum(self, factor: LinearOperator) -> Array:
        if not self.hermitian:
            return super()._spectrum(factor)
        return self.backend.xp.reshape(factor._eigenbasis()[0], (-1,))

    def _combined(self, spectra: Sequence[Array], shift: Scalar) -> Array:
        return spectrum.sums(spectra, shift)

    def _restricted(self, spectra: Sequence[Array], shift: Scalar) -> tuple[Array, Array]:
        zero = self.backend.xp.zeros((1,), dtype=shift.dtype, device=self.device)
        shifts = spectrum.sums([zero, *spectra], shift)
        return self.backend.xp.ones_like(shifts), shifts

    def _check_regular(self, refuse: bool = True) -> None:
        spectrum.check_sums(self._spectra, self.shift, self._label, refuse)

    def _substitute(self, triangles: list[Array], b: Array) -> Array:
        """By halving the largest triangle, so that what is between are products of matrices."""
        xp = self.backend.xp
        sizes = [triangle.shape[0] for triangle in triangles]
        n = max(sizes)
        if n <= _ROWS_AT_ONCE:
            return self._substitute_rows(triangles, self.shift, b)
        axis, half = sizes.index(n), n // 2
        view = math.prod(sizes[:axis]), n, math.prod(sizes[axis + 1 :]) * b.shape[1]
        largest, b_view = triangles[axis], xp.reshape(b, view)

        def solve(part: Array, right: Array) -> Array:
            flat = xp.reshape(right, (math.prod(sizes) // n * part.shape[0], b.shape[1]))
            parts = [*triangles[:axis], part, *triangles[axis + 1 :]]
            return xp.reshape(self._substitute(parts, flat), right.shape)

        lower = solve(largest[half:, half:], b_view[:, half:, :])
        known = xp.matmul(largest[:half, half:], lower)
        upper = solve(largest[:half, :half], b_view[:, :half, :] - known)
        return xp.reshape(xp.concat([upper, lower], axis=1), b.shape)

    def _substitute_rows(self, triangles: list[Array], shift: Scalar, b: Array) -> Array:
        """Solve ``(T1 ⊕ … ⊕ TN + shift·I) x = b`` for ``b`` of shape ``(n, k)``."""
        xp = self.backend.xp
        first, rest = triangles[0], triangles[1:]
        if not rest:
            identity = xp.eye(first.shape[0], dtype=first.dtype, device=self.device)
            matrix = first + rescale(identity, [shift])
            return self.backend.solve_triangular(matrix, b, lower=False)
        inner = math.prod(triangle.shape[0] for triangle in rest), b.shape[1]

        def solve_row(entry: Array, row: Array) -> Array:
            solved = self._substitute_rows(rest, shift + entry, xp.reshape(row, inner))
            return xp.reshape(solved, row.shape)

        wide = xp.reshape(b, (first.shape[0], math.prod(inner)))
        return xp.reshape(substitute_rows(first, wide, solve_row, lambda rows: rows), b.shape)

    # -- closed forms --------------------------------------------------------------------------

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return self._with(self.factors, self.shift + scalar)

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        scaled = [self._algebra.scale(scalar, factor) for factor in self.factors]
        return self._with(scaled, scalar * self.shift)

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, KroneckerSumOperator) and self.domain_shape == other.domain_shape:
            pairs = zip(self.factors, other.factors, strict=True)
            return self._with([a + b for a, b in pairs], self.shift + other.shift)
        if isinstance(other, KroneckerOperator):
            return self._plus_side(other)
        multiple = identity_multiple(other)
        return None if multiple is None else self._shifted(multiple)

    def _plus_side(self, other: KroneckerOperator) -> LinearOperator | None:
        """``(A ⊕ B) + C ⊗ I = (A + C) ⊕ B``."""
        fits = self.domain_shape == other.domain_shape == other.range_shape
        if not fits or other.layout != "in,out" or len(other.sides) != 1:
            return None
        factors, (side,) = list(self.factors), other.sides
        more = other.scale * other.factors[side]
        multiple = identity_multiple(factors[side])
        nothing = not is_array(multiple) and multiple == 0
        factors[side] = more if nothing else factors[side] + more
        return self._with(factors, self.shift)

    # -- inside --------------------------------------------------------------------------------

    def _with(self, factors: Iterable[LinearOperator], shift: Scalar) -> KroneckerSumOperator:
        """Other factors of the same sizes, made here and therefore not checked again."""
        fields = {"factors": tuple(factors), "shift": shift}
        made: KroneckerSumOperator = tree.rebuild(KroneckerSumOperator, fields)
        return made

    @property
    def terms(self) -> list[KroneckerOperator]:
        """``I ⊗ … ⊗ Aᵢ ⊗ … ⊗ I``; the shift is part of the first."""
        identities = [IdentityOperator(n, like=self._like) for n in self.domain_shape]
        return [
            KroneckerOperator([*identities[:index], factor, *identities[index + 1 :]])
            for index, factor in enumerate(self._shifted_factors)
        ]

    @property
    def _shifted_factors(self) -> list[LinearOperator]:
        """Factors that hold the shift themselves: the first has it."""
        first, *others = self.factors
        return [first._shifted(self.shift) if self._has_shift else first, *others]

    @property
    def _has_shift(self) -> bool:
        return is_array(self.shift) or self.shift != 0

    @property
    def _label(self) -> str:
        return f"the Kronecker sum {self.domain_shape}"


def _real(values: Array) -> Array:
    return backend_of(values).xp.real(values) if is_complex(values) else values
