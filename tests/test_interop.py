"""Operators of other libraries as ours, and ours as theirs, by the real packages."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as sla
import zoo
from libraries import LIBRARIES

import kronops
import kronops.linalg
from kronops import aslinearoperator
from kronops.testing import LAWS, Case

A = np.array([[4.0, 1.0, 0.0], [2.0, 5.0, -1.0], [0.0, 1.0, 3.0]])
SYMMETRIC = A + A.T
TALL = np.array([[1.0, 2.0], [0.0, -1.0], [3.0, 0.5]])
COMPLEX = A + 1j * np.diag([1.0, -2.0, 0.5])
B = np.array([[2.0, 0.5], [0.5, 1.0]])


def needed(*names: str) -> list:
    return [pytest.importorskip(name, reason=f"{name} is not installed") for name in names]


class Products:
    """SciPy's protocol in an object of no known library."""

    dtype = None

    def __init__(self, matrix):
        self.matrix, self.shape = matrix, matrix.shape

    def matvec(self, x):
        return self.matrix @ x

    def rmatvec(self, x):
        return self.matrix.conj().T @ x


def scipy_operator(matrix):
    return aslinearoperator(sla.aslinearoperator(matrix))


def scipy_sparse(matrix):
    return aslinearoperator(scipy.sparse.csr_array(matrix))


def scipy_sparse_matrix(matrix):
    return aslinearoperator(scipy.sparse.coo_matrix(matrix))


def protocol(matrix):
    return aslinearoperator(Products(matrix), like=matrix)


def pylops(matrix):
    (library,) = needed("pylops")
    return aslinearoperator(library.MatrixMult(matrix, dtype=matrix.dtype))


def linear_operator(matrix):
    torch, library = needed("torch", "linear_operator")
    return aslinearoperator(library.to_linear_operator(torch.from_numpy(matrix)))


def cola_torch(matrix):
    torch, library = needed("torch", "cola")
    return aslinearoperator(library.ops.Dense(torch.from_numpy(matrix)))


def lineax(matrix):
    jax, library = needed("jax", "lineax")
    return aslinearoperator(library.MatrixLinearOperator(jax.numpy.asarray(matrix)))


KINDS = [
    scipy_operator,
    scipy_sparse,
    scipy_sparse_matrix,
    protocol,
    pylops,
    linear_operator,
    cola_torch,
    lineax,
]
MATRICES = {"general": A, "symmetric": SYMMETRIC, "tall": TALL, "complex": COMPLEX}
SOME = {
    linear_operator: ("general", "symmetric", "tall"),  # which are real there
    lineax: ("complex",),  # for JAX takes long
}


@pytest.fixture(autouse=True)
def double_precision():
    """JAX is told to keep it, where it is installed."""
    jax = sys.modules.get("jax")
    if jax is None:
        yield
        return
    with jax.enable_x64(True):
        yield


def host(op):
    return op.backend.to_numpy(op.to_dense())


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning")
@pytest.mark.parametrize(
    "kind, name",
    [
        pytest.param(kind, name, id=f"{kind.__name__}-{name}")
        for kind in KINDS
        for name in MATRICES
        if name in SOME.get(kind, MATRICES)
    ],
)
def test_laws(kind, name):
    case = Case(kind(MATRICES[name]), MATRICES[name])
    for law in LAWS:
        law(case)


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
@pytest.mark.parametrize("kind", KINDS[:-1], ids=lambda kind: kind.__name__)  # JAX takes long
def test_as_a_factor_a_block_a_term_and_a_system(kind):
    op = kind(SYMMETRIC + 9 * np.eye(3))
    matrix = SYMMETRIC + 9 * np.eye(3)
    small = op.backend.from_numpy(B)
    for made, want in (
        (kronops.kron(op, small), np.kron(matrix, B)),
        (kronops.kron(small, op), np.kron(B, matrix)),
        (
            kronops.block_diag(small, op),
            np.block([[B, np.zeros((2, 3))], [np.zeros((3, 2)), matrix]]),
        ),
        (2 * op + op @ op, 2 * matrix + matrix @ matrix),
        (kronops.kron(op, small).damped(0.5), np.kron(matrix, B) + 0.5 * np.eye(6)),
    ):
        np.testing.assert_allclose(host(made), want, rtol=1e-12, atol=1e-12)
        b = np.arange(1.0, len(want) + 1)
        x = made.backend.to_numpy(made.solve(made.backend.from_numpy(b)))
        np.testing.assert_allclose(want @ x, b, rtol=1e-10)
        cg = kronops.linalg.cg(made, made.backend.from_numpy(b), rtol=1e-12)
        np.testing.assert_allclose(made.backend.to_numpy(cg[0]), x, rtol=1e-8, atol=1e-8)


