"""The array libraries that have a GPU here; without any of them there is nothing to test.

Kept apart from the suite of `make test`, which needs no GPU: see `make test-gpu`.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest

# JAX would take most of the GPU's memory for itself when it starts, and leave none to the others.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@dataclasses.dataclass(frozen=True)
class Library:
    """A namespace, the device that its arrays are brought to, and how arrays leave that device."""

    name: str
    xp: Any
    device: Any
    host_copies: tuple[tuple[type, str], ...]


class Missing(Exception):
    """What a library lacks to be tested here."""


def cupy() -> Library:
    cupy = importlib.import_module("cupy")
    cupy.cuda.runtime.getDeviceCount()  # raises what is missing: a driver, a device
    importlib.import_module("cupyx.scipy.linalg")  # the CUDA libraries are loaded only now
    xp = importlib.import_module("array_api_compat.cupy")
    return Library("cupy", xp, cupy.cuda.Device(), ((cupy.ndarray, "get"),))


def torch() -> Library:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is CPU only"
        raise Missing(f"torch {torch.__version__} {built} and sees no GPU")
    xp = importlib.import_module("array_api_compat.torch")
    device = torch.device("cuda", torch.cuda.current_device())
    ways = ("__array__", "cpu", "numpy", "tolist")
    return Library("torch", xp, device, tuple((torch.Tensor, way) for way in ways))


def jax() -> Library:
    jax = importlib.import_module("jax")
    device = jax.devices("gpu")[0]  # raises what is missing
    jax.config.update("jax_enable_x64", True)
    # Left alone, JAX multiplies matrices of single precision in TF32, with three digits.
    jax.config.update("jax_default_matmul_precision", "highest")
    xp = importlib.import_module("jax.numpy")
    return Library("jax", xp, device, ((type(xp.zeros(1)), "__array__"),))


LOADERS: dict[str, Callable[[], Library]] = {"cupy": cupy, "torch": torch, "jax": jax}


def load(name: str) -> Library | str:
    """The library, or in words what is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return LOADERS[name]()
        except (ImportError, RuntimeError, Missing) as error:
            return f"{name}: {error}"


FOUND = {name: load(name) for name in LOADERS}


def pytest_sessionstart(session: pytest.Session) -> None:
    if not any(isinstance(found, Library) for found in FOUND.values()):
        missing = "\n".join(f"  {found}" for found in FOUND.values())
        pytest.exit(
            f"no GPU library with a device was found: nothing was tested\n{missing}", returncode=1
        )


def library_or_skip(name: str) -> Library:
    found = FOUND[name]
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(params=LOADERS, scope="session")
def library(request: pytest.FixtureRequest) -> Library:
    """Each library with a GPU; the others are skipped, with what is missing."""
    return library_or_skip(request.param)


@pytest.fixture(scope="session")
def cupy_library() -> Library:
    return library_or_skip("cupy")
