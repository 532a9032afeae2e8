"""Plans written by hand and carried out by NumPy, and each part of that alone: what mutants of
`kronops.backends.pieces` asked for.

``python tests/mutants.py`` makes them; docs/mutants.md lists those that survive, and why.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import threading

import numpy as np
import pytest

from kronops import planning
from kronops.backends import pieces
from kronops.backends.settings import settings
from kronops.planning import Machine, Plan, Step, Sweep

try:
    from kronops.backends import kernels
except ImportError:
    kernels = None

RNG = np.random.default_rng(0)
DOUBLE, SINGLE = np.dtype(np.float64), np.dtype(np.float32)
# 32 numbers stay in its cache, and a product of matrices has 80 multiplications at most.
MACHINE = Machine(8, 5.5e10, 28e-9, 1e-6, 8, 1.6e11, 2e10, cache=256, merged=8, work=80)
needs_kernels = pytest.mark.skipif(kernels is None, reason="numba is not installed")


@pytest.fixture(autouse=True)
def asked(monkeypatch, threads_at_every_size):
    """The shapes of fresh memory that was asked for, which holds NaN."""
    empty, shapes = np.empty, []

    def soiled(shape, dtype=float, **others):
        shapes.append(shape)
        made = empty(shape, dtype, **others)
        made[...] = 255 if made.dtype == np.uint8 else np.nan
        return made

    monkeypatch.setattr(np, "empty", soiled)
    with settings(threads=1):
        yield shapes


@pytest.fixture
def shared(monkeypatch):
    """What threads were given."""
    share, parts = pieces._share, []

    def noted(function, given):
        parts.append(list(given))
        share(function, given)

    monkeypatch.setattr(pieces, "_share", noted)
    return parts


def draw(*shape, dtype=DOUBLE):
    values = RNG.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * RNG.standard_normal(shape)
    return values.astype(dtype)


class Other:
    """An operand that is an operator."""

    def __init__(self, matrix):
        self.matrix = matrix


def matrix_of(operand):
    if isinstance(operand, Other):
        return operand.matrix
    if isinstance(operand, list):
        return functools.reduce(np.kron, operand)
    return np.diag(operand) if operand.ndim == 1 else operand


def step_of(operand, index=0, left=1, right=1):
    kind = {Other: "operator", list: "compiled"}.get(type(operand))
    kind = kind or {1: "diagonal", 2: "dense"}[operand.ndim]
    shapes = tuple(a.shape for a in operand) if kind == "compiled" else (matrix_of(operand).shape,)
    return Step(index, index + 1, *matrix_of(operand).shape, left, right, kind, shapes)


def planned(operands, runs, left=1, right=1, parts=(), machine=MACHINE):
    """Sweeps of so many steps each, from the last operand to the first, and what steps do.

    ``parts`` are, for each sweep, the pieces' extent before and after; None is all of it.
    """
    shapes = [matrix_of(operand).shape for operand in operands]
    sizes, stop, sweeps, functions = [columns for _, columns in shapes], len(shapes), [], []
    for run, part in itertools.zip_longest(runs, parts, fillvalue=(None, None)):
        start = stop - run
        before, after = left * math.prod(sizes[:start]), math.prod(sizes[stop:]) * right
        columns = largest = math.prod(sizes[start:stop])
        steps = []
        for k in reversed(range(start, stop)):
            beside = math.prod(sizes[start:k]), math.prod(sizes[k + 1 : stop])
            steps.append(step_of(operands[k], k, *beside))
            sizes[k] = shapes[k][0]
            largest = max(largest, math.prod(sizes[start:stop]))
            functions.append(applied(operands[k], before * beside[0], beside[1] * after))
        rows = math.prod(sizes[start:stop])
        extent = part[0] or before, part[1] or after
        sweeps.append(Sweep(tuple(steps), rows, columns, before, after, *extent, largest, 0.0))
        stop = start
    return Plan((), left, right, tuple(sweeps), machine), functions


def applied(operand, left, right):
    """What `program` takes for a step."""
    if not isinstance(operand, Other):
        return operand
    return lambda x: operand.matrix @ x.reshape(left, operand.matrix.shape[1], right)


def check(operands, runs, left=1, right=1, parts=(), machine=MACHINE, dtype=DOUBLE, given=None):
    """The program's product with a contiguous and a turned array, into memory of its own."""
    plan, functions = planned(operands, runs, left, right, parts, machine)
    matrix = functools.reduce(np.kron, [matrix_of(each).astype(dtype) for each in operands])
    run = pieces.program(plan, functions, np.dtype(given or dtype), np.dtype(dtype))
    x = draw(left, matrix.shape[1], right, dtype=given or dtype)
    turned = np.array(x.T).T
    wanted = matrix @ x
    scale = 100 * np.finfo(dtype).eps * np.abs(wanted).max()
    for argument in (x, x.reshape(-1), turned):
        before = argument.copy()
        made = run(argument)
        assert made.dtype == dtype and not np.shares_memory(made, argument)
        np.testing.assert_allclose(made.reshape(wanted.shape), wanted, rtol=0, atol=scale)
        np.testing.assert_array_equal(argument, before)


