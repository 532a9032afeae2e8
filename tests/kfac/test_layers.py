"""Scales and shifts, embeddings and shared layers are what their formulas say."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from kronops.kfac import DenseLayer, EmbeddingLayer, ScaleShiftLayer, SharedLayer, batches

RNG = np.random.default_rng(7)
B, S, IN, OUT = 6, 3, 4, 2
IDS = np.array([[0, 2, 2], [1, 1, 1], [3, 0, 1], [2, 3, 2], [0, 0, 3], [1, 2, 3]])


def second_moment(gradients: list[Any]) -> Any:
    return sum(np.outer(g, g) for g in gradients) / B


# -- scale and shift -------------------------------------------------------------------------------


def test_scale_and_shift_sum_over_their_axes() -> None:
    x, g = RNG.normal(size=(2, B, 3, 4, 2))
    gradients = [np.concatenate([(x[b] * g[b]).sum((0, 1)), g[b].sum((0, 1))]) for b in range(B)]
    full, diagonal = (ScaleShiftLayer(axes=(1, 2), structure=s) for s in ("full", "diagonal"))
    for layer in (full, diagonal):
        layer.update(x, g)
    np.testing.assert_allclose(full.moments, second_moment(gradients))
    np.testing.assert_allclose(diagonal.moments, np.diagonal(full.moments))
    np.testing.assert_allclose(full.operator(0.3).to_dense(), full.moments + 0.3 * np.eye(4))


@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_scale_or_shift_alone_is_a_block_of_both(structure: str) -> None:
    x, g = RNG.normal(size=(2, B, 3, 2))
    both, scale, shift = (
        ScaleShiftLayer(*which, structure=structure)
        for which in ((True, True), (True, False), (False, True))
    )
    for layer in (both, scale, shift):
        layer.update(x, g)
    dense = both.operator().to_dense()
    np.testing.assert_allclose(scale.operator().to_dense(), dense[:6, :6])
    np.testing.assert_allclose(shift.operator().to_dense(), dense[6:, 6:])
    vectors = RNG.normal(size=(2, 3, 2))
    made = both.operator(0.2).multiply_inverse((vectors[0], vectors[1]))
    flat = np.linalg.solve(dense + 0.2 * np.eye(12), vectors.reshape(-1))
    np.testing.assert_allclose(np.stack(made).reshape(-1), flat)
    assert scale.operator(0.2).multiply(vectors[0]).shape == (3, 2)


def test_draws_of_scale_and_shift_are_summed() -> None:
    x, draws = RNG.normal(size=(B, 2)), RNG.normal(size=(3, B, 2))
    together, apart = ScaleShiftLayer(), ScaleShiftLayer()
    together.update(x, draws)
    for g in draws:
        apart.update(x, g)
    np.testing.assert_allclose(together.moments, 3 * apart.moments)


def test_axes_count_from_both_ends_and_may_differ() -> None:
    x, g = RNG.normal(size=(2, B, 3, 4, 2))
    first, second = ScaleShiftLayer(axes=((1, 2), (3,))), ScaleShiftLayer(axes=[[-3, -2], [-1]])
    for layer in (first, second):
        layer.update(x, g)
    np.testing.assert_array_equal(first.moments, second.moments)
    assert first.operator().domain_shape == [(2,), (3, 4)]


def test_parameter_that_is_one_number() -> None:
    x, g = RNG.normal(size=(2, B, 3))
    layer = ScaleShiftLayer(axes=(1,))
    layer.update(x, g)
    gradients = [[(x[b] * g[b]).sum(), g[b].sum()] for b in range(B)]
    np.testing.assert_allclose(layer.moments, second_moment(gradients))


# -- embeddings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ["kronecker", "diagonal", ("diagonal", "diagonal")])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("slab", [1, 2**22])
def test_embedding_is_a_dense_layer_of_unit_vectors(
    structure: Any, sequences: bool, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SLAB", slab)
    ids = IDS if sequences else IDS[:, 0]
    draws = RNG.normal(size=(2, *ids.shape, OUT))
    embedding = EmbeddingLayer(5, structure=structure)
    twin_structure = ("diagonal", "full") if structure == "kronecker" else structure
    kind: Any = SharedLayer if sequences else DenseLayer
    dense = kind(structure=twin_structure)
    for layer, inputs in ((embedding, ids), (dense, np.eye(5)[ids])):
        layer.update(inputs, draws)
        layer.update_eigenvalues(inputs, draws)
    for method in ("factored", "exact", "ekfac"):
        ours, theirs = (layer.operator(0.1, method).to_dense() for layer in (embedding, dense))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_shapes_of_ids_are_all_the_same() -> None:
    ids, g = RNG.integers(5, size=(B, 2, 3)), RNG.normal(size=(B, 2, 3, OUT))
    images, sequences = EmbeddingLayer(5), EmbeddingLayer(5)
    images.update(ids.astype(np.uint8), g)
    sequences.update(ids.reshape(B, 6), g.reshape(B, 6, OUT))
    for ours, theirs in zip(images.moments, sequences.moments, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_embedding_needs_no_matrix() -> None:
    """A million vectors: the frequencies take 8 MB, their matrix would take 8 TB."""
    layer = EmbeddingLayer(10**6)
    ids, g = RNG.integers(10**6, size=1000), RNG.normal(size=(1000, OUT))
    tracemalloc.start()
    try:
        layer.update(ids, g)
        assert tracemalloc.get_traced_memory()[1] < 50 * 10**6
    finally:
        tracemalloc.stop()
    assert layer.moments[0].sum() == pytest.approx(1.0)


# -- shared layers ---------------------------------------------------------------------------------


def test_expanding_is_using_a_layer_at_every_place() -> None:
    a, g = RNG.normal(size=(B, S, IN)), RNG.normal(size=(B, S, OUT))
    for structure in ("kronecker", "diagonal", "full"):
        shared, used = SharedLayer(True, structure=structure), DenseLayer(True, structure, uses=S)
        for layer, batch in ((shared, (a, g)), (used, (a.swapaxes(0, 1), g.swapaxes(0, 1)))):
            layer.update(*batch)
            layer.update_eigenvalues(*batch)
        for method in ("factored", "exact", "ekfac"):
            ours, theirs = (layer.operator(0.1, method).to_dense() for layer in (shared, used))
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_reducing_averages_inputs_and_sums_gradients() -> None:
    a, draws = RNG.normal(size=(B, S, IN)), RNG.normal(size=(2, B, S, OUT))
    shared, dense = SharedLayer(True, "reduce"), DenseLayer(True)
    shared.update(a, draws)
    dense.update(a.mean(axis=1), draws.sum(axis=2))
    for method in ("factored", "exact"):
        ours, theirs = (layer.operator(0.1, method).to_dense() for layer in (shared, dense))
        np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize("structure", ["diagonal", "full"])
def test_reduced_moments_without_factors_are_those_of_whole_gradients(structure: str) -> None:
    a, g = RNG.normal(size=(B, S, IN)), RNG.normal(size=(B, S, OUT))
    layer = SharedLayer(sharing="reduce", structure=structure)
    layer.update(a, g)
    fisher = second_moment([(a[b].T @ g[b]).reshape(-1) for b in range(B)])
    dense = layer.operator().to_dense()
    np.testing.assert_allclose(dense, fisher if structure == "full" else np.diag(np.diag(fisher)))


def test_eigenvalues_of_reduced_layers_are_those_of_whole_gradients() -> None:
    a, g = RNG.normal(size=(B, S, IN)), RNG.normal(size=(B, S, OUT))
    layer = SharedLayer(sharing="reduce")
    layer.update(a, g)
    layer.update_eigenvalues(a, g)
    op = layer.operator(method="ekfac")
    fisher = second_moment([(a[b].T @ g[b]).reshape(-1) for b in range(B)])
    basis = np.kron(*[q.to_dense() for q in op.bases])
    np.testing.assert_allclose(op.eigenvalues.reshape(-1), np.diag(basis.T @ fisher @ basis))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_several_shared_axes_are_one(sharing: str) -> None:
    a, g = RNG.normal(size=(B, 2, S, IN)), RNG.normal(size=(2, B, 2, S, OUT))
    images, sequences = SharedLayer(sharing=sharing), SharedLayer(sharing=sharing)
    images.update(a, g)
    sequences.update(a.reshape(B, -1, IN), g.reshape(2, B, -1, OUT))
    np.testing.assert_array_equal(
        images.operator(0.1).to_dense(), sequences.operator(0.1).to_dense()
    )
