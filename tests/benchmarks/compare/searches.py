"""The search: Thawline's own, and Optuna around the plain loop with the same sampler, pruner, space and objective.

Where the plain loop runs fewer trials, its time for all of them is not guessed from those few: pruning and depth make
trials differ. What an epoch costs it is measured for each depth, and Thawline's own trials are priced with that.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch

from components.core import run_folder
from components.core.contract.task_sources import default_hyperparameters
from components.core.fitting.data import open_data
from components.core.networks.network import Network
from components.core.searching.studies import open_study
from components.core.searching.trials import MAX_THAWED_STAGES, suggest
from components.core.settings import Hyperparameters, Settings
from components.core.storage import home_folder
from components.core.tracking.service import local_store
from components.core.training.phase import build_network, train_phase
from components.search import search
from tests.benchmarks.compare import plain
from tests.benchmarks.compare.recipe import Clock, Pictures, Tester, peer_network, pictures_of

STAGES = 9  # of EfficientNet-Lite0


def thawline(dataset: Path, settings: Settings) -> dict[str, Any]:
    """Thawline's search with its own number of workers; the best trial is trained once more, off the clock."""
    key = run_folder.new_run_key()
    local_store.migrate()
    home_folder.write_text(run_folder.run_folder(key) / "settings.json", settings.to_json())
    data = open_data(dataset, settings)
    clock = Clock()
    name = search(settings.to_json(), key, dataset)
    seconds = clock.now()
    trials = [trial for trial in open_study(name).get_trials(deepcopy=False) if "history" in trial.user_attrs]
    best = min((t for t in trials if t.state.name == "COMPLETE"), key=lambda trial: trial.value)
    chosen = Hyperparameters.model_validate(best.user_attrs["hyperparameters"])
    network = build_network(data, chosen)
    tester, found = Tester(data, network.preprocessing, keep=False), list[tuple[float, float]]()
    for thaw in (0, chosen.thaw):
        history = train_phase(network, data, chosen, thaw=thaw)
        loss = min(figures["loss"] for figures in history)
        found.append((loss, tester.accuracy(network, len(network.stages) - thaw)))
    return {
        "seconds": seconds,
        "accuracy": min(found)[1],
        "loss": best.value,
        "trials": [counted(t.user_attrs["history"], t.user_attrs["hyperparameters"]["thaw"]) for t in trials],
    }


def counted(history: Sequence[Mapping[str, Any]], thaw: int) -> dict[str, int]:
    """How many epochs a trial ran in each phase."""
    ran = [epoch["phase"] for epoch in history]
    return {"thaw": int(thaw), "head_epochs": ran.count("head"), "thaw_epochs": ran.count("thaw")}


class Study:
    """Optuna around the plain loop."""

    def __init__(self, dataset: Path, settings: Settings, trials: int) -> None:
        self.settings, self.trials, self.data = settings, trials, open_data(dataset, settings)
        like = peer_network(self.data, settings.defaults())
        self.tester = Tester(self.data, like.preprocessing, keep=False)
        self.best, self.accuracy, self.ran = math.inf, 0.0, list[dict[str, int]]()
        self.costs: dict[int, list[float]] = {}
        self.clock = Clock()
        self.pictures: Pictures = pictures_of(self.data, like.preprocessing)

    def run(self) -> None:
        """All trials, one after another: each uses every core, as Thawline's workers do together."""
        settings = self.settings
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=5)
        study = optuna.create_study(pruner=pruner)
        searched = Hyperparameters.model_fields.keys() - settings.fixed().keys()
        rows = sum(len(self.data.rows[split]) for split in ("train", "validation"))
        study.enqueue_trial(default_hyperparameters(settings, rows).model_dump(include=set(searched)))
        for number in range(self.trials):
            study.sampler = optuna.samplers.TPESampler(seed=settings.seed * 100_003 + number, n_startup_trials=5)
            study.optimize(self.objective, n_trials=1)

    def objective(self, trial: optuna.Trial) -> float:
        """Validation loss of the better of the two phases."""
        chosen = suggest(trial, self.settings, STAGES)
        with self.clock.pause():  # the first head comes out of Thawline's network, which is no work of a peer
            network = peer_network(self.data, chosen)
        history: list[dict[str, Any]] = []
        losses: list[float] = []
        try:
            for phase, thaw in (("head", 0), ("thaw", chosen.thaw)):
                losses += self.phase(trial, network, chosen, phase, thaw, history)
        finally:
            self.ran.append(counted(history, chosen.thaw))
        return min(losses)

    def phase(
        self, trial: Any, network: Network, chosen: Hyperparameters, name: str, thaw: int, history: list[dict[str, Any]]
    ) -> list[float]:
        """One phase, pruned by the loss of every epoch."""
        offset, last = self.settings.head_epochs if thaw else 0, [time.perf_counter()]

        def report(figures: dict[str, float]) -> None:
            now = time.perf_counter()
            self.costs.setdefault(thaw, []).append(now - last[0])
            last[0] = now
            history.append({"phase": name, **figures})
            trial.report(figures["loss"], offset + int(figures["epoch"]))
            if trial.should_prune():
                raise optuna.TrialPruned

        done = plain.train_phase(network, self.pictures, self.settings, chosen, thaw, report)
        losses = [figures["loss"] for figures in done]
        with self.clock.pause():
            if min(losses) < self.best:
                self.best = min(losses)
                self.accuracy = self.tester.accuracy(network, len(network.stages) - thaw)
        return losses

    def price_depths(self) -> dict[str, float]:
        """Seconds of an epoch by depth; what no trial has reached is run for one epoch, off the clock."""
        with self.clock.pause():
            chosen = self.settings.defaults()
            for thaw in range(MAX_THAWED_STAGES + 1):
                if thaw not in self.costs:
                    network = peer_network(self.data, chosen)
                    once = chosen.model_copy(update={"thaw_epochs": 1})
                    begin = time.perf_counter()
                    plain.train_phase(network, self.pictures, self.settings, once, thaw)
                    self.costs[thaw] = [time.perf_counter() - begin]
        return {str(thaw): sum(costs) / len(costs) for thaw, costs in self.costs.items()}


def plain_search(dataset: Path, settings: Settings, trials: int) -> dict[str, Any]:
    """Optuna around the plain loop; `costs` price trials that it did not run."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.manual_seed(settings.seed)
    study = Study(dataset, settings, trials)
    loaded = study.clock.now()
    study.run()
    seconds = study.clock.now()
    found = {"seconds": seconds, "accuracy": study.accuracy, "loss": study.best, "trials": study.ran}
    return {**found, "fixed": loaded, "costs": study.price_depths()}
