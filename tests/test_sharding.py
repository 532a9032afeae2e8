"""Vectors split over a mesh: plans, which know no array, and two real processes of JAX."""

from __future__ import annotations

import json
import math
import signal

import numpy as np
import pytest
from processes import run_together

import kronops
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
        assert made.held == 24 + 24 + 2 * 24

    def test_many_axes_are_planned_quickly(self):
        layout = (("x",), ("y",), ("z",)) + ((),) * 9
        made = plan((("x", 2), ("y", 2), ("z", 2)), layout, *(4,) * 12)
        assert made.count == 5


class TestExplain:
    def setup_method(self):
        self.op = kronops.kron(np.eye(8) + 1, np.eye(12) + 1)

    def said(self, **options):
        return self.op.explain(**options).split("on a mesh")[1]

    def test_of_a_mesh_alone(self):
        said = self.said(mesh={"x": 2, "y": 2})
        assert "split along the first axis, as no spec is given" in said
        assert "multiply, KroneckerOperator: 2 redistributions, 288 B sent" in said
        assert "multiply_inverse, KroneckerOperator: 2 redistributions, 288 B sent" in said

    def test_of_a_spec(self):
        assert "3 redistributions" in self.said(mesh={"x": 2, "y": 2}, spec=("x", "y"))
        assert "864 B sent" in self.said(mesh={"x": 4}, spec=(None, "x"), columns=3)

    def test_exact_damping_is_not_factorised_for_it(self):
        self.op = self.op.damped(0.5)
        said = self.said(mesh={"x": 4})
        assert "multiply_inverse, KroneckerEigenOperator: 2 redistributions" in said
        assert "_factor_spectra" not in vars(self.op.base)

    def test_what_is_not_planned_is_said(self):
        self.op = kronops.block_diag(self.op, kronops.DenseOperator(np.eye(8)))
        said = self.op.explain(mesh={"x": 4})
        assert "block 0:" in said
        assert "multiply, DenseOperator: no plan: left to the engine" in said

    @pytest.mark.parametrize(
        "mesh, spec, words",
        [
            ({"x": 5}, None, r"axis 0 of the shape \(8, 12\) does not divide by the 5 devices"),
            ({"x": 4}, ("y",), "the names \\['x'\\] or tuples of them would do"),
            ({"x": 4}, ("x", "x"), "each name once"),
            ({"x": 4}, (None, None, "x"), "with 2 axes"),
            ({"x": 4}, (5,), r"spec = \(5,\): for an array with 2 axes"),
            ({"x": 4}, ({"x": 1}, None), "for an array with 2 axes"),
            ({"x": 0}, None, r"mesh\['x'\] = 0: an integer ≥ 1"),
            ({"x": 2.5}, None, r"mesh\['x'\] = 2.5: an integer ≥ 1"),
            ({"x": "2"}, None, r"mesh\['x'\] = '2': an integer ≥ 1"),
        ],
    )
    def test_what_does_not_fit(self, mesh, spec, words):
        with pytest.raises(ValueError, match=words):
            self.op.explain(mesh=mesh, spec=spec)

    @pytest.mark.parametrize("spec", [5, "x", 2.0])
    def test_what_is_no_spec(self, spec):
        with pytest.raises(
            TypeError, match=r"spec is a .*: a jax.sharding.PartitionSpec, or a tuple"
        ):
            self.op.explain(mesh={"x": 4}, spec=spec)

    def test_what_is_no_mesh(self):
        with pytest.raises(TypeError, match="a dict of the names and sizes"):
            self.op.explain(mesh=4)


