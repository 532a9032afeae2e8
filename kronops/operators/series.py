"""The curvature block of a layer used along a time series (a recurrent layer)."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.caching import cached
from kronops.checks import (
    as_flag,
    as_matrix,
    epsilon,
    hermitian_to_rounding,
    is_complex,
    is_hermitian,
)
from kronops.damping import damping_shares, mean_eigenvalue
from kronops.errors import LinAlgError, LinAlgWarning, warn
from kronops.explaining import Account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.scalars import Scalar, as_integer, as_nonnegative
from kronops.scaling import dtype_exponent
from kronops.series_sums import stein_powers, stein_solve, weights
from kronops.vectors import as_layout, in_layout

__all__ = ["SeriesOperator", "refuse_foreign_lag"]

Moments = tuple[Array, Array]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class SeriesOperator(LinearOperator):
    """The Fisher block of a layer used at ``T`` steps of a time series, ``Σ (T−|d|) A_d ⊗ G_d``.

    The sum is over lags ``|d| < T``, with ``A_d = S Hᵈ S``, ``A₋d = A_dᴴ``, where ``S = C0^(1/2)``
    and ``H = C0^(-1/2) C1 C0^(-1/2)``: a linear Gaussian model of how inputs, and likewise output
    gradients, are correlated along the series [1]_.

    Parameters
    ----------
    input_moments, output_moments : pair of arrays
        ``(C0, C1)`` with ``C0 = E[x_t x_tᴴ]`` and ``C1 = E[x_{t+1} x_tᴴ]``, both divided by the
        same number of terms, of shape ``(in, in)`` and ``(out, out)``.
    timesteps : int
        ``T ≥ 1``.
    option : {1, 2}
        1 takes each ``H`` as Hermitian; 2 takes ``T`` as large and ``H`` as it is.
    factor_damping : pair of float
        Added to the diagonals of the two ``C0``.
    signed : bool
        For option 1, whether the eigenvalues ψ of ``H`` keep their sign, or become ``|ψ|`` as in
        TensorFlow's K-FAC.
    layout : {"in,out", "out,in"}
        Of ``(weights, bias)`` pairs. With ``"out,in"`` the first pair of moments is that of the
        output gradients.

    Raises
    ------
    ValueError
        Moments that do not fit each other: of another shape, ``C0`` not Hermitian; ``T < 1``; or,
        at the first use, ``H`` of norm above one.
    LinAlgError
        A ``C0`` that is singular, or not positive semidefinite, after damping; a product or inverse
        that is infinite.

    Notes
    -----
    Set-up costs about ``30 (in³ + out³)`` flops, once. After it, both a product and an inverse cost
    four matrix products with ``v`` for option 1. For option 2 the inverse costs eight; the product
    solves two Stein equations by Smith's doubling, with two matrix products for each bit of the
    correlation length.

    References
    ----------
    .. [1] Martens, Ba and Johnson, Kronecker-factored curvature approximations for recurrent neural
       networks, ICLR 2018, sections 3.5.3 and 3.5.4. https://openreview.net/forum?id=HyMTkQZAb

    Examples
    --------
    >>> import numpy as np, kronops
    >>> inputs, gradients = (np.eye(3), 0.5 * np.eye(3)), (np.eye(2), 0.2 * np.eye(2))
    >>> op = kronops.SeriesOperator(inputs, gradients, timesteps=2, option=1)
    >>> op.multiply(np.ones((3, 2)))
    array([[2.2, 2.2],
           [2.2, 2.2],
           [2.2, 2.2]])
    """

    input_moments: Moments
    output_moments: Moments
    timesteps: int
    option: int
    factor_damping: tuple[Scalar, Scalar]
    signed: bool
    layout: str

    def __init__(
        self,
        input_moments: Any,
        output_moments: Any,
        timesteps: int,
        option: int,
        factor_damping: Any = (0.0, 0.0),
        signed: bool = True,
        *,
        layout: str = "in,out",
        check_finite: bool = True,
    ) -> None:
        if isinstance(option, bool) or not isinstance(option, numbers.Real) or option not in (1, 2):
            raise ValueError(f"option = {option!r}: 1 or 2 would do")
        if not isinstance(factor_damping, (tuple, list)) or len(factor_damping) != 2:
            raise ValueError(f"factor_damping = {factor_damping!r}: a pair of numbers is needed")
        d_in, d_out = factor_damping
        inputs = _as_moments(input_moments, "input_moments", check_finite)
        fields = {
            "input_moments": inputs,
            "output_moments": _as_moments(output_moments, "output_moments", check_finite),
            "timesteps": _as_timesteps(timesteps, inputs[0]),
            "option": option,
            "factor_damping": (
                as_nonnegative(d_in, "factor_damping[0]", inputs[0]),
                as_nonnegative(d_out, "factor_damping[1]", inputs[0]),
            ),
            "signed": as_flag(signed, "signed"),
            "layout": as_layout(layout),
        }
        for name, content in fields.items():
            object.__setattr__(self, name, content)
        self._check_one_home()

    @property
    def shape(self) -> tuple[int, int]:
        n = math.prod(self.domain_shape)
        return n, n

    @property
    def domain_shape(self) -> tuple[int, ...]:
        sizes = self.input_moments[0].shape[0], self.output_moments[0].shape[0]
        return in_layout(sizes, self.layout)

    @property
    def hermitian(self) -> bool:
        return True

    def _adjoint(self) -> LinearOperator:
        return self

    # -- set-up --------------------------------------------------------------------------------

    @cached
    def _sides(self) -> tuple[_Side, _Side]:
        return (
            _side(self.input_moments, self.factor_damping[0], "input_moments"),
            _side(self.output_moments, self.factor_damping[1], "output_moments"),
        )

    @cached
    def _congruence(self) -> _Congruence:
        adjoint, xp = self.backend.adjoint, self.backend.xp
        forward, backward, spectra = [], [], []
        for side in self._sides:
            psi, vectors = self.backend.eigh(0.5 * side.lag + 0.5 * adjoint(side.lag))
            root = xp.sqrt(side.variances)[:, None]
            forward.append(xp.matmul(side.basis, root * vectors))
            backward.append(xp.matmul(side.basis, vectors / root))
            spectra.append(psi if self.signed else xp.abs(psi))
        x = spectra[0][:, None] * spectra[1]
        f = weights(x, self.timesteps)
        kept = f / weights(xp.abs(x), self.timesteps)
        return _Congruence(
            self._pair(forward), self._pair(backward), self._rounded(f), self._rounded(kept)
        )

    @cached
    def _stationary(self) -> _Stationary:
        adjoint, xp = self.backend.adjoint, self.backend.xp
        right, plain, lagged, sigmas, alignments = [], [], [], [], []
        for side in self._sides:
            u, sigma, vh = self.backend.svd(side.lag)
            whitening = adjoint(side.basis) / xp.sqrt(side.variances)[:, None]
            right.append(adjoint(vh))
            plain.append(xp.matmul(vh, whitening))
            lagged.append(xp.matmul(xp.matmul(vh, adjoint(side.lag)), whitening))
            sigmas.append(sigma)
            alignments.append(xp.sum(u * xp.matrix_transpose(vh), axis=0))
        sigma = sigmas[0][:, None] * sigmas[1]
        gaps, aligned = (1 - sigma) * (1 + sigma), alignments[0][:, None] * alignments[1]
        aligned = xp.real(aligned) if is_complex(aligned) else aligned
        return _Stationary(
            self._pair(right), self._pair(plain), self._pair(lagged),
            self._rounded(gaps), self._rounded(aligned),
        )  # fmt: skip

    @cached
    def _doublings(self) -> list[tuple[Array, Array]]:
        a, g = self._sides
        return stein_powers(self._rounded(a.lag), self._rounded(g.lag))

    def _pair(self, sides: list[Array]) -> _Pair:
        a, g = sides
        return _Pair(self._rounded(a), self._rounded(g))

    def _rounded(self, array: Array) -> Array:
        """What was set up in double precision, in that of products."""
        xp = self.backend.xp
        dtype = xp.result_type(self.backend.real_dtype(self.dtype), xp.float32)
        return xp.astype(
            array, xp.result_type(dtype, xp.complex64) if is_complex(array) else dtype, copy=False
        )

    # -- products ------------------------------------------------------------------------------

    def _matmat(self, x: Array) -> Array:
        v = self._unfold(x)
        if self.option == 1:
            c = self._congruence
            return self._fold(c.forward.apply(c.f * c.forward.adjoint().apply(v)), x)
        return self._fold(self._multiply_stationary(v), x)

    def _solve(self, x: Array) -> Array:
        v = self._unfold(x)
        if self.option == 1:
            c = self._congruence
            self._check_weights()
            return self._fold(c.backward.apply(c.backward.adjoint().apply(v) / c.f), x)
        s = self._stationary
        y = (s.plain.apply(v) - s.lagged.apply(v)) / self._safe_gaps
        made = s.plain.adjoint().apply(y) - s.lagged.adjoint().apply(y)
        return self._fold(made / self.timesteps, x)

    def _multiply_stationary(self, v: Array) -> Array:
        """``T (S⊗S)(I−Φᴴ)⁻¹(I−ΦᴴΦ)(I−Φ)⁻¹(S⊗S) v``: the form that keeps its digits."""
        right = self._stationary.right
        v = stein_solve(self._doublings, self._roots * self._basis.adjoint().apply(v))
        v = right.apply(self._stationary.gaps * right.adjoint().apply(v))
        return self._leave_stationary(v, 1.0)

    def _leave_stationary(self, v: Array, power: float) -> Array:
        """``Tᵖ (S⊗S)(I−Φᴴ)⁻¹ v``."""
        adjoint = self.backend.adjoint
        v = stein_solve([(adjoint(h), adjoint(k)) for h, k in self._doublings], v)
        return self.timesteps**power * self._basis.apply(self._roots * v)

    @property
    def _basis(self) -> _Pair:
        a, g = self._sides
        return self._pair([a.basis, g.basis])

    @property
    def _roots(self) -> Array:
        a, g = self._sides
        sqrt = self.backend.xp.sqrt
        return self._rounded(sqrt(a.variances)[:, None] * sqrt(g.variances))

    def _sample(self, normals: Normals) -> Array:
        """By the root that each option's product has in the middle."""
        x = normals.columns(self.shape[0])
        z = self._unfold(x)
        if self.option == 1:
            c = self._congruence
            return self._fold(c.forward.apply(self.backend.xp.sqrt(c.f) * z), x)
        gaps, right = self._stationary.gaps, self._stationary.right
        rooted = right.apply(self.backend.xp.sqrt(gaps) * z)
        return self._fold(self._leave_stationary(rooted, 0.5), x)

    def _unfold(self, x: Array) -> Array:
        """``(..., n, k)`` as matrices ``(..., k, in, out)``, half precision in single."""
        xp = self.backend.xp
        turned = xp.matrix_transpose(self.backend.wide(x))
        return xp.reshape(turned, (*turned.shape[:-1], *self.domain_shape))

    def _fold(self, v: Array, x: Array) -> Array:
        """Back again, in the dtype of a product with ``x``."""
        xp = self.backend.xp
        flat = xp.matrix_transpose(xp.reshape(v, (*v.shape[:-2], self.shape[1])))
        return xp.astype(flat, xp.result_type(self.dtype, x.dtype), copy=False)

    def _check_weights(self, refuse: bool = True) -> None:
        """Refuse (or warn of) correlations of -1 over an even number of steps; warn near them."""
        xp, c = self.backend.xp, self._congruence
        f, kept = self.backend.values(c.f), self.backend.values(c.kept)
        if f is None or not self.shape[0]:
            return
        if refuse and float(xp.min(f)) <= 4 * epsilon(f) * self.timesteps:
            raise LinAlgError(
                "the series block is singular: a correlation of -1 over an even number of steps; "
                "add damping"
            )
        if float(xp.min(kept)) <= 40 * epsilon(kept):
            warn(
                "the series block has a correlation near -1 over an even number of steps: few or "
                "no digits of what is computed from it may be right; add damping",
                LinAlgWarning,
            )

    def _refuse_norms_above_one(self) -> None:
        """Where the rounding of ``C0`` cannot explain them: then no limit is meant."""
        gaps = self.backend.values(self._stationary.gaps)
        if gaps is None or not self.shape[0]:
            return
        if float(self.backend.xp.min(gaps)) < -(epsilon(gaps) ** 0.5):
            raise LinAlgError(
                "the series block of option 2 is infinite: lag moments of norm above 1; add "
                "damping, or use option 1"
            )

    @cached
    def _safe_gaps(self) -> Array:
        """``1 − μ_A μ_Gᵀ``, refused where it is zero and the inverse infinite.

        Where ``Φ`` has the eigenvalue 1 the inverse is zero there, as ``(1−φ)/(1+φ)`` shows, and
        any gap of the size of rounding says so. It is infinite at every other ``|φ| = 1``, for
        ``|1−φ|²``, twice what the alignment lacks, is then no rounding, and the gap is.
        """
        xp, s = self.backend.xp, self._stationary
        smallest = 4 * epsilon(s.gaps)
        closed = s.gaps < smallest
        self._refuse_norms_above_one()
        safe = xp.where(closed, xp.maximum(-s.gaps, xp.full_like(s.gaps, smallest)), s.gaps)
        infinite = self.backend.values(closed & (1 - s.alignments > 8 * safe))
        if infinite is not None and bool(xp.any(infinite)):
            raise LinAlgError(
                "the series block of option 2 is singular: lag moments of norm 1 whose "
                "correlation is not +1; add damping"
            )
        return safe

    # -- what has a closed form ----------------------------------------------------------------

    def _slogdet(self) -> tuple[Array, Array]:
        xp = self.backend.xp
        a, g = self._sides
        in_, out = self.domain_shape
        logabsdet = out * xp.sum(xp.log(a.variances)) + in_ * xp.sum(xp.log(g.variances))
        if self.option == 1:
            self._check_weights(refuse=False)
            values = DiagonalOperator(self._congruence.f, check_finite=False)
            sign, more = values._slogdet()
            return sign, logabsdet + more
        spectra = [xp.linalg.diagonal(self.backend.schur(side.lag)[0]) for side in self._sides]
        _ = self._doublings  # refuses correlations that do not decay
        resolvent = xp.sum(xp.log(xp.abs(1 - spectra[0][:, None] * spectra[1])))
        more = xp.sum(xp.log(self._safe_gaps)) + in_ * out * math.log(self.timesteps)
        sign = xp.ones((), dtype=self.dtype, device=self.device)
        return sign, logabsdet + more - 2 * xp.astype(resolvent, logabsdet.dtype)

    def _diagonal(self) -> Array:
        if self.option == 2:
            return super()._diagonal()
        xp, c = self.backend.xp, self._congruence
        squares = _Pair(xp.abs(c.forward.a) ** 2, xp.abs(c.forward.g) ** 2)
        return xp.astype(xp.reshape(squares.apply(c.f), (-1,)), self.dtype, copy=False)

    def _account(self, operation: str, columns: int) -> Account:
        n, (p, q) = self.shape[0], self.domain_shape
        once, pair = 30 * (p**3 + q**3), 2 * n * (p + q) * columns  # a pair: a V gᵀ
        words = {
            ("multiply", 1): ("M_A [(M_Aᵀ V M_G) f_T] M_Gᵀ", 2 * pair),
            ("multiply_inverse", 1): ("L_A [(L_Aᵀ V L_G) / f_T] L_Gᵀ", 2 * pair),
            ("multiply", 2): (
                "T S (I - Φᵀ)⁻¹ (I - ΦᵀΦ) (I - Φ)⁻¹ S V, with Stein equations by doubling",
                math.nan,  # the doublings are as many as correlations need to decay
            ),
            ("multiply_inverse", 2): (
                "the inverse of T S (I - Φᵀ)⁻¹ (I - ΦᵀΦ) (I - Φ)⁻¹ S, in singular bases",
                4 * pair,
            ),
        }
        if operation == "logdet":
            return Account(self, "the sum over the factors of the product", n, n, once)
        if operation == "eigh":
            return super()._account(operation, columns)
        identity, flops = words[operation, self.option]
        return Account(self, identity, flops, 2 * n * columns, once)

    def _factored(self, value: Scalar, pi: str | float, refine: bool) -> LinearOperator:
        sides = zip((self.input_moments, self.output_moments), self.factor_damping, strict=True)
        trace = self.backend.xp.linalg.trace
        means = [mean_eigenvalue(trace(c0), c0.shape[0]) + d for (c0, _), d in sides]
        shares = damping_shares(means, value / self.timesteps, pi)
        return SeriesOperator(
            self.input_moments,
            self.output_moments,
            self.timesteps,
            self.option,
            tuple(d + share for d, share in zip(self.factor_damping, shares, strict=True)),
            self.signed,
            layout=self.layout,
        )


