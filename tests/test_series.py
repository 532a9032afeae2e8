"""The series block: exact numbers from `../shared/golden`, dense assembly, degenerate points."""

from __future__ import annotations

import dataclasses
from decimal import Decimal, getcontext

import golden
import numpy as np
import pytest
import zoo

import kronops
from kronops.operators.series import refuse_foreign_lag
from kronops.series_sums import stein_powers, stein_solve, weights

TABLE = golden.load("series_fT_table")[""]
FORWARD = golden.load("series_forward")
INPUTS = golden.load("tf_fc_series")
DEGENERATE = golden.load("series_degenerate")


def exact_weight(x: float, timesteps: int) -> float:
    """``f_T(x)`` in 80 digits, by the closed form."""
    getcontext().prec = 80
    x = Decimal(float(x))
    if x == 1:
        return float(timesteps) ** 2
    top = timesteps * (1 - x * x) - 2 * x * (1 - x**timesteps)
    return float(top / (1 - x) ** 2)


POINTS = np.unique(
    np.concatenate(
        [
            np.linspace(-1, 1, 81),
            1 - np.logspace(-16, 0, 60),
            -1 + np.logspace(-16, 0, 60),
            np.logspace(-300, 0, 20),
        ]
    )
)


@pytest.mark.parametrize(
    "timesteps", [1, 2, 3, 4, 5, 7, 8, 30, 31, 100, 127, 128, 999, 1000, 10**4, 99_999, 10**6]
)
def test_weights_are_right_to_rounding_everywhere(timesteps):
    want = np.array([exact_weight(x, timesteps) for x in POINTS])
    error = np.abs(weights(POINTS, timesteps) - want)
    assert np.all(error <= 8 * np.finfo(float).eps * np.abs(want))


@pytest.mark.parametrize("kind, tolerance", [("f64", 5e-16), ("f32", 3e-7)])
def test_weights_table(kind, tolerance):
    for timesteps, want in zip(TABLE["T"], TABLE[f"f_{kind}"], strict=True):
        got = weights(TABLE[f"x_{kind}"], int(timesteps))
        assert got.dtype == TABLE[f"x_{kind}"].dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=0)


def test_weights_at_the_ends():
    for timesteps in (1, 2, 3, 10, 11):
        low, zero, high = weights(np.array([-1.0, 0.0, 1.0]), timesteps)
        assert (low, zero, high) == (timesteps % 2, timesteps, timesteps**2)


def test_stein_solve_against_the_kronecker_system():
    rng = np.random.default_rng(0)
    a, b, v = rng.standard_normal((3, 3)), rng.standard_normal((2, 2)), rng.standard_normal((3, 2))
    a, b = 0.99 * a / np.linalg.norm(a, 2), b / np.linalg.norm(b, 2)
    want = np.linalg.solve(np.eye(6) - np.kron(a, b), v.ravel())
    got = stein_solve(stein_powers(a, b), v)
    np.testing.assert_allclose(got.ravel(), want, rtol=1e-12)


# -- golden -----------------------------------------------------------------------------------


def series_inputs(case):
    """The block of a golden case: moments from the raw inputs, damping split by π."""
    meta = case["meta"]
    moments = []
    for name in ("a", "g"):
        x = case[name].astype(float)
        if name == "a" and meta["has_bias"]:
            x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)
        count = x.shape[0] * x.shape[1]
        c0 = np.einsum("tbi,tbj->ij", x, x) / count
        c1 = np.einsum("tbi,tbj->ij", x[1:], x[:-1]) / count
        moments.append((c0, c1))
    return moments


