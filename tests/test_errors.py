"""Bad input is refused in words: which argument, what it was, what would do."""

from __future__ import annotations

import warnings

import array_api_strict as strict
import numpy as np
import pytest
import scipy.sparse

import kronops
from kronops import (
    BlockDiagonalOperator,
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
    LinAlgError,
    LinAlgWarning,
    SeriesOperator,
    kron,
)

I2, I3 = np.eye(2), np.eye(3)
NAN = np.array([[1.0, np.nan], [0.0, 1.0]])
SINGULAR = np.array([[1.0, 2.0], [2.0, 4.0]])
SKEW = np.array([[1.0, 2.0], [0.0, 1.0]])
K = kron(I2, I3)
PAIR = (I2, 0 * I2)


def masked():
    return np.ma.masked_array(I2, mask=[[True, False], [False, False]])


# name: (what is done, the exception, what its message says)
REFUSED = {
    "draws of a negative shape": (
        lambda: K.sample(np.random.default_rng(0), (-1,)),
        ValueError,
        "a size of shape = -1: an integer ≥ 0",
    ),
    # factors and matrices
    "no factors": (lambda: KroneckerOperator([]), ValueError, "factors is empty: one array or op"),
    "an array for a list": (lambda: KroneckerOperator(I2), TypeError, "factors is a ndarray: a li"),
    "a list as a factor": (lambda: kron([[1.0]], I2), TypeError, r"factors\[0\] is a list: an arr"),
    "a vector as a factor": (
        lambda: kron(I2, np.ones(3)),
        ValueError,
        r"factors\[1\] has shape \(3,\)",
    ),
    "NaN in a factor": (lambda: kron(I2, NAN), ValueError, r"factors\[1\] has NaN or infinite"),
    "infinity": (
        lambda: kron(np.diag([1.0, np.inf])),
        ValueError,
        r"factors\[0\] has NaN or infinite",
    ),
    "masked": (lambda: kron(masked()), TypeError, r"factors\[0\] is a masked array: fill it"),
    "object": (lambda: kron(I2.astype(object)), TypeError, r"factors\[0\] has dtype object"),
    "strings": (lambda: kron(np.array([["a"]])), TypeError, r"factors\[0\] has dtype <U1"),
    "two libraries": (
        lambda: kron(I2, strict.eye(2)),
        TypeError,
        r"factors\[0\] is of numpy, factors\[1\] of array_.*: bring both to one library",
    ),
    "two libraries by name": (
        lambda: kronops.BlockDiagonalOperator({"in": I2, "out": strict.eye(2)}),
        TypeError,
        r"blocks\['in'\] is of numpy, blocks\['out'\] of array_",
    ),
    "eigenvalues of another library": (
        lambda: KroneckerEigenOperator([I2], strict.ones(2)),
        TypeError,
        "bases is of numpy, eigenvalues of array_",
    ),
    "scale nan": (lambda: KroneckerOperator([I2], scale=np.nan), ValueError, "scale = nan: a fini"),
    "scale text": (lambda: KroneckerOperator([I2], scale="2"), TypeError, "scale is a str"),
    "assume": (lambda: DenseOperator(I2, assume="spd"), ValueError, "assume = 'spd': one of"),
    "not symmetric": (
        lambda: DenseOperator(SKEW, assume="symmetric"),
        ValueError,
        r'matrix \(2 x 2\) is not symmetric, which assume="symmetric" claims',
    ),
    "one triangle infinite": (
        lambda: DenseOperator(np.array([[1, np.inf], [0, 1]]), "symmetric"),
        ValueError,
        "NaN or",
    ),
    "domain_shape": (
        lambda: DenseOperator(I2, domain_shape=(3,)),
        ValueError,
        r"domain_shape = \(3,\): 2 entr",
    ),
    "no axes": (lambda: DiagonalOperator(np.array(1.0)), ValueError, "diagonal has no axes"),
    "NaN on a diagonal": (lambda: DiagonalOperator(np.array([np.nan])), ValueError, "diagonal has"),
    "n": (lambda: IdentityOperator(2.5, like=I2), TypeError, "n is a float: an integer ≥ 0"),
    "negative n": (lambda: IdentityOperator(-1, like=I2), ValueError, "n = -1: an integer ≥ 0"),
    "like": (lambda: IdentityOperator(2, like=[1.0]), TypeError, "like is a list: an array is nee"),
    "not unitary": (
        lambda: KroneckerEigenOperator([2 * I2], np.ones(2)),
        ValueError,
        r"bases\[0\].* not unitary",
    ),
    "eigenvalues": (
        lambda: KroneckerEigenOperator([I2], np.ones(3)),
        ValueError,
        r"eigenvalues has shape \(3,\)",
    ),
    "no blocks": (lambda: BlockDiagonalOperator({}), ValueError, "blocks is empty"),
    "NaN in a block": (
        lambda: BlockDiagonalOperator({"w": NAN}),
        ValueError,
        r"blocks\['w'\] has NaN or infinite",
    ),
    # series
    "option": (lambda: SeriesOperator(PAIR, PAIR, 2, 3), ValueError, "option = 3: 1 or 2 would do"),
    "timesteps 0": (
        lambda: SeriesOperator(PAIR, PAIR, 0, 1),
        ValueError,
        "timesteps = 0: an integ",
    ),
    "timesteps 1.5": (
        lambda: SeriesOperator(PAIR, PAIR, 1.5, 1),
        TypeError,
        "timesteps is a float",
    ),
    "moments": (
        lambda: SeriesOperator(I2, PAIR, 1, 1),
        ValueError,
        r"input_moments is a ndarray: a",
    ),
    "moments' shapes": (
        lambda: SeriesOperator(PAIR, (I2, I3), 1, 1),
        ValueError,
        r"output_moments have shapes \(2, 2\) and \(3, 3\)",
    ),
    "asymmetric C0": (
        lambda: SeriesOperator((SKEW, I2), PAIR, 1, 1),
        ValueError,
        r"input_moments\[0\] does not eq",
    ),
    "series damping": (
        lambda: SeriesOperator(PAIR, PAIR, 1, 1, (-1.0, 0)),
        ValueError,
        r"factor_damping\[0\] = -1",
    ),
    # vectors
    "a wrong size": (
        lambda: K @ np.ones(5),
        ValueError,
        r"x has shape \(5,\), the operator \(6, 6\)",
    ),
    "a wrong matrix": (
        lambda: K @ np.ones((5, 2)),
        ValueError,
        r"\(6,\) or \(..., 6, k\) would do",
    ),
    "b": (lambda: K.solve(np.ones(4)), ValueError, r"b has shape \(4,\)"),
    "a list": (lambda: K @ [1.0] * 6, TypeError, "x is a list: an array is needed"),
    "another library": (
        lambda: K @ strict.ones(6),
        TypeError,
        "x is an array of array_api_strict, the operator's",
    ),
    "a masked vector": (
        lambda: K @ np.ma.masked_array(np.ones(6), np.ones(6, bool)),
        TypeError,
        "masked array",
    ),
    "transposed weights": (
        lambda: K.multiply(np.ones((3, 2))),
        ValueError,
        r"v has shape \(3, 2\); what would do: a flat array of shape \(6,\); an array of shape "
        r"\(2, 3\), or .*; a pair \(weights, bias\) of shapes \(1, 3\) and \(3,\)",
    ),
    "trailing axes in another order": (
        lambda: kron(I2, I3, np.eye(4)).multiply(np.ones((2, 4, 3))),
        ValueError,
        r"v has shape \(2, 4, 3\); what would do: .* an array of shape \(2, 3, 4\)",
    ),
    "a pair that does not fit": (
        lambda: K.multiply((np.ones((2, 3)), np.ones(3))),
        ValueError,
        r"a pair of shapes \(2, 3\) an",
    ),
    "a number": (lambda: K.multiply(3.0), ValueError, "v is a float; what would do"),
    "blocks in two orders": (
        lambda: (
            BlockDiagonalOperator({"a": I2, "b": I3}) + BlockDiagonalOperator({"b": I3, "a": I2})
        ),
        ValueError,
        r"blocks in two orders, \['a', 'b'\] and \['b', 'a'\]",
    ),
    "a basis that is an operator": (
        lambda: KroneckerEigenOperator([2 * DenseOperator(I2)], np.ones(2)),
        ValueError,
        r"bases\[0\] \(2, 2\) is not unitary",
    ),
    "inverse of singular, its determinant": (
        lambda: DenseOperator(SINGULAR).inverse().slogdet(),
        LinAlgError,
        "inverted is singular",
    ),
    "astype underflow": (
        lambda: DenseOperator(1e-200 * I2).astype(np.float32),
        OverflowError,
        "does not fit into",
    ),
    "factor_damping": (
        lambda: SeriesOperator(PAIR, PAIR, 2, 1, factor_damping=0.1),
        ValueError,
        "factor_damping = 0.1: a pair of numbers",
    ),
    "timesteps True": (lambda: SeriesOperator(PAIR, PAIR, True, 1), TypeError, "timesteps is a b"),
    "no list of factors": (lambda: KroneckerOperator(3), TypeError, "factors is a int: a list"),
    "no list of blocks": (lambda: BlockDiagonalOperator(None), TypeError, "blocks is a NoneType"),
    "cholesky of negative": (
        lambda: kron(-I2, I2).cholesky(),
        LinAlgError,
        "the Kronecker product is not positive definite: the signs of its factors",
    ),
    "sqrt of factors that are not symmetric": (
        lambda: kron(np.array([[-1.0, 2.0], [0.0, 3.0]]), I2).sqrt(),
        LinAlgError,
        r"is not positive definite: factors\[0\] is not symmetric",
    ),
    "sqrt of negative": (lambda: kron(-I2, I2).sqrt(), LinAlgError, "make it negative"),
    "a list of lists of arrays": (lambda: kron([I2, I3]), TypeError, "arrays and operators one by"),
    "an operator as an array": (lambda: np.asarray(K), TypeError, "op.to_dense.. gives its matrix"),
    "a matrix for @": (lambda: K @ np.ones((3, 2)).T, ValueError, "op.multiply takes it as it is"),
    "a matrix for solve": (
        lambda: K.solve(np.ones((3, 2)).T),
        ValueError,
        r"b.reshape\(-1\) would do",
    ),
    "a dict for block_diag": (
        lambda: kronops.block_diag({"a": I2}),
        TypeError,
        "blocks by name are BlockDiagonalOperator's",
    ),
    "a size to plan": (lambda: kronops.plan(9), TypeError, "shapes is a int: a list of sizes"),
    "a size to plan for a layer": (
        lambda: kronops.plan({"a": 9}),
        TypeError,
        r"shapes\['a'\] is a int: a list of sizes",
    ),
    "a dtype that is none": (
        lambda: K.astype("double-float"),
        ValueError,
        "no real or complex floating",
    ),
    "a dtype of integers": (lambda: K.astype("int32"), ValueError, "no real or complex floating"),
    "a sum too large to be written out": (
        lambda: (kron(np.eye(200), np.eye(200)) + DiagonalOperator(np.arange(4e4) + 1)).logdet(),
        ValueError,
        "too large to be written out; kronops.linalg.iterative_solve",
    ),
    "missing block": (
        lambda: BlockDiagonalOperator({"a": I2, "b": I2}).multiply({"a": np.ones(2)}),
        ValueError,
        r"v is a dict with the keys \['a'\], which lacks \['b'\]; what would do: a dict with the "
        r"keys \['a', 'b'\]",
    ),
    "a vector of no block": (
        lambda: BlockDiagonalOperator({("w", "b"): K}).multiply({"w": 1, "b": 2, "c": 3}),
        ValueError,
        r"and no block has \['c'\]; what would do: a dict with the keys \['w', 'b'\]",
    ),
    "a name of two blocks": (
        lambda: BlockDiagonalOperator({("w", "b"): K, "b": I2}),
        ValueError,
        "each name is of one block alone",
    ),
    "three names of a block": (
        lambda: BlockDiagonalOperator({("w", "b", "c"): K}),
        ValueError,
        "a name, or a pair of two, is needed",
    ),
    "a block whose name is a number": (
        lambda: BlockDiagonalOperator({0.5: K}),
        TypeError,
        "blocks has the key 0.5: a string, an integer or a pair is needed",
    ),
    "a block that does not fit": (
        lambda: BlockDiagonalOperator({"a": K}).multiply({"a": np.ones((3, 2))}),
        ValueError,
        r"v\['a'\] has shape \(3, 2\)",
    ),
    # algebra
    "op * op": (lambda: K * K, TypeError, r"\* is for scalars alone: compose .* by @"),
    "op * array": (lambda: K * np.ones(6), TypeError, r"\* is for scalars alone"),
    "op + scalar": (
        lambda: K + 1.0,
        TypeError,
        r"use op.damped\(value\), or op \+ value \* Identity",
    ),
    "scalar - op": (lambda: 1.0 - K, TypeError, r"use op.damped"),
    "op + array": (lambda: K + np.eye(6), TypeError, r"op \+ DenseOperator\(array\)"),
    "op * text": (lambda: K * "2", TypeError, "the scalar is a str"),
    "op / 0": (lambda: K / 0.0, ZeroDivisionError, "division"),
    "shapes of a sum": (
        lambda: K + DenseOperator(I2),
        ValueError,
        r"\(6, 6\) \+ \(2, 2\): one shape",
    ),
    "shapes of a product": (
        lambda: K @ DenseOperator(I2),
        ValueError,
        r"\(6, 6\) @ \(2, 2\): inner sizes must agree",
    ),
    "scalars out of range": (
        lambda: 1e200 * (1e200 * DenseOperator(I2)),
        OverflowError,
        "1e\\+200 and 1e\\+200 multiply",
    ),
    "a field": (lambda: setattr(K, "scale", 2.0), AttributeError, "scale"),
    # functions
    "inverse of a rectangle": (
        lambda: kron(np.ones((2, 3))).inverse(),
        ValueError,
        r"inverse needs a sq",
    ),
    "complex exponent": (lambda: K.power(1j), TypeError, "p = 1j is complex"),
    "norm": (lambda: K.norm("max"), ValueError, 'ord = \'max\': "fro", "nuc", 1, 2 and inf'),
    "to_dense": (
        lambda: kron(*[I2] * 20).to_dense(),
        ValueError,
        "= 1099511627776 entries, more than limit",
    ),
    "logdet": (
        lambda: DenseOperator(np.diag([-1.0, 1.0])).logdet(),
        LinAlgError,
        "with sign -1: use slogd",
    ),
    "eigh": (lambda: kron(SKEW).eigh(), LinAlgError, r"factors\[0\] \(2 x 2\) is not symmetric"),
    "sqrt of indefinite": (
        lambda: kron(np.diag([-1.0, 1.0])).sqrt(),
        LinAlgError,
        "not positive definite",
    ),
    "cholesky of indefinite": (
        lambda: kron(np.diag([1.0, -1.0])).cholesky(),
        LinAlgError,
        "not positive de",
    ),
    "claimed definite": (
        lambda: DenseOperator(np.diag([1.0, -1.0]), "positive definite").solve(np.ones(2)),
        LinAlgError,
        r"matrix \(2 x 2\) is not positive definite",
    ),
    "method": (
        lambda: K.damped(1.0, method="kfac"),
        ValueError,
        'method = \'kfac\': "exact" and "fact',
    ),
    "factored": (
        lambda: DenseOperator(I2).damped(1.0, method="factored"),
        ValueError,
        "this is a DenseOperator",
    ),
    "pi": (
        lambda: K.damped(1.0, method="factored", pi="off"),
        ValueError,
        "pi = 'off': \"trace\" or a",
    ),
    "negative pi": (lambda: K.damped(1.0, method="factored", pi=-1), ValueError, "pi = -1"),
    "pi of three": (
        lambda: kron(I2, I2, I2).damped(1.0, "factored", pi=2.0),
        ValueError,
        "between two factors, not 3",
    ),
    "negative damping": (
        lambda: K.damped(-0.5),
        ValueError,
        "value = -0.5 is negative: a real number",
    ),
    "NaN damping": (lambda: K.damped(float("nan")), ValueError, "value = nan: a finite number"),
    "infinite damping": (lambda: K.damped(np.inf), ValueError, "value = inf"),
    "complex damping": (lambda: K.damped(1j), TypeError, "complex: a real number"),
    "vector damping": (lambda: K.damped(np.ones(6)), TypeError, "value is a ndarray"),
    "text damping": (lambda: K.damped("1e-3"), TypeError, "value is a str"),
    "astype": (lambda: (1j * K).astype(np.float64), ValueError, "lose imaginary parts"),
    "backend": (lambda: K.to_backend("nolib"), ValueError, "no array library called 'nolib'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    act, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        act()


SOLVES = {
    "exactly singular": SINGULAR,
    "a zero row": np.diag([1.0, 0.0]),
    "rank deficient": np.ones((4, 4)),
    "rank deficient moments": (lambda x: x.T @ x)(np.random.default_rng(0).standard_normal((3, 6))),
    "singular and not symmetric": np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]),
}


