"""Products of products, sums of products, products of blocks: what comes out, and what it costs."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from zoo import block_diag as dense_blocks
from zoo import kron as dense_kron
from zoo import kron_sum

import kronops
from kronops import (
    BlockDiagonalOperator,
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerEigenOperator,
    KroneckerOperator,
    KroneckerSumOperator,
    ProductOperator,
    SumOperator,
    block_diag,
    kron,
)

rng = np.random.default_rng(0)
numpy_backend = type(kron(np.eye(1)).backend)


def draw(*shape):
    return rng.standard_normal(shape)


def definite(n):
    a = draw(n, n)
    return a @ a.T / n + np.eye(n)


def identity(n):
    return IdentityOperator(n, like=np.zeros(0))


def flops(op):
    """Of a product with one vector, as `explain` has them."""
    return op._account("multiply", 1).total("flops")


@pytest.fixture(autouse=True)
def _never_written_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error", kronops.DensificationWarning)
        yield


# Shapes of the factors on the left and on the right, and of those of the product.
RUNS = {
    "one by one": ([(2, 3), (4, 5)], [(3, 6), (5, 2)], [(2, 6), (4, 2)]),
    "two by one": ([(3, 3), (5, 5), (7, 7)], [(15, 15), (7, 7)], [(15, 15), (7, 7)]),
    "one by two": ([(15, 15), (7, 7)], [(3, 3), (5, 5), (7, 7)], [(15, 15), (7, 7)]),
    "at the end": ([(2, 2), (3, 3), (5, 5)], [(2, 2), (15, 15)], [(2, 2), (15, 15)]),
    "rectangular": ([(2, 3), (4, 5), (7, 2)], [(15, 3), (2, 4)], [(8, 3), (7, 4)]),
    "two by two": ([(4, 4), (9, 9), (2, 2)], [(6, 6), (6, 6), (2, 3)], [(36, 36), (2, 3)]),
    "a column first": ([(2, 1), (4, 3)], [(3, 5)], [(2, 1), (4, 5)]),
    "a row last": ([(4, 3)], [(3, 5), (1, 2)], [(4, 5), (1, 2)]),
    "ones in pairs": ([(2, 1), (4, 3)], [(1, 1), (3, 2), (1, 5)], [(2, 1), (4, 2), (1, 5)]),
    "ones inside": ([(2, 2), (1, 1), (3, 3), (5, 5)], [(6, 6), (5, 1)], [(6, 6), (5, 1)]),
    "no columns": ([(2, 0), (3, 5)], [(0, 2), (5, 5)], [(2, 2), (3, 5)]),
}


class TestMixedProducts:
    @pytest.mark.parametrize("name", RUNS)
    def test_of_runs_of_factors(self, name):
        left, right, shapes = RUNS[name]
        a, b = [draw(*shape) for shape in left], [draw(*shape) for shape in right]
        op = (2 * kron(*a)) @ kronops.KroneckerOperator(b, scale=0.5j)
        assert type(op) is KroneckerOperator and op.scale == 1j
        assert [factor.shape for factor in op.factors] == shapes
        assert op.domain_shape == tuple(columns for _, columns in shapes)
        want = 1j * dense_kron(*a) @ dense_kron(*b)
        np.testing.assert_allclose(op.to_dense(), want, atol=1e-12)
        np.testing.assert_allclose(op.H.to_dense(), want.conj().T, atol=1e-12)

    def test_the_parts_of_a_square_run_may_be_rectangular(self):
        """The run is inverted as a whole."""
        a, b, e, c, f = draw(2, 3), draw(2, 2), definite(4), draw(6, 4), definite(4)
        op = kron(a, b, e) @ kron(c, f)
        want = dense_kron(a, b, e) @ dense_kron(c, f)
        assert [type(factor) for factor in op.factors] == [DenseOperator, DenseOperator]
        assert type(op.inverse()) is KroneckerOperator
        np.testing.assert_allclose(op.inverse().to_dense(), np.linalg.inv(want), rtol=1e-9)
        assert op.slogdet().logabsdet == pytest.approx(np.linalg.slogdet(want)[1])
        said = op.explain()
        assert "(A ⊗ B)⁻¹ = A⁻¹ ⊗ B⁻¹" in said and "singular" not in said

    def test_runs_that_are_cheaper_apart_stay_apart(self):
        left, right = kron(definite(4), definite(9), definite(2)), kron(*map(definite, (6, 6, 2)))
        op = left @ right
        assert [type(factor) for factor in op.factors] == [ProductOperator, DenseOperator]
        assert [type(part) for part in op.factors[0].factors] == [KroneckerOperator] * 2
        wanted = np.linalg.slogdet(left.to_dense() @ right.to_dense())[1]
        assert op.logdet() == pytest.approx(wanted)
        assert "log |A B| = log |A| + log |B|" in op.explain()

    @pytest.mark.parametrize(
        "left, right",
        [
            ([(70, 70), (10, 10), (80, 80)], [(700, 700), (80, 80)]),
            ([(300, 300), (80, 80)], [(100, 100), (3, 300), (80, 80)]),
            ([(100, 100), (90, 90), (80, 80)], [(75, 75), (120, 120), (80, 80)]),
            ([(100, 1), (90, 1), (2, 2)], [(1, 9000), (2, 2)]),
        ],
    )
    def test_no_run_is_dearer_than_what_it_is_made_of(self, left, right):
        """Larger than what is merged, which costs flops and saves time."""
        a, b = (kron(*[np.ones(shape, "float32") for shape in part]) for part in (left, right))
        run = (a @ b).factors[0]
        parts = [kron(*op.factors[:-1]) for op in (a, b)]
        assert flops(run) <= 1.001 * sum(map(flops, parts))

    def test_thin_runs_are_not_filled_in(self):
        op = kron(draw(20, 1), draw(20, 1), definite(3)) @ kron(draw(1, 400), definite(3))
        assert flops(op.factors[-2]) < 3000
        huge = kron(draw(100, 1), draw(100, 1), draw(2, 2)) @ kron(draw(1, 10**4), draw(2, 2))
        assert huge.shape == (20_000, 20_000)  # and nothing of that size was made

    def test_what_has_no_run_of_its_own_is_a_product(self):
        for left, right in (([4, 9], [6, 6]), ([15], [3, 5]), ([3, 5], [15])):
            op = kron(*map(definite, left)) @ kron(*map(definite, right))
            assert type(op) is ProductOperator
        empty = kron(draw(2, 0), draw(3, 5)) @ kron(draw(5, 2), draw(0, 5))
        assert type(empty) is ProductOperator
        np.testing.assert_array_equal(empty.to_dense(), np.zeros((6, 10)))

    def test_layouts_are_kept_apart(self):
        factors = [definite(2), definite(3), definite(2)], [definite(6), definite(2)]
        ops = [KroneckerOperator(part, layout="out,in") for part in factors]
        made = ops[0] @ ops[1]
        assert made.layout == "out,in" and len(made.factors) == 2
        assert type(ops[0] @ kron(*factors[1])) is ProductOperator

    @pytest.mark.parametrize("big", [2.0**600, 2.0**-600])
    def test_of_factors_of_extreme_size(self, big):
        a, b, c = definite(2), definite(3), definite(6)
        near = kron(a, b, c) @ kron(c, c)
        op = kron(big * a, big * b, c / big) @ kron(c, c / big)
        assert [factor.shape for factor in op.factors] == [(6, 6), (6, 6)]
        np.testing.assert_allclose(op.to_dense(), near.to_dense(), rtol=1e-12, atol=1e-12)
        thin = kron(big * draw(6, 2), big * draw(6, 2), c / big) @ kron(draw(4, 36), c / big)
        assert type(thin) is ProductOperator
        x = thin @ np.ones(216)
        assert np.all(np.isfinite(x)) and np.all(x != 0)

    def test_powers(self):
        a, b, c, d = (draw(n, n) for n in (2, 3, 2, 3))
        op = kron(a, b) @ kron(c, d)
        want = dense_kron(a, b) @ dense_kron(c, d)
        for p in (2, 3, -1, -2):
            assert type(op**p) is KroneckerOperator
            np.testing.assert_allclose((op**p).to_dense(), np.linalg.matrix_power(want, p))
        diagonal = DiagonalOperator(np.arange(1.0, 7.0))
        product = kron(a, b) @ diagonal
        matrix = dense_kron(a, b) @ np.diag(np.arange(1.0, 7.0))
        for p in (2, -2):
            want = np.linalg.matrix_power(matrix, p)
            np.testing.assert_allclose(product.power(p).to_dense(), want, rtol=1e-8)


class TestDiagonalsAndIdentities:
    def test_they_cost_nothing_or_one_pass(self):
        a, d = definite(20), DiagonalOperator(rng.random(30) + 1)
        alone = flops(kron(a, identity(30)))
        assert alone == 30 * 20 * 39 and flops(kron(identity(5), identity(6))) == 0
        assert flops(kron(a, d)) == alone + 600
        assert flops(kron(d, d, d)) <= 3 * 30**3
        x = draw(600)
        np.testing.assert_array_equal(kron(identity(20), identity(30)) @ x, x)

    def test_the_identity_leaves_what_it_multiplies(self):
        op = kron(definite(3), definite(5))
        ones = kron(identity(3), identity(5))
        for made in (op @ identity(15), op @ ones, ones @ op, op @ kron(identity(15))):
            assert made is op
        assert (op @ (2 * ones)).scale == 2
        made = kron(definite(3), identity(5)) @ kron(identity(3), definite(5))
        assert [type(factor) for factor in made.factors] == [DenseOperator, DenseOperator]
        made = kron(op, definite(7)) @ kron(identity(15), definite(7))
        assert [factor.shape[0] for factor in made.factors] == [3, 5, 7]

    def test_what_is_diagonal_stays_diagonal(self):
        d, e = DiagonalOperator(draw(3)), DiagonalOperator(draw(5))
        for made in (kron(d, e) @ kron(e, d).T, kron(d, e).inverse(), kron(d, e) ** 2):
            assert all(
                isinstance(part, DiagonalOperator)
                for factor in made.factors
                for part in getattr(factor, "factors", [factor])
            )


class TestSums:
    A, B, C = definite(2), definite(3), definite(4)

    def test_products_that_differ_in_one_factor(self):
        other, solve = definite(3), DenseOperator(self.C)
        for shared in (
            [self.A, self.C],
            [DenseOperator(self.A), solve.inverse()],
            [DiagonalOperator(draw(2)), DiagonalOperator(draw(2, 2))],
            [identity(2), block_diag(self.A, self.A)],
        ):
            first, last = shared
            op = 2 * kron(first, self.B, last) - kron(first, other, last)
            assert type(op) is KroneckerOperator and type(op.factors[1]) is DenseOperator
            np.testing.assert_allclose(op.factors[1].to_dense(), 2 * self.B - other)
            want = dense_kron(kron(first).to_dense(), 2 * self.B - other, kron(last).to_dense())
            np.testing.assert_allclose(op.to_dense(), want, atol=1e-12)

    def test_equal_factors_need_not_be_one_object(self):
        makers = (
            lambda: DenseOperator(self.C),
            lambda: DenseOperator(self.C, assume="positive definite"),
            lambda: DenseOperator(self.C).inverse(),
            lambda: DiagonalOperator(np.arange(1.0, 5.0)),
            lambda: identity(4),
            lambda: block_diag(self.A, 2 * DenseOperator(self.A)),
            lambda: kronops.ToeplitzOperator(np.arange(4.0)),
            lambda: BlockDiagonalOperator({"a": self.A, "b": self.A}),
        )
        for make in makers:
            assert type(kron(self.A, make()) + kron(2 * definite(2), make())) is KroneckerOperator

    def test_unequal_factors_are_told_apart(self):
        pairs = (
            (identity(4), DiagonalOperator(np.ones(4))),
            (DenseOperator(self.C), DenseOperator(2 * self.C)),
            (DenseOperator(self.C), DenseOperator(self.C).inverse()),
            (DiagonalOperator(np.arange(4.0)), DiagonalOperator(np.arange(4.0) + 1)),
            (block_diag(self.A, self.A), block_diag(self.A, 2 * self.A)),
            (block_diag(self.A, self.A), block_diag(self.C)),
            (
                BlockDiagonalOperator({"a": self.A, "b": self.A}),
                BlockDiagonalOperator({"a": self.A, "c": self.A}),
            ),
        )
        for one, two in pairs:
            assert type(kron(self.A, one) + kron(definite(2), two)) is SumOperator

    def test_sides_make_a_kronecker_sum(self):
        """``A⊗I⊗I + I⊗B⊗I + I⊗I⊗C + c·I = A ⊕ B ⊕ C + c·I``."""
        sides = [
            kron(self.A, identity(3), identity(4)),
            -2 * kron(identity(2), self.B, identity(4)),
            kron(identity(2), identity(3), self.C),
        ]
        op = sides[0] + sides[1] + sides[2] + 3 * kron(identity(2), identity(3), identity(4))
        assert type(op) is KroneckerSumOperator and op.shift == 3
        assert [type(factor.H) for factor in op.factors][::2] == [DenseOperator, DenseOperator]
        want = kron_sum(self.A, -2 * self.B, self.C) + 3 * np.eye(24)
        np.testing.assert_allclose(op.to_dense(), want, atol=1e-12)
        np.testing.assert_allclose(op.solve(want @ np.ones(24)), np.ones(24))
        twice = op + sides[2]
        assert type(twice) is KroneckerSumOperator
        np.testing.assert_allclose(twice.to_dense(), want + sides[2].to_dense(), atol=1e-12)
        found, error = kronops.nearest_kronecker(op, [(2, 2), (3, 3), (4, 4)], terms=1)
        assert error == pytest.approx(np.linalg.norm(want - found.to_dense()))

    def test_terms_merge_in_any_order(self):
        """What two of them become may merge with a third that neither did."""
        terms = [
            3 * kron(identity(2), identity(3)),
            kron(self.A, identity(3)),
            kron(identity(2), self.B),
        ]
        want = kron_sum(self.A, self.B) + 3 * np.eye(6)
        for order in itertools.permutations(terms):
            op = order[0] + order[1] + order[2]
            assert type(op) is KroneckerSumOperator
            np.testing.assert_allclose(op.to_dense(), want)

    def test_what_is_no_kronecker_sum(self):
        unlike = kron(self.A, identity(3)) + kron(definite(2), self.B)
        swapped = kron(identity(3), self.A) + kron(self.A, identity(3))
        marked = [[self.A, identity(3)], [identity(2), self.B]]
        out_in = [KroneckerOperator(factors, layout="out,in") for factors in marked]
        for op in (unlike, swapped, out_in[0] + out_in[1]):
            assert type(op) is SumOperator

    def test_multiples_of_the_identity_damp(self):
        op = kron(self.A, self.B) + 0.5 * kron(identity(2), identity(3))
        assert type(op.inverse()) is KroneckerEigenOperator
        want = dense_kron(self.A, self.B) + 0.5 * np.eye(6)
        assert op.logdet() == pytest.approx(np.linalg.slogdet(want)[1])


class TestBlocks:
    def test_kronecker_products_of_blocks_use_them(self, monkeypatch):
        """No factorisation is of more than a block."""
        a, b, c, d = definite(2), definite(3), definite(1), definite(2)
        op = kron(block_diag(a, b), block_diag(c, d))
        want = dense_kron(dense_blocks(a, b), dense_blocks(c, d))
        for name in ("cholesky", "lu", "eigh", "svd"):
            whole = getattr(numpy_backend, name)

            def small(self, matrix, *args, whole=whole, **kwargs):
                assert matrix.shape[-1] <= 3
                return whole(self, matrix, *args, **kwargs)

            monkeypatch.setattr(numpy_backend, name, small)
        x, eye = draw(15), np.eye(15)
        np.testing.assert_allclose(op @ x, want @ x)
        np.testing.assert_allclose(op.solve(x), np.linalg.solve(want, x))
        np.testing.assert_allclose(op.damped(0.1).solve(x), np.linalg.solve(want + 0.1 * eye, x))
        assert op.logdet() == pytest.approx(np.linalg.slogdet(want)[1])
        values, vectors = op.eigh()
        np.testing.assert_allclose(values, np.linalg.eigvalsh(want))
        np.testing.assert_allclose((vectors.to_dense() * values) @ vectors.to_dense().T, want)
        np.testing.assert_allclose(op.svd().S, values[::-1])
        root = op.power(0.5)
        np.testing.assert_allclose((root @ root).to_dense(), want)
        for made in (op.inverse(), root, op.cholesky(), op.pinv(), op.damped(0.1, "factored")):
            assert type(made) is KroneckerOperator
            assert all(isinstance(factor, BlockDiagonalOperator) for factor in made.factors)
        lower = op.cholesky().to_dense()
        np.testing.assert_allclose(lower @ lower.T, want)
        assert isinstance(op.logm(), KroneckerSumOperator)
        assert op.norm(2) == pytest.approx(values[-1])
        assert op.sample(rng, (3,)).shape == (3, 15)
        assert "block by block" in op.explain() and "written out" not in op.explain()

    def test_schur_forms_are_those_of_the_blocks(self, monkeypatch):
        blocks, other = [draw(2, 2), draw(1, 1), draw(3, 3)], draw(2, 2)
        seen, schur = [], numpy_backend.schur

        def small(self, matrix):
            seen.append(matrix.shape[0])
            return schur(self, matrix)

        monkeypatch.setattr(numpy_backend, "schur", small)
        op = kron(block_diag(*blocks), other).damped(9.0)
        want = dense_kron(dense_blocks(*blocks), other) + 9 * np.eye(12)
        x = draw(12)
        np.testing.assert_allclose(op.solve(want @ x), x)
        assert op.slogdet().logabsdet == pytest.approx(np.linalg.slogdet(want)[1])
        total = KroneckerSumOperator([block_diag(*blocks), other]).damped(9.0)
        np.testing.assert_allclose(total.solve(total @ x), x)
        assert max(seen) == 3 and "Schur" in op.explain()

    def test_kronecker_sums_of_blocks_use_them(self):
        op = KroneckerSumOperator([block_diag(definite(2), definite(3)), block_diag(definite(2))])
        x = draw(10)
        np.testing.assert_allclose(op.solve(op @ x), x)
        assert all(isinstance(f, BlockDiagonalOperator) for f in op.expm().factors)

    def test_blocks_in_blocks_ask_each_block_for_its_shape_once(self, monkeypatch):
        """Twice at each level were 2¹² questions for twelve levels, and hours for thirty."""
        asked = []
        shape = DiagonalOperator.shape.fget
        monkeypatch.setattr(
            DiagonalOperator, "shape", property(lambda op: asked.append(op) or shape(op))
        )
        op, v = DiagonalOperator(draw(3) ** 2), np.ones(3)
        for _ in range(12):
            op, v = BlockDiagonalOperator({"inner": op}), {"inner": v}
        assert (op.shape, len(asked)) == ((3, 3), 1)
        op.damped(1.0).multiply_inverse(v)
        assert len(asked) < 1000

    def test_names_of_numpy_integers_are_integers(self):
        op = BlockDiagonalOperator({np.int64(0): np.eye(2), (np.int8(1), "b"): np.eye(3)})
        assert op.names == (0, (1, "b"))
        assert all(type(name) is not np.int64 for name in op.names)

    def test_blocks_may_be_anything(self):
        a, b = definite(2), definite(3)
        ops = [
            kron(a, b),
            kron(a, b).damped(0.5),
            KroneckerSumOperator([a, b]),
            DiagonalOperator(rng.random((2, 2)) + 1),
            identity(3),
            block_diag(a, kron(b)),
            DenseOperator(a).inverse(),
            kronops.LowRankUpdateOperator(kron(a, b), draw(6, 1)),
            2 * kron(a, b) @ kron(b, a).power(-1) @ DiagonalOperator(np.ones(6) * 2),
        ]
        op = block_diag(*ops)
        want = dense_blocks(*[part.to_dense() for part in ops])
        x = draw(len(want))
        np.testing.assert_allclose(op @ x, want @ x)
        np.testing.assert_allclose(op.solve(op @ x), x)
        assert op.slogdet().logabsdet == pytest.approx(np.linalg.slogdet(want)[1])
        assert type(op.inverse()) is type(op @ op) is type(op + op) is BlockDiagonalOperator
        hermitian = block_diag(*ops[:7])
        np.testing.assert_allclose(
            hermitian.eigh().eigenvalues, np.linalg.eigvalsh(hermitian.to_dense())
        )
