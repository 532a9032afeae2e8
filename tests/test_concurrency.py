"""Threads, forks and interrupts: what is computed once is published whole, or not at all."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

import kronops
from kronops import (
    DenseOperator,
    DiagonalOperator,
    LowRankUpdateOperator,
    SeriesOperator,
    backends,
    kron,
)
from kronops.backends import settings

ROOT = Path(kronops.__file__).parent

pytestmark = pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
rng = np.random.default_rng(0)


def definite(n):
    draws = rng.standard_normal((n, 2 * n))
    return draws @ draws.T / n


A, B, C = definite(6), definite(5), definite(4)
GENERAL = rng.standard_normal((6, 6)) + 6 * np.eye(6)
X = rng.standard_normal((120, 3))


def first_use(name):
    """A new operator, whose caches are empty, and what its first use computes."""
    op = OPERATORS[name]()
    x = X[: op.shape[0]]
    return op, lambda: [
        op @ x,
        op.solve(x),
        op.inverse() @ x,
        np.asarray(op.logdet()),
        op.T @ x,
        op.H.solve(x),
        op.diagonal(),
    ]


OPERATORS = {
    "dense": lambda: DenseOperator(GENERAL),
    "kronecker": lambda: kron(A, B, C),
    "written inverses": lambda: kron(A, B).inverse(),
    "extreme factors": lambda: kron(1e200 * A, 1e-200 * B, C),
    "exact damping": lambda: kron(A, B, C).damped(0.1),
    "Schur": lambda: kron(GENERAL, B).damped(0.1),
    "sum": lambda: kron(A, B, C) + kron(A, B, np.diag([1.0, 2, 3, 4])),
    "Kronecker sum": lambda: kronops.KroneckerSumOperator([A, B, C]),
    "blocks": lambda: kronops.block_diag(*[definite(5) for _ in range(6)]),
    "low rank": lambda: LowRankUpdateOperator(kron(A, B), X[:30]),
    "masked": lambda: kron(A, B).masked(np.arange(30) % 3 > 0),
    "product": lambda: kron(A, B) @ DiagonalOperator(np.arange(1.0, 31)) @ kron(A, B),
    "series": lambda: SeriesOperator((A, 0.3 * A), (B, -0.4 * B), 7, 1),
    "stationary series": lambda: SeriesOperator((A, 0.3 * A), (B, -0.4 * B), 7, 2),
}


def assert_same(got, want):
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.max(np.abs(other)))


def in_threads(functions):
    """What each gives, all started at once; an error in one is raised here."""
    start = threading.Barrier(len(functions))
    made: list = [None] * len(functions)

    def run(index):
        start.wait()
        try:
            made[index] = functions[index]()
        except BaseException as error:
            made[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(functions))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    finally:
        sys.setswitchinterval(interval)
    for result in made:
        if isinstance(result, BaseException):
            raise result
    return made


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_the_first_use_by_many_threads_at_once(name):
    state = rng.bit_generator.state
    want = first_use(name)[1]()
    rng.bit_generator.state = state  # of the blocks, which are drawn
    _, use = first_use(name)
    for got in in_threads([use] * 12):
        assert_same(got, want)


@pytest.mark.usefixtures("threads_at_every_size")
@pytest.mark.parametrize("compiled", [None, False])
def test_workspaces_are_of_one_thread_each(compiled):
    """Vectors of many pieces, of other values and other numbers of columns in each thread."""
    factors = [rng.standard_normal((20, 20)) for _ in range(4)]
    op = kron(*factors)
    first, last = np.kron(*factors[:2]), np.kron(*factors[2:])
    vectors = [rng.standard_normal((20**4, 2 + i % 3)) for i in range(8)]

    def product(x):
        with settings(threads=1 + x.shape[1] % 2, compiled=compiled):
            return [op @ x for _ in range(3)]

    def by_hand(x):
        return (last @ (first @ x.reshape(400, -1)).reshape(400, 400, -1)).reshape(x.shape)

    sweeps = op._products.plan(1, 4, vectors[0].dtype).sweeps
    assert any(len(sweep.steps) > 1 for sweep in sweeps)  # so that there are workspaces
    made = in_threads([lambda x=x: product(x) for x in vectors])
    for x, results in zip(vectors, made, strict=True):
        for got in results:
            np.testing.assert_allclose(got, by_hand(x), rtol=1e-9, atol=1e-8)


def test_threads_that_ask_for_more_shapes_than_are_kept():
    """Programs are thrown away while others use theirs."""
    op, matrix = kron(C, B), np.kron(C, B)
    given = [rng.standard_normal((20, k)) for k in range(1, 40)]

    def all_shapes():
        for x in given:
            np.testing.assert_allclose(op @ x, matrix @ x, rtol=1e-9, atol=1e-9)

    in_threads([all_shapes] * 8)


# -- forks -----------------------------------------------------------------------------------------

forks = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin",
    reason="processes are not forked here",
)


def in_child(function):
    """Whether a forked child says that it is right; a child that hangs is ended, and is wrong."""
    with warnings.catch_warnings():
        # Python 3.12 and JAX, if another test has imported it, warn that threads may be running.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        child = multiprocessing.get_context("fork").Process(target=function)
        child.start()
    child.join(timeout=60)
    if child.is_alive():
        child.kill()
        pytest.fail("the child waits for what nobody will do")
    return child.exitcode == 0


@forks
@pytest.mark.parametrize("name", OPERATORS)
def test_a_fork_after_use_and_before_it(name):
    used, use = first_use(name)
    want = use()
    fresh = pickle.loads(pickle.dumps(used))
    x = X[: used.shape[0]]

    def child():
        assert_same(use(), want)
        assert_same([fresh @ x, fresh.solve(x)], want[:2])

    assert in_child(child)
    assert_same(use(), want)


@forks
def test_forks_in_the_midst_of_the_first_use_in_another_thread():
    """Locks that the other thread holds stay locked in a child for ever: there are none."""
    stop = threading.Event()

    def first_uses():
        while not stop.is_set():
            first_use("kronecker")[1]()

    def child():
        first_use("kronecker")[1]()

    thread = threading.Thread(target=first_uses)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        assert all(in_child(child) for _ in range(10))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


@forks
def test_a_fork_waits_for_a_library_that_is_being_loaded():
    """The one lock that there is, around the import of a backend."""
    taken, free = threading.Event(), threading.Event()

    def load():
        with backends._LOADING:
            taken.set()
            free.wait(timeout=0.5)

    thread = threading.Thread(target=load)
    thread.start()
    taken.wait()

    def child():
        assert backends._LOADING.acquire(timeout=5)

    assert in_child(child)
    thread.join()


def test_no_other_locks_are_held_in_a_computation():
    """Python 3.11's `functools.cached_property` has one; no GPU that is in use survives a fork."""
    files = sorted(ROOT.rglob("*.py"))
    locked = [path.name for path in files if "cached_property\n" in path.read_text("utf-8")]
    assert locked == ["cuda.py"]


