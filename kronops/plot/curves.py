"""`spectrum` and `convergence`: positive numbers on logarithmic axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kronops.backends import backend_of
from kronops.operator import LinearOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator
from kronops.plot.axes import as_axes

__all__ = ["block_spectra", "convergence", "spectrum"]

Numbers = np.ndarray[Any, np.dtype[np.float64]]

_DRAWN = 1000  # points of one kind at most: more than a picture is wide
_LISTED = 10**8  # eigenvalues at most, as many as `LinearOperator.to_dense` writes out


def spectrum(
    *operators: LinearOperator, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Eigenvalues of Hermitian operators, singular values of others, by their rank in magnitude.

    The magnitudes stand on a logarithmic axis, the largest first; negative eigenvalues are crosses.

    Parameters
    ----------
    *operators : LinearOperator
        One or more, of any shapes and libraries.
    labels : sequence of str, optional
        Their names in the legend; class and shape if not given.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        What is given is no operator, or ``ax`` no axes.
    ValueError
        No operators; not one label for each; more than 10⁸ values.

    Notes
    -----
    The values are those of `LinearOperator.eigh` and `LinearOperator.svd`, from structure. Of more
    than 1,000 positive or negative ones, 1,000 at even distances are drawn, the largest and the
    smallest among them, and the legend says of how many. It also counts the zeros, for which a
    logarithmic axis has no place.

    Examples
    --------
    >>> import numpy as np, kronops, kronops.plot
    >>> op = kronops.kron(np.diag([3.0, 1.0]), np.diag([1.0, -0.5]))
    >>> ax = kronops.plot.spectrum(op, labels=["A ⊗ B"])
    >>> positive, negative = ax.lines
    >>> positive.get_label(), positive.get_xydata().tolist()
    ('A ⊗ B', [[1.0, 3.0], [3.0, 1.0]])
    >>> negative.get_label(), negative.get_xydata().tolist()
    ('A ⊗ B, negative', [[2.0, 1.5], [4.0, 0.5]])
    """
    names = _as_labels(labels, operators)
    spectra = [_values(op, index) for index, op in enumerate(operators)]
    axes = as_axes(ax)
    for name, values in zip(names, spectra, strict=True):
        _draw_spectrum(axes, name, values)
    said = {op.hermitian: _WORDS[op.hermitian] for op in operators}
    axes.set(yscale="log", xlabel="rank in magnitude", ylabel=" or ".join(said.values()))
    axes.legend()
    return axes


def block_spectra(operator: BlockDiagonalOperator, ax: Axes | None = None) -> Axes:
    """The spectra of all blocks in one picture, under the names of the blocks.

    Parameters
    ----------
    operator : BlockDiagonalOperator
        For example what `kronops.kfac.Curvature.operator` gives. Names of blocks in blocks are
        joined by dots; blocks without names are numbered.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        ``operator`` has no blocks, or ``ax`` is no axes.
    ValueError
        A block has more than 10⁸ values.

    Examples
    --------
    >>> import numpy as np, kronops, kronops.plot
    >>> op = kronops.BlockDiagonalOperator({"scale": 2 * np.eye(2), "shift": np.eye(3)})
    >>> [line.get_label() for line in kronops.plot.block_spectra(op).lines]
    ['scale', 'shift']
    """
    if not isinstance(operator, BlockDiagonalOperator):
        raise TypeError(
            f"operator is a {type(operator).__name__}: a BlockDiagonalOperator is needed; "
            f"spectrum draws others"
        )
    blocks = dict(_named_blocks(operator, ""))
    return spectrum(*blocks.values(), labels=list(blocks), ax=ax)


def _named_blocks(operator: LinearOperator, name: str) -> Iterator[tuple[str, LinearOperator]]:
    if not isinstance(operator, BlockDiagonalOperator):
        yield name, operator
        return
    names = operator.names or range(len(operator.operators))
    for part, block in zip(names, operator.operators, strict=True):
        yield from _named_blocks(block, f"{name}.{part}" if name else str(part))


