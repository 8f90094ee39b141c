"""Kinds of records, and the tasks for them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.core.errors import InputError
from components.core.settings import Settings
from components.core.sources.record_kinds import check_task, kind_of, task_for
from pipelines.local.task_choice import with_task_of_data
from tests.data.sound_models import sound_file, tone


def folder(root: Path, kind: str, suffix: str = "") -> str:
    """Ten records of a kind in two classes."""
    for i in range(10):
        path = root / f"{'ab'[i % 2]}/{i}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "pictures":
            Image.fromarray(np.full((8, 8, 3), i, dtype=np.uint8)).save(path, "PNG")
        elif kind == "sounds":
            path.write_bytes(sound_file(tone(440.0 + i)))
        else:
            path.write_text(f"Text number {i}, with an ä.\n")
    return str(root)


@pytest.mark.parametrize("suffix", ["", ".dat"])
@pytest.mark.parametrize(
    ("kind", "task"),
    [("pictures", "image_classification"), ("texts", "text_classification"), ("sounds", "audio_classification")],
)
def test_the_content_says_what_records_are(kind: str, task: str, suffix: str, tmp_path: Path) -> None:
    """Whatever they are called, and although a file or two among them is of another kind."""
    source = folder(tmp_path / "in", kind, suffix)
    (tmp_path / "in/a/1.xml").write_bytes(b"<notes/>\x00")
    assert (kind_of(source), task_for(source, "image_classification")) == (kind, task)


def test_a_mixture_and_what_can_not_be_told_are_no_kind(tmp_path: Path) -> None:
    """Half pictures and half texts, or bytes that are neither, leave the task as it is."""
    folder(tmp_path / "in", "pictures", ".png")
    assert kind_of(folder(tmp_path / "in", "texts", ".txt")) == ""
    for name in "ab":
        (tmp_path / "bytes" / name).mkdir(parents=True)
        (tmp_path / "bytes" / name / "1").write_bytes(bytes(range(256)))
    assert task_for(str(tmp_path / "bytes"), "text_classification") == "text_classification"


def test_a_table_of_texts_is_of_texts(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("text,label\nfine,up\ndull,down\n")
    assert kind_of(str(tmp_path / "m.csv")) == "texts"


def test_suffixes_say_what_objects_are(tmp_path: Path) -> None:
    """What lies on S3 is not fetched for it."""
    (tmp_path / "m.csv").write_text("uri,label\ns3://b/1.wav,up\ns3://b/2.flac,down\n")
    assert kind_of(str(tmp_path / "m.csv")) == "sounds"


def test_sentences_that_do_not_repeat_are_transcripts(tmp_path: Path) -> None:
    """Sounds with what is said are for speech recognition, sounds with a few labels for classification."""
    folder(tmp_path, "sounds", ".wav")
    rows = [{"uri": f"{'ab'[i % 2]}/{i}.wav", "label": f"sentence number {i}"} for i in range(10)]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "who.jsonl").write_text("".join(json.dumps(row | {"label": "a b"}) + "\n" for row in rows))
    assert task_for(str(tmp_path / "said.jsonl"), "image_classification") == "speech_recognition"
    assert task_for(str(tmp_path / "who.jsonl"), "image_classification") == "audio_classification"
    check_task(str(tmp_path / "said.jsonl"), "audio_classification")


def test_the_task_of_the_data_is_taken_and_told(tmp_path: Path) -> None:
    """Without --task the data decide; with one of other records, or options of another kind, the error names it."""
    source = folder(tmp_path / "in", "texts", ".txt")
    chosen, told = with_task_of_data(Settings(), source)
    assert (chosen.task, told) == (
        "text_classification",
        "The records are texts, so this is --task text_classification",
    )
    assert with_task_of_data(Settings(task="text"), source) == (Settings(task="text"), "")
    with pytest.raises(
        InputError, match=r"are texts, but --task image_classification takes pictures\. Use --task text"
    ):
        with_task_of_data(Settings(task="image_classification"), source)
    with pytest.raises(InputError, match=r"are texts, and the task for --backbone, --image-size"):
        with_task_of_data(Settings(backbone="timm/x", image_size=32), source)
    pictures = folder(tmp_path / "pictures", "pictures", ".png")
    assert with_task_of_data(Settings(image_size=32), pictures) == (Settings(image_size=32), "")
    assert with_task_of_data(Settings(task="tests.fakes.toy"), pictures)[1] == ""


def test_the_recipe_of_a_detected_task_holds(tmp_path: Path) -> None:
    """A task that the data decide has the settings of the same task given by name; what the user gives wins."""
    manifest = tmp_path / "boxes.jsonl"
    label = [{"box": [0, 0, 4, 4], "class": "cat"}]
    manifest.write_text("\n".join(json.dumps({"uri": f"{n}.png", "label": label}) for n in range(5)))
    chosen, _ = with_task_of_data(Settings(dropout=0.1), str(manifest))
    recipe = {"head_solver": "sgd", "label_smoothing": 0.0}
    assert chosen == Settings(task="object_detection", dropout=0.1).model_copy(update=recipe)
    assert with_task_of_data(Settings(head_solver="auto"), str(manifest))[0].head_solver == "auto"


@pytest.mark.parametrize(
    ("short", "task"),
    [
        ("text", "text_classification"),
        ("Image", "image_classification"),
        ("audio", "audio_classification"),
        ("sound", "audio_classification"),
        ("speech", "speech_recognition"),
        ("text-classification", "text_classification"),
        ("tests.fakes.toy", "tests.fakes.toy"),
    ],
)
def test_a_task_has_a_short_name(short: str, task: str) -> None:
    """A short name is the same setting, so it changes no digest."""
    assert Settings(task=short) == Settings(task=task)
    assert Settings(task=short).task == task
