"""Series blocks in more digits than a dtype has: square roots of moments, and sums over lags."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from kronops.backends.standard import Array
from kronops.checks import epsilon
from kronops.errors import LinAlgError
from kronops.extended.expansions import Expansion, Precision, multiply, reciprocal, total
from kronops.extended.inverses import Inverse, add_shift, inverse
from kronops.extended.maps import (
    DiagonalMap,
    EntriesMap,
    KroneckerMap,
    LinearMap,
    MatrixMap,
    ProductMap,
    SumMap,
    matmul,
)
from kronops.extended.matrices import eigenvectors, norm
from kronops.extended.products import plus, product
from kronops.factorisation import one_norm
from kronops.operator import LinearOperator
from kronops.operators.series import SeriesOperator, refuse_foreign_lag
from kronops.scalars import Scalar
from kronops.series_sums import weights as ordinary_weights

__all__ = ["Congruence", "Side", "congruence"]

Pair = tuple[Expansion, Expansion]  # of matrices, for the Kronecker product of both


@dataclasses.dataclass(frozen=True)
class Side:
    """What the inputs, or the output gradients, contribute.

    ``C0 = Q diag(variances) Qᴴ`` after damping, ``whitening = diag(variances^(-1/2)) Qᴴ``, and
    ``lag`` is ``C0^(-1/2) C1 C0^(-1/2)`` in the basis ``Q``. A change of the block by ``error``
    times itself is what rounding may have cost.
    """

    basis: Expansion
    variances: Expansion
    inverse_roots: Expansion
    whitening: Expansion
    lag: Expansion
    condition: float
    error: float

    @property
    def size(self) -> int:
        """Rows of the moments."""
        return self.basis.shape[0]


@dataclasses.dataclass(frozen=True)
class Congruence:
    """Option 1: ``forward diag(f) forwardᴴ``, and ``backward = forward⁻ᴴ``, Kronecker products."""

    sides: tuple[Side, Side]
    forward: Pair
    backward: Pair
    f: Expansion
    error: float
    condition: float


# -- moments ---------------------------------------------------------------------------------------


def _sides(op: SeriesOperator, precision: Precision) -> tuple[Side, Side]:
    d_in, d_out = op.factor_damping
    return (
        _side(op.input_moments, d_in, op, "input_moments", precision),
        _side(op.output_moments, d_out, op, "output_moments", precision),
    )


def _side(
    moments: tuple[Array, Array],
    damping: Scalar,
    op: LinearOperator,
    name: str,
    precision: Precision,
) -> Side:
    c0, c1 = map(precision.of, moments)
    damped = add_shift(
        _hermitian_part(c0, precision), plus(None, damping, op, precision), precision
    )
    variances, basis, error = eigenvectors(damped, precision)
    xp, n = basis.xp, basis.shape[0]
    smallest, largest = (float(pick(variances.leading)) for pick in (xp.min, xp.max))
    error = n * (error + precision.rounding)
    if not smallest > error * largest:
        raise LinAlgError(
            f"{name}[0] ({n} x {n}) is singular, or not positive semidefinite: add damping "
            f"(factor_damping)"
        )
    condition = largest / smallest
    inverse_roots = _inverse_roots(variances, precision.terms)
    whitening = multiply(_column(inverse_roots), basis.adjoint, precision.terms)
    lag = matmul(matmul(whitening, c1, precision), whitening.adjoint, precision)
    spectral = float(xp.linalg.matrix_norm(lag.leading, ord=2)) * 2.0 ** min(lag.exponent, 1000)
    refuse_foreign_lag(spectral, condition, epsilon(moments[0]), name)
    error *= condition * max(1.0, spectral)
    return Side(basis, variances, inverse_roots, whitening, lag, condition, error)


def _hermitian_part(matrix: Expansion, precision: Precision) -> Expansion:
    return total([matrix, matrix.adjoint], precision.terms).times_power(-1)


def _inverse_roots(numbers: Expansion, terms: int) -> Expansion:
    """``1 / sqrt(numbers)`` of positive numbers, by Newton's iteration."""
    xp, odd = numbers.xp, numbers.exponent % 2
    even = numbers.map(lambda part: part * 2.0**odd).times_power(-odd)
    made = Expansion((1.0 / xp.sqrt(even.leading),), -(even.exponent // 2))
    one = Expansion((xp.ones_like(numbers.parts[0]),))
    for _ in range(terms):
        square = multiply(made, made, terms)
        rest = total([one, -multiply(even, square, terms)], terms).times_power(-1)
        made = total([made, multiply(made, rest, terms)], terms)
    return made.normalised()


def _ones(like: Expansion) -> Expansion:
    return Expansion((like.xp.ones_like(like.parts[0]),))


def _column(numbers: Expansion) -> Expansion:
    return numbers.map(lambda part: part[:, None])


def _grid(numbers: Pair, terms: int) -> Expansion:
    """All products of one number of each, flat."""
    left, right = numbers
    made = multiply(_column(left), right.map(lambda part: part[None, :]), terms)
    return made.map(lambda part: made.xp.reshape(part, (-1,)))


def _pair(parts: Iterable[Expansion]) -> Pair:
    left, right = parts
    return left, right


def _kronecker(matrices: Pair, precision: Precision) -> KroneckerMap:
    maps = tuple(MatrixMap.of(matrix, precision) for matrix in matrices)
    return KroneckerMap(maps, tuple((matrix.shape[0], matrix.shape[1]) for matrix in matrices))


def _adjoints(matrices: Pair) -> Pair:
    return _pair(matrix.adjoint for matrix in matrices)


# -- option 1 --------------------------------------------------------------------------------------


def congruence(op: SeriesOperator, precision: Precision) -> Congruence:
    """Of a block of option 1."""
    terms, sides = precision.terms, _sides(op, precision)
    forward, backward, spectra, error = [], [], [], 0.0
    for side in sides:
        symmetric = _hermitian_part(side.lag, precision)
        psi, vectors, own = eigenvectors(symmetric, precision)
        error += side.error + side.size * own * norm(symmetric)
        roots = multiply(side.variances, side.inverse_roots, terms)
        stretched = multiply(_column(roots), vectors, terms)
        shrunk = multiply(_column(side.inverse_roots), vectors, terms)
        forward.append(matmul(side.basis, stretched, precision))
        backward.append(matmul(side.basis, shrunk, precision))
        spectra.append(psi if op.signed else _magnitudes(psi))
    x = _grid(_pair(spectra), terms)
    f = weights(x, op.timesteps, terms)
    error *= op.timesteps * _cancellation(x, f, op.timesteps)
    if not error < 1:
        raise LinAlgError(
            "the series block is singular: a correlation of -1 over an even number of steps; "
            "add damping"
        )
    condition = math.prod(side.condition for side in sides) * _spread(f)
    return Congruence(sides, _pair(forward), _pair(backward), f, error, condition)


def weights(x: Expansion, timesteps: int, terms: int) -> Expansion:
    """``f_T(x) = Σ_{|d|<T} (T − |d|) x^|d|``, by doubling; what cancels is up to the terms.

    The sums are those of `kronops.series_sums.weights`, ``f = 2h - T``.
    """
    one = _ones(x)

    def times(left: Expansion, right: Expansion) -> Expansion:
        return multiply(left, right, terms).normalised()

    def plus_one(number: Expansion) -> Expansion:
        return total([one, number], terms)

    g, h, power, steps = one, one, x, 1
    for bit in bin(timesteps)[3:]:
        doubled = times(plus_one(power), h)
        h = total([doubled, times(_integer(steps, one, terms), g)], terms)
        g, power, steps = times(plus_one(power), g), times(power, power), 2 * steps
        if bit == "1":
            g = plus_one(times(x, g))
            h, power, steps = total([h, g], terms), times(power, x), steps + 1
    return total([h.times_power(1), -_integer(timesteps, one, terms)], terms).normalised()


def _integer(number: int, one: Expansion, terms: int) -> Expansion:
    """An integer, of which no float need hold every digit, in the shape of ``one``."""
    parts: list[Array] = []
    while number and len(parts) < terms:
        parts.append(one.leading * float(number))
        number -= int(float(number))
    return Expansion(tuple(parts) or (one.leading * 0.0,))


def _magnitudes(numbers: Expansion) -> Expansion:
    sign = numbers.xp.sign(numbers.leading)
    return numbers.map(lambda part: part * sign)


def _cancellation(x: Expansion, f: Expansion, timesteps: int) -> float:
    """The largest ``f_T(|x|) / |f_T(x)|``."""
    xp, dtype = x.xp, x.parts[0].dtype
    magnitudes = ordinary_weights(xp.abs(x.rounded(dtype)), timesteps)
    made = xp.abs(f.rounded(dtype))
    nothing = made == 0
    ratio = magnitudes / xp.where(nothing, xp.ones_like(made), made)
    return math.inf if bool(xp.any(nothing)) else float(xp.max(ratio))


def _spread(numbers: Expansion) -> float:
    magnitudes = numbers.xp.abs(numbers.leading)
    return float(numbers.xp.max(magnitudes)) / float(numbers.xp.min(magnitudes))


# -- option 2 --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Stationary:
    """Option 2: what stands between, ``T (I − ΦᴴΦ) = (V⊗V) diag(middle) (V⊗V)ᴴ``."""

    sides: tuple[Side, Side]
    right: Pair
    middle: Expansion
    error: float
    condition: float


def _stationary(op: SeriesOperator, precision: Precision) -> _Stationary:
    terms, sides = precision.terms, _sides(op, precision)
    right, spectra, error = [], [], 0.0
    for side in sides:
        gram = matmul(side.lag.adjoint, side.lag, precision)
        squares, vectors, own = eigenvectors(_hermitian_part(gram, precision), precision)
        error += side.error + side.size * (own + precision.rounding) * norm(gram)
        right.append(vectors)
        spectra.append(squares)
    products = _grid(_pair(spectra), terms)
    one = _ones(products)
    gaps = total([one, -products], terms)
    least = float(gaps.xp.min(gaps.rounded(gaps.parts[0].dtype)))
    # ‖(I − Φ)⁻¹‖ ≤ 2 / least: what is lost there, and in the gaps themselves.
    if not 3 * error < least:
        raise LinAlgError(
            "the series block of option 2 is infinite or singular: lag moments of norm 1 or more; "
            "add damping, or use option 1"
        )
    condition = math.prod(side.condition for side in sides) * 16.0 / least**3
    middle = multiply(gaps, _integer(op.timesteps, one, terms), terms)
    return _Stationary(sides, _pair(right), middle, 3 * error / least, condition)


@dataclasses.dataclass(frozen=True)
class _SteinMap:
    """``(I − Φ)⁻¹`` by Smith's doubling, the product of all ``I + Φ^(2^k)``."""

    powers: tuple[LinearMap, ...]
    precision: Precision

    def __call__(self, x: Expansion) -> Expansion:
        for power in self.powers:
            x = total([x, power(x)], self.precision.terms).normalised()
        return x


def _doublings(sides: tuple[Side, Side], precision: Precision) -> list[Pair]:
    """``(A^(2^k), B^(2^k))`` until their Kronecker product is below rounding."""
    a, b = _pair(side.lag for side in sides)
    made = []
    while _logarithm(a) + _logarithm(b) > math.log2(precision.rounding):
        made.append((a, b))
        a, b = _pair(matmul(part, part, precision) for part in (a, b))
    return made


def _logarithm(matrix: Expansion) -> float:
    """Of the 1-norm, which no float need hold: one factor may grow as the other falls."""
    size = one_norm(matrix.leading)
    return matrix.exponent + (math.log2(size) if size else -math.inf)


def _stationary_product(op: SeriesOperator, precision: Precision) -> LinearMap:
    """``T (S⊗S)(I−Φᴴ)⁻¹(I−ΦᴴΦ)(I−Φ)⁻¹(S⊗S)``."""
    terms, made = precision.terms, _stationary(op, precision)
    powers = _doublings(made.sides, precision)
    roots = [multiply(side.variances, side.inverse_roots, terms) for side in made.sides]
    scaled = DiagonalMap(_grid(_pair(roots), terms), precision)
    bases = _pair(side.basis for side in made.sides)
    leave, enter = (
        _SteinMap(tuple(_kronecker(pair, precision) for pair in pairs), precision)
        for pairs in (map(_adjoints, powers), powers)
    )
    return ProductMap(
        (
            _kronecker(bases, precision), scaled, leave,
            _kronecker(made.right, precision), DiagonalMap(made.middle, precision),
            _kronecker(_adjoints(made.right), precision),
            enter, scaled, _kronecker(_adjoints(bases), precision),
        )
    )  # fmt: skip


def _stationary_inverse(made: _Stationary, precision: Precision) -> LinearMap:
    """``(P − L)ᴴ diag(1/middle) (P − L)``, ``P = (V⊗V)ᴴ(R⊗R)``, ``L = (V⊗V)ᴴ Φᴴ (R⊗R)``."""
    pairs = list(zip(made.sides, made.right, strict=True))
    plain = _pair(matmul(v.adjoint, side.whitening, precision) for side, v in pairs)
    lagged = _pair(
        matmul(matmul(v.adjoint, side.lag.adjoint, precision), side.whitening, precision)
        for side, v in pairs
    )
    negative = EntriesMap(lambda part: -part)
    entering, leaving = (
        SumMap(
            (_kronecker(p, precision), ProductMap((negative, _kronecker(q, precision)))), precision
        )
        for p, q in ((plain, lagged), (_adjoints(plain), _adjoints(lagged)))
    )
    divided = DiagonalMap(reciprocal(made.middle, precision.terms), precision)
    return ProductMap((leaving, divided, entering))


# -- as operators ----------------------------------------------------------------------------------


@product.register
def _(op: SeriesOperator, precision: Precision) -> LinearMap:
    if op.option == 2:
        return _stationary_product(op, precision)
    made = congruence(op, precision)
    forward, back = (_kronecker(m, precision) for m in (made.forward, _adjoints(made.forward)))
    return ProductMap((forward, DiagonalMap(made.f, precision), back))


@inverse.register
def _(op: SeriesOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    """A change of the block by ``error`` times itself moves solutions by ``√κ`` times that."""
    if shift is not None:
        return inverse.dispatch(LinearOperator)(op, shift, precision)
    if op.option == 2:
        stationary = _stationary(op, precision)
        made = _stationary_inverse(stationary, precision)
        error, condition = stationary.error, stationary.condition
    else:
        parts = congruence(op, precision)
        error, condition = parts.error, parts.condition
        back, forth = (
            _kronecker(m, precision) for m in (parts.backward, _adjoints(parts.backward))
        )
        values = reciprocal(parts.f, precision.terms)
        made = ProductMap((back, DiagonalMap(values, precision), forth))
    return Inverse(made, error * math.sqrt(condition), condition, precision)
