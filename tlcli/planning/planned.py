"""TODO"""

from dataclasses import asdict, dataclass, field
from typing import Any

from tlcli.data.augmentation.mixup import Mixing
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Dataset
from tlcli.planning.evidence import Evidence, Timing
from tlcli.planning.explain import describe_training
from tlcli.planning.plan import Plan
from tlcli.text import format_duration


@dataclass(frozen=True)
class Planned:
    """A plan and what it was decided on.

    Attributes:
        dataset: without the images that the measuring found unreadable.
        evidence: None where everything was set by hand, or nothing is pretrained.
        forecast_s: seconds that each of the four cases would take on this machine, and under
            "plan" what this plan would.
        timing: of the measuring; None where there was none.
        augmentation, mixing: of the training images; None where there is none.
        otherwise: the plans of the other size and of the other similarity, by the option that
            asks for them; none where something was set by hand.
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
    def reads(self) -> str | None:
        """The stage of the sweep whose output a new linear head reads, where it is one."""
        sweep = self.evidence.sweep if self.evidence else ()
        if not sweep or len(self.plan.trained) != 1:
            return None
        names = [s.name for s in sweep]
        return self.plan.cut if self.plan.cut in names else names[-1]

    def lines(self) -> list[str]:
        """The plan in three lines."""
        seconds = self.forecast_s.get("plan")
        about = f"; about {format_duration(seconds)}" if seconds is not None else ""
        return [
            f"plan: {self.plan.case}; {self.plan.parts()}{about}",
            f"why: {self.plan.why}",
            f"training: {describe_training(self.plan.training)}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """The result fields of `tlcli plan`, in plain JSON types."""
        return {
            "case": self.plan.case,
            "size": self.plan.size,
            "similarity": self.plan.similarity,
            "cut": self.plan.cut,
            "trained": list(self.plan.trained),
            "why": self.plan.why,
            "evidence": self.evidence.to_dict() if self.evidence else None,
            "forecast_s": {k: round(v, 1) for k, v in self.forecast_s.items()},
            "backbone": self.backbone,
            "dropped": list(self.plan.dropped),
            "override": list(self.plan.override),
            "runner_up": self.plan.runner_up,
            "schedule": asdict(self.plan.training),
            "otherwise": {
                option: {"case": plan.case, "cut": plan.cut, "trained": list(plan.trained)}
                for option, plan in self.otherwise.items()
            },
            "images": self.dataset.counts(),
            "seed": self.dataset.seed,
        }
