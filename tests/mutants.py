"""Mutate modules, one place at a time; show which mutants their nearest tests do not notice.

    python tests/mutants.py kronops/damping.py [--sample 100] [--seed 0]

The mutants are those of ``cosmic-ray`` but for those in annotations, which change nothing, and in
models of time, which change no result. pytest starts once, imports everything, and sees which tests
call which functions. Each mutant is then a fork in which the code of its functions is replaced; the
tests that call them are run, those first that noticed most mutants before. What survives is in
docs/mutants.md, or a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import dataclasses
import difflib
import functools
import gc
import importlib
import importlib.machinery
import inspect
import os
import pickle
import random
import resource
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
# The tests that know a module best, for a mutant that survives runs all of those that it concerns.
NEAREST = {
    "kronops/checks.py": ["test_checks.py", "test_errors.py"],
    "kronops/damping.py": ["test_damping.py"],
    "kronops/factorisation.py": [
        "test_inverses.py", "test_scales.py", "test_single_precision.py",
        *(f"test_refine.py::TestIllConditioned::{test}" for test in (
            "test_of_many_rows", "test_whatever_the_units_of_rows_and_columns",
            "test_well_conditioned_ones_are_as_the_factors_give_them",
            "test_the_cost_is_said_and_many_columns_are_taken_a_few_at_a_time",
            *(f"test_solves_lose_digits_twice_as_late[{adjoint}-{kind}-numpy]"
              for adjoint in (False, True) for kind in ("definite", "general", "complex")),
        )),
    ],
    "kronops/scaling.py": ["test_checks.py", "test_scales.py"],
    "kronops/spectrum.py": ["test_spectrum.py"],
    "kronops/series_sums.py": ["test_checks.py", "test_series.py"],
    "kronops/planning.py": ["test_planning.py"],
    "kronops/factor_products.py": [
        "test_scales.py", "test_explain.py", "test_products.py::TestRange",
        "test_products.py::TestScale", "test_products.py::TestMixedDtypes",
        "test_products.py::TestBatches", "test_products.py::TestPrograms",
    ],
    "kronops/vectors.py": ["test_vectors.py"],
    "kronops/operators/series.py": [
        "test_series.py", "test_errors.py::test_refused",
        "test_promises.py::test_series_say_what_is_wrong_with_their_steps_and_signs",
        "test_promises.py::test_moments_that_do_not_belong_together",
        "test_promises.py::test_a_stationary_series_of_norm_above_one_is_infinite",
        "test_promises.py::test_correlations_near_one_solve_what_they_multiply",
        *(f"test_laws.py::test_law[series_option_{option}-numpy-{dtype}-{law}]"
          for option in ("1", "1_unsigned", "2") for dtype in ("float64", "complex64")
          for law in ("shape_and_dtype", "products", "inverses", "numbers", "samples", "one_line")),
        "test_laws.py::test_law[series_option_2-array_api_strict-complex128-inverses]",
    ],
    "kronops/backends/pieces.py": ["test_pieces.py"],
    "kronops/backends/tiles.py": ["test_tiles.py"],
}  # fmt: skip
COMPILED = "kronops/backends/tiles.py"
MODELS_OF_TIME = {"kronops/planning.py": {"_sweep_seconds.", "_seconds.", "_rate.", "_round_up."}}
PRELOADED = ("numpy", "scipy.linalg", "scipy.sparse.linalg", "jax", "torch")
OPTIONS = ("-x", "--tb=no", "--assert=plain", "-pno:cacheprovider")
SLOWER = 5  # a mutant for which a test takes so many times as long is killed
LONGEST = 600  # seconds by the clock after which a mutant that waits is killed
MEMORY = 2**32  # bytes that a mutant may take beside what is there
NOBODY = -1
SAID = os.fdopen(os.dup(1), "w")  # while pytest is silent


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A source, and the code of functions that is not the sound one; None if more is not."""

    source: str
    functions: tuple[tuple[CodeType, CodeType], ...] | None

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the functions, each with a dot at its end."""
        return tuple(f"{sound.co_qualname}." for sound, _ in self.functions or ())

    def concerns(self, called: set[str]) -> bool:
        """Whether one of the functions called is among those that differ, or inside of them."""
        return any(f"{name}.".startswith(self.names) for name in called)


def main(arguments: list[str]) -> int:
    """Test the mutants of every module named; the exit status is the number of survivors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=list(NEAREST))
    parser.add_argument("--sample", type=int, help="so many mutants of each module, drawn by seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--of",
        action="append",
        metavar="NAME",
        help="of this function or class, and others so named",
    )
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True  # that of a mutant would serve the next one, too
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # the first failure is enough
    hypothesis.settings.register_profile("mutants", phases=phases, database=None)
    hypothesis.settings.load_profile("mutants")
    return sum(survivors(module, options) for module in options.modules)


