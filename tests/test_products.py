"""Products with Kronecker factors by NumPy, of sizes at which every way to carry them out is taken.

What is planned is tested without arrays in `test_planning.py`.
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

import kronops
from kronops import planning
from kronops.backends import pieces
from kronops.backends.numpy import NumpyBackend
from kronops.backends.settings import current_settings, settings
from kronops.planning import TO_BACK, TO_FRONT, plan
from kronops.scaling import dtype_exponent

RNG = np.random.default_rng(0)


def draw(*shape: int, dtype: str = "float64") -> np.ndarray:
    values = RNG.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * RNG.standard_normal(shape)
    return values.astype(dtype)


def reference(matrices: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """The product with ``x`` of shape ``(..., n, k)``, one `tensordot` for each factor."""
    *batch, _, k = x.shape
    made = x.reshape(math.prod(batch), *(matrix.shape[1] for matrix in matrices), k)
    for axis, matrix in enumerate(matrices, start=1):
        made = np.moveaxis(np.tensordot(matrix, made, (1, axis)), 0, axis)
    return made.reshape(*batch, -1, k)


def error(made: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(made - wanted).max() / np.abs(wanted).max())


@pytest.fixture(params=(False, True), ids=("numpy", "compiled"))
def compiled(request):
    """Without and with compiled kernels."""
    if request.param:
        pytest.importorskip("numba")
    with settings(threads=1, compiled=request.param):
        yield request.param


class TestLayouts:
    """Arrays with their axes in any order in memory, given by users or made on the way."""

    @pytest.mark.parametrize("order", (0, 1, 2))
    @pytest.mark.parametrize("batch, columns", ((64, 3), (1, 64)))
    @pytest.mark.parametrize("dtype", ("float32", "float64"))
    def test_of_the_array_given(self, compiled, dtype, batch, columns, order):
        factors = [draw(8, 8) for _ in range(4)]
        x = draw(batch, 8**4, columns, dtype=dtype)
        given = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, order, -1)), -1, order)
        wanted = reference(factors, x.astype("float64"))
        assert error(kronops.kron(*factors) @ given, wanted) < 1e-14

    def test_of_the_array_given_where_it_is_cut_into_pieces(self, compiled):
        factors = [draw(n, n) for n in (12, 8, 10, 6, 5, 4)]
        op, x = kronops.kron(*factors), draw(12 * 8 * 10 * 6 * 5 * 4, 8)[:, ::2]
        plan = op._products.plan(1, 4, x.dtype)
        assert any(len(sweep.steps) > 1 for sweep in plan.sweeps)  # so that there are pieces
        assert error(op @ x, reference(factors, x)) < 1e-13

    @pytest.mark.parametrize("columns", (1, 3))
    def test_of_what_an_operator_among_the_factors_makes(self, compiled, columns):
        factors, (a, b) = [draw(16, 16) for _ in range(4)], (draw(8, 8), draw(8, 8))
        x = draw(16**5, columns)
        blocks = np.block([[a, np.zeros((8, 8))], [np.zeros((8, 8)), b]])
        op = kronops.kron(*factors, kronops.block_diag(a, b))
        assert error(op @ x, reference([*factors, blocks], x)) < 1e-14


def test_the_last_piece_may_be_one_column_wide(compiled):
    factors = [draw(5, 5, dtype="float32") for _ in range(6)]
    x = draw(5**6, 33, dtype="float32")
    assert error(kronops.kron(*factors) @ x, reference(factors, x)) < 1e-5


class TestMixedDtypes:
    @pytest.mark.parametrize("scale", (1.0, 1 / 3))
    def test_only_the_result_is_rounded(self, scale):
        factors, x = [draw(3, 3, dtype="float32") for _ in range(3)], draw(27, 1)
        wanted = scale * reference([factor.astype("float64") for factor in factors], x)
        made = kronops.KroneckerOperator(factors, scale) @ x
        assert made.dtype == np.float64
        assert error(made, wanted) < 1e-14

    def test_one_operator_takes_all(self, compiled):
        factors, x = [draw(8, 8, dtype="float32") for _ in range(5)], draw(8**5)
        op, wanted = kronops.kron(*factors), reference(factors, x[:, None])[:, 0]
        for dtype, rounding in (("float32", 1e-5), ("float64", 1e-13), ("complex128", 1e-13)):
            made = op @ x.astype(dtype)
            assert made.dtype == dtype
            assert error(made, wanted) < rounding


class TestFactorsOfIntegers:
    """Factors whose first array holds places, not numbers."""

    @pytest.mark.parametrize("picked", (np.s_[::2], [3, 1]))
    def test_selected_rows(self, picked):
        base, other = kronops.kron(draw(2, 2), draw(3, 3)), draw(2, 2)
        op, x = kronops.kron(base[picked], other), draw(12, 2)
        wanted = np.kron(base.to_dense()[picked], other) @ x
        assert error(op @ x, wanted) < 1e-14
        assert "multiply" in str(op.explain())

    def test_permuted_singular_vectors(self):
        vectors = kronops.kron(draw(2, 2), draw(3, 3)).svd().Vh
        op, b = kronops.kron(vectors, draw(2, 2)), draw(12)
        np.testing.assert_allclose(op @ op.solve(b), b, atol=1e-12)
        system = op.damped(0.1)
        np.testing.assert_allclose(system.to_dense() @ system.solve(b), b, atol=1e-12)


class TestScale:
    """Once, wherever it is put."""

    @pytest.mark.parametrize("sizes", ((3, 3), (8,) * 5, (30, 40, 50), (70, 5, 80)))
    @pytest.mark.parametrize("scale", (-3.0, 1e-300, 2j))
    def test_is_applied_once(self, compiled, sizes, scale):
        factors, x = [draw(p, p) for p in sizes], draw(math.prod(sizes), 2)
        made = kronops.KroneckerOperator(factors, scale) @ x
        assert error(made / scale, reference(factors, x)) < 1e-13

    def test_of_operators(self):
        blocks, x = kronops.block_diag(draw(2, 2), draw(1, 1)), draw(9, 2)
        wanted = -2 * reference([blocks.to_dense()] * 2, x)
        assert error(kronops.KroneckerOperator([blocks] * 2, -2.0) @ x, wanted) < 1e-14

    def test_of_factors_without_entries(self):
        given = np.ones((4, 3))
        identities = [kronops.IdentityOperator(2, like=given)] * 2
        made = kronops.KroneckerOperator(identities, -2.0) @ given
        assert np.array_equal(made, -2 * given)


class TestRange:
    """Entries whose products leave the range are not multiplied with each other first."""

    @pytest.mark.parametrize("dtype, tiny, huge", (("float64", -200, 300), ("float32", -25, 30)))
    def test_small_entries_meet_a_large_vector(self, compiled, dtype, tiny, huge):
        factor = np.array([[1, 10.0**tiny], [10.0**tiny, 1]], dtype)
        x = np.zeros(2**15, dtype)  # enough for kernels
        x[3] = 10.0**huge  # of the last two factors, which are not merged
        made = kronops.kron(*[factor] * 15) @ x
        assert float(made[0]) == pytest.approx(10.0 ** (huge + 2 * tiny), rel=1e-5, abs=0)

    @pytest.mark.parametrize("dtype, tiny, huge", (("float64", -200, 300), ("float32", -25, 30)))
    @pytest.mark.parametrize("count", (2, 12))
    def test_small_entries_of_diagonals(self, dtype, tiny, huge, count):
        factor = kronops.DiagonalOperator(np.array([1, 10.0**tiny], dtype))
        x = np.zeros(2**count, dtype)
        x[3] = 10.0**huge
        made = kronops.kron(*[factor] * count) @ x
        assert float(made[3]) == pytest.approx(10.0 ** (huge + 2 * tiny), rel=1e-5, abs=0)

    @pytest.mark.parametrize("kind", (kronops.DenseOperator, kronops.DiagonalOperator))
    @pytest.mark.parametrize("count", (1, 2, 12))
    def test_a_small_scale_meets_a_large_vector(self, compiled, kind, count):
        entries = np.array([1, 1e-250] if kind is kronops.DiagonalOperator else [[1, 1e-250]] * 2)
        x = np.zeros(2**count)
        x[1] = 1e300
        made = kronops.KroneckerOperator([kind(entries)] * count, 1e-100) @ x
        assert float(made[1]) == pytest.approx(1e-50, rel=1e-12, abs=0)

    @pytest.mark.parametrize("dtype, power", (("float64", 200), ("float32", 25)))
    def test_small_factors_meet_a_large_one(self, compiled, dtype, power):
        small, large = 10.0**-power * draw(4, 4), 10.0 ** (3 * power // 2) * draw(4, 4)
        x = draw(4**6, 2, dtype=dtype)
        factors = [small, small, large, draw(4, 4), draw(4, 4), draw(4, 4)]
        made = kronops.kron(*[factor.astype(dtype) for factor in factors]) @ x
        mantissas = [small * 10.0**power, small * 10.0**power, large / 10.0 ** (3 * power // 2)]
        wanted = reference([*mantissas, *factors[3:]], x.astype("float64"))
        back = 10.0 ** (3 * power // 2 - 2 * power)
        assert error(made / back, wanted) < 1e-5

    @pytest.mark.parametrize("number", (np.nan, np.inf))
    def test_nan_and_infinity_are_passed_on(self, compiled, number):
        factors, x = [draw(8, 8) for _ in range(6)], draw(8**6)
        x[12345] = number
        assert not np.isfinite(kronops.kron(*factors) @ x).any()


KINDS = {
    "identities": lambda: [kronops.IdentityOperator(8, like=np.zeros(1))] * 6,
    "small": lambda: [draw(8, 8) for _ in range(6)],
    "one": lambda: [kronops.IdentityOperator(8**5, like=np.zeros(1)), draw(8, 8)],
    "diagonals": lambda: [kronops.DiagonalOperator(draw(64)) for _ in range(3)],
    "large": lambda: [draw(512, 512), kronops.IdentityOperator(512, like=np.zeros(1))],
    "vectors": lambda: [draw(1, 1), kronops.IdentityOperator(8**6, like=np.zeros(1))],
}


class TestOwnership:
    """Nothing is written to what was given, and nothing made is a view of it."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dtype", ("float64", "float32"))
    def test_of_whole_vectors(self, compiled, kind, dtype):
        op = kronops.kron(*KINDS[kind]())
        for shape in ((8**6,), (8**6, 1)):
            x = draw(*shape, dtype=dtype)
            given = x.copy()
            for made in (op @ x, op @ x):
                assert np.array_equal(x, given)
                assert not np.shares_memory(made, x)
                made[:] = 0
            assert np.array_equal(x, given)