@pytest.mark.parametrize("name", FORWARD)
def test_forward_products_from_dense_assembly(name):
    case, inputs = FORWARD[name], INPUTS[name]
    meta = case["meta"]
    moments = series_inputs(inputs)
    damping = (float(inputs["damping_in"]), float(inputs["damping_out"]))

    def block(signed):
        return kronops.SeriesOperator(*moments, meta["T"], meta["option"], damping, signed)

    v = (case["v_w"], case["v_b"]) if meta["has_bias"] else case["v_w"]
    tolerance = max(1e-9, 1e-15 * float(case["cond"]))
    names = {"mul": (False, "multiply")}
    if meta["option"] == 1:
        names |= {
            "signed_mul": (True, "multiply"),
            "signed_inv": (True, "multiply_inverse"),
        }
    for prefix, (signed, method) in names.items():
        got = getattr(block(signed), method)(v)
        parts = got if meta["has_bias"] else (got,)
        for part, suffix in zip(parts, "wb", strict=False):
            want = case[f"{prefix}_{suffix}"]
            np.testing.assert_allclose(part, want, rtol=0, atol=tolerance * np.abs(want).max())
    for key, signed in (("dense", False), ("signed_dense", True)):
        if key in case and (meta["option"] == 1 or not signed):
            dense = block(signed).to_dense()
            np.testing.assert_allclose(dense, case[key], rtol=0, atol=1e-9 * np.abs(dense).max())


PAIRS = ["mul1", "inv1", "mul1_signed", "inv1_signed", "mul2", "inv2"]


@pytest.mark.parametrize("key", PAIRS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_points(name, key):
    case = DEGENERATE[name]
    meta = case["meta"]
    option = int(key[3])
    signed = option == 2 or key.endswith("signed")
    op = kronops.SeriesOperator(
        (case["C0_in"], case["C1_in"]),
        (case["C0_out"], case["C1_out"]),
        meta["T"],
        option,
        factor_damping=(meta["lam"], meta["lam"]),
        signed=signed,
    )
    method = op.multiply if key.startswith("mul") else op.multiply_inverse
    if key in meta["missing"]:
        with pytest.raises(kronops.LinAlgError, match="infinite"):
            method(case["v"])
        return
    want = case[key]
    # Option 2 divides by the distance of the correlations from one: that many digits are lost to
    # the rounding of the moments themselves.
    gap = max(1 - float(case["max_mu_product"]), 1e-16) if option == 2 else 1.0
    condition = max(float(case["cond_C0_in"]), float(case["cond_C0_out"]))
    tolerance = 20 * np.finfo(float).eps * (1 / gap + condition)
    if name.startswith("x_exactly_one"):
        tolerance = 1e-15
    error = np.abs(method(case["v"]) - want).max()
    assert error <= tolerance * max(np.abs(want).max(), 1e-300), error


# -- properties -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-11), ("float32", 2e-3)])
@pytest.mark.parametrize("option, signed", [(1, True), (1, False), (2, True)])
@pytest.mark.parametrize("timesteps", [1, 2, 9, 200])
def test_round_trip(option, signed, timesteps, dtype, tolerance):
    make = zoo.Maker(np, dtype, seed=timesteps)
    sides = [tuple(map(make, zoo.moments(make, n, norm=0.95))) for n in (4, 3)]
    op = kronops.SeriesOperator(*sides, timesteps, option, signed=signed)
    v = make(make.draw(4, 3))
    assert op.multiply(v).dtype == np.dtype(dtype)
    error = np.abs(op.multiply_inverse(op.multiply(v)) - v).max()
    assert error <= tolerance * np.abs(v).max()


def test_one_step_is_a_kronecker_product_when_there_are_no_lags():
    make = zoo.Maker(np, "float64")
    a, g, v = make.definite(3), make.definite(2), make.draw(3, 2)
    for option in (1, 2):
        op = kronops.SeriesOperator((a, 0 * a), (g, 0 * g), 6, option)
        np.testing.assert_allclose(op.multiply(v), 6 * a @ v @ g.T, rtol=1e-13)


def test_rank_deficient_moments_with_damping():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 1, 6))
    c0 = np.einsum("tbi,tbj->ij", x, x) / 3
    c1 = np.einsum("tbi,tbj->ij", x[1:], x[:-1]) / 3
    for option in (1, 2):
        op = kronops.SeriesOperator((c0, c1), (np.eye(2), 0 * np.eye(2)), 3, option, (1e-3, 0.0))
        v = rng.standard_normal((6, 2))
        np.testing.assert_allclose(op.multiply_inverse(op.multiply(v)), v, rtol=1e-9, atol=1e-9)
        with pytest.raises(kronops.LinAlgError, match=r"input_moments\[0\] \(6 x 6\) is singular"):
            kronops.SeriesOperator((c0, c1), (np.eye(2), 0 * np.eye(2)), 3, option).multiply(v)


