"""What is refused when an operator is built or applied, and in which words.

Every check names the argument, what it was, and what would do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array

__all__ = [
    "as_flag",
    "as_inexact",
    "as_matrix",
    "as_vector",
    "check_finite_values",
    "epsilon",
    "finite_or_nan",
    "hermitian_to_rounding",
    "is_complex",
    "is_hermitian",
    "nan_unless",
]


def as_inexact(array: Any, name: str, like: Any = None) -> Array:
    """``array`` in a floating dtype; integers and booleans become ``like`` or the default float."""
    if not is_array(array):
        raise TypeError(f"{name} is a {type(array).__name__}: an array is needed, {_advice(array)}")
    backend = backend_of(array)
    array = backend.plain(array, name)
    kind = backend.kind(array.dtype)
    if kind.endswith("floating"):
        return array
    if kind in ("bool", "integral"):
        xp = backend.xp
        default = xp.__array_namespace_info__().default_dtypes()["real floating"]
        return xp.astype(array, default if like is None else like)
    raise TypeError(f"{name} has dtype {array.dtype}: a floating dtype is needed")


def _advice(given: Any) -> str:
    """What would do for a thing that is no array."""
    several = isinstance(given, (list, tuple)) and any(getattr(part, "shape", ()) for part in given)
    if several or isinstance(given, Iterator):
        return "give arrays and operators one by one"
    if isinstance(given, dict):
        return "blocks by name are BlockDiagonalOperator's"
    table = hasattr(given, "__array__") and not hasattr(given, "matvec")  # of pandas, say
    if hasattr(given, "shape") and not table:
        return "or, of another library's operator, kronops.aslinearoperator(…)"
    return "for example numpy.asarray"


def as_matrix(array: Any, name: str, check_finite: bool = True) -> Array:
    """A snapshot of a 2-D array, in a floating dtype, finite throughout."""
    return _snapshot(array, name, check_finite, 2, "a matrix with two axes is needed")


def as_vector(array: Any, name: str, check_finite: bool = True) -> Array:
    """The same of an array with one axis."""
    return _snapshot(array, name, check_finite, 1, "one axis is needed")


def _snapshot(array: Any, name: str, check_finite: bool, axes: int, needed: str) -> Array:
    array = as_inexact(array, name)
    if array.ndim != axes:
        raise ValueError(f"{name} has shape {tuple(array.shape)}: {needed}")
    if as_flag(check_finite, "check_finite"):
        check_finite_values(array, name)
    return backend_of(array).snapshot(array)


def as_flag(value: Any, name: str) -> bool:
    """``value``, which is true or false: a text, such as ``"no"``, would count as true.

    Examples
    --------
    >>> as_flag(True, "refine"), as_flag(0, "refine")
    (True, False)
    """
    if not (isinstance(value, (int, np.bool_)) and value in (0, 1)):
        raise TypeError(f"{name} = {value!r}: True or False is needed")
    return bool(value)


def check_finite_values(array: Array, name: str) -> None:
    """Refuse NaN and infinity anywhere in ``array``, where its values can be seen."""
    backend = backend_of(array)
    values = backend.values(array)
    if values is not None and not backend.all_finite(values):
        raise ValueError(f"{name} has NaN or infinite entries (check_finite=False lets them pass)")


def finite_or_nan(array: Array) -> Array:
    """``array``, all of it NaN if an entry is not finite, where nobody sees that.

    For what is made of it other than sums of products, which carry NaN and infinity on: a quotient
    by infinity is zero.
    """
    backend = backend_of(array)
    if backend.values(array) is not None or backend.lazy:  # a chunk would wait for all others
        return array
    return nan_unless(backend.xp.all(backend.xp.isfinite(array)), array)


def nan_unless(holds: Array, array: Array) -> Array:
    """``array``, and its derivatives, times NaN unless the condition holds, which nobody sees."""
    backend = backend_of(array)
    xp = backend.xp
    one = xp.ones((), dtype=backend.real_dtype(array.dtype), device=backend.device(array))
    return array * xp.where(holds, one, math.nan)


def epsilon(array: Array) -> float:
    """The unit of rounding (twice the relative error of one operation) of the array's dtype."""
    return float(backend_of(array).xp.finfo(array.dtype).eps)


def is_complex(array: Array) -> bool:
    """Whether the array's dtype is complex."""
    return backend_of(array).kind(array.dtype) == "complex floating"


def is_hermitian(matrix: Array) -> bool:
    """Whether a matrix is Hermitian up to the rounding of a sum of as many terms as it has rows.

    False where values cannot be seen.
    """
    backend = backend_of(matrix)
    values = backend.values(matrix)
    if matrix.shape[0] != matrix.shape[1] or values is None:
        return False
    tiles = backend.tiles(values.shape[0])
    exactly = all(  # cheaper, and common
        bool(backend.xp.all(values[rows, columns] == backend.adjoint_tile(values[columns, rows])))
        for rows, columns in tiles
    )
    if not exactly and backend.all_finite(values):
        exactly = all(bool(_close_tile(values, *tile)) for tile in tiles)
    return exactly


def hermitian_to_rounding(matrix: Array) -> Array:
    """The same of a square matrix of finite entries, as an array without axes."""
    return _close_tile(matrix, slice(None), slice(None))


def _close_tile(matrix: Array, rows: slice, columns: slice) -> Array:
    """Whether a tile is the adjoint of its mirror image up to rounding."""
    backend = backend_of(matrix)
    xp = backend.xp
    # Against the sizes of the row and the column, so that units do not matter.
    size = xp.sqrt(xp.abs(xp.linalg.diagonal(matrix)))
    tile, adjoint = matrix[rows, columns], backend.adjoint(matrix[columns, rows])
    larger = xp.maximum(xp.abs(tile), xp.abs(adjoint))
    rounding = epsilon(matrix) * xp.maximum(size[rows][:, None] * size[columns], larger)
    return xp.all(xp.abs(tile - adjoint) <= (10 + matrix.shape[0]) * rounding)