class TestBatches:
    """Leading axes, and products from the other side."""

    @pytest.mark.parametrize("batch", ((3,), (2, 3), (0,)))
    @pytest.mark.parametrize("columns", (1, 5, 0))
    def test_of_matrices(self, compiled, batch, columns):
        factors = [draw(9, 7), draw(8, 8), draw(5, 9)]
        x = draw(*batch, 7 * 8 * 9, columns)
        made = kronops.kron(*factors) @ x
        assert made.shape == (*batch, 9 * 8 * 5, columns)
        assert np.allclose(made, np.kron(np.kron(*factors[:2]), factors[2]) @ x, atol=1e-11)

    @pytest.mark.parametrize("shape", ((9 * 8 * 5,), (4, 9 * 8 * 5), (2, 3, 9 * 8 * 5)))
    def test_from_the_other_side(self, compiled, shape):
        factors, x = [draw(9, 7), draw(8, 8), draw(5, 9)], draw(*shape)
        wanted = x @ np.kron(np.kron(*factors[:2]), factors[2])
        assert error(x @ kronops.kron(*factors), wanted) < 1e-14

    def test_of_nothing_is_zeros(self, compiled):
        made = kronops.kron(np.ones((3, 0)), np.ones((2, 2))) @ np.zeros((0, 4))
        assert np.array_equal(made, np.zeros((6, 4)))

    def test_large_from_the_other_side(self, compiled):
        factors, x = [draw(8, 8) for _ in range(5)], draw(9, 8**5)
        wanted = reference([factor.T for factor in factors], x.T).T
        assert error(x @ kronops.kron(*factors), wanted) < 1e-13


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("columns", [2, 5, 40, 130])
@pytest.mark.parametrize("beside", [1, 3])
def test_large_matrices_and_few_columns(columns, beside, threads, monkeypatch):
    """More multiplications than BLAS does without copies: bands of rows, slices side by side."""
    monkeypatch.setattr(pieces, "_SHARED", 10**7)
    a = draw(720, 512)
    op = kronops.kron(np.eye(beside), a)
    with settings(threads=threads):
        x = draw(beside * 512, columns)
        y = draw(columns, beside * 720)
        np.testing.assert_allclose(op @ x, np.kron(np.eye(beside), a) @ x, rtol=0, atol=1e-11)
        np.testing.assert_allclose(y @ op, y @ np.kron(np.eye(beside), a), rtol=0, atol=1e-11)


