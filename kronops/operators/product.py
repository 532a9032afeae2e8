"""Products (compositions) of operators."""

from __future__ import annotations

import dataclasses
import functools
import operator

from kronops.backends.standard import Array
from kronops.drawing import joined
from kronops.explaining import Account, default_account
from kronops.operator import LinearOperator, common_shape
from kronops.vectors import Shape

__all__ = ["ProductOperator"]

_MOST_COPIES = 10**6


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProductOperator(LinearOperator):
    """``A B …``, made by ``@`` where the factors have no closed form together.

    Parameters
    ----------
    factors : tuple of LinearOperator
        Applied from the last to the first; neighbouring shapes fit.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> shear = kronops.DenseOperator(np.array([[1.0, 1.0], [0.0, 1.0]]))
    >>> (shear @ kronops.DiagonalOperator(np.array([1.0, 2.0]))).solve(np.array([3.0, 2.0]))
    array([1., 1.])
    """

    factors: tuple[LinearOperator, ...]
    _internal = ("of_copies",)

    def __post_init__(self) -> None:
        for left, right in zip(self.factors, self.factors[1:], strict=False):
            if left.shape[1] != right.shape[0]:
                shapes = " @ ".join(str(factor.shape) for factor in self.factors)
                raise ValueError(
                    f"operators of shapes {shapes}: inner sizes must agree"
                    + joined(left.shape, 1, "@", right.shape, 0)
                )
        super().__post_init__()

    @classmethod
    def of_copies(cls, op: LinearOperator, count: int) -> ProductOperator:
        """``op ** count``, which takes as many products."""
        if count > _MOST_COPIES:
            raise OverflowError(
                f"p = {float(count):g}: a power of {type(op).__name__} is a product of as many "
                f"copies, and there may be {_MOST_COPIES}"
            )
        parts = op.factors if isinstance(op, ProductOperator) else (op,)
        return cls(parts * count)

    @property
    def shape(self) -> tuple[int, int]:
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    @property
    def domain_shape(self) -> Shape:
        if self._square_throughout:
            return common_shape(self.factors, "domain_shape")
        return self.factors[-1].domain_shape

    @property
    def range_shape(self) -> Shape:
        if self._square_throughout:
            return common_shape(self.factors, "range_shape")
        return self.factors[0].range_shape

    def _matmat(self, x: Array) -> Array:
        for factor in reversed(self.factors):
            x = factor._matmat(x)
        return x

    def _apply_last(self, x: Array) -> Array:
        for factor in reversed(self.factors):
            x = factor._apply_last(x)
        return x

    def _adjoint(self) -> LinearOperator:
        return self._compose([factor.H for factor in reversed(self.factors)])

    def _transpose(self) -> LinearOperator:
        return self._compose([factor.T for factor in reversed(self.factors)])

    def _inverse(self) -> LinearOperator:
        if not self._square_throughout:
            return super()._inverse()
        return self._compose([factor.inverse() for factor in reversed(self.factors)])

    def _slogdet(self) -> tuple[Array, Array]:
        if not self._square_throughout:
            return super()._slogdet()
        sign, logabsdet = self.factors[0]._slogdet()
        for factor in self.factors[1:]:
            other, more = factor._slogdet()
            sign, logabsdet = sign * other, logabsdet + more
        return sign, logabsdet

    def _exponent(self) -> int:
        return sum(factor._exponent() for factor in self.factors)

    def _account(self, operation: str, columns: int) -> Account:
        identities = {
            "multiply": "(A B) x = A (B x)",
            "multiply_inverse": "(A B)⁻¹ = B⁻¹ A⁻¹",
            "logdet": "log |A B| = log |A| + log |B|",
        }
        closed = operation == "multiply" or self._square_throughout
        if not closed or operation not in identities:
            return default_account(self, operation, columns, own=False)
        parts = [factor._account(operation, columns) for factor in self.factors]
        return Account(self, identities[operation], parts=parts)

    @property
    def _square_throughout(self) -> bool:
        return all(factor._square for factor in self.factors)

    @staticmethod
    def _compose(parts: list[LinearOperator]) -> LinearOperator:
        composed: LinearOperator = functools.reduce(operator.matmul, parts)
        return composed
