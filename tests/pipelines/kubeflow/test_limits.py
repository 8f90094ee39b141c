"""Lengths that Kubeflow's tables do not hold."""

import pytest

from components.core.errors import InputError
from pipelines.kubeflow import limits
from pipelines.kubeflow.submission import PIPELINE


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("experiment", "x" * 129, "The experiment's name, 'xxxx.*…', has 129 bytes, 1 more than Kubeflow keeps."),
        ("experiment", "ö" * 65, "has 130 bytes, 2 more"),
        ("run", "ö" * 256, "The run's name, .* has 256 characters, 1 more"),
        ("recurring_run", "x" * 300, "The schedule's name, .* has 300 characters, 45 more"),
        ("cron", "0 " * 128, "The cron expression, .* has 256 characters, 1 more"),
        ("pipeline", "x" * 129, "has 129 bytes, 1 more"),
        ("version", "x" * 128, "has 128 bytes, 1 more"),
    ],
)
def test_a_text_that_is_too_long_is_named(key: str, text: str, wanted: str) -> None:
    """The sentence says what is too long and by how much, counted as Kubeflow counts."""
    with pytest.raises(InputError, match=wanted):
        limits.check(**{key: text})
    limits.check(**{key: text[: -2 if key == "experiment" else -45]})


def test_names_of_our_own_fit() -> None:
    """The pipelines and the versions that Thawline names itself are short enough."""
    for name in (PIPELINE, f"{PIPELINE}-canary"):
        limits.check(pipeline=name, version=f"{name}-{'0' * 16}")


def test_a_description_is_cut_to_what_is_kept() -> None:
    """A short description stays as it is, and a long one ends with a sign that it was cut."""
    assert limits.cut("every week\n") == "every week"
    assert limits.cut("x" * 255) == "x" * 255
    assert limits.cut("ö" * 300) == "ö" * 254 + "…"
