"""Structured linear operators over the Python Array API: write ``A ⊗ B``, compute with it."""

from kronops import algebra as _algebra  # completes LinearOperator: see kronops.algebra
from kronops.errors import DensificationWarning, LinAlgError, LinAlgWarning
from kronops.files import load, save
from kronops.installation import show_versions
from kronops.nearest import nearest_kronecker
from kronops.operator import LinearOperator
from kronops.operators.adjoint import AdjointOperator, TransposedOperator
from kronops.operators.block_diagonal import BlockDiagonalOperator, block_diag
from kronops.operators.dense import DenseOperator
from kronops.operators.diagonal import DiagonalOperator
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
