"""What a run cost, and what earlier champions are worth today."""

from dataclasses import replace

import pytest

from components.core.evaluation.champion_timeline import timeline
from components.core.evaluation.comparison import contestant
from components.core.fitting.data import open_data
from components.core.registry import ledger
from components.core.reporting.costs import money
from components.core.reporting.step_costs import costs
from components.core.tracking import runs
from tests.support.plain import PlainRun


def test_costs_are_those_of_the_steps_in_order(toy_run: PlainRun) -> None:
    """Every step of the run has the seconds of its own work."""
    with_key = runs.StepRun("evaluate", toy_run.run_key, toy_run.settings, "", "")
    found = costs(with_key)
    names = [cost["step"] for cost in found]
    assert names[:2] == ["detect_changes", "prepare_data"]
    assert {"search", "train_head", "fine_tune", "evaluate"} <= set(names)
    assert {cost["step"]: cost["seconds"] for cost in found} == pytest.approx(toy_run.result["steps"])


def test_costs_have_a_price_where_one_is_known(toy_run: PlainRun) -> None:
    """Each step has its share of the price, in the currency given."""
    settings = toy_run.settings.model_copy(update={"price_per_hour": 36.0, "currency": "EUR"})
    for cost in costs(runs.StepRun("evaluate", toy_run.run_key, settings, "", "")):
        assert cost["amount"] == money(cost["seconds"] / 100, "EUR")
    assert {cost["amount"] for cost in costs(runs.StepRun("e", toy_run.run_key, toy_run.settings, "", ""))} == {""}


def test_champions_are_measured_on_todays_rows(toy_home: PlainRun) -> None:
    """The one in production and those before it, newest first, without rows that they were trained on."""
    data = open_data(toy_home.folder / "dataset", toy_home.settings)
    with runs.step("evaluate", "worth", toy_home.settings.to_json()) as run:
        one = contestant(toy_home.folder / "served", toy_home.folder / "tuned", data, run, "champion")
        [row] = timeline(data, run, ("1", one))
        assert (row["version"], row["until"], row["rows"]) == ("1", "", len(data.rows["test"]))
        assert row["value"] == toy_home.metrics["accuracy"]
        first = data.examples.ids(data.rows["test"])[:1]
        knowing = replace(one, trained_on=replace(one.trained_on, fingerprints={first[0]: ""}))
        assert timeline(data, run, ("1", knowing))[0]["rows"] == len(data.rows["test"]) - 1
        assert timeline(data, run, None) == []
    assert [reign["version"] for reign in ledger.history("toy")] == ["1"]
