"""A dense layer that is used at every place of a sequence or image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array
from kronops.kfac.affine_layer import AffineLayer
from kronops.kfac.batches import as_choice, as_pair
from kronops.kfac.moving_average import Arrays

__all__ = ["SharedLayer"]


@dataclass(eq=False)
class SharedLayer(AffineLayer):
    """A dense layer ``y = Wᵀ a`` that is shared by the ``S`` places of an example: tokens, patches.

    The two approximations of Eschenhagen et al. [1]_ differ in whether the places are examples of
    their own or parts of one:

    - ``"expand"``: ``S · A ⊗ G``, ``A = Σ a aᵀ / BS``, ``G = Σ g gᵀ / BS`` over all ``B·S`` places,
      which are taken as independent uses; for losses that are sums over the places.
    - ``"reduce"``: ``A ⊗ G`` with ``ā = Σ_s a_s / S`` and ``ĝ = Σ_s g_s`` of each example in place
      of ``a`` and ``g``; for losses of the examples as wholes, after pooling over the places.

    Parameters
    ----------
    bias : bool
        Whether a constant 1 is appended to the inputs; its mean stays 1. Vectors are then
        ``(weights, bias)`` pairs, or ``(in + 1, out)`` with the bias last.
    sharing : {"expand", "reduce"}
        Which of the two.
    debias : bool
        Whether averages are divided by their total weight.
    layout : {"in,out", "out,in"}
        ``"out,in"`` is PyTorch's: weights ``(out, in)``, the bias the last column, ``G ⊗ A``.
    structure : {"kronecker", "diagonal", "full"} or pair of {"full", "diagonal"}
        As in `DenseLayer`. Without Kronecker factors nothing is averaged over inputs: the moments
        are those of the gradients ``a_s g_sᵀ`` of each place, summed over the places after
        squaring ("expand") or before ("reduce").

    Raises
    ------
    ValueError
        A setting is none of these.

    Notes
    -----
    `update` takes inputs ``(B, S, in)`` and output gradients ``(B, S, out)`` or
    ``(draws, B, S, out)``, with any number of shared axes in place of ``S``. ``S`` is part of the
    operator of ``"expand"``, where another ``S`` than before is a `ValueError`. The damping is
    divided by its number of uses, ``S`` or 1. EKFAC's eigenvalues are in both cases those of the
    examples' own gradients ``Σ_s a_s g_sᵀ``.

    References
    ----------
    .. [1] Eschenhagen, Immer, Turner, Schneider and Hennig, Kronecker-factored approximate
       curvature for modern neural network architectures, 2023, section 3.
       https://arxiv.org/abs/2311.00636

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import SharedLayer
    >>> a, g = np.array([[[1.0], [3.0]]]), np.array([[[1.0], [1.0]]])
    >>> for sharing in ("expand", "reduce"):
    ...     layer = SharedLayer(sharing=sharing)
    ...     layer.update(a, g)
    ...     print(layer.operator().to_dense())  # 2 · (1 + 9)/2 · 1 and 2² · 2²
    [[10.]]
    [[16.]]
    """

    sharing: str = "expand"
    structure: str | tuple[str, str] = field(default="kronecker", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        as_choice(self.sharing, "sharing", ("expand", "reduce"))

    def _rows(self, inputs: Any, output_gradients: Any) -> tuple[Array, Array]:
        """Places are uses if they expand, and locations if they are reduced."""
        shared = max(getattr(inputs, "ndim", 3) - 2, 1)
        a, g = as_pair(inputs, output_gradients, ("B", *("S",) * shared))
        xp = backend_of(a).xp
        draws, examples, places = g.shape[0], a.shape[0], math.prod(a.shape[1:-1])
        a = xp.reshape(a, (examples, places, a.shape[-1]))
        g = xp.reshape(g, (draws, examples, places, g.shape[-1]))
        a, g = xp.permute_dims(a, (1, 0, 2)), xp.permute_dims(g, (0, 2, 1, 3))
        if self.sharing == "expand":
            return a[:, None, ...], g[:, :, None, ...]
        return a[None, ...], g[:, None, ...]

    def _uses(self, a: Array) -> int:
        return 1 if self.sharing == "reduce" else super()._uses(a)

    def _factors(self, a: Array, g: Array, kinds: tuple[str, str]) -> tuple[Arrays, int]:
        if self.sharing == "reduce":
            xp = backend_of(a).xp
            a, g = xp.mean(a, axis=1, keepdims=True), xp.sum(g, axis=2, keepdims=True)
        return super()._factors(a, g, kinds)
