"""What a run tells when it has ended."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core.reporting import notification, webhook
from components.core.reporting.notification import (
    MOST_FIELD,
    MOST_HEADER,
    MOST_SECTION,
    WEBHOOK,
    message,
    notify,
    wanted,
)
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking.service import connection
from tests.fakes.webhook import SECRET, listening, status
from tests.support.plain import PlainRun


def said(found: dict[str, Any]) -> str:
    """All texts of the blocks."""
    return json.dumps(found["blocks"], ensure_ascii=False)


def told(run: PlainRun, **changes: Any) -> dict[str, Any]:
    return message(run.run_key, RunResult(**{**run.result, **changes}))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(WEBHOOK, raising=False)
    monkeypatch.delenv("THAWLINE_TRACKING_PAGE", raising=False)


def test_the_message_has_the_runs_facts(toy_run: PlainRun) -> None:
    """Programs find status, decision, figures with intervals, changes, cost and links under `run`."""
    run = told(toy_run)["run"]
    for name in ("status", "reason", "model", "version", "promoted", "pending", "cost", "steps", "dataset_digest"):
        assert run[name] == toy_run.result[name]
    metrics = toy_run.result["metrics"]
    assert run["figures"]["accuracy"] == {
        "value": metrics["accuracy"],
        "low": metrics["accuracy_low"],
        "high": metrics["accuracy_high"],
        "baseline": metrics["baseline_accuracy"],
    }
    assert "drift" not in run["figures"]
    assert run["changes"] == "There is no earlier successful run of 'toy'."
    assert run["links"] == {"report": toy_run.result["report"]}
    assert (run["title"], run["run_key"]) == ("✓ toy version 1 is champion", toy_run.run_key)


def test_slack_reads_the_same(toy_run: PlainRun) -> None:
    """Title, decision, figures, what changed and cost are in the blocks; the fallback says title and decision."""
    found = told(toy_run)
    assert found["blocks"][0] == {"type": "header", "text": {"type": "plain_text", "text": found["run"]["title"]}}
    accuracy = found["run"]["figures"]["accuracy"]
    for text in (toy_run.result["reason"], f"accuracy {accuracy['value']:.3f} [", "There is no earlier", "*Cost*"):
        assert text in said(found)
    assert found["text"].startswith("✓ toy version 1 is champion: First version")


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"status": "failed"}, "✗ The run of toy failed"),
        ({"status": "skipped"}, "· toy was skipped"),
        ({"promoted": False, "pending": "thawline promote 1 --model toy"}, "▸ toy version 1 waits for approval"),
        ({"promoted": False}, "· toy version 1 is challenger, not promoted"),
        ({"promoted": False, "compared_with": "1"}, "✓ toy version 1 stays champion"),
        ({"promoted": False, "version": ""}, "✓ toy is trained"),
    ],
)
def test_the_title_says_what_became_of_it(changes: dict[str, Any], title: str, toy_run: PlainRun) -> None:
    """One line tells failed, skipped, promoted, waiting and not promoted apart."""
    found = told(toy_run, **changes)
    assert found["run"]["title"] == title
    assert ("`thawline promote 1 --model toy`" in said(found)) == ("pending" in changes)
    assert bool(found["run"]["figures"]) == (changes.get("status", "succeeded") == "succeeded")


def test_names_can_not_call_anybody(toy_run: PlainRun) -> None:
    """What looks like a mention or a link in a class's name stays text."""
    found = told(toy_run, reason="falls in class <!channel> & <http://evil.example|ok>")
    assert "<!channel>" not in said(found) + found["text"]
    assert "&lt;!channel&gt; &amp; &lt;http" in said(found)


def test_texts_fit_into_slacks_blocks(toy_run: PlainRun) -> None:
    """However long a sentence is, no part is longer than Slack takes, nor empty, nor cut within an escape."""
    found = told(toy_run, reason="&" * 5000, model="m" * 300, cost="<" * 5000)
    for block in found["blocks"]:
        texts = [block["text"]] if "text" in block else []
        most = MOST_HEADER if block["type"] == "header" else MOST_SECTION
        assert all(0 < len(text["text"]) <= most for text in texts)
        fields = block.get("fields", [])
        assert len(fields) <= 10
        assert all(0 < len(text["text"]) <= MOST_FIELD for text in fields)
    assert found["blocks"][1]["text"]["text"].endswith("&amp; …")
    assert told(toy_run, reason="")["blocks"][1]["text"]["text"]


def test_what_is_no_number_is_left_out(toy_run: PlainRun) -> None:
    """A figure without a value or an interval is no figure; the message is JSON all the same."""
    metrics = {**toy_run.result["metrics"], "ece_low": float("nan")}
    found = told(toy_run, metrics=metrics)
    assert "ece" not in found["run"]["figures"]
    assert "accuracy" in found["run"]["figures"]
    json.dumps(found, allow_nan=False)


