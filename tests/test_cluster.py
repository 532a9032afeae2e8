"""Dask's distributed scheduler: two worker processes, killed now and then."""

from __future__ import annotations

import functools
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kronops import DenseOperator, block_diag, kron
from kronops.kfac import Curvature

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")
pytest.importorskip("distributed", reason="distributed is not installed")

import cluster  # noqa: E402  # after distributed is known to be there
import dask.bag as db  # noqa: E402
import out_of_core  # noqa: E402
import scaling  # noqa: E402
from distributed import futures_of, wait  # noqa: E402
from distributed.client import FutureCancelledError  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cluster.md"
pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with cluster.local_cluster(tmp_path_factory.mktemp("workers")) as made:
        yield made


@pytest.fixture
def folder(client, tmp_path):
    """Marks of the factorisations that workers make."""
    client.register_plugin(cluster.MarkFactorisations(tmp_path, seconds=4e-6))
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


def layers(seed: int):
    """Blocks with factors of many sizes, and vectors for them; Dask keeps one seed's results."""
    factors = [[DenseOperator(definite(m, seed), "symmetric") for m in (n, n - 5)] for n in SIZES]
    return block_diag(*(kron(*pair) for pair in factors)), [normal(n, n - 5) for n in SIZES]


def lazy(vectors):
    return [da.from_array(v) for v in vectors]


def close(got, want) -> None:
    for part, right in zip(dask.compute(got)[0], want, strict=True):
        np.testing.assert_allclose(part, right, rtol=1e-10, atol=1e-12)


def test_blocks_are_factorised_by_workers_in_parallel_and_stay_there(client, folder):
    op, vectors = layers(1)
    inverse = op.to_backend("dask").inverse().persist()
    wait(futures_of(inverse))
    for v in (vectors, [2 * v for v in vectors]):
        close(inverse.multiply(lazy(v)), op.multiply_inverse(v))
    assert cluster.times(folder) == Counter(str(m) for n in SIZES for m in (n, n - 5))
    work = Counter()
    for name, pid in cluster.marks(folder):
        work[pid] += int(name) ** 3
    assert max(work.values()) <= 0.55 * sum(work.values())  # of two workers


def test_eigenvectors_stay_with_workers(client):
    op, vectors = layers(2)
    damped = op.to_backend("dask").damped(0.1).inverse().persist()
    wait(futures_of(damped))
    close(damped.multiply(lazy(vectors)), op.damped(0.1).multiply_inverse(vectors))
    (here,) = dask.compute(damped)
    assert here.backend.name == "numpy"
    close(here.multiply(vectors), op.damped(0.1).multiply_inverse(vectors))


def test_a_worker_killed_in_a_factorisation_is_replaced_and_little_is_done_again(client, folder):
    op, vectors = layers(3)
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


def test_estimators_are_merged_as_a_tree(client):
    made = db.from_sequence(range(4), npartitions=4).map(cluster.estimated)
    whole = made.fold(Curvature.merge, split_every=2).compute()
    want = functools.reduce(Curvature.merge, map(cluster.estimated, range(4)))
    for got, right in zip(whole.moments["dense"], want.moments["dense"], strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-14)


def test_the_page_runs(tmp_path, capsys):
    """Each block of the page, with the cluster that it starts."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names: dict = {"__name__": "page_of_the_cluster"}
    with dask.config.set(
        {"temporary-directory": str(tmp_path), "distributed.comm.timeouts.connect": "5s"}
    ):
        exec(compile("\n".join(blocks[:-1]), str(PAGE), "exec"), names)
        A, B = (f.matrix for f in names["op"].factors)
        v, x = names["v"].compute(), names["x"].compute()
        y = A @ v @ B.T
        want = kron(A, B).damped(0.1).multiply_inverse(y)
        np.testing.assert_allclose(x, want, rtol=1e-9, atol=1e-9)
        product = da.from_npy_stack(f"{names['folder']}/product").compute()
        np.testing.assert_allclose(product, y, rtol=1e-9, atol=1e-9)
        here = names["curvature"].operator(damping=0.01)
        gradient = dask.compute(names["gradient"])[0]
        for name, part in here.multiply_inverse(gradient).items():
            np.testing.assert_allclose(names["step"][name], part, rtol=1e-9, atol=1e-9)
        exec(compile(blocks[-1], str(PAGE), "exec"), names)
    assert "100%" in capsys.readouterr().out  # the bars


def test_a_scheduler_lost_is_an_error_within_seconds(tmp_path):
    with cluster.scheduler_and_worker(tmp_path) as (client, scheduler):
        v = da.ones((20, 6), chunks=(1, 6)).map_blocks(cluster.slowly, dtype=float)
        waited = client.compute(kron(definite(20), definite(6)).multiply(v))
        scheduler.kill()
        with pytest.raises(FutureCancelledError, match="lost the connection to the scheduler"):
            waited.result(timeout=10)
        with pytest.raises((FutureCancelledError, TimeoutError, OSError)):
            client.submit(sum, [1, 2]).result(timeout=10)


def test_a_vector_four_times_the_memory_of_a_worker():
    """It is ended if it takes more, and what it took is the kernel's count."""
    measured = out_of_core.measure("multiply", workers=1, memory=384, times=4)
    assert measured["vector MiB"] == 4 * measured["allowed MiB"]
    assert measured["peak MiB"] <= measured["allowed MiB"]
    assert measured["error"] <= 1


def test_as_many_bytes_travel_as_planned():
    measured = scaling.run(workers=2, shape=(32, 24, 24), repeats=1)
    (moved,) = measured["bytes sent"]
    assert moved == pytest.approx(measured["bytes predicted"], rel=0.1)
    assert moved == 2 * (32 * 24 * 24 * 8) / 2  # there and back, one half
