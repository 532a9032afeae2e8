"""The numbers of TensorFlow's K-FAC, kfac_jax and curvlinops, from the same raw inputs.

For each case a function answers every array that is stored, and one test compares each. Inputs and
what kronops does not produce are listed below, the latter with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import golden
import numpy as np
import pytest

from kronops import BlockDiagonalOperator, DenseOperator, DiagonalOperator, KroneckerOperator
from kronops.kfac import (
    ConvLayer,
    Curvature,
    DenseLayer,
    EmbeddingLayer,
    GradientLayer,
    RecurrentLayer,
    ScaleShiftLayer,
    SharedLayer,
)
from kronops.kfac.moving_average import MovingAverage
from kronops.kfac.patches import Window
from kronops.vectors import flatten

Answers = dict[str, Callable[[], Any]]

POWERS = {"m1": -1, "mh": -0.5, "ph": 0.5, "p1": 1}


# -- answers that many cases share -----------------------------------------------------------------


def parameter_shaped(case: dict[str, Any], name: str) -> Any:
    """The weights, or the pair with the bias."""
    weights, bias = case[f"{name}_w"], case.get(f"{name}_b")
    return weights if bias is None else (weights, bias)


def parts(name: str, value: Callable[[], Any]) -> Answers:
    """The answers ``name_w`` and ``name_b`` from a function that gives weights or a pair."""

    def part(index: int) -> Any:
        vector = value()
        return vector[index] if isinstance(vector, tuple) else vector

    return {f"{name}_w": lambda: part(0), f"{name}_b": lambda: part(1)}


def powers(prefix: str, op: Any, v: Any) -> Answers:
    answers = {}
    for name, p in POWERS.items():
        answers |= parts(f"{prefix}_{name}", lambda p=p: op.multiply_power(v, p))
    return answers


def tensorflow_block(op: Any, v: Any) -> Answers:
    """What every block of TensorFlow's K-FAC gives for one vector."""
    return (
        powers("mp", op, v)
        | parts("mul", lambda: op.multiply(v))
        | parts("inv", lambda: op.multiply_inverse(v))
        | parts("chol", lambda: op.cholesky().multiply(v))
        | parts("cholT", lambda: op.cholesky().T.multiply(v))
        | parts("cholinv", lambda: op.cholesky().multiply_inverse(v))
        | parts("cholinvT", lambda: op.cholesky().T.multiply_inverse(v))
        | parts(
            "inv_chol",
            lambda: op.cholesky().T.multiply_inverse(op.cholesky().multiply_inverse(v)),
        )
    )


def shares(damped: Any, undamped: Any) -> list[float]:
    """What factored damping has added to each factor."""
    pairs = zip(damped.factors, undamped.factors, strict=True)
    return [float(np.mean(d.diagonal() - u.diagonal())) for d, u in pairs]


def kronecker_block(layer: Any, case: dict[str, Any]) -> Answers:
    meta = case["meta"]
    pi = "trace" if meta["pi_type"] == "tracenorm" else 1.0
    undamped = layer.operator()
    op = layer.operator(meta["damping"], pi=pi)
    by_trace = shares(layer.operator(meta["damping"]), undamped)
    return tensorflow_block(op, parameter_shaped(case, "v")) | {
        "cov_in": lambda: layer.moments[0],
        "cov_out": lambda: layer.moments[1],
        "damping_in": lambda: shares(op, undamped)[0],
        "damping_out": lambda: shares(op, undamped)[1],
        "damping_effective": lambda: math.prod(shares(op, undamped)),
        "pi": lambda: math.sqrt(by_trace[0] / by_trace[1]),
        "renorm": lambda: op.scale,
        "full_undamped": lambda: undamped.to_dense(),
    }


# -- TensorFlow's K-FAC ----------------------------------------------------------------------------


