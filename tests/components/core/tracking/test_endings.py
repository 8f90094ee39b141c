"""Every word that a runner has for the end of a run, and what it means together with MLflow's record."""

import pytest

from components.core.settings import Settings
from components.core.tracking import endings, runs, tag_names
from components.core.tracking.service import connection
from components.finish import finish

SETTINGS = Settings(model="toy", task="tests.fakes.toy")
REGISTERED, SKIPPED = {tag_names.VERSION: "3"}, {tag_names.SKIPPED: "true"}
PRETRAINED = {tag_names.PRETRAINED: "/weights"}


@pytest.mark.parametrize(
    ("word", "tags", "failed"),
    [
        ("COMPLETE", REGISTERED, False),  # Kubeflow's exit handler after success
        ("RUNNING", SKIPPED, False),  # the same after a week in which all branches stayed out
        ("FAILED", REGISTERED, True),  # the same after a failed step
        ("FAILED", {}, True),
        ("SUCCEEDED", REGISTERED, False),  # kfp's local runner, and the API of a run
        ("SUCCEEDED", SKIPPED, False),
        ("SUCCEEDED", PRETRAINED, False),
        ("SUCCEEDED", {}, True),
        ("COMPLETE", {}, True),
        ("RUNNING", {}, True),
        ("CANCELED", REGISTERED, True),
        ("canceled", SKIPPED, True),
        ("SKIPPED", SKIPPED, False),
        ("", REGISTERED, False),
        ("a word of some later release", REGISTERED, False),
    ],
)
def test_words_and_records(word: str, tags: dict[str, str], failed: bool) -> None:  # noqa: FBT001 - pytest passes by name
    """FAILED and CANCELED are failures; of all other words MLflow decides whether the run came to its last step."""
    assert endings.failed(word, recorded=endings.is_recorded(tags)) is failed


@pytest.mark.parametrize(
    ("word", "tags", "status"),
    [("COMPLETE", REGISTERED, "succeeded"), ("RUNNING", SKIPPED, "skipped"), ("COMPLETE", {}, "failed")],
)
@pytest.mark.usefixtures("tracked_home")
def test_the_exit_handler_reads_the_record(word: str, tags: dict[str, str], status: str) -> None:
    """The exit handler closes the pipeline's run by word and record; without a record the reason says so."""
    run = runs.pipeline_run("k", SETTINGS).info.run_id
    for name, value in tags.items():
        connection.client().set_tag(run, name, value)
    result = finish(SETTINGS.to_json(), "k", word)
    assert result.status == status
    assert connection.client().get_run(run).info.status == ("FAILED" if status == "failed" else "FINISHED")
    if status == "failed":
        assert result.reason == endings.UNFINISHED
