"""Registration and the served model."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from components.core.contract.listener import Deadline
from components.core.data.examples import Examples
from components.core.errors import StepError
from components.core.inference import archives
from components.core.registry import promotion, versions
from components.core.storage import home_folder
from components.core.tracking import pyfunc, queries, runs, tag_names
from components.core.tracking.service import connection
from components.core.training import deadlines
from components.evaluate import evaluate
from components.finish import finish
from components.register import register
from tests.fakes import toy, toy_serving
from tests.support.plain import PlainRun


def registered(run: PlainRun, key: str, served: Path, champion: str, *, accepted: bool) -> str:
    """Register another model: its checkpoint says that it is, and differs in nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(shutil.copytree(run.folder / "tuned", Path(folder) / "tuned"))
        facts = json.loads((other / "checkpoint.json").read_text())
        (other / "checkpoint.json").write_text(json.dumps({**facts, "made by": key}))
        text = run.settings.to_json()
        return register(text, key, served, other, champion, accepted=accepted)


def test_the_version_says_what_it_is_made_of(toy_run: PlainRun) -> None:
    """Tags hold the digests of data, weights, settings and files, the backbone and the code's revision."""
    version = connection.client().get_model_version("toy", "1")
    tags = version.tags
    assert tags["thawline.dataset_digest"] == toy_run.dataset_digest
    assert tags["thawline.weights_digest"] == toy_run.weights_digest
    assert tags["thawline.settings_digest"] == toy_run.settings.digest()
    assert tags["thawline.backbone"] == "tanh"  # the task's own, since none was given
    assert len(tags[tag_names.ARTIFACT_DIGEST]) == 64
    assert tags["thawline.code_revision"]
    assert set(version.aliases) == {"challenger", "champion"}


def test_the_version_has_signature_and_example(toy_run: PlainRun, tmp_path: Path) -> None:
    """The registered files hold a signature, an input example, the checkpoint and no pickle."""
    path, _ = versions.fetch("toy", "champion", tmp_path)
    names = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert {"MLmodel", "input_example.json", "checkpoint/network.safetensors", "checkpoint/checkpoint.json"} <= names
    assert not any(name.endswith((".pkl", ".pickle", ".pth")) for name in names)
    assert "signature" in (path / "MLmodel").read_text()


