"""`LinearOperator`: what every operator can do, and the little that its author must write."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Protocol, Self, overload

from kronops import columns, scaling, spectrum, tree
from kronops.backends import (
    backend_named,
    backend_of,
    is_array,
    notice_imports,
    register_container,
)
from kronops.backends.standard import Array, Backend
from kronops.caching import cached, fact
from kronops.checks import as_flag, as_inexact, finite_or_nan
from kronops.columns import submatrix
from kronops.drawing import joined
from kronops.errors import DensificationWarning, LinAlgError, warn
from kronops.explaining import Account, default_account, explain
from kronops.indexing import Index, as_indices
from kronops.lazy_parts import Collection, replaced
from kronops.normals import Normals
from kronops.rendering import as_html
from kronops.scalars import Scalar, as_integer, as_multiplier, as_nonnegative, as_scalar
from kronops.vectors import Shape, Vector, flatten, same_form, size_of

__all__ = ["EighResult", "LinearOperator", "SVDResult", "SlogdetResult"]


class EighResult(NamedTuple):
    """Eigenvalues ``(n,)``, ascending, and the unitary operator of their eigenvectors."""

    eigenvalues: Array
    eigenvectors: LinearOperator


class SVDResult(NamedTuple):
    """``U diag(S) Vh``: operators ``(m, k)`` and ``(k, n)``, values ``(k,)``, descending.

    ``k`` is the smaller of ``m`` and ``n``.
    """

    U: LinearOperator
    S: Array
    Vh: LinearOperator


class SlogdetResult(NamedTuple):
    """The determinant as ``sign * exp(logabsdet)``, both arrays without axes."""

    sign: Array
    logabsdet: Array


class Algebra(Protocol):
    """How operators combine; `kronops.algebra`, the floor above, sets `LinearOperator._algebra`."""

    def add(self, left: LinearOperator, right: LinearOperator) -> LinearOperator: ...
    def compose(self, left: LinearOperator, right: LinearOperator) -> LinearOperator: ...
    def scale(self, scalar: Scalar, op: LinearOperator) -> LinearOperator: ...
    def invert(self, op: LinearOperator) -> LinearOperator: ...
    def refine(self, op: LinearOperator, shift: Scalar) -> LinearOperator: ...
    def refined_inverse(self, op: LinearOperator, shift: Scalar, terms: int) -> Any: ...
    def refined_determinant(
        self, op: LinearOperator, shift: Scalar, precision: Any
    ) -> tuple[Array, Array]: ...
    def adjoint(self, op: LinearOperator) -> LinearOperator: ...
    def transpose(self, op: LinearOperator) -> LinearOperator: ...
    def integer_power(self, op: LinearOperator, p: int) -> LinearOperator: ...
    def spectral(self, basis: LinearOperator, eigenvalues: Array) -> LinearOperator: ...
    def shift(self, op: LinearOperator, scalar: Scalar) -> LinearOperator: ...
    def kronecker_sum(self, factors: list[LinearOperator]) -> LinearOperator: ...
    def mixed_product(self, left: Any, right: Any) -> LinearOperator | None: ...
    def shift_kronecker(self, op: Any, scalar: Scalar) -> LinearOperator: ...
    def diagonalise_sum(self, op: Any) -> LinearOperator | None: ...
    def inverse_near_sum(self, op: Any) -> LinearOperator: ...
    def frobenius_norm_of_sum(self, op: Any) -> Array | None: ...
    def complete_svd(self, triplets: Any) -> tuple[LinearOperator, Array, LinearOperator]: ...
    def permute_columns(self, op: LinearOperator, order: Array) -> LinearOperator: ...
    def truncated_inverse(
        self, left: LinearOperator, values: Array, right: LinearOperator, cutoff: Array
    ) -> LinearOperator: ...
    def dense(self, matrix: Array, domain_shape: Shape) -> LinearOperator: ...
    def chunkwise(self, op: LinearOperator, x: Array) -> LinearOperator: ...
    def multiply_sharded(self, op: LinearOperator, v: Any, axis: int | None = None) -> Any: ...
    def whole(self, op: LinearOperator) -> Any: ...
    def explain_sharded(
        self, op: LinearOperator, mesh: Any, spec: Any, columns: int
    ) -> Iterable[str]: ...
    def mask(self, op: LinearOperator, mask: Any) -> LinearOperator: ...
    def select(self, op: LinearOperator, rows: Index, columns: Index) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearOperator(Collection, ABC):
    """A linear map between vectors, known by its structure and not by its entries.

    Subclasses are frozen dataclasses whose fields are arrays and operators (or tuples and dicts
    of these) and Python scalars. An author writes three things:

    - ``shape``, the pair ``(m, n)``;
    - ``_matmat(x)``: the product with ``x`` of shape ``(..., n, k)``, already checked;
    - ``_adjoint()``: the adjoint as an operator; or, where it has no name of its own,
      ``_rmatmat(x)``: the adjoint's product.

    Everything else follows. What structure makes cheaper is a hook over a right default:
    ``domain_shape``, ``range_shape``, ``hermitian``, ``_transpose``, ``_apply_last``,
    ``_inverse``, ``_solve``, ``_slogdet``, ``_trace``, ``_diagonal``, ``_to_dense``, ``_norm``,
    ``_exponent``, ``_eigenbasis``, ``_power``, ``_cholesky``, ``_root``, ``_sample``, ``_svd``,
    ``_spectral_norm``, ``_pinv``, ``_expm``, ``_logm``, ``_shifted``, ``_masked``, ``_submatrix``,
    ``_entry``, ``_column``, ``_scaled``, ``_plus``, ``_times``, ``_account``.
    `kronops.operators.diagonal` is the file to read first.

    Examples
    --------
    >>> import dataclasses, numpy as np, kronops
    >>> @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    ... class CyclicShift(kronops.LinearOperator):
    ...     n: int
    ...     like: np.ndarray
    ...     @property
    ...     def shape(self):
    ...         return self.n, self.n
    ...     def _matmat(self, x):
    ...         return self.backend.xp.roll(x, 1, axis=-2)
    ...     def _rmatmat(self, x):
    ...         return self.backend.xp.roll(x, -1, axis=-2)
    >>> shift = CyclicShift(4, like=np.zeros(1))
    >>> (shift @ shift.H + 2 * shift) @ np.arange(4.0)
    array([6., 1., 4., 7.])
    >>> from kronops.testing import check_operator
    >>> check_operator(shift)
    """

    _algebra: ClassVar[Algebra]
    __array_ufunc__: ClassVar[None] = None  # NumPy leaves ``array @ op`` and ``scalar * op`` to us
    __iter__: ClassVar[None] = None  # as Python would make one from ``op[0]``, ``op[1]``, …
    _internal: ClassVar[tuple[str, ...]] = ()  # what other operators use, and users need not see

    # -- the contract --------------------------------------------------------------------------

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """``(m, n)``, exact integers."""

    @abstractmethod
    def _matmat(self, x: Array) -> Array:
        """The product with ``x`` of shape ``(..., n, k)``, in fresh memory ``(..., m, k)``."""

    def _adjoint(self) -> LinearOperator:
        return self._algebra.adjoint(self)

    def _rmatmat(self, x: Array) -> Array:
        """The adjoint's product; asked only of operators without an ``_adjoint`` of their own."""
        raise TypeError(f"{type(self).__name__} defines neither _adjoint nor _rmatmat")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register_container(cls, tree.take_apart, tree.put_together)

    def __post_init__(self) -> None:
        self._check_one_home()

    # -- what an operator is -------------------------------------------------------------------

    @fact
    def backend(self) -> Backend:
        """The array library of the operator's arrays."""
        leaves = tree.leaves(self)
        if not leaves:
            names = ", ".join(field.name for field in dataclasses.fields(self))
            raise TypeError(
                f"{type(self).__name__} has no array or operator among its fields ({names}): the "
                f"library, dtype and device are found in these"
            )
        return backend_of(leaves[0])

    @fact
    def dtype(self) -> Any:
        """The dtype of the matrix's entries."""
        inexact = [leaf for leaf in tree.leaves(self) if self._kind(leaf).endswith("floating")]
        if not inexact:
            raise TypeError(f"{type(self).__name__} has no floating array among its fields")
        xp = self.backend.xp
        dtype = xp.result_type(*inexact)
        if any(isinstance(child, complex) for child in tree.children(self)):
            return xp.result_type(dtype, xp.complex64)
        if any(isinstance(c, LinearOperator) and c._complex for c in tree.children(self)):
            return xp.result_type(dtype, xp.complex64)
        return dtype

    @fact
    def device(self) -> Any:
        """The device of the operator's arrays."""
        return self.backend.device(tree.leaves(self)[0])

    @property
    def domain_shape(self) -> Shape:
        """The shape of unflattened vectors that go in; for blocks, a list or dict of shapes."""
        return (self.shape[1],)

    @property
    def range_shape(self) -> Shape:
        """The shape of unflattened vectors that come out."""
        return self.domain_shape if self._square else (self.shape[0],)

    @property
    def hermitian(self) -> bool:
        """Whether the operator is known to equal its adjoint, from structure or from values."""
        return False

    @property
    def ndim(self) -> int:
        """Two, as of every matrix."""
        return 2

    @cached
    def T(self) -> LinearOperator:
        """The transpose."""
        return self._transpose()

    @cached
    def H(self) -> LinearOperator:
        """The adjoint (conjugate transpose)."""
        return self._adjoint()

    # -- products ------------------------------------------------------------------------------

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "an operator is no array: op.to_dense() gives its matrix, op @ x its product"
        )

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: Array) -> Array: ...
    def __matmul__(self, other: Any) -> Any:
        """``op @ x`` for an array ``(n,)`` or ``(..., n, k)``; ``op @ op`` composes."""
        if self.backend.is_plain(other, self.device):  # what small products cost
            return self._apply_plain(other, "x")
        if isinstance(other, LinearOperator):
            return self._algebra.compose(self, other)
        return self._apply(other)

    def __rmatmul__(self, other: Array) -> Array:
        """``x @ op`` for an array ``(m,)`` or ``(..., k, m)``."""
        return self.T._apply_rows(other) if getattr(other, "ndim", 0) else self.T._apply(other)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """``tensor @ op``; ``tensor * op`` is left to us later. Not in `torch.compile`."""
        torch = sys.modules["torch"]
        if not torch.compiler.is_compiling():
            if function is torch.Tensor.matmul and len(types) == 1 and not kwargs:
                tensor, op = args  # Python itself would ask us after an error, which takes longer
                return op.__rmatmul__(tensor)
            if len(types) > 1:  # a tensor's own class may know what to do
                return NotImplemented
            raise TypeError(  # which Python takes for NotImplemented after tensor * op
                f"an operator is no tensor, as torch's {function.__name__} needs: op.to_dense() "
                f"gives its matrix, op @ x its product"
            )
        # Its compiler hands ``op @ tensor`` over with the two exchanged, as if it were the other.
        raise TypeError(
            "torch.compile cannot tell op @ tensor from tensor @ op: write op.matvec(x), "
            "op.matmat(x) or op.multiply(x)"
        )

    def __dask_tokenize__(self) -> str:
        """A name in Dask's graphs of its own; to Dask a matrix and its transpose look the same."""
        token: str = self.__dict__.setdefault("_token", os.urandom(16).hex())
        return token

    def matvec(self, x: Array) -> Array:
        """``op x`` for ``x`` of shape ``(n,)`` or ``(n, 1)``, as SciPy has it."""
        return self.backend.contiguous(self._apply(x))

    def matmat(self, x: Array) -> Array:
        """``op X`` for ``X`` of shape ``(..., n, k)``."""
        return self._apply(x)

    def rmatvec(self, x: Array) -> Array:
        """``opᴴ x`` for ``x`` of shape ``(m,)`` or ``(m, 1)``."""
        return self.backend.contiguous(self.H._apply(x))

    def rmatmat(self, x: Array) -> Array:
        """``opᴴ X`` for ``X`` of shape ``(..., m, k)``."""
        return self.H._apply(x)

    def multiply(self, v: Vector) -> Vector:
        """``op`` times the structured vector ``v``, in the structure of ``v``.

        Parameters
        ----------
        v : array, pair of arrays, or list, tuple or dict of these
            A flat array ``(n,)``; an array of ``domain_shape``, or with leading axes that fold
            into its first axis; a pair ``(weights, bias)``, the bias being the last row of the
            ``domain_shape`` matrix; for block-diagonal operators, one such vector for each block.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> op = kronops.kron(np.eye(3), 2 * np.eye(2))
        >>> weights, bias = op.multiply((np.ones((2, 2)), np.zeros(2)))
        >>> weights
        array([[2., 2.],
               [2., 2.]])
        """
        made: Vector = self._multiply(v)
        return made

    def multiply_inverse(self, v: Vector) -> Vector:
        """``op⁻¹`` times the structured vector ``v``; factorisations are kept for the next call."""
        return self.inverse().multiply(v)

    def multiply_power(self, v: Vector, p: float) -> Vector:
        """``op.power(p)`` times the structured vector ``v``."""
        return self.power(p).multiply(v)

    # -- arithmetic ----------------------------------------------------------------------------

    def __add__(self, other: Any) -> LinearOperator:
        self._refuse_non_operator(other, "+")
        return self._algebra.add(self, other)

    def __sub__(self, other: Any) -> LinearOperator:
        self._refuse_non_operator(other, "-")
        return self._algebra.add(self, -other)

    def __mul__(self, scalar: Any) -> LinearOperator:
        if isinstance(scalar, LinearOperator) or getattr(scalar, "ndim", 0) > 0:
            raise TypeError("* is for scalars alone: compose operators and apply them by @")
        return self._algebra.scale(as_multiplier(scalar, "the scalar", self._like), self)

    def __truediv__(self, scalar: Any) -> LinearOperator:
        divisor = as_multiplier(scalar, "the scalar", self._like)
        if not is_array(divisor) and abs(divisor) < 1e-308:
            raise ZeroDivisionError(f"op / {divisor}: division by zero, or nearly so")
        return self._algebra.scale(1.0 / divisor, self)

    def __pow__(self, p: Any) -> LinearOperator:
        return self.power(p)

    def __neg__(self) -> LinearOperator:
        return self._algebra.scale(-1.0, self)

    __radd__, __rsub__, __rmul__ = __add__, __sub__, __mul__

    # -- operators made from this one ----------------------------------------------------------

    def inverse(self, refine: bool = False) -> LinearOperator:
        """The inverse, as an operator of the same family where there is one.

        Parameters
        ----------
        refine : bool
            Whether its products are right to the last digits, within 16 units of rounding, also
            where the operator is so ill-conditioned that it is singular in its own precision. That
            is computed in more digits: `RefinedOperator` says how, and what it costs.

        Raises
        ------
        ValueError
            The operator is not square.
        LinAlgError
            It is singular; raised when the factorisation is first needed.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> kronops.DiagonalOperator(np.array([2.0, 4.0])).inverse().to_dense()
        array([[0.5 , 0.  ],
               [0.  , 0.25]])
        """
        if as_flag(refine, "refine"):
            return self._kept_refined_inverse
        original: LinearOperator | None = self.__dict__.get("_original", lambda: None)()
        if original is not None:
            return original
        made = self._whole._kept_inverse
        if made is not self:  # so that a double inverse is the original, without a cycle
            made.__dict__["_original"] = weakref.ref(self)
        return made

    def power(self, p: float) -> LinearOperator:
        """``op ** p``: any integer ``p``; any real ``p`` if Hermitian and positive (semi)definite.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> kronops.DiagonalOperator(np.array([4.0, 16.0])).power(-0.5).diagonal()
        array([0.5 , 0.25])
        """
        self._require_square("power")
        exponent = as_scalar(p, "p")
        if isinstance(exponent, complex):
            raise TypeError(f"p = {p} is complex: a real exponent is needed")
        return self if exponent == 1 else self._whole._power(exponent)

    def sqrt(self) -> LinearOperator:
        """The positive semidefinite square root, ``op.power(0.5)``."""
        return self.power(0.5)

    def cholesky(self) -> LinearOperator:
        """Lower triangular ``L`` with ``L Lᴴ = op``; `LinAlgError` if not positive definite."""
        self._require_square("cholesky")
        return self._whole._cholesky()

    def expm(self) -> LinearOperator:
        """The exponential ``I + op + op²/2 + …``; of a Kronecker sum, a Kronecker product.

        Raises
        ------
        OverflowError
            It is out of the range of the dtype.

        Notes
        -----
        By eigenvalues if Hermitian; ``expm(A ⊕ B) = expm(A) ⊗ expm(B)`` for any factors; matrices
        that are not Hermitian by scaling and squaring [1]_.

        References
        ----------
        .. [1] Al-Mohy and Higham, A new scaling and squaring algorithm for the matrix exponential,
           SIAM J. Matrix Anal. Appl. 31, 2009.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> rotation = kronops.DenseOperator(np.array([[0.0, -np.pi / 2], [np.pi / 2, 0.0]])).expm()
        >>> (rotation @ np.array([1.0, 0.0])).round(12) + 0.0
        array([0., 1.])
        """
        self._require_square("expm")
        return self._expm()

    def logm(self) -> LinearOperator:
        """The logarithm of a Hermitian positive definite operator, the inverse of `expm`.

        Raises
        ------
        LinAlgError
            The operator is not Hermitian, or not positive definite.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> log = kronops.kron(np.diag([1.0, np.e]), np.diag([1.0, np.e**2])).logm()
        >>> type(log).__name__, log.diagonal()
        ('KroneckerSumOperator', array([0., 2., 1., 3.]))
        """
        self._require_square("logm")
        return self._logm()

    def pinv(self, rtol: float | None = None) -> LinearOperator:
        """The Moore-Penrose pseudo-inverse, by singular value decompositions.

        Parameters
        ----------
        rtol : float, optional
            Singular values of no more than ``rtol`` times the largest count as zero. By default
            ``max(m, n)`` units of rounding, as in the Array API, and their root at most. It is one
            decision for the whole operator: two factors that are each of full rank may have a
            Kronecker product that is not.

        Notes
        -----
        Derivatives are those that the library has for its singular value decomposition.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> kronops.DiagonalOperator(np.array([2.0, 0.0])).pinv().diagonal()
        array([0.5, 0. ])
        """
        return self._kept_pinv if rtol is None else self._truncated(as_nonnegative(rtol, "rtol"))

    def damped(
        self,
        value: float,
        method: str = "exact",
        refine: bool = False,
        pi: str | float = "trace",
    ) -> LinearOperator:
        """``op + value·I`` (``method="exact"``), or its Kronecker-factored approximation.

        Parameters
        ----------
        value : float
            A finite real number ≥ 0; an array without axes, if derivatives by it are wanted.
        method : {"exact", "factored"}
            ``"factored"`` is for Kronecker and series operators: each factor gets its share.
        refine : bool
            Whether solves, and the determinant, are right to the last digits: the sum is a
            `RefinedOperator`.
        pi : "trace" or float
            How the factored damping is split: by the factors' mean eigenvalues, or by a number
            π > 0: ``c·(A + π√λ I) ⊗ (G + √λ/π I)`` [1]_. Exact damping is not split.

        References
        ----------
        .. [1] Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate
           curvature, 2015, section 6.3. https://arxiv.org/abs/1503.05671

        Examples
        --------
        >>> import numpy as np, kronops
        >>> kronops.kron(np.eye(2), 3 * np.eye(2)).damped(0.5).diagonal()
        array([3.5, 3.5, 3.5, 3.5])
        """
        self._require_square("damped")
        if not isinstance(refine, bool):
            raise TypeError(f"refine = {refine!r}: True or False; pi is given by name, pi=…")
        if not (isinstance(method, str) and method in ("exact", "factored")):
            raise ValueError(f'method = {method!r}: "exact" and "factored" would do')
        value = as_nonnegative(value, "value", self._like)
        if not is_array(value) and value == 0:
            return self._algebra.refine(self, 0.0) if refine else self
        if method == "exact":
            largest = float(self.backend.xp.finfo(self.dtype).max)
            if not (refine or is_array(value)) and value > largest:
                raise OverflowError(
                    f"value = {value} is out of the range of {self.dtype}: take the operator to "
                    f"a wider dtype first (op.astype)"
                )
            return self._damped(value, refine)
        made = self._factored(value, pi, refine)
        return self._algebra.refine(made, 0.0) if refine else made

    def masked(self, mask: Any) -> LinearOperator:
        """The rows and columns at which ``mask`` is true, ``P op Pᴴ``.

        Parameters
        ----------
        mask : boolean array
            Of the domain shape, or flat; of any library, or NumPy's.

        Returns
        -------
        LinearOperator
            Diagonal operators, identities and matrices stay such, and the operator itself is
            returned where the mask is true throughout; else a `MaskedOperator`.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> op = kronops.DiagonalOperator(np.array([1.0, 2.0, 3.0]))
        >>> op.masked(np.array([True, False, True])).diagonal()
        array([1., 3.])
        """
        return self._algebra.mask(self, mask)

    @overload
    def __getitem__(self, key: int | tuple[int, int | slice] | tuple[slice, int]) -> Array: ...
    @overload
    def __getitem__(self, key: slice | tuple[slice, slice]) -> LinearOperator: ...
    @overload
    def __getitem__(self, key: Any) -> Any: ...
    def __getitem__(self, key: Any) -> Any:
        """Entries, rows and columns: arrays for integers, operators for anything else.

        ``op[i, j]`` is an array without axes; ``op[i]``, ``op[i, :]`` and ``op[:, j]`` are flat
        arrays. Slices, and arrays of integers or booleans, give an operator that multiplies by way
        of this one: ``op[:5]``, ``op[:, [3, 1]]``, ``op[rows][:, columns]``.

        Raises
        ------
        IndexError
            Out of range; repeated entries; two arrays at once; anything else.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> op = kronops.kron(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 10.0]]))
        >>> op[1, 3], op[0]
        (np.float64(40.0), array([ 1., 10.,  2., 20.]))
        >>> op[:, ::2] @ np.ones(2)
        array([3., 7.])
        """
        return self._algebra.select(self, *as_indices(key, self.shape))

    # -- numbers and arrays made from this operator --------------------------------------------

    def solve(self, b: Array, refine: bool = False) -> Array:
        """``op⁻¹ b`` for an array of shape ``(n,)`` or ``(..., n, k)``.

        With ``refine``, ``op.inverse(refine=True) @ b``: right to the last digits, at a cost.
        """
        return self.inverse(refine)._apply(b, "b")

    def lstsq(self, b: Array, rtol: float | None = None) -> Array:
        """The least-squares solution of smallest norm, ``op.pinv(rtol) @ b``.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> line = kronops.kron(np.array([[1.0], [1.0]]), np.array([[1.0, 0.0], [1.0, 1.0]]))
        >>> line.lstsq(np.array([1.0, 2.0, 3.0, 4.0]))
        array([2., 1.])
        """
        return self.pinv(rtol)._apply(b, "b")

    def slogdet(self) -> SlogdetResult:
        """Sign and logarithm of the absolute determinant; ``(0, -inf)`` if exactly singular.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> sign, logabsdet = kronops.kron(2 * np.eye(100), np.eye(100)).slogdet()
        >>> round(float(logabsdet / np.log(2)))  # the determinant, 2**10000, overflows
        10000
        """
        self._require_square("slogdet")
        sign, logabsdet = self._whole._slogdet()
        xp, real = self.backend.xp, self.backend.real_dtype(self.dtype)
        # Copies, as both may be kept: some libraries' numbers can be written to.
        return SlogdetResult(xp.astype(sign, self.dtype), xp.astype(logabsdet, real))

    def logdet(self) -> Array:
        """The logarithm of a determinant that is positive; ``-inf`` where it is zero.

        Raises
        ------
        LinAlgError
            The determinant is negative or complex: `slogdet` has its sign. Where values cannot be
            seen, under ``jax.jit``, the result is NaN instead.
        """
        sign, logabsdet = self.slogdet()
        seen = self.backend.values(sign)
        if seen is None:
            xp = self.backend.xp
            usable = (sign == 0) | (xp.abs(sign - 1) <= 1e-2)
            return xp.where(usable, logabsdet, math.nan)
        phase = complex(seen)
        if phase != 0 and abs(phase - 1) > 1e-2:
            shown = phase if phase.imag else phase.real
            raise LinAlgError(
                f"the operator {self.shape} has a determinant with sign {shown:.3g}: use slogdet, "
                f"which gives it, for logdet"
            )
        return logabsdet

    def trace(self) -> Array:
        """The sum of the diagonal, an array without axes."""
        self._require_square("trace")
        return self._trace()

    def diagonal(self) -> Array:
        """The diagonal, flat, of shape ``(n,)``."""
        self._require_square("diagonal")
        return self._diagonal()

    def eigh(self) -> EighResult:
        """Eigenvalues, ascending, and eigenvectors (an operator) of a Hermitian operator.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> values, vectors = kronops.kron(np.diag([2.0, 1.0]), np.diag([3.0, 5.0])).eigh()
        >>> values
        array([ 3.,  5.,  6., 10.])
        """
        self._require_square("eigh")
        values, basis = self._whole._eigenbasis()
        flat = self.backend.xp.reshape(spectrum.real(values, "the operator"), (-1,))
        order = self.backend.xp.argsort(flat)
        sorted_basis = self._algebra.permute_columns(basis, order)
        return EighResult(self.backend.xp.take(flat, order), sorted_basis)

    def svd(self) -> SVDResult:
        """Singular values, descending, and vectors, as operators: ``U diag(S) Vh`` is ``op``.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> u, s, vh = kronops.kron(np.array([[3.0, 0.0]]), np.diag([1.0, -2.0])).svd()
        >>> s, u.shape, vh.shape
        (array([6., 3.]), (2, 2), (2, 4))
        """
        xp = self.backend.xp
        left, values, right = self._kept_svd
        order = xp.argsort(-values)
        permute = self._algebra.permute_columns
        return SVDResult(permute(left, order), xp.take(values, order), permute(right, order).H)

    def norm(self, ord: Any = "fro") -> Array:
        """A matrix norm: ``"fro"``, 1, 2, ``inf`` or ``"nuc"``, as `numpy.linalg.norm` has them."""
        known = isinstance(ord, (str, int, float)) and not isinstance(ord, bool)
        if not (known and ord in ("fro", "nuc", 1, 2, float("inf"))):
            raise ValueError(f'ord = {ord!r}: "fro", "nuc", 1, 2 and inf would do')
        return self._norm(ord)

    def sample(self, key_or_rng: Any, shape: tuple[int, ...] = (), inverse: bool = False) -> Array:
        """Normal random vectors with mean zero and covariance ``op``, or ``op⁻¹``.

        Parameters
        ----------
        key_or_rng : generator or key
            A `numpy.random.Generator`, or the library's own: a ``jax.random`` key, a
            ``torch.Generator``, a ``cupy.random.Generator``.
        shape : tuple of int
            How many draws, in which form.
        inverse : bool
            Whether the covariance is the inverse: ``op`` is a precision.

        Returns
        -------
        array, shape ``shape + (n,)``

        Raises
        ------
        LinAlgError
            The operator is not Hermitian and positive semidefinite.

        Notes
        -----
        A root ``R Rᴴ = op`` is taken from structure: Cholesky factors of Kronecker factors and
        blocks. Sums draw from each term. With ``inverse``, ``op⁻¹ x`` of a draw ``x`` for ``op``.
        All of this can be differentiated by the operator's arrays.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> op = kronops.kron(np.array([[2.0, 1.0], [1.0, 2.0]]), np.eye(3)).damped(0.1)
        >>> draws = op.sample(np.random.default_rng(0), (20_000,))
        >>> bool(np.max(np.abs(np.cov(draws.T) - op.to_dense())) < 0.1)
        True
        """
        self._require_square("sample")
        inverse = as_flag(inverse, "inverse")
        given = shape if isinstance(shape, (tuple, list)) else (shape,)
        sizes = tuple(as_integer(size, "a size of shape") for size in given)
        scaling.require_writable(self.shape[0] * math.prod(sizes))
        normals = Normals(self.backend, key_or_rng, self.dtype, self.device, math.prod(sizes))
        draws = self._sample(normals) if self.shape[0] else normals.columns(0)
        if inverse:
            draws = self.inverse()._matmat(draws)
        xp = self.backend.xp
        return xp.reshape(xp.matrix_transpose(draws), (*sizes, self.shape[0]))

    def to_dense(self, limit: int | None = 10**8) -> Array:
        """The matrix. `ValueError` if it has more than ``limit`` entries; None lifts the limit."""
        entries = self.shape[0] * self.shape[1]
        if limit is not None and entries > as_integer(limit, "limit"):
            raise ValueError(
                f"the matrix has {self.shape[0]} x {self.shape[1]} = {entries} entries, more than "
                f"limit = {limit}: raise it, or pass limit=None"
            )
        return self._to_dense()

    def to_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator`; for CuPy arrays, cupyx's."""
        return self.backend.solver_library().LinearOperator(
            self.shape,
            matvec=self.matvec,
            rmatvec=self.rmatvec,
            matmat=self.matmat,
            rmatmat=self.rmatmat,
            dtype=self.dtype,
        )

    # -- words ---------------------------------------------------------------------------------

    def explain(self, columns: int = 1, *, mesh: Any = None, spec: Any = None) -> str:
        """The operators inside, and for each operation the identity that it uses and its cost.

        Nothing is factorised for it. Costs are flops (of complex numbers if the operator is
        complex), the bytes that are read and written, and the flops of what is computed once and
        then kept.

        Parameters
        ----------
        columns : int
            For how many vectors at once; Kronecker products are planned for that.
        mesh : jax.sharding.Mesh or dict, optional
            Devices over which vectors of the domain shape are split (of a dict, the names and sizes
            of its axes): then the redistributions of the products, and the bytes that each device
            sends and holds, are told as well.
        spec : jax.sharding.PartitionSpec or tuple, optional
            Which axes of the mesh split which axis of the vectors. If not given, all of the mesh
            splits the first axis.

        Examples
        --------
        >>> import numpy as np, kronops
        >>> print(kronops.kron(np.ones((200, 200)), np.ones((300, 100))).explain())
        KroneckerOperator (60000, 20000), float64, numpy
        ├─ factors[0]: DenseOperator (200, 200)
        └─ factors[1]: DenseOperator (300, 100)
        <BLANKLINE>
        multiply: (A ⊗ B) vec(X) = vec(A X Bᵀ), factor after factor
            19.9 Mflop, 960 kB
            A1 (200 x 200) on (1, 200, 100)
            A2 (300 x 100) on (200, 100, 1)
        """
        columns = as_integer(columns, "columns", least=1)
        said = explain(self, columns)
        if mesh is None:
            return said
        return "\n".join([said, "", *self._algebra.explain_sharded(self, mesh, spec, columns)])

    def _repr_html_(self) -> str:
        return as_html(self)

    # -- explicit moves ------------------------------------------------------------------------

    def astype(self, dtype: Any) -> Self:
        """The operator with its arrays in another floating dtype.

        ``dtype`` is the library's own, its name, or NumPy's word for it: ``float``, ``"f4"``.
        """
        given, dtype = dtype, self.backend.floating_dtype(dtype)
        if dtype is None:
            raise ValueError(
                f"astype: dtype = {given!r} is no real or complex floating dtype of "
                f'{self.backend.name}; "float32" and "complex128" are, for example'
            )
        if self._complex and self.backend.kind(dtype) != "complex floating":
            raise ValueError(f"astype({dtype}) of a complex operator would lose imaginary parts")
        xp = self.backend.xp

        def cast(leaf: Array) -> Array:
            if not self._kind(leaf).endswith("floating"):
                return leaf
            largest = scaling.largest(leaf)
            limits = xp.finfo(dtype)
            if largest and not float(limits.smallest_normal) <= largest <= float(limits.max):
                raise OverflowError(f"an array of {type(self).__name__} does not fit into {dtype}")
            made = xp.astype(leaf, dtype)
            if made.dtype != dtype:  # JAX without x64
                raise TypeError(
                    f"{self.backend.name} makes {made.dtype} of {dtype}: allow double precision "
                    f'first, jax.config.update("jax_enable_x64", True)'
                )
            return made

        return tree.map_leaves(self, cast)

    def to_device(self, device: Any) -> Self:
        """The operator with its arrays on another device."""
        return tree.map_leaves(self, lambda leaf: self.backend.to_device(leaf, device))

    def to_backend(self, name: str) -> Self:
        """The operator with its arrays in another library, by name (``"numpy"``)."""
        target = backend_named(name)
        values = iter(self.backend.all_to_numpy(tree.leaves(self)))
        return tree.map_leaves(self, lambda leaf: target.from_numpy(next(values)))

    def persist(self, **options: Any) -> Any:
        """An operator of Dask arrays with these computed, and all that products with it need.

        Factorisations too, each by a task of its own, those of large matrices first. They stay
        where Dask keeps what it has persisted: on a cluster in the memory of the workers, while the
        call returns at once. Without it every ``compute`` makes them anew.

        Parameters
        ----------
        **options
            Those of ``dask.persist``.

        Returns
        -------
        LinearOperator
            The operator itself where its arrays are not lazy.

        Examples
        --------
        >>> import dask.array as da, numpy as np, kronops
        >>> op = kronops.kron(da.from_array(2 * np.eye(3)), da.from_array(np.eye(2)))
        >>> inverse = op.inverse().persist()
        >>> inverse.multiply(da.ones((3, 2))).sum().compute()
        np.float64(3.0)
        """
        if not self.backend.lazy:
            return self
        xp = self.backend.xp
        one = xp.ones((1, 1), dtype=self.dtype, device=self.device)
        self._matmat(xp.broadcast_to(one, (self.shape[1], 1)))  # now it keeps what products need
        return replaced(self, lambda parts: self.backend.persist(parts, **options))

    # -- optional hooks, each with a right default ---------------------------------------------

    def _transpose(self) -> LinearOperator:
        return self._algebra.transpose(self) if self._complex else self.H

    def _apply_last(self, x: Array) -> Array:
        """The product along the last axis: ``x`` of shape ``(..., n)`` becomes ``(..., m)``."""
        if x.ndim == 1:
            return self._matmat(x[:, None])[:, 0]
        transpose = self.backend.xp.matrix_transpose
        return transpose(self._matmat(transpose(x)))

    _step_kind: ClassVar[str] = "operator"  # as a Kronecker factor: see kronops.planning.Factor
    _step_kind_is_known: ClassVar[bool] = True  # without a computation

    def _step_array(self) -> Array:
        """As a Kronecker factor, the matrix ("dense") or the flat diagonal ("diagonal")."""
        raise TypeError(f"{type(self).__name__} has no array to multiply by")

    def _inverse(self) -> LinearOperator:
        return self._algebra.invert(self)

    def _solve(self, x: Array) -> Array:
        """The inverse's product, for operators whose inverse has no name of its own."""
        return self._densified._solve(x)

    def _preconditioner(self) -> LinearOperator:
        """An operator near the inverse, without anything written out where there is none such."""
        return self.inverse()

    def _slogdet(self) -> tuple[Array, Array]:
        return self._densified._slogdet()

    def _trace(self) -> Array:
        return self.backend.xp.sum(self._diagonal())

    def _diagonal(self) -> Array:
        return columns.diagonal(self)

    def _to_dense(self) -> Array:
        return columns.dense(self)

    def _entry(self, row: int, column: int) -> Array:
        xp = self.backend.xp
        places = [xp.asarray([index], device=self.device) for index in (row, column)]
        return self._submatrix(*places)[0, 0]

    def _column(self, column: int) -> Array:
        xp = self.backend.xp
        everywhere = xp.arange(self.shape[0], device=self.device)
        return self._submatrix(everywhere, xp.asarray([column], device=self.device))[:, 0]

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        """The entries where rows and columns, given by integer arrays, cross."""
        return submatrix(self, rows, columns)

    def _norm(self, ord: Any) -> Array:
        return columns.frobenius_norm(self) if ord == "fro" else self._densified._norm(ord)

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        """Eigenvalues of ``range_shape`` in any order, and the unitary basis they belong to."""
        return self._densified._eigenbasis()

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        """``U``, ``S``, flat and in any order, and ``V``, with ``U diag(S) Vᴴ`` the operator."""
        return self._densified._svd()

    def _spectral_norm(self) -> Array:
        """The largest singular value, an array without axes."""
        return self.backend.xp.max(self._kept_svd[1])

    def _pinv(self, cutoff: Array) -> LinearOperator:
        """The pseudo-inverse, in which singular values up to ``cutoff`` are zero."""
        return self._algebra.truncated_inverse(*self._kept_svd, cutoff)

    def _power(self, p: float) -> LinearOperator:
        if p.is_integer():
            return self._algebra.integer_power(self, int(p))
        values, basis = self._eigenbasis()
        return self._algebra.spectral(basis, spectrum.power(values, p, "the operator"))

    def _expm(self) -> LinearOperator:
        if not self.hermitian:
            return self._densified._expm()
        values, basis = self._eigenbasis()
        return self._algebra.spectral(basis, spectrum.exp(values, "the operator"))

    def _logm(self) -> LinearOperator:
        values, basis = self._eigenbasis()
        return self._algebra.spectral(basis, spectrum.log(values, "the operator"))

    def _cholesky(self) -> LinearOperator:
        return self._densified._cholesky()

    def _root(self) -> LinearOperator:
        """Some ``R`` with ``R Rᴴ = op``."""
        return self._densified._root()

    def _sample(self, normals: Normals) -> Array:
        """Columns of random numbers with covariance ``op``, shape ``(n, normals.count)``."""
        root = self._root()
        return root._matmat(normals.columns(root.shape[1]))

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        """``op + scalar·I`` in closed form, or the plain sum."""
        return self._algebra.shift(self, scalar)

    def _masked(self, kept: Array) -> LinearOperator | None:
        """The rows and columns at the positions ``kept``, in closed form, or None."""
        return None

    def _damped(self, value: Scalar, refine: bool) -> LinearOperator:
        return self._algebra.refine(self, value) if refine else self._shifted(value)

    def _factored(self, value: Scalar, pi: str | float, refine: bool) -> LinearOperator:
        raise ValueError(
            f'method="factored" splits damping over Kronecker factors, and this is a '
            f'{type(self).__name__}: method="exact" would do'
        )

    def _exponent(self) -> int:
        """The binary exponent of the largest entry, where it is cheap to know; else 0."""
        return 0

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        """``scalar * op`` with the scalar folded in, or None."""
        return None

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        """``op + other`` in closed form, or None."""
        return None

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        """``op @ other`` in closed form, or None."""
        return None

    def _named_parts(self) -> dict[str, Any]:
        """What is in the fields, by what users call it: arrays, operators, and scalars."""
        named: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            content = getattr(self, field.name)
            if isinstance(content, tuple):
                named |= {f"{field.name}[{i}]": part for i, part in enumerate(content)}
            else:
                named[field.name] = content
        return named

    def _children(self) -> dict[str, LinearOperator]:
        """The operators in the fields, by what `explain` calls them."""
        return {
            n: part for n, part in self._named_parts().items() if isinstance(part, LinearOperator)
        }

    def _account(self, operation: str, columns: int) -> Account:
        """What `explain` says of one of `kronops.explaining.OPERATIONS`."""
        hooks = {
            "multiply": ("_matmat",),
            "multiply_inverse": ("_inverse", "_solve"),
            "logdet": ("_slogdet",),
            "eigh": ("_eigenbasis",),
        }
        base = LinearOperator
        own = any(getattr(type(self), hook) is not getattr(base, hook) for hook in hooks[operation])
        return default_account(self, operation, columns, own)

    # -- inside --------------------------------------------------------------------------------

    @cached
    def _kept_inverse(self) -> LinearOperator:
        self._require_square("inverse")
        return self._inverse()

    @cached
    def _kept_refined_inverse(self) -> LinearOperator:
        self._require_square("inverse")
        return self._algebra.refine(self, 0.0).inverse()

    @cached
    def _kept_svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        return self._svd()

    @cached
    def _kept_pinv(self) -> LinearOperator:
        eps = float(self.backend.xp.finfo(self.dtype).eps)
        return self._truncated(min(max(self.shape) * eps, eps**0.5))

    def _truncated(self, rtol: float) -> LinearOperator:
        return self._pinv(self._spectral_norm() * rtol) if all(self.shape) else self.H

    @cached
    def _schur_form(self) -> tuple[Array, Array]:
        """Upper triangular ``T`` and unitary ``Z``, complex, with ``Z T Zᴴ = op``."""
        return self.backend.schur(finite_or_nan(self._to_dense()))

    @cached
    def _densified(self) -> LinearOperator:
        if self.shape[0] * self.shape[1] > 10**8:
            raise ValueError(
                f"{type(self).__name__} {self.shape}: no identity gives this from its structure, "
                f"and it is too large to be written out; kronops.linalg.iterative_solve solves by "
                f"products alone"
            )
        warn(
            f"{type(self).__name__} {self.shape} is written out as a dense matrix: no identity "
            f"gives this from its structure (where it is for a solve, "
            f"kronops.linalg.iterative_solve needs products alone)",
            DensificationWarning,
        )
        return self._algebra.dense(self.to_dense(), self.domain_shape)

    @property
    def _tracked(self) -> bool:
        """Whether the operator's arrays are traced or differentiated."""
        return self.backend.tracks and any(map(self.backend.is_tracked, tree.leaves(self)))

    @property
    def _untracked(self) -> Any:
        """The operator as plain values, where they can be seen: what factorisations are made of.

        It is kept, with all that it keeps in turn: arrays in fields never change.
        """
        made = self.__dict__.get("_kept_untracked")
        if made is None:
            if not self._tracked:
                return self
            made = tree.map_parts(self, _untracked, lambda child: child._untracked)
            if all(
                new is old for new, old in zip(tree.leaves(made), tree.leaves(self), strict=True)
            ):
                return self
            self.__dict__["_kept_untracked"] = made
        return made

    @property
    def _whole(self) -> LinearOperator:
        """The operator with arrays that are whole on one device of this process, for what needs it.

        Those that several devices hold are copied, once.
        """
        return self._algebra.whole(self) if self.backend.shards else self

    @property
    def _like(self) -> Array:
        """An array without entries of the operator's library, dtype and device."""
        return self.backend.xp.zeros((0,), dtype=self.dtype, device=self.device)

    @property
    def _square(self) -> bool:
        return self.shape[0] == self.shape[1]

    @fact
    def _complex(self) -> bool:
        return self.backend.kind(self.dtype) == "complex floating"

    def _kind(self, leaf: Array) -> str:
        return self.backend.kind(leaf.dtype)

    def _multiply(self, v: Any) -> Any:
        """`multiply`, of a vector of any structure."""
        if self.backend.shards and (made := self._algebra.multiply_sharded(self, v)) is not None:
            return made
        if is_array(v) and tuple(v.shape) == self.shape[1:]:  # flat, and so is the result
            return self._apply(v)
        flat, restore = flatten(v, self.domain_shape, self.range_shape)
        return restore(self._apply(flat))

    def _apply(self, x: Any, name: str = "x") -> Array:
        if not self.backend.is_plain(x, self.device):
            x = self._as_input(x, name)
            if backend_of(x) is not self.backend:
                return self._algebra.chunkwise(self, x)._apply(x, name)
        return self._apply_plain(x, name)

    def _apply_plain(self, x: Array, name: str) -> Array:
        """`_apply` of an array that needs no check."""
        if self.backend.shards and x.ndim:
            made = self._algebra.multiply_sharded(self, x, max(x.ndim - 2, 0))
            if made is not None:
                return made
        n = self.shape[1]
        if x.ndim == 1:
            if x.shape[0] == n:
                return self._apply_last(x)
        elif x.ndim > 1 and x.shape[-2] == n:
            return self._matmat(x)
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, the operator {self.shape}: "
            f"({n},) or (..., {n}, k) would do" + self._hint(x, name) + self._drawn(x)
        )

    def _apply_rows(self, x: Array) -> Array:
        if not self.backend.is_plain(x, self.device):
            x = self._as_input(x, "x")
            if backend_of(x) is not self.backend:
                return self._algebra.chunkwise(self, x)._apply_rows(x)
        if self.backend.shards:
            made = self._algebra.multiply_sharded(self, x, x.ndim - 1)
            if made is not None:
                return made
        if x.shape[-1] == self.shape[1]:
            return self._apply_last(x)
        raise ValueError(
            f"x has shape {tuple(x.shape)}, the operator {self.shape[::-1]}: for x @ op "
            f"({self.shape[1]},) or (..., k, {self.shape[1]}) would do"
            + joined(tuple(x.shape), x.ndim - 1, "@", self.shape[::-1], 0)
        )

    def _drawn(self, x: Array) -> str:
        return joined(self.shape, 1, "@", tuple(x.shape), max(x.ndim - 2, 0)) if x.ndim else ""

    def _hint(self, x: Array, name: str) -> str:
        if tuple(x.shape) != self.domain_shape:
            return ""
        right_side = name == "b"  # of solve or lstsq
        return "; b.reshape(-1) would do" if right_side else "; op.multiply takes it as it is"

    def _as_input(self, x: Any, name: str) -> Array:
        backend = self.backend
        found = backend_of(x) if is_array(x) else backend
        if found is not backend and found.chunk_backend(x) is not backend:
            raise TypeError(
                f"{name} is an array of {found.name}, the operator's are of "
                f"{backend.name}: move one of them (op.to_backend)"
            )
        if _is_structured(x):
            raise TypeError(
                f"{name} is a {type(x).__name__}: a flat array is needed; op.multiply and "
                f"op.multiply_inverse take structured vectors"
            )
        x = as_inexact(x, name, like=self.dtype)
        if found is backend and not backend.same_device(x, self.device):
            raise TypeError(
                f"{name} is on device {backend.device(x)}, the operator on {self.device}: "
                f"move one of them (op.to_device)"
            )
        return x

    def _check_one_home(self) -> None:
        """One library and one device for all arrays of the operator."""
        notice_imports()
        backend, device = self.backend, self.device
        for place, leaf in enumerate(tree.leaves(self)):
            if (other := backend_of(leaf)) is not backend:
                first, strange = self._name_of_leaf(0), self._name_of_leaf(place)
                raise TypeError(
                    f"{first} is of {backend.name}, {strange} of {other.name}: "
                    f"bring both to one library first"
                )
            if not backend.same_device(leaf, device):
                first, strange = self._name_of_leaf(0), self._name_of_leaf(place)
                raise TypeError(
                    f"{first} is on device {device}, {strange} on {backend.device(leaf)}: "
                    f"bring both to one device first"
                )

    def _name_of_leaf(self, place: int) -> str:
        """What users call the part that has one of the operator's arrays."""
        names = (name for name, part in self._named_parts().items() for _ in tree.leaves(part))
        return next(itertools.islice(names, place, None))

    def _require_square(self, what: str) -> None:
        if not self._square:
            raise ValueError(f"{what} needs a square operator, this one has shape {self.shape}")

    def _refuse_non_operator(self, other: Any, sign: str) -> None:
        if isinstance(other, LinearOperator):
            return
        if is_array(other) and other.ndim:
            raise TypeError(f"op {sign} array: wrap the array, op {sign} DenseOperator(array)")
        if hasattr(other, "shape") and not is_array(other):
            raise TypeError(
                f"op {sign} {type(other).__name__}: of another library's operator "
                f"op {sign} kronops.aslinearoperator(…) would do"
            )
        raise TypeError(
            f"op {sign} {type(other).__name__}: use op.damped(value), or "
            f"op {sign} value * IdentityOperator(n, like=array)"
        )

    def __repr__(self) -> str:
        try:
            shape = self.shape
        except ValueError as error:  # a stack, as jax.vmap makes it
            return f"{type(self).__name__}({error})"
        parts = [f"shape={shape}", f"dtype={self.dtype}", f"backend={self.backend.name}"]
        inner = [c for c in tree.children(self) if isinstance(c, LinearOperator)]
        if inner:
            names = [f"{type(c).__name__}{c.shape}" for c in inner[:4]]
            more = [f"… {len(inner) - 4} more"] if len(inner) > 4 else []
            parts.append(f"children=[{', '.join(names + more)}]")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __dir__(self) -> list[str]:
        """What users need: neither hooks nor what operators ask of each other."""
        internal = {name for kind in type(self).__mro__ for name in vars(kind).get("_internal", ())}
        hidden = internal | {name for name in super().__dir__() if name[0] == "_" != name[1:2]}
        return [name for name in super().__dir__() if name not in hidden]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Arrays in memory of their own, which are differentiated as the originals are."""
        return tree.map_parts(
            self,
            lambda leaf: backend_of(leaf).snapshot(leaf),
            lambda child: copy.deepcopy(child, memo),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, content in state.items():
            snapshot = tree.map_leaves(content, lambda leaf: backend_of(leaf).snapshot(leaf))
            object.__setattr__(self, name, snapshot)


def _untracked(array: Array) -> Array:
    backend = backend_of(array)
    values = backend.values(array) if backend.is_tracked(array) else array
    return array if values is None else values


def _is_structured(vector: Any) -> bool:
    """Whether it is a dict, list or tuple of vectors; not a list of numbers."""
    several = isinstance(vector, (list, tuple))
    return isinstance(vector, dict) or (
        several and any(isinstance(v, (dict, tuple)) or getattr(v, "shape", ()) for v in vector)
    )


def common_shape(ops: tuple[LinearOperator, ...], which: str) -> Shape:
    """The ``domain_shape`` or ``range_shape`` that operators share beside flat ones; else flat."""
    shapes = [getattr(op, which) for op in ops]
    flat = (size_of(shapes[0]),)
    structured = [shape for shape in shapes if shape != flat]
    if structured and all(same_form(shape, structured[0]) for shape in structured):
        return structured[0]
    return flat
