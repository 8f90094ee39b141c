"""Looks at the test rows: every one has a number of its own, whoever takes it."""

import json
import multiprocessing
import uuid
from collections import defaultdict
from pathlib import Path

import pytest

from components.core.evaluation import look_budget
from components.core.evidence.alpha_spending import Look
from components.core.tracking import queries, tag_names
from components.core.tracking.service import connection
from tests.support import moves

HORIZON = 5


def take(run: str = "", horizon: int = HORIZON) -> Look:
    return look_budget.take("toy", run or uuid.uuid4().hex, 0.05, horizon).look


@pytest.mark.usefixtures("tracked_home")
def test_a_step_that_is_done_again_has_its_look() -> None:
    """Who looks again at the same models takes no second look, also after others have had theirs."""
    first = look_budget.take("toy", "a", 0.05, HORIZON)
    assert take().number == 2
    assert look_budget.take("toy", "a", 0.05, HORIZON) == first
    assert (first.opened, take().number) == ("the first look", 3)


@pytest.mark.usefixtures("tracked_home")
def test_looks_are_counted_without_a_word_from_their_runs() -> None:
    """A run that is killed between its claim and its tag has had its look; the last of a horizon opens the next."""
    taken = [take() for _ in range(HORIZON + 1)]
    assert [(look.opening, look.number) for look in taken] == [*((1, n + 1) for n in range(HORIZON)), (2, 1)]


@pytest.mark.usefixtures("tracked_home")
def test_a_look_that_its_run_is_tagged_with_counts_once() -> None:
    """The tag and the claim tell of the same look; a look of before there were claims counts by its tag."""
    before = connection.client().create_run(connection.own_experiment("toy"), tags={tag_names.MODEL: "toy"}).info.run_id
    first = {"horizon": HORIZON, "alpha": 0.05, "number": 1, "opening": 1}
    connection.client().set_tag(before, tag_names.LOOK, json.dumps(first))
    assert take().number == 2
    connection.client().set_tag(before, tag_names.LOOK, json.dumps({**first, "number": 2}))
    assert take().number == 3


@pytest.mark.usefixtures("tracked_home")
def test_deleting_what_was_recorded_refills_nothing() -> None:
    """The register of looks may be deleted on the tracking page: its looks count, and the next run makes another."""
    assert take().number == 1
    [register] = queries.params_of("toy", look_budget.KIND)
    connection.client().delete_run(register)
    assert (take().number, take().number) == (2, 3)
    assert register not in queries.params_of("toy", look_budget.KIND)


@pytest.mark.usefixtures("tracked_home")
def test_of_two_registers_nobody_takes_a_number_that_one_has_given() -> None:
    """Runs that started together may have made one each: who sees one of them only meets the others there."""
    first, second = sorted(look_budget._new_register("toy") for _ in range(2))
    assert queries.claim(second, "look.1.1", json.dumps({**first_look(), "run": "saw the second only"}))
    assert take().number == 2
    assert {"look.1.2"} <= queries.params_of("toy", look_budget.KIND)[first].keys()


def first_look() -> dict[str, float]:
    return {"horizon": HORIZON, "alpha": 0.05, "number": 1, "opening": 1}


@pytest.mark.slow
@pytest.mark.parametrize("with_register", [True, False])
def test_two_homes_with_one_store_never_spend_a_number_twice(
    tracked_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, with_register: bool
) -> None:
    """Four processes of two homes, which share no lock, take looks at the same moment: alpha holds in every horizon."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked_home / 'mlflow.db'}")
    if with_register:
        look_budget._new_register("toy")
    context = multiprocessing.get_context("forkserver")
    barrier, results = context.Barrier(4), context.SimpleQueue()
    children = [
        moves.process(moves.looking, str(tmp_path / home), f"{home} {n}", 4, HORIZON, barrier, results)
        for home in ("one", "two")
        for n in range(2)
    ]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    found = [results.get() for _ in range(16)]
    assert len({(opening, number) for opening, number, _ in found}) == 16
    spent: dict[int, float] = defaultdict(float)
    for opening, number, level in found:
        assert 1 <= number <= HORIZON
        spent[opening] += level
    assert max(spent.values()) <= 0.05 + 1e-12
    if with_register:  # then no number is lost either
        assert sorted(spent) == [1, 2, 3, 4]


@pytest.mark.usefixtures("tracked_home")
def test_a_parameter_belongs_to_who_wrote_it_first() -> None:
    """A second value is refused, the same one again is no harm, and a run that is gone is nobody's."""
    run = look_budget._new_register("toy")
    assert queries.claim(run, "look.1.1", "mine")
    assert not queries.claim(run, "look.1.1", "yours")
    assert queries.claim(run, "look.1.1", "mine")
    connection.client().delete_run(run)
    assert not queries.claim(run, "look.1.2", "mine")
