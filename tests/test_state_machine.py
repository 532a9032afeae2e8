"""Operators in any order of calls, beside dense matrices in extended precision.

Every operator has a model: its matrix as `numpy.longdouble` (64 bits of mantissa on x86-64), and
by how much the two may differ.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import kronops
from kronops import DenseOperator, DiagonalOperator, IdentityOperator
from kronops.kfac import DenseLayer

LARGEST, MOST = 16, 6  # rows of an operator, operators at a time
LIBRARIES = ["numpy"] + ["torch"] * (importlib.util.find_spec("torch") is not None)
seeds = st.integers(0, 2**16)
places = st.integers(0, 10**6)
scalars = st.sampled_from([2.0, -0.5, 3e-3, 1e3])
dampings = st.sampled_from([0.0, 1e-3, 0.5, 20.0])


@dataclasses.dataclass
class Modelled:
    """An operator, its matrix, and the error that it may have, relative to its largest entry."""

    op: Any
    matrix: np.ndarray
    error: float

    def __post_init__(self) -> None:
        assert self.op.shape == self.matrix.shape

    @property
    def size(self) -> float:
        return float(np.max(np.abs(self.matrix), initial=0.0))


def wide(array: Any) -> np.ndarray:
    made = np.asarray(array)
    return made.astype(np.clongdouble if np.iscomplexobj(made) else np.longdouble)


def inverse(matrix: np.ndarray) -> np.ndarray:
    """By elimination with pivots, in the precision of the matrix, which LAPACK has not."""
    n = len(matrix)
    table = np.concatenate([matrix, np.eye(n, dtype=matrix.dtype)], axis=1)
    for k in range(n):
        pivot = k + int(np.argmax(np.abs(table[k:, k])))
        table[[k, pivot]] = table[[pivot, k]]
        table[k] /= table[k, k]
        others = np.arange(n) != k
        table[others] -= table[others, k : k + 1] * table[k]
    return table[:, n:]


def block_diagonal(matrices: list[np.ndarray]) -> np.ndarray:
    made = np.zeros((sum(map(len, matrices)),) * 2, np.result_type(*matrices))
    start = 0
    for matrix in matrices:
        made[start : start + len(matrix), start : start + len(matrix)] = matrix
        start += len(matrix)
    return made


class Operators(RuleBasedStateMachine):
    """All operators are square and of one library, between moves."""

    @initialize(library=st.sampled_from(LIBRARIES), seed=seeds)
    def start(self, library: str, seed: int) -> None:
        self.items: list[Modelled] = []
        self.arrays: list[Any] = []  # what the user has given, and may write to
        self.library = library
        self.layer, self.totals, self.weight = DenseLayer(), None, 0.0
        self.make(seed, "definite", 3)

    # -- what is there -------------------------------------------------------------------------

    def pick(self, place: int) -> Modelled:
        return self.items[place % len(self.items)]

    def keep(self, op: Any, matrix: np.ndarray, error: float) -> None:
        """Unless it is too large, or nothing of it is certain."""
        size = float(np.max(np.abs(matrix), initial=0.0))
        if len(matrix) > LARGEST or error > 1e-2 or not 1e-8 < size < 1e8:
            return
        self.items.append(Modelled(op, matrix, error))
        del self.items[:-MOST]

    def given(self, array: np.ndarray) -> Any:
        """An array of the user's, in the library at hand."""
        mine = array.copy()
        if self.library == "torch":
            import torch

            mine = torch.from_numpy(mine)
        self.arrays.append(mine)
        return mine

    def host(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def eps(self, *items: Modelled) -> float:
        """A few units of rounding of the least precise."""
        single = any(str(item.op.dtype).endswith(("float32", "complex64")) for item in items)
        return 1e-4 if single else 1e-12

    # -- operators from arrays, and from statistics --------------------------------------------

    @rule(seed=seeds, kind=st.sampled_from(["definite", "general", "complex", "diagonal", "one"]),
          n=st.integers(1, 3))  # fmt: skip
    def make(self, seed: int, kind: str, n: int) -> None:
        rng = np.random.default_rng(seed)
        draws = rng.standard_normal((n, n + 2))
        matrix = draws @ draws.T / n + 0.5 * np.eye(n)
        if kind == "general":
            matrix = matrix + rng.standard_normal((n, n))
        if kind == "complex":
            matrix = matrix + 1j * rng.standard_normal((n, n))
        if kind == "diagonal":
            diagonal = rng.standard_normal(n)
            op, matrix = DiagonalOperator(self.given(diagonal)), np.diag(diagonal)
        elif kind == "one":
            op, matrix = IdentityOperator(n, like=self.given(matrix)), np.eye(n)
        else:
            op = DenseOperator(self.given(matrix))
        self.keep(op, wide(matrix), 1e-15)

    @rule(seed=seeds, decay=st.sampled_from([None, 0.9]))
    def update(self, seed: int, decay: float | None) -> None:
        rng = np.random.default_rng(seed)
        batch = [rng.standard_normal((5, n)) for n in (3, 2)]
        kept = 1.0 if decay is None else decay
        # An estimator stays with the library of its first batch.
        self.layer.update(*batch, decay=decay)
        new = [wide(part).T @ wide(part) / 5 for part in batch]
        self.totals = new if self.totals is None else [
            np.longdouble(kept) * old + part for old, part in zip(self.totals, new, strict=True)
        ]  # fmt: skip
        self.weight = kept * self.weight + 1.0

    @precondition(lambda self: self.totals is not None and self.library == "numpy")
    @rule(damping=st.sampled_from([0.1, 2.0]), method=st.sampled_from(["factored", "exact"]))
    def estimate(self, damping: float, method: str) -> None:
        a, g = (total / np.longdouble(self.weight) for total in self.totals)
        damping_ = np.longdouble(damping)
        if method == "exact":
            matrix = np.kron(a, g) + damping_ * np.eye(6)
        else:
            pi = np.sqrt(np.trace(a) / 3 / (np.trace(g) / 2))
            root = np.sqrt(damping_)
            matrix = np.kron(a + pi * root * np.eye(3), g + root / pi * np.eye(2))
        self.keep(self.layer.operator(damping, method), matrix, 1e-13)

    # -- operators from operators --------------------------------------------------------------

    @rule(place=places, other=places)
    def kron(self, place: int, other: int) -> None:
        a, b = self.pick(place), self.pick(other)
        self.keep(kronops.kron(a.op, b.op), np.kron(a.matrix, b.matrix), a.error + b.error + 1e-15)

    @rule(place=places, other=places, minus=st.booleans())
    def add(self, place: int, other: int, minus: bool) -> None:
        a, b = self.pick(place), self.pick(other)
        if a.matrix.shape != b.matrix.shape:
            with pytest.raises(ValueError, match="one shape is needed"):
                a.op + b.op
            return
        op, matrix = (
            (a.op - b.op, a.matrix - b.matrix) if minus else (a.op + b.op, a.matrix + b.matrix)
        )
        size = max(float(np.max(np.abs(matrix))), 1e-300)
        self.keep(op, matrix, (a.error * a.size + b.error * b.size) / size + 1e-15)

    @rule(place=places, other=places)
    def compose(self, place: int, other: int) -> None:
        a, b = self.pick(place), self.pick(other)
        if a.matrix.shape != b.matrix.shape:
            with pytest.raises(ValueError, match="inner sizes must agree"):
                a.op @ b.op
            return
        matrix = a.matrix @ b.matrix
        size = max(float(np.max(np.abs(matrix))), 1e-300)
        lost = len(matrix) * a.size * b.size / size
        self.keep(a.op @ b.op, matrix, lost * (a.error + b.error + 1e-15))

    @rule(place=places, other=places)
    def block_diag(self, place: int, other: int) -> None:
        a, b = self.pick(place), self.pick(other)
        matrix = block_diagonal([a.matrix, b.matrix])
        size = max(a.size, b.size, 1e-300)
        self.keep(
            kronops.block_diag(a.op, b.op), matrix, (a.error * a.size + b.error * b.size) / size
        )

    @rule(place=places, value=dampings)
    def damp(self, place: int, value: float) -> None:
        a = self.pick(place)
        matrix = a.matrix + np.longdouble(value) * np.eye(len(a.matrix))
        size = max(float(np.max(np.abs(matrix))), 1e-300)
        lost = (a.size + value) / size
        self.keep(a.op.damped(value), matrix, lost * (a.error + self.eps(a) / 100))

    @rule(place=places, scalar=scalars)
    def scale(self, place: int, scalar: float) -> None:
        a = self.pick(place)
        self.keep(scalar * a.op, np.longdouble(scalar) * a.matrix, a.error + 1e-15)

    @rule(place=places, form=st.sampled_from(["T", "H"]))
    def turn(self, place: int, form: str) -> None:
        a = self.pick(place)
        turned = a.matrix.T if form == "T" else a.matrix.conj().T
        self.keep(getattr(a.op, form), turned, a.error)

    @rule(place=places)
    def invert(self, place: int) -> None:
        a = self.pick(place)
        condition = self.condition(a)
        if condition < 1e5:
            self.keep(a.op.inverse(), inverse(a.matrix), condition * (a.error + self.eps(a) / 100))

    # -- moves and copies ----------------------------------------------------------------------

    @rule(place=places)
    def to_single(self, place: int) -> None:
        a = self.pick(place)
        complex_ = np.iscomplexobj(a.matrix) or "complex" in str(a.op.dtype)
        try:
            op = a.op.astype("complex64" if complex_ else "float32")
        except OverflowError:  # a field is out of range
            return
        condition = self.condition(a)
        if condition < 1e3:  # fields are rounded, of which the operator may be an inverse
            self.keep(op, a.matrix, a.error + 1e-5 * condition)

    @precondition(lambda self: len(LIBRARIES) > 1)
    @rule()
    def to_the_other_library(self) -> None:
        self.library = "torch" if self.library == "numpy" else "numpy"
        for item in self.items:
            item.op = item.op.to_backend(self.library)

    @rule(place=places, how=st.sampled_from(["pickle", "deepcopy", "file"]))
    def copy(self, place: int, how: str) -> None:
        a = self.pick(place)
        if how == "pickle":
            a.op = pickle.loads(pickle.dumps(a.op))
        elif how == "deepcopy":
            a.op = copy.deepcopy(a.op)
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "operator"
                kronops.save(path, a.op)
                a.op = kronops.load(path)

    @rule(value=st.sampled_from([0.0, np.nan, 1e300]))
    def write_to_what_was_given(self, value: float) -> None:
        for array in self.arrays:
            array[...] = value

    # -- what must hold --------------------------------------------------------------------------

    def condition(self, a: Modelled) -> float:
        singular = np.linalg.svd(a.matrix.astype(complex), compute_uv=False)
        return float(singular[0] / max(singular[-1], 1e-300))

    def vector(self, a: Modelled, seed: int, columns: int) -> tuple[Any, np.ndarray]:
        x = np.random.default_rng(seed).standard_normal((len(a.matrix), columns))
        x = x[:, 0] if columns == 1 else x
        return self.given(x), wide(x)

    def close(self, got: Any, want: np.ndarray, error: float) -> None:
        got = wide(self.host(got))
        assert got.shape == want.shape
        assert np.max(np.abs(got - want), initial=0.0) <= error

    @rule(place=places, seed=seeds, columns=st.integers(1, 3))
    def multiplies(self, place: int, seed: int, columns: int) -> None:
        a = self.pick(place)
        x, exact = self.vector(a, seed, columns)
        largest = a.size * float(np.max(np.abs(exact))) * len(a.matrix)
        error = (a.error + self.eps(a)) * largest
        self.close(a.op @ x, a.matrix @ exact, error)
        self.close(
            a.op.rmatmat(x) if columns > 1 else a.op.rmatvec(x), a.matrix.conj().T @ exact, error
        )

    @rule(place=places, seed=seeds, columns=st.integers(1, 3))
    def solves(self, place: int, seed: int, columns: int) -> None:
        a = self.pick(place)
        condition = self.condition(a)
        if condition > 1e6:
            return
        b, exact = self.vector(a, seed, columns)
        inverted = inverse(a.matrix)
        largest = float(np.max(np.abs(inverted))) * float(np.max(np.abs(exact))) * len(a.matrix)
        error = 10 * condition * (a.error + self.eps(a)) * largest
        self.close(a.op.solve(b), inverted @ exact, error)

    @rule(place=places)
    def writes_itself_out(self, place: int) -> None:
        a = self.pick(place)
        error = (a.error + self.eps(a)) * a.size
        self.close(a.op.to_dense(), a.matrix, error)
        self.close(a.op.diagonal(), np.diagonal(a.matrix), error)
        self.close(a.op.trace(), np.trace(a.matrix), error * len(a.matrix))
        assert not a.op.hermitian or self.is_hermitian(a)

    def is_hermitian(self, a: Modelled) -> bool:
        gap = np.max(np.abs(a.matrix - a.matrix.conj().T))
        return bool(gap <= 2 * (a.error + self.eps(a)) * a.size)

    @rule(place=places)
    def has_a_determinant(self, place: int) -> None:
        a = self.pick(place)
        condition = self.condition(a)
        if condition > 1e6:
            return
        sign, logarithm = np.linalg.slogdet(a.matrix.astype(complex))
        got = a.op.slogdet()
        error = 10 * condition * len(a.matrix) * (a.error + self.eps(a))
        if error < 0.1:
            self.close(got.sign, wide(sign), error)
            self.close(got.logabsdet, wide(logarithm), error + 1e-5 * (self.eps(a) > 1e-6))


class TestOperators(Operators.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

    def runTest(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", kronops.DensificationWarning)
            warnings.simplefilter("ignore", kronops.LinAlgWarning)
            super().runTest()
