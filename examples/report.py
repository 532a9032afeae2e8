"""The tables of the demonstration, and sentences that follow from the numbers in them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from preconditioners import LOOSE, TIGHT, Probe

from kronops.kfac import RecurrentLayer

if TYPE_CHECKING:
    from digits import Outcome

MARKS = (1, 2, 4, 6, 8, 12)
LOOSELY, TIGHTLY = (f"to {tolerance:.0e}".replace("e-0", "e-") for tolerance in (LOOSE, TIGHT))


def describe(outcome: Outcome, images: int, test_images: int) -> str:
    """Everything that is printed about one network."""
    probe, natural = outcome.probe, outcome.runs[0]
    title = f"{outcome.name}: {outcome.network.size:,} parameters, {images:,} training images"
    parts = [
        f"\n{title}\n{'=' * len(title)}",
        f"Iterations of conjugate gradients on (F + {probe.prior:g} I) d = g, mean of {probe.step} "
        f"training steps;\nat step {probe.step} the condition number that is left, and how far the "
        f"operator P that is inverted is from F:\n",
        solver_table(outcome),
        "",
        *(textwrap.fill(f"- {text}", 96, subsequent_indent="  ") for text in findings(outcome)),
        f"\nTest accuracy on {test_images} images. Each step of each optimiser sees all training "
        f"images; the last column:\nafter the {natural.seconds[-1]:.2g} s that "
        f"{natural.steps[-1]} steps of natural gradient took.\n",
        accuracy_table(outcome),
    ]
    return "\n".join(parts)


def solver_table(outcome: Outcome) -> str:
    """One row for each preconditioner."""
    probe, distances = outcome.probe, outcome.probe.distances()
    heads = (LOOSELY, TIGHTLY, "seconds", "condition", "|P-F|/|F|")
    rows = [f"{'preconditioner':<26}" + "".join(f"{head:>11}" for head in heads)]
    for name in probe.solves:
        distance = f"{distances[name]:11.2f}" if name in distances else f"{'-':>11}"
        rows.append(
            f"{name:<26}{probe.mean(name, 'loose'):11.1f}{probe.mean(name, 'tight'):11.1f}"
            f"{probe.mean(name, 'seconds'):11.3f}{condition(outcome, name):11,.0f}{distance}"
        )
    return "\n".join(rows)


def condition(outcome: Outcome, name: str) -> float:
    """The condition number that a preconditioner leaves."""
    spectrum = outcome.spectra[name]
    return float(spectrum[-1] / spectrum[0])


def accuracy_table(outcome: Outcome) -> str:
    """One row for each optimiser, by steps and by time."""
    natural = outcome.runs[0]
    marks = [mark for mark in MARKS if mark <= natural.steps[-1]]
    heads = [f"step {mark}" for mark in marks] + ["same time"]
    rows = [f"{'optimiser':<26}" + "".join(f"{head:>11}" for head in heads)]
    for run in outcome.runs:
        found = [run.accuracies[run.steps.index(mark)] for mark in marks]
        found.append(run.accuracy_after(natural.seconds[-1]))
        rows.append(f"{run.name:<26}" + "".join(f"{value:11.3f}" for value in found))
    return "\n".join(rows)


def findings(outcome: Outcome) -> list[str]:
    """What the numbers say, for and against the preconditioners."""
    probe = outcome.probe
    best = min(probe.preconditioners, key=lambda name: probe.mean(name, "tight"))
    without = probe.mean("none", "tight")
    failures = [name for name in probe.preconditioners if probe.mean(name, "tight") >= without]
    return [
        about_best(probe, best),
        about_course(outcome, best),
        *(about_failure(outcome, name) for name in failures),
        about_damping(outcome),
        *(about_time(probe) if outcome.network.uses else []),
    ]


def about_best(probe: Probe, best: str) -> str:
    """How much the best preconditioner saves, in iterations and in time."""
    iterations, seconds = (
        probe.mean("none", quantity) / probe.mean(best, quantity)
        for quantity in ("tight", "seconds")
    )
    if iterations <= 1.0:
        return f"No preconditioner saves iterations {TIGHTLY} here."
    text = f"Fewest iterations {TIGHTLY}: {best}, {iterations:.1f} times fewer than with none"
    each = 1e3 * probe.mean("none", "seconds") / probe.mean("none", "tight")
    if seconds > 1.25:  # less is within what other work on the machine can do
        return f"{text}, in {seconds:.1f} times less time."
    return f"{text}, but hardly sooner: an iteration without takes {each:.2g} ms only."


def about_course(outcome: Outcome, best: str) -> str:
    """Whether the best preconditioner is so from the first step to the last."""
    probe = outcome.probe
    with_best, without = ([solve.tight for solve in probe.solves[name]] for name in (best, "none"))
    text = (
        f"From step 1 to step {probe.step} its iterations go from {with_best[0]} to "
        f"{with_best[-1]}, those without from {without[0]} to {without[-1]}"
    )
    if with_best[-1] >= without[-1]:
        above = np.mean(outcome.spectra["none"] > 2 * probe.prior)
        text += (
            f": at the end it no longer pays. Of F's eigenvalues {above:.0%} exceed λ, and for the "
            f"rest F + λI is near λI, which needs no preconditioner"
        )
    return text + "."


def about_failure(outcome: Outcome, name: str) -> str:
    """Why a preconditioner needs no fewer iterations than none."""
    probe = outcome.probe
    text = (
        f"{name}: no help {TIGHTLY}, {probe.mean(name, 'tight'):.0f} iterations against "
        f"{probe.mean('none', 'tight'):.0f}"
    )
    loose, none = probe.mean(name, "loose"), probe.mean("none", "loose")
    if loose < none:
        text += f", though {loose:.0f} against {none:.0f} {LOOSELY}"
    if name == "diagonal":
        share = np.linalg.norm(np.diag(probe.dense)) / np.linalg.norm(probe.dense)
        text += f". Of F's norm {share:.0%} is on its diagonal"
    clustered = {key: within_factor_two(outcome.spectra[key]) for key in ("none", name)}
    if clustered[name] < clustered["none"]:
        text += (
            f". It scatters a cluster: {clustered['none']:.0%} of F + λI's eigenvalues are within "
            f"a factor 2 of their median, {clustered[name]:.0%} afterwards"
        )
    return text + "."


def within_factor_two(spectrum: np.ndarray) -> float:
    """The fraction of eigenvalues within a factor 2 of their median."""
    ratio = spectrum / np.median(spectrum)
    return float(np.mean((ratio > 0.5) & (ratio < 2.0)))


def about_damping(outcome: Outcome) -> str:
    """Factored against exact damping of the Kronecker blocks."""
    probe = outcome.probe
    names = {"factored": "Kronecker", "exact": "Kronecker, exact damping"}
    counts = {key: probe.mean(name, "tight") for key, name in names.items()}
    better, worse = sorted(counts, key=counts.get)
    text = f"Damping of the Kronecker blocks: {better} is better than {worse} by "
    text += f"{counts[worse] / counts[better] - 1:.0%} of the iterations"
    largest = {key: outcome.spectra[name][-1] for key, name in names.items()}
    if better == "factored" and largest["factored"] < largest["exact"]:
        text += (
            f". Its cross terms make up for curvature that A ⊗ G misses: the largest eigenvalue of "
            f"M (F + λI) is {largest['factored']:.0f}, not {largest['exact']:.0f}"
        )
    return text + "."


def about_time(probe: Probe) -> list[str]:
    """What the series options know about the time steps that independent uses do not."""
    counts = {name: probe.mean(name, "tight") for name in probe.preconditioners}
    distances = probe.distances()
    series = [f"series, option {option}" for option in (1, 2)]
    saved = [f"{1 - counts[name] / counts['Kronecker']:+.0%}" for name in series]
    layer = next(
        layer
        for layer in probe.preconditioners[series[0]].curvature.layers.values()
        if isinstance(layer, RecurrentLayer)
    )
    correlations, asymmetries = [], []
    for now, later in layer.moments:
        correlations.append(f"{np.trace(later) / np.trace(now):.2f}")
        asymmetries.append(
            f"{np.linalg.norm(later - later.T) / np.linalg.norm(later + later.T):.2f}"
        )
    first, second = (f"{distances[name]:.2f}" for name in series)
    return [
        f"Iterations saved over time steps taken as independent: {saved[0]} by option 1, "
        f"{saved[1]} by option 2; distance to F {first} and {second} instead "
        f"of {distances['Kronecker']:.2f}.",
        f"Neighbouring steps are correlated, tr C1 / tr C0 = {correlations[0]} for inputs and "
        f"{correlations[1]} for output gradients; and C1, which option 1 takes as symmetric, is "
        f"not: |C1 - C1ᵀ| / |C1 + C1ᵀ| = {asymmetries[0]} and {asymmetries[1]}.",
    ]
