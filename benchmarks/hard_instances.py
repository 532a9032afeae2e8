"""Forward errors of solves on ill-conditioned instances, of kronops and of its peers; and the cost.

    python benchmarks/hard_instances.py

Each of the first rows is a system ``(A1 ⊗ … ⊗ AN + λ I) x = b`` (or of a Kronecker sum) and the
error ``max |x - x*| / max |x*|`` of each library in units of rounding, ``x*`` by mpmath in 250
digits from the entries as they are stored. A library that raises has the error's name instead. Then
instances are drawn twenty times: the error of each library over that of the best of the others, its
median and its worst, tells luck from skill. Then later solves are timed with matrices of condition
numbers below and beyond ``1/√eps``. The last rows compare the times of solves with and without
``refine=True``: until the first solution, factorisations included, and for each later one.
Ratios are how many times refinement costs.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from scripts import table

import kronops
from kronops.bench.measuring import medians_in_turns
from kronops.bench.peers import Unsupported, version
from kronops.factorisation import factorise

DIGITS = 250


class Instance(NamedTuple):
    """``⊗ factors + damping·I``, or the Kronecker sum where ``summed``."""

    name: str
    factors: list[np.ndarray]
    damping: float = 0.0
    summed: bool = False

    @property
    def right_hand_side(self) -> np.ndarray:
        n = int(np.prod([len(factor) for factor in self.factors]))
        return np.random.default_rng(n).standard_normal(n).astype(self.factors[0].dtype)

    @property
    def symmetric(self) -> bool:
        return all(np.array_equal(factor, factor.T) for factor in self.factors)

    @property
    def matrix(self) -> np.ndarray:
        if self.summed:
            sizes = [len(factor) for factor in self.factors]
            terms = [
                functools.reduce(np.kron, [f if i == j else np.eye(n) for j, n in enumerate(sizes)])
                for i, f in enumerate(self.factors)
            ]
            made = sum(terms)
        else:
            made = functools.reduce(np.kron, self.factors)
        return made + self.damping * np.eye(len(made), dtype=made.dtype)


# -- instances -------------------------------------------------------------------------------------


def hilbert(n: int) -> np.ndarray:
    return scipy.linalg.hilbert(n)


def vandermonde(n: int) -> np.ndarray:
    return np.vander(np.linspace(0.1, 1.0, n))


def gram(n: int) -> np.ndarray:
    return vandermonde(n).T @ vandermonde(n)


def spectrum(values: Sequence[float], seed: int, symmetric: bool = True) -> np.ndarray:
    """A matrix with these singular values, or eigenvalues, in random bases."""
    rng, n = np.random.default_rng(seed), len(values)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    made = (left * np.asarray(values)) @ (left.T if symmetric else right)
    return (made + made.T) / 2 if symmetric else made


def conditioned(n: int, condition: float, seed: int, symmetric: bool = True) -> np.ndarray:
    return spectrum(np.geomspace(1.0, 1.0 / condition, n), seed, symmetric)


def cancelling(gap: float) -> np.ndarray:
    """Symmetric, with the eigenvalues 1 and about ``gap - 1``, among others."""
    return spectrum([1.0, gap - 1.0, 0.5, 0.25], 11)


def instances() -> Iterator[Instance]:
    for condition in (1e8, 1e12, 1e15, 1e17):
        shown = f"{condition:.0e}"
        root = condition**0.5
        yield Instance(f"general, {shown}", [conditioned(12, condition, 1, False)])
        yield Instance(f"symmetric, {shown}", [conditioned(12, condition, 2)])
        two = [conditioned(8, root, 3, False), conditioned(6, root, 4, False)]
        yield Instance(f"two factors, {shown} together", two)
        one = [conditioned(8, condition, 5, False), conditioned(6, 10.0, 6, False)]
        yield Instance(f"two factors, {shown} in one", one)
        third = condition ** (1 / 3)
        three = [conditioned(n, third, 7 + n, False) for n in (5, 4, 3)]
        yield Instance(f"three factors, {shown} together", three)
        damped = [conditioned(8, 1e8, 8), conditioned(6, 1e8, 9)]
        yield Instance(f"exact damping, {shown}", damped, 1.0 / condition)
        sums = [conditioned(8, 1e20, 10), conditioned(6, 1e20, 12)]
        yield Instance(f"Kronecker sum, {shown}", sums, 1.0 / condition, summed=True)
    for n in (8, 10, 12):
        yield Instance(f"Hilbert {n}", [hilbert(n)])
        yield Instance(f"Hilbert {n} x Vandermonde 4", [hilbert(n), vandermonde(4)])
    yield Instance("Vandermonde 12", [vandermonde(12)])
    yield Instance("Gram of Vandermonde 9", [gram(9)])
    yield Instance("Grams of Vandermonde 6 x 4", [gram(6), gram(4)])
    yield Instance("Hilbert 6 x 5, damping 1e-17", [hilbert(6), hilbert(5)], 1e-17)
    yield Instance("Gram 8 x Hilbert 5, damping 1e-15", [gram(8), hilbert(5)], 1e-15)
    ones = [np.ones((6, 6)), np.ones((5, 5))]
    yield Instance("rank one x rank one, damping 1e-14", ones, 1e-14)
    yield Instance("indefinite, nearly cancelled by damping", [cancelling(1e-3)] * 2, 0.999)
    yield Instance("Kronecker sum, nearly cancelled", [cancelling(1e-12)] * 2, summed=True)
    general = [conditioned(6, 1e4, 13, False), conditioned(5, 1e4, 14, False)]
    yield Instance("general factors, exact damping 1e-6", general, 1e-6)
    big = [1e150 * hilbert(6), 1e-150 * vandermonde(5)]
    yield Instance("sizes of 1e150 and 1e-150", big)
    small = [1e-150 * hilbert(5), 1e150 * hilbert(4), 1e-150 * np.eye(2), 1e150 * np.eye(2)]
    yield Instance("four factors of 1e±150", small)
    graded = [hilbert(5) * np.geomspace(1, 1e-30, 5), hilbert(4)]
    yield Instance("columns graded to 1e-30", graded)
    yield Instance("graded spectra, 1e30 together", [gram(9), hilbert(12)])
    single = [hilbert(6).astype(np.float32), conditioned(4, 10.0, 15).astype(np.float32)]
    yield Instance("single precision, Hilbert 6", single)
    yield Instance("single precision, damping 1e-7", single, 1e-7)


def draws(seed: int) -> Iterator[Instance]:
    """Instances of the kinds above in other bases."""
    seeds = range(10 * seed + 100, 10 * seed + 110)
    for condition in (1e8, 1e12):
        shown, root = f"{condition:.0e}", condition**0.5
        yield Instance(f"general, {shown}", [conditioned(12, condition, seeds[0], False)])
        yield Instance(f"symmetric, {shown}", [conditioned(12, condition, seeds[1])])
        two = [conditioned(8, root, seeds[2], False), conditioned(6, root, seeds[3], False)]
        yield Instance(f"two factors, {shown} together", two)
        damped = [conditioned(8, 1e8, seeds[4]), conditioned(6, 1e8, seeds[5])]
        yield Instance(f"exact damping, {shown}", damped, 1.0 / condition)
        sums = [conditioned(8, 1e20, seeds[6]), conditioned(6, 1e20, seeds[7])]
        yield Instance(f"Kronecker sum, {shown}", sums, 1.0 / condition, summed=True)
    narrow = [conditioned(8, 1e3, s, False).astype(np.float32) for s in seeds[8:10]]
    yield Instance("single precision, 1e+06", narrow)


def exact_solution(instance: Instance, digits: int = DIGITS) -> tuple[list[Any], float]:
    """The solution, and the condition number in the 1-norm."""
    import mpmath

    mpmath.mp.dps = digits
    factors = [mpmath.matrix(factor.astype(float).tolist()) for factor in instance.factors]
    if instance.summed:
        sizes = [factor.rows for factor in factors]
        terms = []
        for i, factor in enumerate(factors):
            parts = [factor if i == j else mpmath.eye(n) for j, n in enumerate(sizes)]
            terms.append(functools.reduce(_kron, parts))
        matrix = functools.reduce(lambda a, b: a + b, terms)
    else:
        matrix = functools.reduce(_kron, factors)
    matrix = matrix + mpmath.mpf(instance.damping) * mpmath.eye(matrix.rows)
    inverse = matrix**-1
    b = mpmath.matrix(instance.right_hand_side.astype(float).tolist())
    condition = mpmath.mnorm(matrix, 1) * mpmath.mnorm(inverse, 1)
    return list(inverse * b), float(condition)


def _kron(left: Any, right: Any) -> Any:
    import mpmath

    made = mpmath.matrix(left.rows * right.rows, left.cols * right.cols)
    for i in range(made.rows):
        for j in range(made.cols):
            (p, r), (q, s) = divmod(i, right.rows), divmod(j, right.cols)
            made[i, j] = left[p, q] * right[r, s]
    return made


def units_of_error(got: np.ndarray, want: list[Any], eps: float) -> float:
    """``max |x - x*| / max |x*|`` in units of rounding."""
    import mpmath

    if not np.all(np.isfinite(got)):
        return float("inf")
    errors = [abs(mpmath.mpf(float(x)) - y) for x, y in zip(got, want, strict=True)]
    return float(max(errors) / max(map(abs, want)) / eps)


# -- libraries -------------------------------------------------------------------------------------


def operator(instance: Instance, refine: bool = False) -> Any:
    if instance.summed:
        op: Any = kronops.KroneckerSumOperator(instance.factors)
    else:
        op = kronops.kron(*instance.factors)
    return op.damped(instance.damping, refine=refine)


def ours(instance: Instance) -> np.ndarray:
    return operator(instance).solve(instance.right_hand_side)


def ours_refined(instance: Instance) -> np.ndarray:
    return operator(instance, refine=True).solve(instance.right_hand_side)


def numpy_dense(instance: Instance) -> np.ndarray:
    return np.linalg.solve(instance.matrix, instance.right_hand_side)


def scipy_dense(instance: Instance) -> np.ndarray:
    kind = "sym" if instance.symmetric else "gen"
    return scipy.linalg.solve(instance.matrix, instance.right_hand_side, assume_a=kind)


def numpy_factors(instance: Instance) -> np.ndarray:
    """By hand: factor by factor, or by eigenvectors."""
    sizes = [len(factor) for factor in instance.factors]
    x = instance.right_hand_side.reshape(sizes)
    if not instance.damping and not instance.summed:
        for axis, factor in enumerate(instance.factors):
            x = _along(axis, x, functools.partial(np.linalg.solve, factor))
        return x.reshape(-1)
    if not instance.symmetric:
        raise Unsupported("for symmetric factors")
    pairs = [np.linalg.eigh(factor) for factor in instance.factors]
    for axis, (_, basis) in enumerate(pairs):
        x = _along(axis, x, basis.T.__matmul__)
    combine = np.add.outer if instance.summed else np.multiply.outer
    x = x / (functools.reduce(combine, [values for values, _ in pairs]) + instance.damping)
    for axis, (_, basis) in enumerate(pairs):
        x = _along(axis, x, basis.__matmul__)
    return x.reshape(-1)


def _along(axis: int, x: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    moved = np.moveaxis(x, axis, 0)
    made = function(moved.reshape(len(moved), -1))
    return np.moveaxis(made.reshape(moved.shape), 0, axis)


def linear_operator(instance: Instance) -> np.ndarray:
    import torch
    from linear_operator import to_linear_operator
    from linear_operator.operators import KroneckerProductLinearOperator

    if instance.summed:
        raise Unsupported("for Kronecker products")
    tensors = [to_linear_operator(torch.from_numpy(factor)) for factor in instance.factors]
    op = KroneckerProductLinearOperator(*tensors)
    if instance.damping:
        op = op.add_diagonal(torch.tensor(instance.damping, dtype=op.dtype))
    return op.solve(torch.from_numpy(instance.right_hand_side)[:, None])[:, 0].numpy()


def cola(instance: Instance) -> np.ndarray:
    import torch
    from cola.linalg import inv
    from cola.ops import Dense, Kronecker, KronSum, ScalarMul, Sum

    parts = [Dense(torch.from_numpy(factor)) for factor in instance.factors]
    op = (KronSum if instance.summed else Kronecker)(*parts)
    if instance.damping:
        op = Sum(op, ScalarMul(instance.damping, op.shape, op.dtype, op.device))
    return (inv(op) @ torch.from_numpy(instance.right_hand_side)).numpy()


def curvlinops(instance: Instance) -> np.ndarray:
    """A linear layer's block, by Cholesky factors, or eigenvectors where it is damped."""
    from hostile_libraries import by_curvlinops

    if instance.summed or not instance.symmetric or len(instance.factors) != 2:
        raise Unsupported("for products of two symmetric factors")
    return by_curvlinops(instance.factors).solve(instance.right_hand_side, instance.damping).numpy()


