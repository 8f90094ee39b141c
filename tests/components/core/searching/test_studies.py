"""Studies on a real Postgres: one lock, one total, heartbeats, and one sentence for what goes wrong."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import psycopg
import pytest
from sqlalchemy import Engine, event, exc

from components.core.data.dataset_info import DatasetInfo
from components.core.errors import InputError
from components.core.searching import studies
from components.core.searching.studies import DONE, open_study
from components.core.searching.trials import work
from components.core.settings import Settings
from components.core.storage import outages
from components.core.tracking import queries
from components.search import search, study_name
from components.select_trial import select_trial
from tests.conftest import TOY
from tests.support import forks

if TYPE_CHECKING:
    from tests.services.servers import Postgres

pytest_plugins = ["tests.services.servers"]
needs_server = pytest.mark.slow  # it needs seconds to start


@pytest.fixture
def storage(postgres: "Postgres", home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database for studies."""
    url = postgres.create("studies")
    monkeypatch.setenv("THAWLINE_STUDY_STORAGE", url)
    monkeypatch.setenv("THAWLINE_STUDY_HEARTBEAT", "1")
    yield url
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


def trials_of(name: str) -> list[optuna.trial.FrozenTrial]:
    return open_study(name).get_trials(deepcopy=False)


def wait_until(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@needs_server
def test_four_workers_and_a_killed_one(storage: str, toy_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four processes one is killed in the middle of a trial: the total holds, its trial is run again."""
    settings = Settings(**TOY | {"head_epochs": 40}, patience=40, trials=10, thaw_epochs=2)
    name = study_name(settings, DatasetInfo.read(toy_dataset))
    studies.begin(open_study(name), settings.defaults().model_dump(include={"dropout", "weight_decay"}))
    context = forks.context()
    arguments = [(name, str(toy_dataset), settings.to_json(), 3, 1, f"step {i}") for i in range(4)]
    workers = [context.Process(target=work, args=a, daemon=True) for a in arguments]
    for worker in workers:
        worker.start()

    def under_way() -> list[optuna.trial.FrozenTrial]:
        return [t for t in trials_of(name) if t.state.name == "RUNNING" and t.intermediate_values]

    wait_until(under_way)
    victim = under_way()[0]
    number = int(victim.user_attrs["step"].removeprefix("step "))
    os.kill(workers[number].pid or 0, signal.SIGKILL)
    for worker in workers:
        worker.join(180)
    assert [worker.exitcode for worker in workers].count(0) == 3
    trials = trials_of(name)
    states = [t.state.name for t in trials]
    assert sum(state in DONE for state in states) == 10
    assert states.count("FAIL") == 1
    assert trials[victim.number].state.name == "FAIL"
    [again] = [t for t in trials if t.system_attrs.get("failed_trial") == victim.number]
    assert (again.params, again.state.name in DONE) == (victim.params, True)
    best = min((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: t.value or 0)
    assert open_study(name).best_trial.number == best.number
    assert len({t.user_attrs["step"] for t in trials}) > 1


@needs_server
def test_steps_in_different_homes_share_a_study(
    storage: str, toy_dataset: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second step with an empty home sees what the first did: it runs what is left, logs its own, and chooses."""
    from tests.conftest import copy_store

    copy_store(store, tmp_path / "home")
    for total, logged in ((2, 2), (4, 2)):
        settings = Settings(**TOY, trials=total, search_workers=1)
        name = search(settings.to_json(), f"run {total} {logged}", toy_dataset, 0)
        assert sum(t.state.name in DONE for t in trials_of(name)) == total
        assert len(queries.find_runs("toy", f"run {total} {logged}", "trial")) == logged
    assert not (tmp_path / "home/studies").exists()
    chosen = select_trial(settings.to_json(), "run", [name, name], toy_dataset, tmp_path / "trials.json")
    best = open_study(name).best_trial
    assert Settings(**TOY).defaults().model_validate_json(chosen).model_dump() == best.user_attrs["hyperparameters"]
    assert "password" not in str(queries.find_runs("toy", ""))
    assert storage.partition("@")[0] not in str(queries.find_runs("toy", ""))


@needs_server
def test_a_connection_that_breaks_within_a_query_is_made_anew(
    storage: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole query is asked again: a part of it would ask the session whose connection is gone, in vain."""
    monkeypatch.setenv("THAWLINE_OUTAGE_SECONDS", "5")
    study, broken = open_study("s"), list[int]()
    trial = studies.take(study, 1, 0)
    assert isinstance(trial, optuna.Trial)

    def broke(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not broken and "trial_user_attributes" in statement:
            broken.append(connection.connection.driver_connection.info.backend_pid)
            with psycopg.connect(storage, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (broken[0],))

    event.listen(Engine, "before_cursor_execute", broke)
    try:
        with outages.waited_out(str):
            trial.set_user_attr("chosen", 1)
    finally:
        event.remove(Engine, "before_cursor_execute", broke)
    assert broken
    assert trials_of("s")[0].user_attrs == {"chosen": 1}


@needs_server
def test_a_restarted_database_ends_no_search(
    storage: str, postgres: "Postgres", toy_dataset: Path, tracked_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes away for two seconds while a trial runs: the search says so, and ends with all of its trials."""
    monkeypatch.setenv("THAWLINE_OUTAGE_SECONDS", "60")
    settings = Settings(**TOY | {"head_epochs": 40}, patience=40, trials=4, search_workers=1)
    name = study_name(settings, DatasetInfo.read(toy_dataset))
    open_study(name)

    def restart() -> None:
        wait_until(lambda: any(t.state.name == "RUNNING" and t.intermediate_values for t in trials_of(name)))
        postgres.stop()
        time.sleep(2)
        postgres.start()

    with ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(restart)
        search(settings.to_json(), "run", toy_dataset, 0)
        restarted.result()
    states = [t.state.name for t in trials_of(name)]
    assert sum(state in DONE for state in states) == 4
    assert "RUNNING" not in states
    assert "waiting for the search's database" in (tracked_home / "runs/run/events.jsonl").read_text()


def test_half_a_line_of_a_lost_machine_is_cut_off(home: Path) -> None:
    """A journal that ends in the middle of a line loses that line, and the study continues."""
    for number in range(2):
        with studies.alone("cut"):
            study = studies.open_study("cut")
            study.tell(study.ask(), float(number))
        journal = home / "studies/cut.journal"
        journal.write_bytes(journal.read_bytes()[:-5])
    with studies.alone("cut"):
        study = studies.open_study("cut")
        study.tell(study.ask(), 2.0)
    assert studies.open_study("cut").trials[-1].value == 2.0


@pytest.mark.parametrize("damage", [bytes(40), b"\xff" * 40 + b"\n", b"[1]\n"])
def test_a_damaged_journal_counts_up_to_the_damage(damage: bytes, home: Path) -> None:
    """What a lost machine has spoiled in its middle loses the trials behind that, and whoever opens it is told once."""
    with studies.alone("cut") as whole:
        study = studies.open_study("cut")
        study.tell(study.ask(), 1.0)
    assert whole
    journal = home / "studies/cut.journal"
    before = journal.read_bytes()
    study.tell(study.ask(), 2.0)
    journal.write_bytes(before + damage + journal.read_bytes()[len(before) + len(damage) :])
    with studies.alone("cut") as whole:
        assert [trial.value for trial in studies.open_study("cut").trials] == [1.0]
    assert not whole
    with studies.alone("cut") as whole:
        assert whole


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), True),
        (psycopg.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq"), True),
        (psycopg.errors.UniqueViolation("duplicate key"), False),
        (ValueError("no such trial"), False),
    ],
)
def test_a_broken_connection_is_told_from_a_bad_query(error: Exception, *, waits: bool) -> None:
    """Whatever error a connection breaks with is waited for; one of a query, or of no database, is raised."""
    wrapped = exc.DBAPIError.instance("SELECT 1", None, error, psycopg.Error) if waits else error
    assert bool(studies._silence(wrapped)) is waits
    assert bool(studies._silence(error)) is waits


