"""The last step of a pretraining."""

from pathlib import Path

import pytest

from components.core.digests import of_tree
from components.core.errors import InputError
from components.core.registry import versions
from components.core.reporting import status
from components.core.settings import Settings
from components.core.tracking import runs
from components.core.training.checkpoints import save_checkpoint
from components.core.training.saved_weights import save_weights
from components.finish import finish
from tests.fakes import toy

SETTINGS = Settings(model="toy-pretraining", task="tests.fakes.toy")
HISTORY = [{"phase": "head", "loss": 0.9, "accuracy": 0.5}, {"phase": "thaw", "loss": 0.25, "accuracy": 0.75}]

pytestmark = pytest.mark.usefixtures("tracked_home")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    classes = ["a", "b"]
    facts = {"history": HISTORY, "thawed": 1}
    save_checkpoint(
        tmp_path / "tuned", toy.build(SETTINGS, classes, 0.2), SETTINGS, SETTINGS.defaults(), classes, facts
    )
    return tmp_path / "tuned"


def test_a_run_that_saved_its_weights_has_succeeded(checkpoint: Path, tmp_path: Path) -> None:
    """The folder is the checkpoint; the run ends well with its validation figures and without a version."""
    for _ in range(2):  # a run that goes on does it again
        save_weights(SETTINGS.to_json(), "k", checkpoint, str(tmp_path / "weights"))
    assert of_tree(tmp_path / "weights") == of_tree(checkpoint)
    result = finish(SETTINGS.to_json(), "k", "SUCCEEDED")
    assert (result.status, result.version, result.promoted) == ("succeeded", "", False)
    assert result.reason == "Validation accuracy 0.750, loss 0.250."
    run = runs.pipeline_run("k", SETTINGS)
    assert run.data.metrics["val/loss"] == 0.25
    assert run.info.run_name == "trained: toy-pretraining k"
    assert versions.models() == []


def test_a_model_that_is_only_pretrained_is_not_watched(checkpoint: Path, tmp_path: Path) -> None:
    """Monitors ask for all models: without later runs it would be late forever. By its name it has its status."""
    runs.pipeline_run("failed", SETTINGS)
    assert status.models() == ["toy-pretraining"]
    save_weights(SETTINGS.to_json(), "k", checkpoint, str(tmp_path / "weights"))
    assert status.models() == []
    finish(SETTINGS.to_json(), "k", "SUCCEEDED")
    assert status.of("toy-pretraining").status == "succeeded"


def test_files_that_came_in_the_meantime_stay(checkpoint: Path, tmp_path: Path) -> None:
    """What somebody wrote there while the network was trained is not written over."""
    with pytest.raises(InputError, match="is not empty: it holds home"):
        save_weights(SETTINGS.to_json(), "k", checkpoint, str(tmp_path))
