"""Compiled kernels that apply several small Kronecker factors in one sweep over an array.

Factors `A1, ..., Am` of at most 16 rows and columns multiply `(left, p1 * ... * pm, right)` to
`(left, q1 * ... * qm, right)`. Nothing is compiled unless asked for:

    kernel = kernel_for(((4, 4), (8, 8)), np.float64, right)
    run = kernel.compile()  # from memory, from disk, or, with a word in the log, in about a second
    entries = kernel.pack(factors)
    run(entries, x, out)  # as often as there are pieces of the array

Only this module and `kronops.backends.tiles` need Numba. It keeps compiled code on disk: next to
`tiles.py`, or in the user's cache directory, or where ``NUMBA_CACHE_DIR`` says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from math import gcd, prod
from typing import Any, Literal

import numpy as np
from numba import from_dtype, njit, types
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from kronops.backends.tiles import (
    Array,
    Loop,
    Shape,
    column_loop,
    power_of_two,
    product_sizes,
    registers,
    row_loop,
    width,
)

__all__ = ["Kernel", "KernelsOf", "kernel_for", "supports"]

LARGEST_SIZE = 16  # of a factor: beyond, a matrix product does as well
LARGEST_PRODUCT = 64  # of several: beyond, a tile is far from fitting into the registers
_FULL_RATE = 32  # bytes: operations on shorter registers take as long
_LOG = logging.getLogger("kronops")
_PAGE, _WAYS = 4096, 8  # the first cache keeps so many lines a multiple of 4096 bytes apart


@dataclass(frozen=True)
class Kernel:
    """One sweep for factors of given shapes; made by `kernel_for`."""

    shapes: tuple[Shape, ...]
    dtype: np.dtype[Any]
    lanes: int  # elements of a register
    merged: int  # how many of the last factors are multiplied out, if registers hold their outputs

    @property
    def state(self) -> Literal["in memory", "on disk", "absent"]:
        """Where the compiled code is."""
        dispatcher, signature = _dispatcher(self)
        if dispatcher.signatures:
            return "in memory"
        if dispatcher.stats.cache_path is None:
            return "absent"
        stored = FunctionCache(dispatcher.py_func)
        loaded = stored.load_overload(signature, dispatcher.targetctx)
        return "absent" if loaded is None else "on disk"

    def compile(self) -> Loop:
        """The function of packed factors, `x` and `out`: from memory, from disk, or compiled.

        `x` and `out` are `(left, rows, right)`, with any strides but a contiguous last axis. They
        have no memory in common; or they are one array, which the caches like better: a tile is
        read before it is written. The function lets other Python threads run.
        """
        dispatcher, signature = _dispatcher(self)
        with global_compiler_lock:
            if not dispatcher.signatures:
                if self.state == "absent":
                    _LOG.warning("%s", self._notice)
                dispatcher.compile(signature)
                dispatcher.disable_compile()
        loop: Loop = dispatcher
        return loop

    @property
    def _notice(self) -> str:
        factors = ", ".join(f"{rows} x {columns}" for rows, columns in self.shapes)
        return (
            f"compiling the kernel for factors of {factors} in {self.dtype}: about a second, once; "
            f"Numba keeps it on disk (kronops.backends.settings(compiled=False) does without)"
        )

    def pack(self, factors: Sequence[Array]) -> Array:
        """The entries of the factors as the compiled function reads them."""
        if tuple(factor.shape for factor in factors) != self.shapes:
            raise ValueError(f"this kernel takes factors of shapes {self.shapes}")
        parts = list(factors[: len(factors) - self.merged])
        if self.merged:
            last = reduce(np.kron, factors[-self.merged :]).T
            parts.append(np.zeros((len(last), width(self.pieces)), self.dtype))
            parts[-1][:, : last.shape[1]] = last
        return np.concatenate([part.ravel() for part in parts]).astype(self.dtype, copy=False)

    @property
    def tile(self) -> list[Shape]:
        """Shapes of the factors as the code for a tile takes them: the last ones multiplied out."""
        if not self.merged:
            return list(self.shapes)
        outputs, inputs, _ = product_sizes(self.shapes[-self.merged :])
        return [*self.shapes[: -self.merged], (outputs, inputs)]

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Starts and lanes of the registers that hold neighbouring elements of a tile."""
        return registers(self.tile[-1][0], self.lanes) if self.merged else [(0, self.lanes)]


