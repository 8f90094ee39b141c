"""`thawline cache`: what it lists, what it removes, and what it says."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

from components.core.activations import store
from components.core.activations.segments import Writer
from pipelines.commands.cache import _age, _size
from tests.support.command import Answer, call, is_one_sentence, loaded

DAY = 86_400.0


class Cache:
    """The command on a home with three spaces of 100 kB, used 40 days, 20 days and an hour ago, and an export."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.store, self._capsys, self._patch = home / "activations", capsys, patch
        for name, days, line in (("a", 40.0, 2), ("b", 20.0, 3), ("c", 1 / 24, 2)):
            folder = self.store / (name * 32)
            keys = [os.urandom(32) for _ in range(100)]
            Writer(folder, "onnxruntime 1.32.0").append(keys, torch.zeros(100, 250))
            facts = {"weights_digest": f"{name}123456789", "line": line, "stages": 3, "precision": "float32"}
            (folder / "space.json").write_text(json.dumps(facts))
            [segment] = folder.glob("*/segment.json")
            os.utime(segment, (time.time() - days * DAY - 60,) * 2)
        export = self.store / store.ENGINES / "abc"
        export.mkdir(parents=True)
        (export / "model.onnx").write_bytes(bytes(5000))
        (export / "facts.json").write_text("{}")

    def __call__(self, *arguments: str) -> Answer:
        return call(self._capsys, self._patch, "cache", *arguments)

    @property
    def left(self) -> str:
        """The spaces that are there, by their letter."""
        return "".join(sorted(path.parent.name[0] for path in self.store.glob("*/space.json")))


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cache:
    return Cache(home, capsys, monkeypatch)


def test_the_list_is_a_line_for_each_space(command: Cache) -> None:
    """Network, line, examples, size, precision, engines and last use, the latest first; then exports and the total."""
    answer = command("list")
    assert answer.status == 0
    assert answer.err == ""
    head, *rows, exports, total = answer.out.splitlines()
    assert head.split("  ")[0] == "network"
    assert [row.split()[0] for row in rows] == ["c1234567", "b1234567", "a1234567"]
    assert " ".join(rows[0].split()) == (
        "c1234567 below stage 3 of 3 100 103.8 kB float32 onnxruntime 1.32.0 1 hour ago"
    )
    assert "below the head" in rows[1]
    assert exports.split()[:4] == ["1", "export", "5.0", "kB"]
    assert total == f"316.4 kB of a budget of 50.0 GB in {command.store}"


