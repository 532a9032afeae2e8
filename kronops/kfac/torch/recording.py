"""What hooks see of one batch: inputs of modules, and gradients by what they gave."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from kronops.kfac.torch.attention import Projection, watch_attention
from kronops.kfac.torch.checking import check_gradients, check_independence
from kronops.kfac.torch.layer import Examples, Layer, Statistics

__all__ = ["DrawRecorder", "HookRecorder", "Recorder", "Recording"]


@dataclass(eq=False)
class Call:
    """One call of a module."""

    inputs: Tensor
    version: int  # of the inputs' memory when they were seen
    edge: Any  # where in autograd's graph the outputs are
    forward_pass: int  # of the model, in this batch
    gradients: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class Recording:
    """The calls of one batch, and gradients of the parameters that are watched themselves.

    Parameters
    ----------
    axis : int
        Of the examples, in what the model is given and where layers see several places.
    checked : bool
        Whether the gradients of the layers' parameters must be what the calls give.
    examples : int, optional
        How many there are, once that is known.

    Attributes
    ----------
    calls : dict of str to list of Call
        By the names of layers.
    gradients : dict of str to list of Tensor
        By the names of parameters that have no estimator, one for each backward pass.
    seen : dict of str to Tensor
        The first gradients of those that have one, where these are to be checked.
    inputs : dict of str to Tensor
        What the estimators of layers take of the inputs.
    sums : dict of str to Statistics
        Those of the layers, summed over the draws that have been let go.
    """

    axis: int = 0
    checked: bool = False
    examples: int | None = None
    calls: dict[str, list[Call]] = field(default_factory=dict)
    gradients: dict[str, list[Tensor]] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[str, Statistics] = field(default_factory=dict)
    forward_passes: int = 0
    superseded: bool = False

    @property
    def has_gradients(self) -> bool:
        """Whether a backward pass has come by."""
        return bool(self.seen or self.sums) or any(call.gradients for call in self.all_calls)

    @property
    def all_calls(self) -> Iterator[Call]:
        """Of all layers."""
        return (call for calls in self.calls.values() for call in calls)

    def add(self, layer: Layer, inputs: Tensor, outputs: Tensor) -> Call:
        """One call of a module; its gradients come later."""
        if not self.forward_passes:
            raise ValueError(
                f"{layer.name!r} was called, and not by the model, which would tell where a batch "
                f"begins: call the model itself, or use fit with forward="
            )
        if not outputs.requires_grad:
            raise ValueError(
                f"{layer.name or 'the model'} runs without gradients, as under torch.no_grad() or "
                f"torch.inference_mode(): there would be no curvature of it; leave the context of "
                f"capture for that"
            )
        if self.examples is None:
            self.examples = layer.examples_in(inputs, self.axis)
        kept = layer.kept(inputs)
        call = Call(kept, kept._version, get_gradient_edge(outputs), self.forward_passes)
        self.calls.setdefault(layer.name, []).append(call)
        return call

    def receive(self, gradients: list[Tensor], gradient: Tensor) -> None:
        """One more gradient, of a call or a parameter."""
        if self.superseded:
            raise ValueError(
                "a backward pass came by a batch that a later forward pass of the model had ended: "
                "go backward before the next forward pass, or leave the context of capture first"
            )
        gradients.append(gradient.detach())

    def fold(self, layers: Iterable[Layer], scale: float) -> None:
        """Sum the statistics of ``scale`` times the draws so far, which are then let go.

        Calls whose outputs have no part in the loss are left out.
        """
        for layer in layers:
            calls = self._complete(layer)
            for draw in zip(*(call.gradients for call in calls), strict=True):
                self._add_draw(layer, self._inputs(layer, calls), draw, scale)
            if layer.name not in self.sums:
                self._check(layer, None, scale)
            for call in calls:
                call.gradients.clear()

    def _add_draw(self, layer: Layer, a: Tensor, draw: Sequence[Tensor], scale: float) -> None:
        g = self._gradients(layer, draw, scale)
        if layer.name not in self.sums:
            self._check(layer, (a, g), scale)
        try:
            self.sums[layer.name] = layer.added(self.sums.get(layer.name), a, g)
        except (TypeError, ValueError) as error:
            error.add_note(f"in the layer {layer.name!r}")
            raise

    def batch(self, layer: Layer, scale: float) -> tuple[Tensor, Tensor] | None:
        """For the layer's estimator: its inputs, and all draws on a first axis; None if unused."""
        calls = self._complete(layer)
        draws = [
            self._gradients(layer, draw, scale)
            for draw in zip(*(call.gradients for call in calls), strict=True)
        ]
        batch = (self._inputs(layer, calls), torch.stack(draws)) if draws else None
        self._check(layer, (batch[0], draws[0]) if batch else None, scale)
        return batch

    def _complete(self, layer: Layer) -> list[Call]:
        """The calls that have gradients."""
        calls = [call for call in self.calls.get(layer.name, []) if call.gradients]
        _check_calls(layer.name, calls)
        return calls

    def _inputs(self, layer: Layer, calls: Sequence[Call]) -> Tensor:
        if layer.name not in self.inputs:
            kept = [call.inputs for call in calls]
            self.inputs[layer.name] = layer.inputs(kept, self.known_examples)
        return self.inputs[layer.name]

    def _gradients(self, layer: Layer, draw: Sequence[Tensor], scale: float) -> Tensor:
        g = layer.output_gradients(draw, self.known_examples)
        return g if scale == 1.0 else scale * g

    @property
    def known_examples(self) -> Examples:
        """How many there are, and on which axis."""
        assert self.examples is not None
        return Examples(self.examples, self.axis)

    def _check(self, layer: Layer, batch: tuple[Tensor, Tensor] | None, scale: float) -> None:
        if self.checked:
            check_gradients(layer, batch, self.seen, scale)


