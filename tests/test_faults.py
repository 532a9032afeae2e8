"""The planted faults fit the project as it is: lines that move take their faults along."""

from __future__ import annotations

import collections
import re

from faults import ROOT, all_faults

FAULTS = all_faults()


def test_names_are_of_one_fault_each():
    counts = collections.Counter(fault["name"] for fault in FAULTS)
    assert [name for name, count in counts.items() if count > 1] == []


def test_each_replaces_text_that_occurs_once():
    texts = {file: (ROOT / file).read_text() for file in {fault["file"] for fault in FAULTS}}
    counts = {fault["name"]: texts[fault["file"]].count(fault["old"]) for fault in FAULTS}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_each_changes_its_file():
    assert [fault["name"] for fault in FAULTS if fault["old"] == fault["new"]] == []


def test_the_tests_that_run_first_exist():
    for name in sorted({name for fault in FAULTS for name in fault.get("first", [])}):
        file, *parts = name.partition("[")[0].split("::")
        path = ROOT / "tests" / file
        assert path.exists(), name
        for part in parts:
            assert re.search(rf"^ *(def|class) {part}\b", path.read_text(), re.MULTILINE), name
