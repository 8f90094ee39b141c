"""The notification at the end of a run: one JSON message for Slack and for programs.

Slack reads `text` and `blocks`; `run` has the same facts for programs.
"""

import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from components.core import run_folder
from components.core.contract.metric_names import label
from components.core.reporting import webhook
from components.core.run_result import RunResult
from components.core.settings import Settings
from components.core.tracking import queries, runs, tag_names
from components.core.tracking.service import connection

WEBHOOK = "THAWLINE_WEBHOOK_URL"  # the address is a secret: it comes by the environment only
MOST_HEADER, MOST_FIELD, MOST_SECTION = 150, 2000, 3000  # characters that Slack takes
LINES = 12  # of figures


def notify(settings: Settings, run_key: str, result: RunResult) -> None:
    """Report the end of a run to the webhook, if there is one; a failure to do so is one line and fails nothing."""
    address = os.environ.get(WEBHOOK, "").strip()
    if not address or not wanted(settings.notify, result.status):
        return
    try:
        delivery = webhook.post(address, message(run_key, result))
    except Exception as error:  # noqa: BLE001 - the run has ended, and its result stands
        delivery = webhook.Delivery(taken=False, text=f"the message could not be made ({type(error).__name__})")
    text = delivery.text if delivery.taken else f"not sent: {delivery.text}"
    if not delivery.taken:
        line = f"The notification was {text}"
        run_folder.emit(run_key, "finish", "note", text=line)
        sys.stderr.write(f"{line}\n")  # a pod's log; here it goes to the run's
    if result.mlflow_run_id:
        runs.record(result.mlflow_run_id, {}, {tag_names.NOTIFIED: text})


def wanted(mode: str, status: str) -> bool:
    """Return whether to report a run with this outcome: `always`, all but skipped ones (`changes`), or `failures`."""
    return mode == "always" or status == "failed" or (mode == "changes" and status == "succeeded")


def message(run_key: str, result: RunResult) -> dict[str, Any]:
    """The message about a run.

    Args:
        run_key: The run's.
        result: What `finish` returns.
    """
    run_id = result.mlflow_run_id
    tags = dict(connection.client().get_run(run_id).data.tags) if run_id else {}
    said, numbers = title(result), _figures(result)
    run = {
        "title": said,
        **{name: getattr(result, name) for name in ("status", "reason", "model", "version", "promoted", "pending")},
        "figures": numbers,
        "drift": _interval(result.metrics, "drift") if result.status == "succeeded" else None,
        "changes": tags.get(tag_names.CHANGE_REASON, ""),
        **{name: getattr(result, name) for name in ("cost", "cut", "steps", "dataset_digest", "mlflow_run_id")},
        "run_key": run_key,
        "links": _links(result, tags),
    }
    return {"text": _mrkdwn(f"{said}: {run['reason']}", MOST_SECTION), "blocks": _blocks(run), "run": run}


def title(result: RunResult) -> str:
    """Summarize the outcome of a run in a few words."""
    name = f"{result.model} version {result.version}"
    if result.status == "failed":
        return f"✗ The run of {result.model} failed"
    if result.status == "skipped":
        return f"· {result.model} was skipped"
    if not result.version:
        return f"✓ {result.model} is trained"
    if result.promoted:
        return f"✓ {name} is champion"
    if result.pending:
        return f"▸ {name} waits for approval"
    return f"✓ {name} stays champion" if result.stays else f"· {name} is challenger, not promoted"


def _figures(result: RunResult) -> dict[str, Any]:
    """The test figures that have an interval, by name; none of a run that did not test anything."""
    metrics = result.metrics if result.status == "succeeded" else {}
    named = {name: _interval(metrics, name) for name in metrics if name != "drift"}
    return {name: figure for name, figure in named.items() if figure}


def _interval(metrics: Mapping[str, float], name: str) -> dict[str, float] | None:
    """A figure with its interval, and the trivial model's where it is known; None where a part is missing."""
    parts = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    if any(not math.isfinite(metrics.get(key, math.nan)) for key in parts.values()):
        return None
    found = {part: metrics[key] for part, key in parts.items()}
    baseline = metrics.get(f"baseline_{name}", math.nan)
    return {**found, "baseline": baseline} if math.isfinite(baseline) else found


def _links(result: RunResult, tags: Mapping[str, str]) -> dict[str, str]:
    """Addresses where there is a tracking page; else the report's path."""
    run_id = result.mlflow_run_id
    page = queries.page(run_id) if run_id else ""
    links = {"mlflow": page, "report": result.report}
    if page and result.report:
        links["report"] = f"{queries.page(tags.get(tag_names.SAME_AS) or run_id)}/artifactPath/report.html"
    return {name: link for name, link in links.items() if link}


def _blocks(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Slack's form of it."""
    header = {"type": "plain_text", "text": run["title"][:MOST_HEADER]}
    blocks: list[dict[str, Any]] = [{"type": "header", "text": header}, _section(run["reason"])]
    lines = [
        f"{label(name)} {figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
        + (f", trivial model {figure['baseline']:.3f}" if "baseline" in figure else "")
        for name, figure in run["figures"].items()
    ]
    drift = run["drift"]
    fields = {
        "What changed": run["changes"],
        "New data that differs": f"{drift['value']:.1%} [{drift['low']:.1%}, {drift['high']:.1%}]" if drift else "",
        "Cost": run["cost"],
        "Approve it": f"`{run['pending']}`" if run["pending"] else "",
    }
    blocks += [_section("\n".join(lines[:LINES]))] if lines else []
    told = [_text(f"*{name}*\n{_mrkdwn(text, MOST_FIELD - 50)}") for name, text in fields.items() if text]
    blocks += [{"type": "section", "fields": told}] if told else []
    links = [
        f"<{link}|{name}>" if "://" in link and not re.search(r"[<>|\s]", link) else f"{name}: {_mrkdwn(link, 500)}"
        for name, link in run["links"].items()
    ]
    return [*blocks, {"type": "context", "elements": [_text("  ".join([*links, run["run_key"]]))]}]


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _text(_mrkdwn(text, MOST_SECTION) or "–")}  # noqa: RUF001 - an en dash; Slack refuses an empty text


def _text(mrkdwn: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": mrkdwn}


def _mrkdwn(text: str, most: int) -> str:
    """Text that Slack shows as it is: names of classes must not become mentions or links."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped if len(escaped) <= most else f"{re.sub(r'&[a-z]*$', '', escaped[: most - 2])} …"
