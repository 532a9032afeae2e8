"""Matrices that are constant along their diagonals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kronops import tree
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import as_vector
from kronops.columns import scaled_norm
from kronops.explaining import Account
from kronops.operator import LinearOperator
from kronops.operators.scaled import identity_multiple
from kronops.scalars import Scalar, is_real, real_if_real
from kronops.scaling import exponent, rescale

__all__ = ["ToeplitzOperator"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class ToeplitzOperator(LinearOperator):
    """``T`` with ``T[i, j] = column[i - j]``, or ``row[j - i]`` above the diagonal.

    A stationary covariance on a regular grid, or a convolution with zeros at the ends.

    Parameters
    ----------
    column : array, shape (m,)
        The first column.
    row : array, shape (n,), optional
        The first row, whose first entry is not looked at: that of ``column`` counts, as in
        `scipy.linalg.toeplitz`. None is the conjugate of ``column``.
    check_finite : bool
        Whether NaN and infinity are looked for.

    Raises
    ------
    ValueError
        Not one axis; NaN or infinite entries.
    TypeError
        Not arrays, or arrays of two libraries or devices.

    Notes
    -----
    A product is a convolution by fast Fourier transforms of length ``L``, the first power of two
    from ``m + n - 1`` on [1]_: ``O(L log L)`` flops, real ones for real data. It is accurate
    normwise, not entry by entry: an entry is off by at most about ``eps log₂ L ‖t‖ ‖x‖``, where
    ``t`` holds the ``m + n - 1`` entries. Data of very unlike sizes lose digits of small results,
    which ``DenseOperator(op.to_dense())`` would keep. Where a library has no transforms, products
    are those of the matrix.

    Sums, multiples and damping are Toeplitz again. Solves, determinants and powers write the
    matrix out, with a `DensificationWarning`: the fast recursions of Levinson and of Schur are
    stable for definite matrices alone.

    References
    ----------
    .. [1] Golub and Van Loan, Matrix Computations, 4th edition, 2013, section 4.8.2.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> op = kronops.ToeplitzOperator(np.array([4.0, 1.0, 0.0]), np.array([4.0, 2.0, 3.0]))
    >>> op.to_dense()
    array([[4., 2., 3.],
           [1., 4., 2.],
           [0., 1., 4.]])
    >>> op @ np.ones(3)
    array([9., 7., 5.])
    >>> kronops.kron(op, np.eye(2)).multiply(np.ones((3, 2)))
    array([[9., 9.],
           [7., 7.],
           [5., 5.]])
    """

    column: Array
    row: Array | None

    def __init__(self, column: Any, row: Any = None, *, check_finite: bool = True) -> None:
        object.__setattr__(self, "column", as_vector(column, "column", check_finite))
        line = None if row is None else as_vector(row, "row", check_finite)
        object.__setattr__(self, "row", line)
        self._check_one_home()

    @property
    def shape(self) -> tuple[int, int]:
        (m,) = self.column.shape
        (n,) = self.column.shape if self.row is None else self.row.shape
        return m, n

    @cached
    def hermitian(self) -> bool:
        """From structure, without a row, if what stands on the diagonal is seen to be real."""
        if self.row is not None:
            return False
        if not self._complex or not self.shape[0]:
            return True
        values = self.backend.values(self.column)
        return values is not None and complex(values[0]).imag == 0

    # -- products ------------------------------------------------------------------------------

    def _matmat(self, x: Array) -> Array:
        if not self._fast:
            return self.backend.xp.matmul(self._to_dense(), x)
        return self._convolved(x, -2)[..., : self.shape[0], :]

    def _apply_last(self, x: Array) -> Array:
        return (
            self._convolved(x, -1)[..., : self.shape[0]] if self._fast else super()._apply_last(x)
        )

    @property
    def _fast(self) -> bool:
        return hasattr(self.backend.xp, "fft") and 0 not in self.shape

    def _convolved(self, x: Array, axis: int) -> Array:
        """The circular convolution of which the product is the beginning."""
        xp = self.backend.xp
        dtype = xp.result_type(x.dtype, self.dtype)
        if 0 in x.shape:
            shape = list(x.shape)
            shape[axis] = self._period
            return xp.zeros(tuple(shape), dtype=dtype, device=self.device)
        forward, backward = self._transforms(dtype)
        spectrum = self._spectrum if dtype == self.dtype else self._spectrum_in(dtype)
        wide = self.backend.wide(xp.astype(x, dtype, copy=False))
        product = forward(wide, n=self._period, axis=axis)
        product = (spectrum if axis == -1 else spectrum[:, None]) * product
        made = backward(product, n=self._period, axis=axis) * float(self._period)
        return xp.astype(made, dtype, copy=False)

    def _transforms(self, dtype: Any) -> tuple[Any, Any]:
        fft = self.backend.xp.fft
        real = self.backend.kind(dtype) != "complex floating"
        return (fft.rfft, fft.irfft) if real else (fft.fft, fft.ifft)

    @property
    def _period(self) -> int:
        """The first power of two that holds all diagonals: dividing by it is exact."""
        return 1 << (sum(self.shape) - 2).bit_length()

    @cached
    def _spectrum(self) -> Array:
        return self._spectrum_in(self.dtype)

    def _spectrum_in(self, dtype: Any) -> Array:
        """That of the diagonals over the period, so that no product is larger than results are."""
        xp, (m, n) = self.backend.xp, self.shape
        diagonals = xp.astype(self._diagonals, dtype, copy=False)
        gap = xp.zeros((self._period - (m + n - 1),), dtype=dtype, device=self.device)
        circle = xp.concat([diagonals[n - 1 :], gap, diagonals[: n - 1]])
        forward, _ = self._transforms(dtype)
        return forward(self.backend.wide(circle / float(self._period)), n=self._period, axis=-1)

    # -- entries -------------------------------------------------------------------------------

    @property
    def _diagonals(self) -> Array:
        """The entries of all diagonals, from the upper right corner to the lower left."""
        xp = self.backend.xp
        row, column = self.backend.promote(self._first_row, self.column)
        return xp.concat([xp.flip(row[min(1, row.shape[0]) :]), column])

    @property
    def _first_row(self) -> Array:
        """The first row, but for its first entry."""
        return self.backend.conj(self.column) if self.row is None else self.row

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        xp = self.backend.xp
        places = rows[:, None] - columns + (self.shape[1] - 1)
        return xp.reshape(xp.take(self._diagonals, xp.reshape(places, (-1,))), places.shape)

    def _to_dense(self) -> Array:
        rows, columns = (self.backend.xp.arange(size, device=self.device) for size in self.shape)
        return self._submatrix(rows, columns)

    def _diagonal(self) -> Array:
        xp = self.backend.xp
        ones = xp.ones(self.shape[:1], dtype=self.dtype, device=self.device)
        return ones * self.column[: min(1, self.shape[0])]

    def _exponent(self) -> int:
        return exponent(self._diagonals)

    def _norm(self, ord: Any) -> Array:
        if ord != "fro" or 0 in self.shape:
            return super()._norm(ord)
        xp, (m, n) = self.backend.xp, self.shape
        dtype = self.backend.real_dtype(self.dtype)
        below = xp.arange(1 - n, m, dtype=dtype, device=self.device)
        lengths = xp.clip(below + n, None, m) - xp.clip(below, 0, None)
        return scaled_norm(xp, self._diagonals * xp.sqrt(lengths))

    # -- what is Toeplitz again ----------------------------------------------------------------

    def _adjoint(self) -> LinearOperator:
        if self.hermitian:
            return self
        return self._with(self.backend.conj(self._whole_row), self.backend.conj(self.column))

    def _transpose(self) -> LinearOperator:
        return self._with(self._whole_row, self.column)

    @property
    def _whole_row(self) -> Array:
        """The first row, whose first entry is that of the column."""
        if 0 in self.shape:
            return self._first_row
        corner, row = self.backend.promote(self.column[:1], self._first_row)
        return self.backend.xp.concat([corner, row[1:]])

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        scalar = real_if_real(scalar)
        column = rescale(self.column, [scalar])
        if self.row is None and is_real(scalar):
            return self._with(column, None)
        return self._with(column, rescale(self._first_row, [scalar]))

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        xp = self.backend.xp
        corner = xp.arange(self.shape[0], device=self.device) == 0
        return self._with(self.column + rescale(xp.astype(corner, self.dtype), [scalar]), self.row)

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        multiple = identity_multiple(other)
        if multiple is not None:
            return self._shifted(multiple)
        if not isinstance(other, ToeplitzOperator):
            return None
        column = self.column + other.column
        if self.row is None and other.row is None:
            return self._with(column, None)
        return self._with(column, self._first_row + other._first_row)

    def _account(self, operation: str, columns: int) -> Account:
        if operation != "multiply" or not self._fast:
            return super()._account(operation, columns)
        length = self._period
        transform = 5 * length * math.log2(max(length, 2)) / (1 if self._complex else 2)
        words = f"a circular convolution by Fourier transforms of length {length}"
        return Account(self, words, 2 * transform * columns, 4 * length * columns, transform)

    # -- inside --------------------------------------------------------------------------------

    def _with(self, column: Array, row: Array | None) -> ToeplitzOperator:
        """Other entries in the same places, made here and therefore not checked again."""
        made: ToeplitzOperator = tree.rebuild(ToeplitzOperator, {"column": column, "row": row})
        return made
