"""`structure`: an operator as the formula that it is, with its matrices drawn."""

from __future__ import annotations

import decimal
import functools
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kronops.backends import backend_of, is_array
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
from kronops.operators.kronecker_schur import KroneckerSchurOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.low_rank_update import LowRankInverseOperator, LowRankUpdateOperator
from kronops.operators.masked import MaskedOperator
from kronops.operators.product import ProductOperator
from kronops.operators.scaled import ScaledOperator
from kronops.operators.series import SeriesOperator
from kronops.operators.sum import SumOperator
from kronops.operators.toeplitz import ToeplitzOperator
from kronops.plot.axes import as_axes
from kronops.plot.boxes import Box, Canvas, captioned, cascade, framed, matrix, raised, row, words
from kronops.scalars import Scalar

__all__ = ["structure"]

Cells = np.ndarray[Any, np.dtype[np.float64]]

_CELLS = 64  # rows and columns of a matrix that are told apart
_SHOWN = 6  # neighbours that are drawn


def structure(op: LinearOperator, ax: Axes | None = None) -> Axes:
    """An operator drawn as the formula that it is: small matrices, and ``⊗``, ``⊕``, ``+`` between.

    Matrices, diagonals and Toeplitz matrices are shades of blue by magnitude, white where zero,
    each in its own scale; their sizes stand below. A frame stands for brackets. The title is the
    class and the shape, and the line at the bottom is what `LinearOperator.explain` says of a
    product.

    Parameters
    ----------
    op : LinearOperator
        Of any size: nothing but the arrays that it holds is drawn, and nothing is factorised.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if not given. Letters are as large as the axes have room for
        when this is called.

    Returns
    -------
    matplotlib.axes.Axes
        Without ticks, in units that are equal in both directions.

    Raises
    ------
    TypeError
        ``op`` is no operator, or ``ax`` no axes.

    Notes
    -----
    Sides grow with the logarithms of the sizes. A matrix of more than 64 rows or columns is drawn
    by the largest magnitudes in its 64 × 64 parts. Of more than six factors, terms or blocks in a
    row the first and the last are drawn, and how many are between is written. Operators of other
    packages are drawn by the operators in their fields, or by their name.

    Examples
    --------
    >>> import numpy as np, kronops, kronops.plot
    >>> op = kronops.kron(np.eye(3), np.ones((2, 5)))
    >>> ax = kronops.plot.structure(op)
    >>> [text.get_text() for text in ax.texts]
    ['3 × 3', '⊗', '2 × 5', '(A ⊗ B) vec(X) = vec(A X Bᵀ), factor after factor']
    >>> ax.get_title(), len(ax.images)
    ('KroneckerOperator, 6 × 15', 2)
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(
            f"op is a {type(op).__name__}: an operator is needed; kronops.DenseOperator makes one "
            f"of a matrix"
        )
    picture = _picture(op)
    size = min(0.45 * picture.width + 0.4, 14), min(0.45 * picture.height + 1.0, 9)
    axes = as_axes(ax, figsize=(max(size[0], 5), max(size[1], 2)))
    width, height = picture.width + 0.4, picture.height + 1.2  # room for the identity below
    axes.set(xlim=(-width / 2, width / 2), ylim=(-height / 2 - 0.4, height / 2 - 0.4))
    place = axes.get_window_extent()
    points = min(place.width / width, place.height / height) * 72 / axes.figure.dpi
    picture.draw(Canvas(axes, points), 0.0, 0.0)
    # Images bring limits of their own.
    axes.set(xlim=(-width / 2, width / 2), ylim=(-height / 2 - 0.4, height / 2 - 0.4))
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"{type(op).__name__}, {_size(op.shape)}")
    letters = max(20, int(place.width * 72 / axes.figure.dpi / 5))
    identity = textwrap.fill(op._account("multiply", 1).identity, letters)
    axes.text(0, -height / 2 - 0.3, identity, ha="center", va="bottom", fontsize="small")
    return axes


# -- one picture for each kind of operator ---------------------------------------------------------


@functools.singledispatch
def _picture(op: LinearOperator) -> Box:
    """Of an operator that says nothing of itself but its name and its parts."""
    parts = [_part(child) for child in op._children().values()]
    name = words(type(op).__name__, 0.5)
    return row([name, *_some(parts, ",")]) if parts else captioned(framed(name), _size(op.shape))


@_picture.register
def _(op: DenseOperator) -> Box:
    return _leaf(op, _pooled(_magnitudes(op.matrix)))


@_picture.register
def _(op: DiagonalOperator) -> Box:
    return _leaf(op, np.diag(_pooled(_magnitudes(op.diagonal()))))


@_picture.register
def _(op: IdentityOperator) -> Box:
    return _leaf(op, np.eye(min(op.n, _CELLS)))


@_picture.register
def _(op: ToeplitzOperator) -> Box:
    (m, n), diagonals = op.shape, _magnitudes(op._diagonals)
    rows, columns = _edges(m), _edges(n)
    cells = [
        [np.max(diagonals[n + i - right : n + below - left - 1]) for left, right in columns]
        for i, below in rows
    ]
    return _leaf(op, np.asarray(cells).reshape(len(rows), len(columns)))


@_picture.register
def _(op: KroneckerOperator) -> Box:
    return row([*_multiple(op.scale), *_some(map(_part, op.factors), "⊗")])


@_picture.register
def _(op: KroneckerSumOperator) -> Box:
    return row([*_some(map(_part, op.factors), "⊕"), *_shift(op.shift)])


@_picture.register
def _(op: KroneckerEigenOperator) -> Box:
    if op.base is None:
        basis = framed(_picture(op.basis))
        diagonal = _part(DiagonalOperator(op.eigenvalues, check_finite=False))
        return row([basis, diagonal, raised(basis, "H")])
    shifted = row([_part(op.base), *_shift(op.shift)])
    return raised(framed(shifted), "−1") if op.inverted else shifted


@_picture.register
def _(op: KroneckerSchurOperator) -> Box:
    return row([_part(op.base), *_shift(op.shift)])


@_picture.register
def _(op: BlockDiagonalOperator) -> Box:
    names = op.names or [""] * len(op.operators)
    blocks = [
        captioned(_part(block), ", ".join(map(str, name)) if isinstance(name, tuple) else str(name))
        if name != ""
        else _part(block)
        for name, block in zip(names, op.operators, strict=True)
    ]
    return framed(cascade(_some(blocks)))


@_picture.register
def _(op: LowRankUpdateOperator) -> Box:
    u, v = (DenseOperator(part, check_finite=False) for part in (op.u, op._right))
    return row([_part(op.base), words("+"), _part(u), _part(op.c), raised(_part(v), "H")])


@_picture.register
def _(op: LowRankInverseOperator) -> Box:
    return raised(framed(_picture(op.original)), "−1")


@_picture.register
def _(op: MaskedOperator) -> Box:
    return row([words("P"), _part(op.base), raised(words("P"), "H")])


@_picture.register
def _(op: SeriesOperator) -> Box:
    sides = [
        framed(row([_part(DenseOperator(moment, check_finite=False)) for moment in moments]))
        for moments in (op.input_moments, op.output_moments)
    ]
    return row([words("Σ (T−|d|)", 0.6), *_some(sides, "⊗")])


@_picture.register
def _(op: SumOperator) -> Box:
    tight = (DenseOperator, KroneckerOperator, ProductOperator, ScaledOperator)
    return row(_some([_part(term, unframed=tight) for term in op.terms], "+"))


@_picture.register
def _(op: ProductOperator) -> Box:
    return row([*_some(map(_part, op.factors))])


@_picture.register
def _(op: ScaledOperator) -> Box:
    return row([*_multiple(op.scalar), _part(op.base)])


@_picture.register
def _(op: InverseOperator) -> Box:
    return raised(_part(op.base), "−1")


@_picture.register
def _(op: AdjointOperator) -> Box:
    return raised(_part(op.base), "H")


@_picture.register
def _(op: TransposedOperator) -> Box:
    return raised(_part(op.base), "T")


# -- parts -----------------------------------------------------------------------------------------

_LEAVES = (DenseOperator, DiagonalOperator, IdentityOperator, ToeplitzOperator)
_POSTFIX = (AdjointOperator, InverseOperator, TransposedOperator)


def _part(op: LinearOperator, unframed: tuple[type, ...] = ()) -> Box:
    """An operator inside another: in a frame, with its size below, unless it needs no brackets."""
    if isinstance(op, (*_LEAVES, *_POSTFIX, *unframed)) or not op._children():
        return _picture(op)
    return captioned(framed(_picture(op)), _size(op.shape))


def _leaf(op: LinearOperator, cells: Cells) -> Box:
    return captioned(matrix(cells, op.shape), _size(op.shape))


def _some(boxes: Iterable[Box], symbol: str = "") -> list[Box]:
    """Boxes with a symbol between; of many the first ones, how many follow, and the last."""
    shown = list(boxes)
    if len(shown) > _SHOWN:
        between = len(shown) - _SHOWN + 1
        shown[_SHOWN - 2 : -1] = [words(f"… {between:,} more …", 0.5)]
    if not symbol:
        return shown
    return [part for box in shown for part in (words(symbol), box)][1:]


def _multiple(scalar: Scalar) -> Sequence[Box]:
    number = _number(scalar)
    return [] if number == "1" else [words(f"{number} ·", 0.5)]


def _shift(scalar: Scalar) -> Sequence[Box]:
    number = _number(scalar)
    return [] if number == "0" else [words("+"), words(f"{number} I", 0.5)]


def _number(scalar: Scalar) -> str:
    """With three digits, whatever library it is of."""
    value = complex(_to_numpy(scalar)) if is_array(scalar) else complex(scalar)
    return f"{value:.3g}" if value.imag else f"{value.real:.3g}"


def _size(shape: tuple[int, int]) -> str:
    return " × ".join(
        f"{size:,}" if size < 10**9 else f"{decimal.Decimal(size):.2e}" for size in shape
    )


# -- magnitudes ------------------------------------------------------------------------------------


def _to_numpy(array: Array) -> np.ndarray[Any, Any]:
    return backend_of(array).to_numpy(array)


def _magnitudes(array: Array) -> Cells:
    made: np.ndarray[Any, np.dtype[np.float64]] = np.abs(_to_numpy(array)).astype(np.float64)
    return made


def _edges(size: int) -> list[tuple[int, int]]:
    """The first and the last but one of at most `_CELLS` ranges that cover ``size``."""
    count = min(size, _CELLS)
    cuts = [size * k // count for k in range(count + 1)] if count else [0]
    return list(itertools.pairwise(cuts))


def _pooled(magnitudes: Cells) -> Cells:
    """The largest magnitude of each part."""
    for axis, size in enumerate(magnitudes.shape):
        if size > _CELLS:
            starts = [start for start, _ in _edges(size)]
            magnitudes = np.maximum.reduceat(magnitudes, starts, axis=axis)
    return magnitudes
