"""A task whose labels are numbers, through the whole DAG: nothing of steps, core or DAG knows of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.registry import versions
from components.core.settings import Settings
from components.core.tracking import queries
from tests.conftest import use_home
from tests.fakes.toy import write_distances
from tests.support.command import thawline
from tests.support.plain import run_steps

pytestmark = pytest.mark.slow
OPTIONS = "--task tests.fakes.smallest_task --model far --head-learning-rate 0.03 --thaw 3 --thaw-learning-rate 0.03"
OPTIONS += " --label-smoothing 0 --trials 0 --head-epochs 30"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("numbers") / "home"


@pytest.fixture(scope="module")
def both(home: Path) -> list[dict[str, Any]]:
    """The results of a short training by the DAG, then of a long one on the same data by the steps alone."""
    source = write_distances(home.parent / "points", 300)
    short = ("--thaw-epochs", "15", "--json")
    answer = thawline("run", str(source), *OPTIONS.split(), *short, home=home, cwd=home.parent)
    assert answer.status == 0, answer.err
    [run] = (home / "runs").iterdir()
    settings = Settings.from_json((run / "settings.json").read_text()).model_copy(update={"thaw_epochs": 150})
    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        second = run_steps(source, settings, home.parent / "second")
    return [json.loads(answer.out.splitlines()[-1]), second.result]


@pytest.fixture
def results(both: list[dict[str, Any]], home: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The results of both runs, THAWLINE_HOME set to their home."""
    use_home(home, monkeypatch)
    return both


def test_the_first_one_beats_the_trivial_model(results: list[dict[str, Any]]) -> None:
    """A figure of which lower is better is accepted by its upper bound."""
    first = results[0]
    assert (first["metric"], first["version"], first["promoted"]) == ("error", "1", True)
    assert first["metrics"]["error"] < first["metrics"]["error_high"] < first["metrics"]["baseline_error"]
    assert "the upper bound of its error is below the trivial model" in first["reason"]


def test_a_permutation_test_decides_between_two(results: list[dict[str, Any]], tmp_path: Path) -> None:
    """Scores that are not right or wrong are compared by swapping the two models' answers."""
    second = results[1]
    assert second["promoted"], second["reason"]
    assert "beats the champion, version 1" in second["reason"]
    assert "swap permutation test" in second["reason"]
    path = queries.download(second["mlflow_run_id"], "evidence.json", tmp_path)
    assert path
    evidence = json.loads(path.read_text())
    assert evidence["gain"] > 0
    assert evidence["challenger"] < evidence["champion"]


def test_a_label_that_is_no_number_is_rejected(results: list[dict[str, Any]], home: Path) -> None:
    """The target says which labels can be learnt; the page says why one could not."""
    page = Path(results[0]["report"]).read_text()
    assert "the label is not a number" in page
    assert "300 examples from" in page


def test_the_signature_names_the_answers_columns(results: list[dict[str, Any]], tmp_path: Path) -> None:
    """What MLflow declares of a version comes from the task."""
    path, _ = versions.fetch("far", "1", tmp_path)
    outputs = yaml.safe_load((path / "MLmodel").read_text())["signature"]["outputs"]
    assert json.loads(outputs) == [{"type": "double", "name": "distance", "required": True}]


def test_predict_prints_the_answers_columns(results: list[dict[str, Any]], home: Path) -> None:
    """Points far from the origin and near to it are told apart by `thawline predict`."""
    said = thawline("predict", "--model", "far", "--text", "1.5,1.5", "--text", "0.1,0", home=home, cwd=home.parent)
    assert said.status == 0, said.err
    (far, a), (near, b) = (line.split("\t") for line in said.out.splitlines())
    assert (far, near) == ("1.5,1.5", "0.1,0")
    assert float(a) > 1.5
    assert float(b) < 1.0


def test_the_lists_show_the_tasks_own_metric(results: list[dict[str, Any]], home: Path) -> None:
    """Models and status name the figure instead of an accuracy that there is none of."""
    assert f"error {results[1]['metrics']['error']:.3f}" in thawline("models", "far", home=home, cwd=home.parent).out
    assert f"error {results[1]['metrics']['error']:.3f}" in thawline("status", home=home, cwd=home.parent).out
