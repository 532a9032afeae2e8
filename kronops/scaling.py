"""Products of many numbers of any size, without overflow or underflow on the way.

Powers of two are pulled out of the parts, exactly, and put back at the end: the result is right
whenever it can be represented itself.
"""

from __future__ import annotations

import itertools
import math
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array

__all__ = [
    "balanced_order",
    "comfortable",
    "dtype_exponent",
    "exponent",
    "kronecker",
    "largest",
    "mantissa_and_exponent",
    "outer",
    "product",
    "product_of_scalars",
    "require_writable",
    "rescale",
    "smallest_exponent",
    "split",
]

Scalar = Any  # float, complex, or an array without axes
_SAFE = 2.0**-14, 2.0**15  # what every floating dtype holds
T = TypeVar("T")


def exponent(array: Array) -> int:
    """The binary exponent of the largest magnitude; 0 where it is zero or cannot be seen.

    Examples
    --------
    >>> import numpy as np
    >>> exponent(np.array([1.0, -8.0]))
    4
    """
    size = largest(array)
    return math.frexp(size)[1] if math.isfinite(size) else 0


def largest(array: Array) -> float:
    """The largest magnitude; 0 where there is none or it cannot be seen."""
    backend = backend_of(array)
    values = backend.values(array)
    if 0 in array.shape or values is None:
        return 0.0
    if values.ndim != 2:
        return float(backend.xp.max(backend.xp.abs(values)))
    bands = backend.bands(*values.shape)
    return max(float(backend.xp.max(backend.xp.abs(values[rows, :]))) for rows in bands)


def smallest_exponent(array: Array) -> int:
    """The binary exponent of the smallest magnitude but zero; 0 where there is none to be seen.

    Examples
    --------
    >>> import numpy as np
    >>> smallest_exponent(np.array([0.0, 0.25, -8.0]))
    -1
    """
    backend = backend_of(array)
    values = backend.values(array)
    if 0 in array.shape or values is None:
        return 0
    xp = backend.xp
    sizes = xp.abs(values)
    size = float(xp.min(xp.where(sizes > 0, sizes, xp.max(sizes))))
    return math.frexp(size)[1] if math.isfinite(size) else 0


