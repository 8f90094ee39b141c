"""The search's study: a journal file in the home folder, or Postgres, where workers on several machines share it.

`THAWLINE_STUDY_STORAGE=postgresql://USER:PASSWORD@HOST:PORT/DATABASE` is read from the environment alone: it is a
secret, so it is no parameter, and no message and no run repeats it. There a worker's trial has a heartbeat; when that
stops, another worker runs the trial again.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from filelock import FileLock

from components.core.errors import InputError, NoAnswerError, UnavailableError
from components.core.storage import home_folder, outages

if TYPE_CHECKING:
    import optuna
    import psycopg

P = ParamSpec("P")
R = TypeVar("R")
DONE = ("COMPLETE", "PRUNED")
CHOSEN, RETRIES = "hyperparameters", "retries"  # attributes of a trial: what it was given, and how often it was killed
SAVED = "saved_seconds"  # as above: by cached activations
HEARTBEAT_SECONDS = 20  # a worker is taken for dead after three that are missing
MAX_RETRIES = 3  # of a trial whose workers die: it may be what kills them
CONNECT_SECONDS = 10
_PASSING = re.compile("starting up|shutting down|too many|reserved")  # what a Postgres refuses for a while only
_QUERY = re.compile(r"_?(get|set|create_new)_|delete_study$|record_heartbeat$")  # methods of Optuna's storage
_DRIVER = "+psycopg"  # SQLAlchemy's name for it, which libpq does not know
_ADDRESS = "Set it to postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or leave it out."


def waited_for(work: Callable[P, R]) -> Callable[P, R]:
    """Let a function that uses a study wait for its Postgres: what breaks in the middle of it is done again.

    A trial that was begun and not returned has no heartbeat any more, and is run again.
    """

    @functools.wraps(work)
    def waiting(*inputs: P.args, **named: P.kwargs) -> R:
        return outages.repeated(lambda: work(*inputs, **named), "the search's database", _silence)

    return waiting


def _silence(error: BaseException | None) -> str:
    """The sentence of an error that comes from a Postgres that is away; nothing of another error.

    A connection that breaks in the middle of an answer can be any error of the database: only those of a query don't
    count.
    """
    import psycopg
    from sqlalchemy import exc

    of_queries = (
        *(psycopg.IntegrityError, psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError),
        *(exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError),
    )
    while error is not None:
        if isinstance(error, NoAnswerError):
            return error.sentence
        if isinstance(error, psycopg.Error | exc.DBAPIError) and not isinstance(error, of_queries):
            return "its connection broke."
        error = error.__cause__ or error.__context__
    return ""


def shared() -> str:
    """The Postgres that holds the studies, or nothing where they are files.

    Raises:
        InputError: The address is none of Postgres.
    """
    url = os.environ.get("THAWLINE_STUDY_STORAGE", "").strip().replace(_DRIVER, "", 1)
    if url and not url.startswith("postgresql://"):
        raise InputError("THAWLINE_STUDY_STORAGE is not the address of a Postgres database.", _ADDRESS)
    return url


def check_storage() -> None:
    """Find out now, not after the data was prepared, whether the studies' Postgres takes us.

    Raises:
        InputError: It does not; the sentence says why.
    """
    if shared():
        _connected(shared()).close()


def open_study(name: str) -> "optuna.Study":
    """The study of that name, made on demand; on a journal file it is in THAWLINE_HOME/studies.

    Raises:
        InputError: The Postgres can't be used.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=5)
    storage = _postgres(shared(), _interval()) if shared() else _journal(name)
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True, pruner=pruner)


def _journal(name: str) -> "optuna.storages.JournalStorage":
    import optuna
    from optuna.storages.journal import JournalFileBackend

    folder = home_folder.home() / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / f"{name}.journal")))


@functools.cache  # one pool of connections for a process
def _postgres(url: str, seconds: int) -> "optuna.storages.RDBStorage":
    import optuna

    with locked("the tables"):  # made by the first
        storage = optuna.storages.RDBStorage(
            url.replace("postgresql", f"postgresql{_DRIVER}", 1),
            engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}},
            heartbeat_interval=seconds,
            grace_period=3 * seconds,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES),
        )
    for name in filter(_QUERY.match, dir(storage)):  # Optuna repeats none of them
        query = getattr(storage, name)
        if "session" not in inspect.signature(query).parameters:  # a part: its session ends with the connection
            setattr(storage, name, waited_for(query))
    return storage


@contextlib.contextmanager
def alone(name: str) -> Iterator[bool]:
    """One search of a study at a time where it is a file; on Postgres they work together.

    Yields:
        Whether the study is whole: not if the end of a damaged file was dropped just now.
    """
    if shared():
        yield True
        return
    folder = home_folder.home() / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield _cut_to_whole_lines(folder / f"{name}.journal")


def _cut_to_whole_lines(journal: Path) -> bool:
    """Keep the lines before the first that a lost machine damaged, or wrote half of; return whether these are all.

    Optuna reads no journal with such a line, and would append to half of one.
    """
    content, kept = journal.read_bytes() if journal.exists() else b"", 0
    for line in content.splitlines(keepends=True):
        if not (line.endswith(b"\n") and _is_entry(line)):
            os.truncate(journal, kept)
            return False
        kept += len(line)
    return True


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and entry.keys() >= {"op_code", "worker_id"}


