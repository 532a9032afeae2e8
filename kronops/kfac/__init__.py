"""Statistics of layers, and the curvature operators made of them.

One estimator for each kind of layer keeps moving averages of its moments; `Curvature` brings the
estimators of a network together. On top of `kronops`: nothing below imports this.
"""

from kronops.kfac.conv_layer import ConvLayer
from kronops.kfac.curvature import Curvature
from kronops.kfac.dense_layer import DenseLayer
from kronops.kfac.depthwise_conv_layer import DepthwiseConvLayer
from kronops.kfac.embedding_layer import EmbeddingLayer
from kronops.kfac.estimator import Estimator
from kronops.kfac.fisher import output_gradients
from kronops.kfac.gradient_layer import GradientLayer
from kronops.kfac.recurrent_layer import RecurrentLayer
from kronops.kfac.scale_shift_layer import ScaleShiftLayer
from kronops.kfac.shared_layer import SharedLayer

__all__ = [
    "ConvLayer",
    "Curvature",
    "DenseLayer",
    "DepthwiseConvLayer",
    "EmbeddingLayer",
    "Estimator",
    "GradientLayer",
    "RecurrentLayer",
    "ScaleShiftLayer",
    "SharedLayer",
    "output_gradients",
]


def __dir__() -> list[str]:
    return __all__
