"""The cost of each step of a run, and the time that reuse saved."""

from typing import Any

from components.core.reporting.costs import amount, money
from components.core.tracking import metric_groups, queries, runs, tag_names


def costs(run: runs.StepRun) -> list[dict[str, Any]]:
    """Every finished step of this run in order: seconds of its own work, price, seconds saved by reuse, and notes."""
    steps = reversed(queries.find_runs(run.settings.model, run.run_key, "step"))
    return [
        {
            "step": queries.step_name(step),
            "seconds": seconds,
            "amount": money(amount(seconds, run.settings), run.settings.currency)
            if run.settings.price_per_hour
            else "",
            "saved": metric_groups.saved(step.data.metrics),
            "notes": step.data.tags.get(tag_names.NOTES, "").splitlines(),
        }
        for step in steps
        if (seconds := metric_groups.seconds(step.data.metrics)) is not None
    ]
