"""How operators combine: the one place that decides how sums, products and multiples simplify.

Sums and products are flattened, scalars are hoisted out of products, and each new neighbour is
offered to the hooks ``_plus``, ``_times`` and ``_scaled`` of the operators, which know the closed
forms. What has none becomes one of the lazy operators.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

from kronops import (
    mixed_products,
    preconditioning,
    rearrangement,
    simultaneous,
    singular_vectors,
    spectrum,
    tree,
)
from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.columns import scaled_norm
from kronops.extended import inverses
from kronops.extended.determinants import slogdet
from kronops.extended.expansions import Precision
from kronops.extended.products import plus
from kronops.indexing import Index
from kronops.kronecker_terms import factor_shapes
from kronops.operator import LinearOperator
from kronops.operators import sharded
from kronops.operators.adjoint import AdjointOperator, TransposedOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.operators.chunkwise import ChunkwiseOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.grouped import GroupedOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.inverse import InverseOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.masked import MaskedOperator
from kronops.operators.permutation import PermutationOperator
from kronops.operators.product import ProductOperator
from kronops.operators.refined import RefinedOperator
from kronops.operators.scaled import ScaledOperator, identity_multiple
from kronops.operators.selection import SelectionOperator
from kronops.operators.sum import SumOperator
from kronops.scalars import Scalar
from kronops.vectors import Shape

__all__ = ["add", "compose", "scale"]


def add(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """``left + right``: flattened, each pair of terms in closed form where there is one."""
    _require_one_home(left, right)
    terms: list[LinearOperator] = []
    for term in map(_plain, (*_terms(left), *_terms(right))):
        terms = _gathered(terms, term)
    return terms[0] if len(terms) == 1 else SumOperator(tuple(terms))


def compose(left: LinearOperator, right: LinearOperator) -> LinearOperator:
    """``left @ right``: flattened, scalars in front, neighbours in closed form where possible."""
    _require_one_home(left, right)
    scalar: Scalar = 1.0
    factors: list[LinearOperator] = []
    for factor in map(_plain, (*_factors(left), *_factors(right))):
        if isinstance(factor, ScaledOperator):
            scalar, factor = _product(scalar, factor.scalar), factor.base
        closed = _closed_product(factors[-1], factor) if factors else None
        if isinstance(closed, ScaledOperator):
            scalar, closed = _product(scalar, closed.scalar), closed.base
        factors[-1 if closed else len(factors) :] = [closed or factor]
    made = factors[0] if len(factors) == 1 else ProductOperator(tuple(factors))
    return scale(scalar, made)


def scale(scalar: Scalar, op: LinearOperator) -> LinearOperator:
    """``scalar * op``: folded into the operator, or one `ScaledOperator` deep."""
    if isinstance(op, ScaledOperator):
        scalar, op = _product(scalar, op.scalar), op.base
    if isinstance(scalar, float) and scalar == 1.0:
        return op
    return op._scaled(scalar) or ScaledOperator(scalar, op)


def invert(op: LinearOperator) -> LinearOperator:
    """The lazy inverse."""
    return InverseOperator.of(op)


def refine(op: LinearOperator, shift: Scalar) -> LinearOperator:
    """``op + shift·I``, whose solves and determinant are refined; block by block."""
    if isinstance(op, BlockDiagonalOperator) and op._square_blocks:
        return op._map(lambda block: refine(block, shift))
    if isinstance(op, GroupedOperator):
        return op._with(refine(op.core, shift))
    accurate = isinstance(op, (DiagonalOperator, IdentityOperator, RefinedOperator))
    if accurate and not is_array(shift) and shift == 0:
        return op
    return RefinedOperator(op, shift)


def refined_inverse(op: LinearOperator, shift: Scalar, terms: int) -> inverses.Inverse:
    """The inverse of ``op + shift·I`` as a map of expansions of so many terms."""
    precision = Precision.of_device(op.backend, op.device, terms)
    return inverses.inverse(op, plus(None, shift, op, precision), precision)


def refined_determinant(
    op: LinearOperator, shift: Scalar, precision: Precision
) -> tuple[Array, Array]:
    """Sign and logarithm of the absolute determinant of ``op + shift·I``."""
    return slogdet(op, plus(None, shift, op, precision), precision)


def adjoint(op: LinearOperator) -> LinearOperator:
    """The lazy adjoint."""
    return AdjointOperator(op)


def transpose(op: LinearOperator) -> LinearOperator:
    """The lazy transpose."""
    return TransposedOperator(op)


def integer_power(op: LinearOperator, p: int) -> LinearOperator:
    """``op ** p`` as a product of ``|p|`` copies of the operator or its inverse."""
    if p == 0:
        return IdentityOperator(op.shape[0], like=op._like, domain_shape=op.domain_shape)
    base = op if p > 0 else op.inverse()
    if abs(p) == 1:
        return base
    if isinstance(compose(base, base), ProductOperator):
        return ProductOperator.of_copies(base, abs(p))
    made = base
    for bit in bin(abs(p))[3:]:  # squares, as long as they have a closed form
        made = compose(made, made)
        made = compose(made, base) if bit == "1" else made
    return made


def spectral(basis: LinearOperator, eigenvalues: Array) -> LinearOperator:
    """``basis · diag(eigenvalues) · basisᴴ`` of a unitary basis."""
    if isinstance(basis, IdentityOperator):
        return DiagonalOperator(eigenvalues, check_finite=False)
    if isinstance(basis, KroneckerOperator):
        return KroneckerEigenOperator.from_basis(basis, eigenvalues)
    if isinstance(basis, DenseOperator):
        adjoint = basis.backend.adjoint(basis.matrix)
        return basis.with_matrix(basis.backend.xp.matmul(basis.matrix * eigenvalues, adjoint))
    flat = basis.backend.xp.reshape(eigenvalues, (-1,))
    return ProductOperator((basis, DiagonalOperator(flat, check_finite=False), basis.H))


def mixed_product(left: KroneckerOperator, right: KroneckerOperator) -> LinearOperator | None:
    """The product of two Kronecker products as one of products of factors, where that pays."""
    return mixed_products.mixed_product(left, right)


def shift_kronecker(op: KroneckerOperator, scalar: Scalar) -> LinearOperator:
    """``op + scalar·I``, by eigendecompositions of the factors or by their Schur forms."""
    if not op._untracked.hermitian:
        return KroneckerSchurOperator(op, scalar)
    return KroneckerEigenOperator.from_shift(op, scalar)


def kronecker_sum(factors: list[LinearOperator]) -> LinearOperator:
    """``A1 ⊕ … ⊕ AN``."""
    return KroneckerSumOperator(factors)


def diagonalise_sum(op: SumOperator) -> LinearOperator | None:
    """A sum of Kronecker products as an operator that solves by structure, where there is one."""
    return simultaneous.closed_form(op)


def inverse_near_sum(op: SumOperator) -> LinearOperator:
    """The inverse of a sum of Kronecker products, or of one near it that has a closed form."""
    return preconditioning.inverse_near_sum(op)


def complete_svd(triplets: Any) -> tuple[LinearOperator, Array, LinearOperator]:
    """Singular vectors and values of a Kronecker product, and those that are missing for zeros."""
    return singular_vectors.with_zeros(triplets)


def frobenius_norm_of_sum(op: SumOperator) -> Array | None:
    """That of a sum of Kronecker products, by the vectors of their factors; else None."""
    shapes = factor_shapes(op)
    tensor = rearrangement.of_terms(op, shapes) if shapes else None
    return None if tensor is None else scaled_norm(op.backend.xp, tensor.core)


def shift(op: LinearOperator, scalar: Scalar) -> LinearOperator:
    """``op + scalar·I`` as a sum."""
    return add(op, scale(scalar, IdentityOperator(op.shape[0], like=op._like)))


def permute_columns(op: LinearOperator, order: Array) -> LinearOperator:
    """The operator whose column ``j`` is column ``order[j]`` of ``op``."""
    if isinstance(op, DenseOperator):
        return op.with_matrix(op.backend.xp.take(op.matrix, order, axis=1))
    return compose(op, PermutationOperator(order, op._like))


def truncated_inverse(
    left: LinearOperator, values: Array, right: LinearOperator, cutoff: Array
) -> LinearOperator:
    """``right · diag(1/values) · leftᴴ``, of the values above ``cutoff``."""
    reciprocals = spectrum.truncated_reciprocal(values, cutoff)
    middle = DiagonalOperator(reciprocals, check_finite=False)
    return compose(compose(right, middle), left.H)


def dense(matrix: Array, domain_shape: Shape) -> LinearOperator:
    """A matrix as an operator."""
    return DenseOperator(matrix, domain_shape=domain_shape)


def chunkwise(op: LinearOperator, x: Array) -> LinearOperator:
    """The operator as one that applies to ``x``, in chunks of the operator's library."""
    return ChunkwiseOperator.of(op, backend_of(x))


