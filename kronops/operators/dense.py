"""A matrix, held as an array."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from dataclasses import InitVar
from typing import Any

from kronops import spectrum, tree
from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.caching import cached, fact
from kronops.checks import (
    as_matrix,
    finite_or_nan,
    hermitian_to_rounding,
    is_hermitian,
    nan_unless,
)
from kronops.columns import scaled_norm
from kronops.errors import LinAlgError
from kronops.explaining import Account, dense_account
from kronops.factorisation import (
    AdjointFactorisation,
    Factorisation,
    RefinedFactorisation,
    RefinedInverse,
    factorise,
    one_norm,
)
from kronops.operator import LinearOperator
from kronops.scalars import Scalar, is_real
from kronops.scaling import exponent, rescale
from kronops.sending import SentOperator
from kronops.vectors import Shape, size_of

__all__ = ["DenseOperator", "same"]

_CLAIMS = (None, "general", "symmetric", "positive definite")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DenseOperator(LinearOperator):
    """``M``: a matrix, factorised at most once.

    Parameters
    ----------
    matrix : array, shape (m, n)
        Copied. Integers become the library's default floating dtype.
    assume : {None, "general", "symmetric", "positive definite"}
        What is known of the matrix (Hermitian when complex). None: found out from the values when
        a factorisation first needs it. The answers are the same either way; only the cost differs.
    domain_shape : tuple of int, optional
        The shape of unflattened vectors, ``(n,)`` by default.
    check_finite : bool
        Whether NaN and infinity are looked for.

    Raises
    ------
    ValueError
        Not two axes; NaN or infinite entries; a matrix claimed symmetric that is not (rounding
        passes); a ``domain_shape`` of another size.
    TypeError
        Not an array; masked or object arrays.

    Notes
    -----
    Solves take ``n³/3`` flops once by Cholesky when positive definite, ``2n³/3`` by LU otherwise,
    then ``2n²`` for each right-hand side. Beyond condition numbers of ``1/√eps`` these are refined
    once, at ``10n²``, with a residual as accurate as in twice the precision: the forward error of
    ``κ eps`` is squared. Not in JAX's traced functions, nor where derivatives are followed.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> op = kronops.DenseOperator(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> op.solve(np.array([3.0, 3.0]))
    array([1., 1.])
    """

    matrix: Array
    assume: str | None = None
    domain_shape: Shape = dataclasses.field(default=None, kw_only=True)
    check_finite: InitVar[bool] = dataclasses.field(default=True, kw_only=True)
    name: str = dataclasses.field(default="matrix", kw_only=True, compare=False)
    _internal = (
        "adopt",
        "check_finite",
        "factorised",
        "inverse_matrix",
        "name",
        "scaled_entries",
        "trusted",
        "with_matrix",
        "written_inverse",
    )

    def __post_init__(self, check_finite: bool) -> None:
        if isinstance(self.assume, str):  # a NumPy string becomes a plain one
            object.__setattr__(self, "assume", str(self.assume))
        if not isinstance(self.assume, (str, type(None))) or self.assume not in _CLAIMS:
            raise ValueError(f"assume = {self.assume!r}: one of {_CLAIMS} would do")
        matrix = as_matrix(self.matrix, self.name, check_finite)
        shape = (matrix.shape[1],) if self.domain_shape is None else self.domain_shape
        if size_of(shape) != matrix.shape[1]:
            raise ValueError(f"domain_shape = {shape}: {matrix.shape[1]} entries are needed")
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "domain_shape", shape)
        claimed = self.assume in ("symmetric", "positive definite")
        if claimed and self.backend.values(matrix) is not None and not is_hermitian(matrix):
            raise ValueError(
                f'{self._label} is not symmetric, which assume="{self.assume}" claims: '
                f"symmetrise it, or leave assume out"
            )

    @fact
    def dtype(self) -> Any:
        return self.matrix.dtype

    @property
    def shape(self) -> tuple[int, int]:
        if self.matrix.ndim != 2:
            raise ValueError(
                f"{self.name} has shape {tuple(self.matrix.shape)}: a stack of operators, which is "
                f"used under jax.vmap, as it was made"
            )
        rows, columns = self.matrix.shape
        return rows, columns

    @cached
    def hermitian(self) -> bool:
        """Of a variable only what is claimed: its derivatives are in all directions."""
        if self.assume is None:
            return not self._tracked and is_hermitian(self.matrix)
        return self.assume != "general"

    def _matmat(self, x: Array) -> Array:
        return self.backend.xp.matmul(self._entries, x)

    _step_kind = "dense"

    def _step_array(self) -> Array:
        return self._entries

    @cached
    def _entries(self) -> Array:
        """The matrix; its Hermitian part if it is claimed Hermitian, and varies or is hidden.

        NaN, if it is hidden that the claim is false.
        """
        claimed = self.assume in ("symmetric", "positive definite")
        hidden = self.backend.values(self.matrix) is None
        if not (claimed and (hidden or self._tracked)):
            return self.matrix
        part = 0.5 * self.matrix + 0.5 * self.backend.adjoint(self.matrix)
        if not hidden or self.backend.lazy:
            return part
        return nan_unless(hermitian_to_rounding(self.matrix), part)

    @cached
    def _finite(self) -> Array:
        """The entries where more than a product is made of them."""
        return finite_or_nan(self._entries)

    def _apply_last(self, x: Array) -> Array:
        return self.backend.xp.matmul(x, self._transposed)

    @cached
    def _transposed(self) -> Array:
        return self.backend.xp.matrix_transpose(self._entries)

    def _adjoint(self) -> LinearOperator:
        if self.assume not in (None, "general"):
            return self
        made = self.with_matrix(self.backend.adjoint(self.matrix), self.assume)
        if "_solver" in self.__dict__:  # one factorisation serves both
            made.__dict__.update(_solver=self._solver.adjoint(), _condition=self._condition)
        return made

    def _transpose(self) -> LinearOperator:
        if not self._complex:
            return self.H
        return self.with_matrix(self._transposed, self.assume)

    # -- factorisations ------------------------------------------------------------------------

    @cached
    def _factorisation(self) -> Any:
        """A `Factorisation`, or what stands for one that a task will make."""
        later = functools.partial(_factorised, assume=self.assume, name=self.name)
        deferred = self.backend.deferred(later, self._finite)
        return self._factorise() if deferred is None else deferred

    def _factorise(self) -> Factorisation:
        claimed = self.assume == "positive definite"
        return factorise(self._finite, self.hermitian, claimed, self._label)

    @cached
    def _solver(self) -> Factorisation | AdjointFactorisation | RefinedInverse:
        if RefinedInverse.serves(self.matrix, self._condition):
            return RefinedInverse(self.matrix, self._factorisation.inverse())
        made: Factorisation = self._factorisation
        ill = RefinedFactorisation.serves(self.matrix, self._condition)
        return made.refined(self.matrix) if ill else made

    @cached
    def _condition(self) -> float:
        """An estimate of the condition number, of a matrix not too near to a singular one."""
        if self._untracked is self and self.backend.values(self.matrix) is not None:
            return float(self._factorisation.check_condition(self.matrix, self._label))
        return math.inf  # nobody knows

    @property
    def factorised(self) -> bool:
        """Whether a factorisation is kept already."""
        return "_factorisation" in self.__dict__

    def adopt(self, made: Factorisation, condition: float, inverse: Array) -> None:
        """Keep what was computed for many definite matrices at once, as if it were made here."""
        self.__dict__.update(hermitian=True, _factorisation=made, _condition=condition)
        if RefinedInverse.serves(self.matrix, condition):
            self.__dict__["_solver"] = RefinedInverse(self.matrix, inverse)
        self.__dict__["written_inverse"] = inverse if condition <= self._most_written else None

    def inverse_matrix(self) -> Array:
        """The inverse, written out; if nobody has looked at the condition, that is then exact.

        A factorisation that is made for it alone gives its memory, and is not kept.
        """
        known = "_condition" in self.__dict__ or self._untracked is not self
        if known or self.backend.values(self.matrix) is None:
            return self._solver.inverse()
        kept: Factorisation | None = self.__dict__.get("_factorisation")
        with self.backend.eager():
            factorisation = self._factorise() if kept is None else kept
            made = factorisation.inverse(last=kept is None)
            condition = factorisation.check_condition(self.matrix, self._label, inverse=made)
        self.__dict__["_condition"] = condition
        return made

    @cached
    def written_inverse(self) -> Array | None:
        """The inverse's matrix, if products with it are as good as solves; else None.

        They have a backward error of about ``κ eps / 4``, which is within what solves are allowed,
        ``10 n eps``, for condition numbers up to ``10 n`` (tests/test_inverses.py).
        """
        if self._condition > self._most_written:  # an estimate from below, which may save the rest
            return None
        inverse = self._solver.inverse()
        condition = one_norm(self.matrix) * one_norm(inverse) if self.shape[0] else 0.0
        return inverse if condition <= self._most_written else None

    @property
    def _most_written(self) -> int:
        """The largest condition number of a matrix whose inverse is as good as solves."""
        return 10 * self.shape[0]

    @cached
    def _determinant(self) -> tuple[Array, Array]:
        if self._untracked is not self:
            _ = self._untracked._determinant  # for its warnings
        elif "_condition" not in self.__dict__ and self.backend.values(self.matrix) is not None:
            self._factorisation.check_condition(self.matrix, self._label, refuse=False)
        sign, logabsdet = self._factorisation.slogdet()
        return sign, logabsdet

    @cached
    def _spectrum(self) -> tuple[Array, Array]:
        self._require_hermitian()
        matrix = finite_or_nan(self.matrix)
        values, vectors = self.backend.eigh(0.5 * matrix + 0.5 * self.backend.adjoint(matrix))
        if self.assume == "positive definite":
            values = spectrum.require_positive(values, self._label)
        certain = self._hermitian_or_nan
        return (values, vectors) if certain is None else (values * certain, vectors * certain)

    def _solve(self, x: Array) -> Array:
        if x.ndim == 2 or isinstance(self._solver, RefinedInverse):
            return self._solver.solve(x)
        xp = self.backend.xp
        rolled = xp.moveaxis(x, (-2,), (0,))
        wide = xp.reshape(rolled, (x.shape[-2], math.prod(rolled.shape[1:])))
        return xp.moveaxis(xp.reshape(self._solver.solve(wide), rolled.shape), (0,), (-2,))

    def _slogdet(self) -> tuple[Array, Array]:
        try:
            return self._determinant
        except LinAlgError:
            if self.assume == "positive definite":
                raise
            zero = self.backend.xp.zeros((), dtype=self.dtype, device=self.device)
            return zero, self.backend.xp.abs(zero) - math.inf

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        values, vectors = self._spectrum
        return values, self.with_matrix(vectors)

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        u, values, vh = self.backend.svd(self._finite)
        left, right = (
            DenseOperator(vectors, "general", check_finite=False, name="singular vectors")
            for vectors in (u, self.backend.adjoint(vh))
        )
        return left, values, right

    def _power(self, p: float) -> LinearOperator:
        if p.is_integer():
            return super()._power(p)
        values = self._spectrum[0]
        if p < 0:
            spectrum.check_condition(values, True, self._label)
        return self._spectral(spectrum.power(values, p, self._label))

    def _expm(self) -> LinearOperator:
        if self.hermitian and not self._tracked:  # eigenvectors are not differentiated
            return self._spectral(spectrum.exp(self._spectrum[0], self._label))
        made = self.backend.expm(self._finite)
        seen = self.backend.values(made)
        if seen is not None and not bool(self.backend.xp.all(self.backend.xp.isfinite(seen))):
            raise OverflowError(
                f"the exponential of {self._label} is out of the range of its dtype"
            )
        return self.with_matrix(made, "symmetric" if self.hermitian else None)

    def _logm(self) -> LinearOperator:
        values = self._spectrum[0]
        spectrum.check_condition(values, False, self._label)
        return self._spectral(spectrum.log(values, self._label))

    def _spectral(self, values: Array) -> LinearOperator:
        """The matrix with its eigenvectors and other, real eigenvalues."""
        vectors = self._spectrum[1]
        made = self.backend.xp.matmul(vectors * values, self.backend.adjoint(vectors))
        return self.with_matrix(0.5 * made + 0.5 * self.backend.adjoint(made), "symmetric")

    def _cholesky(self) -> LinearOperator:
        self._require_hermitian()
        definite = self.hermitian and self._factorisation.definite
        made = self._factorisation if definite else factorise(self._finite, True, True, self._label)
        if not made.definite:
            raise LinAlgError(f"{self._label} is not positive definite")
        lower, certain = made.cholesky(), self._hermitian_or_nan
        return self.with_matrix(lower if certain is None else lower * certain, "general")

    def _root(self) -> LinearOperator:
        try:
            return self._cholesky()
        except LinAlgError:
            return self.sqrt()  # semidefinite, or an error that says what is wrong

    def _account(self, operation: str, columns: int) -> Account:
        m, n = self.shape
        if operation == "multiply":
            return Account(self, "A x", m * max(2 * n - 1, 0) * columns, m * n + (m + n) * columns)
        general = not self.hermitian and self.backend.values(self.matrix) is not None
        if general and operation == "eigh":
            return Account(self, "refused, for A is not Hermitian")
        definite = False if general else (self.assume == "positive definite" or None)
        if "_factorisation" in self.__dict__:
            definite = self._factorisation.definite
        refined = isinstance(self.__dict__.get("_solver"), RefinedFactorisation)
        return dense_account(self, operation, columns, definite, refined)

    # -- cheaper than the defaults -------------------------------------------------------------

    def _exponent(self) -> int:
        return exponent(self.matrix)

    def _diagonal(self) -> Array:
        return self.backend.copy(self.backend.xp.linalg.diagonal(self._entries))

    def _to_dense(self) -> Array:
        return self.backend.copy(self._entries)

    def _masked(self, kept: Array) -> LinearOperator:
        return self.with_matrix(self._submatrix(kept, kept), self.assume)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        """What shrinks the matrix goes first: of a Kronecker product there are many rows."""
        take = self.backend.xp.take
        if rows.shape[0] > columns.shape[0]:
            return take(take(self._entries, columns, axis=1), rows, axis=0)
        return take(take(self._entries, rows, axis=0), columns, axis=1)

    def _norm(self, ord: Any) -> Array:
        if ord == "fro":
            return scaled_norm(self.backend.xp, self._entries)
        xp = self.backend.xp
        made = xp.linalg.matrix_norm(self.backend.wide(self._finite), ord=ord)
        return xp.astype(made, self.backend.real_dtype(self.dtype), copy=False)

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        if not is_real(scalar):
            return super()._shifted(scalar)
        keeps = self.assume in (None, "general") or is_array(scalar) or scalar >= 0
        claim = self.assume if keeps else "symmetric"
        if not is_array(scalar):
            return self.with_matrix(self.backend.shifted(self.matrix, scalar), claim)
        identity = self.backend.xp.eye(self.shape[0], dtype=self.dtype, device=self.device)
        return self.with_matrix(self.matrix + rescale(identity, [scalar]), claim)

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        """Python scalars stay beside the matrix, and its factorisation is kept."""
        return self.scaled_entries(scalar) if is_array(scalar) else None

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        if isinstance(other, DenseOperator) and other.domain_shape == self.domain_shape:
            return self.with_matrix(self._entries + other._entries)
        return None

    @staticmethod
    def trusted(
        matrix: Array, assume: str | None, name: str = "matrix", domain_shape: Shape = None
    ) -> DenseOperator:
        """Of a matrix that was made here and is nobody else's: neither copied nor checked."""
        shape = (matrix.shape[1],) if domain_shape is None else domain_shape
        fields = {"matrix": matrix, "assume": assume, "domain_shape": shape, "name": name}
        made: DenseOperator = tree.rebuild(DenseOperator, fields)
        return made

    def with_matrix(self, matrix: Array, assume: str | None = None) -> DenseOperator:
        """Another matrix in the same place, made here."""
        same_width = matrix.shape[1] == self.matrix.shape[1]
        shape = self.domain_shape if same_width else None
        return self.trusted(matrix, assume, self.name, shape)

    def scaled_entries(self, scalar: Scalar) -> DenseOperator:
        """The multiple, written out."""
        claimed = self.assume in ("symmetric", "positive definite") and is_real(scalar)
        return self.with_matrix(rescale(self._entries, [scalar]), "symmetric" if claimed else None)

    @property
    def _label(self) -> str:
        return f"{self.name} ({self.shape[0]} x {self.shape[1]})"

    @property
    def _hermitian_or_nan(self) -> Array | None:
        """One where the matrix is Hermitian, else NaN; None where that is certain already."""
        believed = self.hermitian and self.backend.lazy
        if believed or self.backend.values(self.matrix) is not None:
            return None
        one = self.backend.xp.ones(
            (), dtype=self.backend.real_dtype(self.dtype), device=self.device
        )
        return nan_unless(hermitian_to_rounding(self.matrix), one)

    def _require_hermitian(self) -> None:
        visible = self.backend.values(self.matrix) is not None
        if visible and not (self.hermitian or is_hermitian(self.matrix)):
            raise LinAlgError(
                f"{self._label} is not symmetric (Hermitian), as eigh, cholesky, logm and "
                f"fractional powers need it to be; if that is rounding, take 0.5 * (A + A.conj().T)"
            )


