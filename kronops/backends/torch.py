"""PyTorch: LAPACK and its GPU kin without exceptions on the device, and autograd's rules."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch._C import _functorch as functorch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from kronops.backends.standard import (
    NO_DERIVATIVE,
    Array,
    Backend,
    Gradients,
    LinearSystem,
    Number,
    Operand,
)
from kronops.backends.torch_host import HostTensors, is_host_memory
from kronops.errors import LinAlgError
from kronops.planning import Machine, Plan

__all__ = ["TorchBackend"]

_FLOATING = {torch.float32, torch.float64, torch.complex64, torch.complex128}
_THIN = 16  # rows of a matrix whose transpose is multiplied faster if it is written out
_MERGED = 128  # the largest factor made of several
_NOTHING = contextlib.nullcontext()
_NO_VALUES = "a tensor on the meta device has a shape and no values: move those of the real one"


class TorchBackend(Backend):
    """`torch.Tensor`, on any device, in autograd and under `torch.func`.

    Examples
    --------
    >>> import torch
    >>> from kronops.backends import backend_of
    >>> backend_of(torch.zeros(2))
    TorchBackend('torch')
    """

    tracks = True

    def __init__(self, name: str, xp: Any) -> None:
        super().__init__(name, _Namespace(xp))
        self._host = HostTensors(self)

    # -- values, traces, derivatives -----------------------------------------------------------

    def values(self, array: Array) -> Array | None:
        """The tensor detached; None in `torch.compile`, on the meta device and under `vmap`."""
        if torch.compiler.is_compiling() or array.device.type == "meta":
            return None
        while functorch.is_functorch_wrapped_tensor(array):
            if functorch.is_batchedtensor(array):
                return None
            array = functorch.get_unwrapped(array)
        with torch._C._DisableFuncTorch():  # which would wrap the result again
            return array.detach()

    def is_tracked(self, array: Array) -> bool:
        """Whether autograd, `torch.func` or the compiler follows the tensor."""
        return bool(
            torch.compiler.is_compiling()
            or array.requires_grad
            or functorch.is_functorch_wrapped_tensor(array)
            or forward_ad.unpack_dual(array).tangent is not None
        )

    def is_compiling(self) -> bool:
        """Whether `torch.compile` traces."""
        return bool(torch.compiler.is_compiling())

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """Outside `torch.func`, inference and forward mode, and what records or fakes tensors."""
        if torch.compiler.is_compiling() or _is_eager():
            yield
            return
        with (
            torch._C._DisableFuncTorch(),
            _no_autocast("cpu"),
            _no_autocast("cuda"),
            torch.inference_mode(False),
            forward_ad._set_fwd_grad_enabled(False),
            _disable_current_modes(),
        ):
            yield

    def linear_solve(self, system: LinearSystem, b: Array) -> Array:
        """The solution, by an autograd function where something is tracked."""
        arrays = system.arrays
        if not any(self.is_tracked(array) for array in (b, *arrays)):
            return system.solve(b)
        if torch.compiler.is_compiling():
            return system.solve(b)
        return _Solve.apply(system, b, *arrays)

    def with_gradients(
        self, function: Number, gradients: Gradients, arrays: Sequence[Array]
    ) -> Array:
        """By an autograd function that can be differentiated once."""
        return _Number.apply(function, gradients, *arrays)

    # -- what an array is ----------------------------------------------------------------------

    def is_plain(self, array: Any, device: Any) -> bool:
        """A strided floating tensor."""
        return (
            type(array) is torch.Tensor
            and array.dtype in _FLOATING
            and array.device == device
            and array.layout is torch.strided
            and not array.is_nested
        )

    def plain(self, array: Array, name: str) -> Array:
        """A strided tensor, all of it here."""
        if hasattr(array, "device_mesh"):
            raise TypeError(
                f"{name} is a DTensor: apply the operator to its shards, by PyTorch's local_map "
                f"(torch.distributed.tensor.experimental), or take {name}.full_tensor()"
            )
        if array.is_nested:
            raise TypeError(f"{name} is a nested tensor: give its parts one by one (unbind)")
        if array.layout != torch.strided:
            raise TypeError(
                f"{name} is a tensor of layout {array.layout}: make it dense first "
                f"(tensor.to_dense())"
            )
        stored = array.is_floating_point() and array.dtype.itemsize == 1
        if stored or array.dtype == torch.complex32:
            raise TypeError(
                f"{name} has dtype {array.dtype}, in which PyTorch stores but hardly computes: "
                f"cast it first, to {'complex64' if array.is_complex() else 'float32'}"
            )
        return array

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """By the method, and not at all if the shape is the same: it is what small tensors cost."""
        return array if array.shape == shape else array.reshape(shape)

    def copy(self, array: Array) -> Array:
        """A clone, through which gradients flow."""
        return array.clone()

    def all_finite(self, values: Array) -> bool:
        """None is NaN or infinite if their sum is finite: a pass in place of four."""
        return math.isfinite(abs(values.sum().item())) or super().all_finite(values)

    def device(self, array: Array) -> Any:
        """The tensor's own."""
        return array.device

    def to_device(self, array: Array, device: Any) -> Array:
        """``tensor.to``; a `TypeError` where there are no values to move."""
        if array.device.type == "meta" and torch.device(device).type != "meta":
            raise TypeError(_NO_VALUES)
        return array.to(device)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host, out of autograd."""
        if array.dtype == torch.bfloat16:
            raise TypeError("NumPy has no bfloat16: cast the operator first (op.astype('float32'))")
        if array.device.type == "meta":
            raise TypeError(_NO_VALUES)
        host: np.ndarray[Any, Any] = array.detach().cpu().resolve_conj().resolve_neg().numpy()
        return host

    def from_numpy(self, array: np.ndarray[Any, Any], device: Any = None) -> Array:
        """A tensor with memory of its own."""
        return torch.tensor(array, device=device)

    # -- factorisations ------------------------------------------------------------------------

    def segment_sum(self, values: Array, segments: Array, count: int) -> Array:
        """``index_add``."""
        return values.new_zeros((count, *values.shape[1:])).index_add(0, segments, values)

    def cholesky(self, matrix: Array) -> Array:
        """``cholesky_ex``; NaN where the failure cannot be seen."""
        factor, info = torch.linalg.cholesky_ex(self.wide(matrix))
        failure = self.values(info)
        if failure is not None:
            if bool(failure != 0) or not self.all_finite(factor.detach()):
                raise LinAlgError("the matrix is not positive definite")
            return factor
        return torch.where(info[..., None, None] == 0, factor, torch.nan)

    def solve_triangular(
        self, matrix: Array, b: Array, *, lower: bool, adjoint: bool = False
    ) -> Array:
        """``torch.linalg.solve_triangular``."""
        matrix, b = self.promote(matrix, b)
        matrix, upper = (matrix.mH, lower) if adjoint else (matrix, not lower)
        return torch.linalg.solve_triangular(matrix, b, upper=upper)

    def cholesky_solve(self, lower: Array, b: Array) -> Array:
        """``torch.cholesky_solve``."""
        lower, b = self.promote(lower, b)
        return torch.cholesky_solve(b, lower)

    def cholesky_inverse(self, lower: Array, scale: Array, own: bool = False) -> Array:
        """``torch.cholesky_inverse``."""
        return torch.cholesky_inverse(lower) * scale[:, None] * scale

    def lu(self, matrix: Array) -> Any:
        """``lu_factor_ex``."""
        factors, pivots, info = torch.linalg.lu_factor_ex(self.wide(matrix))
        failure = self.values(info)
        if failure is not None and bool(failure != 0):
            raise LinAlgError("the matrix is singular")
        return factors, pivots

    def lu_solve(self, factors: Any, b: Array, *, adjoint: bool = False) -> Array:
        """``torch.linalg.lu_solve``."""
        matrix, b = self.promote(factors[0], b)
        solved = torch.linalg.lu_solve(matrix, factors[1], b, adjoint=adjoint)
        if self.values(matrix) is not None:
            return solved
        return torch.where(torch.all(torch.linalg.diagonal(matrix) != 0), solved, torch.nan)

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """Read off the triangle; each row exchange changes the sign."""
        matrix, pivots = factors
        diagonal = torch.linalg.diagonal(matrix)
        steps = torch.arange(1, diagonal.shape[-1] + 1, device=pivots.device)
        parity = 1 - 2 * (torch.sum(pivots != steps, dim=-1) % 2)
        magnitudes = torch.abs(diagonal)
        sign = torch.prod(torch.sgn(diagonal), dim=-1) * parity
        return sign, torch.sum(torch.log(magnitudes), dim=-1)

    def expm(self, matrix: Array) -> Array:
        """``torch.linalg.matrix_exp``, of the matrix and ``I``: ``exp(A) = exp(A ± I) exp(∓1)``.

        Where norms are between 0.01 and 0.05, PyTorch 2.13 takes a polynomial that is too short.
        """
        wide = self.wide(matrix)
        trace = torch.sum(torch.real(torch.linalg.diagonal(wide)))
        sign = torch.where(trace < 0, -torch.ones_like(trace), torch.ones_like(trace))
        identity = torch.eye(wide.shape[0], dtype=wide.dtype, device=wide.device)
        made = torch.linalg.matrix_exp(wide + sign * identity) * torch.exp(-sign)
        return made.to(matrix.dtype)

    def schur(self, matrix: Array) -> tuple[Array, Array]:
        """On the host, also for batches; without derivatives."""
        if matrix.device.type == "meta":
            empty = torch.empty_like(matrix, dtype=matrix.dtype.to_complex())
            return empty, torch.empty_like(empty)
        if not self.is_tracked(matrix):
            return super().schur(matrix)
        triangle, basis = _Schur.apply(self, matrix)
        return triangle, basis

    def adjoint(self, matrix: Array) -> Array:
        """The conjugate transpose of the last two axes."""
        eager = matrix.is_complex() and not torch.compiler.is_compiling()
        if eager and functorch.is_functorch_wrapped_tensor(matrix):
            return torch.complex(matrix.mT.real, -matrix.mT.imag)  # conj has no batching rule
        return torch.adjoint(matrix)

    # -- products with Kronecker factors -------------------------------------------------------

    def engine(self, arrays: Sequence[Array]) -> Any:
        """NumPy for tensors on the host."""
        return self._host if all(map(is_host_memory, arrays)) else self

    def machine(self, dtype: Any, numbers: int) -> Machine:
        """Small factors are multiplied with each other, for a pass over the memory costs more."""
        size = dtype.itemsize
        # By mm and bmm: 256 bytes of columns cost about as much as fewer.
        flops, lanes = 3.2e11 / size, 256 // size
        return Machine(size, flops, 1e-7, 4e-6, lanes, 1e11, 1.6e10, 0, merged=_MERGED, work=0)

    def program(
        self, plan: Plan, operands: Sequence[Operand], given: Any, dtype: Any
    ) -> Callable[[Array], Array]:
        """By PyTorch's own functions: the plan knows the dtypes, which need no promotion."""
        functions = [
            functools.partial(self.apply_operator, operand, view=sweep.view(step))
            if step.kind == "operator"
            else _bound(operand, sweep.view(step), self.is_tracked(operand))
            for operand, (sweep, step) in zip(operands, plan.steps, strict=True)
        ]

        def run(x: Array) -> Array:
            with _no_autocast(x.device.type):
                if given != dtype or not functions:
                    x = x.to(dtype, copy=not functions)
                for function in functions:
                    x = function(x)
            return x

        return run

    # -- random numbers ------------------------------------------------------------------------

    random_sources = "a torch.Generator or a numpy.random.Generator"

    def normal(
        self, source: Any, shape: tuple[int, ...], dtype: Any, device: Any
    ) -> tuple[Array, Any]:
        """From a `torch.Generator` on the operator's device."""
        if not isinstance(source, torch.Generator):
            return super().normal(source, shape, dtype, device)
        if source.device.type != device.type:
            raise TypeError(
                f"key_or_rng is a torch.Generator on {source.device}, the operator on {device}: "
                f"torch.Generator({str(device)!r}) would do"
            )
        return torch.randn(shape, generator=source, dtype=dtype, device=device), source


