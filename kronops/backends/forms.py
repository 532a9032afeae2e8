"""The forms that a library has for a product with an axis of a vector, and how long each takes."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

__all__ = ["Forms"]


@dataclasses.dataclass(frozen=True)
class Forms(ABC):
    """The times for numbers of so many bytes: what a `kronops.planning.Compiler` needs in place."""

    itemsize: int

    def in_place(self, rows: int, columns: int, left: int, right: int) -> float:
        """In the form that `is_batched` says, or by one product if the axis is at an end."""
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

    @abstractmethod
    def _last(self, rows: int, columns: int, left: int) -> float:
        """With the last axis, which stays the last."""

    @abstractmethod
    def _product(self, rows: int, columns: int, others: int) -> float:
        """With the first axis: one product of matrices."""

    @abstractmethod
    def _batched(self, rows: int, columns: int, left: int, right: int) -> float:
        """With an axis in the middle, by a batch of ``left`` products."""

    @abstractmethod
    def _gathered(self, rows: int, columns: int, left: int, right: int) -> float:
        """The same by one product, with the axis at the end and brought back."""
