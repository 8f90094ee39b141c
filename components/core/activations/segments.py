"""Rows of tensors on disk: append-only segments that are memory-mapped, checked, and safe to be killed in.

A space is a folder of segments; a segment is a folder that one process writes once:

    segment.json    engine, treespec, and shape, type and layout of every leaf
    0.bin, 1.bin    a leaf each: its rows, one behind the other
    index           a record per row: its key, and the CRC-32 of what segment.json says of its form, of the key and of
                    the row's bytes; what is not in the index is not there

Data are written before their records, so a kill leaves at most rows that nobody sees. Nothing is changed after it was
written: several processes write at the same time, each into segments of its own, and a copy of a folder is a backup.
"""

import contextlib
import json
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, treespec_dumps, treespec_loads

from components.core.activations import store
from components.core.networks.network import Pytree

SEGMENT_BYTES = 1 << 30  # a new segment from here on: what is evicted or copied at once
_RECORD = np.dtype([("key", "V32"), ("crc", "<u4")])
_CHANNELS_LAST = (0, 2, 3, 1)


class FormError(ValueError):
    """Rows of one space have different shapes or structures: they can't be read as one."""


@dataclass(frozen=True)
class Leaf:
    """The layout of one tensor's rows in their file."""

    dtype: str  # as torch names it: float32
    shape: tuple[int, ...]  # of a row, in the order of the file
    channels_last: bool  # the file holds [H, W, C] of a tensor [C, H, W]

    @property
    def bytes(self) -> int:
        """Size of a row."""
        size: int = int(np.prod(self.shape)) * getattr(torch, self.dtype).itemsize
        return size


@dataclass(frozen=True)
class Segment:
    """An opened segment: its rows in the order of the index."""

    folder: Path
    engine: str
    spec: str
    leaves: tuple[Leaf, ...]
    keys: list[bytes]
    crcs: list[int]
    created: int  # nanoseconds since the epoch

    @property
    def row_bytes(self) -> int:
        """Size of one row, all leaves together."""
        return sum(leaf.bytes for leaf in self.leaves)

    def tensors(self) -> list[Tensor]:
        """The leaves [N, ...] in the order of their files, mapped privately: a write never reaches the file."""
        count = len(self.keys)
        return [
            torch.from_file(
                str(self.folder / f"{i}.bin"),
                shared=False,
                size=count * int(np.prod(leaf.shape)),
                dtype=getattr(torch, leaf.dtype),
            ).view(count, *leaf.shape)
            for i, leaf in enumerate(self.leaves)
        ]


class Writer:
    """Appends rows to a space; what `append` returned from is there for every process, and survives a kill."""

    def __init__(self, space: Path, engine: str) -> None:
        self._space, self._engine = space, engine
        self._folder: Path | None = None
        self._form: tuple[str, list[Leaf]] | None = None
        self._written = 0

    def append(self, keys: Sequence[bytes], rows: Pytree) -> None:
        """Add rows, given as a pytree of CPU tensors [len(keys), ...].

        Raises:
            FormError: They have another form than the rows before them; nothing is added.
        """
        tensors, spec = tree_flatten(rows)
        leaves = [_leaf(tensor) for tensor in tensors]
        form = (treespec_dumps(spec), leaves)
        refuse_forms([self._form or form, form])
        if self._folder is None or self._written >= SEGMENT_BYTES:
            self._begin(form)
        arrays = [_bytes(tensor, leaf) for tensor, leaf in zip(tensors, leaves, strict=True)]
        start = _form_checksum(*form)
        for i, array in enumerate(arrays):
            _extend(self._current / f"{i}.bin", array.data)
        records = np.zeros(len(keys), _RECORD)
        for i, key in enumerate(keys):
            records[i] = (key, _checksum(start, key, (array[i] for array in arrays)))
        _extend(self._current / "index", records.tobytes())
        self._written += sum(array.nbytes for array in arrays)

    @property
    def _current(self) -> Path:
        if self._folder is None:
            raise RuntimeError("nothing was appended yet")
        return self._folder

    def _begin(self, form: tuple[str, list[Leaf]]) -> None:
        folder = self._space / secrets.token_hex(8)
        folder.mkdir(parents=True)
        (folder / "index").touch()
        leaves = [asdict(leaf) for leaf in form[1]]
        facts = {"engine": self._engine, "created": time.time_ns(), "spec": form[0], "leaves": leaves}
        (folder / "segment.json").write_text(json.dumps(facts))
        self._folder, self._form, self._written = folder, form, 0


def segments(space: Path, accepts: Callable[[str], bool] = lambda _engine: True) -> list[Segment]:
    """The readable segments of a space whose engine is accepted, oldest first; damaged ones are left out."""
    opened = [_open(folder) for folder in store.inside(space)]
    readable = [segment for segment in opened if segment is not None and accepts(segment.engine)]
    return sorted(readable, key=lambda segment: segment.created)


