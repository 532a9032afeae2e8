"""Convolutions against PyTorch's autograd, the exact Fisher matrix, and each other."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from kronops.kfac import ConvLayer, DenseLayer, DepthwiseConvLayer, batches

RNG = np.random.default_rng(5)
B, IN, OUT = 3, 4, 6

# kernel, strides, padding, dilation, groups
GEOMETRIES = [
    ((3,), 2, ((1, 2),), 1, 1),
    ((3, 2), (2, 1), ((1, 1), (0, 2)), (1, 2), 1),
    ((2, 3), 1, ((1, 1), (1, 1)), 2, 2),
    ((1, 2), (1, 2), "VALID", 1, 2),
    ((2, 2, 2), (1, 2, 1), "VALID", 1, 2),
]
geometries = pytest.mark.parametrize("geometry", GEOMETRIES)


def gradients_by_autograd(geometry: Any) -> tuple[Any, Any, Any, Any]:
    """Images, output gradients, and each example's gradients of kernel and bias, PyTorch's axes."""
    torch = pytest.importorskip("torch")
    kernel, strides, padding, dilation, groups = geometry
    axes = len(kernel)
    x = RNG.normal(size=(B, IN, *(5, 6, 4)[:axes]))
    pads = padding if padding != "VALID" else ((0, 0),) * axes
    w = torch.zeros((OUT, IN // groups, *kernel), dtype=torch.float64, requires_grad=True)
    b = torch.zeros(OUT, dtype=torch.float64, requires_grad=True)
    padded = torch.as_tensor(np.pad(x, [(0, 0), (0, 0), *pads]))
    convolve = getattr(torch.nn.functional, f"conv{axes}d")
    y = convolve(padded, w, b, strides, 0, dilation, groups)
    g = RNG.normal(size=tuple(y.shape))
    pairs = [
        torch.autograd.grad(y[i], (w, b), torch.as_tensor(g[i]), retain_graph=True)
        for i in range(B)
    ]
    weights, biases = (np.stack([pair[k].numpy() for pair in pairs]) for k in (0, 1))
    return x, g, weights, biases


def flat(weights: Any, biases: Any, layout: str) -> Any:
    """One row for each example, in the order of the estimator's vectors."""
    rows = weights.reshape(B, OUT, -1)
    if layout == "out,in":
        return np.concatenate([rows, biases[:, :, None]], axis=2).reshape(B, -1)
    rows = np.moveaxis(weights, (1, 2), (-1, -2)).reshape(B, -1, OUT)
    return np.concatenate([rows, biases[:, None]], axis=1).reshape(B, -1)


@geometries
@pytest.mark.parametrize("layout", ["in,out", "out,in"])
@pytest.mark.parametrize("channels", ["last", "first"])
def test_moments_are_those_of_autograds_gradients(
    geometry: Any, layout: str, channels: str
) -> None:
    x, g, *pair = gradients_by_autograd(geometry)
    rows = flat(*pair, layout)
    if channels == "last":
        x, g = np.moveaxis(x, 1, -1), np.moveaxis(g, 1, -1)
    expected = rows.T @ rows / B
    for structure in ("full", "diagonal", "kronecker"):
        layer = ConvLayer(
            *geometry, bias=True, structure=structure, channels=channels, layout=layout
        )
        layer.update(x, g)
        if structure == "full":
            np.testing.assert_allclose(layer.operator().to_dense(), expected, atol=1e-12)
        if structure == "diagonal":
            np.testing.assert_allclose(layer.operator().diagonal(), expected.diagonal())
        if structure == "kronecker":  # EKFAC has the squares in another orthonormal basis
            layer.update_eigenvalues(x, g)
            trace = layer.operator(method="ekfac").trace()
            np.testing.assert_allclose(trace, expected.trace())


