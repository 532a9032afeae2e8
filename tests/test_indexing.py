"""``op[rows, columns]``: what NumPy gives for the matrix, as an array or as an operator."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest

import kronops
from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    LinearOperator,
    ToeplitzOperator,
    kron,
)

rng = np.random.default_rng(0)
A, B = rng.standard_normal((2, 3)), rng.standard_normal((4, 2)) + 1j
K = kronops.KroneckerOperator([A, B], scale=2.0)
SQUARE = rng.standard_normal((6, 6))
OPS = {
    "kronecker": K,
    "dense": DenseOperator(rng.standard_normal((5, 6))),
    "diagonal": DiagonalOperator(rng.standard_normal(6)),
    "identity": kronops.IdentityOperator(6, like=np.zeros(1)),
    "scaled": 2j * DenseOperator(SQUARE),
    "sum": kron(A, B) + DenseOperator(rng.standard_normal((8, 6))),
    "product": K.H @ DiagonalOperator(rng.standard_normal(8)),
    "toeplitz": ToeplitzOperator(rng.standard_normal(5), rng.standard_normal(6)),
    "low rank": kronops.LowRankUpdateOperator(SQUARE, rng.standard_normal((6, 2))),
    "masked": kronops.MaskedOperator(kron(SQUARE, np.ones((1, 1))), np.arange(6) != 3),
    "damped": kron(SQUARE[:2, :2], SQUARE[:3, :3]).damped(1.0),
}
KEYS = [
    (0,),
    (-1,),
    (2, 3),
    (-1, -2),
    (2, slice(None)),
    (slice(None), 1),
    (..., 1),
    (1, ...),
    (1, slice(1, 4)),
    (slice(None, None, -2), 2),
    (2, [3, 0]),
    (slice(1, 3),),
    (slice(None), slice(None, None, 2)),
    (slice(3, 1), slice(0, 2)),
    ([3, 0, -1],),
    (slice(None), np.asarray([4, 0])),
    ([2, 1], slice(1, 3)),
    (..., [1]),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_as_of_the_matrix(name, key):
    op = OPS[name]
    want, made = op.to_dense()[key], op[key]
    if isinstance(made, LinearOperator):
        assert not any(isinstance(index, int) for index in key)
        x = rng.standard_normal((made.shape[1], 2))
        np.testing.assert_allclose(made @ x, want @ x, atol=1e-12)
        y = rng.standard_normal((made.shape[0], 2))
        np.testing.assert_allclose(made.H @ y, want.conj().T @ y, atol=1e-12)
        np.testing.assert_allclose(made.T @ y, want.T @ y, atol=1e-12)
        made = made.to_dense()
    assert made.shape == want.shape and made.dtype == want.dtype
    np.testing.assert_allclose(made, want, atol=1e-12)


def test_submatrices():
    """What masks take of their base."""
    rows, columns = np.asarray([5, 2, 7]), np.asarray([1, 4, 1])
    for op in OPS.values():
        made = op._submatrix(rows[:2] % op.shape[0], columns)
        want = op.to_dense()[rows[:2] % op.shape[0]][:, columns]
        np.testing.assert_allclose(made, want, atol=1e-12)
    made = K._submatrix(rows, columns)
    np.testing.assert_allclose(made, K.to_dense()[rows][:, columns])


def test_booleans():
    rows = np.asarray([True, False] * 4)
    np.testing.assert_allclose(K[rows].to_dense(), K.to_dense()[rows])
    with pytest.raises(IndexError, match="row index has 3 booleans: 8 would do"):
        K[rows[:3]]


def test_rows_then_columns():
    rows, columns = [5, 2, 7], [1, 4]
    part = K[rows][:, columns]
    np.testing.assert_allclose(part.to_dense(), K.to_dense()[rows][:, columns])
    assert [type(factor).__name__ for factor in part.factors][1] == "KroneckerOperator"
    assert type(OPS["dense"][[0, 2]][:, 1:]) is DenseOperator
    np.testing.assert_allclose(K[rows][1:].to_dense(), K.to_dense()[rows][1:])
    assert len(K[rows][1:].factors) == 2
    assert K[:] is K and K[...] is K and K[:, :] is K


def test_entries_of_what_nobody_could_write_out():
    op = kronops.KroneckerOperator([np.asarray([[1.0, 2.0], [3.0, 0.5]])] * 70)
    n = 2**70
    assert op[n - 1, n - 1] == 0.5**70
    assert op[0, -1] == 2.0**70
    assert op[0, 1 << 69] == 2.0
    with pytest.raises(IndexError, match=f"row {n} is out of range: there are {n}"):
        op[n]


def test_entries_of_huge_sums():
    """By those of the terms: of what is damped, of sums and of multiples."""
    a, b = np.asarray([[1.0, 2.0], [2.0, 0.5]]), np.asarray([[0.5, 1.0], [1.0, 4.0]])
    op, other = (kronops.kron(*[factor] * 70) for factor in (a, b))
    i, n = 2**65, 2**70
    assert op.damped(0.25)[0, 0] == 1.25
    assert op.damped(0.25)[0, i] == op[0, i] == 2.0
    assert (2 * (op + other))[0, n - 1] == 2 * (2.0**70 + 1)
    assert (op + 3 * IdentityOperator(n, like=a))[0, 0] == 4
    total = kronops.KroneckerSumOperator([a] * 70).damped(0.5)
    assert total[0, 0] == 70.5 and total[0, i] == 2 and total[0, 3] == 0


def test_a_row_is_no_view():
    op = DenseOperator(SQUARE)
    op[0][:] = 7
    op[:, 0][:] = 7
    np.testing.assert_array_equal(op.to_dense(), SQUARE)


@pytest.mark.parametrize(
    "key, message",
    [
        (8, "row 8 is out of range: there are 8"),
        ((0, -7), "column -7 is out of range"),
        ([0, 8], "row 8 is out of range"),
        ([-9, 0], "row -9 is out of range"),
        ((0, None), "column index is None: an integer, a slice"),
        (True, "row index is a bool"),
        (1.0, "row index is a float"),
        ("a", "row index is a str"),
        ([1.0], "dtype float64: one axis of integers"),
        ([[1]], r"shape \(1, 1\)"),
        ((0, 0, 0), "has 3 indices: rows and columns"),
        ((..., ...), "has 2 indices"),
        (([0], [1]), r"op\[rows\]\[:, columns\]"),
        ([1, 1], "repeated entries"),
        ([1, -7], "repeated entries"),
    ],
    ids=str,
)
def test_what_is_no_index_is_refused(key, message):
    with pytest.raises(IndexError, match=message):
        K[key]


def test_an_operator_is_not_iterated_over():
    with pytest.raises(TypeError, match="not iterable"):
        iter(K)


def test_an_index_that_cannot_be_seen():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    with pytest.raises(IndexError, match="cannot be seen here"):
        jax.jit(lambda rows: K[rows].shape)(np.arange(2))


@pytest.mark.parametrize("name", ["array_api_strict", "torch", "jax.numpy"])
def test_every_library(name):
    xp = pytest.importorskip(name, reason=f"{name} is not installed")
    a, b = (m.astype(np.float32) for m in (A, B.real))
    op, matrix = kron(xp.asarray(a), xp.asarray(b)), np.kron(a, b)
    numpy = op.backend.to_numpy
    assert float(op[1, 2]) == pytest.approx(matrix[1, 2])
    np.testing.assert_allclose(numpy(op[3]), matrix[3], rtol=1e-6)
    np.testing.assert_allclose(numpy(op[:, 3]), matrix[:, 3], rtol=1e-6)
    rows = xp.asarray([3, 1])
    np.testing.assert_allclose(numpy(op[rows, 1:3].to_dense()), matrix[[3, 1], 1:3], rtol=1e-6)
    np.testing.assert_allclose(numpy(op[rows, 1]), matrix[[3, 1], 1], rtol=1e-6)


def test_the_conformance_suite():
    from kronops.testing import check_operator

    for xp in (np, array_api_strict):
        op = kron(*(xp.asarray(factor) for factor in (SQUARE[:2, :2], SQUARE[:3, :3])))
        check_operator(op[1:5, [0, 4, 2]])
