"""The four cases of transfer learning as data, and what can be asked for by hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.errors import choice

LARGE_FROM = 10_000
"""Training images from which a dataset counts as large; `--large-from` sets it."""
SAMPLE = 1000
"""Training images that are measured at most; `--sample` sets it."""


@dataclass(frozen=True)
class Case:
    """One of the four: how much data, how much like the pretraining's, and what follows.

    `cut` is as for `cut_index`, or "measured": where the sweep says. `short` is for the decision's
    sentence, `reason` for who set the case by hand.
    """

    size: str
    similarity: str
    cut: str
    drop: bool
    training: str
    short: str
    reason: str


CASES: Mapping[str, Case] = {
    "small-similar": Case(
        "small",
        "similar",
        "all-but-head",
        False,
        "solve",
        "a new head on the last codes",
        "few images of a familiar kind: the last codes already tell such things apart, "
        "and training more would overfit; only a new head is fitted",
    ),
    "small-different": Case(
        "small",
        "different",
        "measured",
        True,
        "solve",
        "a new head on the stage that tells them apart",
        "few images of an unfamiliar kind: the last stages are about the pretraining's own "
        "classes, so they are dropped and a new head reads an earlier stage",
    ),
    "large-similar": Case(
        "large",
        "similar",
        "none",
        False,
        "all",
        "everything, with smaller steps for earlier stages",
        "many images of a familiar kind: enough to train everything, with smaller steps for "
        "earlier stages",
    ),
    "large-different": Case(
        "large",
        "different",
        "none",
        False,
        "reinit",
        "everything, from the pretrained weights",
        "many images of an unfamiliar kind: everything is trained, the pretrained weights "
        "are only where it starts",
    ),
}


@dataclass(frozen=True)
class Overrides:
    """What was asked for by hand; None is "you choose".

    `mixing` is the option that asks for mixed images, or "": those need training in steps.
    """

    case: str | None = None
    size: str | None = None
    similarity: str | None = None
    freeze: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    mixing: str = ""


def case_of(size: str, similarity: str) -> str:
    """The case of that size and similarity."""
    return next(n for n, c in CASES.items() if (c.size, c.similarity) == (size, similarity))


def other_halves(size: str, similarity: str) -> dict[str, dict[str, Any]]:
    """What to ask for, as an option and as a part of `Overrides`, to have the other of either."""
    other = next(c.size for c in CASES.values() if c.size != size)
    unlike = next(c.similarity for c in CASES.values() if c.similarity != similarity)
    return {
        f"--size {other}": {"size": other},
        f"--similarity {unlike}": {"similarity": unlike},
    }


def named_case(wish: Overrides) -> str:
    """The case that was set by hand, whole or in halves."""
    if wish.case is not None:
        return choice("--case", wish.case, CASES)
    return case_of(wish.size or "", wish.similarity or "")
