"""PyTorch: derivatives from structure, `torch.func`, the compiler, and tensors of every kind."""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import pickle

import numpy as np
import pytest
import scipy.linalg
import zoo

import kronops
from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerSumOperator,
    block_diag,
    kron,
)
from kronops.backends import backend_of, settings

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

forward_ad = torch.autograd.forward_ad
# Along one random direction in, and one out: all of a Jacobian is in it, at the cost of two calls.
fast = {"fast_mode": True, "check_undefined_grad": False}
gradcheck = functools.partial(torch.autograd.gradcheck, **fast)
gradgradcheck = functools.partial(torch.autograd.gradgradcheck, **fast)
grad, hessian, jacfwd, jacrev, jvp, vmap = (
    getattr(torch.func, name) for name in ("grad", "hessian", "jacfwd", "jacrev", "jvp", "vmap")
)

# What PyTorch says of itself: its compiler and its vmap use parts that it calls deprecated or slow.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings(
        "ignore:There is a performance drop because we have not yet implemented:UserWarning"
    ),
]

REAL, COMPLEX = torch.float64, torch.complex128


def matrix(kind, n, seed=0, dtype=REAL):
    """A square matrix: positive definite, general, or one with repeated eigenvalues."""
    generator = torch.Generator().manual_seed(100 * n + seed)
    drawn = torch.randn(n, n, dtype=dtype, generator=generator)
    identity = torch.eye(n, dtype=dtype)
    if kind == "definite":
        return drawn @ drawn.mH / n + identity
    return 2 * identity if kind == "repeated" else 0.5 * drawn + 2 * identity


def vector(n, seed=0, dtype=REAL):
    return torch.randn(n, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def inputs(kind, dtype=REAL, seed=0):
    """Two factors, a vector for their product, and a number."""
    a, b = matrix(kind, 2, seed, dtype), matrix(kind, 3, seed, dtype)
    c = torch.tensor(0.7 + 0.1 * seed, dtype=REAL)
    return a, b, vector(6, seed, dtype), c


def leaves(*tensors):
    return tuple(tensor.clone().requires_grad_() for tensor in tensors)


def from_dense(function):
    """The same function of dense matrices, which PyTorch differentiates by itself."""
    return lambda a, b, x, c: function(torch.kron(a, b) + c * torch.eye(6, dtype=x.dtype), x)


def skewed(a):
    """A matrix that is not symmetric, from one that may be."""
    return a + a @ torch.tensor([[0.0, 0.5], [-0.25, 0.0]], dtype=a.dtype)


def identity(like):
    return IdentityOperator(6, like=like)


@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
def test_exponentials_of_small_matrices_have_all_digits(shift):
    for norm in np.logspace(-4, 0, 30):
        a = np.array([[1.0, -2.0], [3.0, 0.5]]) * norm / 5 + shift * np.eye(2)
        made = DenseOperator(torch.tensor(a)).expm().to_dense().numpy()
        np.testing.assert_allclose(made, scipy.linalg.expm(a), rtol=2e-15, atol=1e-15)


# -- derivatives ----------------------------------------------------------------------------------

PRODUCTS = {
    "product": lambda a, b, x, c: kron(a, b) @ x,
    "product from the left": lambda a, b, x, c: x @ kron(a, b),
    "product of the adjoint": lambda a, b, x, c: kron(a, b).H @ x,
    "multiply": lambda a, b, x, c: kron(a, b).multiply((x[:3].reshape(1, 3), x[3:])),
    "three factors": lambda a, b, x, c: kron(a, b, a) @ torch.cat([x, x]),
    "of operators": lambda a, b, x, c: kron(DiagonalOperator(x[:2]), DenseOperator(b).T) @ x,
    "scaled": lambda a, b, x, c: (c * kron(a, b)) @ x,
    "damped": lambda a, b, x, c: kron(a, b).damped(c) @ x,
    "factored": lambda a, b, x, c: kron(a, b).damped(c, "factored") @ x,
    "sum": lambda a, b, x, c: (kron(a, b) + DiagonalOperator(x)) @ x,
    "product of operators": lambda a, b, x, c: (kron(a, b) @ DiagonalOperator(x)) @ x,
    "blocks": lambda a, b, x, c: block_diag(a, c * DenseOperator(b)).damped(c) @ x[:5],
    "Kronecker sum": lambda a, b, x, c: (c * KroneckerSumOperator([a, b])).damped(c) @ x,
    "exponential": lambda a, b, x, c: KroneckerSumOperator([a, b]).damped(c).expm() @ x,
    "least squares": lambda a, b, x, c: kron(a, b).lstsq(x, 1e-8),
    "numbers of a Kronecker sum": lambda a, b, x, c: (
        KroneckerSumOperator([a, b]).damped(c).trace(),
        (c * KroneckerSumOperator([a, b])).diagonal(),
        KroneckerSumOperator([a, b]).to_dense(),
    ),
    "numbers": lambda a, b, x, c: (
        kron(a, b).damped(c).trace(),
        (c * kron(a, b)).diagonal(),
        kron(a, b).norm(),
        kron(a, b).to_dense(),
    ),
}

SOLVES = {
    "solve": lambda a, b, x, c: kron(a, b).solve(x),
    "multiply_inverse": lambda a, b, x, c: kron(a, b).multiply_inverse(
        (x[:3].reshape(1, 3), x[3:])
    ),
    "several right-hand sides": lambda a, b, x, c: kron(b, a[:1, :1]).solve(x.reshape(3, 2)),
    "three factors": lambda a, b, x, c: kron(a, b, a).solve(torch.cat([x, x])),
    "of operators": lambda a, b, x, c: kron(
        DiagonalOperator(x[:2] + 3), DenseOperator(b).inverse()
    ).solve(x),
    "scaled": lambda a, b, x, c: (c * kron(a, b)).solve(x),
    "damped": lambda a, b, x, c: kron(a, b).damped(c).solve(x),
    "damped by multiply_inverse": lambda a, b, x, c: (
        kron(a, b).damped(c).multiply_inverse(x.reshape(2, 3))
    ),
    "damped adjoint": lambda a, b, x, c: kron(skewed(a), b).damped(c).H.solve(x),
    "damped transpose": lambda a, b, x, c: kron(skewed(a), b).damped(c).T.solve(x),
    "damped and scaled": lambda a, b, x, c: (c * kron(a, b).damped(c)).solve(x),
    "damped three factors": lambda a, b, x, c: kron(a, b, a).damped(c).solve(torch.cat([x, x])),
    "factored": lambda a, b, x, c: kron(a, b).damped(c, "factored").solve(x),
    "plus a multiple of the identity": lambda a, b, x, c: (kron(a, b) + c * identity(a)).solve(x),
    "power": lambda a, b, x, c: kron(a, b).power(-2) @ x,
    "product of operators": lambda a, b, x, c: (
        (kron(a, b) @ DiagonalOperator(x + 4)).solve(x)
    ),
    "blocks": lambda a, b, x, c: block_diag(a, c * DenseOperator(b)).solve(x[:5]),
    "damped blocks": lambda a, b, x, c: block_diag(kron(a, b), a).damped(c).solve(
        torch.cat([x, x[:2]])
    ),
    "diagonal": lambda a, b, x, c: (c * DiagonalOperator(x + 4)).damped(c).solve(x),
    "Kronecker sum": lambda a, b, x, c: (c * KroneckerSumOperator([a, b])).damped(c).solve(x),
    "three terms": lambda a, b, x, c: KroneckerSumOperator([a, b, a]).solve(torch.cat([x, x])),
}  # fmt: skip

DETERMINANTS = {
    "one matrix": lambda a, b, x, c: DenseOperator(b).slogdet().logabsdet,
    "two factors": lambda a, b, x, c: kron(a, b).slogdet().logabsdet,
    "three factors": lambda a, b, x, c: kron(a, b, a).slogdet().logabsdet,
    "of operators": lambda a, b, x, c: (
        kron(DiagonalOperator(x[:2] + 3), DenseOperator(b).inverse()).slogdet().logabsdet
    ),
    "scaled": lambda a, b, x, c: (c * kron(a, b)).slogdet().logabsdet,
    "damped": lambda a, b, x, c: kron(a, b).damped(c).slogdet().logabsdet,
    "damped three factors": lambda a, b, x, c: kron(a, b, a).damped(c).slogdet().logabsdet,
    "factored": lambda a, b, x, c: kron(a, b).damped(c, "factored").slogdet().logabsdet,
    "plus a multiple of the identity": lambda a, b, x, c: (
        (kron(a, b) + c * identity(a)).slogdet().logabsdet
    ),
    "blocks": lambda a, b, x, c: block_diag(a, c * DenseOperator(b)).damped(c).slogdet().logabsdet,
    "diagonal": lambda a, b, x, c: (c * DiagonalOperator(x + 4)).damped(c).slogdet().logabsdet,
    "Kronecker sum": lambda a, b, x, c: (
        (c * KroneckerSumOperator([a, b, a])).damped(c).slogdet().logabsdet
    ),
}

FUNCTIONS = (
    {f"product: {name}": function for name, function in PRODUCTS.items()}
    | {f"solve: {name}": function for name, function in SOLVES.items()}
    | {f"logdet: {name}": function for name, function in DETERMINANTS.items()}
)
BY_SCHUR = [
    "damped",
    "damped three factors",
    "plus a multiple of the identity",
    "Kronecker sum",
]

KINDS = ["definite", "general", "repeated"]


@pytest.mark.parametrize("name", PRODUCTS)
def test_derivatives_of_products(name):
    assert gradcheck(PRODUCTS[name], leaves(*inputs("general")), check_forward_ad=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVES)
def test_derivatives_of_solves(name, kind):
    assert gradcheck(SOLVES[name], leaves(*inputs(kind)), check_forward_ad=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DETERMINANTS)
def test_derivatives_of_determinants(name, kind):
    assert gradcheck(DETERMINANTS[name], leaves(*inputs(kind)), check_forward_ad=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_complex_derivatives(name):
    assert gradcheck(FUNCTIONS[name], leaves(*inputs("general", COMPLEX)))


@pytest.mark.parametrize("name", [name for name in PRODUCTS if "numbers" not in name])
def test_second_derivatives_of_products(name):
    assert gradgradcheck(PRODUCTS[name], leaves(*inputs("definite")))


@pytest.mark.parametrize(
    "name, kind",
    [(name, "general") for name in SOLVES]
    + [(name, "repeated") for name in ("solve", "multiply_inverse", "damped", "factored")],
)
def test_second_derivatives_of_solves(name, kind):
    assert gradgradcheck(SOLVES[name], leaves(*inputs(kind)))


def test_second_derivatives_of_complex_solves():
    assert gradgradcheck(SOLVES["solve"], leaves(*inputs("general", COMPLEX)))


@pytest.mark.parametrize("name", [name for name in DETERMINANTS if name not in BY_SCHUR])
def test_second_derivatives_of_determinants(name):
    assert gradgradcheck(DETERMINANTS[name], leaves(*inputs("general")))


@pytest.mark.parametrize("kind", ["definite", "general"])
def test_second_derivatives_of_determinants_by_schur_forms_are_an_error(kind):
    a, b, x, c = inputs(kind)
    logdet = lambda a: DETERMINANTS["damped"](a, b, x, c)  # noqa: E731
    for second in (lambda: jacrev(jacrev(logdet))(a), lambda: hessian(logdet)(a)):
        with pytest.raises(TypeError, match="no second one"):
            second()
    with pytest.raises(TypeError, match="no second one"):
        torch.autograd.functional.hessian(logdet, a)
    claimed = lambda a, b, x, c: DETERMINANTS["damped"](  # noqa: E731
        DenseOperator((a + a.T) / 2, "symmetric"), DenseOperator((b + b.T) / 2, "symmetric"), x, c
    )
    assert gradgradcheck(claimed, leaves(*inputs("definite")))


@pytest.mark.parametrize("kind", ["definite", "general"])
def test_second_derivatives_by_the_damping_alone(kind):
    a, b, x, c = inputs(kind)
    assert gradgradcheck(lambda c: DETERMINANTS["damped"](a, b, x, c), leaves(c))


@pytest.mark.parametrize(
    "check, function",
    [
        (gradgradcheck, DETERMINANTS["two factors"]),
        (gradcheck, lambda a, b, x, c: kron(a, b).damped(c).H.solve(x)),
        (gradcheck, lambda a, b, x, c: kron(a, b).damped(c).inverse().slogdet().logabsdet),
        (gradcheck, lambda a, b, x, c: kron(a, b).damped(c).power(2) @ x),
    ],
    ids=["logdet", "damped adjoint", "damped inverse", "square"],
)
def test_derivatives_in_directions_that_are_not_symmetric(check, function):
    """Those of a matrix that happens to be symmetric, of which nothing was claimed."""
    assert check(function, leaves(*inputs("definite")))
    if check is gradcheck:
        assert check(function, leaves(*inputs("definite", COMPLEX)))


def test_derivatives_of_a_sum_that_is_written_out():
    a, b, x, c = leaves(*inputs("definite"))

    def solve(a, b, x, c):
        return (kron(a, b) + c * kron(skewed(a), DiagonalOperator(x[:3]))).solve(x)

    with pytest.warns(kronops.DensificationWarning):
        assert gradcheck(solve, (a, b, x, c), check_forward_ad=True)


@pytest.mark.parametrize("kind", ["definite", "general"])
def test_derivatives_of_the_sign(kind):
    """It turns with a complex determinant; of a real one it has no derivative."""
    for function in (
        lambda a, b, x, c: tuple(kron(a, b).damped(c).slogdet()),
        lambda a, b, x, c: tuple(kron(a, b).damped(c).inverse().slogdet()),
        lambda a, *_: DenseOperator(a).slogdet().sign,
    ):
        assert gradcheck(function, leaves(*inputs(kind, COMPLEX)))


@pytest.mark.parametrize("dtypes", [(REAL, COMPLEX), (COMPLEX, REAL)], ids=["real", "complex"])
def test_an_operator_and_a_right_hand_side_of_the_other_kind(dtypes):
    a, b, _, c = inputs("general", dtypes[0])
    tensors = leaves(a, b, vector(6, dtype=dtypes[1]), c)
    for name in ("solve: solve", "solve: damped", "product: product"):
        assert gradcheck(FUNCTIONS[name], tensors, check_forward_ad=True)
    assert gradgradcheck(SOLVES["solve"], tensors)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])
