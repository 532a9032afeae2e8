"""The laws that every operator keeps, for authors of operators: `check_operator`.

Each law is a function of a `Case`, an operator with its own dense matrix as the model. `LAWS` lists
them in order; tests may run them one by one.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

from kronops import tree
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.errors import DensificationWarning, LinAlgError, LinAlgWarning
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.vectors import flatten, size_of

__all__ = ["LAWS", "Case", "check_operator"]

Matrix = np.ndarray[Any, Any]


def check_operator(op: LinearOperator, matrix: Any = None, seed: int = 0) -> None:
    """Check everything that an operator promises against its dense matrix.

    Parameters
    ----------
    op : LinearOperator
        Small enough that its matrix can be formed many times: up to a few dozen rows.
    matrix : array, optional
        The matrix that the operator should have; by default what ``op.to_dense()`` says.
    seed : int
        Of the random probes.

    Raises
    ------
    AssertionError
        A law is broken; the message names it, the operator, and by how much.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.testing import check_operator
    >>> check_operator(kronops.kron(np.ones((2, 3)), np.eye(2)))
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(f"op is a {type(op).__name__}: an operator is needed")
    case = Case(op, matrix, seed)
    for law in LAWS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DensificationWarning)
                warnings.simplefilter("ignore", LinAlgWarning)
                law(case)
        except Exception as error:
            what = (law.__doc__ or law.__name__).splitlines()[0]
            raise AssertionError(f"{op!r} breaks the law «{what}»: {error}") from error


class Case:
    """An operator, its matrix in NumPy, and probes of its own library.

    Parameters
    ----------
    op : LinearOperator
    matrix : array, optional
        The matrix that it should have; by default what ``op.to_dense()`` says.
    seed : int
        Of the random probes.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.testing import LAWS, Case
    >>> for law in LAWS:
    ...     law(Case(kronops.DiagonalOperator(np.array([1.0, 2.0]))))
    """

    def __init__(self, op: LinearOperator, matrix: Any = None, seed: int = 0) -> None:
        self.op = op
        self.backend = op.backend
        self.rng = np.random.default_rng(seed)
        made = self.numpy(op.to_dense())
        self.matrix: Matrix = made if matrix is None else np.asarray(matrix)
        self.m, self.n = self.matrix.shape
        self.eps = float(self.backend.xp.finfo(op.dtype).eps)
        self.tiny = float(self.backend.xp.finfo(op.dtype).smallest_normal)
        self.complex = self.backend.kind(op.dtype) == "complex floating"
        self.square = self.m == self.n
        with np.errstate(all="ignore"):
            self.condition = np.linalg.cond(self.matrix) if self.square and self.n else 1.0
        self.regular = self.square and self.condition < 0.01 / self.eps
        top = float(self.backend.xp.finfo(op.dtype).max) ** 0.3
        self.moderate = 1 / top < self.largest(self.matrix) < top
        adjoint = self.matrix.conj().T
        self.hermitian = self.square and bool(
            np.all(np.abs(self.matrix - adjoint) <= 10 * self.eps * self.largest(self.matrix))
        )

    def probe(self, *shape: int, complex_: bool | None = None) -> tuple[Array, Matrix]:
        """Random numbers as an array of the operator's library and as a NumPy array."""
        values = self.rng.standard_normal(shape)
        if self.complex if complex_ is None else complex_:
            values = values + 1j * self.rng.standard_normal(shape)
        array = self.array(values)
        return array, self.numpy(array)

    def array(self, values: Matrix) -> Array:
        """A NumPy array as one of the operator's library, in its precision and on its device."""
        xp = self.backend.xp
        if self.eps > 1e-12:  # some libraries have no double precision
            values = values.astype(np.complex64 if values.dtype.kind == "c" else np.float32)
        made = self.backend.from_numpy(values, self.op.device)
        complex_ = xp.result_type(self.op.dtype, xp.complex64)
        return xp.astype(made, complex_ if values.dtype.kind == "c" else self.op.dtype)

    def numpy(self, array: Array) -> Matrix:
        """An array of the operator's library as a double precision NumPy array."""
        assert backend_of(array) is self.backend, f"{type(array)} is not of {self.backend.name}"
        host = self.backend.to_numpy(array)
        return host.astype(np.complex128 if host.dtype.kind == "c" else np.float64)

    @staticmethod
    def largest(values: Matrix) -> float:
        """The largest magnitude."""
        return float(np.max(np.abs(values))) if values.size else 0.0

    def close(self, got: Array, want: Any, scale: float | None = None, factor: float = 1.0) -> None:
        """Equal up to rounding: ``20 eps (m + n)`` of the largest entry, times ``factor``.

        Numbers below the normal ones may be zero: some processors, and JAX on all, make them so.
        """
        got = self.numpy(got)
        want = np.asarray(want)
        assert got.shape == want.shape, f"shape {got.shape}, not {want.shape}"
        size = self.largest(want) if scale is None else scale
        allowed = factor * 20 * self.eps * (self.m + self.n + 1) * size
        error = max(self.largest(got - want) - 4 * self.tiny, 0.0)
        assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}"


