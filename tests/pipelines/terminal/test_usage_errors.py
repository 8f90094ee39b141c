"""What is said of a wrong command line."""

from pathlib import Path

import pytest

from tests.support.command import call


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("rum", "No such command 'rum'. Did you mean 'run'? See `thawline --help`."),
        ("run photos --trails 3", "No such option: --trails. Did you mean --trials? See `thawline run --help`."),
        ("run photos --zzz", "No such option: --zzz. See `thawline run --help`."),
        ("cache prune --all-of", "No such option: --all-of. Did you mean --all? See `thawline cache prune --help`."),
        (
            "serve stamps --port x",
            "Invalid value for '--port': it should be a whole number. See `thawline serve --help`.",
        ),
        ("run photos --trials -1", "--trials can't be -1: it should be at least 0. See `thawline run --help`."),
        ("run", "Missing argument 'SOURCE'. See `thawline run --help`."),
        ("predict", "Missing option '--model'. See `thawline predict --help`."),
    ],
)
def test_the_nearest_name_and_the_right_help_are_named(
    typed: str, said: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence says what is wrong, what may have been meant, and which command's help says more."""
    answer = call(capsys, monkeypatch, *typed.split())
    assert (answer.status, answer.err) == (2, f"Error: {said}\n")
