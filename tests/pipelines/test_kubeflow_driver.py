"""The interpreter's rules on a DAG of every kind, and the real steps run by it as a cluster runs them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.core import runs, tracking
from components.core.settings import Settings
from pipelines import cluster, steps
from pipelines.cluster import Cluster
from tests import every_kind
from tests.conftest import TOY, copy_store, use_home
from tests.kubeflow_driver import Call, Interpreted, Killed, run, stubs
from tests.kubeflow_inputs import Refused
from tests.kubeflow_steps import real

SETTINGS = Settings(**TOY, thaw_epochs=2, trials=2, search_workers=1)


@pytest.fixture(scope="module")
def package() -> str:
    return every_kind.compiled()


@pytest.fixture(scope="module")
def dag() -> str:
    return cluster.compile_dag(Cluster()).yaml


def echo(name: str) -> Callable[[Call], dict[str, Any]]:
    """A step that makes one of its inputs."""
    return lambda call: {"Output": call.parameters[name]}


ECHOING = stubs(number=echo("x"), make=echo("text"), gather=echo("items"))


def called(found: Interpreted, function: str) -> list[Call]:
    return [call for call in found.calls if call.function == function]


# --- values ----------------------------------------------------------------------------------------------------------


def test_of_several_branches_the_one_that_ran_hands_on_its_output(package: str) -> None:
    """Items 3, 6 and 0 take three branches, and the task behind them reads the output of the one taken."""
    found = run(package, {}, ECHOING)
    assert found.state == "SUCCEEDED", found.errors
    read = [call.parameters["text"] for call in called(found, "make") if call.path.endswith("]/make")]
    assert read == ["three", "large", "small"]
    assert len([path for path in found.named("SKIPPED") if path.startswith("exit-handler-1/for-loop-3[0]")]) == 2


def test_what_a_loop_made_is_a_list(package: str) -> None:
    """Behind a loop, its items' outputs are one list in the items' order, the artifacts another."""
    found = run(package, {"workers": [7, 9]}, ECHOING, root="folder")
    words, numbers = called(found, "gather")
    assert words.parameters["items"] == ["three", "large", "small"]
    assert numbers.parameters["items"] == [7, 9]
    folder = "folder/exit-handler-1/for-loop-3"
    assert [artifact["uri"] for artifact in words.artifacts["data"]] == [f"{folder}[{n}]/make/0/data" for n in range(3)]


def test_a_loop_goes_through_what_a_task_made(package: str) -> None:
    """A list that comes from a task is gone through as one from a parameter."""
    found = run(package, {}, ECHOING)
    assert [call.parameters["text"] for call in called(found, "word")[-3:]] == ["three", "large", "small"]


def test_an_input_that_is_left_out_is_its_default(package: str) -> None:
    """A step's optional inputs are their defaults, as whole numbers where they are; those without one stay away."""
    constant = next(call for call in called(run(package, {}, ECHOING), "word") if call.path.endswith("branches/word"))
    assert constant.parameters == {"text": "a constant", "n": 3, "flag": True, "many": [1]}


def test_an_empty_loop_has_no_items(package: str) -> None:
    """A loop over nothing runs its driver alone, and what waits for it finds no output."""
    found = run(package, {"workers": []}, ECHOING)
    assert not any("for-loop-4[" in path for path in found.tasks)
    assert found.tasks["exit-handler-1/for-loop-4"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"Output": "four"}, 'input parameter "pipelinechannel--number-Output" type mismatch: expect NUMBER_INTEGER'),
        ({"Output": True}, "got bool"),
        ({"Output": [4]}, "got list"),
        ({"Output": None}, 'got null for input parameter "pipelinechannel--number-Output"'),
    ],
)
def test_an_output_of_another_type_fails_the_next_driver(made: Any, message: str, package: str) -> None:
    """A value is checked where it goes in, not where it comes out."""
    found = run(package, {}, stubs(number=made))
    assert found.tasks["exit-handler-1/branches/number"] == "SUCCEEDED"
    assert message in found.errors["exit-handler-1/branches/condition-branches-1"]
    assert found.state == "FAILED"


def test_a_step_that_leaves_an_output_out_fails(package: str) -> None:
    """The launcher reads every output that the component declares."""
    found = run(package, {}, lambda _call: {})
    assert "failed to read output parameters: Output" in found.errors["exit-handler-1/branches/number"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"source": "s3://b", "settings": "{}"}, "parameter run_key is not optional, yet has neither"),
        ({"source": "s3://b", "settings": "{}", "run_key": "", "zzz": 1}, "are not required by pipeline: zzz"),
        ({"source": 1, "settings": "{}", "run_key": ""}, "input parameter source requires type STRING"),
    ],
)
def test_parameters_of_a_run_are_those_of_the_dag(parameters: Any, message: str, dag: str) -> None:
    """The API starts no run whose parameters are missing, unknown or of another type."""
    with pytest.raises(Refused, match=message):
        run(dag, parameters, stubs())


# --- how a run ends --------------------------------------------------------------------------------------------------


def ended(dag: str, **functions: Any) -> Interpreted:
    return run(dag, {"source": "s3://photos", "settings": "{}", "run_key": ""}, stubs(**functions))


def test_a_killed_step_is_told_as_a_run_that_goes_on(dag: str) -> None:
    """A pod out of memory or over its time writes nothing down: the run fails, and the exit handler hears RUNNING."""
    found = ended(dag, prepare_data=Killed("out of memory"))
    assert (found.state, found.told) == ("FAILED", "RUNNING")


