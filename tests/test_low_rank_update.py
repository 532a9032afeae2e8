"""Updates of low rank: what Woodbury's identity loses, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import kronops
from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    LinAlgError,
    LinAlgWarning,
    LowRankUpdateOperator,
    kron,
)

rng = np.random.default_rng(0)
E = np.eye(4)[:, :1]
IDENTITY = IdentityOperator(4, like=np.zeros(1))


def backward_error(op, b):
    matrix, x = op.to_dense(), op.solve(b)
    size = np.linalg.norm(matrix, 2) * np.linalg.norm(x) + np.linalg.norm(b)
    return np.linalg.norm(matrix @ x - b) / size


@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
@pytest.mark.parametrize("small", [1.0, 0.25, 0.5])
def test_solves_are_backward_stable(small, dtype):
    """The base is as ill-conditioned as a power of eps; the update makes up for that."""
    eps = np.finfo(dtype).eps
    for n in (6, 30):
        diagonal = np.ones(n, dtype)
        diagonal[:2] = eps ** (1 - small) if small < 1 else 1
        u = (0.01 * rng.standard_normal((n, 2))).astype(dtype)
        u[:2] += 2 * np.eye(2)
        op = LowRankUpdateOperator(DiagonalOperator(diagonal), u)
        b = rng.standard_normal(n).astype(dtype)
        assert backward_error(op, b) <= 10 * eps * n


def test_what_cannot_be_refined_is_refused():
    base = DiagonalOperator(np.asarray([1e-25, 1.0, 1.0, 1.0]))
    op = LowRankUpdateOperator(base, E + 0.01)
    with pytest.raises(LinAlgError, match=r"backward error .* nearly singular; damp the base"):
        op.solve(rng.standard_normal(4))


def test_what_is_not_finite_is_no_error():
    op = LowRankUpdateOperator(IDENTITY, E)
    assert np.isnan(op.solve(np.asarray([np.nan, 0, 0, 1]))[0])


def test_the_inverse_goes_through_jit():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    u = jax.numpy.asarray(rng.standard_normal((4, 2)), np.float32)
    base = DiagonalOperator(jax.numpy.arange(1.0, 5.0))
    inverse, b = LowRankUpdateOperator(base, u).inverse(), jax.numpy.ones(4)
    made = jax.jit(lambda op, b: (op @ b, op.inverse() @ b, op.H @ b, op.trace()))(inverse, b)
    want = inverse @ b, inverse.inverse() @ b, inverse @ b, inverse.trace()
    for one, other in zip(made, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_a_singular_base_is_named():
    for base in (np.ones((4, 4)), DiagonalOperator(np.asarray([1.0, 0.0, 2.0, 3.0]))):
        op = LowRankUpdateOperator(base, E)
        for call in (op.inverse, op.slogdet, lambda op=op: op.solve(np.ones(4))):
            with pytest.raises(LinAlgError, match="add damping to the base of the low-rank"):
                call()


def test_an_update_that_takes_away_a_dimension():
    op = LowRankUpdateOperator(IDENTITY, E, -np.eye(1))
    with pytest.raises(LinAlgError, match=r"update .* is singular"):
        op.solve(np.ones(4))
    assert op.slogdet() == (0, -np.inf)


def test_an_update_that_nearly_takes_away_a_dimension():
    near = LowRankUpdateOperator(IDENTITY, 1e9 * E, np.full((1, 1), -1e-18 * (1 - 1e-15)))
    with pytest.warns(LinAlgWarning, match="relative to its base"):
        near.solve(np.ones(4))


def test_a_claim_or_the_values_make_it_hermitian():
    u = rng.standard_normal((4, 2)) + 1j
    skew = np.asarray([[0.0, 1.0], [-1.0, 0.0]])
    assert LowRankUpdateOperator(IDENTITY, u).hermitian
    assert LowRankUpdateOperator(IDENTITY, u, skew @ skew).hermitian
    assert not LowRankUpdateOperator(IDENTITY, u, skew).hermitian
    assert not LowRankUpdateOperator(IDENTITY, u, v=u).hermitian
    assert LowRankUpdateOperator(IDENTITY, u).inverse().hermitian


def test_draws_are_of_both_terms():
    base = kron(np.eye(2), np.asarray([[2.0, 1.0], [1.0, 2.0]]))
    op = LowRankUpdateOperator(base, rng.standard_normal((4, 2)))
    for inverse, want in ((False, op.to_dense()), (True, np.linalg.inv(op.to_dense()))):
        draws = op.sample(np.random.default_rng(0), (40_000,), inverse=inverse)
        np.testing.assert_allclose(np.cov(draws.T), want, atol=0.03 * want.max())
    draws = op.inverse().sample(np.random.default_rng(0), (40_000,))
    np.testing.assert_allclose(np.cov(draws.T), want, atol=0.03 * want.max())


def test_a_rectangular_base():
    base, u, v = (rng.standard_normal(shape) for shape in ((3, 4), (3, 2), (4, 2)))
    op = LowRankUpdateOperator(base, u, v=v)
    np.testing.assert_allclose(op.to_dense(), base + u @ v.T)
    np.testing.assert_allclose(op.H @ np.eye(3), (base + u @ v.T).T)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"u": np.ones((3, 1))}, r"u has shape \(3, 1\): \(4, 1\) would do"),
        ({"u": E, "c": np.eye(2)}, r"c has shape \(2, 2\): \(1, 1\) would do"),
        ({"u": E, "v": np.ones((4, 2))}, r"v has shape \(4, 2\): \(4, 1\) would do"),
        ({"u": np.ones(4)}, r"u has shape \(4,\): a matrix with two axes"),
        ({"u": np.full((4, 1), np.inf)}, "u has NaN or infinite"),
        ({"u": E, "base": np.full((4, 4), np.nan)}, "base has NaN"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LowRankUpdateOperator(**({"base": IDENTITY} | arguments))


def test_without_v_the_base_is_square():
    with pytest.raises(ValueError, match="as none is given"):
        LowRankUpdateOperator(DenseOperator(np.ones((3, 4))), np.ones((3, 1)))


def test_differentiated_in_every_part():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    shapes = (4, 4), (4, 2), (2, 2), (4, 2), (4,)
    parts = [torch.asarray(rng.standard_normal(shape), requires_grad=True) for shape in shapes]
    base, u, c, v, b = parts
    op = kronops.LowRankUpdateOperator(base, u, c, v)
    got = op.solve(b).sum() + op.slogdet().logabsdet + op.inverse().trace()
    matrix = base + u @ c @ v.T
    want = torch.linalg.solve(matrix, b).sum() + torch.linalg.slogdet(matrix)[1]
    want = want + torch.linalg.inv(matrix).trace()
    for one, other in zip(
        torch.autograd.grad(got, parts), torch.autograd.grad(want, parts), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("small", [1e-6, 1e-10, 1e-13])
def test_entries_of_the_inverse_keep_digits_that_the_identity_loses(small):
    """The base is nearly singular, and the update is not."""
    op = LowRankUpdateOperator(DiagonalOperator(np.array([1.0, 2, 3, small])), np.ones((4, 1)))
    inverse, want = op.inverse(), np.linalg.inv(op.to_dense())
    np.testing.assert_allclose(inverse.to_dense(), want, atol=1e-13)
    np.testing.assert_allclose(inverse.diagonal(), np.diag(want), atol=1e-13)
    np.testing.assert_allclose(inverse.trace(), np.trace(want), rtol=1e-13)
    np.testing.assert_allclose(inverse[3], want[3], atol=1e-13)
