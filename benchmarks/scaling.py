"""Products on one and on two worker processes: strong and weak scaling, and the bytes that travel.

python benchmarks/scaling.py --size 128 --output benchmarks/results/….json
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import tempfile
import time

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, WorkerPlugin, wait
from distributed.shuffle._core import ShuffleRun

import kronops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=192, help="of the factors but the first")
    parser.add_argument("--rows", type=int, default=192, help="of the first, for one worker")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    runs = [
        run(workers, rows, arguments.size, arguments.repeats)
        for workers, rows in ((1, arguments.rows), (2, arguments.rows), (2, 2 * arguments.rows))
    ]
    one, two, twice = (min(run["seconds"]) for run in runs)
    report = {
        "what": "kron(A, B, C) @ x, x in 16 chunks of rows, each worker one process of one thread",
        "machine": {"processor": platform.processor(), "python": platform.python_version()},
        "versions": {"dask": dask.__version__, "numpy": np.__version__},
        "strong scaling": one / two,
        "weak scaling": one * work(runs[2]) / (2 * work(runs[0]) * twice) * 2,
        "runs": runs,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")


def work(run: dict) -> float:
    """Multiplications of a product."""
    return float(np.prod(run["shape"])) * sum(run["shape"])


def run(workers: int, rows: int, size: int, repeats: int) -> dict:
    """Seconds of several products, and what travelled between workers in one of them."""
    shape = (rows, size, size)
    rng = np.random.default_rng(0)
    op = kronops.kron(*(rng.normal(size=(n, n)) / n for n in shape))
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set({"temporary-directory": folder, "array.rechunk.method": "p2p"}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            silence_logs=logging.CRITICAL,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Sent())
        x = da.random.default_rng(0).normal(size=shape, chunks=(rows // 16, size, size)).persist()
        wait(x)
        seconds, moved = [], []
        for _ in range(repeats):
            before = sum(client.run(sent).values())
            start = time.perf_counter()
            wait(op.multiply(x).persist())
            seconds.append(time.perf_counter() - start)
            moved.append(sum(client.run(sent).values()) - before)
    return {
        "workers": workers,
        "shape": shape,
        "seconds": seconds,
        "bytes exchanged": moved,
        "bytes predicted": predicted(shape, workers),
    }


def predicted(shape: tuple[int, ...], workers: int, itemsize: int = 8) -> float:
    """Of a product with a vector in chunks of rows: there and back, but what stays."""
    return 2 * (1 - 1 / workers) * float(np.prod(shape)) * itemsize


class Sent(WorkerPlugin):
    """Counts what a worker sends to others in exchanges, where Dask hands it to the network."""

    name = "sent"

    def setup(self, worker) -> None:
        original = ShuffleRun.send
        worker.sent = 0

        async def counting(run, address, shards):
            if address != run.local_address:
                worker.sent += sum(map(bytes_of, shards))
            return await original(run, address, shards)

        ShuffleRun.send = counting


def sent(dask_worker) -> int:
    return dask_worker.sent


def bytes_of(shard: object) -> int:
    """Of the arrays in a shard, which is nested in tuples and lists."""
    if isinstance(shard, np.ndarray):
        return shard.nbytes
    if isinstance(shard, (tuple, list)):
        return sum(map(bytes_of, shard))
    return 0


if __name__ == "__main__":
    main()
