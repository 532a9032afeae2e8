"""Two small networks in plain NumPy that know their exact Gauss-Newton products.

Parameters are one flat vector: layer after layer, each an `(in + 1, out)` matrix in row-major order
whose last row is the bias. That is the layout of a `BlockDiagonalOperator` over the same layers.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

Array = NDArray[np.float64]
Layers = dict[str, Array]


@dataclass(frozen=True)
class Trace:
    """What a forward pass leaves: `[inputs, 1]` of each layer, slopes of the tanh, logits."""

    inputs: Layers
    slopes: Array
    logits: Array

    @property
    def probabilities(self) -> Array:
        """The predictive distribution, shape `(B, classes)`."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)


def append_one(inputs: Array) -> Array:
    """`[inputs, 1]`, whose product with a layer's matrix includes the bias."""
    return np.concatenate([inputs, np.ones((*inputs.shape[:-1], 1))], axis=-1)


class Network(abc.ABC):
    """A classifier: subclasses say how values, tangents and gradients pass through it."""

    shapes: dict[str, tuple[int, int]]
    uses: dict[str, int]  # how often a layer is used on one image, where that is more than once

    @abc.abstractmethod
    def forward(self, parameters: Array, images: Array) -> Trace:
        """Run the network on images `(B, rows, columns)`."""

    @abc.abstractmethod
    def push(self, parameters: Array, trace: Trace, direction: Array) -> Array:
        """Forward mode: `J @ direction`, the tangents `(B, classes)` of the logits."""

    @abc.abstractmethod
    def pull(self, parameters: Array, trace: Trace, logit_gradients: Array) -> Layers:
        """Reverse mode: gradients of each layer's pre-activations, still one for each example."""

    @property
    def size(self) -> int:
        """The number of parameters."""
        return sum(rows * columns for rows, columns in self.shapes.values())

    def unflatten(self, flat: Array) -> Layers:
        """Views of a flat vector as one `(in + 1, out)` matrix for each layer."""
        matrices, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + shape[0] * shape[1]
            matrices[name] = flat[start:stop].reshape(shape)
            start = stop
        return matrices

    def initial(self, rng: np.random.Generator) -> Array:
        """Random weights of variance `1 / in`, zero biases."""
        parameters = np.zeros(self.size)
        for matrix in self.unflatten(parameters).values():
            inputs = matrix.shape[0] - 1
            matrix[:-1] = rng.normal(size=(inputs, matrix.shape[1])) / np.sqrt(inputs)
        return parameters

    def loss(self, parameters: Array, images: Array, labels: Array, prior: float = 0.0) -> float:
        """Mean softmax cross-entropy, plus `prior / 2` times the squared norm of the parameters."""
        logits = self.forward(parameters, images).logits
        chosen = logits[np.arange(len(labels)), labels]
        mean = np.mean(np.logaddexp.reduce(logits, axis=1) - chosen)
        return float(mean + 0.5 * prior * parameters @ parameters)

    def accuracy(self, parameters: Array, images: Array, labels: Array) -> float:
        """The fraction of images whose largest logit is the label's."""
        return float(np.mean(self.forward(parameters, images).logits.argmax(axis=1) == labels))

    def gradient(
        self, parameters: Array, images: Array, labels: Array, prior: float = 0.0
    ) -> Array:
        """The flat gradient of `loss`."""
        trace = self.forward(parameters, images)
        errors = trace.probabilities
        errors[np.arange(len(labels)), labels] -= 1.0
        return self._mean_gradient(trace, self.pull(parameters, trace, errors)) + prior * parameters

    def statistics(
        self, parameters: Array, images: Array, rng: np.random.Generator
    ) -> dict[str, tuple[Array, Array]]:
        """Layer inputs and output gradients, the targets drawn from the network's own predictions.

        With such targets the second moment of the gradients is the true Fisher information, in
        expectation; with the labels of the data it would be the "empirical Fisher", which is not.
        """
        trace = self.forward(parameters, images)
        errors = trace.probabilities
        drawn = (rng.random((len(errors), 1)) > errors.cumsum(axis=1)[:, :-1]).sum(axis=1)
        errors[np.arange(len(drawn)), drawn] -= 1.0
        gradients = self.pull(parameters, trace, errors)
        return {name: (trace.inputs[name][..., :-1], gradients[name]) for name in self.shapes}

    def gauss_newton(self, parameters: Array, images: Array, prior: float = 0.0) -> LinearOperator:
        """`Jᵀ H J + prior·I` of `loss`, `H` the Hessian of the softmax: the exact Fisher."""
        trace = self.forward(parameters, images)
        weights = trace.probabilities

        def product(direction: Array) -> Array:
            direction = direction.reshape(-1)
            weighted = weights * self.push(parameters, trace, direction)
            curved = weighted - weights * weighted.sum(axis=1, keepdims=True)
            pulled = self.pull(parameters, trace, curved)
            return self._mean_gradient(trace, pulled) + prior * direction

        return LinearOperator((self.size, self.size), matvec=product, rmatvec=product, dtype=float)

    def _mean_gradient(self, trace: Trace, gradients: Layers) -> Array:
        """Sum over examples (and time) of `[inputs, 1]ᵀ gradients`, divided by the batch size."""
        blocks = []
        for name, (rows, columns) in self.shapes.items():
            inputs, outputs = trace.inputs[name], gradients[name]
            blocks.append(inputs.reshape(-1, rows).T @ outputs.reshape(-1, columns))
        return np.concatenate([block.ravel() for block in blocks]) / len(trace.logits)


