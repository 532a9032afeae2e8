r"""
An elliptic equation with a fast preconditioner
===============================================

Diffusion in the unit cube, through a medium that varies in all three directions, is the equation

.. math::

   -\nabla \cdot (a \nabla u) = 1 \quad \text{inside,} \qquad u = 0 \quad \text{on the sides,}

with a coefficient :math:`a(x, y, z)` that is no sum and no product of functions of one coordinate.
Discretised on 64 × 64 × 64 points, its matrix is not a Kronecker sum. That of the same equation
with a constant coefficient is, and :class:`~kronops.KroneckerSumOperator` inverts it by
eigendecompositions of 64 × 64 matrices, the fast diagonalisation of Lynch, Rice and Thomas. Here it
is the preconditioner of conjugate gradients.
"""

import sys

import numpy as np
from matplotlib import pyplot as plt
from scipy.sparse.linalg import cg

from kronops import DiagonalOperator, IdentityOperator, KroneckerSumOperator, kron, plot
from kronops.linalg import ResidualHistory

n = int(sys.argv[1]) if len(sys.argv) > 1 else 64  # points along each side
step = 1 / (n + 1)
points = step * np.arange(1, n + 1)
midpoints = step * (np.arange(n + 1) + 0.5)


def coefficient(x, y, z):
    """Between 1/5 and 5."""
    return 5 ** (np.sin(2 * np.pi * (x + y)) * np.cos(2 * np.pi * (y - z)))


# %%
# The equation as operators
# -------------------------
#
# With the difference :math:`D` between neighbouring points, which is of shape 65 × 64, the gradient
# has the three parts :math:`D \otimes I \otimes I`, :math:`I \otimes D \otimes I` and :math:`I
# \otimes I \otimes D`. The coefficient stands between neighbours, where differences are taken: one
# diagonal operator for each part.

difference = np.diff(np.eye(n + 2), axis=0)[:, 1:-1] / step
identity = IdentityOperator(n, like=difference)


def part(axis):
    """``Gᴴ diag(a) G`` for one direction, and its diagonal ``(G ∘ G)ᵀ a``."""
    coordinates = [midpoints if other == axis else points for other in range(3)]
    a = coefficient(*np.meshgrid(*coordinates, indexing="ij"))
    gradient, squares = (
        kron(*[matrix if other == axis else identity for other in range(3)])
        for matrix in (difference, difference**2)
    )
    return gradient.H @ DiagonalOperator(a) @ gradient, squares.T.multiply(a)


(in_x, diagonal_x), (in_y, diagonal_y), (in_z, diagonal_z) = map(part, range(3))
A = in_x + in_y + in_z
print(f"{A.shape[0]:,} unknowns, {3 * (n + 1) * n**2:,} coefficients")

# %%
# This is the first of the three terms, as it is stored.

axes = plot.structure(in_x)

# %%
# Preconditioners
# ---------------
#
# Jacobi's is the diagonal of :math:`A`. The constant coefficient gives :math:`L = D^{\mathsf T} D
# \oplus D^{\mathsf T} D \oplus D^{\mathsf T} D`. How well it does depends on how far the
# coefficient is from a constant. A variable substitution takes most of that away: with :math:`s =
# a^{-1/2}` at the points, :math:`\operatorname{diag}(s)\, L^{-1} \operatorname{diag}(s)` is near
# the inverse where :math:`a` varies slowly from one point to the next (Concus and Golub, 1973).
# Either costs two small matrix products in each direction.

laplacian = KroneckerSumOperator([difference.T @ difference] * 3)
s = DiagonalOperator(coefficient(*np.meshgrid(points, points, points, indexing="ij")) ** -0.5)
preconditioners = {
    "none": None,
    "Jacobi": DiagonalOperator(1 / (diagonal_x + diagonal_y + diagonal_z)),
    "L⁻¹": laplacian.inverse(),
    "s L⁻¹ s": s @ laplacian.inverse() @ s,
}
b = np.ones(n**3)
histories, solutions = {}, {}
for name, M in preconditioners.items():
    histories[name] = ResidualHistory(A, b)
    solutions[name], info = cg(A, b, M=M, rtol=1e-8, callback=histories[name])
    assert info == 0
    print(f"{name:8} {len(histories[name].norms) - 1:5d} iterations")

# %%

axes = plot.convergence({name: history.norms for name, history in histories.items()})

# %%
# The solution in the middle of the cube, and the coefficient there.

middle = n // 2
x, y = np.meshgrid(points, points, indexing="ij")
slices = {
    "coefficient a": (coefficient(x, y, points[middle]), "log"),
    "solution u": (solutions["s L⁻¹ s"].reshape(n, n, n)[:, :, middle], "linear"),
}
figure, row = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for axes, (title, (values, norm)) in zip(row, slices.items(), strict=True):
    image = axes.imshow(values.T, norm=norm, origin="lower", extent=(0, 1, 0, 1))
    figure.colorbar(image, ax=axes)
    axes.set(title=f"{title} at z = {points[middle]:.2f}", xlabel="x")
row[0].set_ylabel("y")
# sphinx_gallery_thumbnail_number = 3
