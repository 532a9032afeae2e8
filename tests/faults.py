"""Plant each fault of `faults.toml` in a copy of the project; show that the suite fails on it.

    python tests/faults.py [words of a fault's name ...]

A fault is one replacement in one file. The files of tests named by ``first`` run before the rest of
the suite, to save time; a fault counts as caught when any test fails.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKERS = os.cpu_count() or 1
# What a fault in the mathematics cannot break, and what fails on every fault: its `old` is gone.
NOT_RUN = ("test_examples.py", "test_package.py", "test_faults.py")
PYTEST = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"]


def main(words: list[str]) -> int:
    """Run the faults whose names contain all ``words``; the exit status is the number missed."""
    faults = [fault for fault in all_faults() if all(word in fault["name"] for word in words)]
    sound = run({"name": "none"})
    if sound:
        raise SystemExit(f"the suite fails without any fault, on {sound}")
    caught = 0
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        for fault, verdict in zip(faults, pool.map(run, faults), strict=True):
            caught += verdict is not None
            result = "caught" if verdict else "MISSED"
            print(f"{result}  {fault['name']}  {verdict or ''}", flush=True)
    print(f"{caught} of {len(faults)} faults caught")
    return len(faults) - caught


def all_faults() -> list[dict]:
    """Those of every ``faults.toml``."""
    lists = sorted((ROOT / "tests").rglob("faults.toml"))
    return [fault for path in lists for fault in tomllib.loads(path.read_text())["fault"]]


def run(fault: dict) -> str | None:
    """The test that fails on ``fault``, or None if the suite passes."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kronops"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "demo-output", "_build"))
        if "file" in fault:
            plant(copy / fault["file"], fault["old"], fault["new"])
        for tests in ([f"tests/{name}" for name in fault.get("first", [])], ["tests"]):
            failure = run_tests(copy, tests) if tests else None
            if failure:
                return failure
    return None


def plant(path: Path, old: str, new: str) -> None:
    """Replace the one occurrence of ``old``."""
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{path.name} has {text.count(old)} occurrences of {old!r}, one is needed")
    path.write_text(text.replace(old, new))


def run_tests(copy: Path, tests: list[str]) -> str | None:
    """The first failing test, or None."""
    ignored = [f"--ignore=tests/{name}" for name in NOT_RUN]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*PYTEST, *ignored, *tests], cwd=copy, env=environment, capture_output=True, text=True
    )
    if done.returncode < 0:
        return "the interpreter crashes"
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