@pytest.mark.parametrize("library", [np, strict], ids=["numpy", "array_api_strict"])
@pytest.mark.parametrize("name", SOLVES)
def test_singular_without_damping_names_the_factor(name, library):
    good, bad = library.asarray(I3.copy()), library.asarray(SOLVES[name].copy())
    op = kron(good, bad)
    with pytest.raises(LinAlgError, match=rf"factors\[1\] \({len(SOLVES[name])} x .* is singular"):
        op.solve(library.ones(op.shape[0]))
    damped = op.damped(1e-3)
    x = damped.solve(library.ones(op.shape[0]))
    assert float(library.max(library.abs(damped @ x - 1.0))) < 1e-9


def test_singular_determinants_are_zero_not_errors():
    for op in (kron(I2, SINGULAR), DiagonalOperator(np.array([0.0, 1.0])), 0 * K):
        sign, logabsdet = op.slogdet()
        assert sign == 0 and logabsdet == -np.inf and op.logdet() == -np.inf


def test_damping_that_cancels_an_eigenvalue():
    op = kron(np.diag([-2.0, 1.0]), np.diag([1.0, 3.0])).damped(2.0)
    with pytest.raises(LinAlgError, match="singular"):
        op.solve(np.ones(4))


@pytest.mark.parametrize("condition, warned", [(1e12, False), (3e15, True)])
def test_near_singular_warns(condition, warned):
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    matrix = (q * np.geomspace(1, 1 / condition, 6)) @ q.T
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DenseOperator(matrix).solve(np.ones(6))
    assert [w.category for w in caught] == [LinAlgWarning] * warned
    if warned:
        assert "condition number" in str(caught[0].message)
        assert caught[0].filename == __file__


