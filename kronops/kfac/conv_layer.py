"""A convolution."""

from __future__ import annotations

from dataclasses import dataclass

from kronops.kfac.batches import as_count
from kronops.kfac.convolution import Convolution

__all__ = ["ConvLayer"]


@dataclass(eq=False)
class ConvLayer(Convolution):
    """``n · A ⊗ G``: the curvature of a convolution whose kernel is applied at ``n`` locations.

    ``A = E[a aᵀ]`` over the patches ``a`` of the images that the kernel meets, flattened as
    ``(kh, kw, in)``, and ``G = E[g gᵀ]``; both are means over all ``n·B`` locations of a batch
    [1]_. Diagonal and full structures, and the eigenvalues of EKFAC, are of the gradient of each
    example, summed over its locations first.

    Parameters
    ----------
    kernel_shape : int or sequence of int
        The spatial sizes of the kernel: as many as images have spatial axes.
    strides : int or sequence of int
        One for each spatial axis, or one for all.
    padding : {"SAME", "VALID"} or sequence of pairs of int
        Zeros before and after each spatial axis. ``"SAME"`` is TensorFlow's: ``⌈size / stride⌉``
        outputs, the odd zero after the image.
    dilation : int or sequence of int
        As ``strides``.
    groups : int
        Groups of channels with kernels ``(kh, kw, in/groups, out)``. Each has a block of its own,
        ``n · A_g ⊗ G_g``, and its own share of factored damping; the factors that `moments` gives
        are stacked along a leading axis.
    debias : bool
        Whether averages are divided by their total weight.
    layout : {"in,out", "out,in"}
        ``"out,in"`` is PyTorch's: kernels ``(out, in, kh, kw)``, patches ``(in, kh, kw)``, the
        bias the last column, ``n · G ⊗ A``.
    bias : bool
        Whether patches end in a constant 1. Vectors are then ``(kernel, bias)`` pairs, or
        ``(kh·kw·in + 1, out)`` with the bias last.
    structure : {"kronecker", "diagonal", "full"} or pair of {"full", "diagonal"}
        As in `DenseLayer`.
    uses : int, optional
        ``T`` independent uses for each example. Inputs and gradients then have ``T`` in front of
        ``B``, and ``n`` is ``T`` times the number of locations.
    channels : {"last", "first"}
        Where images and output gradients have their channels; ``"first"`` is PyTorch's.

    Raises
    ------
    ValueError, TypeError
        A setting is none of these.

    Notes
    -----
    `update` takes images ``(B, *spatial, in)`` and output gradients ``(B, *locations, out)`` or
    ``(draws, B, *locations, out)``. A batch costs ``2·n·B·((kh·kw·in)² + out²)`` flops. Patches are
    in memory for a few examples at a time. Factored damping divides ``λ`` by ``n`` first.

    References
    ----------
    .. [1] Grosse and Martens, A Kronecker-factored approximate Fisher matrix for convolution
       layers, 2016, section 3. https://arxiv.org/abs/1602.01407

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import ConvLayer
    >>> layer = ConvLayer((3, 3), strides=2, bias=True)
    >>> rng = np.random.default_rng(0)
    >>> layer.update(rng.normal(size=(8, 5, 6, 2)), rng.normal(size=(8, 3, 3, 4)))
    >>> [moment.shape for moment in layer.moments]
    [(19, 19), (4, 4)]
    >>> kernel, bias = np.ones((3, 3, 2, 4)), np.ones(4)
    >>> step = layer.operator(damping=0.1).multiply_inverse((kernel, bias))
    >>> step[0].shape, step[1].shape
    ((3, 3, 2, 4), (4,))
    """

    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.groups = as_count(self.groups, "groups")

    @property
    def _grouped(self) -> bool:
        return self.groups > 1

    def _groups_of(self, inputs: int, outputs: int) -> int:
        for name, channels in (("inputs", inputs), ("output_gradients", outputs)):
            if channels % self.groups:
                raise ValueError(
                    f"{name} has {channels} channels: a multiple of groups = {self.groups} is "
                    f"needed"
                )
        return self.groups
