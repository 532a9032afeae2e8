"""What estimators say of their blocks is what the dense matrices say."""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
from layer_zoo import ZOO, Case, filled

import kronops
from kronops.kfac import Curvature, DenseLayer, DepthwiseConvLayer, GradientLayer

EYE = np.eye(2)
STATE = {"estimator": repr(DenseLayer()), "moments.weight": 1.0, "moments.repeats": 1}
every_case = pytest.mark.parametrize("case", ZOO.values(), ids=ZOO)


@every_case
@pytest.mark.parametrize("pi", ["trace", 0.4])
@pytest.mark.parametrize("layout", ["in,out", "out,in"])
def test_damping_gap_is_the_distance_of_dense_matrices(case: Case, pi: Any, layout: str) -> None:
    layer = filled(case, layout=layout)
    factored, exact = (layer.operator(0.3, m, pi).to_dense() for m in ("factored", "exact"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kronops.DensificationWarning)
        gap = layer.damping_gap(0.3, pi)
    assert isinstance(gap, float)
    wanted = np.linalg.norm(factored - exact) / np.linalg.norm(exact)
    assert gap == pytest.approx(wanted, rel=1e-9, abs=1e-15)


def test_small_damping_gap_has_all_its_digits() -> None:
    """Proportional to the root of the damping, down to where a difference would be rounding."""
    layer = filled(ZOO["dense, kronecker"])
    gaps = [layer.damping_gap(damping) for damping in (1e-20, 1e-24)]
    assert gaps[0] / gaps[1] == pytest.approx(100.0, rel=1e-6)
    assert layer.damping_gap(0.0) == 0.0


@pytest.mark.parametrize("name", [name for name in ZOO if not name.startswith("recurrent")])
@pytest.mark.parametrize("method", ["exact", "ekfac"])
def test_diagnostics_are_those_of_the_dense_matrix(name: str, method: str) -> None:
    layer = filled(ZOO[name])
    values = np.linalg.eigvalsh(layer.operator(method=method).to_dense())
    found = layer.diagnostics(0.2, method)
    assert found.size == len(values)
    assert found.smallest == pytest.approx(values[0], abs=1e-12)
    assert found.largest == pytest.approx(values[-1])
    assert found.condition == pytest.approx((values[-1] + 0.2) / (values[0] + 0.2))
    assert found.stable_rank == pytest.approx(np.sum(values**2) / values[-1] ** 2)
    assert found.effective_dimension == pytest.approx(np.sum(values / (values + 0.2)))


def test_nothing_is_written_out_for_diagnostics() -> None:
    """A block of 10⁶ parameters: its matrix would take 8 TB."""
    layer, rng = DenseLayer(), np.random.default_rng(0)
    layer.update(rng.normal(size=(5, 1000)), rng.normal(size=(5, 1000)))
    found = layer.diagnostics()
    assert found.effective_dimension == 25.0  # the rank
    assert found.condition > 1e12


def test_spectrum_of_a_series_is_unknown() -> None:
    found = filled(ZOO["recurrent, option 1"]).diagnostics(0.1)
    assert found.size == 10
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("name", [name for name in ZOO if re.search(r"kronecker|\('", name)])
def test_diagnostics_do_not_depend_on_the_scale(name: str) -> None:
    """Factors of 2^±100 in single precision, whose products are 2^±200."""
    case = ZOO[name]
    batch = [part.astype(np.float32) if part.dtype == float else part for part in case.batch()]
    whole = case.make()
    whole.update(*batch)
    wanted = whole.diagnostics(0.25)
    for power in (-100, 100):
        layer, state = case.make(), whole.state_dict()
        for side in ("inputs", "output_gradients"):
            state[f"moments.{side}"] = np.ldexp(state[f"moments.{side}"], power)
        layer.load_state_dict(state)
        found = layer.diagnostics(math.ldexp(0.25, 2 * power))
        assert found.largest == pytest.approx(math.ldexp(wanted.largest, 2 * power), rel=1e-6)
        assert found.condition == pytest.approx(wanted.condition, rel=1e-5)
        assert found.stable_rank == pytest.approx(wanted.stable_rank, rel=1e-5)
        assert found.effective_dimension == pytest.approx(wanted.effective_dimension, rel=1e-5)


def test_diagnostics_of_blocks_and_damping_far_apart() -> None:
    """Eigenvalues of 10^±320, which no float holds: what does not need them is right."""
    layer = DenseLayer()
    for size in (1e-160, 1e160):
        layer.load_state_dict({**STATE, "moments.inputs": size * EYE, "moments.output_gradients":
                               size * EYE})  # fmt: skip
        assert layer.diagnostics()[3:] == pytest.approx((1.0, 4.0, 4.0))
        wanted = (1.0, 4.0, 4.0 if size > 1 else 0.0)
        assert layer.diagnostics(1.0)[3:] == pytest.approx(wanted)
    assert layer.diagnostics().largest == math.inf


def test_diagnostics_of_parts_of_different_scale() -> None:
    """A group of zeros beside one of 10⁻⁴⁰⁰."""
    layer, x = DepthwiseConvLayer(1), np.array([[[0.0, 1e-100]]])
    layer.update(x, x)
    assert layer.diagnostics() == (2, 0.0, 0.0, math.inf, 1.0, 1.0)


def test_blocks_of_zeros() -> None:
    layer = GradientLayer()
    layer.update(np.zeros((2, 3)))
    assert layer.diagnostics() == (3, 0.0, 0.0, np.inf, 0.0, 0.0)


def nested() -> Curvature:
    encoder = {"norm": GradientLayer(), "dense": DenseLayer(bias=True)}
    return Curvature({"encoder": encoder, "head": DenseLayer()})


def nested_batch(rng: Any) -> dict[str, Any]:
    a, g = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    return {"encoder": {"norm": g, "dense": (a, g)}, "head": (g, a)}


def test_curvatures_nest_like_their_vectors() -> None:
    rng = np.random.default_rng(1)
    curvature, other, loaded = nested(), nested(), nested()
    for part in (curvature, other):
        part.update(nested_batch(rng))
    curvature = curvature.merge(other)
    batch = nested_batch(rng)
    curvature.update_eigenvalues(batch)
    loaded.load_state_dict(curvature.state_dict())
    flat = Curvature({"norm": GradientLayer()})
    flat.load_state_dict({"norm": curvature.state_dict()["encoder"]["norm"]})
    op = loaded.operator(0.2, "ekfac")
    np.testing.assert_array_equal(op.to_dense(), curvature.operator(0.2, "ekfac").to_dense())
    dense, bias = rng.normal(size=(3, 2)), rng.normal(size=2)
    v = {"encoder": {"norm": np.ones(2), "dense": (dense, bias)}, "head": rng.normal(size=(2, 3))}
    made = op.multiply_inverse(op.multiply(v))
    np.testing.assert_allclose(made["encoder"]["dense"][0], dense)
    np.testing.assert_allclose(made["head"], v["head"])
    assert list(curvature.diagnostics()) == ["encoder.norm", "encoder.dense", "head"]
    gaps = curvature.damping_gap(0.1)
    assert gaps["encoder"]["norm"] == 0.0 < gaps["head"]


def test_nested_layers_are_updated_all_or_none() -> None:
    rng = np.random.default_rng(1)
    curvature = nested()
    curvature.update(nested_batch(rng))
    before = curvature.operator().to_dense()
    broken = nested_batch(rng)
    broken["head"] = broken["head"][::-1]
    with pytest.raises(ValueError, match="in the statistics so far") as caught:
        curvature.update(broken)
    assert caught.value.__notes__ == ["in the layer 'head'"]
    del broken["encoder"]["norm"]
    with pytest.raises(ValueError, match=r"batches has the names \['dense'\]"):
        curvature.update(broken)
    np.testing.assert_array_equal(curvature.operator().to_dense(), before)


@pytest.mark.parametrize("size", [1e-60, 1e-45, 1e60])
def test_damping_gap_does_not_depend_on_the_scale(size: float) -> None:
    layer = DenseLayer()
    layer.update(np.full((1, 1), size), np.full((1, 1), 2 * size))
    assert layer.damping_gap(size**4) == pytest.approx(0.8)  # of 4 + 1 and (2 + 1)²
