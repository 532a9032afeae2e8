"""Every operator × every law × libraries × dtypes on a GPU, and nothing leaves it unasked."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any

import array_api_compat
import numpy as np
import pytest
import zoo

import kronops
from kronops import linalg
from kronops.backends import backend_of
from kronops.errors import DensificationWarning, LinAlgError, LinAlgWarning
from kronops.kfac import DenseLayer, GradientLayer, RecurrentLayer
from kronops.testing import LAWS, Case

DTYPES = ["float64", "complex128", "float32", "complex64"]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the libraries among themselves
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning"),
    pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning"),
]


class Maker(zoo.Maker):
    """Brings matrices to the GPU itself: a default device would hide what forgets the device."""

    def __init__(self, library: Any, dtype: str, seed: int = 0) -> None:
        super().__init__(library.xp, dtype, seed)
        self.device = library.device

    def __call__(self, matrix: np.ndarray) -> Any:
        return array_api_compat.to_device(super().__call__(matrix), self.device)

    def real(self, values: np.ndarray) -> Any:
        return array_api_compat.to_device(super().real(values), self.device)


def make_case(name: str, library: Any, dtype: str) -> tuple[Any, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        return zoo.CASES[name](Maker(library, dtype))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", zoo.CASES)
def test_law(name, dtype, library, law):
    law(Case(*make_case(name, library, dtype)))


# -- nothing leaves the GPU -----------------------------------------------------------------------


@contextlib.contextmanager
def staying_on_the_gpu(library: Any, backend: Any, numbers: int = 1) -> Iterator[None]:
    """No array is copied to the host but for a Schur form; single ``numbers`` may be looked at."""
    excused = []

    def guard(leave):
        def guarded(array, *args, **kwargs):
            if math.prod(array.shape) > numbers and not excused:
                raise AssertionError(f"an array of shape {tuple(array.shape)} left the GPU")
            return leave(array, *args, **kwargs)

        return guarded

    def schur(matrix):
        excused.append(True)
        try:
            return type(backend).schur(backend, matrix)
        finally:
            excused.pop()

    with pytest.MonkeyPatch.context() as patch:
        for kind, name in library.host_copies:
            patch.setattr(kind, name, guard(getattr(kind, name)))
        patch.setattr(backend, "to_numpy", guard(backend.to_numpy))
        patch.setattr(backend, "schur", schur)
        yield


def calls(case: Case) -> Iterator[tuple[str, Any]]:
    """What an operator gives, by name; only what the operator at hand has."""
    op = case.op
    x, _ = case.probe(case.n)
    y, _ = case.probe(case.m, 2)
    yield "op @ x", lambda: op @ x
    yield "op.H @ y", lambda: op.H @ y
    yield "op.T @ y", lambda: op.T @ y
    yield "to_dense", op.to_dense
    yield "norm", op.norm
    yield "scaled", lambda: (0.5 * op) @ x
    yield "sum", lambda: (op + op) @ x
    if not case.square:
        return
    yield "trace", op.trace
    yield "diagonal", op.diagonal
    yield "power(2)", lambda: op.power(2) @ x
    if case.moderate:
        value = 2.0 * case.largest(case.matrix) * case.n
        yield "damped @ x", lambda: op.damped(value) @ x
        yield "damped.solve", lambda: op.damped(value).solve(x)
        yield "damped.slogdet", lambda: tuple(op.damped(value).slogdet())
    if case.regular:
        yield "solve", lambda: op.solve(x)
        yield "inverse", lambda: op.inverse() @ y
        yield "slogdet", lambda: tuple(op.slogdet())
    if case.hermitian and case.moderate:
        yield "eigh", lambda: (op.eigh().eigenvalues, op.eigh().eigenvectors @ x)
        if case.n and np.linalg.eigvalsh(case.matrix)[0] > 1e-3:
            yield "sqrt", lambda: op.sqrt() @ x
            yield "cholesky", lambda: op.cholesky() @ x


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("name", zoo.CASES)
def test_everything_stays_on_the_gpu(name, dtype, library):
    op, matrix = make_case(name, library, dtype)
    assert op.backend.same_device(op.to_dense(), library.device)
    case = Case(op, matrix)
    prepared = list(calls(case))
    with staying_on_the_gpu(library, op.backend):
        results = {what: call() for what, call in prepared}
    for what, result in results.items():
        for array in result if isinstance(result, tuple) else (result,):
            assert backend_of(array) is op.backend, f"{what} is of another library"
            assert op.backend.device(array) == library.device, f"{what} is on another device"


def test_arrays_of_the_host_are_refused(library):
    make = Maker(library, "float64")
    op = kronops.kron(make(make.definite(2)), make(make.definite(3)))
    with pytest.raises(TypeError, match="numpy"):
        op @ np.ones(6)
    if library.name == "torch":
        with pytest.raises(TypeError, match="device"):
            op @ library.xp.ones(6, dtype=library.xp.float64)


def test_to_numpy_and_back(library):
    make = Maker(library, "complex64")
    op = kronops.kron(make(make.definite(2)), make(make.definite(3)))
    host = op.to_backend("numpy")
    assert host.backend.name == "numpy" and host.dtype == np.complex64
    back = host.to_backend(library.name).to_device(library.device)
    assert back.dtype == op.dtype and back.device == op.device
    np.testing.assert_allclose(op.backend.to_numpy(back.to_dense()), host.to_dense(), rtol=1e-6)


@pytest.mark.parametrize("complex_b", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_factorisations(library, dtype, complex_b):
    """The backend's own, for right-hand sides of the matrix's dtype and of a wider one."""
    make, wide = Maker(library, dtype), Maker(library, "complex128")
    general, definite = make.general(5), make.definite(5)
    lower = np.linalg.cholesky(definite)
    b = (wide if complex_b else make).draw(5, 3)
    right = (wide if complex_b else make)(b)
    backend = backend_of(right)
    tolerance = 1e3 * np.finfo(dtype).eps

    def close(got, want):
        assert backend.same_device(got, library.device)
        np.testing.assert_allclose(backend.to_numpy(got), want, rtol=tolerance, atol=tolerance)

    close(backend.cholesky(make(definite)), lower)
    close(backend.cholesky_solve(make(lower), right), np.linalg.solve(definite, b))
    for adjoint in (False, True):
        for triangle, is_lower in ((lower, True), (lower.conj().T, False)):
            solved = backend.solve_triangular(
                make(triangle), right, lower=is_lower, adjoint=adjoint
            )
            close(solved, np.linalg.solve(triangle.conj().T if adjoint else triangle, b))
        factors = backend.lu(make(general))
        solved = backend.lu_solve(factors, right, adjoint=adjoint)
        close(solved, np.linalg.solve(general.conj().T if adjoint else general, b))
    for got, want in zip(backend.lu_slogdet(factors), np.linalg.slogdet(general), strict=True):
        close(got, want)
    values, vectors = backend.eigh(make(definite))
    close(values, np.linalg.eigvalsh(definite))
    close((vectors * values) @ backend.adjoint(vectors), definite)
    triangle, basis = backend.schur(make(general))
    close(basis @ triangle @ backend.adjoint(basis), general)


@pytest.mark.parametrize("dtype", DTYPES)
def test_failures_are_seen(library, dtype):
    """Libraries for GPUs tend to hand on what a failed factorisation left behind."""
    make = Maker(library, dtype)
    b = make(np.ones(4))
    singular = make.general(4)
    singular[3] = singular[0]
    indefinite = make.round(
        1.9 * np.eye(4) - 0.9
    )  # each entry by itself might be of a definite one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for matrix in (singular, np.zeros((4, 4)), np.diag([1.0, 2.0, 0.0, 1.0])):
            with pytest.raises(LinAlgError):
                kronops.DenseOperator(make(matrix)).solve(b)
        with pytest.raises(LinAlgError):
            backend_of(b).lu(make(np.diag([1.0, 2.0, 0.0, 1.0])))
    with pytest.raises(LinAlgError):
        kronops.DenseOperator(make(indefinite)).cholesky()
    with pytest.raises(LinAlgError):
        kronops.DenseOperator(make(indefinite), "positive definite").solve(b)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LinAlgWarning)
        solved = kronops.DenseOperator(make(indefinite)).solve(b)
    want = np.linalg.solve(indefinite, np.ones(4))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(backend_of(solved).to_numpy(solved), want, rtol=1e4 * eps)


def test_half_precision_is_computed_in_single(library):
    make = Maker(library, "float32")
    a, b = (make.definite(3).astype(np.float16).astype(np.float64) for _ in range(2))
    op = kronops.kron(make(a), make(b)).astype("float16")
    dense = np.kron(a, b)
    x = op.backend.xp.astype(make(np.ones(9)), op.dtype)
    for got, want in (
        (op @ x, dense @ np.ones(9)),
        (op.damped(1.0).solve(x), np.linalg.solve(dense + np.eye(9), np.ones(9))),
        (op.inverse() @ x, np.linalg.solve(dense, np.ones(9))),
        (op.logdet(), np.linalg.slogdet(dense)[1]),
    ):
        np.testing.assert_allclose(op.backend.to_numpy(got), want, rtol=3e-2, atol=3e-2)


# -- solvers and estimators -----------------------------------------------------------------------


def system(library, dtype):
    """A positive definite operator, its preconditioner, and the matrix on the host."""
    make = Maker(library, dtype)
    a, b = make.definite(8), make.definite(7)
    d = np.abs(make.draw(56).real) / 10
    product = kronops.kron(make(a), make(b))
    op = product + kronops.DiagonalOperator(make(d))
    return make, op, product.damped(0.05).inverse(), np.kron(a, b) + np.diag(d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["cg", "minres"])
def test_solvers(name, dtype, library):
    make, op, preconditioner, dense = system(library, dtype)
    b = make.draw(56)
    accuracy = 1e-4 if np.finfo(dtype).eps > 1e-10 else 1e-10
    right = make(b)
    with staying_on_the_gpu(library, op.backend, numbers=8):
        x, info = getattr(linalg, name)(op, right, M=preconditioner, rtol=accuracy)
    assert info == 0 and op.backend.device(x) == library.device
    residual = dense @ op.backend.to_numpy(x) - b
    assert np.linalg.norm(residual) <= 10 * accuracy * np.linalg.norm(b) * np.linalg.cond(dense)


def test_least_squares(library):
    make = Maker(library, "float64")
    a, b, c = make.draw(6, 4), make.draw(5, 3), make.draw(30)
    op, right = kronops.kron(make(a), make(b)), make(c)
    with staying_on_the_gpu(library, op.backend, numbers=8):
        x = linalg.lsmr(op, right, atol=1e-13, btol=1e-13, maxiter=500)[0]
    assert op.backend.device(x) == library.device
    want = np.linalg.lstsq(np.kron(a, b), c)[0]
    np.testing.assert_allclose(op.backend.to_numpy(x), want, rtol=1e-8)


LAYERS = {
    "dense": (lambda: DenseLayer(bias=True), [(16, 4), (16, 2)], ["factored", "exact", "ekfac"]),
    "diagonal factor": (
        lambda: DenseLayer(structure=("diagonal", "full")),
        [(16, 4), (16, 2)],
        ["factored", "ekfac"],
    ),
    "uses": (lambda: DenseLayer(uses=3), [(3, 16, 4), (3, 16, 2)], ["factored", "ekfac"]),
    "recurrent 1": (lambda: RecurrentLayer(1, bias=True), [(3, 16, 4), (3, 16, 2)], ["factored"]),
    "recurrent 2": (lambda: RecurrentLayer(2), [(3, 16, 4), (3, 16, 2)], ["factored"]),
    "gradient": (lambda: GradientLayer("full"), [(16, 4, 2)], ["exact"]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_estimators(name, library):
    make_layer, shapes, methods = LAYERS[name]
    make = Maker(library, "float64")
    layer, model = make_layer(), make_layer()
    for _ in range(2):
        batch = [make.draw(*shape) for shape in shapes]
        layer.update(*map(make, batch), decay=0.9)
        model.update(*batch, decay=0.9)
    if "ekfac" in methods:
        layer.update_eigenvalues(*map(make, batch))
        model.update_eigenvalues(*batch)
    for method in methods:
        op, host = layer.operator(0.1, method=method), model.operator(0.1, method=method)
        x = make.draw(op.shape[1])
        for got, want in ((op @ make(x), host @ x), (op.solve(make(x)), host.solve(x))):
            assert op.backend.device(got) == library.device
            np.testing.assert_allclose(op.backend.to_numpy(got), want, rtol=1e-8, atol=1e-10)


# -- CuPy: the solvers of cupyx, and the current device -------------------------------------------


@pytest.fixture(params=["as it is", "to_scipy"])
def adapt(request):
    return (lambda op: op) if request.param == "as it is" else (lambda op: op.to_scipy())


def tolerance(solver, value):
    """cupyx calls it ``tol`` or ``rtol``, by version and by solver."""
    name = "rtol" if "rtol" in inspect.signature(solver).parameters else "tol"
    return {name: value}


# cupyx's cgs and minres are for real systems alone.
CUPYX = [(name, dtype) for name in ("cg", "gmres") for dtype in DTYPES]
CUPYX += [(name, dtype) for name in ("cgs", "minres") for dtype in ("float64", "float32")]


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("name, dtype", CUPYX)
def test_cupyx_solves(name, dtype, preconditioned, adapt, cupy_library):
    make, op, preconditioner, dense = system(cupy_library, dtype)
    solver = getattr(op.backend.solver_library(), name)
    accuracy = 1e-4 if np.finfo(dtype).eps > 1e-10 else 1e-10
    b = make.draw(56)
    m = adapt(preconditioner) if preconditioned else None
    x, info = solver(adapt(op), make(b), M=m, maxiter=2000, **tolerance(solver, accuracy))
    assert info == 0
    assert backend_of(x) is op.backend
    residual = dense @ op.backend.to_numpy(x) - b
    assert np.linalg.norm(residual) <= 10 * accuracy * np.linalg.norm(b) * np.linalg.cond(dense)


def test_cupyx_least_squares(cupy_library, adapt):
    make = Maker(cupy_library, "float64")
    a, b, c = make.draw(6, 4), make.draw(5, 3), make.draw(30)
    op = kronops.kron(make(a), make(b))
    lsmr = op.backend.solver_library().lsmr
    x = lsmr(adapt(op), make(c), atol=1e-13, btol=1e-13, maxiter=500)[0]
    want = np.linalg.lstsq(np.kron(a, b), c)[0]
    np.testing.assert_allclose(op.backend.to_numpy(x), want, rtol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_cupyx_eigenvalues_and_singular_values(cupy_library, adapt, dtype):
    make, op, _, dense = system(cupy_library, dtype)
    library = op.backend.solver_library()
    largest = library.eigsh(adapt(op), k=3, return_eigenvectors=False)
    want = np.linalg.eigvalsh(dense)
    np.testing.assert_allclose(np.sort(op.backend.to_numpy(largest)), want[-3:], rtol=1e-8)
    values = library.svds(adapt(op), k=2, return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(op.backend.to_numpy(values)), want[-2:], rtol=1e-8)
    if dtype == "float64":
        start = make(make.draw(56, 3))
        found, _ = library.lobpcg(adapt(op), start, maxiter=200, tol=1e-8)
        np.testing.assert_allclose(np.sort(op.backend.to_numpy(found)), want[-3:], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("name", zoo.CASES)
def test_vectors_have_no_gaps(name, dtype, cupy_library):
    """cupyx's solvers hand what matvec and rmatvec return to cuBLAS as if it were contiguous."""
    op, matrix = make_case(name, cupy_library, dtype)
    case = Case(op, matrix)
    x, _ = case.probe(case.n)
    y, _ = case.probe(case.m)
    for form in (op, op.inverse()) if case.regular else (op,):
        assert form.matvec(x).flags.c_contiguous
        assert form.rmatvec(y).flags.c_contiguous
    if case.square and case.moderate:
        inverse = op.damped(2.0 * case.largest(matrix) * case.n).inverse()
        assert inverse.matvec(x).flags.c_contiguous
        assert inverse.rmatvec(x).flags.c_contiguous


def test_cupy_arrays_on_the_left(cupy_library):
    make, op, _, dense = system(cupy_library, "float64")
    x = make.draw(3, 56)
    np.testing.assert_allclose(op.backend.to_numpy(make(x) @ op), x @ dense, rtol=1e-10)
    with pytest.raises(TypeError, match="@"):
        make(x) * op


def test_another_device_is_refused_unless_it_is_current(cupy_library):
    """CuPy computes on its current device: an array elsewhere would come back moved."""
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("cupy: one GPU alone, two are needed")
    other = cupy.cuda.Device(1 - cupy_library.device.id)
    make = Maker(cupy_library, "float64")
    a, b = make.definite(2), make.definite(3)
    moved = kronops.kron(make(a), make(b)).to_device(other)
    assert moved.device == copy.deepcopy(moved).device == other
    with other:
        x = cupy.ones(6)
        made = kronops.kron(*moved.factors)
        assert (made @ x).device == made.solve(x).device == made.logdet().device == other
    with pytest.raises(TypeError, match="current device"):
        kronops.DenseOperator(x[:, None])
    with pytest.raises(TypeError, match="current device"):
        moved @ x
