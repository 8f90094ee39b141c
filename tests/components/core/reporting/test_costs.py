"""What a run costs, in words."""

import pytest

from components.core.reporting.costs import duration, money, sentence
from components.core.settings import Settings


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.04, "0.0 s"),
        (5.25, "5.2 s"),
        (59.4, "59.4 s"),
        (106, "1 min 46 s"),
        (3600, "1 h 00 min"),
        (9_000, "2 h 30 min"),
    ],
)
def test_a_duration_is_told_as_people_do(seconds: float, told: str) -> None:
    """Seconds, minutes and seconds, or hours and minutes."""
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0000012, "under 0.001"), (0.01148, "0.011"), (0.5, "0.5"), (12.345, "12.35"), (4321, "4,321.00")],
)
def test_an_amount_has_the_digits_that_count(value: float, told: str) -> None:
    """Two digits for small amounts, cents for others."""
    assert money(value, "") == told
    assert money(value, "EUR") == f"{told} EUR"


def test_the_line_says_what_is_known() -> None:
    """Machine and price are told where they were given."""
    assert sentence(106, Settings()) == "1 min 46 s"
    assert sentence(106, Settings(machine="n2-standard-8")) == "1 min 46 s on n2-standard-8"
    priced = Settings(machine="n2-standard-8", price_per_hour=0.39)
    assert sentence(106, priced) == "1 min 46 s on n2-standard-8, about 0.011"
    assert sentence(5, priced) == "5.0 s on n2-standard-8, under 0.001"
    assert sentence(106, priced.model_copy(update={"currency": "EUR", "machine": ""})) == "1 min 46 s, about 0.011 EUR"