def shape_and_dtype(case: Case) -> None:
    """shape, dtype, device, domain and range shapes agree with the matrix"""
    op = case.op
    assert op.shape == (case.m, case.n), f"shape is {op.shape}, to_dense {(case.m, case.n)}"
    assert all(type(size) is int for size in op.shape), "the sizes of shape are Python integers"
    assert size_of(op.domain_shape) == case.n, f"domain_shape {op.domain_shape} is of another size"
    assert size_of(op.range_shape) == case.m, f"range_shape {op.range_shape} is of another size"
    dense = op.to_dense()
    assert dense.dtype == op.dtype, f"to_dense is {dense.dtype}, the operator {op.dtype}"
    assert case.backend.same_device(dense, op.device)
    case.close(dense, case.matrix)
    if op.hermitian:
        assert case.hermitian, "it says hermitian and is not"


def products(case: Case) -> None:
    """op @ x equals the matrix times x for vectors, matrices and stacks, real and complex"""
    op, m = case.op, case.matrix
    for complex_ in (case.complex, True):
        for shape in [(case.n,), (case.n, 1), (case.n, 3), (2, case.n, 3), (case.n, 0)]:
            x, host = case.probe(*shape, complex_=complex_)
            y = op @ x
            dtype = case.backend.xp.result_type(x.dtype, op.dtype)
            assert y.shape == (case.m, *shape[1:]) if len(shape) < 3 else y.ndim == 3, (
                f"_matmat gave shape {y.shape} for x of {shape}"
            )
            assert y.dtype == dtype, (
                f"op @ x is {y.dtype} for x of {x.dtype}, {dtype} is needed (a real operator is "
                f"given complex x too)"
            )
            with np.errstate(over="ignore"):
                scale = case.largest(np.abs(m) @ np.abs(host))
                case.close(y, m @ host, scale)
    x, host = case.probe(case.n)
    case.close(op.matvec(x), m @ host, case.largest(np.abs(m) @ np.abs(host)))
    x, host = case.probe(case.n, 2)
    case.close(op.matmat(x), m @ host, case.largest(np.abs(m) @ np.abs(host)))


def along_the_last_axis(case: Case) -> None:
    """_apply_last equals x @ matrix.T"""
    x, host = case.probe(3, case.n)
    case.close(
        case.op._apply_last(x), host @ case.matrix.T, case.largest(abs(host) @ abs(case.matrix.T))
    )


def adjoints(case: Case) -> None:
    """H, T, rmatvec, rmatmat and x @ op are those of the matrix; twice is the original"""
    op, m = case.op, case.matrix
    scale = case.largest(m)
    case.close(op.H.to_dense(), m.conj().T)
    case.close(op.T.to_dense(), m.T)
    assert op.H.shape == op.T.shape == (case.n, case.m)
    assert op.H.domain_shape == op.range_shape and op.H.range_shape == op.domain_shape
    case.close(op.H.H.to_dense(), m)
    case.close(op.T.T.to_dense(), m)
    y, host = case.probe(case.m, complex_=True)
    sums = scale * np.sum(np.abs(host))
    case.close(op.rmatvec(y), m.conj().T @ host, sums)
    case.close(op.T @ y, m.T @ host, sums)
    case.close(op.__rmatmul__(y), host @ m, sums)
    y, host = case.probe(case.m, 2, complex_=True)
    case.close(op.rmatmat(y), m.conj().T @ host, scale * np.sum(np.abs(host)))
    y, host = case.probe(3, case.m, complex_=True)
    case.close(op.__rmatmul__(y), host @ m, scale * np.sum(np.abs(host)))
    if case.backend.name == "numpy":  # others may refuse before the operator is asked
        case.close(y @ op, host @ m, scale * np.sum(np.abs(host)))