SQUARE, DIAGONAL = draw(2, 2), draw(2)
SQUARES = [draw(3, 3), draw(4, 4), draw(5, 5)]
GROWING = [draw(3, 2), draw(4, 3), draw(5, 4)]
SHRINKING = [draw(2, 3), draw(3, 4), draw(4, 5)]
MIXED = [draw(4, 2), draw(3), draw(2, 5)]
DIAGONALS = [draw(3), draw(4, 4), draw(5)]
CASES = {  # operands, steps in each sweep, left, right, pieces
    "rows of a vector": (SQUARES, (3,), 7, 1, [(2, None)]),
    "columns of a vector": (SQUARES, (3,), 1, 10, [(1, 4)]),
    "both": (SQUARES, (3,), 3, 10, [(1, 4)]),
    "several rows at once": (SQUARES, (3,), 5, 10, [(2, 4)]),
    "the whole vector": (SQUARES, (3,), 2, 3, []),
    "two of three": (SQUARES, (2, 1), 3, 2, [(2, None)]),
    "one of three": (SQUARES, (1, 2), 3, 2, [(None, None), (1, 3)]),
    "pieces twice": ([*SQUARES, draw(2, 2)], (2, 2), 3, 2, [(2, None), (1, 3)]),
    "one by one": (SQUARES, (1, 1, 1), 2, 3, []),
    "growing, in pieces": (GROWING, (3,), 3, 5, [(1, 2)]),
    "growing, one by one": (GROWING, (1, 1, 1), 2, 3, []),
    "shrinking, in pieces": (SHRINKING, (3,), 3, 5, [(1, 2)]),
    "shrinking, one by one": (SHRINKING, (1, 1, 1), 2, 3, []),
    "to and fro": (MIXED, (1, 1, 1), 4, 3, []),
    "to and fro, in pieces": (MIXED, (3,), 4, 3, [(3, None)]),
    "to and fro, in columns": (MIXED, (2, 1), 1, 9, [(1, 4)]),
    "diagonals": (DIAGONALS, (1, 1, 1), 2, 3, []),
    "diagonals in pieces": (DIAGONALS, (3,), 2, 3, [(1, None)]),
    "diagonals in columns": (DIAGONALS, (3,), 2, 9, [(1, 2)]),
    "an operator": ([SQUARES[0], Other(draw(4, 6)), SQUARES[2]], (1, 1, 1), 2, 3, []),
    "operators": ([Other(draw(3, 3)), SQUARES[1], Other(draw(2, 3))], (1, 1, 1), 2, 3, []),
    "operators and pieces": ([Other(draw(3, 2)), *SQUARES[:2]], (2, 1), 2, 3, [(1, 2)]),
    "six in pieces": ([draw(2, 2) for _ in range(6)], (6,), 3, 1, [(1, None)]),
    "nothing": ([np.eye(3)], (), 2, 3, []),
}


@pytest.mark.parametrize("case", CASES)
def test_the_product(case):
    operands, runs, left, right, parts = CASES[case]
    for threads in (1, 2, 5):
        with settings(threads=threads):
            check(operands, runs, left, right, parts)
    check(operands, runs, left, right, parts, MACHINE._replace(cache=10**6))


@pytest.mark.parametrize("case", ["several rows at once", "to and fro", "diagonals", "one by one"])
@pytest.mark.parametrize(
    "dtype, given",
    [
        ("float32", "float32"),
        ("float64", "float32"),
        ("complex128", "complex128"),
        ("complex128", "float64"),
        ("complex64", "complex64"),
    ],
)
def test_dtypes(case, dtype, given):
    operands, *others = CASES[case]
    check([operand.astype(dtype) for operand in operands], *others, dtype=dtype, given=given)
    if dtype == "float64":  # and of operands that are to be widened
        check([operand.astype(given) for operand in operands], *others, dtype=dtype, given=given)


@pytest.mark.parametrize("view", [(1, 1), (1, 6), (7, 1), (3, 5)])
@pytest.mark.parametrize("operand", [draw(4, 3), draw(3, 4), draw(4)], ids=["tall", "wide", "1-D"])
def test_one_step(view, operand):
    for cache, work in ((10**6, 10**6), (10**6, 20), (0, 10**6), (0, 20)):
        check([operand], (1,), *view, machine=MACHINE._replace(cache=cache, work=work))


