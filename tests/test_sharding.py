"""Vectors split over a mesh: plans, which know no array, and two real processes of JAX."""

from __future__ import annotations

import json
import math

import pytest
from processes import run_together

from kronops.sharding import Task, plan_sharded

LINE = (("x", 4),)
SQUARE = (("x", 2), ("y", 2))


def factors(*sizes, stage=0):
    return tuple(Task(stage, axis, axis + 1, size) for axis, size in enumerate(sizes))


def plan(mesh, layout, *sizes, tasks=None):
    return plan_sharded(mesh, sizes, layout, factors(*sizes) if tasks is None else tasks)


class TestPlans:
    def test_local_factors_first_and_one_exchange_there_and_back(self):
        made = plan(LINE, (("x",), (), ()), 8, 12, 16)
        assert [step if isinstance(step, int) else "move" for step in made.steps] == [
            1, 2, "move", 0, "move",
        ]  # fmt: skip
        local = 8 * 12 * 16 // 4
        assert made.sent == 2 * (local - local // 4)

    def test_nothing_moves_where_every_axis_is_whole(self):
        made = plan_sharded(LINE, (8, 12, 4), ((), (), ("x",)), factors(8, 12))
        assert made.moves == () and made.steps == (0, 1)

    def test_two_axes_take_three_and_not_four(self):
        made = plan(SQUARE, (("x",), ("y",)), 8, 12)
        assert made.count == 3
        assert made.moves[1].devices == 4  # both at once

    def test_stages_of_one_chain_share_exchanges(self):
        tasks = (*factors(8, 12), Task(1), *factors(8, 12, stage=2))
        made = plan(LINE, (("x",), ()), 8, 12, tasks=tasks)
        assert made.count == 2
        order = [step for step in made.steps if isinstance(step, int)]
        assert order.index(2) == 2 and set(order[:2]) == {0, 1}

    def test_the_layout_that_came_in_goes_out(self):
        for layout in ((("x", "y"), ()), ((), ("y", "x")), (("y",), ("x",))):
            made = plan(SQUARE, layout, 8, 12)
            state = list(layout)
            for move in made.moves:
                assert state[move.source][-len(move.names) :] == move.names
                state[move.source] = state[move.source][: -len(move.names)]
                state[move.target] += move.order
            assert tuple(state) == layout

    def test_factors_that_shrink_are_followed(self):
        made = plan(LINE, (("x",), ()), 8, 12, tasks=(Task(0, 0, 1, 4), Task(0, 1, 2, 4)))
        assert made.made == (4, 4)
        assert made.moves[0].numbers == 8 * 4 // 4 and made.moves[1].numbers == 4 * 4 // 4

    def test_parts_are_made_equal_by_zeros(self):
        made = plan(LINE, (("x",), ()), 8, 6)
        assert made.moves[0].numbers == 2 * 8  # 6 is 8 over 4 devices
        assert made.sent == 2 * (16 - 4)

    def test_no_plan_for_one_axis_or_results_that_do_not_divide(self):
        assert plan(LINE, (("x",),), 8) is None
        assert plan(LINE, (("x",), ()), 8, 12, tasks=(Task(0, 0, 1, 6),)) is None

    def test_costs(self):
        made = plan(LINE, (("x",), ()), 8, 12)
        assert made.flops == (2 * 12 - 1) * 24 + (2 * 8 - 1) * 24
        assert made.touched == 2 * (24 + 24)
        assert made.held == 24 + 2 * 24

    def test_many_axes_are_planned_quickly(self):
        layout = (("x",), ("y",), ("z",)) + ((),) * 9
        made = plan((("x", 2), ("y", 2), ("z", 2)), layout, *(4,) * 12)
        assert made.count == 5


# -- two processes of two devices each -------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    pytest.importorskip("jax", reason="JAX is not installed")
    said = run_together("sharded_worker.py", 2, seconds=300)
    found = []
    for text, status in said:
        assert status == 0, text[-4000:]
        (line,) = (line for line in text.splitlines() if line.startswith("results:"))
        found.append(json.loads(line.removeprefix("results:")))
    return found


@pytest.mark.xdist_group("processes of JAX")
class TestTwoProcesses:
    @pytest.mark.parametrize(
        "name",
        [
            "over_one_axis",
            "over_two_axes",
            "without_types",
            "sums_and_products",
            "structured_vectors",
            "many_columns",
            "without_a_plan",
            "factors_on_every_device_and_in_parts",
            "conjugate_gradients",
        ],
    )
    def test_is_right(self, results, name):
        for result in results:
            fine, said = result[name]
            assert fine, said

    def test_there_are_two_of_two_devices(self, results):
        assert [(result["processes"], result["devices"]) for result in results] == [(2, 4)] * 2

    def test_damping_takes_no_more_exchanges_than_the_product(self, results):
        fine, said = results[0]["damping_is_planned_as_one"]
        assert fine, said
        assert [name for name, _ in said] == ["all-to-all"] * 2

    def test_axes_that_do_not_divide(self, results):
        fine, said = results[0]["axes_that_do_not_divide"]
        assert fine, said
        assert "(6, 8) does not divide by 4" in said and "device_put" in said

    def test_bytes_are_those_of_the_plan(self, results):
        fine, rows = results[0]["bytes_of_the_program"]
        assert fine, rows
        layouts = [
            (LINE, (("x",), (), ())),
            (LINE, ((), ("x",), ())),
            (SQUARE, (("x",), ("y",), ())),
        ]
        for (mesh, layout), (_, found) in zip(layouts, rows, strict=True):
            made = plan(mesh, layout, 8, 12, 16)
            assert [name for name, _ in found] == ["all-to-all"] * made.count
            shares = [(move.devices - 1) / move.devices for move in made.moves]
            sent = sum(math.prod(pair) for pair in zip([n for _, n in found], shares, strict=True))
            assert sent == pytest.approx(8 * made.sent, rel=0.1)
