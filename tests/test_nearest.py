"""The nearest Kronecker products: optimal, definite where they should be, by every way."""

from __future__ import annotations

import numpy as np
import pytest

import kronops
from kronops import DiagonalOperator, KroneckerOperator, kron, nearest_kronecker

rng = np.random.default_rng(0)
SHAPES = [(3, 2), (2, 4)]


def definite(n):
    a = rng.standard_normal((n, n))
    return a @ a.T / n + 0.1 * np.eye(n)


def rearranged(matrix, shapes):
    (m1, n1), (m2, n2) = shapes
    split = matrix.reshape(m1, m2, n1, n2).transpose(0, 2, 1, 3)
    return split.reshape(m1 * n1, m2 * n2)


def distance(matrix, op):
    return np.linalg.norm(matrix - op.to_dense())


class TestTwoFactors:
    @pytest.mark.parametrize("terms", [1, 2, 3])
    def test_is_optimal(self, terms):
        matrix = rng.standard_normal((6, 8)) + 1j * rng.standard_normal((6, 8))
        op, error = nearest_kronecker(matrix, SHAPES, terms)
        values = np.linalg.svd(rearranged(matrix, SHAPES), compute_uv=False)
        assert error == pytest.approx(np.linalg.norm(values[terms:]), rel=1e-12)
        assert distance(matrix, op) == pytest.approx(error, rel=1e-12)

    def test_of_a_kronecker_product_nothing_is_left(self):
        a, b = rng.standard_normal((3, 2)), rng.standard_normal((2, 4))
        op, error = nearest_kronecker(np.kron(a, b), SHAPES)
        assert error < 1e-14 * np.linalg.norm(np.kron(a, b))
        np.testing.assert_allclose(op.to_dense(), np.kron(a, b), atol=1e-14)

    def test_more_terms_than_there_are(self):
        matrix = rng.standard_normal((4, 4))
        op, error = nearest_kronecker(matrix, [(2, 2), (2, 2)], 100)
        np.testing.assert_allclose(op.to_dense(), matrix, atol=1e-14)
        assert error == 0

    def test_nothing(self):
        op, error = nearest_kronecker(np.zeros((6, 8)), SHAPES)
        assert error == 0
        np.testing.assert_array_equal(op.to_dense(), np.zeros((6, 8)))


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e307])
def test_of_a_scale_at_the_ends_of_the_range(scale):
    """The power of two that brings it near one may be no float itself."""
    a, b = rng.integers(-3, 4, (3, 2)) + 0.0, rng.integers(-3, 4, (2, 4)) + 0.0
    op, error = nearest_kronecker(KroneckerOperator([a, b], scale=scale), SHAPES)
    want = scale * np.kron(a, b)
    np.testing.assert_allclose(op.to_dense(), want, rtol=1e-12, atol=5e-324)
    assert error <= 1e-14 * np.max(np.abs(want))


