"""kronops.lineax: operators under lineax's functions and solvers, and a solver by structure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kronops
from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerEigenOperator,
    LinAlgError,
    kron,
)

lineax = pytest.importorskip("lineax", reason="lineax is not installed")
adapter = pytest.importorskip("kronops.lineax")
jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
test_util = pytest.importorskip("jax.test_util")

as_lineax = adapter.as_lineax
ROOT = Path(__file__).resolve().parent.parent
SYMMETRIC, DIAGONAL = lineax.symmetric_tag, lineax.diagonal_tag
DEFINITE, UNIT = lineax.positive_semidefinite_tag, lineax.unit_diagonal_tag


@pytest.fixture(autouse=True, scope="module")
def double_precision():
    """For this file alone."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
    jax.clear_caches()


def draw(*shape, seed=0, complex=False):
    rng = np.random.default_rng([seed, *shape])
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if complex else values


def definite(n, seed=0):
    a = draw(n, n, seed=seed)
    return jnp.asarray(a @ a.T / n + np.eye(n))


def general(n, seed=0, complex=False):
    return jnp.asarray(draw(n, n, seed=seed, complex=complex) + 2 * n**0.5 * np.eye(n))


def claimed(n, seed=0):
    return DenseOperator(definite(n, seed), "positive definite")


def pair():
    return kron(claimed(2), claimed(3))


def identity(n):
    return IdentityOperator(n, like=jnp.ones(1))


def close(got, want, rtol=1e-9):
    want = np.asarray(want)
    np.testing.assert_allclose(np.asarray(got), want, rtol=rtol, atol=rtol * np.abs(want).max())


# -- as an operator -------------------------------------------------------------------------------


class TestOperator:
    @pytest.mark.parametrize("complex", [False, True])
    def test_is_the_matrix(self, complex):
        op = kron(draw(2, 3, complex=complex), draw(3, 2)).to_backend("jax")
        op = kron(*op.factors, jnp.eye(2))
        matrix = np.asarray(op.to_dense())
        dtype = "complex128" if complex else "float64"
        wrapped = as_lineax(op)
        assert wrapped.in_structure() == jax.ShapeDtypeStruct((12,), dtype)
        assert wrapped.out_structure() == jax.ShapeDtypeStruct((12,), dtype)
        x = jnp.asarray(draw(12, complex=complex))
        forms = {
            "itself": (wrapped, matrix),
            "transpose": (wrapped.T, matrix.T),
            "conjugate": (lineax.conj(wrapped), matrix.conj()),
            "both": (lineax.conj(wrapped.T), matrix.conj().T),
            "linearise": (lineax.linearise(wrapped), matrix),
            "materialise": (lineax.materialise(wrapped), matrix),
            "sum": (wrapped + 2 * wrapped.T, matrix + 2 * matrix.T),
            "product": (wrapped @ wrapped, matrix @ matrix),
        }
        for form, dense in forms.values():
            close(form.as_matrix(), dense)
            close(form.mv(x), dense @ x)
        close(lineax.diagonal(wrapped), np.diag(matrix))
        for part, offset in zip(lineax.tridiagonal(wrapped), (0, -1, 1), strict=True):
            close(part, np.diag(matrix, offset))

    def test_rectangular(self):
        a = draw(2, 3)
        wrapped = as_lineax(kron(jnp.asarray(a), jnp.eye(2)))
        assert wrapped.in_size() == 6 and wrapped.out_size() == 4
        assert wrapped.T.in_size() == 4 and wrapped.T.out_size() == 6
        close(wrapped.mv(jnp.ones(6)), np.kron(a, np.eye(2)) @ np.ones(6))

    def test_single_precision(self):
        op = pair().astype("float32")
        wrapped = as_lineax(op)
        assert wrapped.in_structure().dtype == np.float32
        solved = lineax.linear_solve(wrapped, jnp.ones(6, "float32"), adapter.StructuredSolver())
        assert solved.value.dtype == np.float32

    def test_a_large_matrix_is_not_written_out(self):
        wrapped = as_lineax(IdentityOperator(20_000, like=jnp.ones(1)))
        with pytest.raises(ValueError, match="limit"):
            wrapped.as_matrix()

    def test_materialise_keeps_a_diagonal(self):
        made = lineax.materialise(
            as_lineax(kron(DiagonalOperator(jnp.arange(1.0, 4)), identity(2)))
        )
        assert isinstance(made, lineax.DiagonalLinearOperator)
        close(made.diagonal, np.repeat(np.arange(1.0, 4), 2))

    def test_what_is_refused(self):
        with pytest.raises(TypeError, match="op is a ndarray: a kronops operator"):
            as_lineax(np.eye(2))
        with pytest.raises(TypeError, match=r'arrays of numpy.*op.to_backend\("jax"\)'):
            as_lineax(kron(np.eye(2), np.eye(2)))
        with pytest.raises(TypeError, match=r"MulLinearOperator.*as_lineax"):
            lineax.linear_solve(2 * as_lineax(pair()), jnp.ones(6), adapter.StructuredSolver())
        with pytest.raises(ValueError, match="square"):
            adapter.StructuredSolver().init(as_lineax(kron(jnp.ones((2, 3)), jnp.eye(2))), {})
        with pytest.raises(LinAlgError, match="singular"):
            adapter.StructuredSolver().init(as_lineax(kron(jnp.ones((2, 2)), jnp.eye(2))), {})


