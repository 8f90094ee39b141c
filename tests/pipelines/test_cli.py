"""The command line: what it prints, where, and its exit status."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command

from components.core import run_folder
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.tracking import queries, runs
from components.core.training import deadlines
from components.finish import finish
from pipelines.cli import app
from pipelines.commands import run
from tests.conftest import copy_home, use_home
from tests.fakes.toy import write_points
from tests.pipelines.conftest import SECRET, WholeRun
from tests.support.command import COMMAND, ROOT, TOY, Answer, call, environment, is_one_sentence, thawline, wait_for

KEYS = {
    "status",
    "reason",
    "model",
    "version",
    "promoted",
    "pending",
    "compared_with",
    "metric",
    "metrics",
    "dataset_digest",
    "mlflow_run_id",
    "steps",
    "cost",
    "cut",
    "reference",
    "report",
    "same_as",
}


@pytest.fixture
def points(tmp_path: Path) -> Path:
    return write_points(tmp_path / "points", per_class=4)


# --- a whole run -----------------------------------------------------------------------------------------------------


def test_stdout_is_one_json_object(whole: WholeRun) -> None:
    """With --json stdout is one line, an object with the keys of the contract, and nothing else."""
    [line] = whole.answer.out.splitlines()
    assert set(json.loads(line)) == KEYS


def test_the_result_tells_what_happened(whole: WholeRun) -> None:
    """Status, version and promotion, the reason in words, and the metrics with their intervals."""
    result = whole.result
    assert (result["status"], result["model"], result["version"], result["promoted"]) == ("succeeded", "toy", "1", True)
    assert result["reason"].startswith("First version: the lower bound of its accuracy is above the trivial model")
    metrics = result["metrics"]
    assert metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"]
    assert metrics["accuracy"] > metrics["baseline_accuracy"] == pytest.approx(1 / 3)
    assert len(result["dataset_digest"]) == 64


@pytest.mark.parametrize("sentence", ["", "This model does not beat TF-IDF: try more."])
def test_the_summary_names_what_beats_the_model(sentence: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a simple model is better, the summary says so in a line of its own; else there is none."""
    result = RunResult(status="succeeded", model="toy", metric="accuracy", reference=sentence)
    run._print_summary(Console(), result, Settings(model="toy"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Reference")]
    assert lines == ([f"Reference   {sentence}"] if sentence else [])


def test_seconds_are_told_for_every_step(whole: WholeRun) -> None:
    """The result holds the seconds of each step's own work, in the order of the steps."""
    names = ["detect_changes", "prepare_data", "search", "select_trial", "train_head", "fine_tune", "evaluate"]
    names.append("register")
    assert list(whole.result["steps"]) == names
    assert all(seconds > 0 for seconds in whole.result["steps"].values())


def test_the_report_is_a_file(whole: WholeRun) -> None:
    """The result's report is the path of an HTML page that names the model."""
    page = Path(whole.result["report"]).read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "toy" in page


def test_progress_goes_to_stderr_as_plain_lines(whole: WholeRun) -> None:
    """Piped progress is a line for each step's begin and end, with its main figure, without escape codes."""
    lines = whole.answer.err.splitlines()
    assert "\x1b" not in whole.answer.err
    assert lines[0] == f"Fine-tuning on {whole.source}"
    for step in ("prepare_data", "search", "select_trial", "train_head", "fine_tune", "evaluate", "register"):
        assert sum(line.startswith(f"{step} ") and line.endswith(" started") for line in lines) == 1
        assert sum(line.startswith(f"{step} ") and " finished in " in line for line in lines) == 1
    assert any("180 examples in 3 classes, 0 rejected" in line for line in lines)


def test_the_chosen_settings_are_printed(whole: WholeRun) -> None:
    """Before the steps, the run prints the options that were given and what is searched."""
    assert "head_learning_rate=0.05" in whole.answer.err
    assert "searched: dropout, label_smoothing, layer_decay, thaw, weight_decay" in whole.answer.err


def test_nothing_is_written_outside_the_home(whole: WholeRun) -> None:
    """The folder where the command was called stays empty, and so does what surrounds the home."""
    assert list(whole.cwd.iterdir()) == []
    assert {path.name for path in whole.home.parent.iterdir()} == {"points", "cwd", "home", "answer.json", "t"}
    assert {"mlflow.db", "artifacts", "activations", "runs", "studies"} <= {p.name for p in whole.home.iterdir()}


@pytest.mark.parametrize("model", ["toy", "toy@champion", "toy@challenger", "toy/1"])
def test_predict_answers_from_the_registry(
    model: str, whole: WholeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`predict` takes a model by name, alias or version and answers each file with label and probabilities."""
    files = [str(whole.source / name / "0000.txt") for name in ("class0", "class2")]
    answer = call(capsys, monkeypatch, "predict", "--model", model, *files, "--json")
    assert answer.status == 0, answer.err
    said = json.loads(answer.out)
    assert (said["model"], said["version"]) == ("toy", "1")
    assert [row["file"] for row in said["predictions"]] == files
    assert [row["label"] for row in said["predictions"]] == ["class0", "class2"]
    for row in said["predictions"]:
        assert sum(row["probabilities"].values()) == pytest.approx(1)


@pytest.mark.slow  # a process that imports torch and mlflow
def test_predict_prints_a_line_for_a_file(whole: WholeRun) -> None:
    """Without --json `predict` prints file, label and probability, a line each, and nothing on stderr."""
    file = str(whole.source / "class1/0003.txt")
    answer = thawline("predict", "--model", "toy", file, home=whole.home, cwd=whole.cwd)
    assert (answer.status, answer.err) == (0, "")
    [line] = answer.out.splitlines()
    name, label, probability = line.split("\t")
    assert (name, label) == (file, "class1")
    assert 1 / 3 < float(probability) <= 1


def test_a_run_leaves_no_temporary_files(whole: WholeRun) -> None:
    """The folder for them is as empty as before."""
    assert list(whole.temporary.iterdir()) == []


def test_a_run_leaves_no_secret(whole: WholeRun) -> None:
    """Logins of a proxy and of an S3 server are in no file of the home, MLflow's database included, nor printed."""
    files = [path for path in whole.home.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in whole.answer.out + whole.answer.err


def test_predict_answers_the_others_where_a_file_is_no_record(
    whole: WholeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the model can't read is named with its reason and status 1; good ones are answered all the same."""
    bad = tmp_path / "bad.txt"
    bad.write_text("no point")
    good = str(whole.source / "class1/0003.txt")
    answer = call(capsys, monkeypatch, "predict", "--model", "toy", good, str(bad), good)
    assert (answer.status, is_one_sentence(answer)) == (1, True)
    assert [line.split("\t")[:2] for line in answer.out.splitlines()] == [[good, "class1"]] * 2
    assert f"{bad} can't be predicted: could not convert" in answer.err
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i, path in enumerate([good, bad, good, bad]):
        shutil.copy(path, folder / f"{i}.txt")
    answer = call(capsys, monkeypatch, "predict", "--model", "toy", str(folder), "--json")
    said = json.loads(answer.out)
    assert answer.status == 1
    assert [row["file"] for row in said["predictions"]] == [f"{folder}/0.txt", f"{folder}/2.txt"]
    assert [row["file"] for row in said["unanswered"]] == [f"{folder}/1.txt", f"{folder}/3.txt"]
    assert answer.err.splitlines()[-1] == "Error: 2 of 4 records can't be answered."


@pytest.mark.slow
def test_predict_takes_a_list_on_standard_input(whole: WholeRun, tmp_path: Path) -> None:
    """Each line names a file or a folder; one that is gone is told, and so is a name that is no text."""
    strange = tmp_path / os.fsdecode(b"p\xff.txt")
    shutil.copy(whole.source / "class1/0003.txt", strange)
    lines = [os.fsencode(whole.source / "class0/0000.txt"), b"", os.fsencode(strange), b"/nowhere/1.txt"]
    done = subprocess.run(
        [COMMAND, "predict", "--model", "toy", "-"],
        input=b"\r\n".join(lines),
        capture_output=True,
        check=False,
        cwd=whole.cwd,
        env=environment(whole.home),
    )
    assert done.returncode == 1, done.stderr
    out = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [row[:2] for row in out] == [
        [str(whole.source / "class0/0000.txt"), "class0"],
        [f"{tmp_path}/p\\udcff.txt", "class1"],
    ]
    assert b"Error: /nowhere/1.txt can't be predicted: unreadable: no such file or directory." in done.stderr


def test_predict_answers_what_is_given_here(
    whole: WholeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--text is a record like a file's content; files come first."""
    file = str(next((whole.source / "class1").glob("*.txt")))
    answer = call(capsys, monkeypatch, "predict", "--model", "toy", file, "--text", "2,0", "--json")
    first, second = json.loads(answer.out)["predictions"]
    assert (first["file"], first["label"]) == (file, "class1")
    assert (second["text"], second["label"]) == ("2,0", "class0")
    answer = call(capsys, monkeypatch, "predict", "--model", "toy", "--text", "no point")
    assert (answer.status, is_one_sentence(answer)) == (1, True)


@pytest.mark.parametrize("model", ["toy@nobody", "toy/7", "other", "it's"])
def test_predict_names_a_model_that_is_not_there(
    model: str, whole: WholeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown model, alias or version is one sentence and status 2."""
    answer = call(capsys, monkeypatch, "predict", "--model", model, str(whole.source / "class1/0003.txt"))
    assert answer.status == 2
    assert is_one_sentence(answer)
    assert model.partition("@")[0].partition("/")[0] in answer.err


# --- errors before the DAG starts ------------------------------------------------------------------------------------


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_a_missing_source_is_one_sentence(tmp_path: Path) -> None:
    """A path that is not there: status 2, one line on stderr, nothing on stdout, nothing written."""
    answer = thawline("run", "nowhere/photos", home=tmp_path / "home", cwd=tmp_path)
    assert answer == Answer(2, "", "Error: There is no file or folder 'nowhere/photos'. Check the path.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "is empty"),
        ({"a.txt": "x", "b.txt": "y"}, "no class folders"),
        ({"cat/a.txt": "x", "cat/b.txt": "y"}, "only one class: cat"),
        ({"train/a.txt": "x", "test/b.txt": "y"}, "splits, not classes"),
    ],
)
def test_a_source_that_can_not_work_is_one_sentence(
    files: dict[str, str],
    named: str,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty folder, files without folders, one class, folders of splits: status 2 before anything starts."""
    source = tmp_path / "source"
    source.mkdir()
    for name, content in files.items():
        write(source / name, content)
    answer = call(capsys, monkeypatch, "run", str(source))
    assert (answer.status, answer.out) == (2, "")
    assert is_one_sentence(answer)
    assert str(source) in answer.err
    assert named in answer.err
    assert not home.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--resize", "round"], "--resize"),
        (["--trials", "many"], "--trials"),
        (["--dropout", "3"], "--dropout"),
        (["--thaw-layers", "2"], "--thaw-layers"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_bad_option_is_one_sentence(
    options: list[str],
    named: str,
    points: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An unknown option, a value of another kind or out of its bounds: status 2, and the option is named."""
    answer = call(capsys, monkeypatch, "run", str(points), *options)
    assert (answer.status, answer.out) == (2, "")
    assert is_one_sentence(answer)
    assert named in answer.err
    assert not home.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("learning_rate: 0.1\n", "learning-rate"),
        ("dropout: 3\n", "line 1, dropout"),
        ("- dropout\n", "not a mapping"),
        ("dropout: [\n", "is not YAML"),
        (b"\xff\xfe\x00", "can't be read"),
    ],
)
def test_a_bad_config_is_one_sentence(
    content: str | bytes,
    named: str,
    points: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An unknown name, a value out of bounds, no mapping, no YAML, no text: status 2, and it is named."""
    answer = call(capsys, monkeypatch, "run", str(points), "--config", write(tmp_path / "c.yaml", content))
    assert (answer.status, answer.out) == (2, "")
    assert is_one_sentence(answer)
    assert named in answer.err


def test_json_tells_of_a_run_that_did_not_start(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --json a script reads the reason from the same object, whether or not the DAG started."""
    answer = call(capsys, monkeypatch, "run", str(tmp_path / "nowhere"), "--json", "--model", "stamps")
    result = json.loads(answer.out)
    assert answer.status == 2
    assert (result["status"], result["model"]) == ("failed", "stamps")
    assert answer.err == f"Error: {result['reason']}\n"


def test_a_result_has_the_same_keys_always(tracked_home: Path) -> None:
    """A run that did not start has the keys of one that did."""
    key = run_folder.new_run_key()
    assert RunResult(reason="There is no such folder.").model_dump().keys() == KEYS
    assert finish(Settings(model="toy").to_json(), key, "FAILED").model_dump().keys() == KEYS


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "POINTS", "--home", "FILE"],
        ["predict", "--model", "toy", "FILE"],
        ["predict", "--model", "toy", "nowhere.png"],
        ["compile", "-o", "nowhere/dag.yaml"],
        ["compile", "-o", "dag.txt"],
        ["predict"],
        ["fly"],
    ],
)
def test_every_command_fails_in_one_sentence(
    arguments: list[str],
    points: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A home that is a file, a registry that is not there, a place that can't be written to: one sentence each."""
    monkeypatch.chdir(tmp_path)
    places = {"POINTS": str(points), "FILE": write(tmp_path / "file", "content")}
    answer = call(capsys, monkeypatch, *(places.get(a, a) for a in arguments))
    assert (answer.status, answer.out) == (2, "")
    assert is_one_sentence(answer)
    assert not (tmp_path / "home/mlflow.db").exists()


def test_a_home_may_be_named_from_the_users_folder(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` in the home is the user's folder, and an empty THAWLINE_HOME is none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    answer = call(capsys, monkeypatch, "doctor", "--home", "~/mine", "--json")
    assert {check["name"]: check["found"] for check in json.loads(answer.out)}["Home folder"] == str(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THAWLINE_HOME", "")
    answer = call(capsys, monkeypatch, "doctor", "--json")
    found = {check["name"]: check["found"] for check in json.loads(answer.out)}
    assert found["Home folder"] == str(tmp_path / ".thawline")


def test_without_arguments_the_help_is_shown(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`thawline` alone lists its commands."""
    answer = call(capsys, monkeypatch)
    assert answer.status == 2
    assert answer.err == ""
    shown = get_command(app).commands  # type: ignore[attr-defined]  # a group
    assert {"run", "compile", "predict", "ui", "doctor", "models", "promote", "rollback"} <= set(shown)
    assert all(name in answer.out for name in shown)


# --- errors that the DAG finds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [("--task", "image"), ("--image-size", "32")])
def test_text_files_in_class_folders_are_one_sentence(
    given: tuple[str, str],
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder of text files for a task of pictures ends with status 2 and the right task, before anything runs."""
    for number in range(6):
        write(tmp_path / f"texts/{'ab'[number % 2]}/{number}.txt", f"text {number}")
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, monkeypatch, "run", "texts", *given, "--trials", "0", "--json")
    result = json.loads(answer.out.splitlines()[-1])
    assert answer.status == 2
    assert result["status"] == "failed"
    assert "The records of texts are texts" in result["reason"]
    assert "Use --task text_classification" in result["reason"]
    assert answer.err.splitlines()[-1] == f"Error: {result['reason']}"
    assert "Traceback" not in answer.err
    assert not (tmp_path / "home/mlflow.db").exists()


@pytest.mark.slow
def test_weights_of_another_network_are_one_sentence(tmp_path: Path) -> None:
    """Weights that don't fit end the run with status 2 and a sentence that names them."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    save_file(torch.nn.Linear(3, 3).state_dict(), tmp_path / "other.safetensors")
    generator = np.random.default_rng(0)
    for number in range(16):
        picture = tmp_path / f"pictures/{'ab'[number % 2]}/{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(picture)
    options = ["--weights", str(tmp_path / "other.safetensors"), "--image-size", "32", "--trials", "0"]
    answer = thawline("run", "pictures", *options, home=tmp_path / "home", cwd=tmp_path)
    assert answer.status == 2
    assert is_one_sentence(answer)
    assert "other.safetensors" in answer.err
    assert "don't fit" in answer.err


@pytest.mark.slow
def test_unchanged_data_keep_the_champion(
    whole: WholeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training on the same data is a success: version 2 is challenger, and version 1 stays champion."""
    copy_home(whole.home, tmp_path / "home")
    use_home(tmp_path / "home", monkeypatch)
    options = ("--trials", "0", "--force", "--seed", "1", "--json")
    answer = thawline("run", str(whole.source), *TOY, *options, home=tmp_path / "home", cwd=tmp_path)
    assert answer.status == 0, answer.err
    results = [whole.result, json.loads(answer.out)]
    assert [(r["version"], r["promoted"]) for r in results] == [("1", True), ("2", False)]
    assert re.search("does not beat the champion, version 1|a tie keeps the champion", results[1]["reason"])
    assert results[0]["dataset_digest"] == results[1]["dataset_digest"]
    assert list(results[1]["steps"])[:3] == ["detect_changes", "prepare_data", "train_head"]
    file = str(whole.source / "class0/0000.txt")
    for alias, version in {"challenger": "2", "champion": "1"}.items():
        answer = call(capsys, monkeypatch, "predict", "--model", f"toy@{alias}", file, "--json")
        assert json.loads(answer.out)["version"] == version


def test_the_summary_ends_a_run(
    whole: WholeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --json a run ends with accuracy and interval, version, reason, report and the command for its page."""
    monkeypatch.chdir(whole.home.parent)
    run._print_summary(Console(), RunResult.model_validate(whole.result), Settings(model="toy"))
    lines = capsys.readouterr().out.removeprefix("\n").splitlines()
    summary = dict(line.split(maxsplit=1) for line in lines if not line.startswith(" "))
    summary.pop("Reference", None)  # where a simple model is better
    assert list(summary) == ["Accuracy", "Registered", "Why", "Report", "Tracking", "Next"]
    assert "95% interval [" in summary["Accuracy"]
    assert summary["Registered"] == "toy version 1, champion"
    assert summary["Report"].startswith("home/")
    assert (whole.home.parent / summary["Report"]).is_file()
    assert summary["Tracking"].endswith(f" ui --home '{whole.home}'")
    assert " report toy " in summary["Next"]


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deaf", [[], ["/usr/bin/env", "--ignore-signal=TERM"]])
@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (
            {"max_minutes": 0.005},
            "The run did not end within --max-minutes 0.005 plus a grace period, so it was stopped.",
        ),
        (
            {"step_max_minutes": 0.005},
            (
                "The step evaluate did not end within --step-max-minutes 0.005 plus a grace period, so the "
                "run was stopped."
            ),
        ),
    ],
)
def test_a_run_that_hangs_is_ended(
    limit: dict[str, float], told: str, deaf: list[str], tracked_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its limit and grace a run is ended, whether it hears a SIGTERM or not; its runs in MLflow are closed."""
    monkeypatch.setattr(deadlines, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(run, "STOP_SECONDS", 0.1 if deaf else 60.0)
    settings = Settings(model="toy", **limit)
    run_folder.emit("k", "evaluate", "started")
    runs.pipeline_run("k", settings)
    child = subprocess.Popen([*deaf, "sleep", "600"], start_new_session=True)
    wait_for(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")  # deaf from here on
    result = run._watch(child, "k", settings, Console(stderr=True))
    assert child.wait(10) == -(signal.SIGKILL if deaf else signal.SIGTERM)
    assert (result.status, result.reason) == ("failed", told)
    assert result == RunResult.read("k")
    [pipeline] = queries.find_runs("toy", "k", "pipeline")
    assert (pipeline.info.status, pipeline.data.tags["thawline.failure"]) == ("FAILED", told)


@pytest.mark.slow
def test_importing_collects_no_garbage() -> None:
    """A command that only imports and ends does not search for garbage, nor at its end."""
    code = (
        "import gc, sys\nfound = []\ngc.callbacks.append(lambda phase, info: found.append(info))\n"
        "sys.argv = ['thawline', '--version']\nfrom pipelines import cli\nbefore = len(found)\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    import mlflow\n    print(len(found) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0"
