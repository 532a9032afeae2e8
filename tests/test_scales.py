"""Sizes and magnitudes that no matrix could hold: right whenever the answer can be represented."""

from __future__ import annotations

import numpy as np
import pytest

import kronops
from kronops import DenseOperator, DiagonalOperator, IdentityOperator, kron

rng = np.random.default_rng(0)
A, B = rng.standard_normal((2, 3, 3)) + 3 * np.eye(3)


def test_a_shape_of_10_to_the_21():
    op = kron(*[np.diag(np.arange(1.0, 11)) / 5.5] * 21)
    assert op.shape == (10**21, 10**21)
    assert op.trace() == pytest.approx(10.0**21, rel=1e-13)
    one = np.log(np.arange(1, 11) / 5.5).sum()
    assert op.logdet() == pytest.approx(21 * 10**20 * one, rel=1e-12)
    assert op.inverse().shape == (10**21, 10**21)
    assert op.norm() == pytest.approx(np.linalg.norm(np.arange(1, 11) / 5.5) ** 21, rel=1e-12)


def test_seventy_factors_of_two():
    op = kron(*[np.array([[2.0, 1.0], [1.0, 2.0]])] * 70)
    assert op.shape == (2**70, 2**70)
    assert op.logdet() == pytest.approx(70 * 2**69 * np.log(3), rel=1e-13)
    assert op.trace() == 4.0**70
    assert repr(op).count("\n") == 0
    scaled = kronops.KroneckerOperator(op.factors, scale=-1.0)
    assert scaled.slogdet().sign == 1  # an even number of signs


def test_exact_damping_of_a_shape_that_no_vector_has():
    op = kron(*[np.eye(2)] * 70).damped(1.0)
    assert op.shape == (2**70, 2**70) and op.trace() == 2.0**71