def test_correlation_minus_one_over_an_even_number_of_steps_is_singular():
    one = np.eye(1)
    op = kronops.SeriesOperator((one, -one), (one, one), 4, 1)
    assert op.multiply(np.ones((1, 1))) == 0
    with pytest.raises(kronops.LinAlgError, match="even number of steps"):
        op.multiply_inverse(np.ones((1, 1)))
    assert kronops.SeriesOperator((one, -one), (one, one), 5, 1).multiply(np.ones((1, 1))) == 1


@pytest.mark.parametrize("timesteps", (2, 10, 64, 100))
def test_a_correlation_near_minus_one_warns(timesteps):
    def block(gap):
        moment = np.ones((1, 1))
        return kronops.SeriesOperator((moment, (gap - 1) * moment), (moment, moment), timesteps, 1)

    op, b = block(1e-14), np.ones(1)  # of which a unit of rounding is a fiftieth
    for action in (lambda: op.solve(b), op.logdet, op.slogdet, lambda: op.inverse() @ b):
        with pytest.warns(kronops.LinAlgWarning, match="correlation near -1 over an even number"):
            action()
    far = block(1e-9)
    exact = sum(
        (timesteps - abs(d)) * Decimal(1e-9 - 1.0) ** abs(d)
        for d in range(-timesteps + 1, timesteps)
    )
    np.testing.assert_allclose(far.solve(b), float(1 / exact), rtol=1e-6)


def test_option_2_at_minus_one_has_no_inverse():
    one = np.eye(1)
    op = kronops.SeriesOperator((one, -one), (one, one), 4, 2)
    with pytest.raises(kronops.LinAlgError, match="singular"):
        op.multiply_inverse(np.ones((1, 1)))


def test_moments_that_do_not_belong_together():
    one = np.eye(2)
    op = kronops.SeriesOperator((one, 1.01 * one), (one, 0 * one), 4, 1)
    with pytest.raises(ValueError, match=r"input_moments: the lag moment C1 does not belong to C0"):
        op.multiply(np.ones((2, 2)))


def test_factored_damping_goes_to_c0_alone():
    make = zoo.Maker(np, "float64")
    sides = [zoo.moments(make, n) for n in (3, 2)]
    damped = kronops.SeriesOperator(*sides, 4, 1).damped(0.9, method="factored")
    pi = np.sqrt((np.trace(sides[0][0]) / 3) / (np.trace(sides[1][0]) / 2))
    root = np.sqrt(0.9 / 4)
    np.testing.assert_allclose(damped.factor_damping, (root * pi, root / pi))
    want = zoo.series_matrix(sides, (root * pi, root / pi), 4, 1)
    np.testing.assert_allclose(damped.to_dense(), want, atol=1e-12)
    half = kronops.SeriesOperator(*sides, 4, 1).damped(0.9, method="factored", pi=0.5)
    np.testing.assert_allclose(half.factor_damping, (root * 0.5, root / 0.5))


def test_an_ill_conditioned_moment_warns():
    one = np.eye(2)
    op = kronops.SeriesOperator((np.diag([1, 1e-15]), 0 * one), (one, 0 * one), 2, 1)
    with pytest.warns(kronops.LinAlgWarning, match=r"input_moments\[0\] .* condition number"):
        op.multiply_inverse(np.ones((2, 2)))