def _check_calls(name: str, calls: list[Call]) -> None:
    if any(call.inputs._version != call.version for call in calls):
        raise ValueError(
            f"the inputs of {name!r} were written over before they were used: leave the context of "
            f"capture after each backward pass, or give the model other memory for each batch"
        )
    if len({call.forward_pass for call in calls}) > 1:
        raise ValueError(
            "the model ran forward more than once before one backward pass: go backward after each "
            "forward pass; where one example needs several, let one module run them, and capture it"
        )
    if len({len(call.gradients) for call in calls}) > 1:
        counts = [len(call.gradients) for call in calls]
        raise ValueError(
            f"backward passes came by the calls of {name!r} {counts} times: each must come by all "
            f"calls whose outputs are part of the loss; add losses up and go backward once"
        )


class Recorder:
    """Watches the layers of a model while it is a context; batches go to ``take`` as they end.

    Parameters
    ----------
    model : nn.Module
    layers : sequence of Layer
    others : dict of str to Tensor
        Parameters without an estimator whose own gradients are watched.
    axis : int
        Of the examples, as `Recording` has it.
    take : callable
        Of a `Recording` that has gradients.
    checked : bool
        Whether the gradients of the layers' parameters are watched in the first batch.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        others: Mapping[str, Tensor],
        axis: int,
        take: Callable[[Recording], None],
        checked: bool,
    ) -> None:
        self.model, self.layers, self.others = model, layers, dict(others)
        self.axis = axis
        self.take = take
        self.recording = Recording(axis, checked)
        names = {name: None for layer in layers for name in layer.names.values()}
        self._checked = {name: model.get_parameter(name) for name in names if checked}
        self._taken = False
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for layer in self.layers:
            if not isinstance(layer, Projection):
                self._hooks += [self._watch(layer, module) for module in layer.modules]
        projections = [layer for layer in self.layers if isinstance(layer, Projection)]
        self._hooks += watch_attention(projections, self._add)
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        if kind is not None:
            return
        self._end()
        if not self._taken:
            raise ValueError("nothing was captured: no backward pass came by a layer of the model")

    def next_batch(self, examples: int | None = None) -> None:
        """A forward pass begins; it ends the batch before, if that has gone backward."""
        if self._end():
            self.recording.superseded = True
            self.recording = Recording(self.axis)
            self._checked = {}
        self.recording.examples = examples
        self.recording.forward_passes += 1

    def _end(self) -> bool:
        """Whether there was a batch that has gone backward; it is taken in."""
        complete = self.recording.has_gradients
        if complete:
            with self._precisely():
                self.take(self.recording)
            self._taken = True
        return complete

    @contextlib.contextmanager
    def _precisely(self) -> Iterator[None]:
        """Without derivatives, and in the precision that tensors have."""
        device = next(self.model.parameters()).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield

    def _watch(self, layer: Layer, module: nn.Module) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, outputs: Tensor) -> None:
            self._add(layer, next(_tensors((*args, *kwargs.values()))), outputs)

        return module.register_forward_hook(hook, with_kwargs=True)

    def _add(self, layer: Layer, inputs: Tensor, outputs: Tensor) -> Call:
        return self.recording.add(layer, inputs, outputs)


class HookRecorder(Recorder):
    """Where the user goes backward: each forward pass of the model begins a batch."""

    def __enter__(self) -> Self:
        self._hooks.append(self.model.register_forward_pre_hook(self._begin, with_kwargs=True))
        for name, parameter in (self._checked | self.others).items():
            self._hooks.append(parameter.register_hook(functools.partial(self._see, name)))
        return super().__enter__()

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        first = next(_tensors((*args, *kwargs.values())), None)
        if first is not None and first.ndim <= self.axis:
            raise ValueError(
                f"batch_axis = {self.axis}, but the model is given a tensor of shape "
                f"{tuple(first.shape)}: the axis of its examples is needed"
            )
        self.next_batch(None if first is None else first.shape[self.axis])

    def _see(self, name: str, gradient: Tensor) -> None:
        """A copy, for autograd may make ``param.grad`` of the gradient itself."""
        recording = self.recording
        if name in self.others:
            recording.receive(recording.gradients.setdefault(name, []), gradient.clone())
        elif name in self._checked and name not in recording.seen:
            recording.seen[name] = gradient.detach().clone()

    def _add(self, layer: Layer, inputs: Tensor, outputs: Tensor) -> Call:
        recording, call = self.recording, super()._add(layer, inputs, outputs)
        outputs.register_hook(lambda gradient: recording.receive(call.gradients, gradient))
        return call


class DrawRecorder(Recorder):
    """Where draws of output gradients are at hand."""

    def fold(self) -> None:
        """Sum up the draws so far, whose gradients are then let go."""
        with self._precisely():
            self.recording.fold(self.layers, 1.0)

    def backward(self, outputs: Tensor, draw: Tensor, last: bool) -> None:
        """Carry one draw back to the outputs of layers: gradients by weights are not computed.

        But those of the first draw are, where they are to be checked.
        """
        recording = self.recording
        calls = list(recording.all_calls)
        checked = {} if recording.seen else self._checked
        if checked:
            self._check_independence(outputs)
        parameters = self.others | checked
        sources = [*(call.edge for call in calls), *parameters.values()]
        if not sources:
            return
        found = torch.autograd.grad(
            outputs, sources, draw, retain_graph=not last, allow_unused=True
        )
        for call, gradient in zip(calls, found, strict=False):
            if gradient is not None:
                recording.receive(call.gradients, gradient)
        for name, gradient in zip(parameters, found[len(calls) :], strict=True):
            if gradient is not None and name in checked:
                recording.seen[name] = gradient
            elif gradient is not None:
                recording.receive(recording.gradients.setdefault(name, []), gradient)

    def _check_independence(self, outputs: Tensor) -> None:
        """Carry back any gradient by one example's outputs, to see where it goes."""
        one = torch.zeros_like(outputs)
        one[0] = torch.cos(torch.arange(one[0].numel()).to(one)).reshape(one[0].shape)
        recording = self.recording
        edges = [call.edge for call in recording.all_calls]
        found = torch.autograd.grad(outputs, edges, one, retain_graph=True, allow_unused=True)
        given = dict(zip(recording.all_calls, found, strict=True))
        for layer in self.layers:
            calls = recording.calls.get(layer.name, [])
            gradients = [given[call] for call in calls if given[call] is not None]
            if gradients:
                check_independence(layer, gradients, recording.known_examples)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those with axes among arguments, and in dicts among these."""
    for value in values:
        if isinstance(value, Tensor) and value.ndim:
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