# -- what is known --------------------------------------------------------------------------------


HERMITIAN = np.array([[2, 1j], [-1j, 2]])
# Operators, with the tags that they are given.
KNOWN = {
    "general": (lambda: kron(general(2), general(3)), set()),
    "symmetric by its values": (lambda: kron(definite(2), definite(3)), {SYMMETRIC}),
    "claimed symmetric": (lambda: DenseOperator(definite(2), "symmetric"), {SYMMETRIC}),
    "claimed definite": (pair, {SYMMETRIC, DEFINITE}),
    "one factor claimed": (lambda: kron(claimed(2), definite(3)), {SYMMETRIC}),
    "scaled": (lambda: 2 * pair(), {SYMMETRIC, DEFINITE}),
    "negative": (lambda: -pair(), {SYMMETRIC}),
    "scaled by a complex number": (lambda: 1j * pair(), set()),
    "damped": (lambda: pair().damped(0.5), {SYMMETRIC, DEFINITE}),
    "factored": (lambda: pair().damped(0.5, "factored"), {SYMMETRIC, DEFINITE}),
    "inverse": (lambda: pair().damped(0.5).inverse(), {SYMMETRIC, DEFINITE}),
    "inverse of one": (lambda: claimed(2).inverse(), {SYMMETRIC, DEFINITE}),
    "blocks": (lambda: kronops.block_diag(claimed(2), claimed(3)), {SYMMETRIC, DEFINITE}),
    "sum": (lambda: pair() + kron(claimed(2, 1), claimed(3, 1)), {SYMMETRIC, DEFINITE}),
    "difference": (lambda: pair() - kron(claimed(2, 1), claimed(3, 1)), {SYMMETRIC}),
    "product": (lambda: claimed(2) @ claimed(2, 1), set()),
    "diagonal": (lambda: DiagonalOperator(jnp.asarray([1.0, -2.0])), {SYMMETRIC, DIAGONAL}),
    "diagonals": (
        lambda: kron(DiagonalOperator(jnp.ones(2)), identity(2)),
        {SYMMETRIC, DIAGONAL},
    ),
    "diagonal and not": (lambda: kron(identity(2), definite(2)), {SYMMETRIC}),
    "complex diagonal": (lambda: DiagonalOperator(jnp.asarray([1j, 2.0])), {DIAGONAL}),
    "identity": (lambda: identity(3), {SYMMETRIC, DIAGONAL, DEFINITE, UNIT}),
    "Hermitian": (lambda: DenseOperator(jnp.asarray(HERMITIAN)), set()),
    "claimed definite and complex": (
        lambda: DenseOperator(jnp.asarray(HERMITIAN), "positive definite"),
        {DEFINITE},
    ),
    "eigenvalues of any sign": (
        lambda: KroneckerEigenOperator([identity(2), identity(2)], jnp.asarray([1.0, -1, 1, 1])),
        {SYMMETRIC, DIAGONAL},
    ),
}
PROPERTIES = {
    lineax.is_symmetric: {SYMMETRIC, DIAGONAL},
    lineax.is_diagonal: {DIAGONAL},
    lineax.is_tridiagonal: {DIAGONAL, lineax.tridiagonal_tag},
    lineax.is_lower_triangular: {DIAGONAL, lineax.lower_triangular_tag},
    lineax.is_upper_triangular: {DIAGONAL, lineax.upper_triangular_tag},
    lineax.has_unit_diagonal: {UNIT},
    lineax.is_positive_semidefinite: {DEFINITE},
    lineax.is_negative_semidefinite: {lineax.negative_semidefinite_tag},
}


