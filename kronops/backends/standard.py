"""What kronops asks of an array library beyond the standard, answered by the standard alone.

Every method is right for any library that follows the Python Array API; a backend overrides the
ones that its library does faster or better. Matrices are 2-D, right-hand sides ``(n, k)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import array_api_compat
import numpy as np
import scipy.linalg

from kronops.errors import LinAlgError
from kronops.planning import Machine, Plan
from kronops.sharding import Layout, Mesh, ShardedPlan

__all__ = ["NO_DERIVATIVE", "Array", "Backend", "LinearSystem", "Operand"]

Array = Any
Operand = Any  # what a step of a product multiplies by: a matrix, a flat diagonal, an operator
Number = Callable[[Sequence[Array]], Array]
Gradients = Callable[[Sequence[Array]], Sequence[Array]]

NO_DERIVATIVE = (
    "a Schur form has no derivative, and a logdet by Schur forms no second one: claim what is "
    'symmetric, DenseOperator(matrix, "symmetric"), for eigenvectors instead'
)


class LinearSystem(Protocol):
    """What a backend must know of ``M x = b`` to solve it and to differentiate the solution."""

    @property
    def arrays(self) -> Sequence[Array]:
        """The floating arrays that ``M`` is made of."""

    def with_arrays(self, arrays: Sequence[Array]) -> LinearSystem:
        """The same system, made of arrays of the same values: of tracers, say."""

    def multiply(self, x: Array) -> Array:
        """``M x``, differentiable in ``x`` and in the arrays."""

    def solve(self, b: Array) -> Array:
        """``M⁻¹ b``, by factorisations that are kept where they may be."""

    def transpose(self) -> LinearSystem:
        """The system ``Mᵀ x = b``."""


class Backend:
    """An array library: its namespace ``xp`` and what the standard lacks.

    Parameters
    ----------
    name : str
        The library's name, as users import it.
    xp : module
        Its namespace, as `array_api_compat.array_namespace` gives it.

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.backends import backend_of
    >>> backend_of(np.zeros(2)).cholesky(np.eye(2) * 4.0)
    array([[2., 0.],
           [0., 2.]])
    """

    tile: int | None = None  # rows and columns whose passes stay in the cache; None: all at once
    tracks = False  # whether the library has traces or derivatives, which `is_tracked` finds

    def __init__(self, name: str, xp: Any) -> None:
        self.name = name
        self.xp = xp
        self._kinds: dict[Any, str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a backend stands for a library and is not pickled; pickle the arrays")

    # -- values, traces, derivatives -----------------------------------------------------------

    def values(self, array: Array) -> Array | None:
        """``array`` as plain numbers, for checks that steer the program.

        None where nobody can see them now: under a tracer, in a graph that is not evaluated yet.
        """
        return array

    def is_tracked(self, array: Array) -> bool:
        """Whether ``array`` is traced or differentiated: what is made of it is not kept."""
        return False

    def eager(self) -> AbstractContextManager[Any]:
        """A context in which arrays that are not tracked are computed with at once."""
        return contextlib.nullcontext()

    def is_compiling(self) -> bool:
        """Whether Python itself is being compiled, and must be as plain as can be."""
        return False

    def is_staging(self) -> bool:
        """Whether what is computed now is recorded, and loops are those of `while_loop`."""
        return False

    def while_loop(
        self,
        goes_on: Callable[[tuple[Array, ...]], Array],
        advance: Callable[[tuple[Array, ...]], tuple[Array, ...]],
        state: tuple[Array, ...],
    ) -> tuple[Array, ...]:
        """``state``, advanced as long as it ``goes_on``."""
        while goes_on(state):
            state = advance(state)
        return state

    def linear_solve(self, system: LinearSystem, b: Array) -> Array:
        """The solution of ``system`` for ``b`` ``(..., n, k)``, differentiable where others are.

        Derivatives come from products with the system, never from how it was factorised:
        ``dx = M⁻¹ (db − dM x)``, which knows nothing of eigenvalues, repeated or not.
        """
        return system.solve(b)

    def with_gradients(
        self, function: Number, gradients: Gradients, arrays: Sequence[Array]
    ) -> Array:
        """``function(arrays)``, a complex number that is holomorphic with known ``gradients``.

        Where derivatives are followed, ``d function = Σ gradient · darray`` without conjugates, and
        ``function`` itself is not looked into. Derivatives of derivatives are right, or an error.
        """
        return function(arrays)

    def register_container(self, kind: type, flatten: Any, unflatten: Any) -> None:
        """Let the library see the arrays in a kind of container, where it has such a notion."""

    # -- arrays in chunks ----------------------------------------------------------------------

    def chunk_backend(self, array: Array) -> Backend:
        """The library of the array's chunks: this one, where arrays are not in chunks."""
        return self

    def map_vectors(
        self,
        owner: Any,
        method: str,
        x: Array,
        axis: int,
        like: Array,
        by_parts: Callable[[Array], Array] | None = None,
    ) -> Array:
        """``owner.method(x)``, chunk by chunk, for a method that acts on vectors along ``axis``.

        Parameters
        ----------
        owner : object
            Never changes. The method is given arrays of `chunk_backend`.
        method : str
        x : array
        axis : int
            Negative.
        like : array of `chunk_backend`
            What the method gives for no vectors: its dtype, and its size along the axis.
        by_parts : callable, optional
            Gives the same for arrays of this library, whose chunks need not hold whole vectors.
        """
        return getattr(owner, method)(x)

    lazy = False  # whether arrays are graphs that `persist` computes

    def persist(self, parts: Sequence[Any], **options: Any) -> Sequence[Any]:
        """Lazy arrays and tasks computed, or under way, where the scheduler wants them."""
        return parts

    def deferred(self, factorise: Callable[[Array], Any], matrix: Array) -> Any | None:
        """``factorise(matrix)`` when its entries are there; None where there is no such time.

        Parameters
        ----------
        factorise : callable
            Is given the matrix as an array of `chunk_backend`. What it makes can be pickled, and
            has `_solve`, `_solve_adjoint`, `_slogdet` and `inverse_matrix`.
        matrix : array
        """
        return None

    # -- arrays split over devices ---------------------------------------------------------------

    shards = False  # whether the library has arrays that are split over several devices

    def sharding(self, array: Array) -> Any:
        """How the array is split over devices; None if it is not, or nobody knows."""
        return None

    def layout(self, array: Array) -> tuple[Mesh, Layout]:
        """The mesh that an array is split over, and how."""
        raise TypeError(f"{self.name} has no arrays that are split over devices")

    def multiply_planned(
        self,
        plan: ShardedPlan,
        operands: Sequence[Any],
        x: Array,
        result: tuple[tuple[int, ...], Layout],
        finish: Callable[[Array], Array],
        kept: dict[Any, Any],
    ) -> Array:
        """``x`` after a plan's steps, in the shape and layout ``result``.

        Parameters
        ----------
        plan : ShardedPlan
        operands : sequence
            For each task a Kronecker product of one factor, or a diagonal with the plan's axes.
        x : array
        result : pair
        finish : callable
            What is done in the end with every part of the product.
        kept : dict
            For programs.
        """
        raise TypeError(f"{self.name} has no arrays that are split over devices")

    def multiply_unplanned(
        self, function: Callable[[Any, Array], Array], op: Any, x: Array, kept: dict[Any, Any]
    ) -> Array:
        """``function(op, x)`` in the layout of ``x``, as the engine does it."""
        raise TypeError(f"{self.name} has no arrays that are split over devices")

    def split_along(self, array: Array, axis: int, like: Array) -> Array:
        """``array``, split along one axis alone, by all that splits ``like``."""
        raise TypeError(f"{self.name} has no arrays that are split over devices")

    def place_like(self, array: Array, like: Array) -> Array:
        """``array`` in the sharding of ``like``."""
        raise TypeError(f"{self.name} has no arrays that are split over devices")

    def whole(self, array: Array) -> Array:
        """The whole of an array on one device of this process."""
        return array

    # -- passes over large matrices ------------------------------------------------------------

    def bands(self, rows: int, columns: int) -> list[slice]:
        """Rows of a matrix that are looked at together, so that nothing as large as it is made."""
        return _pieces(rows, self.tile and max(1, self.tile**2 // max(columns, 1)))

    def tiles(self, n: int) -> list[tuple[slice, slice]]:
        """Rows and columns of tiles that hold the lower triangle of an ``n × n`` matrix."""
        pieces = _pieces(n, self.tile)
        return [(rows, columns) for i, rows in enumerate(pieces) for columns in pieces[: i + 1]]

    # -- what an array is ----------------------------------------------------------------------

    def kind(self, dtype: Any) -> str:
        """The standard's kind of a dtype: ``"real floating"``, ``"complex floating"``, …"""
        kind = self._kinds.get(dtype)
        if kind is None:
            kinds = ("real floating", "complex floating", "integral", "bool")
            kind = next((k for k in kinds if self.xp.isdtype(dtype, k)), "other")
            self._kinds[dtype] = kind
        return kind

    def floating_dtype(self, dtype: Any) -> Any:
        """The library's dtype that ``dtype`` is or names, in its own words or NumPy's; None: none.

        NumPy's are ``float``, ``"f4"``, ``np.float32`` and the like, whatever the library.
        """
        if dtype is None:  # which is float64 to NumPy
            return None
        own = getattr(self.xp, dtype, None) if isinstance(dtype, str) else None
        try:
            meant = getattr(self.xp, np.dtype(dtype).name, None)
        except (TypeError, ValueError):  # a dtype that NumPy does not know
            meant = dtype
        for name in (own, meant):
            with contextlib.suppress(TypeError, AttributeError):  # of a thing that is no dtype
                if name is not None and self.kind(name).endswith("floating"):
                    return name
        return None

    def real_dtype(self, dtype: Any) -> Any:
        """The dtype of the real part."""
        if self.kind(dtype) != "complex floating":
            return dtype
        return self.xp.real(self.xp.zeros((), dtype=dtype)).dtype

    def is_plain(self, array: Any, device: Any) -> bool:
        """Whether ``array`` surely needs no check beside the ``device``'s arrays: a short cut."""
        return False

    def plain(self, array: Array, name: str) -> Array:
        """``array`` itself, or a `TypeError` where the library's kind of array will not do."""
        return array

    def copy(self, array: Array) -> Array:
        """The same entries in memory of their own."""
        return self.xp.asarray(array, copy=True)

    def all_finite(self, values: Array) -> bool:
        """Whether no entry is NaN or infinite."""
        return bool(self.xp.all(self.xp.isfinite(values)))

    def reshape(self, array: Array, shape: tuple[int, ...]) -> Array:
        """``array`` in another shape."""
        return self.xp.reshape(array, shape)

    def contiguous(self, array: Array) -> Array:
        """``array`` without gaps in memory, where the library's solvers need it so."""
        return array

    def snapshot(self, array: Array) -> Array:
        """A copy which later writes to ``array`` do not reach."""
        return self.copy(array)

    def device(self, array: Array) -> Any:
        """The device that ``array`` lives on."""
        return array_api_compat.device(array)

    def same_device(self, array: Array, device: Any) -> bool:
        """Whether ``array`` lives on ``device``."""
        return bool(self.device(array) == device)

    def to_device(self, array: Array, device: Any) -> Array:
        """``array`` on ``device``."""
        return array_api_compat.to_device(array, device)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """``array`` as a NumPy array, copied from its device where need be."""
        return np.from_dlpack(array)

    def all_to_numpy(self, arrays: Sequence[Array]) -> Sequence[np.ndarray[Any, Any]]:
        """Several arrays, by one computation where they are lazy."""
        return [self.to_numpy(array) for array in arrays]

    def from_numpy(self, array: np.ndarray[Any, Any], device: Any = None) -> Array:
        """A NumPy array as an array of this library."""
        return self.xp.asarray(array.copy(), device=device)

    # -- sums of rows --------------------------------------------------------------------------

    def segment_sum(self, values: Array, segments: Array, count: int) -> Array:
        """``(count, …)``: row ``k`` is the sum of the rows of ``values`` whose segment is ``k``.

        The standard has no scatter. Here the rows are sorted, and each comes to hold the sum of 1,
        2, 4, … rows of its segment that follow it, so that nothing is ever subtracted.
        """
        xp = self.xp
        order = xp.argsort(segments)
        found, sums = xp.take(segments, order), xp.take(values, order, axis=0)
        rows, apart = values.shape[0], 1
        column = (-1,) + (1,) * (values.ndim - 1)
        while apart < rows:
            same = xp.reshape(found[:-apart] == found[apart:], column)
            added = xp.where(same, sums[apart:, ...], xp.zeros_like(sums[apart:, ...]))
            sums = xp.concat([sums[:-apart, ...] + added, sums[-apart:, ...]])
            apart *= 2
        wanted = xp.arange(count, dtype=found.dtype, device=self.device(found))
        first = xp.clip(xp.searchsorted(found, wanted), 0, rows - 1)
        present = xp.reshape(xp.take(found, first) == wanted, column)
        chosen = xp.take(sums, first, axis=0)
        return xp.where(present, chosen, xp.zeros_like(chosen))

    # -- factorisations ------------------------------------------------------------------------

    def cholesky(self, matrix: Array) -> Array:
        """Lower triangular ``L`` with ``L Lᴴ = matrix``; `LinAlgError` if not positive definite."""
        try:
            factor = self.xp.linalg.cholesky(self.wide(matrix))
        except (np.linalg.LinAlgError, RuntimeError) as error:
            raise LinAlgError("the matrix is not positive definite") from error
        values = self.values(factor)
        if values is not None and not self.all_finite(values):
            raise LinAlgError("the matrix is not positive definite")
        return factor

    def scaled_cholesky(self, matrix: Array, scale: Array) -> Array:
        """`cholesky` of ``diag(scale) M diag(scale)``, for ``M`` that is Hermitian to rounding."""
        part = 0.5 * matrix + 0.5 * self.adjoint(matrix)
        return self.cholesky(part * scale[:, None] * scale)

    def solve_triangular(
        self, matrix: Array, b: Array, *, lower: bool, adjoint: bool = False
    ) -> Array:
        """``matrix⁻¹ b``, or with ``adjoint`` ``matrix⁻ᴴ b``, of a triangular matrix."""
        xp = self.xp
        triangle = xp.tril(matrix) if lower else xp.triu(matrix)
        return xp.linalg.solve(self.adjoint(triangle) if adjoint else triangle, b)

    def cholesky_solve(self, lower: Array, b: Array) -> Array:
        """``(L Lᴴ)⁻¹ b``."""
        half = self.solve_triangular(lower, b, lower=True)
        return self.solve_triangular(lower, half, lower=True, adjoint=True)

    def cholesky_inverse(self, lower: Array, scale: Array, own: bool = False) -> Array:
        """``diag(scale) (L Lᴴ)⁻¹ diag(scale)``; of ``L`` that is ``own`` it may take the memory."""
        identity = self.xp.eye(lower.shape[0], dtype=lower.dtype, device=self.device(lower))
        return self.cholesky_solve(lower, identity) * scale[:, None] * scale

    def lu(self, matrix: Array) -> Any:
        """What `lu_solve` and `lu_slogdet` need. The standard has no LU: here, the matrix."""
        return matrix

    def lu_solve(self, factors: Any, b: Array, *, adjoint: bool = False) -> Array:
        """``matrix⁻¹ b`` or ``matrix⁻ᴴ b`` from `lu`; `LinAlgError` if exactly singular."""
        try:
            return self.xp.linalg.solve(self.adjoint(factors) if adjoint else factors, b)
        except (np.linalg.LinAlgError, RuntimeError) as error:
            raise LinAlgError("the matrix is singular") from error

    def lu_slogdet(self, factors: Any) -> tuple[Array, Array]:
        """Sign and logarithm of the absolute determinant from `lu`."""
        sign, logabsdet = self.xp.linalg.slogdet(factors)
        return sign, logabsdet

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """Eigenvalues, ascending, and eigenvectors of a Hermitian matrix (its lower triangle)."""
        values, vectors = self.xp.linalg.eigh(self.double(matrix))
        return (
            self.xp.astype(values, self.real_dtype(matrix.dtype), copy=False),
            self.xp.astype(vectors, matrix.dtype, copy=False),
        )

    def qr(self, matrix: Array) -> tuple[Array, Array]:
        """Economy size: ``Q`` ``(m, k)`` and ``R`` ``(k, n)``."""
        q, r = self.xp.linalg.qr(self.wide(matrix))
        cast = self.xp.astype
        return cast(q, matrix.dtype, copy=False), cast(r, matrix.dtype, copy=False)

    def svd(self, matrix: Array) -> tuple[Array, Array, Array]:
        """Economy size: ``U`` ``(m, k)``, singular values, descending, and ``Vᴴ`` ``(k, n)``."""
        try:
            u, s, vh = self.xp.linalg.svd(self.double(matrix), full_matrices=False)
        except (np.linalg.LinAlgError, RuntimeError) as error:
            raise LinAlgError("the singular values did not converge") from error
        real = self.real_dtype(matrix.dtype)
        return (
            self.xp.astype(u, matrix.dtype, copy=False),
            self.xp.astype(s, real, copy=False),
            self.xp.astype(vh, matrix.dtype, copy=False),
        )

    def expm(self, matrix: Array) -> Array:
        """The exponential of a square matrix, on the host by SciPy."""
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at what is made
            made = scipy.linalg.expm(self.to_numpy(self.wide(matrix)))
        return self.xp.astype(self.from_numpy(made, self.device(matrix)), matrix.dtype, copy=False)

    def schur(self, matrix: Array) -> tuple[Array, Array]:
        """Complex Schur form: upper triangular ``T``, unitary ``Z`` with ``Z T Zᴴ = matrix``.

        No array library but JAX on a CPU has one, so it is computed on the host by SciPy and
        the two small factors are sent back to the device of ``matrix``.
        """
        made = scipy.linalg.schur(self.to_numpy(self.double(matrix)), output="complex")
        device = self.device(matrix)
        dtype = self.xp.result_type(matrix.dtype, self.xp.complex64)
        triangle, basis = (self.from_numpy(part, device) for part in made)
        cast = self.xp.astype
        return cast(triangle, dtype, copy=False), cast(basis, dtype, copy=False)

    # -- products with Kronecker factors -------------------------------------------------------

    def engine(self, arrays: Sequence[Array]) -> Any:
        """What multiplies by operators of these arrays, nothing of which is tracked.

        It has `takes`, `machine` and `program`. Here this backend itself.
        """
        return self

    def takes(self, x: Array) -> bool:
        """Whether this engine multiplies ``x``, which the backend does otherwise."""
        return True

    def machine(self, dtype: Any, numbers: int) -> Machine:
        """By what products with so many numbers are planned: here, factor after factor."""
        itemsize = self.xp.finfo(dtype).bits // 8
        return Machine(itemsize, 5e10, 1e-6, 1e-5, 1, 1e11, 1e10, cache=0, merged=0, work=0)

    def program(
        self, plan: Plan, operands: Sequence[Operand], given: Any, dtype: Any
    ) -> Callable[[Array], Array]:
        """A function that carries ``plan`` out, with one operand for each step.

        It takes an array of the plan's view, of any shape and the dtype ``given``, and gives one of
        any shape, in fresh memory and in ``dtype``.
        """
        steps = [
            (step.kind, operand, sweep.view(step))
            for operand, (sweep, step) in zip(operands, plan.steps, strict=True)
        ]

        def run(x: Array) -> Array:
            x = self.xp.astype(x, dtype, copy=not steps)
            for kind, operand, view in steps:
                x = self._apply_step(kind, operand, x, view)
            return x

        return run

    def apply_operator(self, op: Any, x: Array, view: tuple[int, int, int]) -> Array:
        """The product of an operator with the middle axis of ``x`` seen as ``view``."""
        left, size, right = view
        if right == 1:
            return op._apply_last(self.xp.reshape(x, (left, size)))
        return op._matmat(self.xp.reshape(x, (size, right) if left == 1 else view))

    def _apply_step(
        self, kind: str, operand: Operand, x: Array, view: tuple[int, int, int]
    ) -> Array:
        if kind == "operator":
            return self.apply_operator(operand, x, view)
        xp = self.xp
        left, size, right = view
        if right == 1:
            x = xp.reshape(x, (left, size))
            if kind == "diagonal":
                return x * operand
            return xp.matmul(x, xp.matrix_transpose(operand))
        x = xp.reshape(x, (size, right) if left == 1 else view)
        return operand[:, None] * x if kind == "diagonal" else xp.matmul(operand, x)

    # -- random numbers ------------------------------------------------------------------------

    def normal(
        self, source: Any, shape: tuple[int, ...], dtype: Any, device: Any
    ) -> tuple[Array, Any]:
        """Standard normal numbers of a real dtype, and the source for the next ones."""
        if not isinstance(source, np.random.Generator):
            raise TypeError(
                f"key_or_rng is of type {type(source).__name__}: {self.random_sources} is needed"
            )
        drawn = source.standard_normal(shape, self._host_dtype(dtype))
        return self.xp.astype(self.from_numpy(drawn, device), dtype, copy=False), source

    random_sources = "a numpy.random.Generator"  # as error messages say it

    def _host_dtype(self, dtype: Any) -> Any:
        return np.float64 if self.xp.finfo(dtype).bits == 64 else np.float32

    # -- small things the standard spells at length --------------------------------------------

    def wide(self, array: Array) -> Array:
        """``array`` in a dtype that factorisations know: half precision in single."""
        if self.xp.finfo(array.dtype).bits >= 32:
            return array
        return self.xp.astype(array, self.xp.float32)

    def double(self, array: Array) -> Array:
        """``array`` in double precision, where the library has it on the device; else `wide`."""
        if self.xp.finfo(array.dtype).bits >= 64:
            return array
        info = self.xp.__array_namespace_info__()
        known = info.dtypes(device=self.device(array), kind="real floating")
        if "float64" not in known:
            return self.wide(array)
        return self.xp.astype(array, self.xp.result_type(array.dtype, known["float64"]))

    def promote(self, *arrays: Array) -> list[Array]:
        """The arrays in the one dtype that holds all of theirs."""
        dtype = self.xp.result_type(*arrays)
        return [self.xp.astype(array, dtype, copy=False) for array in arrays]

    def shifted(self, matrix: Array, number: float) -> Array:
        """``matrix + number · I``."""
        rows = matrix.shape[0]
        return matrix + self.xp.eye(rows, dtype=matrix.dtype, device=self.device(matrix)) * number

    def adjoint(self, matrix: Array) -> Array:
        """The conjugate transpose of the last two axes."""
        return self.conj(self.xp.matrix_transpose(matrix))

    def adjoint_tile(self, tile: Array) -> Array:
        """The adjoint of one of the `tiles` of a matrix, for who reads it once."""
        return self.adjoint(tile)

    def conj(self, array: Array) -> Array:
        """The complex conjugate; of what is real the array itself, which the standard refuses."""
        return self.xp.conj(array) if self.kind(array.dtype) == "complex floating" else array

    # -- the solver library that goes with the arrays ------------------------------------------

    def solver_library(self) -> Any:
        """The module like `scipy.sparse.linalg` for these arrays; `TypeError` if there is none."""
        raise TypeError(
            f"no library like scipy.sparse.linalg goes with {self.name} arrays: use kronops.linalg "
            f"(cg, minres, lsmr), or bring the operator to NumPy by op.to_backend('numpy')"
        )


def _pieces(count: int, size: int | None) -> list[slice]:
    if not size or size >= count:
        return [slice(None)]
    return [slice(start, start + size) for start in range(0, count, size)]
