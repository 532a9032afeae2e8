"""kronops.linalg against scipy.sparse.linalg on NumPy, then on every library."""

from __future__ import annotations

import contextlib
import importlib
import warnings

import array_api_strict as strict
import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as sla

import kronops
from kronops import LinAlgError, LinAlgWarning, kron
from kronops.backends import backend_of
from kronops.linalg import ResidualHistory, cg, lsmr, minres
from kronops.linalg.least_squares import Limits

N = 24


def draw(rng, *shape, complex=False):
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if complex else values


def hermitian(rng, eigenvalues, complex=False):
    n = len(eigenvalues)
    basis = np.linalg.qr(draw(rng, n, n, complex=complex))[0]
    made = (basis * eigenvalues) @ basis.conj().T
    return (made + made.conj().T) / 2


def rectangular(rng, shape, values, complex=False):
    left = np.linalg.qr(draw(rng, shape[0], min(shape), complex=complex))[0]
    right = np.linalg.qr(draw(rng, shape[1], min(shape), complex=complex))[0]
    return (left * values) @ right.conj().T


def frozen(*arrays):
    """Arrays that nobody can write to."""
    for array in arrays:
        array.flags.writeable = False
    return arrays


def followed(solver, *args, **options):
    """What a solver returns, and a copy of what it calls back with."""
    seen = []
    result = solver(*args, callback=lambda x: seen.append(np.array(x)), **options)
    return *result, seen


def assert_same_run(ours, theirs, compared=10):
    """The same end after as many iterations, and the same first iterates."""
    (x, info, seen), (want, want_info, want_seen) = ours, theirs
    assert info == want_info
    assert len(seen) == len(want_seen)
    for mine, scipys in list(zip(seen, want_seen, strict=True))[:compared]:
        np.testing.assert_allclose(mine, scipys, rtol=1e-7, atol=1e-7 * np.abs(scipys).max())
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert x.shape == want.shape and x.dtype == want.dtype


