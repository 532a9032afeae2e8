"""Sums of Kronecker products: which have a closed form, which, and what is done with the others."""

from __future__ import annotations

import importlib
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import Maker

import kronops
from kronops import DensificationWarning, LinAlgError, LinAlgWarning, kron
from kronops.linalg import cg, iterative_solve

pytestmark = pytest.mark.filterwarnings("error::kronops.errors.DensificationWarning")
MAKE = Maker(np, "float64")
A, C = MAKE.definite(3), MAKE.definite(3)
B, D = MAKE.definite(4), MAKE.definite(4)


def kernel(n, scale, nugget=1e-6):
    points = np.arange(n)
    return np.exp(-((points[:, None] - points) ** 2) / (2 * scale**2)) + nugget * np.eye(n)


def dense(*factors):
    made = np.ones((1, 1))
    for factor in factors:
        made = np.kron(made, factor)
    return made


def structure(op):
    return type(op._structure).__name__


# -- which identity --------------------------------------------------------------------------------

P, Q = MAKE.symmetric(3), MAKE.symmetric(4)
G, H = MAKE.general(3), MAKE.general(4)
IDENTITY = [kronops.IdentityOperator(n, like=A) for n in (3, 4)]
LINES = np.arange(1.0, 4.0), np.arange(2.0, 6.0)
SUMS = {
    "a definite pair": (kron(P, Q) + kron(C, D), "CongruentOperator"),
    "each term definite on another axis": (kron(P, B) + kron(C, Q), "CongruentOperator"),
    "general beside definite": (kron(G, H) + 2.0 * kron(C, D), "CongruentOperator"),
    "definite before general": (kron(C, D) - kron(G, H), "CongruentOperator"),
    "Sylvester's, generalised": (kron(G, B) + kron(C, H), "CongruentOperator"),
    "an outer diagonal": (
        kron(A, B) + kronops.DiagonalOperator(np.outer(*LINES)),
        "CongruentOperator",
    ),
    "polynomials of one pair": (
        kron(P, Q) + kron(P @ P, Q) + kron(P, Q @ Q @ Q) + kron(np.eye(3), Q @ Q),
        "KroneckerEigenOperator",
    ),
    "a Kronecker sum and a product": (
        kronops.KroneckerSumOperator([A, B]) + kron(A @ A, B),
        "KroneckerEigenOperator",
    ),
    "identities as factors": (
        kron(A, IDENTITY[1]) + kron(IDENTITY[0], B) + kron(A, B),
        "KroneckerEigenOperator",
    ),
    "stiffness and mass, with reaction": (
        kron(P, B) + kron(A, Q) + 0.5 * kron(A, B) + kron(A, B).damped(0.0) * 0.25,
        "CongruentOperator",
    ),
}


def test_real_and_complex_factors_of_one_axis():
    """Each is taken in the dtype that both have in common, whichever is the reference."""
    make = Maker(np, "complex128")
    complex_ = make.definite(3), make.definite(4)
    for other, scale in (((A, B), 1.0), ((A, B), -0.5), ((P, Q), 1.0)):
        for pair in ((other, complex_), (complex_, other)):
            op = kron(*pair[0]) + scale * kron(*pair[1])
            matrix, b = op.to_dense(), make.draw(12)
            assert op._structure is not None
            np.testing.assert_allclose(op.solve(b), np.linalg.solve(matrix, b), rtol=1e-9)
            np.testing.assert_allclose(op.slogdet(), np.linalg.slogdet(matrix), atol=1e-9)
    diagonal = kronops.DiagonalOperator(np.outer(*LINES))
    for op in (kron(*complex_) + diagonal, diagonal - kron(*complex_)):
        b = make.draw(12)
        np.testing.assert_allclose(op.solve(b), np.linalg.solve(op.to_dense(), b), rtol=1e-9)


