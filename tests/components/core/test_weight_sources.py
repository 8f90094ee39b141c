"""Where weights and libraries that are missing come from."""

import pytest

from components.core import weight_sources


def test_libraries_of_a_group_come_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index has Thawline, so the hint installs the checkout's own group; in a pod only an image helps."""
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    hint = weight_sources.group_hint("text,audio")
    assert hint == "Run in the checkout of Thawline: pip install -e '.[text,audio]' -c requirements.lock."
    monkeypatch.setenv("KFP_POD_NAME", "pod")
    assert "--build-arg TASKS='text audio'" in weight_sources.group_hint("text,audio")
