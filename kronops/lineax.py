"""kronops operators in lineax: for JAX users who compose its solvers with their structure.

`as_lineax` wraps an operator of JAX arrays so that every function and solver of lineax takes it,
as the operator and as a preconditioner; `StructuredSolver` solves by the structure. Both work
under ``jit``, ``vmap`` and ``grad``. This module needs lineax, and kronops does not import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax

from kronops import tree
from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.operator import LinearOperator
from kronops.operators.adjoint import AdjointOperator, TransposedOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.inverse import InverseOperator
from kronops.operators.kronecker import KroneckerOperator
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.product import ProductOperator
from kronops.operators.scaled import ScaledOperator
from kronops.operators.sum import SumOperator

__all__ = ["KronopsLinearOperator", "StructuredSolver", "as_lineax"]


def __dir__() -> list[str]:
    return __all__


class KronopsLinearOperator(lineax.AbstractLinearOperator):
    """A kronops operator as a ``lineax.AbstractLinearOperator``, made by `as_lineax`.

    It maps flat vectors ``(n,)`` to flat vectors ``(m,)``. Its fields are the operator ``op`` and
    ``tags``, the frozenset of lineax's tags that are all lineax knows of the operator.

    Examples
    --------
    >>> import jax.numpy as jnp, kronops
    >>> from kronops.lineax import as_lineax
    >>> as_lineax(kronops.kron(jnp.eye(2), 3 * jnp.eye(2))).T.mv(jnp.ones(4)).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """

    op: LinearOperator
    tags: frozenset[object] = eqx.field(static=True, default=frozenset())

    def mv(self, vector: Array) -> Array:
        """``op x``."""
        return self.op.matvec(vector)

    def as_matrix(self) -> Array:
        """The matrix; `ValueError` where it has more entries than `to_dense` writes out."""
        return self.op.to_dense()

    def transpose(self) -> KronopsLinearOperator:
        """The transpose."""
        return KronopsLinearOperator(self.op.T, lineax.transpose_tags(self.tags))

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """``(n,)``, in the operator's dtype."""
        return jax.ShapeDtypeStruct(self.op.shape[1:], self.op.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """``(m,)``, in the operator's dtype."""
        return jax.ShapeDtypeStruct(self.op.shape[:1], self.op.dtype)


def as_lineax(op: LinearOperator, tags: object | Iterable[object] = ()) -> KronopsLinearOperator:
    """``op`` as a lineax operator of flat vectors.

    Parameters
    ----------
    op : LinearOperator
        Of JAX arrays.
    tags : lineax tag, or several
        What is known beside. Tags are not checked.

    Returns
    -------
    KronopsLinearOperator
        With the tags given, and those that follow from what the operator knows here and now, from
        structure, from ``assume=`` and, for symmetry, from values that can be seen. They stay when
        it is handed to a function under ``jit``, where values cannot be seen. Only a claim makes
        an operator positive semidefinite: ``assume="positive definite"`` of the matrices that it
        is made of, or ``tags=lineax.positive_semidefinite_tag``.

    Raises
    ------
    TypeError
        Not an operator, or not of JAX arrays.

    Examples
    --------
    Conjugate gradients, preconditioned by the inverse of the Kronecker product:

    >>> import jax.numpy as jnp, kronops, lineax
    >>> from kronops import DenseOperator
    >>> from kronops.lineax import as_lineax
    >>> a = DenseOperator(jnp.asarray([[2.0, 1.0], [1.0, 2.0]]), "positive definite")
    >>> product = kronops.kron(a, a)
    >>> system = product + kronops.DiagonalOperator(jnp.asarray([0.0, 1.0, 0.0, 1.0]))
    >>> solution = lineax.linear_solve(
    ...     as_lineax(system, lineax.positive_semidefinite_tag),
    ...     jnp.ones(4),
    ...     lineax.CG(rtol=1e-5, atol=1e-5),
    ...     options={"preconditioner": as_lineax(product.inverse())},
    ... )
    >>> bool(jnp.allclose(system @ solution.value, 1.0, atol=1e-4))
    True
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(f"op is a {type(op).__name__}: a kronops operator is needed")
    if op.backend.name != "jax":
        raise TypeError(
            f'op has arrays of {op.backend.name}: lineax takes those of JAX (op.to_backend("jax"))'
        )
    given = tags if isinstance(tags, Iterable) else (tags,)
    return KronopsLinearOperator(op, frozenset([*given, *_known_tags(op)]))


class StructuredSolver(lineax.AbstractLinearSolver):
    """`kronops.LinearOperator.solve` as a solver of lineax, for what `as_lineax` gives.

    As of every solver of lineax, ``init`` factorises the operator, and its result can be handed to
    many calls of ``lineax.linear_solve`` as ``state``. Without it the operator is factorised in
    each call: lineax compiles these with the operator's arrays as arguments.

    Examples
    --------
    >>> import jax.numpy as jnp, kronops, lineax
    >>> from kronops.lineax import StructuredSolver, as_lineax
    >>> op = kronops.kron(jnp.eye(2), 3 * jnp.eye(2)).damped(1.0)
    >>> lineax.linear_solve(as_lineax(op), jnp.ones(4), StructuredSolver()).value.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def init(self, operator: lineax.AbstractLinearOperator, options: dict[str, Any]) -> _Solve:
        """Factorise ``operator``; `LinAlgError` where it is seen to be singular."""
        del options
        while isinstance(operator, lineax.TaggedLinearOperator):
            operator = operator.operator
        if not isinstance(operator, KronopsLinearOperator):
            raise TypeError(
                f"StructuredSolver was given a {type(operator).__name__}: it solves what "
                f"kronops.lineax.as_lineax makes; combine operators before they are given to that"
            )
        # What is factorised already, or can be now, becomes a part of the function.
        solve = operator.op.solve
        return _Solve(eqx.filter_closure_convert(solve, operator.out_structure()))

    def compute(
        self, state: _Solve, vector: Array, options: dict[str, Any]
    ) -> tuple[Array, lineax.RESULTS, dict[str, Any]]:
        """The solution for one right-hand side."""
        del options
        return state(vector), lineax.RESULTS.successful, {}

    def transpose(self, state: _Solve, options: dict[str, Any]) -> tuple[_Solve, dict[str, Any]]:
        """What ``init`` would make of the transpose."""
        del options
        return dataclasses.replace(state, transposed=not state.transposed), {}

    def conj(self, state: _Solve, options: dict[str, Any]) -> tuple[_Solve, dict[str, Any]]:
        """What ``init`` would make of the conjugate."""
        del options
        return dataclasses.replace(state, conjugated=not state.conjugated), {}

    def assume_full_rank(self) -> bool:
        """True: a singular operator is an error or NaN."""
        return True


class _Solve(eqx.Module):
    """``b ↦ M⁻¹ b``, or the transpose or the conjugate of this map, as a pytree."""

    function: Callable[[Array], Array]
    transposed: bool = eqx.field(static=True, default=False)
    conjugated: bool = eqx.field(static=True, default=False)

    def __call__(self, b: Array) -> Array:
        b = jnp.conj(b) if self.conjugated else b
        if self.transposed:
            (x,) = jax.linear_transpose(self.function, b)(b)
        else:
            x = self.function(b)
        return jnp.conj(x) if self.conjugated else x


# -- what lineax asks of operators ----------------------------------------------------------------


def _materialise(operator: KronopsLinearOperator) -> lineax.AbstractLinearOperator:
    if lineax.is_diagonal(operator):
        return lineax.DiagonalLinearOperator(operator.op.diagonal())
    return lineax.MatrixLinearOperator(operator.as_matrix(), operator.tags)


def _tridiagonal(operator: KronopsLinearOperator) -> tuple[Array, Array, Array]:
    matrix = operator.as_matrix()
    below, above = jnp.diagonal(matrix, offset=-1), jnp.diagonal(matrix, offset=1)
    return jnp.diagonal(matrix), below, above


def _conj(operator: KronopsLinearOperator) -> KronopsLinearOperator:
    if not _is_complex(operator.op):
        return operator
    return KronopsLinearOperator(operator.op.H.T, operator.tags)


def _is_symmetric(operator: KronopsLinearOperator) -> bool:
    if operator.tags & {lineax.symmetric_tag, lineax.diagonal_tag}:
        return True
    hermitian = {lineax.positive_semidefinite_tag, lineax.negative_semidefinite_tag}
    return bool(operator.tags & hermitian) and not _is_complex(operator.op)


def _tagged(*tags: object) -> Callable[[KronopsLinearOperator], bool]:
    """The question whether an operator has one of ``tags``."""
    return lambda operator: not operator.tags.isdisjoint(tags)


for _question, _answer in (
    (lineax.linearise, lambda operator: operator),
    (lineax.materialise, _materialise),
    (lineax.diagonal, lambda operator: operator.op.diagonal()),
    (lineax.tridiagonal, _tridiagonal),
    (lineax.conj, _conj),
    (lineax.is_symmetric, _is_symmetric),
    (lineax.is_diagonal, _tagged(lineax.diagonal_tag)),
    (lineax.is_tridiagonal, _tagged(lineax.tridiagonal_tag, lineax.diagonal_tag)),
    (lineax.is_lower_triangular, _tagged(lineax.lower_triangular_tag, lineax.diagonal_tag)),
    (lineax.is_upper_triangular, _tagged(lineax.upper_triangular_tag, lineax.diagonal_tag)),
    (lineax.has_unit_diagonal, _tagged(lineax.unit_diagonal_tag)),
    (lineax.is_positive_semidefinite, _tagged(lineax.positive_semidefinite_tag)),
    (lineax.is_negative_semidefinite, _tagged(lineax.negative_semidefinite_tag)),
):
    _question.register(KronopsLinearOperator, _answer)


# -- what kronops knows ---------------------------------------------------------------------------

_KEEP_DIAGONAL = (
    AdjointOperator,
    BlockDiagonalOperator,
    InverseOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
    ProductOperator,
    ScaledOperator,
    SumOperator,
    TransposedOperator,
)
_KEEP_DEFINITE = tuple(kind for kind in _KEEP_DIAGONAL if kind is not ProductOperator)


def _known_tags(op: LinearOperator) -> Iterator[object]:
    if not _is_complex(op) and op.hermitian:
        yield lineax.symmetric_tag
    if _is_diagonal(op):
        yield lineax.diagonal_tag
    if _is_semidefinite(op):
        yield lineax.positive_semidefinite_tag
    if isinstance(op, IdentityOperator):
        yield lineax.unit_diagonal_tag


def _is_complex(op: LinearOperator) -> bool:
    return bool(jnp.issubdtype(op.dtype, jnp.complexfloating))


def _is_diagonal(op: LinearOperator) -> bool:
    """Whether the structure alone makes it diagonal."""
    if isinstance(op, (DiagonalOperator, IdentityOperator)):
        return True
    parts = [part for part in tree.children(op) if isinstance(part, LinearOperator)]
    return isinstance(op, _KEEP_DIAGONAL) and all(map(_is_diagonal, parts))


def _is_semidefinite(op: LinearOperator) -> bool:
    """Whether claims, and what keeps them, make it Hermitian and positive semidefinite."""
    if isinstance(op, DenseOperator):
        return op.assume == "positive definite"
    if isinstance(op, IdentityOperator):
        return True
    return isinstance(op, _KEEP_DEFINITE) and all(map(_keeps_sign, tree.children(op)))


def _keeps_sign(part: Any) -> bool:
    if isinstance(part, LinearOperator):
        return _is_semidefinite(part)
    if isinstance(part, (int, float)):
        return part >= 0
    return not (is_array(part) or isinstance(part, complex))