def test_the_determinant_of_a_matrix_singular_to_rounding_warns():
    x = np.linspace(0, 1, 60)
    kernel = np.exp(-0.5 * ((x[:, None] - x) / 0.3) ** 2)
    with pytest.warns(LinAlgWarning, match=r"factors\[0\] \(60 x 60\) has condition number"):
        kron(kernel).slogdet()


def test_units_do_not_make_a_matrix_singular():
    units = np.array([1e-9, 1.0, 1e12])
    matrix = np.array([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]]) * units * units[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)
        x = DenseOperator(matrix).solve(matrix @ (1 / units))
    np.testing.assert_allclose(x * units, 1, rtol=1e-13)


def test_errors_are_those_of_numpy_and_torch():
    assert issubclass(LinAlgError, np.linalg.LinAlgError)
    assert issubclass(LinAlgError, RuntimeError)
    assert issubclass(LinAlgWarning, Warning)


def test_no_closed_form_says_so():
    op = kron(I2, 2 * I2) + kron(I2 + 0.1, I2) + DiagonalOperator(np.arange(1.0, 5.0))
    with pytest.warns(kronops.DensificationWarning, match=r"SumOperator \(4, 4\) is written out"):
        op.solve(np.ones(4))


# -- what is promoted --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "bool", ">f8", ">i4"])
def test_integers_and_foreign_byte_order_are_promoted(dtype):
    matrix = np.array([[100, 1], [1, 100]]).astype(dtype)
    op = kron(matrix, matrix)
    assert op.dtype == np.float64
    wide = np.kron(matrix.astype(float), matrix.astype(float))
    np.testing.assert_array_equal(op @ np.ones(4), wide @ np.ones(4))


