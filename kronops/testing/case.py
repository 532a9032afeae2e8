"""What a law looks at: an operator, its matrix, and what both make of the same probes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from kronops import tree
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.errors import LinAlgError
from kronops.operator import LinearOperator

__all__ = ["Case", "raises"]

Matrix = np.ndarray[Any, Any]


class Case:
    """An operator, its matrix in NumPy, and probes of its own library.

    Parameters
    ----------
    op : LinearOperator
    matrix : array, optional
        The matrix that it should have; by default what ``op.to_dense()`` says.
    seed : int
        Of the random probes.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.testing import LAWS, Case
    >>> for law in LAWS:
    ...     law(Case(kronops.DiagonalOperator(np.array([1.0, 2.0]))))
    """

    def __init__(self, op: LinearOperator, matrix: Any = None, seed: int = 0) -> None:
        self.op = op
        self.backend = op.backend
        self.rng = np.random.default_rng(seed)
        made = self.numpy(op.to_dense())
        self.matrix: Matrix = made if matrix is None else np.asarray(matrix)
        self.m, self.n = self.matrix.shape
        self.eps = float(self.backend.xp.finfo(op.dtype).eps)
        self.tiny = float(self.backend.xp.finfo(op.dtype).smallest_normal)
        self.complex = self.backend.kind(op.dtype) == "complex floating"
        self.square = self.m == self.n
        with np.errstate(all="ignore"):
            self.condition = np.linalg.cond(self.matrix) if self.square and self.n else 1.0
        self.regular = self.square and self.condition < 0.01 / self.eps
        top = float(self.backend.xp.finfo(op.dtype).max) ** 0.3
        self.moderate = 1 / top < self.largest(self.matrix) < top
        adjoint = self.matrix.conj().T
        self.hermitian = self.square and bool(
            np.all(np.abs(self.matrix - adjoint) <= 10 * self.eps * self.largest(self.matrix))
        )

    def probe(self, *shape: int, complex_: bool | None = None) -> tuple[Array, Matrix]:
        """Random numbers as an array of the operator's library and as a NumPy array."""
        values = self.rng.standard_normal(shape)
        if self.complex if complex_ is None else complex_:
            values = values + 1j * self.rng.standard_normal(shape)
        array = self.array(values)
        return array, self.numpy(array)

    def array(self, values: Matrix) -> Array:
        """A NumPy array as one of the operator's library, in its precision and on its device."""
        xp = self.backend.xp
        if self.eps > 1e-12:  # some libraries have no double precision
            values = values.astype(np.complex64 if values.dtype.kind == "c" else np.float32)
        made = self.backend.from_numpy(values, self.op.device)
        complex_ = xp.result_type(self.op.dtype, xp.complex64)
        return xp.astype(made, complex_ if values.dtype.kind == "c" else self.op.dtype)

    def numpy(self, array: Array) -> Matrix:
        """An array of the operator's library as a double precision NumPy array."""
        assert backend_of(array) is self.backend, f"{type(array)} is not of {self.backend.name}"
        host = self.backend.to_numpy(array)
        return host.astype(np.complex128 if host.dtype.kind == "c" else np.float64)

    @staticmethod
    def largest(values: Matrix) -> float:
        """The largest magnitude."""
        return float(np.max(np.abs(values))) if values.size else 0.0

    def close(self, got: Array, want: Any, scale: float | None = None, factor: float = 1.0) -> None:
        """Equal up to rounding: ``20 eps (m + n)`` of the largest entry, times ``factor``.

        Numbers below the normal ones may be zero: some processors, and JAX on all, make them so.
        """
        got = self.numpy(got)
        want = np.asarray(want)
        assert got.shape == want.shape, f"shape {got.shape}, not {want.shape}"
        size = self.largest(want) if scale is None else scale
        allowed = factor * 20 * self.eps * (self.m + self.n + 1) * size
        error = max(self.largest(got - want) - 4 * self.tiny, 0.0)
        assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}"


def raises(kind: type[Exception], function: Callable[..., Any], *arguments: Any) -> str:
    """Assert that ``function(*arguments)`` raises ``kind``; its message.

    Where values cannot be seen, it may do so when they are computed, or they are NaN.
    """
    try:
        made = function(*arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, where the NaN is made
            for leaf in tree.leaves(made):
                backend = backend_of(leaf)
                unseen = backend.values(leaf) is None
                if unseen and kind is LinAlgError and np.any(np.isnan(backend.to_numpy(leaf))):
                    return "NaN"
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was not raised")
