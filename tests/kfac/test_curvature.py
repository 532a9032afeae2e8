"""A curvature is its layers, all at once or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kronops.kfac import Curvature, DenseLayer, GradientLayer, RecurrentLayer

RNG = np.random.default_rng(4)


def network() -> Curvature:
    return Curvature(
        {
            "cell": RecurrentLayer(2, bias=True),
            "readout": DenseLayer(bias=True),
            "norm": GradientLayer(),
        }
    )


def batch() -> dict[str, Any]:
    return {
        "cell": (RNG.normal(size=(3, 8, 4)), RNG.normal(size=(3, 8, 2))),
        "readout": (RNG.normal(size=(8, 2)), RNG.normal(size=(8, 3))),
        "norm": RNG.normal(size=(8, 5)),
    }


def test_operator_has_the_blocks_of_the_layers() -> None:
    curvature = network()
    for _ in range(2):
        curvature.update(batch(), decay=0.9, weight=0.3)
    op = curvature.operator(0.2, pi=0.7)
    assert list(op.blocks) == ["cell", "readout", "norm"]
    for name, layer in curvature.layers.items():
        alone = layer.operator(0.2, pi=0.7)
        np.testing.assert_array_equal(op.blocks[name].to_dense(), alone.to_dense())
    v = {
        "cell": (RNG.normal(size=(4, 2)), RNG.normal(size=2)),
        "readout": RNG.normal(size=(3, 3)),
        "norm": RNG.normal(size=5),
    }
    back = op.multiply_inverse(op.multiply(v))
    for part, original in zip(back["cell"], v["cell"], strict=True):
        np.testing.assert_allclose(part, original)
    for name in ("readout", "norm"):
        np.testing.assert_allclose(back[name], v[name])


def test_moments_by_name() -> None:
    curvature, data = network(), batch()
    curvature.update(data)
    assert list(curvature.moments) == ["cell", "readout", "norm"]
    np.testing.assert_allclose(curvature.moments["norm"], np.mean(data["norm"] ** 2, axis=0))


def test_eigenvalues_of_all_layers() -> None:
    curvature = Curvature({"dense": DenseLayer(), "norm": GradientLayer("full")})
    data = {"dense": batch()["readout"], "norm": batch()["norm"]}
    curvature.update(data)
    curvature.update_eigenvalues(data)
    alone = DenseLayer()
    alone.update(*data["dense"])
    alone.update_eigenvalues(*data["dense"])
    op = curvature.operator(0.1, "ekfac")
    expected = alone.operator(0.1, "ekfac").to_dense()
    np.testing.assert_array_equal(op.blocks["dense"].to_dense(), expected)


def test_all_layers_are_updated_or_none() -> None:
    curvature = network()
    curvature.update(batch())
    before = curvature.operator(0.1).to_dense()
    broken = batch()
    broken["norm"] = broken["norm"][:, :2]
    with pytest.raises(ValueError, match="gradients: a moment of shape"):
        curvature.update(broken)
    state = network().state_dict()
    state["norm"] = {}
    with pytest.raises(ValueError, match="in the layer 'norm'"):
        curvature.load_state_dict(state)
    np.testing.assert_array_equal(curvature.operator(0.1).to_dense(), before)


def test_merge_and_state() -> None:
    whole, left, right = network(), network(), network()
    for part in (left, right):
        data = batch()
        part.update(data)
        whole.update(data)
    merged, loaded = left.merge(right), network()
    loaded.load_state_dict(merged.state_dict())
    for curvature in (merged, loaded):
        dense = curvature.operator(0.1).to_dense()
        np.testing.assert_allclose(dense, whole.operator(0.1).to_dense(), atol=1e-12)


def test_repr_shows_the_settings() -> None:
    assert repr(Curvature({"a": GradientLayer()})) == (
        "Curvature({'a': GradientLayer(debias=True, layout='in,out', structure='diagonal')})"
    )


def test_dotted_names_are_of_one_layer_each() -> None:
    with pytest.raises(ValueError, match=r"two layers called 'a\.b'.*joined by dots: rename one"):
        Curvature({"a.b": GradientLayer(), "a": {"b": GradientLayer()}})
    assert list(Curvature({"a.b": GradientLayer(), "a": {"c": GradientLayer()}}).layers) == [
        "a.b",
        "a",
    ]


def test_each_name_needs_an_estimator_of_its_own() -> None:
    layer = DenseLayer()
    for layers in ({"a": layer, "b": layer}, {"a": layer, "b": {"c": layer}}):
        with pytest.raises(ValueError, match="one estimator under two names"):
            Curvature(layers)