def structured_vectors(case: Case) -> None:
    """multiply keeps the structure of the vector"""
    op = case.op
    x, host = case.probe(case.n)
    want = case.matrix @ host
    scale = case.largest(np.abs(case.matrix) @ np.abs(host))
    case.close(op.multiply(x), want, scale)
    if not isinstance(op.domain_shape, tuple):
        return
    result = op.multiply(case.backend.xp.reshape(x, op.domain_shape))
    flat, _ = flatten(result, op.range_shape, op.range_shape)
    case.close(flat, want, scale)


def arithmetic(case: Case) -> None:
    """sums, differences, multiples and compositions are those of the matrices"""
    op, m = case.op, case.matrix
    case.close((op + op).to_dense(), 2 * m)
    case.close((op - op).to_dense(), 0 * m, case.largest(m))
    case.close((3 * op / 2 - op).to_dense(), m / 2, case.largest(m))
    case.close((-op).to_dense(), -m)
    case.close((op * np.float64(0.5)).to_dense(), m / 2)
    case.close((0 * op).to_dense(), 0 * m)
    case.close(((1 + 2j) * op).to_dense(), (1 + 2j) * m)
    case.close(((1 + 2j) * op).H.to_dense(), (1 - 2j) * m.conj().T)
    other, host = case.probe(case.m, case.n)
    dense = DenseOperator(other)
    unit = max(case.largest(m), case.largest(host))
    case.close((op + dense).to_dense(), m + host, unit)
    case.close((dense - op).to_dense(), host - m, unit)
    scale = case.n * case.largest(m) * case.largest(host)
    case.close((dense.H @ op).to_dense(), host.conj().T @ m, scale)
    case.close((op @ dense.H).to_dense(), m @ host.conj().T, scale)
    with np.errstate(over="ignore"):
        square = m.conj().T @ m
    if np.all(np.isfinite(square)) and (case.largest(m) == 0 or case.largest(square) > 0):
        case.close((op.H @ op).to_dense(), square, case.m * case.largest(m) ** 2)


def numbers(case: Case) -> None:
    """trace, diagonal, slogdet and norm are those of the matrix"""
    op, m = case.op, case.matrix
    unit = case.largest(m)
    frobenius = unit * np.linalg.norm(m / unit) if unit else 0.0
    case.close(op.norm(), frobenius)
    assert op.norm().dtype == case.backend.real_dtype(op.dtype), f"norm is {op.norm().dtype}"
    if not case.square:
        for name in ("trace", "diagonal", "slogdet", "inverse"):
            _raises(ValueError, getattr(op, name))
        return
    case.close(op.trace(), np.trace(m), unit * case.n)
    case.close(op.diagonal(), np.diagonal(m), unit)
    sign, logabsdet = np.linalg.slogdet(m)
    got = op.slogdet()
    real = case.backend.real_dtype(op.dtype)
    dtypes = [op.trace().dtype, op.diagonal().dtype, got.sign.dtype, got.logabsdet.dtype]
    wanted = [op.dtype, op.dtype, op.dtype, real]
    assert dtypes == wanted, f"dtypes of trace, diagonal and slogdet: {dtypes}, not {wanted}"
    if case.regular:
        case.close(got.sign, sign, 1.0, case.condition)
        spread = case.n * (1 + abs(np.log(unit))) if unit else 1.0
        case.close(got.logabsdet, logabsdet, spread, case.condition)
        if abs(sign - 1) < 1e-3:
            case.close(op.logdet(), logabsdet, spread, case.condition)
        elif abs(sign - 1) > 0.1:
            _raises(LinAlgError, op.logdet)