@dataclasses.dataclass(frozen=True)
class _Side:
    """What the inputs, or the output gradients, contribute.

    ``C0 = Q diag(w) Qᴴ`` after damping, and ``H = C0^(-1/2) C1 C0^(-1/2)`` in the basis ``Q``.
    """

    basis: Array
    variances: Array
    lag: Array


@dataclasses.dataclass(frozen=True)
class _Pair:
    """``a ⊗ g`` on matrices: ``V`` becomes ``a V gᵀ``."""

    a: Array
    g: Array

    def apply(self, v: Array) -> Array:
        xp = backend_of(self.a).xp
        return xp.matmul(xp.matmul(self.a, v), xp.matrix_transpose(self.g))

    def adjoint(self) -> _Pair:
        adjoint = backend_of(self.a).adjoint
        return _Pair(adjoint(self.a), adjoint(self.g))


@dataclasses.dataclass(frozen=True)
class _Congruence:
    """Option 1: ``forward · diag(f) · forwardᴴ``, and ``backward = forward⁻ᴴ``."""

    forward: _Pair
    backward: _Pair
    f: Array
    kept: Array  # f_T(x) / f_T(|x|), of which the errors of f are a few units of rounding


@dataclasses.dataclass(frozen=True)
class _Stationary:
    """Option 2, in the right singular bases ``V`` of the two ``H = U Σ Vᴴ``.

    The inverse is ``T⁻¹ (plain − lagged)ᴴ diag(1/gaps) (plain − lagged)`` with
    ``plain = (V⊗V)ᴴ (R⊗R)`` and ``lagged = (V⊗V)ᴴ Φᴴ (R⊗R)``.
    """

    right: _Pair
    plain: _Pair
    lagged: _Pair
    gaps: Array  # 1 − μ_A μ_Gᵀ with μ = σ²
    alignments: Array  # real parts of vᴴ Φ v, of which one is φ where |φ| = 1


