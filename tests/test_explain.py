"""What `explain` says is what happens: the identities, the costs, and what is written out."""

from __future__ import annotations

import dataclasses
import html.parser
import inspect
import re
import warnings

import numpy as np
import pytest
import zoo
from libraries import LIBRARIES

import kronops
from kronops.backends import standard
from kronops.errors import DensificationWarning, LinAlgError
from kronops.explaining import OPERATIONS

WRITTEN_OUT = "written out as a dense matrix"
CALLS = {
    "multiply": lambda op: op @ np.ones(op.shape[1]),
    "multiply_inverse": lambda op: op.solve(np.ones(op.shape[1])),
    "logdet": lambda op: op.slogdet(),
    "eigh": lambda op: op.eigh(),
}


def said_of(text: str) -> dict[str, str]:
    """The part of an explanation that belongs to each operation."""
    _, *parts = text.split("\n\n")
    return {part.split(":")[0]: part for part in parts}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", zoo.CASES)
@pytest.mark.filterwarnings("ignore::kronops.errors.LinAlgWarning")
def test_what_is_written_out_is_said(name, operation):
    with LIBRARIES["numpy"].maker("float64") as make, warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        op, _ = zoo.CASES[name](make)
    said = said_of(op.explain()).get(operation)
    if said is None:
        assert op.shape[0] != op.shape[1]
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            CALLS[operation](op)
        except LinAlgError:
            return
    warned = any(issubclass(w.category, DensificationWarning) for w in caught)
    assert (WRITTEN_OUT in said) == warned


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_explains(library):
    with LIBRARIES[library].maker("float32") as make:
        for case in (zoo.CASES["kronecker_three_factors"], zoo.CASES["series_option_1"]):
            op, _ = case(make)
            said = said_of(op.explain())
            assert list(said) == list(OPERATIONS)
            assert all("flop" in part for part in said.values())


def test_kronecker_products_show_their_plan_and_its_cost(rng):
    a, b = rng.standard_normal((200, 200)), rng.standard_normal((300, 100))
    said = said_of(kronops.kron(a, b).explain(columns=5))
    lines = [line.strip() for line in said["multiply"].splitlines()]
    # The square factor first, on the smaller vector: 200 · 100 · 5 sums of 200 products, and then
    # 200 · 300 · 5 sums of 100.
    flops = 200 * 100 * 5 * 399 + 200 * 300 * 5 * 199
    assert lines[1].startswith(f"{flops / 1e6:.3g} Mflop")
    assert lines[2:] == ["A1 (200 x 200) on (1, 200, 500)", "A2 (300 x 100) on (200, 100, 5)"]
    assert list(said) == ["multiply"]  # the others are of square operators


def test_costs_add_up_over_factors(rng):
    """n / nᵢ solves with each factor, 2 nᵢ² flops each, after 2 nᵢ³ / 3 once."""
    op = kronops.kron(rng.standard_normal((20, 20)), rng.standard_normal((30, 30)))
    lines = said_of(op.explain())["multiply_inverse"].splitlines()
    flops = 600 * 2 * (20 + 30)
    once = 2 * (20**3 + 30**3) / 3
    assert f"{flops / 1e3:.3g} kflop" in lines[1]
    assert f"once {once / 1e3:.3g} kflop" in lines[1]
    assert lines[0] == "multiply_inverse: (A ⊗ B)⁻¹ = A⁻¹ ⊗ B⁻¹"
    assert lines[2:] == [
        "    DenseOperator (20, 20): A = P L U",
        "    DenseOperator (30, 30): A = P L U",
    ]


def test_operators_as_factors_count_their_own(rng):
    """A product as a factor: two matrices on each of the vectors of the other factor."""
    product = kronops.ProductOperator(
        (kronops.DenseOperator(np.ones((6, 2))), kronops.DenseOperator(np.ones((2, 6))))
    )
    said = said_of(kronops.kron(np.eye(50) + 1, product).explain(columns=7))["multiply"]
    flops = 7 * (50 * (6 * 3 + 2 * 11) + 6 * 50 * 99)
    assert f"{flops / 1e3:.3g} kflop" in said
    assert "ProductOperator (6, 6): (A B) x = A (B x)" in said


def test_factorisations_that_are_known_are_named(rng):
    a = rng.standard_normal((4, 4))
    definite = kronops.DenseOperator(a @ a.T + np.eye(4))
    assert "if it is definite" in said_of(definite.explain())["multiply_inverse"]
    definite.solve(np.ones(4))
    assert "A = L Lᴴ\n" in said_of(definite.explain())["multiply_inverse"]
    assert "A = P L U\n" in said_of(kronops.DenseOperator(a).explain())["multiply_inverse"]
    assert "refused" in said_of(kronops.DenseOperator(a).explain())["eigh"]


def test_damping_names_eigenvectors_or_schur_forms(rng):
    a = rng.standard_normal((4, 4))
    symmetric = kronops.kron(a + a.T, np.eye(3)).damped(0.1)
    assert "Q diag(1 / λ) Qᴴ x" in said_of(symmetric.explain())["multiply_inverse"]
    general = kronops.kron(a, np.eye(3)).damped(0.1)
    assert "Schur" in said_of(general.explain())["multiply_inverse"]
    plain_sum = kronops.kron(a + a.T, np.eye(3)) + 0.1 * kronops.IdentityOperator(12, like=a)
    assert "the closed form of A + c I" in said_of(plain_sum.explain())["multiply_inverse"]


