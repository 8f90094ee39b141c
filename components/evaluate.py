"""Score the served model on the locked test rows, compare it with the champion on the same rows, and decide."""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from components.core.contract.metric_names import label
from components.core.digests import digest
from components.core.errors import StepError
from components.core.evaluation import look_budget, model_facts, references
from components.core.evaluation.champion_timeline import timeline
from components.core.evaluation.comparison import CHALLENGER, Contestant, Trained, contest, contestant
from components.core.evaluation.drift import Insight, examine
from components.core.evaluation.features import Array, pretrained_features
from components.core.evaluation.label_errors import Suspect
from components.core.evidence.alpha_spending import Budget
from components.core.evidence.gate import Verdict, decide, first_version
from components.core.fitting.data import Data, open_data
from components.core.inference import archives
from components.core.machine import revision
from components.core.networks.network import Network
from components.core.registry import recall, versions
from components.core.registry.serving import build_served
from components.core.reporting import charts
from components.core.reporting.costs import sentence
from components.core.reporting.headline import headline
from components.core.reporting.page import ReportData, render
from components.core.reporting.step_costs import costs
from components.core.settings import Settings
from components.core.sources.record_kinds import KIND_OF_TASK
from components.core.storage.csv_text import write_csv
from components.core.targets.evaluation import Evaluation
from components.core.tracking import metric_groups, runs, step_records, tag_names
from components.core.tracking.service import retries
from components.core.training import deadlines
from components.core.training.checkpoints import kept_epoch, load_checkpoint, weights_digest
from components.core.training.phase import outputs

SHOWN = 24  # labels that look wrong, in the report; all are in the table


class Evaluated(NamedTuple):
    """The result of the step."""

    accepted: bool
    champion: str  # the version compared with; empty where there is none
    metrics: dict[str, float | str]  # for people: the decision, what it stands on, and all other figures
    confusion: tuple[list[str], list[list[int]]] | None  # classes, and counts[true][predicted]


def _is_champion_still(arguments: step_records.Arguments, found: Evaluated) -> bool:
    """Return whether the champion is still the one compared with, or the version that this run has promoted since."""
    model = Settings.from_json(arguments["settings"]).model
    champion = versions.current(model, "champion")
    if champion in ("", found.champion):
        return champion == found.champion
    return bool(versions.tags(model, champion).get(tag_names.RUN_KEY) == arguments["run_key"])


@step_records.taken_over("served", "report", valid=_is_champion_still)
@retries.patient
def evaluate(
    settings: str,
    run_key: str,
    dataset: Path,
    checkpoint: Path,
    trials: Path | None,
    served: Path,
    report: Path,
    version: str = "",
) -> Evaluated:
    """Write the served model and the report; return the decision, and figures for the pipeline's own page.

    Args:
        settings: The run's settings as JSON.
        run_key: Finds the pipeline's run.
        dataset: Folder that `prepare_data` wrote.
        checkpoint: What `fine_tune` wrote.
        trials: What `select_trial` wrote; None where there was no search.
        served: Folder for the served model.
        report: HTML file to write.
        version: An earlier version that is judged again, in the files that were registered; else empty.

    Raises:
        StepError: The champion can't be loaded: without it there is no evidence, so nothing is promoted. Or the served
            model does not load and answer in a process without Thawline.
    """
    with runs.step("evaluate", run_key, settings) as run, ExitStack() as beside:
        try_out = beside.enter_context(versions.trying_out(served))
        data = open_data(dataset, run.settings)
        run.tags(data.examples.info.tags())
        trained = load_checkpoint(checkpoint)
        calibration = _serve(data, trained, run, served, version)
        tried = try_out()
        challenger = contestant(served, checkpoint, data, run, CHALLENGER, trained)
        _refuse_leak(data, challenger)
        facts = trained[1]
        fitted = references.fitted(data)
        features = pretrained_features(fitted, references.probed_splits(data), run)
        evaluation = _evaluated(fitted, challenger.answers, features, facts, run)
        decision, champion = _decide(data, run, evaluation, challenger)
        insight = examine(fitted, features, champion.trained_on if champion else None)
        reigns = timeline(data, run, (decision.champion, champion) if champion else None)
        search = json.loads(trials.read_text() if trials else _trials(run, version))
        page = _page(run, data, facts, evaluation, decision, calibration, search, insight, reigns, challenger.answers)
        kind = KIND_OF_TASK.get(run.settings.task, "rows").partition(" ")[0]
        model = model_facts.described(
            run.settings, data.examples.info.source, trained, served, challenger.seconds, kind
        )
        page = replace(page, headline=_headline(data, evaluation, decision, kind), model=model)
        report.write_text(render(page))
        run.params(model_facts.resolved(run.settings, trained) | _searched(run.settings, facts), pipeline=True)
        _log(run, evaluation, decision, page, report, facts["classes"])  # first: MLflow lists in this order
        run.metrics(metric_groups.of_kept(kept_epoch(facts)), pipeline=True)
        run.metrics(metric_groups.group(metric_groups.DATA, data.examples.info.sizes()), pipeline=True)
        _log_insight(run, data, insight)
        _log_saved(run, page.costs, data.reuse.seconds)
        run.text(tried(), "smoke_test.json")
        run.tags({tag_names.SMOKE_TESTED: archives.folder_digest(served)}, pipeline=True)
        first = data.target.metrics[0].name
        low, high = evaluation.intervals[first]
        run.figure(f"test {label(first)} {evaluation.metrics[first]:.3f} [{low:.3f}, {high:.3f}]")
    confusion = None if evaluation.confusion is None else (list(facts["classes"]), evaluation.confusion.tolist())
    return Evaluated(decision.accepted, decision.champion, _shown(evaluation, decision, first), confusion)