def test_integer_vectors_take_the_operators_dtype():
    op = kron(I2.astype(np.float32), I2.astype(np.float32))
    assert (op @ np.arange(4)).dtype == np.float32


def test_scalars_do_not_promote():
    op = kron(I2.astype(np.float32), I2.astype(np.float32))
    for made in (2.0 * op, np.float64(2) * op, op.damped(1e-3), op / 3, op.damped(1, "factored")):
        assert made.dtype == np.float32
        assert (made @ np.ones(4, np.float32)).dtype == np.float32
        assert made.solve(np.ones(4, np.float32)).dtype == np.float32
        assert np.asarray(made.logdet()).dtype == np.float32


def test_check_finite_opts_out():
    assert np.isnan(KroneckerOperator([NAN], check_finite=False) @ np.ones(2)).any()


# -- snapshots ---------------------------------------------------------------------------------


def test_an_operator_is_a_snapshot():
    a, b, d = 2 * I2, 3 * I2, np.ones(4)
    ops = [
        kron(a, b),
        DenseOperator(a),
        DiagonalOperator(d),
        BlockDiagonalOperator([a, b]),
        KroneckerEigenOperator([I2.copy(), I2.copy()], d),
        SeriesOperator((a, 0 * a), (b, 0 * b), 2, 1),
    ]
    before = [op.to_dense() for op in ops]
    a[:] = b[:] = np.nan
    d[:] = np.nan
    for op, dense in zip(ops, before, strict=True):
        np.testing.assert_array_equal(op.to_dense(), dense)
        assert np.isfinite(op.solve(np.ones(op.shape[0]))).all()


