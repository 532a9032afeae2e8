"""kronops operators in PyTorch's modules: `OperatorModule` makes an operator the state of one.

This module needs PyTorch, and kronops does not import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kronops import tree
from kronops.backends import is_array
from kronops.operator import LinearOperator
from kronops.vectors import Vector

__all__ = ["OperatorModule"]


def __dir__() -> list[str]:
    return __all__


class OperatorModule(nn.Module):
    """An operator as a module: its tensors are buffers, or parameters.

    They are in ``state_dict()``, follow ``.to(device)`` and ``.double()``, and are learnt if they
    are parameters.

    Parameters
    ----------
    op : LinearOperator
        Of PyTorch's tensors.
    trainable : bool
        Whether floating tensors are parameters.

    Raises
    ------
    TypeError
        Not an operator, or not of tensors.

    Notes
    -----
    ``module.operator`` is the operator of the state as it is now. While nothing changes it is one
    and the same operator, which keeps its factorisations, unless there are derivatives to follow.
    State that is changed by way of ``tensor.data`` is not noticed.

    Examples
    --------
    >>> import torch, kronops
    >>> from kronops.torch import OperatorModule
    >>> module = OperatorModule(kronops.kron(2 * torch.eye(2), torch.eye(3)))
    >>> list(module.state_dict())
    ['factors/0/matrix', 'factors/1/matrix']
    >>> module(torch.ones(2, 3))
    tensor([[2., 2., 2.],
            [2., 2., 2.]])
    >>> module.double().operator.logdet()
    tensor(4.1589, dtype=torch.float64)
    """

    def __init__(self, op: LinearOperator, trainable: bool = False) -> None:
        if not isinstance(op, LinearOperator):
            raise TypeError(f"op is a {type(op).__name__}: a kronops operator is needed")
        if op.backend.name != "torch":
            raise TypeError(
                f"op has arrays of {op.backend.name}: a module holds tensors "
                f'(op.to_backend("torch"))'
            )
        super().__init__()
        self._kept: tuple[list[Any], LinearOperator] | None = None
        self._form = tree.map_leaves(op, lambda leaf: leaf.detach().to("meta"))
        self._names = []
        for name, leaf in _named(op, ""):
            tensor = op.backend.snapshot(leaf.detach())
            self._names.append(name)
            if trainable and tensor.dtype.is_floating_point | tensor.dtype.is_complex:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    @property
    def operator(self) -> LinearOperator:
        """The operator of the tensors as they are now."""
        tensors = [getattr(self, name) for name in self._names]
        if any(tensor.requires_grad or tensor.is_inference() for tensor in tensors):
            return self._of(tensors)
        state = [part for tensor in tensors for part in (tensor, tensor._version)]
        if self._kept is None or not all(map(_same, self._kept[0], state)):
            self._kept = state, self._of(tensors)
        return self._kept[1]

    def forward(self, v: Vector) -> Vector:
        """``op.multiply(v)``."""
        return self.operator.multiply(v)

    def _of(self, tensors: list[Any]) -> LinearOperator:
        """A snapshot: what is done to the state later does not reach it."""
        given = iter(tensors)
        return tree.map_leaves(self._form, lambda leaf: next(given).clone())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}


def _same(kept: Any, now: Any) -> bool:
    return kept is now or (isinstance(now, int) and kept == now)


def _named(content: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in the order of `kronops.tree.leaves`, by the fields that lead to it."""
    if is_array(content):
        yield path.removeprefix("/"), content
    elif isinstance(content, LinearOperator):
        for field in dataclasses.fields(content):
            yield from _named(getattr(content, field.name), f"{path}/{field.name}")
    elif isinstance(content, (tuple, list)):
        for index, part in enumerate(content):
            yield from _named(part, f"{path}/{index}")
    elif isinstance(content, dict):
        for key, part in content.items():
            yield from _named(part, f"{path}/{key}".replace(".", ","))
