"""Inverses as Kronecker factors: written out where that is as good as solves, else solves."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from libraries import LIBRARIES

import kronops

EPS = np.finfo(np.float64).eps


def with_condition(n, condition, rng, definite=True):
    """Eigenvalues (or singular values) from 1 to 1 / condition, and the vectors of the first."""
    q, p = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    values = np.geomspace(1, 1 / condition, n)
    if not definite:
        return (q * values) @ p.T, q
    made = (q * values) @ q.T
    return (made + made.T) / 2, q


def backward_error(matrix, x, b):
    """Of each column, normwise; the residual in higher precision."""
    residual = b - (matrix.astype(np.longdouble) @ x.astype(np.longdouble))
    size = np.linalg.norm(matrix, 2) * np.linalg.norm(x, axis=0) + np.linalg.norm(b, axis=0)
    return float(np.max(np.linalg.norm(residual.astype(float), axis=0) / size))


def kinds(op):
    return [factor.kind for factor in op.inverse()._products.known]


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("n", [2, 5, 10, 32, 200])
@pytest.mark.parametrize("times_n", [0.5, 4, 9, 11, 30, 1e3, 3e5, 1e6, 1e9])
def test_backward_errors_are_as_promised(n, times_n, definite):
    """The worst right-hand sides have small solutions: singular vectors of the largest value."""
    rng = np.random.default_rng(n)
    for _ in range(10 if n < 100 else 1):
        matrix, vectors = with_condition(n, max(times_n * n, 1.0), rng, definite)
        b = np.concatenate([vectors, rng.standard_normal((n, 4))], axis=1)
        x = kronops.kron(matrix).solve(b)
        assert backward_error(matrix, x, b) < 10 * n * EPS


def test_well_conditioned_inverses_are_matrices_and_others_are_solves():
    rng = np.random.default_rng(0)
    good, bad = with_condition(20, 10.0, rng)[0], with_condition(20, 1e6, rng)[0]
    assert kinds(kronops.kron(good, good)) == ["dense", "dense"]
    assert kinds(kronops.kron(good, bad)) == ["dense", "operator"]
    general = with_condition(20, 10.0, rng, definite=False)[0]
    assert kinds(kronops.kron(general).H) == ["dense"]


def test_a_written_inverse_keeps_entries_of_unlike_size():
    """Scaled by powers of two first: what is small is not lost beside what is large."""
    rng = np.random.default_rng(0)
    mild = with_condition(4, 3.0, rng)[0]
    units = np.array([1.0, 1e-3, 1e3, 1.0])
    op = kronops.DenseOperator(mild * units * units[:, None])
    want = np.linalg.inv(mild) / units / units[:, None]
    np.testing.assert_allclose(op._solver.inverse(), want, rtol=1e-13)
    assert op.written_inverse is None  # condition 1e12: products would not be as good as solves


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize(
    ("library", "dtype"),
    [
        (library, dtype)
        for library in LIBRARIES
        for dtype in ("float64", "complex64")
        if dtype in LIBRARIES[library].dtypes
    ],
)
def test_the_inverse_of_a_factorisation(library, dtype, definite):
    with LIBRARIES[library].maker(dtype) as make:
        matrix = make.definite(6) if definite else make.general(6)
        op = kronops.DenseOperator(make(matrix))
        assert op._factorisation.definite in (definite, False)  # Dask does not show it
        _ = op._solver  # which serves the adjoint, too
        for one, want in ((op, matrix), (op.H, matrix.conj().T)):
            found = op.backend.to_numpy(one._solver.inverse())
            tolerance = 1e-12 if dtype == "float64" else 1e-5
            np.testing.assert_allclose(found, np.linalg.inv(want), rtol=0, atol=tolerance)


def test_explain_does_not_factorise_to_know():
    rng = np.random.default_rng(0)
    op = kronops.kron(*[with_condition(12, 10.0, rng)[0] for _ in range(2)])
    inverse = op.inverse()
    assert "A⁻¹ x, a solve" in inverse.explain()
    assert "_factorisation" not in op.factors[0].__dict__
    inverse @ np.ones(144)
    assert "A1⊗A2 (144 x 144) on (1, 144, 1)" in inverse.explain() or "A2 (12" in inverse.explain()


@pytest.mark.parametrize("power", [20, 40, 52])
def test_conditions_that_a_search_from_equal_entries_does_not_see(power):
    """Rows and columns of sum one: equal entries are a fixed point of Hager's search."""
    d = 2.0**-power
    matrix = np.array([[1, 0, 0], [0, 0.5 - d, 0.5 + d], [0, 0.5 + d, 0.5 - d]])
    op = kronops.DenseOperator(matrix)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert op._condition > 0.1 * np.linalg.cond(matrix, 1)
    assert bool(caught) == (power == 52)
    assert op.written_inverse is None


