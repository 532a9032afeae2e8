"""One of two processes with two devices each: every check below, the results as one line of JSON.

python tests/sharded_worker.py port index
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import kronops
import kronops.linalg
from kronops import (
    DenseOperator,
    DiagonalOperator,
    IdentityOperator,
    KroneckerSumOperator,
    ProductOperator,
    kron,
)

rng = np.random.default_rng(0)
CHECKS = {}
COLLECTIVE = re.compile(
    r"= \(?[a-z]+(\d+)\[([\d,]*)\].*? (all-to-all|all-gather|all-reduce|collective-permute|"
    r"reduce-scatter)(?:-start)?\("
)


def check(function):
    CHECKS[function.__name__] = function
    return function


def definite(n):
    a = rng.standard_normal((n, n))
    return a @ a.T + n * np.eye(n)


def place(mesh, array, *spec):
    return jax.device_put(np.asarray(array), NamedSharding(mesh, P(*spec)))


def both(*factors):
    """The same Kronecker product in NumPy and in JAX."""
    return kron(*factors), kron(*map(jnp.asarray, factors))


def right(got, want, v):
    """Equal up to rounding, and laid out as what went in."""
    for g, w, x in zip(*map(jax.tree.leaves, (got, want, v)), strict=True):
        whole = process_allgather(g, tiled=True)
        np.testing.assert_allclose(whole, w, rtol=1e-9, atol=1e-9 * np.abs(w).max())
        assert g.sharding.is_equivalent_to(x.sharding, x.ndim), (g.sharding, x.sharding)


def agree(ours, op, values, v, method="multiply_inverse"):
    """The product, eagerly and under jit."""
    want = getattr(ours, method)(values)
    right(getattr(op, method)(v), want, v)
    right(jax.jit(lambda v: getattr(op, method)(v))(v), want, v)


def collectives(function, *arguments):
    """Each collective of the compiled program, and the bytes of its operand on one device."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    found = []
    for line in text.splitlines():
        if match := COLLECTIVE.search(line):
            shapes = re.findall(r"\[([\d,]*)\]", line.split(match[3] + "(")[0])
            sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
            found.append((match[3], sum(sizes) * int(match[1]) // 8))
    return found


@check
def over_one_axis():
    ours, op = both(*map(definite, (8, 4, 4)))
    values = rng.standard_normal((8, 4, 4))
    agree(ours, op, values, v := place(LINE, values, "x"))
    right(op.multiply(v := place(LINE, values, None, None, "x")), ours.multiply(values), v)
    flat = place(LINE, values.ravel(), "x")
    right(op.solve(flat), ours.solve(values.ravel()), flat)


@check
def over_two_axes():
    ours, op = both(*map(definite, (8, 4)))
    values = rng.standard_normal((8, 4))
    agree(ours, op, values, place(SQUARE, values, "x", "y"), "multiply")
    right(op.multiply(v := place(SQUARE, values, ("y", "x"))), ours.multiply(values), v)


@check
def without_types():
    """On a mesh whose axes are not in the types of arrays, outside of jit."""
    ours, op = both(*map(definite, (8, 4)))
    values = rng.standard_normal((8, 4))
    right(op.multiply_inverse(v := place(PLAIN, values, "x")), ours.multiply_inverse(values), v)


@check
def damping_is_planned_as_one():
    ours, op = both(*map(definite, (8, 4)))
    ours, op = ours.damped(0.5), op.damped(0.5)
    v = place(LINE, values := rng.standard_normal((8, 4)), "x")
    agree(ours, op, values, v)
    return collectives(lambda v: op.multiply_inverse(v), v)


@check
def axes_that_do_not_divide():
    ours, op = both(*map(definite, (8, 3, 2)))
    ours, op = ours.damped(0.5), op.damped(0.5)
    v = place(LINE, values := rng.standard_normal((8, 3, 2)), "x")
    right(op.multiply_inverse(v), ours.multiply_inverse(values), v)
    try:
        both(definite(6), definite(8))[1] @ place(LINE, np.ones(48), "x")
    except ValueError as error:
        return str(error)


@check
def sums_and_products():
    ours, op = both(*map(definite, (8, 4)))
    d = rng.uniform(1, 2, (8, 4))
    v = place(LINE, values := rng.standard_normal((8, 4)), None, "x")
    diagonal = DiagonalOperator(jnp.asarray(d))
    right((2.0 * op + diagonal).multiply(v), 2 * ours.multiply(values) + d * values, v)
    right((op @ diagonal).multiply(v), ours.multiply(d * values), v)
    crossed, theirs = both(definite(4), definite(8))  # takes the vector in another shape
    want = crossed @ (ours @ values.ravel())
    right(ProductOperator((theirs, op)).multiply(v), want.reshape(8, 4), v)
    factors = definite(8), definite(4)
    sums = KroneckerSumOperator([*factors]), KroneckerSumOperator([*map(jnp.asarray, factors)])
    right(sums[1].multiply(v), sums[0].multiply(values), v)


@check
def structured_vectors():
    ours, op = both(*map(definite, (8, 4)))
    weights, bias = rng.standard_normal((7, 4)), rng.standard_normal(4)
    pair = place(LINE, weights, None, "x"), place(LINE, bias)
    kernel = rng.standard_normal((2, 4, 4))
    right(op.multiply(v := place(LINE, kernel, None, "x")), ours.multiply(kernel), v)
    blocks = {"a": kernel, "b": (weights, bias)}
    placed = {"a": place(LINE, kernel, None, None, "x"), "b": pair}
    ours = kronops.BlockDiagonalOperator({"a": ours, "b": ours})
    op = kronops.BlockDiagonalOperator({"a": op, "b": op})
    right(op.multiply_inverse(placed), ours.multiply_inverse(blocks), placed)


@check
def many_columns():
    ours, op = both(*map(definite, (4, 3)))
    v = place(LINE, values := rng.standard_normal((12, 8)), None, "x")
    right(op @ v, ours @ values, v)
    assert not collectives(lambda v: op @ v, v)


@check
def without_a_plan():
    """What the planner does not know is XLA's."""
    matrix = definite(8)
    v = place(LINE, values := rng.standard_normal(8), "x")
    agree(
        DenseOperator(matrix),
        DenseOperator(jnp.asarray(matrix)),
        values,
        v,
        "multiply",
    )


@check
def factors_on_every_device_and_in_parts():
    a, b = definite(8), definite(4)
    ours, v = kron(a, b), place(LINE, values := rng.standard_normal((8, 4)), "x")
    want = float(ours.logdet())
    for spec in ((), ("x",)):
        op = kron(place(LINE, a, *spec), place(LINE, b, *spec))
        assert abs(float(op.logdet()) - want) < 1e-9 * want
        right(op.multiply_inverse(v), ours.multiply_inverse(values), v)
        right(jax.jit(lambda op, v: op.multiply(v))(op, v), ours.multiply(values), v)
    ours, op = kron(a, np.eye(4)), kron(place(LINE, a, "x"), IdentityOperator(4, like=jnp.ones(1)))
    got, made = jax.jit(lambda op, v: (op.logdet(), op.multiply_inverse(v)))(op, v)
    assert abs(float(got) - float(ours.logdet())) < 1e-9 * want
    right(made, ours.multiply_inverse(values), v)


@check
def conjugate_gradients():
    ours, op = both(*map(definite, (8, 4)))
    b = place(LINE, values := rng.standard_normal(32), "x")
    x, info = kronops.linalg.cg(op, b, rtol=1e-12, M=op.damped(0.1).inverse())
    right(x, ours.solve(values), b)
    assert info == 0
    x, info = jax.jit(lambda b: kronops.linalg.cg(op, b, rtol=1e-12))(b)
    right(x, ours.solve(values), b)
    assert int(info) == 0


@check
def derivatives():
    """By repeated eigenvalues too, where those of eigenvectors do not exist."""
    a, values = np.diag([1.0, 2.0, 2.0, 3.0]), rng.standard_normal((4, 4))

    def loss(a, v):
        op = kron(DenseOperator(a, "positive definite"), IdentityOperator(4, like=a))
        return jnp.sum(jnp.sin(op.damped(0.5).multiply_inverse(v)))

    placed = place(LINE, a), place(LINE, values, "x")
    got = jax.jit(jax.grad(loss, argnums=(0, 1)))(*placed)
    right(got[1], np.cos(inverse(a) @ values) * inverse(a).diagonal()[:, None], placed[1])
    by_a = -inverse(a) @ np.cos(inverse(a) @ values) @ (inverse(a) @ values).T
    symmetric = (by_a + by_a.T) / 2  # as is claimed of a
    np.testing.assert_allclose(process_allgather(got[0], tiled=True), symmetric, rtol=1e-9)


def inverse(a):
    return np.linalg.inv(a + 0.5 * np.eye(len(a)))


@check
def bytes_of_the_program():
    """For each layout: what the plan says, and what XLA has made of it."""
    op = both(*map(definite, (8, 12, 16)))[1]
    rows = []
    for mesh, spec in ((LINE, ("x",)), (LINE, (None, "x")), (SQUARE, ("x", "y"))):
        v = place(mesh, np.ones((8, 12, 16)), *spec)
        rows.append((spec, collectives(op.multiply, v)))
    return rows


@check
def memory_of_the_program():
    """The bytes of arguments, results and what is between them, on one device."""
    factors = [definite(64) for _ in range(3)]
    op, v = kron(*(place(LINE, a) for a in factors)), place(LINE, np.ones((64, 64, 64)), "x")
    program = jax.jit(lambda op, v: op.multiply(v)).lower(op, v).compile()
    found = program.memory_analysis()
    sizes = found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes
    return sum(sizes)


@check
def the_page():
    """What docs/sharding.md shows first."""
    page = Path(__file__).resolve().parent.parent / "docs" / "sharding.md"
    (block,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    names = {"__name__": "page"}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(block, str(page), "exec"), names)
    assert names["step"].sharding.is_equivalent_to(names["gradient"].sharding, 2)
    assert int(names["info"]) == 0 and "2 redistributions" in said.getvalue()


def main(port, index):
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index), initialization_timeout=30)
    global LINE, SQUARE, PLAIN
    LINE, SQUARE = jax.make_mesh((4,), ("x",)), jax.make_mesh((2, 2), ("x", "y"))
    PLAIN = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    results = {"processes": jax.process_count(), "devices": jax.device_count()}
    for name, function in CHECKS.items():
        try:
            results[name] = [True, function()]
        except Exception:
            results[name] = [False, traceback.format_exc()]
    print("results:" + json.dumps(results), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_x64", True)
    main(*sys.argv[1:])
