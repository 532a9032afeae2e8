"""How to multiply by a Kronecker product: arithmetic on shapes, which knows no array.

Factor ``k`` of ``A1 ⊗ … ⊗ AN`` acts on the view ``(left, pₖ, right)`` of a vector as one batched
product, without a transposition. What is left to choose:

- *merging*: small neighbours become one factor where the added flops cost less than a pass;
- *order*: rectangular factors that shrink the vector first;
- *turning*: each product moves the axis that it is made with to the other end of the vector;
- *sweeps*: several factors are applied to a piece that stays in the cache, then to the next.

`plan` compares the strategies by a model of time, and keeps the cheapest plan for each shape.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

__all__ = [
    "TO_BACK",
    "TO_FRONT",
    "Compiler",
    "Factor",
    "Kernels",
    "Machine",
    "Plan",
    "Step",
    "Sweep",
    "Turning",
    "is_gathered",
    "plan",
    "stretch",
]

TO_FRONT, TO_BACK = "to the front", "to the back"  # kinds of steps that move the factor's axis
FEW = 128  # columns below which copying a large matrix costs more than copying the columns
SMALL = 10**6  # multiplications up to which OpenBLAS has kernels that copy nothing


class Factor(NamedTuple):
    """What a plan knows of a factor ``(rows, columns)``.

    ``kind`` is ``"dense"``; ``"diagonal"``, an elementwise pass; ``"identity"``, nothing at all;
    or ``"operator"``, whose own product is used.
    """

    rows: int
    columns: int
    kind: str = "dense"


Shapes = tuple[tuple[int, int], ...]


class Kernels(Protocol):
    """Compiled code that applies several small factors to a few numbers at a time."""

    def seconds(self, shapes: Shapes, right: int) -> float | None:
        """For each number that goes in; None where there is no such kernel."""


class Compiler(Protocol):
    """A compiler of whole products, which knows several forms of a step: seconds of the fastest."""

    def in_place(self, rows: int, columns: int, left: int, right: int) -> float:
        """Of a product with the middle axis of ``(left, columns, right)``."""


class Turning(Protocol):
    """How long products take, from memory to memory, that move their axis to the other end."""

    def turned(self, kind: str, rows: int, columns: int, others: int) -> float:
        """Of one that makes the last axis the first, or the first the last; infinite for no way."""

    def transposed(self, rows: int, columns: int) -> float:
        """Of writing a matrix down by columns."""


class Machine(NamedTuple):
    """One core's numbers for one dtype, which need not be exact: plans are compared by them."""

    itemsize: int
    flops: float  # per second, of products of matrices that fit its caches
    call: float  # seconds that one such product costs beside its arithmetic
    start: float  # seconds that a batch of them costs beside
    lanes: int  # numbers in a vector register, to which columns are rounded up
    near: float  # bytes per second from and to the cache
    far: float  # bytes per second from and to main memory
    cache: int  # bytes of a piece that stays in the cache; 0: whole vectors only
    merged: int  # the largest factor that is made of several; 0: diagonals are not merged either
    work: int  # multiplications in one product of matrices; more is split, 0: never
    kernels: Kernels | None = None
    compiler: Compiler | None = None  # whose times are those of the dense steps
    turning: Turning | None = None  # without it, every axis stays where it is


