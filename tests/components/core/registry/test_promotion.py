"""Promotions and their ledger: what moves the champion, what goes back, and what a kill leaves."""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.core import run_folder
from components.core.errors import InputError, StepError
from components.core.inference import archives
from components.core.machine import identity
from components.core.registry import ledger, promotion, versions
from components.core.storage import home_folder
from components.core.tracking import queries, runs, tag_names
from components.core.tracking.service import connection
from tests.support import moves
from tests.support.plain import PlainRun

SMOKE_TEST, TRYING_OUT = versions.smoke_test, versions.trying_out


@pytest.fixture
def toy(three_versions: PlainRun) -> PlainRun:
    """A home whose model has three versions; version 1 is champion by a pipeline run."""
    return three_versions


pytestmark = pytest.mark.usefixtures("smoke_tested")


def promote(version: str, **options: str | None) -> ledger.Entry:
    return promotion.promote("toy", version, why="it is better", evidence="run", **options)  # type: ignore[arg-type]  # names of text


def is_settled() -> bool:
    """Whether no entry is open, and the last finished one and `previous` agree with the registry."""
    entries = ledger.read("toy")
    finished = [entry for entry in entries if entry.done]
    champions = ledger.stack(finished)
    below = champions[:-1] if champions[-1:] == [versions.current("toy", "champion")] else champions
    return (
        all(entry.status in ("FINISHED", "FAILED") for entry in entries)
        and finished[-1].to == versions.current("toy", "champion")
        and versions.current("toy", "previous") == (below or [""])[-1]
    )


# --- promote ---------------------------------------------------------------------------------------------------------


def test_a_promotion_moves_the_champion_and_says_so(toy: PlainRun) -> None:
    """The alias moves, the former champion is `previous`, and a run in the model's experiment tells all of it."""
    entry = promote("2")
    assert entry.done
    assert versions.aliases("toy") == {"champion": "2", "previous": "1", "challenger": "1"}
    run = connection.client().get_run(entry.run_id)
    assert run.info.experiment_id == connection.client().get_experiment_by_name("toy").experiment_id
    assert run.info.status == "FINISHED"
    facts = {
        "kind": "promotion",
        "model": "toy",
        "action": "promote",
        "from": "1",
        "to": "2",
        "why": "it is better",
        "who": identity.whoami(),
        "evidence": "run",
    }
    assert facts.items() <= {name.removeprefix("thawline."): text for name, text in run.data.tags.items()}.items()
    assert is_settled()


def test_the_first_champion_came_by_its_pipeline_run(toy: PlainRun) -> None:
    """The step register writes to the same ledger: its run key is who, the pipeline's run is the evidence."""
    [entry] = ledger.read("toy")
    assert (entry.action, entry.origin, entry.to, entry.status) == ("promote", "", "1", "FINISHED")
    assert entry.who == toy.run_key
    assert entry.evidence == toy.result["mlflow_run_id"]
    assert entry.why == toy.result["reason"]
    assert "previous" not in versions.aliases("toy")


def test_promoting_the_champion_does_nothing(toy: PlainRun) -> None:
    """A second call finds its work done, and adds no entry."""
    first = promote("2")
    assert promote("2") == first
    assert promote("2", expected="1") == first  # a retry of what had compared with version 1
    assert len(ledger.read("toy")) == 2


@pytest.mark.parametrize("expected", ["3", ""])
def test_a_champion_that_is_not_the_expected_one_stays(toy: PlainRun, expected: str) -> None:
    """Compare and swap: the entry ends FAILED and names both versions; no alias moves."""
    before = versions.aliases("toy")
    entry = promote("2", expected=expected)
    assert not entry.done
    missing = f"version {expected}" if expected else "no version"
    assert entry.reason == f"The champion is version 1, no longer {missing}."
    assert ledger.read("toy")[-1] == entry
    assert connection.client().get_run(entry.run_id).data.tags["thawline.reason"] == entry.reason
    assert versions.aliases("toy") == before


def test_an_override_has_no_evidence(toy: PlainRun) -> None:
    """What is promoted without evidence says so for ever."""
    promotion.promote("toy", "2", why="the meeting said so", override=True)
    entry = ledger.read("toy")[-1]
    assert (entry.action, entry.evidence, entry.why) == ("override", "", "the meeting said so")