@pytest.mark.slow
def test_it_answers_where_thawline_is_not_installed(toy_run: PlainRun, tmp_path: Path) -> None:
    """In a fresh process that can't import components or pipelines the model loads and answers."""
    path, _ = versions.fetch("toy", "champion", tmp_path)
    [answer] = json.loads(versions.smoke_test(path))
    assert set(answer) == {"label", "probabilities"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_the_clean_process_waits_for_the_model(
    toy_run: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may start before there is a model, answers once it is told, and leaves no temporary file."""
    path, temporary = tmp_path / "later", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with versions.trying_out(path) as begin:
        fetched, _ = versions.fetch("toy", "champion", tmp_path / "fetched")
        fetched.rename(path)
        assert len(json.loads(begin()())) == 1
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_serving_code_that_needs_thawline_is_found_out(toy_run: PlainRun, tmp_path: Path) -> None:
    """A model whose code imports Thawline fails the smoke test, which names the reason."""
    path, _ = versions.fetch("toy", "champion", tmp_path)
    code = path / "artifacts/served/serving_code.py"
    code.write_text("from components.core.inference import images\n" + code.read_text())
    with pytest.raises(StepError, match="must not import components"):
        versions.smoke_test(path)


@pytest.mark.slow
def test_serving_code_that_unpickles_is_found_out(toy_run: PlainRun, tmp_path: Path) -> None:
    """A model that unpickles while it loads fails the smoke test."""
    path, _ = versions.fetch("toy", "champion", tmp_path)
    code = path / "artifacts/served/serving_code.py"
    bomb = "import pickle, fractions\npickle.loads(pickle.dumps(fractions.Fraction(1, 2)))\n"
    code.write_text(bomb + code.read_text())
    with pytest.raises(StepError, match="must not be unpickled"):
        versions.smoke_test(path)


@pytest.mark.slow
def test_a_model_that_does_not_answer_fails_evaluate(
    toy_home: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that breaks in a clean process is found out before it is registered."""
    code = tmp_path / "serving_code.py"
    code.write_text("__import__('components')\n" + Path(toy_serving.__file__).read_text())
    monkeypatch.setattr(toy, "serving_code", code, raising=False)
    names = (toy_home.folder / name for name in ("dataset", "tuned", "trials.json"))
    with pytest.raises(StepError, match="must not import components"):
        evaluate(toy_home.settings.to_json(), "broken", *names, tmp_path / "served", tmp_path / "report.html")
    assert len(connection.client().search_model_versions("name = 'toy'")) == 1


def test_files_that_answered_in_evaluate_are_not_tried_out_again(toy_home: PlainRun, smoke_tested: list[str]) -> None:
    """`register` starts the clean process only for files that are not those of `evaluate`."""
    run = toy_home
    text = run.settings.to_json()
    register(text, run.run_key, run.folder / "served", run.folder / "tuned", "1", accepted=False)
    assert smoke_tested == []
    register(text, "another", run.folder / "served", run.folder / "tuned", "1", accepted=False)
    assert len(smoke_tested) == 1


@pytest.mark.slow
def test_no_alias_moves_before_the_smoke_test(toy_home: PlainRun, tmp_path: Path) -> None:
    """A served model that does not answer fails the step, and the registry stays as it was."""
    served = tmp_path / "served"
    shutil.copytree(toy_home.folder / "served", served)
    (served / "artifacts/served/serving_code.py").write_text("raise RuntimeError('broken code')")
    with pytest.raises(StepError, match="broken code"):
        registered(toy_home, "broken", served, "1", accepted=True)
    assert versions.current("toy", "champion") == "1"
    assert len(connection.client().search_model_versions("name = 'toy'")) == 1


@pytest.mark.usefixtures("smoke_tested")
@pytest.mark.parametrize("cut", ["log_model_artifacts", "create_model_version"])
def test_a_model_that_a_kill_left_is_completed(cut: str, toy_home: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its files are uploaded, or before there is a version, the run's next try takes the same model."""
    served, experiments = toy_home.folder / "served", [connection.experiment("toy")]
    before = {one.model_id for one in connection.client().search_logged_models(experiments)}

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, cut, killed)
        with pytest.raises(KeyboardInterrupt):
            registered(toy_home, "killed", served, "1", accepted=False)
    version = registered(toy_home, "killed", served, "1", accepted=False)
    [made] = [m for m in connection.client().search_logged_models(experiments) if m.model_id not in before]
    assert (made.status, made.tags[tag_names.RUN_KEY]) == ("READY", "killed")
    assert connection.client().get_model_version("toy", version).source == f"models:/{made.model_id}"
    assert versions.fetch("toy", version, toy_home.folder / "fetched")[1] == version


@pytest.mark.usefixtures("smoke_tested")
def test_a_challenger_that_lost_is_registered(toy_home: PlainRun) -> None:
    """A version that was not accepted becomes challenger; the champion stays."""
    version = registered(toy_home, "lost", toy_home.folder / "served", "1", accepted=False)
    assert version == "2"
    assert versions.current("toy", "challenger") == "2"
    assert versions.current("toy", "champion") == "1"


@pytest.mark.usefixtures("smoke_tested")
@pytest.mark.parametrize("accepted", [True, False])
def test_registered_files_get_no_second_version(accepted: bool, toy_home: PlainRun) -> None:  # noqa: FBT001 - a case
    """The files of a version that is judged again stay that version, and it can win what it lost before."""
    connection.client().delete_registered_model_alias("toy", "champion")
    connection.client().set_model_version_tag("toy", "1", "thawline.accepted", "false")
    text, served, tuned = toy_home.settings.to_json(), toy_home.folder / "served", toy_home.folder / "tuned"
    assert register(text, "again", served, tuned, "", accepted=accepted) == "1"
    assert [facts.version for facts in versions.versions("toy")] == ["1"]
    assert versions.current("toy", "champion") == ("1" if accepted else "")
    assert versions.tags("toy", "1")["thawline.accepted"] == str(accepted).lower()
    [pipeline] = queries.find_runs("toy", "again", "pipeline")
    assert pipeline.data.tags["thawline.version"] == "1"


def test_the_last_verdict_against_the_same_champion_counts(toy_home: PlainRun, tmp_path: Path) -> None:
    """What lost the second time is not promoted by the first; a verdict against another champion changes nothing."""
    path, _ = versions.fetch("toy", "1", tmp_path)
    verdict = {"thawline.accepted": "false", tag_names.EVIDENCE_RUN: "later", "thawline.decision": "lost"}
    for champion, accepted, judged_by in (("7", "true", toy_home.result["mlflow_run_id"]), ("", "false", "later")):
        assert versions.registered("toy", path, {**verdict, "thawline.compared_with": champion}) == "1"
        found = versions.tags("toy", "1")
        assert (found["thawline.accepted"], found[tag_names.EVIDENCE_RUN]) == (accepted, judged_by)


@pytest.mark.usefixtures("smoke_tested")
def test_the_run_says_what_it_compared_with(toy_home: PlainRun) -> None:
    """The champion that evaluate compared with is a tag of the pipeline's run; without one there is no tag."""
    registered(toy_home, "second", toy_home.folder / "served", "1", accepted=False)
    [second] = queries.find_runs("toy", "second", "pipeline")
    [first] = queries.find_runs("toy", toy_home.run_key, "pipeline")
    assert second.data.tags[tag_names.COMPARED_WITH] == "1"
    assert tag_names.COMPARED_WITH not in first.data.tags


@pytest.mark.usefixtures("smoke_tested")
def test_a_champion_that_moved_meanwhile_is_not_replaced(toy_home: PlainRun) -> None:
    """Compare and swap: evidence against another champion promotes nothing, and the run says so."""
    registered(toy_home, "late", toy_home.folder / "served", "7", accepted=True)
    assert versions.current("toy", "champion") == "1"
    [pipeline] = queries.find_runs("toy", "late", "pipeline")
    assert pipeline.data.tags["thawline.promoted"] == "false"
    assert "no longer version 7" in pipeline.data.tags["thawline.decision"]


def waiting(run: PlainRun, key: str, champion: str, *, accepted: bool = True) -> str:
    """Register a model of its own with --promote manual."""
    text = run.settings.model_copy(update={"promote": "manual"}).to_json()
    with tempfile.TemporaryDirectory() as folder:
        tuned = Path(folder) / "tuned"
        shutil.copytree(run.folder / "tuned", tuned)
        facts = tuned / "checkpoint.json"
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "note": key}))
        return register(text, key, run.folder / "served", tuned, champion, accepted=accepted)


