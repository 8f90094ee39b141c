"""Homes that share activations through S3: against a real server, and a bucket that is not to be trusted."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.core.activations import caching_plan, segments, sharing
from components.core.activations import store as cache
from components.core.activations.requests import CachePolicy, RowRequest, row_key
from components.core.activations.rows import StoredRows
from components.core.activations.segments import Writer
from components.core.contract.listener import Callbacks
from components.core.errors import InputError
from components.core.networks.network import Network
from components.core.storage import s3 as storage
from tests.fakes.proxy import Fault, Proxy

pytest_plugins = ["tests.services.s3"]
needs_server = pytest.mark.slow  # it needs 4 s to start

COUNT = 40
INPUTS = torch.randn(COUNT + 1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
GIGABYTE = 1e9


class Home:
    """A machine with a store of its own; `rows` asks for activations there and notes what had to be computed."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch
        self.computed: list[int] = []
        self.said: list[str] = []

    def rows(self, count: int = COUNT, lines: Sequence[int] = (1, 2), budget: float = GIGABYTE) -> dict[int, Any]:
        self._patch.setenv("THAWLINE_HOME", str(self.folder))
        self._patch.setattr(sharing, "_given_up", set())  # a process of its own
        self._patch.setattr(segments, "_VERIFIED", {})
        self.computed.clear()
        self.said.clear()

        def encode(positions: Sequence[int]) -> Tensor:
            self.computed.extend(positions)
            return INPUTS[list(positions)]

        keys = [row_key(str(i)) for i in range(count)]
        policy = CachePolicy("keep" if budget == GIGABYTE else "auto", "float32", budget)
        request = RowRequest(network(), dict.fromkeys(lines, 5.0), keys, encode, policy)
        return caching_plan.rows_at(request, Callbacks(note=self.said.append))

    @property
    def store(self) -> Path:
        return self.folder / "activations"

    def hidden(self) -> list[str]:
        return [path.name for path in self.store.glob("*/.*")]


def network() -> Network:
    torch.manual_seed(0)
    return Network([nn.Conv2d(3, 4, 3), nn.Flatten()], nn.Linear(64, 2), {})


def right(rows: dict[int, Any], count: int = COUNT) -> bool:
    """Whether these are kept rows, and those that the network gives."""
    with torch.no_grad():
        return all(
            isinstance(found, StoredRows)
            and torch.allclose(found[0:count], network().below(INPUTS[:count], line), atol=1e-6)
            for line, found in rows.items()
        )


