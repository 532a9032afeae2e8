"""Operators of other libraries, known by their products."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from kronops.backends import backend_of, is_array
from kronops.backends.standard import Array
from kronops.explaining import Account
from kronops.operator import LinearOperator
from kronops.scalars import as_integer
from kronops.vectors import Shape

__all__ = ["ForeignOperator", "Source"]


class Source(ABC):
    """An object of another library as a linear map: what `ForeignOperator` asks of it.

    Two of them are never equal, whatever they are of: JAX compiles by what stands beside arrays.
    """

    library: str
    hermitian = False

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    @property
    def name(self) -> str:
        """For people: the library and the class."""
        return f"{self.library}'s {type(self.thing).__name__}"

    @property
    def shape(self) -> tuple[int, ...]:
        """``(m, n)``; whatever else is refused when the operator is made."""
        sizes = self.thing.shape
        if not isinstance(sizes, (tuple, list)):
            raise TypeError(
                f"the shape of {self.name} is a {type(sizes).__name__}: (m, n) would do"
            )
        return tuple(as_integer(size, f"the shape of {self.name}") for size in sizes)

    @property
    def domain_shape(self) -> tuple[int, ...]:
        """The shape of unflattened vectors that go in."""
        return self.shape[1:]

    @property
    def range_shape(self) -> tuple[int, ...]:
        """The shape of unflattened vectors that come out."""
        return self.shape[:1]

    @property
    def dtype(self) -> Any:
        """Of the entries, as the library calls it."""
        return self.thing.dtype

    @property
    def arrays(self) -> Sequence[Array]:
        """What the object is made of, as far as its library tells."""
        return ()

    @abstractmethod
    def home(self) -> Array:
        """Where no arrays are known: one of the library and device that the products take."""

    def of(self, arrays: Sequence[Array]) -> Any:
        """The object made of other arrays in the places of its own."""
        return self.thing

    @abstractmethod
    def matmat(self, thing: Any, x: Array) -> Array:
        """The product with ``x`` ``(n, k)``."""

    @abstractmethod
    def rmatmat(self, thing: Any, x: Array) -> Array:
        """The adjoint's product with ``x`` ``(m, k)``; `NotImplementedError` if there is none."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class ForeignOperator(LinearOperator):
    """An operator of another library, known by its products; `aslinearoperator` makes it.

    Notes
    -----
    Of linear_operator's, CoLA's and lineax's operators the arrays are copied and known: they are
    differentiated, traced and cast as those of any operator. Of all others kronops knows products
    alone, and what they are made of must not change. Neither can be brought to another library.

    What needs more than products (solves, determinants, decompositions) writes the matrix out, with
    a `DensificationWarning`; `kronops.linalg.iterative_solve` solves by products alone.

    Examples
    --------
    >>> import numpy as np, scipy.sparse, kronops
    >>> laplacian = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(3, 3))
    >>> op = kronops.kron(kronops.aslinearoperator(laplacian), np.eye(2))
    >>> op.multiply(np.ones((3, 2)))
    array([[1., 1.],
           [0., 0.],
           [1., 1.]])
    """

    arrays: tuple[Array, ...]
    like: Array  # without entries: the library, the device, and the dtype where no array has it
    source: Source
    home: str  # the library whose arrays the products take
    _internal = ("arrays", "home", "like", "source")

    def __init__(self, source: Source, like: Array | None = None) -> None:
        if len(source.shape) != 2:
            raise ValueError(
                f"{source.name} has shape {source.shape}: one matrix is needed, not a stack"
            )
        arrays = tuple(backend_of(array).snapshot(array) for array in source.arrays)
        place = like if like is not None else next(iter(arrays), None)
        place = source.home() if place is None else place
        backend = backend_of(place)
        dtype = source.dtype if like is None else like.dtype
        if not (dtype and backend.kind(dtype).endswith("floating")):
            dtype = backend.xp.__array_namespace_info__().default_dtypes()["real floating"]
        nothing = backend.xp.zeros((0,), dtype=dtype, device=backend.device(place))
        fields = {"arrays": arrays, "like": nothing, "source": source, "home": backend.name}
        for name, content in fields.items():
            object.__setattr__(self, name, content)
        self._check_one_home()

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.source.shape
        return m, n

    @property
    def domain_shape(self) -> Shape:
        return self.source.domain_shape

    @property
    def range_shape(self) -> Shape:
        return self.source.range_shape

    @property
    def hermitian(self) -> bool:
        return self.source.hermitian

    def _matmat(self, x: Array) -> Array:
        return self._product(self.source.matmat, self.shape[0], x)

    def _adjoint(self) -> LinearOperator:
        return self if self.hermitian else super()._adjoint()

    def _rmatmat(self, x: Array) -> Array:
        try:
            return self._product(self.source.rmatmat, self.shape[1], x)
        except NotImplementedError as error:
            raise TypeError(
                f"{self.source.name} has no adjoint, which this operation needs: give it one there "
                f"(rmatvec), or use what needs products alone"
            ) from error

    def _product(self, product: Callable[[Any, Array], Array], size: int, x: Array) -> Array:
        """``product`` of stacks ``(..., n, k)``; of complex vectors by their parts."""
        xp = self.backend.xp
        dtype = xp.result_type(x.dtype, self.dtype)
        if self.backend.kind(x.dtype) == "complex floating" and not self._complex:
            parts = [
                xp.astype(self._product(product, size, part(x)), dtype)
                for part in (xp.real, xp.imag)
            ]
            return parts[0] + 1j * parts[1]
        if 0 in x.shape or not size:
            shape = (*x.shape[:-2], size, x.shape[-1])
            return xp.zeros(shape, dtype=dtype, device=self.device)
        # A copy, for it is another's product that sees it, and may write to it.
        rolled = xp.moveaxis(xp.astype(x, dtype, copy=True), -2, 0)
        made = product(self._thing(dtype), xp.reshape(rolled, (rolled.shape[0], -1)))
        made = self._checked(made, size, rolled)
        made = xp.reshape(xp.astype(made, dtype, copy=True), (size, *rolled.shape[1:]))
        return xp.moveaxis(made, 0, -2)

    def _thing(self, dtype: Any) -> Any:
        """The object, with its arrays in the precision of a wider vector."""
        backend = self.backend
        if backend.name != self.home:
            raise TypeError(
                f"{self.source.name} takes arrays of {self.home}, and has been brought to "
                f"{backend.name}: only its matrix can be (op.to_dense())"
            )
        if dtype == self.dtype or not self.arrays:
            return self.source.of(self.arrays)
        real = {"real floating": backend.real_dtype(dtype), "complex floating": dtype}
        cast = [
            backend.xp.astype(array, real.get(self._kind(array), array.dtype), copy=False)
            for array in self.arrays
        ]
        return self.source.of(cast)

    def _checked(self, made: Any, size: int, x: Array) -> Array:
        """A plain array; what is no product is refused: of another library, kind or shape."""
        what = f"a product of {self.source.name}"
        if not is_array(made):
            raise TypeError(f"{what} is a {type(made).__name__}: an array would do")
        if backend_of(made) is not self.backend:
            raise TypeError(
                f"{what} is an array of {backend_of(made).name}, not of {self.home}: "
                f"aslinearoperator(…, like=array) says which arrays it takes"
            )
        made = self.backend.plain(made, what)
        kind = self.backend.kind(made.dtype)
        if kind == "other" or (kind == "complex floating" and not self._complex):
            raise TypeError(
                f"{what} has dtype {made.dtype}, and the operator {self.dtype}: real numbers would "
                f"do, or an operator that says it is complex (by its dtype, or like=array)"
            )
        wanted = size, math.prod(x.shape[1:])
        if tuple(made.shape) != wanted:
            raise ValueError(f"{what} has shape {tuple(made.shape)}: {wanted} would do")
        return made

    def _account(self, operation: str, columns: int) -> Account:
        if operation != "multiply":
            return super()._account(operation, columns)
        return Account(self, f"that of {self.source.name}", math.nan, math.nan)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, of={self.source.name})"
