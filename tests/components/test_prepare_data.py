"""The step from raw records to examples: what is kept, what is rejected, and what never moves."""

import hashlib
import io
import json
import os
import shutil
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.core.data import lineage_store
from components.core.data.assignments import read_label_changes
from components.core.data.dataset_info import DatasetInfo
from components.core.data.examples import Examples, Location
from components.core.data.lineage import Lineage, Member, read_lineage, write_lineage
from components.core.data.preparation import _reject_conflicts, _Source, prepare
from components.core.data.records import CheckedRecord
from components.core.errors import InputError, RejectedRecord
from components.core.inference import images
from components.core.machine.threads import in_order
from components.core.modalities import near_duplicate_images
from components.core.settings import Settings
from components.core.sources import raw_records, source_index
from components.core.sources.raw_records import RawRecord
from components.core.storage import s3 as storage
from components.core.targets.classification import Classification
from components.core.tracking import queries
from components.prepare_data import prepare_data, with_salt
from tests.conftest import TOY

pytest_plugins = ["tests.services.s3"]


@pytest.fixture(autouse=True)
def picture_task(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A task that checks as image classification does, without torch."""

    def check(content: bytes) -> Mapping[str, int | str]:
        try:
            picture = images.decode(content)
        except ValueError as error:
            raise RejectedRecord(str(error)) from error
        return {
            "width": picture.width,
            "height": picture.height,
            "fingerprint": near_duplicate_images.fingerprint(picture),
        }

    task = types.ModuleType("picture_task.fake")
    task.check = check  # type: ignore[attr-defined]
    task.backbone, task.encode = "fake", images.encode  # type: ignore[attr-defined]
    task.target = lambda _settings: Classification()  # type: ignore[attr-defined]
    task.near_duplicates = lambda prints, new, chosen: near_duplicate_images.pairs(  # type: ignore[attr-defined]
        prints, new, chosen.near_duplicates, flipped=chosen.near_duplicates_flipped
    )
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


def run(source: Path | str, out: Path, before: Path | None = None, **changes: Any) -> DatasetInfo:
    """Prepare, going on from the dataset in the folder `before`."""
    lineage = read_lineage(before / "assignments.parquet") if before else Lineage("0")
    return prepare(str(source), settings(**changes), out, lineage, lambda *_: None)


def assignments(out: Path) -> dict[str, str]:
    return {id_: member.split for id_, member in read_lineage(out / "assignments.parquet").members.items()}


def splits_of(out: Path) -> dict[str, str]:
    """The split of each present example by the name of its file."""
    examples = Examples(out)
    rows = range(examples.info.examples)
    return {Path(u).name: s for u, s in zip(examples.uris(rows), examples.column("split", rows), strict=True)}


def test_pictures_become_examples(tmp_path: Path) -> None:
    """Every good picture is an example whose id is the sha256 of its bytes, in exact stratified splits."""
    source = photos(tmp_path / "in", cat=40, dog=20)
    info = run(source, tmp_path / "out")
    examples = Examples(tmp_path / "out")
    everything = range(60)
    assert examples.info == info
    assert examples.classes == ["cat", "dog"]
    assert (info.examples, info.duplicates, info.rejected, info.salt) == (60, 0, {}, "0")
    assert info.counts["train"] == {"cat": 28, "dog": 14}
    assert info.counts["test"] == {"cat": 6, "dog": 3}
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
    assert run(tmp_path / "in", tmp_path / "again").digest == first.digest
    more = run(photos(tmp_path / "in", dog=21), tmp_path / "more", tmp_path / "out")
    assert more.digest != first.digest


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
    assert info.examples == 80
    assert sum(info.rejected.values()) == len(reasons)
    assert info.rejected["identical bytes under two labels"] == 3
    assert next(r["label"] for r in rejected if r["uri"].endswith("loose.png")) == ""


def test_the_index_is_what_looking_for_changes_finds(tmp_path: Path) -> None:
    """The step writes the index that `detect_changes` would, bad records included, and its digest of the data."""
    bad_records(tmp_path / "in")
    info = run(tmp_path / "in", tmp_path / "out", max_rejected=0.2)
    found = source_index.take(str(tmp_path / "in"), [])
    assert [row[3:] for row in source_index.read_index(tmp_path / "out" / source_index.INDEX)] == [
        row[3:] for row in sorted(found)
    ]
    assert info.data_digest == source_index.data_digest(found)


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
    assert (info.examples, info.duplicates, info.rejected) == (20, 2, {})


def test_no_example_moves_when_the_data_change(tmp_path: Path) -> None:
    """Removed, returned, added and relabelled pictures keep their splits, also over a run without them."""
    source = photos(tmp_path / "in", cat=20, dog=20)
    run(source, tmp_path / "1")
    first = assignments(tmp_path / "1")
    kept = (source / "cat/003.png").read_bytes()
    (source / "cat/003.png").unlink()
    shutil.move(source / "cat/004.png", source / "dog/cat4.png")
    run(photos(source, dog=30), tmp_path / "2", tmp_path / "1")
    second = assignments(tmp_path / "2")
    assert len(second) == 50
    assert {id_: second[id_] for id_ in first} == first
    (source / "cat/003.png").write_bytes(kept)
    run(source, tmp_path / "3", tmp_path / "2")
    examples = Examples(tmp_path / "3")
    rows = range(examples.info.examples)
    splits = dict(zip(examples.ids(rows), examples.column("split", rows), strict=True))
    assert {id_: splits[id_] for id_ in first} == first


def test_the_seed_never_moves_an_example(tmp_path: Path) -> None:
    """Runs that differ in their seed have the same dataset."""
    source = photos(tmp_path / "in", cat=20, dog=20)
    assert run(source, tmp_path / "1", seed=1).digest == run(source, tmp_path / "2", seed=2).digest


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
    assert info.rejected == {"unknown split": 1}


def scene(seed: int) -> Image.Image:
    """A picture with large shapes, as photos have them: its copies stay alike when they are rescaled or compressed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((240, 180), Image.Resampling.BICUBIC)


def copies(picture: Image.Image) -> dict[str, Image.Image]:
    width, height = picture.size
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=40)
    return {
        "small": picture.resize((120, 90)),
        "jpeg": Image.open(jpeg),
        "cropped": picture.crop((5, 4, width - 5, height - 4)),
        "mirrored": picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }


