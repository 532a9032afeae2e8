"""Objects as text and arrays: which class each is of, and what is in its fields.

The manifest is JSON. Its ``objects`` stand in such an order that each refers to earlier ones alone;
``arrays`` says what every array must be like. A class is found by its name among those that exist:
a file can neither bring one nor import one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kronops import tree
from kronops.backends import backend_named, backend_of, is_array
from kronops.backends.standard import Backend
from kronops.operator import LinearOperator

__all__ = ["decode", "encode", "register_savable"]

FORMAT = "kronops"
VERSION = 1
DTYPES = {"bool", "float16", "float32", "float64", "complex64", "complex128"}
DTYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
NumpyArray = np.ndarray[Any, Any]


class _Savable(NamedTuple):
    """A base class whose subclasses can be saved, and how they become fields and objects again."""

    take: Callable[[Any], dict[str, Any]]
    make: Callable[[type, dict[str, Any]], Any]


_SAVABLE: dict[type, _Savable] = {}


def register_savable(
    base: type, take: Callable[[Any], dict[str, Any]], make: Callable[[type, dict[str, Any]], Any]
) -> None:
    """Let `kronops.save` write the subclasses of ``base``.

    ``take(thing)`` gives a dict of operators, arrays, Python scalars, strings, and tuples, lists
    and dicts of these; ``make(kind, fields)`` gives the thing back, and `ValueError` or `TypeError`
    for fields that do not fit.
    """
    _SAVABLE[base] = _Savable(take, make)


def _fields(op: LinearOperator) -> dict[str, Any]:
    return {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}


def _operator(kind: type, fields: dict[str, Any]) -> LinearOperator:
    """An operator from its fields; those of another class do not even have a shape."""
    needed = {field.name for field in dataclasses.fields(kind)}
    if fields.keys() != needed:
        raise ValueError(f"{kind.__name__} with the fields {sorted(fields)}")
    op: LinearOperator = tree.rebuild(kind, fields)
    _ = op.shape, op.domain_shape, op.range_shape, op.dtype
    return op


register_savable(LinearOperator, _fields, _operator)


# -- to text ---------------------------------------------------------------------------------------


def encode(thing: Any) -> tuple[str, list[NumpyArray]]:
    """The manifest of ``thing``, and its arrays."""
    encoder = _Encoder()
    root = encoder.node(thing, "op")
    if not (isinstance(root, dict) and "object" in root):
        raise TypeError(f"op is a {type(thing).__name__}: an operator or an estimator is needed")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "library": encoder.library,
        "objects": encoder.objects,
        "arrays": [_description(array) for array in encoder.arrays],
    }
    text = json.dumps(manifest, allow_nan=True)
    return json.dumps({"sha256": _digest(text.encode()), "manifest": text}), encoder.arrays


class _Encoder:
    """Collects objects and arrays, each once."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.arrays: list[NumpyArray] = []
        self.library: str | None = None
        self._known: dict[int, tuple[Any, dict[str, int]]] = {}  # keeps what it knows alive

    def node(self, value: Any, place: str) -> Any:
        """``value`` in JSON; ``place`` is where it was found, for errors."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, (tuple, list)):
            parts = [self.node(part, f"{place}[{i}]") for i, part in enumerate(value)]
            return {"tuple": parts} if isinstance(value, tuple) else parts
        if isinstance(value, Mapping):
            pairs = value.items()
            return {
                "dict": [[self._key(k, place), self.node(v, f"{place}[{k!r}]")] for k, v in pairs]
            }
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = value, self._collect(value, place)
        return known[1]

    def _key(self, key: Any, place: str) -> Any:
        if not isinstance(key, (str, int, tuple)):
            raise TypeError(f"{place} has a key that is a {type(key).__name__}: names are needed")
        return self.node(key, f"a key of {place}")

    def _collect(self, value: Any, place: str) -> dict[str, int]:
        if is_array(value):
            self.arrays.append(self._host(value, place))
            return {"array": len(self.arrays) - 1}
        for base, savable in _SAVABLE.items():
            if isinstance(value, base):
                fields = {
                    name: self.node(part, f"{place}.{name}")
                    for name, part in savable.take(value).items()
                }
                self.objects.append({"class": _name_of(type(value)), "fields": fields})
                return {"object": len(self.objects) - 1}
        held = " (its curvature they do)" if hasattr(value, "curvature") else ""
        raise TypeError(f"{place} is a {type(value).__name__}, which files do not hold{held}")

    def _host(self, array: Any, place: str) -> NumpyArray:
        backend = backend_of(array)
        if self.library not in (None, backend.name):
            raise TypeError(
                f"{place} is an array of {backend.name}, others are of {self.library}: bring all "
                f"of them to one library first"
            )
        self.library = backend.name
        if backend.is_tracked(array) and backend.values(array) is None:
            raise TypeError(f"{place} is traced: its values cannot be seen")
        host = backend.to_numpy(array)
        if host.dtype.name not in DTYPES:
            raise ValueError(f"{place} has dtype {host.dtype}: use op.astype first")
        return np.ascontiguousarray(host, host.dtype.newbyteorder("<")).reshape(host.shape)


def _description(array: NumpyArray) -> dict[str, Any]:
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": _digest(array.reshape(-1).view(np.uint8)),
    }


def _digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


# -- from text -------------------------------------------------------------------------------------


def decode(
    text: str, arrays: Sequence[NumpyArray], path: Path, backend: str | None, device: Any
) -> Any:
    """What was saved, in the library ``backend``."""
    try:
        manifest = _checked(text)
        hosts = [_as_described(*pair) for pair in zip(arrays, manifest["arrays"], strict=True)]
        library = backend or manifest["library"] or "numpy"
        if not isinstance(library, str):
            raise ValueError(f"library is {library!r}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or not a file of kronops: {error}") from error
    decoder = _Decoder(_library(library, backend, path), device)
    decoder.arrays = [decoder.backend.from_numpy(host, device) for host in hosts]
    try:
        for entry in manifest["objects"]:
            decoder.objects.append(decoder.made(entry))
        return decoder.objects[-1]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} does not hold what kronops saves: {error}") from error


def _checked(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    if envelope["sha256"] != _digest(envelope["manifest"].encode()):
        raise ValueError("the manifest is not what its checksum says")
    manifest: dict[str, Any] = json.loads(envelope["manifest"])
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format is {manifest['format']!r}")
    if manifest["version"] != VERSION:
        raise ValueError(
            f"it has version {manifest['version']} of the format, this kronops reads {VERSION}: "
            f"a later kronops wrote it"
        )
    return manifest


def _as_described(array: NumpyArray, description: dict[str, Any]) -> NumpyArray:
    dtype, shape = description["dtype"], tuple(description["shape"])
    if dtype in ("complex64", "complex128") and array.dtype.kind == "f":
        array = array.view(dtype)[..., 0]
    if array.dtype.name != dtype or dtype not in DTYPES or array.shape != shape:
        raise ValueError(f"an array {array.dtype} {array.shape} where {dtype} {shape} should be")
    if description["sha256"] != _digest(array.reshape(-1).view(np.uint8)):
        raise ValueError("an array is not what its checksum says")
    return array


def _library(name: str, asked: str | None, path: Path) -> Backend:
    try:
        return backend_named(name)
    except ValueError as error:
        if asked is not None:
            raise
        raise ValueError(
            f"{path} was saved from arrays of {name}: {error}; "
            f'load(path, backend="numpy") opens it without'
        ) from error


class _Decoder:
    """Makes objects one after the other."""

    def __init__(self, backend: Backend, device: Any) -> None:
        self.backend = backend
        self.device = device
        self.arrays: list[Any] = []
        self.objects: list[Any] = []

    def made(self, entry: dict[str, Any]) -> Any:
        kind, savable = _class_named(entry["class"])
        fields = {name: self.value(node) for name, node in entry["fields"].items()}
        return savable.make(kind, fields)

    def value(self, node: Any) -> Any:
        """What `_Encoder.node` made ``node`` of."""
        if isinstance(node, list):
            return [self.value(part) for part in node]
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind == "array":
            return self.arrays[_index(content)]
        if kind == "object":
            return self.objects[_index(content)]
        if kind == "complex":
            return complex(*content)
        if kind == "tuple":
            return tuple(self.value(part) for part in content)
        if kind == "dict":
            return {self.value(key): self.value(part) for key, part in content}
        raise ValueError(f"a node of the kind {kind!r}")


def _index(content: Any) -> int:
    if type(content) is not int or content < 0:
        raise ValueError(f"{content!r} is no index")
    return content


def _class_named(name: Any) -> tuple[type, _Savable]:
    found = _classes(name)
    if not found:
        importlib.import_module("kronops.kfac")  # which makes its own classes known
        found = _classes(name)
    if len(found) != 1:
        raise ValueError(
            f"{len(found)} classes are called {name!r}: import the one module that defines it"
        )
    return found.popitem()


def _classes(name: Any) -> dict[type, _Savable]:
    return {
        kind: savable
        for base, savable in _SAVABLE.items()
        for kind in _with_subclasses(base)
        if _name_of(kind) == name
    }


def _name_of(kind: type) -> str:
    """Short for what is ours, wherever it stands; with its module for what is not."""
    ours = kind.__module__.partition(".")[0] == "kronops"
    return kind.__name__ if ours else f"{kind.__module__}:{kind.__qualname__}"


def _with_subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _with_subclasses(subclass)
