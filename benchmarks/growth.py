"""How the cost of each operation grows with ``n``, over six decades, beside what theory says.

    python benchmarks/growth.py

Two families: two factors of ``√n`` rows, and ever more factors of 10 rows. Seconds for a product, a
first solve (with its factorisations), the log-determinant, the trace and the diagonal of a new
operator, and the slope of each over the three largest sizes, in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scripts import table

import kronops
from kronops.bench.measuring import calls_for, no_collection, seconds

FAMILIES: dict[str, list[tuple[int, ...]]] = {
    "two factors": [(p, p) for p in (3, 10, 32, 100, 316, 1000, 3162)],
    "factors of 10": [(10,) * count for count in range(1, 8)],
}
# Two factors of p = √n rows: p³ for products and factorisations. Ever more factors of 10: a
# product takes n log n, and what is computed from each factor alone grows with log n.
THEORY: dict[str, dict[str, float]] = {
    "two factors": {"product": 1.5, "solve": 1.5, "logdet": 1.5, "trace": 0.5, "diagonal": 1.0},
    "factors of 10": {"product": 1.0, "solve": 1.0, "logdet": 0.0, "trace": 0.0, "diagonal": 1.0},
}
OPERATIONS: dict[str, Callable[[Any, np.ndarray], Any]] = {
    "product": lambda op, x: op @ x,
    "solve": lambda op, x: op.solve(x),
    "logdet": lambda op, x: op.logdet(),
    "trace": lambda op, x: op.trace(),
    "diagonal": lambda op, x: op.diagonal(),
}
ROUNDS = 3


def measured(sizes: tuple[int, ...]) -> dict[str, float]:
    """The best time of each operation, without the making of the operator."""
    rng = np.random.default_rng(0)
    draws = [rng.standard_normal((p, p)) for p in sizes]
    factors = [draw @ draw.T / p + np.eye(p) for draw, p in zip(draws, sizes, strict=True)]
    x = rng.standard_normal(math.prod(sizes))
    best = {}
    for name, operation in OPERATIONS.items():
        with no_collection():
            best[name] = min(once(operation, factors, x) for _ in range(ROUNDS))
    return best


def once(operation: Callable[[Any, np.ndarray], Any], factors: list[Any], x: np.ndarray) -> float:
    """With an operator for each call, so that none finds what another one kept."""
    operators = iter([kronops.kron(*factors)])
    several = calls_for(seconds(lambda: operation(next(operators), x)))
    operators = iter([kronops.kron(*factors) for _ in range(several)])
    start = seconds(lambda: [operation(op, x) for op in operators])
    return start / several


def slope(points: list[tuple[int, float]]) -> float:
    """Of the three largest, by least squares in logarithms."""
    n, times = np.log(points[-3:]).T
    return float(np.polyfit(n, times, 1)[0])


def rows() -> Iterator[dict[str, Any]]:
    for family, several in FAMILIES.items():
        found = []
        for sizes in several:
            found.append({"family": family, "n": math.prod(sizes), **measured(sizes)})
            yield found[-1]
        slopes = {name: slope([(row["n"], row[name]) for row in found]) for name in OPERATIONS}
        yield {"family": family, "n": "slope", **slopes}
        yield {"family": family, "n": "theory", **THEORY[family]}


if __name__ == "__main__":
    table("growth", __doc__, rows)
