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
    if "PyTorch" in title:
        pytest.importorskip("torch", reason="torch is not installed")
    names: dict = {"__name__": "readme"}
    exec(compile(EXAMPLES[title], f"README.md, {title}", "exec"), names)
    return names


def test_all_python_blocks_are_found():
    assert README.count("```python") == len(BLOCK.findall(README)) == len(EXAMPLES)
    titles = {"For K-FAC of a PyTorch model", "For K-FAC of your own arrays"}
    titles |= {"For Gaussian processes", "With SciPy", "With PyTorch and JAX"}
    assert set(EXAMPLES) == titles


@pytest.mark.parametrize("title", EXAMPLES)
def test_runs_and_is_short(title):
    run(title)
    assert len(EXAMPLES[title].splitlines()) <= 25


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
    names = run("With PyTorch and JAX")
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
