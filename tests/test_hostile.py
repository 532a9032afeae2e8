"""Hostile calls: kronops gives the exact answer, a warning, or an error that is clear by rule."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

hostile = pytest.importorskip("hostile", reason="needs the module resource", exc_type=ImportError)
from hostile_cases import CASES, Case  # noqa: E402
from hostile_libraries import LIBRARIES, Library, Operations, Unsupported  # noqa: E402

KRONOPS = LIBRARIES[0]


def test_there_are_many_of_many_kinds():
    assert len(CASES) == len({case.name for case in CASES}) >= 64
    assert len({case.group for case in CASES}) >= 8


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kronops_is_right_or_says_so(case):
    word, detail = hostile.verdict(case, KRONOPS)
    assert word in ("ok", "clear"), detail


# -- the rules themselves ------------------------------------------------------------------------


def of(function, *right):
    """The verdict of a library whose only product is ``function``."""
    library = Library("made up", "tests", (), lambda factors: Operations(function))
    case = Case("a call", "calls", lambda build: build([]).multiply(np.ones(2)), list(right))
    return hostile.verdict(case, library)[0]


def raise_(error):
    raise error


def warned(x):
    warnings.warn("few digits are right", RuntimeWarning, stacklevel=2)
    return x


def deprecated(x):
    warnings.warn("use another", DeprecationWarning, stacklevel=2)
    return x


def test_answers():
    assert of(lambda x: x, [1.0, 1.0]) == "ok"
    assert of(lambda x: 1.00001 * x, [1.0, 1.0]) == "wrong"
    assert of(lambda x: x, [1.0, 2.0], [1.0, 1.0]) == "ok"
    assert of(lambda x: np.ones(3), [1.0, 1.0]) == "wrong"
    assert of(lambda x: x) == of(lambda x: np.nan * x, [1.0, 1.0]) == "wrong"
    assert of(lambda x: -np.inf * x, [-np.inf, -np.inf]) == "ok"
    assert of(warned) == "ok" and of(deprecated) == "wrong"


@pytest.mark.parametrize(
    "error, word",
    [
        (ValueError("x has shape (2,): (4,) would do"), "clear"),
        (np.linalg.LinAlgError("the matrix is singular"), "clear"),
        (ValueError("x is wrong"), "vague"),
        (ValueError("shape (2,)"), "vague"),
        (RuntimeError("x has shape (2,)"), "clear"),
        (AssertionError("x has shape (2,)"), "vague"),
        (NotImplementedError("x has shape (2,)"), "vague"),
        (Unsupported("there is none"), "-"),
    ],
    ids=str,
)
def test_errors(error, word):
    assert of(lambda x: raise_(error)) == word


def test_an_error_from_within_another_library_is_vague():
    assert of(lambda x: np.linalg.inv(np.zeros((2, 2)))) == "vague"
    assert of(lambda matrix: np.ones(3) @ matrix) == "vague"