@needs_server
def test_the_last_trial_is_waited_for(storage: str) -> None:
    """While the last trial runs elsewhere a worker waits; it is over when that one is told, or taken when it dies."""
    study = open_study("waiting")
    first = studies.take(study, 1, 0)
    assert isinstance(first, optuna.Trial)
    assert studies.take(study, 1, 0) == "wait"
    wait_until(lambda: studies.take(study, 1, 0) != "wait", 20)  # nobody lets its heart beat
    again = study.get_trials()[-1]
    assert (again.state.name, again.system_attrs["failed_trial"]) == ("RUNNING", first.number)
    study.tell(again.number, 1.0)
    assert studies.take(study, 1, 0) is None


@needs_server
def test_a_beating_trial_is_nobody_elses(storage: str) -> None:
    """A trial longer than the grace is not taken for dead as long as its heart beats."""
    study = open_study("beating")
    trial = studies.take(study, 1, 0)
    assert isinstance(trial, optuna.Trial)
    with studies.beating(study, trial):
        end = time.monotonic() + 5  # the grace is three seconds
        while time.monotonic() < end:
            assert studies.take(study, 1, 0) == "wait"
            time.sleep(0.5)
    study.tell(trial, 1.0)
    assert [t.state.name for t in study.get_trials()] == ["COMPLETE"]


