"""`aslinearoperator`: operators of other libraries as those of kronops.

They are known by the names of their classes. No library is imported that is not there already:
whoever has an object of it has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from kronops.backends import backend_named, backend_of, is_array
from kronops.backends.standard import Array
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.foreign import ForeignOperator, Source

__all__ = ["aslinearoperator"]


def aslinearoperator(obj: Any, like: Array | None = None) -> LinearOperator:
    """An operator of another library as a factor, a block, a term, or a system of kronops.

    Parameters
    ----------
    obj : operator, matrix or array
        A ``LinearOperator`` of `scipy.sparse.linalg`, cupyx, PyLops, linear_operator (and so of
        GPyTorch), CoLA or curvlinops; a lineax operator of flat or shaped arrays; a sparse matrix
        of SciPy or cupyx; an array; any other object with ``shape`` and the methods ``matvec``
        and ``rmatvec``, or ``matmat`` and ``rmatmat``.
    like : array, optional
        One of the library, device and dtype that products take and give, where ``obj`` does not
        say: for an object of no known library it is needed, for PyLops' and SciPy's it is
        NumPy's unless it is given. Where it is given its dtype counts, whatever the dtype that
        ``obj`` says it has. Its entries do not matter.

    Returns
    -------
    LinearOperator
        Operators of kronops as they are, and what was once made of one; arrays as a
        `DenseOperator`; all else as a `ForeignOperator`, with the adjoint where the object has one.

    Raises
    ------
    TypeError
        No such object; one that is linear over the reals alone; ``like`` missing.
    ValueError
        A stack of matrices.

    Examples
    --------
    >>> import numpy as np, scipy.sparse.linalg, kronops
    >>> shift = scipy.sparse.linalg.LinearOperator(
    ...     (3, 3), matvec=lambda x: np.roll(x, 1), rmatvec=lambda x: np.roll(x, -1), dtype=float
    ... )
    >>> op = kronops.block_diag(kronops.aslinearoperator(shift), np.eye(2))
    >>> op @ np.arange(5.0)
    array([2., 0., 1., 3., 4.])
    >>> op.H @ np.arange(5.0)
    array([1., 2., 0., 3., 4.])
    """
    if isinstance(obj, LinearOperator):
        return obj
    if is_array(obj):
        return DenseOperator(obj)
    names = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(obj).__mro__]
    if ("kronops", "KronopsLinearOperator") in names:  # of kronops.lineax or .linear_operator
        made: LinearOperator = obj.op
        return made
    kind = next((_SOURCES[name] for name in names if name in _SOURCES), None)
    if kind is None:
        _require_products(obj, like)
        kind = _Products
    return ForeignOperator(kind(obj), like)


def _require_products(obj: Any, like: Array | None) -> None:
    what = f"obj is a {type(obj).__module__}.{type(obj).__qualname__}"
    if not (hasattr(obj, "shape") and (hasattr(obj, "matvec") or hasattr(obj, "matmat"))):
        raise TypeError(
            f"{what}: an operator of SciPy, cupyx, PyLops, linear_operator, CoLA, curvlinops or "
            f"lineax, a sparse matrix, an array, or an object with shape and matvec would do"
        )
    if like is None:
        raise TypeError(
            f"{what}, of no library that is known: say which arrays it takes, "
            f"aslinearoperator(obj, like=array)"
        )


class _Products(Source):
    """SciPy's protocol: ``matvec`` and ``rmatvec``, and ``matmat`` and ``rmatmat`` if it has."""

    @property
    def library(self) -> str:  # type: ignore[override]
        return type(self.thing).__module__.partition(".")[0]

    @property
    def dtype(self) -> Any:
        return getattr(self.thing, "dtype", None)

    def home(self) -> Array:
        return np.zeros(0)

    def matmat(self, thing: Any, x: Array) -> Array:
        return _columns(thing, ("matmat", "matvec"), x)

    def rmatmat(self, thing: Any, x: Array) -> Array:
        return _columns(thing, ("rmatmat", "rmatvec"), x)


