"""Structured vectors: flat arrays, arrays of the domain shape, (weights, bias) pairs, blocks.

A *shape* here is a tuple of integers or, for block-diagonal operators, a list or dict of shapes.
`flatten` turns a structured vector into a flat array and remembers how to give a result back in
the same form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeVar

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array, Backend
from kronops.drawing import compared

__all__ = [
    "LAYOUTS",
    "InChannels",
    "OutIn",
    "Shape",
    "Vector",
    "as_kind",
    "as_layout",
    "flatten",
    "flatten_each",
    "folds",
    "in_layout",
    "join_pair",
    "parts_of",
    "same_form",
    "size_of",
    "unflatten",
]

Vector = TypeVar("Vector")  # in one of the forms of the user, which a result then has too
Shape = Any  # tuple[int, ...] | list[Shape] | dict[str, Shape]
Restore = Callable[[Array], Any]
_MOST_AXES = 64  # of arrays of NumPy and of PyTorch
LAYOUTS = ("in,out", "out,in", "in,channels")


class OutIn(tuple[int, ...]):
    """A shape ``(out, in)`` in PyTorch's layout: trailing axes fold, the bias is the last column.

    Examples
    --------
    >>> import numpy as np
    >>> flat, _ = flatten((np.zeros((2, 3)), np.ones(2)), OutIn((2, 4)), OutIn((2, 4)))
    >>> flat
    array([0., 0., 0., 1., 0., 0., 0., 1.])
    """


class InChannels(tuple[int, ...]):
    """A shape ``(in, channels·multiplier)`` whose last axis may be given as two.

    Examples
    --------
    >>> import numpy as np
    >>> shape = InChannels((9, 8))
    >>> flat, restore = flatten(np.zeros((3, 3, 4, 2)), shape, shape)
    >>> flat.shape, restore(flat).shape
    ((72,), (3, 3, 4, 2))
    """


def in_layout(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """``shape``, marked where its vectors are PyTorch's weights or depthwise kernels."""
    kinds: dict[str, type[tuple[int, ...]]]
    kinds = {"in,out": tuple, "out,in": OutIn, "in,channels": InChannels}
    return kinds[layout](shape)