class TestEveryWay:
    """A cache of so few bytes that small vectors are cut into pieces, batches and tiles."""

    @pytest.fixture(params=((256, 64, 1), (1024, 64, 3), (1024, 4096, 3)), ids=str)
    def small(self, request, monkeypatch, threads_at_every_size):
        cache, work, threads = request.param
        machine = NumpyBackend.machine

        def small_machine(backend, dtype, numbers):
            return machine(backend, dtype, numbers)._replace(cache=cache, merged=8, work=work)

        monkeypatch.setattr(NumpyBackend, "machine", small_machine)
        for module in (planning, pieces):
            monkeypatch.setattr(module, "SMALL", 100)
            monkeypatch.setattr(module, "FEW", 4)
        with settings(threads=threads, compiled=False):
            yield

    @pytest.mark.parametrize(
        "shapes",
        (
            ((2, 2),) * 9,
            ((8, 8), (5, 5), (7, 7), (3, 3)),
            ((3, 8), (8, 2), (17, 5), (2, 17)),
            ((1, 1), (40, 30), (1, 9), (20, 1)),
        ),
        ids=("tiny", "square", "rectangular", "ones"),
    )
    def test_gives_the_product(self, small, shapes):
        dense = [draw(*shape) for shape in shapes]
        diagonal, blocks = draw(5), [draw(2, 3), draw(4, 2)]
        other = [
            kronops.DiagonalOperator(diagonal),
            kronops.IdentityOperator(3, like=diagonal),
            kronops.block_diag(*blocks),
        ]
        written = [np.diag(diagonal), np.eye(3), other[-1].to_dense()]
        for factors, matrices in (
            (dense, dense),
            ([*dense[:2], *other[:2], *dense[2:]], [*dense[:2], *written[:2], *dense[2:]]),
            ([other[2], *dense[:3], other[1]], [written[2], *dense[:3], written[1]]),
        ):
            op = kronops.kron(*factors)
            for batch, columns in (((), 1), ((3,), 1), ((), 6), ((2,), 17)):
                x = draw(*batch, op.shape[1], columns)
                given = x.copy()
                assert error(op @ x, reference(matrices, x)) < 1e-13
                assert np.array_equal(x, given)


