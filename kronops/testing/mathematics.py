"""The laws of what an operator computes: that of its matrix."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from kronops.backends.standard import Array
from kronops.errors import LinAlgError
from kronops.normals import Normals
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.testing.case import Case, raises
from kronops.vectors import flatten

__all__ = [
    "adjoints",
    "along_the_last_axis",
    "arithmetic",
    "exact_damping",
    "exponentials",
    "hermitian_functions",
    "inverses",
    "numbers",
    "powers",
    "products",
    "samples",
    "singular_values",
    "structured_vectors",
]


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
            raises(ValueError, getattr(op, name))
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
            raises(LinAlgError, op.logdet)


def inverses(case: Case) -> None:
    """inverse and solve invert, and the inverse of the inverse is the operator"""
    op, m = case.op, case.matrix
    if not case.square:
        return
    if not case.regular:
        if case.largest(m) == 0 and case.n:
            b, _ = case.probe(case.n)
            raises(LinAlgError, lambda: op.solve(b))
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
        raises(LinAlgError, op.eigh)
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
        raises(LinAlgError, op.cholesky)
        raises(LinAlgError, lambda: op.power(0.5))


def exponentials(case: Case) -> None:
    """expm and logm are those of the matrix; logm is refused if not positive definite"""
    op, m = case.op, case.matrix
    if not case.square or not case.moderate:
        return
    unit = 1.0 / (case.n * case.largest(m) + 1.0)
    exponential = (unit * op).expm()
    case.close(exponential.to_dense(), scipy.linalg.expm(unit * m) if case.n else m, 1.0)
    if not case.hermitian:
        raises(LinAlgError, op.logm)
        return
    values, vectors = np.linalg.eigh(m)
    if np.all(values > 10 * case.n * case.eps * case.largest(values)):
        want = (vectors * np.log(values)) @ vectors.conj().T
        case.close(op.logm().to_dense(), want, 1.0 + case.largest(want), case.condition)
    elif values[0] < -10 * case.n * case.eps * case.largest(values):
        raises(LinAlgError, op.logm)


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
        raises(ValueError, op.damped, value)
    for other in (1j, "1", None, [1.0]):
        raises(TypeError, op.damped, other)


def samples(case: Case) -> None:
    """draws have the operator, or its inverse, as their covariance; refused if it is none"""
    op, m = case.op, case.matrix
    if not case.square or not case.moderate or not case.n:
        return
    smallest, largest = np.linalg.eigvalsh(m)[[0, -1]] if case.hermitian else (-1.0, 1.0)
    if smallest < -10 * case.n * case.eps * abs(largest):
        raises(LinAlgError, lambda: op.sample(np.random.default_rng(0)))
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
