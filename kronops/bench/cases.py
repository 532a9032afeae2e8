"""The products that are timed, as data: sizes of factors, number of vectors, side, dtype."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["COLUMNS", "DTYPES", "GIBIBYTE", "GROUPS", "SIDES", "Case", "all_cases"]

GIBIBYTE = 2**30
COLUMNS = (1, 16, 256)
SIDES = ("K @ X", "X @ K")
DTYPES = ("float32", "float64")  # in this order: see all_cases

Shapes = tuple[tuple[int, int], ...]


def _same(*powers: tuple[int, int]) -> list[Shapes]:
    """For each ``(p, N)``, the shapes of ``N`` square factors of ``p`` rows."""
    return [((p, p),) * count for p, count in powers]


def _square(*sizes: tuple[int, ...]) -> list[Shapes]:
    return [tuple((p, p) for p in factors) for factors in sizes]


GROUPS: dict[str, list[Shapes]] = {
    "small": _same((2, 4), (4, 3), (8, 3), (16, 3), (10, 2)),
    "powers of two": _same(
        (2, 20), (4, 10), (8, 6), (8, 7), (16, 5), (32, 4), (64, 3), (128, 3), (512, 2), (1024, 2)
    ),
    "other powers": _same((5, 8), (10, 6)),
    "rectangular": [((8, 12),) * 5, ((12, 8),) * 5],
    "mixed": _square((3, 50, 7, 20), (20, 30, 40), (100, 6, 6, 6), (6, 6, 6, 100), (2, 1000, 2)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """``K @ X`` with the vectors as columns of ``X``, or ``X @ K`` with the vectors as its rows.

    One vector is an array with one axis.
    """

    group: str
    shapes: Shapes
    columns: int
    side: str
    dtype: str

    @property
    def name(self) -> str:
        """The factors, as ``8^6``, ``(8x12)^5`` or ``20,30,40``."""
        if len(set(self.shapes)) > 1:
            return ",".join(str(rows) for rows, _ in self.shapes)
        rows, columns = self.shapes[0]
        size = str(rows) if rows == columns else f"({rows}x{columns})"
        return f"{size}^{len(self.shapes)}"

    @property
    def sizes(self) -> list[int]:
        """The numbers in the vectors, before the first factor and after each."""
        shapes = self.shapes if self.side == "K @ X" else [shape[::-1] for shape in self.shapes]
        left = [math.prod(rows for rows, _ in shapes[:i]) for i in range(len(shapes) + 1)]
        right = [math.prod(columns for _, columns in shapes[i:]) for i in range(len(shapes) + 1)]
        return [self.columns * a * b for a, b in zip(left, right, strict=True)]

    @property
    def flops(self) -> int:
        """Multiplications and additions, one factor after the other."""
        inner = [shape[self.side == "K @ X"] for shape in self.shapes]
        return sum(2 * p * made for p, made in zip(inner, self.sizes[1:], strict=True))

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def allowed(self) -> int:
        """Bytes that a product may need: its output and two of the largest vectors on the way.

        4 KiB are added for what Python needs for the arrays beside their numbers.
        """
        return self.itemsize * (self.sizes[-1] + 2 * max(self.sizes)) + 4096

    @property
    def bytes(self) -> int:
        """Bytes of the input and of what a product may need."""
        return self.itemsize * self.sizes[0] + self.allowed

    def arrays(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Factors that keep a vector's size about as it is, and the vectors."""
        rng = np.random.default_rng(0)
        factors = [
            (rng.standard_normal(shape) / math.sqrt(shape[1])).astype(self.dtype)
            for shape in self.shapes
        ]
        x = rng.standard_normal(self.sizes[0], dtype=np.dtype(self.dtype).type)
        if self.columns == 1:
            return factors, x
        return factors, x.reshape(
            (-1, self.columns) if self.side == "K @ X" else (self.columns, -1)
        )


def all_cases(
    columns: Sequence[int] = COLUMNS,
    dtypes: Sequence[str] = DTYPES,
    sides: Sequence[str] = SIDES,
) -> Iterator[Case]:
    """Every combination, dtype by dtype, the factors in the order of `GROUPS`.

    Single precision comes first: FastKron keeps buffers with what an earlier product left there,
    and in a process that had used double precision, halves of these were NaN in single.
    """
    for dtype, (group, several) in itertools.product(dtypes, GROUPS.items()):
        for shapes, k, side in itertools.product(several, columns, sides):
            yield Case(group, shapes, k, side, dtype)
