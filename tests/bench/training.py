"""Measure the accuracy of the ways of training: `python -m tests.bench.training`.

All 1,400 shared flowers are dealt into five folds, and each way is trained on each fold
(docs/measured/benchmarks.md, which is made from the outcomes, explains how). Outcomes are kept in
tests/bench/training.jsonl, one line per way and fold, fold by fold, so the benchmark can be stopped
and resumed, and what has been run is always paired. A changed `--epochs` measures again.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import ledger, page
from tests.bench.common import MOBILENET
from tests.bench.ledger import Failed, Record, run, tlcli
from tests.bench.regret import N_FOLDS, deal, share
from tests.bench.training_table import (
    DIGITS,
    FASTAI,
    FULL,
    FULL_FP32,
    MOBILENET_FULL,
    PLANNED,
    RANDOM_HEAD,
    SMALL,
    latest,
)
from tests.paths import DATA

N_EPOCHS = 3
ALL = "--case large-similar --epochs {epochs} --patience 0 --no-calibrate"
MOBILE = "--model mobilenet_v2 --weights {mobilenet}"


@dataclass(frozen=True)
class Way:
    """A way of training, as options of `finetune` or of fastai's script."""

    name: str
    options: str
    data: str = "flowers"
    of_fastai: bool = False


WAYS = (
    Way(SMALL, "--case small-similar"),
    Way(FULL, ALL + " --precision bf16"),
    Way(PLANNED, "--case large-similar --no-calibrate --precision bf16"),
    Way(RANDOM_HEAD, ALL + " --no-head-first --precision bf16"),
    Way(MOBILENET_FULL, f"{MOBILE} {ALL} --precision bf16"),
    Way(FASTAI, "--weights {mobilenet} --mode fine_tune --epochs {epochs}", of_fastai=True),
    Way(FULL_FP32, ALL + " --precision fp32"),
    Way(DIGITS, "--case large-different --precision bf16 --no-calibrate", data="digits"),
)


@dataclass(frozen=True)
class Job:
    """A way on a fold."""

    fold: int
    way: Way

    @property
    def name(self) -> str:
        return f"{self.fold}/{self.way.name}"


def jobs() -> Iterator[Job]:
    """Yield all jobs, fold by fold, so that what has been run is paired; the digits run once."""
    for fold in range(N_FOLDS):
        for way in WAYS:
            if way.data == "flowers" or not fold:
                yield Job(fold, way)


def deal_three(fold: int, into: Path, per_class: int | None) -> None:
    """Link the flowers into test/ (the fold), val/ (a tenth of the rest) and train/."""
    deal("flowers", fold, into)
    (into / "val").rename(into / "test")
    for kind in sorted((into / "train").iterdir()):
        images = sorted(kind.iterdir(), key=lambda path: int(path.stem))
        (into / "val" / kind.name).mkdir(parents=True)
        for image in images[::10]:
            image.rename(into / "val" / kind.name / image.name)
    for kind in into.glob("*/*") if per_class else ():
        for image in sorted(kind.iterdir())[per_class:]:
            image.unlink()


def train(job: Job, options: argparse.Namespace) -> Record:
    """Train on a fold; return the times, and a 1 for each image predicted correctly, else a 0."""
    with tempfile.TemporaryDirectory() as folder:
        data, trained = Path(folder, "flowers"), Path(folder, "run")
        deal_three(job.fold, data, options.per_class)
        if job.way.of_fastai:
            script = Path(__file__).with_name("fastai_contender.py")
            command = [options.fastai_python, script, data, "--test", "test", *words(job, options)]
            done = run(command, threads=options.threads)
            predicted, kept = json.loads(done.stdout)["predictions"], "last"
        else:
            command = ["finetune", data, *words(job, options), "--no-cache", "-o", trained]
            done = tlcli(*command, threads=options.threads)
            predict = ("predict", data / "test", "-m", trained, "--format", "jsonl", "-q")
            lines = tlcli(*predict, threads=options.threads).stdout.splitlines()
            rows = [json.loads(line) for line in lines]
            predicted = {Path(row["path"]).name: row["label"] for row in rows}
            kept = json.loads((trained / "run.json").read_text())["best_epoch"] or "head"
        truth = {p.name: p.parent.name for p in (data / "test").glob("*/*")}
    images = sorted(truth, key=lambda name: int(name.partition(".")[0]))
    outcomes = "".join(str(int(predicted[name] == truth[name])) for name in images)
    return done.times() | {"kept": kept, "outcomes": outcomes}


def train_digits(job: Job, options: argparse.Namespace) -> Record:
    """Measure the accuracy on the set's validation images, which chose the epoch too."""
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder, "run")
        done = tlcli(
            *("finetune", DATA / job.way.data, *words(job, options)),
            *("--no-cache", "-o", trained),
            threads=options.threads,
        )
        metrics = json.loads((trained / "metrics.json").read_text())
        epochs = len((trained / "history.csv").read_text().splitlines()) - 1
    right = round(metrics["top1"] * metrics["n"])
    return done.times() | {"right": right, "n": metrics["n"], "epochs": epochs}


def words(job: Job, options: argparse.Namespace) -> list[str]:
    """Fill in the way's options."""
    filled = job.way.options.format(epochs=options.epochs, mobilenet=MOBILENET).split()
    if job.way.name == DIGITS and options.digits_epochs:
        filled += ["--epochs", str(options.digits_epochs)]
    return filled


def shown_options(job: Job, options: argparse.Namespace) -> str:
    """Return the way's options as the page shows them."""
    return " ".join(words(job, options)).replace(str(MOBILENET), MOBILENET.name)


def is_known(job: Job, known: dict[tuple[int, str], Record], options: argparse.Namespace) -> bool:
    """Tell whether a job was measured with these options."""
    found = known.get((job.fold, job.way.name), {})
    return "wall_s" in found and found["options"] == shown_options(job, options)


def attempt(job: Job, options: argparse.Namespace) -> Record:
    """Run a job; return its outcome, or why it failed."""
    circumstances = ledger.circumstances()
    named = {"fold": job.fold, "way": job.way.name, "options": shown_options(job, options)}
    how = {"threads": options.threads, "side_by_side": options.worker[1]}
    try:
        found = (train if job.way.data == "flowers" else train_digits)(job, options)
    except Failed as error:
        found = {"error": str(error)}
    return named | how | found | circumstances


def main() -> None:
    parser = ledger.ledger_parser(__doc__, page.TRAINING)
    parser.add_argument(
        "--epochs", type=int, default=N_EPOCHS, help="epochs of the ways that train everything"
    )
    parser.add_argument("--digits-epochs", type=int, help="default: as the plan says")
    parser.add_argument("--threads", type=int, help="torch's threads; default: torch's own choice")
    parser.add_argument("--per-class", type=int, help="only this many images per class, as a trial")
    parser.add_argument(
        "--worker", type=share, default=(0, 1), metavar="I/N", help="run every Nth job"
    )
    options = parser.parse_args()
    known = {} if options.again else latest(ledger.read(options.results))
    left = [job for job in jobs() if options.only in job.name and not is_known(job, known, options)]
    worker, workers = options.worker
    left = left[worker::workers]
    if options.list:
        print(*(job.name for job in left), sep="\n")
        return
    ledger.work([] if options.table else left, lambda job: attempt(job, options), options)
    page.write(options.page, training=options.results)


if __name__ == "__main__":
    main()
