"""JAX: operators as pytrees, under jit, vmap and grad; what is kept; values nobody can see."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import zoo

import kronops
import kronops.linalg
from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    LinAlgError,
    SeriesOperator,
    kron,
)
from kronops import tree as operator_tree
from kronops.backends import backend_named
from kronops.planning import TO_BACK, TO_FRONT
from kronops.series_sums import stein_powers, stein_solve

jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = pytest.importorskip("jax.numpy")
test_util = pytest.importorskip("jax.test_util")

from kronops.backends.jax import _compiled, _step  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning"),
    pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def double_precision():
    """For this file alone."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
    jax.clear_caches()


@pytest.fixture
def single_precision():
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


@functools.cache
def least_effort():
    """Options of XLA's compiler, which takes most of the time of this file."""
    options = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
    }
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(np.float32(1))
    except (TypeError, RuntimeError, ValueError):  # of another version
        return {}
    return {"compiler_options": options}


def jit(function, **options):
    return jax.jit(function, **options, **least_effort())


SIZES = 2, 3


def draw(*shape, seed=0, complex=False):
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if complex else values


def definite(n, seed=0, complex=False):
    a = draw(n, n, seed=seed, complex=complex)
    return a @ a.conj().T / n + np.eye(n)


def general(n, seed=0, complex=False):
    return draw(n, n, seed=seed, complex=complex) + 2 * n**0.5 * np.eye(n)


def close(got, want, rtol=1e-9):
    want = np.asarray(want)
    scale = np.abs(want).max() if want.size else 0.0
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=rtol * scale)


def first(stacked):
    return jax.tree.map(lambda part: part[0], stacked)


def same_matrix(op, matrix, rtol=1e-12):
    close(op.to_dense(), matrix, rtol)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Reversal(kronops.LinearOperator):
    """Of a third party, and defined after JAX was imported."""

    weights: object
    label: str = "reversal"

    @property
    def shape(self):
        return len(self.weights), len(self.weights)

    def _matmat(self, x):
        return self.backend.xp.flip(self.weights[:, None] * x, axis=-2)

    def _rmatmat(self, x):
        return self.weights[:, None] * self.backend.xp.flip(x, axis=-2)


# -- pytrees --------------------------------------------------------------------------------------


class TestProducts:
    """Each form that XLA's products have, with vectors on either side."""

    CASES = (
        (((5, 7), (6, 7), (4, 7)), 3, 1, TO_FRONT),
        (((10, 10), (10, 10), (10, 10)), 1, 5, TO_FRONT),
        (((2, 3), (3, 2), (2, 2)), 1, 1, TO_BACK),
        (((2, 3), (3, 1)), 4, 3, TO_BACK),
        (((6, 8), (8, 8), (7, 8)), 400, 1, "dense"),
        (((8, 8), (6, 8), (7, 8)), 1, 300, "dense"),
    )

    @staticmethod
    def operator(shapes, dtype="float64", scale=1.0):
        rng = np.random.default_rng(7)
        factors = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        return kron(*map(jnp.asarray, factors)) * scale, functools.reduce(np.kron, factors) * scale

    @pytest.mark.parametrize("dtype", ("float32", "float64", "complex128"))
    @pytest.mark.parametrize(("shapes", "left", "right", "kind"), CASES)
    def test_are_right(self, shapes, left, right, kind, dtype):
        op, dense = self.operator(shapes, dtype, 2.0)
        x = np.random.default_rng(8).standard_normal((left, dense.shape[1], right)).astype(dtype)
        x = x[:, :, 0] if right == 1 else x[0] if left == 1 else x
        made = op._products(jnp.asarray(x), left, right)
        wanted = np.einsum("ij,ljr->lir", dense, x.reshape(left, -1, right))
        size = np.abs(wanted).max()
        tolerance = 50 * np.finfo(dtype).eps * size
        np.testing.assert_allclose(made.reshape(wanted.shape), wanted, rtol=0, atol=tolerance)
        assert made.dtype == dtype

    @pytest.mark.parametrize(("shapes", "left", "right", "kind"), CASES)
    def test_are_planned(self, shapes, left, right, kind):
        op, _ = self.operator(shapes)
        made = op._products.plan(left, right, jnp.float64)
        assert kind in {step.kind for _, step in made.steps}

    def test_in_the_middle_are_batched_or_not(self):
        """Large factors with few columns, and small ones with many."""
        for (rows, columns), left, right in (((40, 30), 6, 5), ((3, 4), 6, 500)):
            matrix, x = np.ones((rows, columns)), np.arange(left * columns * right, dtype=float)
            made = _step("dense", jnp.asarray(matrix), jnp.asarray(x), (left, columns, right))
            wanted = matrix @ x.reshape(left, columns, right)
            np.testing.assert_allclose(made, wanted, rtol=1e-14)

    @pytest.mark.parametrize(("shapes", "left", "right", "kind"), CASES)
    def test_have_derivatives(self, shapes, left, right, kind):
        """By the vector and by every factor, those of the matrix."""
        op, dense = self.operator(shapes)
        x = jnp.asarray(np.random.default_rng(9).standard_normal((dense.shape[1], right)))

        def total(op, x):
            return jnp.sum((op @ x) ** 2)

        by_op, by_x = jax.grad(total, argnums=(0, 1))(op, x)
        np.testing.assert_allclose(by_x, 2 * dense.T @ (dense @ np.asarray(x)), rtol=1e-9)
        direction = [jnp.cos(factor.matrix) for factor in op.factors]
        slope = sum(jnp.vdot(g.matrix, d) for g, d in zip(by_op.factors, direction, strict=True))
        step = 1e-6
        ends = [
            total(kron(*[f.matrix + t * d for f, d in zip(op.factors, direction, strict=True)]), x)
            for t in (step, -step)
        ]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-5)

    def test_of_one_plan_are_compiled_once(self):
        shapes = ((3, 4), (5, 6), (11, 13))
        x = jnp.ones(4 * 6 * 13)
        products = [self.operator(shapes, scale=scale)[0] for scale in (1.0, 1.0)]
        for op in products:
            op @ x
        program = _compiled(products[0]._products.plan(1, 1, jnp.float64), x.dtype)
        assert program._cache_size() == 1

    def test_hidden_factors_are_not_merged(self):
        """Nobody knows whether products of their entries have digits left."""
        tiny, huge = jnp.full((4, 4), 1e-200), jnp.full(4**8, 1e300)
        made = jax.jit(lambda a, x: kron(*[a] * 2, *[jnp.eye(4)] * 6) @ x)(tiny, huge)
        np.testing.assert_allclose(made, 16e-100, rtol=1e-14)


