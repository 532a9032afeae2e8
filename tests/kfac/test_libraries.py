"""Every kind of layer on every library: moments, merging and operators are those of NumPy."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from layer_zoo import ZOO, Case, assert_same, filled, flat_moments
from libraries import LIBRARIES

from kronops.backends import backend_of
from kronops.backends.standard import Backend
from kronops.kfac import Curvature, DenseLayer, EmbeddingLayer, GradientLayer

NAMES = (
    "dense, kronecker",
    "recurrent, option 2",
    "shared, reduce, kronecker",
    "embedding, kronecker, sequence_batch",
    "embedding, diagonal, embedding_batch",
    "scale and shift, full, (True, True)",
    "scale and shift, diagonal, (True, True)",
)
CASES = {name: ZOO[name] for name in NAMES}
every_library = pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def brought(maker: Any, batch: Any) -> list[Any]:
    """Arrays of the library: integers as they are."""
    return [
        maker.place(maker.xp.asarray(x)) if x.dtype.kind == "i" else maker.real(x) for x in batch
    ]


def to_numpy(array: Any) -> Any:
    backend: Backend = backend_of(array)
    return backend.to_numpy(array)


@every_library
@every_case
def test_layers_are_those_of_numpy(library: Any, case: Case) -> None:
    with library.maker(library.dtypes[0]) as maker:
        tolerance = 1e-9 if library.dtypes[0] == "float64" else 2e-4
        plain, theirs = [case.make() for _ in range(2)], [case.make() for _ in range(2)]
        for ours, other in zip(plain, theirs, strict=True):
            batch = case.batch()
            ours.update(*batch)
            other.update(*brought(maker, batch))
        batch = case.batch()
        merged, expected = theirs[0].merge(theirs[1]), plain[0].merge(plain[1])
        if "ekfac" in case.methods:
            merged.update_eigenvalues(*brought(maker, batch))
            expected.update_eigenvalues(*batch)
        for x, y in zip(flat_moments(merged), flat_moments(expected), strict=True):
            assert x.dtype == maker.dtype
            np.testing.assert_allclose(to_numpy(x), y, rtol=tolerance, atol=tolerance)
        for method in case.methods:
            dense = to_numpy(merged.operator(0.5, method).to_dense())
            wanted = expected.operator(0.5, method).to_dense()
            np.testing.assert_allclose(dense, wanted, rtol=tolerance, atol=10 * tolerance)


def merged_in_a_random_tree(parts: list[Any], order: random.Random) -> Any:
    parts = order.sample(parts, len(parts))
    while len(parts) > 1:
        first = order.randrange(len(parts) - 1)
        parts[first : first + 2] = [parts[first].merge(parts[first + 1])]
    return parts[0]


@pytest.mark.parametrize("case", ZOO.values(), ids=ZOO)
def test_eight_shards_merge_in_any_order_and_tree(case: Case) -> None:
    """With weights as long as the shards: what one update over all of them gives."""
    order = random.Random(5)
    batches = [case.batch() for _ in range(8)]
    lengths = [order.randrange(1, batches[0][0].shape[case.axis] + 1) for _ in batches]
    shards = [
        [np.take(x, range(n), axis=case.axis) for x in batch]
        for n, batch in zip(lengths, batches, strict=True)
    ]
    whole, parts = case.make(), [case.make() for _ in shards]
    everything = [np.concatenate(xs, axis=case.axis) for xs in zip(*shards, strict=True)]
    whole.update(*everything, weight=float(sum(lengths)))
    for part, shard, n in zip(parts, shards, lengths, strict=True):
        part.update(*shard, weight=float(n))
    for _ in range(4):
        assert_same(merged_in_a_random_tree(parts, order), whole, rtol=1e-10)


@pytest.mark.parametrize("library", ["array_api_strict device1", "torch"])
@every_case
def test_states_load_into_another_library(case: Case, library: str) -> None:
    with LIBRARIES[library].maker("float64") as maker:
        layer, loaded = filled(case), case.make()
        name = backend_of(maker.real(np.ones(1))).name
        loaded.load_state_dict(layer.state_dict(), backend=name, device=maker.device)
        for method in case.methods:
            op = loaded.operator(0.1, method)
            assert op.backend.name == name
            assert maker.device is None or op.device == maker.device
            wanted = layer.operator(0.1, method).to_dense()
            np.testing.assert_allclose(to_numpy(op.to_dense()), wanted, rtol=1e-9, atol=1e-12)


def test_states_load_onto_a_device() -> None:
    with LIBRARIES["array_api_strict"].maker("float64") as maker:
        layer, loaded = GradientLayer(), Curvature({"norm": GradientLayer()})
        layer.update(maker.real(np.ones((2, 3))))
        device = maker.xp.Device("device1")
        loaded.load_state_dict({"norm": layer.state_dict()}, device=device)
        assert loaded.operator().device == device
    with pytest.raises(ValueError, match="NumPy"):
        loaded.load_state_dict({"norm": layer.state_dict()}, backend="NumPy")


def test_autograd_goes_through_estimators_in_torch() -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = (
        torch.randn(6, size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in (3, 2)
    )

    def logdets(a: Any, g: Any) -> tuple[Any, ...]:
        layer = DenseLayer(bias=True)
        layer.update(a, g)
        layer.update(2 * a, g, decay=0.5)
        return tuple(layer.operator(0.1, method).logdet() for method in ("factored", "exact"))

    assert torch.autograd.gradcheck(logdets, (inputs, gradients))
    detached = DenseLayer()
    detached.update(inputs.detach(), gradients.detach())
    assert not any(moment.requires_grad for moment in detached.moments)


@every_library
def test_ids_that_cannot_be_seen_make_nan(library: Any) -> None:
    """An error where they can be seen; NaN in a graph."""
    with library.maker(library.dtypes[0]) as maker:
        layer, ids = EmbeddingLayer(3), maker.place(maker.xp.asarray(np.array([0, 3])))
        g = maker.real(np.ones((2, 1)))
        if "dask" not in library.module:
            with pytest.raises(ValueError, match="inputs has the id 3: ids from 0 to 2 are needed"):
                layer.update(ids, g)
        else:
            layer.update(ids, g)
            assert np.isnan(to_numpy(layer.moments[0])).any()
