"""docs/measured/benchmarks.md, of what the benchmarks have kept: `python -m tests.bench.page`."""

from pathlib import Path

from tests.bench import speed_table, training_table
from tests.bench.ledger import ROOT, read

PAGE = ROOT / "docs" / "measured" / "benchmarks.md"
SPEED = Path(__file__).with_name("speed.jsonl")
TRAINING = Path(__file__).with_name("training.jsonl")

HEAD = """# Benchmarks

Made by `python -m tests.bench.speed` and `python -m tests.bench.training` from what they kept
beside themselves (`.jsonl`, one line per measurement). Compare within a table, not between
machines."""

# Why a target is missed; written by hand after a run, one text for each section.
REMARKS = {
    "speed": """\
Why a target is missed:

- A cold run imports PyTorch (1.7 s, without its compiler), decodes each image once, and computes
  2,000 training views in bf16 and 400 validation images in fp32 and in bf16. A thirtieth of the
  tutorial's time is less than this takes.
- The two rows of full training were measured some hours before the rest, on the same machine.
- An epoch that trains everything decodes and crops its images during the training, on the same two
  cores. The tutorial's batches of four images fit the memory that the process already has, its loop
  with batches of 32 does not: `python -m tests.bench.step` on two threads, nothing else running,
  images/s: the plain loop 12.4, tlcli in fp32 42.0, in bf16 58.6, with BatchNorm frozen, as
  `large-similar` has it, 65.2 (5.3 times the plain loop, 2.9 times the tutorial's).

What a second process gains on a feature pass: [distributed.md](distributed.md).
There was no GPU to measure on.""",
    "training": """\
All accuracies come from one version of the program; the seconds do not. The rows in bf16, but for
MobileNetV2's folds 1 to 4 and the rows "as planned", were run before memory was kept from step to
step ([decisions](../decisions/speed-and-memory.md)), which takes a third off; two runs (everything
on fold 3, a random head on fold 2) were paused for a while.
The augmentation and the BatchNorm policy of `large-similar` were chosen on fold 0, and the one of
`large-different` on these digits, so their figures are slightly optimistic: without fold 0 the
first row's mean is 2.4. Three epochs are too few here: the recipe is made for eight.""",
}


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
