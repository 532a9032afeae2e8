"""Dask: lazy throughout, in sensible chunks, and never computed behind the user's back."""

from __future__ import annotations

import itertools
import math
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import zoo

import kronops
from kronops import DenseOperator, DiagonalOperator, IdentityOperator, LinAlgError, block_diag, kron
from kronops.errors import DensificationWarning, LinAlgWarning
from kronops.operators import dense

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")
callbacks = pytest.importorskip("dask.callbacks", reason="dask is not installed")

PAGE = Path(__file__).resolve().parent.parent / "docs" / "dask.md"


def refuse_to_compute(*_, **__):
    raise AssertionError("computed behind the user's back")


@pytest.fixture(autouse=True)
def nothing_computes_by_itself():
    with dask.config.set(scheduler=refuse_to_compute):
        yield


def computed(array) -> np.ndarray:
    assert isinstance(array, da.Array)
    return array.compute(scheduler="sync")


def chunk_sizes(array) -> list[int]:
    return [math.prod(sizes) for sizes in itertools.product(*array.chunks)]


def tasks(array) -> int:
    return len(dict(array.__dask_graph__()))


class LargestChunk(callbacks.Callback):
    """The largest array that any task of a computation makes, in entries."""

    def __init__(self) -> None:
        self.size = 0

    def _posttask(self, key, result, dsk, state, worker_id) -> None:
        if isinstance(result, np.ndarray):
            self.size = max(self.size, result.size)


def largest_on_the_way(array) -> int:
    with LargestChunk() as largest:
        array.persist(scheduler="sync")
    return largest.size


def definite(n: int, seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T / n + np.eye(n)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def close(got, want) -> None:
    got = computed(got)
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12 * (np.abs(want).max(initial=0)))


# -- operators in memory, chunked vectors ---------------------------------------------------------


