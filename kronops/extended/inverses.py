"""Inverses as linear maps of expansions, by the identities of each structure."""

from __future__ import annotations

import dataclasses
import functools
import math

from kronops.errors import LinAlgError
from kronops.extended import matrices
from kronops.extended.expansions import Expansion, Precision, multiply, reciprocal, total
from kronops.extended.iteration import CONVERGED, OrdinaryMap, RefinedMap, relative_size
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
from kronops.extended.products import number, plus, product, shifted
from kronops.extended.spectra import spectrum
from kronops.extended.writing import written
from kronops.factorisation import singular
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
from kronops.operators.low_rank_update import LowRankInverseOperator, LowRankUpdateOperator
from kronops.operators.permutation import PermutationOperator
from kronops.operators.product import ProductOperator
from kronops.operators.refined import RefinedOperator
from kronops.operators.scaled import ScaledOperator, identity_multiple
from kronops.operators.sum import SumOperator
from kronops.scalars import Scalar

__all__ = [
    "Inverse",
    "add_shift",
    "add_shift_to_values",
    "exactly_hermitian",
    "inverse",
    "lifted_parts",
    "term_and_shift",
]


@dataclasses.dataclass(frozen=True)
class Inverse:
    """``map`` is the inverse, up to about ``error`` of any solution, by its largest entry.

    ``condition`` is about the factor by which relative errors of right-hand sides may grow.
    """

    map: LinearMap
    error: float
    condition: float
    precision: Precision