def tf_fc_kfac(case: dict[str, Any]) -> Answers:
    """Towers are more rows; sources are draws."""
    a, g, towers = case["a"], case["g"], case["meta"]["towers"]
    if towers > 1:
        a, g = a.reshape(-1, a.shape[-1]), g.reshape(g.shape[0], -1, g.shape[-1])
    layer = DenseLayer(case["meta"]["has_bias"])
    layer.update(a, g)
    return kronecker_block(layer, case)


def tf_fc_diagfactor_embedding(case: dict[str, Any]) -> Answers:
    meta = case["meta"]
    kinds = tuple("diagonal" if meta[key] else "full" for key in ("diag_in", "diag_out"))
    if "ids" in case:
        embedding = EmbeddingLayer(meta["vocab"])
        embedding.update(case["ids"], case["g"])
        return kronecker_block(embedding, case)
    layer = DenseLayer(meta["has_bias"], structure=kinds)
    layer.update(case["a"], case["g"])
    return kronecker_block(layer, case)


def tf_fc_multi_indep(case: dict[str, Any]) -> Answers:
    layer = DenseLayer(case["meta"]["has_bias"], uses=case["meta"]["num_uses"])
    layer.update(case["a"], case["g"])
    return kronecker_block(layer, case)


def tf_fc_diag(case: dict[str, Any]) -> Answers:
    layer = DenseLayer(case["meta"]["has_bias"], structure="diagonal")
    layer.update(case["a"], case["g"])
    return diagonal_block(layer, case)


def convolution(case: dict[str, Any], structure: str) -> ConvLayer:
    meta = case["meta"]
    return ConvLayer(
        case["v_w"].shape[:-2],
        meta["strides"],
        meta["padding"],
        meta.get("dilation") or 1,
        bias=meta["has_bias"],
        structure=structure,
    )


def tf_conv_kfac(case: dict[str, Any]) -> Answers:
    layer = convolution(case, "kronecker")
    layer.update(case["x"], case["g"])
    return kronecker_block(layer, case)


def tf_conv_diag(case: dict[str, Any]) -> Answers:
    layer = convolution(case, "diagonal")
    layer.update(case["x"], case["g"])
    return diagonal_block(layer, case)


def diagonal_block(layer: Any, case: dict[str, Any]) -> Answers:
    op = layer.operator(case["meta"]["damping"])
    return tensorflow_block(op, parameter_shaped(case, "v")) | {
        "cov": lambda: layer.moments,
        "damping_effective": lambda: float(np.mean(op.diagonal() - layer.moments.reshape(-1))),
    }


def tf_scale_shift(case: dict[str, Any]) -> Answers:
    meta = case["meta"]
    scale, shift = (tuple(meta[f"broadcast_dims_{name}"] or ()) for name in ("scale", "shift"))
    axes = (scale, shift) if meta["has_shift"] else scale
    structure = "full" if meta["block"].endswith("FullFB") else "diagonal"
    layer = ScaleShiftLayer(shift=meta["has_shift"], axes=axes, structure=structure)
    layer.update(case["x"], case["g"])
    op, undamped = layer.operator(meta["damping"]), layer.operator()
    added = op.diagonal() - undamped.diagonal()
    return tensorflow_block(op, parameter_shaped(case, "v")) | {
        "cov": lambda: layer.moments,
        "full_undamped": lambda: undamped.to_dense(),
        "damping_effective": lambda: float(np.mean(added)),
    }


def tf_ema(case: dict[str, Any]) -> Answers:
    schedule = case["meta"]["schedule"]
    debias = case["meta"]["zero_debias"]
    if "a" in case:
        layer = DenseLayer(bias=True)
        for a, g, (decay, weight) in zip(case["a"], case["g"], schedule, strict=True):
            layer.update(a, g, decay, weight)
        return kronecker_block(layer, case)
    if "var" not in case:
        layer, values = DenseLayer(bias=True, debias=debias), []
        for x, (decay, weight) in zip(case["x"], schedule, strict=True):
            layer.update(x, x, decay, weight)
            values.append(layer.moments[0])
        return {"value": lambda: np.stack(values)}
    steps = [MovingAverage()]
    for x, (decay, weight) in zip(case["x"], schedule, strict=True):
        steps.append(steps[-1].update({"x": x}, decay=decay, weight=weight))
    return {
        "var": lambda: np.stack([step.totals["x"] for step in steps[1:]]),
        "total_weight": lambda: [step.weight for step in steps[1:]],
        "value": lambda: np.stack([step.value(debias)["x"] for step in steps[1:]]),
        "total_weight_after_reset": lambda: steps[0].weight,
    }


