"""Simple models beside the trained one, and the sentence where one of them is better."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from components.core.contract.listener import Callbacks
from components.core.contract.optional_members import Overlay
from components.core.errors import InputError, NoAnswerError
from components.core.evaluation.features import features, pretrained_features
from components.core.evaluation.references import fitted, probed_splits, shortfall, with_references
from components.core.fitting.data import Data, open_data
from components.core.settings import Settings
from components.core.targets.classification import Classification
from components.core.targets.evaluation import Evaluation, Reference
from components.core.training.phase import base_network
from tests.conftest import TOY

CLASSES = ["no", "yes"]
ROWS = 100


def right(count: int) -> pd.DataFrame:
    """Answers of which the first ones are right: all rows are `yes`."""
    given = ["yes" if row < count else "no" for row in range(ROWS)]
    return pd.DataFrame(
        {"label": given, "probabilities": [{name: float(name == one) for name in CLASSES} for one in given]}
    )


def told(own: int, thawed: int = 0, group: str = "", settings: dict[str, Any] | None = None, **others: int) -> str:
    """The sentence about a model with so many right rows, beside references with so many."""
    examples = SimpleNamespace(labels=lambda _rows: ["yes"] * ROWS, column=lambda _name, _rows: [group] * ROWS)
    chosen = Settings(**{"trials": 0, **(settings or {})})
    data: Any = SimpleNamespace(target=Classification(), settings=chosen, examples=examples, rows={"test": range(ROWS)})
    known = {"probe": "linear probe", "reference": "TF-IDF"}
    evaluation = Evaluation(
        {"accuracy": own / ROWS},
        {},
        {},
        bound=0.0,
        references={key: Reference(known[key], {"accuracy": n / ROWS}, right(n)) for key, n in others.items()},
    )
    return shortfall(evaluation, right(own), data, CLASSES, thawed)


def test_a_better_probe_is_named_with_what_to_try() -> None:
    """One sentence gives both figures and the options that may help; thawing is taken back where it was done."""
    assert told(80, thawed=2, probe=95) == (
        "This model does not beat a linear probe of the same network on the 100 test rows (accuracy 0.800 against "
        "0.950): try --thaw 0, --trials 20 or another --resize."
    )
    assert told(80, probe=95).endswith(": try --trials 20 or another --resize.")


def test_the_advice_follows_the_task_and_the_search() -> None:
    """Only pictures are resized; more trials than there were are worth a try."""
    chosen = {"task": "text_classification", "trials": 30}
    assert told(80, settings=chosen, probe=95).endswith(": try --trials 60 or another --backbone.")


def test_the_strongest_reference_is_named() -> None:
    """Where the words of the texts alone say more than the network's features, another network is worth a try."""
    sentence = told(80, probe=85, reference=95)
    assert sentence.startswith("This model does not beat TF-IDF on the 100 test rows (accuracy 0.800 against 0.950)")
    assert sentence.endswith(": try a larger --thaw, --trials 20 or another --backbone.")


def test_a_difference_within_chance_is_called_so() -> None:
    """Two rows of a hundred, or fifteen of one group, may be chance; fifteen rows that stand alone are not."""
    assert "(accuracy 0.800 against 0.820, a difference within chance)" in told(80, probe=82)
    assert "within chance" in told(80, group="one patient", probe=95)
    assert "within chance" not in told(80, probe=95)


@pytest.mark.parametrize("others", [{}, {"probe": 80}, {"probe": 79, "reference": 60}])
def test_a_model_that_is_as_good_has_no_sentence(others: dict[str, int]) -> None:
    """There is nothing to say where no reference is better."""
    assert told(80, **others) == ""


def test_an_undefined_figure_is_no_better() -> None:
    """A reference or a model whose figure is not defined says nothing."""
    data: Any = SimpleNamespace(target=Classification())
    for own, theirs in ((float("nan"), 1.0), (0.5, float("nan"))):
        known = {"probe": Reference("linear probe", {"accuracy": theirs}, right(ROWS))}
        one = Evaluation({"accuracy": own}, {}, {}, bound=0.0, references=known)
        assert shortfall(one, right(ROWS), data, CLASSES, 0) == ""


@pytest.fixture
def data(home: Path, toy_dataset: Path) -> Data:
    return open_data(toy_dataset, Settings(**TOY))