def test_the_list_for_scripts(command: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json: the spaces, the exports, bytes and budget, in one object."""
    monkeypatch.setenv("THAWLINE_ACTIVATIONS", "s3://bucket/prefix/")
    answer = json.loads(command("list", "--json").out)
    assert [space["examples"] for space in answer["spaces"]] == [100, 100, 100]
    assert answer["exports"] == {"count": 1, "bytes": 5002}
    assert answer["bytes"] == sum(space["bytes"] for space in answer["spaces"]) + 5002
    assert answer["budget"] == 50e9
    assert (answer["store"], answer["shared"]) == (str(command.store), "s3://bucket/prefix")


def test_a_shared_prefix_is_named(command: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list says that a bucket holds more."""
    monkeypatch.setenv("THAWLINE_ACTIVATIONS", "s3://bucket/prefix")
    assert command("list").out.splitlines()[-1].startswith("Shared through s3://bucket/prefix")


def test_another_home(command: Cache, tmp_path: Path) -> None:
    """An empty home is no fault, and listing or pruning it makes no folder."""
    other = tmp_path / "other"
    assert command("list", "--home", str(other)).out == f"0 B of a budget of 50.0 GB in {other}/activations\n"
    assert command("prune", "--all", "--home", str(other)).out.startswith("Removed nothing.")
    assert not other.exists()
    assert command.left == "abc"


def test_the_store_is_named_as_a_user_here_would_type_it(command: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working folder its path is relative, as on the pages."""
    monkeypatch.chdir(command.store.parent)
    assert command("list").out.endswith(" in activations\n")
    assert command("prune").out.endswith(" stay in activations\n")


def test_by_default_only_the_budget_counts(command: Cache) -> None:
    """Without options nothing goes that fits into the default budget, however old."""
    answer = command("prune")
    assert answer.out == f"Removed nothing. 316.4 kB stay in {command.store}\n"
    assert command.left == "abc"


def test_a_budget(command: Cache) -> None:
    """The least recently used goes until the rest fits."""
    answer = command("prune", "--max-gb", "0.00025")
    assert answer.out == f"Removed 1 segment, 103.8 kB. 212.6 kB stay in {command.store}\n"
    assert command.left == "bc"


def test_an_age(command: Cache) -> None:
    """What was not used for so long goes, whatever its size; hours, days and weeks."""
    for given, left in (("8w", "abc"), ("30d", "bc"), ("24h", "c"), ("0.5h", "")):
        command("prune", "--older-than", given)
        assert command.left == left
    assert (command.store / store.ENGINES / "abc").exists()


def test_everything(command: Cache) -> None:
    """--all leaves nothing."""
    answer = command("prune", "--all")
    assert answer.out == f"Removed 3 segments, 311.4 kB; 1 export, 5.0 kB. 0 B stay in {command.store}\n"
    assert [path.name for path in command.store.iterdir()] == [store.ENGINES]


def test_a_dry_run_removes_nothing(command: Cache) -> None:
    """--dry-run says the same figures and leaves everything, leftovers too."""
    part = command.store / store.ENGINES / f"{'0' * 32}.part"
    part.mkdir()
    answer = command("prune", "--older-than", "30d", "--dry-run")
    expected = "Would remove 1 segment, 103.8 kB; 1 leftover of killed processes. 212.6 kB would stay"
    assert answer.out.startswith(expected)
    assert command.left == "abc"
    assert part.exists()
    assert "1 leftover" in command("prune").out
    assert not part.exists()


def test_what_may_not_be_removed_is_named(command: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only store, or one of another user, is one sentence with status 2."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        answer = command("prune", "--all")
    assert answer.status == 2
    assert "can't be removed (Permission denied)" in answer.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--older-than", "30"), "--older-than can't be '30'"),
        (("--older-than", "-3d"), "--older-than can't be '-3d'"),
        (("--older-than", "3y"), "12h, 30d or 8w"),
        (("--older-than", ""), "--older-than can't be ''"),
        (("--max-gb", "-1"), "--max-gb can't be -1"),
        (("--max-gb", "nan"), "--max-gb can't be nan"),
        (("--max-gb", "much"), "--max-gb"),
        (("--all", "--max-gb", "3"), "--all"),
        (("--all", "--older-than", "3d"), "--all"),
    ],
)
def test_nonsense_is_one_sentence(command: Cache, arguments: tuple[str, ...], named: str) -> None:
    """What can't be meant is refused with status 2, and nothing is removed."""
    answer = command("prune", *arguments)
    assert answer.status == 2
    assert is_one_sentence(answer)
    assert named in answer.err
    assert command.left == "abc"


def test_help_shows_examples(command: Cache) -> None:
    assert "thawline cache prune --older-than 30d" in " ".join(command("prune", "--help").out.split())


def test_torch_is_not_loaded(home: Path) -> None:
    """Listing and pruning start without torch, whose import takes seconds."""
    libraries = ("torch", "mlflow", "kfp", "optuna", "boto3")
    assert loaded(["cache", "list"], ["cache", "prune"], libraries=libraries) == ([0, 0], [])


def test_sizes_and_ages_are_for_people() -> None:
    assert [_size(size) for size in (0, 999, 1000, 2.5e6, 1.26e12)] == ["0 B", "999 B", "1.0 kB", "2.5 MB", "1260.0 GB"]
    now = time.time()
    told = [_age(now - seconds) for seconds in (-5, 30, 61, 7300, 3 * DAY + 1)]
    assert told == ["just now", "just now", "1 minute ago", "2 hours ago", "3 days ago"]
