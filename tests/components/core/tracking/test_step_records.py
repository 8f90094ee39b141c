"""Steps that are taken over, and those that are done again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from components.core import run_folder
from components.core.settings import Settings
from components.core.tracking import provenance, step_records

SETTINGS = Settings(model="toy", task="tests.fakes.toy").to_json()


class Found(NamedTuple):
    """What the step returns."""

    good: bool
    figures: dict[str, float | str]
    rows: list[list[int]] | None


@pytest.fixture
def calls() -> list[str]:
    """What the step was called with."""
    return []


@pytest.fixture
def step(calls: list[str], home: Path) -> Callable[..., Found]:
    """A step that copies a file into a folder, and leaves what is there already."""

    def copy(settings: str, run_key: str, source: Path, copies: Path, name: str = "a") -> Found:
        del settings, run_key
        calls.append(name)
        copies.mkdir(exist_ok=True)
        (copies / name).write_text(source.read_text())
        return Found(good=True, figures={"loss": float("inf"), "why": "so"}, rows=[[1, 2]])

    return step_records.taken_over("copies")(copy)


@pytest.fixture
def paths(home: Path) -> tuple[Path, Path]:
    """An input and an output, in the home."""
    folder = home / "runs/key"
    folder.mkdir(parents=True)
    (folder / "input").write_text("content")
    return folder / "input", folder / "copies"


def test_a_finished_step_is_taken_over(step: Callable[..., Found], paths: tuple[Path, Path], calls: list[str]) -> None:
    """The second call gives what the first one returned, does nothing, and says so."""
    first = step(SETTINGS, "key", *paths)
    assert step(SETTINGS, "key", *paths) == first
    assert calls == ["a"]
    assert [event["event"] for event, _ in run_folder.events("key")] == ["taken_over"]


def _damage(paths: tuple[Path, Path]) -> None:
    (paths[1] / "a").write_text("other")


def _remove(paths: tuple[Path, Path]) -> None:
    (paths[1] / "a").unlink()


def _add(paths: tuple[Path, Path]) -> None:
    (paths[1] / "b").write_text("")


def _change_input(paths: tuple[Path, Path]) -> None:
    paths[0].write_text("other")


def _cut_record(_paths: tuple[Path, Path]) -> None:
    record = run_folder.run_folder("key") / "steps/test_step_records.json"
    record.write_text(record.read_text()[:-20])


def _other_record(_paths: tuple[Path, Path]) -> None:
    folder = run_folder.run_folder("key") / "steps"
    (folder / "test_step_records.json").write_text('{"outputs": [1]}')
    (folder / "folder.json").mkdir()


@pytest.mark.parametrize("change", [_damage, _remove, _add, _change_input, _cut_record, _other_record])
def test_in_doubt_a_step_is_done_again(
    change: Callable[[tuple[Path, Path]], None],
    step: Callable[..., Found],
    paths: tuple[Path, Path],
    calls: list[str],
) -> None:
    """An output or an input that is not what it was, or a broken record: the step begins anew, from an empty output."""
    step(SETTINGS, "key", *paths)
    change(paths)
    step(SETTINGS, "key", *paths)
    assert calls == ["a", "a"]
    assert [path.name for path in paths[1].iterdir()] == ["a"]
    assert (paths[1] / "a").read_text() == paths[0].read_text()


def test_another_start_is_another_step(
    step: Callable[..., Found], paths: tuple[Path, Path], calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other settings, another argument, other code or another run take nothing over."""
    step(SETTINGS, "key", *paths)
    step(Settings(model="toy", task="tests.fakes.toy", seed=1).to_json(), "key", *paths)
    step(SETTINGS, "key", *paths, "b")
    step(SETTINGS, "key", *paths)
    monkeypatch.setattr(provenance, "program", lambda task: {"code": task})
    step(SETTINGS, "key", *paths)
    step(SETTINGS, "other", *paths)
    assert calls == ["a", "a", "b", "a", "a", "a"]


def test_what_a_step_stands_on_is_asked(home: Path, paths: tuple[Path, Path]) -> None:
    """A step whose world has changed is done again; the question gets its arguments and what it returned."""
    asked, answers = [], [False, True]

    def valid(arguments: step_records.Arguments, found: str) -> bool:
        asked.append((arguments["run_key"], arguments["word"], found))
        return answers.pop()

    @step_records.taken_over(valid=valid)
    def say(settings: str, run_key: str, word: str = "hello") -> str:
        return word

    assert [say(SETTINGS, "key") for _ in range(3)] == ["hello"] * 3
    assert asked == [("key", "hello", "hello")] * 2
    taken = [event for event, _ in run_folder.events("key")]
    assert len(taken) == 1


def test_outside_of_the_home_nothing_is_recorded(
    step: Callable[..., Found], paths: tuple[Path, Path], calls: list[str], tmp_path: Path
) -> None:
    """Outputs that end with a pod are made each time, and nobody spends time on their digests."""
    for _ in range(2):
        step(SETTINGS, "key", paths[0], tmp_path / "elsewhere")
    assert calls == ["a", "a"]
    assert not (run_folder.run_folder("key") / "steps").exists()


def test_a_record_names_the_digests(step: Callable[..., Found], paths: tuple[Path, Path]) -> None:
    """The record is JSON, with the place and the digest of each output; a later step need not read it again."""
    step(SETTINGS, "key", *paths)
    record = json.loads((run_folder.run_folder("key") / "steps/test_step_records.json").read_text())
    place, digest = record["outputs"]["copies"]
    assert place == str(paths[1])
    assert step_records._known("key", paths[1]) == digest
