"""What docs/inventories.py writes is what Sphinx reads; and it tells where a project differs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "docs"))
inventories = pytest.importorskip("inventories", reason="Sphinx is not installed")


@pytest.fixture
def served(tmp_path):
    """A project as it might be found online, in a folder."""
    project = inventories.projects()["scipy"]
    (tmp_path / "objects.inv").write_bytes(inventories.inventory("scipy", project))
    return project, tmp_path.as_uri() + "/"


def test_sphinx_reads_what_is_written(served):
    assert inventories.differences(*served) == []


def test_a_name_that_moved_is_told(served):
    project, url = served
    moved = project | {"page": "elsewhere/{name}.html", "function": ["scipy.linalg.toeplitz"]}
    (line, *others) = inventories.differences(moved, url)
    assert line.startswith("function scipy.linalg.toeplitz is at ")
    assert all("LinearOperator" in other for other in others)


def test_a_name_that_is_gone_is_told(served):
    project, url = served
    known = {"function": ["scipy.no.such"]}
    assert inventories.differences(project | known, url) == ["no function scipy.no.such"]


def test_links_lead_to_the_projects(site):
    text = (site / "generated" / "kronops.linalg.cg.html").read_text(encoding="utf-8")
    place = "https://docs.scipy.org/doc/scipy/reference/generated/scipy.sparse.linalg.cg.html"
    assert f'href="{place}#scipy.sparse.linalg.cg"' in text