LARGE = 300  # rows of more than one tile


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("claim", [None, "positive definite"])
def test_large_inverses_are_made_tile_by_tile(dtype, claim):
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((LARGE, LARGE)) + 1j * rng.standard_normal((LARGE, 1)))[0]
    q = q if dtype is np.complex128 else np.linalg.qr(q.real)[0]
    mild = (q * np.geomspace(1, 9, LARGE)) @ q.conj().T
    units = 2.0 ** rng.integers(-12, 12, LARGE)
    matrix = 0.5 * (mild + mild.conj().T) * units * units[:, None]
    op = kronops.DenseOperator(matrix, claim)
    before = op.matrix.copy()
    found = op.inverse().to_dense()
    want = np.linalg.inv(mild) / units / units[:, None]
    np.testing.assert_allclose(found * units * units[:, None], np.linalg.inv(mild), atol=1e-12)
    assert np.array_equal(found, found.conj().T) and np.array_equal(op.matrix, before)
    norms = np.linalg.norm(matrix, 1), np.linalg.norm(want, 1)
    assert op._condition == pytest.approx(norms[0] * norms[1], rel=1e-10)  # exact, not estimated


def test_a_factor_gives_its_memory_to_the_inverse_only_where_nobody_keeps_it():
    matrix, _ = with_condition(LARGE, 1e3, np.random.default_rng(0))
    b = np.arange(LARGE) - 7.0
    want = np.linalg.solve(matrix, b)
    fresh, kept = kronops.DenseOperator(matrix), kronops.DenseOperator(matrix)
    logdet = kept.logdet()  # keeps the factorisation, whose condition is looked at later
    for op in (fresh, kept):
        for _ in range(2):
            found = op.inverse().to_dense()
            np.testing.assert_allclose(found, np.linalg.inv(matrix), atol=1e-10)
            found[...] = np.nan  # it is the caller's
        np.testing.assert_allclose(op.solve(b), want, rtol=1e-9, atol=1e-9)
        assert op.logdet() == logdet


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_large_triangles_are_inverted_by_lapack(monkeypatch, dtype):
    monkeypatch.setattr("kronops.backends.numpy._LARGE_TRIANGLE", LARGE)
    rng = np.random.default_rng(0)
    for n in (LARGE - 1, LARGE, LARGE + 1):
        matrix = with_condition(n, 1e3, rng)[0].astype(dtype)
        found = kronops.DenseOperator(matrix).inverse().to_dense()
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(found @ matrix, np.eye(n), atol=1e4 * eps)
        assert found.dtype == dtype and np.array_equal(found, found.conj().T)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.complex128])
def test_a_damped_matrix_is_a_copy_with_another_diagonal(dtype, order):
    matrix = np.array([[2, 1, 0], [1, 3, 1], [0, 1, 4]], dtype, order=order)
    op = kronops.DenseOperator(matrix)
    found = op.damped(0.5).to_dense()
    np.testing.assert_array_equal(found, matrix + 0.5 * np.eye(3))
    np.testing.assert_array_equal(op.to_dense(), matrix)
    assert found.dtype == dtype


@pytest.mark.parametrize("size", [1e307, 1e-307])
def test_conditions_whose_sums_are_out_of_range(size):
    op = kronops.DenseOperator(size * (np.eye(LARGE) + 0.5))
    with np.errstate(over="ignore"):
        found = op.inverse().to_dense()
    np.testing.assert_allclose(found * size, np.linalg.inv(np.eye(LARGE) + 0.5), atol=1e-14)