def survivors(module: str, options: argparse.Namespace) -> int:
    """Print those of one module, and its score."""
    made = list(mutants(module))
    if options.of:
        names = tuple(f"{name}." for name in options.of)
        made = [mutant for mutant in made if any(name.startswith(names) for name in mutant.names)]
    total = len(made)
    if options.sample is not None and options.sample < total:
        made = random.Random(options.seed).sample(made, options.sample)
    tests = [str(ROOT / "tests" / name) for name in NEAREST[module]]
    tests += [str(ROOT / module)] if ">>>" in (ROOT / module).read_text() else []
    imported = [mutant for mutant in made if mutant.functions is None]
    alive = sum(survives_import(module, mutant, tests) for mutant in imported)
    alive += in_fork(lambda: Suite(module, made).run(tests))
    print(
        f"{module}: {len(made) - alive} of {len(made)} killed, of {total} mutants",
        file=SAID,
        flush=True,
    )
    return alive


# -- mutants ---------------------------------------------------------------------------------------


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant that is another program than those before it, and no slower or faster one."""
    warnings.simplefilter("error", SyntaxWarning)
    path = ROOT / module
    source = path.read_text()
    lines, sound = source.splitlines(keepends=True), compile(source, path, "exec")
    for node in ast.parse(source).body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        before, after = "".join(lines[: first - 1]), "".join(lines[node.end_lineno :])
        for part in mutants_of("".join(lines[first - 1 : node.end_lineno])):
            try:
                code = compile(before + part + after, path, "exec")
            except SyntaxError:  # also what Python warns of, such as ``is "name"``
                continue
            mutant = Mutant(before + part + after, functions_changed(sound, code))
            if not mutant.names or not set(mutant.names) <= MODELS_OF_TIME.get(module, set()):
                yield mutant


def mutants_of(source: str) -> Iterator[str]:
    """Those of one statement."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.commands.init import _operators
    from cosmic_ray.mutating import mutate_code

    nodes, seen = list(ast_nodes(get_ast(source))), {program(source)}
    for _, _, operator in _operators({}):
        count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        for occurrence in range(count):
            mutant = mutate_code(source, operator, occurrence)
            what = program(mutant)
            if what is not None and what not in seen:
                seen.add(what)
                yield mutant


def program(source: str) -> str | None:
    """What the source does: its syntax tree without annotations, which nothing evaluates."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Name("object")
    return ast.dump(tree)


def functions_changed(
    sound: CodeType, mutant: CodeType
) -> tuple[tuple[CodeType, CodeType], ...] | None:
    """The outermost functions whose code differs; None if what runs on import does, too."""
    if sound == mutant:
        return ()
    if sound.co_flags & inspect.CO_OPTIMIZED:  # a function
        same = sound.co_freevars == mutant.co_freevars
        return ((sound, mutant),) if same else None
    inside, others = nested(sound), nested(mutant)
    if len(inside) != len(others) or itself(sound) != itself(mutant):
        return None
    found = [functions_changed(*pair) for pair in zip(inside, others, strict=True)]
    return None if None in found else sum(found, ())


def nested(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def itself(code: CodeType) -> CodeType:
    """The code without that of functions and classes."""
    rest = [None if isinstance(each, CodeType) else each for each in code.co_consts]
    return code.replace(co_consts=tuple(rest), co_linetable=b"")


# -- tests -----------------------------------------------------------------------------------------


class Suite:
    """A plugin of pytest that runs the tests on mutants of functions, each in a fork."""

    def __init__(self, module: str, made: Sequence[Mutant]) -> None:
        self.source, self.path = (ROOT / module).read_text(), str(ROOT / module)
        self.mutants = [mutant for mutant in made if mutant.functions is not None]
        self.module, self.alive = module, 0
        self.killed: collections.Counter[str] = collections.Counter()

    def run(self, tests: Sequence[str]) -> int:
        """The number of mutants that survive."""
        with silence():
            if status := pytest.main([*OPTIONS, *tests], plugins=[self]):
                raise SystemExit(f"{self.module}: pytest ended with {status!r} before any mutant")
        return self.alive

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the mutants instead of the tests."""
        importlib.import_module(self.module.removesuffix(".py").replace("/", "."))
        keep_nothing_compiled(self.module)
        gc.collect()
        objects = gc.get_objects()
        gc.freeze()  # for a fork copies what its collector touches
        caches = [x for x in objects if type(x) is functools._lru_cache_wrapper]
        self.caches = [x for x in caches if x.__module__.partition(".")[0] == "kronops"]
        functions = [x for x in objects if type(x) is FunctionType]
        self.functions = [x for x in functions if x.__code__.co_filename == self.path]
        self.session = session
        self.calls = in_fork(self.sound)
        for mutant in self.mutants:
            found = self.test(mutant)
            self.killed[found] += 1
            if found == NOBODY:
                self.alive += 1
                show(self.module, self.source, mutant)
        return True

    def test(self, mutant: Mutant) -> int | None:
        """The index of a test that fails, or `NOBODY`; None if none comes to its end."""
        calls = list(range(len(self.calls)))
        if self.module != COMPILED:  # compiled code calls its functions unseen
            calls = [i for i in calls if mutant.concerns(self.calls[i].names)]
        calls.sort(key=lambda i: (-self.killed[i], self.calls[i].seconds))
        return in_fork(lambda: self.noticed(mutant, calls), None)

    def sound(self) -> list[Call]:
        """For each test what it calls, and how long it takes, without any mutant."""
        calls = []
        for item in self.session.items:
            for cache in self.caches:
                cache.cache_clear()
            names: set[str] = set()
            trace = functools.partial(self.trace, names)
            begin = time.process_time()
            threading.settrace(trace)
            sys.settrace(trace)
            failed = self.fails(item)
            sys.settrace(None)
            threading.settrace(None)
            if failed:
                raise SystemExit(f"{item.nodeid} fails without any mutant")
            calls.append(Call(names, time.process_time() - begin))
        return calls

    def trace(self, names: set[str], frame: Any, *_: Any) -> None:
        """Note what is called, for `sys.settrace`."""
        if frame.f_code.co_filename == self.path:
            names.add(frame.f_code.co_qualname)

    def noticed(self, mutant: Mutant, order: Sequence[int]) -> int:
        """Which test fails on the mutant."""
        for function in self.functions:
            for sound, changed in mutant.functions or ():
                code = function.__code__
                names = code.co_qualname, code.co_firstlineno
                if names == (sound.co_qualname, sound.co_firstlineno):
                    function.__code__ = changed
        for cache in self.caches:
            cache.cache_clear()
        for i in order:
            # Of the processor's time. What takes longer ends the process.
            signal.setitimer(signal.ITIMER_PROF, SLOWER * self.calls[i].seconds + 0.5)
            if self.fails(self.session.items[i]):
                return i
        return NOBODY

    def fails(self, item: pytest.Item) -> bool:
        """Whether a test fails; no other has its fixtures, not even those of a class or a file."""
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return self.session.testsfailed > 0