def test_derivatives_by_given_eigenvalues(dtype):
    bases = [torch.linalg.qr(matrix("general", n, dtype=dtype)).Q for n in (2, 3)]
    values, x, c = leaves(vector(6).abs() + 1, vector(6, 1, dtype), torch.tensor(0.5, dtype=REAL))
    equal = torch.full((2, 3), 2.0, dtype=REAL).requires_grad_()

    def all_of_it(values, x, c):
        op = kronops.KroneckerEigenOperator(bases, values)
        damped = op.damped(c)
        determinants = damped.logdet(), op.power(0.5).logdet()
        arrays = op @ x, op.solve(x), damped.solve(x), op.power(-0.5) @ x, damped.diagonal()
        return *arrays, *determinants, damped.trace()

    for eigenvalues in (values, equal):
        assert gradcheck(all_of_it, (eigenvalues, x, c), check_forward_ad=True)
        assert gradgradcheck(all_of_it, (eigenvalues, x, c))


def test_gradients_where_eigenvalues_nearly_coincide():
    """Those of dense matrices, to the last digits: no difference of eigenvalues divides."""
    _, _, x, c = inputs("definite")
    for gap in (0.0, 1e-13, 1e-9):
        a, b = 2 * torch.eye(2, dtype=REAL), 2 * torch.eye(3, dtype=REAL)
        a[0, 1] = a[1, 0] = gap
        tensors = leaves(a, b, x, c)
        pairs = [
            (SOLVES["damped"], from_dense(torch.linalg.solve)),
            (DETERMINANTS["damped"], from_dense(lambda m, x: torch.logdet(m))),
        ]
        for structured, dense in pairs:
            found = torch.autograd.grad(structured(*tensors).sum(), tensors[:2])
            wanted = torch.autograd.grad(dense(*tensors).sum(), tensors[:2])
            for f, w in zip(found, wanted, strict=True):
                torch.testing.assert_close(f, w, rtol=1e-13, atol=1e-13)


