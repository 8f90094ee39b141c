"""Score the served model on the locked test rows, compare it with the champion on the same rows, and decide."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.core import figures, registry, revision, tracking
from components.core.checkpoints import load_checkpoint
from components.core.evaluation import Evaluation
from components.core.network import Network
from components.core.phases import Data, open_data, outputs
from components.core.report import ReportData, render
from components.core.serving import SERVING, agree, answers, build_served
from components.core.statistics import mcnemar_exact, paired_counts

AGREEING = 32  # test rows that the served model itself answers, to compare
ALPHA = 0.05  # one-sided: how often an equal challenger may win


@dataclass(frozen=True)
class Decision:
    """Whether the challenger goes to production, why, and against which version."""

    accepted: bool
    sentence: str
    champion: str  # the version compared with; empty where there was none
    evidence: Mapping[str, Any]


def evaluate(
    settings: str,
    run_key: str,
    dataset: Path,
    dataset_digest: str,
    weights_digest: str,
    checkpoint: Path,
    trials: Path,
    served: Path,
    report: Path,
    log_metric: Callable[[str, float], None],
    log_confusion: Callable[[list[str], list[list[int]]], None],
) -> tuple[bool, str]:
    """Write the served model and the report; return whether it is accepted, and the champion compared with.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        dataset_digest: Of that data; here so that a cache can't serve another week's result.
        weights_digest: Of the pretrained weights, for the same reason.
        checkpoint: What `fine_tune` wrote.
        trials: What `select_trial` wrote.
        served: Folder for the served model.
        report: HTML file to write.
        log_metric: Takes every metric for the pipeline's own page.
        log_confusion: Takes the confusion matrix for the same page.

    Raises:
        StepError: The champion can't be loaded: without it there is no evidence, so nothing is promoted.
    """
    with tracking.step("evaluate", run_key, settings) as run:
        run.tags({"thawline.dataset_digest": dataset_digest, "thawline.weights_digest": weights_digest})
        data = open_data(dataset, run.settings)
        network, facts = load_checkpoint(checkpoint)
        calibration = _calibrate(data, network, facts["thawed"], run)
        example = data.examples.contents(data.rows["validation"][:1])
        build_served(served, data.task, network, facts["classes"], calibration, example)
        labels = data.examples.labels(data.rows["test"])
        challenger = _answers(served, checkpoint, data, run, "challenger")
        training = Counter(data.examples.labels(data.rows["train"]))
        evaluation = data.task.evaluate(challenger, labels, facts["classes"], training)
        decision = _decide(data, run, evaluation, challenger, labels)
        page = _page(run, data, facts, evaluation, decision, calibration, trials)
        report.write_text(render(page))
        _log(run, evaluation, decision, page, report, facts["classes"])
        for name, value in evaluation.metrics.items():
            log_metric(name, float(value))
        if evaluation.confusion is not None:
            log_confusion(list(facts["classes"]), evaluation.confusion.tolist())
        low, high = evaluation.intervals[data.task.metric]
        run.figure(f"test {data.task.metric} {evaluation.metrics[data.task.metric]:.3f} [{low:.3f}, {high:.3f}]")
    return decision.accepted, decision.champion


def _calibrate(data: Data, network: Network, thawed: int, run: tracking.StepRun) -> dict[str, float]:
    logits = outputs(network, data, thawed, "calibrate", run.note, run.progress)
    labels = data.examples.labels(data.rows["calibrate"])
    return data.task.calibrate(logits, data.task.targets(labels, data.examples.classes))


def _answers(served: Path, checkpoint: Path, data: Data, run: tracking.StepRun, who: str) -> pd.DataFrame:
    """A model's answers to the test rows, from the activations that models share where these answer as it is served."""
    rows = data.rows["test"]
    model = tracking.load_pyfunc(served)

    def ask(some: Sequence[int]) -> pd.DataFrame:
        return answers(
            model,
            data.task.input_name,
            len(some),
            lambda start, stop: data.examples.contents([rows[i] for i in some[start:stop]]),
            lambda done, total: run.progress(done, total, f"test rows answered by the {who}"),
        )

    some = list(range(0, len(rows), -(-len(rows) // AGREEING)))
    expected = ask(some)
    try:
        network, facts = load_checkpoint(checkpoint)
        serving = json.loads((served / SERVING).read_text())
        logits = outputs(network, data, facts["thawed"], "test", run.note, run.progress)
        found = pd.DataFrame(data.task.answers(logits, serving))
        equal = agree(found.iloc[some].reset_index(drop=True), expected)
    except Exception as error:  # noqa: BLE001 - a model of another version may fail anyhow; it is served all the same
        run.note(f"The {who} can't be rebuilt here, so its served model answers all rows: {type(error).__name__}")
        return ask(range(len(rows)))
    if not equal:
        run.note(f"The {who} is served otherwise than it computes here, so its served model answers all rows")
        return ask(range(len(rows)))
    return found


def _decide(
    data: Data, run: tracking.StepRun, evaluation: Evaluation, challenger: pd.DataFrame, labels: Sequence[str]
) -> Decision:
    model, metric = run.settings.model, data.task.metric
    version = registry.current(model, "champion")
    value = evaluation.metrics[metric]
    if not version:
        floor, bound = evaluation.baseline[metric], evaluation.lower_bound
        accepted = bound > floor
        verdict = "is above" if accepted else "is not above"
        sentence = (
            f"First version: the lower bound of its {metric} {verdict} the trivial model "
            f"({bound:.3f} against {floor:.3f}, {metric} {value:.3f} on {len(labels)} test rows)."
        )
        return Decision(accepted, sentence, "", {"rule": "baseline", "lower_bound": bound, "baseline": floor})
    with tempfile.TemporaryDirectory() as folder:
        path, _ = registry.fetch(model, version, Path(folder))
        champion = _answers(path, path / "checkpoint", data, run, "champion")
    ours, theirs = data.task.scores(challenger, labels), data.task.scores(champion, labels)
    wins, losses, _ = paired_counts(theirs, ours)
    p = mcnemar_exact(wins, losses)
    accepted = wins > losses and p < ALPHA
    verdict = "beats" if accepted else "does not beat"
    sentence = (
        f"The challenger {verdict} the champion, version {version}, on the same {len(labels)} test rows: "
        f"{metric} {np.mean(ours):.3f} against {np.mean(theirs):.3f}, right where the other is wrong {wins} times "
        f"against {losses} (exact McNemar, one-sided p = {p:.3f}, alpha = {ALPHA})."
    )
    evidence = {
        "rule": "mcnemar",
        "version": version,
        metric: float(np.mean(theirs)),
        "wins": wins,
        "losses": losses,
        "p": p,
        "alpha": ALPHA,
    }
    return Decision(accepted, sentence, version, evidence)


def _page(
    run: tracking.StepRun,
    data: Data,
    facts: dict[str, Any],
    evaluation: Evaluation,
    decision: Decision,
    calibration: dict[str, float],
    trials: Path,
) -> ReportData:
    search = json.loads(trials.read_text())
    wrong = [data.rows["test"][mistake.row] for mistake in evaluation.mistakes]
    return ReportData(
        title=run.settings.model,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        decision=decision.sentence,
        accepted=decision.accepted,
        evaluation=evaluation,
        champion=dict(decision.evidence) if decision.champion else None,
        history=facts["history"],
        trials=search["trials"],
        importances=search["importances"],
        dataset=data.examples.info,
        rejected=data.examples.rejected(),
        thumbnails=data.task.thumbnails(data.examples.contents(wrong)),
        settings=run.settings.model_dump(),
        hyperparameters={**facts["hyperparameters"], "stages thawed in the model": facts["thawed"]},
        facts={
            "pipeline run": run.pipeline_id,
            "run key": run.run_key,
            "dataset digest": data.examples.digest,
            "weights digest": facts["weights_digest"],
            "settings digest": run.settings.digest(),
            "code revision": revision.code_revision(),
            **{name: f"{value:.4f}" for name, value in calibration.items()},
            **revision.libraries(),
        },
    )


def _log(
    run: tracking.StepRun,
    evaluation: Evaluation,
    decision: Decision,
    page: ReportData,
    report: Path,
    classes: Sequence[str],
) -> None:
    bounds = {
        f"{n}_{end}": v
        for n, pair in evaluation.intervals.items()
        for end, v in zip(("low", "high"), pair, strict=True)
    }
    baseline = {f"baseline_{name}": value for name, value in evaluation.baseline.items()}
    for pipeline in (False, True):
        run.metrics({**evaluation.metrics, **bounds, **baseline}, pipeline=pipeline)
    run.tags(
        {"thawline.accepted": str(decision.accepted).lower(), "thawline.decision": decision.sentence}, pipeline=True
    )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "report.html"
        copy.write_text(report.read_text())
        run.artifact(copy, pipeline=True)
    run.text(json.dumps(decision.evidence, indent=1), "evidence.json")
    run.text(figures.to_svg(figures.learning_curves(page.history)), "figures/learning_curves.svg")
    if evaluation.confusion is not None:
        run.text(
            figures.to_svg(figures.confusion_matrix(evaluation.confusion, classes)), "figures/confusion_matrix.svg"
        )
    if evaluation.reliability is not None:
        run.text(figures.to_svg(figures.reliability(evaluation.reliability)), "figures/reliability.svg")
    if evaluation.per_class is not None:
        run.text(evaluation.per_class.to_csv(index=False), "per_class.csv")
