"""S3, against a real server: pages, parts, and one sentence for what goes wrong."""

import gc
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import IncompleteReadError

from components.core.errors import InputError, RejectedRecord
from components.core.sources.raw_records import check_source, list_entries, read
from components.core.storage import s3 as storage

pytest_plugins = ["tests.services.s3"]
needs_server = pytest.mark.slow  # it needs 4 s to start


@pytest.fixture
def fresh_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without credentials, and no client kept from before or for later."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    storage.client.cache_clear()
    yield monkeypatch
    storage.client.cache_clear()


def put(uri: str, content: bytes = b"x") -> str:
    bucket, key = storage.split_uri(uri)
    storage.client().put_object(Bucket=bucket, Key=key, Body=content)
    return uri


@needs_server
def test_every_page_is_listed(s3: str) -> None:
    """More keys than one page of 1,000 holds are all listed, in order, and only below the prefix."""
    names = [f"{s3}/data/{'cat' if i % 2 else 'dog'}/{i:04d}.png" for i in range(1205)]
    with ThreadPoolExecutor(storage.CONNECTIONS) as pool:
        list(pool.map(put, [*names, f"{s3}/database/bird/1.png", f"{s3}/data/.hidden/1.png", f"{s3}/data/cat/"]))
    entries = list(list_entries(f"{s3}/data"))
    assert [entry.uri for entry in entries] == sorted(names)
    assert {entry.label for entry in entries} == {"cat", "dog"}
    check_source(f"{s3}/data")


