"""The plan: which stages stay frozen, which are trained, and how. Pure data, no torch.

Every one of the four cases of transfer learning is one cut in the chain of a backbone's stages.
What lies before the cut is frozen; what lies behind it is trained or, where the case says so,
dropped for a new head. `docs/four-cases.md` tells it at length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tlcli.backbones.catalogue import NEW_HEAD
from tlcli.errors import UsageError, choice
from tlcli.planning.cases import CASES, LARGE_FROM, Overrides, named_case
from tlcli.planning.choose_training import choose_training
from tlcli.planning.decision import best_cut, decide_case
from tlcli.planning.evidence import Evidence
from tlcli.planning.explain import sweep_text
from tlcli.planning.training_config import TrainingConfig

if TYPE_CHECKING:
    from tlcli.backbones.backbone import Backbone

FREEZES = ("features", "none", "all-but-head")


@dataclass(frozen=True)
class StageFacts:
    """What the plan needs to know of a stage."""

    name: str
    part: str
    parameters: int


@dataclass(frozen=True)
class Plan:
    """What is frozen, trained and dropped, how, and why.

    Attributes:
        case: one of `CASES`, or "custom" where the cut was set by hand without a case.
        cut: the last frozen stage, "none" where everything is trained.
        trained: the names of the trained stages, the new head last.
        dropped: the stages behind the cut that the network does without.
        why: a sentence for a person.
        override: the options that took the decision out of the plan's hands.
        runner_up: the case that came close, or "".
        evidence: what it rests on; None where nothing was measured.
    """

    case: str
    size: str
    similarity: str
    cut: str
    trained: tuple[str, ...]
    dropped: tuple[str, ...]
    training: TrainingConfig
    why: str
    override: tuple[str, ...] = ()
    runner_up: str = ""
    evidence: Evidence | None = None

    def parts(self) -> str:
        """What becomes of the stages, in a line for a person."""
        few = len(self.trained) < 4
        trained = self.trained if few else (self.trained[0], "...", self.trained[-1])
        dropped = f"; dropped: {self.dropped[0]} and on" if self.dropped else ""
        frozen = "frozen: nothing" if self.cut == "none" else f"frozen up to: {self.cut}"
        return f"{frozen}; trained: {', '.join(trained)}{dropped}"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan in plain JSON types; the training is stored as "schedule"."""
        content = asdict(replace(self, evidence=None))
        content["evidence"] = self.evidence.to_dict() if self.evidence else None
        return {"schedule" if key == "training" else key: v for key, v in content.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Plan":
        """What `to_dict` was made of.

        Raises:
            TypeError: fields are missing or unknown.
        """
        fields = dict(content)
        if "schedule" in fields:
            fields["training"] = TrainingConfig(**fields.pop("schedule"))
        plan = cls(**fields)
        evidence = plan.evidence and Evidence.from_dict(content["evidence"])
        return replace(
            plan,
            trained=tuple(plan.trained),
            dropped=tuple(plan.dropped),
            override=tuple(plan.override),
            evidence=evidence or None,
        )


def needs_evidence(wish: Overrides) -> bool:
    """Whether what was set by hand leaves anything to measure: the similarity, or the cut."""
    if wish.freeze is not None:
        return False
    named = wish.case is not None or (wish.size is not None and wish.similarity is not None)
    return not named or CASES[named_case(wish)].cut == "measured"


def make_plan(
    stages: Sequence[StageFacts],
    *,
    pretrained: int,
    linear_head: bool,
    n_train: int,
    wish: Overrides,
    evidence: Evidence | None = None,
    large_from: int = LARGE_FROM,
) -> Plan:
    """Decide from the evidence and what was asked for.

    Args:
        stages: the backbone's, in order; the last is the head.
        pretrained: how many leading stages hold loaded weights only.
        linear_head: the final layer is an `nn.Linear` with nothing behind it.
        n_train: training images.
        wish: what was set by hand.
        evidence: what was measured; None: similar is assumed, and said to be.
        large_from: training images from which a dataset is large.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    decision = decide_case(n_train, wish, evidence, large_from)
    case_name, case = decision.case, CASES[decision.case]
    custom = wish.freeze is not None and not (wish.case or wish.size or wish.similarity)
    notes: list[str] = []

    where = case.cut if wish.freeze is None else wish.freeze
    if where == "measured":
        measured = best_cut(evidence.telling) if evidence else None
        where = measured.name if measured else "middle"
    index = cut_index(stages, where)
    drop = case.drop and not custom and 0 < index < len(stages) - 1
    if not pretrained:
        notes.append("nothing is pretrained, so everything is trained from scratch")
    elif index > pretrained:
        missing = stages[pretrained].name
        notes.append(
            f"{missing} and what follows have no pretrained weights, so the cut moves before them"
        )
    if index > pretrained:
        index, drop = pretrained, False
    if index and not drop:
        # Pooling without parameters gives the same numbers on either side; frozen, it is smaller.
        while index < len(stages) - 1 and stages[index].parameters == 0:
            index += 1

    trained = (NEW_HEAD,) if drop else tuple(s.name for s in stages[index:])
    if not pretrained:
        recipe = "scratch"
    elif len(trained) > 1:
        recipe = "part" if index else case.training if case.cut == "none" else "all"
    else:
        recipe = "solve" if drop or linear_head else "head"
    config, switched = choose_training(
        recipe,
        wish.training,
        solvable=len(trained) == 1 and (drop or linear_head),
        mixing=wish.mixing,
        n_train=n_train,
    )
    notes += switched
    if config.head_first and (index == len(stages) - 1 or wish.training.get("init")):
        if wish.training.get("head_first"):
            raise UsageError("--head-first and --init both say how the head starts", "drop one")
        config = replace(config, head_first=False)
    if wish.training.get("init") and not index:
        notes.append("--init starts the head from there, so it is not solved first")

    override = [
        f"--{k} {v}" for k in ("case", "size", "similarity", "freeze") if (v := getattr(wish, k))
    ]
    said = decision.why
    if pretrained and not custom:
        # The case's reason speaks of its own cut.
        by_hand = f"with the cut set by hand with --freeze {wish.freeze}"
        told = case.short if decision.measured else case.reason
        if where == "middle" and decision.measured:
            told = "a new head three quarters up, since no sweep says where"
        if not drop and case.drop:
            told = "a new head on the last codes, which no earlier stage beats"
        if index == pretrained < len(stages) - 1 and not drop and where != "none":
            told = "all that has no pretrained weights is trained"
        if config.head_first:
            told += ", the head first"
        probes = sweep_text(evidence, stages[index - 1].name if drop else None) if evidence else ""
        told = ", ".join(t for t in (probes, told) if t) if case.size == "small" else told
        said = f"{said}: {case_name}, {told if wish.freeze is None else by_hand}"
    if decision.runner_up:
        notes.append(
            f"it is close, so {decision.runner_up} is worth a try (--case {decision.runner_up})"
        )
    return Plan(
        case="custom" if custom else case_name,
        size=case.size,
        similarity=case.similarity,
        cut=stages[index - 1].name if index else "none",
        trained=trained,
        dropped=tuple(s.name for s in stages[index:]) if drop else (),
        training=config,
        why="; ".join([said, *notes]),
        override=tuple(override),
        runner_up=decision.runner_up,
        evidence=evidence,
    )


def cut_index(stages: Sequence[StageFacts], where: str) -> int:
    """How many leading stages are frozen by `where`.

    `where` is "none", "features" (all but the classifier), "all-but-head", "middle" (three quarters
    of the feature stages, where no sweep says better) or a stage's name (frozen up to and
    including it).

    Raises:
        UsageError: no such stage, or nothing would be left to train.
    """
    features = sum(s.part == "features" for s in stages)
    middle = round(3 / 4 * sum(s.part == "features" and s.parameters > 0 for s in stages))
    last = len(stages) - 1
    named = {"none": 0, "features": features, "middle": max(middle, 1), "all-but-head": last}
    if where in named:
        return named[where]
    names = [s.name for s in stages]
    index = names.index(choice("--freeze", where, [*FREEZES, *names])) + 1
    if index > last:
        raise UsageError(
            f"--freeze {where}: that is the head, nothing would be left to train",
            f"the last stage that can be frozen is {names[last - 1]} (or say all-but-head)",
        )
    return index


def stage_facts(backbone: "Backbone") -> list[StageFacts]:
    """What a plan needs to know of the backbone's stages."""
    return [
        StageFacts(s.name, s.part, sum(p.numel() for p in s.parameters())) for s in backbone.stages
    ]
