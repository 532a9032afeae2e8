"""Masks: what they may be, and systems that are solved by products alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import kronops
from kronops import DensificationWarning, LinAlgWarning, MaskedOperator, kron
from kronops.linalg import iterative_solve

rng = np.random.default_rng(0)


def definite(n):
    a = rng.standard_normal((n, n))
    return a @ a.T / n + 0.1 * np.eye(n)


K = kron(definite(9), definite(8)).damped(0.1)
MASK = rng.random((9, 8)) < 0.9
MASK[0, 0] = False
OP = K.masked(MASK)
N, LEFT_OUT = OP.shape[0], int(np.sum(~MASK))
B = rng.standard_normal(N)


def test_the_solution_by_products_is_the_solution():
    x, residual, iterations = iterative_solve(OP, B, rtol=1e-12)
    assert iterations <= LEFT_OUT + 2
    assert residual == pytest.approx(np.linalg.norm(B - OP @ x), rel=1e-3, abs=1e-14)
    assert residual <= 1e-12 * np.linalg.norm(B)
    np.testing.assert_allclose(x, np.linalg.solve(OP.to_dense(), B), rtol=1e-9)
    again = iterative_solve(OP, B, x)
    assert again.iterations == 0


def test_too_few_iterations_are_no_silent_answer():
    with pytest.warns(LinAlgWarning, match="after 2 iterations with a residual of"):
        x, residual, iterations = iterative_solve(OP, B, rtol=1e-12, maxiter=2)
    assert iterations == 2
    assert residual == pytest.approx(np.linalg.norm(B - OP @ x))


def test_systems_in_extreme_units():
    """The vectors are brought near one; ``residual`` is in the units of ``b`` all the same."""
    for unit in (1e-200, 1e200):
        x, residual, _ = iterative_solve(OP, unit * B, rtol=1e-10)
        assert residual <= 1e-10 * np.linalg.norm(B) * unit
        np.testing.assert_allclose(x / unit, np.linalg.solve(OP.to_dense(), B), rtol=1e-7)


def test_where_nothing_is_left_out_the_inverse_preconditions():
    b = np.arange(1.0, K.shape[0] + 1)
    x, residual, iterations = iterative_solve(K.masked(np.ones(K.shape[0], bool)), b, rtol=1e-10)
    assert iterations <= 2 and residual <= 1e-10 * np.linalg.norm(b)
    np.testing.assert_allclose(K @ x, b, rtol=1e-8)
    with pytest.raises(TypeError, match=r"op is a ndarray: an operator is needed"):
        iterative_solve(K.to_dense(), b)


def test_the_exact_solve_is_by_the_matrix_and_says_so():
    op = K.masked(MASK)
    with pytest.warns(DensificationWarning):
        x = op.solve(B)
    np.testing.assert_allclose(op @ x, B, rtol=1e-10)


def test_draws_are_some_coordinates_of_those_of_the_base():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = OP.sample(np.random.default_rng(1), (3,))
    whole = K.sample(np.random.default_rng(1), (3,))
    np.testing.assert_array_equal(draws, whole[:, MASK.ravel()])


def test_a_base_that_is_no_covariance():
    indefinite = kron(np.diag([1.0, -1.0]), definite(2)).masked(np.asarray([1, 1, 0, 0]) > 0)
    with pytest.warns(DensificationWarning):
        assert indefinite.sample(np.random.default_rng(0), (5,)).shape == (5, 2)


@pytest.mark.parametrize(
    "mask, error, message",
    [
        (np.ones((8, 9), bool), ValueError, r"mask has shape \(8, 9\): \(9, 8\) or \(72,\) would"),
        (np.ones(72), TypeError, "mask has dtype float64: a boolean array"),
        ([True] * 72, TypeError, "mask is a list"),
    ],
)
def test_what_is_no_mask_is_refused(mask, error, message):
    with pytest.raises(error, match=message):
        K.masked(mask)
    with pytest.raises(error, match=message):
        MaskedOperator(K, mask)


def test_a_mask_needs_a_square_operator():
    with pytest.raises(ValueError, match="a mask needs a square operator"):
        kron(np.ones((2, 3)), np.ones((3, 3))).masked(np.ones((3, 3), bool))
    with pytest.raises(TypeError, match="base is a ndarray"):
        MaskedOperator(np.eye(2), np.ones(2, bool))


def test_a_diagonal_in_pytorchs_layout():
    op = kronops.DiagonalOperator(rng.standard_normal((2, 3)), layout="out,in")
    part = op.masked(np.arange(6) > 2)
    np.testing.assert_array_equal(part.diagonal(), op.diagonal()[3:])
    with pytest.raises(ValueError, match="what would do"):
        part.multiply(np.ones((3, 2)))


def test_nothing_and_blocks():
    assert K.masked(np.zeros((9, 8), bool)).shape == (0, 0)
    blocks = kronops.BlockDiagonalOperator({"a": definite(2), "b": definite(1)})
    op = blocks.masked(np.asarray([True, False, True]))
    np.testing.assert_allclose(op.to_dense(), blocks.to_dense()[::2, ::2])
    with pytest.raises(ValueError, match=r"mask has shape \(2,\): \(3,\) would do"):
        blocks.masked(np.asarray([True, False]))


def test_a_mask_that_cannot_be_seen():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    with pytest.raises(TypeError, match="its values decide the shape"):
        jax.jit(lambda mask: K.masked(mask).trace())(MASK)


def test_a_mask_is_no_variable():
    """The operator passes through jit and grad, its positions among the leaves."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    a, b = (jax.numpy.asarray(definite(n), np.float32) for n in (3, 2))
    op = kron(a, b).masked(np.arange(6) != 2)
    made = jax.jit(lambda op, x: op @ x)(op, jax.numpy.ones(5))
    np.testing.assert_allclose(made, op @ jax.numpy.ones(5), rtol=1e-6)
    got = jax.grad(lambda a: kron(a, b).masked(np.arange(6) != 2).trace())(a)
    np.testing.assert_allclose(got, np.diag([np.trace(b), b[1, 1], np.trace(b)]), rtol=1e-6)
