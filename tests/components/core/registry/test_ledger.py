"""Entries of the ledger, as runs in MLflow have them."""

from types import SimpleNamespace
from typing import Any

from components.core.registry.ledger import Entry
from components.core.tracking import tag_names


def run(**tags: str) -> Any:
    info = SimpleNamespace(run_id="id", start_time=7, status="FINISHED")
    names = {getattr(tag_names, name): value for name, value in tags.items()}
    return SimpleNamespace(info=info, data=SimpleNamespace(tags={tag_names.MODEL: "toy", **names}))


def test_an_entry_is_read_by_the_names_of_its_tags() -> None:
    """Each fact comes from its own tag, in whichever order the tags are."""
    entry = Entry.from_run(run(TO="2", FROM="1", ACTION="promote", WITHDRAWN="3", WHO="ann", WHY="better", MARK="m"))
    assert entry == Entry("id", "toy", "promote", "1", "2", "better", "ann", "", 7, "m", "FINISHED", withdrawn="3")


def test_an_entry_without_a_tag_lacks_that_fact() -> None:
    """What an earlier version did not write is empty."""
    assert Entry.from_run(run(ACTION="found")) == Entry("id", "toy", "found", "", "", "", "", "", 7, "", "FINISHED")
