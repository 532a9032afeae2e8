"""The moving average of the statistics of one layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.kfac.batches import as_batch, as_count
from kronops.scalars import as_nonnegative

__all__ = ["Arrays", "MovingAverage", "check_library"]

Arrays = dict[str, Array]


@dataclass(frozen=True, eq=False)
class MovingAverage:
    """``total = decay · total + weight · new``, for several statistics that share one weight.

    Every change makes a new object, so that its identity is the version of the statistics.

    Parameters
    ----------
    totals : dict of str to array
        Weighted sums, each named after the argument that it is made of. Empty before any update.
    weight : float
        The sum of the weights, decayed in step with the totals.
    repeats : int
        How often each example uses the layer; the same in all updates.

    Examples
    --------
    >>> import numpy as np
    >>> average = MovingAverage().update({"x": np.array([4.0])}, decay=0.9, weight=0.5)
    >>> average.weight, average.totals["x"], average.value(debias=True)["x"]
    (0.5, array([2.]), array([4.]))
    """

    totals: Arrays = field(default_factory=dict)
    weight: float = 0.0
    repeats: int = 1

    def update(
        self, new: Arrays, repeats: int = 1, decay: float | None = None, weight: float = 1.0
    ) -> MovingAverage:
        """With the statistics of one more batch; ``decay=None`` is a decay of 1."""
        decay = 1.0 if decay is None else as_nonnegative(decay, "decay")
        weight = as_nonnegative(weight, "weight")
        decayed = {name: decay * total for name, total in self.totals.items()}
        weighted = {name: weight * array for name, array in new.items()}
        older = MovingAverage(decayed, decay * self.weight, self.repeats)
        return older.merge(MovingAverage(weighted, weight, repeats)).checked()

    def merge(self, other: MovingAverage) -> MovingAverage:
        """The sums of totals and weights."""
        if not (self.totals and other.totals):
            return self if self.totals else other
        self.check_repeats(other.repeats)
        for name, total in self.totals.items():
            _check_alike(name, total, other.totals[name])
        totals = {name: total + other.totals[name] for name, total in self.totals.items()}
        return MovingAverage(totals, self.weight + other.weight, self.repeats)

    def all_reduced(self, reduce: Callable[[Array], Any]) -> MovingAverage:
        """The sums over all processes, by a collective of theirs."""
        if not self.totals:
            raise ValueError("no statistics yet: all processes need some, call update first")
        totals = {name: _summed(reduce, total) for name, total in self.totals.items()}
        like = next(iter(totals.values()))
        backend = backend_of(like)
        weight = backend.from_numpy(np.array([self.weight]), backend.device(like))
        summed = float(backend.to_numpy(_summed(reduce, weight))[0])
        return MovingAverage(totals, summed, self.repeats)

    def check_repeats(self, repeats: int) -> None:
        """Refuse another number of uses."""
        if repeats != self.repeats:
            raise ValueError(
                f"inputs: {repeats} uses for each example, but {self.repeats} in the "
                f"statistics so far; an estimator has one number of uses"
            )

    def value(self, debias: bool) -> Arrays:
        """The totals, divided by the total weight if ``debias``; new arrays."""
        if not self.totals:
            raise ValueError("no statistics yet: call update first, or fit of a captured model")
        if debias and self.weight == 0.0:
            raise ValueError("the total weight is 0: update with a weight > 0 first")
        divisor = self.weight if debias else 1.0
        return {name: total / divisor for name, total in self.totals.items()}

    def state(self, prefix: str) -> dict[str, Any]:
        """Copies of everything, under names that begin with ``prefix``."""
        state: dict[str, Any] = {f"{prefix}.weight": self.weight, f"{prefix}.repeats": self.repeats}
        for name, total in self.totals.items():
            state[f"{prefix}.{name}"] = backend_of(total).copy(total)
        return state

    @staticmethod
    def from_state(state: Mapping[str, Any], prefix: str, names: Iterable[str]) -> MovingAverage:
        """The average that `state` was called on; `KeyError` where something is missing."""
        weight = as_nonnegative(state[f"{prefix}.weight"], f"{prefix}.weight")
        repeats = as_count(state[f"{prefix}.repeats"], f"{prefix}.repeats")
        keys = {f"{prefix}.{name}": name for name in names}
        if not any(key in state for key in keys):
            return MovingAverage({}, weight, repeats)
        arrays = as_batch(**{key: state[key] for key in keys})
        copies = [backend_of(array).copy(array) for array in arrays]
        totals = dict(zip(keys.values(), copies, strict=True))
        return MovingAverage(totals, weight, repeats).checked()

    def checked(self) -> MovingAverage:
        """The average itself, if all of it is finite where values can be seen."""
        for name, total in self.totals.items():
            backend = backend_of(total)
            values = backend.values(total)
            if values is not None and not backend.all_finite(values):
                raise ValueError(
                    f"{name}: the sum of second moments has NaN or infinite entries in "
                    f"{total.dtype}; finite values are needed, and nothing was updated"
                )
        if not math.isfinite(self.weight):
            raise OverflowError("the total weight is too large for a float: use smaller weights")
        return self


def check_library(name: str, array: Array, total: Array) -> None:
    """Refuse an array of another library than the statistics so far."""
    here, there = backend_of(total), backend_of(array)
    if there is not here:
        raise TypeError(
            f"{name}: an array of {there.name}, but the statistics so far are of {here.name}; "
            f"bring both to one library first"
        )


def _summed(reduce: Callable[[Array], Any], array: Array) -> Array:
    """What ``reduce`` gives for a copy, or has made of it."""
    copied = backend_of(array).copy(array)
    made = reduce(copied)
    if made is None:
        return copied
    if not is_array(made):
        raise TypeError(
            f"reduce gave a {type(made).__name__}: the sum as an array would do, or None where the "
            f"array that it is given becomes the sum"
        )
    if made.shape != array.shape or made.dtype != array.dtype:
        raise ValueError(
            f"reduce gave shape {tuple(made.shape)} in {made.dtype} for {tuple(array.shape)} in "
            f"{array.dtype}: the sum over all processes has the same of both"
        )
    return made


def _check_alike(name: str, total: Array, other: Array) -> None:
    check_library(name, other, total)
    backend = backend_of(total)
    if total.shape != other.shape:
        raise ValueError(
            f"{name}: a moment of shape {tuple(other.shape)}, but {tuple(total.shape)} in the "
            f"statistics so far; an estimator keeps its sizes"
        )
    if not backend.same_device(other, backend.device(total)):
        raise TypeError(
            f"{name}: on device {backend.device(other)}, but the statistics so far on "
            f"{backend.device(total)}; bring both to one device first"
        )
