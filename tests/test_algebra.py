"""Structure in, structure out: which operator comes out of which operation."""

from __future__ import annotations

import numpy as np
import pytest

import kronops
from kronops import (
    BlockDiagonalOperator,
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    InverseOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    LowRankUpdateOperator,
    MaskedOperator,
    ProductOperator,
    ScaledOperator,
    SumOperator,
    ToeplitzOperator,
    kron,
)

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.standard_normal(shape)


def definite(n):
    a = draw(n, n)
    return a @ a.T + np.eye(n)


A, B, C, D = definite(2), definite(3), draw(2, 2), draw(3, 3)
K, L = kron(A, B), kron(C, D)
IDENTITY = IdentityOperator(6, like=A)
DIAGONAL = DiagonalOperator(np.arange(1.0, 7))
SUM, GENERAL_SUM = KroneckerSumOperator([A, B]), KroneckerSumOperator([C, D])
BLOCKS = kronops.block_diag(A, B)
MASK = np.asarray([True, False, True, True, False, True])
MASKED = kronops.MaskedOperator(L, MASK)
TOEPLITZ = kronops.ToeplitzOperator(draw(6), draw(6))
UPDATED = LowRankUpdateOperator(K, draw(6, 2))

CLOSED = {
    "K @ L": (lambda: K @ L, KroneckerOperator),
    "K.inverse()": (lambda: K.inverse(), KroneckerOperator),
    "K.power(0.5)": (lambda: K.power(0.5), KroneckerOperator),
    "K.power(-2)": (lambda: K.power(-2), KroneckerOperator),
    "K.sqrt()": (lambda: K.sqrt(), KroneckerOperator),
    "K.cholesky()": (lambda: K.cholesky(), KroneckerOperator),
    "L.T": (lambda: L.T, KroneckerOperator),
    "L.H": (lambda: L.H, KroneckerOperator),
    "factored": (lambda: K.damped(0.1, method="factored"), KroneckerOperator),
    "exact": (lambda: K.damped(0.1), KroneckerEigenOperator),
    "twice damped": (lambda: K.damped(0.1).damped(0.2), KroneckerEigenOperator),
    "damped + c I": (lambda: K.damped(0.1) + 2 * IDENTITY, KroneckerEigenOperator),
    "damped + damped": (lambda: K.damped(0.1) + K.damped(0.3), KroneckerEigenOperator),
    "damped @ damped": (lambda: K.damped(0.1) @ K.damped(0.3), KroneckerEigenOperator),
    "damped inverse": (lambda: K.damped(0.1).inverse(), KroneckerEigenOperator),
    "damped power": (lambda: K.damped(0.1).power(0.3), KroneckerEigenOperator),
    "(K + c I) inverse": (lambda: (K + 0.1 * IDENTITY).inverse(), KroneckerEigenOperator),
    "3 * K": (lambda: 3 * K, KroneckerOperator),
    "K + K": (lambda: K + K, KroneckerOperator),
    "A⊗B + A⊗D": (lambda: kron(A, B) + kron(A, D), KroneckerOperator),
    "flattened": (lambda: kron(A, K), KroneckerOperator),
    "sum damped": (lambda: SUM.damped(0.1), KroneckerSumOperator),
    "2 * sum": (lambda: 2 * SUM, KroneckerSumOperator),
    "-sum": (lambda: -GENERAL_SUM, KroneckerSumOperator),
    "sum + sum": (lambda: SUM + 2 * GENERAL_SUM, KroneckerSumOperator),
    "sum - sum": (lambda: SUM - SUM.damped(1.0), KroneckerSumOperator),
    "sum + c I": (lambda: SUM + 2 * IDENTITY, KroneckerSumOperator),
    "c I - sum": (lambda: 2 * IDENTITY - SUM, KroneckerSumOperator),
    "sum of sums": (lambda: KroneckerSumOperator([SUM, A]), KroneckerSumOperator),
    "sum.H": (lambda: GENERAL_SUM.H, KroneckerSumOperator),
    "sum.T": (lambda: GENERAL_SUM.T, KroneckerSumOperator),
    "sum inverse": (lambda: SUM.inverse(), KroneckerEigenOperator),
    "2 * sum inverse": (lambda: 2 * SUM.inverse(), KroneckerEigenOperator),
    "general sum inverse": (lambda: GENERAL_SUM.inverse(), InverseOperator),
    "sum power": (lambda: SUM.power(-0.3), KroneckerEigenOperator),
    "sum sqrt": (lambda: SUM.sqrt(), KroneckerEigenOperator),
    "sum squared": (lambda: SUM.power(2), KroneckerEigenOperator),
    "diagonal + diagonal": (lambda: DIAGONAL + DIAGONAL, DiagonalOperator),
    "diagonal @ diagonal": (lambda: DIAGONAL @ DIAGONAL, DiagonalOperator),
    "diagonal + I": (lambda: DIAGONAL + IDENTITY, DiagonalOperator),
    "I + diagonal": (lambda: IDENTITY - DIAGONAL, DiagonalOperator),
    "diagonal power": (lambda: DIAGONAL.power(-0.5), DiagonalOperator),
    "2 * diagonal": (lambda: 2 * DIAGONAL, DiagonalOperator),
    "blocks @ blocks": (lambda: BLOCKS @ BLOCKS, BlockDiagonalOperator),
    "blocks + blocks": (lambda: BLOCKS + BLOCKS, BlockDiagonalOperator),
    "blocks + I": (lambda: BLOCKS + IdentityOperator(5, like=A), BlockDiagonalOperator),
    "blocks inverse": (lambda: BLOCKS.inverse(), BlockDiagonalOperator),
    "blocks power": (lambda: BLOCKS.power(0.5), BlockDiagonalOperator),
    "blocks cholesky": (lambda: BLOCKS.cholesky(), BlockDiagonalOperator),
    "damped blocks": (lambda: BLOCKS.damped(0.5), BlockDiagonalOperator),
    "dense + dense": (lambda: DenseOperator(A) + DenseOperator(C), DenseOperator),
    "I @ K": (lambda: IDENTITY @ K, KroneckerOperator),
    "K @ I": (lambda: K @ IDENTITY, KroneckerOperator),
    "K.power(0)": (lambda: K.power(0), IdentityOperator),
    "2 * update": (lambda: 2 * UPDATED, LowRankUpdateOperator),
    "update + base": (lambda: K - UPDATED, LowRankUpdateOperator),
    "update + unlike": (lambda: UPDATED + DIAGONAL, SumOperator),
    "update + I": (lambda: IDENTITY + UPDATED, LowRankUpdateOperator),
    "damped update": (lambda: UPDATED.damped(0.1).base, KroneckerEigenOperator),
    "masked K": (lambda: K.masked(MASK), MaskedOperator),
    "masked diagonal": (lambda: DIAGONAL.masked(MASK), DiagonalOperator),
    "masked identity": (lambda: IDENTITY.masked(MASK), IdentityOperator),
    "masked multiple": (lambda: (2 * IDENTITY).masked(MASK).base, IdentityOperator),
    "masked matrix": (
        lambda: DenseOperator(B, "positive definite").masked(MASK[:3]),
        DenseOperator,
    ),
    "damped mask": (lambda: K.masked(MASK).damped(0.1).base, KroneckerEigenOperator),
    "2 * masked": (lambda: 2 * K.masked(MASK), MaskedOperator),
    "masked.T": (lambda: L.masked(MASK).T, MaskedOperator),
    "masked twice": (lambda: K.masked(MASK).masked(MASK[:4]).base, KroneckerOperator),
    "masked + masked": (lambda: MASKED - K.masked(MASK), MaskedOperator),
    "of two masks": (lambda: MASKED + K.masked(np.roll(MASK, 1)), SumOperator),
    "Toeplitz.H": (lambda: TOEPLITZ.H, ToeplitzOperator),
    "Toeplitz.T": (lambda: TOEPLITZ.T, ToeplitzOperator),
    "1j * Toeplitz": (lambda: 1j * TOEPLITZ, ToeplitzOperator),
    "Toeplitz + Toeplitz": (lambda: TOEPLITZ + 2 * TOEPLITZ.H, ToeplitzOperator),
    "Toeplitz + I": (lambda: IDENTITY - TOEPLITZ, ToeplitzOperator),
    "damped Toeplitz": (lambda: TOEPLITZ.damped(0.5), ToeplitzOperator),
    "Toeplitz factor": (lambda: kron(TOEPLITZ, A).H.factors[0], ToeplitzOperator),
    "update.H": (lambda: UPDATED.H, LowRankUpdateOperator),
    "update.T": (lambda: UPDATED.T, LowRankUpdateOperator),
    "base of the update's inverse": (lambda: UPDATED.inverse().base, KroneckerOperator),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_under(name):
    make, kind = CLOSED[name]
    assert type(make()) is kind


def test_double_inverses_and_adjoints_are_the_original():
    ops = K, L, DIAGONAL, BLOCKS, DenseOperator(C), K.damped(0.1), L.damped(0.1), SUM, GENERAL_SUM
    for op in (*ops, UPDATED):
        assert op.inverse().inverse() is op
    product = DenseOperator(C) @ DenseOperator(A)
    assert kronops.AdjointOperator(product).H is product


def test_a_mask_that_is_true_throughout_leaves_the_operator():
    for op in (K, DIAGONAL, IDENTITY, UPDATED):
        assert op.masked(np.ones(6, bool)) is op


def test_scalars_are_at_most_one_deep():
    op = 2 * (3 * DenseOperator(A)) * 4
    assert isinstance(op, ScaledOperator) and op.scalar == 24 and type(op.base) is DenseOperator
    assert type(0.5 * op / 12) is DenseOperator
    assert (3 * K).scale == 3


def test_scalars_are_hoisted_out_of_products():
    op = (2 * DenseOperator(A)) @ (3 * DiagonalOperator(np.ones(2))) @ (5 * DenseOperator(C))
    assert isinstance(op, ScaledOperator) and op.scalar == 10
    assert isinstance(op.base, ProductOperator) and len(op.base.factors) == 3


def test_sums_and_products_are_flat():
    many = DenseOperator(A).inverse() + DiagonalOperator(np.ones(2)) + kron(C) + kron(A)
    assert isinstance(many, SumOperator)
    assert not any(isinstance(term, SumOperator) for term in many.terms)
    chain = DenseOperator(A) @ (DenseOperator(C) @ DenseOperator(A))
    assert len(chain.factors) == 3


def test_like_terms_merge():
    op = K + DIAGONAL + 2 * K + IDENTITY
    assert isinstance(op, SumOperator) and len(op.terms) == 2
    assert {type(term) for term in op.terms} == {KroneckerOperator, DiagonalOperator}


def test_a_negative_multiple_of_a_matrix_has_a_cholesky_factor_and_powers():
    lower = (-1 * DenseOperator(-A)).cholesky()
    np.testing.assert_allclose((lower @ lower.H).to_dense(), A)
    assert type(kron(-A, -B).cholesky()) is KroneckerOperator
    np.testing.assert_allclose((K**2).to_dense(), K.to_dense() @ K.to_dense())


def test_mixed_product_multiplies_the_factors():
    op = kron(A, B) @ kron(C, D)
    assert [type(factor) for factor in op.factors] == [DenseOperator, DenseOperator]
    np.testing.assert_allclose(op.factors[0].matrix, A @ C)


def test_the_mixed_product_does_not_fill_in_thin_factors():
    thin = kron(draw(50, 1), A) @ kron(draw(1, 50), C)
    assert isinstance(thin.factors[0], ProductOperator)


def test_re_damping_reuses_the_decomposition():
    first, second = K.damped(0.1), K.damped(0.2)
    assert all(a is b for a, b in zip(first.bases, second.bases, strict=True))


def test_a_damped_product_multiplies_by_its_definition():
    x = draw(6)
    np.testing.assert_array_equal(K.damped(0.5) @ x, K @ x + 0.5 * x)


def test_factorisations_are_kept():
    op = DenseOperator(A)
    op.solve(np.ones(2))
    kept = op._factorisation
    op.solve(np.ones(2))
    assert op._factorisation is kept and K.inverse() is K.inverse()


def test_the_inverse_of_a_dense_operator_is_a_solve():
    assert type(DenseOperator(A).inverse()) is InverseOperator
    assert [type(f) for f in K.inverse().factors] == [InverseOperator] * 2


def test_domain_shapes():
    assert kron(draw(2, 3), draw(4, 5)).domain_shape == (3, 5)
    assert kron(draw(2, 3), draw(4, 5)).range_shape == (2, 4)
    assert DiagonalOperator(draw(2, 3, 4)).domain_shape == (2, 3, 4)
    blocks = BlockDiagonalOperator({"a": K, "b": A})
    assert blocks.domain_shape == {"a": (2, 3), "b": (2,)}
    assert kronops.block_diag(K, A).domain_shape == [(2, 3), (2,)]
    assert (K + kron(C, D)).domain_shape == (2, 3)
    assert (K + DenseOperator(draw(6, 6))).domain_shape == (2, 3)
    assert (K + kron(draw(3, 3), draw(2, 2))).domain_shape == (6,)


# -- structured vectors ------------------------------------------------------------------------


def test_every_form_of_a_vector():
    op = kron(draw(12, 12), draw(3, 3))
    v = draw(36)
    want = op @ v
    np.testing.assert_array_equal(op.multiply(v), want)
    np.testing.assert_array_equal(op.multiply(v.reshape(12, 3)), want.reshape(12, 3))
    kernel = v.reshape(2, 3, 2, 3)
    np.testing.assert_array_equal(op.multiply(kernel), want.reshape(2, 3, 2, 3))
    pair = (v[:33].reshape(11, 3), v[33:])
    weights, bias = op.multiply(pair)
    np.testing.assert_array_equal(weights, want[:33].reshape(11, 3))
    np.testing.assert_array_equal(bias, want[33:])
    assert type(op.multiply(pair)) is tuple and type(op.multiply(list(pair))) is list


def test_a_convolution_kernel_with_bias():
    op = kron(draw(13, 13), draw(3, 3))
    v = draw(39)
    weights, bias = op.multiply_inverse((v[:36].reshape(2, 3, 2, 3), v[36:]))
    assert weights.shape == (2, 3, 2, 3) and bias.shape == (3,)
    flat = np.concatenate([weights.ravel(), bias])
    np.testing.assert_allclose(flat, op.multiply_inverse(v), rtol=1e-10)


def test_pytorchs_layout_has_the_bias_in_the_last_column():
    a, g = definite(4), definite(2)
    v = draw(2, 4)
    pair = (v[:, :3], v[:, 3])
    sides = (g, 0.1 * g), (a, 0.1 * a)
    ops = [
        kronops.KroneckerOperator([g, a], layout="out,in"),
        DiagonalOperator(draw(2, 4) ** 2, layout="out,in"),
        kronops.SeriesOperator(*sides, 3, 1, layout="out,in"),
    ]
    ops += [op.damped(0.1, method="factored") for op in ops[::2]] + [ops[0].damped(0.1)]
    for op in [*ops, *(op.inverse() for op in ops), 2 * ops[0], ops[0] + ops[1]]:
        want = (op @ v.ravel()).reshape(2, 4)
        weights, bias = op.multiply(pair)
        np.testing.assert_array_equal(weights, want[:, :3])
        np.testing.assert_array_equal(bias, want[:, 3])
        with pytest.raises(ValueError, match="what would do"):
            op.multiply((draw(1, 4), draw(4)))  # a bias in the last row
    kernel = v.reshape(2, 2, 1, 2)
    assert ops[0].multiply(kernel).shape == kernel.shape
    with pytest.raises(ValueError, match="layout = 'io'"):
        kronops.KroneckerOperator([g, a], layout="io")


def test_a_rectangular_operator_gives_its_range_shape():
    op = kron(draw(2, 6), draw(4, 3))
    assert op.multiply(draw(6, 3)).shape == (2, 4)
    assert kron(draw(6, 6), draw(4, 3)).multiply(draw(2, 3, 3)).shape == (2, 3, 4)
    with pytest.raises(ValueError, match="which is no"):
        op.multiply((draw(5, 3), draw(3)))


def test_lazy_operators_keep_pairs():
    pair = (draw(1, 3), draw(3))
    series = kronops.SeriesOperator((A, 0.1 * A), (B, 0.1 * B), 3, 1)
    for op in (K.power(0), K + 0.5 * IDENTITY, series.damped(0.1), K @ DIAGONAL):
        weights, bias = op.multiply(pair)
        np.testing.assert_array_equal(
            np.concatenate([weights.ravel(), bias]), op @ np.concatenate([pair[0].ravel(), pair[1]])
        )
    with pytest.warns(kronops.DensificationWarning):
        assert series.damped(0.1).multiply_inverse(pair)[0].shape == (1, 3)


def test_blocks_take_lists_tuples_dicts_and_flat_arrays():
    named = BlockDiagonalOperator({"w": kron(C, D), "d": DIAGONAL})
    v = {"w": (draw(1, 3), draw(3)), "d": draw(6)}
    result = named.multiply(v)
    assert list(result) == ["w", "d"] and type(result["w"]) is tuple
    flat = np.concatenate([v["w"][0].ravel(), v["w"][1], v["d"]])
    got = np.concatenate([result["w"][0].ravel(), result["w"][1], result["d"]])
    np.testing.assert_array_equal(got, named.multiply(flat))
    back = named.multiply_inverse(result)
    np.testing.assert_allclose(back["d"], v["d"])
    listed = BlockDiagonalOperator([kron(C, D), DIAGONAL])
    for kind in (list, tuple):
        assert type(listed.multiply(kind(v.values()))) is kind
    power = named.multiply_power(v, 2)
    np.testing.assert_allclose(power["d"], DIAGONAL.entries**2 * v["d"])


@pytest.mark.parametrize("layout", ["in,out", "out,in"])
def test_a_block_of_two_names_takes_its_pair_apart(layout):
    block = KroneckerOperator([C, D], layout=layout)
    named = BlockDiagonalOperator({("w", "b"): block, "d": DIAGONAL})
    rows, columns = block.domain_shape
    pair = (draw(rows - 1, columns), draw(columns))
    if layout == "out,in":
        pair = (draw(rows, columns - 1), draw(rows))
    v = {"d": draw(6), "b": pair[1], "w": pair[0]}
    for op, plain in ((named, block), (named.inverse(), block.inverse())):
        result = op.multiply(v)
        assert list(result) == ["d", "b", "w"]
        for made, expected in zip((result["w"], result["b"]), plain.multiply(pair), strict=True):
            np.testing.assert_array_equal(made, expected)


def test_lazy_operators_keep_the_structure_of_blocks():
    op = BlockDiagonalOperator({"a": K, "b": A})
    for made in (2 * op, op + op, op @ op, op.inverse(), op.damped(1.0), op.H):
        assert set(made.multiply({"a": draw(2, 3), "b": draw(2)})) == {"a", "b"}