class TestPytree:
    @pytest.mark.parametrize("name", zoo.CASES)
    def test_flatten_and_unflatten(self, name):
        """Of NumPy's arrays too: they become JAX's when they are handed to jit."""
        backend_named("jax")
        op, _ = zoo.CASES[name](zoo.Maker(np, "float64"))
        leaves, structure = jax.tree.flatten(op)
        assert list(map(id, leaves)) == list(map(id, operator_tree.leaves(op)))
        rebuilt = jax.tree.unflatten(structure, leaves)
        assert type(rebuilt) is type(op) and rebuilt is not op
        assert (rebuilt.shape, rebuilt.domain_shape) == (op.shape, op.domain_shape)
        np.testing.assert_array_equal(rebuilt.to_dense(), op.to_dense())
        again = jax.tree.structure(rebuilt)
        assert again == structure and hash(again) == hash(structure)

    def test_leaves_may_be_anything(self):
        """Transformations put None, shapes and their own marks into a pytree."""
        structure = jax.tree.structure(kron(definite(2), definite(3)).damped(0.5))
        shapes = [jax.ShapeDtypeStruct((n, n), np.float64) for n in (2, 3)]
        for leaves in ([None, None], [object(), object()], shapes, [1, "x"]):
            made = jax.tree.unflatten(structure, leaves)
            taken, again = jax.tree.flatten(made, is_leaf=lambda part: part is None)
            assert taken == leaves and again == structure

    def test_leaves_have_names(self):
        op = KroneckerOperator([jnp.eye(2), DiagonalOperator(jnp.ones(3))])
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(op)[0]]
        names = [jax.tree_util.keystr(path) for path in paths]
        assert names == [".factors[0].matrix", ".factors[1].entries"]

    def test_map(self):
        a, b = definite(2), definite(3)
        doubled = jax.tree.map(lambda leaf: 2 * leaf, kron(jnp.asarray(a), jnp.asarray(b)))
        assert isinstance(doubled, KroneckerOperator)
        same_matrix(doubled, 4 * np.kron(a, b))

    def test_map_takes_nothing_that_was_kept_along(self):
        op = kron(jnp.asarray(definite(2)), jnp.asarray(definite(2, 1)))
        x = jnp.asarray(draw(4))
        for made, factor in ((op, 1), (jax.tree.map(lambda leaf: 2 * leaf, op), 4)):
            matrix = factor * np.asarray(op.to_dense())
            close(made.solve(x), np.linalg.solve(matrix, x))
            close(made.logdet(), np.linalg.slogdet(matrix)[1])
            close(made.damped(0.1).solve(x), np.linalg.solve(matrix + 0.1 * np.eye(4), x))

    def test_third_party_operators(self):
        weights = np.arange(1.0, 4.0)
        op = Reversal(jnp.asarray(weights))
        (leaf,), structure = jax.tree.flatten(op)
        assert leaf is op.weights and jax.tree.unflatten(structure, [leaf]).label == "reversal"
        matrix = np.flip(np.diag(weights), 0)
        x = draw(3)
        got = jit(lambda op, x: (op @ x, op.H @ x, (op @ op).to_dense()))(op, x)
        for one, want in zip(got, (matrix @ x, matrix.T @ x, matrix @ matrix), strict=True):
            close(one, want)
        close(jax.grad(lambda op: (op @ jnp.asarray(x))[0])(op).weights, [0, 0, x[2]])

    def test_labels_are_not_compared(self):
        """A product of factors has other names in its messages, and may follow them in a scan."""
        op = kron(0.5 * jnp.eye(2), jnp.ones((3, 3)))
        assert jax.tree.structure(op @ op) == jax.tree.structure(op)
        last, _ = jax.lax.scan(lambda op, _: (op @ op, None), op, length=2)
        close(last.to_dense(), np.linalg.matrix_power(np.asarray(op.to_dense()), 4))

    def test_operators_that_differ_in_more_than_arrays_differ(self):
        a, b = jnp.asarray(definite(2)), jnp.asarray(definite(3))
        ops = [
            kron(a, b),
            2 * kron(a, b),
            kron(DenseOperator(a, "symmetric"), b),
            KroneckerOperator([a, b], layout="out,in"),
            kron(a, b).damped(0.5),
            kron(a, b).damped(0.25),
        ]
        assert len({jax.tree.structure(op) for op in ops}) == len(ops)


# -- jit: operators go in and come out ------------------------------------------------------------


class TestTransformations:
    a, b, x = definite(2), definite(2, 1), draw(4)
    matrix = np.kron(a, b)

    def op(self):
        return kron(jnp.asarray(self.a), jnp.asarray(self.b))

    def test_argument(self):
        close(jit(lambda op, x: op @ x)(self.op(), self.x), self.matrix @ self.x)

    def test_one_compilation_serves_all_operators_of_one_structure(self):
        runs = []

        @jit
        def product(op, x):
            runs.append(op)
            return op @ x

        for factor in (1.0, 2.0, 3.0):
            op = kron(jnp.asarray(factor * self.a), jnp.asarray(self.b))
            close(product(op, self.x), factor * self.matrix @ self.x)
        assert len(runs) == 1

    def test_result(self):
        made = jit(lambda a, b: kron(a, b).damped(0.5))(self.a, self.b)
        same_matrix(made, self.matrix + 0.5 * np.eye(4))
        close(made.solve(jnp.asarray(self.x)), np.linalg.solve(made.to_dense(), self.x))
        inverse = jit(lambda op: op.inverse())(self.op())
        close(inverse @ jnp.asarray(self.x), np.linalg.solve(self.matrix, self.x))

    def test_closure(self):
        op = self.op()
        close(jit(lambda x: op.solve(op @ x))(self.x), self.x)

    def test_numpy_operators_are_arguments_too(self):
        op = kron(self.a, self.b)
        assert op.backend.name == "numpy"
        got = jit(lambda op, x: (op @ x, op.solve(x)))(op, self.x)
        close(got[0], self.matrix @ self.x)
        close(got[1], np.linalg.solve(self.matrix, self.x))
        assert op.backend.name == "numpy"

    def test_carry_of_a_scan(self):
        def step(carry, weight):
            op, x = carry
            return (kron(*(weight * factor.matrix for factor in op.factors)), op @ x), op.trace()

        start = self.op(), jnp.asarray(self.x)
        (op, x), traces = jax.lax.scan(step, start, jnp.asarray([2.0, 0.5]))
        same_matrix(op, self.matrix)
        close(x, 4 * self.matrix @ (self.matrix @ self.x))
        close(traces, np.trace(self.matrix) * np.array([1.0, 4.0]))

    def test_vmap_makes_a_stack_of_operators(self):
        a, b = (np.stack([definite(n, seed) for seed in range(4)]) for n in SIZES)
        x = draw(4, 6)
        stack = jax.vmap(kron)(a, b)
        assert isinstance(stack, KroneckerOperator)
        assert [leaf.shape for leaf in jax.tree.leaves(stack)] == [a.shape, b.shape]
        got = jit(jax.vmap(lambda op, x: op.solve(x)))(stack, x)
        want = [np.linalg.solve(np.kron(*pair), y) for *pair, y in zip(a, b, x, strict=True)]
        close(got, np.stack(want))

    def test_gradient_by_an_operator_is_an_operator(self):
        op, x = self.op(), jnp.asarray(self.x)
        made = jax.grad(lambda op: op.logdet())(op)
        assert isinstance(made, KroneckerOperator)
        close(made.factors[0].matrix, 2 * np.linalg.inv(self.a).T)
        close(made.factors[1].matrix, 2 * np.linalg.inv(self.b).T)
        value, made = jit(jax.value_and_grad(lambda op: x @ op.solve(x)))(op)
        close(value, self.x @ np.linalg.solve(self.matrix, self.x))
        assert isinstance(made, KroneckerOperator)


# -- jit is eager, for every operator -------------------------------------------------------------


class Tracing(zoo.Maker):
    """Makes a case of the arrays of another making of it, which may be tracers by now."""

    def __init__(self, dtype, arrays=None):
        super().__init__(jnp, dtype)
        self.made, self.given = [], None if arrays is None else iter(arrays)

    def _hand_out(self, array):
        if self.given is not None:
            return next(self.given)
        self.made.append(array)
        return array

    def __call__(self, matrix):
        return self._hand_out(super().__call__(matrix))

    def real(self, values):
        return self._hand_out(super().real(values))