def as_layout(layout: str) -> str:
    """One of the layouts; ``"in,channels"``: kernels ``(kh, kw, in, multiplier)``."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout = {layout!r}: one of {LAYOUTS} would do")
    return layout


def size_of(shape: Shape) -> int:
    """The number of entries of vectors of this shape, an exact integer.

    Examples
    --------
    >>> size_of((2, 3)), size_of({"a": (2, 3), "b": (4,)})
    (6, 10)
    """
    if isinstance(shape, tuple):
        return math.prod(shape)
    return sum(size_of(part) for part in _parts(shape))


def unflatten(flat: Array, shape: tuple[int, ...]) -> Array:
    """``flat`` in this shape, or as it is if no array has so many axes.

    Examples
    --------
    >>> import numpy as np
    >>> unflatten(np.ones(6), (2, 3)).shape, unflatten(np.ones(1), (1,) * 70).shape
    ((2, 3), (1,))
    """
    return backend_of(flat).xp.reshape(flat, shape) if len(shape) <= _MOST_AXES else flat


def flatten(v: Any, domain: Shape, range_: Shape, name: str = "v") -> tuple[Array, Restore]:
    """``v`` as a flat array, and the function that gives a flat result the form of ``v``.

    Parameters
    ----------
    v : array, pair of arrays, or list, tuple or dict of these
        An array of shape ``(n,)``; of the shape ``domain``, or with leading axes that fold into
        its first axis; a pair ``(weights, bias)`` whose bias is the last row of the ``domain``
        matrix; for a list or dict of shapes, one such vector for each. Where a key of the shapes
        is a pair, such as ``("fc.weight", "fc.bias")``, ``v`` has the two parts under these.
    domain, range_ : shape
        Shapes of the unflattened vectors that go in and come out.
    name : str
        What error messages call ``v``.

    Raises
    ------
    ValueError
        ``v`` fits none of these; the message gives its shape and those that would do.

    Examples
    --------
    >>> import numpy as np
    >>> flat, restore = flatten((np.zeros((2, 3)), np.ones(3)), (3, 3), (3, 3))
    >>> flat
    array([0., 0., 0., 0., 0., 0., 1., 1., 1.])
    >>> restore(flat)[1]
    array([1., 1., 1.])
    """
    if is_array(v):
        return _flatten_array(v, domain, range_, name)
    if not isinstance(domain, tuple):
        return _flatten_blocks(v, domain, range_, name)
    if isinstance(v, (tuple, list)) and len(v) == 2 and all(is_array(part) for part in v):
        return _flatten_pair(v, domain, range_, name)
    raise ValueError(f"{name} is {_describe(v)}; {_would_do(domain)}")


def _flatten_array(v: Array, domain: Shape, range_: Shape, name: str) -> tuple[Array, Restore]:
    if v.ndim == 1 and v.shape[0] == size_of(domain):
        return v, lambda result: result
    shape = tuple(v.shape)
    if not (isinstance(domain, tuple) and folds(shape, domain)):
        backend_of(v).plain(v, name)  # which may know better what is wrong with it
        raise ValueError(f"{name} has shape {shape}; {_would_do(domain)}{_drawn(name, v, domain)}")
    if not isinstance(range_, tuple):
        result_shape: tuple[int, ...] = (size_of(range_),)
    elif isinstance(domain, OutIn):
        result_shape = (range_[0], *shape[1:]) if range_[1:] == domain[1:] else range_
    elif isinstance(domain, InChannels):
        result_shape = shape if range_ == domain else range_
    else:
        leading = shape[: len(shape) - len(domain) + 1]
        result_shape = (*leading, *range_[1:]) if range_[0] == domain[0] else range_
    xp = backend_of(v).xp
    return xp.reshape(v, (-1,)), lambda result: xp.reshape(result, result_shape)


def _flatten_pair(pair: Any, domain: Shape, range_: Shape, name: str) -> tuple[Array, Restore]:
    matrix, separate = join_pair(pair, domain, range_, name)
    xp = backend_of(matrix).xp
    return xp.reshape(matrix, (-1,)), lambda result: separate(xp.reshape(result, domain))


def join_pair(
    pair: Any, domain: Shape, range_: Shape, name: str = "v"
) -> tuple[Array, Callable[[Array], Any]]:
    """The matrix that a pair ``(weights, bias)`` stands for, and how to take one apart again.

    Examples
    --------
    >>> import numpy as np
    >>> matrix, separate = join_pair((np.zeros((2, 3)), np.ones(3)), (3, 3), (3, 3))
    >>> matrix.shape, separate(matrix)[1]
    ((3, 3), array([1., 1., 1.]))
    """
    weights, bias = pair
    without_bias = _without_bias(domain)
    shape = tuple(weights.shape)
    fits = (
        without_bias is not None
        and tuple(bias.shape) == _bias_shape(domain)
        and len(shape) >= 2
        and folds(shape, without_bias)
    )
    if not fits:
        drawing = "" if without_bias is None else _drawn("weights", weights, without_bias)
        raise ValueError(f"{name} is {_describe(pair)}; {_would_do(domain)}{drawing}")
    if range_ != domain:
        raise ValueError(
            f"{name} is a pair, but the operator maps shape {domain} to {range_}, which is no "
            f"(weights, bias) pair: give it as an array"
        )
    xp = _one_library({f"{name}[0]": weights, f"{name}[1]": bias}).xp
    kind = type(pair)
    axis = 1 if isinstance(domain, OutIn) else 0
    matrix = xp.concat(
        [xp.reshape(weights, without_bias), xp.expand_dims(bias, axis=axis)], axis=axis
    )

    def separate(rows: Array) -> Any:
        if axis:
            return as_kind(kind, (xp.reshape(rows[:, :-1], shape), rows[:, -1]))
        return as_kind(kind, (xp.reshape(rows[:-1, :], shape), rows[-1, :]))

    return matrix, separate


def _flatten_blocks(v: Any, domain: Shape, range_: Shape, name: str) -> tuple[Array, Restore]:
    flats, restore = flatten_each(v, domain, range_, name)
    ends = [0, *itertools.accumulate(size_of(part) for part in _parts(range_))]

    def restore_flat(result: Array) -> Any:
        return restore([result[start:stop] for start, stop in itertools.pairwise(ends)])

    return backend_of(*flats).xp.concat(flats) if len(flats) > 1 else flats[0], restore_flat


def _one_library(named: dict[str, Array]) -> Backend:
    """That of all arrays of a structured vector, or an error with the names of two that differ."""
    (first, array), *others = named.items()
    backend = backend_of(array)
    for name, other in others:
        if (strange := backend_of(other)) is not backend:
            raise TypeError(
                f"{first} is of {backend.name}, {name} of {strange.name}: "
                f"bring both to one library first"
            )
    return backend


def flatten_each(
    v: Any, domain: Shape, range_: Shape, name: str = "v"
) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The parts of a structured vector of blocks as flat arrays; results in the form of ``v``.

    Examples
    --------
    >>> import numpy as np
    >>> shape = {"a": (2, 2), "b": (1,)}
    >>> flats, restore = flatten_each({"a": np.zeros((2, 2)), "b": np.ones(1)}, shape, shape)
    >>> [flat.shape for flat in flats], restore(flats)["b"]
    ([(4,), (1,)], array([1.]))
    """
    parts, restore_parts = parts_of(v, domain, name)
    names = {key: f"{name}[{key!r}]" for key in _keys(domain)}
    pieces = [
        flatten(part, domain[key], range_[key], names[key])
        for key, part in zip(names, parts, strict=True)
    ]
    flats = [flat for flat, _ in pieces]
    _one_library(dict(zip(names.values(), flats, strict=True)))

    def restore(results: list[Array]) -> Any:
        return restore_parts(
            [back(result) for (_, back), result in zip(pieces, results, strict=True)]
        )

    return flats, restore


