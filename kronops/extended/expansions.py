"""Arrays with more digits than their dtype has: unevaluated sums of arrays.

Everything is made of additions, products and matrix products of the dtype itself, over the Array
API. Sums are distilled by error-free transformations, and matrix products are exact, by slices of
so few bits that nothing is rounded.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kronops.backends import backend_of
from kronops.backends.standard import Array, Backend
from kronops.checks import epsilon, is_complex
from kronops.scaling import exponent, rescale, split

__all__ = ["Expansion", "Precision", "distilled", "multiply", "reciprocal", "slices", "total"]


@dataclasses.dataclass(frozen=True)
class Precision:
    """So many ``terms`` of a real ``dtype``."""

    dtype: Any
    terms: int
    eps: float

    @classmethod
    def of_device(cls, backend: Backend, device: Any, terms: int) -> Precision:
        """Of doubles where the library has these on the device, else of single precision."""
        info = backend.xp.__array_namespace_info__()
        known = info.dtypes(device=device, kind="real floating")
        dtype = known.get("float64", known["float32"])
        return cls(dtype, terms, float(backend.xp.finfo(dtype).eps))

    @property
    def rounding(self) -> float:
        """The relative error of sums of this precision."""
        return self.eps**self.terms

    def of(self, array: Array) -> Expansion:
        """An array as it is, its size pulled out where that can be seen."""
        backend = backend_of(array)
        xp = backend.xp
        dtype = xp.result_type(self.dtype, xp.complex64) if is_complex(array) else self.dtype
        array = xp.astype(array, dtype, copy=False)
        return Expansion((array,)).normalised()


@dataclasses.dataclass(frozen=True)
class Expansion:
    """``2**exponent`` times the sum of ``parts``, arrays of one shape, the largest first."""

    parts: tuple[Array, ...]
    exponent: int = 0

    @property
    def xp(self) -> Any:
        """The array namespace."""
        return self.backend.xp

    @property
    def backend(self) -> Backend:
        """The library of the parts."""
        return backend_of(self.parts[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """That of each part."""
        return tuple(self.parts[0].shape)

    @property
    def leading(self) -> Array:
        """The sum of the parts, rounded, without the power of two."""
        return functools.reduce(lambda total, part: part + total, reversed(self.parts))

    def rounded(self, dtype: Any) -> Array:
        """The nearest array of ``dtype``, or nearly so."""
        backend = self.backend
        made = self.leading
        limit = math.frexp(float(backend.xp.finfo(made.dtype).max))[1]
        return backend.xp.astype(rescale(made, split(1.0, self.exponent, limit)), dtype, copy=False)

    def map(self, function: Callable[[Array], Array]) -> Expansion:
        """A linear function that rounds nothing, such as a transposition, of each part."""
        return Expansion(tuple(map(function, self.parts)), self.exponent)

    def cut(self, key: Any) -> Expansion:
        """Entries by slices."""
        return self.map(lambda part: part[key])

    def times_power(self, power: int) -> Expansion:
        """The product with ``2**power``."""
        return Expansion(self.parts, self.exponent + power)

    def normalised(self) -> Expansion:
        """The same, with a largest entry near one where that can be seen."""
        size = exponent(self.parts[0])
        if not size:
            return self
        limit = math.frexp(float(self.xp.finfo(self.parts[0].dtype).max))[1]
        scaled = self.map(lambda part: rescale(part, split(1.0, -size, limit)))
        return scaled.times_power(size)

    def at(self, exponent: int) -> Expansion:
        """The same with another exponent, not far below."""
        power = 2.0 ** max(self.exponent - exponent, -1000)
        return (
            self if power == 1 else Expansion(self.map(lambda part: part * power).parts, exponent)
        )

    def padded(self, terms: int) -> tuple[Array, ...]:
        """The parts, and zeros after them."""
        nothing = self.xp.zeros_like(self.parts[0])
        return self.parts[:terms] + (nothing,) * (terms - len(self.parts))

    def __neg__(self) -> Expansion:
        return self.map(lambda part: -part)

    @property
    def adjoint(self) -> Expansion:
        """Of a matrix."""
        return self.map(self.backend.adjoint)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """``a + b`` and its error, exactly (Knuth, The Art of Computer Programming 2, 4.2.2)."""
    made = a + b
    other = made - a
    return made, (a - (made - other)) + (b - other)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """``a b`` and its error, exactly (Dekker 1971); not both are complex."""
    made = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return made, a_low * b_low - (((made - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _halves(a: Array) -> tuple[Array, Array]:
    bits = round(-math.log2(epsilon(a))) + 1
    wide = a * (2.0 ** math.ceil(bits / 2) + 1.0)
    high = wide - (wide - a)
    return high, a - high


def distilled(parts: Sequence[Array], terms: int) -> tuple[Array, ...]:
    """``terms`` arrays with the sum of ``parts``, as if added with so many times the digits.

    The vector sum is taken again and again of what it left (Ogita, Rump and Oishi, Accurate sum
    and dot product, SIAM J. Sci. Comput. 26, 2005); then once more, for the first sums may cancel.
    """
    for _ in range(2):
        sums: list[Array] = []
        while parts and len(sums) <= terms:
            made, errors = parts[0], []
            for part in parts[1:]:
                made, error = two_sum(made, part)
                errors.append(error)
            sums.append(made)
            parts = errors
        parts = sums
    return tuple(parts[:terms])


def total(expansions: Iterable[Expansion], terms: int) -> Expansion:
    """The sum."""
    summands = list(expansions)
    top = max(summand.exponent for summand in summands)
    parts = [part for summand in summands for part in summand.at(top).parts]
    return Expansion(distilled(parts, terms), top)


def multiply(left: Expansion, right: Expansion, terms: int) -> Expansion:
    """The products of the entries, of shapes that broadcast."""
    xp, power = left.xp, left.exponent + right.exponent
    if is_complex(left.parts[0]) and is_complex(right.parts[0]):
        real, imaginary = right.map(xp.real), right.map(lambda part: xp.imag(part))
        turned = multiply(left, imaginary, terms).map(lambda part: part * 1j)
        return total([multiply(left, real, terms), turned], terms)
    pairs = [
        two_product(a, b)
        for i, a in enumerate(left.parts)
        for j, b in enumerate(right.parts)
        if i + j <= terms
    ]
    return Expansion(distilled([part for pair in pairs for part in pair], terms), power)


def reciprocal(numbers: Expansion, terms: int) -> Expansion:
    """``1 / numbers``, by Newton's iteration."""
    one = Expansion((numbers.xp.ones_like(numbers.parts[0]),))
    made = Expansion((1.0 / numbers.leading,), -numbers.exponent)
    for _ in range(terms):
        rest = total([one, -multiply(numbers, made, terms)], terms)
        made = total([made, multiply(made, rest, terms)], terms)
    return made