def test_changed_files_are_never_promoted(toy: PlainRun) -> None:
    """A version whose files are not the registered ones is refused before anything is written."""
    for file in (home_folder.home() / "artifacts").rglob("MLmodel"):
        file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(StepError, match="toy version 3 is refused: its files are not the ones that were registered"):
        promote("3")
    assert versions.current("toy", "champion") == "1"
    assert len(ledger.read("toy")) == 1


@pytest.mark.slow
def test_a_version_is_tried_out_unless_it_just_answered(
    toy: PlainRun, smoke_tested: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every version answers in a clean process first; only files that the caller saw answering are not even fetched."""
    digest = archives.folder_digest(toy.folder / "served")
    with monkeypatch.context() as away:
        away.setattr(versions, "fetch", lambda *_: pytest.fail("they were downloaded again"))
        promote("2", answered=digest)
    assert smoke_tested == []
    promote("3", answered="0" * 64)
    assert len(smoke_tested) == 1
    promotion.rollback("toy")
    assert len(smoke_tested) == 2


@pytest.mark.slow
def test_a_version_that_does_not_answer_is_never_promoted(
    toy: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that breaks in a clean process moves no alias, neither forward nor back."""
    monkeypatch.setattr(versions, "smoke_test", SMOKE_TEST)
    monkeypatch.setattr(versions, "trying_out", TRYING_OUT)
    served = tmp_path / "served"
    shutil.copytree(toy.folder / "served", served)
    (served / "artifacts/served/serving_code.py").write_text("raise RuntimeError('broken code')")
    versions.add_version("toy", served, runs.StepRun("register", "key", toy.settings, "", ""), {})
    with pytest.raises(StepError, match="broken code"):
        promote("4")
    assert versions.current("toy", "champion") == "1"
    assert len(ledger.read("toy")) == 1
    connection.client().set_registered_model_alias("toy", "champion", "4")  # by hand, and away again
    assert promote("2").done
    with pytest.raises(StepError, match="broken code"):
        promotion.rollback("toy")
    assert versions.current("toy", "champion") == "2"


def test_a_missing_version_is_an_input_error(toy: PlainRun) -> None:
    """A version that the registry does not have is told in one sentence, and so is a model."""
    with pytest.raises(InputError, match="toy has no version 9"):
        promote("9")
    for call in (promotion.rollback, promotion.settle):
        with pytest.raises(InputError, match="no model 'nobody'"):
            call("nobody")
    assert connection.client().get_experiment_by_name("nobody") is None


def test_the_ledger_is_where_everybody_looks(toy: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubeflow may bring another experiment for a step's runs; the ledger stays in the model's own."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", connection.own_experiment("shared"))
    promote("2")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    assert ledger.read("toy")[-1].to == "2"


def test_later_entries_have_later_times(toy: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is behind writes behind the last entry all the same."""
    monkeypatch.setattr("time.time", lambda: 0.0)
    promote("2")
    assert [row["version"] for row in ledger.history("toy")] == ["2", "1"]
    assert is_settled()


def test_a_sentence_is_one_line(toy: PlainRun) -> None:
    """Why is kept as one line that MLflow takes, however it was typed."""
    promotion.promote("toy", "2", why="  two\nlines " + "x" * 9000, override=True)
    why = ledger.read("toy")[-1].why
    assert why.startswith("two lines x")
    assert len(why) == tag_names.TAG_LENGTH


def test_an_error_between_two_writes_is_repaired_at_once(toy: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the registry fails after the alias moved, the promotion is completed if it can be; the error is told."""
    real, calls = versions.move_alias, []

    def broken(model: str, alias: str, version: str) -> None:
        calls.append(alias)
        if calls == ["champion", "previous"]:
            raise OSError("the line is dead")
        real(model, alias, version)

    monkeypatch.setattr(versions, "move_alias", broken)
    with pytest.raises(OSError, match="the line is dead"):
        promote("2")
    assert versions.aliases("toy") == {"champion": "2", "previous": "1", "challenger": "1"}
    assert is_settled()


# --- roll back -------------------------------------------------------------------------------------------------------


def digest_of_the_champion(folder: Path) -> str:
    path, _ = versions.fetch("toy", "champion", folder)
    return archives.folder_digest(path)


def test_rollbacks_go_back_one_by_one(toy: PlainRun, tmp_path: Path) -> None:
    """Of 1 → 2 → 3, a rollback restores 2, the next 1, and then there is none; the bytes are those of then."""
    digests = [digest_of_the_champion(tmp_path / "1")]
    for version in ("2", "3"):
        promote(version)
        digests.append(digest_of_the_champion(tmp_path / version))
    seen = []
    for number in range(2):
        entry = promotion.rollback("toy", why="worse in production")
        assert digest_of_the_champion(tmp_path / f"back{number}") == digests[1 - number]
        assert is_settled()
        seen.append((entry.action, entry.origin, entry.to, versions.current("toy", "previous")))
    assert seen == [("rollback", "3", "2", "1"), ("rollback", "2", "1", "")]
    with pytest.raises(InputError, match="no earlier champion"):
        promotion.rollback("toy")
    assert [row["version"] for row in ledger.history("toy")] == ["1", "2", "3", "2", "1"]


def test_what_was_rolled_back_is_withdrawn_until_it_is_promoted_again(toy: PlainRun) -> None:
    """Only the version that somebody went back from; a promotion by hand takes that back."""
    promote("2")
    assert not promotion.was_rolled_back("toy", "2")
    promotion.rollback("toy")
    assert [promotion.was_rolled_back("toy", version) for version in ("1", "2", "3")] == [False, True, False]
    promote("2")
    assert not promotion.was_rolled_back("toy", "2")


def test_a_rollback_takes_over_the_evidence(toy: PlainRun) -> None:
    """What once allowed a champion allows it again."""
    promote("2")
    assert promotion.rollback("toy").evidence == toy.result["mlflow_run_id"]


def test_a_rollback_to_a_version(toy: PlainRun) -> None:
    """Any version that was champion can be named: one further back, and one that was rolled back from."""
    promote("2")
    promote("3")
    assert promotion.rollback("toy", "1").done
    assert versions.aliases("toy") == {"champion": "1", "challenger": "1"}
    assert promotion.rollback("toy", "3").done
    assert versions.aliases("toy") == {"champion": "3", "previous": "1", "challenger": "1"}
    assert promotion.rollback("toy").to == "1"


@pytest.mark.slow
def test_a_rollback_to_the_champion_does_nothing(toy: PlainRun) -> None:
    """A second call finds its work done."""
    promote("2")
    first = promotion.rollback("toy", "1")
    assert promotion.rollback("toy", "1") == first


def test_what_never_was_champion_is_promoted_instead(toy: PlainRun) -> None:
    """A rollback leads back only; the error names the command that leads on."""
    promote("2")
    with pytest.raises(InputError, match="toy version 3 was never champion") as error:
        promotion.rollback("toy", "3")
    assert "thawline promote 3 --model toy" in error.value.hint
    promote("3", expected="1")  # refused, so it is still no champion of the past
    with pytest.raises(InputError, match="was never champion"):
        promotion.rollback("toy", "3")


def test_a_rollback_to_changed_files_is_refused(toy: PlainRun) -> None:
    """The former champion's files are checked as any other's: the current one stays."""
    [first] = [p for p in (home_folder.home() / "artifacts").rglob("MLmodel") if (p.parent / "checkpoint").exists()]
    promote("2")
    first.write_bytes(first.read_bytes() + b"\n")
    with pytest.raises(StepError, match="toy version 1 is refused"):
        promotion.rollback("toy")
    assert versions.current("toy", "champion") == "2"
    assert is_settled()


def test_a_deleted_version_is_no_previous(toy: PlainRun) -> None:
    """A former champion that was deleted can't come back; the error names it, and `previous` does not point to it."""
    promote("2")
    connection.client().delete_model_version("toy", "1")
    promote("3")
    promotion.rollback("toy")
    assert "previous" not in versions.aliases("toy")
    with pytest.raises(InputError, match="toy has no version 1"):
        promotion.rollback("toy")


@pytest.mark.parametrize(
    ("moved", "champions"),
    [
        ([], []),
        (["promote 1", "promote 2", "promote 3"], ["1", "2", "3"]),
        (["promote 1", "promote 2", "rollback 1", "promote 3"], ["1", "3"]),
        (["promote 1", "promote 2", "promote 1", "promote 3", "rollback 1"], ["1", "2", "1"]),
        (["promote 1", "promote 2", "promote 1", "rollback 2"], ["1", "2"]),
        (["promote 1", "promote 2", "rollback 1", "rollback 2"], ["1", "2"]),
        (["found 1", "override 2", "found 1"], ["1", "2", "1"]),
        (["promote 1", "promote 2", "found ", "promote 2"], ["1", "2"]),
        (["promote 1", "promote 2", "found ", "rollback 1"], ["1"]),
    ],
)
def test_a_promotion_pushes_and_a_rollback_pops(moved: list[str], champions: list[str]) -> None:
    """The champions that a rollback goes through, for any history."""
    blank = ledger.Entry("", "toy", "", "", "", "", "", "", 0, "")
    entries = [replace(blank, action=action, to=to) for action, _, to in (move.partition(" ") for move in moved)]
    assert ledger.stack(entries) == champions


# --- history, and what was moved by hand -----------------------------------------------------------------------------


def test_the_history_tells_who_was_champion_when(toy: PlainRun) -> None:
    """Newest first, each reign ends where the next begins, and refused moves are not among them."""
    promote("2")
    promote("3", expected="1")
    promotion.rollback("toy", why="too slow", who="ann@office")
    last, middle, first = ledger.history("toy")
    assert (last["version"], last["until"], last["action"]) == ("1", "", "rollback")
    assert (last["why"], last["who"]) == ("too slow", "ann@office")
    assert (middle["version"], middle["from"], middle["until"]) == ("2", first["until"], last["from"])
    assert first["version"] == "1"
    assert first["from"] <= middle["from"] <= last["from"]


def test_an_alias_moved_by_hand_is_recorded(toy: PlainRun) -> None:
    """A champion that was moved on the tracking page enters the history with the next call, and can be undone."""
    connection.client().set_registered_model_alias("toy", "champion", "3")
    [found] = promotion.settle("toy")
    assert (found.action, found.origin, found.to, found.who, found.evidence) == ("found", "1", "3", "unknown", "")
    assert versions.current("toy", "previous") == "1"
    assert promotion.settle("toy") == []
    assert promotion.rollback("toy").to == "1"


def test_a_promotion_comes_after_what_was_moved_by_hand(toy: PlainRun) -> None:
    """The expected version is compared with the champion of now, not with the ledger's last."""
    connection.client().set_registered_model_alias("toy", "champion", "3")
    assert not promote("2", expected="1").done
    assert promote("2", expected="3").done
    assert [row["action"] for row in ledger.history("toy")] == ["promote", "found", "promote"]


def test_a_champion_that_was_removed_by_hand_can_come_back(toy: PlainRun) -> None:
    """Without the alias nobody is champion; the history has a gap there, and a rollback restores the last one."""
    promote("2")
    connection.client().delete_registered_model_alias("toy", "champion")
    promotion.settle("toy")
    assert is_settled()
    assert [row["version"] for row in ledger.history("toy")] == ["2", "1"]
    assert ledger.history("toy")[0]["until"]
    entry = promotion.rollback("toy")
    assert (entry.origin, entry.to) == ("", "2")
    assert versions.current("toy", "previous") == "1"


def test_a_champion_older_than_the_ledger_is_found(toy: PlainRun) -> None:
    """A registry that was there before the ledger begins its history with what is champion."""
    for run in queries.find_runs("toy", "", "promotion"):
        connection.client().delete_run(run.info.run_id)
    promote("2")
    assert [(row["version"], row["action"]) for row in ledger.history("toy")] == [("2", "promote"), ("1", "found")]


# --- kills -----------------------------------------------------------------------------------------------------------


def prepare(move: str) -> None:
    """The state before a move: version 2 or 3 waits for approval, or 2 was promoted before 3, or 3 moved to by hand."""
    if move == "promote":
        assert promotion.propose("toy", "2", "1")
    elif move == "replace":
        waits("3", "1")
    elif move == "rollback":
        promote("2")
        promote("3")
    elif move == "settle":
        connection.client().set_registered_model_alias("toy", "champion", "3")


def kill(move: str, write: int) -> None:
    child = moves.process(moves.killed, move, write)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


# promote: entry, champion, previous, the tag and the alias of what waited, the end of the entry
# replace: before that tag the word that it is withdrawn
WRITES = {"promote": 6, "replace": 7, "rollback": 4, "settle": 3, "refused": 3}
QUICK = {("promote", 3)}  # after the alias
POINTS = [
    pytest.param(move, write, marks=[] if (move, write) in QUICK else pytest.mark.slow)
    for move, last in WRITES.items()
    for write in range(1, last + 1)
]


@pytest.mark.parametrize(("move", "write"), POINTS)
def test_a_kill_at_any_write_is_repaired_by_the_next_call(toy: PlainRun, move: str, write: int) -> None:
    """What was killed once the alias had moved is completed; what was killed before is closed as FAILED."""
    prepare(move)
    before, entries = versions.current("toy", "champion"), len(ledger.read("toy"))
    kill(move, write)
    moved = versions.current("toy", "champion") != before
    promotion.settle("toy")
    assert is_settled()
    after = ledger.read("toy")
    assert len(after) == entries + (0 if write == 1 and move != "settle" else 1)  # the first write opens the entry
    if move in ("promote", "replace", "rollback"):
        assert moved == (write > 2)
        assert versions.current("toy", "champion") == (before if not moved else "2")
        if write > 1:
            assert after[-1].status == ("FINISHED" if moved else "FAILED")
            assert after[-1].reason == ("" if moved else "It was cut off before it moved anything.")
    if move == "promote":
        assert (versions.current("toy", "pending") == "") == moved
        assert (tag_names.PENDING in connection.client().get_model_version("toy", "2").tags) == (not moved)
    if move == "replace":
        assert (versions.current("toy", "pending") == "") == moved
        assert [entry.withdrawn for entry in after[1:]] == ([] if write == 1 else ["3" if moved else ""])
    if move == "refused":
        assert versions.current("toy", "champion") == "1"
    assert promotion.settle("toy") == []


@pytest.mark.slow
@pytest.mark.parametrize("move", WRITES)
def test_these_are_all_writes(toy: PlainRun, move: str) -> None:
    """A move that is to be killed one write later comes to its end: no kill point is left out above."""
    prepare(move)
    child = moves.process(moves.killed, move, WRITES[move] + 1)
    child.join(120)
    assert child.exitcode == 0


@pytest.mark.parametrize("write", [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(6, marks=pytest.mark.slow)])
def test_the_same_promotion_again_repairs_it(toy: PlainRun, write: int) -> None:
    """A promotion that was killed anywhere is done after the same call again, and done once."""
    prepare("promote")
    kill("promote", write)
    assert promote("2", expected="1").done
    assert versions.aliases("toy") == {"champion": "2", "previous": "1", "challenger": "1"}
    assert [row["version"] for row in ledger.history("toy")] == ["2", "1"]
    assert is_settled()


@pytest.mark.parametrize("write", [2, 3, 4])
@pytest.mark.slow
def test_the_same_rollback_again_goes_back_once(toy: PlainRun, write: int) -> None:
    """A rollback that was killed anywhere is done after the same call again, and does not go back twice."""
    prepare("rollback")
    kill("rollback", write)
    assert promotion.rollback("toy").to == "2"
    assert versions.aliases("toy") == {"champion": "2", "previous": "1", "challenger": "1"}
    assert is_settled()


def test_another_promotion_repairs_it(toy: PlainRun) -> None:
    """The next promotion completes the one that was killed before it begins: `previous` is what it left."""
    kill("promote", 3)
    assert promote("3").done
    assert versions.aliases("toy") == {"champion": "3", "previous": "2", "challenger": "1"}
    assert [row["version"] for row in ledger.history("toy")] == ["3", "2", "1"]


@pytest.mark.slow
def test_a_repair_that_is_killed_is_repaired(toy: PlainRun) -> None:
    """Completing is safe to be cut off, too."""
    kill("promote", 3)
    kill("settle", 1)  # `previous`
    kill("settle", 2)  # the entry's end
    promotion.settle("toy")
    assert is_settled()
    assert [row["version"] for row in ledger.history("toy")] == ["2", "1"]


def test_a_cut_off_entry_does_not_hide_a_hand(toy: PlainRun) -> None:
    """Where the champion is a third version, the open entry fails and the third one is recorded as found."""
    kill("promote", 2)
    connection.client().set_registered_model_alias("toy", "champion", "3")
    failed, found = promotion.settle("toy")
    assert (failed.status, failed.reason) == (
        "FAILED",
        "It was cut off, and after another move the champion is version 3.",
    )
    assert (found.origin, found.to) == ("1", "3")
    assert is_settled()


# --- several at once -------------------------------------------------------------------------------------------------


def race(homes: list[Path], expected: str | None) -> dict[str, tuple[bool, str]]:
    """Promote version 2 from the first home and version 3 from the second at the same moment."""
    context = multiprocessing.get_context("forkserver")
    barrier, results = context.Barrier(2), context.SimpleQueue()
    children = [
        moves.process(moves.at_once, str(home), version, expected, barrier, results)
        for home, version in zip(homes, ("2", "3"), strict=True)
    ]
    found = {}
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    for _ in children:
        version, done, reason = results.get()
        found[version] = (done, reason)
    return found


def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two homes on one server (here: its database), which share no lock."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home_folder.home() / 'mlflow.db'}")
    return [tmp_path / "one", tmp_path / "two"]


def test_of_two_in_one_home_one_is_promoted(toy: PlainRun) -> None:
    """Of two processes whose evidence is against the same champion one moves it; the other is told no."""
    found = race([home_folder.home()] * 2, "1")
    assert sorted(done for done, _ in found.values()) == [False, True]
    [winner] = [version for version, (done, _) in found.items() if done]
    assert (
        next(reason for done, reason in found.values() if not done)
        == f"The champion is version {winner}, no longer version 1."
    )
    assert versions.aliases("toy") == {"champion": winner, "previous": "1", "challenger": "1"}
    assert is_settled()


def test_two_in_one_home_without_a_condition_follow_each_other(toy: PlainRun) -> None:
    """Nobody expects anything: both become champion, one after the other."""
    found = race([home_folder.home()] * 2, None)
    assert all(done for done, _ in found.values())
    last, middle, _ = ledger.history("toy")
    assert versions.aliases("toy") == {"champion": last["version"], "previous": middle["version"], "challenger": "1"}
    assert is_settled()


@pytest.mark.parametrize("expected", ["1", pytest.param(None, marks=pytest.mark.slow)])
def test_of_two_machines_on_one_server_each_state_is_consistent(
    toy: PlainRun, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a common lock, at most one replaces version 1, and the ledger agrees with the aliases."""
    found = race(shared(tmp_path, monkeypatch), expected)
    reigns = ledger.history("toy")
    assert {row["version"] for row in reigns} == {"1", *(version for version, (done, _) in found.items() if done)}
    assert len([entry for entry in ledger.read("toy") if entry.done and entry.origin == "1"]) <= 1
    assert all(done or reason for done, reason in found.values())
    assert is_settled()


def elsewhere(mark: str) -> str:
    """The mark of a process of another machine."""
    return f"other-boot/{mark.partition('/')[2]}"


def someone(to: str, monkeypatch: pytest.MonkeyPatch, *, mark: Callable[[str], str] = elsewhere) -> ledger.Entry:
    """An entry that somebody on another machine opened, and did not close yet."""
    real = run_folder.process_mark
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "process_mark", lambda: mark(real()))
        return ledger.open_entry("toy", "promote", "1", to, "theirs", "bob@elsewhere", "run")


def test_an_older_open_entry_comes_first(toy: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two entries that are open at once the younger one fails, and names who came first."""
    someone("3", monkeypatch)
    entry = ledger.open_entry("toy", "promote", "1", "2", "ours", "ann@here", "run")
    assert promotion._claim(entry, "1") == "bob@elsewhere was moving the champion to version 3 at the same time."


def test_the_oldest_waits_for_younger_ones(toy: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A younger entry may have passed before the older one was written: the older waits, and then compares."""
    entry = ledger.open_entry("toy", "promote", "1", "2", "ours", "ann@here", "run")
    theirs = someone("3", monkeypatch)
    looks: list[float] = []

    def look(seconds: float) -> None:  # while we wait, they go on
        looks.append(seconds)
        versions.move_alias("toy", "champion", "3")
        connection.client().set_terminated(theirs.run_id, "FINISHED")

    monkeypatch.setattr("time.sleep", look)
    assert promotion._claim(entry, "1") == "The champion was moved to version 3 in the meantime."
    assert len(looks) == 1


def test_an_entry_that_others_closed_moves_nothing(toy: PlainRun) -> None:
    """Who was taken for cut off, for instance after its machine slept, finds its entry closed and gives up."""
    entry = ledger.open_entry("toy", "promote", "1", "2", "ours", "ann@here", "run")
    ledger.fail(entry, "It was cut off before it moved anything.")
    assert promotion._claim(entry, "1") == "Another process treated it as cut off."


def test_an_open_entry_of_another_machine_is_waited_for(toy: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether another machine's process lives can't be seen: it gets its time, then its entry is repaired."""
    theirs = someone("3", monkeypatch)
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, monotonic=lambda: sum(waits), time=time.time)
    monkeypatch.setattr(promotion, "time", clock)
    monkeypatch.setattr(promotion, "PATIENCE", 1.0)
    assert promote("2").done
    assert waits
    [failed] = [entry for entry in ledger.read("toy") if entry.run_id == theirs.run_id]
    assert failed.reason == "It was cut off before it moved anything."
    assert is_settled()


def test_a_promotion_that_goes_on_is_not_repaired(
    toy: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The open entry of a process that lives is left to it: the call ends with a sentence, not with a repair."""
    child = moves.process(moves.opened, "3", str(tmp_path))
    while not (tmp_path / "opened").exists():
        assert child.is_alive()
        time.sleep(0.05)
    monkeypatch.setattr(promotion, "PATIENCE", 0.0)
    with pytest.raises(StepError, match="somebody is moving the champion of toy to version 3"):
        promote("2")
    assert ledger.read("toy")[-1].status == "RUNNING"
    (tmp_path / "end").touch()
    child.join(60)
    assert promote("2").done  # now its process is gone
    assert is_settled()


@pytest.mark.slow
def test_several_homes_on_a_server_agree(toy: PlainRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real MLflow server, over HTTP, promotions and rollbacks that race leave one consistent history."""
    with server(home_folder.home()) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        homes = [tmp_path / "one", tmp_path / "two"]
        for expected in ("1", None):
            found = race(homes, expected)
            assert all(done or reason for done, reason in found.values())
            assert is_settled()
            if versions.current("toy", "champion") != "1":
                promotion.rollback("toy", "1")
            assert is_settled()
        assert ledger.history("toy")[-1]["version"] == "1"


@contextmanager
def server(home: Path) -> Iterator[str]:
    """An MLflow server over a home's store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "2", "--no-serve-artifacts"]
    command += ["--default-artifact-root", (home / "artifacts").as_uri()]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=10):  # noqa: S310 - as above
                    break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# --- what waits for approval -----------------------------------------------------------------------------------------


def test_a_pending_version_waits(toy: PlainRun) -> None:
    """It has the alias and a tag, the champion stays, and nothing is in the ledger yet."""
    assert promotion.propose("toy", "2", "1")
    assert versions.aliases("toy") == {"champion": "1", "challenger": "1", "pending": "2"}
    assert connection.client().get_model_version("toy", "2").tags[tag_names.PENDING] == "true"
    assert len(ledger.read("toy")) == 1


def test_a_later_one_takes_its_place(toy: PlainRun) -> None:
    """One version waits at a time."""
    promotion.propose("toy", "2", "1")
    assert promotion.propose("toy", "3", "1")
    assert versions.current("toy", "pending") == "3"
    assert tag_names.PENDING not in connection.client().get_model_version("toy", "2").tags


def waits(version: str, against: str) -> None:
    """Let a version wait that was accepted against this champion."""
    connection.client().set_model_version_tag("toy", version, "thawline.compared_with", against)
    assert promotion.propose("toy", version, against)


def test_what_is_promoted_waits_no_longer(toy: PlainRun) -> None:
    """Promoting the pending version takes alias and tag away; nothing is withdrawn."""
    waits("2", "1")
    assert promote("2").withdrawn == ""
    assert "pending" not in versions.aliases("toy")
    assert tag_names.PENDING not in connection.client().get_model_version("toy", "2").tags


BY_HAND: dict[str, Callable[[], ledger.Entry]] = {
    "promote": lambda: promote("3"),
    "rollback": lambda: promotion.rollback("toy", "1"),
    "found": lambda: (
        connection.client().set_registered_model_alias("toy", "champion", "3"),
        promotion.settle("toy")[-1],
    )[-1],
    "removed": lambda: (
        connection.client().delete_registered_model_alias("toy", "champion"),
        promotion.settle("toy")[-1],
    )[-1],
}


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[] if way == "rollback" else pytest.mark.slow) for way in BY_HAND]
)
def test_what_waits_is_withdrawn_when_another_version_becomes_champion(toy: PlainRun, way: str) -> None:
    """Its evidence is against the champion before; the entry of the move says so, and it can be approved no more."""
    if way == "rollback":
        promote("2")
    waits("3" if way == "rollback" else "2", before := versions.current("toy", "champion"))
    waiting = versions.current("toy", "pending")
    entry = BY_HAND[way]()
    assert (entry.done, entry.origin, entry.withdrawn) == (True, before, waiting)
    assert ledger.read("toy")[-1] == entry
    assert ledger.history("toy")[0]["withdrawn"] == waiting or way == "removed"
    assert "pending" not in versions.aliases("toy")
    assert tag_names.PENDING not in connection.client().get_model_version("toy", waiting).tags
    with pytest.raises(InputError, match="is champion now"):
        promotion.evidence_for("toy", waiting)


def test_what_was_judged_against_the_new_champion_goes_on_waiting(toy: PlainRun) -> None:
    """A rollback to the version that it was compared with makes its evidence good; so it does where nobody knows."""
    promote("2")
    versions.move_alias("toy", "pending", "3")
    connection.client().set_model_version_tag("toy", "3", "thawline.compared_with", "1")
    assert promotion.rollback("toy").withdrawn == ""
    assert versions.current("toy", "pending") == "3"
    connection.client().delete_model_version_tag("toy", "3", "thawline.compared_with")
    assert promote("2").withdrawn == ""
    assert versions.current("toy", "pending") == "3"


def test_nothing_waits_if_another_machine_promotes_meanwhile(toy: PlainRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that shares no lock may move the champion between our look and our write: we look again."""
    client = type(connection.client())
    real = client.set_model_version_tag

    def late(self: object, *arguments: str) -> None:
        real(self, *arguments)
        monkeypatch.setattr(client, "set_model_version_tag", real)
        connection.client().set_registered_model_alias("toy", "champion", "3")

    monkeypatch.setattr(client, "set_model_version_tag", late)
    assert not promotion.propose("toy", "2", "1")
    assert "pending" not in versions.aliases("toy")


def test_nothing_waits_with_old_evidence(toy: PlainRun) -> None:
    """Compare and swap here, too: evidence against another champion allows nothing."""
    assert not promotion.propose("toy", "2", "3")
    assert "pending" not in versions.aliases("toy")


# --- evidence --------------------------------------------------------------------------------------------------------


def test_the_evidence_of_a_version(toy: PlainRun) -> None:
    """The pipeline's run, the champion it is against, and the decision as a sentence."""
    versions.move_alias("toy", "champion", "")
    found = promotion.evidence_for("toy", "1")
    assert found == (toy.result["mlflow_run_id"], "", toy.result["reason"])


@pytest.mark.parametrize("tags", [{}, {"thawline.accepted": "false"}])
def test_without_an_acceptance_there_is_no_evidence(toy: PlainRun, tags: dict[str, str]) -> None:
    """A version that lost, or that no evaluation saw, is not promoted without --override."""
    run = runs.StepRun("register", "key", toy.settings, "", "")
    version = versions.add_version("toy", toy.folder / "served", run, tags)
    with pytest.raises(InputError, match=f"no evidence for toy version {version}") as error:
        promotion.evidence_for("toy", version)
    assert "--override" in error.value.hint


def test_evidence_against_a_former_champion_is_none(toy: PlainRun) -> None:
    """What was accepted against another champion than today's proves nothing against this one."""
    promote("2")
    with pytest.raises(InputError, match="accepted as the first one, but version 2 is champion now"):
        promotion.evidence_for("toy", "1")


def test_a_model_without_a_champion_has_no_history(tracked_home: Path) -> None:
    """Where no version was ever accepted, the history is empty."""
    assert ledger.history("nobody") == []