def _side(moments: Moments, damping: float, name: str) -> _Side:
    backend = backend_of(*moments)
    xp, adjoint = backend.xp, backend.adjoint
    c0, c1 = (backend.double(moment) for moment in moments)
    n = c0.shape[0]
    identity = xp.eye(n, dtype=c0.dtype, device=backend.device(c0))
    variances, basis = backend.eigh(0.5 * c0 + 0.5 * adjoint(c0) + damping * identity)
    eps, seen = epsilon(moments[0]), backend.values(variances)
    condition = 1.0
    if seen is not None and n:
        smallest, largest = float(xp.min(seen)), float(xp.max(seen))
        if smallest <= eps / 4 * largest:
            what = "not positive semidefinite" if smallest < -n * eps * largest else "singular"
            raise LinAlgError(f"{name}[0] ({n} x {n}) is {what}: add damping (factor_damping)")
        condition = largest / smallest
        if condition > 0.1 / eps:
            warn(
                f"{name}[0] ({n} x {n}) has condition number {condition:.1e}: "
                f"few or no digits of products and solutions may be right",
                LinAlgWarning,
            )
    root = xp.sqrt(variances)
    lag = xp.matmul(xp.matmul(adjoint(basis), c1), basis) / root[:, None] / root
    seen = backend.values(lag)
    if seen is not None and n:
        norm = float(xp.linalg.matrix_norm(seen, ord=2))
        refuse_foreign_lag(norm, condition, eps, name)
        if norm > 1 + eps**0.5:
            warn(
                f"{name}: C0^(-1/2) C1 C0^(-1/2) has norm {norm:.6g}, above 1 by the rounding of "
                f"a C0 of condition number {condition:.1e}: few digits may be right",
                LinAlgWarning,
            )
    if seen is None:
        lag = xp.where(_would_pass(moments[0], variances, lag), lag, math.nan)
    return _Side(basis, variances, lag)


