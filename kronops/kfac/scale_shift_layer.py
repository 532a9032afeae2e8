"""A layer that scales and shifts its inputs, as those after a normalisation do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kronops import BlockDiagonalOperator, DenseOperator
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.batches import as_batch, as_choice
from kronops.kfac.estimator import Batch, Estimator
from kronops.kfac.gradient_moments import as_moment, as_operator, half, outer_moment
from kronops.kfac.moving_average import Arrays

__all__ = ["ScaleShiftLayer"]

BETWEEN = "scale and shift"
Axes = tuple[int, ...]


@dataclass(eq=False)
class ScaleShiftLayer(Estimator):
    """``E[g gᵀ]`` of a layer ``y = scale ∘ x + shift``, from what goes through the layer.

    The gradients of an example are ``Σ x ∘ ∂y`` for the scale and ``Σ ∂y`` for the shift, summed
    over the axes along which the parameters are repeated [1]_.

    Parameters
    ----------
    scale, shift : bool
        Which of the two the layer has: at least one.
    axes : tuple of int, or pair of these
        Axes of the inputs ``(B, …)`` that are summed over, counted from the batch axis, which is 0
        and not among them: ``(1, 2)`` for a scale for each channel of images ``(B, h, w, c)``.
        A pair of tuples gives those of the scale and of the shift.
    structure : {"full", "diagonal"}
        The whole second moment of ``n`` parameters, ``n²`` entries, or the mean squares.
    debias : bool
        Whether averages are divided by their total weight.
    layout : {"in,out", "out,in"}
        Accepted for the sake of uniformity: vectors have the parameters' own shapes in either.

    Raises
    ------
    ValueError, TypeError
        A setting is none of these; ``axes`` that are no integers, repeated, or the batch axis.

    Notes
    -----
    `update` takes inputs ``(B, …)`` and output gradients of the same shape, or with draws in front.
    A parameter has the shape that is left without the batch axis and ``axes``, ``(1,)`` if nothing
    is. Vectors are ``(scale, shift)`` pairs or flat in this order, a single array where the layer
    has one of the two; `moments` is one array in this order, ``(n, n)`` or ``(n,)``.

    References
    ----------
    .. [1] Ioffe and Szegedy, Batch normalization, 2015, section 3 (the gradients of γ and β).
       https://arxiv.org/abs/1502.03167

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import ScaleShiftLayer
    >>> layer = ScaleShiftLayer()
    >>> layer.update(np.array([[2.0], [0.0]]), np.array([[1.0], [3.0]]))
    >>> layer.moments
    array([[2., 1.],
           [1., 5.]])
    >>> scale, shift = layer.operator(damping=1.0).multiply((np.ones(1), np.ones(1)))
    >>> scale, shift
    (array([4.]), array([7.]))
    """

    scale: bool = True
    shift: bool = True
    axes: Any = ()
    structure: str = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        as_choice(self.scale, "scale", (False, True))
        as_choice(self.shift, "shift", (False, True))
        as_choice(self.structure, "structure", ("full", "diagonal"))
        if not (self.scale or self.shift):
            raise ValueError("scale and shift are both False: a layer has one of them at least")
        self.axes = _as_axes(self.axes)

    @property
    def _parameters(self) -> tuple[str, ...]:
        return tuple(name for name in ("scale", "shift") if getattr(self, name))

    @property
    def _names(self) -> tuple[str, ...]:
        both = len(self._parameters) == 2 and self.structure == "full"
        return (*self._parameters, BETWEEN) if both else self._parameters

    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        x, g = _as_rows(*batch)
        xp, examples = backend_of(x).xp, x.shape[0]
        gradients = dict(self._gradients(x, g))
        if self.structure == "diagonal":
            return {name: xp.sum(d * d, axis=0) / examples for name, d in gradients.items()}, 1
        moments = {name: outer_moment([d], examples) for name, d in gradients.items()}
        if len(gradients) == 2:
            between = xp.tensordot(gradients["scale"], gradients["shift"], axes=([0], [0]))
            moments[BETWEEN] = between / examples
        return moments, 1

    def _gradients(self, x: Array, g: Array) -> Iterator[tuple[str, Array]]:
        """For each parameter ``(draws · B, *its shape)``."""
        xp = backend_of(x).xp
        pairs = self.axes if self.axes and isinstance(self.axes[0], tuple) else (self.axes,) * 2
        for name, axes in zip(("scale", "shift"), pairs, strict=True):
            if name in self._parameters:
                places = tuple(axis + 1 for axis in _counted(axes, x.ndim))
                summed = xp.sum(x * g if name == "scale" else g, axis=places)
                yield name, xp.reshape(summed, (-1, *(summed.shape[2:] or (1,))))

    def _read(self, values: Arrays) -> Any:
        parts = [as_moment(values[name], self.structure) for name in self._parameters]
        if len(parts) == 1:
            return parts[0]
        xp = backend_of(*parts).xp
        if self.structure == "diagonal":
            return xp.concat([xp.reshape(part, (-1,)) for part in parts])
        (scale, shift), between = parts, values[BETWEEN]
        between = xp.reshape(between, (scale.shape[0], shift.shape[0]))
        above = xp.concat([scale, between], axis=1)
        return xp.concat([above, xp.concat([xp.matrix_transpose(between), shift], axis=1)])

    def _undamped(self, values: Arrays, repeats: int) -> Any:
        if len(self._parameters) == 1:
            return as_operator(values[self._parameters[0]], self.structure)
        if self.structure == "diagonal":
            return BlockDiagonalOperator(
                [as_operator(values[name], "diagonal") for name in self._parameters]
            )
        shape = [half(values[name]) for name in self._parameters]
        return DenseOperator.trusted(
            self._read(values), "symmetric", "the moment of gradients", shape
        )


def _as_axes(axes: Any) -> Any:
    """A tuple of integers, or a pair of these."""
    if not isinstance(axes, (tuple, list)):
        raise TypeError(f"axes is a {type(axes).__name__}: a tuple of integers is needed")
    if len(axes) == 2 and all(isinstance(part, (tuple, list)) for part in axes):
        return tuple(_as_axes(part) for part in axes)
    for axis in axes:
        if isinstance(axis, bool) or not hasattr(axis, "__index__"):
            raise TypeError(f"axes = {axes!r}: a tuple of integers, or a pair of these, is needed")
        if int(axis) == 0:
            raise ValueError(f"axes = {axes!r}: axis 0 is the batch, which is averaged anyway")
    return tuple(int(axis) for axis in axes)


def _as_rows(inputs: Any, output_gradients: Any) -> tuple[Array, Array]:
    """``(B, …)`` and ``(draws, B, …)``."""
    x, g = as_batch(inputs=inputs, output_gradients=output_gradients)
    if x.ndim == 0:
        raise ValueError("inputs has no axes: (B, …) is needed")
    draws = g[None, ...] if g.ndim == x.ndim else g
    if draws.shape[1:] != x.shape:
        raise ValueError(
            f"output_gradients has shape {tuple(g.shape)}: that of inputs is needed, "
            f"{tuple(x.shape)}, or (draws, {', '.join(map(str, x.shape))})"
        )
    return x, draws


def _counted(axes: Axes, ndim: int) -> Axes:
    """The axes of arrays with ``ndim`` axes, none of them negative."""
    counted = tuple(axis + ndim if axis < 0 else axis for axis in axes)
    if len(set(counted)) < len(counted) or not all(0 < axis < ndim for axis in counted):
        raise ValueError(
            f"axes = {axes}, but inputs has {ndim} axes: different ones of 1 to {ndim - 1} are "
            f"needed, for axis 0 is the batch"
        )
    return counted
