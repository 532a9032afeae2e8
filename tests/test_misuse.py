"""Misuse that once slipped through: a raw error of something inside, or a number without a word."""

from __future__ import annotations

import numpy as np
import pytest

import kronops
from kronops import (
    BlockDiagonalOperator,
    DenseOperator,
    IdentityOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    SeriesOperator,
    kron,
)
from kronops.kfac import DenseLayer

A = np.array([[2.0, 1.0], [1.0, 3.0]])
B = np.array([[4.0, 1.0, 0.0], [1.0, 5.0, 1.0], [0.0, 1.0, 6.0]])
OP = kron(A, B)
X = np.arange(1.0, 7)
BATCH = np.random.default_rng(0).standard_normal((20, 2))


class Table:
    """What pandas' frames are to us: with a shape, and no array but for NumPy."""

    shape = A.shape

    def __array__(self, *_, **__):
        return A


REFUSED = {
    "pi that is masked": (
        lambda: OP.damped(1.0, "factored", pi=np.ma.masked),
        TypeError,
        "pi is a masked array",
    ),
    "a method that is an array": (
        lambda: OP.damped(1.0, np.array(["exact", "factored"])),
        ValueError,
        "method = array",
    ),
    "a method, without damping": (lambda: OP.damped(0.0, "other"), ValueError, "method = 'other'"),
    "a class": (lambda: DenseOperator(np.ndarray), TypeError, "matrix is a type: an array"),
    "an array that is claimed": (lambda: DenseOperator(A, A), ValueError, "assume = array"),
    "an option that is an array": (
        lambda: SeriesOperator((A, 0 * A), (A, 0 * A), 2, A),
        ValueError,
        "option = array",
    ),
    "a backend that is a number": (lambda: OP.to_backend(3), TypeError, "name is a int: a text"),
    "a backend that is a list": (lambda: OP.to_backend([]), TypeError, "name is a list: a text"),
    "a dtype that is a number": (lambda: OP.astype(3), ValueError, "no real or complex"),
    "a dtype that is a dict": (lambda: OP.astype({}), ValueError, "no real or complex"),
    "a dtype that is no dtype": (
        lambda: OP.astype("float23"),
        ValueError,
        "astype: dtype = 'float23' is no real or complex",
    ),
    "factors without a list": (
        lambda: KroneckerOperator(A, B),
        TypeError,
        "factors is a ndarray: a list of arrays",
    ),
    "factors as a generator": (
        lambda: kron(factor for factor in (A, B)),
        TypeError,
        r"factors\[0\] is a generator: an array is needed, give arrays and operators one by one",
    ),
    "a table of another library": (
        lambda: kron(Table(), B),
        TypeError,
        r"factors\[0\] is a Table: an array is needed, for example numpy\.asarray",
    ),
    "a vector that is a list of numbers": (
        lambda: OP @ list(X),
        TypeError,
        r"x is a list: an array is needed, for example numpy\.asarray",
    ),
    "a gradient by the names of layers, to solve with": (
        lambda: BlockDiagonalOperator({"hidden": A}).solve({"hidden": X[:2]}),
        TypeError,
        "b is a dict: a flat array is needed; op.multiply and op.multiply_inverse take",
    ),
    "weights and bias, to multiply by @": (
        lambda: OP @ (np.ones((1, 3)), np.ones(3)),
        TypeError,
        "x is a tuple: a flat array is needed; op.multiply and op.multiply_inverse take",
    ),
    "a grid for a solver": (
        lambda: kronops.linalg.cg(OP, X.reshape(2, 3)),
        ValueError,
        r"b has shape \(2, 3\), A \(6, 6\): .* would do; b.reshape\(-1\) would do",
    ),
    "a block by its name, as an index": (
        lambda: BlockDiagonalOperator({"hidden": A})["hidden"],
        IndexError,
        r"a block by its name is op\.blocks\['hidden'\]",
    ),
    "a file in no folder": (
        lambda: kronops.save("no folder/covariance.npz", OP),
        FileNotFoundError,
        r"path = .*covariance\.npz: there is no folder .*no folder$",
    ),
    "an identity like nothing": (lambda: IdentityOperator(3), TypeError, "like is a NoneType"),
    "a sum of two arguments": (
        lambda: KroneckerSumOperator(A, A),
        TypeError,
        r"factors are given one by one: a list is needed, \[A, B\]",
    ),
    "weights without bias": (
        lambda: OP.multiply((np.ones((1, 3)), None)),
        ValueError,
        r"v is a pair of an array of shape \(1, 3\) and a NoneType",
    ),
    "damping out of the dtype's range": (
        lambda: DenseOperator(A.astype(np.float32)).damped(1e60),
        OverflowError,
        r"value = 1e\+60 is out of the range of float32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(name):
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call()


def test_scalars_out_of_the_range_of_the_dtype():
    """Of 1e60 times a number of single precision the product may be one again."""
    for factor in (1e60, 1e-60, 1e60j):
        small = np.full(2, 1e-30 if abs(factor) > 1 else 1e30, np.float32)
        for op in (IdentityOperator(2, like=small), DenseOperator(A.astype(np.float32))):
            want = (
                factor
                * (np.eye(2) if isinstance(op, IdentityOperator) else A)
                @ small.astype(float)
            )
            np.testing.assert_allclose((op * factor) @ small, want, rtol=1e-6)
    large = np.full(2, 1e30, np.float32)
    solved = (IdentityOperator(2, like=large) * 1e60).solve(large)
    np.testing.assert_allclose(solved, 1e-30, rtol=1e-6)


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_numbers_and_vectors_of_another_library(library):
    theirs = pytest.importorskip(library)
    scalar = theirs.asarray(2.0)
    for call in (lambda: OP * scalar, lambda: scalar * OP, lambda: OP / scalar):
        with pytest.raises(
            TypeError, match=r"the scalar is a number of .*, the arrays are of numpy"
        ):
            call()
    with pytest.raises(TypeError, match=r"value is a number of .*, the arrays are of numpy"):
        OP.damped(scalar)
    for call in (lambda x: OP @ x, lambda x: x @ OP, OP.solve):  # integers are not cast before
        with pytest.raises(TypeError, match="move one of them"):
            call(theirs.arange(6))


@pytest.mark.parametrize("library", ["numpy", "torch", "array_api_strict"])
@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (float, "float64"),
        (complex, "complex128"),
        ("f4", "float32"),
        (np.float32, "float32"),
        (np.dtype(np.complex64), "complex64"),
    ],
)
def test_dtypes_in_numpys_words(library, dtype, name):
    theirs = pytest.importorskip(library)
    single = kron(*(theirs.asarray(m, dtype=theirs.float32) for m in (A, B)))
    single.astype(getattr(theirs, name))  # then the library's own is known already
    cast = single.astype(dtype)
    assert cast.dtype == getattr(theirs, name)
    np.testing.assert_allclose(cast.to_backend("numpy").to_dense(), OP.to_dense())


