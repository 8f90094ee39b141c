"""Moments as people and programs read them."""

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """A moment in seconds since the epoch as ISO 8601, in UTC and to the second; empty for 0, which is never."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""


def minute(moment: str) -> str:
    """A moment in ISO 8601 as `2026-11-29 20:15`; empty stays empty."""
    return moment[:16].replace("T", " ")
