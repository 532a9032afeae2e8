"""Dask: lazy arrays in chunks of another library, whose own functions work on the chunks.

Nothing here computes but `DaskBackend.to_numpy`. So no values are seen, and what is wrong with
them is an error, or NaN, when a result is computed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import dask
import dask.array as da
import numpy as np

from kronops.backends import backend_of
from kronops.backends.standard import Array, Backend

__all__ = ["DaskBackend"]


class DaskBackend(Backend):
    """`dask.array.Array`, in chunks of NumPy (or of another library with a backend).

    Examples
    --------
    >>> import dask.array as da
    >>> from kronops.backends import backend_of
    >>> backend_of(da.zeros(2))
    DaskBackend('dask')
    """

    def __init__(self, name: str, xp: Any) -> None:
        own: dict[str, Any] = {"eye": _eye, "matmul": _matmul, "reshape": _reshape, "take": _take}
        own_linalg: dict[str, Any] = {"matrix_norm": _matrix_norm}
        linalg = vars(xp.linalg) | own_linalg
        fft = {name: _transform(name) for name in ("fft", "ifft", "rfft", "irfft")}
        spaces = {"linalg": types.SimpleNamespace(**linalg), "fft": types.SimpleNamespace(**fft)}
        names = vars(xp) | own | spaces
        super().__init__(name, types.SimpleNamespace(**names))

    def values(self, array: Array) -> Array | None:
        """None: to see values is to compute them."""
        return None

    # -- what an array is ----------------------------------------------------------------------

    def plain(self, array: Array, name: str) -> Array:
        """The array, if its sizes are known and its chunks will do for their own library."""
        if any(math.isnan(size) for size in array.shape):
            raise ValueError(
                f"{name} has shape {array.shape}, with chunks of unknown size: "
                f"{name}.compute_chunk_sizes() finds them out, by computing"
            )
        chunk = self.chunk_backend(array).plain(array._meta, name)
        return array if chunk.dtype == array.dtype else array.astype(chunk.dtype)

    def same_device(self, array: Array, device: Any) -> bool:
        """Always: the scheduler knows where chunks are."""
        return True

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """The array computed."""
        return self.chunk_backend(array).to_numpy(array.compute())

    def all_to_numpy(self, arrays: Sequence[Array]) -> Sequence[np.ndarray[Any, Any]]:
        """The arrays computed, and what they have in common once."""
        pairs = zip(arrays, dask.compute(*arrays), strict=True)
        return [self.chunk_backend(array).to_numpy(values) for array, values in pairs]

    def from_numpy(self, array: np.ndarray[Any, Any], device: Any = None) -> Array:
        """The array in memory, in one chunk unless it is larger than Dask's chunks are."""
        with _first_if_large(array):  # or small ones are there, and begin, before large ones
            return da.from_array(array.copy())

    # -- arrays in chunks ----------------------------------------------------------------------

    def chunk_backend(self, array: Array) -> Backend:
        """The library of the chunks."""
        return backend_of(array._meta)

    def map_vectors(
        self,
        owner: Any,
        method: str,
        x: Array,
        axis: int,
        like: Array,
        by_parts: Callable[[Array], Array] | None = None,
    ) -> Array:
        """One task for each chunk of whole vectors; by parts where no chunk can hold a vector.

        Chunks stay as large as they are, about; those of a result of the same shape are the same.
        """
        if by_parts and x.numblocks[axis] > 1 and x.shape[axis] > math.prod(x.chunksize):
            made = by_parts(x)
        else:
            # A task of its own, so that workers keep the owner with all that it keeps.
            task = dask.delayed(owner, pure=True, traverse=False)
            made = _map_whole(x, axis, like.shape[axis], like, _call_method, task, method)
        return _rechunked(made, x.chunks) if made.shape == x.shape else made

    lazy = True

    def persist(self, parts: Sequence[Any], **options: Any) -> Sequence[Any]:
        """By one graph as it is: Dask's optimisation would forget which tasks go first."""
        made: Sequence[Any] = dask.persist(*parts, optimize_graph=False, **options)
        return made

    def deferred(self, factorise: Callable[[Array], Any], matrix: Array) -> DeferredFactorisation:
        """One task, of which others make solutions; large ones go first."""
        with _first_if_large(matrix):
            made = dask.delayed(factorise, pure=True)(_as_tasks(matrix))
        return DeferredFactorisation(self, made, matrix)

    def segment_sum(self, values: Array, segments: Array, count: int) -> Array:
        """The sum of those of the chunks."""
        shape = (count, *values.shape[1:])
        rows = values.rechunk(dict.fromkeys(range(1, values.ndim), -1))
        chunks = rows.to_delayed().ravel(), segments.rechunk(rows.chunks[:1]).to_delayed()
        task, meta = dask.delayed(_call, pure=True), _meta(values, shape, values.dtype)
        parts = [
            da.from_delayed(task("segment_sum", part, where, count), shape, meta=meta)
            for part, where in zip(*chunks, strict=True)
        ]
        return functools.reduce(operator.add, parts)

    # -- factorisations, of matrices brought into one chunk ------------------------------------

    def cholesky(self, matrix: Array) -> Array:
        """That of the chunks' library."""
        return _of_whole("cholesky", matrix, (matrix.shape, self.wide(matrix).dtype))[0]

    def lu(self, matrix: Array) -> Any:
        """That of the chunks' library: a matrix and pivots."""
        pivots = matrix.shape[:1], np.dtype(np.intp)
        return _of_whole("lu", matrix, (matrix.shape, self.wide(matrix).dtype), pivots)

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """That of the chunks' library."""
        dtype = factors[0].dtype
        sign, logabsdet = _of_whole("lu_slogdet", factors, ((), dtype), ((), _real(dtype)))
        return sign, logabsdet

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """That of the chunks' library."""
        spectrum = matrix.shape[:1], _real(matrix.dtype)
        values, vectors = _of_whole("eigh", matrix, spectrum, (matrix.shape, matrix.dtype))
        return values, vectors

    def qr(self, matrix: Array) -> tuple[Array, Array]:
        """That of the chunks' library."""
        (m, n), dtype = matrix.shape, matrix.dtype
        k = min(m, n)
        q, r = _of_whole("qr", matrix, ((m, k), dtype), ((k, n), dtype))
        return q, r

    def svd(self, matrix: Array) -> tuple[Array, Array, Array]:
        """That of the chunks' library."""
        (m, n), dtype = matrix.shape, matrix.dtype
        k = min(m, n)
        forms = ((m, k), dtype), ((k,), _real(dtype)), ((k, n), dtype)
        u, s, vh = _of_whole("svd", matrix, *forms)
        return u, s, vh

    def expm(self, matrix: Array) -> Array:
        """That of the chunks' library."""
        return _of_whole("expm", matrix, (matrix.shape, matrix.dtype))[0]

    def schur(self, matrix: Array) -> tuple[Array, Array]:
        """That of the chunks' library."""
        form = matrix.shape, np.result_type(matrix.dtype, np.complex64)
        triangle, basis = _of_whole("schur", matrix, form, form)
        return triangle, basis

    def solve_triangular(
        self, matrix: Array, b: Array, *, lower: bool, adjoint: bool = False
    ) -> Array:
        """That of the chunks' library, for each chunk of whole columns."""
        return _solve("solve_triangular", matrix, b, lower=lower, adjoint=adjoint)

    def cholesky_solve(self, lower: Array, b: Array) -> Array:
        """That of the chunks' library, for each chunk of whole columns."""
        return _solve("cholesky_solve", lower, b)

    def lu_solve(self, factors: Any, b: Array, *, adjoint: bool = False) -> Array:
        """That of the chunks' library, for each chunk of whole columns."""
        return _solve("lu_solve", factors, b, adjoint=adjoint)


