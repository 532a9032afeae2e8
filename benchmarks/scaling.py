"""Products on one and on two worker processes: strong and weak scaling, and the bytes that travel.

    python benchmarks/scaling.py --json benchmarks/results/….json

`kron(A, B, C) @ x` with x in 16 chunks of rows. Strong scaling keeps the vector, weak scaling its
part on each worker; the speed is multiplications per second, over those of one worker.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, WorkerPlugin, wait
from distributed.shuffle._core import ShuffleRun
from scripts import add_output, save

import kronops
from kronops.bench.measuring import environment


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=192, help="of the factors but the first")
    parser.add_argument("--rows", type=int, default=192, help="of the first, for one worker")
    parser.add_argument("--repeats", type=int, default=3)
    add_output(parser)
    options = parser.parse_args()
    rows = []
    for kind, workers, times in (("strong", 1, 1), ("strong", 2, 1), ("weak", 2, 2)):
        shape = (times * options.rows, options.size, options.size)
        made = run(workers, shape, options.repeats)
        alone = rows[0] if rows else made
        rows.append({"scaling": kind, **made, "speed": speed(made) / speed(alone)})
        print(rows[-1], flush=True)
    versions = environment(("dask", "distributed", "numpy")) | {"threads": 1}
    save({"benchmark": "workers", **versions, "rows": rows}, options.json)


def speed(run: dict) -> float:
    """Multiplications of a product per second."""
    shape = list(map(int, run["shape"].split(" x ")))
    return math.prod(shape) * sum(shape) / min(run["seconds"])


def run(workers: int, shape: tuple[int, ...], repeats: int) -> dict:
    """Seconds of several products, and what travelled between workers in each of them."""
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
        x = (
            da.random.default_rng(0)
            .normal(size=shape, chunks=(shape[0] // 16, *shape[1:]))
            .persist()
        )
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
        "shape": " x ".join(map(str, shape)),
        "seconds": seconds,
        "bytes sent": moved,
        "bytes predicted": predicted(shape, workers),
    }


def predicted(shape: tuple[int, ...], workers: int) -> int:
    """What all workers send, as `kronops.plan` has it of a vector that is split along one axis."""
    made = kronops.plan(list(shape), dtype="float64", devices=workers)
    sent_by_each = {strategy.name: strategy.moved for strategy in made.strategies}
    return workers * sent_by_each.get("split along one axis", 0)


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
