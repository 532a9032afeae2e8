"""One of every operator, each with the matrix that it should have.

A case is a function of a `Maker`, which draws matrices and brings them to the library and dtype
under test. Adding an operator means adding one to three cases here; the laws do the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

import kronops
from kronops.backends import backend_of
from kronops.operators.grouped import GroupedOperator

CASES: dict[str, Callable[[Maker], tuple[Any, np.ndarray]]] = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Maker:
    """Draws matrices, rounded to the dtype under test, and brings them to the library."""

    def __init__(self, xp: Any, dtype: str, seed: int = 0) -> None:
        self.xp = xp
        self.dtype = getattr(xp, dtype)
        self.numpy_dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(seed)

    @property
    def complex(self) -> bool:
        return self.numpy_dtype.kind == "c"

    def draw(self, *shape: int) -> np.ndarray:
        values = self.rng.standard_normal(shape)
        if self.complex:
            values = values + 1j * self.rng.standard_normal(shape)
        return self.round(values)

    def round(self, values: Any) -> np.ndarray:
        """To the precision under test, held in double precision."""
        wide = np.complex128 if self.complex else np.float64
        return np.asarray(values).astype(self.numpy_dtype).astype(wide)

    def definite(self, n: int) -> np.ndarray:
        a = self.draw(n, n)
        made = self.round(a @ a.conj().T / n + np.eye(n))
        return (made + made.conj().T) / 2

    def symmetric(self, n: int) -> np.ndarray:
        a = self.draw(n, n)
        return self.round((a + a.conj().T) / 2 + np.diag(np.arange(n) - 0.5 * n + 0.25) * 2)

    def general(self, n: int) -> np.ndarray:
        return self.round(self.draw(n, n) + 2 * n**0.5 * np.eye(n))

    def unitary(self, n: int) -> np.ndarray:
        return np.linalg.qr(self.draw(n, n))[0]

    def real(self, values: np.ndarray) -> Any:
        """A real array of the precision under test."""
        single = self.numpy_dtype.itemsize // (2 if self.complex else 1) == 4
        kind = "float32" if single else "float64"
        return self.xp.asarray(values.real.astype(kind).copy())

    def __call__(self, matrix: np.ndarray) -> Any:
        return self.xp.asarray(np.asarray(matrix).astype(self.numpy_dtype).copy())


def kron(*matrices: np.ndarray) -> np.ndarray:
    made = np.ones((1, 1))
    for matrix in matrices:
        made = np.kron(made, matrix)
    return made


def block_diag(*matrices: np.ndarray) -> np.ndarray:
    rows, columns = (sum(m.shape[i] for m in matrices) for i in (0, 1))
    made = np.zeros((rows, columns), dtype=np.result_type(*matrices))
    r = c = 0
    for m in matrices:
        made[r : r + m.shape[0], c : c + m.shape[1]] = m
        r, c = r + m.shape[0], c + m.shape[1]
    return made


# -- one matrix -----------------------------------------------------------------------------------


@case
def dense_general(make):
    a = make.general(5)
    return kronops.DenseOperator(make(a)), a


@case
def dense_rectangular(make):
    a = make.draw(3, 5)
    return kronops.DenseOperator(make(a), "general"), a


@case
def dense_definite(make):
    a = make.definite(4)
    return kronops.DenseOperator(make(a), "positive definite"), a


@case
def dense_symmetric(make):
    a = make.symmetric(5)
    return kronops.DenseOperator(make(a), assume="symmetric"), a


@case
def dense_found_definite(make):
    a = make.definite(6)
    return kronops.DenseOperator(make(a), domain_shape=(3, 2)), a


@case
def dense_one_by_one(make):
    a = make.general(1)
    return kronops.DenseOperator(make(a)), a


@case
def dense_empty(make):
    return kronops.DenseOperator(make(np.zeros((0, 0)))), np.zeros((0, 0))


@case
def dense_no_rows(make):
    return kronops.DenseOperator(make(np.zeros((0, 3)))), np.zeros((0, 3))


@case
def diagonal(make):
    d = make.draw(4) + 3
    return kronops.DiagonalOperator(make(d)), np.diag(d)


@case
def diagonal_matrix_shaped(make):
    d = make.round(np.abs(make.draw(3, 2)) + 0.5)
    return kronops.DiagonalOperator(make(d)), np.diag(d.ravel())


@case
def diagonal_singular(make):
    d = make.round(np.array([1.0, 0.0, 2.0]))
    return kronops.DiagonalOperator(make(d)), np.diag(d)


@case
def identity(make):
    return kronops.IdentityOperator(5, like=make(np.zeros(1))), np.eye(5)


# -- Kronecker products ---------------------------------------------------------------------------


@case
def kronecker_one_factor(make):
    a = make.general(4)
    return kronops.KroneckerOperator([make(a)], scale=-1.5), -1.5 * a


@case
def kronecker_general(make):
    a, b = make.general(3), make.general(4)
    return kronops.kron(make(a), make(b)), kron(a, b)


@case
def kronecker_definite(make):
    a, b = make.definite(3), make.definite(2)
    return kronops.KroneckerOperator([make(a), make(b)], scale=2.5), 2.5 * kron(a, b)


@case
def kronecker_indefinite(make):
    a, b = make.symmetric(3), make.definite(2)
    return kronops.kron(make(a), make(b)), kron(a, b)


@case
def kronecker_two_negative_factors(make):
    a, b = make.definite(2), make.definite(3)
    return kronops.kron(make(-a), make(-b)), kron(a, b)


@case
def kronecker_three_factors(make):
    a, b, c = make.definite(2), make.general(3), make.general(2)
    return kronops.kron(make(a), make(b), make(c)), kron(a, b, c)


@case
def kronecker_four_equal_factors(make):
    a = make.general(2)
    return kronops.kron(*[make(a)] * 4), kron(a, a, a, a)


@case
def kronecker_rectangular(make):
    a, b, c = make.draw(2, 3), make.draw(4, 2), make.draw(1, 2)
    return kronops.kron(make(a), make(b), make(c)), kron(a, b, c)


@case
def kronecker_square_of_rectangles(make):
    a, b = make.draw(2, 3), make.draw(3, 2)
    return kronops.kron(make(a), make(b)), kron(a, b)


@case
def kronecker_with_ones(make):
    a, b, c = make.general(1), make.general(3), make.general(1)
    return kronops.kron(make(a), make(b), make(c)), kron(a, b, c)


@case
def kronecker_empty(make):
    return kronops.kron(make(np.zeros((0, 0))), make(make.general(3))), np.zeros((0, 0))


@case
def kronecker_no_columns(make):
    return kronops.kron(make(np.zeros((2, 0))), make(make.general(3))), np.zeros((6, 0))


@case
def kronecker_singular(make):
    a, b = make.round(np.ones((2, 2))), make.general(3)
    return kronops.kron(make(a), make(b)), kron(a, b)


@case
def kronecker_of_operators(make):
    a, d, b = make.definite(2), make.draw(3) + 3, make.definite(2)
    factors = [
        2.0 * kronops.DenseOperator(make(a)),
        kronops.DiagonalOperator(make(d)),
        kronops.IdentityOperator(2, like=make(a)),
        kronops.DenseOperator(make(b)).inverse(),
    ]
    return kronops.KroneckerOperator(factors), 2 * kron(a, np.diag(d), np.eye(2), np.linalg.inv(b))


@case
def kronecker_of_kronecker(make):
    a, b, c = make.general(2), make.general(2), make.general(3)
    inner = kronops.KroneckerOperator([make(b), make(c)], scale=0.5)
    return kronops.kron(make(a), 3 * inner), 1.5 * kron(a, b, c)


@case
def kronecker_of_blocks(make):
    a, b, c = make.definite(2), make.definite(1), make.definite(2)
    blocks = kronops.block_diag(make(a), make(b))
    return kronops.kron(blocks, make(c)), kron(block_diag(a, b), c)


@case
def kronecker_complex_scale(make):
    a, b = make.general(2), make.general(3)
    scale = 0.6 - 0.8j
    return kronops.KroneckerOperator([make(a), make(b)], scale), scale * kron(a, b)


@case
def kronecker_wild_scales(make):
    big = 1e150 if make.numpy_dtype.itemsize >= 8 and make.numpy_dtype != "complex64" else 1e17
    a, b, c, d = (make.general(2) for _ in range(4))
    powers = [2.0 ** round(np.log2(big)), 2.0 ** -round(np.log2(big))]
    factors = [a * powers[0], b * powers[0], c * powers[1], d * powers[1]]
    return kronops.kron(*map(make, factors)), kron(a, b, c, d)


@case
def kronecker_huge(make):
    a, b = make.definite(2), make.definite(2)
    big = 2.0**60 if make.numpy_dtype in ("float32", "complex64") else 2.0**498
    return kronops.KroneckerOperator([make(a), make(b)], scale=big), big * kron(a, b)


# -- made from Kronecker products -----------------------------------------------------------------


@case
def kronecker_eigen(make):
    q, r = make.unitary(3), make.unitary(2)
    values = np.abs(make.draw(3, 2)) + 0.5
    basis = kron(make.round(q), make.round(r))
    op = kronops.KroneckerEigenOperator([make(q), make(r)], make.real(values))
    return op, (basis * make.round(values).real.ravel()) @ basis.conj().T


@case
def kronecker_damped(make):
    a, b = make.definite(3), make.definite(2)
    op = kronops.KroneckerOperator([make(a), make(b)], 0.5).damped(0.25)
    return op, 0.5 * kron(a, b) + 0.25 * np.eye(6)


@case
def kronecker_damped_general(make):
    a, b, c = make.general(2), make.general(3), make.general(2)
    op = kronops.kron(make(a), make(b), make(c)).damped(0.5)
    return op, kron(a, b, c) + 0.5 * np.eye(12)


@case
def kronecker_factored(make):
    a, b = make.definite(3), make.definite(2)
    op = kronops.kron(make(a), make(b)).damped(0.36, method="factored")
    pi = np.sqrt((np.trace(a).real / 3) / (np.trace(b).real / 2))
    return op, kron(a + 0.6 * pi * np.eye(3), b + 0.6 / pi * np.eye(2))


@case
def kronecker_inverse(make):
    a, b = make.definite(3), make.general(2)
    return kronops.kron(make(a), make(b)).inverse(), np.linalg.inv(kron(a, b))


@case
def kronecker_power(make):
    a, b = make.definite(3), make.definite(2)
    op = kronops.kron(make(a), make(b)).power(-0.5)
    values, vectors = np.linalg.eigh(kron(a, b))
    return op, (vectors * values**-0.5) @ vectors.conj().T


# -- Kronecker sums -------------------------------------------------------------------------------


def kron_sum(*matrices: np.ndarray) -> np.ndarray:
    made = np.zeros((1, 1))
    for m in matrices:
        made = np.kron(made, np.eye(len(m))) + np.kron(np.eye(len(made)), m)
    return made


@case
def kronecker_sum_symmetric(make):
    a, b = make.symmetric(3), make.definite(2)
    return kronops.KroneckerSumOperator([make(a), make(b)]), kron_sum(a, b)


@case
def kronecker_sum_general(make):
    a, d, b = make.general(2), make.draw(3) + 4, make.general(2)
    factors = [make(a), kronops.DiagonalOperator(make(d)), make(b)]
    op = 0.5 * kronops.KroneckerSumOperator(factors).damped(0.25)
    return op, 0.5 * kron_sum(a, np.diag(d), b) + 0.125 * np.eye(12)


@case
def kronecker_sum_one_factor(make):
    a = make.definite(4)
    return kronops.KroneckerSumOperator([make(a)]), a


# -- blocks ---------------------------------------------------------------------------------------


@case
def blocks_list(make):
    a, b, c = make.definite(2), make.definite(2), make.definite(3)
    return kronops.block_diag(kronops.kron(make(a), make(b)), make(c)), block_diag(kron(a, b), c)


@case
def blocks_dict(make):
    a, d = make.general(3), make.draw(2, 2) + 3
    blocks = {"dense": make(a), "diagonal": kronops.DiagonalOperator(make(d))}
    return kronops.BlockDiagonalOperator(blocks), block_diag(a, np.diag(d.ravel()))


@case
def blocks_rectangular(make):
    a, b = make.draw(2, 3), make.draw(3, 2)
    return kronops.block_diag(make(a), make(b)), block_diag(a, b)


@case
def blocks_in_a_stack(make):
    matrices = [make.general(2), *(make.definite(3) for _ in range(4))]
    return kronops.block_diag(*map(make, matrices)), block_diag(*matrices)


def in_groups(blocks: list[np.ndarray], inputs: int) -> np.ndarray:
    """The matrix on vectors ``(inputs, groups·outputs)`` of blocks side by side."""
    n = sum(len(block) for block in blocks)
    order = np.arange(n).reshape(len(blocks), inputs, -1).swapaxes(0, 1).ravel()
    return block_diag(*blocks)[np.ix_(order, order)]


@case
def groups_of_definite_products(make):
    factors = [(make.definite(3), make.definite(2)) for _ in range(2)]
    blocks = [kronops.kron(make(a), make(g)) for a, g in factors]
    return GroupedOperator.of(blocks), in_groups([kron(a, g) for a, g in factors], 3)


@case
def groups_of_general_products(make):
    factors = [(make.general(2), make.general(1)) for _ in range(3)]
    blocks = [kronops.kron(make(a), make(g)) for a, g in factors]
    op = GroupedOperator.of(blocks, "in,channels")
    return op, in_groups([kron(a, g) for a, g in factors], 2)


@case
def groups_in_pytorchs_layout(make):
    factors = [(make.definite(2), make.definite(3)) for _ in range(2)]
    blocks = [kronops.KroneckerOperator(map(make, pair), layout="out,in") for pair in factors]
    return GroupedOperator.of(blocks, "out,in"), block_diag(*(kron(g, a) for g, a in factors))


# -- series ---------------------------------------------------------------------------------------


def moments(make, n: int, norm: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """``C0`` and a ``C1`` for which ``C0^(-1/2) C1 C0^(-1/2)`` has the given norm."""
    c0 = make.definite(n)
    values, vectors = np.linalg.eigh(c0)
    root = (vectors * values**0.5) @ vectors.conj().T
    h = make.draw(n, n)
    return c0, make.round(root @ (norm * h / np.linalg.norm(h, 2)) @ root)


def series_matrix(sides, damping, timesteps, option, signed=True) -> np.ndarray:
    """The block, summed lag by lag (option 2: until the lags vanish)."""
    roots, lags = [], []
    for (c0, c1), d in zip(sides, damping, strict=True):
        values, vectors = np.linalg.eigh(c0 + d * np.eye(len(c0)))
        root = (vectors * values**0.5) @ vectors.conj().T
        h = np.linalg.solve(root, np.linalg.solve(root, c1).conj().T).conj().T
        if option == 1:
            psi, u = np.linalg.eigh((h + h.conj().T) / 2)
            h = (u * (psi if signed else abs(psi))) @ u.conj().T
        roots.append(root)
        lags.append(h)
    outer = kron(*roots)
    phi = kron(*lags)
    total = np.zeros_like(phi)
    power = np.eye(len(phi))
    for d in range(timesteps if option == 1 else 3000):
        weight = (timesteps - d) if option == 1 else timesteps
        total = total + weight * (power if d == 0 else power + power.conj().T)
        power = power @ phi
    return outer @ total @ outer


@case
def series_option_1(make):
    sides = moments(make, 3), moments(make, 2)
    arrays = [(make(c0), make(c1)) for c0, c1 in sides]
    op = kronops.SeriesOperator(*arrays, timesteps=5, option=1)
    return op, series_matrix(sides, (0, 0), 5, 1)


@case
def series_option_1_unsigned(make):
    sides = moments(make, 2), moments(make, 3)
    arrays = [(make(c0), make(c1)) for c0, c1 in sides]
    op = kronops.SeriesOperator(*arrays, 4, 1, factor_damping=(0.5, 0.25), signed=False)
    return op, series_matrix(sides, (0.5, 0.25), 4, 1, signed=False)


@case
def series_option_2(make):
    sides = moments(make, 3), moments(make, 2)
    arrays = [(make(c0), make(c1)) for c0, c1 in sides]
    op = kronops.SeriesOperator(*arrays, timesteps=3, option=2, factor_damping=(0.1, 0.2))
    return op, series_matrix(sides, (0.1, 0.2), 3, 2)


# -- updates of low rank --------------------------------------------------------------------------


@case
def low_rank_update(make):
    a, u, v = make.general(4), make.draw(4, 2), make.draw(4, 2)
    c = make.round(np.array([[0.5, 0.5], [0.5, 0.5]]))  # singular, which Woodbury need not mind
    op = kronops.LowRankUpdateOperator(make(a), make(u), make(c), make(v))
    return op, a + u @ c @ v.conj().T


@case
def low_rank_update_definite(make):
    d, u = make.round(np.abs(make.draw(4)) + 1), make.draw(4, 1)
    op = kronops.LowRankUpdateOperator(kronops.DiagonalOperator(make(d)), make(u))
    return op, np.diag(d) + u @ u.conj().T


# -- parts ----------------------------------------------------------------------------------------


@case
def masked(make):
    a, b = make.general(2), make.definite(3)
    mask = np.asarray([[True, False, True], [True, True, False]])
    keep = np.flatnonzero(mask)
    return kronops.MaskedOperator(kronops.kron(make(a), make(b)), mask), kron(a, b)[keep][:, keep]


@case
def toeplitz(make):
    column, row = make.draw(3), make.draw(4)
    op = kronops.ToeplitzOperator(make(column), make(row))
    return op, scipy.linalg.toeplitz(column, row)


@case
def toeplitz_hermitian(make):
    column = make.draw(4)
    column[0] = column[0].real
    return kronops.ToeplitzOperator(make(column)), scipy.linalg.toeplitz(column)


# -- lazy combinations ----------------------------------------------------------------------------


@case
def sum_of_kroneckers(make):
    a, b, c, d = make.definite(2), make.definite(3), make.definite(2), make.definite(3)
    op = kronops.kron(make(a), make(b)) + kronops.kron(make(c), make(d))
    return op, kron(a, b) + kron(c, d)


@case
def sum_of_general_and_definite(make):
    (a, b), (c, d) = (make.general(2), make.general(3)), (make.definite(2), make.definite(3))
    op = kronops.kron(make(a), make(b)) - 0.5 * kronops.kron(make(c), make(d))
    return op, kron(a, b) - 0.5 * kron(c, d)


@case
def sum_of_stiffness_and_mass(make):
    """The finite elements of a box: each term has another factor on one axis."""
    sizes = (2, 3, 2)
    stiffness, mass = ([draw(n) for n in sizes] for draw in (make.symmetric, make.definite))
    products = [[stiffness[i] if i == axis else mass[i] for i in range(3)] for axis in range(3)]
    first, *rest = (kronops.kron(*map(make, matrices)) for matrices in products)
    return sum(rest, start=first), sum(kron(*matrices) for matrices in products)


@case
def sum_with_an_outer_diagonal(make):
    a, b = make.definite(2), make.definite(3)
    lines = [make.round(abs(make.draw(n)) + 1) for n in (2, 3)]
    diagonal = make.round(np.outer(*lines).real)
    op = kronops.kron(make(a), make(b)) + kronops.DiagonalOperator(make.real(diagonal))
    return op, kron(a, b) + np.diag(diagonal.ravel())


@case
def sum_with_identity(make):
    a, b = make.definite(2), make.definite(3)
    identity = kronops.IdentityOperator(6, like=make(a))
    return kronops.kron(make(a), make(b)) + 0.5 * identity, kron(a, b) + 0.5 * np.eye(6)


@case
def product_of_unlike(make):
    a, b, d = make.general(2), make.general(3), make.draw(6) + 3
    op = kronops.kron(make(a), make(b)) @ kronops.DiagonalOperator(make(d))
    return op, kron(a, b) @ np.diag(d)


@case
def product_of_rectangles(make):
    a, b = make.draw(4, 2), make.draw(2, 4)
    return kronops.DenseOperator(make(a)) @ kronops.DenseOperator(make(b)), a @ b


@case
def mixed_product(make):
    a, b, c, d = make.draw(2, 3), make.draw(3, 2), make.draw(3, 2), make.draw(2, 3)
    op = kronops.kron(make(a), make(b)) @ kronops.kron(make(c), make(d))
    return op, kron(a, b) @ kron(c, d)


@case
def mixed_product_of_runs(make):
    a, b, e, c, f = (
        make.draw(2, 3),
        make.draw(2, 2),
        make.general(2),
        make.draw(6, 4),
        make.general(2),
    )
    op = kronops.kron(make(a), make(b), make(e)) @ kronops.kron(make(c), make(f))
    return op, kron(a, b, e) @ kron(c, f)


@case
def scaled(make):
    a = make.general(4)
    return -2.0 * kronops.DenseOperator(make(a)), -2.0 * a


@case
def scaled_complex(make):
    a = make.general(3)
    return (1 + 1j) * kronops.DenseOperator(make(a)), (1 + 1j) * a


@case
def inverse_of_dense(make):
    a = make.general(4)
    return kronops.DenseOperator(make(a)).inverse(), np.linalg.inv(a)


@case
def transposed_sum(make):
    a, b = make.general(2), make.general(2)
    shift = kronops.DiagonalOperator(make(make.draw(4)))
    op = kronops.TransposedOperator(kronops.kron(make(a), make(b)) + shift)
    diagonal = np.asarray(backend_of(shift.entries).to_numpy(shift.entries))
    return op, (kron(a, b) + np.diag(diagonal)).T
