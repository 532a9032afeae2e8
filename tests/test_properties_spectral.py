"""Functions of random operators beside those of their matrices, and by which identity."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume
from hypothesis import strategies as st
from instances import close, covariance, factors_of, given, kron, makers, said, shapes, sizes
from zoo import kron_sum

import kronops
from kronops import (
    KroneckerEigenOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    LowRankUpdateOperator,
)
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.low_rank_update import LowRankInverseOperator

dampings = st.floats(1e-3, 10)
powers = st.floats(-2, 2)


def function(values, vectors, f):
    """The function of a Hermitian matrix."""
    return (vectors * f(values)) @ vectors.conj().T


def check_functions(make, op, want, p):
    """Functions of a positive definite operator, by one eigendecomposition of its matrix."""
    values, vectors = np.linalg.eigh(want)
    b = make.draw(len(want), 2)
    close(op, want)
    close(op.solve(make(b)), function(values, vectors, np.reciprocal) @ b, 1e-8)
    close(op.logdet(), np.sum(np.log(values)), 1e-8) if abs(np.sum(np.log(values))) > 1e-2 else None
    close(op.power(p), function(values, vectors, lambda v: v**p), 1e-8)
    close(op.sqrt(), function(values, vectors, np.sqrt))
    close(op.expm(), function(values, vectors, np.exp), 1e-8)
    close(op.eigh().eigenvalues, values)
    check_numbers(op, want)
    close(covariance(op), want)


def check_numbers(op, want):
    close(op.diagonal(), np.diagonal(want))
    close(op.trace(), np.trace(want))
    close(op.norm(), np.linalg.norm(want))


def check_general(make, op, want):
    """What needs no symmetry."""
    b = make.draw(len(want), 2)
    close(op, want)
    close(op.H, want.conj().T)
    close(op.solve(make(b)), np.linalg.solve(want, b), 1e-7)
    sign, logabsdet = np.linalg.slogdet(want)
    close(op.slogdet().sign, sign, 1e-7)
    assert float(op.slogdet().logabsdet) == pytest.approx(logabsdet, abs=1e-8, rel=1e-8)
    check_numbers(op, want)


# -- c · A ⊗ B ⊗ … + λ I ---------------------------------------------------------------------------


@given(makers, sizes, st.floats(0.1, 2), powers)
def test_definite_products(make, sizes, scale, p):
    factors = factors_of(make, sizes, "definite")
    op = KroneckerOperator(list(map(make, factors)), scale)
    want = scale * kron(*factors)
    values, vectors = np.linalg.eigh(want)
    assume(values[-1] < 100)
    check_functions(make, op, want, p)
    for made in (op.inverse(), op.power(p), op.sqrt(), op.cholesky()):
        assert type(made) is KroneckerOperator or p in (0, 1)
    assert type(op.logm()) is KroneckerSumOperator
    np.testing.assert_allclose(
        make.round(op.logm().to_dense()), function(values, vectors, np.log), atol=1e-8
    )
    lower = make.round(op.cholesky().to_dense())
    close(lower @ lower.conj().T, want)
    assert np.all(np.triu(lower, 1) == 0)
    assert said(op, "multiply_inverse").startswith("multiply_inverse: (A ⊗ B)⁻¹ = A⁻¹ ⊗ B⁻¹")


@given(makers, sizes, st.floats(0.1, 2), dampings, powers)
def test_damped_definite_products(make, sizes, scale, value, p):
    factors = factors_of(make, sizes, "definite")
    base = KroneckerOperator(list(map(make, factors)), scale)
    op = base.damped(value)
    want = scale * kron(*factors) + value * np.eye(len(kron(*factors)))
    assume(np.linalg.norm(want, 2) < 100)
    check_functions(make, op, want, p)
    close(op.norm(2), np.linalg.norm(want, 2))
    close(op.norm("nuc"), np.linalg.norm(want, "nuc"))
    assert type(op) is type(op.inverse()) is type(op.power(2.5)) is KroneckerEigenOperator
    assert type(op.sqrt()) is type(op.expm()) is KroneckerEigenOperator
    again = base.damped(2 * value)
    assert all(a is b for a, b in zip(again.bases, op.bases, strict=True))
    assert "Q diag(1 / λ) Qᴴ x" in said(op, "multiply_inverse")
    assert "the sum of log |λ|" in said(op, "logdet")


@given(makers, sizes, st.floats(-2, 2), dampings, st.integers(-3, 3))
def test_damped_symmetric_products(make, sizes, scale, value, p):
    """Indefinite ones, too."""
    factors = factors_of(make, sizes, "symmetric")
    want = scale * kron(*factors) + value * np.eye(len(kron(*factors)))
    assume(abs(scale) > 0.1 and np.linalg.cond(want) < 1e6)
    op = KroneckerOperator(list(map(make, factors)), scale).damped(value)
    check_general(make, op, want)
    close(op.power(p), np.linalg.matrix_power(want, p), 1e-7)
    values, vectors = op.eigh()
    close(values, np.linalg.eigvalsh(want))
    basis = make.round(vectors.to_dense())
    close(make.round(values)[None, :].real * basis, want @ basis, 1e-8)
    assert type(op) is KroneckerEigenOperator


@given(makers, sizes, st.floats(0.1, 2), dampings)
def test_damped_general_products(make, sizes, scale, value):
    """By Schur forms, but for factors of one row."""
    factors = factors_of(make, sizes, "general")
    want = scale * kron(*factors) + value * np.eye(len(kron(*factors)))
    assume(np.linalg.cond(want) < 1e8)
    op = KroneckerOperator(list(map(make, factors)), scale).damped(value)
    check_general(make, op, want)
    if max(sizes) > 1:
        assert type(op) is KroneckerSchurOperator and "Schur" in said(op, "multiply_inverse")


# -- Kronecker sums --------------------------------------------------------------------------------


@given(makers, sizes, st.floats(0.1, 2), st.floats(0, 3), powers)
def test_definite_sums(make, sizes, scale, shift, p):
    factors = factors_of(make, sizes, "definite")
    want = scale * (kron_sum(*factors) + shift * np.eye(np.prod(sizes)))
    assume(np.linalg.norm(want, 2) < 50)
    op = scale * KroneckerSumOperator(list(map(make, factors))).damped(shift)
    check_functions(make, op, want, p)
    close(op.norm(2), np.linalg.norm(want, 2))
    close(op.norm("nuc"), np.linalg.norm(want, "nuc"))
    assert type(op) is KroneckerSumOperator and type(op.expm()) is KroneckerOperator
    assert type(op.inverse()) is type(op.sqrt()) is KroneckerEigenOperator
    assert "the fast diagonalisation" in said(op, "multiply_inverse")


@given(makers, sizes, st.sampled_from(["general", "symmetric"]), st.floats(0, 3))
def test_sums(make, sizes, kind, shift):
    """Of general factors by Schur forms."""
    factors = factors_of(make, sizes, kind)
    want = -2 * (kron_sum(*factors) + shift * np.eye(np.prod(sizes)))
    assume(np.linalg.cond(want) < 1e6)
    op = -2 * KroneckerSumOperator(list(map(make, factors))).damped(shift)
    check_general(make, op, want)
    for ord in (1, np.inf):
        close(op.norm(ord), np.linalg.norm(want, ord))
    way = "the fast diagonalisation" if op.hermitian else "Schur"
    assert way in said(op, "multiply_inverse")


@given(makers, sizes, st.sampled_from(["general", "symmetric"]), st.floats(-1, 1))
def test_exponentials_of_sums_are_products(make, sizes, kind, scalar):
    factors = [make.round(m / max(sizes)) for m in factors_of(make, sizes, kind)]
    op = scalar * KroneckerSumOperator(list(map(make, factors)))
    made = op.expm()
    assert type(made) is KroneckerOperator
    close(made, scipy.linalg.expm(scalar * kron_sum(*factors)))
    if kind == "symmetric":
        assert type(made.logm()) is KroneckerSumOperator
        np.testing.assert_allclose(
            make.round(made.logm().to_dense()), scalar * kron_sum(*factors), atol=1e-8
        )


# -- singular values -------------------------------------------------------------------------------


@given(makers, shapes())
def test_singular_values(make, shapes):
    """By factors; where some are tall and some are wide, with vectors of zeros."""
    factors = [make.draw(*shape) for shape in shapes]
    want = kron(*factors)
    values = np.linalg.svd(want, compute_uv=False)
    op = kronops.kron(*map(make, factors))
    u, s, vh = op.svd()
    close(s, values)
    left, right = make.round(u.to_dense()), make.round(vh.to_dense())
    close((left * values) @ right, want)
    close(left.conj().T @ left, np.eye(len(values)))
    close(right @ right.conj().T, np.eye(len(values)))
    close(op.norm(2), values[0])
    close(op.norm("nuc"), np.sum(values))
    for ord in (1, np.inf, "fro"):
        close(op.norm(ord), np.linalg.norm(want, ord))


@given(makers, st.data())
def test_pseudo_inverses_of_any_shape_and_rank(make, data):
    ranks = [(m, data.draw(st.integers(0, min(m, n))), n) for m, n in data.draw(shapes())]
    factors = [make.round(make.draw(m, r) @ make.draw(r, n)) for m, r, n in ranks]
    want = kron(*factors)
    values = np.linalg.svd(want, compute_uv=False)
    assume(not np.any((values > 1e-13 * values[0]) & (values < 1e-6 * values[0])))
    op = kronops.kron(*map(make, factors))
    inverse = np.linalg.pinv(want, rtol=1e-10)
    made = op.pinv(1e-10)
    close(made, inverse, 1e-7)
    b = make.draw(want.shape[0])
    close(op.lstsq(make(b), 1e-10), inverse @ b, 1e-6)
    assert type(made) is KroneckerOperator or not np.any(want)


@given(makers, sizes, st.floats(1e-3, 0.5))
def test_pseudo_inverses_make_one_decision(make, sizes, rtol):
    """What is dropped is small beside the largest of the operator, not of each factor."""
    factors = factors_of(make, sizes, "symmetric")
    want = kron(*factors)
    values = np.linalg.svd(want, compute_uv=False)
    assume(np.min(np.abs(values / values[0] - rtol)) > 1e-9)
    op = kronops.kron(*map(make, factors))
    close(op.pinv(rtol), np.linalg.pinv(want, rtol=rtol), 1e-8)


# -- updates of low rank ---------------------------------------------------------------------------


@given(makers, sizes, st.sampled_from(["general", "definite"]), st.integers(0, 3), st.booleans())
def test_updates_of_low_rank(make, sizes, kind, rank, one_sided):
    """By Woodbury's identity, of singular middle matrices too."""
    factors = factors_of(make, sizes, kind)
    base = kron(*factors)
    u, v = (make.draw(len(base), rank) for _ in range(2))
    v = u if one_sided else v
    c = make.draw(rank, 1) @ make.draw(1, rank)
    want = base + u @ c @ v.conj().T
    assume(np.linalg.cond(base) < 1e6 and np.linalg.cond(want) < 1e6)
    op = LowRankUpdateOperator(
        kronops.kron(*map(make, factors)), make(u), make(c), None if one_sided else make(v)
    )
    close(op, want)
    close(op.T, want.T)
    close(op.trace(), np.trace(want))
    close(op.diagonal(), np.diagonal(want))
    close(op.slogdet().logabsdet, np.linalg.slogdet(want)[1], 1e-8)
    inverse = np.linalg.inv(want)
    close(op.inverse(), inverse, 1e-7)
    close(op.inverse().diagonal(), np.diagonal(inverse), 1e-7)
    assert type(op.inverse()) is LowRankInverseOperator
    assert type(op.inverse().base) is KroneckerOperator
    way = said(op, "multiply_inverse")
    assert "Woodbury" in way and "A⁻¹ ⊗ B⁻¹" in way
    if kind == "definite":
        b, damped = make.draw(len(want)), want + 0.5 * np.eye(len(want))
        assume(np.linalg.cond(damped) < 1e6)
        close(op.damped(0.5).solve(make(b)), np.linalg.solve(damped, b), 1e-7)
        assert type(op.damped(0.5).base) is KroneckerEigenOperator


