"""What `thawline run` prints before its steps."""

import io

import pytest
from rich.console import Console

from pipelines.commands.options import merge
from pipelines.commands.run import _print_settings


@pytest.mark.parametrize(
    ("task", "searched"),
    [("image", "layer_decay, "), ("speech", "dropout, head_learning_rate, label_smoothing, layer_decay, ")],
)
def test_what_is_searched_depends_on_the_head(task: str, searched: str) -> None:
    """A head that is solved for leaves three options out of the search, and one of transcripts is not solved for."""
    printed = io.StringIO()
    _print_settings(Console(file=printed, width=200), "data", merge({"task": task}, None, "data"), "")
    assert f"searched: {searched}thaw, " in printed.getvalue()
