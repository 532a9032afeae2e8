"""The iterative solvers of SciPy for arrays of every library: `cg`, `minres` and `lsmr`.

`scipy.sparse.linalg` takes NumPy arrays alone: it fails on those of PyTorch and brings those of
JAX to the host. These three have its signatures, return values, stopping rules and callbacks, and
stay in the library, the dtype and on the device of their arguments. What they need of ``A`` and
``M`` is products: both may be operators of kronops, matrices, or anything with ``shape`` and
``matvec`` (`lsmr` asks for ``rmatvec`` too).

Vectors never leave their device. A few numbers that steer the iteration do: they are read once
(`cg`) or twice (`minres`, `lsmr`) in an iteration, and there the host waits for the device. So
none of the three can be traced or differentiated, and each says so.

`iterative_solve` chooses among them, with the preconditioner that an operator brings along.
`ResidualHistory` is a callback that keeps the norms of residuals, for `kronops.plot.convergence`.
"""

from kronops.linalg.conjugate_gradients import cg
from kronops.linalg.iterative import iterative_solve
from kronops.linalg.least_squares import lsmr
from kronops.linalg.minimal_residuals import minres
from kronops.linalg.residual_history import ResidualHistory

__all__ = ["ResidualHistory", "cg", "iterative_solve", "lsmr", "minres"]


def __dir__() -> list[str]:
    return __all__
