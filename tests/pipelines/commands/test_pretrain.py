"""`thawline pretrain`: what it refuses, and what it leaves for the run that starts from it."""

import csv
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.core import run_folder
from components.core.registry import versions
from components.core.training.checkpoints import WEIGHTS, read_facts
from tests.data.interactions import write_interactions
from tests.fakes.toy import write_points
from tests.support.command import call, end_all, is_one_sentence, start, thawline, wait_for

TASK = ["--task", "recommendation", "--model", "walks"]
NETWORK = ["--option", "split=last", "--option", "length=10", "--option", "width=16"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--output", "full"], "full is not empty: it holds notes.txt. Choose a new folder with --output"),
        (["--output", "full/notes.txt"], "full/notes.txt can't be written to: file exists. Choose another"),
        (["--output", "s3://bucket/weights"], "s3://bucket/weights is no folder of this machine. Give a path"),
        (["--output", "new", "--option", "before=soon"], "--option before=soon can't be used: not a time: 'soon'."),
        (["--output", "new", "--option", "before=0"], "walks.csv holds no interactions before 0. Use another --option"),
        (["--output", "new", "--option", "until=9"], "The task recommendation has no option 'until'."),
        (["--output", "new", "--model", "m" * 95], "-pretraining': string should match pattern"),
        ([], "Missing option '--output'."),
    ],
)
@pytest.mark.usefixtures("tracked_home")
def test_what_can_not_work_is_told_before_anything_is_trained(
    options: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder that can't be written to, a time that is none, and a past without interactions: status 2, a sentence."""
    monkeypatch.chdir(tmp_path)
    write_interactions(tmp_path / "walks.csv", 4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    answer = call(capsys, monkeypatch, "pretrain", "walks.csv", *TASK, *NETWORK, *options, "-q")
    assert (answer.status, answer.out, is_one_sentence(answer)) == (2, "", True), answer
    assert told in answer.err


@pytest.mark.usefixtures("home")
def test_what_starts_from_pretrained_weights_is_not_pretrained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of pictures and texts are those of libraries; the sentence says what takes them."""
    source = write_points(tmp_path / "texts", per_class=4)
    answer = call(
        capsys, monkeypatch, "pretrain", str(source), "--task", "text", "--output", str(tmp_path / "weights"), "-q"
    )
    assert (answer.status, is_one_sentence(answer)) == (2, True), answer
    assert "The task text_classification starts from pretrained weights already. Use `thawline run`" in answer.err


@pytest.mark.slow
def test_a_run_starts_from_what_was_pretrained(home: Path, tmp_path: Path) -> None:
    """A killed pretraining goes on and registers nothing; the run that it names takes its vectors over by item."""
    write_interactions(tmp_path / "walks.csv", 60)
    with (tmp_path / "walks.csv").open("a", newline="") as file:
        csv.writer(file).writerows([f"u{user}", "new", 5000 + user] for user in range(20))
    command = ["pretrain", "walks.csv", *TASK, *NETWORK, "--option", "before=5000", "--thaw-epochs", "8"]
    command += ["--output", "weights"]
    first = start(*command, home=home, cwd=tmp_path)
    try:
        wait_for(lambda: _has_begun(home, "fine_tune"))
    finally:
        end_all(home)
        first.communicate()
    again = thawline(*command, home=home, cwd=tmp_path)
    assert again.status == 0, again.err
    lines = again.out.splitlines()
    assert any(line.startswith("Resuming the run of ") for line in lines)
    assert any(line.startswith("train_head    reused: ") for line in lines)
    assert any(line.startswith("Pretrained  Validation NDCG@10 ") for line in lines)
    assert versions.models() == []
    [told] = [line for line in lines if line.startswith("Next ")]
    words = shlex.split(told.partition("  fine-tune")[0].removeprefix("Next"))[1:]
    assert words[:8] == ["run", "walks.csv", *TASK, "--option", "split=last"]
    frozen = ["--thaw", "0", "--head-learning-rate", "1e-8", "--augment", "none", "--home", str(home)]
    done = thawline(*words[: words.index("--home")], *frozen, home=home, cwd=tmp_path)
    assert done.status == 0, done.err
    folder, _ = versions.fetch("walks", "1", tmp_path / "version")
    before, after = tmp_path / "weights", folder / "checkpoint"
    known, now = (read_facts(place)["classes"] for place in (before, after))
    assert set(now) - set(known) == {"new"}
    old, new = (load_file(place / WEIGHTS)["stages.0.items"] for place in (before, after))
    assert torch.equal(new[[now.index(item) for item in known]], old)
    assert torch.allclose(new[now.index("new")], old.mean(0))


def _has_begun(home: Path, step: str) -> bool:
    keys = [path.name for path in (home / "runs").glob("*")]
    return any(event["step"] == step and event["event"] == "working" for k in keys for event, _ in run_folder.events(k))