# -- torch.func -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_and_hessians_are_those_of_the_dense_matrix(kind):
    a, b, x, c = inputs(kind)
    structured, dense = SOLVES["damped"], from_dense(torch.linalg.solve)
    for argnums in (0, 2, 3):
        wanted = jacrev(dense, argnums)(a, b, x, c)
        torch.testing.assert_close(jacrev(structured, argnums)(a, b, x, c), wanted)
        torch.testing.assert_close(jacfwd(structured, argnums)(a, b, x, c), wanted)
    loss = lambda f: lambda *args: (f(*args) ** 2).sum()  # noqa: E731
    wanted = hessian(loss(dense), argnums=(0, 3))(a, b, x, c)
    torch.testing.assert_close(hessian(loss(structured), argnums=(0, 3))(a, b, x, c), wanted)
    twice = jacrev(jacrev(loss(structured), argnums=(0, 3)), argnums=(0, 3))(a, b, x, c)
    torch.testing.assert_close(twice, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["solve: solve", "solve: factored", "logdet: two factors"])
def test_forward_mode(name, kind):
    """`torch.func.jvp`, the older `forward_ad`, and reverse mode agree."""
    tensors = inputs(kind)
    moves = inputs("general", seed=1)
    function = FUNCTIONS[name]
    value, change = jvp(function, tensors, moves)
    torch.testing.assert_close(value, function(*tensors))
    with forward_ad.dual_level():
        made = function(*map(forward_ad.make_dual, tensors, moves))
        torch.testing.assert_close(forward_ad.unpack_dual(made).tangent, change)
    _, pull = torch.func.vjp(function, *tensors)
    weights = torch.randn_like(change)
    backward = sum((m * g).sum() for m, g in zip(moves, pull(weights), strict=True))
    torch.testing.assert_close((weights * change).sum(), backward)


def test_functional_gradients_are_those_of_backward():
    for function in (SOLVES["damped"], DETERMINANTS["two factors"], PRODUCTS["factored"]):
        loss = lambda *args, f=function: f(*args).sum()  # noqa: E731
        tensors = inputs("general")
        found = grad(loss, argnums=(0, 1, 3))(*tensors)
        a, b, x, c = leaves(*tensors)
        wanted = torch.autograd.grad(loss(a, b, x, c), (a, b, c), allow_unused=True)
        for f, w in zip(found, wanted, strict=True):
            torch.testing.assert_close(f, torch.zeros_like(f) if w is None else w)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=["real", "complex"])
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_vectors(kind, dtype):
    a, b, _, _ = inputs(kind, dtype)
    op = kron(a, b)
    damped = op.damped(0.5)
    vectors = vector(30, 1, dtype).reshape(5, 6)
    for apply in (op.matvec, op.rmatvec, op.solve, damped.matvec, damped.solve, damped.H.solve):
        wanted = torch.stack([apply(x) for x in vectors])
        torch.testing.assert_close(vmap(apply)(vectors), wanted)
        torch.testing.assert_close(vmap(apply, in_dims=1)(vectors.mT.contiguous()), wanted)
    nested = vmap(vmap(damped.solve))(vectors[None].expand(2, 5, 6))
    torch.testing.assert_close(nested[1], torch.stack([damped.solve(x) for x in vectors]))


