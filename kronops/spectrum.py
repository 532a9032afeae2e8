"""Functions of eigenvalues, and what may be wrong with them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.checks import epsilon, finite_or_nan, is_complex
from kronops.errors import LinAlgError, LinAlgWarning, warn
from kronops.scalars import Scalar, is_real
from kronops.scaling import require_writable, rescale

__all__ = [
    "check_condition",
    "check_estimate",
    "check_sums",
    "exp",
    "extreme_sums",
    "in_range",
    "log",
    "power",
    "real",
    "reciprocal",
    "require_positive",
    "sums",
    "truncated_reciprocal",
    "warn_of",
]


def power(eigenvalues: Array, p: float, what: str) -> Array:
    """``eigenvalues ** p``; integers ``p`` for any, other ``p`` for non-negative eigenvalues.

    Eigenvalues that are negative by no more than rounding of the largest count as zero.

    Raises
    ------
    LinAlgError
        A negative eigenvalue with a fractional ``p``, or a zero one with a negative ``p``.
    """
    if p == 0:
        return backend_of(eigenvalues).xp.ones_like(eigenvalues)
    if float(p).is_integer():
        return (eigenvalues if p > 0 else reciprocal(eigenvalues, what)) ** abs(int(p))
    clipped = _clip_rounding(real(eigenvalues, what), p, what)
    return clipped**p if p > 0 else reciprocal(clipped, what) ** -p


def real(eigenvalues: Array, what: str) -> Array:
    """Eigenvalues as a real array; `LinAlgError`, or NaN where nobody can see it, if complex."""
    if not is_complex(eigenvalues):
        return eigenvalues
    backend = backend_of(eigenvalues)
    xp = backend.xp
    values = backend.values(eigenvalues)
    seen = eigenvalues if values is None else values
    beyond_rounding = xp.any(xp.abs(xp.imag(seen)) > 10 * epsilon(seen) * xp.abs(seen))
    if values is None:
        return xp.where(beyond_rounding, math.nan, xp.real(eigenvalues))
    if bool(beyond_rounding):
        raise LinAlgError(f"{what} has complex eigenvalues: it is not Hermitian")
    return xp.real(eigenvalues)


def reciprocal(eigenvalues: Array, what: str) -> Array:
    """``1 / eigenvalues``; `LinAlgError`, or NaN where nobody can see it, if one is zero."""
    backend = backend_of(eigenvalues)
    values = backend.values(eigenvalues)
    if values is None:
        return 1.0 / backend.xp.where(eigenvalues == 0, math.nan, finite_or_nan(eigenvalues))
    if bool(backend.xp.any(values == 0)):
        raise LinAlgError(f"{what} is singular (a zero eigenvalue): add damping")
    return 1.0 / eigenvalues


def exp(eigenvalues: Array, what: str) -> Array:
    """The exponentials; `OverflowError` where one is out of range."""
    backend = backend_of(eigenvalues)
    xp, values = backend.xp, backend.values(eigenvalues)
    if values is not None and 0 not in values.shape:
        largest = float(xp.max(xp.real(values) if is_complex(values) else values))
        if largest > math.log(float(xp.finfo(values.dtype).max)):
            raise OverflowError(
                f"{what} has an eigenvalue of real part {largest:.4g}, whose exponential is out of "
                f"the range of {values.dtype}"
            )
    return xp.exp(finite_or_nan(eigenvalues))


def in_range(eigenvalues: Array, what: str) -> Array:
    """``eigenvalues``; `OverflowError` where one is out of the range of its dtype."""
    backend = backend_of(eigenvalues)
    values = backend.values(eigenvalues)
    if values is not None and not backend.all_finite(values):
        raise OverflowError(
            f"{what} has eigenvalues out of the range of {eigenvalues.dtype}: scale its factors"
        )
    return eigenvalues


def log(eigenvalues: Array, what: str) -> Array:
    """The logarithms; `LinAlgError`, or NaN where nobody can see it, if one has none that is real.

    Examples
    --------
    >>> import numpy as np
    >>> log(np.array([1.0, np.e]), "the operator")
    array([0., 1.])
    """
    positive = require_positive(real(eigenvalues, what), what)
    return backend_of(positive).xp.log(positive)


def truncated_reciprocal(values: Array, cutoff: Array) -> Array:
    """``1 / values``; zero where the magnitude is no more than ``cutoff``.

    Examples
    --------
    >>> import numpy as np
    >>> truncated_reciprocal(np.array([2.0, -4.0, 1e-20, 0.0]), 1e-15)
    array([ 0.5 , -0.25,  0.  ,  0.  ])
    """
    xp = backend_of(values).xp
    values = finite_or_nan(values)
    small = xp.abs(values) <= cutoff
    return xp.where(small, xp.zeros_like(values), 1 / xp.where(small, xp.ones_like(values), values))


def _clip_rounding(eigenvalues: Array, p: float, what: str) -> Array:
    backend = backend_of(eigenvalues)
    xp = backend.xp
    values = backend.values(eigenvalues)
    if values is not None and 0 not in values.shape:
        smallest = float(xp.min(values))
        rounding = max(values.shape) * epsilon(values) * float(xp.max(values))
        if smallest < -rounding:
            raise LinAlgError(
                f"{what} is indefinite (eigenvalue {smallest:.3g}): "
                f"power {p} needs eigenvalues that are not negative"
            )
    zero = xp.zeros_like(eigenvalues)
    if values is None and 0 not in eigenvalues.shape:
        rounding = max(eigenvalues.shape) * epsilon(eigenvalues) * xp.max(eigenvalues)
        zero = xp.where(xp.min(eigenvalues) < -rounding, math.nan, zero)
    return xp.where(eigenvalues < 0, zero, eigenvalues)


def require_positive(eigenvalues: Array, what: str) -> Array:
    """``eigenvalues``, all positive; `LinAlgError`, or NaN where nobody can see it, if not."""
    backend = backend_of(eigenvalues)
    xp, values = backend.xp, backend.values(eigenvalues)
    if values is None:
        return xp.where(xp.all(eigenvalues > 0), eigenvalues, math.nan)
    if bool(xp.any(values <= 0)):
        raise LinAlgError(f"{what} is not positive definite")
    return eigenvalues


def check_condition(eigenvalues: Array, computed: bool, what: str, refuse: bool = True) -> None:
    """Refuse a spectrum with a zero, warn of one whose ratio is near the unit of rounding.

    Eigenvalues that were ``computed`` are zero when rounding of the largest covers them. Without
    ``refuse`` zeros pass, as they do in a determinant: it is zero.
    """
    backend = backend_of(eigenvalues)
    values = backend.values(eigenvalues)
    if values is None or 0 in values.shape:
        return
    magnitude = backend.xp.abs(values)
    smallest, largest = float(backend.xp.min(magnitude)), float(backend.xp.max(magnitude))
    eps = epsilon(values)
    _judge(smallest, largest, eps / 4 if computed else 0.0, 10 * eps, what, refuse)


def check_sums(spectra: Sequence[Array], shift: Scalar, what: str, refuse: bool = True) -> None:
    """The same of the sums of one eigenvalue of each spectrum and ``shift``."""
    found = extreme_sums(spectra, shift)
    if found is not None:
        eps = max(map(epsilon, spectra))
        _judge(*found, 4 * eps, 40 * eps, what, refuse)


def extreme_sums(spectra: Sequence[Array], shift: Scalar) -> tuple[float, float] | None:
    """The smallest magnitude of a sum, and the largest of what is added; None if nobody sees them.

    Sums are judged against the largest parts that they are sums of, whose rounding they have: by
    the extreme sums alone where all are of one sign.
    """
    backend = backend_of(*spectra)
    seen = [backend.values(values) for values in spectra]
    shift = backend.values(shift) if is_array(shift) else shift
    if shift is None or any(values is None or 0 in values.shape for values in seen):
        return None
    xp = backend.xp
    largest = sum(float(xp.max(xp.abs(values))) for values in seen) + abs(complex(shift))
    smallest = 0.0
    if not any(map(is_complex, seen)) and is_real(shift):
        low = sum(float(xp.min(values)) for values in seen) + float(shift)
        high = sum(float(xp.max(values)) for values in seen) + float(shift)
        smallest = max(low, -high)
    if smallest <= 0:
        smallest = float(xp.min(xp.abs(sums(seen, shift))))
    return smallest, largest


def check_estimate(condition: float, eps: float, what: str) -> None:
    """The same of an estimate of the condition number."""
    _judge(1.0 if math.isfinite(condition) else 0.0, condition, eps, 10 * eps, what)


def sums(spectra: Sequence[Array], shift: Scalar = 0.0) -> Array:
    """``shift`` plus the sum of every choice of entries, flat, the last array's fastest.

    Examples
    --------
    >>> import numpy as np
    >>> sums([np.array([10.0, 20.0]), np.array([1.0, 2.0, 3.0])], 0.5)
    array([11.5, 12.5, 13.5, 21.5, 22.5, 23.5])
    """
    xp = backend_of(*spectra).xp
    require_writable(math.prod(values.shape[0] for values in spectra))
    total = rescale(xp.ones_like(spectra[0][:1]), [shift])
    for values in spectra:
        total = xp.reshape(total[:, None] + values, (-1,))
    return total


def _judge(
    smallest: float, largest: float, zero: float, small: float, what: str, refuse: bool = True
) -> None:
    """By the smallest magnitude over the largest: an error where it is ``zero``, or a warning."""
    if refuse and (smallest == 0 or smallest <= zero * largest):
        raise LinAlgError(f"{what} is singular (a zero eigenvalue): add damping")
    if 0 < smallest < small * largest:
        warn_of(largest / smallest, what)


def warn_of(condition: float, what: str) -> None:
    """Say that a condition number is near the reciprocal of the unit of rounding."""
    warn(
        f"{what} has condition number {condition:.1e}: "
        f"few or no digits of what is computed from it may be right",
        LinAlgWarning,
    )
