"""A product with a vector four times the memory that the process may take, by way of files.

The limit is enforced by the kernel: with `RLIMIT_DATA` memory beyond it is refused, and that is a
`MemoryError`. The vector is a sum of outer products, so that the right answer is known entry by
entry without being held.

    python benchmarks/out_of_core.py --memory 256 --times 4
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np

from kronops import DenseOperator, kron
from kronops.backends import settings

MIB = 2**20
TERMS = 2
REST = (64, 32, 32, 16)  # all axes but the first
# The allocator gives back what is freed, and BLAS takes no memory for threads of its own.
FRUGAL = {"MALLOC_TRIM_THRESHOLD_": "65536", "OPENBLAS_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, default=256, help="MiB that the process may take")
    parser.add_argument("--times", type=float, default=4.0, help="of which the vector has so many")
    arguments = parser.parse_args()
    if not FRUGAL.items() <= os.environ.items():  # they are read when a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | FRUGAL)
    print(json.dumps(measure(arguments.memory * MIB, arguments.times)))


def measure(memory: int, times: float) -> dict[str, float]:
    """The product's error relative to what rounding allows, its time and the memory it took."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    shape = (int(memory * times) // (8 * math.prod(REST)), *REST)
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(scheduler="sync"),
        settings(compiled=False),
    ):
        error = largest_error(shape, folder)
    return {
        "vector MiB": 8 * math.prod(shape) / MIB,
        "allowed MiB": memory / MIB,
        "peak MiB": peak_memory() / MIB,
        "error": error,
        "seconds": time.perf_counter() - start,
    }


def product(factors: list[np.ndarray], x: da.Array, folder: str) -> da.Array:
    """``kron(*factors)`` times ``x``, a matrix in chunks of columns; the product is in rows.

    The factor whose axis is whole in these chunks goes first, the others where theirs are. What is
    between is in files, of which a chunk reads its part: nothing is exchanged in memory.
    """
    first, *rest = factors
    (DenseOperator(first) @ x).map_blocks(write_columns, folder, dtype=float).sum().compute()
    rows = ((1,) * x.shape[0], (x.shape[1],))
    pieces = x.chunks[1]
    return da.map_blocks(read_row, folder, pieces, chunks=rows, dtype=float) @ kron(*rest).T


def write_columns(columns: np.ndarray, folder: str, block_info=None) -> np.ndarray:
    """A file of the columns; nothing of them stays."""
    columns.tofile(f"{folder}/{block_info[0]['chunk-location'][1]}")
    return np.zeros((1, 1))


def read_row(folder: str, pieces: tuple[int, ...], block_info=None) -> np.ndarray:
    """A row of the matrix whose columns are in files."""
    row = block_info[None]["chunk-location"][0]
    parts = [
        np.fromfile(f"{folder}/{i}", float, count=size, offset=8 * size * row)
        for i, size in enumerate(pieces)
    ]
    return np.concatenate(parts)[None]


def largest_error(shape: tuple[int, ...], folder: str) -> float:
    """The largest error of an entry, relative to the bound of a backward stable product."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(n, n)) / n for n in shape]
    sides = [rng.normal(size=(n, TERMS)) for n in shape]
    y = product(factors, outer_sum(sides), folder)
    pairs = [(a @ u, abs(a) @ abs(u)) for a, u in zip(factors, sides, strict=True)]
    want, bound = zip(*pairs, strict=True)
    ones = ((1,) * shape[0], (1,))
    errors = y.map_blocks(chunk_error, want=want, bound=bound, chunks=ones, dtype=float)
    return float(errors.max().compute() / (np.finfo(float).eps * sum(shape)))


def outer_sum(sides: list[np.ndarray]) -> da.Array:
    """``Σ u ⊗ v ⊗ …`` as a matrix in chunks of columns, each made when it is needed."""

    def chunk(block_info=None):
        column = block_info[None]["chunk-location"][1]
        return outer([sides[0], sides[1][column : column + 1], *sides[2:]])

    first, second, *rest = map(len, sides)
    return da.map_blocks(chunk, chunks=((first,), (math.prod(rest),) * second), dtype=float)


def outer(sides: list[np.ndarray]) -> np.ndarray:
    """All entries, as a matrix of the first side by the others."""
    first, *others = sides
    made = others[0]
    for side in others[1:]:
        made = (made[:, None] * side).reshape(-1, TERMS)
    return first @ made.T


def chunk_error(y, want, bound, block_info=None) -> np.ndarray:
    """The largest error of some rows relative to the bound without eps."""
    start, stop = block_info[0]["array-location"][0]
    want, bound = ([first[start:stop], *rest] for first, *rest in (want, bound))
    return (abs(y - outer(want)) / outer(bound)).max(keepdims=True)


def peak_memory() -> int:
    """The most bytes that this process had in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
