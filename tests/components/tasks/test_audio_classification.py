"""Sounds into classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.contract.task import load_task
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError, RejectedRecord
from components.core.fitting.data import Data, open_data
from components.core.networks.network import Network
from components.core.settings import Settings
from components.core.training import phase
from components.tasks import audio_classification
from tests.components.tasks.conftest import Predict
from tests.data.sound_models import save_model, sound_file, tone
from tests.data.spoken import write_spoken
from tests.support.command import ROOT

OPTIONS: dict[str, Any] = {"task": "audio_classification", "model": "tones", "head_epochs": 20, "thaw_epochs": 2}
OPTIONS |= {"thaw": 1, "head_learning_rate": 0.05, "thaw_learning_rate": 0.001, "trials": 0}
# A random network knows nothing: all of it learns.
WHOLE = {"thaw": 3, "thaw_epochs": 12, "thaw_learning_rate": 0.005, "layer_decay": 1.0, "dropout": 0.0}

NONE = torch.empty(0)  # targets that no augmentation looks at


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "whisper", "whisper")


@pytest.fixture(scope="module")
def speaker() -> Path:
    """Weights of a real speaker encoder."""
    folder = ROOT / ".thawline/demo/spoken"
    write_spoken(folder)
    return folder / "speaker.pt"


def settings(**options: Any) -> Settings:
    return Settings(**OPTIONS | {"backbone": "speaker/lstm", "weights": "none"} | options)


def write_tones(folder: Path, count: int, shortest: float = 0.2) -> Path:
    """Low and high tones in all four formats, by class, up to a quarter of a second longer than the shortest."""
    generator = np.random.default_rng(0)
    for number in range(count):
        low, kind = bool(number % 2), ("WAV", "FLAC", "OGG", "MP3")[number // 2 % 4]
        hertz = generator.uniform(200, 400) if low else generator.uniform(800, 1600)
        wave = tone(hertz, generator.uniform(shortest, shortest + 0.25), 16_000 if number % 3 else 22_050, seed=number)
        path = folder / ("low" if low else "high") / f"{number:03d}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound_file(wave, 16_000 if number % 3 else 22_050, kind))
    return folder


def low_and_high(folder: Path) -> list[str]:
    """A low and a high tone that no split holds."""
    for name, hertz in (("low", 250.0), ("high", 1000.0)):
        (folder / f"{name}.ogg").write_bytes(sound_file(tone(hertz, 1.5), kind="OGG"))
    return [str(folder / f"{name}.ogg") for name in ("low", "high")]


def prepared(tmp_path: Path, chosen: Settings) -> Data:
    source = write_tones(tmp_path / "tones", 60)
    prepare(str(source), chosen, tmp_path / "dataset", Lineage("0"), lambda *_: None)
    return open_data(tmp_path / "dataset", chosen)


def test_it_is_found_by_name() -> None:
    """The task is its module's name."""
    assert load_task("audio_classification").build is audio_classification.build


def test_what_is_no_sound_is_rejected() -> None:
    """A sound has facts, anything else a reason."""
    assert audio_classification.check(sound_file(tone(440.0)))["milliseconds"] == 1000
    with pytest.raises(RejectedRecord, match="not a sound"):
        audio_classification.check(b"words")


def test_the_data_choose_the_length(tmp_path: Path) -> None:
    """The length is the least half second that holds nearly all sounds, and every later step sees it."""
    data = prepared(tmp_path, settings())
    assert data.settings.option == {"seconds": "0.5"}
    assert "cut at 0.5 s, chosen from 42 training sounds: 0.0% of them are longer" in data.examples.info.note
    network = phase.build_network(data, data.settings.defaults())
    assert network.preprocessing["samples"] == 8_000


def test_a_length_that_was_asked_for_stays(tmp_path: Path) -> None:
    """The user's own length wins over the data, and what it cuts is told."""
    data = prepared(tmp_path, settings(option=["seconds=0.25"]))
    assert data.settings.option == {"seconds": "0.25"}
    assert "cut at 0.25 s, as asked" in data.examples.info.note
    assert "0.0% of the total audio" not in data.examples.info.note


