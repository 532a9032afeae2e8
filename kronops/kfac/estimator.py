"""What all estimators of curvature statistics have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.files import register_savable
from kronops.kfac.batches import as_choice
from kronops.kfac.diagnostics import BlockDiagnostics, Spectrum, diagnose, spectrum_of
from kronops.kfac.eigenvalues import Eigenvalues
from kronops.kfac.moving_average import Arrays, MovingAverage
from kronops.kfac.states import brought, check_attributes, check_symmetric
from kronops.operator import LinearOperator
from kronops.scalars import as_nonnegative, as_scalar

__all__ = ["Estimator"]

Batch = tuple[Any, ...]
Pi = str | float
Build = Callable[[Arrays, int], Any]


@dataclass(eq=False, kw_only=True)
class Estimator(ABC):
    """Moving averages of the statistics of one layer, and the curvature operator made of them.

    An author writes `_names`, `_statistics`, `_read` and `_undamped`; `_damped` too where damping
    is more than ``operator.damped(damping)``. Settings are fields of the dataclass: `repr` shows
    them, and merging and loading compare them.

    Parameters
    ----------
    debias : bool
        Whether averages are read out divided by their total weight.
    layout : {"in,out", "out,in"}
        Which axis of the weights comes first, and so which factor of the operator.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.kfac import Estimator
    >>> class BiasLayer(Estimator):
    ...     '''Mean squares of the output gradients.'''
    ...     _names = ("output_gradients",)
    ...     def _statistics(self, batch):
    ...         return {"output_gradients": (batch[1] ** 2).mean(axis=0)}, 1
    ...     def _read(self, values):
    ...         return values["output_gradients"]
    ...     def _undamped(self, values, repeats):
    ...         return kronops.DiagonalOperator(self._read(values))
    >>> layer = BiasLayer()
    >>> layer.update(np.zeros((2, 1)), np.array([[1.0], [3.0]]))
    >>> layer.operator(damping=1.0).diagonal()
    array([6.])
    """

    debias: bool = True
    layout: str = "in,out"
    _average: MovingAverage = field(default=MovingAverage(), init=False, repr=False)
    _eigenvalues: Eigenvalues | None = field(default=None, init=False, repr=False)
    _cache: dict[str, tuple[object, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        as_choice(self.debias, "debias", (False, True))
        as_choice(self.layout, "layout", ("in,out", "out,in"))

    # -- what an author writes -----------------------------------------------------------------

    @property
    @abstractmethod
    def _names(self) -> tuple[str, ...]:
        """The statistics, named after the arguments that they are made of: errors show them."""

    @property
    def _rotated(self) -> tuple[str, ...]:
        """The statistics in whose eigenbasis `update_eigenvalues` squares."""
        return ()

    @abstractmethod
    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        """The statistics of one batch, not yet averaged, and the layer's uses in each example."""

    @abstractmethod
    def _read(self, values: Arrays) -> Any:
        """`moments` from the averaged statistics."""

    @abstractmethod
    def _undamped(self, values: Arrays, repeats: int) -> Any:
        """The operator from the averaged statistics and the number of uses."""

    def _damped(self, operator: Any, damping: float, method: str, pi: Pi) -> Any:
        """``operator`` with a damping that has been checked, ``pi`` for its first factor."""
        return operator.damped(damping)

    def _arguments(self, value: Any) -> Batch:
        """What `Curvature` was given for this layer: the first arguments of `update`."""
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(
                f"batch is a {type(value).__name__}: a pair (inputs, output_gradients) is needed"
            )
        return tuple(value)

    # -- what users call -----------------------------------------------------------------------

    def update(
        self,
        inputs: Array,
        output_gradients: Array,
        decay: float | None = None,
        weight: float = 1.0,
    ) -> None:
        """Take one batch in: ``total = decay · total + weight · new``.

        Parameters
        ----------
        inputs : array
            What the layer was given, for each example. Tensors with a graph of autograd are
            followed, and so keep the graphs of all batches: detach them if that is not meant.
        output_gradients : array
            Gradients of each example's own loss by what the layer gave. Several draws of them for
            the same inputs, along one more axis in front, are summed.
        decay : float, optional
            A finite number ≥ 0; None: nothing decays.
        weight : float
            A finite number ≥ 0.

        Raises
        ------
        ValueError
            Shapes do not fit each other or earlier updates; an empty batch; NaN or infinity.
        TypeError
            Not real arrays of one library on one device.
        """
        self._average = self._updated((inputs, output_gradients), decay, weight)

    def update_eigenvalues(
        self,
        inputs: Array,
        output_gradients: Array,
        decay: float | None = None,
        weight: float = 1.0,
    ) -> None:
        """Take one batch into the eigenvalues that ``operator(method="ekfac")`` uses [1]_.

        They are means over the examples of the squared gradient, summed over all uses first, in the
        eigenbasis of the moments. They belong to that basis: after another `update`, `operator`
        keeps to it until the next call of this, which begins anew in the basis of the moments as
        they are then. Arguments and errors are those of `update`.

        Only Kronecker factors have eigenvalues to correct. A diagonal or full moment is already
        exact in its own eigenbasis: nothing is done, and ``"ekfac"`` gives the same operator.

        References
        ----------
        .. [1] George, Laurent, Bouthillier, Ballas and Vincent, Fast approximate natural gradient
           descent in a Kronecker-factored eigenbasis, 2018. https://arxiv.org/abs/1806.03884
        """
        self._eigenvalues = self._updated_eigenvalues((inputs, output_gradients), decay, weight)

    @property
    def moments(self) -> Any:
        """The averages, as new arrays; `ValueError` before any update."""
        return self._read(self._average.value(self.debias))

    def operator(
        self, damping: float = 0.0, method: str = "factored", pi: Pi = "trace"
    ) -> LinearOperator:
        """The curvature block, an operator of `kronops`.

        The eigendecompositions of ``"exact"`` and ``"ekfac"`` serve all values of the damping, and
        are kept until the statistics change.

        Parameters
        ----------
        damping : float
            A finite number ``λ ≥ 0``.
        method : {"factored", "exact", "ekfac"}
            Where there are factors: each gets its share of ``λ``; their product gets ``λ``; the
            product with the eigenvalues of `update_eigenvalues` does. Elsewhere ``λ`` is added.
        pi : "trace" or float
            How factored damping is split: ``π√λ`` for the inputs, ``√λ/π`` for the gradients.

        Raises
        ------
        ValueError
            There are no statistics yet or their weight is 0; an argument is none of the above.
        """
        damping = as_nonnegative(damping, "damping")
        as_choice(method, "method", ("factored", "exact", "ekfac"))
        kept = self._kept(method)
        made: LinearOperator = self._damped(kept, damping, method, self._as_pi(pi))
        return made

    def damping_gap(self, damping: float, pi: Pi = "trace") -> float:
        """How far the factored damping is from the exact one, relative to what is exact.

        ``‖F_factored − F_exact‖_F / ‖F_exact‖_F``, which is 0 without factors and without damping,
        and does not know EKFAC's eigenvalues. With factors ``c · A ⊗ G`` that get ``s`` and ``t``
        the difference is ``c · (t A ⊗ I + s I ⊗ G)``, whose norm needs no more than the traces and
        norms of ``A`` and ``G``. A series is written out for it, with a `DensificationWarning`.

        Parameters
        ----------
        damping : float
            A finite number ``λ ≥ 0``.
        pi : "trace" or float
            How factored damping is split, as in `operator`.

        Raises
        ------
        ValueError
            As `operator`.

        Examples
        --------
        >>> import numpy as np
        >>> from kronops.kfac import DenseLayer
        >>> layer = DenseLayer()
        >>> layer.update(np.array([[1.0]]), np.array([[2.0]]))  # (1 + 0.5) · (4 + 2) and 4 + 1
        >>> layer.damping_gap(1.0)
        0.8
        """
        exact = self.operator(damping, "exact")
        gap = float((self.operator(damping, "factored", pi) - exact).norm())
        return gap / float(exact.norm()) if gap else 0.0

    def diagnostics(self, damping: float = 0.0, method: str = "exact") -> BlockDiagnostics:
        """Condition, ranks and extreme eigenvalues of the block, from its structure.

        Parameters
        ----------
        damping : float
            A finite number ``λ ≥ 0``, for the condition and the effective dimension.
        method : {"exact", "ekfac"}
            Whose eigenvalues: those of the factors' product, or of `update_eigenvalues`.

        Notes
        -----
        The eigenvalues are listed in host memory. Those of a series, which structure does not tell,
        are NaN; ``operator().eigh()`` writes its matrix out.

        Raises
        ------
        ValueError
            As `operator`.
        """
        damping = as_nonnegative(damping, "damping")
        as_choice(method, "method", ("exact", "ekfac"))
        operator = self._kept(method)
        return diagnose(operator.shape[0], self._spectrum_of(operator), damping)

    def merge(self, other: Self) -> Self:
        """A new estimator whose totals and weights are the sums of both; associative.

        The eigenvalues of `update_eigenvalues` are summed where both sides have them in the same
        bases, as copies of one estimator do that were fed with different batches. Else they would
        be those of some of the data, and are dropped: ``operator(method="ekfac")`` is an error
        until they are estimated again. With an estimator that was never updated nothing changes.

        Raises
        ------
        ValueError
            ``other`` has other settings or sizes.
        """
        if repr(other) != repr(self):
            raise ValueError(f"other is {other!r}: the same settings are needed, {self!r}")
        merged = copy.copy(self)
        merged._cache = {}
        merged._average = self._average.merge(other._average).checked()
        merged._eigenvalues = self._merged_eigenvalues(other)
        return merged

    def all_reduce(self, reduce: Callable[[Array], Any]) -> Self:
        """A new estimator of the data of all processes: what `merge` of all of theirs gives.

        All processes call it at the same time, after an update at least.

        Parameters
        ----------
        reduce : callable
            The collective of the array library or of MPI that sums an array over all processes, in
            place or by giving the sum: ``torch.distributed.all_reduce``, or ``comm.allreduce``. It
            is given copies, of each total and of the weight, and gives an array or None.

        Raises
        ------
        ValueError
            Nothing was estimated here yet. The other processes then wait as long as their
            collective does. Or ``reduce`` gave another shape or dtype.
        TypeError
            ``reduce`` gave what is neither an array nor None: a number, or a handle to wait for.

        Notes
        -----
        Eigenvalues of `update_eigenvalues` belong to bases of some of the data, and are dropped.

        Examples
        --------
        >>> import numpy as np
        >>> from kronops.kfac import GradientLayer
        >>> layer = GradientLayer()
        >>> layer.update(np.array([[3.0]]))
        >>> of_two = layer.all_reduce(lambda array: 2 * array)  # as if another had the same
        >>> of_two.moments, of_two.state_dict()["moments.weight"]
        (array([9.]), 2.0)
        """
        reduced = copy.copy(self)
        reduced._cache, reduced._eigenvalues = {}, None
        reduced._average = self._average.all_reduced(reduce).checked()
        return reduced

    def _merged_eigenvalues(self, other: Self) -> Eigenvalues | None:
        """Those of one side stand for it alone, unless the other has no data at all."""
        mine, theirs = self._eigenvalues, other._eigenvalues
        if mine and theirs:
            return mine.merge(theirs)
        alone, rest = (self, other) if mine else (other, self)
        return None if rest._average.totals else alone._eigenvalues

    def state_dict(self) -> dict[str, Any]:
        """All that was estimated: copies of arrays, Python numbers and strings."""
        known = self._eigenvalues
        eigenvalues = known.state(self._average) if known else {}
        return {"estimator": repr(self), **self._average.state("moments"), **eigenvalues}

    def load_state_dict(
        self, state: Mapping[str, Any], backend: str | None = None, device: Any = None
    ) -> None:
        """Take over what `state_dict` of an estimator with the same settings gave.

        Parameters
        ----------
        state : dict
        backend : str, optional
            The library that the arrays are brought to, by name (``"torch"``); as they are if not
            given.
        device : object, optional
            The device that they are brought to.

        Raises
        ------
        ValueError, TypeError
            The state is of other settings, or not whole; nothing was loaded.
        """
        self._adopt(self._loaded(brought(state, backend, device)))

    # -- inside ----------------------------------------------------------------------------------

    def _as_pi(self, pi: Pi) -> Pi:
        """``pi``, checked, for the factor that the layout puts first."""
        if isinstance(pi, str):
            as_choice(pi, "pi", ("trace",))
            return pi
        number = as_scalar(pi, "pi")
        if isinstance(number, complex) or number <= 0:
            raise ValueError(f'pi = {number}: "trace" or a real number > 0 is needed')
        return number if self.layout == "in,out" else 1.0 / number

    def _spectrum_of(self, operator: Any) -> Spectrum | None:
        """All eigenvalues; None where structure does not tell them."""
        return spectrum_of(operator)

    def _take(self, attribute: str, value: Any) -> None:
        """Take over what `_updated` or `_updated_eigenvalues` has made."""
        setattr(self, attribute, value)

    def _adopt(self, loaded: Any) -> None:
        """Take over what `_loaded` has made."""
        self.__dict__.update(loaded.__dict__)

    def _updated(self, batch: Batch, decay: float | None, weight: float) -> MovingAverage:
        statistics, repeats = self._statistics(batch)
        return self._average.update(statistics, repeats, decay, weight)

    def _updated_eigenvalues(
        self, batch: Batch, decay: float | None, weight: float
    ) -> Eigenvalues | None:
        """The next eigenvalues; None for blocks that have none to correct."""
        return None

    def _loaded(self, state: Mapping[str, Any]) -> Self:
        if not isinstance(state, Mapping):
            raise TypeError(f"state is a {type(state).__name__}: what state_dict gave is needed")
        if state.get("estimator") != repr(self):
            raise ValueError(
                f"state is of {state.get('estimator')}: the same settings are needed, {self!r}"
            )
        loaded = replace(self)
        try:
            loaded._average = MovingAverage.from_state(state, "moments", self._names)
            if "basis.current" in state:
                loaded._eigenvalues = Eigenvalues.from_state(
                    state, loaded._average, loaded._rotated
                )
        except KeyError as error:
            raise ValueError(f"state is not whole: {error} is missing") from error
        if unknown := state.keys() - loaded.state_dict().keys():
            raise ValueError(f"state has unknown entries: {', '.join(sorted(unknown))}")
        if loaded._average.totals and loaded._average.weight:
            check_symmetric(loaded._kept("exact"))
        return loaded

    def _kept(self, method: str) -> Any:
        """The undamped operator for ``method``."""
        return self._keep("moments", self._average, self._undamped)

    def _keep(self, name: str, average: MovingAverage, build: Build) -> Any:
        """``build(values, repeats)``, kept for this version of ``average``; not while tracing."""
        version, operator = self._cache.get(name, (None, None))
        if version is not average:
            values = average.value(self.debias)
            operator = build(values, average.repeats)
            if not any(backend_of(array).is_tracked(array) for array in values.values()):
                self._cache[name] = (average, operator)
        return operator


def _settings_and_state(estimator: Estimator) -> dict[str, Any]:
    known = {f.name for f in fields(estimator)}
    check_attributes(estimator, known, "declare them as fields, in a class made by @dataclass")
    settings = {f.name: getattr(estimator, f.name) for f in fields(estimator) if f.init}
    return {"settings": settings, "state": estimator.state_dict()}


def _from_settings_and_state(kind: type[Estimator], saved: dict[str, Any]) -> Estimator:
    estimator = kind(**saved["settings"])
    estimator.load_state_dict(saved["state"])
    return estimator


register_savable(Estimator, _settings_and_state, _from_settings_and_state)