@pytest.mark.parametrize("kind", ["definite", "general"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_over_factors(name, kind):
    """Values and gradients: a batch is what a loop makes of it."""
    function = FUNCTIONS[name]
    batch = [inputs(kind, seed=seed) for seed in range(3)]
    stacked = [torch.stack(parts) for parts in zip(*batch, strict=True)]
    found = vmap(function)(*stacked)
    wanted = [function(*tensors) for tensors in batch]
    if isinstance(found, tuple):
        wanted = tuple(map(torch.stack, zip(*wanted, strict=True)))
    else:
        wanted = torch.stack(wanted)
    torch.testing.assert_close(found, wanted)
    if kind == "general":
        loss = lambda *args: sum(part.sum() for part in as_tuple(function(*args)))  # noqa: E731
        found = vmap(grad(loss, argnums=(0, 1)))(*stacked)
        wanted = [grad(loss, argnums=(0, 1))(*tensors) for tensors in batch]
        for f, w in zip(found, zip(*wanted, strict=True), strict=True):
            torch.testing.assert_close(f, torch.stack(w))


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def test_vmap_over_complex_factors():
    batch = [inputs("general", COMPLEX, seed) for seed in range(3)]
    stacked = [torch.stack(parts) for parts in zip(*batch, strict=True)]
    for name in ("product: product of the adjoint", "solve: solve", "solve: damped adjoint"):
        wanted = torch.stack([FUNCTIONS[name](*tensors) for tensors in batch])
        torch.testing.assert_close(vmap(FUNCTIONS[name])(*stacked), wanted)


# -- one operator, many graphs --------------------------------------------------------------------


@pytest.fixture
def factorised(monkeypatch):
    """How often matrices were factorised, by the name of the function that the library has."""
    counts = collections.Counter()

    def count(module, name):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    count(torch.linalg, "cholesky_ex")
    count(torch.linalg, "lu_factor_ex")
    count(backend_of(torch.zeros(1)).xp.linalg, "eigh")
    count(scipy.linalg, "schur")
    return counts


ONCE = {
    "definite": {"cholesky_ex": 2, "eigh": 2},
    "general": {"lu_factor_ex": 2, "schur": 2},
}


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("kind", ONCE)
def test_factorisations_are_made_once_for_all_solutions(kind, tracked, factorised):
    a, b, x, c = leaves(*inputs(kind))
    op = kron(a, b) if tracked else kron(a.detach(), b.detach())
    for damping in (c, 2 * c, 0.5, 0.25):
        assert op.solve(x).requires_grad
        assert op.damped(damping).solve(x).requires_grad
        assert op.multiply_inverse(x.reshape(2, 3)).requires_grad
        with torch.no_grad():
            op.solve(x)
        vmap(op.solve)(x.detach()[None])
        vmap(op.damped(0.5).solve)(x.detach()[None])
    assert factorised == ONCE[kind]


def test_factorisations_of_a_first_use_anywhere_serve_everywhere(factorised):
    a, b, x, _ = inputs("definite")
    y = x.clone().requires_grad_()

    def use(op, x):
        halves = op.power(-0.5) @ x + op.damped(0.5).power(-0.5) @ x
        return halves.sum() * op.logdet()

    def in_inference_mode(op):
        with torch.inference_mode():
            use(op, x)

    wanted = torch.autograd.grad(use(kron(a, b), y), y)
    for first in (
        in_inference_mode,
        lambda op: grad(functools.partial(use, op))(x),
        lambda op: jvp(functools.partial(use, op), (x,), (x,)),
        lambda op: vmap(functools.partial(use, op))(x[None]),
        lambda op: jacfwd(grad(functools.partial(use, op)))(x),
    ):
        op = kron(a, b)
        first(op)
        before = dict(factorised)
        found = torch.autograd.grad(use(op, y), y)
        torch.testing.assert_close(found, wanted)
        assert factorised == before


@pytest.mark.parametrize("kind", ONCE)
def test_factorisations_are_made_once_for_all_gradients(kind, factorised):
    a, b, x, _ = leaves(*inputs(kind))
    op = kron(a, b)
    damped = op.damped(0.5)
    after = []
    for _ in range(3):
        op.solve(x).sum().backward()
        damped.solve(x).sum().backward()
        after.append(dict(factorised))
    transposed = {"schur": 4} if kind == "general" else {}
    assert after[0] == after[1] == after[2] == ONCE[kind] | transposed


@pytest.mark.parametrize("kind", KINDS)
def test_an_operator_may_be_differentiated_any_number_of_times(kind):
    a, b, x, c = leaves(*inputs(kind))
    op = kron(a, b)
    damped = op.damped(c)
    seen = []
    for _ in range(3):
        for tensor in (a, b, x, c):
            tensor.grad = None
        op.solve(x).sum().backward()
        op.slogdet().logabsdet.backward()
        damped.solve(x).sum().backward()
        damped.slogdet().logabsdet.backward()
        damped.inverse().multiply(x).sum().backward()
        (damped.H @ x).sum().backward()
        seen.append([tensor.grad for tensor in (a, b, x, c)])
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0)
    torch.testing.assert_close(seen[2], seen[0], rtol=0, atol=0)


def everything(op, damped, x):
    """A number in which all that an operator may keep takes part."""
    arrays = [op @ x, op.H @ x, op.T @ x, op.solve(x), op.T.solve(x), op.multiply_inverse(x)]
    arrays += [damped @ x, damped.solve(x), damped.inverse() @ x, op.power(2) @ x]
    arrays += [op.diagonal(), damped.diagonal(), op.norm()]
    numbers = [op.trace(), op.slogdet().logabsdet, damped.trace(), damped.slogdet().logabsdet]
    return sum(array.sum() for array in [*arrays, *numbers])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_is_lost_to_a_first_use_without(kind, mode):
    tensors = leaves(*inputs(kind))
    a, b, x, c = tensors
    wanted = torch.autograd.grad(everything(kron(a, b), kron(a, b).damped(c), x), tensors)
    op = kron(a, b)
    damped = op.damped(c)
    with mode():
        assert not everything(op, damped, x).requires_grad
    found = torch.autograd.grad(everything(op, damped, x), tensors)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_no_gradient_is_lost_to_a_first_use_inside_a_transform():
    """Of an operator from outside, in `vmap`, `grad` and `jvp`; nor is anything of these kept."""
    tensors = leaves(*inputs("definite"))
    a, b, x, c = tensors
    wanted = torch.autograd.grad(everything(kron(a, b), kron(a, b).damped(c), x), tensors)
    for transform in (
        lambda f: vmap(f)(x.detach()[None]),
        lambda f: grad(f)(x.detach()),
        lambda f: jvp(f, (x.detach(),), (x.detach(),)),
        lambda f: vmap(grad(f))(x.detach()[None]),
    ):
        op = kron(a, b)
        damped = op.damped(c)
        transform(lambda y, op=op, damped=damped: everything(op, damped, y))
        found = torch.autograd.grad(everything(op, damped, x), tensors)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_finite_entries_of_an_infinite_sum():
    matrix = torch.full((2, 2), 1e308, dtype=torch.float64)
    assert torch.equal(DenseOperator(matrix).to_dense(), matrix)
    with pytest.raises(ValueError, match="NaN or infinite"):
        DenseOperator(torch.tensor([[1.0, torch.inf], [-torch.inf, 1.0]]))


def test_inference_mode():
    a, b, x, c = inputs("definite")
    wanted = everything(kron(a, b), kron(a, b).damped(c), x)
    with torch.inference_mode():
        op = kron(a, b)
        torch.testing.assert_close(everything(op, op.damped(c), x), wanted)
    torch.testing.assert_close(everything(op, op.damped(c), x), wanted)


def test_what_inference_mode_made_first_may_be_differentiated():
    """PyTorch refuses to save a tensor of that mode for a derivative."""
    a, b, x, _ = inputs("definite")
    op, y = kron(a, b), x.clone().requires_grad_()
    wanted = torch.autograd.grad((kron(a, b).pinv() @ y).sum(), y)
    with torch.inference_mode():
        op.pinv() @ x
    torch.testing.assert_close(torch.autograd.grad((op.pinv() @ y).sum(), y), wanted)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_tensors_of_the_user_are_left_as_they_are(requires_grad):
    tensors = tuple(t.clone().requires_grad_(requires_grad) for t in inputs("definite"))
    copies = [tensor.detach().clone() for tensor in tensors]
    a, b, x, c = tensors
    op = kron(a, b)
    made = everything(op, op.damped(c), x)
    assert made.requires_grad == requires_grad
    if requires_grad:
        torch.autograd.grad(made, tensors)
    for tensor, before in zip(tensors, copies, strict=True):
        assert tensor.requires_grad == requires_grad
        assert tensor.is_leaf and tensor.grad is None and tensor._version == 0
        assert torch.equal(tensor, before)


def test_an_operator_holds_clones_that_stay_connected():
    a, b, _, c = leaves(*inputs("general"))
    op = (c * DenseOperator(a)).damped(c)
    held = op.matrix if isinstance(op, DenseOperator) else op.base.matrix
    assert held.data_ptr() != a.data_ptr()
    assert torch.autograd.grad(held.sum(), a)[0] is not None
    factor = kron(a, b).factors[0].matrix
    assert factor is not a and factor.requires_grad and factor.data_ptr() != a.data_ptr()
    assert torch.equal(torch.autograd.grad(factor.sum(), a)[0], torch.ones_like(a))


def test_equal_tensors_are_two_variables():
    """Although ``A ⊗ B + A ⊗ C`` is one product where nothing is differentiated."""
    a, b, x, _ = inputs("definite")
    one, other = leaves(a, a)
    total = (kron(one, b) + kron(other, 2 * b)) @ x
    left, right = torch.autograd.grad(total.sum(), (one, other))
    torch.testing.assert_close(right, 2 * left)


def test_steps_of_an_optimiser_do_not_reach_an_operator():
    tensors = leaves(*inputs("definite"))
    a, b, x, c = tensors
    op = kron(a, b)
    damped = op.damped(c)
    scaled = c * DenseOperator(a)
    value = everything(op, damped, x) + (scaled @ x[:2]).sum()
    with torch.no_grad():
        wanted = op @ x, op.solve(x), scaled @ x[:2]
    optimiser = torch.optim.SGD([a, b, c], lr=0.05)
    gradients = torch.autograd.grad(value, tensors, retain_graph=True)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        tensor.grad = gradient.clone()
    optimiser.step()
    assert all(tensor._version == 1 for tensor in (a, b, c))
    with torch.no_grad():
        found = op @ x, op.solve(x), scaled @ x[:2]
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        torch.testing.assert_close(everything(op, damped, x) + found[2].sum(), value)
    # The graph is of the values then, and none of them was written to.
    torch.testing.assert_close(torch.autograd.grad(value, tensors), gradients, rtol=0, atol=0)


def test_a_training_loop_descends():
    """Parameters of a module, a new operator for each step, as in a Gaussian process."""
    a, b, x, _ = inputs("definite")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.roots = torch.nn.ParameterList([torch.linalg.cholesky(m) for m in (a, b)])
            self.noise = torch.nn.Parameter(torch.tensor(0.0, dtype=REAL))

        def forward(self, x):
            op = kron(*[root @ root.mT for root in self.roots]).damped(self.noise.exp())
            return x @ op.solve(x) + op.logdet()

    model = Model()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        losses.append(model(x))
        losses[-1].backward()
        optimiser.step()
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


# -- torch.compile --------------------------------------------------------------------------------

compiled = functools.partial(torch.compile, fullgraph=True, backend="eager")


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def check_compiled(op, wanted):
    """The products of ``op`` in a compiled function, against those of an operator like it."""
    n = op.shape[1]
    rng = np.random.default_rng(0)
    x, columns = (
        torch.asarray(rng.standard_normal(size), dtype=op.dtype) for size in (n, (2, n, 3))
    )

    def products(x, columns):
        return op.matvec(x), op.matmat(columns), op.multiply(x)

    found = compiled(products)(x, columns)
    wanted = wanted @ x, wanted @ columns, wanted.multiply(x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(op @ x, wanted[0])  # and nothing of the compiler was kept


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", zoo.CASES)
def test_compiled_products(name):
    op, _ = zoo.CASES[name](zoo.Maker(torch, "float64"))
    op @ torch.ones(op.shape[1], dtype=op.dtype)
    check_compiled(op, op)


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    "name", ["dense_definite", "kronecker_three_factors", "kronecker_eigen", "blocks_dict"]
)
def test_compiled_products_that_are_the_first(name):
    op, _ = zoo.CASES[name](zoo.Maker(torch, "complex128"))
    again, _ = zoo.CASES[name](zoo.Maker(torch, "complex128"))
    check_compiled(op, again)


@pytest.mark.usefixtures("_fresh_compiler")
def test_an_operator_that_is_built_in_a_compiled_function():
    a, b, x, _ = inputs("general")

    def build(a, b, x):
        op = 2.0 * kron(a, b)
        return op.matvec(x), op.H.multiply(x.reshape(2, 3)), op.rmatmat(x[:, None])

    found = compiled(build)(a, b, x)
    torch.testing.assert_close(found, build(a, b, x))


# The compiler looks at `grad` of every tensor, also of the clones in operators.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.usefixtures("_fresh_compiler")
def test_gradients_through_a_compiled_product():
    a, b, x, _ = leaves(*inputs("general"))
    op = kron(a, b)
    wanted = torch.autograd.grad((op @ x).square().sum(), (a, b, x))
    product = compiled(op.matvec)
    torch.testing.assert_close(torch.autograd.grad(product(x).square().sum(), (a, b, x)), wanted)
    built = compiled(lambda a, b, x: kron(a, b).matvec(x))
    torch.testing.assert_close(
        torch.autograd.grad(built(a, b, x).square().sum(), (a, b, x)), wanted
    )


# Dynamo wraps what a compiled function raises in an error of its own.
AT = (TypeError, torch._dynamo.exc.TorchDynamoException)


@pytest.mark.usefixtures("_fresh_compiler")
def test_the_at_sign_in_a_compiled_function_is_refused_with_the_name_of_what_works():
    a, b, x, _ = inputs("general")
    op = kron(a, b)
    for function in (lambda x: op @ x, lambda x: x @ op, lambda x: kron(a, b) @ x):
        with pytest.raises(AT, match=r"op\.matvec\(x\)"):
            compiled(function)(x)
    torch.testing.assert_close(op @ x, torch.kron(a, b) @ x)
    torch.testing.assert_close(x @ op, torch.kron(a, b).T @ x)


# -- tensors and numbers --------------------------------------------------------------------------


def test_tensors_from_the_left():
    a, b, x, c = inputs("general")
    op, dense = kron(a, b), torch.kron(a, b)
    torch.testing.assert_close(x @ op, x @ dense)
    rows = vector(24, 1).reshape(2, 2, 6)
    torch.testing.assert_close(rows @ op, rows @ dense)
    for number in (c, torch.tensor(2), c.clone().requires_grad_()):
        torch.testing.assert_close((number * op).to_dense(), number * dense)
        torch.testing.assert_close((op * number).to_dense(), number * dense)
        torch.testing.assert_close((op / number).to_dense(), dense / number)


def test_what_is_no_product_names_the_right_call():
    a, b, x, _ = inputs("general")
    op = kron(a, b)
    for function, call in [
        (lambda: x * op, "@"),
        (lambda: op * x, "@"),
        (lambda: x + op, "DenseOperator"),
        (lambda: op + x, "DenseOperator"),
        (lambda: x - op, "DenseOperator"),
        (lambda: torch.tensor(1.0) + op, "damped"),
    ]:
        with pytest.raises(TypeError, match=call):
            function()
    for function in (torch.add, torch.matmul):
        with pytest.raises(TypeError):
            function(x, op)


def test_numbers_do_not_promote():
    a, b, x, c = (tensor.float() for tensor in inputs("definite"))
    op = kron(a, b)
    double = c.double()
    for number in (0.5, 1, np.float64(0.5), double, double.clone().requires_grad_()):
        arrays = [(number * op) @ x, (op / number) @ x, (number * op).solve(x)]
        for damped in (op.damped(number), op.damped(number, "factored")):
            arrays += [damped @ x, damped.solve(x), damped.slogdet().logabsdet]
            assert damped.dtype == torch.float32
        arrays += [(number * DiagonalOperator(a)).solve(x[:4])]
        assert {array.dtype for array in arrays} == {torch.float32}
    assert ((1j * op) @ x).dtype == torch.complex64


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("kind", ["definite", "general"])
def test_half_precision(kind, half):
    """Products are the library's; factorisations are computed in single precision and rounded."""
    a, b, x, _ = inputs(kind)
    halves = [tensor.to(half) for tensor in (a, b, x)]
    op, exact = kron(*halves[:2]), kron(*(tensor.double() for tensor in halves[:2]))
    wide = halves[2].double()
    pairs = [
        (op @ halves[2], exact @ wide),
        (op.H @ halves[2], exact.H @ wide),
        (op.multiply(halves[2].reshape(2, 3)), exact.multiply(wide.reshape(2, 3))),
        (op.solve(halves[2]), exact.solve(wide)),
        (op.damped(0.5, "factored").solve(halves[2]), exact.damped(0.5, "factored").solve(wide)),
        (op.damped(0.5) @ halves[2], exact.damped(0.5) @ wide),
        (op.diagonal(), exact.diagonal()),
        (op.norm(), exact.norm()),
        (op.norm(2), exact.norm(2)),
        (op.slogdet().sign, exact.slogdet().sign),
        (op.slogdet().logabsdet, exact.slogdet().logabsdet),
    ]
    if kind == "definite":
        damped, exactly = op.damped(0.5), exact.damped(0.5)
        pairs += [
            (damped.solve(halves[2]), exactly.solve(wide)),
            (op.cholesky() @ halves[2], exact.cholesky() @ wide),
            (op.eigh().eigenvalues, exact.eigh().eigenvalues),
        ]
    eps = torch.finfo(half).eps
    for found, wanted in pairs:
        assert found.dtype == half
        torch.testing.assert_close(found.double(), wanted, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_precision_by_schur_forms(half):
    halves = tuple(tensor.to(half) for tensor in inputs("general"))
    op, exact = (
        kron(*tensors[:2]).damped(0.5) for tensors in (halves, [h.double() for h in halves])
    )
    eps = torch.finfo(half).eps
    for found, wanted in [
        (op.solve(halves[2]), exact.solve(halves[2].double())),
        (op.slogdet().sign, exact.slogdet().sign),
        (op.slogdet().logabsdet, exact.slogdet().logabsdet),
    ]:
        assert found.dtype == half
        torch.testing.assert_close(found.double(), wanted, rtol=16 * eps, atol=16 * eps)


@pytest.mark.parametrize("option", [1, 2])
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_precision_of_series(half, option):
    moments = [(m, 0.25 * m) for m in (matrix("definite", n).to(half) for n in (2, 3))]
    exactly = [[part.double() for part in pair] for pair in moments]
    op, exact = (kronops.SeriesOperator(*pairs, 4, option) for pairs in (moments, exactly))
    x = vector(6).to(half)
    eps = torch.finfo(half).eps
    for found, wanted in [
        (op @ x, exact @ x.double()),
        (op.solve(x), exact.solve(x.double())),
        (op.slogdet().logabsdet, exact.slogdet().logabsdet),
    ]:
        assert found.dtype == half
        torch.testing.assert_close(found.double(), wanted, rtol=16 * eps, atol=16 * eps)


def test_bfloat16_has_no_numpy_counterpart():
    op = DenseOperator(torch.eye(2, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match=r"astype\('float32'\)"):
        op.to_backend("numpy")
    assert op.astype("float32").to_backend("numpy").dtype == np.float32


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_sparse_tensors_are_refused():
    eye = torch.eye(3)
    for sparse in (eye.to_sparse(), eye.to_sparse_csr()):
        for build in (DenseOperator, DiagonalOperator, lambda m: kron(m, eye)):
            with pytest.raises(TypeError, match=r"layout torch.sparse_\w+: make it dense"):
                build(sparse)
    with pytest.raises(TypeError, match="x is a tensor of layout"):
        DenseOperator(eye) @ torch.ones(3).to_sparse()
    with pytest.raises(TypeError, match="b is a tensor of layout"):
        DenseOperator(eye).solve(torch.ones(3).to_sparse())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_tensors_that_are_no_arrays_of_numbers_are_refused_in_words():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    eye = torch.eye(3)
    for given, words in (
        (nested, "x is a nested tensor"),
        (torch.ones(3).to(torch.float8_e4m3fn), "float8_e4m3fn.*cast it first, to float32"),
        (torch.ones(3).to_mkldnn(), "layout torch._mkldnn: make it dense"),
    ):
        with pytest.raises(TypeError, match=words):
            DenseOperator(eye) @ given
    with pytest.raises(TypeError, match=r"complex32.*cast it first, to complex64"):
        DenseOperator(eye.to(torch.complex32))


def test_parameters_are_tensors():
    a, b, x, _ = inputs("definite")
    parameter = torch.nn.Parameter(a)
    op = kron(parameter, b)
    torch.testing.assert_close(op.solve(torch.nn.Parameter(x)), kron(a, b).solve(x))
    op.logdet().backward()
    torch.testing.assert_close(parameter.grad, 3 * torch.linalg.inv(a))
    assert type(op @ x) is torch.Tensor
    frozen = torch.nn.Parameter(a, requires_grad=False)
    assert not kron(frozen, b).solve(x).requires_grad


def test_two_devices_or_libraries_are_an_error_that_names_both():
    a, b, x, _ = inputs("general")
    op = kron(a, b)
    for function in (
        lambda: kron(a, b.to("meta")),
        lambda: block_diag(a, b.to("meta")),
        lambda: op @ x.to("meta"),
        lambda: op.solve(x.to("meta")),
        lambda: x.to("meta") @ op,
    ):
        with pytest.raises(TypeError, match=r"cpu.*meta|meta.*cpu"):
            function()
    for function in (
        lambda: kron(a, b.numpy()),
        lambda: op @ x.numpy(),
        lambda: op.solve(x.numpy()),
        lambda: kron(a.numpy(), b.numpy()) @ x,
    ):
        with pytest.raises(TypeError, match=r"numpy.*torch|torch.*numpy"):
            function()


@pytest.mark.parametrize(
    "move", [lambda m: m.numpy(), lambda m: m.to("meta")], ids=["libraries", "devices"]
)
def test_two_devices_or_libraries_do_not_meet_in_a_closed_form(move):
    a = matrix("general", 2)
    for build in (DenseOperator, DiagonalOperator, kron, block_diag):
        for left, right in ((a, move(a)), (move(a), a)):
            with pytest.raises(TypeError, match=r"bases is (of|on) .*, eigenvalues (of|on) "):
                kronops.KroneckerEigenOperator([left], right[0], check_finite=False)
            with pytest.raises(TypeError, match=r"two (libraries|devices)"):
                build(left) + build(right)
            with pytest.raises(TypeError, match=r"two (libraries|devices)"):
                build(left) @ build(right)


def test_shapes_on_the_meta_device():
    """What PyTorch plans models with: everything but the numbers."""
    a, b, x, _ = (tensor.to("meta") for tensor in inputs("definite"))
    op = kron(a, b)
    arrays = [op @ x, op.H @ x, op.solve(x), op.damped(0.5) @ x, op.diagonal(), (2 * op) @ x]
    assert {(array.shape, array.device.type) for array in arrays} == {(x.shape, "meta")}
    assert op.to_device("meta").shape == (6, 6)
    assert op.slogdet().logabsdet.device.type == "meta"


def test_schur_forms_on_the_meta_device():
    op = kron(matrix("general", 3), matrix("general", 2)).to_device("meta").damped(0.1)
    x = torch.empty(6, dtype=REAL, device="meta")
    assert (op.solve(x).shape, op.solve(x).device.type, op.logdet().shape) == ((6,), "meta", ())
    for move in (lambda: op.to_device("cpu"), lambda: op.to_backend("numpy")):
        with pytest.raises(TypeError, match="meta device has a shape and no values"):
            move()


def test_failures_are_those_of_kronops():
    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=REAL)
    singular = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=REAL)
    eye = torch.eye(2, dtype=REAL)
    x = torch.ones(2, dtype=REAL)
    for function, words in [
        (lambda m: DenseOperator(m(indefinite), "positive definite").solve(x), "positive definite"),
        (lambda m: DenseOperator(m(indefinite)).cholesky(), "positive definite"),
        (lambda m: DenseOperator(m(singular)).solve(x), "singular"),
        (lambda m: DenseOperator(m(singular)).inverse() @ x, "singular"),
        (lambda m: kron(eye, m(singular)).multiply_inverse(torch.ones_like(eye)), r"factors\[1\]"),
        (lambda m: DenseOperator(m(indefinite)).logdet(), "sign -1"),
        (lambda m: DiagonalOperator(m(x - x)).solve(x), "singular"),
    ]:
        for track in (lambda m: m, lambda m: m.clone().requires_grad_()):
            with pytest.raises(kronops.LinAlgError, match=words) as caught:
                function(track)
            assert isinstance(caught.value, RuntimeError)  # which PyTorch itself raises
            assert isinstance(caught.value, np.linalg.LinAlgError)


def test_views_of_every_kind():
    """Tensors that are transposed, strided, expanded, or conjugated or negated by a mark alone."""
    base = matrix("general", 6, dtype=COMPLEX)
    x = vector(3, dtype=COMPLEX)
    marked = base[:3, :3].conj()
    assert marked.is_conj() and marked.imag.is_neg()
    views = [
        base[::2, ::2],
        base[:3, :3].mT,
        base[:3, :3].mH,
        marked,
        marked.imag,
        base.real[:3, 3:],
    ]
    views += [
        torch.ones(1, 3, dtype=REAL).expand(3, 3) + torch.eye(3),
        torch.eye(3, dtype=REAL).flip(0),
    ]
    for view in views:
        plain = view.clone().resolve_conj().resolve_neg().contiguous()
        op = DenseOperator(view)
        vector_ = x if view.is_complex() else x.conj().imag
        torch.testing.assert_close(op @ vector_, plain @ vector_)
        torch.testing.assert_close(op.H @ vector_, plain.mH @ vector_)
        torch.testing.assert_close(op.solve(vector_), torch.linalg.solve(plain, vector_))
        torch.testing.assert_close(kron(view, view).H.to_dense(), torch.kron(plain, plain).mH)
        for made in (op, op.H, op.T):
            arrays = made.to_backend("numpy").matrix, made.to_dense().resolve_conj().numpy()
            np.testing.assert_array_equal(*arrays)


# -- moves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_round_trips_between_libraries(dtype):
    maker = zoo.Maker(torch, dtype if dtype != "float16" else "float32")
    op, _ = zoo.CASES["kronecker_of_operators"](maker)
    op = op.astype(dtype).damped(0.5, "factored") if dtype != "float16" else op.astype(dtype)
    host = op.to_backend("numpy")
    assert host.backend.name == "numpy" and host.dtype == np.dtype(dtype)
    back = host.to_backend("torch")
    assert back.dtype == op.dtype and back.device == op.device
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(host.to_dense(), op.to_dense().numpy(), rtol=8 * eps)
    torch.testing.assert_close(back.to_dense(), op.to_dense(), rtol=0, atol=0)


def test_moves_give_memory_of_their_own():
    matrix_ = torch.eye(2, dtype=REAL).requires_grad_()
    op = DenseOperator(matrix_)
    host = op.to_backend("numpy")
    host.matrix[0, 0] = 7.0
    back = host.to_backend("torch")
    host.matrix[0, 0] = 9.0
    assert op.matrix[0, 0] == 1.0 and back.matrix[0, 0] == 7.0
    assert not back.matrix.requires_grad
    backend = op.backend
    conjugated = torch.tensor([1 + 2j]).conj()
    for view in (torch.arange(6.0).reshape(2, 3).mT, conjugated, conjugated.imag):
        plain = view.resolve_conj().resolve_neg()
        np.testing.assert_array_equal(backend.from_numpy(backend.to_numpy(view)), plain)
    assert backend.from_numpy(np.eye(2, dtype=np.float32)).dtype == torch.float32


def pickled(op):
    return pickle.loads(pickle.dumps(op))


@pytest.mark.parametrize("duplicate", [pickled, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("name", ["kronecker_of_operators", "kronecker_damped", "blocks_dict"])
def test_operators_are_copied(name, duplicate):
    op, _ = zoo.CASES[name](zoo.Maker(torch, "complex128"))
    x = torch.ones(op.shape[1], dtype=op.dtype)
    solved = op.solve(x)
    made = duplicate(op)
    torch.testing.assert_close(made @ x, op @ x, rtol=0, atol=0)
    torch.testing.assert_close(made.solve(x), solved, rtol=0, atol=0)


def test_operators_of_differentiated_tensors_are_pickled():
    a, b, x, c = leaves(*inputs("definite"))
    op = kron(a, b).damped(c)
    torch.testing.assert_close(pickled(op).solve(x), op.solve(x))


def test_operators_of_differentiated_tensors_are_copied():
    """With the derivatives of their tensors, in memory of their own."""
    a, b, x, c = leaves(*inputs("definite"))
    factor = DenseOperator(a * a, name="squares")
    op = kron(factor, b, factor).damped(c)
    made = copy.deepcopy(op)
    x = torch.cat([x, x])
    found, wanted = made.solve(x), op.solve(x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), (a, b, c), retain_graph=True),
        torch.autograd.grad(wanted.sum(), (a, b, c)),
    )
    first, _, last = made.base.factors
    assert first is last and first.matrix.data_ptr() != factor.matrix.data_ptr()


# -- values that cannot be seen -------------------------------------------------------------------


def test_what_would_be_an_error_is_nan_under_vmap():
    """And what would not be is right, in the same batch."""
    sound = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=REAL)
    indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=REAL)
    singular = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=REAL)
    skew = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=REAL)
    eye, x = torch.eye(2, dtype=REAL), torch.ones(2, dtype=REAL)
    xx = torch.ones(4, dtype=REAL)
    definite = functools.partial(DenseOperator, assume="positive definite")
    for function, bad in [
        (lambda m: definite(m).solve(x), indefinite),
        (lambda m: definite(m).logdet(), indefinite),
        (lambda m: definite(m).cholesky().matrix, indefinite),
        (lambda m: DenseOperator(m).cholesky().matrix, indefinite),
        (lambda m: DenseOperator(m).cholesky().matrix, skew),
        (lambda m: DenseOperator(m).solve(x), singular),
        (lambda m: DenseOperator(m, "symmetric").solve(x), singular),
        (lambda m: kron(m, eye).solve(xx), singular),
        (lambda m: kron(eye, m).multiply_inverse(eye).reshape(-1), singular),
        (lambda m: DenseOperator(m).logdet(), indefinite),
        (lambda m: DenseOperator(m).eigh().eigenvalues, skew),
        (lambda m: DenseOperator(m).sqrt() @ x, skew),
        (lambda m: DenseOperator(m).sqrt() @ x, indefinite),
        (lambda m: DiagonalOperator(m).solve(xx)[3], singular - 4 * eye),
        (lambda m: DiagonalOperator(m).sqrt().entries[0, 0], -sound),
        (lambda m: kronops.KroneckerEigenOperator([eye, eye], m).solve(xx)[3], singular - 4 * eye),
        (lambda m: kron(eye, eye).damped(m[0, 0]).solve(xx), -sound),
        (lambda m: kron(eye, eye).damped(m[0, 0], "factored").solve(xx), -sound),
    ]:
        good, hidden = vmap(function)(torch.stack([sound, bad]))
        torch.testing.assert_close(good, function(sound))
        assert torch.all(torch.isnan(hidden))
        with pytest.raises((kronops.LinAlgError, ValueError)):
            function(bad)


