"""The laws of how an operator behaves: as an object, beside others, where it is refused."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pickle
import sys

import numpy as np

from kronops import tree
from kronops.testing.case import Case, raises
from kronops.vectors import size_of

__all__ = [
    "copies",
    "moves",
    "nothing_is_shared",
    "one_line",
    "refusals",
    "scipy_adapter",
    "shape_and_dtype",
]


def shape_and_dtype(case: Case) -> None:
    """shape, dtype, device, domain and range shapes agree with the matrix"""
    op = case.op
    assert op.shape == (case.m, case.n), f"shape is {op.shape}, to_dense {(case.m, case.n)}"
    assert all(type(size) is int for size in op.shape), "the sizes of shape are Python integers"
    assert size_of(op.domain_shape) == case.n, f"domain_shape {op.domain_shape} is of another size"
    assert size_of(op.range_shape) == case.m, f"range_shape {op.range_shape} is of another size"
    dense = op.to_dense()
    assert dense.dtype == op.dtype, f"to_dense is {dense.dtype}, the operator {op.dtype}"
    assert case.backend.same_device(dense, op.device)
    case.close(dense, case.matrix)
    if op.hermitian:
        assert case.hermitian, "it says hermitian and is not"


def nothing_is_shared(case: Case) -> None:
    """inputs are not written to, outputs do not alias them, fields cannot be set"""
    op = case.op
    x, _ = case.probe(case.n, 2)
    before = case.numpy(x).copy()
    first = op @ x
    kept = case.numpy(first).copy()
    if case.m and case.n:
        with contextlib.suppress(TypeError):  # some libraries' arrays cannot be written to
            first[...] = 7.0
        assert np.array_equal(case.numpy(x), before), "writing to the result changed the input"
    assert np.array_equal(case.numpy(op @ x), kept), "the result shares memory with the operator"
    for field in dataclasses.fields(op):
        raises(AttributeError, setattr, op, field.name, None)


def copies(case: Case) -> None:
    """pickle and deepcopy give the same operator, and so does taking it apart, as JAX does"""
    x, _ = case.probe(case.n)
    want = case.numpy(case.op @ x)
    assert np.array_equal(case.numpy(copy.deepcopy(case.op) @ x), want)
    kind = type(case.op)
    parts, rest = tree.take_apart(case.op)
    again = tree.put_together(kind, rest, parts.values())
    assert np.allclose(case.numpy(again @ x), want, rtol=1e-4, atol=0)
    importable = getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    if case.backend.name == "numpy" and importable:  # pickle finds classes by their names
        assert np.array_equal(case.numpy(pickle.loads(pickle.dumps(case.op)) @ x), want)


def refusals(case: Case) -> None:
    """what does not fit is refused in words: sizes, libraries, scalars, lists"""
    op = case.op
    x, _ = case.probe(case.n + 1)
    assert str(case.n) in raises(ValueError, lambda: op @ x)
    raises(ValueError, lambda: op.multiply(x))
    raises(TypeError, lambda: op @ [0.0] * case.n)
    assert "@" in raises(TypeError, lambda: op * op)
    assert "damped" in raises(TypeError, lambda: op + 1.0)
    assert "DenseOperator" in raises(TypeError, lambda: op + op.to_dense())
    raises(TypeError, lambda: op * "2")
    raises(ValueError, lambda: op * float("nan"))
    if case.m * case.n:
        assert "limit" in raises(ValueError, lambda: op.to_dense(limit=0))


def one_line(case: Case) -> None:
    """repr is one line with class, shape, dtype and backend"""
    text = repr(case.op)
    assert "\n" not in text
    for part in (type(case.op).__name__, str(case.op.shape), case.backend.name):
        assert part in text


def moves(case: Case) -> None:
    """astype and to_device are explicit and keep the operator"""
    op, xp = case.op, case.backend.xp
    single = xp.complex64 if case.complex else xp.float32
    if not case.moderate:
        return
    try:
        cast = op.astype(single)
    except OverflowError:  # the matrix is in range, but not every array of the operator
        return
    assert cast.dtype == single
    error = case.largest(case.numpy(cast.to_dense()) - case.matrix)
    assert error <= 1e-5 * (case.m + case.n) * case.largest(case.matrix)
    case.close(op.to_device(op.device).to_dense(), case.matrix)
    if case.complex:
        raises(ValueError, lambda: op.astype(xp.float64))


def scipy_adapter(case: Case) -> None:
    """to_scipy and scipy's aslinearoperator take NumPy operators as they are"""
    if case.backend.name != "numpy":
        return
    library = case.backend.solver_library()
    x, host = case.probe(case.n)
    y, other = case.probe(case.m)
    scale = case.largest(case.matrix)
    for adapted in (case.op.to_scipy(), library.aslinearoperator(case.op)):
        assert adapted.shape == case.op.shape and adapted.dtype == case.op.dtype
        case.close(adapted.matvec(x), case.matrix @ host, scale * np.sum(np.abs(host)))
        case.close(adapted.rmatvec(y), case.matrix.conj().T @ other, scale * np.sum(np.abs(other)))
        case.close(adapted.matvec(x[:, None]), (case.matrix @ host)[:, None],
                   scale * np.sum(np.abs(host)))  # fmt: skip
