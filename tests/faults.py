"""Plant each fault of `faults.toml` in a copy of the project; show that the suite fails on it.

    python tests/faults.py [words of a fault's name ...]

A fault is one replacement in one file, and is caught when any test fails that passes without it. On
every fault the tests named by its ``first`` are run, then the rest of the suite on those that have
passed these: it takes a hundred times as long. Each run is a fork of a process that has imported
the libraries, but not kronops.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKERS = os.cpu_count() or 1
PRELOADED = ("numpy", "scipy.sparse.linalg", "hypothesis", "jax", "torch", "dask.array")
# What a fault in the mathematics cannot break, and what fails on every fault: its `old` is gone.
NOT_RUN = ("test_examples.py", "test_package.py", "test_faults.py")
OPTIONS = ("-x", "-q", "--tb=no", "--assert=plain", "-pno:cacheprovider")
LEFT_OUT = shutil.ignore_patterns(".*", "demo-output", "_build")
LONGEST = 3600  # seconds after which a fault whose tests do not end is caught


def main(words: list[str]) -> int:
    """Run the faults whose names contain all ``words``; the exit status is the number missed."""
    begin = time.monotonic()
    faults = [fault for fault in all_faults() if all(word in fault["name"] for word in words)]
    prepare()
    caught: dict[str, str] = {}
    for tests in first_tests, rest_of_suite:
        left = [fault for fault in faults if fault["name"] not in caught]
        for fault, failed in run_all((fault, tests(fault)) for fault in left if tests(fault)):
            print(f"{'caught' if failed else 'passed'}  {fault['name']}  {failed}", flush=True)
            if failed:
                caught[fault["name"]] = failed
    noticed = sorted({name for name in caught.values() if name.startswith("tests")})
    for _, failed in run_all([({}, noticed)] if noticed else []):
        if failed:
            raise SystemExit(f"{failed} fails without any fault")
    for name in {fault["name"] for fault in faults} - set(caught):
        print(f"MISSED  {name}")
    minutes = (time.monotonic() - begin) / 60
    print(f"{len(caught)} of {len(faults)} faults caught in {minutes:.0f} minutes")
    return len(faults) - len(caught)


def all_faults() -> list[dict]:
    """Those of every ``faults.toml``."""
    lists = sorted((ROOT / "tests").rglob("faults.toml"))
    return [fault for path in lists for fault in tomllib.loads(path.read_text())["fault"]]


def first_tests(fault: dict) -> list[str]:
    """Those that know best what the fault breaks."""
    return [f"tests/{name}" for name in fault.get("first", [])]


def rest_of_suite(fault: dict) -> list[str]:
    """The others that may notice."""
    files = [f"tests/{path.name}" for path in sorted((ROOT / "tests").glob("test_*.py"))]
    return [name for name in [*files, "tests/kfac"] if not name.endswith(NOT_RUN)]


def prepare() -> None:
    """Import what every run needs; one thread each, as many run at once."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    sys.dont_write_bytecode = True  # that of a fault would serve the next one, too
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.path.remove(str(Path(__file__).parent))
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    warnings.simplefilter("ignore")  # JAX advises against forks


def run_all(jobs: Iterable[tuple[dict, list[str]]]) -> Iterator[tuple[dict, str]]:
    """Each fault and the first of the tests that fails on it, or ``""``, as they come to an end."""
    waiting, running = list(jobs)[::-1], {}
    with tempfile.TemporaryDirectory() as folder:
        free = [Path(folder) / str(worker) for worker in range(WORKERS)]
        for copy in free:
            shutil.copytree(
                ROOT, copy, ignore=shutil.ignore_patterns(".*", "demo-output", "_build")
            )
        while waiting or running:
            if waiting and free:
                (fault, tests), copy = waiting.pop(), free.pop()
                if fault:
                    plant(copy / fault["file"], fault["old"], fault["new"], copy / "sound")
                running[start(copy, tests)] = fault, copy
            else:
                child, status = os.wait()
                fault, copy = running.pop(child)
                if fault:
                    (copy / "sound").rename(copy / fault["file"])
                free.append(copy)
                status = os.waitstatus_to_exitcode(status)
                yield fault, verdict(fault.get("name"), copy / "failed", status)


def plant(path: Path, old: str, new: str, sound: Path) -> None:
    """Replace the one occurrence of ``old``; the file as it was is kept as ``sound``."""
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{path.name} has {text.count(old)} occurrences of {old!r}, one is needed")
    path.rename(sound)
    path.write_text(text.replace(old, new))


def start(copy: Path, tests: list[str]) -> int:
    """The process that runs the tests of a copy."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.alarm(LONGEST)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path.insert(0, str(copy))
        with open(os.devnull, "w") as nothing:
            for stream in 1, 2:
                os.dup2(nothing.fileno(), stream)
        status = pytest.main([*OPTIONS, *tests], plugins=[FirstFailure(copy / "failed")])
    finally:
        os._exit(status)


class FirstFailure:
    """A plugin of pytest that writes down which test, or file of tests, fails first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport


def verdict(name: str | None, failed: Path, status: int) -> str:
    """What a process noted; ``""`` if its tests passed."""
    if status < 0:
        failed.unlink(missing_ok=True)
        return "they do not end" if -status == signal.SIGALRM else "the interpreter crashes"
    if failed.exists():
        test = failed.read_text()
        failed.unlink()
        return test
    if status:
        raise SystemExit(f"{name}: {pytest.ExitCode(status)!r} of pytest, and no test failed")
    return ""


if __name__ == "__main__":
    raise SystemExit(min(main(sys.argv[1:]), 255))
