"""A product with a vector four times the memory that the process may take, spilled to disk.

The process is a worker of Dask under a nanny, which ends it when it takes more than 95 % of its
limit; a worker that was ended is an error here. The most that it ever had in memory is the kernel's
own count. The vector is a sum of outer products, so that the right answer is known entry by entry
without being held.

    python benchmarks/out_of_core.py --memory 256 --times 4
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import kronops

MIB = 2**20
TERMS = 2
REST = (16, 32, 32, 32)  # all axes but the first, which is cut into chunks
# The allocator gives back what is freed, and BLAS takes no memory for threads of its own.
FRUGAL = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "OPENBLAS_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, default=256, help="MiB that the process may take")
    parser.add_argument("--times", type=float, default=4.0, help="of which the vector has so many")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.memory * MIB, arguments.times)))


def measure(memory: int, times: float) -> dict[str, float]:
    """The product's error relative to what rounding allows, its time and the memory it took."""
    shape = (int(memory * times) // (8 * math.prod(REST)), *REST)
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(settings(folder)),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit=memory,
            silence_logs=logging.CRITICAL,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        start = time.perf_counter()
        error = largest_error(shape)
        seconds = time.perf_counter() - start
        (peak,) = client.run(peak_memory).values()
    return {
        "vector MiB": 8 * math.prod(shape) / MIB,
        "allowed MiB": memory / MIB,
        "peak MiB": peak / MIB,
        "error": error,
        "seconds": seconds,
    }


def peak_memory() -> int:
    """The most bytes that this process had in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def settings(folder: str) -> dict[str, object]:
    return {
        "temporary-directory": folder,
        "distributed.p2p.storage.buffer": 4 * MIB,
        "distributed.p2p.comm.buffer": 4 * MIB,
        "distributed.scheduler.allowed-failures": 0,  # a worker that was ended is not replaced
        "distributed.nanny.pre-spawn-environ": FRUGAL,
    }


def largest_error(shape: tuple[int, ...]) -> float:
    """The largest error of an entry, relative to the bound of a backward stable product."""
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(n, n)) / n for n in shape]
    sides = [rng.normal(size=(n, TERMS)) for n in shape]
    y = kronops.kron(*factors).multiply(outer_sum(sides))
    pairs = [(a @ u, abs(a) @ abs(u)) for a, u in zip(factors, sides, strict=True)]
    want, bound = zip(*pairs, strict=True)
    errors = y.map_blocks(
        chunk_error,
        in_rows(want[0]),
        in_rows(bound[0]),
        want[1:],
        bound[1:],
        chunks=((1,) * shape[0], *((1,),) * len(REST)),
        dtype=float,
    )
    return float(errors.max().compute() / (np.finfo(float).eps * sum(shape)))


def in_rows(side: np.ndarray) -> da.Array:
    """A chunk for each row, with the axes of the vector."""
    placed = side.reshape(len(side), *(1 for _ in REST[1:]), TERMS)
    return da.from_array(placed, chunks=(1, *placed.shape[1:]))


def outer_sum(sides: list[np.ndarray]) -> da.Array:
    """``Σ u ⊗ v ⊗ …`` in chunks of one row, each made when it is needed."""
    chunks = ((1,) * len(sides[0]), *((n,) for n in REST))
    return in_rows(sides[0]).map_blocks(outer, sides[1:], chunks=chunks, dtype=float)


def outer(row: np.ndarray, sides: list[np.ndarray]) -> np.ndarray:
    """The entries of one row."""
    made = row.reshape(1, TERMS)
    for side in sides[:-1]:
        made = (made[:, None] * side).reshape(-1, TERMS)
    return (made @ sides[-1].T).reshape(1, *REST)


def chunk_error(y, want_row, bound_row, want, bound) -> np.ndarray:
    """The largest error relative to the bound without eps."""
    error = abs(y - outer(want_row, want)) / outer(bound_row, bound)
    return error.max(keepdims=True)


if __name__ == "__main__":
    main()
