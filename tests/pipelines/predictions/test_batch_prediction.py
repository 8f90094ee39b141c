"""Answers to many records in a Parquet file, written in parts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from pipelines.predictions import batch_prediction, prediction
from tests.support.command import call
from tests.support.plain import PlainRun


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_prediction, "PART", 4)


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """Ten points, one of which is none."""
    folder = tmp_path / "points"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"{i - 5},1" if i != 6 else "none")
    return folder


class Predict:
    """`thawline predict … --out` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, target: Path) -> None:
        self._capsys, self._patch, self.target = capsys, patch, target

    def __call__(self, *arguments: str, model: str = "toy") -> tuple[int, dict[str, object], str]:
        given = ("predict", "--model", model, *arguments, "--out", str(self.target), "--json")
        answer = call(self._capsys, self._patch, *given)
        return answer.status, json.loads(answer.out) if answer.out else {}, answer.err


@pytest.fixture
def predict(
    toy_run: PlainRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Predict:
    return Predict(capsys, monkeypatch, tmp_path / "answers.parquet")


def test_the_file_has_a_row_for_each_record(predict: Predict, points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the source, with what `predict` prints; a bad record has a reason, and makes the status 1."""
    status, said, err = predict(str(points))
    assert (status, said["records"], said["unanswered"], said["kept"]) == (1, 10, 1, 0)
    assert "9 of 10 records are answered" in err
    table = pd.read_parquet(predict.target)
    assert table["record"].tolist() == [str(points / f"{i}.txt") for i in range(10)]
    assert table["label"].isna().tolist() == [i == 6 for i in range(10)]
    assert "could not convert" in table["reason"][6]
    assert set(table["version"]) == {"1"}
    assert dict(table["probabilities"][0])[table["label"][0]] > 0.3
    assert pq.ParquetFile(predict.target).num_row_groups == 3
    assert [*predict.target.parent.glob("answers*")] == [predict.target]


def test_a_run_that_was_ended_goes_on(predict: Predict, points: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are whole are kept, if they are of the same records and version; half a part is written again."""
    asked: list[str] = []

    def answered(served: object, records: list[prediction.Record]) -> Iterator[object]:
        asked.extend(Path(record.name).stem for record in records)
        if "9" in asked[-2:]:
            raise RuntimeError("ended")
        yield from prediction.answered(served, records)

    with monkeypatch.context() as patch:
        patch.setattr(batch_prediction, "answered", answered)
        with pytest.raises(RuntimeError, match="ended"):
            predict(str(points))
    assert not predict.target.exists()
    parts = predict.target.with_name("answers.parquet.parts")
    assert len([*parts.glob("*.parquet")]) == 2
    (parts / "00000001.parquet").write_bytes((parts / "00000001.parquet").read_bytes()[:-10])
    asked.clear()
    (points / "8.txt").unlink()
    status, said, _ = predict(str(points))
    assert (status, said["records"], said["kept"]) == (1, 9, 4)
    assert len(pd.read_parquet(predict.target)) == 9


def test_other_records_are_answered_again(predict: Predict, points: Path) -> None:
    """A part names its records: what another source left beside the file is not taken for the answers."""
    parts = predict.target.with_name("answers.parquet.parts")
    predict(str(points))
    table = pq.read_table(predict.target)
    predict.target.unlink()
    parts.mkdir()
    pq.write_table(table.slice(0, 4), parts / "00000000.parquet")
    pq.write_table(table.slice(4, 4).replace_schema_metadata(None), parts / "00000001.parquet")
    pq.write_table(table.slice(0, 2), parts / "00000002.parquet")
    _, said, _ = predict(str(points))
    assert said["kept"] == 4


def test_a_manifest_is_its_records(predict: Predict, points: Path, tmp_path: Path) -> None:
    """With its records in other files or in its rows; a label is not needed."""
    (tmp_path / "files.csv").write_text("uri\npoints/1.txt\npoints/gone.txt\n")
    (tmp_path / "rows.csv").write_text('text\n"1,1"\n')
    status, said, _ = predict(str(tmp_path / "files.csv"), str(tmp_path / "rows.csv"))
    assert (status, said["records"], said["unanswered"]) == (1, 3, 1)
    table = pd.read_parquet(predict.target)
    assert table["record"][2] == f"{tmp_path / 'rows.csv'}#row=1"
    assert table["reason"][1] == "unreadable: no such file or directory"


def test_what_can_not_be_written_is_one_sentence(predict: Predict, points: Path, tmp_path: Path) -> None:
    """A file that is there stays; a second run does not disturb the first; nothing to predict is no file."""
    parts = predict.target.with_name("answers.parquet.parts")
    parts.mkdir()
    with FileLock(parts / "lock"):
        status, _, err = predict(str(points))
        assert (status, "Another run writes" in err) == (2, True)
    (tmp_path / "empty.csv").write_text("uri\n")
    status, _, err = predict(str(tmp_path / "empty.csv"))
    assert (status, "nothing to predict" in err) == (2, True)
    predict.target.write_text("mine")
    status, _, err = predict(str(points))
    assert (status, "is there already" in err, predict.target.read_text()) == (2, True, "mine")
