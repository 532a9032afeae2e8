"""How long XLA takes on a core for the forms of a product: arithmetic, without JAX.

The numbers are those of JAX 0.10 on an x86 core with AVX-512, and need not be exact: forms are
compared by them. What they say: a product that turns the vector around is one long product of
matrices, which reads the transpose as it packs it; with a factor of up to three columns it is a
loop, at the speed of memory. A batch reads a copy of the factor for each of its products. Where the
last axis stays the last, Eigen goes by single numbers through the rows of the factor that do not
fill a quarter of a register.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from kronops.planning import TO_BACK

__all__ = ["Xla"]

_START = 1e-6  # seconds of an operation beside its arithmetic
_MEMORY = 3.2e10  # bytes per second that come and go
_ROW = 1.2e-9  # seconds of packing a row
_BATCH = 6e-8  # seconds of each product of a batch
_LOOP = 3  # columns up to which a product is a loop
_CACHE = 2**20  # bytes
_FEW = 16  # columns on the right of which a batch is too slow at best


class Xla(NamedTuple):
    """The times for numbers of so many bytes: a `kronops.planning.Compiler`."""

    itemsize: int

    def in_place(self, rows: int, columns: int, left: int, right: int) -> float:
        """In the form that `batched` says, or by one product if the axis is at an end."""
        if right == 1:
            return self._last(rows, columns, left)
        if left == 1:
            return self._product(rows, columns, right)
        return min(
            self._batched(rows, columns, left, right), self._gathered(rows, columns, left, right)
        )

    def is_batched(self, rows: int, columns: int, left: int, right: int) -> bool:
        """Whether an axis in the middle is multiplied by a batch, and not brought to the end."""
        batched = self._batched(rows, columns, left, right)
        return batched <= self._gathered(rows, columns, left, right)

    def turned(self, kind: str, rows: int, columns: int, others: int) -> float:
        """One long product with the transpose; or a loop."""
        if kind != TO_BACK:
            return self._product(rows, columns, others) + others * _ROW
        if columns > _LOOP:
            return math.inf  # three times as long as to the front
        return _START + self._moved(rows + columns, others) / 3

    def transposed(self, rows: int, columns: int) -> float:
        """A pass, unless there is nothing to do; its strides are long in what fills the cache."""
        if min(rows, columns) == 1:
            return 0.0
        numbers = rows * columns
        far = self._moved(13, numbers) if numbers * self.itemsize > _CACHE else 0.0
        return max(self._strided(min(rows, columns), numbers), far)

    def _last(self, rows: int, columns: int, left: int) -> float:
        single = 0.0 if rows % max(1, 16 // self.itemsize) == 0 else 5e-8 / self.itemsize
        packing = self._moved(rows * columns, 3)  # of the factor, by its columns
        return self._product(rows, columns, left) + left * single + packing

    def _batched(self, rows: int, columns: int, left: int, right: int) -> float:
        if right < _FEW:
            return math.inf
        copies = _START + left * (_BATCH + self._moved(rows * columns, 8))
        return self._product(rows, columns, left * right) + copies

    def _gathered(self, rows: int, columns: int, left: int, right: int) -> float:
        strided = self._strided(min(columns, right), left * columns * right)
        return self._last(rows, columns, left * right) + strided

    def _product(self, rows: int, columns: int, others: int) -> float:
        flops = 4.2e11 / self.itemsize
        moved = self._moved(rows + columns, others) + self._moved(rows * columns, 1)
        return _START + moved + 2 * rows * columns * others / flops

    def _strided(self, few: int, numbers: int) -> float:
        """A pass that transposes matrices with few rows or columns, the faster the fewer."""
        each = 4e-10 if few <= 8 else 7e-10 if few <= 32 else 2e-9
        return _START + self._moved(2, numbers) + numbers * each

    def _moved(self, numbers: int, times: int) -> float:
        return numbers * times * self.itemsize / _MEMORY
