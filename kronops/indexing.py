"""What stands between the brackets of ``op[...]``, as rows and columns."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from kronops.backends import backend_of, is_array

__all__ = ["Index", "as_indices"]

Index = Any  # an integer; an integer array of NumPy; None, all of them


def as_indices(key: Any, shape: tuple[int, int]) -> tuple[Index, Index]:
    """Rows and columns of a matrix of ``shape``, in NumPy's words, none negative.

    Raises
    ------
    IndexError
        What is out of range, of another kind, or more than two.

    Examples
    --------
    >>> as_indices((-1, slice(None, 2)), (3, 4))
    (2, array([0, 1]))
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    ellipses = [place for place, one in enumerate(keys) if one is Ellipsis]
    if len(ellipses) > 1 or len(keys) - len(ellipses) > 2:
        raise IndexError(f"op[...] has {len(keys)} indices: rows and columns are two axes")
    missing = [slice(None)] * (2 - len(keys) + len(ellipses))
    place = ellipses[0] if ellipses else len(keys)
    rows, columns = keys[:place] + missing + keys[place + 1 :]
    made = _as_index(rows, shape[0], "row"), _as_index(columns, shape[1], "column")
    of_arrays = not isinstance(rows, slice) and not isinstance(columns, slice)
    if of_arrays and all(isinstance(index, np.ndarray) for index in made):
        raise IndexError(
            "op[rows, columns] of two arrays has two meanings: op[rows][:, columns] is what lies "
            "where they cross, and the entries of pairs are op[i, j] one by one"
        )
    return made


def _as_index(index: Any, size: int, axis: str) -> Index:
    if isinstance(index, slice):
        if index == slice(None):
            return None
        start, stop, step = index.indices(size)
        return np.arange(start, stop, step)
    if is_array(index) and backend_of(index).values(index) is None:
        raise IndexError(
            f"the {axis} index cannot be seen here (inside jax.jit, say): index outside, or "
            f"multiply by columns of the identity"
        )
    if isinstance(index, list) or (is_array(index) and index.ndim):
        return _as_positions(index, size, axis)
    try:
        if isinstance(index, (bool, np.bool_)):
            raise TypeError
        return _in_range(operator.index(index), size, axis)
    except TypeError:
        named = f"; a block by its name is op.blocks[{index!r}]" if isinstance(index, str) else ""
        raise IndexError(
            f"the {axis} index is {'None' if index is None else f'a {type(index).__name__}'}: "
            f"an integer, a slice, or an array of integers or booleans would do{named}"
        ) from None


def _as_positions(index: Any, size: int, axis: str) -> Index:
    """An array or list of integers, or of as many booleans as there are rows or columns."""
    if is_array(index):
        index = backend_of(index).to_numpy(backend_of(index).values(index))
    positions = np.asarray(index) if len(index) else np.zeros(0, dtype=np.int64)
    if positions.ndim != 1 or positions.dtype.kind not in "biu":
        raise IndexError(
            f"the {axis} index is an array of shape {positions.shape} and dtype "
            f"{positions.dtype}: one axis of integers or booleans would do"
        )
    if positions.dtype.kind == "b":
        if positions.shape != (size,):
            raise IndexError(f"the {axis} index has {len(positions)} booleans: {size} would do")
        return np.flatnonzero(positions)
    positions = positions.astype(np.int64)
    for extreme in (positions.min(initial=0), positions.max(initial=-1)):
        _in_range(int(extreme), size, axis) if len(positions) else None
    positions = np.where(positions < 0, positions + size, positions)
    if len(np.unique(positions)) < len(positions):
        raise IndexError(
            f"the {axis} index has repeated entries, which an operator does not: repeat them in "
            f"its products, or in op.to_dense()"
        )
    return positions


def _in_range(index: int, size: int, axis: str) -> int:
    if not -size <= index < size:
        raise IndexError(f"{axis} {index} is out of range: there are {size}")
    return index + size if index < 0 else index
