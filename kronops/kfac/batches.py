"""What estimators do with the arrays of one batch: refuse what does not fit, sum outer products.

Sums are over layer inputs ``(uses, locations, B, in)`` and output gradients
``(draws, uses, locations, B, out)``. Draws and uses are independent; the locations of an example
(where a convolution kernel is applied, say) are summed before anything is squared.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.checks import as_inexact, is_complex

__all__ = [
    "append_one",
    "as_batch",
    "as_choice",
    "as_count",
    "as_pair",
    "gradient_slabs",
    "mean_square_gradient",
    "second_moment",
]

SLAB = 2**22  # entries of the per-example gradients that are in memory at one time


def as_batch(**arrays: Any) -> tuple[Array, ...]:
    """The arrays in their common real dtype, at least float32; one library, one device, not empty.

    Integers and booleans become the library's default float. Half precision becomes float32: a sum
    of squares has no digits left in it.
    """
    batch = [as_inexact(array, name) for name, array in arrays.items()]
    first, backend = next(iter(arrays)), backend_of(batch[0])
    device = backend.device(batch[0])
    for name, array in zip(arrays, batch, strict=True):
        if (other := backend_of(array)) is not backend:
            raise TypeError(
                f"{first} is an array of {backend.name}, {name} of {other.name}: "
                f"bring both to one library first"
            )
        if is_complex(array):
            raise TypeError(f"{name} has dtype {array.dtype}: a real floating dtype is needed")
        if not backend.same_device(array, device):
            raise TypeError(
                f"{first} is on device {device}, {name} on {backend.device(array)}: "
                f"bring both to one device first"
            )
        if 0 in array.shape:
            raise ValueError(f"{name} has shape {tuple(array.shape)}: an empty batch has no mean")
    dtype = backend.xp.result_type(*batch, backend.xp.float32)
    return tuple(backend.xp.astype(array, dtype, copy=False) for array in batch)


def as_pair(inputs: Any, output_gradients: Any, axes: tuple[str | int, ...]) -> tuple[Array, Array]:
    """Inputs ``(*axes, in)`` and output gradients ``(draws, *axes, out)``, checked by `as_batch`.

    An axis is a fixed size, or the name of one that only has to be the same for both.
    """
    a, g = as_batch(inputs=inputs, output_gradients=output_gradients)
    form = ", ".join(map(str, axes))
    if a.ndim != len(axes) + 1 or not _fits(a.shape, axes):
        raise ValueError(f"inputs has shape {tuple(a.shape)}: ({form}, in) is needed")
    draws = g[None, ...] if g.ndim == a.ndim else g
    if draws.ndim != a.ndim + 1 or draws.shape[1:-1] != a.shape[:-1]:
        raise ValueError(
            f"output_gradients has shape {tuple(g.shape)}, inputs {tuple(a.shape)}: ({form}, out) "
            f"or (draws, {form}, out) is needed, with the sizes that inputs has"
        )
    return a, draws


def _fits(shape: tuple[int, ...], axes: tuple[str | int, ...]) -> bool:
    sizes = zip(shape, axes, strict=False)
    return all(isinstance(axis, str) or size == axis for size, axis in sizes)


def as_choice(value: Any, name: str, choices: tuple[Any, ...]) -> None:
    """Refuse a setting that is none of ``choices``."""
    if not any(_is(value, choice) for choice in choices):
        raise ValueError(f"{name} = {value!r}: one of {', '.join(map(repr, choices))} is needed")


def _is(value: Any, choice: Any) -> bool:
    """Whether both are the same setting; what users give may compare as an array does."""
    if type(value) is not type(choice):
        return False
    if isinstance(value, tuple):
        return len(value) == len(choice) and all(map(_is, value, choice))
    return bool(value == choice)


def as_count(value: Any, name: str) -> int:
    """``value`` as a Python integer ≥ 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is a {type(value).__name__}: an integer ≥ 1 is needed")
    if int(value) < 1:
        raise ValueError(f"{name} = {value}: an integer ≥ 1 is needed")
    return int(value)


def append_one(x: Array) -> Array:
    """``x`` with a constant 1 as its last feature: the input that a bias multiplies."""
    xp = backend_of(x).xp
    return xp.concat([x, xp.ones_like(x[..., :1])], axis=-1)


def second_moment(x: Array, structure: str, count: Any, one: bool = False) -> Array:
    """The sum of ``x xᵀ``, or of its diagonal, over all axes but the last, divided by ``count``.

    With ``one`` that of `append_one` of ``count`` vectors, by a border in place of a copy of them.
    """
    xp = backend_of(x).xp
    rows = xp.reshape(x, (-1, x.shape[-1]))
    mean = xp.sum(rows, axis=0) / count if one else None
    if structure == "diagonal":
        squares = xp.sum(rows * rows, axis=0) / count
        return squares if mean is None else append_one(squares)
    half = xp.matmul(xp.matrix_transpose(rows), rows) / (2 * count)
    moment = half + xp.matrix_transpose(half)  # equal to the last bit, which checks see at once
    if mean is None:
        return moment
    columns = xp.concat([moment, mean[:, None]], axis=1)
    return xp.concat([columns, append_one(mean)[None, :]], axis=0)


def gradient_slabs(a: Array, g: Array) -> Iterator[Array]:
    """Per-example gradients ``Σ_locations a gᵀ``, in arrays ``(k, in, out)`` of bounded size."""
    xp = backend_of(a).xp
    draws, uses, locations, batch, outputs = g.shape
    inputs = a.shape[-1]
    a = xp.reshape(xp.permute_dims(a, (0, 2, 3, 1)), (uses * batch, inputs, locations))
    g = xp.permute_dims(g, (0, 1, 3, 2, 4))
    g = xp.reshape(g, (draws, uses * batch, locations, outputs))
    examples, step = uses * batch, max(1, SLAB // (inputs * outputs))
    for draw in range(draws):
        for first in range(0, examples, step):
            chosen = slice(first, min(first + step, examples))
            yield xp.matmul(a[chosen, ...], g[draw, chosen, ...])


def mean_square_gradient(a: Array, g: Array) -> Array:
    """Squares of the per-example gradients, ``(in, out)``: mean over examples, sum over the rest.

    With one location for each example the square of ``a_i g_j`` is ``a_i² g_j²``: one product.
    """
    xp = backend_of(a).xp
    locations, batch = g.shape[2:4]
    if locations > 1:
        return reduce(add, (xp.sum(slab * slab, axis=0) for slab in gradient_slabs(a, g))) / batch
    squares = xp.reshape(a * a, (-1, a.shape[-1]))
    weights = xp.reshape(xp.sum(g * g, axis=0), (-1, g.shape[-1]))
    return xp.matmul(xp.matrix_transpose(squares), weights) / batch
