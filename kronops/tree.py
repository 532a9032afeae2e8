"""Walking through the fields of an operator: arrays, operators, and tuples and dicts of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from kronops.backends import is_array
from kronops.backends.standard import Array

__all__ = ["children", "leaves", "map_leaves"]


def leaves(value: Any) -> Iterator[Array]:
    """Every array in ``value``, depth first."""
    if is_array(value):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)


def children(value: Any) -> Iterator[Any]:
    """The arrays and operators directly in the fields of ``value``, and its Python scalars."""
    if not dataclasses.is_dataclass(value):
        return
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if isinstance(content, (tuple, list)):
            yield from content
        elif isinstance(content, dict):
            yield from content.values()
        else:
            yield content


def map_leaves(value: Any, function: Callable[[Array], Array]) -> Any:
    """``value`` with ``function`` applied to every array; nothing is checked again."""
    if is_array(value):
        return function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return rebuild(
            type(value),
            {
                field.name: map_leaves(getattr(value, field.name), function)
                for field in dataclasses.fields(value)
            },
        )
    if isinstance(value, (tuple, list)):
        return type(value)(map_leaves(part, function) for part in value)
    if isinstance(value, dict):
        return {key: map_leaves(part, function) for key, part in value.items()}
    return value


def rebuild(kind: type, fields: dict[str, Any]) -> Any:
    """An instance of a frozen dataclass from its fields as they are."""
    made: Any = object.__new__(kind)
    for name, content in fields.items():
        object.__setattr__(made, name, content)
    return made