@pytest.mark.slow
def test_near_duplicates_keep_to_one_split(tmp_path: Path) -> None:
    """Rescaled, compressed, slightly cropped and, by option, mirrored copies never straddle, whenever they come."""
    first, later = tmp_path / "first", tmp_path / "later"
    for folder in (first, later):
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True)
    for i in range(40):
        picture = scene(i)
        for folder in (first, later):
            picture.save(folder / ("cat" if i % 2 else "dog") / f"{i:02}.png")
        for kind, copy in copies(picture).items():
            copy.save(later / ("cat" if i % 2 else "dog") / f"{i:02}-{kind}.png")
    run(first, tmp_path / "1", near_duplicates_flipped=True)
    info = run(later, tmp_path / "2", tmp_path / "1", near_duplicates_flipped=True)
    found = splits_of(tmp_path / "2")
    assert all(len({split for name, split in found.items() if name.startswith(f"{i:02}")}) == 1 for i in range(40))
    assert {name: found[name] for name in splits_of(tmp_path / "1")} == splits_of(tmp_path / "1")
    assert (info.examples, info.near_duplicates, info.set_aside) == (200, 200, 0)
    alone = run(later, tmp_path / "3", near_duplicates=-1)
    assert alone.near_duplicates == 0


def scenes(root: Path, number: int) -> Path:
    for i in range(number):
        target = root / ("cat" if i % 2 else "dog")
        target.mkdir(parents=True, exist_ok=True)
        scene(i).save(target / f"{i:02}.png")
    return root


def test_a_new_example_between_two_splits_is_set_aside(tmp_path: Path) -> None:
    """A newcomer of a training example's group that looks like a test example goes nowhere, and is reported."""
    source = scenes(tmp_path / "in", 40)
    run(source, tmp_path / "1")
    known = splits_of(tmp_path / "1")
    trained, tested = (min(n for n, split in known.items() if split == wanted) for wanted in ("train", "test"))
    [original] = source.rglob(tested)
    copies(Image.open(original).convert("RGB"))["jpeg"].save(original.with_name("new.jpg"))
    rows = ["uri,label,group"]
    paths = sorted([*source.rglob("*.png"), *source.rglob("*.jpg")])
    rows += [f"{path},{path.parent.name},{'g' if path.name in (trained, 'new.jpg') else ''}" for path in paths]
    (source / "list.csv").write_text("\n".join(rows))
    info = run(source / "list.csv", tmp_path / "2", tmp_path / "1")
    assert (info.examples, info.set_aside, info.rejected) == (40, 1, {})
    [row] = Examples(tmp_path / "2").rejected()
    assert row["reason"] == "set aside: it belongs with examples in test and train"
    assert splits_of(tmp_path / "2") == known