DEFINITE = {
    "well-conditioned": np.linspace(1, 5, N),
    "ill-conditioned": np.geomspace(1e-3, 1e3, N),
    "clustered": np.repeat([1.0, 3.0, 100.0], N // 3),
    "small": 1e-8 * np.linspace(1, 20, N),
}
INDEFINITE = {
    "indefinite": np.linspace(-3, 5, N),
    "negative": np.linspace(-7, -1, N),
    "ill-conditioned": np.geomspace(1e-2, 1e2, N) * np.resize([1, -1], N),
    "singular": np.append(np.linspace(-2, 3, N - 4), np.zeros(4)),
}
OPTIONS = {
    "defaults": {},
    "tight": {"rtol": 1e-9},
    "loose": {"rtol": 0.1},
    "few iterations": {"maxiter": 3},
    "one iteration": {"maxiter": 1},
}


# -- against SciPy --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [*OPTIONS, "atol", "both tolerances"])
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("kind", DEFINITE)
def test_cg_is_scipys(kind, complex, options):
    rng = np.random.default_rng(1)
    A, b = frozen(hermitian(rng, DEFINITE[kind], complex), draw(rng, N, complex=complex))
    special = {"atol": {"rtol": 0.0, "atol": 0.5}, "both tolerances": {"rtol": 1e-3, "atol": 1e-2}}
    given = OPTIONS.get(options) or special.get(options, {})
    runs = [followed(solver, A, b, **given) for solver in (cg, sla.cg)]
    if kind != "ill-conditioned":
        assert_same_run(*runs)
        return
    for mine, scipys in list(zip(runs[0][2], runs[1][2], strict=False))[:8]:
        np.testing.assert_allclose(mine, scipys, atol=1e-6 * np.abs(scipys).max())
    assert (runs[0][1] == 0) == (runs[1][1] == 0)


@pytest.mark.parametrize("maxiter", range(1, 12))
def test_cg_says_at_every_maxiter_what_scipy_says(maxiter):
    """Also where the last iteration allowed is the one that converges."""
    rng = np.random.default_rng(2)
    A, b = hermitian(rng, np.linspace(1, 2, N)), draw(rng, N)
    infos = {solver(A, b, maxiter=maxiter)[1] for solver in (cg, sla.cg)}
    assert infos == ({maxiter} if maxiter < 8 else {0})


def preconditioned(complex=False):
    """A system of two terms, and the inverse of the larger one, as kronops operators."""
    rng = np.random.default_rng(3)
    A, B = (hermitian(rng, np.linspace(1, 3, n), complex) for n in (5, 4))
    sum = kron(A, B) + kronops.DiagonalOperator(rng.uniform(0, 0.5, 20))
    return sum, kron(A, B).damped(0.05).inverse(), draw(rng, 20, complex=complex)


@pytest.mark.parametrize("complex", [False, True])
def test_cg_with_a_preconditioner_and_a_first_guess(complex):
    op, M, b = preconditioned(complex)
    x0 = np.linspace(-1, 1, 20)
    for options in ({"M": M}, {"x0": x0}, {"M": M, "x0": x0}, {"x0": x0, "maxiter": 2}):
        assert_same_run(*(followed(solver, op, b, **options) for solver in (cg, sla.cg)))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("kind", {**DEFINITE, **INDEFINITE})
def test_minres_is_scipys(kind, shift, options):
    """With a small ``b``, whose norm SciPy counts into that of ``A``."""
    rng = np.random.default_rng(4)
    values = {**DEFINITE, **INDEFINITE}[kind]
    A = hermitian(rng, values / np.abs(values).max())
    b = 1e-9 * draw(rng, N)
    if kind == "singular" and not shift:
        b = A @ b
    frozen(A, b)
    given = {"shift": shift, **OPTIONS[options]}
    runs = [followed(solver, A, b, **given) for solver in (minres, sla.minres)]
    if kind != "ill-conditioned" or "iteration" in options:
        assert_same_run(*runs)
        return
    for mine, scipys in list(zip(runs[0][2], runs[1][2], strict=False))[:8]:
        np.testing.assert_allclose(mine, scipys, atol=1e-6 * np.abs(scipys).max())
    assert runs[0][1] == runs[1][1] == 0


def test_minres_with_a_preconditioner_and_a_first_guess():
    op, M, b = preconditioned()
    b, x0 = 1e-9 * b, 1e-9 * np.linspace(-1, 1, 20)
    for options in ({"M": M}, {"x0": x0}, {"M": M, "x0": x0}, {"x0": x0, "maxiter": 2}):
        runs = [followed(solver, op, b, rtol=1e-8, **options) for solver in (minres, sla.minres)]
        assert_same_run(*runs)


def test_minres_of_least_squares():
    """An inconsistent system has its residual minimised, and SciPy's info is 0."""
    rng = np.random.default_rng(5)
    A, b = hermitian(rng, INDEFINITE["singular"]), draw(rng, N)
    runs = [followed(solver, A, 1e-9 * b, rtol=1e-7) for solver in (minres, sla.minres)]
    (_, info, seen), (_, want_info, want_seen) = runs
    assert info == want_info == 0 and abs(len(seen) - len(want_seen)) <= 1
    for mine, scipys in list(zip(seen, want_seen, strict=False))[:8]:
        np.testing.assert_allclose(mine, scipys, atol=1e-7 * np.abs(scipys).max())
    best = np.linalg.norm(A @ (np.linalg.pinv(A) @ b) - b)
    np.testing.assert_allclose(np.linalg.norm(1e9 * (A @ runs[0][0]) - b), best, rtol=1e-8)


def test_minres_stops_at_the_level_of_rounding():
    rng = np.random.default_rng(20)
    A, b = hermitian(rng, np.linspace(1, 3, N)), draw(rng, N)
    for solver in (minres, sla.minres):
        x, info, seen = followed(solver, A, b, rtol=0.0)
        assert info == 0 and len(seen) < 2 * N
        np.testing.assert_allclose(x, np.linalg.solve(A, b), rtol=1e-11)


def test_minres_stops_at_an_eigenvector():
    A = np.diag(np.linspace(1, 2, 8))
    for solver in (minres, sla.minres):
        x, info, seen = followed(solver, A, np.eye(8)[2], maxiter=1)
        assert info == 0 and len(seen) == 1
        np.testing.assert_allclose(x, np.eye(8)[2] / A[2, 2])


SHAPES = {"square": (N, N), "tall": (40, N), "wide": (N, 40)}
SPECTRA = {
    "well-conditioned": np.linspace(1, 3, N),
    "rank-deficient": np.append(np.linspace(1, 3, N - 5), np.zeros(5)),
    "ill-conditioned": np.geomspace(1, 1e3, N),
}


def assert_same_least_squares(ours, theirs, tolerance=1e-6):
    assert ours[1:3] == theirs[1:3]
    np.testing.assert_allclose(ours[0], theirs[0], atol=tolerance * np.abs(theirs[0]).max())
    np.testing.assert_allclose(ours[5:], theirs[5:], rtol=tolerance)
    size = max(theirs[5], 1.0)
    np.testing.assert_allclose(ours[3], theirs[3], rtol=tolerance, atol=tolerance**2)
    np.testing.assert_allclose(ours[4], theirs[4], rtol=tolerance, atol=tolerance**2 * size)


LEAST_SQUARES = {
    "defaults": {},
    "tight": {"atol": 1e-10, "btol": 1e-10},
    "None": {"atol": None, "btol": None, "conlim": None, "damp": None},
    "maxiter": {"maxiter": 4},
    "long": {"atol": 1e-9, "btol": 1e-9, "maxiter": 200},
    "damp": {"damp": 0.7},
    "conlim": {"conlim": 2.0},
    "only atol": {"btol": 0.0, "atol": 1e-4},
    "only btol": {"btol": 1e-2, "atol": 0.0, "maxiter": 8},
    "first guess": {"x0": True},
    "all": {"x0": True, "damp": 0.2, "atol": 1e-8, "btol": 1e-9, "conlim": 1e3, "maxiter": 60},
}


@pytest.mark.parametrize("options", LEAST_SQUARES)
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
def test_lsmr_is_scipys(shape, spectrum, consistent, complex, options):
    rng = np.random.default_rng(6)
    m, n = SHAPES[shape]
    A = rectangular(rng, (m, n), SPECTRA[spectrum], complex)
    b = A @ draw(rng, n, complex=complex) if consistent else draw(rng, m, complex=complex)
    given = dict(LEAST_SQUARES[options])
    if "x0" in given:
        given["x0"] = draw(rng, n, complex=complex)
    frozen(A, b)
    if spectrum == "ill-conditioned":
        given["maxiter"] = min(given.get("maxiter", 5), 5)  # from there rounding tells
    scipys = given if options != "None" else {"maxiter": given.get("maxiter")}
    ours, theirs = lsmr(A, b, **given), sla.lsmr(A, b, **scipys)  # SciPy's fails on its own None
    assert_same_least_squares(ours, theirs)
    assert type(ours.normr) is type(ours.normx) is float and type(ours.istop) is int


@pytest.mark.parametrize("istop", [0, 1, 2, 3, 4, 5, 7])
def test_lsmr_stops_for_every_reason_that_scipy_knows(istop):
    rng = np.random.default_rng(7)
    exact = {"atol": 0.0, "btol": 0.0, "conlim": 0.0, "maxiter": 500}
    well = SPECTRA["well-conditioned"]
    solved, kept = {}, {"atol": 1e-8, "btol": 1e-8, "maxiter": 100}
    values, consistent, given = {
        0: (well, False, solved),
        1: (well, True, kept),
        2: (well, False, kept),
        3: (SPECTRA["ill-conditioned"], False, {**exact, "conlim": 50.0}),
        4: (well, True, exact),
        5: (well, False, exact),
        7: (well, False, {**kept, "maxiter": 2}),
    }[istop]
    A = rectangular(rng, (40, N), values)
    b = A @ draw(rng, N) if consistent else draw(rng, 40)
    if istop == 0:
        b = b - A @ np.linalg.lstsq(A, b)[0]
        A, b = np.vstack([A, 0 * A]), np.append(0 * b, b)
    results = [solver(A, b, **given) for solver in (lsmr, sla.lsmr)]
    assert [result[1] for result in results] == [istop, istop]


def test_lsmr_takes_the_first_reason_that_holds():
    """In the order of SciPy's numbers; the sixth, which no matrix shows at will, among them."""

    class Numbers:
        def __init__(self, *summary):
            self.summary = lambda: summary

    eps = np.finfo(np.float64).eps
    limits = Limits.of(1e-3, 1e-3, 1e6, eps)
    exact = Limits.of(0.0, 0.0, np.inf, eps)
    for want, of, summary in [
        (0, limits, (0.1, 1e-3, 1.0, 1e3)),
        (1, limits, (1e-3, 1e-9, 1.0, 1e9)),
        (2, limits, (0.1, 1e-9, 1.0, 1e9)),
        (3, limits, (0.1, 1e-3, 1.0, 1e9)),
        (0, exact, (1e-9, 1e-12, 1.0, 1e15)),
        (4, exact, (1e-17, 1e-30, 1.0, 1e20)),
        (5, exact, (0.1, 1e-20, 1.0, 1e20)),
        (6, exact, (0.1, 1e-9, 1.0, 1e20)),
        (1, exact, (0.0, 0.0, 1.0, 1.0)),
    ]:
        assert of.reached(Numbers(*summary), norm_b=1.0, norm_x=1.0) == want


def test_lsmr_ends_after_as_many_iterations_as_the_shorter_side():
    for shape in SHAPES.values():
        A = rectangular(np.random.default_rng(21), shape, np.geomspace(1, 1e5, N))
        assert lsmr(A, np.ones(shape[0]))[1:3] == sla.lsmr(A, np.ones(shape[0]))[1:3] == (7, N)


# -- where SciPy's answers are not to be had ------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-140, 1e-20, 1e-9, 1e9, 1e140])
def test_units_of_A_do_not_matter(scale):
    """SciPy's minres is 10 % off at 1e-9 and says 0; its lsmr gives up for the condition number."""
    rng = np.random.default_rng(8)
    A, b = hermitian(rng, np.linspace(1, 3, N)), draw(rng, N)
    want = np.linalg.solve(A, b)
    for solver, given in ((cg, {}), (minres, {}), (lsmr, {"btol": 1e-10})):
        tolerance = {"atol": 1e-10} if solver is lsmr else {"rtol": 1e-10}
        plain, scaled = (solver(c * A, b, **tolerance, **given) for c in (1.0, scale))
        assert scaled[1] == plain[1]
        np.testing.assert_allclose(scale * scaled[0], want, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-20, 1e16, 1e200, 1e300])