def test_the_arrays_of_an_operator_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        kron(I2).factors[0].matrix[0, 0] = 5.0


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.asfortranarray(x.reshape(2, 3)).T.ravel(),
    ],
    ids=["negative stride", "zero stride", "transposed"],
)
def test_any_memory_layout(view):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2))[::-1].T, rng.standard_normal((3, 3))[:, ::-1]
    x = view(rng.standard_normal(6))
    x.flags.writeable = False
    np.testing.assert_allclose(kron(a, b) @ x, np.kron(a, b) @ x)
    np.testing.assert_allclose(kron(a, b).solve(x), np.linalg.solve(np.kron(a, b), x))


PAIR_OF_FACTORS = kron(np.ones((2, 12)), np.ones((3, 4)))  # 6 × 48
DRAWN = {
    "op @ x": (lambda: K @ np.ones(5), ["(6, 6) @ (5,)", "    ╰─ ≠ ─╯"]),
    "a stack": (lambda: K @ np.ones((2, 7, 3)), ["(6, 6) @ (2, 7, 3)", "    ╰── ≠ ───╯"]),
    "x @ op": (lambda: np.ones(48) @ PAIR_OF_FACTORS, ["(48,) @ (6, 48)", "  ╰─ ≠ ──╯"]),
    "X @ op": (
        lambda: np.ones((2, 48)) @ PAIR_OF_FACTORS,
        ["(2, 48) @ (6, 48)", "     ╰─ ≠ ─╯"],
    ),
    "b": (lambda: K.solve(np.ones(7)), ["(6, 6) @ (7,)", "    ╰─ ≠ ─╯"]),
    "op @ op": (lambda: K @ PAIR_OF_FACTORS.H, ["(6, 6) @ (48, 6)", "    ╰─ ≠ ──╯"]),
    "op + op": (lambda: K + PAIR_OF_FACTORS, ["(6, 6) + (6, 48)", "    ╰─── ≠ ───╯"]),
    "rows": (lambda: K - PAIR_OF_FACTORS.H, ["(6, 6) + (48, 6)", " ╰─── ≠ ───╯"]),
    "a matrix": (lambda: K.multiply(np.ones((3, 2))), ["v  (3, 2)", "op (2, 3)", "    ≠  ≠"]),
    "flat": (lambda: K.multiply(np.ones(7)), ["v  (  7,)", "op (2·3,)", "      ≠"]),
    "a kernel": (
        lambda: PAIR_OF_FACTORS.multiply(np.ones((3, 3, 4))),
        ["v  (3·3, 4)", "op ( 12, 4)", "      ≠  ="],
    ),
    "weights": (
        lambda: PAIR_OF_FACTORS.multiply((np.ones((3, 4, 4)), np.ones(4))),
        ["weights (3·4, 4)", "op      ( 11, 4)", "           ≠  ="],
    ),
    "a block": (
        lambda: BlockDiagonalOperator([K]).multiply([np.ones(7)]),
        ["v[0] (  7,)", "op   (2·3,)", "        ≠"],
    ),
    "a solver": (lambda: kronops.linalg.cg(K, np.ones(7)), ["b (7,)", "A (6,)", "   ≠"]),
}


@pytest.mark.parametrize("call, lines", DRAWN.values(), ids=DRAWN)
def test_shapes_that_do_not_fit_are_drawn(call, lines):
    with pytest.raises(ValueError, match="shape") as caught:
        call()
    assert [line[4:] for line in str(caught.value).splitlines()[1:]] == lines


def test_what_fits_no_drawing_has_words_alone():
    for bad in (np.ones(()), 3.0):
        with pytest.raises(ValueError, match="would do") as caught:
            K.multiply(bad)
        assert "\n" not in str(caught.value)


def test_operators_of_other_libraries_are_told_how():
    sparse = scipy.sparse.eye_array(6)
    with pytest.raises(TypeError, match=r"op \+ dia_array: .* op \+ kronops.aslinearoperator"):
        K + sparse
    with pytest.raises(TypeError, match=r"factors\[1\] is a dia_array: .*kronops.aslinearoperator"):
        kron(I2, sparse)
