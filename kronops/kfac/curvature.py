"""The curvature of a whole network: one block for each layer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from kronops import BlockDiagonalOperator
from kronops.files import register_savable
from kronops.kfac.diagnostics import Diagnostics
from kronops.kfac.estimator import Estimator, Pi
from kronops.kfac.states import brought, check_attributes

__all__ = ["Curvature"]

Result = TypeVar("Result")


class Curvature:
    """``blockdiag(F_1, …, F_L)``: estimators of layers, by name.

    Parameters
    ----------
    layers : dict of str to estimator, or to a dict of these
        At least one; vectors of the operator are dicts with the same names, nested alike.

    Raises
    ------
    ValueError
        No layers; one estimator twice; names that are the same when joined by dots.
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
        self.layers: dict[str, Estimator | Curvature] = {}
        for name, layer in layers.items():
            part = Curvature(layer) if isinstance(layer, Mapping) else layer
            if not (isinstance(name, str) and isinstance(part, (Estimator, Curvature))):
                raise TypeError(
                    f"layers[{name!r}] is a {type(layer).__name__}: names are strings, and an "
                    f"estimator such as DenseLayer() is needed"
                )
            self.layers[name] = part
        names, estimators = zip(*self._named(), strict=True)
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(
                f"layers has two layers called {twice[0]!r}, for the names of nested layers are "
                f"joined by dots: rename one of them"
            )
        if len(set(map(id, estimators))) < len(estimators):
            raise ValueError("layers has one estimator under two names: each needs one of its own")

    def _named(self) -> Iterator[tuple[str, Estimator]]:
        """All layers with their names, those of nested ones joined by dots."""
        for name, part in self.layers.items():
            if isinstance(part, Curvature):
                yield from ((f"{name}.{inner}", layer) for inner, layer in part._named())
            else:
                yield name, part

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
        self._take("_average", self._updated(self._arguments(batches), decay, weight))

    def update_eigenvalues(
        self, batches: Mapping[str, Any], decay: float | None = None, weight: float = 1.0
    ) -> None:
        """Update the eigenvalues of all layers, or none; see `Estimator.update_eigenvalues`."""
        updated = self._updated_eigenvalues(self._arguments(batches), decay, weight)
        self._take("_eigenvalues", updated)

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

    def damping_gap(self, damping: float, pi: Pi = "trace") -> dict[str, Any]:
        """For each layer how far its two dampings differ: `Estimator.damping_gap`."""
        return self._each(lambda name, layer: layer.damping_gap(damping, pi))

    def diagnostics(self, damping: float = 0.0, method: str = "exact") -> Diagnostics:
        """Condition, ranks and extreme eigenvalues of each block, which print as a table.

        Names of nested layers are joined by dots. See `Estimator.diagnostics`.

        Examples
        --------
        >>> import numpy as np
        >>> from kronops.kfac import Curvature, GradientLayer
        >>> curvature = Curvature({"norm": GradientLayer(), "out": {"bias": GradientLayer()}})
        >>> gradients = np.array([[1.0, 2.0]])
        >>> curvature.update({"norm": gradients, "out": {"bias": gradients}})
        >>> curvature.diagnostics(damping=1.0)
        layer     size  smallest  largest  condition  stable rank  effective dimension
        norm         2         1        4        2.5        1.062                  1.3
        out.bias     2         1        4        2.5        1.062                  1.3
        """
        return Diagnostics(
            _flat(self._each(lambda name, layer: layer.diagnostics(damping, method)))
        )

    def merge(self, other: Curvature) -> Curvature:
        """A new curvature whose totals and weights are the sums of both: see `Estimator.merge`."""
        if not isinstance(other, Curvature):
            raise TypeError(f"other is a {type(other).__name__}: a Curvature is needed")
        self._check_names(other.layers, "other")
        merged = copy.copy(self)
        merged.layers = self._each(lambda name, layer: layer.merge(other.layers[name]))
        return merged

    def all_reduce(self, reduce: Callable[[Any], Any]) -> Curvature:
        """A new curvature of the data of all processes: see `Estimator.all_reduce`."""
        reduced = copy.copy(self)
        reduced.layers = self._each(lambda name, layer: layer.all_reduce(reduce))
        return reduced

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The ``state_dict`` of each layer, by name."""
        return self._each(lambda name, layer: layer.state_dict())

    def load_state_dict(
        self, state: Mapping[str, Any], backend: str | None = None, device: Any = None
    ) -> None:
        """Take over what `state_dict` gave, for all layers or for none.

        Arguments are those of `Estimator.load_state_dict`.
        """
        self._adopt(self._loaded(brought(state, backend, device)))

    # -- what an estimator has too, so that curvatures nest ----------------------------------------

    def _arguments(self, batches: Any) -> Any:
        self._check_names(batches, "batches")
        return batches

    def _updated(self, batches: Any, decay: float | None, weight: float) -> dict[str, Any]:
        return self._each(
            lambda name, layer: layer._updated(layer._arguments(batches[name]), decay, weight)
        )

    def _updated_eigenvalues(
        self, batches: Any, decay: float | None, weight: float
    ) -> dict[str, Any]:
        return self._each(
            lambda name, layer: layer._updated_eigenvalues(
                layer._arguments(batches[name]), decay, weight
            )
        )

    def _take(self, attribute: str, values: dict[str, Any]) -> None:
        for name, layer in self.layers.items():
            layer._take(attribute, values[name])

    def _loaded(self, state: Any) -> Curvature:
        self._check_names(state, "state")
        return Curvature(self._each(lambda name, layer: layer._loaded(state[name])))

    def _adopt(self, loaded: Any) -> None:
        for name, layer in self.layers.items():
            layer._adopt(loaded.layers[name])

    # -- inside ------------------------------------------------------------------------------------

    def _each(self, function: Callable[[str, Any], Result]) -> dict[str, Result]:
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


def _layers(curvature: Curvature) -> dict[str, Any]:
    check_attributes(curvature, {"layers"}, "save Curvature(op.layers), and the rest apart")
    return {"layers": curvature.layers}


register_savable(Curvature, _layers, lambda kind, saved: kind(**saved))


def _flat(nested: dict[str, Any], before: str = "") -> dict[str, Any]:
    """A dict by dotted names."""
    flat: dict[str, Any] = {}
    for name, part in nested.items():
        deeper = isinstance(part, dict)
        flat |= _flat(part, f"{before}{name}.") if deeper else {f"{before}{name}": part}
    return flat