def inverses(case: Case) -> None:
    """inverse and solve invert, and the inverse of the inverse is the operator"""
    op, m = case.op, case.matrix
    if not case.square:
        return
    if not case.regular:
        if case.largest(m) == 0 and case.n:
            b, _ = case.probe(case.n)
            _raises(LinAlgError, lambda: op.solve(b))
        return
    inverse = op.inverse()
    scale = case.largest(m)
    for shape in [(case.n,), (case.n, 2), (2, case.n, 3), (case.n, 0)]:
        b, host = case.probe(*shape, complex_=True)
        for x in (op.solve(b), inverse @ b):
            solution = case.numpy(x)
            residual = m @ solution - host
            case_scale = case.n * scale * case.largest(solution) + case.largest(host)
            error, allowed = case.largest(residual), 100 * case.eps * (case.n + 1) * case_scale
            assert error <= allowed, f"residual {error:.3g} of a solve, allowed {allowed:.3g}"
    b, host = case.probe(case.n)
    case.close(op.multiply_inverse(op @ b), host, None, 10 * case.condition)
    if case.largest(np.abs(np.linalg.inv(m))) < 1e290:
        case.close(inverse.inverse().to_dense(), m, None, case.condition)
        case.close(inverse.H.to_dense(), np.linalg.inv(m).conj().T, None, case.condition)
        case.close(inverse.T.to_dense(), np.linalg.inv(m).T, None, case.condition)


def powers(case: Case) -> None:
    """integer powers are repeated products"""
    op, m = case.op, case.matrix
    if not case.square or not case.moderate:
        return
    x, host = case.probe(case.n)
    case.close(op.power(0) @ x, host)
    scale = case.largest(np.abs(m) @ (np.abs(m) @ np.abs(host)))
    case.close(op.power(2) @ x, m @ (m @ host), scale)
    case.close(op.multiply_power(x, 1), m @ host, case.largest(np.abs(m) @ np.abs(host)))
    if case.regular and case.condition < case.eps**-0.5:
        want = np.linalg.solve(m, np.linalg.solve(m, host))
        case.close(op.multiply_power(x, -2), want, None, 10 * case.condition**2)


def hermitian_functions(case: Case) -> None:
    """eigh, square roots and Cholesky factors of Hermitian operators; refused for others"""
    op, m = case.op, case.matrix
    if not case.square or not case.moderate:
        return
    if not case.hermitian:
        _raises(LinAlgError, op.eigh)
        return
    values, vectors = op.eigh()
    want = np.linalg.eigvalsh(m)
    case.close(values, want, case.largest(m) * case.n)
    basis = case.numpy(vectors.to_dense())
    host_values = case.numpy(values)
    rebuilt = (basis * host_values) @ basis.conj().T
    assert case.largest(rebuilt - m) <= 100 * case.eps * case.n**2 * case.largest(m)
    assert case.largest(basis.conj().T @ basis - np.eye(case.n)) <= 100 * case.eps * case.n
    if want[0] > 10 * case.n * case.eps * want[-1]:
        x, host = case.probe(case.n)
        scale = case.largest(m) * case.largest(host) * case.n
        for root in (op.sqrt(), op.power(0.5)):
            case.close(root @ (root @ x), m @ host, scale)
        whitened = op.multiply_power(op.multiply_power(op @ x, -0.5), -0.5)
        case.close(whitened, host, None, 10 * case.condition)
        lower = op.cholesky()
        dense = case.numpy(lower.to_dense())
        assert np.all(np.triu(dense, 1) == 0), "the Cholesky factor is not lower triangular"
        case.close((lower @ lower.H).to_dense(), m, case.largest(m) * case.n)
    elif want[0] < -10 * case.n * case.eps * abs(want).max():
        _raises(LinAlgError, op.cholesky)
        _raises(LinAlgError, lambda: op.power(0.5))


def exponentials(case: Case) -> None:
    """expm and logm are those of the matrix; logm is refused if not positive definite"""
    op, m = case.op, case.matrix
    if not case.square or not case.moderate:
        return
    unit = 1.0 / (case.n * case.largest(m) + 1.0)
    exponential = (unit * op).expm()
    case.close(exponential.to_dense(), scipy.linalg.expm(unit * m) if case.n else m, 1.0)
    if not case.hermitian:
        _raises(LinAlgError, op.logm)
        return
    values, vectors = np.linalg.eigh(m)
    if np.all(values > 10 * case.n * case.eps * case.largest(values)):
        want = (vectors * np.log(values)) @ vectors.conj().T
        case.close(op.logm().to_dense(), want, 1.0 + case.largest(want), case.condition)
    elif values[0] < -10 * case.n * case.eps * case.largest(values):
        _raises(LinAlgError, op.logm)