class Call(NamedTuple):
    """What a test calls of the module, and how long it takes."""

    names: set[str]
    seconds: float


def survives_import(module: str, mutant: Mutant, tests: Sequence[str]) -> bool:
    """Whether the tests pass where the mutant is imported in the module's place."""
    plain = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: Any, name: str) -> CodeType | None:
        if loader.path == str(ROOT / module):
            return compile(mutant.source, loader.path, "exec")
        return plain(loader, name)

    def run() -> bool:
        importlib.machinery.SourceFileLoader.get_code = get_code
        keep_nothing_compiled(module)
        with silence():
            return pytest.main([*OPTIONS, *tests]) == 0

    alive = in_fork(run, None)
    if alive:
        show(module, (ROOT / module).read_text(), mutant)
    return bool(alive)


def keep_nothing_compiled(module: str) -> None:
    """What Numba has on disk is of sound code, or of another mutant."""
    if module == COMPILED:
        dispatcher = importlib.import_module("numba.core.dispatcher").Dispatcher
        dispatcher.enable_caching = lambda _: None


def show(module: str, sound: str, mutant: Mutant) -> None:
    differences = difflib.unified_diff(sound.splitlines(), mutant.source.splitlines(), n=0)
    print("SURVIVED", module, *list(differences)[2:], sep="\n    ", file=SAID, flush=True)


def in_fork(function: Callable[[], Any], ended: Any = ...) -> Any:
    """What ``function`` returns in a fork; ``ended`` where that does not come to its end."""
    source, target = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX advises against forks, in tests as an error
        child = os.fork()
    if not child:
        try:
            if ended is not ...:
                bound_memory()
            made = pickle.dumps(function())
            with open(target, "wb") as file:
                file.write(made)
            os._exit(0)
        except BaseException as error:
            if ended is ...:
                print(f"{type(error).__name__}: {error}", file=SAID, flush=True)
            os._exit(1)
    os.close(target)
    with open(source, "rb") as file:
        if ended is not ... and not select.select([file], [], [], LONGEST)[0]:
            os.kill(child, signal.SIGKILL)
        made = file.read()
    os.waitpid(child, 0)
    if not made and ended is ...:
        raise SystemExit(1)
    return pickle.loads(made) if made else ended


def bound_memory() -> None:
    """Mutants make arrays of any size."""
    memory = Path("/proc/self/statm")
    if memory.exists():
        taken = int(memory.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY,) * 2)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Without the words of pytest and of the tests; what is said goes to `SAID`."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    yield


if __name__ == "__main__":
    raise SystemExit(min(main(sys.argv[1:]), 255))
