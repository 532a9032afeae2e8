"""JAX: what is traced and what is not, LAPACK, and rules for derivatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
import scipy.linalg

from kronops.backends import jax_meshes
from kronops.backends.standard import (
    NO_DERIVATIVE,
    Array,
    Backend,
    Gradients,
    LinearSystem,
    Number,
    Operand,
)
from kronops.backends.xla import Xla
from kronops.errors import LinAlgError
from kronops.planning import TO_BACK, TO_FRONT, Machine, Plan
from kronops.sharding import Layout, Mesh, ShardedPlan

__all__ = ["JaxBackend"]

_LARGE = 2**14  # numbers in a vector for which factors are merged
_MERGED = 128  # bytes of a row of the largest factor made of several
_EXACT = jax.lax.Precision.HIGHEST


class JaxBackend(Backend):
    """`jax.Array`, also under `jit`, `vmap` and `grad`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from kronops.backends import backend_of
    >>> backend_of(jnp.zeros(2))
    JaxBackend('jax')
    """

    tracks = True

    def __init__(self, name: str, xp: Any) -> None:
        super().__init__(name, _Namespace())
        self._one = np.float32(1)

    # -- values, traces, derivatives -----------------------------------------------------------

    def values(self, array: Array) -> Array | None:
        """The array below derivatives; None under `jit` and for what `vmap` has batched."""
        if isinstance(array, jax.core.Tracer):
            array = array.to_concrete_value()
        return None if array is None or self.is_staging() else array

    def is_tracked(self, array: Array) -> bool:
        """Whether the array is a tracer."""
        return isinstance(array, jax.core.Tracer)

    def eager(self) -> AbstractContextManager[Any]:
        """Evaluation in the midst of a trace, of arrays that know of no mesh."""
        return jax_meshes.eager()

    def linear_solve(self, system: LinearSystem, b: Array) -> Array:
        """The solution, by ``custom_linear_solve`` where something is traced."""
        if not any(self.is_tracked(array) for array in (b, *system.arrays)):
            return system.solve(b)
        b = b.astype(jax.eval_shape(system.multiply, b).dtype)  # of the solution, as JAX needs it
        return jax.lax.custom_linear_solve(
            system.multiply,
            b,
            lambda _, right: system.solve(right),
            lambda _, right: system.transpose().solve(right),
        )

    def with_gradients(
        self, function: Number, gradients: Gradients, arrays: Sequence[Array]
    ) -> Array:
        """By a custom rule, which can be differentiated where ``gradients`` can."""
        number = jax.custom_jvp(lambda *arrays: function(arrays))

        @number.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            made = gradients(primals)
            change = sum(jnp.sum(g * t) for g, t in zip(made, tangents, strict=True))
            value = number(*primals)
            return value, jnp.asarray(change, dtype=value.dtype)

        return number(*arrays)

    def register_container(self, kind: type, flatten: Any, unflatten: Any) -> None:
        """As a pytree."""
        jax.tree_util.register_pytree_with_keys(
            kind,
            lambda container: _with_keys(*flatten(container)),
            lambda static, parts: unflatten(kind, static, parts),
            flatten_func=lambda container: _without_keys(*flatten(container)),
        )

    def while_loop(self, goes_on: Any, advance: Any, state: tuple[Array, ...]) -> Any:
        """``jax.lax.while_loop``."""
        return jax.lax.while_loop(goes_on, advance, state)

    def is_staging(self) -> bool:
        """Whether what is computed now is recorded and not evaluated: inside `jit`."""
        return isinstance(jax.lax.neg(self._one), jax.core.Tracer)

    # -- what an array is ----------------------------------------------------------------------

    def copy(self, array: Array) -> Array:
        """The array itself, which nobody can write to."""
        return array

    def device(self, array: Array) -> Any:
        """None for tracers: the compiler places them."""
        return None if self.is_tracked(array) else array.device

    def same_device(self, array: Array, device: Any) -> bool:
        """Whether the array lives on ``device``, as far as this is decided.

        One that is split over several lives on each of them.
        """
        own = self.device(array)
        if own is None or device is None or bool(own == device):
            return True
        ours, others = _devices(own), _devices(device)
        return max(len(ours), len(others)) > 1 and (ours <= others or others <= ours)

    def to_device(self, array: Array, device: Any) -> Array:
        """By ``device_put``."""
        return jax.device_put(array, device)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return np.asarray(array)

    def from_numpy(self, array: np.ndarray[Any, Any], device: Any = None) -> Array:
        """A copy; `TypeError` rather than a smaller dtype."""
        made = jax.dtypes.canonicalize_dtype(array.dtype)
        if made != array.dtype:
            raise TypeError(
                f"JAX makes {made} of {array.dtype}: cast the operator first (op.astype), or "
                f'allow double precision: jax.config.update("jax_enable_x64", True)'
            )
        return jnp.array(array, device=device)

    # -- arrays split over devices -------------------------------------------------------------

    shards = True

    def sharding(self, array: Array) -> Any:
        """A `NamedSharding` over more devices than one."""
        return jax_meshes.sharding_of(array)

    def layout(self, array: Array) -> tuple[Mesh, Layout]:
        """The mesh that an array is split over, and how."""
        return jax_meshes.layout_of(array)

    def multiply_planned(
        self,
        plan: ShardedPlan,
        operands: Sequence[Any],
        x: Array,
        result: tuple[tuple[int, ...], Layout],
        finish: Callable[[Array], Array],
        kept: dict[Any, Any],
    ) -> Array:
        """By `jax.shard_map`."""
        sharding = self.sharding(x)

        def run(x: Array) -> Array:
            return jax_meshes.multiply_planned(plan, operands, x, sharding, result, finish)

        return run(x) if self.is_tracked(x) else jax_meshes.keep(kept, (plan, result), run, x)

    def multiply_unplanned(
        self, function: Callable[[Any, Array], Array], op: Any, x: Array, kept: dict[Any, Any]
    ) -> Array:
        """By XLA's partitioner."""
        sharding = self.sharding(x)

        def run(x: Array) -> Array:
            return jax_meshes.multiply_unplanned(function, op, x, sharding)

        return run(x) if self.is_tracked(x) else jax_meshes.keep(kept, (), run, x)

    def split_along(self, array: Array, axis: int, like: Array) -> Array:
        """``array``, split along one axis alone, by all that splits ``like``."""
        return jax_meshes.split_along(array, axis, like)

    def place_like(self, array: Array, like: Array) -> Array:
        """``array`` in the sharding of ``like``."""
        return jax_meshes.place_like(array, like)

    def whole(self, array: Array) -> Array:
        """A copy that every process has for itself."""
        return jax_meshes.whole(array)

    # -- factorisations ------------------------------------------------------------------------

    def segment_sum(self, values: Array, segments: Array, count: int) -> Array:
        """``jax.ops.segment_sum``."""
        return jax.ops.segment_sum(values, segments, num_segments=count)

    def solve_triangular(
        self, matrix: Array, b: Array, *, lower: bool, adjoint: bool = False
    ) -> Array:
        """``jax.scipy.linalg.solve_triangular``."""
        matrix, b = self.promote(matrix, b)
        return jsl.solve_triangular(matrix, b, lower=lower, trans=2 if adjoint else 0)

    def cholesky_solve(self, lower: Array, b: Array) -> Array:
        """``jax.scipy.linalg.cho_solve``."""
        lower, b = self.promote(lower, b)
        return jsl.cho_solve((lower, True), b)

    def lu(self, matrix: Array) -> Any:
        """``jax.scipy.linalg.lu_factor``."""
        factors, pivots = jsl.lu_factor(self.wide(matrix))
        pivot_values = self.values(jnp.diagonal(factors))
        if pivot_values is not None and not bool(jnp.all(pivot_values != 0)):
            raise LinAlgError("the matrix is singular")
        return factors, pivots

    def lu_solve(self, factors: Any, b: Array, *, adjoint: bool = False) -> Array:
        """``jax.scipy.linalg.lu_solve``."""
        matrix, b = self.promote(factors[0], b)
        solved = jsl.lu_solve((matrix, factors[1]), b, trans=2 if adjoint else 0)
        return jnp.where(jnp.all(jnp.diagonal(matrix) != 0), solved, jnp.nan)

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """Read off the triangle; each row exchange changes the sign."""
        matrix, pivots = factors
        diagonal = jnp.diagonal(matrix)
        exchanges = jnp.sum(pivots != jnp.arange(diagonal.shape[0]))
        magnitudes = jnp.abs(diagonal)
        units = diagonal / jnp.where(magnitudes == 0, 1, magnitudes)
        sign = jnp.prod(units) * (1 - 2 * (exchanges % 2))
        return sign.astype(matrix.dtype), jnp.sum(jnp.log(magnitudes))

    def expm(self, matrix: Array) -> Array:
        """``jax.scipy.linalg.expm``, of matrices of any norm."""
        return jsl.expm(self.wide(matrix), max_squarings=64).astype(matrix.dtype)

    def schur(self, matrix: Array) -> tuple[Array, Array]:
        """JAX's on CPUs, on the host elsewhere; without derivatives."""
        triangle, basis = _schur(self.double(matrix))
        dtype = jnp.result_type(matrix.dtype, jnp.complex64)
        return triangle.astype(dtype), basis.astype(dtype)

    # -- products with Kronecker factors -------------------------------------------------------

    def machine(self, dtype: Any, numbers: int) -> Machine:
        """XLA's, which merges small factors of vectors that are worth another compilation."""
        size = jnp.dtype(dtype).itemsize
        merged = _MERGED // size if numbers >= _LARGE else 0
        return Machine(
            size, 4e11 / size, 0, 1e-6, 1, 3e10, math.inf, 0, merged, 0, None, Xla(size), Xla(size)
        )

    def program(
        self, plan: Plan, operands: Sequence[Operand], given: Any, dtype: Any
    ) -> Callable[[Array], Array]:
        """Compiled once for all operators of a plan; not, if one of the factors is an operator."""
        if any(step.kind == "operator" for _, step in plan.steps):
            return super().program(plan, operands, given, dtype)
        return functools.partial(_compiled(plan, dtype), tuple(operands))

    def _apply_step(
        self, kind: str, operand: Operand, x: Array, view: tuple[int, int, int]
    ) -> Array:
        if kind == "operator":
            return self.apply_operator(operand, x, view)
        return _step(kind, operand, x, view)

    # -- random numbers ------------------------------------------------------------------------

    random_sources = "a jax.random key or a numpy.random.Generator"

    def normal(
        self, source: Any, shape: tuple[int, ...], dtype: Any, device: Any
    ) -> tuple[Array, Any]:
        """From a key, which is split; a NumPy generator would be run once for all under `jit`."""
        if isinstance(source, jax.Array):
            key, following = jax.random.split(source)
            drawn = jax.random.normal(key, shape, dtype)
            return (drawn if device is None else jax.device_put(drawn, device)), following
        if self.is_staging():
            raise TypeError(
                f"key_or_rng is a {type(source).__name__}: under jax.jit a jax.random key is needed"
            )
        return super().normal(source, shape, dtype, device)


