"""Dask: lazy arrays in chunks of another library, whose own functions work on the chunks.

Nothing here computes but `DaskBackend.to_numpy`. So no values are seen, and what is wrong with
them is an error when a result is computed.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
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
    >>> import dask.array as da  # doctest: +SKIP
    >>> from kronops.backends import backend_of
    >>> backend_of(da.zeros(2))  # doctest: +SKIP
    DaskBackend('dask')
    """

    def __init__(self, name: str, xp: Any) -> None:
        linalg = vars(xp.linalg) | {"matrix_norm": _matrix_norm, "svd": _svd}
        own = {"eye": _eye, "matmul": _matmul, "reshape": _reshape, "take": _take}
        own["linalg"] = types.SimpleNamespace(**linalg)
        super().__init__(name, types.SimpleNamespace(**(vars(xp) | own)))

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

    def from_numpy(self, array: np.ndarray[Any, Any], device: Any = None) -> Array:
        """The array in memory, as one chunk."""
        return da.from_array(array.copy(), chunks=-1)

    # -- arrays in chunks ----------------------------------------------------------------------

    def chunk_backend(self, array: Array) -> Backend:
        """The library of the chunks."""
        return backend_of(array._meta)

    def map_vectors(
        self,
        method: Callable[[Array], Array],
        x: Array,
        axis: int,
        like: Array,
        by_parts: Callable[[Array], Array] | None = None,
    ) -> Array:
        """One task for each chunk of whole vectors; by parts where no chunk can hold a vector.

        Chunks stay about as large as they are; those of a result of the same shape are the same.
        """
        if by_parts and x.numblocks[axis] > 1 and x.shape[axis] > math.prod(x.chunksize):
            made = by_parts(x)
        else:
            operator = dask.delayed(method.__self__, pure=True, traverse=False)  # type: ignore[attr-defined]
            made = _map_whole(x, axis, like, _call_method, method.__name__, operator)
        return _rechunked(made, x.chunks) if made.shape == x.shape else made

    # -- factorisations, of matrices brought into one chunk ------------------------------------

    def cholesky(self, matrix: Array) -> Array:
        """That of the chunks' library."""
        return _of_whole("cholesky", matrix, self.wide(matrix))[0]

    def lu(self, matrix: Array) -> Any:
        """That of the chunks' library: a matrix and pivots."""
        pivots = da.zeros(matrix.shape[0], dtype=np.intp)
        return _of_whole("lu", matrix, self.wide(matrix), pivots)

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """That of the chunks' library."""
        one = da.ones((), dtype=factors[0].dtype)
        sign, logabsdet = _of_whole("lu_slogdet", factors, one, da.real(one))
        return sign, logabsdet

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """That of the chunks' library."""
        values, vectors = _of_whole("eigh", matrix, da.real(matrix[0]), matrix)
        return values, vectors

    def schur(self, matrix: Array) -> tuple[Array, Array]:
        """That of the chunks' library."""
        like = matrix.astype(np.result_type(matrix.dtype, np.complex64))
        triangle, basis = _of_whole("schur", matrix, like, like)
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


def _of_whole(function: str, arrays: Any, *likes: Array, **options: Any) -> tuple[Array, ...]:
    """What a function of the chunks' library gives for whole arrays, each in one chunk."""
    made = dask.delayed(_call, pure=True)(function, arrays, **options)
    parts = [made] if len(likes) == 1 else [made[i] for i in range(len(likes))]
    return tuple(
        da.from_delayed(part, like.shape, dtype=like.dtype, meta=like._meta)
        for part, like in zip(parts, likes, strict=True)
    )


def _solve(function: str, factors: Any, b: Array, **options: Any) -> Array:
    first = factors[0] if isinstance(factors, tuple) else factors
    like = b.astype(np.result_type(first.dtype, b.dtype))
    whole = dask.delayed(factors, pure=True)
    return _map_whole(b, 0, like, _call, function, whole, **options)


