"""Preconditioners that kronops makes of layer statistics, and how much they save."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from networks import Array, Network, append_one
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, cg

from kronops import BlockDiagonalOperator
from kronops.kfac import Curvature, DenseLayer, GradientLayer, RecurrentLayer

TIGHT, LOOSE = 1e-6, 1e-2


@dataclass(frozen=True)
class Preconditioner:
    """Statistics of every layer, and how damping enters the operator that they give."""

    curvature: Curvature
    method: str = "factored"

    def update(self, statistics: dict[str, tuple[Array, Array]], decay: float) -> None:
        """Take in one batch of layer inputs and output gradients."""
        batches = {
            name: gradients_of_examples(*statistics[name])
            if isinstance(layer, GradientLayer)
            else statistics[name]
            for name, layer in self.curvature.layers.items()
        }
        self.curvature.update(batches, decay=decay)

    def operator(self, damping: float) -> BlockDiagonalOperator:
        """The approximation of `F + damping·I`, one block for each layer."""
        return self.curvature.operator(damping=damping, method=self.method)


def gradients_of_examples(inputs: Array, outputs: Array) -> Array:
    """`Σ_t [inputs_t, 1] outputs_tᵀ` of each example, shape `(B, in + 1, out)`."""
    inputs = append_one(inputs)
    if inputs.ndim == 2:
        inputs, outputs = inputs[None], outputs[None]
    return inputs.transpose(1, 2, 0) @ outputs.transpose(1, 0, 2)


def preconditioners(network: Network) -> dict[str, Preconditioner]:
    """All that are compared. None is tuned: each is given the damping of the system itself."""

    def curvature(along_time: Callable[[int], Any]) -> Curvature:
        """`along_time(T)` for layers used at `T` time steps, Kronecker factors for the others."""
        uses = network.uses
        return Curvature(
            {
                name: along_time(uses[name]) if name in uses else DenseLayer(bias=True)
                for name in network.shapes
            }
        )

    def independent(uses: int) -> DenseLayer:
        return DenseLayer(bias=True, uses=uses)

    found = {
        "diagonal": Preconditioner(Curvature({name: GradientLayer() for name in network.shapes})),
        "Kronecker": Preconditioner(curvature(independent)),
        "Kronecker, exact damping": Preconditioner(curvature(independent), method="exact"),
    }
    for option in (1, 2) if network.uses else ():
        series = curvature(lambda _, option=option: RecurrentLayer(option=option, bias=True))
        found[f"series, option {option}"] = Preconditioner(series)
    return found


@dataclass(frozen=True)
class Solve:
    """What one solution of a linear system took: iterations to two tolerances, and seconds."""

    loose: int
    tight: int
    seconds: float


def conjugate_gradients(
    system: LinearOperator, rhs: Array, inverse: Any, tolerance: float
) -> tuple[Array, int]:
    """The solution and the number of iterations; a kronops operator is SciPy's `M` as it is."""
    iterations = 0

    def count(_: Array) -> None:
        nonlocal iterations
        iterations += 1

    solution, failed = cg(system, rhs, M=inverse, rtol=tolerance, maxiter=5000, callback=count)
    if failed:
        raise RuntimeError(f"no relative residual of {tolerance} after {iterations} iterations")
    return solution, iterations


def measure(
    system: LinearOperator, rhs: Array, preconditioner: Preconditioner | None, damping: float
) -> Solve:
    """One solution to `TIGHT`, factorisations included in its seconds, and one to `LOOSE`."""
    started = time.perf_counter()
    inverse = preconditioner.operator(damping).inverse() if preconditioner else None
    _, tight = conjugate_gradients(system, rhs, inverse, TIGHT)
    seconds = time.perf_counter() - started
    return Solve(conjugate_gradients(system, rhs, inverse, LOOSE)[1], tight, seconds)


def residuals(system: Array, rhs: Array, inverse: Any) -> list[float]:
    """The relative residual before the first iteration and after each."""
    history = [1.0]

    def record(iterate: Array) -> None:
        history.append(float(np.linalg.norm(rhs - system @ iterate) / np.linalg.norm(rhs)))

    cg(system, rhs, M=inverse, rtol=TIGHT, maxiter=5000, callback=record)
    return history


class Probe:
    """Solves the system of each training step with every preconditioner, and counts.

    Parameters, images and right-hand side are the same for all; training goes on untouched.
    """

    def __init__(self, network: Network, prior: float, seed: int, memory: float) -> None:
        self.network, self.prior, self.memory = network, prior, memory
        self.rng = np.random.default_rng(seed)
        self.preconditioners = preconditioners(network)
        self.solves: dict[str, list[Solve]] = {"none": [], **{n: [] for n in self.preconditioners}}

    def __call__(self, step: int, parameters: Array, images: Array, labels: Array) -> None:
        """Take in the statistics of this step, and measure."""
        statistics = self.network.statistics(parameters, images, self.rng)
        for preconditioner in self.preconditioners.values():
            preconditioner.update(statistics, decay=self.memory)
        self.step = step + 1
        self.__dict__.pop("dense", None)
        self.system = self.network.gauss_newton(parameters, images, self.prior)
        self.rhs = self.network.gradient(parameters, images, labels, self.prior)
        self.operators = {
            name: preconditioner.operator(self.prior)
            for name, preconditioner in self.preconditioners.items()
        }
        for name, solves in self.solves.items():
            preconditioner = self.preconditioners.get(name)
            solves.append(measure(self.system, self.rhs, preconditioner, self.prior))

    def mean(self, name: str, quantity: str) -> float:
        """The mean over all steps of `"loose"`, `"tight"` or `"seconds"`."""
        return float(np.mean([getattr(solve, quantity) for solve in self.solves[name]]))

    def residuals(self) -> dict[str, list[float]]:
        """How the relative residuals fall at the last step."""
        found = {"none": residuals(self.dense, self.rhs, None)}
        for name, operator in self.operators.items():
            found[name] = residuals(self.dense, self.rhs, operator.inverse())
        return found

    @cached_property
    def dense(self) -> Array:
        """`F + λI` there, written out: only to look at it."""
        return self.system @ np.eye(self.network.size)

    def spectra(self) -> dict[str, Array]:
        """Eigenvalues of `F + λI`, and of `M (F + λI)` for each inverse `M`."""
        found = {"none": eigh(self.dense, eigvals_only=True)}
        for name, operator in self.operators.items():
            found[name] = eigh(self.dense, operator.to_dense(), eigvals_only=True)
        return found

    def distances(self) -> dict[str, float]:
        """How far each operator is from `F + λI`, in Frobenius norm, relative to its norm."""
        norm = np.linalg.norm(self.dense)
        return {
            name: float(np.linalg.norm(self.dense - operator.to_dense()) / norm)
            for name, operator in self.operators.items()
        }