def test_drift_has_its_place(toy_run: PlainRun) -> None:
    """The share of new data that is told apart is not among the test figures."""
    drift = {"drift": 0.12, "drift_low": 0.1, "drift_high": 0.15}
    found = told(toy_run, metrics={**toy_run.result["metrics"], **drift})
    assert found["run"]["drift"] == {"value": 0.12, "low": 0.1, "high": 0.15}
    assert "*New data that differs*\\n12.0% [10.0%, 15.0%]" in said(found)


def test_links_lead_to_the_tracking_page(toy_run: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a page, run and report are links to it, without the password of its address."""
    monkeypatch.setenv("THAWLINE_TRACKING_PAGE", f"https://me:{SECRET}@mlflow.example.com/team/")
    found = told(toy_run)
    links = found["run"]["links"]
    experiment = connection.experiment("toy")
    page = f"https://mlflow.example.com/team/#/experiments/{experiment}/runs/{toy_run.result['mlflow_run_id']}"
    assert links == {"mlflow": page, "report": f"{page}/artifactPath/report.html"}
    assert f"<{page}|mlflow>" in said(found)
    assert SECRET not in json.dumps(found)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("always", {"succeeded", "skipped", "failed"}),
        ("changes", {"succeeded", "failed"}),
        ("failures", {"failed"}),
    ],
)
def test_who_is_told_of_what(mode: str, expected: set[str]) -> None:
    """Skipped runs are quiet unless all are asked for."""
    assert {status for status in ("succeeded", "skipped", "failed") if wanted(mode, status)} == expected


def test_without_an_address_nothing_happens(toy_home: PlainRun) -> None:
    """No webhook, no message, no tag."""
    notify(toy_home.settings, toy_home.run_key, RunResult(**toy_home.result))
    assert "thawline.notified" not in tags(toy_home)


def tags(run: PlainRun) -> dict[str, str]:
    return dict(connection.client().get_run(run.result["mlflow_run_id"]).data.tags)


def test_a_message_that_was_taken_is_a_tag(
    toy_home: PlainRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server gets the message, and the run says which host took it."""
    with listening() as hook:
        monkeypatch.setenv(WEBHOOK, hook.address)
        notify(toy_home.settings, toy_home.run_key, RunResult(**toy_home.result))
    assert hook.messages == [json.loads(json.dumps(message(toy_home.run_key, RunResult(**toy_home.result))))]
    assert tags(toy_home)["thawline.notified"] == "127.0.0.1 took it"
    assert capfd.readouterr().err == ""


def test_a_skipped_run_is_quiet(toy_home: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default a run that had nothing to do sends nothing."""
    with listening() as hook:
        monkeypatch.setenv(WEBHOOK, hook.address)
        skipped = RunResult(**toy_home.result).but(status="skipped", same_as=toy_home.result["mlflow_run_id"])
        notify(toy_home.settings, toy_home.run_key, skipped)
        assert hook.requests == []
        notify(toy_home.settings.model_copy(update={"notify": "always"}), toy_home.run_key, skipped)
        assert len(hook.requests) == 1


def test_a_failure_is_one_line_without_the_secret(
    toy_home: PlainRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A webhook that fails is told by host and status; its address is in no file below the home, nor printed."""
    with listening(status(500)) as hook:
        monkeypatch.setenv(WEBHOOK, hook.address)
        notify(toy_home.settings, toy_home.run_key, RunResult(**toy_home.result))
    printed = capfd.readouterr()
    line = "The notification was not sent: 127.0.0.1 answered 500"
    assert printed.err == f"{line}\n"
    assert tags(toy_home)["thawline.notified"] == "not sent: 127.0.0.1 answered 500"
    assert [
        e["text"] for e, _ in run_folder.events(toy_home.run_key) if e["step"] == "finish" and e["event"] == "note"
    ] == [line]
    with closing(sqlite3.connect(home_folder.home() / "mlflow.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    holding = [
        path for path in home_folder.home().rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert holding == []
    assert SECRET not in printed.out


def test_a_message_that_can_not_be_made_fails_nothing(
    tracked_home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever goes wrong on the way, the run has ended and its result stands."""
    monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:1/{SECRET}")
    notify(Settings(model="toy"), "k", RunResult(model="toy").but(reason=None))
    assert capfd.readouterr().err == "The notification was not sent: the message could not be made (AttributeError)\n"


def test_the_webhook_is_no_setting() -> None:
    """Settings travel through the DAG and into MLflow: the address is not among them."""
    assert not any("webhook" in name or "url" in name for name in Settings.model_fields)
    assert notification.WEBHOOK == "THAWLINE_WEBHOOK_URL"
