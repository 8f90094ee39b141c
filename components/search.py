"""Search hyperparameters of both training phases with Optuna: N processes on one study.

The study is addressed by what it depends on, so a search that was stopped goes on where it was, and the same
data with the same settings is never searched twice.
"""

import math
import multiprocessing
import os
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.errors import NoAnswerError, StepError
from components.core.revision import libraries
from components.core.settings import GATE, OPERATIONAL, Hyperparameters, Settings, digest
from components.core.tracking import retries
from components.core.training import deadlines, studies
from components.core.training.deadlines import Deadline
from components.core.training.studies import DONE, open_study

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna

    from components.core.training.phase import Data

MOST_THAW_EPOCHS = 8
NO_ANSWER = 75  # exit status of a worker process whose database fell silent (EX_TEMPFAIL)
WAIT_SECONDS = 1.0  # between two looks whether a last trial has to be run again
MOST_THAWED = 3  # stages the search thaws at most; deeper ones cost time and rarely help on small data


@retries.patient
def search(
    settings: str,
    run_key: str,
    dataset: Path,
    dataset_digest: str,
    weights_digest: str,
    worker: int = 0,
    version: str = "",
) -> str:
    """Run trials until the study has `settings.trials` of them in all; return the study's name.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        dataset_digest: Of that data: other data have a study of their own.
        weights_digest: Of the pretrained weights, for the same reason.
        worker: Number of this pod where several search.
        version: An earlier version that is judged again, so there is nothing to search; else empty.

    Raises:
        StepError: A worker process died; the sentence says why.
    """
    from components.core.tracking import runs as tracking

    with tracking.step("search", run_key, settings) as run:
        if version:
            run.figure(f"nothing to search: version {version} is judged again")
            return ""
        name = study_name(run.settings, dataset_digest, weights_digest)
        run.tags({"thawline.study": name, "thawline.worker": str(worker)})
        if run.settings.trials == 0:
            run.figure("skipped: the defaults are taken")
            return name
        deadline = deadlines.of(run)
        if deadline.reached():
            deadlines.cut(run, "The search was left out", deadline)
            return name
        from components.core.training.phase import build_network, open_data, rows_of_splits  # torch costs seconds

        data = open_data(dataset, run.settings)
        network = build_network(data, run.settings.defaults())
        if not data.task.augments(run.settings) and run.settings.activations != "recompute":
            lines = _lines(run.settings, len(network.stages))
            splits = {"train": run.settings.views, "validation": 0}
            rows_of_splits(network, data, lines, splits, run.note, run.progress)
        with studies.explained():
            saved = _run_workers(run, name, dataset, len(network.stages), deadline)
        run.saved(data.reuse.seconds + saved)
    return name


def _lines(settings: Settings, stages: int) -> dict[int, float]:
    """Thaw lines whose activations the trials share, and the epochs that all trials together train there."""
    thawed = range(1, min(MOST_THAWED, stages) + 1) if settings.thaw is None else [settings.thaw]
    depths = [depth for depth in thawed if 0 < depth < stages]
    epochs = settings.thaw_epochs or MOST_THAW_EPOCHS
    return {stages: float(settings.trials * settings.head_epochs)} | {
        stages - depth: settings.trials * epochs / len(depths) for depth in depths
    }


def study_name(settings: Settings, dataset_digest: str, weights_digest: str) -> str:
    """Identifies everything a trial's value depends on; the number of trials is not part of it."""
    relevant = settings.model_dump(exclude={"trials", "model", *OPERATIONAL, *GATE})
    return digest([relevant, dataset_digest, weights_digest, libraries()])[:32]


def suggest(trial: "optuna.Trial", settings: Settings, stages: int) -> Hyperparameters:
    """Hyperparameters of one trial: what the user gave is fixed, the rest is searched."""
    fast = settings.optimizer == "sgd"  # without adaptive steps the useful rates lie an order higher
    deepest = min(MOST_THAWED, stages)
    space: dict[str, Callable[[str], float]] = {
        "head_learning_rate": lambda n: trial.suggest_float(n, 1e-2 if fast else 3e-4, 1.0 if fast else 3e-2, log=True),
        "weight_decay": lambda n: trial.suggest_float(n, 1e-5, 1e-1, log=True),
        "dropout": lambda n: trial.suggest_float(n, 0.0, 0.5),
        "label_smoothing": lambda n: trial.suggest_float(n, 0.0, 0.2),
        "thaw": lambda n: trial.suggest_int(n, 1, deepest),
        "thaw_learning_rate": lambda n: trial.suggest_float(
            n, 1e-4 if fast else 1e-5, 1e-1 if fast else 1e-3, log=True
        ),
        "layer_decay": lambda n: trial.suggest_float(n, 0.3, 1.0),
        "thaw_epochs": lambda n: trial.suggest_int(n, 2, MOST_THAW_EPOCHS),
    }
    fixed = settings.fixed()
    return Hyperparameters.model_validate({n: fixed[n] if n in fixed else ask(n) for n, ask in space.items()})


