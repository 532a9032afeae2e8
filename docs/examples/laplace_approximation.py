"""
A network that knows when it is guessing
========================================

A network trained by maximum likelihood is as sure of a digit on its side as of one that stands
upright. Laplace's approximation makes it a Bayesian one after training: the posterior of the
parameters is a normal distribution around what training found, and its precision is :math:`N F +
\\delta I`, with the Fisher matrix :math:`F` of the :math:`N` images and the precision
:math:`\\delta` of the prior. With K-FAC the determinant, the solves and the draws that this takes
come from the factors' eigenvalues, exactly, for every :math:`\\delta` (Ritter, Botev and Barber,
2018, https://openreview.net/forum?id=Skdvd2xAZ).

The data are the handwritten digits that ship with scikit-learn.
"""

import math
import sys

import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import cross_entropy, nll_loss

import kronops.kfac.torch as kfac

count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
images, labels = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
chosen = rng.permutation(len(images))
images, labels = images.reshape(-1, 8, 8)[chosen] / 8 - 1, torch.from_numpy(labels[chosen])
x, y = torch.from_numpy(images[:count]).flatten(1), labels[:count]

# %%
# Held-out digits are turned, each by a random angle up to 45 degrees, which the training images
# were not. Half of them will choose :math:`\delta`, the other half will be the test.


def turned(image, angle):
    return rotate(image, angle, reshape=False, order=1, mode="nearest")


angles = rng.uniform(-45, 45, size=len(images) - count)
held = np.stack([turned(*pair) for pair in zip(images[count:], angles, strict=True)])
held, held_labels = torch.from_numpy(held).flatten(1), labels[count:]
middle = len(held) // 2

# %%
# Training, as always
# -------------------

prior = 0.3  # the precision in training, also known as weight decay
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)).double()
parameters = dict(network.named_parameters())
optimiser = torch.optim.LBFGS(
    parameters.values(), max_iter=1000, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
)


def objective():
    optimiser.zero_grad()
    penalty = prior / 2 * sum((p**2).sum() for p in parameters.values())
    value = (cross_entropy(network(x), y, reduction="sum") + penalty) / count
    value.backward()
    return value


optimiser.step(objective)
curvature = kfac.capture(network).fit([(x, y)], "categorical", "exact")

# %%
# The evidence
# ------------
#
# How probable are the data, after all parameters have been integrated out? Laplace's approximation
# of the log marginal likelihood needs one log-determinant for each :math:`\delta`. The parameters
# :math:`\theta` stay where training left them; all determinants and solves that follow share the
# eigendecompositions of four small matrices.
#
# .. math::
#
#    \log p(y \mid \delta) \approx \log p(y \mid \theta) - \frac\delta2 \|\theta\|^2
#    + \frac P2 \log\delta - \frac12 \log\det(N F + \delta I).

with torch.no_grad():
    likelihood = -float(cross_entropy(network(x), y, reduction="sum"))
    square = float(sum((p**2).sum() for p in parameters.values()))
size = sum(p.numel() for p in parameters.values())


def posterior(precision):
    """``F + δ/N``, the precision of the parameters divided by ``N``."""
    return curvature.operator(damping=precision / count, method="exact")


def evidence(precision):
    logdet = size * math.log(count) + float(posterior(precision).logdet())
    return likelihood + (size * math.log(precision) - precision * square - logdet) / 2


precisions = np.geomspace(0.1, 1000, 33)
evidences = np.array([evidence(precision) for precision in precisions])
print(f"the evidence is largest for δ = {precisions[evidences.argmax()]:.2f}")

# %%
# Predictions
# -----------
#
# Around :math:`\theta` the logits are linear in the parameters, and normal as they are, with the
# covariance :math:`J (N F + \delta I)^{-1} J^\mathsf T`. Their Jacobian is laid out as the
# operator's flat vectors are: layer by layer, each weight matrix with its bias as the last column.


def jacobian(image):
    parts = jacrev(lambda p: functional_call(network, p, (image[None],))[0])(dict(parameters))
    layers = [(parts[f"{i}.weight"], parts[f"{i}.bias"]) for i in (0, 2)]
    blocks = [torch.cat([weight, bias[..., None]], dim=-1).flatten(1) for weight, bias in layers]
    return torch.cat(blocks, dim=1).detach()


