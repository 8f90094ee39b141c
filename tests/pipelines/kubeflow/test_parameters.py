"""The DAG's parameters on a cluster."""

import pytest

from components.core.errors import InputError
from components.core.settings import Settings
from pipelines.commands.options import merge_cluster
from pipelines.kubeflow.parameters import dag_of, parameters
from pipelines.kubeflow.pods import FINE_TUNING, SEARCHING_IN_PODS, WITHOUT_SEARCH, Cluster


def test_a_folder_of_this_machine_is_refused() -> None:
    """A source that pods can't read is named; one in a bucket or on the volume is taken."""
    with pytest.raises(InputError, match="photos"):
        parameters("photos", Settings(), Cluster())
    with pytest.raises(InputError, match="/thawline/photos"):
        parameters("/thawline/photos", Settings(), Cluster())
    assert parameters("/thawline/photos", Settings(), Cluster(volume="v"))["source"] == "/thawline/photos"


def test_several_search_workers_need_a_study_that_they_share() -> None:
    """More than one search worker is a pod each, with one process, and needs a database."""
    settings = Settings(search_workers=3)
    with pytest.raises(InputError, match="THAWLINE_STUDY_STORAGE"):
        parameters("s3://b/p", settings, Cluster())
    shared = Cluster(secret_env=["study:url=THAWLINE_STUDY_STORAGE"])
    found = parameters("s3://b/p", settings, shared)
    assert found["search_workers"] == [0, 1, 2]
    assert Settings.from_json(found["settings"]).search_workers == 1
    assert dag_of(found) == SEARCHING_IN_PODS


def test_one_pod_searches_without_a_loop() -> None:
    """The DAG without a loop takes no numbers of workers."""
    found = parameters("s3://b/p", Settings(search_workers=1), Cluster())
    assert found.keys() == {"source", "settings", "run_key"}
    assert dag_of(found) == FINE_TUNING


def test_without_trials_no_pod_searches() -> None:
    """With 0 trials the DAG has no search, so several search workers need no database and are no parameter."""
    found = parameters("s3://b/p", Settings(trials=0, search_workers=3), Cluster())
    assert found.keys() == {"source", "settings", "run_key"}
    assert dag_of(found) == WITHOUT_SEARCH


def test_a_search_pod_with_gpus_has_a_process_for_each() -> None:
    """Several processes on one GPU would wait for each other, however many CPUs the pod has."""
    found = parameters("s3://b/p", Settings(), Cluster(cpu={"search": "8"}, accelerators={"search": "2"}))
    assert Settings.from_json(found["settings"]).search_workers == 2


@pytest.mark.parametrize(("cpu", "processes"), [("2", 2), ("4.5", 4), ("3500m", 3), ("500m", 1)])
def test_a_search_pod_has_a_process_for_each_cpu_it_asked_for(cpu: str, processes: int) -> None:
    """Without --search-workers one pod searches, with the CPUs that it requests and not with its node's."""
    found = parameters("s3://b/p", Settings(), Cluster(cpu={"search": cpu}))
    assert dag_of(found) == FINE_TUNING
    assert Settings.from_json(found["settings"]).search_workers == processes


@pytest.mark.parametrize(
    ("settings", "timeout", "told"),
    [
        ({"max_minutes": 60}, "30", "--timeout 30 would end the step search before --max-minutes 60 lets"),
        ({"max_minutes": 800}, "720", "Use --timeout search=800 or more."),
        ({"max_minutes": 60}, "fine_tune=59", "Use --timeout fine_tune=60 or more."),
        ({"step_max_minutes": 20}, "20", "before --step-max-minutes 20 lets"),
        ({"step_max_minutes": 20, "max_minutes": 600}, "20", "Use --timeout search=25 or more."),
    ],
)
def test_a_timeout_before_the_deadline_is_refused(settings: dict[str, float], timeout: str, told: str) -> None:
    """A step that Kubernetes would end before it may stop with the best so far is named, with what is enough."""
    pods = merge_cluster({"timeout": [timeout]}, {})
    with pytest.raises(InputError) as error:
        parameters("s3://b/p", Settings.model_validate(settings), pods)
    assert told in str(error.value)
    enough = merge_cluster({"timeout": ["800"]}, {})
    assert parameters("s3://b/p", Settings.model_validate(settings), enough)["source"] == "s3://b/p"


@pytest.mark.parametrize("timeout", ["0", "evaluate=5", "60"])
def test_a_timeout_that_leaves_the_deadline_alone_is_taken(timeout: str) -> None:
    """No timeout, one of a step without a deadline, or one that is as long as the run's."""
    settings = Settings(max_minutes=60)
    assert parameters("s3://b/p", settings, merge_cluster({"timeout": [timeout]}, {}))["run_key"] == ""
