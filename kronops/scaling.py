"""Products of many numbers of any size, without overflow or underflow on the way.

Powers of two are pulled out of the parts, exactly, and put back at the end: the result is right
whenever it can be represented itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kronops.backends import backend_of
from kronops.backends.standard import Array

__all__ = ["exponent", "outer", "rescale", "split"]

Scalar = float | complex


def exponent(array: Array) -> int:
    """The binary exponent of the largest magnitude; 0 where it is zero or cannot be seen.

    Examples
    --------
    >>> import numpy as np
    >>> exponent(np.array([1.0, -8.0]))
    4
    """
    backend = backend_of(array)
    if 0 in array.shape or not backend.values_visible(array):
        return 0
    largest = float(backend.xp.max(backend.xp.abs(array)))
    return math.frexp(largest)[1] if math.isfinite(largest) else 0


def comfortable(exponents: Sequence[int], scale: Scalar, dtype_exponent: int) -> bool:
    """Whether no partial product of such magnitudes comes near overflow or underflow."""
    total = sum(abs(e) for e in exponents) + abs(math.frexp(abs(scale))[1])
    return total < dtype_exponent // 3


def split(scale: Scalar, power: int, dtype_exponent: int) -> list[Scalar]:
    """Scalars in the dtype's range whose product is ``scale * 2**power``; none if that is one."""
    step = dtype_exponent - dtype_exponent // 8
    size = math.frexp(abs(scale))[1]
    # In two steps, for 2**-size itself may be out of range.
    rest = scale * 2.0 ** (-size // 2) * 2.0 ** (-size - -size // 2)
    power += size
    multipliers: list[Scalar] = []
    while abs(power) > step:
        chunk = step if power > 0 else -step
        multipliers.append(2.0**chunk)
        power -= chunk
    last = rest * 2.0**power
    return multipliers if last == 1 else [*multipliers, last]


def rescale(array: Array, multipliers: Sequence[Scalar]) -> Array:
    """``array`` times every multiplier, in a complex dtype if one of them is complex."""
    xp = backend_of(array).xp
    for multiplier in multipliers:
        if isinstance(multiplier, complex):
            array = xp.astype(array, xp.result_type(array.dtype, xp.complex64), copy=False)
        array = array * multiplier
    return array


def outer(arrays: Sequence[Array], scale: Scalar = 1.0) -> Array:
    """``scale`` times the product of every choice of entries: one axis for each axis given.

    Examples
    --------
    >>> import numpy as np
    >>> outer([np.array([1e200, 2e200]), np.array([1e-200, 3e-200]), np.array([1e200])], 1e-200)
    array([[[1.],
            [3.]],
    <BLANKLINE>
           [[2.],
            [6.]]])
    """
    xp = backend_of(*arrays).xp
    limit = dtype_exponent(arrays[0])
    exponents = [exponent(array) for array in arrays]
    if comfortable(exponents, scale, limit):
        exponents = [0] * len(arrays)
    result = None
    for array, power in zip(arrays, exponents, strict=True):
        array = rescale(array, split(1.0, -power, limit))
        if result is None:
            result = array
        else:
            widened = xp.reshape(result, (*result.shape, *[1] * array.ndim))
            result = widened * array
    return rescale(result, split(scale, sum(exponents), limit))


def dtype_exponent(array: Array) -> int:
    """The largest binary exponent of the array's dtype: 1024 for double precision."""
    return math.frexp(float(backend_of(array).xp.finfo(array.dtype).max))[1]
