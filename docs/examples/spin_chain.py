r"""
A chain of quantum spins
========================

The states of :math:`N` spins are vectors of :math:`2^N` numbers, and what acts on one spin alone is
a Kronecker product of small matrices with identities. In a transverse field the Hamiltonian of
Ising's chain is

.. math::

   H = -\sum_i \sigma^z_i \sigma^z_{i+1} - h \sum_i \sigma^x_i ,

a diagonal operator plus a Kronecker sum. Its ground state is found by SciPy's ``eigsh``, to which
the operator is given as it is, and compared with the exact solution. Then a spin is turned over,
and what follows is watched.
"""

import sys

import numpy as np
from matplotlib import pyplot as plt
from scipy.sparse.linalg import eigsh

from kronops import DiagonalOperator, KroneckerSumOperator

spins = int(sys.argv[1]) if len(sys.argv) > 1 else 14
x = np.array([[0.0, 1.0], [1.0, 0.0]])
signs = np.array([1.0, -1.0])

# %%
# The Hamiltonian
# ---------------
#
# The field is :math:`\sigma^x \oplus \dots \oplus \sigma^x`. Each bond is diagonal: the product of
# two axes' signs, as an array with an axis for each spin.


def along(values, spin):
    """``values`` along the axis of one spin, for arrays with an axis for each."""
    return values.reshape([2 if axis == spin else 1 for axis in range(spins)])


magnetisation = [np.broadcast_to(along(signs, i), (2,) * spins) for i in range(spins)]
bonds = sum(magnetisation[i] * magnetisation[i + 1] for i in range(spins - 1))
field = KroneckerSumOperator([x] * spins)


def hamiltonian(h):
    return DiagonalOperator(-bonds) + (-h) * field


print(hamiltonian(1.0))

# %%
# Ground states
# -------------
#
# By the transformation of Jordan and Wigner the chain is one of free fermions, and its ground state
# has minus the sum of the singular values of an :math:`N \times N` matrix for an energy
# (Pfeuty, 1970). The spins are aligned in a weak field; near :math:`h = 1` the order gives way.

fields = np.linspace(0.2, 2.0, 10)
energies, exact, order = [], [], []
start = np.random.default_rng(0).normal(size=2**spins)
for h in fields:
    energy, state = eigsh(hamiltonian(h), k=1, which="SA", v0=start)
    energies.append(energy[0])
    fermions = np.diag(np.full(spins, h)) + np.diag(np.ones(spins - 1), 1)
    exact.append(-np.linalg.svd(fermions, compute_uv=False).sum())
    weights = state.reshape((2,) * spins) ** 2
    ends = magnetisation[spins // 4] * magnetisation[-1 - spins // 4]
    order.append(np.sum(weights * ends))
print(f"energies differ from the exact ones by {np.max(np.abs(np.subtract(energies, exact))):.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.plot(fields, np.array(exact) / spins, label="exact")
left.plot(fields, np.array(energies) / spins, "o", label="eigsh")
left.set(xlabel="field h", ylabel="energy of the ground state, per spin")
left.legend()
right.plot(fields, order, "o-")
right.axvline(1.0, color="gray", linewidth=1)
right.set(xlabel="field h", ylabel="correlation of two distant spins")

# %%
# A spin is turned over
# ---------------------
#
# The exponential of a Kronecker sum is a Kronecker product, and that of a diagonal is a diagonal.
# Strang's splitting alternates the two:
#
# .. math::
#
#    e^{-i H \tau} \approx e^{i \tau Z / 2}\, e^{i \tau h X}\, e^{i \tau Z / 2},
#
# with an error of :math:`\tau^3` in each step. Both factors are unitary, and exact.

tau, h = 0.05, 0.5
turn = (1j * tau * h * field).expm()  # a Kronecker product of 2 × 2 rotations
half = DiagonalOperator(np.exp(0.5j * tau * bonds))
print(type(turn).__name__)

state = np.zeros((2,) * spins, dtype=complex)
state[tuple(int(i == spins // 2) for i in range(spins))] = 1.0  # all up, but one
seen = []
for _ in range(200):
    state = half.multiply(turn.multiply(half.multiply(state)))
    weights = np.abs(state) ** 2
    seen.append([np.sum(weights * sign) for sign in magnetisation])
print(f"the norm is {np.linalg.norm(state):.12f}")

# %%
# The news spreads along two fronts, at a speed that the field sets.

figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
picture = axes.imshow(
    seen,
    origin="lower",
    aspect="auto",
    cmap="RdBu",
    vmin=-1,
    vmax=1,
    extent=(0, spins, 0, 200 * tau),
)
figure.colorbar(picture, label="magnetisation")
axes.set(xlabel="spin", ylabel="time")
# sphinx_gallery_thumbnail_number = 2
