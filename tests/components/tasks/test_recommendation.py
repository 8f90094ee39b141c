"""The next item of a user, out of a table of interactions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.core.contract.task import load_task
from components.core.data.lineage import Lineage
from components.core.data.preparation import prepare
from components.core.errors import InputError
from components.core.evaluation.references import paired_p, with_trivial
from components.core.evidence.gate import first_version
from components.core.fitting.data import Data, open_data
from components.core.run_folder import new_run_key
from components.core.settings import Settings
from components.core.targets.next_item import ndcg
from components.core.training.checkpoints import load_checkpoint, save_checkpoint
from components.core.training.phase import base_network, train_phase
from components.core.training.warm_start import start_from
from components.tasks import recommendation
from tests.components.tasks.conftest import Predict
from tests.data.interactions import write_interactions

OPTIONS: dict[str, Any] = {"task": "recommendation", "model": "walks", "trials": 0, "head_epochs": 1, "batch_size": 32}
OPTIONS |= {"thaw": 3, "thaw_epochs": 30, "thaw_learning_rate": 0.01, "layer_decay": 1.0, "dropout": 0.0}
OWN = {"split": "last", "length": "10", "width": "16", "embedding_dropout": "0.1", "block_dropout": "0.1"}


def settings(own: dict[str, str] | None = None, **options: Any) -> Settings:
    return Settings(**OPTIONS | options, option=OWN | (own or {}))


def opened(folder: Path, chosen: Settings, users: int = 40) -> Data:
    source = write_interactions(folder / "walks.csv", users)
    prepare(str(source), chosen, folder / "dataset", Lineage(salt="0"), lambda *_: None)
    return open_data(folder / "dataset", chosen)


def test_it_is_found_by_name() -> None:
    """The task is its module's name, and lists the records of its source itself."""
    assert load_task("recommendation").build is recommendation.build
    assert load_task("recommendation").records is recommendation.records


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backbone": "bert"}, "There is no network 'bert' of histories"),
        ({"augment": "randaugment"}, "randaugment is for pictures"),
        ({"own": {"least_rating": "nan"}}, "least_rating=nan can't be used"),
        ({"weights": "somewhere/else"}, "no checkpoint of a recommendation model"),
        ({"own": {"width": "15"}}, "A width of 15 can't be divided by 2 heads"),
        ({"own": {"length": "1"}}, "length=1 can't be used"),
        ({"own": {"before": "2026-13-01"}}, "before=2026-13-01 can't be used: not a time: '2026-13-01'"),
    ],
)
def test_what_does_not_fit_is_an_input_error(options: dict[str, Any], sentence: str) -> None:
    """Options that the network can't take are told in one sentence."""
    with pytest.raises(InputError, match=sentence):
        recommendation.build(settings(**options), ["a"], 0.0)


@pytest.mark.parametrize("options", [{"class_weights": "balanced"}, {"drift_trigger": 0.5}])
def test_what_the_target_can_not_do_is_an_input_error(options: dict[str, Any]) -> None:
    """Items are not weighted, and histories are not compared for drift before training."""
    with pytest.raises(InputError, match="is (not )?for"):
        recommendation.target(settings(**options))


