"""`kronops.kfac.torch`: what hooks see of PyTorch models, against gradients of single examples."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import golden
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch import nn  # noqa: E402
from torch.func import functional_call, grad, vmap  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import kronops.kfac.torch as kfac  # noqa: E402

BATCH, CLASSES = 6, 3
cross_entropy = functional.cross_entropy


class Recurrent(nn.Module):
    """One linear layer for all steps, another one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(7, 4)
        self.out = nn.Linear(4, CLASSES, bias=False)

    def forward(self, x: Any) -> Any:
        state = torch.zeros(len(x), 4, dtype=x.dtype)
        for step in range(x.shape[1]):
            state = torch.tanh(self.cell(torch.cat([x[:, step], state], dim=-1)))
        return self.out(state)


class Pooled(nn.Module):
    """Attention by linear projections, a normalisation, and a linear layer of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Any) -> Any:
        weights = torch.softmax(self.query(x) @ self.key(x).mT, dim=-1)
        return self.out(self.norm(weights @ self.value(x)).mean(dim=1))


class Words(nn.Module):
    """An embedding with padding, one lookup for each of five places."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4, padding_idx=0)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, ids: Any) -> Any:
        return self.out(torch.tanh(self.table(ids)).sum(dim=1))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, CLASSES))


def images(**options: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(CLASSES)
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (perceptron, (5,)),
    "recurrent": (Recurrent, (3, 3)),
    "attention": (Pooled, (4, 3)),
    "embedding": (Words, (5,)),
    "layer norm": (
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.LayerNorm((2, 4)), nn.Flatten(), nn.Linear(8, CLASSES)
        ),
        (2, 3),
    ),
    "RMS norm": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.RMSNorm(4, eps=1e-5), nn.Linear(4, CLASSES)),
        (5,),
    ),
    "group norm": (
        lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(24, CLASSES)),
        (4, 2, 3),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(24, CLASSES)),
        (4, 2, 3),
    ),
    "convolution": (lambda: images(stride=2, padding=1, bias=False), (2, 5, 6)),
    "groups": (lambda: images(groups=2, dilation=2), (2, 5, 6)),
    "depthwise": (lambda: images(groups=2, padding="same"), (2, 5, 6)),
    "reflection": (lambda: images(padding=(1, 2), padding_mode="reflect"), (2, 5, 6)),
    "series": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(12, CLASSES)),
        (2, 5),
    ),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(16, CLASSES)),
        (1, 3, 3, 3),
    ),
}