def comfortable(exponents: Sequence[int], limit: int) -> bool:
    """Whether products of such magnitudes, taken in this order, stay well inside the range."""
    return all(abs(partial) < limit - limit // 50 for partial in itertools.accumulate(exponents))


def split(scale: Scalar, power: int, dtype_exponent: int) -> list[Scalar]:
    """Scalars in the dtype's range whose product is ``scale * 2**power``; none if that is one."""
    step = dtype_exponent - dtype_exponent // 8
    rest, size = mantissa_and_exponent(scale)
    power += size
    multipliers: list[Scalar] = []
    while abs(power) > step:
        chunk = step if power > 0 else -step
        multipliers.append(2.0**chunk)
        power -= chunk
    last = rest * 2.0**power
    return multipliers if last == 1 else [*multipliers, last]


def mantissa_and_exponent(scalar: Scalar) -> tuple[Scalar, int]:
    """``scalar`` as a number of magnitude in [1/2, 1) times a power of two; also if complex.

    Examples
    --------
    >>> mantissa_and_exponent(-6.0)
    (-0.75, 3)
    """
    size = math.frexp(abs(scalar))[1]
    # In two steps, for 2**-size itself may be out of range.
    return scalar * 2.0 ** (-size // 2) * 2.0 ** (-size - -size // 2), size


def product_of_scalars(scalars: Iterable[Scalar]) -> tuple[Scalar, int]:
    """The product of any numbers as a mantissa and a binary exponent; ``(0, 0)`` if one is zero.

    Examples
    --------
    >>> product_of_scalars([1e200, 1e200, 1e-300])[1]
    333
    """
    mantissa: Scalar = 1.0
    power = 0
    for scalar in scalars:
        part, size = mantissa_and_exponent(scalar)
        mantissa, carry = mantissa_and_exponent(mantissa * part)
        power += size + carry
    return mantissa, power if mantissa != 0 else 0


def balanced_order(parts: Sequence[tuple[int, T]], running: int) -> list[T]:
    """Things to multiply by, each with its binary exponent, in an order that stays near one.

    ``running`` is the exponent to begin with; the next is always the one that counteracts most.

    Examples
    --------
    >>> balanced_order([(300, "a"), (300, "b"), (-300, "c"), (-300, "d")], running=0)
    ['a', 'c', 'b', 'd']
    """
    left = list(parts)
    order = []
    while left:
        best = (min if running > 0 else max)(left, key=lambda part: part[0])
        left.remove(best)
        running += best[0]
        order.append(best[1])
    return order


def rescale(array: Array, multipliers: Sequence[Scalar]) -> Array:
    """``array`` times every multiplier, in a complex dtype if one of them is complex.

    Examples
    --------
    >>> import numpy as np
    >>> rescale(np.ones(2, np.float32) * 2.0**-120, [2.0**130])  # no number in single precision
    array([1024., 1024.], dtype=float32)
    """
    backend = backend_of(array)
    xp = backend.xp
    for multiplier in _in_range(array, multipliers):
        if is_array(multiplier):  # in its own precision it might promote
            complex_ = backend.kind(multiplier.dtype) == "complex floating"
            real = backend.real_dtype(array.dtype)
            wide = xp.result_type(real, xp.complex64) if complex_ else real
            multiplier = xp.astype(multiplier, wide, copy=False)
        elif isinstance(multiplier, complex):
            array = xp.astype(array, xp.result_type(array.dtype, xp.complex64), copy=False)
        array = array * multiplier
    return array


def _in_range(array: Array, multipliers: Sequence[Scalar]) -> Iterator[Scalar]:
    """The multipliers, those apart that the array's dtype cannot hold."""
    for multiplier in multipliers:
        if is_array(multiplier) or _SAFE[0] < abs(multiplier) < _SAFE[1] or multiplier == 0:
            yield multiplier
        else:
            yield from split(multiplier, 0, dtype_exponent(array))


def outer(arrays: Sequence[Array], scale: Scalar = 1.0) -> Array:
    """``scale`` times the product of every choice of entries, flat, the last array's fastest.

    Examples
    --------
    >>> import numpy as np
    >>> outer([np.array([1e200, 2e200]), np.array([1e-200, 3e-200]), np.array([1e200])], 1e-200)
    array([1., 3., 2., 6.])
    """
    return _product(arrays, scale, lambda left, right: left[..., None] * right)


def kronecker(matrices: Sequence[Array], scale: Scalar = 1.0) -> Array:
    """``scale`` times the Kronecker product of matrices, written out.

    Examples
    --------
    >>> import numpy as np
    >>> kronecker([np.array([[1.0, 2.0]]), np.array([[1.0], [3.0]])])
    array([[1., 2.],
           [3., 6.]])
    """
    return _product(matrices, scale, lambda left, right: left[:, None, :, None] * right[:, None, :])


def product(numbers: Sequence[Array], scale: Scalar) -> Array:
    """``scale`` times the elementwise product of arrays of one shape."""
    return _product(numbers, scale, operator.mul)


def _product(arrays: Sequence[Array], scale: Scalar, multiply: Callable[..., Array]) -> Array:
    xp = backend_of(*arrays).xp
    if multiply is not operator.mul:
        require_writable(math.prod(math.prod(array.shape) for array in arrays))
    limit = dtype_exponent(arrays[0])
    exponents = [exponent(array) for array in arrays]
    if comfortable(exponents, limit):
        exponents = [0] * len(arrays)
    result = None
    for array, power in zip(arrays, exponents, strict=True):
        array = rescale(array, split(1.0, -power, limit))
        if result is None:
            result = array
            continue
        shape = tuple(m * n for m, n in zip(result.shape, array.shape, strict=True))
        result = multiply(result, array)
        result = result if multiply is operator.mul else xp.reshape(result, shape)
    return rescale(result, split(scale, sum(exponents), limit))


def require_writable(count: int) -> None:
    """Refuse to write out more numbers than any memory holds, before any of it is taken."""
    if count > 2**40:
        raise ValueError(
            f"{count} numbers are too many to be written out (an entry for each dimension, or for "
            f"each pair): ask for what needs no list, such as op @ x, trace, norm, op[i, j]"
        )


def dtype_exponent(array: Array) -> int:
    """The largest binary exponent of the array's dtype: 1024 for double precision."""
    largest = min(float(backend_of(array).xp.finfo(array.dtype).max), sys.float_info.max)
    return math.frexp(largest)[1]
