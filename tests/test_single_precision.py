"""Matrices of single precision are factorised in double: forward errors that show it.

In single precision the solves below are wrong by hundreds of units of rounding and more.
Eigenvalues and determinants are rounded once, whatever the condition number.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg

import kronops
from kronops import DenseOperator, SeriesOperator

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parametrize("library", [np.asarray, torch.asarray], ids=["numpy", "torch"])

EPS = float(np.finfo(np.float32).eps)


def matrix(n, symmetric, dtype=np.float32, condition=1e4):
    rng = np.random.default_rng(n)
    draw = rng.standard_normal((2, n, n)) + 1j * rng.standard_normal((2, n, n))
    left, right = np.linalg.qr(draw if np.dtype(dtype).kind == "c" else draw.real)[0]
    made = left * np.geomspace(1.0, 1.0 / condition, n)
    made = made @ (left.conj().T if symmetric else right)
    return ((made + made.conj().T) / 2 if symmetric else made).astype(dtype)


def units(got, want):
    """The largest error in units of rounding of the largest entry."""
    got = np.asarray(got)
    assert got.dtype.itemsize * 2 == np.asarray(want).dtype.itemsize  # as narrow as was given
    return np.abs(got - want).max() / np.abs(want).max() / EPS


@pytest.mark.parametrize("n", [10, 40, 300])
@pytest.mark.parametrize("symmetric", [True, False])
def test_solves(library, n, symmetric):
    a = matrix(n, symmetric)
    b = np.random.default_rng(0).standard_normal((n, 2)).astype(np.float32)
    op, wide = DenseOperator(library(a)), a.astype(float)
    assert units(op.solve(library(b)), np.linalg.solve(wide, b.astype(float))) < 1
    assert units(op.H.solve(library(b)), np.linalg.solve(wide.T, b.astype(float))) < 1
    assert units(op.inverse().to_dense(), np.linalg.inv(wide)) < 1
    assert units(op.logdet() if symmetric else op.slogdet()[1], np.linalg.slogdet(wide)[1]) < 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_determinants_near_one(library, symmetric):
    """Of 300 rows: the logarithms of pivots cancel, and what rounding they had would not."""
    a = matrix(300, symmetric) * np.float32(100)
    want = np.linalg.slogdet(a.astype(float))[1]
    assert abs(want) < 1
    assert units(DenseOperator(library(a)).slogdet().logabsdet, want) < 1


@pytest.mark.parametrize("n", [20, 300])
def test_complex_and_extreme_entries(library, n):
    a = matrix(n, False, np.complex64) * np.float32(1e30)
    b = np.ones((n, 1), np.complex64)
    op = DenseOperator(library(a))
    assert units(op.solve(library(b)), np.linalg.solve(a.astype(complex), b)) < 1
    sign, logabsdet = np.linalg.slogdet(a.astype(complex))
    assert units(op.slogdet().logabsdet, logabsdet) < 1
    assert units(op.slogdet().sign, sign) < 1


@pytest.mark.parametrize("size", [2.0**-9, 1.0, 2.0**15])
@pytest.mark.parametrize("condition", [10.0, 100.0])
def test_half_precision(library, size, condition):
    """Neither norms nor scaled sides may leave its range, nor may scaling make it singular."""
    a = (matrix(200, False, np.float16, condition) * size).astype(np.float16)
    b = np.full(200, 2.0**-4 * max(size, 1.0), np.float16)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        op = DenseOperator(library(a))
        got = np.asarray(op.solve(library(b)))
    assert {warning.category for warning in said} == {kronops.LinAlgWarning}
    wide = a.astype(float)
    want = np.linalg.solve(wide, b.astype(float))
    assert got.dtype == np.float16
    assert np.abs(got - want).max() < np.finfo(np.float16).eps * np.abs(want).max()
    assert 0.3 < op._condition / np.linalg.cond(wide, 1) <= 2


def test_cholesky_factors_and_definiteness(library):
    """Definite by less than rounding in single precision."""
    a = scipy.linalg.hilbert(7).astype(np.float32)
    lower = DenseOperator(library(a), "positive definite").cholesky().to_dense()
    assert units(lower, np.linalg.cholesky(a.astype(float))) < 1


def test_eigenvalues_and_singular_values(library):
    a = matrix(30, True)
    values = np.asarray(DenseOperator(library(a)).eigh().eigenvalues)
    want = np.linalg.eigvalsh(a.astype(float))
    assert values.dtype == np.float32
    assert np.all(np.abs(values - want) < EPS * want)
    singular = np.asarray(DenseOperator(library(matrix(30, False))).svd().S)
    want = np.linalg.svd(matrix(30, False).astype(float))[1]
    assert singular.dtype == np.float32
    assert np.all(np.abs(singular - want) < EPS * want)


def test_general_factors_that_are_damped(library):
    a, b = matrix(6, False, condition=1e2), matrix(5, False, condition=1e2)
    op = kronops.kron(library(a), library(b)).damped(0.01)
    x = np.random.default_rng(1).standard_normal(30).astype(np.float32)
    assert op.solve(library(x)).dtype == library(x).dtype
    want = np.linalg.solve(np.kron(a.astype(float), b) + 0.01 * np.eye(30), x.astype(float))
    assert units(op.solve(library(x)), want) < 2000


@pytest.mark.parametrize("option", [1, 2])
def test_series(library, option):
    moments = []
    for n in (6, 5):
        c0 = matrix(n, True)
        w, q = np.linalg.eigh(c0.astype(float))
        root = (q * np.sqrt(w)) @ q.T
        lag = matrix(n, False, np.float64, 3.0) * 0.99
        moments.append((c0, (root @ lag @ root).astype(np.float32)))
    op = SeriesOperator(*[tuple(map(library, pair)) for pair in moments], 20, option)
    wide = SeriesOperator(*[tuple(m.astype(float) for m in p) for p in moments], 20, option)
    v = np.random.default_rng(2).standard_normal((6, 5)).astype(np.float32)
    assert units(op.multiply_inverse(library(v)), wide.multiply_inverse(v.astype(float))) < 12
    assert units(op.multiply(library(v)), wide.multiply(v.astype(float))) < 6
    assert units(op.logdet(), wide.logdet()) < 4
    assert op.logdet().dtype == library(v).dtype
