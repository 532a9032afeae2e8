"""`nn.MultiheadAttention` in `kronops.kfac.torch`, against linear modules and against autograd."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.func import functional_call, jacrev  # noqa: E402
from torch.nn import functional  # noqa: E402

import kronops.kfac.torch as kfac  # noqa: E402

BATCH, WIDTH, HEADS, CLASSES = 4, 6, 2, 3
QUERIES, KEYS = 5, 3
cross_entropy = functional.cross_entropy

OPTIONS: dict[str, dict[str, Any]] = {
    "examples first": {"batch_first": True},
    "sequences first": {},
    "no bias": {"bias": False},
    "other widths": {"kdim": 5, "vdim": 7},
    "other widths, no bias": {"kdim": 5, "vdim": 7, "bias": False, "batch_first": True},
    "a key and value of its own": {"add_bias_kv": True},
    "a zero key": {"add_zero_attn": True, "batch_first": True},
}
CALLS: dict[str, dict[str, Any]] = {
    "weights": {},
    "no weights": {"need_weights": False},
    "each head's weights": {"average_attn_weights": False},
    "padding": {"key_padding_mask": torch.tensor([[False, False, True]]).expand(BATCH, -1)},
    "a mask": {"attn_mask": torch.ones(QUERIES, KEYS, dtype=torch.float64).tril()},
}


class Cross(nn.Module):
    """Attention between two sequences that are parts of one input ``(B, S, …)``."""

    def __init__(self, call: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
        self.out = nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
        self.call = call or {}

    def forward(self, x: Any) -> Any:
        parts = sequences(self.attention, x)
        if not self.attention.batch_first:
            parts = [part.transpose(0, 1) for part in parts]
        attended, weights = self.attention(*parts, **self.call)
        if not self.attention.batch_first:
            attended = attended.transpose(0, 1)
        seen = 0.0 if weights is None else (weights**2).sum()
        return self.out(attended.mean(dim=1)) + seen


def sequences(attention: nn.MultiheadAttention, x: Any) -> list[Any]:
    """Query, key and value of the widths that they need."""
    key, value = x[:, :KEYS, : attention.kdim], x[:, :KEYS, -attention.vdim :]
    return [x[..., :WIDTH], key, value]


class Separate(nn.Module):
    """The same by linear modules."""

    def __init__(self, of: Cross) -> None:
        super().__init__()
        attention = of.attention
        weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.chunk(3)
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        names = ("q_proj", "k_proj", "v_proj")
        for name, weight, bias in zip(names, weights, biases, strict=True):
            self.add_module(name, linear(weight, bias))
        self.out_proj = linear(attention.out_proj.weight, attention.out_proj.bias)
        self.out = linear(of.out.weight, of.out.bias)
        self.of = [of]  # in a list it is no module of this one

    def forward(self, x: Any) -> Any:
        attention = self.of[0].attention
        query, key, value = sequences(attention, x)
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if attention.bias_k is not None:
            own = (p.detach().expand(len(x), 1, -1) for p in (attention.bias_k, attention.bias_v))
            k, v = (torch.cat(pair, dim=1) for pair in zip((k, v), own, strict=True))
        if attention.add_zero_attn:
            k, v = (functional.pad(part, (0, 0, 0, 1)) for part in (k, v))
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        weights = torch.softmax(q @ k.mT / (WIDTH // HEADS) ** 0.5, dim=-1)
        attended = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        return self.out(attended.mean(dim=1)) + (weights.mean(dim=1) ** 2).sum()


def linear(weight: Any, bias: Any) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=torch.float64)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made


def problem(model: nn.Module, batch: int = BATCH) -> tuple[Any, Any]:
    """Weights that are not as they begin, inputs and labels."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(batch, QUERIES, 7, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (batch,), generator=generator)


