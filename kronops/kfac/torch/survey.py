"""Which modules of a model have an estimator, and why other parameters have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from kronops.kfac.torch.modules import Layer, kind_of

__all__ = ["check_model", "survey"]

Owners = dict[int, list[str]]
WRAPPERS = {
    "DataParallel": "its replicas run copies of the modules: give model.module and one device",
    "DistributedDataParallel": "give model.module on each process, and merge the curvatures",
    "FullyShardedDataParallel": "its parameters are flattened pieces: give the model as it was",
    "OptimizedModule": "compiled code runs no hooks: give the model as it was before torch.compile",
    "ScriptModule": "compiled code runs no hooks: give the model as it was before torch.jit",
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
    owners = _owners(modules)
    layers: list[Layer] = []
    unknown: dict[str, str] = {}
    for name, module in modules.items():
        trained = dict(_trained(name, module))
        if not trained:
            continue
        chosen = _chosen(structure, name, module, "kronecker")
        reason = _refusal(modules, name, trained, owners)
        reason = reason or ("it is left out: structure=None" if chosen is None else None)
        kind = kind_of(module)
        if reason or kind is None:
            unknown |= {owners[id(parameter)][0]: str(reason) for parameter in trained.values()}
        else:
            layers.append(kind(name, module, chosen, _chosen(sharing, name, module, "expand")))
    return layers, unknown


def _refusal(
    modules: Mapping[str, nn.Module], name: str, trained: dict[str, Any], owners: Owners
) -> str | None:
    """Why the parameters of a module have no estimator."""
    module, kind = modules[name], kind_of(modules[name])
    for parameter in trained.values():
        if len(names := owners[id(parameter)]) > 1:
            return f"{' and '.join(names)} are one parameter of several modules"
    if any(parameter.is_complex() for parameter in trained.values()):
        return "complex parameters have no rule"
    if name and isinstance(modules[name.rpartition(".")[0]], nn.MultiheadAttention):
        return "MultiheadAttention uses its parameters without calling a module"
    if kind is None:
        return f"{type(module).__name__} has no rule"
    if "weight" not in module._parameters:
        return f"the weight of {type(module).__name__} is computed from other parameters"
    return kind.refusal(module)


def _trained(name: str, module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """A module's own trainable parameters, by their full names."""
    for part, parameter in module._parameters.items():
        if parameter is not None and parameter.requires_grad:
            yield ".".join(filter(None, (name, part))), parameter


def _owners(modules: Mapping[str, nn.Module]) -> Owners:
    """All names of each trainable parameter; the first is that of ``named_parameters()``."""
    owners: Owners = {}
    for name, module in modules.items():
        for full_name, parameter in _trained(name, module):
            owners.setdefault(id(parameter), []).append(full_name)
    return owners


def _check_settings(setting: Any, modules: Mapping[str, nn.Module], argument: str) -> None:
    """Keys that fit no module are mistakes."""
    for key in setting if isinstance(setting, Mapping) else ():
        if not (key in modules if isinstance(key, str) else isinstance(key, type)):
            raise ValueError(
                f"{argument} has the key {key!r}: names of modules, as in model.named_modules(), "
                f"and classes of modules are needed"
            )


def _chosen(setting: Any, name: str, module: nn.Module, default: str) -> Any:
    """The setting of one module: by its name, else by the nearest class, else the default."""
    if not isinstance(setting, Mapping):
        return setting
    keys = (name, *type(module).__mro__)
    return next((setting[key] for key in keys if key in setting), default)