@contextlib.contextmanager
def locked(name: str) -> Iterator["psycopg.Connection | None"]:
    """Hold a study for as long as it takes to count its trials and take one; a killed holder lets go."""
    if not shared():
        with FileLock(home_folder.home() / "studies" / f"{name}.ask.lock"):
            yield None
        return
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    with _connected(shared()) as connection:  # the lock ends with the transaction, and that with the connection
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (number,))
        yield connection


@waited_for
def begin(study: "optuna.Study", defaults: dict[str, float]) -> None:
    """Fail what a killed search left running, and queue it again; let the first trial that counts be the defaults.

    So no search is worse than these.
    """
    import optuna

    with locked(study.study_name):
        trials = study.get_trials(deepcopy=False)
        for trial in [] if shared() else trials:  # on Postgres they may be another machine's
            if trial.state == optuna.trial.TrialState.RUNNING:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                retries = trial.user_attrs.get(RETRIES, 0) + 1
                # one that was killed while it was drawn is drawn again, from the same seed
                if CHOSEN in trial.user_attrs and retries <= MAX_RETRIES:
                    study.enqueue_trial(trial.params, {RETRIES: retries})
        if not any(trial.state.name in (*DONE, "WAITING", "RUNNING") for trial in study.get_trials(deepcopy=False)):
            study.enqueue_trial(defaults)


@waited_for
def take(study: "optuna.Study", total: int, seed: int) -> "optuna.Trial | Literal['wait'] | None":
    """The next trial to run, or none if there are enough.

    Counting and asking are one step, or two workers would take the last trial both.

    Args:
        study: Where it comes from.
        total: Trials that the study is to have in all, over all of its workers.
        seed: Of the sampler.

    Returns:
        `wait` on Postgres while the last trials run elsewhere: one whose worker dies has to be run again.
    """
    import optuna

    with locked(study.study_name) as connection:
        if connection:
            optuna.storages.fail_stale_trials(study)
            _retry_orphans(study, connection)
        trials = study.get_trials(deepcopy=False)
        done = sum(t.state.name in DONE for t in trials)
        running = sum(t.state.name == "RUNNING" for t in trials)
        if done + running >= total:
            return "wait" if connection and done < total else None
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + done + running, n_startup_trials=5)
        with warnings.catch_warnings():  # of heartbeats without `optimize`: they are ours
            warnings.filterwarnings("ignore", "Heartbeat of storage")
            trial = study.ask()
        if connection:
            _beat(study, trial)
        return trial


def _retry_orphans(study: "optuna.Study", connection: "psycopg.Connection") -> None:
    """Fail and queue again trials whose worker died before their first heartbeat, which Optuna takes for alive.

    A worker holds the lock until that, so whoever has the lock and sees none knows that the worker is gone.
    """
    import optuna

    rows = connection.execute(
        "SELECT number FROM trials JOIN studies USING (study_id) LEFT JOIN trial_heartbeats USING (trial_id) "
        "WHERE study_name = %s AND state = 'RUNNING' AND trial_heartbeats.trial_id IS NULL",
        (study.study_name,),
    )
    for (number,) in rows.fetchall():
        orphan = study.tell(number, state=optuna.trial.TrialState.FAIL)
        optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)(study, orphan)


@contextlib.contextmanager
def beating(study: "optuna.Study", trial: "optuna.Trial") -> Iterator[None]:
    """Keep a trial's heart beating on Postgres while it runs; Optuna does so in `optimize` only.

    That asks for a trial by itself, so counting and asking could not be one step.
    """
    if not shared():
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_interval()):
            with contextlib.suppress(Exception):  # a database that is away for less than the grace costs nothing
                _beat(study, trial)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(study: "optuna.Study", trial: "optuna.Trial") -> None:
    storage: Any = study._storage  # noqa: SLF001 - what Optuna's own thread calls
    storage.record_heartbeat(trial._trial_id)  # noqa: SLF001 - as above


def _interval() -> int:
    """Seconds between two heartbeats.

    Raises:
        InputError: `THAWLINE_STUDY_HEARTBEAT` is no such number.
    """
    seconds = os.environ.get("THAWLINE_STUDY_HEARTBEAT") or str(HEARTBEAT_SECONDS)
    if not seconds.isdecimal() or int(seconds) == 0:
        raise InputError(f"THAWLINE_STUDY_HEARTBEAT can't be {seconds!r}.", "Use whole seconds, at least 1.")
    return int(seconds)


def _connected(url: str) -> "psycopg.Connection":
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        where = conninfo_to_dict(url)
    except psycopg.Error:  # its message repeats a part of the address
        raise InputError("THAWLINE_STUDY_STORAGE is not the address of a Postgres database.", _ADDRESS) from None
    try:
        return psycopg.connect(url, connect_timeout=CONNECT_SECONDS)
    except psycopg.Error as error:
        place = f"{where.get('host', 'localhost')}:{where.get('port', 5432)}/{where.get('dbname', '')}"
        reason = str(error).strip().splitlines()[0].rpartition(": ")[2].strip().rstrip(".")
        hint = "Check THAWLINE_STUDY_STORAGE, the network and the login."
        refused = "FATAL" in str(error) and not _PASSING.search(str(error))
        kind = UnavailableError if refused else NoAnswerError
        raise kind(f"The search can't use the Postgres at {place}: {reason}.", hint) from None


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say in one sentence that the database fell silent in the middle of a search."""
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except UpdateFinishedTrialError:
        raise
    except (StorageInternalError, DBAPIError) as error:
        hint = "Check its log; the search continues with the remaining trials."
        raise NoAnswerError("The search's database no longer answers.", hint) from error
