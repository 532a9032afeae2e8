"""`plan`: what products and factorisations will take on machines that are not at hand."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kronops.explaining import quantity
from kronops.scalars import as_integer, as_nonnegative
from kronops.sharding import Layout, Mesh, ShardedPlan, Task, plan_sharded, split

__all__ = ["Prediction", "Strategy", "plan"]

_BYTES = {"bfloat16": 2}  # of dtypes that NumPy lacks
_MOST_DEVICES = 10**9
_MOST_NUMBERS = 10**60  # in vectors: what is computed from them stays within floats


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One way to do it, and what it takes.

    Attributes
    ----------
    name : str
    seconds : float
        The time of arithmetic, of memory and of links, one after another: an upper bound where
        they overlap.
    memory : int
        Bytes that the fullest device holds: vectors, factors, what is on its way.
    moved : int
        Bytes that each device sends to others; out of core, bytes read and written.
    redistributions : int
        How often vectors are laid out anew.
    fits : bool
        Whether the memory is enough.
    """

    name: str
    seconds: float
    memory: int
    moved: int
    redistributions: int
    fits: bool


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What `plan` found: a table when printed, and a `Strategy` by its name.

    Examples
    --------
    >>> import kronops
    >>> made = kronops.plan([4096, 4096], devices=8)
    >>> made.best.name, made["split along one axis"].redistributions
    ('split along one axis', 2)
    """

    what: str
    strategies: tuple[Strategy, ...]

    @property
    def best(self) -> Strategy | None:
        """The fastest of those that fit; None if none does."""
        fitting = [strategy for strategy in self.strategies if strategy.fits]
        return min(fitting, key=lambda strategy: strategy.seconds, default=None)

    def __getitem__(self, name: str) -> Strategy:
        for strategy in self.strategies:
            if strategy.name == name:
                return strategy
        raise KeyError(f"{name!r}: one of {[strategy.name for strategy in self.strategies]}")

    def __repr__(self) -> str:
        return f"Prediction({self.what!r}, best={self.best and self.best.name!r})"

    def __str__(self) -> str:
        rows = [("", "seconds", "memory", "moved", "redistributions", "fits")]
        for strategy in self.strategies:
            seconds = f"{strategy.seconds:.3g}"
            amounts = (quantity(strategy.memory, "B"), quantity(strategy.moved, "B"))
            fits = "yes" if strategy.fits else "no"
            rows.append((strategy.name, seconds, *amounts, str(strategy.redistributions), fits))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        return "\n".join([self.what, *lines])


@dataclasses.dataclass(frozen=True)
class _Machine:
    """Devices alike, with links between them."""

    devices: int
    memory: float
    bandwidth: float
    flops: float
    local_bandwidth: float
    disk: float
    itemsize: int

    def strategy(
        self, name: str, flops: float, touched: float, sent: float, held: float, count: int
    ) -> Strategy:
        """Of flops and numbers of one device."""
        memory, moved = round(held * self.itemsize), round(sent * self.itemsize)
        seconds = flops / self.flops + touched * self.itemsize / self.local_bandwidth
        seconds += moved / self.bandwidth
        return Strategy(name, seconds, memory, moved, count, memory <= self.memory)


def plan(
    shapes: Any,
    vectors: int = 1,
    dtype: Any = "float32",
    devices: int = 1,
    memory: float = 80e9,
    bandwidth: float = 25e9,
    *,
    flops: float = 1e13,
    local_bandwidth: float = 1e12,
    disk: float = 2e9,
) -> Prediction:
    """Time, memory and bytes moved of each way to do it on devices that are not at hand.

    Parameters
    ----------
    shapes : sequence, or dict of sequences
        Of one Kronecker product the shapes of its factors: pairs, or sizes of square ones. A dict
        ``{layer: shapes}`` is K-FAC of a model: layers are factorised and applied to a gradient.
    vectors : int
        How many vectors are multiplied, side by side.
    dtype : str or dtype
    devices : int
        How many there are, each with its own memory.
    memory : float
        Bytes of a device.
    bandwidth : float
        Bytes per second that a device sends to others, while all of them do.
    flops, local_bandwidth, disk : float
        Flops per second of a device in products of matrices; bytes per second of its memory, and
        of the disk that serves it out of core. All defaults are round numbers for a large GPU:
        give what you have measured.

    Returns
    -------
    Prediction

    Raises
    ------
    ValueError
        A size, count or rate is not positive and finite; more than 10⁹ devices.
    TypeError
        What is no size, rate or floating dtype.
    OverflowError
        Vectors of more than 10⁶⁰ numbers.

    Notes
    -----
    Flops and bytes are counted, by the same plans that products with vectors of JAX on a mesh
    follow. Seconds are counts over rates, no more; start-up times are not known here. For K-FAC a
    factor of size ``n`` takes ``n³`` flops, a Cholesky factor and the inverse, and work is spread
    greedily, the largest first, which is within 4/3 of the best [1]_.

    References
    ----------
    .. [1] Graham, Bounds on multiprocessing timing anomalies, SIAM J. Appl. Math. 17, 1969.

    Examples
    --------
    >>> import kronops
    >>> print(kronops.plan([1024, 1024, 1024], devices=8))
    1024 x 1024 x 1024: 1.07e+09 numbers (float32), 1 vector, 8 devices
                          seconds   memory    moved  redistributions  fits
    whole on each device    0.685  17.2 GB      0 B                0   yes
    split along one axis    0.123  2.16 GB   940 MB                2   yes
    split along two axes    0.131  2.16 GB  1.14 GB                3   yes
    out of core              9.28   8.6 GB  17.2 GB                1   yes
    """
    count = as_integer(devices, "devices", least=1)
    if count > _MOST_DEVICES:
        raise ValueError(f"devices = {count}: at most {_MOST_DEVICES} would do")
    columns = as_integer(vectors, "vectors", least=1)
    rates = {
        "memory": memory, "bandwidth": bandwidth, "flops": flops,
        "local_bandwidth": local_bandwidth, "disk": disk,
    }  # fmt: skip
    memory, bandwidth, flops, local_bandwidth, disk = (
        _positive(rate, name) for name, rate in rates.items()
    )
    itemsize, is_complex = _item(dtype)
    flops = flops / 4 if is_complex else flops  # of real numbers
    machine = _Machine(count, memory, bandwidth, flops, local_bandwidth, disk, itemsize)
    if isinstance(shapes, Mapping):
        layers = {
            str(name): _pairs(sizes, f"shapes[{name!r}]", columns) for name, sizes in shapes.items()
        }
        if not layers:
            raise ValueError("shapes is empty: the sizes of one layer at least are needed")
        what = (
            f"K-FAC of {len(layers)} layer{'s' * (len(layers) > 1)} ({dtype}), "
            f"{count} device{'s' * (count > 1)}"
        )
        return Prediction(what, tuple(_of_layers(layers, columns, machine)))
    pairs = _pairs(shapes, "shapes", columns)
    n = math.prod(size for _, size in pairs)
    what = (
        f"{' x '.join(str(size) for _, size in pairs)}: {n:.3g} numbers ({dtype}), {columns} "
        f"vector{'s' * (columns > 1)}, {count} device{'s' * (count > 1)}"
    )
    return Prediction(what, tuple(_of_product(pairs, columns, machine)))


def _positive(rate: Any, name: str) -> float:
    number = as_nonnegative(rate, name)
    if not number > 0:
        raise ValueError(f"{name} = {rate}: a number > 0 would do")
    return float(number)


def _item(dtype: Any) -> tuple[int, bool]:
    """Bytes of a number, and whether it is complex."""
    if str(dtype) in _BYTES:
        return _BYTES[str(dtype)], False
    try:
        known = np.dtype(dtype)
    except TypeError:
        known = np.dtype(object)
    if dtype is None or known.kind not in "fc":
        raise TypeError(f"dtype = {dtype!r}: a floating one would do, such as 'float32'")
    return known.itemsize, known.kind == "c"


def _pairs(shapes: Any, name: str, columns: int) -> tuple[tuple[int, int], ...]:
    if not hasattr(shapes, "__iter__"):
        raise TypeError(f"{name} is a {type(shapes).__name__}: a list of sizes or pairs is needed")
    made = []
    for index, shape in enumerate(shapes):
        pair = tuple(shape) if isinstance(shape, (tuple, list)) else (shape, shape)
        if len(pair) != 2:
            raise ValueError(f"{name}[{index}] = {shape!r}: a size or a pair would do")
        rows, size = (as_integer(number, f"{name}[{index}]", least=1) for number in pair)
        made.append((rows, size))
    if not made:
        raise ValueError(f"{name} is empty: the size of one factor at least is needed")
    if columns * math.prod(max(pair) for pair in made) > _MOST_NUMBERS:
        raise OverflowError(f"{name}: vectors of more than {_MOST_NUMBERS:.0e} numbers")
    return tuple(made)


# -- one Kronecker product -------------------------------------------------------------------------


def _of_product(
    pairs: Sequence[tuple[int, int]], columns: int, machine: _Machine
) -> Iterator[Strategy]:
    factors = sum(rows * size for rows, size in pairs)
    alone = _planned(pairs, columns, (), ((),) * len(pairs))
    assert alone is not None
    whole = alone.flops, alone.touched
    yield machine.strategy("whole on each device", *whole, 0, alone.held + factors, 0)
    if columns > 1 and machine.devices > 1:
        own = _planned(pairs, -(-columns // machine.devices), (), ((),) * len(pairs))
        assert own is not None
        apart = own.flops, own.touched
        yield machine.strategy("vectors apart", *apart, 0, own.held + factors, 0)
    for name, made in _split(pairs, columns, machine.devices):
        cost = made.flops, made.touched, made.sent
        yield machine.strategy(name, *cost, made.held + factors, made.count)
    yield _out_of_core(alone, factors, machine)


def _split(
    pairs: Sequence[tuple[int, int]], columns: int, devices: int
) -> Iterator[tuple[str, ShardedPlan]]:
    """The cheapest plans of vectors that come split along one axis, and along two."""
    if devices == 1:
        return
    axes = range(len(pairs))
    one = [(axis,) for axis in axes]
    two = [(i, k) for i in axes for k in axes if i < k]
    first = next(d for d in range(math.isqrt(devices), 0, -1) if devices % d == 0)
    meshes: dict[str, tuple[Mesh, list[Any]]] = {
        "split along one axis": ((("x", devices),), one),
        "split along two axes": ((("x", devices // first), ("y", first)), two if first > 1 else []),
    }
    for name, (mesh, places) in meshes.items():
        found = [
            made
            for place in places
            if (made := _planned(pairs, columns, mesh, _layout(place, mesh, len(pairs))))
        ]
        if found:
            yield name, min(found, key=lambda made: (made.count, made.sent))


def _layout(place: Sequence[int], mesh: Mesh, count: int) -> Layout:
    names = dict(zip(place, (name for name, _ in mesh), strict=True))
    return tuple((names[axis],) if axis in names else () for axis in range(count))


def _planned(
    pairs: Sequence[tuple[int, int]], columns: int, mesh: Mesh, layout: Layout
) -> ShardedPlan | None:
    sizes = tuple(size for _, size in pairs)
    if any(size % split(names, mesh) for size, names in zip(sizes, layout, strict=True)):
        return None
    tasks = tuple(Task(0, axis, axis + 1, rows) for axis, (rows, _) in enumerate(pairs))
    return plan_sharded(mesh, (*sizes, columns), (*layout, ()), tasks)


def _out_of_core(alone: ShardedPlan, factors: int, machine: _Machine) -> Strategy:
    """On one device: a pass over the file for all axes but the first, and one for that."""
    before, after = math.prod(alone.sizes), math.prod(alone.made)
    passes = min(len(alone.sizes) - 1, 2)
    moved = (passes - 1) * 2 * before + before + after
    piece = before // min(alone.sizes[0], before // max(alone.sizes[0], 1))
    room = max(2 * piece, math.floor(machine.memory / machine.itemsize) - factors)
    held = factors + min(room, 2 * before)
    slow = dataclasses.replace(machine, bandwidth=machine.disk)
    return slow.strategy("out of core", alone.flops, alone.touched, moved, held, passes - 1)


# -- K-FAC -----------------------------------------------------------------------------------------

Layers = Mapping[str, Sequence[tuple[int, int]]]


def _of_layers(layers: Layers, columns: int, machine: _Machine) -> Iterator[Strategy]:
    """Statistics are summed over the devices, factors inverted, gradients multiplied.

    Where layers have owners, statistics go to these as soon as a layer has been seen.
    """
    squares = {name: sum(n * n for _, n in pairs) for name, pairs in layers.items()}
    weights = {name: columns * math.prod(n for _, n in pairs) for name, pairs in layers.items()}
    inverting = {name: sum(n**3 for _, n in pairs) for name, pairs in layers.items()}
    products = {
        name: 2 * weights[name] * sum(n for _, n in pairs) for name, pairs in layers.items()
    }
    total, gradient = sum(squares.values()), sum(weights.values())
    share = (machine.devices - 1) / machine.devices

    def cost(owned: list[list[Any]], amounts: Mapping[Any, int]) -> int:
        """The most that a device has of it."""
        return max(sum(amounts[item] for item in own) for own in owned)

    flops = sum(inverting.values()) + sum(products.values())
    sums = 2 * share * total
    held = 2 * total + 2 * gradient
    yield machine.strategy("all on each device", flops, 3 * total + 2 * gradient, sums, held, 0)
    if machine.devices == 1:
        return
    work = {name: inverting[name] + products[name] for name in layers}
    by_layer = balance(work, machine.devices)
    own = cost(by_layer, squares)
    touched = 3 * own + 2 * cost(by_layer, weights)
    sent = share * (total + gradient)
    held = max(squares.values()) + 2 * own + 2 * gradient
    flops = cost(by_layer, work)
    yield machine.strategy("layers spread", flops, touched, sent, held, 0)
    sizes = {(name, k): n for name, pairs in layers.items() for k, (_, n) in enumerate(pairs)}
    by_factor = balance({factor: n**3 for factor, n in sizes.items()}, machine.devices)
    moved = cost(by_factor, {factor: n * n for factor, n in sizes.items()})
    flops = cost(by_factor, {factor: n**3 for factor, n in sizes.items()})
    flops += cost(by_layer, products)
    held += moved
    yield machine.strategy("factors spread", flops, touched + moved, sent + moved, held, 0)


def balance(work: Mapping[Any, float], devices: int) -> list[list[Any]]:
    """Which items each device does: the largest first, each to whom has least.

    Examples
    --------
    >>> balance({"a": 3, "b": 1, "c": 2, "d": 2}, 2)
    [['a', 'b'], ['c', 'd']]
    """
    busy = min(devices, max(len(work), 1))  # the others have nothing to do
    owned: list[list[Any]] = [[] for _ in range(busy)]
    loads = [(0.0, device) for device in range(busy)]
    for item in sorted(work, key=lambda item: -work[item]):
        load, device = heapq.heappop(loads)
        owned[device].append(item)
        heapq.heappush(loads, (load + work[item], device))
    return owned
