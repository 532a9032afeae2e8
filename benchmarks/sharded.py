"""Products with vectors split over processes of JAX: scaling, and what was predicted.

    python benchmarks/sharded.py --json benchmarks/results/….json

Strong scaling keeps the vector, weak scaling its part on each process. A process has one device and
is kept to one processor (on Linux). What a device multiplies, copies and sends in a second is
measured in the same run, on the same devices, and handed to `kronops.plan`; the bytes are those of
the collectives in the program that XLA has compiled.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from scripts import add_output, save

import kronops
from kronops.bench.measuring import environment

SIZE = 192  # of each of three axes; in weak scaling the last axis grows with the processes
ROUNDS = 7
COLLECTIVE = re.compile(r"= \(?\w+\[[\d,]*\].*? (?:all|collective|reduce)-[\w-]+\(")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_output(parser)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    versions = environment(("numpy", "jax")) | {"threads": 1}
    report = {"benchmark": "sharded", **versions, "rows": []}
    for kind in ("strong", "weak"):
        for processes in (1, 2):
            last = SIZE * processes if kind == "weak" else SIZE
            row = {"scaling": kind, "processes": processes, **measure(processes, last)}
            alone = [r for r in report["rows"] if r["scaling"] == kind and r["processes"] == 1]
            row["efficiency"] = efficiency(alone[0] if alone else row, row)
            report["rows"].append(row)
            print(row, flush=True)
    save(report, options.json)


def efficiency(alone, row):
    """Flops per second and process, over those of one process."""
    return (row["flops"] / row["seconds"]) / (alone["flops"] / alone["seconds"])


def measure(processes, last):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=1"
    environment_ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, __file__, "--worker", str(port)]
    started = [
        subprocess.Popen(
            [*command, str(index), str(processes), str(last)],
            env=environment_,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(processes)
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    rates = json.loads(said[0].splitlines()[-1])
    seconds, sent = rates.pop("seconds"), rates.pop("sent")
    made = kronops.plan([SIZE, SIZE, last], devices=processes, **rates)
    name = "split along one axis" if processes > 1 else "whole on each device"
    predicted = made[name]
    n = SIZE * SIZE * last
    return {
        "shape": f"{SIZE} x {SIZE} x {last}",
        "seconds": seconds,
        "predicted_seconds": predicted.seconds,
        "predicted_over_measured": predicted.seconds / seconds,
        "bytes_sent": sent,
        "predicted_bytes": predicted.moved,
        "flops": 2 * n * (SIZE + SIZE + last) / processes,
        **{f"{name} per second": rate for name, rate in rates.items()},
    }


def work(port, index, processes, last):
    """One process: it measures together with the others, and the first one tells."""
    keep_to_one_processor(int(index))  # before XLA counts them: it makes a thread for each
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(index))
    mesh = jax.make_mesh((jax.device_count(),), ("x",))
    rng = np.random.default_rng(0)

    def split(shape):
        block = np.ones(shape, np.float32)
        return jax.device_put(block, NamedSharding(mesh, P("x")))

    def timed(function, *arguments):
        jax.block_until_ready(function(*arguments))
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    sizes = SIZE, SIZE, int(last)
    factors = [jnp.asarray(rng.standard_normal((n, n)) / n**0.5, jnp.float32) for n in sizes]
    op, v = kronops.kron(*factors), split(sizes)
    product = jax.jit(op.multiply)
    seconds = timed(product, v)

    local = jax.jit(jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=P("x"), out_specs=P("x")))
    count = 1024 * jax.device_count()
    square = timed(local, split((count, 1024)))
    copy = jax.jit(lambda x: x + 1)
    numbers = math.prod(sizes) // jax.device_count()
    copied = timed(copy, v)
    rates = {"flops": 2 * 1024**3 / square, "local_bandwidth": 8 * numbers / copied}
    if jax.device_count() > 1:
        rates["bandwidth"] = exchanged(jax, mesh, v, timed)
    sent = bytes_sent(product.lower(v).compile().as_text(), jax.device_count())
    if index == "0":
        print(json.dumps({"seconds": seconds, "sent": sent, **rates}), flush=True)


def keep_to_one_processor(index):
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[index % len(processors)]})


def exchanged(jax, mesh, v, timed):
    """Bytes that leave a device in a second of an all-to-all."""
    devices = mesh.devices.size

    def there(x):
        return jax.lax.all_to_all(x, "x", 1, 0, tiled=True)

    spec = jax.sharding.PartitionSpec
    exchange = jax.shard_map(there, mesh=mesh, in_specs=spec("x"), out_specs=spec(None, "x"))
    sent = 4 * v.size // devices * (devices - 1) // devices
    return sent / timed(jax.jit(exchange), v)


def bytes_sent(text, devices):
    """Of all collectives of a program, which are all-to-alls, from one device to others."""
    total = 0
    for line in text.splitlines():
        if COLLECTIVE.search(line):
            shapes = re.findall(r"f32\[([\d,]*)\]", line.split("all-to-all(")[0])
            total += 4 * sum(math.prod(map(int, shape.split(","))) for shape in shapes)
    return total * (devices - 1) // devices


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
