"""The section of docs/measured/benchmarks.md on speed: contenders, ratios, targets."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from tests.bench.ledger import Record, accuracy, where
from tlcli.metrics.intervals import wilson_interval

DEFAULT = "efficientnet_lite0"
IMPORT = "import torch, torchvision"
COLD, COLD_MOBILE = f"tlcli cold, {DEFAULT}", "tlcli cold, mobilenet_v2"
WARM, WARM_MOBILE = f"tlcli warm, {DEFAULT}", "tlcli warm, mobilenet_v2"
FASTAI, TUTORIAL = "fastai, frozen, mobilenet_v2", "tutorial, frozen"

INTRODUCTION = """\
All run on the shared flowers (1,000 for training, 400 for validation), each contender in a process
of its own from start to end, with the same weights. Quick measurements are repeated in alternation
and their median counts; slow ones run once. Cold is with an empty feature cache, warm is the same
command once more. The tutorial is PyTorch's transfer-learning tutorial written out
(`tests/bench/tutorial.py`), frozen or with everything trained; fastai is its `vision_learner` with
its own defaults (`tests/bench/fastai_contender.py`). Training rates do not count validation."""


def latest(outcomes: list[Record]) -> dict[str, list[Record]]:
    """Return the newest measured repetitions by name, or else the newest failure."""
    by_name: dict[str, list[Record]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome["name"], []).append(outcome)
    return {
        name: [o for o in of if "error" not in o][-of[-1]["repeats"] :] or of[-1:]
        for name, of in by_name.items()
    }


@dataclass
class Table:
    """The outcomes by the name of the part; figures are medians."""

    parts: dict[str, list[Record]]

    @classmethod
    def of(cls, outcomes: list[Record]) -> "Table":
        """Collect the newest outcomes."""
        parts: dict[str, list[Record]] = {}
        for outcome in chain.from_iterable(latest(outcomes).values()):
            for name, record in outcome["parts"].items():
                parts.setdefault(name, []).append(record)
        return cls(parts)

    def median(self, name: str, figure: str = "wall_s") -> float:
        """Return the median of a figure.

        Raises:
            KeyError: it was not measured.
        """
        return statistics.median(record[figure] for record in self.parts[name])

    def ratio(self, slow: str, fast: str, figure: str = "wall_s") -> float:
        """Divide one part's median by another's."""
        return self.median(slow, figure) / self.median(fast, figure)

    def no_lower(self, name: str, than: str) -> bool:
        """Tell whether the other's accuracy is within or below this one's 95% interval."""
        this, other = self.parts[name][-1], self.parts[than][-1]
        return wilson_interval(this["right"], this["n"])[1] >= other["right"] / other["n"]


@dataclass(frozen=True)
class Target:
    """A figure of the table and the bound that it should reach.

    Attributes:
        text: how figure and bound are formatted.
        at_most: whether the bound is an upper one.
        condition: what has to hold besides.
    """

    what: str
    figure: Callable[[Table], float]
    bound: float
    text: str = "{:.1f}x"
    at_most: bool = False
    condition: Callable[[Table], bool] = lambda _: True


TARGETS = (
    Target(
        "cold `finetune`, default model, against the tutorial's frozen loop, accuracy no lower",
        lambda t: t.ratio(TUTORIAL, COLD),
        30,
        condition=lambda t: t.no_lower(COLD, TUTORIAL),
    ),
    Target(
        "the same against fastai's frozen epochs, `mobilenet_v2`, accuracy no lower",
        lambda t: t.ratio(FASTAI, COLD_MOBILE),
        15,
        condition=lambda t: t.no_lower(COLD_MOBILE, FASTAI),
    ),
    Target(
        "warm `finetune`, default model, beyond importing torch and torchvision",
        lambda t: t.median(WARM) - t.median(IMPORT),
        2,
        "{:.1f} s",
        at_most=True,
    ),
    Target(
        "the same, `mobilenet_v2`",
        lambda t: t.median(WARM_MOBILE) - t.median(IMPORT),
        2,
        "{:.1f} s",
        at_most=True,
    ),
    Target(
        "full fine-tuning, `efficientnet_lite0`: images/s against the tutorial's full loop",
        lambda t: t.ratio("tlcli large-similar, bf16", "tutorial, full", "images_per_s"),
        2.5,
    ),
    Target(
        "`tlcli predict` of one image against importing torch and torchvision",
        lambda t: t.ratio("tlcli predict, one image", IMPORT),
        1.2,
        "{:.2f}x",
        at_most=True,
    ),
)


def target_row(target: Target, table: Table) -> str:
    """Format a row of the table of targets."""
    bound = ("at most " if target.at_most else "") + target.text.format(target.bound)
    try:
        figure, condition = target.figure(table), target.condition(table)
    except KeyError as missing:
        return f"| {target.what} | not measured: {missing.args[0]} | {bound} | |"
    reached = figure <= target.bound if target.at_most else figure >= target.bound
    return (
        f"| {target.what} | **{target.text.format(figure)}** | {bound} "
        f"| {'yes' if reached and condition else '**no**'} |"
    )


def part_row(name: str, records: list[Record]) -> str:
    """Format a row of the table of contenders."""
    last, walls = records[-1], [r["wall_s"] for r in records if "wall_s" in r]
    seconds = f"**{statistics.median(walls):.1f}**" if walls else ""
    span = f"{min(walls):.1f} to {max(walls):.1f}" if len(walls) > 1 else ""
    notes = []
    if "images_per_s" in last:
        notes.append(f"{statistics.median(r['images_per_s'] for r in records):.1f} images/s")
    if "epochs" in last:
        seconds_each = last.get("fit_s") or sum(e["train_s"] + e["val_s"] for e in last["epochs"])
        n = len(last["epochs"])
        notes.append(f"{n} epoch{'s' if n > 1 else ''}, {seconds_each / n:.0f} s each")
    cpu = f"{statistics.median(r['cpu_s'] for r in records):.1f}" if "cpu_s" in last else ""
    right = accuracy(last["right"], last["n"]) if "right" in last else ""
    return (
        f"| {name} | {len(records)} | {seconds} | {span} | {cpu} | {right} | {', '.join(notes)} |"
    )


def section(outcomes: list[Record]) -> str:
    """Write the section of docs/measured/benchmarks.md on speed."""
    table = Table.of(outcomes)
    shown = [*chain.from_iterable(latest(outcomes).values())]
    failed = [f"- {o['name']}: failed: {o['error']}" for o in shown if "error" in o]
    lines = [
        "## Whole commands",
        INTRODUCTION,
        where(shown),
        "| what | runs | seconds, median | all runs | CPU seconds "
        "| accuracy (95% interval) | |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(part_row(name, records) for name, records in table.parts.items()),
        *(["\n".join(failed)] if failed else []),
        "Ratios are of these medians. An accuracy counts as no lower than another one if the other "
        "lies within or below its 95% interval.",
        "| target | measured | at least | met |\n|---|---|---|---|\n"
        + "\n".join(target_row(target, table) for target in TARGETS),
        "The parts of a run (decoding, the frozen forward pass against plain fp32, the head, "
        "memory) are measured by `python -m tests.bench.forward`.",
    ]
    return "\n\n".join(lines)
