"""scipy.sparse.linalg takes kronops operators as they are, as ``A`` and as ``M``."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg as sla
from zoo import Maker, moments

import kronops
from kronops import kron

rng = np.random.default_rng(0)


def definite(n):
    a = rng.standard_normal((n, n))
    return a @ a.T / n + 0.1 * np.eye(n)


A, B = definite(8), definite(7)
K = kron(A, B)
PERTURBED = K + kronops.DiagonalOperator(rng.uniform(0, 0.1, 56))
PRECONDITIONER = K.damped(0.05).inverse()
b = rng.standard_normal(56)
DENSE = PERTURBED.to_dense()
WANT = np.linalg.solve(DENSE, b)


SOLVERS = ["cg", "minres", "gmres", "bicgstab", "lgmres", "gcrotmk", "tfqmr"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_iterative_solvers(solver):
    x, info = getattr(sla, solver)(PERTURBED, b, rtol=1e-12, maxiter=2000)
    assert info == 0
    np.testing.assert_allclose(x, WANT, rtol=1e-6)


@pytest.mark.parametrize("solver", ["cg", "minres", "gmres", "bicgstab"])
def test_preconditioners(solver):
    plain, preconditioned = [], []
    getattr(sla, solver)(PERTURBED, b, rtol=1e-8, callback=plain.append, **legacy(solver))
    x, info = getattr(sla, solver)(
        PERTURBED, b, rtol=1e-8, M=PRECONDITIONER, callback=preconditioned.append, **legacy(solver)
    )
    assert info == 0 and len(preconditioned) < len(plain) / 2
    np.testing.assert_allclose(x, WANT, rtol=1e-4, atol=1e-6)


def legacy(solver):
    return {"callback_type": "pr_norm"} if solver == "gmres" else {}


def test_an_exact_inverse_needs_one_iteration():
    steps = []
    _, info = sla.cg(K.damped(0.1), b, M=K.damped(0.1).inverse(), callback=steps.append)
    assert info == 0 and len(steps) == 1


@pytest.mark.parametrize("solver", ["lsqr", "lsmr"])
def test_least_squares(solver):
    tall = kron(rng.standard_normal((6, 4)), rng.standard_normal((5, 3)))
    c = rng.standard_normal(30)
    limit = {"lsqr": {"iter_lim": 500}, "lsmr": {"maxiter": 500}}[solver]
    x = getattr(sla, solver)(tall, c, atol=1e-13, btol=1e-13, conlim=0, **limit)[0]
    np.testing.assert_allclose(x, np.linalg.lstsq(tall.to_dense(), c)[0], rtol=1e-8)


def test_eigenvalues_and_singular_values():
    largest = sla.eigsh(PERTURBED, k=3, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(largest), np.linalg.eigvalsh(DENSE)[-3:], rtol=1e-10)
    inverse = kronops.DenseOperator(DENSE).inverse()
    smallest = sla.eigsh(PERTURBED, k=2, sigma=0, OPinv=inverse, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(smallest), np.linalg.eigvalsh(DENSE)[:2], rtol=1e-8)
    rectangle = kron(rng.standard_normal((5, 4)), rng.standard_normal((6, 5)))
    values = sla.svds(rectangle, k=2, return_singular_vectors=False)
    want = np.linalg.svd(rectangle.to_dense(), compute_uv=False)[:2]
    np.testing.assert_allclose(np.sort(values), np.sort(want), rtol=1e-8)
    general = sla.eigs(kron(A, rng.standard_normal((7, 7))), k=1, return_eigenvectors=False)
    assert np.isfinite(general).all()


def test_complex_systems():
    a = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4))
    op = kron(a @ a.conj().T + np.eye(4), B)
    c = rng.standard_normal(28) + 1j * rng.standard_normal(28)
    x, info = sla.cg(op, c, rtol=1e-12, maxiter=1000)
    assert info == 0
    np.testing.assert_allclose(x, op.solve(c), rtol=1e-6)


def test_to_scipy_composes_with_scipys_operators():
    adapted = K.to_scipy() + sla.aslinearoperator(np.eye(56))
    np.testing.assert_allclose(adapted.matvec(b), K @ b + b)
    np.testing.assert_allclose(K.to_scipy().matmat(np.eye(56)), K.to_dense(), atol=1e-13)
    np.testing.assert_allclose(K.to_scipy().H.matvec(b), K.H @ b)


def test_numpy_arrays_on_the_left():
    x = rng.standard_normal((3, 56))
    np.testing.assert_allclose(x @ K, x @ K.to_dense(), atol=1e-12)
    np.testing.assert_allclose(b @ K, b @ K.to_dense(), atol=1e-12)


@pytest.mark.parametrize("name", ["cg", "eigsh"])
def test_series_blocks(name):
    make = Maker(np, "float64")
    sides = [moments(make, 4), moments(make, 3)]
    for option in (1, 2):
        op = kronops.SeriesOperator(*sides, 6, option)
        if name == "cg":
            x, info = sla.cg(op, np.ones(12), rtol=1e-10)
            assert info == 0
            np.testing.assert_allclose(x, op.solve(np.ones(12)), rtol=1e-6)
        else:
            top = sla.eigsh(op, k=1, return_eigenvectors=False)
            np.testing.assert_allclose(top, np.linalg.eigvalsh(op.to_dense())[-1:], rtol=1e-9)
