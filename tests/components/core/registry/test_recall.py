"""What a version left in the registry, as the steps that judge it again take it."""

import json
import shutil
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.inference import archives
from components.core.registry import recall, versions
from components.core.storage import home_folder
from components.core.tracking import queries, tag_names
from components.core.tracking.service import connection
from components.core.training.checkpoints import load_checkpoint
from tests.support.plain import PlainRun


def recalled(version: str, folder: Path) -> Path:
    recall.checkpoint("toy", version, folder / "checkpoint")
    recall.served("toy", version, folder / "served")
    return folder


def test_a_version_comes_back_as_it_was_registered(toy_home: PlainRun, tmp_path: Path) -> None:
    """Checkpoint and served model are the registered files, and the trials are those of the search."""
    folder = recalled("1", tmp_path / "recalled")
    network, facts = load_checkpoint(folder / "checkpoint")
    assert facts["classes"] == ["class0", "class1", "class2"]
    assert len(network.stages) == 3
    trials = json.loads(recall.trials("toy", "1"))
    assert trials == json.loads((toy_home.folder / "trials.json").read_text())
    assert len(trials["trials"]) == 3
    whole = shutil.copytree(folder / "served", tmp_path / "whole")
    shutil.copytree(folder / "checkpoint", whole / "checkpoint")
    assert archives.folder_digest(whole) == versions.tags("toy", "1")[tag_names.ARTIFACT_DIGEST]


def test_a_search_that_is_gone_leaves_no_trials(toy_home: PlainRun) -> None:
    """Where the runs of that search were deleted, the version comes back without its trials."""
    for run in queries.find_runs("toy", toy_home.run_key, "step"):
        connection.client().delete_run(run.info.run_id)
    assert json.loads(recall.trials("toy", "1")) == {"trials": [], "importances": {}}


def test_damaged_trials_are_none(toy_home: PlainRun) -> None:
    """Where a lost machine wrote half of them, the version is judged without them."""
    [trials] = (home_folder.home() / "artifacts").glob("toy/*/artifacts/search/*")
    trials.write_text(trials.read_text()[:20])
    assert recall.trials("toy", "1") == recall.NO_TRIALS


def test_a_version_that_is_not_there_is_told(toy_home: PlainRun, tmp_path: Path) -> None:
    """A version that was deleted meanwhile ends the step in one sentence."""
    with pytest.raises(InputError, match="toy has no version 7"):
        recalled("7", tmp_path / "recalled")
