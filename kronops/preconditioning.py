"""What is near the inverse of a sum that has none in closed form."""

from __future__ import annotations

import functools
import operator

from kronops.kronecker_terms import KroneckerTerm, Shapes, factor_shapes, kronecker_terms
from kronops.nearest import nearest_kronecker
from kronops.operator import LinearOperator
from kronops.operators.congruent import CongruentOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.sum import SumOperator

__all__ = ["inverse_near_sum"]


def inverse_near_sum(op: SumOperator) -> LinearOperator:
    """The inverse of ``op``, or that of a sum near it whose inverse is known.

    That is one of its Kronecker products plus the Kronecker product that is nearest to the rest.
    Each of them is tried, the largest first, until there is a closed form, and it is definite if
    ``op`` is Hermitian. If there is none, the Kronecker product nearest to the whole is taken, and
    at last the diagonal.
    """
    inverse = _known_inverse(op, op)
    shapes = factor_shapes(op)
    if inverse is not None or shapes is None:
        return inverse or _of_diagonal(op)
    products = _products(op, shapes)
    for index, main in enumerate(products):
        rest = [*products[:index], *products[index + 1 :]]
        inverse = _known_inverse(main + _nearest(rest, shapes), op) if rest else None
        if inverse is not None:
            return inverse
    return _known_inverse(_nearest(products, shapes), op) or _of_diagonal(op)


def _known_inverse(near: LinearOperator, op: LinearOperator) -> LinearOperator | None:
    """The inverse of ``near`` from its structure, definite if ``op`` is Hermitian; or None."""
    known = near._structure if isinstance(near, SumOperator) else near
    if known is None or (op.hermitian and not _is_definite(known)):
        return None
    return known.inverse()


def _is_definite(op: LinearOperator) -> bool:
    core = op.core if isinstance(op, CongruentOperator) else op
    values = core._eigenbasis()[0] if core.hermitian else None
    return values is not None and bool(op.backend.xp.all(values > 0))


def _products(op: SumOperator, shapes: Shapes) -> list[LinearOperator]:
    """The terms, the largest first; a neighbour of the diagonal for one that is no such product."""
    products = []
    for part in op.terms:
        terms = kronecker_terms(part, shapes) or [_near_diagonal(part, shapes)]
        products += [KroneckerOperator(factors, scale) for scale, factors in terms]
    return sorted(products, key=lambda product: -float(product._norm("fro")))


def _nearest(products: list[LinearOperator], shapes: Shapes) -> LinearOperator:
    total = functools.reduce(operator.add, products)
    return nearest_kronecker(total, shapes)[0] if isinstance(total, SumOperator) else total


def _near_diagonal(part: LinearOperator, shapes: Shapes) -> KroneckerTerm:
    """A product of diagonals near that of ``part``: by least squares of the logarithms.

    So it is positive, and as near in proportion where entries are small. Of a diagonal that is not
    positive throughout it is the mean magnitude.
    """
    xp, diagonal = part.backend.xp, part._diagonal()
    magnitude = xp.abs(diagonal)
    smallest = part.backend.values(xp.min(xp.real(diagonal) if part._complex else diagonal))
    if smallest is None or not bool(smallest > 0):
        magnitude = xp.ones_like(magnitude) * xp.mean(magnitude)
    logarithms = xp.reshape(xp.log(magnitude), tuple(n for _, n in shapes))
    mean, axes = xp.mean(logarithms), range(len(shapes))
    lines = [
        xp.mean(logarithms, axis=tuple(other for other in axes if other != axis)) for axis in axes
    ]
    lines[1:] = [line - mean for line in lines[1:]]
    factors = [DiagonalOperator(xp.exp(line), check_finite=False) for line in lines]
    return KroneckerTerm(1.0, tuple(factors))


def _of_diagonal(op: LinearOperator) -> LinearOperator:
    """The reciprocals of the diagonal's magnitudes, where it is not zero."""
    xp = op.backend.xp
    magnitude = xp.abs(op._diagonal())
    unit = xp.where(magnitude == 0, xp.ones_like(magnitude), magnitude)
    return DiagonalOperator(1.0 / unit, check_finite=False)