def calls(op, x, y):
    yield "product", lambda: op @ x
    yield "adjoint product", lambda: op.H @ y
    yield "norm", op.norm
    if op.shape[0] != op.shape[1]:
        return
    yield "solve", lambda: op.solve(x)
    yield "slogdet", lambda: tuple(op.slogdet())
    yield "logdet", op.logdet
    yield "trace", op.trace
    yield "diagonal", op.diagonal
    yield "damped solve", lambda: op.damped(0.5).solve(x)
    yield "damped logdet", lambda: op.damped(0.5).logdet()
    yield "power", lambda: op.power(2) @ x
    yield "sqrt", lambda: op.sqrt() @ x
    yield "cholesky", lambda: op.cholesky() @ x
    yield "eigh", lambda: op.eigh().eigenvalues
    if isinstance(op, (KroneckerOperator, SeriesOperator)):
        yield "factored solve", lambda: op.damped(0.5, "factored").solve(x)


def answers(op, x, y):
    """By name; None where there is an error."""
    made = {}
    for name, call in calls(op, x, y):
        try:
            made[name] = call()
        except (LinAlgError, ValueError):
            made[name] = None
    return made


# The case, and what is NaN although NumPy knows it: signs and sizes that steer cannot be seen.
NAN = {
    "kronecker_two_negative_factors": {"sqrt", "cholesky"},
}
# Matrices that are singular by rounding alone: nobody looks at condition numbers under jit.
NEARLY_SINGULAR = {"product_of_rectangles", "mixed_product"}
ILL_POSED = {"solve", "slogdet", "logdet"}
COMPLEX = (
    "dense_definite",
    "diagonal",
    "kronecker_complex_scale",
    "kronecker_damped_general",
    "kronecker_definite",
    "scaled_complex",
)


@pytest.mark.parametrize(
    "name, dtype",
    [(name, "float64") for name in zoo.CASES] + [(name, "complex128") for name in COMPLEX],
)
def test_jit_is_eager(name, dtype):
    """What is computed under jit, of an operator made under jit, is what NumPy computes."""
    rehearsal = Tracing(dtype)
    made, _ = zoo.CASES[name](rehearsal)
    op, _ = zoo.CASES[name](zoo.Maker(np, dtype))
    x, y = (draw(size, complex=dtype == "complex128") for size in reversed(op.shape))

    def run(arrays, op, x, y):
        if op is None:
            op, _ = zoo.CASES[name](Tracing(dtype, arrays))
        return answers(op, x, y)

    # The making of this one looks at values of its own.
    given = made if name == "transposed_sum" else None
    with np.errstate(all="ignore"):
        want = answers(op, x, y)
    got = jit(run)(rehearsal.made, given, x, y)
    assert got.keys() == want.keys()
    wrong = {}
    for what, expected in want.items():
        if name in NEARLY_SINGULAR and what in ILL_POSED:
            continue
        try:
            compare(got[what], expected, what in NAN.get(name, ()))
        except AssertionError as error:
            wrong[what] = " ".join(str(error).split())
    assert wrong == {}


def compare(got, want, nan):
    if want is None:
        assert got is None or not got.size or np.isnan(got).any(), f"{got}, and eager raises"
        return
    assert got is not None, "raises, and eager does not"
    for one, expected in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if nan:
            assert not np.isfinite(one).any()
            continue
        assert one.shape == np.shape(expected) and one.dtype == expected.dtype
        close(one, expected, 1e-8)


# -- vmap -----------------------------------------------------------------------------------------

# Matrices, and what is claimed of them; under jit the claim alone decides which way is gone.
KINDS = {
    "claimed definite": (definite, "positive definite"),
    "definite": (definite, None),
    "general": (general, None),
    "identity multiple": (lambda n, seed=0, complex=False: 2 * np.eye(n), None),
    "claimed identity multiple": (
        lambda n, seed=0, complex=False: 2 * np.eye(n),
        "positive definite",
    ),
}


def factors(kind, complex=False):
    return [jnp.asarray(KINDS[kind][0](n, complex=complex)) for n in SIZES]


def claimed(assume, matrix):
    """An operator of one factor; what is claimed Hermitian is, also where it is varied."""
    if assume is not None:
        matrix = 0.5 * (matrix + matrix.conj().T)
    return DenseOperator(matrix, assume)


def functions(assume, a, b, v, damping, scale):
    """Products, solutions and determinants, by every way of damping."""
    op = kron(claimed(assume, a), claimed(assume, b))
    damped, factored = op.damped(damping), op.damped(damping, "factored")
    total = (scale * KroneckerSumOperator(op.factors)).damped(damping)
    return {
        "multiply": op.multiply(v),
        "adjoint": op.H @ v.reshape(-1),
        "scaled": (scale * op).multiply(v),
        "damped": damped.multiply(v),
        "multiply_inverse": op.multiply_inverse(v),
        "solve": op.solve(v.reshape(-1)),
        "scaled solve": (scale * op).solve(v.reshape(-1)),
        "damped solve": damped.solve(v.reshape(-1)),
        "factored solve": factored.solve(v.reshape(-1)),
        "slogdet": tuple(op.slogdet()),
        "scaled logdet": (scale * op).slogdet().logabsdet,
        "damped slogdet": tuple(damped.slogdet()),
        "factored logdet": factored.slogdet().logabsdet,
        "trace": op.trace(),
        "diagonal": op.diagonal(),
        "sum": total.multiply(v),
        "sum solve": total.solve(v.reshape(-1)),
        "sum logdet": total.slogdet().logabsdet,
    }


def dense_functions(a, b, v, damping, scale):
    """The same, of dense matrices and by NumPy."""
    matrix, flat, identity = np.kron(a, b), np.ravel(v), np.eye(6)
    pi = np.sqrt((np.trace(a).real / 2) / (np.trace(b).real / 3))
    root = damping**0.5
    factored = np.kron(a + pi * root * np.eye(2), b + root / pi * np.eye(3))
    damped = matrix + damping * identity
    total = scale * (np.kron(a, np.eye(3)) + np.kron(np.eye(2), b)) + damping * identity
    return {
        "multiply": (matrix @ flat).reshape(v.shape),
        "adjoint": matrix.conj().T @ flat,
        "scaled": scale * (matrix @ flat).reshape(v.shape),
        "damped": (damped @ flat).reshape(v.shape),
        "multiply_inverse": np.linalg.solve(matrix, flat).reshape(v.shape),
        "solve": np.linalg.solve(matrix, flat),
        "scaled solve": np.linalg.solve(scale * matrix, flat),
        "damped solve": np.linalg.solve(damped, flat),
        "factored solve": np.linalg.solve(factored, flat),
        "slogdet": tuple(np.linalg.slogdet(matrix)),
        "scaled logdet": np.linalg.slogdet(scale * matrix)[1],
        "damped slogdet": tuple(np.linalg.slogdet(damped)),
        "factored logdet": np.linalg.slogdet(factored)[1],
        "trace": np.trace(matrix),
        "diagonal": np.diag(matrix),
        "sum": (total @ flat).reshape(v.shape),
        "sum solve": np.linalg.solve(total, flat),
        "sum logdet": np.linalg.slogdet(total)[1],
    }


