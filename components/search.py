"""Search hyperparameters of both training phases with Optuna: N processes on one study.

The study is addressed by what it depends on, so a search that was stopped goes on where it was, and the same
data with the same settings is never searched twice.
"""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.contract.task_sources import default_hyperparameters
from components.core.data.dataset_info import DatasetInfo
from components.core.digests import digest
from components.core.errors import NoAnswerError, StepError
from components.core.machine import cpus, memory
from components.core.machine.revision import libraries
from components.core.searching import studies
from components.core.searching.studies import CHOSEN, DONE, SAVED, open_study
from components.core.searching.trials import MAX_THAW_EPOCHS, MAX_THAWED_STAGES, NO_ANSWER_STATUS, WAIT_SECONDS, work
from components.core.settings import GATE, OPERATIONAL, Settings
from components.core.tracking import step_records, tag_names
from components.core.tracking.service import retries
from components.core.training import deadlines

if TYPE_CHECKING:
    import optuna

    from components.core.tracking.runs import StepRun


def _is_searched(arguments: step_records.Arguments, study: str) -> bool:
    """Return whether the study is there, undamaged, with trials that count."""
    if arguments["version"] or Settings.from_json(arguments["settings"]).trials == 0:
        return True
    with studies.alone(study) as whole:
        return whole and any(trial.state.name in DONE for trial in open_study(study).get_trials(deepcopy=False))


@step_records.taken_over(valid=_is_searched)
@retries.patient
def search(
    settings: str,
    run_key: str,
    dataset: Path,
    worker: int = 0,
    version: str = "",
) -> str:
    """Run trials until the study has `settings.trials` of them in all; return the study's name.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        worker: Number of this pod where several search.
        version: An earlier version that is judged again, so there is nothing to search; else empty.

    Raises:
        StepError: A worker process died; the sentence says why.
    """
    from components.core.tracking import runs

    with runs.step("search", run_key, settings) as run:
        if version:
            run.figure(f"nothing to search: version {version} is judged again")
            return ""
        name = study_name(run.settings, DatasetInfo.read(dataset))
        run.tags({tag_names.STUDY: name, tag_names.WORKER: str(worker)})
        if run.settings.trials == 0:
            run.figure("skipped: the defaults are used")
            return name
        run.deadline = deadlines.of(run)
        if run.deadline.reached():
            deadlines.cut(run, "The search was skipped")
            return name
        from components.core.fitting.data import open_data  # torch costs seconds
        from components.core.fitting.head_phase import is_solved
        from components.core.fitting.thaw_line import rows_of_splits
        from components.core.training.phase import build_network

        data = open_data(dataset, run.settings)
        network = build_network(data, run.settings.defaults())
        if not data.task.augments(run.settings) and run.settings.activations != "recompute":
            lines = _lines(run.settings, len(network.stages), solved=is_solved(network, data))
            splits = {"train": run.settings.views, "validation": 0}
            rows_of_splits(network, data, lines, splits, run)
        with studies.explained():
            saved = _run_workers(run, name, dataset, len(network.stages))
        run.saved(data.reuse.seconds + saved)
    return name


def _lines(settings: Settings, stages: int, *, solved: bool) -> dict[int, float]:
    """Thaw lines whose activations the trials share, and how often all of them together read these there."""
    thawed = range(1, min(MAX_THAWED_STAGES, stages) + 1) if settings.thaw is None else [settings.thaw]
    depths = [depth for depth in thawed if 0 < depth < stages]
    epochs = settings.thaw_epochs or MAX_THAW_EPOCHS
    head = 2.0 if solved else float(settings.trials * settings.head_epochs)
    return {stages: head} | {stages - depth: settings.trials * epochs / len(depths) for depth in depths}


def study_name(settings: Settings, info: DatasetInfo) -> str:
    """Identifies everything a trial's value depends on; the number of trials is not part of it."""
    relevant = settings.model_dump(exclude={"trials", "model", *OPERATIONAL, *GATE})
    return digest([relevant, info.digest, info.weights_digest, libraries()])[:32]


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