@needs_kernels
class TestKernels:
    SMALL = ([draw(2, 2), draw(3, 3)], [draw(2, 3)], [draw(2, 2)])

    @pytest.mark.parametrize("threads", [1, 2, 3])
    @pytest.mark.parametrize("alone", [2**16, 10])
    def test_on_whole_vectors(self, threads, alone, monkeypatch):
        monkeypatch.setattr(pieces, "_ALONE", alone)
        with settings(threads=threads):
            for operand in self.SMALL[:2]:
                for left, right in ((1, 1), (5, 1), (1, 7), (2, 9), (9, 2)):
                    check([operand], (1,), left, right)

    def test_in_place_after_another_step(self, monkeypatch):
        monkeypatch.setattr(pieces, "_ALONE", 10)
        for runs in ((1, 1), (1, 1, 1)):
            operands = [draw(2, 2), self.SMALL[0], draw(3, 4)][: len(runs)]
            check(operands, runs, 3, 2)
        check([self.SMALL[0], self.SMALL[2]], (1, 1), 3, 2, dtype="float64", given="float32")

    @pytest.mark.parametrize("place", [0, 1, 2])
    @pytest.mark.parametrize("part", [(2, None), (1, 4), (1, 1)])
    def test_in_pieces(self, place, part):
        operands = [draw(3, 3), draw(4, 2), draw(2, 3)]
        operands[place] = self.SMALL[0]
        if part[1] is None:
            check(operands, (3,), 3, 2, [part])
        else:  # where the columns of a piece lie apart, kernels are not in the middle
            check(operands, (3,), 1, 9, [part])
        check([self.SMALL[0], self.SMALL[1], self.SMALL[2]], (3,), 1, 9, [(1, 4)])
        check([self.SMALL[0], self.SMALL[2]], (2,), 3, 9, [(1, 4)])

    def test_of_what_is_not_aligned(self):
        plan, functions = planned([self.SMALL[0]], (1,), 5, 2)
        run = pieces.program(plan, functions, DOUBLE, DOUBLE)
        x = np.ndarray((5, 6, 2), DOUBLE, bytearray(8 * 60 + 1), offset=1)
        x[...] = draw(5, 6, 2)
        np.testing.assert_allclose(run(x), matrix_of(self.SMALL[0]) @ x, atol=1e-13)

    def test_memory_of_their_own_or_the_vector_s(self, asked, monkeypatch):
        x, operand = draw(5, 6, 2), self.SMALL[0]
        (sweep,) = planned([operand], (1,), 5, 2)[0].sweeps
        wanted = matrix_of(operand) @ x
        for alone, memory in ((61, (5, 6, 2)), (60, (5, 6, 2)), (59, 480 + 8192)):
            monkeypatch.setattr(pieces, "_ALONE", alone)
            kernel = pieces._Kernel(sweep, sweep.steps[0], operand, DOUBLE, False)
            asked.clear()
            made = kernel(x)
            assert asked == [memory] and made.shape == (5, 6, 2)
            np.testing.assert_allclose(made, wanted, atol=1e-13)
            kernel = pieces._Kernel(sweep, sweep.steps[0], operand, DOUBLE, True)
            own = x.copy()
            asked.clear()
            assert np.shares_memory(kernel(own), own) and asked == []
            np.testing.assert_allclose(own, wanted, atol=1e-13)

    def test_threads_share_what_is_longest(self, shared, monkeypatch):
        monkeypatch.setattr(pieces, "_ALONE", 10)
        operand, rows = self.SMALL[1], slice(None)
        with settings(threads=2):
            for left, right in ((4, 2), (2, 4)):
                (sweep,) = planned([operand], (1,), left, right)[0].sweeps
                pieces._Kernel(sweep, sweep.steps[0], operand, DOUBLE, False)(draw(left, 3, right))
        assert shared == [
            [(slice(0, 2),), (slice(2, 4),)],
            [(rows, rows, slice(0, 2)), (rows, rows, slice(2, 4))],
        ]

    def test_which_kernel(self, monkeypatch):
        found, kernel_for, operand = [], kernels.kernel_for, self.SMALL[1]
        step = step_of(operand)

        def noted(shapes, dtype, right):
            found.append((shapes, dtype, right))
            return kernel_for(shapes, dtype, right)

        monkeypatch.setattr(kernels, "kernel_for", noted)
        for left, right, columns, wanted, swapped, source in (
            (4, 1, None, 1, False, (4, 3, 1)),
            (4, 5, None, 5, False, (4, 3, 5)),
            (4, 5, 5, 5, False, (4, 3, 5)),
            (1, 300, int("300"), 300, False, (1, 3, 300)),
            (1, 8, 4, 4, True, (3, 2, 4)),
            (1, 8, 1, 2, True, (3, 8, 1)),
            (1, 2, 1, 2, True, (3, 2, 1)),
            (1, 1, 1, 1, False, (1, 3, 1)),
        ):
            made = pieces._compiled(step, operand, left, right, columns)
            assert found.pop() == (((2, 3),), DOUBLE, wanted)
            assert (made.swapped, made.source, made.on_right) == (swapped, source, False)
            target = tuple(2 if i == (0 if swapped else 1) else n for i, n in enumerate(source))
            assert made.target == target


