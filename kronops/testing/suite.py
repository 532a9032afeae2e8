"""All laws, and the check of an operator by each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from kronops.errors import DensificationWarning, LinAlgWarning
from kronops.operator import LinearOperator
from kronops.testing import conduct, mathematics
from kronops.testing.case import Case

__all__ = ["LAWS", "check_operator"]

LAWS: tuple[Callable[[Case], None], ...] = (
    conduct.shape_and_dtype,
    mathematics.products,
    mathematics.along_the_last_axis,
    mathematics.adjoints,
    mathematics.structured_vectors,
    mathematics.arithmetic,
    mathematics.numbers,
    mathematics.inverses,
    mathematics.powers,
    mathematics.hermitian_functions,
    mathematics.exponentials,
    mathematics.singular_values,
    mathematics.exact_damping,
    mathematics.samples,
    conduct.nothing_is_shared,
    conduct.copies,
    conduct.refusals,
    conduct.one_line,
    conduct.moves,
    conduct.scipy_adapter,
)


def check_operator(op: LinearOperator, matrix: Any = None, seed: int = 0) -> None:
    """Check everything that an operator promises against its dense matrix.

    Parameters
    ----------
    op : LinearOperator
        Small enough that its matrix can be formed many times: up to a few dozen rows.
    matrix : array, optional
        The matrix that the operator should have; by default what ``op.to_dense()`` says.
    seed : int
        Of the random probes.

    Raises
    ------
    AssertionError
        A law is broken; the message names it, the operator, and by how much.

    Examples
    --------
    >>> import numpy as np, kronops
    >>> from kronops.testing import check_operator
    >>> check_operator(kronops.kron(np.ones((2, 3)), np.eye(2)))
    """
    if not isinstance(op, LinearOperator):
        raise TypeError(f"op is a {type(op).__name__}: an operator is needed")
    case = Case(op, matrix, seed)
    for law in LAWS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DensificationWarning)
                warnings.simplefilter("ignore", LinAlgWarning)
                law(case)
        except Exception as error:
            what = (law.__doc__ or law.__name__).splitlines()[0]
            raise AssertionError(f"{op!r} breaks the law «{what}»: {error}") from error