def _run_workers(run: "StepRun", name: str, dataset: Path, stages: int) -> float:
    """Run trials until there are enough; return the seconds that reading kept activations saved in them."""
    import torch

    from components.core.compute import child_processes
    from components.core.compute.device import pick_device

    settings = run.settings
    cores = cpus.available()
    gpus = torch.cuda.device_count() if pick_device(settings.device).type == "cuda" else 0
    devices = worker_devices(settings, cores, gpus)
    context = child_processes.context()
    with studies.alone(name):
        study = open_study(name)
        searched = settings.searched(solved=False)
        first = default_hyperparameters(settings, DatasetInfo.read(dataset).fitted())
        studies.begin(study, first.model_dump(include=set(searched)))
        logged = _logged(run, study)
        end = deadlines.time_to_train(run)[1]
        common = (stages, max(1, cores // len(devices)), run.run_id, run.deadline.at, end)
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
    if any(process.exitcode == NO_ANSWER_STATUS for process in workers):
        raise NoAnswerError("The search's database no longer answers.", "Check its log, and run again.")
    _check(run, study, killed=any(process.exitcode for process in workers))
    ours = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("step") == run.run_id]
    return float(sum(trial.user_attrs.get(SAVED, 0.0) for trial in ours))


def _check(run: "StepRun", study: "optuna.Study", *, killed: bool) -> None:
    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    done = sum(state in DONE for state in states)
    failed = [t for t in trials if t.user_attrs.get("step") == run.run_id and "error" in t.user_attrs]
    if killed and (failed or done < run.settings.trials):  # a killed worker's trial may have been run by another
        reason = failed[-1].user_attrs["error"].strip().splitlines()[-1] if failed else "it was killed"
        again = "Run again: the search continues with the remaining trials."
        if memory.is_short(reason):
            raise StepError("A search worker ran out of memory.", f"{memory.HINT} {again}")
        raise StepError(f"A search worker died: {reason}.", again)
    left = run.settings.trials - done - states.count("RUNNING")  # workers of other machines may still run some
    late = done < run.settings.trials and run.deadline.at < math.inf
    if late and left > 0:
        deadlines.cut(run, f"The search stopped after {done} of {run.settings.trials} trials")
    if "COMPLETE" in states:
        run.figure(f"validation loss {study.best_value:.3f} in {done} trials")
    elif late:  # where workers of other machines still run the rest, theirs may come to an end
        run.figure("no trial finished: the defaults are used")
    else:
        raise StepError("No trial of the search finished.", "Lower the learning rates, or raise --trials.")


def _logged(run: "StepRun", study: "optuna.Study") -> set[int]:
    """Trials that have a run in MLflow, or need none: of those that this pipeline run had before, some may lack it."""
    from components.core.tracking import queries

    model, key = run.settings.model, run.run_key
    steps = {one.info.run_id for one in queries.find_runs(model, key, "step")} - {run.run_id}
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    earlier = {
        trial.number for trial in finished if trial.user_attrs.get("step") in steps and CHOSEN in trial.user_attrs
    }
    if not earlier:
        return {trial.number for trial in finished}
    ended = [one for one in queries.find_runs(model, key, "trial") if one.info.status in ("FINISHED", "FAILED")]
    known = {int(one.info.run_name.rpartition(" ")[2]) for one in ended}
    for number in earlier - known:
        _log_trial(run, study.trials[number])
    return {trial.number for trial in finished}


def _log_trial(run: "StepRun", trial: "optuna.trial.FrozenTrial") -> None:
    from components.core.tracking import runs

    times = [int(at.timestamp() * 1000) for at in (trial.datetime_start, trial.datetime_complete) if at]
    attributes = trial.user_attrs
    epochs = [{k: v for k, v in e.items() if k != "phase"} for e in attributes.get("history", [])]
    params = attributes.get(CHOSEN, trial.params)
    runs.log_trial(run, trial.number, (times[0], times[-1]), params, epochs, trial.state.name)


def _log_finished(run: "StepRun", study: "optuna.Study", logged: set[int]) -> None:
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    for trial in (t for t in finished if t.number not in logged):
        logged.add(trial.number)
        if trial.user_attrs.get("step") != run.run_id:  # another machine's step logs it
            continue
        _log_trial(run, trial)
    done = sum(t.state.name in DONE for t in finished)
    best = [t.value for t in finished if t.value is not None]
    run.progress(done, run.settings.trials, f"best validation loss {min(best):.3f}" if best else "")
