"""A block estimated from gradients alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.batches import as_batch, as_choice, as_count
from kronops.kfac.estimator import Batch, Estimator
from kronops.kfac.gradient_moments import as_moment, as_operator, outer_moment
from kronops.kfac.moving_average import Arrays

__all__ = ["GradientLayer"]


@dataclass(eq=False)
class GradientLayer(Estimator):
    """``E[g gᵀ]`` or its diagonal, for a parameter of any shape that has gradients ``g``.

    Nothing is asked of the layer but the gradients of its examples: the diagonal is that of RMSprop
    and of Adam, at its true scale; the full moment has the square of the parameter's entries.

    Parameters
    ----------
    structure : {"diagonal", "full"}
        Elementwise squares, or the whole second moment.
    debias : bool
        Whether averages are divided by their total weight.
    layout : {"in,out", "out,in"}
        Accepted for the sake of uniformity: vectors have the parameter's own shape in either.

    Notes
    -----
    A batch costs ``2·B·n`` flops for a diagonal of ``n`` entries, ``2·B·n²`` for a full moment.

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import GradientLayer
    >>> layer = GradientLayer()
    >>> layer.update(np.array([[1.0, 2.0], [3.0, 0.0]]))
    >>> layer.moments
    array([5., 2.])
    >>> layer.operator(damping=1.0).multiply_inverse(np.array([12.0, 3.0]))
    array([2., 1.])
    """

    structure: str = "diagonal"
    _names = ("gradients",)

    def __post_init__(self) -> None:
        super().__post_init__()
        as_choice(self.structure, "structure", ("diagonal", "full"))

    def update(  # type: ignore[override]  # one array where layers have two
        self,
        gradients: Array,
        decay: float | None = None,
        weight: float = 1.0,
        summed: int | None = None,
    ) -> None:
        """Take one batch of gradients in: ``total = decay · total + weight · new``.

        Parameters
        ----------
        gradients : array
            One gradient for each example, ``(B, …)``. A parameter without axes counts as ``(1,)``.
        decay : float, optional
            A finite number ≥ 0; None: nothing decays.
        weight : float
            A finite number ≥ 0.
        summed : int, optional
            ``gradients`` is one gradient, of the parameter's shape, summed over this many examples.
            Where these are independent and have mean zero, as with targets drawn from the model,
            the square of a sum of ``B`` is ``B`` times that of one: it is divided by ``B``.

        Raises
        ------
        ValueError
            Another shape than before; an empty batch; NaN or infinity.
        TypeError
            Not a real array.
        """
        self._average = self._updated((gradients, summed), decay, weight)

    def update_eigenvalues(  # type: ignore[override]
        self,
        gradients: Array,
        decay: float | None = None,
        weight: float = 1.0,
        summed: int | None = None,
    ) -> None:
        """Nothing: the moment is already exact in its own eigenbasis."""

    def _arguments(self, value: Any) -> Batch:
        return value, None

    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        (gradients,) = as_batch(gradients=batch[0])
        summed = None if batch[1] is None else as_count(batch[1], "summed")
        if summed:
            gradients = gradients[None, ...]
        if gradients.ndim == 0:
            raise ValueError(
                "gradients has no axes: (B, …) is needed, or summed=B for the sum over B examples"
            )
        if gradients.ndim == 1:
            gradients = gradients[:, None]
        examples = summed or gradients.shape[0]
        if self.structure == "full":
            return {"gradients": outer_moment([gradients], examples)}, 1
        squares = backend_of(gradients).xp.sum(gradients * gradients, axis=0)
        return {"gradients": squares / examples}, 1

    def _read(self, values: Arrays) -> Any:
        return as_moment(values["gradients"], self.structure)

    def _undamped(self, values: Arrays, repeats: int) -> Any:
        return as_operator(values["gradients"], self.structure)
