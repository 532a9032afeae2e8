"""Many small dense operators of one size, factorised by one call for a stack of matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.checks import epsilon, is_complex
from kronops.factorisation import Factorisation, power_of_two
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator

__all__ = ["FEWEST", "LARGEST", "factorise_together"]

# Operators, rows: where one call is faster than many, to factorise and to multiply.
FEWEST, LARGEST = 4, 64


def factorise_together(operators: Iterable[LinearOperator]) -> None:
    """Give small positive definite operators the factorisations that each would make alone.

    Those that are not definite, or nearly singular, are left to do so, with the errors and warnings
    that are theirs.
    """
    stacks: dict[Any, list[DenseOperator]] = {}
    for op in operators:
        if isinstance(op, DenseOperator) and _may_be_stacked(op):
            stacks.setdefault((op.matrix.shape, op.matrix.dtype), []).append(op)
    for group in stacks.values():
        double_or_single = epsilon(group[0].matrix) < 1e-6
        if len(group) >= FEWEST and double_or_single:
            with group[0].backend.eager():
                _factorise(group)


def _may_be_stacked(op: DenseOperator) -> bool:
    rows, columns = op.matrix.shape
    if rows != columns or not 0 < rows <= LARGEST or op.assume == "general":
        return False
    backend = backend_of(op.matrix)
    seen = not backend.is_tracked(op.matrix) and backend.values(op.matrix) is not None
    return seen and not op.factorised


def _factorise(group: Sequence[DenseOperator]) -> None:
    backend = group[0].backend
    xp = backend.xp
    stack = xp.stack([op.matrix for op in group])
    diagonal = xp.linalg.diagonal(stack)
    diagonal = xp.real(diagonal) if is_complex(stack) else diagonal
    fit = xp.all(diagonal > 0, axis=-1) & xp.all(stack == backend.adjoint(stack), axis=(-2, -1))
    scale = power_of_two(xp, xp.sqrt(xp.where(fit[:, None], diagonal, xp.ones_like(diagonal))))
    identity = xp.eye(stack.shape[-1], dtype=stack.dtype, device=backend.device(stack))
    stack = xp.where(fit[:, None, None], stack, identity)
    scaled = backend.double(stack) * scale[:, :, None] * scale[:, None, :]
    try:
        factors, inverses = xp.linalg.cholesky(scaled), xp.linalg.inv(scaled)
    except (np.linalg.LinAlgError, RuntimeError):
        return
    unscaled = inverses * scale[:, :, None] * scale[:, None, :]
    limit = 0.01 / epsilon(stack)
    condition = _one_norms(stack) * _one_norms(unscaled)
    fit = fit & (condition < limit) & (_one_norms(scaled) * _one_norms(inverses) < limit)
    fit = fit & xp.all(xp.isfinite(factors), axis=(-2, -1))
    conditions, fits = (backend.to_numpy(array).tolist() for array in (condition, fit))
    written = xp.astype(unscaled, stack.dtype, copy=False)
    for i, op in enumerate(group):
        if fits[i]:
            units = scale[i, :]
            made = Factorisation(backend, stack.dtype, units, units, True, factors[i, ...])
            op.adopt(made, conditions[i], written[i, ...])


def _one_norms(stack: Array) -> Array:
    xp = backend_of(stack).xp
    return xp.max(xp.sum(xp.abs(stack), axis=-2), axis=-1)