@functools.singledispatch
def inverse(op: LinearOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    """The inverse of ``op + shift·I``; None stands for no shift.

    Here, of an operator without an identity for it: the ordinary inverse, where refinement by
    residuals brings it to the precision; else that of the matrix, written out.
    """
    try:
        plain = op if shift is None else op._shifted(_as_scalar(shift))
        rough = OrdinaryMap(plain.inverse())
        return _refined(op, shift, rough, precision)
    except LinAlgError:
        matrix = add_shift(written(op, precision), shift, precision)
        return _of_matrix(matrix, precision, _label(op))


def _as_scalar(shift: Expansion) -> Scalar:
    seen = complex(shift.rounded(shift.parts[0].dtype)[0])
    return seen if seen.imag else seen.real


def _label(op: LinearOperator) -> str:
    return f"the {type(op).__name__} {op.shape}"


# -- one matrix, numbers ---------------------------------------------------------------------------


def add_shift(matrix: Expansion, shift: Expansion | None, precision: Precision) -> Expansion:
    """``matrix + shift·I``, unrounded."""
    if shift is None:
        return matrix
    one = matrices.identity(matrix).leading
    return total([matrix, shift.map(lambda part: one * part[0])], precision.terms)


def add_shift_to_values(
    values: Expansion, shift: Expansion | None, precision: Precision
) -> Expansion:
    """Numbers ``(n,)`` and the shift."""
    return values if shift is None else total([values, shift], precision.terms)


def _of_matrix(matrix: Expansion, precision: Precision, what: str) -> Inverse:
    made, error = matrices.inverse(matrix, precision, what)
    condition = matrices.condition(matrix, made)
    error += precision.rounding * condition
    return Inverse(MatrixMap.of(made, precision), error, condition, precision)


@inverse.register
def _(op: DenseOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    matrix = add_shift(precision.of(op._entries), shift, precision)
    return _of_matrix(matrix, precision, op._label)


@inverse.register(DiagonalOperator)
@inverse.register(IdentityOperator)
def _(op: LinearOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    values = add_shift_to_values(precision.of(op._diagonal()), shift, precision)
    condition = _spread(values, _label(op))
    return Inverse(_divided(values, precision), precision.rounding, condition, precision)


def _divided(values: Expansion, precision: Precision) -> DiagonalMap:
    return DiagonalMap(reciprocal(values, precision.terms), precision)


def _spread(values: Expansion, what: str) -> float:
    """The largest magnitude over the smallest."""
    xp = values.xp
    magnitudes = xp.abs(values.leading)
    smallest = float(xp.min(magnitudes))
    if smallest == 0:
        raise LinAlgError(singular(what))
    return float(xp.max(magnitudes)) / smallest


# -- by eigenvectors, refined: a matrix may be Hermitian up to rounding and no more ----------------


def _by_spectrum(op: LinearOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    made = spectrum(op, precision)
    values = add_shift_to_values(made.values, shift, precision)
    condition = _spread(values, _label(op))
    rough = ProductMap((made.basis, _divided(values, precision), made.adjoint))
    refined = _refined(op, shift, rough, precision)
    error = max(refined.error, precision.rounding * condition)
    return dataclasses.replace(refined, error=error, condition=condition)


def _hermitian_or_not(
    op: KroneckerOperator | KroneckerSumOperator, shift: Expansion | None, precision: Precision
) -> Inverse:
    if op.hermitian:
        try:
            return _by_spectrum(op, shift, precision)
        except LinAlgError:
            if all(map(exactly_hermitian, op.factors)):
                raise
    return inverse.dispatch(LinearOperator)(op, shift, precision)


def exactly_hermitian(factor: LinearOperator) -> bool:
    """Whether the entries are those of a Hermitian matrix, and not so up to rounding."""
    if not isinstance(factor, DenseOperator):
        return True
    entries = factor._entries
    return bool(factor.backend.xp.all(entries == factor.backend.adjoint(entries)))


@inverse.register
def _(op: KroneckerOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    if shift is not None:
        return _hermitian_or_not(op, shift, precision)
    if op.scale == 0:
        raise LinAlgError("scale = 0: a Kronecker product of nothing has no inverse")
    op._require_square_factors("inverse")
    parts = [inverse(factor, None, precision) for factor in op.factors]
    maps = KroneckerMap(tuple(part.map for part in parts), tuple(f.shape for f in op.factors))
    condition = math.prod(part.condition for part in parts)
    error = sum(part.error * (condition / part.condition) for part in parts)
    scale = _divided(number(op.scale, op, precision), precision)
    return Inverse(ProductMap((scale, maps)), error, condition, precision)


@inverse.register
def _(op: KroneckerSumOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    return _hermitian_or_not(op, shift, precision)


@inverse.register
def _(op: KroneckerSchurOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    return inverse(op.base, plus(shift, op.shift, op, precision), precision)


@inverse.register
def _(op: KroneckerEigenOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    if op.base is not None and not op.inverted:
        return inverse(op.base, plus(shift, op.shift, op, precision), precision)
    if op.base is not None:
        return _of_inverse(op, op._inverse(), shift, precision)
    values = add_shift_to_values(precision.of(op._flat), shift, precision)
    condition = _spread(values, op._label)
    outer, inner = (inverse(basis, None, precision).map for basis in (op.basis.H, op.basis))
    rough = ProductMap((outer, _divided(values, precision), inner))
    refined = _refined(op, shift, rough, precision)
    return dataclasses.replace(refined, condition=condition)


@product.register
def _(op: KroneckerEigenOperator, precision: Precision) -> LinearMap:
    if op.base is not None and op.inverted:
        return inverse(op._inverse(), None, precision).map
    if op.base is not None:
        return shifted(op.base, plus(None, op.shift, op, precision), precision)
    values = DiagonalMap(precision.of(op._flat), precision)
    return ProductMap((product(op.basis, precision), values, product(op.basis.H, precision)))


# -- by the parts ----------------------------------------------------------------------------------


@inverse.register
def _(op: InverseOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    return _of_inverse(op, op.base, shift, precision)


@product.register
def _(op: InverseOperator, precision: Precision) -> LinearMap:
    return inverse(op.base, None, precision).map


def _of_inverse(
    op: LinearOperator, base: LinearOperator, shift: Expansion | None, precision: Precision
) -> Inverse:
    """Of an operator that is the inverse of ``base``."""
    if shift is not None:
        return inverse.dispatch(LinearOperator)(op, shift, precision)
    condition = inverse(base, None, precision).condition
    return Inverse(product(base, precision), precision.rounding * condition, condition, precision)


@inverse.register
def _(op: RefinedOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    return inverse(op.base, plus(shift, op.shift, op, precision), precision)


@product.register
def _(op: RefinedOperator, precision: Precision) -> LinearMap:
    return shifted(op.base, plus(None, op.shift, op, precision), precision)


@inverse.register
def _(op: ScaledOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    scale = reciprocal(number(op.scalar, op, precision), precision.terms)
    share = None if shift is None else multiply(shift, scale, precision.terms)
    base = inverse(op.base, share, precision)
    return dataclasses.replace(base, map=ProductMap((DiagonalMap(scale, precision), base.map)))


@inverse.register
def _(op: SumOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    pair = term_and_shift(op, shift, precision)
    return (
        inverse(*pair, precision)
        if pair
        else inverse.dispatch(LinearOperator)(op, shift, precision)
    )


def term_and_shift(
    op: SumOperator, shift: Expansion | None, precision: Precision
) -> tuple[LinearOperator, Expansion | None] | None:
    """``A + c·I`` as ``A`` and a shift; None of other sums."""
    if len(op.terms) == 2:
        for term, other in (op.terms, op.terms[::-1]):
            multiple = identity_multiple(other)
            if multiple is not None:
                return term, plus(shift, multiple, op, precision)
    return None


@inverse.register
def _(op: ProductOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    if shift is not None or not op._square_throughout:
        return inverse.dispatch(LinearOperator)(op, shift, precision)
    parts = [inverse(factor, None, precision) for factor in reversed(op.factors)]
    condition = math.prod(part.condition for part in parts)
    error = sum(part.error * (condition / part.condition) for part in parts)
    return Inverse(ProductMap(tuple(part.map for part in parts)), error, condition, precision)


@inverse.register
def _(op: BlockDiagonalOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    if not op._square_blocks:
        return inverse.dispatch(LinearOperator)(op, shift, precision)
    parts = [inverse(block, shift, precision) for block in op.operators]
    sizes = tuple(block.shape[0] for block in op.operators)
    maps = BlockMap(tuple(part.map for part in parts), sizes, precision)
    error = max(part.error for part in parts)
    return Inverse(maps, error, max(part.condition for part in parts), precision)


@inverse.register
def _(op: GroupedOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    core = inverse(op.core, shift, precision)
    made = ProductMap((EntriesMap(op._joined), core.map, EntriesMap(op._parted)))
    return dataclasses.replace(core, map=made)


@inverse.register
def _(op: PermutationOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    if shift is not None:
        return inverse.dispatch(LinearOperator)(op, shift, precision)
    return Inverse(EntriesMap(op.H._matmat), 0.0, 1.0, precision)


@inverse.register
def _(op: LowRankUpdateOperator, shift: Expansion | None, precision: Precision) -> Inverse:
    """By Woodbury's identity, whose cancellation the digits pay for."""
    if isinstance(op, LowRankInverseOperator):
        return _of_inverse(op, op.original, shift, precision)
    try:
        rough = _woodbury(op, shift, precision)
        return _refined(op, shift, rough, precision)
    except LinAlgError:
        return inverse.dispatch(LinearOperator)(op, shift, precision)


def _woodbury(
    op: LowRankUpdateOperator, shift: Expansion | None, precision: Precision
) -> LinearMap:
    """``B⁻¹ - B⁻¹ U (I + C Vᴴ B⁻¹ U)⁻¹ C Vᴴ B⁻¹``."""
    base = inverse(op.base, shift, precision).map
    lifted, right, core = lifted_parts(op, base, precision)
    made, _ = matrices.inverse(core, precision, f"I + C Vᴴ B⁻¹ U of {op._label}")
    update = (MatrixMap.of(part, precision) for part in (-lifted, made))
    return SumMap((base, ProductMap((*update, right, base))), precision)


def lifted_parts(
    op: LowRankUpdateOperator, base: LinearMap, precision: Precision
) -> tuple[Expansion, LinearMap, Expansion]:
    """``B⁻¹ U``, ``C Vᴴ`` and ``I + C Vᴴ B⁻¹ U``."""
    lifted = base(precision.of(op.u))
    adjoint = MatrixMap.of(precision.of(op.backend.adjoint(op._right)), precision)
    right = ProductMap((product(op.c, precision), adjoint))
    added = right(lifted)
    return lifted, right, total([matrices.identity(added), added], precision.terms)


# -- iterative refinement --------------------------------------------------------------------------


def _refined(
    op: LinearOperator, shift: Expansion | None, rough: LinearMap, precision: Precision
) -> Inverse:
    """Tried on a vector; `LinAlgError` if the rough inverse has too few digits right."""
    xp, made = op.backend.xp, RefinedMap(shifted(op, shift, precision), rough, precision, 1)
    steps = xp.arange(1, op.shape[0] + 1, device=op.device)
    trial = precision.of(xp.cos(xp.astype(steps, precision.dtype))[:, None])
    x, sizes = made.run(trial)
    rest = total([trial, -made.product(x)], precision.terms)
    error = min(sizes)
    if not max(error, relative_size(rest, trial) or 0.0) < CONVERGED:
        raise LinAlgError(singular(_label(op)))
    made = dataclasses.replace(made, blind_steps=len(sizes) + 1)
    return Inverse(made, error, max(1.0, error / precision.rounding), precision)
