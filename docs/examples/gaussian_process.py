"""
A Gaussian process on a map with holes
======================================

Elevations from stereo photographs have gaps where clouds hid the ground. A Gaussian process fills
them, and says how sure it is. Its covariance is a Kronecker product with one factor for each
direction of the map: of a matrix with 19 billion entries two with 280,000 together are kept, and
nothing is approximated.

The data are 344 × 403 elevations around the Jacksboro fault in Tennessee, in cells of 3 arc
seconds, which come with matplotlib. They are complete. *The clouds are ours*, and so it can be said
afterwards how well the gaps are filled.
"""

import sys

import numpy as np
import torch
from matplotlib import cbook
from matplotlib import pyplot as plt
from scipy.interpolate import griddata
from scipy.ndimage import binary_dilation
from scipy.optimize import minimize

from kronops import DenseOperator, kron, plot
from kronops.linalg import iterative_solve

with cbook.get_sample_data("jacksboro_fault_dem.npz") as data:
    truth = data["elevation"].astype(float)  # metres; the first row is the northernmost
rows, columns = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else truth.shape
truth = truth[:rows, :columns]
cell = np.array([0.0926, 0.0743])  # kilometres from north to south and from west to east
rng = np.random.default_rng(0)

# %%
# Clouds are where a smooth random field is high. The field is itself a draw from a Kronecker
# product. The northern half of the map stays clear.


def exponential(count, step, scale):
    distance = step * np.abs(np.arange(count)[:, None] - np.arange(count))
    return (1 + distance / scale) * np.exp(-distance / scale)