def test_units_of_b_do_not_matter(scale):
    """SciPy takes 1e-200 for zero, and its minres stops after one step at 1e16."""
    rng = np.random.default_rng(9)
    A, b, x0 = hermitian(rng, np.linspace(1, 3, N)), draw(rng, N), draw(rng, N)
    want = np.linalg.solve(A, b)
    for solver in (cg, minres, lsmr):
        exact = {"atol": 1e-10, "btol": 1e-10} if solver is lsmr else {"rtol": 1e-10}
        for first in (None, x0):
            plain, scaled = (
                solver(A, c * b, x0=None if first is None else c * first, **exact)
                for c in (1.0, scale)
            )
            assert scaled[1] == plain[1]
            np.testing.assert_allclose(scaled[0] / scale, want, rtol=1e-7)
    seen = []
    cg(A, scale * b, callback=seen.append)
    np.testing.assert_allclose(seen[-1] / scale, want, rtol=1e-3)
    in_units, plain = cg(A, scale * b, rtol=0.0, atol=0.1 * scale), cg(A, b, rtol=0.0, atol=0.1)
    np.testing.assert_allclose(in_units[0] / scale, plain[0])
    np.testing.assert_allclose(
        [c / scale for c in (lsmr(A, scale * b)[i] for i in (3, 4, 7))],
        [lsmr(A, b)[i] for i in (3, 4, 7)],
        rtol=1e-6,
        atol=1e-12,
    )


@pytest.mark.parametrize("scale", [1e-42, 1e-36, 1e-25, 1e25, 1e36])
@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_units_in_single_precision(solver, scale):
    b = np.asarray([1.0, 2.0, 3.0], dtype=np.float32) * np.float32(scale)
    x, info, *_ = solver(np.diag(np.asarray([1, 2, 4], dtype=np.float32)), b)
    assert x.dtype == np.float32 and (info == 0 or solver is lsmr)
    tolerance = {"rtol": 1e-5, "atol": 2e-45} if scale < 1e-38 else {"rtol": 1e-5}
    np.testing.assert_allclose(x, b / [1, 2, 4], **tolerance)


@pytest.mark.parametrize("solver", [minres, lsmr])
def test_products_too_small_to_be_squared(solver):
    with pytest.raises(ValueError, match="squares of its products vanish in float64"):
        solver(1e-170 * np.diag(np.linspace(1, 3, N)), np.ones(N))


