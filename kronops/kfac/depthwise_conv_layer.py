"""A depthwise convolution."""

from __future__ import annotations

from dataclasses import dataclass

from kronops.kfac.convolution import Convolution

__all__ = ["DepthwiseConvLayer"]


@dataclass(eq=False)
class DepthwiseConvLayer(Convolution):
    """``n · A_cc ⊗ G_cc`` for each channel ``c``: the curvature of a depthwise convolution.

    Each input channel has its own kernel for each of its ``multiplier`` outputs, and a block of its
    own: the diagonal blocks of the factors of `ConvLayer`, over channels [1]_. It is a `ConvLayer`
    with as many groups as the images have channels. So the inverse is exact, and factored damping
    is split for each channel.

    Parameters
    ----------
    kernel_shape, strides, padding, dilation, debias
        As in `ConvLayer`.
    layout : {"in,out", "out,in"}
        Kernels are ``(kh, kw, in, multiplier)``, or ``(kh, kw, 1, in·multiplier)``, the same in
        memory; or, with ``"out,in"``, PyTorch's ``(in·multiplier, 1, kh, kw)``. The bias is
        ``(in·multiplier,)``.
    bias, structure, uses, channels
        As in `ConvLayer`.

    Raises
    ------
    ValueError, TypeError
        A setting is none of these.

    Notes
    -----
    `update` takes images ``(B, *spatial, in)`` and output gradients
    ``(B, *locations, in·multiplier)``, the outputs of one channel side by side. `moments` gives
    factors ``(in, kh·kw, kh·kw)`` and ``(in, multiplier, multiplier)``.

    References
    ----------
    .. [1] Grosse and Martens, A Kronecker-factored approximate Fisher matrix for convolution
       layers, 2016, section 3. https://arxiv.org/abs/1602.01407

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import DepthwiseConvLayer
    >>> layer = DepthwiseConvLayer((3, 3), padding="VALID")
    >>> rng = np.random.default_rng(0)
    >>> layer.update(rng.normal(size=(8, 5, 6, 4)), rng.normal(size=(8, 3, 4, 8)))
    >>> [moment.shape for moment in layer.moments]
    [(4, 9, 9), (4, 2, 2)]
    >>> layer.operator(damping=0.1).multiply_inverse(np.ones((3, 3, 4, 2))).shape
    (3, 3, 4, 2)
    """

    @property
    def _grouped(self) -> bool:
        return True

    @property
    def _vectors(self) -> str:
        return "in,channels" if self.layout == "in,out" else self.layout

    def _groups_of(self, inputs: int, outputs: int) -> int:
        if outputs % inputs:
            raise ValueError(
                f"output_gradients has {outputs} channels: a multiple of the {inputs} of inputs is "
                f"needed, as each has the same number of outputs"
            )
        return inputs
