"""Compiled loops alone, beside memory that is not theirs: what mutants of `kronops.backends.tiles`
asked for.

``python tests/mutants.py`` makes them; docs/mutants.md lists those that survive, and why.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

pytest.importorskip("numba")

from kronops.backends.kernels import kernel_for
from kronops.backends.tiles import power_of_two, product_sizes, registers, tiles_at_once, width

RNG = np.random.default_rng(0)


def inside(array, spare):
    """A copy with ``spare`` numbers between rows and something behind, and the memory it is in."""
    left, rows, columns = array.shape
    memory = np.full((left + 1, rows + spare, columns + spare), 7.0, array.dtype)
    view = memory[:left, :rows, :columns]
    view[...] = array
    return view, memory


CASES = [  # of rows: several registers, the last one with lanes to spare, and tiles left over
    (((3, 2), (2, 4)), 11, 3, 1, "float64"),
    (((4, 3),), 3, 2, 2, "float32"),
    (((2, 2), (3, 3), (3, 2)), 8, 2, 0, "float32"),
    (((14, 2),), 9, 1, 0, "float64"),
    (((1, 4), (1, 5)), 8, 2, 0, "float64"),
    (((3, 3), (5, 3)), 1, 7, 0, "float64"),
    (((13, 3),), 1, 13, 0, "float64"),
    (((3, 2), (2, 2), (10, 2)), 1, 3, 0, "float32"),
    (((2, 1), (5, 1)), 1, 3, 0, "float64"),
]


@pytest.mark.parametrize("shapes, right, left, spare, dtype", CASES)
def test_the_product_and_nothing_else_is_written(shapes, right, left, spare, dtype):
    factors = [RNG.standard_normal(shape).astype(dtype) for shape in shapes]
    outputs, inputs, _ = product_sizes(shapes)
    x, _ = inside(RNG.standard_normal((left, inputs, right)).astype(dtype), 2)
    out, memory = inside(np.zeros((left, outputs, right), dtype), spare)
    kernel = kernel_for(shapes, dtype, right)
    kernel.compile()(kernel.pack(factors), x, out)
    wanted = functools.reduce(np.kron, factors).astype(np.float64) @ x
    np.testing.assert_allclose(out, wanted, atol=100 * np.finfo(dtype).eps)
    out[...] = 7
    assert (memory == 7).all()


@pytest.mark.parametrize(
    "shapes, right",
    [(((3, 2), (2, 4)), 11), (((2, 3),), 2), (((3, 3), (5, 3)), 1), (((2, 3),), 1)],
)
def test_what_does_not_fit_is_refused(shapes, right):
    kernel = kernel_for(shapes, np.float64, right)
    run, entries = kernel.compile(), kernel.pack([np.ones(shape) for shape in shapes])
    outputs, inputs, _ = product_sizes(shapes)
    x, out = np.ones((2, inputs, right)), np.zeros((2, outputs, right))
    for wrong in (
        (entries[:-1].copy(), x, out),
        (np.append(entries, 0), x, out),
        (entries, x[:, :-1], out),
        (entries, np.ones((2, inputs + 1, right)), out),
        (entries, x, out[:, :-1]),
        (entries, x, out[:1]),
        (entries, x[:1], out),
        (entries, x, np.zeros((2, outputs, right + 1))),
    ):
        with pytest.raises(ValueError, match="the shapes of x, out and the packed factors do not"):
            run(*wrong)
    run(entries, x[:0], np.zeros((0, 2 * outputs, 2 * right))[:, ::2, ::2])  # no number, no place
    if right > 1:
        apart = np.ones((2, 2 * inputs, 2 * right))
        for wrong in (
            (entries, x[..., ::-1], out),
            (entries, x, out[..., ::-1]),
            (entries, x[..., ::-1], out[..., ::-1]),
            (entries, apart[:, :inputs, ::2], out),
            (entries, x, apart[:, :outputs, ::2]),
            (entries, apart[:, :inputs, ::2], apart[:, :outputs, ::2]),
        ):
            with pytest.raises(ValueError, match="the last axis must be contiguous"):
                run(*wrong)
    else:
        for wrong in (
            (entries, x, np.zeros((2, 2 * outputs, 1))[:, ::2]),
            (entries, x, out[:, ::-1]),
            (entries, np.ones((2, inputs, 0)), np.zeros((2, outputs, 0))),
            (entries, np.ones((2, inputs, 2)), np.zeros((2, outputs, 2))),
            (entries, np.ones((2, inputs, 2)), np.zeros((2, 2, outputs)).swapaxes(1, 2)),
        ):
            with pytest.raises(ValueError, match="for one column with adjacent rows"):
                run(*wrong)


def test_one_row_of_each_slice_may_lie_apart():
    kernel = kernel_for(((1, 2),), np.float64, 1)
    out = np.zeros((5, 4, 1))[:, ::4]
    kernel.compile()(kernel.pack([np.array([[3.0, 2.0]])]), np.arange(10.0).reshape(5, 2, 1), out)
    assert out.ravel().tolist() == [2, 12, 22, 32, 42]


@pytest.mark.parametrize("right", [1, 19])
def test_in_place(right):
    """A tile is read before it is written, and read once."""
    factors = [RNG.standard_normal((n, n)) for n in (3, 5)]
    kernel = kernel_for(((3, 3), (5, 5)), np.float64, right)
    x = RNG.standard_normal((9, 15, right))
    wanted = np.kron(*factors) @ x
    kernel.compile()(kernel.pack(factors), x, x)
    np.testing.assert_allclose(x, wanted, atol=1e-13)


@pytest.mark.parametrize("adjacent", [True, False])
def test_of_short_registers_and_one_column(adjacent):
    kernel = kernel_for(((2, 2), (9, 3)), np.float64, 1, adjacent=adjacent)
    kernel = dataclasses.replace(kernel, lanes=min(kernel.lanes, 4))
    factors = [RNG.standard_normal(shape) for shape in kernel.shapes]
    x = RNG.standard_normal((2, 6, 2))[..., ::2]
    out = np.zeros((2, 18, 1)) if adjacent else np.zeros((2, 36, 2))[:, ::2, ::2]
    kernel.compile()(kernel.pack(factors), x, out)
    np.testing.assert_allclose(out, np.kron(*factors) @ x, atol=1e-14)


def test_registers():
    assert [power_of_two(number) for number in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]
    assert registers(13, 8) == [(0, 8), (8, 8)] and registers(3, 8) == [(0, 4)]
    assert registers(9, 8) == [(0, 8), (8, 1)] and registers(8, 4) == [(0, 4), (4, 4)]
    assert width(registers(11, 8)) == 12
    assert product_sizes([(2, 3), (4, 5)]) == (8, 15, 26) and product_sizes([]) == (1, 1, 0)


def test_tiles_at_once_have_twelve_sums():
    for sums in range(1, 40):
        tiles = tiles_at_once(sums)
        assert tiles in (1, 2, 4, 8) and 2 * tiles * sums > 12
        assert tiles == 1 or tiles * sums <= 12