def pykronecker(instance: Instance) -> np.ndarray:
    from pykronecker import KroneckerProduct

    if instance.summed or instance.damping:
        raise Unsupported("for Kronecker products without damping")
    return np.asarray(KroneckerProduct(instance.factors).inv() @ instance.right_hand_side)


def pylops(instance: Instance) -> np.ndarray:
    import pylops as library

    if instance.summed or instance.damping:
        raise Unsupported("for Kronecker products without damping")
    parts = [library.MatrixMult(factor, dtype=factor.dtype) for factor in instance.factors]
    op = functools.reduce(library.Kronecker, parts)
    return op.div(instance.right_hand_side, niter=4 * op.shape[0])


LIBRARIES: dict[str, tuple[str, Callable[[Instance], np.ndarray]]] = {
    "kronops": ("numpy", ours),
    "kronops refine=True": ("numpy", ours_refined),
    "NumPy, dense": ("numpy", numpy_dense),
    "SciPy, dense": ("scipy", scipy_dense),
    "NumPy, by factors": ("numpy", numpy_factors),
    "linear_operator": ("linear_operator", linear_operator),
    "CoLA": ("cola-ml", cola),
    "curvlinops": ("curvlinops-for-pytorch", curvlinops),
    "pykronecker": ("pykronecker", pykronecker),
    "PyLops": ("pylops", pylops),
}


