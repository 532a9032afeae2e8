"""Plans of Kronecker products carried out by NumPy: on whole vectors, or piece by piece.

BLAS multiplies small matrices fastest when it need not copy them first, as it does above a certain
size. Long products of small factors are therefore cut into batches of small ones, which also stay
below the size from which BLAS starts threads of its own.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple

import numpy as np

from kronops.backends.settings import current_settings, threads_for
from kronops.backends.standard import Array, Operand
from kronops.planning import (
    FEW,
    SMALL,
    TO_BACK,
    TO_FRONT,
    Machine,
    Plan,
    Step,
    Sweep,
    is_gathered,
)

__all__ = ["program"]

Function = Callable[[Array], Array]

_PAGE = 4096  # bytes: places a multiple of it apart collide in the first cache
_KEPT = 2**25  # bytes of the largest block that the C library may keep, glibc's by default
_ALONE = 2**16  # numbers that need no memory of their own place
_SHARED = 5 * 10**8  # multiplications by a few columns that are worth threads
_ROWS = 32  # of tiles below which what is left of eight rows, which BLAS takes at once, counts
_WIDE = 512  # columns of tiles below which rows far apart collide in the cache
_NUMBERS = {8: np.dtype(np.uint64), 16: np.dtype(np.complex128)}  # by bytes


def program(plan: Plan, functions: Sequence[Operand], given: Any, dtype: Any) -> Function:
    """A function that carries ``plan`` out on an array of its view, as `Backend.program` says.

    ``functions`` are, for each step, its matrix or diagonal, its matrices if it is compiled, or
    what applies its operator.
    """
    left = iter(functions)
    parts: list[Any] = [] if given == dtype else [lambda x: x.astype(dtype, order="C")]
    for sweep in plan.sweeps:
        operands = [next(left) for _ in sweep.steps]
        parts += _sweep(sweep, operands, dtype, plan.machine, owned=bool(parts))
    if not parts:
        return np.copy
    parts = [
        function
        for into, several in itertools.groupby(parts, lambda part: isinstance(part, _INTO))
        for function in ([_InTurns(list(several))] if into else several)
    ]
    made: Function = functools.reduce(_then, parts)
    return made


def _then(first: Function, second: Function) -> Function:
    return lambda x: second(first(x))


def _sweep(
    sweep: Sweep, operands: Sequence[Operand], dtype: Any, machine: Machine, owned: bool
) -> list[Function | _Whole | _Turned | _Pieces]:
    """What carries the sweep out; ``owned``: it may write to what it is given."""
    if sweep.steps[0].kind == "operator":
        return list(operands)
    operands = [_cast(operand, dtype) for operand in operands]
    numbers = max(sweep.rows, sweep.columns) * sweep.before * sweep.after
    small = numbers * machine.itemsize <= machine.cache
    in_place = owned and sweep.rows == sweep.columns
    if len(sweep.steps) > 1 and not small:
        return [_Pieces(sweep, operands, dtype, machine, in_place)]
    return [
        _Kernel(sweep, step, operand, dtype, in_place)
        if step.kind == "compiled"
        else _alone(sweep, step, operand, machine, small)
        for step, operand in zip(sweep.steps, operands, strict=True)
    ]


def _cast(operand: Operand, dtype: Any) -> Operand:
    if isinstance(operand, list):
        return [matrix.astype(dtype, copy=False) for matrix in operand]
    return operand.astype(dtype, copy=False)


# -- one step on the whole vector ------------------------------------------------------------------


def _alone(
    sweep: Sweep, step: Step, operand: Array, machine: Machine, small: bool
) -> Function | _Whole | _Turned:
    left, right = sweep.before * step.left, step.right * sweep.after
    if step.kind in (TO_FRONT, TO_BACK):
        return _Turned(operand, step.kind == TO_FRONT, left * step.rows * right)
    if is_gathered(step, left, right):
        return functools.partial(_gathered, np.ascontiguousarray(operand), left, right)
    multiply = _multiplication(step, operand, left, right, machine)
    if small and not multiply.swapped:
        return _plain(multiply)
    return _Whole(multiply, left * step.rows * right)


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A step on whole vectors, into an array that is given."""

    multiply: _Multiplication
    size: int

    in_place: ClassVar[bool] = False  # whether that array may be the vector itself

    @property
    def dtype(self) -> Any:
        """Of the array."""
        return self.multiply.operand.dtype

    def __call__(self, x: Array, made: Array) -> None:
        """Make so many numbers."""
        multiply = self.multiply
        source, target = multiply.view(x, multiply.source), multiply.view(made, multiply.target)
        parts = _parts(multiply.batch, threads_for(max(x.size, self.size)))
        _share(lambda part: multiply(source[part], target[part]), parts)