def problem(name: str, batch: int = BATCH, seed: int = 0) -> tuple[nn.Module, Any, Any]:
    """A net in evaluation mode, with weights that are not as they begin, inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    make, shape = NETS[name]
    if name == "embedding":
        x = torch.stack([torch.randperm(8, generator=generator)[:5] for _ in range(batch)])
    else:
        x = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    model = make().double()
    model(x)
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(values / 2)
        for tensor in model.buffers():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0, generator=generator)
    return model.eval(), x, torch.randint(CLASSES, (batch,), generator=generator)


def example_gradients(model: nn.Module, x: Any, y: Any) -> dict[str, Any]:
    """By `torch.func`, ``(B, *shape)`` for each parameter."""

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        return cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    return vmap(grad(loss), (None, 0, 0))(dict(model.named_parameters()), x, y)


def second_moment(gradients: dict[str, Any], names: Any) -> Any:
    """Over examples, of the parameters ``names`` in the order of their block."""
    names = names if isinstance(names, tuple) else (names,)
    parts = [gradients[name].detach() for name in names]
    if len(names) == 2 and parts[0].ndim > parts[1].ndim:  # the bias is the last column
        parts = [torch.cat([parts[0].flatten(2), parts[1][..., None]], dim=-1)]
    rows = torch.cat([part.flatten(1) for part in parts], dim=1)
    return rows.T @ rows / len(rows)


def captured(model: nn.Module, x: Any, y: Any, **settings: Any) -> kfac.ModelCurvature:
    """The empirical Fisher of one batch."""
    curvature = kfac.capture(model, **settings)
    with curvature:
        cross_entropy(model(x), y).backward()
    return curvature


def dense_blocks(operator: Any) -> dict[Any, Any]:
    return {key: block.to_dense() for key, block in operator.blocks.items()}


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


# -- what is captured ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_full_blocks_are_second_moments_of_the_examples_gradients(name):
    model, x, y = problem(name)
    structure = {nn.Module: "full", nn.Embedding: "diagonal"}
    operator = captured(model, x, y, structure=structure, sharing="reduce").operator()
    gradients = example_gradients(model, x, y)
    for key, block in operator.blocks.items():
        expected = second_moment(gradients, key)
        if key == "table.weight":
            expected = torch.diag(torch.diagonal(expected))
        close(block.to_dense(), expected)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("name", NETS)
def test_factors_are_moments_of_what_each_example_gives(name, sharing):
    """Inputs and output gradients of the linear layers, by one forward and backward per example."""
    model, x, y = problem(name)
    moments = captured(model, x, y, sharing=sharing).curvature.moments
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    seen: dict[str, list[Any]] = {n: [] for n in linear}

    def note(name: str, inputs: Any, outputs: Any) -> Any:
        seen[name].append((inputs[0], outputs))
        return outputs.clone()  # which may be written over

    for n, module in linear.items():
        module.register_forward_hook(lambda m, a, o, n=n: note(n, a, o))
    inputs: dict[str, list[Any]] = {n: [] for n in linear}
    outputs: dict[str, list[Any]] = {n: [] for n in linear}
    for example, label in zip(x, y, strict=True):
        for calls in seen.values():
            calls.clear()
        loss = cross_entropy(model(example[None]), label[None])
        for n, calls in seen.items():
            gradients = torch.autograd.grad(loss, [o for _, o in calls], retain_graph=True)
            a = torch.cat([a.reshape(-1, a.shape[-1]) for a, _ in calls])
            g = torch.cat([g.reshape(-1, g.shape[-1]) for g in gradients])
            if linear[n].bias is not None:
                a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
            if sharing == "reduce":
                a, g = a.mean(dim=0, keepdim=True), g.sum(dim=0, keepdim=True)
            inputs[n].append(a.detach())
            outputs[n].append(g)
    for n in linear:
        for moment, rows in zip(moments[n], (inputs[n], outputs[n]), strict=True):
            stacked = torch.cat(rows)
            close(moment, stacked.T @ stacked / len(stacked))


def test_padding_is_no_lookup():
    model, x, y = problem("embedding")
    a, g = captured(model, x, y).curvature.moments["table"]
    uses = torch.nn.functional.one_hot(x, 8).flatten(0, 1).double()
    uses[:, 0] = 0
    close(a, uses.mean(dim=0))
    rows = example_gradients(model, x, y)["table.weight"].detach().flatten(0, 1)
    close(g, rows.T @ rows / uses.sum())  # the words of an example are all different


def test_several_backward_passes_are_draws():
    model, x, y = problem("recurrent")
    curvature = kfac.capture(model)
    with curvature:
        outputs = model(x)
        cross_entropy(outputs, y).backward(retain_graph=True)
        cross_entropy(outputs, (y + 1) % CLASSES).backward()
    single = [captured(model, x, labels) for labels in (y, (y + 1) % CLASSES)]
    for name, (_, g) in curvature.curvature.moments.items():
        close(g, sum(one.curvature.moments[name][1] for one in single))


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("name", NETS)
def test_statistics_of_draws_are_summed(name, sharing):
    """Those of the inputs are the same for all draws, and not summed."""
    model, x, _ = problem(name)
    whole = kfac.capture(model, sharing=sharing).fit([(x, None)], "gaussian", "exact")
    single = [kfac.capture(model, sharing=sharing, reduction="sum") for _ in range(CLASSES)]
    for output, curvature in enumerate(single):
        with curvature:
            model(x)[:, output].sum().backward()
    for layer, moments in whole.curvature.moments.items():
        parts = [curvature.curvature.moments[layer] for curvature in single]
        if isinstance(moments, tuple):
            close(moments[0], parts[0][0])
            moments, parts = moments[1], [g for _, g in parts]
        close(moments, sum(parts))


def test_eigenvalues_of_draws_are_summed():
    model, x, _ = problem("attention")
    whole = kfac.capture(model, reduction="sum").fit([(x, None)], "gaussian", "exact")
    single = [copy.deepcopy(whole) for _ in range(CLASSES)]
    for output, curvature in enumerate(single):
        with curvature.eigenvalues():
            curvature.model(x)[:, output].sum().backward()
    whole.fit([(x, None)], "gaussian", "exact", statistics="eigenvalues")
    for name in ("query", "value", "out"):
        of, *parts = (
            curvature.operator(method="ekfac").blocks[f"{name}.weight", f"{name}.bias"].to_dense()
            for curvature in (whole, *single)
        )
        close(of, sum(parts))


def test_batches_have_the_weight_of_their_examples():
    model, x, y = problem("convolution")
    curvature = kfac.capture(model)
    with curvature:  # in one context, or in two
        for part in (slice(0, 1), slice(1, 3)):
            cross_entropy(model(x[part]), y[part]).backward()
    with curvature:
        cross_entropy(model(x[3:]), y[3:]).backward()
    whole = captured(model, x, y)
    for mine, theirs in zip(*(c.operator().operators for c in (curvature, whole)), strict=True):
        close(mine.to_dense(), theirs.to_dense())


def test_decay():
    model, x, y = problem("linear")
    curvature = kfac.capture(model, decay=0.5)
    for labels in (y, (y + 1) % CLASSES):
        with curvature:
            cross_entropy(model(x), labels).backward()
    old, new = (captured(model, x, labels).curvature for labels in (y, (y + 1) % CLASSES))
    close(
        curvature.curvature.moments["2"][1], (old.moments["2"][1] / 2 + new.moments["2"][1]) / 1.5
    )


def test_reductions():
    model, x, y = problem("attention")
    summed = kfac.capture(model, reduction="sum")
    with summed:
        cross_entropy(model(x), y, reduction="sum").backward()
    close(summed.operator().to_dense(), captured(model, x, y).operator().to_dense())


def test_rows_that_are_places_of_examples():
    """``(B·S, in)`` in a linear layer is ``(B, S, in)``."""
    places, x, y = problem("attention")
    value = captured(places, x, y).curvature.moments["value"]

    class Merged(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    places.value = Merged(places.value)
    rows = captured(places, x, y).curvature.moments["value.inner"]
    for mine, theirs in zip(rows, value, strict=True):
        close(mine, theirs)
    with pytest.raises(ValueError, match="first axis must be that of the examples"):
        captured(places, x, y, sharing="reduce")


def test_merged_rows_whose_sequences_come_first():
    """``(S·B, in)`` in a linear layer is ``(S, B, in)``: EKFAC sums over the places of examples."""

    class Flat(nn.Module):
        def __init__(self, merged: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.merged = nn.Linear(3, CLASSES).double(), merged

        def forward(self, x: Any) -> Any:
            if self.merged:
                return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2]).sum(dim=0)
            return self.inner(x).sum(dim=0)

    _, x, y = problem("attention")
    made = []
    for model in (Flat(True), Flat(False)):
        curvature = captured(model, x.transpose(0, 1), y, batch_axis=1)
        with curvature.eigenvalues():
            cross_entropy(model(x.transpose(0, 1)), y).backward()
        made.append(curvature.operator(method="ekfac").to_dense())
    close(*made)


def test_the_axis_of_examples():
    cell, x, y = problem("linear")

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Any) -> Any:
            return self.cell(x[0])

    moments = captured(TimeFirst(), torch.stack([x, x]), y, batch_axis=1).curvature.moments
    close(moments["cell.2"][1], captured(cell, x, y).curvature.moments["2"][1])


# -- by a likelihood -------------------------------------------------------------------------------


def gauss_newton(model: nn.Module, x: Any, likelihood: str) -> Any:
    """``Jᵀ H J`` of all parameters in order, the mean over examples."""
    names = [name for name, _ in model.named_parameters()]

    def outputs(parameters: Any, x: Any) -> Any:
        return functional_call(model, parameters, (x[None],))[0]

    total: Any = 0.0
    for example in x:
        parts = torch.func.jacrev(outputs)(dict(model.named_parameters()), example)
        jacobian = torch.cat([parts[name].flatten(1) for name in names], dim=1).detach()
        p = torch.softmax(model(example[None])[0].detach(), dim=0)
        hessian = torch.diag(p) - torch.outer(p, p)
        if likelihood == "gaussian":
            hessian = torch.eye(len(p), dtype=p.dtype)
        total = total + jacobian.T @ hessian @ jacobian
    return total / len(x)


def as_matrix(model: nn.Module, operator: Any) -> Any:
    """The operator on the concatenated parameters, in the order of the model."""
    sizes = {name: p.shape for name, p in model.named_parameters()}
    identity = torch.eye(sum(size.numel() for size in sizes.values()), dtype=torch.float64)
    columns = []
    for row in identity:
        parts = row.split([size.numel() for size in sizes.values()])
        v = {n: part.reshape(size) for part, (n, size) in zip(parts, sizes.items(), strict=True)}
        columns.append(torch.cat([part.flatten() for part in operator.multiply(v).values()]))
    return torch.stack(columns, dim=1)


def diagonal_blocks(matrix: Any, model: nn.Module) -> Any:
    """``matrix`` without what is between modules."""
    modules = [
        name.rpartition(".")[0] for name, p in model.named_parameters() for _ in range(p.numel())
    ]
    same = torch.tensor([[a == b for a in modules] for b in modules])
    return torch.where(same, matrix, 0.0)


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_the_block_of_one_example_is_exact(likelihood):
    model, x, _ = problem("linear", batch=1)
    curvature = kfac.capture(model).fit([(x, None)], likelihood, "exact")
    expected = gauss_newton(model, x, likelihood)
    close(as_matrix(model, curvature.operator()), diagonal_blocks(expected, model))


def test_blocks_of_linear_nets_are_exact():
    """Output gradients are then the same for all examples."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    x = torch.randn(BATCH, 3, generator=generator, dtype=torch.float64)
    curvature = kfac.capture(model).fit([(x[:2], 0), (x[2:], 0)], "gaussian", "exact")
    expected = gauss_newton(model, x, "gaussian")
    close(as_matrix(model, curvature.operator()), diagonal_blocks(expected, model))