# -- the nearest -----------------------------------------------------------------------------------


def rearranged(matrix, shapes):
    """Van Loan and Pitsianis's: of a Kronecker product of two it has rank one."""
    (m1, n1), (m2, n2) = shapes
    split = matrix.reshape(m1, m2, n1, n2).transpose(0, 2, 1, 3)
    return split.reshape(m1 * n1, m2 * n2)


@given(makers, shapes(2, 2), st.integers(1, 3))
def test_the_nearest_sum_of_products_of_two_is_optimal(make, shapes, terms):
    rows, columns = (int(np.prod([shape[axis] for shape in shapes])) for axis in (0, 1))
    matrix = make.draw(rows, columns)
    op, error = kronops.nearest_kronecker(make(matrix), shapes, terms)
    values = np.linalg.svd(rearranged(matrix, shapes), compute_uv=False)
    left_out = np.linalg.norm(values[terms:])
    scale = np.linalg.norm(matrix)
    assert float(error) == pytest.approx(left_out, abs=1e-10 * scale)
    assert np.linalg.norm(make.round(op.to_dense()) - matrix) == pytest.approx(
        left_out, abs=1e-10 * scale
    )
    if terms == 1:
        assert type(op) is KroneckerOperator and tuple(f.shape for f in op.factors) == (*shapes,)


@given(makers, shapes(2, 4), st.sampled_from([-2.0, 1e-3, 1.0, 1e150]))
def test_the_nearest_to_a_product_is_the_product(make, shapes, scale):
    factors = [make.draw(*shape) for shape in shapes]
    want = scale * kron(*factors)
    given = KroneckerOperator(list(map(make, factors)), scale)
    for matrix in (given, make(want)):
        op, error = kronops.nearest_kronecker(matrix, shapes)
        assert type(op) is KroneckerOperator
        close(op, want, 1e-8)
        assert float(error) <= 1e-8 * np.linalg.norm(want)