def convergence(histories: Mapping[str, Iterable[float]], ax: Axes | None = None) -> Axes:
    """Norms of residuals on a logarithmic axis, by iterations.

    Parameters
    ----------
    histories : dict of str to sequence of float
        For each label of the legend the norm of the residual after 0, 1, 2, … iterations, as
        `kronops.linalg.ResidualHistory` keeps them in ``norms``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if not given.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError
        ``histories`` is no dict, one of them no sequence of numbers, or ``ax`` no axes.
    ValueError
        No histories; norms that are negative, NaN or infinite.

    Notes
    -----
    A norm of zero has no place on a logarithmic axis: it is left out, and the legend says so.

    Examples
    --------
    >>> import numpy as np, kronops, kronops.plot
    >>> from kronops.linalg import ResidualHistory, cg
    >>> A, b = kronops.DiagonalOperator(np.array([1.0, 2.0, 4.0])), np.ones(3)
    >>> history = ResidualHistory(A, b)
    >>> x, info = cg(A, b, rtol=0.2, callback=history)
    >>> ax = kronops.plot.convergence({"plain": history.norms, "by the inverse": [3**0.5, 0.0]})
    >>> ax.lines[0].get_xydata().round(3).tolist()
    [[0.0, 1.732], [1.0, 0.926], [2.0, 0.321]]
    >>> ax.lines[1].get_label()
    'by the inverse (zero at iteration 1)'
    """
    if not isinstance(histories, Mapping):
        raise TypeError(
            f"histories is a {type(histories).__name__}: a dict of sequences of norms is needed, "
            f'for example {{"cg": history.norms}}'
        )
    if not histories:
        raise ValueError("histories is empty: one at least is needed")
    norms = {label: _as_norms(history, label) for label, history in histories.items()}
    axes = as_axes(ax)
    for label, history in norms.items():
        (iterations,) = np.nonzero(history)
        name = label
        if len(iterations) < len(history):
            name = f"{label} (zero at iteration {np.argmin(history)})"
        axes.plot(iterations, history[iterations], label=name)
    axes.set(yscale="log", xlabel="iteration", ylabel="norm of the residual")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return axes


# -- spectra ---------------------------------------------------------------------------------------

_WORDS = {True: "magnitude of the eigenvalue", False: "singular value"}


def _values(op: Any, index: int) -> Numbers:
    """Eigenvalues or singular values, by descending magnitude."""
    if not isinstance(op, LinearOperator):
        raise TypeError(
            f"operators[{index}] is a {type(op).__name__}: an operator is needed; "
            f"kronops.DenseOperator makes one of a matrix"
        )
    if min(op.shape) > _LISTED:
        raise ValueError(
            f"operators[{index}] has shape {op.shape}: {min(op.shape)} values cannot be listed, "
            f"{_LISTED} at most; the spectra of its factors would do"
        )
    values = op.eigh().eigenvalues if op.hermitian else op.svd().S
    numbers = backend_of(values).to_numpy(values).astype(np.float64)
    return numbers[np.argsort(-np.abs(numbers), kind="stable")]


def _draw_spectrum(axes: Axes, name: str, values: Numbers) -> None:
    """Positive values as dots, negative ones as crosses of the same colour."""
    left_out = {"zero": np.sum(values == 0), "not finite": np.sum(~np.isfinite(values))}
    notes = [f"{count} {kind}" for kind, count in left_out.items() if count]
    drawable = np.isfinite(values)
    dots = _draw_some(axes, name, notes, values, drawable & (values > 0), marker=".")
    if np.any(drawable & (values < 0)):
        style = {"marker": "x", "color": dots.get_color()}
        _draw_some(axes, f"{name}, negative", [], values, drawable & (values < 0), **style)


def _draw_some(
    axes: Axes, name: str, notes: list[str], values: Numbers, kind: Any, **style: Any
) -> Any:
    """Those of one kind, or so many of them that the picture looks the same."""
    (places,) = np.nonzero(kind)
    if len(places) > _DRAWN:
        notes = [f"{_DRAWN:,} of {len(places):,} drawn", *notes]
        places = places[np.linspace(0, len(places) - 1, _DRAWN).round().astype(int)]
    label = f"{name} ({', '.join(notes)})" if notes else name
    points = places + 1, np.abs(values[places])
    (line,) = axes.plot(*points, linestyle="none", markersize=5, label=label, **style)
    return line


def _as_labels(labels: Any, operators: tuple[Any, ...]) -> list[str]:
    if not operators:
        raise ValueError("no operators are given: one at least is needed")
    if labels is None:
        return [f"{type(op).__name__} {getattr(op, 'shape', '')}" for op in operators]
    if isinstance(labels, str) or len(labels) != len(operators):
        raise ValueError(
            f"labels = {labels!r}: a list of {len(operators)} would do, one for each operator"
        )
    return list(labels)


# -- norms -----------------------------------------------------------------------------------------


def _as_norms(history: Any, label: str) -> Numbers:
    try:
        norms = np.asarray([float(norm) for norm in history])
    except TypeError:
        raise TypeError(
            f"histories[{label!r}] is a {type(history).__name__}: a sequence of numbers is needed"
        ) from None
    if not np.all(np.isfinite(norms) & (norms >= 0)):
        raise ValueError(f"histories[{label!r}] has entries that are no norms: finite ones ≥ 0 do")
    return norms
