"""A dense layer that is used along a time series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kronops import SeriesOperator
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.batches import append_one, as_choice, as_count, as_pair
from kronops.kfac.diagnostics import Spectrum
from kronops.kfac.estimator import Batch, Estimator, Pi
from kronops.kfac.moving_average import Arrays

__all__ = ["RecurrentLayer"]

LAGGED = ("inputs, lag 0", "inputs, lag 1", "output_gradients, lag 0", "output_gradients, lag 1")


@dataclass(eq=False)
class RecurrentLayer(Estimator):
    """``Σ_{|d|<T} (T − |d|) A_d ⊗ G_d``: a dense layer used at ``T`` steps that know of each other.

    Inputs and output gradients are taken as linear-Gaussian Markov chains, of which the moments
    ``C0 = E[x_t x_tᵀ]`` and ``C1 = E[x_{t+1} x_tᵀ]`` tell all others [1]_. Both sums are divided by
    ``T·B``.

    Parameters
    ----------
    option : {1, 2}
        1 takes the transitions of both chains as symmetric; 2 takes ``T`` as large.
    bias : bool
        Whether a constant 1 is appended to the inputs. Vectors are then ``(weights, bias)`` pairs,
        or ``(in + 1, out)`` with the bias last.
    signed : bool
        Whether option 1 keeps the signs of the transitions' eigenvalues; TensorFlow's K-FAC did
        not.
    debias : bool
        Whether averages are divided by their total weight.
    layout : {"in,out", "out,in"}
        ``"out,in"`` is PyTorch's: weights ``(out, in)``, the bias the last column, ``G_d ⊗ A_d``.

    Raises
    ------
    ValueError
        A setting is none of these.

    Notes
    -----
    `update` takes inputs ``(T, B, in)`` and output gradients ``(T, B, out)`` or
    ``(draws, T, B, out)``; ``T`` is part of the operator, and another ``T`` than before is a
    `ValueError`. A batch costs ``4·T·B·(in² + out²)`` flops.

    References
    ----------
    .. [1] Martens, Ba and Johnson, Kronecker-factored curvature approximations for recurrent
       neural networks, 2018. https://openreview.net/forum?id=HyMTkQZAb

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import RecurrentLayer
    >>> layer = RecurrentLayer(option=1)
    >>> series = np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    >>> layer.update(series, np.ones((3, 1, 1)))
    >>> (a0, a1), (g0, g1) = layer.moments
    >>> float(3 * a0[0, 0]), float(3 * a1[0, 0])  # 1 + 4 + 9 and 2·1 + 3·2
    (14.0, 8.0)
    >>> layer.operator(damping=0.1).shape
    (1, 1)
    """

    option: int
    bias: bool = False
    signed: bool = True
    _names = LAGGED

    def __post_init__(self) -> None:
        super().__post_init__()
        self.option = as_count(self.option, "option")
        as_choice(self.option, "option", (1, 2))
        as_choice(self.bias, "bias", (False, True))
        as_choice(self.signed, "signed", (False, True))

    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        inputs, output_gradients = batch
        a, g = as_pair(inputs, output_gradients, ("T", "B"))
        a = append_one(a) if self.bias else a
        steps, examples = a.shape[:2]
        sides = (a[None, ...], a[None, ...], g, g)
        moments = [
            _lagged_moment(x, lag, steps * examples)
            for x, lag in zip(sides, (0, 1, 0, 1), strict=True)
        ]
        return dict(zip(LAGGED, moments, strict=True)), steps

    def _read(self, values: Arrays) -> Any:
        a0, a1, g0, g1 = (values[name] for name in LAGGED)
        return (a0, a1), (g0, g1)

    def _undamped(self, values: Arrays, repeats: int) -> Any:
        inputs, gradients = self._read(values)
        first, second = (inputs, gradients) if self.layout == "in,out" else (gradients, inputs)
        return SeriesOperator(
            first, second, repeats, self.option, signed=self.signed, layout=self.layout
        )

    def _damped(self, operator: Any, damping: float, method: str, pi: Pi) -> Any:
        return operator.damped(damping, method, pi=pi)

    def _spectrum_of(self, operator: Any) -> Spectrum | None:
        """None: the bases of a series are not orthogonal."""
        return None

    def _updated_eigenvalues(self, batch: Batch, decay: float | None, weight: float) -> Any:
        return self._kept("ekfac")

    def _kept(self, method: str) -> Any:
        if method == "ekfac":
            raise ValueError(
                'method = "ekfac" needs Kronecker factors, and a series has none: '
                '"factored" or "exact" is needed'
            )
        return super()._kept(method)


def _lagged_moment(x: Array, lag: int, count: int) -> Array:
    """``Σ x_{t+lag} x_tᵀ / count``, the later time first, of ``x`` ``(draws, T, B, n)``."""
    xp = backend_of(x).xp
    steps, n = x.shape[1], x.shape[3]
    later = xp.reshape(x[:, lag:, ...], (-1, n))
    earlier = xp.reshape(x[:, : steps - lag, ...], (-1, n))
    return xp.matmul(xp.matrix_transpose(later), earlier) / count