def _bound(operand: Array, view: tuple[int, int, int], tracked: bool) -> Any:
    """The product with a matrix, or a diagonal, of the middle axis of a tensor."""
    left, size, right = view
    if operand.ndim == 1:
        entries, shape = (operand, (left, size)) if right == 1 else (operand[:, None], view)
        return lambda x: entries * x.reshape(shape)
    if left == right == 1:
        return lambda x: torch.mv(operand, x.reshape(size))
    if right == 1:
        transposed = operand.mT.contiguous() if len(operand) < _THIN else operand.mT
        return lambda x: torch.mm(x.reshape(left, size), transposed)
    if left == 1:
        return lambda x: torch.mm(operand, x.reshape(size, right))
    if tracked:  # matmul knows how to add the gradients up
        return lambda x: torch.matmul(operand, x.reshape(view))
    repeated = operand.expand(left, *operand.shape)
    return lambda x: torch.bmm(repeated, x.reshape(view))


class _Namespace:
    """PyTorch's functions, with products in the precision of their arrays also in autocast."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def matmul(self, left: Array, right: Array) -> Array:
        """The product of matrices, in the dtype of both; the standard knows no half precision."""
        if left.dtype != right.dtype:
            dtype = torch.promote_types(left.dtype, right.dtype)
            left, right = left.to(dtype), right.to(dtype)
        with _no_autocast(left.device.type):
            return torch.matmul(left, right)

    def tensordot(self, left: Array, right: Array, *, axes: Any = 2) -> Array:
        """The product along some axes."""
        with _no_autocast(left.device.type):
            return self._xp.tensordot(left, right, axes=axes)


def _is_eager() -> bool:
    """Whether no mode of PyTorch is on that `TorchBackend.eager` would turn off."""
    return not (
        functorch.peek_interpreter_stack()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
        or torch.is_inference_mode_enabled()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
    )


def _no_autocast(kind: str) -> contextlib.AbstractContextManager[Any]:
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        made: contextlib.AbstractContextManager[Any] = torch.autocast(kind, enabled=False)
        return made
    return _NOTHING


class _Solve(torch.autograd.Function):
    """``x = M⁻¹ b``: ``b̄ = M⁻ᴴ x̄``, and the arrays of ``M`` get the pullback of ``−b̄ xᴴ``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(system: Any, b: Array, *arrays: Array) -> Array:
        return system.with_arrays(arrays).solve(b)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Array) -> None:
        ctx.system = inputs[0]
        ctx.save_for_backward(output, *inputs[1:])
        ctx.save_for_forward(output, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Array) -> Any:
        x, b, *arrays = ctx.saved_tensors
        system = ctx.system.with_arrays(arrays)
        backend = ctx.system.backend
        b_gradient = backend.linear_solve(system.transpose(), gradient.conj()).conj()
        _, pull = torch.func.vjp(lambda *made: system.with_arrays(made).multiply(x), *arrays)
        gradients = pull(-b_gradient)
        real = not b.is_complex() and b_gradient.is_complex()
        return None, b_gradient.real if real else b_gradient, *gradients

    @staticmethod
    def jvp(ctx: Any, _: None, b_change: Array | None, *changes: Array | None) -> Array:
        x, b, *arrays = ctx.saved_tensors
        system = ctx.system.with_arrays(arrays)
        right = torch.zeros_like(b) if b_change is None else b_change
        moved = tuple(
            torch.zeros_like(array) if change is None else change
            for array, change in zip(arrays, changes, strict=True)
        )
        product = lambda *made: system.with_arrays(made).multiply(x)  # noqa: E731
        _, pull = torch.func.vjp(product, *arrays)  # twice: forward mode itself does not nest
        (change,) = torch.func.vjp(pull, torch.zeros_like(x))[1](moved)
        return ctx.system.backend.linear_solve(system, right - change)