class OutOfTimeError(Exception):
    """A trial was stopped at the end of an epoch by the deadline."""


def objective(trial: "optuna.Trial", data: "Data", stages: int, deadline: Deadline) -> float:
    """Validation loss of the better of the two phases, lower is better; prunes by the loss of every epoch.

    Raises:
        OutOfTimeError: The deadline was reached before the trial's end.
    """
    import optuna

    from components.core.training.phase import build_network, train_phase

    settings, begin, saved = data.settings, time.time(), data.reuse.seconds
    hyperparameters = suggest(trial, settings, stages)
    network = build_network(data, hyperparameters)
    history: list[dict[str, Any]] = []
    best = float("inf")
    for phase, thaw in (("head", 0), ("thaw", hyperparameters.thaw)):

        def report(figures: dict[str, float], phase: str = phase) -> None:
            history.append({"phase": phase, **figures})
            offset = settings.head_epochs if phase == "thaw" else 0
            trial.report(figures["loss"], offset + int(figures["epoch"]))
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            if phase == "head" or thaw:
                if deadline.reached():
                    raise OutOfTimeError
                epochs = train_phase(network, data, hyperparameters, thaw=thaw, report=report, stop=deadline.reached)
                if deadline.hit:
                    raise OutOfTimeError
                best = min([best, *(e["loss"] for e in epochs)])
                if not epochs:  # diverged at once
                    break
        finally:
            trial.set_user_attr("history", history)
            trial.set_user_attr("hyperparameters", hyperparameters.model_dump())
            trial.set_user_attr("seconds", time.time() - begin)
            trial.set_user_attr("saved_seconds", data.reuse.seconds - saved)
    return best


def work(
    name: str,
    dataset: str,
    settings_json: str,
    stages: int,
    threads: int,
    step: str,
    until: float = math.inf,
    end: float = math.inf,
) -> None:
    """One worker process: take trials until the study has enough, or their time is over.

    Args:
        name: The study's.
        dataset: Folder of the prepared data.
        settings_json: The run's settings, with this process's device.
        stages: Of the network.
        threads: That this process may use.
        step: Id of the step's run, which its trials are marked with.
        until: When the search stops, in seconds since the epoch.
        end: When all training has to have ended. The best trial is trained once more before that.
    """
    import torch

    from components.core.compute.device import pick_device
    from components.core.training.phase import open_data

    torch.set_num_threads(min(threads, torch.get_num_threads()))  # OMP_NUM_THREADS still holds
    settings = Settings.from_json(settings_json)
    if (device := pick_device(settings.device)).type == "cuda":
        torch.cuda.set_device(device)  # what asks for no device by name would take memory of the first GPU
    data = open_data(Path(dataset), settings)
    try:
        with studies.explained():
            _take_trials(name, data, stages, step, Deadline(until), end)
    except NoAnswerError:
        raise SystemExit(NO_ANSWER) from None  # the step says it


def _take_trials(name: str, data: "Data", stages: int, step: str, deadline: Deadline, end: float) -> None:
    import optuna

    study, settings, until = open_study(name), data.settings, deadline.at
    while True:
        best = _seconds_of_best(study.get_trials(deepcopy=False))
        deadline.at = min(until, end - deadlines.SPARE * best)
        trial = None if deadline.reached() else studies.take(study, settings.trials, settings.seed)
        if trial is None:
            return
        if trial == "wait":
            time.sleep(WAIT_SECONDS)
            continue
        try:
            with studies.beating(study, trial):
                trial.set_user_attr("step", step)
                _run_trial(study, trial, data, stages, deadline)
        except optuna.exceptions.UpdateFinishedTrialError:  # this process stood still, and was taken for dead
            continue


def _run_trial(study: "optuna.Study", trial: "optuna.Trial", data: "Data", stages: int, deadline: Deadline) -> None:
    import optuna

    try:
        value = objective(trial, data, stages, deadline)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except OutOfTimeError:  # a failed trial does not count, so a later run repeats it
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        raise
    except BaseException:
        trial.set_user_attr("error", traceback.format_exc(limit=3))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    else:  # a value that is not finite can't be told: the trial diverged, which is a result and no fault
        finite = math.isfinite(value)
        study.tell(trial, value if finite else None, None if finite else optuna.trial.TrialState.PRUNED)


