"""Moments as text."""

from components.core.machine.times import iso, minute


def test_a_moment_is_told_in_utc() -> None:
    """To the second for programs, to the minute for people; never is empty."""
    assert iso(1_793_000_000.9) == "2026-10-26T07:33:20+00:00"
    assert minute(iso(1_793_000_000.9)) == "2026-10-26 07:33"
    assert iso(0) == minute("") == ""
