"""Two shapes that do not fit, drawn beneath the sentence that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["compared", "joined"]

_INDENT = "\n    "


def joined(
    left: tuple[int, ...], left_axis: int, sign: str, right: tuple[int, ...], right_axis: int
) -> str:
    """An expression of two shapes, and a bracket between the axes that should be equal.

    Examples
    --------
    >>> print("x does not fit:" + joined((4, 6), 1, "@", (5,), 0))
    x does not fit:
        (4, 6) @ (5,)
            ╰─ ≠ ─╯
    """
    first, start = _written(left, left_axis)
    second, stop = _written(right, right_axis)
    text = f"{first} {sign} {second}"
    stop += len(first) + len(sign) + 2
    bracket = " ≠ ".center(stop - start - 1, "─")
    return f"{_INDENT}{text}{_INDENT}{' ' * start}╰{bracket}╯"


def compared(name: str, shape: tuple[int, ...], wanted: tuple[int, ...], of: str = "op") -> str:
    """A shape above the one that an operator has, axis above axis, and which of them are equal.

    Axes of one that stand for a single axis of the other are multiplied.

    Examples
    --------
    >>> print("v does not fit:" + compared("v", (3, 3, 4, 5), (27, 5)))
    v does not fit:
        v  (3·3·4, 5)
        op (   27, 5)
                ≠  =
    """
    count = min(len(shape), len(wanted))
    rows = [[*_folded(axes, count)] for axes in (shape, wanted)]
    equal = [math.prod(a) == math.prod(b) for a, b in zip(*rows, strict=True)]
    written = [["·".join(map(str, axes)) or "1" for axes in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*written, strict=True)]
    label = max(len(name), len(of))
    lines = [
        f"{title:{label}} (" + ", ".join(map(str.rjust, row, widths)) + ("," * (count == 1)) + ")"
        for title, row in zip((name, of), written, strict=True)
    ]
    marks = ["=" if same else "≠" for same in equal]
    lines.append(" " * (label + 2) + "  ".join(map(str.rjust, marks, widths)))
    return "".join(_INDENT + line for line in lines)


def _written(shape: tuple[int, ...], axis: int) -> tuple[str, int]:
    """A shape, and the place of the last digit of an axis in it."""
    place = 1 + sum(len(str(size)) + 2 for size in shape[:axis]) + len(str(shape[axis])) - 1
    return str(tuple(shape)), place


def _folded(shape: tuple[int, ...], count: int) -> Sequence[tuple[int, ...]]:
    """``count`` groups of axes: the last ones by themselves, all before together."""
    if not count:
        return []
    lead = len(shape) - count + 1
    return [shape[:lead], *((size,) for size in shape[lead:])]
