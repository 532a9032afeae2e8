"""The floor that knows array libraries and has never heard of operators.

`backend_of` finds the `Backend` of the user's arrays. A library that follows the Python Array API
needs no module here: `kronops.backends.standard.Backend` is the plain-standard fallback. A module
beside it gives what the standard lacks or does worse (LAPACK's triangular solves, say). Third
parties add theirs by `register_backend`, or through the entry-point group ``kronops.backends``.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from importlib.metadata import entry_points
from typing import Any

from array_api_compat import array_namespace, is_array_api_obj

from kronops.backends.settings import settings
from kronops.backends.standard import Backend

__all__ = [
    "Backend",
    "backend_named",
    "backend_of",
    "is_array",
    "notice_imports",
    "register_backend",
    "register_container",
    "settings",
]


def __dir__() -> list[str]:
    return __all__


# Library name -> "module:class". Nothing is imported before an array of that library arrives.
_LOCATIONS = {
    "numpy": "kronops.backends.numpy:NumpyBackend",
    "cupy": "kronops.backends.cupy:CupyBackend",
    "torch": "kronops.backends.torch:TorchBackend",
    "jax": "kronops.backends.jax:JaxBackend",
    "dask": "kronops.backends.dask:DaskBackend",
}
_NAMESPACES = {"jax": "jax.numpy", "dask": "dask.array"}
_BY_TYPE: dict[type, Backend] = {}
_LOADED: dict[str, Backend] = {}
_LOADING = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child never finds it held by a thread that it lacks
    os.register_at_fork(
        before=_LOADING.acquire,
        after_in_parent=_LOADING.release,
        after_in_child=_LOADING.release,
    )
# What arrays travel in: kinds of objects, and how they are taken apart and put together.
_CONTAINERS: dict[type, tuple[Any, Any]] = {}


def register_backend(name: str, location: str) -> None:
    """Make ``location`` (``"module:class"``) the backend of the library called ``name``.

    ``name`` is the root of the array namespace's module: ``"numpy"``, ``"torch"``, ``"mylib"``.
    The class derives from `Backend`; the module is imported when the first array arrives.

    Examples
    --------
    >>> from kronops.backends import register_backend
    >>> register_backend("numpy", "kronops.backends.numpy:NumpyBackend")
    """
    if _LOCATIONS.get(name) == location:
        return  # operators compare backends by identity
    _LOCATIONS[name] = location
    _LOADED.pop(name, None)
    _BY_TYPE.clear()


def register_container(kind: type, flatten: Any, unflatten: Any) -> None:
    """Let libraries that look into containers of arrays (JAX's pytrees) look into ``kind``.

    ``flatten(container)`` gives a dict of what holds arrays and a hashable rest;
    ``unflatten(kind, rest, parts)`` puts the values of that dict together again.
    """
    _CONTAINERS[kind] = flatten, unflatten
    for backend in list(_LOADED.values()):
        backend.register_container(kind, flatten, unflatten)


def notice_imports() -> None:
    """Load the backend of JAX if the user has imported JAX, which takes NumPy operators too."""
    if "jax" in sys.modules and "jax" not in _LOADED:
        backend_named("jax")


def is_array(value: Any) -> bool:
    """Whether ``value`` is an array of some library that follows the standard.

    Examples
    --------
    >>> import numpy as np
    >>> is_array(np.zeros(3)), is_array([0.0])
    (True, False)
    """
    if type(value) in _BY_TYPE:
        return True
    return hasattr(value, "dtype") and not isinstance(value, type) and is_array_api_obj(value)


def backend_of(*arrays: Any) -> Backend:
    """The one backend that all ``arrays`` belong to.

    Raises
    ------
    TypeError
        The arrays are of more than one library, or of none; the message names what they are.

    Examples
    --------
    >>> import numpy as np
    >>> backend_of(np.zeros(3)).name
    'numpy'
    """
    first = _backend_of_type(arrays[0])
    for other in arrays[1:]:
        backend = _backend_of_type(other)
        if backend is not first:
            raise TypeError(
                f"arrays of two libraries, {first.name} and {backend.name}: "
                f"bring all of them to one library first"
            )
    return first


def backend_named(name: str) -> Backend:
    """The backend of a library by name, which is imported: the caller asked for it.

    Examples
    --------
    >>> backend_named("numpy")
    NumpyBackend('numpy')
    """
    if not isinstance(name, str):
        raise TypeError(f'name is a {type(name).__name__}: a text is needed, "numpy" for example')
    try:
        try:
            xp = importlib.import_module(f"array_api_compat.{_NAMESPACES.get(name, name)}")
        except ModuleNotFoundError:
            xp = importlib.import_module(_NAMESPACES.get(name, name))
        return _backend_of_type(xp.empty(0))
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise ValueError(f"no array library called {name!r} can be imported: {error}") from error


def _backend_of_type(array: Any) -> Backend:
    backend = _BY_TYPE.get(type(array))
    if backend is None:
        if not is_array_api_obj(array):
            raise TypeError(f"expected an array, got {type(array).__name__}")
        xp = array_namespace(array)
        name = xp.__name__.removeprefix("array_api_compat.").split(".")[0]
        with _LOADING:
            backend = _LOADED.get(name) or _load(name, xp)
        _BY_TYPE[type(array)] = backend
    return backend


def _load(name: str, xp: Any) -> Backend:
    if name not in _LOCATIONS:
        for entry in entry_points(group="kronops.backends", name=name):
            _LOCATIONS[name] = entry.value
    backend = Backend(name, xp)
    if name in _LOCATIONS:
        module, _, attribute = _LOCATIONS[name].partition(":")
        backend = getattr(importlib.import_module(module), attribute)(name, xp)
    _LOADED[name] = backend
    for kind, (flatten, unflatten) in list(_CONTAINERS.items()):
        backend.register_container(kind, flatten, unflatten)
    return backend
