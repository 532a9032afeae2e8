"""Round trips and algebraic identities on random operators, by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume
from hypothesis import strategies as st
from instances import close, factors_of, given, kron, makers, said, shapes, sizes
from zoo import block_diag, kron_sum, moments

import kronops
from kronops import (
    BlockDiagonalOperator,
    DenseOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    MaskedOperator,
    ProductOperator,
    SumOperator,
    ToeplitzOperator,
)
from kronops.testing import Case


def product(make, factors, scale=1.0):
    return KroneckerOperator(list(map(make, factors)), scale)


# -- products --------------------------------------------------------------------------------------


@given(makers, shapes(), st.sampled_from([(), (2,), (1, 3)]), st.integers(0, 3))
def test_products_of_any_shapes(make, shapes, batch, k):
    factors = [make.draw(*shape) for shape in shapes]
    op, want = product(make, factors), kron(*factors)
    x = make.draw(*batch, want.shape[1], k)
    close(op @ make(x), want @ x)
    close(op @ make(x[..., 0]), want @ x[..., 0]) if k and not batch else None
    close(op.H, want.conj().T)
    close(op.T, want.T)
    assert op.domain_shape == tuple(n for _, n in shapes)
    assert said(op, "multiply").startswith("multiply: (A ⊗ B) vec(X) = vec(A X Bᵀ)")


@given(makers, sizes, st.sampled_from(["general", "definite", "symmetric"]))
def test_inverse_undoes_multiply(make, sizes, kind):
    factors = factors_of(make, sizes, kind)
    assume(np.linalg.cond(kron(*factors)) < 1e6)
    op = product(make, factors)
    v = make.draw(*sizes)
    close(op.multiply_inverse(op.multiply(make(v))), v, 1e-7)
    assert type(op.inverse()) is KroneckerOperator and op.inverse().inverse() is op


@given(makers, sizes, st.floats(-2, 2), st.floats(-2, 2))
def test_powers_add(make, sizes, p, q):
    op = product(make, factors_of(make, sizes, "definite"))
    v = make(make.draw(*sizes))
    for base in (op, op.damped(0.5)):
        together = make.round(base.multiply_power(v, p + q))
        close(base.multiply_power(base.multiply_power(v, q), p), together, 1e-8)


# -- closed forms ----------------------------------------------------------------------------------


@st.composite
def aligned_sizes(draw):
    """The inner sizes of two products, whose cumulative products meet more or less often."""
    pieces = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    assume(np.prod(pieces) <= 16)
    sides = []
    for _ in range(2):
        side = [1]
        for piece in pieces:
            if draw(st.booleans()):
                side.append(piece)
            else:
                side[-1] *= piece
        sides.append(side)
    return sides


@given(makers, aligned_sizes(), st.lists(st.integers(1, 3), min_size=10, max_size=10))
def test_mixed_products_of_runs_that_meet(make, sides, outer):
    inner, sizes = sides, iter(outer)
    left = [make.draw(next(sizes), n) for n in inner[0]]
    right = [make.draw(n, next(sizes)) for n in inner[1]]
    op = product(make, left) @ product(make, right)
    want = kron(*left) @ kron(*right)
    close(op, want)
    close(op.H, want.conj().T)
    x = make.draw(want.shape[1])
    close(op @ make(x), want @ x)
    meet = {np.prod(inner[0][:i]) for i in range(1, len(inner[0]))}
    meet &= {np.prod(inner[1][:i]) for i in range(1, len(inner[1]))}
    if meet - {1, np.prod(inner[0])}:
        assert type(op) is KroneckerOperator
        assert len(op.factors) > len(meet - {1, np.prod(inner[0])})
    elif 1 not in (*inner[0], *inner[1]):
        assert type(op) is (KroneckerOperator if inner[0] == inner[1] else ProductOperator)


@given(makers, sizes, st.floats(0.25, 2))
def test_inverses_of_mixed_products(make, sizes, scale):
    """Of runs of factors, whose determinants are those of the runs."""
    left = factors_of(make, sizes, "general")
    right = [make.general(int(np.prod(sizes[:2]))), *factors_of(make, sizes[2:], "definite")]
    op = product(make, left, scale) @ product(make, right)
    want = scale * kron(*left) @ kron(*right)
    assume(np.linalg.cond(want) < 1e6)
    close(op.inverse(), np.linalg.inv(want), 1e-7)
    sign, logabsdet = np.linalg.slogdet(want)
    close(op.slogdet().sign, sign, 1e-7)
    assert float(op.slogdet().logabsdet) == pytest.approx(logabsdet, abs=1e-8)
    close(op.trace(), np.trace(want))
    if len(sizes) > 2:
        assert type(op) is type(op.inverse()) is KroneckerOperator
        assert "n_B log |A| + n_A log |B|" in said(op, "logdet")


@given(makers, sizes, st.integers(-3, 3), st.integers(-3, 3), st.data())
def test_sums_and_multiples(make, sizes, c, d, data):
    """Products that differ in one factor are one product."""
    a, b = (factors_of(make, sizes, "general") for _ in range(2))
    shared = data.draw(st.booleans())
    if shared:
        place = data.draw(st.integers(0, len(sizes) - 1))
        b = [y if i == place else x for i, (x, y) in enumerate(zip(a, b, strict=True))]
    left, right = product(make, a), product(make, b)
    op, want = c * left + d * right, c * kron(*a) + d * kron(*b)
    close(op, want)
    close(op.H, want.conj().T)
    close((left + right) @ (left - right), (kron(*a) + kron(*b)) @ (kron(*a) - kron(*b)), 1e-8)
    if shared or len(sizes) == 1:
        assert type(op) is KroneckerOperator
    elif min(sizes) > 1:
        assert type(op) is SumOperator


@given(makers, sizes, st.sampled_from([-1.5, 0.0, 0.25, 2j]))
def test_sides_are_a_kronecker_sum(make, sizes, shift):
    assume(len(sizes) > 1)
    factors = factors_of(make, sizes, "definite")
    eyes = [kronops.IdentityOperator(n, like=make(np.zeros(0))) for n in sizes]
    op = shift * kronops.kron(*eyes)
    for i, factor in enumerate(factors):
        op = op + kronops.kron(*eyes[:i], make(factor), *eyes[i + 1 :])
    want = kron_sum(*factors) + shift * np.eye(int(np.prod(sizes)))
    close(op, want)
    assert type(op) is KroneckerSumOperator
    assume(np.linalg.cond(want) < 1e6)
    v = make.draw(len(want))
    close(op.solve(make(v)), np.linalg.solve(want, v), 1e-8)


@given(makers, st.lists(sizes, min_size=1, max_size=2), st.floats(0.01, 2))
def test_blocks_do_what_each_block_does(make, shapes, value):
    layers = [product(make, factors_of(make, sizes, "definite")) for sizes in shapes]
    ops = {f"layer {i}": op for i, op in enumerate(layers)}
    blocks = BlockDiagonalOperator(ops)
    v = {name: make(make.draw(*op.domain_shape)) for name, op in ops.items()}
    for act in (
        lambda op, x: op.multiply(x),
        lambda op, x: op.damped(value).multiply_inverse(x),
        lambda op, x: op.multiply_power(x, -0.5),
    ):
        whole = act(blocks, v)
        for name, op in ops.items():
            close(whole[name], make.round(act(op, v[name])))


@given(makers, st.lists(st.integers(1, 3), min_size=1, max_size=2), st.integers(1, 3))
def test_kronecker_products_of_blocks(make, sizes, n):
    """By the blocks: nothing is written out."""
    blocks = factors_of(make, tuple(sizes), "definite")
    other = make.definite(n)
    op = kronops.kron(kronops.block_diag(*map(make, blocks)), make(other))
    want = kron(block_diag(*blocks), other)
    b = make.draw(len(want))
    close(op @ make(b), want @ b)
    close(op.solve(make(b)), np.linalg.solve(want, b), 1e-8)
    close(op.damped(0.5).solve(make(b)), np.linalg.solve(want + 0.5 * np.eye(len(want)), b), 1e-8)
    close(op.eigh().eigenvalues, np.linalg.eigvalsh(want))
    assert float(op.logdet()) == pytest.approx(np.linalg.slogdet(want)[1], abs=1e-9)
    close(op.power(0.5) @ op.power(0.5), want)
    assert type(op.inverse().factors[0]) is BlockDiagonalOperator
    assert "block by block" in said(op, "multiply_inverse")


# -- parts -----------------------------------------------------------------------------------------


@given(makers, shapes(), st.data())
def test_entries_rows_and_columns(make, shapes, data):
    factors = [make.draw(*shape) for shape in shapes]
    op, want = product(make, factors), kron(*factors)
    m, n = want.shape
    i, j = data.draw(st.integers(-m, m - 1)), data.draw(st.integers(-n, n - 1))
    close(op[i, j], want[i, j])
    close(op[i], want[i])
    close(op[:, j], want[:, j])
    rows, columns = data.draw(st.slices(m)), data.draw(st.slices(n))
    some = op[rows, columns]
    assert isinstance(some, kronops.LinearOperator) and some.shape == want[rows, columns].shape
    close(some @ make(np.eye(some.shape[1])), want[rows, columns]) if all(some.shape) else None
    close(op[rows, j], want[rows, j])


@given(makers, sizes, st.data())
def test_masks_keep_rows_and_columns(make, sizes, data):
    a, b = (factors_of(make, sizes, kind) for kind in ("general", "definite"))
    whole, n = kron(*a) + kron(*b), len(kron(*a))
    flags = np.asarray(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    keep = np.flatnonzero(flags)
    assume(n > len(keep) > 0)
    want = whole[keep][:, keep]
    op = product(make, a) + product(make, b)
    masked = MaskedOperator(op, data.draw(st.sampled_from([flags, make.xp.asarray(flags)])))
    close(masked, want)
    close(masked.H @ make(np.eye(len(keep))), want.conj().T)
    close(masked.diagonal(), np.diagonal(want))
    again = np.asarray(data.draw(st.lists(st.booleans(), min_size=len(keep), max_size=len(keep))))
    inner = np.flatnonzero(again)
    close(masked.masked(again), want[inner][:, inner]) if len(inner) else None
    assert type(op.masked(flags.reshape(sizes))) is (
        DenseOperator if isinstance(op, DenseOperator) else MaskedOperator
    )


# -- Toeplitz --------------------------------------------------------------------------------------


@given(makers, st.integers(1, 9), st.integers(1, 9), st.booleans(), st.sampled_from([1, 2j]))
def test_toeplitz_matrices(make, m, n, one_line, scalar):
    column, row = make.draw(m), make.draw(n)
    want = scipy.linalg.toeplitz(column, None if one_line else row)
    op = ToeplitzOperator(make(column), None if one_line else make(row))
    x = make.draw(want.shape[1], 2)
    close(op @ make(x), want @ x)
    close(op @ make(x[:, 0]), want @ x[:, 0])
    for made, matrix in ((op, want), (scalar * op, scalar * want), (op + op.H.H, 2 * want)):
        assert type(made) is ToeplitzOperator
        close(made, matrix)
        close(made.H, matrix.conj().T)
        close(made.T @ make(np.eye(len(want))), matrix.T)
        close(made.norm(), np.linalg.norm(matrix))
    if m == n or one_line:
        close(op.damped(0.5), want + 0.5 * np.eye(m))
        close(op.diagonal(), np.diagonal(want))
        assert not op.hermitian or np.all(want == want.conj().T)


@given(makers, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_toeplitz_factors(make, m, n, size, first):
    """Among the factors of products and of sums they bring their own products."""
    column, row, matrix = make.draw(m), make.draw(n), make.general(size)
    toeplitz = ToeplitzOperator(make(column), make(row))
    pair, wants = [toeplitz, make(matrix)], [scipy.linalg.toeplitz(column, row), matrix]
    op = kronops.kron(*(pair if first else pair[::-1]))
    want = kron(*(wants if first else wants[::-1]))
    x = make.draw(want.shape[1], 2)
    close(op @ make(x), want @ x)
    close(op.H @ make(want @ x), want.conj().T @ (want @ x))
    close(op.norm(), np.linalg.norm(want))
    close(op[0], want[0])
    assert ToeplitzOperator in {type(factor) for factor in op.T.factors}
    assert "Fourier transforms" in said(op, "multiply")
    if m == n:
        close(op.diagonal(), np.diagonal(want))
        both = KroneckerSumOperator(pair)
        close(both @ make(x), kron_sum(*wants) @ x)
        close(both.trace(), np.trace(kron_sum(*wants)))


# -- curvature -------------------------------------------------------------------------------------


@given(makers, st.floats(1e-6, 10), sizes)
def test_factored_damping_shares_multiply_to_the_damping(make, value, sizes):
    op = product(make, factors_of(make, sizes, "definite"))
    damped = op.damped(value, method="factored")
    total = 1.0
    shares = []
    for before, after in zip(op.factors, damped.factors, strict=True):
        added = make.round(after.to_dense()) - make.round(before.to_dense())
        share = added[0, 0].real
        np.testing.assert_allclose(added, share * np.eye(len(added)), atol=1e-9 * (1 + share))
        shares.append(share / (np.trace(make.round(before.to_dense())).real / len(added)))
        total *= share
    assert total == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-6)  # in units of the mean eigenvalue


@given(makers, st.integers(1, 4), st.integers(1, 4), st.integers(1, 300), st.floats(0.0, 0.98))
def test_series_round_trips(make, n, m, timesteps, norm):
    sides = [moments(make, size, norm) for size in (n, m)]
    arrays = [(make(c0), make(c1)) for c0, c1 in sides]
    v = make.draw(n, m)
    for option in (1, 2):
        op = kronops.SeriesOperator(*arrays, timesteps, option)
        close(op.multiply_inverse(op.multiply(make(v))), v, 1e-6)
        sign, logabsdet = np.linalg.slogdet(make.round(op.to_dense()))
        assert float(op.logdet()) == pytest.approx(float(logabsdet), abs=1e-6)
        assert abs(sign - 1) < 1e-6


@given(makers, st.integers(1, 5))
def test_the_dense_model_of_a_case_is_the_operator(make, n):
    case = Case(DenseOperator(make(make.general(n))))
    assert case.square and case.n == n
