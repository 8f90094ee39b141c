"""What robfig's cron of version 1 makes of an expression, which Kubeflow's server and controller use."""

import re

BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
DAYS = "sun mon tue wed thu fri sat"
NAMES: dict[int, dict[str, int]] = {
    4: {name: number for number, name in enumerate(MONTHS.split(), 1)},
    5: {name: number for number, name in enumerate(DAYS.split())},
}
NAMED = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


def parse(text: str) -> list[set[int]]:
    """Seconds, minutes, hours, days, months and weekdays; with five fields the first is seconds.

    Raises:
        ValueError: It is no expression of this cron.
    """
    if text.startswith("@"):
        if text not in NAMED:
            raise ValueError(f"Unrecognized descriptor: {text}")
        text = NAMED[text]
    fields = text.split()
    if len(fields) not in (5, 6):
        raise ValueError(f"Expected 5 to 6 fields, found {len(fields)}: {text}")
    return [_field(number, one) for number, one in enumerate([*fields, "*"][:6])]


def _field(number: int, text: str) -> set[int]:
    return set().union(*(_span(number, part) for part in text.split(",") if part))


def _span(number: int, text: str) -> set[int]:
    least, most = BOUNDS[number]
    span, _, step = text.partition("/")
    if "/" in step or span.count("-") > 1:
        raise ValueError(f"Too many hyphens or slashes: {text}")
    low, _, high = span.partition("-")
    if low in ("*", "?"):
        begin, end = least, most
    else:
        begin = _number(number, low)
        end = _number(number, high) if high else most if step else begin
    size = _number(-1, step) if step else 1
    if begin < least:
        raise ValueError(f"Beginning of range ({begin}) below minimum ({least}): {text}")
    if end > most:
        raise ValueError(f"End of range ({end}) above maximum ({most}): {text}")
    if begin > end:
        raise ValueError(f"Beginning of range ({begin}) beyond end of range ({end}): {text}")
    if not size:
        raise ValueError(f"Step of range should be a positive number: {text}")
    return set(range(begin, end + 1, size))


def _number(number: int, text: str) -> int:
    known = NAMES.get(number, {}).get(text.lower())
    if known is not None:
        return known
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"Failed to parse int from {text}")
    return int(text)
