"""What kronops raises and warns, beside Python's own ``ValueError``, ``TypeError`` and so on."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

__all__ = ["DensificationWarning", "LinAlgError", "LinAlgWarning"]


class LinAlgError(np.linalg.LinAlgError, RuntimeError):
    """A matrix is singular, indefinite, or otherwise has no answer to what was asked of it.

    It is a `numpy.linalg.LinAlgError` (as NumPy and SciPy raise) and a `RuntimeError` (as PyTorch
    raises), so code that was written for either catches it.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> try:
    ...     kronops.kron(np.ones((2, 2)), np.eye(3)).solve(np.ones(6))
    ... except np.linalg.LinAlgError as error:
    ...     print(error)
    factors[0] (2 x 2) is singular: add damping
    """


class LinAlgWarning(RuntimeWarning):
    """An answer was computed, but the condition number leaves few or no digits of it.

    Examples
    --------
    >>> import numpy as np, kronops, warnings
    >>> near = kronops.DenseOperator(np.array([[1.0, 1.0], [1.0, 1.0 + 1e-15]]))
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = near.solve(np.ones(2))
    >>> caught[0].category.__name__
    'LinAlgWarning'
    """


class DensificationWarning(UserWarning):
    """No identity gives the answer from structure, so the operator was written out as a matrix.

    The answer is exact all the same; time and memory are those of a dense matrix. Above
    `LinearOperator.to_dense`'s ``limit`` it is an error instead.

    Examples
    --------
    >>> import numpy as np, kronops, warnings
    >>> a, b = np.diag([1.0, 2.0]) + 0.1, np.diag([1.0, 2.0]) + 0.2
    >>> noise = kronops.DiagonalOperator(np.array([1.0, 2.0, 3.0, 4.0]))
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     _ = (kronops.kron(a, b) + noise).logdet()
    >>> caught[0].category.__name__
    'DensificationWarning'
    """


_PACKAGE = str(Path(__file__).parent)


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the caller's code that called into kronops."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