def tf_utils(case: dict[str, Any]) -> Answers:
    kinds = {"left": tf_pi, "mat2d": tf_mat2d, "patches": tf_patches, "x": tf_matpower}
    kinds |= {"kron": tf_kron}
    return next((answer for key, answer in kinds.items() if key in case), tf_posdef)(case)


def tf_pi(case: dict[str, Any]) -> Answers:
    meta = case["meta"]
    arrays = case["left"], case["right"]
    op = KroneckerOperator(
        [DenseOperator(f) if f.ndim == 2 else DiagonalOperator(f) for f in arrays]
    )
    pi = 1.0 if meta.get("pi_type") == "off" else "trace"
    left, right = shares(op.damped(meta.get("damping_passed", 0.5) ** 2, "factored", pi=pi), op)
    return {
        "pi": lambda: math.sqrt(left / right),
        "damping_left": lambda: left,
        "damping_right": lambda: right,
    }


def tf_mat2d(case: dict[str, Any]) -> Answers:
    shape = case["mat2d"].shape
    v = (case["w"], case["b"]) if "b" in case else case["w"]
    return {
        "mat2d": lambda: flatten(v, shape, shape)[0].reshape(shape),
        "column": lambda: flatten(v, shape, shape)[0][:, None],
    } | parts("twice_back", lambda: DiagonalOperator(np.full(shape, 2.0)).multiply(v))


def tf_matpower(case: dict[str, Any]) -> Answers:
    layer = GradientLayer("full")
    layer.update(case["x"])
    op = layer.operator(case["meta"]["damping"])
    start = "matpower_"
    exponents = [name.removeprefix(start) for name in case if name.startswith(start)]
    return {start + p: lambda p=p: op.power(float(p)).to_dense() for p in exponents} | {
        "cov": lambda: layer.moments,
        "cholesky": lambda: op.cholesky().to_dense(),
        "cholesky_inverse": lambda: op.cholesky().inverse().to_dense(),
    }


def tf_patches(case: dict[str, Any]) -> Answers:
    meta = case["meta"]
    kernel, strides = tuple(meta["kernel"]), tuple(meta["strides"])
    window = Window(kernel, strides, meta["padding"], tuple(meta["dilation"] or (1, 1)))
    patches = window.patches(case["x"])
    front, channels = patches.shape[:-2], patches.shape[-1]
    return {
        "patches": lambda: patches.reshape(*front, *kernel, channels),
        "image_patches": lambda: patches.reshape(*front, -1),
        "num_conv_locations": lambda: math.prod(window.positions(case["x"].shape[1:-1])),
    }


def tf_kron(case: dict[str, Any]) -> Answers:
    return {"kron": lambda: KroneckerOperator([case["A"], case["B"]]).to_dense()}


def tf_posdef(case: dict[str, Any]) -> Answers:
    """Three ways to an inverse there, one here. Its eigenvalues are absolute values."""
    op = DenseOperator(case["M"], assume="symmetric").damped(case["meta"].get("damping", 0.0))
    inverses = ("inv_cholesky", "inv_matrix_inverse", "inv_eig")
    values, vectors = op.eigh()
    answers: Answers = {name: lambda: op.inverse().to_dense() for name in inverses}
    for kind in ("self_adjoint", "svd"):
        if f"evals_{kind}" in case:
            order = np.argsort(np.argsort(case[f"evals_{kind}"]))
            ours = np.argsort(np.abs(values))[order]
            signs = np.sign(np.sum(vectors.to_dense()[:, ours] * case[f"evecs_{kind}"], axis=0))
            answers |= {
                f"evals_{kind}": lambda ours=ours: np.abs(values)[ours],
                f"evecs_{kind}": lambda ours=ours, s=signs: vectors.to_dense()[:, ours] * s,
            }
    return answers | {"cholesky": lambda: op.cholesky().to_dense()}


