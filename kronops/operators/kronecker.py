"""Kronecker products of any number of factors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.caching import cached, fact
from kronops.checks import is_complex
from kronops.damping import damping_shares, mean_eigenvalue
from kronops.errors import LinAlgError
from kronops.explaining import Account, default_account
from kronops.factor_products import FactorProducts
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator, same
from kronops.operators.identity import IdentityOperator
from kronops.operators.product import ProductOperator
from kronops.operators.scaled import ScaledOperator
from kronops.scalars import (
    Scalar,
    as_scalar,
    binary_exponent,
    conjugate,
    is_real,
    real_if_real,
    scalar_power,
    unit_power,
)
from kronops.scaling import (
    dtype_exponent,
    kronecker,
    outer,
    product,
    product_of_scalars,
    rescale,
    split,
)
from kronops.vectors import as_layout, in_layout

__all__ = ["KroneckerOperator", "as_factors", "kron"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class KroneckerOperator(LinearOperator):
    """``scale · A1 ⊗ A2 ⊗ … ⊗ AN``, with ``(A ⊗ B) vec(X) = vec(A X Bᵀ)`` for row-major ``vec``.

    Parameters
    ----------
    factors : sequence of arrays or operators
        One or more, of any shapes ``(mᵢ, nᵢ)``. Kronecker products among them are flattened.
    scale : float or complex
        A Python scalar, which never changes the dtype.
    layout : {"in,out", "out,in"}
        Of ``(weights, bias)`` pairs: the bias is the last row of the matrix, or, as in PyTorch, the
        last column.
    check_finite : bool
        Whether NaN and infinity are looked for in the factors that are arrays.

    Raises
    ------
    ValueError
        No factors; a factor that is not 2-D or not finite.
    TypeError
        Factors of two libraries or devices.

    Notes
    -----
    A product with one vector costs ``2 n Σ nᵢ`` flops for square factors, against ``2 n²`` for the
    matrix. Inverse, determinant, powers and Cholesky factor are those of the factors [1]_.

    References
    ----------
    .. [1] Van Loan, The ubiquitous Kronecker product, J. Comput. Appl. Math. 123, 2000.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 4.0]])
    >>> op = kronops.KroneckerOperator([a, b])
    >>> np.allclose(op @ np.arange(4.0), np.kron(a, b) @ np.arange(4.0))
    True
    >>> op.multiply_inverse(np.ones((2, 2)))
    array([[0.33333333, 0.08333333],
           [0.33333333, 0.08333333]])
    """

    factors: tuple[LinearOperator, ...]
    scale: float | complex
    layout: str
    _internal = ("kept_basis", "sides")

    def __init__(
        self,
        factors: Iterable[Any],
        scale: Scalar = 1.0,
        *,
        layout: str = "in,out",
        check_finite: bool = True,
    ) -> None:
        flat: list[LinearOperator] = []
        given = as_factors(factors, "factors", check_finite)  # first: KroneckerOperator(A, B)
        scalars = [as_scalar(scale, "scale")]
        for factor in given:
            scalar, base = _unscaled(factor)
            scalars.append(scalar)
            if isinstance(base, KroneckerOperator):
                scalars.append(base.scale)
                flat.extend(base.factors)
            else:
                flat.append(base)
        total = _fold_scale(scalars, flat)
        object.__setattr__(self, "factors", tuple(flat))
        object.__setattr__(self, "scale", total)
        object.__setattr__(self, "layout", as_layout(layout))
        self._check_one_home()

    @fact
    def shape(self) -> tuple[int, int]:
        return math.prod(self.range_shape), math.prod(self.domain_shape)

    @fact
    def domain_shape(self) -> tuple[int, ...]:
        return in_layout(tuple(factor.shape[1] for factor in self.factors), self.layout)

    @fact
    def range_shape(self) -> tuple[int, ...]:
        return in_layout(tuple(factor.shape[0] for factor in self.factors), self.layout)

    @cached
    def hermitian(self) -> bool:
        real = is_real(real_if_real(self.scale))
        return real and all(factor.hermitian for factor in self.factors)

    # -- products ------------------------------------------------------------------------------

    def _matmat(self, x: Array) -> Array:
        *batch, _, columns = x.shape
        if not batch:
            return self.backend.reshape(self._products(x, 1, columns), (self.shape[0], columns))
        made = self._products(x, math.prod(batch), columns)
        return self.backend.reshape(made, (*batch, self.shape[0], columns))

    def _apply_last(self, x: Array) -> Array:
        batch = x.shape[:-1]
        if not batch:
            return self.backend.reshape(self._products(x, 1, 1), (self.shape[0],))
        made = self._products(x, math.prod(batch), 1)
        return self.backend.reshape(made, (*batch, self.shape[0]))

    @property
    def _products(self) -> FactorProducts:
        """The factors' products, with all that they keep: plans, merged factors."""
        products = self.__dict__.get("_kept_products")
        if products is None:
            products = FactorProducts(self)
            if not products.tracked:
                self.__dict__["_kept_products"] = products
        return products

    def _exponent(self) -> int:
        return sum(factor._exponent() for factor in self.factors) + binary_exponent(self.scale)

    def _adjoint(self) -> KroneckerOperator:
        return self._with([factor.H for factor in self.factors], conjugate(self.scale))

    def _transpose(self) -> KroneckerOperator:
        return self._with([factor.T for factor in self.factors], self.scale)

    # -- the same function of each factor ------------------------------------------------------

    def _inverse(self) -> LinearOperator:
        if self.scale == 0:
            raise LinAlgError("scale = 0: a Kronecker product of nothing has no inverse")
        self._require_square_factors("inverse")
        return self._with([factor.inverse() for factor in self.factors], 1 / self.scale)

    def _power(self, p: float) -> LinearOperator:
        if p == 0 or not self._square_factors:
            return super()._power(p)
        if p.is_integer() and p < 0:
            return self.inverse().power(-p)
        scale, factors = (self.scale, self.factors) if p.is_integer() else self._positive_parts()
        if p.is_integer() and not self._products.surely_moderate:
            return ProductOperator.of_copies(
                self, int(p)
            )  # powers of extreme factors leave the range
        powers = [factor.power(p) for factor in factors]
        return self._with(powers, scalar_power(scale, p))

    def _cholesky(self) -> LinearOperator:
        if not self._square_factors:
            return super()._cholesky()
        scale, factors = self._positive_parts()
        return self._with([factor.cholesky() for factor in factors], math.sqrt(scale))

    def _logm(self) -> LinearOperator:
        """``log(A ⊗ B) = log(A) ⊕ log(B)``."""
        if not self._square_factors:
            return super()._logm()
        scale, factors = self._positive_parts()
        total = self._algebra.kronecker_sum([factor._logm() for factor in factors])
        return total if scale == 1 else total._shifted(math.log(scale))

    def _root(self) -> LinearOperator:
        if not self._square_factors:
            return super()._root()
        if self.scale == 0:
            return self
        scale, factors = self._positive_parts()
        return self._with([factor._root() for factor in factors], math.sqrt(scale))

    def _positive_parts(self) -> tuple[float, list[LinearOperator]]:
        """Scale and factors of positive sign: two negative definite factors make a positive one."""
        signs = [-1.0 if _negative_corner(factor) else 1.0 for factor in self.factors]
        scale = real_if_real(self.scale) * math.prod(signs)
        if isinstance(scale, complex) or scale <= 0:
            signs_say = (
                f"the signs of its factors and of scale = {self.scale} make it negative, zero or "
                f"complex"
            )
            crooked = (i for i, factor in enumerate(self.factors) if not factor.hermitian)
            place = next(crooked, None)
            why = signs_say if place is None else f"factors[{place}] is not symmetric"
            raise LinAlgError(f"the Kronecker product is not positive definite: {why}")
        return scale, [sign * factor for sign, factor in zip(signs, self.factors, strict=True)]

    # -- numbers -------------------------------------------------------------------------------

    def _slogdet(self) -> tuple[Array, Array]:
        xp = self.backend.xp
        sign = xp.ones((), dtype=self.dtype, device=self.device)
        logabsdet = xp.abs(xp.zeros((), dtype=self.dtype, device=self.device))
        n = self.shape[0]
        if n == 0:
            return sign, logabsdet
        if not self._square_factors or self.scale == 0:
            return 0 * sign, logabsdet - math.inf  # the rank is at most Π min(mᵢ, nᵢ) < n
        for factor in self.factors:
            times = n // factor.shape[0]
            factor_sign, factor_log = factor._slogdet()
            sign = sign * _unit_power(factor_sign, times)
            logabsdet = logabsdet + times * factor_log
        size = abs(self.scale)
        sign = rescale(sign, [unit_power(self.scale / size, n)])
        return sign, logabsdet + n * math.log(size)

    def _trace(self) -> Array:
        if not self._square_factors:
            return super()._trace()
        return product([factor._trace() for factor in self.factors], self.scale)

    def _diagonal(self) -> Array:
        if not self._square_factors:
            return self._diagonal_by_index()
        diagonals = [factor._diagonal() for factor in self.factors]
        return outer(diagonals, self.scale)

    def _diagonal_by_index(self) -> Array:
        """Entry ``k`` sits in row ``r`` and column ``c`` of each factor, by the digits of ``k``."""
        xp = self.backend.xp
        row = column = xp.arange(self.shape[0], device=self.device)
        entries = []
        for factor in reversed(self.factors):
            rows, columns = factor.shape
            flat = xp.reshape(factor._to_dense(), (-1,))
            entries.append(xp.take(flat, (row % rows) * columns + column % columns))
            row, column = row // rows, column // columns
        return product(entries, self.scale)

    def _to_dense(self) -> Array:
        return kronecker([factor._to_dense() for factor in self.factors], self.scale)

    def _entry(self, row: int, column: int) -> Array:
        entries = []
        for factor in reversed(self.factors):
            (row, i), (column, j) = divmod(row, factor.shape[0]), divmod(column, factor.shape[1])
            entries.append(factor._entry(i, j))
        return product(entries, self.scale)

    def _column(self, column: int) -> Array:
        columns: list[Array] = []
        for factor in reversed(self.factors):
            column, j = divmod(column, factor.shape[1])
            columns.insert(0, factor._column(j))
        return outer(columns, self.scale)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        """The product of the factors' entries, at the digits of the rows and of the columns."""
        parts = []
        for factor in reversed(self.factors):
            m, n = factor.shape
            parts.append(factor._submatrix(rows % m, columns % n))
            rows, columns = rows // m, columns // n
        return product(parts, self.scale)

    def _norm(self, ord: Any) -> Array:
        return product([factor._norm(ord) for factor in self.factors], abs(self.scale))

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        if not self._square_factors:
            return super()._eigenbasis()
        spectra = [self.backend.xp.reshape(v, (-1,)) for v, _ in self._factor_spectra]
        return outer(spectra, self.scale), self.kept_basis

    # -- singular values -----------------------------------------------------------------------

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        if self._triplets[1].shape[0] < min(self.shape):  # wide and tall factors
            return self._algebra.complete_svd(self._triplets)
        return self._triplets

    @cached
    def _triplets(self) -> tuple[LinearOperator, Array, LinearOperator]:
        """Singular vectors and values by those of the factors, but for values that are zero."""
        lefts, values, rights = zip(*(factor._kept_svd for factor in self.factors), strict=True)
        size = abs(self.scale)
        phase = self.scale / size if size else 1.0
        return KroneckerOperator(lefts, phase), outer(values, size), KroneckerOperator(rights)

    def _spectral_norm(self) -> Array:
        return product([factor._spectral_norm() for factor in self.factors], abs(self.scale))

    def _truncated(self, rtol: float) -> LinearOperator:
        if not all(self.shape):
            return super()._truncated(rtol)
        made = self._truncated_by_factors(rtol)
        if made is not None:
            return made
        tops = [self.backend.values(factor._spectral_norm()) for factor in self.factors]
        powers = [math.frexp(float(top))[1] for top in tops if top is not None]
        if abs(sum(powers) + binary_exponent(self.scale)) > dtype_exponent(self._like) - 4:
            raise OverflowError(
                "the norm of the Kronecker product is out of range, and its rank is not that of "
                "its factors: multiply these by powers of ten first"
            )
        return super()._truncated(rtol)

    def _pinv(self, cutoff: Array) -> LinearOperator:
        largest = self.backend.values(self._spectral_norm())
        if largest is None or largest == 0:
            return self._algebra.truncated_inverse(*self._triplets, cutoff)
        made = self._truncated_by_factors(cutoff / largest)
        return made or self._algebra.truncated_inverse(*self._triplets, cutoff)

    def _truncated_by_factors(self, rtol: Any) -> LinearOperator | None:
        """The pseudo-inverse factor by factor, if it keeps what ``rtol`` keeps of the product.

        A triplet of a factor is needed if it is kept beside the largest of the others. Then so are
        all products of such triplets, or the product of the smallest ones is not.
        """
        if self.scale == 0:
            return None
        xp, cutoffs, least = self.backend.xp, [], []
        for factor in self.factors:
            values, top = factor._kept_svd[1], factor._spectral_norm()
            if not self.backend.values(top):  # nobody sees it, or it is zero
                return None
            cutoffs.append(top * rtol)
            least.append(xp.min(xp.where(values > cutoffs[-1], values, top)) / top)
        if not bool(self.backend.values(product(least, 1.0) > rtol)):
            return None
        parts = [factor._pinv(own) for factor, own in zip(self.factors, cutoffs, strict=True)]
        return self._with(parts, 1 / self.scale)

    # -- damping -------------------------------------------------------------------------------

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        if not self._square_factors:
            return super()._shifted(scalar)
        return self._algebra.shift_kronecker(self, scalar)

    @cached
    def _factor_spectra(self) -> list[tuple[Array, LinearOperator]]:
        return [factor._eigenbasis() for factor in self.factors]

    @property
    def kept_basis(self) -> KroneckerOperator:
        """The product of the factors' eigenbases, which serve all values of the damping."""
        return self._with([basis for _, basis in self._factor_spectra], 1.0)

    def _factored(self, value: Scalar, pi: str | float, refine: bool) -> LinearOperator:
        self._require_square_factors("factored damping")
        means = [mean_eigenvalue(factor.trace(), factor.shape[0]) for factor in self.factors]
        shares = damping_shares(means, value, pi)
        damped = [f._damped(d, refine) for f, d in zip(self.factors, shares, strict=True)]
        return self._with(damped, self.scale)

    # -- closed forms --------------------------------------------------------------------------

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        if is_array(scalar):
            first, *rest = self.factors
            return self._with([self._algebra.scale(scalar, first), *rest], self.scale)
        try:
            return self._with(self.factors, scalar, self.scale)
        except OverflowError:
            return None

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        """``(A ⊗ B)(C ⊗ D) = A C ⊗ B D``."""
        if not isinstance(other, KroneckerOperator) or self.layout != other.layout:
            return None
        return self._algebra.mixed_product(self, other)

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        """``A⊗B + A⊗C = A⊗(B + C)``, and ``A⊗I + I⊗B = A ⊕ B``."""
        if not isinstance(other, KroneckerOperator) or len(other.factors) != len(self.factors):
            return None
        if self.layout != other.layout:
            return None
        pairs = list(zip(self.factors, other.factors, strict=True))
        different = [i for i, (a, b) in enumerate(pairs) if not same(a, b)]
        if not different:
            return self._with(self.factors, self.scale + other.scale)
        if any(pairs[i][0].shape != pairs[i][1].shape for i in different):
            return None
        if len(different) > 1:
            return self._sum_of_sides(other) if self.layout == "in,out" else None
        a, b = pairs[different[0]]
        factors = list(self.factors)
        factors[different[0]] = self.scale * a + other.scale * b
        return self._with(factors, 1.0)

    def _sum_of_sides(self, other: KroneckerOperator) -> LinearOperator | None:
        """``A⊗I⊗I + I⊗I⊗B = A ⊕ 0 ⊕ B``."""
        if not len(self.sides) == len(other.sides) == 1:
            return None
        factors: list[LinearOperator] = [0.0 * factor for factor in self.factors]
        for op in (self, other):
            (side,) = op.sides
            factors[side] = op.scale * op.factors[side]
        return self._algebra.kronecker_sum(factors)

    @property
    def sides(self) -> list[int]:
        """The indices of the factors that are no identities."""
        return [i for i, f in enumerate(self.factors) if not isinstance(f, IdentityOperator)]

    def _account(self, operation: str, columns: int) -> Account:
        if operation == "multiply":
            return self._products.account(self, columns)
        identities = {
            "multiply_inverse": "(A ⊗ B)⁻¹ = A⁻¹ ⊗ B⁻¹",
            "logdet": "log |A ⊗ B| = n_B log |A| + n_A log |B|",
            "eigh": "the products of the factors' eigenvalues, and A ⊗ B of their eigenvectors",
        }
        if not self._square_factors:
            if operation == "eigh":
                return default_account(self, operation, columns, own=False)
            return Account(self, "singular: not all factors are square")
        n = self.shape[0]
        vectors = n * columns if operation == "multiply_inverse" else 0
        parts = [
            factor._account(operation, vectors // max(factor.shape[0], 1) or 1)
            for factor in self.factors
        ]
        values = n if operation == "eigh" else 0
        return Account(self, identities[operation], values, values, parts=parts)

    # -- inside --------------------------------------------------------------------------------

    def _with(self, factors: Sequence[LinearOperator], *scalars: Scalar) -> KroneckerOperator:
        """Other factors in the same layout, times scalars whose product may be out of range."""
        folded = list(factors)
        scale = _fold_scale(scalars, folded)
        return KroneckerOperator(folded, scale, layout=self.layout)

    @fact
    def _square_factors(self) -> bool:
        return all(factor._square for factor in self.factors)

    def _require_square_factors(self, what: str) -> None:
        for index, factor in enumerate(self.factors):
            if not factor._square:
                raise LinAlgError(
                    f"{what}: factors[{index}] has shape {factor.shape}, so the Kronecker product "
                    f"is singular although it is square; all factors must be square"
                )


def kron(*factors: Any) -> KroneckerOperator:
    """``A1 ⊗ … ⊗ AN`` of arrays or operators: short for `KroneckerOperator`.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> kronops.kron(np.ones((2, 3)), np.ones((4, 5)))
    KroneckerOperator(shape=(8, 15), dtype=float64, backend=numpy, children=[DenseOperator(2, 3), DenseOperator(4, 5)])
    """  # noqa: E501
    return KroneckerOperator(factors)


def sample_of_sum(base: KroneckerOperator, shift: Scalar, normals: Normals) -> Array:
    """Draws with covariance ``base + shift·I``: one for each term, without an eigenvector."""
    identity = IdentityOperator(base.shape[0], like=base._like)
    return base._sample(normals) + (identity * shift)._sample(normals)


def as_factors(factors: Iterable[Any], name: str, check_finite: bool) -> tuple[LinearOperator, ...]:
    """A non-empty sequence of arrays and operators as operators, arrays named ``name[i]``."""
    if is_array(factors) or isinstance(factors, (LinearOperator, dict, str)):
        raise TypeError(
            f"{name} is a {type(factors).__name__}: a list of arrays or operators is needed"
        )
    if not isinstance(factors, Iterable):
        raise TypeError(f"{name} is a {type(factors).__name__}: a list of arrays is needed")
    made = tuple(
        factor
        if isinstance(factor, LinearOperator)
        else DenseOperator(factor, name=f"{name}[{index}]", check_finite=check_finite)
        for index, factor in enumerate(factors)
    )
    if not made:
        raise ValueError(f"{name} is empty: one array or operator at least is needed")
    return made


def _fold_scale(scalars: Iterable[Scalar], factors: list[LinearOperator]) -> Scalar:
    """The product of ``scalars``; what is out of a float's range goes into matrices among factors.

    Powers of two go into the matrices whose size they counteract, exactly.
    """
    mantissa, power = product_of_scalars(scalars)
    for index, factor in enumerate(factors):
        if abs(power) < 1000 or not isinstance(factor, DenseOperator):
            continue
        wanted = power + (-900 if power > 0 else 900)
        limit = dtype_exponent(factor.matrix) * 7 // 8
        low, high = -limit - factor._exponent(), limit - factor._exponent()
        part = max(min(wanted, high), low)
        parts = split(1.0, part, dtype_exponent(factor.matrix))
        factors[index] = factor.with_matrix(rescale(factor.matrix, parts))
        power -= part
    if mantissa != 0 and abs(power) > 1020:
        raise OverflowError(
            f"the scale of the Kronecker product is about 2**{power}, which no float holds"
        )
    return mantissa * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)


def _unscaled(op: LinearOperator) -> tuple[Scalar, LinearOperator]:
    if isinstance(op, ScaledOperator) and not is_array(op.scalar):
        return op.scalar, op.base
    return 1.0, op


def _negative_corner(factor: LinearOperator) -> bool:
    diagonal = factor.backend.values(factor._diagonal())
    return diagonal is not None and bool(factor.shape[0]) and complex(diagonal[0]).real < 0


def _unit_power(sign: Array, times: int) -> Array:
    """``sign ** times`` of an array of magnitude one (or zero) and an exact integer."""
    if is_complex(sign):
        return sign ** float(times)
    return sign if times % 2 else sign * sign
