"""A plan with the dataset, the evidence and the forecasts that it was made from."""

from dataclasses import dataclass, field
from typing import Any

from tlcli.data.augmentation.mixup import Mixing
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Dataset
from tlcli.planning import explain
from tlcli.planning.evidence import Evidence, Timing
from tlcli.planning.plan import Plan


@dataclass(frozen=True)
class Planned:
    """A plan with the dataset, the evidence and the forecasts that it was made from.

    Attributes:
        backbone: its name.
        dataset: without the images that were found to be unreadable.
        evidence: None where everything was set by hand, or nothing is pretrained.
        forecast_s: seconds that each of the four cases would take on this machine; under "plan"
            those of this plan.
        timing: the costs on this machine; None where nothing was measured.
        augmentation: the augmentation of the training images, if any.
        mixing: the mixing of the training images, if any.
        otherwise: the plans for the other size and the other similarity, by the option that asks
            for them; none where something was set by hand.
    """

    backbone: str
    plan: Plan
    dataset: Dataset
    evidence: Evidence | None = None
    forecast_s: dict[str, float] = field(default_factory=dict)
    timing: Timing | None = None
    augmentation: Augmentation | None = None
    mixing: Mixing | None = None
    otherwise: dict[str, Plan] = field(default_factory=dict)

    @property
    def head_stage(self) -> str | None:
        """The stage of the sweep whose features a new head reads; None if more is trained."""
        sweep = self.evidence.sweep if self.evidence else ()
        if not sweep or len(self.plan.trained) != 1:
            return None
        names = [s.name for s in sweep]
        return self.plan.cut if self.plan.cut in names else names[-1]

    def lines(self) -> list[str]:
        """Return the plan in three lines for people."""
        plan = self.plan
        stages = explain.stages_text(plan.cut, plan.trained, plan.dropped)
        return [
            explain.plan_line(plan.case, stages, self.forecast_s.get("plan")),
            f"why: {plan.why}",
            f"training: {explain.describe_training(plan.training)}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the result fields of `tlcli plan` in plain JSON types."""
        plan = self.plan.to_dict()
        return {
            **{k: plan[k] for k in ("case", "size", "similarity", "cut", "trained", "why")},
            "evidence": self.evidence.to_dict() if self.evidence else None,
            "forecast_s": {k: round(v, 1) for k, v in self.forecast_s.items()},
            "backbone": self.backbone,
            **{k: plan[k] for k in ("dropped", "override", "runner_up", "schedule")},
            "otherwise": {
                option: {"case": other.case, "cut": other.cut, "trained": list(other.trained)}
                for option, other in self.otherwise.items()
            },
            "images": self.dataset.counts(),
            "seed": self.dataset.seed,
        }