def _columns(thing: Any, methods: tuple[str, str], x: Array) -> Array:
    of_matrix, of_vector = (getattr(thing, name, None) for name in methods)
    if of_matrix is not None:
        return of_matrix(x)
    if of_vector is None:
        raise NotImplementedError  # as SciPy says it; `ForeignOperator` makes it a `TypeError`
    columns = [of_vector(x[:, k]) for k in range(x.shape[1])]
    for column in columns:
        if not is_array(column) or column.ndim != 1:
            said = f"shape {tuple(column.shape)}" if is_array(column) else type(column).__name__
            raise TypeError(f"matvec of {type(thing).__name__} gave {said}: an array (m,) would do")
    return backend_of(x).xp.stack(columns, axis=1)


class _Scipy(_Products):
    """Its `LinearOperator`."""

    @property
    def dtype(self) -> Any:
        return np.dtype(self.thing.dtype)

    def rmatmat(self, thing: Any, x: Array) -> Array:
        try:
            return thing.rmatmat(x)
        except TypeError:  # SciPy calls None where there is no rmatvec
            thing.rmatvec(x[:, 0])  # and says so here
            raise


class _Pylops(_Scipy):
    """Vectors have its dimensions."""

    def __init__(self, thing: Any) -> None:
        if not getattr(thing, "clinear", True):
            raise TypeError(
                f"obj is PyLops' {type(thing).__name__}, which is linear over the reals alone "
                f"(clinear=False): complex numbers have no such operator"
            )
        super().__init__(thing)

    @property
    def domain_shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.thing.dims))

    @property
    def range_shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.thing.dimsd))


class _Cupyx(_Scipy):
    def home(self) -> Array:
        return backend_named("cupy").xp.zeros(0)


class _Sparse(Source):
    """A copy of a sparse matrix of SciPy or cupyx."""

    def __init__(self, thing: Any) -> None:
        super().__init__(thing.copy())

    @property
    def library(self) -> str:  # type: ignore[override]
        return type(self.thing).__module__.partition(".")[0]

    @property
    def dtype(self) -> Any:
        return np.dtype(self.thing.dtype)

    def home(self) -> Array:
        library = {"scipy": "numpy", "cupyx": "cupy"}[self.library]
        return backend_named(library).xp.zeros(0)

    def matmat(self, thing: Any, x: Array) -> Array:
        return thing @ x

    def rmatmat(self, thing: Any, x: Array) -> Array:
        return (thing.T @ x.conj()).conj()


class _LinearOperator(Source):
    """Those of the package linear_operator, which are GPyTorch's."""

    library = "linear_operator"

    @property
    def arrays(self) -> Sequence[Array]:
        return tuple(self.thing.representation())

    def home(self) -> Array:
        return sys.modules["torch"].zeros(0, dtype=self.thing.dtype, device=self.thing.device)

    def of(self, arrays: Sequence[Array]) -> Any:
        return self.thing.representation_tree()(*arrays)

    def matmat(self, thing: Any, x: Array) -> Array:
        return thing._matmul(x)  # for its subclasses; `matmul` itself is unknown to torch.func

    def rmatmat(self, thing: Any, x: Array) -> Array:
        return thing.mT._matmul(x.conj()).conj()


class _Cola(Source):
    library = "CoLA"

    def __init__(self, thing: Any) -> None:
        super().__init__(thing)
        self._parts, self._made = thing.flatten()
        self.hermitian = thing.isa(sys.modules["cola"].SelfAdjoint)

    @property
    def arrays(self) -> Sequence[Array]:
        return [part for part in self._parts if is_array(part)]

    def home(self) -> Array:
        thing = self.thing
        return thing.xnp.zeros((0,), dtype=thing.dtype, device=thing.device)

    def of(self, arrays: Sequence[Array]) -> Any:
        return self._made(_replaced(self._parts, arrays))

    def matmat(self, thing: Any, x: Array) -> Array:
        return thing @ x

    def rmatmat(self, thing: Any, x: Array) -> Array:
        return thing.H @ x


