"""Eigenvalues that are estimated in the eigenbasis of Kronecker factors (EKFAC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.batches import as_batch
from kronops.kfac.moving_average import Arrays, MovingAverage

__all__ = ["Eigenvalues"]


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """The averaged squares of gradients, and the basis in which they were squared.

    Parameters
    ----------
    bases : dict of str to array
        Eigenvectors of each full factor, or a stack of those of each group. A diagonal factor has
        the standard basis and no entry.
    moments : MovingAverage or None
        The version of the moments that the bases diagonalise; None: one that is gone.
    average : MovingAverage
        The squares, in the shape of the weights.
    """

    bases: Arrays
    moments: MovingAverage | None
    average: MovingAverage = field(default=MovingAverage())

    @staticmethod
    def of(moments: MovingAverage, factors: Arrays) -> Eigenvalues:
        """No squares yet, in the eigenbases of full ``factors``, values of ``moments``."""
        bases = {side: _eigenvectors(factor) for side, factor in factors.items()}
        return Eigenvalues(bases, moments)

    def of_group(self, group: int) -> Eigenvalues:
        """The bases of one group of a stack, to rotate with."""
        return Eigenvalues({side: basis[group, ...] for side, basis in self.bases.items()}, None)

    def rotate(self, side: str, x: Array) -> Array:
        """Vectors along the last axis of ``x``, in the basis of that side."""
        if side not in self.bases:
            return x
        basis = self.bases[side]
        return backend_of(x, basis).xp.matmul(x, basis)

    def merge(self, other: Eigenvalues) -> Eigenvalues | None:
        """The sum of both where the bases are the same to the last bit; None where they differ."""
        same = all(
            basis.shape == other.bases[side].shape
            and bool(backend_of(basis, other.bases[side]).xp.all(basis == other.bases[side]))
            for side, basis in self.bases.items()
        )
        return replace(self, average=self.average.merge(other.average)) if same else None

    def state(self, moments: MovingAverage) -> dict[str, Any]:
        """Copies of everything, and whether the basis is that of ``moments``."""
        copies = {
            f"basis.{side}": backend_of(basis).copy(basis) for side, basis in self.bases.items()
        }
        current = self.moments is moments
        return {**self.average.state("eigenvalues"), "basis.current": current, **copies}

    @staticmethod
    def from_state(
        state: Mapping[str, Any], moments: MovingAverage, sides: tuple[str, ...]
    ) -> Eigenvalues:
        """The eigenvalues that `state` was called on, with bases for these sides."""
        if not moments.totals:
            raise ValueError("state has eigenvalues, but not the moments that they belong to")
        bases = {}
        for side in sides:
            (basis,) = as_batch(**{f"basis.{side}": state[f"basis.{side}"]})
            bases[side] = backend_of(basis).copy(basis)
        current = moments if state["basis.current"] else None
        average = MovingAverage.from_state(state, "eigenvalues", ("eigenvalues",))
        return Eigenvalues(bases, current, average)


def _eigenvectors(factor: Array) -> Array:
    """Of a symmetric matrix, or of each in a stack."""
    backend = backend_of(factor)
    if factor.ndim == 2:
        return backend.eigh(factor)[1]
    groups = [backend.eigh(factor[group, ...])[1] for group in range(factor.shape[0])]
    return backend.xp.stack(groups)
