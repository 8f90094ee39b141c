"""What reads bytes of strangers raises only what it promises, on damaged inputs and on all that ever failed."""

import random
from pathlib import Path

import pytest

from tests.fuzz.mutations import CORPUS, mutated
from tests.fuzz.run import fault_of
from tests.fuzz.targets import TARGETS

NUMBER = {"archive": 100, "picture": 100, "served": 100}  # of inputs; 50 of the others


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_refused(name: str) -> None:
    """A hundred inputs, damaged at random from a fixed seed, end in a result or in the error that is promised."""
    draw, target = random.Random(name), TARGETS[name]
    seeds = target.seeds()
    assert [fault_of(target, seed) for seed in seeds] == [""] * len(seeds)
    for _ in range(NUMBER.get(name, 50)):
        content = mutated(draw.choice(seeds), seeds, draw)
        assert not fault_of(target, content), content


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_failed_once_does_not_fail_again(path: Path) -> None:
    """Each input of the corpus."""
    assert not fault_of(TARGETS[path.parent.name], path.read_bytes())
