"""A diagonal matrix. The operator file to read first: it shows how all the others are made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kronops import spectrum, tree
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import as_flag, as_inexact, check_finite_values
from kronops.columns import scaled_norm
from kronops.explaining import Account
from kronops.operator import LinearOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.scaled import identity_multiple
from kronops.scalars import Scalar
from kronops.scaling import exponent, rescale
from kronops.vectors import as_layout, in_layout, size_of

__all__ = ["DiagonalOperator", "polar"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class DiagonalOperator(LinearOperator):
    """``diag(vec d)``: elementwise multiplication by ``d``.

    Parameters
    ----------
    diagonal : array
        ``d``, of any shape with at least one axis; that shape is the operator's domain shape.
    layout : {"in,out", "out,in"}
        Of ``(weights, bias)`` pairs: the bias is the last row of ``d``, or the last column.
    check_finite : bool
        Whether NaN and infinity are looked for.
    name : str
        What error messages call the operator.

    Raises
    ------
    ValueError
        NaN or infinite entries; no axes.
    TypeError
        Not an array; masked or object arrays.

    Notes
    -----
    Everything costs ``n`` flops.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> op = kronops.DiagonalOperator(np.array([[1.0, 2.0], [4.0, 8.0]]))
    >>> op.multiply_inverse(np.ones((2, 2)))
    array([[1.   , 0.5  ],
           [0.25 , 0.125]])
    """

    # 1. Fields: arrays and operators, set once and never changed.
    entries: Array
    layout: str
    name: str
    _internal = ("name",)

    def __init__(
        self,
        diagonal: Any,
        *,
        layout: str = "in,out",
        check_finite: bool = True,
        name: str = "diagonal",
    ) -> None:
        entries = as_inexact(diagonal, name)
        if entries.ndim == 0:
            raise ValueError(f"{name} has no axes: an array with at least one is needed")
        if as_flag(check_finite, "check_finite"):
            check_finite_values(entries, name)
        object.__setattr__(self, "entries", backend_of(entries).snapshot(entries))
        object.__setattr__(self, "layout", as_layout(layout))
        object.__setattr__(self, "name", name)

    # 2. The contract: shape, product, adjoint.
    @property
    def shape(self) -> tuple[int, int]:
        n = size_of(self.domain_shape)
        return n, n

    def _matmat(self, x: Array) -> Array:
        return self._flat[:, None] * x

    def _adjoint(self) -> LinearOperator:
        return self._with(self.backend.xp.conj(self.entries)) if self._complex else self

    # 3. What structure makes cheaper: hooks over the defaults of `LinearOperator`.
    @property
    def domain_shape(self) -> tuple[int, ...]:
        return in_layout(tuple(self.entries.shape), self.layout)

    @cached
    def hermitian(self) -> bool:
        if not self._complex:
            return True
        values = self.backend.values(self.entries)
        return values is not None and bool(self.backend.xp.all(self.backend.xp.imag(values) == 0))

    def _transpose(self) -> LinearOperator:
        return self

    def _apply_last(self, x: Array) -> Array:
        return x * self._flat

    _step_kind = "diagonal"

    def _step_array(self) -> Array:
        return self._flat

    def _inverse(self) -> LinearOperator:
        return self._with(spectrum.reciprocal(self.entries, self._label))

    def _slogdet(self) -> tuple[Array, Array]:
        xp = self.backend.xp
        magnitude = xp.abs(self._flat)
        unit = xp.where(magnitude == 0, xp.ones_like(magnitude), magnitude)
        logarithms = xp.where(magnitude == 0, -math.inf, xp.log(unit))
        return xp.prod(self._flat / unit), xp.sum(logarithms)

    def _exponent(self) -> int:
        return exponent(self.entries)

    def _diagonal(self) -> Array:
        return self.backend.copy(self._flat)

    def _norm(self, ord: Any) -> Array:
        if ord == "fro":
            return scaled_norm(self.backend.xp, self.entries)
        magnitude = self.backend.xp.abs(self._flat)
        if ord == "nuc" or not self.shape[0]:
            return self.backend.xp.sum(magnitude)
        return self.backend.xp.max(magnitude)

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        return self.entries, IdentityOperator(self.shape[0], like=self.entries)

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        phases, magnitudes = polar(self._flat)
        return phases, magnitudes, IdentityOperator(self.shape[0], like=self.entries)

    def _spectral_norm(self) -> Array:
        return self._norm(2)

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self._with(spectrum.truncated_reciprocal(self.entries, cutoff))

    def _power(self, p: float) -> LinearOperator:
        made = spectrum.power(self.entries, p, self._label)
        return self._with(self.backend.xp.astype(made, self.dtype, copy=False))

    def _expm(self) -> LinearOperator:
        return self._with(spectrum.exp(self.entries, self._label))

    def _logm(self) -> LinearOperator:
        made = spectrum.log(self.entries, self._label)
        return self._with(self.backend.xp.astype(made, self.dtype, copy=False))

    def _cholesky(self) -> LinearOperator:
        real = spectrum.real(self.entries, self._label)
        roots = self.backend.xp.sqrt(spectrum.require_positive(real, self._label))
        return self._with(self.backend.xp.astype(roots, self.dtype, copy=False))

    def _root(self) -> LinearOperator:
        return self._power(0.5)

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return self._with(self.entries + rescale(self.backend.xp.ones_like(self.entries), [scalar]))

    def _masked(self, kept: Array) -> LinearOperator:
        some = self.backend.xp.take(self._flat, kept)  # flat, and so of no layout
        return DiagonalOperator(some, check_finite=False, name=self.name)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        xp = self.backend.xp
        on_diagonal = xp.astype(rows[:, None] == columns, self.dtype)
        return on_diagonal * xp.take(self._flat, columns)

    def _scaled(self, scalar: Scalar) -> LinearOperator:
        return self._with(rescale(self.entries, [scalar]))

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, DiagonalOperator):
            return self._combined(other, self._flat + other._flat)
        multiple = identity_multiple(other)
        return None if multiple is None else self._shifted(multiple)

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, DiagonalOperator):
            return self._combined(other, self._flat * other._flat)
        return None

    def _account(self, operation: str, columns: int) -> Account:
        identities = {
            "multiply": "d x",
            "multiply_inverse": "x / d",
            "logdet": "the sum of log |d|",
            "eigh": "I diag(d) I",
        }
        n = self.shape[0]
        if operation == "eigh":
            return Account(self, identities[operation])
        return Account(self, identities[operation], n * columns, n * (1 + 2 * columns))

    # 4. Private: what the methods above share.
    @property
    def _flat(self) -> Array:
        return self.backend.xp.reshape(self.entries, (-1,))

    @property
    def _label(self) -> str:
        return f"{self.name} {self.domain_shape}"

    def _with(self, entries: Array) -> DiagonalOperator:
        """Other entries in the same place, made here and therefore not checked again."""
        fields = {"entries": entries, "layout": self.layout, "name": self.name}
        made: DiagonalOperator = tree.rebuild(DiagonalOperator, fields)
        return made

    def _combined(self, other: DiagonalOperator, flat: Array) -> DiagonalOperator:
        same = other.domain_shape == self.domain_shape
        return self._with(self.backend.xp.reshape(flat, self.domain_shape) if same else flat)


def polar(values: Array) -> tuple[DiagonalOperator, Array]:
    """The diagonal of the phases of flat ``values`` (one where they are zero), and magnitudes."""
    xp = backend_of(values).xp
    magnitudes, ones = xp.abs(values), xp.ones_like(values)
    zero = magnitudes == 0
    phases = xp.where(zero, ones, values / xp.where(zero, xp.ones_like(magnitudes), magnitudes))
    return DiagonalOperator(phases, check_finite=False), magnitudes
