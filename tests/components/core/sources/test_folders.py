"""Folders as people and systems leave them: what is a class, and what stops a run before it starts."""

import unicodedata
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.sources.folders import as_label
from components.core.sources.raw_records import check_source, list_entries

pytest_plugins = ["tests.services.s3"]


def tree(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return str(root)


SPLITS = {
    "beside another folder": ("train/cat/1", "train/dog/1", "val/cat/2", "test/dog/3", "sample_images/4"),
    "flat, beside another": ("train/1", "test/2", "sample_images/4"),
    "train and eval": ("train/cat/1", "train/dog/1", "eval/cat/2"),
    "seg_train": ("seg_train/cat/1", "seg_test/cat/1", "seg_pred/5"),
    "COCO's years": ("train2017/1", "val2017/2"),
    "CycleGAN's letters": ("trainA/1", "trainB/2", "testA/3", "testB/4"),
    "train_images": ("train_images/1", "test_images/2"),
    "TrainingSet": ("TrainingSet/1", "ValidationSet/2"),
    "Kaggle's sets": ("training_set/cats/1", "training_set/dogs/2", "test_set/cats/3"),
    "splits and classes in one name": ("train_cats/1", "train_dogs/2", "test_cats/3", "test_dogs/4"),
    "one split of classes beside loose samples": ("train/cat/1", "train/dog/1", "sample/2"),
}


@pytest.mark.parametrize("case", SPLITS)
def test_folders_of_splits_are_no_classes(case: str, tmp_path: Path) -> None:
    """However splits are called, and whatever lies beside them, no model of the classes test and train is made."""
    with pytest.raises(InputError, match="are splits, not classes: .*(train|Train)"):
        check_source(tree(tmp_path, *SPLITS[case]))


CLASSES = {
    "a vehicle": ("train/1", "bus/2", "car/3"),
    "kinds of a vehicle": ("train/steam/1", "train/tram/2", "bus/red/3", "bus/blue/4"),
    "words that begin alike": ("test_tube/1", "train_station/2"),
    "years": ("fox/2023/1", "fox/2024/2", "owl/2023/3", "owl/2024/4"),
    "splits below classes": ("fox/train/1", "fox/test/2", "owl/train/3", "owl/test/4"),
    "containers below classes": ("fox/images/1", "fox/raw/2", "owl/images/3", "owl/raw/4"),
    "folders beside files": ("fox/front/1", "fox/back/2", "fox/3", "owl/front/4", "owl/back/5"),
    "one folder that repeats": ("fox/night/1", "fox/day/2", "owl/night/3"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_with_such_names_and_folders_pass(case: str, tmp_path: Path) -> None:
    """A class may be called train, and hold folders of its own."""
    check_source(tree(tmp_path, *CLASSES[case]))


def test_folds_of_cross_validation_are_no_classes(tmp_path: Path) -> None:
    """Splits below several folders that hold folders themselves are not those of a class."""
    files = [f"fold{i}/{split}/{label}/1" for i in (1, 2) for split in ("train", "val") for label in ("cat", "dog")]
    with pytest.raises(InputError, match="folders fold1 and fold2 of .* contain the same folders.*: train, val"):
        check_source(tree(tmp_path, *files))


@pytest.mark.parametrize("names", [("camera1", "camera2"), ("2023", "2024"), ("fold_a", "fold_b", "fold_c")])
def test_classes_that_repeat_one_level_below_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    """Where the same class folders lie in each folder it can't be known which level the classes are."""
    files = [f"{name}/{label}/1" for name in names for label in ("cat", "dog", "owl")]
    with pytest.raises(
        InputError, match=f"folders {names[0]} and {names[1]} of .* contain the same folders.*: cat, dog, owl"
    ):
        check_source(tree(tmp_path, *files))


def test_folders_of_object_detection_are_no_classes(tmp_path: Path) -> None:
    """The folders images and labels of a data set with boxes are told as such."""
    with pytest.raises(InputError, match="hold pictures with boxes or masks, not classes: images, labels"):
        check_source(tree(tmp_path, "images/train/1.jpg", "images/val/2.jpg", "labels/train/1.txt", "labels/val/2.txt"))


LEFT_BEHIND = [
    *("__MACOSX", ".ipynb_checkpoints", "@eaDir", "lost+found", "$RECYCLE.BIN", ".AppleDouble"),
    *("System Volume Information", "#recycle", "@Recycle", "~snapshot", "__pycache__", ".Trash-1000", "found.000"),
]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_and_network_drives_leave_behind_is_no_class(name: str, tmp_path: Path) -> None:
    """Such a folder counts neither as a class nor, below one, as records of it."""
    source = tree(tmp_path, "cat/1", "dog/1", f"{name}/1", f"cat/{name}/2")
    assert {entry.label for entry in list_entries(source)} == {"cat", "dog"}
    assert len(list(list_entries(source))) == 2
    (tmp_path / "dog/1").unlink()
    with pytest.raises(InputError, match="only one class: cat"):
        check_source(source)


def test_what_windows_notes_beside_each_file_is_no_record(tmp_path: Path) -> None:
    """Files that were copied from Windows have a companion that says where they came from."""
    source = tree(tmp_path, "cat/1.jpg", "cat/1.jpg:Zone.Identifier", "dog/1.jpg", "dog/1.jpg:Zone.Identifier")
    assert len(list(list_entries(source))) == 2


def test_the_only_folder_is_named_where_it_holds_the_classes(tmp_path: Path) -> None:
    """A zip that was unpacked into a folder of its own name leaves the classes one level too deep."""
    source = tree(tmp_path / "photos", "photos/cat/1", "photos/dog/1", "__MACOSX/photos/cat/1")
    with pytest.raises(InputError, match=r"only one folder, which contains folders: photos\. Give .*photos/photos\."):
        check_source(source)
    check_source(f"{source}/photos")


@pytest.mark.parametrize("place", ["home", "cat/home", "."])
def test_a_source_that_holds_the_home_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Thawline writes is no record of the next run."""
    source = tree(tmp_path / "data", "cat/1", "dog/1")
    monkeypatch.setenv("THAWLINE_HOME", f"{source}/{place}")
    with pytest.raises(InputError, match="contains files that Thawline writes"):
        check_source(source)


def test_a_hidden_home_and_data_within_a_home_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default home is passed over in a source, and the demo's data lie in one; its runs are no source."""
    source = tree(tmp_path, "cat/1", "dog/1", ".thawline/demo/cat/1", ".thawline/demo/dog/1", ".thawline/runs/a/1")
    monkeypatch.setenv("THAWLINE_HOME", f"{source}/.thawline")
    check_source(source)
    check_source(f"{source}/.thawline/demo")
    with pytest.raises(InputError, match="contains files that Thawline writes"):
        check_source(f"{source}/.thawline/runs")


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    """Composed and decomposed letters, blanks at the end, and spaces of any kind or of no width make no other class."""
    composed, decomposed = unicodedata.normalize("NFC", "caf\u00e9"), unicodedata.normalize("NFD", "caf\u00e9")
    source = tree(tmp_path, f"{composed}/1", f"{decomposed}/2", "polar bear/1", "polar\u00a0bear /2", "\ufeffowl/1")
    assert {entry.label for entry in list_entries(source)} == {composed, "polar bear", "owl"}
    check_source(source)
    (tmp_path / "m.csv").write_text(f"uri,label,group\na,{composed},g\u200b\nb,{decomposed},g\nc,{composed}\u00a0,g\n")
    rows = list(list_entries(str(tmp_path / "m.csv")))
    assert ({row.label for row in rows}, {row.group for row in rows}) == ({composed}, {"g"})


def test_joiners_that_letters_need_stay() -> None:
    """What has no width but changes how letters look is a part of the name."""
    assert (
        as_label("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645")
        == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


def test_classes_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    """On many systems they would be one folder, so a copy of the data would be other data."""
    with pytest.raises(InputError, match=r"The folders Cat and cat of .* differ only in upper and lower case"):
        check_source(tree(tmp_path, "Cat/1", "cat/2", "dog/3"))


@pytest.mark.slow
def test_folders_on_s3_mean_the_same(s3: str) -> None:
    """Splits, one inner folder, repeated classes and litter are told of a prefix as of a folder."""
    from components.core.storage import s3 as storage

    def put(prefix: str, *names: str) -> str:
        for name in names:
            storage.client().put_object(Bucket=s3.removeprefix("s3://"), Key=f"{prefix}/{name}", Body=b"x")
        return f"{s3}/{prefix}"

    for prefix, names, sentence in (
        ("a", SPLITS["beside another folder"], "splits, not classes"),
        ("b", SPLITS["one split of classes beside loose samples"], "splits, not classes"),
        ("c", ("in/cat/1", "in/dog/1"), "only one folder, which contains folders: in"),
        ("d", ("x/cat/1", "x/dog/1", "y/cat/1", "y/dog/1"), "folders x and y of .* contain the same folders"),
        ("e", ("cat/1", "lost+found/1"), "only one class: cat"),
    ):
        with pytest.raises(InputError, match=sentence):
            check_source(put(prefix, *names))
    good = put("f", *CLASSES["folders beside files"], "@eaDir/1", "fox /9")
    check_source(good)
    assert {entry.label for entry in list_entries(good)} == {"fox", "owl"}
