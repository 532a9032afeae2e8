"""Section 8 of the contract, where no other file proves it: docs/promises.md links both."""

from __future__ import annotations

import contextlib
import copy
import fractions
import tracemalloc
import warnings

import array_api_strict as strict
import numpy as np
import pytest
import zoo

import kronops
from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    LinAlgError,
    LinAlgWarning,
    LowRankUpdateOperator,
    SeriesOperator,
    kron,
)

I2 = np.eye(2)
A = np.array([[2.0, 1.0], [1.0, 3.0]])
ONE = np.array([[1.5]])
HUGE = kron(*[2 * I2] * 70)
rng = np.random.default_rng(0)


# -- checked when built ----------------------------------------------------------------------------

TAKES_A_MATRIX = {
    "factors[1]": lambda m: kron(I2, m),
    "matrix": lambda m: DenseOperator(m),
    "matrix, symmetric": lambda m: DenseOperator(m, "symmetric"),
    "matrix, positive definite": lambda m: DenseOperator(m, "positive definite"),
    "factors[0]": lambda m: KroneckerSumOperator([m, I2]),
    "bases[0]": lambda m: KroneckerEigenOperator([m, I2], np.ones((2, 2))),
    "eigenvalues": lambda m: KroneckerEigenOperator([I2, I2], m),
    "diagonal": lambda m: DiagonalOperator(m),
    "blocks[0]": lambda m: kronops.block_diag(m),
    "u": lambda m: LowRankUpdateOperator(DenseOperator(A), m),
    "c": lambda m: LowRankUpdateOperator(DenseOperator(A), I2, m),
    "v": lambda m: LowRankUpdateOperator(DenseOperator(A), I2, v=m),
    "input_moments[0]": lambda m: SeriesOperator((m, 0 * A), (A, 0 * A), 2, 1),
    "output_moments[1]": lambda m: SeriesOperator((A, 0 * A), (A, m), 2, 2),
    "matrix, to be near to": lambda m: kronops.nearest_kronecker(m, [(2, 1), (1, 2)]),
}


