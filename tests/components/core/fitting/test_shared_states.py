"""States of a training that a pod leaves in S3, and the next pod finds: against a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from components.core.errors import InputError
from components.core.fitting import shared_states, training_state
from components.core.storage import home_folder, outages
from components.core.storage import s3 as storage

pytest_plugins = ["tests.services.s3"]


@pytest.fixture
def prefix(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the states are, in a bucket that is removed after the test."""
    monkeypatch.setenv(shared_states.VARIABLE, f"{s3}/states/")
    yield f"{s3}/states"
    for uri, _, _ in list(storage.list_objects(f"{s3}/")):
        storage.delete(uri)
    storage.client().delete_bucket(Bucket=s3.removeprefix("s3://"))


def pod(home: Path, patch: pytest.MonkeyPatch) -> Path:
    """The folder of a phase's states in a pod with an empty home of its own."""
    patch.setenv("THAWLINE_HOME", str(home))
    return home_folder.home() / "runs/key/training/fine_tune/start/phase"


def write(folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        training_state.write(folder, {"weight": torch.full((3,), float(epoch))}, {"epoch": epoch})


def epoch_of(folder: Path) -> int | None:
    found = training_state.read(folder)
    if found is None:
        return None
    assert torch.equal(found[0]["weight"], torch.full((3,), float(found[1]["epoch"])))
    return int(found[1]["epoch"])


@pytest.mark.slow  # the server needs 4 s to start
def test_the_next_pod_goes_on_from_the_last_state(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the newest one under the run's key; the bucket keeps as many as the disk, and numbers go on."""
    write(pod(tmp_path / "a", monkeypatch), 1, 2, 3)
    kept = [uri.rpartition("/")[2][:9] for uri, _, _ in storage.list_objects(prefix)]
    assert kept == ["000000002", "000000003"]
    folder = pod(tmp_path / "b", monkeypatch)
    assert epoch_of(folder) == 3
    write(folder, 4)
    assert epoch_of(pod(tmp_path / "c", monkeypatch)) == 4


@pytest.mark.slow
def test_a_broken_state_of_the_bucket_is_passed_over(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content that is not what its name says is not read, the state before it is; other objects are left alone."""
    write(pod(tmp_path / "a", monkeypatch), 1, 2)
    *_, (last, _, _) = storage.list_objects(prefix)
    broken = tmp_path / "broken"
    broken.write_bytes(b"not a state")
    storage.upload(broken, last)
    storage.upload(broken, f"{last.rpartition('/')[0]}/zzz.safetensors")
    assert epoch_of(pod(tmp_path / "b", monkeypatch)) == 1


def test_training_goes_on_without_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that can't be sent is on the disk all the same, and the progress says why it is nowhere else."""
    said: list[str] = []
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv(shared_states.VARIABLE, "s3://bucket/states")
    storage.client.cache_clear()
    folder = pod(tmp_path, monkeypatch)
    with outages.waited_out(said.append):
        write(folder, 1)
    assert epoch_of(folder) == 1
    assert said[0].startswith("The state of the training is on this machine alone: The S3 server of s3://bucket/states")
    storage.client.cache_clear()


@pytest.mark.parametrize("address", ["/states", "s3://", "gs://bucket/states", "s3://key:secret@bucket/states"])
def test_what_is_no_bucket_is_refused(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the variable, and repeats no secret."""
    monkeypatch.setenv(shared_states.VARIABLE, address)
    with pytest.raises(InputError, match="THAWLINE_STATES") as refused:
        training_state.read(pod(tmp_path, monkeypatch))
    assert "secret@" not in str(refused.value)