def covariances(jacobians, precision):
    """Of the logits of each image, ``(images, 10, 10)``."""
    spread = posterior(precision).solve(jacobians.flatten(0, 1).T).T / count
    return jacobians @ spread.reshape(jacobians.shape).mT


def predict(logits, covariance):
    """Class probabilities: the mean over draws of the logits."""
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(10))
    noise = torch.randn(300, *logits.shape, 1, dtype=logits.dtype, generator=generator)
    return (logits + (root @ noise)[..., 0]).softmax(-1).mean(0)


with torch.no_grad():
    logits = network(held)
jacobians = vmap(jacobian)(held)
losses = []
for precision in precisions:
    covariance = covariances(jacobians[:middle], precision)
    losses.append(float(nll_loss(predict(logits[:middle], covariance).log(), held_labels[:middle])))
calibrated = precisions[np.argmin(losses)]
print(f"the held-out loss is least for δ = {calibrated:.2f}")

# %%
# The two need not agree: the evidence trusts the model, which has never heard of turned digits.
# Away from its largest value it falls fast to the right, for there the prior forbids the network.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.semilogx(precisions, evidences)
left.set(
    xlabel="δ", ylabel="log marginal likelihood", ylim=evidences.max() + np.array([-1500, 100])
)
right.semilogx(precisions, losses)
right.set(xlabel="δ", ylabel="loss on half of the turned digits")
for axes, best in ((left, precisions[evidences.argmax()]), (right, calibrated)):
    axes.axvline(best, color="lightgray", zorder=0)

# %%
# Is it calibrated?
# -----------------
#
# Of the predictions made with 70 % confidence, 70 % should be right. The other half of the held-out
# digits tells.

tested = slice(middle, None)
predictions = {
    "one network": logits[tested].softmax(-1),
    "Laplace, δ by evidence": predict(
        logits[tested], covariances(jacobians[tested], precisions[evidences.argmax()])
    ),
    "Laplace, δ by held-out loss": predict(
        logits[tested], covariances(jacobians[tested], calibrated)
    ),
}
edges = np.linspace(0, 1, 9)
figure, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
axes.axline((0, 0), slope=1, color="lightgray")
for name, probabilities in predictions.items():
    confidence, predicted = (part.numpy() for part in probabilities.max(1))
    right = predicted == held_labels[tested].numpy()
    bins = np.digitize(confidence, edges[1:-1])
    weights = np.bincount(bins, minlength=8)
    used = weights > 5
    confident = np.bincount(bins, confidence, minlength=8)[used] / weights[used]
    accurate = np.bincount(bins, right, minlength=8)[used] / weights[used]
    error = np.average(np.abs(confident - accurate), weights=weights[used])
    loss = nll_loss(probabilities.log(), held_labels[tested])
    print(f"{name:28} {right.mean():.1%} right, loss {loss:.2f}, calibration error {error:.1%}")
    axes.plot(confident, accurate, "o-", label=name)
axes.set(xlabel="confidence", ylabel="share that is right")
axes.legend()

# %%
# A digit on its way to another
# -----------------------------
#
# One upright digit, turned step by step, looks like others on its way. The network alone is certain
# of most of them; with the variance of the parameters it is less so, and least between two digits.

upright = images[count:][(labels[count:] == 4).numpy()][0]
steps = np.arange(0, 181, 5)
series = torch.from_numpy(np.stack([turned(upright, angle) for angle in steps])).flatten(1)
with torch.no_grad():
    outputs = network(series)
bayesian = predict(outputs, covariances(vmap(jacobian)(series), calibrated))
figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
axes.plot(steps, outputs.softmax(-1).max(1)[0], label="one network")
axes.plot(steps, bayesian.max(1)[0], label="Laplace, δ by held-out loss")
axes.set(xlabel="degrees", ylabel="confidence in the likeliest digit", ylim=(0, 1.02))
axes.legend()
# sphinx_gallery_thumbnail_number = 2
