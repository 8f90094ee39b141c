"""The search."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from components.core.compute import child_processes
from components.core.contract.listener import Deadline
from components.core.contract.task import TASKS_FOLDER
from components.core.data.dataset_info import DatasetInfo
from components.core.fitting.data import open_data
from components.core.searching import studies
from components.core.searching.studies import DONE, open_study
from components.core.searching.trials import OutOfTimeError, objective, work
from components.core.settings import Hyperparameters, Settings
from components.core.tracking import queries, runs, tag_names
from components.core.tracking.service import connection
from components.core.training import deadlines
from components.search import _check, search, study_name, worker_devices
from components.select_trial import select_trial
from tests.conftest import TOY
from tests.support import forks
from tests.support.plain import PlainRun

SETTINGS = Settings(**TOY, trials=3, search_workers=1)
INFO = DatasetInfo(classes=[], digest="d", weights_digest="w")


@pytest.fixture(autouse=True)
def _workers_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a local run, whose steps are forks themselves."""
    monkeypatch.setattr(child_processes, "context", forks.context)


def trials_of(settings: Settings, dataset: Path) -> None:
    """Run the trials as a worker process does, without the seconds that starting one takes."""
    name = study_name(settings, DatasetInfo.read(dataset))
    searched = SETTINGS.SEARCHED - settings.fixed().keys()
    studies.begin(open_study(name), settings.defaults().model_dump(include=set(searched)))
    work(name, str(dataset), settings.to_json(), 3, 1, "step")


