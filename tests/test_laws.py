"""Every operator × every form × every law × libraries × dtypes.

``--all-dtypes`` (``make test-all``) runs every combination. Without it JAX, which compiles each
step for each shape, is asked for one dtype with double precision and one without, Dask, which
plans each step, for one, and both for no forms.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import zoo
from libraries import DTYPES, LIBRARIES

from kronops.errors import DensificationWarning, LinAlgError, LinAlgWarning
from kronops.testing import LAWS, Case, check_operator

FORMS = {
    "H": (lambda op: op.H, lambda m: m.conj().T),
    "T": (lambda op: op.T, lambda m: m.T),
    "inverse": (lambda op: op.inverse(), np.linalg.inv),
    "damped": (lambda op: op.damped(1.5), lambda m: m + 1.5 * np.eye(len(m))),
    "scaled": (lambda op: -0.5 * op, lambda m: -0.5 * m),
}
SOME = {"jax": ("float64",), "jax x64 off": ("complex64",), "dask": ("float64",)}

# What nobody can do who cannot see values; a lazy graph, like a trace, shows none.
UNSEEN = {
    "kronecker_two_negative_factors": "the signs of the factors, whose product alone is definite",
    "kronecker_wild_scales": "the sizes of the factors, which alone are out of range",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning"),
    pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "library" not in metafunc.fixturenames:
        return
    every = metafunc.config.getoption("all_dtypes")
    some = SOME if metafunc.function is test_law else dict.fromkeys(SOME, ())
    pairs = [
        # What a process has compiled serves later tests: one process for each dtype of JAX.
        pytest.param(library, dtype, marks=pytest.mark.xdist_group(f"{library} {dtype}"))
        if library.startswith("jax")
        else pytest.param(library, dtype)
        for library in LIBRARIES
        for dtype in LIBRARIES[library].dtypes
        if every or dtype in some.get(library, DTYPES)
    ]
    metafunc.parametrize("library, dtype", pairs)


@contextlib.contextmanager
def a_case(name: str, library: str, dtype: str) -> Iterator[tuple]:
    if library == "dask" and name in UNSEEN:
        pytest.skip(f"Dask does not show {UNSEEN[name]}")
    with LIBRARIES[library].maker(dtype) as make, warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        yield zoo.CASES[name](make)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", zoo.CASES)
def test_law(name, library, dtype, law):
    with a_case(name, library, dtype) as (op, matrix):
        law(Case(op, matrix))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", zoo.CASES)
def test_form(name, library, dtype, form):
    of_operator, of_matrix = FORMS[form]
    with a_case(name, library, dtype) as (op, matrix):
        if form in ("inverse", "damped"):
            if matrix.shape[0] != matrix.shape[1]:
                with pytest.raises(ValueError, match="square"):
                    of_operator(op)
                return
            if form == "inverse" and len(matrix) and np.linalg.matrix_rank(matrix) < len(matrix):
                ones = op.backend.xp.ones(op.shape[0], dtype=op.dtype, device=op.device)
                if library == "dask":  # found out when it is computed, if it is exact, or never
                    with contextlib.suppress(LinAlgError), np.errstate(invalid="ignore"):
                        made = op.backend.to_numpy(of_operator(op) @ ones)
                        size = max(np.abs(matrix).max(), 1e-30)
                        assert not np.abs(made).max() < 1e-3 / np.finfo(dtype).eps / size
                    return
                with pytest.raises(LinAlgError):
                    of_operator(op) @ ones
                return
            largest = np.abs(matrix).max() if matrix.size else 1.0
            if not 1e-30 < largest < 1e30:
                return  # the matrix of the form itself is out of float32's or double's range
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LinAlgWarning)
            check_operator(of_operator(op), of_matrix(matrix))
