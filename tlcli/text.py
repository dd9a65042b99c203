"""How names of files and classes are told in messages: they may hold anything, bytes even."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path


def printable(name: str | Path) -> str:
    """`name` with line breaks, terminal escapes and undecodable bytes written as Python would."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(name)
    )


def shorten_list(names: Iterable[str | Path], most: int = 5) -> str:
    """The first `most` names, and how many more there are."""
    rest = iter(names)
    told = ", ".join(printable(name) for name in islice(rest, most))
    more = sum(1 for _ in rest)
    return f"{told} and {more} more" if more else told


def format_duration(seconds: float) -> str:
    """As people say it: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
