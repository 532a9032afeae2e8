"""K-FAC for functions of JAX arrays: layers are tapped by name, and passes feed the estimators.

There are no modules to hook into. The user's function ``model(params, inputs, tap)`` calls
``y = tap(name, x, y)`` where the layer ``name`` has made ``y`` from ``x``, and goes on with what
that gives: `untapped` while it is trained, what `capture` hands in while it is watched. No state is
global. This package imports JAX; `kronops.kfac` does not import it.
"""

from kronops.kfac.jax.model_curvature import ModelCurvature, capture
from kronops.kfac.jax.parameters import ParameterOperator
from kronops.kfac.jax.taps import untapped

__all__ = ["ModelCurvature", "ParameterOperator", "capture", "untapped"]


def __dir__() -> list[str]:
    return __all__