def multiply_sharded(op: LinearOperator, v: Any, axis: int | None = None) -> Any:
    """``op`` times ``v`` in the sharding of ``v``; None if no part is known to have one."""
    return sharded.multiply_sharded(op, v, axis)


def whole(op: LinearOperator) -> Any:
    """The operator with arrays that are whole on one device of this process."""
    return sharded.whole(op)


def explain_sharded(op: LinearOperator, mesh: Any, spec: Any, columns: int) -> Iterable[str]:
    """What `LinearOperator.explain` says of products on a mesh."""
    return sharded.explain(op, mesh, spec, columns)


def mask(op: LinearOperator, mask: Any) -> LinearOperator:
    """The rows and columns of ``op`` at which ``mask`` is true."""
    made = MaskedOperator(op, mask)
    if made.shape == op.shape:
        return op
    return op._masked(made.kept) or made


def select(op: LinearOperator, rows: Index, columns: Index) -> Any:
    """An entry, a row or a column as an array; of several rows and columns an operator."""
    if isinstance(rows, int) and isinstance(columns, int):
        return op._entry(rows, columns)
    if isinstance(rows, int):
        return _picked(op, op.T._column(rows), columns)
    if isinstance(columns, int):
        return _picked(op, op._column(columns), rows)
    if rows is not None:
        op = compose(SelectionOperator.of(rows, op.shape[0], op._like), op)
    if columns is not None:
        op = compose(SelectionOperator.of(columns, op.shape[1], op._like), op.T).T
    return op


