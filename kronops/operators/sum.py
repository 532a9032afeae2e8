"""Sums of operators."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.errors import LinAlgError
from kronops.explaining import Account, default_account
from kronops.normals import Normals
from kronops.operator import LinearOperator, common_shape
from kronops.operators.scaled import identity_multiple
from kronops.scalars import Scalar
from kronops.vectors import Shape

__all__ = ["SumOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SumOperator(LinearOperator):
    """``A + B + …``, made by ``+`` where the terms have no closed form together.

    Parameters
    ----------
    terms : tuple of LinearOperator
        Of one shape, two or more.

    Notes
    -----
    ``op + c·I`` solves, and has its determinant and powers, by the closed form of
    ``op.damped(c)`` where there is one. Other sums are written out as a dense matrix for these,
    with a `DensificationWarning`.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> identity = kronops.IdentityOperator(4, like=np.zeros(1))
    >>> (kronops.kron(np.eye(2), np.eye(2)) + 3.0 * identity).solve(np.ones(4))
    array([0.25, 0.25, 0.25, 0.25])
    """

    terms: tuple[LinearOperator, ...]

    def __post_init__(self) -> None:
        if any(term.shape != self.terms[0].shape for term in self.terms):
            shapes = " + ".join(str(term.shape) for term in self.terms)
            raise ValueError(f"operators of shapes {shapes}: one shape is needed")
        super().__post_init__()

    @property
    def shape(self) -> tuple[int, int]:
        return self.terms[0].shape

    @property
    def domain_shape(self) -> Shape:
        return common_shape(self.terms, "domain_shape")

    @property
    def range_shape(self) -> Shape:
        return common_shape(self.terms, "range_shape")

    @property
    def hermitian(self) -> bool:
        return all(term.hermitian for term in self.terms)

    def _matmat(self, x: Array) -> Array:
        return self._total([term._matmat(x) for term in self.terms])

    def _apply_last(self, x: Array) -> Array:
        return self._total([term._apply_last(x) for term in self.terms])

    def _adjoint(self) -> LinearOperator:
        return self._total([term.H for term in self.terms])

    def _transpose(self) -> LinearOperator:
        return self._total([term.T for term in self.terms])

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        return self._total([scalar * term for term in self.terms])

    def _exponent(self) -> int:
        return max(term._exponent() for term in self.terms)

    def _trace(self) -> Array:
        return self._total([term._trace() for term in self.terms])

    def _diagonal(self) -> Array:
        return self._total([term._diagonal() for term in self.terms])

    def _to_dense(self) -> Array:
        return self._total([term._to_dense() for term in self.terms])

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        return self._total([term._submatrix(rows, columns) for term in self.terms])

    def _entry(self, row: int, column: int) -> Array:
        return self._total([term._entry(row, column) for term in self.terms])

    def _column(self, column: int) -> Array:
        return self._total([term._column(column) for term in self.terms])

    @cached
    def _closed(self) -> LinearOperator | None:
        """``op + c·I`` in closed form, where there is one."""
        if len(self.terms) == 2:
            for term, other in (self.terms, self.terms[::-1]):
                multiple = identity_multiple(other)
                closed = self if multiple is None else term._shifted(multiple)
                if not isinstance(closed, SumOperator):
                    return closed
        return None

    @cached
    def _densified(self) -> Any:
        return self._closed or LinearOperator._densified.function(self)

    def _account(self, operation: str, columns: int) -> Account:
        if operation == "multiply":
            parts = [term._account(operation, columns) for term in self.terms]
            flops = self.shape[0] * (len(parts) - 1) * columns
            return Account(self, "(A + B) x = A x + B x", flops, parts=parts)
        if self._closed is None:
            return default_account(self, operation, columns, own=False)
        closed = self._closed._account(operation, columns)
        return Account(self, "the closed form of A + c I", parts=[closed])

    def _inverse(self) -> LinearOperator:
        return self._densified.inverse()

    def _power(self, p: float) -> LinearOperator:
        return self._densified.power(p)

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self._densified._pinv(cutoff)

    def _sample(self, normals: Normals) -> Array:
        """A sum of draws for each term; of the whole if a term alone is no covariance."""
        try:
            return self._total([term._sample(normals) for term in self.terms])
        except LinAlgError:
            return self._densified._sample(normals)

    @staticmethod
    def _total(parts: list[Any]) -> Any:
        return functools.reduce(operator.add, parts)
