"""How many threads the libraries of a benchmark use."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

__all__ = ["restart_with"]

_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def restart_with(threads: int) -> None:
    """Start the script anew unless it was started so that its libraries use ``threads``.

    Libraries read the variables when they are imported. XLA counts the processors that the process
    may run on, so that there are no more of these than threads where the system can be told.
    """
    wanted = dict.fromkeys(_VARIABLES, str(threads))
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    os.environ.update(wanted)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0), key=_load().__getitem__)[:threads])
    os.execv(sys.executable, [sys.executable, *sys.argv])


def _load() -> dict[int, int]:
    """How long each processor was not idle, in a fifth of a second."""
    before = _busy()
    time.sleep(0.2)
    return {processor: busy - before[processor] for processor, busy in _busy().items()}


def _busy() -> dict[int, int]:
    lines = [text.split() for text in Path("/proc/stat").read_text().splitlines()]
    return {
        int(name[3:]): sum(map(int, ticks)) - int(ticks[3])
        for name, *ticks in lines
        if name.startswith("cpu") and name != "cpu"
    }