@pytest.mark.usefixtures("smoke_tested")
def test_an_accepted_version_may_wait_for_approval(toy_home: PlainRun) -> None:
    """With --promote manual it becomes `pending`, the champion stays, and the result names the command."""
    version = waiting(toy_home, "waits", "1")
    assert versions.aliases("toy") == {"champion": "1", "challenger": "2", "pending": "2"}
    assert connection.client().get_model_version("toy", version).tags["thawline.pending"] == "true"
    result = finish(toy_home.settings.to_json(), "waits", "SUCCEEDED")
    assert (result.promoted, result.pending) == (False, "thawline promote 2 --model toy")


@pytest.mark.usefixtures("smoke_tested")
def test_what_a_deadline_cut_is_not_promoted_by_itself(toy_home: PlainRun) -> None:
    """An accepted version of a run that was cut short waits for a person; result and reason say why."""
    text = toy_home.settings.to_json()
    with runs.step("fine_tune", "short", text) as run:
        run.deadline = Deadline(0.0, "--step-max-minutes 5")
        deadlines.cut(run, "The thawed training stopped after 1 of 6 epochs")
    version = registered(toy_home, "short", toy_home.folder / "served", "1", accepted=True)
    assert versions.aliases("toy") == {"champion": "1", "challenger": version, "pending": version}
    result = finish(text, "short", "SUCCEEDED")
    told = "The thawed training stopped after 1 of 6 epochs: --step-max-minutes 5 was used up."
    assert result.cut == told
    assert told in result.reason
    assert (result.promoted, result.pending) == (False, f"thawline promote {version} --model toy")


@pytest.mark.slow
@pytest.mark.usefixtures("smoke_tested")
def test_what_was_not_accepted_waits_for_nothing(toy_home: PlainRun) -> None:
    """With --promote manual a version that lost, or whose evidence is old, is challenger only."""
    waiting(toy_home, "lost", "1", accepted=False)
    waiting(toy_home, "late", "7")
    assert versions.aliases("toy") == {"champion": "1", "challenger": "3"}
    for key in ("lost", "late"):
        assert finish(toy_home.settings.to_json(), key, "SUCCEEDED").pending == ""
    [pipeline] = queries.find_runs("toy", "late", "pipeline")
    assert "another run moved the champion" in pipeline.data.tags["thawline.decision"]


@pytest.mark.usefixtures("smoke_tested")
def test_a_schedule_does_not_undo_a_rollback(toy_home: PlainRun) -> None:
    """A version that was rolled back and is judged anew stays challenger, and the decision names the command."""
    version = registered(toy_home, "second", toy_home.folder / "served", "1", accepted=True)
    assert versions.current("toy", "champion") == version == "2"
    promotion.rollback("toy")
    assert registered(toy_home, "second", toy_home.folder / "served", "1", accepted=True) == "2"
    assert versions.current("toy", "champion") == "1"
    [pipeline] = queries.find_runs("toy", "second", "pipeline")
    assert "version 2 was rolled back" in pipeline.data.tags["thawline.decision"]