@pytest.mark.parametrize("name", ["layer norm", "convolution", "groups"])
def test_full_blocks_are_exact(name):
    model, x, _ = problem(name)
    curvature = kfac.capture(model, {nn.Module: "full"}, "reduce")
    curvature.fit([(x, None)], "categorical", "exact")
    expected = gauss_newton(model, x, "categorical")
    close(as_matrix(model, curvature.operator()), diagonal_blocks(expected, model))


def test_samples_of_the_model_are_exact_on_average():
    model, x, _ = problem("linear", batch=2)
    exact, sampled = (kfac.capture(model) for _ in range(2))
    exact.fit([(x, None)], "categorical", "exact")
    generator = torch.Generator().manual_seed(0)
    sampled.fit([(x, None)], "categorical", key_or_rng=generator, samples=20_000)
    for name, (_, g) in sampled.curvature.moments.items():
        torch.testing.assert_close(g, exact.curvature.moments[name][1], rtol=0.05, atol=0.02)


def test_empirical_fisher_is_that_of_the_loss():
    model, x, y = problem("attention")
    loader = [(x[:2], y[:2]), (x[2:], y[2:])]
    fitted = kfac.capture(model).fit(loader, "categorical", "empirical")
    close(fitted.operator().to_dense(), captured(model, x, y).operator().to_dense())


def test_eigenvalues():
    """They are the mean squares of the examples' gradients in the eigenbasis of the factors."""
    model, x, y = problem("linear")
    curvature = captured(model, x, y)
    with curvature.eigenvalues():
        cross_entropy(model(x), y).backward()
    gradients = example_gradients(model, x, y)
    both = [gradients["2.weight"], gradients["2.bias"][..., None]]
    joint = torch.cat(both, dim=-1).detach()
    block = curvature.operator(method="ekfac").blocks["2.weight", "2.bias"]
    a, g = (torch.linalg.eigh(m)[1] for m in curvature.curvature.moments["2"])
    squares = torch.mean((g.T @ joint @ a) ** 2, dim=0)
    basis = torch.kron(g, a)
    close(block.to_dense(), basis @ torch.diag(squares.flatten()) @ basis.T)
    fitted = kfac.capture(model)
    for statistics in ("moments", "eigenvalues"):
        fitted.fit([(x, y)], "categorical", "empirical", statistics=statistics)
    close(fitted.operator(method="ekfac").to_dense(), curvature.operator(method="ekfac").to_dense())


