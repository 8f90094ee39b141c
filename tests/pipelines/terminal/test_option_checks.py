"""Mistyped names are found before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.settings import Settings
from pipelines.kubeflow.pods import Cluster
from pipelines.kubeflow.submission import plan
from pipelines.terminal.option_checks import check_names
from tests.data.pictures import write_pictures
from tests.support.command import call

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--backbone timm/resnet18x", "timm has no network 'resnet18x'. Did you mean resnet18"),
        ("--weights gone.pth", "The weights gone.pth do not exist."),
        ("--weights package:lite0", "There are no packaged weights package:lite0."),
        ("--option taget=number", "The task image_classification has no option 'taget'. Use one of: target"),
        ("--task imageclassification", "There is no task 'imageclassification'."),
    ],
)
def test_a_run_with_a_typo_ends_before_it_begins(
    home: Path,
    tmp_path: Path,
    options: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit status 2, one sentence with the names that are near, and no run in MLflow."""
    answer = call(capsys, monkeypatch, "run", str(write_pictures(tmp_path / "pictures", 3)), *options.split())
    assert answer.status == 2
    assert answer.err.startswith(f"Error: {sentence}")
    assert not (home / "mlflow.db").exists()


def test_names_are_checked_without_importing_libraries() -> None:
    """A check costs a default run, and one with a typo, none of the seconds that torch takes."""
    code = (
        "import sys; from components.core.settings import Settings\n"
        "from pipelines.terminal.option_checks import check_names\n"
        "check_names(Settings(model='m', backbone='timm/resnet18', weights='a1_in1k', option={'target': 'number'}))\n"
        "print([m for m in ('torch', 'timm', 'torchvision', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_pods_may_have_what_this_machine_has_not() -> None:
    """For a cluster names are checked, but neither files nor packages of this machine."""
    cluster = Cluster()
    plan("s3://bucket/photos", Settings(model="m", weights="/weights/of/the/image.pth"), cluster)
    with pytest.raises(InputError, match="timm has no network 'resnet18x'"):
        plan("s3://bucket/photos", Settings(model="m", backbone="timm/resnet18x"), cluster)
    with pytest.raises(InputError, match="has no option 'taget'"):
        plan("s3://bucket/photos", Settings(model="m", option={"taget": "number"}), cluster)


def test_networks_of_an_own_task_are_its_own() -> None:
    """A task of the user's may call its networks as it likes."""
    check_names(Settings(model="m", task="tests.fakes.toy", backbone="timm/resnet18x", weights="mine"))