def errors_of(instance: Instance) -> dict[str, Any]:
    want, condition = exact_solution(instance)
    eps = float(np.finfo(instance.factors[0].dtype).eps)
    row: dict[str, Any] = {"instance": instance.name, "condition": condition}
    for name, (needed, solve) in LIBRARIES.items():
        if version(needed) is None:
            continue
        with warnings.catch_warnings(record=True) as said, np.errstate(all="ignore"):
            warnings.simplefilter("always")
            try:
                row[name] = units_of_error(np.asarray(solve(instance)), want, eps)
            except Unsupported as reason:
                row[name] = f"not {reason}"
            except Exception as error:  # of any library, for any reason: it gave no answer
                row[name] = type(error).__name__
        if any(issubclass(warning.category, kronops.LinAlgWarning) for warning in said):
            row[f"{name} warns"] = True
    return row


EVERYWHERE = ("kronops", "NumPy, dense", "SciPy, dense", "NumPy, by factors")


def spread(seeds: int = 20) -> Iterator[dict[str, Any]]:
    """How far behind the best of the others each library is, over many draws."""
    behind: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        for instance in draws(seed):
            kind = behind.setdefault(instance.name, {name: [] for name in EVERYWHERE})
            for name, ratio in _behind(instance).items():
                kind[name].append(ratio)
    for name, ratios in behind.items():
        row: dict[str, Any] = {"drawn": name}
        for library, found in ratios.items():
            row[f"{library}, median"] = float(np.median(found)) if found else None
            row[f"{library}, worst"] = max(found, default=None)
        yield row