def _seconds_of_best(trials: "list[optuna.trial.FrozenTrial]") -> float:
    """Seconds that the best trial took so far; 0 without one."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return float(min(complete, key=lambda trial: trial.value or 0.0).user_attrs["seconds"]) if complete else 0.0


def worker_devices(settings: Settings, cores: int, gpus: int) -> list[str]:
    """The device of every worker process: one process for each GPU where the search runs on them, else for each core.

    Two processes on one GPU wait for each other and share its memory, so more than that are started only if asked for;
    they are spread over the GPUs.

    Args:
        settings: Number of workers (0: find out) and device.
        cores: That this process may use.
        gpus: That this machine has; 0 where the search runs on the CPU.
    """
    spread = gpus > 0 and ":" not in settings.device  # else one was named
    found = (gpus if spread else 1) if gpus else cores
    count = 1 if settings.deterministic else settings.search_workers or found
    return [f"cuda:{number % gpus}" if spread else settings.device for number in range(count)]


def _run_workers(run: Any, name: str, dataset: Path, stages: int, deadline: Deadline) -> float:  # noqa: ANN401 - StepRun, imported late
    """Run trials until there are enough; return the seconds that reading kept activations saved in them."""
    import torch

    from components.core.compute.device import pick_device

    settings: Settings = run.settings
    cores = len(os.sched_getaffinity(0))
    gpus = torch.cuda.device_count() if pick_device(settings.device).type == "cuda" else 0
    devices = worker_devices(settings, cores, gpus)
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with studies.alone(name):
        study = open_study(name)
        searched = Hyperparameters.model_fields.keys() - settings.fixed().keys()
        studies.begin(study, settings.defaults().model_dump(include=set(searched)))
        logged = {t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()}
        end = deadlines.time_to_train(run)[1]
        common = (stages, max(1, cores // len(devices)), run.run_id, deadline.at, end)
        places = [settings.model_copy(update={"device": device}).to_json() for device in devices]
        jobs = [(name, str(dataset), place, *common) for place in places]
        workers = [context.Process(target=work, args=job, daemon=True) for job in jobs]
        try:
            for process in workers:
                process.start()
            while any(process.is_alive() for process in workers):
                time.sleep(WAIT_SECONDS if studies.shared() else 0.2)
                _log_finished(run, study, logged)
            _log_finished(run, study, logged)
        finally:  # the step may go on, and try again
            for process in filter(lambda one: one.pid, workers):
                process.terminate()
    if any(process.exitcode == NO_ANSWER for process in workers):
        raise NoAnswerError("The search's database does not answer any more.", "Look at its log, and run again.")
    _check(run, study, deadline, killed=any(process.exitcode for process in workers))
    ours = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("step") == run.run_id]
    return float(sum(trial.user_attrs.get("saved_seconds", 0.0) for trial in ours))


def _check(run: Any, study: "optuna.Study", deadline: Deadline, *, killed: bool) -> None:  # noqa: ANN401 - as above
    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    done = sum(state in DONE for state in states)
    failed = [t for t in trials if t.user_attrs.get("step") == run.run_id and "error" in t.user_attrs]
    if killed and (failed or done < run.settings.trials):  # a killed worker's trial may have been run by another
        reason = failed[-1].user_attrs["error"].strip().splitlines()[-1] if failed else "it was killed"
        raise StepError(f"A search worker died: {reason}.", "Run again: the search goes on with the trials left.")
    left = run.settings.trials - done - states.count("RUNNING")  # workers of other machines may still run some
    late = done < run.settings.trials and deadline.at < math.inf
    if late and left > 0:
        deadlines.cut(run, f"The search stopped after {done} of {run.settings.trials} trials", deadline)
    if "COMPLETE" in states:
        run.figure(f"validation loss {study.best_value:.3f} in {done} trials")
    elif late:  # where workers of other machines still run the rest, theirs may come to an end
        run.figure("no trial came to its end: the defaults are taken")
    else:
        raise StepError("No trial of the search came to its end.", "Lower the learning rates, or raise --trials.")


def _log_finished(run: Any, study: "optuna.Study", logged: set[int]) -> None:  # noqa: ANN401 - StepRun, imported late
    from components.core.tracking import runs as tracking

    finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    for trial in (t for t in finished if t.number not in logged):
        logged.add(trial.number)
        if trial.user_attrs.get("step") != run.run_id:  # another machine's step logs it
            continue
        times = [int(at.timestamp() * 1000) for at in (trial.datetime_start, trial.datetime_complete) if at]
        attributes = trial.user_attrs
        epochs = [{k: v for k, v in e.items() if k != "phase"} for e in attributes.get("history", [])]
        params = attributes.get("hyperparameters", trial.params)
        tracking.log_trial(run, trial.number, (times[0], times[-1]), params, epochs, trial.state.name)
    done = sum(t.state.name in DONE for t in finished)
    best = [t.value for t in finished if t.value is not None]
    run.progress(done, run.settings.trials, f"best validation loss {min(best):.3f}" if best else "")