class TestTurning:
    """One vector, turned around by long products that the threads of BLAS share."""

    @pytest.fixture(params=(TO_FRONT, TO_BACK))
    def way(self, request, monkeypatch):
        """Every product goes this way, as if it took no time."""
        machine = NumpyBackend.machine

        class Free(NamedTuple):
            way: str

            def turned(self, kind, rows, columns, others):
                return -1.0 if kind == self.way else math.inf

            def transposed(self, rows, columns):
                return 0.0 if min(rows, columns) == 1 else math.inf

        def turning(backend, dtype, numbers):
            made = machine(backend, dtype, numbers)
            return made._replace(turning=Free(request.param), cache=0, merged=6)

        monkeypatch.setattr(NumpyBackend, "machine", turning)
        return request.param

    @pytest.mark.parametrize("dtype", ("float32", "float64", "complex64", "complex128"))
    @pytest.mark.parametrize(
        "shapes",
        (((2, 3), (3, 2), (2, 2)), ((4, 4), (5, 5)), ((1, 7), (6, 1), (3, 5)), ((9, 8),)),
        ids=("merged", "square", "ones", "one"),
    )
    def test_gives_the_product(self, way, shapes, dtype):
        factors = [draw(*shape, dtype=dtype) for shape in shapes]
        op = kronops.kron(*factors)
        kinds = {step.kind for _, step in op._products.plan(1, 1, op.dtype).steps}
        assert kinds == {way}
        long = draw(2 * op.shape[1], dtype=dtype)
        for x in (long[: op.shape[1]], long[::2], long[::-2]):
            given = x.copy()
            made = op @ x
            assert error(made, reference(factors, x[:, None])[:, 0]) < 30 * np.finfo(dtype).eps
            assert made.dtype == dtype
            assert made.flags.c_contiguous and not np.shares_memory(made, x)
            assert np.array_equal(x, given)

    def test_several_vectors_stay_where_they_are(self, way):
        factors = [draw(4, 4), draw(3, 5), draw(2, 2)]
        op = kronops.kron(*factors)
        x = draw(op.shape[1], 3)
        assert way not in {step.kind for _, step in op._products.plan(1, 3, op.dtype).steps}
        assert error(op @ x, reference(factors, x)) < 1e-14

    def test_where_threads_of_blas_have_no_others_beside_them(self):
        """Ours share what is larger, and half precision is multiplied in plain loops."""
        backend = NumpyBackend("numpy", np)
        with settings(threads=4, compiled=False):
            turning = backend.machine("float32", 2**20).turning
            assert (turning.itemsize, turning.threads) == (4, 4)
            assert backend.machine("float32", 2**22).turning is None
            assert backend.machine("float16", 2**20).turning is None
        with settings(threads=1, compiled=False):
            assert backend.machine("float32", 2**20).turning is None

    def test_factors_that_are_no_matrices_stay_where_they_are(self, way):
        diagonal, matrix = draw(4), draw(3, 3)
        op = kronops.kron(kronops.DiagonalOperator(diagonal), matrix)
        x = draw(12)
        assert error(op @ x, np.kron(np.diag(diagonal), matrix) @ x) < 1e-14


