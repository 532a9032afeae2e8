"""The benchmarks' cases and peers: right answers, and no gross loss against plain NumPy."""

from __future__ import annotations

import functools
import importlib
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import gpu
import numpy as np
import page
import pytest

from kronops.bench import comparison
from kronops.bench.cases import DTYPES, SIDES, Case, all_cases
from kronops.bench.measuring import calls_for, no_collection, peak_bytes, seconds
from kronops.bench.peers import PEERS, Peer, kronops_product, numpy_chain

TINY = [((2, 3), (4, 2), (3, 5)), ((3, 3), (2, 2))]
OURS = Peer("kronops", (), kronops_product)
IN_NUMPY = [OURS] + [peer for peer in PEERS if peer.needs == ("numpy",)]


def dense_product(factors, x, side):
    matrix = functools.reduce(np.kron, [factor.astype(float) for factor in factors])
    return matrix @ x if side == "K @ X" else x @ matrix


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shapes", TINY, ids=str)
@pytest.mark.parametrize("peer", IN_NUMPY, ids=lambda peer: peer.name)
def test_answers(peer, shapes, side, columns, dtype):
    case = Case("tiny", shapes, columns, side, dtype)
    factors, x = case.arrays()
    answer = peer.prepare(factors, x, side)()
    assert comparison.right(answer, dense_product(factors, x, side), dtype)


def test_a_wrong_answer_is_seen():
    case = Case("tiny", TINY[0], 1, "K @ X", "float64")
    factors, x = case.arrays()
    liar = Peer("liar", (), lambda *given: lambda: 1.001 * kronops_product(*given)())
    made = comparison.run(case, [liar, *IN_NUMPY[1:]], 0.0)
    assert made["peers"]["liar"] == {"left out": "wrong answer"}
    assert made["fastest"] in made["peers"] and made["ratio"] > 0
    assert not comparison.right(np.full(24, np.nan), dense_product(factors, x, "K @ X"), "float64")


def test_another_place_measures_by_its_own_clock():
    """As a GPU does: no time of the host's clock gets into the results."""
    calls = []

    def clock(function, count=1):
        function()
        calls.append(count)
        return 3.0 if function is ours else 6.0

    def prepare(*given):
        nonlocal ours
        ours = kronops_product(*given)
        return ours

    ours = None
    place = comparison.Place(clock, np.asarray, lambda count: 1e-9 * count, lambda f: 10, None)
    case = Case("tiny", TINY[0], 4, "K @ X", "float64")
    made = comparison.run(case, [IN_NUMPY[1]], 0.0, prepare, place)
    assert made["seconds"] == {"minimum": 3.0, "median": 3.0} and made["ratio"] == 2.0
    assert made["copy seconds"] == 1e-9 * 8 * (case.sizes[0] + case.sizes[-1]) / 2
    assert made["memory"] == 10 / case.allowed and set(calls) == {1}


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("prepare", [gpu.kronops_by_matmul, gpu.cupy_chain])
def test_peers_of_the_gpu_that_know_no_library(prepare, side, columns):
    case = Case("tiny", TINY[0], columns, side, "float64")
    factors, x = case.arrays()
    answer = prepare(factors, x, side)()
    assert comparison.right(gpu.to_host(Tensor(answer)), dense_product(factors, x, side), "float64")


class Tensor:
    """What PyTorch gives, for as much as `gpu.to_host` asks of it."""

    def __init__(self, array):
        self.array = array

    def cpu(self):
        return self.array


def test_cutensor_contracts_one_factor_after_another(monkeypatch):
    """With NumPy's einsum in the place of cuTENSOR's contraction."""

    def contraction(alpha, a, a_mode, b, b_mode, beta, out, out_mode):
        assert (alpha, beta) == (1.0, 0.0) and a.flags.c_contiguous
        np.einsum(f"{a_mode},{b_mode}->{out_mode}", a, b, out=out)

    library = type(sys)("cupyx")
    library.cutensor = type(sys)("cutensor")
    library.cutensor.contraction = contraction
    library.cutensor.create_mode = lambda *names: "".join(names)
    monkeypatch.setitem(sys.modules, "cupy", np)
    monkeypatch.setitem(sys.modules, "cupyx", library)
    for side in SIDES:
        for columns in (1, 4):
            case = Case("tiny", TINY[0], columns, side, "float64")
            factors, x = case.arrays()
            answer = gpu.cutensor(factors, x, side)()
            assert comparison.right(answer, dense_product(factors, x, side), "float64")


