"""Functions of operators: exponentials and logarithms, singular values and pseudo-inverses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg

import kronops
from kronops import (
    BlockDiagonalOperator,
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    LinAlgError,
    ProductOperator,
    ScaledOperator,
    kron,
)

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.standard_normal(shape)


def definite(n):
    a = draw(n, n)
    return a @ a.T / n + np.eye(n)


def of_rank(rank, m, n):
    return draw(m, rank) @ draw(rank, n)


A, B, C, D = definite(2), definite(3), draw(2, 2), draw(3, 3)
IDENTITY = IdentityOperator(6, like=A)
DIAGONAL = DiagonalOperator(np.arange(6.0))

# What is made of each, of which class, and the matrix that it should be.
EXPONENTIALS = {
    "sum": (KroneckerSumOperator([A, B]), KroneckerOperator),
    "general sum": (KroneckerSumOperator([C, D]), KroneckerOperator),
    "shifted sum": (KroneckerSumOperator([C, D]).damped(0.5), KroneckerOperator),
    "product": (kron(A, B), KroneckerEigenOperator),
    "damped": (kron(A, B).damped(0.5), KroneckerEigenOperator),
    "inverse": (kron(A, B).damped(0.5).inverse(), KroneckerEigenOperator),
    "diagonal": (DIAGONAL, DiagonalOperator),
    "blocks": (kronops.block_diag(A, D), BlockDiagonalOperator),
    "identity": (IDENTITY, ScaledOperator),
    "multiple of the identity": (-2.0 * IDENTITY, ScaledOperator),
    "dense": (DenseOperator(D), DenseOperator),
    "definite": (DenseOperator(B), DenseOperator),
}
LOGARITHMS = {
    "product": (kron(A, B), KroneckerSumOperator),
    "scaled product": (0.25 * kron(A, B), KroneckerSumOperator),
    "negative factors": (kron(-A, -B), KroneckerSumOperator),
    "inverse of a product": (kron(A, B).inverse(), KroneckerSumOperator),
    "sum": (KroneckerSumOperator([A, B]), KroneckerEigenOperator),
    "damped": (kron(A, B).damped(0.5), KroneckerEigenOperator),
    "diagonal": (DIAGONAL.damped(1.0), DiagonalOperator),
    "blocks": (kronops.block_diag(A, B), BlockDiagonalOperator),
    "multiple of the identity": (3.0 * IDENTITY, ScaledOperator),
    "dense": (DenseOperator(B), DenseOperator),
    "multiple of a matrix": (2.0 * DenseOperator(B), DenseOperator),
}


class TestExponential:
    @pytest.mark.parametrize("name", EXPONENTIALS)
    def test_of_every_structure(self, name):
        op, kind = EXPONENTIALS[name]
        made = op.expm()
        assert type(made) is kind
        np.testing.assert_allclose(
            made.to_dense(), scipy.linalg.expm(op.to_dense()), rtol=1e-12, atol=1e-12
        )

    def test_undoes_the_logarithm(self):
        op = 0.5 * kron(A, B, A)
        back = op.logm().expm()
        assert type(back) is KroneckerOperator
        np.testing.assert_allclose(back.to_dense(), op.to_dense(), rtol=1e-10, atol=1e-12)

    def test_of_a_heat_equation_with_large_eigenvalues(self):
        """The semigroup: two half steps are one, and nothing overflows on the way."""
        laplacian = 2 * np.eye(20) - np.eye(20, k=1) - np.eye(20, k=-1)
        step = (-500 * KroneckerSumOperator([laplacian, laplacian])).expm()
        half = (-250 * KroneckerSumOperator([laplacian, laplacian])).expm()
        x = draw(400)
        np.testing.assert_allclose(step @ x, half @ (half @ x), atol=1e-12)

    @pytest.mark.parametrize(
        "op",
        [
            DIAGONAL * 1e3,
            DenseOperator(B * 1e3),
            DenseOperator(np.array([[1e3, 1.0], [0.0, 1e3]])),
            kron(A, B) * 1e3,
            1e3 * IDENTITY,
        ],
        ids=["diagonal", "Hermitian", "general", "Kronecker", "identity"],
    )
    def test_overflow_is_an_error(self, op):
        with pytest.raises(OverflowError, match="range of"):
            op.expm()

    def test_needs_a_square_operator(self):
        for name in ("expm", "logm"):
            with pytest.raises(ValueError, match=f"{name} needs a square operator"):
                getattr(DenseOperator(draw(2, 3)), name)()


class TestLogarithm:
    @pytest.mark.parametrize("name", LOGARITHMS)
    def test_of_every_structure(self, name):
        op, kind = LOGARITHMS[name]
        made = op.logm()
        assert type(made) is kind
        np.testing.assert_allclose(
            scipy.linalg.expm(made.to_dense()), op.to_dense(), rtol=1e-10, atol=1e-12
        )

    @pytest.mark.parametrize(
        "op, words",
        [
            (DenseOperator(D), "is not symmetric.* logm"),
            (DenseOperator(B - 3 * np.eye(3)), "is not positive definite"),
            (DIAGONAL, "is not positive definite"),
            (kron(-A, B), "not positive definite"),
            (-2.0 * IDENTITY, "is not positive definite"),
        ],
        ids=["general", "indefinite", "singular", "negative", "identity"],
    )
    def test_refusals(self, op, words):
        with pytest.raises(LinAlgError, match=words):
            op.logm()


class TestPseudoInverse:
    @pytest.mark.parametrize("scale", [1.0, -2.5, 1e-8])
    def test_of_a_product_of_deficient_factors(self, scale):
        a, b = of_rank(2, 5, 3), of_rank(3, 4, 6)
        op = KroneckerOperator([a, b], scale)
        want = np.linalg.pinv(scale * np.kron(a, b))
        assert type(op.pinv()) is KroneckerOperator
        np.testing.assert_allclose(op.pinv().to_dense(), want, atol=1e-10 * np.abs(want).max())

    def test_one_decision_for_the_whole_product(self):
        """Each factor keeps what the product drops, and what the product keeps decides alone."""
        a, b = np.diag([1.0, 1e-9]), np.diag([1.0, 1e-9, 1e-3])
        op, dense = kron(a, b), np.kron(a, b)
        want = np.linalg.pinv(dense, rtol=6 * np.finfo(float).eps)
        assert np.linalg.matrix_rank(dense) == 5 < 6
        assert type(op.pinv()) is ProductOperator
        np.testing.assert_allclose(op.pinv().to_dense(), want, rtol=1e-12)

    @pytest.mark.parametrize("rtol", [0.0, 1e-4, 0.3, 0.6, 1.0])
    def test_at_any_tolerance(self, rtol):
        ops = {
            "product": kron(np.diag([1.0, 0.5, 0.0]), np.diag([3.0, 1.0])),
            "diagonal": DIAGONAL,
            "blocks": kronops.block_diag(A, 1e-3 * B, np.zeros((2, 2))),
            "damped": kron(A, B).damped(0.5),
            "sum": KroneckerSumOperator([A - 1, B]),
            "dense": DenseOperator(of_rank(2, 4, 5)),
            "scaled": -3 * DenseOperator(A),
            "identity": IDENTITY,
        }
        for op in ops.values():
            dense = op.to_dense()
            if rtol or np.linalg.matrix_rank(dense) == min(dense.shape):
                want = np.linalg.pinv(dense, rtol=rtol)
                np.testing.assert_allclose(
                    op.pinv(rtol).to_dense(), want, atol=1e-11 * np.abs(want).max()
                )

    def test_of_a_singular_laplacian_is_orthogonal_to_its_null_space(self):
        neumann = 2 * np.eye(8) - np.eye(8, k=1) - np.eye(8, k=-1)
        neumann[0, 0] = neumann[-1, -1] = 1
        op = KroneckerSumOperator([neumann, neumann])
        b = draw(64)
        x = op.lstsq(b)
        assert type(op.pinv()) is KroneckerEigenOperator
        np.testing.assert_allclose(op @ x, b - b.mean(), atol=1e-12)
        assert abs(x.mean()) < 1e-13

    def test_of_blocks_is_cut_by_the_largest_of_all(self):
        op = kronops.block_diag(np.diag([1.0, 1e-3]), 1e-20 * np.eye(2))
        np.testing.assert_array_equal(op.pinv().diagonal(), [1.0, 1e3, 0.0, 0.0])
        op = kronops.block_diag(np.diag([1e20, 1e10]), IdentityOperator(1, like=A))
        np.testing.assert_allclose(op.pinv().diagonal(), [1e-20, 1e-10, 0.0])

    @pytest.mark.parametrize("value", [-1.0, float("nan"), 1j, "1"])
    def test_refuses_other_tolerances(self, value):
        with pytest.raises((ValueError, TypeError), match="rtol"):
            DIAGONAL.pinv(value)

    def test_of_factors_too_large_to_write_out(self):
        a, b = of_rank(5, 60, 40), draw(50, 30)
        op = kron(a, b, a)
        x = op.lstsq(draw(op.shape[0]))  # in the row space
        np.testing.assert_allclose(op.lstsq(op @ x), x, atol=1e-8 * np.abs(x).max())


class TestLeastSquares:
    @pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
    def test_is_that_of_the_matrix(self, shape):
        a, b = draw(6, 3), draw(4, 2)
        right = draw(24) if not shape else draw(*shape[:-1], 24, shape[-1])
        want = np.linalg.pinv(np.kron(a, b)) @ right
        np.testing.assert_allclose(kron(a, b).lstsq(right), want, rtol=1e-10, atol=1e-12)

    def test_names_its_argument(self):
        with pytest.raises(ValueError, match=r"b has shape \(5,\)"):
            kron(A, B).lstsq(np.ones(5))


class TestSingularValues:
    @pytest.mark.parametrize(
        "op, left",
        [
            (kron(draw(4, 2), draw(3, 3)), ProductOperator),
            (DIAGONAL, ProductOperator),
            (DenseOperator(draw(3, 5)), DenseOperator),
            (-2 * kron(A, B).damped(0.5), ProductOperator),
            (KroneckerSumOperator([A, -B]), ProductOperator),
            (BlockDiagonalOperator([draw(3, 2), draw(4, 2)]), ProductOperator),
            (kron(A, C).inverse(), ProductOperator),
            (1j * kron(draw(1, 3), draw(3, 2), draw(2, 2)), ProductOperator),
        ],
        ids=["product", "diagonal", "wide", "damped", "sum", "blocks", "inverse", "unlike"],
    )
    def test_are_those_of_the_matrix_from_structure(self, op, left):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            u, s, vh = op.svd()
        dense = op.to_dense()
        np.testing.assert_allclose(s, np.linalg.svd(dense, compute_uv=False), rtol=1e-9, atol=1e-12)
        assert (
            type(u) is left
            and u.shape == (dense.shape[0], s.size)
            and vh.shape == (s.size, dense.shape[1])
        )
        np.testing.assert_allclose((u.to_dense() * s) @ vh.to_dense(), dense, atol=1e-11)

    def test_have_a_name_each(self):
        made = DIAGONAL.svd()
        np.testing.assert_array_equal(made.S, np.arange(6.0)[::-1])
        assert made.U is made[0] and made.Vh is made[2]

    def test_are_computed_once(self, monkeypatch):
        op, calls = kron(draw(3, 3), draw(2, 2)), []
        found = op.backend.svd
        monkeypatch.setattr(op.backend, "svd", lambda m: calls.append(m.shape) or found(m))
        op.svd(), op.pinv(), op.lstsq(np.ones(6)), op.pinv(1e-3)
        assert len(calls) == 2


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_pseudo_inverses_of_norms_out_of_range(size):
    tall = draw(3, 2)
    op, plain = kron(size * tall, size * tall), kron(tall, tall)
    b = draw(9)
    np.testing.assert_allclose(op.lstsq(size * b), plain.lstsq(b) / size, rtol=1e-10)
    square = definite(2)
    op = kron(size * square, size * square)
    np.testing.assert_allclose(op.pinv() @ (size * b[:4]), op.solve(size * b[:4]), rtol=1e-10)


def test_a_norm_out_of_range_that_a_rank_depends_on_is_an_error():
    unlike = 1e200 * np.diag([1.0, 1e-9])
    with pytest.raises(OverflowError, match="out of range"):
        kron(unlike, unlike).pinv()


def test_signs_of_factors_and_of_the_scale_are_one_sign():
    """Two negative ones make a positive one; what is left over makes no covariance."""
    negative = -2.0 * kron(-A, B)
    root = negative._root()
    np.testing.assert_allclose((root @ root.H).to_dense(), 2 * np.kron(A, B), rtol=1e-12)
    for op in (kron(-A, B), -kron(-A, -B), -1.0 * kron(A, B)):
        with pytest.raises(LinAlgError, match="not positive definite: the signs"):
            op.sample(np.random.default_rng(0))
