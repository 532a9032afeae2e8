"""A matrix of low rank added to an operator."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kronops import tree
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import as_matrix, epsilon
from kronops.columns import submatrix
from kronops.errors import LinAlgError, LinAlgWarning, warn
from kronops.explaining import Account, default_account
from kronops.factorisation import singular
from kronops.linear_system import solve
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.inverse import InverseOperator
from kronops.operators.scaled import identity_multiple
from kronops.operators.sum import SumOperator
from kronops.refinement import norm_estimate, refined
from kronops.scalars import Scalar
from kronops.scaling import exponent, largest
from kronops.vectors import Shape

__all__ = ["LowRankInverseOperator", "LowRankUpdateOperator"]

_CANCELLED = 100.0  # times by which rounding may be magnified on a diagonal that is not refined


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class LowRankUpdateOperator(LinearOperator):
    """``B + U C Vᴴ``: a structured operator and a correction of low rank.

    Parameters
    ----------
    base : LinearOperator or array, shape (m, n)
        ``B``.
    u : array, shape (m, k)
    c : array or operator, shape (k, k), optional
        May be singular. None is the identity.
    v : array, shape (n, k), optional
        None is ``u``: then the update is Hermitian if ``c`` is.
    check_finite : bool
        Whether NaN and infinity are looked for.

    Raises
    ------
    ValueError
        Shapes that do not fit; NaN or infinite entries.
    TypeError
        Arrays of two libraries or devices.
    LinAlgError
        From solves and determinants: ``B`` is singular, or so nearly that its inverse has lost
        what the update adds, or the whole is.

    Notes
    -----
    The inverse is the one of Woodbury [1]_,

        ``(B + U C Vᴴ)⁻¹ = B⁻¹ - B⁻¹ U (I + C Vᴴ B⁻¹ U)⁻¹ C Vᴴ B⁻¹``,

    a low-rank update of ``B⁻¹``; the determinant is that of ``B`` times that of the ``k × k``
    matrix in brackets. Both take ``2 k`` solves with ``B`` and ``O(n k²)`` flops once. A solve is
    then two products with ``B⁻¹`` and one with the operator, for as it stands the identity
    loses the digits by which ``B⁻¹ b`` exceeds the solution [2]_: residuals are refined away,
    by one step where ``B`` is well-conditioned, and by more for as long as they fall.

    References
    ----------
    .. [1] Hager, Updating the inverse of a matrix, SIAM Review 31, 1989.
       https://doi.org/10.1137/1031049
    .. [2] Yip, A note on the stability of solving a rank-p modification of a linear system by the
       Sherman-Morrison-Woodbury formula, SIAM J. Sci. Stat. Comput. 7, 1986.
       https://doi.org/10.1137/0907034

    Examples
    --------
    >>> import numpy as np, kronops
    >>> base = kronops.DiagonalOperator(np.array([1.0, 2.0, 4.0]))
    >>> op = kronops.LowRankUpdateOperator(base, np.ones((3, 1)))
    >>> op.to_dense()
    array([[2., 1., 1.],
           [1., 3., 1.],
           [1., 1., 5.]])
    >>> op.solve(np.array([4.0, 5.0, 7.0]))
    array([1., 1., 1.])
    """

    base: LinearOperator
    u: Array
    c: LinearOperator
    v: Array | None

    def __init__(
        self, base: Any, u: Any, c: Any = None, v: Any = None, *, check_finite: bool = True
    ) -> None:
        u = as_matrix(u, "u", check_finite)
        v = None if v is None else as_matrix(v, "v", check_finite)
        if c is None:
            c = IdentityOperator(u.shape[1], like=u)
        fields = {
            "base": _as_operator(base, "base", check_finite),
            "u": u,
            "c": _as_operator(c, "c", check_finite),
            "v": v,
        }
        for name, part in fields.items():
            object.__setattr__(self, name, part)
        self._check_shapes()
        self._check_one_home()

    def _check_shapes(self) -> None:
        (m, n), k = self.base.shape, self.u.shape[1]
        needed = {"u": (self.u, (m, k)), "c": (self.c, (k, k)), "v": (self._right, (n, k))}
        for name, (part, shape) in needed.items():
            if tuple(part.shape) != shape:
                name = "v (u, as none is given)" if name == "v" and self.v is None else name
                raise ValueError(
                    f"{name} has shape {tuple(part.shape)}: {shape} would do, beside a base of "
                    f"shape {(m, n)} and {k} columns of u"
                )

    @property
    def shape(self) -> tuple[int, int]:
        return self.base.shape

    @property
    def domain_shape(self) -> Shape:
        return self.base.domain_shape

    @property
    def range_shape(self) -> Shape:
        return self.base.range_shape

    @property
    def hermitian(self) -> bool:
        return self.v is None and self.c.hermitian and self.base.hermitian

    def _matmat(self, x: Array) -> Array:
        matmul = self.backend.xp.matmul
        inner = self.c._matmat(matmul(self.backend.adjoint(self._right), x))
        return self.base._matmat(x) + matmul(self.u, inner)

    def _adjoint(self) -> LinearOperator:
        if self.hermitian:
            return self
        right = None if self.v is None else self.u
        return self._with(self.base.H, self._right, self.c.H, right)

    def _transpose(self) -> LinearOperator:
        if not self._complex:
            return self.H
        right = None if self.v is None else self.backend.conj(self.u)
        return self._with(self.base.T, self.backend.conj(self._right), self.c.T, right)

    # -- solves and determinants ---------------------------------------------------------------

    def _inverse(self) -> LinearOperator:
        plain = self._woodbury
        fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
        made: LinearOperator = tree.rebuild(LowRankInverseOperator, fields | {"original": self})
        return made

    @cached
    def _woodbury(self) -> LowRankUpdateOperator:
        """The inverse as it stands in the identity, whose products are not refined."""
        self._check_cancellation()
        core = self._capacitance._solve(-self.c._to_dense())
        inverse = self.base.inverse()
        if self.hermitian:
            core = 0.5 * core + 0.5 * self.backend.adjoint(core)
            return self._with(inverse, self._lifted, DenseOperator(core, "symmetric"), None)
        right = inverse.H._matmat(self._right)
        return self._with(inverse, self._lifted, DenseOperator(core, check_finite=False), right)

    @cached
    def _lifted(self) -> Array:
        """``B⁻¹ U``."""
        try:
            return self.base.inverse()._matmat(self.u)
        except LinAlgError as error:
            raise LinAlgError(
                f"{error} to the base of the low-rank update: the Woodbury identity needs its "
                f"inverse (or write the sum out, DenseOperator(op.to_dense()))"
            ) from error

    @cached
    def _capacitance(self) -> DenseOperator:
        """``I + C Vᴴ B⁻¹ U``, singular where the operator is."""
        xp = self.backend.xp
        added = self.c._matmat(xp.matmul(self.backend.adjoint(self._right), self._lifted))
        one = xp.eye(added.shape[0], dtype=added.dtype, device=self.device)
        return DenseOperator(one + added, check_finite=False, name="I + C Vᴴ B⁻¹ U")

    @cached
    def _cancellation(self) -> float:
        """By how much ``I + C Vᴴ B⁻¹ U`` magnifies the rounding of its two terms.

        About the spectral radius of ``|S⁻¹| (I + |S - I|)``, in any units of the columns of ``U``.
        """
        xp, matrix = self.backend.xp, self._capacitance.matrix
        one = xp.eye(matrix.shape[0], dtype=matrix.dtype, device=self.device)
        try:
            inverse = self._capacitance._solve(one)
        except LinAlgError:
            return math.inf
        growth = xp.matmul(xp.abs(inverse), xp.abs(one) + xp.abs(matrix - one))
        return math.sqrt(xp.linalg.trace(xp.matmul(growth, growth)))

    def _check_cancellation(self, refuse: bool = True) -> None:
        if self.backend.values(self._capacitance.matrix) is None:
            return
        condition, eps = self._untracked._cancellation, epsilon(self._capacitance.matrix)
        if refuse and not condition <= 4.0 / eps:
            raise LinAlgError(singular(self._label))
        if 0.1 / eps < condition < math.inf:
            warn(
                f"{self._label} has condition number {condition:.1e} relative to its base: "
                f"few or no digits of what is computed from it may be right",
                LinAlgWarning,
            )

    @cached
    def _size(self) -> float:
        return norm_estimate(self)

    def _solve(self, x: Array) -> Array:
        advice = f"{self._label} is too far from its base, which is nearly singular; damp the base"
        return refined(self, self._woodbury._matmat, x, lambda: self._size, advice)

    def _slogdet(self) -> tuple[Array, Array]:
        self._check_cancellation(refuse=False)
        sign, logabsdet = self._capacitance._slogdet()
        other, more = self.base._slogdet()
        return sign * other, logabsdet + more

    # -- cheaper than the defaults -------------------------------------------------------------

    def _exponent(self) -> int:
        update = exponent(self.u) + self.c._exponent() + exponent(self._right)
        return max(self.base._exponent(), update)

    def _trace(self) -> Array:
        return self.base._trace() + self.backend.xp.sum(self._update_diagonal())

    def _diagonal(self) -> Array:
        return self.base._diagonal() + self._update_diagonal()

    def _to_dense(self) -> Array:
        xp = self.backend.xp
        return self.base._to_dense() + xp.matmul(self._left, self.backend.adjoint(self._right))

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        take = self.backend.xp.take
        left, right = take(self._left, rows, axis=0), take(self._right, columns, axis=0)
        update = self.backend.xp.matmul(left, self.backend.adjoint(right))
        return self.base._submatrix(rows, columns) + update

    def _sample(self, normals: Normals) -> Array:
        """A draw for each term; of the whole if a term alone is no covariance."""
        if not self.hermitian:
            return super()._sample(normals)
        try:
            update = self.backend.xp.matmul(self.u, self.c._sample(normals))
            return self.base._sample(normals) + update
        except LinAlgError:
            return super()._sample(normals)

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        return self._with(scalar * self.base, self.u, scalar * self.c, self.v)

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return self._with(self.base._shifted(scalar), self.u, self.c, self.v)

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        """What the base takes in: an operator of its own kind, or a multiple of the identity."""
        multiple = identity_multiple(other)
        if multiple is not None:
            return self._shifted(multiple)
        base = self.base + other
        return None if isinstance(base, SumOperator) else self._with(base, self.u, self.c, self.v)

    def _account(self, operation: str, columns: int) -> Account:
        k, (m, n) = self.u.shape[1], self.shape
        base = self.base._account(operation, columns)
        update = 2 * k * (m + n)
        if operation == "multiply":
            return Account(self, "B x + U (C (Vᴴ x))", update * columns, k * (m + n), parts=[base])
        once = self.base._account("multiply_inverse", k).total("flops") + update * k
        if operation == "logdet":
            return Account(self, "log |B| + log |I + C Vᴴ B⁻¹ U|", k, k, once, [base])
        if operation == "eigh":
            return default_account(self, operation, columns, own=False)
        words = "B⁻¹ - B⁻¹ U (I + C Vᴴ B⁻¹ U)⁻¹ C Vᴴ B⁻¹ (Woodbury), refined by the residual"
        parts = [base, base, self.base._account("multiply", columns)]
        return Account(self, words, 3 * update * columns, k * (m + n), once, parts)

    # -- inside --------------------------------------------------------------------------------

    @property
    def _right(self) -> Array:
        return self.u if self.v is None else self.v

    @property
    def _left(self) -> Array:
        """``U C``."""
        return self.c.T._apply_last(self.u)

    def _update_diagonal(self) -> Array:
        return self.backend.xp.sum(self._left * self.backend.conj(self._right), axis=1)

    @property
    def _label(self) -> str:
        return f"the low-rank update {self.shape}"

    def _with(
        self, base: LinearOperator, u: Array, c: LinearOperator, v: Array | None
    ) -> LowRankUpdateOperator:
        """Other parts in the same places, made here and therefore not checked again."""
        fields = {"base": base, "u": u, "c": c, "v": v}
        made: LowRankUpdateOperator = tree.rebuild(LowRankUpdateOperator, fields)
        return made


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class LowRankInverseOperator(LowRankUpdateOperator):
    """``(B + U C Vᴴ)⁻¹``: Woodbury's update of ``B⁻¹``, whose products are refined solves.

    Entries are those of solves for columns of the identity, and so is the diagonal where the update
    as it stands loses digits; what would lose the refinement is not folded into it.
    """

    original: LowRankUpdateOperator

    def _matmat(self, x: Array) -> Array:
        return solve(self.original, x)

    def _adjoint(self) -> LinearOperator:
        return self.original.H.inverse()

    def _transpose(self) -> LinearOperator:
        return self.original.T.inverse()

    def _inverse(self) -> LinearOperator:
        return self.original

    def _slogdet(self) -> tuple[Array, Array]:
        return InverseOperator(self.original)._slogdet()

    def _sample(self, normals: Normals) -> Array:
        return self._matmat(self.original._sample(normals))

    def _trace(self) -> Array:
        return self.backend.xp.sum(self._diagonal())

    def _diagonal(self) -> Array:
        """That of the update, unless it is what is left of much larger numbers."""
        made = super()._diagonal()
        cancelled = largest(self.base._diagonal()) > _CANCELLED * largest(made)
        return LinearOperator._diagonal(self) if cancelled else made

    def _to_dense(self) -> Array:
        return LinearOperator._to_dense(self)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        return submatrix(self, rows, columns)

    def _scaled(self, scalar: Scalar) -> LinearOperator | None:
        return None

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return self._algebra.shift(self, scalar)

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        return None

    def _account(self, operation: str, columns: int) -> Account:
        if operation == "eigh":
            return default_account(self, operation, columns, own=False)
        account = InverseOperator(self.original)._account(operation, columns)
        return dataclasses.replace(account, op=self)


def _as_operator(part: Any, name: str, check_finite: bool) -> LinearOperator:
    if isinstance(part, LinearOperator):
        return part
    return DenseOperator(part, name=name, check_finite=check_finite)
