"""What libraries say when they are given what has no answer, or one that is hard to get right.

    python benchmarks/hostile.py [--json FILE] [--only WORDS]

Each row is one call of `hostile_cases`, for every library that is installed. What comes of a call
is told by rules alone, see `verdict`:

- *ok*: the exact answer (in rational arithmetic, see `exact_answers`) to six digits, or anything
  with a warning beside it;
- *clear*: a ValueError, TypeError, OverflowError, IndexError, LinAlgError or (as PyTorch has it)
  RuntimeError, raised by a ``raise`` of the library itself, whose message names the argument or
  operand and says what it was;
- *vague*: any other exception, a crash, memory that runs out, or no answer within 20 seconds;
- *wrong*: another number, or any number where there is no answer, without a word.

Each library has a process of its own, with limits on its memory.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import inspect
import itertools
import json
import re
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
from hostile_cases import CASES, Case
from hostile_libraries import LIBRARIES, Library

from kronops.bench.peers import Unsupported

__all__ = ["VERDICTS", "verdict"]

VERDICTS = ("ok", "clear", "vague", "wrong", "-")
SECONDS, GIBIBYTES = 20, 8
CLEAR_KINDS = {"ValueError", "TypeError", "OverflowError", "IndexError", "LinAlgError"}
CLEAR_KINDS |= {"RuntimeError"}
# What an argument may be called if not by its name, and words for what was wrong with it.
NOUNS = {"array", "factor", "matrix", "operand", "operator", "scalar", "tensor", "vector"}
FAULTS = {"complex", "definite", "dtype", "empty", "finite", "hermitian", "inf", "infinite"}
FAULTS |= {"infinity", "infs", "list", "masked", "nan", "nans", "negative", "nonetype", "object"}
FAULTS |= {"bool", "float", "int", "singular", "square", "str", "string", "symmetric", "tuple"}


def verdict(case: Case, library: Library) -> tuple[str, str]:
    """One of `VERDICTS`, and in a few words what came."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = np.asarray(case.run(library.build))
        except Unsupported as error:
            return "-", str(error)
        except Exception as error:
            return judged(error, library), described(error)
    if case.accepts(answer):
        return "ok", "the answer"
    said = [w for w in caught if issubclass(w.category, (RuntimeWarning, UserWarning))]
    said = [w for w in said if w.category.__name__ != "DensificationWarning"]
    if said:
        return "ok", f"a warning: {said[0].message}"
    return "wrong", np.array2string(answer, threshold=4, edgeitems=2)


def judged(error: Exception, library: Library) -> str:
    """Whether an exception is clear."""
    kinds = {kind.__name__.lstrip("_") for kind in type(error).__mro__}
    frames = list(frames_of(error.__traceback__))
    own = [frame for frame, _ in frames if belongs(frame, library)]
    if not kinds & CLEAR_KINDS or "NotImplementedError" in kinds or not own:
        return "vague"
    last, line = frames[-1]
    by_itself = belongs(last, library) and any(
        first <= line <= end for first, end in raises(last.f_code.co_filename)
    )
    return "clear" if by_itself and explains(str(error), names(own)) else "vague"


def frames_of(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def belongs(frame: FrameType, library: Library) -> bool:
    return f"/{library.package}/" in frame.f_code.co_filename.replace("\\", "/")


@functools.cache
def raises(path: str) -> list[tuple[int, int]]:
    """The lines of a file's ``raise`` statements."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return [(node.lineno, node.end_lineno or node.lineno) for node in found]


def names(frames: Sequence[FrameType]) -> set[str]:
    """Those of the parameters of the library's functions that were called."""
    return {name.lower() for frame in frames for name in inspect.getargvalues(frame).args}


def explains(message: str, parameters: set[str]) -> bool:
    """Whether it names an argument or operand, and says what it was: a number counts, or a type."""
    words = set(re.findall(r"[a-z_]+", message.lower()))
    singular = {word.removesuffix("s") for word in words}
    named = bool(words & parameters) or bool(singular & NOUNS)
    return named and bool(re.search(r"\d", message) or words & FAULTS)


def described(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


# -- a process for each library --------------------------------------------------------------------


def in_process(library: Library, cases: Sequence[Case]) -> list[tuple[str, str]]:
    """The verdicts; where the process dies, that of the case it died of is vague."""
    made: list[tuple[str, str]] = []
    while len(made) < len(cases):
        rest = [case.name for case in cases[len(made) :]]
        arguments = [sys.executable, __file__, "--child", library.name]
        done = subprocess.run(
            arguments, input=json.dumps(rest), capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith('["')]
        made += [tuple(json.loads(line)) for line in lines]
        if len(lines) < len(rest):
            reason = f"the process ended with {done.returncode}"
            if not lines and not made and done.returncode > 0:
                raise SystemExit(f"{library.name}: {reason}\n{done.stderr[-2000:]}")
            made.append(("vague", reason))
    return made


def child(name: str) -> None:
    """Verdicts, one on a line, for the names of cases that come in."""
    library = next(library for library in LIBRARIES if library.name == name)
    importlib.import_module(library.package)
    limit = GIBIBYTES * 2**30 + virtual_memory()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, too_late)
    cases = {case.name: case for case in CASES}
    for case in json.load(sys.stdin):
        signal.alarm(SECONDS)
        try:
            made = verdict(cases[case], library)
        except TimeoutError:
            made = "vague", f"no answer in {SECONDS} s"
        finally:
            signal.alarm(0)
        print(json.dumps(made), flush=True)


def too_late(*_: Any) -> None:
    raise TimeoutError


def virtual_memory() -> int:
    """What the process has mapped already, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    from scripts import save

    from kronops.bench.measuring import environment

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--only", default="", help="words of the names of cases")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child)
    cases = [case for case in CASES if options.only in case.name]
    present = [library for library in LIBRARIES if not library.missing]
    needs = dict.fromkeys(itertools.chain(*(library.needs for library in LIBRARIES)))
    report: dict[str, Any] = {"benchmark": "hostile", **environment(["numpy", *needs])}
    report["libraries"] = [library.name for library in present]
    report["missing"] = [library.name for library in LIBRARIES if library.missing]
    rows = {case.name: {"call": case.name, "group": case.group} for case in cases}
    for library in present:
        for case, (word, detail) in zip(cases, in_process(library, cases), strict=True):
            rows[case.name][library.name] = [word, detail]
            print(f"{library.name}: {case.name}: {word}: {detail}", flush=True)
    report["rows"] = list(rows.values())
    save(report, options.json)
    return None


if __name__ == "__main__":
    main()