def test_an_exit_handler_that_fails_does_not_fail_the_run(dag: str) -> None:
    """What it watches has ended by then."""
    found = ended(dag, finish=RuntimeError("no MLflow"))
    assert (found.state, found.tasks["finish"]) == ("SUCCEEDED", "FAILED")


def test_a_step_that_failed_is_not_tried_again(dag: str) -> None:
    """Argo's policy OnError takes a step's own failure as final."""
    found = ended(dag, prepare_data=RuntimeError("broken"))
    assert len(called(found, "prepare_data")) == 1


def test_a_terminated_run_has_no_exit_handler(dag: str) -> None:
    """Its driver is failed at once, so nobody closes the run."""
    parameters = {"source": "s3://photos", "settings": "{}", "run_key": ""}
    found = run(dag, parameters, stubs(), terminate_at="prepare-data")
    assert (found.state, found.told, called(found, "finish")) == ("FAILED", "", [])


# --- the real steps --------------------------------------------------------------------------------------------------


@dataclass
class Lab:
    """A home to which several runs of the compiled DAG write, one after another."""

    dag: str
    folder: Path
    source: Path
    found: list[Interpreted] = field(default_factory=list)

    def run(self, settings: Settings, source: str = "", workers: int = 1) -> Interpreted:
        """One run as `submit` starts it, except that the source may be a folder."""
        number = len(self.found) + 1
        given = {"source": source or str(self.source), "settings": settings.to_json(), "run_key": ""}
        if workers > 1:
            given |= {"search_workers": list(range(workers))}
        pods = real(steps, f"run-{number}", self.folder / f"pods-{number}")
        self.found.append(run(self.dag, given, pods, root=str(self.folder / f"artifacts-{number}")))
        return self.found[-1]

    def statuses(self, number: int) -> dict[str, str]:
        """MLflow's runs of one run, and how they ended."""
        logged = tracking.find_runs("toy", f"run-{number}")
        return {one.info.run_name: one.info.status for one in logged if one.data.tags[tracking.KIND] != "trial"}


def new_lab(folder: Path, source: Path, store: Path, dag: str) -> Lab:
    copy_store(store, folder / "home")
    return Lab(dag, folder, source)


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory: pytest.TempPathFactory, toy_source: Path, store: Path, dag: str) -> Iterator[Lab]:
    """A first run, one with nothing new, and one with another gate."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        use_home(folder / "home", patch)
        lab = new_lab(folder, toy_source, store, dag)
        for settings in (SETTINGS, SETTINGS, SETTINGS.model_copy(update={"gate_alpha": 0.04})):
            lab.run(settings)
        yield lab


@pytest.fixture
def lab(tmp_path: Path, home: Path, toy_source: Path, store: Path, dag: str) -> Lab:
    """A home of its own."""
    return new_lab(tmp_path, toy_source, store, dag)


def functions(found: Interpreted) -> list[str]:
    return [call.function for call in found.calls]


@pytest.mark.slow
def test_the_first_run_trains(three_runs: Lab) -> None:
    """Every step ends well in its pod, and a version is registered."""
    found = three_runs.found[0]
    assert found.state == "SUCCEEDED", found.errors
    assert functions(found)[-3:] == ["evaluate", "register", "finish"]
    assert {"search", "train_head", "fine_tune"} < set(functions(found))
    assert set(three_runs.statuses(1).values()) == {"FINISHED"}


@pytest.mark.slow
def test_a_run_with_nothing_new_is_skipped(three_runs: Lab) -> None:
    """Two steps run, and MLflow has a run that ended well."""
    found = three_runs.found[1]
    assert (found.state, functions(found)) == ("SUCCEEDED", ["detect_changes", "finish"]), found.errors
    assert set(three_runs.statuses(2).values()) == {"FINISHED"}


@pytest.mark.slow
def test_another_gate_judges_the_version_anew(three_runs: Lab) -> None:
    """The earlier version is taken, and nothing is trained."""
    found = three_runs.found[2]
    assert found.state == "SUCCEEDED", found.errors
    assert {"recall", "evaluate", "register"} < set(functions(found))
    assert not {"search", "train_head", "fine_tune"} & set(functions(found))
    assert set(three_runs.statuses(3).values()) == {"FINISHED"}


@pytest.mark.slow
def test_two_workers_search_one_study(lab: Lab) -> None:
    """Each item of the loop is one worker, and both hand on the same study."""
    found = lab.run(SETTINGS, workers=2)
    assert found.state == "SUCCEEDED", found.errors
    workers = called(found, "search")
    assert [call.parameters["worker"] for call in workers] == [0, 1]
    assert len({found.outputs[call.path]["Output"] for call in workers}) == 1


@pytest.mark.slow
def test_a_step_that_fails_leaves_the_next_ones_out(lab: Lab, tmp_path: Path) -> None:
    """The exit handler closes the run in MLflow, and says why."""
    (tmp_path / "empty").mkdir()
    found = lab.run(SETTINGS, source=str(tmp_path / "empty"))
    assert (found.state, functions(found)[-2:]) == ("FAILED", ["prepare_data", "finish"])
    assert lab.statuses(1)["toy"] == "FAILED"
    assert runs.read_errors("run-1")