@pytest.mark.parametrize("name", SUMS)
def test_which_sums_are_solved_by_structure(name):
    op, expected = SUMS[name]
    matrix = op.to_dense()
    assert structure(op) == expected
    b = MAKE.draw(12)
    np.testing.assert_allclose(op.solve(b), np.linalg.solve(matrix, b), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(op.inverse().to_dense(), np.linalg.inv(matrix), atol=1e-9)
    np.testing.assert_allclose(op.slogdet(), np.linalg.slogdet(matrix), rtol=1e-10)
    assert "written out" not in op.explain().split("\neigh:")[0]


def test_a_common_eigenbasis_gives_every_function():
    p, q = P @ P, Q @ Q
    op = kron(p, q) + kron(p @ p, np.eye(4)) + kron(np.eye(3), q @ q)
    matrix = op.to_dense()
    assert isinstance(op.sqrt(), kronops.KroneckerEigenOperator)
    np.testing.assert_allclose(op.sqrt().to_dense(), scipy.linalg.sqrtm(matrix), atol=1e-9)
    np.testing.assert_allclose(op.eigh().eigenvalues, np.linalg.eigvalsh(matrix), rtol=1e-10)
    np.testing.assert_allclose(op.logm().to_dense(), scipy.linalg.logm(matrix), atol=1e-9)
    np.testing.assert_allclose(op.pinv().to_dense(), np.linalg.inv(matrix), atol=1e-9)


def test_the_frobenius_norm_takes_no_products(monkeypatch):
    factors = [(MAKE.draw(20, 30), MAKE.draw(40, 10)) for _ in range(3)]
    op = sum((kron(*pair) for pair in factors[1:]), start=kron(*factors[0]))
    want = np.linalg.norm(sum(dense(*pair) for pair in factors))
    assert op.norm() == pytest.approx(want, rel=1e-13)
    tiny = kron(A, B) + kron(A + 1e-9 * C, -B)  # what is left after nine digits cancel
    assert tiny.norm() == pytest.approx(1e-9 * np.linalg.norm(dense(C, B)), rel=1e-5)
    blocks = [kron(np.eye(300) + i, np.ones((200, 200)) + i * np.eye(200)) for i in (1, 2, 3)]
    many = sum(blocks[1:], start=blocks[0])  # of order 60,000: by columns it would take minutes
    monkeypatch.delattr(kronops.SumOperator, "_matmat")
    assert many.norm() <= sum(float(block.norm()) for block in blocks)


def test_draws_have_the_covariance_also_of_the_inverse():
    difference = 3.0 * kron(A, B) - 0.1 * kron(C, D)  # the second term alone is no covariance
    root = difference._root()
    np.testing.assert_allclose((root @ root.H).to_dense(), difference.to_dense(), atol=1e-12)
    op, count = kron(A, B) + kron(C, D), 200_000
    for inverse in (False, True):
        want = np.linalg.inv(op.to_dense()) if inverse else op.to_dense()
        draws = op.sample(np.random.default_rng(0), (count,), inverse=inverse)
        error = np.abs(draws.T @ draws / count - want).max()
        assert error < 6 * np.abs(want).max() / np.sqrt(count)


@pytest.mark.parametrize(
    "op",
    [
        kron(P, Q) + kron(MAKE.symmetric(3), MAKE.symmetric(4)),
        kron(A, B) + kron(C, D) + kron(MAKE.definite(3), MAKE.definite(4)),
        kron(A, B) + kronops.DiagonalOperator(np.arange(1.0, 13.0)),
        kron(G, H) + kron(MAKE.general(3), MAKE.general(4)),
    ],
    ids=["indefinite", "three unlike", "a diagonal that is no outer product", "general"],
)
def test_sums_without_a_closed_form_say_so(op):
    assert op._structure is None
    assert "written out as a dense matrix" in op.explain()
    with pytest.raises(DensificationWarning, match="iterative_solve"):
        op.solve(np.ones(12))


def test_a_singular_sum_is_an_error():
    diagonals = np.diag([1.0, 2.0, 4.0]), np.diag([1.0, 3.0])
    singular = kron(*diagonals) - 3.0 * kron(4.0 * np.eye(3), np.diag([1.0, 0.25]))
    with pytest.raises(LinAlgError, match="singular"):
        singular.solve(np.ones(6))
    with pytest.raises(LinAlgError, match="singular"):
        singular.inverse()
    values, others = (scipy.linalg.eigh(*pair, eigvals_only=True) for pair in ((A, C), (B, D)))
    to_rounding = kron(A, B) - values[0] * others[1] * kron(C, D)
    with pytest.raises((LinAlgError, LinAlgWarning), match=r"singular|condition number"):
        to_rounding.solve(np.ones(12))


@pytest.mark.parametrize("seed", range(20))
def test_semidefinite_factors_are_no_reference(seed):
    """Rounding may make one pass for definite; the sum is harmless, and written out."""
    half = np.random.default_rng(seed).normal(size=(3, 2))
    indefinite = np.array([[1.0, 2.0, 0.0], [2.0, -1.0, 1.0], [0.0, 1.0, 2.0]])
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    op = kron(np.diag([1.0, 2.0]), indefinite) + kron(swap, half @ half.T)
    matrix = op.to_dense()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        x, found = op.solve(np.ones(6)), op.slogdet()
    condition = np.linalg.cond(matrix)
    np.testing.assert_allclose(matrix @ x, np.ones(6), atol=1e-13 * condition)
    np.testing.assert_allclose(found, np.linalg.slogdet(matrix), atol=1e-12 * condition)


def test_a_factor_of_zeros_in_single_precision():
    single = np.float32
    first = kron(2 * np.eye(2, dtype=single), np.asarray([[2, 1], [1, 2]], single))
    op = first + kron(np.asarray([[1, 0.5], [0.5, 3]], single), np.zeros((2, 2), single))
    np.testing.assert_allclose(op.solve(np.ones(4, single)), np.full(4, 1 / 6), rtol=1e-6)
    assert op.logdet() == pytest.approx(np.log(16 * 9), rel=1e-6)


def test_long_diagonals_are_not_written_out():
    n = 1000
    lines = [kronops.DiagonalOperator(np.linspace(1.0, 2.0 + i, n)) for i in range(2)]
    op = kron(lines[0], A) + kron(lines[1], C)
    b = np.ones(3 * n)
    tracemalloc.start()
    try:
        x = op.solve(b)
        assert tracemalloc.get_traced_memory()[1] < 8 * n**2 / 4
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(op @ x, b, rtol=1e-10)


def test_diagonals_whose_condition_number_no_float_holds():
    line = np.asarray([1e-160, 1.0, 1e160])
    op = kron(kronops.DiagonalOperator(line), A) + kron(np.eye(3), C)
    want = sum(np.linalg.slogdet(entry * A + C).logabsdet for entry in line)
    assert op.logdet() == pytest.approx(want, rel=1e-14)


def test_solves_are_backward_stable_beside_ill_conditioned_terms():
    """A definite term of condition number 1e10 whitens badly; the residual mends it."""
    ill = ill_conditioned(6, 1e10)
    op = kron(MAKE.symmetric(6), MAKE.symmetric(5)) + kron(ill, MAKE.definite(5))
    assert structure(op) == "CongruentOperator"
    b = MAKE.draw(30)
    x = op.solve(b)
    size = np.linalg.norm(op.to_dense(), 2)
    allowed = 10 * np.finfo(float).eps * 11 * (size * np.linalg.norm(x) + np.linalg.norm(b))
    assert np.linalg.norm(op @ x - b) <= allowed


def ill_conditioned(n, condition):
    rotation, _ = np.linalg.qr(MAKE.draw(n, n))
    made = (rotation * np.geomspace(1.0, 1.0 / condition, n)) @ rotation.T
    return (made + made.T) / 2


@pytest.mark.parametrize("condition", [1e2, 1e5, 1e9, 1e12])
def test_the_determinant_is_as_accurate_as_is_said(condition):
    for _ in range(10):
        ill = ill_conditioned(6, condition)
        op = kron(MAKE.symmetric(6), MAKE.symmetric(5)) + kron(ill, MAKE.definite(5))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", LinAlgWarning)
            logabsdet = op.slogdet().logabsdet
        matrix = op.to_dense()
        error = abs(logabsdet - np.linalg.slogdet(matrix).logabsdet)
        said = 10 * np.finfo(float).eps * op._structure.condition
        assert error <= said * np.linalg.cond(matrix)
        assert bool(caught) == (condition > 1e8)


# -- random instances ------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4).filter(lambda ns: np.prod(ns) <= 48)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    sizes,
    st.integers(0, 2**32 - 1),
    st.sampled_from(["float64", "complex128"]),
    st.sampled_from(["symmetric", "definite", "general"]),
    st.floats(-2.0, 2.0).filter(lambda c: abs(c) > 0.01),
)
def test_pairs_of_any_shape(sizes, seed, dtype, kind, scale):
    """``A1 ⊗ … ⊗ AN + c C1 ⊗ … ⊗ CN`` with definite ``Cᵢ``, against the matrix."""
    make = Maker(np, dtype, seed)
    free = [getattr(make, kind)(n) for n in sizes]
    definite = [make.definite(n) for n in sizes]
    op = kron(*free) + scale * kron(*definite)
    matrix = dense(*free) + scale * dense(*definite)
    np.testing.assert_allclose(op.to_dense(), matrix, atol=1e-12 * np.abs(matrix).max())
    if isinstance(op, kronops.SumOperator):
        assert structure(op) in ("CongruentOperator", "KroneckerEigenOperator")
    condition = np.linalg.cond(matrix)
    if condition > 1e8:
        return
    x = make.draw(len(matrix))
    np.testing.assert_allclose(op.solve(matrix @ x), x, rtol=0, atol=1e-13 * condition * 100)
    sign, logabsdet = op.slogdet()
    want = np.linalg.slogdet(matrix)
    assert abs(sign - want[0]) < 1e-6 and abs(logabsdet - want[1]) < 1e-11 * condition


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(sizes, st.integers(0, 2**32 - 1), st.sampled_from(["float64", "complex128"]))
def test_stiffness_and_mass_of_any_shape(sizes, seed, dtype):
    """``Σ M1 ⊗ … ⊗ Kᵢ ⊗ … ⊗ MN``, the finite elements of a box, with a reaction term."""
    make = Maker(np, dtype, seed)
    mass, stiffness = [make.definite(n) for n in sizes], [make.definite(n) for n in sizes]
    products = [mass] + [[*mass[:i], stiffness[i], *mass[i + 1 :]] for i in range(len(sizes))]
    first, *rest = (kron(*factors) for factors in products)
    op, matrix = sum(rest, start=first), sum(dense(*factors) for factors in products)
    if isinstance(op, kronops.SumOperator):
        assert structure(op) in ("CongruentOperator", "KroneckerEigenOperator")
    x = make.draw(len(matrix))
    condition = np.linalg.cond(matrix)
    np.testing.assert_allclose(op.solve(matrix @ x), x, rtol=0, atol=1e-13 * condition * 100)
    assert abs(op.logdet() - np.linalg.slogdet(matrix)[1]) < 1e-11 * condition


