"""Take the best hyperparameters of the search, and keep its history as figures."""

import json
from pathlib import Path
from typing import Any

from components.core.contract.task_sources import default_hyperparameters
from components.core.data.dataset_info import DatasetInfo
from components.core.registry import recall
from components.core.reporting import charts
from components.core.searching.studies import DONE, open_study
from components.core.settings import Hyperparameters
from components.core.tracking import runs, step_records
from components.core.tracking.service import retries


@step_records.taken_over("trials")
@retries.patient
def select_trial(
    settings: str, run_key: str, studies: list[str], dataset: Path, trials: Path, version: str = ""
) -> str:
    """Write the search's trials and importances as JSON; return the best trial's hyperparameters as JSON.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        studies: Name of the study, as every search worker returned it.
        dataset: Folder that `prepare_data` wrote.
        trials: Where `{"trials": [...], "importances": {...}}` goes.
        version: An earlier version that is judged again: the trials are those that led to it; else empty.
    """
    with runs.step("select_trial", run_key, settings) as run:
        if version:
            trials.write_text(recall.trials(run.settings.model, version))
            run.figure(f"hyperparameters of version {version}")
            return run.settings.defaults().model_dump_json()
        chosen = default_hyperparameters(run.settings, DatasetInfo.read(dataset).fitted())
        found = _trials(studies[0]) if run.settings.trials else []
        importances: dict[str, float] = {}
        complete = [trial for trial in found if trial["state"] == "COMPLETE"]  # none where a deadline cut the first
        if complete:
            best = min(complete, key=lambda trial: trial["value"])
            chosen = Hyperparameters.model_validate(best["hyperparameters"])
            importances = _importances(studies[0])
            pictures = {
                "search_history": charts.search_history(found),
                "parallel_coordinates": charts.parallel_coordinates(found),
                "parameter_importances": charts.parameter_importances(importances),
            }
            for name, picture in pictures.items():
                run.text(charts.to_svg(picture), f"figures/{name}.svg")
            run.figure(f"trial {best['number']} is the best of {sum(t['state'] in DONE for t in found)}")
        trials.write_text(json.dumps({"trials": found, "importances": importances}))
        run.artifact(trials, "search")
        run.params(chosen.model_dump())
    return chosen.model_dump_json()


def _trials(study: str) -> list[dict[str, Any]]:
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value,
            "params": trial.params,
            "hyperparameters": trial.user_attrs.get("hyperparameters", trial.params),
            "seconds": trial.user_attrs.get("seconds", 0.0),
            "epochs": len(trial.user_attrs.get("history", [])),
        }
        for trial in open_study(study).get_trials(deepcopy=False)
        if trial.state.name in (*DONE, "FAIL")
    ]


def _importances(study: str) -> dict[str, float]:
    """Share of the variance that each parameter explains (fANOVA, Hutter et al. 2014); empty for few trials."""
    import optuna

    try:
        return dict(optuna.importance.get_param_importances(open_study(study)))
    except (ValueError, RuntimeError):  # too few finished trials, or all of the same value
        return {}
