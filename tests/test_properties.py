"""Round trips and algebraic identities on random operators, by hypothesis."""

from __future__ import annotations

import warnings

import array_api_strict
import numpy as np
import pytest
import scipy.linalg
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from zoo import Maker, kron_sum, moments

import kronops
from kronops import kron
from kronops.backends import backend_of
from kronops.testing import Case

settings.register_profile(
    "kronops",
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("kronops")

LIBRARIES = {"numpy": np, "array_api_strict": array_api_strict}
makers = st.builds(
    lambda library, dtype, seed: Maker(LIBRARIES[library], dtype, seed),
    st.sampled_from(list(LIBRARIES)),
    st.sampled_from(["float64", "complex128"]),
    st.integers(0, 2**32 - 1),
)
sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def matrices(make, sizes, kind):
    return [getattr(make, kind)(n) for n in sizes]


def dense(*matrices):
    made = np.ones((1, 1))
    for matrix in matrices:
        made = np.kron(made, matrix)
    return made


def to_numpy(op_or_array):
    array = op_or_array.to_dense() if hasattr(op_or_array, "to_dense") else op_or_array
    return backend_of(array).to_numpy(array)


def close(got, want, rtol=1e-9):
    got = to_numpy(got)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * max(np.abs(want).max(), 1e-300))


@given(makers, sizes, st.sampled_from(["general", "definite", "symmetric"]))
def test_inverse_undoes_multiply(make, sizes, kind):
    factors = matrices(make, sizes, kind)
    assume(np.linalg.cond(dense(*factors)) < 1e6)
    op = kron(*map(make, factors))
    v = make.draw(*sizes)
    close(op.multiply_inverse(op.multiply(make(v))), v, 1e-7)
    close(op.inverse().inverse(), dense(*factors))


@given(makers, sizes, st.sampled_from(["general", "definite"]), st.floats(1e-3, 10))
def test_exact_damping_is_exact(make, sizes, kind, value):
    factors = matrices(make, sizes, kind)
    want = dense(*factors) + value * np.eye(len(dense(*factors)))
    assume(np.linalg.cond(want) < 1e8)
    damped = kron(*map(make, factors)).damped(value)
    close(damped, want)
    b = make.draw(len(want))
    close(damped.solve(make(b)), np.linalg.solve(want, b), 1e-7)
    close(damped.slogdet().logabsdet, np.linalg.slogdet(want)[1], 1e-8)
    close(damped.diagonal(), np.diagonal(want))
    close(damped.trace(), np.trace(want))


@given(makers, sizes, st.floats(-2, 2), st.floats(-2, 2))
def test_powers_add(make, sizes, p, q):
    op = kron(*map(make, matrices(make, sizes, "definite")))
    for base in (op, op.damped(0.5)):
        v = make.draw(*sizes)
        together = to_numpy(base.multiply_power(make(v), p + q))
        close(base.multiply_power(base.multiply_power(make(v), q), p), together, 1e-8)


@given(makers, sizes, st.floats(0.1, 10))
def test_cholesky_and_square_root(make, sizes, scale):
    factors = matrices(make, sizes, "definite")
    op = kronops.KroneckerOperator(list(map(make, factors)), scale=scale)
    lower = op.cholesky()
    close(lower @ lower.H, scale * dense(*factors))
    assert np.all(np.triu(to_numpy(lower), 1) == 0)
    close(op.sqrt() @ op.sqrt(), scale * dense(*factors))
    assert float(op.logdet()) == pytest.approx(float(2 * lower.slogdet().logabsdet), abs=1e-9)


@given(makers, st.data())
def test_products_of_any_shapes(make, data):
    shape = st.tuples(st.integers(1, 4), st.integers(1, 4))
    shapes = data.draw(st.lists(shape, min_size=1, max_size=4))
    factors = [make.draw(*shape) for shape in shapes]
    op, want = kron(*map(make, factors)), dense(*factors)
    batch = data.draw(st.sampled_from([(), (2,), (1, 3)]))
    k = data.draw(st.integers(0, 3))
    x = make.draw(*batch, want.shape[1], k)
    close(op @ make(x), want @ x) if x.size else None
    close(op.H, want.conj().T)
    close(op.T, want.T)
    other = [make.draw(n, data.draw(st.integers(1, 3))) for _, n in shapes]
    close(op @ kron(*map(make, other)), want @ dense(*other))


@given(makers, sizes, st.integers(-3, 3), st.integers(-3, 3))
def test_sums_and_multiples(make, sizes, c, d):
    a, b = (matrices(make, sizes, "general") for _ in range(2))
    left, right = kron(*map(make, a)), kron(*map(make, b))
    close(c * left + d * right, c * dense(*a) + d * dense(*b))
    close((c * left - d * right).H, (c * dense(*a) - d * dense(*b)).conj().T)
    close((left + right) @ (left - right), (dense(*a) + dense(*b)) @ (dense(*a) - dense(*b)))