class TestVmap:
    @pytest.mark.parametrize("kind", ["claimed definite", "general"])
    def test_over_everything(self, kind):
        """Factors, vectors and numbers, each time of their own."""
        seeds = range(3)
        a, b = (np.stack([KINDS[kind][0](n, i) for i in seeds]) for n in SIZES)
        v, numbers = draw(3, *SIZES), np.array([0.3, 0.7, 1.1])
        function = functools.partial(functions, KINDS[kind][1])
        made = jit(jax.vmap(function))(a, b, v, numbers, numbers + 1)
        for i in seeds:
            want = dense_functions(a[i], b[i], v[i], numbers[i], numbers[i] + 1)
            one = jax.tree.map(lambda part, i=i: part[i], made)
            jax.tree.map(close, one, want)

    @pytest.mark.parametrize("assume", ["symmetric", "general"])
    def test_over_vectors_of_an_operator_outside(self, assume):
        """Eagerly: nothing is staged, and what is made of the operator itself is kept."""
        matrix = definite(2) if assume == "symmetric" else general(2)
        op = DenseOperator(jnp.asarray(matrix), assume)
        op = kron(op, op)
        x = draw(3, 4)
        for form, dense in (
            (op, np.kron(matrix, matrix)),
            (op.damped(0.5), np.kron(matrix, matrix) + 0.5 * np.eye(4)),
        ):
            close(jax.vmap(lambda x, form=form: form @ x)(x), x @ dense.T)
            close(jax.vmap(form.solve)(x), np.linalg.solve(dense, x.T).T)
        assert not tracers_in(op)


@pytest.mark.parametrize("assume", ["positive definite", None])
def test_functions_of_operators_under_jit(assume):
    a, b, x = definite(2), definite(3), draw(6)

    def run(a, b, x):
        a, b = (DenseOperator(matrix, assume) for matrix in (a, b))
        op, total = kron(a, b), KroneckerSumOperator([a, b])
        logarithm = op.logm() @ x if assume else x
        return total.expm() @ x, logarithm, op.svd().S, op.lstsq(x), total.pinv() @ x

    jax.tree.map(close, jit(run)(a, b, x), run(a, b, x))


# -- derivatives ----------------------------------------------------------------------------------


def differentiable(assume, *args):
    """The functions whose derivatives are checked; signs of real matrices have none."""
    made = functions(assume, *args)
    sign, logabsdet = made.pop("slogdet")
    damped_sign, damped_logabsdet = made.pop("damped slogdet")
    if assume is None and jnp.iscomplexobj(args[0]):
        made |= {"sign": sign, "damped sign": damped_sign}
    return made | {"logabsdet": logabsdet, "damped logabsdet": damped_logabsdet}


def solutions(assume, a, b, v, damping):
    op = kron(claimed(assume, a), claimed(assume, b))
    return op.solve(v), op.damped(damping).solve(v)


def first_of_solutions(assume, *args):
    weights = tuple(jnp.asarray(draw(6, seed=seed)) for seed in (1, 2))
    return jax.vjp(functools.partial(solutions, assume), *args)[1](weights)


@functools.cache
def derivatives(function, *static):
    """Compiled: the function with its forward derivative, and the reverse one."""
    function = functools.partial(function, *static)
    forward = jit(lambda args, tangents: jax.jvp(function, args, tangents))
    reverse = jit(lambda args, cotangents: jax.vjp(function, *args)[1](cotangents))
    return forward, reverse


def check_derivatives(args, function, *static, tolerance=1e-6):
    """Against finite differences, in both modes."""
    forward, reverse = derivatives(function, *static)
    still = jax.tree.map(np.zeros_like, args)

    def value(*args):
        return forward(args, still)[0]

    def with_vjp(*args):
        return value(*args), lambda cotangents: reverse(args, cotangents)

    allowed = {"atol": tolerance, "rtol": tolerance}
    test_util.check_jvp(value, forward, args, **allowed)
    test_util.check_vjp(value, with_vjp, args, **allowed)


