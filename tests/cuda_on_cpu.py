"""The kernel for GPUs run on a CPU, by a C++ compiler and `cuda_on_cpu.h`.

`cupy_backend` is the one of CuPy on NumPy's arrays, with the few functions that products call.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from kronops.backends import cuda

HERE = Path(__file__).resolve().parent
THREADS = 32  # of a block: it may have fewer than on a GPU
OUTCOMES = ("", "a block wrote behind its shared memory", "a thread missed a barrier")
SIGNATURE = [ctypes.c_void_p] * 3 + [ctypes.c_longlong] * 8

ENTRY = """
extern "C" int run_{i}(const void* entries, const void* x, void* out, long long left,
    long long right, long long lefts, long long rights, long long room, long long blocks,
    long long threads, long long bytes) {{
  using T = {number};
  return launch(int(blocks), int(threads), bytes, [&] {{
    {expression}((const T*)entries, (const T*)x, (T*)out, left, right, lefts, rights, room); }});
}}
"""


def compiler() -> str | None:
    """A C++ compiler, or None."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Compiled:
    """Instances of the kernel, by their expressions."""

    def __init__(self, expressions: Iterable[str], folder: Path, source: str = "") -> None:
        self.folder, self.source = folder, source or cuda.source()
        self.functions: dict[str, Any] = {}
        self.build(list(expressions))

    def __getitem__(self, expression: str) -> Any:
        if expression not in self.functions:
            self.build([expression])
        return self.functions[expression]

    def build(self, expressions: list[str]) -> None:
        stem = self.folder / f"kernels_{len(self.functions)}"
        parts = ['#include "cuda_on_cpu.h"', self.source]
        for i, expression in enumerate(expressions):
            number = expression.partition("<")[2].partition(",")[0]
            parts.append(ENTRY.format(i=i, number=number, expression=expression))
        stem.with_suffix(".cpp").write_text("\n".join(parts), encoding="utf-8")
        command = [compiler(), "-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror"]
        command += ["-Wno-unknown-pragmas", f"-I{HERE}", "-o", f"{stem}.so", f"{stem}.cpp"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        library = ctypes.CDLL(f"{stem}.so")
        for i, expression in enumerate(expressions):
            function = getattr(library, f"run_{i}")
            function.argtypes = SIGNATURE
            self.functions[expression] = function


def launch(
    function: Any, arrays: list[np.ndarray], sizes: tuple[int, ...], blocks: int, count: int
) -> None:
    """The kernel on ``entries``, ``x`` and ``out``, with so many bytes of shared memory."""
    assert all(array.flags.c_contiguous for array in arrays)
    pointers = [array.ctypes.data for array in arrays]
    outcome = function(*pointers, *sizes, blocks, THREADS, count)
    assert outcome == 0, OUTCOMES[outcome]


# -- CuPy -----------------------------------------------------------------------------------------

# Of an imaginary GPU with so little shared memory that tiles of small arrays do not fit.
ATTRIBUTES = {
    "MultiProcessorCount": 2,
    "MaxSharedMemoryPerBlockOptin": 8 * 1024,
    "MaxSharedMemoryPerMultiprocessor": 20 * 1024,
    "L2CacheSize": 2**20,
    "MemoryClockRate": 10**6,
    "GlobalMemoryBusWidth": 512,
    "ClockRate": 10**6,
}


class Function:
    """A kernel that takes what CuPy gives it."""

    max_dynamic_shared_size_bytes = 0

    def __init__(self, run: Any) -> None:
        self.run = run

    def __call__(self, grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert block == (cuda.THREADS,)
        assert all(type(size) is int for size in arguments[3:])  # 64 bits, as CuPy passes them
        launch(self.run, list(arguments[:3]), arguments[3:], *grid, shared_mem)


def cupy_backend(find: Callable[[str], Any]) -> Any:
    """A new backend of CuPy, whose kernels are what ``find`` gives for their expressions."""
    modules = {
        name: types.ModuleType(name)
        for name in ("cupy", "cupyx", "cupyx.scipy", "cupyx.scipy.linalg")
    }
    modules["cupyx.scipy.sparse"] = modules["cupyx.scipy.sparse.linalg"] = modules["cupyx"]
    cupy = modules["cupy"]
    for name in ("ascontiguousarray", "concatenate", "empty", "ndarray"):
        setattr(cupy, name, getattr(np, name))
    cupy.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDevice=lambda: 0),
        Device=lambda number: types.SimpleNamespace(attributes=ATTRIBUTES),
    )
    cupy.RawModule = lambda code, options, name_expressions: types.SimpleNamespace(
        get_function=lambda name: Function(find(name))
    )
    path = HERE.parent / "kronops" / "backends" / "cupy.py"
    spec = importlib.util.spec_from_file_location("cupy_backend_on_numpy", path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, modules):
        spec.loader.exec_module(module)
    return module.CupyBackend("cupy", np)