def _behind(instance: Instance) -> dict[str, float]:
    """The error of each library over the least of the others', a unit of rounding at least."""
    want, _ = exact_solution(instance, digits=60)
    eps = float(np.finfo(instance.factors[0].dtype).eps)
    errors = {}
    for name in EVERYWHERE:
        with contextlib.suppress(Unsupported), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = LIBRARIES[name][1](instance)
            errors[name] = max(1.0, units_of_error(np.asarray(made), want, eps))
    return {
        name: error / min(other for key, other in errors.items() if key != name)
        for name, error in errors.items()
    }


# -- the cost --------------------------------------------------------------------------------------


def costs() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for sizes in ((100,), (400,), (100, 100), (400, 100)):
        for damping in (0.0, 1e-3):
            factors = [conditioned(n, 1e6, n) for n in sizes]
            b = rng.standard_normal(int(np.prod(sizes)))

            def made(refine: bool, factors: Any = factors, damping: float = damping) -> Any:
                return kronops.kron(*factors).damped(damping).inverse(refine=refine)

            kept = made(False), made(True)
            first = medians_in_turns(lambda: made(False) @ b, lambda: made(True) @ b, rounds=3)  # noqa: B023
            later = medians_in_turns(lambda: kept[0] @ b, lambda: kept[1] @ b, rounds=3)  # noqa: B023
            yield {
                "sizes": list(sizes),
                "damping": damping,
                "first": first[0],
                "first, refined": first[1],
                "first, ratio": first[2],
                "later": later[0],
                "later, refined": later[1],
                "later, ratio": later[2],
            }


