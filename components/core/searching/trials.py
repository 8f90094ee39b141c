"""Trials of a search: what they suggest, what they are worth, and the processes that run them."""

import math
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.core.contract.listener import Callbacks, Deadline
from components.core.errors import NoAnswerError
from components.core.searching import studies
from components.core.searching.studies import SAVED, open_study
from components.core.settings import Hyperparameters, Settings
from components.core.storage import outages
from components.core.training import deadlines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import optuna

    from components.core.fitting.data import Data
    from components.core.networks.network import Network

MAX_THAW_EPOCHS = 12
FOLDS = 3  # of the rows, one of which is held out in all trials
NO_ANSWER_STATUS = 75  # exit status of a worker process whose database fell silent (EX_TEMPFAIL)
WAIT_SECONDS = 1.0  # between two looks whether a last trial has to be run again
MAX_THAWED_STAGES = 3  # stages the search thaws at most; deeper ones cost time and rarely help on small data


def suggest(trial: "optuna.Trial", settings: Settings, stages: int, *, solved: bool = False) -> Hyperparameters:
    """Hyperparameters of one trial: what the user gave is fixed, what matters beside it is searched."""
    fast = settings.optimizer == "sgd"  # without adaptive steps the useful rates lie an order higher
    deepest = min(MAX_THAWED_STAGES, stages)
    space: dict[str, Callable[[str], float]] = {
        "head_learning_rate": lambda n: trial.suggest_float(n, 1e-2 if fast else 3e-4, 1.0 if fast else 3e-2, log=True),
        "weight_decay": lambda n: trial.suggest_float(n, 1e-5, 1e-1, log=True),
        "dropout": lambda n: trial.suggest_float(n, 0.0, 0.5),
        "label_smoothing": lambda n: trial.suggest_float(n, 0.0, 0.2),
        "thaw": lambda n: trial.suggest_int(n, 1, deepest),
        "thaw_learning_rate": lambda n: trial.suggest_float(
            n, 1e-4 if fast else 1e-5, 1e-1 if fast else 3e-3, log=True
        ),
        "layer_decay": lambda n: trial.suggest_float(n, 0.3, 1.0),
        "thaw_epochs": lambda n: trial.suggest_int(n, 2, MAX_THAW_EPOCHS),
    }
    searched, rest = settings.searched(solved=solved), settings.defaults().model_dump()
    return Hyperparameters.model_validate({n: ask(n) if n in searched else rest[n] for n, ask in space.items()})


class OutOfTimeError(Exception):
    """A trial was stopped at the end of an epoch by the deadline."""


class _Begun(NamedTuple):
    """A trial before its first epoch."""

    network: "Network"
    data: "Data"
    hyperparameters: Hyperparameters
    solved: bool  # the head is the same in all trials, and decides about none of them
    last: bool  # the last epoch counts, as in the judgment of the final model; otherwise the best one


def objective(trial: "optuna.Trial", data: "Data", stages: int, deadline: Deadline) -> float:
    """Validation loss of the better of the two phases, lower is better; prunes by the loss of every epoch.

    The head of all trials is the same where it is solved for, so there the loss of the thawed phase counts.

    Raises:
        OutOfTimeError: The deadline was reached before the trial's end.
    """
    from components.core.training.phase import train_phase

    begin, saved = time.time(), data.reuse.seconds
    begun = _begun(trial, data, stages)
    data, hyperparameters = begun.data, begun.hyperparameters
    trial.set_user_attr(studies.CHOSEN, hyperparameters.model_dump())
    history: list[dict[str, Any]] = []
    value = math.inf
    for phase, thaw in (("head", 0), ("thaw", hyperparameters.thaw)):
        if phase == "thaw" and not thaw:
            break
        try:
            if deadline.reached():
                raise OutOfTimeError
            report = partial(_report, trial, history, phase, data.settings.head_epochs, begun.solved)
            listener = Callbacks(epoch=report, should_stop=deadline.reached)
            epochs = train_phase(begun.network, data, hyperparameters, thaw=thaw, listener=listener)
            if deadline.hit:
                raise OutOfTimeError
            loss = _loss(epochs, hyperparameters.thaw_epochs if begun.last and thaw else 0)
            value = loss if begun.solved else min(value, loss)
            if not epochs:  # diverged at once
                break
        finally:
            trial.set_user_attr("history", history)
            trial.set_user_attr("seconds", time.time() - begin)
            trial.set_user_attr(SAVED, data.reuse.seconds - saved)
    return value


def _loss(epochs: "Sequence[dict[str, float]]", planned: int) -> float:
    """The loss of the last of so many epochs, or with 0 of the best one; infinite if there is none, as it diverged."""
    losses = [epoch["loss"] for epoch in epochs]
    if planned:
        return losses[-1] if len(losses) == planned else math.inf
    return min([math.inf, *losses])


def _begun(trial: "optuna.Trial", data: "Data", stages: int) -> _Begun:
    """Build the network, choose the rows and the hyperparameters of a trial."""
    from components.core.fitting.folds import enough, held_out
    from components.core.fitting.head_phase import is_solved
    from components.core.training.phase import build_network

    if not (data.settings.may_solve_head() and data.target.convex):
        hyperparameters = suggest(trial, data.settings, stages)
        return _Begun(build_network(data, hyperparameters), data, hyperparameters, solved=False, last=False)
    network = build_network(data, data.settings.defaults())
    solved = is_solved(network, data)
    hyperparameters = suggest(trial, data.settings, stages, solved=solved)
    if not solved:  # the task's head is its own
        network = build_network(data, hyperparameters)
    elif not enough(data) and (parts := held_out(data, FOLDS, "search")):  # as the final model is judged
        patient = data.settings.model_copy(update={"patience": hyperparameters.thaw_epochs})
        return _Begun(network, replace(parts[0], settings=patient), hyperparameters, solved=True, last=True)
    return _Begun(network, data, hyperparameters, solved, last=False)


def _report(
    trial: "optuna.Trial",
    history: list[dict[str, Any]],
    phase: str,
    head_epochs: int,
    solved: bool,  # noqa: FBT001 - bound by `partial`
    figures: dict[str, float],
) -> None:
    """Take an epoch's figures; a solved head, which is the same in all trials, decides about none of them."""
    import optuna

    history.append({"phase": phase, **figures})
    if solved and phase == "head":
        return
    before = head_epochs if phase == "thaw" and not solved else 0
    trial.report(figures["loss"], before + int(figures["epoch"]))
    if trial.should_prune():
        raise optuna.TrialPruned


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

    from components.core.compute.child_processes import end_with_parent
    from components.core.compute.device import pick_device
    from components.core.fitting.data import open_data

    end_with_parent()
    torch.set_num_threads(min(threads, torch.get_num_threads()))  # OMP_NUM_THREADS still holds
    settings = Settings.from_json(settings_json)
    if (device := pick_device(settings.device)).type == "cuda":
        torch.cuda.set_device(device)  # what asks for no device by name would take memory of the first GPU
    data = open_data(Path(dataset), settings)
    try:
        with outages.waited_out(str), studies.explained():
            _take_trials(name, data, stages, step, Deadline(until), end)
    except NoAnswerError:
        raise SystemExit(NO_ANSWER_STATUS) from None  # the step says it


def _take_trials(name: str, data: "Data", stages: int, step: str, deadline: Deadline, end: float) -> None:
    import optuna

    study, settings, until = open_study(name), data.settings, deadline.at
    while True:
        best = _seconds_of_best(study.get_trials(deepcopy=False))
        deadline.at = min(until, end - deadlines.SPARE_FACTOR * best)
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
