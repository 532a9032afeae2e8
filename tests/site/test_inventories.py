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


def test_every_name_is_linked_to_and_leads_to_its_project(site):
    pages = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.html"))
    places = {
        f"{project['url']}{place}"
        for project in inventories.projects().values()
        for _, _, place in inventories.entries(project)
    }
    assert len(places) > 20
    assert [place for place in places if f'href="{place}"' not in pages] == []
