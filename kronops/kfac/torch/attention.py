"""The projections of `nn.MultiheadAttention`, which no module of their own computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kronops.kfac.torch.layer import Choose, Examples, full_name
from kronops.kfac.torch.modules import Dense

__all__ = ["Projection", "watch_attention"]

Add = Callable[[Any, Tensor, Tensor], object]
SIGNATURE = inspect.signature(functional.multi_head_attention_forward)
INPUTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}


class Projection(Dense):
    """One linear map of an attention; where it is computed, sequences come before examples."""

    def __init__(
        self, attention: str, called: str, module: Any, names: dict[str, str], *settings: Any
    ) -> None:
        self.attention = attention
        self.which = called.partition(".")[0]
        super().__init__(full_name(attention, called), module, names, *settings)

    @classmethod
    def of(cls, name: str, module: Any, choose: Choose) -> list[Self]:
        """Those of query, key, value and the result, as far as they are trained.

        The first three have one parameter each, rows of which are theirs; or weights of their own
        and rows of one bias, whose block is then one of the bias alone.
        """
        trained = {part for part, parameter in module.named_parameters() if parameter.requires_grad}
        layers = []
        for called, parts, rows in _parts(module):
            structure, sharing = choose(full_name(name, called), name)
            names = {part: full_name(name, at) for part, at in parts.items() if at in trained}
            if names and structure is not None:
                layers.append(cls(name, called, module, names, structure, sharing, rows))
        return layers

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Weights must be parameters."""
        weights = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        if all(name in module._parameters for name in weights):
            return Dense.refusal(module.out_proj)
        return f"a weight of {type(module).__name__} is computed from other parameters"

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """That of keys and values may have another number of columns."""
        module = self.module
        widths = {"k_proj": module.kdim, "v_proj": module.vdim}
        return module.embed_dim, widths.get(self.which, module.embed_dim)

    def examples_in(self, inputs: Tensor, axis: int) -> int:
        """The second axis."""
        return int(inputs.shape[1])

    def _by_example(self, x: Tensor, examples: Examples, axes: int) -> Tensor:
        return super()._by_example(x.movedim(1, 0), Examples(examples.count), axes)


def _parts(module: Any) -> Iterator[tuple[str, dict[str, str], slice]]:
    """The projections: their names, the parameters of each, and the rows of these."""
    width, everything = module.embed_dim, slice(None)
    for index, which in enumerate(INPUTS):
        rows = slice(index * width, (index + 1) * width)
        if module.in_proj_weight is None:
            yield which, {"weight": f"{which}_weight"}, everything
            yield f"{which}.bias", {"bias": "in_proj_bias"}, rows
        else:
            yield which, {"weight": "in_proj_weight", "bias": "in_proj_bias"}, rows
    yield "out_proj", {"weight": "out_proj.weight", "bias": "out_proj.bias"}, everything


def watch_attention(projections: Iterable[Projection], add: Add) -> Iterator[Any]:
    """Hooks on the modules that the projections are of; ``add`` is told of each call of these."""
    modules: dict[nn.Module, list[Projection]] = {}
    for projection in projections:
        modules.setdefault(projection.module, []).append(projection)
    for module, parts in modules.items():
        yield from _watch(module, parts, add)


def _watch(module: nn.Module, parts: Sequence[Projection], add: Add) -> Iterator[Any]:
    running: list[Projecting] = []

    def enter(module: nn.Module, args: Any) -> None:
        running.append(Projecting(parts, add))
        running[-1].__enter__()

    def leave(module: nn.Module, args: Any, outputs: Any) -> None:
        if running:  # not where another hook has failed before ours was called
            running.pop().__exit__(None, None, None)

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(leave, always_call=True)


class Projecting(TorchFunctionMode):  # type: ignore[misc]
    """Computes the projections of attention one by one, and PyTorch's function the rest.

    That is given the projected query, key and value, with identities in place of the weights:
    masks, dropout and all else are left to it, and multiplying by ones and zeros is exact.
    """

    def __init__(self, projections: Sequence[Projection], add: Add) -> None:
        super().__init__()
        self.projections = projections
        self.add = add

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Of `functional.multi_head_attention_forward`; other functions are as they are."""
        if func is not functional.multi_head_attention_forward:
            return func(*args, **(kwargs or {}))
        given = SIGNATURE.bind(*args, **(kwargs or {})).arguments
        if given["query"].ndim != 3:
            raise ValueError(
                f"{self.projections[0].attention or 'the model'!r} was given one sequence without "
                f"an axis of examples, of shape {tuple(given['query'].shape)}: capture needs a "
                f"batch, of one example at least"
            )
        weights, biases = _weights(given)
        for (which, argument), weight, bias in zip(INPUTS.items(), weights, biases, strict=True):
            given[argument] = self._projected(which, given[argument], weight, bias)
        identity = torch.eye(
            given["query"].shape[-1], dtype=given["query"].dtype, device=given["query"].device
        )
        out = given["out_proj_weight"], given["out_proj_bias"]
        given |= {"out_proj_weight": identity, "out_proj_bias": None}
        given |= {"in_proj_weight": None, "in_proj_bias": None, "use_separate_proj_weight": True}
        given |= {f"{which}_weight": identity for which in INPUTS}
        heads, attention = func(**given)
        return self._projected("out_proj", heads, *out), attention

    def _projected(self, which: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = functional.linear(x, weight, bias)
        for projection in self.projections:
            if projection.which == which:
                self.add(projection, x, y)
        return y


def _weights(given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Of query, key and value."""
    bias = given["in_proj_bias"]
    biases = (None, None, None) if bias is None else bias.chunk(3)
    if given.get("use_separate_proj_weight"):
        return [given[f"{which}_weight"] for which in INPUTS], biases
    return given["in_proj_weight"].chunk(3), biases
