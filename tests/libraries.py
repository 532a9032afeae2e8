"""The array libraries that the conformance suite runs on, each as a namespace, device and dtypes.

A library that is not installed is skipped with its name as the reason. JAX is two entries, for it
has double precision or not as the user chose; array-api-strict is two as well, for it has devices
that exist only to be told apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import array_api_compat
import numpy as np
import pytest
import zoo

DTYPES = ("float64", "complex128", "float32", "complex64")
SINGLE = ("float32", "complex64")


@dataclasses.dataclass(frozen=True)
class Library:
    """One of the libraries, as a test sees it."""

    module: str
    dtypes: tuple[str, ...] = DTYPES
    device: Callable[[Any], Any] = lambda xp: None
    settings: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    @contextlib.contextmanager
    def maker(self, dtype: str) -> Iterator[Maker]:
        """What draws matrices in this library, with its settings in force; or a skip."""
        root = self.module.removeprefix("array_api_compat.").partition(".")[0]
        pytest.importorskip(root, reason=f"{root} is not installed")
        xp = importlib.import_module(self.module)
        if root == "jax":
            forget_what_was_compiled(self, dtype)
        with self.settings():
            yield Maker(xp, dtype, self.device(xp))


class Maker(zoo.Maker):
    """A `zoo.Maker` whose arrays are brought to a device themselves: no default may help."""

    def __init__(self, xp: Any, dtype: str, device: Any) -> None:
        super().__init__(xp, dtype)
        self.device = device

    def __call__(self, matrix: np.ndarray) -> Any:
        return self.place(super().__call__(matrix))

    def real(self, values: np.ndarray) -> Any:
        return self.place(super().real(values))

    def place(self, array: Any) -> Any:
        return array if self.device is None else array_api_compat.to_device(array, self.device)


@functools.lru_cache(maxsize=1)
def forget_what_was_compiled(library: Library, dtype: str) -> None:
    """Once for each dtype: thousands of programs of the one before make JAX slow, and large."""
    importlib.import_module("jax").clear_caches()


def double_precision(allowed: bool) -> contextlib.AbstractContextManager[Any]:
    """JAX with or without double precision."""
    jax = importlib.import_module("jax")
    return jax.enable_x64(allowed)


def in_one_thread() -> contextlib.AbstractContextManager[Any]:
    """Dask without a pool of threads, which costs small arrays more than it gives."""
    dask = importlib.import_module("dask")
    return dask.config.set(scheduler="sync")


LIBRARIES = {
    "numpy": Library("numpy"),
    "array_api_strict": Library("array_api_strict"),
    "array_api_strict device1": Library("array_api_strict", device=lambda xp: xp.Device("device1")),
    "torch": Library("array_api_compat.torch"),
    "jax": Library("jax.numpy", settings=lambda: double_precision(True)),
    "jax x64 off": Library("jax.numpy", SINGLE, settings=lambda: double_precision(False)),
    "dask": Library("array_api_compat.dask.array", settings=in_one_thread),
}
