"""What counts as symmetric, to the unit of rounding: what mutants of `kronops.checks` asked for.

``python tests/mutants.py`` makes them; docs/mutants.md lists those that survive, and why.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from kronops import DenseOperator, LinAlgError, SeriesOperator
from kronops.checks import (
    as_inexact,
    as_matrix,
    as_vector,
    hermitian_to_rounding,
    is_complex,
    is_hermitian,
)
from kronops.scaling import (
    exponent,
    kronecker,
    largest,
    outer,
    product,
    product_of_scalars,
    require_writable,
    rescale,
    smallest_exponent,
    split,
)
from kronops.series_sums import stein_powers, stein_solve

rng = np.random.default_rng(0)


def asymmetric(n, units, dtype=np.float64, place=(1, 0)):
    """A symmetric matrix but for one entry, which is off by so many units of rounding."""
    draws = rng.standard_normal((n, n))
    matrix = (draws + draws.T).astype(dtype) / 4
    np.fill_diagonal(matrix, 1.0)
    i, j = place
    matrix[i, j] = matrix[j, i] = 0.5  # the diagonal is what it is compared with
    matrix[i, j] += dtype(units * np.finfo(dtype).eps)
    return matrix


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [2, 3, 40, 150])
def test_as_many_units_of_rounding_as_there_are_rows_and_ten_more(n, dtype):
    for sign in (1, -1):
        for place in ((1, 0), (0, 1), (n - 1, 0), (0, n - 1)):
            passes, fails = (asymmetric(n, sign * (n + 10 + d), dtype, place) for d in (-1, 1))
            assert is_hermitian(passes) and hermitian_to_rounding(passes)
            assert not is_hermitian(fails) and not hermitian_to_rounding(fails)


@pytest.mark.parametrize("size", [2.0**-20, 1.0, 2.0**20])
def test_rounding_is_relative_and_its_bound_is_allowed(size):
    """Two rows: twelve units pass, and thirteen do not."""
    for units, want in ((12, True), (13, False)):
        matrix = np.array([[1.0, 1.0], [1.0, 1.0]]) * size
        matrix[1, 0] -= units * np.finfo(float).eps * size
        assert is_hermitian(matrix) is want and bool(hermitian_to_rounding(matrix)) is want


def test_zeros_and_infinities_may_be_symmetric_beside_rounding():
    matrix = np.array([[1.0, 1.0, 0.0], [1.0 + 2**-52, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert is_hermitian(matrix)
    assert is_hermitian(np.array([[1.0, np.inf], [np.inf, 1.0]]))


def test_sizes_beyond_the_integers_that_python_shares():
    assert is_hermitian(np.eye(300))


@pytest.mark.parametrize(
    "read", [lambda x: as_matrix(x[:, None], "x"), lambda x: as_vector(x, "x")]
)
def test_what_is_not_finite_is_refused_by_default(read):
    with pytest.raises(ValueError, match="x has NaN or infinite entries"):
        read(np.array([1.0, np.nan]))


def test_what_is_as_large_with_another_sign_is_not_symmetric():
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert not is_hermitian(skew) and not is_hermitian(1j * np.eye(2)) and is_hermitian(1j * skew)
    assert not is_hermitian(np.array([[1.0, 1j], [1j, 1.0]]))


def test_rectangles_are_not_symmetric():
    assert not is_hermitian(np.ones((2, 3))) and not is_hermitian(np.ones((3, 2)))
    assert not DenseOperator(np.ones((2, 3))).hermitian


def test_nan_is_not_symmetric():
    assert not is_hermitian(np.full((2, 2), np.nan))
    assert not is_hermitian(np.array([[1.0, np.inf], [1.0, np.inf]]))


def test_kinds_of_dtypes_and_of_lists():
    assert is_complex(np.ones(1, np.complex64)) and is_complex(1j * np.ones(1))
    for real in (np.float32, np.float64, np.int64, np.bool_):
        assert not is_complex(np.ones(1, real))
    with pytest.raises(TypeError, match=r"x is a list: an array is needed, for example numpy"):
        as_inexact([1.0, 2.0], "x")
    with pytest.raises(TypeError, match=r"x is a tuple: an array is needed, give arrays .* one by"):
        as_inexact((np.ones(2),), "x")


def test_vectors_have_one_axis():
    np.testing.assert_array_equal(as_vector(np.arange(3), "x"), [0.0, 1.0, 2.0])
    for wrong in (np.ones((2, 2)), np.array(1.0)):
        with pytest.raises(ValueError, match=r"x has shape \(.*\): one axis is needed"):
            as_vector(wrong, "x")


def test_sizes_of_nothing_are_zero():
    for nothing in (np.zeros((0, 3)), np.zeros(0)):
        assert exponent(nothing) == smallest_exponent(nothing) == 0 and largest(nothing) == 0.0
    assert exponent(np.zeros(2)) == smallest_exponent(np.zeros(2)) == 0
    assert smallest_exponent(np.array([0.0, -0.25, 8.0])) == -1 and exponent(np.array([-8.0])) == 4


def test_multipliers_that_are_arrays_keep_the_precision():
    array = np.ones(2, np.float32)
    assert rescale(array, [np.asarray(2.0)]).dtype == np.float32
    assert rescale(array, [np.asarray(2j)]).dtype == np.complex64
    assert rescale(array, [2j]).dtype == np.complex64


def test_sizes_of_arrays_with_any_number_of_axes():
    assert largest(-2 * np.ones((2, 3, 4))) == 2.0 == largest(np.array(2.0))
    assert exponent(np.full((2, 3, 4), 8.0)) == 4


@pytest.mark.parametrize("written", [outer, lambda parts: kronecker([p[:, None] for p in parts])])
def test_lists_that_no_memory_holds_are_refused(written):
    with pytest.raises(ValueError, match="4398046511104 numbers are too many to be written out"):
        written([np.ones(2**21)] * 2)


def test_2_to_the_40_numbers_may_be_written_out():
    require_writable(2**40)
    with pytest.raises(ValueError, match="1099511627777 numbers are too many"):
        require_writable(2**40 + 1)


@pytest.mark.parametrize("limit", [1024, 256, 128, 16])
@pytest.mark.parametrize("scale", [1.0, -3.0, 0.0, 1e-320])
def test_scalars_are_split_into_what_is_in_range_and_lose_nothing(scale, limit):
    for power in (-3000, -limit, -limit + 1, -1, 0, 1, limit - 1, limit, 3000):
        parts = split(scale, power, limit)
        assert math.prod(map(Fraction, parts)) == Fraction(scale) * Fraction(2) ** power
        assert all(abs(math.frexp(part)[1]) < limit for part in parts)
    assert split(1.0, 0, limit) == [] and split(0.0, 0, limit) == [0.0]


def test_products_of_negative_scalars():
    assert product_of_scalars([-4.0]) == (-0.5, 3)
    assert product_of_scalars([-4.0, 1e200, -(2.0**700), 1e-200]) == (pytest.approx(0.5), 703)


def test_what_has_no_size_has_the_exponent_zero():
    assert exponent(np.array([np.inf])) == exponent(np.array([np.nan])) == 0
    assert smallest_exponent(np.array([np.inf])) == smallest_exponent(np.array([np.nan])) == 0
    assert product_of_scalars([0.0, 3.0]) == (0.0, 0) and product_of_scalars([]) == (1.0, 0)


def test_products_whose_partial_products_leave_the_range():
    v = np.array([1.0, 2.0])
    parts, want = (
        [1e300 * v, 1e300 * v, 1e-300 * v, 1e-300 * v],
        np.kron(np.kron(v, v), np.kron(v, v)),
    )
    np.testing.assert_allclose(outer(parts), want, rtol=1e-13)
    np.testing.assert_allclose(kronecker([part[:, None] for part in parts])[:, 0], want, rtol=1e-13)
    np.testing.assert_allclose(product(parts, 2.0), 2 * v**4, rtol=1e-13)
    np.testing.assert_allclose(outer(parts[:2], 1e-300)[:2], 1e300 * v[[0, 1]], rtol=1e-13)
    np.testing.assert_array_equal(outer([v], -0.5), [-0.5, -1])
    near = [np.array([2.0**power]) for power in (1000, 30, -30)]  # out by a little, and back
    assert outer(near) == 2.0**1000


@pytest.mark.parametrize("correlation", [1.0, -1.0])
def test_correlations_that_never_decay_are_seen_after_as_many_doublings_as_there_are_bits(
    correlation,
):
    moments = np.eye(2), correlation * np.eye(2)
    op = SeriesOperator(moments, (np.eye(1), np.eye(1)), 3, 2)
    with pytest.raises(LinAlgError, match="the correlations do not decay"):
        op @ np.ones(2)
    nearly = np.eye(2), np.nextafter(1.0, 0.0) * correlation * np.eye(2)
    with pytest.raises(LinAlgError, match="the correlations do not decay"):
        SeriesOperator(nearly, (np.eye(1), np.eye(1)), 3, 2) @ np.ones(2)
    faded = SeriesOperator(moments, (np.eye(1), (1 - 1e-6) * np.eye(1)), 3, 2)
    np.testing.assert_allclose(faded @ faded.solve(np.ones(2)), 1, rtol=1e-6)


def test_correlations_that_decay_in_the_last_doublings_are_summed():
    """To the digits that such powers have: squaring doubles their errors."""
    a, one = np.array([[1 - 2.0**-47]]), np.eye(1)
    np.testing.assert_allclose(stein_solve(stein_powers(a, one), one), 2.0**47, rtol=0.1)


def test_contractions_may_have_norms_of_the_root_of_their_size():
    powers = stein_powers(0.9 * np.eye(30), np.eye(20))
    np.testing.assert_allclose(stein_solve(powers, np.ones((30, 20))), 10.0, rtol=1e-13)


def test_correlations_that_grow_are_refused_before_they_overflow():
    grows = 1.01 * np.eye(2)  # to infinity on the diagonal, and then to NaN
    with pytest.raises(LinAlgError, match="the correlations do not decay"):
        stein_powers(grows, grows)
