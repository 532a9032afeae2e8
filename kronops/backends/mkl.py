"""How long PyTorch takes on a core for the forms of a product: arithmetic, without PyTorch.

The numbers are those of PyTorch 2.13 with MKL on an x86 core with AVX-512, and need not be exact:
forms are compared by them. What they say: a product that brings the last axis to the front reads
the transpose as it packs it, and takes as long as one with the first axis; where the last axis
stays the last, thin matrices are slow. A batch packs the factor for each of its products, in double
precision slowly, and PyTorch's own loops multiply what is tiny.
"""

from __future__ import annotations

import math

from kronops.backends.forms import Forms
from kronops.planning import TO_FRONT

__all__ = ["Mkl"]

_START = 2e-6  # seconds of a call, its views included
_NEAR, _FAR = 2.8e10, 1.4e10  # bytes per second that come and go
_CACHE = 2**24  # bytes that come and go, beyond which they come from far
_THIN = 4  # rows or columns up to which a transpose is read by single numbers
_NARROW = 12  # rows below which a product that ends with them is slow
_TINY = 400  # multiplications below which PyTorch has loops of its own
_FEW = 16  # columns on the right of which batches in single precision are slow


class Mkl(Forms):
    """The times for numbers of so many bytes: a `kronops.planning.Compiler`."""

    def turned(self, kind: str, rows: int, columns: int, others: int) -> float:
        """One long product with the transpose; to the back it would be three times as long."""
        if kind != TO_FRONT:
            return math.inf
        each = 8e-10 if columns < _THIN else 1.5e-10 if rows < _THIN else 0.0
        return self._product(rows, columns, others) + each * columns * others + _START / 2

    def brought_back(self, rows: int, columns: int, left: int, right: int) -> float:
        """By a batch in place of the last product, or by a transposition."""
        if left == 1:
            return 0.0
        batch = self._batch_instead(rows, columns, left, right)
        return min(batch, self.transposed(rows * right, left))

    def comes_back(self, rows: int, columns: int, left: int, right: int) -> bool:
        """Whether the last product is a batch of ``left``, which puts them where they were."""
        batch = self._batch_instead(rows, columns, left, right)
        return batch <= self.transposed(rows * right, left)

    def _batch_instead(self, rows: int, columns: int, left: int, right: int) -> float:
        """What it takes longer than a product to the front."""
        turned = self.turned(TO_FRONT, rows, columns, left * right)
        return self._batched(rows, columns, left, right) - turned

    def transposed(self, rows: int, columns: int) -> float:
        """A pass of single numbers, unless there is nothing to do."""
        if min(rows, columns) == 1:
            return 0.0
        return _START + self._moved(2, rows * columns) + rows * columns * 6e-10

    def _last(self, rows: int, columns: int, left: int) -> float:
        if left == 1:
            return self._product(rows, columns, 1)
        each = 2e-9 if rows < _NARROW else 1e-10 * (self.itemsize - 4) / 4 * 7
        return self._product(rows, columns, left) + rows * left * each

    def _batched(self, rows: int, columns: int, left: int, right: int) -> float:
        work = rows * columns * right
        if work < _TINY:
            return _START + left * (rows * right * 2e-9 + work * 1e-9)
        slow = 6 if right < _FEW and self.itemsize == 4 else 1
        packing = 5e-11 if self.itemsize == 4 else 1.15e-9
        each = 6e-8 + packing * rows * columns + (slow - 1) * 2 * work / self._flops
        return self._product(rows, columns, left * right) + left * each

    def _gathered(self, rows: int, columns: int, left: int, right: int) -> float:
        passes = self.transposed(columns, left * right) + self.transposed(rows, left * right)
        return self.turned(TO_FRONT, rows, columns, left * right) + passes

    def _product(self, rows: int, columns: int, others: int) -> float:
        # The factor comes alone, and from a nearer cache.
        moved = self._moved(rows + columns, others) + self._moved(rows * columns, 1) / 3
        return _START + moved + 2 * rows * columns * others / self._flops

    @property
    def _flops(self) -> float:
        return 4.2e11 / self.itemsize

    def _moved(self, numbers: int, times: int) -> float:
        count = numbers * times * self.itemsize
        return count / (_NEAR if count <= _CACHE else _FAR)
