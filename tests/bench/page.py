"""Write docs/measured/benchmarks.md from the kept outcomes: `python -m tests.bench.page`."""

from pathlib import Path

from tests.bench import speed_table, training_table
from tests.bench.common import MEASURED
from tests.bench.ledger import read

PAGE = MEASURED / "benchmarks.md"
SPEED = Path(__file__).with_name("speed.jsonl")
TRAINING = Path(__file__).with_name("training.jsonl")

HEAD = """# Benchmarks

Made by `python -m tests.bench.speed` and `python -m tests.bench.training` from the outcomes that
they keep in `tests/bench/*.jsonl`, one per line. Compare within a table, not between machines."""

# What limits a missed target; written by hand after a run, one text per section.
REMARKS = {
    "speed": """\
What limits the targets that are missed:

- A cold run imports PyTorch (1.7 s, without its compiler), decodes each image once, and computes
  2,000 training views in bf16 and 400 validation images in fp32 and in bf16. A thirtieth of the
  tutorial's time is less than that.
- The two rows of full training were measured some hours before the rest, on the same machine.
- A full fine-tuning epoch decodes and crops its images on the same two cores that train. The
  tutorial's batches of four images fit into memory that a process keeps, batches of 32 in the same
  loop do not. `python -m tests.bench.step` on two threads, with nothing else running, gives in
  images/s: the plain loop 12.4, tlcli in fp32 42.0, in bf16 58.6, and with BatchNorm frozen, as in
  `large-similar`, 65.2 (5.3 times the plain loop, 2.9 times the tutorial).

The gain of a second process on a feature pass: [distributed.md](distributed.md).
There was no GPU to measure on.""",
    "training": """\
All accuracies come from one version of the program; the seconds do not. The rows in bf16, except
folds 1 to 4 of MobileNetV2 and the rows "as planned", were run before memory was kept from step to
step ([decisions](../decisions/speed-and-memory.md)), which saves a third of the time. Two runs
(everything on fold 3, a random head on fold 2) were paused for a while.
The augmentation and the BatchNorm policy of `large-similar` were chosen on fold 0, and those of
`large-different` on these digits, so their figures are slightly optimistic: without fold 0 the
first row's mean is 2.4. Three epochs are too few here: the recipe is made for eight.""",
}


def write(page: Path = PAGE, *, speed: Path = SPEED, training: Path = TRAINING) -> None:
    """Write the page from all outcomes; a part without outcomes is left out."""
    text = [HEAD]
    if outcomes := read(speed):
        text += [speed_table.section(outcomes), REMARKS["speed"]]
    if outcomes := read(training):
        text += [training_table.section(outcomes), REMARKS["training"]]
    page.write_text("\n\n".join(part for part in text if part) + "\n")


if __name__ == "__main__":
    write()