def test_a_determinant_of_zero_is_no_error_under_vmap_either():
    singular = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=REAL)
    for matrix_ in (singular, singular + 0j, torch.zeros_like(singular)):
        for function in (lambda m: DenseOperator(m).slogdet(), lambda m: kron(m, m).slogdet()):
            sign, logabsdet = vmap(function)(matrix_[None])
            assert sign == 0 and logabsdet == -torch.inf
            assert tuple(function(matrix_)) == (0, -torch.inf)
        assert vmap(lambda m: DenseOperator(m).logdet())(matrix_[None]) == -torch.inf


def test_what_is_claimed_falsely_is_nan_under_vmap():
    """Where nothing can be refused; what differs from its adjoint by rounding is no false claim."""
    drawn = torch.stack([matrix("definite", 3, seed) for seed in range(2)])
    tilted = drawn + torch.tensor([[0, 0.5, 0], [-0.5, 0, 0.1], [0, -0.1, 0]], dtype=REAL)
    rounded = drawn + torch.triu(2e-16 * drawn, 1)
    x = vector(3)
    for claim in ("symmetric", "positive definite"):
        for function in (
            lambda op: op @ x,
            lambda op: op.solve(x),
            lambda op: op.logdet(),
            lambda op: op.damped(0.5).solve(x),
            lambda op: op.eigh().eigenvalues,
            lambda op: op.trace(),
            lambda op: kron(op, op).damped(0.5).logdet(),
        ):
            of_matrix = lambda m, f=function, c=claim: f(DenseOperator(m, c))  # noqa: E731
            assert vmap(of_matrix)(tilted).isnan().all()
            wanted = torch.stack([of_matrix(m) for m in drawn])
            torch.testing.assert_close(vmap(of_matrix)(rounded), wanted)


