r"""
The curvature of a recurrent layer
==================================

A layer that is used at :math:`T` steps of a sequence has the curvature :math:`\sum_{t,s}
\mathrm{E}[x_t x_s^{\mathsf T}] \otimes \mathrm{E}[g_t g_s^{\mathsf T}]`: :math:`T^2` Kronecker
products. What is usually done is to take the uses as independent, which keeps :math:`T` of them.
:class:`~kronops.SeriesOperator` keeps all, for inputs and gradients that are first-order Markov
chains, at the price of a few small products. Here both stand beside the exact block, which is
written out because it is small. The :doc:`derivation </concepts/series>` has a page of its own.
"""

import sys

import numpy as np
from matplotlib import pyplot as plt

from kronops import SeriesOperator, kron

longest = int(sys.argv[1]) if len(sys.argv) > 1 else 64
rng = np.random.default_rng(0)


def chain(size, memory):
    """Moments of a stationary process x' = Ψ x + noise: its covariance, and Ψ."""
    root = rng.normal(size=(size, 2 * size))
    covariance = root @ root.T / (2 * size)
    rotation = np.linalg.qr(rng.normal(size=(size, size))).Q
    values = memory * rng.uniform(0.3, 1.0, size=size)
    whitened = rotation @ np.diag(values) @ rotation.T + 0.1 * memory * np.triu(rotation, 1)
    lower = np.linalg.cholesky(covariance)
    return covariance, lower @ whitened @ np.linalg.inv(lower)


(A0, Psi_A), (G0, Psi_G) = chain(6, 0.9), chain(5, 0.8)

# %%
# The exact block
# ---------------
#
# :math:`A_d = \Psi^d A_0` is how inputs that are :math:`d` steps apart go together, and a sum over
# all distances is the block.


def exact(T):
    block = T * np.kron(A0, G0)
    A, G = A0, G0
    for d in range(1, T):
        A, G = Psi_A @ A, Psi_G @ G
        block += (T - d) * (np.kron(A, G) + np.kron(A.T, G.T))
    return block


def approximations(T):
    moments = (A0, Psi_A @ A0), (G0, Psi_G @ G0)
    return {
        "independent": T * kron(A0, G0),
        "option 1": SeriesOperator(*moments, T, option=1),
        "option 2": SeriesOperator(*moments, T, option=2),
    }


T = 16
F = exact(T)
matrices = {"exact": F} | {name: op.to_dense() for name, op in approximations(T).items()}
limit = np.abs(F).max()
figure, row = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
for axes, (name, matrix) in zip(row, matrices.items(), strict=True):
    axes.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
    axes.set(title=name, xticks=[], yticks=[])
    error = np.linalg.norm(matrix - F) / np.linalg.norm(F)
    axes.set_xlabel(f"{error:.1%} away")

# %%
# Longer and longer sequences
# ---------------------------
#
# Option 1 is right for every :math:`T` but takes the correlations as symmetric in time, which these
# are nearly. Option 2 takes :math:`T` as large, and gains with it. Independent uses only lose: they
# are exact for one step, as option 1 is, which is beneath the picture.

lengths = 2 ** np.arange(int(np.log2(longest)) + 1)
gradient = rng.normal(size=(6, 5))
errors = {name: [] for name in approximations(1)}
cosines = {name: [] for name in errors}
for T in lengths:
    F = exact(T)
    step = np.linalg.solve(F, gradient.ravel())
    for name, op in approximations(T).items():
        errors[name].append(np.linalg.norm(op.to_dense() - F) / np.linalg.norm(F))
        other = op.multiply_inverse(gradient).ravel()
        cosines[name].append(step @ other / np.linalg.norm(step) / np.linalg.norm(other))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name in errors:
    left.loglog(lengths, errors[name], "o-", label=name)
    right.semilogx(lengths, cosines[name], "o-", label=name)
left.set(xlabel="steps T", ylabel="relative error of the block", title="the block")
right.set(
    xlabel="steps T", ylabel="cosine with the exact step", title="its inverse, of one gradient"
)
left.set_ylim(3e-4, 2)
left.legend()

# %%
# From data
# ---------
#
# :class:`~kronops.kfac.RecurrentLayer` estimates the moments from sequences, here of a process as
# above, and what it gives is the operator.

from kronops.kfac import RecurrentLayer  # noqa: E402


def sequences(covariance, psi, T, batch):
    lower = np.linalg.cholesky(covariance)
    noise = np.linalg.cholesky(covariance - psi @ covariance @ psi.T)
    x = [lower @ rng.normal(size=(len(psi), batch))]
    for _ in range(T - 1):
        x.append(psi @ x[-1] + noise @ rng.normal(size=(len(psi), batch)))
    return np.stack(x).transpose(0, 2, 1)  # (T, B, size)


layer = RecurrentLayer(option=1)
layer.update(sequences(A0, Psi_A, 16, 4000), sequences(G0, Psi_G, 16, 4000))
estimated = layer.operator(damping=1e-3)
F = exact(16)
print(f"{np.linalg.norm(estimated.to_dense() - F) / np.linalg.norm(F):.1%} away")
print(estimated)