def test_an_inverse_that_is_only_written_out_is_checked_as_others_are():
    rng = np.random.default_rng(0)
    near = with_condition(20, 3e15, rng)[0]
    with pytest.warns(kronops.LinAlgWarning, match="condition number"):
        kronops.DenseOperator(near).inverse().to_dense()
    low_rank = rng.standard_normal((20, 10)) @ rng.standard_normal((10, 20))
    with pytest.raises(kronops.LinAlgError, match="singular: add damping"):
        kronops.DenseOperator(low_rank).inverse().to_dense()


@pytest.mark.parametrize(("row", "column"), [(0, 299), (299, 0), (150, 149), (5, 4)])
def test_asymmetry_is_seen_in_every_tile(row, column):
    matrix = np.eye(LARGE)
    matrix[row, column] = 1e-15
    assert kronops.DenseOperator(matrix).hermitian  # rounding
    matrix[row, column] = 1e-8
    assert not kronops.DenseOperator(matrix).hermitian


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("condition", [1e4, 6e6, 1e8, 1e12])
def test_solves_with_small_ill_conditioned_factors(condition, definite):
    """On every axis of a product, in more than one band; and with the adjoint.

    The worst right-hand sides are products with solutions that are not large.
    """
    rng = np.random.default_rng(0)
    factors = [with_condition(n, condition, rng, definite)[0] for n in (20, 30, 25)]
    identities = [np.eye(len(factor)) for factor in factors]
    random = rng.standard_normal((15000, 3))
    for i, factor in enumerate(factors):
        op = kronops.kron(*identities[:i], factor, *identities[i + 1 :])
        op.solve(random)  # whose factorisation serves the adjoint
        for one, matrix in ((op, factor), (op.H, factor.T)):
            b = one @ random
            x, rolled = (
                np.moveaxis(v.reshape(20, 30, 25, 3), i, 0).reshape(len(factor), -1)
                for v in (one.solve(b), b)
            )
            assert backward_error(matrix, x, rolled) < 10 * len(factor) * EPS
            alone = kronops.DenseOperator(matrix).solve(rolled)
            assert backward_error(matrix, alone, rolled) < 10 * len(factor) * EPS


@pytest.mark.parametrize("library", LIBRARIES)
def test_blocks_of_one_size_are_factorised_together(library):
    with LIBRARIES[library].maker("float64") as make:
        units = 2.0 ** np.arange(6)
        matrices = [make.definite(6) for _ in range(6)]
        matrices[1] = matrices[1] * units * units[:, None]  # scaled as it would be alone
        blocks = [make(matrix) for matrix in [*matrices, make.general(6), -matrices[0]]]
        op, x = kronops.BlockDiagonalOperator(blocks), make(np.ones(48))
        found = op.backend.to_numpy(op.solve(x)).reshape(8, 6)
        rtol = 1e-10 if found.dtype == np.float64 else 1e-3
        for block, mine in zip(op.operators, found, strict=True):
            alone = kronops.DenseOperator(block.matrix)
            want = op.backend.to_numpy(alone.solve(x[:6]))
            np.testing.assert_allclose(mine, want, rtol=rtol)
            logdets = [float(op.backend.to_numpy(one.slogdet()[1])) for one in (block, alone)]
            assert logdets[0] == pytest.approx(logdets[1], rel=rtol)


@pytest.mark.parametrize(
    ("library", "dtype"),
    [
        (library, dtype)
        for library in LIBRARIES
        for dtype in ("float64", "float32")  # inverses that are refined, and written out
        if dtype in LIBRARIES[library].dtypes
    ],
)
def test_blocks_of_one_size_are_multiplied_together(library, dtype):
    with LIBRARIES[library].maker(dtype) as make:
        matrices = [make.general(2), *(make.definite(3) for _ in range(5)), make.definite(3) * 1e-9]
        op, x = kronops.block_diag(*map(make, matrices)), make.draw(3, 20, 2)
        rtol = 1e-10 if dtype == "float64" else 1e-4
        for one, of_block in ((op, np.asarray), (op.inverse(), np.linalg.inv)):
            found = op.backend.to_numpy(one @ make(x))
            start = 0
            for matrix in matrices:
                mine = slice(start, start + len(matrix))
                want = of_block(matrix) @ x[:, mine, :]
                np.testing.assert_allclose(found[:, mine, :], want, rtol, rtol * abs(want).max())
                start += len(matrix)
            if library in ("numpy", "torch", "array_api_strict"):
                alone, together = one._runs
                assert not alone.stacks and together.stacks[0].shape == (6, 3, 3)


