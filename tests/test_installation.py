"""What is said of an installation, and of one that is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

import pytest

import kronops
from kronops import __main__ as command
from kronops import installation


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kronops"])


def test_versions_are_those_of_the_distributions(capsys):
    kronops.show_versions()
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["kronops"].strip() == kronops.__version__
    for name in ("numpy", "scipy", "array-api-compat"):
        assert said[name].strip() == importlib.metadata.version(name)
    assert said["Python"].startswith(sys.version.split()[0])


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setitem(installation._LIBRARIES, "jax", ("no-such-distribution",))
    kronops.show_versions()
    assert "jax               not installed\n" in capsys.readouterr().out


def test_every_library_that_is_installed_works(capsys):
    assert command.main() == 0
    checked = [line.split() for line in capsys.readouterr().out.splitlines() if "ok" in line]
    assert ["numpy", "cpu", "ok"] in checked
    for library in ("torch", "jax", "dask"):
        if importlib.util.find_spec(library):
            assert any(words[0] == library for words in checked)


def test_a_broken_library_does_not_keep_others_from_being_checked(monkeypatch, capsys):
    monkeypatch.setattr(installation, "_LIBRARIES", {"no_such_library": ("numpy",)})
    assert command.main() == 1
    said = capsys.readouterr().out
    assert "numpy cpu         ok\n" in said
    assert "no array library called 'no_such_library' can be imported" in said


@pytest.mark.parametrize("method, what", [("multiply", "product, solve"), ("logdet", "logdet")])
def test_a_wrong_number_is_found(monkeypatch, method, what):
    plain = getattr(kronops.LinearOperator, method)
    monkeypatch.setattr(kronops.LinearOperator, method, lambda op, *args: 1.001 * plain(op, *args))
    first = next(iter(installation.checks()))
    assert first == ("numpy", "cpu", f"wrong: {what}")
