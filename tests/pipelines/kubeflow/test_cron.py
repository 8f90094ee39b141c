"""Cron expressions: what Kubeflow takes, and what they mean in a time zone."""

from datetime import UTC, datetime, timedelta

import pytest
from cronsim import CronSim

from components.core.errors import InputError
from pipelines.kubeflow import cron
from tests.fakes.kubeflow import cron as robfig
from tests.fakes.kubeflow import rules

WINTER, SUMMER = datetime(2026, 1, 7, 12, tzinfo=UTC), datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("0 2 * * 1", "0 0 2 * * 1"),
        ("30 0 2 * * 1", "30 0 2 * * 1"),
        ("0  2 ? * MON-fri", "0 0 2 * * MON-FRI"),
        ("0 2 * * 7", "0 0 2 * * 0"),
        ("0 2 * * 5-7", "0 0 2 * * 0,5,6"),
        ("*/15 8-18 1,15 JAN *", "0 */15 8-18 1,15 JAN *"),
        ("0 2 * * 0-7", "0 0 2 * * 0,1,2,3,4,5,6"),
        ("0 2 * * 1/2", "0 0 2 * * 0,1,3,5"),
        ("0 2 * * 1-5/2", "0 0 2 * * 1,3,5"),
        ("0 2 ? JAN sun", "0 0 2 * JAN SUN"),
        ("@weekly", "0 0 0 * * 0"),
        ("@Monthly", "0 0 0 1 * *"),
    ],
)
def test_five_fields_become_six(given: str, wanted: str) -> None:
    """An expression is written as Kubeflow takes it: six fields, seconds first, Sunday as 0."""
    assert cron.six_fields(given) == wanted
    rules.check_cron(wanted)


@pytest.mark.parametrize(
    "given",
    [
        *("", "0 2 * *", "0 25 * * *", "0 2 30 2 *", "0 2 31 2 *", "0 2 * * 8", "0 2 * * 5-1", "0 2 * * FRI-SUN"),
        *("@every 1h", "@reboot", "CRON_TZ=UTC 0 2 * * 1", "TZ=UTC 0 2 * * 1", "0 2 L * *", "0 2 LW * *"),
        *("0 2 * * 5L", "0 2 * * 1#2", "0 2 * * 1,,3", "0 2 * * ٣"),
    ],
)
def test_what_kubeflow_does_not_know_is_refused(given: str) -> None:
    """A wrong expression, one that is never due and one with signs that Kubeflow does not know are named."""
    with pytest.raises(InputError, match="'"):
        cron.six_fields(given)


def test_a_zone_in_the_expression_has_an_option_of_its_own() -> None:
    """Kubeflow refuses CRON_TZ= and TZ=, so the message says which option to give."""
    for given in ("CRON_TZ=Europe/Berlin 0 2 * * 1", "TZ=UTC 0 2 * * 1"):
        with pytest.raises(InputError, match="--time-zone"):
            cron.six_fields(given)


@pytest.mark.parametrize(
    "given",
    [
        *("0 2 * * 1", "0 2 * * 7", "0 2 * * 5-7", "0 2 * * 0-7", "0 2 * * */2", "0 2 * * MON/2", "0 2 * * 6/1"),
        *("*/7 8-18/3 1-7/3 */5 *", "5/20 * * * SUN", "15 30 2 * JAN-MAR MON-5", "0 2 ? * 1,3", "@hourly"),
    ],
)
def test_kubeflow_reads_what_we_read(given: str) -> None:
    """Each field of an expression that we send means the same times to Kubeflow's cron as to ours."""
    sent = cron.six_fields(given)
    ours = CronSim(sent, WINTER)
    weekdays = {day % 7 for day in ours.weekdays if isinstance(day, int)}
    read = [ours.seconds, ours.minutes, ours.hours, ours.days, ours.months, weekdays]
    assert robfig.parse(sent) == read


def test_five_fields_begin_with_seconds_for_kubeflow() -> None:
    """Sent as they are, five fields would be due every second, which is why six are sent."""
    assert robfig.parse("*/2 * * * *")[0] == set(range(0, 60, 2))
    assert robfig.parse(cron.six_fields("*/2 * * * *"))[:2] == [{0}, set(range(0, 60, 2))]


@pytest.mark.parametrize(
    ("given", "place", "now", "wanted"),
    [
        ("0 0 2 * * 1", "UTC", WINTER, "0 0 2 * * 1"),
        ("0 0 2 * * 1", "Europe/Berlin", WINTER, "0 0 1 * * 1"),
        ("0 0 2 * * 1", "Europe/Berlin", SUMMER, "0 0 0 * * 1"),
        ("0 0 1 * * 1", "Europe/Berlin", SUMMER, "0 0 23 * * 0"),
        ("0 30 22 * * FRI,SAT", "America/New_York", WINTER, "0 30 3 * * 0,6"),
        ("0 0 2 * * *", "Asia/Kolkata", WINTER, "0 30 20 * * *"),
        ("0 0 6,18 * * *", "Europe/Berlin", SUMMER, "0 0 4,16 * * *"),
        ("0 0 0,12 * * *", "Europe/Berlin", SUMMER, "0 0 10,22 * * *"),
        ("0 0 12 1 * *", "Europe/Berlin", WINTER, "0 0 11 1 * *"),
    ],
)
def test_an_expression_moves_to_the_zone_of_kubeflow(given: str, place: str, now: datetime, wanted: str) -> None:
    """An expression of a named zone is written for Kubeflow's own, hours and weekdays moved."""
    there = cron.zone("UTC")
    assert cron.moved(given, cron.zone(place), there, now) == wanted
    assert cron.due(wanted, there, now) == cron.due(given, cron.zone(place), now)


@pytest.mark.parametrize("given", ["0 0 1 1 * *", "0 0 1 * JUN *", "0 0 1,12 * * 1", "0 15,45 * * * 1"])
def test_times_that_no_one_expression_says_are_refused(given: str) -> None:
    """Where some times fall on another day or month in Kubeflow's zone, the message says what to do."""
    with pytest.raises(InputError, match="--cluster-time-zone"):
        cron.moved(given, cron.zone("Asia/Kolkata"), cron.zone("UTC"), SUMMER)


def test_the_same_zone_takes_every_expression() -> None:
    """Where Kubeflow's controller keeps the user's zone, nothing is moved."""
    berlin = cron.zone("Europe/Berlin")
    assert cron.moved("0 0 1 1 * *", berlin, berlin, SUMMER) == "0 0 1 1 * *"


def test_each_time_of_a_year_is_met() -> None:
    """Moved anew after each time it was due, and begun just before the next, it is due at one local time all year."""
    berlin, utc = cron.zone("Europe/Berlin"), cron.zone("UTC")
    now, met = WINTER, []
    while now < WINTER + timedelta(days=357):
        begin = cron.begin("0 0 2 * * 1", berlin, now)
        now = cron.due(cron.moved("0 0 2 * * 1", berlin, utc, now), utc, begin)
        met.append(now.astimezone(berlin))
    assert len(met) == 52
    assert {(at.weekday(), at.hour, at.minute) for at in met} == {(0, 2, 0)}


def test_an_unknown_zone_is_named() -> None:
    """A time zone that does not exist is named."""
    with pytest.raises(InputError, match="'Europe/Atlantis'"):
        cron.zone("Europe/Atlantis")