def run(model: nn.Module, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    model.zero_grad()
    outputs = model(x)
    cross_entropy(outputs, y).backward()
    return outputs.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def close(actual: Any, expected: Any, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * 1e-2)


@pytest.mark.filterwarnings("ignore:parameters without a curvature block")
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("options", OPTIONS)
def test_projections_are_linear_layers(options, sharing):
    model = Cross(**OPTIONS[options])
    x, y = problem(model)
    other = Separate(model)
    curvature, expected = (kfac.capture(m, sharing=sharing) for m in (model, other))
    with curvature, expected:
        outputs, _ = run(model, x, y)
        close(run(other, x, y)[0], outputs)
    packed = model.attention.in_proj_weight is not None
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        a, g = curvature.curvature.moments[f"attention.{name}"]
        their_a, their_g = expected.curvature.moments[name]
        close(a, their_a if packed or name == "out_proj" else their_a[: len(a), : len(a)])
        close(g, their_g)
        if f"attention.{name}.bias" in curvature.curvature.layers:
            one, g = curvature.curvature.moments[f"attention.{name}.bias"]
            close(one, torch.ones(1, 1, dtype=torch.float64))
            close(g, their_g)


@pytest.mark.filterwarnings("ignore:parameters without a curvature block")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", OPTIONS)
def test_capture_changes_nothing(options, call):
    model = Cross(CALLS[call], **OPTIONS[options])
    x, y = problem(model)
    outputs, gradients = run(model, x, y)
    with kfac.capture(model):
        again, seen = run(model, x, y)
    close(again, outputs)
    for name, gradient in gradients.items():
        close(seen[name], gradient, rtol=1e-11)
    assert not model.attention._forward_hooks and not model.attention._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:parameters without a curvature block")
@pytest.mark.parametrize("options", OPTIONS)
def test_vectors_have_the_names_and_shapes_of_parameters(options):
    model = Cross(**OPTIONS[options])
    x, y = problem(model)
    curvature = kfac.capture(model)
    with curvature:
        _, gradient = run(model, x, y)
    unknown = ["attention.bias_k", "attention.bias_v"] if "key and" in options else []
    assert list(curvature.unknown) == unknown
    known = {name: part for name, part in gradient.items() if name not in unknown}
    with curvature.eigenvalues():
        run(model, x, y)
    for method in ("factored", "exact", "ekfac"):
        operator = curvature.operator(0.1, method)
        step = operator.multiply_inverse(known)
        assert [p.shape for p in step.values()] == [p.shape for p in known.values()]
        for name, part in operator.multiply(step).items():
            close(part, known[name], rtol=1e-8)


@pytest.mark.parametrize("structure", ["kronecker", "full"])
def test_the_block_of_one_example_at_one_place_is_exact(structure):
    """The rows of each projection are a block; beside a key of zeros the other one matters."""
    model = Cross(add_zero_attn=True, batch_first=True)
    x, _ = problem(model, batch=1)
    x = x[:, :1]
    curvature = kfac.capture(model, structure).fit([(x, None)], "categorical", "exact")
    operator = curvature.operator()

    def outputs(parameters: Any) -> Any:
        return functional_call(model, parameters, (x,))[0]

    jacobian = {
        name: j.detach() for name, j in jacrev(outputs)(dict(model.named_parameters())).items()
    }
    p = torch.softmax(model(x)[0].detach(), dim=0)
    hessian = torch.diag(p) - torch.outer(p, p)
    for prefix, rows in [("attention.in_proj_", 3 * WIDTH), ("attention.out_proj.", WIDTH)]:
        weight, bias = jacobian[f"{prefix}weight"], jacobian[f"{prefix}bias"]
        joint = torch.cat([weight, bias[..., None]], dim=-1).flatten(1)
        expected = joint.T @ hessian @ joint
        of = torch.arange(rows).repeat_interleave(WIDTH + 1) // WIDTH  # the projection of each row
        expected = torch.where(of[:, None] == of, expected, 0.0)
        assert float(expected.abs().max()) > 0.01
        close(operator.blocks[f"{prefix}weight", f"{prefix}bias"].to_dense(), expected, rtol=1e-10)


def encoder(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, dropout=0.0, dtype=torch.float64, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_encoders_whose_sequences_come_first():
    """The curvature is that of the same encoder with its examples first, in evaluation mode too."""
    first, second = encoder(batch_first=True), encoder()
    second.load_state_dict(first.state_dict())
    x = torch.randn(BATCH, QUERIES, WIDTH, dtype=torch.float64)
    fitted = kfac.capture(first, sharing="reduce").fit([(x, None)], "gaussian", "exact")
    forward = lambda model, x: (model(x.transpose(0, 1)).transpose(0, 1), None)  # noqa: E731
    other = kfac.capture(second, sharing="reduce", batch_axis=1)
    other.fit([x], "gaussian", "exact", forward=forward)
    assert fitted.unknown == {}
    assert len(fitted.curvature.layers) == 2 * 8
    mine, theirs = (c.operator().blocks for c in (fitted, other))
    for name, block in mine.items():
        close(theirs[name].to_dense(), block.to_dense(), rtol=1e-9)


def test_frozen_parts_and_settings():
    model = Cross()
    model.attention.in_proj_weight.requires_grad_(False)
    structure = {nn.MultiheadAttention: "diagonal", "attention.out_proj": "full"}
    curvature = kfac.capture(model, structure)
    structures = {n: layer.structure for n, layer in curvature.curvature.layers.items()}
    assert structures == {
        **{f"attention.{which}_proj": "diagonal" for which in "qkv"},
        "attention.out_proj": "full",
        "out": "kronecker",
    }
    x, y = problem(model)
    with curvature:
        cross_entropy(model(x), y).backward()
    gradient = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    step = curvature.operator(0.1).multiply_inverse(gradient)
    assert step["attention.in_proj_bias"].shape == (3 * WIDTH,)
    with pytest.warns(UserWarning, match="structure=None"):
        assert set(kfac.capture(model, {"attention": None}).unknown) == {
            "attention.in_proj_bias",
            "attention.out_proj.weight",
            "attention.out_proj.bias",
        }


class Own(nn.MultiheadAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_attention_of_its_own_has_no_rule():
    model = nn.ModuleDict({"own": Own(4, 2), "known": nn.Linear(2, 2)})
    with pytest.warns(UserWarning, match="Own has no rule"):
        unknown = kfac.capture(model).unknown
    assert list(unknown) == [f"own.{name}" for name, _ in model["own"].named_parameters()]


def test_one_sequence_without_examples():
    model = nn.MultiheadAttention(WIDTH, HEADS)
    x = torch.randn(QUERIES, WIDTH)
    with pytest.raises(ValueError, match="without an axis of examples"), kfac.capture(model):
        model(x, x, x)
    model(x, x, x)  # as ever


@pytest.mark.parametrize("structure", ["kronecker", {nn.Linear: None, nn.LayerNorm: None}])
@pytest.mark.filterwarnings("ignore:parameters without a curvature block")
def test_no_fast_path_goes_by_unseen(structure):
    """In evaluation mode without gradients PyTorch fuses attention, and the whole encoder layer."""
    model = encoder(batch_first=True).eval()
    x = torch.randn(BATCH, QUERIES, WIDTH, dtype=torch.float64)
    curvature = kfac.capture(model, structure)
    with pytest.raises(ValueError, match="runs without gradients"), curvature, torch.no_grad():
        model(x)


def test_an_error_in_attention_leaves_nothing_behind():
    model = Cross()
    x, _ = problem(model)
    with pytest.raises(RuntimeError), kfac.capture(model):
        model(x[..., :2])
    assert torch.overrides._get_current_function_mode_stack() == []
