"""How to multiply a vector that is split over a mesh of devices: arithmetic that knows no array.

A factor is applied where its axis of the vector is whole on every device. An axis that is split is
made whole by an *all-to-all*, which splits another axis in its stead: each device sends all but
one of ``g`` parts of what it holds. So factors whose axes are whole come first, and the product
ends in the layout that it began in. `plan_sharded` finds the plan of the fewest redistributions,
and among these the one that sends the fewest numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "Layout",
    "Mesh",
    "Move",
    "ShardedPlan",
    "Task",
    "as_layout",
    "as_mesh",
    "plan_sharded",
    "split",
]

Mesh = tuple[tuple[str, int], ...]  # names and sizes of its axes
Layout = tuple[tuple[str, ...], ...]  # for each axis of the vector those that split it, major first

_TARGETS = 4  # the axes looked at, the largest, beside those that are split already
_STATES = 20_000  # looked at before the search is given up


class Task(NamedTuple):
    """A factor with so many ``rows`` on the axes ``start`` to ``stop``, which must be whole.

    Tasks of one ``stage`` commute, stages follow one another. Without axes (``start == stop``) it
    is elementwise, and done in any layout.
    """

    stage: int
    start: int = 0
    stop: int = 0
    rows: int = 0

    @property
    def elementwise(self) -> bool:
        """Whether nothing need be whole."""
        return self.start == self.stop


class Move(NamedTuple):
    """An all-to-all over the mesh axes ``names``, the last ones that split ``source``.

    From then on they split ``target``, in the order ``order`` behind those that do so already.
    """

    names: tuple[str, ...]
    source: int
    target: int
    order: tuple[str, ...]
    devices: int  # that exchange with one another
    numbers: int  # that each of them puts in, zeros that make the parts equal included

    @property
    def sent(self) -> int:
        """The numbers that leave each device."""
        return self.numbers - self.numbers // self.devices


@dataclasses.dataclass(frozen=True)
class ShardedPlan:
    """Tasks, by their index, and moves, in order.

    Examples
    --------
    >>> mesh = (("x", 4),)
    >>> tasks = (Task(0, 0, 1, 8), Task(0, 1, 2, 12))
    >>> made = plan_sharded(mesh, (8, 12), (("x",), ()), tasks)
    >>> made.count, made.sent, made.steps[0]
    (2, 36, 1)
    >>> print(made)
    the factor of axis 2 on (2, 12)
    all-to-all over x: axis 1 whole, axis 2 split, 18 numbers sent by each device
    the factor of axis 1 on (8, 3)
    all-to-all over x: axis 2 whole, axis 1 split, 18 numbers sent by each device
    """

    mesh: Mesh
    sizes: tuple[int, ...]
    layout: Layout
    tasks: tuple[Task, ...]
    steps: tuple[int | Move, ...]

    @property
    def moves(self) -> tuple[Move, ...]:
        """The redistributions, in order."""
        return tuple(step for step in self.steps if isinstance(step, Move))

    @property
    def count(self) -> int:
        """How many redistributions there are."""
        return len(self.moves)

    @property
    def sent(self) -> int:
        """The numbers that leave each device."""
        return sum(move.sent for move in self.moves)

    @property
    def flops(self) -> int:
        """Multiplications and additions of each device, of factors taken as dense."""
        total = 0
        for step, before, after in self._states():
            if isinstance(step, Move) or self.tasks[step].elementwise:
                continue
            task = self.tasks[step]
            columns = math.prod(before.sizes[task.start : task.stop])
            total += (2 * columns - 1) * after.numbers(self.mesh)
        return total

    @property
    def touched(self) -> int:
        """The numbers that the products of each device read and write."""
        pairs = [pair for step, *pair in self._states() if not isinstance(step, Move)]
        return sum(before.numbers(self.mesh) + after.numbers(self.mesh) for before, after in pairs)

    @property
    def held(self) -> int:
        """The numbers of vectors that a device holds at most.

        What came in, what goes out, and what goes into a step and comes out of it: compilers keep
        all four apart.
        """
        numbers = [_State(self.layout, self.sizes, frozenset()).numbers(self.mesh)]
        steps = []
        for step, before, after in self._states():
            numbers.append(after.numbers(self.mesh))
            product = before.numbers(self.mesh) + numbers[-1]
            steps.append(2 * step.numbers if isinstance(step, Move) else product)
        return numbers[0] + numbers[-1] + max(steps, default=0)

    def before(self, wanted: int) -> tuple[Layout, tuple[int, ...]]:
        """The layout and the sizes that a task finds."""
        for step, before, _ in self._states():
            if step == wanted:
                return before.layout, before.sizes
        raise KeyError(wanted)

    @property
    def made(self) -> tuple[int, ...]:
        """The sizes of the vector that comes out."""
        sizes = self.sizes
        for _, _, after in self._states():
            sizes = after.sizes
        return sizes

    def _states(self) -> Iterator[tuple[int | Move, _State, _State]]:
        state = _State(self.layout, self.sizes, frozenset())
        for step in self.steps:
            after = (
                state.moved(step)
                if isinstance(step, Move)
                else state.with_done(step, self.tasks[step])
            )
            yield step, state, after
            state = after

    def __str__(self) -> str:
        return "\n".join(
            _words_of_move(step) if isinstance(step, Move) else self._words_of_task(step, before)
            for step, before, _ in self._states()
        )

    def _words_of_task(self, index: int, before: _State) -> str:
        local = tuple(before.local(axis, self.mesh) for axis in range(len(self.sizes)))
        task = self.tasks[index]
        what = "elementwise" if task.elementwise else f"the factor of axis {task.start + 1}"
        return f"{what} on {local}"


def _words_of_move(move: Move) -> str:
    return (
        f"all-to-all over {', '.join(move.names)}: axis {move.source + 1} whole, axis "
        f"{move.target + 1} split, {move.sent} numbers sent by each device"
    )


def _whole(layout: Layout, task: Task) -> bool:
    """Whether what the task needs is whole."""
    return not any(layout[task.start : task.stop])


@functools.lru_cache(maxsize=1024)
def plan_sharded(
    mesh: Mesh, sizes: tuple[int, ...], layout: Layout, tasks: tuple[Task, ...]
) -> ShardedPlan | None:
    """The plan for a vector of these sizes that comes and goes in ``layout``.

    None if there is none: no other axis can be split, or the axes of the result do not divide.
    """
    start = _State(layout, sizes, frozenset())
    steps: tuple[int | Move, ...]
    steps, state = _local_tasks(start, tasks)
    counter = itertools.count()  # so that the heap compares no states
    heap: list[tuple[int, int, int, _State, tuple[int | Move, ...]]] = [
        (0, 0, next(counter), state, steps)
    ]
    seen: set[_State] = set()
    while heap and len(seen) < _STATES:
        count, sent, _, state, steps = heapq.heappop(heap)
        if len(state.done) == len(tasks) and state.layout == layout:
            return ShardedPlan(mesh, sizes, layout, tasks, steps) if state.even(mesh) else None
        if state in seen:
            continue
        seen.add(state)
        for move in _moves(state, mesh, layout):
            made, after = _local_tasks(state.moved(move), tasks)
            path = (*steps, move, *made)
            heapq.heappush(heap, (count + 1, sent + move.sent, next(counter), after, path))
    return None


class _State(NamedTuple):
    """Where a product has got to."""

    layout: Layout
    sizes: tuple[int, ...]
    done: frozenset[int]

    def split(self, axis: int, mesh: Mesh) -> int:
        """Over how many devices the axis is split."""
        return split(self.layout[axis], mesh)

    def local(self, axis: int, mesh: Mesh) -> int:
        """How much of the axis a device holds, zeros at the end included."""
        return -(-self.sizes[axis] // self.split(axis, mesh))

    def numbers(self, mesh: Mesh) -> int:
        """How many numbers a device holds."""
        return math.prod(self.local(axis, mesh) for axis in range(len(self.sizes)))

    def even(self, mesh: Mesh) -> bool:
        """Whether every axis divides by the devices that it is split over."""
        return all(size % self.split(axis, mesh) == 0 for axis, size in enumerate(self.sizes))

    def with_done(self, index: int, task: Task) -> _State:
        """After a task, whose axes become one and others of size one if it is rectangular."""
        sizes = list(self.sizes)
        if not task.elementwise and math.prod(sizes[task.start : task.stop]) != task.rows:
            sizes[task.start : task.stop] = [task.rows] + [1] * (task.stop - task.start - 1)
        return _State(self.layout, tuple(sizes), self.done | {index})

    def moved(self, move: Move) -> _State:
        """After a redistribution."""
        layout = list(self.layout)
        layout[move.source] = layout[move.source][: -len(move.names)]
        layout[move.target] += move.order
        return _State(tuple(layout), self.sizes, self.done)


def _local_tasks(state: _State, tasks: Sequence[Task]) -> tuple[tuple[int, ...], _State]:
    """All that can be done where the vector is, stage after stage, and what comes of it."""
    made: list[int] = []
    for index, task in sorted(enumerate(tasks), key=lambda item: item[1].stage):
        if index in state.done:
            continue
        waits = any(
            other.stage < task.stage and i not in state.done for i, other in enumerate(tasks)
        )
        if not waits and _whole(state.layout, task):
            state = state.with_done(index, task)
            made.append(index)
    return tuple(made), state


def _moves(state: _State, mesh: Mesh, layout: Layout) -> Iterator[Move]:
    """Those that make an axis whole, or more of it, by splitting another."""
    axes = range(len(state.sizes))
    largest = sorted(axes, key=lambda axis: -state.local(axis, mesh))[:_TARGETS]
    targets = [axis for axis in axes if axis in largest or layout[axis] or state.layout[axis]]
    for source in axes:
        names = state.layout[source]
        uneven = state.sizes[source] % state.split(source, mesh)
        for first in [0] if uneven else range(len(names)):
            moved = names[first:]
            for target in targets:
                if moved and target != source:
                    yield from _moves_to(state, mesh, source, target, moved)


def _moves_to(
    state: _State, mesh: Mesh, source: int, target: int, names: tuple[str, ...]
) -> Iterator[Move]:
    devices = split(names, mesh)
    local = state.local(target, mesh)
    if state.layout[target] and state.sizes[target] % (state.split(target, mesh) * devices):
        return  # zeros at the end of each of several parts are not worth their trouble
    numbers = state.numbers(mesh) // max(local, 1) * (-(-local // devices) * devices)
    for order in itertools.permutations(names):
        yield Move(names, source, target, order, devices, numbers)


def split(names: Sequence[str], mesh: Mesh) -> int:
    """Over how many devices an axis is split by these axes of the mesh."""
    return math.prod(dict(mesh)[name] for name in names)


def as_mesh(mesh: Any) -> Mesh:
    """Of a mesh of JAX, or of a mapping of names to sizes.

    Examples
    --------
    >>> as_mesh({"x": 2, "y": 4})
    (('x', 2), ('y', 4))
    """
    shape = getattr(mesh, "shape", mesh)
    if not isinstance(shape, Mapping) or not shape:
        raise TypeError(
            f"mesh is a {type(mesh).__name__}: a jax.sharding.Mesh, or a dict of the names and "
            f"sizes of its axes, would do"
        )
    for name, size in shape.items():
        if not (isinstance(size, numbers.Integral) and int(size) >= 1):
            raise ValueError(f"mesh[{name!r}] = {size!r}: an integer ≥ 1 would do")
    return tuple((str(name), int(size)) for name, size in shape.items())


def as_layout(spec: Any, sizes: Sequence[int], mesh: Mesh) -> Layout:
    """Of a `jax.sharding.PartitionSpec` or a tuple like one; None: all splits the first axis.

    Examples
    --------
    >>> as_layout((None, "x"), (3, 8), (("x", 4),)), as_layout(None, (8, 3), (("x", 4),))
    (((), ('x',)), (('x',), ()))
    """
    known = [name for name, _ in mesh]
    if isinstance(spec, str) or not isinstance(spec, Iterable | None):
        raise TypeError(
            f"spec is a {type(spec).__name__}: a jax.sharding.PartitionSpec, or a tuple of None "
            f"and the names {known}, would do"
        )
    entries = (tuple(known),) if spec is None else tuple(spec)
    made = tuple(
        () if entry is None else tuple(entry) if isinstance(entry, (tuple, list)) else (entry,)
        for entry in (*entries, *(None,) * (len(sizes) - len(entries)))
    )
    names = [name for axis in made for name in axis]
    fits = len(made) == len(sizes) and all(name in known for name in names)
    if not fits or len(set(names)) < len(names):
        raise ValueError(
            f"spec = {spec!r}: for an array with {len(sizes)} axes, up to {len(sizes)} of None, "
            f"the names {known} or tuples of them would do, each name once"
        )
    for place, (size, axis) in enumerate(zip(sizes, made, strict=True)):
        if size % split(axis, mesh):
            raise ValueError(
                f"axis {place} of the shape {tuple(sizes)} does not divide by the "
                f"{split(axis, mesh)} devices that split it: give a spec that splits another"
            )
    return made
