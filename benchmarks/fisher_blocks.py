"""How far each layer's block is from the exact Fisher block, on small random nets.

    python benchmarks/fisher_blocks.py [--examples 64] [--seed 0]

After the layer comes a linear map of its outputs, or of their hyperbolic tangents; targets are
Gaussian, so the draws of output gradients are the columns of the Jacobian. The exact block is the
mean over the examples of ``Σ vec(J) vec(J)ᵀ``, from gradients that are written out here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
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

IN, OUT, DRAWS, PLACES, KERNEL = 4, 3, 5, 6, 3
Array = np.ndarray


class Case(NamedTuple):
    """``gradients`` are ``(draws, B, …)``, in the order of the block's vectors."""

    name: str
    theory: str
    layer: Any
    batch: tuple[Any, ...]
    gradients: Array

    def distance(self) -> float:
        """``‖block − exact‖ / ‖exact‖``, in the Frobenius norm."""
        draws, examples = self.gradients.shape[:2]
        rows = self.gradients.reshape(draws * examples, -1)
        exact = rows.T @ rows / examples
        self.layer.update(*self.batch)
        block = self.layer.operator().to_dense()
        return float(np.linalg.norm(block - exact) / np.linalg.norm(exact))


def output_gradients(rng: Any, outputs: Array, linear: bool) -> Array:
    """``(draws, *outputs.shape)``: of a linear map of the outputs or their tangents, per place."""
    weights = rng.normal(size=(DRAWS, *outputs.shape[1:]))[:, None]
    return weights * (np.ones_like(outputs) if linear else 1 - np.tanh(outputs) ** 2)


def patches(images: Array) -> Array:
    """``(B, locations, KERNEL, channels)`` of a convolution along one axis, without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(images, KERNEL, axis=1)
    return np.moveaxis(windows, -1, 2)


def dense(rng: Any, examples: int) -> Iterator[Case]:
    for name, linear, count in [
        ("linear net", True, examples),
        ("one example", False, 1),
        ("tanh net", False, examples),
    ]:
        a = rng.normal(size=(count, IN))
        g = output_gradients(rng, a @ rng.normal(size=(IN, OUT)), linear)
        gradients = np.einsum("bi,dbo->dbio", a, g)
        theory = "differs" if name == "tanh net" else "equal"
        yield Case(f"dense, {name}", theory, DenseLayer(), (a, g), gradients)
    yield Case("dense, tanh net, full", "equal", DenseLayer(structure="full"), (a, g), gradients)


def convolutions(rng: Any, examples: int) -> Iterator[Case]:
    for name, width, count in [("one location, one example", KERNEL, 1), ("many", 8, examples)]:
        x = rng.normal(size=(count, width, 2))
        p = patches(x)
        kernel = rng.normal(size=(KERNEL, 2, OUT))
        g = output_gradients(rng, np.einsum("blkc,kco->blo", p, kernel), linear=False)
        gradients = np.einsum("blkc,dblo->dbkco", p, g)
        layer = ConvLayer((KERNEL,), padding="VALID")
        theory = "equal" if count == 1 else "differs"
        yield Case(f"convolution, {name}", theory, layer, (x, g), gradients)
        y = np.einsum("blkc,kcm->blcm", p, rng.normal(size=(KERNEL, 2, 2)))
        g = output_gradients(rng, y.reshape(count, -1, 4), linear=False)
        by_channel = g.reshape(*g.shape[:3], 2, 2)
        gradients = np.einsum("blkc,dblcm->dbkcm", p, by_channel)
        layer = DepthwiseConvLayer((KERNEL,), padding="VALID")
        yield Case(f"depthwise, {name}", "differs", layer, (x, g), gradients)


def shared(rng: Any, examples: int) -> Iterator[Case]:
    """Losses that are a sum over places have draws of one place alone; of means, of all."""
    a = rng.normal(size=(examples, PLACES, IN))
    weights = rng.normal(size=(DRAWS, OUT))
    everywhere = np.broadcast_to(weights[:, None, None], (DRAWS, examples, PLACES, OUT))
    alone = np.einsum("st,do->dsto", np.eye(PLACES), weights).reshape(-1, 1, PLACES, OUT)
    alone = np.broadcast_to(alone, (len(alone), examples, PLACES, OUT))
    for setting, g in [("sum over places", alone), ("mean over places", everywhere / PLACES)]:
        gradients = np.einsum("bsi,dbso->dbio", a, g)
        for sharing in ("expand", "reduce"):
            theory = "equal" if (sharing == "expand") == (g is alone) else "differs"
            layer = SharedLayer(sharing=sharing)
            yield Case(f"shared, {sharing}, {setting}", theory, layer, (a, g), gradients)


def others(rng: Any, examples: int) -> Iterator[Case]:
    ids = rng.integers(IN, size=examples)
    one_hot = np.eye(IN)[ids]
    for name, linear in [("linear net", True), ("tanh net", False)]:
        outputs = rng.normal(size=(IN, OUT))[ids] + (0 if linear else rng.normal(size=OUT))
        g = output_gradients(rng, outputs * rng.normal(size=(examples, 1)), linear)
        theory = "equal" if linear else "differs"
        gradients = np.einsum("bi,dbo->dbio", one_hot, g)
        yield Case(f"embedding, {name}", theory, EmbeddingLayer(IN), (ids, g), gradients)
    x = rng.normal(size=(examples, OUT))
    g = output_gradients(rng, x, linear=False)
    for structure, theory in [("full", "equal"), ("diagonal", "differs")]:
        gradients = np.stack([g * x, g], axis=2)
        layer: Any = ScaleShiftLayer(structure=structure)
        yield Case(f"scale and shift, {structure}", theory, layer, (x, g), gradients)
    flat = DRAWS**0.5 * g.reshape(-1, OUT)
    for structure, theory in [("full", "equal"), ("diagonal", "differs")]:
        layer = GradientLayer(structure)
        yield Case(f"gradients, {structure}", theory, layer, (flat,), g)


def series(rng: Any, examples: int) -> Iterator[Case]:
    """Inputs and gradients that are correlated in time."""
    common = rng.normal(size=(examples, IN))
    a = common + 0.5 * rng.normal(size=(PLACES, examples, IN))
    weights = rng.normal(size=(DRAWS, 1, 1, OUT)) + 0.5 * rng.normal(size=(DRAWS, PLACES, 1, OUT))
    slopes = 1 - np.tanh(rng.normal(size=(PLACES, examples, OUT))) ** 2
    g = weights * slopes
    gradients = np.einsum("tbi,dtbo->dbio", a, g)
    for name, layer in [
        ("uses independent", DenseLayer(uses=PLACES)),
        ("option 1", RecurrentLayer(1)),
        ("option 2", RecurrentLayer(2)),
    ]:
        yield Case(f"recurrent, {name}", "differs", layer, (a, g), gradients)


def cases(examples: int, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for kind in (dense, convolutions, shared, others, series):
        yield from kind(rng, examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| layer | theory | relative distance |\n|---|---|---|")
    for case in cases(options.examples, options.seed):
        print(f"| {case.name} | {case.theory} | {case.distance():.1e} |")


if __name__ == "__main__":
    main()