def recurrent(case: dict[str, Any], signed: bool) -> RecurrentLayer:
    meta = case["meta"]
    layer = RecurrentLayer(meta["option"], bias=meta["has_bias"], signed=signed)
    (decay, weight) = meta["updates"][0]
    layer.update(case["a"], case["g"], decay, weight)
    return layer


def tf_fc_series(case: dict[str, Any]) -> Answers:
    """Bases have free signs there, so what is compared is what does not depend on them."""
    layer = recurrent(case, signed=False)
    op = layer.operator(case["meta"]["damping"])
    answers = parts("inv", lambda: op.multiply_inverse(parameter_shaped(case, "v"))) | {
        "damping_in": lambda: op.factor_damping[0],
        "damping_out": lambda: op.factor_damping[1],
        "damping_effective": lambda: math.prod(op.factor_damping),
    }
    for side, (c0, c1), damping in zip(
        ("in", "out"), layer.moments, op.factor_damping, strict=True
    ):
        answers |= {f"C0_{side}": lambda c0=c0: c0, f"C1_{side}": lambda c1=c1: c1}
        answers |= tf_series_side(side, DenseOperator(c0, "symmetric").damped(damping), c1)
    return answers


def tf_series_side(side: str, c0: DenseOperator, c1: Any) -> Answers:
    root = c0.power(-0.5).to_dense()
    h = root @ c1 @ root
    values, vectors = np.linalg.eigh((h + h.T) / 2)
    return {
        f"L_{side}": lambda: (root @ root, root @ (vectors * np.abs(values)) @ vectors.T @ root),
        f"psi_{side}": lambda: np.sort(np.abs(values)),
        f"K_{side}": lambda: (root @ root, root @ h.T @ h @ root),
        f"mu_{side}": lambda: np.linalg.svd(h)[1] ** 2,
        f"P_{side}": lambda: c1.T @ c0.inverse().to_dense(),
    }


def series_forward(case: dict[str, Any]) -> Answers:
    """Its raw inputs are those of the case with the same name in `tf_fc_series`."""
    source = golden.load("tf_fc_series")[case["meta"]["name"]]
    v = parameter_shaped(case, "v")
    answers: Answers = {}
    for prefix, signed in (("", False), ("signed_", True)):
        op = recurrent(source, signed).operator(source["meta"]["damping"])
        answers |= parts(f"{prefix}mul", lambda op=op: op.multiply(v))
        answers |= parts(f"{prefix}inv", lambda op=op: op.multiply_inverse(v))
        answers[f"{prefix}dense"] = lambda op=op: op.to_dense()
        answers[f"{prefix}cond"] = lambda op=op: np.linalg.cond(op.to_dense())
    return answers


# -- kfac_jax --------------------------------------------------------------------------------------


def kfac_jax_blocks(case: dict[str, Any]) -> Answers:
    block = case["meta"].get("block", case["meta"].get("what"))
    kinds = {
        "DenseTwoKroneckerFactored": jax_kronecker,
        "RepeatedDenseKroneckerFactored": jax_kronecker,
        "ScaleAndShiftDiagonal": jax_scale_shift,
        "ScaleAndShiftFull": jax_scale_shift,
        "Conv2DTwoKroneckerFactored": jax_convolution,
        "Conv2DDiagonal": jax_convolution,
        "Conv2DFull": jax_convolution,
        "utils.pi_adjusted_kronecker_factors": jax_pi,
        "WeightedMovingAverage": jax_ema,
    }
    return kinds.get(block, jax_gradient)(case)