@pytest.mark.parametrize(
    ("changes", "gpus", "expected"),
    [
        ({}, 0, ["auto"] * 8),
        ({"device": "cpu"}, 0, ["cpu"] * 8),
        ({"search_workers": 2}, 0, ["auto"] * 2),
        ({"deterministic": True}, 0, ["auto"]),
        ({}, 1, ["cuda:0"]),
        ({}, 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ({"device": "cuda"}, 2, ["cuda:0", "cuda:1"]),
        ({"search_workers": 5}, 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        ({"device": "cuda:1"}, 2, ["cuda:1"]),
        ({"device": "cuda:1", "search_workers": 2}, 2, ["cuda:1"] * 2),
        ({"deterministic": True, "search_workers": 4}, 2, ["cuda:0"]),
    ],
)
def test_a_gpu_has_one_worker_and_a_core_another(changes: dict[str, Any], gpus: int, expected: list[str]) -> None:
    """Left alone, there is one for each GPU, or for each core without; asked for, they are spread over the GPUs."""
    assert worker_devices(Settings(**{**TOY, **changes}), 8, gpus) == expected


def test_the_plan_is_kept_with_the_run(toy_run: PlainRun) -> None:
    """The run in MLflow says whether activations are kept, and how large they are."""
    step = next(r for r in queries.find_runs("toy", toy_run.run_key, "step") if r.info.run_name == "search")
    [sentence] = step.data.tags["thawline.notes"].splitlines()
    assert sentence.startswith("Activations ")
    assert " MB" in sentence


def test_trials_are_nested_runs(toy_run: PlainRun) -> None:
    """Every trial is a run below the search step's, with its parameters, its epochs and its end."""
    step = next(r for r in queries.find_runs("toy", toy_run.run_key, "step") if r.info.run_name == "search")
    trials = queries.find_runs("toy", toy_run.run_key, "trial")
    assert sorted(t.info.run_name for t in trials) == ["trial 0", "trial 1", "trial 2"]
    assert {t.data.tags[tag_names.PARENT] for t in trials} == {step.info.run_id}
    for trial in trials:
        assert trial.info.status == "FINISHED"
        assert trial.info.end_time > trial.info.start_time
        assert set(trial.data.params) == set(Hyperparameters.model_fields)
        epochs = connection.client().get_metric_history(trial.info.run_id, "val/loss")
        assert len(epochs) >= 5


def test_the_defaults_are_the_first_trial(toy_run: PlainRun) -> None:
    """The search starts from the defaults, so on validation it never ends worse than without."""
    study = open_study(study_name(toy_run.settings, DatasetInfo.read(toy_run.folder / "dataset")))
    assert study.trials[0].user_attrs["hyperparameters"] == toy_run.settings.defaults().model_dump()


def test_the_defaults_follow_from_the_rows(
    tracked_home: Path, toy_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the task has other defaults for so many rows, the first trial and a run without a search take them."""
    deeper = {"thaw": 1, "thaw_learning_rate": 0.02}
    (tmp_path / "toy_by_rows").mkdir()
    source = f"from tests.fakes.toy import build, check, encode, target\nrecipe_by_rows = {{100: {deeper}}}\n"
    (tmp_path / "toy_by_rows" / "task.py").write_text(source)
    monkeypatch.setenv(TASKS_FOLDER, str(tmp_path))
    changes = {"task": "toy_by_rows.task", "trials": 1, "thaw_learning_rate": None, "head_epochs": 1}
    settings = SETTINGS.model_copy(update=changes)
    name = search(settings.to_json(), "k", toy_dataset, 0)
    found = open_study(name).trials[0].user_attrs["hyperparameters"]
    without = settings.model_copy(update={"trials": 0}).to_json()
    chosen = json.loads(select_trial(without, "k", [name], toy_dataset, tracked_home / "trials.json"))
    assert deeper.items() <= found.items()
    assert deeper.items() <= chosen.items()


def test_trials_count_in_total(toy_home: PlainRun) -> None:
    """Asking again runs nothing; asking for one more runs one."""
    dataset = toy_home.folder / "dataset"
    name = study_name(toy_home.settings, DatasetInfo.read(toy_home.folder / "dataset"))
    before = len(open_study(name).trials)
    for total in (before, before + 1):
        settings = toy_home.settings.model_copy(update={"trials": total})
        search(settings.to_json(), f"again-{total}", dataset, 0)
        assert len(open_study(name).trials) == total


def test_no_trials_no_search(tracked_home: Path, toy_dataset: Path) -> None:
    """With --trials 0 the search makes no study and no trial."""
    settings = SETTINGS.model_copy(update={"trials": 0})
    search(settings.to_json(), "k", toy_dataset, 0)
    assert not (tracked_home / "studies").exists()
    assert queries.find_runs("toy", "k", "trial") == []


@pytest.mark.slow
def test_bad_trials_are_pruned_by_their_epochs(tracked_home: Path, toy_dataset: Path) -> None:
    """A trial that is worse than the median after the same epochs is stopped before its end."""
    settings = SETTINGS.model_copy(
        update={"trials": 12, "head_epochs": 20, "head_learning_rate": None, "thaw_epochs": 2, "patience": 20}
    )
    trials_of(settings, toy_dataset)
    trials = open_study(study_name(settings, DatasetInfo.read(toy_dataset))).trials
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert len(trials) == 12
    assert pruned
    whole = settings.head_epochs + 2
    assert all(5 < len(t.intermediate_values) < whole for t in pruned)
    complete = [t.value for t in trials if t.state.name == "COMPLETE"]
    assert all(min(t.intermediate_values.values()) > min(complete) for t in pruned)


@pytest.mark.slow
def test_workers_share_the_trials(tracked_home: Path, toy_dataset: Path) -> None:
    """Two processes take different trials and together exactly as many as asked."""
    settings = SETTINGS.model_copy(update={"trials": 8, "search_workers": 2})
    search(settings.to_json(), "k", toy_dataset, 0)
    trials = open_study(study_name(settings, DatasetInfo.read(toy_dataset))).trials
    assert [t.number for t in trials] == list(range(8))
    assert all(t.state.name in ("COMPLETE", "PRUNED") for t in trials)


@pytest.mark.slow
def test_a_killed_search_goes_on(tracked_home: Path, toy_dataset: Path) -> None:
    """After a kill the trial under way is closed and the search runs only the trials that are left."""
    settings = SETTINGS.model_copy(update={"trials": 6, "head_epochs": 60, "patience": 60})
    name = study_name(settings, DatasetInfo.read(toy_dataset))
    study = open_study(name)
    process = forks.context().Process(target=work, args=(name, str(toy_dataset), settings.to_json(), 3, 1, "step"))
    process.start()
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not any(t.state.is_finished() for t in study.get_trials(deepcopy=False)):
        time.sleep(0.05)
    while time.monotonic() < limit and not any(t.state.name == "RUNNING" for t in study.get_trials(deepcopy=False)):
        time.sleep(0.01)
    process.kill()
    process.join()
    done = sum(t.state.is_finished() for t in study.get_trials(deepcopy=False))
    assert done >= 1
    search(settings.to_json(), "k", toy_dataset, 0)
    states = [t.state.name for t in open_study(name).trials]
    assert sum(s in ("COMPLETE", "PRUNED") for s in states) == 6
    assert "RUNNING" not in states


def test_no_time_no_search(tracked_home: Path, toy_dataset: Path) -> None:
    """Past the deadline no trial starts; the defaults are taken, and the run says what was left out."""
    settings = SETTINGS.model_copy(update={"step_max_minutes": 1e-9})
    name = search(settings.to_json(), "k", toy_dataset, 0)
    trials = tracked_home / "trials.json"
    chosen = select_trial(settings.to_json(), "k", [name], toy_dataset, trials)
    assert json.loads(chosen) == settings.defaults().model_dump()
    assert open_study(name).trials == []
    [pipeline] = queries.find_runs("toy", "k", "pipeline")
    assert deadlines.cuts(pipeline.data.tags) == "The search was skipped: --step-max-minutes 1e-09 was used up."


@pytest.mark.slow
def test_a_deadline_ends_the_search(tracked_home: Path, toy_dataset: Path) -> None:
    """The trial under way stops at an epoch's end and counts for nothing; a run with more time does what is left."""
    short = SETTINGS.model_copy(update={"trials": 400, "head_epochs": 100, "patience": 100, "step_max_minutes": 0.25})
    name = search(short.to_json(), "short", toy_dataset, 0)
    states = [trial.state.name for trial in open_study(name).trials]
    assert states[-1] == "FAIL"
    done = sum(state in DONE for state in states)
    assert 0 < done < 400
    [pipeline] = queries.find_runs("toy", "short", "pipeline")
    assert f"The search stopped after {done} of 400 trials" in deadlines.cuts(pipeline.data.tags)
    assert "RUNNING" not in {run.info.status for run in queries.find_runs("toy", "short", "trial")}

    longer = short.model_copy(update={"trials": done + 1, "step_max_minutes": 0.0})
    assert search(longer.to_json(), "longer", toy_dataset, 0) == name
    assert sum(trial.state.name in DONE for trial in open_study(name).trials) == done + 1
    [pipeline] = queries.find_runs("toy", "longer", "pipeline")
    assert deadlines.cuts(pipeline.data.tags) == ""


def test_a_first_trial_that_was_cut_is_repeated(tracked_home: Path, toy_dataset: Path) -> None:
    """The defaults are the first trial that counts, also where a deadline cut the first one."""
    settings = SETTINGS.model_copy(update={"trials": 1})
    name = study_name(settings, DatasetInfo.read(toy_dataset))
    study = open_study(name)
    study.enqueue_trial(settings.defaults().model_dump(include=set(SETTINGS.SEARCHED - SETTINGS.fixed().keys())))
    trial = study.ask()
    with pytest.raises(OutOfTimeError):
        objective(trial, open_data(toy_dataset, settings), 3, Deadline(0.0))
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    trials_of(settings, toy_dataset)
    first, second = open_study(name).trials
    assert (first.state.name, second.state.name) == ("FAIL", "COMPLETE")
    assert second.user_attrs["hyperparameters"] == settings.defaults().model_dump()


def test_a_deadline_while_others_run_the_last_trials_is_no_failure(tracked_home: Path) -> None:
    """A worker whose time is over while the first trials still run on other machines ends well."""
    study = open_study("elsewhere")
    study.ask()
    with runs.step("search", "run", Settings(**TOY, trials=1).to_json()) as run:
        run.deadline = Deadline(0.0, "--max-minutes 1")
        _check(run, study, killed=False)
    [found] = queries.find_runs("toy", "run", "step")
    assert found.info.status == "FINISHED"


def test_another_question_is_another_study() -> None:
    """Data, weights and settings name the study; the number of trials, workers and the model's name don't."""
    base = study_name(SETTINGS, INFO)
    assert study_name(SETTINGS, INFO.model_copy(update={"digest": "e"})) != base
    assert study_name(SETTINGS, INFO.model_copy(update={"weights_digest": "x"})) != base
    assert study_name(SETTINGS.model_copy(update={"seed": 1}), INFO) != base
    same = SETTINGS.model_copy(update={"trials": 99, "search_workers": 5, "model": "other"})
    assert study_name(same, INFO) == base


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("raise ArithmeticError('no loss today')", r"^A search worker died: ArithmeticError: no loss today\."),
        pytest.param(  # a limit of the system's, and PyTorch's own error at it
            "import resource, torch\n"
            "        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))\n"
            "        return torch.zeros(4 << 30)",
            r"^A search worker ran out of memory\. Use a smaller --batch-size, .* with the remaining trials\.$",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_failing_trial_fails_the_step(
    trouble: str,
    sentence: str,
    tracked_home: Path,
    toy_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error in a worker ends the search with a sentence that tells it; a lack of memory is called by its name."""
    from components.core.errors import StepError

    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("")
    (tmp_path / "own/task.py").write_text(
        "from tests.fakes import toy\n"
        "globals().update({name: value for name, value in vars(toy).items() if not name.startswith('__')})\n"
        "from components.core.targets.classification import Classification\n"
        f"class Failing(Classification):\n    def loss(*_):\n        {trouble}\n"
        "def target(settings):\n    return Failing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.delitem(sys.modules, "own.task", raising=False)
    settings = SETTINGS.model_copy(update={"task": "own.task"})
    with pytest.raises(StepError, match=sentence):
        search(settings.to_json(), "k", toy_dataset, 0)
    trials = queries.find_runs("toy", "k", "trial")
    assert [t.info.status for t in trials] == ["FAILED"]


def test_trials_that_diverge_end(tracked_home: Path, toy_dataset: Path) -> None:
    """Rates at which every trial diverges end the search with a sentence instead of trying for ever."""
    from components.core.errors import StepError

    settings = SETTINGS.model_copy(update={"trials": 2, "head_learning_rate": 1e38, "thaw_learning_rate": 1e38})
    settings = settings.model_copy(update={"optimizer": "sgd", "clip_norm": 0.0, "patience": 1})
    with pytest.raises(StepError, match="No trial of the search finished"):
        search(settings.to_json(), "k", toy_dataset, 0)
    assert [t.state.name for t in open_study(study_name(settings, DatasetInfo.read(toy_dataset))).trials] == [
        "PRUNED"
    ] * 2
