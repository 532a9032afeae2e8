"""Other ways to multiply by a Kronecker product: by hand in array libraries, and by libraries.

A peer's ``prepare`` gets NumPy factors, vectors and the side, converts them into the peer's own
arrays, and gives a function without arguments: the product, as anything that `numpy.asarray` takes.
What can be done once for several products (paths of contractions, transposed factors, compilation)
is done there, or by the first call, which is not timed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import io
import math
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "OURS",
    "PEERS",
    "Peer",
    "Product",
    "Unsupported",
    "as_given",
    "chain",
    "einsum",
    "fastkron_by",
    "kronops_product",
    "numpy_chain",
    "tensordot",
    "torch_chain",
    "torch_einsum",
    "torch_tensordot",
    "version",
    "views",
    "with_torch",
]

Factors = Sequence[Any]
Product = Callable[[], Any]


class Unsupported(Exception):
    """The peer has no such product."""


class Peer(NamedTuple):
    """``needs`` are the distributions without which it is left out."""

    name: str
    needs: tuple[str, ...]
    prepare: Callable[[list[np.ndarray], np.ndarray, str], Product]

    @property
    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [name for name in self.needs if version(name) is None]


def version(distribution: str) -> str | None:
    """What is installed of it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def kronops_product(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    """Ours."""
    import kronops

    op = kronops.kron(*factors)
    return (lambda: op @ x) if side == "K @ X" else (lambda: x @ op)


# -- the same few lines in NumPy, PyTorch and JAX -------------------------------------------------


def chain(factors: Factors, x: Any, side: str) -> Any:
    """A batched product for each factor, on views ``(left, p, right)``: nothing is transposed."""
    shape = x.shape
    for matrix, left, right in views(factors, shape, side):
        if right == 1:
            x = x.reshape(left, matrix.shape[1]) @ matrix.T
        elif left == 1:
            x = matrix @ x.reshape(matrix.shape[1], right)
        else:
            x = matrix @ x.reshape(left, matrix.shape[1], right)
    return as_given(x, shape, side)


def views(factors: Factors, shape: tuple[int, ...], side: str) -> Iterator[tuple[Any, int, int]]:
    """Each matrix, from the first, and ``left`` and ``right`` of what it multiplies."""
    rows = side == "X @ K"
    left, right = 1, math.prod(shape)
    if rows and len(shape) > 1:
        left, right = shape[0], right // shape[0]
    for factor in factors:
        matrix = factor.T if rows else factor
        right //= matrix.shape[1]
        yield matrix, left, right
        left *= matrix.shape[0]


def shuffle(factors: Factors, x: Any, side: str) -> Any:
    """One product of matrices for each factor, the vectors transposed after each."""
    shape = x.shape
    if side == "K @ X":
        for factor in factors:
            x = (factor @ x.reshape(factor.shape[1], -1)).T
        return x.reshape(-1) if len(shape) == 1 else x.reshape(shape[1], -1).T
    for factor in reversed(factors):
        x = (x.reshape(-1, factor.shape[0]) @ factor).T
    return x.reshape(-1) if len(shape) == 1 else x.reshape(-1, shape[0]).T


def tensordot(xp: Any, factors: Factors, x: Any, side: str) -> Any:
    """A tensordot for each factor, which takes the first axis and leaves its own as the last."""
    shape = x.shape
    if side == "K @ X":
        x = x.reshape(*[factor.shape[1] for factor in factors], *shape[1:])
        for factor in factors:
            x = xp.tensordot(x, factor, ([0], [1]))
        return x.reshape(-1) if len(shape) == 1 else x.reshape(shape[1], -1).T
    x = x.reshape(*shape[:-1], *[factor.shape[0] for factor in factors])
    for factor in reversed(factors):
        x = xp.tensordot(factor, x, ([0], [x.ndim - 1]))
    return x.reshape(-1) if len(shape) == 1 else x.reshape(-1, shape[0]).T


def subscripts(count: int, side: str, batched: bool) -> str:
    """``aA,bB,ABz->abz``, or its like for the other side."""
    inner, outer = string.ascii_uppercase[:count], string.ascii_lowercase[:count]
    batch = "z" * batched
    if side == "K @ X":
        pairs = [f"{o}{i}" for o, i in zip(outer, inner, strict=True)]
        return f"{','.join(pairs)},{inner}{batch}->{outer}{batch}"
    pairs = [f"{i}{o}" for o, i in zip(outer, inner, strict=True)]
    return f"{','.join(pairs)},{batch}{inner}->{batch}{outer}"


def as_tensor(factors: Factors, x: Any, side: str) -> Any:
    """The vectors with an axis for each factor."""
    inner = [factor.shape[side == "K @ X"] for factor in factors]
    return x.reshape(*inner, *x.shape[1:]) if side == "K @ X" else x.reshape(*x.shape[:-1], *inner)


def as_given(x: Any, shape: tuple[int, ...], side: str) -> Any:
    """``x`` as a vector or a matrix, like the ``shape`` that came in."""
    if len(shape) == 1:
        return x.reshape(-1)
    return x.reshape(-1, shape[1]) if side == "K @ X" else x.reshape(shape[0], -1)


def einsum(function: Callable[..., Any], factors: Factors, x: Any, side: str) -> Product:
    """``function``, an einsum."""
    words = subscripts(len(factors), side, x.ndim > 1)
    tensor = as_tensor(factors, x, side)
    return lambda: as_given(function(words, *factors, tensor), x.shape, side)


# -- NumPy ----------------------------------------------------------------------------------------


def numpy_chain(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    """`chain`, on arrays as they are."""
    return lambda: chain(factors, x, side)


def numpy_shuffle(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    return lambda: shuffle(factors, x, side)


def numpy_tensordot(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    return lambda: tensordot(np, factors, x, side)


def numpy_einsum(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    words = subscripts(len(factors), side, x.ndim > 1)
    path, _ = np.einsum_path(words, *factors, as_tensor(factors, x, side), optimize="greedy")
    return einsum(functools.partial(np.einsum, optimize=path), factors, x, side)


def opt_einsum_expression(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    """With the factors as constants, so that it may multiply them with each other beforehand."""
    import opt_einsum

    words = subscripts(len(factors), side, x.ndim > 1)
    tensor = as_tensor(factors, x, side)
    constants = list(range(len(factors)))
    expression = opt_einsum.contract_expression(
        words, *factors, tensor.shape, constants=constants, optimize="auto"
    )
    return lambda: as_given(expression(tensor), x.shape, side)


# -- PyTorch --------------------------------------------------------------------------------------


def with_torch(prepare: Callable[..., Product], device: str = "cpu") -> Callable[..., Product]:
    """``prepare`` for tensors on a device, without gradients."""

    def prepared(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
        import torch

        tensors = [torch.from_numpy(factor).to(device) for factor in factors]
        product = prepare(tensors, torch.from_numpy(x).to(device), side)

        def run() -> Any:
            with torch.inference_mode():
                return product()

        return run

    return prepared


def torch_chain(factors: Factors, x: Any, side: str) -> Product:
    """`chain`, on tensors."""
    return lambda: chain(factors, x, side)


def torch_tensordot(factors: Factors, x: Any, side: str) -> Product:
    """`tensordot`, by PyTorch's."""
    import torch

    return lambda: tensordot(torch, factors, x, side)


def torch_einsum(factors: Factors, x: Any, side: str) -> Product:
    """`einsum`, by PyTorch's."""
    import torch

    return einsum(torch.einsum, factors, x, side)


# -- JAX ------------------------------------------------------------------------------------------


def with_jax(multiply: Callable[..., Any]) -> Callable[..., Product]:
    """``multiply``, a function of the factors, the vectors and the side, compiled."""

    def prepared(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
        import jax

        jax.config.update("jax_enable_x64", True)
        arrays, vectors = [jax.device_put(factor) for factor in factors], jax.device_put(x)
        compiled = jax.jit(functools.partial(multiply, side=side))
        return lambda: compiled(arrays, vectors).block_until_ready()

    return prepared


@with_jax
def jax_einsum(factors: Factors, x: Any, side: str) -> Any:
    import jax.numpy as jnp

    return einsum(jnp.einsum, factors, x, side)()


@with_jax
def kronops_in_jax(factors: Factors, x: Any, side: str) -> Any:
    return kronops_product(list(factors), x, side)()


# What takes turns with the peers: kronops on arrays of NumPy alone, with compiled kernels too, ...
OURS: dict[str, Callable[..., Product]] = {
    "numpy": kronops_product,
    "numba": kronops_product,
    "torch": with_torch(kronops_product),
    "jax": kronops_in_jax,
}


# -- libraries ------------------------------------------------------------------------------------


def fastkron(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    from pyfastkron import fastkronnumpy

    return fastkron_by(fastkronnumpy, factors, x, side)


def fastkron_by(library: Any, factors: Factors, x: Any, side: str) -> Product:
    """By FastKron's module for the arrays at hand."""
    if side == "K @ X":
        columns = x.reshape(x.shape[0], -1)
        return lambda: library.gekmm(factors, columns).reshape(-1, *x.shape[1:])
    rows = x.reshape(-1, x.shape[-1])
    return lambda: library.gemkm(rows, factors).reshape(*x.shape[:-1], -1)


def fastkron_vector(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    """One vector may be a row as well as a column, with the factors transposed beforehand."""
    if x.ndim > 1:
        raise Unsupported("for one vector")
    transposed = [np.ascontiguousarray(factor.T) for factor in factors]
    return fastkron(transposed, x, "X @ K" if side == "K @ X" else "K @ X")


@with_torch
def linear_operator(factors: Factors, x: Any, side: str) -> Product:
    from linear_operator.operators import KroneckerProductLinearOperator

    op = KroneckerProductLinearOperator(*factors)
    return (lambda: op.matmul(x)) if side == "K @ X" else (lambda: op.rmatmul(x))


def _cola(factors: Factors, side: str) -> Callable[[Any], Any]:
    """``X @ K`` by the transposed factors: CoLA's own goes by automatic differentiation."""
    from cola.ops import Dense, Kronecker

    if side == "K @ X":
        op = Kronecker(*map(Dense, factors))
        return lambda x: op @ x
    op = Kronecker(*[Dense(factor.T) for factor in factors])
    return lambda x: (op @ x.T).T


@with_torch
def cola_torch(factors: Factors, x: Any, side: str) -> Product:
    multiply = _cola(factors, side)
    return lambda: multiply(x)


@with_jax
def cola_jax(factors: Factors, x: Any, side: str) -> Any:
    return _cola(factors, side)(x)


def pykronecker(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    """In JAX, which it uses where there is one; square factors only."""
    if any(factor.shape[0] != factor.shape[1] for factor in factors):
        raise Unsupported("square factors only")
    import jax

    jax.config.update("jax_enable_x64", True)
    with contextlib.redirect_stdout(io.StringIO()):  # it says there what it uses
        from pykronecker import KroneckerProduct
    op, vectors = KroneckerProduct(factors), jax.device_put(x)
    multiply = op.__matmul__ if side == "K @ X" else op.__rmatmul__
    return lambda: multiply(vectors).block_until_ready()


def pylops(factors: list[np.ndarray], x: np.ndarray, side: str) -> Product:
    """Kronecker nested from the right; ``X @ K`` by the transposed factors."""
    import pylops

    matrices = [factor if side == "K @ X" else factor.T for factor in factors]
    operators = [pylops.MatrixMult(matrix, dtype=matrix.dtype) for matrix in matrices]
    op = operators.pop()
    while operators:
        op = pylops.Kronecker(operators.pop(), op, dtype=x.dtype)
    if side == "K @ X" or x.ndim == 1:
        return lambda: op @ x
    return lambda: (op @ x.T).T


PEERS = (
    Peer("NumPy matmul", ("numpy",), numpy_chain),
    Peer("NumPy shuffle", ("numpy",), numpy_shuffle),
    Peer("NumPy tensordot", ("numpy",), numpy_tensordot),
    Peer("NumPy einsum", ("numpy",), numpy_einsum),
    Peer("opt_einsum", ("opt_einsum",), opt_einsum_expression),
    Peer("PyTorch matmul", ("torch",), with_torch(torch_chain)),
    Peer("PyTorch tensordot", ("torch",), with_torch(torch_tensordot)),
    Peer("PyTorch einsum", ("torch",), with_torch(torch_einsum)),
    Peer("JAX matmul", ("jax",), with_jax(chain)),
    Peer("JAX einsum", ("jax",), jax_einsum),
    Peer("FastKron", ("pyfastkron",), fastkron),
    Peer("FastKron, transposed", ("pyfastkron",), fastkron_vector),
    Peer("linear_operator", ("torch", "linear_operator"), linear_operator),
    Peer("CoLA, PyTorch", ("torch", "cola-ml"), cola_torch),
    Peer("CoLA, JAX", ("jax", "cola-ml"), cola_jax),
    Peer("PyKronecker", ("jax", "pykronecker"), pykronecker),
    Peer("PyLops", ("pylops",), pylops),
)