@functools.lru_cache(maxsize=1024)
def _compiled(plan: Plan, dtype: Any) -> Callable[[Sequence[Array], Array], Array]:
    """A plan's product as a function of its matrices and diagonals and of the vector."""
    ways = {TO_FRONT: _to_the_front, TO_BACK: _to_the_back}
    multiply = ways.get(plan.steps[0][1].kind if plan.steps else "", _in_place)
    made: Callable[[Sequence[Array], Array], Array]
    made = jax.jit(lambda operands, x: multiply(plan, operands, x.astype(dtype)))
    return made


def _in_place(plan: Plan, operands: Sequence[Array], x: Array) -> Array:
    for operand, (sweep, step) in zip(operands, plan.steps, strict=True):
        x = _step(step.kind, operand, x, sweep.view(step))
    return x


def _step(kind: str, operand: Array, x: Array, view: tuple[int, int, int]) -> Array:
    """The middle axis of ``x``, seen as ``view``, times a matrix or a diagonal."""
    left, size, right = view
    if kind == "diagonal":
        return operand[:, None] * x.reshape(view)
    if right == 1:
        return _dot(x.reshape(left, size), operand, 1, 1)
    if left == 1:
        return _dot(operand, x.reshape(size, right), 1, 0)
    if Xla(x.dtype.itemsize).is_batched(operand.shape[0], size, left, right):
        copies = jnp.broadcast_to(operand, (left, *operand.shape))
        return jnp.matmul(copies, x.reshape(view), precision=_EXACT)
    return jnp.swapaxes(_dot(x.reshape(view), operand, 1, 1), 1, 2)


