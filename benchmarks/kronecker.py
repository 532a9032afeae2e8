"""Kronecker products by kronops beside every other way to compute them, in turns in one process.

    python benchmarks/kronecker.py --quick
    python benchmarks/kronecker.py --ours numba --threads 1 --json benchmarks/results/today.json
    python benchmarks/kronecker.py --ours torch --peers PyTorch

Every answer is checked before it is timed: a peer that is wrong is reported and left out, and so is
one whose first call, with all that it compiles, takes 10 seconds and 40 times as long as ours. Then
each peer that a further call has shown to be within 20 times the fastest takes turns with kronops,
ours and theirs, round after round; after two rounds only those within 3 times the fastest peer go
on. Peers whose calls take more than a tenth of a second are dropped at 3 times the fastest at once.
A peer's ratio is the median over the rounds of its time by ours. The peer with the smallest is the
fastest, and alone takes turns with kronops once more: to be the luckiest of several does not count.
The ratio of the case comes from these last rounds. Above 1, kronops is faster than every peer.

``--ours numpy`` is kronops on NumPy arrays without compiled kernels, ``numba`` with them, ``torch``
on PyTorch's tensors and ``jax`` on JAX's arrays, in a compiled function.

``roof`` is the share reached of what the machine could do at best: the larger of the flops, factor
by factor, at the speed of one large product of matrices, and the time for copying as many bytes as
the vectors have. ``memory`` is the peak of our product by what it may need, which is its output and
two of the largest vectors on the way (of NumPy's memory).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import math
import os
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cases import COLUMNS, DTYPES, GIBIBYTE, GROUPS, SIDES, Case, all_cases
from measuring import (
    add_options,
    calls_for,
    copy_seconds,
    environment,
    no_collection,
    peak_bytes,
    peak_flops,
    save,
    seconds,
)
from peers import OURS, PEERS, Peer, Product, Unsupported, chain, kronops_product, version
from threads import restart_with

from kronops.backends import settings

FAR, NEAR = 20, 3  # times the fastest: beyond, a peer is dropped at once, or after two rounds
LONGEST = 10.0  # seconds for a first call, or twice FAR times ours
LONG = 0.1  # seconds of a call that are measurement enough
FEWEST, MOST = 5, 100  # rounds, of all peers and of the last two
TOLERANCES = {"float64": 1e-12, "float32": 2e-5}


Clock = Callable[..., float]  # of a function, and of how many calls of it: seconds for one


class Place(NamedTuple):
    """Where arrays are, and how things are measured there."""

    clock: Clock
    host: Callable[[Any], np.ndarray]  # what a product gives, as a NumPy array
    copy_seconds: Callable[[int], float]  # for so many bytes
    peak_bytes: Callable[[Callable[[], Any]], int]
    peak_flops: Callable[[str], float]  # of a dtype


HOST = Place(
    seconds,
    np.asarray,
    lambda count: copy_seconds(count, threads_used()),
    peak_bytes,
    peak_flops,
)


def main() -> None:
    options = parsed(__doc__, list(OURS))
    if version(options.ours) is None:
        raise SystemExit(f"--ours {options.ours} needs {options.ours}, which is not installed")
    restart_with(options.threads)
    with settings(compiled=options.ours == "numba"):
        compare(options, {"benchmark": "kronecker"}, OURS[options.ours], PEERS, HOST)


def compare(
    options: argparse.Namespace,
    report: dict[str, Any],
    ours: Callable[..., Product],
    every: Sequence[Peer],
    place: Place,
) -> None:
    """All cases and peers that the options name, into ``report``."""
    warnings.simplefilter("ignore")
    wanted = [
        case
        for case in all_cases(options.columns, options.dtype, options.side)
        if any(matches(case, pattern) for pattern in options.cases)
    ]
    left_out = [case for case in wanted if case.bytes > options.memory * GIBIBYTE]
    peers = [p for p in every if any(fnmatch.fnmatch(p.name, f"*{w}*") for w in options.peers)]
    peaks = {dtype: place.peak_flops(dtype) for dtype in options.dtype}
    report |= {
        "ours": options.ours,
        **environment(),
        "seconds": options.seconds,
        "memory": options.memory,
        "missing": {peer.name: peer.missing for peer in peers if peer.missing},
        "left out": [list(identity(case).values()) for case in left_out],
        "gemm flops": peaks,
        "cases": earlier(options.json, peaks) if options.resume and options.json.exists() else [],
    }
    done = {label(case) for case in report["cases"]}
    print(headline(report))
    for case in wanted:
        if label(identity(case)) in done:
            continue
        if case in left_out:
            print(f"{label(identity(case))}  left out: {case.bytes / GIBIBYTE:.1f} GiB of arrays")
            continue
        made = run(case, [p for p in peers if not p.missing], options.seconds, ours, place)
        peaks[case.dtype] = max(peaks[case.dtype], place.peak_flops(case.dtype))
        report["cases"].append(made)
        for each in report["cases"]:  # the peak may have been disturbed when it was timed
            each["roof"] = share_of_roof(each, peaks)
        print(line(made), flush=True)
        save(report, options.json)
    print(summary(report["cases"]))


def earlier(path: Path, peaks: dict[str, float]) -> list[dict[str, Any]]:
    """The cases of an interrupted run; its peaks count, too."""
    report = json.loads(path.read_text(encoding="utf-8"))
    for dtype, flops in report["gemm flops"].items():
        peaks[dtype] = max(peaks.get(dtype, 0.0), flops)
    return report["cases"]


def parsed(description: str | None, ours: Sequence[str]) -> argparse.Namespace:
    """What a script's user wants; ``ours``: the arrays that kronops may work on."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", nargs="+", default=["*"], help=f"names like 8^6, or of {', '.join(GROUPS)}")
    add("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    add("--columns", nargs="+", type=int, default=COLUMNS, help="how many vectors")
    add("--side", nargs="+", choices=SIDES, default=SIDES)
    add("--ours", choices=ours, default=ours[0], help=f"kronops on which (default: {ours[0]})")
    add("--peers", nargs="+", default=["*"], help="parts of their names")
    add("--seconds", type=float, default=1.0, help="for the rounds of a case (default: 1)")
    add("--memory", type=float, default=1.0, help="GiB of a case's arrays, at most (default: 1)")
    add("--resume", action="store_true", help="go on with an interrupted run's --json file")
    add("--quick", action="store_true", help="float64, 16 vectors, 0.2 seconds")
    add_options(parser)
    options = parser.parse_args()
    if options.quick:
        options.dtype, options.columns, options.seconds = ["float64"], [16], 0.2
    if options.resume and not options.json:
        parser.error("--resume needs the --json file")
    return options


def matches(case: Case, pattern: str) -> bool:
    return fnmatch.fnmatchcase(case.name, pattern) or fnmatch.fnmatchcase(case.group, pattern)


# -- one case -------------------------------------------------------------------------------------


def run(
    case: Case,
    peers: Sequence[Peer],
    budget: float,
    prepare: Callable[..., Product] = kronops_product,
    place: Place = HOST,
) -> dict[str, Any]:
    """Everything that is reported of a case."""
    factors, x = case.arrays()
    exact = chain([factor.astype(float) for factor in factors], x.astype(float), case.side)
    ours = prepare(factors, x, case.side)
    if not right(place.host(ours()), exact, case.dtype):
        raise AssertionError(f"kronops is wrong: {label(identity(case))}")
    found: dict[str, dict[str, Any]] = {}
    products: dict[str, Product] = {}
    longest = max(LONGEST, 2 * FAR * place.clock(ours))
    for peer in peers:
        with limited(longest):
            product, problem = prepared(peer, factors, x, case, exact, place.host)
        if product is None:
            found[peer.name] = {"left out": problem}
        else:
            products[peer.name] = product
    with no_collection():
        mine, theirs, last = in_turns(ours, products, budget, place.clock)
    return {
        **identity(case),
        "seconds": mine,
        "peers": found | theirs,
        "fastest": last["fastest"],
        "ratio": last["ratio"],
        "last rounds": last,
        "flops": case.flops,
        "copy seconds": place.copy_seconds((x.nbytes + exact.size * x.itemsize) // 2),
        "memory": place.peak_bytes(ours) / case.allowed,
    }


def share_of_roof(made: dict[str, Any], peaks: dict[str, float]) -> float:
    """The least time that arithmetic and memory allow, by ours."""
    limit = max(made["flops"] / peaks[made["dtype"]], made["copy seconds"])
    return limit / made["seconds"]["minimum"]


def prepared(
    peer: Peer,
    factors: list[np.ndarray],
    x: np.ndarray,
    case: Case,
    exact: np.ndarray,
    host: Callable[[Any], np.ndarray],
) -> tuple[Product | None, str]:
    """The peer's product, or why there is none."""
    try:
        product = peer.prepare(factors, x, case.side)
        if right(host(product()), exact, case.dtype):
            return product, ""
    except Unsupported as reason:
        return None, str(reason)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"[:200]
    return None, "wrong answer"


@contextlib.contextmanager
def limited(longest: float) -> Iterator[None]:
    """An error inside after so many seconds, where the system has an alarm."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {longest:.0f} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, longest)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def right(answer: np.ndarray, exact: np.ndarray, dtype: str) -> bool:
    """Whether shape, dtype and values are as they should be."""
    if answer.shape != exact.shape or answer.dtype != dtype:
        return False
    return bool(np.max(np.abs(answer - exact)) <= TOLERANCES[dtype] * np.max(np.abs(exact)))


def in_turns(
    ours: Product, products: dict[str, Product], budget: float, clock: Clock
) -> tuple[dict[str, float], dict[str, dict[str, Any]], dict[str, Any]]:
    """Our times, every peer's beside ours of the same rounds, and the last rounds' outcome."""
    once = {name: single_call(product, clock) for name, product in products.items()}
    if not once:
        return times([clock(ours) for _ in range(FEWEST)]), {}, {"fastest": None, "ratio": None}
    calls = calls_for(single_call(ours, clock))

    def pair(name: str) -> tuple[float, float]:
        return clock(ours, calls), clock(products[name], calls_for(once[name]))

    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in products}
    fastest = min(once.values())
    running = [n for n in once if once[n] <= (NEAR if fastest > LONG else FAR) * fastest]
    for done in rounds(budget / 2):
        for name in running:
            pairs[name].append(pair(name))
        if done == 1:
            best = {n: min(once[n], *(theirs for _, theirs in pairs[n])) for n in running}
            running = [n for n in running if best[n] <= NEAR * min(best.values())]
    made = {name: peer_times(several, once[name]) for name, several in pairs.items()}
    rival = min(running, key=lambda name: made[name]["ratio"])
    last = [pair(rival) for _ in rounds(budget / 2)]
    mine = [mine for several in (*pairs.values(), last) for mine, _ in several]
    outcome = peer_times(last, once[rival]) | {"kronops": statistics.median(m for m, _ in last)}
    return times(mine), made, {"fastest": rival, **outcome}


def rounds(budget: float) -> Iterator[int]:
    """At least `FEWEST`, then as many as the time allows."""
    end = time.perf_counter() + budget
    for done in range(MOST):
        if done >= FEWEST and time.perf_counter() > end:
            return
        yield done


def single_call(function: Callable[[], Any], clock: Clock) -> float:
    """The shortest of three calls, unless the first took long."""
    first = clock(function)
    return first if first > LONG else min(first, clock(function), clock(function))


def times(values: Sequence[float]) -> dict[str, float]:
    return {"minimum": min(values), "median": statistics.median(values)}


def peer_times(pairs: Sequence[tuple[float, float]], once: float) -> dict[str, Any]:
    """Of a peer that was dropped before the first round, the time of single calls."""
    if not pairs:
        return {**times([once]), "rounds": 0, "ratio": None}
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    spread = [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]]
    ratio = statistics.median(ratios)
    return {
        **times([theirs for _, theirs in pairs]),
        "rounds": len(pairs),
        "ratio": ratio,
        "quartiles": spread,
    }


def threads_used() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


# -- words ----------------------------------------------------------------------------------------


def identity(case: Case) -> dict[str, Any]:
    return {
        "group": case.group,
        "factors": case.name,
        "columns": case.columns,
        "side": case.side,
        "dtype": case.dtype,
    }


def label(made: dict[str, Any]) -> str:
    """The beginning of the line of a case, from what `identity` says of it."""
    return f"{made['factors']:>12} {made['side']} {made['columns']:4d} {made['dtype']}"


def line(made: dict[str, Any]) -> str:
    wrong = [name for name, t in made["peers"].items() if t.get("left out") == "wrong answer"]
    ours = made["last rounds"].get("kronops", made["seconds"]["median"])
    theirs = made["last rounds"].get("median", math.nan)
    return (
        f"{label(made)} {ours * 1e6:11.1f} {theirs * 1e6:11.1f}  {made['ratio'] or math.nan:6.2f}  "
        f"{made['fastest'] or 'no peer':22} {made['roof']:5.0%} {made['memory']:6.2f}"
        + (f"  wrong: {', '.join(wrong)}" if wrong else "")
    )


def headline(report: dict[str, Any]) -> str:
    speeds = ", ".join(f"{d} {f / 1e9:.0f} Gflop/s" for d, f in report["gemm flops"].items())
    found = ", ".join(f"{n} {v}" for n, v in report["versions"].items() if v)
    missing = "; ".join(f"{name}: no {', '.join(why)}" for name, why in report["missing"].items())
    lines = [
        f"kronops on {report['ours']}, {report['date']}, {report['cpu']}, "
        f"{report['threads']} threads, {report['blas']}",
        found + (f"; left out: {missing}" if missing else ""),
        f"large products: {speeds}",
        f"{'factors':>12} {'side':5} {'k':>4} {'dtype':7} {'kronops µs':>11} {'peer µs':>11}  "
        f"{'ratio':>6}  {'fastest peer':22} {'roof':>5} {'memory':>6}",
    ]
    return "\n".join(lines)


def summary(cases: Sequence[dict[str, Any]]) -> str:
    ratios = [case["ratio"] for case in cases if case["ratio"]]
    if not ratios:
        return "no case, or no peer"
    worst = min((case for case in cases if case["ratio"]), key=lambda case: case["ratio"])
    where = " ".join(str(worst[key]) for key in ("factors", "side", "columns", "dtype"))
    behind = sum(ratio < 1 for ratio in ratios)
    return (
        f"{len(ratios)} cases: geometric mean {statistics.geometric_mean(ratios):.2f}, "
        f"least {worst['ratio']:.2f} ({where}, {worst['fastest']}), a peer ahead in {behind}; "
        f"memory at most {max(case['memory'] for case in cases):.2f} of what it may need"
    )


if __name__ == "__main__":
    main()
