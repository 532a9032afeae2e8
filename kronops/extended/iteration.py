"""Iterative refinement, by residuals and solutions in more digits than a dtype has."""

from __future__ import annotations

import dataclasses

from kronops.checks import is_complex
from kronops.errors import LinAlgWarning, warn
from kronops.extended.expansions import Expansion, Precision, total
from kronops.extended.maps import LinearMap
from kronops.operator import LinearOperator

__all__ = ["CONVERGED", "OrdinaryMap", "RefinedMap", "relative_size"]

_STEPS = 40  # at most; each but the last halves the error at least
CONVERGED = 1e-8  # a correction of this relative size has shown that its like converge


@dataclasses.dataclass(frozen=True)
class OrdinaryMap:
    """The product of an operator in its own precision."""

    op: LinearOperator

    def __call__(self, x: Expansion) -> Expansion:
        xp, dtype, x = x.xp, self.op.dtype, x.normalised()
        given = x.leading
        if is_complex(given):
            dtype = xp.result_type(dtype, xp.complex64)
        made = self.op._matmat(xp.astype(given, dtype))
        wide = xp.astype(made, xp.result_type(made, given))
        return Expansion((wide,), x.exponent).normalised()


@dataclasses.dataclass(frozen=True)
class RefinedMap:
    """``x + M (b - A x)``, again and again, from ``x = M b``, until nothing changes [1]_.

    Parameters
    ----------
    product, rough : LinearMap
        ``A``, and ``M``, which is near its inverse.
    precision : Precision
    blind_steps : int
        How many steps are taken where nobody sees their sizes.

    References
    ----------
    .. [1] Demmel et al., Error bounds from extra-precise iterative refinement, ACM Trans. Math.
       Softw. 32, 2006. https://doi.org/10.1145/1141885.1141894
    """

    product: LinearMap
    rough: LinearMap
    precision: Precision
    blind_steps: int

    def __call__(self, x: Expansion) -> Expansion:
        made, sizes = self.run(x)
        if sizes and min(sizes) >= CONVERGED:
            warn(
                f"refine=True ends with a correction of {min(sizes):.0e} relative to the solution: "
                f"it may have more errors than 16 units of rounding",
                LinAlgWarning,
            )
        return made

    def run(self, b: Expansion) -> tuple[Expansion, list[float]]:
        """The solution, and the sizes of all corrections relative to it, where they are seen."""
        x, sizes = self.rough(b), []
        for step in range(1, _STEPS + 1):
            rest = total([b, -self.product(x)], self.precision.terms).normalised()
            correction = self.rough(rest)
            size = relative_size(correction, x)
            if size is not None:
                sizes.append(size)
                if len(sizes) > 1 and not size < sizes[-2] / 2:
                    break
            x = total([x, correction], self.precision.terms)
            if step >= self.blind_steps if size is None else size <= self.precision.rounding:
                break
        return x, sizes


def relative_size(correction: Expansion, x: Expansion) -> float | None:
    """The largest entry of any column over that of ``x``; None where nobody sees it."""
    xp = x.xp
    large = xp.max(xp.abs(x.leading), axis=0)
    ratio = xp.max(xp.abs(correction.at(x.exponent).leading), axis=0)
    ratio = ratio / xp.where(large == 0, xp.ones_like(large), large)
    seen = x.backend.values(ratio)
    return None if seen is None else float(xp.max(seen))