def test_the_tree_names_blocks_and_joins_what_looks_alike():
    blocks = {"conv": np.eye(2), **{f"dense{i}": kronops.kron(np.eye(2)) for i in range(4)}}
    tree = kronops.block_diag(*blocks.values()).explain().split("\n\n")[0].splitlines()
    named = kronops.BlockDiagonalOperator(blocks).explain().split("\n\n")[0].splitlines()
    assert tree[1] == "├─ blocks[0]: DenseOperator (2, 2)"
    assert named[1:] == [
        "├─ blocks['conv']: DenseOperator (2, 2)",
        "└─ blocks['dense0'] … blocks['dense3']: KroneckerOperator (2, 2)",
        "   └─ factors[0]: DenseOperator (2, 2)",
    ]


def test_nothing_is_factorised_for_it(rng, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("explain computes")

    for name in ("cholesky", "lu", "eigh", "schur"):
        monkeypatch.setattr(standard.Backend, name, refuse)
        monkeypatch.setattr(type(kronops.kron(np.eye(2)).backend), name, refuse)
    a = rng.standard_normal((5, 5))
    for factor in (a, a @ a.T):
        op = kronops.kron(factor, factor).damped(0.1)
        (op.inverse() if factor is a else op).explain()


def test_sizes_that_no_memory_holds():
    op = kronops.kron(*[np.eye(2) + 1] * 70)
    said = said_of(op.explain())
    assert list(said) == list(OPERATIONS)
    total = op + op.H @ op
    assert "too large to be written out" in said_of(total.explain())["logdet"]


def test_an_author_who_says_nothing_is_not_guessed_at():
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Twice(kronops.LinearOperator):
        like: np.ndarray

        @property
        def shape(self):
            return 3, 3

        def _matmat(self, x):
            return 2 * x

        def _rmatmat(self, x):
            return 2 * x

        def _solve(self, x):
            return 0.5 * x

    said = said_of(Twice(np.zeros(1)).explain())
    assert said["multiply"].splitlines() == ["multiply: Twice's own", "    flops not known"]
    assert said["multiply_inverse"].splitlines()[0] == "multiply_inverse: Twice's own"
    assert WRITTEN_OUT in said["logdet"]


class Tags(html.parser.HTMLParser):
    """What a browser reads: tags that are closed in their order, and the text between them."""

    def __init__(self, source):
        super().__init__()
        self.open, self.seen, self.text = [], set(), ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


class TestNotebooks:
    def test_the_tree_and_the_sizes(self):
        a = np.ones((200, 100), "float32")
        op = kronops.block_diag(kronops.kron(a, a), kronops.kron(a, a), np.eye(3, dtype="float32"))
        read = Tags(op._repr_html_())
        assert "BlockDiagonalOperator 80,003 × 20,003" in read.text
        assert "float32, numpy, cpu; 320 kB, as a matrix 6.4 GB" in read.text
        assert "blocks[0], blocks[1] KroneckerOperator 40,000 × 10,000" in read.text
        assert (
            "factors[0], factors[1] DenseOperator 200 × 100 80 kB, as a matrix 80 kB" in read.text
        )
        assert "multiply: " in read.text and "logdet" not in read.text
        assert {"details", "summary", "pre"} <= read.seen

    def test_complex_numbers_take_twice_as_much(self):
        op = kronops.DenseOperator(np.ones((100, 10), "complex128"))
        assert "16 kB, as a matrix 16 kB" in Tags(op._repr_html_()).text

    def test_no_script_and_no_colour_but_the_page_s_own(self):
        made = kronops.kron(np.eye(2), np.eye(2))._repr_html_()
        assert "script" not in Tags(made).seen
        assert "color" not in made.replace("color: inherit", "")

    def test_names_are_escaped(self):
        named = kronops.BlockDiagonalOperator({"<i>": np.eye(2)})
        assert "i" not in Tags(named._repr_html_()).seen

    @pytest.mark.parametrize("name", zoo.CASES)
    def test_every_operator(self, name):
        op, _ = zoo.CASES[name](zoo.Maker(np, "complex64"))
        assert type(op).__name__ in Tags(op._repr_html_()).text

    def test_a_stack_is_shown_in_a_line(self):
        jax = pytest.importorskip("jax", reason="jax is not installed")
        made = jax.vmap(kronops.kron)(jax.numpy.ones((2, 3, 3)), jax.numpy.ones((2, 2, 2)))
        assert Tags(made._repr_html_()).text == repr(made)


@pytest.mark.parametrize("name", zoo.CASES)
def test_completion_of_operators_shows_what_has_a_docstring(name):
    """Their parameters, and what has words of its own; no hooks, no helpers."""
    op, _ = zoo.CASES[name](zoo.Maker(np, "float64"))
    shown = {name for name in dir(op) if not name.startswith("__")}
    documented = inspect.getdoc(type(op)) or ""
    assert not any(name.startswith("_") for name in shown)
    assert {"solve", "H", "shape"} <= shown
    for name in shown - set(dir(kronops.LinearOperator)):
        assert re.search(rf"\b{name}\b", documented), name


def test_what_is_refused_is_said(rng):
    general = kronops.KroneckerSumOperator([rng.standard_normal((3, 3)), np.eye(2)])
    assert "refused" in said_of(general.explain())["eigh"]
    with pytest.raises(LinAlgError):
        general.eigh()
