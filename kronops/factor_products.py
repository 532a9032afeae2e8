"""Products with the factors of a Kronecker product: plans, bound to the factors' arrays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from kronops import tree
from kronops.backends.settings import current_settings
from kronops.backends.standard import Array, Operand
from kronops.caching import fact
from kronops.explaining import Account
from kronops.planning import Factor, Machine, Plan, Step, plan, stretch
from kronops.scalars import Scalar, binary_exponent
from kronops.scaling import (
    balanced_order,
    dtype_exponent,
    exponent,
    kronecker,
    mantissa_and_exponent,
    outer,
    rescale,
    smallest_exponent,
    split,
)

if TYPE_CHECKING:
    from kronops.operator import LinearOperator

__all__ = ["FactorProducts"]

_KEPT = 16  # shapes of vectors of which the program is kept


class FactorProducts:
    """``scale · A1 ⊗ … ⊗ AN``, applied to arrays of the view ``(left, n, right)``.

    Parameters
    ----------
    op : KroneckerOperator
        The factors and the scale. They are not tracked, or this object is not kept.
    """

    def __init__(self, op: Any) -> None:
        self.factors: tuple[LinearOperator, ...] = op.factors
        self.scale: Scalar = op.scale
        self.backend, self.dtype, self.device = op.backend, op.dtype, op.device
        self.shape, self.tracked = op.shape, op._tracked
        self.limit = dtype_exponent(op._like)
        with self._eager():
            exponents = [factor._exponent() for factor in self.factors]
            self.hidden = any(self.backend.values(leaf) is None for leaf in tree.leaves(op))
        spread = sum(map(abs, exponents)) + abs(binary_exponent(self.scale))
        # Whether no order of the factors brings a vector of moderate size out of range; and whether
        # that is certain, which it is not of sizes that nobody can see.
        self.moderate = 3 * spread <= self.limit
        self.surely_moderate = self.moderate and not self.hidden
        # What multiplies vectors that nothing follows.
        self.engine = self.backend if self.tracked else self.backend.engine(tree.leaves(op))
        self._programs: dict[Any, Callable[[Array], Array]] = {}

    @fact
    def known(self) -> tuple[Factor, ...]:
        """What plans know of the factors."""
        with self._eager():
            return tuple(Factor(*factor.shape, factor._step_kind) for factor in self.factors)

    def __call__(self, x: Array, left: int, right: int) -> Array:
        """The product, of some shape, in fresh memory."""
        if not self.moderate:
            return self._in_order(self._balanced(exponent(x)), x, left, right)
        if self.backend.is_compiling():
            return self._in_order(self._shrinking_first(), x, left, right)
        engine = self.engine if self.engine.takes(x) else self.backend
        key = left, right, x.dtype, engine, current_settings()
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= _KEPT:
                self._programs.clear()
            with self._eager():
                program = self._programs[key] = self._program(left, right, x.dtype, engine)
        return program(x)

    def plan(self, left: int, right: int, dtype: Any, engine: Any = None) -> Plan:
        """How vectors of the view ``(left, n, right)`` are multiplied, in ``dtype``."""
        numbers = left * max(self.shape) * right
        machine = (engine or self.engine).machine(dtype, numbers)
        if machine.merged and (self.hidden or not self._mergeable(machine)):
            machine = machine._replace(merged=0, kernels=None)  # which merge, too
        return plan(self.known, left, right, machine)

    def account(self, op: LinearOperator, columns: int) -> Account:
        """What `LinearOperator.explain` says of the product, which is ``op``'s."""
        identity = "(A ⊗ B) vec(X) = vec(A X Bᵀ), factor after factor"
        if not all(self.shape):
            return Account(op, identity)
        if not self.moderate:
            identity += ", in the order that keeps magnitudes in range"
            return Account(op, identity, parts=self._accounts(self._balanced(0), columns))
        if not all(factor._step_kind_is_known for factor in self.factors):
            identity += "; inverses that are well-conditioned become matrices"
            return Account(op, identity, parts=self._accounts(self._shrinking_first(), columns))
        made = self.plan(1, columns, self.dtype)
        details = str(made).splitlines()
        if made.workspace:
            details.append(f"two workspaces of {made.workspace} numbers")
        operators: list[int | Scalar]
        operators = [step.start for _, step in made.steps if step.kind == "operator"]
        parts = self._accounts(operators, columns)
        return Account(op, identity, made.flops, made.moved, parts=parts, details=details)

    def _accounts(self, order: Sequence[int | Scalar], columns: int) -> list[Account]:
        """Those of some factors, in the order in which they are applied."""
        sizes = [factor.shape[1] for factor in self.factors]
        made = []
        for index in order:
            if isinstance(index, int):
                around = math.prod(sizes) // sizes[index]
                made.append(self.factors[index]._account("multiply", around * columns))
                sizes[index] = self.factors[index].shape[0]
        return made

    def _program(self, left: int, right: int, given: Any, engine: Any) -> Callable[[Array], Array]:
        dtype = self.backend.xp.result_type(given, self.dtype)
        size = left * self.shape[0] * right
        if 0 in (left, right, *self.shape):
            return lambda x: self.backend.xp.zeros((size,), dtype=dtype, device=self.device)
        made = self.plan(left, right, dtype, engine)
        scales = split(self.scale, 0, self.limit)
        operands: list[Operand] = []
        for _, step in made.steps:
            operand = self._operand(step, dtype)
            first = operand[0] if step.kind == "compiled" else operand
            if scales and step.kind != "operator" and self._takes_scale(first):
                first, scales = rescale(first, scales), []
            operand = [first, *operand[1:]] if step.kind == "compiled" else first
            operands.append(operand)
        program = engine.program(made, operands, given, dtype)
        return (lambda x: rescale(program(x), scales)) if scales else program

    def _operand(self, step: Step, dtype: Any) -> Operand:
        """What the step multiplies by: a matrix, a diagonal, several matrices, or an operator."""
        members = self.factors[step.start : step.stop]
        if step.kind == "operator":
            return members[0]
        xp = self.backend.xp
        arrays = [xp.astype(factor._step_array(), dtype, copy=False) for factor in members]
        if step.kind == "compiled":
            return arrays
        if len(arrays) == 1:
            return arrays[0]
        return outer(arrays) if step.kind == "diagonal" else kronecker(arrays)

    def _takes_scale(self, array: Array) -> bool:
        """Whether no entry leaves the range, or loses digits, by the scale."""
        return _reach(array) + abs(binary_exponent(self.scale)) < self.limit - 2

    def _mergeable(self, machine: Machine) -> bool:
        """Whether no product of entries of merged factors leaves the range, or loses digits."""
        room, worst = self.limit - 2, 0.0
        for factor in self.factors:
            kind, size = factor._step_kind, max(factor.shape)
            if kind == "diagonal" or (kind == "dense" and size == 1):  # any number may be merged
                room -= _reach(factor._step_array())
            elif kind == "dense" and size <= machine.merged:
                members = math.log(machine.merged, size)
                worst = max(worst, members * _reach(factor._step_array()))
        return worst <= room

    def _balanced(self, running: int) -> list[int | Scalar]:
        """Factors and powers of two of the scale, in an order that keeps magnitudes near one.

        ``running`` is the exponent of the vector; the next is the one that counteracts most.
        Nothing is rescaled, so that entries of very unlike size keep their digits.
        """
        mantissa, power = mantissa_and_exponent(self.scale)
        parts: list[tuple[int, int | Scalar]] = [(0, mantissa)]
        powers = split(1.0, power, self.limit // 4)
        parts += [(binary_exponent(scalar), scalar) for scalar in powers]
        parts += [(factor._exponent(), i) for i, factor in enumerate(self.factors)]
        return balanced_order(parts, running)

    def _shrinking_first(self) -> list[int | Scalar]:
        """Factors, those that shrink first, then the scale: for compilers of Python."""
        shrinkage = [stretch(*factor.shape) for factor in self.factors]
        order = sorted(range(len(shrinkage)), key=shrinkage.__getitem__)
        return [*order, *split(self.scale, 0, self.limit)]

    def _in_order(self, order: list[int | Scalar], x: Array, left: int, right: int) -> Array:
        """``x`` times factors, by index, and scalars."""
        sizes = [factor.shape[1] for factor in self.factors]
        for item in order:
            if not isinstance(item, int):
                x = rescale(x, [item])
                continue
            view = left * math.prod(sizes[:item]), sizes[item], math.prod(sizes[item + 1 :]) * right
            x = self.backend.apply_operator(self.factors[item], x, view)
            sizes[item] = self.factors[item].shape[0]
        return x

    def _eager(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.tracked else self.backend.eager()


def _reach(array: Array) -> int:
    """How many powers of two the magnitudes of entries, but zeros, are away from one at most."""
    return max(exponent(array), 1 - smallest_exponent(array))
