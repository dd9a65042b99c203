"""How accurate the ways of training are: `python -m tests.bench.training`.

All 1,400 shared flowers are dealt into five folds, and each way is trained on each (how is said in
docs/measured/benchmarks.md, which is made of the outcomes). Outcomes are kept in
tests/bench/training.jsonl, a line for a way and a fold, fold by fold, so that the benchmark can be
stopped and goes on where it was, and so that whatever has been run is paired.

`--only WORD` takes those whose name (fold/way) holds WORD, `--again` measures anew what is known,
`--list` says what is left, `--minutes N` begins nothing after N minutes, `--table` only writes the
page. `--worker I/N` takes every Nth, for several processes, each with `--threads` for torch.
`--epochs` is of the ways that train everything; another number than that of what is known measures
anew.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import page
from tests.bench.ledger import (
    MOBILENET,
    SHARED,
    Failed,
    Record,
    arguments,
    circumstances,
    read,
    run,
    tlcli,
    work,
)
from tests.bench.regret import FOLDS, deal
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

EPOCHS = 3
ALL = "--case large-similar --epochs {epochs} --patience 0 --no-calibrate"
MOBILE = "--model mobilenet_v2 --weights {mobilenet}"


@dataclass(frozen=True)
class Way:
    """A way of training: its options of `finetune`, or of fastai's script."""

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
    """Fold by fold, so that whatever has been run is paired; the digits once, as they lie."""
    for fold in range(FOLDS):
        for way in WAYS:
            if way.data == "flowers" or not fold:
                yield Job(fold, way)


def deal_three(fold: int, into: Path, per_class: int | None) -> None:
    """The flowers as train/, val/ (a tenth of what is not of the fold) and test/ (the fold)."""
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
    """What the way's training took, and each image of the fold: 1 where its answer is right."""
    with tempfile.TemporaryDirectory() as folder:
        data, trained = Path(folder, "flowers"), Path(folder, "run")
        deal_three(job.fold, data, options.per_class)
        if job.way.of_fastai:
            script = Path(__file__).with_name("fastai_contender.py")
            command = [options.fastai_python, script, data, "--test", "test", *words(job, options)]
            done = run(command, threads=options.threads)
            answers, kept = json.loads(done.stdout)["answers"], "last"
        else:
            command = ["finetune", data, *words(job, options), "--no-cache", "-o", trained]
            done = tlcli(*command, threads=options.threads)
            said = tlcli(
                *("predict", data / "test", "-m", trained, "--format", "jsonl", "-q"),
                threads=options.threads,
            ).stdout
            rows = [json.loads(line) for line in said.splitlines()]
            answers = {Path(row["path"]).name: row["label"] for row in rows}
            kept = json.loads((trained / "run.json").read_text())["best_epoch"] or "head"
        truth = {p.name: p.parent.name for p in (data / "test").glob("*/*")}
    images = sorted(truth, key=lambda name: int(name.partition(".")[0]))
    right = "".join(str(int(answers[name] == truth[name])) for name in images)
    return done.took() | {"kept": kept, "outcomes": right}


def train_digits(job: Job, options: argparse.Namespace) -> Record:
    """The accuracy on the set's own validation images, on which the epoch was chosen too."""
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder, "run")
        done = tlcli(
            *("finetune", SHARED / "data" / job.way.data, *words(job, options)),
            *("--no-cache", "-o", trained),
            threads=options.threads,
        )
        metrics = json.loads((trained / "metrics.json").read_text())
        epochs = len((trained / "history.csv").read_text().splitlines()) - 1
    right = round(metrics["top1"] * metrics["n"])
    return done.took() | {"right": right, "n": metrics["n"], "epochs": epochs}


def words(job: Job, options: argparse.Namespace) -> list[str]:
    """The way's options with what they leave open."""
    filled = job.way.options.format(epochs=options.epochs, mobilenet=MOBILENET).split()
    if job.way.name == DIGITS and options.digits_epochs:
        filled += ["--epochs", str(options.digits_epochs)]
    return filled


def asked(job: Job, options: argparse.Namespace) -> str:
    """The way's options as they are shown."""
    return " ".join(words(job, options)).replace(str(MOBILENET), MOBILENET.name)


def is_known(job: Job, known: dict[tuple[int, str], Record], options: argparse.Namespace) -> bool:
    """Whether it was measured with these options."""
    found = known.get((job.fold, job.way.name), {})
    return "wall_s" in found and found["options"] == asked(job, options)


def attempt(job: Job, options: argparse.Namespace) -> Record:
    """The outcome, or why there is none."""
    began = circumstances()
    named = {"fold": job.fold, "way": job.way.name, "options": asked(job, options)}
    how = {"threads": options.threads, "side_by_side": options.worker[1]}
    try:
        found = (train if job.way.data == "flowers" else train_digits)(job, options)
    except Failed as error:
        found = {"error": str(error)}
    return named | how | found | began


def pair(text: str) -> tuple[int, int]:
    """Of "0/2"."""
    first, second = map(int, text.split("/"))
    return first, second


def main() -> None:
    parser = arguments(__doc__, page.TRAINING)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--digits-epochs", type=int, help="left out: as the plan says")
    parser.add_argument("--threads", type=int, help="of torch; left out: as many as it takes")
    parser.add_argument("--per-class", type=int, help="only so many images a class, for a trial")
    parser.add_argument("--worker", type=pair, default=(0, 1), metavar="I/N")
    options = parser.parse_args()
    known = {} if options.again else latest(read(options.results))
    left = [job for job in jobs() if options.only in job.name and not is_known(job, known, options)]
    worker, workers = options.worker
    left = left[worker::workers]
    if options.list:
        print(*(job.name for job in left), sep="\n")
        return
    work([] if options.table else left, lambda job: attempt(job, options), options)
    page.write(options.page, training=options.results)


if __name__ == "__main__":
    main()