def test_memory_of_kernels_begins_with_a_line_and_half_a_page_away():
    memory = np.zeros(3 * 4096, np.uint8)
    for offset, dtype, shape in itertools.product(
        (0, 8, 56, 64, 2040, 2048, 2056, 4000), (DOUBLE, SINGLE), ((3, 5), (7,), (2, 3, 200))
    ):
        beside = memory[offset : offset + 8].view(dtype)
        made = pieces._aligned(shape, dtype, beside)
        assert (made.shape, made.dtype) == (shape, dtype) and made.flags.c_contiguous
        assert made.ctypes.data % 64 == 0
        assert 2048 <= (made.ctypes.data - beside.ctypes.data) % 4096 < 2048 + 64
        assert made.base.nbytes == made.nbytes + 2 * 4096


def test_cache_lines_wherever_fresh_memory_starts(monkeypatch):
    memory = np.zeros(2**14, np.uint8)
    aligned = -memory.ctypes.data % 64
    for start, offset in itertools.product(range(aligned, aligned + 64, 16), range(0, 64, 16)):
        monkeypatch.setattr(np, "empty", lambda size, _, start=start: memory[start : start + size])
        beside = memory[aligned + offset :]
        assert pieces._aligned((7,), DOUBLE, beside).ctypes.data % 64 == 0


# -- what becomes of a sweep -----------------------------------------------------------------------


def names_of(operands, left=1, right=1, owned=False, **machine):
    plan, functions = planned(operands, (len(operands),), left, right)
    machine = MACHINE._replace(**machine)
    parts = pieces._sweep(plan.sweeps[0], functions, DOUBLE, machine, owned)
    return [type(part).__name__ for part in parts], parts


@pytest.mark.parametrize("operand", [draw(4, 2), draw(2, 4)])
def test_what_stays_in_the_cache_is_multiplied_whole(operand):
    plain, into = ["function"], ["_Whole"]
    assert names_of([operand], 4, 2, cache=256)[0] == plain  # 32 numbers
    assert names_of([operand], 4, 2, cache=255)[0] == into
    assert names_of([operand], 4, 2, cache=128, itemsize=4)[0] == plain
    assert names_of([operand, draw(1, 1)], 4, 2, cache=256)[0] == plain * 2
    assert names_of([operand, draw(1, 1)], 4, 2, cache=255)[0] == ["_Pieces"]
    assert names_of([Other(operand)], 4, 2, cache=0)[0] == plain


def test_what_is_tiled_goes_into_memory_that_is_given():
    """Its columns come in another order than a plain product would have."""
    assert names_of([draw(2, 2)], 1, 40, cache=10**6, work=80)[0] == ["_Whole"]
    assert names_of([draw(2, 2)], 1, 40, cache=10**6, work=10**6)[0] == ["function"]


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (4, 4), (300, 300)])
def test_only_squares_are_multiplied_in_place_and_only_what_is_owned(shape):
    for owned in (False, True):
        _, (made,) = names_of([draw(*shape), draw(1, 1)], 9, 9, owned)
        assert made.in_place is (owned and shape[0] == shape[1])
    _, (made,) = names_of([draw(*shape)], 9, 9, True)
    assert made.in_place is False and made.size == 81 * shape[0] and made.dtype == DOUBLE
    if kernels and shape[0] < 16:
        for owned in (False, True):
            _, (made,) = names_of([[draw(*shape)]], 9, 9, owned)
            assert made.in_place is (owned and shape[0] == shape[1])
            sweep = planned([[draw(*shape)]], (1,), 9, 9)[0].sweeps[0]
            made = pieces._Kernel(sweep, sweep.steps[0], [draw(*shape)], DOUBLE, owned)
            assert made.in_place is (owned and shape[0] == shape[1])


def test_operands_are_not_copied():
    matrix = draw(3, 3)
    assert pieces._cast(matrix, DOUBLE) is matrix and pieces._cast([matrix], DOUBLE)[0] is matrix
    assert pieces._cast(matrix, SINGLE).dtype == pieces._cast([matrix], SINGLE)[0].dtype == SINGLE


def test_small_products_of_two_matrices_are_made_by_dot():
    """It starts in half the time."""
    called = []

    def noted(*arguments):
        called.append(arguments)
        return np.matmul(*arguments)

    for (left, right), dot in (
        ((1, 1), True), ((1, 6), True), ((7, 1), True), ((3, 5), False),
    ):  # fmt: skip
        matrix, x = draw(4, 3), draw(left, 3, right)
        multiply = pieces._multiplication(step_of(matrix), matrix, left, right, MACHINE)
        made = pieces._plain(multiply._replace(function=noted))(x)
        np.testing.assert_allclose(made.reshape(left, 4, right), matrix @ x, atol=1e-13)
        assert bool(called) is not dot


# -- few columns -----------------------------------------------------------------------------------