class TestPrograms:
    """What is kept for each shape of vectors, and what it is made of."""

    def test_the_machine_is_asked_for_the_larger_of_both_vectors(self, monkeypatch):
        machine, asked = NumpyBackend.machine, []

        def noted(backend, dtype, numbers):
            asked.append(numbers)
            return machine(backend, dtype, numbers)

        monkeypatch.setattr(NumpyBackend, "machine", noted)
        for shapes in (((3, 2), (2, 5)), ((2, 3), (5, 2))):
            kronops.kron(*[draw(*shape) for shape in shapes])._products.plan(4, 7, np.float64)
        assert asked == [4 * 10 * 7] * 2

    def test_sixteen_are_kept(self):
        op = kronops.kron(draw(2, 2), draw(3, 3))
        for columns in range(1, 17):
            op @ draw(6, columns)
            assert len(op._products._programs) == columns
        op @ draw(6, 17)
        assert len(op._products._programs) == 1

    def test_sizes_of_arrays_that_have_values_are_seen(self):
        products = kronops.kron(draw(2, 2), draw(3, 3))._products
        assert products.moderate and products.surely_moderate and not products.hidden

    def test_what_shrinks_comes_first_and_then_the_scale(self):
        op = kronops.KroneckerOperator([draw(5, 2), draw(3, 3), draw(2, 5)], 3.0)
        assert op._products._shrinking_first() == [2, 1, 0, 3.0]


