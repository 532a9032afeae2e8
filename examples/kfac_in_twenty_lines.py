"""K-FAC on handwritten digits: layer inputs and output gradients in, a natural gradient out."""

import numpy as np
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from kronops.kfac import Curvature, DenseLayer

rng = np.random.default_rng(0)
images, labels = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(images / 16, np.eye(10)[labels], random_state=0)
shapes = {"hidden": (64, 32), "output": (32, 10)}
# (weights, bias) of each layer
layers = {name: (rng.normal(size=s) / s[0] ** 0.5, np.zeros(s[1])) for name, s in shapes.items()}
curvature = Curvature({name: DenseLayer(bias=True) for name in layers})


def forward(x):
    (w, b), (v, c) = layers["hidden"], layers["output"]
    hidden = np.tanh(x @ w + b)
    return hidden, softmax(hidden @ v + c, axis=1)


def backward(hidden, errors):
    slopes = 1 - hidden**2
    return {"hidden": (x, errors @ layers["output"][0].T * slopes), "output": (hidden, errors)}


for _ in range(20):
    hidden, p = forward(x)
    # Targets drawn from the model's own predictions: the Fisher matrix, not the "empirical" one.
    curvature.update(backward(hidden, p - rng.multinomial(1, p)), decay=0.9)
    pairs = backward(hidden, p - y).items()
    gradient = {name: (a.T @ g / len(x), g.mean(axis=0)) for name, (a, g) in pairs}
    change = curvature.operator(damping=0.03).multiply_inverse(gradient)
    for name, (weights, bias) in layers.items():
        layers[name] = (weights - change[name][0], bias - change[name][1])

correct = forward(x_test)[1].argmax(axis=1) == y_test.argmax(axis=1)
print(f"test accuracy after 20 steps: {correct.mean():.3f}")
