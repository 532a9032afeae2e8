"""Layers whose outputs come in groups, each with inputs and curvature of its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.affine_layer import SIDES, AffineLayer
from kronops.kfac.batches import append_one, gradient_slabs, mean_square_gradient
from kronops.kfac.eigenvalues import Eigenvalues
from kronops.kfac.estimator import Batch, Pi
from kronops.kfac.gradient_moments import as_operator, outer_moment
from kronops.kfac.moving_average import Arrays
from kronops.operators.grouped import GroupedOperator

__all__ = ["GroupedLayer"]


@dataclass(eq=False)
class GroupedLayer(AffineLayer):
    """One Kronecker product for each group; factors are stacked along a leading axis.

    An author writes `_group_rows`, and `_grouped` where there may be no groups at all. The outputs
    of the groups stand side by side in the last axis of the weights.
    """

    @abstractmethod
    def _group_rows(self, inputs: Any, output_gradients: Any) -> list[tuple[Array, Array]]:
        """What `_rows` gives, for each group."""

    @property
    @abstractmethod
    def _grouped(self) -> bool:
        """Whether there is a leading axis of groups, of one group too."""

    @property
    def _vectors(self) -> str:
        """The layout of the operator's vectors."""
        return self.layout

    def _rows(self, inputs: Any, output_gradients: Any) -> tuple[Array, Array]:
        (rows,) = self._group_rows(inputs, output_gradients)
        return rows

    def _augmented_groups(self, batch: Batch) -> list[tuple[Array, Array]]:
        return [(append_one(a) if self.bias else a, g) for a, g in self._group_rows(*batch)]

    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        if not self._grouped:
            return super()._statistics(batch)
        if self._kinds:
            rows = self._group_rows(*batch)
            xp = backend_of(rows[0][0]).xp
            factors, repeats = zip(*(self._factors(*r, self._kinds) for r in rows), strict=True)
            return {s: xp.stack([factor[s] for factor in factors]) for s in SIDES}, repeats[0]
        groups = self._augmented_groups(batch)
        xp = backend_of(groups[0][0]).xp
        if self.structure == "diagonal":
            squares = xp.concat([mean_square_gradient(*rows) for rows in groups], axis=-1)
            return {"gradients": self._oriented(squares)}, 1
        side_by_side = zip(*(gradient_slabs(*rows) for rows in groups), strict=True)
        slabs = (self._oriented(xp.concat(slab, axis=-1)) for slab in side_by_side)
        return {"gradients": outer_moment(slabs, groups[0][0].shape[2])}, 1

    def _undamped(self, values: Arrays, repeats: int) -> Any:
        if not self._kinds:
            return as_operator(values["gradients"], str(self.structure), self._vectors)
        if not self._grouped:
            return super()._undamped(values, repeats)
        groups = range(values["inputs"].shape[0])
        of_group = super()._undamped
        blocks = [
            of_group({s: x[group, ...] for s, x in values.items()}, repeats) for group in groups
        ]
        return GroupedOperator.of(blocks, self._vectors)

    def _damped(self, operator: Any, damping: float, method: str, pi: Pi) -> Any:
        if not (self._grouped and self._kinds) or method != "factored":
            return super()._damped(operator, damping, method, pi)
        return operator.damped(damping / self._average.repeats, method, pi=pi)

    def _squares(self, batch: Batch, known: Eigenvalues) -> Array:
        if not self._grouped:
            return super()._squares(batch, known)
        groups, count = self._augmented_groups(batch), self._average.totals["inputs"].shape[0]
        if len(groups) != count:
            raise ValueError(
                f"inputs: {len(groups)} groups, but {count} in the moments; an estimator keeps its "
                f"sizes"
            )
        squares = [self._squares_of(*rows, known.of_group(i)) for i, rows in enumerate(groups)]
        return backend_of(*squares).xp.stack(squares)

    def _eigen_operator(self, bases: Arrays, eigenvalues: Array) -> Any:
        if not self._grouped:
            return super()._eigen_operator(bases, eigenvalues)
        of_group = super()._eigen_operator
        blocks = [
            of_group(
                {side: basis[group, ...] for side, basis in bases.items()}, eigenvalues[group, ...]
            )
            for group in range(eigenvalues.shape[0])
        ]
        return GroupedOperator.of(blocks, self._vectors)