def referred(data: Data, found: dict[str, np.ndarray[Any, Any]] | None, notes: list[str]) -> Evaluation:
    """An evaluation of a model that always answers the first class, with its references."""
    labels, classes = data.examples.labels(data.rows["test"]), data.examples.classes
    constant = {"label": classes[0], "probabilities": {classes[0]: 1.0}}
    answers = pd.DataFrame([constant] * len(labels))
    evaluation = data.target.evaluate(answers, labels, classes, dict.fromkeys(classes, 1))
    return with_references(evaluation, answers, data, found, classes, 0, Callbacks(note=notes.append))


def test_the_probe_is_of_the_pretrained_network(data: Data) -> None:
    """Its figures are those of scikit-learn on the pretrained features, whatever was trained since.

    It learns from all rows but the test rows, as the head does: those that calibrate too.
    """
    network, model = base_network(data, data.settings.defaults()), make_pipeline(StandardScaler(), LogisticRegression())
    splits = ("train", "validation", "calibrate")
    learned = np.concatenate([features(network, data, split) for split in splits])
    model.fit(learned, [label for split in splits for label in data.examples.labels(data.rows[split])])
    expected = model.score(features(network, data, "test"), data.examples.labels(data.rows["test"]))
    evaluation = referred(fitted(data), pretrained_features(fitted(data), probed_splits(data)), [])
    assert evaluation.references["probe"].metrics["accuracy"] == pytest.approx(expected)
    assert evaluation.references.keys() == {"probe"}
    assert evaluation.shortfall.startswith("This model does not beat a linear probe of the same network on the ")


def test_the_tasks_own_model_stands_beside_the_probe(data: Data) -> None:
    """A task may name a simple model of its own, which is another reference."""
    labels = data.examples.labels(data.rows["test"])
    answers = pd.DataFrame([{"label": label, "probabilities": {label: 1.0}} for label in labels])
    task: Any = Overlay(data.task, references=lambda _settings, _examples: [("quadrants", answers)])
    both = Data(**{**vars(data), "task": task})
    evaluation = referred(both, pretrained_features(both, probed_splits(both)), [])
    assert evaluation.references.keys() == {"probe", "reference"}
    assert evaluation.references["reference"].metrics["accuracy"] == 1.0


def test_a_task_may_name_several_models(data: Data) -> None:
    """Each is a reference of its own, the first under the name that a single one has."""
    labels = data.examples.labels(data.rows["test"])
    first = pd.DataFrame([{"label": label, "probabilities": {label: 1.0}} for label in labels])
    other = pd.DataFrame([{"label": labels[0], "probabilities": {labels[0]: 1.0}}] * len(labels))
    task: Any = Overlay(data.task, references=lambda _settings, _examples: [("quadrants", first), ("one", other)])
    evaluation = referred(Data(**{**vars(data), "task": task}), None, [])
    assert {key: one.name for key, one in evaluation.references.items()} == {
        "reference": "quadrants",
        "reference_2": "one",
    }
    assert "does not beat quadrants" in evaluation.shortfall


def test_features_without_use_are_a_note(data: Data) -> None:
    """Constant features give no probe, and the run goes on with a note."""
    notes = list[str]()
    flat = {split: np.ones((len(data.rows[split]), 3), np.float32) for split in probed_splits(data)}
    assert referred(data, flat, notes).references == {}
    assert notes == ["No linear probe: no feature of the network is finite and varies"]
    assert referred(data, None, notes).shortfall == ""


def test_weights_out_of_reach_are_a_note(data: Data) -> None:
    """A model that is trained is judged without the pretrained weights, unless trying again may bring them back."""
    notes, error = list[str](), InputError("The folder of --weights is gone.", "Bring it back.")

    def build(*_arguments: object) -> None:
        raise error

    gone = Data(**{**vars(data), "task": Overlay(data.task, build=build)})
    assert pretrained_features(gone, ("train",), Callbacks(note=notes.append)) is None
    assert notes == ["No linear probe, drift or suspicious labels: The folder of --weights is gone."]
    error = NoAnswerError("The hub is silent.", "Try later.")
    with pytest.raises(NoAnswerError):
        pretrained_features(gone, ("train",))
