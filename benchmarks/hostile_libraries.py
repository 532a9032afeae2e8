"""Kronecker products of several libraries, with one face: what each can do of a few operations.

``build`` takes the factors as they come, and gives `Operations`. PyTorch's libraries get
tensors of what is a NumPy array, and anything else as it is.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kronops.bench.peers import Unsupported, version

__all__ = ["LIBRARIES", "Library", "Operations"]

Factors = Sequence[Any]


def unsupported(*_: Any) -> Any:
    raise Unsupported("there is none")


class Operations(NamedTuple):
    """``solve`` and ``logdet`` are those of the product plus ``damping`` times the identity."""

    multiply: Callable[[Any], Any]
    solve: Callable[[Any, Any], Any] = unsupported
    logdet: Callable[[Any], Any] = unsupported
    trace: Callable[[], Any] = unsupported
    shape: Callable[[], tuple[int, int]] = unsupported


class Library(NamedTuple):
    """``needs`` are distributions, ``package`` is what its files are under."""

    name: str
    package: str
    needs: tuple[str, ...]
    build: Callable[[Factors], Operations]

    @property
    def missing(self) -> bool:
        """Whether it is not installed."""
        return any(version(name) is None for name in self.needs)


def no_damping(value: Any) -> bool:
    return isinstance(value, float) and value == 0.0


def by_kronops(factors: Factors) -> Operations:
    import kronops

    op = kronops.kron(*factors)
    return Operations(
        multiply=lambda x: op @ x,
        solve=lambda b, damping: op.damped(damping).solve(b),
        logdet=lambda damping: op.damped(damping).logdet(),
        trace=op.trace,
        shape=lambda: op.shape,
    )


def by_scipy(factors: Factors) -> Operations:
    """The matrix written out, which is what SciPy's users do."""
    import scipy.linalg

    matrix = functools.reduce(np.kron, factors)

    def damped(damping: Any) -> Any:
        return matrix if no_damping(damping) else matrix + damping * np.eye(len(matrix))

    return Operations(
        multiply=lambda x: matrix @ x,
        solve=lambda b, damping: scipy.linalg.solve(damped(damping), b),
        logdet=lambda damping: np.log(scipy.linalg.det(damped(damping))),
        trace=lambda: np.trace(matrix),
        shape=lambda: matrix.shape,
    )


def tensor(array: Any) -> Any:
    """What users write to have a tensor of an array: the same memory where that goes."""
    import torch

    if not isinstance(array, np.ndarray):
        return array
    if isinstance(array, np.ma.MaskedArray):
        raise Unsupported("PyTorch has no masked arrays")
    try:
        return torch.from_numpy(array) if array.flags.writeable else torch.tensor(array)
    except (TypeError, ValueError) as error:
        raise Unsupported(f"PyTorch has no such tensors: {error}") from error


def by_linear_operator(factors: Factors) -> Operations:
    from linear_operator.operators import KroneckerProductLinearOperator

    op = KroneckerProductLinearOperator(*map(tensor, factors))

    def damped(damping: Any) -> Any:
        return op if no_damping(damping) else op.add_diagonal(as_tensor(damping))

    return Operations(
        multiply=lambda x: op.matmul(tensor(x)),
        solve=lambda b, damping: damped(damping).solve(tensor(b)),
        logdet=lambda damping: damped(damping).logdet(),
        trace=lambda: op.diagonal().sum(),
        shape=lambda: tuple(op.shape),
    )


def as_tensor(damping: Any) -> Any:
    """A number as a tensor of double precision, an array as one of its own."""
    import torch

    number = isinstance(damping, (int, float, complex)) and not isinstance(damping, bool)
    return (
        torch.tensor(damping, dtype=None if isinstance(damping, complex) else torch.float64)
        if number
        else tensor(damping)
    )


