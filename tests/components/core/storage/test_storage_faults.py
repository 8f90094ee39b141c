"""A real S3 server behind a bad network: each fault ends in success or in one sentence, and nothing corrupt is kept."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.core.errors import InputError, NoAnswerError, OutageError, RejectedRecord
from components.core.sources.raw_records import list_entries, read
from components.core.storage import outages
from components.core.storage import s3 as storage
from tests.fakes.proxy import Fault, Proxy
from tests.support.command import call

pytest_plugins = ["tests.services.s3"]
pytestmark = pytest.mark.slow  # the server needs 4 s to start
CONTENT = bytes(range(256)) * 4_000  # 1 MB
LARGE = bytes(range(256)) * 80_000  # 20 MB: three parts


@pytest.fixture
def proxy(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands between this process and the server from now on."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "4")
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # between two attempts
    with Proxy(s3_endpoint) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.uri)
        storage.client.cache_clear()
        yield between
    storage.client.cache_clear()


def put(uri: str, content: bytes = b"x") -> str:
    bucket, key = storage.split_uri(uri)
    storage.client().put_object(Bucket=bucket, Key=key, Body=content)
    return uri


def on_new_connections() -> None:
    storage.client.cache_clear()


def refusal(code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def failure(code: str) -> bytes:
    return refusal(code).replace(b"400 Bad Request", b"500 Internal Server Error")


def overload(code: str) -> bytes:
    return refusal(code).replace(b"400 Bad Request", b"503 Slow Down")


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(cut=40), Fault(cut=200_000), Fault(delay=0.5)])
def test_a_flaky_server_is_asked_again(fault: Fault, s3: str, proxy: Proxy, tmp_path: Path) -> None:
    """Connections that are dropped, cut off in the head or the body, or slow: content and file are whole."""
    uri = put(f"{s3}/one.bin", CONTENT)
    for get in (lambda: storage.read_bytes(uri), lambda: read(uri)):
        on_new_connections()
        proxy.faults.extend([fault, fault])
        assert get() == CONTENT
        assert proxy.faults == deque([fault] if fault.delay else [])  # what is slow is asked once
        proxy.faults.clear()
    on_new_connections()
    proxy.faults.extend([fault, fault])
    storage.download(uri, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_parts_of_a_large_file_are_sent_and_fetched_again(s3: str, proxy: Proxy, tmp_path: Path) -> None:
    """A file of several parts survives dropped and cut connections both ways, byte for byte."""
    (tmp_path / "up").write_bytes(LARGE)
    on_new_connections()
    proxy.faults.extend([Fault(drop=True), Fault(), Fault(drop=True), Fault(cut=10)])
    storage.upload(tmp_path / "up", f"{s3}/large.bin")
    on_new_connections()
    proxy.faults.extend([Fault(drop=True), Fault(cut=3_000_000), Fault(cut=100_000)])
    storage.download(f"{s3}/large.bin", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == LARGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["down", "up"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(drop=True), "can't be reached"),
        (Fault(cut=40), "can't be reached"),
        (Fault(cut=200_000), "were cut off|can't be reached"),
    ],
)
def test_a_server_that_never_answers_whole_is_one_sentence(
    fault: Fault, sentence: str, s3: str, proxy: Proxy, tmp_path: Path
) -> None:
    """After the last attempt: one sentence, no file, and no record that is blamed for the network."""
    uri = put(f"{s3}/one.bin", CONTENT)
    on_new_connections()
    proxy.always = fault
    with pytest.raises(InputError, match=sentence):
        read(uri)
    with pytest.raises(InputError, match=sentence):
        storage.download(uri, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_fails_leaves_no_object(s3: str, proxy: Proxy, tmp_path: Path) -> None:
    """Neither a small file nor one of several parts is there in half."""
    for name, content in (("small", CONTENT), ("large", LARGE)):
        (tmp_path / name).write_bytes(content)
        on_new_connections()
        proxy.always = Fault(drop=True)
        with pytest.raises(InputError, match="can't be reached"):
            storage.upload(tmp_path / name, f"{s3}/{name}")
    proxy.always = Fault()
    assert list(storage.list_objects(s3)) == []


def test_a_silent_server_is_not_waited_for_without_end(s3: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes longer than the limit counts as one that can't be reached."""
    uri = put(f"{s3}/one.bin", CONTENT)
    monkeypatch.setattr(storage, "READ_SECONDS", 0.3)
    on_new_connections()
    proxy.faults.append(Fault(delay=3))
    assert storage.read_bytes(uri) == CONTENT
    on_new_connections()
    proxy.always = Fault(delay=3)
    with pytest.raises(InputError, match="can't be reached"):
        storage.read_bytes(uri)


