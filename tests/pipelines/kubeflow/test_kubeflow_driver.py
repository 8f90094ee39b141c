"""The interpreter's rules on a DAG of every kind, and the real steps run by it as a cluster runs them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core.settings import Settings
from components.core.tracking import queries
from pipelines import steps
from pipelines.kubeflow import pods as cluster
from pipelines.kubeflow.pods import FINE_TUNING, SEARCHING_IN_PODS, WITHOUT_SEARCH, Cluster
from tests.conftest import TOY, copy_store, use_home
from tests.fakes.kubeflow.driver import Call, Interpreted, Killed, Perform, run, stubs
from tests.fakes.kubeflow.inputs import Refused
from tests.fakes.kubeflow.steps import real
from tests.support import every_kind

SETTINGS = Settings(**TOY, thaw_epochs=2, trials=2, search_workers=1)


@pytest.fixture(scope="module")
def package() -> str:
    return every_kind.compiled()


@pytest.fixture(scope="module")
def dag() -> str:
    return cluster.compile_dag(Cluster(), FINE_TUNING).yaml


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


def test_a_driver_that_fails_is_told_as_a_run_that_goes_on(dag: str) -> None:
    """It fails before its task is in the store, so nothing there has failed."""
    found = ended(dag, detect_changes={"Output": "yes"})
    assert (found.state, found.told) == ("FAILED", "RUNNING")


def test_a_killed_step_is_told_as_a_run_that_goes_on(dag: str) -> None:
    """A pod over its time writes nothing down: the run fails, and the exit handler hears RUNNING."""
    found = ended(dag, prepare_data=Killed("over its time"))
    assert (found.state, found.told) == ("FAILED", "RUNNING")


def test_a_step_that_failed_is_not_tried_again(dag: str) -> None:
    """Argo's policy OnError takes a step's own failure as final."""
    found = ended(dag, prepare_data=RuntimeError("broken"))
    assert len(called(found, "prepare_data")) == 1


@pytest.mark.parametrize(("changed", "most"), [(True, 20), (False, 7)])
def test_a_run_takes_few_pods(changed: bool, most: int, dag: str) -> None:  # noqa: FBT001 - a case
    """Each pod takes seconds of a week in which little happens."""
    found = ended(dag, detect_changes={"Output": changed})
    assert found.state == "SUCCEEDED"
    assert len(found.pods) <= most


def test_a_run_without_trials_takes_no_search_pods() -> None:
    """Its DAG has neither the search nor its driver, and `evaluate` starts without the artifact of one."""
    found = ended(cluster.compile_dag(Cluster(), WITHOUT_SEARCH).yaml, detect_changes={"Output": True})
    assert found.state == "SUCCEEDED", found.errors
    assert not called(found, "search")
    assert [{*call.artifacts} for call in called(found, "evaluate")] == [{"dataset", "checkpoint"}]
    assert len(found.pods) <= 18


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
    kills: str = ""

    def run(self, settings: Settings, source: str = "", **more: Any) -> Interpreted:
        """One run as `submit` starts it, except that the source may be a folder."""
        number = len(self.found) + 1
        given = {"source": source or str(self.source), "settings": settings.to_json(), "run_key": "", **more}
        pods = self.killing(real(steps, run_key(number), self.folder / f"pods-{number}"))
        self.found.append(run(self.dag, given, pods, root=str(self.folder / f"artifacts-{number}")))
        return self.found[-1]

    def killing(self, pods: Perform) -> Perform:
        """The pods, but that of one step is killed before its work."""

        def perform(call: Call) -> Mapping[str, Any]:
            if call.function == self.kills:
                raise Killed("over its time")
            return pods(call)

        return perform

    def statuses(self, number: int) -> set[str]:
        """How MLflow's runs of one run ended, the pipeline's own and its steps'."""
        return {
            one.info.status for kind in ("pipeline", "step") for one in queries.find_runs("toy", run_key(number), kind)
        }


