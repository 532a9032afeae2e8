"""The kernel for small factors on GPUs, as far as it can be tried without one.

What is planned is arithmetic; the kernel's source is run on this CPU, and compiled for GPUs where
there is a compiler for them.
"""

from __future__ import annotations

import functools
import math
import shutil
import subprocess

import cuda_on_cpu
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

import kronops
from kronops.backends import cuda, settings
from kronops.factor_products import FactorProducts
from kronops.planning import Factor, plan

A100 = cuda.Gpu(108, 163 * 1024, 164 * 1024, 40 * 2**20, 1.6e12, 2e13)
H100 = cuda.Gpu(132, 227 * 1024, 228 * 1024, 50 * 2**20, 3.3e12, 6e13)
RTX = cuda.Gpu(80, 99 * 1024, 100 * 1024, 6 * 2**20, 9e11, 3e13)
GPUS = {"A100": A100, "H100": H100, "RTX": RTX}

needs_compiler = pytest.mark.skipif(
    cuda_on_cpu.compiler() is None,
    reason="no C++ compiler to run the kernel by: g++, clang++, $CXX",
)


# -- plans ----------------------------------------------------------------------------------------


def planned(shapes, right, itemsize, gpu):
    numbers = right * math.prod(max(shape) for shape in shapes)
    factors = tuple(Factor(*shape) for shape in shapes)
    return plan(factors, 1, right, cuda.machine(gpu, itemsize, numbers))


@pytest.mark.parametrize(
    "shapes, right, itemsize, gpu, sweeps",
    [
        ([(2, 2)] * 20, 1, 4, "A100", 2),
        ([(4, 4)] * 10, 1, 8, "A100", 2),
        ([(8, 8)] * 6, 256, 4, "H100", 2),
        ([(8, 8)] * 7, 1, 8, "H100", 2),
        ([(8, 8)] * 7, 1, 8, "RTX", 3),
        ([(16, 16)] * 5, 1, 4, "A100", 2),
        ([(8, 12)] * 5, 1, 4, "A100", 2),
        ([(12, 8)] * 5, 16, 8, "H100", 3),
        ([(8, 8)] * 4, 1, 4, "H100", 1),
    ],
)
def test_few_sweeps(shapes, right, itemsize, gpu, sweeps):
    assert len(planned(shapes, right, itemsize, GPUS[gpu]).sweeps) == sweeps


def test_what_is_large_is_left_to_products_of_matrices():
    for shapes, itemsize in [([(64, 64)] * 3, 4), ([(17, 16)] * 4, 8), ([(33, 33)] * 4, 4)]:
        steps = planned(shapes, 1, itemsize, H100).steps
        assert {step.kind for _, step in steps} == {"dense"}


def test_what_fits_the_cache_is_planned_by_its_rate():
    small, large = (cuda.machine(A100, 4, numbers) for numbers in (2**20, 2**23))
    assert small.far == 2 * large.far == 2 * A100.bandwidth


SHAPES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6)


