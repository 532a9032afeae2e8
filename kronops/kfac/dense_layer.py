"""A dense layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kronops.backends.standard import Array
from kronops.kfac.affine_layer import AffineLayer
from kronops.kfac.batches import as_count, as_pair

__all__ = ["DenseLayer"]


@dataclass(eq=False)
class DenseLayer(AffineLayer):
    """``A ⊗ G``, ``A = E[a aᵀ]``, ``G = E[g gᵀ]``: the curvature of a dense layer ``y = Wᵀ a``.

    With ``uses=T`` the layer is used ``T`` times for each example, and the uses are taken as
    independent: the block is ``T · A ⊗ G`` with means over all ``T·B`` rows [1]_ [2]_.

    Parameters
    ----------
    bias : bool
        Whether a constant 1 is appended to the inputs. Vectors are then ``(weights, bias)`` pairs,
        or ``(in + 1, out)`` with the bias last.
    structure : {"kronecker", "diagonal", "full"} or pair of {"full", "diagonal"}
        ``"kronecker"``, or a pair where a factor alone is diagonal, for the product above;
        ``"diagonal"`` for the mean squares of the gradients ``a gᵀ`` of the examples; ``"full"``
        for their whole second moment, of ``(in·out)²`` entries.
    uses : int, optional
        ``T``. Inputs are then ``(T, B, in)``, output gradients ``(T, B, out)``.
    debias : bool
        Whether averages are divided by their total weight.
    layout : {"in,out", "out,in"}
        ``"out,in"`` is PyTorch's: weights ``(out, in)``, the bias the last column, ``G ⊗ A``.

    Raises
    ------
    ValueError, TypeError
        A setting is none of these.

    Notes
    -----
    `update` takes inputs ``(B, in)`` and output gradients ``(B, out)`` or ``(draws, B, out)``;
    `moments` gives ``(A, G)``, a diagonal factor as a vector, or one array: the diagonal in the
    shape of the weights, or the full matrix. A batch costs ``2·B·(in² + out²)`` flops,
    ``2·B·in·out`` if diagonal and ``2·B·(in·out)²`` if full.

    References
    ----------
    .. [1] Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate
       curvature, 2015. https://arxiv.org/abs/1503.05671
    .. [2] Martens, Ba and Johnson, Kronecker-factored curvature approximations for recurrent
       neural networks, 2018. https://openreview.net/forum?id=HyMTkQZAb

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import DenseLayer
    >>> layer = DenseLayer(bias=True)
    >>> layer.update(np.array([[1.0], [3.0]]), np.array([[2.0, 0.0], [0.0, 2.0]]))
    >>> layer.moments[0]
    array([[5., 2.],
           [2., 1.]])
    >>> step = layer.operator(damping=0.5).multiply_inverse((np.ones((1, 2)), np.ones(2)))
    >>> step[0].shape, step[1].shape
    ((1, 2), (2,))
    """

    uses: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uses is not None:
            self.uses = as_count(self.uses, "uses")

    def _rows(self, inputs: Any, output_gradients: Any) -> tuple[Array, Array]:
        axes = ("B",) if self.uses is None else (self.uses, "B")
        a, g = as_pair(inputs, output_gradients, axes)
        if self.uses is None:
            return a[None, None, ...], g[:, None, None, ...]
        return a[:, None, ...], g[:, :, None, ...]
