r"""
A covariance that is nearly a Kronecker product
===============================================

Temperatures are alike for longer over large regions than over small ones: in their covariance space
and time do not separate. :func:`~kronops.nearest_kronecker` finds the product of a temporal and a
spatial matrix that comes closest to it, and the inverse of that, with the noise added exactly, is a
preconditioner.
"""

import functools
import operator
import sys

import numpy as np
from scipy.sparse.linalg import cg

from kronops import ToeplitzOperator, kron, nearest_kronecker, plot
from kronops.linalg import ResidualHistory

days, stations = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (30, 200)
rng = np.random.default_rng(0)
places = rng.uniform(0, 1000, size=(stations, 2))  # kilometres
places = places[np.argsort(places[:, 0])]  # from west to east, for the picture
distance = np.linalg.norm(places[:, None] - places, axis=-1)

# %%
# Gneiting's covariance for a distance :math:`h` and a lag of :math:`u` days,
#
# .. math::
#
#    C(h, u) = \frac{1}{\psi(u)} \exp\!\Big( {-\frac{h}{300\,\psi(u)^{\beta/2}}} \Big),
#    \qquad \psi(u) = 1 + (u/4)^2,
#
# separates for :math:`\beta = 0`, and is furthest from it for :math:`\beta = 1`: the longer the
# lag, the longer the range.


def between_stations(lag, interaction):
    psi = 1 + (lag / 4) ** 2
    return np.exp(-distance / (300 * psi ** (interaction / 2))) / psi


def covariance(interaction):
    """Of all days at all stations: a Kronecker product for each lag."""
    lags = enumerate(np.eye(days))
    terms = [kron(ToeplitzOperator(row), between_stations(u, interaction)) for u, row in lags]
    return functools.reduce(operator.add, terms)


# %%
# Measurements have a noise of variance 0.05. The matrix, of 6,000 × 6,000 entries, would have to be
# written out and factorised anew for every :math:`\beta`. It is not: products are those of its
# terms, and these are all that the nearest product is computed from.

noise = 0.05
b = rng.normal(size=days * stations)
histories = {}
for interaction in (0.0, 0.5, 1.0):
    K = covariance(interaction)
    near, error = nearest_kronecker(K, [(days, days), (stations, stations)])
    size = np.hypot(near.norm(), error)  # ‖K‖, for the error is orthogonal to what is nearest
    history = ResidualHistory(K.damped(noise), b)
    M = near.damped(noise).inverse()
    _, info = cg(K.damped(noise), b, M=M, rtol=1e-8, callback=history)
    assert info == 0
    histories[f"preconditioned, β = {interaction}"] = history.norms
    print(f"β = {interaction}: the nearest product is {error / size:.1%} of ‖K‖ away", end=", ")
    print(f"{len(history.norms) - 1} iterations")

# %%
# Without the preconditioner there are as many iterations as the condition number asks for, whatever
# :math:`\beta` is.

plain = ResidualHistory(K.damped(noise), b)
cg(K.damped(noise), b, rtol=1e-8, callback=plain)
print(f"{len(plain.norms) - 1} iterations without")
axes = plot.convergence({f"plain, β = {interaction}": plain.norms} | histories)
axes.set_xscale("symlog")
axes.set_xlim(0, None)

# %%
# The nearest product for :math:`\beta = 1`, of 30 × 30 and 200 × 200 numbers:

axes = plot.structure(near)
# sphinx_gallery_thumbnail_number = 2
