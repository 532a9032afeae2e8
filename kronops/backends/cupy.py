"""CuPy: cuSOLVER and cuBLAS, with their failures seen, and CuPy's current device.

Small Kronecker factors are applied by the kernel of `kronops.backends.cuda` where it is asked for.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import cupy
import cupyx
import cupyx.scipy.linalg
import cupyx.scipy.sparse.linalg
import numpy as np

from kronops.backends import cuda
from kronops.backends.settings import current_settings
from kronops.backends.standard import Array, Backend, Operand
from kronops.errors import LinAlgError
from kronops.planning import Machine, Plan, Step

__all__ = ["CupyBackend"]

_LOG = logging.getLogger("kronops")
_LEAST = 1e11  # bytes and flops per second of a GPU whose driver tells no clock rates
_SINGLE_AND_DOUBLE = (np.dtype(np.float32), np.dtype(np.float64))


class CupyBackend(Backend):
    """`cupy.ndarray`, on CuPy's current device.

    Examples
    --------
    >>> import cupy  # doctest: +SKIP
    >>> from kronops.backends import backend_of
    >>> backend_of(cupy.zeros(2))  # doctest: +SKIP
    CupyBackend('cupy')
    """

    # -- what an array is ----------------------------------------------------------------------

    def plain(self, array: Array, name: str) -> Array:
        """The array, if it is on the current device: elsewhere, CuPy would move the results."""
        current = cupy.cuda.runtime.getDevice()
        if array.device.id != current:
            raise TypeError(
                f"{name} is on device {array.device.id}, and CuPy computes on its current device, "
                f"{current}: do so within `with cupy.cuda.Device({array.device.id}):`"
            )
        return array

    def snapshot(self, array: Array) -> Array:
        """A copy on the array's own device."""
        with array.device:
            return array.copy()

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        host: np.ndarray[Any, Any] = cupy.asnumpy(array)
        return host

    # -- factorisations ------------------------------------------------------------------------

    def cholesky(self, matrix: Array) -> Array:
        """cuSOLVER's ``potrf``, in the layout that cuBLAS solves in."""
        with cupyx.errstate(linalg="raise"):  # else a failure is not looked at
            return cupy.asfortranarray(super().cholesky(matrix))

    def solve_triangular(
        self, matrix: Array, b: Array, *, lower: bool, adjoint: bool = False
    ) -> Array:
        """cuBLAS's ``trsm``."""
        matrix, b = self.promote(matrix, b)
        if not b.size:
            return b
        trans = "C" if adjoint else "N"
        return cupyx.scipy.linalg.solve_triangular(matrix, b, trans=trans, lower=lower)

    def lu(self, matrix: Array) -> Any:
        """cuSOLVER's ``getrf``."""
        if not matrix.size:
            return self.wide(matrix), cupy.empty(0, dtype=np.int32)
        try:
            factors, pivots = cupyx.scipy.linalg.lu_factor(self.wide(matrix), check_finite=False)
        except RuntimeWarning as warning:  # of a singular matrix, where warnings are made errors
            raise LinAlgError("the matrix is singular") from warning
        diagonal = cupy.diagonal(factors)
        if not bool(cupy.all(cupy.isfinite(diagonal) & (diagonal != 0))):
            raise LinAlgError("the matrix is singular")
        return factors, pivots

    def lu_solve(self, factors: Any, b: Array, *, adjoint: bool = False) -> Array:
        """cuSOLVER's ``getrs``."""
        matrix, b = self.promote(factors[0], b)
        if not b.size:
            return b
        trans = 2 if adjoint else 0
        return cupyx.scipy.linalg.lu_solve((matrix, factors[1]), b, trans=trans, check_finite=False)

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """Read off the triangle; each row exchange changes the sign."""
        matrix, pivots = factors
        diagonal = cupy.diagonal(matrix)
        exchanges = cupy.count_nonzero(pivots != cupy.arange(diagonal.size))
        magnitudes = cupy.abs(diagonal)
        sign = cupy.prod(diagonal / magnitudes) * (1 - 2 * (exchanges % 2))
        return sign.astype(matrix.dtype), cupy.sum(cupy.log(magnitudes))

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """cuSOLVER's ``syevd``; `LinAlgError` if it does not converge."""
        try:
            with cupyx.errstate(linalg="raise"):
                return super().eigh(matrix)
        except np.linalg.LinAlgError as error:
            raise LinAlgError("the eigenvalues did not converge") from error

    # -- products with Kronecker factors -------------------------------------------------------

    def machine(self, dtype: Any, numbers: int) -> Machine:
        """With ``settings(compiled=True)``, the GPU's own and the fused kernel; not by default."""
        dtype = np.dtype(dtype)
        if not current_settings().compiled or dtype not in _SINGLE_AND_DOUBLE:
            return super().machine(dtype, numbers)
        return cuda.machine(_gpu(cupy.cuda.runtime.getDevice()), dtype.itemsize, numbers)

    def program(
        self, plan: Plan, operands: Sequence[Operand], given: Any, dtype: Any
    ) -> Callable[[Array], Array]:
        """With the factors of compiled steps packed, and their kernels compiled."""
        bound = [
            _FusedProduct(step, sweep.view(step), operand) if step.kind == "compiled" else operand
            for operand, (sweep, step) in zip(operands, plan.steps, strict=True)
        ]
        return super().program(plan, bound, given, dtype)

    def _apply_step(
        self, kind: str, operand: Operand, x: Array, view: tuple[int, int, int]
    ) -> Array:
        return operand(x) if kind == "compiled" else super()._apply_step(kind, operand, x, view)

    # -- the solver library that goes with the arrays ------------------------------------------

    def contiguous(self, array: Array) -> Array:
        """The array without gaps: cupyx's solvers hand vectors to cuBLAS as if they had none."""
        return cupy.ascontiguousarray(array)

    def solver_library(self) -> Any:
        """`cupyx.scipy.sparse.linalg`."""
        return cupyx.scipy.sparse.linalg