# -- derivatives -----------------------------------------------------------------------------------


def test_derivatives_in_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def value(*matrices):
        a, b, c, d = (kronops.DenseOperator(m @ m.T, "positive definite") for m in matrices)
        op = kron(a, b) + kron(c, d)
        return op.logdet() + op.solve(torch.ones(12, dtype=torch.float64))[3]

    def of_matrix(a, b, c, d):
        matrix = torch.kron(a @ a.T, b @ b.T) + torch.kron(c @ c.T, d @ d.T)
        solved = torch.linalg.solve(matrix, torch.ones(12, dtype=torch.float64))
        return torch.logdet(matrix) + solved[3]

    for matrices in ((A, B, C, D), (np.eye(3), np.eye(4), np.eye(3), np.eye(4))):
        leaves = [torch.asarray(m).clone().requires_grad_() for m in matrices]
        got = torch.autograd.grad(value(*leaves), leaves)
        want = torch.autograd.grad(of_matrix(*leaves), leaves)
        for left, right in zip(got, want, strict=True):
            np.testing.assert_allclose(left.numpy(), right.numpy(), atol=1e-10)


def test_derivatives_and_programs_in_jax():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jnp = importlib.import_module("jax.numpy")

    def value(a, b, c, d):
        left, right, third, fourth = (
            kronops.DenseOperator(m @ m.T, "positive definite") for m in (a, b, c, d)
        )
        op = kron(left, right) + kron(third, fourth)
        return op.logdet() + op.solve(jnp.ones(12))[3]

    def of_matrix(a, b, c, d):
        matrix = jnp.kron(a @ a.T, b @ b.T) + jnp.kron(c @ c.T, d @ d.T)
        return jnp.linalg.slogdet(matrix)[1] + jnp.linalg.solve(matrix, jnp.ones(12))[3]

    with jax.enable_x64(True):
        for matrices in ((A, B, C, D), (np.eye(3), np.eye(4), np.eye(3), np.eye(4))):
            leaves = [jnp.asarray(m) for m in matrices]
            got = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*leaves)
            want = jax.grad(of_matrix, argnums=(0, 1, 2, 3))(*leaves)
            for left, right in zip(got, want, strict=True):
                np.testing.assert_allclose(left, right, atol=1e-10)


