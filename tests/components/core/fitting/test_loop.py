"""The training loop."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.core.contract.listener import Callbacks
from components.core.fitting.loop import (
    EVALUATION_BATCH,
    fit,
    make_optimizer,
    output_batches,
    outputs_of,
    warmup_cosine,
)
from components.core.networks.network import Network, set_thawed

POINTS = torch.cat([torch.randn(40, 2, generator=torch.Generator().manual_seed(1)) + shift for shift in (-2, 2)])
TARGETS = torch.arange(2).repeat_interleave(40)


def tiny() -> Network:
    torch.manual_seed(0)
    return Network([nn.Sequential(nn.Linear(2, 8), nn.Tanh()) for _ in range(1)], nn.Linear(8, 2), {})


class Pairs(nn.Module):
    """A head with two outputs."""

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """The rows and their sums."""
        return {"same": rows, "sum": rows.sum(1)}


def batches(_epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    for rows in torch.arange(80).view(16, 5).t()[first:]:
        yield POINTS[rows], TARGETS[rows]


def validate(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    accuracy = (outputs.argmax(1) == targets).float().mean()
    return {"loss": float(functional.cross_entropy(outputs, targets)), "accuracy": float(accuracy)}


def train(
    network: Network,
    rate: float = 0.1,
    epochs: int = 8,
    patience: int = 8,
    *,
    validated: bool = True,
    **options: object,
) -> list[dict]:
    set_thawed(network, 1)
    optimizer = make_optimizer(network, 0, "adamw", rate, 0.5, 0.01)
    schedule = warmup_cosine(optimizer, 5 * epochs, 0.1)
    arguments = {"clip_norm": 1.0, **options}
    validation = (POINTS, TARGETS) if validated else None
    loss = functional.cross_entropy
    return fit(
        network,
        0,
        batches,
        validation,
        loss,
        validate,
        optimizer,
        schedule,
        epochs=epochs,
        patience=patience,
        **arguments,
    )


def test_it_learns() -> None:
    """Two separate clouds of points are told apart after a few epochs."""
    history = train(tiny())
    assert history[-1]["accuracy"] > 0.95
    assert history[-1]["loss"] < history[0]["loss"]


def test_same_seed_same_weights() -> None:
    """Two trainings from one seed end in the same weights, bit for bit."""
    one, two = tiny(), tiny()
    train(one)
    train(two)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_stopping_keeps_the_best_so_far() -> None:
    """Training that is told to stop ends before the next epoch, with the best epoch's weights in the network."""
    asked: list[float] = []

    def stop(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) == 3

    network = tiny()
    history = train(network, rate=3.0, epochs=8, listener=Callbacks(should_stop=stop))
    assert asked == [figures["seconds"] for figures in history]
    assert len(history) == 3
    best = min(history, key=lambda figures: figures["loss"])
    outputs = outputs_of(network, 0, POINTS, torch.device("cpu"))
    assert validate(outputs, TARGETS)["loss"] == pytest.approx(best["loss"], abs=1e-6)
    asked.clear()
    assert len(train(tiny(), epochs=2, listener=Callbacks(should_stop=stop))) == 2
    assert len(asked) == 1  # after the last epoch there is nothing to stop


def test_best_weights_are_kept() -> None:
    """The network ends with the weights of the epoch with the lowest validation loss, which is marked."""
    network = tiny()
    history = train(network, rate=3.0, epochs=6)
    best = min(history, key=lambda figures: figures["loss"])
    outputs = outputs_of(network, 0, POINTS, torch.device("cpu"))
    assert validate(outputs, TARGETS)["loss"] == pytest.approx(best["loss"], abs=1e-6)
    assert [figures["best"] for figures in history].index(1.0) == best["epoch"]


