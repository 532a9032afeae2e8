"""Rows and columns of an operator, kept where a mask is true."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from kronops import tree
from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.errors import LinAlgError
from kronops.explaining import Account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.selection import SelectionOperator
from kronops.scalars import Scalar
from kronops.vectors import size_of

__all__ = ["MaskedOperator"]

Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class MaskedOperator(LinearOperator):
    """``P B Pᴴ``: the rows and columns of ``B`` at which a mask is true.

    `LinearOperator.masked` makes one where nothing simpler can be said.

    Parameters
    ----------
    base : LinearOperator
        ``B``, square.
    mask : boolean array
        Of the domain shape of ``base``, or flat; of any library, or NumPy's. Its values are looked
        at once, here, for they decide the shape: it cannot be traced.

    Raises
    ------
    ValueError
        A mask of another shape; a base that is not square.
    TypeError
        A mask that is not boolean, or whose values cannot be seen.

    Notes
    -----
    A product is one with ``B`` on a vector that is zero where the mask is false. There is no closed
    form of the inverse: solves and determinants write the matrix out, with a
    `DensificationWarning`. `kronops.linalg.iterative_solve` solves by products alone.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> grid = kronops.kron(np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[3.0, 1.0], [1.0, 3.0]]))
    >>> op = kronops.MaskedOperator(grid, np.array([[True, False], [True, True]]))
    >>> op.to_dense()
    array([[6., 3., 1.],
           [3., 6., 2.],
           [1., 2., 6.]])
    """

    base: LinearOperator
    selection: SelectionOperator  # P
    _internal = ("kept", "selection", "with_base")

    def __init__(self, base: LinearOperator, mask: Any) -> None:
        if not isinstance(base, LinearOperator):
            raise TypeError(f"base is a {type(base).__name__}: an operator is needed")
        base._require_square("a mask")
        flags = _as_flags(mask, base)
        selection = SelectionOperator.of(np.flatnonzero(flags), flags.size, like=base._like)
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "selection", selection)

    @property
    def shape(self) -> tuple[int, int]:
        kept, _ = self.selection.shape
        return kept, kept

    @property
    def kept(self) -> Array:
        """The flat positions where the mask is true."""
        return self.selection.kept

    @property
    def hermitian(self) -> bool:
        return self.base.hermitian

    def _matmat(self, x: Array) -> Array:
        pick = self.selection
        return pick._matmat(self.base._matmat(pick._rmatmat(x)))

    def _apply_last(self, x: Array) -> Array:
        pick = self.selection
        return pick._apply_last(self.base._apply_last(pick.H._apply_last(x)))

    # -- the same of the base ------------------------------------------------------------------

    def with_base(self, base: LinearOperator) -> MaskedOperator:
        """The same rows and columns of another operator of the same shape."""
        fields = {"base": base, "selection": self.selection}
        made: MaskedOperator = tree.rebuild(MaskedOperator, fields)
        return made

    def _adjoint(self) -> LinearOperator:
        return self if self.hermitian else self.with_base(self.base.H)

    def _transpose(self) -> LinearOperator:
        return self.with_base(self.base.T)

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        return self.with_base(scalar * self.base)

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return self.with_base(self.base._shifted(scalar))

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        if not isinstance(other, MaskedOperator) or other.base.shape != self.base.shape:
            return None
        values, xp = self.backend.values, self.backend.xp
        kept, others = values(self.kept), values(other.kept)
        if kept is None or others is None or not bool(xp.all(kept == others)):
            return None
        return self.with_base(self.base + other.base)

    def _masked(self, kept: Array) -> LinearOperator | None:
        inner = self.backend.values(self.kept)
        if inner is None:
            return None
        flags = np.zeros(self.base.shape[0], dtype=np.bool_)
        flags[self.backend.to_numpy(inner)[self.backend.to_numpy(kept)]] = True
        return self._algebra.mask(self.base, flags)

    def _preconditioner(self) -> LinearOperator:
        return self.with_base(self.base._preconditioner())

    # -- entries -------------------------------------------------------------------------------

    def _exponent(self) -> int:
        return self.base._exponent()

    def _diagonal(self) -> Array:
        return self.backend.xp.take(self.base._diagonal(), self.kept)

    def _to_dense(self) -> Array:
        return self.base._submatrix(self.kept, self.kept)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        take = self.backend.xp.take
        return self.base._submatrix(take(self.kept, rows), take(self.kept, columns))

    def _sample(self, normals: Normals) -> Array:
        """A draw for the base; for the whole if the base alone is no covariance."""
        try:
            return self.backend.xp.take(self.base._sample(normals), self.kept, axis=-2)
        except LinAlgError:
            return super()._sample(normals)

    def _account(self, operation: str, columns: int) -> Account:
        if operation != "multiply":
            return super()._account(operation, columns)
        moved = 2 * (self.shape[0] + self.base.shape[0]) * columns
        parts = [self.base._account(operation, columns)]
        return Account(self, "P (B (Pᴴ x)), zeros where the mask is false", 0, moved, parts=parts)


def _as_flags(mask: Any, base: LinearOperator) -> Flags:
    """A boolean array as a flat NumPy one, of as many entries as ``base`` has columns."""
    if not is_array(mask):
        raise TypeError(f"mask is a {type(mask).__name__}: a boolean array is needed")
    backend = backend_of(mask)
    mask = backend.plain(mask, "mask")
    if backend.kind(mask.dtype) != "bool":
        raise TypeError(f"mask has dtype {mask.dtype}: a boolean array is needed, as x != 0 is")
    shape = base.domain_shape
    shapes = [(size_of(shape),), *([tuple(shape)] if isinstance(shape, tuple) else [])]
    if tuple(mask.shape) not in shapes:
        would_do = " or ".join(dict.fromkeys(map(str, reversed(shapes))))
        raise ValueError(f"mask has shape {tuple(mask.shape)}: {would_do} would do")
    seen = backend.values(mask)
    if seen is None:
        raise TypeError(
            "mask cannot be seen here (inside jax.jit, say, or in a graph not yet evaluated), and "
            "its values decide the shape of the result: make the operator outside"
        )
    return backend.to_numpy(seen).reshape(math.prod(mask.shape))
