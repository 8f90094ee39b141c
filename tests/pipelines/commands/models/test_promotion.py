"""`thawline models`, `promote` and `rollback`: what they print, what they refuse, and their exit status."""

import json
from pathlib import Path

import pytest

from components.core import run_folder
from components.core.machine import identity
from components.core.registry import ledger, promotion
from components.core.registry import versions as registry
from components.core.storage import home_folder
from components.core.tracking import runs
from components.core.tracking.service import connection
from tests.conftest import copy_home, made_once, use_home
from tests.fakes.toy import write_points
from tests.support.command import TOY, Answer, call, is_one_sentence, loaded, thawline
from tests.support.plain import PlainRun

DECISION = "The challenger was compared with the champion on many test rows that say so."


class Command:
    """The command on a home with a model of four versions: 1 is champion, 2 and 3 were accepted, 4 was not."""

    def __init__(self, run: PlainRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self._capsys, self._patch = run, capsys, monkeypatch
        monkeypatch.setattr(registry, "smoke_test", str)  # its seconds are tested in tests/components

    def __call__(self, *arguments: str) -> Answer:
        return call(self._capsys, self._patch, *arguments)

    def json(self, *arguments: str) -> dict[str, object]:
        answer = self(*arguments, "--json")
        assert answer.status == 0, answer.err
        [line] = answer.out.splitlines()
        found: dict[str, object] = json.loads(line)
        return found


@pytest.fixture(scope="session")
def _four_versions(_toy_run: tuple[Path, PlainRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, run = _toy_run

    def add_three(folder: Path) -> None:
        copy_home(home, folder / "home")
        with pytest.MonkeyPatch.context() as patch:
            use_home(folder / "home", patch)
            for accepted, compared in (("true", "1"), ("true", "2"), ("false", "1")):
                tags = {"thawline.accepted": accepted, "thawline.compared_with": compared, "thawline.accuracy": "0.875"}
                tags["thawline.decision"] = DECISION
                step = runs.StepRun("register", "key", run.settings, "", run.result["mlflow_run_id"])
                registry.add_version("toy", run.folder / "served", step, tags)

    return made_once(tmp_path_factory, "four-versions", add_three) / "home"


@pytest.fixture
def command(
    _toy_run: tuple[Path, PlainRun],
    _four_versions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    copy_home(_four_versions, tmp_path / "home")
    use_home(tmp_path / "home", monkeypatch)
    return Command(_toy_run[1], capsys, monkeypatch)


def words(line: str) -> list[str]:
    return line.split()


# --- models ----------------------------------------------------------------------------------------------------------


def test_the_list_is_a_line_for_each_model(command: Command) -> None:
    """Name, where the aliases point, and how many versions there are."""
    command("promote", "2", "--model", "toy", "--reason", "looked at it")
    answer = command("models")
    assert (answer.status, answer.err) == (0, "")
    head, line = answer.out.splitlines()
    assert words(head) == ["model", "champion", "previous", "challenger", "pending", "versions"]
    assert words(line) == ["toy", "2", "1", "1", "4"]
    [model] = command.json("models")["models"]  # type: ignore[misc]  # a list
    assert model == {"name": "toy", "champion": "2", "previous": "1", "challenger": "1", "pending": "", "versions": 4}


def test_models_of_others_are_left_alone(command: Command, tmp_path: Path) -> None:
    """On a shared server, models that Thawline did not register are neither listed nor given a ledger."""
    connection.client().create_registered_model("it's theirs")
    connection.client().create_model_version("it's theirs", tmp_path.as_uri())
    connection.client().set_registered_model_alias("it's theirs", "champion", "1")
    assert [model["name"] for model in command.json("models")["models"]] == ["toy"]  # type: ignore[index, attr-defined]  # a list
    assert connection.client().get_experiment_by_name("it's theirs") is None


def test_a_model_has_versions_and_a_history(command: Command) -> None:
    """With a name: a line for each version, newest first, and below them who was champion when."""
    command("promote", "2", "--model", "toy", "--reason", "looked at it")
    answer = command("models", "toy")
    versions, history = answer.out.split("\n\n")
    head, *rows = versions.splitlines()
    assert words(head) == ["version", "created", "(UTC)", "aliases", "accepted", "figure", "decision"]
    assert [words(row)[0] for row in rows] == ["4", "3", "2", "1"]
    assert rows[0].split()[3:6] == ["no", "accuracy", "0.875"]
    assert rows[2].split()[3:7] == ["champion", "yes", "accuracy", "0.875"]
    assert rows[2].endswith("The challenger was compared with the …")
    assert "challenger, previous" in rows[3]
    head, *rows = history.splitlines()
    assert words(head) == ["champion", "from", "(UTC)", "until", "action", "who", "why"]
    assert [words(row)[0] for row in rows] == ["2", "1"]
    assert rows[0].endswith(f"promote  {identity.whoami():<{len(command.run.run_key)}}  looked at it")
    assert command.run.run_key in rows[1]


def test_a_model_for_scripts(command: Command) -> None:
    """With --json: what the list says, with whole sentences and the ids of runs."""
    answer = command.json("models", "toy")
    assert (answer["name"], answer["champion"]) == ("toy", "1")
    assert [facts["version"] for facts in answer["versions"]] == ["4", "3", "2", "1"]  # type: ignore[attr-defined]  # a list
    assert answer["versions"][0]["accepted"] is False  # type: ignore[index]  # as above
    [reign] = answer["history"]  # type: ignore[misc]  # as above
    assert set(reign) == {"version", "from", "until", "action", "why", "who", "evidence", "withdrawn", "entry"}
    assert (reign["why"], reign["evidence"]) == (command.run.result["reason"], command.run.result["mlflow_run_id"])
    assert (reign["from"][10], reign["from"][-6:], reign["until"]) == ("T", "+00:00", "")


def test_listing_repairs(command: Command) -> None:
    """What a kill left open is closed, what was moved by hand is recorded, and stderr tells of it."""
    entry = ledger.open_entry("toy", "promote", "1", "2", "why", "me", "run")
    registry.move_alias("toy", "champion", "2")
    answer = command("models")
    assert answer.err == "toy: promotion to version 2 completed: it had been cut off\n"
    assert connection.client().get_run(entry.run_id).info.status == "FINISHED"
    ledger.open_entry("toy", "promote", "2", "3", "why", "me", "run")
    registry.move_alias("toy", "champion", "4")
    assert command("models", "toy").err.splitlines() == [
        "toy: promotion to version 3 closed: It was cut off, and after another move the champion is version 4.",
        "toy: move by hand to version 4 recorded",
    ]
    assert command("models").err == ""


def test_a_promotion_under_way_hides_nothing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody else promotes, the list shows what is, and says so."""
    monkeypatch.setattr(promotion, "PATIENCE", 0.0)
    monkeypatch.setattr(run_folder, "fate", lambda _mark: "lives")
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "process_mark", lambda: "another process")
        ledger.open_entry("toy", "promote", "1", "2", "why", "me", "run")
    for arguments in (("models",), ("models", "toy")):
        answer = command(*arguments)
        assert answer.status == 0
        assert "me is moving the champion of toy to version 2." in answer.err
        assert "toy" in answer.out or "champion" in answer.out


def test_an_empty_home_has_no_models(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to list is no fault, and makes no store; a model that is asked for by name is one."""
    assert call(capsys, monkeypatch, "models").out == "There are no models yet.\n"
    assert json.loads(call(capsys, monkeypatch, "models", "--json").out) == {"models": []}
    for arguments in (["models", "toy"], ["promote", "1", "--model", "toy"], ["rollback", "--model", "toy"]):
        answer = call(capsys, monkeypatch, *arguments)
        assert (answer.status, answer.out) == (2, "")
        assert is_one_sentence(answer)
    assert not home.exists()


# --- promote and roll back -------------------------------------------------------------------------------------------


def test_a_promotion_and_the_way_back(command: Command) -> None:
    """An accepted version becomes champion; a rollback restores the one before; each says it in a line."""
    answer = command("promote", "2", "--model", "toy")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out == "toy version 2 is champion now (before: version 1)\n"
    assert ledger.history("toy")[0]["why"].startswith("Approved: The challenger was compared")
    answer = command("rollback", "--model", "toy", "--reason", "worse in production")
    assert answer.out == "toy version 1 is champion now (before: version 2)\n"
    assert ledger.history("toy")[0]["why"] == "worse in production"
    assert command("promote", "2", "--model", "toy").status == 0  # its evidence is against version 1
    answer = command("rollback", "--model", "toy", "--to", "1")
    assert answer.out == "toy version 1 is champion now (before: version 2)\n"


def test_moves_for_scripts(command: Command) -> None:
    """With --json the entry is one object."""
    answer = command.json("promote", "2", "--model", "toy", "--reason", "good")
    entry = ledger.read("toy")[-1]
    assert answer == {
        "model": "toy",
        "version": "2",
        "moved": True,
        "from": "1",
        "action": "promote",
        "why": "good",
        "who": identity.whoami(),
        "evidence": command.run.result["mlflow_run_id"],
        "withdrawn": "",
        "entry": entry.run_id,
    }
    assert command.json("rollback", "--model", "toy")["action"] == "rollback"


def test_what_is_done_is_done(command: Command) -> None:
    """The champion is promoted again, or rolled back to: status 0, and nothing happens."""
    for arguments in (("promote", "1", "--model", "toy"), ("rollback", "--to", "1", "--model", "toy")):
        assert command(*arguments).out == "toy version 1 was champion already\n"
        assert command.json(*arguments)["moved"] is False
    assert len(ledger.read("toy")) == 1


def test_without_evidence_only_by_override(command: Command) -> None:
    """A version that was not accepted is refused; with --override and a reason it is promoted, and recorded so."""
    answer = command("promote", "4", "--model", "toy", "--reason", "I like it")
    assert answer.status == 2
    assert is_one_sentence(answer)
    assert "no evidence for toy version 4" in answer.err
    assert registry.current("toy", "champion") == "1"
    answer = command("promote", "4", "--model", "toy", "--override")
    assert answer.status == 2
    assert "--override needs a --reason" in answer.err
    answer = command("promote", "4", "--model", "toy", "--override", "--reason", "I like it")
    assert answer.status == 0
    reign = ledger.history("toy")[0]
    assert (reign["version"], reign["action"], reign["why"], reign["evidence"]) == ("4", "override", "I like it", "")


def test_old_evidence_is_none(command: Command) -> None:
    """A version that was accepted against another champion is refused, and both are named."""
    answer = command("promote", "3", "--model", "toy")
    assert answer.status == 2
    assert is_one_sentence(answer)
    assert "toy version 3 was accepted against version 2, but version 1 is champion" in answer.err


def test_a_lost_race_is_status_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody else came first, the command says so and moves nothing."""
    monkeypatch.setattr(
        promotion, "_claim", lambda _entry, _champion: "ann@there was moving the champion to version 3."
    )
    answer = command("promote", "2", "--model", "toy")
    assert (answer.status, answer.out) == (1, "")
    assert is_one_sentence(answer)
    assert "toy version 2 did not become champion. ann@there was moving" in answer.err
    assert registry.current("toy", "champion") == "1"
    _, _, failures = command("models", "toy").out.split("\n\n")
    head, row = failures.splitlines()
    assert words(head) == ["failed", "at", "(UTC)", "action", "who", "reason"]
    assert words(row)[0] == "2"
    assert "ann@there was moving the champion to" in row
    [failure] = command.json("models", "toy")["failures"]  # type: ignore[misc]  # a list
    assert failure["reason"] == "ann@there was moving the champion to version 3."


def test_changed_files_are_status_1(command: Command) -> None:
    """A version whose files are not what was registered is refused."""
    for path in (home_folder.home() / "artifacts").rglob("MLmodel"):
        path.write_bytes(path.read_bytes() + b"\n")
    answer = command("promote", "2", "--model", "toy")
    assert answer.status == 1
    assert is_one_sentence(answer)
    assert "toy version 2 is refused" in answer.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("promote", "9", "--model", "toy"), "toy has no version 9"),
        (("promote", "9", "--model", "toy", "--override", "--reason", "x"), "toy has no version 9"),
        (("promote", "champion", "--model", "toy"), "version"),
        (("promote", "0", "--model", "toy"), "version"),
        (("promote", "2", "--model", "other"), "other"),
        (("promote", "2", "--model", "it's"), "it's"),
        (("promote", "2"), "--model"),
        (("promote", "--model", "toy"), "VERSION"),
        (("rollback", "--model", "toy"), "toy has no earlier champion"),
        (("rollback", "--model", "toy", "--to", "3"), "thawline promote 3 --model toy"),
        (("rollback", "--model", "other"), "other"),
        (("rollback",), "--model"),
        (("models", "other"), "other"),
        (("models", "it's"), "it's"),
    ],
)
def test_nonsense_is_one_sentence(command: Command, arguments: tuple[str, ...], named: str) -> None:
    """A version, model or option that is not there: status 2, one sentence, and nothing moves."""
    answer = command(*arguments)
    assert (answer.status, answer.out) == (2, "")
    assert is_one_sentence(answer)
    assert named.lower() in answer.err.lower()
    assert registry.aliases("toy") == {"champion": "1", "challenger": "1"}


@pytest.mark.parametrize("name", ["models", "promote", "rollback"])
def test_help_shows_examples(
    name: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command shows how it is typed."""
    text = " ".join(call(capsys, monkeypatch, name, "--help").out.split())
    assert f"Examples: thawline {name}" in text


@pytest.mark.slow
def test_torch_is_not_loaded(toy_run: PlainRun) -> None:
    """A list of models does not wait for torch."""
    assert loaded(["models"], ["models", "toy"], libraries=("torch", "kfp", "optuna")) == ([0, 0], [])


@pytest.mark.slow
def test_approval_from_the_run_to_the_champion(tmp_path: Path) -> None:
    """With --promote manual the summary ends with a command; typed as it stands, it makes the version champion."""
    source, home = write_points(tmp_path / "points", per_class=60), tmp_path / "home"
    answer = thawline("run", str(source), *TOY, "--trials", "0", "--promote", "manual", home=home, cwd=tmp_path)
    assert (answer.status, answer.err) == (0, "")
    assert "Registered  toy version 1, waits for approval: thawline promote 1 --model toy\n" in answer.out
    [result] = [json.loads(path.read_text()) for path in (home / "runs").glob("*/result.json")]
    assert (result["promoted"], result["pending"]) == (False, "thawline promote 1 --model toy")
    [waiting] = json.loads(thawline("models", "--json", home=home, cwd=tmp_path).out)["models"]
    assert (waiting["champion"], waiting["pending"]) == ("", "1")
    answer = thawline(*result["pending"].split()[1:], home=home, cwd=tmp_path)
    assert (answer.status, answer.out) == (0, "toy version 1 is champion now (the first)\n"), answer.err
    [model] = json.loads(thawline("models", "--json", home=home, cwd=tmp_path).out)["models"]
    assert (model["champion"], model["pending"], model["previous"]) == ("1", "", "")