def test_few_columns_of_whole_vectors_are_gathered(monkeypatch):
    monkeypatch.setattr(planning, "SMALL", 20)
    monkeypatch.setattr(pieces, "SMALL", 20)
    matrix = draw(4, 3)
    for view, name in (((1, 2), "partial"), ((3, 1), "partial"), ((1, 1), "function")):
        assert names_of([matrix], *view, cache=10**6)[0] == [name]
        check([matrix], (1,), *view)
        check([np.asfortranarray(matrix)], (1,), *view)


@pytest.mark.parametrize(
    "left, right, widths",
    [
        (1, 5, [5]),
        (3, 5, [15]),
        (7, 5, [15, 15, 5]),
        (4, 5, [15, 5]),
        (2, 20, [20, 20]),
        (3, 1, [3]),
        (16, 1, [16]),
        (17, 1, [17]),
        (4, 2, [8]),
        (9, 2, [16, 2]),
    ],
)
@pytest.mark.parametrize(
    "dtype, atol", [("f4", 1e-5), ("f8", 1e-13), ("c8", 1e-5), ("c16", 1e-13), ("g", 1e-13)]
)
def test_columns_of_several_slices_are_multiplied_at_once(
    monkeypatch, left, right, widths, dtype, atol
):
    monkeypatch.setattr(pieces, "FEW", 4)
    tall, found = pieces._tall, []

    def noted(matrix, x):
        found.append(x.shape)
        return tall(matrix, x)

    monkeypatch.setattr(pieces, "_tall", noted)
    matrix, x = draw(4, 3).astype(dtype), draw(left, 3, right).astype(dtype)
    made = pieces._gathered(matrix, left, right, x.reshape(-1))
    assert made.flags.c_contiguous
    np.testing.assert_allclose(made.reshape(left, 4, right), matrix @ x, atol=atol)
    assert found == [(3, width) for width in widths]


