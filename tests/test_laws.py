"""Every operator × every form × every law × libraries × dtypes."""

from __future__ import annotations

import warnings

import array_api_strict
import numpy as np
import pytest
import zoo

from kronops.errors import DensificationWarning, LinAlgError, LinAlgWarning
from kronops.testing import LAWS, Case, check_operator

LIBRARIES = {"numpy": np, "array_api_strict": array_api_strict}
DTYPES = ["float64", "complex128", "float32", "complex64"]

FORMS = {
    "H": (lambda op: op.H, lambda m: m.conj().T),
    "T": (lambda op: op.T, lambda m: m.T),
    "inverse": (lambda op: op.inverse(), np.linalg.inv),
    "damped": (lambda op: op.damped(1.5), lambda m: m + 1.5 * np.eye(len(m))),
    "scaled": (lambda op: -0.5 * op, lambda m: -0.5 * m),
}


def make_case(name: str, library: str, dtype: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        return zoo.CASES[name](zoo.Maker(LIBRARIES[library], dtype))


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning")
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", zoo.CASES)
def test_law(name, dtype, library, law):
    law(Case(*make_case(name, library, dtype)))


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", zoo.CASES)
def test_form(name, dtype, library, form):
    op, matrix = make_case(name, library, dtype)
    of_operator, of_matrix = FORMS[form]
    square = matrix.shape[0] == matrix.shape[1]
    if form in ("inverse", "damped"):
        if not square:
            with pytest.raises(ValueError, match="square"):
                of_operator(op)
            return
        if form == "inverse" and len(matrix) and np.linalg.matrix_rank(matrix) < len(matrix):
            with pytest.raises(LinAlgError):
                of_operator(op) @ op.backend.xp.ones(op.shape[0], dtype=op.dtype)
            return
        largest = np.abs(matrix).max() if matrix.size else 1.0
        if not 1e-30 < largest < 1e30:
            return  # the matrix of the form itself is out of float32's or double's range
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)
        check_operator(of_operator(op), of_matrix(matrix))
