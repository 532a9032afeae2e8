"""Inverses of factors damped each, built and applied, beside `numpy.linalg.inv`; and new dampings.

    python benchmarks/inverses.py

The first rows: seconds for the inverse of ``A`` alone, as a matrix; from two positive definite
factors to the first product with ``kron(A, G).damped(value, "factored").inverse()``, and for each
later one, beside the same from ``inv(A + a)`` and ``inv(G + g)``. The last rows: a second exact
damping of 1000 x 1000 factors by the kept eigenvectors, beside all of it anew and beside ``inv(A)``
and ``inv(G)``: until the inverse is made, and until it has been multiplied by once. And 1,000
blocks of 16 rows side by side, beside NumPy's batched functions: a product, the first solve, and a
later one.
Ratios above 1: kronops, or what is kept, is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scripts import table

import kronops
from kronops.bench.measuring import medians_in_turns

SIZES = ((512, 512), (1024, 1024), (2048, 2048), (2304, 256), (4608, 512))
DAMPING = 1e-2


def definite(rng: np.random.Generator, n: int) -> np.ndarray:
    draws = rng.standard_normal((n, n))
    return draws @ draws.T / n


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

    alone = medians_in_turns(
        lambda: kronops.DenseOperator(a).inverse().to_dense(), lambda: np.linalg.inv(a)
    )
    first = medians_in_turns(lambda: ours().multiply(weights), plain_first)
    later = medians_in_turns(lambda: kept.multiply(weights), lambda: left @ weights @ right)
    return {
        "factors": " ⊗ ".join(map(str, sizes)),
        **named("A⁻¹", alone),
        **named("first", first),
        **named("later", later),
    }


def named(stage: str, values: list[float], peer: str = "inv") -> dict[str, float]:
    columns = (f"{stage}, {column}" for column in ("kronops", peer, "ratio"))
    return dict(zip(columns, values, strict=True))


def second_dampings(n: int = 1000) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    a, g, weights = definite(rng, n), definite(rng, n), rng.standard_normal((n, n))
    kept = kronops.kron(a, g)
    kept.damped(DAMPING).multiply_inverse(weights)

    def inverse(op: Any) -> Any:
        return op.damped(2 * DAMPING).inverse()

    def product(op: Any) -> np.ndarray:
        return inverse(op).multiply(weights)

    def inverses() -> list[np.ndarray]:
        return [np.linalg.inv(a), np.linalg.inv(g)]

    def plain_product() -> np.ndarray:
        left, right = inverses()
        return left @ weights @ right

    np.testing.assert_allclose(product(kept), product(kronops.kron(a, g)), rtol=1e-8, atol=1e-8)
    yield redamped(f"{n} ⊗ {n}, damped again", kept, inverse, inverses)
    yield redamped(f"{n} ⊗ {n}, damped again and multiplied", kept, product, plain_product)


def many_blocks(count: int = 1000, n: int = 16) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    stack = np.stack([definite(rng, n) + np.eye(n) for _ in range(count)])
    x = rng.standard_normal(count * n)
    apart = x.reshape(count, n, 1)
    kept, inverses = kronops.block_diag(*stack), np.linalg.inv(stack)
    np.testing.assert_allclose(kept.solve(x), (inverses @ apart).ravel(), rtol=1e-8, atol=1e-8)
    return {
        "blocks": f"{count:,} of {n}",
        **named("product", medians_in_turns(lambda: kept @ x, lambda: stack @ apart), "matmul"),
        **named(
            "first solve",
            medians_in_turns(
                lambda: kronops.block_diag(*stack).solve(x), lambda: np.linalg.solve(stack, apart)
            ),
            "solve",
        ),
        **named(
            "later", medians_in_turns(lambda: kept.solve(x), lambda: inverses @ apart), "inverses"
        ),
    }


def redamped(
    name: str, kept: Any, function: Callable[[Any], Any], plain: Callable[[], Any]
) -> dict[str, Any]:
    """Medians in seconds, and ratios to the first."""
    factors = [factor.matrix for factor in kept.factors]
    ours, anew, anew_ratio = medians_in_turns(
        lambda: function(kept), lambda: function(kronops.kron(*factors))
    )
    _, inv, inv_ratio = medians_in_turns(lambda: function(kept), plain)
    return {
        "factors": name,
        "kept": ours,
        "anew": anew,
        "anew, ratio": anew_ratio,
        "inv": inv,
        "inv, ratio": inv_ratio,
    }


def rows() -> Iterator[dict[str, Any]]:
    yield from map(inverse_of, SIZES)
    yield from second_dampings()
    yield many_blocks()


if __name__ == "__main__":
    table("inverses", __doc__, rows)
