"""Accepting changed labels of test rows."""

import shutil
from pathlib import Path

import pytest

from components.core.data import lineage_store
from components.core.data.examples import Examples
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.tracking import queries
from components.prepare_data import prepare_data
from tests.fakes.toy import write_points


def relabelled(tmp_path: Path, number: int) -> tuple[str, list[str]]:
    """A lineage whose second dataset has some test rows in another class's folder; their names."""
    source, settings = write_points(tmp_path / "in", 30), Settings(task="tests.fakes.toy", model="toy").to_json()
    prepare_data(str(source), settings, "run1", tmp_path / "1")
    examples = Examples(tmp_path / "1")
    tested = [uri for uri in examples.uris(examples.rows("test")) if "class0" in uri][:number]
    for uri in tested:
        shutil.move(uri, source / "class1" / f"moved-{Path(uri).name}")
    prepare_data(str(source), settings, "run2", tmp_path / "2")
    return str(source), [f"moved-{Path(uri).name}" for uri in tested]


def test_an_accepted_label_counts_from_the_next_dataset_on(tmp_path: Path, tracked_home: Path) -> None:
    """Until then the locked one counts; what is not accepted goes on waiting; nothing moves."""
    source, _ = relabelled(tmp_path, 3)
    waiting = lineage_store.waiting("toy")
    assert [(change.locked, change.proposed) for change in waiting] == [("class0", "class1")] * 3
    assert lineage_store.accept("toy", [waiting[0].id[:10]]) == waiting[:1]
    assert lineage_store.waiting("toy") == waiting[1:]
    prepare_data(source, Settings(task="tests.fakes.toy", model="toy").to_json(), "run3", tmp_path / "3")
    after = Examples(tmp_path / "3")
    rows = range(90)
    found = dict(zip(after.ids(rows), after.labels(rows), strict=True))
    assert [found[change.id] for change in waiting] == ["class1", "class0", "class0"]
    before = Examples(tmp_path / "1")
    assert after.column("split", rows) == before.column("split", rows)
    assert lineage_store.accept("toy", []) == waiting[1:]
    [record] = queries.recorded("toy", "thawline.accepted_labels")[-1:]
    assert record == "2"


def test_what_does_not_wait_is_not_accepted(tmp_path: Path, tracked_home: Path) -> None:
    relabelled(tmp_path, 1)
    with pytest.raises(InputError, match="No changed label of 'zz' is waiting"):
        lineage_store.accept("toy", ["zz"])
    lineage_store.accept("toy", [])
    with pytest.raises(InputError, match="No changed label is waiting"):
        lineage_store.accept("toy", [])
    with pytest.raises(InputError, match="MLflow has no dataset of a model 'other'"):
        lineage_store.waiting("other")


@pytest.mark.parametrize(
    ("kept", "said"),
    [(100, "assignments file of 'toy' in MLflow is cut off"), (0, "last dataset of 'toy', in the run .*, is gone")],
)
def test_a_lineage_that_is_lost_is_one_sentence(kept: int, said: str, tmp_path: Path, tracked_home: Path) -> None:
    """Nothing goes on without it, since test rows might be trained on; the hint is to restore it."""
    settings = Settings(task="tests.fakes.toy", model="toy").to_json()
    prepare_data(str(write_points(tmp_path / "in", 30)), settings, "run1", tmp_path / "1")
    [path] = tracked_home.glob("artifacts/toy/*/artifacts/dataset/assignments.parquet")
    path.write_bytes(path.read_bytes()[:kept]) if kept else path.unlink()
    with pytest.raises(InputError, match=said) as error:
        lineage_store.previous_lineage("toy")
    assert "Restore it from a backup" in error.value.hint
