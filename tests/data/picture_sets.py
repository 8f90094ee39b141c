"""Small sets of real pictures with meaningful classes, out of Debian packages that are read without being installed.

`python -m tests.data.picture_sets FOLDER [NAME …]` fills FOLDER/NAME/<class>/ for each of them:

photos    photos and paintings in six classes, none of them square (gcompris-qt-data, 44 MB)
clipart   drawn pictures in fourteen classes, most of them not square (openclipart-png, 131 MB)
animals   five kinds of drawn animals, most of them not square (part of the same)
food      five kinds of drawn food, most of it not square (part of the same)
emoji     emoji in eight classes, without the variants of skin tone (ruby-gemojione, 5 MB)
drawings  drawn things and people in twelve classes (pysiogame, 16 MB)
icons     a desktop's icons in five classes, hard to tell apart (oxygen-icon-theme, 32 MB)
"""

import hashlib
import json
import shutil
import struct
import sys
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipelines.local.demo import extract

MOST = 250  # of each class
MOST_BYTES = 2**20  # a few cliparts have 170 megapixels
CLIPART = {
    "animal": ["animals"],
    "building": ["buildings"],
    "flag": ["signs_and_symbols/flags"],
    "food": ["food"],
    "hardware": ["computer/hardware"],
    "map": ["geography"],
    "music": ["recreation/music"],
    "office": ["office"],
    "people": ["people"],
    "plant": ["plants"],
    "sign": ["transportation/roadsigns", "transportation/aiga-symbols"],
    "sport": ["recreation/sports"],
    "tool": ["tools"],
    "vehicle": ["transportation"],  # without the signs, which came before
}
ANIMALS = {name: [f"animals/{name}"] for name in ("birds", "bugs", "dinosaurs", "fish", "mammals")}
FOOD = {name: [f"food/{name}"] for name in ("beverages", "breads_and_carbs", "desserts", "fruit", "meats_and_eggs")}
DRAWINGS = {
    name: [name]
    for name in (
        *("actions", "animals", "body", "clothes_n_accessories", "construction", "food"),
        *("fruit_n_veg", "jobs", "nature", "people", "sport", "transport"),
    )
}
ICONS = {name: [name] for name in ("actions", "apps", "devices", "mimetypes", "places")}
PHOTOS = {  # by resource file and folder inside it
    "animal": ["explore_world_animals/", "explore_farm_animals/", "erase/"],
    "energy": ["categorization/resource/images/renewable/"],
    "fish": ["categorization/resource/images/fishes/"],
    "monument": ["categorization/resource/images/monuments/", "explore_monuments/"],
    "painting": ["paintings/"],
    "tool": ["categorization/resource/images/tools/"],
}
MOST_PHOTOS = 80  # of each class: the paintings are cut into pieces

Picture = tuple[str, str, bytes]  # class, file name, content


class PictureSet(NamedTuple):
    """A set of pictures: the package that holds it, and what reads its files."""

    package: str
    read: Callable[[Path], Iterator[Picture]]
    most: int = MOST


def write_set(name: str, target: Path) -> int:
    """Fill `target` with a folder per class, unless it is there; return the number of pictures.

    Raises:
        InputError: The package can't be fetched.
    """
    if not target.exists():
        chosen = SETS[name]
        part = target.with_name(f".{target.name}.part")  # complete or absent, also after a kill
        shutil.rmtree(part, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="thawline-pictures-") as folder:
            write_pictures(chosen.read(extract(chosen.package, Path(folder))), part, chosen.most)
        part.replace(target)
    return sum(1 for _ in target.glob("*/*"))


def write_pictures(pictures: Iterator[Picture], folder: Path, most: int) -> None:
    """Write of each class the pictures with the least hashes of their names, each content once."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    seen: set[bytes] = set()
    for label, name, content in pictures:
        digest = hashlib.sha256(content).digest()
        if digest not in seen and len(content) <= MOST_BYTES:
            seen.add(digest)
            found[label][name] = content
    for label, files in found.items():
        (folder / label).mkdir(parents=True)
        for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:most]:
            (folder / label / name).write_bytes(files[name])


def by_folder(
    root: str, classes: Mapping[str, list[str]], pattern: str = "*.png"
) -> Callable[[Path], Iterator[Picture]]:
    """Return what reads the pictures of a package whose folders are the classes; links are left out."""

    def read(package: Path) -> Iterator[Picture]:
        top = package / root
        for label, folders in classes.items():
            files = (file for folder in folders for file in sorted((top / folder).rglob(pattern)))
            for file in (file for file in files if not file.is_symlink()):
                yield label, "-".join(file.relative_to(top).parts), file.read_bytes()

    return read


def _emoji(package: Path) -> Iterator[Picture]:
    top = next(package.glob("usr/share/rubygems-integration/all/gems/gemojione-*"))
    for about in json.loads((top / "config/index.json").read_text()).values():
        if about["category"] not in ("modifier", "extras") and "tone" not in about["name"].lower():
            name = f"{about['unicode']}.png"
            yield about["category"], name, (top / "assets/png" / name).read_bytes()


def _photos(package: Path) -> Iterator[Picture]:
    activities = "/gcompris/src/activities/"
    for file in sorted((package / "usr/share/gcompris-qt/rcc").glob("*.rcc")):
        for path, content in qt_resources(file.read_bytes()):
            inner = path.removeprefix(activities)
            for label, starts in PHOTOS.items():
                if inner.endswith(".webp") and inner.startswith(tuple(starts)):
                    yield label, inner.replace("/", "-"), content


def qt_resources(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield paths and contents of a Qt resource file; contents that zstd packs are left out."""
    version, tree, data, names = struct.unpack_from(">4i", raw, 4)
    node_size = 14 if version < 2 else 22  # later ones know when a file was changed

    def name(node: int) -> str:
        start = names + int(struct.unpack_from(">I", raw, node)[0])
        (length,) = struct.unpack_from(">H", raw, start)
        return raw[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(number: int, path: str) -> Iterator[tuple[str, bytes]]:
        node = tree + node_size * number
        (flags,) = struct.unpack_from(">H", raw, node + 4)
        if flags & 2:  # a folder: how many children, and the number of the first
            count, first = struct.unpack_from(">II", raw, node + 6)
            for child in range(first, first + count):
                yield from walk(child, f"{path}/{name(tree + node_size * child)}")
        elif not flags & 4:
            start = data + int(struct.unpack_from(">I", raw, node + 10)[0])
            (length,) = struct.unpack_from(">I", raw, start)
            content = raw[start + 4 : start + 4 + length]
            yield path, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")


SETS = {
    "photos": PictureSet("gcompris-qt-data", _photos, MOST_PHOTOS),
    "clipart": PictureSet("openclipart-png", by_folder("usr/share/openclipart/png", CLIPART)),
    "animals": PictureSet("openclipart-png", by_folder("usr/share/openclipart/png", ANIMALS)),
    "food": PictureSet("openclipart-png", by_folder("usr/share/openclipart/png", FOOD)),
    "emoji": PictureSet("ruby-gemojione", _emoji, 300),
    "drawings": PictureSet("pysiogame", by_folder("usr/share/games/pysiogame/res/images/art4apps", DRAWINGS, "*.jpg")),
    "icons": PictureSet("oxygen-icon-theme", by_folder("usr/share/icons/oxygen/base/128x128", ICONS)),
}

if __name__ == "__main__":
    for chosen in sys.argv[2:] or SETS:
        sys.stderr.write(f"{write_set(chosen, Path(sys.argv[1]) / chosen)} pictures in {chosen}\n")
