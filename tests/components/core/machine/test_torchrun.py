"""Which of torchrun's processes this one is."""

import pytest

from components.core.machine import torchrun


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (False, False)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, (False, False)),
        ({"WORLD_SIZE": "2"}, (False, False)),
        ({"WORLD_SIZE": "2", "RANK": "0"}, (True, False)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, (True, True)),
    ],
)
def test_all_but_the_first_of_several_help(
    environment: dict[str, str], expected: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process alone is not one of torchrun's; of several, the first records and the others help."""
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (torchrun.launched(), torchrun.is_helper()) == expected