def costs_of_series() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(1)
    for sizes in ((30, 30), (100, 30), (100, 100)):
        sides = []
        for n in sizes:
            c0, lag = conditioned(n, 1e6, n), rng.standard_normal((n, n))
            lower = np.linalg.cholesky(c0)
            sides.append((c0, lower @ (0.8 * lag / np.linalg.norm(lag, 2)) @ lower.T))
        b = rng.standard_normal(math.prod(sizes))
        for option in (1, 2):

            def made(refine: bool, sides: Any = sides, option: int = option) -> Any:
                return kronops.SeriesOperator(*sides, 10, option).inverse(refine=refine)

            kept = made(False), made(True)
            first = medians_in_turns(lambda: made(False) @ b, lambda: made(True) @ b, rounds=3)  # noqa: B023
            later = medians_in_turns(lambda: kept[0] @ b, lambda: kept[1] @ b, rounds=3)  # noqa: B023
            row: dict[str, Any] = {"series of sizes": list(sizes), "option": option}
            for what, (plain, refined, ratio) in (("first", first), ("later", later)):
                row |= {what: plain, f"{what}, refined": refined, f"{what}, ratio": ratio}
            yield row


def costs_of_the_step() -> Iterator[dict[str, Any]]:
    """Later solves with matrices on this side of ``1/√eps``, and beyond, with the step."""
    rng = np.random.default_rng(2)
    for n in (50, 200, 1000):
        plain, refined = (kronops.DenseOperator(conditioned(n, kappa, n)) for kappa in (1e6, 1e9))
        for count in (1, 16, n):
            b = rng.standard_normal((n, count))
            ours = functools.partial(plain.solve, b), functools.partial(refined.solve, b)
            times = medians_in_turns(*ours, rounds=7)
            named = zip(("1e+06", "1e+09", "ratio"), times, strict=True)
            yield {"rows by condition": n, "right-hand sides": count, **dict(named)}


def costs_of_double() -> Iterator[dict[str, Any]]:
    """Single precision: ours, by factors in double, and SciPy's Cholesky, in single throughout."""
    for n in (32, 64, 128, 256, 512, 1024):
        matrix = conditioned(n, 1e6, n).astype(np.float32)
        matrix = (matrix + matrix.T) / 2 + 1e-5 * np.eye(n, dtype=np.float32)
        b = np.random.default_rng(n).standard_normal((n, n)).astype(np.float32)
        op = kronops.DenseOperator(matrix, "positive definite")
        factor = scipy.linalg.cho_factor(matrix, lower=True)
        theirs = (
            functools.partial(scipy.linalg.cho_factor, matrix, lower=True),
            functools.partial(scipy.linalg.cho_solve, factor, b),
        )
        ours = (
            functools.partial(factorise, matrix, True, True, "matrix"),
            functools.partial(op.solve, b),
        )
        row: dict[str, Any] = {"rows in single precision": n}
        for what, our, their in zip(("factorisation", "solve"), ours, theirs, strict=True):
            row[f"{what}, SciPy"], row[f"{what}, kronops"] = cpu_seconds(their), cpu_seconds(our)
            row[f"{what}, ratio"] = row[f"{what}, kronops"] / row[f"{what}, SciPy"]
        yield row


def cpu_seconds(function: Callable[[], Any], times: int = 15) -> float:
    """The least time of a processor, which others that use it do not lengthen."""
    function()
    measured = []
    for _ in range(times):
        start = time.process_time()
        function()
        measured.append(time.process_time() - start)
    return min(measured)


def measure() -> Iterator[dict[str, Any]]:
    yield from map(errors_of, instances())
    yield from spread()
    yield from costs_of_the_step()
    yield from costs_of_double()
    yield from costs()
    yield from costs_of_series()


DISTRIBUTIONS = (
    *("numpy", "scipy", "torch", "linear_operator"),
    *("cola-ml", "curvlinops-for-pytorch", "pykronecker", "pylops", "mpmath"),
)

if __name__ == "__main__":
    table("hard instances", __doc__, measure, DISTRIBUTIONS)
