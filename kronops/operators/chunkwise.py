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
from kronops.sending import SentOperator
from kronops.vectors import Shape

__all__ = ["ChunkwiseOperator"]

# Their products are elementwise, or made of products with their parts: chunks may be any.
_ELEMENTWISE = (DiagonalOperator, IdentityOperator)
_COMPOSED = (
    BlockDiagonalOperator,
    KroneckerEigenOperator,
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
    >>> import dask.array as da
    >>> op = kronops.kron(np.eye(2), np.ones((2, 2)))
    >>> op @ da.ones(4, chunks=2)
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
            return self._lazy._matmat(x)
        none = op.backend.xp.empty((self.shape[1], 0), dtype=x.dtype, device=op.device)
        by_parts = (lambda x: self._lazy._matmat(x)) if isinstance(op, _COMPOSED) else None
        return self.backend.map_vectors(
            SentOperator(op), "_matmat", x, -2, op._matmat(none), by_parts
        )

    def _apply_last(self, x: Array) -> Array:
        if x.ndim == 1:
            return self._matmat(x[:, None])[:, 0]
        op = self.base()
        if isinstance(op, _ELEMENTWISE):
            return self._lazy._apply_last(x)
        none = op.backend.xp.empty((0, self.shape[1]), dtype=x.dtype, device=op.device)
        by_parts = (lambda x: self._lazy._apply_last(x)) if isinstance(op, _COMPOSED) else None
        return self.backend.map_vectors(
            SentOperator(op), "_apply_last", x, -1, op._apply_last(none), by_parts
        )

    def _adjoint(self) -> LinearOperator:
        return self.of(self.base().H, self.backend)

    def _exponent(self) -> int:
        return self.base()._exponent()

    @cached
    def _lazy(self) -> LinearOperator:
        """The operator made of arrays and operators of the lazy library."""
        op = self.base()
        if isinstance(op, KroneckerEigenOperator):
            op = op.definition or _rotated(op)
        return tree.map_parts(op, self.backend.from_numpy, lambda part: self.of(part, self.backend))


def _rotated(op: KroneckerEigenOperator) -> ProductOperator:
    values = DiagonalOperator(op.eigenvalues, check_finite=False)
    return ProductOperator((op.basis, values, op.basis.H))
