"""Estimators refuse what does not fit, in words that name the argument and what would do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import pytest

from kronops.kfac import (
    ConvLayer,
    Curvature,
    DenseLayer,
    DepthwiseConvLayer,
    EmbeddingLayer,
    GradientLayer,
    RecurrentLayer,
    ScaleShiftLayer,
    SharedLayer,
)

A, G = np.ones((6, 4)), np.ones((6, 2))
IDS = np.arange(6)
TOTALS = ("moments.inputs", "moments.output_gradients")
SERIES_A, SERIES_G = np.ones((3, 6, 4)), np.ones((3, 6, 2))


def dense(**settings: Any) -> DenseLayer:
    layer = DenseLayer(**settings)
    layer.update(A, G)
    return layer


def with_one(array: Any, value: Any) -> Any:
    changed = array.copy()
    changed[0, 0] = value
    return changed


SETTINGS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: DenseLayer(structure="banded"),
        ValueError,
        "structure = 'banded': one of 'kronecker'",
    ),
    (
        lambda: DenseLayer(structure=("full", "dense")),
        ValueError,
        r"structure = ('full', 'dense'): ",
    ),
    (
        lambda: DenseLayer(structure=("full", np.ones(2))),
        ValueError,
        "structure = ('full', array([1., 1.])): one of 'kronecker'",
    ),
    (lambda: ConvLayer((3, "3")), TypeError, "kernel_shape[1] is a str: an integer ≥ 1 is needed"),
    (lambda: ConvLayer({3, 5}), TypeError, "kernel_shape is a set, which has no order: a tuple"),
    (lambda: ConvLayer(3, {1: 2}), TypeError, "strides is a dict, which has no order: a tuple"),
    (lambda: ConvLayer((3, 3), padding="same"), ValueError, "padding = 'same': 'SAME', 'VALID'"),
    (lambda: ConvLayer(3, groups=1.5), TypeError, "groups is a float: an integer ≥ 1 is needed"),
    (
        lambda: ConvLayer(3, channels="NCHW"),
        ValueError,
        "channels = 'NCHW': one of 'last', 'first'",
    ),
    (lambda: DenseLayer(bias=3), ValueError, "bias = 3: one of False, True is needed"),
    (lambda: DenseLayer(uses=0), ValueError, "uses = 0: an integer ≥ 1 is needed"),
    (lambda: DenseLayer(uses=2.0), TypeError, "uses is a float: an integer ≥ 1 is needed"),
    (lambda: DenseLayer(layout="oi"), ValueError, "layout = 'oi': one of 'in,out', 'out,in'"),
    (lambda: DenseLayer(debias="no"), ValueError, "debias = 'no': one of False, True"),
    (lambda: RecurrentLayer(3), ValueError, "option = 3: one of 1, 2 is needed"),
    (lambda: RecurrentLayer("1"), TypeError, "option is a str: an integer ≥ 1 is needed"),
    (lambda: RecurrentLayer(1, signed=None), ValueError, "signed = None: one of False, True"),
    (lambda: GradientLayer("kronecker"), ValueError, "structure = 'kronecker': one of 'diagonal'"),
    (lambda: SharedLayer(sharing="mean"), ValueError, "sharing = 'mean': one of 'expand', 'red"),
    (lambda: EmbeddingLayer(0), ValueError, "num_embeddings = 0: an integer ≥ 1 is needed"),
    (lambda: EmbeddingLayer(3, structure="full"), ValueError, "structure = 'full': one of 'kron"),
    (lambda: ScaleShiftLayer(False, False), ValueError, "scale and shift are both False"),
    (lambda: ScaleShiftLayer(axes=1), TypeError, "axes is a int: a tuple of integers is needed"),
    (lambda: ScaleShiftLayer(axes=(1.0,)), TypeError, "axes = (1.0,): a tuple of integers, or a"),
    (lambda: ScaleShiftLayer(axes=(0, 1)), ValueError, "axes = (0, 1): axis 0 is the batch"),
    (lambda: Curvature({}), ValueError, "layers is empty: at least one layer is needed"),
    (lambda: Curvature([DenseLayer()]), TypeError, "layers is a list: a dict of names"),
    (lambda: Curvature({"a": DenseLayer}), TypeError, "layers['a'] is a ABCMeta: "),
]

UPDATES: list[tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (DenseLayer(), (A[0], G), {}, ValueError, "inputs has shape (4,): (B, in) is needed"),
    (DenseLayer(), (SERIES_A, G), {}, ValueError, "inputs has shape (3, 6, 4): (B, in) is needed"),
    (DenseLayer(), (A, G[:5]), {}, ValueError, "output_gradients has shape (5, 2), inputs (6, 4): "
     "(B, out) or (draws, B, out) is needed"),
    (DenseLayer(), (A, G[0]), {}, ValueError, "output_gradients has shape (2,), inputs (6, 4)"),
    (DenseLayer(), (A[:0], G[:0]), {}, ValueError, "inputs has shape (0, 4): an empty batch"),
    (DenseLayer(uses=2), (SERIES_A, SERIES_G), {}, ValueError,
     "inputs has shape (3, 6, 4): (2, B, in) is needed"),
    (DenseLayer(uses=3), (SERIES_A, SERIES_G[:, :5]), {}, ValueError,
     "(3, B, out) or (draws, 3, B, out) is needed"),
    (RecurrentLayer(1), (A, G), {}, ValueError, "inputs has shape (6, 4): (T, B, in) is needed"),
    (RecurrentLayer(1), (SERIES_A, SERIES_G[:2]), {}, ValueError,
     "(T, B, out) or (draws, T, B, out) is needed"),
    (SharedLayer(), (A, G), {}, ValueError, "inputs has shape (6, 4): (B, S, in) is needed"),
    (SharedLayer(), (SERIES_A, SERIES_G[:, :5]), {}, ValueError, "(B, S, out) or (draws, B, S, "),
    (ScaleShiftLayer(), (A, G), {}, ValueError, "output_gradients has shape (6, 2): that of inputs "
     "is needed, (6, 4), or (draws, 6, 4)"),
    (ScaleShiftLayer(axes=(2,)), (A, A), {}, ValueError, "axes = (2,), but inputs has 2 axes: "
     "different ones of 1 to 1 are needed"),
    (ScaleShiftLayer(axes=(1, -1)), (A, A), {}, ValueError, "axes = (1, -1), but inputs has 2"),
    (ScaleShiftLayer(axes=(-2,)), (A, A), {}, ValueError, "axes = (-2,), but inputs has 2 axes"),
    (ScaleShiftLayer(), (A[:0], A[:0]), {}, ValueError, "inputs has shape (0, 4): an empty batch"),
    (ScaleShiftLayer(), (np.asarray(1.0), A), {}, ValueError, "inputs has no axes: (B, …)"),
    (EmbeddingLayer(3), (IDS, G), {}, ValueError, "inputs has the id 5: ids from 0 to 2 are "
     "needed, for num_embeddings = 3"),
    (EmbeddingLayer(9), (IDS.astype(np.uint64) + np.uint64(2**63), G), {}, ValueError,
     "inputs has the id 9223372036854775808: ids from 0 to 8"),
    (EmbeddingLayer(9), (IDS[:, None][:, :0], SERIES_G[0][:, None]), {}, ValueError,
     "inputs has shape (6, 0): an empty batch"),
    (ConvLayer(7, padding="VALID"), (SERIES_A, SERIES_A), {}, ValueError, "inputs has images of "
     "(6,) pixels, (6,) with padding: the kernel (7,) with dilation (1,) needs at least (7,)"),
    (ConvLayer(3, groups=3), (SERIES_A, SERIES_A), {}, ValueError,
     "inputs has 4 channels: a multiple of groups = 3 is needed"),
    (DepthwiseConvLayer(3), (SERIES_A, SERIES_A[..., :3]), {}, ValueError,
     "output_gradients has 3 channels: a multiple of the 4 of inputs is needed"),
    (ConvLayer(3, padding="VALID"), (SERIES_A, SERIES_A), {}, ValueError,
     "(3, 4, out) or (draws, 3, 4, out) is needed"),
    (ConvLayer(3, uses=2), (SERIES_A, SERIES_A), {}, ValueError, "(2, B, size0, in) is needed"),
    (RecurrentLayer(1), (SERIES_A[:0], SERIES_G[:0]), {}, ValueError, "inputs has shape (0, 6, 4)"),
    (EmbeddingLayer(9), (IDS - 1, G), {}, ValueError, "inputs has the id -1: ids from 0 to 8"),
    (EmbeddingLayer(9), (IDS * 1.0, G), {}, TypeError, "inputs has dtype float64: integer ids"),
    (EmbeddingLayer(9), (IDS > 1, G), {}, TypeError, "inputs has dtype bool: integer ids"),
    (EmbeddingLayer(9), (IDS.tolist(), G), {}, TypeError, "inputs is a list: an array of integer"),
    (EmbeddingLayer(9), (IDS[0], G), {}, ValueError, "inputs has no axes: ids of shape (B,)"),
    (EmbeddingLayer(9), (IDS[:0], G), {}, ValueError, "inputs has shape (0,): an empty batch"),
    (EmbeddingLayer(9), (IDS, G[:5]), {}, ValueError, "output_gradients has shape (5, 2), inputs "
     "(6,): one gradient for each id is needed"),
    (GradientLayer(), (A[:0],), {}, ValueError, "gradients has shape (0, 4): an empty batch"),
    (GradientLayer(), (np.asarray(1.0),), {}, ValueError, "gradients has no axes: (B, …)"),
    (GradientLayer(), (A,), {"summed": 0}, ValueError, "summed = 0: an integer ≥ 1 is needed"),
    (GradientLayer(), (A,), {"summed": 2.5}, TypeError, "summed is a float: an integer ≥ 1"),
    (DenseLayer(), (A.tolist(), G), {}, TypeError, "inputs is a list: an array is needed"),
    (DenseLayer(), (A, None), {}, TypeError, "output_gradients is a NoneType: an array is needed"),
    (DenseLayer(), (A * 1j, G), {}, TypeError,
     "inputs has dtype complex128: a real floating dtype is needed"),
    (DenseLayer(), (A.astype(object), G), {}, TypeError, "inputs has dtype object"),
    (DenseLayer(), (np.ma.masked_array(A), G), {}, TypeError, "inputs is a masked array"),
    (DenseLayer(), (A, array_api_strict.asarray(G)), {}, TypeError, "inputs is an array of numpy"),
    (DenseLayer(), (with_one(A, math.nan), G), {}, ValueError, "inputs: the sum of second "
     "moments has NaN or infinite entries in float64; finite values are needed, and nothing was"),
    (DenseLayer(), (A, with_one(G, math.inf)), {}, ValueError, "output_gradients: the sum of"),
    (DenseLayer(), (A, with_one(G, 1e200)), {}, ValueError, "infinite entries in float64"),
    (DenseLayer(), (A, G), {"decay": -0.5}, ValueError, "decay = -0.5 is negative: a real number"),
    (DenseLayer(), (A, G), {"decay": math.nan}, ValueError, "decay = nan: a finite number is need"),
    (DenseLayer(), (A, G), {"decay": "0.9"}, TypeError, "decay is a str: a real or complex number"),
    (DenseLayer(), (A, G), {"decay": 1j}, TypeError, "decay = 1j is complex: a real number ≥ 0"),
    (DenseLayer(), (A, G), {"weight": -1}, ValueError, "weight = -1.0 is negative"),
    (DenseLayer(), (A, G), {"weight": math.inf}, ValueError, "weight = inf: a finite number"),
    (DenseLayer(), (A, 2 * G), {"weight": 1e308}, ValueError, "output_gradients: the sum of"),
    (DenseLayer(), (A, G), {"weight": None}, TypeError, "weight is a NoneType"),
    (DenseLayer(), (A, G), {"weight": np.ones(2)}, TypeError, "weight is a ndarray"),
]  # fmt: skip

OPERATORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: DenseLayer().operator(), ValueError, "no statistics yet: call update first"),
    (lambda: DenseLayer().moments, ValueError, "no statistics yet: call update first"),
    (lambda: dense().operator(-1.0), ValueError, "damping = -1.0 is negative"),
    (lambda: dense().operator(math.nan), ValueError, "damping = nan: a finite number is needed"),
    (lambda: dense().operator(math.inf), ValueError, "damping = inf: a finite number is needed"),
    (lambda: dense().operator(1j), TypeError, "damping = 1j is complex"),
    (lambda: dense().operator("0.1"), TypeError, "damping is a str"),
    (lambda: dense().operator(np.ones(2)), TypeError, "damping is a ndarray"),
    (lambda: dense().operator(0.1, "heuristic"), ValueError,
     "method = 'heuristic': one of 'factored', 'exact', 'ekfac' is needed"),
    (lambda: dense().operator(0.1, pi="off"), ValueError, "pi = 'off': one of 'trace' is needed"),
    (lambda: dense().operator(0.1, pi=0.0), ValueError, 'pi = 0.0: "trace" or a real number > 0'),
    (lambda: dense(structure="diagonal").operator(0.1, pi=-1), ValueError, "pi = -1.0: "),
    (lambda: dense().operator(0.1, "ekfac"), ValueError,
     'method = "ekfac" needs eigenvalues: call update_eigenvalues first'),
    (lambda: DenseLayer().update_eigenvalues(A, G), ValueError, "no statistics yet: call update"),
    (lambda: RecurrentLayer(1).operator(0.1, "ekfac"), ValueError,
     'method = "ekfac" needs Kronecker factors, and a series has none: "factored" or "exact"'),
    (lambda: RecurrentLayer(1).update_eigenvalues(SERIES_A, SERIES_G), ValueError,
     'method = "ekfac" needs Kronecker factors'),
]  # fmt: skip

MERGES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: DenseLayer().merge(DenseLayer(bias=True)), ValueError,
     "other is DenseLayer(debias=True, layout='in,out', bias=True, structure='kronecker', "
     "uses=None): the same settings are needed, DenseLayer(debias=True"),
    (lambda: DenseLayer().merge(GradientLayer()), ValueError, "other is GradientLayer("),
    (lambda: DenseLayer().load_state_dict(DenseLayer(uses=2).state_dict()), ValueError,
     "the same settings are needed"),
    (lambda: DenseLayer().load_state_dict([]), TypeError, "state is a list: what state_dict gave"),
    (lambda: DenseLayer().load_state_dict({}), ValueError, "state is of None: the same settings"),
    (lambda: DenseLayer().load_state_dict({"estimator": repr(DenseLayer())}), ValueError,
     "state is not whole: 'moments.weight' is missing"),
    (lambda: Curvature({"a": DenseLayer()}).merge(DenseLayer()), TypeError,
     "other is a DenseLayer: a Curvature is needed"),
]  # fmt: skip


def raises(error: type[Exception], words: str) -> Any:
    return pytest.raises(error, match=re.escape(words))


def named_by_words(cases: list[Any]) -> list[Any]:
    return [pytest.param(*case, id=f"{i}: {case[-1][:40]}") for i, case in enumerate(cases)]


@pytest.mark.parametrize(("call", "error", "words"), named_by_words(SETTINGS + OPERATORS + MERGES))
def test_words(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with raises(error, words):
        call()


@pytest.mark.parametrize(("layer", "batch", "settings", "error", "words"), named_by_words(UPDATES))
def test_updates_that_are_refused_change_nothing(
    layer: Any, batch: Any, settings: Any, error: type[Exception], words: str
) -> None:
    with raises(error, words), np.errstate(over="ignore"):
        layer.update(*batch, **settings)
    with raises(ValueError, "no statistics yet"):
        _ = layer.moments


def test_sizes_stay_what_they_were() -> None:
    layer = dense()
    with raises(
        ValueError, "inputs: a moment of shape (3, 3), but (4, 4) in the statistics so far"
    ):
        layer.update(A[:, :3], G)
    with raises(ValueError, "output_gradients: a moment of shape (1, 1), but (2, 2)"):
        layer.update(A, G[:, :1])
    words = "inputs: an array of array_api_strict, but the statistics so far are of numpy; bring"
    with raises(TypeError, words):
        layer.update(array_api_strict.asarray(A), array_api_strict.asarray(G))
    with raises(ValueError, "inputs: 3 features, but 4 in the moments, the bias counted"):
        layer.update_eigenvalues(A[:, :3], G)
    with raises(TypeError, words):
        layer.update_eigenvalues(array_api_strict.asarray(A), array_api_strict.asarray(G))
    np.testing.assert_array_equal(layer.moments[0], dense().moments[0])


def test_number_of_time_steps_stays_what_it_was() -> None:
    layer = RecurrentLayer(2)
    layer.update(SERIES_A, SERIES_G)
    with raises(ValueError, "inputs: 2 uses for each example, but 3 in the statistics so far"):
        layer.update(SERIES_A[:2], SERIES_G[:2])
    other = RecurrentLayer(2)
    other.update(SERIES_A[:2], SERIES_G[:2])
    with raises(ValueError, "2 uses for each example, but 3"):
        layer.merge(other)


def test_total_weight_of_zero() -> None:
    layer = DenseLayer()
    layer.update(A, G, weight=0.0)
    for call in (lambda: layer.moments, lambda: layer.operator(0.1)):
        with raises(ValueError, "the total weight is 0: update with a weight > 0 first"):
            call()
    layer.update(A, G)
    assert layer.state_dict()["moments.weight"] == 1.0


def test_total_weight_that_overflows() -> None:
    layer = DenseLayer()
    layer.update(1e-3 * A, 1e-3 * G, weight=1e308)
    with raises(OverflowError, "the total weight is too large for a float: use smaller weights"):
        layer.update(1e-3 * A, 1e-3 * G, weight=1e308)
    np.testing.assert_allclose(layer.moments[0], 1e-6 * dense().moments[0])
    with raises(OverflowError, "the total weight is too large"):
        layer.merge(layer)


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("moments.inputs", None, ValueError, "state is not whole: 'moments.inputs' is missing"),
        ("moments.weight", -1.0, ValueError, "moments.weight = -1.0 is negative"),
        ("moments.weight", "much", TypeError, "moments.weight is a str"),
        ("moments.repeats", 0, ValueError, "moments.repeats = 0: an integer ≥ 1 is needed"),
        ("moments.inputs", "array", TypeError, "moments.inputs is a str: an array is needed"),
        ("moments.inputs", A * 1j, TypeError, "moments.inputs has dtype complex128"),
        ("moments.inputs", A * math.nan, ValueError, "inputs: the sum of second moments has NaN"),
        ("moments.more", A, ValueError, "state has unknown entries: moments.more"),
        ("colour", "red", ValueError, "state has unknown entries: colour"),
        ("basis.inputs", None, ValueError, "state is not whole: 'basis.inputs' is missing"),
        ("basis.current", None, ValueError, "state has unknown entries: basis.inputs"),
        ("moments", None, ValueError, "state has eigenvalues, but not the moments that they"),
        ("eigenvalues.weight", None, ValueError, "'eigenvalues.weight' is missing"),
    ],
)
def test_states_that_are_not_whole(key: str, value: Any, error: Any, words: str) -> None:
    layer, target = dense(), dense()
    layer.update_eigenvalues(A, G)
    state = layer.state_dict()
    if key == "moments":
        state = {name: state[name] for name in state if name not in TOTALS}
    elif value is None:
        del state[key]
    else:
        state[key] = value
    target.update(2 * A, G)
    before = target.moments[0]
    with raises(error, words):
        target.load_state_dict(state)
    np.testing.assert_array_equal(target.moments[0], before)


def test_curvature_names_the_layer() -> None:
    curvature = Curvature({"first": DenseLayer(), "second": DenseLayer()})
    with raises(ValueError, "batches has the names ['first', 'third']: those of the layers are "
                "needed, ['first', 'second']"):  # fmt: skip
        curvature.update({"first": (A, G), "third": (A, G)})
    with raises(ValueError, "batches has the names ['first']"):
        curvature.update_eigenvalues({"first": (A, G)})
    with raises(TypeError, "batches is a tuple: a dict by name is needed"):
        curvature.update((A, G))
    with raises(ValueError, "state has the names []"):
        curvature.load_state_dict({})
    with raises(ValueError, "other has the names ['first']"):
        curvature.merge(Curvature({"first": DenseLayer()}))
    with raises(ValueError, "in the layer 'second'"):
        curvature.update({"first": (A, G), "second": (A, G[:2])})
    with raises(ValueError, "batch is a ndarray: a pair (inputs, output_gradients) is needed"):
        curvature.update({"first": A, "second": (A, G)})
    with raises(ValueError, "in the layer 'first'"):
        curvature.operator(0.1)


@pytest.mark.parametrize("name", ["inputs", "output_gradients"])
def test_states_that_are_not_symmetric_are_refused(name: str) -> None:
    layer = DenseLayer()
    layer.update(np.eye(3), np.eye(3))
    state = layer.state_dict()
    state[f"moments.{name}"] = state[f"moments.{name}"] + np.triu(np.ones((3, 3)), 1)
    with raises(ValueError, f"state: the moment of {name} is not symmetric"):
        DenseLayer().load_state_dict(state)
