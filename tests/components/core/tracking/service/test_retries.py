"""Steps that a cluster starts again, with a real store."""

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.core import run_folder
from components.core.activations.caching_plan import Cost, _affordable
from components.core.activations.requests import CachePolicy
from components.core.compute.device import pick_device
from components.core.errors import ExpectedError, InputError, NoAnswerError, StepError, UnavailableError, is_silence
from components.core.networks import transformers_hub, weights
from components.core.settings import Settings
from components.core.storage import home_folder
from components.core.tracking import queries, runs
from components.core.tracking.service import retries
from components.core.tracking.service.retries import RepeatedError
from components.finish import finish

SETTINGS = Settings(model="toy", task="tests.fakes.toy").to_json()
EMPTY = InputError("The folder is empty.", "Fill it.")


@pytest.fixture
def pod(tracked_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a step on a cluster."""
    monkeypatch.setenv("THAWLINE_RUN_KEY", "k")


def attempt(error: ExpectedError | None, step: str = "prepare_data") -> bool:
    """Whether another attempt of a step came to its work, which then ends so."""
    worked = False
    with contextlib.suppress(ExpectedError), runs.step(step, "k", SETTINGS):
        worked = True
        if error:
            raise error
    return worked


@pytest.mark.usefixtures("pod")
def test_an_input_error_is_not_met_twice() -> None:
    """The next attempt ends before its work, with the first one's sentence; the run is failed for that reason."""
    assert attempt(EMPTY)
    with (
        pytest.raises(RepeatedError, match="^The folder is empty. Fill it. This attempt did not check"),
        runs.step("prepare_data", "k", SETTINGS),
    ):
        pytest.fail("it must not work")
    assert not attempt(None)
    assert [run.info.status for run in queries.find_runs("toy", "k", "step")] == ["FAILED"] * 3
    result = finish(SETTINGS, "k", "FAILED")
    assert (result.status, result.reason) == ("failed", "The folder is empty. Fill it.")


@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize(
    "error", [StepError("A process was killed.", "Run again."), UnavailableError("S3 is silent.", "Check the network.")]
)
def test_what_may_pass_is_tried_again(error: ExpectedError) -> None:
    """After a failure, or where something did not answer, the next attempt works; then the run has no reason left."""
    assert attempt(error)
    assert attempt(None)
    assert run_folder.read_errors("k") == {}


def no_room() -> None:
    cost = Cost(examples=1, missing=1, row_bytes=8, encode=0, engine=0, again=0, transfer=0, uses=1)
    _affordable({1: cost}, CachePolicy("keep", "float32", 0.0), 0.0)


def no_hub() -> None:
    raise transformers_hub.cannot_load("hf/x", OSError("Connection timed out."))


def no_home() -> None:
    with home_folder.writable():
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("pod")
@pytest.mark.parametrize("work", [no_room, no_hub, no_home, lambda: pick_device("cuda:7")])
def test_what_this_machine_lacks_another_may_have(work: Callable[[], object]) -> None:
    """A full disk, a hub out of reach, a missing GPU: the next attempt may run on another node, so it works."""
    with pytest.raises(ExpectedError) as caught:
        work()
    assert attempt(caught.value)
    assert attempt(None)


@pytest.mark.usefixtures("pod")
def test_other_steps_and_other_runs_work() -> None:
    """An input error stops the attempts of its own step in its own run only."""
    assert attempt(EMPTY)
    assert attempt(None, "search")
    with runs.step("prepare_data", "another run", SETTINGS):
        pass


@pytest.mark.usefixtures("pod")
def test_a_run_that_is_retried_later_looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten minutes from the error, however many attempts were refused since, the data are looked at again."""
    assert attempt(EMPTY)
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: began + retries.LASTS_SECONDS - 10)
    assert not attempt(None)
    monkeypatch.setattr(time, "time", lambda: began + retries.LASTS_SECONDS + 10)
    assert attempt(None)


def test_nothing_is_remembered_on_one_machine(tracked_home: Path) -> None:
    """Without a cluster nobody starts a step again but a person, and the step works."""
    assert attempt(EMPTY)
    assert attempt(None)


@pytest.mark.usefixtures("pod")
def test_an_adopted_run_keeps_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all attempts of a step are one run of Kubeflow's plugin, the second one finds the error in it."""
    parent = runs.create("theirs", "", "toy", "", None)
    child = runs.create("prepare-data", "", "toy", "", parent)
    monkeypatch.setenv("MLFLOW_RUN_ID", child)
    assert attempt(EMPTY)
    assert not attempt(None)


class Silent:
    """A step that meets a silent server for some attempts."""

    def __init__(self, times: int) -> None:
        self.left, self.attempts = times, 0

    def __call__(self) -> str:
        @retries.patient
        def search(settings: str, run_key: str) -> str:
            self.attempts += 1
            with runs.step("search", run_key, settings):
                self.left -= 1
                if self.left >= 0:
                    raise NoAnswerError("The S3 server can't be reached.", "Check the network.")
            return "done"

        return search(SETTINGS, run_key="k")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that were slept, in a clock that nobody waits for."""
    slept: list[float] = []
    own = SimpleNamespace(sleep=slept.append, monotonic=lambda: time.monotonic() + sum(slept), time=time.time)
    monkeypatch.setattr(retries, "time", own)  # threads of libraries sleep by the real one
    return slept


@pytest.mark.usefixtures("tracked_home")
def test_a_step_waits_for_a_silent_server(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With minutes to wait, a step is done again after pauses that double; the log says so, and no error is left."""
    monkeypatch.setenv(retries.MINUTES, "10")
    step = Silent(3)
    assert step() == "done"
    assert (step.attempts, clock) == (4, [5, 10, 20])
    assert "test_retries: The S3 server can't be reached. Trying again in 5 s, for " in capfd.readouterr().err
    assert [event["event"] for event, _ in run_folder.events("k") if event["event"] == "note"] == ["note"] * 3
    assert run_folder.read_errors("k") == {}
    assert sorted(run.info.status for run in queries.find_runs("toy", "k", "step")) == ["FAILED"] * 3 + ["FINISHED"]


@pytest.mark.usefixtures("tracked_home")
def test_waiting_for_a_server_ends(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """When the minutes are over, the step ends with the server's sentence; the last pause is what was left."""
    monkeypatch.setenv(retries.MINUTES, "1")
    step = Silent(99)
    with pytest.raises(NoAnswerError, match="can't be reached"):
        step()
    assert clock[:3] == [5, 10, 20]
    assert 35 < sum(clock) <= 60  # the attempts take the rest, more of it on a busy machine


@pytest.mark.usefixtures("tracked_home")
def test_nobody_waits_on_a_machine(clock: list[float]) -> None:
    """Without the setting a silent server ends the step at once."""
    step = Silent(1)
    with pytest.raises(NoAnswerError):
        step()
    assert (step.attempts, clock) == (1, [])


@pytest.mark.usefixtures("tracked_home")
def test_minutes_that_are_none_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is no number is named."""
    monkeypatch.setenv(retries.MINUTES, "ten")
    with pytest.raises(InputError, match="THAWLINE_RETRY_MINUTES can't be 'ten'"):
        Silent(0)()


def unreachable(library: str) -> BaseException:
    """The error of a library that finds nobody on a closed port of this machine."""
    import urllib.request

    import requests

    ask = {
        "requests": lambda: requests.get("http://127.0.0.1:9", timeout=1),
        "urllib": lambda: urllib.request.urlopen("http://127.0.0.1:9", timeout=1),
    }[library]
    with pytest.raises(OSError, match="refused") as caught:
        ask()
    return caught.value


@pytest.mark.parametrize("library", ["requests", "urllib"])
def test_silence_of_a_hub_may_pass(library: str) -> None:
    """Nobody at a hub's address is worth waiting for, also behind another error that it caused."""
    wrapped = OSError("We couldn't connect.")
    wrapped.__cause__ = unreachable(library)
    assert is_silence(wrapped)
    assert isinstance(transformers_hub.cannot_load("hf/x", wrapped), NoAnswerError)
    assert isinstance(weights.cannot_download("DEFAULT", "resnet18", wrapped), NoAnswerError)


def answered(library: str, status: int) -> Exception:
    """The error of a library for an answer of a hub."""
    import urllib.error
    from email.message import Message

    import requests

    if library == "urllib":
        return urllib.error.HTTPError("http://hub", status, "No", Message(), None)
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("No", response=response)


@pytest.mark.parametrize("library", ["requests", "urllib"])
@pytest.mark.parametrize(("status", "passes"), [(404, False), (401, False), (429, True), (500, True), (503, True)])
def test_a_fault_of_a_hub_itself_may_pass(library: str, status: int, passes: bool) -> None:  # noqa: FBT001 - pytest's
    """A hub that has a fault of its own, or too much to do, is worth waiting for; one that refuses is not."""
    wrapped = OSError("We couldn't load it.")
    wrapped.__cause__ = answered(library, status)
    assert is_silence(wrapped) is passes


def test_an_answer_that_breaks_off_may_pass() -> None:
    """A download that was cut is worth trying again."""
    from http.client import IncompleteRead

    import requests

    assert is_silence(requests.exceptions.ChunkedEncodingError("cut"))
    assert is_silence(IncompleteRead(b"half"))


def test_what_a_hub_says_does_not_pass() -> None:
    """An error of another kind, or that a hub may not be asked, is no silence."""
    assert not is_silence(ValueError("no such network"))
    offline = type("OfflineModeIsEnabled", (ConnectionError,), {})
    assert not is_silence(offline("HF_HUB_OFFLINE=1"))
    assert not isinstance(transformers_hub.cannot_load("hf/x", offline()), NoAnswerError)