@pytest.mark.thread_unsafe(reason="tracemalloc counts the memory of all threads")
class TestMemory:
    @pytest.mark.parametrize(
        "shapes",
        (((8, 8),) * 7, ((200, 100), (100, 200), (120, 120)), ((2, 2),) * 20),
        ids=("small", "rectangular", "tiny"),
    )
    def test_peak_is_the_result_and_two_vectors_on_the_way(self, compiled, shapes):
        op = kronops.kron(*[draw(*shape) for shape in shapes])
        x = draw(op.shape[1])
        op @ x  # merged factors and kernels are kept
        largest = math.prod(max(shape) for shape in shapes)
        allowed = 8 * (math.prod(rows for rows, _ in shapes) + 2 * largest) + 2**20
        tracemalloc.start()
        try:
            op @ x
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak <= allowed

    def test_stays_flat_over_many_calls_and_shapes(self):
        plan.cache_clear()  # what other tests left, which grows by leaps
        op = kronops.kron(*[draw(4, 4) for _ in range(4)])
        x = draw(4**4, 40)
        for columns in range(1, 40):
            op @ x[:, :columns]
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for call in range(1000):
                op @ x[:, : 1 + call % 39]
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 2**18
        assert len(op._products._programs) <= 16

    @pytest.mark.parametrize("shapes", (((60, 90),) * 3, ((90, 60),) * 3, ((8, 12),) * 5))
    def test_a_result_holds_no_more_than_its_numbers(self, shapes):
        op = kronops.kron(*[draw(*shape) for shape in shapes])
        made = memory = op @ draw(op.shape[1])
        while memory.base is not None:
            memory = memory.base
        assert memory.nbytes == made.nbytes

    def test_vectors_on_the_way_take_turns_in_one_array(self, monkeypatch):
        op, x, sizes = kronops.kron(*[draw(80, 80)] * 3), draw(80**3), []
        with settings(compiled=False):
            wanted = op @ x
            empty = np.empty

            def counted(size, dtype):
                sizes.append(size)
                return empty(size, dtype)

            monkeypatch.setattr(pieces.np, "empty", counted)
            made = op @ x
        assert sizes.count(80**3) == 2  # the result, and one more
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.usefixtures("threads_at_every_size")
class TestThreads:
    CASES = (
        pytest.param(((8, 8),) * 6, id="small"),
        pytest.param(((50, 50),) * 3, id="medium"),
        pytest.param(((300, 200), (200, 300)), id="large"),
    )

    @pytest.mark.parametrize("shapes", CASES)
    @pytest.mark.parametrize("compiled", (False, True))
    def test_share_one_product(self, shapes, compiled):
        factors = [draw(*shape) for shape in shapes]
        x = draw(math.prod(columns for _, columns in shapes), 3)
        op, wanted = kronops.kron(*factors), reference(factors, x)
        for threads in (1, 2, 3, 7):
            with settings(threads=threads, compiled=compiled):
                assert error(op @ x, wanted) < 1e-13

    @pytest.mark.parametrize("shapes", CASES)
    def test_have_one_operator_in_common(self, compiled, shapes):
        factors = [draw(*shape) for shape in shapes]
        n = math.prod(columns for _, columns in shapes)
        op, vectors = kronops.kron(*factors), [draw(n, 1 + k % 3) for k in range(12)]
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda x: op @ x, vectors))
        for x, y in zip(vectors, made, strict=True):
            assert error(y, reference(factors, x)) < 1e-13

    def test_have_programs_of_their_own(self):
        """For where BLAS has no threads, products of matrices may be larger."""
        op, x = kronops.kron(*[draw(50, 50)] * 2), draw(2500, 200)
        most = []
        for threads in (1, 2):
            with settings(threads=threads, compiled=False):
                op @ x
                most.append(op._products.plan(1, 200, x.dtype).machine.work)
        assert most[0] > most[1]
        assert len(op._products._programs) == 2

    def test_raise_their_errors_in_the_caller(self, monkeypatch):
        op, x = kronops.kron(*[draw(50, 50)] * 3), draw(50**3, 4)
        with settings(threads=2, compiled=False):
            op @ x  # planned
            caller, raised = threading.get_ident(), []

            def fail(*arguments):
                raised.append(threading.get_ident())
                raise FloatingPointError("in a worker")

            monkeypatch.setattr(pieces._Multiplication, "__call__", fail)
            with pytest.raises(FloatingPointError, match="in a worker"):
                op @ x
        assert raised
        assert caller not in raised