class Perceptron(Network):
    """`softmax([tanh([x, 1] W), 1] V)` on the whole image at once."""

    def __init__(self, pixels: int = 64, hidden: int = 24, classes: int = 10) -> None:
        self.uses = {}
        self.shapes = {"hidden": (pixels + 1, hidden), "readout": (hidden + 1, classes)}

    def forward(self, parameters: Array, images: Array) -> Trace:
        """See `Network.forward`."""
        layers = self.unflatten(parameters)
        pixels = append_one(images.reshape(len(images), -1))
        hidden = np.tanh(pixels @ layers["hidden"])
        inputs = {"hidden": pixels, "readout": append_one(hidden)}
        return Trace(inputs, 1.0 - hidden**2, inputs["readout"] @ layers["readout"])

    def push(self, parameters: Array, trace: Trace, direction: Array) -> Array:
        """See `Network.push`."""
        layers, tangents = self.unflatten(parameters), self.unflatten(direction)
        moved = trace.slopes * (trace.inputs["hidden"] @ tangents["hidden"])
        return trace.inputs["readout"] @ tangents["readout"] + moved @ layers["readout"][:-1]

    def pull(self, parameters: Array, trace: Trace, logit_gradients: Array) -> Layers:
        """See `Network.pull`."""
        readout = self.unflatten(parameters)["readout"]
        hidden = trace.slopes * (logit_gradients @ readout[:-1].T)
        return {"hidden": hidden, "readout": logit_gradients}


class Recurrent(Network):
    """`h' = tanh([x_t, h, 1] W)` over the rows of the image; the mean state is classified.

    The mean, not the last state: then every time step sends the loss a gradient of its own, which
    brings the gradients nearer to the stationary series that the curvature block assumes.
    """

    def __init__(self, rows: int = 8, pixels: int = 8, hidden: int = 24, classes: int = 10) -> None:
        self.pixels, self.states = pixels, hidden
        self.uses = {"cell": rows}
        self.shapes = {"cell": (pixels + hidden + 1, hidden), "readout": (hidden + 1, classes)}

    def forward(self, parameters: Array, images: Array) -> Trace:
        """See `Network.forward`; `[inputs, 1]` of the cell are `(T, B, pixels + states + 1)`."""
        layers = self.unflatten(parameters)
        steps, pixels = images.shape[1], self.pixels
        cell = np.zeros((steps, len(images), len(layers["cell"])))
        cell[..., :pixels], cell[..., -1] = images.transpose(1, 0, 2), 1.0
        hidden = np.empty((steps, len(images), self.states))
        for t in range(steps):
            if t:
                cell[t, :, pixels:-1] = hidden[t - 1]
            hidden[t] = np.tanh(cell[t] @ layers["cell"])
        inputs = {"cell": cell, "readout": append_one(hidden.mean(axis=0))}
        return Trace(inputs, 1.0 - hidden**2, inputs["readout"] @ layers["readout"])

    def push(self, parameters: Array, trace: Trace, direction: Array) -> Array:
        """See `Network.push`; a tangent travels from each state to the next."""
        layers, tangents = self.unflatten(parameters), self.unflatten(direction)
        recurrent = layers["cell"][self.pixels : -1]
        direct = trace.inputs["cell"] @ tangents["cell"]
        moved, total = np.zeros_like(direct[0]), np.zeros_like(direct[0])
        for slope, arriving in zip(trace.slopes, direct, strict=True):
            moved = slope * (arriving + moved @ recurrent)
            total += moved
        readout = layers["readout"][:-1] / len(direct)
        return trace.inputs["readout"] @ tangents["readout"] + total @ readout

    def pull(self, parameters: Array, trace: Trace, logit_gradients: Array) -> Layers:
        """See `Network.pull`; output gradients of the cell are `(T, B, states)`."""
        layers = self.unflatten(parameters)
        recurrent = layers["cell"][self.pixels : -1]
        each = logit_gradients @ layers["readout"][:-1].T / len(trace.slopes)
        cell = np.empty_like(trace.slopes)
        arriving = each
        for t in reversed(range(len(cell))):
            cell[t] = trace.slopes[t] * arriving
            arriving = each + cell[t] @ recurrent.T
        return {"cell": cell, "readout": logit_gradients}