def test_a_body_that_stalls_is_fetched_again(
    s3: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the seconds that a server may be silent the content is asked for again, and is whole."""
    uri = put(f"{s3}/one.bin", CONTENT)
    monkeypatch.setattr(storage, "READ_SECONDS", 0.3)
    on_new_connections()
    proxy.faults.extend([Fault(cut=200_000, stall=3)] * 2)
    assert storage.read_bytes(uri) == CONTENT
    proxy.faults.extend([Fault(cut=200_000, stall=3)] * 2)
    on_new_connections()
    storage.download(uri, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert not proxy.faults


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a step says while it waits for at most a minute."""
    said: list[str] = []
    monkeypatch.setenv("THAWLINE_OUTAGE_SECONDS", "60")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with outages.waited_out(said.append):
        yield said


OUTAGES = [Fault(drop=True), Fault(answer=failure("InternalError")), Fault(answer=overload("SlowDown")), Fault(cut=10)]


@pytest.mark.parametrize("fault", OUTAGES, ids=["dropped", "500", "503", "cut"])
def test_an_outage_is_waited_out(fault: Fault, s3: str, proxy: Proxy, told: list[str], tmp_path: Path) -> None:
    """Listing, looking, reading, download and upload go on when the server is back, and say that they wait."""
    on_new_connections()
    (tmp_path / "up").write_bytes(CONTENT)
    uri = put(f"{s3}/cat/1.png", CONTENT)

    def listed() -> list[str]:
        return [found for found, _, _ in storage.list_objects(s3)]

    for work, expected in (
        (lambda: storage.upload(tmp_path / "up", uri), None),
        (lambda: storage.look_up(uri)[0], len(CONTENT)),
        (listed, [uri]),
        (lambda: list(storage.list_folders(f"{s3}/")), ["cat"]),
        (lambda: storage.read_bytes(uri), CONTENT),
        (lambda: storage.download(uri, tmp_path / "down"), None),
    ):
        on_new_connections()
        told.clear()
        proxy.faults.extend([fault] * 5)
        assert work() == expected
        assert not proxy.faults
        assert told
        assert all("waiting for S3" in text for text in told)
    assert (tmp_path / "down").read_bytes() == CONTENT


@pytest.mark.usefixtures("tracked_home")
def test_predict_says_that_it_waits(
    s3: str, proxy: Proxy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, and then it goes on: here to the model, which is missing."""
    uri = put(f"{s3}/cat/1.png")
    monkeypatch.setenv("THAWLINE_OUTAGE_SECONDS", "60")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    on_new_connections()
    proxy.faults.extend([Fault(drop=True)] * 2)
    said = call(capsys, monkeypatch, "predict", "--model", "none", uri)
    assert said.err.count("waiting for S3") == 2
    assert "There is no model 'none'" in said.err


def test_an_outage_that_lasts_is_no_fault_of_the_input(
    s3: str, proxy: Proxy, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is over, server and seconds are named and the step fails; a shared cache is not waited for."""
    on_new_connections()
    proxy.always = Fault(drop=True)
    with pytest.raises(NoAnswerError):
        list(storage.list_objects(s3, patient=False))
    assert not told
    monkeypatch.setenv("THAWLINE_OUTAGE_SECONDS", "1")
    sentence = r"can't be reached at 127\.0\.0\.1:\d+\. It was waited for 1 s"
    with outages.waited_out(told.append), pytest.raises(OutageError, match=sentence) as error:
        read(f"{s3}/1.png")
    assert error.value.kind == "failure"
    assert told


def test_pages_are_listed_without_holes_over_a_flaky_network(
    s3: str, s3_endpoint: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that breaks off is asked for again: every key once, in order."""
    names = [f"{s3}/data/{'cat' if i % 2 else 'dog'}/{i:04d}.png" for i in range(1205)]
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    on_new_connections()
    with ThreadPoolExecutor(storage.CONNECTIONS) as pool:
        list(pool.map(put, names))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.uri)
    on_new_connections()
    proxy.faults.extend([Fault(cut=40), Fault(cut=100_000), Fault(drop=True), Fault(cut=400_000)])
    assert [entry.uri for entry in list_entries(f"{s3}/data")] == sorted(names)
    assert not proxy.faults


@pytest.mark.parametrize(
    ("code", "sentence"), [("ExpiredToken", "the credentials have expired"), ("InvalidToken", "token is not valid")]
)
def test_an_expired_session_stops_the_run_at_once(code: str, sentence: str, s3: str, proxy: Proxy) -> None:
    """No record is rejected for it, and the server is not asked again."""
    uri = put(f"{s3}/cat/1.png")
    on_new_connections()
    proxy.always = Fault(answer=refusal(code))
    before = proxy.connections
    with pytest.raises(InputError, match=sentence):
        read(uri)
    assert proxy.connections == before + 1
    with pytest.raises(InputError, match=sentence):
        list(list_entries(s3))


def test_a_session_that_the_server_does_not_know_is_one_sentence(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session token that the server itself refuses (SeaweedFS: InvalidAccessKeyId) is told, and not repeated."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "expired-and-private")
    on_new_connections()
    with pytest.raises(InputError, match="the access key is unknown") as error:
        list(list_entries(s3))
    assert "private" not in str(error.value)


def test_one_missing_object_is_the_records_fault(s3: str) -> None:
    """What is true of one object alone rejects one record."""
    with pytest.raises(RejectedRecord, match="There is no object"):
        read(f"{s3}/cat/none.png")
