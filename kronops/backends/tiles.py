"""Loops over tiles that apply several small Kronecker factors at once, for Numba to compile.

An array seen as `(left, p1 * ... * pm, right)` becomes one seen as `(left, q1 * ... * qm, right)`:
`A1 ⊗ ... ⊗ Am` multiplies its middle axis. NumPy reads and writes the array once for each factor.
Here a tile of it is read into vector registers, multiplied there by every factor, and written once.
A register holds neighbouring elements, so there are two kinds of tile:

- With `right > 1`, a register holds neighbouring columns. A factor mixes registers: each of its
  entries multiplies all lanes of one.
- With `right == 1`, a register holds neighbouring outputs of the last factor: a sum of rows of its
  transpose, each times an element of `x`. The other factors mix such registers, as above.

A tile is straight-line code, written in LLVM's language by the functions marked `intrinsic`. The
sums are those of a matrix product, so its error bounds hold, and NaN and infinity propagate.

Numba finds compiled code on disk by the loop's place in this file, the constants it closes over,
the types of its arguments and the processor, and forgets it when this file changes. Therefore all
that the code depends on is in this file or in those constants, which are text and numbers: they
are alike in every process.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

Array = np.ndarray[Any, Any]
Shape = tuple[int, int]  # of a factor: outputs and inputs
Loop = Callable[[Array, Array, Array], None]  # of the entries of the factors, x and out
Vector = list[ir.Value]  # neighbouring elements, in one or more registers

_RUNNING_SUMS = 12  # registers for sums at a time: enough to hide the latency of an addition


def column_loop(shapes: Sequence[Shape], lanes: int) -> Loop:
    """For `right > 1`, with registers of so many columns. The entries are those of all factors."""
    spec, sizes = str(shapes), product_sizes(shapes)

    def loop(entries: Array, x: Array, out: Array) -> None:
        _check(entries, x, out, sizes)
        left, _, right = x.shape
        if out.size > 0 and right > 1 and not x.strides[2] == out.strides[2] == out.itemsize:
            raise ValueError("the last axis must be contiguous")
        rest = right % lanes
        for i in range(left):
            for column in range(0, right - rest, lanes):
                _column_tile(spec, lanes, entries, x, out, i, column, None)
            if rest > 0:
                _column_tile(spec, lanes, entries, x, out, i, right - rest, rest)

    return loop


def row_loop(shapes: Sequence[Shape], lanes: int) -> Loop:
    """For `right == 1`, with registers for outputs of the last factor.

    Its entries are those of the transpose, with rows as long as `registers` of the outputs.
    """
    *others, (last_outputs, last_inputs) = shapes
    outputs, inputs, _ = product_sizes(shapes)
    _, groups, entries_before = product_sizes(others)
    pieces = registers(last_outputs, lanes)
    spec, sizes = str(shapes), (outputs, inputs, entries_before + last_inputs * width(pieces))
    count = tiles_at_once(groups * len(pieces))

    def loop(entries: Array, x: Array, out: Array) -> None:
        _check(entries, x, out, sizes)
        left, rows, right = out.shape
        if right != 1 or (out.size > 0 and rows > 1 and out.strides[1] != out.itemsize):
            raise ValueError("this kernel is for one column with adjacent rows")
        rest = left % count
        for i in range(0, left - rest, count):
            _row_tile(spec, lanes, count, entries, x, out, i)
        for i in range(left - rest, left):
            _row_tile(spec, lanes, 1, entries, x, out, i)

    return loop


def product_sizes(shapes: Sequence[Shape]) -> tuple[int, int, int]:
    """Outputs and inputs of a Kronecker product, and the number of entries of its factors."""
    return prod(q for q, _ in shapes), prod(p for _, p in shapes), sum(q * p for q, p in shapes)


def registers(size: int, lanes: int) -> list[tuple[int, int]]:
    """Those that hold so many elements: starts and lanes. The last one may have lanes to spare."""
    return [(start, min(lanes, power_of_two(size - start))) for start in range(0, size, lanes)]


def width(pieces: list[tuple[int, int]]) -> int:
    """The lanes of registers together."""
    return sum(lanes for _, lanes in pieces)


def tiles_at_once(sums: int) -> int:
    """As many as have registers for all of their sums, so many in each; a power of two."""
    return max(1, power_of_two(_RUNNING_SUMS // sums + 1) // 2)


def power_of_two(number: int) -> int:
    """The smallest one that is at least as large."""
    return 1 << (number - 1).bit_length()


@register_jitable
def _check(entries: Array, x: Array, out: Array, sizes: tuple[int, int, int]) -> None:
    """Refuse what would make compiled code read or write elsewhere."""
    outputs, inputs, count = sizes
    left, rows, right = x.shape
    if rows != inputs or out.shape != (left, outputs, right) or entries.size != count:
        raise ValueError("the shapes of x, out and the packed factors do not match")


@intrinsic(prefer_literal=True)
def _column_tile(
    _: Any, spec: Any, lanes: Any, entries: Any, x: Any, out: Any, i: Any, column: Any, count: Any
) -> Any:
    """Multiply one register of columns, or the first `count` of its lanes."""
    factors = literal_eval(spec.literal_value)
    size = lanes.literal_value

    def write(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> Any:
        code = _Code(context, builder, x.dtype)
        source, x_strides = code.memory(x, values[3], values[5], values[6])
        target, out_strides = code.memory(out, values[4], values[5], values[6])
        mask = None if count is types.none else code.mask(values[7], size)
        rows = [code.shift(source, j, x_strides[1]) for j in range(product_sizes(factors)[1])]
        vectors = [[code.load(row, size, mask)] for row in rows]
        entry, _ = code.memory(entries, values[2])
        for j, [vector] in enumerate(code.mix(vectors, 1, factors, entry)):
            code.store(vector, code.shift(target, j, out_strides[1]), mask)
        return context.get_dummy_value()

    return types.void(spec, lanes, entries, x, out, i, column, count), write


@intrinsic(prefer_literal=True)
def _row_tile(
    _: Any, spec: Any, lanes: Any, count: Any, entries: Any, x: Any, out: Any, i: Any
) -> Any:
    """Multiply one column for `count` neighbours on the left."""
    *others, (outputs, inputs) = literal_eval(spec.literal_value)
    pieces = registers(outputs, lanes.literal_value)
    out_groups, x_groups, skipped = product_sizes(others)
    tiles = range(count.literal_value)

    def write(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> Any:
        code = _Code(context, builder, x.dtype)
        source, x_strides = code.memory(x, values[4], values[6])
        target, out_strides = code.memory(out, values[5], values[6])
        entry, _ = code.memory(entries, values[3])
        last = code.shift(entry, skipped, code.size)
        vectors = [
            [
                code.load(code.shift(last, j * width(pieces) + start, code.size), size)
                for start, size in pieces
            ]
            for j in range(inputs)
        ]
        rows = [code.shift(source, tile, x_strides[0]) for tile in tiles]
        numbers = [
            [code.shift(row, group * inputs + j, x_strides[1]) for j in range(inputs)]
            for row in rows
            for group in range(x_groups)
        ]
        vectors = code.mix(code.sums(numbers, vectors), len(tiles), others, entry)
        for j, vector in enumerate(vectors):
            tile, group = divmod(j, out_groups)
            row = code.shift(target, tile, out_strides[0])
            for piece, (start, size) in zip(vector, pieces, strict=True):
                place = code.shift(row, group * outputs + start, code.size)
                mask = None if start + size <= outputs else code.mask(outputs - start, size)
                code.store(piece, place, mask)
        return context.get_dummy_value()

    return types.void(spec, lanes, count, entries, x, out, i), write


class _Code:
    """Writes instructions for arrays of one element type. Places are addresses in memory."""

    def __init__(self, context: Any, builder: ir.IRBuilder, element: types.Float) -> None:
        self.context = context
        self.builder = builder
        self.element = context.get_value_type(element)
        self.bytes = element.bitwidth // 8
        self.size = ir.Constant(ir.IntType(64), self.bytes)

    def memory(self, kind: Any, value: ir.Value, *indices: ir.Value) -> tuple[ir.Value, Any]:
        """The place of an array's `[left, 0, column]`, and its strides in bytes."""
        array = self.context.make_array(kind)(self.context, self.builder, value)
        strides = cgutils.unpack_tuple(self.builder, array.strides)
        place = array.data
        for index, stride in zip(indices, strides[::2], strict=False):
            place = self.shift(place, index, stride)
        return place, strides

    def shift(self, place: ir.Value, steps: int | ir.Value, stride: ir.Value) -> ir.Value:
        """The place so many strides further on."""
        if isinstance(steps, int):
            steps = ir.Constant(stride.type, steps)
        return cgutils.pointer_add(self.builder, place, self.builder.mul(steps, stride))

    def mask(self, count: int | ir.Value, lanes: int) -> ir.Value:
        """True in so many lanes, the first ones."""
        if isinstance(count, int):
            count = ir.Constant(ir.IntType(64), count)
        numbers = ir.Constant(ir.VectorType(count.type, lanes), list(range(lanes)))
        return self.builder.icmp_signed("<", numbers, self._spread(count, lanes))

    def load(self, place: ir.Value, lanes: int, mask: ir.Value | None = None) -> ir.Value:
        """Neighbouring elements, or those where the mask is true."""
        kind = ir.VectorType(self.element, lanes)
        place = self.builder.bitcast(place, kind.as_pointer())
        if mask is None:
            return self.builder.load(place, align=self.bytes)
        align = ir.Constant(ir.IntType(32), self.bytes)
        arguments = [place, align, mask, ir.Constant(kind, None)]
        return self._call("masked.load", lanes, ".p0", kind, arguments)

    def store(self, vector: ir.Value, place: ir.Value, mask: ir.Value | None = None) -> None:
        """Write neighbouring elements, or those where the mask is true."""
        place = self.builder.bitcast(place, vector.type.as_pointer())
        if mask is None:
            self.builder.store(vector, place, align=self.bytes)
        else:
            align = ir.Constant(ir.IntType(32), self.bytes)
            arguments = [vector, place, align, mask]
            self._call("masked.store", vector.type.count, ".p0", ir.VoidType(), arguments)

    def mix(
        self, vectors: list[Vector], tiles: int, factors: list[Shape], entry: ir.Value
    ) -> list[Vector]:
        """Multiply vectors, indexed by `(tiles, p1, ..., pm)`, by factors with these entries."""
        sizes = [tiles, *(inputs for _, inputs in factors)]
        for axis in range(len(factors), 0, -1):
            outputs, inputs = factors[axis - 1]
            start = product_sizes(factors[: axis - 1])[2]
            numbers = [
                [self.shift(entry, start + row * inputs + j, self.size) for j in range(inputs)]
                for row in range(outputs)
            ]
            before, after = prod(sizes[:axis]), prod(sizes[axis + 1 :])
            mixed: list[Vector] = [[]] * (before * outputs * after)
            for i in range(before):
                for j in range(after):
                    group = vectors[i * inputs * after + j : (i + 1) * inputs * after : after]
                    place = slice(i * outputs * after + j, (i + 1) * outputs * after, after)
                    mixed[place] = self.sums(numbers, group)
            vectors, sizes[axis] = mixed, outputs
        return vectors

    def sums(self, numbers: list[list[ir.Value]], vectors: list[Vector]) -> list[Vector]:
        """The product of a matrix with the vectors. Its numbers are at these places."""
        results: list[Vector] = []
        step = _RUNNING_SUMS // len(vectors[0])  # which are of 16 numbers at most, so 8 registers
        for start in range(0, len(numbers), step):
            rows = numbers[start : start + step]
            sums: list[Any] = [None] * len(rows)
            for j, vector in enumerate(vectors):
                sums = [
                    self._add(row[j], vector, sum_) for row, sum_ in zip(rows, sums, strict=True)
                ]
            results += sums
        return results

    def _add(self, place: ir.Value, vector: Vector, sum_: Vector | None) -> Vector:
        """The number at a place times a vector, added to a sum if there is one."""
        number = self.builder.load(place, align=self.bytes)
        numbers = [self._spread(number, piece.type.count) for piece in vector]
        if sum_ is None:
            return [self.builder.fmul(*pair) for pair in zip(numbers, vector, strict=True)]
        return [
            self._call("fmuladd", piece.type.count, "", piece.type, [number, piece, total])
            for number, piece, total in zip(numbers, vector, sum_, strict=True)
        ]

    def _spread(self, number: ir.Value, lanes: int) -> ir.Value:
        """A vector with the number in all lanes."""
        vector = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        vector = self.builder.insert_element(vector, number, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
        return self.builder.shuffle_vector(vector, vector, zeros)

    def _call(
        self, name: str, lanes: int, suffix: str, result: ir.Type, arguments: list[ir.Value]
    ) -> ir.Value:
        """Call an instruction for vectors that LLVM has as a function."""
        name = f"llvm.{name}.v{lanes}{self.element.intrinsic_name}{suffix}"
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)