# -- what each library alone has ------------------------------------------------------------------


def test_shaped_vectors_of_pylops():
    (library,) = needed("pylops")
    op = aslinearoperator(library.FirstDerivative((4, 3), axis=0, edge=True))
    x = np.random.default_rng(0).normal(size=(4, 3))
    assert (op.domain_shape, op.range_shape) == ((4, 3), (4, 3))
    np.testing.assert_allclose(op.multiply(x)[1:-1], (x[2:] - x[:-2]) / 2, atol=1e-12)


def test_shaped_vectors_of_lineax():
    jax, library = needed("jax", "lineax")
    structure = jax.ShapeDtypeStruct((2, 3), "float64")
    theirs = library.FunctionLinearOperator(lambda x: 2 * x[:, :2], structure)
    op = aslinearoperator(theirs)
    assert (op.shape, op.domain_shape, op.range_shape) == ((4, 6), (2, 3), (2, 2))
    want = [[2.0, 4.0], [8.0, 10.0]]
    assert op.multiply(jax.numpy.asarray([[1.0, 2, 3], [4, 5, 6]])).tolist() == want
    assert op.rmatvec(jax.numpy.ones(4)).tolist() == [2, 2, 0, 2, 2, 0]


def test_other_structures_of_lineax_are_refused():
    jax, library = needed("jax", "lineax")
    structure = {"a": jax.ShapeDtypeStruct((2,), "float64")}
    theirs = library.FunctionLinearOperator(lambda x: x["a"], structure)
    with pytest.raises(TypeError, match="vectors that are a dict: one that maps an array"):
        aslinearoperator(theirs)


def test_functions_of_one_precision_say_so():
    jax, library = needed("jax", "lineax")
    structure = jax.ShapeDtypeStruct((3,), "float32")
    op = aslinearoperator(library.FunctionLinearOperator(lambda x: 2 * x, structure))
    with pytest.raises(TypeError, match="takes float32 alone, and was given float64"):
        op @ jax.numpy.ones(3)


def test_what_lineax_knows_is_known():
    jax, library = needed("jax", "lineax")
    tagged = library.MatrixLinearOperator(jax.numpy.asarray(SYMMETRIC), library.symmetric_tag)
    assert aslinearoperator(tagged).hermitian
    assert not aslinearoperator(library.MatrixLinearOperator(jax.numpy.asarray(A))).hermitian


def test_ours_come_back_from_lineax():
    jax, _ = needed("jax", "lineax")
    from kronops.lineax import as_lineax

    op = kronops.kron(jax.numpy.eye(2))
    assert aslinearoperator(as_lineax(op)) is op and aslinearoperator(op) is op


@pytest.mark.filterwarnings("ignore::kronops.errors.DensificationWarning")
def test_gradients_pass_through_linear_operator():
    torch, library = needed("torch", "linear_operator")
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    theirs = library.to_linear_operator(torch.from_numpy(SYMMETRIC + 9 * np.eye(3)) * scale)
    op = kronops.kron(aslinearoperator(theirs), torch.eye(2, dtype=torch.float64))
    b = torch.ones(6, dtype=torch.float64)
    value = b @ op.solve(b)  # proportional to 1 / scale
    value.backward()
    torch.testing.assert_close(scale.grad, -value.detach() / 2)


def test_gradients_pass_through_lineax_under_jit():
    jax, library = needed("jax", "lineax")

    @jax.jit
    def value(scale):
        theirs = library.MatrixLinearOperator(scale * jax.numpy.asarray(A))
        op = kronops.kron(aslinearoperator(theirs), jax.numpy.eye(2))
        return jax.numpy.sum((op @ op) @ jax.numpy.ones(6))

    np.testing.assert_allclose(jax.grad(value)(3.0), 6 * 2 * np.sum(A @ A), rtol=1e-12)


