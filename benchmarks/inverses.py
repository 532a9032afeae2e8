"""Inverses of factors damped each, built and applied, beside `numpy.linalg.inv`; and new dampings.

    python benchmarks/inverses.py

The first rows: seconds from two positive definite factors to the first product with
``kron(A, G).damped(value, "factored").inverse()`` and for each later one, and for the same from
``inv(A + a)`` and ``inv(G + g)``. The last row: a second damping of 1000 x 1000 factors by the kept
eigenvectors beside all of it anew. Ratios above 1: kronops, or what is kept, is faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from measuring import calls_for, no_collection, seconds, table

import kronops

SIZES = ((512, 512), (1024, 1024), (2048, 2048), (2304, 256), (4608, 512))
DAMPING = 1e-2


def definite(rng: np.random.Generator, n: int) -> np.ndarray:
    draws = rng.standard_normal((n, n))
    return draws @ draws.T / n


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 5) -> list[float]:
    """The medians of both times, and of their ratio."""
    with no_collection():
        calls = [calls_for(seconds(function)) for function in (ours, theirs)]
        pairs = [[*map(seconds, (ours, theirs), calls)] for _ in range(rounds)]
    pairs = [[*pair, pair[1] / pair[0]] for pair in pairs]
    return [statistics.median(column) for column in zip(*pairs, strict=True)]


def inverse_of(sizes: tuple[int, int]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, g = (definite(rng, n) for n in sizes)
    weights = rng.standard_normal(sizes)
    split = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
    shares = np.sqrt(DAMPING) * split, np.sqrt(DAMPING) / split

    def ours() -> Any:
        return kronops.kron(a, g).damped(DAMPING, "factored").inverse()

    def inverses() -> list[np.ndarray]:
        return [
            np.linalg.inv(m + share * np.eye(len(m)))
            for m, share in zip((a, g), shares, strict=True)
        ]

    kept, (left, right) = ours(), inverses()
    np.testing.assert_allclose(kept.multiply(weights), left @ weights @ right, rtol=1e-6, atol=1e-6)

    def plain_first() -> np.ndarray:
        made = inverses()
        return made[0] @ weights @ made[1]

    first = in_turns(lambda: ours().multiply(weights), plain_first)
    later = in_turns(lambda: kept.multiply(weights), lambda: left @ weights @ right)
    return {
        "factors": " ⊗ ".join(map(str, sizes)),
        **named("first", first),
        **named("later", later),
    }


def named(stage: str, values: list[float]) -> dict[str, float]:
    return dict(zip((f"{stage}, kronops", f"{stage}, inv", f"{stage}, ratio"), values, strict=True))


def second_damping(n: int = 1000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    a, g, weights = definite(rng, n), definite(rng, n), rng.standard_normal((n, n))
    op = kronops.kron(a, g)
    op.damped(DAMPING).multiply_inverse(weights)

    def again() -> Any:
        return op.damped(2 * DAMPING).multiply_inverse(weights)

    def anew() -> Any:
        return kronops.kron(a, g).damped(2 * DAMPING).multiply_inverse(weights)

    np.testing.assert_allclose(again(), anew(), rtol=1e-8, atol=1e-8)
    kept, new, ratio = in_turns(again, anew)
    return {"factors": f"{n} ⊗ {n}, damped again", "kept": kept, "anew": new, "ratio": ratio}


def rows() -> Iterator[dict[str, Any]]:
    yield from map(inverse_of, SIZES)
    yield second_damping()


if __name__ == "__main__":
    table("inverses", __doc__, rows)