def _searched(settings: Settings, facts: Mapping[str, Any]) -> dict[str, str]:
    """The hyperparameters that no setting fixes, to four digits: the trials and the checkpoint have all of them."""
    chosen = {name: value for name, value in facts["hyperparameters"].items() if getattr(settings, name, None) is None}
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in chosen.items()}


def _trials(run: runs.StepRun, version: str) -> str:
    """The trials that led to a version that is judged again; none for a new one."""
    return recall.trials(run.settings.model, version) if version else recall.NO_TRIALS


def _serve(data: Data, trained: Trained, run: runs.StepRun, served: Path, version: str) -> dict[str, float]:
    """Write the served model, that of an earlier version as it was registered; return what calibration fitted."""
    network, facts = trained
    calibration = facts.get("calibration") or _calibrate(data, network, facts["thawed"], run)
    example = data.examples.contents(data.rows["validation"][:1])
    if version:
        recall.served(run.settings.model, version, served)
    else:
        build_served(served, data.task, data.target, network, facts["classes"], calibration, example)
    return calibration


def _evaluated(
    data: Data,
    answers: pd.DataFrame,
    features: Mapping[str, Array] | None,
    facts: Mapping[str, Any],
    run: runs.StepRun,
) -> Evaluation:
    """Evaluate the answers, beside those of simple models."""
    labels, classes = data.examples.labels(data.rows["test"]), facts["classes"]
    found = data.target.evaluate(answers, labels, classes, Counter(data.examples.labels(data.rows["train"])))
    evaluation = references.with_trivial(found, data, classes)
    return references.with_references(evaluation, answers, data, features, classes, facts["thawed"], run)


def _calibrate(data: Data, network: Network, thawed: int, run: runs.StepRun) -> dict[str, float]:
    logits = outputs(network, data, thawed, "calibrate", run)
    labels = data.examples.labels(data.rows["calibrate"])
    return data.target.calibrate(logits, data.target.targets(labels, data.examples.classes))


def _refuse_leak(data: Data, challenger: Contestant) -> None:
    known = challenger.trained_on.fingerprints.keys() & set(data.examples.ids(data.rows["test"]))
    if known:
        raise StepError(
            f"{len(known)} test rows are among those that the challenger was trained on.",
            "Nothing was promoted: don't mix the outputs of several runs.",
        )