def test_loaders_of_other_batches_and_progress():
    model, x, y = problem("linear")
    seen = []

    def progress(loader: Any) -> Any:
        for batch in loader:
            seen.append(len(batch["x"]))
            yield batch

    loader = [{"x": x[:2], "y": y[:2]}, {"x": x[2:], "y": y[2:]}]
    forward = lambda model, batch: (model(batch["x"]), batch["y"])  # noqa: E731
    curvature = kfac.capture(model)
    curvature.fit(loader, "categorical", "empirical", forward=forward, progress=progress)
    assert seen == [2, BATCH - 2]
    close(curvature.operator().to_dense(), captured(model, x, y).operator().to_dense())


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_model_has_changed(fails):
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, CLASSES))
    model.train()
    model[2].eval()
    x, y = torch.randn(BATCH, 5), torch.randint(CLASSES, (BATCH,))
    model(x).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=4, shuffle=True)
    curvature = kfac.capture(model)
    if fails:
        with pytest.raises(ValueError, match="outside"):
            curvature.fit([(x, y + CLASSES)], "categorical", "empirical")
    else:
        curvature.fit(loader, "categorical", "empirical")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]) and parameter.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks_of(model) == 0


# -- parameters and their names --------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_vectors_have_the_names_and_shapes_of_parameters(name):
    model, x, y = problem(name)
    operator = captured(model, x, y).operator(damping=0.1)
    assert hooks_of(model) == 0
    gradient = {name: p.grad for name, p in model.named_parameters()}
    step = operator.multiply_inverse(gradient)
    assert list(step) == list(gradient)
    assert [part.shape for part in step.values()] == [g.shape for g in gradient.values()]
    for name, part in operator.multiply(step).items():
        torch.testing.assert_close(part, gradient[name], rtol=1e-7, atol=1e-9)


def test_frozen_parameters_have_no_part():
    model, x, y = problem("layer norm")
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    model[3].bias.requires_grad_(False)
    curvature = captured(model, x, y)
    assert curvature.unknown == {}
    gradient = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert list(gradient) == ["1.weight", "3.weight"]
    step = curvature.operator(damping=0.1).multiply_inverse(gradient)
    assert [part.shape for part in step.values()] == [(2, 4), (3, 8)]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(4, 2), nn.Linear(2, 4, bias=False)
        self.out.weight = self.table.weight
        self.first = self.second = nn.Linear(2, 2)


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x: Any, weight: Any, bias: Any) -> Any:
        return super()._conv_forward(x, 10 * weight, bias)


class Own(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


def half_frozen() -> nn.Module:
    layer = nn.Conv1d(2, 2, 1)
    layer.weight.requires_grad_(False)
    return layer


def replaced() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: 2 * x @ layer.weight
    return layer


UNKNOWN = {
    "an attribute forward": (replaced(), {"weight", "bias"}, "a forward pass of its own"),
    "tied": (Tied(), {"table.weight"}, "table.weight and out.weight are one parameter"),
    "recurrent": (nn.LSTM(2, 2), {"weight_ih_l0"}, "LSTM has no rule"),
    "a convolution of its own": (
        OwnConvolution(1, 1, 1),
        {"weight", "bias"},
        "OwnConvolution has no rule",
    ),
    "a forward pass of its own": (Own(2, 2), {"weight", "bias"}, "Own has no rule"),
    "half frozen": (half_frozen(), {"bias"}, "weight is frozen"),
    "sparse": (nn.Embedding(3, 2, sparse=True), {"weight"}, "sparse=True"),
    "complex": (nn.Linear(2, 2, dtype=torch.complex64), {"weight"}, "complex"),
    "computed": (
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        {"bias", "parametrizations.weight.original0"},
        "has no rule",
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_parameters_are_listed(name):
    part, parameters, words = UNKNOWN[name]
    model = nn.ModuleDict({"part": part, "known": nn.Linear(2, 2)})
    curvature = kfac.capture(model)
    assert {f"part.{parameter}" for parameter in parameters} <= curvature.unknown.keys()
    known = {"known.weight", "known.bias"}
    if name == "tied":
        known |= {"part.first.weight", "part.first.bias"}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert curvature.unknown.keys() | known == trainable
    assert any(
        words.replace("table", "part.table").replace("out.w", "part.out.w") in reason
        for reason in curvature.unknown.values()
    )


class Double(nn.Module):
    def forward(self, x: Any) -> Any:
        return 2 * x


COMPUTED_BIASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "parametrized": (
        lambda part: nn.utils.parametrize.register_parametrization(part, "bias", Double()),
        "parametrizations.bias.original",
    ),
    "pruned": (lambda part: prune.l1_unstructured(part, "bias", 0.5), "bias_orig"),
}


@pytest.mark.filterwarnings("ignore:parameters without a curvature block")
@pytest.mark.parametrize("way", COMPUTED_BIASES)
@pytest.mark.parametrize("index", [0, 1, 4])
def test_a_bias_that_is_computed_is_not_that_of_the_module(index, way):
    """The weight has a block of its own, and what the bias is computed from is unknown."""
    model = nn.Sequential(
        nn.Conv1d(1, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, CLASSES)
    ).double()
    x = torch.randn(BATCH, 1, 5, dtype=torch.float64)
    y = torch.arange(BATCH) % CLASSES
    compute, original = COMPUTED_BIASES[way]
    compute(model[index])
    curvature = captured(model, x, y, structure="full", sharing="reduce")
    assert list(curvature.unknown) == [f"{index}.{original}"]
    assert "structure=None" not in curvature.unknown[f"{index}.{original}"]
    weight = f"{index}.weight"
    expected = second_moment(example_gradients(model, x, y), weight)
    close(curvature.operator().blocks[weight].to_dense(), expected)
    model[index].weight.requires_grad_(False)
    unknown = kfac.capture(model).unknown
    assert list(unknown) == [f"{index}.{original}"]


class Shared(nn.Module):
    """Two linear modules with the same weight, and the same bias if they have one."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5, bias), nn.Linear(5, 5, bias)
        self.second.weight, self.second.bias = self.first.weight, self.first.bias
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))


@pytest.mark.parametrize("bias", [False, True])
def test_linear_modules_that_share_all_are_one(bias):
    """As one module is that is called twice."""
    model, (_, x, y) = Shared(bias).double(), problem("linear")
    shared = captured(model, x, y)
    assert shared.unknown == {}
    assert list(shared.curvature.layers) == ["first", "out"]
    gradient = {name: p.grad for name, p in model.named_parameters()}
    model.second = model.first
    once = captured(model, x, y)
    close(shared.operator().to_dense(), once.operator().to_dense())
    assert list(shared.operator(0.1).multiply_inverse(gradient)) == list(gradient)


def test_modules_that_share_some_are_unknown():
    model = Shared()
    model.second.bias = nn.Parameter(torch.zeros(5))
    words = "first.weight and second.weight are one parameter of several modules.*give each a copy"
    with pytest.warns(UserWarning, match=words):
        unknown = kfac.capture(model).unknown
    assert list(unknown) == ["first.weight", "first.bias", "second.bias"]
    model = Shared(bias=False)
    model.second.__class__ = Own
    with pytest.warns(UserWarning, match="one parameter of several modules"):
        assert list(kfac.capture(model).unknown) == ["first.weight"]


def test_a_bias_alone_has_a_constant_input():
    model, x, y = problem("attention")
    model.value.weight.requires_grad_(False)
    curvature = captured(model, x, y)
    model.value.weight.requires_grad_(True)
    _, g = captured(model, x, y).curvature.moments["value"]
    close(curvature.operator().blocks["value.bias"].to_dense(), x.shape[1] * g)
    gradient = {"value.bias": model.value.bias.grad}
    gradient |= {n: p.grad for n, p in model.named_parameters() if "value" not in n}
    step = curvature.operator(0.1).multiply_inverse(gradient)
    assert step["value.bias"].shape == model.value.bias.shape


class Scaled(nn.Module):
    """A parameter without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, CLASSES)
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Any) -> Any:
        return self.factor * self.inner(x)


