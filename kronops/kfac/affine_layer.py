"""Layers whose weights multiply their inputs: Kronecker, diagonal and full blocks, and EKFAC."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
)
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.batches import (
    append_one,
    as_choice,
    gradient_slabs,
    mean_square_gradient,
    second_moment,
)
from kronops.kfac.damping_gap import factored_gap
from kronops.kfac.eigenvalues import Eigenvalues
from kronops.kfac.estimator import Batch, Estimator, Pi
from kronops.kfac.gradient_moments import as_moment, as_operator, outer_moment
from kronops.kfac.moving_average import Arrays, check_library
from kronops.scalars import as_nonnegative

__all__ = ["AffineLayer"]

KINDS = ("full", "diagonal")
SIDES = ("inputs", "output_gradients")


@dataclass(eq=False)
class AffineLayer(Estimator):
    """A layer ``y = Wᵀ a``, whose gradients are ``Σ a gᵀ`` over the places where it is used.

    An author writes `_rows`, which brings inputs and output gradients together.

    Parameters
    ----------
    bias : bool
        Whether ``a`` ends in a constant 1, and the weights in a row for the bias.
    structure : {"kronecker", "diagonal", "full"} or pair of {"full", "diagonal"}
        ``n · A ⊗ G``, of which a pair says which factors are diagonal; or the diagonal, or all, of
        the second moment of the gradients.
    """

    bias: bool = False
    structure: str | tuple[str, str] = "kronecker"

    def __post_init__(self) -> None:
        super().__post_init__()
        as_choice(self.bias, "bias", (False, True))
        if isinstance(self.structure, list):
            self.structure = tuple(self.structure)
        pairs = tuple((left, right) for left in KINDS for right in KINDS)
        as_choice(self.structure, "structure", ("kronecker", "diagonal", "full", *pairs))

    @abstractmethod
    def _rows(self, inputs: Any, output_gradients: Any) -> tuple[Array, Array]:
        """``(uses, locations, B, in)`` and ``(draws, uses, locations, B, out)``, checked.

        Locations belong to one example and their gradients are summed first; uses are independent.
        """

    # -- moments -------------------------------------------------------------------------------

    @property
    def _names(self) -> tuple[str, ...]:
        return SIDES if self._kinds else ("gradients",)

    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        if self._kinds:
            return self._factors(*self._rows(*batch), self._kinds)
        a, g = self._augmented_rows(batch)
        examples = a.shape[2]
        if self.structure == "diagonal":
            return {"gradients": self._oriented(mean_square_gradient(a, g))}, 1
        slabs = (self._oriented(slab) for slab in gradient_slabs(a, g))
        return {"gradients": outer_moment(slabs, examples)}, 1

    def _factors(self, a: Array, g: Array, kinds: tuple[str, str]) -> tuple[Arrays, int]:
        """Means over all places where the layer is used, and how many each example has."""
        repeats = self._uses(a)
        count = repeats * a.shape[2]
        xp = backend_of(a).xp
        # The places of an example together, as most layers have them in memory.
        moments = (
            second_moment(xp.moveaxis(a, 2, 0), kinds[0], count, self.bias),
            second_moment(xp.moveaxis(g, 3, 1), kinds[1], count),
        )
        return dict(zip(SIDES, moments, strict=True)), repeats

    def _read(self, values: Arrays) -> Any:
        if self._kinds:
            return tuple(values[side] for side in SIDES)
        return as_moment(values["gradients"], str(self.structure))

    def _undamped(self, values: Arrays, repeats: int) -> Any:
        if not self._kinds:
            return as_operator(values["gradients"], str(self.structure), self.layout)
        factors = [
            DiagonalOperator(values[side], name=f"the moment of {side}")
            if kind == "diagonal"
            else DenseOperator.trusted(values[side], "symmetric", f"the moment of {side}")
            for side, kind in zip(SIDES, self._kinds, strict=True)
        ]
        return KroneckerOperator(self._ordered(factors), float(repeats), layout=self.layout)

    def _damped(self, operator: Any, damping: float, method: str, pi: Pi) -> Any:
        if not self._kinds or method != "factored":
            return operator.damped(damping)
        return operator.damped(damping / operator.scale, method, pi=pi)

    def damping_gap(self, damping: float, pi: Pi = "trace") -> float:  # noqa: D102
        operator = self._kept("exact")
        if not (self._kinds and isinstance(operator, KroneckerOperator)):
            return super().damping_gap(damping, pi)
        damping = as_nonnegative(damping, "damping")
        return factored_gap(operator, damping, self._as_pi(pi))

    # -- EKFAC -----------------------------------------------------------------------------------

    def _updated_eigenvalues(
        self, batch: Batch, decay: float | None, weight: float
    ) -> Eigenvalues | None:
        if not self._kinds:
            return None
        known = self._eigenvalues
        if known is None or known.moments is not self._average:
            values = self._average.value(self.debias)
            full = {side: values[side] for side in self._rotated}
            known = Eigenvalues.of(self._average, full)
        squares = {"eigenvalues": self._oriented(self._squares(batch, known))}
        return replace(known, average=known.average.update(squares, 1, decay, weight))

    def _squares(self, batch: Batch, known: Eigenvalues) -> Array:
        """Mean squares, ``(in, out)``, of the examples' gradients in the basis of ``known``."""
        return self._squares_of(*self._augmented_rows(batch), known)

    def _squares_of(self, a: Array, g: Array, known: Eigenvalues) -> Array:
        xp = backend_of(a).xp
        self._average.check_repeats(self._uses(a))
        a = self._rotate(known, "inputs", xp.reshape(a, (1, -1, *a.shape[2:])))
        g = self._rotate(
            known, "output_gradients", xp.reshape(g, (g.shape[0], 1, -1, *g.shape[3:]))
        )
        return mean_square_gradient(a, g)

    def _rotate(self, known: Eigenvalues, side: str, x: Array) -> Array:
        """Vectors along the last axis of ``x``, in the basis of that side."""
        total = self._average.totals[side]
        check_library(side, x, total)
        if x.shape[-1] != total.shape[-1]:
            raise ValueError(
                f"{side}: {x.shape[-1]} features, but {total.shape[-1]} in the moments, the bias "
                f"counted; an estimator keeps its sizes"
            )
        return known.rotate(side, x)

    def _uses(self, a: Array) -> int:
        """How many rows of the input moment each example has, from what `_rows` gives."""
        return int(a.shape[0] * a.shape[1])

    def _kept(self, method: str) -> Any:
        if method != "ekfac" or not self._kinds:
            return super()._kept(method)
        known = self._eigenvalues
        if known is None:
            raise ValueError(
                'method = "ekfac" needs eigenvalues: call update_eigenvalues first, or fit of a '
                'captured model with statistics="eigenvalues" (merge keeps those alone that both '
                "sides have in the same bases)"
            )

        def build(values: Arrays, repeats: int) -> Any:
            return self._eigen_operator(known.bases, values["eigenvalues"])

        return self._keep("eigenvalues", known.average, build)

    def _eigen_operator(self, bases: Arrays, eigenvalues: Array) -> Any:
        sizes = dict(zip(self._ordered(SIDES), eigenvalues.shape, strict=True))
        made = [
            bases[side] if side in bases else IdentityOperator(n, like=eigenvalues)
            for side, n in sizes.items()
        ]
        return KroneckerEigenOperator(made, eigenvalues, layout=self.layout)

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _kinds(self) -> tuple[str, str] | None:
        """Whether each Kronecker factor is full or diagonal; None where there are no factors."""
        if self.structure == "kronecker":
            return ("full", "full")
        return self.structure if isinstance(self.structure, tuple) else None

    @property
    def _rotated(self) -> tuple[str, ...]:
        kinds = zip(SIDES, self._kinds or (), strict=False)
        return tuple(side for side, kind in kinds if kind == "full")

    def _augmented_rows(self, batch: Batch) -> tuple[Array, Array]:
        a, g = self._rows(*batch)
        return append_one(a) if self.bias else a, g

    def _oriented(self, x: Array) -> Array:
        """``(..., in, out)`` in the layout of the weights."""
        return x if self.layout == "in,out" else backend_of(x).xp.matrix_transpose(x)

    def _ordered(self, pair: Any) -> list[Any]:
        return list(pair) if self.layout == "in,out" else list(pair)[::-1]