def test_operators_of_one_shape_are_compiled_apart():
    """JAX compiles by what is told of what is no array: often a shape alone."""
    (jax,) = needed("jax")
    ops = [aslinearoperator(Products(c * np.eye(2)), like=jax.numpy.zeros(1)) for c in (1.0, 2.0)]
    product = jax.jit(lambda op, x: op @ x)
    assert [float(product(op, jax.numpy.ones(2))[0]) for op in ops] == [1.0, 2.0]


def test_cola_in_jax_and_without_arrays():
    jax, library = needed("jax", "cola")
    dense = library.ops.Dense(jax.numpy.asarray(A))
    np.testing.assert_allclose(
        host(aslinearoperator(library.ops.Kronecker(dense, dense))), np.kron(A, A)
    )
    identity = aslinearoperator(library.ops.Identity((3, 3), jax.numpy.float64))
    assert identity.backend.name == "jax" and identity.hermitian
    np.testing.assert_array_equal(host(identity), np.eye(3))


def test_curvature_of_curvlinops():
    torch, library = needed("torch", "curvlinops")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        data = [(torch.randn(5, 3), torch.randn(5, 2))]
    theirs = library.GGNLinearOperator(
        model, torch.nn.MSELoss(), list(model.parameters()), data, check_deterministic=False
    )
    op = aslinearoperator(theirs)
    assert op.hermitian and op.H is op and op.device == torch.device("cpu")
    x = torch.ones(8)
    torch.testing.assert_close(op @ x, theirs @ x)
    damped = op.damped(0.1)
    found, info = kronops.linalg.cg(damped, x, rtol=1e-5)
    assert info == 0
    torch.testing.assert_close(damped @ found, x, rtol=1e-3, atol=1e-3)


# -- what is refused, and what stays as it is -----------------------------------------------------


@pytest.mark.parametrize("kind", [scipy_sparse, linear_operator, cola_torch])
def test_changes_afterwards_do_not_reach_it(kind, monkeypatch):
    given = A.copy()
    op = kind(given)
    given[0, 0] = 100.0
    np.testing.assert_array_equal(host(op), A)


def test_a_product_that_the_other_library_keeps_is_copied():
    kept = np.ones((3, 2))

    class Same(Products):
        matmat = staticmethod(lambda x: kept)

    (aslinearoperator(Same(A), like=A) @ np.ones((3, 2)))[0] = 7.0
    np.testing.assert_array_equal(kept, np.ones((3, 2)))


def test_a_product_that_writes_into_its_vector_has_one_of_its_own():
    def twice(x):
        x *= 2.0
        return x

    theirs = sla.LinearOperator((3, 3), matvec=twice, matmat=twice, rmatmat=twice, dtype=float)
    op, x = aslinearoperator(theirs), np.ones((3, 2))
    np.testing.assert_array_equal((op + kronops.DenseOperator(np.eye(3))) @ x, np.full((3, 2), 3.0))
    np.testing.assert_array_equal(op.H @ x, np.full((3, 2), 2.0))
    np.testing.assert_array_equal(op @ x[:, 0], np.full(3, 2.0))
    np.testing.assert_array_equal(x, np.ones((3, 2)))


def test_a_wider_vector_loses_nothing():
    torch, library = needed("torch", "linear_operator")
    theirs = library.to_linear_operator(torch.eye(3) / 3)
    x = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert torch.equal(aslinearoperator(theirs) @ x, torch.eye(3).div(3).double() @ x)


def test_without_an_adjoint():
    op = aslinearoperator(sla.LinearOperator((3, 3), matvec=lambda x: A @ x, dtype=float))
    np.testing.assert_allclose(op @ np.ones(3), A @ np.ones(3))
    with pytest.raises(TypeError, match="scipy's _CustomLinearOperator has no adjoint"):
        op.rmatvec(np.ones(3))


def test_linear_over_the_reals_alone():
    (library,) = needed("pylops")
    with pytest.raises(TypeError, match="linear over the reals alone"):
        aslinearoperator(library.Real(3))


