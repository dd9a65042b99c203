"""The plan: which stages stay frozen, which are trained, and how. Pure data, no torch.

Every one of the four cases of transfer learning is one cut in the chain of a backbone's stages.
What lies before the cut is frozen; what lies behind it is trained or, where the case says so,
dropped for a new head. `docs/four-cases.md` tells it at length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tlcli.errors import UsageError, choice
from tlcli.transfer.schedule import Schedule, choose_schedule

LARGE_FROM = 10_000
"""Training images from which a dataset counts as large, until the measured plan knows better."""


FREEZES = ("features", "none", "all-but-head")


@dataclass(frozen=True)
class Case:
    """One of the four: how much data, how much like the pretraining's, and what follows."""

    size: str
    similarity: str
    cut: str
    drop: bool
    schedule: str
    reason: str


CASES: Mapping[str, Case] = {
    "small-similar": Case(
        "small",
        "similar",
        "all-but-head",
        False,
        "solve",
        "few images of a familiar kind: the last codes already tell such things apart, "
        "and training more would overfit; only a new head is fitted",
    ),
    "small-different": Case(
        "small",
        "different",
        "middle",
        True,
        "solve",
        "few images of an unfamiliar kind: the last stages are about the pretraining's own "
        "classes, so they are dropped and a new head reads an earlier stage",
    ),
    "large-similar": Case(
        "large",
        "similar",
        "none",
        False,
        "all",
        "many images of a familiar kind: enough to train everything, the head first, "
        "then all with smaller steps for earlier stages",
    ),
    "large-different": Case(
        "large",
        "different",
        "none",
        False,
        "reinit",
        "many images of an unfamiliar kind: everything is trained, the pretrained weights "
        "are only where it starts",
    ),
}


@dataclass(frozen=True)
class StageFacts:
    """What the plan needs to know of a stage."""

    name: str
    part: str
    parameters: int


@dataclass(frozen=True)
class Wish:
    """What was asked for by hand; None is "you choose"."""

    case: str | None = None
    size: str | None = None
    similarity: str | None = None
    freeze: str | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)


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
    """

    case: str
    size: str
    similarity: str
    cut: str
    trained: tuple[str, ...]
    dropped: tuple[str, ...]
    schedule: Schedule
    why: str
    override: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


NEW_HEAD = "new_head"


def make_plan(
    stages: Sequence[StageFacts],
    *,
    pretrained: int,
    linear_head: bool,
    n_train: int,
    wish: Wish,
) -> Plan:
    """Decide from the dataset's size and what was asked for.

    Args:
        stages: the backbone's, in order; the last is the head.
        pretrained: how many leading stages hold loaded weights only.
        linear_head: the final layer is an `nn.Linear` with nothing behind it.
        n_train: training images.
        wish: what was set by hand.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    case_name, said = _choose_case(n_train, wish)
    case = CASES[case_name]
    custom = wish.freeze is not None and not (wish.case or wish.size or wish.similarity)
    notes: list[str] = []

    index = cut_index(stages, case.cut if wish.freeze is None else wish.freeze)
    drop = case.drop and not custom and 0 < index < len(stages) - 1
    if index > pretrained:
        index = pretrained
        drop = False
        missing = stages[index].name
        notes.append(
            f"{missing} and what follows have no pretrained weights, so the cut moves before them"
            if index
            else "nothing is pretrained, so everything is trained from scratch"
        )
    if index and not drop:
        # Pooling without parameters gives the same numbers on either side; frozen, it is smaller.
        while index < len(stages) - 1 and stages[index].parameters == 0:
            index += 1

    trained = (NEW_HEAD,) if drop else tuple(s.name for s in stages[index:])
    if not pretrained:
        recipe = "scratch"
    elif len(trained) > 1:
        recipe = "part" if index else case.schedule if case.cut == "none" else "all"
    else:
        recipe = "solve" if drop or linear_head else "head"
    schedule, switched = choose_schedule(
        recipe, wish.schedule, solvable=len(trained) == 1 and (drop or linear_head)
    )
    notes += switched
    if schedule.head_first and (index == len(stages) - 1 or wish.schedule.get("init")):
        schedule = replace(schedule, head_first=False)
    if wish.schedule.get("init") and not index:
        notes.append("--init starts the head from there, so it is not solved first")

    override = [
        f"--{k} {v}" for k in ("case", "size", "similarity", "freeze") if (v := getattr(wish, k))
    ]
    if pretrained and not custom:
        # The case's reason speaks of its own cut.
        by_hand = f"with the cut set by hand with --freeze {wish.freeze}"
        said = f"{said}: {case_name}, {case.reason if wish.freeze is None else by_hand}"
    why = "; ".join([said, *notes])
    return Plan(
        case="custom" if custom else case_name,
        size=case.size,
        similarity=case.similarity,
        cut=stages[index - 1].name if index else "none",
        trained=trained,
        dropped=tuple(s.name for s in stages[index:]) if drop else (),
        schedule=schedule,
        why=why,
        override=tuple(override),
    )


def _choose_case(n_train: int, wish: Wish) -> tuple[str, str]:
    """The case's name and how it came to be."""
    if wish.case is not None:
        if wish.size or wish.similarity:
            raise UsageError(
                "--case already says size and similarity",
                "give --case, or --size and --similarity, not both",
            )
        return choice("--case", wish.case, CASES), "set by hand"
    sizes = sorted({c.size for c in CASES.values()})
    similarities = sorted({c.similarity for c in CASES.values()})
    small = n_train < LARGE_FROM
    size = choice("--size", wish.size, sizes) if wish.size else "small" if small else "large"
    similarity = (
        choice("--similarity", wish.similarity, similarities) if wish.similarity else "similar"
    )
    name = next(n for n, c in CASES.items() if (c.size, c.similarity) == (size, similarity))
    if wish.freeze is not None and not (wish.size or wish.similarity):
        return name, f"the cut was set by hand with --freeze {wish.freeze}"
    how_large = (
        f"{size} as you said"
        if wish.size
        else f"{n_train:,} training images is {size} (the line is at {LARGE_FROM:,})"
    )
    how_similar = (
        f"{similarity} as you said"
        if wish.similarity
        else "similarity is not measured yet and taken as similar (set it with --similarity)"
    )
    return name, f"{how_large}, {how_similar}"


def cut_index(stages: Sequence[StageFacts], where: str) -> int:
    """How many leading stages are frozen by `where`.

    `where` is "none", "features" (all but the classifier), "all-but-head", "middle" (three quarters
    of the feature stages, the default of `small-different` until it is measured) or a stage's name
    (frozen up to and including it).

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
