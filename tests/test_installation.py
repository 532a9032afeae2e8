"""What is said of an installation, and of one that is broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

import kronops
from kronops import __main__ as command
from kronops import installation
from kronops.bench import command as bench
from kronops.bench.peers import PEERS, Peer, kronops_product


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kronops"])


def test_versions_are_those_of_the_distributions(capsys):
    kronops.show_versions()
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["kronops"].strip() == kronops.__version__
    for name in ("numpy", "scipy", "array-api-compat"):
        assert said[name].strip() == importlib.metadata.version(name)
    assert "distributed" in said
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


class TestBench:
    """``python -m kronops bench``, of tiny products and of peers that are known."""

    @pytest.fixture
    def said(self, monkeypatch, capsys):
        liar = Peer("liar", (), lambda *given: lambda: 1.001 * kronops_product(*given)())
        absent = Peer("absent", ("no-such-distribution",), None)
        plain = [peer for peer in PEERS if peer.name == "NumPy matmul"]
        monkeypatch.setattr(bench, "_SIZES", ((2, 3), (70, 70)))
        monkeypatch.setattr(bench, "PEERS", (*plain, liar, absent))
        monkeypatch.setattr(bench, "_MORE", bench._MORE[2:])
        monkeypatch.setattr(sys, "argv", ["kronops", "bench", "--seconds", "0"])
        assert command.main() == 0
        return capsys.readouterr().out

    def test_the_table(self, said):
        rows = {line[:22].strip(): line[22:].split() for line in said.splitlines() if line}
        assert rows[""] == ["2,3", "70^2"]
        assert rows["kronops"][1::2] == ["µs", "µs"]
        assert all(float(ratio) > 0 for ratio in rows["NumPy matmul"])
        ratio, formed = rows["NumPy kron, formed"]
        assert float(ratio) > 0 and formed == "–"
        assert not {"liar", "absent"} & rows.keys()

    def test_what_is_left_out_is_said(self, said):
        assert "– liar, 2,3, 70^2: wrong answer\n" in said
        assert "– NumPy kron, formed, 70^2: the matrix would be too large\n" in said
        assert said.endswith("Not installed: no-such-distribution\n")

    def test_it_imports_no_peer_before_it_is_asked(self):
        code = "import sys, kronops.__main__; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        loaded = {name.partition(".")[0] for name in done.stdout.split()}
        assert "kronops" in loaded
        assert not loaded & {"torch", "jax", "cola", "pylops", "linear_operator", "pykronecker"}
