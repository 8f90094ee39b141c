"""Scoring and the decision."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from components.core.activations.store import store
from components.core.data.examples import Examples
from components.core.errors import StepError
from components.core.registry import versions
from components.core.registry.serving import agree
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking import pyfunc, queries
from components.core.tracking.service import connection
from components.core.training.checkpoints import FACTS, WEIGHTS, read_facts
from components.evaluate import Evaluated, evaluate
from components.finish import finish
from components.register import register
from tests.conftest import TOY
from tests.support.plain import PlainRun, run_steps

pytestmark = pytest.mark.usefixtures("smoke_tested", "undrawn")  # their seconds are spent in whole runs


def again(run: PlainRun, target: Path, key: str, checkpoint: Path | None = None) -> Evaluated:
    """Evaluate the run's checkpoint once more, or another one, as the next week's challenger."""
    text = run.settings.to_json()
    names = [target / name for name in ("served", "report.html")]
    target.mkdir()
    return evaluate(
        text,
        key,
        run.folder / "dataset",
        checkpoint or run.folder / "tuned",
        run.folder / "trials.json",
        *names,
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
    served = pyfunc.load_pyfunc(toy_run.folder / "served")
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


def test_the_linear_probe_stands_beside_the_model(toy_run: PlainRun) -> None:
    """Every metric of the probe is in MLflow and in the result, and the report names it."""
    metrics = toy_run.result["metrics"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece"):
        assert f"probe_{name}" in metrics
    assert metrics["probe_accuracy"] > metrics["baseline_accuracy"]
    assert "· linear probe" in (toy_run.folder / "report.html").read_text()


@pytest.mark.slow
def test_a_model_below_the_probe_is_told(toy_home: PlainRun, tmp_path: Path) -> None:
    """A head that knows nothing: the result, the report and the pipeline's own page say what beats it."""
    shutil.copytree(toy_home.folder / "tuned", tmp_path / "spoilt")
    state = load_file(tmp_path / "spoilt" / WEIGHTS)
    save_file(
        {name: t * 0 if name.startswith("head") else t for name, t in state.items()}, tmp_path / "spoilt" / WEIGHTS
    )
    _, _, shown, _ = again(toy_home, tmp_path / "again", "again", tmp_path / "spoilt")
    sentence = finish(toy_home.settings.to_json(), "again", "SUCCEEDED").reference
    assert sentence.startswith("This model does not beat a linear probe of the same network on the ")
    assert shown["reference"] == sentence
    assert sentence in (tmp_path / "again" / "report.html").read_text()


def test_two_weeks_are_compared_by_the_pipelines_runs(toy_run: PlainRun, tmp_path: Path) -> None:
    """A pipeline's run has all that MLflow compares: data, validation and test figures, hyperparameters, evidence."""
    [run] = queries.find_runs("toy", toy_run.run_key, "pipeline")
    metrics, params = run.data.metrics, run.data.params
    assert {"data/examples", "data/new", "data/gone", "train/loss", "val/loss", "val/accuracy"} <= metrics.keys()
    assert all("/" in name for name in metrics)
    assert metrics["data/examples"] == metrics["data/new"] > 0
    assert params["thaw"] in ("1", "2", "3")
    assert all(len(params[name]) < 10 for name in ("weight_decay", "layer_decay"))
    assert not [name for name, value in params.items() if value in ("", "{}", "None")]
    evidence = queries.download(run.info.run_id, "evidence.json", tmp_path)
    assert evidence
    assert json.loads(evidence.read_text())["rule"] == "baseline"


def test_what_reuse_saved_is_a_number_by_step(toy_run: PlainRun) -> None:
    """Every step that reads activations says what that saved; the pipeline's run has these and their sum."""
    metrics = toy_run.result["metrics"]
    steps = {name: metrics[f"saved_seconds_{name}"] for name in ("search", "train_head", "fine_tune", "evaluate")}
    assert metrics["saved_seconds"] == pytest.approx(sum(steps.values()))
    runs_ = queries.find_runs("toy", toy_run.run_key, "step")
    assert {r.info.run_name: r.data.metrics["time/saved_seconds"] for r in runs_ if r.info.run_name in steps} == steps


def test_the_report_is_kept_with_the_run(toy_run: PlainRun) -> None:
    """The report and the figures are artifacts in MLflow, and the report's path is in the result."""
    report = Path(toy_run.result["report"])
    assert report.read_text() == (toy_run.folder / "report.html").read_text()
    [run] = [r for r in queries.find_runs("toy", toy_run.run_key, "step") if r.info.run_name == "evaluate"]
    names = {f.path for f in connection.client().list_artifacts(run.info.run_id, "figures")}
    assert {"figures/learning_curves.svg", "figures/confusion_matrix.svg", "figures/reliability.svg"} <= names


