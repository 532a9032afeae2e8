"""Products with a vector four times the memory that a worker may have, by `op.multiply` itself.

    python benchmarks/out_of_core.py --json benchmarks/results/….json

A worker of Dask's that takes more than it may is ended by its nanny; the most that each one had is
the kernel's count (`VmHWM`, on Linux). The vector is a sum of outer products, so that the right
answer is known entry by entry, and neither is ever held by one process.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from scripts import add_output, save

import kronops
from kronops.bench.measuring import environment

MIB = 2**20
TERMS = 2
REST = (128, 64, 64)  # all axes but the first: rows of 4 MiB
CHUNKS = 32  # fit into the memory of a worker
PRODUCTS = ("multiply", "multiply_inverse")
# What docs/cluster.md tells users: exchanges by files, with little of them in memory at a time.
FRUGAL = {
    "array.rechunk.method": "p2p",
    "distributed.p2p.comm.concurrency": 1,
    "distributed.p2p.comm.buffer": "16 MiB",
    "distributed.p2p.storage.buffer": "16 MiB",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=int, default=512, help="MiB that a worker may have")
    parser.add_argument("--times", type=int, default=4, help="of all of which the vector has")
    add_output(parser)
    options = parser.parse_args()
    versions = environment(("dask", "distributed", "numpy")) | {"threads": 1}
    report = {"benchmark": "out of core", **versions, "rows": []}
    for workers in (1, 2):
        for product in PRODUCTS:
            row = measure(product, workers, options.memory, options.times)
            report["rows"].append(row)
            print(row, flush=True)
            save(report, options.json)


def measure(product: str, workers: int, memory: int, times: int) -> dict[str, object]:
    """A product's error relative to what rounding allows, its time, and what a worker had."""
    row = 8 * math.prod(REST)
    shape = (times * workers * memory * MIB // row, *REST)
    rows = max(memory * MIB // CHUNKS // row, 1)
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(FRUGAL | {"temporary-directory": folder}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory * MIB,
            silence_logs=logging.CRITICAL,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        before = dict(client.run(peak_memory).values())
        error = largest_error(product, shape, rows)
        after = dict(client.run(peak_memory).values())
    if before.keys() != after.keys():
        raise MemoryError(f"a worker took more than {memory} MiB and was ended")
    return {
        "product": product,
        "workers": workers,
        "vector MiB": 8 * math.prod(shape) // MIB,
        "chunk MiB": rows * row // MIB,
        "allowed MiB": memory,
        "peak MiB": math.ceil(max(after.values()) / MIB),
        "MiB before": math.ceil(max(before.values()) / MIB),
        "error": error,
        "seconds": time.perf_counter() - start,
    }


def largest_error(product: str, shape: tuple[int, ...], rows: int) -> float:
    """The largest error of an entry, relative to the bound of backward stable products."""
    rng = np.random.default_rng(0)
    factors = [np.eye(n) + rng.normal(size=(n, n)) / (4 * n**0.5) for n in shape]
    sides = [rng.normal(size=(n, TERMS)) for n in shape]
    if product == "multiply":
        want = [a @ u for a, u in zip(factors, sides, strict=True)]
        bound = [abs(a) @ abs(u) for a, u in zip(factors, sides, strict=True)]
    else:
        want = [np.linalg.solve(a, u) for a, u in zip(factors, sides, strict=True)]
        bound = [
            abs(np.linalg.inv(a)) @ abs(a) @ abs(x) for a, x in zip(factors, want, strict=True)
        ]
    x = da.map_blocks(
        outer_sum, sides, chunks=da.core.normalize_chunks((rows, *REST), shape), dtype=float
    )
    y = getattr(kronops.kron(*factors), product)(x)
    ones = tuple((1,) * blocks for blocks in y.numblocks)
    errors = y.map_blocks(chunk_error, want, bound, chunks=ones, dtype=float)
    return float(errors.max().compute() / (np.finfo(float).eps * sum(shape)))


def outer_sum(sides: list[np.ndarray], block_info=None) -> np.ndarray:
    """The chunk ``Σ u ⊗ v ⊗ …`` of a place in an array."""
    place = block_info[None]["array-location"]
    return outer([side[slice(*ends)] for side, ends in zip(sides, place, strict=True)])


def chunk_error(y: np.ndarray, want: list, bound: list, block_info=None) -> np.ndarray:
    """The largest error of a chunk relative to the bound without eps; at most two chunks more."""
    place = block_info[0]["array-location"]
    want, bound = (
        outer([side[slice(*ends)] for side, ends in zip(sides, place, strict=True)])
        for sides in (want, bound)
    )
    want -= y
    np.abs(want, out=want)
    want /= bound
    return want.max(keepdims=True)


def outer(sides: list[np.ndarray]) -> np.ndarray:
    """All entries of a sum of outer products."""
    first, *rest = sides
    last = functools.reduce(lambda u, v: (u[:, None] * v).reshape(-1, TERMS), rest)
    return (first @ last.T).reshape([len(side) for side in sides])


def peak_memory() -> tuple[int, int]:
    """This process, and the most bytes that it had in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return os.getpid(), peak


if __name__ == "__main__":
    main()
