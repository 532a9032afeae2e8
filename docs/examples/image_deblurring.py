r"""
Sharpening a photograph
=======================

A camera that is out of focus replaces each pixel by a weighted mean of its neighbours. Where the
weights are a product of one for the rows and one for the columns, as those of a Gaussian are, the
blur of an image :math:`X` is :math:`A X B^{\mathsf T}`: a Kronecker product, of 273,280 × 273,280
entries here, whose singular values and vectors are those of two small matrices. So every
regularised solution is a few small products, and the strength of the regularisation is chosen by
looking at all of them.
"""

import sys

import numpy as np
from matplotlib import pyplot as plt
from scipy.linalg import toeplitz
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_sample_image

from kronops import kron

every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
truth = load_sample_image("china.jpg")[::every, ::every].mean(axis=2) / 255
height, width = truth.shape
print(f"{height} × {width} pixels")

# %%
# The blur, and what the camera saw
# ---------------------------------
#
# A Gaussian of three pixels along the columns and two along the rows, and noise of half a per cent.


def blur(size, radius):
    """Means with Gaussian weights; beyond the edge is black."""
    weights = np.exp(-0.5 * (np.arange(size) / radius) ** 2)
    return toeplitz(weights) / (2 * weights.sum() - weights[0])


K = kron(blur(height, 3.0), blur(width, 2.0))
rng = np.random.default_rng(0)
noise = 0.005
seen = K.multiply(truth) + noise * rng.normal(size=truth.shape)

# %%
# Singular values
# ---------------
#
# The singular values of :math:`K` are all products of those of :math:`A` and :math:`B`, and the
# vectors are Kronecker products again. The smallest is far below the noise: to solve :math:`K x =
# y` would multiply the noise by its reciprocal.

u, s, vh = K.svd()
print(f"condition number {s.max() / s.min():.1e}")

# %%
# Tikhonov's solution minimises :math:`\lVert K x - y \rVert^2 + \lambda \lVert x \rVert^2`. In the
# singular basis it weighs each component :math:`c = U^{\mathsf H} y` by :math:`s / (s^2 +
# \lambda)`. The residual of every :math:`\lambda` comes from the same :math:`c`, and so does
# generalised cross-validation (Golub, Heath and Wahba, 1979), which needs neither the truth nor the
# level of the noise:
#
# .. math::
#
#    \operatorname{GCV}(\lambda) = \frac{\sum_i (f_i c_i)^2}{\big( \sum_i f_i \big)^2},
#    \qquad f_i = \frac{\lambda}{s_i^2 + \lambda}.

c = u.H @ seen.ravel()


def cross_validation(logarithm):
    f = 10**logarithm / (s**2 + 10**logarithm)
    return np.sum((f * c) ** 2) / np.sum(f) ** 2


def restored(strength):
    return (vh.H @ (s / (s**2 + strength) * c)).reshape(truth.shape)


best = 10 ** minimize_scalar(cross_validation, bounds=(-8, 0), method="bounded").x
print(f"λ = {best:.1e} by cross-validation")

# %%
# The same solution, without any singular value in sight: :math:`K^{\mathsf H} K` is a Kronecker
# product, and damping it is exact.

normal = (K.H @ K).damped(best)
again = normal.multiply_inverse(K.H.multiply(seen))
print(f"differs by {np.max(np.abs(again - restored(best))):.1e}")

# %%

strengths = np.logspace(-8, 0, 33)
errors = [np.sqrt(np.mean((restored(x) - truth) ** 2)) for x in strengths]
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.loglog(strengths, errors, label="error, which only we know")
scores = np.array([cross_validation(np.log10(x)) for x in strengths])
axes.loglog(strengths, scores / scores.min() * min(errors), label="cross-validation, scaled")
axes.axvline(best, color="gray", linewidth=1)
axes.set(xlabel="strength λ", ylabel="root mean square")
axes.legend()

# %%
# Too weak, right, too strong
# ---------------------------

pictures = {
    "what the camera saw": seen,
    "λ = 1e-7: mostly noise": restored(1e-7),
    f"λ = {best:.0e}": restored(best),
    "the truth": truth,
}
figure, grid = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
for axes, (title, picture) in zip(grid.flat, pictures.items(), strict=True):
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes.set(title=title, xticks=[], yticks=[])
# sphinx_gallery_thumbnail_number = 2
