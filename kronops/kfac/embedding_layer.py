"""An embedding: a table of vectors, of which each example looks some up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.kfac import batches
from kronops.kfac.affine_layer import KINDS, SIDES, AffineLayer
from kronops.kfac.batches import as_batch, as_choice, as_count, second_moment
from kronops.kfac.eigenvalues import Eigenvalues
from kronops.kfac.estimator import Batch
from kronops.kfac.moving_average import Arrays

__all__ = ["EmbeddingLayer"]


@dataclass(eq=False)
class EmbeddingLayer(AffineLayer):
    """``A ⊗ G`` of a dense layer whose inputs are unit vectors, given by their indices.

    ``A = E[a aᵀ]`` is then diagonal: the frequencies of the ids. It is counted, and neither unit
    vectors nor a matrix are ever formed. Where an example looks up ``S`` vectors, the lookups are
    taken as independent uses: the block is ``S · A ⊗ G`` with means over all ``B·S`` of them, and
    its damping is divided by ``S``, as `SharedLayer` does with ``sharing="expand"``.

    Parameters
    ----------
    num_embeddings : int
        How many vectors there are: ids are ``0, …, num_embeddings − 1``.
    debias : bool
        Whether averages are divided by their total weight.
    layout : {"in,out", "out,in"}
        The table is ``(num_embeddings, out)`` with ``"in,out"``: PyTorch's embeddings too, unlike
        its linear layers.
    structure : {"kronecker", "diagonal"} or pair ("diagonal", {"full", "diagonal"})
        ``"kronecker"`` is ``("diagonal", "full")``; ``"diagonal"`` for the mean squares of the
        gradients, of each lookup, in the shape of the table.
    padding_idx : int, optional
        The id of a lookup that is none, as PyTorch has it: it is not counted, its gradients are
        taken as zero, and ``G`` is the mean over all other lookups.

    Raises
    ------
    ValueError, TypeError
        A setting is none of these.

    Notes
    -----
    `update` takes integer ids ``(B,)`` and output gradients ``(B, out)``, or ids ``(B, S)``, with
    any number of axes for ``S``, and output gradients ``(B, S, out)``; either may have draws in
    front. An id that is negative or too large is a `ValueError` that names it; where ids cannot be
    seen, under a tracer, it makes the moments NaN. A batch costs ``2·B·S·out²`` flops and
    ``B·S + num_embeddings`` numbers of memory beside the gradients; ``"diagonal"`` and
    `update_eigenvalues` need the table's size, and the latter ``2·B·S²·out`` flops more.

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import EmbeddingLayer
    >>> layer = EmbeddingLayer(4)
    >>> layer.update(np.array([2, 0, 2]), np.array([[3.0], [0.0], [0.0]]))
    >>> layer.moments
    (array([0.33333333, 0.        , 0.66666667, 0.        ]), array([[3.]]))
    >>> layer.operator(damping=0.1).domain_shape
    (4, 1)
    """

    num_embeddings: int
    structure: str | tuple[str, str] = field(default="kronecker", kw_only=True)
    padding_idx: int | None = field(default=None, kw_only=True)
    bias: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_embeddings = as_count(self.num_embeddings, "num_embeddings")
        if self.padding_idx is not None:
            self.padding_idx = _as_id(self.padding_idx, self.num_embeddings)
        pairs = tuple(("diagonal", kind) for kind in KINDS)
        as_choice(self.structure, "structure", ("kronecker", "diagonal", *pairs))

    @property
    def _kinds(self) -> tuple[str, str] | None:
        return ("diagonal", "full") if self.structure == "kronecker" else super()._kinds

    def _rows(self, inputs: Any, output_gradients: Any) -> tuple[Array, Array]:
        """Ids ``(B, S)`` and output gradients ``(draws, B, S, out)``."""
        (g,) = as_batch(output_gradients=output_gradients)
        ids = _as_ids(inputs, self.num_embeddings)
        xp = backend_of(ids, g).xp
        draws = g[None, ...] if g.ndim == ids.ndim + 1 else g
        if draws.ndim != ids.ndim + 2 or draws.shape[1:-1] != ids.shape:
            raise ValueError(
                f"output_gradients has shape {tuple(g.shape)}, inputs {tuple(ids.shape)}: one "
                f"gradient for each id is needed, (B, out) or (draws, B, out) for ids (B,)"
            )
        ids = xp.reshape(ids, (ids.shape[0], -1))
        draws = xp.reshape(draws, (draws.shape[0], *ids.shape, draws.shape[-1]))
        if self.padding_idx is not None:
            draws = xp.where(ids[..., None] == self.padding_idx, xp.zeros_like(draws), draws)
        return ids, draws

    def _statistics(self, batch: Batch) -> tuple[Arrays, int]:
        ids, g = self._rows(*batch)
        xp, (examples, uses) = backend_of(g).xp, ids.shape
        if not self._kinds:
            squares = xp.sum(g * g, axis=0)
            return {"gradients": self._oriented(self._by_id(ids, squares) / examples)}, 1
        looked_up = xp.ones_like(g[0, ..., :1])
        number: Any = examples * uses
        if self.padding_idx is not None:
            looked_up = xp.astype(ids[..., None] != self.padding_idx, g.dtype)
            number = xp.maximum(xp.sum(looked_up), xp.ones_like(looked_up[0, 0, 0]))
        counts = self._by_id(ids, looked_up)[:, 0]
        outputs = second_moment(g, self._kinds[1], number)
        return dict(zip(SIDES, (counts / (examples * uses), outputs), strict=True)), uses

    def _squares(self, batch: Batch, known: Eigenvalues) -> Array:
        """A row of an example's gradient is the sum over its lookups of that row."""
        ids, g = self._rows(*batch)
        self._average.check_repeats(ids.shape[1])
        g = self._rotate(known, "output_gradients", g)
        return reduce(add, self._slabs_of_squares(ids, g)) / ids.shape[0]

    def _slabs_of_squares(self, ids: Array, g: Array) -> Iterator[Array]:
        """Sums over some examples. A row looked up ``k`` times is met ``k`` times: 1/k of each."""
        xp, (examples, uses) = backend_of(g).xp, ids.shape
        step = max(1, batches.SLAB // uses**2)
        for first in range(0, examples, step):
            chosen = slice(first, min(first + step, examples))
            some = ids[chosen, ...]
            same = xp.astype(some[:, :, None] == some[:, None, :], g.dtype)
            rows = xp.matmul(same, g[:, chosen, ...])
            times = xp.sum(same, axis=-1)[..., None]
            yield self._by_id(some, xp.sum(rows * rows, axis=0) / times)

    def _by_id(self, ids: Array, values: Array) -> Array:
        """``(num_embeddings, n)``: sums of ``values`` ``(B, S, n)``; NaN for ids out of range."""
        backend = backend_of(values)
        xp = backend.xp
        known = (ids >= 0) & (ids < self.num_embeddings)
        rows = xp.reshape(xp.where(known[..., None], values, math.nan), (-1, values.shape[-1]))
        segments = xp.reshape(xp.where(known, ids, 0), (-1,))
        return backend.segment_sum(rows, segments, self.num_embeddings)


def _as_ids(inputs: Any, count: int) -> Array:
    """Integer ids ``(B, …)`` in the library's default dtype, in range where they can be seen."""
    if not is_array(inputs):
        raise TypeError(f"inputs is a {type(inputs).__name__}: an array of integer ids is needed")
    backend = backend_of(inputs)
    xp, ids = backend.xp, backend.plain(inputs, "inputs")
    if backend.kind(ids.dtype) != "integral":
        raise TypeError(f"inputs has dtype {ids.dtype}: integer ids are needed")
    if ids.ndim == 0:
        raise ValueError("inputs has no axes: ids of shape (B,) or (B, S) are needed")
    if 0 in ids.shape:
        raise ValueError(f"inputs has shape {tuple(ids.shape)}: an empty batch has no mean")
    unsigned = xp.isdtype(ids.dtype, "unsigned integer")
    ids = xp.astype(ids, xp.__array_namespace_info__().default_dtypes()["integral"], copy=False)
    _check_range(ids, count, 1 << xp.iinfo(ids.dtype).bits if unsigned else 0)
    return ids


def _check_range(ids: Array, count: int, modulus: int) -> None:
    """Refuse what is no id; unsigned ones that did not fit came out less by ``modulus``."""
    backend = backend_of(ids)
    values = backend.values(ids)
    if values is None:
        return
    smallest, largest = int(backend.xp.min(values)), int(backend.xp.max(values))
    if smallest < 0 or largest >= count:
        wrong = smallest + modulus if smallest < 0 else largest
        raise ValueError(
            f"inputs has the id {wrong}: ids from 0 to {count - 1} are needed, for "
            f"num_embeddings = {count}"
        )


def _as_id(value: Any, count: int) -> int:
    """``padding_idx`` as a Python integer."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"padding_idx is a {type(value).__name__}: one of the ids is needed")
    if not 0 <= int(value) < count:
        raise ValueError(f"padding_idx = {value}: one of the ids, 0 to {count - 1}, is needed")
    return int(value)