class TestDerivatives:
    """By factors, vector, damping and scale at once."""

    def args(self, kind, complex=False):
        v = jnp.asarray(draw(*SIZES, complex=complex))
        return *factors(kind, complex), v, jnp.asarray(0.7), jnp.asarray(1.5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_first(self, kind):
        check_derivatives(self.args(kind), differentiable, KINDS[kind][1])

    @pytest.mark.parametrize("kind", ["claimed definite", "general"])
    def test_first_of_complex_matrices(self, kind):
        check_derivatives(self.args(kind, complex=True), differentiable, KINDS[kind][1])

    @pytest.mark.parametrize("kind", ["claimed identity multiple", "general"])
    def test_second_of_solutions(self, kind):
        """Of the reverse derivative, both of its own."""
        a, b, v, damping, _ = self.args(kind)
        args = a, b, jnp.ravel(v), damping
        check_derivatives(args, first_of_solutions, KINDS[kind][1], tolerance=1e-5)

    @pytest.mark.parametrize("kind", ["identity multiple", "general"])
    def test_outside_of_jit(self, kind):
        """Where values are seen, and factorisations are made of them, derivatives are the same."""
        make, assume = KINDS[kind]
        args = *(jnp.asarray(make(2, seed)) for seed in (0, 1)), jnp.asarray(draw(4)), 0.7

        def function(a, b, v, damping):
            op = kron(claimed(assume, a), claimed(assume, b))
            damped = op.damped(damping)
            return op.solve(v), damped.solve(v), damped.slogdet().logabsdet

        made, reverse = jax.vjp(function, *args)
        want = jit(lambda args, weights: jax.vjp(function, *args)[1](weights))(args, made)
        jax.tree.map(close, reverse(made), want)

    @pytest.mark.parametrize("kind", ["definite", "general"])
    def test_second_of_a_determinant_by_schur_forms(self, kind):
        """Right by the damping, an error by the factors."""
        make, _ = KINDS[kind]
        a, b = (jnp.asarray(make(n, n)) for n in SIZES)

        def logdet(a, c):
            return kron(a, b).damped(c).slogdet().logabsdet

        def dense(a, c):
            return jnp.linalg.slogdet(jnp.kron(a, b) + c * jnp.eye(len(a) * len(b)))[1]

        for second in (jax.hessian(logdet), jit(jax.hessian(logdet))):
            with pytest.raises(TypeError, match="no second one"):
                second(a, 0.7)
        close(jit(jax.hessian(logdet, 1))(a, 0.7), jax.hessian(dense, 1)(a, 0.7))
        close(jax.hessian(logdet, 1)(a, 0.7), jax.hessian(dense, 1)(a, 0.7))

    def test_of_a_matrix_that_happens_to_be_symmetric(self):
        """Where that is seen, and where it is not; what is claimed enters as its Hermitian part."""
        a, b, x = jnp.asarray(definite(2)), jnp.asarray(definite(3)), jnp.asarray(draw(6))

        def solved(assume):
            factors_of = lambda a: (DenseOperator(a, assume), DenseOperator(b, assume))  # noqa: E731
            return lambda a: kron(*factors_of(a)).damped(0.5).H.solve(x)[0]

        def dense(a):
            return jnp.linalg.solve(jnp.kron(a, b).T + 0.5 * jnp.eye(6), x)[0]

        for transform in (lambda f: f, jit, lambda f: lambda a: jax.vmap(f)(a[None])[0]):
            close(transform(jax.grad(solved(None)))(a), jax.grad(dense)(a))
            want = jax.grad(lambda a: dense(0.5 * (a + a.T)))(a)
            close(transform(jax.grad(solved("symmetric")))(a), want)
        logdet = lambda a: DenseOperator(a).logdet()  # noqa: E731
        close(jax.hessian(logdet)(a), jax.hessian(lambda a: jnp.linalg.slogdet(a)[1])(a))

    def test_of_repeated_eigenvalues_are_finite(self):
        """The gradient of a function of eigenvectors would be NaN here."""
        one = 3 * jnp.eye(3)

        def function(a, b):
            op = kron(DenseOperator(a, "symmetric"), DenseOperator(b, "symmetric")).damped(0.1)
            return op.logdet() + jnp.sum(op.solve(jnp.ones(9)))

        a, b = jit(jax.grad(function, argnums=(0, 1)))(one, one)
        ones, weight = np.ones((3, 3)), 3 / (9 + 0.1)
        close(a, 3 * weight * np.eye(3) - 3 * weight / (9 + 0.1) * ones)
        close(b, a)

    def test_by_entries_of_a_diagonal(self):
        x = jnp.asarray(draw(4))

        def function(d, damping):
            op = DiagonalOperator(d).damped(damping)
            return op @ x, op.solve(x), op.slogdet().logabsdet, op.power(-0.5) @ x

        check_derivatives((jnp.asarray(draw(4) + 3), jnp.asarray(0.7)), function)

    def test_by_moments_of_a_series(self):
        x = jnp.asarray(draw(6))

        def function(moments):
            moments = [(0.5 * (c0 + c0.T), c1) for c0, c1 in moments]
            op = SeriesOperator(*moments, timesteps=3, option=1)
            return op @ x, op.solve(x)

        moments = [(jnp.asarray(definite(n)), jnp.asarray(0.1 * draw(n, n))) for n in SIZES]
        check_derivatives((moments,), function)


# -- what is kept ---------------------------------------------------------------------------------


def tracers_in(value, seen=None):
    """The names of the tracers that hang on an object, however deep."""
    seen = {} if seen is None else seen
    if id(value) in seen or isinstance(value, (type, str, weakref.ref)):
        return []
    seen[id(value)] = value
    if isinstance(value, jax.core.Tracer):
        return [""]
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = enumerate(value)
    elif type(value).__module__.startswith("kronops"):
        parts = vars(value).items()
    else:
        return []
    return [f".{name}{deeper}" for name, part in parts for deeper in tracers_in(part, seen)]


FACTORISATIONS = ("cholesky", "lu", "eigh", "schur")


@pytest.fixture
def factorisations(monkeypatch):
    """The names of the factorisations that were made, in order."""
    made = []
    backend = backend_named("jax")

    def counting(name, function):
        def counted(*args):
            made.append(name)
            return function(*args)

        return counted

    for name in FACTORISATIONS:
        monkeypatch.setattr(backend, name, counting(name, getattr(backend, name)))
    return made


# An operator, and the factorisations that all of its uses need.
KEPT = {
    "definite": ("positive definite", ["cholesky"] * 2, lambda op: op),
    "general": ("general", ["lu"] * 2, lambda op: op),
    "damped": ("symmetric", ["eigh"] * 2, lambda op: op.damped(0.5)),
    "damped general": ("general", ["schur"] * 2, lambda op: op.damped(0.5)),
    "factored": ("positive definite", ["cholesky"] * 2, lambda op: op.damped(0.5, "factored")),
    "sum": ("symmetric", ["eigh"] * 2, lambda op: KroneckerSumOperator(op.factors)),
    "general sum": ("general", ["schur"] * 2, lambda op: KroneckerSumOperator(op.factors)),
}


class TestKept:
    def make(self, assume, form):
        kind = general if assume == "general" else definite
        return form(kron(*(DenseOperator(jnp.asarray(kind(2, seed)), assume) for seed in (0, 1))))

    @pytest.mark.parametrize("name", KEPT)
    def test_factorised_once_outside(self, name, factorisations):
        assume, needed, form = KEPT[name]
        op, x = self.make(assume, form), jnp.asarray(draw(4))
        want = np.linalg.solve(op.to_dense(), x)
        for _ in range(2):
            close(op.solve(x), want)
        close(op.inverse() @ x, want)
        assert factorisations == needed

    @pytest.mark.parametrize(
        "name, how", [(name, "jit") for name in KEPT] + [("damped", "vmap"), ("damped", "scan")]
    )
    def test_factorised_once_in_the_midst_of_a_trace(self, name, how, factorisations):
        """What is kept then serves everywhere."""
        assume, needed, form = KEPT[name]
        op, x = self.make(assume, form), jnp.asarray(draw(4))
        uses = {
            "jit": lambda x: jit(lambda x: op.solve(x))(x),
            "vmap": lambda x: jax.vmap(op.solve)(x[None])[0],
            "scan": lambda x: jax.lax.scan(lambda x, _: (op.solve(x), None), x, length=1)[0],
        }
        want = np.linalg.solve(op.to_dense(), x)
        close(uses[how](x), want)
        # JAX asks at once how the transposed system would be solved: a Schur form is made for it.
        assert factorisations == (2 * needed if "schur" in needed else needed)
        factorisations.clear()
        close(uses[how](2 * x), 2 * want)
        close(uses["jit"](x), want)
        close(op.solve(x), want)
        assert factorisations == []
        assert tracers_in(op) == []

    def test_no_factorisation_is_in_the_program(self):
        """It is a constant there, and not computed in every call."""
        for assume, _, form in KEPT.values():
            op = self.make(assume, form)
            program = str(jax.make_jaxpr(op.solve)(jnp.zeros(4)))
            assert not any(f" {name}[" in program for name in FACTORISATIONS)

    def test_the_determinant_is_of_what_is_kept(self, factorisations):
        op = self.make("positive definite", lambda op: op)
        value = jit(op.logdet)()
        assert factorisations == ["cholesky"] * 2
        close(op.logdet(), value)
        op.solve(jnp.zeros(4))
        assert factorisations == ["cholesky"] * 2

    @pytest.mark.parametrize("name", KEPT)
    def test_no_tracer(self, name):
        """After every use in every transformation."""
        assume, _, form = KEPT[name]
        op, x = self.make(assume, form), jnp.asarray(draw(4))

        def use(x):
            parts = (op.H @ x, op.T @ x, op.solve(x), op.inverse() @ x, (2 * op).solve(x))
            return sum(parts) + op.slogdet().logabsdet + op.trace() + op.diagonal()

        jax.make_jaxpr(use)(x)
        jax.make_jaxpr(jax.vmap(use))(x[None])
        jax.make_jaxpr(jax.grad(lambda x: jnp.sum(use(x))))(x)
        assert tracers_in(op) == []
        close(op.solve(op @ x), x)

    def test_no_leak_that_jax_knows_of(self):
        op, x = self.make("symmetric", lambda op: op.damped(0.5)), jnp.asarray(draw(4))
        with jax.checking_leaks():
            jit(lambda op, x: op.solve(x))(op, x)
            jit(lambda x: op.solve(x))(x)
        close(op.solve(op @ x), x)

    def test_no_tracer_of_an_operator_whose_arrays_are_traced(self):
        """It is used twice within, and its fields are all the tracers that hang on it."""
        inside = []

        def use(op, x):
            inside.append(op)
            return op.solve(x) + op.solve(2 * x) + op.logdet() + op.damped(0.5).solve(x)

        op, x = self.make("positive definite", lambda op: op), jnp.asarray(draw(4))
        jax.make_jaxpr(use)(op, x)
        jax.make_jaxpr(jax.vmap(use, (None, 0)))(op, x[None])
        jax.grad(lambda op: jnp.sum(use(op, x)))(op)
        assert len(inside) == 3
        own = {f".factors.{i}.matrix" for i in (0, 1)}
        for used in inside:
            assert all(place.endswith(".matrix") for place in tracers_in(used))
        assert own <= set(tracers_in(inside[0])) and own <= set(tracers_in(inside[2]))

    def test_an_operator_of_another_trace_is_not_confused(self):
        """Made under one jit, handed out, and used under another."""
        op = jit(lambda a, b: kron(a, b))(definite(2), definite(2, 1))
        x = draw(4)
        for _ in range(2):
            close(jit(lambda x: op.solve(x))(x), np.linalg.solve(op.to_dense(), x))
        assert tracers_in(op) == []


# -- where values cannot be seen ------------------------------------------------------------------

UNSEEN = {
    "jit": lambda function: jit(function),
    "vmap": lambda function: lambda a: first(jax.vmap(function)(jnp.asarray(a)[None])),
}
INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])
SKEW = np.array([[2.0, 1.0], [-1.0, 2.0]])
SINGULAR = np.array([[1.0, 2.0], [2.0, 4.0]])
GOOD = np.array([[2.0, 1.0], [1.0, 2.0]])
ONES = np.ones(2)

