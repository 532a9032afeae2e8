"""An operator whose solves and determinant are computed in more digits than its dtype has."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

from kronops import tree
from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import epsilon
from kronops.errors import LinAlgError, LinAlgWarning, warn
from kronops.explaining import Account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.scalars import Scalar, conjugate, is_real, real_if_real
from kronops.vectors import Shape

__all__ = ["RefinedOperator"]

_MOST_TERMS = 6
_ENOUGH = 0.125  # units of rounding that the digits which are left out may cost


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RefinedOperator(LinearOperator):
    """``base + shift·I``, whose solves and determinant are right to the last digits.

    Made by ``op.inverse(refine=True)``, which is its inverse, and ``op.damped(…, refine=True)``.
    Products and everything else are those of ``base`` with the shift added in its own way.

    Parameters
    ----------
    base : LinearOperator
        Square.
    shift : float or complex
        It is added without rounding: of a matrix, to a diagonal in more digits.

    Raises
    ------
    LinAlgError
        Singular; found out by the first solve.
    TypeError
        The values of the arrays cannot be seen when something is first solved, under ``jax.jit``.

    Notes
    -----
    Forward errors are within 16 units of rounding, ``max |x - x*| ≤ 16 eps max |x*|`` for each
    right-hand side, where the condition number is up to about ``1e70``; a `LinAlgWarning` says so
    where they may not be. Arrays are sums of two to six terms, as many as the condition number
    asks for, in double precision where the library has it.

    - Matrices are inverted once, as Rump does it [1]_, and the inverse, with all its terms, is
      what right-hand sides are multiplied by. Kronecker products are inverted factor by factor.
    - Exactly damped Hermitian Kronecker products and sums are solved by eigenvectors and
      eigenvalues with all terms [2]_, then refined by residuals. Series are solved by those of
      their moments and lags.
    - Everything else is refined by residuals from its ordinary inverse [3]_ or, where that has no
      digit right, written out as a matrix, with a `DensificationWarning`.

    Products of matrices with more digits are several ordinary products of slices of them [4]_. What
    that costs is in docs/accuracy.md.

    References
    ----------
    .. [1] Rump, Inversion of extremely ill-conditioned matrices in floating-point, Japan J. Indust.
       Appl. Math. 26, 2009.
    .. [2] Ogita and Aishima, Iterative refinement for symmetric eigenvalue decomposition II, Japan
       J. Indust. Appl. Math. 36, 2019.
    .. [3] Demmel et al., Error bounds from extra-precise iterative refinement, ACM Trans. Math.
       Softw. 32, 2006.
    .. [4] Ozaki, Ogita, Oishi and Rump, Error-free transformations of matrix multiplication by
       using fast routines of matrix multiplication, Numer. Algorithms 59, 2012.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> hilbert = 1 / (1.0 + np.add.outer(np.arange(10), np.arange(10)))  # condition number 1e13
    >>> op = kronops.DenseOperator(hilbert * 232792560)  # of integers, so that sums are exact
    >>> np.max(np.abs(op.solve(op.matrix @ np.ones(10), refine=True) - 1)) < 1e-2
    np.True_
    """

    base: LinearOperator
    shift: Scalar = 0.0
    _internal = ("plain",)

    def __post_init__(self) -> None:
        if not isinstance(self.base, LinearOperator):
            raise TypeError(f"base is a {type(self.base).__name__}: an operator is needed")
        self.base._require_square("refinement")
        super().__post_init__()

    @property
    def shape(self) -> tuple[int, int]:
        return self.base.shape

    @property
    def domain_shape(self) -> Shape:
        return self.base.domain_shape

    @property
    def range_shape(self) -> Shape:
        return self.base.range_shape

    @cached
    def hermitian(self) -> bool:
        return self.base.hermitian and is_real(real_if_real(self.shift))

    @cached
    def plain(self) -> LinearOperator:
        """The same operator, unrefined."""
        base = self.base.plain if isinstance(self.base, RefinedOperator) else self.base
        return base._shifted(self.shift) if self._has_shift else base

    @property
    def _has_shift(self) -> bool:
        return is_array(self.shift) or self.shift != 0

    # -- refined -------------------------------------------------------------------------------

    @cached
    def _refined(self) -> Any:
        """The precision, and the inverse as a map, with as many terms as it takes."""
        self._require_values()
        invert = self._algebra.refined_inverse
        for terms in range(2, _MOST_TERMS):
            with contextlib.suppress(LinAlgError):  # it may be regular with more digits
                made = invert(self.base, self.shift, terms)
                if made.error <= self._allowed:
                    return made
        made = invert(self.base, self.shift, _MOST_TERMS)
        if made.error <= self._allowed:
            return made
        warn(
            f"{self._label} has a condition number of about {made.condition:.1e}: refine=True "
            f"may leave more than 16 units of rounding",
            LinAlgWarning,
        )
        return made

    @property
    def _allowed(self) -> float:
        return _ENOUGH * epsilon(self._like)

    def _solve(self, x: Array) -> Array:
        if 0 in x.shape:
            return self._matmat(x)
        xp, made = self.backend.xp, self._refined
        rolled = xp.moveaxis(x, (-2,), (0,))
        columns = xp.reshape(rolled, (x.shape[-2], math.prod(rolled.shape[1:])))
        solved = made.map(made.precision.of(columns))
        dtype = xp.result_type(self.dtype, x.dtype)
        return xp.moveaxis(xp.reshape(solved.rounded(dtype), rolled.shape), (0,), (-2,))

    def _slogdet(self) -> tuple[Array, Array]:
        if not self.shape[0]:
            return self.plain._slogdet()
        sign, logabsdet = self._untracked._refined_determinant
        if not self._tracked:
            return sign, logabsdet
        # Derivatives are those of the plain one, which differs by rounding alone.
        plain_sign, plain = self.plain._slogdet()
        return plain_sign, plain + (logabsdet - self.backend.values(plain))

    @cached
    def _refined_determinant(self) -> tuple[Array, Array]:
        precision = self._refined.precision
        sign, logabsdet = self._algebra.refined_determinant(self.base, self.shift, precision)
        xp = self.backend.xp
        real = self.backend.real_dtype(self.dtype)
        return xp.astype(sign, self.dtype, copy=False), xp.astype(logabsdet, real, copy=False)

    def _require_values(self) -> None:
        if any(self.backend.values(leaf) is None for leaf in tree.leaves(self)):
            raise TypeError(
                f"refine=True looks at the values of the operator's arrays, which cannot be seen "
                f"here (inside jax.jit, say, or in a graph not yet evaluated): make {self._label} "
                f"outside, and let the function close over it instead of taking it as an argument"
            )

    # -- of the same kind ----------------------------------------------------------------------

    def _adjoint(self) -> LinearOperator:
        return self if self.hermitian else RefinedOperator(self.base.H, conjugate(self.shift))

    def _transpose(self) -> LinearOperator:
        return RefinedOperator(self.base.T, self.shift)

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        return RefinedOperator(self if self._has_shift else self.base, scalar)

    def _damped(self, value: Scalar, refine: bool) -> LinearOperator:
        return self._shifted(value)

    # -- unrefined -----------------------------------------------------------------------------

    def _matmat(self, x: Array) -> Array:
        return self.plain._matmat(x)

    def _apply_last(self, x: Array) -> Array:
        return self.plain._apply_last(x)

    def _exponent(self) -> int:
        return self.plain._exponent()

    def _trace(self) -> Array:
        return self.plain._trace()

    def _diagonal(self) -> Array:
        return self.plain._diagonal()

    def _to_dense(self) -> Array:
        return self.plain._to_dense()

    def _entry(self, row: int, column: int) -> Array:
        return self.plain._entry(row, column)

    def _column(self, column: int) -> Array:
        return self.plain._column(column)

    def _submatrix(self, rows: Array, columns: Array) -> Array:
        return self.plain._submatrix(rows, columns)

    def _norm(self, ord: Any) -> Array:
        return self.plain._norm(ord)

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        return self.plain._eigenbasis()

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        return self.plain._svd()

    def _spectral_norm(self) -> Array:
        return self.plain._spectral_norm()

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self.plain._pinv(cutoff)

    def _power(self, p: float) -> LinearOperator:
        return self.plain.power(p)

    def _expm(self) -> LinearOperator:
        return self.plain._expm()

    def _logm(self) -> LinearOperator:
        return self.plain._logm()

    def _cholesky(self) -> LinearOperator:
        return self.plain._cholesky()

    def _root(self) -> LinearOperator:
        return self.plain._root()

    def _sample(self, normals: Normals) -> Array:
        return self.plain._sample(normals)

    def _masked(self, kept: Array) -> LinearOperator | None:
        return self.plain._masked(kept)

    def _account(self, operation: str, columns: int) -> Account:
        parts = [self.plain._account(operation, columns)]
        words = {
            "multiply_inverse": "in more digits than the dtype has, many times the cost of",
            "logdet": "in more digits than the dtype has, many times the cost of",
        }
        return Account(self, words.get(operation, "the operator itself"), parts=parts)

    @property
    def _label(self) -> str:
        return f"the {type(self.base).__name__} {self.shape}"
