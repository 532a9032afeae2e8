"""Sums of operators."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

from kronops import spectrum
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import epsilon
from kronops.drawing import joined
from kronops.errors import LinAlgError
from kronops.explaining import Account, default_account
from kronops.normals import Normals
from kronops.operator import LinearOperator, common_shape
from kronops.operators.congruent import CongruentOperator
from kronops.operators.scaled import identity_multiple
from kronops.refinement import norm_estimate, refined
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
    ``op.damped(c)`` where there is one. So have sums of Kronecker products whose factors, axis by
    axis, commute. ``A ⊗ B + C ⊗ D`` solves, and has its determinant and draws, by the generalised
    eigenproblems of ``A`` and ``C``, and of ``B`` and ``D``, if one of each pair is positive
    definite [1]_; a diagonal that is an outer product counts as a Kronecker product. Such solves
    cost about as much as six products, after ``9 nᵢ³`` flops for each axis, once.

    Other sums are written out as a dense matrix for these, with a `DensificationWarning`;
    `kronops.linalg.iterative_solve` solves them by products alone.

    References
    ----------
    .. [1] Lynch, Rice and Thomas, Direct solution of partial difference equations by tensor product
       methods, Numer. Math. 6, 1964; Golub and Van Loan, Matrix Computations, 2013, section 8.7.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> identity = kronops.IdentityOperator(4, like=np.zeros(1))
    >>> (kronops.kron(np.eye(2), np.eye(2)) + 3.0 * identity).solve(np.ones(4))
    array([0.25, 0.25, 0.25, 0.25])
    """

    terms: tuple[LinearOperator, ...]

    def __post_init__(self) -> None:
        first = self.terms[0].shape
        for other in (term.shape for term in self.terms):
            if other != first:
                shapes = " + ".join(str(term.shape) for term in self.terms)
                axis = int(other[0] == first[0])
                raise ValueError(
                    f"operators of shapes {shapes}: one shape is needed"
                    + joined(first, axis, "+", other, axis)
                )
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

    def _norm(self, ord: Any) -> Array:
        made = self._algebra.frobenius_norm_of_sum(self) if ord == "fro" else None
        return super()._norm(ord) if made is None else made

    # -- closed forms --------------------------------------------------------------------------

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
    def _diagonalised(self) -> Any:
        """A sum of Kronecker products in bases that make it simple; None where there are none."""
        return self._algebra.diagonalise_sum(self)

    @property
    def _structure(self) -> LinearOperator | None:
        """The sum as an operator that solves, and has a determinant, by structure; or None."""
        return self._closed or self._diagonalised

    @cached
    def _densified(self) -> LinearOperator:
        """The sum as an operator that has all functions: the same where its bases are unitary."""
        if self._structure is not None and not isinstance(self._structure, CongruentOperator):
            return self._structure
        return super()._densified

    @cached
    def _size(self) -> float:
        return norm_estimate(self)

    def _inverse(self) -> LinearOperator:
        if self._closed is not None or self._untracked._diagonalised is None:
            return self._densified.inverse()
        _ = self._untracked._near_inverse
        return self._algebra.invert(self)

    @cached
    def _near_inverse(self) -> LinearOperator:
        """The inverse by structure, whose products have some digits right; an error if singular."""
        inverse: LinearOperator = self._diagonalised.inverse()
        seen = not self._tracked and self.backend.values(self._like) is not None
        if seen and self.shape[0]:
            condition = self._size * norm_estimate(inverse)
            spectrum.check_estimate(condition, epsilon(self._like), self._label)
        return inverse

    def _solve(self, x: Array) -> Array:
        if self._closed is not None or self._diagonalised is None:
            return self._densified._solve(x)
        advice = (
            f"the definite terms of {self._label} are nearly singular; damp them, or write the "
            f"sum out, DenseOperator(op.to_dense())"
        )
        return refined(self, self._near_inverse._matmat, x, lambda: self._size, advice)

    def _preconditioner(self) -> LinearOperator:
        return self._algebra.inverse_near_sum(self)

    def _slogdet(self) -> tuple[Array, Array]:
        return (self._structure or self._densified)._slogdet()

    def _root(self) -> LinearOperator:
        return (self._structure or self._densified)._root()

    def _power(self, p: float) -> LinearOperator:
        return self._densified.power(p)

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self._densified._pinv(cutoff)

    def _sample(self, normals: Normals) -> Array:
        """A sum of draws for each term; of the whole if a term alone is no covariance."""
        try:
            return self._total([term._sample(normals) for term in self.terms])
        except LinAlgError:
            return super()._sample(normals)

    def _account(self, operation: str, columns: int) -> Account:
        if operation == "multiply":
            parts = [term._account(operation, columns) for term in self.terms]
            flops = self.shape[0] * (len(parts) - 1) * columns
            return Account(self, "(A + B) x = A x + B x", flops, parts=parts)
        if self._closed is not None:
            closed = self._closed._account(operation, columns)
            return Account(self, "the closed form of A + c I", parts=[closed])
        made = self._untracked._diagonalised
        if made is None or (operation == "eigh" and isinstance(made, CongruentOperator)):
            return default_account(self, operation, columns, own=False)
        words = "the factors of each axis are diagonal in one basis, Wᴴ A W and Wᴴ C W"
        parts = [made._account(operation, columns)]
        if operation == "multiply_inverse":
            words += ", refined by the residual"
            parts.append(self._account("multiply", columns))
        once = sum(9.0 * size**3 for size in made.domain_shape)  # an eigendecomposition each
        return Account(self, words, once=once, parts=parts)

    @property
    def _label(self) -> str:
        return f"the sum of Kronecker products {self.shape}"

    @staticmethod
    def _total(parts: list[LinearOperator]) -> LinearOperator:
        return functools.reduce(operator.add, parts)