def test_outputs_of_all_rows_are_those_of_their_batches() -> None:
    """However many batches they take, outputs stand in the order of the rows, in every tensor."""
    network = Network([nn.Identity()], Pairs(), {})
    rows = torch.randn(2 * EVALUATION_BATCH + 3, 2)
    device = torch.device("cpu")
    for some in (rows, rows[:5]):
        found = outputs_of(network, 1, some, device)
        parts = [*output_batches(network, 1, some, device, slice(0, len(some)))]
        assert torch.equal(found["same"], some)
        assert torch.equal(found["sum"], torch.cat([part["sum"] for part in parts]))


def test_early_stopping_waits_for_patience() -> None:
    """Training ends `patience` epochs after the last better one."""
    losses = iter([1.0, 0.5, 0.6, 0.7, 0.8, 0.1])
    network = tiny()
    set_thawed(network, 0)
    optimizer = make_optimizer(network, 1, "sgd", 0.1, 1.0, 0.0)
    history = fit(
        network,
        0,
        batches,
        (POINTS, TARGETS),
        functional.cross_entropy,
        lambda _outputs, _targets: {"loss": next(losses)},
        optimizer,
        warmup_cosine(optimizer, 100, 0.0),
        epochs=20,
        patience=3,
        clip_norm=0.0,
    )
    assert [figures["loss"] for figures in history] == [1.0, 0.5, 0.6, 0.7, 0.8]


def test_report_can_end_the_training() -> None:
    """What `epoch` raises comes out, which is how the search prunes."""

    def stop(figures: dict[str, float]) -> None:
        if figures["epoch"] == 1:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        train(tiny(), listener=Callbacks(epoch=stop))


def test_divergence_stops() -> None:
    """A loss that is not finite ends the training; the epoch is not in the history, nor are its weights kept."""
    network = tiny()
    history = train(network, rate=1e30, epochs=20, clip_norm=0.0)
    assert len(history) < 20
    assert all(math.isfinite(value) for figures in history for value in figures.values())
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


@pytest.mark.parametrize("validated", [True, False])
def test_weights_that_diverged_are_never_kept(*, validated: bool) -> None:
    """With validation rows and without, a training that diverges at once leaves the weights that it began with."""
    network = tiny()
    before = [parameter.clone() for parameter in network.parameters()]
    assert train(network, rate=float("inf"), epochs=3, clip_norm=0.0, validated=validated) == []
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_without_validation_rows_the_last_epoch_is_kept() -> None:
    """All epochs are trained, and each is better than the one before."""
    history = train(tiny(), epochs=4, patience=1, validated=False)
    assert [figures["best"] for figures in history] == [0.0, 0.0, 0.0, 1.0]


def test_deeper_stages_have_lower_rates() -> None:
    """The head trains at the full rate, each stage below at the decayed one; norms and biases don't decay."""
    network = Network([nn.Linear(2, 2), nn.Linear(2, 2)], nn.Linear(2, 2), {})
    set_thawed(network, 2)
    optimizer = make_optimizer(network, 0, "adamw", 1.0, 0.5, 0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0] * 3


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_steps_are_the_usual_ones(name: str) -> None:
    """On a CPU the optimizer updates in one pass; in double precision it gives the weights of the unfused one."""
    ends = []
    for fused in (True, False):
        network = tiny().double()
        optimizer = make_optimizer(network, set_thawed(network, 1), name, 0.05, 0.5, 0.1)
        assert all(group["fused"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(5):
            optimizer.zero_grad()
            functional.cross_entropy(network(POINTS.double()), TARGETS).backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_frozen_parameters_are_not_optimised(name: str) -> None:
    """Every optimizer holds the parameters above the line only."""
    network = tiny()
    line = set_thawed(network, 0)
    optimizer = make_optimizer(network, line, name, 0.1, 0.5, 0.0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in network.head.parameters()}


def test_schedule_warms_up_and_ends_at_zero() -> None:
    """The rate rises to its peak over the warm-up and falls to zero along half a cosine."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = warmup_cosine(optimizer, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.01
    assert not math.isnan(sum(rates))
