"""Sweeps of small Kronecker factors over the memory of a GPU: arithmetic, which knows no array.

`FusedKernels` is what a plan asks about the kernel in ``kronecker.cu``: consecutive factors whose
tile fits into the shared memory of a block of threads are one sweep. `Kernel` says how the kernel
is instantiated for their shapes, and how it is launched.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kronops.planning import Machine, Shapes

__all__ = ["THREADS", "FusedKernels", "Gpu", "Kernel", "Tile", "machine", "source"]

THREADS = 256  # of a block, as in the source
_NAMES = {4: "float", 8: "double"}
_REGISTERS = 64  # of 4 bytes, for what goes into a stage and what comes out
_FIBERS = 2  # at a time in a thread, where there is room: each entry of a factor is read for both
_NUMBERS = 4096  # of a tile: enough work for all threads of a block
_SECTOR, _LINE = 32, 128  # bytes: what memory gives at least, and what it likes to give
_BANKS = 128  # bytes: after so many, a tile leaves out one number (`slot` in the source)
_BLOCKS = 32  # for each multiprocessor: more only read the factors again
_START = 5e-6  # seconds of a launch by CuPy


class Gpu(NamedTuple):
    """A GPU's numbers, which need not be exact: plans are compared by them."""

    multiprocessors: int
    shared: int  # bytes of shared memory that a block may have
    shared_by_all: int  # bytes that the blocks of a multiprocessor have together
    cache: int  # bytes of the second level
    bandwidth: float  # bytes per second from and to memory
    flops: float  # per second, in single precision; half of them in double

    @property
    def room(self) -> int:
        """Bytes for a block, so that another one can compute while it waits for the memory."""
        return min(self.shared, self.shared_by_all // 2 - 1024)  # of which CUDA takes 1024


class Tile(NamedTuple):
    """The piece ``(lefts, rows, rights)`` of ``(left, rows, right)`` that a block works at."""

    lefts: int
    rights: int
    room: int  # numbers of one buffer
    bytes: int  # of shared memory: factors, and one or two buffers


class Stage(NamedTuple):
    """Factors that a thread applies in its registers, the last one first, to so many fibers."""

    shapes: Shapes
    fibers: int

    @property
    def rows(self) -> int:
        """Those of the factors' product."""
        return math.prod(rows for rows, _ in self.shapes)

    @property
    def columns(self) -> int:
        """Those of the factors' product."""
        return math.prod(columns for _, columns in self.shapes)

    def __str__(self) -> str:
        factors = ", ".join(f"Factor<{rows}, {columns}>" for rows, columns in self.shapes)
        return f"Stage<{self.fibers}, {factors}>"


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One sweep for factors of these shapes, in numbers of ``itemsize`` bytes.

    Examples
    --------
    >>> kernel = Kernel(((8, 8), (2, 2), (2, 2)), 4)
    >>> kernel.expression
    'kronecker<float, Stage<2, Factor<2, 2>, Factor<2, 2>>, Stage<2, Factor<8, 8>>>'
    >>> kernel.tile(1, 1000, 100_000)
    Tile(lefts=1, rights=128, room=4224, bytes=17184)
    """

    shapes: Shapes
    itemsize: int

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What is done between two barriers, from the last factors to the first."""
        made: list[Shapes] = []
        for shape in reversed(self.shapes):
            if made and 2 * self._registers((*made[-1], shape)) <= _REGISTERS:
                made[-1] = (*made[-1], shape)
            else:
                made.append((shape,))
        fibers = (_REGISTERS // self._registers(shapes) for shapes in made)
        return tuple(Stage(s, max(1, min(f, _FIBERS))) for s, f in zip(made, fibers, strict=True))

    @property
    def expression(self) -> str:
        """The instance of the template in the source."""
        return f"kronecker<{', '.join([_NAMES[self.itemsize], *map(str, self.stages)])}>"

    @property
    def supported(self) -> bool:
        """Whether a thread has registers for each factor."""
        sizes = [size for shape in self.shapes for size in shape]
        small = all(self._registers((shape,)) <= _REGISTERS for shape in self.shapes)
        return self.itemsize in _NAMES and bool(sizes) and min(sizes) > 0 and small

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Numbers in one column of a tile, before the first stage and after each."""
        found = [math.prod(columns for _, columns in self.shapes)]
        for stage in self.stages:
            found.append(found[-1] // stage.columns * stage.rows)
        return found

    def tile(self, left: int, right: int, room: int) -> Tile | None:
        """What a block works at with so many bytes; None if not even narrow tiles fit."""
        largest = max(self.sizes)
        buffers = 1 if all(stage.rows == stage.columns for stage in self.stages) else 2
        entries = sum(rows * columns for rows, columns in self.shapes)
        widest = (room // self.itemsize - entries) // buffers * _BANKS // (_BANKS + self.itemsize)
        sector, line = _SECTOR // self.itemsize, _LINE // self.itemsize
        columns = min(widest // largest, max(-(-_NUMBERS // largest), line))
        if columns < min(right, sector):
            return None
        lefts, rights = max(1, min(left, columns // right)), right
        if right > columns:
            rights = columns // sector * sector
        numbers = largest * lefts * rights
        padded = numbers + numbers * self.itemsize // _BANKS
        return Tile(lefts, rights, padded, (entries + buffers * padded) * self.itemsize)

    def blocks(self, tile: Tile, left: int, right: int, gpu: Gpu) -> int:
        """How many work at an array, each at several tiles if there are many."""
        return min(-(-left // tile.lefts) * -(-right // tile.rights), _BLOCKS * gpu.multiprocessors)

    def _registers(self, shapes: Shapes) -> int:
        stage = Stage(shapes, 1)
        return (stage.rows + stage.columns) * self.itemsize // 4


@dataclasses.dataclass(frozen=True)
class FusedKernels:
    """What there is for numbers of ``itemsize`` bytes: the `kronops.planning.Kernels` of a GPU."""

    itemsize: int
    gpu: Gpu
    bandwidth: float  # bytes per second, of the memory or the cache that the vectors are in

    def seconds(self, shapes: Shapes, right: int) -> float | None:
        """For each number that goes in; None where a factor is too large, or a tile does not fit.

        The longest of what the memory takes, rows of a tile touching one sector more than they
        fill; what shared memory takes, to which a stage goes and comes back; and the arithmetic.
        """
        kernel = Kernel(shapes, self.itemsize)
        tile = kernel.tile(1, right, self.gpu.room) if kernel.supported else None
        if tile is None:
            return None
        first, *_, last = kernel.sizes
        row = tile.rights * self.itemsize
        touched = 1.0 if tile.rights == right else (row + _SECTOR) / row
        memory = (first + last) * self.itemsize * touched / self.bandwidth
        shared = 2 * sum(kernel.sizes) * self.itemsize / self._shared_bandwidth
        arithmetic = sum(self._flops(kernel)) / (self.gpu.flops * 4 / self.itemsize)
        return max(memory, shared, arithmetic) / first

    @property
    def _shared_bandwidth(self) -> float:
        return self.gpu.flops / 2  # 128 bytes in each cycle, by as many as 128 additions of single

    @staticmethod
    def _flops(kernel: Kernel) -> Iterator[int]:
        numbers = kernel.sizes[0]
        for rows, columns in reversed(kernel.shapes):
            numbers = numbers // columns * rows
            yield 2 * columns * numbers


def machine(gpu: Gpu, itemsize: int, numbers: int) -> Machine:
    """By what products with so many numbers are planned: with kernels, or batches of GEMM."""
    resident = 2 * numbers * itemsize <= gpu.cache
    bandwidth = gpu.bandwidth * (2 if resident else 1)
    return Machine(
        itemsize=itemsize,
        flops=gpu.flops * 4 / itemsize,
        call=0.0,
        start=_START,
        lanes=1,
        near=bandwidth,
        far=bandwidth,
        cache=0,
        merged=0,
        work=0,
        kernels=FusedKernels(itemsize, gpu, bandwidth),
    )


@functools.cache
def source() -> str:
    """The kernel's source, a template."""
    return Path(__file__).with_name("kronecker.cu").read_text(encoding="utf-8")
