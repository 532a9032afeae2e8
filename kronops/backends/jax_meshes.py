"""Arrays of JAX that are split over a mesh of devices: plans of products, carried out.

All that is sent between devices is sent by `jax.lax.all_to_all` inside `jax.shard_map`.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from kronops.backends.standard import Array
from kronops.sharding import Layout, Mesh, Move, ShardedPlan, as_mesh, split

__all__ = [
    "eager",
    "keep",
    "layout_of",
    "multiply_planned",
    "multiply_unplanned",
    "place_like",
    "sharding_of",
    "split_along",
    "whole",
]

Kept = dict[Any, Callable[[Array], Array]]


def sharding_of(array: Array) -> NamedSharding | None:
    """The array's, if it is known to be split over a mesh, be it of one device.

    Of a tracer the type says it, where the axes of the mesh are `jax.sharding.AxisType.Explicit`.
    """
    found = getattr(array.aval if _is_tracer(array) else array, "sharding", None)
    if not isinstance(found, NamedSharding) or not hasattr(jax, "shard_map"):
        return None  # an older JAX has no such function: all is left to XLA
    return found if any(_layout(found, array.ndim)) else None


def layout_of(array: Array) -> tuple[Mesh, Layout]:
    """The mesh, and for each axis of the array the axes of the mesh that split it."""
    sharding = sharding_of(array)
    assert sharding is not None
    return as_mesh(sharding.mesh.shape), _layout(sharding, array.ndim)


def multiply_planned(
    plan: ShardedPlan,
    operands: Sequence[Any],
    x: Array,
    sharding: NamedSharding,
    result: tuple[tuple[int, ...], Layout],
    finish: Callable[[Array], Array],
) -> Array:
    """``x`` after the steps of a plan, in the shape and the layout of ``result``.

    ``operands`` are what `Backend.multiply_planned` says. Operators that are traced are handed to
    `jax.shard_map`, as it will have them; others bring what they have kept.
    """
    shape, layout = result
    handed: dict[int, Any] = {}
    specs: dict[int, PartitionSpec] = {}
    for index, (task, operand) in enumerate(zip(plan.tasks, operands, strict=True)):
        if task.elementwise:
            array, spec = _padded(plan, index, operand)
            handed[index] = place(array, NamedSharding(sharding.mesh, spec))
            specs[index] = spec
        elif any(map(_is_tracer, jax.tree.leaves(operand))):
            handed[index], specs[index] = operand, PartitionSpec()

    def run(x: Array, handed: dict[int, Any]) -> Array:
        x = _run(plan, {**dict(enumerate(operands)), **handed}, x)
        return finish(x).reshape(_local(shape, layout, plan.mesh))

    return jax.shard_map(
        run,
        mesh=sharding.mesh,
        in_specs=(_spec(_layout(sharding, x.ndim)), specs),
        out_specs=_spec(layout),
        check_vma=False,  # factorisations of JAX itself do not pass it
    )(x, handed)


def multiply_unplanned(
    function: Callable[[Any, Array], Array], op: Any, x: Array, sharding: NamedSharding
) -> Array:
    """``function(op, x)`` as XLA makes it when nobody has planned, in the same layout."""
    run, handed, made = _with_constants(function, op, x)
    layout, sizes = _layout(sharding, x.ndim), as_mesh(sharding.mesh.shape)
    parts = [split(names, sizes) for names in layout]
    if made.ndim != x.ndim or any(n % d for n, d in zip(made.shape, parts, strict=True)):
        raise ValueError(
            f"the product has shape {made.shape}, which cannot be split as the vector is, "
            f"{_spec(layout)} over {dict(sizes)}: split it over devices whose number divides "
            f"these axes, or give every device the whole of it"
        )
    if not _is_explicit(sharding):
        return place(run(handed, x), sharding)
    axes = sharding.mesh.axis_names
    wanted = NamedSharding(sharding.mesh, _spec(layout))
    return jax.sharding.auto_axes(run, axes=axes, out_sharding=wanted)(handed, x)


def _with_constants(
    function: Callable[[Any, Array], Array], op: Any, x: Array
) -> tuple[Callable[[Any, Array], Array], Any, Any]:
    """A function with all arrays for arguments, those that ``op`` brings, and what comes out.

    Of an operator that is traced they are its own, of any other also those that it has kept.
    """
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    if any(map(_is_tracer, jax.tree.leaves(op))):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), op)
        return function, op, jax.eval_shape(function, shapes, shape)
    closed = jax.make_jaxpr(functools.partial(function, op))(shape)

    def run(constants: Sequence[Array], x: Array) -> Array:
        return jax.core.eval_jaxpr(closed.jaxpr, constants, x)[0]

    return run, closed.consts, closed.out_avals[0]


def keep(kept: Kept, key: Any, function: Callable[[Array], Array], x: Array) -> Array:
    """``function(x)``, compiled, of arrays that are there; the program is kept for the next.

    What ``function`` has in it is an argument of the program, not a constant to be compiled.
    """
    key = (*key, x.shape, x.dtype, x.sharding)
    if key not in kept:
        closed = jax.make_jaxpr(function)(x)
        constants = [_everywhere(array, x.sharding.mesh) for array in closed.consts]
        evaluate = jax.jit(lambda constants, x: jax.core.eval_jaxpr(closed.jaxpr, constants, x)[0])
        kept[key] = functools.partial(evaluate, constants)
    return kept[key](x)


def _everywhere(array: Array, mesh: Any) -> Array:
    """An array of this process on every device of a mesh; all processes have one like it."""
    whole = NamedSharding(mesh, PartitionSpec())
    copies = [jax.device_put(array, device) for device in whole.addressable_devices]
    return jax.make_array_from_single_device_arrays(array.shape, whole, copies)


def whole(array: Array) -> Array:
    """The whole of an array on one device of this process; of a tracer, on every device."""
    if _is_tracer(array):
        found = sharding_of(array)
        return array if found is None else place(array, NamedSharding(found.mesh, PartitionSpec()))
    if len(array.sharding.device_set) == 1:
        return array
    if not array.is_fully_replicated:
        array = jax.device_put(array, NamedSharding(array.sharding.mesh, PartitionSpec()))
    return array.addressable_data(0)


@contextlib.contextmanager
def eager() -> Iterator[None]:
    """Evaluation in the midst of a trace, of arrays that know of no mesh and can be kept."""
    with jax.ensure_compile_time_eval(), _without_mesh():
        yield


def _without_mesh() -> AbstractContextManager[Any]:
    current = getattr(jax.sharding, "get_abstract_mesh", None)  # of a JAX with sharding in types
    if current is None or current().empty:
        return contextlib.nullcontext()
    nowhere = jax.sharding.AbstractMesh((), ())
    made: AbstractContextManager[Any] = jax.sharding.use_abstract_mesh(nowhere)
    return made


def place(array: Array, sharding: NamedSharding) -> Array:
    """``array`` in another sharding."""
    if not _is_tracer(array):
        return jax.device_put(array, sharding)
    if _is_explicit(sharding):
        return jax.sharding.reshard(array, sharding)
    return jax.lax.with_sharding_constraint(array, sharding)


def split_along(array: Array, axis: int, like: Array) -> Array:
    """``array``, split along one axis alone, by all that splits ``like``."""
    sharding = sharding_of(like)
    assert sharding is not None
    names = tuple(name for axis in _layout(sharding, like.ndim) for name in axis)
    if array.shape[axis] % split(names, as_mesh(sharding.mesh.shape)):
        raise ValueError(
            f"a pair (weights, bias) is split over {dict(sharding.mesh.shape)}, and the axis of "
            f"the outputs, {array.shape[axis]}, does not divide: give every device the whole pair "
            f"(jax.device_put(pair, NamedSharding(mesh, PartitionSpec())))"
        )
    layout = tuple(names if place == axis else () for place in range(array.ndim))
    return place(array, NamedSharding(sharding.mesh, _spec(layout)))


def place_like(array: Array, like: Array) -> Array:
    """``array`` in the sharding of ``like``, be it whole on every device."""
    given = jax.typeof(like).sharding if _is_tracer(like) else like.sharding
    found = sharding_of(array)
    assert found is not None
    spec = _spec(_layout(given, like.ndim)) if isinstance(given, NamedSharding) else PartitionSpec()
    return place(array, NamedSharding(found.mesh, spec))


# -- inside a device -------------------------------------------------------------------------------


def _run(plan: ShardedPlan, operands: dict[int, Any], x: Array) -> Array:
    sizes = list(plan.sizes)
    x = x.reshape(_local(plan.sizes, plan.layout, plan.mesh))
    for step in plan.steps:
        if isinstance(step, Move):
            x = _exchange(x, step, sizes[step.source], plan)
            continue
        task = plan.tasks[step]
        if task.elementwise:
            x = x * operands[step]
            continue
        shape = x.shape
        left, right = math.prod(shape[: task.start]), math.prod(shape[task.stop :])
        columns = math.prod(shape[task.start : task.stop])
        made = operands[step]._products(x, left, right)
        own = shape[task.start : task.stop]
        if columns != task.rows:
            own = (task.rows,) + (1,) * (task.stop - task.start - 1)
            sizes[task.start : task.stop] = own
        x = made.reshape(*shape[: task.start], *own, *shape[task.stop :])
    return x


def _exchange(x: Array, move: Move, size: int, plan: ShardedPlan) -> Array:
    """The all-to-all of a move; zeros make the parts equal, and are cut off when they come back."""
    x = _pad(x, move.target, -x.shape[move.target] % move.devices)
    if move.order != move.names:
        x = _reorder(x, move, plan.mesh)
    names = move.names if len(move.names) > 1 else move.names[0]
    x = jax.lax.all_to_all(x, names, move.target, move.source, tiled=True)
    return jax.lax.slice_in_dim(x, 0, min(size, x.shape[move.source]), axis=move.source)


def _reorder(x: Array, move: Move, mesh: Mesh) -> Array:
    """The parts of the target axis, from the order in which they will lie to that of the names."""
    sizes = dict(mesh)
    parts = [sizes[name] for name in move.order]
    before, after = x.shape[: move.target], x.shape[move.target + 1 :]
    apart = x.reshape(*before, *parts, -1, *after)
    wanted = [len(before) + move.order.index(name) for name in move.names]
    rest = range(len(before) + len(parts), apart.ndim)
    return apart.transpose(*range(len(before)), *wanted, *rest).reshape(x.shape)


# -- layouts ---------------------------------------------------------------------------------------


def _layout(sharding: NamedSharding, ndim: int) -> Layout:
    entries = [*sharding.spec, *[None] * ndim][:ndim]
    return tuple(
        () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
        for entry in entries
    )


def _spec(layout: Layout) -> PartitionSpec:
    return PartitionSpec(*(names or None for names in layout))


def _local(shape: Sequence[int], layout: Layout, mesh: Mesh) -> tuple[int, ...]:
    return tuple(-(-size // split(names, mesh)) for size, names in zip(shape, layout, strict=True))


def _padded(plan: ShardedPlan, index: int, array: Array) -> tuple[Array, PartitionSpec]:
    """A diagonal with zeros that make its parts equal, in the layout in which it is needed."""
    layout, _ = plan.before(index)
    wanted = tuple(
        () if size == 1 else names for size, names in zip(array.shape, layout, strict=True)
    )
    for axis, names in enumerate(wanted):
        array = _pad(array, axis, -array.shape[axis] % split(names, plan.mesh))
    return array, _spec(wanted)


def _pad(x: Array, axis: int, count: int) -> Array:
    if not count:
        return x
    return jnp.pad(x, [(0, count if place == axis else 0) for place in range(x.ndim)])


def _is_explicit(sharding: NamedSharding) -> bool:
    return any(kind == jax.sharding.AxisType.Explicit for kind in sharding.mesh.axis_types)


def _is_tracer(array: Array) -> bool:
    return isinstance(array, jax.core.Tracer)
