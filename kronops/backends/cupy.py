"""CuPy: cuSOLVER and cuBLAS, with their failures seen, and CuPy's current device."""

from __future__ import annotations

from typing import Any

import cupy
import cupyx
import cupyx.scipy.linalg
import cupyx.scipy.sparse.linalg
import numpy as np

from kronops.backends.standard import Array, Backend
from kronops.errors import LinAlgError

__all__ = ["CupyBackend"]


class CupyBackend(Backend):
    """`cupy.ndarray`, on CuPy's current device.

    Examples
    --------
    >>> import cupy  # doctest: +SKIP
    >>> from kronops.backends import backend_of
    >>> backend_of(cupy.zeros(2))  # doctest: +SKIP
    CupyBackend('cupy')
    """

    # -- what an array is ----------------------------------------------------------------------

    def plain(self, array: Array, name: str) -> Array:
        """The array, if it is on the current device: elsewhere, CuPy would move the results."""
        current = cupy.cuda.runtime.getDevice()
        if array.device.id != current:
            raise TypeError(
                f"{name} is on device {array.device.id}, and CuPy computes on its current device, "
                f"{current}: do so within `with cupy.cuda.Device({array.device.id}):`"
            )
        return array

    def snapshot(self, array: Array) -> Array:
        """A copy on the array's own device."""
        with array.device:
            return array.copy()

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        host: np.ndarray[Any, Any] = cupy.asnumpy(array)
        return host

    # -- factorisations ------------------------------------------------------------------------

    def cholesky(self, matrix: Array) -> Array:
        """cuSOLVER's ``potrf``, in the layout that cuBLAS solves in."""
        with cupyx.errstate(linalg="raise"):  # else a failure is not looked at
            return cupy.asfortranarray(super().cholesky(matrix))

    def solve_triangular(
        self, matrix: Array, b: Array, *, lower: bool, adjoint: bool = False
    ) -> Array:
        """cuBLAS's ``trsm``."""
        matrix, b = self.promote(matrix, b)
        if not b.size:
            return b
        trans = "C" if adjoint else "N"
        return cupyx.scipy.linalg.solve_triangular(matrix, b, trans=trans, lower=lower)

    def lu(self, matrix: Array) -> Any:
        """cuSOLVER's ``getrf``."""
        if not matrix.size:
            return self.wide(matrix), cupy.empty(0, dtype=np.int32)
        try:
            factors, pivots = cupyx.scipy.linalg.lu_factor(self.wide(matrix), check_finite=False)
        except RuntimeWarning as warning:  # of a singular matrix, where warnings are made errors
            raise LinAlgError("the matrix is singular") from warning
        diagonal = cupy.diagonal(factors)
        if not bool(cupy.all(cupy.isfinite(diagonal) & (diagonal != 0))):
            raise LinAlgError("the matrix is singular")
        return factors, pivots

    def lu_solve(self, factors: Any, b: Array, *, adjoint: bool = False) -> Array:
        """cuSOLVER's ``getrs``."""
        matrix, b = self.promote(factors[0], b)
        if not b.size:
            return b
        trans = 2 if adjoint else 0
        return cupyx.scipy.linalg.lu_solve((matrix, factors[1]), b, trans=trans, check_finite=False)

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """Read off the triangle; each row exchange changes the sign."""
        matrix, pivots = factors
        diagonal = cupy.diagonal(matrix)
        exchanges = cupy.count_nonzero(pivots != cupy.arange(diagonal.size))
        magnitudes = cupy.abs(diagonal)
        sign = cupy.prod(diagonal / magnitudes) * (1 - 2 * (exchanges % 2))
        return sign.astype(matrix.dtype), cupy.sum(cupy.log(magnitudes))

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """cuSOLVER's ``syevd``; `LinAlgError` if it does not converge."""
        try:
            with cupyx.errstate(linalg="raise"):
                return super().eigh(matrix)
        except np.linalg.LinAlgError as error:
            raise LinAlgError("the eigenvalues did not converge") from error

    # -- the solver library that goes with the arrays ------------------------------------------

    def contiguous(self, array: Array) -> Array:
        """The array without gaps: cupyx's solvers hand vectors to cuBLAS as if they had none."""
        return cupy.ascontiguousarray(array)

    def solver_library(self) -> Any:
        """`cupyx.scipy.sparse.linalg`."""
        return cupyx.scipy.sparse.linalg
