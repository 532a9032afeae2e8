"""The curvature of a PyTorch model, from what hooks see while a loss runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from kronops import BlockDiagonalOperator, IdentityOperator
from kronops.errors import warn
from kronops.kfac.batches import as_choice
from kronops.kfac.curvature import Curvature
from kronops.kfac.estimator import Pi
from kronops.kfac.fisher import output_gradients
from kronops.kfac.gradient_layer import GradientLayer
from kronops.kfac.torch.evaluation import check_outputs, run_pair, undisturbed
from kronops.kfac.torch.layer import Statistics
from kronops.kfac.torch.recording import DrawRecorder, HookRecorder, Recorder, Recording
from kronops.kfac.torch.survey import check_model, survey, trainable
from kronops.operators.grouped import GroupedOperator

__all__ = ["ModelCurvature", "capture"]

Kind = TypeVar("Kind", bound=Recorder)
Forward = Callable[[nn.Module, Any], tuple[Tensor, Any]]
STATISTICS = ("moments", "eigenvalues")


def capture(
    model: nn.Module,
    structure: Any = "kronecker",
    sharing: Any = "expand",
    *,
    reduction: str = "mean",
    decay: float | None = None,
    unknown: str = "warn",
    batch_axis: int = 0,
    check: bool = True,
) -> ModelCurvature:
    """Estimate the curvature of ``model`` while losses run: a context, to enter as often as needed.

    Parameters
    ----------
    model : torch.nn.Module
        Its trainable `nn.Linear`, `nn.Conv1d`, 2d and 3d, `nn.Embedding`, `nn.MultiheadAttention`,
        and the scale and shift of `nn.LayerNorm`, `nn.RMSNorm`, `nn.GroupNorm` and batch
        normalisation have estimators.
    structure : str, or dict of these by name or class of modules
        ``structure`` of the estimators, ``"kronecker"`` where a dict says nothing; for a scale and
        shift that means ``"full"``. None leaves a module's parameters out, as unknown.
    sharing : {"expand", "reduce"}, or dict of these by name or class of modules
        For linear layers on ``(B, S, in)``, as in `SharedLayer`; several calls of one layer in a
        forward pass, as in a recurrent network, are such places too.
    reduction : {"mean", "sum"}
        Over the examples of a batch, of the loss that runs in the context. The gradients of a mean
        are multiplied by the number of examples. A loss that is a mean over the places of an
        example as well is neither: multiply it by their number first.
    decay : float, optional
        As in `Estimator.update`. A batch has its number of examples as its weight.
    unknown : {"warn", "error", "identity", "gradient"}
        What to do about trainable parameters that no estimator knows. They are listed in
        `ModelCurvature.unknown`, and there is a warning; or it is an error. Vectors that have them
        are then errors. Or they have a block: the identity; or the mean squares of the gradients of
        batches, which are those of examples where these have mean zero, as with sampled targets.
    batch_axis : int
        The axis of the examples in the first tensor that the model is given, and in linear layers,
        embeddings and layer normalisations that see several places: 1 if sequences come first.
        Attention knows it by itself, and images have their examples first.
    check : bool
        Whether, on the first batch, the gradient of each parameter must be what the recorded calls
        of its module give. That costs the gradients by the weights, once; they are kept until the
        batch has ended.

    Returns
    -------
    ModelCurvature

    Raises
    ------
    ValueError, TypeError
        A setting is none of these; a model that is wrapped, or has nothing with an estimator.

    Notes
    -----
    Each forward pass of the model ends the batch before it, once this has gone backward. Several
    backward passes of one batch are several draws, whose second moments are summed. A loss that is
    multiplied by ``s``, as `torch.amp.GradScaler` does, multiplies the moments by ``s²``.

    In training mode batch normalisation makes the loss of an example depend on all others. What
    is estimated then are the gradients of the batch's loss by the outputs for each example.

    Examples
    --------
    >>> import torch
    >>> import kronops.kfac.torch as kfac
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> x, y = torch.randn(8, 3), torch.randint(2, (8,))
    >>> curvature = kfac.capture(model)
    >>> with curvature:
    ...     nn.functional.cross_entropy(model(x), y).backward()
    >>> gradient = {name: p.grad for name, p in model.named_parameters()}
    >>> step = curvature.operator(damping=1e-2).multiply_inverse(gradient)
    >>> {name: tuple(part.shape) for name, part in step.items()}
    {'0.weight': (4, 3), '0.bias': (4,), '2.weight': (2, 4), '2.bias': (2,)}
    """
    check_model(model)
    as_choice(reduction, "reduction", ("mean", "sum"))
    as_choice(unknown, "unknown", ("warn", "error", "identity", "gradient"))
    as_choice(check, "check", (False, True))
    axis = _as_axis(batch_axis)
    made = ModelCurvature(model, structure, sharing, reduction, decay, unknown, axis, check)
    if made.unknown and unknown in ("warn", "error"):
        listed = "; ".join(f"{name} ({reason})" for name, reason in made.unknown.items())
        message = f"parameters without a curvature block: {listed}"
        if unknown == "error":
            raise ValueError(f'{message}. unknown="identity" or "gradient" would give them one')
        warn(message, UserWarning)
    return made


class ModelCurvature:
    """The curvature of a model, made by `capture`.

    As a context it takes in what runs there: a loss of the targets of the data gives the empirical
    Fisher matrix. `fit` runs a loader instead.

    Attributes
    ----------
    model : torch.nn.Module
    unknown : dict of str to str
        Trainable parameters that no estimator knows, with the reason.

    Examples
    --------
    >>> import torch
    >>> import kronops.kfac.torch as kfac
    >>> from torch import nn
    >>> model = nn.Linear(3, 2, bias=False)
    >>> loader = [(torch.eye(3), torch.tensor([0, 1, 1]))]
    >>> curvature = kfac.capture(model).fit(loader, "categorical", "exact")
    >>> curvature
    ModelCurvature(1 layer, 0 parameters without a block)
    >>> curvature.operator(damping=0.1).domain_shape
    {'weight': (2, 3)}
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Any,
        sharing: Any,
        reduction: str,
        decay: float | None,
        unknown: str,
        batch_axis: int,
        check: bool,
    ) -> None:
        self.model = model
        self._trainable = trainable(model)
        self._layers, self.unknown = survey(model, structure, sharing)
        self._reduction = reduction
        self._decay = decay
        self._batch_axis = batch_axis
        self._unchecked = check
        self._others = unknown
        self._entered: Recorder | None = None
        self._unknown = {name: model.get_parameter(name) for name in self.unknown}
        estimators = {layer.name: layer.estimator for layer in self._layers}
        if unknown == "gradient":
            estimators |= {name: GradientLayer() for name in self.unknown}
        if not estimators:
            raise ValueError(
                f"model has no trainable parameters with an estimator: {self.unknown or 'none'}"
            )
        self._curvature = Curvature(estimators)

    def __repr__(self) -> str:
        count = len(self._layers)
        layers = f"{count} layer{'' if count == 1 else 's'}"
        return f"ModelCurvature({layers}, {len(self.unknown)} parameters without a block)"

    @property
    def curvature(self) -> Curvature:
        """The estimators, by the names of modules: their moments, states, and `Curvature.merge`."""
        return self._curvature

    def operator(
        self, damping: float = 0.0, method: str = "factored", pi: Pi = "trace"
    ) -> BlockDiagonalOperator:
        """The blocks of all modules, for vectors by the names of ``model.named_parameters()``.

        Parameters
        ----------
        damping, method, pi
            As in `Estimator.operator`.

        Returns
        -------
        BlockDiagonalOperator
            Vectors are dicts of tensors shaped as ``param.grad``. Parameters that are frozen, or
            unknown and without a block, are none of its names.

        Raises
        ------
        ValueError
            A module has not been used yet; an argument is unknown.
        """
        made = self.curvature.operator(damping, method, pi).operators
        keys: dict[str, Any] = {layer.name: layer.key for layer in self._layers}
        names = [keys.get(name, name) for name in self.curvature.layers]
        parts: dict[Any, list[Any]] = {}
        for name, block in zip(names, made, strict=True):
            parts.setdefault(name, []).append(block)
        blocks: dict[Any, Any] = {
            # The rows of a parameter that several layers share, as the projections of attention do.
            name: of[0] if len(of) == 1 else GroupedOperator.of(of, "out,in")
            for name, of in parts.items()
        }
        if self._others == "identity":
            for name, parameter in self._unknown.items():
                shape = tuple(parameter.shape) or (1,)
                identity = IdentityOperator(parameter.numel(), like=parameter, domain_shape=shape)
                blocks[name] = identity.damped(damping)
        return BlockDiagonalOperator(blocks)

    def fit(
        self,
        loader: Iterable[Any],
        likelihood: str,
        fisher: str = "sampled",
        *,
        key_or_rng: Any = None,
        samples: int = 1,
        statistics: str = "moments",
        forward: Forward | None = None,
        progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    ) -> Self:
        """Take in the batches of a loader, by gradients that a likelihood gives.

        The model runs in evaluation mode. Its modes, buffers, gradients and hooks, and PyTorch's
        random state, are afterwards what they were.

        Parameters
        ----------
        loader : iterable
            Of ``(inputs, targets)`` pairs, or whatever ``forward`` takes.
        likelihood, fisher, key_or_rng, samples
            As in `output_gradients`; ``reduction`` plays no part.
        statistics : {"moments", "eigenvalues"}
            What is estimated: the moments, or, once they are there, the eigenvalues of
            ``method="ekfac"``.
        forward : callable, optional
            From the model and a batch, its outputs ``(B, …, C)`` and the targets or None.
        progress : callable, optional
            From the loader, what is iterated over in its place, as ``tqdm.tqdm`` does.

        Returns
        -------
        ModelCurvature
            This one.

        Raises
        ------
        ValueError, TypeError
            The loader is empty, outputs are no tensor, or an argument is unknown.
        """
        if self._others == "gradient" and self.unknown and fisher == "exact":
            raise ValueError(
                'fisher = "exact" has no draws of mean zero, which unknown="gradient" needs: '
                '"sampled" would do'
            )
        if self._entered is not None:
            raise ValueError(
                "fit within the context of this curvature would record twice: leave it"
            )
        forward = forward or run_pair
        with undisturbed(self.model), self._recorder(DrawRecorder, statistics, "sum") as recorder:
            for batch in progress(loader) if progress else loader:
                recorder.next_batch()
                outputs, targets = forward(self.model, batch)
                check_outputs(outputs, targets, likelihood, fisher)
                recorder.recording.examples = outputs.shape[0]
                draws = output_gradients(
                    outputs.detach(),
                    likelihood,
                    fisher,
                    targets=targets,
                    key_or_rng=key_or_rng,
                    samples=samples,
                ).to(outputs.dtype)
                for count, draw in enumerate(draws, start=1):
                    recorder.backward(outputs, draw, last=count == len(draws))
                    if statistics == "moments":
                        recorder.fold()
            if not recorder.recording.forward_passes:
                raise ValueError("loader gave no batch: is it empty, or an iterator at its end?")
        return self

    def __enter__(self) -> Self:
        if self._entered is not None:
            raise ValueError("this context is entered already: leave it first")
        self._entered = self._recorder(HookRecorder, "moments", self._reduction).__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        recorder, self._entered = self._entered, None
        if recorder is None:
            raise ValueError(
                "this context is left, but was not entered: use it by a with statement"
            )
        recorder.__exit__(*error)

    def eigenvalues(self) -> Recorder:
        """A context as this one is, in which the eigenvalues of ``method="ekfac"`` are estimated.

        They belong to the moments as they are then: see `Estimator.update_eigenvalues`.
        """
        return self._recorder(HookRecorder, "eigenvalues", self._reduction)

    # -- inside ----------------------------------------------------------------------------------

    def _recorder(self, kind: type[Kind], statistics: str, reduction: str) -> Kind:
        as_choice(statistics, "statistics", STATISTICS)
        self._check_unchanged()
        others = self._unknown if self._others == "gradient" else {}
        take = functools.partial(self._take_in, statistics, reduction)
        return kind(self.model, self._layers, others, self._batch_axis, take, self._unchecked)

    def _check_unchanged(self) -> None:
        """What has been frozen, replaced or added since would be missed in silence."""
        now, then = trainable(self.model), self._trainable
        changed = [name for name in then | now if now.get(name) is not then.get(name)]
        if changed:
            raise ValueError(
                f"{', '.join(changed)}: not the trainable parameters that the model had when it "
                f"was captured; capture it again"
            )

    def _take_in(self, statistics: str, reduction: str, recording: Recording) -> None:
        """Update the estimators of the layers that had a part in this batch, or none."""
        examples = recording.examples
        assert examples is not None
        scale = float(examples) if reduction == "mean" else 1.0
        # Draws are summed, and the square of a sum of B examples is B times that of one.
        others = {
            name: torch.stack(draws) * (scale * (len(draws) / examples) ** 0.5)
            for name, draws in recording.gradients.items()
        }
        if statistics == "eigenvalues":
            found = {layer.name: recording.batch(layer, scale) for layer in self._layers}
            batches = {name: batch for name, batch in found.items() if batch is not None}
            self._part(batches).update_eigenvalues(batches, self._decay, examples)
        else:
            recording.fold(self._layers, scale)
            self._add(recording.sums, others, examples)
        self._unchecked = False

    def _add(self, sums: dict[str, Statistics], others: dict[str, Tensor], examples: int) -> None:
        """As `Curvature.update` does, from statistics that are there for most layers."""

        def updated(name: str, layer: Any) -> Any:
            new = sums[name] if name in sums else layer._statistics((others[name], None))
            return layer._average.update(*new, self._decay, examples)

        layers = self._part([*sums, *others])
        layers._take("_average", layers._each(updated))

    def _part(self, names: Iterable[str]) -> Curvature:
        """The estimators of these layers."""
        layers: dict[str, Any] = {name: self.curvature.layers[name] for name in names}
        return Curvature(layers)


def _as_axis(batch_axis: Any) -> int:
    if isinstance(batch_axis, bool) or not hasattr(batch_axis, "__index__"):
        raise TypeError(f"batch_axis is a {type(batch_axis).__name__}: an integer ≥ 0 is needed")
    if int(batch_axis) < 0:
        raise ValueError(f"batch_axis = {batch_axis}: an integer ≥ 0 is needed")
    return int(batch_axis)
