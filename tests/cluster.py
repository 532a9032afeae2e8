"""A real cluster of two worker processes, and marks in a folder of what they have computed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
from distributed import Client, LocalCluster, WorkerPlugin

from kronops.factorisation import factorise
from kronops.kfac import Curvature, DenseLayer
from kronops.operators import dense

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": ":0"}


@contextlib.contextmanager
def local_cluster(folder: Path, workers: int = 2, memory: str = "512MiB"):
    """A client of workers with one thread each, which spill into the folder."""
    options = {
        "temporary-directory": str(folder),
        "distributed.comm.timeouts.connect": "5s",
        "distributed.scheduler.allowed-failures": 3,
    }
    with dask.config.set(options), contextlib.ExitStack() as stack:
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=memory,
                silence_logs=logging.CRITICAL,
                **LOOPBACK,
            )
        )
        yield stack.enter_context(Client(cluster, timeout=30))


@contextlib.contextmanager
def scheduler_and_worker(folder: Path):
    """A client, and the process of its scheduler."""
    file = folder / "scheduler.json"
    quiet = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    worker = ["--nthreads", "1", "--no-nanny", "--death-timeout", "5"]
    commands = (["dask_scheduler", "--port", "0"], ["dask_worker", *worker])
    with contextlib.ExitStack() as stack:
        processes = []
        for module, *options in commands:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *quiet, *options]
            started = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=folder)
            stack.callback(started.wait)
            stack.callback(started.kill)
            processes.append(started)
        client = stack.enter_context(Client(scheduler_file=str(file), timeout=5))
        client.wait_for_workers(1, timeout=30)
        yield client, processes[0]


def slowly(chunk):
    time.sleep(0.5)
    return chunk


def estimated(shard: int) -> Curvature:
    """The moments of one shard of the data."""
    rng = np.random.default_rng(shard)
    curvature = Curvature({"dense": DenseLayer()})
    curvature.update({"dense": (rng.normal(size=(10, 4)), rng.normal(size=(10, 3)))})
    return curvature


def mark(folder: Path, name: object) -> None:
    """Note that this process does ``name`` now."""
    (Path(folder) / f"{name}.{os.getpid()}.{uuid.uuid4().hex}").touch()


def marks(folder: Path) -> list[tuple[str, int]]:
    """What was done and by which process."""
    return [(name, int(pid)) for name, pid, _ in (p.name.rsplit(".", 2) for p in folder.iterdir())]


def times(folder: Path) -> Counter[str]:
    """How often each thing was done."""
    return Counter(name for name, _ in marks(folder))


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Until it is true, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came of it in time"
        time.sleep(0.01)


def kill(pid: int) -> None:
    """As the kernel does when memory runs out."""
    os.kill(pid, signal.SIGKILL)


class MarkFactorisations(WorkerPlugin):
    """Each worker, also one that is started again, marks the sizes that it factorises.

    It takes ``seconds`` for each of ``n³`` operations.
    """

    name = "factorisations"

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder, self.seconds = folder, seconds

    def setup(self, worker) -> None:
        def marking(matrix, *arguments):
            mark(self.folder, matrix.shape[0])
            time.sleep(self.seconds * matrix.shape[0] ** 3)
            return factorise(matrix, *arguments)

        dense.factorise = marking

    def teardown(self, worker) -> None:
        dense.factorise = factorise