class TestPrediction:
    def test_split_vectors_follow_the_plan(self):
        made = kronops.plan([8, 12], devices=4, dtype="float64")
        one = made["split along one axis"]
        wanted = plan(LINE, (("x",), ()), 8, 12)
        assert one.redistributions == wanted.count
        assert one.moved == 8 * wanted.sent
        assert one.memory == 8 * (wanted.held + 8 * 8 + 12 * 12)
        assert made["split along two axes"].redistributions == 3

    def test_seconds_are_counts_over_rates(self):
        rates = {"flops": 10.0, "local_bandwidth": 7.0, "bandwidth": 5.0}
        one = kronops.plan([8, 12], devices=4, **rates)["split along one axis"]
        wanted = plan(LINE, (("x",), ()), 8, 12)
        seconds = wanted.flops / 10 + 4 * wanted.touched / 7 + 4 * wanted.sent / 5
        assert one.seconds == pytest.approx(seconds)

    def test_vectors_apart_send_nothing(self):
        apart = kronops.plan([8, 12], vectors=6, devices=4)["vectors apart"]
        assert apart.moved == 0
        whole = kronops.plan([8, 12], vectors=2)["whole on each device"]
        assert apart.seconds == whole.seconds  # two of six each

    def test_out_of_core_reads_and_writes_twice(self):
        made = kronops.plan([100, 100, 100], dtype="float32", memory=1e6, disk=1e3)
        assert made["out of core"].moved == 4 * 4 * 100**3
        assert made["out of core"].memory <= 1e6
        assert made["out of core"].seconds > 4 * 4 * 100**3 / 1e3
        assert made.best.name == "out of core" and not made["whole on each device"].fits

    def test_layers_are_balanced_by_their_cubes(self):
        layers = {"a": [300, 300], "b": [200, 200], "c": [200, 200], "d": [100]}
        made = kronops.plan(layers, devices=2, bandwidth=1e30, local_bandwidth=1e30)
        most = 2 * 300**3 + 2 * 300**2 * 600  # the largest layer alone, or nearly
        rest = 2 * (2 * 200**3 + 2 * 200**2 * 400) + 100**3 + 2 * 100 * 100
        assert made["layers spread"].seconds == pytest.approx(max(most, rest) / 1e13)
        assert made["all on each device"].seconds == pytest.approx((most + rest) / 1e13)
        squares = 2 * 300**2 + 4 * 200**2 + 100**2
        assert made["all on each device"].moved == 4 * squares

    def test_more_devices_than_layers(self):
        layers = {"a": [8, 8], "b": [8, 8]}
        few, many = (kronops.plan(layers, devices=n)["layers spread"] for n in (2, 8))
        assert few.seconds < many.seconds  # which sends more, and does no less

    def test_dtypes(self):
        assert kronops.plan([8], dtype="bfloat16")["out of core"].moved == 2 * 2 * 8
        real, complex_ = (kronops.plan([8, 8], dtype=d) for d in ("float64", "complex128"))
        assert complex_["out of core"].moved == 2 * real["out of core"].moved
        assert complex_["whole on each device"].seconds > 2 * real["whole on each device"].seconds
        assert kronops.plan([8, 8], dtype=np.complex128).strategies == complex_.strategies

    def test_shows(self):
        made = kronops.plan([8, 12], devices=4)
        lines = str(made).splitlines()
        assert lines[0] == "8 x 12: 96 numbers (float32), 1 vector, 4 devices"
        assert len({len(line) for line in lines[1:]}) == 1
        assert repr(made) == f"Prediction({lines[0]!r}, best={made.best.name!r})"
        with pytest.raises(KeyError, match="one of"):
            made["elsewhere"]

    @pytest.mark.parametrize(
        "arguments, error, words",
        [
            ({"shapes": []}, ValueError, "shapes is empty"),
            ({"shapes": {}}, ValueError, "shapes is empty: the sizes of one layer"),
            ({"shapes": 8}, TypeError, "shapes is a int: a list"),
            ({"shapes": {"first": 8}}, TypeError, r"shapes\['first'\] is a int: a list"),
            ({"shapes": [(1, 2, 3)]}, ValueError, r"shapes\[0\] = \(1, 2, 3\): a size or a pair"),
            ({"shapes": [10**30] * 12}, OverflowError, r"shapes: vectors of more than 1e\+60"),
            ({"devices": 0}, ValueError, "devices = 0"),
            ({"devices": 10**30}, ValueError, "at most 1000000000 would do"),
            ({"bandwidth": 0.0}, ValueError, "bandwidth = 0.0"),
            ({"memory": float("inf")}, ValueError, "memory = inf: a finite number"),
            ({"flops": "fast"}, TypeError, "flops is a str"),
            ({"dtype": "int8"}, TypeError, "dtype = 'int8': a floating one would do"),
            ({"dtype": {}}, TypeError, "dtype = {}: a floating one would do"),
            ({"dtype": "single?"}, TypeError, "dtype = 'single\\?': a floating one would do"),
        ],
    )
    def test_refuses(self, arguments, error, words):
        with pytest.raises(error, match=words):
            kronops.plan(**{"shapes": [8], **arguments})


# -- one device ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (24,), (24, 3)], ids=str)
def test_a_mesh_of_one_device(shape):
    """The program of many devices runs on one; its vectors have a sharding all the same."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    mesh = jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((n, n)).astype(np.float32) for n in (4, 6))
    v = rng.standard_normal(shape).astype(np.float32)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    op, x = kronops.kron(*map(jax.numpy.asarray, (A, B))), jax.device_put(v, split)
    multiply = op.matmat if shape[0] == 24 and len(shape) == 2 else op.multiply
    want = (np.kron(A, B) @ v.reshape(24, -1)).reshape(shape)
    for product in (multiply, jax.jit(multiply)):
        y = product(x)
        np.testing.assert_allclose(np.asarray(y), want, rtol=1e-4, atol=1e-4)
        assert y.sharding.is_equivalent_to(x.sharding, y.ndim) and y.sharding.spec[0] == "x"


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
            "derivatives",
            "the_page",
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

    def test_memory_is_that_of_the_plan(self, results):
        fine, found = results[0]["memory_of_the_program"]
        assert fine, found
        predicted = kronops.plan([64, 64, 64], dtype="float64", devices=4)["split along one axis"]
        assert found == pytest.approx(predicted.memory, rel=0.1)


@pytest.mark.xdist_group("processes of JAX")
@pytest.mark.parametrize("lost_by", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_is_lost_ends_the_other_with_an_error(lost_by):
    """One that is gone, and one that is there but stands still."""
    pytest.importorskip("jax", reason="JAX is not installed")
    if not hasattr(signal, lost_by):
        pytest.skip(f"no {lost_by} here")
    (text, status), _ = run_together("lost_worker.py", 2, lost_by, seconds=120, first=True)
    assert "products begin" in text
    assert status not in (None, 0), "it hangs"
    assert "another task died" in text and "heartbeat" in text
