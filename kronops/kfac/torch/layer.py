"""What all kinds of layers have in common: how inputs and output gradients come to an estimator.

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

from kronops.kfac.batches import as_batch, second_moment
from kronops.kfac.estimator import Estimator
from kronops.kfac.moving_average import Arrays

__all__ = ["Choose", "Examples", "Layer", "Statistics", "along", "full_name"]

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
                f"examples (batch_axis=1 is for models whose sequences come before their examples; "
                f"what all examples share, positions for instance, is to be expanded to each)"
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
        if not names or structure is None:
            return []
        return [cls(name, module, names, structure, sharing)]

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
        return int(inputs.shape[axis if axis < inputs.ndim - self.input_axes else 0])

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


def along(gradient: Tensor, v: Tensor) -> Tensor:
    """``gradient`` times ``v`` along all axes but the first; as it is if it has no others."""
    return gradient if gradient.ndim == 1 else gradient.flatten(1) @ v


def full_name(module: str, part: str) -> str:
    """As in ``model.named_parameters()``."""
    return f"{module}.{part}" if module else part


def _trains(module: nn.Module, part: str) -> bool:
    """Whether that is a parameter, and not computed from others, as pruning and such do."""
    parameter = module._parameters.get(part)
    return parameter is not None and parameter.requires_grad


def _along_places(calls: Sequence[Tensor]) -> Tensor:
    """One after the other; what one call gave is not copied."""
    return calls[0] if len(calls) == 1 else torch.cat(tuple(calls), dim=1)
