"""Operators written out as matrices, in more digits than a dtype has."""

from __future__ import annotations

from kronops.errors import DensificationWarning, warn
from kronops.extended.expansions import Expansion, Precision
from kronops.extended.products import product
from kronops.operator import LinearOperator

__all__ = ["written"]

_LIMIT = 10**7  # entries: a matrix of three terms is multiplied some hundred times


def written(op: LinearOperator, precision: Precision) -> Expansion:
    """The matrix, with a `DensificationWarning`; a `ValueError` where it is too large."""
    if op.shape[0] * op.shape[1] > _LIMIT:
        raise ValueError(
            f"refine=True: {type(op).__name__} {op.shape} would be written out as a matrix, and is "
            f"too large for it; without refine, or by kronops.linalg.iterative_solve, it is solved"
        )
    warn(
        f"{type(op).__name__} {op.shape} is written out as a dense matrix to be refined: no "
        f"identity gives this from its structure",
        DensificationWarning,
    )
    one = op.backend.xp.eye(op.shape[1], dtype=op.dtype, device=op.device)
    return product(op, precision)(precision.of(one))
