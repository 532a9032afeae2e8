"""What hooks see of one batch: inputs of modules, and gradients by what they gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from kronops.kfac.torch.modules import Layer

__all__ = ["Recorder", "Recording"]


@dataclass(eq=False)
class Call:
    """One call of a module."""

    inputs: Tensor
    version: int  # of the inputs' memory when they were seen
    edge: Any  # where in autograd's graph the outputs are
    gradients: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class Recording:
    """The calls of one batch, and gradients of the parameters that are watched themselves."""

    examples: int | None = None
    calls: dict[str, list[Call]] = field(default_factory=dict)
    gradients: dict[str, list[Tensor]] = field(default_factory=dict)
    begun: bool = False
    superseded: bool = False

    @property
    def has_gradients(self) -> bool:
        """Whether a backward pass has come by."""
        return any(call.gradients for calls in self.calls.values() for call in calls)

    @property
    def edges(self) -> list[Any]:
        """The outputs of all calls, as ``torch.autograd.grad`` takes them."""
        return [call.edge for calls in self.calls.values() for call in calls]

    def add(self, layer: Layer, inputs: Tensor, outputs: Tensor) -> None:
        """One call of a module; its gradients come later."""
        if not self.begun:
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
            self.examples = inputs.shape[0]
        kept = layer.kept(inputs)
        call = Call(kept, kept._version, get_gradient_edge(outputs))
        self.calls.setdefault(layer.name, []).append(call)
        outputs.register_hook(lambda gradient: self._receive(call.gradients, gradient))

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """One gradient of a parameter, of the whole batch."""
        self._receive(self.gradients.setdefault(name, []), gradient)

    def batch(self, layer: Layer, scale: float) -> tuple[Tensor, Tensor] | None:
        """For the layer's estimator: its inputs, and ``scale`` times the gradients; None if unused.

        Calls whose outputs have no part in the loss are left out.
        """
        assert self.examples is not None
        calls = [call for call in self.calls.get(layer.name, []) if call.gradients]
        if not calls:
            return None
        _check_calls(layer.name, calls)
        inputs = [call.inputs for call in calls]
        a, g = layer.batch(inputs, [call.gradients for call in calls], self.examples)
        return a, g if scale == 1.0 else scale * g

    def _receive(self, gradients: list[Tensor], gradient: Tensor) -> None:
        if self.superseded:
            raise ValueError(
                "a backward pass came by a batch that a later forward pass of the model had ended: "
                "go backward before the next forward pass, or leave the context of capture first"
            )
        gradients.append(gradient.detach())


def _check_calls(name: str, calls: list[Call]) -> None:
    if any(call.inputs._version != call.version for call in calls):
        raise ValueError(
            f"the inputs of {name!r} were written over before they were used: leave the context of "
            f"capture after each backward pass, or give the model other memory for each batch"
        )
    if len({len(call.gradients) for call in calls}) > 1:
        counts = [len(call.gradients) for call in calls]
        raise ValueError(
            f"backward passes came by the calls of {name!r} {counts} times: each must come by all "
            f"calls whose outputs are part of the loss; add losses up and go backward once"
        )


class Recorder:
    """Hooks on a model, while it is a context; each batch is given to ``take`` when it has ended.

    Parameters
    ----------
    model : nn.Module
    layers : sequence of Layer
    parameters : dict of str to Tensor
        Those whose own gradients are watched.
    batch_axis : int
        Of the first tensor that the model is given.
    take : callable
        Of a `Recording` that has gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        parameters: Mapping[str, Tensor],
        batch_axis: int,
        take: Callable[[Recording], None],
    ) -> None:
        self.model, self.layers, self.parameters = model, layers, parameters
        self.batch_axis = batch_axis
        self.take = take
        self.recording = Recording()
        self._taken = False
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        self._hooks = [self.model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        self._hooks += map(self._watch_layer, self.layers)
        self._hooks += map(self._watch_parameter, self.parameters)
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        if kind is not None:
            return
        self._end()
        if not self._taken:
            raise ValueError("nothing was captured: no backward pass came by a layer of the model")

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.next_batch()
        first = _first_tensor(args, kwargs)
        self.recording.examples = None if first is None else first.shape[self.batch_axis]

    def next_batch(self) -> None:
        """End the batch before, if it has gone backward."""
        if self._end():
            self.recording.superseded = True
            self.recording = Recording()
        self.recording.begun = True

    def _end(self) -> bool:
        """Whether there was a batch that has gone backward; it is taken in."""
        complete = self.recording.has_gradients
        if complete:
            with torch.no_grad():
                self.take(self.recording)
            self._taken = True
        return complete

    def _watch_layer(self, layer: Layer) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, outputs: Tensor) -> None:
            inputs = _first_tensor(args, kwargs)
            assert inputs is not None  # PyTorch's own modules have refused it
            self.recording.add(layer, inputs, outputs)

        return layer.module.register_forward_hook(hook, with_kwargs=True)

    def _watch_parameter(self, name: str) -> Any:
        return self.parameters[name].register_hook(
            lambda gradient: self.recording.add_gradient(name, gradient)
        )


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The first tensor with axes among arguments."""
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    return next((tensor for tensor in tensors if tensor.ndim), None)
