"""Time in turns, the machine's limits, what is installed: what every measurement shares."""

from __future__ import annotations

import contextlib
import datetime
import gc
import itertools
import math
import os
import platform
import re
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import kronops
from kronops.bench.peers import version

__all__ = [
    "DISTRIBUTIONS",
    "calls_for",
    "copy_seconds",
    "environment",
    "medians_in_turns",
    "no_collection",
    "peak_bytes",
    "peak_flops",
    "seconds",
]

SAMPLE = 5e-3  # seconds that one measurement lasts at least
DISTRIBUTIONS = (
    "numpy",
    "scipy",
    "opt_einsum",
    "torch",
    "jax",
    "pyfastkron",
    "linear_operator",
    "cola-ml",
    "pykronecker",
    "pylops",
)


def seconds(function: Callable[[], Any], calls: int = 1) -> float:
    """Seconds for one of ``calls``; where these are many, one more before brings the caches."""
    if calls > 1:
        function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def medians_in_turns(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 5
) -> list[float]:
    """The medians of both times, and of their ratio."""
    with no_collection():
        calls = [calls_for(seconds(function)) for function in (ours, theirs)]
        pairs = [[*map(seconds, (ours, theirs), calls)] for _ in range(rounds)]
    pairs = [[*pair, pair[1] / pair[0]] for pair in pairs]
    return [statistics.median(column) for column in zip(*pairs, strict=True)]


def calls_for(once: float) -> int:
    """How many calls of ``once`` seconds make a measurement."""
    return max(1, math.ceil(SAMPLE / max(once, 1e-9)))


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Without the garbage collector, which would interrupt whom it likes."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def peak_flops(dtype: str, size: int = 1536, times: int = 2) -> float:
    """Flops per second of one large product of matrices, the best of several."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size)).astype(dtype) for _ in range(2))
    made = np.empty_like(a)
    return 2 * size**3 / min(seconds(lambda: np.matmul(a, b, out=made)) for _ in range(times))


def copy_seconds(count: int, threads: int, times: int = 5) -> float:
    """Seconds for copying ``count`` bytes to memory in use, the best of several."""
    source, target = np.ones(count, np.uint8), np.ones(count, np.uint8)
    ends = [count * i // threads for i in range(threads + 1)]
    parts = [slice(*pair) for pair in itertools.pairwise(ends)]

    def copy(part: slice = slice(None)) -> None:
        np.copyto(target[part], source[part])

    calls = calls_for(seconds(copy))
    best = min(seconds(copy, calls) for _ in range(times))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            together = (seconds(lambda: list(pool.map(copy, parts)), calls) for _ in range(times))
            best = min(best, *together)
    return best


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most memory that one call needed at a time, its result included.

    A first one goes before, for what is kept from then on: compiled kernels, merged factors.
    """
    function()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        result = function()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del result
    return peak - before


def environment(distributions: Iterable[str] = DISTRIBUTIONS) -> dict[str, Any]:
    """The date, the machine and the versions."""
    blas = np.__config__.show(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "date": str(datetime.date.today()),
        "cpu": _cpu(),
        "processors": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "python": platform.python_version(),
        "blas": f"{blas['name']} {blas['version']}",
        "kronops": kronops.__version__,
        "versions": {name: version(name) for name in distributions},
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