def test_stacks_leave_alone_what_is_better_solved_with():
    rng = np.random.default_rng(0)
    matrices = [with_condition(16, 10.0**k, rng)[0] for k in (1, 2, 3, 11)]
    op = kronops.block_diag(*matrices)
    solved = op.inverse() @ np.ones(64)
    assert len(op._runs) == 1 and len(op.inverse()._runs) == 4
    for matrix, x in zip(matrices, solved.reshape(4, 16), strict=True):
        assert backward_error(matrix, x, np.ones(16)) < 10 * 16 * EPS


@pytest.mark.parametrize("conditions", [(2, 9, 40, 150), (2, 9, 40, 1e5), (1e4, 1e5, 1e6, 1e6)])
def test_stacks_are_of_written_inverses_where_all_are_as_good_as_solves(conditions):
    """Else all are refined, those too that need not be: in either way within what is allowed."""
    rng = np.random.default_rng(0)
    pairs = [with_condition(16, condition, rng) for condition in conditions]
    op = kronops.block_diag(*(matrix for matrix, _ in pairs))
    b = np.concatenate([vectors for _, vectors in pairs])  # the worst right-hand sides
    x = op.solve(b).reshape(4, 16, 16)
    (run,) = op.inverse()._runs
    written = all(np.linalg.cond(matrix, 1) <= 160 for matrix, _ in pairs)
    assert len(run.stacks) == (1 if written else 2)
    for (matrix, vectors), mine in zip(pairs, x, strict=True):
        assert backward_error(matrix, mine, vectors) < 10 * 16 * EPS


def test_blocks_are_first_factorised_inside_jit_and_then_used_outside():
    """They are factorised at once, as other constants are: no tracer is kept."""
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    matrices = [with_condition(6, 10.0, rng)[0].astype(np.float32) for _ in range(5)]
    op, x = kronops.block_diag(*map(jax.numpy.asarray, matrices)), jax.numpy.ones(30)
    want = np.concatenate([np.linalg.solve(matrix, np.ones(6)) for matrix in matrices])
    inside = jax.jit(lambda b: (op.logdet(), op.solve(b)))(x)
    for logdet, solved in (inside, (op.logdet(), op.solve(x))):
        np.testing.assert_allclose(solved, want, rtol=1e-4)
        np.testing.assert_allclose(logdet, np.linalg.slogdet(matrices)[1].sum(), rtol=1e-4)


def test_stacks_are_factorised_by_one_call_and_leave_alone_what_is_not_good(monkeypatch):
    rng = np.random.default_rng(0)
    good = [with_condition(16, 1e3, rng)[0] for _ in range(20)]
    op = kronops.BlockDiagonalOperator(good)
    calls, plain = [], np.linalg.cholesky
    monkeypatch.setattr(
        np.linalg, "cholesky", lambda stack: calls.append(stack.shape) or plain(stack)
    )
    op.solve(np.ones(320)), op.logdet()
    assert calls == [(20, 16, 16)]
    conditions = [block._condition for block in op.operators]
    np.testing.assert_allclose(conditions, [np.linalg.cond(m, 1) for m in good], rtol=1e-9)
    near = kronops.BlockDiagonalOperator([*good, with_condition(16, 3e15, rng)[0]])
    with pytest.warns(kronops.LinAlgWarning, match=r"blocks\[20\]"):
        near.solve(np.ones(336))
    lost = kronops.BlockDiagonalOperator([*good, np.ones((16, 16))])
    with pytest.raises(kronops.LinAlgError, match=r"blocks\[20\].*singular: add damping"):
        lost.solve(np.ones(336))
