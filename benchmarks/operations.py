"""Which operation works on which array library, found out by running it.

``python benchmarks/operations.py`` prints the table, ``--write`` puts it into docs/libraries.md.
Each cell is a run on arrays of that library, in double precision and in complex single precision,
whose result must be an array of the same library and agree with NumPy's.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import importlib
import importlib.metadata
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import kronops
from kronops import linalg
from kronops.backends import backend_of, is_array
from kronops.kfac import DenseLayer, RecurrentLayer

PAGE = Path(__file__).resolve().parent.parent / "docs" / "libraries.md"
LIBRARIES = {
    "NumPy": "numpy",
    "array-api-strict": "array_api_strict",
    "PyTorch": "array_api_compat.torch",
    "JAX": "jax.numpy",
    "Dask": "array_api_compat.dask.array",
    "CuPy": "array_api_compat.cupy",
}
DISTRIBUTIONS = ("numpy", "scipy", "array-api-compat", "array-api-strict", "torch", "jax", "dask")


class Arrays:
    """The same matrices and vectors in any library."""

    def __init__(self, xp: Any, dtype: str) -> None:
        self.xp, self.dtype = xp, np.dtype(dtype)
        rng = np.random.default_rng(0)
        self.draws = {n: self.draw(rng, n, n) for n in (3, 4)}
        self.x, self.block = self(self.draw(rng, 12)), self(self.draw(rng, 12, 2))
        self.weights = self(self.draw(rng, 3, 4))
        self.batch = self(self.draw(rng, 8, 3).real), self(self.draw(rng, 8, 4).real)
        self.series = self(self.draw(rng, 5, 8, 3).real), self(self.draw(rng, 5, 8, 4).real)

    def draw(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        values = rng.standard_normal(shape)
        return values + 1j * rng.standard_normal(shape) if self.dtype.kind == "c" else values

    def __call__(self, values: np.ndarray) -> Any:
        kind = np.finfo(self.dtype).dtype if values.dtype.kind == "f" else self.dtype
        return self.xp.asarray(np.ascontiguousarray(values, dtype=kind))

    def general(self, n: int) -> Any:
        return self(self.draws[n] + 3 * np.eye(n))

    def definite(self, n: int) -> Any:
        return self(self.draws[n] @ self.draws[n].conj().T + np.eye(n))

    def kron(self) -> Any:
        return kronops.kron(self.definite(3), self.definite(4))

    def unsymmetric(self) -> Any:
        return kronops.kron(self.general(3), self.general(4))

    def sum_of(self, product: kronops.KroneckerOperator) -> Any:
        return kronops.KroneckerSumOperator(product.factors)

    def eigen(self) -> Any:
        values = self(np.arange(1.0, 13.0).reshape(3, 4))
        return kronops.KroneckerEigenOperator([np_like(self, 3), np_like(self, 4)], values)

    def series_block(self, option: int) -> Any:
        sides = [(self.definite(n), 0.25 * self.definite(n)) for n in (3, 4)]
        return kronops.SeriesOperator(*sides, timesteps=5, option=option)


def np_like(a: Arrays, n: int) -> Any:
    return a(np.linalg.qr(a.draws[n])[0])


def seeded(a: Arrays) -> np.random.Generator:
    return np.random.default_rng(1)


OPERATIONS: dict[str, Callable[[Arrays], Any]] = {
    "`op @ x`": lambda a: a.kron() @ a.x,
    "`op @ X`, `op.H @ X`": lambda a: a.unsymmetric().H @ (a.unsymmetric() @ a.block),
    "`multiply(weights)`": lambda a: a.unsymmetric().multiply(a.weights),
    "`solve`, definite": lambda a: a.kron().solve(a.block),
    "`solve`, general": lambda a: a.unsymmetric().solve(a.block),
    "`multiply_inverse(weights)`": lambda a: a.kron().multiply_inverse(a.weights),
    "`slogdet`, `logdet`": lambda a: [*a.unsymmetric().slogdet(), a.kron().logdet()],
    "`trace`, `diagonal`, `norm`": lambda a: [
        a.kron().trace(), a.kron().diagonal(), a.kron().norm(), a.kron().norm(2)],
    "`damped`: product": lambda a: a.kron().damped(0.5) @ a.x,
    "`damped`: solve": lambda a: a.kron().damped(0.5).solve(a.block),
    "`damped`: logdet": lambda a: a.kron().damped(0.5).logdet(),
    "`damped`, general: solve": lambda a: a.unsymmetric().damped(0.5).solve(a.block),
    "`damped`, general: slogdet": lambda a: a.unsymmetric().damped(0.5).slogdet().logabsdet,
    "`damped`, factored: solve": lambda a: a.kron().damped(0.5, "factored").solve(a.block),
    "`eigh`": lambda a: a.kron().eigh().eigenvalues,
    "`cholesky`": lambda a: a.kron().cholesky() @ a.x,
    "`power`, `sqrt`": lambda a: [a.kron().power(-0.5) @ a.x, a.kron().sqrt() @ a.x],
    "`svd`, `pinv`, `lstsq`": lambda a: [
        a.kron().svd().S, a.kron().pinv() @ a.x, a.unsymmetric().lstsq(a.block)],
    "`expm`, `logm`": lambda a: [
        (0.1 * a.sum_of(a.unsymmetric())).expm() @ a.x, a.kron().logm() @ a.x],
    "`sample`": lambda a: a.kron().damped(0.5).sample(seeded(a), (3,), inverse=True),
    "`to_dense`": lambda a: a.kron().to_dense(),
    "Kronecker-eigen: solve": lambda a: a.eigen().damped(0.1).solve(a.x),
    "Kronecker sum: solve": lambda a: a.sum_of(a.kron()).damped(0.5).solve(a.block),
    "Kronecker sum, general: solve": lambda a: a.sum_of(a.unsymmetric()).solve(a.block),
    "diagonal: solve": lambda a: kronops.DiagonalOperator(a.weights).solve(a.x),
    "block-diagonal: solve": lambda a: kronops.block_diag(a.kron(), a.general(3)).inverse()
    @ a.xp.concat([a.x, a.x[:3]]),
    "sums, products": lambda a: (2 * a.kron() + a.kron() @ a.unsymmetric()) @ a.x,
    "series, option 1": lambda a: [a.series_block(1) @ a.x, a.series_block(1).solve(a.x)],
    "series, option 2": lambda a: [a.series_block(2) @ a.x, a.series_block(2).solve(a.x)],
    "`DenseLayer`": lambda a: estimated(DenseLayer(), a.batch),
    "`RecurrentLayer`": lambda a: estimated(RecurrentLayer(option=1), a.series),
    "`astype`": lambda a: a.kron().astype("complex128") @ a.x,
    "`to_backend('numpy')`": lambda a: a.kron().to_backend("numpy").to_dense(),
    "pickle, deepcopy": lambda a: pickle.loads(pickle.dumps(copy.deepcopy(a.kron()))) @ a.x,
    "`linalg.cg`, `minres`": lambda a: [
        linalg.cg(a.kron(), a.x, rtol=1e-4, M=a.kron().inverse())[0],
        linalg.minres(a.kron(), a.x, rtol=1e-4, M=a.kron().inverse())[0]],
    "`linalg.lsmr`": lambda a: linalg.lsmr(a.kron(), a.x, maxiter=3)[0],
    "SciPy's `cg`": lambda a: solver(a).cg(a.kron(), a.x, M=a.kron().inverse(), rtol=1e-4)[0],
}  # fmt: skip


def estimated(layer: Any, batch: Any) -> Any:
    layer.update(*batch)
    return layer.operator(0.1).to_dense()


def solver(a: Arrays) -> Any:
    return backend_of(a.x).solver_library()


def outcome(operation: Callable[[Arrays], Any], module: str) -> str:
    """A tick, or why not."""
    for dtype in ("float64", "complex64"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                xp = importlib.import_module(module)
                got = results(operation(Arrays(xp, dtype)))
                want = results(operation(Arrays(np, dtype)))
        except ImportError as error:
            return f"not run: {error}".splitlines()[0]
        except Exception as error:
            return shorten(error)
        for one, other in zip(got, want, strict=True):
            host = backend_of(one).to_numpy(one)
            if host.dtype != other.dtype:
                return f"{host.dtype} for {other.dtype}"
            size = np.max(np.abs(other), initial=0.0)
            if np.max(np.abs(host - other), initial=0.0) > 1e4 * np.finfo(dtype).eps * size:
                return f"differs from NumPy's by {np.max(np.abs(host - other)):.1e}"
    return "✓"


def results(made: Any) -> list[Any]:
    return [made] if is_array(made) else list(made)


# -- transformations of JAX and PyTorch ----------------------------------------------------------

Function = Callable[[Any, Any, Any], Any]

FUNCTIONS: dict[str, Function] = {
    "`multiply`": lambda a, b, x: kronops.kron(a, b).multiply(x),
    "`solve`": lambda a, b, x: kronops.kron(a, b).solve(x),
    "`logdet`": lambda a, b, x: kronops.kron(a, b).logdet(),
    "`damped`: solve": lambda a, b, x: kronops.kron(a, b).damped(0.5).solve(x),
    "`damped`: logdet": lambda a, b, x: kronops.kron(a, b).damped(0.5).logdet(),
    "`damped`, factored: solve": lambda a, b, x: (
        kronops.kron(a, b).damped(0.5, "factored").solve(x)
    ),
}


def with_jax(function: Function) -> dict[str, str]:
    """``jit``, ``vmap`` over vectors and over factors, ``grad``, against JAX without them."""
    jax = importlib.import_module("jax")
    check_grads = importlib.import_module("jax.test_util").check_grads
    xp = importlib.import_module("jax.numpy")
    a, b, x, stacked = variables(xp)
    return {
        "jit": tick(lambda: same(xp, jax.jit(function)(a, b, x), function(a, b, x))),
        "vmap, vectors": tick(
            lambda: same(
                xp,
                jax.vmap(lambda v: function(a, b, v))(stacked[2]),
                xp.stack([function(a, b, v) for v in stacked[2]]),
            )
        ),
        "vmap, factors": tick(
            lambda: same(
                xp,
                jax.vmap(function)(*stacked),
                xp.stack([function(*one) for one in zip(*stacked, strict=True)]),
            )
        ),
        "grad": tick(lambda: check_grads(jax.jit(function), (a, b, x), 1, modes=["rev"])),
    }


def with_torch(function: Function) -> dict[str, str]:
    """Autograd, ``vmap`` over vectors and over factors, ``compile``, against PyTorch without."""
    torch = importlib.import_module("torch")
    a, b, x, stacked = variables(torch)
    wanted = function(a, b, x)
    followed = [array.clone().requires_grad_() for array in (a, b, x)]
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    return {
        "gradcheck": tick(lambda: torch.autograd.gradcheck(function, followed)),
        "vmap, vectors": tick(
            lambda: same(
                torch,
                torch.func.vmap(lambda v: function(a, b, v))(stacked[2]),
                torch.stack([function(a, b, v) for v in stacked[2]]),
            )
        ),
        "vmap, factors": tick(
            lambda: same(
                torch,
                torch.func.vmap(function)(*stacked),
                torch.stack([function(*one) for one in zip(*stacked, strict=True)]),
            )
        ),
        "compile": tick(lambda: same(torch, compiled(a, b, x), wanted)),
    }


def variables(xp: Any) -> tuple[Any, Any, Any, list[Any]]:
    """Two factors, a vector, and stacks of five of each."""
    made = [Arrays(xp, "float64") for _ in range(5)]
    arrays = [(one.definite(3) * (1 + i), one.definite(4), one.x) for i, one in enumerate(made)]
    return *arrays[0], [xp.stack(parts) for parts in zip(*arrays, strict=True)]


def same(xp: Any, got: Any, want: Any) -> None:
    assert xp.allclose(got, want), f"off by {xp.max(xp.abs(got - want))}"


def tick(check: Callable[[], Any]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except Exception as error:
        return shorten(error)
    return "✓"


# -- the page ------------------------------------------------------------------------------------


def shorten(error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {first}"[:120]


def table(columns: list[str], rows: dict[str, list[str]]) -> str:
    """Ticks, with what is no tick as numbered notes below."""
    notes: list[str] = []

    def cell(text: str) -> str:
        if text == "✓":
            return text
        if text not in notes:
            notes.append(text)
        return f"({notes.index(text) + 1})"

    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(map(cell, cells)) + " |" for name, cells in rows.items()]
    remarks = [f"{i}. {note.replace('|', ',')}" for i, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *remarks])


def versions() -> str:
    found = []
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def page() -> str:
    with contextlib.suppress(ImportError):
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    rows = {
        name: [outcome(operation, module) for module in LIBRARIES.values()]
        for name, operation in OPERATIONS.items()
    }
    parts = [f"Run on {datetime.date.today()} with {versions()}.", "", table(list(LIBRARIES), rows)]
    for title, measure in (("JAX", with_jax), ("PyTorch", with_torch)):
        made = {name: measure(function) for name, function in FUNCTIONS.items()}
        columns = list(next(iter(made.values())))
        cells = {name: [row[column] for column in columns] for name, row in made.items()}
        parts += ["", f"Transformations of {title}:", "", table(columns, cells)]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args()
    made = page()
    if not options.write:
        print(made)
        return
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- tables -->", "<!-- end of tables -->"
    marked = re.compile(f"{begin}.*{end}", re.DOTALL)
    PAGE.write_text(marked.sub(lambda _: f"{begin}\n{made}\n{end}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