def test_minres_shifts_the_first_residual_too():
    """SciPy's takes b - A x0 for it, whatever the shift."""
    rng = np.random.default_rng(10)
    A, b = hermitian(rng, np.linspace(1, 3, N)), draw(rng, N)
    x, info = minres(A, b, shift=0.3, x0=np.ones(N), rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(A - 0.3 * np.eye(N), b), rtol=1e-9)


def test_minres_of_complex_systems():
    """SciPy's is for real ones."""
    rng = np.random.default_rng(11)
    A, b = hermitian(rng, INDEFINITE["indefinite"], True), draw(rng, N, complex=True)
    M = hermitian(rng, np.linspace(1, 2, N), True)
    for options in ({}, {"M": M}, {"x0": b, "shift": 0.05}):
        x, info = minres(A, b, rtol=1e-11, check=True, **options)
        assert info == 0
        shifted = A - options.get("shift", 0) * np.eye(N)
        np.testing.assert_allclose(x, np.linalg.solve(shifted, b), rtol=1e-7)


def test_minres_warns_of_a_hopeless_condition_number():
    A = np.asarray([[1.0, 1.0, 0.0], [1.0, 1.0 - 1e-15, 1e-15], [0.0, 1e-15, 1.0]])
    with pytest.warns(LinAlgWarning, match=r"minres stops after 2 iterations: the condition"):
        assert minres(A, np.eye(3)[0], rtol=0.0)[1] == 0


def test_minres_keeps_to_the_range_of_a_singular_matrix():
    A, b = np.diag([1.0, 2.0, 0.0]), np.ones(3)
    x, info = minres(A, b, rtol=0.0)
    assert info == 0 and abs(x[2]) < 10 < 1e14 < abs(sla.minres(A, b, rtol=0.0)[0][2])
    np.testing.assert_allclose(A @ x, [1, 1, 0])


def test_minres_of_zero():
    """Nothing is left of A; any x is as good, and 0 is the smallest."""
    x, info = minres(np.zeros((3, 3)), np.ones(3))
    assert info == 0 and not x.any()


@pytest.mark.parametrize("A", [np.zeros((3, 3)), np.diag([1.0, -1.0, 0.0])])
def test_cg_breaks_down_where_A_is_not_definite(A):
    b = np.asarray([1.0, 1.0, 0.0])  # the first direction has pᴴ A p = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of the division by zero
        with pytest.raises(LinAlgError, match="cg breaks down"):
            cg(A, b)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_products_that_are_not_finite(solver):
    A = np.eye(3)
    A[1, 2] = np.nan
    with pytest.raises(LinAlgError, match=f"{solver.__name__} breaks down: .* is nan"):
        solver(A, np.ones(3))


def test_cg_takes_the_boundary_of_the_tolerance():
    """‖r‖ <= tolerance, as documented; SciPy's test is <."""
    A, b = np.diag([1.0, 2.0, 4.0]), np.asarray([3.0, 0.0, 4.0])
    assert not cg(A, b, rtol=0.0, atol=5.0)[0].any()
    x, info = cg(np.eye(3), b, rtol=0.0)  # reaches r = 0, where SciPy's goes on to NaN
    assert info == 0
    np.testing.assert_array_equal(x, b)


# -- the ends of the range ------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [cg, minres])
@pytest.mark.parametrize("x0", [None, np.ones(N)])
def test_b_is_zero(solver, x0):
    x, info, seen = followed(solver, np.eye(N), np.zeros(N), x0=x0)
    assert info == 0 and seen == [] and not x.any()
    assert not solver(np.eye(N), np.zeros(N), x0=x0)[0].any()


def test_lsmr_of_zero():
    for x0 in (None, np.ones(N)):
        x, *numbers = lsmr(np.eye(N), np.zeros(N), x0=x0)
        assert not x.any() and numbers == [0, 0, 0.0, 0.0, 0.0, 1.0, 0.0]
    b = np.append(np.zeros(N), np.ones(2))
    A = np.eye(N + 2, N)  # b is orthogonal to the range
    ours, theirs = lsmr(A, b), sla.lsmr(A, b)
    assert ours[1:] == theirs[1:] and not ours.x.any()


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_a_first_guess_that_is_a_solution(solver):
    A, x0 = np.diag(np.arange(1.0, 5.0)), np.ones(4)
    x, info, *_ = solver(A, A @ x0, x0=x0)
    assert info == 0 and x is not x0
    np.testing.assert_array_equal(x, x0)
    assert not np.shares_memory(x, x0) and x.flags.writeable
    if solver is lsmr:
        assert solver(A, A @ x0, x0=x0).normx == 2.0


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
@pytest.mark.parametrize("n", [0, 1])
def test_systems_of_size_zero_and_one(solver, n):
    x, info, *_ = solver(2 * np.eye(n), np.ones(n))
    assert info in ((0,) if n == 0 or solver is not lsmr else (1, 2))
    np.testing.assert_allclose(x, np.full(n, 0.5))