@pytest.mark.parametrize("unknown", ["identity", "gradient"])
def test_parameters_without_axes(unknown):
    model, (_, x, y) = Scaled().double(), problem("linear")
    operator = captured(model, x, y, unknown=unknown).operator()
    gradient = {name: p.grad for name, p in model.named_parameters()}
    one = gradient["factor"]
    expected = one if unknown == "identity" else BATCH * one**3
    close(operator.multiply(gradient)["factor"], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted(dtype):
    """As the documentation promises: statistics and directions are in single precision."""
    model, x, y = problem("linear")
    model = model.to(dtype)
    curvature = kfac.capture(model)
    with curvature:
        cross_entropy(model(x.to(dtype)).float(), y).backward()
    gradient = {name: p.grad for name, p in model.named_parameters()}
    step = curvature.operator(0.1).multiply_inverse(gradient)
    assert {part.dtype for part in step.values()} == {torch.float32}


def test_statistics_are_not_cast():
    """Where the context ends within that of autocast, as where it begins within."""
    model, x, y = problem("embedding")
    model = model.float()
    inner, outer, fitted = (kfac.capture(model) for _ in range(3))
    half = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    with inner:
        with half():
            loss = cross_entropy(model(x), y)
        loss.backward()
    with half(), outer:
        cross_entropy(model(x), y).backward()
    with half():
        fitted.fit([(x, y)], "categorical", "empirical")
    for name, moments in inner.curvature.moments.items():
        for one, other, by_fit in zip(
            moments, *(c.curvature.moments[name] for c in (outer, fitted)), strict=True
        ):
            assert torch.equal(one, other)
            torch.testing.assert_close(one, by_fit, rtol=0.02, atol=0.02 * float(one.abs().max()))


def test_a_loss_that_is_scaled():
    model, x, y = problem("linear")
    scaled = kfac.capture(model)
    with scaled:
        (8 * cross_entropy(model(x), y)).backward()
    close(scaled.operator().to_dense(), 64 * captured(model, x, y).operator().to_dense())


def test_what_becomes_of_a_gradient_later_does_not_matter():
    model, x, y = partly_known()
    curvature = kfac.capture(model, unknown="gradient")
    with curvature:
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        for parameter in model.parameters():
            parameter.grad.zero_()
    assert float(curvature.operator().blocks["1.weight"].trace()) > 0


def partly_known() -> tuple[nn.Module, Any, Any]:
    model = nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, CLASSES)).double()
    _, x, y = problem("linear")
    return model, x, y


def test_unknown_parameters_are_never_dropped():
    model, x, y = partly_known()
    with pytest.raises(ValueError, match=r"1.weight \(PReLU has no rule\)"):
        kfac.capture(model, unknown="error")
    with pytest.warns(UserWarning, match=r"1.weight \(PReLU has no rule\)"):
        curvature = captured(model, x, y)
    gradient = {name: p.grad for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"no block has \['1.weight'\]"):
        curvature.operator(damping=0.1).multiply_inverse(gradient)


def test_unknown_parameters_with_an_identity():
    model, x, y = partly_known()
    operator = captured(model, x, y, unknown="identity").operator(damping=0.5)
    gradient = {name: p.grad for name, p in model.named_parameters()}
    close(operator.multiply_inverse(gradient)["1.weight"], gradient["1.weight"] / 1.5)


