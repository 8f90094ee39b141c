"""The activation store and an S3 prefix that several homes share: what one of them computed, the others fetch.

A segment in the prefix is `SPACE/SEGMENT/` with the files that it has on disk. They are written data first, then the
index, then segment.json, so that what has a segment.json is whole. A segment may be sent again when it has grown; its
index is the measure. What comes from a bucket is checked before it is taken: names, sizes, types, and the checksum of
every row that is asked for. Whoever can write to the prefix can still change what a network learns.
"""

import json
import math
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.activations import segments, spaces, store
from components.core.activations.passes import ComputePass
from components.core.activations.requests import RowRequest
from components.core.contract.listener import SILENT, Listener
from components.core.errors import ExpectedError

MAX_FACTS_BYTES = 1 << 16  # most of a segment.json
MAX_INDEX_BYTES = 1 << 28  # most of an index: 7 million rows
TRANSFERS = 8  # segments in flight: storage cuts a large file into parts, which have threads of their own
CLOCK_SKEW_SECONDS = 3600.0  # seconds by which the clocks of two machines may differ
_SEGMENT = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"segment\.json|index|(?:0|[1-9]\d?)\.bin")
_STRUCTURES = {"builtins.list", "builtins.tuple", "builtins.dict"}
_given_up: set[str] = set()  # prefixes that failed in this process: every further try would wait for the network

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    dtype: Literal["float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"]
    shape: list[Annotated[int, Field(ge=1, le=1 << 30)]] = Field(max_length=8)
    channels_last: bool


class _Facts(BaseModel):
    """Allowed values of a segment.json."""

    model_config = ConfigDict(extra="forbid", strict=True)
    engine: str = Field(pattern=r"^[\w.+ -]{1,100}$")
    created: int = Field(ge=0)
    spec: str
    leaves: list[_Leaf] = Field(min_length=1, max_length=100)


@dataclass(frozen=True)
class _Remote:
    """A segment in the prefix whose description was checked."""

    uri: str
    space: Path
    facts: bytes
    index: bytes
    keys: frozenset[bytes]
    files: Mapping[str, int]  # of data, with the size that each was listed with
    bytes: int
    created: int

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]


def fetch(
    request: RowRequest, of_lines: Sequence[Path], missing: Sequence[ComputePass], listener: Listener = SILENT
) -> bool:
    """Bring the segments that hold missing rows from the shared prefix into the store, as far as there is room.

    A failure is told and costs no more than computing what could have been fetched.

    Args:
        request: All rows asked for.
        of_lines: The space of every line.
        missing: What would have to be computed.
        listener: Takes a note on what was fetched, or on what failed.

    Returns:
        Whether there may be more rows in the store than before.

    Raises:
        InputError: `THAWLINE_ACTIVATIONS` is an address, but none of a bucket.
    """
    prefix = store.shared_prefix()
    if not prefix or prefix in _given_up:
        return False
    wanted: dict[Path, set[bytes]] = {}
    for work in missing:
        for line in work.lines:
            wanted.setdefault(of_lines[line], set()).update(request.keys[i] for i in work.positions)
    try:
        with _one_at_a_time():
            offered = _offered(prefix, wanted)
            sizes = [remote.bytes for remote in _brought(offered, wanted, request.policy.budget, listener)]
        if sizes:
            listener.note(f"Activations: {_sizes(sizes)} fetched from {prefix}")
    except (ExpectedError, OSError) as error:
        _give_up(prefix, error, listener)
    for line, space in enumerate(of_lines):
        if space in wanted and any(space.glob("[!.]*/segment.json")):
            spaces.describe(space, request.network, line, request.policy.precision)
    return True


def send(places: Sequence[Path], listener: Listener = SILENT) -> None:
    """Copy to the shared prefix what these spaces hold and the prefix does not; a failure is told, and no more.

    Raises:
        InputError: `THAWLINE_ACTIVATIONS` is an address, but none of a bucket.
    """
    prefix = store.shared_prefix()
    if not prefix or prefix in _given_up:
        return
    try:
        with _one_at_a_time():
            unsent = [item for space in places for item in _unsent(prefix, space)]
            sizes = [size for size in _in_threads(lambda item: _put(*item), unsent, TRANSFERS) if size]
    except (ExpectedError, OSError) as error:
        _give_up(prefix, error, listener)
        return
    if sizes:
        listener.note(f"Activations: {_sizes(sizes)} copied to {prefix}")