def singular_values(case: Case) -> None:
    """svd, pinv and lstsq are those of the matrix"""
    op, m = case.op, case.matrix
    if not case.moderate:
        return
    left, values, right = op.svd()
    want = np.linalg.svd(m, compute_uv=False)
    size, n = case.largest(want), max(case.m, case.n)
    case.close(values, want, size)
    assert values.dtype == case.backend.real_dtype(op.dtype), f"singular values: {values.dtype}"
    u, vh = case.numpy(left.to_dense()), case.numpy(right.to_dense())
    case.close(case.array((u * case.numpy(values)) @ vh), m, size * n)
    for square in (u.conj().T @ u, vh @ vh.conj().T):
        case.close(case.array(square), np.eye(want.size), float(n))
    rtol = min(n * case.eps, case.eps**0.5)
    kept = want > rtol * size
    if np.any(want[kept] < 1e3 * rtol * size) or np.any(want[~kept] > 0.1 * rtol * size):
        return  # rounding decides the rank
    inverse = np.linalg.pinv(m, rtol=rtol)
    condition = size / want[kept][-1] if np.any(kept) else 1.0
    case.close(op.pinv().to_dense(), inverse, None, 10 * condition)
    b, host = case.probe(case.m, 2)
    scale = case.largest(np.abs(inverse) @ np.abs(host))
    case.close(op.lstsq(b), inverse @ host, scale, 10 * condition)


def exact_damping(case: Case) -> None:
    """damped adds to the diagonal, and solves"""
    op, m = case.op, case.matrix
    if not case.square or not case.moderate:
        return
    value = 2.0 * case.largest(m) * case.n
    damped, want = op.damped(value), m + value * np.eye(case.n)
    case.close(damped.to_dense(), want)
    x, host = case.probe(case.n)
    case.close(damped.solve(x), np.linalg.solve(want, host), None, np.linalg.cond(want))
    case.close(damped.slogdet().logabsdet, np.linalg.slogdet(want)[1], case.n * 10.0, 10)
    identity = DiagonalOperator(case.backend.xp.ones(case.n, dtype=op.dtype, device=op.device))
    case.close((op + value * identity).to_dense(), want)
    for value in (-1.0, float("nan"), float("inf")):
        _raises(ValueError, op.damped, value)
    for other in (1j, "1", None, [1.0]):
        _raises(TypeError, op.damped, other)


def samples(case: Case) -> None:
    """draws have the operator, or its inverse, as their covariance; refused if it is none"""
    op, m = case.op, case.matrix
    if not case.square or not case.moderate or not case.n:
        return
    smallest, largest = np.linalg.eigvalsh(m)[[0, -1]] if case.hermitian else (-1.0, 1.0)
    if smallest < -10 * case.n * case.eps * abs(largest):
        _raises(LinAlgError, lambda: op.sample(np.random.default_rng(0)))
        return
    draws = op.sample(np.random.default_rng(0), (2, 3))
    assert draws.shape == (2, 3, case.n) and draws.dtype == op.dtype
    if smallest > 10 * case.n * case.eps * largest or case.largest(m) == 0:
        root = case.numpy(op._sample(_Units.of(case)))
        case.close(case.array(root @ root.conj().T), m, case.n * case.largest(m), 10)


class _Units(Normals):
    """Unit vectors for random numbers: what is made of them is the root that a draw applies."""

    def __init__(self, case: Case, total: int) -> None:
        super().__init__(case.backend, None, case.op.dtype, case.op.device, total)
        self.given = 0

    @staticmethod
    def of(case: Case) -> _Units:
        """As many as a draw asks for in all."""
        rehearsal = _Units(case, 1)
        case.op._sample(rehearsal)
        return _Units(case, rehearsal.given)

    def columns(self, n: int) -> Array:
        """The next ``n`` rows of the identity."""
        xp = self.backend.xp
        start, self.given = self.given, self.given + n
        return xp.eye(n, self.count, k=start, dtype=self.dtype, device=self.device)


def nothing_is_shared(case: Case) -> None:
    """inputs are not written to, outputs do not alias them, fields cannot be set"""
    op = case.op
    x, _ = case.probe(case.n, 2)
    before = case.numpy(x).copy()
    first = op @ x
    kept = case.numpy(first).copy()
    if case.m and case.n:
        with contextlib.suppress(TypeError):  # some libraries' arrays cannot be written to
            first[...] = 7.0
        assert np.array_equal(case.numpy(x), before), "writing to the result changed the input"
    assert np.array_equal(case.numpy(op @ x), kept), "the result shares memory with the operator"
    for field in dataclasses.fields(op):
        _raises(AttributeError, setattr, op, field.name, None)


