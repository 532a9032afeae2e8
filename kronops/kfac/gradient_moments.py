"""Second moments of whole gradients: the diagonal in their shape, or all of it, and its operator.

A full moment is kept with the gradient's axes twice, ``(*shape, *shape)``, so that it knows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from operator import add

from kronops import DenseOperator, DiagonalOperator
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.vectors import in_layout

__all__ = ["as_moment", "as_operator", "half", "outer_moment"]


def outer_moment(slabs: Iterable[Array], count: int) -> Array:
    """``Σ g ⊗ g / count`` over slabs ``(k, *shape)`` of gradients ``g``."""
    outers = (backend_of(g).xp.tensordot(g, g, axes=([0], [0])) for g in slabs)
    return reduce(add, outers) / count


def as_moment(moment: Array, structure: str) -> Array:
    """What users see: the diagonal in its shape, or a matrix."""
    if structure == "diagonal":
        return moment
    size = math.prod(half(moment))
    return backend_of(moment).xp.reshape(moment, (size, size))


def as_operator(
    moment: Array, structure: str, layout: str = "in,out"
) -> DiagonalOperator | DenseOperator:
    """The operator on vectors of the gradient's shape."""
    if structure == "diagonal":
        return DiagonalOperator(moment, layout=layout, name="the moment of gradients")
    shape = in_layout(half(moment), layout)
    return DenseOperator.trusted(
        as_moment(moment, structure), "symmetric", "the moment of gradients", shape
    )


def half(moment: Array) -> tuple[int, ...]:
    """The gradient's shape, from a full moment."""
    return tuple(moment.shape[: moment.ndim // 2])