def by_cola(factors: Factors) -> Operations:
    import cola
    from cola.ops import Dense, Kronecker, ScalarMul, Sum

    op = Kronecker(*[Dense(tensor(factor)) for factor in factors])

    def damped(damping: Any) -> Any:
        if no_damping(damping):
            return op
        return Sum(op, ScalarMul(damping, op.shape, op.dtype, op.device))  # its + does not know

    return Operations(
        multiply=lambda x: op @ tensor(x),
        solve=lambda b, damping: cola.inv(damped(damping)) @ tensor(b),
        logdet=lambda damping: cola.logdet(damped(damping)),
        trace=lambda: cola.trace(op),
        shape=lambda: op.shape,
    )


def by_curvlinops(factors: Factors) -> Operations:
    """A linear layer's block with two factors, given by its state."""
    if len(factors) != 2 or any(np.ndim(f) != 2 or len(set(f.shape)) > 1 for f in factors):
        raise Unsupported("two square factors only")
    import torch
    from curvlinops import KFACInverseLinearOperator, KFACLinearOperator

    outputs, inputs = map(tensor, factors)
    model = torch.nn.Sequential(torch.nn.Linear(len(inputs), len(outputs), bias=False))
    model = model.to(inputs.dtype)
    data = [
        (torch.ones(1, len(inputs)).to(inputs.dtype), torch.ones(1, len(outputs)).to(inputs.dtype))
    ]
    loss, parameters = torch.nn.MSELoss(), list(model.parameters())
    made = KFACLinearOperator(model, loss, parameters, data, check_deterministic=False)
    state = made.state_dict()
    state |= {"input_covariances": {"0": inputs}, "gradient_covariances": {"0": outputs}}
    with warnings.catch_warnings():  # of the model's parameters, which nobody asks for here
        warnings.simplefilter("ignore")
        made.load_state_dict(state)

    def inverse(damping: Any) -> Any:
        return KFACInverseLinearOperator(
            made, damping, use_exact_damping=not no_damping(damping), retry_double_precision=False
        )

    def logdet(damping: Any) -> Any:
        return made.logdet if no_damping(damping) else unsupported()

    return Operations(
        multiply=lambda x: made @ tensor(x),
        solve=lambda b, damping: inverse(damping) @ tensor(b),
        logdet=logdet,
        trace=lambda: made.trace,
        shape=lambda: tuple(made.shape),
    )


def by_pykronecker(factors: Factors) -> Operations:
    """In double precision; it has no damping but by a sum with the identity, and no determinant."""
    import jax

    jax.config.update("jax_enable_x64", True)
    with contextlib.redirect_stdout(io.StringIO()):  # it says there what it uses
        from pykronecker import KroneckerProduct
    op = KroneckerProduct(list(factors))

    def solve(b: Any, damping: Any) -> Any:
        return op.inv() @ b if no_damping(damping) else unsupported()

    return Operations(multiply=lambda x: op @ x, solve=solve, shape=lambda: op.shape)


def by_pylops(factors: Factors) -> Operations:
    """Nested from the right; solves are iterative, by its own ``/``."""
    import pylops

    operators = [pylops.MatrixMult(factor, dtype=factor.dtype) for factor in factors]
    op = operators.pop()
    while operators:
        op = pylops.Kronecker(operators.pop(), op, dtype=op.dtype)

    def solve(b: Any, damping: Any) -> Any:
        damped = op if no_damping(damping) else op + damping * pylops.Identity(len(b))
        return damped / b

    return Operations(
        multiply=lambda x: op @ x,
        solve=solve,
        trace=lambda: op.trace(),
        shape=lambda: tuple(map(int, op.shape)),
    )


LIBRARIES = (
    Library("kronops", "kronops", (), by_kronops),
    Library("SciPy", "scipy", ("scipy",), by_scipy),
    Library("linear_operator", "linear_operator", ("torch", "linear_operator"), by_linear_operator),
    Library("CoLA", "cola", ("torch", "cola-ml"), by_cola),
    Library("curvlinops", "curvlinops", ("curvlinops-for-pytorch",), by_curvlinops),
    Library("PyKronecker", "pykronecker", ("jax", "pykronecker"), by_pykronecker),
    Library("PyLops", "pylops", ("pylops",), by_pylops),
)
