"""Texts into classes."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from components.core.compute import engines
from components.core.contract.task import load_task
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError, RejectedRecord
from components.core.fitting.data import Data, open_data
from components.core.networks.network import Network
from components.core.settings import Settings
from components.core.targets.classification import Classification
from components.core.training import phase
from components.tasks import text_classification
from tests.components.tasks.conftest import Predict
from tests.data.text_models import save_model

GOOD, BAD = ("good", "fine"), ("bad", "dull")
OPTIONS: dict[str, Any] = {
    "task": "text_classification",
    "model": "films",
    "head_epochs": 20,
    "thaw_epochs": 2,
    "thaw": 1,
}
OPTIONS |= {"head_learning_rate": 0.05, "thaw_learning_rate": 0.001}

NONE = torch.empty(0)  # targets that no augmentation looks at


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A tiny encoder and a tiny decoder."""
    folder = tmp_path_factory.mktemp("models")
    return {family: save_model(folder / family, family) for family in ("bert", "gpt2")}


def settings(folder: Path, **options: Any) -> Settings:
    return Settings(**OPTIONS | {"weights": str(folder)} | options)


def write_films(path: Path, count: int = 120) -> Path:
    """Sentences that are one thing or the other, as JSON lines; no two are near to each other."""
    generator = random.Random(0)
    rows = []
    for number in range(count):
        words = GOOD if number % 2 else BAD
        noise = [f"{generator.getrandbits(48):x}" for _ in range(4)]
        text = " ".join([generator.choice(words), *noise[:2], generator.choice(words), *noise[2:]])
        rows.append({"text": text, "label": "up" if number % 2 else "down", "source": f"s{number % 3}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepared(tmp_path: Path, chosen: Settings) -> Data:
    source = write_films(tmp_path / "films.jsonl")
    prepare(str(source), chosen, tmp_path / "dataset", Lineage("0"), lambda *_: None)
    return open_data(tmp_path / "dataset", chosen)


def test_it_is_found_by_name() -> None:
    """The task is its module's name."""
    assert load_task("text_classification").build is text_classification.build


def test_check_counts_and_prints() -> None:
    """A text has a number of characters and words, and a fingerprint."""
    facts = text_classification.check("Zwölf Boxkämpfer".encode())
    assert (facts["characters"], facts["words"], len(str(facts["fingerprint"]))) == (16, 2, 512)


@pytest.mark.parametrize("content", [b"", b"\xff\x00\xff"])
def test_what_is_no_text_is_rejected(content: bytes) -> None:
    """Anything else is rejected with its reason."""
    with pytest.raises(RejectedRecord, match="text"):
        text_classification.check(content)


def test_near_texts_are_found_by_the_tasks_own_similarity(models: Mapping[str, Path]) -> None:
    """The option says from which similarity texts belong together."""
    texts = [b"a good film of the old school", b"a good film of the new school", b"nothing at all like it, I think"]
    prints = [str(text_classification.check(text)["fingerprint"]) for text in texts]
    for similarity, found in (("0.4", [(0, 1)]), ("0.95", [])):
        chosen = settings(models["bert"], option={"similarity": similarity})
        assert text_classification.near_duplicates(prints, [True] * 3, chosen) == found


def test_the_data_choose_the_length(models: Mapping[str, Path], tmp_path: Path) -> None:
    """The length is the least step that holds nearly all texts, and every later step sees it."""
    data = prepared(tmp_path, settings(models["bert"]))
    assert data.settings.option == {"max_length": "16"}
    assert "chosen from 84 training texts: 0.0% of them are longer" in data.examples.info.note
    network = phase.build_network(data, data.settings.defaults())
    assert network.preprocessing["max_length"] == 16


def test_a_folder_of_files_is_a_source(models: Mapping[str, Path], tmp_path: Path) -> None:
    """Files in a folder for each class are texts; an empty one and one in another encoding are listed with a reason."""
    source = write_films(tmp_path / "films.jsonl", 40)
    for number, line in enumerate(source.read_text().splitlines()):
        row = json.loads(line)
        place = tmp_path / "films" / row["label"] / f"{number}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(row["text"])
    (tmp_path / "films/up/empty.txt").write_text(" \n")
    (tmp_path / "films/up/latin.txt").write_bytes("très bon".encode("latin-1"))
    chosen = settings(models["bert"], max_rejected=0.1)
    info = prepare(str(tmp_path / "films"), chosen, tmp_path / "dataset", Lineage("0"), lambda *_: None)
    assert (info.examples, info.classes) == (40, ["down", "up"])
    assert info.rejected == {"no text": 1, "not a text in UTF-8": 1}


def test_a_length_that_was_asked_for_stays(models: Mapping[str, Path], tmp_path: Path) -> None:
    """The user's own length wins over the data, and what it cuts is told."""
    data = prepared(tmp_path, settings(models["bert"], option=["max_length=4"]))
    assert data.settings.option == {"max_length": "4"}
    assert "cut at 4 tokens, as asked: 100.0% of them are longer" in data.examples.info.note


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"option": {"max_length": "400"}}, "max_length=400 is more than the 40 tokens"),
        ({"option": {"max_length": "2"}}, "leaves no room for a text: the encoder needs 2 special tokens"),
        ({"option": {"max_length": "long"}}, "max_length=long can't be used"),
        ({"option": {"pool": "mean"}}, "has no option 'pool'"),
        ({"augment": "randaugment"}, "randaugment is for pictures"),
        ({"cutmix": 1.0}, "cutmix is for pictures"),
        ({"mixup": 0.2, "augment": "basic"}, "--augment changes the words, which can't be mixed"),
    ],
)
def test_what_does_not_fit_is_an_input_error(
    options: dict[str, Any], sentence: str, models: Mapping[str, Path]
) -> None:
    """Options that the task or the encoder can't take are told in one sentence."""
    with pytest.raises(InputError, match=sentence):
        text_classification.build(settings(models["bert"], **options), ["a", "b"], 0.0)