@given(makers, sizes)
def test_eigh(make, sizes):
    factors = matrices(make, sizes, "symmetric")
    values, vectors = kron(*map(make, factors)).eigh()
    want = np.linalg.eigvalsh(dense(*factors))
    close(values, want)
    basis = to_numpy(vectors)
    close(make((basis * want) @ basis.conj().T), dense(*factors))


@given(makers, st.integers(1, 4), st.integers(1, 4), st.integers(1, 300), st.floats(0.0, 0.98))
def test_series_round_trips(make, n, m, timesteps, norm):
    sides = [moments(make, size, norm) for size in (n, m)]
    arrays = [(make(c0), make(c1)) for c0, c1 in sides]
    v = make.draw(n, m)
    for option in (1, 2):
        op = kronops.SeriesOperator(*arrays, timesteps, option)
        close(op.multiply_inverse(op.multiply(make(v))), v, 1e-6)
        sign, logabsdet = np.linalg.slogdet(to_numpy(op))
        assert float(op.logdet()) == pytest.approx(float(logabsdet), abs=1e-6)
        assert abs(sign - 1) < 1e-6


@given(makers, sizes, st.sampled_from(["general", "symmetric"]), st.floats(0, 3))
def test_kronecker_sums(make, sizes, kind, shift):
    factors = matrices(make, sizes, kind)
    want = -2 * (kron_sum(*factors) + shift * np.eye(np.prod(sizes)))
    assume(np.linalg.cond(want) < 1e6)
    op = -2 * kronops.KroneckerSumOperator(list(map(make, factors))).damped(shift)
    v = make.draw(*sizes)
    close(op.multiply(make(v.ravel())), want @ v.ravel())
    close(op.multiply_inverse(op.multiply(make(v))), v, 1e-7)
    close(op, want)
    close(op.H, want.conj().T)
    close(op.diagonal(), np.diagonal(want))
    close(op.trace(), np.trace(want))
    close(op.norm(), np.linalg.norm(want))
    close(op.norm(1), np.linalg.norm(want, 1))
    close(op.norm(np.inf), np.linalg.norm(want, np.inf))
    sign, logabsdet = np.linalg.slogdet(want)
    close(op.slogdet().sign, sign, 1e-7)
    close(op.slogdet().logabsdet, logabsdet, 1e-7)


@given(makers, sizes, st.sampled_from(["general", "symmetric"]), st.floats(-1, 1))
def test_exponentials_of_sums_are_products(make, sizes, kind, scalar):
    factors = [make.round(m / max(sizes)) for m in matrices(make, sizes, kind)]
    op = scalar * kronops.KroneckerSumOperator(list(map(make, factors)))
    want = scipy.linalg.expm(scalar * kron_sum(*factors))
    made = op.expm()
    assert isinstance(made, kronops.KroneckerOperator)
    close(made, want)
    if kind == "symmetric":
        np.testing.assert_allclose(to_numpy(made.logm()), scalar * kron_sum(*factors), atol=1e-8)


@given(makers, st.data())
def test_pseudo_inverses_of_any_shape_and_rank(make, data):
    triple = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 4))
    shapes = data.draw(st.lists(triple, min_size=1, max_size=3))
    factors = [make.round(make.draw(m, r) @ make.draw(r, n)) for m, r, n in shapes]
    want = dense(*factors)
    values = np.linalg.svd(want, compute_uv=False)
    assume(not np.any((values > 1e-13 * values[0]) & (values < 1e-6 * values[0])))
    op = kron(*map(make, factors))
    inverse = np.linalg.pinv(want, rtol=1e-10)
    close(op.pinv(1e-10), inverse, 1e-7)
    b = make.draw(want.shape[0])
    close(op.lstsq(make(b), 1e-10), inverse @ b, 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kronops.DensificationWarning)
        u, s, vh = op.svd()
    close(s, values, 1e-8)
    close(make((to_numpy(u) * to_numpy(s)) @ to_numpy(vh)), want, 1e-8)


@given(makers, st.lists(sizes, min_size=1, max_size=3), st.floats(0.01, 2))
def test_blocks_do_what_each_block_does(make, shapes, value):
    layers = [kron(*map(make, matrices(make, sizes, "definite"))) for sizes in shapes]
    ops = {f"layer {i}": op for i, op in enumerate(layers)}
    blocks = kronops.BlockDiagonalOperator(ops)
    v = {name: make(make.draw(*op.domain_shape)) for name, op in ops.items()}
    for act in (
        lambda op, x: op.multiply(x),
        lambda op, x: op.damped(value).multiply_inverse(x),
        lambda op, x: op.multiply_power(x, -0.5),
    ):
        whole = act(blocks, v)
        for name, op in ops.items():
            close(whole[name], to_numpy(act(op, v[name])))