# What is computed, of which matrix it is right, and of which ones it is NaN.
CONTRACT = {
    "solve, claimed definite": (
        lambda a: DenseOperator(a, "positive definite").solve(jnp.ones(2)),
        lambda a: np.linalg.solve(a, ONES),
        [INDEFINITE, -GOOD],
    ),
    "logdet, claimed definite": (
        lambda a: DenseOperator(a, "positive definite").logdet(),
        lambda a: np.linalg.slogdet(a)[1],
        [INDEFINITE, -GOOD],
    ),
    "cholesky, claimed definite": (
        lambda a: DenseOperator(a, "positive definite").cholesky() @ jnp.ones(2),
        lambda a: np.linalg.cholesky(a) @ ONES,
        [INDEFINITE, -GOOD],
    ),
    "eigh, claimed definite": (
        lambda a: DenseOperator(a, "positive definite").eigh().eigenvalues,
        np.linalg.eigvalsh,
        [INDEFINITE, -GOOD],
    ),
    "solve": (
        lambda a: DenseOperator(a).solve(jnp.ones(2)),
        lambda a: np.linalg.solve(a, ONES),
        [SINGULAR, np.zeros((2, 2)), np.diag([1.0, 0.0])],
    ),
    "solve of a product": (
        lambda a: kron(a, jnp.eye(2)).solve(jnp.ones(4)),
        lambda a: np.linalg.solve(np.kron(a, np.eye(2)), np.ones(4)),
        [SINGULAR, np.zeros((2, 2))],
    ),
    "logdet": (
        lambda a: DenseOperator(a).logdet(),
        lambda a: np.linalg.slogdet(a)[1],
        [INDEFINITE, np.diag([-1.0, 3.0])],
    ),
    "logdet of a product": (
        lambda a: kron(a, np.eye(3) * jnp.ones(())).logdet(),
        lambda a: 3 * np.linalg.slogdet(a)[1],
        [INDEFINITE],
    ),
    "eigh": (
        lambda a: DenseOperator(a).eigh().eigenvalues,
        np.linalg.eigvalsh,
        [SKEW],
    ),
    "eigenvectors": (
        lambda a: abs(DenseOperator(a).eigh().eigenvectors.to_dense()),
        lambda a: abs(np.linalg.eigh(a)[1]),
        [SKEW],
    ),
    "cholesky": (
        lambda a: DenseOperator(a).cholesky() @ jnp.ones(2),
        lambda a: np.linalg.cholesky(a) @ ONES,
        [SKEW, INDEFINITE],
    ),
    "cholesky of a product": (
        lambda a: kron(a, a).cholesky() @ jnp.ones(4),
        lambda a: np.linalg.cholesky(np.kron(a, a)) @ np.ones(4),
        [SKEW, INDEFINITE],
    ),
    "sqrt": (
        lambda a: DenseOperator(a).sqrt().power(2).to_dense(),
        lambda a: a,
        [SKEW, INDEFINITE],
    ),
    "power of a product": (
        lambda a: kron(a, a).power(-0.5).power(-2).to_dense(),
        lambda a: np.kron(a, a),
        [SKEW, INDEFINITE],
    ),
}


@functools.cache
def whole_contract():
    """In one program, to save time."""
    return jit(lambda a: {name: function(a) for name, (function, *_) in CONTRACT.items()})


class TestUnseen:
    @pytest.mark.parametrize(
        "name, how",
        [(name, "jit") for name in CONTRACT]
        + [(name, "vmap") for name in ("solve, claimed definite", "solve", "logdet", "sqrt")],
    )
    def test_right_or_nan(self, name, how):
        function, want, wrong = CONTRACT[name]
        if how == "jit":
            unseen = lambda a: whole_contract()(a)[name]  # noqa: E731
        else:
            unseen = UNSEEN[how](function)
        close(unseen(GOOD), want(GOOD))
        for matrix in wrong:
            assert np.isnan(unseen(matrix)).all(), f"of {matrix.tolist()}"

    def test_eagerly_each_is_an_error(self):
        for function, _, wrong in CONTRACT.values():
            for matrix in wrong:
                with pytest.raises(LinAlgError):
                    function(jnp.asarray(matrix))

    def test_complex(self):
        """Hermitian is what counts, not symmetric."""
        hermitian, symmetric = (np.array([[2, 1j], [s * 1j, 2]]) for s in (-1, 1))
        values = jit(lambda a: DenseOperator(a).eigh().eigenvalues)
        close(values(hermitian), [1, 3])
        assert np.isnan(values(symmetric)).all()
        logdet = jit(lambda a: DenseOperator(a).logdet())
        close(logdet(hermitian), np.log(3))
        assert np.isnan(logdet(1j * hermitian))

    @pytest.mark.parametrize("how", UNSEEN)
    def test_zeros_of_a_diagonal(self, how):
        d, good = np.array([2.0, 0.0, 4.0]), np.array([2.0, 1.0, 4.0])
        for function, power in (
            (lambda d: DiagonalOperator(d).solve(jnp.ones(3)), -1),
            (lambda d: DiagonalOperator(d).inverse().diagonal(), -1),
            (lambda d: DiagonalOperator(d).power(-0.5).diagonal(), -0.5),
        ):
            unseen = UNSEEN[how](function)
            close(unseen(good), good**power)
            made = np.asarray(unseen(d))
            assert np.isnan(made[1]) and not np.isinf(made).any()
        roots = UNSEEN[how](lambda d: DiagonalOperator(d).sqrt().diagonal())
        close(roots(d), d**0.5)
        assert np.isnan(roots(-good)).any()
        assert np.isnan(UNSEEN[how](lambda d: DiagonalOperator(d).cholesky().diagonal())(-d)).any()

    def test_eigenvalues_that_are_not_real(self):
        d = np.array([1.0, 2.0 + 1j])
        assert np.isnan(jit(lambda d: DiagonalOperator(d).eigh().eigenvalues)(d)).any()
        assert np.isnan(jit(lambda d: DiagonalOperator(d).sqrt().diagonal())(d)).any()
        assert np.isnan(jit(lambda d: DiagonalOperator(d).cholesky().diagonal())(d)).any()

    @pytest.mark.parametrize(
        "method, how", [("exact", "jit"), ("factored", "jit"), ("exact", "vmap")]
    )
    def test_negative_damping(self, method, how):
        op = kron(*(DenseOperator(jnp.asarray(GOOD), "symmetric") for _ in range(2)))

        def function(value):
            damped = op.damped(value, method)
            return damped @ jnp.ones(4), damped.solve(jnp.ones(4)), damped.slogdet().logabsdet

        unseen = UNSEEN[how](function)
        jax.tree.map(close, unseen(0.5), function(0.5))
        assert all(np.isnan(part).all() for part in unseen(-0.5))

    def test_singular_determinants_are_known(self):
        """They are no error where values are seen, and the same where they are not."""
        for function in (
            lambda a: tuple(DenseOperator(a).slogdet()),
            lambda a: tuple(kron(a, jnp.eye(2)).slogdet()),
            lambda a: tuple(DiagonalOperator(a).slogdet()),
        ):
            for matrix in (np.zeros((2, 2)), np.diag([1.0, 0.0]), SINGULAR * [[1], [0]]):
                sign, logabsdet = jit(function)(matrix)
                assert sign == 0 and logabsdet == -np.inf


