"""`import thawline`: the examples of its docstrings and of its page run as they stand, on a toy in place of photos."""

import doctest
import os
from pathlib import Path

import pytest
import yaml

import thawline
from components.core.errors import InputError
from tests.conftest import TOY
from tests.fakes.toy import write_points
from tests.support.command import ROOT, call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos/bird/crow.png` and others, all of them points, and the settings of the toy."""
    found = tmp_path_factory.mktemp("api")
    write_points(found / "photos", per_class=40)
    (found / "photos/class0").rename(found / "photos/bird")
    (found / "photos/bird/crow.png").write_text("2.0,0.0")
    (found / "toy.yaml").write_text(yaml.safe_dump({**TOY, "search_workers": 1, "thaw_epochs": 2}))
    return found


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("THAWLINE_HOME", str(folder / ".thawline"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run_examples(text: str, name: str) -> int:
    """Run the examples of a text; return how many there were."""
    toy = text.replace("trials=0", 'trials=0, quiet=True, config="toy.yaml"')
    found = doctest.DocTestParser().get_doctest(toy, {"thawline": thawline}, name, None, None)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=options).run(found)
    assert result.failed == 0
    return result.attempted


def test_the_examples_run() -> None:
    """Those of each function, then those of the page, in the folder that they speak of."""
    for one in (thawline.run, thawline.load, thawline.Model.predict, thawline.models):
        assert run_examples(one.__doc__ or "", one.__name__) > 0
    page = (ROOT / "docs/python.md").read_text().replace("```", "")
    assert run_examples(page, "python.md") > 5


def test_the_command_and_the_function_do_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the function trained is nothing new to the command, and both answer alike."""
    trained = thawline.run("photos", model="stamps", trials=0, config="toy.yaml", quiet=True)
    arguments = ("photos", "--model", "stamps", "--trials", "0", "--config", "toy.yaml", "--json")
    answer = call(capsys, monkeypatch, "run", *arguments)
    assert answer.status == 0
    again = thawline.Result.model_validate_json(answer.out.splitlines()[-1])
    assert (again.status, again.version, again.metrics) == ("skipped", trained.version, trained.metrics)
    printed = call(capsys, monkeypatch, "predict", "--model", "stamps", "photos/bird").out
    rows = [line.split("\t") for line in printed.splitlines()]
    answers = thawline.load("stamps").predict(Path("photos/bird"))
    assert [[name, label] for name, label, _ in rows] == answers[["record", "label"]].to_numpy().tolist()


def test_what_can_not_be_used_is_one_sentence() -> None:
    """The errors are those of the commands."""
    with pytest.raises(InputError, match="no file or folder 'gone'"):
        thawline.run("gone", quiet=True)
    with pytest.raises(InputError, match="trials"):
        thawline.run("photos", trials=-1, quiet=True)
    with pytest.raises(InputError, match="no model 'gone'"):
        thawline.load("gone")
    with pytest.raises(InputError, match="nothing to predict"):
        thawline.load("stamps").predict([])


def test_a_home_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds from then on; an empty one has no models."""
    monkeypatch.setenv("THAWLINE_HOME", os.environ["THAWLINE_HOME"])
    assert thawline.models(home=tmp_path) == []
    assert Path(os.environ["THAWLINE_HOME"]) == tmp_path.resolve()