@pytest.mark.usefixtures("smoke_tested")
def test_the_decision_says_what_kept_an_accepted_version_back(
    toy_home: PlainRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the champion does not move, the run's decision has the reason that the ledger has."""
    monkeypatch.setattr(promotion, "_claim", lambda _entry, _champion: "Another process treated it as cut off.")
    registered(toy_home, "second", toy_home.folder / "served", "1", accepted=True)
    [pipeline] = queries.find_runs("toy", "second", "pipeline")
    told = "Accepted, but the champion did not move. Another process treated it as cut off."
    assert pipeline.data.tags["thawline.decision"] == told


def test_a_version_carries_its_evidence(toy_run: PlainRun) -> None:
    """Tags say how it was decided, against which champion, and how accurate it is."""
    [facts] = versions.versions("toy")
    assert facts.aliases == ["challenger", "champion"]
    assert (facts.accepted, facts.compared_with) == (True, "")
    assert (facts.decision, facts.run) == (toy_run.result["reason"], toy_run.result["mlflow_run_id"])
    assert facts.accuracy == toy_run.result["metrics"]["accuracy"]


def files_of_the_version() -> Path:
    """The folder in the store that holds version 1."""
    [folder] = [path.parent for path in (home_folder.home() / "artifacts").rglob("MLmodel")]
    return folder


def test_tampered_files_are_refused_and_not_executed(toy_home: PlainRun, tmp_path: Path) -> None:
    """Code planted in a registered version is refused by its digest, before anything of it runs."""
    folder = files_of_the_version()
    versions.fetch("toy", "champion", tmp_path / "good")
    executed = tmp_path / "executed"
    (folder / "served_model.py").write_text(f"open({str(executed)!r}, 'w')")
    with pytest.raises(StepError, match="not the ones that were registered"):
        versions.fetch("toy", "champion", tmp_path / "bad")
    assert not executed.exists()


def test_loading_a_served_model_changes_no_file(
    toy_run: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has the same digest afterwards, although Python keeps compiled code elsewhere."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = Path(shutil.copytree(toy_run.folder / "served", tmp_path / "served"))
    versions.drop_traces(folder)
    before = archives.folder_digest(folder)
    pyfunc.load_pyfunc(folder)
    assert archives.folder_digest(folder) == before
    assert not sys.dont_write_bytecode


def test_loading_a_model_by_its_name_does_no_harm(toy_home: PlainRun, tmp_path: Path) -> None:
    """What MLflow and Python leave in the store when a user loads the model there is dropped, not refused."""
    import mlflow

    connection.client()
    mlflow.pyfunc.load_model("models:/toy@champion")
    folder = files_of_the_version()
    assert (folder / "registered_model_meta").exists()
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__/served_model.cpython-311.pyc").write_bytes(b"anything")
    path, _ = versions.fetch("toy", "champion", tmp_path / "copy")
    assert not list(path.rglob("__pycache__"))


def test_a_missing_model_is_an_input_error(tracked_home: Path, tmp_path: Path) -> None:
    """A name or alias that the registry does not know is told in one sentence."""
    from components.core.errors import InputError

    with pytest.raises(InputError, match="no model 'nothing'"):
        versions.fetch("nothing", "champion", tmp_path)


@pytest.mark.slow
def test_it_serves_over_http(toy_run: PlainRun, tmp_path: Path) -> None:
    """MLflow's own scoring server answers base64 text over HTTP as the model answers bytes."""
    path, _ = versions.fetch("toy", "champion", tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(path), "--env-manager", "local"]
    path_of_uvicorn = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [*command, "-p", str(port), "-w", "1"],
        start_new_session=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path_of_uvicorn},
    )
    try:
        examples = Examples(toy_run.folder / "dataset")
        contents = examples.contents(examples.rows("test")[:3])
        text = [[base64.b64encode(content).decode()] for content in contents]
        body = json.dumps({"dataframe_split": {"columns": ["point"], "data": text}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        for _ in range(240):
            try:
                with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
                    answered = json.load(response)["predictions"]
                break
            except urllib.error.URLError:
                time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    direct = pyfunc.load_pyfunc(path).predict(pd.DataFrame({"point": contents}))
    assert [row["label"] for row in answered] == direct["label"].tolist()