def test_lsmr_without_unknowns():
    result = lsmr(np.zeros((3, 0)), np.ones(3))
    assert result.x.shape == (0,) and result[1:3] == (0, 0)
    np.testing.assert_allclose(result.normr, 3**0.5)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_columns_give_flat_results(solver):
    rng = np.random.default_rng(13)
    A, b = hermitian(rng, DEFINITE["well-conditioned"]), draw(rng, N)
    flat = solver(A, b, x0=np.ones(N))[0]
    column = solver(A, b[:, None], x0=np.ones((N, 1)))[0]
    scipys = getattr(sla, solver.__name__)(A, b[:, None], x0=np.ones(N))[0]
    assert column.shape == scipys.shape == (N,)
    np.testing.assert_array_equal(column, flat)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_integers_are_promoted(solver):
    A, b = np.diag([1, 2, 4]), np.asarray([1, 4, 16])
    for dtype in (np.float32, np.float64, np.complex64):
        assert solver(A.astype(dtype), b)[0].dtype == dtype
        assert solver(A, b.astype(dtype))[0].dtype == dtype
    x = solver(A, b, x0=np.asarray([1, 1, 1]))[0]
    assert x.dtype == np.float64
    np.testing.assert_allclose(x, [1, 2, 4], rtol=1e-5)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_the_wider_dtype_of_A_and_b_is_computed_in(solver):
    A = np.diag(np.linspace(1, 2, 5))
    for of_A, of_b, of_x0, want in [
        ("f4", "f8", "f4", "f8"),
        ("f8", "f4", "f4", "f8"),
        ("f4", "f4", "f8", "f4"),
        ("c8", "f8", "f4", "c16"),
        ("f4", "c8", "f8", "c8"),
    ]:
        x = solver(A.astype(of_A), np.ones(5, of_b), x0=np.ones(5, of_x0))[0]
        assert x.dtype == np.dtype(want)
        np.testing.assert_allclose(x, 1 / np.diagonal(A), rtol=1e-4)
        operator = kronops.DenseOperator(A.astype(of_A))
        assert solver(operator, np.ones(5, of_b))[0].dtype == np.dtype(want)


# -- what A and M may be --------------------------------------------------------------------------


class Closure:
    """Products of a matrix that are written to one buffer, over and over."""

    def __init__(self, matrix, column=False):
        self.matrix, self.shape, self.column = matrix, matrix.shape, column
        self.products = 0
        self.buffers = [np.empty(n, matrix.dtype) for n in matrix.shape]

    def _multiply(self, matrix, x, buffer):
        self.products += 1
        np.matmul(matrix, x, out=buffer)
        return buffer[:, None] if self.column else buffer

    def matvec(self, x):
        return self._multiply(self.matrix, x, self.buffers[0])

    def rmatvec(self, x):
        return self._multiply(self.matrix.conj().T, x, self.buffers[1])


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
@pytest.mark.parametrize("complex", [False, True])
def test_all_forms_of_A_and_M(solver, complex):
    op, M, b = preconditioned(complex)
    a, m = op.to_dense(), M.to_dense()
    preconditioners = [None] * 5 if solver is lsmr else [m, M, Closure(m), Closure(m, True), m]
    forms = [a, op, Closure(a), Closure(a, True), sla.aslinearoperator(a)]
    results = []
    for A, preconditioner in zip(forms, preconditioners, strict=True):
        options = {} if preconditioner is None else {"M": preconditioner}
        x0 = np.linspace(0, 1, 20)
        results.append(solver(A, b, x0=x0, maxiter=4, **options)[0])
    for x in results[1:]:
        np.testing.assert_allclose(x, results[0], rtol=1e-8)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_one_product_an_iteration(solver):
    rng = np.random.default_rng(14)
    A, M = (Closure(hermitian(rng, np.linspace(1, 9, N))) for _ in range(2))
    b = draw(rng, N)
    if solver is lsmr:
        result = lsmr(A, b, maxiter=7)
        assert A.products == 2 * result.itn + 1
    else:
        *_, seen = followed(solver, A, b, M=M)
        assert A.products == len(seen)
        assert M.products == len(seen) + (solver is minres)


def test_a_preconditioner_in_another_precision():
    """It is rounded to the dtype of the system, as SciPy's cg does."""
    op, M, b = preconditioned()
    x = cg(op.astype("float32"), b.astype("f4"), M=M, rtol=1e-4)[0]
    assert x.dtype == np.float32
    np.testing.assert_allclose(op @ x, b, atol=1e-3 * np.linalg.norm(b))


# -- what is refused ------------------------------------------------------------------------------

I3, B3 = np.eye(3), np.ones(3)


class Without:
    """An object with products that are not what they should be."""

    shape, dtype = (3, 3), np.dtype("f8")

    def __init__(self, product):
        self.matvec = self.rmatvec = lambda x: product


