"""Products with vectors that are split over a mesh of devices: what is asked of the planner."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kronops import tree
from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.explaining import quantity
from kronops.linear_system import System
from kronops.operator import LinearOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.product import ProductOperator
from kronops.operators.scaled import ScaledOperator
from kronops.operators.sum import SumOperator
from kronops.scalars import Scalar
from kronops.scaling import rescale
from kronops.sharding import (
    Layout,
    Mesh,
    ShardedPlan,
    Task,
    as_layout,
    as_mesh,
    plan_sharded,
    split,
)
from kronops.vectors import OutIn, as_kind, folds, join_pair, parts_of

__all__ = ["explain", "multiply_sharded", "plans", "whole"]


class View(NamedTuple):
    """An array as the axes of a plan: those before the vector, its own, those behind it.

    ``groups`` are the places of the axes that each axis of the domain shape is made of. A flat
    vector of an array has one axis, ``flat``, which the plan has as those of the domain shape.
    """

    sizes: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]
    flat: int | None

    @classmethod
    def of(cls, shape: tuple[int, ...], domain: tuple[int, ...], axis: int | None) -> View | None:
        """Of an array with flat vectors along ``axis``, or of the domain shape, however folded.

        Axes behind those of the domain shape are of several vectors.
        """
        if axis is not None:
            sizes = (*shape[:axis], *domain, *shape[axis + 1 :])
            return cls(sizes, tuple((axis + k, axis + k + 1) for k in range(len(domain))), axis)
        groups, start = [], 0
        for size in domain:
            stop = start
            while stop < len(shape) and (math.prod(shape[start:stop]) != size or stop == start):
                stop += 1
            groups.append((start, stop))
            start = stop
        if math.prod(shape[start:]) == 1:
            groups[-1] = (groups[-1][0], len(shape))
        found = tuple(math.prod(shape[start:stop]) for start, stop in groups)
        fits = found == tuple(domain)
        return cls(shape, tuple(groups), None) if fits else None

    def layout(self, given: Layout) -> Layout:
        """The layout of the plan's axes by that of the array's: a flat axis splits the first."""
        if self.flat is None:
            return given
        rest: Layout = ((),) * (len(self.groups) - 1)
        return (*given[: self.flat + 1], *rest, *given[self.flat + 1 :])


class Part(NamedTuple):
    """A task of a plan, and what it multiplies by: a factor, or a diagonal."""

    task: Task
    factor: LinearOperator | None = None
    diagonal: Callable[[], Array] | None = None
    along: int | None = None  # the one axis of the domain shape that a diagonal factor is of


class Chain(NamedTuple):
    """A product of Kronecker products and diagonals: one plan for all of them."""

    view: View
    parts: tuple[Part, ...]
    scales: tuple[Scalar, ...]
    plan: ShardedPlan

    def diagonal(self, index: int, part: Part) -> Array:
        """As an array with the axes of the plan."""
        assert part.diagonal is not None
        entries = part.diagonal()
        own = [place for start, stop in self.view.groups for place in range(start, stop)]
        if part.along is not None:
            own = list(range(*self.view.groups[part.along]))
        _, sizes = self.plan.before(index)
        shape = tuple(size if place in own else 1 for place, size in enumerate(sizes))
        return backend_of(entries).xp.reshape(entries, shape)


def multiply_sharded(op: LinearOperator, v: Any, axis: int | None = None) -> Any:
    """``op`` times ``v`` in the sharding of ``v``; None if no array in ``v`` is known to have one.

    Parameters
    ----------
    op : LinearOperator
    v : structured vector
        Or, with ``axis``, an array of flat vectors along this axis.
    axis : int, optional
        Not negative.
    """
    if not is_array(v):
        return _multiply_parts(op, v)
    if not _is_sharded(v):
        return None
    shape = tuple(v.shape)
    if axis is None and shape == op.shape[1:]:
        axis = 0
    domain = op.domain_shape
    structured = axis is None and isinstance(domain, tuple) and folds(shape, domain)
    if not structured and (axis is None or shape[axis] != op.shape[1]):
        return None  # and is refused
    v = op._as_input(v, "v" if structured else "x")
    return _multiply(whole(op), v, axis)


def whole(op: LinearOperator) -> Any:
    """The operator with arrays that are whole on one device of this process.

    It is kept, with all that it keeps in turn; of what is traced nothing is.
    """
    made = op.__dict__.get("_kept_whole")
    if made is None:
        leaves = tree.leaves(op)
        if all(op.backend.whole(leaf) is leaf for leaf in leaves):
            return op
        made = tree.map_leaves(op, op.backend.whole)
        if not op._tracked:
            op.__dict__["_kept_whole"] = made
    return made


def plans(
    op: LinearOperator, shape: tuple[int, ...], axis: int | None, mesh: Mesh, layout: Layout
) -> Iterator[tuple[LinearOperator, ShardedPlan | None]]:
    """How the product with an array of this shape is made: the operators inside, and their plans.

    None stands for a product that is left to the engine.
    """
    for _, term in _terms(op):
        if isinstance(term, IdentityOperator):
            continue
        chain = _chain(term, shape, axis, mesh, layout)
        if chain is None and isinstance(term, ProductOperator):
            for factor in reversed(term.factors):
                yield from plans(factor, shape, axis, mesh, layout)
        else:
            yield term, chain and chain.plan


def explain(op: LinearOperator, mesh: Any, spec: Any, columns: int) -> Iterator[str]:
    """What `LinearOperator.explain` says of products on a mesh."""
    if isinstance(op, BlockDiagonalOperator):
        names = op.names or range(len(op.operators))
        for name, block in zip(names, op.operators, strict=True):
            yield f"block {name!r}:"
            yield from (f"    {line}" for line in explain(block, mesh, spec, columns))
        return
    shape = (*op.domain_shape, columns) if columns > 1 else tuple(op.domain_shape)
    sizes = as_mesh(mesh)
    layout = as_layout(spec, shape, sizes)
    said = ", ".join(f"{name}: {size}" for name, size in sizes)
    told = "along the first axis, as no spec is given" if spec is None else f"as {spec}"
    yield f"on a mesh ({said}), vectors {shape} split {told}:"
    itemsize = op.backend.xp.finfo(op.dtype).bits * (2 if op._complex else 1) // 8
    for name, found in {
        "multiply": list(plans(op, shape, None, sizes, layout)),
        "multiply_inverse": _plans_of_inverse(op, shape, sizes, layout),
    }.items():
        for term, made in found:
            yield f"    {name}, {type(term).__name__}: {_costs(made, itemsize)}"
            yield from (f"        {line}" for line in str(made or "").splitlines())


def _costs(made: ShardedPlan | None, itemsize: int) -> str:
    if made is None:
        return "no plan: left to the engine, which may gather whole vectors"
    count = f"{made.count} redistribution{'s' if made.count != 1 else ''}"
    sent, held = (quantity(numbers * itemsize, "B") for numbers in (made.sent, made.held))
    return f"{count}, {sent} sent and {held} of vectors held by each device"


def _plans_of_inverse(
    op: LinearOperator, shape: tuple[int, ...], mesh: Mesh, layout: Layout
) -> list[tuple[LinearOperator, ShardedPlan | None]]:
    """Of the inverses that are planned, without making them."""
    if isinstance(op, KroneckerOperator) and op._square_factors:
        return list(plans(op, shape, None, mesh, layout))
    if isinstance(op, (KroneckerEigenOperator, KroneckerSumOperator)):
        there, back = (
            tuple(Task(stage, k, k + 1, size) for k, size in enumerate(op.domain_shape))
            for stage in (0, 2)
        )
        return [(op, plan_sharded(mesh, shape, layout, (*there, Task(1), *back)))]
    return []


# -- products --------------------------------------------------------------------------------------


def _multiply(op: LinearOperator, v: Array, axis: int | None) -> Array:
    """The sum over the terms of ``op``."""
    products = [rescale(_multiply_term(term, v, axis), scalars) for scalars, term in _terms(op)]
    return functools.reduce(operator.add, products)


def _multiply_term(op: LinearOperator, v: Array, axis: int | None) -> Array:
    backend = backend_of(v)
    if isinstance(op, IdentityOperator):
        return backend.xp.astype(v, backend.xp.result_type(v, op.dtype), copy=False)
    if isinstance(op, KroneckerEigenOperator) and op.inverted and op._tracked:
        base = op.inverse()
        return backend.linear_solve(_ShardedSystem(base, base._untracked, axis), v)
    return _multiply_planned(op, v, axis)


@dataclasses.dataclass(frozen=True)
class _ShardedSystem(System):
    """A system whose derivatives follow from the product, not from how eigenvectors change."""

    axis: int | None

    def multiply(self, x: Array) -> Array:
        return _multiply(self.op, x, self.axis)

    def solve(self, b: Array) -> Array:
        return _multiply_planned(self.twin.inverse(), b, self.axis)

    def transpose(self) -> _ShardedSystem:
        made = super().transpose()
        return _ShardedSystem(made.op, made.twin, self.axis)


def _multiply_planned(op: LinearOperator, v: Array, axis: int | None) -> Array:
    backend = backend_of(v)
    chain = _chain(op, tuple(v.shape), axis, *backend.layout(v))
    if chain is not None:
        return _multiply_chain(op, chain, v, axis)
    if isinstance(op, ProductOperator):
        return functools.reduce(lambda v, factor: _multiply(factor, v, axis), op.factors[::-1], v)
    plain = functools.partial(_plain, axis)
    return backend.multiply_unplanned(plain, op, v, _kept(op))


def _plain(axis: int | None, op: LinearOperator, v: Array) -> Array:
    """The product without a plan."""
    if axis is not None:
        return op._apply_last(v) if axis == v.ndim - 1 else op._matmat(v)
    shape, domain = tuple(v.shape), op.domain_shape
    if op._square and not (isinstance(domain, tuple) and folds(shape, domain)):
        xp = op.backend.xp  # of a sum or a product in which others know the shape of the vector
        return xp.reshape(op._apply_last(xp.reshape(v, (-1,))), shape)
    return op.multiply(v)


def _multiply_chain(op: LinearOperator, chain: Chain, v: Array, axis: int | None) -> Array:
    operands: list[Any] = [
        chain.diagonal(index, part) if part.factor is None else KroneckerOperator([part.factor])
        for index, part in enumerate(chain.parts)
    ]
    dtype = op.backend.xp.result_type(v, op.dtype)

    def finish(x: Array) -> Array:
        return rescale(op.backend.xp.astype(x, dtype, copy=False), chain.scales)

    result = _result(chain, v, axis)
    return op.backend.multiply_planned(chain.plan, operands, v, result, finish, _kept(op))


def _kept(op: LinearOperator) -> dict[Any, Any]:
    """Programs for shapes of vectors; of an operator that is traced none are kept."""
    return {} if op._tracked else op.__dict__.setdefault("_kept_sharded", {})


def _result(chain: Chain, v: Array, axis: int | None) -> tuple[tuple[int, ...], Layout]:
    """The shape of the product, and its layout: axes that a factor has changed are one."""
    sizes, layout = chain.plan.made, chain.plan.layout
    given = backend_of(v).layout(v)[1]
    groups = chain.view.groups
    if axis is not None:
        size = math.prod(sizes[groups[0][0] : groups[-1][1]])
        return (*v.shape[:axis], size, *v.shape[axis + 1 :]), given
    shape: list[int] = []
    split_by: list[tuple[str, ...]] = []
    for start, stop in groups:
        same = sizes[start:stop] == chain.view.sizes[start:stop]
        stop = stop if same else start + 1
        shape += sizes[start:stop]
        split_by += layout[start:stop]
    return tuple(shape), tuple(split_by)


# -- what is planned together ----------------------------------------------------------------------


def _terms(op: LinearOperator) -> list[tuple[tuple[Scalar, ...], LinearOperator]]:
    """The operator as a sum of multiples: scalars, and what they multiply."""
    if isinstance(op, SumOperator):
        return [term for part in op.terms for term in _terms(part)]
    if isinstance(op, ScaledOperator):
        return [((op.scalar, *scalars), term) for scalars, term in _terms(op.base)]
    if isinstance(op, KroneckerEigenOperator) and op.definition is not None:
        return _terms(op.definition)
    if isinstance(op, KroneckerSumOperator):
        return _sides(op)
    return [((), op)]


def _sides(op: KroneckerSumOperator) -> list[tuple[tuple[Scalar, ...], LinearOperator]]:
    """``A ⊕ B + c I = A ⊗ I + I ⊗ B + c I``."""
    ones = [IdentityOperator(factor.shape[0], like=op._like) for factor in op.factors]
    sides: list[tuple[tuple[Scalar, ...], LinearOperator]] = []
    for place, factor in enumerate(op.factors):
        sides.append(((), KroneckerOperator([*ones[:place], factor, *ones[place + 1 :]])))
    identity = IdentityOperator(op.shape[0], like=op._like)
    return [*sides, ((op.shift,), identity)] if op._has_shift else sides


def _links(op: LinearOperator) -> list[LinearOperator] | None:
    """Kronecker products, diagonals and scalars whose product ``op`` is, the first one first."""
    if isinstance(op, KroneckerOperator):
        return [op] if op._products.moderate else None
    if isinstance(op, DiagonalOperator):
        return [op]
    if isinstance(op, KroneckerEigenOperator):
        middle = DiagonalOperator(op.eigenvalues, check_finite=False)
        return [op.basis.H, middle, op.basis]
    if not isinstance(op, ProductOperator):
        return None
    links: list[LinearOperator] = []
    for factor in reversed(op.factors):
        found = _links(factor)
        if found is None:
            return None
        links += found
    return links


def _chain(
    op: LinearOperator, shape: tuple[int, ...], axis: int | None, mesh: Mesh, layout: Layout
) -> Chain | None:
    """The plan of ``op`` as one; None if it is none, or if no axis can be split in another's stead.

    Raises
    ------
    ValueError
        An axis does not divide by the devices over which it is split.
    """
    links = _links(op)
    if links is None:
        return None
    kroneckers = [link for link in links if isinstance(link, KroneckerOperator)]
    domain = tuple((kroneckers or links)[0].domain_shape)
    view = View.of(shape, domain, axis)
    if view is None or not _fit(kroneckers):
        return None
    own = view.layout(layout)
    _require_whole_rows(op, view, own, mesh, domain)
    parts = tuple(part for stage, link in enumerate(links) for part in _parts(stage, link, view))
    found = plan_sharded(mesh, view.sizes, own, tuple(part.task for part in parts))
    if found is None:
        return None
    scales = tuple(link.scale for link in kroneckers if link.scale != 1)
    return Chain(view, parts, scales, found)


def _fit(links: list[KroneckerOperator]) -> bool:
    """Whether what comes out of each has the axes that the next one takes."""
    return all(
        tuple(link.range_shape) == tuple(following.domain_shape)
        for link, following in itertools.pairwise(links)
    )


def _parts(stage: int, link: LinearOperator, view: View) -> Iterator[Part]:
    if isinstance(link, DiagonalOperator):
        yield Part(Task(stage), diagonal=link._diagonal)
        return
    assert isinstance(link, KroneckerOperator)
    for place, factor in enumerate(link.factors):
        if isinstance(factor, DiagonalOperator):
            yield Part(Task(stage), diagonal=factor._diagonal, along=place)
        elif not isinstance(factor, IdentityOperator):
            yield Part(Task(stage, *view.groups[place], factor.shape[0]), factor)


def _require_whole_rows(
    op: LinearOperator, view: View, layout: Layout, mesh: Mesh, domain: tuple[int, ...]
) -> None:
    """Refuse flat vectors whose parts are no whole rows of the domain shape."""
    if view.flat is None:
        return
    devices = split(layout[view.flat], mesh)
    if domain[0] % devices:
        raise ValueError(
            f"the flat vectors of {type(op).__name__} are split over {devices} devices, and the "
            f"first axis of the domain shape {domain} does not divide by {devices}: give "
            f"op.multiply an array of the domain shape, split along another axis; or split over "
            f"fewer devices; or give every device the whole of it "
            f"(jax.device_put(x, NamedSharding(mesh, PartitionSpec())))"
        )


# -- structured vectors ----------------------------------------------------------------------------


def _multiply_parts(op: LinearOperator, v: Any) -> Any:
    """Of blocks each by itself; of a pair the matrix that it stands for."""
    if not any(_is_sharded(leaf) for leaf in _arrays(v)):
        return None
    if isinstance(op, BlockDiagonalOperator):
        parts, restore = parts_of(v, op.domain_shape)
        return restore([block.multiply(part) for block, part in zip(op._ready, parts, strict=True)])
    if not (isinstance(v, (tuple, list)) and len(v) == 2 and all(map(is_array, v))):
        return None
    weights, bias = v
    if not (weights.ndim and bias.ndim):
        return None
    backend = op.backend
    out = 0 if isinstance(op.domain_shape, OutIn) else weights.ndim - 1
    like = weights if _is_sharded(weights) else bias
    placed = backend.split_along(weights, out, like), backend.split_along(bias, 0, like)
    matrix, restore_pair = join_pair(placed, op.domain_shape, op.range_shape, "v")
    made = restore_pair(_multiply(whole(op), op._as_input(matrix, "v"), None))
    return as_kind(type(v), map(backend.place_like, made, v))


def _arrays(v: Any) -> Iterator[Array]:
    if is_array(v):
        yield v
    elif isinstance(v, (tuple, list, dict)):
        for part in v.values() if isinstance(v, dict) else v:
            yield from _arrays(part)


def _is_sharded(array: Array) -> bool:
    backend = backend_of(array)
    return backend.shards and backend.sharding(array) is not None
