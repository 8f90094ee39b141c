"""The whole pipeline on real texts with a real pretrained encoder, by the command line."""

import json
import shutil
from pathlib import Path

import pytest

from tests.data.fortunes import write_fortunes
from tests.support.command import ROOT, on_all_cores

pytestmark = pytest.mark.slow
OPTIONS = "--task text_classification --weights package:all-minilm-l6-v2 --trials 0 --thaw-epochs 1"
OPTIONS += " --option max_length=96 --json"


@pytest.fixture(scope="module")
def fortunes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts on sixteen topics out of the packages, which are kept beside the demo's photos."""
    everything = ROOT / ".thawline/demo/fortunes.csv"
    everything.parent.mkdir(parents=True, exist_ok=True)
    write_fortunes(everything)
    return Path(shutil.copy(everything, tmp_path_factory.mktemp("fortunes")))


@pytest.fixture(scope="module")
def run(fortunes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """One run with MiniLM; its result and its home."""
    home = tmp_path_factory.mktemp("texts") / "home"
    done = on_all_cores("run", str(fortunes), *OPTIONS.split(), home=home)
    assert done.status == 0, done.err
    return json.loads(done.out.splitlines()[-1]), home


def test_a_champion_comes_out(run: tuple[dict, Path]) -> None:
    """The first model is far above the majority class, and stands beside TF-IDF."""
    result, _ = run
    assert (result["status"], result["version"], result["promoted"]) == ("succeeded", "1", True)
    assert result["metrics"]["accuracy"] >= 0.62 > result["metrics"]["reference_accuracy"] > 0.4
    page = Path(result["report"]).read_text()
    assert "TF-IDF with logistic regression" in page
    assert "<blockquote>" in page


def test_the_champion_answers_a_line(run: tuple[dict, Path]) -> None:
    """`thawline predict --text` answers from the registry."""
    _, home = run
    lines = ["The recipe says to bake the cheese until brown.", "The judge asked the lawyer to sit down."]
    asked = [part for line in lines for part in ("--text", line)]
    done = on_all_cores("predict", "--model", "fortunes", *asked, "--json", home=home)
    assert done.status == 0, done.err
    assert [row["label"] for row in json.loads(done.out)["predictions"]] == ["food", "law"]


def test_nothing_is_trained_twice(run: tuple[dict, Path], fortunes: Path) -> None:
    """The same texts, though they lie in the manifest itself, are known again."""
    result, home = run
    done = on_all_cores("run", str(fortunes), *OPTIONS.split(), home=home)
    again = json.loads(done.out.splitlines()[-1])
    assert (again["status"], again["same_as"]) == ("skipped", result["mlflow_run_id"])