@pytest.fixture
def prefix(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A prefix in a bucket that is removed after the test: the server has room for a few only."""
    with monkeypatch.context() as patch:
        patch.setenv("THAWLINE_ACTIVATIONS", f"{s3}/team/activations/")
        yield f"{s3}/team/activations"
    storage.client.cache_clear()  # a test may have used other credentials
    bucket = s3.removeprefix("s3://")
    keys = [{"Key": storage.split_uri(uri)[1]} for uri in objects(s3)]
    if keys:
        storage.client().delete_objects(Bucket=bucket, Delete={"Objects": keys})
    storage.client().delete_bucket(Bucket=bucket)


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Home, Home]:
    return Home(tmp_path / "one", monkeypatch), Home(tmp_path / "two", monkeypatch)


def objects(prefix: str, end: str = "") -> list[str]:
    return [uri for uri, _, _ in storage.list_objects(prefix) if uri.endswith(end)]


def put(uri: str, content: bytes) -> None:
    bucket, key = storage.split_uri(uri)
    storage.client().put_object(Bucket=bucket, Key=key, Body=content)


@needs_server
def test_the_second_home_computes_nothing(prefix: str, homes: tuple[Home, Home]) -> None:
    """What one home computed, another one fetches; both say so, and a listing knows what came."""
    one, two = homes
    assert right(one.rows())
    assert one.computed
    assert "copied to" in one.said[-1]
    assert right(two.rows())
    assert two.computed == []
    [sentence] = two.said
    assert "2 segments" in sentence
    assert sentence.endswith(f"fetched from {prefix}")
    assert {(space["line"], space["examples"]) for space in cache.spaces(two.store)} == {(1, COUNT), (2, COUNT)}
    assert two.hidden() == []
    two.rows()
    assert two.said == []


@needs_server
def test_new_examples_go_both_ways(prefix: str, homes: tuple[Home, Home]) -> None:
    """A new example is computed by one home only, whichever sees it first."""
    one, two = homes
    one.rows(COUNT - 1)
    assert right(two.rows(COUNT), COUNT)
    assert set(two.computed) == {COUNT - 1}
    assert right(one.rows(COUNT), COUNT)
    assert one.computed == []


@needs_server
def test_only_what_holds_a_wanted_row_is_fetched(prefix: str, homes: tuple[Home, Home]) -> None:
    """Segments of other examples, and of lines that nobody asked for, stay where they are."""
    one, two = homes
    one.rows(10)
    one.rows(COUNT)
    assert len(objects(prefix, "segment.json")) == 4
    two.rows(10, lines=[2])
    assert two.computed == []
    [folder] = two.store.glob("*/*/segment.json")
    assert len(list(cache.keys_in((folder.parent / "index").read_bytes()))) == 10


@needs_server
def test_the_budget_holds_for_what_is_fetched(prefix: str, homes: tuple[Home, Home]) -> None:
    """What does not fit into the budget is not downloaded."""
    one, two = homes
    one.rows()
    two.rows(budget=COUNT * 64 * 4 * 1.5)
    assert sum(entry.bytes for entry in cache.entries(two.store)) < COUNT * 64 * 4 * 1.5


@needs_server
@pytest.mark.parametrize("broken", ["0.bin", "index", "segment.json"])
def test_an_interrupted_upload_is_never_taken(
    broken: str, prefix: str, homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an upload breaks off, the run goes on, nobody takes the half segment, and the next pass completes it."""
    one, two = homes
    real = storage.upload

    def flaky(source: Path, uri: str, **options: bool) -> None:
        if uri.endswith(broken):
            raise InputError(f"The S3 server of {uri} can't be reached.", "Check the network.")
        real(source, uri, **options)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", flaky)
        assert right(one.rows())
    assert one.said[-1].startswith(f"Activations are not shared through {prefix}: The S3 server of")
    assert objects(prefix, "segment.json") == []
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "send", lambda *_: None)
        assert right(two.rows())
    assert set(two.computed) == set(range(COUNT))
    one.rows(COUNT + 1)
    assert set(one.computed) == {COUNT}
    assert len(objects(prefix, "segment.json")) == 4


@needs_server
def test_rows_that_were_added_to_a_segment_are_sent(prefix: str, homes: tuple[Home, Home]) -> None:
    """A segment that was sent while another process wrote it is sent again when it has grown."""
    one, two = homes
    one.rows(lines=[2])
    [index] = one.store.glob("*/*/index")
    whole = index.read_bytes()
    [uri] = objects(prefix, "index")
    put(uri, whole[: 10 * cache.RECORD])
    two.rows(10, lines=[2])
    assert two.computed == []
    one.rows(COUNT + 1, lines=[2])
    assert storage.read_bytes(uri) == whole


@needs_server
def test_a_segment_that_has_grown_is_fetched_again(prefix: str, homes: tuple[Home, Home]) -> None:
    """The longer form takes the place of the one that is here, and whoever reads that goes on."""
    one, two = homes
    one.rows(lines=[2])
    [uri] = objects(prefix, "index")
    whole = storage.read_bytes(uri)
    put(uri, whole[: 10 * cache.RECORD])
    before = two.rows(10, lines=[2])
    put(uri, whole)
    assert right(two.rows(lines=[2]))
    assert two.computed == []
    assert right(before, 10)
    assert len(list(two.store.glob("*/*/segment.json"))) == 1
    assert two.hidden() == []


