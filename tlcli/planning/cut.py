"""The cut in a backbone's chain of stages: frozen before it, trained or dropped behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlcli.backbones.catalogue import NEW_HEAD
from tlcli.errors import UsageError, choice
from tlcli.planning import explain
from tlcli.planning.cases import Case, Overrides
from tlcli.planning.decision import best_cut
from tlcli.planning.evidence import Evidence

if TYPE_CHECKING:
    from tlcli.backbones.backbone import Backbone

CUT_RULES = ("features", "none", "all-but-head")
"""The values of `--freeze` that are no stage's name."""


@dataclass(frozen=True)
class StageFacts:
    """The facts about a stage that a plan is made from.

    Attributes:
        part: "features" or "classifier".
        parameters: the number of its parameters.
    """

    name: str
    part: str
    parameters: int


def stage_facts(backbone: "Backbone") -> list[StageFacts]:
    """Return the facts about the stages of a backbone, in order."""
    return [
        StageFacts(s.name, s.part, sum(p.numel() for p in s.parameters())) for s in backbone.stages
    ]


@dataclass(frozen=True)
class Cut:
    """A cut in a chain of stages.

    Attributes:
        stages: the whole chain; the last stage is the head.
        index: the number of leading stages that are frozen.
        drops: whether the stages behind the cut make way for a new linear head.
        rule: the rule or the stage that the cut was set by, as for `cut_index`.
        note: a sentence on why it was moved, or "".
    """

    stages: Sequence[StageFacts]
    index: int
    drops: bool
    rule: str
    note: str = ""

    @property
    def stage(self) -> str:
        """The last frozen stage, or "none"."""
        return self.stages[self.index - 1].name if self.index else "none"

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the trained stages."""
        return (NEW_HEAD,) if self.drops else tuple(s.name for s in self.stages[self.index :])

    @property
    def dropped(self) -> tuple[str, ...]:
        """The names of the dropped stages."""
        return tuple(s.name for s in self.stages[self.index :]) if self.drops else ()

    @property
    def trains_head_only(self) -> bool:
        """Whether all stages but the head are frozen."""
        return self.index == len(self.stages) - 1


def choose_cut(
    stages: Sequence[StageFacts],
    pretrained: int,
    case: Case,
    overrides: Overrides,
    evidence: Evidence | None,
) -> Cut:
    """Choose the cut from the options, else from the case and the sweep.

    Args:
        pretrained: the number of leading stages that hold loaded weights only. No cut lies behind
            a stage that is not pretrained.

    Raises:
        UsageError: no such stage, or nothing would be left to train.
    """
    rule = case.cut if overrides.freeze is None else overrides.freeze
    if rule == "measured":
        best = best_cut(evidence.informative_sweep) if evidence else None
        rule = best.name if best else "middle"
    index = cut_index(stages, rule)
    drops = case.drop and not overrides.only_the_cut and 0 < index < len(stages) - 1
    note = ""
    if not pretrained:
        note = explain.FROM_SCRATCH
    elif index > pretrained:
        note = explain.moved_cut_text(stages[pretrained].name)
    if index > pretrained:
        index, drops = pretrained, False
    if index and not drops:
        # Pooling without parameters gives the same features on either side; frozen, they are
        # smaller.
        while index < len(stages) - 1 and stages[index].parameters == 0:
            index += 1
    return Cut(stages, index, drops, rule, note)


def cut_index(stages: Sequence[StageFacts], rule: str) -> int:
    """Return how many leading stages `rule` freezes.

    Args:
        rule: "none", "features" (all but the classifier), "all-but-head", "middle" (three quarters
            of the feature stages, where no sweep says better) or a stage's name (frozen up to and
            including it).

    Raises:
        UsageError: no such stage, or nothing would be left to train.
    """
    features = sum(s.part == "features" for s in stages)
    middle = round(3 / 4 * sum(s.part == "features" and s.parameters > 0 for s in stages))
    last = len(stages) - 1
    named = {"none": 0, "features": features, "middle": max(middle, 1), "all-but-head": last}
    if rule in named:
        return named[rule]
    names = [s.name for s in stages]
    index = names.index(choice("--freeze", rule, [*CUT_RULES, *names])) + 1
    if index > last:
        raise UsageError(
            f"--freeze {rule}: that is the head, so nothing would be left to train",
            f"the last stage that can be frozen is {names[last - 1]} (or say all-but-head)",
        )
    return index
