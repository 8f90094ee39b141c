"""The step from raw records to examples: what is kept, what is rejected, and what never moves."""

import hashlib
import io
import json
import os
import shutil
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.core import fingerprints, pictures, storage
from components.core.errors import InputError, RejectedRecord
from components.core.examples import Examples
from components.core.settings import Settings
from components.prepare_data import _in_order, lineage_salt, prepare, prepare_data

pytest_plugins = ["tests.s3"]


@pytest.fixture(autouse=True)
def picture_task(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A task that checks as image classification does, without torch."""

    def check(content: bytes) -> Mapping[str, int | str]:
        try:
            picture = pictures.decode(content)
        except ValueError as error:
            raise RejectedRecord(str(error)) from error
        return {"width": picture.width, "height": picture.height}

    task = types.ModuleType("picture_task.fake")
    task.check = check  # type: ignore[attr-defined]
    task.build = lambda *_: types.SimpleNamespace(weights_digest="weights", stages=[1, 2])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picture_task", types.ModuleType("picture_task"))
    monkeypatch.setitem(sys.modules, "picture_task.fake", task)
    return task


def settings(**changes: Any) -> Settings:
    return Settings(task="picture_task.fake", **changes)


def photo(seed: int, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def photos(root: Path, **classes: int) -> Path:
    """A folder of pictures, all different; the seed depends on class and number."""
    for name, number in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(number):
            seed = int(hashlib.sha256(f"{name}{i}".encode()).hexdigest()[:8], 16)
            (root / name / f"{i:03d}.png").write_bytes(photo(seed))
    return root


def run(source: Path | str, out: Path, previous: Mapping[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    return prepare(str(source), settings(**changes), out, previous or {}, "0", lambda *_: None)


def assignments(out: Path) -> dict[str, str]:
    table = pq.read_table(out / "assignments.parquet").to_pydict()
    return dict(zip(table["id"], table["split"], strict=True))


def test_pictures_become_examples(tmp_path: Path) -> None:
    """Every good picture is an example whose id is the sha256 of its bytes, in exact stratified splits."""
    source = photos(tmp_path / "in", cat=40, dog=20)
    info = run(source, tmp_path / "out")
    examples = Examples(tmp_path / "out")
    everything = range(60)
    assert examples.info == json.loads(json.dumps(info))
    assert examples.classes == ["cat", "dog"]
    assert (info["examples"], info["duplicates"], info["rejected"], info["salt"]) == (60, 0, {}, "0")
    assert info["counts"]["train"] == {"cat": 28, "dog": 14}
    assert info["counts"]["test"] == {"cat": 6, "dog": 3}
    for id_, uri, content in zip(
        examples.ids(everything), examples.uris(everything), examples.contents(everything), strict=True
    ):
        assert content == Path(uri).read_bytes()
        assert id_ == hashlib.sha256(content).hexdigest()
    assert set(examples.column("width", everything)) == {16}
    assert len(examples.rows("test")) == 9


def test_the_same_data_give_the_same_digest(tmp_path: Path) -> None:
    """Names and places of the files don't matter, their content does; one picture more is another dataset."""
    first = run(photos(tmp_path / "in", cat=20, dog=20), tmp_path / "out")
    shutil.move(tmp_path / "in" / "cat", tmp_path / "in" / "tmp")
    (tmp_path / "in" / "cat").mkdir()
    shutil.move(tmp_path / "in" / "tmp", tmp_path / "in" / "cat" / "deeper")
    assert run(tmp_path / "in", tmp_path / "again")["digest"] == first["digest"]
    more = run(photos(tmp_path / "in", dog=21), tmp_path / "more", assignments(tmp_path / "out"))
    assert more["digest"] != first["digest"]


def bad_records(root: Path) -> dict[str, str]:
    """One bad record of every kind beside good ones; gives the expected reasons by name."""
    photos(root, cat=40, dog=40)
    bomb = io.BytesIO()
    Image.new("1", (30_000, 3_000)).save(bomb, "PNG")
    good = photo(1)
    files = {
        "cat/zero.png": (b"", "zero bytes"),
        "cat/text.jpg": (b"this is text", "not a picture that can be read"),
        "cat/cut.png": (good[: len(good) // 2], "truncated"),
        "cat/bomb.png": (bomb.getvalue(), "decompression bomb: 30000 x 3000 pixels"),
        "cat/phone.heic": (b"\x00\x00\x00\x18ftypheic\x00\x00", "type HEIC is not supported"),
        "loose.png": (photo(2), "no label"),
        "cat/both.png": (photo(3), "identical bytes under two labels: also dog"),
        "cat/both again.png": (photo(3), "identical bytes under two labels: also dog"),
        "dog/both.png": (photo(3), "identical bytes under two labels: also cat"),
    }
    for name, (content, _) in files.items():
        (root / name).write_bytes(content)
    (root / "dog/gone.png").symlink_to(root / "nothing")
    os.mkfifo(root / "dog/pipe.png")
    unreadable = {"dog/gone.png": "no such file or directory", "dog/pipe.png": "not a file"}
    return {name: reason for name, (_, reason) in files.items()} | {
        n: f"unreadable: {r}" for n, r in unreadable.items()
    }


def test_bad_records_never_stop_the_run(tmp_path: Path) -> None:
    """Every bad record is listed with its reason and counted by kind, and the good ones are all there."""
    reasons = bad_records(tmp_path / "in")
    info = run(tmp_path / "in", tmp_path / "out", max_rejected=0.2)
    rejected = Examples(tmp_path / "out").rejected()
    assert {str(Path(r["uri"]).relative_to(tmp_path / "in")): r["reason"] for r in rejected} == reasons
    assert info["examples"] == 80
    assert sum(info["rejected"].values()) == len(reasons)
    assert info["rejected"]["identical bytes under two labels"] == 3
    assert next(r["label"] for r in rejected if r["uri"].endswith("loose.png")) == ""


def test_the_index_is_what_looking_for_changes_finds(tmp_path: Path) -> None:
    """The step writes the index that `detect_changes` would, bad records included, and its digest of the data."""
    bad_records(tmp_path / "in")
    info = run(tmp_path / "in", tmp_path / "out", max_rejected=0.2)
    found = fingerprints.take(str(tmp_path / "in"), [])
    assert [row[3:] for row in fingerprints.read_index(tmp_path / "out" / fingerprints.INDEX)] == [
        row[3:] for row in sorted(found)
    ]
    assert info["data_digest"] == fingerprints.data_digest(found)


def test_too_many_bad_records_fail_with_one_sentence(tmp_path: Path) -> None:
    """Above the allowed share the step fails, tells counts and reasons, and still writes the table."""
    bad = len(bad_records(tmp_path / "in"))
    with pytest.raises(InputError, match=rf"{bad} of {80 + bad} records .* \(12\.1%, allowed 5\.0%\)") as raised:
        run(tmp_path / "in", tmp_path / "out")
    assert "identical bytes under two labels (3), unreadable (2)" in raised.value.sentence
    assert str(tmp_path / "out" / "rejected.parquet") in raised.value.sentence
    assert pq.read_table(tmp_path / "out" / "rejected.parquet").num_rows == bad
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_copies_under_one_label_count_once(tmp_path: Path) -> None:
    """Identical bytes under one label are one example and duplicates, not bad records."""
    source = photos(tmp_path / "in", cat=10, dog=10)
    for name in ("x", "y"):
        shutil.copy(source / "cat/000.png", source / f"cat/{name}.png")
    info = run(source, tmp_path / "out", max_rejected=0)
    assert (info["examples"], info["duplicates"], info["rejected"]) == (20, 2, {})


def test_no_example_moves_when_the_data_change(tmp_path: Path) -> None:
    """Removed, returned, added and relabelled pictures keep their splits, also over a run without them."""
    source = photos(tmp_path / "in", cat=20, dog=20)
    run(source, tmp_path / "1")
    first = assignments(tmp_path / "1")
    kept = (source / "cat/003.png").read_bytes()
    (source / "cat/003.png").unlink()
    shutil.move(source / "cat/004.png", source / "dog/cat4.png")
    run(photos(source, dog=30), tmp_path / "2", first)
    second = assignments(tmp_path / "2")
    assert len(second) == 50
    assert {id_: second[id_] for id_ in first} == first
    (source / "cat/003.png").write_bytes(kept)
    run(source, tmp_path / "3", second)
    examples = Examples(tmp_path / "3")
    rows = range(examples.info["examples"])
    splits = dict(zip(examples.ids(rows), examples.column("split", rows), strict=True))
    assert {id_: splits[id_] for id_ in first} == first


def test_the_seed_never_moves_an_example(tmp_path: Path) -> None:
    """Runs that differ in their seed have the same dataset."""
    source = photos(tmp_path / "in", cat=20, dog=20)
    assert run(source, tmp_path / "1", seed=1)["digest"] == run(source, tmp_path / "2", seed=2)["digest"]


def test_small_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bird \(2\)"):
        run(photos(tmp_path / "in", cat=20, dog=20, bird=2), tmp_path / "out")


def test_a_manifest_brings_splits_groups_and_metadata(tmp_path: Path) -> None:
    """Chosen splits are honoured, groups stay together, other columns are kept, a strange split is a bad record."""
    source = photos(tmp_path / "in", cat=30, dog=30)
    rows = ["uri,label,split,group,camera"]
    for name in ("cat", "dog"):
        for i in range(30):
            split, group = "test" if i < 8 else "", "g" if 20 <= i < 24 else ""
            rows.append(f"{name}/{i:03d}.png,{name},{split},{group},old")
    rows += ["cat/000.png,cat,holdout,,"]
    (source / "list.csv").write_text("\n".join(rows))
    info = run(source / "list.csv", tmp_path / "out")
    examples = Examples(tmp_path / "out")
    everything = range(60)
    splits = dict(zip(examples.uris(everything), examples.column("split", everything), strict=True))
    assert [splits[f"{source}/cat/{i:03d}.png"] for i in range(8)] == ["test"] * 8
    assert len({splits[f"{source}/{name}/{i:03d}.png"] for name in ("cat", "dog") for i in range(20, 24)}) == 1
    assert set(examples.column("metadata", everything)) == {'{"camera":"old"}'}
    assert info["rejected"] == {"unknown split": 1}


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="is empty"):
        run(tmp_path / "in", tmp_path / "out")


def test_progress_counts_every_record_to_the_end(tmp_path: Path) -> None:
    """The last call says that all records are done."""
    calls: list[tuple[int, int]] = []
    source = photos(tmp_path / "in", cat=5, dog=5)
    prepare(str(source), settings(), tmp_path / "out", {}, "0", lambda done, total, _: calls.append((done, total)))
    assert calls[-1] == (10, 10)
    assert len(calls) < 10


@pytest.mark.parametrize(
    ("asked", "lineage", "salt"), [("0", None, "0"), ("7", None, "7"), ("0", "7", "7"), ("7", "7", "7")]
)
def test_the_salt_belongs_to_the_lineage(asked: str, lineage: str | None, salt: str) -> None:
    """The first run chooses the salt; later runs keep it without being told."""
    assert lineage_salt(settings(split_salt=asked), lineage) == salt


def test_another_salt_than_the_lineage_has_is_an_error() -> None:
    with pytest.raises(InputError, match=r"made with salt '7', so '8' can't be used"):
        lineage_salt(settings(split_salt="8"), "7")


def test_results_come_in_order_and_few_are_in_flight() -> None:
    """Whichever call ends first, results keep the order, and the source is read no further than the window."""
    taken: list[int] = []
    release = threading.Event()

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    def slow_first(i: int) -> int:
        if i == 0:
            release.wait(10)
        return i

    results = _in_order(slow_first, items(), workers=3)
    threading.Timer(0.1, release.set).start()
    assert next(results) == 0
    assert len(taken) <= 6
    assert list(results) == list(range(1, 100))


def test_a_fault_of_the_program_is_no_bad_record(tmp_path: Path, picture_task: types.ModuleType) -> None:
    """An unexpected exception in a check stops the run at once, without waiting for the rest."""

    def broken(_: bytes) -> Mapping[str, int | str]:
        raise KeyError("a bug")

    picture_task.check = broken  # type: ignore[attr-defined]
    with pytest.raises(KeyError, match="a bug"):
        run(photos(tmp_path / "in", cat=10, dog=10), tmp_path / "out")


def test_the_lineage_keeps_salt_and_splits_from_run_to_run(tmp_path: Path, tracked_home: Path) -> None:
    """The next run finds the splits of the last one, also of pictures that were gone for a run."""
    source = photos(tmp_path / "in", cat=20, dog=20)
    digest, weights = prepare_data(str(source), settings(split_salt="7").to_json(), "run1", tmp_path / "1")
    assert (Examples(tmp_path / "1").digest, weights) == (digest, "weights")
    for path in (source / "cat").glob("01*.png"):
        path.unlink()
    prepare_data(str(source), settings().to_json(), "run2", tmp_path / "2")
    assert Examples(tmp_path / "2").info["salt"] == "7"
    assert assignments(tmp_path / "2") == assignments(tmp_path / "1")
    again, _ = prepare_data(str(photos(source, cat=20)), settings().to_json(), "run3", tmp_path / "3")
    assert again == digest
    with pytest.raises(InputError, match="salt"):
        prepare_data(str(source), settings(split_salt="8").to_json(), "run4", tmp_path / "4")


def test_the_rejected_table_is_kept_when_the_step_fails(tmp_path: Path, tracked_home: Path) -> None:
    """Too many bad records: the table is with the failed run, and the error where the command line finds it."""
    bad_records(tmp_path / "in")
    with pytest.raises(InputError, match="can't be used"):
        prepare_data(str(tmp_path / "in"), settings().to_json(), "run1", tmp_path / "out")
    assert [path.name for path in (tracked_home / "artifacts").rglob("*.parquet")] == ["rejected.parquet"]
    assert json.loads((tracked_home / "runs/run1/errors/prepare_data.json").read_text())["kind"] == "input"


@pytest.mark.slow
def test_s3_gives_the_dataset_of_the_same_folder(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures on S3 give the digest of the same pictures on disk; an object that can't be read is a bad record."""
    source = photos(tmp_path / "in", cat=60, dog=60)
    for path in source.rglob("*.png"):
        storage.upload(path, f"{s3}/data/{path.relative_to(source)}")
    local = run(source, tmp_path / "local")
    assert run(f"{s3}/data", tmp_path / "remote")["digest"] == local["digest"]
    real = storage.read_bytes

    def lost(uri: str, limit: int | None = None) -> bytes:
        if uri.endswith("cat/007.png"):
            storage.client().delete_object(Bucket=storage.split_uri(uri)[0], Key=storage.split_uri(uri)[1])
        return real(uri, limit)

    monkeypatch.setattr(storage, "read_bytes", lost)
    info = run(f"{s3}/data", tmp_path / "lost")
    assert (info["examples"], info["rejected"]) == (119, {"unreadable": 1})


def test_more_thawed_stages_than_there_are(tmp_path: Path, tracked_home: Path) -> None:
    """A depth that the network does not have stops the run before any data is read, and names what it has."""
    with pytest.raises(InputError, match="--thaw 3 is more than the 2 stages"):
        prepare_data(str(tmp_path / "never read"), settings(thaw=3).to_json(), "run1", tmp_path / "out")


def test_a_champion_without_its_splits_stops_the_run(
    tmp_path: Path, tracked_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the lineage's runs were deleted, new splits could test the champion on its training rows: refused."""
    monkeypatch.setattr("components.core.registry.current", lambda _model, _alias: "3")
    with pytest.raises(InputError, match="has a champion, but the splits"):
        prepare_data(str(tmp_path / "never read"), settings().to_json(), "run1", tmp_path / "out")
