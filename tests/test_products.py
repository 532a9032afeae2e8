"""Products with Kronecker factors by NumPy, of sizes at which every way to carry them out is taken.

What is planned is tested without arrays in `test_planning.py`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import kronops
from kronops.backends.settings import settings
from kronops.scaling import dtype_exponent

RNG = np.random.default_rng(0)


def draw(*shape: int, dtype: str = "float64") -> np.ndarray:
    values = RNG.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * RNG.standard_normal(shape)
    return values.astype(dtype)


def reference(matrices: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    """The product with ``x`` of shape ``(..., n, k)``, one `tensordot` for each factor."""
    *batch, _, k = x.shape
    made = x.reshape(math.prod(batch), *(matrix.shape[1] for matrix in matrices), k)
    for axis, matrix in enumerate(matrices, start=1):
        made = np.moveaxis(np.tensordot(matrix, made, (1, axis)), 0, axis)
    return made.reshape(*batch, -1, k)


def error(made: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(made - wanted).max() / np.abs(wanted).max())


@pytest.fixture(params=(False, True), ids=("numpy", "compiled"))
def compiled(request):
    """Without and with compiled kernels."""
    if request.param:
        pytest.importorskip("numba")
    with settings(threads=1, compiled=request.param):
        yield request.param


class TestLayouts:
    """Arrays with their axes in any order in memory, given by users or made on the way."""

    @pytest.mark.parametrize("order", (0, 1, 2))
    @pytest.mark.parametrize("batch, columns", ((64, 3), (1, 64)))
    @pytest.mark.parametrize("dtype", ("float32", "float64"))
    def test_of_the_array_given(self, compiled, dtype, batch, columns, order):
        factors = [draw(8, 8) for _ in range(4)]
        x = draw(batch, 8**4, columns, dtype=dtype)
        given = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, order, -1)), -1, order)
        wanted = reference(factors, x.astype("float64"))
        assert error(kronops.kron(*factors) @ given, wanted) < 1e-14

    @pytest.mark.parametrize("columns", (1, 3))
    def test_of_what_an_operator_among_the_factors_makes(self, compiled, columns):
        factors, (a, b) = [draw(16, 16) for _ in range(4)], (draw(8, 8), draw(8, 8))
        x = draw(16**5, columns)
        blocks = np.block([[a, np.zeros((8, 8))], [np.zeros((8, 8)), b]])
        op = kronops.kron(*factors, kronops.block_diag(a, b))
        assert error(op @ x, reference([*factors, blocks], x)) < 1e-14


def test_the_last_piece_may_be_one_column_wide(compiled):
    factors = [draw(5, 5, dtype="float32") for _ in range(6)]
    x = draw(5**6, 33, dtype="float32")
    assert error(kronops.kron(*factors) @ x, reference(factors, x)) < 1e-5


class TestMixedDtypes:
    @pytest.mark.parametrize("scale", (1.0, 1 / 3))
    def test_only_the_result_is_rounded(self, scale):
        factors, x = [draw(3, 3, dtype="float32") for _ in range(3)], draw(27, 1)
        wanted = scale * reference([factor.astype("float64") for factor in factors], x)
        made = kronops.KroneckerOperator(factors, scale) @ x
        assert made.dtype == np.float64
        assert error(made, wanted) < 1e-14


def test_long_double_has_a_largest_exponent():
    """And products of long doubles come to an end."""
    assert dtype_exponent(np.zeros(1, np.longdouble)) >= 1024
