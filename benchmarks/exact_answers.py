"""Products, solutions and determinants of small Kronecker products, in rational arithmetic."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["logdet", "multiply", "rational", "solve"]


def rational(array: Any) -> np.ndarray:
    """Finite real numbers as fractions, exactly; complex ones as they are."""
    if np.iscomplexobj(array):
        return np.asarray(array, dtype=complex)
    given = np.asarray(array)
    entries = [_fraction(entry) for entry in given.ravel()]
    return np.array(entries, dtype=object).reshape(given.shape)


def _fraction(entry: Any) -> Fraction:
    if isinstance(entry, (float, np.floating)):
        return Fraction(*entry.as_integer_ratio())
    return Fraction(int(entry)) if isinstance(entry, (np.integer, np.bool_)) else Fraction(entry)


def multiply(factors: Sequence[Any], x: Any) -> np.ndarray:
    """``(A ⊗ B ⊗ …) x``."""
    return _rounded(_damped(factors, 0) @ rational(x))


def solve(factors: Sequence[Any], b: Any, damping: Any = 0) -> np.ndarray | None:
    """``(A ⊗ B ⊗ … + damping I)⁻¹ b``; None where there is none.

    Complex ones are by NumPy: they are well-conditioned here.
    """
    matrix, right = _damped(factors, damping), rational(b)
    if matrix.shape[0] != matrix.shape[1]:
        return None
    if matrix.dtype != object or right.dtype != object:
        return np.linalg.solve(matrix.astype(complex), right.astype(complex))
    columns = right.reshape(len(right), -1)
    solution, determinant = _eliminated(matrix, columns)
    return None if determinant == 0 else _rounded(solution.reshape(right.shape))


def logdet(factors: Sequence[Any], damping: Any = 0) -> float | None:
    """The logarithm of the determinant: ``-inf`` of zero, None of what has no real one."""
    matrix = _damped(factors, damping)
    if matrix.shape[0] != matrix.shape[1]:
        return None
    if matrix.dtype != object:
        sign, logarithm = np.linalg.slogdet(matrix)
        return float(logarithm) if abs(sign - 1) < 1e-9 else None
    _, determinant = _eliminated(matrix, np.zeros((len(matrix), 0), dtype=object))
    if determinant <= 0:
        return None if determinant else -math.inf
    return math.log(determinant.numerator) - math.log(determinant.denominator)


def _damped(factors: Sequence[Any], damping: Any) -> np.ndarray:
    if any(map(np.iscomplexobj, [*factors, damping])):
        made = functools.reduce(np.kron, map(np.asarray, factors))
        return made + damping * np.eye(len(made))
    made = functools.reduce(np.kron, map(rational, factors))
    if damping == 0:
        return made
    return made + rational(np.eye(len(made), dtype=int)) * rational(damping)


def _rounded(array: np.ndarray) -> np.ndarray:
    return np.array(
        [complex(v) if isinstance(v, complex) else float(v) for v in array.ravel()]
    ).reshape(array.shape)


def _eliminated(matrix: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, Fraction]:
    """Gauss and Jordan: the solution, unless the determinant is zero, and the determinant."""
    n, determinant = len(matrix), Fraction(1)
    table = np.concatenate([matrix, right], axis=1)
    for k in range(n):
        pivot = next((i for i in range(k, n) if table[i, k] != 0), None)
        if pivot is None:
            return right, Fraction(0)
        if pivot != k:
            table[[k, pivot]] = table[[pivot, k]]
            determinant = -determinant
        determinant *= table[k, k]
        table[k] = table[k] / table[k, k]
        for i in itertools.chain(range(k), range(k + 1, n)):
            if table[i, k] != 0:
                table[i] = table[i] - table[i, k] * table[k]
    return table[:, n:], determinant
