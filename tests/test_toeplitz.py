"""Toeplitz matrices: sizes of numbers, precisions, libraries without transforms, refusals."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import scipy.linalg

from kronops import DensificationWarning, ToeplitzOperator, kron

rng = np.random.default_rng(0)
COLUMN, ROW = rng.standard_normal(5), rng.standard_normal(4)
MATRIX = scipy.linalg.toeplitz(COLUMN, ROW)
X = rng.standard_normal((4, 3))


def test_products_at_the_ends_of_the_range():
    """Nothing on the way is larger than results are."""
    ones = np.ones(64)
    op = ToeplitzOperator(2.0**1000 * ones)
    np.testing.assert_allclose(op @ (2.0**16 * ones), 2.0**1022 * ones, rtol=1e-13)
    tiny = ToeplitzOperator(1e-150 * COLUMN, 1e-150 * ROW)
    np.testing.assert_allclose(tiny @ (1e-140 * X), 1e-290 * (MATRIX @ X), rtol=1e-12)


def test_the_precision_of_a_product_is_that_of_operator_and_vector():
    op = ToeplitzOperator(COLUMN.astype(np.float32), ROW.astype(np.float32))
    exact = op.to_dense().astype(np.float64) @ X
    assert (op @ X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(op @ X, exact, rtol=1e-13)
    np.testing.assert_allclose(op @ (1j * X), 1j * exact, rtol=1e-13)


def test_accuracy_is_normwise():
    """And no more, as its page says: a small result beside a large one."""
    graded = 10.0 ** -np.arange(0.0, 20)
    op = ToeplitzOperator(graded, np.zeros(20))
    error = op @ graded - op.to_dense() @ graded
    assert np.max(np.abs(error)) < 1e-15 * np.linalg.norm(graded) ** 2


def test_a_library_without_transforms():
    op = ToeplitzOperator(array_api_strict.asarray(COLUMN), array_api_strict.asarray(ROW))
    assert hasattr(array_api_strict, "fft")
    with array_api_strict.ArrayAPIStrictFlags(enabled_extensions=("linalg",)):
        assert not hasattr(array_api_strict, "fft")
        made = op @ array_api_strict.asarray(X)
        flat = op @ array_api_strict.asarray(X[:, 0])
    np.testing.assert_allclose(np.from_dlpack(made), MATRIX @ X, rtol=1e-13)
    np.testing.assert_allclose(np.from_dlpack(flat), MATRIX @ X[:, 0], rtol=1e-13)


def test_half_precision():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    op = ToeplitzOperator(torch.asarray(COLUMN).half(), torch.asarray(ROW).half())
    made = op @ torch.asarray(X).half()
    assert made.dtype == torch.float16
    np.testing.assert_allclose(made.numpy(), MATRIX @ X, atol=0.01)


def test_differentiated_in_column_and_row():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    column = torch.asarray(COLUMN + 5 * (np.arange(5) == 0), requires_grad=True)
    row = torch.asarray(rng.standard_normal(5), requires_grad=True)
    b = torch.asarray(rng.standard_normal(5))

    def value(column, row):
        op = ToeplitzOperator(column, row)
        return (op @ b).square().sum() + (op.solve(b) * b).sum()

    with pytest.warns(DensificationWarning):
        assert torch.autograd.gradcheck(value, (column, row))


def test_a_solve_is_by_the_matrix_and_says_so():
    """An indefinite one, whose leading minors vanish: recursions would divide by zero."""
    op = kron(ToeplitzOperator(np.asarray([0.0, 1.0, 2.0])), np.eye(2))
    b = rng.standard_normal(6)
    with pytest.warns(DensificationWarning, match=r"ToeplitzOperator \(3, 3\)"):
        np.testing.assert_allclose(op @ op.solve(b), b, rtol=1e-12)


def test_nothing():
    for m, n in ((0, 3), (3, 0), (0, 0)):
        op = ToeplitzOperator(np.zeros(m), np.zeros(n))
        assert op.shape == (m, n) and op.H.shape == (n, m)
        assert op.to_dense().shape == (m, n)
        assert (op @ np.ones((n, 2))).shape == (m, 2)
        assert op.norm() == 0


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ([np.ones((2, 2))], ValueError, r"column has shape \(2, 2\): one axis"),
        ([COLUMN, np.ones((1, 4))], ValueError, r"row has shape \(1, 4\): one axis"),
        ([COLUMN, np.full(4, np.nan)], ValueError, "row has NaN"),
        ([[1.0, 2.0]], TypeError, "column is a list"),
        ([COLUMN, array_api_strict.asarray(ROW)], TypeError, "column is of numpy, row of array_"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ToeplitzOperator(*arguments)