def test_operations_are_counted_exactly():
    op = kron(*[1e300 * np.ones((2, 2)), 1e-300 * np.ones((3, 3))] * 40)
    [first] = op._products._accounts([0], 1)
    assert first.flops == 6 * (op.shape[0] // 2)
    rectangular = kron(1e300 * np.ones((2, 3)), 1e-300 * np.ones((5, 4)))
    made = rectangular._products._accounts([0, 1], 1)
    assert [part.flops for part in made] == [10 * 4, 35 * 2]


def test_seventy_factors_of_one():
    op = kron(*[np.array([[1.5]])] * 70)
    assert op @ np.ones(1) == pytest.approx(1.5**70)
    assert op.solve(np.ones(1)) == pytest.approx(1.5**-70)


@pytest.mark.parametrize("big", [1e150, 2.0**512, 1e250])
def test_large_times_small(big):
    op = kron(big * A, B / big, big * B, A / big)
    want = np.kron(np.kron(A, B), np.kron(B, A))
    x = rng.standard_normal(81)
    np.testing.assert_allclose(op @ x, want @ x, rtol=1e-12)
    np.testing.assert_allclose(op @ (op.solve(x)), x, rtol=1e-9)
    np.testing.assert_allclose(op.to_dense(), want, rtol=1e-13)
    np.testing.assert_allclose(op.diagonal(), np.diagonal(want), rtol=1e-13)
    assert op.trace() == pytest.approx(np.trace(want), rel=1e-12)
    assert op.norm() == pytest.approx(np.linalg.norm(want), rel=1e-12)
    assert op.slogdet().logabsdet == pytest.approx(np.linalg.slogdet(want)[1], rel=1e-11)


def test_large_times_small_of_rectangular_factors():
    a, b, x = rng.standard_normal((2, 3)), rng.standard_normal((5, 4)), rng.standard_normal(12)
    for big in (1e200, 1e-200):
        np.testing.assert_allclose(kron(big * a, b / big) @ x, np.kron(a, b) @ x, rtol=1e-12)


def test_the_vector_may_make_up_for_the_scale():
    op = kronops.KroneckerOperator([A, 1e200 * B, 1e200 * A], scale=1e-100)
    x = rng.standard_normal(27)
    want = np.kron(np.kron(A, B), A) @ x
    np.testing.assert_allclose(op @ (1e-250 * x), 1e50 * want, rtol=1e-12)
    np.testing.assert_allclose(op.solve(1e50 * want), 1e-250 * x, rtol=1e-10)


def test_a_scale_counts_among_what_leaves_the_range():
    """Also where it makes up for what the factors do, and where it is near one."""
    small = kronops.block_diag(2.0**-150 * np.eye(2))  # no matrix that could be scaled instead
    op = kronops.KroneckerOperator([small] * 2, scale=2.0**300)
    np.testing.assert_array_equal(op @ np.full(4, 2.0**-800), 2.0**-800)
    op = kronops.KroneckerOperator([2.0**400 * np.eye(2), 2.0**-400 * np.eye(2)], scale=0.5)
    np.testing.assert_array_equal(op @ np.full(4, 2.0**-700), 2.0**-701)


def test_a_scale_that_would_cost_an_entry_digits_is_kept_apart():
    tiny = (2 - 2.0**-52) * 2.0**-701
    op = kronops.KroneckerOperator([np.array([[1.0, tiny], [tiny, 1.0]])], scale=2.0**-325)
    assert (op @ np.array([0.0, 2.0**1000]))[0] == tiny * 2.0**675


def test_a_scale_near_one_takes_digits_from_what_is_near_the_end_of_the_range():
    tiny = (1 + 2.0**-51) * 2.0**-1022
    op = kronops.KroneckerOperator([np.array([[1.0, tiny], [tiny, 1.0]])], scale=0.75)
    assert (op @ np.array([0.0, 2.0**1000]))[0] == tiny * 2.0**1000 * 0.75


def test_a_small_scale_meets_a_large_vector_before_factors_near_one():
    near_one = kronops.block_diag(np.full((2, 2), 0.75))
    op = kronops.KroneckerOperator([near_one] * 2, scale=2.0**-600)
    np.testing.assert_array_equal(op @ np.full(4, 2.0**1023), 2.25 * 2.0**423)


@pytest.mark.parametrize("count", [4, 8])
def test_entries_whose_product_would_lose_its_last_digit_are_not_multiplied(count):
    tiny = (1 + 2.0**-13) * 2.0**-256  # the fourth power has 53 digits
    x = np.zeros(2**count)
    x[15] = 2.0**1000
    made = kron(*[np.array([[1.0, tiny], [tiny, 1.0]])] * count) @ x
    assert made[0] == (1 + 2.0**-13) ** 4 * 2.0**-24


def test_nor_are_those_whose_product_would_lose_one_digit():
    factors = [np.eye(4) for _ in range(3)]
    for factor, mantissa in zip(factors, (1 + 2.0**-26, 1 + 2.0**-26, 1.0), strict=True):
        factor[0, 1] = mantissa * 2.0**-341
    x = np.zeros(64)
    x[21] = 2.0**1000
    assert (kron(*factors) @ x)[0] == (1 + 2.0**-26) ** 2 * 2.0**-23


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_a_number_is_not_merged_into_a_matrix_whose_entries_it_takes_out_of_range(size):
    matrix = np.eye(size)
    matrix[0, 1] = 2.0**-900
    x = np.zeros(size)
    x[1] = 2.0**1000
    made = kron(np.array([[2.0**-300]]), matrix) @ x
    assert made[0] == 2.0**-200 and made[1] == 2.0**700


def test_diagonals_that_are_merged():
    a, b = rng.standard_normal(4), rng.standard_normal(3)
    x = rng.standard_normal((36, 2))
    made = kron(DiagonalOperator(a), DiagonalOperator(b), A) @ x
    np.testing.assert_allclose(made, np.kron(np.diag(np.kron(a, b)), A) @ x, rtol=1e-12)


def test_a_large_vector_meets_the_small_factor_first():
    x = 1e300 * rng.standard_normal(9)
    want = np.kron(A, B) @ x
    np.testing.assert_allclose(kron(1e100 * A, 1e-100 * B) @ x, want, rtol=1e-12)
    np.testing.assert_allclose(kron(1e-100 * A, 1e100 * B) @ x, want, rtol=1e-12)


def test_scalars_that_fold_out_of_range_stay_outside():
    op = 1e-200 * kronops.KroneckerOperator([A], scale=1e-200)
    np.testing.assert_allclose(op @ np.full(3, 1e300), 1e-100 * (A @ np.ones(3)), rtol=1e-13)
    big = 1e200 * kronops.KroneckerOperator([A], scale=1e200)
    np.testing.assert_allclose(big @ np.full(3, 1e-300), 1e100 * (A @ np.ones(3)), rtol=1e-13)


def test_single_precision_has_its_own_range():
    a, b = A.astype(np.float32), B.astype(np.float32)
    big, small = np.float32(1e30), np.float32(1e-30)
    op = kron(a * big, b * small, a * big, b * small)
    x = rng.standard_normal(81).astype(np.float32)
    want = np.kron(np.kron(A, B), np.kron(A, B)) @ x
    got = op @ x
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_scale_may_be_out_of_the_range_of_single_precision():
    small = [np.float32(1e-30) * matrix.astype(np.float32) for matrix in (A, B)]
    x = rng.standard_normal(9).astype(np.float32)
    want = np.kron(A, B) @ x
    got = kronops.KroneckerOperator(small, scale=1e60) @ x
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_half_precision_is_factorised_in_single():
    op = kron(A.astype(np.float16), B.astype(np.float16))
    x = np.ones(9, np.float16)
    assert (op @ x).dtype == op.solve(x).dtype == np.float16
    np.testing.assert_allclose(op @ op.solve(x), x, atol=0.02)


def test_a_determinant_of_a_million_dimensions():
    op = kron(2 * np.eye(1000), 3 * np.eye(1000))
    assert op.logdet() == pytest.approx(10**6 * np.log(6), rel=1e-14)
    damped = op.damped(1.0)
    assert damped.logdet() == pytest.approx(10**6 * np.log(7), rel=1e-13)
    identity = IdentityOperator(10**6, like=np.zeros(1))
    assert (-2 * identity).slogdet().sign == 1
    assert (-2 * IdentityOperator(10**6 + 1, like=np.zeros(1))).slogdet().sign == -1


def test_dense_entries_of_any_size():
    for size in (1e-300, 1e-150, 1e150, 1e300):
        op = DenseOperator(size * A)
        np.testing.assert_allclose(op.solve(size * (A @ np.ones(3))), 1, rtol=1e-12)
        assert op.slogdet().logabsdet == pytest.approx(
            np.linalg.slogdet(A)[1] + 3 * np.log(size), rel=1e-12
        )
        assert op.norm() == pytest.approx(size * np.linalg.norm(A), rel=1e-13)
    assert DiagonalOperator(np.full(4, 1e200)).norm() == pytest.approx(2e200)


def test_products_are_componentwise_accurate():
    """Within ``eps · Σ nᵢ`` of ``|A| ⊗ |B| |x|``, also where entries are of very unlike size."""
    a, b = (rng.standard_normal((n, n)) * np.exp(8 * rng.standard_normal((n, n))) for n in (6, 5))
    x = rng.standard_normal(30) * np.exp(5 * rng.standard_normal(30))
    exact = np.kron(a.astype(np.longdouble), b.astype(np.longdouble)) @ x.astype(np.longdouble)
    bound = np.finfo(float).eps * 11 * (np.kron(abs(a), abs(b)) @ abs(x))
    assert np.all(abs(kron(a, b) @ x - exact) <= bound)
    shifted = abs(kron(a, b).damped(1e-3) @ x - exact - np.longdouble(1e-3) * x)
    assert np.all(shifted <= bound + np.finfo(float).eps * 1e-3 * abs(x))


@pytest.mark.parametrize("condition", [1e2, 1e8, 1e12])
def test_solves_are_backward_stable(condition):
    """Residuals within ``10 eps Σ nᵢ`` of ``‖K‖ ‖x‖``, whatever the condition."""
    for seed in range(10):
        generator = np.random.default_rng(seed)
        factors = []
        for n in (7, 5):
            u, v = (np.linalg.qr(generator.standard_normal((n, n)))[0] for _ in range(2))
            factors.append((u * np.geomspace(1, 1 / condition, n)) @ (u if seed % 2 else v).T)
        op, b = kron(*factors), generator.standard_normal(35)
        if seed % 3 == 0:  # right-hand sides whose solution is not large
            b = op @ generator.standard_normal(35)
        x = op.solve(b)
        norm = float(op.norm(2))
        residual = np.linalg.norm(np.kron(*factors) @ x - b)
        allowed = 10 * np.finfo(float).eps * 12 * (norm * np.linalg.norm(x) + np.linalg.norm(b))
        assert residual <= allowed


# -- found by an attack: the guard against extreme magnitudes must not do harm itself ------------

R = np.array([[1.0, 2.0], [0.0, 1.0]])
I2 = np.eye(2)
WIDE = np.diag([1e150, 1e-150])


def test_a_high_power_is_not_taken_for_a_large_matrix():
    np.testing.assert_array_equal(kron(R).power(800) @ np.ones(2), [1601, 1])
    single = kron(R.astype(np.float32)).power(100) @ np.ones(2, np.float32)
    np.testing.assert_array_equal(single, [201, 1])


@pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning")
def test_entries_of_very_unlike_size_keep_their_digits():
    want = np.array([1e300, 1, 1, 1e-300])
    np.testing.assert_allclose(kron(WIDE, WIDE) @ np.ones(4), want, rtol=1e-14)
    np.testing.assert_allclose(kron(WIDE, WIDE).inverse() @ np.ones(4), 1 / want, rtol=1e-14)
    np.testing.assert_allclose(kron(WIDE, WIDE).diagonal(), want, rtol=1e-14)
    upper = np.array([[1.0, 1e150], [0.0, 1.0]])
    got = kron(upper, upper).inverse() @ np.ones(4)
    np.testing.assert_allclose(got, [1e300, -1e150, -1e150, 1], rtol=1e-12)
    got = kron(1e-150 * I2, np.diag([1e-150, 1])) @ np.array([1e300, 1e-10, 1e-10, 1e-10])
    np.testing.assert_allclose(got[[0, 1, 3]], [1, 1e-160, 1e-160], rtol=1e-14)


def test_scales_and_scaled_factors_do_not_vanish():
    small = kronops.KroneckerOperator([1e100 * I2, 1e100 * I2], 1e-200)
    np.testing.assert_allclose((small @ small).to_dense(), np.eye(4), rtol=1e-13)
    for a, b in ((1e-200, 1e200), (1e200, 1e-200)):
        op = kronops.KroneckerOperator([a * DenseOperator(b * I2)] * 2)
        np.testing.assert_allclose(op.to_dense(), np.eye(4), rtol=1e-13)
    mixed = kron(1e-170 * I2, 1e150 * I2)
    np.testing.assert_allclose((mixed @ mixed).to_dense(), 1e-40 * np.eye(4), rtol=1e-13)
    cubed = kron(1e150 * I2, 1e-150 * R)
    np.testing.assert_allclose((cubed @ cubed @ cubed) @ np.ones(4), [7, 1, 7, 1], rtol=1e-12)
    np.testing.assert_allclose((1e-200 * DenseOperator(1e200 * I2)).power(2).to_dense(), I2)
    damped = (1e-300 * DenseOperator(1e300 * I2)).damped(1e10)
    np.testing.assert_allclose(damped.to_dense(), 1e10 * I2)


def test_factors_of_every_kind_know_their_size():
    blocks = [kronops.block_diag(size * I2) for size in (1e150,) * 3 + (1e-150,) * 3]
    np.testing.assert_allclose(kronops.KroneckerOperator(blocks) @ np.ones(64), 1, rtol=1e-12)


def test_small_diagonals_do_not_make_a_matrix_singular():
    swap = np.array([[1e-300, 1e10], [1e10, 1e-300]])
    np.testing.assert_allclose(DenseOperator(swap).solve(np.ones(2)), 1e-10, rtol=1e-14)
    chain = np.array([[0.0, 1, 0], [1, 1e-40, 1], [0, 1, 5]])
    np.testing.assert_allclose(DenseOperator(chain).solve(np.ones(3)), [1, 1, 0], atol=1e-14)


def test_symmetry_is_judged_in_the_units_of_each_row():
    matrix = np.diag([1e14, 1.0, 1.0])
    matrix[1, 2] = 0.25
    b = np.array([0.0, 1.0, 1.0])
    np.testing.assert_allclose(DenseOperator(matrix).solve(b), [0, 0.75, 1])
    np.testing.assert_allclose(DenseOperator(matrix).inverse().rmatvec(b), [0, 1, 0.75])
    np.testing.assert_allclose(kron(matrix, np.eye(1)).damped(1.0).solve(b), [0, 0.4375, 0.5])
    with pytest.raises(ValueError, match="not symmetric"):
        DenseOperator(matrix, "symmetric")


def test_more_factors_than_an_array_has_axes():
    assert kron(*[2 * np.eye(1)] * 70).to_dense() == 2.0**70
    assert kron(*[2 * np.eye(1)] * 70).diagonal() == 2.0**70


def test_memory_is_not_held_in_cycles():
    import gc
    import weakref

    gc.disable()
    try:
        op = kron(A, B)
        op.inverse() @ np.ones(9)
        assert op.inverse().inverse() is op
        assert op.H.shape == op.T.shape
        alive = weakref.ref(op)
        factor = weakref.ref(op.factors[0])
        del op
        assert alive() is None and factor() is None
    finally:
        gc.enable()


def test_powers_of_extreme_factors():
    np.testing.assert_allclose(kron(1e150 * I2, 1e-150 * I2).power(3) @ np.ones(4), 1, rtol=1e-12)
    wide, thin = (DiagonalOperator(np.full(2, size)) for size in (1e150, 1e-150))
    op = kron(wide, thin)
    np.testing.assert_allclose((op @ op @ op) @ np.ones(4), 1, rtol=1e-12)
    with pytest.raises(OverflowError, match="power 2"):
        kronops.KroneckerOperator([1e50 * I2] * 4, 1e-200).power(2.5)


def test_casting_what_just_fits():
    assert DenseOperator(np.full((1, 1), 60000.0)).astype("float16").dtype == np.float16
    assert DenseOperator(np.full((1, 1), 3.4e38)).astype(np.float32).dtype == np.float32


def test_threads_share_a_factorisation():
    import sys
    import threading

    matrix = rng.standard_normal((100, 100)) + 20 * np.eye(100)
    op, b = DenseOperator(matrix), rng.standard_normal(100)
    want, errors = np.linalg.solve(matrix, b), []
    start = threading.Barrier(8)

    def work():
        start.wait()
        errors.extend(np.abs(op.solve(b) - want).max() for _ in range(300))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(errors) == 2400 and max(errors) < 1e-9


@pytest.mark.parametrize("power", [500, 900])
def test_sums_of_terms_whose_factors_are_of_opposite_sizes(power):
    def symmetric(matrix):
        return matrix @ matrix.T

    parts = [symmetric(A), symmetric(B), symmetric(A + B), symmetric(A - B)]
    big = 2.0**power
    op = kron(big * parts[0], parts[1] / big) + kron(parts[2] / big, big * parts[3])
    want = np.kron(parts[0], parts[1]) + np.kron(parts[2], parts[3])
    x = rng.standard_normal(9)
    np.testing.assert_allclose(op.solve(want @ x), x, rtol=1e-9)
    assert op.slogdet().logabsdet == pytest.approx(np.linalg.slogdet(want)[1], rel=1e-11)


def test_eigenvalues_out_of_range_say_so():
    """A determinant may be in range all the same: infinity would be a wrong answer."""
    a, b = 1e200 * np.array([[2.0, 1.0], [1.0, 3.0]]), 1e200 * np.array([[4.0, 1.0], [1.0, 2.0]])
    op = kron(a, b).damped(0.1)
    for asked in (op.logdet, op.norm, op.eigh, lambda: op.solve(np.ones(4))):
        with (
            np.errstate(over="ignore"),
            pytest.raises(OverflowError, match="eigenvalues out of the range of float64"),
        ):
            asked()
    assert np.all(np.isfinite(op @ np.full(4, 1e-200)))
    with np.errstate(over="ignore"):
        assert DiagonalOperator(np.full(3, np.inf), check_finite=False).norm() == np.inf
