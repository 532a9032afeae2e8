"""Kronecker products on a GPU: kronops on CuPy's arrays beside other ways to compute them there.

    python benchmarks/gpu.py --quick
    python benchmarks/gpu.py --memory 16 --json benchmarks/results/today-gpu.json

Cases, checks and turns are those of benchmarks/kronecker.py. Ours has the kernel for small factors,
``kronops.backends.settings(compiled=True)``; without it, kronops is one of the peers. Every library
works on CUDA's default stream, and its time is what passes between two events there: launches that
the GPU waits for count, as they do for a user.

``roof`` is the share reached of two limits: as many bytes as input and output have over the
bandwidth of a copy, and the flops, factor by factor, over the speed of a large product of matrices,
both measured. ``memory`` is what CuPy's pool took from the driver for one product.

It needs CuPy and a GPU; PyTorch for CUDA, FastKron and cuTENSOR where they are installed.
"""

from __future__ import annotations

import contextvars
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from kronecker import compare, parsed
from threads import restart_with

from kronops.backends import settings
from kronops.bench.comparison import Place
from kronops.bench.peers import (
    Factors,
    Peer,
    Product,
    as_given,
    chain,
    einsum,
    fastkron_by,
    kronops_product,
    tensordot,
    torch_chain,
    torch_einsum,
    views,
    with_torch,
)

LARGE = 8192  # rows of the matrices whose product is the peak
TIMES = 5


def main() -> None:
    options = parsed(__doc__, ["cupy"])
    problem = missing_gpu()
    if problem:
        raise SystemExit(f"no GPU to measure: {problem}")
    restart_with(options.threads)
    report = {"benchmark": "gpu", "gpu": gpu_name()}
    with settings(compiled=True):
        compare(options, report, with_cupy(kronops_product), PEERS, cupy_place())


def missing_gpu() -> str:
    """What CuPy lacks here, in words; empty where it has a GPU."""
    try:
        cupy = importlib.import_module("cupy")
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's own, of its driver, or that there is no CuPy
        return f"{type(error).__name__}: {error}"
    return "" if count else "CuPy sees no device"


def gpu_name() -> str:
    """The device's, and the versions of driver and CUDA."""
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    versions = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    return f"{name}, driver {versions[0]}, CUDA {versions[1]}, CuPy {cupy.__version__}"


# -- how things are measured ----------------------------------------------------------------------


def cupy_place() -> Place:
    """A GPU, through CuPy; what other libraries give is taken from them as it is."""
    return Place(event_seconds, to_host, device_copy_seconds, pool_bytes, device_peak_flops)


def event_seconds(function: Callable[[], Any], calls: int = 1) -> float:
    """Seconds for one of ``calls`` between two events; one more before warms up."""
    import cupy

    if calls > 1:
        function()
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return 1e-3 * cupy.cuda.get_elapsed_time(start, end) / calls


def to_host(array: Any) -> np.ndarray:
    """An array of CuPy, or a tensor, as a NumPy array."""
    return array.get() if hasattr(array, "get") else np.asarray(array.cpu())


def device_copy_seconds(count: int) -> float:
    """Seconds for copying ``count`` bytes to memory in use, the best of several."""
    import cupy

    source, target = (cupy.ones(count, dtype=cupy.uint8) for _ in range(2))
    return min(event_seconds(lambda: cupy.copyto(target, source), 10) for _ in range(TIMES))


def device_peak_flops(dtype: str) -> float:
    """Flops per second of one large product of matrices, the best of several."""
    import cupy

    a, b = (cupy.random.standard_normal((LARGE, LARGE)).astype(dtype) for _ in range(2))
    made = cupy.empty_like(a)
    best = min(event_seconds(lambda: cupy.matmul(a, b, out=made), 2) for _ in range(TIMES))
    return 2 * LARGE**3 / best


def pool_bytes(function: Callable[[], Any]) -> int:
    """What CuPy's pool takes from the driver for one call, its result included."""
    import cupy

    function()
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    result = function()
    taken = pool.total_bytes() - before
    del result
    return taken


# -- peers ----------------------------------------------------------------------------------------


def with_cupy(prepare: Callable[..., Product]) -> Callable[..., Product]:
    """``prepare`` for arrays of CuPy."""

    def prepared(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
        import cupy

        return prepare([cupy.asarray(factor) for factor in factors], cupy.asarray(x), side)

    return prepared


def kronops_by_matmul(factors: Factors, x: Any, side: str) -> Product:
    """Ours without the kernel, in a context of its own so that choosing it costs no time."""
    product = kronops_product(list(factors), x, side)
    with settings(compiled=False):
        context = contextvars.copy_context()
    return lambda: context.run(product)


def cupy_chain(factors: Factors, x: Any, side: str) -> Product:
    return lambda: chain(factors, x, side)


def cupy_tensordot(factors: Factors, x: Any, side: str) -> Product:
    import cupy

    return lambda: tensordot(cupy, factors, x, side)


def cupy_einsum(factors: Factors, x: Any, side: str) -> Product:
    import cupy

    return einsum(cupy.einsum, factors, x, side)


def cutensor(factors: Factors, x: Any, side: str) -> Product:
    """A contraction for each factor, on views ``(left, p, right)``, which transposes nothing."""
    import cupy
    from cupyx import cutensor  # an error where cuTENSOR is not installed

    modes = [cutensor.create_mode(*names) for names in ("qp", "lpr", "lqr")]
    steps = [(cupy.ascontiguousarray(m), left, r) for m, left, r in views(factors, x.shape, side)]

    def run() -> Any:
        made = x
        for matrix, left, right in steps:
            rows, columns = matrix.shape
            source = made.reshape(left, columns, right)
            made = cupy.empty((left, rows, right), dtype=x.dtype)
            cutensor.contraction(1.0, matrix, modes[0], source, modes[1], 0.0, made, modes[2])
        return as_given(made, x.shape, side)

    return run


def fastkron_torch(factors: Factors, x: Any, side: str) -> Product:
    from pyfastkron import fastkrontorch

    return fastkron_by(fastkrontorch, factors, x, side)


PEERS = (
    Peer("kronops, matmul", (), with_cupy(kronops_by_matmul)),
    Peer("CuPy matmul", (), with_cupy(cupy_chain)),
    Peer("CuPy tensordot", (), with_cupy(cupy_tensordot)),
    Peer("CuPy einsum", (), with_cupy(cupy_einsum)),
    Peer("cuTENSOR", (), with_cupy(cutensor)),
    Peer("PyTorch matmul", ("torch",), with_torch(torch_chain, "cuda")),
    Peer("PyTorch einsum", ("torch",), with_torch(torch_einsum, "cuda")),
    Peer("FastKron", ("torch", "pyfastkron"), with_torch(fastkron_torch, "cuda")),
)


if __name__ == "__main__":
    main()
