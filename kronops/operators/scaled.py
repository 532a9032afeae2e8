"""A scalar times an operator."""

from __future__ import annotations

import cmath
import dataclasses
import math
from typing import Any

from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.errors import LinAlgError
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.identity import IdentityOperator
from kronops.scaling import rescale
from kronops.vectors import Shape

__all__ = ["ScaledOperator", "identity_multiple", "real_if_real", "scalar_power", "unit_power"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ScaledOperator(LinearOperator):
    """``scalar · base``, made by ``*`` where the scalar cannot be folded into the operator.

    Parameters
    ----------
    scalar : float or complex
    base : LinearOperator

    Examples
    --------
    >>> import numpy as np, kronops
    >>> (2 * (3 * kronops.DenseOperator(np.eye(2)))).scalar
    6.0
    """

    scalar: float | complex
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
        return not isinstance(real_if_real(self.scalar), complex) and self.base.hermitian

    def _matmat(self, x: Array) -> Array:
        return rescale(self.base._matmat(x), [self.scalar])

    def _apply_last(self, x: Array) -> Array:
        return rescale(self.base._apply_last(x), [self.scalar])

    def _adjoint(self) -> LinearOperator:
        return self.base.H * self.scalar.conjugate()

    def _transpose(self) -> LinearOperator:
        return self.base.T * self.scalar

    def _inverse(self) -> LinearOperator:
        if self.scalar == 0:
            raise LinAlgError("0 times an operator is singular: there is no inverse")
        return self.base.inverse() * (1 / self.scalar)

    def _slogdet(self) -> tuple[Array, Array]:
        sign, logabsdet = self.base._slogdet()
        n = self.shape[0]
        if n == 0:
            return sign, logabsdet
        size = abs(self.scalar)
        if size == 0:
            return sign * 0.0, logabsdet * 0.0 - math.inf
        return rescale(sign, [unit_power(self.scalar / size, n)]), logabsdet + n * math.log(size)

    def _exponent(self) -> int:
        return self.base._exponent() + math.frexp(abs(self.scalar))[1]

    def _trace(self) -> Array:
        return rescale(self.base._trace(), [self.scalar])

    def _diagonal(self) -> Array:
        return rescale(self.base._diagonal(), [self.scalar])

    def _to_dense(self) -> Array:
        return rescale(self.base._to_dense(), [self.scalar])

    def _norm(self, ord: Any) -> Array:
        return self.base._norm(ord) * abs(self.scalar)

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        values, basis = self.base._eigenbasis()
        return rescale(values, [self.scalar]), basis

    def _power(self, p: float) -> LinearOperator:
        if self.scalar == 0 and p < 0:
            raise LinAlgError(f"0 times an operator is singular: it has no power {p}")
        if isinstance(self.base, DenseOperator):
            return self._densified.power(p)
        if p.is_integer() or (not isinstance(self.scalar, complex) and self.scalar > 0):
            return self.base.power(p) * scalar_power(self.scalar, p)
        return super()._power(p)

    def _cholesky(self) -> LinearOperator:
        scalar = real_if_real(self.scalar)
        if isinstance(scalar, complex) or scalar <= 0:
            return super()._cholesky()
        return self.base.cholesky() * math.sqrt(scalar)

    @cached
    def _densified(self) -> LinearOperator:
        if isinstance(self.base, DenseOperator):
            return self.base.with_matrix(rescale(self.base.matrix, [self.scalar]))
        return super()._densified

    def _shifted(self, scalar: float | complex) -> LinearOperator:
        if isinstance(self.base, DenseOperator):
            return self._densified._shifted(scalar)
        if self.scalar == 0 or not math.isfinite(abs(scalar / self.scalar)):
            return super()._shifted(scalar)
        return self.base._shifted(scalar / self.scalar) * self.scalar


def scalar_power(scalar: float | complex, p: float) -> float | complex:
    """``scalar ** p``; `OverflowError` where it is too large or too small for a float."""
    try:
        made: float | complex = scalar ** (int(p) if p.is_integer() else p)
    except OverflowError:
        made = 0.0
    if made == 0 and scalar != 0:
        raise OverflowError(f"{scalar} to the power {p} is out of the range of a float")
    return made


def real_if_real(scalar: float | complex) -> float | complex:
    """A complex scalar without imaginary part as a float."""
    return scalar.real if isinstance(scalar, complex) and scalar.imag == 0 else scalar


def unit_power(phase: float | complex, n: int) -> float | complex:
    """``phase ** n`` for a number of magnitude one and an exact integer of any size."""
    if isinstance(phase, complex):
        return cmath.exp(1j * math.fmod(cmath.phase(phase) * n, 2 * math.pi))
    return phase if n % 2 else 1.0


def identity_multiple(op: LinearOperator) -> float | complex | None:
    """``c`` if ``op`` is ``c·I`` by its structure, else None."""
    if isinstance(op, IdentityOperator):
        return 1.0
    if isinstance(op, ScaledOperator) and isinstance(op.base, IdentityOperator):
        return op.scalar
    return None
