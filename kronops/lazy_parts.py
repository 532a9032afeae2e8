"""Operators of lazy arrays: what they are made of and keep, and Dask's notion of a collection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kronops import tree
from kronops.backends.standard import Array
from kronops.caching import may_be_kept

__all__ = ["Collection", "replaced"]

# Of an operator's own arrays and operators, made again for nothing.
_VIEWS = ("H", "_entries", "_runs", "_transposed")


class Collection:
    """What `dask.compute`, `dask.delayed` and ``distributed.progress`` ask of a collection.

    The operator is computed by computing its arrays. Progress is that of what it keeps, too.
    """

    def __dask_graph__(self) -> Any:
        if not self._lazy_arrays:
            return None  # no collection
        graphs = [part.__dask_graph__() for part in _parts(self).values()]
        return graphs[0].merge(*graphs)

    def __dask_keys__(self) -> list[Any]:
        return [array.__dask_keys__() for array in self._lazy_arrays]

    def __dask_layers__(self) -> tuple[str, ...]:
        return tuple(layer for array in self._lazy_arrays for layer in array.__dask_layers__())

    def __dask_postcompute__(self) -> Any:
        steps = [array.__dask_postcompute__() for array in self._lazy_arrays]
        return _computed, (steps, self._without_entries)

    def __dask_postpersist__(self) -> Any:
        steps = [array.__dask_postpersist__() for array in self._lazy_arrays]
        return _persisted, (steps, self._without_entries)

    @property
    def __dask_optimize__(self) -> Any:
        return self._lazy_arrays[0].__dask_optimize__

    @property
    def __dask_scheduler__(self) -> Any:
        return self._lazy_arrays[0].__dask_scheduler__

    @property
    def _lazy_arrays(self) -> tuple[Array, ...]:
        leaves = tree.leaves(self)
        return leaves if leaves and hasattr(leaves[0], "__dask_graph__") else ()

    @property
    def _without_entries(self) -> Any:
        return tree.map_leaves(self, lambda leaf: leaf._meta)


def _computed(results: Sequence[Any], steps: Any, form: Any) -> Any:
    arrays = (finish(r, *rest) for r, (finish, rest) in zip(results, steps, strict=True))
    return _with_arrays(form, arrays)


def _persisted(graph: Any, steps: Any, form: Any, **options: Any) -> Any:
    return _with_arrays(form, (rebuild(graph, *rest, **options) for rebuild, rest in steps))


def _with_arrays(form: Any, arrays: Iterator[Array]) -> Any:
    return tree.map_leaves(form, lambda _: next(arrays))


def replaced(op: Any, function: Callable[[list[Any]], Sequence[Any]]) -> Any:
    """The operator, and what it keeps, with what ``function`` makes of the list of its parts."""
    found = _parts(op)
    made = dict(zip(found, function(list(found.values())), strict=True))
    return _mapped(op, lambda part: made[_name(part)], {})


def _parts(op: Any) -> dict[str, Any]:
    """Every lazy array and task in the fields of an operator and in what it keeps, by name."""
    found: dict[str, Any] = {}
    _mapped(op, lambda part: found.setdefault(_name(part), part), {})
    return found


def _name(part: Any) -> str:
    return str(part.__dask_keys__())


def _mapped(value: Any, function: Callable[[Any], Any], made: dict[int, Any]) -> Any:
    if hasattr(type(value), "__dask_graph__") and not isinstance(value, Collection):
        return function(value)
    if id(value) in made:
        return made[id(value)]
    if type(value) in (tuple, list):
        return type(value)(_mapped(part, function, made) for part in value)
    if isinstance(value, dict):
        return {key: _mapped(part, function, made) for key, part in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    new: Any = tree.rebuild(type(value), {})
    made[id(value)] = new
    fields = {field.name for field in dataclasses.fields(value)}
    for name, content in vars(value).items():
        if name in fields or (name not in _VIEWS and may_be_kept(content)):
            new.__dict__[name] = _mapped(content, function, made)
    return new