def _offered(prefix: str, places: Collection[Path]) -> list[_Remote]:
    """Segments of these spaces that the store has not, or with fewer rows, newest first; of each its index only."""
    found = []
    for space in places:
        for name, sizes in _listed(f"{prefix}/{space.name}/").items():
            if "segment.json" in sizes and _rows_here(space / name) < sizes.get("index", 0) // store.RECORD:
                found.append((f"{prefix}/{space.name}/{name}", space, sizes))
    from components.core.storage import s3  # boto3 costs half a second

    described = _in_threads(lambda item: _described(*item), found, s3.CONNECTIONS)
    return sorted([remote for remote in described if remote is not None], key=lambda remote: -remote.created)


def _brought(
    offered: Sequence[_Remote], wanted: Mapping[Path, set[bytes]], budget: float, listener: Listener
) -> Iterator[_Remote]:
    """Download segments until every row is there that can be had; a row that is damaged in one is sought in others."""
    missing = {space: set(keys) for space, keys in wanted.items()}
    room = store.free_for(store.store(), budget, list(wanted))
    left = list(offered)
    while left:
        covered: dict[Path, set[bytes]] = {space: set() for space in missing}
        chosen = []
        for remote in left:
            useful = remote.keys & missing[remote.space] - covered[remote.space]
            if useful and remote.bytes <= room:
                covered[remote.space] |= useful
                room -= remote.bytes
                chosen.append(remote)
        if not chosen:
            return
        left = [remote for remote in left if remote not in chosen]
        store.make_room(store.store(), sum(remote.bytes for remote in chosen), budget, list(wanted))
        sound = _in_threads(lambda remote: _bring(remote, wanted[remote.space]), chosen, TRANSFERS)
        for remote, keys in zip(chosen, sound, strict=True):
            missing[remote.space] -= keys
            if keys:
                yield remote
            else:
                listener.note(
                    f"Activations: {remote.uri} is damaged or was changed during the download, and was skipped"
                )