@pytest.mark.parametrize("entry", [torch.inf, torch.nan])
def test_what_is_not_finite_is_nan_under_vmap(entry):
    x = torch.ones(4, dtype=REAL)
    spoilt = matrix("definite", 2).clone()
    spoilt[0, 1] = entry
    for function in (
        lambda m: DenseOperator(m).solve(x[:2]),
        lambda m: kron(m, m).damped(0.5, "factored").solve(x),
        lambda m: DiagonalOperator(m).solve(x),
    ):
        assert vmap(function)(spoilt[None]).isnan().all()
        assert grad(lambda m, f=function: vmap(f)(m[None]).sum())(spoilt).isnan().all()


def test_singular_schur_forms_are_seen_even_when_differentiated():
    a = -torch.eye(2, dtype=REAL)
    a[0, 1] = 1.0
    with pytest.raises(kronops.LinAlgError, match="singular"):
        kron(a.requires_grad_(), torch.eye(2, dtype=REAL)).damped(1.0).solve(
            torch.ones(4, dtype=REAL)
        )


def test_gradients_by_what_is_claimed_are_the_same_under_vmap():
    """Those by the Hermitian part, whatever becomes of the matrix first."""
    x = vector(3)
    stack = torch.stack([matrix("definite", 3, seed) for seed in range(2)])
    general = DenseOperator(matrix("general", 3))
    for function in (
        lambda op: op @ x,
        lambda op: op.solve(x),
        lambda op: op.H.solve(x),
        lambda op: op.norm(),
        lambda op: (op + general) @ x,
        lambda op: (2 * op).damped(0.5).solve(x),
        lambda op: (op + 2 * op) @ x,
        lambda op: (kron(op) @ kron(general)) @ x,
        lambda op: op.logdet(),
    ):
        gradient = grad(lambda m, f=function: f(DenseOperator(m, "symmetric")).sum())
        wanted = torch.stack([gradient(m) for m in stack])
        torch.testing.assert_close(wanted, wanted.mT)
        torch.testing.assert_close(vmap(gradient)(stack), wanted)


