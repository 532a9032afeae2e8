"""How `fit` runs a model: in evaluation mode, for outputs that a likelihood understands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["check_outputs", "run_pair", "undisturbed"]


def run_pair(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Of a pair of inputs and targets."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(
            f"a batch of the loader is a {type(batch).__name__}: a pair (inputs, targets) is "
            f"needed, or forward=, from the model and a batch to (outputs, targets)"
        )
    return model(batch[0]), batch[1]


def check_outputs(outputs: Any, targets: Any, likelihood: str, fisher: str) -> None:
    """Refuse what the likelihood would misread."""
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"the model's output is a {type(outputs).__name__}: a tensor is needed, and forward= "
            f"can pick it: from the model and a batch to (outputs, targets)"
        )
    if not outputs.requires_grad:
        raise ValueError(
            "the outputs depend on no trainable parameter: is the model run elsewhere?"
        )
    if not isinstance(targets, Tensor):
        if fisher == "empirical" and targets is not None:
            raise TypeError(f"targets is a {type(targets).__name__}: a tensor is needed")
        return
    shape, labels = tuple(outputs.shape), tuple(targets.shape)
    integers = not (targets.is_floating_point() or targets.is_complex())
    if likelihood == "categorical" and integers and labels and labels != shape[:-1]:
        second = (
            "; classes are the second axis here: forward=lambda model, batch: "
            "(model(batch[0]).movedim(1, -1), batch[1]) brings them to the end"
        )
        raise ValueError(
            f"outputs has shape {shape}, targets {labels}: outputs (B, …, C) and targets (B, …) "
            f"are needed, classes last" + (second if labels == (*shape[:1], *shape[2:]) else "")
        )


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and gradients; at the end modes and random numbers are what they were."""
    modes = {module: module.training for module in model.modules()}
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.enable_grad(), torch.random.fork_rng(sorted(devices)):
        try:
            model.eval()
            yield
        finally:
            for module, training in modes.items():
                module.training = training
