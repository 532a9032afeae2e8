"""What one small product costs beside the bare expression, side by side in one run.

    python benchmarks/overhead.py

Prints the median over rounds of the ratio of both times, measured in turns.
"""

from __future__ import annotations

import statistics
import timeit

import numpy as np

import kronops

ROUNDS, CALLS = 31, 2000


def main() -> None:
    """Measure ``(A ⊗ B) x`` for factors of 4, 10 and 30 rows."""
    rng = np.random.default_rng(0)
    print("   n   kronops (µs)   bare (µs)   ratio (min, median, max)")
    for n in (4, 10, 30):
        a, b, x = rng.normal(size=(n, n)), rng.normal(size=(n, n)), rng.normal(size=n * n)
        op = kronops.kron(a, b)

        def ours(op=op, x=x):
            return op @ x

        def bare(a=a, b=b, x=x, n=n):
            return (a @ x.reshape(n, n) @ b.T).reshape(-1)

        assert np.allclose(ours(), bare())
        pairs = [(time(ours), time(bare)) for _ in range(ROUNDS)]
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        middle = statistics.median(ratios)
        print(
            f"{n:4d}   {mine * 1e6:12.2f}   {theirs * 1e6:9.2f}   "
            f"{ratios[0]:.2f}, {middle:.2f}, {ratios[-1]:.2f}"
        )


def time(function) -> float:
    """Seconds for one call."""
    return timeit.timeit(function, number=CALLS) / CALLS


if __name__ == "__main__":
    main()
