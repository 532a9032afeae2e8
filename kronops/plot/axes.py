"""Where pictures are drawn."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

__all__ = ["as_axes"]


def as_axes(ax: Axes | None, **figure: Any) -> Axes:
    """``ax``, or those of a new figure of pyplot, which is imported only then."""
    if ax is None:
        from matplotlib import pyplot

        return pyplot.subplots(layout="constrained", **figure)[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax is a {type(ax).__name__}: matplotlib.axes.Axes or None would do")
    return ax
