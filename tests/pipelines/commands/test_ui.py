"""The command `thawline ui`: where the tracking page opens."""

from typing import Any

import pytest

from pipelines.commands import ui

RUNS = "runs?workflowType=machine_learning"


@pytest.mark.parametrize(
    ("name", "last", "place"),
    [
        ("", "3", f"experiments/3/{RUNS}"),
        ("stamps", "3", f"experiments/2/{RUNS}"),
        ("stmaps", "3", f"experiments/3/{RUNS}"),
        ("", "", "experiments"),
    ],
)
def test_the_page_opens_on_runs(
    name: str, last: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It opens on the named model, else on that of the last run, and on all experiments where there is no run."""

    def asked(_base: str, what: str, **conditions: Any) -> dict[str, Any]:
        if what == "experiments":
            named = [("Default", "0"), ("stamps", "2"), ("birds", "3")]
            return {"experiments": [{"name": name, "experiment_id": id_} for name, id_ in named]}
        assert conditions["experiment_ids"] == ["0", "2", "3"]
        assert conditions["order_by"] == ["attributes.start_time DESC"]
        return {"runs": [{"info": {"experiment_id": last}}]} if last else {}

    monkeypatch.setattr(ui, "_asked", asked)
    assert ui._place("http://127.0.0.1:5000", name) == place
    assert ("no run of a model 'stmaps'" in capsys.readouterr().err) == (name == "stmaps")
