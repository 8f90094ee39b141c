"""Detect whether a source contains pictures, with or without boxes, texts or sounds by looking at a few records."""

import os
from collections import Counter
from itertools import islice
from pathlib import PurePosixPath

from components.core.contract.boxes import are_boxes
from components.core.errors import InputError
from components.core.sources.raw_records import RawRecord, list_entries

BOXES = "pictures with boxes"
TASK_OF_KIND = {
    "pictures": "image_classification",
    BOXES: "object_detection",
    "texts": "text_classification",
    "sounds": "audio_classification",
}
KIND_OF_TASK = {
    **{task: kind for kind, task in TASK_OF_KIND.items()},
    "speech_recognition": "sounds",
}  # of the tasks that we bring

LOOKED_AT = 40  # records
SURE = 0.8  # share of them that are of one kind
HEAD = 512  # bytes of a file that are looked at
_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".avif"), "pictures"),
    **dict.fromkeys((".txt", ".text", ".md"), "texts"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"), "sounds"),
    **dict.fromkeys((".m4a", ".wma", ".amr"), "sounds"),
}
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\x00", b"MM\x00*", b"II+\x00")
_SOUNDS = (b"fLaC", b"OggS", b"ID3", b".snd", b"caff", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")
_CONTAINERS = {b"WEBP": "pictures", b"WAVE": "sounds", b"AIFF": "sounds", b"AIFC": "sounds"}  # behind RIFF or FORM
_CONTROLS = {*range(32)} - {9, 10, 12, 13}


def kind_of(source: str) -> str:
    """Return `pictures`, `pictures with boxes`, `texts` or `sounds`; empty if that can't be detected.

    Raises:
        InputError: The source can't be listed.
    """
    entries = list(islice(list_entries(source), LOOKED_AT))
    kinds = [_kind(entry) for entry in entries]
    kind, count = Counter(kinds).most_common(1)[0] if kinds else ("", 0)
    if count < SURE * len(kinds):
        return ""
    return BOXES if kind == "pictures" and are_boxes(entry.label for entry in entries) else kind


def task_for(source: str, task: str) -> str:
    """Return the task that fits the records of a source; the given one if it fits or nothing is detected."""
    kind = kind_of(source) if task in KIND_OF_TASK else ""
    if not kind or (KIND_OF_TASK[task] == kind and kind != "sounds"):
        return task
    return "speech_recognition" if kind == "sounds" and _are_transcripts(source) else TASK_OF_KIND[kind]


def check_task(source: str, task: str) -> None:
    """Refuse a task for another kind of records than the source contains.

    Raises:
        InputError: It does; or the source can't be listed.
    """
    wanted = task_for(source, task)
    if KIND_OF_TASK.get(wanted) != KIND_OF_TASK.get(task):
        raise InputError(
            f"The records of {source} are {KIND_OF_TASK[wanted]}, but --task {task} takes {KIND_OF_TASK[task]}.",
            f"Use --task {wanted}, or other data.",
        )


def _are_transcripts(source: str) -> bool:
    """Return whether the labels are sentences that rarely repeat, so transcripts rather than classes."""
    labels = [entry.label for entry in islice(list_entries(source), LOOKED_AT)]
    several = sum(" " in label for label in labels)
    return len(set(labels)) > SURE * len(labels) >= 5 and several > len(labels) / 2  # noqa: PLR2004 - a few say nothing


def _kind(entry: RawRecord) -> str:
    if entry.fault:
        return ""
    if entry.content is not None:
        return _by_content(entry.content[:HEAD])
    suffix = _SUFFIXES.get(PurePosixPath(entry.uri).suffix.lower(), "")
    return suffix if "://" in entry.uri else _by_content(_head(entry.uri)) or suffix


def _head(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a pipe must not wait
            return file.read(HEAD) or b""
    except (OSError, ValueError):
        return b""


def _by_content(head: bytes) -> str:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _CONTAINERS.get(head[8:12], "")
    if head.startswith(_PICTURES) or (head.startswith(b"BM") and head[6:10] == bytes(4)):
        return "pictures"
    if head.startswith(_SOUNDS):
        return "sounds"
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "ignore").encode()  # the last character may be cut
    whole = len(head) - len(text) <= 6  # noqa: PLR2004 - bytes of a mark and of a cut character
    return "texts" if text.strip() and whole and not _CONTROLS & {*text} else ""
