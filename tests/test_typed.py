"""What users write, as type checkers see it: `make types` runs mypy and pyright on it, both strict.

`assert_type` holds what they find out. Arrays are `Any`, for they may be of any library, and so may
be called what they are; what comes out of a structured product has the type that went in.
"""

from __future__ import annotations

import dataclasses
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import kronops
from kronops import (
    BlockDiagonalOperator,
    DiagonalOperator,
    KroneckerOperator,
    LinearOperator,
    block_diag,
    kron,
)
from kronops.kfac import Curvature, DenseLayer, Estimator

Matrix = npt.NDArray[np.float64]
Gradient = dict[str, tuple[Matrix, Matrix]]

A: Matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
B: Matrix = np.array([[4.0, 1.0, 0.0], [1.0, 5.0, 1.0], [0.0, 1.0, 6.0]])
OP: LinearOperator = kron(A, B)


def test_operators() -> None:
    a, b = A, B
    product = kron(a, b)
    assert_type(product, KroneckerOperator)
    assert_type(product.factors, tuple[LinearOperator, ...])
    assert_type(product.T, LinearOperator)
    assert_type(product.damped(0.1), LinearOperator)
    assert_type(product.damped(0.1, method="factored", pi=1.0).inverse().sqrt(), LinearOperator)
    assert_type(product @ product.H, LinearOperator)
    assert_type(2.0 * product - product / 2 + product**2, LinearOperator)
    assert_type(product[:5], LinearOperator)
    assert_type(product.astype("float32").to_backend("torch"), KroneckerOperator)
    assert_type(block_diag(a, product), BlockDiagonalOperator)
    assert_type(kronops.aslinearoperator(a), LinearOperator)
    nearest = kronops.nearest_kronecker(product, [(2, 2), (3, 3)])
    assert_type(nearest.operator, LinearOperator)
    assert_type(product + DiagonalOperator(np.ones(product.shape[0])), LinearOperator)


def test_numbers() -> None:
    op = OP
    assert_type(op.shape, tuple[int, int])
    x: Matrix = op.solve(np.ones(6))
    values: Matrix = op.eigh().eigenvalues
    assert_type(op.eigh().eigenvectors, LinearOperator)
    sign, logabsdet = op.slogdet()
    u, s, vh = op.svd()
    assert_type((u, vh), tuple[LinearOperator, LinearOperator])
    product: Matrix = op @ x
    row: Matrix = op[0]
    assert float(product[0]) > 0 < float(sign * logabsdet)
    assert float(row[0]) == float(op[0, 0]) <= float(s[0])
    assert np.allclose(s[::-1], values)


def test_structured_vectors() -> None:
    weights: Matrix = np.ones((1, 3))
    bias: Matrix = np.zeros(3)
    pair = OP.multiply_inverse((weights, bias))
    assert_type(pair, tuple[Matrix, Matrix])
    assert_type(OP.multiply_power(np.vstack([weights, bias]), 2), Matrix)


def test_curvature() -> None:
    rng = np.random.default_rng(0)
    layers = Curvature({"dense": DenseLayer(bias=True)})
    batch = rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    layers.update({"dense": batch}, decay=0.95)
    fisher = layers.operator(damping=1e-2)
    assert_type(fisher, BlockDiagonalOperator)
    gradient: Gradient = {"dense": (np.zeros((2, 2)), np.zeros(2))}
    assert_type(fisher.multiply_inverse(gradient), Gradient)
    layer: Estimator = DenseLayer()
    layer.update(*batch)
    assert_type(layer.operator(1e-2, method="exact"), LinearOperator)


def test_solvers() -> None:
    b: Matrix = np.ones(6)
    x, info = kronops.linalg.cg(OP, b, M=OP.damped(0.1).inverse(), rtol=1e-8)
    assert_type(info, int)
    solution: Matrix = x
    assert info == 0 and np.allclose(OP @ solution, b)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Twice(LinearOperator):
    """An operator of one's own."""

    matrix: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.matrix.shape
        return rows, columns

    def _matmat(self, x: Any) -> Any:
        return 2 * (self.matrix @ x)

    def _rmatmat(self, x: Any) -> Any:
        return 2 * (self.matrix.T @ x)


def test_an_operator_of_ones_own() -> None:
    op = kron(Twice(A), Twice(B))
    assert_type(op, KroneckerOperator)
    assert np.allclose(op.to_dense(), 4 * np.kron(A, B))