# -- precision ------------------------------------------------------------------------------------


def single_results(op, x, number):
    """Everything that a float32 operator gives, by name."""
    yield "product", op @ x
    yield "structured", op.multiply(jnp.reshape(x, op.domain_shape))
    yield "solve", op.solve(x)
    yield "logdet", op.logdet()
    yield "sign", op.slogdet().sign
    yield "trace", op.trace()
    yield "diagonal", op.diagonal()
    yield "norm", op.norm()
    yield "matrix", op.to_dense()
    if op.hermitian:
        yield "eigenvalues", op.eigh().eigenvalues
        yield "sqrt", op.sqrt() @ x
        yield "power", op.power(-1.5) @ x
        yield "cholesky", op.cholesky() @ x
    for name, made in (
        ("scaled", op * number),
        ("divided", op / number),
        ("damped", op.damped(number)),
        ("factored", op.damped(number, "factored")),
        ("shifted", op + number * IdentityOperator(op.shape[0], like=x)),
        ("damped twice", op.damped(number).damped(0.5)),
    ):
        yield name, made @ x
        yield f"{name} solve", made.solve(x)
        yield f"{name} logdet", made.logdet()
        yield f"{name} trace", made.trace()
        yield f"{name} diagonal", made.diagonal()


NUMBERS = {
    "Python's": 0.7,
    "NumPy's": np.float64(0.7),
    "an array": np.asarray(0.7),
    "JAX's": "float64",
}


class TestSinglePrecision:
    def op(self, assume):
        arrays = (jnp.asarray(definite(n), dtype="float32") for n in SIZES)
        return kron(*(DenseOperator(array, assume) for array in arrays))

    @staticmethod
    def not_single(results):
        return {name: made.dtype for name, made in results.items() if made.dtype != np.float32}

    @pytest.mark.parametrize("assume", ["positive definite", "general"])
    @pytest.mark.parametrize("number", NUMBERS)
    def test_stays_with_x64(self, number, assume):
        """Operators and vectors are traced, to save time."""
        number = jnp.asarray(0.7) if number == "JAX's" else NUMBERS[number]
        assert jnp.asarray(0.7).dtype == np.float64
        op, x = self.op(assume), jnp.asarray(draw(6), dtype="float32")
        made = jax.eval_shape(lambda op, x: dict(single_results(op, x, number)), op, x)
        assert self.not_single(made) == {}

    def test_stays_where_nothing_is_traced(self):
        op, x = self.op("positive definite"), jnp.asarray(draw(6), dtype="float32")
        for number in (0.7, jnp.asarray(0.7)):
            damped = (number * op).damped(number)
            made = (damped @ x, damped.solve(x), damped.logdet(), damped.trace(), damped.diagonal())
            assert {part.dtype for part in made} == {np.dtype("float32")}

    @pytest.mark.parametrize("assume", ["positive definite", "general"])
    def test_stays_without_x64(self, assume, single_precision):
        op, x = self.op(assume), jnp.asarray(draw(6), dtype="float32")
        made = jax.eval_shape(lambda op, x: dict(single_results(op, x, 0.7)), op, x)
        assert self.not_single(made) == {}

    @pytest.mark.parametrize("assume", ["positive definite", "general"])
    def test_stays_where_the_number_is_traced(self, assume):
        """A float64, as numbers are."""
        op, x = self.op(assume), jnp.asarray(draw(6), dtype="float32")

        def run(op, x, number):
            return dict(single_results(op, x, number))

        made = jax.eval_shape(run, op, x, jnp.asarray(0.7))
        assert self.not_single(made) == {}

    def test_double_precision_is_not_cut_off_silently(self, single_precision):
        op = kron(definite(2), definite(3))
        with pytest.raises(TypeError, match=r"float32 of float64.*astype.*jax_enable_x64"):
            op.to_backend("jax")
        with pytest.raises(TypeError, match="complex64 of complex128"):
            kron(definite(2, complex=True), definite(3)).to_backend("jax")
        assert op.astype("float32").to_backend("jax").dtype == np.float32

    def test_double_precision_comes_along_where_it_is_allowed(self):
        op = kron(definite(2), definite(3)).to_backend("jax")
        assert op.backend.name == "jax" and op.dtype == np.float64
        same_matrix(op, np.kron(definite(2), definite(3)))


# -- devices --------------------------------------------------------------------------------------

TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np, pytest
jax.config.update("jax_enable_x64", True)
import kronops
from kronops import DenseOperator, DiagonalOperator, IdentityOperator, SeriesOperator, kron

first, second = jax.devices()
draw = np.random.default_rng(0).standard_normal
def there(array): return jax.device_put(array, second)
def definite(n): a = draw((n, n)); return there(a @ a.T + np.eye(n))
def general(n): return there(draw((n, n)) + 3 * np.eye(n))

pair, other = kron(definite(2), definite(2)), kron(general(2), general(2))
moment = definite(2), there(0.1 * np.eye(2))
ops = [
    DenseOperator(general(4)),
    DiagonalOperator(there(np.arange(1.0, 5.0))),
    IdentityOperator(4, like=there(np.ones(1))),
    2 * pair,
    pair.damped(0.5),
    other.damped(0.5),
    kronops.block_diag(definite(2), general(2)),
    SeriesOperator(moment, moment, 3, 1),
]
x = there(draw(4))
for op in ops:
    results = [op @ x, op.H @ x, op.solve(x), op.slogdet().sign, op.logdet(), op.trace()]
    results += [op.diagonal(), op.norm(), op.to_dense()]
    if op.hermitian:
        results += [op.eigh().eigenvalues, op.sqrt() @ x]
    assert op.device == second, op
    for i, result in enumerate(results):
        assert result.device == second, (op, i, result.device)
    moved = op.to_device(first)
    assert moved.device == first and op.device == second
    assert {leaf.device for leaf in jax.tree.leaves(moved)} == {first}
    for name, call in (("x", op.matvec), ("b", op.solve)):
        said = f"{name} is on device .*0, the operator on .*1: .*op.to_device"
        with pytest.raises(TypeError, match=said):
            call(jax.device_put(x, first))
