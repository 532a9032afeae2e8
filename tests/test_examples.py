"""The examples run, and the networks' hand-written derivatives are the derivatives they claim."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import eigvalsh

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))

from networks import Network, Perceptron, Recurrent  # noqa: E402
from preconditioners import conjugate_gradients, preconditioners  # noqa: E402

NETWORKS = {
    "perceptron": lambda: Perceptron(pixels=6, hidden=3, classes=4),
    "recurrent": lambda: Recurrent(rows=3, pixels=2, hidden=3, classes=4),
}
STEP = 1e-6


@pytest.fixture(params=NETWORKS)
def case(request):
    """A tiny network away from its start, seven images of three rows, labels."""
    rng = np.random.default_rng(3)
    network: Network = NETWORKS[request.param]()
    parameters = network.initial(rng) + 0.3 * rng.normal(size=network.size)
    return network, parameters, rng.normal(size=(7, 3, 2)), rng.integers(0, 4, size=7)


def central_difference(function, point: np.ndarray) -> np.ndarray:
    """The Jacobian of `function` by central differences, one column for each parameter."""
    steps = STEP * np.eye(point.size)
    columns = [(function(point + e) - function(point - e)) / (2 * STEP) for e in steps]
    return np.stack(columns, axis=-1)


def test_gradient_is_the_derivative_of_the_loss(case):
    network, parameters, images, labels = case
    expected = central_difference(lambda p: network.loss(p, images, labels, 0.5), parameters)
    computed = network.gradient(parameters, images, labels, 0.5)
    np.testing.assert_allclose(computed, expected, atol=1e-8)


def test_push_and_pull_are_adjoint(case):
    network, parameters, images, _ = case
    rng = np.random.default_rng(5)
    trace = network.forward(parameters, images)
    direction, cotangents = rng.normal(size=network.size), rng.normal(size=trace.logits.shape)
    forward = np.sum(network.push(parameters, trace, direction) * cotangents)
    gradients = network.pull(parameters, trace, cotangents)
    reverse = len(images) * network._mean_gradient(trace, gradients) @ direction
    assert forward == pytest.approx(reverse, rel=1e-12)


def test_gauss_newton_is_the_dense_product(case):
    """`mean_b J_bᵀ H_b J_b`, with `J_b` by finite differences and `H_b` written out."""
    network, parameters, images, _ = case
    logits = central_difference(lambda p: network.forward(p, images).logits, parameters)
    dense = 0.0
    for jacobian, p in zip(logits, network.forward(parameters, images).probabilities, strict=True):
        dense = dense + jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian / len(images)
    computed = network.gauss_newton(parameters, images, prior=0.5) @ np.eye(network.size)
    np.testing.assert_allclose(computed, dense + 0.5 * np.eye(network.size), atol=1e-7)


def test_sampled_statistics_average_to_the_fisher(case):
    """Over many draws of targets the second moment of the gradients is the Gauss-Newton matrix."""
    network, parameters, images, _ = case
    draws = 4000
    repeated = np.repeat(images, draws, axis=0)
    drawn = network.statistics(parameters, repeated, np.random.default_rng(7))
    gradients = []
    for inputs, outputs in drawn.values():
        inputs = np.concatenate([inputs, np.ones((*inputs.shape[:-1], 1))], axis=-1)
        pattern = "tbi,tbo->bio" if inputs.ndim == 3 else "bi,bo->bio"
        gradients.append(np.einsum(pattern, inputs, outputs).reshape(len(repeated), -1))
    rows = np.concatenate(gradients, axis=1)
    exact = network.gauss_newton(parameters, images) @ np.eye(network.size)
    error = np.linalg.norm(rows.T @ rows / len(rows) - exact) / np.linalg.norm(exact)
    assert error < 0.05


def test_diagonal_preconditioner_is_the_diagonal_of_the_fisher(case):
    """The order of parameters is the same in the network and in the operator."""
    network, parameters, images, _ = case
    statistics = network.statistics(
        parameters, np.repeat(images, 4000, axis=0), np.random.default_rng(7)
    )
    diagonal = preconditioners(network)["diagonal"]
    diagonal.update(statistics, decay=0.5)
    exact = np.diag(network.gauss_newton(parameters, images) @ np.eye(network.size))
    np.testing.assert_allclose(diagonal.operator(0.0).diagonal(), exact, rtol=0.1)


def test_all_preconditioners_lead_to_the_same_solution(case):
    network, parameters, images, labels = case
    system = network.gauss_newton(parameters, images, prior=1e-2)
    gradient = network.gradient(parameters, images, labels, prior=1e-2)
    expected = np.linalg.solve(system @ np.eye(network.size), gradient)
    statistics = network.statistics(parameters, images, np.random.default_rng(7))
    for preconditioner in preconditioners(network).values():
        preconditioner.update(statistics, decay=0.5)
        inverse = preconditioner.operator(1e-2).inverse()
        solution, iterations = conjugate_gradients(system, gradient, inverse, 1e-12)
        np.testing.assert_allclose(solution, expected, rtol=1e-8, atol=1e-9)
        assert 0 < iterations < 5 * network.size


def run_example(*arguments: str) -> str:
    """Run one example in a fresh interpreter and give back what it printed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=EXAMPLES,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_digits_trains_measures_and_draws(tmp_path):
    printed = run_example("digits.py", "--quick", "--output", str(tmp_path))
    for row in ("none", "diagonal", "Kronecker", "series, option 1", "series, option 2"):
        assert f"\n{row} " in printed
    for name in ("convergence.png", "training.png", "spectra.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_kfac_in_twenty_lines_learns():
    printed = run_example("kfac_in_twenty_lines.py")
    assert float(printed.split()[-1]) > 0.95


# -- the pages that the documentation runs -------------------------------------------------------


@pytest.fixture
def run_page(monkeypatch):
    """The names that a page leaves behind, for a problem of the size given."""
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")

    def run(name: str, *size: int) -> dict:
        monkeypatch.setattr(sys, "argv", [name, *map(str, size)])
        return runpy.run_path(str(ROOT / "docs" / "examples" / name))

    yield run
    pyplot.close("all")


def test_gaussian_process_fits_and_knows_how_well(run_page, capsys):
    pytest.importorskip("torch", reason="torch is not installed")
    names = run_page("gaussian_process.py", 70, 80)
    fit, clear, likelihood = names["fit"], names["clear"], names["negative_log_likelihood"]
    assert fit.success and np.abs(fit.jac).max() < 1e-3
    # The likelihood is that of the matrix, and the gradient its derivative.
    dense = names["covariance"](names["torch"].tensor(fit.x), clear.shape).to_dense().numpy()
    dense += names["noise"] ** 2 * np.eye(len(dense))
    y = clear.numpy().ravel()
    expected = y @ np.linalg.solve(dense, y) + np.linalg.slogdet(dense)[1]
    assert fit.fun == pytest.approx(0.5 * (expected / y.size + np.log(2 * np.pi)), rel=1e-8)
    start = names["start"]
    slopes = central_difference(lambda theta: likelihood(theta)[0], start)
    np.testing.assert_allclose(likelihood(start)[1], slopes, rtol=1e-5, atol=1e-7)
    # Gaps are filled to a fraction of the relief, and the truth is where the draws are.
    error = np.sqrt(np.mean(names["errors"]["Gaussian process"] ** 2))
    assert error < 0.4 * np.std(names["truth"][names["clouds"]])
    assert 0.6 < np.mean(names["inside"][names["clouds"]]) < 0.95
    seen = names["seen"]
    assert np.sqrt(np.mean((names["filled"] - names["truth"])[seen] ** 2)) < 2 * names["noise"]
    assert "between the draws" in capsys.readouterr().out


def test_image_is_sharper_than_it_was_and_nearly_as_sharp_as_it_can_be(run_page):
    names = run_page("image_deblurring.py", 8)
    truth = names["truth"]
    error = np.sqrt(np.mean((names["restored"](names["best"]) - truth) ** 2))
    assert min(names["errors"]) <= error < 1.2 * min(names["errors"])
    assert error < 0.8 * np.sqrt(np.mean((names["seen"] - truth) ** 2))
    dense, y = names["K"].to_dense(), names["seen"].ravel()
    normal = dense.T @ dense + names["best"] * np.eye(len(y))
    expected = np.linalg.solve(normal, dense.T @ y).reshape(truth.shape)
    np.testing.assert_allclose(names["restored"](names["best"]), expected, atol=1e-8)
    np.testing.assert_allclose(names["again"], expected, atol=1e-8)


def test_series_blocks_are_nearer_than_independent_uses(run_page):
    names = run_page("recurrent_layer.py", 16)
    errors = {name: np.array(values) for name, values in names["errors"].items()}
    assert errors["option 1"][0] < 1e-12 and errors["independent"][0] < 1e-12  # one step
    assert np.all(np.diff(errors["option 2"]) < 0) and np.all(np.diff(errors["independent"]) > 0)
    assert max(errors["option 1"][-1], errors["option 2"][-1]) < 0.5 * errors["independent"][-1]
    # The exact block by its definition, over all pairs of steps.
    moments = [names["A0"], names["G0"]], [names["Psi_A"], names["Psi_G"]]
    block = 0.0
    for t, s in np.ndindex(3, 3):
        pair = [
            np.linalg.matrix_power(psi, abs(t - s)) @ c for c, psi in zip(*moments, strict=True)
        ]
        block += np.kron(*(pair if t >= s else [m.T for m in pair]))
    np.testing.assert_allclose(names["exact"](3), block)


def test_spin_chain_has_the_energy_of_free_fermions(run_page):
    names = run_page("spin_chain.py", 7)
    np.testing.assert_allclose(names["energies"], names["exact"], rtol=1e-10)
    assert names["order"][0] > 0.9 > 0.2 > names["order"][-1]
    assert np.linalg.norm(names["state"]) == pytest.approx(1, abs=1e-12)
    seen = np.array(names["seen"])
    np.testing.assert_allclose(seen, seen[:, ::-1], atol=1e-10)  # the middle one was turned
    # The same evolution by the matrix's exponential, up to the error of the splitting.
    values, vectors = np.linalg.eigh(names["hamiltonian"](names["h"]).to_dense())
    start = np.zeros(2**7)
    start[2**3] = 1.0
    phases = np.exp(-1j * values * len(seen) * names["tau"])
    weights = np.abs(vectors @ (phases * (vectors.T @ start))).reshape((2,) * 7) ** 2
    exact = [np.sum(weights * sign) for sign in names["magnetisation"]]
    np.testing.assert_allclose(seen[-1], exact, atol=0.01)


def test_elliptic_equation_is_preconditioned(run_page):
    names = run_page("elliptic_equation.py", 12)
    counts = {name: len(history.norms) - 1 for name, history in names["histories"].items()}
    assert counts["s L⁻¹ s"] < 20 < counts["L⁻¹"] < counts["Jacobi"] < counts["none"]
    matrix = names["A"].to_dense()
    np.testing.assert_allclose(1 / np.diag(matrix), names["preconditioners"]["Jacobi"].diagonal())
    for solution in names["solutions"].values():
        assert np.linalg.norm(matrix @ solution - 1) < 1e-7 * len(matrix) ** 0.5
    # A lies between the bounds of the coefficient times L.
    low, high = eigvalsh(matrix, names["laplacian"].to_dense())[[0, -1]]
    assert 0.2 < low < high < 5


def test_space_time_covariance_is_preconditioned_by_the_nearest_product(run_page):
    names = run_page("space_time_covariance.py", 8, 30)
    counts = [len(norms) - 1 for norms in names["histories"].values()]
    assert counts[0] == 1
    assert counts == sorted(counts) and counts[-1] < len(names["plain"].norms) / 3
    kept = names["between_stations"](5, 1.0)
    block = names["covariance"](1.0).to_dense().reshape(8, 30, 8, 30)[6, :, 1]
    np.testing.assert_allclose(block, kept, rtol=1e-12)


def test_natural_gradient_is_ahead_of_momentum(run_page):
    pytest.importorskip("torch", reason="torch is not installed")
    names = run_page("natural_gradient.py", 3)
    losses = {name: history[-1, 0] for name, (history, _) in names["results"].items()}
    assert losses["K-FAC"] < 0.7 * losses["momentum"]


def test_laplace_approximation_has_the_covariance_of_the_dense_posterior(run_page):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    names = run_page("laplace_approximation.py", 1500)
    precision = names["posterior"](2.0).to_dense() * names["count"]
    jacobian = names["jacobians"][0]
    expected = jacobian @ torch.linalg.solve(precision, jacobian.T)
    found = names["covariances"](names["jacobians"][:1], 2.0)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    logdet = torch.linalg.slogdet(precision)[1]
    theta = torch.cat([p.flatten() for p in names["parameters"].values()]).detach()
    expected = names["likelihood"] - theta @ theta + (len(theta) * np.log(2.0) - logdet) / 2
    assert names["evidence"](2.0) == pytest.approx(float(expected))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")  # torch's own jvp
def test_influence_functions_foretell_retraining(run_page):
    pytest.importorskip("torch", reason="torch is not installed")
    names = run_page("influence_functions.py", 400, 12)
    found = {name: values[names["out"]].numpy() for name, values in names["found"].items()}
    right = {name: np.corrcoef(values, names["truth"])[0, 1] for name, values in found.items()}
    assert right["the whole Hessian"] > 0.95
    assert right["K-FAC, exact"] > right["gradients alone"]
