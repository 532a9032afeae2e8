"""Plans of Kronecker products: what they say is followed on shapes, without any array."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronops.backends.blas import Blas
from kronops.backends.xla import Xla
from kronops.planning import (
    STRATEGIES,
    TO_BACK,
    TO_FRONT,
    Factor,
    Group,
    Machine,
    Plan,
    Step,
    _kinds,
    _merge,
    _seconds,
    _step,
    in_pieces,
    is_gathered,
    plan,
    shrinking_first,
    stretch,
    to_the_back,
    to_the_front,
)

MACHINE = Machine(8, 5e10, 3e-8, 1e-6, 8, 1.6e11, 2e10, cache=2**19, merged=64, work=2**18)


class FakeKernels:
    """Kernels for up to three factors of at most eight rows and columns."""

    def seconds(self, shapes, right):
        few = len(shapes) <= 3 and max(max(shape) for shape in shapes) <= 8
        return 1e-10 * len(shapes) if few else None


FAKE = FakeKernels()


@st.composite
def factors(draw):
    kind = draw(st.sampled_from(("dense", "dense", "diagonal", "identity", "operator")))
    rows = draw(st.integers(1, 12) | st.sampled_from((16, 64, 100, 1000)))
    square = kind in ("diagonal", "identity") or draw(st.booleans())
    return Factor(rows, rows if square else draw(st.integers(1, 100)), kind)


MACHINES = st.builds(
    lambda cache, merged, work, kernels, compiler, turning: MACHINE._replace(
        cache=cache, merged=merged, work=work, kernels=kernels, compiler=compiler, turning=turning
    ),
    cache=st.sampled_from((0, 1024, 2**15, 2**19)),
    merged=st.sampled_from((0, 1, 8, 64)),
    work=st.sampled_from((0, 2**10, 2**18)),
    kernels=st.sampled_from((None, FAKE)),
    compiler=st.sampled_from((None, Xla(4), Xla(8))),
    turning=st.sampled_from((None, Xla(4), Xla(8))),
)
CASES = st.tuples(
    st.lists(factors(), min_size=1, max_size=7).map(tuple),
    st.integers(1, 40),
    st.integers(1, 40),
    MACHINES,
)


def every_plan(case):
    """The chosen plan, and those that were not."""
    known, left, right, machine = case
    chosen = plan(*case)
    made = [strategy(*case) for strategy in STRATEGIES]
    others = [Plan(known, left, right, tuple(sweeps), machine) for sweeps in made if sweeps]
    assert chosen.seconds == min((other.seconds for other in others), default=0)
    assert chosen in others or {factor.kind for factor in known} == {"identity"}
    return [chosen, *others]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(CASES)
def test_the_steps_make_the_product(case):
    """Each view is that of the vector at that time; nothing is left out, nothing is done twice."""
    known, left, right, _ = case
    for made in every_plan(case):
        sizes = [factor.columns for factor in known]
        done, spaces = [], []
        for sweep in made.sweeps:
            first, last = min(s.start for s in sweep.steps), max(s.stop for s in sweep.steps)
            before, after = left * math.prod(sizes[:first]), math.prod(sizes[last:]) * right
            inside = sizes[first:last]
            assert (sweep.before, sweep.columns, sweep.after) == (before, math.prod(inside), after)
            largest = math.prod(inside)
            for step in sweep.steps:
                group = slice(step.start, step.stop)
                wanted = math.prod(sizes[: step.start]), math.prod(sizes[step.stop :])
                assert sweep.view(step) == (
                    left * wanted[0],
                    math.prod(sizes[group]),
                    wanted[1] * right,
                )
                assert step.shapes == tuple((f.rows, f.columns) for f in known[group])
                assert step.rows == math.prod(factor.rows for factor in known[group])
                done += range(step.start, step.stop)
                sizes[group] = [factor.rows for factor in known[group]]
                largest = max(largest, math.prod(sizes[first:last]))
            assert sweep.rows == math.prod(sizes[first:last])
            assert sweep.largest == largest
            needed = sweep.before_piece * largest * sweep.after_piece
            spaces.append(0 if sweep.whole or len(sweep.steps) == 1 else needed)
        assert made.workspace == max(spaces, default=0)
        identities = [k for k, factor in enumerate(known) if factor.kind == "identity"]
        assert sorted(done + identities) == list(range(len(known)))
        assert sizes == [factor.rows for factor in known]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(CASES)
def test_a_step_is_of_one_kind(case):
    known, _, _, machine = case
    for made in every_plan(case):
        for sweep, step in made.steps:
            members = known[step.start : step.stop]
            kind = "dense" if step.kind in ("compiled", TO_FRONT, TO_BACK) else step.kind
            assert {factor.kind for factor in members} == {kind}
            if step.kind == "dense" and len(members) > 1:
                assert max(step.rows, step.columns) <= machine.merged
            if step.kind == "diagonal" and len(members) > 1:
                assert machine.merged and step.rows <= machine.cache // machine.itemsize
            if step.kind == "compiled":
                assert machine.kernels.seconds(step.shapes, 2)
            if step.kind == "operator":
                assert len(members) == len(sweep.steps) == 1
                assert sweep.whole


@settings(max_examples=120, deadline=None, derandomize=True)
@given(CASES)
def test_pieces_stay_in_the_cache(case):
    machine = case[-1]
    room = machine.cache // machine.itemsize
    for made in every_plan(case):
        for sweep in made.sweeps:
            assert 1 <= sweep.before_piece <= sweep.before
            assert 1 <= sweep.after_piece <= sweep.after
            assert sweep.after_piece == sweep.after or sweep.before_piece == 1
            befores = range(0, sweep.before, sweep.before_piece)
            afters = range(0, sweep.after, sweep.after_piece)
            assert sweep.pieces == len(befores) * len(afters)
            if len(sweep.steps) > 1:
                assert sweep.before_piece * sweep.largest * sweep.after_piece <= room
            if sweep.after_piece < sweep.after and any(s.kind == "compiled" for s in sweep.steps):
                # the ends are views of one stride
                assert (sweep.steps[0].right, sweep.steps[-1].left) == (1, 1)
        assert made.workspace <= room


@settings(max_examples=50, deadline=None, derandomize=True)
@given(CASES)
def test_without_a_cache_to_fill_vectors_are_whole(case):
    known, left, right, machine = case
    made = plan(known, left, right, machine._replace(cache=0, kernels=None))
    assert made.workspace == 0
    assert all(len(sweep.steps) == 1 for sweep in made.sweeps)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(CASES)
def test_no_other_groups_cost_less(case):
    known, left, right, machine = case
    known = known[:4]

    def cost(groups):
        """From the last group to the first, each on the vector as it then is."""
        sizes, total = [factor.columns for factor in known], 0.0
        for group in reversed(groups):
            before, after = math.prod(sizes[: group.start]), math.prod(sizes[group.stop :])
            total += _seconds(_step(known, group, before, after), left, right, machine)
            sizes[group.start : group.stop] = [f.rows for f in known[group.start : group.stop]]
        return total

    def every(start):
        if start == len(known):
            yield []
        for stop in range(start + 1, len(known) + 1):
            for kind in _kinds(known[start:stop], machine, "dense"):
                yield from ([Group(start, stop, kind), *rest] for rest in every(stop))

    assert cost(_merge(known, left, right, machine)) == pytest.approx(min(map(cost, every(0))))


def test_plans_are_kept():
    known = (Factor(3, 4), Factor(5, 6))
    assert plan(known, 2, 3, MACHINE) is plan(known, 2, 3, MACHINE)
    assert plan(known, 2, 4, MACHINE) is not plan(known, 2, 3, MACHINE)


class TestMerging:
    def test_small_factors(self):
        (step,) = [step for _, step in plan((Factor(2, 2),) * 5, 1, 1, MACHINE).steps]
        assert (step.rows, step.columns) == (32, 32)

    def test_up_to_a_size(self):
        machine = MACHINE._replace(merged=4)
        steps = [step for _, step in plan((Factor(2, 2),) * 5, 1, 1000, machine).steps]
        assert max(step.rows for step in steps) == 4

    def test_never(self):
        made = plan((Factor(2, 2),) * 5, 1, 1, MACHINE._replace(merged=0))
        assert [step.rows for _, step in made.steps] == [2] * 5

    def test_large_factors_stay_alone(self):
        assert len(plan((Factor(50, 50),) * 3, 1, 1, MACHINE).steps) == 3

    def test_diagonals(self):
        (step,) = [step for _, step in plan((Factor(9, 9, "diagonal"),) * 4, 1, 1, MACHINE).steps]
        assert (step.rows, step.kind) == (9**4, "diagonal")

    def test_diagonals_that_fit_into_the_cache(self):
        group = (Factor(4, 4, "diagonal"),) * 2  # 16 numbers of eight bytes
        for cache, kinds in ((128, ["diagonal"]), (127, [])):
            assert _kinds(group, MACHINE._replace(cache=cache), "dense") == kinds

    def test_identities_are_nothing(self):
        assert plan((Factor(9, 9, "identity"),) * 4, 1, 1, MACHINE).sweeps == ()

    @pytest.mark.parametrize(
        ("kind", "merged", "kinds"),
        [
            ("dense", 1, ["dense", "compiled"]),
            ("dense", 0, ["compiled"]),
            ("diagonal", 1, ["diagonal"]),
            ("diagonal", 0, []),
            ("identity", 0, ["identity"]),
            ("operator", 64, []),
        ],
    )
    def test_of_numbers(self, kind, merged, kinds):
        """Of the size one there is no smaller factor; kernels are for matrices."""
        machine = MACHINE._replace(merged=merged, kernels=FAKE)
        assert _kinds((Factor(1, 1, kind),) * 2, machine, "dense") == kinds


class TestOrder:
    @pytest.mark.parametrize(("shape", "first"), [((8, 12), 0), ((12, 8), 4)])
    def test_many_columns_are_left_where_vectors_are_long(self, shape, first):
        """What shrinks begins with the first factor, what stretches with the last."""
        machine = MACHINE._replace(merged=0, cache=0)
        assert plan((Factor(*shape),) * 5, 1, 1, machine).steps[0][1].start == first

    def test_of_shrinkage(self):
        """What stretches begins with the last; of one row or column nothing is divided by zero."""
        (*sweeps,) = shrinking_first((Factor(12, 8),) * 3, 1, 1, MACHINE._replace(merged=0))
        assert [sweep.steps[0].start for sweep in sweeps] == [2, 1, 0]
        assert [stretch(*shape) for shape in ((0, 4), (1, 4), (4, 1), (4, 0), (4, 4))] == [
            *(-0.75, -0.75),
            *(0.75, 0.75),
            0,
        ]

    def test_merging_never_hides_that_a_factor_shrinks(self):
        """Two are cheaper as one matrix where the first has not shrunk the vector before."""
        factors, machine = (
            (Factor(2, 20), Factor(30, 2), Factor(33, 20)),
            MACHINE._replace(call=1e-5),
        )
        best = plan(factors, 1, 256, machine)
        assert [(s.rows, s.columns) for s in best.sweeps] == [(2, 20), (33, 20), (30, 2)]
        merged = Plan(factors, 1, 256, tuple(shrinking_first(factors, 1, 256, machine)), machine)
        assert len(merged.sweeps) == 2
        assert best.flops < merged.flops / 2

    @pytest.mark.parametrize("known", [*itertools.permutations(((10, 100), (100, 100), (100, 10)))])
    def test_factors_that_shrink_come_first(self, known):
        steps = plan(tuple(Factor(*shape) for shape in known), 1, 1, MACHINE).steps
        assert [(step.rows, step.columns) for _, step in steps] == [
            (10, 100),
            (100, 100),
            (100, 10),
        ]

    @pytest.mark.parametrize("shapes", [*itertools.permutations(((20, 90), (70, 80), (95, 65)))])
    def test_flops_are_the_least_of_all_orders(self, shapes):
        def flops(order):
            sizes, total = [columns for _, columns in shapes], 0
            for k in order:
                rows, columns = shapes[k]
                total += math.prod(sizes) // columns * rows * (2 * columns - 1)
                sizes[k] = rows
            return total

        made = plan(tuple(Factor(*shape) for shape in shapes), 1, 1, MACHINE)
        assert made.flops == min(map(flops, itertools.permutations(range(3))))

    def test_of_square_factors_the_last_is_the_first(self):
        steps = plan((Factor(80, 80), Factor(90, 90), Factor(70, 70)), 1, 1, MACHINE).steps
        assert [step.start for _, step in steps] == [2, 1, 0]


class TestPieces:
    def test_long_vectors_are_swept_fewer_times_than_there_are_factors(self):
        known = (Factor(8, 8),) * 8
        made = plan(known, 1, 1, MACHINE)
        assert len(made.sweeps) < len(made.steps)
        assert not any(sweep.whole for sweep in made.sweeps)

    @pytest.mark.parametrize(
        ("left", "right", "room", "made"),
        [(4, 4, 10, (2, 4, 2)), (1, 1000, 70, (1, 64, 16))],
        ids=("rows", "columns"),
    )
    def test_are_as_large_as_the_cache(self, left, right, room, made):
        """Whole rows where they fit, and else as many registers of columns as do."""
        machine = MACHINE._replace(merged=0, cache=room * 9 * MACHINE.itemsize)
        (sweep,) = in_pieces((Factor(3, 3),) * 2, left, right, machine)
        assert (sweep.before_piece, sweep.after_piece, sweep.pieces) == made

    @pytest.mark.parametrize("kernels", (None, FAKE))
    def test_have_the_flops_of_the_whole(self, kernels):
        known, machine = (Factor(3, 3),) * 6, MACHINE._replace(merged=0, kernels=kernels)
        (sweep,) = sweeps = in_pieces(known, 4, 5, machine)
        assert len(sweep.steps) == (6 if kernels is None else 2)
        assert Plan(known, 4, 5, tuple(sweeps), machine).flops == 6 * (4 * 3**6 * 5) * 5

    def test_short_vectors_are_whole(self):
        assert plan((Factor(20, 20),) * 3, 1, 1, MACHINE).workspace == 0

    @pytest.mark.parametrize(("columns", "sweeps"), [(8, 3), (64, 2)])
    def test_vectors_are_cut_where_they_outgrow_the_next_cache(self, columns, sweeps):
        known = Factor(20, 20), Factor(30, 30), Factor(40, 40)
        made = plan(known, 1, columns, MACHINE)
        assert [len(made.sweeps), any(not sweep.whole for sweep in made.sweeps)] == [
            sweeps,
            columns == 64,
        ]


class TestKernels:
    def test_are_used_where_they_are_faster(self):
        made = plan((Factor(8, 8),) * 6, 1, 1, MACHINE._replace(kernels=FAKE))
        assert {step.kind for _, step in made.steps} == {"compiled"}
        assert max(len(step.shapes) for _, step in made.steps) == 3

    def test_are_not_where_there_are_none(self):
        made = plan((Factor(9, 9),) * 6, 1, 1, MACHINE._replace(kernels=FAKE))
        assert {step.kind for _, step in made.steps} == {"dense"}

    def test_go_from_the_last_factor_to_the_first(self):
        """So that both ends of a piece, on columns that lie apart, are views of one stride."""
        known = (Factor(2, 8),) * 3 + (Factor(8, 2),) * 3 + (Factor(100, 100),) * 2
        case = known, 1, 1, MACHINE._replace(merged=0, kernels=FAKE)
        orders = [[step.start for step in sweep.steps] for sweep in in_pieces(*case)]
        assert orders == [[7, 6], [5, 2], [1, 0]]

    def test_their_flops_are_those_of_factor_after_factor(self):
        known = (Factor(8, 7), Factor(5, 6), Factor(3, 8), Factor(40, 50))
        one_by_one = plan(known[:3], 9, 7, MACHINE._replace(merged=0))
        compiled = plan(known[:3], 9, 7, MACHINE._replace(merged=0, kernels=FAKE))
        assert {step.kind for _, step in compiled.steps} == {"compiled"}
        last_first = STRATEGIES[0](known[:3], 9, 7, MACHINE._replace(merged=0))
        assert compiled.flops == Plan(known[:3], 9, 7, tuple(last_first), MACHINE).flops
        assert one_by_one.flops <= compiled.flops


def test_operators_count_for_themselves():
    """Not among the flops, nor among the numbers that are read and written."""
    known = Factor(5, 4), Factor(3, 3, "diagonal"), Factor(2, 2, "operator")
    made = plan((*known, Factor(7, 7, "identity")), 2, 3, MACHINE._replace(merged=0, cache=0))
    assert [step.kind for _, step in made.steps] == ["operator", "diagonal", "dense"]
    numbers = 2 * (4 * 3 * 2 * 7) * 3
    assert made.flops == numbers + numbers // 4 * 5 * 7
    assert made.moved == 2 * numbers + numbers // 4 * (5 + 4)


class TestTurning:
    """Plans whose products move the factor's axis to the other end of the vector."""

    COMPILED = MACHINE._replace(cache=0, merged=0, far=math.inf, compiler=Xla(8), turning=Xla(8))

    @staticmethod
    def kinds(made):
        return {step.kind for _, step in made.steps}

    def test_one_vector_is_turned_to_the_front(self):
        made = plan((Factor(32, 32),) * 4, 1, 1, self.COMPILED)
        assert self.kinds(made) == {TO_FRONT}
        assert [step.start for _, step in made.steps] == [3, 2, 1, 0]
        assert str(made).splitlines()[0] == "A4 (32 x 32) on (32768, 32, 1), to the front"

    def test_tiny_factors_turn_it_to_the_back(self):
        made = plan((Factor(2, 2),) * 20, 1, 1, self.COMPILED)
        assert self.kinds(made) == {TO_BACK}
        assert [step.start for _, step in made.steps] == [*range(20)]

    @pytest.mark.parametrize(("left", "right"), [(1, 1000), (1000, 1)])
    def test_many_vectors_stay_where_they_are(self, left, right):
        """For then they would be transposed."""
        made = plan((Factor(64, 64),) * 2, left, right, self.COMPILED)
        assert self.kinds(made) == {"dense"}

    @pytest.mark.parametrize("kind", ("diagonal", "identity", "operator"))
    def test_dense_factors_alone(self, kind):
        known = (Factor(32, 32),) * 3 + (Factor(5, 5, kind),)
        assert self.kinds(plan(known, 1, 1, self.COMPILED)) <= {"dense", kind}

    def test_not_without_times_for_it(self):
        for strategy in (to_the_front, to_the_back):
            assert strategy((Factor(32, 32),) * 3, 1, 1, MACHINE) == []

    def test_kernels_leave_axes_where_they_are(self):
        machine = self.COMPILED._replace(kernels=FAKE, compiler=None, merged=64)
        for strategy, way in ((to_the_front, TO_FRONT), (to_the_back, TO_BACK)):
            sweeps = strategy((Factor(2, 2),) * 6, 1, 1, machine)
            assert {step.kind for sweep in sweeps for step in sweep.steps} == {way}

    def test_flops_are_those_of_the_order(self):
        known = (Factor(8, 7), Factor(5, 6), Factor(30, 40))
        front = Plan(known, 1, 1, tuple(to_the_front(known, 1, 1, self.COMPILED)), self.COMPILED)
        last_first = Plan(known, 1, 1, tuple(STRATEGIES[0](known, 1, 1, self.COMPILED)), MACHINE)
        assert front.flops == last_first.flops > 0

    @pytest.mark.parametrize("left", (1, 3))
    @pytest.mark.parametrize("right", (1, 5))
    @pytest.mark.parametrize("strategy", (to_the_front, to_the_back))
    def test_transpositions_are_paid_for(self, strategy, left, right):
        """One for each axis that lies on the side where a factor's axis comes from or goes to."""
        known = (Factor(2, 3), Factor(3, 2))
        sweeps = strategy(known, left, right, self.COMPILED)
        steps = [(sweep.view(step), step) for sweep in sweeps for step in sweep.steps]
        bare = sum(
            Xla(8).turned(step.kind, step.rows, step.columns, view[0] * view[2])
            for view, step in steps
        )
        passes = sum(sweep.seconds for sweep in sweeps) - bare
        wanted = Xla(8).transposed(6 * left, right) + Xla(8).transposed(6 * right, left)
        assert passes == pytest.approx(wanted)