def find(opened: Sequence[Segment], keys: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    """Segment and row of every key, int64 [N] each; -1 where no segment holds it, or its bytes are damaged or gone.

    Where several segments hold a key, the newest whose bytes are sound counts: it was computed again for a reason.
    """
    places = {key: (i, row) for i, segment in enumerate(opened) for row, key in enumerate(segment.keys)}
    found = torch.tensor([places.get(key, (-1, -1)) for key in keys], dtype=torch.int64).view(-1, 2)
    part, row = found[:, 0].clone(), found[:, 1].clone()
    sound, lost = list(opened), list[int]()
    for number, segment in enumerate(opened):
        here = (part == number).nonzero().squeeze(1)
        damaged = here[_damaged(segment, row[here].tolist())].tolist()
        if damaged:
            gone = set(row[damaged].tolist())
            sound[number] = replace(segment, keys=[b"" if i in gone else key for i, key in enumerate(segment.keys)])
            lost += damaged
    if lost:
        part[lost], row[lost] = find(sound, [keys[position] for position in lost])
    return part, row


def refuse_forms(forms: Sequence[tuple[str, Sequence[Leaf]]]) -> None:
    """Check that rows of these forms, a treespec and its leaves each, can be read as one.

    Raises:
        FormError: They differ.
    """
    first = forms[0]
    for spec, leaves in forms[1:]:
        if (spec, list(leaves)) != (first[0], list(first[1])):
            shapes = [[_row_shape(leaf) for leaf in some] for some in (first[1], leaves)]
            raise FormError(f"some examples have the shapes {shapes[0]}, others {shapes[1]}")


def _row_shape(leaf: Leaf) -> list[int]:
    """Of a row's tensor, whatever its order in the file."""
    shape = list(leaf.shape)
    return [shape[-1], *shape[:-1]] if leaf.channels_last else shape


def forget(folder: Path) -> None:
    """Look at the checksums of a segment again: other files have taken its place."""
    _VERIFIED.pop(folder, None)


def touch(folder: Path) -> None:
    """Note that a segment was used just now; another user's, or one on a read-only disk, can be read without."""
    with contextlib.suppress(OSError):
        (folder / "segment.json").touch()


_VERIFIED: dict[Path, set[int]] = {}  # rows of a segment whose checksums this process has seen to be right


def _damaged(segment: Segment, rows: Sequence[int]) -> list[int]:
    """Positions in `rows` whose bytes are not what was written, all of them if the segment was evicted just now."""
    known = _VERIFIED.setdefault(segment.folder, set())
    new = [(position, row) for position, row in enumerate(rows) if row not in known]
    if not new:
        return []
    try:
        tensors = segment.tensors()
    except (OSError, RuntimeError):  # another process evicted it since it was opened
        return list(range(len(rows)))
    arrays = [tensor.view(len(segment.keys), -1).view(torch.uint8).numpy() for tensor in tensors]
    start = _form_checksum(segment.spec, segment.leaves)
    keys, crcs = segment.keys, segment.crcs
    wrong = [p for p, row in new if _checksum(start, keys[row], (array[row] for array in arrays)) != crcs[row]]
    known.update({row for _, row in new} - {rows[position] for position in wrong})
    return wrong


def _open(folder: Path) -> Segment | None:
    try:
        facts: dict[str, Any] = json.loads((folder / "segment.json").read_text())
        leaves = tuple(Leaf(leaf["dtype"], tuple(leaf["shape"]), leaf["channels_last"]) for leaf in facts["leaves"])
        treespec_loads(facts["spec"])
        content = (folder / "index").read_bytes()
        sizes = [(folder / f"{i}.bin").stat().st_size for i in range(len(leaves))]
        count = len(content) // _RECORD.itemsize  # a torn last record is cut off
        whole = min([count, *(size // leaf.bytes for size, leaf in zip(sizes, leaves, strict=True))])
        records = np.frombuffer(content, _RECORD, count=whole)
        if not whole:
            return None
        keys = [bytes(key) for key in records["key"]]
        return Segment(folder, facts["engine"], facts["spec"], leaves, keys, records["crc"].tolist(), facts["created"])
    except Exception:  # noqa: BLE001 - evicted just now, or damaged in whatever way: as if it were not there
        return None


def _leaf(tensor: Tensor) -> Leaf:
    turned = (
        tensor.dim() == len(_CHANNELS_LAST)
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )
    shape = tuple(tensor.shape[i] for i in _CHANNELS_LAST[1:]) if turned else tuple(tensor.shape[1:])
    return Leaf(str(tensor.dtype).removeprefix("torch."), shape, turned)


def _bytes(tensor: Tensor, leaf: Leaf) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    ordered = tensor.detach().permute(_CHANNELS_LAST) if leaf.channels_last else tensor.detach()
    array: np.ndarray[Any, np.dtype[np.uint8]] = ordered.contiguous().view(len(tensor), -1).view(torch.uint8).numpy()
    return array


def _form_checksum(spec: str, leaves: Sequence[Leaf]) -> int:
    return zlib.crc32(json.dumps([spec, [asdict(leaf) for leaf in leaves]]).encode())


def _checksum(start: int, key: bytes, parts: Iterable["np.ndarray[Any, np.dtype[np.uint8]]"]) -> int:
    start = zlib.crc32(key, start)  # rows that exchanged their keys are damaged too
    for part in parts:
        start = zlib.crc32(part.data, start)
    return start


def _extend(path: Path, content: Any) -> None:  # noqa: ANN401 - whatever has a buffer
    with path.open("ab") as file:
        file.write(content)