def _picked(op: LinearOperator, line: Array, places: Index) -> Array:
    if places is None:
        return op.backend.copy(line)
    return SelectionOperator.of(places, line.shape[0], op._like)._apply_last(line)


def _require_one_home(left: LinearOperator, right: LinearOperator) -> None:
    """One library and one device: closed forms look at shapes alone."""
    if left.backend is not right.backend:
        raise TypeError(
            f"operators of two libraries, {left.backend.name} and {right.backend.name}: "
            f"move one of them (op.to_backend)"
        )
    if not left.backend.same_device(tree.leaves(right)[0], left.device):
        raise TypeError(
            f"operators on two devices, {left.device} and {right.device}: "
            f"move one of them (op.to_device)"
        )


def _terms(op: LinearOperator) -> tuple[LinearOperator, ...]:
    return op.terms if isinstance(op, SumOperator) else (op,)


def _factors(op: LinearOperator) -> tuple[LinearOperator, ...]:
    if isinstance(op, ScaledOperator) and isinstance(op.base, ProductOperator):
        first, *rest = op.base.factors
        return (ScaledOperator(op.scalar, first), *rest)
    return op.factors if isinstance(op, ProductOperator) else (op,)


def _plain(op: LinearOperator) -> LinearOperator:
    """``I ⊗ I`` as ``I``, which sums and products know."""
    if isinstance(op, KroneckerOperator) and not op.sides:
        shape = op.domain_shape
        return scale(op.scale, IdentityOperator(op.shape[0], like=op._like, domain_shape=shape))
    return op


def _gathered(terms: list[LinearOperator], term: LinearOperator) -> list[LinearOperator]:
    """The terms and one more; where it merges with one, what comes of that may with another."""
    for index, kept in enumerate(terms):
        merged = _merge(kept, term)
        if merged is not None:
            return _gathered([*terms[:index], *terms[index + 1 :]], merged)
    return [*terms, term]


def _merge(left: LinearOperator, right: LinearOperator) -> LinearOperator | None:
    """Two terms as one: multiples of one operator, or a closed form that either side knows."""
    if left.shape != right.shape:
        return None  # SumOperator says what is wrong
    c, a = (left.scalar, left.base) if isinstance(left, ScaledOperator) else (1.0, left)
    d, b = (right.scalar, right.base) if isinstance(right, ScaledOperator) else (1.0, right)
    identities = identity_multiple(left) is not None and identity_multiple(right) is not None
    if a is b or identities:
        return scale(c + d, a)
    return left._plus(right) or right._plus(left)


def _closed_product(left: LinearOperator, right: LinearOperator) -> LinearOperator | None:
    if left.shape[1] != right.shape[0]:
        return None  # ProductOperator says what is wrong
    for identity, other in ((left, right), (right, left)):
        if isinstance(identity, IdentityOperator) and identity.dtype == other.dtype:
            return other
    return left._times(right)


def _product(left: Scalar, right: Scalar) -> Scalar:
    made = left * right
    if is_array(made):
        return made
    if not math.isfinite(abs(made)) or (made == 0 and left != 0 and right != 0):
        raise OverflowError(f"the scalars {left} and {right} multiply to a number out of range")
    return made


LinearOperator._algebra = sys.modules[__name__]
