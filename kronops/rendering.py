"""What notebooks show of an operator: the tree inside, sizes, and how operations are done."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from kronops import tree
from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.explaining import accounts, groups, quantity

if TYPE_CHECKING:
    from kronops.operator import LinearOperator

__all__ = ["as_html"]

# Colours are the page's own, so that they are right in the light and in the dark.
_FAINT = 'style="opacity: 0.65"'
_LEVEL = 'style="margin: 0 0 0 0.4em; padding-left: 0.9em; border-left: 1px solid"'
_PRE = 'style="margin: 0.3em 0 0 1.3em; background: none; color: inherit; line-height: 1.35"'


def as_html(op: LinearOperator) -> str:
    """A tree of ``<details>``, which folds without a script; everything in it is escaped."""
    try:
        inside = "".join(_branch(label, child) for label, child, _ in groups(op))
        head = f"{_title(op)} {_faint(f'{op.dtype}, {op.backend.name}, {op.device}; {_sizes(op)}')}"
        return (
            f'<div style="font-family: inherit; overflow-x: auto"><details open>'
            f"<summary>{head}</summary>{_level(inside)}"
            f"<details {_LEVEL}><summary>{_faint('operations')}</summary>"
            f"<pre {_PRE}>{html.escape(accounts(op, 1))}</pre></details></details></div>"
        )
    except ValueError:  # a stack, as jax.vmap makes it, has no shape
        return f"<pre>{html.escape(repr(op))}</pre>"


def _branch(label: str, op: LinearOperator) -> str:
    """A line for an operator, or a part that folds where there are operators in it."""
    head = f"{_faint(label)} {_title(op)} {_faint(_sizes(op))}"
    inside = "".join(_branch(name, child) for name, child, _ in groups(op))
    if not inside:
        return f"<div>{head}</div>"
    return f"<details open><summary>{head}</summary>{_level(inside)}</details>"


def _level(inside: str) -> str:
    return f"<div {_LEVEL}>{inside}</div>" if inside else ""


def _title(op: LinearOperator) -> str:
    rows, columns = op.shape
    return f"<b>{html.escape(type(op).__name__)}</b> {rows:,} × {columns:,}"


def _faint(text: str) -> str:
    return f"<span {_FAINT}>{html.escape(text)}</span>"


def _sizes(op: LinearOperator) -> str:
    """What is held in memory, and what the matrix would take."""
    arrays = {id(leaf): leaf for leaf in tree.leaves(op)}
    held = sum(math.prod(leaf.shape) * _itemsize(leaf.dtype, leaf) for leaf in arrays.values())
    formed = op.shape[0] * op.shape[1] * _itemsize(op.dtype, op._like)
    return (f"{quantity(held, 'B')}, " if held else "") + f"as a matrix {quantity(formed, 'B')}"


def _itemsize(dtype: object, like: Array) -> int:
    backend = backend_of(like)
    kind = backend.kind(dtype)
    if kind == "bool":
        return 1
    info = backend.xp.finfo if kind.endswith("floating") else backend.xp.iinfo
    bits: int = info(dtype).bits
    return bits // 8 * (2 if kind.startswith("complex") else 1)
