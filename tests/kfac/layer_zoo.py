"""One estimator of each kind, with batches for it, and what tests ask of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kronops.kfac import (
    ConvLayer,
    DenseLayer,
    DepthwiseConvLayer,
    EmbeddingLayer,
    GradientLayer,
    RecurrentLayer,
    ScaleShiftLayer,
    SharedLayer,
)

RNG = np.random.default_rng(2)
B, T, IN, OUT = 6, 3, 4, 2
STRUCTURES = ["kronecker", "diagonal", "full", ("diagonal", "full"), ("full", "diagonal")]
METHODS = ["factored", "exact", "ekfac"]


def dense_batch() -> tuple[Any, ...]:
    return RNG.normal(size=(B, IN)), RNG.normal(size=(B, OUT))


def series_batch() -> tuple[Any, ...]:
    """Correlated in time, as the steps of a series are."""
    a, g = RNG.normal(size=(T, B, IN)), RNG.normal(size=(T, B, OUT))
    return a + RNG.normal(size=(B, IN)), g + RNG.normal(size=(B, OUT))


def shared_batch() -> tuple[Any, ...]:
    a, g = series_batch()
    return a.swapaxes(0, 1), g.swapaxes(0, 1)


def image_batch() -> tuple[Any, ...]:
    return RNG.normal(size=(B, 3, 2, IN)), RNG.normal(size=(B, 3, 2, IN))


def embedding_batch() -> tuple[Any, ...]:
    return RNG.integers(IN, size=B), RNG.normal(size=(B, OUT))


def sequence_batch() -> tuple[Any, ...]:
    return RNG.integers(IN, size=(B, T)), RNG.normal(size=(B, T, OUT))


class Case(NamedTuple):
    make: Callable[..., Any]
    batch: Callable[[], tuple[Any, ...]]
    methods: list[str]
    axis: int = 0  # of the examples


def dense_case(**settings: Any) -> Case:
    batch, axis = (series_batch, 1) if "uses" in settings else (dense_batch, 0)
    return Case(lambda **more: DenseLayer(**settings, **more), batch, METHODS, axis)


ZOO = {f"dense, {s}": dense_case(structure=s, bias=True) for s in STRUCTURES}
ZOO |= {f"uses, {s}": dense_case(structure=s, uses=T) for s in STRUCTURES}
ZOO |= {
    f"recurrent, option {option}": Case(
        lambda option=option, **more: RecurrentLayer(option, bias=True, **more),
        series_batch,
        ["factored"],
        1,
    )
    for option in (1, 2)
}
ZOO |= {
    f"gradient, {s}": Case(
        lambda s=s, **more: GradientLayer(s, **more),
        lambda: (RNG.normal(size=(B, IN, OUT)),),
        METHODS,
    )
    for s in ("diagonal", "full")
}
ZOO |= {
    f"shared, {sharing}, {s}": Case(
        lambda sharing=sharing, s=s, **more: SharedLayer(True, sharing, structure=s, **more),
        shared_batch,
        METHODS,
    )
    for sharing, s in [*itertools.product(("expand", "reduce"), ("kronecker", "diagonal", "full")),
                       ("reduce", ("diagonal", "full"))]
}  # fmt: skip
ZOO |= {
    f"embedding, {s}, {batch.__name__}": Case(
        lambda s=s, **more: EmbeddingLayer(IN, structure=s, **more), batch, METHODS
    )
    for s in ("kronecker", "diagonal", ("diagonal", "diagonal"))
    for batch in (embedding_batch, sequence_batch)
}
ZOO |= {
    f"scale and shift, {s}, {which}": Case(
        lambda s=s, which=which, **more: ScaleShiftLayer(*which, (1, 2), s, **more),
        image_batch,
        METHODS,
    )
    for s in ("full", "diagonal")
    for which in ((True, True), (True, False), (False, True))
}


def conv_case(kind: Any, inputs: int, **settings: Any) -> Case:
    """With one channel in each group, for then both layouts order patches alike."""

    def batch() -> tuple[Any, ...]:
        return RNG.normal(size=(2, B, 5, inputs)), RNG.normal(size=(2, B, 3, 4))

    def make(**more: Any) -> Any:
        return kind(3, 2, bias=True, uses=2, **settings, **more)

    return Case(make, batch, METHODS, 1)


ZOO |= {f"convolution, {s}": conv_case(ConvLayer, 1, structure=s) for s in STRUCTURES}
ZOO |= {f"groups, {s}": conv_case(ConvLayer, 2, structure=s, groups=2) for s in STRUCTURES}
ZOO |= {f"depthwise, {s}": conv_case(DepthwiseConvLayer, 4, structure=s) for s in STRUCTURES}


def filled(case: Case, updates: int = 2, **settings: Any) -> Any:
    """An estimator after some updates, its eigenvalues estimated where it has some."""
    layer = case.make(**settings)
    for _ in range(updates):
        layer.update(*case.batch(), decay=0.9, weight=0.7)
    if "ekfac" in case.methods:
        layer.update_eigenvalues(*case.batch())
    return layer


def flat_moments(layer: Any) -> list[Any]:
    moments = layer.moments
    if not isinstance(moments, tuple):
        return [moments]
    return [*itertools.chain(*moments)] if isinstance(moments[0], tuple) else [*moments]


def assert_same(first: Any, second: Any, rtol: float = 1e-12) -> None:
    """The same moments and the same operators."""
    for x, y in zip(flat_moments(first), flat_moments(second), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-14)
    a, b = first.operator(0.1), second.operator(0.1)
    np.testing.assert_allclose(a.to_dense(), b.to_dense(), rtol=rtol, atol=1e-12)
