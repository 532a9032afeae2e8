"""Two processes of `torch.distributed`, by gloo on loopback."""

from __future__ import annotations

import socket

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

pytestmark = [
    pytest.mark.xdist_group("cluster"),  # one test with processes of its own at a time
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no collectives"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_estimators_are_summed_and_shards_of_vectors_are_solved_for():
    import gloo

    torch.multiprocessing.spawn(gloo.main, args=(free_port(),), nprocs=2)  # raises what one does
