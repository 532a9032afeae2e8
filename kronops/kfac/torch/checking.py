"""Whether what was recorded of a layer is all there is: its parameters' gradients tell."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kronops.kfac.torch.modules import Layer

__all__ = ["check_gradients"]


def check_gradients(
    layer: Layer, batch: tuple[Tensor, Tensor] | None, seen: Mapping[str, Tensor], scale: float
) -> None:
    """Refuse a layer whose parameters have gradients that its recorded calls do not explain.

    Parameters
    ----------
    layer : Layer
    batch : pair of Tensor, optional
        What its estimator takes, of one draw; None if it was not called.
    seen : dict of str to Tensor
        The gradients of that draw by autograd; none for what has no part in the loss.
    scale : float
        By which the output gradients of the batch were multiplied.
    """
    expected = {} if batch is None else _gradient(layer, *batch)
    for part, name in layer.names.items():
        actual = seen.get(name)
        if actual is None and batch is None:
            continue
        told = expected.get(part, torch.zeros(()))
        rows = torch.zeros_like(told) if actual is None else scale * actual[layer.rows]
        distance, norm = torch.linalg.vector_norm(told - rows), torch.linalg.vector_norm(rows)
        allowed = 0.0 if batch is None else _rounding(part, *batch, norm)
        if distance > allowed:
            raise ValueError(
                f"the gradient of {name!r}, of norm {float(norm):.3g}, is not what the calls of "
                f"{layer.name or 'the model'!r} give: it is {float(distance):.3g} away. Is the "
                f"parameter used outside of its module's forward pass, in a penalty of the loss "
                f"for instance, or does a hook change what the module gives? Without that it is "
                f"captured; structure={{{layer.name!r}: None}} leaves it out, and check=False "
                f"takes what the calls give for all there is"
            )


def _gradient(layer: Layer, a: Tensor, g: Tensor) -> dict[str, Tensor]:
    """At least in single precision."""
    precise = [torch.promote_types(x.dtype, torch.float32) for x in (a, g)]
    dtype = torch.promote_types(*precise)
    return layer.gradient(a.to(dtype) if a.is_floating_point() else a, g.to(dtype))


def _rounding(part: str, a: Tensor, g: Tensor, norm: Tensor) -> Tensor:
    """A distance that may be rounding: half the digits of a sum, whose terms may cancel.

    A sum of as many terms of these sizes with random signs is where cancelling begins.
    """
    real = [x for x in (a, g) if x.is_floating_point()]
    eps = max(torch.finfo(x.dtype).eps for x in real)
    terms = torch.linalg.vector_norm(g.double())
    if part == "weight" and a.is_floating_point():
        terms = terms * torch.linalg.vector_norm(a.double()) / len(a) ** 0.5
    return eps**0.5 * torch.maximum(norm, terms.to(norm.dtype))
