"""Rows at the thaw line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from components.core.contract.listener import Callbacks
from components.core.contract.optional_members import Overlay
from components.core.errors import StepError
from components.core.fitting.data import open_data
from components.core.fitting.thaw_line import check_features, rows_of_split, rows_of_splits
from components.core.settings import Settings
from components.core.training.phase import build_network
from tests.conftest import TOY
from tests.fakes import toy

SETTINGS = Settings(**TOY)


def test_splits_share_a_plan_and_keep_their_own_rows(home: Path, toy_dataset: Path) -> None:
    """Two splits are decided on in one sentence, and each has the rows that it has alone, by slice and by position."""
    data, said = open_data(toy_dataset, SETTINGS.model_copy(update={"activations": "keep"})), list[str]()
    network = build_network(data, SETTINGS.defaults())
    found = rows_of_splits(network, data, {2: 1.0}, {"validation": 0, "train": 0}, Callbacks(note=said.append))
    assert len(said) == 1
    assert f"{sum(len(data.rows[split]) for split in found):,} examples" in said[0]
    for split, lines in found.items():
        alone = rows_of_split(network, data, {2: 1.0}, split)[2]
        assert len(lines[2]) == len(alone) == len(data.rows[split])
        assert torch.equal(lines[2][3:9], alone[3:9])
        assert torch.equal(lines[2][:], alone[:])
        assert torch.equal(lines[2][torch.tensor([5, 0, 7])], alone[torch.tensor([5, 0, 7])])


def test_rows_that_other_code_encoded_are_never_read(home: Path, toy_dataset: Path, tmp_path: Path) -> None:
    """Another task on the same network, or the same one after its code was changed, has rows of its own."""
    data = open_data(toy_dataset, SETTINGS.model_copy(update={"activations": "keep"}))
    network = build_network(data, SETTINGS.defaults())
    before = rows_of_split(network, data, {2: 1.0}, "train")[2][:]
    (tmp_path / "code.py").write_text("# encodes otherwise")
    changed = {"serving_code": tmp_path / "code.py", "encode": lambda contents, facts: 2 * toy.encode(contents, facts)}
    other = replace(data, task=Overlay(data.task, **changed))
    assert not torch.allclose(rows_of_split(network, other, {2: 1.0}, "train")[2][:], before)
    assert torch.equal(rows_of_split(network, data, {2: 1.0}, "train")[2][:], before)


def test_features_that_are_not_finite_are_refused(home: Path, toy_dataset: Path) -> None:
    """A network that overflows is told from a rate that is too high, by one sentence."""
    data = open_data(toy_dataset, SETTINGS)
    network = build_network(data, SETTINGS.defaults())
    check_features(network, data)
    network.stages[-1] = nn.Sequential(network.stages[-1], nn.Threshold(2.0, float("inf")))
    network.weights_digest = "overflows"
    with pytest.raises(StepError, match="features that are not finite"):
        check_features(network, data)