@needs_server
def test_files_go_up_and_come_down_whole(s3: str, tmp_path: Path) -> None:
    """A file of several parts comes back byte for byte, with nothing left beside it."""
    content = bytes(range(256)) * 40_000  # 10 MB: more than one part
    (tmp_path / "up").write_bytes(content)
    storage.upload(tmp_path / "up", f"{s3}/a b/ü.bin")
    storage.download(f"{s3}/a b/ü.bin", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content
    assert read(f"{s3}/a b/ü.bin") == content
    assert [(uri, size) for uri, size, _ in storage.list_objects(f"{s3}/a")] == [(f"{s3}/a b/ü.bin", len(content))]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["down", "up"]


@needs_server
def test_an_object_is_looked_up_without_its_content(s3: str) -> None:
    """Size and ETag of one object are those of the listing; a missing one is told."""
    uri = put(f"{s3}/one.bin", b"content")
    [(_, size, etag)] = storage.list_objects(uri)
    assert storage.look_up(uri) == (size, etag) == (7, etag)
    with pytest.raises(InputError, match="There is no object"):
        storage.look_up(f"{s3}/none.bin")


@needs_server
def test_a_manifest_may_lie_on_s3(s3: str) -> None:
    """A manifest on S3 names objects relative to itself."""
    put(f"{s3}/m/list.csv", b"uri,label\ncat/1.png,cat\ndog/1.png,dog\n")
    assert [entry.uri for entry in list_entries(f"{s3}/m/list.csv")] == [f"{s3}/m/cat/1.png", f"{s3}/m/dog/1.png"]
    check_source(f"{s3}/m/list.csv")


@needs_server
@pytest.mark.parametrize(
    ("keys", "sentence"),
    [((), "is empty"), (("1.png",), "no class folders"), (("cat/1.png",), "only one class: cat")],
)
def test_a_prefix_that_can_not_be_used_is_one_sentence(s3: str, keys: tuple[str, ...], sentence: str) -> None:
    for key in keys:
        put(f"{s3}/p/{key}")
    with pytest.raises(InputError, match=sentence):
        check_source(f"{s3}/p")


@needs_server
def test_what_is_missing_is_named(s3: str, tmp_path: Path) -> None:
    """A missing object or bucket is one sentence, and a download leaves no file behind."""
    with pytest.raises(InputError, match=f"There is no object {s3}/nothing"):
        storage.download(f"{s3}/nothing", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RejectedRecord, match=r"^unreadable: There is no object"):
        read(f"{s3}/nothing")
    with pytest.raises(InputError, match="There is no bucket 'no-such-bucket'"):
        list(list_entries("s3://no-such-bucket/x"))


@needs_server
def test_an_object_above_the_limit_is_not_read(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(f"{s3}/large", b"12345")
    monkeypatch.setattr("components.core.sources.raw_records.MAX_BYTES", 4)
    with pytest.raises(RejectedRecord, match=r"^larger than"):
        read(f"{s3}/large")


@needs_server
def test_what_is_larger_than_its_limit_is_not_downloaded(s3: str, tmp_path: Path) -> None:
    """The server says how large it is; nothing is left of it."""
    uri = put(f"{s3}/large", bytes(1000))
    storage.download(uri, tmp_path / "whole", 1000)
    assert (tmp_path / "whole").stat().st_size == 1000
    with pytest.raises(ValueError, match="larger than 999 bytes"):
        storage.download(uri, tmp_path / "cut", 999)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@needs_server
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # boto3 leaves the cut body to the collector
@pytest.mark.parametrize("size", [1_000, 20_000_000])
def test_a_download_never_grows_beyond_its_limit(
    size: int, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers more than it said, in one piece or in parts that several threads fetch, fills no disk."""
    uri = put(f"{s3}/large", bytes(size))
    monkeypatch.setattr(storage, "look_up", lambda _uri: (1, ""))
    with pytest.raises(ValueError, match=f"grown beyond {size - 1} bytes"):
        storage.download(uri, tmp_path / "cut", size - 1)
    assert list(tmp_path.iterdir()) == []
    gc.collect()


@needs_server
@pytest.mark.parametrize(
    ("variable", "sentence"),
    [("AWS_SECRET_ACCESS_KEY", "secret key is wrong"), ("AWS_ACCESS_KEY_ID", "key is unknown")],
)
def test_wrong_credentials_are_told_without_repeating_them(
    s3: str, variable: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong secret or key is one sentence that holds neither."""
    monkeypatch.setenv(variable, "wrong-and-private")
    storage.client.cache_clear()
    with pytest.raises(InputError, match=sentence) as raised:
        list(list_entries(f"{s3}/x"))
    assert "wrong-and-private" not in str(raised.value)
    assert "test-" not in str(raised.value)


@needs_server
def test_a_body_that_breaks_off_is_read_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Botocore does not retry once the body has begun; here it is."""
    put(f"{s3}/x", b"whole")
    real, calls = storage.client().get_object, []

    class Broken:
        def read(self) -> bytes:
            raise IncompleteReadError(actual_bytes=1, expected_bytes=5)

    def flaky(**arguments: Any) -> Any:
        calls.append(1)
        return {"Body": Broken(), "ContentLength": 5} if len(calls) < 3 else real(**arguments)

    monkeypatch.setattr(storage.client(), "get_object", flaky)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert storage.read_bytes(f"{s3}/x") == b"whole"
    assert len(calls) == 3


def test_missing_credentials_are_one_sentence(fresh_client: pytest.MonkeyPatch) -> None:
    fresh_client.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no usable credentials for s3://bucket/x/.* AWS_ACCESS_KEY_ID"):
        list(list_entries("s3://bucket/x"))


def test_an_unreachable_server_is_one_sentence(fresh_client: pytest.MonkeyPatch) -> None:
    """The address is named, a password in it is not."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        fresh_client.setenv("AWS_ENDPOINT_URL", f"http://me:private@127.0.0.1:{port}")
        fresh_client.setenv("AWS_ACCESS_KEY_ID", "a")
        fresh_client.setenv("AWS_SECRET_ACCESS_KEY", "b")
        fresh_client.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(InputError, match=f"can't be reached at 127.0.0.1:{port}") as raised:
            list(list_entries("s3://bucket/x"))
    assert "private" not in str(raised.value)


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "no address"), ("AWS_PROFILE", "nobody")])
def test_an_environment_without_sense_is_one_sentence(fresh_client: pytest.MonkeyPatch, name: str, value: str) -> None:
    fresh_client.setenv(name, value)
    with pytest.raises(InputError, match=r"AWS_\* variables|credentials"):
        list(list_entries("s3://bucket/x"))


def test_an_address_without_a_bucket_is_one_sentence() -> None:
    with pytest.raises(InputError, match="names no bucket"):
        check_source("s3://")
