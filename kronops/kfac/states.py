"""States of estimators on their way to files and to other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kronops import DenseOperator, LinearOperator
from kronops.backends import backend_named, backend_of, is_array
from kronops.backends.standard import Array
from kronops.checks import is_hermitian

__all__ = ["brought", "check_attributes", "check_symmetric"]


def check_attributes(thing: Any, known: set[str], advice: str) -> None:
    """Refuse to save what would be lost."""
    if unknown := sorted(vars(thing).keys() - known):
        raise TypeError(
            f"op is a {type(thing).__name__} with attributes that files do not hold, {unknown}: "
            f"{advice}"
        )


def check_symmetric(op: LinearOperator) -> None:
    """Refuse moments of a state that are not symmetric, as those are that an estimator makes."""
    if isinstance(op, DenseOperator) and _is_wrong(op.matrix):
        raise ValueError(f"state: {op.name} is not symmetric, and therefore no second moment")
    for child in op._children().values():
        check_symmetric(child)


def _is_wrong(moment: Array) -> bool:
    return backend_of(moment).values(moment) is not None and not is_hermitian(moment)


def brought(state: Any, backend: str | None, device: Any) -> Any:
    """A state, or one of several layers, with its arrays in another library or on a device."""
    if isinstance(state, Mapping):
        return {name: brought(part, backend, device) for name, part in state.items()}
    if not is_array(state) or state.ndim == 0:  # a number, which a file may have made an array
        return state
    home = backend_of(state)
    if backend is not None:
        return backend_named(backend).from_numpy(home.to_numpy(state), device)
    return state if device is None else home.to_device(state, device)