@examples(max_examples=300, deadline=None, derandomize=True)
@given(
    SHAPES.map(tuple),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from((4, 8)),
    st.sampled_from((*GPUS.values(), A100._replace(shared=4096))),
)
def test_a_tile_fits_and_its_rows_are_not_too_short(shapes, left, right, itemsize, gpu):
    kernel = cuda.Kernel(shapes, itemsize)
    tile = kernel.tile(left, right, gpu.room)
    seconds = cuda.FusedKernels(itemsize, gpu, gpu.bandwidth).seconds(shapes, right)
    assert (seconds is not None) == (kernel.supported and tile is not None)
    largest = max(kernel.sizes)
    narrowest = min(right, 32 // itemsize)
    if tile is None:
        assert 2 * largest * narrowest * itemsize * 33 // 32 + 8 * 1600 * 6 > gpu.room
        return
    assert tile.bytes <= gpu.room <= gpu.shared
    assert 2 * gpu.room <= gpu.shared_by_all
    assert 1 <= tile.lefts <= left and narrowest <= tile.rights <= right
    assert tile.lefts == 1 or tile.rights == right
    assert tile.room >= largest * tile.lefts * tile.rights
    assert kernel.blocks(tile, left, right, gpu) >= 1


@examples(max_examples=300, deadline=None, derandomize=True)
@given(SHAPES.map(tuple), st.sampled_from((4, 8)))
def test_stages_are_all_factors_from_the_last_to_the_first(shapes, itemsize):
    kernel = cuda.Kernel(shapes, itemsize)
    stages = kernel.stages
    assert [shape for stage in stages for shape in stage.shapes] == [*reversed(shapes)]
    assert kernel.sizes[0] == math.prod(columns for _, columns in shapes)
    assert kernel.sizes[-1] == math.prod(rows for rows, _ in shapes)
    for stage in stages:
        registers = stage.fibers * (stage.rows + stage.columns) * itemsize // 4
        assert registers <= 64 or not kernel.supported


# -- the kernel on a CPU --------------------------------------------------------------------------

CASES = [
    # factors, left, right, bytes of shared memory, itemsize
    (((2, 2),), 1, 1, 8192, 4),
    (((1, 1),), 3, 5, 8192, 8),
    (((2, 2),) * 7, 3, 1, 2048, 4),
    (((2, 2),) * 7, 1, 37, 8192, 8),
    (((4, 4),) * 3, 5, 1, 1024, 8),
    (((4, 4),) * 3, 2, 100, 8192, 4),
    (((8, 8),) * 3, 2, 3, 8192, 4),
    (((8, 8),) * 2, 7, 33, 4096, 8),
    (((16, 16),) * 2, 3, 11, 16384, 8),
    (((32, 32),), 2, 50, 8192, 4),
    (((8, 12),) * 2, 3, 19, 16384, 4),
    (((12, 8),) * 2, 2, 19, 16384, 8),
    (((2, 3), (4, 2), (3, 5)), 4, 1, 4096, 4),
    (((5, 3), (3, 5), (7, 1), (1, 6)), 9, 2, 8192, 8),
    (((3, 3), (7, 7), (2, 2)), 11, 6, 4096, 8),
    (((1, 9), (9, 1), (1, 1)), 5, 70, 4096, 4),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """All kernels of the cases, in one run of the compiler."""
    expressions = dict.fromkeys(cuda.Kernel(case[0], case[-1]).expression for case in CASES)
    return cuda_on_cpu.Compiled(expressions, tmp_path_factory.mktemp("kernels"))


def draws(shapes, left, right, itemsize):
    rng = np.random.default_rng(0)
    dtype = np.dtype(f"f{itemsize}")
    matrices = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    columns = math.prod(columns for _, columns in shapes)
    return matrices, rng.standard_normal((left, columns, right)).astype(dtype)


def packed(matrices):
    return np.concatenate([matrix.T.ravel() for matrix in reversed(matrices)])


def close(got, matrices, x):
    want = functools.reduce(np.kron, matrices).astype(float) @ x.astype(float)
    scale = functools.reduce(np.kron, map(np.abs, matrices)).astype(float) @ np.abs(x)
    np.testing.assert_array_less(np.abs(got - want), 40 * np.finfo(x.dtype).eps * scale + 1e-300)


def run(compiled, case, blocks=3):
    """What the kernel makes of a case, and the case's arrays."""
    shapes, left, right, room, itemsize = case
    kernel = cuda.Kernel(shapes, itemsize)
    tile = kernel.tile(left, right, room)
    matrices, x = draws(shapes, left, right, itemsize)
    given = x.copy()
    size = left * math.prod(rows for rows, _ in shapes) * right
    watched = np.full(size + 200, np.nan, dtype=x.dtype)
    out = watched[100:-100]
    sizes = left, right, tile.lefts, tile.rights, tile.room
    arrays = [packed(matrices), x, out]
    cuda_on_cpu.launch(compiled[kernel.expression], arrays, sizes, blocks, tile.bytes)
    assert np.isnan(watched[:100]).all() and np.isnan(watched[-100:]).all()
    np.testing.assert_array_equal(x, given)
    return out.reshape(left, -1, right), matrices, x


@needs_compiler
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_multiplies(compiled, case):
    close(*run(compiled, case))


@needs_compiler
def test_one_block_makes_everything(compiled):
    close(*run(compiled, CASES[5], blocks=1))


@needs_compiler
def test_the_cases_have_edges():
    """Tiles cut across and down, stages one and several, of one factor and of several."""
    kernels = [(cuda.Kernel(case[0], case[-1]), case) for case in CASES]
    tiles = [(kernel, kernel.tile(*case[1:4]), case) for kernel, case in kernels]
    assert any(case[2] % tile.rights for _, tile, case in tiles)
    assert any(case[1] % tile.lefts for _, tile, case in tiles)
    assert {len(kernel.stages) > 1 for kernel, _ in kernels} == {True, False}
    assert any(len(stage.shapes) > 1 for kernel, _ in kernels for stage in kernel.stages)
    assert {stage.fibers for kernel, _ in kernels for stage in kernel.stages} == {1, 2}


@needs_compiler
def test_nan_and_infinity_stay_in_their_columns(compiled):
    shapes, left, right, _, itemsize = CASES[6]
    kernel = cuda.Kernel(shapes, itemsize)
    matrices, x = draws(shapes, left, right, itemsize)
    x[1, 3, 2], x[0, 0, 0] = np.nan, np.inf
    tile = kernel.tile(left, right, 8192)
    out = np.empty((left, math.prod(rows for rows, _ in shapes), right), dtype=x.dtype)
    sizes = left, right, tile.lefts, tile.rights, tile.room
    function = compiled[kernel.expression]
    cuda_on_cpu.launch(function, [packed(matrices), x, out], sizes, 1, tile.bytes)
    spoilt = np.zeros((left, right), dtype=bool)
    spoilt[1, 2] = spoilt[0, 0] = True
    np.testing.assert_array_equal(~np.isfinite(out).all(axis=1), spoilt)
    np.testing.assert_array_equal(~np.isfinite(out).any(axis=1), spoilt)


@needs_compiler
def test_the_stand_in_sees_what_it_should(tmp_path):
    """Each missing barrier, in every run."""
    case = CASES[4]
    expression = cuda.Kernel(case[0], case[-1]).expression
    barrier = "__syncthreads();"
    pieces = cuda.source().split(barrier)
    assert len(pieces) == 3
    for i in range(1, 3):
        broken = barrier.join(pieces[:i]) + barrier.join(pieces[i:])
        (folder := tmp_path / str(i)).mkdir()
        spoilt = cuda_on_cpu.Compiled([expression], folder, broken)
        with pytest.raises(AssertionError):
            close(*run(spoilt, case, blocks=1))


# -- by the backend -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backend(compiled):
    return cuda_on_cpu.cupy_backend(compiled.__getitem__)


def products(backend, *factors):
    """Of a product of NumPy factors, by the backend of CuPy."""
    made = FactorProducts(kronops.kron(*factors) * 3.0)
    made.backend = made.engine = backend
    return made


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided"])
def test_the_backend_multiplies(backend, dtype, layout):
    rng = np.random.default_rng(1)
    factors = [rng.standard_normal((4, 4)).astype(dtype) for _ in range(5)]
    made = products(backend, *factors)
    x = rng.standard_normal((4**5, 6)).astype(dtype)
    x = {"transposed": np.asfortranarray(x), "strided": np.repeat(x, 2, axis=1)[:, ::2]}.get(
        layout, x
    )
    given = x.copy()
    with settings(compiled=True):
        kinds = [step.kind for _, step in made.plan(1, 6, x.dtype).steps]
        assert len(kinds) < 5 and "compiled" in kinds
        got = made(x, 1, 6).reshape(4**5, 6)
    np.testing.assert_array_equal(x, given)
    assert got.dtype == dtype and not np.shares_memory(got, x)
    factors[0] = 3 * factors[0]
    close(got, factors, x)


@needs_compiler
def test_small_factors_beside_large_ones_and_diagonals(backend):
    rng = np.random.default_rng(2)
    factors = [rng.standard_normal(shape) for shape in ((4, 4), (4, 4), (4, 4), (50, 40))]
    diagonal = np.arange(1.0, 4.0)
    made = products(backend, *factors, kronops.DiagonalOperator(diagonal))
    x = rng.standard_normal((64 * 40 * 3, 2))
    with settings(compiled=True):
        assert {s.kind for _, s in made.plan(1, 2, x.dtype).steps} == {
            "compiled",
            "dense",
            "diagonal",
        }
        got = made(x, 1, 2).reshape(-1, 2)
    want = kronops.kron(*factors, np.diag(diagonal)) @ x
    np.testing.assert_allclose(got, 3 * want, rtol=1e-12, atol=1e-12)


def without_kernels(name):
    raise OSError("nvrtc is missing")


def test_it_is_off_unless_asked_for():
    backend = cuda_on_cpu.cupy_backend(without_kernels)
    made = products(backend, *[np.eye(4)] * 5)
    x = np.ones(4**5)
    np.testing.assert_array_equal(made(x, 1, 1).reshape(-1), 3 * x)
    with settings(compiled=False):
        np.testing.assert_array_equal(made(x, 1, 1).reshape(-1), 3 * x)
    with settings(compiled=True):
        for dtype in (np.complex64, np.complex128, np.float16):
            assert backend.machine(dtype, 1024).kernels is None
        assert backend.machine(np.float32, 1024).kernels is not None


def test_a_failure_names_the_setting():
    words = "factors of 4 x 4, 4 x 4.* float64, asked for by .*compiled=True.*could not be compiled"
    made = products(cuda_on_cpu.cupy_backend(without_kernels), *[np.eye(4)] * 3)
    with settings(compiled=True), pytest.raises(RuntimeError, match=words) as found:
        made(np.ones(64), 1, 1)
    assert "nvrtc is missing" in str(found.value.__cause__)

    def refused(*arguments):
        raise OSError("too many resources requested")

    made = products(cuda_on_cpu.cupy_backend(lambda name: refused), *[np.eye(4)] * 3)
    with settings(compiled=True), pytest.raises(RuntimeError, match="could not be launched"):
        made(np.ones(64), 1, 1)


def test_the_source_is_plain_text():
    assert cuda.source().isascii()  # compilers of GPUs are asked in many locales


# -- compiled for GPUs ----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile the kernel by")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_compiles_for_a_gpu(tmp_path, architecture):
    """And what a thread works with is in its registers, but for a few numbers."""
    pointers, sizes = "const T*, const T*, T*", ", ".join(["long long"] * 5)
    lines = [cuda.source()]
    for shapes, itemsize in [(((8, 8),) * 3, 4), (((2, 2),) * 6, 8), (((16, 16), (8, 12)), 8)]:
        expression = cuda.Kernel(shapes, itemsize).expression
        number = "float" if itemsize == 4 else "double"
        lines.append(
            f"template __global__ void {expression}({pointers.replace('T', number)}, {sizes});"
        )
    (tmp_path / "kernels.cu").write_text("\n".join(lines), encoding="utf-8")
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas=-v"]
    command += ["-o", "kernels.cubin", "kernels.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spilled = [
        int(line.split(" bytes spill stores")[0].split()[-1])
        for line in done.stderr.splitlines()
        if "bytes spill stores" in line
    ]
    assert len(spilled) == 3 and max(spilled) <= 64