def jax_damped(name: str, op: Any, case: dict[str, Any]) -> Answers:
    v = parameter_shaped(case, "v")
    if isinstance(v, tuple) and case["meta"]["block"].startswith("Naive"):
        shapes = [part.shape for part in v]

        def split(flat: Any) -> tuple[Any, ...]:
            first, second = np.split(flat, [math.prod(shapes[0])])
            return first.reshape(shapes[0]), second.reshape(shapes[1])

        flat = np.concatenate([part.reshape(-1) for part in v])
        answers: Answers = {}
        for key, p in POWERS.items():
            answers |= parts(f"{name}_{key}", lambda p=p: split(op.multiply_power(flat, p)))
        return answers
    return powers(name, op, v)


def jax_kronecker(case: dict[str, Any]) -> Answers:
    """Its repeated layer divides both factors by the batch size alone, and the product by T."""
    meta = case["meta"]
    repeats = meta.get("repeats", 1)
    layer = DenseLayer(meta["has_bias"], uses=meta.get("repeats"))
    for a, g, (decay, weight) in zip(case["a"], case["g"], meta["updates"], strict=True):
        if repeats > 1:
            a, g = a.swapaxes(0, 1), g.swapaxes(0, 1)
        layer.update(a, g, decay, weight)
    undamped = layer.operator()
    exact = layer.operator(meta["damping"], method="exact")
    factored = layer.operator(meta["damping"])
    answers: Answers = {
        "cov_in": lambda: repeats * layer.moments[0],
        "cov_out": lambda: repeats * layer.moments[1],
        "scale": lambda: undamped.scale / repeats**2,
        "dense_undamped": lambda: undamped.to_dense(),
    }
    for cached in ("", "cached_"):
        answers |= jax_damped(f"{cached}exact", exact, case)
        answers |= jax_damped(f"{cached}approx", factored, case)
        answers[f"{cached}eigenvalues"] = lambda: undamped.eigh().eigenvalues
    return answers


def jax_convolution(case: dict[str, Any]) -> Answers:
    block = case["meta"]["block"]
    structure = {"Conv2DDiagonal": "diagonal", "Conv2DFull": "full"}.get(block, "kronecker")
    layer = convolution(case, structure)
    for x, g in zip(case["x"], case["g"], strict=True):
        layer.update(x, g)
    undamped = layer.operator()
    exact = layer.operator(case["meta"]["damping"], method="exact")
    factored = layer.operator(case["meta"]["damping"])
    answers: Answers = {
        "scale": lambda: undamped.scale if structure == "kronecker" else 1.0,
        "dense_undamped": lambda: undamped.to_dense(),
        "cov_in": lambda: layer.moments[0],
        "cov_out": lambda: layer.moments[1],
    }
    for cached in ("", "cached_"):
        answers |= jax_damped(f"{cached}exact", exact, case)
        answers |= jax_damped(f"{cached}approx", factored, case)
        answers[f"{cached}eigenvalues"] = lambda: undamped.eigh().eigenvalues
    return answers


def jax_gradient(case: dict[str, Any]) -> Answers:
    """Diagonal and full blocks; the naive ones know the sum of a batch's gradients alone."""
    meta = case["meta"]
    structure = "diagonal" if meta["block"].endswith("Diagonal") else "full"
    if meta["block"].startswith("Naive"):
        layer: Any = GradientLayer(structure)
        gradient = np.concatenate([case["g_w"].reshape(-1), case["g_b"]])
        layer.update(gradient, summed=meta["batch_size"])
    else:
        layer = DenseLayer(meta["has_bias"], structure)
        for a, g, (decay, weight) in zip(case["a"], case["g"], meta["updates"], strict=True):
            layer.update(a, g, decay, weight)
    return jax_uncached_and_cached(layer, case)


def jax_scale_shift(case: dict[str, Any]) -> Answers:
    meta = case["meta"]
    structure = "diagonal" if meta["block"].endswith("Diagonal") else "full"
    axes = tuple(range(1, case["x"].ndim - 2))
    layer = ScaleShiftLayer(meta["has_scale"], meta["has_shift"], axes, structure)
    for x, g in zip(case["x"], case["g"], strict=True):
        layer.update(x, g)
    return jax_uncached_and_cached(layer, case)