def test_stacks_are_refused():
    torch, library = needed("torch", "linear_operator")
    with pytest.raises(ValueError, match=r"shape \(2, 3, 3\): one matrix is needed, not a stack"):
        aslinearoperator(library.to_linear_operator(torch.zeros(2, 3, 3)))


@pytest.mark.parametrize(
    "obj, words",
    [(3.0, "obj is a builtins.float: an operator of SciPy"), (Products(A), "like=array")],
    ids=["a number", "unknown"],
)
def test_what_is_no_operator(obj, words):
    with pytest.raises(TypeError, match=words):
        aslinearoperator(obj)


@pytest.mark.parametrize(
    "made, error, words",
    [
        (lambda x: list(x), TypeError, "is a list: an array would do"),
        (lambda x: x[:2], ValueError, r"has shape \(2, 1\): \(3, 1\) would do"),
        (lambda x: 1j * x, TypeError, "has dtype complex128, and the operator float64"),
        (lambda x: x.astype(str), TypeError, "has dtype <U32, and the operator float64"),
        (lambda x: np.ma.array(x, mask=x > 0), TypeError, "is a masked array"),
    ],
    ids=["a list", "a short vector", "complex", "words", "masked"],
)
def test_products_that_are_none(made, error, words):
    class Liar(Products):
        matmat = staticmethod(made)

    with pytest.raises(error, match=f"Liar {words}"):
        aslinearoperator(Liar(A), like=A) @ np.ones(3)


@pytest.mark.parametrize(
    "made, words",
    [(lambda x: None, "NoneType"), (lambda x: x[:, None], r"shape \(3, 1\)")],
    ids=["nothing", "a column"],
)
def test_products_with_vectors_that_are_none(made, words):
    class Liar:
        shape = (3, 3)
        matvec = staticmethod(made)

    with pytest.raises(TypeError, match=f"matvec of Liar gave {words}: an array"):
        aslinearoperator(Liar(), like=A) @ np.ones(3)


@pytest.mark.parametrize(
    "shape, error, words",
    [
        (3, TypeError, r"is a int: \(m, n\) would do"),
        ((-3, 3), ValueError, "= -3: an integer ≥ 0"),
        ((3.7, 3), TypeError, "is a float: an integer ≥ 0"),
    ],
)
def test_shapes_that_are_none(shape, error, words):
    class Liar(Products):
        shape = None

    theirs = Liar(A)
    theirs.shape = shape
    with pytest.raises(error, match=f"Liar {words}"):
        aslinearoperator(theirs, like=A)


def test_it_stays_in_its_library():
    (torch,) = needed("torch")
    op = scipy_sparse(A).to_backend("torch")
    with pytest.raises(TypeError, match="takes arrays of numpy, and has been brought to torch"):
        op @ torch.ones(3, dtype=torch.float64)


def test_words():
    op = scipy_sparse(A)
    assert repr(op) == (
        "ForeignOperator(shape=(3, 3), dtype=float64, backend=numpy, of=scipy's csr_array)"
    )
    assert "multiply: that of scipy's csr_array" in op.explain()


def test_arrays_become_dense_operators():
    assert isinstance(aslinearoperator(A), kronops.DenseOperator)


# -- the page -------------------------------------------------------------------------------------

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "interop.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)$.*?^```python\n(.*?)^```$", PAGE, re.M | re.S))


def run(section: str) -> dict:
    """The names that the code of a section defines; skipped where one of its libraries lacks."""
    code = SECTIONS[section]
    needed(*dict.fromkeys(re.findall(r"^(?:import|from) (?!kronops|numpy)(\w+)", code, re.M)))
    names: dict = {"__name__": "page"}
    exec(compile(code, f"docs/interop.md, {section}", "exec"), names)
    return names


