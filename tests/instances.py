"""Random operators for the tests by hypothesis, small enough for a thousand of each."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import array_api_strict
import hypothesis
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from zoo import Maker, kron

from kronops.backends import backend_of

__all__ = [
    "close", "covariance", "factors_of", "given", "kron", "makers", "said", "shapes", "sizes",
]  # fmt: skip

MOST_ROWS = 16  # of a product: no law knows how large it is

THOUSAND = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def given(*strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """`hypothesis.given`, a thousand times and the same ones in every run."""
    return lambda test: THOUSAND(hypothesis.given(*strategies)(test))


makers = st.builds(
    Maker,
    st.sampled_from([*[np] * 49, array_api_strict]),  # whose checks are slow
    st.sampled_from(["float64", "complex128"]),
    st.integers(0, 2**32 - 1),
)


@functools.cache
def _up_to(most: int, largest: int) -> list[tuple[int, ...]]:
    """One to four sizes whose product is no more than ``most``, ones among them."""
    every = itertools.chain.from_iterable(
        itertools.product(range(1, largest + 1), repeat=count) for count in range(1, 5)
    )
    return [sizes for sizes in every if math.prod(sizes) <= most]


sizes = st.sampled_from(_up_to(MOST_ROWS, 5))


@st.composite
def shapes(draw, least: int = 1, most: int = 4) -> list[tuple[int, int]]:
    """Those of rectangular factors, as many as is asked for."""
    count = draw(st.integers(least, most))
    fitting = [sizes for sizes in _up_to(MOST_ROWS, 5) if len(sizes) == count]
    rows, columns = (draw(st.sampled_from(fitting)) for _ in range(2))
    return list(zip(rows, columns, strict=True))


def factors_of(make: Maker, sizes: tuple[int, ...], kind: str) -> list[np.ndarray]:
    """A matrix of the kind for each size."""
    return [getattr(make, kind)(n) for n in sizes]


def close(got, want, rtol=1e-9):
    """An array or operator beside what it should be, relative to the largest entry."""
    array = got.to_dense() if hasattr(got, "to_dense") else got
    array = backend_of(array).to_numpy(array)
    want = np.asarray(want)
    assert array.shape == want.shape
    error = np.max(np.abs(array - want), initial=0.0)
    assert error <= rtol * max(np.max(np.abs(want), initial=0.0), 1e-300), (error, array, want)


def said(op, operation: str) -> str:
    """What `explain` says of one operation, with all its parts."""
    return next(part for part in op.explain().split("\n\n") if part.startswith(f"{operation}:"))


class UnitDraws(np.random.Generator):
    """Numbers for `sample` that are the columns of one identity: what is drawn is then a root."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64())
        self.given = 0

    def standard_normal(self, shape, dtype):
        rows, count = shape
        made = np.eye(rows, count, k=self.given, dtype=dtype)
        self.given += rows
        assert self.given <= count
        return made


def covariance(op) -> np.ndarray:
    """What the draws of ``op.sample`` have as their covariance, exactly."""
    draws = op.sample(UnitDraws(), (10 * op.shape[0],))
    draws = backend_of(draws).to_numpy(draws)
    return draws.T @ draws.conj()
