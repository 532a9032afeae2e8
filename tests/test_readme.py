"""The code of the README runs as it stands, and computes what the text beside it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## (?P<title>.*)$(?P<text>(?:\n(?!## ).*)*)", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    section["title"]: "\n".join(BLOCK.findall(section["text"]))
    for section in SECTION.finditer(README)
    if BLOCK.search(section["text"])
}


def run(title: str) -> dict:
    """The names that a section's code leaves behind."""
    for name, module in {"PyTorch": "torch", "JAX": "jax"}.items():
        if name in title:
            pytest.importorskip(module, reason=f"{module} is not installed")
    names: dict = {"__name__": "readme"}
    exec(compile(EXAMPLES[title], f"README.md, {title}", "exec"), names)
    return names


def test_all_python_blocks_are_found():
    assert README.count("```python") == len(BLOCK.findall(README)) == len(EXAMPLES)
    titles = {"For K-FAC of a PyTorch model", "For K-FAC of your own arrays"}
    titles |= {"For Gaussian processes", "With SciPy", "With JAX", "With PyTorch"}
    assert set(EXAMPLES) == titles


@pytest.mark.parametrize("title", EXAMPLES)
def test_runs_and_is_short(title):
    run(title)
    assert len(EXAMPLES[title].splitlines()) <= 25


TASKS = ("With SciPy", "For K-FAC of a PyTorch model", "With JAX")


@pytest.mark.parametrize("title", TASKS)
def test_a_newcomer_needs_less_than_ten_lines(title):
    lines = [line for line in EXAMPLES[title].splitlines() if line.strip()]
    assert len(lines) < 10


def test_scipy_solves_with_the_operator():
    names = run("With SciPy")
    assert names["info"] == 0
    rest = names["system"].to_dense() - np.kron(names["A"], names["B"])
    np.testing.assert_allclose(rest, np.diag(np.diag(rest)), atol=1e-12)
    assert np.diag(rest).min() >= 0.1 and np.diag(rest).max() <= 1.0


def test_jax_solves_with_the_same_operator_under_jit():
    names = run("With JAX")
    dense = np.kron(np.eye(30) + 0.1, np.eye(20) + 0.2) + 0.5 * np.eye(600)
    np.testing.assert_allclose(names["x"], np.linalg.solve(dense, np.ones(600)), rtol=1e-4)


def test_kfac_of_a_model_is_a_natural_gradient():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    names = run("For K-FAC of a PyTorch model")
    back = names["F"].multiply(names["step"])
    for name, parameter in names["model"].named_parameters():
        torch.testing.assert_close(back[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_kfac_step_solves_the_damped_system():
    names = run("For K-FAC of your own arrays")
    back = names["F"].multiply(names["step"])
    for layer, (weights, bias) in names["gradient"].items():
        np.testing.assert_allclose(back[layer][0], weights, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(back[layer][1], bias, rtol=1e-9, atol=1e-9)


def test_gaussian_process_fits():
    names = run("For Gaussian processes")
    assert names["prior"].shape == (120_000, 120_000)
    np.testing.assert_allclose(names["observed"].multiply(names["alpha"]), names["y"], atol=1e-8)
    expected = np.sin(6 * names["new_place"])[:, None] * np.cos(9 * names["new_time"])
    np.testing.assert_allclose(names["mean"], expected, atol=0.02)


def test_gradients_are_those_of_the_matrix():
    names = run("With PyTorch")
    import torch

    scale, noise, points, y = (names[name] for name in ("scale", "noise", "points", "y"))
    kernel = torch.exp(-(((points[:, None] - points) / scale) ** 2))
    dense = torch.kron(kernel, kernel) + noise * torch.eye(900, dtype=y.dtype)
    flat = y.reshape(-1)
    loss = 0.5 * (flat @ torch.linalg.solve(dense, flat) + torch.logdet(dense))
    for got, want in zip((scale, noise), torch.autograd.grad(loss, (scale, noise)), strict=True):
        torch.testing.assert_close(got.grad, want, rtol=1e-6, atol=0)


def test_the_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_links_to_files_resolve():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert "docs/_static/structure.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []
