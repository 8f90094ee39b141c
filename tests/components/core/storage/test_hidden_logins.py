"""No login in an address is ever shown."""

import io
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core import run_folder, weight_sources
from components.core.activations import store
from components.core.errors import ExpectedError, StepError
from components.core.networks import transformers_hub
from components.core.networks.weights import cannot_download
from components.core.searching import studies
from components.core.settings import Settings
from components.core.sources import raw_records, source_index
from components.core.storage import s3
from components.core.storage.hidden_logins import hidden, hide_in_output
from components.core.tracking import runs
from components.core.tracking.service.server import check_address
from components.prepare_data import _with_assignments
from pipelines.terminal.surroundings import check_store

SECRET = "hunter2"  # noqa: S105 - planted
LOGIN = f"KEY:{SECRET}@"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at s3://{LOGIN}bucket/a, and", "at s3://…@bucket/a, and"),
        (f"s3:{LOGIN}bucket", "s3:…@bucket"),
        (f"postgresql+psycopg://u:p@{SECRET}@host:5/db", "postgresql+psycopg://…@host:5/db"),
        (f"'http://{SECRET}@proxy'", "'http://…@proxy'"),
        (f"http://h/x?a=1&password={SECRET}&b=2", "http://h/x?a=1&password=…&b=2"),
        (f"http://h/x?X-Amz-Signature={SECRET}", "http://h/x?X-Amz-Signature=…"),
        ("s3://bucket/me@home.png and a@b", "s3://bucket/me@home.png and a@b"),
        ("postgresql://USER:PASSWORD@HOST:PORT/DATABASE", "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"),
    ],
)
def test_user_information_and_secret_parameters_are_hidden(text: str, shown: str) -> None:
    """Wherever the address stands in a text; what only looks like a login stays."""
    assert hidden(text) == shown


def activations(address: str) -> None:
    store.shared_prefix()


def study(address: str) -> None:
    studies.check_storage()


def hub(address: str) -> None:
    with transformers_hub.folder("hf/name", address):
        pass


def assignments(address: str) -> None:
    from components.core.data.lineage import Lineage

    _with_assignments(Lineage(), Settings(model="m", assignments=address))


def download(address: str) -> None:
    raise cannot_download("default", "resnet", OSError(f"proxy {address} refused"))


@pytest.mark.parametrize(
    ("use", "address"),
    [
        (raw_records.check_source, f"s3://{LOGIN}bucket/photos"),
        (raw_records.check_source, f"gs://{LOGIN}bucket/photos.csv"),
        (activations, f"s3://{LOGIN}bucket/prefix"),
        (activations, f"s3:{LOGIN}bucket"),
        (activations, f"https://{LOGIN}host/prefix"),
        (weight_sources.check_state_file, f"s3://{LOGIN}bucket/weights.pth"),
        (hub, f"s3://{LOGIN}bucket/model"),
        (assignments, f"s3://{LOGIN}bucket/assignments.parquet"),
        (s3.look_up, f"s3://{LOGIN}bucket/x"),
        (check_address, f"http://{LOGIN}mlflow:5000"),
        (check_address, f"ftp://{LOGIN}mlflow"),
        (check_store, f"databricks://{LOGIN}host"),
        (study, f"mysql://{LOGIN}host/db"),
        (study, f"postgresql://{LOGIN}127.0.0.1:9/db"),
        (download, f"http://{LOGIN}proxy:3128"),
    ],
)
def test_an_error_repeats_no_secret(
    use: Callable[[str], object], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an address is accepted, neither sentence nor hint of its refusal has the secret."""
    monkeypatch.setenv("THAWLINE_ACTIVATIONS", address)
    monkeypatch.setenv("THAWLINE_STUDY_STORAGE", address)
    with pytest.raises(ExpectedError) as error:
        use(address)
    told = error.value
    assert SECRET not in f"{told} {told.args} {told.sentence} {told.hint} {told!r}"


def test_a_row_with_a_login_is_rejected_by_its_number(tmp_path: Path) -> None:
    """Neither the index nor the rejected table gets its uri."""
    (tmp_path / "rows.csv").write_text(f"uri,label\ns3://{LOGIN}bucket/1.png,cat\n")
    [row] = source_index.take(str(tmp_path / "rows.csv"), [])
    assert row.reason == "uri contains a login: row 1"
    assert SECRET not in str(row)


def test_events_and_errors_of_a_run_hold_no_secret(home: Path) -> None:
    """What a step says and why it failed are kept without it."""
    run_folder.emit("k", "search", "note", text=f"the proxy http://{LOGIN}proxy is away")
    run_folder.write_error("k", "search", StepError(f"s3://{LOGIN}bucket is gone.", f"Ask http://{LOGIN}host."))
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not any(SECRET in path.read_text() for path in files)


def test_mlflow_holds_no_secret(tracked_home: Path) -> None:
    """Parameters, tags, notes, the dataset's source and the error of a step are recorded without it."""
    address = f"https://{LOGIN}host/x"
    settings = Settings(model="toy", task="tests.fakes.toy", weights=address)
    with pytest.raises(StepError), runs.step("search", "k", settings.to_json()) as run:  # noqa: PT012 - a step's work
        run.params({"weights": address})
        run.tags({"thawline.source": address})
        run.tags({"thawline.source": address}, pipeline=True)
        run.note(f"downloaded from {address}")
        run.dataset("toy", "digest", address)
        raise StepError(f"{address} is away.", "Wait.")
    found = [path for path in tracked_home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert found == []


def test_a_steps_log_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback of a library's error, which repeats an address, is printed without its login."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    monkeypatch.setattr(sys, "stderr", log)
    hide_in_output()
    hide_in_output()
    traceback.print_exception(OSError(f"Could not connect to the endpoint URL: http://{LOGIN}host:9000/bucket"))
    assert "endpoint URL: http://…@host:9000/bucket" in log.getvalue()
    assert SECRET not in log.getvalue()
