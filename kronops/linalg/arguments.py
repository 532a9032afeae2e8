"""What the solvers take, and in which words they refuse the rest."""

from __future__ import annotations

import operator
from typing import Any

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array, Backend
from kronops.checks import as_inexact, is_complex
from kronops.drawing import compared
from kronops.operator import LinearOperator

__all__ = [
    "as_first_guess",
    "as_iterations",
    "as_matrix",
    "as_preconditioner",
    "as_right_hand_side",
    "require_home",
    "require_kind",
]


def as_iterations(maxiter: Any, default: int) -> int:
    """``maxiter`` as an integer ≥ 1."""
    if maxiter is None:
        return default
    try:
        number = operator.index(maxiter)
    except TypeError:
        raise TypeError(f"maxiter = {maxiter!r}: an integer ≥ 1 or None would do") from None
    if number < 1:
        raise ValueError(f"maxiter = {number}: an integer ≥ 1 or None would do")
    return number


def as_matrix(matrix: Any, name: str, b: Any) -> Any:
    """``A`` or ``M``: an array in a floating dtype, an operator, or another object with products.

    In the library and on the device of ``b``, as far as it says where it lives.
    """
    if not is_array(b):
        raise TypeError(f"b is a {type(b).__name__}: an array is needed, for example numpy.asarray")
    if is_array(matrix):
        require_home(backend_of(matrix), backend_of(matrix).device(matrix), name, b)
        matrix = as_inexact(matrix, name, like=_inexact_dtype(b, b))
    elif isinstance(matrix, LinearOperator):
        require_home(matrix.backend, matrix.device, name, b)
    elif not (hasattr(matrix, "shape") and hasattr(matrix, "matvec")):
        raise TypeError(
            f"{name} is a {type(matrix).__name__}: a kronops operator, a matrix, or an object with "
            f"shape and matvec would do (of a sparse matrix scipy.sparse.linalg.aslinearoperator)"
        )
    if len(matrix.shape) != 2:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: a matrix with two axes would do")
    return matrix


def as_right_hand_side(b: Array, A: Any) -> Array:
    """``b``, flat, in the dtype that it has in common with ``A``."""
    declared = _inexact_dtype(A, b)
    b = _as_vector(b, "b", A, A.shape[0], like=declared)
    if declared is None:
        return b
    xp = backend_of(b).xp
    return xp.astype(b, xp.result_type(b.dtype, declared), copy=False)


def as_first_guess(x0: Any, A: Any, b: Array) -> Array:
    """A copy of ``x0`` in the dtype of ``b``, so that no result is the user's own array."""
    x0 = _as_vector(x0, "x0", A, A.shape[1], like=b.dtype)
    require_home(backend_of(x0), backend_of(x0).device(x0), "x0", b)
    require_kind(x0, "x0", b)
    return backend_of(b).xp.astype(x0, b.dtype, copy=True)


def as_preconditioner(M: Any, A: Any, b: Array) -> Any:
    """``M``, of the shape of ``A``."""
    M = as_matrix(M, "M", b)
    if tuple(M.shape) != tuple(A.shape):
        raise ValueError(f"M has shape {tuple(M.shape)}: that of A, {tuple(A.shape)}, would do")
    if _inexact_dtype(M, b) is not None:
        require_kind(M, "M", b)
    return M


def require_home(home: Backend, device: Any, name: str, b: Array) -> None:
    """What is called ``name`` lives where ``b`` lives."""
    backend = backend_of(b)
    if home is not backend:
        raise TypeError(f"{name} is of {home.name}, b of {backend.name}: one library would do")
    if not backend.same_device(b, device):
        raise TypeError(
            f"{name} is on device {device}, b on {backend.device(b)}: one device would do"
        )


def require_kind(value: Any, name: str, b: Array) -> None:
    """Nothing complex in a real system, whose iteration would drop the imaginary part."""
    if backend_of(b).kind(value.dtype) == "complex floating" and not is_complex(b):
        raise TypeError(f"{name} is complex, and A and b are real: make b complex")


def _inexact_dtype(matrix: Any, b: Array) -> Any:
    """The floating dtype that ``matrix`` declares; None if it is none of the library of ``b``."""
    dtype = getattr(matrix, "dtype", None)
    try:
        return dtype if backend_of(b).kind(dtype).endswith("floating") else None
    except (TypeError, AttributeError):  # the dtype of another library
        return None


def _as_vector(vector: Any, name: str, A: Any, size: int, like: Any) -> Array:
    """``(n,)`` of a vector ``(n,)`` or ``(n, 1)``, in a floating dtype."""
    vector = as_inexact(vector, name, like=like)
    if tuple(vector.shape) not in ((size,), (size, 1)):
        shape = tuple(vector.shape)
        words = f"{name} has shape {shape}, A {tuple(A.shape)}: ({size},) or ({size}, 1) would do"
        if shape == getattr(A, "domain_shape", None):
            raise ValueError(f"{words}; {name}.reshape(-1) would do")
        raise ValueError(words + (compared(name, shape, (size,), "A") if shape else ""))
    return backend_of(vector).xp.reshape(vector, (size,))