@pytest.mark.skipif(not gpu.missing_gpu(), reason="there is a GPU: it would be measured")
def test_without_a_gpu_the_benchmark_says_so():
    script = Path(gpu.__file__)
    done = subprocess.run([sys.executable, script, "--quick"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("no GPU to measure: ") and "cupy" in done.stderr.lower()


@pytest.mark.parametrize("side", SIDES)
def test_numbers_of_a_case(side):
    case = Case("tiny", TINY[0], 4, side, "float32")
    assert case.name == "2,4,3"
    assert case.sizes == [
        4 * n for n in ((30, 20, 40, 24) if side == "K @ X" else (24, 36, 18, 30))
    ]
    assert case.bytes == 4 * (case.sizes[0] + case.sizes[-1] + 2 * max(case.sizes)) + 4096
    factors, x = case.arrays()
    assert x.size == case.sizes[0]
    inner = [factor.shape[side == "K @ X"] for factor in factors]
    assert case.flops == sum(2 * p * n for p, n in zip(inner, case.sizes[1:], strict=True))


def test_cases_have_names_of_their_own():
    every = list(all_cases())
    assert len({comparison.label(comparison.identity(case)) for case in every}) == len(every)
    assert {"2^20", "(8x12)^5", "20,30,40"} <= {case.name for case in every}


def test_memory_stays_within_what_a_product_may_need():
    for side in SIDES:
        case = Case("middle", ((30, 30),) * 3, 16, side, "float64")
        assert peak_bytes(kronops_product(*case.arrays(), side)) <= 1.1 * case.allowed


@pytest.mark.parametrize(
    "sizes, columns", [((16, 16, 16), 16), ((8, 8, 8, 8, 8), 1), ((20, 30, 40), 1)]
)
def test_little_more_than_the_time_of_plain_numpy(sizes, columns):
    """Of processors: those that others use do not count."""
    case = Case("middle", tuple((p, p) for p in sizes), columns, "K @ X", "float64")
    functions = [prepare(*case.arrays(), case.side) for prepare in (kronops_product, numpy_chain)]
    calls = [calls_for(min(seconds(function) for _ in range(3))) for function in functions]
    ratios = []
    for _ in range(8):  # whoever else works on this machine disturbs some attempts
        with no_collection():
            rounds = [[*map(processor_seconds, functions, calls)] for _ in range(5)]
        ours, plain = map(min, zip(*rounds, strict=True))
        ratios.append(ours / plain)
        if ratios[-1] <= 1.25:
            return
    pytest.fail(f"time by plain NumPy's: {ratios}")


def processor_seconds(function, calls):
    function()
    start = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - start) / calls


SCRIPTS = sorted(Path(page.__file__).parent.glob("*.py"))
WITHOUT_OPTIONS = ("overhead", "page")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_starts(script, monkeypatch, capsys):
    """Those with options as far as their help, the others and what they share when imported."""
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    has_help = "__main__" in script.read_text(encoding="utf-8")
    try:
        if not has_help or script.stem in WITHOUT_OPTIONS:
            importlib.import_module(script.stem)
            return
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed", "jax", "matplotlib", "torch"):
            raise
        pytest.skip(f"{error.name} is not installed")
    assert not ended.value.code and "usage:" in capsys.readouterr().out


def test_the_page_is_written_from_the_committed_results():
    results = page.results()
    for path in page.PAGES:
        assert path.read_text(encoding="utf-8") == page.filled(results, path)
    for found in results:
        assert json.loads(json.dumps(found)) == found
        assert {"date", "cpu", "threads", "versions"} <= set(found)
