"""Dask's distributed scheduler: two worker processes, killed now and then."""

from __future__ import annotations

import numpy as np
import pytest

from kronops import kron

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")
pytest.importorskip("distributed", reason="distributed is not installed")

import cluster  # noqa: E402  # after distributed is known to be there

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with cluster.local_cluster(tmp_path_factory.mktemp("workers")) as made:
        yield made


@pytest.fixture
def folder(client, tmp_path):
    """Marks of the factorisations that workers make."""
    client.register_plugin(cluster.MarkFactorisations(tmp_path))
    yield tmp_path
    client.unregister_worker_plugin("factorisations")


def definite(n: int, seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T / n + np.eye(n)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def test_factorisations_made_here_are_not_made_again_by_workers(client, folder):
    op = kron(definite(40), definite(70))
    v = normal(40, 70)
    chunked = da.from_array(v, chunks=(10, 70))
    for apply in (op.multiply, op.multiply_inverse, op.damped(0.1).multiply_inverse):
        np.testing.assert_allclose(apply(chunked).compute(), apply(v), rtol=1e-10, atol=1e-12)
    assert not cluster.times(folder)