@needs_server
def test_a_death_before_the_first_heartbeat_is_noticed(storage: str) -> None:
    """A trial whose worker died between asking and its first heartbeat is run again, though Optuna overlooks it."""
    study = open_study("orphan")
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        orphan = study.ask()
    again = studies.take(study, 1, 0)
    assert isinstance(again, optuna.Trial)
    states = {t.number: t.state.name for t in study.get_trials()}
    assert states == {orphan.number: "FAIL", again.number: "RUNNING"}


@needs_server
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda url: url.replace("postgres:", "postgres:wrong-and-private"), "password authentication failed"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", 'database "nowhere" does not exist'),
        (lambda _url: "postgresql://me:wrong-and-private@127.0.0.1:9/x", "127.0.0.1:9/x: Connection refused"),
        (lambda _url: "postgresql://me:wrong-and private@127.0.0.1/x", "not the address of a Postgres"),
        (lambda _url: "mysql://me:wrong-and-private@127.0.0.1/x", "not the address of a Postgres"),
    ],
)
def test_a_storage_that_can_not_be_used_is_one_sentence(
    change: Any, sentence: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Login, database, network and address have a sentence each, and none repeats the password."""
    monkeypatch.setenv("THAWLINE_STUDY_STORAGE", change(storage))
    with pytest.raises(InputError, match=sentence) as error:
        studies.check_storage()
    assert "private" not in str(error.value)
    with pytest.raises(InputError, match=sentence):
        open_study("any")


def test_a_heartbeat_is_a_number(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats are whole seconds."""
    monkeypatch.setenv("THAWLINE_STUDY_HEARTBEAT", "often")
    with pytest.raises(InputError, match="THAWLINE_STUDY_HEARTBEAT can't be 'often'"):
        studies._interval()


@pytest.mark.parametrize("drawn", [True, False])
def test_a_killed_trial_comes_again(home: Path, *, drawn: bool) -> None:
    """Trials of a search that was killed in its third one are those of a search that was not; the third one fails.

    Whether it had its parameters already makes no difference.
    """

    def searched(name: str, killed: int) -> list[float]:
        study = open_study(name)
        studies.begin(study, {"a": 0.5, "b": 0.5})
        while (trial := studies.take(study, 9, seed=1)) is not None:
            assert trial != "wait"
            a = trial.suggest_float("a", 0, 1)
            if trial.number == killed and not drawn:
                return searched(name, -1)
            b = trial.suggest_float("b", 0, 1)
            trial.set_user_attr(studies.CHOSEN, {"a": a, "b": b})
            if trial.number == killed:
                return searched(name, -1)
            study.tell(trial, (a - 0.3) ** 2 + b)
        return [value for one in study.trials if one.state.name == "COMPLETE" for value in one.params.values()]

    assert searched("killed", 2) == searched("undisturbed", -1)
    assert [one.number for one in trials_of("killed") if one.state.name == "FAIL"] == [2]
    assert len(trials_of("killed")) == 10


def test_a_trial_that_kills_is_given_up(home: Path) -> None:
    """A trial whose process dies each time is not tried for ever."""
    study = open_study("deadly")
    for _ in range(studies.MAX_RETRIES + 1):
        studies.begin(study, {"a": 0.5})
        trial = studies.take(study, 9, seed=1)
        assert isinstance(trial, optuna.Trial)
        assert trial.suggest_float("a", 0, 1) == 0.5
        trial.set_user_attr(studies.CHOSEN, {"a": 0.5})
    studies.begin(study, {"a": 0.1})
    assert [one.system_attrs["fixed_params"] for one in study.trials if one.state.name == "WAITING"] == [{"a": 0.1}]