# -- autocast -------------------------------------------------------------------------------------


def test_autocast_changes_nothing():
    """Neither the dtype nor a digit of what is computed, nor what is kept for later."""
    a, b, x, _ = (tensor.float() for tensor in inputs("definite"))
    moments = matrix("definite", 3).float(), 0.2 * matrix("definite", 3, 1).float()

    def use(op, series):
        y = torch.cat([x, x[:3]])
        kept = (op @ op).to_dense(), op.power(0.5) @ x, op.damped(0.1) @ x, op.solve(x)
        return *kept, op.logdet(), x @ op, series @ y, series.inverse() @ y

    def make():
        return kron(a, b), kronops.SeriesOperator(moments, moments, 10, 1)

    wanted = use(*make())
    operators = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = use(*operators)
    for found in (inside, use(*operators)):
        for f, w in zip(found, wanted, strict=True):
            torch.testing.assert_close(f, w, rtol=0, atol=0)


def test_a_differentiated_number_of_another_library_is_an_error_that_names_both():
    t = torch.tensor(0.1, dtype=REAL, requires_grad=True)
    op = kron(np.eye(2), np.eye(3))
    for function in (lambda: op.damped(t), lambda: op * t, lambda: op.damped(t, "factored")):
        with pytest.raises(TypeError, match=r"number of torch, the arrays are of numpy"):
            function()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_beside_single(half):
    """The standard's promotion does not know it."""
    matrix = torch.tensor([[2.0, 1, 0], [1, 3, 0.5], [0, 0.5, 4]])
    narrow = matrix.to(half)
    for make in (
        kronops.DenseOperator,
        lambda m: kronops.kron(m, m),
        lambda m: kronops.KroneckerSumOperator([m, m]),
        lambda m: kronops.LowRankUpdateOperator(kronops.DenseOperator(m), m[:, :1]),
        lambda m: kronops.block_diag(m, m),
    ):
        n = make(matrix).shape[1]
        made = make(narrow) @ torch.ones(n)
        assert made.dtype == torch.float32
        torch.testing.assert_close(made, make(matrix) @ torch.ones(n))


