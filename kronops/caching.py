"""Properties that are computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from kronops import tree
from kronops.backends import backend_of, is_array

__all__ = ["cached", "fact", "may_be_kept"]

T = TypeVar("T")


class fact(Generic[T]):
    """A property without arrays in it, such as a dtype: computed once, whatever is traced.

    One assignment publishes it, without the lock of Python 3.11's `functools.cached_property`,
    which a fork may take along while it is held.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, op: Any, owner: type) -> T:
        if op is None:
            return self  # type: ignore[return-value]
        value = op.__dict__[self.name] = self.function(op)
        return value


class cached(fact[T]):
    """A property that is computed at first use and published by one assignment.

    Of an operator whose arrays are traced or differentiated only what consists of these arrays
    themselves is kept. Of any other it is computed at once, even in the midst of a trace, so that
    an operator from outside `jax.jit` is factorised once, and serves inside and outside again.
    """

    def __get__(self, op: Any, owner: type) -> T:
        if op is None:
            return self  # type: ignore[return-value]
        own = tree.leaves(op)
        tracked = any(map(_is_tracked, own))
        if tracked or not own:
            value = self.function(op)
        else:
            with backend_of(*own).eager():
                value = self.function(op)
        keep = all(
            not (tracked or _is_tracked(leaf)) or any(leaf is array for array in own)
            for leaf in tree.leaves(value)
        )
        # An operator that keeps one which holds it in turn would be freed late: both are cheap.
        circular = value is op or any(child is op for child in tree.children(value))
        if keep and not circular:
            op.__dict__[self.name] = value
        return value


def _is_tracked(leaf: Any) -> bool:
    return backend_of(leaf).is_tracked(leaf)


def may_be_kept(content: Any) -> bool:
    """Whether what an operator keeps is of use elsewhere: arrays, operators, numbers.

    Programs for a machine, say, are made anew there.
    """
    if isinstance(content, (tuple, list)):
        return all(map(may_be_kept, content))
    plain = bool, int, float, complex, str, type(None)
    return isinstance(content, plain) or is_array(content) or dataclasses.is_dataclass(content)
