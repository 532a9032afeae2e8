"""Dask's distributed scheduler: two worker processes, killed now and then."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from kronops import DenseOperator, block_diag, kron

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")
pytest.importorskip("distributed", reason="distributed is not installed")

import cluster  # noqa: E402  # after distributed is known to be there
from distributed import futures_of, wait  # noqa: E402

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with cluster.local_cluster(tmp_path_factory.mktemp("workers")) as made:
        yield made


@pytest.fixture
def folder(client, tmp_path):
    """Marks of the factorisations that workers make."""
    client.register_plugin(cluster.MarkFactorisations(tmp_path, seconds=5e-7))
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


def marked(chunk, folder, block_info=None):
    cluster.mark(folder, block_info[0]["chunk-location"][0])
    return chunk


def marked_slowly(chunk, folder, block_info=None):
    time.sleep(0.1)
    return marked(chunk, folder, block_info)


SIZES = [30, 50, 80, 60, 40, 70]


def layers():
    """Blocks with factors of many sizes, and vectors for them."""
    factors = [[DenseOperator(definite(m), "symmetric") for m in (n, n - 5)] for n in SIZES]
    return block_diag(*(kron(*pair) for pair in factors)), [normal(n, n - 5) for n in SIZES]


def lazy(vectors):
    return [da.from_array(v) for v in vectors]


def close(got, want) -> None:
    for part, right in zip(dask.compute(got)[0], want, strict=True):
        np.testing.assert_allclose(part, right, rtol=1e-10, atol=1e-12)


def test_blocks_are_factorised_by_workers_in_parallel_and_stay_there(client, folder):
    op, vectors = layers()
    inverse = op.to_backend("dask").inverse().persist()
    wait(futures_of(inverse))
    for v in (vectors, [2 * v for v in vectors]):
        close(inverse.multiply(lazy(v)), op.multiply_inverse(v))
    assert cluster.times(folder) == Counter(str(m) for n in SIZES for m in (n, n - 5))
    work = Counter()
    for name, pid in cluster.marks(folder):
        work[pid] += int(name) ** 3
    assert max(work.values()) < 0.6 * sum(work.values())  # of two workers


def test_eigenvectors_stay_with_workers(client):
    op, vectors = layers()
    damped = op.to_backend("dask").damped(0.1).inverse().persist()
    wait(futures_of(damped))
    close(damped.multiply(lazy(vectors)), op.damped(0.1).multiply_inverse(vectors))
    (here,) = dask.compute(damped)
    assert here.backend.name == "numpy"
    close(here.multiply(vectors), op.damped(0.1).multiply_inverse(vectors))


def test_a_worker_killed_in_a_factorisation_is_replaced_and_little_is_done_again(client, folder):
    op, vectors = layers()
    inverse = op.to_backend("dask").inverse().persist()
    cluster.wait_until(lambda: len(cluster.marks(folder)) >= 8)
    before = cluster.marks(folder)
    killed = before[-1][1]
    cluster.kill(killed)
    close(inverse.multiply(lazy(vectors)), op.multiply_inverse(vectors))
    lost = Counter(name for name, pid in before if pid == killed)
    wanted = Counter(str(m) for n in SIZES for m in (n, n - 5))
    again = cluster.times(folder) - wanted
    assert again and not again - lost


def test_a_worker_killed_in_a_product_loses_its_own_chunks_alone(client, tmp_path):
    op = kron(definite(40), definite(70))
    v = normal(40, 70)
    chunks, rows = tmp_path / "chunks", tmp_path / "rows"
    chunks.mkdir()
    rows.mkdir()
    lazy_v = da.from_array(v, chunks=(4, 70))
    x = lazy_v.map_blocks(marked, chunks, dtype=v.dtype).persist()
    wait(futures_of(x))
    before = cluster.marks(chunks)
    made = op.multiply(x).map_blocks(marked_slowly, rows, dtype=v.dtype).persist()
    cluster.wait_until(lambda: bool(cluster.marks(rows)))
    killed = before[0][1]
    cluster.kill(killed)
    np.testing.assert_allclose(made.compute(), op.multiply(v), rtol=1e-10)
    wait(futures_of(x))
    lost = Counter(name for name, pid in before if pid == killed)
    assert cluster.times(chunks) - Counter(name for name, _ in before) == lost
