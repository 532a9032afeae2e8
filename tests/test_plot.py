"""What `kronops.plot` draws: the numbers of the lines, the images, the words."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zoo
from libraries import LIBRARIES

import kronops
from kronops import kron
from kronops.errors import DensificationWarning

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from kronops import plot

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def points(line) -> list[list[float]]:
    return line.get_xydata().tolist()


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def said(axes) -> list[str]:
    """The words and symbols of a structure, without the identity in the end."""
    return [text.get_text() for text in axes.texts][:-1]


def frames(axes) -> int:
    return sum(isinstance(patch, FancyBboxPatch) for patch in axes.patches)


# -- axes ------------------------------------------------------------------------------------------

CALLS = {
    "spectrum": lambda ax: plot.spectrum(kron(np.eye(2)), ax=ax),
    "structure": lambda ax: plot.structure(kron(np.eye(2)), ax=ax),
    "convergence": lambda ax: plot.convergence({"cg": [1.0, 0.5]}, ax=ax),
}


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_those_given_or_new_ones(name, ax):
    before = pyplot.get_fignums()
    assert CALLS[name](ax) is ax
    assert pyplot.get_fignums() == before
    made = CALLS[name](None)
    assert len(pyplot.get_fignums()) == len(before) + 1
    made.figure.canvas.draw()  # letters that the font lacks would warn
    pyplot.close(made.figure)
    with pytest.raises(TypeError, match=r"ax is a Figure: matplotlib.axes.Axes or None would do"):
        CALLS[name](ax.figure)


def test_without_matplotlib_it_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; import kronops; import kronops.plot"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("ImportError: kronops.plot draws with")
    assert "pip install kronops[plot]" in done.stderr


# -- spectra ---------------------------------------------------------------------------------------


def test_eigenvalues_by_magnitude_with_negative_ones_apart(rng, ax):
    a, b = (rng.standard_normal((n, n)) for n in (3, 4))
    op = kron(a + a.T, b + b.T)
    values = np.linalg.eigvalsh(op.to_dense())
    values = values[np.argsort(-np.abs(values))]
    positive, negative = plot.spectrum(op, ax=ax).lines
    for line, kind in ((positive, values > 0), (negative, values < 0)):
        np.testing.assert_array_equal(line.get_xdata(), 1 + np.flatnonzero(kind))
        np.testing.assert_allclose(line.get_ydata(), np.abs(values[kind]))
    assert negative.get_color() == positive.get_color()
    assert negative.get_marker() != positive.get_marker()
    assert legend(ax) == ["KroneckerOperator (12, 12)", "KroneckerOperator (12, 12), negative"]
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "magnitude of the eigenvalue")


def test_blocks_are_drawn_under_their_names(ax):
    parts = [np.diag([3.0, 1.0]), kron(2 * np.eye(2), np.eye(2)), np.eye(1)]
    inner = kronops.BlockDiagonalOperator({"norm": parts[0], "dense": parts[1]})
    op = kronops.BlockDiagonalOperator({"encoder": inner, "head": parts[2]})
    assert legend(plot.block_spectra(op, ax)) == ["encoder.norm", "encoder.dense", "head"]
    assert points(ax.lines[0]) == [[1.0, 3.0], [2.0, 1.0]]
    assert points(ax.lines[1]) == [[rank, 2.0] for rank in (1.0, 2.0, 3.0, 4.0)]
    numbered = plot.block_spectra(kronops.block_diag(*parts[::2]), Figure().subplots())
    assert legend(numbered) == ["0", "1"]
    with pytest.raises(TypeError, match="operator is a KroneckerOperator: a BlockDiagonal"):
        plot.block_spectra(parts[1], ax)


def test_singular_values_of_what_is_not_hermitian(rng, ax):
    op = kron(rng.standard_normal((2, 3)), rng.standard_normal((2, 4)))
    (line,) = plot.spectrum(op, labels=["A ⊗ B"], ax=ax).lines
    np.testing.assert_allclose(
        line.get_ydata(), np.linalg.svd(op.to_dense(), compute_uv=False)[:4], rtol=1e-12
    )
    assert (legend(ax), ax.get_ylabel()) == (["A ⊗ B"], "singular value")


def test_both_kinds_in_one_picture_are_named(ax):
    shear = kron(np.array([[1.0, 1.0], [0.0, 1.0]]))
    plot.spectrum(kron(np.eye(2)), shear, ax=ax)
    assert len(ax.lines) == 2
    assert ax.get_ylabel() == "magnitude of the eigenvalue or singular value"


def test_zeros_are_counted(ax):
    op = kronops.DiagonalOperator(np.array([0.0, 2.0, 0.0, -1.0]))
    plot.spectrum(op, labels=["D"], ax=ax)
    assert [points(line) for line in ax.lines] == [[[1, 2]], [[2, 1]]]
    assert legend(ax) == ["D (2 zero)", "D, negative"]


def test_many_values_are_thinned_and_it_is_said(ax):
    n = 300
    diagonal = np.linspace(1, 2, n)
    op = kron(np.diag(diagonal), np.diag(diagonal))
    plot.spectrum(op, labels=["D"], ax=ax)
    x, y = ax.lines[0].get_data()
    assert legend(ax) == [f"D (1,000 of {n * n:,} drawn)"]
    assert len(x) == 1000
    assert (x[0], x[-1]) == (1, n * n)
    assert (y[0], y[-1]) == (4.0, 1.0)
    np.testing.assert_array_equal(y, np.sort(np.outer(diagonal, diagonal).ravel())[n * n - x])


def test_few_negative_values_survive_the_thinning(ax):
    diagonal = np.linspace(1, 2, 5000)
    diagonal[[7, 4000]] *= -1
    plot.spectrum(kronops.DiagonalOperator(diagonal), ax=ax)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), -diagonal[[4000, 7]])


@pytest.mark.parametrize("library", LIBRARIES)
def test_values_of_every_library_are_drawn(library, ax):
    with LIBRARIES[library].maker("float32") as make:
        op = kron(make(np.diag([1.0, 2.0])), make(np.eye(2)))
        plot.spectrum(op, ax=ax)
        plot.structure(op, ax=Figure().subplots())
    assert points(ax.lines[0]) == [[1, 2], [2, 2], [3, 1], [4, 1]]


def test_what_cannot_be_listed_is_refused(ax):
    with pytest.raises(ValueError, match=r"operators\[1\] has shape .* cannot be listed"):
        plot.spectrum(kron(np.eye(2)), kron(*[np.eye(2)] * 70), ax=ax)
    with pytest.raises(ValueError, match="no operators are given: one at least is needed"):
        plot.spectrum(ax=ax)
    with pytest.raises(TypeError, match=r"operators\[0\] is a ndarray: an operator is needed"):
        plot.spectrum(np.eye(2), ax=ax)
    for labels in ("A", ["A", "B"]):
        with pytest.raises(ValueError, match=r"labels = .*: a list of 1 would do"):
            plot.spectrum(kron(np.eye(2)), labels=labels, ax=ax)


# -- convergence -----------------------------------------------------------------------------------


def test_norms_by_iterations(ax):
    plot.convergence({"plain": [4.0, 2.0, 1.0], "better": np.array([4.0, 0.1])}, ax=ax)
    assert [points(line) for line in ax.lines] == [[[0, 4], [1, 2], [2, 1]], [[0, 4], [1, 0.1]]]
    assert legend(ax) == ["plain", "better"]
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "iteration")


def test_a_norm_of_zero_is_left_out_and_said(ax):
    plot.convergence({"exact": [4.0, 0.0]}, ax=ax)
    assert points(ax.lines[0]) == [[0, 4]]
    assert legend(ax) == ["exact (zero at iteration 1)"]


def test_norms_are_checked(ax):
    with pytest.raises(TypeError, match="histories is a list: a dict of sequences"):
        plot.convergence([[1.0]], ax=ax)
    with pytest.raises(ValueError, match="histories is empty"):
        plot.convergence({}, ax=ax)
    with pytest.raises(TypeError, match=r"histories\['cg'\] is a float"):
        plot.convergence({"cg": 1.0}, ax=ax)
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"histories\['cg'\] has entries that are no norms"):
            plot.convergence({"cg": [1.0, wrong]}, ax=ax)


# -- structure -------------------------------------------------------------------------------------


def test_factors_with_their_sizes_and_the_identity(ax):
    plot.structure(2.5 * kron(np.eye(3), np.ones((2, 5))), ax=ax)
    assert said(ax) == ["2.5 ·", "3 × 3", "⊗", "2 × 5"]
    assert ax.texts[-1].get_text().startswith("(A ⊗ B) vec(X) = vec(A X Bᵀ)")
    assert ax.get_title() == "KroneckerOperator, 6 × 15"
    np.testing.assert_array_equal(ax.images[0].get_array(), np.eye(3))
    np.testing.assert_array_equal(ax.images[1].get_array(), np.ones((2, 5)))


def test_formulas(rng, ax):
    a, b = rng.standard_normal((3, 3)), rng.standard_normal((2, 2))
    symmetric = kron(a @ a.T + np.eye(3), b @ b.T + np.eye(2))
    low_rank = kronops.LowRankUpdateOperator(symmetric, np.ones((6, 1)))
    sizes = ["3 × 3", "⊗", "2 × 2"]
    expected = {
        kronops.KroneckerSumOperator([a, b]).damped(0.1): ["3 × 3", "⊕", "2 × 2", "+", "0.1 I"],
        symmetric.damped(0.1): [*sizes, "6 × 6", "+", "0.1 I"],
        symmetric.damped(0.1).inverse(): [*sizes, "6 × 6", "+", "0.1 I", "−1"],
        symmetric.inverse(): ["3 × 3", "−1", "⊗", "2 × 2", "−1"],
        symmetric + kron(b, a): [*sizes, "+", "2 × 2", "⊗", "3 × 3"],
        symmetric @ kronops.DiagonalOperator(np.ones(6)): [*sizes, "6 × 6", "6 × 6"],
        low_rank: [*sizes, "6 × 6", "+", "6 × 1", "1 × 1", "6 × 1", "H"],
        kronops.BlockDiagonalOperator({"conv": a, "dense": b}): [
            "3 × 3", "conv", "2 × 2", "dense",
        ],
        symmetric.masked(np.arange(6) != 1): ["P", *sizes, "6 × 6", "P", "H"],
        kronops.KroneckerEigenOperator([np.eye(3)], np.ones(3)): ["3 × 3", "3 × 3", "3 × 3", "H"],
    }  # fmt: skip
    for op, words in expected.items():
        axes = plot.structure(op, ax=Figure().subplots())
        assert said(axes) == words, op


def test_brackets_are_frames_and_only_where_they_are_needed(rng, ax):
    a = rng.standard_normal((2, 2))
    general = kron(a, a)
    assert frames(plot.structure(general, ax=Figure().subplots())) == 0
    assert frames(plot.structure(general + kron(a, a.T), ax=Figure().subplots())) == 0
    nested = kronops.KroneckerSumOperator([general @ kron(a.T, np.eye(2)) + general, a])
    assert frames(plot.structure(nested, ax=ax)) == 1


def test_large_matrices_are_drawn_by_the_largest_magnitudes_of_their_parts(ax):
    matrix = np.zeros((1000, 30))
    matrix[537, 12] = -4.0
    plot.structure(kronops.DenseOperator(matrix), ax=ax)
    cells = np.asarray(ax.images[0].get_array())
    assert cells.shape == (64, 30)
    assert np.argwhere(cells).tolist() == [[537 * 64 // 1000, 12]]
    assert (cells.max(), ax.images[0].get_clim()) == (4.0, (0.0, 4.0))


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (200, 90), (1, 1)])
def test_toeplitz_matrices_are_drawn_without_being_formed(shape, rng, ax, monkeypatch):
    column, rest = rng.standard_normal(shape[0]), rng.standard_normal(shape[1] - 1)
    op = kronops.ToeplitzOperator(column, np.append(column[:1], rest))
    dense = np.abs(op.to_dense())
    rows, columns = ([size * k // min(size, 64) for k in range(min(size, 64))] for size in shape)
    expected = np.maximum.reduceat(np.maximum.reduceat(dense, rows, axis=0), columns, axis=1)
    monkeypatch.setattr(type(op), "_to_dense", None)
    plot.structure(op, ax=ax)
    np.testing.assert_array_equal(ax.images[0].get_array(), expected)


def test_of_many_neighbours_the_first_and_the_last_are_drawn(ax):
    plot.structure(kron(*[np.eye(k) for k in range(1, 71)]), ax=ax)
    assert len(ax.images) == 5
    assert [word for word in said(ax) if word != "⊗"] == [
        "1 × 1", "2 × 2", "3 × 3", "4 × 4", "… 65 more …", "70 × 70",
    ]  # fmt: skip
    assert ax.get_title() == "KroneckerOperator, 1.20e+100 × 1.20e+100"


@pytest.mark.parametrize("name", zoo.CASES)
def test_every_operator_is_drawn_and_nothing_computed(name, monkeypatch):
    with LIBRARIES["numpy"].maker("complex128") as make, warnings.catch_warnings():
        warnings.simplefilter("ignore", DensificationWarning)
        op, _ = zoo.CASES[name](make)

    def refuse(*_, **__):
        raise AssertionError("structure computes")

    for factorisation in ("cholesky", "lu", "eigh", "schur"):
        monkeypatch.setattr(type(op.backend), factorisation, refuse)
    axes = plot.structure(op, ax=Figure().subplots())
    assert axes.get_title().startswith(type(op).__name__)
    assert said(axes)


def test_an_operator_of_another_package_is_drawn_by_its_parts(ax):
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Twice(kronops.LinearOperator):
        base: kronops.LinearOperator

        @property
        def shape(self):
            return self.base.shape

        def _matmat(self, x):
            return 2 * self.base._matmat(x)

    plot.structure(Twice(kron(np.eye(2), np.eye(3))), ax=ax)
    assert said(ax) == ["Twice", "2 × 2", "⊗", "3 × 3", "6 × 6"]
    with pytest.raises(TypeError, match="op is a ndarray: an operator is needed"):
        plot.structure(np.eye(2), ax=ax)
