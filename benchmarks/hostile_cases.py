"""The calls of benchmarks/hostile.py: each with what would be right, or that nothing would be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import exact_answers as exact
import numpy as np
from hostile_libraries import Operations

__all__ = ["CASES", "Case"]

Build = Callable[[Sequence[Any]], Operations]


class Case(NamedTuple):
    """``right`` are the acceptable answers; there may be none."""

    name: str
    group: str
    run: Callable[[Build], Any]
    right: Sequence[Any]
    tolerance: float = 1e-6

    def accepts(self, answer: np.ndarray) -> bool:
        """Whether an answer is one of the right ones, in units of its largest entry."""
        return any(close(answer, np.asarray(right), self.tolerance) for right in self.right)


def close(answer: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    if answer.size != right.size or answer.dtype.kind not in "fciub":
        return answer.tolist() == right.tolist()
    answer = answer.reshape(right.shape)
    if not np.all(np.isfinite(right)):
        return np.array_equal(answer, right)
    largest = np.max(np.abs(right), initial=0.0)
    return bool(np.all(np.abs(answer - right) <= tolerance * largest))


CASES: list[Case] = []


def add(name: str, group: str, run: Callable[[Build], Any], *right: Any, **more: Any) -> None:
    CASES.append(Case(name, group, run, [r for r in right if r is not None], **more))


def product(
    name: str, group: str, factors: Sequence[Any], x: Any, *right: Any, **more: Any
) -> None:
    add(f"product, {name}", group, lambda build: build(factors).multiply(x), *right, **more)


def solution(
    name: str,
    group: str,
    factors: Sequence[Any],
    b: Any,
    *right: Any,
    damping: Any = 0.0,
    **more: Any,
) -> None:
    add(f"solve, {name}", group, lambda build: build(factors).solve(b, damping), *right, **more)


def determinant(
    name: str, group: str, factors: Sequence[Any], *right: Any, damping: Any = 0.0
) -> None:
    add(f"logdet, {name}", group, lambda build: build(factors).logdet(damping), *right)


# -- operands --------------------------------------------------------------------------------------

rng = np.random.default_rng(0)
I2 = np.eye(2)
A = np.array([[2.0, 1.0], [1.0, 3.0]])
B = np.array([[3.0, -1.0], [-1.0, 1.0]])
ONES = np.ones(4)
X = np.array([1.0, -2.0, 3.0, 0.5])


def with_entry(value: float, place: tuple[int, int]) -> np.ndarray:
    matrix = A.copy()
    matrix[place] = value
    return matrix


# -- what is not hostile, to show that every library is asked in its own way -----------------------

product("nothing hostile", "control", [A, B], X, exact.multiply([A, B], X))
solution("nothing hostile", "control", [A, B], X, exact.solve([A, B], X))
solution("damped, nothing hostile", "control", [A, B], X, exact.solve([A, B], X, 0.5), damping=0.5)
determinant("nothing hostile", "control", [A, B], exact.logdet([A, B]))

# -- entries that are no numbers -------------------------------------------------------------------

for triangle, place in (("upper", (0, 1)), ("lower", (1, 0))):
    for value in (np.nan, np.inf):
        bad = [with_entry(value, place), I2]
        solution(f"{value} in the {triangle} triangle", "not finite", bad, ONES)
        determinant(f"{value} in the {triangle} triangle", "not finite", bad)
    bad = [with_entry(np.nan, place), I2]
    product(f"nan in the {triangle} triangle", "not finite", bad, ONES)
    solution(f"nan in the {triangle} triangle, damped", "not finite", bad, ONES, damping=0.5)

# -- damping ---------------------------------------------------------------------------------------

for value in (np.nan, np.inf, None, "much"):
    solution(f"damping {value}", "damping", [A, B], X, damping=value)
for value in (-1.0, 1j):
    solution(f"damping {value}", "damping", [A, B], X, exact.solve([A, B], X, value), damping=value)
spread = np.array([1.0, 2.0, 3.0, 4.0])
by_spread = np.linalg.solve(np.kron(A, B) + np.diag(spread), X)
solution("damping that is a vector", "damping", [A, B], X, by_spread, damping=spread)
CANCELS = [np.diag([-2.0, 1.0]), np.diag([1.0, 3.0])]
solution("damping that cancels an eigenvalue", "damping", CANCELS, ONES, damping=2.0)
determinant("damping that cancels an eigenvalue", "damping", CANCELS, -math.inf, damping=2.0)

# -- singular and nearly so ------------------------------------------------------------------------

draws = np.random.default_rng(3).standard_normal((3, 5))
HILBERT = 1 / (np.arange(13)[:, None] + np.arange(13) + 1.0)
ROTATION = np.array([[3.0, 4.0], [-4.0, 3.0]]) / 5
TINY = ROTATION @ np.diag([1.0, 1e-18]) @ ROTATION.T
SINGULAR = {
    "a zero row": np.diag([1.0, 0.0]),
    "two equal rows": np.array([[1.0, 2.0], [1.0, 2.0]]),
    "rank one": np.ones((4, 4)),
    "1 to 9": np.arange(1.0, 10).reshape(3, 3),
    "zeros": np.zeros((2, 2)),
}
for name, matrix in SINGULAR.items():
    solution(name, "singular", [I2, matrix], np.ones(2 * len(matrix)))
    determinant(name, "singular", [I2, matrix], -math.inf)
MOMENTS = {"moments of 3 draws of 5 numbers": draws.T @ draws}
NEAR = MOMENTS | {"Hilbert's 13 x 13": HILBERT, "condition 1e18": TINY}
for name, matrix in NEAR.items():
    b = np.ones(len(matrix))
    one = np.eye(1)
    solution(name, "nearly singular", [matrix, one], b, exact.solve([matrix], b))
    determinant(name, "nearly singular", [matrix, one], exact.logdet([matrix]))
UNITS = np.array([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]]) * np.outer([1e-9, 1, 1e12], [1e-9, 1, 1e12])
solution("rows in other units", "nearly singular", [UNITS, np.eye(1)], UNITS @ [1e9, 1, 1e-12],
         [1e9, 1, 1e-12])  # fmt: skip

# -- not symmetric, not definite -------------------------------------------------------------------


def complex_logarithm(factors: Sequence[np.ndarray]) -> complex | None:
    """That of the determinant, where a factor is complex: for who gives it."""
    if not any(map(np.iscomplexobj, factors)):
        return None
    return complex(np.log(np.linalg.det(np.kron(*factors))))


OTHERS = {
    "not symmetric": [np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([[1.0, -4.0], [2.0, 1.0]])],
    "skew": [np.array([[0.0, 1.0], [-1.0, 0.0]]), I2],
    "indefinite": [np.array([[0.0, 1.0], [1.0, 0.0]]), A],
    "two negative definite": [-A, -B],
    "of negative determinant": [np.diag([1.0, -1.0, 1.0]), np.array([[2.0]])],
    "Hermitian": [np.array([[2.0, 1j], [-1j, 3.0]]), A],
    "complex": [np.array([[2.0, 1j], [1.0, 3.0 + 1j]]), A],
}
for name, factors in OTHERS.items():
    b = np.arange(1.0, 1.0 + math.prod(len(factor) for factor in factors))
    solution(name, "structure", factors, b, exact.solve(factors, b))
    determinant(name, "structure", factors, exact.logdet(factors), complex_logarithm(factors))
unsymmetric = OTHERS["not symmetric"]
solution("not symmetric, damped", "structure", unsymmetric, X, exact.solve(unsymmetric, X, 0.5),
         damping=0.5)  # fmt: skip
product("real factors, a complex vector", "structure", [A, B], X + 1j, np.kron(A, B) @ (X + 1j))
product("complex factors, a real vector", "structure", OTHERS["complex"], X,
        np.kron(*OTHERS["complex"]) @ X)  # fmt: skip

# -- dtypes and kinds of arrays --------------------------------------------------------------------

HUNDREDS = np.array([[100, 1], [1, 100]])
for dtype in ("int8", "uint8", "int64", "bool", ">f8", ">i4", "float32"):
    typed = [HUNDREDS.astype(dtype)] * 2
    product(f"{dtype}", "dtypes", typed, ONES, exact.multiply(typed, ONES))
    right = exact.solve(typed, ONES)
    solution(f"{dtype}", "dtypes", typed, ONES, right, tolerance=1e-4 if "32" in dtype else 1e-6)
HALF = [(100 * A).astype(np.float16), (100 * B).astype(np.float16)]
small = np.full(4, 1e-3, np.float16)
product(
    "float16 whose products overflow",
    "dtypes",
    HALF,
    small,
    exact.multiply(HALF, small),
    tolerance=5e-3,
)
LONG = [A.astype(np.longdouble), B.astype(np.longdouble)]
solution("long double", "dtypes", LONG, X.astype(np.longdouble), exact.solve(LONG, X))
product("float32 beside float64", "dtypes", [A.astype(np.float32), B], X, exact.multiply([A, B], X))
product("objects", "dtypes", [A.astype(object), B.astype(object)], X, exact.multiply([A, B], X))
product("text", "dtypes", [np.array([["a", "b"], ["c", "d"]]), B], X)
MASKED = np.ma.masked_array(A, mask=[[False, True], [True, False]])
product("a masked factor", "dtypes", [MASKED, B], X)
solution("a masked factor", "dtypes", [MASKED, B], X)
product("a masked vector", "dtypes", [A, B], np.ma.masked_array(X, mask=[0, 0, 1, 0]))
product("nested lists", "dtypes", [A.tolist(), B.tolist()], X, exact.multiply([A, B], X))

# -- scales and sizes ------------------------------------------------------------------------------

KX, KY = exact.multiply([A, B], X), exact.solve([A, B], X)
product("1e200 and 1e-200", "scales", [1e200 * A, 1e-200 * B], X, KX)
FOUR = [1e150 * A, B, 1e150 * A, 1e-300 * B]
X16 = np.arange(16.0)
product("1e150, 1, 1e150, 1e-300", "scales", FOUR, X16, exact.multiply(FOUR, X16))
product(
    "1e100, 1e-100 and a vector of 1e300", "scales", [1e100 * A, 1e-100 * B], 1e300 * X, 1e300 * KX
)
product(
    "1e-200, 1e-200 and a vector of 1e300", "scales", [1e-200 * A, 1e-50 * B], 1e300 * X, 1e50 * KX
)
solution("1e200 and 1e-200", "scales", [1e200 * A, 1e-200 * B], X, KY)
solution("1e-170 and 1e-170", "scales", [1e-170 * A, 1e-170 * B], 1e-200 * X, 1e140 * KY)
LARGE = [1e150 * A] * 4
determinant("four of 1e150", "scales", LARGE, exact.logdet(LARGE))
determinant("a thousand dimensions", "scales", [3 * np.eye(32), 3 * np.eye(32)], 1024 * math.log(9))
ONE = np.array([[1.5]])
product("70 factors of size 1", "sizes", [ONE] * 70, np.ones(1), [1.5**70])
solution("70 factors of size 1", "sizes", [ONE] * 70, np.ones(1), [1.5**-70])
solution("70 factors of size 1, damped", "sizes", [ONE] * 70, np.ones(1), [1 / (1.5**70 + 2)],
         damping=2.0)  # fmt: skip
determinant("70 factors of size 2", "sizes", [A] * 70, 70 * 2**69 * math.log(5))
add("trace, 70 factors of size 2", "sizes", lambda build: build([A] * 70).trace(), 5.0**70)
HUGE = np.array([str(2**70)] * 2)
add(
    "shape, 70 factors of size 2",
    "sizes",
    lambda build: np.array(list(map(str, build([A] * 70).shape()))),
    HUGE,
)
determinant("21 factors of size 10", "sizes", [2 * np.eye(10)] * 21, 21 * math.log(2) * 10.0**21)
NONE = np.zeros((0, 0))
product("a factor of size 0", "sizes", [NONE, A], np.zeros(0), np.zeros(0))
determinant("a factor of size 0", "sizes", [NONE, A], 0.0)
product("a factor of shape (0, 3)", "sizes", [np.zeros((0, 3)), A], np.ones(6), np.zeros(0))
product("a factor of shape (3, 0)", "sizes", [np.zeros((3, 0)), A], np.zeros(0), np.zeros(6))

# -- shapes ----------------------------------------------------------------------------------------

WIDE = np.arange(1.0, 7).reshape(2, 3)
product(
    "a wide factor", "shapes", [WIDE, A], np.arange(6.0), exact.multiply([WIDE, A], np.arange(6.0))
)
solution("a wide factor", "shapes", [WIDE, A], np.ones(4))
determinant("a wide factor", "shapes", [WIDE, A])
for length in (1, 3, 8):
    product(f"{length} entries for 4", "shapes", [A, B], np.ones(length))
    solution(f"{length} entries for 4", "shapes", [A, B], np.ones(length))
product("a row for a column", "shapes", [A, B], np.ones((1, 4)))
product("weights for a vector", "shapes", [A, B], np.ones((2, 2)))
product("a number for a vector", "shapes", [A, B], 2.0)
product("a list for a vector", "shapes", [A, B], list(X), KX)
add("no factors at all", "shapes", lambda build: build([]).multiply(np.ones(1)), [1.0])
product("a vector as a factor", "shapes", [np.array([1.0, 2.0]), B], X)

# -- memory ----------------------------------------------------------------------------------------

product("negative strides", "memory", [A[::-1, ::-1], B.T], X[::-1],
        exact.multiply([A[::-1, ::-1], B.T], X[::-1]))  # fmt: skip
product("zero strides", "memory", [np.broadcast_to([1.0, 2.0], (2, 2)), B], np.broadcast_to(1.0, 4),
        exact.multiply([[[1, 2], [1, 2]], B], ONES))  # fmt: skip
FLAT_B = np.asfortranarray(rng.standard_normal((4, 3)))
product("columns in Fortran's order", "memory", [A, B], FLAT_B, np.kron(A, B) @ FLAT_B)
FROZEN = A.copy()
FROZEN.flags.writeable = False
product("what cannot be written to", "memory", [FROZEN, B], X, KX)

NEW = np.array([[5.0, 2.0], [2.0, 4.0]])
BOTH = [np.stack([exact.multiply([m, B], X), exact.solve([m, B], X, 0.5)]) for m in (A, NEW)]


def changed(build: Build, used: bool) -> Any:
    """A product and a solution, after a factor was written to."""
    matrix = A.copy()
    made = build([matrix, B])
    if used:
        made.multiply(X)
        made.solve(X, 0.5)
    matrix[:] = NEW
    return np.stack([np.asarray(made.multiply(X)), np.asarray(made.solve(X, 0.5))])


def overwritten(build: Build) -> Any:
    """A product, after the one before was written to."""
    made = build([I2, I2])
    x = X.copy()
    first = np.asarray(made.multiply(x))
    if first.flags.writeable:
        first[:] = 7.0
    return np.stack([np.asarray(made.multiply(x)), x])


add("a factor changed before use", "memory", lambda build: changed(build, False), *BOTH)
add("a factor changed between uses", "memory", lambda build: changed(build, True), *BOTH)
add("the result is written to", "memory", overwritten, np.stack([X, X]))