@pytest.mark.parametrize(
    "small, tile",
    [(1599, 24), (1600, 24), (1000, 16), (800, 16), (799, 8), (400, 8), (399, 48), (10**6, 48)],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_bands_of_rows(monkeypatch, shared, small, tile, threads):
    """48 rows, 10 columns, 5 vectors: 50 multiplications for each row, and 2400 in all."""
    matmul, found = np.matmul, []

    def noted(a, b, out):
        found.append((a.shape[1:], b.shape))
        return matmul(a, b, out=out)

    monkeypatch.setattr(pieces, "SMALL", small)
    matrix, x = draw(48, 10), draw(10, 5)
    for limit, several in ((2399, True), (2400, False), (2401, False)):
        monkeypatch.setattr(pieces, "_SHARED", limit)
        with monkeypatch.context() as patch, settings(threads=threads):
            patch.setattr(np, "matmul", noted)
            made = pieces._tall(matrix, x)
        np.testing.assert_allclose(made, matrix @ x, atol=1e-13)
        count = 48 // tile
        whole = threads == 1 or not several or tile == 48
        half = count // 2
        assert shared.pop() == ([()] if whole else [(slice(0, half),), (slice(half, count),)])
        assert {found.pop() for _ in range(len(found))} == {((tile, 10), (10, 5))}


@pytest.mark.parametrize(
    "rows, most, tile",
    [
        (56, 31, 8),
        (56, 32, 28),
        (56, 40, 28),
        (64, 31, 16),
        (136, 16, 8),
        (136, 33, 17),
        (296, 32, 8),
    ],
)
def test_bands_of_less_than_32_rows_are_of_eights(monkeypatch, shared, rows, most, tile):
    """BLAS takes eight rows at once: of the many in a long band, those that are left are few."""
    monkeypatch.setattr(pieces, "SMALL", 50 * most)
    monkeypatch.setattr(pieces, "_SHARED", 0)
    matrix, x = draw(rows, 10), draw(10, 5)
    with settings(threads=2):
        np.testing.assert_allclose(pieces._tall(matrix, x), matrix @ x, atol=1e-13)
    assert shared[0][-1][0].stop == rows // tile


def test_bands_have_eight_rows_at_least(monkeypatch):
    monkeypatch.setattr(pieces, "SMALL", 350)
    matmul, found = np.matmul, []

    def noted(a, b, out):
        found.append(a.shape)
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", noted)
    pieces._tall(draw(49, 10), draw(10, 5))
    assert found == [(1, 49, 10)]  # for seven have 350 multiplications


# -- threads ---------------------------------------------------------------------------------------


def test_parts_of_the_longest_axis():
    every = slice(None)
    for batch, threads, wanted in (
        ((), 1, [()]),
        ((), 2, [()]),
        ((9,), 1, [()]),
        ((1,), 2, [()]),
        ((2,), 2, [(slice(0, 1),), (slice(1, 2),)]),
        ((7,), 3, [(slice(0, 2),), (slice(2, 4),), (slice(4, 7),)]),
        ((2, 5), 2, [(every, slice(0, 2)), (every, slice(2, 5))]),
        ((5, 5), 2, [(slice(0, 2),), (slice(2, 5),)]),
        ((3, 2, 4), 4, [(every, every, slice(i, i + 1)) for i in range(4)]),
        ((3, 2, 4), 5, [()]),
    ):
        assert pieces._parts(batch, threads) == wanted


def test_threads_work_at_once_and_raise_in_the_caller():
    found, barrier = [], threading.Barrier(3)

    def work(part):
        barrier.wait(5)
        found.append((part, threading.get_ident()))

    pieces._share(work, [1, 2, 3])
    assert {part for part, _ in found} == {1, 2, 3}
    assert len({thread for _, thread in found} | {threading.get_ident()}) == 4
    found.clear()
    pieces._share(lambda part: found.append((part, threading.get_ident())), ["all"])
    assert found == [("all", threading.get_ident())]
    for parts in ([0], [1, 0]):
        with pytest.raises(ZeroDivisionError):
            pieces._share(lambda part: 1 / part, parts)


# -- pieces ----------------------------------------------------------------------------------------


def pieces_of(operands, left, right, part, in_place=False):
    plan, functions = planned(operands, (len(operands),), left, right, [part])
    return pieces._Pieces(plan.sweeps[0], functions, DOUBLE, MACHINE, in_place)


def starts(found):
    return [(b.start, b.stop, a.start, a.stop) for b, middle, a in found if middle == slice(None)]


def test_there_are_pieces_for_each_thread():
    made = pieces_of(SQUARES[:2], 7, 3, (5, None))
    assert made.size == 7 * 12 * 3 and not made.strided
    assert starts(made._pieces(1)) == [(0, 5, 0, 3), (5, 10, 0, 3)]
    assert starts(made._pieces(2)) == [(0, 4, 0, 3), (4, 8, 0, 3)]
    assert starts(made._pieces(3)) == [(0, 3, 0, 3), (3, 6, 0, 3), (6, 9, 0, 3)]
    six = pieces_of(SQUARES[:2], 6, 3, (5, None))
    assert starts(six._pieces(2)) == [(0, 3, 0, 3), (3, 6, 0, 3)]
    assert not pieces_of(SQUARES[:2], 2, 300, (1, int("300"))).strided
    strided = pieces_of(SQUARES[:2], 2, 5, (2, 3))
    assert strided.strided
    assert starts(strided._pieces(2)) == [(0, 2, 0, 3), (0, 2, 3, 6)]
    assert pieces_of([draw(4, 2), draw(1, 1)], 7, 3, (5, None)).size == 7 * 4 * 3


def test_threads_take_turns_at_the_pieces(shared):
    made = pieces_of(SQUARES[:2], 7, 1, (1, None))
    x = draw(7, 12, 1)
    for threads, wanted in (
        (1, [[0, 1, 2, 3, 4, 5, 6]]),
        (2, [[0, 2, 4, 6], [1, 3, 5]]),
        (9, [[i] for i in range(7)]),
    ):
        out = np.empty(7 * 12)
        with settings(threads=threads):
            made(x, out)
        found = [[piece[0].start for piece in part] for part in shared.pop()]
        assert found == wanted
        np.testing.assert_allclose(out.reshape(7, 12, 1), np.kron(*SQUARES[:2]) @ x, atol=1e-13)


def test_workspaces_are_as_large_as_the_largest_piece_on_its_way(asked, monkeypatch):
    chain, found = pieces._Pieces._chain, []

    def noted(self, before, after, workspaces):
        found.append((before, after))
        return chain(self, before, after, workspaces)

    monkeypatch.setattr(pieces._Pieces, "_chain", noted)
    for operands, largest in ((SQUARES[:2], 12), (MIXED, 30), (GROWING, 60), (SHRINKING, 60)):
        made = pieces_of(operands, 2, 11, (1, 3))
        x, out = draw(2, made.sweep.columns, 11), np.zeros(made.size)
        asked.clear()
        found.clear()
        made(x, out)
        assert asked == [(2, largest * 3)]
        assert found == [(1, 3), (1, 2), (1, 3), (1, 2)] and out.all()
    made, x = pieces_of(SQUARES[:2], 9, 1, (3, None)), draw(9, 12, 1)
    asked.clear()
    found.clear()
    made(x, np.zeros(made.size))
    assert asked == [(2, 36)] and found == [(3, 1)]


def test_pieces_in_place():
    x = draw(5, 12, 4)
    for part in ((2, None), (1, 3)):
        made = pieces_of(SQUARES[:2], 5, 4, part, in_place=True)
        own = x.copy()
        made(own, own.reshape(-1))
        np.testing.assert_allclose(own, np.kron(*SQUARES[:2]) @ x, atol=1e-13)


def test_steps_in_the_cache_are_those_of_whole_vectors(monkeypatch):
    """Only what the first reads and the last writes lies apart."""
    tiled, found = pieces._tiled, []

    def noted(step, operand, left, tiles):
        found.append((step.start, left, tiles))
        return tiled(step, operand, left, tiles)

    monkeypatch.setattr(pieces, "_tiled", noted)
    made = pieces_of(SQUARES, 2, 10, (1, 4))
    made._chain(1, 4, np.empty((2, 240)))
    assert found == [(2, 12, (1, 4)), (0, 1, (20, 4))]
    found.clear()
    chain = pieces_of(SQUARES, 4, 2, (2, None))._chain(2, 2, np.empty((2, 240)))
    assert found == []
    assert [(source is None, target is None) for _, source, target in chain] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_steps_in_the_cache_take_turns_in_two_workspaces():
    workspaces = np.zeros((2, 64))
    chain = pieces_of([SQUARE] * 5, 3, 1, (1, None))._chain(1, 1, workspaces)
    turns = [[np.shares_memory(target, row) for row in workspaces] for *_, target in chain[:-1]]
    assert turns == [[True, False], [False, True]] * 2
    for (*_, target), (_, source, _) in itertools.pairwise(chain):
        assert np.shares_memory(source, target)


# -- turns -----------------------------------------------------------------------------------------


def in_turns(sizes, machine=MACHINE):
    """Steps of those sizes, from the first to the last, on whole vectors."""
    matrices = [draw(rows, columns) for columns, rows in itertools.pairwise(sizes)]
    wholes = []
    for matrix in matrices:
        multiply = pieces._multiplication(step_of(matrix), matrix, 3, 2, machine)
        wholes.append(pieces._Whole(multiply, 3 * len(matrix) * 2))
    return functools.reduce(lambda a, b: b @ a, matrices), wholes


@pytest.mark.parametrize(
    "sizes, wanted",
    [
        ((2, 4), [24]),
        ((2, 4, 3), [24, 18]),
        ((2, 4, 3, 4), [24, 18]),
        ((2, 3, 3, 4), [24, 18]),
        ((2, 5, 3, 4), [30, 18, 24]),
        ((2, 3, 5, 2, 4), [18, 30, 24]),
        ((2, 5, 3, 4, 4), [30, 24]),
    ],
)
def test_vectors_on_the_way_take_turns(asked, sizes, wanted):
    matrix, wholes = in_turns(sizes)
    run, x = pieces._InTurns(wholes), draw(3, sizes[0], 2)
    asked.clear()
    made = run(x)
    assert asked == wanted
    np.testing.assert_allclose(made.reshape(3, -1, 2), matrix @ x, atol=1e-12)


def test_what_is_in_place_takes_no_turn(asked):
    _, (first, last) = in_turns((2, 12, 3))
    inside = pieces_of(SQUARES[:2], 3, 2, (1, None), in_place=True)
    x = draw(3, 2, 2)
    wanted = last.multiply.operand @ np.kron(*SQUARES[:2]) @ first.multiply.operand @ x
    run = pieces._InTurns([first, inside, last])
    asked.clear()
    made = run(x)
    assert asked == [72, (2, 24), 18]
    np.testing.assert_allclose(made.reshape(3, 3, 2), wanted, atol=1e-12)
    run = pieces._InTurns([inside])
    x = draw(3, 12, 2)
    wanted = np.kron(*SQUARES[:2]) @ x
    made = run(x)
    assert np.shares_memory(made, x)
    np.testing.assert_allclose(made.reshape(3, 12, 2), wanted, atol=1e-12)


def test_a_block_of_twice_the_size_is_asked_for_once_if_the_c_library_may_keep_it(
    asked, monkeypatch
):
    _, wholes = in_turns((2, 4, 3))
    for kept, wanted in ((384, [48]), (385, [48]), (383, [])):
        monkeypatch.setattr(pieces, "_KEPT", kept)
        asked.clear()
        pieces._InTurns(wholes)
        assert asked == wanted


# -- one call of NumPy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operand, left, right, machine, on_right, source",
    [
        (DIAGONAL, 3, 5, {}, False, (3, 2, 5)),
        (DIAGONAL, 1, 1, {}, False, (1, 2, 1)),
        (SQUARE, 1, 1, {}, False, (2,)),
        (SQUARE, 20, 1, {}, True, (20, 2)),
        (SQUARE, 40, 1, {}, True, (2, 20, 2)),
        (SQUARE, 57, 1, {}, True, (3, 19, 2)),
        (SQUARE, 21, 1, {}, True, (21, 2)),
        (SQUARE, 400, 1, {"work": 1600}, True, (400, 2)),
        (SQUARE, 400, 1, {"work": 1599}, True, (2, 200, 2)),
        (SQUARE, 40, 1, {"work": 0}, True, (40, 2)),
        (SQUARE, 1, 20, {"cache": 10**6}, False, (2, 20)),
        (SQUARE, 3, 20, {"cache": 10**6}, False, (3, 2, 20)),
        (SQUARE, 1, 40, {"cache": 10**6}, False, (1, 2, 2, 20)),
        (SQUARE, 3, 40, {"cache": 10**6}, False, (3, 2, 2, 20)),
        (SQUARE, 1, 40, {"cache": 640}, False, (1, 2, 2, 20)),
        (SQUARE, 1, 40, {"cache": 639}, False, (2, 40)),
        (SQUARE, 1, 40, {"cache": 320, "itemsize": 4}, False, (1, 2, 2, 20)),
        (SQUARE, 1, 21, {"cache": 10**6}, False, (2, 21)),
        (SQUARE, 1, 1024, {"work": 2048}, False, (1, 2, 2, 512)),
        (SQUARE, 1, 1200, {"work": 2400}, False, (1, 2, 2, 600)),
        (SQUARE, 1, 1024, {"work": 2047}, False, (2, 1024)),
        (SQUARE, 1, 1024, {"work": 2047, "cache": 10**6}, False, (1, 2, 4, 256)),
    ],
)
def test_batches(operand, left, right, machine, on_right, source):
    step = step_of(operand)
    made = pieces._multiplication(step, operand, left, right, MACHINE._replace(**machine))
    swapped = len(source) == 4
    assert made.function is (np.multiply if operand.ndim == 1 else np.matmul)
    assert (made.on_right, made.swapped, made.source) == (on_right, swapped, source)
    batch = source[:1] + source[2:3] if swapped else source[:-2]
    assert made.batch == batch and made.operand.flags.c_contiguous
    x, target = draw(left, 2, right), np.empty(left * 2 * right)
    multiplied = made(made.view(x, source), made.view(target, made.target))
    assert np.shares_memory(multiplied, target)
    np.testing.assert_allclose(target.reshape(x.shape), matrix_of(operand) @ x, atol=1e-13)


