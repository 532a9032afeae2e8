"""Natural gradient, momentum and Adam behind one interface, and the loop that trains with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from networks import Array, Network
from preconditioners import LOOSE, Preconditioner, conjugate_gradients
from tqdm import tqdm


@dataclass(frozen=True)
class Data:
    """Images with labels, for training and for the test. A step sees all of the training images."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


class Optimiser(Protocol):
    """Steps downhill on the loss of some images, the prior included."""

    network: Network
    prior: float

    def step(self, parameters: Array, images: Array, labels: Array) -> Array:
        """The parameters after the step."""


@dataclass
class Momentum:
    """`m ← 0.9 m + g`, `θ ← θ − rate·m`."""

    network: Network
    prior: float
    rate: float
    velocity: Array | float = 0.0

    def step(self, parameters: Array, images: Array, labels: Array) -> Array:
        """See `Optimiser.step`."""
        gradient = self.network.gradient(parameters, images, labels, self.prior)
        self.velocity = 0.9 * self.velocity + gradient
        return parameters - self.rate * self.velocity


@dataclass
class Adam:
    """Adam with the constants of its authors; the rate is tuned."""

    network: Network
    prior: float
    rate: float
    first: Array | float = 0.0
    second: Array | float = 0.0
    steps: int = 0

    def step(self, parameters: Array, images: Array, labels: Array) -> Array:
        """See `Optimiser.step`."""
        gradient = self.network.gradient(parameters, images, labels, self.prior)
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        mean = self.first / (1.0 - 0.9**self.steps)
        scale = np.sqrt(self.second / (1.0 - 0.999**self.steps)) + 1e-8
        return parameters - self.rate * mean / scale


@dataclass
class NaturalGradient:
    """`θ ← θ − s d` with `(F + prior·I) d = g` by preconditioned conjugate gradients.

    The damping is the precision of the prior, and so part of the objective; what keeps a step from
    going too far is a line search for `s`.
    """

    network: Network
    prior: float
    preconditioner: Preconditioner
    rng: np.random.Generator
    decay: float

    def step(self, parameters: Array, images: Array, labels: Array) -> Array:
        """See `Optimiser.step`."""
        self.preconditioner.update(
            self.network.statistics(parameters, images, self.rng), self.decay
        )
        gradient = self.network.gradient(parameters, images, labels, self.prior)
        fisher = self.network.gauss_newton(parameters, images, self.prior)
        inverse = self.preconditioner.operator(self.prior).inverse()
        direction, _ = conjugate_gradients(fisher, gradient, inverse, LOOSE)
        return self._search(parameters, direction, gradient @ direction, images, labels)

    def _search(
        self, parameters: Array, direction: Array, slope: float, images: Array, labels: Array
    ) -> Array:
        """Halve the step until the loss falls by a tenth of what the slope promises."""
        loss = self.network.loss(parameters, images, labels, self.prior)
        size = 1.0
        for _ in range(12):
            moved = parameters - size * direction
            if self.network.loss(moved, images, labels, self.prior) <= loss - 0.1 * size * slope:
                return moved
            size /= 2.0
        return parameters


@dataclass
class Run:
    """One training: an entry before the first step and after each that was recorded."""

    name: str
    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def record(
        self, step: int, network: Network, parameters: Array, data: Data, prior: float
    ) -> None:
        """Loss on the training images and accuracy on the test images."""
        self.steps.append(step)
        self.losses.append(network.loss(parameters, data.images, data.labels, prior))
        self.accuracies.append(network.accuracy(parameters, data.test_images, data.test_labels))

    def accuracy_after(self, seconds: float) -> float:
        """The test accuracy of the last record within so many seconds."""
        return self.accuracies[int(np.searchsorted(self.seconds, seconds, side="right")) - 1]


def train(
    name: str,
    optimiser: Optimiser,
    start: Array,
    data: Data,
    steps: int,
    probe: Callable[[int, Array, Array, Array], None] | None = None,
) -> Run:
    """Take `steps` steps; only these count as seconds, not the probe's and the records' time."""
    run, parameters, seconds = Run(name), start, 0.0
    for step in tqdm(range(steps + 1), desc=name, leave=False):
        # Every step at first; of the long runs of cheap steps, one in eight does.
        if step <= 12 or step % 8 == 0 or step == steps:
            run.record(step, optimiser.network, parameters, data, optimiser.prior)
            run.seconds.append(seconds)
        if step == steps:
            break
        if probe:
            probe(step, parameters, data.images, data.labels)
        started = time.perf_counter()
        parameters = optimiser.step(parameters, data.images, data.labels)
        seconds += time.perf_counter() - started
    return run


def tuned(
    name: str,
    make: Callable[[float], Optimiser],
    rates: Iterable[float],
    start: Array,
    data: Data,
    steps: int,
) -> Run:
    """The run whose rate ends at the lowest training loss; the test images have no say."""
    runs = [train(f"{name}, rate {rate:g}", make(rate), start, data, steps) for rate in rates]
    return min(runs, key=lambda run: run.losses[-1] if np.isfinite(run.losses[-1]) else np.inf)