# name: (arguments after the solver, the exception, what its message says)
REFUSED = {
    "a list as b": ((I3, [1.0, 1.0, 1.0]), TypeError, "b is a list: an array is needed"),
    "a list as A": (([[1.0]], np.ones(1)), TypeError, "A is a list: a kronops operator, a matrix"),
    "a sparse matrix": ((scipy.sparse.eye_array(3), B3), TypeError, "aslinearoperator"),
    "b too long": (
        (I3, np.ones(4)),
        ValueError,
        r"b has shape \(4,\), A \(3, 3\): \(3,\) or \(3, 1",
    ),
    "b in rows": ((I3, np.ones((1, 3))), ValueError, r"b has shape \(1, 3\)"),
    "several b": ((I3, np.ones((3, 2))), ValueError, r"b has shape \(3, 2\)"),
    "A is a vector": ((B3, B3), ValueError, r"A has shape \(3,\): a matrix with two axes"),
    "object b": ((I3, B3.astype(object)), TypeError, "b has dtype object"),
    "object A": ((I3.astype(object), B3), TypeError, "A has dtype object"),
    "strings": ((I3, np.asarray(["a"] * 3)), TypeError, "b has dtype <U1"),
    "masked b": ((I3, np.ma.masked_array(B3, [0, 1, 0])), TypeError, "b is a masked array"),
    "NaN in b": ((I3, np.asarray([1.0, np.nan, 1.0])), ValueError, "b has NaN or infinite entries"),
    "infinite b": ((I3, np.asarray([1.0, np.inf, 1.0])), ValueError, "b has NaN or infinite"),
    "A of another library": (
        (strict.eye(3), B3),
        TypeError,
        "A is of array_api_strict, b of numpy",
    ),
    "b of another library": (
        (kronops.DenseOperator(I3), strict.ones(3)),
        TypeError,
        "A is of numpy, b of array_api_strict: one library",
    ),
    "products of another library": (
        (Without(strict.ones(3)), B3),
        TypeError,
        r"A\.r?matvec\(x\) is of array_api_strict, b of numpy",
    ),
    "products that are lists": ((Without([1.0]), B3), TypeError, r"A\.r?matvec\(x\) is a list"),
    "products that are too long": (
        (Without(np.ones(4)), B3),
        ValueError,
        r"A\.r?matvec\(x\) has shape \(4,\): \(3,\) would do",
    ),
    "complex products": ((Without(1j * B3), B3), TypeError, r"A\.r?matvec\(x\) is complex"),
}
OPTIONS_REFUSED = {
    "x0 too long": ({"x0": np.ones(4)}, ValueError, r"x0 has shape \(4,\), A \(3, 3\)"),
    "complex x0": ({"x0": 1j * B3}, TypeError, "x0 is complex, and A and b are real"),
    "x0 of another library": ({"x0": strict.ones(3)}, TypeError, "x0 is of array_api_strict, b of"),
    "a list as x0": ({"x0": [0.0] * 3}, TypeError, "x0 is a list"),
    "no iterations": ({"maxiter": 0}, ValueError, "maxiter = 0: an integer ≥ 1"),
    "fractional iterations": ({"maxiter": 1.5}, TypeError, "maxiter = 1.5: an integer"),
}
SQUARE_REFUSED = {
    "M of another shape": ({"M": np.eye(4)}, ValueError, r"M has shape \(4, 4\): that of A"),
    "M of another library": ({"M": strict.eye(3)}, TypeError, "M is of array_api_strict, b of n"),
    "complex M": ({"M": 1j * I3}, TypeError, "M is complex, and A and b are real"),
    "complex operator M": ({"M": kron(1j * I3)}, TypeError, "M is complex, and A and b are real"),
    "a function as M": ({"M": lambda x: x}, TypeError, "M is a function: a kronops operator"),
    "rtol negative": ({"rtol": -1.0}, ValueError, "rtol = -1.0 is negative"),
}


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, solver):
    arguments, exception, message = REFUSED[name]
    with pytest.raises(exception, match=message):
        solver(*arguments)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
@pytest.mark.parametrize("name", OPTIONS_REFUSED)
def test_options_refused(name, solver):
    options, exception, message = OPTIONS_REFUSED[name]
    with pytest.raises(exception, match=message):
        solver(I3, B3, **options)


@pytest.mark.parametrize("solver", [cg, minres])
@pytest.mark.parametrize("name", SQUARE_REFUSED)
def test_options_of_square_systems_refused(name, solver):
    options, exception, message = SQUARE_REFUSED[name]
    with pytest.raises(exception, match=message):
        solver(I3, B3, **options)


@pytest.mark.parametrize("solver", [cg, minres])
def test_rectangular_systems_refused(solver):
    with pytest.raises(ValueError, match=r"A has shape \(3, 4\): \w+ needs a square matrix"):
        solver(np.ones((3, 4)), B3)


def test_tolerances_refused():
    for name in ("damp", "atol", "btol", "conlim"):
        with pytest.raises(ValueError, match=f"{name} = -1.0 is negative"):
            lsmr(I3, B3, **{name: -1.0})
    assert lsmr(I3, B3, conlim=np.inf)[1] == sla.lsmr(I3, B3, conlim=np.inf)[1]
    with pytest.raises(TypeError, match="shift = 1j is complex"):
        minres(I3, B3, shift=1j)


def test_minres_refuses_indefinite_preconditioners():
    for M in (-I3, -1e-9 * I3, np.diag([1.0, -1.0, 0.0]), np.zeros((3, 3))):
        with pytest.raises(ValueError, match="M is not positive definite"):
            minres(np.diag([1.0, 2.0, 3.0]), B3, M=M)
    late = np.diag([1.0, 1.0, -0.5])  # positive for the first residual, not for the next
    with pytest.raises(LinAlgError, match="M is not positive definite"):
        minres(np.diag([1.0, 2.0, 30.0]), B3, M=late)


def test_minres_checks_symmetry():
    rng = np.random.default_rng(15)
    A, general = hermitian(rng, np.linspace(1, 2, N)), draw(rng, N, N)
    b = draw(rng, N)
    assert minres(A, b, M=A, check=True)[1] == 0
    assert minres(1e-9 * A, b, check=True)[1] == 0
    for wrong, options in ((general, {}), (A, {"M": general}), (1e-9 * general, {})):
        name = "M" if options else "A"
        with pytest.raises(ValueError, match=f"{name} is not Hermitian"):
            minres(wrong, b, check=True, **options)
    slightly = A + 0.1 * np.triu(general, 1)
    with pytest.raises(ValueError, match="non-symmetric matrix"):
        sla.minres(slightly, b, check=True)
    with pytest.raises(ValueError, match="A is not Hermitian"):
        minres(slightly, b, check=True)
    hidden = np.diag([1.0, 2.0, 3.0])
    hidden[1, 2] = 1.0  # which b alone does not see
    with pytest.raises(ValueError, match="A is not Hermitian"):
        minres(hidden, np.asarray([1.0, 0.0, 0.0]), check=True)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_values_that_cannot_be_seen(solver, monkeypatch):
    monkeypatch.setattr(type(backend_of(B3)), "values", lambda self, array: None)
    with pytest.raises(TypeError, match=f"{solver.__name__} must see its residual"):
        solver(I3, B3)


