"""The pages for those who come from another library: both columns run, and give the same numbers.

A page is a sequence of code: blocks for both columns, and pairs, one of the other library and one
of ours. After each pair every number that both columns have under one name is compared.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "coming_from").glob("*.md"))
# What the other column imports. None: it cannot be run, and its page says so.
NEEDS = {
    "cola": "cola",
    "curvlinops": "curvlinops",
    "kfac_jax": None,
    "linear_operator": "linear_operator",
    "pykronecker": "pykronecker",
    "pylops": "pylops",
    "scipy": "scipy",
    "tensorflow_kfac": None,
}
OURS = {"curvlinops": "torch", "kfac_jax": "jax", "linear_operator": "torch", "cola": "torch"}
OURS |= {"pylops": "pylops"}  # that page ends with both in one program
BLOCK = re.compile(
    r"^```(?:python|\{code-block\} python\n:caption: (?P<caption>[^\n]+)\n)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: str) -> list[tuple[str | None, str]]:
    """Who each block of code belongs to, and the code."""
    text = (ROOT / "docs" / "coming_from" / f"{page}.md").read_text(encoding="utf-8")
    found = [(match["caption"], match["code"]) for match in BLOCK.finditer(text)]
    assert len(found) == len(re.findall(r"^```(?:python|\{code-block\})", text, re.MULTILINE))
    return found


def run(page: str, both: bool) -> int:
    """Run a page's code, and compare the columns if both run; how many numbers were compared."""
    shared: dict = {"__name__": "page"}
    ours, theirs = dict(shared), dict(shared)
    compared = 0
    for caption, code in blocks(page):
        compiled = compile(code, f"docs/coming_from/{page}.md", "exec")
        if caption in (None, "kronops"):
            exec(compiled, ours)
        if both and caption != "kronops":
            exec(compiled, theirs)
        if both and caption == "kronops":
            compared += compare(ours, theirs)
    return compared


def compare(ours: dict, theirs: dict) -> int:
    """Every number, array, or list of arrays that both have must agree."""
    both = [name for name in ours.keys() & theirs.keys() if is_number(ours[name])]
    for name in both:
        one, other = as_list(ours[name]), as_list(theirs[name])
        assert len(one) == len(other), name
        for a, b in zip(one, other, strict=True):
            assert close(a, b), f"{name}: {a} is not {b}"
    return len(both)


def is_number(value: object) -> bool:
    return all(
        isinstance(v, (float, int)) or (hasattr(v, "__array__") and not hasattr(v, "matvec"))
        for v in as_list(value)
    )


def as_list(value: object) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def close(a: object, b: object) -> bool:
    """To the precision of the worse: PyKronecker computes in single precision where JAX is."""
    import numpy as np

    a, b = (np.asarray(v.detach() if hasattr(v, "detach") else v) for v in (a, b))
    single = np.float32 in (a.dtype, b.dtype)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-3 if single else 1e-6, atol=1e-4)


def test_every_page_is_known():
    assert {path.stem for path in PAGES} == NEEDS.keys() | {"index"}


@pytest.mark.parametrize("page", NEEDS)
def test_both_columns_agree(page):
    """In a process of its own: some of these libraries change settings when they are imported."""
    pytest.importorskip(OURS.get(page, "numpy"), exc_type=ImportError)
    peer = NEEDS[page]
    if peer is None:
        both = False
        assert "could not be run where this page was made" in " ".join(
            (ROOT / "docs" / "coming_from" / f"{page}.md").read_text(encoding="utf-8").split()
        )
    else:
        from importlib.util import find_spec

        both = find_spec(peer) is not None
    done = subprocess.run(
        [sys.executable, __file__, page, "both" if both else "ours"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if peer is not None and not both:
        pytest.skip(f"{peer} is not installed: only kronops' column was run")


if __name__ == "__main__":
    compared = run(sys.argv[1], sys.argv[2] == "both")
    assert compared > 4 or sys.argv[2] == "ours", "nothing was compared"
    print(compared)
