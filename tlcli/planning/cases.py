"""The four cases of transfer learning as data, and the options that override the decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlcli.errors import choice

LARGE_FROM = 10_000
"""Training images from which a dataset counts as large; `--large-from` sets it."""
SAMPLE_SIZE = 1000
"""Training images that are measured at most; `--sample` sets it."""


@dataclass(frozen=True)
class Case:
    """One of the four cases: its two halves, and what follows from them.

    Attributes:
        size: "small" or "large".
        similarity: "similar" to the pretraining images, or "different" from them.
        cut: where the chain of stages is cut, as for `cut_index`, or "measured" by the sweep.
        drop: whether the stages behind the cut make way for a new head.
        preset: the entry of `TRAINING_PRESETS` that a plan without frozen stages begins with.
        short: a clause for a case that was measured.
        reason: a clause for a case that was set by hand.
    """

    size: str
    similarity: str
    cut: str
    drop: bool
    preset: str
    short: str
    reason: str


CASES: Mapping[str, Case] = {
    "small-similar": Case(
        "small",
        "similar",
        "all-but-head",
        False,
        "solve",
        "a new head on the last stage",
        "few images of a familiar kind: the last features already separate such classes, and "
        "training more would overfit, so only a new head is fitted",
    ),
    "small-different": Case(
        "small",
        "different",
        "measured",
        True,
        "solve",
        "a new head on that stage",
        "few images of an unfamiliar kind: the last stages are specific to the pretraining's "
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
        "many images of an unfamiliar kind: everything is trained, and the pretrained weights "
        "are only the starting point",
    ),
}


@dataclass(frozen=True)
class Overrides:
    """The options that override the decision; None leaves the choice to the plan.

    Attributes:
        training: values of `TrainingConfig` by field name.
        mixing: the option that asks for mixed images, which need training in steps, or "".
    """

    case: str | None = None
    size: str | None = None
    similarity: str | None = None
    freeze: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    mixing: str = ""

    @property
    def only_the_cut(self) -> bool:
        """Whether the cut is set by hand, but no half of the case."""
        return self.freeze is not None and not (self.case or self.size or self.similarity)

    def flags(self) -> tuple[str, ...]:
        """Return the options about the case and the cut, such as "--size small"."""
        names = ("case", "size", "similarity", "freeze")
        return tuple(f"--{name} {value}" for name in names if (value := getattr(self, name)))


def find_case(size: str, similarity: str) -> str:
    """Return the name of the case with this size and similarity."""
    return next(n for n, c in CASES.items() if (c.size, c.similarity) == (size, similarity))


def opposite_overrides(size: str, similarity: str) -> dict[str, dict[str, Any]]:
    """Return the fields of `Overrides` that ask for the other size or similarity, by the option."""
    other_size = next(c.size for c in CASES.values() if c.size != size)
    other_similarity = next(c.similarity for c in CASES.values() if c.similarity != similarity)
    return {
        f"--size {other_size}": {"size": other_size},
        f"--similarity {other_similarity}": {"similarity": other_similarity},
    }


def case_set_by_hand(overrides: Overrides) -> str:
    """Return the case that the options name, as one word or in two halves.

    Raises:
        UsageError: there is no such case.
    """
    if overrides.case is not None:
        return choice("--case", overrides.case, CASES)
    return find_case(overrides.size or "", overrides.similarity or "")