# -- what is printed ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [minres, lsmr])
def test_show(solver, capsys):
    rng = np.random.default_rng(16)
    A, b = hermitian(rng, np.geomspace(0.05, 5, 60), complex=True), draw(rng, 60)
    options = {"rtol": 1e-9} if solver is minres else {"atol": 1e-9, "btol": 1e-9}
    x, *_ = solver(A, b, show=True, **options)
    title, heading, *rows, reason = capsys.readouterr().out.splitlines()
    assert title.startswith(solver.__name__) and "60" in title and "maxiter" in title
    assert "iteration" in heading and "condition of A" in heading
    numbers = [int(row.split()[0]) for row in rows]
    assert numbers[:12] == [*range(1, 11), 20, 30] and len(rows) < 20
    np.testing.assert_allclose(float(rows[-1].split()[1]), x[0].real, rtol=1e-5)
    assert ":" in reason or "limit" in reason
    solver(A, 0 * b, show=True)
    assert capsys.readouterr().out
    solver(A, b)
    assert capsys.readouterr().out == ""


def test_show_says_why(capsys):
    A = np.diag([1.0, 2.0, 3.0])
    minres(A, B3, show=True, maxiter=1)
    assert "limit on iterations" in capsys.readouterr().out
    minres(A, A @ B3, x0=B3, show=True)
    assert "x0 is a solution" in capsys.readouterr().out
    lsmr(A, A @ B3, x0=B3, show=True)
    assert "x0, is a solution" in capsys.readouterr().out


# -- every library --------------------------------------------------------------------------------


@pytest.fixture(params=["numpy", "array_api_strict", "array_api_compat.torch", "jax.numpy"])
def xp(request):
    """The namespace of an array library, with double precision."""
    library = request.param.split(".")[-1] if "torch" in request.param else request.param
    pytest.importorskip(library.split(".")[0], reason=f"{library.split('.')[0]} is not installed")
    with contextlib.ExitStack() as stack:
        if library == "jax.numpy":
            stack.enter_context(double_precision_in_jax())
        yield importlib.import_module(request.param)


def double_precision_in_jax():
    jax = importlib.import_module("jax")
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return importlib.import_module("jax.experimental").enable_x64()


def host(array):
    return backend_of(array).to_numpy(array)


DTYPES = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_every_library_takes_the_steps_of_numpy(xp, solver, dtype):
    rng = np.random.default_rng(17)
    complex = dtype.startswith("complex")
    A = hermitian(rng, np.linspace(1, 4, N), complex).astype(dtype)
    M = hermitian(rng, np.linspace(1, 1.5, N), complex).astype(dtype)
    b, x0 = (draw(rng, N, complex=complex).astype(dtype) for _ in range(2))
    rounding = np.finfo(dtype).eps
    tolerance = {"atol": 1e-4, "btol": 1e-4} if solver is lsmr else {"rtol": 1e-4}
    for options in ({}, {"x0": x0}, {"M": M}, {"M": M, "x0": x0}):
        if solver is lsmr:
            options = {"x0" if name == "x0" else "damp": 0.3 for name in options}
            options = {**options, **({"x0": x0} if "x0" in options else {})}
        own = {k: xp.asarray(v.copy()) if k != "damp" else v for k, v in options.items()}
        seen = []
        if solver is not lsmr:
            own["callback"] = seen.append
        want = solver(A, b, **options, **tolerance)
        got = solver(xp.asarray(A.copy()), xp.asarray(b.copy()), **own, **tolerance)
        assert got[1] == want[1]
        assert got[0].dtype == getattr(xp, dtype)
        assert backend_of(got[0], *seen) is backend_of(xp.ones(1))
        assert all(x.shape == (N,) and x.dtype == got[0].dtype for x in seen)
        size = np.abs(want[0]).max()
        np.testing.assert_allclose(host(got[0]), want[0], atol=500 * rounding * size)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_every_library_takes_operators(xp, solver):
    rng = np.random.default_rng(18)
    A, B = (hermitian(rng, np.linspace(1, 4, n)) for n in (4, 5))
    op = kron(xp.asarray(A.copy()), xp.asarray(B.copy()))
    options = {"M": op.damped(0.1).inverse(), "rtol": 1e-10}
    if solver is lsmr:
        options = {"atol": 1e-10, "btol": 1e-10, "maxiter": 60}
    b = draw(rng, 20)
    x, info, *_ = solver(op, xp.asarray(b.copy()), **options)
    assert info == (1 if solver is lsmr else 0)
    np.testing.assert_allclose(host(x), np.linalg.solve(np.kron(A, B), b), rtol=1e-4)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_vectors_stay_on_their_device(solver):
    """Arrays of array-api-strict's further devices cannot be brought to NumPy at all."""
    device = strict.Device("device1")
    A = strict.asarray(np.diag(np.linspace(1, 2, N)), device=device)
    b = strict.ones(N, device=device)
    options = {"show": False} if solver is lsmr else {"M": A, "callback": lambda x: None}
    if solver is minres:
        options["check"] = True
    for x0 in (None, b):
        x = solver(A, b, x0=x0, **options)[0]
        assert x.device == device
    for wrong in ({"A": strict.eye(N)}, {"x0": strict.ones(N)}, {"M": strict.eye(N)}):
        if solver is lsmr and "M" in wrong:
            continue
        with pytest.raises(TypeError, match=r"is on device .*, b on .*: one device would do"):
            solver(wrong.pop("A", A), b, **wrong)


