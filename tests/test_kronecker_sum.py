"""Kronecker sums against the solvers and spectra that others have for them."""

from __future__ import annotations

import copy
import itertools
import time
import warnings

import numpy as np
import pytest
import scipy.linalg
from zoo import kron_sum

import kronops
from kronops import KroneckerSumOperator, LinAlgError, LinAlgWarning
from kronops.backends import backend_of

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.standard_normal(shape)


def definite(n):
    a = draw(n, n)
    return a @ a.T / n + np.eye(n)


def general(n):
    return draw(n, n) + 3 * n**0.5 * np.eye(n)


def second_difference(n, ends=2.0):
    """Of a grid with Dirichlet ends, or (``ends=1``) Neumann's."""
    made = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    made[0, 0] = made[-1, -1] = ends
    return made


def dirichlet(n):
    return 2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1))


class TestKnownProblems:
    @pytest.mark.parametrize("unit", [0.0, 1j], ids=["real", "complex"])
    def test_sylvesters_equation(self, unit):
        a, b = (draw(n, n) + unit * draw(n, n) + 20 * np.eye(n) for n in (70, 5))
        right = draw(70, 5)
        want = scipy.linalg.solve_sylvester(a, b.T, right)
        solved = KroneckerSumOperator([a, b]).multiply_inverse(right)
        np.testing.assert_allclose(solved, want, rtol=1e-9, atol=1e-12)

    def test_lyapunovs_equation(self):
        a, right = draw(6, 6) - 8 * np.eye(6), definite(6)
        op = KroneckerSumOperator([a, a])
        want = scipy.linalg.solve_continuous_lyapunov(a, right)
        np.testing.assert_allclose(op.multiply_inverse(right), want, rtol=1e-10)

    def test_the_laplacian_of_a_box(self):
        sizes = 4, 5, 6
        op = KroneckerSumOperator([second_difference(n) for n in sizes])
        spectra = [dirichlet(n) for n in sizes]
        want = np.sort([sum(values) for values in itertools.product(*spectra)])
        np.testing.assert_allclose(op.eigh().eigenvalues, want, rtol=1e-12)
        assert float(op.logdet()) == pytest.approx(np.sum(np.log(want)))
        assert float(op.norm(2)) == pytest.approx(want[-1])
        assert float(op.norm("nuc")) == pytest.approx(np.sum(want))
        load = draw(*sizes)
        np.testing.assert_allclose(op.multiply(op.multiply_inverse(load)), load, atol=1e-12)

    def test_a_diagonal_factor_of_any_size(self):
        d = np.arange(1.0, 10**5 + 1)
        op = KroneckerSumOperator([kronops.DiagonalOperator(d), definite(3)])
        assert float(op.trace()) == pytest.approx(
            3 * d.sum() + d.size * np.trace(op.factors[1].matrix)
        )
        x = draw(*op.domain_shape)
        np.testing.assert_allclose(op.multiply_inverse(op.multiply(x)), x, rtol=1e-9)


