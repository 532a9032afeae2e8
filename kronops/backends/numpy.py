"""NumPy: LAPACK by SciPy where the standard has no such factorisation, and numpy's array kinds."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse.linalg
from scipy.linalg.blas import get_blas_funcs
from scipy.linalg.lapack import get_lapack_funcs

from kronops.backends import pieces
from kronops.backends.blas import Blas
from kronops.backends.settings import current_settings, threads_for
from kronops.backends.standard import Array, Backend, Operand
from kronops.errors import LinAlgError
from kronops.planning import SMALL, Machine, Plan

__all__ = ["NumpyBackend"]

# LAPACK knows four dtypes. Half precision is computed in single and rounded back.
_LAPACK = {np.dtype(c): np.dtype(c) for c in "fdFD"} | {np.dtype(np.float16): np.dtype("f")}


# One core with 512-bit registers and 1 MiB of second-level cache, by benchmarks/kronecker.py. BLAS
# knows four dtypes; NumPy multiplies the others in plain loops.
_CORE = Machine(8, 5.5e10, 28e-9, 1e-6, 8, 1.6e11, 2.0e10, cache=2**19, merged=64, work=2**18)
_MACHINES = {
    np.dtype(np.float64): _CORE,
    np.dtype(np.float32): _CORE._replace(itemsize=4, flops=1.1e11, lanes=16),
    np.dtype(np.complex128): _CORE._replace(itemsize=16, flops=1.3e10, lanes=4),
    np.dtype(np.complex64): _CORE._replace(itemsize=8, flops=2.6e10, lanes=8),
}
_LOOPS = _CORE._replace(flops=1e9, lanes=1, work=0)

# Rows, outside of which LAPACK's inverse of a triangle is as fast as that by halves: for few these
# are small products, and for many they copy much into fresh memory.
_SMALL_TRIANGLE, _LARGE_TRIANGLE = 64, 2048
_WORTH_KERNELS = 2**14  # numbers in a vector: for fewer, Numba is not imported


class NumpyBackend(Backend):
    """`numpy.ndarray`, with SciPy's LAPACK.

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.backends import backend_of
    >>> backend_of(np.zeros(2))
    NumpyBackend('numpy')
    """

    tile = 128  # 128 KiB in double precision

    def __init__(self, name: str, xp: Any) -> None:
        super().__init__(name, np)  # NumPy itself follows the standard since 2.1

    def is_plain(self, array: Any, device: Any) -> bool:
        """A plain floating array in native byte order."""
        return type(array) is np.ndarray and array.dtype in _LAPACK

    def plain(self, array: Array, name: str) -> Array:
        """The array in native byte order; no masked and no object arrays."""
        if self.is_plain(array, "cpu"):
            return array
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array: fill it first (array.filled(value))")
        if array.dtype == object:
            raise TypeError(f"{name} has dtype object: convert it to a floating dtype first")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return array if type(array) is np.ndarray else np.asarray(array)

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """By the method, which costs a third of the function."""
        return array.reshape(shape)

    def snapshot(self, array: Array) -> Array:
        """A copy that nobody can write to."""
        copy = np.array(array, order="K")
        copy.flags.writeable = False
        return copy

    def same_device(self, array: Array, device: Any) -> bool:
        """Always: NumPy has one device."""
        return True

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """The array itself."""
        return np.asarray(array)

    # -- products with Kronecker factors -------------------------------------------------------

    def machine(self, dtype: Any, numbers: int) -> Machine:
        """One core's, and BLAS's with its threads; with kernels for vectors that are worth it."""
        machine = _MACHINES.get(np.dtype(dtype), _LOOPS)
        threads = current_settings().threads // threads_for(numbers)
        if machine.work and threads > 1:
            turning = Blas(machine.itemsize, machine.flops, threads)
            machine = machine._replace(turning=turning)
        if threads_for(numbers) == 1 and machine.work:
            # Not where BLAS would start threads matters then, but where it begins to copy.
            machine = machine._replace(work=SMALL)
        if numbers < _WORTH_KERNELS or current_settings().compiled is False:
            return machine
        kernels = _kernels()
        return machine._replace(kernels=kernels and kernels.KernelsOf(np.dtype(dtype)))

    def program(self, plan: Plan, operands: Sequence[Operand], given: Any, dtype: Any) -> Any:
        """As `kronops.backends.pieces` does it."""
        functions = [
            functools.partial(self.apply_operator, operand, view=sweep.view(step))
            if step.kind == "operator"
            else operand
            for operand, (sweep, step) in zip(operands, plan.steps, strict=True)
        ]
        return pieces.program(plan, functions, given, dtype)

    def segment_sum(self, values: Array, segments: Array, count: int) -> Array:
        """Sums of runs of the sorted rows."""
        order = np.argsort(segments, kind="stable")
        present, starts = np.unique(segments[order], return_index=True)
        sums = np.zeros((count, *values.shape[1:]), values.dtype)
        sums[present] = np.add.reduceat(values[order], starts, axis=0)
        return sums

    def cholesky(self, matrix: Array) -> Array:
        """LAPACK's ``potrf``."""
        return self._cholesky(matrix, self._lapack_dtype(matrix))

    def scaled_cholesky(self, matrix: Array, scale: Array) -> Array:
        """Of the upper triangle, row by row into memory that ``potrf`` takes as a lower one."""
        dtype = self._lapack_dtype(matrix)
        scale = scale.astype(dtype, copy=False)
        upper = np.zeros(matrix.shape, dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # of what is not definite
            for columns, rows in self.tiles(len(matrix)):
                tile = np.multiply(matrix[rows, columns], scale[rows, None], dtype=dtype)
                tile *= scale[columns]
                upper[rows, columns] = np.triu(tile) if rows == columns else tile
        return self._cholesky(self.adjoint(upper), dtype, own=True)

    def _cholesky(self, matrix: Array, dtype: Any, own: bool = False) -> Array:
        """Of a matrix that is ``own``, in place: its strict upper triangle is zero already."""
        if not matrix.size:
            return matrix
        (potrf,) = get_lapack_funcs(("potrf",), dtype=dtype)
        factor, info = potrf(matrix, lower=True, clean=not own, overwrite_a=own)
        # What is not finite in a row is not finite on its diagonal, a sum of squares.
        if info or not np.all(np.isfinite(np.diagonal(factor))):
            raise LinAlgError("the matrix is not positive definite")
        return factor

    def solve_triangular(
        self, matrix: Array, b: Array, *, lower: bool, adjoint: bool = False
    ) -> Array:
        """LAPACK's ``trtrs``."""
        matrix, b = _common(matrix, b)
        if not b.size:
            return np.array(b)
        (trtrs,) = get_lapack_funcs(("trtrs",), dtype=self._lapack_dtype(matrix))
        x, info = trtrs(matrix, b, lower=lower, trans=2 if adjoint else 0)
        if info:
            raise LinAlgError("the matrix is singular")
        return np.asarray(x, dtype=b.dtype)

    def cholesky_solve(self, lower: Array, b: Array) -> Array:
        """LAPACK's ``potrs``."""
        lower, b = _common(lower, b)
        if not b.size:
            return np.array(b)
        (potrs,) = get_lapack_funcs(("potrs",), dtype=self._lapack_dtype(lower))
        x, _ = potrs(lower, b, lower=True)
        return np.asarray(x, dtype=b.dtype)

    def cholesky_inverse(self, lower: Array, scale: Array, own: bool = False) -> Array:
        """``L⁻ᴴ L⁻¹``, of which ``lauum`` fills one triangle; scaled and mirrored tile by tile."""
        if not lower.size:
            return lower
        if not own:
            lower = np.array(lower, order="F")
        (lauum,) = get_lapack_funcs(("lauum",), dtype=self._lapack_dtype(lower))
        triangle, _ = lauum(_inverted(lower), lower=True, overwrite_c=True)
        made = self.adjoint(triangle)  # in C order, where what is read lies in the upper triangle
        for columns, rows in self.tiles(len(made)):
            tile = made[rows, columns]
            tile *= scale[rows, None]
            tile *= scale[columns]
            if rows == columns:
                tile = np.triu(tile)
                made[rows, columns] = tile + self.adjoint(np.triu(tile, 1))
            else:
                made[columns, rows] = self.adjoint_tile(tile)
        return made

    def shifted(self, matrix: Array, number: float) -> Array:
        """A copy, whose diagonal is written to: nothing else is as large."""
        made = np.array(matrix)
        made.flat[:: len(made) + 1] += number
        return made

    def adjoint_tile(self, tile: Array) -> Array:
        """Of a copy whose rows are not a power of two apart, which caches hold badly."""
        apart = np.empty((tile.shape[0], tile.shape[1] + 8), tile.dtype)[:, :-8]
        apart[...] = tile
        return self.adjoint(apart)

    def lu(self, matrix: Array) -> Any:
        """LAPACK's ``getrf``."""
        if not matrix.size:
            return matrix, np.zeros(0, dtype=np.intp)
        (getrf,) = get_lapack_funcs(("getrf",), dtype=self._lapack_dtype(matrix))
        factors, pivots, info = getrf(matrix)
        if info:
            raise LinAlgError("the matrix is singular")
        return factors, pivots

    def lu_solve(self, factors: Any, b: Array, *, adjoint: bool = False) -> Array:
        """LAPACK's ``getrs``."""
        matrix, b = _common(factors[0], b)
        if not b.size:
            return np.array(b)
        (getrs,) = get_lapack_funcs(("getrs",), dtype=self._lapack_dtype(matrix))
        # SciPy's wrapper writes to the pivots while it runs: threads must not share them.
        x, _ = getrs(matrix, factors[1].copy(), b, trans=2 if adjoint else 0)
        return np.asarray(x, dtype=b.dtype)

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """Read off the triangle; each row exchange changes the sign."""
        diagonal = np.diagonal(factors[0])
        exchanges = int(np.count_nonzero(factors[1] != np.arange(diagonal.size)))
        magnitudes = np.abs(diagonal)
        sign = np.prod(diagonal / magnitudes) * (-1) ** (exchanges % 2)
        return np.asarray(sign), np.asarray(np.sum(np.log(magnitudes)))

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """NumPy's, which works in double precision and rounds to single."""
        dtype = self._lapack_dtype(matrix)
        values, vectors = np.linalg.eigh(matrix.astype(dtype, copy=False))
        return (
            values.astype(self.real_dtype(matrix.dtype), copy=False),
            vectors.astype(matrix.dtype, copy=False),
        )

    def solver_library(self) -> Any:
        """`scipy.sparse.linalg`."""
        return scipy.sparse.linalg

    def _lapack_dtype(self, matrix: Array) -> Any:
        try:
            return _LAPACK[matrix.dtype]
        except KeyError:
            raise TypeError(
                f"LAPACK has no factorisation in {matrix.dtype}: "
                f"use float32, float64, complex64 or complex128 (op.astype)"
            ) from None


@functools.cache
def _kernels() -> Any:
    """The module of compiled kernels, or None without Numba."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module("kronops.backends.kernels")


def _inverted(lower: Array) -> Array:
    """A triangle in columns, in its own memory: its inverse.

    By halves nearly all of it is products, which take half as long as OpenBLAS' ``trtri``.
    """
    half = len(lower) // 2
    if not _SMALL_TRIANGLE < len(lower) < _LARGE_TRIANGLE:
        (trtri,) = get_lapack_funcs(("trtri",), dtype=lower.dtype)
        return trtri(lower, lower=True, overwrite_c=True)[0]
    first, last, corner = lower[:half, :half], lower[half:, half:], lower[half:, :half]
    first[...], last[...] = _inverted(first), _inverted(last)
    (trmm,) = get_blas_funcs(("trmm",), dtype=lower.dtype)
    product = trmm(-1.0, first, corner, side=True, lower=True)
    corner[...] = trmm(1.0, last, product, lower=True, overwrite_b=True)
    return lower


def _common(matrix: Array, b: Array) -> tuple[Array, Array]:
    """Both in one dtype: LAPACK's wrappers would silently round ``b`` to that of the matrix."""
    dtype = np.result_type(matrix, b)
    return matrix.astype(dtype, copy=False), b.astype(dtype, copy=False)