def test_a_network_may_have_its_own_length(whisper: Path, tmp_path: Path) -> None:
    """Whisper is given what it was trained on, unless less is asked for."""
    data = prepared(tmp_path, settings(backbone="hf/x", weights=str(whisper)))
    assert data.settings.option == {"seconds": "1.0"}
    assert "as the network was trained" in data.examples.info.note


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"option": {"seconds": "700"}}, "seconds=700 can't be used"),
        ({"option": {"second": "1"}}, "has no option 'second'"),
        ({"augment": "randaugment"}, "randaugment is for pictures"),
        ({"cutmix": 1.0}, "cutmix is for pictures"),
    ],
)
def test_what_does_not_fit_is_an_input_error(options: dict[str, Any], sentence: str) -> None:
    """Options that the task can't take are told in one sentence."""
    with pytest.raises(InputError, match=sentence):
        audio_classification.build(settings(**options), ["a", "b"], 0.0)


@pytest.fixture
def network() -> Network:
    return audio_classification.build(settings(option={"seconds": "1"}), ["high", "low"], 0.0)


def test_augmentation_follows_the_seed(network: Network) -> None:
    """Each sound depends on its own seed only; length and padding stay."""
    content = sound_file(tone(440.0, 0.5))
    chosen = settings(augment="basic")
    one, same, other = (
        audio_classification.augment([content, content], NONE, network.preprocessing, chosen, seeds)[0]
        for seeds in ((1, 2), (1, 2), (1, 3))
    )
    assert torch.equal(one["sound"], same["sound"])
    assert [torch.equal(a, b) for a, b in zip(one["sound"], other["sound"], strict=True)] == [True, False]
    assert one["length"].tolist() == [51, 51]
    assert load_task("audio_classification").augments(chosen)


def test_each_kind_of_augmentation_has_its_option(network: Network) -> None:
    """Noise, masks over time and masks over bands can be had one by one, or not at all."""
    content, clean = [sound_file(tone(440.0, 1.0))], {"noise": "0", "time_mask": "0", "band_mask": "0"}
    plain = audio_classification.encode(content, network.preprocessing)["sound"][0]

    def changed(**given: str) -> torch.Tensor:
        chosen = settings(augment="basic", option={**clean, **given})
        found = audio_classification.augment(content, NONE, network.preprocessing, chosen, [5])[0]["sound"][0]
        return (found - plain).abs() > 1e-6 * plain.abs() + 1e-9

    assert not changed().any()
    assert changed(noise="10").float().mean() > 0.9
    rows, bands = changed(time_mask="0.5"), changed(band_mask="0.5")
    assert set(rows.float().mean(1).round().tolist()) == {0.0, 1.0}
    assert set(bands.float().mean(0).round().tolist()) == {0.0, 1.0}


def test_a_piece_of_a_long_sound_is_drawn(network: Network) -> None:
    """Of what is too long, augmentation takes a piece from anywhere."""
    wave = np.concatenate([tone(300.0, 2.0), tone(3000.0, 2.0)])
    chosen = settings(augment="basic", option={"noise": "0", "time_mask": "0", "band_mask": "0"})
    sounds = [sound_file(wave)] * 12
    found, _ = audio_classification.augment(sounds, NONE, network.preprocessing, chosen, range(12))
    loudest = found["sound"].sum(1).argmax(1)
    assert len(set((loudest > 15).tolist())) == 2


def test_mixing(network: Network) -> None:
    """Sounds are mixed with their labels, and the longer length counts."""
    inputs = audio_classification.encode([sound_file(tone(440.0, s)) for s in (0.2, 0.8)], network.preprocessing)
    mixed, soft = audio_classification.mix(inputs, torch.tensor([0, 1]), settings(mixup=1.0), 2, 0)
    share = soft[0, 0]
    expected = inputs["sound"][0] * share + inputs["sound"][1] * (1 - share)
    torch.testing.assert_close(mixed["sound"][0], expected)
    assert mixed["length"].tolist() == [81, 81]