class Step(NamedTuple):
    """Factors ``start`` to ``stop`` on the view ``(left, columns, right)`` of a piece.

    They are merged; or, if ``kind`` is ``"compiled"``, applied one after another by a kernel.
    Steps `TO_FRONT` make the last axis, their own, the first: all those before them have done so,
    from the last factor on, so that ``right`` is already in front. `TO_BACK` is the mirror image.
    """

    start: int
    stop: int
    rows: int
    columns: int
    left: int
    right: int
    kind: str
    shapes: Shapes


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Steps on pieces of the view ``(before, columns, after)``, each one pass over the memory.

    A piece is ``before_piece × columns × after_piece`` numbers. The steps' ``left`` and ``right``
    lie between ``before`` and ``after``: a step acts on ``(before · left, p, right · after)``.
    """

    steps: tuple[Step, ...]
    rows: int
    columns: int
    before: int
    after: int
    before_piece: int
    after_piece: int
    largest: int  # of a piece on its way, in numbers for one of ``before`` and one of ``after``
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether the only piece is the vector itself."""
        return self.before_piece == self.before and self.after_piece == self.after

    def view(self, step: Step) -> tuple[int, int, int]:
        """The ``(left, columns, right)`` that a step acts on, of the whole vector."""
        return self.before * step.left, step.columns, step.right * self.after

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return -(-self.before // self.before_piece) * -(-self.after // self.after_piece)

    @property
    def workspace(self) -> int:
        """The numbers of one of the two workspaces that the pieces need; 0 without pieces."""
        if self.whole or len(self.steps) == 1:
            return 0
        return self.before_piece * self.largest * self.after_piece


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sweeps of a product, in order, and what they cost.

    Examples
    --------
    >>> machine = Machine(8, 5e10, 3e-8, 1e-6, 8, 1.6e11, 2e10, 2**19, 64, 2**18)
    >>> print(plan((Factor(2, 2),) * 4, 1, 1, machine))
    A1⊗A2⊗A3⊗A4 (16 x 16) on (1, 16, 1)
    """

    factors: tuple[Factor, ...]
    left: int
    right: int
    sweeps: tuple[Sweep, ...]
    machine: Machine

    @property
    def steps(self) -> list[tuple[Sweep, Step]]:
        """Every step in order, with its sweep."""
        return [(sweep, step) for sweep in self.sweeps for step in sweep.steps]

    @property
    def seconds(self) -> float:
        """The model's time on one core."""
        return sum(sweep.seconds for sweep in self.sweeps)

    @property
    def flops(self) -> int:
        """Multiplications and additions; those of operators are their own."""
        return sum(_work(step) * sweep.before * sweep.after for sweep, step in self.steps)

    @property
    def moved(self) -> int:
        """The numbers that sweeps read and write; those of operators are their own."""
        return sum(
            (sweep.rows + sweep.columns) * sweep.before * sweep.after
            for sweep in self.sweeps
            if sweep.steps[0].kind != "operator"
        )

    @property
    def workspace(self) -> int:
        """The numbers of one of the two workspaces that pieces need."""
        return max((sweep.workspace for sweep in self.sweeps), default=0)

    def __str__(self) -> str:
        return "\n".join(line for sweep in self.sweeps for line in _lines(sweep))


@functools.lru_cache(maxsize=1024)
def plan(factors: tuple[Factor, ...], left: int, right: int, machine: Machine) -> Plan:
    """The cheapest plan for ``factors`` on a vector of the view ``(left, Π columns, right)``.

    Each strategy is a function from the factors, the view and the machine to sweeps.
    """
    made = (strategy(factors, left, right, machine) for strategy in STRATEGIES)
    candidates = [Plan(factors, left, right, tuple(sweeps), machine) for sweeps in made if sweeps]
    if not candidates:  # of identities alone
        return Plan(factors, left, right, (), machine)
    return min(candidates, key=lambda candidate: candidate.seconds)


# -- strategies: each gives the sweeps of one way to do it -----------------------------------------


def one_by_one(factors: Sequence[Factor], left: int, right: int, machine: Machine) -> list[Sweep]:
    """Every merged group on the whole vector, from the last to the first."""
    groups = _merge(factors, left, right, machine)
    return _whole_sweeps(factors, reversed(groups), left, right, machine)


def shrinking_first(
    factors: Sequence[Factor], left: int, right: int, machine: Machine
) -> list[Sweep]:
    """Every merged group on the whole vector, those that shrink it most first."""
    groups = _merge(factors, left, right, machine)
    return _whole_sweeps(factors, _by_shrinkage(factors, groups), left, right, machine)


def apart_shrinking_first(
    factors: Sequence[Factor], left: int, right: int, machine: Machine
) -> list[Sweep]:
    """Every factor by itself, those that shrink the vector most first."""
    apart = [Group(i, i + 1, factor.kind) for i, factor in enumerate(factors)]
    groups = _by_shrinkage(factors, [group for group in apart if group.kind != "identity"])
    return _whole_sweeps(factors, groups, left, right, machine)


def in_pieces(factors: Sequence[Factor], left: int, right: int, machine: Machine) -> list[Sweep]:
    """Runs of merged groups on pieces that stay in the cache, from the last run to the first."""
    groups = _merge(factors, left, right, machine)
    sweeps = []
    sizes = [factor.columns for factor in factors]
    while groups:
        run = 1
        while run < len(groups) and _fits(factors, groups[-run - 1 :], sizes, right, machine):
            run += 1
        sweeps.append(_sweep(factors, groups[-run:], sizes, (left, right), machine, True))
        groups = groups[:-run]
    return sweeps


def to_the_front(factors: Sequence[Factor], left: int, right: int, machine: Machine) -> list[Sweep]:
    """Every merged group with the last axis, which becomes the first, from the last group on.

    An axis behind the factors is brought to the front before, one before them in the end.
    """
    return _turned(factors, left, right, machine, TO_FRONT)


def to_the_back(factors: Sequence[Factor], left: int, right: int, machine: Machine) -> list[Sweep]:
    """Every merged group with the first axis, which becomes the last, from the first group on."""
    return _turned(factors, left, right, machine, TO_BACK)


STRATEGIES: tuple[Callable[..., list[Sweep]], ...] = (
    one_by_one,
    shrinking_first,
    apart_shrinking_first,
    in_pieces,
    to_the_front,
    to_the_back,
)


# -- merging ---------------------------------------------------------------------------------------


class Group(NamedTuple):
    """Factors ``start`` to ``stop``, which become one step of this kind."""

    start: int
    stop: int
    kind: str


def _merge(
    factors: Sequence[Factor], left: int, right: int, machine: Machine, dense: str = "dense"
) -> list[Group]:
    """Contiguous groups of factors that cost least, by dynamic programming from the last.

    ``dense`` is the kind of step that dense factors become.
    """
    count = len(factors)
    rights = [right]
    for factor in reversed(factors):
        rights.append(rights[-1] * factor.rows)
    lefts = [left]
    for factor in factors:
        lefts.append(lefts[-1] * factor.columns)
    best: list[tuple[float, list[Group]]] = [(0.0, [])] * (count + 1)
    for start in reversed(range(count)):
        choices = []
        for stop in range(start + 1, count + 1):
            kinds = _kinds(factors[start:stop], machine, dense)
            if not kinds:
                break
            for kind in kinds:
                group = Group(start, stop, kind)
                step = _step(factors, group, lefts[start], rights[count - stop])
                seconds = _seconds(step, 1, 1, machine) + best[stop][0]
                choices.append((seconds, [group, *best[stop][1]]))
        best[start] = min(choices, key=lambda choice: choice[0])
    return [group for group in best[0][1] if group.kind != "identity"]


def _kinds(group: Sequence[Factor], machine: Machine, dense: str) -> list[str]:
    """As what the factors can be one step."""
    kinds = {factor.kind for factor in group}
    if len(kinds) > 1:
        return []
    (kind,) = kinds
    rows = math.prod(factor.rows for factor in group)
    columns = math.prod(factor.columns for factor in group)
    most = {
        "identity": rows,
        "diagonal": machine.cache // machine.itemsize if machine.merged else 0,
        "dense": machine.merged,
    }
    own = dense if kind == "dense" else kind
    found = [own] if len(group) == 1 or max(rows, columns) <= most.get(kind, 0) else []
    if own == "dense" and machine.kernels and machine.kernels.seconds(_shapes(group), 2):
        found.append("compiled")
    return found


# -- sweeps ----------------------------------------------------------------------------------------


def _whole_sweeps(
    factors: Sequence[Factor], groups: Iterable[Group], left: int, right: int, machine: Machine
) -> list[Sweep]:
    sizes = [factor.columns for factor in factors]
    return [_sweep(factors, [group], sizes, (left, right), machine, False) for group in groups]


def _turned(
    factors: Sequence[Factor], left: int, right: int, machine: Machine, kind: str
) -> list[Sweep]:
    """A sweep for each step, with the time that transpositions take; none where this is no way."""
    turning = machine.turning
    if turning is None or any(factor.kind != "dense" for factor in factors):
        return []
    groups = _merge(factors, left, right, machine, kind)
    order = reversed(groups) if kind == TO_FRONT else groups
    first, *others = _whole_sweeps(factors, order, left, right, machine)
    rows = math.prod(factor.rows for factor in factors)
    columns = math.prod(factor.columns for factor in factors)
    before, after = (left * columns, right), (rows * right, left)
    if kind == TO_BACK:
        before, after = (left, columns * right), (right, left * rows)
    seconds = turning.transposed(*before) + turning.transposed(*after)
    return [dataclasses.replace(first, seconds=first.seconds + seconds), *others]


def _fits(
    factors: Sequence[Factor], groups: Sequence[Group], sizes: list[int], right: int, m: Machine
) -> bool:
    """Whether a piece of these groups, 512 bytes wide, stays in the cache."""
    if any(group.kind == "operator" for group in groups):
        return False
    after = right * math.prod(sizes[groups[-1].stop :])
    steps, largest = _steps(factors, groups, list(sizes))
    if m.work and any(is_gathered(s, 2, s.right * after) for s in steps if s.right * after > 1):
        return False  # pieces have no place for the columns of many slices
    return largest * min(after * m.itemsize, 512) <= m.cache


def _sweep(
    factors: Sequence[Factor],
    groups: Sequence[Group],
    sizes: list[int],
    outside: tuple[int, int],
    machine: Machine,
    pieces: bool,
) -> Sweep:
    """The sweep of ``groups``; ``sizes``, the vector's, become what it makes of them."""
    start, stop = groups[0].start, groups[-1].stop
    before = outside[0] * math.prod(sizes[:start])
    after = outside[1] * math.prod(sizes[stop:])
    columns = math.prod(sizes[start:stop])
    steps, largest = _steps(factors, groups, sizes)
    rows = math.prod(sizes[start:stop])
    b_piece, a_piece = before, after
    room = machine.cache // machine.itemsize // max(largest, 1)
    if pieces and room < before * after and steps[0].kind != "operator":
        a_piece = min(after, _round_down(room, machine.lanes))
        b_piece = max(1, min(before, room // after)) if a_piece == after else 1
    made = Sweep(tuple(steps), rows, columns, before, after, b_piece, a_piece, largest, 0.0)
    return dataclasses.replace(made, seconds=_sweep_seconds(made, machine))


def _steps(
    factors: Sequence[Factor], groups: Sequence[Group], sizes: list[int]
) -> tuple[list[Step], int]:
    """The steps of a sweep, those that shrink first, and the largest vector on the way."""
    first, last = groups[0].start, groups[-1].stop
    steps = []
    largest = math.prod(sizes[first:last])
    for group in _by_shrinkage(factors, groups):
        start, stop, _ = group
        left, right = math.prod(sizes[first:start]), math.prod(sizes[stop:last])
        steps.append(_step(factors, group, left, right))
        sizes[start:stop] = [factor.rows for factor in factors[start:stop]]
        largest = max(largest, math.prod(sizes[first:last]))
    return steps, largest


def _step(factors: Sequence[Factor], group: Group, left: int, right: int) -> Step:
    shapes = _shapes(factors[group.start : group.stop])
    rows = math.prod(rows for rows, _ in shapes)
    columns = math.prod(columns for _, columns in shapes)
    return Step(group.start, group.stop, rows, columns, left, right, group.kind, shapes)


def _shapes(factors: Sequence[Factor]) -> Shapes:
    return tuple((factor.rows, factor.columns) for factor in factors)


def _by_shrinkage(factors: Sequence[Factor], groups: Sequence[Group]) -> list[Group]:
    """Groups by ``1/columns − 1/rows``; among those that do alike, so that many columns are left.

    What shrinks has most of them to its right in the beginning, what stretches in the end.
    """
    last_first = list(reversed(groups))
    if any(group.kind == "compiled" for group in groups):
        return last_first  # the order in which the ends of a piece are views of one stride

    def key(group: Group) -> tuple[float, int]:
        step = _step(factors, group, 1, 1)
        order = stretch(step.rows, step.columns)
        return order, group.start if order < 0 else -group.start

    return sorted(last_first, key=key)


def stretch(rows: int, columns: int) -> float:
    """``1/columns − 1/rows``: factors cost least in this order, those that shrink most first."""
    return 1 / max(columns, 1) - 1 / max(rows, 1)


# -- the model of time -----------------------------------------------------------------------------


def _sweep_seconds(sweep: Sweep, machine: Machine) -> float:
    """The model's time for a sweep: its steps, the memory, and what pieces cost beside."""
    steps, before, after = sweep.steps, sweep.before, sweep.after
    moved = (sweep.rows + sweep.columns) * before * after * machine.itemsize
    memory = moved / _rate(moved, machine)
    seconds = sum(_seconds(step, before, after, machine) for step in steps)
    if steps[0].kind in (TO_FRONT, TO_BACK):
        return seconds  # the memory is a part of it
    compiled = all(step.kind == "compiled" for step in steps)  # they wait for nothing
    seconds = max(seconds, memory) if compiled else seconds + memory
    return seconds + (sweep.pieces - 1) * len(steps) * machine.start


def _seconds(step: Step, before: int, after: int, machine: Machine) -> float:
    """The model's time for a step on a vector that is in the cache."""
    left, right = before * step.left, step.right * after
    if step.kind == "identity":
        return 0.0
    if step.kind in (TO_FRONT, TO_BACK):
        assert machine.turning is not None
        return machine.turning.turned(step.kind, step.rows, step.columns, left * right)
    if step.kind == "dense" and machine.compiler is not None:
        return machine.compiler.in_place(step.rows, step.columns, left, right)
    if step.kind == "compiled":
        assert machine.kernels is not None
        each = machine.kernels.seconds(step.shapes, right)
        return 2 * machine.start + left * step.columns * right * (each or math.inf)
    moved = left * (step.rows + step.columns) * right * machine.itemsize / machine.near
    if step.kind != "dense":
        return machine.start + moved
    rows, calls = step.rows, left
    if machine.work and right > 1 and is_gathered(step, left, right):
        calls, right = 1, left * right
        left, moved = 1, 3 * moved  # the columns are put side by side, and their products back
    if right == 1:
        rows, calls = _round_up(rows, machine.lanes), 1
    else:
        right = _round_up(right, machine.lanes)
    work = left * rows * step.columns * right
    if machine.work:
        calls = max(calls, work // machine.work)
    return machine.start + calls * machine.call + 2 * work / machine.flops + moved


def is_gathered(step: Step, left: int, right: int) -> bool:
    """Whether BLAS would copy a large matrix for a few columns, or again for each few.

    On a whole vector the columns of many slices are then put side by side, if NumPy multiplies.
    """
    columns, few = (left, FEW // 2) if right == 1 else (right, FEW)
    work = step.rows * step.columns * columns
    return step.kind == "dense" and 1 < columns <= few and work > SMALL


def _rate(moved: int, machine: Machine) -> float:
    """Bytes per second between a core and the memory that holds a vector of this size."""
    if moved < 8 * machine.cache:
        return math.inf  # counted with the steps
    return machine.far if moved > 64 * machine.cache else math.sqrt(machine.near * machine.far)


def _work(step: Step) -> int:
    """Flops for one of ``before`` and one of ``after``."""
    if step.kind != "compiled":
        each = {"diagonal": 1, "operator": 0}.get(step.kind, 2 * step.columns - 1)
        return step.left * step.rows * step.right * each
    total, before, after = 0, step.columns, 1
    for rows, columns in reversed(step.shapes):
        before //= columns
        after *= rows
        total += before * after * (2 * columns - 1)
    return step.left * total * step.right


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _round_down(size: int, multiple: int) -> int:
    return max(size // multiple * multiple, multiple)


# -- words -----------------------------------------------------------------------------------------


def _lines(sweep: Sweep) -> list[str]:
    lines = []
    if not sweep.whole:
        lines.append(
            f"{sweep.pieces} pieces of {sweep.before_piece} x {sweep.columns} x "
            f"{sweep.after_piece}, each:"
        )
    for step in sweep.steps:
        sign = ", " if step.kind == "compiled" else "⊗"
        names = sign.join(f"A{k + 1}" for k in range(step.start, step.stop))
        left = (sweep.before if sweep.whole else sweep.before_piece) * step.left
        right = step.right * (sweep.after if sweep.whole else sweep.after_piece)
        indent = "" if sweep.whole else "    "
        way = {"compiled": ", by a kernel", TO_FRONT: f", {TO_FRONT}", TO_BACK: f", {TO_BACK}"}
        lines.append(
            f"{indent}{names} ({step.rows} x {step.columns}) on ({left}, {step.columns}, {right})"
            f"{way.get(step.kind, '')}"
        )
    return lines
