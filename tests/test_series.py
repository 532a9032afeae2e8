"""The series block: exact numbers from `../shared/golden`, dense assembly, degenerate points."""

from __future__ import annotations

from decimal import Decimal, getcontext

import golden
import numpy as np
import pytest
import zoo

import kronops
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
