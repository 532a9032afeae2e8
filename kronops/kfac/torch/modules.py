"""The modules of PyTorch whose gradients an estimator knows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kronops.kfac.conv_layer import ConvLayer
from kronops.kfac.embedding_layer import EmbeddingLayer
from kronops.kfac.estimator import Estimator
from kronops.kfac.scale_shift_layer import ScaleShiftLayer
from kronops.kfac.shared_layer import SharedLayer
from kronops.kfac.torch.layer import Examples, Layer, along

__all__ = [
    "BatchNormalisation",
    "Convolution",
    "Dense",
    "Embedding",
    "GroupNormalisation",
    "LayerNormalisation",
    "RootMeanSquareNormalisation",
]


class Dense(Layer):
    """`nn.Linear`, also at several places of an example, and called several times.

    A bias alone, where the weight is frozen, is the weight of a constant input.
    """

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Either parameter may be frozen."""
        return None if "weight" in module._parameters else Layer.refusal(module)

    def _estimator(self, structure: Any) -> Estimator:
        bias = len(self.names) == 2
        return SharedLayer(bias, self.sharing, structure=structure, layout="out,in")

    def kept(self, inputs: Tensor) -> Tensor:
        """The constant input of a bias alone."""
        return inputs.detach() if "weight" in self.names else torch.ones_like(inputs[..., :1])

    def gradient(self, a: Tensor, g: Tensor, v: Tensor) -> dict[str, Tensor]:
        """``Σ g aᵀ v`` and ``Σ g``."""
        made = {}
        if "weight" in self.names:
            made["weight"] = g.flatten(0, 1).mT @ (a.flatten(0, 1) @ v)
        if "bias" in self.names:
            made["bias"] = g.sum(dim=(0, 1))
        return made

    def _gradient_rows(self, g: Tensor) -> Tensor | None:
        return g.flatten(0, 1) if self.sharing == "expand" else g.sum(dim=1)

    def _by_example(self, x: Tensor, examples: Examples, axes: int) -> Tensor:
        """Places that are examples of their own may be merged with them, ``(B·S, …)``."""
        merged = x.ndim == 2 and x.shape[0] % examples.count == 0 and self.sharing == "expand"
        if not merged:
            return super()._by_example(x, examples, axes)
        if examples.axis == 0:
            return x.unflatten(0, (examples.count, -1))
        return x.unflatten(0, (-1, examples.count)).movedim(1, 0)


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
            bias="bias" in self.names,
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

    def gradient(self, a: Tensor, g: Tensor, v: Tensor) -> dict[str, Tensor]:
        """By a convolution whose kernel is ``v``, one output for each group."""
        module = self.module
        convolve = getattr(functional, f"conv{len(module.kernel_size)}d")
        padding = module.padding if module.padding_mode == "zeros" else 0
        kernel = v.reshape(1, *module.weight.shape[1:]).repeat(
            module.groups, *(1,) * (module.weight.ndim - 1)
        )
        met = convolve(a, kernel, None, module.stride, padding, module.dilation, module.groups)
        rows = g.flatten(2).unflatten(1, (module.groups, -1))
        weight = torch.einsum("bgl,bgol->go", met.flatten(2), rows).flatten()
        whole = {"weight": weight, "bias": g.flatten(2).sum(dim=(0, 2))}
        return {part: whole[part] for part in self.names}

    def inputs(self, calls: Sequence[Tensor], examples: Examples) -> Tensor:
        """Images as they are, of one call."""
        if len(calls) > 1:
            raise ValueError(
                f"{self.name!r} was called {len(calls)} times in a forward pass: convolutions are "
                f"captured where they are called once; structure={{{self.name!r}: None}} leaves "
                f"this one out"
            )
        self._by_example(calls[0], Examples(examples.count), axes=len(self.module.kernel_size))
        return calls[0]

    def output_gradients(self, calls: Sequence[Tensor], examples: Examples) -> Tensor:
        """As they are."""
        return calls[0]

    def _gradient_rows(self, g: Tensor) -> Tensor | None:
        return g.movedim(1, -1).flatten(0, -2) if self.module.groups == 1 else None


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

    def _gradient_rows(self, g: Tensor) -> Tensor | None:
        return g.flatten(0, 1) if self.module.padding_idx is None else None

    def gradient(self, a: Tensor, g: Tensor, v: Tensor) -> dict[str, Tensor]:
        """The sums over the lookups of each row."""
        table = g.new_zeros(self.module.num_embeddings)
        table.index_add_(0, a.flatten(), (g @ v).flatten())
        if self.module.padding_idx is not None:
            table[self.module.padding_idx] = 0
        return {"weight": table}


class Normalisation(Layer):
    """A scale and shift after a normalisation; what they are given is the normalised input."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Either parameter may be frozen."""
        computed = "weight" not in module._parameters
        return Layer.refusal(module) if computed else None

    def _estimator(self, structure: Any) -> Estimator:
        return ScaleShiftLayer(
            "weight" in self.names,
            "bias" in self.names,
            axes=(1,),
            structure="diagonal" if structure == "diagonal" else "full",
        )

    @abstractmethod
    def kept(self, inputs: Tensor) -> Tensor:
        """The normalised input."""

    def gradient(self, a: Tensor, g: Tensor, v: Tensor) -> dict[str, Tensor]:
        """``Σ x ∘ g`` and ``Σ g``."""
        whole = {"weight": (a * g).sum(dim=(0, 1)), "bias": g.sum(dim=(0, 1))}
        return {part: along(whole[part], v) for part in self.names}


class BatchNormalisation(Normalisation):
    """`nn.BatchNorm1d`, 2d and 3d, with one scale and shift for each channel."""

    def kept(self, inputs: Tensor) -> Tensor:
        """With the statistics that the forward pass used: the batch's, or the running ones."""
        module, x = self.module, inputs.detach()
        if module.training or module.running_mean is None:
            return functional.batch_norm(x, None, None, training=True, eps=module.eps)
        return functional.batch_norm(x, module.running_mean, module.running_var, eps=module.eps)

    def _by_example(self, x: Tensor, examples: Examples, axes: int) -> Tensor:
        return super()._by_example(x.movedim(1, -1), Examples(examples.count), axes)


class GroupNormalisation(BatchNormalisation):
    """`nn.GroupNorm`, with one scale and shift for each channel."""

    def kept(self, inputs: Tensor) -> Tensor:
        """Each group of each example has mean 0 and variance 1."""
        return functional.group_norm(inputs.detach(), self.module.num_groups, eps=self.module.eps)


class LayerNormalisation(Normalisation):
    """`nn.LayerNorm`, with a scale and shift for each entry that is normalised over."""

    def __init__(self, name: str, module: Any, *settings: Any) -> None:
        self.input_axes = self.output_axes = len(module.normalized_shape)  # type: ignore[misc]
        super().__init__(name, module, *settings)

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
