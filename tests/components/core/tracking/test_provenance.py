"""What a model is made of: each part changes the digest, and a change is named."""

import shutil
from pathlib import Path

import pytest

from components.core import settings as settings_module
from components.core.settings import OPERATIONAL, Settings
from components.core.storage import s3
from components.core.tracking import provenance, tag_names


def digest(**changes: object) -> str:
    return provenance.input_digest({**provenance.parts(Settings(**changes)), "data": "0" * 64})


@pytest.mark.parametrize("change", [{"head_epochs": 7}, {"seed": 1}, {"thaw": 2}, {"backbone": "timm/x"}])
def test_settings_that_change_the_model_count(change: dict[str, object]) -> None:
    """A setting of the training is another input, and it is named."""
    assert digest(**change) != digest()
    [named] = provenance.differences(provenance.parts(Settings()), provenance.parts(Settings(**change)), "settings")
    assert named == f"settings: {next(iter(change))}"


@pytest.mark.parametrize("change", [{"search_workers": 7}, {"cache_budget": 1.0}, {"force": True}, {"min_new": 5}])
def test_operation_does_not_count(change: dict[str, object]) -> None:
    """Where, how fast and when a run computes is no input."""
    assert set(change) <= OPERATIONAL
    assert digest(**change) == digest()
    assert Settings(**change).gate_digest() == Settings().gate_digest()


def test_the_gate_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of the gate is no input of the model, but another gate."""
    monkeypatch.setattr(settings_module, "GATE", frozenset({"patience"}))
    assert digest(patience=3) == digest()
    assert Settings(patience=3).gate_digest() != Settings().gate_digest()
    parts = [provenance.parts(Settings(**change)) for change in ({}, {"patience": 3})]
    assert provenance.differences(*parts, "settings", "gate") == ["gate: patience"]


def test_weights_count_by_their_content(tmp_path: Path) -> None:
    """A weight file is known by name and content; a library's name by itself."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"one")
    first = provenance.parts(Settings(weights=str(file)))
    file.write_bytes(b"two")
    assert provenance.differences(first, provenance.parts(Settings(weights=str(file))), *first) == ["weights"]
    assert len({digest(weights=name) for name in ("default", "none", "IMAGENET1K_V2")}) == 3
    assert digest(weights="package:efficientnet-lite0") == digest(weights="package:efficientnet-lite0")


def test_a_model_counts_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, also one in the working directory, is known by what is in it; so is a prefix whose name has a dot."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for content in ("one", "two"):
        before = digest(weights="mine")
        (tmp_path / "mine" / "model.safetensors").write_text(content)
        assert digest(weights="mine") != before
    listed = [("s3://bucket/bert.v2/model.safetensors", 3, "etag")]
    monkeypatch.setattr(s3, "list_objects", lambda root: listed if root == "s3://bucket/bert.v2/" else [])
    before = digest(weights="s3://bucket/bert.v2")
    listed[:] = [("s3://bucket/bert.v2/model.safetensors", 3, "other")]
    assert digest(weights="s3://bucket/bert.v2") != before


@pytest.mark.parametrize("spec", ["package:resemblyzer", "package:all-minilm-l6-v2", "package:nothing"])
def test_packaged_weights_count_whether_they_are_there_or_not(spec: str) -> None:
    """Looking for changes names no fault: what is not installed, or not known, is told when the network is built."""
    assert digest(weights=spec) != digest(weights="none")


def test_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of Thawline's sources is another input; files that are no source are none."""
    for folder in ("components", "pipelines"):
        shutil.copytree(provenance.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = digest()
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert digest() == before
    (tmp_path / "components/notes.txt").write_text("no source")
    assert digest() == before
    for name in ("components/core/fitting/loop.py", "pipelines/steps.py"):
        with (tmp_path / name).open("a") as file:
            file.write("#")
        assert digest() != before
        before = digest()


def test_a_task_of_the_users_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of `--task`, wherever Python finds it, is part of the code; it is not imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/task.py").write_text("raise RuntimeError")
    before = digest(task="mine.task")
    assert before == digest(task="mine.task")
    (tmp_path / "mine/task.py").write_text("raise RuntimeError # other")
    assert digest(task="mine.task") != before
    (tmp_path / "mine/package").mkdir()
    (tmp_path / "mine/package/__init__.py").write_text("1")
    before = digest(task="mine.package")
    (tmp_path / "mine/package/more.py").write_text("2")
    assert digest(task="mine.package") != before


def test_the_image_stands_for_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of libraries count by name, or the digest of the image that holds them."""
    before = provenance.parts(Settings())
    assert {"torch", "torchvision", "timm", "transformers", "soundfile", "soxr"} <= before["libraries"].keys()
    newer = {**before, "libraries": {**before["libraries"], "torch": "99"}}
    assert provenance.differences(before, newer, "libraries") == ["libraries: torch"]
    monkeypatch.setenv("THAWLINE_IMAGE_DIGEST", "sha256:1")
    assert provenance.parts(Settings())["libraries"] == {"image": "sha256:1"}


def test_the_parts_fit_into_a_tag() -> None:
    """MLflow takes 5,000 characters; the parts of long settings are far below."""
    settings = Settings(model="m" * 100, backbone="timm/" + "b" * 500, weights="s" * 500)
    parts = {**provenance.parts(settings), "data": "0" * 64}
    assert len(provenance.tags(parts, settings)[tag_names.PARTS]) < 3500


def test_the_data_that_was_read_is_what_counts() -> None:
    """A training run is tagged with what it read; a version that is judged again keeps what it was made of."""
    settings = Settings()
    seen = {**provenance.parts(settings), "data": "1" * 64}
    tags = provenance.tags(seen, settings)
    trained = tags | provenance.tags_of_data({**tags, tag_names.CHANGE: "train"}, "2" * 64)
    judged = tags | provenance.tags_of_data({**tags, tag_names.CHANGE: "judge"}, "2" * 64)
    assert trained[tag_names.INPUT_DIGEST] == provenance.input_digest({**seen, "data": "2" * 64})
    assert provenance.read(trained)["data"] == "2" * 64
    assert judged[tag_names.INPUT_DIGEST] == tags[tag_names.INPUT_DIGEST]
    assert {trained[tag_names.DATA_DIGEST], judged[tag_names.DATA_DIGEST]} == {"2" * 64}
    assert provenance.tags_of_data({}, "2" * 64) == {tag_names.DATA_DIGEST: "2" * 64, tag_names.INDEXED: "true"}


def test_an_encoding_is_that_of_its_code_and_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's task, the code that is served and the versions of its libraries count; other modules do not."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own").mkdir()
    task, served = tmp_path / "own/task.py", tmp_path / "serving.py"
    task.write_text("one")
    served.write_text("one")

    def found() -> str:
        return provenance.encoding_digest("own.task", served, ("pillow", "not-installed"))

    known = {found()}
    (tmp_path / "notes.py").write_text("another module")
    assert found() in known
    for path in (task, served):
        path.write_text("two")
        assert found() not in known
        known.add(found())
    monkeypatch.setattr(provenance, "version", lambda name: f"another {name}")
    assert found() not in known
