"""Several Python processes that talk to one another: started, bounded in time, none left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """One that is free now; whoever finds it taken after all is started again."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_together(
    script: str, count: int, *words: str, seconds: float, devices: int = 2, first: bool = False
):
    """``python script port index words…`` ``count`` times at once: what is said, and exit statuses.

    Processes that have not ended in time are killed, and have no status; so are all but the first
    when that has ended, if it is the ``first`` alone that counts.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    port = str(free_port())
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / script), port, str(index), *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]
    said = []
    try:
        for process in started:
            try:
                limit = 0 if first and said else seconds
                said.append((process.communicate(timeout=limit)[0], process.returncode))
            except subprocess.TimeoutExpired:
                process.kill()
                said.append((process.communicate()[0], None))
    finally:
        for process in started:
            process.kill()
            process.wait()
    if any("in use" in text for text, _ in said):
        return run_together(script, count, *words, seconds=seconds, devices=devices, first=first)
    return said
