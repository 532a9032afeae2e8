"""Numbers that operators are multiplied by and shifted by.

They are Python numbers, which never promote an array, but for one case: a number without axes that
is traced or differentiated stays the array it is, so that nothing is lost of it.
"""

from __future__ import annotations

import cmath
import math
import numbers
import operator
from typing import Any

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.checks import finite_or_nan

__all__ = [
    "Scalar",
    "as_integer",
    "as_multiplier",
    "as_nonnegative",
    "as_scalar",
    "binary_exponent",
    "conjugate",
    "is_real",
    "real_if_real",
    "scalar_exp",
    "scalar_power",
    "unit_power",
]

Scalar = Any  # float, complex, or an array without axes that is traced or differentiated


def as_scalar(value: Any, name: str) -> float | complex:
    """``value`` as a Python scalar, which never promotes an array."""
    if is_array(value) and getattr(value, "ndim", 1) == 0:
        backend = backend_of(value)
        value = backend.plain(value, name)
        if backend.kind(value.dtype) == "bool":
            raise TypeError(f"{name} is a bool: a real or complex number is needed")
        if _is_followed(value):
            raise TypeError(
                f"{name} is traced or differentiated, and a plain number is needed here"
            )
        value = complex(value) if _is_complex(value) else float(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Complex):
        raise TypeError(f"{name} is a {type(value).__name__}: a real or complex number is needed")
    try:
        scalar = float(value) if isinstance(value, numbers.Real) else complex(value)
    except OverflowError as error:
        raise OverflowError(f"{name} = {value} is too large for a float") from error
    if not math.isfinite(abs(scalar)):
        raise ValueError(f"{name} = {scalar}: a finite number is needed")
    return scalar


def as_multiplier(value: Any, name: str, like: Array) -> Scalar:
    """``value`` as a Python scalar, or the array that it is if it is traced or differentiated.

    An array is of the library of ``like``, and brought to its precision, so that it does not
    promote either.
    """
    if not (is_array(value) and value.ndim == 0):
        return as_scalar(value, name)
    backend, home, dtype = backend_of(value), backend_of(like), like.dtype
    if backend is not home and backend.name != "numpy":  # whose numbers are of every library
        raise TypeError(
            f"{name} is a number of {backend.name}, the arrays are of {home.name}: bring the "
            f"operator there (op.to_backend({backend.name!r})), or take a plain number"
        )
    if not _is_followed(value):
        return as_scalar(value, name)
    seen = backend.values(value)
    if seen is not None:
        as_scalar(seen, name)
    kind = backend.real_dtype(dtype)
    if _is_complex(value):
        kind = backend.xp.result_type(dtype, backend.xp.complex64)
    return finite_or_nan(backend.xp.astype(value, kind))


def as_nonnegative(value: Any, name: str, like: Array | None = None) -> Any:
    """``value`` as a finite Python float ≥ 0; with ``like`` by way of `as_multiplier`."""
    scalar: Any = as_scalar(value, name) if like is None else as_multiplier(value, name, like)
    seen = backend_of(scalar).values(scalar) if is_array(scalar) else scalar
    if not is_real(scalar):
        raise TypeError(f"{name} = {scalar} is complex: a real number ≥ 0 is needed")
    if seen is None:
        xp = backend_of(scalar).xp
        return xp.where((scalar >= 0) & xp.isfinite(scalar), scalar, math.nan)
    if seen < 0:
        raise ValueError(f"{name} = {scalar} is negative: a real number ≥ 0 is needed")
    return scalar


def as_integer(value: Any, name: str, least: int = 0) -> int:
    """``value`` as a Python integer ≥ ``least``."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} is a {type(value).__name__}: an integer ≥ {least} is needed"
        ) from None
    if number < least:
        raise ValueError(f"{name} = {number}: an integer ≥ {least} is needed")
    return number


def is_real(scalar: Scalar) -> bool:
    """Whether a scalar is of a real type."""
    return not (_is_complex(scalar) if is_array(scalar) else isinstance(scalar, complex))


def real_if_real(scalar: Scalar) -> Scalar:
    """A complex scalar without imaginary part as a float."""
    return scalar.real if isinstance(scalar, complex) and scalar.imag == 0 else scalar


def conjugate(scalar: Scalar) -> Scalar:
    """The complex conjugate."""
    if not is_array(scalar):
        return scalar.conjugate()
    return scalar if is_real(scalar) else backend_of(scalar).xp.conj(scalar)


def binary_exponent(scalar: Scalar) -> int:
    """The binary exponent of the magnitude; 0 of an array, which nobody may look at."""
    return 0 if is_array(scalar) else math.frexp(abs(scalar))[1]


def scalar_exp(scalar: Scalar) -> Scalar:
    """``e ** scalar``; `OverflowError` where it is too large for a float."""
    if is_array(scalar):
        return backend_of(scalar).xp.exp(scalar)
    try:
        return cmath.exp(scalar) if isinstance(scalar, complex) else math.exp(scalar)
    except OverflowError:
        raise OverflowError(f"e to the power {scalar} is out of the range of a float") from None


def scalar_power(scalar: Scalar, p: float) -> Scalar:
    """``scalar ** p``; `OverflowError` where it is too large or too small for a float."""
    exponent = int(p) if p.is_integer() else p
    if is_array(scalar):
        return scalar**exponent
    try:
        made: float | complex = scalar**exponent
    except OverflowError:
        made = 0.0
    if made == 0 and scalar != 0:
        raise OverflowError(f"{scalar} to the power {p} is out of the range of a float")
    return made


def unit_power(phase: Scalar, n: int) -> Scalar:
    """``phase ** n`` for a number of magnitude one and an exact integer of any size."""
    if isinstance(phase, complex):
        return cmath.exp(1j * math.fmod(cmath.phase(phase) * n, 2 * math.pi))
    if is_real(phase):
        return phase if n % 2 else phase * phase
    return phase ** float(n)


def _is_followed(array: Array) -> bool:
    backend = backend_of(array)
    return backend.is_tracked(array) or backend.values(array) is None


def _is_complex(array: Array) -> bool:
    return backend_of(array).kind(array.dtype) == "complex floating"
