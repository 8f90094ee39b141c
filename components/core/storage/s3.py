"""S3 and what speaks its language: list, read, download, upload, delete. The only import of boto3.

Credentials, region and endpoint come from where every AWS tool looks for them (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`,
`AWS_ENDPOINT_URL`, …); no message here repeats a secret.
"""

import functools
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore import exceptions
from botocore.config import Config
from s3transfer.exceptions import RetriesExceededError

from components.core.errors import InputError, NoAnswerError, UnavailableError
from components.core.storage import outages
from components.core.storage.addresses import check_no_login

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from botocore.model import OperationModel
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

_Result = TypeVar("_Result")

CONNECTIONS = 32  # downloads in flight
PAGE = 1000  # objects that one request lists
READ_SECONDS = 20.0  # that a server may be silent in the middle of an answer
_BODY_ATTEMPTS = 4  # botocore retries requests, but not a body that breaks off
_WHOLE = {"GetObject": "ContentLength", "HeadObject": "ContentLength", "ListObjectsV2": "IsTruncated"}
_BROKEN_BODY = (exceptions.IncompleteReadError, exceptions.ReadTimeoutError, exceptions.ResponseStreamingError)
_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.TokenRetrievalError,
    exceptions.ProfileNotFound,
)
_UNREACHABLE = (exceptions.ConnectionError, exceptions.HTTPClientError, RetriesExceededError)
_OF_ONE_OBJECT = {"NoSuchKey", "404", "NoSuchBucket", "AccessDenied", "403", "InvalidObjectState", "KeyTooLongError"}
_OVERLOADED = {  # that a server may answer with any status
    *("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"),
    *("RequestThrottled", "RequestLimitExceeded", "TooManyRequests", "429"),
}
_REFUSED = {
    "AccessDenied": "access is denied",
    "403": "access is denied",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidAccessKeyId": "the access key is unknown",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
}


class ObjectError(InputError):
    """A fault of one object: that it is not there, or not for us. All else would happen to every other object too."""


@functools.cache
def client() -> "S3Client":
    """One client for all threads, which it is safe for; transient failures are retried."""
    custom = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        config = Config(
            retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", "5"))},
            max_pool_connections=CONNECTIONS,
            connect_timeout=10,
            read_timeout=READ_SECONDS,
            # Only AWS itself surely answers under bucket.endpoint.
            s3={"addressing_style": "path" if custom else "auto"},
        )
        made = boto3.Session().client("s3", config=config)  # the default session would keep old credentials
    except (ValueError, exceptions.BotoCoreError) as error:  # an endpoint that is no address, an unknown profile
        raise InputError(
            f"The S3 client can't be created: {type(error).__name__}.", "Check the AWS_* variables."
        ) from error
    for operation in _WHOLE:
        made.meta.events.register(f"needs-retry.s3.{operation}", _ask_again)  # type: ignore[arg-type]  # handlers answer here
    return made


