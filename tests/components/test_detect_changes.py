"""Train, judge again or skip: what decides, and what it costs to find out."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.core import run_folder
from components.core import settings as settings_module
from components.core.data import lineage_store
from components.core.errors import InputError
from components.core.registry import ledger, promotion, versions
from components.core.settings import Settings
from components.core.sources import source_index
from components.core.storage import home_folder
from components.core.storage import s3 as storage
from components.core.tracking import provenance, queries, runs, tag_names
from components.core.tracking.service import connection
from components.detect_changes import DECISION, Decision, detect_changes, look
from components.evaluate import evaluate
from components.fine_tune import fine_tune
from components.finish import finish
from components.prepare_data import prepare_data
from components.register import register
from components.search import search
from components.select_trial import select_trial
from components.train_head import train_head
from tests.conftest import TOY, copy_home, copy_store, use_home
from tests.fakes.toy import write_points
from tests.support.plain import PlainRun, run_steps

pytest_plugins = ["tests.services.s3"]
LONG_AGO = time.time() - 1000


def old_points(folder: Path) -> Path:
    """Forty-five points in three classes, written long ago."""
    write_points(folder, per_class=15)
    for path in folder.rglob("*.txt"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return old_points(tmp_path / "points")


def write(path: Path, content: str, when: float = LONG_AGO) -> None:
    path.write_text(content)
    os.utime(path, (when, when))


def settings(**changes: Any) -> Settings:
    return Settings(**{**TOY, **changes})


def seen(source: Path, **changes: Any) -> tuple[str, Decision]:
    """What a run decides, and its key; it ends there, so that the next one has the lease."""
    key = run_folder.new_run_key()
    decision = look(str(source), settings(**changes), key)
    finish(settings(**changes).to_json(), key, "SUCCEEDED" if decision.change == "skip" else "FAILED")
    return key, decision


def completed(source: Path, *, failed: bool = False, **changes: Any) -> Decision:
    """A run whose network nobody trains: all that earlier runs leave for later ones is real."""
    text, key = settings(**changes).to_json(), run_folder.new_run_key()
    decision = look(str(source), settings(**changes), key)
    if decision.change == "skip":
        finish(text, key, "SUCCEEDED")
        return decision
    folder = run_folder.run_folder(key)
    prepare_data(str(source), text, key, folder / "dataset")
    if not failed:
        champion = versions.current("toy", "champion")
        with runs.step("register", key, text) as run:
            model = folder / "model"
            model.mkdir()
            (model / "MLmodel").write_text(key)
            version = decision.version or versions.add_version("toy", model, run, {})
            run.tags({tag_names.VERSION: version}, pipeline=True)
            run.tags({tag_names.COMPARED_WITH: champion} if champion else {}, pipeline=True)
        if not champion:
            versions.move_alias("toy", "champion", version)
    assert finish(text, key, "FAILED" if failed else "SUCCEEDED").status == ("failed" if failed else "succeeded")
    return decision


def tags_of(key: str) -> dict[str, str]:
    [pipeline] = queries.find_runs("toy", key, "pipeline")
    return dict(pipeline.data.tags)


@pytest.fixture(scope="session")
def _first_run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source of one successful run, whose version 1 is champion, and with its home."""
    folder = tmp_path_factory.mktemp("first-run")
    copy_store(store, folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        use_home(folder / "home", patch)
        assert completed(old_points(folder / "points")).change == "train"
    return Path(shutil.copytree(folder / "points", folder / "kept").parent)


@pytest.fixture
def earlier(_first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That source, where the run has found it, and a copy of the home; a test may change both."""
    shutil.rmtree(_first_run / "points", ignore_errors=True)
    copy_home(_first_run / "home", tmp_path / "home")
    use_home(tmp_path / "home", monkeypatch)
    return Path(shutil.copytree(_first_run / "kept", _first_run / "points"))


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_another_salt_ends_the_run_before_its_data_are_read(
    source: Path, tracked_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lineage keeps its salt, so another one is refused by the first step; its own and the default one are fine."""
    completed(source, split_salt="7")
    assert {seen(source, split_salt="7")[1].change, seen(source)[1].change} <= {"skip", "train"}
    monkeypatch.setattr(source_index, "take", None)
    with pytest.raises(InputError, match="The splits of 'toy' were made with salt '7', so '8' can't be used"):
        seen(source, split_salt="8")


def test_the_first_run_trains(source: Path, tracked_home: Path) -> None:
    """Without an earlier run there is nothing to compare with, so nothing is read; prepare_data fills the digests."""
    key, decision = seen(source)
    assert (decision.change, decision.input_digest) == ("train", "")
    assert decision.reason == "There is no earlier successful run of 'toy'."
    assert tag_names.INPUT_DIGEST not in tags_of(key)
    prepare_data(str(source), settings().to_json(), key, run_folder.run_folder(key) / "dataset")
    tags = tags_of(key)
    assert tags[tag_names.DATA_DIGEST] == source_index.data_digest(source_index.take(str(source), []))
    assert tags[tag_names.INPUT_DIGEST] == provenance.input_digest(provenance.read(tags))
    assert (tags[tag_names.CHANGE], tags[tag_names.INDEXED]) == ("train", "true")


def test_the_same_inputs_are_skipped(earlier: Path) -> None:
    """The second run on the same data stands for the first: reason, run, version, metrics and report are its."""
    key, decision = seen(earlier)
    [first] = queries.successful("toy", f"tags.`{tag_names.CHANGE}` = 'train'")
    assert decision == Decision(
        "skip", f"Nothing has changed since the run {first.name}.", "1", first.id, first.tags[tag_names.INPUT_DIGEST]
    )
    result = json.loads((run_folder.run_folder(key) / "result.json").read_text())
    assert (result["status"], result["same_as"], result["version"]) == ("skipped", first.id, "1")
    assert result["reason"] == decision.reason
    assert result["dataset_digest"] == first.tags["thawline.dataset_digest"]
    [pipeline] = queries.find_runs("toy", key, "pipeline")
    assert (pipeline.info.status, pipeline.data.tags[tag_names.SKIPPED]) == ("FINISHED", "true")
    assert pipeline.data.tags[tag_names.CHANGE] == "skip"


@pytest.mark.slow
def test_data_that_were_trained_before_are_judged_again(earlier: Path) -> None:
    """Data A, A, B, A: trains, skips, trains, and judges the version that A made before; then A is the last again."""
    assert completed(earlier).change == "skip"
    write(earlier / "class0/new.txt", "2.0,0.1")
    assert completed(earlier).change == "train"
    (earlier / "class0/new.txt").unlink()
    decision = completed(earlier)
    assert (decision.change, decision.version) == ("judge", "1")
    assert "has the same inputs and is judged again: the run toy " in decision.reason
    assert decision.reason.endswith(" came in between.")
    assert completed(earlier).change == "skip"


def relabel(source: Path) -> None:
    (source / "class0/0003.txt").rename(source / "class1/moved.txt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda source: write(source / "class0/0003.txt", "1.9,0.2", LONG_AGO + 1), "1 new, 1 gone examples"),
        (lambda source: write(source / "class0/more.txt", "1.9,0.2"), "1 new example"),
        pytest.param(lambda source: (source / "class0/0003.txt").unlink(), "1 gone example", marks=pytest.mark.slow),
        (relabel, "1 re-labelled example"),
        pytest.param(
            lambda source: shutil.copy2(source / "class0/0003.txt", source / "class0/copy.txt"),
            "copies or unreadable records",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_changed_data_train(earlier: Path, change: Callable[[Path], None], reason: str) -> None:
    """Bytes, a new record, a gone one, another label, a copy: each trains, and the reason says which it was."""
    change(earlier)
    decision = seen(earlier)[1]
    assert decision.change == "train"
    assert decision.reason.startswith("Changed since the run toy ")
    assert decision.reason.endswith(f": {reason}.")


def test_changed_settings_code_and_libraries_train(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else that a model is made of trains too, and all of it is named."""
    assert seen(earlier, search_workers=7)[1].change == "skip"
    assert seen(earlier, head_epochs=7, patience=3)[1].reason.endswith(": settings: head_epochs, patience.")
    monkeypatch.setattr(provenance, "_code", lambda _task: "other")
    monkeypatch.setenv("THAWLINE_IMAGE_DIGEST", "sha256:other")
    write(earlier / "class0/more.txt", "1.9,0.2")
    reason = seen(earlier, weights="none")[1].reason
    named = reason.partition(": ")[2]
    assert named.startswith("1 new example; weights; code; libraries: ")
    assert "image" in named


def test_accepted_labels_train(earlier: Path, tmp_path: Path) -> None:
    """They change the dataset, though nothing in the source has changed."""
    (tmp_path / "lineage").mkdir()
    lineage_store.log_lineage("toy", "0", tmp_path / "lineage", {"thawline.accepted_labels": "3"})
    decision = seen(earlier)[1]
    assert (decision.change, decision.reason.endswith(": labels.")) == ("train", True)


def test_another_champion_has_the_version_judged(earlier: Path) -> None:
    """A champion that is neither the version nor what it was compared with asks for another comparison."""
    write(earlier / "class0/new.txt", "2.0,0.1")
    completed(earlier)  # version 2, compared with version 1
    assert seen(earlier)[1].change == "skip"
    versions.move_alias("toy", "champion", "2")
    assert seen(earlier)[1].change == "skip"
    write(earlier / "class0/newer.txt", "2.0,0.2")
    completed(earlier)
    versions.move_alias("toy", "champion", "1")
    decision = seen(earlier)[1]
    assert (decision.change, decision.version) == ("judge", "3")
    assert decision.reason.endswith("version 1 is champion now.")
    connection.client().delete_registered_model_alias("toy", "champion")
    assert seen(earlier)[1].reason.endswith("there is no champion any more.")


def judge(text: str, key: str, version: str, folder: Path) -> None:
    """The steps after `prepare_data`, as the DAG calls them where an earlier version is judged again."""
    dataset, head, tuned, trials, served, page = (
        folder / name for name in ("dataset", "head", "tuned", "trials.json", "served", "report.html")
    )
    study = search(text, key, dataset, version=version)
    chosen = select_trial(text, key, [study], dataset, trials, version)
    train_head(text, key, dataset, chosen, head, version)
    fine_tune(text, key, dataset, chosen, head, tuned, version)
    found = evaluate(text, key, dataset, tuned, trials, served, page, version)
    register(text, key, served, tuned, found.champion, accepted=found.accepted)


def judged_again(run: PlainRun, source: Path, folder: Path) -> Decision:
    """What a run of the same inputs decides; if it is to judge, it does so to its end."""
    key, text = run_folder.new_run_key(), run.settings.to_json()
    decision = look(str(source), run.settings, key)
    if decision.change == "judge":
        folder.mkdir()
        prepare_data(str(source), text, key, folder / "dataset", decision.input_digest)
        judge(text, key, decision.version, folder)
    finish(text, key, "SUCCEEDED")
    return decision


@pytest.mark.usefixtures("smoke_tested", "undrawn")  # their seconds are spent elsewhere
def test_a_champion_that_was_taken_away_comes_back(toy_home: PlainRun, toy_source: Path, tmp_path: Path) -> None:
    """Without the alias nothing is in production: the version is judged as a first one, and once is enough."""
    connection.client().delete_registered_model_alias("toy", "champion")
    decision = judged_again(toy_home, toy_source, tmp_path / "again")
    assert (decision.change, decision.version) == ("judge", "1")
    assert decision.reason.endswith("is judged again: there is no champion any more.")
    assert versions.current("toy", "champion") == "1"
    assert [row["action"] for row in ledger.history("toy")] == ["promote", "promote"]
    assert judged_again(toy_home, toy_source, tmp_path / "third").change == "skip"


@pytest.mark.slow
@pytest.mark.usefixtures("smoke_tested", "undrawn")  # as above
def test_a_champion_that_was_taken_away_undoes_no_rollback(
    toy_home: PlainRun, toy_source: Path, tmp_path: Path
) -> None:
    """A version that somebody went back from stays challenger, and is not judged for ever."""
    step = runs.StepRun("register", "key", toy_home.settings, "", "")
    versions.add_version("toy", toy_home.folder / "served", step, {})
    for version in ("2", "1"):
        promotion.promote("toy", version, why="tried", override=True)
    assert promotion.rollback("toy").to == "2"
    connection.client().delete_registered_model_alias("toy", "champion")
    assert judged_again(toy_home, toy_source, tmp_path / "again").change == "judge"
    assert versions.current("toy", "champion") == ""
    assert judged_again(toy_home, toy_source, tmp_path / "third").change == "skip"


@pytest.mark.parametrize("approved", [True, False])
def test_only_what_was_approved_can_be_taken_away(earlier: Path, *, approved: bool) -> None:
    """A version that waits for approval, or was not accepted, is the reason that there is no champion: a skip."""
    [run] = queries.successful("toy", f"tags.`{tag_names.CHANGE}` = 'train'")
    connection.client().set_tag(run.id, tag_names.PENDING, "thawline promote 1 --model toy")
    if approved:
        promotion.settle("toy")  # records that version 1 is champion
    connection.client().delete_registered_model_alias("toy", "champion")
    assert seen(earlier)[1].change == ("judge" if approved else "skip")
    versions.move_alias("toy", "pending", "1")
    assert seen(earlier)[1].change == "skip"


@pytest.mark.slow
def test_another_gate_has_the_version_judged(source: Path, tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that only changes how models are judged trains nothing; judged once, it is skipped."""
    monkeypatch.setattr(settings_module, "GATE", frozenset({"patience"}))
    completed(source)
    decision = completed(source, patience=3)
    assert (decision.change, decision.version) == ("judge", "1")
    assert decision.reason.endswith("is judged again: gate: patience.")
    assert completed(source, patience=3).change == "skip"


def test_a_version_that_is_gone_is_trained_again(earlier: Path) -> None:
    """Without its version in the registry a run is nothing to stand for."""
    connection.client().delete_registered_model_alias("toy", "champion")
    connection.client().delete_model_version("toy", "1")
    decision = seen(earlier)[1]
    assert decision.change == "train"
    assert decision.reason.startswith("Version 1 of the run toy ")
    assert decision.reason.endswith(" is gone from the registry.")
    assert seen(earlier, min_new=100)[1].change == "train"


@pytest.mark.slow
def test_a_failed_run_is_never_the_last(earlier: Path) -> None:
    """What a failed run had is new to the next one, and the run before it is still the last."""
    write(earlier / "class0/new.txt", "2.0,0.1")
    assert completed(earlier, failed=True).change == "train"
    assert seen(earlier)[1].reason.endswith(": 1 new example.")
    (earlier / "class0/new.txt").unlink()
    assert seen(earlier)[1].change == "skip"


# --- asked for --------------------------------------------------------------------------------------------------------


def test_force_trains(earlier: Path) -> None:
    """With --force nothing is looked at."""
    assert seen(earlier, force=True)[1] == Decision("train", "Training was forced.")


def test_few_changes_are_collected(earlier: Path) -> None:
    """--min-new skips until enough has changed since the last training, skipped runs in between or not."""
    for number in range(2):
        write(earlier / f"class0/new{number}.txt", f"2.0,0.{number}")
        key, decision = seen(earlier, min_new=3)
        assert decision.change == "skip"
        assert tags_of(key)[tag_names.SKIPPED] == "true"
    assert decision.reason.startswith("2 of at least 3 changes since the run toy ")
    assert decision.reason.endswith(": 2 new examples.")
    assert seen(earlier)[1].change == "train"
    assert seen(earlier, min_new=3, head_epochs=7)[1].change == "train"
    (earlier / "class1/0000.txt").unlink()
    assert seen(earlier, min_new=3)[1].change == "train"


def test_verify_reads_everything(earlier: Path) -> None:
    """A change that path, size and time hide is found by --verify only."""
    path = earlier / "class0/0003.txt"
    content, when = path.read_text(), path.stat().st_mtime
    write(path, f"{content[:-1]}{'1' if content[-1] == '0' else '0'}", when)
    assert seen(earlier)[1].change == "skip"
    assert seen(earlier, verify=True)[1].reason.endswith(": 1 new, 1 gone examples.")


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_touched_files_are_read_once(earlier: Path) -> None:
    """New times without new content are skipped, and the run that was skipped keeps an index with these times."""
    for path in earlier.rglob("*.txt"):
        os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))
    read: list[int] = []
    for _ in range(2):
        key = run_folder.new_run_key()
        assert look(str(earlier), settings(), key, lambda _done, total, _text: read.append(total)).change == "skip"
        finish(settings().to_json(), key, "SUCCEEDED")
    assert len(read) == 45
    assert tag_names.INDEXED not in tags_of(key)


@pytest.mark.slow
def test_unchanged_objects_are_not_downloaded(s3: str, source: Path, tracked_home: Path) -> None:
    """A source on S3 is skipped after one listing; where the same files lie makes no difference."""
    for path in source.rglob("*.txt"):
        storage.upload(path, f"{s3}/points/{path.relative_to(source)}")
    where, key = f"{s3}/points", run_folder.new_run_key()
    completed(source)
    assert look(where, settings(), key).change == "skip"  # read once: these names are new
    finish(settings().to_json(), key, "SUCCEEDED")
    calls: list[str] = []
    storage.client().meta.events.register("before-call.s3.*", lambda model, **_: calls.append(model.name))
    assert look(where, settings(), run_folder.new_run_key()).change == "skip"
    assert calls == ["ListObjectsV2"]


def cut_short(key: str) -> str:
    """Say of a run that a deadline stopped its training; return its name."""
    [pipeline] = queries.find_runs("toy", key, "pipeline")
    runs.record(pipeline.info.run_id, {}, {f"{tag_names.CUT}search": "The search stopped."})
    return str(pipeline.info.run_name).rpartition(tag_names.OUTCOME)[2]


@pytest.mark.slow
def test_what_a_deadline_cut_is_trained_again(source: Path, tracked_home: Path) -> None:
    """A run that was cut short stands for no other, however few changes --min-new lets pass."""
    completed(source)
    [first] = queries.successful("toy", f"tags.`{tag_names.CHANGE}` = 'train'")
    name = cut_short(first.tags[tag_names.RUN_KEY])
    _, decision = seen(source, max_minutes=60)
    assert (decision.change, decision.reason) == ("train", f"A deadline cut the run {name} short.")
    write(source / "class0/new.txt", "2.0,0.1")
    assert seen(source, min_new=10)[1].change == "train"


@pytest.mark.slow
def test_after_a_run_with_time_enough_nothing_is_to_be_done(source: Path, tracked_home: Path) -> None:
    """Once the same inputs were trained to the end, the next run is skipped, and stands for that one."""
    completed(source)
    [first] = queries.successful("toy", f"tags.`{tag_names.CHANGE}` = 'train'")
    cut_short(first.tags[tag_names.RUN_KEY])
    assert completed(source).change == "train"
    whole, _ = queries.successful("toy", f"tags.`{tag_names.CHANGE}` = 'train'")
    _, decision = seen(source)
    assert (decision.change, decision.same_as) == ("skip", whole.id)


def test_an_option_of_operation_changes_nothing(earlier: Path) -> None:
    """Deadlines, prices and notifications are no inputs: a run with others is skipped."""
    options = {"max_minutes": 5, "step_max_minutes": 1, "machine": "m", "price_per_hour": 1, "notify": "always"}
    assert seen(earlier, **options)[1].change == "skip"


def test_a_lost_index_is_read_anew(earlier: Path) -> None:
    """Without the index of the last run everything is read, and the decision is the same."""
    for path in (home_folder.home() / "artifacts").rglob(source_index.INDEX):
        path.unlink()
    assert seen(earlier)[1].change == "skip"


def test_the_dag_takes_what_was_decided(earlier: Path) -> None:
    """The DAG's step finds the decision of the command line by the run's key, and lists nothing again."""
    write(earlier / "class0/new.txt", "2.0,0.1")
    key, decision = seen(earlier)
    assert (run_folder.run_folder(key) / DECISION).exists()
    shutil.rmtree(earlier)
    assert detect_changes(str(earlier), settings().to_json(), key) == (True, "", decision.input_digest)


def test_a_damaged_decision_is_made_again(earlier: Path) -> None:
    """The step looks itself, as where there was none."""
    key, decision = seen(earlier)
    for content in (b"", b"[1]", b'{"change": "skip"}'):
        (run_folder.run_folder(key) / DECISION).write_bytes(content)
        assert detect_changes(str(earlier), settings().to_json(), key) == (False, "", decision.input_digest)


def test_the_dag_decides_alone_too(earlier: Path) -> None:
    """Where no command line was, the step decides, and says in MLflow what it did."""
    changed, version, digest = detect_changes(str(earlier), settings().to_json(), "alone")
    assert (changed, version) == (False, "")
    assert digest == tags_of("alone")[tag_names.INPUT_DIGEST]
    [step] = queries.find_runs("toy", "alone", "step")
    assert (step.info.run_name, step.info.status) == ("detect_changes", "FINISHED")
    finish(settings().to_json(), "alone", "SUCCEEDED")
    forced = settings(force=True).to_json()
    assert detect_changes(str(earlier), forced, "forced") == (True, "", "forced")


@pytest.mark.parametrize("place", ["folder", "manifest"])
def test_a_source_that_holds_nothing_ends_the_run(place: str, tmp_path: Path, tracked_home: Path) -> None:
    """A source without any record is an error of this step, not of `prepare_data` minutes later."""
    empty = tmp_path / ("nothing" if place == "folder" else "nothing.csv")
    empty.mkdir() if place == "folder" else empty.write_text("uri,label\n")
    with pytest.raises(InputError, match="nothing"):
        detect_changes(str(empty), settings().to_json(), "k")
    assert set(run_folder.read_errors("k")) == {"detect_changes"}


def test_a_source_that_can_not_be_listed_ends_the_run(earlier: Path) -> None:
    """The error is written down where the command line and the exit handler find it."""
    manifest = earlier / "list.csv"
    manifest.write_text("path,name\na.txt,cat\n")
    with pytest.raises(InputError):
        look(str(manifest), settings(), "broken")
    result = finish(settings().to_json(), "broken", "FAILED")
    assert result.status == "failed"
    assert "list.csv" in result.reason


@pytest.mark.slow
def test_looking_imports_neither_torch_nor_kfp(earlier: Path) -> None:
    """A run that is skipped loads no library that only training or Kubeflow needs."""
    code = f"""
import sys
from components.core.settings import Settings
from components.detect_changes import look
from components.finish import finish
text = {settings().to_json()!r}
print(look({str(earlier)!r}, Settings.from_json(text), "key").change, finish(text, "key", "SUCCEEDED").status)
print([name for name in ("torch", "kfp", "optuna", "boto3", "timm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["skip skipped", "[]"], done.stderr


# --- a warm start -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("smoke_tested", "undrawn")  # their seconds are spent elsewhere
def test_a_warm_start_depends_on_the_champion(toy_home: PlainRun, toy_source: Path, tmp_path: Path) -> None:
    """Another champion is another input, but not one that the last run made itself: it would train on for ever."""
    warm = toy_home.settings.model_copy(update={"warm_start": True})

    def decided(settings: Settings = warm, source: Path = toy_source) -> Decision:
        key = run_folder.new_run_key()
        decision = look(str(source), settings, key)
        runs.close_running("toy", key, failed=True)
        return decision

    assert decided().reason.endswith(": settings: warm_start.")
    second = run_steps(toy_source, warm, tmp_path / "second")
    assert second.version == "2"
    tags = tags_of(second.run_key)
    assert (tags[tag_names.WARM_START], provenance.read(tags)[provenance.START][:2]) == ("1", "1 ")
    assert versions.tags("toy", "2")[tag_names.WARM_START] == "1"
    assert decided().change == "skip"  # the champion that it started from
    versions.move_alias("toy", "champion", "2")
    assert decided().change == "skip"  # its own version
    versions.move_alias("toy", "champion", "1")
    shutil.copytree(toy_source, tmp_path / "points")
    write(tmp_path / "points/class0/new.txt", "2.0,0.1")
    assert completed(tmp_path / "points", warm_start=True, trials=3, search_workers=1).change == "train"
    versions.move_alias("toy", "champion", "2")
    assert decided(source=tmp_path / "points").reason.endswith(": champion.")
    versions.move_alias("toy", "champion", "1")
    assert decided(source=tmp_path / "points").version == "3"
    connection.client().delete_registered_model_alias("toy", "champion")
    assert "; champion." in decided().reason
    assert decided(warm.model_copy(update={"min_new": 100})).change == "train"
    assert decided(toy_home.settings).change == "judge"


def test_a_pretraining_is_nothing_to_compare_with(source: Path, tracked_home: Path) -> None:
    """After a run that registered no version the next one trains, and the reason says so."""
    run = runs.pipeline_run("k", settings()).info.run_id
    facts = {tag_names.INDEXED: "true", tag_names.CHANGE: "train", tag_names.PRETRAINED: "/weights"}
    runs.record(run, {}, facts)
    finish(settings().to_json(), "k", "SUCCEEDED")
    assert seen(source)[1] == Decision("train", "No earlier run of 'toy' registered a version.")


@pytest.mark.slow
def test_a_warm_start_without_a_champion_says_so(source: Path, tracked_home: Path) -> None:
    """The first run starts from the pretrained weights, and its inputs say so; then its own version is no news."""
    first = completed(source, warm_start=True)
    assert first.change == "train"
    [run] = queries.successful("toy", f"tags.`{tag_names.CHANGE}` = 'train'")
    [step] = [s for s in queries.find_runs("toy", "", "step") if s.info.run_name == "prepare_data"]
    assert "There is no champion to start from" in step.data.tags["thawline.notes"]
    assert provenance.read(run.tags)[provenance.START] == "none"
    assert versions.current("toy", "champion") == "1"
    assert seen(source, warm_start=True)[1].change == "skip"
