"""What `LinearOperator.explain` says: accounts of operations, and how they are written."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kronops.operator import LinearOperator

__all__ = ["OPERATIONS", "Account", "accounts", "explain", "groups", "quantity"]

# What is accounted for; all but the first are of square operators.
OPERATIONS = ("multiply", "multiply_inverse", "logdet", "eigh")


@dataclasses.dataclass(frozen=True)
class Account:
    """How an operator does one thing, and what that costs beside the parts it is made of.

    Parameters
    ----------
    op : LinearOperator
    identity : str
        In the notation of papers, or in words.
    flops : float
        Additions and multiplications, of complex numbers if the operator is complex; NaN if
        nobody knows.
    numbers : float
        How many are read and written.
    once : float
        Flops of what is computed the first time, and kept.
    parts : sequence of Account
        What is done with other operators on the way.
    details : sequence of str
        Lines that say how.
    """

    op: LinearOperator
    identity: str
    flops: float = 0
    numbers: float = 0
    once: float = 0
    parts: Sequence[Account] = ()
    details: Sequence[str] = ()

    def total(self, cost: str) -> float:
        """Its ``"flops"``, ``"numbers"`` or ``"once"``, with those of its parts."""
        own: float = getattr(self, cost)
        return own + sum(part.total(cost) for part in self.parts)

    @property
    def costs(self) -> str:
        """All three in words."""
        flops, once = self.total("flops"), self.total("once")
        if math.isnan(flops):
            return "flops not known"
        parts = 2 if self.op._complex else 1
        itemsize = parts * self.op.backend.xp.finfo(self.op.dtype).bits // 8
        said = [quantity(flops, "flop"), quantity(self.total("numbers") * itemsize, "B")]
        if once:
            said.append(f"once {quantity(once, 'flop')}")
        return ", ".join(said)


def explain(op: LinearOperator, columns: int) -> str:
    """The text of `LinearOperator.explain`."""
    head = "\n".join([f"{_name(op)}, {op.dtype}, {op.backend.name}", *_tree(op)])
    return f"{head}\n\n{accounts(op, columns)}"


def accounts(op: LinearOperator, columns: int) -> str:
    """How each operation is done, and what it costs, as paragraphs."""
    return "\n\n".join("\n".join(lines) for lines in _paragraphs(op, columns))


def _paragraphs(op: LinearOperator, columns: int) -> Iterator[list[str]]:
    for operation in OPERATIONS[: len(OPERATIONS) if op._square else 1]:
        account = op._account(operation, columns if operation.startswith("multiply") else 1)
        details = [f"    {line}" for line in (account.costs, *_how(account))]
        yield [f"{operation}: {account.identity}", *details]


def default_account(op: LinearOperator, operation: str, columns: int, own: bool) -> Account:
    """Of an operator whose author says nothing: ``own``, if it does the operation by itself."""
    if own:
        return Account(op, f"{type(op).__name__}'s own", math.nan, math.nan)
    n = op.shape[0]
    if n * n > 10**8:
        return Account(
            op, "no identity is known, and the matrix is too large to be written out", math.nan
        )
    return Account(
        op, "written out as a dense matrix: no identity is known", numbers=n * n,
        parts=[dense_account(op, operation, columns)],
    )  # fmt: skip


def dense_account(
    op: LinearOperator,
    operation: str,
    columns: int,
    definite: bool | None = None,
    refined: bool = False,
) -> Account:
    """Of a square matrix that is held as an array; ``definite``: whether that is known."""
    n = op.shape[0]
    if operation == "eigh":
        return Account(op, "A = Q Λ Qᴴ", numbers=2 * n * n, once=9 * n**3)
    known: dict[bool | None, str] = {True: "A = L Lᴴ", False: "A = P L U"}
    factorisation = known.get(definite, "A = L Lᴴ if it is definite, else A = P L U")
    once = n**3 / 3 if definite else 2 * n**3 / 3
    if operation == "logdet":
        return Account(op, f"{factorisation}, shared with the inverse", n, n, once)
    if refined:  # two solves, and a residual by three products with halves of the matrix
        words = f"{factorisation}, and one step of refinement, for A is ill-conditioned"
        return Account(op, words, 10 * n * n * columns, n * (4 * n + 2 * columns), once)
    return Account(op, factorisation, 2 * n * n * columns, n * (n + 2 * columns), once)


# -- words -----------------------------------------------------------------------------------------


def _name(op: LinearOperator) -> str:
    return f"{type(op).__name__} {op.shape}"


def groups(op: LinearOperator) -> Iterator[tuple[str, LinearOperator, list[str]]]:
    """The operators inside, each with its tree in lines; neighbours that look alike are one."""
    looks = [(label, child, [*_tree(child)]) for label, child in op._children().items()]
    for _, alike in itertools.groupby(looks, key=lambda look: (_name(look[1]), look[2])):
        labels, (child, *_), (lines, *_) = zip(*alike, strict=True)
        yield ", ".join(labels) if len(labels) < 3 else f"{labels[0]} … {labels[-1]}", child, lines


def _tree(op: LinearOperator) -> Iterator[str]:
    inside = [*groups(op)]
    for index, (label, child, lines) in enumerate(inside):
        last = index == len(inside) - 1
        yield f"{'└─' if last else '├─'} {label}: {_name(child)}"
        yield from (f"{'   ' if last else '│  '}{line}" for line in lines)


def _how(account: Account) -> Iterator[str]:
    """The details, then the parts' identities; parts that are alike share a line."""
    yield from account.details
    texts = [
        (f"{_name(part.op)}: {part.identity}", *(f"    {line}" for line in _how(part)))
        for part in account.parts
    ]
    for lines, group in itertools.groupby(texts):
        times = len([*group])
        yield lines[0] if times == 1 else f"{times} × {lines[0]}"
        yield from lines[1:]


def quantity(amount: float, unit: str) -> str:
    """With three digits, and a prefix."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    power = 0
    while round(amount, 1) >= 1000 and power < len(prefixes) - 1:
        amount, power = amount / 1000, power + 1
    return f"{amount:.3g} {prefixes[power]}{unit}"