@pytest.mark.parametrize("place", [(0, 1), (1, 0)], ids=["upper", "lower"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", TAKES_A_MATRIX)
def test_one_entry_in_one_triangle_is_seen(name, bad, place):
    """LAPACK's Cholesky, eigh and friends read one triangle, and would never know."""
    matrix = I2.copy()
    matrix[place] = bad
    with pytest.raises(ValueError, match="has NaN or infinite entries") as caught:
        TAKES_A_MATRIX[name](matrix)
    assert name.partition(",")[0] in str(caught.value)


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_extended_precision_is_kept_or_refused(dtype):
    op = kron(A.astype(dtype), I2.astype(dtype) / 3)
    assert (op @ np.ones(4, dtype)).dtype == dtype
    np.testing.assert_allclose(op @ np.ones(4, dtype), np.kron(A, I2) @ np.ones(4) / dtype(3))
    for refused in (lambda: op.solve(np.ones(4)), op.logdet, op.eigh):
        with pytest.raises(TypeError, match=r"LAPACK has no factorisation in .*op.astype"):
            refused()


def test_factors_of_two_precisions_take_the_wider():
    op = kron(A.astype(np.float32), A)
    assert op.dtype == (op @ np.ones(4, np.float32)).dtype == np.float64
    assert (op @ np.ones(4, np.longdouble)).dtype == np.longdouble


def test_arrays_on_two_devices_are_refused():
    near, far = (
        strict.asarray(A.copy(), device=strict.Device(d)) for d in ("CPU_DEVICE", "device1")
    )
    with pytest.raises(
        TypeError, match=r"factors\[0\] is on device .*, factors\[1\] on .*device1.*: bring both"
    ):
        kron(near, far)
    with pytest.raises(TypeError, match=r"x is on device .*, the operator on"):
        kron(near, near) @ strict.ones(4, device=strict.Device("device1"))
    with pytest.raises(TypeError, match="operators on two devices"):
        kron(near, near) @ kron(far, far)


NOT_A_NUMBER = {
    "a NumPy bool": (np.True_, "is a bool"),
    "a masked number": (np.ma.masked, "is a masked array: fill it first"),
    "a vector of one": (np.ones(1), "is a ndarray"),
    "None": (None, "is a NoneType"),
    "a list": ([1.0], "is a list"),
    "an operator": (kron(I2), "is a KroneckerOperator"),
}


@pytest.mark.parametrize("name", NOT_A_NUMBER)
def test_what_is_no_number_is_no_damping_and_no_scalar(name):
    value, words = NOT_A_NUMBER[name]
    op = kron(A, I2)
    with pytest.raises(TypeError, match=f"value {words}"):
        op.damped(value)
    with pytest.raises(TypeError, match=f"p {words}"):
        op.power(value)
    with pytest.raises(TypeError, match=f"scale {words}"):
        KroneckerOperator([A], scale=value)


def test_numbers_of_every_kind_damp():
    want = kron(A, I2).damped(0.5).to_dense()
    for value in (np.float16(0.5), np.longdouble(0.5), fractions.Fraction(1, 2), np.array(0.5)):
        np.testing.assert_array_equal(kron(A, I2).damped(value).to_dense(), want)
    assert kron(A, I2).damped(np.int8(1)).trace() == pytest.approx(14.0)


REFUSED_COUNTS = {
    "sizes of draws": (lambda n: kron(A).sample(np.random.default_rng(0), n), 0),
    "size": (lambda n: IdentityOperator(n, like=A), 0),
    "columns": (lambda n: kron(A).explain(n), 1),
    "limit": (lambda n: kron(A).to_dense(limit=n), 0),
    "timesteps": (lambda n: SeriesOperator((A, 0 * A), (A, 0 * A), n, 1), 1),
}


@pytest.mark.parametrize("name", REFUSED_COUNTS)
def test_counts_are_integers_large_enough(name):
    take, least = REFUSED_COUNTS[name]
    for wrong in (2.0, "2", True):
        with pytest.raises(TypeError, match=f"is a {type(wrong).__name__}: an integer ≥ {least}"):
            take(wrong)
    with pytest.raises(ValueError, match=f"= {least - 1}: an integer ≥ {least} is needed"):
        take(least - 1)


# -- no regularisation that was not asked for ------------------------------------------------------


def of_condition(condition, n=6, symmetric=True):
    q, p = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    made = (q * np.geomspace(1, 1 / condition, n)) @ (q if symmetric else p).T
    return (made + made.T) / 2 if symmetric else made


def says_so(function):
    """An error, or a warning about the condition."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function()
        except LinAlgError:
            return True
    return any(issubclass(w.category, LinAlgWarning) for w in caught)


NEAR = of_condition(1e18)
SHEAR = np.eye(60) - np.triu(np.ones((60, 60)), 1)  # eigenvalues 1, condition number 2^60
CANCELLED = DenseOperator(I2), np.array([[1.0], [0.0]]), np.array([[-1.0 + 1e-15]])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "what",
    [
        lambda op: op.solve(np.ones(12)),
        lambda op: op.inverse() @ np.ones(12),
        lambda op: op.power(-2) @ np.ones(12),
        lambda op: op.slogdet(),
        lambda op: op.damped(1e-20).solve(np.ones(12)),
        lambda op: op.damped(1e-20).slogdet(),
    ],
    ids=["solve", "inverse", "power", "slogdet", "damped", "damped determinant"],
)
def test_a_factor_of_condition_1e18_says_so(what, symmetric):
    assert says_so(lambda: what(kron(of_condition(1e18, symmetric=symmetric), I2)))


NEARLY_SINGULAR = {
    "logm": lambda: DenseOperator(np.diag([1.0, 1e-17])).logm(),
    "a shear, damped": lambda: kron(SHEAR, np.eye(1)).damped(1e-3).solve(np.ones(60)),
    "a sum with a shear": lambda: KroneckerSumOperator([SHEAR, 1e-3 * np.eye(1)]).solve(
        np.ones(60)
    ),
    "the determinant of a low-rank update": lambda: LowRankUpdateOperator(*CANCELLED).slogdet(),
    "the determinant of a sum": lambda: KroneckerSumOperator([NEAR, 1e-16 * I2]).slogdet(),
}


@pytest.mark.parametrize("name", NEARLY_SINGULAR)
def test_what_has_lost_its_digits_says_so(name):
    assert says_so(NEARLY_SINGULAR[name])


def test_what_has_its_digits_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shear = np.triu(np.ones((20, 20)))
        kron(shear, shear).damped(1.0).solve(np.ones(400))
        kron(shear.astype(np.float32), shear.astype(np.float32)).damped(1.0).solve(np.ones(400))
        KroneckerSumOperator([shear, shear]).solve(np.ones(400))
        KroneckerSumOperator([A, A]).slogdet()
        kron(1e150 * shear, 1e-150 * shear).damped(1.0).solve(np.ones(400))
        kron(A, A).damped(1e-8).slogdet()


def test_damping_that_cancels_an_eigenvalue_of_a_general_factor():
    general = np.array([[-1.0, 1.0], [0.0, 2.0]])
    with pytest.raises(LinAlgError, match="the damped Kronecker product is singular"):
        kron(general, I2).damped(1.0).solve(np.ones(4))
    assert kron(general, I2).damped(1.0).slogdet() == (0, -np.inf)


# -- scale-safe ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shapes", [[(0, 0)], [(0, 3)], [(3, 0)], [(1, 1)], [(2, 2), (0, 0)]], ids=str
)
def test_sizes_zero_and_one(shapes):
    op, want = kron(*[np.ones(shape) for shape in shapes]), np.ones((1, 1))
    for shape in shapes:
        want = np.kron(want, np.ones(shape))
    m, n = want.shape
    np.testing.assert_array_equal(op @ np.ones(n), want @ np.ones(n))
    assert (op @ np.ones((5, n, 0))).shape == (5, m, 0)
    np.testing.assert_array_equal(op.to_dense(), want)
    np.testing.assert_allclose(op.pinv().to_dense(), np.ones((n, m)))
    assert op.svd()[1].shape == (min(m, n),) and op.norm() == pytest.approx(np.linalg.norm(want))
    assert "-" not in DenseOperator(want).explain() and op.T.shape == (n, m)
    if m == n:
        np.testing.assert_allclose(op.solve(np.ones(n)), np.ones(n))
        np.testing.assert_allclose(op.damped(1.0).solve(np.ones(n)), np.full(n, 0.5))
        assert op.logdet() == 0 and op.trace() == n and op.eigh()[0].shape == (n,)


def test_seventy_factors_of_size_one():
    op, size = kron(*[ONE] * 70), 1.5**70
    one = np.ones(1)
    for made, want in (
        (op.damped(2.0) @ one, size + 2),
        (op.damped(2.0).solve(one), 1 / (size + 2)),
        (op.damped(2.0).eigh()[0], size + 2),
        (op.damped(2.0).sqrt() @ one, (size + 2) ** 0.5),
        (op.damped(2.0, "factored") @ one, (1.5 + 2 ** (1 / 70)) ** 70),
        (KroneckerSumOperator([ONE] * 70).solve(one), 1 / 105),
        (KroneckerEigenOperator([np.eye(1)] * 70, 3 * one).solve(one), 1 / 3),
        (op.multiply(one), size),
        (op[0, 0], size),
        (op.cholesky().to_dense(), size**0.5),
    ):
        np.testing.assert_allclose(np.ravel(made), want, rtol=1e-13)


@pytest.mark.parametrize(
    "listed",
    [
        lambda: HUGE.diagonal(),
        lambda: HUGE.eigh(),
        lambda: HUGE.svd(),
        lambda: HUGE.damped(1.0).logdet(),
        lambda: HUGE.to_dense(limit=None),
        lambda: HUGE.sample(np.random.default_rng(0)),
        lambda: HUGE[0],
        lambda: KroneckerSumOperator([I2] * 70).logdet(),
    ],
    ids=["diagonal", "eigh", "svd", "logdet", "to_dense", "sample", "row", "sum"],
)
def test_lists_too_long_for_any_memory_are_refused_at_once(listed):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="numbers are too many to be written out"):
            listed()
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_shapes_beyond_64_bits_are_exact():
    n = 2**70
    assert HUGE.shape == HUGE.T.shape == HUGE.inverse().shape == HUGE.damped(1.0).shape == (n, n)
    assert kronops.block_diag(HUGE, HUGE, I2).shape == (2 * n + 2, 2 * n + 2)
    assert (HUGE + HUGE.T @ HUGE).shape == (n, n) and HUGE.to_scipy().shape == (n, n)
    assert HUGE[n - 1, n - 1] == 2.0**70 and HUGE[n - 1, n - 2] == 0
    with pytest.raises(IndexError, match=f"row {n} is out of range: there are {n}"):
        HUGE[n, 0]
    with pytest.raises(ValueError, match=rf"\({n},\) or \(..., {n}, k\) would do"):
        HUGE @ np.ones(2)


def test_a_power_that_would_take_forever_is_refused():
    for op in (DenseOperator(A), kron(A, A), kron(1e200 * A, 1e-200 * A)):
        with pytest.raises(OverflowError, match=r"p = 1e\+18: a power of"):
            op.power(1e18)
    assert DiagonalOperator(np.ones(2)).power(1e18).trace() == 2


# -- series ----------------------------------------------------------------------------------------


def series(correlation, option, timesteps=4, c0=I2, **more):
    return SeriesOperator((c0, correlation * c0), (np.eye(1), np.eye(1)), timesteps, option, **more)


def test_series_say_what_is_wrong_with_their_steps_and_signs():
    with pytest.raises(ValueError, match="timesteps = 0: an integer ≥ 1"):
        series(0.5, 1, timesteps=0)
    with pytest.raises(OverflowError, match="timesteps has 1030 bits, too large for float64"):
        series(0.5, 1, timesteps=2**1029)
    with pytest.raises(TypeError, match="signed = 'no': True or False"):
        series(0.5, 1, signed="no")


def test_moments_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"input_moments: the lag moment C1 does not belong to C0"):
        series(1.001, 1) @ np.ones(2)
    barely = np.diag([1.0, 1e-14])  # whose condition explains a norm of 3
    with pytest.warns(LinAlgWarning, match="has norm 3, above 1 by the rounding of a C0"):
        series(3.0, 1, c0=barely) @ np.ones(2)


@pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning")
@pytest.mark.parametrize("what", ["product", "solve", "logdet"])
@pytest.mark.parametrize("norm", [1.5, 3.0])
def test_a_stationary_series_of_norm_above_one_is_infinite(norm, what):
    op = series(norm, 2, c0=np.diag([1.0, 1e-14]))
    act = {"product": lambda: op @ np.ones(2), "solve": lambda: op.solve(np.ones(2))}
    with pytest.raises(LinAlgError, match="option 2 is infinite"):
        act.get(what, op.logdet)()


@pytest.mark.parametrize("gap", [1e-2, 1e-6, 1e-10])
@pytest.mark.parametrize("sign", [1, -1])
def test_correlations_near_one_solve_what_they_multiply(sign, gap):
    for option, timesteps in ((1, 5), (1, 4), (2, 5)):
        op = series(sign * (1 - gap), option, timesteps)
        x = np.array([1.0, -2.0])
        np.testing.assert_allclose(op @ op.solve(x), x, rtol=1e-13 + 1e-15 / gap)


# -- snapshots, and nothing shared -----------------------------------------------------------------


def answers(op, x):
    """All numbers that an operator gives, or the class of the error."""
    calls = {
        "product": lambda: op @ x,
        "solve": lambda: op.solve(x),
        "to_dense": op.to_dense,
        "diagonal": op.diagonal,
        "trace": op.trace,
        "norm": op.norm,
        "logdet": op.logdet,
        "sign": lambda: op.slogdet()[0],
        "eigh": lambda: op.eigh()[0],
        "svd": lambda: op.svd()[1],
        "inverse": lambda: op.inverse().to_dense(),
        "row": lambda: op[0],
        "T": lambda: op.T.to_dense(),
        "same": lambda: op.damped(0.0).to_dense(),
        "times one": lambda: (1.0 * op) @ x,
    }
    made = {}
    for name, call in calls.items():
        try:
            made[name] = call()
        except Exception as error:
            made[name] = type(error)
    return made


def frozen(made):
    return {
        name: np.asarray(value).copy()
        for name, value in made.items()
        if not isinstance(value, type)
    }


def overwrite(value):
    with contextlib.suppress(TypeError, ValueError):  # NumPy's numbers, and what is read-only
        value[...] = 7.25


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", zoo.CASES)
def test_no_answer_is_changed_by_writing_to_another(name, library):
    """Also of what is kept: a determinant, a spectrum, an inverse."""
    xp = pytest.importorskip(library)
    op, matrix = zoo.CASES[name](zoo.Maker(xp, "float64"))
    x = xp.asarray(np.linspace(-1.0, 2.0, matrix.shape[1]))
    first = answers(op, x)
    want = frozen(first)
    for value in first.values():
        overwrite(value)
    np.testing.assert_array_equal(np.asarray(x), np.linspace(-1.0, 2.0, matrix.shape[1]))
    again = frozen(answers(op, x))
    assert again.keys() == want.keys() and want
    for key, value in again.items():
        np.testing.assert_array_equal(value, want[key], err_msg=key)


FROM_ARRAYS = {
    "KroneckerOperator": lambda a, b, d, eye: kron(a, b),
    "damped": lambda a, b, d, eye: kron(a, b).damped(0.5),
    "factored": lambda a, b, d, eye: kron(a, b).damped(0.5, "factored"),
    "KroneckerSumOperator": lambda a, b, d, eye: KroneckerSumOperator([a, b]),
    "KroneckerEigenOperator": lambda a, b, d, eye: KroneckerEigenOperator([eye, eye], d),
    "DiagonalOperator": lambda a, b, d, eye: DiagonalOperator(d),
    "BlockDiagonalOperator": lambda a, b, d, eye: kronops.block_diag(a, b),
    "LowRankUpdateOperator": lambda a, b, d, eye: LowRankUpdateOperator(kron(a, b), d[:, None]),
    "SeriesOperator": lambda a, b, d, eye: SeriesOperator((a, 0.3 * b), (b, 0.1 * a), 3, 1),
    "MaskedOperator": lambda a, b, d, eye: kron(a, b).masked(d > 1),
    "SumOperator": lambda a, b, d, eye: kron(a, b) + DiagonalOperator(d),
    "ProductOperator": lambda a, b, d, eye: kron(a, b) @ DiagonalOperator(d) @ kron(b, a),
    "InverseOperator": lambda a, b, d, eye: (DenseOperator(a) @ DenseOperator(b)).inverse(),
    "ToeplitzOperator": lambda a, b, d, eye: kronops.ToeplitzOperator(d),
    "nearest": lambda a, b, d, eye: kronops.nearest_kronecker(a, [(2, 1), (1, 2)])[0],
}


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.parametrize("used", [True, False], ids=["after use", "before use"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", FROM_ARRAYS)
def test_an_operator_never_follows_its_arrays_halfway(name, library, used):
    """Whether caches are filled or not when the user's arrays change."""
    xp = pytest.importorskip(library)
    arrays = [xp.asarray(array) for array in (A + 1, 3 * A - 1, np.arange(1.0, 5.0), np.eye(2))]
    op, untouched = FROM_ARRAYS[name](*arrays), FROM_ARRAYS[name](*copy.deepcopy(arrays))
    x = xp.asarray(np.linspace(-1.0, 2.0, op.shape[1]))
    if used:
        answers(op, x)
    for array in arrays:
        array[...] = -5.0
    got, want = answers(op, x), answers(untouched, x)
    for key, value in frozen(want).items():
        np.testing.assert_array_equal(np.asarray(got[key]), value, err_msg=key)


@pytest.mark.parametrize(
    "view",
    [
        lambda m: m[::-1, ::-1],
        lambda m: np.broadcast_to(m[:1], m.shape) + np.eye(3),
        lambda m: np.repeat(np.repeat(m, 2, 0), 2, 1)[::2, ::2],
        lambda m: np.asfortranarray(m),
        lambda m: (
            np.lib.stride_tricks.as_strided(np.arange(1.0, 6.0), (3, 3), (8, 8)) + 9 * np.eye(3)
        ),
    ],
    ids=["negative strides", "zero strides", "gaps", "Fortran", "overlapping"],
)
def test_factors_in_any_memory_layout(view):
    matrix = view(rng.standard_normal((3, 3)) + 3 * np.eye(3))
    matrix.flags.writeable = False
    b = rng.standard_normal((9, 8))[:, ::-2]
    want = np.kron(matrix, matrix)
    op = kron(matrix, matrix)
    np.testing.assert_allclose(op @ b, want @ b, rtol=1e-12)
    np.testing.assert_allclose(op.solve(b), np.linalg.solve(want, b), rtol=1e-8)
    flat = np.lib.stride_tricks.as_strided(np.ones(1), (9,), (0,))
    np.testing.assert_allclose(op @ flat, want @ np.ones(9), rtol=1e-12)


def test_vectors_that_do_not_fit_are_never_guessed():
    op = kron(np.eye(6), np.eye(4))  # weights (6, 4), or kernels that fold to them
    for shape in ((4, 6), (2, 4, 3), (3, 2, 2, 2), (24, 2), (1, 24), (24, 1), (6, 4, 1), ()):
        with pytest.raises(ValueError, match=r"v has shape .*; what would do: a flat array"):
            op.multiply(np.ones(shape))
    assert op.multiply(np.ones((3, 2, 4))).shape == (3, 2, 4)
    for pair in (
        (np.ones((5, 4)), np.ones(5)),
        (np.ones((4, 5)), np.ones(4)),
        (np.ones((6, 4)), 0),
    ):
        with pytest.raises(ValueError, match="what would do"):
            op.multiply(pair)
