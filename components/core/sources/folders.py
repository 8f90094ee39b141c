"""Walk folders of records, skip what is not a record, and refuse folders that are not classes."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from components.core.errors import InputError
from components.core.sources.split_names import SPLIT_OF_FOLDER
from components.core.storage import home_folder

LAYOUT = (
    "Use a folder with one subfolder per class, s3://bucket/prefix with the same structure, or a "
    "manifest of uri,label (or text,label)."
)
_LITTER = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@tmp", "#recycle", "#snapshot"),
    *("lost+found", "$recycle.bin", "recycler", "found.000", "system volume information", "network trash folder"),
    *("temporary items", "thevolumesettingsfolder", "desktop db", "desktop df", "@recycle", "@recently-snapshot"),
    *("@__thumb", "~snapshot", "__pycache__"),
}
_MARK = ":Zone.Identifier"  # where a file came from, which Windows keeps beside it on file systems of others
_ANNOTATED = {"images", "labels", "annotations", "masks", "jpegimages", "segmentationclass"}  # of object detection
_CONTAINERS = {"images", "image", "img", "imgs", "photos", "pictures", "pics", "raw", "original", "originals"}
_FILLERS = {"set", "data", "dataset", "folder", "dir", "split", *_CONTAINERS}
_INVISIBLE = str.maketrans(dict.fromkeys("\u00ad\u200b\u200e\u200f\u2060\ufeff"))
_LOOKED_AT, _ITEMS = 8, 2000  # folders, and things in each, that are looked at: on S3 each takes a moment
Subfolders = Callable[[str], tuple[set[str], bool]]  # of a folder by its name: folders in it, whether files beside them


def is_litter(name: str) -> bool:
    """Return whether a file or folder is hidden, or was created by a system or a network drive."""
    return name.startswith(".") or name.lower() in _LITTER or name.endswith(_MARK)


def as_label(text: str) -> str:
    """Return a label in a form in which labels that look the same are equal.

    The composed form of Unicode, without blanks at its ends and characters of no width, every space a plain one.
    """
    plain = "".join(
        " " if unicodedata.category(c) == "Zs" else c for c in unicodedata.normalize("NFC", text).translate(_INVISIBLE)
    )
    return plain.strip()


def walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, following links; a folder that can't be listed is yielded itself."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that holds it
        return
    try:
        with os.scandir(folder) as items:
            found = sorted((item.name, _is_folder(item)) for item in items if not is_litter(item.name))
    except OSError:
        yield folder
        return
    for name, is_folder in found:
        if is_folder:
            yield from walk(folder / name, (*above, real))
        else:
            yield folder / name


def holds_files(folder: Path, above: tuple[str, ...] = ()) -> bool:
    """Return whether `walk` would yield anything, stopping at the first file."""
    real = os.path.realpath(folder)
    if real in above:
        return False
    below = []
    try:
        with os.scandir(folder) as items:
            for item in items:
                if is_litter(item.name):
                    continue
                if not _is_folder(item):
                    return True
                below.append(folder / item.name)
    except OSError:
        return True
    return any(holds_files(path, (*above, real)) for path in below)


def subfolders(root: Path) -> Subfolders:
    """Return a function that looks into the direct subfolders of a local folder."""

    def look(name: str) -> tuple[set[str], bool]:
        try:
            with os.scandir(root / name) as items:
                seen = [item for item in islice(items, _ITEMS) if not is_litter(item.name)]
        except OSError:
            return set(), True
        names = {item.name for item in seen if _is_folder(item)}
        return names, len(seen) > len(names)

    return look


def check_home(root: Path) -> None:
    """Refuse a folder that contains Thawline's own files: they would become records, more with each run.

    Raises:
        InputError: The home lies in it and is not hidden, or it is a part of the home that Thawline writes.
    """
    home, source = home_folder.home(), root.resolve()
    below = home.relative_to(source).parts if home.is_relative_to(source) else None
    inside = source.relative_to(home).parts[:1] if source.is_relative_to(home) else ()
    own = inside in {("artifacts",), ("datasets",), ("activations",), ("runs",)}
    if own or (below is not None and not any(map(is_litter, below))):
        raise InputError(
            f"{root} contains files that Thawline writes: its home is {home}.",
            "Use another folder, or another home with --home or THAWLINE_HOME.",
        )


def check_names(source: str, names: Sequence[str], look: Subfolders) -> None:
    """Refuse folders that are not classes: splits, parts of an object detection layout, classes one level too deep.

    Args:
        source: For the sentence.
        names: Folders right below it that hold files.
        look: What tells the folders in one of them.

    Raises:
        InputError: They are not classes, or two of them differ only in upper and lower case.
    """
    alike = Counter(as_label(name).casefold() for name in {as_label(name): name for name in names}.values())
    if twice := [name for name in names if alike[as_label(name).casefold()] > 1]:
        raise InputError(
            f"The folders {' and '.join(sorted(twice)[:2])} of {source} differ only in upper and lower case.",
            "Rename one, or move the files into one folder.",
        )
    shown = sorted(names, key=lambda name: (name.lower() not in SPLIT_OF_FOLDER, name))[:_LOOKED_AT]
    inner = {name: look(name) for name in shown}
    splits = _splits(names, inner)
    if splits:
        others = sorted(set(names) - splits)
        beside = f" (beside {', '.join(others[:3])}{', …' if len(others) > 3 else ''})" if others else ""  # noqa: PLR2004
        raise InputError(
            f"The folders of {source} are splits, not classes: {', '.join(sorted(splits))}{beside}.",
            "Use a manifest of uri,label,split, or one folder with one subfolder per class.",
        )
    if {name.lower() for name in names} <= _ANNOTATED | {"classes"} and len(names) > 1:
        raise InputError(
            f"The folders of {source} hold pictures with boxes or masks, not classes: {', '.join(sorted(names))}.",
            LAYOUT,
        )
    if shared := _shared(inner) or _folds(inner, look):
        first, second = [name for name in inner if shared & inner[name][0]][:2]
        raise InputError(
            f"The folders {first} and {second} of {source} contain the same folders, so the classes are ambiguous: "
            f"{', '.join(sorted(shared)[:4])}.",
            f"Use {source.rstrip('/')}/{first} alone, or a manifest of uri,label.",
        )


def single_folder(names: Sequence[str], look: Subfolders) -> str:
    """Return the only folder if it contains the class folders, as an unpacked archive does; else an empty name."""
    if len(names) != 1:
        return ""
    below, files = look(names[0])
    return names[0] if below and not files else ""


def _is_folder(item: os.DirEntry[str]) -> bool:
    # DirEntry.is_dir() raises for a link to itself, Path.is_dir() costs a call that only links need.
    return item.is_dir(follow_symlinks=False) or (item.is_symlink() and Path(item.path).is_dir())


def _split_of(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split in a name and the rest of the name (`seg_train`: train, seg); both empty if there is none."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+", name)]
    words = [word[:-3] if word[:-3] in SPLIT_OF_FOLDER and word.endswith("set") else word for word in words]
    found = [word for word in words if word in SPLIT_OF_FOLDER]
    rest = tuple(word for word in words if word not in SPLIT_OF_FOLDER and word not in _FILLERS and len(word) > 1)
    return (SPLIT_OF_FOLDER[found[0]], rest) if len(found) == 1 else ("", ())


def _splits(names: Sequence[str], inner: Mapping[str, tuple[set[str], bool]]) -> set[str]:
    """Return the folders that are splits: two that differ only in the split, or one that contains classes."""
    found = {name: _split_of(name) for name in names}
    kinds: dict[tuple[str, ...], set[str]] = {}
    for split, rest in found.values():
        if split:
            kinds.setdefault(tuple(word for word in rest if not word.isdigit()), set()).add(split)
    alike = {
        name
        for name, (split, rest) in found.items()
        if split and len(kinds[tuple(word for word in rest if not word.isdigit())]) > 1
    }
    if alike:
        return alike
    exact = {name for name in names if name.lower() in SPLIT_OF_FOLDER}
    if exact == set(names):
        return exact
    holding = {name for name in exact if name in inner and len(inner[name][0]) > 1 and not inner[name][1]}
    flat = [name for name in set(names) - exact if name in inner and not inner[name][0]]
    return holding if holding and flat else set()


def _shared(inner: Mapping[str, tuple[set[str], bool]]) -> set[str]:
    """Return names of folders that repeat below several others and would be classes; none if files lie next to them."""
    if len(inner) < 2 or any(files or not below for below, files in inner.values()):  # noqa: PLR2004 - repeated
        return set()
    counts = Counter(name for below, _ in inner.values() for name in below if _may_be_class(name))
    shared = {name for name, count in counts.items() if count > 1}
    return shared if len(shared) > 1 and 2 * len(shared) > len(counts) else set()


def _folds(inner: Mapping[str, tuple[set[str], bool]], look: Subfolders) -> set[str]:
    """Return splits that repeat below several folders and contain folders, as cross-validation has them."""
    if len(inner) < 2 or any(files for _, files in inner.values()):  # noqa: PLR2004 - repeated
        return set()
    shared = set[str].intersection(*(below for below, _ in inner.values()))
    if not {name.lower() for name in shared} & SPLIT_OF_FOLDER.keys():
        return set()
    first = next(iter(inner))
    deeper, files = look(f"{first}/{min(shared)}")
    return shared if len(deeper) > 1 and not files else set()


def _may_be_class(name: str) -> bool:
    return any(c.isalpha() for c in name) and name.lower() not in _CONTAINERS and not _split_of(name)[0]