@dataclasses.dataclass(frozen=True)
class _Turned:
    """One long product with the transpose, which BLAS reads as it is, and may share."""

    operand: Array
    to_front: bool
    size: int

    in_place: ClassVar[bool] = False

    @property
    def dtype(self) -> Any:
        """Of the array."""
        return self.operand.dtype

    def __call__(self, x: Array, made: Array) -> None:
        """Make so many numbers."""
        rows, columns = self.operand.shape
        if self.to_front:
            np.matmul(self.operand, x.reshape(-1, columns).T, out=made.reshape(rows, -1))
        else:
            np.matmul(x.reshape(columns, -1).T, self.operand.T, out=made.reshape(-1, rows))


def _plain(multiply: _Multiplication) -> Function:
    """With as few calls as there can be: it is what small vectors cost."""
    function, shape, operand = multiply.function, multiply.source, multiply.operand
    if len(shape) < 3:
        function = np.ndarray.dot  # it starts in half the time of matmul
        if not multiply.on_right:
            dot = operand.dot
            return lambda x: dot(x.reshape(shape))
    if multiply.on_right:
        return lambda x: function(x.reshape(shape), operand)
    return lambda x: function(operand, x.reshape(shape))


def _gathered(matrix: Array, left: int, right: int, x: Array) -> Array:
    """The columns of many slices side by side, multiplied at once."""
    rows, columns = matrix.shape
    if left == 1:
        return _tall(matrix, x.reshape(columns, right))
    if right == 1:
        beside = np.ascontiguousarray(x.reshape(left, columns).T)
        return np.ascontiguousarray(_tall(matrix, beside).T)
    x = np.ascontiguousarray(x.reshape(left, columns, right))
    made = np.empty((left, rows, right), matrix.dtype)
    some = max(1, 4 * FEW // right)
    for start in range(0, left, some):
        slices = x[start : start + some]
        beside = _turned(slices, np.empty((columns, len(slices), right), matrix.dtype))
        product = _tall(matrix, beside.reshape(columns, -1))
        _turned(product.reshape(rows, -1, right), made[start : start + some])
    return made


def _turned(x: Array, made: Array) -> Array:
    """``made``, filled with ``x``, its first two axes swapped.

    What lies along the last is copied as one number if there is one of that size: inner loops
    over two numbers take NumPy several times as long.
    """
    number = _NUMBERS.get(x.shape[-1] * x.itemsize, x.dtype)
    np.copyto(made.view(number), x.view(number).swapaxes(0, 1))
    return made


def _tall(matrix: Array, x: Array) -> Array:
    """``matrix @ x``, by so few rows at a time that BLAS need not copy the matrix."""
    rows, columns = matrix.shape
    most = SMALL // (columns * x.shape[1])
    if rows % 8 or most >= _ROWS:
        tile = _divisor(rows, most, least=8)
    else:
        tile = 8 * _divisor(rows // 8, most // 8, least=1)
    tiles = matrix.reshape(rows // tile, tile, columns)
    made = np.empty((rows // tile, tile, x.shape[1]), matrix.dtype)
    threads = current_settings().threads if tile < rows and made.size * columns > _SHARED else 1
    _share(lambda part: np.matmul(tiles[part], x, out=made[part]), _parts((len(tiles),), threads))
    return made.reshape(rows, -1)


class _Kernel:
    """A compiled kernel on the whole vector, in place if it may."""

    def __init__(
        self, sweep: Sweep, step: Step, operand: Sequence[Array], dtype: Any, in_place: bool
    ) -> None:
        left, _, right = sweep.view(step)
        self.source, self.target = (left, step.columns, right), (left, step.rows, right)
        self.multiply = _compiled(step, operand, left, right)
        self.dtype, self.in_place = dtype, in_place and step.rows == step.columns

    def __call__(self, x: Array) -> Array:
        x = np.ascontiguousarray(x).reshape(self.source)
        if not x.flags.aligned:
            x = x.copy()
        if x.size <= _ALONE:
            made = x if self.in_place else np.empty(self.target, self.dtype)
            return self.multiply(x, made)
        made = x if self.in_place else _aligned(self.target, self.dtype, x)
        parts = _parts(self.source[::2], threads_for(x.size))
        if len(parts) > 1 and len(parts[0]) > 1:  # columns
            parts = [(slice(None), *part) for part in parts]
        _share(lambda part: self.multiply(x[part], made[part]), parts)
        return made


def _aligned(shape: tuple[int, ...], dtype: Any, beside: Array) -> Array:
    """Fresh memory in which registers do not straddle cache lines, nor collide with ``beside``."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 2 * _PAGE, np.uint8)
    start = (beside.ctypes.data + _PAGE // 2 - memory.ctypes.data) % _PAGE
    start += -(memory.ctypes.data + start) % 64
    return memory[start : start + size].view(dtype).reshape(shape)


# -- threads ---------------------------------------------------------------------------------------


def _parts(batch: tuple[int, ...], threads: int) -> list[Any]:
    """For each thread, the indices of its part of the longest axis of a batch."""
    longest = max(batch, default=1)
    if longest < threads or threads == 1:
        return [()]
    ends = [longest * i // threads for i in range(threads + 1)]
    axis = batch.index(longest)
    return [(slice(None),) * axis + (slice(a, b),) for a, b in itertools.pairwise(ends)]


def _share(function: Callable[[Any], object], parts: Sequence[Any]) -> None:
    """Call ``function`` with each part, in a thread for each; errors are raised here.

    In the context of the caller, whose `numpy.errstate` is a part of it.
    """
    if len(parts) == 1:
        function(parts[0])
        return
    calls = [functools.partial(contextvars.copy_context().run, function, part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(lambda call: call(), calls))


# -- several steps on pieces -----------------------------------------------------------------------


class _Pieces:
    """The steps of a sweep on pieces that stay in the cache, in workspaces of each thread.

    ``in_place``: the array into which it is called may be the vector itself.
    """

    def __init__(
        self,
        sweep: Sweep,
        operands: Sequence[Array],
        dtype: Any,
        machine: Machine,
        in_place: bool,
    ) -> None:
        self.sweep, self.operands, self.dtype, self.machine = sweep, operands, dtype, machine
        self.in_place = in_place
        self.size = sweep.before * sweep.rows * sweep.after
        self.strided = sweep.after_piece < sweep.after

    def __call__(self, x: Array, made: Array) -> None:
        """Fill ``made``."""
        sweep = self.sweep
        x = np.ascontiguousarray(x).reshape(sweep.before, sweep.columns, sweep.after)
        made = made.reshape(sweep.before, sweep.rows, sweep.after)
        threads = threads_for(max(x.size, made.size))
        pieces = self._pieces(threads)
        parts = [part for i in range(threads) if (part := pieces[i::threads])]
        _share(functools.partial(self._run, x, made), parts)

    def _pieces(self, threads: int) -> list[Any]:
        """The indices of pieces, one at least for each thread."""
        sweep = self.sweep
        before = sweep.before_piece
        if not self.strided:
            before = min(before, -(-sweep.before // threads))
        return [
            (slice(b, b + before), slice(None), slice(a, a + sweep.after_piece))
            for b in range(0, sweep.before, before)
            for a in range(0, sweep.after, sweep.after_piece)
        ]

    def _run(self, x: Array, made: Array, pieces: Iterable[Any]) -> None:
        size = self.sweep.before_piece * self.sweep.largest * self.sweep.after_piece
        workspaces = np.empty((2, size), self.dtype)
        shape, chain = None, []
        for piece in pieces:
            given, wanted = x[piece], made[piece]
            if given.shape != shape:
                shape = given.shape
                chain = self._chain(shape[0], shape[2], workspaces)
            for multiply, source, target in chain:
                if source is None:
                    source = multiply.view(given, multiply.source)
                if target is None:
                    target = multiply.view(wanted, multiply.target)
                multiply(source, target)

    def _chain(self, before: int, after: int, workspaces: Array) -> list[Any]:
        """For each step how to multiply, and the views of workspaces; None for the vectors."""
        pairs = list(zip(self.sweep.steps, self.operands, strict=True))
        chain: list[Any] = []
        view = None
        size = self.sweep.columns
        for index, (step, operand) in enumerate(pairs):
            size = size // step.columns * step.rows
            last = index == len(pairs) - 1
            left, right = before * step.left, step.right * after
            strided = self.strided and (last or view is None)
            if step.kind == "compiled":
                multiply = _compiled(step, operand, left, right, after if strided else right)
            elif strided:
                multiply = _tiled(step, operand, left, (step.right, after))
            else:
                multiply = _multiplication(step, operand, left, right, self.machine)
            source = None if view is None else multiply.view(view, multiply.source)
            view = None if last else workspaces[index % 2, : before * size * after]
            target = None if view is None else multiply.view(view, multiply.target)
            chain.append((multiply, source, target))
        return chain


# -- from one array to another and back ------------------------------------------------------------


class _InTurns:
    """Sweeps that fill what they are given: the result, and one array more.

    Fresh memory costs as much as the arithmetic. The C library gives what lies free at the end of
    its heap back to the system where that is more than twice the largest block that it once had
    from there: a block that is asked for here, and never touched, makes it keep these two arrays.
    """

    def __init__(self, sweeps: Sequence[_Whole | _Turned | _Pieces]) -> None:
        self.dtype = sweeps[-1].dtype
        self.size = sweeps[-1].size
        turns, turn = [], True
        for sweep in reversed(sweeps):
            turns.append(turn)
            turn ^= not sweep.in_place
        self.sweeps = list(zip(sweeps, reversed(turns), strict=True))
        self.spare = max((s.size for s, turn in self.sweeps if not turn), default=0)
        if 2 * self.spare * self.dtype.itemsize <= _KEPT:
            np.empty(2 * self.spare, self.dtype)

    def __call__(self, x: Array) -> Array:
        result: Any = None
        spare: Any = None
        for sweep, turn in self.sweeps:
            if sweep.in_place:
                made = x = np.ascontiguousarray(x).reshape(-1)
            elif turn and sweep.size > self.size:
                made = np.empty(sweep.size, self.dtype)
            elif turn:
                result = np.empty(self.size, self.dtype) if result is None else result
                made = result[: sweep.size]
            else:
                spare = np.empty(self.spare, self.dtype) if spare is None else spare
                made = spare[: sweep.size]
            sweep(x, made)
            x = made
        return x


_INTO = _Whole, _Turned, _Pieces

# -- a step as one call of NumPy -------------------------------------------------------------------


class _Multiplication(NamedTuple):
    """A step as `numpy.matmul` (or `multiply`) of views: batches of a size that BLAS likes."""

    function: Any
    operand: Array
    on_right: bool
    swapped: bool
    source: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes in front of the matrices."""
        batch = self.source[:-2]
        return (*batch[:-1], self.source[-2]) if self.swapped else batch

    def view(self, array: Array, shape: tuple[int, ...]) -> Array:
        """``array``, with the batch in front."""
        array = array.reshape(shape)
        return array.swapaxes(-3, -2) if self.swapped else array

    def __call__(self, source: Array, target: Array | None = None) -> Array:
        """The product of a view, into another."""
        if self.on_right:
            return self.function(source, self.operand, out=target)
        return self.function(self.operand, source, out=target)


def _multiplication(
    step: Step, operand: Array, left: int, right: int, machine: Machine
) -> _Multiplication:
    """The step on contiguous arrays of the views ``(left, columns or rows, right)``."""
    rows, columns = step.rows, step.columns
    if step.kind == "diagonal":
        shape = left, columns, right
        return _Multiplication(np.multiply, operand[:, None], False, False, shape, shape)
    if left == right == 1:
        return _Multiplication(np.matmul, operand, False, False, (columns,), (rows,))
    most = machine.work // (rows * columns)
    if right == 1:
        transposed = np.ascontiguousarray(operand.T)
        count = left if left <= most else _divisor(left, most)
        batch: tuple[int, ...] = (left,) if count == left else (left // count, count)
        return _Multiplication(
            np.matmul, transposed, True, False, (*batch, columns), (*batch, rows)
        )
    operand = np.ascontiguousarray(operand)
    spread = columns * right * machine.itemsize > machine.cache
    count = right if right <= most or (most < _WIDE and spread) else _divisor(right, most)
    if count < right:
        return _tiled(step, operand, left, (right // count, count))
    batch = () if left == 1 else (left,)
    source, target = (*batch, columns, right), (*batch, rows, right)
    return _Multiplication(np.matmul, operand, False, False, source, target)


def _tiled(step: Step, operand: Array, left: int, tiles: tuple[int, int]) -> _Multiplication:
    """The step where the columns come as ``(…, tile)``, at any distance."""
    diagonal = step.kind == "diagonal"
    return _Multiplication(
        np.multiply if diagonal else np.matmul,
        operand[:, None] if diagonal else operand,
        False,
        True,
        (left, step.columns, *tiles),
        (left, step.rows, *tiles),
    )


def _compiled(
    step: Step, factors: Sequence[Array], left: int, right: int, columns: int | None = None
) -> _Multiplication:
    """The step by a kernel, of pieces of rows of so many columns side by side, at any distance."""
    from kronops.backends.kernels import kernel_for

    columns = right if columns is None else columns
    kernel = kernel_for(step.shapes, factors[0].dtype, max(columns, min(right, 2)))
    run = kernel.compile()
    source, target = (left, step.columns, right), (left, step.rows, right)
    swapped = columns < right  # then left is one
    if swapped:
        source = step.columns, right // columns, columns
        target = step.rows, right // columns, columns

    def function(entries: Array, source: Array, out: Array) -> Array:
        run(entries, source, out)
        return out

    return _Multiplication(function, kernel.pack(factors), False, swapped, source, target)


@functools.lru_cache(maxsize=1024)
def _divisor(size: int, most: int, least: int = 16) -> int:
    """The largest divisor of ``size`` between the bounds; ``size`` itself if there is none."""
    return next((d for d in range(min(most, size), least - 1, -1) if size % d == 0), size)