@pytest.mark.parametrize("groups", [1, 2])
def test_one_example_at_one_location_is_the_exact_fisher_matrix(groups: int) -> None:
    x, g = RNG.normal(size=(1, 3, 2, IN)), RNG.normal(size=(1, 1, 1, OUT))
    settings: Any = {"padding": "VALID", "bias": True, "groups": groups}
    product, full = (ConvLayer((3, 2), **settings, structure=s) for s in ("kronecker", "full"))
    for layer in (product, full):
        layer.update(x, g)
    matrix = full.operator().to_dense()
    if groups == 2:  # blocks of the two halves of the outputs alone
        half = np.arange(len(matrix)) % OUT // (OUT // 2)
        matrix = np.where(half[:, None] == half, matrix, 0.0)
    np.testing.assert_allclose(product.operator().to_dense(), matrix, atol=1e-13)


def test_a_kernel_of_one_pixel_is_a_dense_layer_at_each() -> None:
    x, g = RNG.normal(size=(B, 2, 3, IN)), RNG.normal(size=(B, 2, 3, OUT))
    conv, dense = ConvLayer((1, 1), bias=True), DenseLayer(bias=True, uses=6)
    conv.update(x, g)
    dense.update(*(np.moveaxis(a.reshape(B, 6, -1), 1, 0) for a in (x, g)))
    expected = dense.operator(0.3).to_dense()
    np.testing.assert_allclose(conv.operator(0.3).to_dense(), expected, atol=1e-13)


@pytest.mark.parametrize("layout", ["in,out", "out,in"])
@pytest.mark.parametrize("method", ["factored", "exact"])
def test_depthwise_blocks_are_the_diagonal_blocks_of_the_factors(layout: str, method: str) -> None:
    x, g = RNG.normal(size=(B, 5, 4, 3)), RNG.normal(size=(B, 5, 4, 6))
    depthwise, whole = (
        kind((3, 2), dilation=2, layout=layout) for kind in (DepthwiseConvLayer, ConvLayer)
    )
    for layer in (depthwise, whole):
        layer.update(x, g)
    a, g_moment = whole.moments
    by_pixel = a.reshape(6, 3, 6, 3) if layout == "in,out" else a.reshape(3, 6, 3, 6)
    axes = (1, 3) if layout == "in,out" else (0, 2)
    op = depthwise.operator(0.2, method)
    kernel = RNG.normal(size=(3, 2, 3, 2))
    v = kernel if layout == "in,out" else kernel.transpose(2, 3, 0, 1).reshape(6, 1, 3, 2)
    inverse = op.multiply_inverse(v)
    assert inverse.shape == v.shape
    np.testing.assert_allclose(op.multiply(inverse), v)
    for c in range(3):
        block_a = by_pixel.take(c, axes[1]).take(c, axes[0])
        block_g = g_moment[2 * c : 2 * c + 2, 2 * c : 2 * c + 2]
        np.testing.assert_allclose(depthwise.moments[0][c], block_a, atol=1e-13)
        np.testing.assert_allclose(depthwise.moments[1][c], block_g, atol=1e-13)
        alone = ConvLayer((3, 2), dilation=2, layout=layout)
        alone.update(x[..., c : c + 1], g[..., 2 * c : 2 * c + 2])
        part = np.s_[:, :, c : c + 1, :] if layout == "in,out" else np.s_[2 * c : 2 * c + 2]
        own = kernel[:, :, c : c + 1, :] if layout == "in,out" else v[part]
        expected = alone.operator(0.2, method).multiply_inverse(own)
        np.testing.assert_allclose(inverse[part], expected, atol=1e-12)


def test_depthwise_pairs_and_both_forms_of_kernels() -> None:
    layer = DepthwiseConvLayer((3, 2), bias=True)
    layer.update(RNG.normal(size=(B, 5, 4, 3)), RNG.normal(size=(B, 5, 4, 6)))
    op, kernel, bias = layer.operator(0.1), RNG.normal(size=(3, 2, 3, 2)), RNG.normal(size=6)
    first = op.multiply_inverse((kernel, bias))
    second = op.multiply_inverse((kernel.reshape(3, 2, 1, 6), bias))
    np.testing.assert_array_equal(first[0].reshape(3, 2, 1, 6), second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].shape == kernel.shape


