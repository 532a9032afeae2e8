"""Blocks of all layers against the exact Fisher block: equal where theory says so, and not else."""

from __future__ import annotations

import re
from pathlib import Path

import fisher_blocks
import pytest

import kronops.kfac
from kronops.kfac import Estimator

ROOT = Path(__file__).resolve().parent.parent
CASES = list(fisher_blocks.cases(examples=9, seed=1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_theory_says(case):
    assert case.theory in ("equal", "differs")
    assert (case.distance() < 1e-12) == (case.theory == "equal")


def test_every_layer_has_a_case():
    public = {getattr(kronops.kfac, name) for name in kronops.kfac.__all__}
    layers = {value for value in public if isinstance(value, type) and issubclass(value, Estimator)}
    assert {type(case.layer) for case in CASES} == layers - {Estimator}


def test_the_page_has_every_case():
    page = (ROOT / "docs" / "concepts" / "fisher_blocks.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- table -->(.*?)<!-- end of table -->", page, re.S)[1]
    rows = re.findall(r"^\| (.*?) \| (equal|differs) \|", table, re.M)
    assert rows == [(case.name, case.theory) for case in CASES]
