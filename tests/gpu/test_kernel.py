"""The kernel for small factors on CuPy's arrays: `kronops.backends.settings(compiled=True)`."""

from __future__ import annotations

import numpy as np
import pytest
import zoo
from test_on_gpu import DTYPES, Maker, make_case, staying_on_the_gpu

import kronops
from kronops.backends import backend_of, settings
from kronops.testing import LAWS, Case

SHAPES = {
    "2^20": [(2, 2)] * 20,
    "4^9": [(4, 4)] * 9,
    "8^6": [(8, 8)] * 6,
    "16^4": [(16, 16)] * 4,
    "32^3": [(32, 32)] * 3,
    "5^7": [(5, 5)] * 7,
    "(8x12)^4": [(8, 12)] * 4,
    "(12x8)^4": [(12, 8)] * 4,
    "mixed": [(3, 2), (64, 64), (7, 5), (1, 4), (6, 6)],
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning"),
    pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning"),
]


@pytest.fixture(autouse=True)
def compiled():
    with settings(compiled=True):
        yield


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in zoo.CASES if "kron" in name.lower()])
def test_law(name, dtype, cupy_library, law):
    law(Case(*make_case(name, cupy_library, dtype)))


def products(library, shapes, dtype, columns):
    """The product and its transpose, and vectors for both."""
    make = Maker(library, dtype)
    op = kronops.kron(*[make(make.draw(*shape)) / shape[1] for shape in shapes])
    for form in (op, op.T):
        size = form.shape[1]
        yield form, make(make.draw(size, columns) if columns else make.draw(size))


@pytest.mark.parametrize("columns", [0, 1, 3, 32, 257])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_equal_to_products_of_matrices(name, dtype, columns, cupy_library):
    if columns > 3 and name == "2^20":
        columns = 5
    for op, x in products(cupy_library, SHAPES[name], dtype, columns):
        assert "by a kernel" in str(op._products.plan(1, max(columns, 1), x.dtype))
        given = x.copy()
        with staying_on_the_gpu(cupy_library, op.backend):
            got = op @ x
        with settings(compiled=False):
            want = op @ x
        got, want, x, given = map(op.backend.to_numpy, (got, want, x, given))
        np.testing.assert_array_equal(x, given)
        tolerance = 1e3 * np.finfo(dtype).eps
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("layout", ["transposed", "strided", "rows"])
def test_any_strides(layout, cupy_library):
    make = Maker(cupy_library, "float64")
    factors = [make.draw(8, 8) for _ in range(4)]
    op, x = kronops.kron(*map(make, factors)), make.draw(8**4, 6)
    dense = np.kron(np.kron(factors[0], factors[1]), np.kron(factors[2], factors[3]))
    if layout == "rows":
        got, want = make(x.T) @ op, x.T @ dense
    else:
        wide = make(np.repeat(x, 2, axis=1))[:, ::2]
        given = op.backend.xp.asarray(make(x.T)).T if layout == "transposed" else wide
        assert not given.flags.c_contiguous
        got, want = op @ given, dense @ x
    np.testing.assert_allclose(op.backend.to_numpy(got), want, rtol=1e-10, atol=1e-8)


def test_shared_memory_stays_within_the_limit(cupy_library):
    import cupy

    from kronops.backends import cuda
    from kronops.backends.cupy import _gpu

    gpu = _gpu(cupy.cuda.runtime.getDevice())
    about = cupy.cuda.Device().attributes
    assert 0 < gpu.room <= about["MaxSharedMemoryPerBlockOptin"]
    assert gpu.bandwidth > 1e10 and gpu.flops > 1e11
    for shapes in SHAPES.values():
        for op, x in products(cupy_library, shapes, "float64", 5):
            for sweep, step in op._products.plan(1, 5, x.dtype).steps:
                if step.kind == "compiled":
                    left, _, right = sweep.view(step)
                    tile = cuda.Kernel(step.shapes, 8).tile(left, right, gpu.room)
                    assert tile.bytes <= gpu.room


def test_on_a_stream_of_the_user(cupy_library):
    import cupy

    make = Maker(cupy_library, "float32")
    op, x = kronops.kron(*[make(make.draw(8, 8)) for _ in range(5)]), make(make.draw(8**5))
    want = op @ x
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        got = op @ x
    stream.synchronize()
    np.testing.assert_array_equal(backend_of(got).to_numpy(got), op.backend.to_numpy(want))