class _Number(torch.autograd.Function):
    """A complex number with given holomorphic gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Number, gradients: Gradients, *arrays: Array) -> Array:
        return function(arrays)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Array) -> None:
        ctx.gradients = inputs[1]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, gradient: Array) -> Any:
        arrays = ctx.saved_tensors
        made = [gradient * g.conj() for g in _Gradients.apply(ctx.gradients, *arrays)]
        parts = [g if array.is_complex() else g.real for g, array in zip(made, arrays, strict=True)]
        return None, None, *parts

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *changes: Array | None) -> Any:
        gradients = _Gradients.apply(ctx.gradients, *ctx.saved_tensors)
        pairs = zip(gradients, changes, strict=True)
        return sum(torch.sum(g * change) for g, change in pairs if change is not None)


class _Underivable(torch.autograd.Function):
    """A function without derivatives, which says so when they are asked for."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Array) -> Any:
        raise TypeError(NO_DERIVATIVE)

    @staticmethod
    def jvp(ctx: Any, *changes: Array | None) -> Any:
        raise TypeError(NO_DERIVATIVE)


class _Gradients(_Underivable):
    """The gradients of a `_Number`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradients: Gradients, *arrays: Array) -> Any:
        return tuple(gradients(arrays))


class _Schur(_Underivable):
    """The Schur form on the host, one matrix at a time."""

    @staticmethod
    def forward(backend: TorchBackend, matrix: Array) -> Any:
        return Backend.schur(backend, matrix)

    @staticmethod
    def vmap(info: Any, in_dims: Any, backend: TorchBackend, matrix: Array) -> Any:
        slices = [_Schur.apply(backend, part) for part in matrix.unbind(in_dims[1])]
        stacked = tuple(torch.stack(parts) for parts in zip(*slices, strict=True))
        return stacked, (0, 0)
