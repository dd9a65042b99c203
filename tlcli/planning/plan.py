"""The plan: which stages stay frozen, which are trained, and how; needs no torch.

Every one of the four cases of transfer learning is one cut in the chain of a backbone's stages.
The stages before the cut are frozen. The stages behind it are trained or, where the case says so,
dropped for a new head. `docs/four-cases.md` tells it at length.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tlcli.errors import UsageError
from tlcli.planning import explain
from tlcli.planning.cases import CASES, LARGE_FROM, Case, Overrides, case_set_by_hand
from tlcli.planning.choose_training import choose_training
from tlcli.planning.cut import Cut, StageFacts, choose_cut
from tlcli.planning.decision import Decision, decide_case
from tlcli.planning.evidence import Evidence
from tlcli.planning.json_fields import from_json_types, stored_as, to_json_types
from tlcli.planning.training_config import TrainingConfig


@dataclass(frozen=True)
class Plan:
    """The stages that are frozen, trained and dropped, how they are trained, and why.

    Attributes:
        case: one of `CASES`, or "custom" where the cut was set by hand without a case.
        cut: the last frozen stage; "none" where everything is trained.
        trained: the names of the trained stages, the new head last.
        dropped: the stages behind the cut that the network does without.
        why: a sentence for a person.
        override: the options that decided in place of the plan.
        runner_up: the case that came close, or "".
        evidence: the measurements it rests on; None where nothing was measured.
    """

    case: str
    size: str
    similarity: str
    cut: str
    trained: tuple[str, ...]
    dropped: tuple[str, ...]
    training: TrainingConfig = field(metadata=stored_as("schedule"))
    why: str
    override: tuple[str, ...] = ()
    runner_up: str = ""
    evidence: Evidence | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan in plain JSON types, as bundles and run.json store it."""
        evidence = self.evidence.to_dict() if self.evidence else None
        return to_json_types(replace(self, evidence=None)) | {"evidence": evidence}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Plan":
        """Return the plan that `to_dict` wrote.

        Raises:
            TypeError: fields are missing or unknown.
        """
        plan = from_json_types(cls, content)
        evidence = content.get("evidence")
        return replace(
            plan,
            trained=tuple(plan.trained),
            dropped=tuple(plan.dropped),
            override=tuple(plan.override),
            training=TrainingConfig(**content["schedule"]),
            evidence=Evidence.from_dict(evidence) if evidence else None,
        )


def needs_evidence(overrides: Overrides) -> bool:
    """Return whether the options leave the similarity or the cut to be measured."""
    if overrides.freeze is not None:
        return False
    halves = overrides.size is not None and overrides.similarity is not None
    if overrides.case is None and not halves:
        return True
    return CASES[case_set_by_hand(overrides)].cut == "measured"


def make_plan(
    stages: Sequence[StageFacts],
    *,
    pretrained: int,
    linear_head: bool,
    n_train: int,
    overrides: Overrides,
    evidence: Evidence | None = None,
    large_from: int = LARGE_FROM,
) -> Plan:
    """Make the plan from the evidence and the options.

    Args:
        stages: the backbone's, in order; the last is the head.
        pretrained: the number of leading stages that hold loaded weights only.
        linear_head: the final layer is an `nn.Linear` with nothing behind it.
        n_train: the number of training images.
        evidence: the measurements; without any, the images are assumed to be similar.
        large_from: the training images from which a dataset is large.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    decision = decide_case(n_train, overrides, evidence, large_from)
    case = CASES[decision.case]
    cut = choose_cut(stages, pretrained, case, overrides, evidence)
    solvable = len(cut.trained) == 1 and (cut.drops or linear_head)
    training, notes = choose_training(
        _preset(case, cut, pretrained, solvable),
        overrides.training,
        solvable=solvable,
        mixing=overrides.mixing,
        n_train=n_train,
    )
    training, init_notes = _start_of_head(training, cut, overrides)
    why = decision.why
    if pretrained and not overrides.only_the_cut:
        trained = explain.case_with_cut_by_hand_text(overrides.freeze or "")
        if overrides.freeze is None:
            trained = _trained_text(decision, cut, training, pretrained, evidence)
        why = f"{why}: {explain.case_text(decision.case, trained)}"
    if decision.runner_up:
        init_notes.append(explain.runner_up_text(decision.runner_up))
    sentences = [why, cut.note, *notes, *init_notes]
    return Plan(
        case="custom" if overrides.only_the_cut else decision.case,
        size=case.size,
        similarity=case.similarity,
        cut=cut.stage,
        trained=cut.trained,
        dropped=cut.dropped,
        training=training,
        why="; ".join(sentence for sentence in sentences if sentence),
        override=overrides.flags(),
        runner_up=decision.runner_up,
        evidence=evidence,
    )


def _preset(case: Case, cut: Cut, pretrained: int, solvable: bool) -> str:
    """Return the entry of `TRAINING_PRESETS` for the stages behind the cut."""
    if not pretrained:
        return "scratch"
    if len(cut.trained) == 1:
        return "solve" if solvable else "head"
    if cut.index:
        return "part"
    return case.preset if case.cut == "none" else "all"


def _start_of_head(
    training: TrainingConfig, cut: Cut, overrides: Overrides
) -> tuple[TrainingConfig, list[str]]:
    """Decide how the head starts: trained first, or initialized as `--init` says.

    Raises:
        UsageError: both were asked for.
    """
    init = overrides.training.get("init")
    if training.head_first and (cut.trains_head_only or init):
        if overrides.training.get("head_first"):
            raise UsageError("--head-first and --init both say how the head starts", "drop one")
        training = replace(training, head_first=False)
    return training, [explain.INIT_STARTS_HEAD] if init and not cut.index else []


def _trained_text(
    decision: Decision,
    cut: Cut,
    training: TrainingConfig,
    pretrained: int,
    evidence: Evidence | None,
) -> str:
    """Explain what is trained in the decided case."""
    case = CASES[decision.case]
    nothing_pretrained = cut.index == pretrained and not cut.trains_head_only
    # The case's own clauses speak of its own cut.
    text = case.short if decision.measured else case.reason
    if cut.rule == "middle" and decision.measured:
        text = explain.HEAD_ON_MIDDLE_STAGE
    if case.drop and not cut.drops:
        text = explain.HEAD_ON_LAST_STAGE
    if nothing_pretrained and not cut.drops and cut.rule != "none":
        text = explain.ALL_NOT_PRETRAINED
    if training.head_first:
        text += explain.HEAD_FIRST
    if case.size == "small" and evidence is not None:
        probes = explain.sweep_text(evidence, cut.stage if cut.drops else None)
        return ", ".join(part for part in (probes, text) if part)
    return text
