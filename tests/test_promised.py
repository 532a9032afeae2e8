"""docs/promises.md names tests for every promise, and these tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"tests/[\w/]+\.py(?:::\w+)?", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_named_tests_exist(name):
    path, _, test = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert not test or test in defined
    assert any(made.lower().startswith("test") for made in defined)


def test_each_promise_of_the_contract_has_its_section():
    sections = re.findall(r"^## (\d)\. .*?(?=^## |\Z)", PAGE, re.M | re.S)
    assert sections == list("12345678")
    for text in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        assert re.search(r"tests/\w+\.py", text), text.splitlines()[0]
