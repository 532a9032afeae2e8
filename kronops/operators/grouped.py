"""Blocks for groups of outputs, whose vectors keep the outputs of all groups in one axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from kronops.backends.standard import Array
from kronops.explaining import Account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.scalars import Scalar
from kronops.vectors import as_layout, in_layout

__all__ = ["GroupedOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GroupedOperator(LinearOperator):
    """``P blockdiag(B1, B2, …) Pᵀ``: block ``g`` acts on the columns of its group.

    Vectors are matrices ``(in, groups·out)``; block ``g`` maps columns ``g·out`` to
    ``(g + 1)·out``, flattened, to the same columns. ``P`` is a reshaped transposition, and keeps
    the order inside each block. With ``layout="out,in"`` groups are of rows and ``P`` is the
    identity.

    Parameters
    ----------
    core : BlockDiagonalOperator
        Square blocks of one shape.
    inputs : int
        The size of the axis that groups share.
    layout : {"in,out", "out,in", "in,channels"}
        Of structured vectors.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.operators.grouped import GroupedOperator
    >>> op = GroupedOperator.of([kronops.kron(np.eye(2), c * np.eye(1)) for c in (2.0, 4.0)])
    >>> op.multiply_inverse(np.ones((2, 2)))
    array([[0.5 , 0.25],
           [0.5 , 0.25]])
    """

    core: BlockDiagonalOperator
    inputs: int
    layout: str = "in,out"

    @staticmethod
    def of(blocks: Iterable[LinearOperator], layout: str = "in,out") -> GroupedOperator:
        """From blocks that know the shape ``(in, out)`` of their vectors."""
        core = BlockDiagonalOperator(blocks)
        inputs = core.operators[0].domain_shape[1 if as_layout(layout) == "out,in" else 0]
        return GroupedOperator(core, inputs, layout)

    @property
    def shape(self) -> tuple[int, int]:
        return self.core.shape

    @property
    def domain_shape(self) -> tuple[int, ...]:
        outputs = self.shape[0] // self.inputs
        sizes = (outputs, self.inputs) if self.layout == "out,in" else (self.inputs, outputs)
        return in_layout(sizes, self.layout)

    @property
    def range_shape(self) -> tuple[int, ...]:
        return self.domain_shape

    @property
    def hermitian(self) -> bool:
        return self.core.hermitian

    def _matmat(self, x: Array) -> Array:
        return self._joined(self.core._matmat(self._parted(x)))

    # -- the same function of the blocks -------------------------------------------------------

    def _adjoint(self) -> LinearOperator:
        return self._with(self.core.H)

    def _transpose(self) -> LinearOperator:
        return self._with(self.core.T)

    def _inverse(self) -> LinearOperator:
        return self._with(self.core.inverse())

    def _power(self, p: float) -> LinearOperator:
        return self._with(self.core.power(p))

    def _expm(self) -> LinearOperator:
        return self._with(self.core.expm())

    def _logm(self) -> LinearOperator:
        return self._with(self.core.logm())

    def _cholesky(self) -> LinearOperator:
        """Lower triangular still: the order inside each block is kept."""
        return self._with(self.core.cholesky())

    def _root(self) -> LinearOperator:
        return self._with(self.core._root())

    def _sample(self, normals: Normals) -> Array:
        return self._joined(self.core._sample(normals))

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return self._with(self.core._shifted(scalar))

    def _factored(self, value: Scalar, pi: str | float, refine: bool) -> LinearOperator:
        return self._with(self.core._factored(value, pi, refine))

    def _scaled(self, scalar: Scalar) -> LinearOperator:
        return self._with(scalar * self.core)

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self._with(self.core._pinv(cutoff))

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        return self._with_both(other, self.core._plus)

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        return self._with_both(other, self.core._times)

    # -- numbers -------------------------------------------------------------------------------

    def _exponent(self) -> int:
        return self.core._exponent()

    def _slogdet(self) -> tuple[Array, Array]:
        return self.core._slogdet()

    def _trace(self) -> Array:
        return self.core._trace()

    def _diagonal(self) -> Array:
        return self._joined_flat(self.core._diagonal())

    def _norm(self, ord: Any) -> Array:
        return self.core._norm(ord)

    def _spectral_norm(self) -> Array:
        return self.core._spectral_norm()

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        values, basis = self.core._eigenbasis()
        return self._joined_flat(values), self._with(basis)

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        left, values, right = self.core._svd()
        return self._with(left), self._joined_flat(values), self._with(right)

    def _account(self, operation: str, columns: int) -> Account:
        parts = [self.core._account(operation, columns)]
        return Account(self, "group by group", parts=parts)

    # -- inside --------------------------------------------------------------------------------

    def _with(self, core: Any) -> GroupedOperator:
        return dataclasses.replace(self, core=core)

    def _with_both(
        self, other: LinearOperator, combine: Callable[[LinearOperator], LinearOperator | None]
    ) -> LinearOperator | None:
        if not isinstance(other, GroupedOperator) or self._form != other._form:
            return None
        core = combine(other.core)
        return None if core is None else self._with(core)

    @property
    def _form(self) -> tuple[Any, ...]:
        return len(self.core.operators), self.inputs, self.layout, self.shape

    def _parted(self, x: Array) -> Array:
        """Rows of ``x`` in the order of the blocks."""
        return self._swapped(x, self.inputs, len(self.core.operators))

    def _joined(self, x: Array) -> Array:
        """Rows of ``x``, which are in the order of the blocks, in our own."""
        return self._swapped(x, len(self.core.operators), self.inputs)

    def _joined_flat(self, x: Array) -> Array:
        return self._joined(x[:, None])[:, 0]

    def _swapped(self, x: Array, first: int, second: int) -> Array:
        if self.layout == "out,in":
            return x
        xp = self.backend.xp
        n = self.shape[0]
        apart = xp.reshape(x, (*x.shape[:-2], first, second, n // (first * second), x.shape[-1]))
        axes = (*range(apart.ndim - 4), *(apart.ndim - k for k in (3, 4, 2, 1)))
        return xp.reshape(xp.permute_dims(apart, axes), x.shape)
