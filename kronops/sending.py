"""Operators on their way to other processes, with what they keep."""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any

from kronops import tree
from kronops.backends import Backend, backend_named
from kronops.backends.standard import Array
from kronops.caching import may_be_kept
from kronops.operator import LinearOperator

__all__ = ["SentOperator"]


@dataclasses.dataclass(frozen=True, eq=False)
class SentOperator:
    """What ``op`` is, but that pickles hold its factorisations: none is made twice.

    A pickle of the operator itself holds what it was made of alone.

    Parameters
    ----------
    op : LinearOperator
        Never changes.

    Examples
    --------
    >>> import pickle
    >>> import numpy as np, kronops
    >>> op = kronops.DenseOperator(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> sign, logabsdet = op.slogdet()  # by a factorisation
    >>> pickle.loads(pickle.dumps(op)).factorised
    False
    >>> pickle.loads(pickle.dumps(SentOperator(op))).factorised
    True
    """

    op: LinearOperator

    def __getattr__(self, name: str) -> Any:
        return getattr(self.op, name)

    def _solve_adjoint(self, x: Array) -> Array:
        return self.op.H._solve(x)

    def __dask_tokenize__(self) -> str:
        return self.op.__dask_tokenize__()

    def __sizeof__(self) -> int:
        """About the bytes of its arrays, by which schedulers judge whether to move it."""
        arrays = (int(leaf.size * leaf.dtype.itemsize) for leaf in tree.leaves(self.op))
        return object.__sizeof__(self) + sum(arrays)

    def __reduce_ex__(self, protocol: Any) -> Any:
        buffers: list[Any] = []
        stream = io.BytesIO()
        aside = buffers.append if protocol >= 5 else None  # arrays are then not copied
        _Pickler(stream, protocol=5, buffer_callback=aside).dump(self.op)
        return _arrived, (stream.getvalue(), buffers)


def _arrived(written: bytes, buffers: list[Any]) -> SentOperator:
    return SentOperator(pickle.loads(written, buffers=buffers))


class _Pickler(pickle.Pickler):
    """Writes operators with what they keep, and libraries by name."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, LinearOperator):
            state = _state(value)
            return object.__new__, (type(value),), state, None, None, _restore
        if isinstance(value, Backend):
            return backend_named, (value.name,)
        return NotImplemented


def _state(op: LinearOperator) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(op)}
    return {
        name: content
        for name, content in vars(op).items()
        if name in fields or may_be_kept(content)
    }


def _restore(op: Any, state: dict[str, Any]) -> None:
    op.__dict__.update(state)