def _would_pass(c0: Array, variances: Array, lag: Array) -> Array:
    """Whether moments whose values cannot be seen would be taken, as an array without axes."""
    backend = backend_of(lag)
    if not lag.shape[0]:
        return backend.xp.ones((), dtype=backend.xp.bool, device=backend.device(lag))
    eps = epsilon(c0)
    smallest, largest = backend.xp.min(variances), backend.xp.max(variances)
    norm = backend.xp.linalg.matrix_norm(lag, ord=2)
    usable = hermitian_to_rounding(c0) & (smallest > eps / 4 * largest) & (largest > 0)
    made: Array = usable & (norm <= _most(largest / smallest, eps))
    return made


def refuse_foreign_lag(norm: float, condition: float, eps: float, name: str) -> None:
    """Of ``H`` with a ``norm`` that the rounding of ``C0`` cannot explain."""
    if norm > _most(condition, eps):
        raise ValueError(
            f"{name}: the lag moment C1 does not belong to C0, for C0^(-1/2) C1 C0^(-1/2) has "
            f"norm {norm:.6g} and a time series' has at most 1: both must be divided by the "
            f"same number of terms"
        )


def _most(condition: Any, eps: float) -> Any:
    """The largest norm of a lag moment that rounding explains."""
    return 1 + 100 * eps * condition


def _as_moments(moments: Any, name: str, check_finite: bool) -> Moments:
    if not isinstance(moments, (tuple, list)) or len(moments) != 2:
        raise ValueError(f"{name} is a {type(moments).__name__}: a pair (C0, C1) is needed")
    c0 = as_matrix(moments[0], f"{name}[0]", check_finite)
    c1 = as_matrix(moments[1], f"{name}[1]", check_finite)
    if c0.shape[0] != c0.shape[1] or c0.shape != c1.shape:
        raise ValueError(
            f"{name} have shapes {tuple(c0.shape)} and {tuple(c1.shape)}: "
            f"two square matrices of one size are needed"
        )
    if backend_of(c0).values(c0) is not None and not is_hermitian(c0):
        raise ValueError(f"{name}[0] does not equal its adjoint: a second moment does")
    return c0, c1


def _as_timesteps(timesteps: Any, like: Array) -> int:
    count = as_integer(timesteps, "timesteps", least=1)
    if count.bit_length() >= dtype_exponent(like):
        raise OverflowError(f"timesteps has {count.bit_length()} bits, too large for {like.dtype}")
    return count