def _factorised(matrix: Array, assume: str | None, name: str) -> SentOperator:
    """The matrix as an operator that has been factorised; what is singular says so when asked."""
    op = DenseOperator.trusted(matrix, assume, name)
    with contextlib.suppress(LinAlgError):
        _ = op._solver
    return SentOperator(op)


def same(left: LinearOperator, right: LinearOperator) -> bool:
    """Whether two operators are one: the same object, or made of equal arrays in the same way."""
    if left is right:
        return True
    if isinstance(left, DenseOperator) and isinstance(right, DenseOperator):
        return _equal(left.matrix, right.matrix)  # whatever is claimed of them
    if type(left) is not type(right) or left.shape != right.shape:
        return False
    names = [field.name for field in dataclasses.fields(left) if field.compare]
    return all(_equal(getattr(left, name), getattr(right, name)) for name in names)


def _equal(left: Any, right: Any) -> bool:
    """Whether two fields of operators are equal, as far as anybody can see."""
    if isinstance(left, LinearOperator) and isinstance(right, LinearOperator):
        return same(left, right)
    if is_array(left) and is_array(right):
        return left is right or _equal_arrays(left, right)
    if type(left) is not type(right):
        return False
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(_equal(left[key], right[key]) for key in left)
    return bool(left == right)


def _equal_arrays(left: Array, right: Array) -> bool:
    backend = backend_of(left)
    if left.shape != right.shape or left.dtype != right.dtype or backend_of(right) is not backend:
        return False
    if backend.is_tracked(left) or backend.is_tracked(right):
        return False  # equal now, and yet two variables
    entries = backend.values(left), backend.values(right)
    left_entries, right_entries = entries
    if left_entries is None or right_entries is None:
        return False
    return bool(backend.xp.all(left_entries == right_entries))
