"""Operators as linear maps of expansions: each structure as it is defined, rounding nowhere."""

from __future__ import annotations

import functools
from typing import Any

from kronops.backends import is_array
from kronops.extended.expansions import Expansion, Precision, total
from kronops.extended.maps import (
    BlockMap,
    DiagonalMap,
    EntriesMap,
    KroneckerMap,
    LinearMap,
    MatrixMap,
    ProductMap,
    SumMap,
)
from kronops.operator import LinearOperator
from kronops.operators.adjoint import AdjointOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.grouped import GroupedOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.low_rank_update import LowRankUpdateOperator
from kronops.operators.masked import MaskedOperator
from kronops.operators.permutation import PermutationOperator
from kronops.operators.product import ProductOperator
from kronops.operators.scaled import ScaledOperator
from kronops.operators.selection import SelectionOperator
from kronops.operators.sum import SumOperator
from kronops.operators.toeplitz import ToeplitzOperator
from kronops.scalars import Scalar

__all__ = ["number", "plus", "product", "shifted"]


@functools.singledispatch
def product(op: LinearOperator, precision: Precision) -> LinearMap:
    """``x ↦ op x``."""
    raise ValueError(
        f"refine=True: no product of a {type(op).__name__} in more digits is known; "
        f"DenseOperator(op.to_dense()) has one"
    )


def number(scalar: Scalar, op: LinearOperator, precision: Precision) -> Expansion:
    """A scalar, of shape ``(1,)``, beside the operator's arrays."""
    xp = op.backend.xp
    if is_array(scalar):
        return precision.of(xp.reshape(scalar, (1,)))
    complex_ = xp.result_type(precision.dtype, xp.complex64)
    dtype = complex_ if isinstance(scalar, complex) else precision.dtype
    return precision.of(xp.asarray([scalar], dtype=dtype, device=op.device))


def shifted(op: LinearOperator, shift: Expansion | None, precision: Precision) -> LinearMap:
    """``x ↦ op x + shift x``."""
    return _and(product(op, precision), shift, precision)


def _and(made: LinearMap, shift: Expansion | None, precision: Precision) -> LinearMap:
    return made if shift is None else SumMap((made, DiagonalMap(shift, precision)), precision)


def plus(
    shift: Expansion | None, more: Scalar, op: LinearOperator, precision: Precision
) -> Expansion | None:
    """A shift and a scalar; None if both are nothing."""
    if not is_array(more) and more == 0:
        return shift
    added = number(more, op, precision)
    return added if shift is None else total([shift, added], precision.terms)


@product.register
def _(op: DenseOperator, precision: Precision) -> LinearMap:
    return MatrixMap.of(precision.of(op._entries), precision)


@product.register
def _(op: ToeplitzOperator, precision: Precision) -> LinearMap:
    return product(op._densified, precision)


@product.register
def _(op: DiagonalOperator, precision: Precision) -> LinearMap:
    return DiagonalMap(precision.of(op._flat), precision)


@product.register(IdentityOperator)
@product.register(PermutationOperator)
@product.register(SelectionOperator)
def _(op: LinearOperator, precision: Precision) -> LinearMap:
    return EntriesMap(op._matmat)


@product.register
def _(op: AdjointOperator, precision: Precision) -> LinearMap:
    if isinstance(op.base, SelectionOperator):
        return EntriesMap(op._matmat)
    return product.dispatch(LinearOperator)(op, precision)


@product.register
def _(op: ScaledOperator, precision: Precision) -> LinearMap:
    return _times(op.scalar, op, product(op.base, precision), precision)


@product.register
def _(op: KroneckerOperator, precision: Precision) -> LinearMap:
    factors = tuple(product(factor, precision) for factor in op.factors)
    made = KroneckerMap(factors, tuple(factor.shape for factor in op.factors))
    return _times(op.scale, op, made, precision)


@product.register
def _(op: KroneckerSumOperator, precision: Precision) -> LinearMap:
    sizes = op.domain_shape
    same = EntriesMap(lambda part: part)
    terms: list[LinearMap] = []
    for place, factor in enumerate(op.factors):
        factors: list[LinearMap] = [same] * len(sizes)
        factors[place] = product(factor, precision)
        terms.append(KroneckerMap(tuple(factors), tuple((n, n) for n in sizes)))
    return _and(SumMap(tuple(terms), precision), plus(None, op.shift, op, precision), precision)


@product.register
def _(op: KroneckerSchurOperator, precision: Precision) -> LinearMap:
    return shifted(op.base, plus(None, op.shift, op, precision), precision)


@product.register
def _(op: SumOperator, precision: Precision) -> LinearMap:
    return SumMap(tuple(product(term, precision) for term in op.terms), precision)


@product.register
def _(op: ProductOperator, precision: Precision) -> LinearMap:
    return ProductMap(tuple(product(factor, precision) for factor in op.factors))


@product.register
def _(op: BlockDiagonalOperator, precision: Precision) -> LinearMap:
    blocks = tuple(product(block, precision) for block in op.operators)
    return BlockMap(blocks, tuple(block.shape[1] for block in op.operators), precision)


@product.register
def _(op: GroupedOperator, precision: Precision) -> LinearMap:
    core = product(op.core, precision)
    return ProductMap((EntriesMap(op._joined), core, EntriesMap(op._parted)))


@product.register
def _(op: LowRankUpdateOperator, precision: Precision) -> LinearMap:
    matrices: list[Any] = [op.u, op.backend.adjoint(op._right)]
    left, right = (MatrixMap.of(precision.of(matrix), precision) for matrix in matrices)
    update = ProductMap((left, product(op.c, precision), right))
    return SumMap((product(op.base, precision), update), precision)


@product.register
def _(op: MaskedOperator, precision: Precision) -> LinearMap:
    pick = op.selection
    base = product(op.base, precision)
    return ProductMap((EntriesMap(pick._matmat), base, EntriesMap(pick._rmatmat)))


def _times(scalar: Scalar, op: LinearOperator, made: LinearMap, precision: Precision) -> LinearMap:
    if not is_array(scalar) and scalar == 1:
        return made
    return ProductMap((DiagonalMap(number(scalar, op, precision), precision), made))