class TestTags:
    @pytest.mark.parametrize("name", KNOWN)
    def test_known(self, name):
        make, tags = KNOWN[name]
        wrapped = as_lineax(make())
        assert wrapped.tags == tags
        for form in (wrapped.T, lineax.conj(wrapped), lineax.linearise(wrapped)):
            assert form.tags == tags

    @pytest.mark.parametrize("question", PROPERTIES, ids=lambda question: question.__name__)
    def test_each_question_is_answered_by_tags(self, question):
        every = set().union(*PROPERTIES.values())
        op = kron(general(2), general(3))
        assert not question(as_lineax(op))
        for tag in every:
            expected = tag in PROPERTIES[question]
            if question is lineax.is_symmetric:
                expected |= tag in (DEFINITE, lineax.negative_semidefinite_tag)
            assert question(as_lineax(op, tag)) == expected
            assert question(as_lineax(op, [tag, "one of somebody else"])) == expected

    def test_definite_is_not_symmetric_where_it_is_complex(self):
        wrapped = as_lineax(kron(general(2, complex=True), general(3)), DEFINITE)
        assert lineax.is_positive_semidefinite(wrapped) and not lineax.is_symmetric(wrapped)

    def test_triangles_are_transposed(self):
        lower = as_lineax(claimed(2).cholesky(), lineax.lower_triangular_tag)
        assert lineax.is_lower_triangular(lower) and lineax.is_upper_triangular(lower.T)
        assert not lineax.is_lower_triangular(lower.T)

    def test_what_values_say_is_known_under_jit_too(self):
        """It was found out before."""
        wrapped = as_lineax(kron(definite(2), definite(3)))
        assert jax.jit(lambda wrapped: jnp.asarray(lineax.is_symmetric(wrapped)))(wrapped)


# -- solvers --------------------------------------------------------------------------------------

SYSTEMS = {
    "definite": pair,
    "damped": lambda: pair().damped(0.5),
    "general": lambda: kron(general(2), general(3)),
    "damped general": lambda: kron(general(2), general(3)).damped(0.5),
    "complex": lambda: kron(general(2, complex=True), general(3, complex=True)).damped(0.5),
    "inverse": lambda: kron(general(2), claimed(3)).inverse(),
    "diagonal": lambda: DiagonalOperator(jnp.arange(1.0, 7.0)),
    "blocks": lambda: kronops.block_diag(general(2), pair().factors[0], general(2, 1)),
}


def solve(op, b, solver=None, **options):
    return lineax.linear_solve(as_lineax(op), b, solver or adapter.StructuredSolver(), **options)