class TestSingular:
    @pytest.mark.parametrize("sizes", [(7,), (5, 6), (3, 4, 5), (128, 100)])
    def test_neumanns_laplacian(self, sizes):
        op = KroneckerSumOperator([second_difference(n, ends=1.0) for n in sizes])
        for sum_ in (op, -3 * op, op.astype("float32")):
            with pytest.raises(LinAlgError, match=r"the Kronecker sum \(\d+.* is singular"):
                sum_.solve(np.ones(op.shape[0], dtype=sum_.dtype))
        assert op.damped(1e-6).solve(np.ones(op.shape[0])).shape == (op.shape[0],)

    def test_common_eigenvalues_of_general_factors(self):
        a = np.triu(draw(4, 4), 1) + np.diag([1.0, 2.0, 3.0, 4.0])
        with pytest.raises(LinAlgError, match="Kronecker sum"):
            KroneckerSumOperator([a, -a[:3, :3]]).solve(np.ones(12))

    def test_nearly_singular_is_a_warning(self):
        op = KroneckerSumOperator([np.diag([1.0, 2.0]), np.diag([-1.0 + 3e-14, 5.0])])
        with pytest.warns(LinAlgWarning, match="Kronecker sum"):
            op.solve(np.ones(4))

    def test_moderate_conditions_pass_in_silence(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            KroneckerSumOperator([np.diag([1.0, 1e6]), np.diag([-1.0 + 1e-6, 1e6])]).solve(
                np.ones(4)
            )


class TestConstruction:
    def test_sums_among_the_factors_are_flattened(self):
        a, b, c = (definite(n) for n in (2, 3, 2))
        op = KroneckerSumOperator([a, KroneckerSumOperator([b, c]).damped(0.5)])
        assert op.domain_shape == (2, 3, 2)
        np.testing.assert_allclose(op.to_dense(), kron_sum(a, b, c) + 0.5 * np.eye(12))

    @pytest.mark.parametrize(
        "factors, kind, words",
        [
            ([np.ones((2, 3))], ValueError, r"factors\[0\] has shape \(2, 3\): a square"),
            ([np.eye(2), np.ones(2)], ValueError, r"factors\[1\] has shape \(2,\)"),
            ([], ValueError, "factors is empty"),
            ([np.eye(2), np.full((2, 2), np.nan)], ValueError, r"factors\[1\] has NaN"),
            (np.eye(2), TypeError, "factors is a ndarray: a list"),
        ],
    )
    def test_refusals(self, factors, kind, words):
        with pytest.raises(kind, match=words):
            KroneckerSumOperator(factors)


class TestDecompositionsAreKept:
    @pytest.mark.parametrize("function, draw_one", [("eigh", definite), ("schur", general)])
    def test_one_for_each_factor_and_all_shifts_and_multiples(
        self, monkeypatch, function, draw_one
    ):
        a, b, x = draw_one(3), draw_one(4), draw(12)
        op = KroneckerSumOperator([a, b])
        calls = []
        backend = backend_of(a)
        found = getattr(backend, function)
        monkeypatch.setattr(
            backend, function, lambda matrix: calls.append(matrix.shape) or found(matrix)
        )
        for damping in (0.5, 1.0, 2.0):
            for made in (op.damped(damping), 3 * op.damped(damping), -op.damped(damping) + 7 * op):
                made.solve(x)
                made.slogdet()
        assert len(calls) == 2

    def test_an_inverse_that_was_copied_knows_what_it_inverts(self):
        op = KroneckerSumOperator([definite(2), definite(3)]).damped(0.5)
        back = copy.deepcopy(op.inverse()).inverse()
        assert type(back) is KroneckerSumOperator
        np.testing.assert_array_equal(back.to_dense(), op.to_dense())

    def test_a_thousand_shifts_cost_less_than_two_decompositions(self):
        op = KroneckerSumOperator([definite(400), definite(400)])
        start = time.thread_time()
        op.damped(0.5).inverse()
        decompositions = time.thread_time() - start
        start = time.thread_time()
        for i in range(1000):
            op.damped(1.0 + i)
        assert time.thread_time() - start < decompositions

    def test_large_general_factors_are_solved_with_in_blocks(self):
        sizes = 128, 64, 32
        op = KroneckerSumOperator([general(n) for n in sizes])
        b = draw(*sizes)
        op.multiply_inverse(b)  # the Schur forms
        start = time.thread_time()
        x = op.multiply_inverse(b)
        assert time.thread_time() - start < 10
        error = np.linalg.norm(op.multiply(x) - b)
        assert error < 1e-13 * float(op.norm()) * np.linalg.norm(x)


def test_samples_need_each_factor_to_be_a_covariance_or_their_sum():
    op = KroneckerSumOperator([-0.5 * np.eye(2) + 0.1, definite(3)])
    draws = op.sample(np.random.default_rng(0), (50_000,))
    np.testing.assert_allclose(np.cov(draws.T), op.to_dense(), atol=0.1)
    assert float(op.eigh().eigenvalues[0]) > 0
    with pytest.raises(LinAlgError):
        (-op).sample(np.random.default_rng(0))


def test_the_frobenius_norm_of_factors_that_cancel():
    big = 1e9 * np.eye(3)
    a, b = np.diag([1.0, 2.0, 3.0]), np.diag([2.0, 5.0, 8.0])
    op = KroneckerSumOperator([a + big, b - big])
    assert float(op.norm()) == pytest.approx(np.linalg.norm(kron_sum(a, b)), rel=1e-6)


def test_solves_are_backward_stable():
    for make in (
        lambda n: second_difference(n) * n**2,
        lambda n: np.triu(draw(n, n)) + 2 * np.eye(n),  # condition numbers of 1e4 to 1e9
    ):
        op = KroneckerSumOperator([make(20), make(30)])
        b = draw(600)
        x = op.solve(b)
        bound = 10 * np.finfo(float).eps * 50 * float(op.norm(np.inf)) * np.abs(x).max()
        assert np.abs(op @ x - b).max() < bound


@pytest.mark.parametrize(("a", "b"), [(500.0, -800.0), (800.0, -800.0), (-300.0, 900.0)])
def test_exponentials_of_factors_out_of_range(a, b):
    """The exponentials of the factors are no floats; that of the sum is."""
    op = KroneckerSumOperator([np.diag([a, a + 1]), np.diag([b, b - 1])])
    want = np.exp([a + b, a + b - 1, a + b + 1, a + b])
    np.testing.assert_allclose(op.expm().diagonal(), want, rtol=1e-11)


def test_more_eigenvalues_than_memory_are_refused():
    op = KroneckerSumOperator([0.01 * np.eye(2)] * 70)
    for function in (op.logdet, lambda: op.norm(1)):
        with pytest.raises(ValueError, match="too many to be written out"):
            function()
    assert float(op.trace()) > 0


def test_the_frobenius_norm_has_derivatives_at_multiples_of_the_identity():
    torch = pytest.importorskip("torch")
    a = (2 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    KroneckerSumOperator([a, torch.eye(2, dtype=torch.float64)]).norm().backward()
    np.testing.assert_allclose(a.grad.numpy(), np.eye(3) * (2 / 3) ** 0.5, atol=1e-12)


class TestNearSingularity:
    """What eigenvectors lose to rounding is won back by one residual."""

    @staticmethod
    def draw(n, rng):
        basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
        made = (basis * np.geomspace(1.0, 1e-12, n)) @ basis.T
        return (made + made.T) / 2

    def test_is_no_worse_than_a_dense_solve(self):
        behind = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            op = kronops.KroneckerSumOperator([self.draw(8, rng), self.draw(6, rng)]).damped(1e-9)
            b = rng.standard_normal(48)
            want = op.solve(b, refine=True)
            errors = [abs(x - want).max() for x in (op.solve(b), np.linalg.solve(op.to_dense(), b))]
            behind.append(errors[0] / errors[1])
        assert np.median(behind) < 1  # 2.8 without the step
        assert "refined once" in op.inverse().inverse().explain()

    def test_residuals_out_of_range_do_no_harm(self):
        op = kronops.KroneckerSumOperator([np.diag([1e10, 1.0]), np.diag([1e10, -1e10])])
        with np.errstate(all="ignore"):
            x = op.damped(1.0).solve(np.full(4, 1e305))
        assert np.all(np.isfinite(x)) and x[3] == 1e305 / (2.0 - 1e10)
