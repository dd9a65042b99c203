"""The description of one option, from which its flag, its checks and its docs are made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlcli.errors import UsageError, choice

CHOSEN_BY_PLAN = "chosen by the plan"
MAX_SHOWN_LIMIT = 1e9
"""Upper limits from here on only catch typing errors, so help texts leave them out."""
MIN_SHOWN_LIMIT = 1e-6
"""Help texts show a lower limit between 0 and this as "above 0"."""


@dataclass(frozen=True, kw_only=True)
class OptionSpec:
    """One option of a run.

    Attributes:
        default: the value of an option that is not given.
        help: its meaning, in full sentences.
        group: the heading that it stands under in `--help` and in the docs.
        low, high: the smallest and the largest accepted number, both included.
        choices: the accepted names; empty: any text.
        words: texts that are accepted in place of a number, such as "find".
        metavar: the placeholder for the value in `--help`.
        short: a flag of one letter, such as "-m".
        default_text: the default in words, where `default` is None.
        names_file: the value may name a file. In a file of options such a path is relative to
            that file.
        flag_is_text: the command line also accepts forms that are no number, such as "+10".
        name: the field of `Options`.
        types: the accepted types, without None.
    """

    default: Any
    help: str
    group: str
    low: float | None = None
    high: float = math.inf
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    metavar: str = ""
    short: str = ""
    default_text: str = CHOSEN_BY_PLAN
    names_file: bool = False
    flag_is_text: bool = False
    name: str = ""
    types: tuple[type, ...] = ()

    @property
    def flag(self) -> str:
        """The long flag, such as "--batch-size"."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def placeholder(self) -> str:
        """The placeholder for the value in `--help`."""
        return self.metavar or {int: "INT", float: "NUMBER", Path: "DIR"}.get(self.types[0], "NAME")

    @property
    def shown_default(self) -> str:
        """The default as people read it."""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return self.default_text if self.default is None else str(self.default)

    @property
    def shown_values(self) -> str:
        """The accepted values in words, such as "one of all, gradual" or "0 to 0.99"."""
        if self.choices:
            return f"{'one of' if len(self.choices) > 1 else 'or'} {', '.join(self.choices)}"
        if self.low is None:
            return ""
        values = f"{self.low:g} or more"
        if self.high < MAX_SHOWN_LIMIT:
            values = f"{self.low:g} to {self.high:,.10g}"
        elif 0 < self.low < MIN_SHOWN_LIMIT:
            values = "above 0"
        return " or ".join([values, *self.words])

    def range_error(self, value: Any) -> str:
        """Return why a number is not accepted, or "" if it is."""
        if self.low is None or value is None or value in self.words:
            return ""
        if self.low <= value <= self.high and math.isfinite(value):
            return ""
        high = f" to {self.high:.10g}" if math.isfinite(self.high) else ""
        return f"{self.flag} {value:g} is out of range (from {self.low:g}{high})"


def option(default: Any, help: str, group: str, **more: Any) -> Any:
    """Declare a field of `Options` and describe it; `more` are attributes of `OptionSpec`."""
    more["choices"] = tuple(more.get("choices", ()))
    spec = OptionSpec(default=default, help=help, group=group, **more)
    return field(default=default, metadata={"spec": spec})


def check_values(specs: Mapping[str, OptionSpec], values: Mapping[str, Any]) -> None:
    """Check each value against the type, the choices and the range of its option.

    Raises:
        UsageError: an unknown name, text in place of a number, or numbers out of range; all of the
            last are named.
    """
    for name, value in values.items():
        if specs[name].choices and value is not None:
            choice(specs[name].flag, value, specs[name].choices)
    for name, value in values.items():
        spec = specs[name]
        if isinstance(value, str) and spec.words and value not in spec.words:
            raise UsageError(f"{spec.flag} {value} is neither a number nor {spec.words[0]}")
        if spec.types == (int,) and value is not None and not isinstance(value, int):
            raise UsageError(f"{spec.flag} {value!r} is not a whole number")
    wrong = [error for name, value in values.items() if (error := specs[name].range_error(value))]
    if wrong:
        raise UsageError("; ".join(wrong))