@dataclasses.dataclass(frozen=True)
class DeferredFactorisation:
    """What a task makes of a matrix when its entries are there: `Backend.deferred`.

    Parameters
    ----------
    backend : DaskBackend
    made : dask.delayed.Delayed
        The factorisation.
    matrix : dask.array.Array
    adjoined : bool
        Whether it serves systems with the adjoint.
    """

    backend: Backend
    made: Any
    matrix: Array
    adjoined: bool = False
    definite = False  # nobody knows

    def adjoint(self) -> DeferredFactorisation:
        """For systems with the adjoint."""
        return dataclasses.replace(self, adjoined=not self.adjoined)

    def solve(self, b: Array) -> Array:
        """The solution for right-hand sides ``(n, k)``."""
        method = "_solve_adjoint" if self.adjoined else "_solve"
        return _map_columns(b, self.matrix, _call_method, self.made, method)

    def inverse(self) -> Array:
        """The inverse's matrix."""
        form = self.matrix.shape, self.matrix.dtype
        made = _parts_of(self._delayed("inverse_matrix"), self.matrix, form)[0]
        return self.backend.adjoint(made) if self.adjoined else made

    def slogdet(self) -> tuple[Array, Array]:
        """Sign and logarithm of the absolute determinant."""
        dtype = self.matrix.dtype
        forms = ((), dtype), ((), _real(dtype))
        sign, logabsdet = _parts_of(self._delayed("_slogdet"), self.matrix, *forms)
        return sign, logabsdet

    def _delayed(self, method: str) -> Any:
        return dask.delayed(_call_method, pure=True)(self.made, method)