def test_a_changed_label_of_a_test_row_waits(tmp_path: Path) -> None:
    """Relabelled training rows count at once; of test rows the locked label counts, and the change is listed."""
    source = scenes(tmp_path / "in", 60)
    run(source, tmp_path / "1")
    known = splits_of(tmp_path / "1")
    moved = [min(n for n, s in known.items() if s == wanted and int(n[:2]) % 2) for wanted in ("train", "test")]
    for name in moved:
        shutil.move(source / "cat" / name, source / "dog" / name)
    info = run(source, tmp_path / "2", tmp_path / "1")
    examples = Examples(tmp_path / "2")
    rows = range(60)
    labels = {Path(u).name: label for u, label in zip(examples.uris(rows), examples.labels(rows), strict=True)}
    assert [labels[name] for name in moved] == ["dog", "cat"]
    [change] = read_label_changes(tmp_path / "2" / "label_changes.parquet")
    assert (Path(change.uri).name, change.locked, change.proposed) == (moved[1], "cat", "dog")
    assert (info.label_changes, info.changes) == (1, {"new": 0, "gone": 0, "relabelled": 2})


def test_a_copy_under_another_label_takes_no_row_out_of_the_test_set(tmp_path: Path) -> None:
    """The locked test row stays and the copy is reported; a training row with two labels goes, as two new ones do."""
    source = photos(tmp_path / "in", cat=40, dog=40)
    run(source, tmp_path / "1")
    before, copied = assignments(tmp_path / "1"), {}
    for wanted in ("test", "train"):
        path = next(p for p in sorted(source.glob("cat/*.png")) if before[id_of(p)] == wanted)
        copied[wanted] = id_of(path)
        shutil.copy(path, source / "dog" / f"copy of {wanted}.png")
    for name in ("cat", "dog"):
        (source / name / "new.png").write_bytes(photo(9999))
    info = run(source, tmp_path / "2", tmp_path / "1", max_rejected=0.1)
    after = assignments(tmp_path / "2")
    assert {id_ for id_, split in before.items() if split == "test"} <= after.keys()
    assert after[copied["test"]] == "test"
    assert info.rejected == {"identical bytes under two labels": 4, "identical bytes as a locked test row": 1}
    assert info.examples == 79
    [row] = [row for row in Examples(tmp_path / "2").rejected() if "locked" in row["reason"]]
    assert (Path(row["uri"]).name, row["label"]) == ("copy of test.png", "dog")
    examples = Examples(tmp_path / "2")
    [place] = [i for i, id_ in enumerate(examples.ids(range(79))) if id_ == copied["test"]]
    assert examples.labels([place]) == ["cat"]


def id_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


LABELS = st.sampled_from(["a", "b", "c"])
MEMBERS = st.builds(Member, st.sampled_from(["train", "validation", "test"]), st.sampled_from(["a", "b", ""]))


@given(
    st.dictionaries(st.sampled_from("xyz"), st.lists(LABELS, min_size=1, max_size=4)),
    st.dictionaries(st.sampled_from("xyz"), MEMBERS),
)
def test_of_contradicting_copies_only_a_locked_label_stays(
    found: dict[str, list[str]], members: dict[str, Member]
) -> None:
    """Whatever copies there are: agreeing ones stay, a locked test row keeps its label, all else is reported once."""
    copies = {id_: [RawRecord(f"{id_}{i}", label) for i, label in enumerate(labels)] for id_, labels in found.items()}
    place = Location(0, 0, 0)
    checked = _Source({id_: CheckedRecord(id_, {}, place, list(entries)) for id_, entries in copies.items()})
    _reject_conflicts(checked, Lineage(members=members))
    for id_, entries in copies.items():
        labels = {entry.label for entry in entries}
        member = members.get(id_, Member(""))
        locked = {member.label} & labels if member.split == "test" else set()
        kept = labels if len(labels) == 1 else locked
        left = checked.records[id_].copies if id_ in checked.records else []
        assert left == [entry for entry in entries if entry.label in kept]
    kept_uris = [entry.uri for record in checked.records.values() for entry in record.copies]
    every = sorted(entry.uri for entries in copies.values() for entry in entries)
    assert sorted([*kept_uris, *(row.uri for row in checked.rejected)]) == every


