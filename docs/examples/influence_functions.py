"""
Which training images made the network err?
===========================================

How would the loss on held-out images change if one training image had never been there? Retraining
answers, once for each image. An influence function answers for all images at once, with one solve:
to first order the parameters move by :math:`\\frac1N (F + \\lambda I)^{-1} \\nabla \\ell_i` when
image :math:`i` of :math:`N` goes, where :math:`F + \\lambda I` is the curvature of the training
objective (Koh and Liang, 2017, https://arxiv.org/abs/1703.04730). K-FAC makes it a matter of
milliseconds. This example computes all influences, and then *does* retrain, to see what they are
worth.

The data are the handwritten digits that ship with scikit-learn.
"""

import sys

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, hessian, jvp
from torch.nn.functional import cross_entropy

import kronops.kfac.torch as kfac

count, retrained = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (1000, 24)
images, labels = load_digits(return_X_y=True)
chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
images, labels = torch.from_numpy(images / 8 - 1)[chosen], torch.from_numpy(labels)[chosen]
x, y = images[:count], labels[:count]
x_held, y_held = images[count:], labels[count:]

# %%
# A network at its optimum
# ------------------------
#
# Influence functions are derivatives at a minimum: L-BFGS in double precision finds one. The
# penalty :math:`\frac\lambda2 \|\theta\|^2` is part of the objective, so :math:`\lambda` is no knob
# of the method.

decay = 0.01
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10)).double()


def train(kept, tolerance=1e-6):
    """To the minimum over the images that are kept; the sum is divided by the number of all."""
    parameters = list(network.parameters())
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=3000, tolerance_grad=tolerance, line_search_fn="strong_wolfe"
    )

    def objective():
        optimiser.zero_grad()
        penalty = decay / 2 * sum((p**2).sum() for p in parameters)
        value = cross_entropy(network(x[kept]), y[kept], reduction="sum") / count + penalty
        value.backward()
        return value

    optimiser.step(objective)


train(slice(None))
optimum = {name: p.detach().clone() for name, p in network.named_parameters()}
with torch.no_grad():
    held = cross_entropy(network(x_held), y_held)
    right = (network(x_held).argmax(1) == y_held).double().mean()
print(f"held-out loss {held:.4f}, {right:.1%} right")

# %%
# One solve for all influences
# ----------------------------
#
# The gradient :math:`s` of the held-out loss, divided by the curvature, says how fast that loss
# changes with each training image's weight: :math:`\frac1N \langle (F + \lambda I)^{-1} s, \nabla
# \ell_i \rangle`. These products with all the gradients are one forward derivative of the losses
# along :math:`(F + \lambda I)^{-1} s`. The Fisher matrix comes from the network itself, exactly in
# its last layer's Hessian and by K-FAC's product in each block.

loader = [(x, y)]
curvature = kfac.capture(network).fit(loader, "categorical", "exact")
curvature.fit(loader, "categorical", "exact", statistics="eigenvalues")
gradients = torch.autograd.grad(cross_entropy(network(x_held), y_held), network.parameters())
gradient = dict(zip(optimum, gradients, strict=True))


def losses(parameters):
    return cross_entropy(functional_call(network, parameters, x), y, reduction="none")


def influences(direction):
    """The change of the held-out loss when each image goes, for all images."""
    return jvp(losses, (optimum,), (direction,))[1] / count


found = {"gradients alone": influences(gradient)}
for method in ("factored", "exact", "ekfac"):
    operator = curvature.operator(damping=decay, method=method)
    found[f"K-FAC, {method}"] = influences(operator.multiply_inverse(gradient))

# %%
# For a network this small the whole Hessian can be had as well, and its two blocks without what is
# between the layers, to see which approximation costs what.


def unflat(vector):
    sizes = [p.numel() for p in optimum.values()]
    parts = zip(optimum.items(), vector.split(sizes), strict=True)
    return {name: part.reshape(p.shape) for (name, p), part in parts}


def flat(parameters):
    return torch.cat([p.flatten() for p in parameters.values()])


H = hessian(lambda v: losses(unflat(v)).mean() + decay / 2 * (v**2).sum())(flat(optimum))
layer = flat({name: torch.full_like(p, int(name[0])) for name, p in optimum.items()})
blocks = H * (layer[:, None] == layer)
found["the Hessian's blocks"] = influences(unflat(torch.linalg.solve(blocks, flat(gradient))))
found["the whole Hessian"] = influences(unflat(torch.linalg.solve(H, flat(gradient))))
print(f"{len(H)} parameters, condition number of the Hessian {torch.linalg.cond(H):.0f}")

# %%
# Retraining
# ----------
#
# Half of the images that are left out have the largest influences, half are spread over all others.

order = found["K-FAC, exact"].abs().argsort(descending=True)
half = retrained // 2
out = torch.cat([order[:half], order[half :: max(1, (count - half) // half)][:half]])
truth = []
for i in out.tolist():
    network.load_state_dict(optimum)
    train([j for j in range(count) if j != i])
    with torch.no_grad():
        truth.append(float(cross_entropy(network(x_held), y_held) - held))
truth = np.array(truth)
network.load_state_dict(optimum)

print("                     correlation with retraining, and its slope")
for name, values in found.items():
    predicted = values[out].numpy()
    slope = predicted @ truth / (predicted @ predicted)
    print(f"{name:20} {np.corrcoef(predicted, truth)[0, 1]:.2f} {slope:.2f}")

# %%
# Gradients alone know which images are alike, but not how far the network would give way: their
# scale is wrong too, by a factor of four. K-FAC has most of the order, and with exact damping twice
# the scale. Of what its order lacks, more is due to the Kronecker product in place of a layer's own
# block than to the curvature between the layers. With the whole Hessian the order is right, and the
# changes are larger than their derivative at the optimum says, for whole images go.

names = ["gradients alone", "K-FAC, exact", "the whole Hessian"]
figure, grid = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for axes, name in zip(grid, names, strict=True):
    axes.axline((0, 0), slope=1, color="lightgray")
    axes.plot(found[name][out].numpy(), truth, "o", color="#2171b5", markersize=4)
    axes.set(title=name, xlabel="predicted change of the loss")
    axes.ticklabel_format(scilimits=(0, 0))
grid[0].set_ylabel("change after retraining")

# %%
# What the answer looks like
# --------------------------
#
# The images of the training set that the held-out digits would be best off without, and those that
# help most: a negative influence means that the loss falls when the image goes.

values = found["K-FAC, exact"]
rows = {"better gone": values.argsort()[:8], "missed most": values.argsort(descending=True)[:8]}
figure, grid = plt.subplots(2, 8, figsize=(9, 3), layout="constrained")
for line, (title, places) in zip(grid, rows.items(), strict=True):
    line[0].set_ylabel(title)
    for axes, i in zip(line, places.tolist(), strict=True):
        axes.imshow(x[i].reshape(8, 8).numpy(), cmap="gray_r")
        axes.set(xticks=[], yticks=[], title=f"a {y[i]}")
# sphinx_gallery_thumbnail_number = 2