@pytest.mark.parametrize("option", [1, 2])
def test_after_set_up_a_product_is_a_few_products_of_matrices(option, monkeypatch):
    """Four, or eight for the inverse of option 2; its product solves two Stein equations."""
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((50, 40, 5)), rng.standard_normal((50, 40, 4))
    moments = [
        (np.einsum("tbi,tbj->ij", z, z), np.einsum("tbi,tbj->ij", z[1:], z[:-1])) for z in (x, g)
    ]
    op = kronops.SeriesOperator(*moments, 50, option)
    v, plain, counted = rng.standard_normal((5, 4)), np.matmul, []

    def matmul(*matrices):
        counted.append(matrices)
        return plain(*matrices)

    doublings = len(op._doublings) if option == 2 else 0
    calls = (
        (op.multiply, 4 if option == 1 else 8 + 4 * doublings),
        (op.multiply_inverse, 4 * option),
    )
    for call, most in calls:
        call(v)  # which sets up
        with monkeypatch.context() as patch:
            patch.setattr(np, "matmul", matmul)
            call(v)
        assert len(counted) == most
        counted.clear()


# -- on both sides of every bound ---------------------------------------------------------------

EPS = 2.0**-52
ONE = np.eye(1)


def block(c0, c1, option=1, timesteps=2, **more):
    """Of two inputs, and one output gradient that stays what it is."""
    return kronops.SeriesOperator((np.diag(c0), np.diag(c1)), (ONE, ONE), timesteps, option, **more)


