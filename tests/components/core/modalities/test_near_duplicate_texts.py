"""Texts that share most of their wording."""

import random

import numpy as np
import pytest
from datasketch import LeanMinHash, MinHashLSH

from components.core.modalities import near_duplicate_texts
from components.core.modalities.near_duplicate_texts import fingerprint, pairs

STORY = "The old lighthouse keeper wrote down every ship that passed, and nobody ever asked him to read the list aloud."
OTHER = "Seven engineers argued about the colour of a button until the building that they worked in was torn down."


def near(*texts: str, similarity: float = 0.8) -> list[tuple[int, int]]:
    return pairs([fingerprint(text) for text in texts], [True] * len(texts), similarity)


@pytest.mark.parametrize(
    "copy",
    [
        STORY.upper(),
        STORY.replace(" ", "\n  ").replace(",", " ;"),
        STORY + " Indeed.",
        STORY.replace("nobody ever", "no one ever"),
    ],
)
def test_slight_changes_are_near(copy: str) -> None:
    """Case, white space, punctuation and a few other words leave a text near to itself."""
    assert near(STORY, OTHER, copy) == [(0, 2)]


def test_other_texts_are_not_near() -> None:
    """Texts on other things in the same language are not near, and half of a text is not the whole."""
    assert near(STORY, OTHER, STORY[: len(STORY) // 2]) == []


def test_very_short_texts() -> None:
    """A text shorter than a run is near to its equals only; one without a letter is a text too."""
    assert near("ok", "OK!", "no", ":-)", ":-)", ":-(") == [(0, 1), (3, 4)]


def test_a_book_is_hashed_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs are hashed at once, the fingerprint is the same."""
    whole = fingerprint(STORY)
    monkeypatch.setattr(near_duplicate_texts, "HASHED_AT_ONCE", 7)
    assert fingerprint(STORY) == whole


def test_known_pairs_are_not_asked_for_again() -> None:
    """Of two that are known already, nothing is said; a new one is compared with all."""
    prints = [fingerprint(text) for text in (STORY, STORY.upper(), STORY + " Indeed.")]
    assert pairs(prints, [False, False, False], 0.8) == []
    assert pairs(prints, [False, False, True], 0.8) == [(0, 2)]  # the equal one is chained by the first


def test_the_similarity_decides() -> None:
    """Half a text is near where half is asked for."""
    assert near(STORY, STORY[: 2 * len(STORY) // 3], similarity=0.5) == [(0, 1)]


def test_many_texts_of_one_mould() -> None:
    """Few near pairs among many texts are all found."""
    generator = random.Random(0)
    words = [f"{generator.getrandbits(40):x}" for _ in range(400)]
    texts = [" ".join(generator.sample(words, 20)) for _ in range(500)]
    copies = {i: texts[i] + " end" for i in range(0, 500, 50)}
    found = near(*texts, *copies.values())
    assert sorted(found) == [(i, 500 + number) for number, i in enumerate(copies)]


def test_the_nearest_pairs_come_first() -> None:
    """Equal texts, then one with a word more, then one with several."""
    found = near(STORY, STORY + " Quite another end of it.", STORY + " End.", STORY, similarity=0.5)
    assert [pair for pair in found if 0 in pair] == [(0, 3), (0, 2), (0, 1)]


def test_pairs_are_those_of_the_library_s_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are those that datasketch's own table of bands would give, however few are compared at once."""
    values = np.random.default_rng(0).integers(0, 2**16, (300, 128), dtype=np.uint16)
    for place in range(0, 300, 3):
        values[place + 1] = values[place]
        values[place + 1, place % 100 : place % 100 + 18 + place % 12] = 1  # some are near enough, some are not
    prints, new = [row.tobytes().hex() for row in values], [place % 4 == 0 for place in range(300)]
    table = MinHashLSH(threshold=0.8, num_perm=128, weights=(0.1, 0.9))
    hashes = [LeanMinHash(seed=1, hashvalues=row.astype(np.uint32), scheme="affine32") for row in values]
    for place, one in enumerate(hashes):
        table.insert(place, one)
    wanted = {
        (min(place, other), max(place, other))
        for place in range(300)
        for other in table.query(hashes[place])
        if place != other and (new[place] or new[other]) and (values[place] == values[other]).mean() >= 0.8
    }
    assert len(wanted) > 20
    assert {*pairs(prints, new, 0.8)} == wanted
    monkeypatch.setattr(near_duplicate_texts, "EXPANDED", 2)
    assert {*pairs(prints, new, 0.8)} == wanted
