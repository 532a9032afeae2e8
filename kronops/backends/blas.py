"""How long BLAS takes, with its own threads, for one long product of matrices: arithmetic alone.

The numbers are those of OpenBLAS on an x86 core with AVX-512, and need not be exact: plans are
compared by them. What they say: up to a quarter of a million multiplications nothing is copied and
one thread works. Beyond, both matrices are copied as they are read, whichever way they lie, and the
threads share all of it. To make the last axis the first costs more in single precision, where rows
are short; to make the first the last, where the rows of a large array are many pages apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from kronops.planning import FEW, SMALL, TO_FRONT

__all__ = ["Blas"]

_START = 8e-6  # seconds of a product beside its arithmetic
_REGISTER = 64  # bytes, in whole ones of which rows are computed
_ALONE = 2**18  # multiplications up to which one thread works
_COPIED = 3e10  # bytes per second that are read, copied, and written in the end
_ROW = 1.2e-9  # seconds of a row, which is as long as the factor
_SHARED = 0.85  # of a thread's time that is used where several work
_COUNTED = 4  # threads at most, for two were measured, and memory does not grow with them
_PAGES = 64  # pages that the processor finds at once
_FAR = 2**23  # bytes of an array that no cache holds,
_MEMORY = 2e10  # and bytes per second from and to where it is


class Blas(NamedTuple):
    """The times for numbers of so many bytes, and threads: a `kronops.planning.Turning`."""

    itemsize: int
    flops: float  # of one thread, per second
    threads: int

    def turned(self, kind: str, rows: int, columns: int, others: int) -> float:
        """One product with the transpose; none where another is as long, or shorter and faster."""
        if others < FEW or (others <= columns and 16 * rows * columns > SMALL):
            return math.inf  # the factor would be copied for few rows, or is multiplied at once
        work = rows * columns * others
        if work <= _ALONE:
            lanes = _REGISTER // self.itemsize
            return _START + 2 * -(-rows // lanes) * lanes * columns * others / self.flops
        moved = (rows * columns + (rows + columns) * others) * self.itemsize
        far = columns * others * self.itemsize > _FAR
        slower = 1.0
        if kind == TO_FRONT:
            slower = max(1.0, 10 / self.itemsize)
        elif far and columns >= _PAGES:
            slower = 5.0
        alone = 2 * work / self.flops + moved * slower / _COPIED + others * _ROW
        threads = min(self.threads, _COUNTED)
        return _START + alone / (_SHARED * threads) + (moved / _MEMORY if far else 0.0)

    def transposed(self, rows: int, columns: int) -> float:
        """Nothing where there is one vector; several are multiplied where they are."""
        return 0.0 if min(rows, columns) == 1 else math.inf