def _ask_again(
    response: tuple[Any, dict[str, Any]] | None,
    attempts: int,
    operation: "OperationModel",
    request_dict: dict[str, Any],
    **_: object,
) -> float | None:
    """Seconds to wait before an answer is asked for again that broke off in its head; None if it is whole.

    Without the length of its body, botocore would take it for an empty object or for the last page of a listing.
    """
    if response is None or response[0].status_code not in {200, 206} or _WHOLE[operation.name] in response[1]:
        return None
    if attempts >= _BODY_ATTEMPTS:
        raise exceptions.ConnectionClosedError(endpoint_url=request_dict["url"])
    return 2.0**attempts / 8


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`.

    Raises:
        InputError: It names no bucket, or contains keys.
    """
    check_no_login(uri, "The address")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise InputError(f"{uri!r} names no bucket.", "Write s3://bucket/prefix.")
    return bucket, key


def list_objects(uri: str, *, patient: bool = True) -> Iterator[tuple[str, int, str]]:
    """Uri, size in bytes and ETag of every object whose key starts as `uri` does, in the order of the keys.

    Here and below: with `patient`, an outage of the server is waited out for as long as `outages` says.
    """
    bucket, _ = split_uri(uri)
    for page in _pages(uri, "", patient=patient):
        for item in page.get("Contents", []):
            yield f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"')


def _pages(uri: str, delimiter: str, *, patient: bool = True) -> Iterator["ListObjectsV2OutputTypeDef"]:
    """The pages of a listing; during an outage the next page is waited for, and none is listed twice."""
    bucket, prefix = split_uri(uri)
    more: dict[str, Any] = {"Delimiter": delimiter} if delimiter else {}
    while True:
        page = _waiting(uri, lambda: client().list_objects_v2(Bucket=bucket, Prefix=prefix, **more), patient=patient)
        yield page
        if not page["IsTruncated"]:
            return
        more["ContinuationToken"] = page["NextContinuationToken"]


def look_up(uri: str) -> tuple[int, str]:
    """Size in bytes and ETag of one object, without its content.

    Raises:
        InputError: It can't be looked up, for a reason that the sentence tells.
    """
    bucket, key = split_uri(uri)
    found = _waiting(uri, lambda: client().head_object(Bucket=bucket, Key=key))
    return found["ContentLength"], found["ETag"].strip('"')


def list_folders(uri: str) -> Iterator[str]:
    """Names of the folders right below `uri`, which ends with a slash or is a bucket."""
    _, prefix = split_uri(uri)
    for page in _pages(uri, "/"):
        for item in page.get("CommonPrefixes", []):
            yield item["Prefix"].removeprefix(prefix).rstrip("/")


def read_bytes(uri: str, limit: int | None = None, *, patient: bool = True) -> bytes:
    """The content of an object.

    Raises:
        InputError: It can't be read, for a reason that the sentence tells.
        ValueError: It is larger than `limit` bytes.
    """
    return _waiting(uri, lambda: _read_bytes(uri, limit), patient=patient)


def _read_bytes(uri: str, limit: int | None) -> bytes:
    bucket, key = split_uri(uri)
    attempt = 0
    while True:
        attempt += 1
        try:
            response = client().get_object(Bucket=bucket, Key=key)
            if limit is not None and response["ContentLength"] > limit:
                response["Body"].close()
                raise ValueError(f"{uri} is larger than {limit} bytes")
            return response["Body"].read()
        except _BROKEN_BODY as error:
            if attempt == _BODY_ATTEMPTS:
                raise
            outages.current()[1](f"waiting for S3: {uri} broke off ({type(error).__name__}) and is fetched again")
            time.sleep(2.0**attempt / 8)


class _Limited(io.BufferedRandom):
    """A file that refuses to become larger than `limit` bytes, wherever a part of it is written."""

    limit: int | None = None

    def write(self, content: "ReadableBuffer") -> int:
        if self.limit is not None and self.tell() + memoryview(content).nbytes > self.limit:
            raise ValueError(f"grown beyond {self.limit} bytes")
        return super().write(content)


def download(uri: str, target: Path, limit: int | None = None, *, patient: bool = True) -> None:
    """Write an object to a file; a reader or a kill never sees half of it.

    Raises:
        InputError: It can't be read, for a reason that the sentence tells.
        ValueError: It is larger than `limit` bytes; no more than these were ever on the disk.
    """
    if limit is not None and look_up(uri)[0] > limit:  # most that is too large is not even begun
        raise ValueError(f"larger than {limit} bytes")
    bucket, key = split_uri(uri)
    part = target.with_name(f".{target.name}.{os.getpid()}")

    def fetch() -> None:
        with _Limited(io.FileIO(part, "w+")) as file:
            file.limit = limit
            client().download_fileobj(bucket, key, file)

    try:
        _waiting(uri, fetch, patient=patient)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def upload(source: Path, uri: str, *, patient: bool = True) -> None:
    """Write a file to an object, in parts if it is large.

    Raises:
        InputError: It can't be written, for a reason that the sentence tells.
    """
    bucket, key = split_uri(uri)

    def send() -> None:
        with source.open("rb") as file:
            client().upload_fileobj(file, bucket, key)

    _waiting(uri, send, patient=patient)


def delete(uri: str) -> None:
    """Remove an object, if it is there.

    Raises:
        InputError: It can't be removed, for a reason that the sentence tells.
    """
    bucket, key = split_uri(uri)
    _waiting(uri, lambda: client().delete_object(Bucket=bucket, Key=key), patient=False)


def _waiting(uri: str, work: Callable[[], _Result], *, patient: bool = True) -> _Result:
    """Do something with the server; again and again during an outage, and say so.

    Raises:
        InputError: It can't be done, for a reason that the sentence tells.
        OutageError: The outage took longer than may be waited.
    """

    def explained() -> _Result:
        with _explained(uri):
            return work()

    if not patient:
        return explained()
    return outages.repeated(explained, "S3", lambda error: error.sentence if isinstance(error, NoAnswerError) else "")


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what boto3 raises into one sentence."""
    try:
        yield
    except _CREDENTIALS as error:
        raise UnavailableError(
            f"There are no usable credentials for {uri}.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        ) from error
    except exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise _refusal(uri, str(error.response.get("Error", {}).get("Code", "unknown")), status) from error
    except exceptions.IncompleteReadError as error:
        raise NoAnswerError(
            f"The S3 server's answers for {uri} were cut off.", "Check the network, and run again."
        ) from error
    except _UNREACHABLE as error:
        server = urlsplit(client().meta.endpoint_url).netloc.rpartition("@")[2]  # without a password
        raise NoAnswerError(
            f"The S3 server of {uri} can't be reached at {server}.",
            "Check AWS_ENDPOINT_URL and the network.",
        ) from error
    except exceptions.BotoCoreError as error:
        raise UnavailableError(
            f"Reading {uri} failed: {type(error).__name__}.", "Check the address and the AWS_* variables."
        ) from error


def _refusal(uri: str, code: str, status: int) -> InputError:
    bucket, _ = split_uri(uri)
    if status >= 500 or code in _OVERLOADED:  # noqa: PLR2004 - HTTP: the server's own errors
        return NoAnswerError(f"{uri}: the S3 server answers with {code}.", "Check its log, or wait.")
    kind = ObjectError if code in _OF_ONE_OBJECT else UnavailableError
    if code == "NoSuchBucket":
        return kind(f"There is no bucket {bucket!r}.", "Check the name and AWS_ENDPOINT_URL.")
    if code in {"NoSuchKey", "404"}:
        return kind(f"There is no object {uri}.", "Check the key.")
    if code in _REFUSED:
        return kind(f"{uri}: {_REFUSED[code]}.", "Check the credentials and their rights on the bucket.")
    return kind(f"{uri}: the S3 server refuses with {code}.", "Check the bucket, its region and AWS_ENDPOINT_URL.")
