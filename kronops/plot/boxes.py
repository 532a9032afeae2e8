"""Boxes that are put side by side: how a picture of an expression is laid out.

A box knows its size, in units of the picture, and draws itself around a centre. All boxes of a row
have their centres on one line, so that operators stand between matrices as in a formula.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import BoxStyle, FancyBboxPatch, Rectangle

__all__ = ["Box", "Canvas", "captioned", "cascade", "framed", "matrix", "raised", "row", "words"]

MUTED, FAINT = "#6f7a87", "#a2adb8"  # on light and on dark pages
_CAPTION = 0.42  # height of the letters under a matrix, in units
_LETTER = 0.62  # width of a letter by its height
_LARGEST = 22  # points for letters one unit high


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Axes, and how many points a unit of the picture has in them."""

    axes: Axes
    points: float

    def write(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
        """Letters ``size`` units high, around ``(x, y)``; smaller where a unit is large.

        Their colour is that of Matplotlib's style, unless it is given.
        """
        place = {"ha": "center", "va": "center"} | style
        self.axes.text(x, y, text, fontsize=size * min(self.points, _LARGEST), **place)


@dataclasses.dataclass(frozen=True)
class Box:
    """Something ``width × height`` that ``draw(canvas, x, y)`` draws around ``(x, y)``.

    What is brackets or a matrix ends ``top`` above the centre, where its exponent stands.
    """

    width: float
    height: float
    draw: Callable[[Canvas, float, float], None]
    top: float


def words(text: str, size: float = 0.8) -> Box:
    """A line of text, or a symbol."""

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.write(x, y, text, size)

    return Box(_LETTER * size * len(text), size, draw, size / 2)


def matrix(cells: np.ndarray[Any, Any], shape: tuple[int, int]) -> Box:
    """Magnitudes as shades of blue, zero in white. Sides grow with the logarithms of the shape."""
    height, width = (1 + math.log2(max(size, 1)) / 4 for size in shape)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left, bottom = x - width / 2, y - height / 2
        if cells.size:
            extent = (left, left + width, bottom, bottom + height)
            limits = {"vmin": 0.0, "vmax": float(np.max(cells)) or 1.0}
            canvas.axes.imshow(
                cells, cmap="Blues", extent=extent, interpolation="nearest", **limits
            )
        outline = Rectangle((left, bottom), width, height, fill=False, edgecolor=MUTED)
        canvas.axes.add_patch(outline)

    return Box(width, height, draw, height / 2)


def captioned(box: Box, text: str) -> Box:
    """``box`` with small letters under it."""
    lines = text.split("\n")
    width = max(box.width, _CAPTION * _LETTER * max(map(len, lines)))
    below = 1.3 * _CAPTION * len(lines)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        box.draw(canvas, x, y)
        top = y - box.height / 2 - 0.3 * _CAPTION
        canvas.write(x, top, text, _CAPTION, va="top", color=MUTED)

    return Box(width, box.height + 2 * below, draw, box.top)


def framed(box: Box) -> Box:
    """``box`` in a frame, which stands for brackets."""
    width, height = box.width + 0.6, box.height + 0.3

    def draw(canvas: Canvas, x: float, y: float) -> None:
        corner = x - width / 2 + 0.1, y - height / 2 + 0.1
        rounded = BoxStyle.Round(pad=0, rounding_size=0.3)
        frame = FancyBboxPatch(corner, width - 0.2, height - 0.2, rounded, fill=False, ec=FAINT)
        canvas.axes.add_patch(frame)
        box.draw(canvas, x, y)

    return Box(width, height, draw, height / 2)


def raised(box: Box, exponent: str) -> Box:
    """``box`` with an exponent."""
    size = 0.6
    width = box.width + 2 * _LETTER * size * len(exponent)  # on both sides: the centre stays

    def draw(canvas: Canvas, x: float, y: float) -> None:
        box.draw(canvas, x, y)
        canvas.write(x + box.width / 2 + 0.05, y + box.top, exponent, size, ha="left", va="top")

    return Box(width, box.height, draw, box.top)


def row(boxes: Sequence[Box], gap: float = 0.3) -> Box:
    """Boxes from left to right."""
    width = sum(box.width for box in boxes) + gap * (len(boxes) - 1)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left = x - width / 2
        for box in boxes:
            box.draw(canvas, left + box.width / 2, y)
            left += box.width + gap

    height = max(box.height for box in boxes)
    return Box(width, height, draw, height / 2)


def cascade(boxes: Sequence[Box]) -> Box:
    """Boxes from the upper left to the lower right, as blocks stand on a diagonal."""
    width, height = sum(box.width for box in boxes), sum(box.height for box in boxes)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left, top = x - width / 2, y + height / 2
        for box in boxes:
            box.draw(canvas, left + box.width / 2, top - box.height / 2)
            left, top = left + box.width, top - box.height

    return Box(width, height, draw, height / 2)