def test_claimed_factors_are_batched_in_jax():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jnp = importlib.import_module("jax.numpy")

    def solved(a):
        first, second = (kronops.DenseOperator(jnp.asarray(m), "positive definite") for m in (B, D))
        other = kronops.DenseOperator(jnp.asarray(P), "symmetric")
        op = kron(kronops.DenseOperator(a, "positive definite"), first) + kron(other, second)
        return op.solve(jnp.ones(12))

    with jax.enable_x64(True):
        stack = jnp.stack([jnp.asarray(A), jnp.asarray(C)])
        np.testing.assert_allclose(
            jax.vmap(solved)(stack), jnp.stack([solved(a) for a in stack]), rtol=1e-9, atol=1e-12
        )


# -- by products alone -----------------------------------------------------------------------------


def count(op, b, **options):
    steps = []
    cg(op, b, rtol=1e-8, callback=steps.append, **options)
    return len(steps)


NOISE = kronops.DiagonalOperator(10 ** np.random.default_rng(0).uniform(-2, 0, size=(20, 30)))
HARD = {
    "noise that differs from point to point": kron(kernel(20, 3.0), kernel(30, 5.0)) + NOISE,
    "three scales": kron(kernel(20, 5.0), kernel(30, 9.0))
    + kron(kernel(20, 2.0), kernel(30, 1.0))
    + 0.1 * kron(kernel(20, 1.0), kernel(30, 20.0))
    + 1e-3 * kronops.IdentityOperator(600, like=A),
}