@pytest.mark.slow
def test_what_changed_is_counted(tmp_path: Path) -> None:
    """New and gone examples are those that only one of the two datasets has."""
    source = scenes(tmp_path / "in", 40)
    assert run(source, tmp_path / "1").changes == {"new": 40, "gone": 0, "relabelled": 0}
    (source / "cat" / "01.png").unlink()
    (source / "dog" / "00.png").unlink()
    scenes(tmp_path / "more", 43)
    shutil.copy(tmp_path / "more" / "cat" / "41.png", source / "cat")
    info = run(source, tmp_path / "2", tmp_path / "1")
    assert info.changes == {"new": 1, "gone": 2, "relabelled": 0}
    assert run(source, tmp_path / "3", tmp_path / "2").changes == {"new": 0, "gone": 0, "relabelled": 0}


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="is empty"):
        run(tmp_path / "in", tmp_path / "out")


def test_progress_counts_every_record_to_the_end(tmp_path: Path) -> None:
    """The last call says that all records are done."""
    calls: list[tuple[int, int]] = []
    source = photos(tmp_path / "in", cat=5, dog=5)
    prepare(str(source), settings(), tmp_path / "out", Lineage("0"), lambda done, total, _: calls.append((done, total)))
    assert calls[-1] == (10, 10)
    assert len(calls) < 10


@pytest.mark.parametrize(
    ("asked", "lineage", "salt"), [("0", None, "0"), ("7", None, "7"), ("0", "7", "7"), ("7", "7", "7")]
)
def test_the_salt_belongs_to_the_lineage(asked: str, lineage: str | None, salt: str) -> None:
    """The first run chooses the salt; later runs keep it without being told."""
    known = Lineage(lineage, datasets=1) if lineage else Lineage()
    assert with_salt(known, settings(split_salt=asked)).salt == salt


def test_another_salt_than_the_lineage_has_is_an_error() -> None:
    with pytest.raises(InputError, match=r"made with salt '7', so '8' can't be used"):
        with_salt(Lineage("7", datasets=1), settings(split_salt="8"))


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

    results = in_order(slow_first, items(), workers=3)
    threading.Timer(0.1, release.set).start()
    assert next(results) == 0
    assert len(taken) <= 6
    assert list(results) == list(range(1, 100))


def with_rows(root: Path, *rows: str) -> Path:
    """A manifest of 40 pictures in two classes, and rows of its own."""
    paths = sorted(photos(root, cat=20, dog=20).rglob("*.png"))
    (root / "rows.csv").write_text("\n".join(["uri,label", *(f"{path},{path.parent.name}" for path in paths), *rows]))
    return root / "rows.csv"