def test_weights_without_items_have_one_digest() -> None:
    """The same options have the same weights' digest whatever the items are, and another seed another one."""
    digests = [
        recommendation.build(settings(seed=seed), items, 0.0).weights_digest
        for seed, items in ((0, ["", ""]), (0, ["a", "b", "c"]), (1, ["a"]))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_answers_leave_out_the_longest_history(tmp_path: Path) -> None:
    """How much of a history is masked is chosen from the data; what is given wins, and what it misses is told."""
    data = opened(tmp_path, settings())
    assert data.settings.option["history"] == "21"
    assert data.examples.info.note == "40 items, 40 users"
    short = prepare(
        str(tmp_path / "walks.csv"), settings({"history": "20"}), tmp_path / "short", Lineage("0"), lambda *_: None
    )
    assert short.note.endswith("answers may repeat old items of 40 histories")


def test_what_is_popular_and_not_there_is_no_first_version(tmp_path: Path) -> None:
    """Answers that only leave out what the user has are refused, by bound and paired; those of transitions are not."""
    data = opened(tmp_path, settings(), users=60)
    labels, classes = data.examples.labels(data.rows["test"]), data.examples.classes
    training = Counter(data.examples.labels(data.rows["train"]))
    trivial = recommendation.trivial(data.settings, data.examples)
    (_, transitions), *_ = recommendation.references(data.settings, data.examples)
    for answers, accepted in ((trivial, False), (transitions, True)):
        found = with_trivial(data.target.evaluate(answers, labels, classes, training), data, classes)
        assert found.trivial is not None
        assert found.baseline["ndcg_at_10"] == pytest.approx(ndcg(trivial, labels))
        p = paired_p(found.trivial, answers, data, classes)
        assert (p <= 0.05) == accepted
        figures = found.metrics["ndcg_at_10"], found.bound, found.baseline["ndcg_at_10"]
        assert first_version("ndcg_at_10", *figures, len(labels), p=p).accepted == accepted


def test_bad_rows_stop_a_run_where_they_are_many(tmp_path: Path) -> None:
    """Rows that can't be used are rejected with reasons, and their share is limited."""
    path = tmp_path / "bad.csv"
    path.write_text("user,item,time\n" + "u,,1\n" * 3 + "u,a,1\nu,b,2\nu,c,3\n")
    with pytest.raises(InputError, match=r"no item \(3\)"):
        prepare(str(path), settings(), tmp_path / "dataset", Lineage("0"), lambda *_: None)


def test_augmentation_reorders_items_of_one_time(tmp_path: Path) -> None:
    """Histories and what follows move together; items keep to their moment, and other records stay."""
    path = tmp_path / "sessions.csv"
    rows = [f"u{user},i{user}-{item},{item // 5}" for user in range(8) for item in range(12)]
    path.write_text("\n".join(["user,item,time", *rows, ""]))
    chosen = settings({"length": "24"}, augment="basic")
    prepare(str(path), chosen, tmp_path / "dataset", Lineage("0"), lambda *_: None)
    data = open_data(tmp_path / "dataset", chosen)
    contents = data.examples.contents(data.rows["train"])
    preprocessing = recommendation.build(chosen, data.examples.classes, 0.0).preprocessing
    given, targets = recommendation.encode(contents, preprocessing), data.targets["train"]
    seeds = list(range(len(contents)))
    inputs, moved = recommendation.augment(contents, targets, preprocessing, chosen, seeds)
    assert not torch.equal(moved, targets)
    for row, content in enumerate(contents):
        count = len(json.loads(content)["items"])
        assert inputs[row, -count:].tolist() == (moved[row, -count - 1 : -1] + 2).tolist()
        assert inputs[row, -1] != moved[row, -1] + 2
        before = torch.cat([given[row, -count:], targets[row, -1:] + 2])
        after = torch.cat([inputs[row, -count:], moved[row, -1:] + 2])
        assert sorted(before[:5].tolist()) == sorted(after[:5].tolist())
        assert sorted(before[5:].tolist()) == sorted(after[5:].tolist())
    validation = data.examples.contents(data.rows["validation"])
    same, _ = recommendation.augment(validation, data.targets["validation"], preprocessing, chosen, seeds[:4])
    assert torch.equal(same, recommendation.encode(validation, preprocessing))


def test_weights_of_a_checkpoint_keep_each_items_row(tmp_path: Path) -> None:
    """Items that another training knows keep their vectors; a new one begins as the mean of all."""
    old = recommendation.build(settings(), ["a", "b", "c"], 0.0)
    with torch.no_grad():
        old.head.get_parameter("bias").copy_(torch.tensor([1.0, 2.0, 3.0]))
    chosen = settings().defaults()
    save_checkpoint(tmp_path, old, settings(), chosen, ["a", "b", "c"], {"thawed": 0})
    new = recommendation.build(settings(weights=str(tmp_path)), ["b", "c", "d"], 0.0)
    rows, known = new.stages[0].get_parameter("items"), old.stages[0].get_parameter("items")
    assert torch.equal(rows[:2], known[1:])
    assert torch.allclose(rows[2], known.mean(0))
    assert new.head.get_parameter("bias").tolist() == [2.0, 3.0, 2.0]
    assert torch.equal(new.stages[1].get_parameter("distances"), old.stages[1].get_parameter("distances"))
    assert new.weights_digest == recommendation.build(settings(weights=str(tmp_path)), ["", ""], 0.0).weights_digest
    with pytest.raises(InputError, match="of another network"):
        recommendation.build(settings({"width": "8"}, weights=str(tmp_path)), ["a"], 0.0)


GENRES = {"features": '{"a":["kind=x"],"b":["kind=x","kind=y"],"d":["kind=y"]}'}


def test_a_warm_start_keeps_the_rows_of_items_and_features(tmp_path: Path) -> None:
    """A catalog in another order, with new items and features, starts from the champion's row of each that it knows."""
    old = recommendation.build(settings(GENRES), ["a", "b", "c"], 0.0)
    nn.init.normal_(old.head.get_parameter("bias"))
    save_checkpoint(tmp_path, old, settings(), settings().defaults(), ["a", "b", "c"], {"thawed": 0})
    more = {"features": '{"b":["kind=x"],"d":["kind=y"],"e":["kind=w","kind=y"]}'}
    new = recommendation.build(settings(more, seed=1), ["c", "d", "b", "e"], 0.0)
    said = start_from(new, tmp_path, ["c", "d", "b", "e"], adapt=recommendation.adapt)
    assert said == "all stages, and its head for 2 of 4 classes"
    before, after = old.state_dict(), new.state_dict()
    for name in ("stages.0.items", "head.bias"):
        mean = before[name].mean(0)
        expected = torch.stack([before[name][2], mean, before[name][1], mean])
        assert torch.allclose(after[name], expected), name
    features = before["stages.0.features"]  # of x and of y
    assert torch.allclose(after["stages.0.features"], torch.stack([features.mean(0), *features]))
    assert after["stages.0.of"].tolist() == [[0, 0], [3, 0], [2, 0], [1, 3]]
    assert torch.equal(after["stages.1.distances"], before["stages.1.distances"])
    plain = recommendation.build(settings(), ["a", "d"], 0.0)
    assert start_from(plain, tmp_path, ["a", "d"], adapt=recommendation.adapt).endswith("1 of 2 classes")
    assert torch.equal(plain.state_dict()["stages.0.items"][0], before["stages.0.items"][0])


def test_a_checkpoint_keeps_the_features(tmp_path: Path) -> None:
    """A network with features is rebuilt without the data, and gives the same scores."""
    items = ["a", "b", "c", "d"]
    built = recommendation.build(settings(GENRES), items, 0.0).eval()
    save_checkpoint(tmp_path, built, settings(), settings().defaults(), items, {"thawed": 0})
    loaded = load_checkpoint(tmp_path)[0].eval()
    inputs = recommendation.encode([b'{"items": ["a", "d"]}'], built.preprocessing)
    assert torch.equal(built(inputs), loaded(inputs))
    assert built.config["features"] == ["kind=x", "kind=y"]


def test_features_that_no_other_item_has_are_left_out(tmp_path: Path) -> None:
    """A title tells nothing about other items; what several share is what the data decide."""
    rows = [f"u{n % 4},i{n},{n},{'xy'[n % 2]},title {n}" for n in range(24)]
    path = tmp_path / "films.csv"
    path.write_text("\n".join(["user,item,time,item_kind,item_title", *rows]))
    info = prepare(str(path), settings(), tmp_path / "dataset", Lineage("0"), lambda *_: None)
    found = json.loads(info.options["features"])
    assert found == {f"i{n}": [f"kind={'xy'[n % 2]}"] for n in range(24)}
    assert info.note == "24 items, 4 users, features of 24 items"


def test_the_recipe_is_of_settings() -> None:
    """The task recommends settings that exist and go together, none of which is the general default."""
    recommended = Settings(task="recommendation", **recommendation.recipe)
    assert all(getattr(recommended, name) != getattr(Settings(), name) for name in recommendation.recipe)


def test_the_report_shows_the_ends_of_histories() -> None:
    """A preview names the last items."""
    long = json.dumps({"items": [str(n) for n in range(12)]}).encode()
    assert recommendation.thumbnails([b'{"items": []}', long]) == ["no history", "… 4, 5, 6, 7, 8, 9, 10, 11"]


@pytest.mark.slow
def test_a_recurrent_network_learns_the_map(tmp_path: Path) -> None:
    """GRU4Rec, by option, learns what follows on the walks."""
    data = opened(tmp_path, settings(backbone="gru4rec"), users=100)
    chosen = data.settings.defaults()
    history = train_phase(base_network(data, chosen), data, chosen, thaw=3)
    assert max(epoch["ndcg_at_10"] for epoch in history) > 0.5


@pytest.mark.slow
def test_the_whole_way(tracked_home: Path, tmp_path: Path, predict: Predict) -> None:
    """From a table to a champion that knows the map of the walks; the same again is skipped, and more is fine-tuned."""
    from components.detect_changes import detect_changes
    from tests.support.plain import run_steps

    source = write_interactions(tmp_path / "walks.csv", 100)
    chosen = settings(augment="basic")
    run = run_steps(source, chosen, tmp_path / "artifacts")
    assert run.accepted
    figures = run.result["metrics"]
    assert figures["ndcg_at_10"] > figures["baseline_ndcg_at_10"] + 0.2
    page = (tmp_path / "artifacts/report.html").read_text()
    assert "transition counts within 20 steps" in page
    assert "EASE with decay" in page
    (best,) = predict("--model", "walks", "--text", '{"items": ["i3", "i5"]}')
    assert len(best["items"]) == len(best["scores"]) == 20
    assert not {"i3", "i5"} & {*best["items"]}
    again_needed, *_ = detect_changes(str(source), chosen.to_json(), new_run_key())
    assert not again_needed
    later = write_interactions(tmp_path / "later.csv", 110)
    again = settings(warm_start=True, seed=1, thaw_epochs=1, augment="basic")
    second = run_steps(later, again, tmp_path / "again")
    assert float(second.metrics["ndcg_at_10"]) > figures["baseline_ndcg_at_10"] + 0.2, second.result