def slices(numbers: Expansion, bits: int, count: int) -> list[Array]:
    """Arrays that add up to ``numbers``, slice ``l`` being integer multiples of ``2**(-bits l)``.

    Of numbers up to about one. Where values can be seen, slices that are zero are left out at the
    end. Ozaki, Ogita, Oishi and Rump, Error-free transformations of matrix multiplication by using
    fast routines of matrix multiplication, Numer. Algorithms 59, 2012.
    """
    backend, rest, made = numbers.backend, list(numbers.parts), []
    for level in range(1, count + 1):
        grid = 2.0 ** (bits * level)
        taken = [_rounded(part * grid) / grid for part in rest]
        rest = [part - piece for part, piece in zip(rest, taken, strict=True)]
        made.append(sum(taken[1:], taken[0]))
        if not any(backend.values(part) is None or _any(part) for part in rest):
            break
    return made


def _rounded(numbers: Array) -> Array:
    """To integers; unlike additions of a constant, compilers leave this alone."""
    xp = backend_of(numbers).xp
    if not is_complex(numbers):
        return xp.round(numbers)
    return xp.round(xp.real(numbers)) + 1j * xp.round(xp.imag(numbers))


def _any(array: Array) -> bool:
    return bool(backend_of(array).xp.any(array != 0))
