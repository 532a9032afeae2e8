"""Structured vectors, each form alone: what mutants of `kronops.vectors` asked for.

``python tests/mutants.py`` makes them; docs/mutants.md lists those that survive, and why.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, NamedTuple

import array_api_strict as strict
import numpy as np
import pytest

from kronops.vectors import (
    InChannels,
    OutIn,
    as_layout,
    flatten,
    folds,
    in_layout,
    parts_of,
    same_form,
    size_of,
    unflatten,
)


class Pair(NamedTuple):
    weights: Any
    bias: Any


def zeros(*shape):
    return np.zeros(shape)


def numbers(*shape):
    return np.arange(float(np.prod(shape))).reshape(shape)


@pytest.mark.parametrize(
    "shape, domain, wanted",
    [
        ((36, 2), (36, 2), True),
        ((3, 3, 4, 2), (36, 2), True),
        ((1, 36, 2), (36, 2), True),
        ((36, 2, 1), (36, 2), False),
        ((6, 3), (6, 2), False),
        ((3, 12, 2), (35, 2), False),
        ((72,), (36, 2), False),
        ((2, 3), (6,), True),
        ((2, 3), (5,), False),
        ((2, 3, 4, 5), (6, 4, 5), True),
        ((2, 3, 4, 5), (6, 5, 4), False),
        ((4, 5), (6, 4, 5), False),
        ((0, 5, 2), (0, 2), True),
        ((20, 30, 2), (600, 2), True),
        ((), (1,), True),
        ((), (2,), False),
        ((2,), (1, 2), False),
        ((2, 3, 4), OutIn((2, 12)), True),
        ((2, 12), OutIn((2, 12)), True),
        ((2, 20, 30), OutIn((2, 600)), True),
        ((2, 3, 5), OutIn((2, 12)), False),
        ((2, 3, 3), OutIn((2, 12)), False),
        ((3, 3, 4), OutIn((2, 12)), False),
        ((1, 3, 4), OutIn((2, 12)), False),
        ((6, 4), OutIn((2, 12)), False),
        ((2,), OutIn((2, 1)), True),
        ((3, 3, 4, 2), InChannels((9, 8)), True),
        ((9, 4, 2), InChannels((9, 8)), True),
        ((3, 3, 8), InChannels((9, 8)), True),
        ((9, 1, 8), InChannels((9, 8)), True),
        ((9, 8), InChannels((9, 8)), True),
        ((3, 3, 2, 2), InChannels((9, 8)), False),
        ((3, 3, 4, 2, 1), InChannels((9, 8)), False),
        ((72,), InChannels((9, 8)), False),
        ((3, 3, 0, 2), InChannels((9, 0)), True),
    ],
)
def test_folds(shape, domain, wanted):
    assert folds(shape, domain) is wanted


@pytest.mark.parametrize(
    "shape, domain, range_, wanted",
    [
        ((2, 3, 2), (6, 2), (6, 2), (2, 3, 2)),
        ((2, 3, 2), (6, 2), (6, 4), (2, 3, 4)),
        ((2, 3, 2), (6, 2), (5, 2), (5, 2)),
        ((6, 2), (6, 2), (7, 1), (7, 1)),
        ((2, 3, 2), (6, 2), (6, 2, 5), (2, 3, 2, 5)),
        ((2, 3, 4, 5), (6, 4, 5), (6, 3), (2, 3, 3)),
        ((2, 3), (6,), (6, 4), (2, 3, 4)),
        ((2, 3), (2, 3), [(2,), (3,)], (5,)),
        ((2, 3, 4), OutIn((2, 12)), OutIn((4, 12)), (4, 3, 4)),
        ((2, 3, 4), OutIn((2, 12)), OutIn((4, 6)), (4, 6)),
        ((2, 3, 4), OutIn((2, 12)), OutIn((2, 6)), (2, 6)),
        ((2, 3, 4), OutIn((2, 12)), OutIn((2, 13)), (2, 13)),
        ((3, 3, 4, 2), InChannels((9, 8)), InChannels((9, 8)), (3, 3, 4, 2)),
        ((3, 3, 4, 2), InChannels((9, 8)), InChannels((9, 6)), (9, 6)),
        ((3, 3, 4, 2), InChannels((9, 8)), InChannels((4, 8)), (4, 8)),
        ((3, 3, 4, 2), InChannels((9, 8)), InChannels((10, 8)), (10, 8)),
        ((20, 20, 2), (400, 2), (int("400"), 3), (20, 20, 3)),
    ],
)
def test_a_result_has_the_leading_axes_that_were_given(shape, domain, range_, wanted):
    given = numbers(*shape)
    flat, restore = flatten(given, domain, range_)
    np.testing.assert_array_equal(flat, given.ravel())
    made = numbers(size_of(range_))
    np.testing.assert_array_equal(restore(made), made.reshape(wanted))


@pytest.mark.parametrize("domain", [(2, 3), OutIn((2, 3)), {"a": (4,), "b": (1, 2)}, [(5,), (1,)]])
def test_what_is_flat_stays_as_it_is(domain):
    given = numbers(6)
    flat, restore = flatten(given, domain, (9,))
    assert flat is given and restore(given) is given
    given = numbers(600)
    assert flatten(given, (20, 30), (20, 30))[0] is given


def test_of_a_library_that_takes_one_unknown_size_alone():
    torch = pytest.importorskip("torch")
    weights, bias = torch.ones(2, 2, 3), torch.zeros(3)
    assert flatten(weights, (4, 3), (4, 3))[0].shape == (12,)
    assert flatten((weights, bias), (5, 3), (5, 3))[0].shape == (15,)


@pytest.mark.parametrize("kind", [tuple, list, Pair._make])
@pytest.mark.parametrize(
    "weights, bias, domain, axis",
    [
        ((2, 3), 3, (3, 3), 0),
        ((2, 2, 3), 3, (5, 3), 0),
        ((0, 3), 3, (1, 3), 0),
        ((3, 3, 4, 2), 8, InChannels((10, 8)), 0),
        ((4, 6), 4, OutIn((4, 7)), 1),
        ((4, 2, 3), 4, OutIn((4, 7)), 1),
        ((4, 0), 4, OutIn((4, 1)), 1),
    ],
)
def test_pairs_of_weights_and_a_bias(kind, weights, bias, domain, axis):
    pair = kind([numbers(*weights), -1 - numbers(bias)])
    flat, restore = flatten(pair, domain, domain)
    matrix = flat.reshape(domain)
    np.testing.assert_array_equal(np.take(matrix, -1, axis), pair[1])
    np.testing.assert_array_equal(np.delete(matrix, -1, axis).ravel(), pair[0].ravel())
    back = restore(2 * flat)
    assert type(back) is type(pair)
    for made, given in zip(back, pair, strict=True):
        np.testing.assert_array_equal(made, 2 * given)


class TestBlocks:
    DOMAIN = {"a": (2, 2), ("w", "b"): (3, 2), "c": (1,)}  # noqa: RUF012

    def test_come_back_by_their_keys_in_the_order_given(self):
        given = OrderedDict(b=numbers(2), c=7 + numbers(1), w=10 + numbers(2, 2), a=numbers(2, 2))
        flat, restore = flatten(given, self.DOMAIN, self.DOMAIN)
        np.testing.assert_array_equal(flat, [0, 1, 2, 3, 10, 11, 12, 13, 0, 1, 7])
        back = restore(flat + 1)
        assert type(back) is OrderedDict and list(back) == list(given)
        for key, value in given.items():
            np.testing.assert_array_equal(back[key], value + 1)

    @pytest.mark.parametrize("kind", [list, tuple, Pair._make])
    def test_in_a_row(self, kind):
        given = kind([numbers(2), numbers(3)])
        flat, restore = flatten(given, [(2,), (3,)], [(2, 1), (1, 3)])
        np.testing.assert_array_equal(flat, [0, 1, 0, 1, 2])
        back = restore(flat)
        assert type(back) is type(given)
        np.testing.assert_array_equal(back[0], [0, 1])
        np.testing.assert_array_equal(back[1], [0, 1, 2])

    def test_of_one(self):
        given = [numbers(2, 2)]
        flat, restore = flatten(given, [(2, 2)], [(2, 3)])
        assert np.shares_memory(flat, given[0])
        np.testing.assert_array_equal(flat, [0, 1, 2, 3])
        assert restore(numbers(6))[0].shape == (2, 3)

    def test_of_many(self):
        domain = [(1,)] * 300
        assert flatten([numbers(1)] * 300, domain, domain)[0].shape == (300,)
        assert same_form(domain, list(domain))

    def test_parts_are_as_they_are(self):
        parts, restore = parts_of((1, 2), [(2,), (3,)])
        assert parts == [1, 2] and restore([3, 4]) == (3, 4)


FLAT = "what would do: a flat array of shape ({},)"
FOLDS = FLAT + "; an array of shape {}, or with {} axes that fold into it"
BESIDE = FOLDS + "; a pair (weights, bias) of shapes {} and {}"
AB = "what would do: a dict with the keys ['a', 'b']; a flat array of shape ({},)"
TWO = "what would do: a list of 2 vectors; a flat array of shape (4,)"
DRAWN = "\n    v  (4, 2)\n    op (3, 2)\n        ≠  ="
DRAWN_WEIGHTS = "\n    weights (2, 2)\n    op      (2, 3)\n             =  ≠"
DRAWN_PART = "\n    v[1] (3,)\n    op   (2,)\n          ≠"
REFUSED = [
    (
        zeros(4, 2),
        (3, 2),
        "v has shape (4, 2); " + BESIDE.format(6, (3, 2), "leading", (2, 2), (2,)) + DRAWN,
    ),
    (
        zeros(5),
        OutIn((2, 3)),
        "v has shape (5,); " + BESIDE.format(6, (2, 3), "trailing", (2, 2), (2,)),
    ),
    (
        zeros(3, 3),
        InChannels((9, 8)),
        "v has shape (3, 3); " + BESIDE.format(72, (9, 8), "leading", (8, 8), (8,)),
    ),
    (zeros(2, 2), {"a": (2,), "b": (2,)}, "v has shape (2, 2); " + AB.format(4)),
    (zeros(4, 1), [(2,), (2,)], "v has shape (4, 1); " + TWO),
    (zeros(), (2, 3), "v has shape (); " + BESIDE.format(6, (2, 3), "leading", (1, 3), (3,))),
    (
        (zeros(2, 2), zeros(3)),
        (3, 3),
        "v is a pair of shapes (2, 2) and (3,); "
        + BESIDE.format(9, (3, 3), "leading", (2, 3), (3,))
        + DRAWN_WEIGHTS,
    ),
    (
        (zeros(3), zeros(3)),
        OutIn((3, 2)),
        "v is a pair of shapes (3,) and (3,); "
        + BESIDE.format(6, (3, 2), "trailing", (3, 1), (3,)),
    ),
    (
        (zeros(2, 3), zeros(3)),
        (0, 3),
        "v is a pair of shapes (2, 3) and (3,); " + FOLDS.format(0, (0, 3), "leading"),
    ),
    (
        (zeros(2, 3), zeros(3)),
        OutIn((3, 0)),
        "v is a pair of shapes (2, 3) and (3,); " + FOLDS.format(0, (3, 0), "trailing"),
    ),
    (
        (zeros(2, 3), zeros(2)),
        (2, 3, 4),
        "v is a pair of shapes (2, 3) and (2,); " + FOLDS.format(24, (2, 3, 4), "leading"),
    ),
    ([zeros(2)], (2,), "v is a list of length 1; " + FOLDS.format(2, (2,), "leading")),
    (
        (zeros(2), 1),
        (2,),
        "v is a pair of an array of shape (2,) and a int; " + FOLDS.format(2, (2,), "leading"),
    ),
    ([zeros(1)] * 3, (2,), "v is a list of length 3; " + FOLDS.format(2, (2,), "leading")),
    ("xy", (2,), "v is a str; " + FOLDS.format(2, (2,), "leading")),
    ({"a": 1}, (2,), "v is a dict with the keys ['a']; " + FOLDS.format(2, (2,), "leading")),
    (
        {"a": zeros(2)},
        {"a": (2,), "b": (1,)},
        "v is a dict with the keys ['a'], which lacks ['b']; " + AB.format(3),
    ),
    (
        {"a": zeros(2), "b": zeros(1), "c": zeros(1)},
        {"a": (2,), "b": (1,)},
        "v is a dict with the keys ['a', 'b', 'c'], and no block has ['c']; " + AB.format(3),
    ),
    (
        {"c": zeros(2)},
        {("a", "b"): (2, 2)},
        "v is a dict with the keys ['c'], which lacks ['a', 'b'], and no block has ['c']; "
        + AB.format(4),
    ),
    ([zeros(2)], [(2,), (2,)], "v is a list of length 1; " + TWO),
    ([zeros(2)] * 3, [(2,), (2,)], "v is a list of length 3; " + TWO),
    (
        [zeros(2)] * 2,
        {"a": (2,), "b": (2,)},
        "v is a pair of shapes (2,) and (2,); " + AB.format(4),
    ),
    ({"a": zeros(2)}, [(2,), (2,)], "v is a dict with the keys ['a']; " + TWO),
    (
        [zeros(2), zeros(3)],
        [(2,), (2,)],
        "v[1] has shape (3,); " + FOLDS.format(2, (2,), "leading") + DRAWN_PART,
    ),
]


@pytest.mark.parametrize("given, domain, words", REFUSED)
def test_refused(given, domain, words):
    with pytest.raises(ValueError, match=rf"\A{re.escape(words)}\Z"):
        flatten(given, domain, domain)


@pytest.mark.parametrize("rows", [2, 4])
def test_a_pair_for_what_maps_to_another_shape_is_refused(rows):
    words = rf"maps shape \(3, 3\) to \({rows}, 3\), which is no \(weights"
    with pytest.raises(ValueError, match=words):
        flatten((zeros(2, 3), zeros(3)), (3, 3), (rows, 3))


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
def test_a_bias_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"v is a pair of shapes \(2, 3\) and "):
        flatten((zeros(2, 3), zeros(*shape)), (3, 3), (3, 3))


OF_ANOTHER_LIBRARY = {
    "blocks": (
        {"a": zeros(2), "b": (zeros(2), strict.zeros(3))},
        {"a": (2,), "b": [(2,), (3,)]},
        "v['b'][0] is of numpy, v['b'][1] of array_api_strict",
    ),
    "a block": ([strict.zeros(2), zeros(3)], [(2,), (3,)], "v[0] is of array_api_strict, v[1] of"),
    "a bias": ((zeros(1, 3), strict.zeros(3)), (2, 3), "v[0] is of numpy, v[1] of"),
}


@pytest.mark.parametrize(
    "given, domain, words", OF_ANOTHER_LIBRARY.values(), ids=OF_ANOTHER_LIBRARY
)
def test_parts_of_two_libraries_are_named(given, domain, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        flatten(given, domain, domain)


@pytest.mark.parametrize(
    "left, right, wanted",
    [
        ((2, 3), (2, 3), True),
        ((2, 3), (3, 2), False),
        ((3, 2), (2, 3), False),
        ((2, 3), OutIn((2, 3)), False),
        (OutIn((2, 3)), OutIn((2, 3)), True),
        ([(2,), (3,)], [(2,), (3,)], True),
        ([(2,), (3,)], [(3,), (2,)], False),
        ([(2,)], [(2,), (3,)], False),
        ([(2,), (3,)], [(2,)], False),
        ({"a": (2,)}, {"a": (2,)}, True),
        ({"a": (2,)}, {"a": (3,)}, False),
        ({"a": (2,)}, {"a": (2,), "b": (3,)}, False),
        ({"b": (2,)}, {"a": (2,)}, False),
        ({"a": (2,), "b": (2,)}, {"b": (2,), "a": (2,)}, False),
        ({"a": (2,), "b": [(2,), (3,)]}, {"a": (2,), "b": [(2,), (4,)]}, False),
        ({"a": (2,), "b": (2,)}, {"a": (3,), "b": (2,)}, False),
    ],
)
def test_same_form(left, right, wanted):
    assert same_form(left, right) is wanted


def test_layouts():
    for layout, kind in (("in,out", tuple), ("out,in", OutIn), ("in,channels", InChannels)):
        assert as_layout(layout) == layout
        assert type(in_layout((2, 3), layout)) is kind
    for layout in ("out, in", "a", "z"):
        with pytest.raises(ValueError, match=f"layout = '{layout}': one of .* would do"):
            as_layout(layout)


def test_no_array_has_more_than_64_axes():
    flat = zeros(1)
    assert unflatten(flat, (1,) * 64).ndim == 64
    assert unflatten(flat, (1,) * 65) is flat