def run_key(number: int) -> str:
    return f"run-{number}"


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
    assert three_runs.statuses(1) == {"FINISHED"}


@pytest.mark.slow
def test_a_run_with_nothing_new_is_skipped(three_runs: Lab) -> None:
    """Two steps run, and MLflow has a run that ended well."""
    found = three_runs.found[1]
    assert (found.state, functions(found)) == ("SUCCEEDED", ["detect_changes", "finish"]), found.errors
    assert three_runs.statuses(2) == {"FINISHED"}


@pytest.mark.slow
def test_another_gate_judges_the_version_anew(three_runs: Lab) -> None:
    """The version of the first run is registered again, without a trial."""
    first, judged = three_runs.found[0], three_runs.found[2]
    assert judged.state == "SUCCEEDED", judged.errors
    versions = [found.outputs[called(found, "register")[0].path] for found in (first, judged)]
    assert versions[0] == versions[1]
    assert [len(queries.find_runs("toy", run_key(number), "trial")) for number in (1, 3)] == [2, 0]
    assert three_runs.statuses(3) == {"FINISHED"}


@pytest.mark.slow
def test_two_workers_search_one_study(lab: Lab) -> None:
    """Each item of the loop is one worker, and both hand on the same study."""
    lab.dag = cluster.compile_dag(Cluster(), SEARCHING_IN_PODS).yaml
    found = lab.run(SETTINGS, search_workers=[0, 1])
    assert found.state == "SUCCEEDED", found.errors
    workers = called(found, "search_worker")
    assert [call.parameters["worker"] for call in workers] == [0, 1]
    assert len({found.outputs[call.path]["Output"] for call in workers}) == 1


@pytest.mark.slow
def test_without_a_search_the_defaults_are_trained_and_judged_again(lab: Lab) -> None:
    """The DAG for 0 trials trains the defaults; with another gate the same version is judged again."""
    lab.dag = cluster.compile_dag(Cluster(), WITHOUT_SEARCH).yaml
    settings = SETTINGS.model_copy(update={"trials": 0})
    first, judged = lab.run(settings), lab.run(settings.model_copy(update={"gate_alpha": 0.04}))
    assert (first.state, judged.state) == ("SUCCEEDED", "SUCCEEDED"), first.errors or judged.errors
    versions = [found.outputs[called(found, "register")[0].path] for found in (first, judged)]
    assert versions[0] == versions[1]
    assert lab.statuses(1) == lab.statuses(2) == {"FINISHED"}
    trained = next(run for run in queries.find_runs("toy", run_key(1), "step") if run.info.run_name == "train_head")
    assert trained.data.params == {name: str(value) for name, value in settings.defaults().model_dump().items()}


def test_a_step_that_fails_leaves_the_next_ones_out(lab: Lab, tmp_path: Path) -> None:
    """The exit handler closes the run in MLflow, and its result says why."""
    for name in ("class0", "class1"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "point.txt").write_text("not numbers")
    found = lab.run(SETTINGS, source=str(tmp_path / "bad"))
    assert (found.state, functions(found)[-2:]) == ("FAILED", ["prepare_data", "finish"])
    [pipeline] = queries.find_runs("toy", run_key(1), "pipeline")
    assert pipeline.info.status == "FAILED"
    assert "rejected" in json.loads((run_folder.run_folder(run_key(1)) / "result.json").read_text())["reason"]


def test_a_killed_step_fails_the_run_in_mlflow(lab: Lab) -> None:
    """The exit handler hears the word of a skipped week, and finds in MLflow that the run is none."""
    lab.kills = "prepare_data"
    found = lab.run(SETTINGS)
    assert (found.state, found.told, functions(found)[-1]) == ("FAILED", "RUNNING", "finish")
    [pipeline] = queries.find_runs("toy", run_key(1), "pipeline")
    assert pipeline.info.status == "FAILED"
