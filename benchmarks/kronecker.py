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
import fnmatch
import json
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scripts import add_options, save
from threads import restart_with

from kronops.backends import settings
from kronops.bench.cases import COLUMNS, DTYPES, GIBIBYTE, GROUPS, SIDES, Case, all_cases
from kronops.bench.comparison import HOST, Place, identity, label, run, share_of_roof
from kronops.bench.measuring import environment
from kronops.bench.peers import OURS, PEERS, Peer, Product, version


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


# -- words ----------------------------------------------------------------------------------------


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
