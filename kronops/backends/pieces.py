"""Plans of Kronecker products carried out by NumPy: on whole vectors, or piece by piece.

BLAS multiplies small matrices fastest when it need not copy them first, as it does above a certain
size. Long products of small factors are therefore cut into batches of small ones, which also stay
below the size from which BLAS starts threads of its own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from kronops.backends.standard import Array, Operand
from kronops.planning import Machine, Plan, Step, Sweep

__all__ = ["program"]

Function = Callable[[Array], Array]


def program(
    plan: Plan, functions: Sequence[Operand], dtype: Any, machine: Machine, threads: int
) -> Function:
    """A function that carries ``plan`` out on an array of its view, as `Backend.program` says.

    Parameters
    ----------
    functions : sequence
        For each step, its matrix or diagonal; of an operator, the function that applies it.
    threads : int
        How many may work at pieces at the same time.
    """
    left = iter(functions)
    parts = [_sweep(s, [next(left) for _ in s.steps], dtype, machine, threads) for s in plan.sweeps]
    if not parts:
        return lambda x: x.astype(dtype)

    def run(x: Array) -> Array:
        x = x.astype(dtype, copy=False)
        for part in parts:
            x = part(x)
        return x

    return run


def _sweep(
    sweep: Sweep, operands: Sequence[Operand], dtype: Any, machine: Machine, threads: int
) -> Function:
    if sweep.steps[0].kind == "operator":
        function: Function = operands[0]
        return function
    operands = [operand.astype(dtype, copy=False) for operand in operands]
    numbers = max(sweep.rows, sweep.columns) * sweep.before * sweep.after
    if numbers * machine.itemsize <= machine.cache:
        threads = 1
    if len(sweep.steps) > 1 and not (sweep.whole and threads == 1):
        return _Pieces(sweep, operands, dtype, machine, threads)
    made = [
        _alone(sweep, step, operand, machine, threads)
        for step, operand in zip(sweep.steps, operands, strict=True)
    ]
    return made[0] if len(made) == 1 else functools.partial(_one_after_another, made)


def _one_after_another(functions: Sequence[Function], x: Array) -> Array:
    for function in functions:
        x = function(x)
    return x


def _alone(sweep: Sweep, step: Step, operand: Array, machine: Machine, threads: int) -> Function:
    """One step on the whole vector."""
    left, right = sweep.before * step.left, step.right * sweep.after
    multiply = _multiplication(step, operand, left, right, machine)
    batch = multiply.source[0] * (multiply.source[2] if multiply.swapped else 1)
    if threads == 1 or batch < threads:
        if not multiply.swapped:
            return lambda x: multiply(x.reshape(multiply.source))

    def run(x: Array) -> Array:
        made = np.empty((left, step.rows, right), operand.dtype)
        source, target = multiply.view(x, multiply.source), multiply.view(made, multiply.target)
        parts = _parts(source.shape, threads)
        _share(lambda part: multiply(source[part], target[part]), parts)
        return made

    return run


def _parts(shape: tuple[int, ...], threads: int) -> list[Any]:
    """Indices that deal out the longer of the first two axes, which are batches, to threads."""
    axis = 1 if len(shape) > 3 and shape[1] > shape[0] else 0
    if len(shape) < 3 or shape[axis] < threads:
        return [()]
    ends = [shape[axis] * i // threads for i in range(threads + 1)]
    return [(slice(None),) * axis + (slice(a, b),) for a, b in itertools.pairwise(ends)]


def _share(function: Callable[[Any], object], parts: Sequence[Any]) -> None:
    """Call ``function`` with each part, in a thread for each; errors are raised here."""
    if len(parts) == 1:
        function(parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(function, parts))


# -- several steps on pieces ------------------------------------------------------------------------


class _Pieces:
    """The steps of a sweep on pieces that stay in the cache, in workspaces of each thread."""

    def __init__(
        self,
        sweep: Sweep,
        operands: Sequence[Array],
        dtype: Any,
        machine: Machine,
        threads: int,
    ) -> None:
        self.sweep, self.operands, self.dtype, self.machine = sweep, operands, dtype, machine
        self.strided = sweep.after_piece < sweep.after
        before = sweep.before_piece
        if not self.strided:
            before = min(before, -(-sweep.before // threads))
        corners = itertools.product(
            range(0, sweep.before, before), range(0, sweep.after, sweep.after_piece)
        )
        pieces = [
            (slice(b, b + before), slice(None), slice(a, a + sweep.after_piece)) for b, a in corners
        ]
        threads = min(threads, len(pieces))
        self.parts = [pieces[i::threads] for i in range(threads)]
        self.room = before * sweep.largest * sweep.after_piece

    def __call__(self, x: Array) -> Array:
        sweep = self.sweep
        x = x.reshape(sweep.before, sweep.columns, sweep.after)
        made = np.empty((sweep.before, sweep.rows, sweep.after), self.dtype)
        _share(functools.partial(self._run, x, made), self.parts)
        return made

    def _run(self, x: Array, made: Array, pieces: Iterable[Any]) -> None:
        workspaces = np.empty((2, self.room), self.dtype)
        shape, chain = None, []
        for piece in pieces:
            given, wanted = x[piece], made[piece]
            if given.shape != shape:
                shape = given.shape
                chain = self._chain(shape[0], shape[2], workspaces)
            first, last = chain[0][0], chain[-1][0]
            source, target = first.view(given, first.source), last.view(wanted, last.target)
            for multiply, view, onto in chain:
                multiply(source if view is None else view, target if onto is None else onto)

    def _chain(self, before: int, after: int, workspaces: Array) -> list[Any]:
        """For each step how to multiply, and the views of workspaces; None for the vectors."""
        pairs = list(zip(self.sweep.steps, self.operands, strict=True))
        chain = []
        size, view = self.sweep.columns, None
        for index, (step, operand) in enumerate(pairs):
            size = size // step.columns * step.rows
            edge = index in (0, len(pairs) - 1)
            left, right = before * step.left, step.right * after
            if edge and self.strided:
                multiply = _tiled(step, operand, left, (step.right, after))
            else:
                multiply = _multiplication(step, operand, left, right, self.machine)
            source = None if view is None else multiply.view(view, multiply.source)
            view = (
                None if index == len(pairs) - 1 else workspaces[index % 2, : before * size * after]
            )
            target = None if view is None else multiply.view(view, multiply.target)
            chain.append((multiply, source, target))
        return chain


# -- a step as one call of NumPy --------------------------------------------------------------------


class _Multiplication(NamedTuple):
    """A step as `numpy.matmul` (or `multiply`) of views: batches of a size that BLAS likes."""

    function: Any
    operand: Array
    on_right: bool
    swapped: bool
    source: tuple[int, ...]
    target: tuple[int, ...]

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
    source, target = (left, step.columns, right), (left, step.rows, right)
    if step.kind == "diagonal":
        return _Multiplication(np.multiply, operand[:, None], False, False, source, target)
    most = machine.work // max(step.rows * step.columns, 1)
    if left == right == 1:
        return _Multiplication(np.matmul, operand, False, False, (step.columns,), (step.rows,))
    if right == 1:
        count = left if left <= most else _divisor(left, most)
        batch = (left,) if count == left else (left // count, count)
        source, target = (*batch, step.columns), (*batch, step.rows)
        transposed = np.ascontiguousarray(operand.T)
        return _Multiplication(np.matmul, transposed, True, False, source, target)
    operand = np.ascontiguousarray(operand)
    count = right if right <= most else _divisor(right, most)
    if count < right:
        tiles = right // count, count
        return _tiled(step, operand, left, tiles)
    if left == 1:
        source, target = source[1:], target[1:]
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


@functools.lru_cache(maxsize=1024)
def _divisor(size: int, most: int) -> int:
    """The largest divisor of ``size`` up to ``most``; ``size`` itself if that is small."""
    return next((d for d in range(min(most, size), 15, -1) if size % d == 0), size)
