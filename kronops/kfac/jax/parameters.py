"""The parameters of layers in a pytree of all: their names, and operators on such pytrees.

A parameter's name is its path: ``"hidden/w"`` is ``params["hidden"]["w"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from kronops import BlockDiagonalOperator
from kronops.backends.standard import Array
from kronops.vectors import Vector

__all__ = ["ParameterOperator", "Places", "find_places", "leaves_of"]

Places = dict[str, tuple[str, ...]]
BIASES = ("b", "beta", "bias", "offset", "shift")


def _name(path: tuple[Any, ...]) -> str:
    """``"hidden/w"`` for ``params["hidden"]["w"]``; attributes and positions likewise."""
    keys = ("key", "name", "idx")
    return "/".join(str(next(getattr(p, k) for k in keys if hasattr(p, k))) for p in path)


def leaves_of(tree: Any) -> dict[str, Array]:
    """All parameters by name, in JAX's order; `ValueError` if two have one name."""
    named: dict[str, Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = _name(path)
        if name in named:
            raise ValueError(
                f"a pytree has two parameters called {name!r}, for keys are joined by '/': rename "
                f"one of them"
            )
        named[name] = leaf
    return named


def _default_place(name: str, layer: Any, leaves: Iterable[str]) -> tuple[str, ...]:
    """The leaves at or under ``name``, the bias last."""
    found = [leaf for leaf in leaves if leaf == name or leaf.startswith(f"{name}/")]
    biases = [leaf for leaf in found if leaf.rpartition("/")[2] in BIASES]
    if getattr(layer, "bias", True) is False or getattr(layer, "shift", True) is False:
        found, biases = [leaf for leaf in found if leaf not in biases] or found, []
    if len(found) == 1:
        return tuple(found)
    if len(found) == 2 and len(biases) == 1:
        return tuple(sorted(found, key=lambda leaf: leaf in biases))
    raise ValueError(
        f"params has {found or 'nothing'} for the layer {name!r}: one parameter, or one and a bias "
        f"({', '.join(BIASES)}), is found by itself; else name them, "
        f"parameters={{{name!r}: (weights, bias)}}, in the form 'hidden/w'"
    )


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class ParameterOperator:
    """A block-diagonal operator of named parameters, for vectors that are pytrees of them.

    Parameters
    ----------
    operator : BlockDiagonalOperator
        Its keys are names of parameters, ``"output/w"`` or ``("hidden/w", "hidden/b")``, and its
        vectors dicts of these. Determinants, samples and all else are asked of it.

    Examples
    --------
    >>> import jax.numpy as jnp, kronops
    >>> from kronops.kfac.jax import ParameterOperator
    >>> op = ParameterOperator(kronops.BlockDiagonalOperator({"output/w": 2 * jnp.eye(3)}))
    >>> op.multiply({"output": {"w": jnp.ones(3)}})["output"]["w"].tolist()
    [2.0, 2.0, 2.0]
    """

    operator: BlockDiagonalOperator

    def multiply(self, v: Vector) -> Vector:
        """``F v``, a pytree like ``v``."""
        made: Vector = self._map(self.operator.multiply, v)
        return made

    def multiply_inverse(self, v: Vector) -> Vector:
        """``F⁻¹ v``, a pytree like ``v``."""
        made: Vector = self._map(self.operator.multiply_inverse, v)
        return made

    def multiply_power(self, v: Vector, p: float) -> Vector:
        """``Fᵖ v``, a pytree like ``v``."""
        made: Vector = self._map(lambda named: self.operator.multiply_power(named, p), v)
        return made

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """For JAX: the operator."""
        return (self.operator,), None

    @classmethod
    def tree_unflatten(cls, static: None, parts: tuple[Any, ...]) -> ParameterOperator:
        """For JAX: the inverse of `tree_flatten`."""
        return cls(*parts)

    def _map(self, function: Callable[[Any], Any], v: Any) -> Any:
        leaves = leaves_of(v)
        # A parameter without axes is (1,) to operators.
        results = function({name: jnp.atleast_1d(leaf) for name, leaf in leaves.items()})
        shaped = [jnp.reshape(results[name], jnp.shape(leaf)) for name, leaf in leaves.items()]
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(v), shaped)


def find_places(
    layers: Mapping[str, Any], given: Mapping[str, Any], leaves: Iterable[str]
) -> Places:
    """The parameters of each layer, bias last: as ``given``, or by its name."""
    known = list(leaves)
    if unknown := sorted(given.keys() - layers.keys()):
        raise ValueError(f"parameters has {unknown}: names of layers are needed, {list(layers)}")
    places = {
        name: _as_place(name, given[name]) if name in given else _default_place(name, layer, known)
        for name, layer in layers.items()
    }
    taken: set[str] = set()
    for name, place in places.items():
        if missing := [leaf for leaf in place if leaf not in known]:
            raise ValueError(f"params lacks {missing} of the layer {name!r}: it has {known}")
        if twice := sorted(taken.intersection(place)):
            raise ValueError(
                f"parameters: {twice} are of the layer {name!r} and of another; what is used in "
                f"two places is one layer, tapped twice by one name"
            )
        taken.update(place)
    return places


def _as_place(name: str, given: Any) -> tuple[str, ...]:
    place = (given,) if isinstance(given, str) else tuple(given)
    if len(place) not in (1, 2) or not all(isinstance(leaf, str) for leaf in place):
        raise ValueError(
            f"parameters[{name!r}] = {given!r}: a name or a pair (weights, bias) is needed"
        )
    return place
