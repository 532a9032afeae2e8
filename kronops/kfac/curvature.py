"""The curvature of a whole network: one block for each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kronops import BlockDiagonalOperator
from kronops.files import register_savable
from kronops.kfac.eigenvalues import Eigenvalues
from kronops.kfac.estimator import Estimator, Pi
from kronops.kfac.moving_average import MovingAverage

__all__ = ["Curvature"]

Result = TypeVar("Result")


class Curvature:
    """``blockdiag(F_1, …, F_L)``: estimators of layers, by name.

    Parameters
    ----------
    layers : dict of str to estimator
        At least one; vectors of the operator are dicts with the same names.

    Raises
    ------
    ValueError
        No layers.
    TypeError
        Not a mapping of names to estimators.

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import Curvature, DenseLayer, GradientLayer
    >>> curvature = Curvature({"dense": DenseLayer(), "scale": GradientLayer()})
    >>> rng = np.random.default_rng(0)
    >>> a, g = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    >>> curvature.update({"dense": (a, g), "scale": rng.normal(size=(8, 4))}, decay=0.95)
    >>> operator = curvature.operator(damping=0.1)
    >>> step = operator.multiply_inverse({"dense": np.ones((3, 2)), "scale": np.ones(4)})
    >>> {name: part.shape for name, part in step.items()}
    {'dense': (3, 2), 'scale': (4,)}
    """

    def __init__(self, layers: Mapping[str, Estimator]) -> None:
        if not isinstance(layers, Mapping):
            raise TypeError(
                f"layers is a {type(layers).__name__}: a dict of names to estimators is needed"
            )
        if not layers:
            raise ValueError("layers is empty: at least one layer is needed")
        for name, layer in layers.items():
            if not (isinstance(name, str) and isinstance(layer, Estimator)):
                raise TypeError(
                    f"layers[{name!r}] is a {type(layer).__name__}: names are strings, and an "
                    f"estimator such as DenseLayer() is needed"
                )
        self.layers = dict(layers)

    def __repr__(self) -> str:
        return f"Curvature({self.layers!r})"

    def update(
        self, batches: Mapping[str, Any], decay: float | None = None, weight: float = 1.0
    ) -> None:
        """Update all layers, or none where one of them refuses its batch.

        Parameters
        ----------
        batches : dict
            For each layer what its own ``update`` takes first: ``(inputs, output_gradients)``, or
            the gradients alone.
        decay : float, optional
            As in `Estimator.update`.
        weight : float
            As in `Estimator.update`.

        Raises
        ------
        ValueError
            Names differ from those of the layers; a layer refuses its batch.
        """

        def updated(name: str, layer: Estimator) -> MovingAverage:
            return layer._updated(layer._arguments(batches[name]), decay, weight)

        self._check_names(batches, "batches")
        for name, average in self._each(updated).items():
            self.layers[name]._average = average

    def update_eigenvalues(
        self, batches: Mapping[str, Any], decay: float | None = None, weight: float = 1.0
    ) -> None:
        """Update the eigenvalues of all layers, or none; see `Estimator.update_eigenvalues`."""

        def updated(name: str, layer: Estimator) -> Eigenvalues | None:
            return layer._updated_eigenvalues(layer._arguments(batches[name]), decay, weight)

        self._check_names(batches, "batches")
        for name, eigenvalues in self._each(updated).items():
            self.layers[name]._eigenvalues = eigenvalues

    @property
    def moments(self) -> dict[str, Any]:
        """The moments of each layer."""
        return self._each(lambda name, layer: layer.moments)

    def operator(
        self, damping: float = 0.0, method: str = "factored", pi: Pi = "trace"
    ) -> BlockDiagonalOperator:
        """The blocks of all layers, each by `Estimator.operator` with the same arguments."""
        blocks = self._each(lambda name, layer: layer.operator(damping, method, pi))
        return BlockDiagonalOperator(blocks)

    def merge(self, other: Curvature) -> Curvature:
        """A new curvature whose totals and weights are the sums of both."""
        if not isinstance(other, Curvature):
            raise TypeError(f"other is a {type(other).__name__}: a Curvature is needed")
        self._check_names(other.layers, "other")
        return Curvature(self._each(lambda name, layer: layer.merge(other.layers[name])))

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The ``state_dict`` of each layer, by name."""
        return self._each(lambda name, layer: layer.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, for all layers or for none."""
        self._check_names(state, "state")
        loaded = self._each(lambda name, layer: layer._loaded(state[name]))
        for name, layer in self.layers.items():
            layer.__dict__.update(loaded[name].__dict__)

    def _each(self, function: Callable[[str, Estimator], Result]) -> dict[str, Result]:
        """``function`` of every layer, before anything is made of the results."""
        results = {}
        for name, layer in self.layers.items():
            try:
                results[name] = function(name, layer)
            except Exception as error:
                error.add_note(f"in the layer {name!r}")
                raise
        return results

    def _check_names(self, given: Any, argument: str) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"{argument} is a {type(given).__name__}: a dict by name is needed")
        if given.keys() != self.layers.keys():
            raise ValueError(
                f"{argument} has the names {list(given)}: those of the layers are needed, "
                f"{list(self.layers)}"
            )


register_savable(
    Curvature, lambda curvature: {"layers": curvature.layers}, lambda kind, saved: kind(**saved)
)
