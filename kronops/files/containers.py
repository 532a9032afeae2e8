"""Files that hold a manifest and arrays: zip archives of ``.npy`` members, and safetensors."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

__all__ = ["Array", "Container", "container_named", "container_of"]

Array = np.ndarray[Any, Any]
MANIFEST = "kronops.json"


class Container(NamedTuple):
    """How a manifest and its arrays are written to one file, and read back."""

    write: Callable[[BinaryIO, str, Sequence[Array]], None]
    read: Callable[[Path], tuple[str, list[Array]]]


def container_named(name: str) -> Container:
    """The container that `save` was asked for."""
    if not (isinstance(name, str) and name in CONTAINERS):
        known = ", ".join(map(repr, CONTAINERS))
        raise ValueError(f"format = {name!r}: one of {known} is needed")
    return CONTAINERS[name]


def container_of(path: Path) -> Container:
    """The container that a file is, by its first bytes: an archive begins with ``PK``."""
    with path.open("rb") as file:
        head = file.read(2)
    return CONTAINERS["npz" if head == b"PK" else "safetensors"]


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """All the ways in which libraries say that a file is not theirs, as one `ValueError`."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is damaged, or not a file of kronops: {error}") from error


# -- npz -------------------------------------------------------------------------------------------


def _write_npz(file: BinaryIO, text: str, arrays: Sequence[Array]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(MANIFEST, text)
        for name, array in zip(_members(len(arrays)), arrays, strict=True):
            with archive.open(name, "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def _read_npz(path: Path) -> tuple[str, list[Array]]:
    with path.open("rb") as file, _damaged(path), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        _check_members(members, path.stat().st_size)
        text = archive.read(MANIFEST).decode()
        return text, [_array(archive.read(name)) for name in _members(len(members) - 1)]


def _members(count: int) -> list[str]:
    return [f"{i}.npy" for i in range(count)]


def _check_members(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse what `_write_npz` does not write, before anything of it is read."""
    names = [member.filename for member in members]
    if sorted(names) != sorted([MANIFEST, *_members(len(names) - 1)]):
        raise ValueError(f"members {names[:5]}: {MANIFEST} and 0.npy, 1.npy, … are needed, once")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("compressed members: only stored ones are opened")
    if sum(member.file_size for member in members) > size:
        raise ValueError("members that are together longer than the file")


def _array(data: bytes) -> Array:
    """The array of a ``.npy`` member, in the member's own memory."""
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array in version {version} of npy: (1, 0) is needed")
    shape, fortran, dtype = npy.read_array_header_1_0(file)
    if dtype.hasobject or fortran:
        raise ValueError(f"an array of dtype {dtype}: numbers in C order are needed")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


# -- safetensors -----------------------------------------------------------------------------------


def _write_safetensors(file: BinaryIO, text: str, arrays: Sequence[Array]) -> None:
    tensors = {str(i): _as_real(array) for i, array in enumerate(arrays)}
    file.write(_safetensors().numpy.save(tensors, {MANIFEST: text}))


def _read_safetensors(path: Path) -> tuple[str, list[Array]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size or file.read(1) != b"{":
            raise ValueError(f"{path} is damaged, or not a file of kronops")
    library = _safetensors()
    with _damaged(path), library.safe_open(path, framework="numpy") as opened:
        text = opened.metadata()[MANIFEST]
        return text, [opened.get_tensor(str(i)) for i in range(len(opened.keys()))]


def _as_real(array: Array) -> Array:
    """Complex numbers as pairs, along a last axis of 2."""
    if array.dtype.kind != "c":
        return array
    return array[..., None].view(array.real.dtype)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "files of the format safetensors need that library: pip install safetensors"
        ) from error
    return safetensors


CONTAINERS = {
    "npz": Container(_write_npz, _read_npz),
    "safetensors": Container(_write_safetensors, _read_safetensors),
}