def parts_of(
    v: Any, domain: Shape, name: str = "v"
) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The vectors of the blocks in ``v``, as they are; results in the form of ``v``.

    Examples
    --------
    >>> parts, restore = parts_of({"b": 1, "a": 2}, {"a": (2, 2), "b": (1,)})
    >>> parts, restore(parts)
    ([2, 1], {'b': 1, 'a': 2})
    """
    keys = _keys(domain)
    if isinstance(domain, dict):
        fits = isinstance(v, dict) and v.keys() == set(_entries(domain))
    else:
        fits = isinstance(v, (list, tuple)) and len(v) == len(domain)
    if not fits:
        raise ValueError(f"{name} is {_describe(v)}{_differences(v, domain)}; {_would_do(domain)}")

    def restore(parts: list[Any]) -> Any:
        return as_kind(type(v), _named(keys, parts, v) if isinstance(v, dict) else parts)

    return [_at(v, key) for key in keys], restore


def _keys(domain: Shape) -> list[Any]:
    return list(domain) if isinstance(domain, dict) else list(range(len(domain)))


def _entries(domain: dict[Any, Shape]) -> list[Any]:
    """The keys of vectors: a key that is a pair stands for two, of the weights and the bias."""
    return [entry for key in domain for entry in (key if isinstance(key, tuple) else (key,))]


def _at(v: Any, key: Any) -> Any:
    return tuple(v[entry] for entry in key) if isinstance(key, tuple) else v[key]


def _named(keys: list[Any], parts: list[Any], like: dict[Any, Any]) -> dict[Any, Any]:
    """The parts of blocks by the keys of vectors, in the order of ``like``."""
    made: dict[Any, Any] = {}
    for key, part in zip(keys, parts, strict=True):
        made |= dict(zip(key, part, strict=True)) if isinstance(key, tuple) else {key: part}
    return {entry: made[entry] for entry in like}


def same_form(left: Shape, right: Shape) -> bool:
    """Whether two shapes are of vectors in one structure, layout and order."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same_form(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same_form, left, right))
    return bool(left == right)


