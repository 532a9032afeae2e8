"""What is installed, and whether kronops works with it: for `show_versions` and the command."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from kronops.backends import backend_named
from kronops.operators.kronecker import kron

__all__ = ["Check", "checks", "show_versions"]

# What a user may have, and the names of its distributions.
_REQUIRED = {name: (name,) for name in ("numpy", "scipy", "array-api-compat")}
_LIBRARIES = {
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "torch": ("torch",),
    "jax": ("jax",),
    "dask": ("dask",),
}
_EXTRAS = {name: (name,) for name in ("distributed", "numba", "matplotlib", "safetensors")}
_NEIGHBOURS = {name: (name,) for name in ("lineax", "linear_operator", "gpytorch", "pylops")}
_NEIGHBOURS |= {"CoLA": ("cola-ml",), "curvlinops": ("curvlinops-for-pytorch",)}
_NO_PLACES = {"None", "meta", "DASK_DEVICE"}  # which libraries list among their devices
_TOLERANCE = 1e-4  # of results in single precision, which every library and device has


class Check(NamedTuple):
    """Whether an operator was right in a library, on a device; ``problem`` says what was not."""

    library: str
    device: str
    problem: str | None


def show_versions() -> None:
    """Print the versions of Python, kronops, and what it uses: for reports of faults.

    Nothing is imported for it.

    Examples
    --------
    >>> import kronops
    >>> kronops.show_versions()  # doctest: +ELLIPSIS
    Python            3...
    ...
    """
    system = f"{platform.system()} {platform.machine()}"
    lines = {
        "Python": f"{platform.python_version()} ({platform.python_implementation()}, {system})"
    }
    lines["kronops"] = sys.modules["kronops"].__version__
    lines |= {
        name: _version(distributions) or "not installed"
        for name, distributions in (_REQUIRED | _LIBRARIES | _EXTRAS | _NEIGHBOURS).items()
    }
    sys.stdout.write("".join(f"{name:17} {value}\n" for name, value in lines.items()))


def checks() -> Iterator[Check]:
    """Of a product, a solve and a determinant in every library that is installed, on its devices.

    The libraries are imported for it.
    """
    installed = [name for name, names in _LIBRARIES.items() if _version(names)]
    for library in ("numpy", *installed):
        try:
            devices = _devices(library)
        except Exception as error:  # a broken installation may raise anything
            yield Check(library, "", _words(error))
            continue
        for device in devices:
            yield Check(library, str(device), _problem(library, device))


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return None


def _devices(library: str) -> list[Any]:
    """Those that the standard's inspection of the library lists and that hold numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, whose devices are found by trying all names
        listed = backend_named(library).xp.__array_namespace_info__().devices()
    return [device for device in listed if str(device) not in _NO_PLACES]


def _problem(library: str, device: Any) -> str | None:
    """What is wrong with ``(A ⊗ B + I/2)⁻¹ x`` and the like there; None if nothing is."""
    rng = np.random.default_rng(0)
    factors = [
        root @ root.T + np.eye(n) for n, root in ((n, rng.normal(size=(n, n))) for n in (3, 4))
    ]
    x, matrix = rng.normal(size=12), np.kron(*factors) + 0.5 * np.eye(12)
    expected = [matrix @ x, np.linalg.solve(matrix, x), np.linalg.slogdet(matrix)[1]]
    try:
        backend = backend_named(library)
        arrays = [backend.from_numpy(a.astype("float32"), device) for a in (*factors, x)]
        op = kron(*arrays[:2]).damped(0.5)
        made = [op.multiply(arrays[2]), op.multiply_inverse(arrays[2]), op.logdet()]
        found = [backend.to_numpy(part) for part in made]
    except Exception as error:
        return _words(error)
    wrong = [
        name
        for name, got, right in zip(("product", "solve", "logdet"), found, expected, strict=True)
        if not np.max(np.abs(got - right)) <= _TOLERANCE * np.max(np.abs(right))
    ]
    return f"wrong: {', '.join(wrong)}" if wrong else None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