@pytest.mark.parametrize("degrees", [1e-3, 1.0, 30.0, 60.0, 90.0, 150.0])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_a_rotation_by_any_angle_has_no_inverse(degrees, dtype):
    """``I − ΦᵀΦ`` is zero, and ``I − Φ`` is not."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    h = np.array([[c, -s], [s, c]])
    if dtype is np.complex128:
        h = np.diag([c + 1j * s, c - 1j * s])
    op = kronops.SeriesOperator((np.eye(2, dtype=dtype), h), (ONE, ONE), 3, 2)
    with pytest.raises(kronops.LinAlgError, match=r"correlation is not \+1"):
        op.solve(np.ones(2))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("norm", [0.3, 0.999])
@pytest.mark.parametrize("n", [2, 10, 80])
def test_a_correlation_of_one_is_told_from_others_of_its_norm(n, norm, dtype):
    """``H`` is the identity on a quarter of a space, and of another norm on the rest."""
    rng = np.random.default_rng(n)
    roots = np.logspace(0, -1, n)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    ones = max(1, n // 4)
    rest = rng.standard_normal((n - ones, n - ones))
    h = np.zeros((n, n))
    h[:ones, :ones] = np.eye(ones)
    h[ones:, ones:] = norm * rest / np.linalg.norm(rest, 2)
    h = basis @ h @ basis.T
    c0, c1 = np.diag(roots**2).astype(dtype), (roots[:, None] * h * roots).astype(dtype)
    one = np.eye(1, dtype=dtype)
    op = kronops.SeriesOperator((c0, c1), (one, one), 3, 2)
    vanishes = (basis[:, 0] * roots).astype(dtype)
    bound = 1000 * n * np.finfo(dtype).eps
    assert np.abs(op.solve(vanishes)).max() < bound * max(1.0, np.abs(vanishes / roots**2).max())
    turned = kronops.SeriesOperator((c0, -c1), (one, one), 3, 2)
    with pytest.raises(kronops.LinAlgError, match=r"correlation is not \+1"):
        turned.solve(vanishes)


def test_correlations_are_one_by_their_product():
    """``i`` of the inputs, and its conjugate, or itself, of the output gradients."""
    op = kronops.SeriesOperator((ONE, 1j * ONE), (ONE, -1j * ONE), 3, 2)
    assert abs(op.solve(np.ones(1))[0]) < EPS
    op = kronops.SeriesOperator((ONE, 1j * ONE), (ONE, 1j * ONE), 3, 2)
    with pytest.raises(kronops.LinAlgError, match=r"correlation is not \+1"):
        op.solve(np.ones(1))


def test_a_singular_series_has_a_determinant_of_zero():
    with pytest.warns(kronops.LinAlgWarning, match="correlation near -1"):
        assert block([1.0, 1.0], [-1.0, 0.0]).slogdet() == (0, -np.inf)


def test_the_inverse_vanishes_where_the_correlation_is_one():
    """``(1 − φ) / (1 + φ) / T``, whose rounding the inverse may be off by."""
    for phi in (1.0, 1 - 2 * EPS, 1 - 3 * EPS, 1 - 1000 * EPS):
        op = block([1.0, 1.0], [phi, 0.5], option=2, timesteps=4)
        want = (1 - phi) / (1 + phi) / 4, 0.5 / 1.5 / 4
        np.testing.assert_allclose(op.solve(np.ones(2)), want, rtol=1e-12)
    apart = 2.0**-28  # above one: its distance from one, taken as below
    op = block([1.0, 1e-8], [1 + apart, 0.0], option=2, timesteps=4)
    np.testing.assert_allclose(op.solve(np.ones(2))[0], apart / 8, rtol=1e-7)


def test_stationary_gaps_below_zero_are_rounding_to_half_the_digits():
    far = 1 + 2.0**-27  # of which 1 − σ² is −2^−26 − 2^−54
    with pytest.raises(kronops.LinAlgError, match="option 2 is infinite"):
        block([1.0, 1e-8], [far, 0.0], option=2).solve(np.ones(2))
    near = block([1.0, 1e-8], [far - EPS, 0.0], option=2).solve(np.ones(2))
    np.testing.assert_allclose(near[0], 2.0**-29, rtol=1e-7)


@pytest.mark.parametrize("size", [1.0, 4.0, 0.25])
def test_moments_are_singular_up_to_a_quarter_of_a_unit_of_rounding(size):
    def use(smallest):
        return block([size, size * smallest], [0.0, 0.0]) @ np.ones(2)

    for smallest in (EPS / 4, 0.0, -2 * EPS):
        with pytest.raises(kronops.LinAlgError, match=r"input_moments\[0\] \(2 x 2\) is singular"):
            use(smallest)
    for smallest in (np.nextafter(-2 * EPS, -1), -0.5):
        with pytest.raises(kronops.LinAlgError, match="is not positive semidefinite: add damping"):
            use(smallest)
    with pytest.warns(kronops.LinAlgWarning, match="has condition number 1.8e"):
        made = use(np.nextafter(EPS / 4, 1))
    np.testing.assert_allclose(made, [2 * size, size * EPS / 2], rtol=1e-12)


@pytest.mark.parametrize("c0", [[0.0, 0.0], [-1.0, -1.0], [-1e-30, -2e-30]])
def test_moments_without_a_positive_eigenvalue_are_refused(c0):
    what = "not positive semidefinite" if min(c0) < 0 else "singular"
    with pytest.raises(kronops.LinAlgError, match=rf"\(2 x 2\) is {what}: add damping"):
        block(c0, [0.0, 0.0]) @ np.ones(2)


def test_a_moment_is_singular_by_its_own_precision():
    c0 = np.diag([1, 1e-9]).astype(np.float32)
    op = kronops.SeriesOperator((c0, np.zeros((2, 2))), (ONE, ONE), 2, 1)
    with pytest.raises(kronops.LinAlgError, match=r"input_moments\[0\] .* is singular"):
        op @ np.ones(2)


def test_conditions_above_a_tenth_over_rounding_warn():
    bound = 10 * EPS  # of which 1 / bound is 0.1 / EPS, rounded alike
    np.testing.assert_allclose(block([1.0, bound], [0.0, 0.0]) @ np.ones(2), [2, 2 * bound])
    with pytest.warns(kronops.LinAlgWarning, match=r"input_moments\[0\] .* condition number 4.5e"):
        block([1.0, np.nextafter(bound, 0)], [0.0, 0.0]) @ np.ones(2)


def test_norms_above_one_that_rounding_may_explain_warn_from_half_the_digits_on():
    bound = 1 + 2.0**-26
    block([1.0, 1e-8], [bound, 0.0]) @ np.ones(2)
    for norm in (bound + EPS, 1 + 1e-6):
        with pytest.warns(kronops.LinAlgWarning, match="above 1 by the rounding"):
            block([1.0, 1e-8], [norm, 0.0]) @ np.ones(2)


@pytest.mark.parametrize("condition", [1.0, 3.0, 1e6])
def test_norms_belong_to_a_moment_up_to_a_hundred_units_of_its_rounding(condition):
    bound = 1 + 100 * EPS * condition
    refuse_foreign_lag(bound, condition, EPS, "input_moments")
    refuse_foreign_lag(0.5, condition, EPS, "input_moments")
    with pytest.raises(ValueError, match="input_moments: the lag moment C1 does not belong"):
        refuse_foreign_lag(bound + EPS, condition, EPS, "input_moments")
    foreign = [(1 + 200 * EPS * condition), 0.0]
    with pytest.raises(ValueError, match="input_moments: the lag moment C1 does not belong"):
        block([1.0, 1 / condition], foreign) @ np.ones(2)
    block([1.0, 1 / condition], [1 + 50 * EPS * condition, 0.0]) @ np.ones(2)


def test_weights_of_four_units_of_rounding_are_zero():
    """Over two steps the weight is ``2 (1 + ψ)``, to be compared with ``2 · 4`` units."""
    with pytest.raises(kronops.LinAlgError, match="correlation of -1 over an even number"):
        block([1.0, 1.0], [4 * EPS - 1, 0.0]).solve(np.ones(2))
    with pytest.warns(kronops.LinAlgWarning, match="correlation near -1"):
        made = block([1.0, 1.0], [4.5 * EPS - 1, 0.0]).solve(np.ones(2))
    np.testing.assert_allclose(made, [1 / (9 * EPS), 0.5], rtol=1e-12)


def test_weights_that_keep_forty_units_of_rounding_warn():
    """Of ``(1 + ψ) / (1 + |ψ|)``, with ``ψ = d − 1`` a little above ``d / 2``."""
    made = block([1.0, 1.0], [80 * EPS - 1, 0.0]).solve(np.ones(2))
    np.testing.assert_allclose(made, [1 / (160 * EPS), 0.5], rtol=1e-12)
    with pytest.warns(kronops.LinAlgWarning, match="correlation near -1"):
        block([1.0, 1.0], [79.5 * EPS - 1, 0.0]).solve(np.ones(2))


@pytest.mark.parametrize("option", [1, 2])
def test_series_without_inputs(option):
    empty = np.eye(0)
    for sides in (((empty, empty), (ONE, ONE)), ((ONE, 0.5 * ONE), (empty, empty))):
        op = kronops.SeriesOperator(*sides, 3, option)
        assert op.shape == (0, 0)
        for made in (op @ np.ones(0), op.solve(np.ones(0)), op.diagonal()):
            assert made.shape == (0,)
        assert op.logdet() == 0


# -- what is asked for, and what is said --------------------------------------------------------


@pytest.mark.parametrize("pair", [(0.1,), (0.1, 0.2, 0.3), 0.1])
def test_pairs_are_asked_for(pair):
    with pytest.raises(ValueError, match=r"factor_damping = .*: a pair of numbers is needed"):
        block([1.0, 1.0], [0.0, 0.0], factor_damping=pair)
    moments = [np.eye(2)] * (len(pair) if isinstance(pair, tuple) else 4)
    with pytest.raises(ValueError, match=r"output_moments is a list: a pair \(C0, C1\) is needed"):
        kronops.SeriesOperator((ONE, ONE), moments, 2, 1)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((3, 2), (3, 2)), ((2, 2), (3, 3))])
@pytest.mark.parametrize("swap", [False, True])
def test_moments_are_square_and_of_one_size(shapes, swap):
    c0, c1 = map(np.ones, shapes[::-1] if swap else shapes)
    with pytest.raises(ValueError, match="two square matrices of one size are needed"):
        kronops.SeriesOperator((ONE, ONE), (c0, c1), 2, 1)


def test_sizes_that_python_keeps_no_single_object_for():
    large = np.eye(300)
    op = kronops.SeriesOperator((large, 0 * large), (ONE, ONE), 2, 1)
    assert op.shape == (300, 300)


@pytest.mark.parametrize("option", [True, 0, 3, 1.5, "1"])
def test_options_are_one_and_two(option):
    with pytest.raises(ValueError, match=r"option = .*: 1 or 2 would do"):
        block([1.0, 1.0], [0.0, 0.0], option=option)


@pytest.mark.parametrize("place", range(4))
def test_moments_are_searched_for_nan_unless_told_otherwise(place):
    moments = [ONE, 0 * ONE, ONE, 0 * ONE]
    moments[place] = np.array([[np.nan]])
    sides = moments[:2], moments[2:]
    with pytest.raises(ValueError, match=rf"put_moments\[{place % 2}\] has NaN"):
        kronops.SeriesOperator(*sides, 2, 1)
    if place % 2:  # a NaN is not its own adjoint
        assert kronops.SeriesOperator(*sides, 2, 1, check_finite=False).shape == (1, 1)


def test_the_diagonal_of_option_1_takes_no_product_with_the_block(monkeypatch):
    sides = (np.diag([1.0, 4.0]), 0.5 * np.eye(2)), (np.diag([2.0, 3.0]), 0 * np.eye(2))
    op = kronops.SeriesOperator(*sides, 2, 1)
    monkeypatch.setattr(kronops.SeriesOperator, "_matmat", None)
    np.testing.assert_allclose(op.diagonal(), [4, 6, 16, 24], rtol=1e-14)  # without lags: 2 C0 ⊗ C0


def test_a_series_is_hermitian():
    assert block([1.0, 1.0], [0.5, 0.0]).hermitian is True


def test_time_steps_fit_in_the_dtype():
    assert block([1.0, 1.0], [0.0, 0.0], timesteps=2**1022).timesteps == 2**1022
    for large in (2**1023, 2**1024, 2**2000):
        with pytest.raises(OverflowError, match=rf"timesteps has {large.bit_length()} bits"):
            block([1.0, 1.0], [0.0, 0.0], timesteps=large)


def test_series_are_compared_as_objects():
    one, other = (block([1.0, 1.0], [0.0, 0.0]) for _ in range(2))
    assert one == one and one != other and len({one, other}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.timesteps = 3


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("layout", ["in,out", "out,in"])
def test_factored_damping_is_added_to_what_is_there(signed, layout):
    """``π`` is of the moments as they are damped, of 3 and 12 on average."""
    sides = [(np.diag([1.0, 4.0]), -0.1 * np.eye(2)), (np.diag([10.0, 11, 12]), 0.1 * np.eye(3))]
    op = kronops.SeriesOperator(*sides, 4, 1, (0.5, 1.0), signed, layout=layout)
    damped = op.damped(1.0, method="factored")  # 1/4 of one use: shares of 1/2 each, with π = 1/2
    np.testing.assert_allclose(damped.factor_damping, (0.5 + 0.25, 1.0 + 1.0), rtol=1e-14)
    assert damped.option == 1 and damped.timesteps == 4
    assert damped.signed is signed and damped.layout == layout


@pytest.mark.parametrize("option", [1, 2])
def test_what_a_series_says_of_its_costs(option):
    """With 5 and 3: two products of matrices take 2 · 15 · (5 + 3) flops on each of 7 columns."""
    rng = np.random.default_rng(0)
    sides = [(np.eye(n), 0.1 * rng.standard_normal((n, n))) for n in (5, 3)]
    pair, once = 1.68, "once 4.56 kflop"  # 30 (125 + 27)
    _, *parts = kronops.SeriesOperator(*sides, 7, option).explain(columns=7).split("\n\n")
    said = {part.split(":")[0]: [line.strip() for line in part.splitlines()[1:]] for part in parts}
    moved = "1.68 kB"  # 15 · 7 numbers of 8 bytes are read, and as many written
    product = "flops not known" if option == 2 else f"{2 * pair:.3g} kflop, {moved}, {once}"
    assert said["multiply"] == [product]
    assert said["multiply_inverse"] == [f"{2 * option * pair:.3g} kflop, {moved}, {once}"]
    assert said["logdet"] == [f"15 flop, 120 B, {once}"]
    assert "written out as a dense matrix" in parts[3]