def test_rectangles_have_targets_of_their_own_and_operands_without_strides():
    for matrix in (draw(3, 4).T, draw(3, 4)):
        rows, columns = matrix.shape
        for left, right, source, target in (
            (1, 1, (columns,), (rows,)),
            (5, 1, (5, columns), (5, rows)),
            (40, 1, (2, 20, columns), (2, 20, rows)),
            (50, 1, (50, columns), (50, rows)),
            (5, 3, (5, columns, 3), (5, rows, 3)),
            (5, 40, (5, columns, 2, 20), (5, rows, 2, 20)),
        ):
            machine = MACHINE._replace(work=20 * 12, cache=10**6)
            made = pieces._multiplication(step_of(matrix), matrix, left, right, machine)
            assert (made.source, made.target) == (source, target)
            assert made.operand.flags.c_contiguous or left == right == 1


def test_steps_whose_columns_lie_apart():
    x = draw(3, 4, 2, 5)[..., :3]
    for operand, function in ((draw(2, 4), np.matmul), (draw(4), np.multiply)):
        made = pieces._tiled(step_of(operand), operand, 3, (2, 3))
        assert made.function is function and made.swapped and not made.on_right
        assert made.source == (3, 4, 2, 3) and made.target == (3, len(operand), 2, 3)
        wanted = np.einsum("ij,ajbc->abic", matrix_of(operand), x)
        np.testing.assert_allclose(made(made.view(x, made.source)), wanted, atol=1e-13)