moved = pair.to_device(first)
here = jax.device_put(x, first)
assert (moved @ here).device == moved.solve(here).device == moved.logdet().device == first
with pytest.raises(TypeError, match=r"factors.0. is on device .*1, factors.1. on .*0: bring"):
    kron(definite(2), jax.device_put(definite(2), first))
assert jax.jit(lambda op, x: op.solve(x))(pair, x).device == second
assert jax.jit(lambda x: pair.damped(0.5).solve(x))(x).device == second
print("passed")
"""


def fresh(code, **environment):
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_results_are_on_the_device_of_the_operator():
    options = {"xla_force_host_platform_device_count": 2} | least_effort().get(
        "compiler_options", {}
    )
    flags = " ".join(f"--{name}={value}" for name, value in options.items())
    assert fresh(TWO_DEVICES, XLA_FLAGS=flags.lower(), JAX_PLATFORMS="cpu") == "passed"


@pytest.mark.parametrize("order", ["jax, kronops", "kronops, jax"])
def test_numpy_operators_are_pytrees_in_whatever_order_one_imports(order):
    code = (
        f"import {order}, numpy as np\n"
        "op = kronops.kron(np.eye(2), 2 * np.eye(2)).damped(1.0)\n"
        "print(jax.jit(lambda op, x: op.solve(op @ x))(op, np.ones(4)).tolist())"
    )
    assert fresh(code, JAX_PLATFORMS="cpu") == "[1.0, 1.0, 1.0, 1.0]"


# -- what is compiled for one operator serves no other ---------------------------------------------


def test_a_real_and_a_complex_scale_of_one_value_are_two():
    op, x = kron(jnp.eye(2), jnp.eye(3)), jnp.ones(6)
    for scales in ((2.0, 2 + 0j), (2 + 0j, 2.0)):
        product = jit(lambda op, x: op.rmatvec(x))
        for scale in scales:
            assert product(scale * op, x).dtype == (scale * op).rmatvec(x).dtype


def test_a_stack_of_operators_says_that_it_is_one():
    stack = jax.vmap(kron)(jnp.ones((2, 4, 4)), jnp.ones((2, 3, 3)))
    assert "a stack of operators" in repr(stack)
    with pytest.raises(ValueError, match="a stack of operators"):
        stack @ jnp.ones(12)


def test_double_precision_that_is_not_allowed_is_no_single():
    with jax.enable_x64(False):
        op = kron(jnp.eye(2), jnp.eye(3))
        with (
            pytest.warns(UserWarning, match="x64"),
            pytest.raises(TypeError, match="jax_enable_x64"),
        ):
            op.astype("float64")


def test_iterative_solves_say_what_they_must_see():
    op = kron(jnp.eye(2), jnp.eye(3)) + kronops.DiagonalOperator(jnp.arange(1.0, 7.0))
    with pytest.raises(TypeError, match="must see its residual"):
        jax.jit(lambda b: kronops.linalg.iterative_solve(op, b).x)(jnp.ones(6))


# -- what mutants asked for, whose forks JAX does not survive --------------------------------------


def test_programs_are_made_outside_of_traces():
    a, x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3))), jnp.arange(9.0)
    wanted = 3 * np.kron(a, a) @ np.asarray(x)
    op = KroneckerOperator([a, a], 3.0)
    inside = jit(lambda x: op @ x)(x)  # by a program that is kept for outside
    traced = jit(lambda a, x: KroneckerOperator([a, a], 3.0) @ x)(a, x)
    for made in (inside, op @ x, traced):
        np.testing.assert_allclose(made, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batched", (0, 1))
def test_stein_solve_where_the_values_of_one_side_are_seen(batched):
    sides, v = [jnp.full((2, 2), value) for value in (0.3, 0.2)], jnp.ones((2, 2))

    def solved(side):
        both = [*sides]
        both[batched] = side
        return stein_solve(stein_powers(*both), v)

    made = jax.vmap(solved)(sides[batched][None, ...])
    np.testing.assert_allclose(made[0, ...], solved(sides[batched]), rtol=1e-12)


@pytest.mark.parametrize("entry", [np.inf, np.nan])
@pytest.mark.parametrize("place", [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("assume", [None, "symmetric", "positive definite"])
def test_what_is_not_finite_is_nan_under_jit(entry, place, assume):
    spoilt = jnp.asarray([[2.0, 1.0], [1.0, 3.0]]).at[place].set(entry)
    for function in (
        lambda op: op.solve(jnp.ones(2)),
        lambda op: op.pinv() @ jnp.ones(2),
        lambda op: op.damped(0.1).logdet(),
    ):
        made = jax.jit(lambda m, f=function: f(kronops.DenseOperator(m, assume)))(spoilt)
        assert jnp.all(jnp.isnan(made))


@pytest.mark.parametrize("entry", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "function",
    [
        lambda d: DiagonalOperator(d).solve(jnp.ones(3)),
        lambda d: DiagonalOperator(d).pinv() @ jnp.ones(3),
        lambda d: DiagonalOperator(d).expm() @ jnp.ones(3),
        lambda d: kron(jnp.eye(2), DiagonalOperator(d)).solve(jnp.ones(6)),
        lambda d: KroneckerEigenOperator([jnp.eye(3)], d).solve(jnp.ones(3)),
        lambda d: kron(jnp.eye(2) * d[1], jnp.eye(3)).damped(0.5).solve(jnp.ones(6)),
        lambda d: KroneckerSumOperator([jnp.eye(2) * d[1], jnp.eye(2)]).solve(jnp.ones(4)),
        lambda d: (d[1] * IdentityOperator(3, like=d)).solve(jnp.ones(3)),
        lambda d: (kron(jnp.eye(3), jnp.eye(2)) / d[1]) @ jnp.ones(6),
    ],
)
def test_what_is_divided_by_or_factorised_is_nan_under_jit_unless_finite(function, entry):
    spoilt = jnp.asarray([1.0, 2.0, 3.0]).at[1].set(entry)
    assert jnp.all(jnp.isnan(jax.jit(function)(spoilt)))


def test_products_carry_infinity_on_and_do_not_look_for_it():
    """Which would read every factor once more: for one vector, as often as the product does."""
    factor, x = jnp.eye(3).at[0, 0].set(np.inf), jnp.ones(9)
    for function in (
        lambda m: kron(m, m) @ x,
        lambda m: kron(m, DiagonalOperator(m[0])) @ x,
        lambda m: DenseOperator(m).multiply(x[:3]),
        lambda m: x[:3] @ DenseOperator(m),
    ):
        assert "is_finite" not in str(jax.make_jaxpr(function)(factor))
        assert not jnp.all(jnp.isfinite(jax.jit(function)(factor)))


def test_what_is_claimed_falsely_is_nan_under_jit():
    tilted = jnp.asarray([[2.0, 1.0], [0.5, 3.0]])
    for claim in ("symmetric", "positive definite"):
        for function in (
            lambda op: op @ jnp.ones(2),
            lambda op: op.solve(jnp.ones(2)),
            lambda op: op.eigh().eigenvalues,
            lambda op: op.damped(0.1).solve(jnp.ones(2)),
        ):
            of_matrix = lambda m, f=function, c=claim: f(kronops.DenseOperator(m, c))  # noqa: E731
            assert jnp.all(jnp.isnan(jax.jit(of_matrix)(tilted)))