@pytest.mark.parametrize("sizes", [(4, 3), (2, 3, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_definite_matrices_have_definite_factors(sizes, dtype):
    n = int(np.prod(sizes))
    for _ in range(20):
        root = rng.standard_normal((n, n)).astype(dtype)
        if dtype is np.complex128:
            root += 1j * rng.standard_normal((n, n))
        matrix = root @ root.conj().T + 1e-3 * np.eye(n)
        op, _ = nearest_kronecker(matrix, [(k, k) for k in sizes])
        for factor in op.factors:
            assert factor.hermitian
            assert np.linalg.eigvalsh(factor.matrix)[0] > 0


class TestManyFactors:
    def test_of_a_kronecker_product_nothing_is_left(self):
        parts = [rng.standard_normal((m, n)) for m, n in ((2, 3), (3, 1), (2, 2))]
        matrix = kron(*parts).to_dense()
        op, error = nearest_kronecker(matrix, [part.shape for part in parts])
        assert error < 1e-13 * np.linalg.norm(matrix)
        assert distance(matrix, op) == pytest.approx(error, abs=1e-14)

    def test_no_factor_can_be_better_while_the_others_stay(self):
        matrix = rng.standard_normal((12, 12))
        op, error = nearest_kronecker(matrix, [(2, 2), (3, 3), (2, 2)])
        assert distance(matrix, op) == pytest.approx(error, rel=1e-12)
        for k in range(3):
            for _ in range(5):
                factors = [factor.matrix.copy() for factor in op.factors]
                factors[k] += 1e-3 * rng.standard_normal(factors[k].shape)
                assert distance(matrix, kron(*factors)) > error

    def test_each_term_leaves_less(self):
        matrix, shapes = rng.standard_normal((8, 8)), [(2, 2)] * 3
        made = [nearest_kronecker(matrix, shapes, terms) for terms in (1, 2, 3)]
        errors = [float(error) for _, error in made]
        assert errors[0] > errors[1] > errors[2]
        assert distance(matrix, made[2].operator) == pytest.approx(errors[2], rel=1e-12)


class TestOperators:
    def test_sums_of_products_are_not_written_out(self, monkeypatch):
        monkeypatch.setattr(kronops.LinearOperator, "to_dense", None)
        a, b, c, d = (definite(n) for n in (4, 3, 4, 3))
        total = 2 * kron(a, b) - kron(c, d)
        matrix = 2 * np.kron(a, b) - np.kron(c, d)
        for op, want in (
            (total, matrix),
            (total + 0.5 * kronops.IdentityOperator(12, like=a), matrix + 0.5 * np.eye(12)),
            (-3 * total, -3 * matrix),
            (kron(a, b).damped(0.3), np.kron(a, b) + 0.3 * np.eye(12)),
            (kron(a + np.triu(a), b).damped(0.3), np.kron(a + np.triu(a), b) + 0.3 * np.eye(12)),
        ):
            _, error = nearest_kronecker(op, [(4, 4), (3, 3)])
            expected = nearest_kronecker(want, [(4, 4), (3, 3)]).error
            assert error == pytest.approx(expected, rel=1e-10)
            _, error = nearest_kronecker(op, [(4, 4), (3, 3)], terms=3)
            assert error < 1e-13

    def test_three_factors(self):
        parts = [[definite(n) for n in (2, 3, 2)] for _ in range(2)]
        op = kron(*parts[0]) + kron(*parts[1])
        shapes = [(n, n) for n in (2, 3, 2)]
        found, error = nearest_kronecker(op, shapes)
        assert error == pytest.approx(nearest_kronecker(op.to_dense(), shapes).error, rel=1e-10)
        assert distance(op.to_dense(), found) == pytest.approx(error, rel=1e-10)

    @pytest.mark.parametrize("terms", [1, 2])
    def test_others_by_products_alone(self, terms, monkeypatch):
        a, b = rng.standard_normal((3, 2)), rng.standard_normal((2, 4))
        op = kron(a, b) @ DiagonalOperator(rng.uniform(1, 2, 8)) @ kron(np.eye(2), b.T @ b)
        want = nearest_kronecker(op.to_dense(), SHAPES, terms)
        monkeypatch.setattr(kronops.LinearOperator, "to_dense", None)
        found, error = nearest_kronecker(1j * op, SHAPES, terms)
        assert error == pytest.approx(want.error, rel=1e-8)
        monkeypatch.undo()
        assert distance(1j * op.to_dense(), found) == pytest.approx(error, rel=1e-10)

    def test_an_operator_beside_its_spectrum_alone(self):
        """The inverse of a damped product is no short sum of products."""
        op = kron(definite(4), definite(3)).damped(0.3).inverse()
        found, error = nearest_kronecker(op, [(4, 4), (3, 3)])
        expected = nearest_kronecker(op.to_dense(), [(4, 4), (3, 3)]).error
        assert error == pytest.approx(expected, rel=1e-8)
        assert all(np.linalg.eigvalsh(factor.matrix)[0] > 0 for factor in found.factors)


@pytest.mark.parametrize("name", ["array_api_strict", "torch", "jax.numpy"])
def test_every_library(name):
    xp = pytest.importorskip(name, reason=f"{name} is not installed")
    matrix = definite(6).astype(np.float32)
    for shapes in ([(3, 3), (2, 2)], [(3, 3), (2, 2), (1, 1)]):
        op, error = nearest_kronecker(xp.asarray(matrix), shapes)
        want = nearest_kronecker(matrix, shapes)
        assert type(op) is KroneckerOperator and error.dtype == xp.float32
        np.testing.assert_allclose(
            op.backend.to_numpy(op.to_dense()), want.operator.to_dense(), atol=1e-5
        )


def test_two_factors_under_jit():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    matrix = jax.numpy.asarray(definite(6), np.float32)
    shapes = [(3, 3), (2, 2)]
    made, error = jax.jit(lambda m: tuple(nearest_kronecker(m, shapes)))(matrix)
    assert error == pytest.approx(float(nearest_kronecker(matrix, shapes).error), rel=1e-4)
    assert isinstance(made, KroneckerOperator)
    with pytest.raises(TypeError, match="cannot be seen"):
        jax.jit(lambda m: nearest_kronecker(m, [(3, 3), (2, 2), (1, 1)])[1])(matrix)


@pytest.mark.parametrize(
    "shapes, terms, error, message",
    [
        ([(3, 2), (2, 3)], 1, ValueError, r"of shape \(6, 6\), the one given is \(6, 8\)"),
        ([(6, 8)], 1, ValueError, "two factors or more"),
        ([(-3, 2), (-2, 4)], 1, ValueError, "sizes ≥ 1"),
        ([3, 2], 1, TypeError, "pairs"),
        ([(3.0, 2), (2, 4)], 1, TypeError, "pairs"),
        (SHAPES, 0, ValueError, "terms = 0: an integer ≥ 1"),
        (SHAPES, 1.5, TypeError, r"terms = 1\.5: an integer"),
    ],
)
def test_what_does_not_fit_is_refused(shapes, terms, error, message):
    with pytest.raises(error, match=message):
        nearest_kronecker(rng.standard_normal((6, 8)), shapes, terms)


@pytest.mark.parametrize("size", [1e-160, 1e160])
def test_factors_of_any_size(size):
    a, b = rng.standard_normal((2, 2, 2))
    for power in (-1.25, -1.875):  # the product is out of the range of squares, and is not
        op = kron(size * a, size * b) * size**power
        found, error = nearest_kronecker(op, [(2, 2), (2, 2)])
        want, unit = op.to_dense(), size ** (2 + power)
        assert float(error) <= 1e-14 * np.abs(want).max()
        np.testing.assert_allclose(found.to_dense() / unit, want / unit, atol=1e-13)


def test_operators_whose_squares_are_out_of_range():
    a, b = rng.standard_normal((2, 3, 3))
    op = kronops.KroneckerSumOperator([a, b])
    large, error = nearest_kronecker(1e200 * op, [(3, 3), (3, 3)])
    plain, small_error = nearest_kronecker(op, [(3, 3), (3, 3)])
    assert float(error) == pytest.approx(1e200 * float(small_error), rel=1e-10)
    np.testing.assert_allclose(large.to_dense() / 1e200, plain.to_dense(), atol=1e-10)
