"""Which modules of a model have an estimator, and why other parameters have none."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kronops.kfac.torch.attention import Projection
from kronops.kfac.torch.layer import Layer, full_name
from kronops.kfac.torch.modules import (
    BatchNormalisation,
    Convolution,
    Dense,
    Embedding,
    GroupNormalisation,
    LayerNormalisation,
    RootMeanSquareNormalisation,
)

__all__ = ["check_model", "survey", "trainable"]

Parameters = dict[str, Tensor]
Owned = dict[str, Parameters]
Names = dict[int, list[str]]
PASSES = ("forward", "_conv_forward")
WRAPPERS = {
    "DataParallel": "its replicas run copies of the modules: give model.module and one device",
    "DistributedDataParallel": "give model.module on each process, and merge the curvatures",
    "FullyShardedDataParallel": "its parameters are flattened pieces: give the model as it was",
    "OptimizedModule": "compiled code runs no hooks: give the model as it was before torch.compile",
    "ScriptModule": "compiled code runs no hooks: give the model as it was before torch.jit",
}
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
    nn.MultiheadAttention: Projection,
}


def check_model(model: Any) -> None:
    """Refuse what has no modules that hooks could watch."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}: a torch.nn.Module is needed")
    for kind in type(model).__mro__:
        if kind.__name__ in WRAPPERS:
            raise TypeError(f"model is a {kind.__name__}: {WRAPPERS[kind.__name__]}")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"{name} has no shape yet: run the model once first")


def survey(model: nn.Module, structure: Any, sharing: Any) -> tuple[list[Layer], dict[str, str]]:
    """The layers with an estimator, and the trainable parameters without one, with the reason."""
    modules = dict(model.named_modules())
    _check_settings(structure, modules, "structure")
    _check_settings(sharing, modules, "sharing")
    owned = _owned(modules)
    names, twins = _names(owned), _twins(owned)
    layers: list[Layer] = []
    unknown: dict[str, str] = {}
    for name, trained in owned.items():
        sharers = twins[_identity(trained)]
        together = [modules[sharer] for sharer in sharers]
        kind = _kind_of(together[0])
        reason = _tie(trained, names, together) or _refusal(modules[name], trained)
        made: list[Layer] = []
        if kind is not None and reason is None:
            if name != sharers[0]:
                continue  # its calls are those of the first
            choose = functools.partial(_settings, structure, sharing, modules[name])
            made = kind.of(name, modules[name], choose)
        for layer in made:
            layer.modules = tuple(together)
        layers += made
        covered = {part for layer in made for part in layer.names.values()}
        for part, parameter in trained.items():
            if part not in covered:
                unknown.setdefault(names[id(parameter)][0], reason or _left_out(part))
    return layers, unknown


def trainable(model: nn.Module) -> Parameters:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _refusal(module: nn.Module, trained: Parameters) -> str | None:
    """Why the parameters of a module have no estimator."""
    if any(parameter.is_complex() for parameter in trained.values()):
        return "complex parameters have no rule"
    if any(name in vars(module) for name in PASSES):
        return f"this {type(module).__name__} has a forward pass of its own: it has no rule"
    kind = _kind_of(module)
    return f"{type(module).__name__} has no rule" if kind is None else kind.refusal(module)


def _tie(trained: Parameters, names: Names, together: Sequence[nn.Module]) -> str | None:
    """Why parameters of several modules have no estimator; ``together`` share all of theirs."""
    linear = all(
        _kind_of(module) is Dense and _refusal(module, trained) is None for module in together
    )
    for parameter in trained.values():
        if len(owners := names[id(parameter)]) > (len(together) if linear else 1):
            return (
                f"{' and '.join(owners)} are one parameter of several modules: give each a copy of "
                f"its own; only nn.Linear modules may share, and then all that they train"
            )
    return None


def _left_out(part: str) -> str:
    last = part.rpartition(".")[2]
    if last in ("bias_k", "bias_v"):
        return "it is a key or value of attention, and no projection"
    if last.endswith(("weight", "bias")):
        return "it is left out: structure=None"
    return "it is no weight or bias itself: something may be computed from it"


def _owned(modules: Mapping[str, nn.Module]) -> Owned:
    """For each module that has any, its own trainable parameters by their full names.

    Those of the output projection of attention, a module that is never called, are attention's.
    """
    owned: Owned = {}
    for name, module in modules.items():
        parent = name.rpartition(".")[0]
        attends = name != "" and isinstance(modules[parent], nn.MultiheadAttention)
        for part, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad:
                holder = owned.setdefault(parent if attends else name, {})
                holder[full_name(name, part)] = parameter
    return owned


def _names(owned: Owned) -> Names:
    """All names of each parameter; the first is that of ``named_parameters()``."""
    names: Names = {}
    for trained in owned.values():
        for name, parameter in trained.items():
            names.setdefault(id(parameter), []).append(name)
    return names


def _twins(owned: Owned) -> dict[tuple[int, ...], list[str]]:
    """The modules that train the same parameters."""
    twins: dict[tuple[int, ...], list[str]] = {}
    for name, trained in owned.items():
        twins.setdefault(_identity(trained), []).append(name)
    return twins


def _identity(trained: Parameters) -> tuple[int, ...]:
    return tuple(map(id, trained.values()))


def _kind_of(module: nn.Module) -> type[Layer] | None:
    """The kind of a module whose forward pass is that of PyTorch, not one of a subclass."""
    own = type(module)
    for base, kind in KINDS.items():
        same = (getattr(own, name, None) is getattr(base, name, None) for name in PASSES)
        if isinstance(module, base) and all(same):
            return kind
    return None


def _check_settings(setting: Any, modules: Mapping[str, nn.Module], argument: str) -> None:
    """Keys that fit no module are mistakes."""
    for key in setting if isinstance(setting, Mapping) else ():
        if not (key in modules if isinstance(key, str) else isinstance(key, type)):
            raise ValueError(
                f"{argument} has the key {key!r}: names of modules, as in model.named_modules(), "
                f"and classes of modules are needed"
            )


def _settings(structure: Any, sharing: Any, module: nn.Module, *names: str) -> tuple[Any, str]:
    """The settings of one module: by its names, else by the nearest class, else the defaults."""
    keys = (*names, *type(module).__mro__)
    return _chosen(structure, keys, "kronecker"), _chosen(sharing, keys, "expand")


def _chosen(setting: Any, keys: Sequence[Any], default: str) -> Any:
    if not isinstance(setting, Mapping):
        return setting
    return next((setting[key] for key in keys if key in setting), default)
