"""The identity."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.checks import as_inexact
from kronops.explaining import Account
from kronops.operator import LinearOperator
from kronops.scalars import as_integer
from kronops.vectors import Shape, size_of

__all__ = ["IdentityOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IdentityOperator(LinearOperator):
    """``I``, of any size.

    Parameters
    ----------
    n : int
        The number of rows and columns.
    like : array
        Gives the library, dtype and device; its values are not used.
    domain_shape : shape, optional
        The shape of unflattened vectors, ``(n,)`` by default.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> kronops.IdentityOperator(10**21, like=np.zeros(1)).shape
    (1000000000000000000000, 1000000000000000000000)
    """

    n: int
    like: Array = None
    domain_shape: Shape = dataclasses.field(default=None, kw_only=True)
    _internal = ("like",)

    def __post_init__(self) -> None:
        n = as_integer(self.n, "n")
        like = as_inexact(self.like, "like")
        backend = backend_of(like)
        nothing = backend.xp.zeros((0,), dtype=like.dtype, device=backend.device(like))
        shape = (n,) if self.domain_shape is None else self.domain_shape
        if size_of(shape) != n:
            raise ValueError(f"domain_shape = {shape}: {n} entries are needed")
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "domain_shape", shape)
        object.__setattr__(self, "like", nothing)

    @property
    def shape(self) -> tuple[int, int]:
        return self.n, self.n

    @property
    def hermitian(self) -> bool:
        return True

    def _matmat(self, x: Array) -> Array:
        xp = self.backend.xp
        return xp.astype(x, xp.result_type(x.dtype, self.dtype), copy=True)

    def _apply_last(self, x: Array) -> Array:
        return self._matmat(x)

    _step_kind = "identity"

    def _adjoint(self) -> LinearOperator:
        return self

    def _transpose(self) -> LinearOperator:
        return self

    def _inverse(self) -> LinearOperator:
        return self

    def _power(self, p: float) -> LinearOperator:
        return self

    def _expm(self) -> LinearOperator:
        return self * math.e

    def _logm(self) -> LinearOperator:
        return self * 0.0

    def _cholesky(self) -> LinearOperator:
        return self

    def _root(self) -> LinearOperator:
        return self

    def _slogdet(self) -> tuple[Array, Array]:
        return self._number(1.0), self._real_number(0.0)

    def _trace(self) -> Array:
        return self._number(float(self.n))

    def _diagonal(self) -> Array:
        return self.backend.xp.ones((self.n,), dtype=self.dtype, device=self.device)

    def _masked(self, kept: Array) -> LinearOperator:
        return IdentityOperator(kept.shape[0], like=self.like)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        return self.backend.xp.astype(rows[:, None] == columns, self.dtype)

    def _entry(self, row: int, column: int) -> Array:
        return self._number(float(row == column))

    def _norm(self, ord: Any) -> Array:
        sizes = {"fro": float(self.n) ** 0.5, "nuc": float(self.n)}
        return self._real_number(sizes.get(ord, 1.0 if self.n else 0.0))

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        return self, self.backend.xp.abs(self._diagonal()), self

    def _spectral_norm(self) -> Array:
        return self._real_number(1.0)

    def _pinv(self, cutoff: Array) -> LinearOperator:
        kept = self._real_number(1.0) > cutoff  # beside larger blocks, one may be nothing
        if self.backend.values(kept) is not None:
            return self if bool(kept) else 0.0 * self
        made: LinearOperator = self * self.backend.xp.where(kept, 1.0, 0.0)
        return made

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        return self.backend.xp.abs(self._diagonal()), self

    def _account(self, operation: str, columns: int) -> Account:
        identities = {"multiply": "I x = x", "multiply_inverse": "I⁻¹ = I", "logdet": "0"}
        moved = 2 * self.n * columns if operation.startswith("multiply") else 0
        return Account(self, identities.get(operation, "I = I I Iᴴ"), numbers=moved)

    def _number(self, value: float) -> Array:
        return self.backend.xp.asarray(value, dtype=self.dtype, device=self.device)

    def _real_number(self, value: float) -> Array:
        return self.backend.xp.abs(self._number(value))