def jax_uncached_and_cached(layer: Any, case: dict[str, Any]) -> Answers:
    undamped, op = layer.operator(), layer.operator(case["meta"]["damping"])
    answers: Answers = {
        "scale": lambda: 1.0,
        "dense_undamped": lambda: undamped.to_dense(),
    }
    for cached in ("", "cached_"):
        answers |= jax_damped(f"{cached}exact", op, case)
        answers[f"{cached}eigenvalues"] = lambda: undamped.eigh().eigenvalues
    return answers


def jax_pi(case: dict[str, Any]) -> Answers:
    """How the product's scale is shared between the two factors is free."""
    op = KroneckerOperator([case["A"], case["G"]]).damped(case["meta"]["damping"], "factored")
    scale = float(op.factors[0].trace()) / np.trace(case["f0"])
    return {
        "f0": lambda: op.factors[0].to_dense() / scale,
        "f1": lambda: op.factors[1].to_dense() * scale,
        "kron": lambda: op.to_dense(),
    }


def jax_ema(case: dict[str, Any]) -> Answers:
    steps = [MovingAverage()]
    for x, (decay, weight) in zip(case["x"], case["meta"]["schedule"], strict=True):
        steps.append(steps[-1].update({"x": x}, decay=decay, weight=weight))
    return {
        "value": lambda: np.stack([step.value(debias=True)["x"] for step in steps[1:]]),
        "weight": lambda: [step.weight for step in steps[1:]],
    }


# -- curvlinops ------------------------------------------------------------------------------------


def curvlinops_kfac(case: dict[str, Any]) -> Answers:
    """Parameters in PyTorch's order: the rows of the weights, then the bias."""
    meta = case["meta"]
    separate, ekfac = meta["separate_weight_and_bias"], meta["op"] == "EKFACLinearOperator"
    layers = {name: curvlinops_layer(case, name) for name in meta["layers"]}
    curvature = Curvature(layers)
    batches = curvlinops_batches(case)
    curvature.update(batches)
    if ekfac:
        curvature.update_eigenvalues(batches)
    uses = {name: layer.operator().scale for name, layer in layers.items()}
    order = np.concatenate(list(curvlinops_order(case)))
    damping, (d_in, d_out) = meta["damping"], meta["damping_tuple"]
    dampings: dict[str, dict[str, Any]] = {
        "exact": {"damping": damping, "method": "ekfac" if ekfac else "exact"},
        "plain": {"damping": damping**2, "pi": 1.0},
        "tuple": {"damping": d_in * d_out, "pi": math.sqrt(d_in / d_out)},
        "heuristic": {"damping": damping},
    }

    def block(**arguments: Any) -> BlockDiagonalOperator:
        if isinstance(arguments.get("pi"), float):  # their G is a sum over locations
            shares = {n: arguments | {"pi": arguments["pi"] * uses[n] ** 0.5} for n in layers}
            op = BlockDiagonalOperator({n: layers[n].operator(**shares[n]) for n in layers})
        else:
            op = curvature.operator(**arguments)
        if not separate:
            return op
        blocks = []
        for name, weights in op.blocks.items():
            gradients = DenseOperator(layers[name].moments[1], "symmetric")
            exact = arguments.get("method") == "exact"
            blocks += [weights, gradients.damped(damping) if exact else weights.factors[0]]
        return BlockDiagonalOperator(blocks)

    def in_their_order(matrix: Any) -> Any:
        made = np.empty_like(matrix)
        made[np.ix_(order, order)] = matrix
        return made

    undamped = block(method="ekfac" if ekfac else "factored")
    answers: Answers = {
        "dense": lambda: in_their_order(undamped.to_dense()),
        "Kv": lambda: (undamped @ case["v"][order])[np.argsort(order)],
        "trace": lambda: undamped.trace(),
        "frobenius_norm": lambda: undamped.norm(),
        "logdet": lambda: undamped.logdet(),
        "det": lambda: np.exp(undamped.logdet()),
    }
    for name, arguments in dampings.items():
        inverse = block(**arguments).inverse()
        answers |= {
            f"inv_{name}_dense": lambda op=inverse: in_their_order(op.to_dense()),
            f"inv_{name}_v": lambda op=inverse: (op @ case["v"][order])[np.argsort(order)],
        }
    for name, layer in layers.items():
        answers |= {
            f"input_cov_{name}": lambda layer=layer: layer.moments[0],
            f"grad_cov_{name}": lambda layer=layer, n=uses[name]: n * layer.moments[1],
        }
        if ekfac:
            op = layer.operator(method="ekfac")
            answers |= {
                f"corrected_eigenvalues_{name}": lambda op=op: op.eigenvalues,
                f"grad_eigvecs_{name}": lambda op=op: np.abs(op.bases[0].to_dense()),
                f"input_eigvecs_{name}": lambda op=op: np.abs(op.bases[1].to_dense()),
            }
    return answers


