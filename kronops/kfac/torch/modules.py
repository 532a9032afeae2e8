"""Modules of PyTorch and the estimators that know their gradients.

A `Layer` is a module of one of the `KINDS`. It has the estimator, and says how what the module was
given, and the gradients by what it gave, are laid out for it: examples first, then the places where
an example uses the module. Several calls in one forward pass are several such places.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kronops.kfac.conv_layer import ConvLayer
from kronops.kfac.embedding_layer import EmbeddingLayer
from kronops.kfac.estimator import Estimator
from kronops.kfac.scale_shift_layer import ScaleShiftLayer
from kronops.kfac.shared_layer import SharedLayer

__all__ = ["KINDS", "Layer", "kind_of"]


class Layer(ABC):
    """A module whose gradients an estimator knows.

    Parameters
    ----------
    name : str
        As in ``model.named_modules()``.
    module : nn.Module
    structure, sharing : str
        Settings of the estimator.
    """

    input_axes: ClassVar[int] = 1  # of one place, after those of examples and places
    output_axes: ClassVar[int] = 1

    def __init__(self, name: str, module: Any, structure: Any, sharing: str) -> None:
        self.name = name
        self.module = module
        self.sharing = sharing
        try:
            self.estimator = self._estimator(structure)
        except (TypeError, ValueError) as error:
            error.add_note(f"for the module {name!r}, a {type(module).__name__}")
            raise

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module of this kind has no estimator after all."""
        if module.weight.requires_grad:
            return None
        return "its module's weight is frozen, and the bias alone has no rule"

    @property
    def key(self) -> Any:
        """The names of the parameters, in the order of the block's vectors."""
        trained = [part for part in ("weight", "bias") if self._trains(part)]
        names = tuple(".".join(filter(None, (self.name, part))) for part in trained)
        return names if len(names) > 1 else names[0]

    @abstractmethod
    def _estimator(self, structure: Any) -> Estimator:
        """The estimator of the module's parameters."""

    def kept(self, inputs: Tensor) -> Tensor:
        """What is kept of the inputs until the gradients are there."""
        return inputs.detach()

    def batch(
        self, inputs: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]], examples: int
    ) -> tuple[Tensor, Tensor]:
        """What the estimator takes, from each call's inputs and draws of output gradients."""
        a = [self._by_example(x, examples, self.input_axes) for x in inputs]
        draws = [
            _along_places([self._by_example(g, examples, self.output_axes) for g in calls])
            for calls in zip(*gradients, strict=True)
        ]
        return _along_places(a), _as_draws(draws)

    def _trains(self, part: str) -> bool:
        parameter = getattr(self.module, part, None)
        return parameter is not None and parameter.requires_grad

    def _by_example(self, x: Tensor, examples: int, axes: int) -> Tensor:
        """``(B, places, …)``, the last ``axes`` as they are."""
        shape = tuple(x.shape)
        if x.ndim <= axes or shape[0] != examples:
            raise ValueError(
                f"in a batch of {examples} examples, {type(self.module).__name__} has inputs or "
                f"outputs of shape {shape}: the first axis must be that of the examples"
            )
        places = math.prod(shape[1 : x.ndim - axes])
        return x.reshape(examples, places, *shape[x.ndim - axes :])


class Dense(Layer):
    """`nn.Linear`, also at several places of an example, and called several times."""

    def _estimator(self, structure: Any) -> Estimator:
        bias = self._trains("bias")
        return SharedLayer(bias, self.sharing, structure=structure, layout="out,in")

    def _by_example(self, x: Tensor, examples: int, axes: int) -> Tensor:
        """Places that are examples of their own may be merged with them, ``(B·S, …)``."""
        merged = x.ndim == 2 and x.shape[0] % examples == 0 and self.sharing == "expand"
        rows = x.unflatten(0, (examples, -1)) if merged else x
        return super()._by_example(rows, examples, axes)


class Convolution(Layer):
    """`nn.Conv1d`, 2d and 3d, with groups, strides, dilation and every padding."""

    def _estimator(self, structure: Any) -> Estimator:
        module = self.module
        return ConvLayer(
            module.kernel_size,
            strides=module.stride,
            padding=self._padding,
            dilation=module.dilation,
            groups=module.groups,
            bias=self._trains("bias"),
            structure=structure,
            channels="first",
            layout="out,in",
        )

    @property
    def _padding(self) -> Any:
        padding = self.module.padding
        if self.module.padding_mode != "zeros":
            return "VALID"  # `kept` has padded
        return padding.upper() if isinstance(padding, str) else [(p, p) for p in padding]

    def kept(self, inputs: Tensor) -> Tensor:
        """Padded here where that is not with zeros."""
        mode, x = self.module.padding_mode, inputs.detach()
        if mode == "zeros":
            return x
        return functional.pad(x, self.module._reversed_padding_repeated_twice, mode=mode)

    def batch(
        self, inputs: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]], examples: int
    ) -> tuple[Tensor, Tensor]:
        """Images as they are, of one call."""
        if len(inputs) > 1:
            raise ValueError(
                f"{self.name!r} was called {len(inputs)} times in a forward pass: convolutions are "
                f"captured where they are called once; structure={{{self.name!r}: None}} leaves "
                f"this one out"
            )
        (x,), (draws,) = inputs, gradients
        self._by_example(x, examples, axes=len(self.module.kernel_size))
        # Channels are brought to the end, where the estimator has them, in the one copy there is.
        return x, _as_draws([g.movedim(1, -1) for g in draws]).movedim(-1, 2)