class TestXla:
    """What the times of XLA's products say, in numbers that are not these times themselves."""

    def test_a_batch_of_products_needs_columns(self):
        assert not Xla(4).is_batched(8, 8, 4096, 8)
        assert Xla(4).is_batched(8, 8, 512, 512)

    def test_a_large_factor_is_not_copied_for_few_columns(self):
        assert not Xla(8).is_batched(512, 512, 512, 16)

    @pytest.mark.parametrize("itemsize", (4, 8, 16))
    def test_what_is_better_is_what_is_done(self, itemsize):
        xla = Xla(itemsize)
        for p, left, right in itertools.product((2, 5, 16, 64), (2, 30, 500), (2, 20, 300)):
            way = xla._batched if xla.is_batched(p, p, left, right) else xla._gathered
            assert xla.in_place(p, p, left, right) == way(p, p, left, right)

    def test_nothing_to_transpose_costs_nothing(self):
        assert Xla(4).transposed(1, 1000) == Xla(4).transposed(1000, 1) == 0
        assert Xla(4).transposed(10, 100) > 0


class TestBlas:
    """What the times of long products say, in numbers that are not these times themselves."""

    ONE, TWO = Blas(8, 5e10, 1), Blas(8, 5e10, 2)

    def test_threads_share_what_is_long(self):
        alone, shared = (blas.turned(TO_BACK, 64, 64, 4096) for blas in (self.ONE, self.TWO))
        assert alone / 2 < shared < alone
        short = [blas.turned(TO_BACK, 8, 8, 4096) for blas in (self.ONE, self.TWO)]
        assert short[0] == short[1]

    def test_a_hundred_threads_are_not_a_hundred_times_as_fast(self):
        four, many = (Blas(8, 5e10, threads).turned(TO_BACK, 64, 64, 4096) for threads in (4, 100))
        assert many == four

    def test_few_rows_are_not_worth_a_copy_of_the_factor(self):
        assert self.TWO.turned(TO_BACK, 100, 100, 127) == math.inf
        assert self.TWO.turned(TO_BACK, 100, 100, 128) < math.inf

    def test_two_large_factors_are_shared_where_they_lie(self):
        assert self.TWO.turned(TO_BACK, 512, 512, 512) == math.inf
        assert self.TWO.turned(TO_BACK, 512, 512, 513) < math.inf
        assert self.TWO.turned(TO_BACK, 128, 128, 128) < math.inf

    def test_whole_registers_are_computed(self):
        few, many = (self.ONE.turned(TO_BACK, rows, 6, 1000) for rows in (3, 8))
        assert few == many < self.ONE.turned(TO_BACK, 9, 6, 1000)

    def test_single_precision_is_turned_to_the_back(self):
        half = self.ONE._replace(itemsize=4)
        assert half.turned(TO_BACK, 32, 32, 4096) < half.turned(TO_FRONT, 32, 32, 4096)

    def test_rows_that_are_far_apart_are_turned_to_the_front(self):
        assert self.ONE.turned(TO_FRONT, 64, 64, 2**15) < self.ONE.turned(TO_BACK, 64, 64, 2**15)
        for rows, others in ((32, 2**16), (64, 2**14)):
            back, front = (self.ONE.turned(way, rows, rows, others) for way in (TO_BACK, TO_FRONT))
            assert back <= front

    def test_several_vectors_are_not_transposed(self):
        assert self.TWO.transposed(1, 1000) == self.TWO.transposed(1000, 1) == 0
        assert self.TWO.transposed(2, 1000) == math.inf


