"""Functions of eigenvalues to the last unit: what mutants of `kronops.spectrum` asked for.

``python tests/mutants.py`` makes them; docs/mutants.md lists those that survive, and why.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from kronops import LinAlgError, LinAlgWarning
from kronops.spectrum import (
    check_condition,
    check_estimate,
    check_sums,
    exp,
    extreme_sums,
    in_range,
    log,
    power,
    real,
    reciprocal,
    require_positive,
    sums,
    truncated_reciprocal,
)

EPS = float(np.finfo(np.float64).eps)
EMPTY = np.zeros(0)
SINGULAR = "it is singular (a zero eigenvalue): add damping"


def array(*values, dtype=None):
    return np.array(values, dtype)


def above(number):
    return math.nextafter(number, math.inf)


def below(number):
    return math.nextafter(number, -math.inf)


def judged(check, *arguments, **options):
    """What the error says, the condition number that is warned of, or nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check(*arguments, "it", **options)
        except LinAlgError as error:
            return str(error)
    if not caught:
        return ""
    [warning] = caught
    assert warning.category is LinAlgWarning
    words = str(warning.message).split()
    assert words[:4] == ["it", "has", "condition", "number"]
    return words[4]


@pytest.fixture
def compiled():
    """``jax.jit`` of a function of eigenvalues, which sees none of them."""
    jax = pytest.importorskip("jax")

    def compiled(function, values, *arguments):
        with jax.enable_x64(True):
            made = jax.jit(lambda x: function(x, *arguments, "it"))(jax.numpy.asarray(values))
            return np.asarray(made)

    return compiled


class TestPower:
    @pytest.mark.parametrize("p", [-3, -2.0, -1, 0, 1, 2.0, 3])
    def test_integers_of_any_sign(self, p):
        np.testing.assert_array_equal(
            power(array(-2.0, 0.5, 4.0), p, "it"), array(-2.0, 0.5, 4.0) ** p
        )

    @pytest.mark.parametrize("p", [-1.5, -0.5, 0.5, 2.5])
    def test_fractions_of_what_is_not_negative(self, p):
        made = power(array(0.25, 4.0, 16.0), p, "it")
        np.testing.assert_array_equal(made, array(0.25, 4.0, 16.0) ** p)

    def test_of_zero(self):
        np.testing.assert_array_equal(power(array(0.0, 4.0), 0.5, "it"), array(0.0, 2.0))
        np.testing.assert_array_equal(power(array(0.0, 4.0), 2, "it"), array(0.0, 16.0))
        np.testing.assert_array_equal(power(array(0.0, 4.0), 0, "it"), array(1.0, 1.0))
        for p in (-1, -0.5):
            with pytest.raises(LinAlgError, match="it is singular"):
                power(array(0.0, 4.0), p, "it")

    def test_of_none(self):
        assert power(EMPTY, 0.5, "it").shape == (0,)

    @pytest.mark.parametrize("shape", [(5,), (2, 5), (5, 2)])
    @pytest.mark.parametrize("largest", [1.0, 4.0])
    def test_as_negative_as_the_rounding_of_so_many_counts_as_zero(self, shape, largest, compiled):
        values = np.full(shape, largest)
        values[0, ...] = 1.0
        bound = -5 * EPS * values.max()
        values.flat[1] = bound
        wanted = np.sqrt(np.maximum(values, 0))
        np.testing.assert_array_equal(power(values, 0.5, "it"), wanted)
        np.testing.assert_array_equal(compiled(power, values, 0.5), wanted)
        values.flat[1] = bound / 2
        np.testing.assert_array_equal(compiled(power, values, 0.5), wanted)
        values.flat[1] = below(bound)
        with pytest.raises(
            LinAlgError, match=r"it is indefinite \(eigenvalue -.*\): power 0.5 nee"
        ):
            power(values, 0.5, "it")
        wanted.flat[1] = math.nan
        np.testing.assert_array_equal(compiled(power, values, 0.5), wanted)

    def test_of_none_that_is_positive(self, compiled):
        with pytest.raises(LinAlgError, match=r"it is indefinite \(eigenvalue -3\): power 0.5"):
            power(array(-3.0, -1.0), 0.5, "it")
        assert np.isnan(compiled(power, array(-3.0, -1.0), 0.5)).all()
        made = compiled(power, array(-3.0, 0.0, 4.0), 0.5)
        np.testing.assert_array_equal(made, array(math.nan, 0.0, 2.0))
        tiny = array(-1e-300, -2.0)
        with pytest.raises(LinAlgError, match="it is indefinite"):
            power(tiny, 0.5, "it")
        with pytest.raises(LinAlgError, match="it is indefinite"):
            power(tiny[:1], 0.5, "it")

    def test_where_nobody_sees_them(self, compiled):
        np.testing.assert_array_equal(compiled(power, array(0.0, 4.0), 0.5), array(0.0, 2.0))
        np.testing.assert_array_equal(compiled(power, array(4.0, 1.0), -0.5), array(0.5, 1.0))
        np.testing.assert_array_equal(compiled(power, array(0.0, 2.0), -1), array(math.nan, 0.5))
        assert compiled(power, EMPTY, 0.5).shape == (0,)