def curvlinops_layer(case: dict[str, Any], name: str) -> Any:
    bias = not case["meta"]["separate_weight_and_bias"]
    if case["X"].ndim == 3 and name == "0":
        return SharedLayer(bias=bias, sharing=case["meta"]["approx"], layout="out,in")
    kernel = case[f"param_{name}.weight"].shape[2:]
    if not kernel:
        return DenseLayer(bias=bias, layout="out,in")
    padding = ((1, 1), (0, 0))  # what the shapes of the stored gradients leave
    return ConvLayer(kernel, (1, 2), padding, channels="first", bias=bias, layout="out,in")


def curvlinops_batches(case: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Gradients at the scale of a loss whose Hessian is theirs; where none are stored, from X."""
    meta = case["meta"]
    examples = len(case["X"])
    if meta["fisher"] == "empirical":
        # Stored are gradients of the reduced loss; the mean is over examples and outputs.
        outputs = case["y"].shape[1]
        squared = examples * (examples * outputs if meta["reduction"] == "mean" else 1)
        names = meta["layers"]
        return {n: (case[f"act_{n}"], squared**0.5 * case[f"outgrad_{n}"]) for n in names}
    weights, bias, readout, readout_bias = (case[f"param_{n}"] for n in meta["param_names"])
    hidden = np.tanh(case["X"] @ weights.T + bias)
    places = math.prod(hidden.shape[1:-1])  # of a sequence, which is averaged before the readout
    pooled = hidden.mean(axis=1) if hidden.ndim == 3 else hidden
    odds = np.exp(pooled @ readout.T + readout_bias)
    p = odds / odds.sum(axis=1, keepdims=True)
    draws = np.stack([p[:, [c]] ** 0.5 * (unit - p) for c, unit in enumerate(np.eye(2))])
    if meta["reduction"] == "sum":  # over the examples, not a mean
        draws = examples**0.5 * draws
    back = draws @ readout / places
    back = back[:, :, None, :] if hidden.ndim == 3 else back
    first, last = meta["layers"]
    return {first: (case["X"], back * (1 - hidden**2)), last: (pooled, draws)}


def curvlinops_order(case: dict[str, Any]) -> Any:
    """Where the entries of our vector are in theirs, layer by layer."""
    meta = case["meta"]
    start = 0
    shapes = iter(meta["param_shapes"])
    for (out, *kernel), _ in zip(shapes, shapes, strict=True):
        in_ = math.prod(kernel)
        weights = start + np.arange(out * in_).reshape(out, in_)
        start += out * in_
        bias = start + np.arange(out)
        start += out
        if meta["separate_weight_and_bias"]:
            yield from (weights.reshape(-1), bias)
        else:
            yield np.concatenate([weights, bias[:, None]], axis=1).reshape(-1)


# -- what is compared ------------------------------------------------------------------------------

FILES = {
    answer.__name__: answer
    for answer in (
        tf_fc_kfac, tf_fc_diagfactor_embedding, tf_fc_multi_indep, tf_fc_diag, tf_scale_shift,
        tf_ema, tf_utils, tf_conv_kfac, tf_conv_diag, tf_fc_series, series_forward,
        kfac_jax_blocks, curvlinops_kfac,
    )
}  # fmt: skip

INPUTS = {"meta", "a", "g", "g_w", "g_b", "x", "X", "y", "v", "v_w", "v_b", "ids"}
INPUTS |= {"M", "A", "B", "G", "w", "b", "left", "right", "decay"}

NOT_PRODUCED = {
    r"tf_ema .* weight": "an input, the schedule",
    r"tf_ema .* var_after_reset": "there is no reset: a new estimator has no arrays yet",
    r"tf_utils patches_p_valid_d2 num_conv_locations": "counted there as without dilation: 25, "
    "where its own patches have 3 × 4",
    r"series_forward .* chain_.*": "the exact sum, of which both options are approximations",
    r"series_forward .* roundtrip_residual": "rounding of the dense computation, not an answer",
    r"curvlinops_kfac kfac_conv_.* (det|logdet)": "singular too: 31 features of 6 examples",
    r"curvlinops_kfac .*_(sep|seq.*) (det|logdet)": "a singular block: README says to ignore them",
    r"curvlinops_kfac .* (param_.*|act_.*|outgrad_.*)": "inputs",
}
# Without much damping the moment of an almost constant series is inverted in single precision.
LOOSER = {"tf_fc_series opt2_T200_persistent_f32 P_in": 1e-3}
TOLERANCES = {"f32": 1e-4, "f64": 1e-9}


def compared() -> list[Any]:
    return [
        pytest.param(file, case, name, id=f"{file}-{case}-{name}")
        for file in FILES
        for case, arrays in golden.load(file).items()
        for name in arrays
        if name not in INPUTS
        and not any(re.fullmatch(pattern, f"{file} {case} {name}") for pattern in NOT_PRODUCED)
    ]


@cache
def answers_of(file: str, case: str) -> Answers:
    loaded = golden.load(file)[case]
    return FILES[file](loaded | {"meta": {**loaded["meta"], "name": case}})


def expected(case: dict[str, Any], name: str) -> Any:
    """The stored array; of what has no fixed sign or order, what has one."""
    stored = case[name]
    kind, _, side = name.partition("_")
    if kind in ("L", "K"):
        values = case[f"{'psi' if kind == 'L' else 'mu'}_{side}"]
        return stored @ stored.T, (stored * values) @ stored.T
    if "eigvecs" in name:
        return np.abs(stored)
    if kind == "psi" or name in ("eigenvalues", "cached_eigenvalues"):
        return np.sort(stored, axis=None)
    return stored


@pytest.mark.parametrize(("file", "case", "name"), compared())
def test_the_stored_number_is_reproduced(file: str, case: str, name: str) -> None:
    stored = golden.load(file)[case]
    computed, wanted = answers_of(file, case)[name](), expected(stored, name)
    if not isinstance(wanted, tuple):
        computed, wanted = (computed,), (wanted,)
    tolerance = TOLERANCES[stored["meta"].get("dtype", "f64")]
    tolerance = LOOSER.get(f"{file} {case} {name}", tolerance)
    for ours, theirs in zip(computed, wanted, strict=True):
        if not isinstance(ours, (float, list)):  # Python's numbers are no arrays of any dtype
            assert np.asarray(ours).shape == theirs.shape
            assert np.asarray(ours).dtype == theirs.dtype
        error = np.max(np.abs(np.asarray(ours, float) - np.asarray(theirs, float)))
        assert error <= tolerance * np.max(np.abs(np.asarray(theirs, float)))


def test_every_pattern_of_what_is_not_produced_is_used() -> None:
    names = [f"{f} {c} {n}" for f in FILES for c, arrays in golden.load(f).items() for n in arrays]
    for pattern in NOT_PRODUCED:
        assert any(re.fullmatch(pattern, name) for name in names), pattern