@pytest.mark.parametrize("name", HARD)
def test_neighbours_precondition_sums(name):
    op = HARD[name]
    b = np.random.default_rng(1).standard_normal(600)
    x, residual, iterations = iterative_solve(op, b, rtol=1e-8)
    assert residual <= 1e-8 * np.linalg.norm(b)
    assert residual == pytest.approx(np.linalg.norm(b - op @ x), rel=1e-3)
    jacobi = kronops.DiagonalOperator(1 / op.diagonal())
    assert 2 * iterations < min(count(op, b), count(op, b, M=jacobi))


def test_sums_in_closed_form_need_one_iteration():
    op = kron(A, B) + kron(C, D)
    assert iterative_solve(op, np.ones(12), rtol=1e-10).iterations <= 2


def test_general_sums_go_by_least_squares():
    make = Maker(np, "float64", 3)
    terms = [kron(make.general(6), make.general(7)) for _ in range(3)]
    op = terms[0] + 0.1 * terms[1] + 0.1 * terms[2]
    b = make.draw(42)
    x, residual, iterations = iterative_solve(op, b, rtol=1e-9)
    assert residual <= 1e-9 * np.linalg.norm(b) and iterations < 42
    np.testing.assert_allclose(op @ x, b, atol=1e-8)
    assert iterative_solve(op, b, x0=x, rtol=1e-8).iterations == 0
    np.testing.assert_allclose(op @ iterative_solve(op, b, x0=0.9 * x, rtol=1e-9).x, b, atol=1e-8)
    with pytest.warns(LinAlgWarning, match="more than"):
        iterative_solve(op, b, rtol=1e-9, maxiter=1)


def test_what_iterative_solve_refuses():
    op = kron(A, B) + kron(C, D)
    with pytest.raises(TypeError, match="M is a ndarray: an operator is needed"):
        iterative_solve(op, np.ones(12), M=np.eye(12))
    with pytest.raises(ValueError, match="square"):
        iterative_solve(kron(A[:, :2], B), np.ones(12))
