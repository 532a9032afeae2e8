"""A scalar times an operator."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.errors import LinAlgError
from kronops.explaining import Account
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.identity import IdentityOperator
from kronops.scalars import (
    Scalar,
    binary_exponent,
    conjugate,
    is_real,
    real_if_real,
    scalar_exp,
    scalar_power,
    unit_power,
)
from kronops.scaling import rescale
from kronops.vectors import Shape

__all__ = ["ScaledOperator", "identity_multiple"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScaledOperator(LinearOperator):
    """``scalar · base``, made by ``*`` where the scalar cannot be folded into the operator.

    Parameters
    ----------
    scalar : float or complex
        Or an array without axes, where it is traced or differentiated.
    base : LinearOperator

    Examples
    --------
    >>> import numpy as np, kronops
    >>> (2 * (3 * kronops.DenseOperator(np.eye(2)))).scalar
    6.0
    """

    scalar: Scalar
    base: LinearOperator

    @property
    def shape(self) -> tuple[int, int]:
        return self.base.shape

    @property
    def domain_shape(self) -> Shape:
        return self.base.domain_shape

    @property
    def range_shape(self) -> Shape:
        return self.base.range_shape

    @property
    def hermitian(self) -> bool:
        return is_real(real_if_real(self.scalar)) and self.base.hermitian

    def _matmat(self, x: Array) -> Array:
        return rescale(self.base._matmat(x), [self.scalar])

    def _apply_last(self, x: Array) -> Array:
        return rescale(self.base._apply_last(x), [self.scalar])

    def _adjoint(self) -> LinearOperator:
        return _multiple(self.base.H, conjugate(self.scalar))

    def _transpose(self) -> LinearOperator:
        return _multiple(self.base.T, self.scalar)

    def _inverse(self) -> LinearOperator:
        if self._is_zero:
            raise LinAlgError("0 times an operator is singular: there is no inverse")
        return _multiple(self.base.inverse(), 1 / self.scalar)

    def _slogdet(self) -> tuple[Array, Array]:
        sign, logabsdet = self.base._slogdet()
        n = self.shape[0]
        if n == 0:
            return sign, logabsdet
        if self._is_zero:
            return sign * 0.0, logabsdet * 0.0 - math.inf
        size = abs(self.scalar)
        log = self.backend.xp.log(size) if is_array(size) else math.log(size)
        return rescale(sign, [unit_power(self.scalar / size, n)]), logabsdet + n * log

    def _exponent(self) -> int:
        return self.base._exponent() + binary_exponent(self.scalar)

    def _trace(self) -> Array:
        return rescale(self.base._trace(), [self.scalar])

    def _diagonal(self) -> Array:
        return rescale(self.base._diagonal(), [self.scalar])

    def _to_dense(self) -> Array:
        return rescale(self.base._to_dense(), [self.scalar])

    def _masked(self, kept: Array) -> LinearOperator | None:
        made = self.base._masked(kept)
        return None if made is None else made * self.scalar

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        return rescale(self.base._submatrix(rows, columns), [self.scalar])

    def _entry(self, row: int, column: int) -> Array:
        return rescale(self.base._entry(row, column), [self.scalar])

    def _column(self, column: int) -> Array:
        return rescale(self.base._column(column), [self.scalar])

    def _norm(self, ord: Any) -> Array:
        return self.base._norm(ord) * abs(self.scalar)

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        values, basis = self.base._eigenbasis()
        return rescale(values, [self.scalar]), basis

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        left, values, right = self.base._kept_svd
        size = abs(self.scalar)
        phase = 1.0 if self._is_zero else self.scalar / size
        return left * phase, rescale(values, [size]), right

    def _spectral_norm(self) -> Array:
        return rescale(self.base._spectral_norm(), [abs(self.scalar)])

    def _pinv(self, cutoff: Array) -> LinearOperator:
        if self._is_zero:
            return self.H
        return _multiple(self.base._pinv(cutoff / abs(self.scalar)), 1 / self.scalar)

    def _power(self, p: float) -> LinearOperator:
        if self._is_zero and p < 0:
            raise LinAlgError(f"0 times an operator is singular: it has no power {p}")
        if isinstance(self.base, DenseOperator):
            return self._densified.power(p)
        if p.is_integer() or self._is_positive:
            return _multiple(self.base.power(p), scalar_power(self.scalar, p))
        return super()._power(p)

    def _expm(self) -> LinearOperator:
        if isinstance(self.base, IdentityOperator):
            return _multiple(self.base, scalar_exp(self.scalar))
        return super()._expm()

    def _logm(self) -> LinearOperator:
        if is_array(self.scalar) or not self._is_positive:
            return super()._logm()
        return self.base._logm()._shifted(math.log(real_if_real(self.scalar)))

    def _cholesky(self) -> LinearOperator:
        if not self._is_positive:
            return super()._cholesky()
        return _multiple(self.base.cholesky(), scalar_power(real_if_real(self.scalar), 0.5))

    def _root(self) -> LinearOperator:
        if self._is_zero:
            return self
        if not self._is_positive:
            return super()._root()
        return _multiple(self.base._root(), scalar_power(real_if_real(self.scalar), 0.5))

    @cached
    def _schur_form(self) -> tuple[Array, Array]:
        triangle, basis = self.base._schur_form
        return rescale(triangle, [self.scalar]), basis

    @cached
    def _densified(self) -> LinearOperator:
        if isinstance(self.base, DenseOperator):
            return self.base.scaled_entries(self.scalar)
        return super()._densified

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        """Multiples of matrices add up to a matrix."""
        if not isinstance(self.base, DenseOperator):
            return None
        matrix = isinstance(other, ScaledOperator) and isinstance(other.base, DenseOperator)
        made: LinearOperator | None = self._densified._plus(other._densified if matrix else other)
        return made

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        if isinstance(self.base, DenseOperator):
            return self._densified._shifted(scalar)
        plain = not is_array(self.scalar) and not is_array(scalar)
        if plain and (self._is_zero or not math.isfinite(abs(scalar / self.scalar))):
            return super()._shifted(scalar)
        return _multiple(self.base._shifted(scalar / self.scalar), self.scalar)

    def _account(self, operation: str, columns: int) -> Account:
        identities = {
            "multiply": "(c A) x = c (A x)",
            "multiply_inverse": "(c A)⁻¹ = A⁻¹ / c",
            "logdet": "log |c A| = log |A| + n log |c|",
            "eigh": "c A has the eigenvectors of A",
        }
        flops = self.shape[0] * columns if operation != "logdet" else 0
        parts = [self.base._account(operation, columns)]
        return Account(self, identities[operation], flops, parts=parts)

    @property
    def _is_zero(self) -> bool:
        return not is_array(self.scalar) and self.scalar == 0

    @property
    def _is_positive(self) -> bool:
        scalar = real_if_real(self.scalar)
        if is_array(scalar):
            scalar = self.backend.values(scalar)
        if scalar is None:
            return is_real(self.scalar)
        return is_real(scalar) and bool(scalar > 0)


def _multiple(op: LinearOperator, scalar: Scalar) -> LinearOperator:
    made: LinearOperator = op * scalar
    return made


def identity_multiple(op: LinearOperator) -> Scalar | None:
    """``c`` if ``op`` is ``c·I`` by its structure, else None."""
    if isinstance(op, IdentityOperator):
        return 1.0
    if isinstance(op, ScaledOperator) and isinstance(op.base, IdentityOperator):
        return op.scalar
    return None
