"""``A x = b`` as the three solvers see it: checked once, then nothing but products and numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array, Backend
from kronops.checks import epsilon, is_complex
from kronops.errors import LinAlgError
from kronops.linalg.arguments import (
    as_first_guess,
    as_matrix,
    as_preconditioner,
    as_right_hand_side,
    require_home,
    require_kind,
)

__all__ = ["Products", "System"]


class Products:
    """The products of ``A`` or ``M`` with flat vectors.

    Whatever the matrix is, a product is a flat array of the library, dtype and device of ``like``.
    """

    def __init__(self, matrix: Any, name: str, like: Array) -> None:
        self.matrix, self.name, self.like = matrix, name, like
        self.rows, self.columns = matrix.shape
        self.backend = backend_of(like)
        self.xp = self.backend.xp
        if is_array(matrix):
            self.matrix = self.xp.astype(matrix, like.dtype, copy=False)

    def matvec(self, x: Array) -> Array:
        """``A x``."""
        if is_array(self.matrix):
            return self.xp.matmul(self.matrix, x)
        return self._checked(self.matrix.matvec(x), "matvec", self.rows)

    def rmatvec(self, x: Array) -> Array:
        """``Aᴴ x``, of an array without a conjugated copy."""
        if is_array(self.matrix):
            conj = self.backend.conj
            return conj(self.xp.matmul(conj(x), self.matrix))
        return self._checked(self.matrix.rmatvec(x), "rmatvec", self.columns)

    def _checked(self, y: Any, method: str, size: int) -> Array:
        """What the user's object has returned, as a vector like the others of the system."""
        what = f"{self.name}.{method}(x)"
        if not is_array(y):
            raise TypeError(f"{what} is a {type(y).__name__}: an array would do")
        require_home(backend_of(y), backend_of(y).device(y), what, self.like)
        if tuple(y.shape) not in ((size,), (size, 1)):
            raise ValueError(f"{what} has shape {tuple(y.shape)}: ({size},) would do")
        require_kind(y, what, self.like)
        return self.xp.astype(self.xp.reshape(y, (size,)), self.like.dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class System:
    """``A x = b``, checked, in units in which ``b`` can be squared.

    Attributes
    ----------
    solver : str
        Who asks, for error messages.
    A, M : Products
        The matrix, and the preconditioner or None.
    b : array (m,)
        The right-hand side over ``unit``.
    x0 : array (n,) or None
        The first guess over ``unit``.
    trivial : bool
        Whether ``b = 0``: then ``x = 0`` is a solution, whatever ``A`` is.
    unit : float
        1, or a power of two near the largest entry of a ``b`` whose squares would leave the range
        of the dtype. All three methods are homogeneous: only what users see is multiplied by it.
    hidden : bool
        Whether all is compiled, and no number can be read.
    """

    solver: str
    A: Products
    M: Products | None
    b: Array
    x0: Array | None
    trivial: bool
    unit: float
    hidden: bool = False

    @classmethod
    def of(cls, solver: str, A: Any, b: Any, x0: Any, M: Any = None) -> System:
        """The system of a user's arguments; square for all solvers but ``lsmr``."""
        A = as_matrix(A, "A", b)
        if solver != "lsmr" and A.shape[0] != A.shape[1]:
            raise ValueError(f"A has shape {tuple(A.shape)}: {solver} needs a square matrix")
        b = as_right_hand_side(b, A)
        x0 = None if x0 is None else as_first_guess(x0, A, b)
        M = None if M is None else Products(as_preconditioner(M, A, b), "M", like=b)
        if solver == "cg" and backend_of(b).is_staging():
            return cls(solver, Products(A, "A", like=b), M, b, x0, False, 1.0, hidden=True)
        largest = _largest(solver, b)
        unit = _unit(largest, backend_of(b).xp.finfo(b.dtype))
        if unit != 1:
            b, x0 = b / unit, None if x0 is None else x0 / unit
        return cls(solver, Products(A, "A", like=b), M, b, x0, largest == 0, unit)

    @property
    def backend(self) -> Backend:
        """The array library of all vectors."""
        return backend_of(self.b)

    @property
    def epsilon(self) -> float:
        """The unit of rounding of the dtype that is computed in."""
        return epsilon(self.b)

    # -- vectors -------------------------------------------------------------------------------

    def zeros(self) -> Array:
        """The vector 0 of the domain."""
        if self.A.columns == self.A.rows:
            return self.backend.xp.zeros_like(self.b)
        device = self.backend.device(self.b)
        return self.backend.xp.zeros((self.A.columns,), dtype=self.b.dtype, device=device)

    def start(self, shift: float = 0.0) -> tuple[Array, Array]:
        """The first ``x``, and its residual ``b - (A - shift I) x``."""
        if self.x0 is None:
            return self.zeros(), self.b
        product = self.A.matvec(self.x0)
        return self.x0, self.b - (product - shift * self.x0 if shift else product)

    def precondition(self, r: Array) -> Array:
        """``M r``, or ``r`` itself."""
        return r if self.M is None else self.M.matvec(r)

    def shown(self, x: Array) -> Array:
        """``x`` in the units of the user."""
        return x if self.unit == 1 else x * self.unit

    # -- numbers on the device -----------------------------------------------------------------

    def inner(self, x: Array, y: Array) -> Array:
        """The real part of ``xᴴ y``, an array without axes."""
        product = self.backend.xp.vecdot(x, y)
        return self.backend.xp.real(product) if is_complex(product) else product

    def norm(self, x: Array) -> Array:
        """``‖x‖₂``, an array without axes."""
        return self.backend.xp.sqrt(self.inner(x, x))

    # -- numbers on the host -------------------------------------------------------------------

    def read(self, *scalars: Array) -> list[float]:
        """Arrays without axes as numbers: here, and only here, the host waits for the device."""
        numbers = [_number(self.solver, scalar) for scalar in scalars]
        for number in numbers:
            if not math.isfinite(number):
                raise LinAlgError(
                    f"{self.solver} breaks down: an inner product or a norm is {number}. A, M or "
                    f"x0 leads to values that are NaN, infinite or too large for {self.b.dtype}, "
                    f"or A or M is not definite where {self.solver} needs it to be"
                )
        return numbers

    def first(self, x: Array) -> float:
        """The real part of the first entry of ``x``, for tables."""
        entry = self.shown(x)[0]
        return self.read(self.backend.xp.real(entry) if is_complex(entry) else entry)[0]

    def require_range(self, norm: float, vector: Array) -> None:
        """Refuse an ``A`` so small that squares vanish in the ``norm`` of a product, ``vector``."""
        xp = self.backend.xp
        finfo = xp.finfo(self.b.dtype)
        if norm >= math.sqrt(float(finfo.smallest_normal) / self.epsilon):
            return
        if any(self.read(xp.sum(xp.abs(vector)))):
            raise ValueError(
                f"A is so small that the squares of its products vanish in {self.b.dtype}: "
                f"a multiple of A nearer to 1 would do"
            )


def _largest(solver: str, b: Array) -> float:
    """The largest magnitude in ``b``."""
    if 0 in b.shape:
        return 0.0
    xp = backend_of(b).xp
    largest = _number(solver, xp.max(xp.abs(b)))
    if not math.isfinite(largest):
        raise ValueError("b has NaN or infinite entries: finite ones are needed")
    return largest


def _unit(largest: float, finfo: Any) -> float:
    exponent = math.frexp(largest)[1]
    if 3 * abs(exponent) <= math.frexp(float(finfo.max))[1]:
        return 1.0
    return math.ldexp(1.0, exponent - 1)


def _number(solver: str, scalar: Array) -> float:
    backend = backend_of(scalar)
    values = backend.values(scalar)
    if values is None:
        raise TypeError(
            f"{solver} must see its residual to know when to stop, and its values cannot be seen "
            f"here (inside jax.jit, say, or in a graph not yet evaluated): call {solver} outside, "
            f"bring A and b into memory, or use a solver made for traced code, such as lineax's by "
            f"way of kronops.lineax"
        )
    if backend.is_tracked(scalar):  # derivatives would not follow it to the host
        raise TypeError(
            f"derivatives do not pass through {solver}: detach b, A and M (or use torch.no_grad), "
            f"or use op.solve, which is differentiable"
        )
    return float(values)