def supports(shapes: Sequence[Shape], dtype: Any) -> bool:
    """Whether there are kernels for factors of such shapes."""
    small = all(1 <= size <= LARGEST_SIZE for shape in shapes for size in shape)
    few = 0 < len(shapes) <= LARGEST_PRODUCT and prod(map(max, shapes)) <= LARGEST_PRODUCT
    return small and few and np.dtype(dtype) in (np.float32, np.float64)


def kernel_for(shapes: Sequence[Shape], dtype: Any, right: int, *, adjacent: bool = True) -> Kernel:
    """The kernel for arrays with so many columns.

    It is the same one for all numbers of columns that fill a register. `adjacent` matters for one
    column: whether in `out` each row is next to the one before.
    """
    if not supports(shapes, dtype) or right < 1:
        raise ValueError(f"there is no kernel for {shapes}, {dtype} and {right} columns")
    dtype = np.dtype(dtype)
    lanes = vector_bytes() // dtype.itemsize
    if right > 1 or not adjacent:
        return Kernel(tuple(shapes), dtype, min(lanes, power_of_two(right)), merged=0)
    merged = 1
    fast = min(lanes, _FULL_RATE // dtype.itemsize)
    while merged < len(shapes) and product_sizes(shapes[-merged - 1 :])[0] <= fast:
        merged += 1
    return Kernel(tuple(shapes), dtype, lanes, merged)


@dataclass(frozen=True)
class KernelsOf:
    """What there is for one dtype: the `kronops.planning.Kernels` of a machine."""

    dtype: np.dtype[Any]

    def seconds(self, shapes: tuple[Shape, ...], right: int) -> float | None:
        """For each number that goes in; None where there is no such kernel."""
        if not supports(shapes, self.dtype):
            return None
        return 1e-9 * _nanoseconds(shapes, self.dtype, right)


def _nanoseconds(shapes: Sequence[Shape], dtype: Any, right: int) -> float:
    """The time for each element of `x`, roughly, on one core of a Zen 4 processor at 3.5 GHz.

    That is the time for arithmetic, or for the cache if there is little of it. It grows if a tile
    does not fit into the registers, or if its rows displace each other in the cache, because the
    distance between them is a multiple of a large power of two. So a planner splits a product into
    the sweeps that cost least together.
    """
    kernel = kernel_for(shapes, dtype, right)
    size, factors = kernel.dtype.itemsize, kernel.tile
    outputs, inputs, _ = product_sizes(factors)
    vectors, operations = inputs, 0
    if kernel.merged:
        _, last_inputs = factors.pop()
        vectors, operations = inputs // last_inputs, inputs
    needed = len(kernel.pieces) * vectors
    for q, p in reversed(factors):
        vectors = vectors // p * q
        operations += vectors * p
        needed = max(needed, len(kernel.pieces) * vectors)
    time = 0.1425 * sum(max(1.0, n * size / _FULL_RATE) for _, n in kernel.pieces) * operations
    if len(factors) > 1:
        fits = vector_bytes() // 2  # registers of such a processor
        time *= 2 if needed > fits else 1.25 if needed > fits // 2 else 1
        time *= max(1.0, (2 + inputs * gcd(right * size, _PAGE) / _PAGE / _WAYS) / 3)
    blocks = 1 if kernel.merged else -(-right // kernel.lanes)
    return max(time * blocks / (inputs * right), 0.01 * size * (1 + outputs / inputs))


@cache
def vector_bytes() -> int:
    """Size of a register of the processor that Numba compiles for."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = features.split(",")
    return 64 if "+avx512f" in enabled else 32 if "+avx" in enabled else 16


@cache
def _dispatcher(kernel: Kernel) -> tuple[Any, Any]:
    """The loop for Numba to compile, and the types of its arguments."""
    loop = (row_loop if kernel.merged else column_loop)(kernel.tile, kernel.lanes)
    # The name puts each kernel into a file of its own. In a shared one, processes that compile
    # different kernels at once could exchange them.
    factors = "_".join(f"{outputs}x{inputs}" for outputs, inputs in kernel.tile)
    loop.__qualname__ += f".{kernel.dtype}.{kernel.lanes}.{factors}"
    element = from_dtype(kernel.dtype)
    entries, x = (types.Array(element, *kind, readonly=True) for kind in ((1, "C"), (3, "A")))
    signature = types.void(entries, x, types.Array(element, 3, "A"))
    try:
        return njit(nogil=True, cache=True)(loop), signature
    except RuntimeError:  # there is no directory for the cache
        return njit(nogil=True)(loop), signature
