"""Output gradients whose second moment is the Fisher matrix of a likelihood.

Curvature is ``E[Jᵀ H J]``: ``J`` the derivatives of a network's outputs, ``H`` the Hessian of the
negative log-likelihood by these outputs. For each source of ``H`` there are vectors ``s`` with
``Σ s sᵀ = H``, here called draws; carried back through the network they are the output gradients
that estimators take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.kfac.batches import as_batch, as_choice, as_count

__all__ = ["FISHERS", "LIKELIHOODS", "output_gradients"]

FISHERS = ("exact", "sampled", "empirical")
LIKELIHOODS = ("categorical", "gaussian")


def output_gradients(
    outputs: Array,
    likelihood: str,
    fisher: str,
    *,
    targets: Array | None = None,
    key_or_rng: Any = None,
    samples: int = 1,
) -> Array:
    """Draws of gradients of each example's negative log-likelihood by the outputs [1]_ [2]_.

    Parameters
    ----------
    outputs : array
        ``(B, C)``, or ``(B, …, C)`` where an example has outputs at several places, such as the
        positions of a sequence: its negative log-likelihood is the sum over them.
    likelihood : {"categorical", "gaussian"}
        Outputs are logits, or means of unit variance.
    fisher : {"exact", "sampled", "empirical"}
        The columns of a square root of the Hessian by the outputs of an example, ``C`` times the
        number of places: the Fisher matrix, which is also the Gauss-Newton matrix. Or targets drawn
        from the model, which give the same on average. Or the targets of the data, which do not.
    targets : array, optional
        For ``"empirical"``: labels ``(B, …)``, integers from 0 to ``C − 1``, or real ``(B, …, C)``.
    key_or_rng : key or generator, optional
        For ``"sampled"``: as ``op.sample`` takes it, a `numpy.random.Generator` or the library's.
    samples : int
        For ``"sampled"``: how many targets are drawn for each example.

    Returns
    -------
    array
        ``(draws, *outputs.shape)``, at least in float32. The second moment is a sum over draws:
        several samples are divided by the square root of their number.

    Raises
    ------
    ValueError, TypeError
        Outputs without a batch or not real, an unknown setting, or one that lacks what it needs.

    Notes
    -----
    With ``p = softmax(outputs)``, ``H = diag(p) − p pᵀ = S Sᵀ`` where ``S = (I − p 1ᵀ) diag(√p)``.
    With ``n`` outputs of an example in all, ``"exact"`` takes ``n`` times the outputs' memory.

    References
    ----------
    .. [1] Martens, New insights and perspectives on the natural gradient method, 2020.
       https://arxiv.org/abs/1412.1193
    .. [2] Kunstner, Balles and Hennig, Limitations of the empirical Fisher approximation for
       natural gradient descent, 2019. https://arxiv.org/abs/1905.12558

    Examples
    --------
    >>> import numpy as np
    >>> from kronops.kfac import output_gradients
    >>> logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    >>> s = output_gradients(logits, "categorical", "exact")[:, 0, :]
    >>> (s.T @ s).round(4)
    array([[ 0.25  , -0.125 , -0.125 ],
           [-0.125 ,  0.1875, -0.0625],
           [-0.125 , -0.0625,  0.1875]])
    """
    as_choice(likelihood, "likelihood", LIKELIHOODS)
    as_choice(fisher, "fisher", FISHERS)
    (outputs,) = as_batch(outputs=outputs)
    if outputs.ndim < 2:
        raise ValueError(f"outputs has shape {tuple(outputs.shape)}: (B, C) or (B, …, C) is needed")
    model: Any = Categorical(outputs) if likelihood == "categorical" else Gaussian(outputs)
    if fisher == "exact":
        return _one_place_each(model.hessian_root())
    if fisher == "empirical":
        if targets is None:
            raise ValueError('fisher = "empirical" needs targets')
        return model.gradients(targets)[None, ...]
    if key_or_rng is None:
        raise ValueError(
            'fisher = "sampled" needs key_or_rng to draw targets with: what op.sample takes too, '
            "say torch.Generator(), jax.random.key(0) or numpy.random.default_rng(0); "
            'fisher = "exact" needs none'
        )
    samples = as_count(samples, "samples")
    return model.sampled_gradients(key_or_rng, samples) / samples**0.5


@dataclass(frozen=True, eq=False)
class Categorical:
    """Labels ``y`` of probability ``softmax(outputs)_y``; a logit of -∞ is a label of none."""

    outputs: Array

    def __post_init__(self) -> None:
        backend = backend_of(self.outputs)
        values = backend.values(self.outputs)
        if values is not None and not backend.all_finite(backend.xp.max(values, axis=-1)):
            raise ValueError(
                "outputs has NaN or infinite logits, or none but -inf for an example: each needs a "
                "largest logit that is finite"
            )

    def hessian_root(self) -> Array:
        """``√p_c (e_c − p)`` for each label ``c``, ``(C, *outputs.shape)``."""
        p, xp = self.probabilities, backend_of(self.outputs).xp
        roots = xp.expand_dims(xp.moveaxis(xp.sqrt(p), -1, 0), axis=-1)
        return roots * (_units(p) - p)

    def gradients(self, targets: Array) -> Array:
        """``p − e_y``."""
        if not is_array(targets):
            raise TypeError(f"targets is a {type(targets).__name__}: an array of labels is needed")
        xp = backend_of(self.outputs, targets).xp
        if tuple(targets.shape) != tuple(self.outputs.shape[:-1]) or not xp.isdtype(
            targets.dtype, "integral"
        ):
            raise ValueError(
                f"targets is of {targets.dtype}, shape {tuple(targets.shape)}: integer labels of "
                f"shape {tuple(self.outputs.shape[:-1])} are needed"
            )
        self._check_range(targets)
        return self._residuals(targets)

    def sampled_gradients(self, key_or_rng: Any, samples: int) -> Array:
        """``p − e_y`` for ``y`` drawn from ``p``: the first of exponential times of rates ``p``.

        Half the sum of two squared normals is exponential of rate one.
        """
        backend, outputs = backend_of(self.outputs), self.outputs
        shape = (2, samples, *outputs.shape)
        device = backend.device(outputs)
        normals, _ = backend.normal(key_or_rng, shape, outputs.dtype, device)
        times = backend.xp.sum(normals * normals, axis=0) / 2
        scores = outputs - backend.xp.log(times)
        return self._residuals(backend.xp.argmax(scores, axis=-1))

    @property
    def probabilities(self) -> Array:
        """``softmax(outputs)``."""
        xp = backend_of(self.outputs).xp
        odds = xp.exp(self.outputs - xp.max(self.outputs, axis=-1, keepdims=True))
        return odds / xp.sum(odds, axis=-1, keepdims=True)

    def _residuals(self, labels: Array) -> Array:
        xp = backend_of(self.outputs).xp
        classes = xp.arange(
            self.outputs.shape[-1], dtype=labels.dtype, device=backend_of(labels).device(labels)
        )
        chosen = xp.expand_dims(labels, axis=-1) == classes
        return self.probabilities - xp.astype(chosen, self.outputs.dtype)

    def _check_range(self, targets: Array) -> None:
        backend, classes = backend_of(targets), self.outputs.shape[-1]
        values = backend.values(targets)
        if values is not None and bool(backend.xp.any((values < 0) | (values >= classes))):
            raise ValueError(
                f"targets has labels outside 0 … {classes - 1}, the outputs of shape "
                f"{tuple(self.outputs.shape)} have {classes} classes"
            )


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Targets of mean ``outputs`` and covariance ``I``."""

    outputs: Array

    def hessian_root(self) -> Array:
        """``e_c`` for each output ``c``."""
        xp = backend_of(self.outputs).xp
        return _units(self.outputs) + xp.zeros_like(self.outputs)

    def gradients(self, targets: Array) -> Array:
        """``outputs − targets``."""
        _, targets = as_batch(outputs=self.outputs, targets=targets)
        if tuple(targets.shape) != tuple(self.outputs.shape):
            raise ValueError(
                f"targets has shape {tuple(targets.shape)}: that of the outputs is needed, "
                f"{tuple(self.outputs.shape)}"
            )
        return self.outputs - targets

    def sampled_gradients(self, key_or_rng: Any, samples: int) -> Array:
        """What is drawn around the outputs does not depend on them."""
        backend, outputs = backend_of(self.outputs), self.outputs
        shape = (samples, *outputs.shape)
        drawn, _ = backend.normal(key_or_rng, shape, outputs.dtype, backend.device(outputs))
        return drawn


def _units(like: Array) -> Array:
    """Unit vectors ``e_c`` along a new first axis, ``(C, 1, …, 1, C)`` beside ``(B, …, C)``."""
    backend = backend_of(like)
    classes = like.shape[-1]
    eye = backend.xp.eye(classes, dtype=like.dtype, device=backend.device(like))
    return backend.xp.reshape(eye, (classes, *(1 for _ in like.shape[:-1]), classes))


def _one_place_each(roots: Array) -> Array:
    """From ``(C, B, …, C)`` draws that are zero but for one place: places do not interact."""
    backend = backend_of(roots)
    xp = backend.xp
    classes, batch, *places, _ = roots.shape
    if not places:
        return roots
    flat = xp.reshape(roots, (classes, batch, -1, classes))
    count = flat.shape[2]
    eye = xp.eye(count, dtype=roots.dtype, device=backend.device(roots))
    alone = flat[None, ...] * xp.reshape(eye, (count, 1, 1, count, 1))
    return xp.reshape(alone, (-1, *roots.shape[1:]))