@needs_server
@pytest.mark.parametrize("damage", ["another beginning", "damaged rows"])
def test_only_what_goes_on_from_what_is_here_takes_its_place(
    damage: str, prefix: str, homes: tuple[Home, Home]
) -> None:
    """Another segment under the same name, or one whose old rows are damaged, leaves the sound rows alone."""
    one, two = homes
    one.rows(lines=[2])
    [uri], [data] = objects(prefix, "index"), objects(prefix, "0.bin")
    whole, size = storage.read_bytes(uri), cache.RECORD
    put(uri, whole[: 10 * size])
    two.rows(10, lines=[2])
    [here] = two.store.glob("*/*/index")
    if damage == "another beginning":
        put(uri, whole[size : 2 * size] + whole[:size] + whole[2 * size :])
    else:
        put(uri, whole)
        put(data, bytes(64 * 4) + storage.read_bytes(data)[64 * 4 :])
    assert right(two.rows(lines=[2]))
    assert set(two.computed) == set(range(10, COUNT))
    assert here.read_bytes() == whole[: 10 * size]


@needs_server
def test_an_object_larger_than_it_was_listed_never_fills_the_disk(
    prefix: str, homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What grows between the listing and the download is not taken beyond the listed size; its rows are computed."""
    one, two = homes
    one.rows(lines=[2])
    real, limits = storage.download, []

    def grown(uri: str, target: Path, limit: int | None = None, **options: bool) -> None:
        put(uri, bytes(1 << 20))
        limits.append(limit)
        real(uri, target, limit, **options)

    monkeypatch.setattr(storage, "download", grown)
    assert right(two.rows(lines=[2]))
    assert limits == [COUNT * 64 * 4]
    assert set(two.computed) == set(range(COUNT))
    assert any("was changed during the download" in sentence for sentence in two.said)
    assert two.hidden() == []


@needs_server
def test_a_segment_that_is_evicted_meanwhile_is_not_sent(
    prefix: str, homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may remove it between two files: no error, no half segment, and the others are sent."""
    one, _ = homes
    real, evicted = storage.upload, []

    def late(source: Path, uri: str, **options: bool) -> None:
        if not evicted:
            evicted.append(source.parent)
            cache.remove(source.parent)
        real(source, uri, **options)

    monkeypatch.setattr(storage, "upload", late)
    monkeypatch.setattr(sharing, "TRANSFERS", 1)
    one.rows()
    assert len(objects(prefix, "segment.json")) == 1
    assert len(objects(prefix, "index")) == 1
    assert sharing._given_up == set()
    assert any("1 segment (" in sentence for sentence in one.said)


@needs_server
def test_half_a_record_stays_at_home(prefix: str, homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process is writing at this moment is sent up to its last whole record."""
    one, _ = homes
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "send", lambda *_: None)
        one.rows(lines=[2])
    [index] = one.store.glob("*/*/index")
    index.write_bytes(index.read_bytes()[:-5])
    sharing.send([index.parent.parent], Callbacks(note=one.said.append))
    [uri] = objects(prefix, "index")
    assert len(storage.read_bytes(uri)) == (COUNT - 1) * cache.RECORD


@needs_server
@pytest.mark.parametrize("network", ["flaky", "gone"])
def test_a_bad_network_costs_no_wrong_row(
    network: str, prefix: str, s3_endpoint: str, homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped and cut connections are tried again; where there is no end to them, the rows are computed here."""
    one, two = homes
    gone = network == "gone"
    assert right(one.rows())
    with Proxy(s3_endpoint) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.uri)
        patch.setenv("AWS_MAX_ATTEMPTS", "3")
        storage.client.cache_clear()
        if gone:  # one good connection would be kept, and might serve everything
            proxy.always = Fault(cut=700)
        else:
            proxy.faults.extend([Fault(cut=40), Fault(), Fault(drop=True), Fault(cut=700), Fault(drop=True)])
        assert right(two.rows())
    storage.client.cache_clear()
    assert (two.computed == []) is not gone
    assert any("not shared" in sentence for sentence in two.said) is gone
    assert two.hidden() == []


@needs_server
@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_cost_the_sharing_only(
    variable: str, prefix: str, homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wrong key the rows are computed and kept, one line says why, and the server is not asked again."""
    one, _ = homes
    with monkeypatch.context() as patch:
        patch.setenv(variable, "wrong-and-private")
        storage.client.cache_clear()
        assert right(one.rows())
    storage.client.cache_clear()
    told = [sentence for sentence in one.said if "not shared" in sentence]
    assert len(told) == 1
    assert "key is" in told[0]
    assert "continues with the local ones" in told[0]
    assert "private" not in told[0]


@needs_server
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty index", "no facts"])
def test_a_damaged_object_is_computed_again(damage: str, prefix: str, homes: tuple[Home, Home]) -> None:
    """Rows whose bytes are not those that were written are computed, and sent for the others."""
    one, two = homes
    one.rows(lines=[2])
    [data], [index], [facts] = (objects(prefix, end) for end in ("0.bin", "index", "segment.json"))
    content = bytearray(storage.read_bytes(data))
    if damage == "truncated":
        put(data, bytes(content[: len(content) // 2]))
    elif damage == "flipped":
        content[:: 64 * 4] = bytes(value ^ 1 for value in content[:: 64 * 4])  # in every row
        put(data, bytes(content))
    else:
        put(*((index, b"") if damage == "empty index" else (facts, b"{}")))
    assert right(two.rows(lines=[2]))
    assert set(two.computed) == set(range(COUNT))
    assert any("damaged" in sentence for sentence in two.said) == (damage == "flipped")
    assert two.hidden() == []
    assert len(list(two.store.glob("*/*/segment.json"))) == 1
    three = Home(two.folder.with_name("three"), two._patch)
    assert right(three.rows(lines=[2]))
    assert three.computed == []


@needs_server
def test_one_damaged_row_costs_one_row(prefix: str, homes: tuple[Home, Home]) -> None:
    """The sound rows of a damaged segment are used."""
    one, two = homes
    one.rows(lines=[2])
    [data] = objects(prefix, "0.bin")
    content = bytearray(storage.read_bytes(data))
    content[7 * 64 * 4] ^= 1
    put(data, bytes(content))
    assert right(two.rows(lines=[2]))
    assert set(two.computed) == {7}


@needs_server
def test_strange_objects_are_left_alone(prefix: str, homes: tuple[Home, Home]) -> None:
    """Objects that no segment of ours has neither reach the disk nor hinder the rest."""
    one, two = homes
    one.rows(lines=[2])
    [facts] = objects(prefix, "segment.json")
    segment = facts.rpartition("/")[0]
    for name in ("run.sh", "deep/er", "1.bin"):
        put(f"{segment}/{name}", b"x")
    assert right(two.rows(lines=[2]))
    assert two.computed == []
    names = {path.name for path in two.store.rglob("*") if path.is_file()}
    assert names == {"segment.json", "index", "0.bin", "space.json", ".sync.lock"}


def test_names_can_not_leave_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a server lists only the names of segments and their files count."""
    space, name = "s3://bucket/space/", "0123456789abcdef"
    bad = [
        "../../evil/index",
        f"{name}/../index",
        f"{name}g/index",
        f"{name}/index\n",
        f"{name}/01.bin",
        f"{name}/a/index",
    ]
    listed = [(f"{space}{one}", 1, "") for one in [*bad, f"{name}/0.bin", f"{name}/index"]]
    monkeypatch.setattr(storage, "list_objects", lambda _uri, **_options: iter(listed))
    assert sharing._listed(space) == {name: {"0.bin": 1, "index": 1}}


@pytest.mark.slow
def test_an_unreachable_server_costs_the_sharing_only(
    homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the run goes on with what is here."""
    for name, value in {
        "THAWLINE_ACTIVATIONS": "s3://bucket/prefix",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    storage.client.cache_clear()
    one, _ = homes
    assert right(one.rows())
    assert sum("can't be reached" in sentence for sentence in one.said) == 1
    storage.client.cache_clear()


def test_an_address_of_no_bucket_is_refused(homes: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong address is a mistake of the user's, not a failure of the network."""
    for address in ("s3://", "gs://bucket/prefix"):
        monkeypatch.setenv("THAWLINE_ACTIVATIONS", address)
        with pytest.raises(InputError, match="THAWLINE_ACTIVATIONS"):
            homes[0].rows()


def facts_of(rows: Any, folder: Path) -> dict[str, Any]:
    Writer(folder, "onnxruntime 1.32.0").append([bytes(32)] * 2, rows)
    [path] = folder.glob("*/segment.json")
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def test_structures_of_ours_are_accepted(tmp_path: Path) -> None:
    """What segments hold may be a tensor, or lists, tuples and dicts of tensors."""
    rows = {"maps": torch.zeros(2, 3, 4, 4), "rest": (torch.zeros(2), [torch.zeros(2, 5, dtype=torch.int64)])}
    facts = facts_of(rows, tmp_path)
    assert len(sharing._checked(json.dumps(facts).encode()).leaves) == 3


IMPORTS = '{"__enum__": true, "fqn": "antigravity:x", "name": "y"}'
LEAF = {"type": None, "context": None, "children_spec": []}


def structure(kind: str, context: str) -> Callable[[dict[str, Any]], None]:
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": [LEAF]}])
    return lambda facts: facts.update(spec=spec)


@pytest.mark.parametrize(
    "change",
    [
        structure("builtins.list", IMPORTS),  # torch would import the module
        structure("builtins.dict", f"[{IMPORTS}]"),
        structure("collections.defaultdict", '{"default_factory_module": "antigravity"}'),
        lambda facts: facts.update(spec=json.dumps([1, LEAF]).replace("[]", "[" * 5000 + "]" * 5000)),
        lambda facts: facts.update(spec="[]"),
        lambda facts: facts.update(engine="\x1b[31m"),
        lambda facts: facts.update(more=1),
        lambda facts: facts["leaves"][0].update(dtype="load"),
        lambda facts: facts["leaves"][0].update(shape=[0]),
        lambda facts: facts["leaves"][0].update(shape=[-4, -16]),
        lambda facts: facts["leaves"][0].update(channels_last=True),
        lambda facts: facts["leaves"].append(facts["leaves"][0]),
        lambda facts: facts.update(leaves=[]),
    ],
)
def test_a_hostile_description_is_refused(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    """Nothing that a description says is believed before it was checked."""
    facts = facts_of(torch.zeros(2, 64), tmp_path)
    sharing._checked(json.dumps(facts).encode())
    change(facts)
    with pytest.raises(ValueError, match="."):
        sharing._checked(json.dumps(facts).encode())


@needs_server
@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.update(created=time.time_ns() + 10**15),
        lambda facts: facts["leaves"][0].update(shape=[1 << 29, 1 << 29]),
        lambda facts: facts.update(spec="x" * sharing.MAX_FACTS_BYTES),
    ],
)
def test_an_implausible_segment_is_not_downloaded(
    change: Callable[[dict[str, Any]], None], prefix: str, homes: tuple[Home, Home]
) -> None:
    """A segment out of the future, of rows that its file can't hold, or with a huge description is left alone."""
    one, two = homes
    one.rows(lines=[2])
    [uri] = objects(prefix, "segment.json")
    facts = json.loads(storage.read_bytes(uri))
    change(facts)
    put(uri, json.dumps(facts).encode())
    assert right(two.rows(lines=[2]))
    assert set(two.computed) == set(range(COUNT))
    assert cache.store() == two.store