class Embedding(Layer):
    """`nn.Embedding`: a table ``(num_embeddings, out)``, inputs first."""

    input_axes = 0

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Options that change gradients or weights on the way."""
        for option in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(module, option):
                return f"Embedding with {option}={getattr(module, option)!r} has no rule"
        return Layer.refusal(module)

    def _estimator(self, structure: Any) -> Estimator:
        module = self.module
        return EmbeddingLayer(
            module.num_embeddings, structure=structure, padding_idx=module.padding_idx
        )


class Normalisation(Layer):
    """A scale and shift after a normalisation; what they are given is the normalised input."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Either parameter may be frozen."""
        return None

    def _estimator(self, structure: Any) -> Estimator:
        return ScaleShiftLayer(
            self._trains("weight"),
            self._trains("bias"),
            axes=(1,),
            structure="diagonal" if structure == "diagonal" else "full",
        )

    @abstractmethod
    def kept(self, inputs: Tensor) -> Tensor:
        """The normalised input."""


class BatchNormalisation(Normalisation):
    """`nn.BatchNorm1d`, 2d and 3d, with one scale and shift for each channel."""

    def kept(self, inputs: Tensor) -> Tensor:
        """With the statistics that the forward pass used: the batch's, or the running ones."""
        module, x = self.module, inputs.detach()
        if module.training or module.running_mean is None:
            return functional.batch_norm(x, None, None, training=True, eps=module.eps)
        return functional.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)

    def _by_example(self, x: Tensor, examples: int, axes: int) -> Tensor:
        return super()._by_example(x.movedim(1, -1), examples, axes)


class GroupNormalisation(BatchNormalisation):
    """`nn.GroupNorm`, with one scale and shift for each channel."""

    def kept(self, inputs: Tensor) -> Tensor:
        """Each group of each example has mean 0 and variance 1."""
        return functional.group_norm(inputs.detach(), self.module.num_groups, eps=self.module.eps)


class LayerNormalisation(Normalisation):
    """`nn.LayerNorm`, with a scale and shift for each entry that is normalised over."""

    def __init__(self, name: str, module: Any, structure: Any, sharing: str) -> None:
        self.input_axes = self.output_axes = len(module.normalized_shape)  # type: ignore[misc]
        super().__init__(name, module, structure, sharing)

    def kept(self, inputs: Tensor) -> Tensor:
        """Over the last axes."""
        module = self.module
        return functional.layer_norm(inputs.detach(), module.normalized_shape, eps=module.eps)


class RootMeanSquareNormalisation(LayerNormalisation):
    """`nn.RMSNorm`, a scale alone."""

    def kept(self, inputs: Tensor) -> Tensor:
        """Over the last axes."""
        module = self.module
        return functional.rms_norm(inputs.detach(), module.normalized_shape, eps=module.eps)


KINDS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Dense,
    nn.Conv1d: Convolution,
    nn.Conv2d: Convolution,
    nn.Conv3d: Convolution,
    nn.Embedding: Embedding,
    nn.BatchNorm1d: BatchNormalisation,
    nn.BatchNorm2d: BatchNormalisation,
    nn.BatchNorm3d: BatchNormalisation,
    nn.GroupNorm: GroupNormalisation,
    nn.LayerNorm: LayerNormalisation,
    nn.RMSNorm: RootMeanSquareNormalisation,
}


def _along_places(calls: Sequence[Tensor]) -> Tensor:
    """One after the other; what one call gave is not copied."""
    return calls[0] if len(calls) == 1 else torch.cat(tuple(calls), dim=1)


def _as_draws(draws: Sequence[Tensor]) -> Tensor:
    """Along a first axis; one draw is not copied."""
    return draws[0][None] if len(draws) == 1 else torch.stack(tuple(draws))


def kind_of(module: nn.Module) -> type[Layer] | None:
    """The kind of a module whose forward pass is that of PyTorch, not one of a subclass."""
    own = type(module)
    for base, kind in KINDS.items():
        if isinstance(module, base) and all(
            getattr(own, name, None) is getattr(base, name, None)
            for name in ("forward", "_conv_forward")
        ):
            return kind
    return None
