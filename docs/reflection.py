"""The example of "Adding an operator": one module, as an author would write it."""

import dataclasses
from typing import Any

from kronops import LinearOperator
from kronops.backends import backend_of
from kronops.checks import as_inexact, check_finite_values


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReflectionOperator(LinearOperator):
    """``I − 2 u uᴴ / (uᴴ u)``: the reflection across the hyperplane orthogonal to ``u``."""

    normal: Any

    def __post_init__(self) -> None:
        normal = as_inexact(self.normal, "normal")
        if normal.ndim != 1:
            raise ValueError(f"normal has shape {normal.shape}: one axis is needed")
        check_finite_values(normal, "normal")
        norm = backend_of(normal).xp.linalg.vector_norm(normal)
        if norm == 0:
            raise ValueError("normal is zero: any other vector would do")
        object.__setattr__(self, "normal", normal / norm)
        super().__post_init__()

    # The contract: shape, product, adjoint.

    @property
    def shape(self) -> tuple[int, int]:
        n = self.normal.shape[0]
        return n, n

    def _matmat(self, x: Any) -> Any:
        u = self.normal[:, None]
        return x - 2 * (u @ (self.backend.adjoint(u) @ x))

    def _adjoint(self) -> LinearOperator:
        return self

    # What structure makes cheaper: it is Hermitian, its own inverse, and its determinant is −1.

    @property
    def hermitian(self) -> bool:
        return True

    def _inverse(self) -> LinearOperator:
        return self

    def _slogdet(self) -> tuple[Any, Any]:
        sign = -self.backend.xp.ones((), dtype=self.dtype, device=self.device)
        return sign, abs(sign) - 1
