"""Block-diagonal operators: one block for each layer of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kronops import tree
from kronops.backends import is_array
from kronops.backends.standard import Array
from kronops.caching import cached, fact
from kronops.columns import scaled_norm
from kronops.explaining import Account, default_account
from kronops.normals import Normals
from kronops.operator import LinearOperator
from kronops.operators.dense import DenseOperator
from kronops.operators.inverse import InverseOperator
from kronops.operators.scaled import identity_multiple
from kronops.operators.stacked_factorisation import factorise_together
from kronops.operators.stacked_products import Run, runs
from kronops.scalars import Scalar
from kronops.vectors import Shape, flatten_each

__all__ = ["BlockDiagonalOperator", "block_diag"]

Name = str | int | tuple[str, str]
Blocks = tuple[LinearOperator, ...] | dict[Name, LinearOperator]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class BlockDiagonalOperator(LinearOperator):
    """``blockdiag(B1, B2, …)``: independent operators side by side.

    Parameters
    ----------
    blocks : sequence or dict of arrays or operators
        One or more, of any shapes. With a dict, structured vectors are dicts of the same keys; a
        block of weights and a bias may have a pair of keys, and its vectors two entries.
    check_finite : bool
        Whether NaN and infinity are looked for in the blocks that are arrays.

    Raises
    ------
    ValueError
        No blocks; a block that is not 2-D or not finite; a key twice, or a tuple but no pair.
    TypeError
        Blocks of two libraries or devices; a key that is no string, integer or pair of these.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> op = kronops.BlockDiagonalOperator({"scale": 2 * np.eye(2), "shift": 4 * np.eye(1)})
    >>> op.multiply_inverse({"scale": np.ones(2), "shift": np.ones(1)})
    {'scale': array([0.5, 0.5]), 'shift': array([0.25])}

    >>> op = kronops.BlockDiagonalOperator({("w", "b"): kronops.kron(np.eye(3), np.eye(2))})
    >>> op.multiply({"b": np.ones(2), "w": np.zeros((2, 2))})["b"]
    array([1., 1.])
    """

    operators: tuple[LinearOperator, ...]
    names: tuple[Name, ...] | None
    _internal = ("names", "operators")

    def __init__(
        self, blocks: Iterable[Any] | Mapping[str, Any], *, check_finite: bool = True
    ) -> None:
        if is_array(blocks) or isinstance(blocks, (LinearOperator, str)):
            raise TypeError(
                f"blocks is a {type(blocks).__name__}: a list or dict of arrays or operators is "
                f"needed"
            )
        if not isinstance(blocks, Iterable):
            raise TypeError(f"blocks is a {type(blocks).__name__}: a list or dict is needed")
        named = blocks.items() if isinstance(blocks, Mapping) else enumerate(blocks)
        items = [(_as_name(key), block) for key, block in named]
        if not items:
            raise ValueError("blocks is empty: one array or operator at least is needed")
        _check_names([key for key, _ in items])
        made = {
            key: block
            if isinstance(block, LinearOperator)
            else DenseOperator(block, name=f"blocks[{key!r}]", check_finite=check_finite)
            for key, block in items
        }
        object.__setattr__(self, "operators", tuple(made.values()))
        object.__setattr__(self, "names", tuple(made) if isinstance(blocks, Mapping) else None)
        self._check_one_home()

    @property
    def blocks(self) -> Blocks:
        """The blocks, in a tuple or, if they have names, in a dict."""
        if self.names is None:
            return self.operators
        return dict(zip(self.names, self.operators, strict=True))

    @fact
    def shape(self) -> tuple[int, int]:
        rows, columns = zip(*(b.shape for b in self.operators), strict=True)  # each asked once
        return sum(rows), sum(columns)

    @property
    def domain_shape(self) -> Shape:
        return self._collect([block.domain_shape for block in self.operators])

    @property
    def range_shape(self) -> Shape:
        return self._collect([block.range_shape for block in self.operators])

    @property
    def hermitian(self) -> bool:
        return all(block.hermitian for block in self.operators)

    @property
    def _ready(self) -> tuple[LinearOperator, ...]:
        """The blocks; small dense ones to be inverted have been factorised together."""
        return (
            self._factorised if isinstance(self.operators[0], InverseOperator) else self.operators
        )

    @fact
    def _factorised(self) -> tuple[LinearOperator, ...]:
        factorise_together(b.base if isinstance(b, InverseOperator) else b for b in self.operators)
        return self.operators

    def _multiply(self, v: Any) -> Any:
        """Of structured vectors each block by itself."""
        if is_array(v):
            return super()._multiply(v)
        if self.backend.shards and (made := self._algebra.multiply_sharded(self, v)) is not None:
            return made
        flats, restore = flatten_each(v, self.domain_shape, self.range_shape)
        blocks = zip(self._ready, flats, strict=True)
        return restore([block._apply(flat) for block, flat in blocks])

    def _matmat(self, x: Array) -> Array:
        pieces, start = [], 0
        for run in self._runs:
            stop = start + run.columns
            pieces.append(run.matmat(x[..., start:stop, :]))
            start = stop
        return pieces[0] if len(pieces) == 1 else self.backend.xp.concat(pieces, axis=-2)

    @cached
    def _runs(self) -> tuple[Run, ...]:
        return runs(self._ready)

    # -- the same function of each block -------------------------------------------------------

    def _adjoint(self) -> LinearOperator:
        return self._map(lambda block: block.H)

    def _transpose(self) -> LinearOperator:
        return self._map(lambda block: block.T)

    def _inverse(self) -> LinearOperator:
        if not self._square_blocks:
            return super()._inverse()
        return self._map(
            lambda block: (
                InverseOperator.of(block) if isinstance(block, DenseOperator) else block.inverse()
            )
        )

    def _power(self, p: float) -> LinearOperator:
        return self._map(lambda block: block.power(p)) if self._square_blocks else super()._power(p)

    def _expm(self) -> LinearOperator:
        return self._map(lambda block: block.expm()) if self._square_blocks else super()._expm()

    def _logm(self) -> LinearOperator:
        return self._map(lambda block: block.logm()) if self._square_blocks else super()._logm()

    def _cholesky(self) -> LinearOperator:
        return self._map(lambda block: block.cholesky())

    def _root(self) -> LinearOperator:
        if not self._square_blocks:
            return super()._root()
        return self._map(lambda block: block._root())

    def _sample(self, normals: Normals) -> Array:
        if not self._square_blocks:
            return super()._sample(normals)
        return self.backend.xp.concat([block._sample(normals) for block in self.operators])

    def _shifted(self, scalar: Scalar) -> LinearOperator:
        if not self._square_blocks:
            return super()._shifted(scalar)
        return self._map(lambda block: block._shifted(scalar))

    def _factored(self, value: Scalar, pi: str | float, refine: bool) -> LinearOperator:
        return self._map(lambda block: block.damped(value, "factored", refine, pi))

    def _scaled(self, scalar: Scalar) -> LinearOperator:
        return self._map(lambda block: scalar * block)

    def _plus(self, other: LinearOperator) -> LinearOperator | None:
        if self._matches(other):
            return self._map(lambda a, b: a + b, other)
        multiple = identity_multiple(other)
        if multiple is None or not self._square_blocks:
            return None
        return self._map(lambda block: self._algebra.shift(block, multiple))

    def _times(self, other: LinearOperator) -> LinearOperator | None:
        fits = self._matches(other, inner=True)
        return self._map(lambda a, b: a @ b, other) if fits else None

    # -- numbers -------------------------------------------------------------------------------

    def _exponent(self) -> int:
        return max(block._exponent() for block in self.operators)

    def _slogdet(self) -> tuple[Array, Array]:
        if not self._square_blocks:
            return super()._slogdet()
        xp = self.backend.xp
        parts = [block._slogdet() for block in self._factorised]
        return xp.prod(xp.stack([s for s, _ in parts])), xp.sum(xp.stack([v for _, v in parts]))

    def _trace(self) -> Array:
        if not self._square_blocks:
            return super()._trace()
        return self.backend.xp.sum(self.backend.xp.stack([b._trace() for b in self.operators]))

    def _diagonal(self) -> Array:
        if not self._square_blocks:
            return super()._diagonal()
        return self.backend.xp.concat([block._diagonal() for block in self.operators])

    def _norm(self, ord: Any) -> Array:
        xp = self.backend.xp
        norms = xp.stack([block._norm(ord) for block in self.operators])
        if ord == "fro":
            return scaled_norm(xp, norms)
        return xp.sum(norms) if ord == "nuc" else xp.max(norms)

    def _eigenbasis(self) -> tuple[Array, LinearOperator]:
        if not self._square_blocks:
            return super()._eigenbasis()
        xp = self.backend.xp
        pairs = [block._eigenbasis() for block in self.operators]
        values = xp.concat([xp.reshape(values, (-1,)) for values, _ in pairs])
        return values, BlockDiagonalOperator(self._collect([basis for _, basis in pairs]))

    @cached
    def _schur_form(self) -> tuple[Array, Array]:
        """Triangles side by side are a triangle."""
        if not self._square_blocks:
            return self.backend.schur(self._to_dense())
        triangles, bases = zip(*(block._schur_form for block in self.operators), strict=True)
        return _side_by_side(triangles), _side_by_side(bases)

    def _svd(self) -> tuple[LinearOperator, Array, LinearOperator]:
        lefts, values, rights = zip(*(block._kept_svd for block in self.operators), strict=True)
        singular_values = self.backend.xp.concat(values)
        if singular_values.shape[0] < min(self.shape):  # wide and tall blocks
            return super()._svd()
        left, right = (BlockDiagonalOperator(self._collect(list(ops))) for ops in (lefts, rights))
        return left, singular_values, right

    def _spectral_norm(self) -> Array:
        xp = self.backend.xp
        return xp.max(xp.stack([b._spectral_norm() for b in self.operators if all(b.shape)]))

    def _pinv(self, cutoff: Array) -> LinearOperator:
        return self._map(lambda block: block._pinv(cutoff) if all(block.shape) else block.H)

    # -- inside --------------------------------------------------------------------------------

    def _named_parts(self) -> dict[str, Any]:
        names = self.names or range(len(self.operators))
        return {f"blocks[{n!r}]": block for n, block in zip(names, self.operators, strict=True)}

    def _account(self, operation: str, columns: int) -> Account:
        if operation != "multiply" and not self._square_blocks:
            return default_account(self, operation, columns, own=False)
        parts = [block._account(operation, columns) for block in self.operators]
        words = "the sum over the blocks" if operation == "logdet" else "block by block"
        return Account(self, words, parts=parts)

    @property
    def _square_blocks(self) -> bool:
        return all(block._square for block in self.operators)

    def _collect(self, parts: list[Any]) -> Any:
        """``parts`` in the structure of the blocks."""
        return parts if self.names is None else dict(zip(self.names, parts, strict=True))

    def _map(self, function: Callable[..., LinearOperator], *others: Any) -> BlockDiagonalOperator:
        """Functions of the blocks, in the same places: names are not checked again."""
        columns = [self.operators, *(other.operators for other in others)]
        made = tuple(function(*row) for row in zip(*columns, strict=True))
        return tree.rebuild(BlockDiagonalOperator, {"operators": made, "names": self.names})

    def _matches(self, other: Any, inner: bool = False) -> bool:
        """Whether the blocks of ``other`` have the same names and fit one by one."""
        if not isinstance(other, BlockDiagonalOperator):
            return False
        if len(other.operators) != len(self.operators):
            return False
        if self.names != other.names:
            if self.names and other.names and set(self.names) == set(other.names):
                raise ValueError(
                    f"blocks in two orders, {list(self.names)} and {list(other.names)}: their flat "
                    f"vectors differ; build both in one order"
                )
            return False
        pairs = zip(self.operators, other.operators, strict=True)
        if inner:
            return all(a.shape[1] == b.shape[0] for a, b in pairs)
        return all(a.shape == b.shape for a, b in pairs)


def _as_name(key: Any) -> Any:
    """A key of strings and Python integers: a NumPy integer would pass for an array."""
    if isinstance(key, tuple):
        return tuple(_as_name(entry) for entry in key)
    if isinstance(key, str):
        return key
    if not hasattr(key, "__index__"):
        raise TypeError(f"blocks has the key {key!r}: a string, an integer or a pair is needed")
    return int(key)


def _check_names(names: list[Any]) -> None:
    """Refuse what vectors cannot be looked up by."""
    taken: set[Any] = set()
    for name in names:
        if isinstance(name, tuple) and len(name) != 2:
            raise ValueError(f"blocks has the key {name!r}: a name, or a pair of two, is needed")
        entries = name if isinstance(name, tuple) else (name,)
        if not taken.isdisjoint(entries) or len({*entries}) < len(entries):
            raise ValueError(f"blocks has the key {name!r}, but each name is of one block alone")
        taken.update(entries)


def _side_by_side(matrices: Iterable[Array]) -> Array:
    return BlockDiagonalOperator(matrices, check_finite=False)._to_dense()


def block_diag(*blocks: Any) -> BlockDiagonalOperator:
    """``blockdiag(B1, B2, …)`` of arrays or operators: short for `BlockDiagonalOperator`.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> kronops.block_diag(np.eye(2), 3 * np.ones((1, 2))) @ np.ones(4)
    array([1., 1., 6.])
    """
    return BlockDiagonalOperator(blocks)
