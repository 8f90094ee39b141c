"""Cron expressions: those that users write, those that Kubeflow takes, and when they are due.

Kubeflow takes six fields, seconds first, and reads all of them in one time zone, that of its controller
(`CRON_SCHEDULE_TIMEZONE`, UTC unless set); it knows no `CRON_TZ=`. It takes five fields too, but for seconds, minutes,
hours, days and months, so what cron calls five fields is never sent as it is.
"""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from components.core.errors import InputError

DAY = 24 * 60  # minutes
NAMED = {
    "@YEARLY": "0 0 0 1 1 *",
    "@ANNUALLY": "0 0 0 1 1 *",
    "@MONTHLY": "0 0 0 1 * *",
    "@WEEKLY": "0 0 0 * * 0",
    "@DAILY": "0 0 0 * * *",
    "@MIDNIGHT": "0 0 0 * * *",
    "@HOURLY": "0 0 * * * *",
}


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name.

    Raises:
        InputError: There is none of that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"There is no time zone {name!r}.", "Use one like UTC or Europe/Berlin.") from None


def six_fields(text: str) -> str:
    """An expression of five or six fields in Kubeflow's form: seconds first, Sunday 0, no `L`, `W` or `#`.

    Raises:
        InputError: It is no such expression, or never due.
    """
    if re.match(r"\s*(CRON_)?TZ=", text, re.IGNORECASE):
        raise InputError(f"Kubeflow does not accept a time zone in {text!r}.", "Set it with --time-zone.")
    fields = NAMED.get(text.strip().upper(), text).upper().replace("?", "*").split()
    fields = ["0", *fields] if len(fields) == 5 else fields  # noqa: PLR2004 - cron's own form
    expression = " ".join(fields)
    try:
        found = CronSim(expression, datetime.now(UTC))
        next(found)
    except (CronSimError, StopIteration) as error:
        reason = str(error).lower() or "it is never due"
        hint = "Use one like '0 2 * * 1', or @weekly."
        raise InputError(f"The cron expression {text!r} is wrong: {reason}.", hint) from None
    if re.search(r"[#]|L\b|LW", " ".join((fields[3], fields[5]))):
        raise InputError(f"Kubeflow does not support the 'L' and '#' of {text!r}.", "Use numbers or names of days.")
    # 7 is Sunday too, which Kubeflow knows as 0 only; its week ends on Saturday, so 1/2 would leave Sunday out
    if "7" in fields[5] or ("/" in fields[5] and "*" not in fields[5]):
        fields[5] = _listed({int(day) % 7 for day in found.weekdays if isinstance(day, int)})
    return " ".join(fields)


def moved(expression: str, home: ZoneInfo, there: ZoneInfo, now: datetime) -> str:
    """The six fields in the time zone `there` that are due when `expression` is due next in `home`.

    With daylight saving the difference changes in the course of a year: ask again after each time it was due.

    Raises:
        InputError: Some of its times fall on another day there, which no one expression can say.
    """
    at = due(expression, home, now)
    shift = _offset(there, at) - _offset(home, at)
    if not shift:
        return expression
    found = CronSim(expression, now.replace(tzinfo=None))
    seconds, _, _, day_of_month, month, _ = expression.split()
    any_day = expression.split()[3:] == ["*", "*", "*"]
    times = [hour * 60 + minute + shift for hour in found.hours for minute in found.minutes]
    days = {0} if any_day else {time // DAY for time in times}
    hours, minutes = {time % DAY // 60 for time in times}, {time % 60 for time in times}
    crosses = days != {0} and (day_of_month, month) != ("*", "*")
    if len(days) > 1 or crosses or len(hours) * len(minutes) != len(times):
        raise InputError(
            f"Kubeflow keeps its schedules in {there}, where {expression!r} of {home} can't be written as "
            "one expression.",
            "Choose another hour, or set CRON_SCHEDULE_TIMEZONE of Kubeflow's controller and --cluster-time-zone.",
        )
    weekdays = expression.split()[5]
    if days != {0}:
        weekdays = _listed({(int(day) + max(days)) % 7 for day in found.weekdays if isinstance(day, int)})
    return " ".join((seconds, _listed(minutes), _listed(hours), day_of_month, month, weekdays))


def due(expression: str, home: ZoneInfo, after: datetime) -> datetime:
    """Return when six cron fields are next due in a time zone, in UTC."""
    return next(CronSim(expression, after.astimezone(home))).astimezone(UTC)


def begin(expression: str, home: ZoneInfo, now: datetime) -> datetime:
    """Return when a schedule begins that is next due after `now`.

    Moved an hour later in autumn, it would otherwise be due again an hour after it was.
    """
    return due(expression, home, now) - timedelta(minutes=1)


def _offset(place: ZoneInfo, at: datetime) -> int:
    """Minutes that a zone is ahead of UTC."""
    delta = at.astimezone(place).utcoffset()
    return round(delta.total_seconds() / 60) if delta else 0


def _listed(numbers: set[int]) -> str:
    return ",".join(map(str, sorted(numbers)))