def test_the_report_shows_spectrograms() -> None:
    """Each sound is a small picture; without mistakes there is none to show."""
    assert audio_classification.thumbnails([]) == []
    first = audio_classification.thumbnails([sound_file(tone(440.0))])[0]
    assert first.startswith(b"\x89PNG")


def test_the_simple_model_answers_the_test_rows(tmp_path: Path) -> None:
    """Log-mel statistics with logistic regression tell low from high."""
    data = prepared(tmp_path, settings())
    [(name, answers)] = audio_classification.references(data.settings, data.examples)
    labels = data.examples.labels(data.rows["test"])
    assert name == "log-mel statistics with logistic regression"
    assert data.target.scores(answers, labels).mean() == 1.0
    assert sum(answers["probabilities"][0].values()) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("network_of", ["speaker", "whisper"])
def test_the_whole_way(
    network_of: str, whisper: Path, speaker: Path, tracked_home: Path, tmp_path: Path, predict: Predict
) -> None:
    """From files of four formats to a champion whose artifact needs only its own requirements, and answers a file."""
    from components.core.training.checkpoints import load_checkpoint
    from tests.support.plain import run_steps

    source = write_tones(tmp_path / "tones", 120, 1.4)
    (source / "low" / "broken.wav").write_bytes(sound_file(tone(300.0))[:2000])
    random_network = {"backbone": "hf/x", "weights": str(whisper), **WHOLE}
    chosen = settings(**random_network if network_of == "whisper" else {"weights": str(speaker)}, batch_size=8)
    run = run_steps(source, chosen, tmp_path / "artifacts")
    assert run.accepted
    requirements = (tmp_path / "artifacts/served/requirements.txt").read_text()
    assert "soundfile==" in requirements
    assert "soxr==" in requirements
    assert "transformers" not in requirements
    page = (tmp_path / "artifacts/report.html").read_text()
    assert "log-mel statistics with logistic regression" in page
    assert "truncated" in page
    network, _ = load_checkpoint(tmp_path / "artifacts/tuned")
    assert network.preprocessing["samples"] == (16_000 if network_of == "whisper" else 32_000)
    assert [answer["label"] for answer in predict("--model", "tones", *low_and_high(tmp_path))] == ["low", "high"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "labels"), [("number", {"low": 1.0, "high": 3.0}), ("labels", {"low": ["a"], "high": []})]
)
def test_other_targets_go_the_whole_way(
    kind: str, labels: dict[str, Any], speaker: Path, tracked_home: Path, tmp_path: Path, predict: Predict
) -> None:
    """A sound may have a number, or several labels or none: learnt, judged and answered as served."""
    from tests.support.plain import run_steps

    folder = write_tones(tmp_path / "tones", 120, 1.4)
    rows = [{"uri": str(path), "label": labels[path.parent.name]} for path in sorted(folder.glob("*/*"))]
    (tmp_path / "tones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = settings(weights=str(speaker), batch_size=8, option={"target": kind})
    run = run_steps(tmp_path / "tones.jsonl", chosen, tmp_path / "artifacts")
    assert run.accepted
    low, high = predict("--model", "tones", *low_and_high(tmp_path))
    if kind == "number":
        assert low["number"] < 2.0 < high["number"]
    else:
        assert (low["labels"], high["labels"]) == (["a"], [])


@pytest.mark.parametrize(("kind", "labels"), [("number", ["1.5", "3"]), ("labels", ['["a","b"]', '["b"]'])])
def test_other_targets_than_classes(kind: str, labels: list[str]) -> None:
    """A sound may have a number or several labels: the head fits, and each row has its answer."""
    chosen = settings(option={"seconds": "0.5", "target": kind})
    target = audio_classification.target(chosen)
    classes = target.class_names([target.check_label(label) for label in labels])
    network = audio_classification.build(chosen, classes, 0.0).eval()
    outputs = network(audio_classification.encode([sound_file(tone(440.0, 0.3))] * 2, network.preprocessing)).detach()
    true = target.targets([target.check_label(label) for label in labels], classes)
    assert np.isfinite(target.validate(outputs, true)["loss"])
    calibration = target.calibrate(outputs, true)
    assert len(target.answers(outputs, {"classes": classes, **calibration})) == 2
