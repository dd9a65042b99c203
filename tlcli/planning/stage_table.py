"""A table of what each of the four cases does with each stage of a backbone."""

from typing import Any

from tlcli.backbones.summary import Structure
from tlcli.planning.cases import CASES, Overrides
from tlcli.planning.cut import StageFacts
from tlcli.planning.plan import Plan, make_plan


def stage_table(structure: Structure) -> list[dict[str, Any]]:
    """Return one row per stage: its name, output shape and parameters, and its role in each case.

    A role is "frozen", "trained", "dropped" or "new head". The head's row names the final
    classifier layer.
    """
    stages = [StageFacts(s.name, s.part, s.parameters) for s in structure.stages]
    plans = {
        case: make_plan(
            stages,
            pretrained=len(stages),
            linear_head=True,
            n_train=0,
            overrides=Overrides(case=case),
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
            **{case: _role(s.name, s.name == last, plan) for case, plan in plans.items()},
            "classifier": structure.head if s.name == last else None,
        }
        for s in structure.stages
    ]


def _role(stage: str, is_head: bool, plan: Plan) -> str:
    """Return what a plan does with a stage."""
    if stage in plan.dropped:
        return "new head" if is_head else "dropped"
    return "trained" if stage in plan.trained else "frozen"