@given(makers, st.floats(1e-6, 10), sizes)
def test_factored_damping_shares_multiply_to_the_damping(make, value, sizes):
    op = kron(*map(make, matrices(make, sizes, "definite")))
    damped = op.damped(value, method="factored")
    product = 1.0
    shares = []
    for before, after in zip(op.factors, damped.factors, strict=True):
        added = to_numpy(after) - to_numpy(before)
        share = added[0, 0].real
        np.testing.assert_allclose(added, share * np.eye(len(added)), atol=1e-9 * (1 + share))
        shares.append(share / (np.trace(to_numpy(before)).real / len(added)))
        product *= share
    assert product == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-6)  # in units of the mean eigenvalue


@given(makers, sizes, st.integers(0, 3), st.booleans())
def test_updates_of_low_rank(make, sizes, rank, one_sided):
    """By Woodbury's identity, of singular middle matrices too."""
    factors = matrices(make, sizes, "general")
    base = dense(*factors)
    u, v = (make.draw(len(base), rank) for _ in range(2))
    v = u if one_sided else v
    c = make.draw(rank, 1) @ make.draw(1, rank)
    want = base + u @ c @ v.conj().T
    assume(np.linalg.cond(base) < 1e6 and np.linalg.cond(want) < 1e6)
    op = kronops.LowRankUpdateOperator(
        kron(*map(make, factors)), make(u), make(c), None if one_sided else make(v)
    )
    close(op, want)
    close(op.H, want.conj().T)
    close(op.T, want.T)
    close(op.trace(), np.trace(want))
    close(op.diagonal(), np.diagonal(want))
    close(op.slogdet().logabsdet, np.linalg.slogdet(want)[1], 1e-8)
    inverse = op.inverse()
    for form in (inverse, inverse.H.H, inverse.T.T, 2 * (0.5 * inverse)):
        close(form, np.linalg.inv(want), 1e-7)
    close(inverse.diagonal(), np.diagonal(np.linalg.inv(want)), 1e-7)
    b = make.draw(len(want))
    close(op.damped(0.5).solve(make(b)), np.linalg.solve(want + 0.5 * np.eye(len(want)), b), 1e-7)


@given(makers, st.integers(1, 9), st.integers(1, 9), st.booleans(), st.sampled_from([1, 2j]))
def test_toeplitz_matrices(make, m, n, one_line, scalar):
    column, row = make.draw(m), make.draw(n)
    want = scipy.linalg.toeplitz(column, None if one_line else row)
    op = kronops.ToeplitzOperator(make(column), None if one_line else make(row))
    x = make.draw(want.shape[1], 2)
    close(op @ make(x), want @ x)
    close(op @ make(x[:, 0]), want @ x[:, 0])
    for made, matrix in ((op, want), (scalar * op, scalar * want), (op + op.H.H, 2 * want)):
        close(made, matrix)
        close(made.H, matrix.conj().T)
        close(made.T @ make(np.eye(len(want))), matrix.T)
        close(made.norm(), np.linalg.norm(matrix))
    if m == n or one_line:
        close(op.damped(0.5), want + 0.5 * np.eye(m))
        close(op.diagonal(), np.diagonal(want))
        assert not op.hermitian or np.all(want == want.conj().T)


@given(makers, sizes, st.data())
def test_masks_keep_rows_and_columns(make, sizes, data):
    a, b = (matrices(make, sizes, kind) for kind in ("general", "definite"))
    whole, n = dense(*a) + dense(*b), len(dense(*a))
    flags = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    keep = np.flatnonzero(flags)
    want = whole[keep][:, keep]
    op = kron(*map(make, a)) + kron(*map(make, b))
    mask = data.draw(st.sampled_from([np.asarray(flags), make.xp.asarray(flags)]))
    masked = kronops.MaskedOperator(op, mask)
    assume(n > len(keep) > 0)
    close(masked, want)
    close(masked.H @ make(np.eye(len(keep))), want.conj().T)
    close(masked.T, want.T)
    close(masked.diagonal(), np.diagonal(want))
    close(op.masked(np.asarray(flags).reshape(sizes)) @ make(np.eye(len(keep))), want)
    again = data.draw(st.lists(st.booleans(), min_size=len(keep), max_size=len(keep)))
    inner = np.flatnonzero(again)
    close(masked.masked(np.asarray(again)), want[inner][:, inner]) if len(inner) else None


@given(makers, st.integers(1, 5))
def test_the_dense_model_of_a_case_is_the_operator(make, n):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case = Case(kronops.DenseOperator(make(make.general(n))))
    assert case.square and case.n == n
