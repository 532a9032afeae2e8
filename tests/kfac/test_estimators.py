"""What estimators promise: averages, blocks, layouts, merging, states, errors and their words."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_zoo import (
    IN,
    METHODS,
    OUT,
    STRUCTURES,
    ZOO,
    B,
    Case,
    T,
    assert_same,
    dense_batch,
    filled,
    flat_moments,
    series_batch,
)

import kronops
from kronops.backends.numpy import NumpyBackend
from kronops.kfac import (
    Curvature,
    DenseLayer,
    DepthwiseConvLayer,
    GradientLayer,
    RecurrentLayer,
    batches,
)

RNG = np.random.default_rng(3)
every_case = pytest.mark.parametrize("case", ZOO.values(), ids=ZOO)


def gradients_of(a: Any, g: Any, bias: bool = False) -> Any:
    """The gradient of each example, ``(B, in, out)``, summed over the uses if there are any."""
    a = np.concatenate([a, np.ones_like(a[..., :1])], axis=-1) if bias else a
    pattern = "bi,bo->bio" if a.ndim == 2 else "tbi,tbo->bio"
    return np.einsum(pattern, a, g)


# -- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_factors_are_means_of_outer_products(bias: bool) -> None:
    a, g = dense_batch()
    layer = DenseLayer(bias)
    layer.update(a, g)
    one = np.concatenate([a, np.ones((B, 1))], axis=1) if bias else a
    np.testing.assert_allclose(layer.moments[0], sum(np.outer(x, x) for x in one) / B)
    np.testing.assert_allclose(layer.moments[1], sum(np.outer(x, x) for x in g) / B)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_draws_are_summed(structure: Any) -> None:
    a, _ = dense_batch()
    draws = RNG.normal(size=(3, B, OUT))
    together, apart = DenseLayer(structure=structure), DenseLayer(structure=structure)
    together.update(a, draws)
    for g in draws:
        apart.update(a, g)
    for whole, mean in zip(flat_moments(together)[-1:], flat_moments(apart)[-1:], strict=True):
        np.testing.assert_allclose(whole, 3 * mean)


@pytest.mark.parametrize("option", [1, 2])
def test_draws_are_summed_along_a_series(option: int) -> None:
    a, _ = series_batch()
    draws = RNG.normal(size=(2, T, B, OUT))
    together, apart = RecurrentLayer(option), RecurrentLayer(option)
    together.update(a, draws)
    for g in draws:
        apart.update(a, g)
    for whole, mean in zip(together.moments[1], apart.moments[1], strict=True):
        np.testing.assert_allclose(whole, 2 * mean)


def test_diagonal_and_full_are_the_moments_of_whole_gradients() -> None:
    a, g = dense_batch()
    rows = gradients_of(a, g, bias=True).reshape(B, -1)
    diagonal, full = DenseLayer(True, "diagonal"), DenseLayer(True, "full")
    diagonal.update(a, g)
    full.update(a, g)
    np.testing.assert_allclose(full.moments, rows.T @ rows / B)
    np.testing.assert_allclose(diagonal.moments.reshape(-1), np.diagonal(full.moments))
    assert diagonal.moments.shape == (IN + 1, OUT)


@pytest.mark.parametrize("structure", ["diagonal", "full"])
def test_independent_uses_are_summed_after_squaring(structure: str) -> None:
    a, g = series_batch()
    used, single = DenseLayer(structure=structure, uses=T), DenseLayer(structure=structure)
    used.update(a, g)
    for t in range(T):
        single.update(a[t], g[t])
    np.testing.assert_allclose(used.moments, T * single.moments)


def test_lagged_moments_have_the_later_time_first_and_one_divisor() -> None:
    a, g = series_batch()
    layer = RecurrentLayer(1)
    layer.update(a, g)
    for x, (c0, c1) in zip((a, g), layer.moments, strict=True):
        by_hand = [[np.outer(x[t + lag, b], x[t, b]) for t in range(T - lag)] for lag in (0, 1)
                   for b in range(B)]  # fmt: skip
        np.testing.assert_allclose(c0, sum(sum(rows) for rows in by_hand[:B]) / (T * B))
        np.testing.assert_allclose(c1, sum(sum(rows) for rows in by_hand[B:]) / (T * B))


def test_one_time_step_has_no_lag() -> None:
    layer = RecurrentLayer(1, bias=True)
    layer.update(RNG.normal(size=(1, 9, IN)), RNG.normal(size=(1, 9, OUT)))
    dense = DenseLayer(bias=True)
    assert not layer.moments[0][1].any()
    assert not layer.moments[1][1].any()
    dense.update(RNG.normal(size=(9, IN)), RNG.normal(size=(9, OUT)))
    (a, _), (g, _) = layer.moments
    product = kronops.KroneckerOperator([a, g]).damped(0.3, "factored")
    np.testing.assert_allclose(layer.operator(0.3).to_dense(), product.to_dense())


def test_gradient_layer_knows_examples_or_their_sum() -> None:
    gradients = RNG.normal(size=(B, IN, OUT))
    examples, summed = GradientLayer(), GradientLayer()
    examples.update(gradients)
    np.testing.assert_allclose(examples.moments, np.mean(gradients**2, axis=0))
    summed.update(gradients.sum(axis=0), summed=B)
    np.testing.assert_allclose(summed.moments, gradients.sum(axis=0) ** 2 / B)
    full = GradientLayer("full")
    full.update(gradients.sum(axis=0), summed=B)
    np.testing.assert_allclose(np.diagonal(full.moments), summed.moments.reshape(-1))


def test_sum_of_independent_gradients_estimates_the_same_moment() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 2.0, 0.5])
    layer = GradientLayer()
    for _ in range(4000):
        layer.update(scales * rng.normal(size=(8, 3)).sum(axis=0), summed=8)
    np.testing.assert_allclose(layer.moments, scales**2, rtol=0.1)


def test_parameter_without_axes_counts_as_one_entry() -> None:
    layer = GradientLayer()
    layer.update(np.array([1.0, 3.0]))
    assert layer.moments.tolist() == [5.0]
    layer.update(np.asarray(4.0), summed=2)
    assert layer.moments.tolist() == [6.5]


@pytest.mark.parametrize(
    ("given_dtype", "kept"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int8", "float64")],
)
@every_case
def test_statistics_have_the_dtype_of_the_inputs(case: Case, given_dtype: str, kept: str) -> None:
    layer = case.make()
    arrays = [x if x.dtype.kind == "i" else x.astype(given_dtype) for x in case.batch()]
    layer.update(*arrays)
    assert {str(moment.dtype) for moment in flat_moments(layer)} == {kept}
    assert str(layer.operator(0.5).dtype) == kept


def test_two_dtypes_meet_in_the_wider_one() -> None:
    a, g = dense_batch()
    layer = DenseLayer()
    layer.update(a.astype(np.float32), g)
    assert [str(moment.dtype) for moment in layer.moments] == ["float64", "float64"]


def test_slabs_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    a, g = series_batch()
    whole = {}
    for entries in (2**22, IN * OUT, 1):
        monkeypatch.setattr(batches, "SLAB", entries)
        full, ekfac = DenseLayer(structure="full", uses=T), DenseLayer(uses=T)
        full.update(a, g)
        ekfac.update(a, g)
        ekfac.update_eigenvalues(a, g)
        answers = full.moments, ekfac.operator(method="ekfac").to_dense()
        for answer, first in zip(answers, whole.setdefault("first", answers), strict=True):
            np.testing.assert_allclose(answer, first, rtol=1e-12, atol=1e-14)


# -- moving averages ------------------------------------------------------------------------------

decays = st.one_of(st.none(), st.floats(0, 1.5))
weights = st.floats(0, 10)


@given(schedule=st.lists(st.tuples(decays, weights), min_size=1, max_size=6), debias=st.booleans())
def test_totals_follow_the_recursion(schedule: Any, debias: bool) -> None:
    layer = GradientLayer(debias=debias)
    total, total_weight = 0.0, 0.0
    for step, (decay, weight) in enumerate(schedule):
        layer.update(np.array([[step + 1.0]]), decay, weight)
        kept = 1.0 if decay is None else decay
        total = kept * total + weight * (step + 1.0) ** 2
        total_weight = kept * total_weight + weight
    if not debias:
        assert layer.moments[0] == pytest.approx(total, rel=1e-12)
    elif total_weight == 0:
        with pytest.raises(ValueError, match="the total weight is 0: update with a weight > 0"):
            _ = layer.moments
    elif total_weight > 1e-290:
        assert layer.moments[0] == pytest.approx(total / total_weight, rel=1e-9)


def test_debiased_average_of_equal_batches_is_the_batch() -> None:
    a, g = dense_batch()
    layer, once = DenseLayer(), DenseLayer()
    once.update(a, g)
    for _ in range(5):
        layer.update(a, g, decay=0.95, weight=0.05)
    assert_same(layer, once)


def test_without_debiasing_the_totals_are_read_out() -> None:
    a, g = dense_batch()
    biased, once = DenseLayer(debias=False), DenseLayer()
    biased.update(a, g, decay=0.95, weight=0.05)
    once.update(a, g)
    np.testing.assert_allclose(biased.moments[0], 0.05 * once.moments[0])


# -- merge and state ------------------------------------------------------------------------------


@every_case
def test_merge_adds_totals_and_weights(case: Case) -> None:
    data = [case.batch() for _ in range(3)]
    weights_ = (1.0, 2.5, 0.5)
    whole, parts = case.make(), [case.make() for _ in data]
    for part, batch, weight in zip(parts, data, weights_, strict=True):
        part.update(*batch, weight=weight)
        whole.update(*batch, weight=weight)
    first, second, third = parts
    assert_same(first.merge(second).merge(third), whole)
    assert_same(first.merge(second.merge(third)), whole)
    assert_same(third.merge(first).merge(second), whole)
    assert_same(whole.merge(case.make()), whole)
    assert_same(case.make().merge(whole), whole)


@every_case
def test_shards_of_a_batch_merge_into_the_batch(case: Case) -> None:
    batch = case.batch()
    whole, left, right = case.make(), case.make(), case.make()
    whole.update(*batch)
    halves = [np.split(x, [2], axis=case.axis) for x in batch]
    left.update(*[half[0] for half in halves], weight=2 / B)
    right.update(*[half[1] for half in halves], weight=(B - 2) / B)
    assert_same(left.merge(right), whole)


def test_merge_leaves_both_as_they_were() -> None:
    left, right = filled(ZOO["dense, kronecker"]), filled(ZOO["dense, kronecker"])
    before = [x.copy() for x in flat_moments(left)]
    left.merge(right).update(*dense_batch())
    for x, y in zip(before, flat_moments(left), strict=True):
        np.testing.assert_array_equal(x, y)


@every_case
@pytest.mark.parametrize("updates", [0, 2])
def test_state_round_trips(case: Case, updates: int) -> None:
    layer = filled(case, updates) if updates else case.make()
    state = layer.state_dict()
    assert all(isinstance(v, (np.ndarray, bool, int, float, str)) for v in state.values())
    loaded = case.make()
    loaded.load_state_dict(state)
    batch = case.batch()
    for twin in (layer, loaded):
        twin.update(*batch, decay=0.8)
    assert_same(layer, loaded, rtol=0)


@every_case
def test_state_goes_through_a_file(case: Case, tmp_path: Path) -> None:
    """An npz file gives numbers and strings back as arrays without axes."""
    layer, loaded = filled(case), case.make()
    np.savez(tmp_path / "state.npz", **layer.state_dict())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        loaded.load_state_dict(state)
    for method in case.methods:
        ours, theirs = (twin.operator(0.1, method).to_dense() for twin in (layer, loaded))
        np.testing.assert_array_equal(ours, theirs)


@every_case
def test_state_is_a_copy_both_ways(case: Case) -> None:
    layer, loaded = filled(case), case.make()
    state = layer.state_dict()
    loaded.load_state_dict(state)
    before = copy.deepcopy(state)
    for value in state.values():
        if isinstance(value, np.ndarray):
            value[...] = 7.0
    for twin in (layer, loaded):
        for name, value in twin.state_dict().items():
            np.testing.assert_array_equal(value, before[name])


@every_case
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_go_their_own_way(case: Case, duplicate: Callable[[Any], Any]) -> None:
    layer = filled(case)
    before = layer.operator(0.1).to_dense()
    twin = duplicate(layer)
    assert_same(twin, layer)
    twin.update(*case.batch())
    np.testing.assert_array_equal(layer.operator(0.1).to_dense(), before)
    assert not np.allclose(twin.operator(0.1).to_dense(), before)


@every_case
def test_inputs_are_not_written_and_outputs_do_not_alias(case: Case) -> None:
    batch = case.batch()
    before = [x.copy() for x in batch]
    layer = case.make(debias=False)
    layer.update(*batch)
    dense = layer.operator(0.1).to_dense()
    for x, y in zip(batch, before, strict=True):
        np.testing.assert_array_equal(x, y)
        x[...] = 7.0
    for moment in flat_moments(layer):
        moment[...] = 7.0
    np.testing.assert_array_equal(layer.operator(0.1).to_dense(), dense)


# -- operators ------------------------------------------------------------------------------------


def test_batch_of_one_is_the_exact_fisher() -> None:
    a, g = RNG.normal(size=(1, IN)), RNG.normal(size=(1, OUT))
    gradient = gradients_of(a, g, bias=True).reshape(-1)
    for structure in ("kronecker", "full"):
        layer = DenseLayer(True, structure)
        layer.update(a, g)
        layer.update_eigenvalues(a, g)
        for method in METHODS:
            dense = layer.operator(0.3, method if method != "factored" else "exact").to_dense()
            exact = np.outer(gradient, gradient) + 0.3 * np.eye(gradient.size)
            np.testing.assert_allclose(dense, exact, atol=1e-12)


def test_repeated_use_scales_the_block_and_divides_the_damping() -> None:
    layer = DenseLayer(uses=T)
    layer.update(*series_batch())
    a, g = layer.moments
    pi = np.sqrt(np.trace(a) / IN / (np.trace(g) / OUT))
    root = np.sqrt(0.2 / T)
    factored = T * np.kron(a + pi * root * np.eye(IN), g + root / pi * np.eye(OUT))
    np.testing.assert_allclose(layer.operator(0.2).to_dense(), factored)
    exact = T * np.kron(a, g) + 0.2 * np.eye(IN * OUT)
    np.testing.assert_allclose(layer.operator(0.2, "exact").to_dense(), exact)


@every_case
def test_exact_damping_is_added_to_the_block(case: Case) -> None:
    layer = filled(case)
    shift = layer.operator(0.25, "exact").to_dense() - layer.operator().to_dense()
    np.testing.assert_allclose(shift, 0.25 * np.eye(len(shift)), atol=1e-12)


@pytest.mark.parametrize("name", ["dense, diagonal", "dense, full", "gradient, full"])
def test_damping_is_simply_added_where_there_are_no_factors(name: str) -> None:
    layer = filled(ZOO[name])
    exact = layer.operator(0.25, "exact").to_dense()
    for method in METHODS:
        np.testing.assert_array_equal(layer.operator(0.25, method).to_dense(), exact)


def test_ekfac_damping_is_added_to_its_eigenvalues() -> None:
    layer = filled(ZOO["dense, kronecker"])
    damped, undamped = layer.operator(0.25, "ekfac"), layer.operator(method="ekfac")
    np.testing.assert_allclose(damped.eigenvalues, undamped.eigenvalues + 0.25)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("method", METHODS)
def test_structured_vectors_of_every_structure(structure: Any, method: str) -> None:
    layer = filled(ZOO[f"dense, {structure}"])
    op = layer.operator(0.4, method)
    matrix = RNG.normal(size=(IN + 1, OUT))
    for call in (op.multiply, op.multiply_inverse, lambda v: op.multiply_power(v, -0.5)):
        weights_, bias = call((matrix[:-1], matrix[-1]))
        np.testing.assert_allclose(np.vstack([weights_, bias]), call(matrix))
        np.testing.assert_allclose(call(matrix.reshape(-1)).reshape(matrix.shape), call(matrix))


@pytest.mark.parametrize(
    "name", [name for name in ZOO if not name.startswith(("gradient", "scale"))]
)
@pytest.mark.parametrize("pi", ["trace", 0.3])
def test_layout_exchanges_the_axes(name: str, pi: Any) -> None:
    case = ZOO[name]
    ours, torch = case.make(), case.make(layout="out,in")
    batch = case.batch()
    for layer in (ours, torch):
        layer.update(*batch)
        if "ekfac" in case.methods:
            layer.update_eigenvalues(*batch)
    for method in case.methods:
        first, second = ours.operator(0.2, method, pi), torch.operator(0.2, method, pi)
        assert second.domain_shape == first.domain_shape[::-1]
        v = RNG.normal(size=first.domain_shape)
        np.testing.assert_allclose(second.multiply(v.T), first.multiply(v).T, atol=1e-12)
        inverse = second.multiply_inverse(v.T)
        np.testing.assert_allclose(inverse, first.multiply_inverse(v).T, rtol=1e-9, atol=1e-9)


def test_pi_is_the_share_of_the_inputs() -> None:
    layer = filled(ZOO["dense, kronecker"])
    damped, undamped = layer.operator(0.09, pi=2.0), layer.operator()
    shifts = [d.trace() - u.trace() for d, u in zip(damped.factors, undamped.factors, strict=True)]
    np.testing.assert_allclose(shifts, [0.3 * 2.0 * (IN + 1), 0.3 / 2.0 * OUT])


# -- EKFAC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense, kronecker", "uses, kronecker"])
def test_eigenvalues_are_the_best_in_their_basis(name: str) -> None:
    """They are the diagonal of the Fisher matrix in the Kronecker basis, nearest in Frobenius."""
    case = ZOO[name]
    layer, (a, g) = case.make(), case.batch()
    layer.update(a, g)
    layer.update_eigenvalues(a, g)
    rows = gradients_of(a, g, layer.bias).reshape(B, -1)
    fisher = rows.T @ rows / B
    op = layer.operator(method="ekfac")
    basis = np.kron(*[q.to_dense() for q in op.bases])
    np.testing.assert_allclose(op.eigenvalues.reshape(-1), np.diag(basis.T @ fisher @ basis))
    kfac = layer.operator().to_dense()
    assert np.linalg.norm(op.to_dense() - fisher) < np.linalg.norm(kfac - fisher)


@pytest.mark.parametrize("structure", [("diagonal", "full"), ("full", "diagonal")])
def test_diagonal_factor_keeps_the_standard_basis(structure: Any) -> None:
    layer, (a, g) = DenseLayer(structure=structure), dense_batch()
    layer.update(a, g)
    layer.update_eigenvalues(a, g)
    basis = layer.operator(method="ekfac").bases[structure.index("diagonal")]
    np.testing.assert_array_equal(basis.to_dense(), np.eye(basis.shape[0]))


def test_eigenvalues_belong_to_their_basis() -> None:
    case = ZOO["dense, kronecker"]
    layer = filled(case)
    before = layer.operator(0.1, "ekfac").to_dense()
    layer.update(*case.batch())
    np.testing.assert_array_equal(layer.operator(0.1, "ekfac").to_dense(), before)
    batch = case.batch()
    layer.update_eigenvalues(*batch)
    fresh = case.make()
    fresh.load_state_dict({k: v for k, v in layer.state_dict().items() if "eigen" not in k
                           and "basis" not in k})  # fmt: skip
    fresh.update_eigenvalues(*batch)
    np.testing.assert_allclose(
        layer.operator(0.1, "ekfac").to_dense(), fresh.operator(0.1, "ekfac").to_dense()
    )


def test_eigenvalues_average_in_one_basis() -> None:
    case = ZOO["dense, kronecker"]
    layer, first, second = case.make(), case.batch(), case.batch()
    layer.update(*first)
    layer.update_eigenvalues(*first, weight=1.0)
    layer.update_eigenvalues(*second, decay=0.5, weight=1.5)
    op = layer.operator(method="ekfac")
    basis = np.kron(*[q.to_dense() for q in op.bases])
    squares = [(gradients_of(*batch, bias=True).reshape(B, -1) @ basis) ** 2
               for batch in (first, second)]  # fmt: skip
    mean = (0.5 * squares[0].mean(axis=0) + 1.5 * squares[1].mean(axis=0)) / 2.0
    np.testing.assert_allclose(op.eigenvalues.reshape(-1), mean)


def test_state_remembers_whether_the_basis_is_current() -> None:
    case = ZOO["dense, kronecker"]
    for moved_on in (False, True):
        layer, loaded, batch = filled(case), case.make(), case.batch()
        if moved_on:
            layer.update(*case.batch())
        loaded.load_state_dict(layer.state_dict())
        for twin in (layer, loaded):
            twin.update_eigenvalues(*batch)
        np.testing.assert_array_equal(
            layer.operator(0.1, "ekfac").to_dense(), loaded.operator(0.1, "ekfac").to_dense()
        )


def test_eigenvalues_of_one_basis_merge() -> None:
    case = ZOO["dense, kronecker"]
    whole, data = case.make(), [case.batch(), case.batch()]
    whole.update(*case.batch())
    parts = [copy.deepcopy(whole), copy.deepcopy(whole)]
    for part, batch in zip(parts, data, strict=True):
        part.update_eigenvalues(*batch)
        whole.update_eigenvalues(*batch)
    merged = parts[0].merge(parts[1])
    np.testing.assert_allclose(
        merged.operator(0.1, "ekfac").to_dense(), whole.operator(0.1, "ekfac").to_dense()
    )
    stranger = filled(case)
    for mixed in (merged.merge(stranger), stranger.merge(merged)):
        with pytest.raises(ValueError, match="merge keeps those alone that both sides have"):
            mixed.operator(method="ekfac")


def test_eigenvalues_of_one_side_are_not_those_of_both() -> None:
    """Any order of merging the same estimators: all of it, or nothing."""
    case = ZOO["dense, kronecker"]
    known, stranger, plain, empty = filled(case), filled(case), filled(case), case.make()
    plain._eigenvalues = None
    for parts in itertools.permutations([known, copy.deepcopy(known), stranger, plain, empty], 3):
        one, two, three = parts
        left, right = one.merge(two).merge(three), one.merge(two.merge(three))
        assert_same(left, right)
        kept = {id(part) for part in parts if part is not empty} & {id(stranger), id(plain)}
        assert (left._eigenvalues is not None) == (right._eigenvalues is not None) == (not kept)
    for whole in (known.merge(empty), empty.merge(known)):
        ours, theirs = (part.operator(0.1, "ekfac").to_dense() for part in (whole, known))
        np.testing.assert_array_equal(ours, theirs)


def test_what_a_subclass_adds_is_merged_too() -> None:
    class Named(DenseLayer):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.colour = "red"

    first, second = Named(), Named()
    second.colour = "blue"
    assert first.merge(second).colour == "red"
    assert Network({"a": first}, 3).merge(Network({"a": second}, 4)).depth == 3


class Network(Curvature):
    def __init__(self, layers: Any, depth: int) -> None:
        super().__init__(layers)
        self.depth = depth


@every_case
def test_eigenvalues_have_the_sizes_and_the_uses_of_the_moments(case: Case) -> None:
    """Refused, or nothing is done at all."""
    layer = filled(case)
    if layer._eigenvalues is None:
        return
    operator = layer.operator(0.1, "ekfac")
    layer.update(*case.batch())  # begins anew, with no squares to be compared with
    wider = [*case.batch()]
    wider[-1] = np.concatenate([wider[-1], wider[-1]], axis=-1)
    with pytest.raises(ValueError, match=r"in the moments|in the statistics so far"):
        layer.update_eigenvalues(*wider)
    np.testing.assert_array_equal(layer.operator(0.1, "ekfac").to_dense(), operator.to_dense())


@pytest.mark.parametrize("structure", [("diagonal", "full"), ("diagonal", "diagonal")])
def test_eigenvalues_of_other_groups_are_refused(structure: Any) -> None:
    layer = DepthwiseConvLayer(2, structure=structure)
    layer.update(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
    for channels in (2, 8):
        batch = np.ones((2, 3, channels))
        with pytest.raises(ValueError, match=f"inputs: {channels} groups, but 4 in the moments"):
            layer.update_eigenvalues(batch, batch)
    with pytest.raises(ValueError, match="inputs: 5 uses for each example, but 3"):
        layer.update_eigenvalues(np.ones((2, 5, 4)), np.ones((2, 5, 4)))


# -- decompositions are kept ----------------------------------------------------------------------


def test_another_damping_reuses_the_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, calls = filled(ZOO["dense, kronecker"]), []
    eigh = NumpyBackend.eigh
    monkeypatch.setattr(
        NumpyBackend, "eigh", lambda self, matrix: calls.append(1) or eigh(self, matrix)
    )
    for damping in (0.1, 0.2, 0.3):
        layer.operator(damping, "exact").multiply_inverse(np.ones((IN + 1, OUT)))
    assert len(calls) == 2
    layer.update(*dense_batch())
    layer.operator(0.1, "exact").multiply_inverse(np.ones((IN + 1, OUT)))
    assert len(calls) == 4


def test_nothing_is_kept_while_values_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = filled(ZOO["dense, kronecker"])
    with monkeypatch.context() as patch:
        patch.setattr(NumpyBackend, "is_tracked", lambda self, array: True)
        traced = layer.operator(0.0, "exact")
    assert layer.operator(0.0, "exact") is not traced
    assert layer._kept("exact") is layer._kept("factored")


@every_case
def test_operator_follows_every_change(case: Case) -> None:
    """The operators that are kept are those of a fresh estimator in the same state."""
    layer, other = filled(case), filled(case)

    def check() -> None:
        fresh = case.make()
        fresh.load_state_dict(layer.state_dict())
        for method in case.methods:
            ours, theirs = layer.operator(0.1, method), fresh.operator(0.1, method)
            np.testing.assert_array_equal(ours.to_dense(), theirs.to_dense())

    check()
    layer.update(*case.batch(), decay=0.5)
    check()
    layer.load_state_dict(other.state_dict())
    check()
    layer = layer.merge(case.make())
    check()


# -- array_api_strict -----------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("layout", ["in,out", "out,in"])
def test_only_the_standard_is_used(case: Case, layout: str) -> None:
    plain, strict = case.make(layout=layout), case.make(layout=layout)
    for _ in range(2):
        batch = case.batch()
        for layer, asarray in ((plain, np.asarray), (strict, array_api_strict.asarray)):
            arrays = [asarray(x) for x in batch]
            layer.update(*arrays, decay=0.9)
            if "ekfac" in case.methods:
                layer.update_eigenvalues(*arrays)
    strict = strict.merge(case.make(layout=layout))
    strict.load_state_dict(strict.state_dict())
    for method in case.methods:
        ours, theirs = (layer.operator(0.1, method).to_dense() for layer in (plain, strict))
        assert type(theirs) is type(array_api_strict.asarray(1.0))
        np.testing.assert_allclose(np.from_dlpack(theirs), ours, rtol=1e-9, atol=1e-12)


# -- arrays as they come --------------------------------------------------------------------------


@every_case
def test_memory_may_have_gaps_and_any_order(case: Case) -> None:
    batch = case.batch()
    layer, strided = case.make(), case.make()
    layer.update(*batch)
    gaps = [np.repeat(x, 2, axis=-1)[..., ::2].copy(order="F")[::-1][::-1] for x in batch]
    assert not any(x.flags.c_contiguous for x in gaps if x.ndim > 1)
    strided.update(*gaps)
    assert_same(strided, layer)


@every_case
def test_batch_of_one(case: Case) -> None:
    """Twice the same example is that example."""
    one = [np.take(x, [0], axis=case.axis) for x in case.batch()]
    layer, twice = case.make(), case.make()
    layer.update(*one)
    twice.update(*[np.concatenate([x, x], axis=case.axis) for x in one])
    assert_same(twice, layer)


@every_case
def test_empty_batch_says_so(case: Case) -> None:
    layer = case.make()
    with pytest.raises(ValueError, match="an empty batch has no mean"):
        layer.update(*[np.take(x, [], axis=case.axis) for x in case.batch()])


def test_sums_over_processes_are_those_of_merge():
    mine, other = DenseLayer(), DenseLayer()
    rng = np.random.default_rng(0)
    for layer in (mine, other):
        layer.update(rng.normal(size=(6, 3)), rng.normal(size=(6, 2)), weight=rng.uniform())
    want = mine.merge(other).state_dict()
    others = iter(value for value in other.state_dict().values() if isinstance(value, np.ndarray))
    weight = np.array([other.state_dict()["moments.weight"]])

    def in_place(array):
        array += weight if array.shape == (1,) else next(others)

    reduced = mine.all_reduce(in_place).state_dict()
    assert reduced.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_array_equal(reduced[key], value)
    with pytest.raises(ValueError, match="all processes need some"):
        DenseLayer().all_reduce(in_place)