class TestReal:
    @pytest.mark.parametrize("size", [1.0, 4.0])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_imaginary_parts_of_ten_units_of_rounding_are_none(self, size, sign, compiled):
        bound = 10 * EPS * size
        values = array(complex(size, sign * bound), 3.0)
        np.testing.assert_array_equal(real(values, "it"), array(size, 3.0))
        np.testing.assert_array_equal(compiled(real, values), array(size, 3.0))
        values[0] = complex(size, sign * above(bound))
        with pytest.raises(LinAlgError, match="it has complex eigenvalues: it is not Hermitian"):
            real(values, "it")
        np.testing.assert_array_equal(compiled(real, values), array(math.nan, 3.0)[[0, 0]])

    def test_of_what_is_real(self, compiled):
        values = array(1.0, -2.0)
        assert real(values, "it") is values
        np.testing.assert_array_equal(compiled(real, values), values)


class TestReciprocal:
    def test_of_each(self, compiled):
        np.testing.assert_array_equal(reciprocal(array(4.0, -0.5), "it"), array(0.25, -2.0))
        np.testing.assert_array_equal(compiled(reciprocal, array(4.0, -0.5)), array(0.25, -2.0))

    def test_of_zero(self, compiled):
        for values in (array(0.0, 1.0), array(-1.0, 0.0), array(0.0)):
            with pytest.raises(LinAlgError, match=r"it is singular \(a zero eigenvalue\): add"):
                reciprocal(values, "it")
        made = compiled(reciprocal, array(0.0, 1.0, -1.0))
        np.testing.assert_array_equal(made, array(math.nan, 1.0, -1.0))

    def test_up_to_a_cutoff(self):
        values = array(2.0, -2.0, above(2.0), -4.0, 0.0)
        made = truncated_reciprocal(values, 2.0)
        np.testing.assert_array_equal(made, array(0.0, 0.0, 1 / above(2.0), -0.25, 0.0))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of divisions by zero
            truncated_reciprocal(values, 0.0)


class TestExponential:
    @pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
    def test_up_to_the_range(self, dtype):
        one = np.finfo(dtype).dtype.type
        largest = one(math.log(float(np.finfo(dtype).max)))
        if float(largest) > math.log(float(np.finfo(dtype).max)):
            largest = np.nextafter(largest, one(0))
        made = exp(array(largest, -1e3, 0.0, dtype=dtype), "it")
        assert np.isfinite(made).all()
        np.testing.assert_array_equal(made[1:].real, array(np.exp(one(-1e3)), 1.0, dtype=one))
        more = np.nextafter(largest, one(1e3))
        with pytest.raises(
            OverflowError, match=r"it has an eigenvalue of real part \d+\.\d+, whose"
        ):
            exp(array(0.0, more, dtype=dtype), "it")

    def test_of_an_imaginary_part_of_any_size(self):
        np.testing.assert_allclose(abs(exp(array(1000j, 800j), "it")), 1)

    def test_of_none_and_where_nobody_sees_them(self, compiled):
        assert exp(EMPTY, "it").shape == (0,)
        np.testing.assert_array_equal(compiled(exp, array(0.0, 1e3)), array(1.0, math.inf))


def test_in_range(compiled):
    values = array(1e308, -1e308)
    assert in_range(values, "it") is values
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(OverflowError, match="it has eigenvalues out of the range of float64"):
            in_range(array(1.0, bad), "it")
    np.testing.assert_array_equal(compiled(in_range, array(1.0, math.inf)), array(1.0, math.inf))


def test_positive(compiled):
    values = array(5e-324, 2.0)
    assert require_positive(values, "it") is values
    np.testing.assert_array_equal(compiled(require_positive, values[1:]), values[1:])
    for bad in (0.0, -1.0):
        for values in (array(bad, 2.0), array(2.0, bad)):
            for function in (require_positive, log):
                with pytest.raises(LinAlgError, match="it is not positive definite"):
                    function(values, "it")
                assert np.isnan(compiled(function, values)).all()
    np.testing.assert_array_equal(compiled(log, array(1.0, 4.0)), np.log(array(1.0, 4.0)))


