"""Modules of PyTorch and the estimators that know their gradients.

A `Layer` has the estimator, and says how what its module was given, and the gradients by what it
gave, are laid out for it: examples first, then the places where an example uses the module. Several
calls in one forward pass are several such places.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from kronops.kfac.batches import as_batch, second_moment
from kronops.kfac.conv_layer import ConvLayer
from kronops.kfac.embedding_layer import EmbeddingLayer
from kronops.kfac.estimator import Estimator
from kronops.kfac.moving_average import Arrays
from kronops.kfac.scale_shift_layer import ScaleShiftLayer
from kronops.kfac.shared_layer import SharedLayer

__all__ = [
    "BatchNormalisation",
    "Convolution",
    "Dense",
    "Embedding",
    "Examples",
    "GroupNormalisation",
    "Layer",
    "LayerNormalisation",
    "RootMeanSquareNormalisation",
    "Statistics",
    "along",
    "full_name",
]

Choose = Callable[..., tuple[Any, str]]
Statistics = tuple[Arrays, int]


@dataclass(frozen=True)
class Examples:
    """How many examples a batch has, and which axis is theirs where there are several places."""

    count: int
    axis: int = 0

    def axis_of(self, places: Sequence[int], what: str) -> int:
        """Their axis among ``places``, the sizes of the axes that are not of one place."""
        fits = {
            axis for axis in {0, self.axis} if axis < len(places) and places[axis] == self.count
        }
        if len(fits) > 1:
            raise ValueError(
                f"in a batch of {self.count} examples, {what}: which axis is that of the examples "
                f"cannot be told; give a batch of another number of examples"
            )
        if not fits:
            where = "first axis" if self.axis == 0 else f"first axis or axis {self.axis}"
            raise ValueError(
                f"in a batch of {self.count} examples, {what}: the {where} must be that of the "
                f"examples (batch_axis=1 is for models whose sequences come before their examples)"
            )
        return fits.pop()


class Layer(ABC):
    """A module whose gradients an estimator knows.

    Parameters
    ----------
    name : str
        As in ``model.named_modules()``.
    module : nn.Module
    names : dict of str to str
        For each part that is trained, ``"weight"`` and ``"bias"``, the name of its parameter.
    structure, sharing : str
        Settings of the estimator.
    rows : slice
        Those of the parameters that are this layer's.

    Attributes
    ----------
    modules : tuple of nn.Module
        All that share the parameters, whose calls are those of one layer.
    """

    input_axes: ClassVar[int] = 1  # of one place, after those of examples and places
    output_axes: ClassVar[int] = 1

    def __init__(
        self,
        name: str,
        module: Any,
        names: dict[str, str],
        structure: Any,
        sharing: str,
        rows: slice = slice(None),
    ) -> None:
        self.name = name
        self.module = module
        self.modules: tuple[Any, ...] = (module,)
        self.names = names
        self.sharing = sharing
        self.rows = rows
        try:
            self.estimator = self._estimator(structure)
        except (TypeError, ValueError) as error:
            error.add_note(f"for the module {name!r}, a {type(module).__name__}")
            raise

    @classmethod
    def of(cls, name: str, module: Any, choose: Choose) -> list[Self]:
        """The layers of a module, none if it is left out; ``choose`` has the settings by name."""
        structure, sharing = choose(name)
        names = {
            part: full_name(name, part) for part in ("weight", "bias") if _trains(module, part)
        }
        return [cls(name, module, names, structure, sharing)] if structure is not None else []

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a module of this kind has no estimator after all."""
        if "weight" not in module._parameters:
            return f"the weight of {type(module).__name__} is computed from other parameters"
        if not module.weight.requires_grad:
            return "its module's weight is frozen, and the bias alone has no rule"
        return None

    @property
    def key(self) -> Any:
        """The names of the parameters, in the order of the block's vectors."""
        names = tuple(self.names.values())
        return names if len(names) > 1 else names[0]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the rows of the weight that are this layer's."""
        return tuple(self.module.weight.shape)

    @abstractmethod
    def _estimator(self, structure: Any) -> Estimator:
        """The estimator of the module's parameters."""

    @abstractmethod
    def gradient(self, a: Tensor, g: Tensor, v: Tensor) -> dict[str, Tensor]:
        """The gradient of each part, of all examples, from what the estimator takes.

        That of the weight, if it has more than one axis, is multiplied by ``v`` along all others.
        """

    def examples_in(self, inputs: Tensor, axis: int) -> int:
        """How many examples the inputs are of, where nothing else tells."""
        return inputs.shape[axis if axis < inputs.ndim - self.input_axes else 0]

    def kept(self, inputs: Tensor) -> Tensor:
        """What is kept of the inputs until the gradients are there."""
        return inputs.detach()

    def inputs(self, calls: Sequence[Tensor], examples: Examples) -> Tensor:
        """What the estimator takes, from what was kept of each call."""
        return _along_places([self._by_example(x, examples, self.input_axes) for x in calls])

    def output_gradients(self, calls: Sequence[Tensor], examples: Examples) -> Tensor:
        """The same of one draw of gradients, those of each call."""
        return _along_places([self._by_example(g, examples, self.output_axes) for g in calls])

    def added(self, sums: Statistics | None, a: Tensor, g: Tensor) -> Statistics:
        """The statistics of the estimator, summed over draws, with one more draw ``g``.

        What is estimated of the inputs alone is that of the first one.
        """
        if sums is None:
            return self.estimator._statistics((a, g))
        statistics, repeats = sums
        new = self._gradient_statistics(g) or self.estimator._statistics((a, g))[0]
        return {
            name: total if name == "inputs" else total + new[name]
            for name, total in statistics.items()
        }, repeats

    def _gradient_statistics(self, g: Tensor) -> Arrays | None:
        """The factor of the output gradients, if there is one and it does not need the inputs."""
        rows = self._gradient_rows(g)
        kinds = getattr(self.estimator, "_kinds", None)
        if rows is None or kinds is None:
            return None
        (rows,) = as_batch(output_gradients=rows)
        return {"output_gradients": second_moment(rows, kinds[1], len(rows))}

    def _gradient_rows(self, g: Tensor) -> Tensor | None:
        """Vectors whose second moment is the factor of the output gradients, if that is all."""
        return None

    def _by_example(self, x: Tensor, examples: Examples, axes: int) -> Tensor:
        """``(B, places, …)``, the last ``axes`` as they are."""
        shape = tuple(x.shape)
        what = f"{type(self.module).__name__} has inputs or outputs of shape {shape}"
        places = shape[: x.ndim - axes]
        first = x.movedim(examples.axis_of(places, what), 0)
        return first.reshape(
            examples.count, math.prod(places) // examples.count, *shape[len(places) :]
        )


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


def along(gradient: Tensor, v: Tensor) -> Tensor:
    """``gradient`` times ``v`` along all axes but the first; as it is if it has no others."""
    return gradient if gradient.ndim == 1 else gradient.flatten(1) @ v


def full_name(module: str, part: str) -> str:
    """As in ``model.named_parameters()``."""
    return f"{module}.{part}" if module else part


def _trains(module: nn.Module, part: str) -> bool:
    parameter = getattr(module, part, None)
    return parameter is not None and parameter.requires_grad


def _along_places(calls: Sequence[Tensor]) -> Tensor:
    """One after the other; what one call gave is not copied."""
    return calls[0] if len(calls) == 1 else torch.cat(tuple(calls), dim=1)
