"""Logarithms of determinants, in more digits than a dtype has on the way."""

from __future__ import annotations

import functools
import math

from kronops.backends.standard import Array
from kronops.checks import is_complex
from kronops.errors import LinAlgError
from kronops.extended import matrices
from kronops.extended.expansions import Expansion, Precision, multiply, reciprocal
from kronops.extended.inverses import (
    add_shift,
    add_shift_to_values,
    exactly_hermitian,
    inverse,
    lifted_parts,
    term_and_shift,
)
from kronops.extended.matrices import LogOfProduct
from kronops.extended.products import number, plus
from kronops.extended.series import congruence
from kronops.extended.spectra import spectrum
from kronops.extended.writing import written
from kronops.operator import LinearOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.grouped import GroupedOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.inverse import InverseOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.low_rank_update import LowRankUpdateOperator
from kronops.operators.product import ProductOperator
from kronops.operators.refined import RefinedOperator
from kronops.operators.scaled import ScaledOperator
from kronops.operators.series import SeriesOperator
from kronops.operators.sum import SumOperator

__all__ = ["determinant", "slogdet"]


def slogdet(
    op: LinearOperator, shift: Expansion | None, precision: Precision
) -> tuple[Array, Array]:
    """Sign and logarithm of the absolute determinant of ``op + shift·I``."""
    sign, log, power = determinant(op, shift, precision)
    return sign, log + power * math.log(2.0)


@functools.singledispatch
def determinant(op: LinearOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    """Of ``op + shift·I``; None stands for no shift. Here, of the matrix, written out."""
    return _of_matrix(add_shift(written(op, precision), shift, precision), precision, op)


def _of_matrix(matrix: Expansion, precision: Precision, op: LinearOperator) -> LogOfProduct:
    return matrices.logdet(matrix, precision, f"the {type(op).__name__} {op.shape}")


def _of_values(values: Expansion, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    shifted = add_shift_to_values(values, shift, precision)
    return matrices.log_of_product(shifted, precision)


@determinant.register
def _(op: DenseOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    return _of_matrix(add_shift(precision.of(op._entries), shift, precision), precision, op)


@determinant.register(DiagonalOperator)
@determinant.register(IdentityOperator)
def _(op: LinearOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    return _of_values(precision.of(op._diagonal()), shift, precision)


@determinant.register
def _(op: ScaledOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    scale = number(op.scalar, op, precision)
    share = None
    if shift is not None:
        share = multiply(shift, reciprocal(scale, precision.terms), precision.terms)
    base = determinant(op.base, share, precision)
    return _product(base, _power(_of_values(scale, None, precision), op.shape[0]))


@determinant.register
def _(op: KroneckerOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    if shift is not None:
        return _of_spectrum(op, shift, precision)
    op._require_square_factors("the determinant")
    n = op.shape[0]
    made = _power(_of_values(number(op.scale, op, precision), None, precision), n)
    for factor in op.factors:
        own = determinant(factor, None, precision)
        made = _product(made, _power(own, n // factor.shape[0]))
    return made


@determinant.register
def _(op: KroneckerSumOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    return _of_spectrum(op, shift, precision)


def _of_spectrum(
    op: KroneckerOperator | KroneckerSumOperator, shift: Expansion | None, precision: Precision
) -> LogOfProduct:
    if op.hermitian and all(map(exactly_hermitian, op.factors)):
        return _of_values(spectrum(op, precision).values, shift, precision)
    return determinant.dispatch(LinearOperator)(op, shift, precision)


@determinant.register
def _(op: KroneckerSchurOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    return determinant(op.base, plus(shift, op.shift, op, precision), precision)


@determinant.register
def _(op: KroneckerEigenOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    if op.base is not None and not op.inverted:
        return determinant(op.base, plus(shift, op.shift, op, precision), precision)
    if op.base is not None and shift is None:
        return _inverted(determinant(op._inverse(), None, precision))
    if op.base is None:
        return _of_values(precision.of(op._flat), shift, precision)
    return determinant.dispatch(LinearOperator)(op, shift, precision)


@determinant.register
def _(op: InverseOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    if shift is not None:
        return determinant.dispatch(LinearOperator)(op, shift, precision)
    return _inverted(determinant(op.base, None, precision))


@determinant.register
def _(op: RefinedOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    return determinant(op.base, plus(shift, op.shift, op, precision), precision)


@determinant.register
def _(op: SumOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    pair = term_and_shift(op, shift, precision)
    if pair:
        return determinant(*pair, precision)
    return determinant.dispatch(LinearOperator)(op, shift, precision)


@determinant.register
def _(op: ProductOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    if shift is not None or not op._square_throughout:
        return determinant.dispatch(LinearOperator)(op, shift, precision)
    parts = [determinant(factor, None, precision) for factor in op.factors]
    return functools.reduce(_product, parts)


@determinant.register
def _(op: BlockDiagonalOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    if not op._square_blocks:
        return determinant.dispatch(LinearOperator)(op, shift, precision)
    return functools.reduce(
        _product, [determinant(block, shift, precision) for block in op.operators]
    )


@determinant.register
def _(op: GroupedOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    return determinant(op.core, shift, precision)


@determinant.register
def _(op: SeriesOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    """``|C0|^out |C0'|^in`` times the product of all weights, for option 1."""
    if shift is not None or op.option == 2:
        return determinant.dispatch(LinearOperator)(op, shift, precision)
    made, n = congruence(op, precision), op.shape[0]
    whole = _of_values(made.f, None, precision)
    for side in made.sides:
        own = _of_values(side.variances, None, precision)
        whole = _product(whole, _power(own, n // side.size))
    return whole


@determinant.register
def _(op: LowRankUpdateOperator, shift: Expansion | None, precision: Precision) -> LogOfProduct:
    """``|B + U C Vᴴ| = |B| |I + C Vᴴ B⁻¹ U|``."""
    try:
        base = inverse(op.base, shift, precision).map
    except LinAlgError:
        return determinant.dispatch(LinearOperator)(op, shift, precision)
    _, _, core = lifted_parts(op, base, precision)
    own = determinant(op.base, shift, precision)
    return _product(own, _of_matrix(core, precision, op))


def _product(left: LogOfProduct, right: LogOfProduct) -> LogOfProduct:
    return LogOfProduct(left.sign * right.sign, left.log + right.log, left.power + right.power)


def _power(one: LogOfProduct, times: int) -> LogOfProduct:
    sign = one.sign ** float(times) if is_complex(one.sign) else one.sign ** (times % 2)
    return LogOfProduct(sign, one.log * times, one.power * times)


def _inverted(one: LogOfProduct) -> LogOfProduct:
    return LogOfProduct(1.0 / one.sign, -one.log, -one.power)