class TestCondition:
    @pytest.mark.parametrize("largest", [1.0, 8.0])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_of_eigenvalues(self, largest, sign):
        def of(smallest, computed, **options):
            values = array(largest, sign * smallest, -largest)
            return judged(check_condition, values, computed, **options)

        covered = EPS / 4 * largest
        assert of(0.0, True) == of(0.0, False) == of(covered, True) == SINGULAR
        assert of(covered, False) == of(covered, True, refuse=False) == "1.8e+16:"
        assert of(above(covered), True) == "1.8e+16:"
        assert of(5e-324, False) not in ("", SINGULAR)
        assert of(0.0, True, refuse=False) == of(0.0, False, refuse=False) == ""
        small = 10 * EPS * largest
        assert of(below(small), True) == of(below(small), False) == "4.5e+14:"
        assert of(small, True) == of(small, False) == ""

    def test_of_what_is_out_of_range(self):
        assert judged(check_condition, array(0.0, math.inf), False) == SINGULAR
        assert judged(check_condition, array(0.0, math.inf), False, refuse=False) == ""

    def test_of_none_and_where_nobody_sees_them(self, compiled):
        assert judged(check_condition, EMPTY, True) == ""
        assert judged(check_sums, [EMPTY, array(1.0)], 0.0) == ""

        def check(values, what):
            check_condition(values, True, what)
            check_sums([values], 0.0, what)
            return values

        compiled(check, array(0.0, 1.0))

    @pytest.mark.parametrize("spread", [lambda x: [x], lambda x: [array(0.0), x]])
    def test_of_sums(self, spread):
        def of(smallest, **options):
            return judged(check_sums, spread(array(smallest, 1.0)), 0.0, **options)

        assert of(0.0) == of(4 * EPS) == SINGULAR
        assert of(above(4 * EPS)) == of(4 * EPS, refuse=False) == "1.1e+15:"
        assert of(0.0, refuse=False) == ""
        assert of(below(40 * EPS)) == "1.1e+14:"
        assert of(40 * EPS) == ""

    def test_of_sums_is_judged_by_the_dtype_that_is_least(self):
        low, high = array(1.0, dtype=np.float32), array(-1.0 + 1e-7)
        assert judged(check_sums, [low, high], 0.0) == SINGULAR
        assert judged(check_sums, [high, low], 0.0) == SINGULAR
        assert judged(check_sums, [low.astype(np.float64), high], 0.0) == ""

    def test_of_an_estimate(self):
        assert judged(check_estimate, 2.0**60, 2.0**-60) == SINGULAR
        assert judged(check_estimate, below(2.0**60), 2.0**-60) == "1.2e+18:"
        assert judged(check_estimate, 2.0, 0.05) == ""
        assert judged(check_estimate, above(2.0), 0.05) == "2.0e+00:"
        assert judged(check_estimate, 2.5, 0.05) == "2.5e+00:"
        for condition in (math.inf, math.nan):
            assert judged(check_estimate, condition, 0.0) == SINGULAR


class TestSums:
    @pytest.mark.parametrize(
        "spectra, shift, smallest, largest",
        [
            ([[1.0, 3.0], [5.0, 7.0]], 2.0, 8.0, 12.0),
            ([[-3.0, -1.0], [-7.0, -5.0]], -2.0, 8.0, 12.0),
            ([[-1.0, 3.0], [5.0, 7.0]], 0.0, 4.0, 10.0),
            ([[-5.0, 3.0], [4.0, 7.0]], 0.0, 1.0, 12.0),
            ([[-5.0, 3.0], [4.0, 7.0]], 0.5, 0.5, 12.5),
            ([[-5.0, 3.0], [4.0, 7.0]], -20.0, 10.0, 32.0),
            ([[-4.0, 1.0], [4.0, 7.0]], 0.0, 0.0, 11.0),
            ([[-2.0, 1.0]], 3.0, 1.0, 5.0),
            ([[1j, 2.0], [1.0]], 0.0, math.sqrt(2), 3.0),
            ([[1.0, 2.0], [3.0]], 3j, 5.0, 8.0),
            ([[1.0, 2.0], [3.0]], -4 + 3j, 3.0, 10.0),
        ],
    )
    def test_smallest_of_them_and_largest_parts(self, spectra, shift, smallest, largest):
        found = extreme_sums([np.array(values) for values in spectra], shift)
        assert found == pytest.approx((smallest, largest), rel=1e-15)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_of_one_sign_are_not_written_out(self, sign):
        spectra = [np.full(2**14, sign / 8)] * 3
        assert extreme_sums(spectra, sign / 8) == (0.5, 0.5)

    def test_of_no_eigenvalues(self):
        assert extreme_sums([array(1.0), EMPTY], 0.0) is None

    def test_of_each_with_each(self):
        spectra = [array(10.0, 20.0), array(1.0, 2.0, 3.0), array(0.25)]
        wanted = array(11.25, 12.25, 13.25, 21.25, 22.25, 23.25)
        np.testing.assert_array_equal(sums(spectra), wanted)
        np.testing.assert_array_equal(sums(spectra, 2j), wanted + 2j)
        assert sums([array(1.0, dtype=np.float32)], 1.5).dtype == np.float32
        assert sums([EMPTY, array(1.0)]).shape == (0,)
        torch = pytest.importorskip("torch")
        made = sums([torch.asarray(values) for values in spectra])
        np.testing.assert_array_equal(np.asarray(made), wanted)

    def test_too_many_to_be_written_out(self):
        with pytest.raises(ValueError, match=f"{3**40} numbers are too many"):
            sums([array(1.0, 2.0, 3.0)] * 40)