@forks
@pytest.mark.usefixtures("threads_at_every_size")
def test_threads_of_products_work_in_a_child():
    factors = [rng.standard_normal((n, n)) for n in (40, 40, 20)]
    op, x = kron(*factors), rng.standard_normal((32000, 2))
    with settings(threads=2, compiled=False):
        want = op @ x

        def child():
            np.testing.assert_array_equal(op @ x, want)

        assert in_child(child)


# -- interrupts ------------------------------------------------------------------------------------


class Interrupt:
    """Raises `KeyboardInterrupt` at the n-th line of kronops, as a signal there would."""

    folder = str(ROOT)

    def __init__(self, line):
        self.left = line

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(self.folder):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def lines_of(function):
    counter = Interrupt(-1)
    traced(function, counter)
    return -1 - counter.left


def traced(function, tracer):
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        function()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_interrupt_at_any_line_leaves_the_operator_right(name):
    state = rng.bit_generator.state
    _, use = first_use(name)
    want = use()
    rng.bit_generator.state = state
    total = lines_of(first_use(name)[1])
    for line in np.unique(np.linspace(1, total - 1, 25).astype(int)):
        rng.bit_generator.state = state
        op, use = first_use(name)
        with pytest.raises(KeyboardInterrupt):
            traced(use, Interrupt(line))
        assert_same(use(), want)
        x = X[: op.shape[0]]
        assert_same([pickle.loads(pickle.dumps(op)) @ x], [op @ x])


@pytest.mark.parametrize("call", ["eigh", "lu", "lu_solve", "scaled_cholesky", "cholesky_solve"])
def test_an_interrupt_inside_lapack_leaves_the_operator_right(call, monkeypatch):
    """Each call of a factorisation or a triangular solve, one after the other."""
    for name in ("dense", "kronecker", "exact damping", "low rank", "series"):
        want = first_use(name)[1]()
        number = 1
        while True:
            op, use = first_use(name)
            left = [number]
            original = getattr(type(op.backend), call)

            def interrupted(self, *given, _left=left, _original=original, **more):
                _left[0] -= 1
                if _left[0] == 0:
                    raise KeyboardInterrupt
                return _original(self, *given, **more)

            with monkeypatch.context() as patch:
                patch.setattr(type(op.backend), call, interrupted)
                try:
                    use()
                    break
                except KeyboardInterrupt:
                    assert_same(use(), want)
            assert_same(use(), want)
            number += 1


# -- memory ----------------------------------------------------------------------------------------


def many_calls(name, rounds):
    """Products of several shapes and solves, and now and then new operators from old ones."""
    op, _ = first_use(name)
    x = X[: op.shape[0]]
    flat = x[:, 0].copy()

    def calls():
        for index in range(rounds):
            op @ flat
            op @ x[:, : 1 + index % 3]
            op.solve(flat)
            op.T @ flat
            if index % 50 == 0:
                op.damped(1e-3 * index + 1e-3).solve(flat)
                (2.0 * op + op.T @ op) @ flat

    calls()
    gc.collect()
    return calls


@pytest.mark.parametrize("name", ["kronecker", "exact damping"])
def test_objects_stay_as_many_over_100_000_calls(name):
    calls = many_calls(name, 12_500)
    before = sys.getallocatedblocks()
    calls()
    gc.collect()
    assert sys.getallocatedblocks() - before < 1000


@pytest.mark.parametrize("name", ["dense", "blocks", "low rank", "series"])
def test_memory_stays_flat(name):
    calls = many_calls(name, 300)
    tracemalloc.start()
    try:
        calls()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        calls()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 10_000
