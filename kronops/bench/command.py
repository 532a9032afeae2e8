"""``python -m kronops bench``: some products, by kronops and by every peer that is installed."""

from __future__ import annotations

import os
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from kronops.bench.cases import Case
from kronops.bench.comparison import HOST, run
from kronops.bench.measuring import environment
from kronops.bench.peers import OURS, PEERS, Peer, Product, Unsupported

__all__ = ["bench"]

# A few factors of the sizes that people have: small, a grid in 3-D, unlike ones, two large ones.
_SIZES = ((8,) * 3, (32,) * 3, (3, 50, 7, 20), (300, 200))
_COLUMNS = 16
_MOST = 2**22  # entries of a matrix that is formed


def _formed(form: Callable[..., Any]) -> Callable[..., Product]:
    """The product with the matrix that ``form`` makes of two factors, and so on."""

    def prepare(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
        if np.prod([factor.size for factor in factors], dtype=float) > _MOST:
            raise Unsupported("the matrix would be too large")
        matrix = factors[0]
        for factor in factors[1:]:
            matrix = form(matrix, factor)
        return (lambda: matrix @ x) if side == "K @ X" else (lambda: x @ matrix)

    return prepare


def _scipy_kron(left: Any, right: Any) -> Any:
    import scipy.sparse

    return scipy.sparse.csr_array(scipy.sparse.kron(left, right))


_MORE = (
    Peer("kronops in PyTorch", ("torch",), OURS["torch"]),
    Peer("kronops in JAX, jit", ("jax",), OURS["jax"]),
    Peer("NumPy kron, formed", ("numpy",), _formed(np.kron)),
    Peer("SciPy kron, formed", ("scipy",), _formed(_scipy_kron)),
)


def bench(seconds: float = 6.0) -> int:
    """Measure for about so many seconds, beside what imports and compilation take, and print."""
    peers = [*_MORE[:2], *PEERS, *_MORE[2:]]
    cases = [
        Case("", tuple((n, n) for n in sizes), _COLUMNS, "K @ X", "float64") for sizes in _SIZES
    ]
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries at their import, which answer for themselves
        for case in cases:
            sys.stderr.write(f"measuring {case.name} …\n")
            made.append(_measured(case, peers, seconds / len(cases)))
    sys.stdout.write("\n".join([_headline(), "", *_table(cases, made, peers)]) + "\n")
    sys.stdout.write("\n".join(_remarks(cases, made, peers)) + "\n")
    return 0


def _measured(case: Case, peers: Sequence[Peer], seconds: float) -> dict[str, Any]:
    place = HOST._replace(copy_seconds=lambda count: 0.0, peak_bytes=lambda function: 0)
    return run(case, [peer for peer in peers if not peer.missing], seconds, place=place)


def _headline() -> str:
    now = environment(["numpy"])
    threads = os.environ.get("OMP_NUM_THREADS")
    return (
        f"kronops {now['kronops']} on NumPy {now['versions']['numpy']} ({now['blas']}), "
        f"{now['cpu']}, {now['processors']} processors"
        + (f", OMP_NUM_THREADS={threads}" if threads else "")
        + f"\nK @ X in double precision, {_COLUMNS} columns: kronops' time, and peers' by it,\n"
        + "where above 1 kronops is faster"
        + _busy(os.cpu_count() or 1)
    )


def _busy(processors: int) -> str:
    """A warning, if others use the machine."""
    load = os.getloadavg()[1] if hasattr(os, "getloadavg") else 0.0
    if load < 1.5 * processors:
        return ""
    return f"\nThe machine is busy with other things (load {load:.0f}): these numbers mean little"


def _table(
    cases: Sequence[Case], made: Sequence[dict[str, Any]], peers: Sequence[Peer]
) -> Iterator[str]:
    """The peers, from the fastest."""
    yield f"{'':22}" + "".join(f"{case.name:>13}" for case in cases)
    times = [f"{each['seconds']['minimum'] * 1e6:,.0f} µs" for each in made]
    yield f"{'kronops':22}" + "".join(f"{text:>13}" for text in times)
    ratios = {peer.name: [_ratio(each, peer.name) for each in made] for peer in peers}
    measured = {name: row for name, row in ratios.items() if any(row)}
    for name, row in sorted(measured.items(), key=lambda pair: _mean(pair[1])):
        yield f"{name:22}" + "".join(f"{f'{r:.2f}' if r else '–':>13}" for r in row)


def _mean(row: Sequence[float | None]) -> float:
    return statistics.geometric_mean(filter(None, row))


def _ratio(made: dict[str, Any], name: str) -> float | None:
    """The peer's time by ours; of one dropped for its slowness, by single calls."""
    found = made["peers"].get(name, {})
    if "minimum" not in found:
        return None
    ratio: float = found["ratio"] or found["minimum"] / made["seconds"]["minimum"]
    return ratio


def _remarks(
    cases: Sequence[Case], made: Sequence[dict[str, Any]], peers: Sequence[Peer]
) -> Iterator[str]:
    yield "\nEvery answer was checked before it was timed."
    for peer in peers:
        why: dict[str, list[str]] = {}
        for case, each in zip(cases, made, strict=True):
            if reason := each["peers"].get(peer.name, {}).get("left out"):
                why.setdefault(reason.splitlines()[0], []).append(case.name)
        for reason, names in why.items():
            yield f"– {peer.name}, {', '.join(names)}: {reason}"
    missing = sorted({name for peer in peers for name in peer.missing})
    if missing:
        yield f"Not installed: {', '.join(missing)}"
