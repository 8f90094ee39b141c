"""Scoring and the decision."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.core import registry, runs, tracking
from components.core.errors import StepError
from components.core.examples import Examples
from components.evaluate import evaluate
from components.register import register
from tests.plain import PlainRun


def again(run: PlainRun, target: Path, key: str) -> tuple[bool, str]:
    """Evaluate the same checkpoint once more, as the next week's challenger."""
    text = run.settings.to_json()
    names = [target / name for name in ("served", "report.html")]
    target.mkdir()
    return evaluate(
        text,
        key,
        run.folder / "dataset",
        *run.digests,
        run.folder / "tuned",
        run.folder / "trials.json",
        *names,
        lambda _name, _value: None,
        lambda _classes, _matrix: None,
    )


def test_the_first_version_needs_more_than_the_majority(toy_run: PlainRun) -> None:
    """The lower bound of its accuracy beats the majority class, so the first version is accepted."""
    assert toy_run.accepted
    assert toy_run.champion == ""
    metrics = toy_run.result["metrics"]
    assert metrics["baseline_accuracy"] == pytest.approx(1 / 3, abs=0.05)
    assert metrics["accuracy"] > metrics["baseline_accuracy"]
    assert "First version" in toy_run.result["reason"]


def test_metrics_are_of_the_served_model_on_the_test_rows(toy_run: PlainRun) -> None:
    """The accuracy in MLflow is what the registered files answer on the test split, row by row."""
    examples = Examples(toy_run.folder / "dataset")
    rows = examples.rows("test")
    served = tracking.load_pyfunc(toy_run.folder / "served")
    answers = served.predict(pd.DataFrame({"point": examples.contents(rows)}))
    accuracy = np.mean(answers["label"].to_numpy() == np.array(examples.labels(rows)))
    assert toy_run.result["metrics"]["accuracy"] == toy_run.metrics["accuracy"] == pytest.approx(accuracy)
    assert np.sum(toy_run.confusion) == len(rows)


def test_headline_numbers_have_intervals_and_a_baseline(toy_run: PlainRun) -> None:
    """Accuracy, balanced accuracy, macro-F1, log loss, Brier score and ECE each come with both."""
    metrics = toy_run.result["metrics"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"], name
        assert f"baseline_{name}" in metrics


def test_the_report_is_kept_with_the_run(toy_run: PlainRun) -> None:
    """The report and the figures are artifacts in MLflow, and the report's path is in the result."""
    report = Path(toy_run.result["report"])
    assert report.read_text() == (toy_run.folder / "report.html").read_text()
    [run] = [r for r in tracking.find_runs("toy", toy_run.run_key, "step") if r.info.run_name == "evaluate"]
    names = {f.path for f in tracking.client().list_artifacts(run.info.run_id, "figures")}
    assert {"figures/learning_curves.svg", "figures/confusion_matrix.svg", "figures/reliability.svg"} <= names


def test_a_champion_against_itself_is_no_win(toy_home: PlainRun, tmp_path: Path) -> None:
    """The same model once more ties on every row: not accepted, and the evidence says so."""
    accepted, champion = again(toy_home, tmp_path / "again", "again")
    assert (accepted, champion) == (False, "1")
    [run] = [r for r in tracking.find_runs("toy", "again", "step") if r.info.run_name == "evaluate"]
    path = tracking.client().download_artifacts(run.info.run_id, "evidence.json", str(tmp_path))
    evidence = json.loads(Path(path).read_text())
    assert (evidence["wins"], evidence["losses"], evidence["p"]) == (0, 0, 1.0)


def test_a_champion_that_can_not_be_loaded_stops_the_run(toy_home: PlainRun, tmp_path: Path) -> None:
    """A damaged champion fails the step: without evidence nothing is promoted."""
    [file] = (runs.home() / "artifacts").rglob("MLmodel")
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(StepError, match="version 1 is refused"):
        again(toy_home, tmp_path / "again", "damaged")
    assert registry.current("toy", "champion") == "1"
    statuses = {r.info.run_name: r.info.status for r in tracking.find_runs("toy", "damaged", "step")}
    assert statuses == {"evaluate": "FAILED"}


def test_a_better_challenger_is_accepted(toy_home: PlainRun, tmp_path: Path) -> None:
    """Against a champion with a spoilt head, the good model wins on the same rows."""
    from components.core.checkpoints import load_checkpoint, save_checkpoint
    from components.core.settings import Hyperparameters

    run = toy_home
    text, dataset = run.settings.to_json(), run.folder / "dataset"
    network, facts = load_checkpoint(run.folder / "tuned")
    network.head[1].weight.data.zero_()  # always the same class
    chosen = Hyperparameters.model_validate(facts["hyperparameters"])
    spoilt = tmp_path / "spoilt"
    save_checkpoint(spoilt, network, run.settings, chosen, facts["classes"], {"history": facts["history"], "thawed": 0})
    served = tmp_path / "served"
    evaluate(
        text,
        "spoilt",
        dataset,
        *run.digests,
        spoilt,
        run.folder / "trials.json",
        served,
        tmp_path / "report.html",
        lambda _name, _value: None,
        lambda _classes, _matrix: None,
    )
    register(text, "spoilt", *run.digests, served, spoilt, "1", accepted=True)
    assert registry.current("toy", "champion") == "2"
    assert again(run, tmp_path / "again", "better") == (True, "2")
