"""Expected failures. Everything else is a bug and keeps its traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the person can put right: what is wrong and where, then what to do.

    `exit_code` is 1, an expected failure.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(UserError):
    """A wrong option or argument; `exit_code` is 2."""

    exit_code = 2


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A hint with the close matches of `word` among `options`, or with all of a short list."""
    names = list(options)
    close = get_close_matches(word.lower(), names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "one of: " + ", ".join(names) if len(names) <= 12 else ""


def choice(flag: str, value: str, options: Iterable[str]) -> str:
    """`value`, if it is one of `options`.

    Raises:
        UsageError: it is not; the flag, the value and the close matches are named.
    """
    names = list(options)
    if value not in names:
        raise UsageError(f"{flag}: {value!r} is not known", did_you_mean(value, names))
    return value