class TestTime:
    """A plan costs less than the product that it is for."""

    KINDS = ("dense", "diagonal", "identity", "operator")

    @pytest.mark.parametrize("size", (1, 2))
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("kernels", (None, FAKE))
    def test_of_seventy_factors(self, kind, size, kernels):
        known = (Factor(size, size, kind),) * 70
        start = time.process_time()
        made = plan(known, 1, 3, MACHINE._replace(kernels=kernels))
        assert time.process_time() - start < 2
        assert sum(len(step.shapes) for _, step in made.steps) == 70 * (kind != "identity")


class TestWords:
    def test_of_merged_factors(self):
        assert str(plan((Factor(2, 2),) * 2, 1, 3, MACHINE)) == "A1⊗A2 (4 x 4) on (1, 4, 3)"

    def test_of_operators_among_identities(self):
        known = (Factor(5, 5, "identity"), Factor(7, 8, "operator"), Factor(6, 6, "identity"))
        assert str(plan(known, 1, 1, MACHINE)) == "A2 (7 x 8) on (5, 8, 6)"

    def test_of_nothing(self):
        assert str(plan((Factor(5, 5, "identity"),), 1, 1, MACHINE)) == ""

    def test_of_pieces_of_columns(self):
        known, machine = (Factor(3, 3),) * 2, MACHINE._replace(merged=0, cache=70 * 9 * 8)
        made = Plan(known, 1, 1000, tuple(in_pieces(known, 1, 1000, machine)), machine)
        assert str(made).splitlines() == [
            "16 pieces of 1 x 9 x 64, each:",
            "    A2 (3 x 3) on (3, 3, 64)",
            "    A1 (3 x 3) on (1, 3, 192)",
        ]

    def test_of_pieces(self):
        made = plan((Factor(50, 50),) * 4, 1, 1, MACHINE)
        sweep = made.sweeps[0]
        head, *lines = str(made).splitlines()
        assert head == (
            f"{sweep.pieces} pieces of {sweep.before_piece} x {sweep.columns} x "
            f"{sweep.after_piece}, each:"
        )
        for line, step in zip(lines, sweep.steps, strict=False):
            left, right = sweep.before_piece * step.left, step.right * sweep.after_piece
            assert line == f"    A{step.stop} (50 x 50) on ({left}, 50, {right})"

    def test_of_kernels(self):
        made = plan((Factor(8, 8),) * 3, 1, 64, MACHINE._replace(kernels=FAKE))
        assert "by a kernel" in str(made)
        assert "⊗" not in str(made)