def _bring(remote: _Remote, wanted: set[bytes]) -> set[bytes]:
    """Download one segment; the wanted keys whose rows are sound. Without any, nothing is kept.

    It takes the place of a shorter form that is here, if that is its beginning and all of it is sound again.
    """
    from components.core.storage import s3

    target, part = remote.space / remote.name, remote.space / f".{remote.name}.{secrets.token_hex(4)}"
    folder = part / remote.name
    try:
        folder.mkdir(parents=True)
        for name, size in remote.files.items():
            s3.download(f"{remote.uri}/{name}", folder / name, size, patient=False)
        (folder / "index").write_bytes(remote.index)
        (folder / "segment.json").write_bytes(remote.facts)
        here = _index(target)
        before = set(store.keys_in(here))
        keys = sorted(remote.keys & (wanted | before))
        found, _row = segments.find(segments.segments(part), keys)
        sound = {key for key, where in zip(keys, found.tolist(), strict=True) if where >= 0}
        if not sound & wanted or not remote.index.startswith(here) or before - sound:
            return set()
        if target.exists():
            store.remove(target)  # who reads it goes on
            segments.forget(target)
        folder.rename(target)
        return sound & wanted
    except ValueError:  # larger than it was listed
        return set()
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _index(folder: Path) -> bytes:
    """The whole records of a segment's index; nothing where there is none."""
    try:
        index = (folder / "index").read_bytes()
    except OSError:
        return b""
    return index[: len(index) // store.RECORD * store.RECORD]


def _rows_here(folder: Path) -> int:
    """Rows that a segment has in the store, as far as its index tells; -1 where there is none."""
    return len(_index(folder)) // store.RECORD if folder.exists() else -1


def _described(uri: str, space: Path, sizes: Mapping[str, int]) -> _Remote | None:
    """A segment of the prefix by its description and index; None if it is not one that can be used."""
    from components.core.storage import s3

    if sizes["segment.json"] > MAX_FACTS_BYTES or not 0 < sizes.get("index", 0) <= MAX_INDEX_BYTES:
        return None
    try:
        facts = s3.read_bytes(f"{uri}/segment.json", MAX_FACTS_BYTES, patient=False)
        leaves = _checked(facts)
        index = s3.read_bytes(f"{uri}/index", MAX_INDEX_BYTES, patient=False)
    except ValueError:  # grown since it was listed, or no description
        return None
    rows = len(index) // store.RECORD
    files = tuple(f"{i}.bin" for i in range(len(leaves.leaves)))
    for name, leaf in zip(files, leaves.leaves, strict=True):
        least = rows * math.prod(leaf.shape) * segments.Leaf(leaf.dtype, (), channels_last=False).bytes
        if not 0 < least <= sizes.get(name, 0) <= least + segments.SEGMENT_BYTES:  # it may have grown since
            return None
    if not spaces.accepts(leaves.engine) or leaves.created > (time.time() + CLOCK_SKEW_SECONDS) * 1e9:
        return None
    keys = frozenset(store.keys_in(index))
    size = sum(sizes[name] for name in (*files, "index", "segment.json"))
    listed = {name: sizes[name] for name in files}
    return _Remote(uri, space, facts, index, keys, listed, size, leaves.created)


def _checked(content: bytes) -> _Facts:
    """The checked content of a segment.json.

    Raises:
        ValueError: It says what no segment of ours says.
    """
    try:
        facts = _Facts.model_validate_json(content)
        protocol, structure = json.loads(facts.spec)
        if protocol != 1 or _leaves_of(structure) != len(facts.leaves):
            raise ValueError("the structure does not fit the leaves")
    except (ValidationError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"not a description of a segment: {type(error).__name__}") from error
    if any(leaf.channels_last and len(leaf.shape) != 3 for leaf in facts.leaves):  # noqa: PLR2004 - [H, W, C]
        raise ValueError("only pictures are stored channels last")
    return facts


def _leaves_of(structure: dict[str, Any]) -> int:
    """Count the tensors of a structure; only nested lists, tuples and dicts are allowed.

    To load a structure of another kind, torch would import a module that it names.
    """
    kind, context, children = structure["type"], structure["context"], structure["children_spec"]
    if kind is None and context is None and not children:
        return 1
    names = json.loads(context)
    plain = names is None or all(isinstance(name, str | int) for name in names)
    if kind not in _STRUCTURES or not plain or isinstance(names, dict):
        raise ValueError("not a structure of lists, tuples and dicts only")
    return sum(_leaves_of(child) for child in children)


def _unsent(prefix: str, space: Path) -> list[tuple[Path, str, bytes]]:
    """Segments of a space that the prefix lacks, or has with fewer rows: folder, address and index as it is now."""
    here = sorted(store.inside(space))
    there = _listed(f"{prefix}/{space.name}/") if here else {}
    found = []
    for folder in here:
        sizes = there.get(folder.name, {})
        index = _index(folder)  # without half a record: another process may be writing it
        try:
            _checked((folder / "segment.json").read_bytes())
        except (OSError, ValueError):  # not a segment, evicted just now, or of a kind that nobody would take
            continue
        if index and not ("segment.json" in sizes and sizes.get("index", 0) >= len(index)):
            found.append((folder, f"{prefix}/{space.name}/{folder.name}", index))
    return found


def _put(folder: Path, uri: str, index: bytes) -> int:
    """Upload a segment so that a reader never takes half of it; its size, 0 if it was evicted meanwhile."""
    from components.core.storage import s3

    size = 0
    try:
        facts = (folder / "segment.json").read_bytes()
        for number in range(len(_checked(facts).leaves)):
            path = folder / f"{number}.bin"
            size += path.stat().st_size
            s3.upload(path, f"{uri}/{path.name}", patient=False)
    except FileNotFoundError:  # no index was sent: nobody takes what was
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        # the segment's own index may have grown while its data travelled, and all of it may be gone
        for name, content in (("index", index), ("segment.json", facts)):
            (Path(temporary) / name).write_bytes(content)
            s3.upload(Path(temporary) / name, f"{uri}/{name}", patient=False)
    return size


def _listed(uri: str) -> dict[str, dict[str, int]]:
    """Segments below an address: name to sizes of its files; what is neither is ignored."""
    from components.core.storage import s3

    found: dict[str, dict[str, int]] = {}
    for address, size, _etag in s3.list_objects(uri, patient=False):
        name, _, file = address.removeprefix(uri).partition("/")
        if _SEGMENT.fullmatch(name) and _FILE.fullmatch(file):
            found.setdefault(name, {})[file] = size
    return found


def _in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item], threads: int) -> list[_Result]:
    """The result of every item in their order; the first failure is raised, and what had not begun is left."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)


def _one_at_a_time() -> FileLock:
    """One process of a home at a time: the next one finds what the first brought or sent."""
    store.store().mkdir(parents=True, exist_ok=True)
    return FileLock(store.store() / ".sync.lock")


def _give_up(prefix: str, error: Exception, listener: Listener) -> None:
    _given_up.add(prefix)
    listener.note(f"Activations are not shared through {prefix}: {error} This step continues with the local ones.")


def _sizes(sizes: Sequence[int]) -> str:
    return f"{len(sizes)} segment{'s' if len(sizes) > 1 else ''} ({sum(sizes) / 1e6:,.1f} MB)"