def test_page_scipy():
    names = run("SciPy")
    matrix = np.kron(names["laplacian"].toarray(), np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_allclose((matrix + 0.1 * np.eye(150)) @ names["x"], np.ones(150), atol=1e-8)
    np.testing.assert_allclose(names["largest"], np.linalg.norm(matrix, 2))


def test_page_pylops():
    names = run("PyLops")
    np.testing.assert_allclose(names["slope"], np.ones((40, 3)), atol=1e-12)
    np.testing.assert_allclose(names["smooth"] @ np.ones(8), np.ones(8))


def test_page_gpytorch():
    names = run("linear_operator and GPyTorch")
    torch = sys.modules["torch"]
    dense = torch.kron(names["kernel"], names["kernel"]) + 0.1 * torch.eye(400, dtype=torch.float64)
    zero, one = torch.zeros(400, dtype=torch.float64), torch.ones(400, dtype=torch.float64)
    want = torch.distributions.MultivariateNormal(zero, dense).log_prob(one)
    torch.testing.assert_close(names["log_likelihood"], want)
    diagonal = torch.diag(torch.arange(1.0, 4.0, dtype=torch.float64))
    torch.testing.assert_close(names["op"].to_dense(), torch.kron(diagonal, names["kernel"]))


def test_page_cola():
    names = run("CoLA")
    want = np.tile([3.0, 4.0, 4.0, 4.0, 3.0], 3)
    np.testing.assert_allclose(names["product"].numpy(), want)


def test_page_lineax():
    names = run("lineax")
    np.testing.assert_allclose(names["image"], 2 * np.ones((8, 8)))
    np.testing.assert_allclose(names["solution"].value, 0.25 * np.ones(6), rtol=1e-5)


def test_page_jax():
    names = run("jax.scipy.sparse.linalg")
    want = 1 / (np.repeat([1.0, 2.0, 3.0], 2) + 1)
    np.testing.assert_allclose(names["x"], want, rtol=1e-4)


def test_page_scikit_learn():
    names = run("scikit-learn")
    dense = np.kron(names["sketch"].components_.toarray(), np.eye(30))
    want = dense @ names["covariance"].to_dense()
    np.testing.assert_allclose(names["op"].to_dense(), want, atol=1e-12)


def test_page_modules():
    names = run("PyTorch modules")
    assert list(names["model"].state_dict()) == [
        "prior.base/factors/0/matrix",
        "prior.base/factors/1/matrix",
    ]
    np.testing.assert_allclose(names["step"].numpy(), 0.4 * np.ones((3, 2)))


def test_page_dlpack():
    names = run("DLPack")
    np.testing.assert_allclose(names["y"], np.kron(names["a"], np.eye(3)) @ np.ones(6))
    np.testing.assert_allclose(names["host"].to_dense(), np.kron(names["a"], np.eye(3)))


def test_page_anything():
    names = run("Anything with products")
    shift = np.roll(np.eye(10), 1, axis=0)
    blur = (np.eye(10) + shift) / 2
    want = scipy.linalg.block_diag(blur.T @ blur, np.eye(2))
    np.testing.assert_allclose(names["normal"].to_dense(), want, atol=1e-12)


def test_every_section_is_run():
    tests = sum(name.startswith("test_page_") for name in globals())
    assert len(SECTIONS) == tests == 10


# -- PyTorch's modules and linear_operator's classes ----------------------------------------------


class TestOperatorModule:
    @pytest.fixture
    def op(self):
        (torch,) = needed("torch")
        return kronops.kron(torch.from_numpy(A), torch.eye(2, dtype=torch.float64)).damped(0.5)

    @pytest.mark.parametrize("name", zoo.CASES)
    def test_every_operator_makes_the_round_trip(self, name):
        needed("torch")
        from kronops.torch import OperatorModule

        with LIBRARIES["torch"].maker("complex128") as make:
            op, _ = zoo.CASES[name](make)
        module = OperatorModule(op)
        copied = pickle.loads(pickle.dumps(module))
        copied.load_state_dict({key: t + 0 for key, t in module.state_dict().items()})
        np.testing.assert_allclose(copied.operator.to_dense().numpy(), op.to_dense().numpy())
        assert copied.operator.domain_shape == op.domain_shape

    def test_it_is_kept_until_the_state_changes(self, op):
        from kronops.torch import OperatorModule

        module = OperatorModule(op)
        before = module.operator
        assert module.operator is before
        module.load_state_dict({name: 2 * t for name, t in module.state_dict().items()})
        assert module.operator is not before
        want = 4 * np.kron(A, np.eye(2)) + 0.5 * np.eye(6)
        np.testing.assert_allclose(module.operator.to_dense().numpy(), want)

    def test_an_operator_is_a_snapshot_of_the_state(self):
        (torch,) = needed("torch")
        from kronops.torch import OperatorModule

        module = OperatorModule(kronops.DiagonalOperator(torch.ones(3)))
        before = module.operator
        module.load_state_dict({name: 2 * t for name, t in module.state_dict().items()})
        assert before.diagonal().tolist() == [1.0, 1.0, 1.0]
        assert module.operator.diagonal().tolist() == [2.0, 2.0, 2.0]

    def test_parameters_are_learnt(self, op):
        (torch,) = needed("torch")
        from kronops.torch import OperatorModule

        module = OperatorModule(op, trainable=True)
        optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
        target, values = torch.ones(6, dtype=torch.float64), []
        for _ in range(5):
            optimiser.zero_grad()
            value = torch.sum((module(target) - 2 * target) ** 2) + 0 * module.operator.logdet()
            value.backward()
            optimiser.step()
            values.append(float(value.detach()))
        assert values == sorted(values, reverse=True) and values[-1] < 0.9 * values[0]

    def test_other_things_are_refused(self, op):
        from kronops.torch import OperatorModule

        with pytest.raises(TypeError, match="op is a ndarray: a kronops operator is needed"):
            OperatorModule(A)
        with pytest.raises(TypeError, match=r'tensors \(op.to_backend\("torch"\)\)'):
            OperatorModule(kronops.kron(A))


class TestAsLinearOperator:
    @pytest.fixture
    def pair(self):
        torch, _ = needed("torch", "linear_operator")
        from kronops.linear_operator import as_linear_operator

        factor = torch.from_numpy(SYMMETRIC + 9 * np.eye(3)).requires_grad_()
        op = kronops.kron(factor, torch.from_numpy(B))
        return factor, op, as_linear_operator(op)

    @pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # by its indexing
    def test_what_is_asked_of_it_is_exact(self, pair):
        torch = sys.modules["torch"]
        _, op, theirs = pair
        matrix = op.to_dense()
        x = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
        for got, want in (
            (theirs @ x, matrix @ x),
            (theirs.mT @ x, matrix.mT @ x),
            (x.mT @ theirs, x.mT @ matrix),
            (theirs.solve(x), torch.linalg.solve(matrix, x)),
            (theirs.solve(x, x.mT), x.mT @ torch.linalg.solve(matrix, x)),
            (theirs.logdet(), torch.logdet(matrix)),
            (theirs.inv_quad(x), torch.sum(x * torch.linalg.solve(matrix, x))),
            (theirs.inv_quad_logdet(x)[0], torch.sum(x * torch.linalg.solve(matrix, x))),
            (
                theirs.inv_quad_logdet(x, reduce_inv_quad=False)[0],
                torch.sum(x * torch.linalg.solve(matrix, x), 0),
            ),
            (theirs.diagonal(), torch.diagonal(matrix)),
            (theirs[1:3, ::2].to_dense(), matrix[1:3, ::2]),
            ((2 * theirs).to_dense(), 2 * matrix),
            ((theirs + theirs).logdet(), torch.logdet(2 * matrix)),
            (theirs.add_jitter(0.5).logdet(), torch.logdet(matrix + 0.5 * torch.eye(6))),
        ):
            torch.testing.assert_close(got, want)

    def test_sums_with_ours_and_with_noise_stay_ours(self, pair):
        from linear_operator.operators import ConstantDiagLinearOperator

        torch = sys.modules["torch"]
        _, _, theirs = pair
        noise = ConstantDiagLinearOperator(torch.tensor([0.5], dtype=torch.float64), 6)
        for made in (theirs + theirs, theirs + noise, theirs.add_jitter(0.5)):
            assert type(made) is type(theirs)
        assert aslinearoperator(theirs) is theirs.op

    def test_derivatives_pass(self, pair):
        torch = sys.modules["torch"]
        factor, op, theirs = pair
        x = torch.ones(6, dtype=torch.float64)
        values = [
            x @ theirs.solve(x) + theirs.logdet() + torch.sum(theirs @ x),
            x @ op.solve(x) + op.logdet() + torch.sum(op @ x),
        ]
        got, want = (torch.autograd.grad(value, factor)[0] for value in values)
        torch.testing.assert_close(got, want)
        rebuilt = theirs.representation_tree()(*theirs.representation())
        torch.testing.assert_close(rebuilt @ x, op @ x)