def evidence_of(key: str, folder: Path) -> dict[str, Any]:
    """The evidence that a run left."""
    [run] = queries.find_runs("toy", key, "pipeline")
    path = connection.client().download_artifacts(run.info.run_id, "evidence.json", str(folder))
    return dict(json.loads(Path(path).read_text()))


def touched(run: PlainRun, folder: Path) -> Path:
    """The run's checkpoint with a head that answers the same by other weights."""
    shutil.copytree(run.folder / "tuned", folder)
    state = load_file(folder / "network.safetensors")
    save_file({name: t * 1.5 if name.startswith("head") else t for name, t in state.items()}, folder / WEIGHTS)
    return folder


def test_what_training_calibrated_is_served(toy_home: PlainRun, tmp_path: Path) -> None:
    """A temperature that held-out rows chose stands in the checkpoint, and reaches the served model as it is."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(toy_home.folder / "tuned", checkpoint)
    facts = read_facts(checkpoint)
    (checkpoint / FACTS).write_text(json.dumps({**facts, "calibration": {"temperature": 1.75}}))
    again(toy_home, tmp_path / "week", "calibrated", checkpoint)
    served = json.loads(next((tmp_path / "week" / "served").rglob("serving.json")).read_text())
    assert served["temperature"] == 1.75


def test_a_champion_against_itself_is_no_contest(toy_home: PlainRun, tmp_path: Path) -> None:
    """The same weights once more: not accepted, and no look is spent on it."""
    accepted, champion, *_ = again(toy_home, tmp_path / "again", "again")
    assert (accepted, champion) == (False, "1")
    assert queries.recorded("toy", "thawline.look") == []
    [pipeline] = queries.find_runs("toy", "again", "pipeline")
    assert "is identical to the champion, version 1" in pipeline.data.tags["thawline.decision"]


def test_a_model_with_the_champions_answers_ties(toy_home: PlainRun, tmp_path: Path) -> None:
    """Other weights, the same answers: a tie keeps the champion, and the evidence says so."""
    accepted, champion, shown, _ = again(toy_home, tmp_path / "again", "again", touched(toy_home, tmp_path / "touched"))
    assert (accepted, champion) == (False, "1")
    assert (shown["accepted"], shown["compared_with"]) == ("no", "version 1")
    assert shown["champion_accuracy"] == shown["accuracy"] == toy_home.metrics["accuracy"]
    evidence = evidence_of("again", tmp_path)
    assert (evidence["wins"], evidence["losses"], evidence["p"]) == (0, 0, 1.0)
    assert (evidence["look"], evidence["horizon"], evidence["opened"]) == (1, 26, "the first look")
    assert evidence["champion_digest"] != evidence["challenger_digest"]
    assert len(evidence["test_digest"]) == 64


def looks(key: str) -> str:
    """The look that a run recorded."""
    [run] = [r for r in queries.find_runs("toy", key, "step") if r.info.run_name == "evaluate"]
    return str(run.data.tags["thawline.look"])


def test_figures_from_other_test_rows_decide_nothing(toy_home: PlainRun, tmp_path: Path) -> None:
    """What the registry and MLflow say of the champion's accuracy is never compared with: the two answer anew."""
    run = connection.client().get_model_version("toy", "1").run_id
    connection.client().log_metric(run, "accuracy", 0.0)
    connection.client().set_model_version_tag("toy", "1", "thawline.accuracy", "0.0")
    accepted, champion, *_ = again(toy_home, tmp_path / "again", "again", touched(toy_home, tmp_path / "touched"))
    assert (accepted, champion) == (False, "1")
    evidence = evidence_of("again", tmp_path)
    assert evidence["champion"] == evidence["challenger"] > 0.5
    assert (evidence["accepted"], "a tie keeps the champion" in evidence["sentence"]) == (False, True)


@pytest.mark.slow
def test_every_look_at_the_test_rows_counts(toy_home: PlainRun, tmp_path: Path) -> None:
    """A run that fails after it looked, and one that was deleted, have had their looks too."""
    other = touched(toy_home, tmp_path / "touched")
    again(toy_home, tmp_path / "first", "first", other)
    [file] = (home_folder.home() / "artifacts").rglob("MLmodel")
    content = file.read_bytes()
    file.write_bytes(content + b"\n")
    with pytest.raises(StepError, match="version 1 is refused"):
        again(toy_home, tmp_path / "unread", "unread", other)  # its champion could not be asked: no look
    file.write_bytes(content)
    [run] = [r for r in queries.find_runs("toy", "first", "step") if r.info.run_name == "evaluate"]
    connection.client().delete_run(run.info.run_id)
    again(toy_home, tmp_path / "second", "second", other)
    assert json.loads(looks("second")) == {"horizon": 26, "alpha": 0.05, "number": 2, "opening": 1}