@pytest.mark.parametrize(
    "shape, left, right, wanted",
    [
        ((1000, 1000), 1, 1, False),
        ((2000, 1000), 1, 1, False),
        ((1000, 1000), 2, 1, True),
        ((1000, 1000), 64, 1, True),
        ((1000, 1000), 65, 1, False),
        ((1000, 1000), 1, 2, True),
        ((1000, 1000), 999, 2, True),
        ((1000, 1000), 3, 128, True),
        ((1000, 1000), 3, 129, False),
        ((1000, 500), 1, 2, False),
        ((1001, 500), 1, 2, True),
        ((1000, 501), 1, 2, True),
        ((500, 1000), 1, 2, False),
    ],
)
def test_few_columns(shape, left, right, wanted):
    step = Step(0, 1, *shape, 1, 1, "dense", (shape,))
    assert is_gathered(step, left, right) is wanted
    assert is_gathered(step._replace(kind="diagonal"), left, right) is False


def test_large_matrices_with_few_columns_are_not_cut_to_pieces():
    """The columns of all slices are put side by side, which pieces have no place for."""
    known = Factor(2, 2), Factor(1000, 1000), Factor(2, 2)
    for machine in (MACHINE, MACHINE._replace(work=10**6)):
        made = plan(known, 256, 1, machine)
        (large,) = (sweep for sweep in made.sweeps if sweep.steps[0].columns >= 1000)
        assert len(large.steps) == 1
        assert made.seconds < 2 * made.flops / MACHINE.flops


def test_columns_side_by_side_cost_less_than_a_register_for_each_slice():
    step = _step((Factor(1000, 1000),), Group(0, 1, "dense"), 512, 2)
    gathered = _seconds(step, 1, 1, MACHINE)
    wide = _seconds(step._replace(left=1, right=1024), 1, 1, MACHINE)
    assert wide < gathered < 1.5 * wide
