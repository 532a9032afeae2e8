"""K-FAC for PyTorch models: hooks feed the estimators of `kronops.kfac` while a loss runs.

`capture` watches the modules of a model; the operator that it gives takes vectors by the names of
``model.named_parameters()``, in the layout of ``param.grad``. This package imports PyTorch;
`kronops.kfac` does not import it.
"""

from kronops.kfac.torch.model_curvature import ModelCurvature, capture

__all__ = ["ModelCurvature", "capture"]


def __dir__() -> list[str]:
    return __all__
