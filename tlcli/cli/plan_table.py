"""A plan for people: the decision, a bar for each stage, and the rest of the evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.planning.evidence import Evidence
from tlcli.planning.explain import describe_training, stages_text
from tlcli.planning.plan import Plan
from tlcli.planning.planned import Planned
from tlcli.recipes.plan import comparison_row
from tlcli.text import format_duration, printable

BAR_WIDTH = 20
"""Columns of the bar of the best stage."""
MAX_SHOWN_PAIRS = 3
"""Pairs of classes that are listed as hardest to tell apart."""
# The fields of a plan that describe it; without them, two plans that train the same are equal.
_DESCRIPTION: dict[str, Any] = {
    "case": "",
    "size": "",
    "similarity": "",
    "why": "",
    "runner_up": "",
    "override": (),
}


def show_plans(plans: Sequence[Planned], comparison: bool, out: TextIO) -> None:
    """Write one plan in full, or several as rows of a comparison."""
    console = Console(file=out)
    if comparison:
        console.print(_comparison_table(plans))
    else:
        _show_plan(plans[0], console)


def _comparison_table(plans: Sequence[Planned]) -> Table:
    """Return one row per backbone, the most accurate probe first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("backbone", "probe accuracy", "stage", "images/s", "MB", "case"):
        right = name in ("images/s", "MB")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "case")
    for planned in plans:
        row = comparison_row(planned)
        accuracy = ""
        if row["accuracy"] is not None:
            accuracy = f"{row['accuracy']:.1%} +- {2 * row['accuracy_error']:.1%}"
        close = ", close" if row["runner_up"] else ""
        cells = (
            row["backbone"],
            accuracy,
            row["stage"] or "",
            f"{row['images_per_s']:.0f}" if row["images_per_s"] else "",
            f"{row['size_mb']:.0f}" if row["size_mb"] else "",
            f"{row['case']}{close}",
        )
        table.add_row(*map(Text, cells))
    return table


def _show_plan(planned: Planned, console: Console) -> None:
    plan, evidence = planned.plan, planned.evidence
    console.print(Text(f"{plan.case}", style="bold"), Text(f"for {planned.backbone}"))
    console.print(Text(_sentence(plan.why)))
    console.print()
    if evidence is not None and evidence.sweep:
        console.print(_stage_table(planned, evidence))
    stages = stages_text(plan.cut, plan.trained, plan.dropped)
    console.print(Text(printable(_sentence(stages))))
    console.print(Text(f"Training: {describe_training(plan.training)}."))
    if evidence is not None:
        for line in _evidence_lines(evidence):
            console.print(Text(printable(line)))
    if planned.forecast_s:
        times = {k: format_duration(v) for k, v in planned.forecast_s.items() if k != "plan"}
        forecasts = ", ".join(f"{case} {duration}" for case, duration in times.items())
        console.print(Text(f"Forecast for this machine: {forecasts}."))
    if planned.otherwise:
        console.print(Text(_alternatives(planned)))


def _sentence(text: str) -> str:
    """Return a clause as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def _alternatives(planned: Planned) -> str:
    """Describe the plans for the other size and for the other similarity."""
    parts = []
    for option, plan in planned.otherwise.items():
        seconds = planned.forecast_s.get(plan.case)
        time = f", {format_duration(seconds)}" if seconds else ""
        parts.append(f"with {option}, {plan.case} ({_difference(plan, planned.plan)}{time})")
    return f"Alternatives: {'; '.join(parts)}."


def _difference(plan: Plan, chosen: Plan) -> str:
    """Describe what another plan trains."""
    if replace(plan, **_DESCRIPTION) == replace(chosen, **_DESCRIPTION):
        return "the same network"
    if plan.cut == "none":
        return "everything is trained"
    return f"a head on {plan.cut}" if len(plan.trained) == 1 else f"frozen up to {plan.cut}"


def _stage_table(planned: Planned, evidence: Evidence) -> Table:
    """Return one row per stage: probe accuracy, a bar from chance to the best, and the cut."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage")
    table.add_column("probe accuracy", min_width=BAR_WIDTH)
    table.add_column("", justify="right")
    table.add_column("behind the best", justify="right")
    table.add_column("")
    chance = 1 / max(evidence.sampled_classes, 1)
    best = max(s.accuracy for s in evidence.sweep)
    for stage in evidence.sweep:
        share = (stage.accuracy - chance) / max(best - chance, 1e-9)
        length = max(0, round(BAR_WIDTH * share))
        behind = f"{100 * stage.gap:.1f} +- {200 * stage.gap_error:.1f}"
        table.add_row(
            Text(stage.name),
            Text("█" * length + "░" * (BAR_WIDTH - length)),
            Text(f"{stage.accuracy:.1%}"),
            Text(behind if stage.gap or stage.gap_error else "best"),
            Text("<- cut" if stage.name == planned.head_stage else ""),
        )
    return table


def _evidence_lines(evidence: Evidence) -> Iterator[str]:
    """Yield the evidence beside the stages: sizes, learning curve, confused pairs and notes."""
    size = f"{evidence.smallest} to {evidence.largest}"
    if evidence.smallest == evidence.largest:
        size = f"{evidence.smallest}"
    yield (
        f"Training images: {evidence.n_train:,} in {evidence.n_classes} classes, {size} per "
        f"class; {evidence.sampled:,} of them were measured."
    )
    if evidence.curve:
        curve = ", ".join(f"{p.images:,}: {p.accuracy:.1%}" for p in evidence.curve)
        yield f"Accuracy by number of training images: {curve}."
        yield f"More images? {evidence.curve_note}."
    if evidence.pairs:
        pairs = ", ".join(
            f"{a} and {b} ({pair.confused} of {pair.images})"
            for pair in evidence.pairs[:MAX_SHOWN_PAIRS]
            for a, b in [pair.classes]
        )
        yield f"Hardest to tell apart: {pairs}."
    for note in evidence.notes:
        yield f"Note: {note}."
