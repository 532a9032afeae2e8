"""Train two networks on handwritten digits by natural gradient, preconditioned by kronops.

    python examples/digits.py --output demo-output

Each step solves `(F + λI) d = g` by conjugate gradients, where `F` is the exact Gauss-Newton matrix
of the network, known by its products alone. kronops turns the statistics of the layers into an
operator whose inverse is the preconditioner. All that is printed was measured in this run.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from networks import Array, Network, Perceptron, Recurrent
from optimisers import Adam, Data, Momentum, NaturalGradient, Run, train, tuned
from preconditioners import Probe, preconditioners
from report import describe
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

PRIOR = 3e-4  # λ: the precision of a Gaussian prior on each parameter, for each training image
MEMORY = 0.3  # old statistics fade fast: the parameters that they belong to are soon far away
SOLVERS = {"perceptron": "Kronecker", "recurrent network": "series, option 2"}


@dataclass(frozen=True)
class Outcome:
    """What one network's experiment gave, ready to be told and drawn."""

    name: str
    network: Network
    probe: Probe
    runs: list[Run]
    residuals: dict[str, list[float]]
    spectra: dict[str, Array]


def load(seed: int, count: int) -> Data:
    """A quarter of the digits is kept for the test; the mean training image is subtracted."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    images, labels = images[chosen].reshape(-1, 8, 8), labels[chosen]
    split = 3 * count // 4
    mean, scale = images[:split].mean(axis=0), images[:split].std()
    images = (images - mean) / scale
    return Data(images[:split], labels[:split], images[split:], labels[split:])


def experiment(name: str, network: Network, data: Data, options: argparse.Namespace) -> Outcome:
    """Train by three methods from the same start, and measure the preconditioners on the way."""
    start = network.initial(np.random.default_rng(options.seed))
    probe = Probe(network, PRIOR, options.seed, MEMORY)
    natural = NaturalGradient(
        network,
        PRIOR,
        preconditioners(network)[SOLVERS[name]],
        np.random.default_rng(options.seed),
        MEMORY,
    )
    runs = [train("natural gradient", natural, start, data, options.steps, probe)]
    rates = {Momentum: (0.03, 0.1, 0.3), Adam: (0.01, 0.03, 0.1)}
    for method, tried in rates.items():
        runs.append(
            tuned(
                method.__name__,
                lambda rate, method=method: method(network, PRIOR, rate),
                tried,
                start,
                data,
                options.cheap * options.steps,
            )
        )
    return Outcome(name, network, probe, runs, probe.residuals(), probe.spectra())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="for the pictures")
    parser.add_argument("--steps", type=int, default=12, help="of natural gradient")
    parser.add_argument("--seed", type=int, default=0, help="of split, start and sampled targets")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps: at least 1 is needed")
    if options.quick:
        options.steps = min(options.steps, 3)
    # A step of momentum or Adam is cheap: they take `cheap` times as many.
    options.images, options.hidden, options.cheap = (240, 6, 2) if options.quick else (1797, 20, 40)
    return options


def main() -> None:
    """Run both experiments, print the tables, draw the pictures."""
    options = parse()
    with threadpool_limits(1):  # for matrices this small, threads cost more than they give
        run(options)


def run(options: argparse.Namespace) -> None:
    """The whole demonstration."""
    started = time.perf_counter()
    data = load(options.seed, options.images)
    networks = {
        "perceptron": Perceptron(hidden=options.hidden),
        "recurrent network": Recurrent(hidden=options.hidden),
    }
    outcomes = []
    for name, network in networks.items():
        outcomes.append(experiment(name, network, data, options))
        print(describe(outcomes[-1], len(data.labels), len(data.test_labels)), flush=True)
    # matplotlib is slow to import, and the tables need not wait for it.
    from pictures import draw

    for path in draw(outcomes, options.output):
        print(path)
    print(f"{time.perf_counter() - started:.0f} seconds in all")


if __name__ == "__main__":
    main()