def _parts(shape: Shape) -> list[Shape]:
    return list(shape.values()) if isinstance(shape, dict) else list(shape)


def as_kind(kind: type, parts: Any) -> Any:
    """``parts`` in a container like the user's, named tuples included."""
    return kind(*parts) if hasattr(kind, "_fields") else kind(parts)


def _without_bias(domain: Shape) -> tuple[int, ...] | None:
    """The shape of the weights beside a bias, if vectors can be such pairs."""
    if not isinstance(domain, tuple) or len(domain) != 2:
        return None
    rows, columns = domain
    weights = (rows, columns - 1) if isinstance(domain, OutIn) else (rows - 1, columns)
    kind: Any = type(domain)
    return kind(weights) if min(weights) >= 0 else None


def _bias_shape(domain: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(domain[:1] if isinstance(domain, OutIn) else domain[1:])


def folds(shape: tuple[int, ...], domain: tuple[int, ...]) -> bool:
    """Whether the leading axes of ``shape`` fold into the first of ``domain`` (trailing, last).

    Examples
    --------
    >>> folds((3, 3, 4, 2), (36, 2)), folds((36, 2, 1), (36, 2)), folds((2, 3, 4), OutIn((2, 12)))
    (True, False, True)
    """
    if isinstance(domain, OutIn):
        return shape[:1] == domain[:1] and math.prod(shape[1:]) == domain[1]
    if isinstance(domain, InChannels) and shape[-1:] != domain[1:]:
        shape = (*shape[:-2], math.prod(shape[-2:]))
    leading = len(shape) - len(domain) + 1
    if (leading < 1 and shape) or tuple(shape[leading:]) != domain[1:]:
        return False  # a number without axes folds into an axis of size 1
    return math.prod(shape[:leading]) == domain[0]


def _describe(v: Any) -> str:
    if is_array(v):
        return f"an array of shape {tuple(v.shape)}"
    if isinstance(v, dict):
        return f"a dict with the keys {list(v)}"
    if isinstance(v, (tuple, list)):
        if len(v) == 2 and all(is_array(part) for part in v):
            return f"a pair of shapes {tuple(v[0].shape)} and {tuple(v[1].shape)}"
        if len(v) == 2 and any(map(is_array, v)):
            return f"a pair of {_describe(v[0])} and {_describe(v[1])}"
        return f"a {type(v).__name__} of length {len(v)}"
    return f"a {type(v).__name__}"


def _differences(v: Any, domain: Shape) -> str:
    """Which keys are missing, and which are of no block."""
    if not (isinstance(v, dict) and isinstance(domain, dict)):
        return ""
    needed = _entries(domain)
    missing = [key for key in needed if key not in v]
    unknown = [key for key in v if key not in needed]
    lacks = f", which lacks {missing}" if missing else ""
    return lacks + (f", and no block has {unknown}" if unknown else "")


def _drawn(name: str, v: Array, domain: Shape) -> str:
    """The shape of an array beside that of the operator, where leading axes are what folds."""
    if not v.ndim or not isinstance(domain, tuple) or isinstance(domain, (OutIn, InChannels)):
        return ""
    return compared(name, tuple(v.shape), domain)


def _would_do(domain: Shape) -> str:
    size = size_of(domain)
    if isinstance(domain, dict):
        forms = [f"a dict with the keys {_entries(domain)}", f"a flat array of shape ({size},)"]
    elif isinstance(domain, list):
        forms = [f"a list of {len(domain)} vectors", f"a flat array of shape ({size},)"]
    else:
        forms = [f"a flat array of shape ({size},)"]
        fold = "trailing" if isinstance(domain, OutIn) else "leading"
        forms.append(f"an array of shape {domain}, or with {fold} axes that fold into it")
        weights = _without_bias(domain)
        if weights is not None:
            forms.append(f"a pair (weights, bias) of shapes {weights} and {_bias_shape(domain)}")
    return "what would do: " + "; ".join(forms)
