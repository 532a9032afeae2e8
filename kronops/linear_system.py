"""An operator as a linear system: what a backend needs to solve it and to differentiate that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kronops import tree
from kronops.backends import backend_of
from kronops.backends.standard import Array, Backend

if TYPE_CHECKING:
    from kronops.operator import LinearOperator

__all__ = ["System", "solve"]


def solve(op: LinearOperator, b: Array) -> Array:
    """``op⁻¹ b``, in the way of the library that ``b`` belongs to.

    Derivatives follow from the product with ``op``, as `Backend.linear_solve` says.
    """
    return backend_of(b).linear_solve(System(op, op._untracked), b)


@dataclasses.dataclass(frozen=True)
class System:
    """``op x = b``: a `kronops.backends.standard.LinearSystem`.

    Parameters
    ----------
    op : LinearOperator
        What the derivatives are of.
    twin : LinearOperator
        The same as plain values, where these can be seen: what is factorised.
    """

    op: LinearOperator
    twin: LinearOperator

    @property
    def backend(self) -> Backend:
        """The library of the operator's arrays."""
        return self.op.backend

    @property
    def arrays(self) -> list[Array]:
        """The floating arrays of the operator."""
        return [leaf for leaf in tree.leaves(self.op) if self._is_floating(leaf)]

    def with_arrays(self, arrays: Sequence[Array]) -> System:
        """The same operator made of other arrays; with the same twin, if that has been seen."""
        left = iter(arrays)
        made = tree.map_leaves(
            self.op, lambda leaf: next(left) if self._is_floating(leaf) else leaf
        )
        return System(made, made._untracked if self.twin._tracked else self.twin)

    def multiply(self, x: Array) -> Array:
        """The operator's product."""
        return self.op._matmat(x)

    def solve(self, b: Array) -> Array:
        """By the twin's factorisation, which is not differentiated."""
        return self.twin._solve(b)

    def transpose(self) -> System:
        """The system of the transpose."""
        own = self.twin.hermitian and not self.twin._complex
        return System(self.op.T, self.twin if own else self.twin.T)

    def _is_floating(self, leaf: Array) -> bool:
        return self.backend.kind(leaf.dtype).endswith("floating")
