"""One of two processes, of which the second is lost in the middle of a row of products.

python tests/lost_worker.py port index signal
"""

from __future__ import annotations

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kronops import kron


def main(port, index, lost_by):
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        2,
        int(index),
        initialization_timeout=60,
        heartbeat_timeout_seconds=10,
        shutdown_timeout_seconds=10,
    )
    mesh = jax.make_mesh((jax.device_count(),), ("x",))
    op = kron(jnp.eye(4), jnp.eye(4))
    v = jax.device_put(np.ones((4, 4)), NamedSharding(mesh, P("x")))
    v = jax.block_until_ready(op.multiply(v))
    print("products begin", flush=True)
    if index == "1":
        os.kill(os.getpid(), getattr(signal, lost_by))
    while True:
        v = jax.block_until_ready(op.multiply(v))


if __name__ == "__main__":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    main(*sys.argv[1:])
