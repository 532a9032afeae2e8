"""Mutate modules, one place at a time; show which mutants their nearest tests do not notice.

    python tests/mutants.py kronops/damping.py [--sample 100] [--seed 0]

The mutants are those of ``cosmic-ray`` but for those in annotations, which change nothing. Each is
tested in a fork of one process that has imported the libraries, in a copy of the project. What
survives is in docs/mutants.md, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The tests that know a module best, the quickest first: seconds, for every mutant runs them.
NEAREST = {
    "kronops/checks.py": ["test_checks", "test_errors"],
    "kronops/damping.py": ["test_damping"],
    "kronops/scaling.py": ["test_scales", "test_checks", "test_errors", "test_algebra"],
    "kronops/spectrum.py": ["test_functions", "test_errors", "test_algebra"],
    "kronops/series_sums.py": ["test_series", "test_checks"],
    "kronops/planning.py": ["test_planning", "test_products", "test_costs"],
    "kronops/factor_products.py": ["test_planning", "test_products", "test_scales"],
    "kronops/backends/tiles.py": ["test_products", "test_planning"],
}
PRELOADED = ("numpy", "scipy.linalg", "scipy.sparse.linalg", "jax", "torch", "pytest")
SLOWER = 5  # a mutant that takes so many times as long as the sound module is killed


def main(arguments: list[str]) -> int:
    """Test the mutants of every module named; the exit status is the number of survivors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=list(NEAREST))
    parser.add_argument("--sample", type=int, help="so many mutants of each module, drawn by seed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return sum(survivors(module, options.sample, options.seed) for module in options.modules)


def survivors(module: str, sample: int | None, seed: int) -> int:
    """Print those of one module, and its score."""
    source = (ROOT / module).read_text()
    made = list(mutants(ROOT / module))
    total = len(made)
    if sample is not None and sample < total:
        made = random.Random(seed).sample(made, sample)
    alive = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kronops"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "_build"))
        tests = [f"tests/{name}.py" for name in NEAREST[module]]
        tests += [module] if ">>>" in source else []
        before = time.monotonic()
        if not passes(copy, tests, timeout=600):
            raise SystemExit(f"{module}: its nearest tests fail without any mutant")
        timeout = SLOWER * (time.monotonic() - before)
        for mutant in made:
            (copy / module).write_text(mutant)
            if passes(copy, tests, timeout):
                alive += 1
                lines = difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0)
                print("SURVIVED", module, *list(lines)[2:], sep="\n    ", flush=True)
    print(f"{module}: {len(made) - alive} of {len(made)} killed, of {total} mutants", flush=True)
    return alive


def mutants(path: Path) -> Iterator[str]:
    """The sources of every mutant that is another program than those before it."""
    from cosmic_ray.commands.init import _all_work_items
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = path.read_text()
    seen = {program(source)}
    for item in _all_work_items([path], {}):
        (mutation,) = item.mutations
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        mutant = mutate_code(source, operator, mutation.occurrence)
        if mutant is not None and program(mutant) not in seen:
            seen.add(program(mutant))
            yield mutant


def program(source: str) -> str:
    """What the source does: its syntax tree without annotations, which nothing evaluates."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return "none"
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("object")
    return ast.dump(tree)


def passes(copy: Path, tests: list[str], timeout: float) -> bool:
    """Whether the tests pass in a fork; not if it takes longer than ``timeout`` seconds."""
    child = os.fork()
    if not child:
        run_tests(copy, tests)
    limit = time.monotonic() + timeout
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def run_tests(copy: Path, tests: list[str]) -> None:
    """Run pytest in this process, which ends with its exit status."""
    import pytest

    status = 1
    try:
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True  # of a mutant it would serve the next one too
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]))
    finally:
        os._exit(status)


if __name__ == "__main__":
    raise SystemExit(min(main(sys.argv[1:]), 255))