def copies(case: Case) -> None:
    """pickle and deepcopy give the same operator, and so does taking it apart, as JAX does"""
    x, _ = case.probe(case.n)
    want = case.numpy(case.op @ x)
    assert np.array_equal(case.numpy(copy.deepcopy(case.op) @ x), want)
    kind = type(case.op)
    parts, rest = tree.take_apart(case.op)
    again = tree.put_together(kind, rest, parts.values())
    assert np.allclose(case.numpy(again @ x), want, rtol=1e-4, atol=0)
    importable = getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    if case.backend.name == "numpy" and importable:  # pickle finds classes by their names
        assert np.array_equal(case.numpy(pickle.loads(pickle.dumps(case.op)) @ x), want)


def refusals(case: Case) -> None:
    """what does not fit is refused in words: sizes, libraries, scalars, lists"""
    op = case.op
    x, _ = case.probe(case.n + 1)
    assert str(case.n) in _raises(ValueError, lambda: op @ x)
    _raises(ValueError, lambda: op.multiply(x))
    _raises(TypeError, lambda: op @ [0.0] * case.n)
    assert "@" in _raises(TypeError, lambda: op * op)
    assert "damped" in _raises(TypeError, lambda: op + 1.0)
    assert "DenseOperator" in _raises(TypeError, lambda: op + op.to_dense())
    _raises(TypeError, lambda: op * "2")
    _raises(ValueError, lambda: op * float("nan"))
    if case.m * case.n:
        assert "limit" in _raises(ValueError, lambda: op.to_dense(limit=0))


def one_line(case: Case) -> None:
    """repr is one line with class, shape, dtype and backend"""
    text = repr(case.op)
    assert "\n" not in text
    for part in (type(case.op).__name__, str(case.op.shape), case.backend.name):
        assert part in text


def moves(case: Case) -> None:
    """astype and to_device are explicit and keep the operator"""
    op, xp = case.op, case.backend.xp
    single = xp.complex64 if case.complex else xp.float32
    if not case.moderate:
        return
    try:
        cast = op.astype(single)
    except OverflowError:  # the matrix is in range, but not every array of the operator
        return
    assert cast.dtype == single
    error = case.largest(case.numpy(cast.to_dense()) - case.matrix)
    assert error <= 1e-5 * (case.m + case.n) * case.largest(case.matrix)
    case.close(op.to_device(op.device).to_dense(), case.matrix)
    if case.complex:
        _raises(ValueError, lambda: op.astype(xp.float64))


def scipy_adapter(case: Case) -> None:
    """to_scipy and scipy's aslinearoperator take NumPy operators as they are"""
    if case.backend.name != "numpy":
        return
    library = case.backend.solver_library()
    x, host = case.probe(case.n)
    y, other = case.probe(case.m)
    scale = case.largest(case.matrix)
    for adapted in (case.op.to_scipy(), library.aslinearoperator(case.op)):
        assert adapted.shape == case.op.shape and adapted.dtype == case.op.dtype
        case.close(adapted.matvec(x), case.matrix @ host, scale * np.sum(np.abs(host)))
        case.close(adapted.rmatvec(y), case.matrix.conj().T @ other, scale * np.sum(np.abs(other)))
        case.close(adapted.matvec(x[:, None]), (case.matrix @ host)[:, None],
                   scale * np.sum(np.abs(host)))  # fmt: skip


def _raises(kind: type[Exception], function: Callable[..., Any], *arguments: Any) -> str:
    """Assert that ``function(*arguments)`` raises ``kind``; its message.

    Where values cannot be seen, it may do so when they are computed, or they are NaN.
    """
    try:
        made = function(*arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, where the NaN is made
            for leaf in tree.leaves(made):
                backend = backend_of(leaf)
                unseen = backend.values(leaf) is None
                if unseen and kind is LinAlgError and np.any(np.isnan(backend.to_numpy(leaf))):
                    return "NaN"
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")


LAWS: tuple[Callable[[Case], None], ...] = (
    shape_and_dtype,
    products,
    along_the_last_axis,
    adjoints,
    structured_vectors,
    arithmetic,
    numbers,
    inverses,
    powers,
    hermitian_functions,
    exponentials,
    singular_values,
    exact_damping,
    samples,
    nothing_is_shared,
    copies,
    refusals,
    one_line,
    moves,
    scipy_adapter,
)
