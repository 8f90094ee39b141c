"""Names and descriptions on MLflow's pages."""

import pytest

from components.core.registry import descriptions
from components.core.run_result import RunResult
from components.core.tracking import tag_names
from components.core.tracking.service import connection
from components.finish import finish
from tests.support.plain import PlainRun


def test_a_run_says_what_it_came_to(toy_home: PlainRun) -> None:
    """The run's name has the version and its state; run, version, model and experiment are described, with links."""
    client = connection.client()
    result = finish(toy_home.settings.to_json(), toy_home.run_key, "SUCCEEDED")
    run = client.get_run(result.mlflow_run_id)
    assert run.info.run_name == f"version 1, champion: toy {toy_home.run_key}"
    note = run.data.tags[tag_names.NOTE]
    assert result.reason in note
    assert f"| Accuracy&nbsp;&nbsp; | {result.metrics['accuracy']:.3f}&nbsp;&nbsp; |" in note
    assert "(#/models/toy/versions/1)" in note
    version = client.get_model_version("toy", "1").description
    assert result.reason in version
    assert f"/runs/{result.mlflow_run_id}?workflowType=machine_learning)" in version
    for page in (client.get_registered_model("toy").description, _note_of_experiment("toy")):
        assert page.startswith("Champion: [toy version 1](#/models/toy/versions/1), accuracy ")


def test_a_run_links_to_the_comparison_with_the_champions(toy_home: PlainRun) -> None:
    """MLflow opens both runs beside each other; the first version has nothing to be compared with."""
    client = connection.client()
    result = finish(toy_home.settings.to_json(), toy_home.run_key, "SUCCEEDED")
    assert "compare-runs" not in client.get_run(result.mlflow_run_id).data.tags[tag_names.NOTE]
    descriptions.describe(result.but(version="2", compared_with="1", promoted=False), "title", "key")
    run = client.get_run(result.mlflow_run_id)
    both = f"%5B%22{result.mlflow_run_id}%22%2C%20%22{result.mlflow_run_id}%22%5D"
    link = f"#/compare-runs?runs={both}&experiments=%5B%22{run.info.experiment_id}%22%5D&workflowType=machine_learning"
    assert f"[Beside version 1]({link})" in run.data.tags[tag_names.NOTE]


def test_a_description_of_somebody_else_stays(toy_home: PlainRun) -> None:
    """What a person wrote is not written over; what Thawline wrote is."""
    client = connection.client()
    client.update_registered_model("toy", description="Ask Ada before you touch this.")
    descriptions.describe_model("toy")
    assert client.get_registered_model("toy").description == "Ask Ada before you touch this."
    client.update_registered_model("toy", description=f"old\n\n{descriptions.OURS}")
    descriptions.describe_model("toy")
    assert client.get_registered_model("toy").description.startswith("Champion: ")


def test_a_page_that_can_not_be_written_fails_nothing(toy_home: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses leaves the pages as they are, and the run as it ended."""

    def refuse() -> None:
        raise RuntimeError("away")

    monkeypatch.setattr(connection, "client", refuse)
    descriptions.describe(RunResult(status="succeeded", model="toy", mlflow_run_id="1"), "✓", "key")


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"status": "succeeded", "version": "2", "promoted": True}, "version 2, champion: toy key"),
        ({"status": "succeeded", "version": "2", "compared_with": "2"}, "version 2, champion: toy key"),
        ({"status": "succeeded", "version": "2", "compared_with": "1"}, "version 2, challenger: toy key"),
        ({"status": "succeeded", "version": "2", "pending": "thawline …"}, "version 2, waits for approval: toy key"),
        ({"status": "succeeded"}, "trained: toy key"),
        ({"status": "skipped"}, "skipped: toy key"),
        ({"status": "failed"}, "failed: toy key"),
    ],
)
def test_the_name_of_a_run(facts: dict[str, str], name: str) -> None:
    """A run is named by its model, its key and what it came to."""
    assert descriptions.run_name(RunResult.model_validate({"model": "toy", **facts}), "key") == name


def _note_of_experiment(name: str) -> str:
    experiment = connection.client().get_experiment_by_name(name)
    assert experiment is not None
    return str(experiment.tags[tag_names.NOTE])
