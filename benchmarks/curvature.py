"""K-FAC of PyTorch models beside curvlinops: the same operator, its making and its products.

    python benchmarks/curvature.py

Each row is a network and a Fisher matrix, of one batch of random data. First the two operators are
compared: products, and products with the exactly damped inverse, must agree to 1e-9 of the largest
entry. Then both take turns: from the model to the first product (``build``), each later
product (``apply``), from the moments to the first product with the inverse (``invert``), and each
later one (``solve``). Ratios above 1: kronops is faster. Double precision, in evaluation mode. The
checks of a first batch, which both libraries have, are left out: each library checks other things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from curvlinops import FisherType, KFACInverseLinearOperator, KFACLinearOperator
from scripts import table
from torch import Tensor, nn

import kronops.kfac.torch as kfac
from kronops.bench.measuring import medians_in_turns

DAMPING = 1e-2
FISHERS = {"exact": FisherType.TYPE2, "empirical": FisherType.EMPIRICAL}
ROUNDS = 7


def perceptron() -> tuple[nn.Module, Tensor]:
    layers = [nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), torch.randn(512, 256)


def convolutional() -> tuple[nn.Module, Tensor]:
    layers = [
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    ]
    return nn.Sequential(*layers), torch.randn(128, 3, 16, 16)


NETWORKS = {"perceptron": perceptron, "convolutional": convolutional}


def compared(name: str, fisher: str) -> dict[str, Any]:
    """One row."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    model, x = NETWORKS[name]()
    model.eval()
    parameters = dict(model.named_parameters())
    loader = [(x, torch.randint(10, (len(x),)))]
    vector = {name: torch.randn_like(p) for name, p in parameters.items()}
    plain = list(vector.values())

    def ours() -> kfac.ModelCurvature:
        return kfac.capture(model, check=False).fit(loader, "categorical", fisher)

    def theirs() -> Any:
        return KFACLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            list(parameters.values()),
            loader,
            fisher_type=FISHERS[fisher],
            separate_weight_and_bias=False,
            check_deterministic=False,
            num_data=len(x),
            num_per_example_loss_terms=1,
        )

    def our_inverse() -> Any:
        return made.operator(DAMPING, method="exact")

    def their_inverse() -> Any:
        return KFACInverseLinearOperator(peer, damping=DAMPING, use_exact_damping=True)

    def anew() -> Any:
        """Statistics that are loaded again have lost the decompositions that estimators keep."""
        made.curvature.load_state_dict(made.curvature.state_dict())
        return our_inverse().multiply_inverse(vector)

    made, peer = ours(), theirs()
    operator, inverse, peer_inverse = made.operator(), our_inverse(), their_inverse()
    agree(operator.multiply(vector), peer @ plain)
    agree(inverse.multiply_inverse(vector), peer_inverse @ plain)
    stages = {
        "build": (lambda: ours().operator().multiply(vector), lambda: theirs() @ plain),
        "apply": (lambda: operator.multiply(vector), lambda: peer @ plain),
        "invert": (anew, lambda: their_inverse() @ plain),
        "solve": (lambda: inverse.multiply_inverse(vector), lambda: peer_inverse @ plain),
    }
    count = sum(part.numel() for part in plain)
    row: dict[str, Any] = {"network": name, "Fisher": fisher, "parameters": count}
    for stage, pair in stages.items():
        row |= timed(stage, *pair)
    return row


def agree(ours: dict[str, Tensor], theirs: list[Tensor]) -> None:
    largest = max(float(part.abs().max()) for part in theirs)
    for one, other in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * largest)


def timed(stage: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, float]:
    """Medians over rounds in which both take turns, and the median of their ratio."""
    medians = medians_in_turns(ours, theirs, ROUNDS)
    names = (f"{stage}, kronops", f"{stage}, curvlinops", f"{stage}, ratio")
    return dict(zip(names, medians, strict=True))


def rows() -> Iterator[dict[str, Any]]:
    for name in NETWORKS:
        for fisher in FISHERS:
            yield compared(name, fisher)


if __name__ == "__main__":
    table("curvature", __doc__, rows, ("torch", "curvlinops-for-pytorch"))
