"""A plan for a person: the decision, a bar for each stage, and what else the pass showed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tlcli.planning.evidence import Evidence
from tlcli.planning.explain import describe_training, stages_text
from tlcli.planning.planned import Planned
from tlcli.recipes.plan import comparison_row
from tlcli.text import format_duration, printable

BAR = 20
# What a plan says of itself, and not what it builds.
_SAID: dict[str, Any] = {
    "case": "",
    "size": "",
    "similarity": "",
    "why": "",
    "runner_up": "",
    "override": (),
}


def show(plans: Sequence[Planned], several: bool, out: TextIO) -> None:
    """Write one plan at length, or several as rows of a comparison."""
    console = Console(file=out)
    if several:
        console.print(_comparison(plans))
    else:
        _one(plans[0], console)


def _comparison(plans: Sequence[Planned]) -> Table:
    """A row a backbone, the best probe first."""
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


def _one(planned: Planned, console: Console) -> None:
    plan, evidence = planned.plan, planned.evidence
    console.print(Text(f"{plan.case}", style="bold"), Text(f"for {planned.backbone}"))
    console.print(Text(f"{plan.why[0].upper()}{plan.why[1:]}."))
    console.print()
    if evidence is not None and evidence.sweep:
        console.print(_stages(planned, evidence))
    parts = stages_text(plan.cut, plan.trained, plan.dropped)
    console.print(Text(printable(f"{parts[0].upper()}{parts[1:]}.")))
    console.print(Text(f"Training: {describe_training(plan.training)}."))
    if evidence is not None:
        for line in _lines(evidence):
            console.print(Text(printable(line)))
    if planned.forecast_s:
        times = {k: format_duration(v) for k, v in planned.forecast_s.items() if k != "plan"}
        told = ", ".join(f"{case} {seconds}" for case, seconds in times.items())
        console.print(Text(f"Forecast for this machine: {told}."))
    if planned.otherwise:
        console.print(Text(_otherwise(planned)))


def _otherwise(planned: Planned) -> str:
    """Which plan it would be if the size, or the similarity, were the other one."""
    told = []
    for option, plan in planned.otherwise.items():
        head = len(plan.trained) == 1
        what = f"a head on {plan.cut}" if head else f"frozen up to {plan.cut}"
        what = what if plan.cut != "none" else "everything is trained"
        if replace(plan, **_SAID) == replace(planned.plan, **_SAID):
            what = "the same network"
        seconds = planned.forecast_s.get(plan.case)
        cost = f", {format_duration(seconds)}" if seconds else ""
        told.append(f"with {option}, {plan.case} ({what}{cost})")
    return f"Otherwise: {'; '.join(told)}."


def _stages(planned: Planned, evidence: Evidence) -> Table:
    """A row a stage: probe accuracy with a bar from chance to the best, and where the cut is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage")
    table.add_column("probe accuracy", min_width=BAR)
    table.add_column("", justify="right")
    table.add_column("behind the best", justify="right")
    table.add_column("")
    chance = 1 / max(evidence.sampled_classes, 1)
    best = max(s.accuracy for s in evidence.sweep)
    for stage in evidence.sweep:
        share = (stage.accuracy - chance) / max(best - chance, 1e-9)
        length = max(0, round(BAR * share))
        behind = f"{100 * stage.gap:.1f} +- {200 * stage.gap_error:.1f}"
        table.add_row(
            Text(stage.name),
            Text("█" * length + "░" * (BAR - length)),
            Text(f"{stage.accuracy:.1%}"),
            Text(behind if stage.gap or stage.gap_error else "best"),
            Text("<- cut" if stage.name == planned.head_stage else ""),
        )
    return table


def _lines(evidence: Evidence) -> list[str]:
    """What a person may want to know beside the decision."""
    lines = []
    size = f"{evidence.smallest} to {evidence.largest} a class"
    if evidence.smallest == evidence.largest:
        size = f"{evidence.smallest} a class"
    lines.append(
        f"Training images: {evidence.n_train:,} in {evidence.n_classes} classes, {size}; "
        f"{evidence.sampled:,} of them were looked at."
    )
    if evidence.curve:
        curve = ", ".join(f"{p.images:,}: {p.accuracy:.1%}" for p in evidence.curve)
        lines += [f"Accuracy by images fitted on: {curve}.", f"More images? {evidence.curve_note}."]
    if evidence.pairs:
        pairs = ", ".join(
            f"{a} and {b} ({p.confused} of {p.images})"
            for p in evidence.pairs[:3]
            for a, b in [p.classes]
        )
        lines.append(f"Hardest to tell apart: {pairs}.")
    return [*lines, *(f"Note: {note}." for note in evidence.notes)]