def test_a_challenger_that_saw_the_test_rows_stops_the_run(toy_home: PlainRun, tmp_path: Path) -> None:
    """Outputs of two runs mixed: the checkpoint was trained on rows that this dataset tests."""
    rows = pq.read_table(toy_home.folder / "tuned" / "training.parquet")
    examples = Examples(toy_home.folder / "dataset")
    shutil.copytree(toy_home.folder / "tuned", tmp_path / "tuned")
    leaked = pa.table({"id": examples.ids(examples.rows("test")[:1]), "fingerprint": [""]})
    leaked = leaked.cast(rows.schema.remove_metadata()).replace_schema_metadata(rows.schema.metadata)
    pq.write_table(leaked, tmp_path / "tuned" / "training.parquet")
    with pytest.raises(StepError, match="1 test rows are among those"):
        again(toy_home, tmp_path / "again", "leak", tmp_path / "tuned")


def test_a_champion_that_can_not_be_loaded_stops_the_run(toy_home: PlainRun, tmp_path: Path) -> None:
    """A damaged champion fails the step: without evidence nothing is promoted."""
    [file] = (home_folder.home() / "artifacts").rglob("MLmodel")
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(StepError, match="version 1 is refused"):
        again(toy_home, tmp_path / "again", "damaged")
    assert versions.current("toy", "champion") == "1"
    statuses = {r.info.run_name: r.info.status for r in queries.find_runs("toy", "damaged", "step")}
    assert statuses == {"evaluate": "FAILED"}


def test_a_better_challenger_is_accepted(toy_home: PlainRun, tmp_path: Path) -> None:
    """Against a champion with a spoilt head, the good model wins on the same rows."""
    from components.core.settings import Hyperparameters
    from components.core.training.checkpoints import load_checkpoint, save_checkpoint

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
        spoilt,
        run.folder / "trials.json",
        served,
        tmp_path / "report.html",
    )
    register(text, "spoilt", served, spoilt, "1", accepted=True)
    assert versions.current("toy", "champion") == "2"
    assert again(run, tmp_path / "again", "better")[:2] == (True, "2")


def test_answers_agree_within_rounding_only() -> None:
    """Another label, another figure or another shape is no agreement."""
    rows = pd.DataFrame([{"label": "a", "probabilities": {"a": 0.7, "b": 0.3}}])
    assert agree(rows, pd.DataFrame([{"label": "a", "probabilities": {"a": 0.7001, "b": 0.2999}}]))
    assert not agree(rows, pd.DataFrame([{"label": "b", "probabilities": {"a": 0.7, "b": 0.3}}]))
    assert not agree(rows, pd.DataFrame([{"label": "a", "probabilities": {"a": 0.71, "b": 0.29}}]))
    assert not agree(rows, pd.DataFrame([{"label": "a", "probabilities": {"a": 0.7}}]))


def test_answers_in_a_large_unit_agree_within_rounding() -> None:
    """Prices that differ by the rounding of float32 are the same; by more than a thousandth of their spread, not."""
    prices = pd.DataFrame({"number": [1e5, 5e5], "low": [0.0, 4e5], "high": [2e5, 6e5]})
    assert agree(prices + 0.05, prices)
    assert not agree(prices + 1e3, prices)
    assert not agree(prices / 1e6 + 0.01, prices / 1e6)


@pytest.mark.slow
def test_champion_and_challenger_share_frozen_stages(toy_home: PlainRun, tmp_path: Path) -> None:
    """Where the champion has the challenger's frozen stages, its rows are read, not computed."""
    run = toy_home.settings.model_copy(update={"activations": "keep"})
    toy_home.settings = run
    other = touched(toy_home, tmp_path / "touched")
    again(toy_home, tmp_path / "first", "first", other)
    before = {path: path.stat().st_size for path in store().rglob("index")}
    again(toy_home, tmp_path / "second", "second", other)
    assert {path: path.stat().st_size for path in store().rglob("index")} == before
    assert before


@pytest.mark.slow
def test_few_groups_end_no_run(tracked_home: Path, tmp_path: Path) -> None:
    """Two classes of four groups each are trained, judged and registered; what needs more groups is left out."""
    source = tmp_path / "points.csv"
    generator, rows = np.random.default_rng(0), ["text,label,group"]
    for group in range(8):
        points = generator.normal((4 * (group % 2) - 2, 0.0), 0.5, (8, 2))
        rows += [f'"{x:.6f},{y:.6f}",class{group % 2},g{group}' for x, y in points]
    source.write_text("\n".join(rows))
    settings = Settings(**TOY | {"head_epochs": 3}, trials=0, thaw=0)
    first = run_steps(source, settings, tmp_path / "first")
    assert first.result["status"] == "succeeded"
    more = [f'"{x:.6f},0.1",class0,g0' for x in np.linspace(-2, -1, 25)]
    source.write_text("\n".join([*rows, *more]))
    assert run_steps(source, settings, tmp_path / "second").result["status"] == "succeeded"