class TestStructuredSolver:
    @pytest.mark.parametrize("name", SYSTEMS)
    def test_solves(self, name):
        op = SYSTEMS[name]()
        matrix = np.asarray(op.to_dense())
        b = jnp.asarray(draw(6, complex=np.iscomplexobj(matrix)))
        solution = solve(op, b)
        assert solution.result == lineax.RESULTS.successful
        close(solution.value, np.linalg.solve(matrix, b))

    @pytest.mark.parametrize("name", ["complex", "damped", "general"])
    def test_forms_of_the_state(self, name):
        """The transpose and the conjugate of a state are the states of these."""
        op, solver = SYSTEMS[name](), adapter.StructuredSolver()
        matrix = np.asarray(op.to_dense())
        b = jnp.asarray(draw(6, complex=np.iscomplexobj(matrix)))
        state = solver.init(as_lineax(op), {})
        transposed, options = solver.transpose(state, {"any": "option"})
        assert options == {}
        for made, dense in (
            (state, matrix),
            (transposed, matrix.T),
            (solver.conj(state, {})[0], matrix.conj()),
            (solver.conj(transposed, {})[0], matrix.conj().T),
            (solver.transpose(transposed, {})[0], matrix),
        ):
            close(solver.compute(made, b, {})[0], np.linalg.solve(dense, b))

    @pytest.mark.parametrize("name", ["damped", "damped general", "definite"])
    def test_a_state_is_factorised(self, name):
        """Once: the programs that it is handed to contain no factorisation."""
        op = SYSTEMS[name]()
        state = adapter.StructuredSolver().init(as_lineax(op), {})
        program = str(jax.make_jaxpr(state)(jnp.zeros(6)))
        assert any(name in program for name in ("triangular_solve", "dot_general", "mul"))
        assert not any(f" {name}[" in program for name in ("cholesky", "eigh", "lu", "schur"))
        for seed in range(2):
            b = jnp.asarray(draw(6, seed=seed))
            close(solve(op, b, state=state).value, np.linalg.solve(op.to_dense(), b))

    def test_tagged_operators(self):
        tagged = lineax.TaggedLinearOperator(as_lineax(pair()), DEFINITE)
        b = jnp.asarray(draw(6))
        made = lineax.linear_solve(tagged, b, adapter.StructuredSolver()).value
        close(made, np.linalg.solve(pair().to_dense(), b))

    def test_invert(self):
        op = pair().damped(0.5)
        b = jnp.asarray(draw(6))
        close(lineax.invert(as_lineax(op), adapter.StructuredSolver()).mv(op @ b), b)

    def test_singular(self):
        b = jnp.ones(6)
        op = kron(jnp.ones((2, 2)), definite(3))
        with pytest.raises(Exception, match="non-finite"):
            solve(op, b)
        assert solve(op, b, throw=False).result == lineax.RESULTS.singular

    @pytest.mark.parametrize("make", [definite, general], ids=["definite", "general"])
    def test_under_jit_vmap_and_grad(self, make):
        def function(a, b, damping, x):
            return solve(kron(a, b).damped(damping), x).value

        def dense(a, b, damping, x):
            return jnp.linalg.solve(jnp.kron(a, b) + damping * jnp.eye(6), x)

        args = make(2), make(3), jnp.asarray(0.5), jnp.asarray(draw(6))
        run = jax.jit(function)
        close(run(*args), dense(*args))
        stacks = [jnp.stack([arg, 2 * arg]) for arg in args]
        close(jax.jit(jax.vmap(function))(*stacks), jax.vmap(dense)(*stacks))
        test_util.check_grads(run, args, order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


ITERATIVE = {
    "CG": lambda: lineax.CG(rtol=1e-10, atol=1e-10),
    "GMRES": lambda: lineax.GMRES(rtol=1e-10, atol=1e-10),
    "BiCGStab": lambda: lineax.BiCGStab(rtol=1e-10, atol=1e-10),
}


class TestOtherSolvers:
    """A sum that no structure solves, and the inverse of its larger term as preconditioner."""

    def system(self, d):
        return pair() + DiagonalOperator(d), pair().inverse()

    def solve(self, d, b, solver=None, preconditioned=True):
        op, inverse = self.system(d)
        options = {"preconditioner": as_lineax(inverse, tags=DEFINITE)} if preconditioned else {}
        solver = solver or ITERATIVE["CG"]()
        return lineax.linear_solve(as_lineax(op, DEFINITE), b, solver, options=options)

    d, b = np.linspace(0.1, 0.3, 6), draw(6)

    @pytest.mark.parametrize("name", ITERATIVE)
    def test_preconditioned(self, name):
        solution = self.solve(jnp.asarray(self.d), jnp.asarray(self.b), ITERATIVE[name]())
        want = np.linalg.solve(self.system(jnp.asarray(self.d))[0].to_dense(), self.b)
        close(solution.value, want, 1e-7)

    def test_the_preconditioner_saves_iterations(self):
        steps = [
            int(
                self.solve(jnp.asarray(self.d), jnp.asarray(self.b), solver, used).stats[
                    "num_steps"
                ]
            )
            for used in (False, True)
            for solver in [lineax.CG(rtol=1e-4, atol=1e-4)]
        ]
        assert steps[1] < steps[0]

    def test_under_jit_vmap_and_grad(self):
        function = jax.jit(lambda d, b: self.solve(d, b).value)
        d, b = jnp.asarray(self.d), jnp.asarray(self.b)
        one = function(d, b)
        close(jax.vmap(function, (None, 0))(d, jnp.stack([b, 2 * b]))[1], 2 * one, 1e-7)
        test_util.check_grads(function, (d, b), order=1, modes=("rev",), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("name", ["LU", "Cholesky", "QR", "SVD"])
    def test_dense(self, name):
        b = jnp.asarray(self.b)
        made = lineax.linear_solve(as_lineax(pair()), b, getattr(lineax, name)())
        close(made.value, np.linalg.solve(pair().to_dense(), self.b))

    @pytest.mark.parametrize(
        "name, chosen", [("diagonal", "Diagonal"), ("definite", "Cholesky"), ("general", "LU")]
    )
    def test_chosen_by_what_is_known(self, name, chosen):
        op, b = SYSTEMS[name](), jnp.asarray(self.b)
        solver = lineax.AutoLinearSolver(well_posed=True)
        assert type(solver.select_solver(as_lineax(op))).__name__ == chosen
        close(solve(op, b, solver).value, np.linalg.solve(op.to_dense(), self.b))


def test_lineax_is_not_imported_by_kronops():
    code = "import sys, jax, kronops, kronops.kfac; print({'lineax', 'equinox'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
