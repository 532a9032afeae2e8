"""Whether what was recorded of a layer is all there is: its parameters' gradients tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kronops.kfac.torch.layer import Examples, Layer, along

__all__ = ["check_gradients", "check_independence"]

# Of TF32 and of bfloat16, to which PyTorch may round what it multiplies in single precision.
EPS = {"highest": 2.0**-23, "high": 2.0**-10, "medium": 2.0**-7}


def check_gradients(
    layer: Layer, batch: tuple[Tensor, Tensor] | None, seen: Mapping[str, Tensor], scale: float
) -> None:
    """Refuse a layer whose parameters have gradients that its recorded calls do not explain.

    They are compared along one random direction of the inputs, which costs vectors, not matrices.

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
    found = {part: seen[name][layer.rows] for part, name in layer.names.items() if name in seen}
    if batch is None:
        wrong = [part for part, gradient in found.items() if bool(gradient.any())]
    else:
        wrong = _unexplained(layer, *_precise(*batch), found, scale, _eps(batch))
    if wrong:
        raise ValueError(
            f"the gradient of {layer.names[wrong[0]]!r} is not what the calls of "
            f"{layer.name or 'the model'!r} give. Is the parameter used outside of its module's "
            f"forward pass, in a penalty of the loss for instance, or does a hook change what the "
            f"module gives? Without that it is captured; structure={{{layer.name!r}: None}} leaves "
            f"it out, and check=False takes what the calls give for all there is"
        )


def check_independence(layer: Layer, gradients: Sequence[Tensor], examples: Examples) -> None:
    """Refuse a layer at more of whose places one example has gradients than are its own.

    What is taken for examples are then something else, as many as these (positions in a sequence,
    say), or the examples depend on each other.

    Parameters
    ----------
    layer : Layer
    gradients : sequence of Tensor
        By what its calls gave, of the outputs for one example.
    examples : Examples
    """
    made = layer.output_gradients(gradients, examples)
    touched = int(made.flatten(2).any(dim=2).sum())
    if touched > made.shape[1]:
        raise ValueError(
            f"the outputs for one example have gradients at {touched} places of "
            f"{layer.name or 'the model'!r}, which has {made.shape[1]} for each of "
            f"{examples.count} examples. What all examples share, positions for instance, is to be "
            f"expanded to each; normalisation over the batch makes examples depend on each other, "
            f"and check=False takes what the batch gives as it is"
        )


def _unexplained(
    layer: Layer, a: Tensor, g: Tensor, found: Mapping[str, Tensor], scale: float, eps: float
) -> list[str]:
    """The parts that differ by more than half the digits of a sum whose terms may cancel.

    A sum of as many terms of these sizes with random signs is where cancelling begins.
    """
    v = _direction(math.prod(layer.weight_shape[1:]), g)
    wrong = []
    for part, expected in layer.gradient(a, g, v).items():
        actual = torch.zeros_like(expected)
        if part in found:
            actual = scale * along(found[part].to(g.dtype), v)
        terms = torch.linalg.vector_norm(g)
        if part == "weight" and a.is_floating_point():
            terms = terms * torch.linalg.vector_norm(a) / len(a) ** 0.5
        allowed = eps**0.5 * torch.maximum(torch.linalg.vector_norm(actual), terms)
        if torch.linalg.vector_norm(actual - expected) > allowed:
            wrong.append(part)
    return wrong


def _direction(size: int, like: Tensor) -> Tensor:
    """The same one always, of random signs; PyTorch's random state is as it was."""
    signs = torch.randint(2, (size,), generator=torch.Generator().manual_seed(0))
    return (2 * signs - 1).to(like)


def _precise(a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """In one precision, single at least; indices as they are."""
    dtype = torch.promote_types(g.dtype, torch.float32)
    if not a.is_floating_point():
        return a, g.to(dtype)
    dtype = torch.promote_types(a.dtype, dtype)
    return a.to(dtype), g.to(dtype)


def _eps(batch: tuple[Tensor, Tensor]) -> float:
    """Of the coarser precision, which products in single precision may not have been given."""
    eps: float = max(torch.finfo(x.dtype).eps for x in batch if x.is_floating_point())
    return eps if eps < torch.finfo(torch.float32).eps else max(eps, _eps_of_products())


def _eps_of_products() -> float:
    try:
        return EPS[torch.get_float32_matmul_precision()]
    except RuntimeError:  # set by the newer switches, one for each backend
        return EPS["high"]
