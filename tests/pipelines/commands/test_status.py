"""`thawline status`."""

import json
import os
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.core.tracking import runs
from components.core.tracking.service import connection
from tests.support.command import Answer, call, is_one_sentence, loaded

DAY = 86_400


@pytest.fixture
def status(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]  # noqa: ANN201 - a function
    """The command, in this process."""

    def ask(*arguments: str) -> Answer:
        return call(capsys, monkeypatch, "status", *arguments)

    return ask


def ended(days: float, state: str = "FINISHED", model: str = "toy", **tags: str) -> None:
    """A run of a minute that ended so many days ago."""
    end = int((time.time() - days * DAY) * 1000)
    run_id = runs.create(model, f"{model}-{days}", model, "pipeline", None, end - 60_000)
    runs.record(run_id, {"time/seconds": 42.0}, {name.replace("_", "."): value for name, value in tags.items()})
    connection.client().set_terminated(run_id, state, end)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_where_nothing_ran_it_says_so(home: Path, status) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the command
    """Without any run there is a sentence, no store is made, and only a monitor is alarmed."""
    answer = status()
    assert answer.status == 0
    assert answer.out == f"There are no runs in {home} yet: start one with `thawline run SOURCE`.\n"
    assert status("toy").out.splitlines()[1].split() == ["toy", "none", "yet", "never", "none"]
    assert status("--stale-after", "8d").status == 1
    assert status("toy", "--stale-after", "8d").err == "toy: no successful run yet (allowed: 8d)\n"
    assert json.loads(status("--json").out) == {"models": []}
    assert not home.exists()


def test_a_monitor_is_told_when_a_model_goes_stale(tracked_home: Path, status) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Exit status 1 once the last good run is longer ago than allowed; a failure since then does not count as one."""
    ended(7.5)
    ended(1, "FAILED", thawline_failure="The folder is empty. Fill it.")
    assert status("toy", "--stale-after", "8d").status == 0
    answer = status("toy", "--stale-after", "7d")
    assert answer.status == 1
    assert answer.err == "toy: no successful run for 7 d 12 h (allowed: 7d)\n"
    assert answer.out.splitlines()[1].split()[:2] == ["toy", "failed"]
    assert "  7 d 12 h ago  " in answer.out
    assert answer.out.splitlines()[-1] == "The folder is empty. Fill it."
    assert status("toy", "--stale-after", "24h").status == 1
    assert status("toy", "--stale-after", "2w").status == 0


def test_one_stale_model_of_several_is_enough(tracked_home: Path, status) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Without a name all models are looked at; the stale one is named."""
    ended(1, model="fresh", thawline_skipped="true")
    ended(20, model="old")
    answer = status("--stale-after", "8d", "--json")
    assert answer.status == 1
    assert answer.err == "old: no successful run for 20 d 0 h (allowed: 8d)\n"
    fresh, old = json.loads(answer.out)["models"]
    assert (fresh["model"], fresh["status"], fresh["stale"]) == ("fresh", "skipped", False)
    assert (old["model"], old["status"], old["stale"]) == ("old", "succeeded", True)
    assert fresh["age_seconds"] == pytest.approx(DAY, abs=60)
    assert fresh["ended"].endswith("+00:00")


@pytest.mark.parametrize("text", ["8", "d", "0d", "-1d", "8 days", "1y"])
def test_a_time_that_is_none_is_refused(text: str, home: Path, status) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """A mistyped time alarms nobody by silence: it is bad usage."""
    answer = status(f"--stale-after={text}")
    assert answer.status == 2
    assert is_one_sentence(answer) or "--stale-after" in answer.err


def test_prometheus_reads_the_metrics(tracked_home: Path, status) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """The text parses, with a label for each model, and says what the other forms say."""
    ended(3)
    ended(1, "FAILED")
    ended(2, "FAILED", model="never")
    answer = status("--prometheus")
    assert answer.status == 0
    found = samples(answer.out)
    assert found["thawline_last_success_timestamp_seconds", "toy"] == pytest.approx(time.time() - 3 * DAY, abs=60)
    assert found["thawline_last_run_timestamp_seconds", "toy"] == pytest.approx(time.time() - DAY, abs=60)
    assert found["thawline_last_success_timestamp_seconds", "never"] == 0
    assert found["thawline_last_run_status", "toy", "failed"] == 1
    assert found["thawline_last_run_status", "toy", "succeeded"] == 0
    assert found["thawline_last_run_work_seconds", "toy"] == 42
    assert found["thawline_champion_version", "toy"] == 0
    assert ("thawline_champion_accuracy", "toy") not in found


def test_the_textfile_is_written_at_once(tracked_home: Path, tmp_path: Path, status) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """The file is replaced whole, for a reader that comes at any time, and no other is left beside it."""
    ended(3)
    folder = tmp_path / "collector"
    folder.mkdir()
    path = folder / "thawline.prom"
    path.write_text("old")
    before = path.stat().st_ino
    answer = status("--prometheus-file", str(path), "--stale-after", "1d")
    assert (answer.status, answer.out) == (1, "")
    assert ("thawline_last_success_timestamp_seconds", "toy") in samples(path.read_text())
    assert path.stat().st_ino != before
    assert os.listdir(folder) == ["thawline.prom"]  # noqa: PTH208 - names alone
    assert samples(status("--prometheus").out) == samples(path.read_text())


@pytest.mark.parametrize("name", ["missing/thawline.prom", "thawline.txt"])
def test_a_file_that_no_collector_reads_is_refused(name: str, home: Path, tmp_path: Path, status) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """A folder that is not there, or another ending, is told before anything is asked."""
    answer = status("--prometheus-file", str(tmp_path / name))
    assert answer.status == 2
    assert name in answer.err


@pytest.mark.slow
def test_asking_loads_no_torch(tracked_home: Path) -> None:
    """A monitor that asks every minute pays for neither torch nor kfp."""
    assert loaded(["status"], ["status", "--prometheus"], libraries=("torch", "kfp", "optuna")) == ([0, 0], [])
