"""PyTorch's tensors on the host: NumPy multiplies them, in the memory that both see."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from kronops.backends import backend_of, pieces
from kronops.backends.standard import Array, Backend, Operand
from kronops.planning import Machine, Plan

__all__ = ["HostTensors", "is_host_memory"]

_DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.complex64: np.dtype(np.complex64),
    torch.complex128: np.dtype(np.complex128),
}


def is_host_memory(tensor: Array) -> bool:
    """Whether NumPy sees the memory, and knows what is in it."""
    return type(tensor) is torch.Tensor and tensor.is_cpu and tensor.dtype in _DTYPES


class HostTensors:
    """What plans products of tensors on the host, and carries them out.

    Parameters
    ----------
    backend : Backend
        PyTorch's, for the operators among the factors.
    """

    def __init__(self, backend: Backend) -> None:
        self._tensors = backend
        self._arrays = backend_of(np.empty(0))

    def takes(self, x: Array) -> bool:
        """Whether no derivative, no mode and no trace of PyTorch follows the tensor."""
        return (
            is_host_memory(x)
            and not x.requires_grad
            and not functorch.peek_interpreter_stack()
            and forward_ad._current_level < 0
            and not torch._C._len_torch_dispatch_stack()
            and torch._C._get_tracing_state() is None
        )

    def machine(self, dtype: Any, numbers: int) -> Machine:
        """NumPy's."""
        return self._arrays.machine(_DTYPES[dtype], numbers)

    def program(
        self, plan: Plan, operands: Sequence[Operand], given: Any, dtype: Any
    ) -> Callable[[Array], Array]:
        """NumPy's, of views of the tensors."""
        functions = [
            functools.partial(self._apply, operand, sweep.view(step))
            if step.kind == "operator"
            else _views(operand)
            for operand, (sweep, step) in zip(operands, plan.steps, strict=True)
        ]
        multiply = pieces.program(plan, functions, _DTYPES[given], _DTYPES[dtype])

        @np.errstate(all="ignore")  # as PyTorch has it: infinities without a word
        def run(x: Array) -> Array:
            return torch.from_numpy(multiply(_view(x)))

        return run

    def _apply(self, op: Any, view: tuple[int, int, int], x: Array) -> Array:
        return _view(self._tensors.apply_operator(op, torch.from_numpy(x), view))


def _views(operand: Operand) -> Operand:
    return [_view(matrix) for matrix in operand] if isinstance(operand, list) else _view(operand)


def _view(tensor: Array) -> Array:
    """The tensor's memory as NumPy's array; a copy if a conjugation or a sign is put off."""
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.numpy()
