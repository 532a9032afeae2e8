"""SciPy's conjugate gradients with kronops, and with a closure of NumPy that was written by hand.

    python benchmarks/solvers.py

Gives the seconds for one iteration of each, in turns in one process, and the median over the rounds
of the closure's time by ours: above 1, kronops is faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg
from scripts import table

import kronops
from kronops.bench.measuring import no_collection, seconds
from kronops.bench.peers import chain

ROUNDS = 9
SYSTEMS = (((64,) * 2, 300), ((16,) * 3, 300), ((1000,) * 2, 3), ((100,) * 3, 6))


def definite(rng: np.random.Generator, n: int) -> np.ndarray:
    draws = rng.standard_normal((n, n))
    return draws @ draws.T / n + np.eye(n)


def compared(sizes: tuple[int, ...], iterations: int) -> dict[str, Any]:
    """Both solve the same system with the same number of iterations."""
    rng = np.random.default_rng(0)
    factors = [definite(rng, n) for n in sizes]
    b = rng.standard_normal(np.prod(sizes))
    ours = kronops.kron(*factors)
    by_hand = LinearOperator(ours.shape, dtype=float, matvec=lambda x: chain(factors, x, "K @ X"))
    answers = [cg(operator, b, rtol=0, maxiter=iterations)[0] for operator in (ours, by_hand)]
    np.testing.assert_allclose(*answers, rtol=1e-6, atol=1e-6 * np.max(np.abs(answers[1])))

    def iteration(operator: Any) -> float:
        return seconds(lambda: cg(operator, b, rtol=0, maxiter=iterations)) / iterations

    with no_collection():
        pairs = [(iteration(ours), iteration(by_hand)) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {
        "factors": " ⊗ ".join(map(str, sizes)),
        "n": b.size,
        "kronops": mine,
        "by hand": theirs,
        "ratio": statistics.median(theirs / mine for mine, theirs in pairs),
    }


def rows() -> Iterator[dict[str, Any]]:
    for sizes, iterations in SYSTEMS:
        yield compared(sizes, iterations)


if __name__ == "__main__":
    table("solvers", __doc__, rows)