class _FusedProduct:
    """The product of an array, of any shape, with the factors of a step, on the current stream."""

    def __init__(self, step: Step, view: tuple[int, int, int], matrices: Sequence[Array]) -> None:
        left, _, right = view
        gpu = _gpu(cupy.cuda.runtime.getDevice())
        self.dtype = matrices[0].dtype
        self.kernel = cuda.Kernel(step.shapes, self.dtype.itemsize)
        tile = self.kernel.tile(left, right, gpu.room)
        assert tile is not None  # else the step is not compiled
        self.shape = left, step.rows, right
        self.sizes = left, right, tile.lefts, tile.rights, tile.room
        self.blocks, self.bytes = self.kernel.blocks(tile, left, right, gpu), tile.bytes
        self.entries = cupy.concatenate([matrix.T.ravel() for matrix in reversed(matrices)])
        try:
            self.function = _module(self.kernel.expression).get_function(self.kernel.expression)
            self.function.max_dynamic_shared_size_bytes = gpu.room
        except Exception as error:  # of the compiler, the driver, or a library that is missing
            raise self._failure("compiled") from error

    def __call__(self, x: Array) -> Array:
        x = cupy.ascontiguousarray(x)
        out = cupy.empty(self.shape, dtype=self.dtype)
        arguments = (self.entries, x, out, *self.sizes)
        try:
            self.function((self.blocks,), (cuda.THREADS,), arguments, shared_mem=self.bytes)
        except Exception as error:
            raise self._failure("launched") from error
        return out

    def _failure(self, what: str) -> RuntimeError:
        factors = ", ".join(f"{rows} x {columns}" for rows, columns in self.kernel.shapes)
        return RuntimeError(
            f"the CUDA kernel for factors of {factors} in {self.dtype}, asked for by "
            f"kronops.backends.settings(compiled=True), could not be {what} (the error above says "
            f"why); settings(compiled=False) does without it"
        )


@functools.cache
def _module(expression: str) -> Any:
    """The compiled source with one instance of its template; CuPy keeps it on disk, too."""
    _LOG.info("compiling %s, unless CuPy has it on disk", expression)
    return cupy.RawModule(
        code=cuda.source(), options=("--std=c++17",), name_expressions=(expression,)
    )


@functools.cache
def _gpu(device: int) -> cuda.Gpu:
    """What the driver says of a device. It does not say how many units a multiprocessor has."""
    about = cupy.cuda.Device(device).attributes
    transfers = 2e3 * about["MemoryClockRate"]  # in a second: two in each cycle
    cycles = 1e3 * about["ClockRate"]
    return cuda.Gpu(
        multiprocessors=about["MultiProcessorCount"],
        shared=about["MaxSharedMemoryPerBlockOptin"],
        shared_by_all=about["MaxSharedMemoryPerMultiprocessor"],
        cache=about["L2CacheSize"],
        bandwidth=max(transfers * about["GlobalMemoryBusWidth"] / 8, _LEAST),
        flops=max(2 * 128 * cycles * about["MultiProcessorCount"], _LEAST),
    )
