"""Weekly retraining over several weeks: what is promoted, what is skipped, and that nothing moves."""

from pathlib import Path

import pytest

from tests.benchmarks.half_year import plan, simulate, verdicts


def test_the_plan_of_half_a_year() -> None:
    """26 weeks: two without change, one with damaged labels, one from which on the recipe is better."""
    kinds = plan(26, (7, 15), 10, 18)
    assert len(kinds) == 26
    assert [kinds[i - 1] for i in (1, 7, 10, 15, 18, 26)] == ["first", "same", "damaged", "same", "better", "equal"]


@pytest.mark.slow
@pytest.mark.usefixtures("smoke_tested", "undrawn")  # their seconds in each of eight weeks are spent elsewhere
@pytest.mark.parametrize(
    ("damage", "kinds"),
    [("all", ["first", "equal", "same", "damaged", "better", "equal"]), ("train", ["first", "damaged"])],
)
def test_a_few_weeks_go_as_they_should(damage: str, kinds: list[str], tmp_path: Path, tracked_home: Path) -> None:
    """Equal and damaged models are not promoted, the better one is, the unchanged week is skipped, nothing moves."""
    weeks = simulate(tmp_path, kinds, 900, damage)
    held = verdicts(weeks)
    held.pop("skips took under 5 s")  # a time is no property of the program
    assert all(held.values()), [held, weeks]
    champions = ["1"] * 4 + [weeks[4].version] * 2 if "better" in kinds else ["1"] * 2
    assert [week.champion for week in weeks] == champions