def test_divisors():
    for size, most, least in itertools.product((1, 12, 30, 48, 49, 97), (0, 5, 16, 48), (1, 8, 16)):
        found = [d for d in range(least, min(most, size) + 1) if size % d == 0]
        assert pieces._divisor(size, most, least) == max(found, default=size)
    assert pieces._divisor(60, 20) == 20 and pieces._divisor(60, 19) == 60
    assert pieces._divisor(64, 17) == 16


def test_what_there_is_nothing_to_do_to_is_copied_and_not_cast():
    plan, _ = planned([np.eye(3)], ())
    assert pieces.program(plan, [], DOUBLE, DOUBLE) is np.copy


# -- sizes -----------------------------------------------------------------------------------------


def test_the_c_library_keeps_blocks_of_32_mib(monkeypatch):
    """glibc's bound, to which the array that one product needs beside its result is held."""
    shapes, (_, (first, last)) = [], in_turns((2, 4, 3))
    monkeypatch.setattr(np, "empty", lambda shape, dtype: shapes.append(shape))
    for size in (2**21, 2**21 + 1):
        pieces._InTurns([dataclasses.replace(first, size=size), last])
    assert shapes == [2**22]


def test_half_a_billion_multiplications_by_few_columns_are_worth_threads(shared):
    with settings(threads=2):
        for columns in (100, 101):
            pieces._tall(np.zeros((5000, 1000)), np.zeros((1000, columns)))
    assert [len(parts) for parts in shared] == [1, 2]


@needs_kernels
def test_65536_numbers_need_no_place_of_their_own(asked):
    operand = [draw(2, 2)]
    for left, alone in ((2**15, True), (2**15 + 1, False)):
        (sweep,) = planned([operand], (1,), left)[0].sweeps
        x = np.zeros((left, 2, 1))
        asked.clear()
        pieces._Kernel(sweep, sweep.steps[0], operand, DOUBLE, False)(x)
        assert asked == ([(left, 2, 1)] if alone else [16 * left + 8192])
