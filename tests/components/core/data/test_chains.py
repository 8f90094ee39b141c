"""Chains of near-duplicates are divided, and copies stay with what they are copies of."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw

from components.core.data.chains import LEAST, Pair, divide
from components.core.data.examples import Location
from components.core.data.groups import Grouped, group_examples
from components.core.data.lineage import Lineage, Member
from components.core.data.records import CheckedRecord
from components.core.data.splits import assign
from components.core.modalities.near_duplicate_images import fingerprint, pairs
from components.core.sources.raw_records import RawRecord
from components.core.sources.split_names import SPLITS


def camera(frames: int, drift: float) -> list[Image.Image]:
    """What a fixed camera sees: a background in light that changes slowly, and something that moves before it."""
    sides = [
        np.asarray(
            Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
                (240, 180), Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        for seed in (5, 6)
    ]
    seen = []
    for i in range(frames):
        share = drift * i / frames
        picture = Image.fromarray(((1 - share) * sides[0] + share * sides[1]).astype(np.uint8))
        x = i * 37 % 200
        ImageDraw.Draw(picture).ellipse((x, 60, x + 30, 110), fill=(20, 20, 20))
        seen.append(picture)
    return seen


def copied(picture: Image.Image, way: int) -> Image.Image:
    """A copy as people make them: smaller, compressed, brighter or cropped."""
    if way == 0:
        return picture.resize((120, 90))
    if way == 1:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=40)
        return Image.open(buffer).convert("RGB")
    if way == 2:
        return picture.point(lambda value: min(255, int(value * 1.05)))
    return picture.crop((5, 4, picture.width - 5, picture.height - 4))


def prints_of(frames: int, drift: float) -> dict[str, str]:
    """Fingerprints of a camera's pictures, f000 and so on, and of a copy of every second one, t000 and so on."""
    pictures = camera(frames, drift)
    found = {f"f{i:03}": fingerprint(picture) for i, picture in enumerate(pictures)}
    return found | {f"t{i:03}": fingerprint(copied(pictures[i], i // 2 % 4)) for i in range(0, frames, 2)}


def near(prints: dict[str, str], new: set[str] | None = None) -> list[Pair]:
    ids = list(prints)
    return [(ids[i], ids[j]) for i, j in pairs([*prints.values()], [new is None or id_ in new for id_ in ids], 32)]


def grouped(prints: dict[str, str], lineage: Lineage, found: list[Pair], new: set[str] | None = None) -> Grouped:
    ids = [id_ for id_ in prints if new is None or id_ in new]
    place = Location(0, 0, 0)
    records = [CheckedRecord(id_, {"fingerprint": prints[id_]}, place, [RawRecord(id_, "")]) for id_ in ids]
    return group_examples(records, lineage, found)


@pytest.mark.parametrize(
    ("frames", "drift"),
    [(120, 0.0), (160, 1.0), *(pytest.param(160, drift, marks=pytest.mark.slow) for drift in (0.3, 0.6))],
)
def test_the_pictures_of_a_fixed_camera_make_many_groups(frames: int, drift: float) -> None:
    """A chain of most of the data is divided into groups that all splits get some of; no copy is parted."""
    prints = prints_of(frames, drift)
    found = grouped(prints, Lineage("s"), near(prints))
    sizes = Counter(found.groups.values())
    del sizes[""]
    assert max(sizes.values()) < len(prints) / 3
    assigned = assign(
        list(prints), ["x"] * len(prints), "s", {}, [found.groups[id_] for id_ in prints], [""] * len(prints)
    )
    assert {*assigned.values()} == {*SPLITS}
    straddling = [i for i in range(0, frames, 2) if assigned[f"f{i:03}"] != assigned[f"t{i:03}"]]
    assert straddling == []


def test_the_next_pictures_of_a_chain_join_what_they_are_nearest_to() -> None:
    """They are near to parts of it in two splits, and are neither parted from their copies nor set aside.

    Set aside is only what is near to something else in another split too.
    """
    prints = prints_of(160, 0.6)
    first = {id_ for id_ in prints if int(id_[1:]) % 4 != 2}
    before = {id_: text for id_, text in prints.items() if id_ in first}
    week = grouped(before, Lineage("s"), near(before))
    assigned = assign(list(before), ["x"] * len(before), "s", {}, [week.groups[id_] for id_ in before])
    members = {id_: Member(assigned[id_], fingerprint=before[id_], group=week.groups[id_]) for id_ in before}
    lineage = Lineage("s", 1, members, {g: assigned[id_] for id_, g in week.groups.items() if g})
    new = prints.keys() - first
    some = near(prints, set(new))
    found = grouped(prints, lineage, some)
    for id_ in found.set_aside:
        around = {other for pair in some if id_ in pair for other in pair} & first
        chains = {week.groups[other].partition(" of ")[2] for other in around}
        assert len(chains) > 1 or "" in chains
    assert len(found.set_aside) < len(new) / 6
    split = {id_: found.splits.get(group, "") for id_, group in found.groups.items()}
    assert all(split[id_] == assigned[id_] for id_ in first)
    twins = [(f"f{i:03}", f"t{i:03}") for i in range(2, 160, 4) if f"f{i:03}" in found.groups]
    assert all(split[a] == split[b] for a, b in twins)
    assert {split[a] for a, _ in twins} >= {"train", "test"}


def test_what_is_near_to_one_of_it_all_stays_whole() -> None:
    """Any number of copies of one picture is one group, however much of the data it is."""
    star = [("a", f"b{i:03}") for i in range(200)]
    assert divide(star, {}, 210).pairs == star
    prints = dict.fromkeys([*(f"{i:03}" for i in range(100))], "same")
    equal = [("000", f"{i:03}") for i in range(1, 100)]
    assert divide(equal, prints, 100).pairs == equal


def test_a_chain_is_cut_where_it_is_weakest() -> None:
    """The nearest pairs are joined first, and nothing is near to a member only; a chain that is short enough stays."""
    pairs_of_two = [(f"{i:03}", f"{i + 1:03}") for i in range(0, 60, 2)]
    between = [(f"{i:03}", f"{i + 1:03}") for i in range(1, 59, 2)]
    divided = divide([*pairs_of_two, *between], {}, 60)
    assert divided.pairs == pairs_of_two
    assert {*divided.chains.values()} == {"000"}
    short = [*pairs_of_two, *between][: LEAST // 2]
    assert (divide(short, {}, 60).pairs, divide([*pairs_of_two, *between], {}, 2000).pairs) == (
        short,
        [*pairs_of_two, *between],
    )


def test_a_threshold_that_changes_refuses_no_chain() -> None:
    """Parts of one chain that lie in two splits are no leak when all pairs are looked at again."""
    prints = prints_of(120, 0.0)
    week = grouped(prints, Lineage("s"), near(prints))
    assigned = assign(list(prints), ["x"] * len(prints), "s", {}, [week.groups[id_] for id_ in prints])
    members = {id_: Member(assigned[id_], fingerprint=prints[id_], group=week.groups[id_]) for id_ in prints}
    lineage = Lineage("s", 1, members, {g: assigned[id_] for id_, g in week.groups.items() if g})
    again = grouped(prints, lineage, near(prints))
    assert again.set_aside == {}
    assert again.groups == week.groups
