"""Speech into transcripts."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.contract.task import load_task
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError
from components.core.fitting.data import open_data
from components.core.settings import Settings
from components.tasks import speech_recognition
from tests.components.tasks.conftest import Predict
from tests.data.sound_models import save_model, sound_file, tone

OPTIONS: dict[str, Any] = {"task": "speech_recognition", "model": "morse", "trials": 0, "backbone": "speaker/lstm"}
OPTIONS |= {"weights": "none", "head_epochs": 3, "thaw_epochs": 12, "thaw": 3, "thaw_learning_rate": 0.01}
OPTIONS |= {"head_learning_rate": 0.01, "layer_decay": 1.0, "dropout": 0.0, "batch_size": 8}
PITCH = {"a": 400.0, "b": 900.0, "c": 2000.0}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def settings(**options: Any) -> Settings:
    return Settings(**OPTIONS | options)


def said(text: str, seed: int = 0) -> np.ndarray:
    """Each letter as a tone of its own, a space as a pause."""
    parts = [tone(PITCH[c], 0.08, seed=seed) if c in PITCH else np.zeros(1280, np.float32) for c in text]
    rest = np.zeros(320, np.float32)
    return np.concatenate([part for sound in parts for part in (sound, rest)]).astype(np.float32)


def write_speech(folder: Path, count: int = 140, longest: int = 2) -> Path:
    """A manifest of tones and of what they spell, two words each; the last row says nothing."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        words = ["".join(generator.choice(list(PITCH), generator.integers(1, longest + 1))) for _ in range(2)]
        (folder / f"{number}.wav").write_bytes(sound_file(said(" ".join(words), number)))
        rows.append((f"{number}.wav", " ".join(words).title() + "."))
    with (folder / "speech.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("uri", "label"), *rows, ("0.wav", rows[0][1]), ("1.wav", "…")])
    return folder / "speech.csv"


def test_it_is_found_by_name() -> None:
    """The task is its module's name, and its target transcripts."""
    assert load_task("speech_recognition").build is speech_recognition.build
    target = speech_recognition.target(settings(option=["beam=4", "units=words"]))
    assert target.calibrate(torch.zeros(0), torch.zeros(0)) == {"beam": 4, "words": 1}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"augment": "randaugment"}, "randaugment is for pictures"),
        ({"mixup": 1.0}, "can't be mixed"),
    ],
)
def test_what_does_not_fit_is_an_input_error(options: dict[str, Any], sentence: str) -> None:
    """Options that the task can't take are told in one sentence."""
    with pytest.raises(InputError, match=sentence):
        speech_recognition.build(settings(**options), [" ", "a"], 0.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"class_weights": "balanced"}, "are for classes, not for transcripts"),
        ({"label_smoothing": 0.1}, "are for classes, not for transcripts"),
        ({"option": {"beam": "0"}}, "beam=0 can't be"),
        ({"option": {"units": "syllables"}}, "units=syllables can't be"),
    ],
)
def test_what_the_target_can_not_do_is_an_input_error(options: dict[str, Any], sentence: str) -> None:
    """Transcripts have no classes to weigh or smooth, and a search keeps one prefix at least."""
    with pytest.raises(InputError, match=sentence):
        speech_recognition.target(settings(**options))


@pytest.mark.parametrize("family", ["wav2vec2-masked", "hubert", "whisper"])
def test_encoders_of_transformers_score_each_frame(family: str, tmp_path: Path) -> None:
    """Each frame has a probability of the blank and of each character; padding is blank for sure."""
    chosen = settings(backbone="hf/x", weights=str(save_model(tmp_path / "m", family)), option={"seconds": "1"})
    network = speech_recognition.build(chosen, [" ", "a", "b"], 0.0).eval()
    batch = speech_recognition.encode([sound_file(said("a b")), sound_file(said("ab ab ab"))], network.preprocessing)
    with torch.no_grad():
        outputs = network(batch)
    assert outputs.shape[2] == 4
    torch.testing.assert_close(outputs.exp().sum(2), torch.ones(outputs.shape[:2]))
    assert outputs[0, -1].exp().tolist() == [1.0, 0.0, 0.0, 0.0]
    assert outputs[0, 0].exp().min() > 0.0


def test_labels_become_transcripts(tmp_path: Path) -> None:
    """Letters are made small, punctuation goes, and a row without words is rejected."""
    source = write_speech(tmp_path / "speech", 40)
    prepare(str(source), settings(max_rejected=0.5), tmp_path / "dataset", Lineage("0"), lambda *_: None)
    data = open_data(tmp_path / "dataset", settings())
    assert data.examples.classes == [" ", "a", "b", "c"]
    assert {"the transcript has no letter or digit"} == {row["reason"] for row in data.examples.rejected()}
    assert data.targets["train"].shape[0] == len(data.rows["train"])
    assert float(data.settings.option["seconds"]) <= 1.0


def test_what_is_too_long_for_its_sound_is_told(tmp_path: Path) -> None:
    """A transcript of more characters than frames teaches nothing, which the run says; where all have room, nothing."""
    source = write_speech(tmp_path / "speech", 40)
    notes = []
    for seconds in ("1", "0.1"):  # 0.1 s are 11 frames
        folder = tmp_path / f"dataset{seconds}"
        chosen = settings(max_rejected=0.5, option={"seconds": seconds})
        if seconds == "0.1":
            source.write_text(source.read_text().replace(".wav,", ".wav,it says more than 11 frames hold "))
        notes.append(prepare(str(source), chosen, folder, Lineage("0"), lambda *_: None).note)
    assert "transcripts" not in notes[0]
    assert re.search(r"; (\d+) of \1 transcripts need more frames than their sounds have", notes[1])


@pytest.mark.slow
@pytest.mark.parametrize(("units", "longest", "text"), [("characters", 2, "ca b"), ("words", 1, "c b")])
def test_the_whole_way(
    units: str, longest: int, text: str, tracked_home: Path, tmp_path: Path, predict: Predict
) -> None:
    """From a manifest to a champion that spells what it never heard, and a second version that the gate judges."""
    from tests.support.plain import run_steps

    source = write_speech(tmp_path / "speech", longest=longest)
    run = run_steps(source, settings(option={"beam": "4", "units": units}), tmp_path / "artifacts")
    assert run.accepted
    page = (tmp_path / "artifacts/report.html").read_text()
    assert "word error rate" in page.lower()
    (tmp_path / "new.flac").write_bytes(sound_file(said(text, 999), kind="FLAC"))
    assert predict("--model", "morse", str(tmp_path / "new.flac"))[0]["transcript"] == text
    again = run_steps(source, settings(seed=1, force=True, option={"units": units}), tmp_path / "again")
    assert not again.accepted
