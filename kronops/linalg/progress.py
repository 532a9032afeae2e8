"""What ``show=True`` prints: one line for each of the first iterations, then for every tenth."""

from __future__ import annotations

import sys

__all__ = ["Table"]


class Table:
    """A table of an iteration on the standard output; silent unless ``show``."""

    def __init__(self, show: bool, title: str, columns: tuple[str, ...]) -> None:
        self.show = show
        self._write(title)
        self._write(" ".join([f"{'iteration':>9}", *(f"{column:>15}" for column in columns)]))

    def wants(self, iteration: int, last: bool) -> bool:
        """Whether there is a line for this iteration."""
        return self.show and (iteration <= 10 or iteration % 10 == 0 or last)

    def row(self, iteration: int, *numbers: float) -> None:
        """The line of one iteration."""
        self._write(" ".join([f"{iteration:9d}", *(f"{number:15.6e}" for number in numbers)]))

    def end(self, reason: str) -> None:
        """The last line."""
        self._write(reason)

    def _write(self, line: str) -> None:
        if self.show:
            sys.stdout.write(line + "\n")