@pytest.fixture
def network(models: Mapping[str, Path]) -> Network:
    return text_classification.build(settings(models["bert"]), ["down", "up"], 0.0)


def test_augmentation_drops_words_by_the_seed(network: Network, models: Mapping[str, Path]) -> None:
    """Each text depends on its own seed only, and keeps at least a word."""
    chosen = settings(models["bert"], augment="basic")
    text = b"good bad film tale dull fine " * 4
    one, same, other = (
        text_classification.augment([text, b"good", text], NONE, network.preprocessing, chosen, seeds)[0]["ids"]
        for seeds in ((1, 2, 3), (1, 2, 3), (1, 5, 4))
    )
    assert torch.equal(one, same)
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [True, True, False]
    assert load_task("text_classification").augments(chosen)


def test_mixing(models: Mapping[str, Path], network: Network) -> None:
    """Hidden states are mixed and both texts seen; tokens, which have no mean, stay with their labels."""
    chosen, targets = settings(models["bert"], mixup=1.0), torch.tensor([0, 1])
    inputs = text_classification.encode([b"good", b"bad film tale"], network.preprocessing)
    same, labels = text_classification.mix(inputs, targets, chosen, 2, 0)
    assert torch.equal(same["ids"], inputs["ids"])
    assert torch.equal(labels, targets)
    hidden = network.below(inputs, 1)
    mixed, soft = text_classification.mix(hidden, targets, chosen, 2, 0)
    share = soft[0, 0]
    torch.testing.assert_close(mixed["hidden"][0], hidden["hidden"][0] * share + hidden["hidden"][1] * (1 - share))
    assert mixed["mask"].sum(1).tolist() == [5, 5]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_engines_run_trees_of_states_and_masks(family: str, models: Mapping[str, Path], tmp_path: Path) -> None:
    """An exported prefix gives what eager gives at every line, or eager remains; masks pass as they are."""
    built = text_classification.build(settings(models[family]), ["down", "up"], 0.0).eval()
    batch = text_classification.encode([b"good film", b"bad", b"fine tale dull"] * 6, built.preprocessing)
    plain = engines.eager(built, [1, 3]).run(batch)
    chosen, reason = engines.choose(built, [1, 3], batch, 10**7, tmp_path)
    assert chosen.name.startswith("onnxruntime"), reason
    for ours, theirs in zip(tree_leaves(chosen.run(batch)), tree_leaves(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_report_shows_beginnings() -> None:
    """Long texts are cut in the report, short ones stand as they are."""
    short, long = text_classification.thumbnails([b"  fine\n", b"word " * 200])
    assert short == "fine"
    assert len(long) < 330
    assert long.endswith(" …")


def test_the_simple_model_answers_the_test_rows(models: Mapping[str, Path], tmp_path: Path) -> None:
    """TF-IDF with logistic regression learns which words tell the classes apart."""
    data = prepared(tmp_path, settings(models["bert"]))
    [(name, answers)] = text_classification.references(data.settings, data.examples)
    labels = data.examples.labels(data.rows["test"])
    assert name == "TF-IDF with logistic regression"
    assert Classification().scores(answers, labels).mean() == 1.0
    assert sum(answers["probabilities"][0].values()) == pytest.approx(1.0)


@pytest.mark.slow
def test_the_whole_way(models: Mapping[str, Path], tracked_home: Path, tmp_path: Path, predict: Predict) -> None:
    """From JSON lines to a champion whose artifact needs only its own requirements, and a report with the mistakes."""
    from components.core.training.checkpoints import load_checkpoint
    from tests.support.plain import run_steps

    source = write_films(tmp_path / "films.jsonl")
    chosen = settings(models["bert"], trials=0, head_epochs=40, thaw=2, thaw_epochs=10, thaw_learning_rate=0.01)
    run = run_steps(source, chosen, tmp_path / "artifacts")
    assert run.accepted
    requirements = (tmp_path / "artifacts/served/requirements.txt").read_text()
    assert "tokenizers==" in requirements
    assert "transformers" not in requirements
    page = (tmp_path / "artifacts/report.html").read_text()
    assert "TF-IDF with logistic regression" in page
    network, facts = load_checkpoint(tmp_path / "artifacts/tuned")
    assert facts["settings"]["backbone"] == ""
    answers = predict("--model", "films", "--text", "good 3f8a fine 9c21", "--text", "dull 3f8a bad 9c21")
    assert [answer["label"] for answer in answers] == ["up", "down"]
    assert network.preprocessing["max_length"] == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "labels"),
    [("number", {"up": 3.0, "down": 1.0}), ("labels", {"up": ["good"], "down": []})],
)
def test_other_targets_go_the_whole_way(
    kind: str,
    labels: dict[str, Any],
    models: Mapping[str, Path],
    tracked_home: Path,
    tmp_path: Path,
    predict: Predict,
) -> None:
    """A text may have a number, or several labels or none: learnt, beside its simple model, and answered as served."""
    from tests.support.plain import run_steps

    source = write_films(tmp_path / "films.jsonl")
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    source.write_text("".join(json.dumps({**row, "label": labels[row["label"]]}) + "\n" for row in rows))
    learning = {"trials": 0, "head_epochs": 40, "thaw": 2, "thaw_epochs": 20, "thaw_learning_rate": 0.01}
    run = run_steps(source, settings(models["bert"], **learning, option={"target": kind}), tmp_path / "artifacts")
    assert run.accepted
    name = {"number": "TF-IDF with ridge regression", "labels": "TF-IDF with logistic regression"}[kind]
    assert name in (tmp_path / "artifacts/report.html").read_text()
    good, bad = predict("--model", "films", "--text", "good 3f8a fine 9c21", "--text", "dull 3f8a bad 9c21")
    if kind == "number":
        assert good["number"] > 2.0 > bad["number"]
    else:
        assert (good["labels"], bad["labels"]) == (["good"], [])
