"""What a convolution and a depthwise convolution have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac import batches
from kronops.kfac.batches import as_batch, as_choice, as_count
from kronops.kfac.eigenvalues import Eigenvalues
from kronops.kfac.estimator import Batch
from kronops.kfac.grouped_layer import GroupedLayer
from kronops.kfac.moving_average import Arrays, MovingAverage
from kronops.kfac.patches import Window, as_padding, as_sizes

__all__ = ["Convolution"]


@dataclass(eq=False)
class Convolution(GroupedLayer):
    """A layer whose inputs are the patches that a kernel meets; an author writes `_groups_of`."""

    kernel_shape: Any
    strides: Any = 1
    padding: Any = "SAME"
    dilation: Any = 1
    bias: bool = field(default=False, kw_only=True)
    structure: str | tuple[str, str] = field(default="kronecker", kw_only=True)
    uses: int | None = field(default=None, kw_only=True)
    channels: str = field(default="last", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kernel_shape = as_sizes(self.kernel_shape, "kernel_shape")
        axes = len(self.kernel_shape)
        self.strides = as_sizes(self.strides, "strides", axes)
        self.padding = as_padding(self.padding, axes)
        self.dilation = as_sizes(self.dilation, "dilation", axes)
        as_choice(self.channels, "channels", ("last", "first"))
        if self.uses is not None:
            self.uses = as_count(self.uses, "uses")

    @abstractmethod
    def _groups_of(self, inputs: int, outputs: int) -> int:
        """The number of groups of so many channels; `ValueError` where they do not divide."""

    # -- some examples at a time -----------------------------------------------------------------

    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        total = MovingAverage()
        for share, slab in self._slabs(*batch):
            new, repeats = super()._statistics(slab)
            scaled = {name: share * array for name, array in new.items()}
            total = total.merge(MovingAverage(scaled, share, repeats))
        return total.totals, total.repeats

    def _squares(self, batch: Batch, known: Eigenvalues) -> Array:
        squares = super()._squares
        return reduce(add, (share * squares(slab, known) for share, slab in self._slabs(*batch)))

    def _slabs(self, inputs: Any, output_gradients: Any) -> Iterator[tuple[float, Batch]]:
        """Shares of the batch and its parts, whose patches are of bounded size."""
        images, g = self._checked(inputs, output_gradients)
        axes = len(self.kernel_shape)
        examples = images.shape[1]
        locations = math.prod(g.shape[3:-1])
        patches = images.shape[0] * locations * math.prod(self.kernel_shape) * images.shape[-1]
        step = max(1, batches.SLAB // patches)
        rest = (slice(None),) * (axes + 1)
        for first in range(0, examples, step):
            chosen = slice(first, min(first + step, examples))
            part = images[(..., chosen, *rest)], g[(..., chosen, *rest)]
            yield (chosen.stop - first) / examples, part

    # -- arrays ----------------------------------------------------------------------------------

    @property
    def _window(self) -> Window:
        return Window(self.kernel_shape, self.strides, self.padding, self.dilation)

    def _checked(self, inputs: Any, output_gradients: Any) -> tuple[Array, Array]:
        """Images ``(uses, B, *spatial, in)``, gradients ``(draws, uses, B, *locations, out)``."""
        images, g = as_batch(inputs=inputs, output_gradients=output_gradients)
        front = ("B",) if self.uses is None else (self.uses, "B")
        spatial = tuple(f"size{axis}" for axis in range(len(self.kernel_shape)))
        if images.ndim != len(front) + len(spatial) + 1 or images.shape[0] != (
            self.uses or images.shape[0]
        ):
            raise ValueError(
                f"inputs has shape {tuple(images.shape)}: {self._form(front, spatial, 'in')} is "
                f"needed for a kernel {self.kernel_shape} and channels={self.channels!r}"
            )
        shape, images = tuple(images.shape), self._channels_last(images)
        batch = images.shape[: len(front)]
        locations = self._window.positions(tuple(images.shape[len(front) : -1]))
        draws = g[None, ...] if g.ndim == images.ndim else g
        last = self._channels_last(draws) if draws.ndim == images.ndim + 1 else draws
        if last.ndim != images.ndim + 1 or last.shape[1:-1] != (*batch, *locations):
            form = self._form(batch, locations, "out")
            raise ValueError(
                f"output_gradients has shape {tuple(g.shape)}, inputs {shape}: {form} or "
                f"{form.replace('(', '(draws, ', 1)} is needed"
            )
        self._groups_of(images.shape[-1], last.shape[-1])
        return (images[None, ...], last[:, None, ...]) if self.uses is None else (images, last)

    def _group_rows(self, inputs: Any, output_gradients: Any) -> list[tuple[Array, Array]]:
        patches = self._window.patches(inputs)
        channels, outputs = patches.shape[-1], output_gradients.shape[-1]
        groups = self._groups_of(channels, outputs)
        return [
            (
                self._input_rows(patches[..., _part(channels, group, groups)]),
                _as_rows(output_gradients[..., _part(outputs, group, groups)], 2),
            )
            for group in range(groups)
        ]

    def _input_rows(self, patches: Array) -> Array:
        """``(uses, locations, B, in)``, in the order of the kernel's axes."""
        xp = backend_of(patches).xp
        ordered = patches if self.layout == "in,out" else xp.matrix_transpose(patches)
        return _as_rows(xp.reshape(ordered, (*ordered.shape[:-2], -1)), 1)

    def _channels_last(self, x: Array) -> Array:
        axes = len(self.kernel_shape)
        if self.channels == "last":
            return x
        return backend_of(x).xp.moveaxis(x, -axes - 1, -1)

    def _form(self, front: tuple[Any, ...], spatial: tuple[Any, ...], channel: str) -> str:
        last = (*spatial, channel) if self.channels == "last" else (channel, *spatial)
        return f"({', '.join(map(str, (*front, *last)))})"


def _as_rows(x: Array, front: int) -> Array:
    """``(..., B, *locations, n)`` as ``(..., locations, B, n)``; ``front`` axes before ``B``."""
    xp = backend_of(x).xp
    rows = xp.reshape(x, (*x.shape[: front + 1], -1, x.shape[-1]))
    return xp.permute_dims(rows, (*range(front), front + 1, front, front + 2))


def _part(size: int, group: int, groups: int) -> slice:
    each = size // groups
    return slice(group * each, (group + 1) * each)
