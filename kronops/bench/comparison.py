"""A case of all peers, in turns with kronops: every answer is checked before it is timed.

A peer that is wrong is reported and left out, and so is one whose first call, with all that it
compiles, takes 10 seconds and 40 times as long as ours. Each peer that a further call has shown to
be within 20 times the fastest takes turns with kronops, ours and theirs, round after round; after
two rounds only those within 3 times the fastest peer go on. Peers whose calls take more than a
tenth of a second are dropped at 3 times the fastest at once. A peer's ratio is the median over the
rounds of its time by ours. The peer with the smallest is the fastest, and alone takes turns with
kronops once more: to be the luckiest of several does not count.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from kronops.bench.cases import Case
from kronops.bench.measuring import (
    calls_for,
    copy_seconds,
    no_collection,
    peak_bytes,
    peak_flops,
    seconds,
)
from kronops.bench.peers import Peer, Product, Unsupported, chain, kronops_product

__all__ = ["HOST", "Place", "identity", "label", "right", "run", "share_of_roof"]

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
    return float(limit / made["seconds"]["minimum"])


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


def identity(case: Case) -> dict[str, Any]:
    """What tells a case from others."""
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