class _Curvlinops(Source):
    """PyTorch's curvature: its parameters and data are not followed."""

    library = "curvlinops"

    def __init__(self, thing: Any) -> None:
        super().__init__(thing)
        self.hermitian = bool(thing.SELF_ADJOINT)

    def home(self) -> Array:
        return sys.modules["torch"].zeros(0, dtype=self.thing.dtype, device=self.thing.device)

    def matmat(self, thing: Any, x: Array) -> Array:
        return thing @ x

    def rmatmat(self, thing: Any, x: Array) -> Array:
        return thing.adjoint() @ x


class _Lineax(Source):
    """Of arrays of any shape, which are the unflattened vectors; not of other structures."""

    library = "lineax"

    def __init__(self, thing: Any) -> None:
        super().__init__(thing)
        for structure in (thing.in_structure(), thing.out_structure()):
            if not hasattr(structure, "shape"):
                raise TypeError(
                    f"obj is lineax's {type(thing).__name__} of vectors that are a "
                    f"{type(structure).__name__}: one that maps an array to an array is needed"
                )
        self._parts, self._tree = sys.modules["jax"].tree.flatten(thing)
        real = np.dtype(self.dtype).kind != "c"
        self.hermitian = real and bool(sys.modules["lineax"].is_symmetric(thing))

    @property
    def shape(self) -> tuple[int, ...]:
        return int(self.thing.out_size()), int(self.thing.in_size())

    @property
    def domain_shape(self) -> tuple[int, ...]:
        return tuple(self.thing.in_structure().shape)

    @property
    def range_shape(self) -> tuple[int, ...]:
        return tuple(self.thing.out_structure().shape)

    @property
    def dtype(self) -> Any:
        return sys.modules["jax"].numpy.result_type(
            self.thing.in_structure().dtype, self.thing.out_structure().dtype
        )

    @property
    def arrays(self) -> Sequence[Array]:
        return [part for part in self._parts if is_array(part)]

    def home(self) -> Array:
        return sys.modules["jax"].numpy.zeros(0, dtype=self.dtype)

    def of(self, arrays: Sequence[Array]) -> Any:
        return sys.modules["jax"].tree.unflatten(self._tree, _replaced(self._parts, arrays))

    def matmat(self, thing: Any, x: Array) -> Array:
        structure = thing.in_structure()
        if structure.dtype != x.dtype:  # a function that was traced for that
            raise TypeError(
                f"{self.name} takes {structure.dtype} alone, and was given {x.dtype}: "
                f"cast the vector"
            )

        def multiply(column: Array) -> Array:
            return thing.mv(column.reshape(structure.shape)).reshape(-1)

        return sys.modules["jax"].vmap(multiply, 1, 1)(x)

    def rmatmat(self, thing: Any, x: Array) -> Array:
        return self.matmat(thing.transpose(), x.conj()).conj()


def _replaced(parts: Sequence[Any], arrays: Sequence[Array]) -> list[Any]:
    """``parts`` with its arrays, in order, replaced."""
    given = iter(arrays)
    return [next(given) if is_array(part) else part for part in parts]


_SOURCES: dict[tuple[str, str], type[Source]] = {  # by package and name of a class or a base
    ("scipy", "LinearOperator"): _Scipy,
    ("scipy", "sparray"): _Sparse,
    ("scipy", "spmatrix"): _Sparse,
    ("cupyx", "LinearOperator"): _Cupyx,
    ("cupyx", "spmatrix"): _Sparse,
    ("pylops", "LinearOperator"): _Pylops,
    ("linear_operator", "LinearOperator"): _LinearOperator,
    ("cola", "LinearOperator"): _Cola,
    ("curvlinops", "PyTorchLinearOperator"): _Curvlinops,
    ("lineax", "AbstractLinearOperator"): _Lineax,
}
