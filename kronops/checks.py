"""What is refused when an operator is built or applied, and in which words.

Every check names the argument, what it was, and what would do.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array, Backend

__all__ = [
    "as_inexact",
    "as_matrix",
    "as_nonnegative",
    "as_scalar",
    "check_finite_values",
    "epsilon",
    "is_complex",
    "is_hermitian",
]

Scalar = float | complex


def as_inexact(array: Any, name: str, like: Any = None) -> Array:
    """``array`` in a floating dtype; integers and booleans become ``like`` or the default float."""
    if not is_array(array):
        nested = isinstance(array, (list, tuple)) and any(hasattr(part, "shape") for part in array)
        advice = "give arrays and operators one by one" if nested else "for example numpy.asarray"
        raise TypeError(f"{name} is a {type(array).__name__}: an array is needed, {advice}")
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


def as_matrix(array: Any, name: str, check_finite: bool = True) -> Array:
    """A snapshot of a 2-D array, in a floating dtype, finite throughout."""
    array = as_inexact(array, name)
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}: a matrix with two axes is needed")
    if check_finite:
        check_finite_values(array, name)
    return backend_of(array).snapshot(array)


def check_finite_values(array: Array, name: str) -> None:
    """Refuse NaN and infinity anywhere in ``array``, where its values can be seen."""
    backend = backend_of(array)
    if backend.values_visible(array) and not bool(backend.xp.all(backend.xp.isfinite(array))):
        raise ValueError(f"{name} has NaN or infinite entries (check_finite=False lets them pass)")


def as_scalar(value: Any, name: str) -> Scalar:
    """``value`` as a Python scalar, which never promotes an array."""
    if is_array(value) and getattr(value, "ndim", 1) == 0:
        value = complex(value) if is_complex(value) else float(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Complex):
        raise TypeError(f"{name} is a {type(value).__name__}: a real or complex number is needed")
    try:
        scalar: Scalar = float(value) if isinstance(value, numbers.Real) else complex(value)
    except OverflowError as error:
        raise OverflowError(f"{name} = {value} is too large for a float") from error
    if not math.isfinite(abs(scalar)):
        raise ValueError(f"{name} = {scalar}: a finite number is needed")
    return scalar


def as_nonnegative(value: Any, name: str) -> float:
    """``value`` as a finite Python float ≥ 0."""
    scalar = as_scalar(value, name)
    if isinstance(scalar, complex):
        raise TypeError(f"{name} = {scalar} is complex: a real number ≥ 0 is needed")
    if scalar < 0:
        raise ValueError(f"{name} = {scalar} is negative: a real number ≥ 0 is needed")
    return scalar


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
    backend: Backend = backend_of(matrix)
    xp = backend.xp
    if matrix.shape[0] != matrix.shape[1]:
        return False
    if matrix.shape[0] == 0:
        return True
    if not backend.values_visible(matrix):
        return False
    if not bool(xp.all(xp.isfinite(matrix))):
        return False
    # Against the sizes of the row and the column, so that units do not matter.
    size = xp.sqrt(xp.abs(xp.linalg.diagonal(matrix)))
    adjoint = backend.adjoint(matrix)
    larger = xp.maximum(xp.abs(matrix), xp.abs(adjoint))
    rounding = epsilon(matrix) * xp.maximum(size[:, None] * size, larger)
    return bool(xp.all(xp.abs(matrix - adjoint) <= (10 + matrix.shape[0]) * rounding))
