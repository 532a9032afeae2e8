"""`refine=True`: within 16 units of rounding of exact solutions, or it says so.

And the step of refinement that solves with ill-conditioned matrices take without being asked.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import tracemalloc
import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse.linalg
from libraries import LIBRARIES

import kronops
from kronops import DenseOperator, KroneckerSumOperator, LinAlgError, LinAlgWarning, kron
from kronops.testing import check_operator

EPS = np.finfo(float).eps
UNITS = 2  # of rounding; 16 are promised


# -- exact references: fractions of the entries as they are ----------------------------------------


def exact(array):
    """Entries as fractions; a complex matrix ``A + iB`` as the real ``[[A, -B], [B, A]]``."""
    return [[Fraction(float(entry)) for entry in row] for row in np.asarray(array)]


def exact_kron(left, right):
    return [[a * b for a in row for b in other] for row in left for other in right]


def exact_sum(left, right):
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def multiple(n, scalar):
    return [[Fraction(scalar) * (i == j) for j in range(n)] for i in range(n)]


def eliminated(matrix, b):
    """The solution, and the determinant, by elimination in fractions."""
    b = [entry if isinstance(entry, Fraction) else Fraction(float(entry)) for entry in b]
    rows = [[*row, entry] for row, entry in zip(matrix, b, strict=True)]
    n, determinant = len(rows), Fraction(1)
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        determinant *= rows[k][k] * (-1 if pivot != k else 1)
        rows[k] = [entry / rows[k][k] for entry in rows[k]]
        for i in range(n):
            if i != k and rows[i][k]:
                rows[i] = [a - rows[i][k] * c for a, c in zip(rows[i], rows[k], strict=True)]
    return [row[-1] for row in rows], determinant


def units_of_error(got, want, eps=EPS):
    """``max |x - x*| / max |x*|`` in units of rounding."""
    errors = [abs(Fraction(float(x)) - y) for x, y in zip(got, want, strict=True)]
    return float(max(errors) / max(map(abs, want))) / eps


def log_of(fraction):
    """The logarithm, of a fraction that no float need hold."""
    shift = fraction.numerator.bit_length() - fraction.denominator.bit_length()
    return math.log(fraction / Fraction(2) ** shift) + shift * math.log(2.0)


# -- instances -------------------------------------------------------------------------------------


def hilbert(n):
    return 1.0 / (1.0 + np.add.outer(np.arange(n), np.arange(n)))


def vandermonde(n):
    return np.vander(np.linspace(0.1, 1.0, n))


def drawn(n, condition, seed, symmetric=False):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    values = np.geomspace(1.0, 1.0 / condition, n)
    if not symmetric:
        return (left * values) @ right
    made = (left * values) @ left.T
    return (made + made.T) / 2


LOW, OTHER = drawn(4, 1e20, 0, True), drawn(3, 1e9, 1, True)
INDEFINITE = np.array([[1.0, 2.0**-30], [2.0**-30, -1.0]])
SHEAR = np.array([[1.0, 1.0], [0.0, 1.0]])
UPDATE = np.random.default_rng(3).standard_normal((8, 1))


def exact_product(left, right):
    columns = list(zip(*right, strict=True))
    return [[sum(map(Fraction.__mul__, row, column)) for column in columns] for row in left]


INSTANCES = {
    "a matrix beyond 1/eps": lambda: (DenseOperator(hilbert(13)), exact(hilbert(13))),
    "a Kronecker product": lambda: (
        kron(hilbert(8), vandermonde(5)),
        exact_kron(exact(hilbert(8)), exact(vandermonde(5))),
    ),
    "three factors, two of them near singular": lambda: (
        kron(hilbert(7), drawn(3, 1e16, 4), np.diag([1.0, 1e-3])),
        exact_kron(
            exact_kron(exact(hilbert(7)), exact(drawn(3, 1e16, 4))), exact(np.diag([1.0, 1e-3]))
        ),
    ),
    "sizes of 1e150": lambda: (
        kron(1e150 * hilbert(5), 1e-150 * vandermonde(4)),
        exact_kron(exact(1e150 * hilbert(5)), exact(1e-150 * vandermonde(4))),
    ),
    "columns of unlike sizes": lambda: (
        kron(hilbert(6) * np.geomspace(1, 1e-40, 6), SHEAR),
        exact_kron(exact(hilbert(6) * np.geomspace(1, 1e-40, 6)), exact(SHEAR)),
    ),
    "exact damping of 1e-17": lambda: (
        kron(LOW, OTHER).damped(1e-17),
        exact_sum(exact_kron(exact(LOW), exact(OTHER)), multiple(12, 1e-17)),
    ),
    "exact damping of singular factors": lambda: (
        kron(np.ones((4, 4)), np.ones((3, 3))).damped(2.0**-56),
        exact_sum(exact_kron(exact(np.ones((4, 4))), exact(np.ones((3, 3)))), multiple(12, 2**-56)),
    ),
    "exact damping, indefinite": lambda: (
        kron(INDEFINITE, INDEFINITE).damped(1.0 + 2.0**-52),
        exact_sum(exact_kron(exact(INDEFINITE), exact(INDEFINITE)), multiple(4, 1 + 2.0**-52)),
    ),
    "exact damping, general": lambda: (
        kron(drawn(4, 1e8, 5), SHEAR).damped(1e-9),
        exact_sum(exact_kron(exact(drawn(4, 1e8, 5)), exact(SHEAR)), multiple(8, 1e-9)),
    ),
    "a Kronecker sum": lambda: (
        KroneckerSumOperator([INDEFINITE, INDEFINITE]).damped(2.0**-50),
        exact_sum(
            exact_sum(
                exact_kron(exact(INDEFINITE), multiple(2, 1)),
                exact_kron(multiple(2, 1), exact(INDEFINITE)),
            ),
            multiple(4, 2.0**-50),
        ),
    ),
    "a low-rank update": lambda: (
        kronops.LowRankUpdateOperator(DenseOperator(hilbert(8)), UPDATE),
        exact_sum(exact(hilbert(8)), [[a * b for (b,) in exact(UPDATE)] for (a,) in exact(UPDATE)]),
    ),
    "a product and a scalar": lambda: (
        -3.0 * (DenseOperator(hilbert(6)) @ DenseOperator(vandermonde(6))),
        [
            [-3 * entry for entry in row]
            for row in exact_product(exact(hilbert(6)), exact(vandermonde(6)))
        ],
    ),
}
# What is written out, and says so.
WRITTEN = {"exact damping, general"}


@contextlib.contextmanager
def quiet(*kinds):
    with warnings.catch_warnings():
        for kind in kinds:
            warnings.simplefilter("ignore", kind)
        yield


class TestSolves:
    @pytest.mark.parametrize("name", INSTANCES)
    def test_are_right_to_the_last_digits(self, name):
        op, matrix = INSTANCES[name]()
        b = np.random.default_rng(0).standard_normal(op.shape[0])
        want, _ = eliminated(matrix, b)
        got = op.solve(b, refine=True)
        assert got.dtype == np.float64
        assert units_of_error(got, want) < UNITS
        assert units_of_error(op.inverse(refine=True) @ b, want) < UNITS

    @pytest.mark.parametrize("name", sorted(INSTANCES.keys() - WRITTEN))
    def test_of_small_solutions_too(self, name):
        """Right-hand sides in which the ill-conditioned directions are hidden."""
        op, matrix = INSTANCES[name]()
        ones = [Fraction(1)] * op.shape[0]
        b = np.array([float(sum(row)) for row in exact_product(matrix, [[one] for one in ones])])
        want, _ = eliminated(matrix, b)
        assert units_of_error(op.solve(b, refine=True), want) < UNITS

    def test_the_unrefined_ones_are_not(self):
        op, matrix = INSTANCES["exact damping, general"]()
        b = np.ones(op.shape[0])
        assert units_of_error(op.solve(b), eliminated(matrix, b)[0]) > 1e4

    def test_several_right_hand_sides(self):
        op = kron(hilbert(6), vandermonde(4))
        b = np.random.default_rng(1).standard_normal((2, 24, 3))
        together = op.solve(b, refine=True)
        for i, j in itertools.product(range(2), range(3)):
            alone = op.solve(b[i, :, j], refine=True)
            np.testing.assert_allclose(together[i, :, j], alone, rtol=4 * EPS, atol=0)

    def test_factors_whose_elimination_ends_in_zero(self):
        """Also that of a matrix a few units of rounding away."""
        first, second = [0.07320142414540086, -0.17819697218433944], [0.37286063493515853]
        a = np.array([first, [*second, -0.9076686275966406]])
        want, _ = eliminated(exact(a), [1.0, 2.0])
        assert units_of_error(DenseOperator(a).solve(np.array([1.0, 2.0]), refine=True), want) < 2

    def test_complex(self):
        """``A + iB`` as a real matrix of twice the size."""
        a, c = drawn(4, 1e14, 6), drawn(4, 1e14, 7)
        whole = np.block([[a, -c], [c, a]])
        b = np.random.default_rng(2).standard_normal(8)
        want, _ = eliminated(exact(whole), b)
        got = DenseOperator(a + 1j * c).solve(b[:4] + 1j * b[4:], refine=True)
        assert units_of_error(np.concat([got.real, got.imag]), want) < UNITS

    def test_single_precision(self):
        a = hilbert(7).astype(np.float32)  # beyond its 1/eps
        op, b = kron(a, a), np.random.default_rng(4).standard_normal(49).astype(np.float32)
        want, _ = eliminated(exact_kron(exact(a), exact(a)), b)
        got = op.solve(b, refine=True)
        assert got.dtype == np.float32
        assert units_of_error(got, want, np.finfo(np.float32).eps) < UNITS

    def test_the_adjoint(self):
        a = drawn(5, 1e15, 8)
        b = np.ones(5)
        want, _ = eliminated(exact(a.T), b)
        assert units_of_error(DenseOperator(a).inverse(refine=True).H @ b, want) < UNITS

    def test_blocks_stay_blocks(self):
        op = kronops.block_diag(hilbert(8), kron(hilbert(3), np.eye(2)))
        inverse = op.inverse(refine=True)
        assert isinstance(inverse, kronops.BlockDiagonalOperator)
        want, _ = eliminated(exact(hilbert(8)), np.ones(8))
        assert units_of_error((inverse @ np.ones(14))[:8], want) < UNITS


def solved_exactly(matrix, b):
    """Columns of solutions, of a real or complex matrix, as fractions or pairs of them."""
    whole = np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])
    sides = np.concat([b.real, b.imag])
    return [eliminated(exact(whole), side)[0] for side in sides.T]


def worst_units(got, wanted):
    """Of the columns of a solution."""
    columns = np.concat([got.real, got.imag]).T
    return max(units_of_error(*pair) for pair in zip(columns, wanted, strict=True))


class TestIllConditioned:
    """Without ``refine=True``: one step, so that ``κ eps`` becomes its square."""

    @pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch", "jax", "dask"])
    @pytest.mark.parametrize("kind", ["definite", "general", "complex"])
    @pytest.mark.parametrize("adjoint", [False, True])
    def test_solves_lose_digits_twice_as_late(self, library, kind, adjoint):
        condition, n = 1e10, 6
        matrix = drawn(n, condition, 3, symmetric=kind == "definite")
        if kind == "complex":
            matrix = matrix * np.exp(1j * np.arange(n)) + 1e-9j * drawn(n, 1.0, 4)
        b = np.random.default_rng(5).standard_normal((n, 3)) @ np.diag([1.0, 0.0, 1e-200])
        b[:, 1] = 2.0**900 * matrix.real[:, 0]
        theirs = matrix.conj().T if adjoint else matrix
        wanted = solved_exactly(theirs, b)
        with LIBRARIES[library].maker(str(matrix.dtype)) as make:
            op, sides = DenseOperator(make(matrix)), make.real(b)
            found = np.asarray(op.solve(sides))
            if adjoint:  # by the same factorisation
                found = np.asarray(op.H.solve(sides))
        plain = DenseOperator(matrix)._factorisation.solve(b, adjoint)
        assert worst_units(plain, wanted) > 1e5  # what the step is for
        assert worst_units(found, wanted) < 4 + condition**2 * EPS

    def test_of_many_rows(self):
        """Of which a product has so many terms that fewer bits of each must do."""
        n, condition = 90, 1e9
        matrix = drawn(n, condition, 6)
        matrix = np.round(matrix * 2.0**40) / 2.0**40  # so that right-hand sides are exact
        x = np.random.default_rng(7).integers(-999, 999, n).astype(float)
        sides = exact_product(exact(matrix), exact(x[:, None]))
        b = np.array([float(side) for (side,) in sides])
        assert exact(b[:, None]) == sides
        assert (
            units_of_error(
                DenseOperator(matrix).solve(b), [entry for (entry,) in exact(x[:, None])]
            )
            < 100
        )

    def test_well_conditioned_ones_are_as_the_factors_give_them(self):
        op, b = DenseOperator(drawn(40, 1e7, 8)), np.ones((40, 1))
        np.testing.assert_array_equal(op.solve(b), op._factorisation.solve(b))
        assert "refinement" not in op.explain()

    def test_whatever_the_units_of_rows_and_columns(self):
        n = 6
        powers = 2.0 ** np.linspace(-300, 300, n).round()
        matrix = drawn(n, 1e10, 9)
        for graded in (matrix * powers, powers[:, None] * matrix):
            with quiet(LinAlgWarning):
                got = DenseOperator(graded).solve(np.ones(n))
            weights = powers if graded[0, 0] == matrix[0, 0] * powers[0] else np.ones(n)
            wanted, _ = eliminated(exact(graded), np.ones(n))
            scaled = [y * Fraction(w) for y, w in zip(wanted, weights, strict=True)]
            assert units_of_error(got * weights, scaled) < 4 + 1e20 * EPS

    def test_the_cost_is_said_and_many_columns_are_taken_a_few_at_a_time(self):
        op = DenseOperator(drawn(50, 1e9, 10))
        b = np.random.default_rng(11).standard_normal((50, 40_000))
        tracemalloc.start()
        op.solve(b)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * b.nbytes
        assert "one step of refinement" in op.explain()


class TestDamping:
    @pytest.mark.parametrize("method", ["exact", "factored"])
    def test_is_added_without_rounding(self, method):
        """Of ``1e-17`` nothing is left in the sum of two doubles."""
        a = np.ones((3, 3))
        op = DenseOperator(a) if method == "exact" else kron(a, np.ones((1, 1)))
        made = op.damped(2.0**-60, method, refine=True, pi=2.0**-30)
        shares = (2.0**-60, 0.0) if method == "exact" else (2.0**-60, 1.0)
        matrix = exact_sum(exact(a), multiple(3, shares[0]))
        matrix = [[entry * (1 + Fraction(shares[1])) for entry in row] for row in matrix]
        want, _ = eliminated(matrix, [1.0, 2.0, 4.0])
        assert units_of_error(made.solve(np.array([1.0, 2.0, 4.0])), want) < UNITS

    @pytest.mark.parametrize("name", INSTANCES)
    def test_logdet(self, name):
        op, matrix = INSTANCES[name]()
        with quiet(kronops.DensificationWarning):
            sign, logabsdet = op.damped(0.0, refine=True).slogdet()
        _, determinant = eliminated(matrix, np.ones(len(matrix)))
        assert sign == np.sign(determinant)
        assert float(logabsdet) == pytest.approx(log_of(abs(determinant)), rel=8 * EPS)

    def test_logdet_where_logarithms_cancel(self):
        values = np.array([2.0**40, 3.0, 2.0**-40, 1 / 3])
        op = DenseOperator(np.diag(values)).damped(0.0, refine=True)
        exact_product_of_values = math.prod(map(Fraction, values))
        want = float(exact_product_of_values - 1)  # log(1 + x), x tiny
        assert float(op.logdet()) == pytest.approx(want, rel=1e-10, abs=0)

    def test_pi_is_given_by_name(self):
        with pytest.raises(TypeError, match="refine = 'trace': True or False; pi is given by name"):
            kron(SHEAR, SHEAR).damped(1.0, "factored", "trace")


class TestSayings:
    def test_singular(self):
        with pytest.raises(LinAlgError, match="singular"):
            DenseOperator(np.ones((2, 2))).solve(np.ones(2), refine=True)

    def test_what_no_terms_suffice_for(self):
        op = kron(*[hilbert(13)] * 5)
        with pytest.warns(LinAlgWarning, match="refine=True may leave more than 16 units"):
            op.inverse(refine=True).base._refined  # noqa: B018

    def test_what_is_written_out(self):
        op = kron(SHEAR, SHEAR).damped(1.0, refine=True)
        with pytest.warns(kronops.DensificationWarning, match="written out as a dense matrix to"):
            op.slogdet()

    def test_what_has_no_products_in_more_digits(self):
        op = kronops.aslinearoperator(
            scipy.sparse.linalg.aslinearoperator(np.eye(2)), like=np.eye(2)
        )
        with pytest.raises(ValueError, match=r"Operator in more digits.*op.to_dense\(\)"):
            op.solve(np.ones(2), refine=True)

    def test_explain(self):
        assert "in more digits" in kron(SHEAR, SHEAR).inverse(refine=True).explain()


# -- series: C0 = L Lᵀ and C1 = L K Lᵀ of integers and sixteenths, so that moments are exact ------


def moments(n, seed, lag, spread=2):
    """Of condition numbers that grow with ``n`` and ``spread``; ``‖H‖`` is that of the lag."""
    draw = np.random.default_rng(seed).integers(-spread, spread + 1, (n, n))
    lower = np.tril(draw, -1) + np.eye(n)
    return lower @ lower.T, lower @ lag @ lower.T


def wide(n, seed):
    """Of norm 0.75 to a sixteenth or so, not symmetric."""
    draw = np.random.default_rng(seed).standard_normal((n, n))
    return np.round(12.0 * draw / np.linalg.norm(draw, 2)) / 16


def tall(*entries):
    return np.diag([*entries, *[0.0] * (4 - len(entries))])


def combined(left, right, scale=1):
    return exact_sum(left, [[scale * entry for entry in row] for row in right])


def transposed(matrix):
    return [list(row) for row in zip(*matrix, strict=True)]


def divided(matrix, by):
    """``by⁻¹ matrix``."""
    return transposed([eliminated(by, column)[0] for column in transposed(matrix)])


def lags(c0, c1, timesteps):
    """``A_d = S Hᵈ S``, without square roots: ``C0``, ``C1``, ``C1 C0⁻¹ C1``, …"""
    made, step = [c0], divided(c1, c0)
    for _ in range(1, timesteps):
        made.append(exact_product(made[-1], step))
    return made


def option_1(inputs, outputs, timesteps):
    """``Σ (T − |d|) A_d ⊗ G_d`` of symmetric lags."""
    halves = [(c0, combined(c1, transposed(c1))) for c0, c1 in (inputs, outputs)]
    sides = [lags(c0, [[e / 2 for e in row] for row in c1], timesteps) for c0, c1 in halves]
    total = multiple(len(inputs[0]) * len(outputs[0]), 0)
    for d, pair in enumerate(zip(*sides, strict=True)):
        total = combined(total, exact_kron(*pair), (1 + (d > 0)) * (timesteps - d))
    return total


def option_2(inputs, outputs, timesteps):
    """``T (Z + Zᵀ − Σ)`` with ``Σ = A0 ⊗ G0`` and ``Z = Σ (Σ − A1 ⊗ G1)⁻¹ Σ``."""
    still, lag = (exact_kron(*pair) for pair in zip(inputs, outputs, strict=True))
    half = exact_product(still, divided(still, combined(still, lag, -1)))
    total = combined(combined(half, transposed(half)), still, -1)
    return [[timesteps * entry for entry in row] for row in total]


BLOCKS = {1: option_1, 2: option_2}
OUTPUTS = moments(2, 2, wide(2, 3))
SERIES = {
    "condition 1e17": (moments(13, 13, wide(13, 0), 9), moments(1, 0, wide(1, 1)), 3),
    "condition 1e12, four steps": (moments(5, 6, wide(5, 0), 40), OUTPUTS, 4),
    "correlation near -1": (
        moments(4, 1, tall(2.0**-20 - 1, 0.5)), moments(2, 2, np.diag([1 - 2.0**-22, 0.25])), 4
    ),
    "a correlation of -1, odd steps": (
        moments(4, 1, tall(-1.0, 0.5)), moments(2, 2, np.diag([1.0, 0.25])), 3
    ),
    "one step": (moments(4, 1, wide(4, 4)), OUTPUTS, 1),
    "seven steps, not symmetric": (moments(4, 1, wide(4, 4), 6), OUTPUTS, 7),
}  # fmt: skip
INFINITE = ("a correlation of -1, odd steps", 2)


class TestSeries:
    @pytest.mark.parametrize(
        "name, option",
        [(name, option) for name in SERIES for option in (1, 2) if (name, option) != INFINITE],
    )
    def test_solves_are_right_to_the_last_digits(self, name, option):
        inputs, outputs, timesteps = SERIES[name]
        op = kronops.SeriesOperator(inputs, outputs, timesteps, option)
        b = np.random.default_rng(0).standard_normal(op.shape[0])
        sides = [tuple(map(exact, side)) for side in (inputs, outputs)]
        want, determinant = eliminated(BLOCKS[option](*sides, timesteps), b)
        assert units_of_error(op.solve(b, refine=True), want) < UNITS
        with quiet(kronops.DensificationWarning):  # of option 2
            sign, logabsdet = op.damped(0.0, refine=True).slogdet()
        assert sign == 1
        assert float(logabsdet) == pytest.approx(log_of(determinant), rel=8 * EPS, abs=8 * EPS)

    def test_the_unrefined_ones_are_not(self):
        inputs, outputs, timesteps = SERIES["condition 1e12, four steps"]
        op = kronops.SeriesOperator(inputs, outputs, timesteps, 1)
        sides = [tuple(map(exact, side)) for side in (inputs, outputs)]
        want, _ = eliminated(option_1(*sides, timesteps), np.ones(10))
        assert units_of_error(op.solve(np.ones(10)), want) > 1e6

    @pytest.mark.parametrize("option", [1, 2])
    def test_damping_is_added_without_rounding(self, option):
        """To a singular ``C0``, of which nothing would be left in doubles."""
        inputs, shift = (np.ones((3, 3)), 0.5 * np.ones((3, 3))), 2.0**-100
        op = kronops.SeriesOperator(inputs, OUTPUTS, 3, option, factor_damping=(shift, 0.0))
        a0, a1 = map(exact, inputs)
        sides = (exact_sum(a0, multiple(3, shift)), a1), tuple(map(exact, OUTPUTS))
        b = np.arange(6.0)
        want, _ = eliminated(BLOCKS[option](*sides, 3), b)
        assert units_of_error(op.solve(b, refine=True), want) < UNITS

    def test_unsigned(self):
        outputs = moments(2, 2, np.diag([0.5, -0.25]))
        inputs = moments(4, 1, tall(-0.75, 0.5))
        op = kronops.SeriesOperator(inputs, outputs, 4, 1, signed=False)
        twins = moments(4, 1, tall(0.75, 0.5)), moments(2, 2, np.diag([0.5, 0.25]))
        block = option_1(*(tuple(map(exact, side)) for side in twins), 4)
        b = np.ones(8)
        assert units_of_error(op.solve(b, refine=True), eliminated(block, b)[0]) < UNITS

    def test_complex(self):
        """``C1`` a quarter of ``C0``: the block is a multiple of ``A0 ⊗ G0``."""
        lower = np.array([[1.0, 0.0, 0.0], [3.0 + 2.0j, 1.0, 0.0], [1.0 - 7.0j, 5.0j, 1.0]])
        c0 = lower @ lower.conj().T
        op = kronops.SeriesOperator((c0, 0.5j * c0), (c0, -0.5j * c0), 2, 1)
        b = np.arange(9.0) - 1j
        want = (kron(c0, c0) * 2.0).solve(b, refine=True)  # Hermitian parts of the lags are zero
        np.testing.assert_allclose(
            op.solve(b, refine=True), want, rtol=0, atol=2 * EPS * abs(want).max()
        )
        stationary = kronops.SeriesOperator((c0, 0.5j * c0), (c0, -0.5j * c0), 2, 2)
        weight = 2.0 * (1 / 0.75 + 1 / 0.75 - 1)  # Φ is a quarter
        want = kron(c0, c0).solve(b, refine=True) / weight
        got = stationary.solve(b, refine=True)
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * EPS * abs(want).max())

    @pytest.mark.parametrize("option", [1, 2])
    @pytest.mark.parametrize("library", ["array_api_strict", "torch"])
    def test_other_libraries(self, library, option):
        """Not JAX, which compiles each step for a minute: the steps are known to it."""
        inputs, outputs, timesteps = SERIES["one step"]
        b = np.arange(8.0)
        want = kronops.SeriesOperator(inputs, outputs, timesteps, option).solve(b, refine=True)
        with LIBRARIES[library].maker("float64") as make:
            sides = [tuple(map(make, side)) for side in (inputs, outputs)]
            op = kronops.SeriesOperator(*sides, timesteps, option)
            got = np.asarray(op.solve(make(b), refine=True))
        np.testing.assert_allclose(got, want, rtol=0, atol=2 * EPS * abs(want).max())

    def test_what_is_singular_or_infinite_says_so(self):
        inputs, outputs, _ = SERIES["a correlation of -1, odd steps"]
        for option, words in ((1, "a correlation of -1"), (2, "infinite or singular")):
            with pytest.raises(LinAlgError, match=words):
                kronops.SeriesOperator(inputs, outputs, 4, option).solve(np.ones(8), refine=True)
        flat = np.ones((2, 2)), np.zeros((2, 2))
        with pytest.raises(LinAlgError, match=r"input_moments\[0\] \(2 x 2\) is singular"):
            kronops.SeriesOperator(flat, outputs, 2, 1).solve(np.ones(4), refine=True)
        foreign = np.eye(2), 3.0 * np.eye(2)
        with pytest.raises(ValueError, match=r"input_moments: the lag moment.*norm 3 "):
            kronops.SeriesOperator(foreign, outputs, 2, 1).solve(np.ones(4), refine=True)

    @pytest.mark.parametrize("option", [1, 2])
    def test_exact_damping(self, option):
        """By products in more digits."""
        inputs, outputs, timesteps = SERIES["condition 1e12, four steps"]
        op = kronops.SeriesOperator(inputs, outputs, timesteps, option)
        sides = [tuple(map(exact, side)) for side in (inputs, outputs)]
        block = exact_sum(BLOCKS[option](*sides, timesteps), multiple(10, 2.0**-40))
        b = np.arange(10.0)
        with quiet(kronops.DensificationWarning):
            got = op.damped(2.0**-40, refine=True).solve(b)
        assert units_of_error(got, eliminated(block, b)[0]) < UNITS


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax", "jax x64 off"])
def test_every_library(library):
    """Few and small: JAX compiles each step for each shape."""
    dtype = "float32" if library == "jax x64 off" else "float64"
    a = np.ones((3, 3), dtype)
    a[2, 2] = 2.0  # singular
    b, shift = np.asarray([1.0, 2.0, 4.0], dtype), 2.0**-60
    want, determinant = eliminated(exact_sum(exact(a), multiple(3, shift)), b)
    with LIBRARIES[library].maker(dtype) as make:
        eps = float(np.finfo(dtype).eps)
        dense, product = DenseOperator(make(a)), kron(make(a))
        for op in [dense] if library.startswith("jax") else [dense, product]:
            damped = op.damped(shift, refine=True)
            assert units_of_error(np.asarray(damped.solve(make(b))), want, eps) < UNITS
        if library == "jax x64 off":
            return
        assert float(damped.logdet()) == pytest.approx(log_of(determinant), rel=8 * eps)


class TestTracing:
    def test_a_refined_inverse_may_be_applied_under_jit(self):
        jax = pytest.importorskip("jax")
        with jax.enable_x64(True):
            inverse = DenseOperator(jax.numpy.asarray(hilbert(7))).inverse(refine=True)
            b = np.arange(7.0)
            want, _ = eliminated(exact(hilbert(7)), b)
            assert units_of_error(np.asarray(jax.jit(lambda x: inverse @ x)(b)), want) < UNITS

    def test_but_not_made_there(self):
        jax = pytest.importorskip("jax")
        with pytest.raises(TypeError, match=r"make the DenseOperator \(2, 2\) outside"):
            jax.jit(lambda a: DenseOperator(a).solve(a[0], refine=True))(np.eye(2))

    def test_derivatives(self):
        torch = pytest.importorskip("torch")
        a = torch.tensor(drawn(3, 1e3, 9, True), requires_grad=True)
        slopes = []
        for refine in (True, False):
            op = kron(a, torch.eye(2, dtype=a.dtype)).damped(0.1, refine=refine)
            value = op.solve(torch.ones(6, dtype=a.dtype)).sum() + op.logdet()
            slopes.extend(torch.autograd.grad(value, a))
        np.testing.assert_allclose(slopes[0].numpy(), slopes[1].numpy(), rtol=1e-10)


def test_the_laws_hold():
    check_operator(kron(drawn(2, 10, 0), drawn(2, 10, 1)).damped(0.5, refine=True))
    check_operator(DenseOperator(drawn(3, 10, 0)).inverse(refine=True))
