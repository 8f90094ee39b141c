"""Numbers and several labels for real photos, through the whole pipeline by the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.local.demo import fetch_demo
from tests.conftest import use_home
from tests.data.measured_photos import write_measured
from tests.support.command import ROOT, Answer, call, on_all_cores

pytestmark = pytest.mark.slow
Predicted = Callable[[str], tuple[str, dict[str, Any]]]
OPTIONS = "--weights package:efficientnet-lite0 --image-size 64 --trials 0 --thaw 0 --head-epochs 150 --patience 40"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = ROOT / ".thawline/demo/stamps"
    photos.parent.mkdir(parents=True, exist_ok=True)
    fetch_demo(photos)
    folder = tmp_path_factory.mktemp("measured")
    write_measured(photos, folder)
    return folder


def run(folder: Path, name: str, target: str, *more: str) -> Answer:
    options = [*OPTIONS.split(), "--option", f"target={target}", "--json", *more]
    return on_all_cores("run", str(folder / f"{name}.jsonl"), *options, home=folder / "home")


@pytest.fixture
def predicted(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predicted:
    """What `predict` prints of a model's first photo, and says as JSON."""

    def predict(model: str) -> tuple[str, dict[str, Any]]:
        photo = json.loads((folder / f"{model}.jsonl").read_text().splitlines()[0])["uri"]
        use_home(folder / "home", monkeypatch)
        text, told = (
            call(capsys, monkeypatch, "predict", "--model", f"{model}@challenger", photo, *more)
            for more in ([], ["--json"])
        )
        assert (text.status, told.status) == (0, 0), text.err
        return text.out, json.loads(told.out)["predictions"][0]

    return predict


def test_numbers_go_the_whole_way(folder: Path, predicted: Predicted) -> None:
    """How much of a photo its thing covers is learnt; answers have an interval, and the report a figure."""
    answer = run(folder, "cover", "number", "--head-learning-rate", "0.001")
    assert answer.status == 0, answer.err
    result = json.loads(answer.out.splitlines()[-1])
    metrics = result["metrics"]
    assert result["metric"] == "r2"
    assert metrics["r2"] > 0.5 > metrics["baseline_r2"]  # 50 photos tell it roughly
    assert metrics["mae"] < metrics["baseline_mae"]
    page = Path(result["report"]).read_text()
    assert "Predicted and true numbers" in page
    assert "Largest errors" in page
    text, told = predicted("cover")
    assert told["low"] < told["number"] < told["high"]
    assert text.split("\t")[1] == f"{told['number']:.4g}"


def test_several_labels_go_the_whole_way(folder: Path, predicted: Predicted) -> None:
    """Tags of photos are learnt better than the best constant answer."""
    answer = run(folder, "tags", "labels")
    assert answer.status == 0, answer.err
    result = json.loads(answer.out.splitlines()[-1])
    metrics = result["metrics"]
    assert (result["metric"], result["promoted"]) == ("micro_f1", True)
    assert metrics["map"] > metrics["baseline_map"]
    assert "a row may have several" in Path(result["report"]).read_text()
    text, told = predicted("tags")
    assert told["labels"] == [name for name, chance in told["probabilities"].items() if chance >= 0.5]
    assert text.split("\t")[1] == ", ".join(told["labels"])
