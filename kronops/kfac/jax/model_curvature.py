"""The curvature of a function of JAX arrays, from what its taps see."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from kronops import BlockDiagonalOperator, IdentityOperator
from kronops.backends.standard import Array
from kronops.errors import warn
from kronops.kfac.batches import as_choice
from kronops.kfac.curvature import Curvature
from kronops.kfac.estimator import Estimator, Pi
from kronops.kfac.fisher import output_gradients
from kronops.kfac.jax.parameters import ParameterOperator, find_places, leaves_of
from kronops.kfac.jax.taps import backward_passes, forward_pass

__all__ = ["ModelCurvature", "capture"]

Likelihood = str | Callable[[Array, Any], Array]
STATISTICS = {"moments": Curvature.update, "eigenvalues": Curvature.update_eigenvalues}


def capture(
    model: Callable[..., Array],
    params: Any,
    layers: Mapping[str, Estimator],
    *,
    parameters: Mapping[str, str | tuple[str, ...]] | None = None,
    decay: float | None = None,
    unknown: str = "warn",
) -> ModelCurvature:
    """The curvature of a function whose layers are tapped, to be fed with batches.

    Parameters
    ----------
    model : callable
        ``model(params, inputs, tap)``, which gives the outputs of independent examples, ``(B, C)``
        or ``(B, …, C)``, and calls ``y = tap(name, x, y)`` where the layer ``name`` has made ``y``
        (before its activation) from ``x``. A name that is tapped ``T`` times, as in a recurrent
        network, gives ``(T, B, …)``. With ``x = None``, ``y`` is a parameter that was broadcast to
        ``(B, …)``, for a `GradientLayer`.
    params : pytree
        The parameters, of which only names and shapes matter here. ``"hidden/w"`` is the name of
        ``params["hidden"]["w"]``.
    layers : dict of str to estimator
        One for each name. A tap whose name is not here is the identity. What is fed are copies, in
        `ModelCurvature.curvature`: several captures may be given the same.
    parameters : dict of str to str or pair of str, optional
        Names of the parameters of a layer, such as ``("hidden/w", "hidden/b")``. Without it they
        are what is at or under the name of the layer: one parameter, or one and a bias (or shift).
    decay : float, optional
        As in `Estimator.update`. A batch has its number of examples as its weight.
    unknown : {"warn", "error", "identity"}
        What to do about parameters of no layer. They are listed in `ModelCurvature.unknown`, and
        there is a warning; or it is an error. Vectors that have them are then errors. Or they have
        a block, the identity.

    Returns
    -------
    ModelCurvature

    Raises
    ------
    ValueError, TypeError
        No layers, or not estimators; an unknown setting; parameters that are not found, of two
        layers, or of one name: ``{"a": {"b": …}, "a/b": …}``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import kronops.kfac.jax as kfac
    >>> from kronops.kfac import DenseLayer
    >>> def model(params, x, tap=kfac.untapped):
    ...     h = jnp.tanh(tap("hidden", x, x @ params["hidden"]["w"] + params["hidden"]["b"]))
    ...     return tap("output", h, h @ params["output"]["w"])
    >>> params = {"hidden": {"w": jnp.ones((3, 4)), "b": jnp.zeros(4)}}
    >>> params["output"] = {"w": jnp.ones((4, 2))}
    >>> layers = {"hidden": DenseLayer(bias=True), "output": DenseLayer()}
    >>> curvature = kfac.capture(model, params, layers)
    >>> x, y = jax.random.normal(jax.random.key(0), (8, 3)), jnp.zeros(8, dtype=int)
    >>> curvature.update(params, (x, y), "categorical", "exact")
    >>> gradient = jax.grad(lambda params: jnp.sum(model(params, x)[:, 0]))(params)
    >>> step = curvature.operator(damping=1e-2).multiply_inverse(gradient)
    >>> jax.tree.map(jnp.shape, step)
    {'hidden': {'b': (4,), 'w': (3, 4)}, 'output': {'w': (4, 2)}}
    """
    as_choice(unknown, "unknown", ("warn", "error", "identity"))
    made = ModelCurvature(model, params, layers, parameters or {}, decay, unknown)
    if made.unknown and unknown != "identity":
        message = f"parameters without a curvature block: {', '.join(made.unknown)}"
        if unknown == "error":
            raise ValueError(f'{message}. unknown="identity" would give them one')
        warn(message, UserWarning)
    return made


class ModelCurvature:
    """The curvature of a function, made by `capture`.

    Attributes
    ----------
    model : callable
    curvature : Curvature
        The estimators, by names of layers: their moments, states, and `Curvature.merge`.
    unknown : tuple of str
        Names of the parameters of no layer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import kronops.kfac.jax as kfac
    >>> from kronops.kfac import DenseLayer
    >>> def model(params, x, tap):
    ...     return tap("w", x, x @ params["w"])
    >>> params = {"w": jnp.ones((3, 2))}
    >>> loader = [(jnp.eye(3), jnp.asarray([0, 1, 1]))]
    >>> curvature = kfac.capture(model, params, {"w": DenseLayer()})
    >>> curvature.fit(params, loader, "categorical", "exact")
    ModelCurvature(1 layer, 0 parameters without a block)
    >>> curvature.operator(damping=0.1).operator.domain_shape
    {'w': (3, 2)}
    """

    def __init__(
        self,
        model: Callable[..., Array],
        params: Any,
        layers: Mapping[str, Estimator],
        parameters: Mapping[str, str | tuple[str, ...]],
        decay: float | None,
        unknown: str,
    ) -> None:
        self.model = model
        self.curvature = copy.deepcopy(Curvature(layers))
        leaves = leaves_of(params)
        self._places = find_places(self.curvature.layers, parameters, leaves)
        known = {name for place in self._places.values() for name in place}
        self.unknown = tuple(name for name in leaves if name not in known)
        shapes = {name: jnp.shape(leaves[name]) for name in self.unknown}
        self._identities = shapes if unknown == "identity" else {}
        self._decay = decay
        # Compiled code is kept as long as this is.
        self._forward = jax.jit(functools.partial(forward_pass, model, tuple(layers)))
        self._backward = jax.jit(functools.partial(backward_passes))

    def __repr__(self) -> str:
        count = len(self.curvature.layers)
        layers = f"{count} layer{'' if count == 1 else 's'}"
        return f"ModelCurvature({layers}, {len(self.unknown)} parameters without a block)"

    def operator(
        self, damping: float = 0.0, method: str = "factored", pi: Pi = "trace"
    ) -> ParameterOperator:
        """The blocks of all layers, for vectors that are pytrees like ``params``.

        Arguments and errors are those of `Estimator.operator`.
        """
        made = self.curvature.operator(damping, method, pi)
        blocks: dict[Any, Any] = {
            place if len(place) == 2 else place[0]: block
            for place, block in zip(self._places.values(), made.operators, strict=True)
        }
        like = jnp.zeros((), made.dtype)
        for name, shape in self._identities.items():
            identity = IdentityOperator(math.prod(shape), like=like, domain_shape=shape or (1,))
            blocks[name] = identity.damped(damping)
        return ParameterOperator(BlockDiagonalOperator(blocks))

    def batches(
        self,
        params: Any,
        batch: tuple[Any, Any],
        likelihood: Likelihood,
        fisher: str = "sampled",
        *,
        key_or_rng: Any = None,
        samples: int = 1,
    ) -> dict[str, Any]:
        """What ``curvature.update`` takes: a pure function of its arguments, also under ``jit``.

        Arguments are those of `update`.
        """
        return self._passes(params, batch, likelihood, fisher, key_or_rng, samples)[0]

    def update(
        self,
        params: Any,
        batch: tuple[Any, Any],
        likelihood: Likelihood,
        fisher: str = "sampled",
        *,
        key_or_rng: Any = None,
        samples: int = 1,
        statistics: str = "moments",
    ) -> None:
        """Take one batch in. Batches of one shape are compiled once.

        Parameters
        ----------
        params : pytree
            Handed to the model.
        batch : (inputs, targets)
            Inputs, any pytree, are handed to the model. Targets may be None but for
            ``fisher="empirical"``.
        likelihood, fisher, key_or_rng, samples
            As in `output_gradients`, with one pass back for each draw. Or
            ``likelihood`` is a function of ``(outputs, targets)`` that gives the loss of each
            example, ``(B,)``, and ``fisher="empirical"``.
        statistics : {"moments", "eigenvalues"}
            What is estimated: the moments, or, once they are there, the eigenvalues of
            ``method="ekfac"``.

        Raises
        ------
        ValueError
            A layer is not tapped, or the model does not go on with what its tap gives; an argument
            is unknown or does not fit.
        TypeError
            Called under ``jit``, where an estimator would keep tracers.
        """
        as_choice(statistics, "statistics", tuple(STATISTICS))
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree_util.tree_leaves((params, batch))):
            raise TypeError(
                "params or batch is traced, and an estimator keeps no tracers: call update outside "
                "of jit (the passes are compiled in any case), or batches inside, and "
                "curvature.update outside with what it gives"
            )
        batches, count = self._passes(params, batch, likelihood, fisher, key_or_rng, samples)
        STATISTICS[statistics](self.curvature, batches, self._decay, float(count))

    def fit(
        self,
        params: Any,
        loader: Iterable[tuple[Any, Any]],
        likelihood: Likelihood,
        fisher: str = "sampled",
        *,
        key_or_rng: Any = None,
        samples: int = 1,
        statistics: str = "moments",
        progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    ) -> Self:
        """Take in the batches of a loader.

        Parameters
        ----------
        params : pytree
            Handed to the model.
        loader : iterable of (inputs, targets)
        likelihood, fisher
            As in `update`.
        key_or_rng : key or generator, optional
            As in `update`; a key is folded with the number of the batch.
        samples, statistics
            As in `update`.
        progress : callable, optional
            From the loader, what is iterated over in its place, as ``tqdm.tqdm`` does.

        Returns
        -------
        ModelCurvature
            This one.

        Raises
        ------
        ValueError, TypeError
            The loader is empty; as in `update`.
        """
        number = -1
        for number, batch in enumerate(progress(loader) if progress else loader):
            self.update(
                params,
                batch,
                likelihood,
                fisher,
                key_or_rng=_fold_in(key_or_rng, number),
                samples=samples,
                statistics=statistics,
            )
        if number < 0:
            raise ValueError("loader is empty: at least one batch is needed")
        return self

    # -- inside ----------------------------------------------------------------------------------

    def _passes(
        self,
        params: Any,
        batch: tuple[Any, Any],
        likelihood: Likelihood,
        fisher: str,
        key_or_rng: Any,
        samples: int,
    ) -> tuple[dict[str, Any], int]:
        """The batches of the layers, and the number of examples."""
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                f"batch is a {type(batch).__name__}: a pair (inputs, targets) is needed, of which "
                f"targets may be None"
            )
        inputs, targets = batch
        try:
            forward = self._forward(params, inputs)
        except jax.errors.UnexpectedTracerError as error:
            error.add_note(
                "a tap was called inside a function that the model runs under jit, scan or "
                "checkpoint: tap what that takes and gives, or leave it out; a capture compiles "
                "the whole model"
            )
            raise
        targets = None if targets is None else jnp.asarray(targets)
        if callable(likelihood):
            draws = _loss_gradients(likelihood, forward.outputs, targets, fisher)
        else:
            draws = output_gradients(
                forward.outputs,
                likelihood,
                fisher,
                targets=targets,
                key_or_rng=key_or_rng,
                samples=samples,
            )
        return self._backward(forward, draws), forward.outputs.shape[0]


def _loss_gradients(
    loss: Callable[[Array, Any], Array], outputs: Array, targets: Any, fisher: str
) -> Array:
    """Gradients of a loss of which nothing else is known, ``(1, *outputs.shape)``."""
    if fisher != "empirical":
        raise ValueError(
            f'fisher = {fisher!r}: a likelihood that is a function has "empirical" alone, the '
            f"others need its name"
        )
    losses, back = jax.vjp(lambda outputs: loss(outputs, targets), outputs)
    if losses.shape != outputs.shape[:1]:
        raise ValueError(
            f"likelihood gives an array of shape {losses.shape} for outputs of shape "
            f"{outputs.shape}: the loss of each example, {outputs.shape[:1]}, is needed"
        )
    return back(jnp.ones_like(losses))[0][None]


def _fold_in(key_or_rng: Any, number: int) -> Any:
    """Another key for each batch; a generator goes on by itself."""
    is_key = isinstance(key_or_rng, jax.Array)
    return jax.random.fold_in(key_or_rng, number) if is_key else key_or_rng
