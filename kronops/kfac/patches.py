"""What a convolution sees: the pieces of an image that its kernel is applied to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import product
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.batches import as_count

__all__ = ["Window", "as_padding", "as_sizes"]

Sizes = tuple[int, ...]
Padding = str | tuple[tuple[int, int], ...]
PADDINGS = ("SAME", "VALID")


@dataclass(frozen=True)
class Window:
    """Where a kernel is applied: a setting for each spatial axis.

    Parameters
    ----------
    kernel, strides, dilation : tuple of int
        Sizes ≥ 1, one for each spatial axis.
    padding : {"SAME", "VALID"} or tuple of pairs of int
        Zeros before and after each axis. ``"SAME"`` is TensorFlow's: ``⌈n / stride⌉`` positions,
        and the odd zero after the image.

    Examples
    --------
    >>> import numpy as np
    >>> window = Window((2,), (1,), "VALID", (2,))
    >>> window.positions((5,))
    (3,)
    >>> window.patches(np.arange(5.0).reshape(1, 5, 1))[0, :, :, 0]
    array([[0., 2.],
           [1., 3.],
           [2., 4.]])
    """

    kernel: Sizes
    strides: Sizes
    padding: Padding
    dilation: Sizes

    @property
    def span(self) -> Sizes:
        """From the first to the last pixel that the kernel touches, holes counted."""
        pairs = zip(self.kernel, self.dilation, strict=True)
        return tuple((size - 1) * dilation + 1 for size, dilation in pairs)

    def positions(self, image: Sizes) -> Sizes:
        """How many positions the kernel has along each axis of an image of these sizes."""
        padded = self._padded(image)
        if any(size < span for size, span in zip(padded, self.span, strict=True)):
            raise ValueError(
                f"inputs has images of {image} pixels, {padded} with padding: the kernel "
                f"{self.kernel} with dilation {self.dilation} needs at least {self.span}"
            )
        axes = zip(padded, self.span, self.strides, strict=True)
        return tuple((size - span) // stride + 1 for size, span, stride in axes)

    def patches(self, images: Array) -> Array:
        """Patches ``(..., *positions, pixels, channels)`` of images ``(..., *spatial, channels)``.

        The pixels of the kernel are in row-major order. There is one strided slice for each.
        """
        axes = len(self.kernel)
        spatial = tuple(images.shape[-axes - 1 : -1])
        positions = self.positions(spatial)
        padded = images
        for axis, (before, after) in enumerate(self._pads(spatial)):
            padded = _with_zeros(padded, before, after, axis - axes - 1)
        slices = [
            padded[(..., *map(_slice, offsets, positions, self.strides), slice(None))]
            for offsets in product(
                *(range(0, span, step) for span, step in zip(self.span, self.dilation, strict=True))
            )
        ]
        return backend_of(images).xp.stack(slices, axis=-2)

    def _pads(self, image: Sizes) -> tuple[tuple[int, int], ...]:
        if not isinstance(self.padding, str):
            return self.padding
        if self.padding == "VALID":
            return ((0, 0),) * len(image)
        axes = zip(image, self.span, self.strides, strict=True)
        zeros = [max((-(-n // stride) - 1) * stride + span - n, 0) for n, span, stride in axes]
        return tuple((total // 2, total - total // 2) for total in zeros)

    def _padded(self, image: Sizes) -> Sizes:
        return tuple(n + sum(pad) for n, pad in zip(image, self._pads(image), strict=True))


def as_sizes(value: Any, name: str, axes: int | None = None) -> Sizes:
    """One integer ≥ 1 for each axis; one alone is that of all axes."""
    if isinstance(value, (Set, Mapping)):
        raise TypeError(f"{name} is a {type(value).__name__}, which has no order: a tuple would do")
    if not isinstance(value, Iterable) or isinstance(value, str):
        return (as_count(value, name),) * (1 if axes is None else axes)
    sizes = tuple(as_count(size, f"{name}[{axis}]") for axis, size in enumerate(value))
    if not sizes or len(sizes) != (axes or len(sizes)):
        needed = "at least one integer" if axes is None else f"{axes}, one for each spatial axis,"
        raise ValueError(f"{name} = {sizes} has {len(sizes)} entries: {needed} is needed")
    return sizes


def as_padding(value: Any, axes: int) -> Padding:
    """A name, or a pair of integers ≥ 0 for each axis."""
    if isinstance(value, str) and value in PADDINGS:
        return value
    pairs = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(pairs) != axes or not all(isinstance(p, Sequence) and len(p) == 2 for p in pairs):
        raise ValueError(
            f"padding = {value!r}: 'SAME', 'VALID' or {axes} pairs (before, after) are needed, one "
            f"for each spatial axis"
        )
    for size in (size for pair in pairs for size in pair):
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"padding has a {type(size).__name__}: integers ≥ 0 are needed")
        if int(size) < 0:
            raise ValueError(f"padding = {value!r}: integers ≥ 0 are needed")
    return tuple((int(before), int(after)) for before, after in pairs)


def _slice(offset: int, positions: int, stride: int) -> slice:
    return slice(offset, offset + (positions - 1) * stride + 1, stride)


def _with_zeros(x: Array, before: int, after: int, axis: int) -> Array:
    if not before + after:
        return x
    backend = backend_of(x)
    parts = [x]
    for count, where in ((before, 0), (after, 1)):
        shape = list(x.shape)
        shape[axis] = count
        zeros = backend.xp.zeros(tuple(shape), dtype=x.dtype, device=backend.device(x))
        parts.insert(where * len(parts), zeros)
    return backend.xp.concat(parts, axis=axis)
