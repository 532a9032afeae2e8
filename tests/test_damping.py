"""How damping is split, by hand: what mutants of `kronops.damping` asked for."""

from __future__ import annotations

import numpy as np
import pytest

import kronops
from kronops.damping import damping_shares, mean_eigenvalue


def means(*numbers):
    return [np.asarray(float(number)) for number in numbers]


@pytest.mark.parametrize("value", [0.01, 3.0])
def test_shares_follow_the_means_and_multiply_to_the_damping(value):
    root = value**0.5
    np.testing.assert_allclose(damping_shares(means(9, 1), value, "trace"), [3 * root, root / 3])
    root = value ** (1 / 3)
    want = [root * 2, root / 4, root * 2]
    np.testing.assert_allclose(damping_shares(means(16, 2, 16), value, "trace"), want)


@pytest.mark.parametrize("mean", [0.0, -1.0, np.nan, np.inf])
def test_shares_are_equal_where_a_mean_is_of_no_use(mean):
    for both in ((mean, 4.0), (4.0, mean)):
        shares = damping_shares(means(*both), 0.25, "trace")
        assert shares == [0.5, 0.5] and all(type(share) is float for share in shares)


def test_pi_is_a_positive_number_and_for_two_factors():
    assert damping_shares(means(9, 1), 0.25, 4.0) == [2.0, 0.125]
    assert damping_shares(means(9, 1), 0.25, 0.5) == [0.25, 1.0]
    for wrong in (0, -1.0, 1j, "Trace", "2"):
        with pytest.raises(ValueError, match=r'pi = .*: "trace" or a number > 0 would do'):
            damping_shares(means(9, 1), 0.25, wrong)
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"between two factors, not {count}"):
            damping_shares(means(*[1] * count), 0.25, 2.0)


def test_libraries_that_keep_to_the_standard():
    """No product of truth values, no real part of what is real."""
    strict = pytest.importorskip("array_api_strict")
    given = [strict.asarray(number) for number in (9.0, 1.0)]
    assert damping_shares(given, 0.25, "trace") == pytest.approx([1.5, 1 / 6])
    assert float(mean_eigenvalue(strict.asarray(7.0), 2)) == 3.5


def test_mean_eigenvalues_are_real():
    assert mean_eigenvalue(np.asarray(7.0), 2) == 3.5
    complex_ = mean_eigenvalue(np.asarray(6.0 + 1j), 3)
    assert complex_ == 2.0 and complex_.dtype == np.float64
    assert mean_eigenvalue(np.asarray(0.0), 0) == 0.0 and mean_eigenvalue(np.asarray(5.0), 1) == 5


def test_factored_damping_of_a_product():
    a, b = np.diag([2.0, 4.0]), np.diag([1.0, 2.0, 0.0])
    pi = (3.0 / 1.0) ** 0.5
    want = np.kron(a + pi * 0.1 * np.eye(2), b + 0.1 / pi * np.eye(3))
    made = kronops.kron(a, b).damped(0.01, method="factored")
    np.testing.assert_allclose(made.to_dense(), want, rtol=1e-14)
