"""What structure promises to cost: memory near that of vectors, and decompositions that are shared.

Times are compared with times taken in the same test, with room for a machine that does other work.
"""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

import kronops
from kronops import KroneckerOperator, KroneckerSumOperator, kron

rng = np.random.default_rng(0)
N = 100**3  # numbers in a vector; the matrix has 10**12


def draw(*shape):
    return rng.standard_normal(shape)


def definite(n):
    a = draw(n, n)
    return a @ a.T / n + np.eye(n)


def peak_of(action) -> float:
    """The most memory that ``action`` holds at once beside what was there, in vectors."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / (8 * N)
    finally:
        tracemalloc.stop()


def seconds_of(action, times=1) -> float:
    """The least of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(times):
            action()
        taken.append(time.perf_counter() - start)
    return min(taken)


FACTORS = [definite(100) for _ in range(3)]
GENERAL = [draw(100, 100) / 10 + np.eye(100) for _ in range(3)]
X = draw(N)
SHAPES = [(100, 100)] * 3


def product() -> KroneckerOperator:
    return kron(*FACTORS)


def damped():
    return product().damped(0.1)


def kronecker_sum() -> KroneckerSumOperator:
    return KroneckerSumOperator(FACTORS)


# What is done, and how many vectors it may hold: its result, what it works on, and one to spare.
ACTIONS = {
    "multiply": (lambda: product() @ X, 4),
    "multiply by the adjoint": (lambda: kron(*GENERAL).H @ X, 4),
    "solve": (lambda: product().solve(X), 4),
    "solve with general factors": (lambda: kron(*GENERAL).solve(X), 4),
    "logdet": (lambda: product().logdet(), 1),
    "trace": (lambda: product().trace(), 1),
    "diagonal": (lambda: product().diagonal(), 3),
    "fro": (lambda: product().norm(), 1),
    "1": (lambda: product().norm(1), 1),
    "2": (lambda: product().norm(2), 1),
    "nuc": (lambda: product().norm("nuc"), 1),
    "eigh": (lambda: product().eigh(), 6),
    "svd": (lambda: product().svd(), 8),
    "pinv": (lambda: product().pinv() @ X, 5),
    "lstsq": (lambda: kron(*[m[:, :50] for m in GENERAL]).lstsq(X), 4),
    "power": (lambda: product().power(-0.5) @ X, 4),
    "cholesky": (lambda: product().cholesky() @ X, 4),
    "sample": (lambda: product().sample(np.random.default_rng(0)), 5),
    "logm": (lambda: product().logm() @ X, 6),
    "a row": (lambda: product()[12345], 3),
    "a column": (lambda: product()[:, 12345], 3),
    "an entry": (lambda: product()[12345, 54321], 1),
    "some rows": (lambda: product()[::1000] @ X, 6),
    "a mixed product": (lambda: (product() @ kron(*GENERAL)) @ X, 4),
    "nearest": (lambda: kronops.nearest_kronecker(product() + kron(*GENERAL), SHAPES), 1),
    "damped multiply": (lambda: damped() @ X, 6),
    "damped solve": (lambda: damped().solve(X), 8),
    "damped logdet": (lambda: damped().logdet(), 8),
    "damped diagonal": (lambda: damped().diagonal(), 5),
    "damped trace": (lambda: damped().trace(), 1),
    "damped norm": (lambda: damped().norm(), 6),
    "damped power": (lambda: damped().power(-0.5) @ X, 8),
    "damped sample": (lambda: damped().sample(np.random.default_rng(0)), 8),
    "damped row": (lambda: damped()[12345], 6),
    "damped general solve": (lambda: kron(*GENERAL).damped(0.1).solve(X), 14),
    "damped general logdet": (lambda: kron(*GENERAL).damped(0.1).slogdet(), 14),
    "sum multiply": (lambda: kronecker_sum() @ X, 6),
    "sum solve": (lambda: kronecker_sum().solve(X), 8),
    "sum logdet": (lambda: kronecker_sum().logdet(), 8),
    "sum expm": (lambda: kronecker_sum().expm() @ X, 4),
    "sum norm": (lambda: kronecker_sum().norm(), 1),
    "sum sample": (lambda: kronecker_sum().sample(np.random.default_rng(0)), 8),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_no_operation_holds_more_than_a_few_vectors(name):
    action, most = ACTIONS[name]
    peak = peak_of(action)
    assert peak <= most, f"{peak:.1f} vectors"


def test_a_kronecker_sum_on_a_grid_of_two_million_is_solved_in_seconds():
    """Three small eigendecompositions and two products: no iteration."""
    n = 128
    second_difference = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * (n + 1) ** 2
    laplacian = KroneckerSumOperator([second_difference] * 3)
    b = draw(n**3)
    multiply = seconds_of(lambda: laplacian @ b)
    start = time.perf_counter()
    x = laplacian.solve(b)
    first = time.perf_counter() - start
    again = seconds_of(lambda: laplacian.damped(1.0).solve(b))
    assert first < 20
    assert again < 12 * multiply  # twice as many products, and passes over eigenvalues
    rounding = 10 * 3 * n * np.finfo(float).eps * 12 * (n + 1) ** 2
    assert np.linalg.norm(laplacian @ x - b) <= rounding * np.linalg.norm(x)


def test_a_thousand_re_dampings_cost_less_than_two_eigendecompositions():
    """Of a pair of 1,000 rows. Counted is what a new damping does before it meets a vector.

    The bases are those of the first, and the eigenvalues, a million numbers, are formed on the
    way of each solve, in two passes that are small beside its four products.
    """
    op = kron(definite(1000), definite(1000))
    decompositions = seconds_of(lambda: [np.linalg.eigh(f.matrix) for f in op.factors])
    first = op.damped(1.0)
    x = draw(10**6)
    first.solve(x)

    def re_damp():
        for value in np.geomspace(1e-3, 1e3, 1000):
            again = op.damped(float(value))
            assert again.bases[0] is first.bases[0] and again.shape == op.shape

    assert seconds_of(re_damp) < decompositions
    again = op.damped(0.5)
    assert seconds_of(lambda: op.damped(0.5).eigenvalues) < seconds_of(lambda: again @ x) + 0.02
    assert seconds_of(lambda: op.damped(0.5).solve(x)) < 10 * seconds_of(lambda: op @ x)