@pytest.mark.parametrize("structure", ["kronecker", "diagonal", "full"])
@pytest.mark.parametrize("groups", [1, 2])
def test_slabs_of_examples_do_not_change_the_answer(
    structure: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, g = RNG.normal(size=(5, 4, IN)), RNG.normal(size=(2, 5, 4, OUT))
    answers = []
    for entries in (2**22, 100):
        monkeypatch.setattr(batches, "SLAB", entries)
        layer = ConvLayer(3, groups=groups, structure=structure)
        layer.update(x, g)
        layer.update_eigenvalues(x, g)
        answers.append(layer.operator(0.1, "ekfac").to_dense())
    np.testing.assert_allclose(*answers, atol=1e-12)


X, G = np.ones((2, 5, 6, 4)), np.ones((2, 5, 6, 6))
SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kernel_shape": ()}, ValueError, "kernel_shape = () has 0 entries: at least one integer"),
    ({"kernel_shape": (3, 0)}, ValueError, "kernel_shape[1] = 0: an integer ≥ 1 is needed"),
    ({"kernel_shape": 2.5}, TypeError, "kernel_shape is a float: an integer ≥ 1 is needed"),
    ({"strides": (1, 1, 1)}, ValueError, "strides = (1, 1, 1) has 3 entries: 2, one for each"),
    ({"dilation": 0}, ValueError, "dilation = 0: an integer ≥ 1"),
    ({"padding": "same"}, ValueError, "padding = 'same': 'SAME', 'VALID' or 2 pairs"),
    ({"padding": ((1, 1),)}, ValueError, "2 pairs (before, after) are needed"),
    ({"padding": ((1, 1), (0, -1))}, ValueError, "integers ≥ 0 are needed"),
    ({"padding": ((1, 1), (0, 0.5))}, TypeError, "padding has a float"),
    ({"groups": 0}, ValueError, "groups = 0: an integer ≥ 1"),
    ({"channels": "middle"}, ValueError, "channels = 'middle': one of 'last', 'first'"),
]
UPDATES: list[tuple[dict[str, Any], Any, Any, str]] = [
    ({}, X[0], G, "inputs has shape (5, 6, 4): (B, size0, size1, in) is needed"),
    ({"channels": "first"}, X[0], G, "(B, in, size0, size1) is needed"),
    ({}, X, G[:, :4], "output_gradients has shape (2, 4, 6, 6), inputs (2, 5, 6, 4): "
     "(2, 5, 6, out) or (draws, 2, 5, 6, out) is needed"),
    ({"strides": 2}, X, G, "(2, 3, 3, out) or (draws, 2, 3, 3, out) is needed"),
    ({"dilation": 2, "padding": "VALID"}, X, G, "(2, 1, 2, out) or "),
    ({"dilation": 3, "padding": "VALID"}, X, G, "inputs has images of (5, 6) pixels, (5, 6) with "
     "padding: the kernel (3, 3) with dilation (3, 3) needs at least (7, 7)"),
    ({}, X[:0], G[:0], "inputs has shape (0, 5, 6, 4): an empty batch has no mean"),
    ({"groups": 3}, X, G, "inputs has 4 channels: a multiple of groups = 3 is needed"),
    ({"groups": 4}, X, G, "output_gradients has 6 channels: a multiple of groups = 4"),
    ({"uses": 3}, X[None], G[None], "(3, B, size0, size1, in) is needed"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "error", "words"), SETTINGS)
def test_words_of_settings(settings: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        ConvLayer(**{"kernel_shape": (3, 3), **settings})


@pytest.mark.parametrize(("settings", "x", "g", "words"), UPDATES)
def test_words_of_updates(settings: Any, x: Any, g: Any, words: str) -> None:
    layer = ConvLayer((3, 3), **settings)
    with pytest.raises(ValueError, match=re.escape(words)):
        layer.update(x, g)


def test_depthwise_outputs_are_multiples_of_the_inputs() -> None:
    with pytest.raises(ValueError, match="output_gradients has 6 channels: a multiple of the 4"):
        DepthwiseConvLayer((3, 3)).update(X, G)