def _decide(
    data: Data, run: runs.StepRun, evaluation: Evaluation, challenger: Contestant
) -> tuple[Verdict, Contestant | None]:
    """The verdict, and the champion with its answers."""
    model, headline = run.settings.model, data.target.metrics[0]
    metric = headline.name
    version = versions.current(model, "champion")
    if not version:
        figures = evaluation.metrics[metric], evaluation.bound, evaluation.baseline[metric]
        p = None
        if evaluation.trivial is not None:
            p = references.paired_p(evaluation.trivial, challenger.answers, data, challenger.classes)
        return first_version(metric, *figures, len(challenger.answers), headline.sign, p), None
    with tempfile.TemporaryDirectory() as folder:
        path, _ = versions.fetch(model, version, Path(folder))
        if weights_digest(path / "checkpoint") == challenger.digest:
            sentence = f"The challenger is identical to the champion, version {version}: there is nothing to decide."
            return Verdict(accepted=False, sentence=sentence, champion=version, evidence={"rule": "none"}), challenger
        budget = _look(
            run, f"{challenger.digest} {version}"
        )  # before the answers: a run that fails from here on has had its look
        champion = contestant(path, path / "checkpoint", data, run, "champion")
    calibration = float(evaluation.metrics.get(evaluation.calibration_error, math.nan))
    rows = contest(champion, challenger, version, data, calibration)
    verdict = decide(rows, run.settings, budget, metric)
    tested = sorted(zip(data.examples.ids(data.rows["test"]), data.examples.labels(data.rows["test"]), strict=True))
    digests = {
        "test_digest": digest(tested),
        "champion_digest": champion.digest,
        "challenger_digest": challenger.digest,
    }
    return replace(verdict, evidence={**verdict.evidence, **digests}), champion


def _look(run: runs.StepRun, models: str) -> Budget:
    """Take one look from the budget, and record it; this run's look at these models, if the step is done again."""
    settings = run.settings
    budget = look_budget.take(settings.model, f"{run.pipeline_id} {models}", settings.gate_alpha, settings.gate_horizon)
    run.tags({tag_names.LOOK: json.dumps(asdict(budget.look)), tag_names.HORIZON_OPENED: budget.opened})
    return budget


