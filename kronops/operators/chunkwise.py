"""An operator in memory, applied to arrays in chunks of its own library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from kronops import tree
from kronops.backends.standard import Array, Backend
from kronops.caching import cached
from kronops.operator import LinearOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.product import ProductOperator
from kronops.operators.scaled import ScaledOperator
from kronops.operators.sum import SumOperator
from kronops.vectors import Shape

__all__ = ["ChunkwiseOperator"]

_ELEMENTWISE = (DiagonalOperator, IdentityOperator)
# Their products are made of their parts' products, and of what every library has.
_COMPOSED = (
    BlockDiagonalOperator,
    KroneckerOperator,
    KroneckerSchurOperator,
    ProductOperator,
    ScaledOperator,
    SumOperator,
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ChunkwiseOperator(LinearOperator):
    """``base``, as an operator on a library of lazy arrays whose chunks are of its own library.

    Each task multiplies a chunk of whole vectors by ``base``. Where vectors are longer than chunks
    are large, it is the factors, terms or blocks of ``base`` that are multiplied so.

    Parameters
    ----------
    base : callable
        Gives the operator, whose arrays are not this operator's.
    like : array
        Of the lazy library; gives the dtype.

    Notes
    -----
    Factorisations are those of ``base``, in memory and kept, and so are its errors: both come
    about when the product is asked for, not when it is computed.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> import dask.array as da  # doctest: +SKIP
    >>> op = kronops.kron(np.eye(2), np.ones((2, 2)))
    >>> op @ da.ones(4, chunks=2)  # doctest: +SKIP
    dask.array<getitem, shape=(4,), dtype=float64, chunksize=(2,), chunktype=numpy.ndarray>
    """

    base: Callable[[], LinearOperator]
    like: Array

    @classmethod
    def of(cls, op: LinearOperator, backend: Backend) -> ChunkwiseOperator:
        """``op`` in the library of ``backend``."""
        return cls(lambda: op, backend.xp.zeros((0,), dtype=op.dtype))

    @property
    def shape(self) -> tuple[int, int]:
        return self.base().shape

    @property
    def domain_shape(self) -> Shape:
        return self.base().domain_shape

    @property
    def range_shape(self) -> Shape:
        return self.base().range_shape

    def _matmat(self, x: Array) -> Array:
        op = self.base()
        if isinstance(op, _ELEMENTWISE):
            return self._parts._matmat(x)
        none = op.backend.xp.empty((self.shape[1], 0), dtype=x.dtype, device=op.device)
        by_parts = None if self._parts is None else self._parts._matmat
        return self.backend.map_vectors(op._matmat, x, -2, op._matmat(none), by_parts)

    def _apply_last(self, x: Array) -> Array:
        op = self.base()
        if isinstance(op, _ELEMENTWISE):
            return self._parts._apply_last(x)
        none = op.backend.xp.empty((0, self.shape[1]), dtype=x.dtype, device=op.device)
        return self.backend.map_vectors(op._apply_last, x, -1, op._apply_last(none))

    def _adjoint(self) -> LinearOperator:
        return self.of(self.base().H, self.backend)

    def _exponent(self) -> int:
        return self.base()._exponent()

    @cached
    def _parts(self) -> LinearOperator | None:
        """The operator made of lazy parts, if its product is made of theirs."""
        op = self.base()
        if isinstance(op, KroneckerEigenOperator):
            op = op.definition or ProductOperator((op.basis, _diagonal(op), op.basis.H))
        if not isinstance(op, (*_COMPOSED, *_ELEMENTWISE)):
            return None
        return tree.map_parts(op, self.backend.from_numpy, lambda part: self.of(part, self.backend))


def _diagonal(op: KroneckerEigenOperator) -> DiagonalOperator:
    return DiagonalOperator(op.eigenvalues, check_finite=False)
