"""What can be had from products alone: the matrix or parts of it, its Frobenius norm.

Columns of the identity are multiplied block by block, so that memory stays near one vector's;
the cost is ``n`` products. The right default for operators that know nothing cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kronops.backends.standard import Array

if TYPE_CHECKING:
    from kronops.operator import LinearOperator

__all__ = ["dense", "diagonal", "frobenius_norm", "scaled_norm", "submatrix"]

_ENTRIES_AT_ONCE = 2**20


def dense(op: LinearOperator) -> Array:
    """The matrix of ``op``, of shape ``op.shape``."""
    xp = op.backend.xp
    blocks = [block for _, block in _column_blocks(op)]
    if not blocks:
        return xp.zeros(op.shape, dtype=op.dtype, device=op.device)
    return xp.concat(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def diagonal(op: LinearOperator) -> Array:
    """The diagonal of a square ``op``, flat."""
    xp = op.backend.xp
    pieces = [
        xp.linalg.diagonal(block[start : start + block.shape[1], :])
        for start, block in _column_blocks(op)
    ]
    return xp.concat([xp.zeros((0,), dtype=op.dtype, device=op.device), *pieces])


def submatrix(op: LinearOperator, rows: Array, columns: Array) -> Array:
    """The entries where ``rows`` and ``columns``, integer arrays, cross."""
    xp, n = op.backend.xp, op.shape[1]
    step = max(1, _ENTRIES_AT_ONCE // max(*op.shape, 1))
    everywhere = xp.arange(n, device=op.device)[:, None]
    pieces = [xp.zeros((rows.shape[0], 0), dtype=op.dtype, device=op.device)]
    count = columns.shape[0]
    for start in range(0, count, step):
        here = columns[start : min(start + step, count)]
        chosen = xp.astype(everywhere == here, op.dtype)
        pieces.append(xp.take(op._matmat(chosen), rows, axis=0))
    return xp.concat(pieces, axis=1)


def frobenius_norm(op: LinearOperator) -> Array:
    """The square root of the sum of squared magnitudes, without overflow in between."""
    xp = op.backend.xp
    norms = [scaled_norm(xp, block) for _, block in _column_blocks(op)]
    if not norms:
        return xp.abs(xp.zeros((), dtype=op.dtype, device=op.device))
    return scaled_norm(xp, xp.stack(norms))


def scaled_norm(xp: Any, array: Array) -> Array:
    """The 2-norm of all entries, scaled by the largest so that no square overflows."""
    magnitudes = xp.abs(array)
    if 0 in array.shape:
        return xp.sum(magnitudes)
    largest = xp.max(magnitudes)
    of_use = (largest > 0) & xp.isfinite(largest)
    unit = xp.where(of_use, largest, xp.ones_like(largest))
    return unit * xp.sqrt(xp.sum((magnitudes / unit) ** 2))


def _column_blocks(op: LinearOperator) -> Iterator[tuple[int, Array]]:
    """Pairs of a first column and the columns from there on, a block at a time."""
    xp = op.backend.xp
    rows, n = op.shape
    step = max(1, _ENTRIES_AT_ONCE // max(rows, n, 1))
    for start in range(0, n, step):
        width = min(step, n - start)
        identity = xp.eye(n, width, k=-start, dtype=op.dtype, device=op.device)
        yield start, op._matmat(identity)
