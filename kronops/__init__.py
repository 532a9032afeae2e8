"""Structured linear operators over the Python Array API: write ``A ⊗ B``, compute with it."""

import importlib as _importlib
import typing as _typing

from kronops import algebra as _algebra  # completes LinearOperator: see kronops.algebra
from kronops.errors import DensificationWarning, LinAlgError, LinAlgWarning
from kronops.files import load, save
from kronops.installation import show_versions
from kronops.interop import aslinearoperator
from kronops.nearest import nearest_kronecker
from kronops.operator import LinearOperator
from kronops.operators.adjoint import AdjointOperator, TransposedOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator, block_diag
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
from kronops.operators.foreign import ForeignOperator
from kronops.operators.identity import IdentityOperator
from kronops.operators.inverse import InverseOperator
from kronops.operators.kronecker import KroneckerOperator, kron
from kronops.operators.kronecker_eigen import KroneckerEigenOperator
from kronops.operators.kronecker_sum import KroneckerSumOperator
from kronops.operators.low_rank_update import LowRankUpdateOperator
from kronops.operators.masked import MaskedOperator
from kronops.operators.product import ProductOperator
from kronops.operators.refined import RefinedOperator
from kronops.operators.scaled import ScaledOperator
from kronops.operators.series import SeriesOperator
from kronops.operators.sum import SumOperator
from kronops.operators.toeplitz import ToeplitzOperator
from kronops.prediction import plan

__all__ = [
    "AdjointOperator",
    "BlockDiagonalOperator",
    "DenseOperator",
    "DensificationWarning",
    "DiagonalOperator",
    "ForeignOperator",
    "IdentityOperator",
    "InverseOperator",
    "KroneckerEigenOperator",
    "KroneckerOperator",
    "KroneckerSumOperator",
    "LinAlgError",
    "LinAlgWarning",
    "LinearOperator",
    "LowRankUpdateOperator",
    "MaskedOperator",
    "ProductOperator",
    "RefinedOperator",
    "ScaledOperator",
    "SeriesOperator",
    "SumOperator",
    "ToeplitzOperator",
    "TransposedOperator",
    "aslinearoperator",
    "block_diag",
    "kron",
    "load",
    "nearest_kronecker",
    "plan",
    "save",
    "show_versions",
]

__version__ = "0.1.0"
del _algebra

if _typing.TYPE_CHECKING:
    from kronops import kfac as kfac
    from kronops import linalg as linalg
    from kronops import testing as testing

_MODULES = ("kfac", "linalg", "testing")  # imported when they are first asked for


def __getattr__(name: str) -> _typing.Any:
    if name in _MODULES:
        return _importlib.import_module(f"kronops.{name}")
    raise AttributeError(f"module 'kronops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