def _to_the_front(plan: Plan, operands: Sequence[Array], x: Array) -> Array:
    x = x.reshape(-1, plan.right).T
    for matrix in operands:
        x = _dot(matrix, x.reshape(-1, matrix.shape[1]), 1, 1)
    return x.reshape(-1, plan.left).T


def _to_the_back(plan: Plan, operands: Sequence[Array], x: Array) -> Array:
    x = x.reshape(plan.left, -1).T
    for matrix in operands:
        x = _dot(x.reshape(matrix.shape[1], -1), matrix, 0, 1)
    return x.reshape(plan.right, -1).T


def _dot(x: Array, y: Array, axis: int, other: int) -> Array:
    """The product along one axis of each: the axes that are left of one, then of the other."""
    return jax.lax.dot_general(x, y, (((axis,), (other,)), ((), ())), precision=_EXACT)


def _devices(place: Any) -> set[Any]:
    return place.device_set if isinstance(place, jax.sharding.Sharding) else {place}


class _Namespace:
    """`jax.numpy`, with products in the precision of their arrays.

    On GPUs and TPUs JAX itself would multiply single precision with three digits (TF32, bfloat16).
    """

    matmul = staticmethod(functools.partial(jnp.matmul, precision="highest"))
    tensordot = staticmethod(functools.partial(jnp.tensordot, precision="highest"))

    @staticmethod
    def vecdot(x: Array, y: Array) -> Array:
        """`jax.numpy.vecdot`; JAX itself asks how to lay out that of vectors in parts."""
        if jax_meshes.sharding_of(x) is None and jax_meshes.sharding_of(y) is None:
            return jnp.vecdot(x, y)
        return jnp.sum(jnp.conj(x) * y, axis=-1)

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)


@jax.custom_jvp
def _schur(matrix: Array) -> Any:
    return jax.lax.platform_dependent(
        matrix, cpu=lambda a: tuple(jsl.schur(a, "complex")), default=_schur_on_host
    )


@_schur.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise TypeError(NO_DERIVATIVE)


def _schur_on_host(matrix: Array) -> Any:
    dtype = jnp.result_type(matrix.dtype, jnp.complex64)

    def by_scipy(host: Any) -> Any:
        stack = np.asarray(host).reshape(-1, *host.shape[-2:])
        pairs = zip(*(scipy.linalg.schur(part, "complex") for part in stack), strict=True)
        return tuple(np.reshape(parts, host.shape).astype(dtype) for parts in pairs)

    both = (jax.ShapeDtypeStruct(matrix.shape, dtype),) * 2
    return jax.pure_callback(by_scipy, both, matrix, vmap_method="expand_dims")


def _with_keys(fields: dict[str, Any], static: Any) -> Any:
    return [(jax.tree_util.GetAttrKey(name), part) for name, part in fields.items()], static


def _without_keys(fields: dict[str, Any], static: Any) -> Any:
    return list(fields.values()), static
