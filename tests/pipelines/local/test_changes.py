"""What happens before the DAG starts, and what it makes of the decision."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.core import run_folder
from components.core.errors import InputError, StepError
from components.core.registry import versions
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking import queries, tag_names
from components.core.tracking.service import connection
from pipelines.local import changes
from tests.conftest import TOY
from tests.support.command import Answer, call, environment, thawline
from tests.support.plain import PlainRun, run_steps

CONSOLE = Console(stderr=True)
Here = Callable[..., Answer]
OPTIONS = [part for name, value in TOY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
OPTIONS += ["--trials", "3"]


def command(source: Path, *options: str) -> Answer:
    """`thawline run` with the settings of the plain run."""
    return thawline("run", str(source), *OPTIONS, *options, home=home_folder.home(), cwd=home_folder.home())


@pytest.fixture
def here(toy_home: PlainRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """As `command`, in this process: what ends with a skip starts no other."""
    monkeypatch.chdir(home_folder.home())
    return lambda source, *options: call(capsys, monkeypatch, "run", str(source), *OPTIONS, *options)


def test_a_run_without_changes_is_skipped(toy_home: PlainRun, toy_source: Path, here: Here) -> None:
    """Status 0 and one JSON object that names the run it stands for; nothing is started."""
    answer = here(toy_source, "--json")
    assert answer.status == 0, answer.err
    [line] = answer.out.splitlines()
    result = json.loads(line)
    assert (result["status"], result["version"], result["promoted"]) == ("skipped", "1", False)
    assert result["same_as"] == toy_home.result["mlflow_run_id"] != result["mlflow_run_id"]
    assert result["reason"] == f"Nothing has changed since the run toy {toy_home.run_key}."
    assert result["metrics"] == toy_home.result["metrics"]
    assert list(result["steps"]) == ["detect_changes"]
    [folder] = [path for path in (home_folder.home() / "runs").iterdir() if path.name != toy_home.run_key]
    assert not (folder / "log.txt").exists()
    assert json.loads((folder / "result.json").read_text()) == result


@pytest.mark.slow
def test_the_summary_names_the_version_and_its_report(toy_source: Path, here: Here) -> None:
    """Without --json a skipped run ends with reason, version, report and the command for the tracking page."""
    answer = here(toy_source)
    assert (answer.status, answer.err) == (0, "")
    summary = dict(line.split(maxsplit=1) for line in answer.out.partition("\n\n")[2].splitlines())
    assert list(summary) == ["Skipped", "Registered", "Report", "Tracking"]
    assert summary["Registered"] == "toy version 1, as before"
    assert (home_folder.home() / summary["Report"]).is_file()  # as a reader in the working folder would type it


@pytest.mark.slow
def test_a_skip_loads_neither_torch_nor_kfp(toy_home: PlainRun, toy_source: Path) -> None:
    """The whole command comes to its end without the libraries that take seconds to import."""
    code = f"""
import sys
from pipelines.cli import main
sys.argv = {["thawline", "run", str(toy_source), *OPTIONS, "--json"]!r}
try:
    main()