@pytest.mark.parametrize("sizes", [(10, 10), (4, 4, 4), (1, 9), (20, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("followed", [False, True], ids=["host", "tracked"])
def test_small_products_are_those_of_the_matrix(sizes, dtype, followed):
    """By NumPy, or by PyTorch's own functions, which derivatives follow."""
    factors = [torch.randn(p, p, dtype=dtype) for p in sizes]
    op = kron(*factors)
    x = torch.randn(op.shape[1], dtype=dtype, requires_grad=followed)
    expected = functools.reduce(torch.kron, factors) @ x
    torch.testing.assert_close(op @ x, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((op @ x[:, None])[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("followed", [False, True], ids=["host", "tracked"])
def test_a_product_that_does_nothing_is_memory_of_its_own(followed):
    like = torch.zeros(1)
    op = kron(IdentityOperator(3, like=like), IdentityOperator(2, like=like))
    x = torch.randn(6, requires_grad=followed)
    assert (op @ x).data_ptr() != x.data_ptr()


class Subclass(torch.Tensor):
    """Whatever a user may make of a tensor."""


class TestHost:
    """NumPy multiplies tensors on the host, and PyTorch what it follows, or NumPy does not know."""

    @staticmethod
    def factors(dtype=REAL):
        generator = torch.Generator().manual_seed(1)
        shapes = (4, 5), (7, 3), (6, 8)
        return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]

    @staticmethod
    def dense(factors):
        return functools.reduce(torch.kron, factors)

    @pytest.mark.parametrize("dtype", [torch.float32, REAL, torch.complex64, torch.complex128])
    @pytest.mark.parametrize("columns", [(), (3,), (2, 1)])
    def test_the_same_by_both(self, dtype, columns):
        factors = self.factors(dtype)
        op, x = kron(*factors), torch.randn(120, *columns, dtype=dtype)
        engine = op._products.engine
        assert engine is not op.backend and engine.takes(x)
        x = x.movedim(0, -2) if len(columns) == 2 else x
        made = op @ x
        torch.testing.assert_close(made, self.dense(factors) @ x, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(made, (op @ x.clone().requires_grad_()).detach())
        assert made.dtype == dtype and made.is_contiguous() and not made.requires_grad
        made.requires_grad_()

    def test_a_vector_of_another_dtype(self):
        """Half precision is PyTorch's; a wider vector is NumPy's in its own dtype."""
        factors = self.factors(torch.float32)
        op, x = kron(*factors), torch.randn(120, dtype=torch.float64)
        for given in (x, x.to(torch.complex128), x.half(), x.bfloat16()):
            dtype = torch.promote_types(given.dtype, torch.float32)
            made = op @ given
            assert made.dtype == dtype
            wanted = self.dense(factors).to(dtype) @ given.to(dtype)
            torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-3)

    def test_conjugations_and_signs_that_are_put_off(self):
        factors = self.factors(torch.complex128)
        x = torch.randn(120, dtype=torch.complex128)
        op, dense = kron(*(factor.conj() for factor in factors)), self.dense(factors).conj()
        assert x.conj().is_conj() and x.conj().imag.is_neg()
        for y in (x.conj(), x.conj().imag):
            torch.testing.assert_close(op @ y, dense @ y.resolve_neg().to(dense.dtype))

    def test_what_is_followed_is_not_taken(self):
        op, x = kron(*self.factors()), torch.randn(120, dtype=REAL)
        engine, seen = op._products.engine, []

        def use(y):
            seen.append(engine.takes(y))
            return (op @ y).sum()

        use(x)
        use(x.clone().requires_grad_())
        torch.func.grad(use)(x)
        torch.func.jvp(use, (x,), (x,))
        torch.func.vmap(use)(x[None])
        with FlopCounterMode(display=False) as counter:
            use(x)
        assert counter.get_total_flops() > 0
        use(Subclass(x))
        assert seen == [True] + 6 * [False]

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize(
        "trace", [lambda f, x: torch.jit.trace(f, (x,)), lambda f, x: make_fx(f)(x)]
    )
    def test_what_is_recorded_is_a_function_of_the_vector(self, trace):
        op, x = kron(*self.factors()), torch.randn(120, dtype=REAL)
        op @ x.clone().requires_grad_()  # for what the operator keeps is no part of the record
        recorded = trace(lambda y: op.multiply(y), x)
        torch.testing.assert_close(recorded(2 * x), op @ (2 * x))

    def test_what_is_first_used_by_tensors_without_numbers_is_right_later(self):
        factors = [matrix("definite", n) for n in (3, 4)]
        op, x = kron(*factors).damped(0.1), vector(12)
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert op.solve(torch.ones(12, dtype=REAL)).shape == (12,)
        wanted = torch.linalg.solve(self.dense(factors) + 0.1 * torch.eye(12, dtype=REAL), x)
        torch.testing.assert_close(op.solve(x), wanted)

    @pytest.mark.usefixtures("threads_at_every_size")
    @pytest.mark.parametrize("threads", [1, 2])
    def test_infinities_are_made_without_a_word(self, threads):
        """As by PyTorch, whatever NumPy was told to say."""
        diagonal = DiagonalOperator(torch.zeros(600, dtype=REAL))
        x = torch.full((360_000,), torch.inf, dtype=REAL)
        with np.errstate(all="raise"), settings(threads=threads, compiled=False):
            assert (kron(diagonal, diagonal) @ x).isnan().all()
            assert (kron(diagonal, torch.ones(600, 600, dtype=REAL)) @ x).isnan().all()

    def test_what_is_first_used_in_a_transformation_is_taken_later(self):
        op, x = kron(*self.factors()), torch.randn(120, dtype=REAL)
        torch.func.vmap(lambda y: op @ y)(x[None])
        assert op._products.engine is not op.backend

    def test_operators_of_parameters(self):
        """Those that are trained are tracked, and those that are frozen are not."""
        parameters = [torch.nn.Parameter(factor) for factor in self.factors()]
        x = torch.randn(120, dtype=REAL)
        wanted = self.dense(self.factors()) @ x
        op = kron(*parameters)
        assert op._products.engine is op.backend and (op @ x).requires_grad
        torch.testing.assert_close((op @ x).detach(), wanted)
        op = kron(*(parameter.requires_grad_(False) for parameter in parameters))
        assert op._products.engine is not op.backend
        torch.testing.assert_close(op @ x, wanted)

    def test_factors_that_are_operators_multiply_tensors(self):
        a, b, c = self.factors(torch.complex128)
        eye = torch.eye(4, dtype=a.dtype)
        update = kronops.LowRankUpdateOperator(kronops.DenseOperator(eye), a)
        op = kron(update, b, c.conj())
        assert "operator" in {step.kind for _, step in op._products.plan(1, 1, a.dtype).steps}
        x = torch.randn(96, 2, dtype=a.dtype)
        dense = self.dense([eye + a @ a.mH, b, c.conj()])
        torch.testing.assert_close(op @ x, dense @ x)

    def test_in_inference_mode(self):
        op, x = kron(*self.factors()), torch.randn(120, dtype=REAL)
        with torch.inference_mode():
            assert (op @ x).is_inference()
        assert not (op @ x).is_inference()

    def test_derivatives_by_the_factors(self):
        a, b, c = (factor.requires_grad_() for factor in self.factors())
        x = torch.randn(2, 168, dtype=REAL, requires_grad=True)
        assert torch.autograd.gradcheck(lambda *args: args[3] @ kron(*args[:3]), (a, b, c, x))


def test_a_tensor_asks_the_operator_at_once():
    """Python would ask it after an error of PyTorch's, which takes as long as a small product."""
    op = kron(torch.eye(2), torch.eye(3))
    made = torch.Tensor.matmul(torch.arange(6.0), op)  # which Python's operators never see
    torch.testing.assert_close(made, torch.arange(6.0))
    with pytest.raises(ValueError, match="x has shape"):
        torch.zeros(5) @ op