def test_unknown_parameters_with_the_gradients_of_batches():
    model, x, y = partly_known()
    curvature = captured(model, x, y, unknown="gradient")
    gradient = {name: p.grad for name, p in model.named_parameters()}
    expected = gradient["1.weight"] * gradient["1.weight"] ** 2 * BATCH
    close(curvature.operator().multiply(gradient)["1.weight"], expected)
    generator = torch.Generator().manual_seed(0)
    exact = torch.diagonal(gauss_newton(model, x, "categorical"))[24:28]
    curvature = kfac.capture(model, unknown="gradient")
    curvature.fit([(x, y)], "categorical", key_or_rng=generator, samples=20_000)
    torch.testing.assert_close(curvature.curvature.moments["1.weight"], exact, rtol=0.05, atol=0)
    with pytest.raises(ValueError, match='"sampled" would do'):
        curvature.fit([(x, y)], "categorical", "exact")


def test_settings_by_name_and_class():
    model, x, y = problem("linear")
    curvature = captured(model, x, y, structure={nn.Linear: "diagonal", "2": "full"})
    structures = {name: layer.structure for name, layer in curvature.curvature.layers.items()}
    assert structures == {"0": "diagonal", "2": "full"}
    with pytest.warns(UserWarning, match="structure=None"):
        curvature = kfac.capture(model, structure={"0": None})
    assert list(curvature.unknown) == ["0.weight", "0.bias"]


# -- what is captured is all there is --------------------------------------------------------------


class Elsewhere(nn.Module):
    """A model whose parameter is used in other ways too."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.way = way
        if way == "a hook":
            self.inner.register_forward_hook(lambda module, x, y: 2 * y)

    def forward(self, x: Any) -> Any:
        y = self.inner(x)
        if self.way == "by its weight":
            y = functional.linear(y, self.inner.weight.T)
        if self.way == "by its bias":
            y = y + self.inner.bias
        return self.out(torch.tanh(y))


def elsewhere(way: str) -> tuple[nn.Module, Any, Any]:
    _, x, y = problem("linear")
    return Elsewhere(way).double(), x, y


@pytest.mark.parametrize("way", ["by its weight", "by its bias", "a hook"])
def test_parameters_with_another_use_are_refused(way):
    model, x, y = elsewhere(way)
    name = "inner.bias" if way == "by its bias" else "inner.weight"
    with pytest.raises(ValueError, match=f"the gradient of '{name}'.*used outside of its module"):
        captured(model, x, y)
    with pytest.raises(ValueError, match=f"the gradient of '{name}'"):
        kfac.capture(model).fit([(x, y)], "categorical", "exact")
    assert hooks_of(model) == (way == "a hook")
    unchecked = captured(model, x, y, check=False)
    assert set(unchecked.curvature.layers) == {"inner", "out"}


def test_a_module_that_runs_in_another_way_is_refused():
    model, x, y = problem("linear")
    curvature = kfac.capture(model)
    layer = model[0]
    layer.forward = lambda x: functional.linear(x, layer.weight**2, layer.bias)
    with pytest.raises(ValueError, match=r"gradient of '0.weight'"), curvature:
        cross_entropy(model(x), y).backward()


def test_a_penalty_in_the_loss_is_refused():
    model, x, y = problem("linear")
    with pytest.raises(ValueError, match="a penalty of the loss"), kfac.capture(model):
        (cross_entropy(model(x), y) + (model[0].weight ** 2).sum()).backward()


def test_only_the_first_batch_is_checked():
    model, x, y = elsewhere("by its bias")
    model.way = "not at all"
    curvature = captured(model, x, y)
    model.way = "by its bias"
    with curvature:
        cross_entropy(model(x), y).backward()
    assert curvature.fit([(x, y)], "categorical", "empirical") is curvature


@pytest.mark.parametrize("name", NETS)
def test_rounding_is_not_refused(name):
    """Also where the terms of a gradient cancel, and in half precision."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model, x, _ = problem(name)
        model, x = model.to(dtype), x if name == "embedding" else x.to(dtype)
        again = torch.cat([x, x])
        with kfac.capture(model):
            outputs = model(again).float()
            (outputs[: len(x)].sum() - outputs[len(x) :].sum()).backward()


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["high", "medium", None])
def test_products_of_fewer_digits_are_not_refused(precision, monkeypatch):
    """What a GPU does by that setting to the gradients of weights, a hook does here."""

    def check(dtype: Any) -> None:
        layer = nn.Linear(128, 32).to(dtype)
        layer.weight.register_hook(lambda g: g * (1 + 1e-3))
        with kfac.capture(layer):
            layer(torch.ones(8, 128, dtype=dtype)).sum(dim=1).mean().backward()

    def set_by_backend() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    words = "gradient of 'weight' is not what the calls"
    with pytest.raises(ValueError, match=words):
        check(torch.float32)
    answer = set_by_backend if precision is None else lambda: precision
    monkeypatch.setattr(torch, "get_float32_matmul_precision", answer)
    check(torch.float32)
    with pytest.raises(ValueError, match=words):
        check(torch.float64)  # which that setting leaves alone


def without_gradients() -> None:
    model, x, _ = problem("linear")
    with kfac.capture(model), torch.no_grad():
        model(x)


def without_backward() -> None:
    model, x, _ = problem("linear")
    with kfac.capture(model):
        model(x)


def entered_twice() -> None:
    model, *_ = problem("linear")
    curvature = kfac.capture(model)
    with curvature, curvature:
        pass


def overwritten() -> None:
    model, x, y = problem("linear")
    with kfac.capture(model):
        cross_entropy(model(x), y).backward()
        x.copy_(torch.zeros_like(x))
        cross_entropy(model(x), y).backward()


def too_late() -> None:
    model, x, y = problem("linear")
    with kfac.capture(model):
        loss = cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
        model(x)
        loss.backward()