# -- functions of the chunks' library ----------------------------------------------------------


def _of_whole(function: str, arrays: Any, *forms: Any, **options: Any) -> tuple[Array, ...]:
    """What a function gives for whole arrays: one chunk each, of known shapes and dtypes."""
    with _first_if_large(_first(arrays)):
        made = dask.delayed(_call, pure=True)(function, _as_tasks(arrays), **options)
    return _parts_of(made, _first(arrays), *forms)


def _first_if_large(matrix: Array) -> AbstractContextManager[Any]:
    """Tasks that take longest begin first: then workers end at about the same time."""
    operations = math.prod(matrix.shape) * min(matrix.shape) if matrix.ndim == 2 else 0
    made: AbstractContextManager[Any] = dask.annotate(priority=operations)
    return made


def _parts_of(made: Any, like: Array, *forms: Any) -> tuple[Array, ...]:
    """The array that a task makes, or the several, of known shapes and dtypes."""
    parts = [made] if len(forms) == 1 else [made[i] for i in range(len(forms))]
    return tuple(
        da.from_delayed(part, shape, meta=_meta(like, shape, dtype))
        for part, (shape, dtype) in zip(parts, forms, strict=True)
    )


def _solve(function: str, factors: Any, b: Array, **options: Any) -> Array:
    """``function(factors, columns)``, the factors whole, for each chunk of whole columns."""
    whole = dask.delayed(_as_they_are, pure=True)(_as_tasks(factors))
    return _map_columns(b, _first(factors), _call, function, whole, **options)


def _map_columns(b: Array, matrix: Array, function: Any, *arguments: Any, **options: Any) -> Array:
    """``function(*arguments, columns)`` for each chunk of whole columns, solved for a matrix."""
    like = _meta(b, b.shape, np.result_type(matrix.dtype, b.dtype))
    if b.shape[0] * b.chunksize[1] <= matrix.size:  # no more than the factor in one chunk is
        b = b.rechunk({0: -1})
    return _map_whole(b, 0, b.shape[0], like, function, *arguments, **options)


def _as_tasks(arrays: Any) -> Any:
    """The tasks of whole arrays. Given the arrays, `dask.delayed` would have all computed twice."""
    if isinstance(arrays, tuple):
        return tuple(map(_as_tasks, arrays))
    return arrays.rechunk(-1).to_delayed(optimize_graph=False).item()


def _as_they_are(arrays: Any) -> Any:
    """A task of its own: Dask fuses what it is given wrongly with what it is an argument of."""
    return arrays


def _map_whole(
    x: Array, axis: int, size: int, like: Array, function: Any, *arguments: Any, **options: Any
) -> Array:
    """``function(*arguments, chunk)`` of chunks with ``axis`` whole, which gets another size."""
    whole = _whole(x, axis)
    chunks = list(whole.chunks)
    chunks[axis] = (size,)
    meta = _meta(x, x.shape, like.dtype)
    return da.map_blocks(function, *arguments, whole, chunks=chunks, meta=meta, **options)


