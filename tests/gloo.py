"""What each of two processes does with `torch.distributed`, on loopback."""

from __future__ import annotations

import functools
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import local_map

from kronops import kron
from kronops.kfac import Curvature, DenseLayer, GradientLayer


def main(rank: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=30))
    try:
        estimators_are_summed(rank)
        vectors_in_shards()
        dist.barrier()
    finally:
        dist.destroy_process_group()
    os._exit(0)  # gloo's threads have been seen to abort a process that ends as others do


def estimators_are_summed(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    mine = Curvature({"dense": DenseLayer(), "scale": GradientLayer()})
    for weight in (1.0, 0.5 + rank):
        batch = {"dense": (draw(8, 3), draw(8, 2)), "scale": draw(8, 4)}
        mine.update(batch, decay=0.9, weight=weight)

    whole = mine.all_reduce(dist.all_reduce)

    shards: list = [None, None]
    dist.all_gather_object(shards, mine)
    want = functools.reduce(Curvature.merge, shards)
    for name, state in want.state_dict().items():
        got = whole.state_dict()[name]
        assert got.keys() == state.keys()
        for key, value in state.items():
            same = torch.equal(got[key], value) if torch.is_tensor(value) else got[key] == value
            assert same, (name, key)
    before = mine.layers["dense"].state_dict()["moments.weight"]
    assert before < whole.layers["dense"].state_dict()["moments.weight"]  # a copy was summed


def vectors_in_shards() -> None:
    generator = torch.Generator().manual_seed(2)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    op = kron(*(m @ m.mT + torch.eye(len(m)) for m in (draw(4, 4), draw(3, 3))))
    b = draw(12, 6)
    mesh = init_device_mesh("cpu", (2,))
    columns = distribute_tensor(b, mesh, [Shard(1)])

    solve = local_map(op.solve, out_placements=[Shard(1)], in_placements=([Shard(1)],))
    x = solve(columns)

    assert x.placements == (Shard(1),)
    torch.testing.assert_close(x.full_tensor(), op.solve(b), rtol=1e-12, atol=1e-12)
    factor = distribute_tensor(draw(3, 3), mesh, [Replicate()])
    for refused in (lambda: op @ columns, lambda: op.solve(columns), lambda: kron(factor)):
        with pytest.raises(TypeError, match=r"is a DTensor.*local_map"):
            refused()
