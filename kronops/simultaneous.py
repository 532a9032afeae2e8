"""Sums of Kronecker products in closed form, by bases in which every term is diagonal.

On each axis the factors of all terms are brought to diagonal form at once, ``Wᴴ Fᵣ W = diag(dᵣ)``:
by a unitary ``W`` where they commute, else by the generalised eigenproblem of a definite one of
them, after which the others have to commute, as a single one does. Then the sum is diagonal in the
Kronecker product of the ``W``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence

from kronops import tree
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.checks import epsilon, is_complex
from kronops.columns import scaled_norm
from kronops.errors import LinAlgError
from kronops.kronecker_terms import KroneckerTerm, first_product, kronecker_terms
from kronops.operator import LinearOperator
from kronops.operators.congruent import CongruentOperator
from kronops.operators.dense import DenseOperator, same
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.scalars import Scalar, binary_exponent
from kronops.scaling import dtype_exponent, outer, rescale, split

__all__ = ["closed_form"]

_MOST_EIGENVALUES = 2**30  # which are written out, one for each dimension


def closed_form(op: LinearOperator) -> LinearOperator | None:
    """``op``, a sum of Kronecker products, as an operator that solves by structure; or None."""
    first = first_product(op)
    shapes = () if first is None else tuple(factor.shape for factor in first.factors)
    if first is None or any(m != n or n == 0 for m, n in shapes):
        return None
    if op.shape[0] > _MOST_EIGENVALUES:
        return None
    terms = kronecker_terms(op, shapes)
    if terms is None:
        return None
    terms = [_balanced(scale, tuple(map(_plain, factors))) for scale, factors in terms]
    reference_of: References = functools.cache(_reference)  # both ways ask for the same ones
    layout = getattr(first, "layout", "in,out")
    return _diagonal(terms, layout, reference_of) or _of_two(terms, reference_of)


def _balanced(scale: Scalar, factors: tuple[LinearOperator, ...]) -> KroneckerTerm:
    """A term; powers of two of sizes far from one are moved from its factors to its scale.

    Factors of one axis are set beside each other, and may be as far apart as 1e-150 and 1e150.
    """
    limit = dtype_exponent(factors[0]._like)
    powers = [factor._exponent() for factor in factors]
    total = sum(powers)
    if max(map(abs, powers)) < limit // 4 or abs(total + binary_exponent(scale)) > limit // 2:
        return KroneckerTerm(scale, factors)
    pairs = zip(factors, powers, strict=True)
    return KroneckerTerm(scale * 2.0**total, tuple(_times_power(f, -power) for f, power in pairs))


def _times_power(factor: LinearOperator, power: int) -> LinearOperator:
    if power == 0 or isinstance(factor, IdentityOperator):
        return factor
    parts = split(1.0, power, dtype_exponent(factor._like))
    made: LinearOperator = tree.map_leaves(factor, lambda leaf: rescale(leaf, parts))
    return made


@dataclasses.dataclass(frozen=True)
class Reference:
    """A definite factor ``F = L Lᴴ``, relative to which the others of its axis are taken.

    Parameters
    ----------
    factor : LinearOperator
        ``F``.
    lower : LinearOperator
        ``L``, lower triangular.
    condition : float
        About the condition number of ``F``, ``‖L‖² ‖L⁻¹‖² / n`` in the Frobenius norm; 1 where
        nobody sees it.
    """

    factor: LinearOperator
    lower: LinearOperator
    condition: float


References = Callable[[LinearOperator], Reference | None]


@dataclasses.dataclass(frozen=True)
class Axis:
    """What brings the factors of one axis to a form that all of them have.

    Parameters
    ----------
    vectors : LinearOperator
        ``W``, with ``Wᴴ Fᵣ W`` of that form for each factor ``Fᵣ``.
    duals : LinearOperator
        ``W⁻ᴴ``.
    log_volume : array, optional
        ``log |det W⁻ᴴ|``; None if ``W`` is unitary.
    spectra : list of array
        The diagonals of the forms, if they are diagonal.
    condition : float
        Of the reference: that of ``W Wᴴ``.
    """

    vectors: LinearOperator
    duals: LinearOperator
    log_volume: Array | None
    spectra: list[Array]
    condition: float


# -- all terms diagonal ----------------------------------------------------------------------------


def _diagonal(
    terms: list[KroneckerTerm], layout: str, reference_of: References
) -> LinearOperator | None:
    """``(⊗ Wᵢ⁻ᴴ) diag(Σ cᵣ ⊗ dᵢᵣ) (⊗ Wᵢ⁻ᴴ)ᴴ``."""
    axes: list[Axis] = []
    for factors in zip(*(term.factors for term in terms), strict=True):
        axis = _diagonalised(factors, reference_of)
        if axis is None:
            return None
        axes.append(axis)
    parts = [
        outer([axis.spectra[index] for axis in axes], term.scale)
        for index, term in enumerate(terms)
    ]
    values = functools.reduce(operator.add, parts)
    if all(axis.log_volume is None for axis in axes):
        bases = [axis.vectors for axis in axes]
        basis = KroneckerOperator(bases, layout=layout, check_finite=False)
        return KroneckerEigenOperator.from_basis(basis, values)
    return _congruent(DiagonalOperator(values, check_finite=False), axes)


def _diagonalised(factors: Sequence[LinearOperator], reference_of: References) -> Axis | None:
    """The factors of one axis in diagonal form: by a unitary basis, else the best-conditioned."""
    distinct, places = _distinct(factors)
    identity = IdentityOperator(factors[0].shape[0], like=factors[0]._like)
    found = [reference_of(factor) for factor in distinct if not _alike(factor, identity)]
    definite = [reference for reference in found if reference is not None]
    definite.sort(key=lambda reference: reference.condition)
    for reference in [Reference(identity, identity, 1.0), *definite]:
        rest = [
            identity if f is reference.factor else _whitened(f, reference.lower) for f in distinct
        ]
        made = _common_eigenbasis(rest)
        if made is not None:
            spectra, basis = made
            return _axis(reference, basis, [spectra[place] for place in places])
    return None


def _distinct(factors: Sequence[LinearOperator]) -> tuple[list[LinearOperator], list[int]]:
    """The factors without repetitions, and the place of each among these."""
    distinct: list[LinearOperator] = []
    places = []
    for factor in factors:
        found = [i for i, kept in enumerate(distinct) if _alike(kept, factor)]
        places.append(found[0] if found else len(distinct))
        distinct += [] if found else [factor]
    return distinct, places


def _alike(left: LinearOperator, right: LinearOperator) -> bool:
    return same(left, right) or all(isinstance(op, IdentityOperator) for op in (left, right))


def _common_eigenbasis(
    factors: list[LinearOperator],
) -> tuple[list[Array], LinearOperator] | None:
    """The eigenvalues of all the factors in one unitary basis; None if there is none, or unseen."""
    if not all(factor.hermitian for factor in factors):
        return None
    plain = [factor for factor in factors if not isinstance(factor, IdentityOperator)]
    dense = [factor for factor in plain if isinstance(factor, DenseOperator)]
    if not dense:
        identity = IdentityOperator(factors[0].shape[0], like=factors[0]._like)
        return [_real(factor._diagonal()) for factor in factors], identity
    if len(plain) == 1:  # by its eigenvalues alone, whose derivatives need no eigenvectors
        values, vectors = dense[0]._eigenbasis()
        ones = dense[0].backend.xp.ones_like(values)
        return [values if factor is dense[0] else ones for factor in factors], vectors
    basis = _commuting([factor._to_dense() for factor in plain], dense[0])
    if basis is None:
        return None
    xp, matrix = basis.backend.xp, basis._to_dense()
    conjugate = basis.backend.conj(matrix)
    return [_real(xp.sum(conjugate * f._matmat(matrix), axis=0)) for f in factors], basis


def _commuting(matrices: list[Array], like: DenseOperator) -> LinearOperator | None:
    """Eigenvectors of a combination that no eigenvectors but common ones have, to rounding."""
    xp, values = like.backend.xp, like.backend.values
    if like._tracked or any(values(matrix) is None for matrix in matrices):
        return None
    units = [matrix / (_size(matrix) or 1.0) for matrix in matrices]
    weights = [math.cos(1.0 + index) for index in range(len(units))]
    combined = functools.reduce(
        operator.add, [weight * unit for weight, unit in zip(weights, units, strict=True)]
    )
    combined = 0.5 * combined + 0.5 * like.backend.adjoint(combined)
    basis = DenseOperator(combined, "symmetric", check_finite=False)._eigenbasis()[1]
    vectors = basis._to_dense()
    for unit in units:
        rotated = xp.matmul(like.backend.adjoint(vectors), xp.matmul(unit, vectors))
        diagonal = xp.linalg.diagonal(rotated)
        eye = xp.eye(unit.shape[0], dtype=unit.dtype, device=like.device)
        if _size(rotated - eye * diagonal) > 10 * unit.shape[0] * epsilon(unit):
            return None
    return basis


# -- two terms, one of them general ----------------------------------------------------------------


def _of_two(terms: list[KroneckerTerm], reference_of: References) -> LinearOperator | None:
    """``A ⊗ B + C ⊗ D`` with a definite factor on each axis and others that are general.

    Relative to ``C`` and ``D`` it is a Kronecker product plus a multiple of the identity, relative
    to ``C`` and ``B`` it is a Kronecker sum.
    """
    if len(terms) != 2:
        return None
    count = len(terms[0].factors)
    choices = [(1,) * count, (0,) * count] + ([(1, 0), (0, 1)] if count == 2 else [])
    for choice in choices:  # of the term that gives the reference of each axis
        found = [reference_of(terms[i].factors[axis]) for axis, i in enumerate(choice)]
        references = [reference for reference in found if reference is not None]
        if len(references) < count:
            continue
        others = [terms[1 - i] for i in choice]
        rest = [
            _whitened(other.factors[axis], reference.lower)
            for axis, (reference, other) in enumerate(zip(references, others, strict=True))
        ]
        lowers = [reference.lower for reference in references]
        identities = [IdentityOperator(lower.shape[0], like=lower._like) for lower in lowers]
        axes = [_axis(*pair, []) for pair in zip(references, identities, strict=True)]
        if len(set(choice)) == 1:
            base = KroneckerOperator(rest, others[0].scale, check_finite=False)
            return _congruent(base._shifted(terms[choice[0]].scale), axes)
        parts = [other.scale * factor for factor, other in zip(rest, others, strict=True)]
        return _congruent(KroneckerSumOperator(parts), axes)
    return None


# -- parts -----------------------------------------------------------------------------------------


def _congruent(core: LinearOperator, axes: list[Axis]) -> LinearOperator:
    """``(⊗ Wᵢ⁻ᴴ) C (⊗ Wᵢ⁻ᴴ)ᴴ``."""
    duals, vectors = (
        KroneckerOperator([getattr(axis, name) for axis in axes], check_finite=False)
        for name in ("duals", "vectors")
    )
    n = duals.shape[0]
    volumes = [
        axis.log_volume * (n // axis.duals.shape[0]) for axis in axes if axis.log_volume is not None
    ]
    if not volumes:
        return core
    log_volume, condition = functools.reduce(operator.add, volumes), max(a.condition for a in axes)
    return CongruentOperator(core, duals, vectors, log_volume, condition)


def _axis(reference: Reference, basis: LinearOperator, spectra: list[Array]) -> Axis:
    """``W = L⁻ᴴ Q`` and ``W⁻ᴴ = L Q``."""
    lower = reference.lower
    if isinstance(lower, IdentityOperator):
        return Axis(basis, basis, None, spectra, reference.condition)
    xp = lower.backend.xp
    log_volume = xp.sum(xp.log(xp.abs(lower._diagonal())))
    if isinstance(lower, DiagonalOperator) and isinstance(basis, IdentityOperator):
        return Axis(lower.inverse(), lower, log_volume, spectra, reference.condition)
    vectors = basis._to_dense()
    duals = DenseOperator(lower._matmat(vectors), "general", check_finite=False)
    solved = DenseOperator(_solved(lower, vectors, True), "general", check_finite=False)
    return Axis(solved, duals, log_volume, spectra, reference.condition)


def _whitened(factor: LinearOperator, lower: LinearOperator) -> LinearOperator:
    """``L⁻¹ F L⁻ᴴ``."""
    if isinstance(lower, IdentityOperator):
        return factor
    if isinstance(lower, DiagonalOperator) and not isinstance(factor, DenseOperator):
        return DiagonalOperator(factor._diagonal() / lower._flat**2, check_finite=False)
    adjoint = factor.backend.adjoint
    made = adjoint(_solved(lower, adjoint(_solved(lower, factor._to_dense()))))
    if not factor.hermitian:
        return DenseOperator(made, "general", check_finite=False)
    return DenseOperator(0.5 * made + 0.5 * adjoint(made), "symmetric", check_finite=False)


def _solved(lower: LinearOperator, b: Array, adjoint: bool = False) -> Array:
    """``L⁻¹ b`` or ``L⁻ᴴ b``; half precision is solved in single."""
    if isinstance(lower, DiagonalOperator):
        return b / lower._flat[:, None]
    backend = lower.backend
    matrix, wide = backend.wide(lower._to_dense()), backend.wide(b)
    made = backend.solve_triangular(*backend.promote(matrix, wide), lower=True, adjoint=adjoint)
    dtype = backend.xp.result_type(lower.dtype, b.dtype)
    return backend.xp.astype(made, dtype, copy=False)


def _reference(factor: LinearOperator) -> Reference | None:
    """The factor as a reference, if it is claimed or seen to be definite.

    What is seen has to be far from semidefinite: of a condition number below ``eps ** (-3 / 4)``.
    """
    if isinstance(factor, IdentityOperator):
        return Reference(factor, factor, 1.0)
    if not factor.hermitian:
        return None
    unseen = factor._tracked or factor.backend.values(factor._diagonal()) is None
    claimed = isinstance(factor, DenseOperator) and factor.assume == "positive definite"
    if unseen and not claimed:
        return None
    lower = factor._cholesky() if unseen else _lower(factor)
    if lower is None:
        return None
    condition = _condition(lower)
    safe = condition < epsilon(lower._like) ** -0.75
    return Reference(factor, lower, condition) if unseen or safe else None


def _lower(factor: LinearOperator) -> LinearOperator | None:
    """``L`` with ``L Lᴴ = F``, lower triangular; None if ``F`` is not definite."""
    if isinstance(factor, DiagonalOperator):
        positive = bool(factor.backend.xp.all(_real(factor._flat) > 0))
        return factor._power(0.5) if positive else None
    try:
        return factor._cholesky()
    except LinAlgError:
        return None


def _condition(lower: LinearOperator) -> float:
    """About the condition number of ``L Lᴴ``; 1 where nobody sees it."""
    lower, n = lower._untracked, lower.shape[0]
    matrix = lower._flat if isinstance(lower, DiagonalOperator) else lower._to_dense()
    if lower.backend.values(matrix) is None:
        return 1.0
    if isinstance(lower, DiagonalOperator):
        inverse = 1 / matrix
    else:
        inverse = _solved(lower, lower.backend.xp.eye(n, dtype=lower.dtype, device=lower.device))
    root = _size(matrix) * _size(inverse)
    return root * root / n


def _plain(factor: LinearOperator) -> LinearOperator:
    """A factor as an identity, a diagonal or a matrix."""
    if isinstance(factor, (IdentityOperator, DiagonalOperator, DenseOperator)):
        return factor
    claim = "symmetric" if factor.hermitian else None
    return DenseOperator(factor._to_dense(), claim, check_finite=False)


def _real(array: Array) -> Array:
    return backend_of(array).xp.real(array) if is_complex(array) else array


def _size(matrix: Array) -> float:
    return float(scaled_norm(backend_of(matrix).xp, matrix))
