"""Taps: where a function says what a layer takes and gives, and passes through it that listen."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kronops.backends.standard import Array

__all__ = ["Forward", "backward_passes", "forward_pass", "untapped"]


def untapped(name: str, inputs: Any, outputs: Array) -> Array:
    """``outputs``: the tap of a function that is trained or evaluated, and not captured.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from kronops.kfac.jax import untapped
    >>> def model(params, x, tap=untapped):
    ...     return tap("output", x, x @ params["output"]["w"])
    >>> model({"output": {"w": jnp.ones((3, 2))}}, jnp.ones((4, 3))).shape
    (4, 2)
    """
    return outputs


class Forward(NamedTuple):
    """A forward pass: what the tapped layers were given, and the way back to their outputs."""

    outputs: Array
    inputs: dict[str, list[Any]]
    back: Callable[[Array], Any]


def forward_pass(
    model: Callable[..., Array], names: tuple[str, ...], params: Any, inputs: Any
) -> Forward:
    """A zero is added to each tapped output: the gradient by it is the one wanted."""
    _require_tap(model)

    def perturbed(zeros: dict[str, list[Array]]) -> tuple[Array, dict[str, list[Any]]]:
        seen: dict[str, list[Any]] = {name: [] for name in names}

        def tap(name: str, inputs: Any, outputs: Array) -> Array:
            if name not in seen:
                return outputs
            seen[name].append(inputs)
            return outputs + zeros[name][len(seen[name]) - 1]

        return model(params, inputs, tap), seen

    outputs, back, seen = jax.vjp(perturbed, _zeros(model, names, params, inputs), has_aux=True)
    return Forward(outputs, seen, back)


def _require_tap(model: Callable[..., Array]) -> None:
    signature = inspect.signature(model)
    try:
        signature.bind("params", "inputs", "tap")
    except TypeError:
        raise TypeError(
            f"model takes {signature}: (params, inputs, tap) is needed, and outputs = "
            f"tap(name, inputs, outputs) called in it for each layer"
        ) from None


def _zeros(
    model: Callable[..., Array], names: tuple[str, ...], params: Any, inputs: Any
) -> dict[str, list[Array]]:
    """Zeros like the outputs of each tap, in the order of its uses."""

    def watched(zero: Array, params: Any, inputs: Any) -> tuple[dict[str, list[Array]], Array]:
        given: dict[str, list[Array]] = {name: [] for name in names}

        def tap(name: str, inputs: Any, outputs: Array) -> Array:
            if name not in given:
                return outputs
            # Not the variable that the model has itself: whether it goes on with this one shows.
            given[name].append(outputs + zero.astype(outputs.dtype))
            return given[name][-1]

        outputs = model(params, inputs, tap)
        return given, outputs

    trace = jax.make_jaxpr(watched, return_shape=True)
    traced, (given, _) = trace(jnp.zeros(()), params, inputs)
    if unused := [name for name, outputs in given.items() if not outputs]:
        raise ValueError(
            f"layers has {', '.join(map(repr, unused))}, which the model does not tap: call "
            f"outputs = tap(name, inputs, outputs) in it, or leave the name out of layers"
        )
    _check_used(traced.jaxpr, given)
    return {name: [jnp.zeros(x.shape, x.dtype) for x in outputs] for name, outputs in given.items()}


def _check_used(jaxpr: Any, given: dict[str, list[Any]]) -> None:
    """Refuse taps, the first results of ``jaxpr``, on which the results after them do not depend.

    The gradient by them would be zero, and so would the curvature of their layers.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(given)]
    needed = {id(variable) for variable in jaxpr.outvars[len(paths) :]}
    unneeded: set[int] = (
        set()
    )  # a tap inside another compilation is in neither, and an error by itself
    for equation in reversed(jaxpr.eqns):
        if needed.isdisjoint(map(id, equation.outvars)):
            unneeded.update(map(id, equation.outvars))
        else:
            needed.update(map(id, equation.invars))
    for (name, use), variable in zip(paths, jaxpr.outvars, strict=False):
        if id(variable) in unneeded:
            count = len(given[name.key])
            which = f" in use {use.idx + 1} of {count}" if count > 1 else ""
            raise ValueError(
                f"layers has {name.key!r}, but the outputs of the model do not depend on what its "
                f"tap gives back{which}: go on with outputs = tap(name, inputs, outputs), or leave "
                f"the name out of layers"
            )


def backward_passes(forward: Forward, seeds: Array) -> dict[str, Any]:
    """What estimators take, from one pass back for each of ``seeds``, ``(draws, *outputs.shape)``.

    The passes run one after the other: in the memory of one, and without the model under ``vmap``.
    """
    (gradients,) = jax.lax.map(forward.back, seeds.astype(forward.outputs.dtype))
    return {name: _as_batch(forward.inputs[name], gradients[name]) for name in forward.inputs}


def _as_batch(inputs: list[Any], gradients: list[Array]) -> Any:
    """``(inputs, output_gradients)``, several uses along an axis of their own; or gradients alone.

    An estimator of gradients has no draws: they become examples, with the same sum of squares.
    """
    if inputs[0] is None:
        total = functools.reduce(jnp.add, gradients)
        return len(total) ** 0.5 * jnp.reshape(total, (-1, *total.shape[2:]))
    if len(inputs) == 1:
        return inputs[0], gradients[0]
    return jnp.stack(inputs), jnp.stack(gradients, axis=1)
