"""Names and durations in messages. The name of a file or a class may hold any bytes."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path


def printable(name: str | Path) -> str:
    """Return `name` with line breaks, terminal escapes and undecodable bytes escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(name)
    )


def shorten_list(names: Iterable[str | Path], most: int = 5) -> str:
    """Join the first `most` names and say how many more there are."""
    rest = iter(names)
    shown = ", ".join(printable(name) for name in islice(rest, most))
    more = sum(1 for _ in rest)
    return f"{shown} and {more} more" if more else shown


def join_or(names: Iterable[str]) -> str:
    """Join names as a sentence lists alternatives: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def format_duration(seconds: float) -> str:
    """Format a duration for people: "40 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
