"""Properties that are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from kronops import tree
from kronops.backends import backend_of

__all__ = ["cached"]

T = TypeVar("T")


class cached(Generic[T]):
    """A property that is computed at first use and published by one assignment.

    Nothing is kept while an array in the result is being traced.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, op: Any, owner: type) -> T:
        if op is None:
            return self  # type: ignore[return-value]
        value = self.function(op)
        visible = all(backend_of(leaf).values_visible(leaf) for leaf in tree.leaves(value))
        # An operator that keeps one which holds it in turn would be freed late: both are cheap.
        circular = value is op or any(child is op for child in tree.children(value))
        if visible and not circular:
            op.__dict__[self.name] = value
        return value
