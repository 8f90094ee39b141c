"""The option that says what is learnt."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.core.contract.task import Target
from components.core.errors import InputError
from components.core.settings import Settings
from components.core.targets.classification import Classification
from components.core.targets.multilabel import MultiLabel
from components.core.targets.options import chosen, measure
from components.core.targets.regression import Regression


def settings(**options: str) -> Settings:
    return Settings(option=dict(options))


def examples(labels: list[str]) -> Any:
    return SimpleNamespace(rows=lambda _split: range(len(labels)), labels=lambda rows: [labels[i] for i in rows])


def test_the_option_chooses_the_target() -> None:
    assert isinstance(chosen(settings()), Classification)
    labels, number = chosen(settings(target="labels", threshold="0.3")), chosen(settings(target="number"))
    assert isinstance(labels, MultiLabel)
    assert labels.threshold == 0.3
    assert isinstance(number, Regression)


def test_numbers_are_standardised_by_the_training_labels() -> None:
    """What is measured is what the target is built with, through the options that every later step sees."""
    found, note = measure(settings(target="number"), examples(["1", "3"]))
    assert found == {"label_mean": "2.0", "label_scale": "1.0"}
    assert "from 1 to 3" in note
    target = chosen(settings(target="number", **found))
    assert target.targets(["4"], []).tolist() == [[2.0]]
    assert measure(settings(), examples(["a", "b"])) == ({}, "")


def test_one_number_teaches_nothing() -> None:
    with pytest.raises(InputError, match="All training labels are 3"):
        measure(settings(target="number"), examples(["3", "3"]))
    for number in ("0.1", "3.3"):  # whose deviation is no exact 0
        with pytest.raises(InputError, match=f"All training labels are {number}"):
            measure(settings(target="number"), examples([number] * 7))


@pytest.mark.parametrize("other", [{"class_weights": "balanced"}, {"label_smoothing": 0.1}])
def test_what_is_for_classes_is_refused_for_numbers(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not for numbers"):
        chosen(settings(target="number").model_copy(update=other))


@pytest.mark.parametrize("options", [{"target": "boxes"}, {"threshold": "1.5"}, {"label_scale": "0"}])
def test_other_values_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError):
        chosen(settings(**options))


@pytest.mark.parametrize("target", [Classification(), MultiLabel(0.5), Regression(0.0, 1.0, "mse")])
def test_answers_have_the_columns_that_are_declared(target: Target) -> None:
    """What the code of the answers gives are the columns that MLflow's signature names, as JSON can hold them."""
    outputs = torch.randn(2, 1 if isinstance(target, Regression) else 3)
    serving = {
        "classes": ["a", "b", "c"],
        "temperature": 1.0,
        "threshold": 0.5,
        "mean": 0.0,
        "scale": 1.0,
        "margin": 1.0,
    }
    for row in target.answers(outputs, serving):
        assert set(row) == set(target.answer.__annotations__)
        json.dumps(row)
