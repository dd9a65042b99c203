"""What each of the four cases does with each stage of a backbone."""

from typing import Any

from tlcli.backbones.summary import Structure
from tlcli.planning.cases import CASES, Overrides
from tlcli.planning.plan import Plan, StageFacts, make_plan


def stage_table(structure: Structure) -> list[dict[str, Any]]:
    """A row a stage: its name, output shape, parameters, and for each case "frozen", "trained",
    "dropped" or "new head"; the head's row names the final classifier layer."""
    stages = [StageFacts(s.name, s.part, s.parameters) for s in structure.stages]
    plans = {
        case: make_plan(
            stages,
            pretrained=len(stages),
            linear_head=True,
            n_train=0,
            wish=Overrides(case=case),
        )
        for case in CASES
    }
    last = stages[-1].name
    return [
        {
            "stage": s.name,
            "part": s.part,
            "output": "x".join(map(str, s.output)),
            "parameters": s.parameters,
            **{case: _fate(s.name, s.name == last, plan) for case, plan in plans.items()},
            "classifier": structure.head if s.name == last else None,
        }
        for s in structure.stages
    ]


def _fate(stage: str, is_head: bool, plan: Plan) -> str:
    if stage in plan.dropped:
        return "new head" if is_head else "dropped"
    return "trained" if stage in plan.trained else "frozen"