class TestSizesThatAreWorthThreads:
    """On two cores that BLAS's threads wait on, two of ours took ten times as long as one."""

    @pytest.mark.parametrize("compiled", [False, True])
    def test_are_those_that_take_long(self, compiled, monkeypatch):
        given, share = [], pieces._share
        monkeypatch.setattr(
            pieces, "_share", lambda f, parts: given.append(parts) or share(f, parts)
        )
        for sizes, most in (([8] * 7, 1), ([8] * 8, 2), ([50] * 3, 1)):
            given.clear()
            op = kronops.kron(*[draw(n, n, dtype="float32") for n in sizes])
            with settings(threads=2, compiled=compiled):
                op @ draw(math.prod(sizes), dtype="float32")
                work = op._products.plan(1, 1, np.dtype("float32")).machine.work
            assert max(map(len, given), default=1) == most
            with settings(threads=1, compiled=compiled):  # which BLAS may share in its turn
                alone = op._products.plan(1, 1, np.dtype("float32")).machine.work
            assert (work < alone) == (most == 2)


class TestSettings:
    @pytest.mark.parametrize("threads", (0, -1, True))
    def test_at_least_one_thread(self, threads):
        with pytest.raises(ValueError, match=f"threads = {threads}"), settings(threads=threads):
            pass

    @pytest.mark.parametrize("threads", (1.5, "2"))
    def test_whole_threads(self, threads):
        with pytest.raises(TypeError), settings(threads=threads):
            pass

    def test_the_innermost_holds_and_the_others_are_kept(self):
        default = current_settings()
        with settings(threads=3):
            with settings(compiled=False) as inner:
                assert current_settings() == inner == (3, False)
                with settings(threads=np.int64(5), compiled=True):
                    assert current_settings() == (5, True)
                assert current_settings() == inner
            assert current_settings() == (3, default.compiled)
        assert current_settings() == default

    def test_end_with_an_error(self):
        default = current_settings()
        with pytest.raises(KeyError), settings(threads=9):
            raise KeyError
        assert current_settings() == default

    def test_are_not_those_of_other_threads(self):
        default = current_settings()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(current_settings).result() == default
            with settings(threads=9, compiled=False):
                assert pool.submit(current_settings).result() == default

    def test_kernels_can_be_done_without(self):
        pytest.importorskip("numba")
        op, x = kronops.kron(*[draw(8, 8)] * 5), draw(8**5)
        with settings(compiled=False):
            assert "by a kernel" not in str(op._products.plan(1, 1, x.dtype))
        with settings(compiled=True):
            assert "by a kernel" in str(op._products.plan(1, 1, x.dtype))


def test_short_vectors_do_not_import_numba():
    code = (
        "import sys, numpy as np, kronops\n"
        "kronops.kron(*[np.ones((8, 8))] * 3) @ np.ones(512)\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_long_double_has_a_largest_exponent():
    """And products of long doubles come to an end."""
    assert dtype_exponent(np.zeros(1, np.longdouble)) >= 1024