def _call(function: str, arrays: Any, *rest: Any, **options: Any) -> Any:
    """A method of the arrays' backend, or a function of its namespace for linear algebra."""
    backend = backend_of(_first(arrays))
    owner = backend if hasattr(backend, function) else backend.xp.linalg
    return getattr(owner, function)(arrays, *rest, **options)


def _call_method(owner: Any, method: str, *arguments: Any) -> Any:
    return getattr(owner, method)(*arguments)


def _first(arrays: Any) -> Array:
    return arrays[0] if isinstance(arrays, tuple) else arrays


def _real(dtype: Any) -> Any:
    return np.empty(0, dtype).real.dtype


def _meta(array: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """No entries, of the library of the array's chunks."""
    return backend_of(array._meta).xp.empty((0,) * len(shape), dtype=dtype)


# -- other chunks ------------------------------------------------------------------------------


def _whole(x: Array, axis: int) -> Array:
    """``x`` with ``axis`` in one chunk, and the others so that chunks stay about as large."""
    if x.numblocks[axis] == 1:
        return x
    return _rechunked(x, dict.fromkeys(range(x.ndim), "auto") | {axis % x.ndim: -1})


def _contiguous(x: Array) -> Array:
    """``x`` in chunks of entries that follow each other, as many as they hold now."""
    if not x.size:
        return x.rechunk(-1)
    chunks: list[int] = []
    entries = math.prod(x.chunksize)
    for size in reversed(x.shape):
        chunks.insert(0, min(size, max(entries, 1)))
        entries //= chunks[0]
    return _rechunked(x, tuple(chunks))


def _rechunked(x: Array, chunks: Any) -> Array:
    """``x`` in other chunks, without larger ones on the way."""
    largest = max(math.prod(x.chunksize), 1) * x.dtype.itemsize
    return x.rechunk(chunks, block_size_limit=largest)


# -- what Dask's namespace lacks or does otherwise ---------------------------------------------


def _eye(n: int, m: int | None = None, /, *, k: int = 0, dtype: Any, device: Any) -> Array:
    """From a square one: to wide ones Dask gives chunks that are not there."""
    columns = n if m is None else m
    return da.eye(max(n, columns), k=k, dtype=dtype)[:n, :columns]


def _matmul(a: Array, b: Array) -> Array:
    """Without partial sums, which are large, where one side has the inner axis whole."""
    if min(a.ndim, b.ndim) > 1:
        if a.numblocks[-1] == 1:
            b = _whole(b, -2)
        elif b.numblocks[-2] == 1:
            a = _whole(a, -1)
    return da.matmul(a, b)


def _reshape(x: Array, shape: Any) -> Array:
    """By way of a flat array where axes are not merged or split one by one."""
    if x.npartitions > 1:
        x = _contiguous(x)
    try:
        return da.reshape(x, shape)
    except NotImplementedError:  # Dask's, where several chunked axes merge or split at once
        return da.reshape(da.reshape(x, (-1,)), shape)


def _take(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    """From ``axis`` in one chunk. Dask's own warns of complex numbers without need."""
    axes, taken = list(range(x.ndim)), list(range(x.ndim))
    taken[axis] = x.ndim
    arguments = taken, x, axes, indices, [x.ndim]
    return da.blockwise(_take_chunk, *arguments, axis=axis, concatenate=True, meta=x._meta)


def _take_chunk(chunk: Array, indices: Array, axis: int) -> Array:
    return backend_of(chunk).xp.take(chunk, indices, axis=axis)


def _transform(name: str) -> Callable[..., Array]:
    """The function of `dask.array.fft`, on whole vectors."""

    def transform(x: Array, /, *, n: int, axis: int) -> Array:
        return getattr(da.fft, name)(_whole(x, axis), n=n, axis=axis)

    return transform


def _matrix_norm(matrix: Array, /, *, ord: Any = "fro") -> Array:
    return _of_whole("matrix_norm", matrix, ((), _real(matrix.dtype)), ord=ord)[0]