except SystemExit as end:
    print(end.code or 0, [name for name in ("torch", "kfp", "optuna", "boto3", "timm") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(home_folder.home())
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_a_new_store_is_left_to_the_dag(home: Path) -> None:
    """Where nothing ran yet, the DAG makes the store and decides itself."""
    assert changes.settled("points", Settings(model="toy"), "key", CONSOLE) is None
    assert not home.exists()


def test_something_to_do_is_left_to_the_dag(toy_home: PlainRun, toy_source: Path) -> None:
    """A decision to train is kept for the DAG."""
    settings = Settings(**TOY, trials=3, force=True)
    assert changes.settled(str(toy_source), settings, "key", CONSOLE) is None
    folder = run_folder.run_folder("key")
    assert json.loads((folder / "decision.json").read_text())["change"] == "train"


def test_a_fault_of_the_source_ends_the_run(toy_home: PlainRun, tmp_path: Path) -> None:
    """A source that can't be listed is a failed run with its reason, as in a step of the DAG."""
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,name\na.txt,cat\n")
    result = changes.settled(str(manifest), Settings(**TOY), "key", CONSOLE)
    assert result is not None
    assert (result.status, "list.csv" in result.reason) == ("failed", True)
    assert run_folder.read_errors("key")["detect_changes"]["kind"] == InputError.kind
    assert {run.info.status for run in queries.find_runs("toy", "key")} == {"FAILED"}


def test_an_interruption_closes_the_run(toy_home: PlainRun, toy_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the data is read: the run is closed as failed and says why."""

    def interrupted(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("components.core.sources.source_index.take", interrupted)
    result = changes.settled(str(toy_source), Settings(**TOY), "key", CONSOLE)
    assert result is not None
    assert (result.status, result.reason) == ("failed", "The run was interrupted.")
    assert RunResult.read("key") == result
    assert {run.info.status for run in queries.find_runs("toy", "key")} == {"FAILED"}


def test_what_nobody_expected_is_one_sentence(
    toy_home: PlainRun, toy_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody expected is one sentence that names the log."""

    def broken(*_arguments: Any, **_options: Any) -> None:
        raise ArithmeticError("no fingerprints today")

    monkeypatch.setattr("components.core.sources.source_index.take", broken)
    with pytest.raises(StepError, match="detect_changes failed") as error:
        changes.settled(str(toy_source), Settings(**TOY), "key", CONSOLE)
    log = run_folder.run_folder("key") / "log.txt"
    assert str(log) in error.value.hint
    assert "no fingerprints today" in log.read_text()


def test_a_server_out_of_reach_is_told_at_once(home: Path, toy_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, and without the minutes of retries that a run may spend."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _seconds: pytest.fail("waits for another attempt"))
    with pytest.raises(InputError, match="http://127.0.0.1:9 can't be reached"):
        changes.settled(str(toy_source), Settings(**TOY), "key", CONSOLE)


# --- the real DAG -----------------------------------------------------------------------------------------------------


def ran(source: Path) -> dict[str, Any]:
    answer = command(source, "--json")
    assert answer.status == 0, answer.err
    result: dict[str, Any] = json.loads(answer.out)
    return result


@pytest.mark.slow
def test_data_a_a_b_a(toy_home: PlainRun, toy_source: Path, tmp_path: Path, smoke_tested: list[str]) -> None:
    """Trains, skips, trains, and judges version 1 again: nothing is trained, and there is no third version."""
    source, first = tmp_path / "points", toy_home.result
    shutil.copytree(toy_source, source)
    assert (first["status"], first["version"], first["promoted"]) == ("succeeded", "1", True)
    skipped = ran(source)
    assert (skipped["status"], skipped["same_as"]) == ("skipped", first["mlflow_run_id"])
    (source / "class0/new.txt").write_text("2.0,0.1")
    assert run_steps(source, toy_home.settings, tmp_path / "second").version == "2"
    (source / "class0/new.txt").unlink()
    judged = ran(source)
    assert (judged["status"], judged["version"]) == ("succeeded", "1")
    assert connection.client().get_run(judged["mlflow_run_id"]).data.tags[tag_names.CHANGE] == "judge"
    assert judged["dataset_digest"] == first["dataset_digest"]
    assert judged["metrics"]["accuracy"] == first["metrics"]["accuracy"]
    assert Path(judged["report"]).is_file()
    assert {known.version for known in versions.versions("toy")} == {"1", "2"}
    assert ran(source)["same_as"] == judged["mlflow_run_id"]


@pytest.mark.slow
def test_the_dag_skips_alone(toy_home: PlainRun, toy_source: Path) -> None:
    """Where no command line looked before, as on a cluster, the DAG's own step ends the run; nothing else starts."""
    arguments = {"source": str(toy_source), "settings": toy_home.settings.to_json(), "run_key": "alone"}
    subprocess.run(
        [sys.executable, "-m", "pipelines.local.runner", json.dumps(arguments)],
        check=True,
        capture_output=True,
        env=environment(home_folder.home()),
    )
    result = json.loads((run_folder.run_folder("alone") / "result.json").read_text())
    assert (result["status"], result["same_as"]) == ("skipped", toy_home.result["mlflow_run_id"])
    assert [run.info.run_name for run in queries.find_runs("toy", "alone", "step")] == ["detect_changes"]
    [pipeline] = queries.find_runs("toy", "alone", "pipeline")
    assert (pipeline.info.status, pipeline.data.tags[tag_names.CHANGE]) == ("FINISHED", "skip")