def test_what_many_rows_name_is_read_and_checked_once(
    tmp_path: Path, picture_task: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 rows of one picture, and 500 of one that is damaged, cost what the rows in flight do."""
    (tmp_path / "copied.png").write_bytes(photo(1))
    (tmp_path / "damaged.png").write_bytes(photo(2)[:50])
    called: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (called.update([name]), function(*given))[1]

    picture_task.check = counted("check", picture_task.check)  # type: ignore[attr-defined]
    monkeypatch.setattr(raw_records, "read", counted("read", raw_records.read))
    same = [f"{tmp_path / name},cat" for name in ("copied.png", "damaged.png") for _ in range(500)]
    info = run(with_rows(tmp_path / "in", *same), tmp_path / "out", max_rejected=1.0)
    assert (info.examples, info.duplicates, info.rejected) == (41, 499, {"truncated": 500})
    in_flight = 2 * (os.cpu_count() or 1)
    assert called["read"] <= 42 + 2 * in_flight
    assert called["check"] <= 42 + 2 * in_flight


def test_a_copy_is_read_again_where_the_first_rows_could_not_use_it(
    tmp_path: Path, picture_task: types.ModuleType
) -> None:
    """A content whose first hundred labels are refused becomes an example by the next label, with its own bytes."""

    def check_label(label: str) -> str:
        if label == "refused":
            raise RejectedRecord("a bad label")
        return label

    (tmp_path / "copied.png").write_bytes(photo(1))
    target = Classification()
    target.check_label = check_label  # type: ignore[attr-defined]
    picture_task.target = lambda _settings: target  # type: ignore[attr-defined]
    rows = [f"{tmp_path}/copied.png,refused"] * 100
    info = run(with_rows(tmp_path / "in", *rows, f"{tmp_path}/copied.png,cat"), tmp_path / "out", max_rejected=1.0)
    assert (info.examples, info.rejected) == (41, {"a bad label": 100})
    assert photo(1) in Examples(tmp_path / "out").contents(range(41))


def test_a_contradiction_of_many_labels_names_a_few(tmp_path: Path) -> None:
    """The reason of each row stays short, so that the table grows with the rows alone."""
    (tmp_path / "copied.png").write_bytes(photo(1))
    rows = [f"{tmp_path}/copied.png,label{number}" for number in range(10)]
    run(with_rows(tmp_path / "in", *rows), tmp_path / "out", max_rejected=1.0)
    told = [row["reason"] for row in Examples(tmp_path / "out").rejected()]
    assert told[0] == "identical bytes under two labels: also label1, label2, label3 and 6 more"
    assert told[9] == "identical bytes under two labels: also label0, label1, label2 and 6 more"


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
    first = prepare_data(str(source), settings(split_salt="7").to_json(), "run1", tmp_path / "1")
    assert (Examples(tmp_path / "1").digest, first.weights_digest) == (first.digest, "weights")
    assert DatasetInfo.read(tmp_path / "1") == first
    for path in (source / "cat").glob("01*.png"):
        path.unlink()
    prepare_data(str(source), settings().to_json(), "run2", tmp_path / "2")
    assert Examples(tmp_path / "2").info.salt == "7"
    assert assignments(tmp_path / "2") == assignments(tmp_path / "1")
    again = prepare_data(str(photos(source, cat=20)), settings().to_json(), "run3", tmp_path / "3")
    assert again.digest == first.digest
    with pytest.raises(InputError, match="salt"):
        prepare_data(str(source), settings(split_salt="8").to_json(), "run4", tmp_path / "4")


def test_the_rejected_table_is_kept_when_the_step_fails(tmp_path: Path, tracked_home: Path) -> None:
    """Too many bad records: the table is with the failed run, and the error where the command line finds it."""
    bad_records(tmp_path / "in")
    one = rf"One is {tmp_path}/in/.*both.*: identical bytes under two labels: also .*; .*rejected.parquet lists each"
    with pytest.raises(InputError, match=f"can't be used .*{one}"):
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
    assert run(f"{s3}/data", tmp_path / "remote").digest == local.digest
    real = storage.read_bytes

    def lost(uri: str, limit: int | None = None) -> bytes:
        if uri.endswith("cat/007.png"):
            storage.client().delete_object(Bucket=storage.split_uri(uri)[0], Key=storage.split_uri(uri)[1])
        return real(uri, limit)

    monkeypatch.setattr(storage, "read_bytes", lost)
    info = run(f"{s3}/data", tmp_path / "lost")
    assert (info.examples, info.rejected) == (119, {"unreadable": 1})


def test_more_thawed_stages_than_there_are(tmp_path: Path, tracked_home: Path) -> None:
    """A depth that the network does not have stops the run before any data is read, and names what it has."""
    with pytest.raises(InputError, match="--thaw 3 is more than the 2 stages"):
        prepare_data(str(tmp_path / "never read"), settings(thaw=3).to_json(), "run1", tmp_path / "out")


@pytest.mark.parametrize("variable", ["THAWLINE_ACTIVATIONS", "THAWLINE_STATES"])
def test_what_is_no_address_stops_the_run(
    variable: str, tmp_path: Path, tracked_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a variable can't mean is found before any data is read, not in the search."""
    monkeypatch.setenv(variable, "gs://bucket/prefix")
    with pytest.raises(InputError, match=f"{variable} can't be"):
        prepare_data(str(tmp_path / "never read"), settings().to_json(), "run1", tmp_path / "out")


def test_a_calibration_error_needs_answers_that_are_right_or_wrong(tmp_path: Path, tracked_home: Path) -> None:
    """A number has none, so no challenger would ever be below the limit: refused before any data is read."""
    asked = Settings(**{**TOY, "task": "tests.fakes.smallest_task"}, max_calibration_error=0.1)
    with pytest.raises(InputError, match="--max-calibration-error is for answers that are right or wrong"):
        prepare_data(str(tmp_path / "never read"), asked.to_json(), "run1", tmp_path / "out")


def test_a_loss_that_is_not_convex_has_no_solved_head(tmp_path: Path, tracked_home: Path) -> None:
    """--head-solver lbfgs for such a task is refused before any data is read."""
    asked = Settings(**{**TOY, "task": "tests.fakes.smallest_task", "head_solver": "lbfgs"})
    with pytest.raises(InputError, match="the loss of tests.fakes.smallest_task is not convex"):
        prepare_data(str(tmp_path / "never read"), asked.to_json(), "run1", tmp_path / "out")


def test_a_champion_without_its_splits_stops_the_run(
    tmp_path: Path, tracked_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the lineage's runs were deleted, new splits could test the champion on its training rows: refused."""
    monkeypatch.setattr("components.core.registry.versions.current", lambda _model, _alias: "3")
    with pytest.raises(InputError, match="has a champion, but the splits"):
        prepare_data(str(tmp_path / "never read"), settings().to_json(), "run1", tmp_path / "out")


def test_another_registry_goes_on_from_a_file_of_assignments(
    toy_source: Path, tmp_path: Path, tracked_home: Path
) -> None:
    """Where MLflow has no run of the model, the file's splits and salt count; then its own lineage does."""
    text = Settings(**TOY, split_salt="7").to_json()
    prepare_data(str(toy_source), text, "first", tmp_path / "first")
    file = tmp_path / "first" / "assignments.parquet"
    first = read_lineage(file)
    other = Settings(**{**TOY, "model": "other"}, assignments=str(file))
    for run, datasets in (("second", 2), ("third", 3)):
        prepare_data(str(toy_source), other.to_json(), run, tmp_path / run)
        found = lineage_store.previous_lineage("other")
        assert (found.salt, found.datasets) == ("7", datasets)
        assert {id_: m.split for id_, m in found.members.items()} == {id_: m.split for id_, m in first.members.items()}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda file: file.unlink(), "can't be read: there is no such file"),
        (lambda file: file.write_text("x"), "is not a Parquet file"),
        (
            lambda file: write_lineage(file, swapped(read_lineage(file))),
            "assigns 1 of its examples to other splits",
        ),
    ],
)
def test_assignments_that_say_otherwise_are_refused(
    damage: Callable[[Path], object], sentence: str, toy_source: Path, tmp_path: Path, tracked_home: Path
) -> None:
    """A file that is gone, damaged, or would move an example stops the run."""
    prepare_data(str(toy_source), Settings(**TOY).to_json(), "first", tmp_path / "first")
    file = tmp_path / "first" / "assignments.parquet"
    damage(file)
    again = Settings(**TOY, assignments=str(file)).to_json()
    with pytest.raises(InputError, match=sentence):
        prepare_data(str(toy_source), again, "again", tmp_path / "again")


def swapped(lineage: Lineage) -> Lineage:
    """The lineage with one test row in training."""
    id_, member = next(item for item in lineage.members.items() if item[1].split == "test")
    return replace(lineage, members={**lineage.members, id_: replace(member, split="train")})


def test_data_of_another_problem_are_noticed(tmp_path: Path, tracked_home: Path) -> None:
    """Where all examples are new and all earlier ones are gone, the run says so before anything is trained."""
    from tests.fakes.toy import write_points

    text = Settings(**TOY).to_json()
    prepare_data(str(write_points(tmp_path / "a", per_class=30)), text, "first", tmp_path / "1")
    assert "None of these" not in notes_of("first")
    prepare_data(str(write_points(tmp_path / "b", per_class=40, seed=7)), text, "second", tmp_path / "2")
    assert "None of these 120 examples was in the last dataset of toy, and all 90 examples" in notes_of("second")


def notes_of(run_key: str) -> str:
    [run] = queries.find_runs("toy", run_key, "step")
    return str(run.data.tags.get("thawline.notes", ""))