def in_memory(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        return zoo.CASES[name](zoo.Maker(np, "complex128"))


def vectors(n: int):
    """Flat, columns and stacks, in chunks of many kinds: the array, and the same in chunks."""
    for shape, chunks in (
        ((n,), 2),
        ((n, 3), (3, 1)),
        ((n,), -1),
        ((n, 1), 1),
        ((n, 3), (-1, 2)),
        ((n, 9), (2, 9)),
        ((2, n, 3), (1, 4, 2)),
        ((n, 0), 1),
    ):
        x = normal(*shape)
        yield x, da.from_array(x, chunks=chunks)


def made_of(op, matrix):
    """Operators made of ``op``, as far as there are any."""
    yield op.H
    yield op.T
    with np.errstate(all="ignore"):
        regular = op.shape[0] == op.shape[1] > 0 and np.linalg.cond(matrix) < 1e8
    if regular:
        yield op.inverse()
    if op.shape[0] == op.shape[1] and np.abs(matrix).max(initial=1) < 1e100:
        yield op.damped(2.0)
        yield op.damped(2.0).inverse()
        yield op + 2 * op.H
        yield op @ op.H
        yield block_diag(op)


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.parametrize("name", zoo.CASES)
def test_an_operator_in_memory_is_lazy(name):
    """Warnings are errors in all tests: so Dask does not warn, as it does where it computes."""
    op, _ = in_memory(name)
    for x, chunked in vectors(op.shape[1]):
        made = op @ chunked
        assert made.chunks == chunked.chunks or op.shape[0] != op.shape[1]
        close(made, op @ x)


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.parametrize("name", zoo.CASES)
def test_what_is_made_of_an_operator_in_memory_is_lazy(name):
    op, matrix = in_memory(name)
    for made in made_of(op, matrix):
        for x, chunked in itertools.islice(vectors(made.shape[1]), 2):
            close(made @ chunked, made @ x)


FACTORS = {
    "kron": kron(definite(40), definite(30)),
    "three factors": kron(definite(10), definite(12), definite(10)),
    "inverse": kron(definite(40), definite(30)).inverse(),
    "power": kron(definite(40), definite(30)).power(-0.5),
    "damped": kron(definite(40), definite(30)).damped(0.3),
    "damped inverse": kron(definite(40), definite(30)).damped(0.3).inverse(),
    "damped by factors": kron(definite(40), definite(30)).damped(0.3, "factored").inverse(),
    "sum": kron(definite(40), definite(30)) + kron(definite(40, 1), definite(30, 1)),
    "product": kron(definite(40), definite(30)) @ DiagonalOperator(1 + np.arange(1200.0)),
    "identity": 2.0 * IdentityOperator(1200, like=np.zeros(1)),
}
DIAGONALS = {"damped inverse", "product"}


@pytest.mark.parametrize("chunk", [1200, 300, 100, 70, 7])
@pytest.mark.parametrize("name", FACTORS)
def test_chunks_keep_their_size(name, chunk):
    x = normal(1200)
    chunked = da.from_array(x, chunks=chunk)
    made = FACTORS[name] @ chunked
    assert made.chunks == chunked.chunks
    in_memory = 1200 if name in DIAGONALS else 40  # entries in memory, or a column of a factor
    assert largest_on_the_way(made) <= max(chunk, in_memory)
    assert tasks(made) <= 40 * (1200 / chunk) ** 1.5 + 20
    close(made, FACTORS[name] @ x)


@pytest.mark.parametrize(
    "shape, chunks, domain",
    [
        ((40, 30), (5, 30), (40, 30)),
        ((40, 30), (40, 3), (40, 30)),
        ((40, 30), (10, 10), (40, 30)),
        ((2, 2, 10, 30), (1, 2, 5, 30), (40, 30)),
        ((10, 12, 10), (10, 3, 5), (10, 12, 10)),
    ],
)
def test_structured_vectors(shape, chunks, domain):
    op = kron(*map(definite, domain))
    v = normal(*shape)
    chunked = da.from_array(v, chunks=chunks)
    for apply in (op.multiply, op.multiply_inverse, op.damped(0.1).multiply):
        made = apply(chunked)
        assert max(chunk_sizes(made)) <= max(chunk_sizes(chunked))
        assert len(chunk_sizes(made)) <= 4 * len(chunk_sizes(chunked))
        assert largest_on_the_way(made) <= max(chunk_sizes(chunked))
        close(made, apply(v))


def test_pairs_and_blocks():
    op = kronops.BlockDiagonalOperator(
        {"dense": kron(definite(5), definite(3)), "scale": DiagonalOperator(1 + np.arange(4.0))}
    )
    weights, bias, scale = normal(4, 3), normal(3), normal(4)
    v = {"dense": (weights, bias), "scale": scale}
    lazy = {
        "dense": (da.from_array(weights, chunks=(2, 3)), da.from_array(bias, chunks=1)),
        "scale": da.from_array(scale, chunks=3),
    }
    for apply in (op.multiply, op.multiply_inverse, op.damped(0.1).multiply_inverse):
        made, want = apply(lazy), apply(v)
        close(made["dense"][0], want["dense"][0])
        close(made["dense"][1], want["dense"][1])
        close(made["scale"], want["scale"])


def inputs_of(chunk) -> int:
    """The number of chunks of the input, named so, that a chunk of a result is made of."""
    (culled,) = dask.optimize(chunk)
    return sum("input" in str(key) for key in dict(culled.__dask_graph__()))


def test_the_last_factor_acts_within_rows_and_the_first_across_them():
    identity = IdentityOperator(40, like=np.zeros(1)), IdentityOperator(30, like=np.zeros(1))
    v = da.from_array(normal(40, 30), chunks=(5, 30), name="input")
    within = kron(identity[0], definite(30)).multiply(v)
    across = kron(definite(40), identity[1]).multiply(v)
    assert within.chunks == across.chunks == v.chunks
    assert inputs_of(within.blocks[0]) < inputs_of(across.blocks[0])
    assert tasks(within) <= 9 * v.npartitions
    assert tasks(across) <= 60 * v.npartitions


def test_columns_in_chunks_need_no_communication():
    op = kron(definite(40), definite(30)).damped(0.1)
    x = da.from_array(normal(1200, 12), chunks=(1200, 3))
    for made in (op @ x, op.solve(x), DenseOperator(op.to_dense()).solve(x)):
        assert made.chunks == x.chunks
        assert tasks(made) == 2 * x.npartitions + 1  # and the operator


def test_a_vector_of_many_chunks():
    op = kron(definite(20), definite(50), definite(20)).damped(0.1)
    x = normal(20_000)
    chunked = da.from_array(x, chunks=100)
    made = op.solve(chunked)
    assert made.chunks == chunked.chunks
    assert tasks(made) <= 200 * made.npartitions
    close(made, op.solve(x))


def test_more_memory_than_there_is():
    """A vector of 8 TB: the graph of a product is made, and one of its chunks computed."""
    op = kron(definite(100), IdentityOperator(10**10, like=np.zeros(1)))
    x = da.ones(10**12, chunks=10**10)
    rows = 100 * [10**10]
    assert (op @ x).chunks == (tuple(rows),)


def test_what_is_asked_of_factors_is_asked_once_and_at_once(monkeypatch):
    factorised = []

    def counting(*arguments):
        factorised.append(arguments)
        return original(*arguments)

    original = dense.factorise
    monkeypatch.setattr(dense, "factorise", counting)
    op = kron(definite(4), definite(3))
    x = da.from_array(normal(12), chunks=2)
    first, second = op.solve(x), op.solve(x + 1)
    assert len(factorised) == 2
    close(first - second, op.solve(x.compute(scheduler="sync")) - op.solve(normal(12) + 1))
    assert len(factorised) == 2
    with pytest.raises(LinAlgError, match=r"factors\[0\] .* is singular"):
        kron(np.ones((2, 2)), np.eye(2)).solve(da.ones(4, chunks=1))
    with pytest.warns(LinAlgWarning, match="condition number"):
        DenseOperator(np.diag([1.0, 1e-15, 1.0]) + 0.1 * np.eye(3, k=1) * 0).solve(da.ones(3))


def test_products_have_names_that_tell_them_apart():
    a, x = normal(4, 4), da.from_array(normal(4), chunks=2)
    op = DenseOperator(a)
    assert (op @ x).name == (op @ x).name
    # A matrix and its transpose have one hash in Dask.
    close(op @ x - op.T @ x, a @ normal(4) - a.T @ normal(4))


def test_graphs_are_pickled():
    op = kron(definite(4), definite(3)).damped(0.1)
    made = op.solve(da.from_array(normal(12), chunks=3))
    close(pickle.loads(pickle.dumps(made)), op.solve(normal(12)))


def test_arrays_on_the_left():
    op = kron(normal(3, 4), normal(2, 5))
    for x in (normal(6), normal(7, 6)):
        close(da.from_array(x, chunks=2) @ op, x @ op)


def test_dtypes():
    op = kron(definite(4).astype("float32"), definite(3).astype("float32"))
    for dtype in ("float32", "float64", "complex64", "int64", "bool"):
        x = np.arange(12).astype(dtype)
        made = op @ da.from_array(x, chunks=5)
        assert made.dtype == (op @ x).dtype == computed(made).dtype
    swapped = np.arange(12.0).astype(">f8")
    assert (op @ da.from_array(swapped, chunks=5)).dtype == np.dtype("=f8")


def test_an_operator_of_someone_else_is_lazy():
    class Shift(kronops.LinearOperator):
        """Functions of NumPy, which compute an array of Dask with a warning."""

        def __init__(self, like) -> None:
            object.__setattr__(self, "like", like)

        shape = (6, 6)
        backend = property(lambda self: kronops.backends.backend_of(self.like))
        dtype = property(lambda self: self.like.dtype)
        device = property(lambda self: None)

        def _matmat(self, x):
            return np.ascontiguousarray(np.roll(np.sort_complex(x).real, 1, axis=-2))

        def _adjoint(self):
            return self

    op, x = Shift(np.zeros(1)), normal(6)
    close(op @ da.from_array(x, chunks=2), op @ x)


# -- operators of Dask arrays ---------------------------------------------------------------------


class ChunkedMaker(zoo.Maker):
    """Draws the same matrices, in chunks of three rows and columns."""

    def __call__(self, matrix):
        return da.from_array(np.asarray(matrix).astype(self.numpy_dtype), chunks=3)

    def real(self, values):
        return super().real(values).rechunk(2)


# An order of wild factors in which nothing overflows needs their sizes.
SEEN = [name for name in zoo.CASES if name != "kronecker_wild_scales"]


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.parametrize("name", SEEN)
def test_an_operator_of_dask_arrays_is_lazy(name):
    looks = name == "transposed_sum"  # its case asks for the entries of an operator
    with dask.config.set(scheduler="sync" if looks else refuse_to_compute):
        op, matrix = zoo.CASES[name](ChunkedMaker(da, "complex128"))
    m, n = matrix.shape
    x = normal(n, 3)
    chunked = da.from_array(x, chunks=(2, 2))
    results = [(op @ chunked, matrix @ x), (op.H.H @ chunked[:, 0], matrix @ x[:, 0])]
    if m == n and n and np.linalg.cond(matrix) < 1e8:
        results += [
            (op.solve(chunked), np.linalg.solve(matrix, x)),
            (op.inverse().T @ chunked, np.linalg.solve(matrix.T, x)),
            (op.slogdet().logabsdet, np.linalg.slogdet(matrix)[1]),
            (op.trace(), np.trace(matrix)),
        ]
        if np.abs(matrix).max() < 1e100:
            damped = matrix + 10 * np.eye(n)
            results.append((op.damped(10.0).solve(chunked), np.linalg.solve(damped, x)))
    for got, want in results:
        scale = np.abs(want).max(initial=0)
        np.testing.assert_allclose(computed(got), want, rtol=1e-8, atol=1e-8 * scale)


def test_a_lazy_matrix_is_made_once_and_factorised_once(monkeypatch):
    made, factorised = [], []

    def making(matrix):
        made.append(matrix.shape)
        return matrix

    def factorising(*arguments):
        factorised.append(arguments[1])  # whether it is Hermitian
        return original(*arguments)

    original = dense.factorise
    matrix = da.from_array(definite(12)).map_blocks(making, meta=np.empty((0, 0)))
    for op in (DenseOperator(matrix), DenseOperator(matrix, "positive definite")):
        made.clear()
        factorised.clear()
        with monkeypatch.context() as patch:
            patch.setattr(dense, "factorise", factorising)
            b = da.from_array(normal(12, 9), chunks=(5, 3))
            results = op.solve(b), op.H.solve(b), op.logdet(), op.inverse() @ b, op @ b
            x, y, logdet, z, product = dask.compute(*results, scheduler="sync")
        assert made == [(12, 12)] and factorised == [True]
        for got in (x, y, z):
            np.testing.assert_allclose(got, np.linalg.solve(definite(12), normal(12, 9)))
        np.testing.assert_allclose(logdet, np.linalg.slogdet(definite(12))[1])
        np.testing.assert_allclose(product, definite(12) @ normal(12, 9))


def test_adjoints_of_lazy_general_matrices():
    a, b = normal(5, 5) + 1j * definite(5), normal(5, 2)
    op = DenseOperator(da.from_array(a))
    close(op.solve(da.from_array(b)), np.linalg.solve(a, b))
    close(op.H.solve(da.from_array(b)), np.linalg.solve(a.conj().T, b))
    close(op.H.inverse().to_dense(), np.linalg.inv(a.conj().T))


def test_graphs_of_lazy_factors_are_small():
    op = kron(da.from_array(definite(4)), da.from_array(definite(3)))
    (made,) = dask.optimize(op.multiply_inverse(da.from_array(normal(4, 3))))
    assert tasks(made) <= 20


def test_an_operator_is_sent_with_its_factorisations(monkeypatch):
    op = kron(definite(4), definite(3))
    op.solve(normal(12))
    b = normal(12, 3)
    want = op.solve(b)
    sent = pickle.dumps(op.inverse() @ da.from_array(b, chunks=(12, 1)))
    monkeypatch.setattr(dense, "factorise", refuse_to_compute)
    close(pickle.loads(sent), want)


def test_persist_keeps_factorisations_and_compute_brings_the_operator_here(monkeypatch):
    op = kron(*(DenseOperator(da.from_array(definite(n)), "symmetric") for n in (4, 3)))
    damped = op.damped(0.1).inverse().persist(scheduler="sync")
    inverse = op.inverse().persist(scheduler="sync")
    x, want = normal(12), kron(definite(4), definite(3))
    wanted = want.solve(x), want.damped(0.1).solve(x)
    with monkeypatch.context() as patch:
        patch.setattr(dense, "factorise", refuse_to_compute)
        patch.setattr(type(want.backend), "eigh", refuse_to_compute)
        close(inverse @ da.from_array(x), wanted[0])
        close(damped @ da.from_array(x), wanted[1])
    (here,) = dask.compute(inverse, scheduler="sync")
    assert here.backend.name == "numpy"
    np.testing.assert_allclose(here @ x, wanted[0])
    assert kron(definite(4)).persist().backend.name == "numpy"


def test_large_factorisations_go_first():
    """Dask's optimisation forgets it, so that what `persist` is given is not optimised."""
    claimed = [DenseOperator(da.from_array(definite(n)), "symmetric") for n in (6, 4)]
    for op in (kron(*claimed), kron(*claimed).damped(0.1)):
        inverse = op.inverse()
        inverse @ da.ones(24)
        layers = inverse.__dask_graph__().layers.values()
        found = {layer.annotations["priority"] for layer in layers if layer.annotations}
        assert found == {6**3, 4**3}


def test_right_hand_sides_keep_their_chunks_of_columns():
    b = da.from_array(normal(12, 9), chunks=(12, 3))
    for assume, chunks in itertools.product((None, "positive definite"), (12, 5)):
        made = DenseOperator(da.from_array(definite(12), chunks=chunks), assume).solve(b)
        assert made.chunks[1] == b.chunks[1]
        close(made, np.linalg.solve(definite(12), normal(12, 9)))


def test_contractions_hold_no_partial_sums():
    a = da.from_array(definite(40), chunks=-1)
    v = da.from_array(normal(40, 30), chunks=(5, 30))
    made = kron(a, da.from_array(definite(30), chunks=-1)).multiply(v)
    assert largest_on_the_way(made) <= 40 * 40  # the factor
    close(made, definite(40) @ normal(40, 30) @ definite(30))


def test_failures_are_errors_or_nan_when_they_are_computed():
    x = da.ones(2, chunks=1)
    singular = DenseOperator(da.ones((2, 2), chunks=1)).solve(x)
    indefinite = da.from_array(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(LinAlgError, match="singular"):
        computed(singular)
    with pytest.raises(LinAlgError, match="not positive definite"):
        computed(DenseOperator(indefinite, "positive definite").solve(x))
    assert np.all(np.isnan(computed(DenseOperator(indefinite).logdet())))
    skew = da.from_array(np.array([[1.0, 2.0], [0.0, 1.0]]))
    assert np.all(np.isnan(computed(DenseOperator(skew).eigh().eigenvalues)))
    diagonal = DiagonalOperator(da.from_array(np.array([1.0, 1j])))
    assert np.all(np.isnan(computed(diagonal.eigh().eigenvalues)))


def test_scalars_may_be_lazy():
    op = kron(da.from_array(definite(4)), da.from_array(definite(3)))
    value = da.from_array(np.array(0.5))
    x = normal(12)
    want = kron(definite(4), definite(3))
    close(op.damped(value).solve(da.from_array(x)), want.damped(0.5).solve(x))
    close((value * op) @ da.from_array(x), 0.5 * (want @ x))


def test_moves_are_explicit():
    lazy = kron(da.from_array(definite(4)), da.from_array(definite(3)))
    with pytest.raises(AssertionError, match="behind the user's back"):
        lazy.to_backend("numpy")
    with dask.config.set(scheduler="sync"):
        op = lazy.to_backend("numpy")
    assert op.backend.name == "numpy"
    assert op.to_backend("dask").backend.name == "dask"
    np.testing.assert_array_equal(op.to_dense(), np.kron(definite(4), definite(3)))


@pytest.mark.parametrize("ord", ["fro", "nuc", 1, 2, math.inf])
def test_norms(ord):
    a, b = normal(6, 4), normal(3, 3)
    op = kron(da.from_array(a, chunks=2), da.from_array(b, chunks=2))
    np.testing.assert_allclose(computed(op.norm(ord)), kron(a, b).norm(ord))


def test_wide_identities_and_uneven_shapes():
    xp = kron(da.ones((1, 1))).backend.xp
    np.testing.assert_array_equal(
        computed(xp.eye(3, 7, k=2, dtype="f8", device=None)), np.eye(3, 7, 2)
    )
    x = np.arange(120.0)
    for before, after in itertools.permutations(
        [(120,), (4, 5, 6), (6, 5, 4), (2, 60), (8, 15)], 2
    ):
        chunked = da.from_array(x.reshape(before), chunks=3)
        made = xp.reshape(chunked, after)
        assert max(chunk_sizes(made)) <= 2 * max(chunk_sizes(chunked))
        np.testing.assert_array_equal(computed(made), x.reshape(after))


# -- what is refused ------------------------------------------------------------------------------


def test_unknown_chunk_sizes_are_refused():
    x = da.ones(12, chunks=3)
    unknown = x[x > 0]
    op = kron(np.eye(4), np.eye(3))
    for apply in (op.matvec, op.multiply, op.solve):
        with pytest.raises(ValueError, match=r"unknown size.*compute_chunk_sizes\(\)"):
            apply(unknown)
    with pytest.raises(ValueError, match=r"factors\[0\] has shape .*unknown size"):
        kron(da.ones((3, 3), chunks=1)[x[:3] > 0])
    with pytest.raises(ValueError, match=r"\(nan, 3\)"):
        op.multiply(da.ones((4, 3), chunks=1)[x[:4] > 0])


def test_chunks_that_their_own_library_refuses():
    masked = da.ma.masked_array(da.ones(4, chunks=2), mask=[True, False, False, False])
    with pytest.raises(TypeError, match="masked array"):
        kron(np.eye(4)) @ masked
    with pytest.raises(TypeError, match="dtype object"):
        kron(np.eye(4)) @ da.ones(4, chunks=2).astype(object)


def test_other_mixtures_are_refused():
    op, x = kron(np.eye(2), np.eye(2)), np.ones(4)
    lazy, chunked = kron(da.ones((2, 2)), da.ones((2, 2))), da.ones(4, chunks=2)
    with pytest.raises(TypeError, match=r"x is an array of numpy, the operator's are of dask"):
        lazy @ x
    with pytest.raises(TypeError, match=r"factors\[0\] is of numpy, factors\[1\] of dask"):
        kron(np.eye(2), da.ones((2, 2)))
    with pytest.raises(TypeError, match=r"numpy and dask|dask and numpy"):
        op + lazy
    with pytest.raises(TypeError, match=r"v\[0\] is of dask, v\[1\] of numpy"):
        block_diag(np.eye(4), np.eye(4)).multiply([chunked, x])
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(TypeError, match=r"array of dask, the operator's are of torch"):
        kron(torch.eye(2), torch.eye(2)) @ chunked
    with pytest.raises(TypeError, match=r"array of torch, the operator's are of dask"):
        lazy @ torch.ones(4)


# -- the page -------------------------------------------------------------------------------------


def test_the_page_runs():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names: dict = {"__name__": "page"}
    with dask.config.set(scheduler="sync"):
        exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    assert names["step"].chunks == names["gradient"].chunks
    assert names["squared_norm"] > 0
    assert names["curvature"].backend.name == "numpy"
