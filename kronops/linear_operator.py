"""kronops operators in linear_operator, and so in GPyTorch: `as_linear_operator`.

This module needs linear_operator, and kronops does not import it.
"""

from __future__ import annotations

from typing import Any

import torch
from linear_operator import LinearOperator as TheirOperator
from linear_operator.operators import ConstantDiagLinearOperator

from kronops import tree
from kronops.backends.standard import Array
from kronops.operator import LinearOperator

__all__ = ["KronopsLinearOperator", "as_linear_operator"]


def __dir__() -> list[str]:
    return __all__


class KronopsLinearOperator(TheirOperator):
    """A kronops operator as a ``linear_operator.LinearOperator``, made by `as_linear_operator`.

    Products, solves, determinants, the diagonal and added multiples of the identity are those of
    ``op``, exact and by structure. The rest is linear_operator's own, by these or by the matrix.

    Examples
    --------
    >>> import torch, kronops
    >>> from kronops.linear_operator import as_linear_operator
    >>> covariance = as_linear_operator(kronops.kron(torch.eye(2), 3 * torch.eye(2)))
    >>> covariance.add_jitter(1.0).solve(torch.ones(4))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, *arrays: Array, form: LinearOperator) -> None:
        super().__init__(*arrays, form=form)
        given = iter(arrays)
        self.op = tree.map_leaves(form, lambda leaf: next(given))

    @property
    def dtype(self) -> torch.dtype:
        """That of the operator, some of whose arrays may be of integers."""
        return self.op.dtype

    def _size(self) -> torch.Size:
        return torch.Size(self.op.shape)

    def _matmul(self, rhs: Array) -> Array:
        return self.op @ rhs

    def _transpose_nonbatch(self) -> KronopsLinearOperator:
        return as_linear_operator(self.op.T)

    def _diagonal(self) -> Array:
        return self.op.diagonal()

    def _get_indices(self, row_index: Array, col_index: Array, *batch_indices: Array) -> Array:
        return self.op.to_dense()[row_index, col_index]

    def to_dense(self) -> Array:
        """The matrix; `ValueError` where it has more entries than `to_dense` writes out."""
        return self.op.to_dense()

    def solve(self, right_tensor: Array, left_tensor: Array | None = None) -> Array:
        """``op⁻¹ R``, or ``L op⁻¹ R``."""
        solved = self.op.solve(right_tensor)
        return solved if left_tensor is None else left_tensor @ solved

    def inv_quad_logdet(
        self,
        inv_quad_rhs: Array | None = None,
        logdet: bool = False,
        reduce_inv_quad: bool = True,
    ) -> tuple[Array, Array]:
        """``Σ rᴴ op⁻¹ r`` over the columns of the right-hand side, and ``log |op|``."""
        zero = torch.zeros((), dtype=self.dtype, device=self.device)
        quadratic = zero
        if inv_quad_rhs is not None:
            columns = inv_quad_rhs if inv_quad_rhs.ndim > 1 else inv_quad_rhs[:, None]
            quadratic = torch.sum(columns * self.op.solve(columns), -2)
            if reduce_inv_quad or inv_quad_rhs.ndim == 1:
                quadratic = torch.sum(quadratic, -1)
        return quadratic, self.op.logdet() if logdet else zero

    def add_diagonal(self, diag: Array) -> TheirOperator:
        """``op + c·I`` by `kronops.LinearOperator.damped`, where the diagonal is one number."""
        if diag.numel() == 1:
            return as_linear_operator(self.op.damped(diag.reshape(())))
        return super().add_diagonal(diag)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, KronopsLinearOperator):
            return as_linear_operator(self.op + other.op)
        if isinstance(other, ConstantDiagLinearOperator):
            return self.add_diagonal(other.diag_values)
        return super().__add__(other)


def as_linear_operator(op: LinearOperator) -> KronopsLinearOperator:
    """``op`` as an operator of linear_operator: a covariance for GPyTorch.

    Parameters
    ----------
    op : LinearOperator
        Of PyTorch's tensors. Derivatives by them pass through.

    Raises
    ------
    TypeError
        Not an operator, or not of tensors.

    Examples
    --------
    >>> import torch, kronops
    >>> from kronops.linear_operator import as_linear_operator
    >>> as_linear_operator(kronops.kron(torch.eye(2), 3 * torch.eye(2))) @ torch.ones(4)
    tensor([3., 3., 3., 3.])
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(f"op is a {type(op).__name__}: a kronops operator is needed")
    if op.backend.name != "torch":
        raise TypeError(
            f"op has arrays of {op.backend.name}: linear_operator takes tensors "
            f'(op.to_backend("torch"))'
        )
    form = tree.map_leaves(op, lambda leaf: leaf.detach().to("meta"))
    return KronopsLinearOperator(*tree.leaves(op), form=form)
