"""The cost of a run in words: seconds of work, machine and price."""

from components.core.settings import Settings

LEAST = 0.001  # smaller amounts are not worth their digits


def duration(seconds: float) -> str:
    """A duration in words, as `1 min 46 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def amount(seconds: float, settings: Settings) -> float:
    """The price of so many seconds; 0 where no price was given."""
    return seconds / 3600 * settings.price_per_hour


def money(value: float, currency: str) -> str:
    """An amount with two digits that count; `under 0.001` where it has none."""
    if value < LEAST:
        return f"under {LEAST} {currency}".rstrip()
    return f"{value:.2g} {currency}".rstrip() if value < 1 else f"{value:,.2f} {currency}".rstrip()


def sentence(seconds: float, settings: Settings) -> str:
    """All of it, as `1 min 46 s on n2-standard-8, about 0.011 EUR`."""
    where = f" on {settings.machine}" if settings.machine else ""
    price = ""
    if settings.price_per_hour:
        price = f", about {money(amount(seconds, settings), settings.currency)}".replace("about under", "under")
    return f"{duration(seconds)}{where}{price}"
