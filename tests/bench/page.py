"""docs/benchmarks.md, of what the benchmarks have kept: `python -m tests.bench.page`."""

from pathlib import Path

from tests.bench import speed_table, training_table
from tests.bench.ledger import ROOT, read

PAGE = ROOT / "docs" / "benchmarks.md"
SPEED = Path(__file__).with_name("speed.jsonl")
TRAINING = Path(__file__).with_name("training.jsonl")

HEAD = """# Benchmarks

Made by `python -m tests.bench.speed` and `python -m tests.bench.training` from what they kept
beside themselves (`.jsonl`, a line a measurement). Compare within a table, not between machines."""

# What limits where a target is missed; written by hand after a run, each beside its section.
REMARKS = {"speed": "", "training": ""}


def write(page: Path = PAGE, *, speed: Path = SPEED, training: Path = TRAINING) -> None:
    """Write the page of all that is known; a part without outcomes is left out."""
    text = [HEAD]
    if outcomes := read(speed):
        text += [speed_table.section(outcomes), REMARKS["speed"]]
    if outcomes := read(training):
        text += [training_table.section(outcomes), REMARKS["training"]]
    page.write_text("\n\n".join(part for part in text if part) + "\n")


if __name__ == "__main__":
    write()
