"""The command `thawline labels`."""

import json
from pathlib import Path

from typer.testing import CliRunner

from components.core.errors import InputError
from components.core.tracking.service import connection
from pipelines.cli import app
from tests.components.core.data.test_lineage_store import relabelled


def test_labels_are_listed_and_accepted(tmp_path: Path, tracked_home: Path) -> None:
    """The list names id, labels and file; after accepting all, nothing waits."""
    _, [name] = relabelled(tmp_path, 1)
    run = CliRunner().invoke
    text = run(app, ["labels", "list", "--model", "toy"]).stdout
    assert "class0 -> class1" in text
    assert name in text
    accepted = json.loads(run(app, ["labels", "accept", "--model", "toy", "--all", "--json"]).stdout)
    assert [row["proposed"] for row in accepted["accepted"]] == ["class1"]
    assert run(app, ["labels", "list", "--model", "toy"]).stdout == "No changed labels are waiting\n"


def test_a_model_that_is_not_there_is_looked_up_only(tmp_path: Path, tracked_home: Path) -> None:
    """A name with a typing error is refused with the nearest one, and no experiment is created for it."""
    relabelled(tmp_path, 1)
    result = CliRunner().invoke(app, ["labels", "list", "--model", "toyy"])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "There is no model 'toyy'. Did you mean toy?"
    assert connection.client().get_experiment_by_name("toyy") is None


def test_accepting_needs_to_be_told_what() -> None:
    result = CliRunner().invoke(app, ["labels", "accept", "--model", "toy"])
    assert isinstance(result.exception, InputError)
