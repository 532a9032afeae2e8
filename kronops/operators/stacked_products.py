"""Neighbouring blocks of one size, multiplied by one batched product in place of one for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.factorisation import RefinedInverse
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.inverse import InverseOperator
from kronops.operators.stacked_factorisation import FEWEST, LARGEST

__all__ = ["Run", "runs"]

Form = tuple[object, ...] | None


class Run(NamedTuple):
    """Blocks side by side: one operator, or matrices in a stack.

    Of inverses that are refined there are two stacks, the matrices' and that of their inverses.
    """

    columns: int
    operator: LinearOperator | None
    stacks: tuple[Array, ...] = ()

    def matmat(self, x: Array) -> Array:
        """The product with ``x`` of shape ``(..., columns, k)``."""
        if self.operator is not None:
            return self.operator._matmat(x)
        xp = backend_of(x).xp
        count, rows, columns = self.stacks[0].shape
        apart = xp.reshape(x, (*x.shape[:-2], count, columns, x.shape[-1]))
        if len(self.stacks) == 2:
            made = RefinedInverse(*self.stacks).refined(apart)
        else:
            made = xp.matmul(self.stacks[0], apart)
        return xp.reshape(made, (*x.shape[:-2], count * rows, x.shape[-1]))


def runs(operators: Iterable[LinearOperator]) -> tuple[Run, ...]:
    """Block-diagonal operators as few products: small matrices that lie side by side are one."""
    found: list[Run] = []
    for form, blocks in _neighbours(operators):
        stacks = _stacked(blocks) if form is not None and len(blocks) >= FEWEST else None
        if stacks is None:
            found += [Run(block.shape[1], block) for block in blocks]
        else:
            found.append(Run(len(blocks) * blocks[0].shape[1], None, stacks))
    return tuple(found)


def _neighbours(operators: Iterable[LinearOperator]) -> list[tuple[Form, list[LinearOperator]]]:
    """Blocks of one form that follow each other; not by `itertools`, for ``torch.compile``."""
    groups: list[tuple[Form, list[LinearOperator]]] = []
    for op in operators:
        form = _form(op)
        if not groups or groups[-1][0] != form:
            groups.append((form, []))
        groups[-1][1].append(op)
    return groups


def _form(op: LinearOperator) -> Form:
    """What blocks of one stack have in common; None for an operator that is in none."""
    base = op.base if isinstance(op, InverseOperator) else op
    if not isinstance(base, DenseOperator) or not 0 < math.prod(base.shape) <= LARGEST**2:
        return None
    backend = base.backend
    if base._tracked or backend.values(base.matrix) is None:
        return None
    return type(op), base.shape, base.dtype


def _stacked(blocks: Sequence[LinearOperator]) -> tuple[Array, ...] | None:
    """Stacks of what all blocks are multiplied by in one way; None if there is no such way."""
    xp = blocks[0].backend.xp
    for matrices in (_written, _refined):
        found = [matrices(block) for block in blocks]
        if all(found):
            return tuple(xp.stack(same) for same in zip(*found, strict=True))
    return None


def _written(op: LinearOperator) -> tuple[Array, ...]:
    """The block's matrix; none if it is an inverse that is not as good as a solve."""
    if isinstance(op, DenseOperator):
        return (op._entries,)
    assert isinstance(op, InverseOperator) and isinstance(op.base, DenseOperator)
    written = op.base.written_inverse
    return () if written is None else (written,)


def _refined(op: LinearOperator) -> tuple[Array, ...]:
    """The matrix and its inverse; none if that is not how it is solved with."""
    assert isinstance(op, InverseOperator) and isinstance(op.base, DenseOperator)
    solver = op.base._solver
    return (solver.matrix, solver.inverted) if isinstance(solver, RefinedInverse) else ()