class Twice(nn.Module):
    """One module, called for the input and for twice that."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> tuple[Any, Any]:
        return self.inner(x), self.inner(2 * x)


def uneven() -> None:
    model, x, y = problem("recurrent")
    model = Twice(model)
    with kfac.capture(model):
        first, second = model(x)
        cross_entropy(first, y).backward(retain_graph=True)
        cross_entropy(first + second, y).backward()


def convolution_twice() -> None:
    model, x, y = problem("convolution")
    model = Twice(model)
    with kfac.capture(model):
        cross_entropy(sum(model(x)), y).backward()


def two_forward_passes() -> None:
    model, x, y = problem("linear")
    with kfac.capture(model):
        (cross_entropy(model(x), y) + cross_entropy(model(2 * x), y)).backward()


def never_entered() -> None:
    kfac.capture(perceptron()).__exit__(None, None, None)


def frozen_afterwards() -> None:
    model, x, y = problem("linear")
    curvature = kfac.capture(model)
    model[0].weight.requires_grad_(False)
    with curvature:
        cross_entropy(model(x), y).backward()


def axis_of_no_tensor() -> None:
    model, x, y = problem("linear")
    captured(model, x, y, batch_axis=5)


def targets_in_a_list() -> None:
    model, x, y = problem("linear")
    kfac.capture(model).fit([(x, y.tolist())], "categorical", "empirical")


def classes_second() -> None:
    model = nn.Conv2d(2, CLASSES, 1)
    x, y = torch.randn(BATCH, 2, 4, 5), torch.zeros(BATCH, 4, 5, dtype=torch.int64)
    kfac.capture(model).fit([(x, y)], "categorical", "exact")


def sequences_of_that_many() -> None:
    model, x, y = problem("attention")
    captured(model, x[:4].transpose(0, 1), y[:4], batch_axis=1)


def outputs_of_nothing() -> None:
    model, x, _ = problem("linear")
    kfac.capture(model).fit([(x, None)], "gaussian", "exact", forward=lambda m, batch: (x, None))


def never_used() -> None:
    model, x, y = problem("linear")
    model.add_module("head", nn.Linear(2, 2))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    captured(model, x, y).operator()


def unpaired_batches() -> None:
    model, x, _ = problem("linear")
    kfac.capture(model).fit([x], "gaussian", "exact")


def outputs_in_a_pair() -> None:
    model, x, _ = problem("linear")
    forward = lambda model, batch: ((model(batch), 0), None)  # noqa: E731
    kfac.capture(model).fit([x], "gaussian", "exact", forward=forward)


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no gradients": (without_gradients, ValueError, r"torch.no_grad\(\)"),
    "no backward pass": (without_backward, ValueError, "nothing was captured"),
    "an empty loader": (
        lambda: kfac.capture(perceptron()).fit([], "gaussian", "exact"),
        ValueError,
        "loader gave no batch",
    ),
    "entered twice": (entered_twice, ValueError, "entered already"),
    "never entered": (never_entered, ValueError, "was not entered"),
    "frozen afterwards": (frozen_afterwards, ValueError, "0.weight: not the trainable"),
    "two forward passes": (two_forward_passes, ValueError, "forward more than once"),
    "an axis that is none": (axis_of_no_tensor, ValueError, r"batch_axis = 5.* shape \(6, 5\)"),
    "a negative axis": (
        lambda: kfac.capture(perceptron(), batch_axis=-1),
        ValueError,
        "batch_axis",
    ),
    "no axis": (
        lambda: kfac.capture(perceptron(), batch_axis="1"),
        TypeError,
        "batch_axis is a str",
    ),
    "check": (lambda: kfac.capture(perceptron(), check="no"), ValueError, "check = 'no'"),
    "targets in a list": (targets_in_a_list, TypeError, "targets is a list"),
    "classes second": (classes_second, ValueError, r"movedim\(1, -1\)"),
    "as many places as examples": (sequences_of_that_many, ValueError, "cannot be told"),
    "outputs of nothing": (outputs_of_nothing, ValueError, "depend on no trainable"),
    "inputs written over": (overwritten, ValueError, "written over"),
    "backward too late": (too_late, ValueError, "a later forward pass"),
    "uneven backward passes": (uneven, ValueError, "add losses up"),
    "a convolution twice": (convolution_twice, ValueError, "called 2 times"),
    "a module never used": (never_used, ValueError, "no statistics yet"),
    "no pairs": (unpaired_batches, ValueError, "forward="),
    "no tensor": (outputs_in_a_pair, TypeError, "output is a tuple"),
    "no model": (lambda: kfac.capture(lambda x: x), TypeError, "torch.nn.Module is needed"),
    "parallel": (
        lambda: kfac.capture(nn.DataParallel(perceptron())),
        TypeError,
        "give model.module",
    ),
    "lazy": (lambda: kfac.capture(nn.LazyLinear(2)), ValueError, "run the model once"),
    "nothing to estimate": (lambda: kfac.capture(nn.LSTM(2, 2)), ValueError, "LSTM has no rule"),
    "reduction": (lambda: kfac.capture(perceptron(), reduction="none"), ValueError, "reduction"),
    "unknown": (lambda: kfac.capture(perceptron(), unknown="drop"), ValueError, "unknown"),
    "a setting of no module": (
        lambda: kfac.capture(perceptron(), sharing={"head": "reduce"}),
        ValueError,
        "sharing has the key 'head'",
    ),
    "statistics": (
        lambda: kfac.capture(perceptron()).fit([], "gaussian", "exact", statistics="mean"),
        ValueError,
        "statistics = 'mean'",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    run, kind, words = ERRORS[case]
    with pytest.raises(kind, match=words) as caught:
        run()
    assert case != "a module never used" or "in the layer 'head'" in caught.value.__notes__


# -- against curvlinops ----------------------------------------------------------------------------


class Mean(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.mean(dim=1)


GOLDEN_NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
    "seq": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), Mean(), nn.Linear(3, 2)),
    "conv": lambda: nn.Sequential(
        nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(1, 0)),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(30, 2),
    ),
}
GOLDEN = golden.load("curvlinops_kfac")


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    """Nets with their weights and batches; theirs is of the squared error itself, summed."""
    case = {key: torch.tensor(value) for key, value in GOLDEN[name].items() if key != "meta"}
    meta = GOLDEN[name]["meta"]
    model = GOLDEN_NETS[meta["net"]]().double()
    model.load_state_dict({n: case[f"param_{n}"] for n in meta["param_names"]})
    curvature = kfac.capture(model, sharing=meta["approx"])
    setting = {
        "likelihood": {"mse": "gaussian", "ce": "categorical"}[meta["loss"]],
        "fisher": {"empirical": "empirical", "type-2": "exact"}[meta["fisher"]],
    }
    curvature.fit([(case["X"], case["y"])], **setting)
    examples, outputs = len(case["X"]), 2 if meta["loss"] == "mse" else 1
    scale = 4.0 if meta["loss"] == "mse" else 1.0
    scale *= examples if meta["reduction"] == "sum" else 1 / outputs
    ekfac = meta["op"] == "EKFACLinearOperator"
    if ekfac:
        curvature.fit([(case["X"], case["y"])], **setting, statistics="eigenvalues")
    for layer in () if ekfac else meta["layers"]:
        a, g = curvature.curvature.moments[layer]
        features = len(case[f"input_cov_{layer}"])  # without the bias if that is a block alone
        close(a[:features, :features], case[f"input_cov_{layer}"])
        uses = GOLDEN_USES.get((meta["net"], layer), 1)
        close(g * scale * uses, case[f"grad_cov_{layer}"])
    if meta["separate_weight_and_bias"]:
        return
    sizes = [int(np.prod(shape)) for shape in meta["param_shapes"]]
    parts = zip(meta["param_names"], case["v"].split(sizes), meta["param_shapes"], strict=True)
    v = {name: part.reshape(shape) for name, part, shape in parts}
    for damping, expected in ((None, "Kv"), (meta["damping"], "inv_exact_v")):
        method = "ekfac" if ekfac else "exact"
        operator = scale * curvature.operator((damping or 0.0) / scale, method)
        made = operator.multiply(v) if damping is None else operator.multiply_inverse(v)
        close(torch.cat([part.flatten() for part in made.values()]), case[expected])


# Their G of a convolution is the sum over its locations.
GOLDEN_USES = {("conv", "0"): 10}


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_batches_end_where_the_model_itself_is_not_called():
    """By parts of it, or after another tensor that tells nothing of the examples."""
    model, x = small_net(), torch.randn(8, 3, dtype=torch.float64)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, mask, x):
            return self.inner(mask * x)

    def trace(model, **settings):
        made = kfac.capture(model).fit([(x, None)] * 3, "categorical", "exact", **settings)
        return float(made.operator().trace())

    wanted = trace(model)
    by_parts = trace(model, forward=lambda model, batch: (model[2](model[:2](batch[0])), None))
    ones = torch.ones(1, 1, dtype=torch.float64)
    masked = trace(Masked(), forward=lambda model, batch: (model(ones, batch[0]), None))
    np.testing.assert_allclose([by_parts, masked], wanted, rtol=1e-12)


def test_outputs_tell_the_number_of_examples_in_fit():
    """A layer whose rows are merged, and the first to be called, does not."""

    class Rows(nn.Module):
        def __init__(self, merged):
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.merged = nn.Linear(3, CLASSES).double(), merged

        def forward(self, x):
            if self.merged:
                return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(dim=1)
            return self.inner(x).mean(dim=1)

    x = torch.randn(BATCH, 4, 3, dtype=torch.float64)
    merged, apart = (
        kfac.capture(Rows(way)).fit([(x, None)], "categorical", "exact").operator().to_dense()
        for way in (True, False)
    )
    close(merged, apart)


def test_a_context_needs_the_model_and_no_fit():
    model, x = small_net(), torch.randn(8, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="call the model itself"), kfac.capture(model):
        model[2](model[:2](x)).sum().backward()
    curvature = kfac.capture(model)
    with pytest.raises(ValueError, match="would record twice"), curvature:
        curvature.fit([(x, None)], "categorical", "exact")


class Positions(nn.Module):
    """Adds what all examples share: one row for each place, not for each example."""

    def __init__(self, places: int, kind: str) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.places = nn.Embedding(places, 4) if kind == "embedding" else nn.Linear(3, 4)
        rows = torch.arange(places) if kind == "embedding" else torch.randn(places, 3)
        self.register_buffer("rows", rows)
        self.head = nn.Linear(4, 3)

    def forward(self, ids):
        return self.head(torch.tanh(self.words(ids) + self.places(self.rows)))


@pytest.mark.parametrize(
    ("kind", "examples", "places"),
    [("embedding", 4, 4), ("linear", 4, 4), ("linear", 4, 8)],
)
def test_rows_that_all_examples_share_are_no_examples(kind, examples, places):
    """As many as there are examples, or a multiple: the shapes alone do not tell."""
    ids = torch.arange(examples * places).reshape(examples, places) % 9
    curvature = kfac.capture(Positions(places, kind))
    with pytest.raises(ValueError, match=r"have gradients at [48] places of 'places'"):
        curvature.fit([(ids, None)], "categorical", "exact")


def test_examples_that_depend_on_each_other_are_refused_unless_that_is_wanted():
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    model = nn.Sequential(nn.Linear(5, 6), norm, nn.Linear(6, 3))
    loader = [(torch.randn(4, 5), None)]
    with pytest.raises(ValueError, match="normalisation over the batch makes examples depend"):
        kfac.capture(model).fit(loader, "categorical", "exact")
    assert kfac.capture(model, check=False).fit(loader, "categorical", "exact").operator(0.1)
