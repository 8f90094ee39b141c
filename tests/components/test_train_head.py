"""The head phase as a step."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import components.train_head
from components.core.errors import StepError
from components.core.networks.network import Network
from components.core.tracking import queries
from components.core.tracking.service import connection
from components.core.training import deadlines
from components.core.training.checkpoints import read_facts
from components.train_head import train_head
from tests.support.plain import PlainRun


def test_the_head_learns(toy_run: PlainRun) -> None:
    """The head-only checkpoint beats a third on three equal classes and says that nothing is thawed."""
    facts = read_facts(toy_run.folder / "head")
    best = min(facts["history"], key=lambda figures: figures["loss"])
    assert best["accuracy"] > 0.6
    assert facts["thawed"] == 0
    assert {figures["phase"] for figures in facts["history"]} == {"head"}


def test_every_epoch_is_in_mlflow(toy_run: PlainRun) -> None:
    """Losses, metric, rate and time of each epoch are metrics of the step's run, step by epoch."""
    facts = read_facts(toy_run.folder / "head")
    [run] = [r for r in queries.find_runs("toy", toy_run.run_key, "step") if r.info.run_name == "train_head"]
    for name in ("train/loss", "val/loss", "val/accuracy", "train/learning_rate", "train/seconds"):
        logged = connection.client().get_metric_history(run.info.run_id, name)
        assert [m.step for m in logged] == list(range(len(facts["history"]))), name
    losses = [m.value for m in connection.client().get_metric_history(run.info.run_id, "val/loss")]
    assert losses == [figures["loss"] for figures in facts["history"]]


def test_the_pretrained_stages_are_untouched(toy_run: PlainRun) -> None:
    """The stages' digests of the head-only checkpoint are those of the pretrained network."""
    from components.core.networks.weights import state_digest
    from tests.fakes import toy

    pretrained = toy.build(toy_run.settings, ["a", "b", "c"], 0.0)
    expected = [state_digest(stage.state_dict()) for stage in pretrained.stages]
    assert read_facts(toy_run.folder / "head")["stage_digests"][:-1] == expected


def test_a_solved_head_is_one_epoch_in_mlflow(toy_home: PlainRun, tmp_path: Path) -> None:
    """The step's run has the held-out loss and the strength of a solved head, and the checkpoint the same figures."""
    text = toy_home.settings.model_copy(update={"head_solver": "auto"}).to_json()
    loss = train_head(
        text, "solved", toy_home.folder / "dataset", json.dumps(toy_home.hyperparameters), tmp_path / "head"
    )
    facts = read_facts(tmp_path / "head")
    [figures] = facts["history"]
    assert set(facts["calibration"]) == {"temperature"}
    assert read_facts(toy_home.folder / "head")["calibration"] is None  # trained in epochs: rows of its own calibrate
    [run] = queries.find_runs("toy", "solved", "step")
    assert run.data.metrics["val/loss"] == pytest.approx(loss)
    assert "without --head-epochs and --head-learning-rate" in run.data.tags["thawline.notes"]
    assert run.data.metrics["train/strength"] == pytest.approx(figures["strength"])
    assert figures["accuracy"] > 0.6


def test_a_deadline_leaves_the_best_so_far(toy_home: PlainRun, tmp_path: Path) -> None:
    """With no time left the head still trains one epoch, writes its checkpoint, and says what was cut."""
    text = toy_home.settings.model_copy(update={"step_max_minutes": 1e-6}).to_json()
    chosen, dataset = json.dumps(toy_home.hyperparameters), toy_home.folder / "dataset"
    train_head(text, "late", dataset, chosen, tmp_path / "head")
    assert len(read_facts(tmp_path / "head")["history"]) == 1
    [pipeline] = queries.find_runs("toy", "late", "pipeline")
    told = "The training of the head stopped after 1 of 12 epochs: --step-max-minutes 1e-06 was used up."
    assert deadlines.cuts(pipeline.data.tags) == told


def test_a_head_that_diverges_fails_the_step(toy_home: PlainRun, tmp_path: Path) -> None:
    """A rate at which nothing is learned ends with a sentence, not with an untrained model."""
    settings = toy_home.settings.model_copy(update={"optimizer": "sgd", "clip_norm": 0.0})
    chosen = json.dumps({**toy_home.hyperparameters, "head_learning_rate": 1e38})
    dataset = toy_home.folder / "dataset"
    with pytest.raises(StepError, match="diverged"):
        train_head(settings.to_json(), "wild", dataset, chosen, tmp_path / "head")


def test_a_network_that_overflows_is_told_from_a_rate(
    toy_home: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that are not finite end a head that trains in epochs with their own sentence, as a solved one."""
    build = components.train_head.build_network

    def overflowing(*arguments: Any) -> Network:
        network = build(*arguments)
        network.stages[-1] = nn.Sequential(network.stages[-1], nn.Threshold(2.0, float("inf")))
        network.weights_digest = "overflows"
        return network

    monkeypatch.setattr(components.train_head, "build_network", overflowing)
    chosen, dataset = json.dumps(toy_home.hyperparameters), toy_home.folder / "dataset"
    with pytest.raises(StepError, match="features that are not finite"):
        train_head(toy_home.settings.to_json(), "overflow", dataset, chosen, tmp_path / "head")