field = kron(*[exponential(n, step, 0.25) for n, step in zip(truth.shape, cell, strict=True)])
heights = field.sample(rng).reshape(truth.shape)
clouds = heights > np.quantile(heights, 0.9)
clouds[: rows // 2] = False
print(f"{clouds.sum():,} of {truth.size:,} cells are hidden")

# %%
# The likelihood and its gradient
# -------------------------------
#
# The prior covariance of two elevations is a product of two rational quadratic kernels, of their
# distances in the two directions. Five numbers are free: an amplitude, two lengths, an exponent,
# and the noise. Noise turns :math:`K` into :math:`K + \sigma^2 I`, which
# :meth:`~kronops.LinearOperator.damped` makes, and the factors' eigenvalues give its
# log-determinant and its solves exactly. PyTorch follows the operators with its derivatives.


def covariance(logarithms, shape):
    amplitude, *lengths, exponent, _ = torch.exp(logarithms)
    factors = []
    for count, step, length in zip(shape, cell, lengths, strict=True):
        points = step * torch.arange(count, dtype=torch.float64)
        squares = ((points[:, None] - points) / length) ** 2
        kernel = (1 + squares / (2 * exponent)) ** -exponent
        factors.append(DenseOperator(kernel, assume="symmetric"))
    return amplitude**2 * kron(*factors)


level = truth[: rows // 2].mean()
clear = torch.asarray(truth[: rows // 2] - level)


def negative_log_likelihood(logarithms):
    """For each cell of the clear half, and its gradient."""
    logarithms = torch.tensor(logarithms, requires_grad=True)
    observed = covariance(logarithms, clear.shape).damped(torch.exp(logarithms[-1]) ** 2)
    misfit = torch.sum(clear * observed.multiply_inverse(clear))
    value = 0.5 * ((misfit + observed.logdet()) / clear.numel() + np.log(2 * np.pi))
    value.backward()
    return value.item(), logarithms.grad.numpy()


# %%
# That is all L-BFGS needs. An evaluation is a matter of two small eigendecompositions.

start = np.log([50, 0.5, 0.5, 1, 5])
fit = minimize(negative_log_likelihood, start, jac=True, method="L-BFGS-B")
amplitude, south, east, exponent, noise = np.exp(fit.x)
at_start, gradient = negative_log_likelihood(start)
print(f"log marginal likelihood for each cell: {-at_start:.4f}, now {-fit.fun:.4f}")
print(f"largest derivative: {np.abs(gradient).max():.4f}, now {np.abs(fit.jac).max():.0e}")
print(f"{fit.nfev} evaluations")
print(f"amplitude {amplitude:.1f} m, lengths {1000 * south:.0f} m and {1000 * east:.0f} m")
print(f"exponent {exponent:.2f}, noise {noise:.2f} m")

# %%
# The two lengths, which nobody told the fit to belong together, agree.
#
# Operators for the whole map have an eigenvalue for each of its cells. Those of :math:`K` are
# products of eigenvalues of the factors; noise lifts those below :math:`\sigma^2`.

prior = covariance(torch.tensor(fit.x), truth.shape).to_backend("numpy")
observed = prior.damped(noise**2)
axes = plot.spectrum(prior, observed, labels=["K", "K + σ² I"])
axes.set_ylabel("eigenvalue in m²")

# %%
# Filling the gaps
# ----------------
#
# Only the cells that were seen have data: rows and columns of :math:`K + \sigma^2 I` where a mask
# is true. That is no Kronecker product any more. Its systems are solved by conjugate gradients,
# preconditioned by the inverse of the whole.

seen = ~clouds
visible = observed.masked(seen)


def solve(values):
    """Weights of the cells, zero where nothing was seen."""
    solution = iterative_solve(visible, values[seen], rtol=1e-3)
    weights = np.zeros(truth.shape)
    weights[seen] = solution.x
    return weights, solution


weights, solution = solve(truth - level)
filled = level + prior.multiply(weights)
print(f"{solution.iterations} iterations for {seen.sum():,} cells")

# %%
# Interpolation is what one would do otherwise: linear or cubic on triangles between the cells
# around the clouds.

around = seen & binary_dilation(clouds, iterations=6)
places = [np.argwhere(mask) * cell for mask in (around, clouds)]
errors = {"Gaussian process": filled[clouds] - truth[clouds]}
for method in ("nearest", "linear", "cubic"):
    errors[method] = griddata(places[0], truth[around], places[1], method) - truth[clouds]
for method, error in errors.items():
    print(f"{method:16} {np.sqrt(np.nanmean(error**2)):5.1f} m root mean square error under clouds")

# %%
# Cubic interpolation comes nearer to the truth than the posterior mean does: a product of kernels
# believes in ridges along the axes of the map, which the draw from the prior below shows and these
# mountains do not have. What interpolation does not say is how far off it may be.

# %%
# Samples
# -------
#
# :meth:`~kronops.LinearOperator.sample` draws from the prior. A draw from the posterior follows by
# Matheron's rule: a draw from the prior, plus what the data say about the difference. Each takes
# one more system.


def posterior_draw():
    terrain = prior.sample(rng).reshape(truth.shape)
    measured = terrain + noise * rng.normal(size=truth.shape)
    return terrain + level + prior.multiply(solve(truth - level - measured)[0])


draws = np.stack([posterior_draw() for _ in range(9)])

# %%
# If the model is right, the truth is equally likely to have any rank among ten values of which nine
# are draws: it lies between the smallest and the largest draw in 8 cells out of 10. Noise belongs
# to what was measured.

repeated = draws + noise * rng.normal(size=draws.shape)
inside = (repeated.min(axis=0) < truth) & (truth < repeated.max(axis=0))
print(f"between the draws: {inside[clouds].mean():.0%} of the cells under clouds")

# %%
# The maps, with the standard deviation of the draws, and a profile along a row with many clouds.

width, height = cell[::-1] * truth.shape[::-1]
scale = {"cmap": "gist_earth", "vmin": truth.min(), "vmax": truth.max()}
scale["extent"] = (0, width, 0, height)
maps = {
    "elevations that were seen": np.where(seen, truth, np.nan),
    "posterior mean": filled,
    "a draw from the prior": level + prior.sample(rng).reshape(truth.shape),
    "spread of nine draws from the posterior": np.std(draws, axis=0, ddof=1),
}
figure, grid = plt.subplots(2, 2, figsize=(9, 8.4), layout="constrained", sharex=True, sharey=True)
for axes, (title, values) in zip(grid.flat, maps.items(), strict=True):
    image = axes.imshow(values, **scale)
    figure.colorbar(image, ax=axes, shrink=0.8, label="m")
    axes.set_title(title)
image.set(cmap="Purples", clim=(0, np.max(values)))  # of the spread
figure.supxlabel("km from the western edge", fontsize="medium")
figure.supylabel("km from the southern edge", fontsize="medium")

# %%

chosen = slice(0, 80)
line = np.argmax(clouds[:, chosen].sum(axis=1))
distance = cell[1] * np.arange(columns)[chosen]
_, axes = plt.subplots(figsize=(9, 4), layout="constrained")
axes.plot(distance, draws[:, line, chosen].T, color="#9ecae1", linewidth=1)
axes.plot(distance, filled[line, chosen], color="#2171b5", label="posterior mean, and draws")
axes.plot(distance, truth[line, chosen], "--", color="gray", linewidth=1, label="truth")
known = np.where(seen, truth, np.nan)[line, chosen]
axes.plot(distance, known, ".", color="gray", markersize=4, label="seen")
axes.set(xlabel="km from the western edge", ylabel="elevation in m")
axes.legend()
# sphinx_gallery_thumbnail_number = 2
