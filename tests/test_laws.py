"""Every operator × every form × every law × libraries × dtypes.

``--all-dtypes`` (``make test-all``) runs every combination. Without it JAX, which compiles each
step for each shape, is asked for one dtype with double precision and one without, of every second
operator each; Dask, which plans each step, and the second device of array-api-strict, which only
tells devices apart, for one dtype; and all three for no forms.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zoo
from libraries import LIBRARIES

from kronops.errors import DensificationWarning, LinAlgError, LinAlgWarning
from kronops.testing import LAWS, Case, check_operator

FORMS = {
    "H": (lambda op: op.H, lambda m: m.conj().T),
    "T": (lambda op: op.T, lambda m: m.T),
    "inverse": (lambda op: op.inverse(), np.linalg.inv),
    "damped": (lambda op: op.damped(1.5), lambda m: m + 1.5 * np.eye(len(m))),
    "scaled": (lambda op: -0.5 * op, lambda m: -0.5 * m),
}
SOME = {  # without --all-dtypes: a dtype, and which of every so many operators
    "jax": ("float64", slice(0, None, 2)),
    "jax x64 off": ("complex64", slice(1, None, 2)),
    "dask": ("float64", slice(None)),
    "array_api_strict device1": ("complex128", slice(None)),
}

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
    if "library" in metafunc.fixturenames:
        every = metafunc.config.getoption("all_dtypes")
        forms = metafunc.function is test_form
        metafunc.parametrize("name, library, dtype", list(_combinations(every, forms)))


def _combinations(every: bool, forms: bool) -> Iterator[Any]:
    names = list(zoo.CASES)
    for library, dtype in ((key, dtype) for key in LIBRARIES for dtype in LIBRARIES[key].dtypes):
        # What a process has compiled serves later tests: one process for each dtype of JAX.
        marks = [pytest.mark.xdist_group(f"{library} {dtype}")] if "jax" in library else []
        chosen = names
        if library in SOME and not every:
            only, places = SOME[library]
            chosen = names[places] if dtype == only and not forms else []
        for name in chosen:
            yield pytest.param(name, library, dtype, marks=marks)


@contextlib.contextmanager
def a_case(name: str, library: str, dtype: str) -> Iterator[tuple]:
    if library == "dask" and name in UNSEEN:
        pytest.skip(f"Dask does not show {UNSEEN[name]}")
    with LIBRARIES[library].maker(dtype) as make, warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        yield zoo.CASES[name](make)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(name, library, dtype, law):
    with a_case(name, library, dtype) as (op, matrix):
        law(Case(op, matrix))


@pytest.mark.parametrize("form", FORMS)
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