def _map_whole(
    x: Array, axis: int, like: Array, function: Callable[..., Array], *leading: Any, **options: Any
) -> Array:
    """``function(*leading, chunk)`` of chunks in which ``axis`` is whole and becomes ``like``'s."""
    whole = _whole(x, axis)
    chunks = list(whole.chunks)
    chunks[axis] = (like.shape[axis],)
    meta = getattr(like, "_meta", like)
    arguments = (*leading, whole)
    return da.map_blocks(
        function, *arguments, chunks=chunks, dtype=like.dtype, meta=meta, **options
    )


def _whole(x: Array, axis: int) -> Array:
    """``x`` with ``axis`` in one chunk, and the others so that chunks stay about as large."""
    if x.numblocks[axis] == 1:
        return x
    return _rechunked(x, dict.fromkeys(range(x.ndim), "auto") | {axis % x.ndim: -1})


def _rechunked(x: Array, chunks: Any) -> Array:
    """``x`` in other chunks, without larger ones on the way."""
    largest = max(math.prod(x.chunksize), 1) * x.dtype.itemsize
    return x.rechunk(chunks, block_size_limit=largest)


def _call(function: str, factors: Any, *rest: Any, **options: Any) -> Any:
    backend = backend_of(factors[0] if isinstance(factors, tuple) else factors)
    of_library = getattr(backend.xp.linalg, function, None)
    return getattr(backend, function, of_library)(factors, *rest, **options)


def _take_chunk(chunk: Array, indices: Array, axis: int) -> Array:
    return backend_of(chunk).xp.take(chunk, indices, axis=axis)


def _call_method(name: str, owner: Any, chunk: Array) -> Array:
    return getattr(owner, name)(chunk)


# -- what Dask's namespace does otherwise ------------------------------------------------------


def _eye(n: int, m: int | None = None, /, *, k: int = 0, dtype: Any, device: Any) -> Array:
    """From a square one: Dask gives wide ones chunks that are not there."""
    columns = n if m is None else m
    return da.eye(max(n, columns), k=k, dtype=dtype)[:n, :columns]


def _matmul(a: Array, b: Array) -> Array:
    """Without partial sums where one side has the inner axis whole: they would be large."""
    if min(a.ndim, b.ndim) > 1:
        if a.numblocks[-1] == 1:
            b = _whole(b, -2)
        elif b.numblocks[-2] == 1:
            a = _whole(a, -1)
    return da.matmul(a, b)


def _reshape(x: Array, shape: Any, copy: bool | None = None) -> Array:
    """By way of a flat array where axes are not merged or split one by one."""
    if x.npartitions > 1:
        x = _contiguous(x)
    try:
        return da.reshape(x, shape)
    except NotImplementedError:
        return da.reshape(da.reshape(x, (-1,)), shape)


def _matrix_norm(matrix: Array, /, *, ord: Any = "fro") -> Array:
    return _of_whole("matrix_norm", matrix, da.real(matrix[0, 0]), ord=ord)[0]


def _svd(matrix: Array, /, *, full_matrices: bool) -> tuple[Array, ...]:
    """Without `full_matrices` alone."""
    m, n = matrix.shape
    rank = min(m, n)
    likes = matrix[:, :rank], da.real(matrix[0, :rank]), matrix[:rank]
    return _of_whole("svd", matrix, *likes, full_matrices=full_matrices)


def _take(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    """From ``axis`` in one chunk. Dask's own warns of complex numbers without need."""
    axes, taken = list(range(x.ndim)), list(range(x.ndim))
    taken[axis] = x.ndim
    arguments = taken, x, axes, indices, [x.ndim]
    return da.blockwise(_take_chunk, *arguments, axis=axis, concatenate=True, meta=x._meta)


def _contiguous(x: Array) -> Array:
    """``x`` in chunks that hold entries which follow each other, as many as before."""
    if not x.size:
        return x.rechunk(-1)
    chunks: list[int] = []
    entries = math.prod(x.chunksize)
    for size in reversed(x.shape):
        chunks.insert(0, min(size, max(entries, 1)))
        entries //= chunks[0]
    return _rechunked(x, tuple(chunks))
