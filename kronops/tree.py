"""Walking through the fields of an operator: arrays, operators, and tuples and dicts of these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from kronops.backends import is_array
from kronops.backends.standard import Array

T = TypeVar("T")

__all__ = ["children", "leaves", "map_leaves", "map_parts", "put_together", "take_apart"]


def leaves(value: Any) -> tuple[Array, ...]:
    """Every array in ``value``, depth first. An operator keeps its own: every operation asks."""
    if _has_fields(value):
        kept: tuple[Array, ...] | None = value.__dict__.get("_leaves")
        if kept is None:
            fields = dataclasses.fields(value)
            kept = leaves([getattr(value, field.name) for field in fields])
            value.__dict__["_leaves"] = kept
        return kept
    if is_array(value):
        return (value,)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return ()
    return tuple(leaf for part in value for leaf in leaves(part))


def children(value: Any) -> Iterator[Any]:
    """The arrays and operators directly in the fields of ``value``, and its Python scalars."""
    if not _has_fields(value):
        return
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if isinstance(content, (tuple, list)):
            yield from content
        elif isinstance(content, dict):
            yield from content.values()
        else:
            yield content


def _has_fields(value: Any) -> bool:
    """Whether ``value`` is an instance of a dataclass; `dataclasses.is_dataclass` takes longer."""
    return hasattr(type(value), "__dataclass_fields__")


def map_leaves(value: T, function: Callable[[Array], Array]) -> T:
    """``value`` with ``function`` applied to every array; nothing is checked again."""
    if _has_fields(value):
        return map_parts(value, function, lambda child: map_leaves(child, function))
    made: T = _map_content(value, function, lambda child: map_leaves(child, function))
    return made


def map_parts(value: T, of_array: Callable[[Any], Any], of_child: Callable[[Any], Any]) -> T:
    """An operator with functions applied to the arrays and the operators in its fields."""
    fields = {
        field.name: _map_content(getattr(value, field.name), of_array, of_child)
        for field in dataclasses.fields(value)  # type: ignore[arg-type]
    }
    return rebuild(type(value), fields)


def _map_content(
    content: Any, of_array: Callable[[Any], Any], of_child: Callable[[Any], Any]
) -> Any:
    if is_array(content):
        return of_array(content)
    if _has_fields(content):
        return of_child(content)
    if isinstance(content, (tuple, list)):
        return type(content)(_map_content(part, of_array, of_child) for part in content)
    if isinstance(content, dict):
        return {key: _map_content(part, of_array, of_child) for key, part in content.items()}
    return content


def rebuild(kind: type[T], fields: dict[str, Any]) -> T:
    """An instance of a frozen dataclass from its fields as they are."""
    made = object.__new__(kind)
    for name, content in fields.items():
        object.__setattr__(made, name, content)
    return made


def take_apart(value: Any) -> tuple[dict[str, Any], _Rest]:
    """The fields of an operator that hold arrays, and the rest, which can be hashed.

    One that was put together of other things than arrays is taken apart as its model was. It is
    kept: JAX asks at every call.
    """
    kept = value.__dict__.get("_apart")
    if kept is None:
        kept = value.__dict__["_apart"] = _take_apart(value)
    apart: tuple[dict[str, Any], _Rest] = kept
    return apart


def _take_apart(value: Any) -> tuple[dict[str, Any], _Rest]:
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    names = value.__dict__.get("_array_fields")
    if names is None:
        names = tuple(name for name, content in fields.items() if leaves(content))
    parts = {name: fields.pop(name) for name in names}
    labels = {
        field.name: fields.pop(field.name)
        for field in dataclasses.fields(value)
        if not field.compare
    }
    return parts, _Rest(names, fields, labels)


def put_together(kind: type, rest: _Rest, parts: Iterable[Any]) -> Any:
    """What `take_apart` was given, with other parts, whatever they are."""
    arrays = dict(zip(rest.names, parts, strict=True))
    made: Any = rebuild(kind, rest.fields | rest.labels | arrays)
    made.__dict__["_array_fields"] = rest.names
    return made


@dataclasses.dataclass(frozen=True, eq=False)
class _Rest:
    """The names of the fields that hold arrays, and all other fields; labels are not compared."""

    names: tuple[str, ...]
    fields: dict[str, Any]
    labels: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[tuple[str, ...], str]:
        """In words, that tell 2.0 from 2 + 0j and 0.0 from -0.0, as what is compiled must."""
        kept: tuple[tuple[str, ...], str] | None = self.__dict__.get("_kept_key")
        if kept is None:  # no lock, as that of `functools.cached_property`, meets a fork
            kept = self.__dict__["_kept_key"] = self.names, repr(self.fields)
        return kept