def _page(
    run: runs.StepRun,
    data: Data,
    facts: Mapping[str, Any],
    evaluation: Evaluation,
    decision: Verdict,
    calibration: Mapping[str, float],
    search: Mapping[str, Any],
    insight: Insight,
    reigns: Sequence[Mapping[str, Any]],
    answers: pd.DataFrame,
) -> ReportData:
    suspects = insight.suspects[:SHOWN]
    spent = costs(run)
    return ReportData(
        title=run.settings.model,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        decision=decision.sentence,
        accepted=decision.accepted,
        evaluation=evaluation,
        metrics=data.target.metrics,
        champion=dict(decision.evidence) if "wins" in decision.evidence else None,
        history=facts["history"],
        thawing=facts.get("thawing", ""),
        trials=search["trials"],
        importances=search["importances"],
        dataset=data.examples.info.model_dump(),
        rejected=data.examples.rejected(),
        thumbnails=_drawn(data, evaluation, answers),
        drift=insight.drift,
        suspects=suspects,
        suspect_count=len(insight.suspects),
        suspect_thumbnails=data.task.thumbnails(
            data.examples.contents([insight.places[suspect.row] for suspect in suspects])
        ),
        cut=deadlines.cuts(run.pipeline_tags()),
        cost=sentence(sum(row["seconds"] for row in spent), run.settings),
        costs=spent,
        timeline=reigns,
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


def _drawn(data: Data, evaluation: Evaluation, answers: pd.DataFrame) -> Sequence[bytes | str]:
    """Previews of the mistakes, with the answers to them."""
    places = [mistake.row for mistake in evaluation.mistakes]
    wrong = [data.rows["test"][place] for place in places]
    some = answers.iloc[places].reset_index(drop=True)
    return data.task.drawn(data.examples.contents(wrong), data.examples.labels(wrong), some)


def _headline(data: Data, evaluation: Evaluation, decision: Verdict, kind: str) -> str:
    metric = data.target.metrics[0]
    figures = evaluation.metrics[metric.name], evaluation.baseline[metric.name]
    rows = len(data.rows["test"])
    return headline(decision.evidence, metric, figures, rows, kind, accepted=decision.accepted)


def _shown(evaluation: Evaluation, decision: Verdict, metric: str) -> dict[str, float | str]:
    """Return the metrics for the pipeline's own page: the decision, its basis, and all other figures."""
    champion = decision.evidence.get("champion")
    compared = decision.evidence.get("metric", metric)
    interval = dict(zip((f"{metric}_low", f"{metric}_high"), evaluation.intervals[metric], strict=True))
    numbers = {
        metric: evaluation.metrics[metric],
        **interval,
        **({f"champion_{compared}": champion} if isinstance(champion, float) else {}),
        **evaluation.metrics,
    }
    finite = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    champion_is = {"compared_with": f"version {decision.champion}"} if decision.champion else {}
    told = {"decision": decision.sentence, "accepted": "yes" if decision.accepted else "no", **champion_is}
    return {**told, **({"reference": evaluation.shortfall} if evaluation.shortfall else {}), **finite}


def _log_insight(run: runs.StepRun, data: Data, insight: Insight) -> None:
    places = [insight.places[suspect.row] for suspect in insight.suspects]
    table = pd.DataFrame([asdict(suspect) for suspect in insight.suspects], columns=[f.name for f in fields(Suspect)])
    table.insert(0, "uri", data.examples.uris(places))
    table.insert(0, "id", data.examples.ids(places))
    run.text(write_csv(table.drop(columns="row")), "label_suspects.csv")
    found = {"label_suspects": float(len(places))}
    if insight.drift:
        drift = insight.drift
        found |= {"drift": drift.share, "drift_low": drift.low, "drift_high": drift.high}
    run.metrics(metric_groups.group(metric_groups.DATA, found), pipeline=True)


def _log_saved(run: runs.StepRun, spent: Sequence[Mapping[str, Any]], here: float) -> None:
    """Log what kept activations saved in each step, this one included, and in total."""
    run.saved(here)
    steps = {cost["step"]: cost["saved"] for cost in spent if cost["saved"] is not None} | {run.name: here}
    by_step = {f"{metric_groups.SAVED}_{step}": seconds for step, seconds in steps.items()}
    run.metrics({metric_groups.SAVED: sum(steps.values()), **by_step}, pipeline=True)


def _log(
    run: runs.StepRun,
    evaluation: Evaluation,
    decision: Verdict,
    page: ReportData,
    report: Path,
    classes: Sequence[str],
) -> None:
    bounds = {
        f"{n}_{end}": v
        for n, pair in evaluation.intervals.items()
        for end, v in zip(("low", "high"), pair, strict=True)
    }
    figures = {
        **metric_groups.group(metric_groups.TEST, evaluation.metrics),
        **metric_groups.beside_test(metric_groups.INTERVAL, bounds),
        **metric_groups.beside_test(metric_groups.BASELINE, evaluation.baseline),
    }
    for prefix, reference in evaluation.references.items():
        figures |= metric_groups.beside_test(prefix, reference.metrics)
    for pipeline in (False, True):
        run.metrics(figures, pipeline=pipeline)
    told = {tag_names.ACCEPTED: str(decision.accepted).lower(), tag_names.DECISION: decision.sentence}
    if evaluation.shortfall:
        told[tag_names.REFERENCE] = evaluation.shortfall
    run.tags({**told, tag_names.METRIC: next(iter(evaluation.metrics))}, pipeline=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "report.html"
        copy.write_text(report.read_text())
        run.artifact(copy, pipeline=True)
    evidence = {"accepted": decision.accepted, "sentence": decision.sentence, **decision.evidence}
    run.text(json.dumps(evidence, indent=1), "evidence.json", pipeline=True)
    run.text(
        charts.to_svg(charts.learning_curves(page.history, next(iter(evaluation.metrics)))),
        "figures/learning_curves.svg",
    )
    if evaluation.confusion is not None:
        run.text(charts.to_svg(charts.confusion_matrix(evaluation.confusion, classes)), "figures/confusion_matrix.svg")
    if evaluation.reliability is not None:
        run.text(charts.to_svg(charts.reliability(evaluation.reliability)), "figures/reliability.svg")
    if evaluation.numbers is not None:
        run.text(charts.to_svg(charts.numbers(evaluation.numbers)), "figures/numbers.svg")
    if evaluation.per_class is not None:
        run.text(write_csv(evaluation.per_class), "per_class.csv")