@pytest.mark.filterwarnings("error::kronops.DensificationWarning")
@pytest.mark.parametrize("order", [1, 2, np.inf, "nuc"])
def test_norms_of_an_inverse_write_nothing_out(order):
    want = np.linalg.norm(np.linalg.inv(OP.to_dense()), order)
    np.testing.assert_allclose(OP.inverse().norm(order), want, rtol=1e-13)


def test_torch_functions_refuse_operators_in_words():
    torch = pytest.importorskip("torch")
    op = OP.to_backend("torch")
    tensor = torch.eye(6, dtype=torch.float64)
    for call in (
        lambda: torch.linalg.inv(op),
        lambda: torch.matmul(op, tensor),
        lambda: tensor.mv(op),
    ):
        with pytest.raises(TypeError, match=r"an operator is no tensor, .*: op\.to_dense\(\)"):
            call()
    with pytest.raises(TypeError, match=r"wrap the array"):
        tensor + op
    np.testing.assert_allclose((torch.asarray(2.0) * op).to_dense(), 2 * OP.to_dense())

    class Other(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return "theirs"

    assert torch.mul(op, tensor.as_subclass(Other)) == "theirs"  # who else knows is asked


def test_torch_vmap_of_refined_solves_and_of_damping():
    torch = pytest.importorskip("torch")
    a, b, x = map(torch.asarray, (A, B, X))
    for op in (kron(a, b), KroneckerSumOperator([a, b])):
        op.inverse(refine=True)
        both = torch.vmap(lambda v, op=op: op.solve(v, refine=True))(torch.stack([x, 2 * x]))
        np.testing.assert_allclose(both, torch.stack([op.solve(x), 2 * op.solve(x)]), rtol=1e-12)
        values = torch.asarray([0.1, 0.2], dtype=x.dtype)
        damped = torch.vmap(lambda c, op=op: op.damped(c).solve(x))(values)
        want = torch.stack([op.damped(float(c)).solve(x) for c in values])
        np.testing.assert_allclose(damped, want, rtol=1e-12)


@pytest.mark.parametrize("option", [1, 2])
def test_series_that_jit_cannot_refuse_are_nan(option):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def solved(c0, c1):
        op = SeriesOperator((c0, c1), (jnp.eye(1), 0.1 * jnp.eye(1)), 3, option)
        return op.solve(jnp.ones(3)), op.multiply(jnp.ones(3)), op.logdet()

    b = jnp.asarray(B)
    assert all(np.all(np.isfinite(part)) for part in jax.jit(solved)(b, 0.3 * b))
    cases = {
        "does not belong": (b, 3.0 * b),
        "does not equal its adjoint": (jnp.triu(b), 0.0 * b),
        "singular": (jnp.ones((3, 3)), jnp.zeros((3, 3))),
    }
    for words, moments in cases.items():
        with pytest.raises((ValueError, kronops.LinAlgError), match=words):
            solved(*moments)
        assert all(np.all(np.isnan(part)) for part in jax.jit(solved)(*moments)), words


def test_what_jax_cannot_see_is_no_index():
    jax = pytest.importorskip("jax")
    for call in (lambda i: OP[i], lambda i: OP[0, i]):
        with pytest.raises(
            IndexError, match=r"index cannot be seen here .*columns of the identity"
        ):
            jax.jit(call)(0)


def test_a_model_that_takes_no_tap():
    jax = pytest.importorskip("jax")
    from kronops.kfac.jax import capture

    params, x = {"w": jax.numpy.eye(2)}, jax.numpy.asarray(BATCH)
    curvature = capture(lambda params, x: x @ params["w"], params, {"w": DenseLayer()})
    with pytest.raises(TypeError, match=r"model takes \(params, x\): \(params, inputs, tap\)"):
        curvature.update(params, (x, x), "gaussian", "exact")


@pytest.mark.parametrize("flag", ["no", 2, np.ones(2), [True]])
def test_texts_and_arrays_are_no_flags(flag):
    """A text would count as true, whatever it says."""
    op = kronops.kron(np.eye(2), np.eye(3))
    rng = np.random.default_rng(0)
    for call, name in (
        (lambda: op.inverse(refine=flag), "refine"),
        (lambda: op.solve(np.ones(6), refine=flag), "refine"),
        (lambda: op.damped(0.1, refine=flag), "refine"),
        (lambda: op.sample(rng, inverse=flag), "inverse"),
        (lambda: kronops.backends.settings(compiled=flag).__enter__(), "compiled"),
        (lambda: kronops.KroneckerOperator([np.eye(2)], check_finite=flag), "check_finite"),
        (lambda: kronops.DiagonalOperator(np.ones(2), check_finite=flag), "check_finite"),
    ):
        with pytest.raises(TypeError, match=f"{name} = .*True"):
            call()
    assert op.inverse(refine=0) is op.inverse(refine=np.False_)