@pytest.mark.parametrize("solver, waits", [(cg, 1), (minres, 3), (lsmr, 3)])
def test_only_a_few_numbers_leave_the_device(solver, waits, monkeypatch):
    """And as many as the documentation says: minres and lsmr read two of the three at once."""
    A, b = strict.asarray(np.diag(np.linspace(1, 20, N))), strict.ones(N)
    values, sizes = type(backend_of(b)).values, []

    def counted(self, array):
        sizes.append(array.shape)
        return values(self, array)

    monkeypatch.setattr(type(backend_of(b)), "values", counted)
    counts = []
    for maxiter in (5, 9):
        sizes.clear()
        solver(A, b, maxiter=maxiter, **({} if solver is lsmr else {"rtol": 0.0}))
        assert set(sizes) == {()}
        counts.append(len(sizes))
    assert counts[1] - counts[0] == 4 * waits


def test_cg_is_compiled_by_jax():
    """The same iteration as outside, with the same answer to whether it has converged."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    matrix = np.diag([1.0, 2.0, 3.0, 4.0]).astype(np.float32) + 0.5
    A, b = jax.numpy.asarray(matrix), jax.numpy.asarray([1.0, -2.0, 0.5, 3.0])

    def solved(A, b, **options):
        return jax.jit(lambda A, b: cg(A, b, **options))(A, b)

    for options in ({}, {"maxiter": 2}, {"x0": jax.numpy.ones(4)}, {"atol": 1.0, "rtol": 0.0}):
        (x, info), (want, wanted) = solved(A, b, **options), cg(matrix, np.asarray(b), **{
            name: np.asarray(value) if name == "x0" else value for name, value in options.items()
        })  # fmt: skip
        np.testing.assert_allclose(np.asarray(x), want, rtol=1e-4, atol=1e-5)
        assert int(info) == wanted
    for double in (contextlib.nullcontext, double_precision_in_jax):  # there no residual is zero
        with double():
            x, info = solved(A, jax.numpy.zeros(4), x0=jax.numpy.ones(4))
            assert int(info) == 0 and not np.any(np.asarray(x))
    x, info = solved(-A + 100 * jax.numpy.eye(4).at[0, 0].set(jax.numpy.nan), b)
    assert int(info) == 40  # it breaks down, and does not say that it has converged
    with pytest.raises(TypeError, match="callback: inside"):
        solved(A, b, callback=print)


def test_jit_is_refused_in_words():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    for solver in (minres, lsmr):

        def traced(A, b, solver=solver):
            return solver(A, b)[0]

        with pytest.raises(TypeError, match="must see its residual"):
            jax.jit(traced)(jax.numpy.eye(3), jax.numpy.ones(3))
        with pytest.raises(TypeError, match="must see its residual"):
            jax.jit(lambda A, traced=traced: traced(A, jax.numpy.ones(3)))(jax.numpy.eye(3))


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_derivatives_in_torch_are_refused_in_words(solver):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    A, b = torch.eye(3, requires_grad=True), torch.ones(3, requires_grad=True)
    zero = (0 * b).detach().requires_grad_()
    for arguments in ((A, b), (A.detach(), b), (A, b.detach()), (A.detach(), zero)):
        with pytest.raises(TypeError, match=f"derivatives do not pass through {solver.__name__}"):
            solver(*arguments)
    with pytest.raises(TypeError, match=f"derivatives do not pass through {solver.__name__}"):
        solver(A.detach(), b.detach(), x0=b)
    with torch.no_grad():
        x, info, *_ = solver(A, b, x0=zero)
    assert info == (1 if solver is lsmr else 0)
    np.testing.assert_allclose(x, np.ones(3), rtol=1e-6)


@pytest.mark.parametrize("solver", [cg, minres, lsmr])
def test_derivatives_in_jax_are_refused_in_words(solver):
    jax = pytest.importorskip("jax", reason="jax is not installed")

    def total(A, b):
        return jax.numpy.sum(solver(A, b)[0])

    for by in (0, 1):
        with pytest.raises(TypeError, match=f"derivatives do not pass through {solver.__name__}"):
            jax.grad(total, by)(jax.numpy.eye(3), jax.numpy.ones(3))


# -- histories ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [cg, sla.cg, minres, sla.minres])
@pytest.mark.parametrize("guess", [False, True])
def test_residual_history_keeps_the_norm_after_every_iteration(solver, guess):
    rng = np.random.default_rng(4)
    A, b = hermitian(rng, np.linspace(1, 5, N)), draw(rng, N)
    x0 = draw(rng, N) if guess else None
    history, seen = ResidualHistory(A, b, x0), [np.zeros(N) if x0 is None else x0]

    def callback(x):
        history(x)
        seen.append(np.array(x))

    solver(A, b, x0, callback=callback)
    assert len(seen) > 5
    np.testing.assert_allclose(history.norms, [np.linalg.norm(b - A @ x) for x in seen])


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_residual_history_is_of_systems_of_any_size(size):
    history = ResidualHistory(np.eye(2), size * np.array([3.0, 4.0]))
    history(size * np.array([3.0, 0.0]))
    np.testing.assert_allclose(history.norms, [5 * size, 4 * size])


def test_residual_history_is_of_any_library_and_says_what_would_do():
    op = kronops.DiagonalOperator(strict.asarray([1.0, 2.0]))
    history = ResidualHistory(op, strict.asarray([3.0, 4.0]))
    cg(op, strict.asarray([3.0, 4.0]), rtol=1e-9, callback=history)
    assert history.norms[0] == 5.0 and history.norms[-1] < 1e-8
    with pytest.raises(ValueError, match=r"x0 has shape \(3,\), A \(2, 2\): \(2,\) or \(2, 1\)"):
        history(strict.zeros(3))
    with pytest.raises(TypeError, match="A is of array_api_strict, b of numpy"):
        ResidualHistory(op, np.ones(2))
