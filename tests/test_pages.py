"""The pages about array libraries: their code runs, and their table is of the operations that are.

Blocks marked ``python`` need a library that may be missing; ``pycon`` blocks are doctests.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")
# Other pages with such blocks: they run whole, and that is all that is asked of them.
OTHERS = {"get_started/jax.md": "jax", "get_started/pytorch.md": "torch", "howto/jit.md": "jax"}
BLOCKS = {
    library: re.search(rf"^## {library}$.*?^```python\n(.*?)^```$", PAGE, re.M | re.S)[1]
    for library in ("JAX", "PyTorch")
}


def run(library: str) -> dict:
    names: dict = {"__name__": "page"}
    exec(compile(BLOCKS[library], f"docs/libraries.md, {library}", "exec"), names)
    return names


def test_jax():
    pytest.importorskip("jax", reason="jax is not installed")
    names = run("JAX")
    function = names["negative_log_likelihood"]
    step, scales, noise = 1e-2, np.asarray([0.2, 0.1]), 0.1
    rest = names["x"], names["y"], names["values"]
    slope = (function(scales, noise + step, *rest) - function(scales, noise - step, *rest)) / 0.02
    np.testing.assert_allclose(names["by_noise"], slope, rtol=0.05)
    assert np.all(np.isfinite(names["by_scales"]))


def test_pytorch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    names = run("PyTorch")
    a, b, noise = names["A"], names["B"], names["noise"]
    gradients = [array.grad for array in (a, b, noise)]
    dense = torch.kron(a @ a.T, b @ b.T) + noise * torch.eye(12, dtype=a.dtype)
    value = names["b"] @ torch.linalg.solve(dense, names["b"]) + torch.logdet(dense)
    for got, want in zip(gradients, torch.autograd.grad(value, (a, b, noise)), strict=True):
        torch.testing.assert_close(got, want)


def test_kfac_of_a_pytorch_model():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    page = (ROOT / "docs" / "kfac_pytorch.md").read_text(encoding="utf-8")
    names: dict = {"__name__": "page"}
    with torch.random.fork_rng():
        for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
            exec(compile(block, "docs/kfac_pytorch.md", "exec"), names)
    assert names["loss"] < 0.3
    assert names["posterior"].domain_shape.keys() == names["ekfac"].domain_shape.keys()
    assert names["curvature"].unknown == {"1.weight": "PReLU has no rule"}
    whole, merged = names["whole"].operator(0.1), names["merged"].operator(0.1)
    assert set(whole.domain_shape) == {(f"{i}.weight", f"{i}.bias") for i in (0, 2)}
    torch.testing.assert_close(whole.logdet(), merged.logdet())


def test_kfac_of_a_jax_function():
    jnp = pytest.importorskip("jax.numpy", reason="jax is not installed")
    page = (ROOT / "docs" / "kfac_jax.md").read_text(encoding="utf-8")
    names: dict = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
        exec(compile(block, "docs/kfac_jax.md", "exec"), names)
    assert names["loss"] < 0.3
    assert set(names["posterior"].operator.names) == set(names["ekfac"].operator.names)
    right = jnp.argmax(names["model"](names["params"], names["x"]), axis=1) == names["y"]
    assert float(jnp.mean(right)) > 0.9


def test_no_page_with_code_is_forgotten():
    """Each is named by the test that runs it, here or in another file."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert OTHERS.keys() <= {page.as_posix() for page in pages}
    assert [
        page
        for page in pages
        if not {"generated", "_build", "coming_from"} & set(page.parts)
        if re.search(r"^```python$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.M)
        if f'"{page.as_posix()}"' not in tests and f'"docs" / "{page.name}"' not in tests
    ] == []


@pytest.mark.parametrize("page", OTHERS)
def test_other_pages_run(page):
    pytest.importorskip(OTHERS[page], reason=f"{OTHERS[page]} is not installed")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names: dict = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        exec(compile(block, f"docs/{page}", "exec"), names)


def test_the_table_is_of_the_operations_that_are():
    source = (ROOT / "benchmarks" / "operations.py").read_text(encoding="utf-8")
    operations = re.search(r"^OPERATIONS.*?^}", source, re.M | re.S)[0]
    names = re.findall(r'^    "(.*?)": lambda', operations, re.M)
    table = re.search(r"<!-- tables -->(.*?)<!-- end of tables -->", PAGE, re.S)[1]
    rows = re.findall(r"^\| (.*?) \|", table, re.M)
    assert len(names) > 30
    assert [row for row in rows if row in names][: len(names)] == names
