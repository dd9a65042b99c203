"""Whole commands against the usual ways: `python -m tests.bench.speed`.

All on the shared flowers (1,000 to train on, 400 to validate), each contender a process of its own
from start to end, with the same weights. What is quick is measured several times over, in turns,
and its median counts; what is slow once. Outcomes are kept in tests/bench/speed.jsonl, a line each,
so that the benchmark can be stopped and goes on where it was; docs/measured/benchmarks.md is made
of them.

`--only WORD` takes measurements whose name holds WORD, `--again` measures anew what is known,
`--list` says what is left, `--minutes N` begins nothing after N minutes, `--table` only writes the
page. OMP_NUM_THREADS is taken out of the environment, so every contender has the threads that it
takes by itself. fastai runs in an environment of its own (`--fastai-python`); where there is none,
its row says so. The tutorial's epochs take the most time: `--tutorial-epochs` sets how many, and
the page says it.
"""

import argparse
import csv
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import page
from tests.bench.ledger import (
    MOBILENET,
    SHARED,
    Done,
    Failed,
    Record,
    arguments,
    circumstances,
    read,
    run,
    tlcli,
    work,
)
from tests.bench.speed_table import DEFAULT, FASTAI, IMPORT, TUTORIAL, latest

MODELS = {DEFAULT: (), "mobilenet_v2": ("--model", "mobilenet_v2", "--weights", MOBILENET)}

Parts = Iterator[tuple[str, Record]]


@dataclass(frozen=True)
class Measurement:
    """Something that is measured `repeats` times; it yields parts by name."""

    name: str
    repeats: int
    measure: Callable[[argparse.Namespace, Path], Parts]


def tried(run_folder: Path, done: Done) -> Record:
    """What a `finetune` took, and how often it was right."""
    metrics = json.loads((run_folder / "metrics.json").read_text())
    return done.took() | {"right": round(metrics["top1"] * metrics["n"]), "n": metrics["n"]}


def start_up(options: argparse.Namespace, folder: Path) -> Parts:
    """Importing, and one prediction by the command and by an exported model's script."""
    trained, onnx = folder / "trained", folder / "onnx" / "model.onnx"
    if not onnx.exists():
        if not (trained / "run.json").exists():
            shutil.rmtree(trained, ignore_errors=True)
            tlcli("finetune", options.data, "--case", "small-similar", "-o", trained)
        tlcli("export", trained, "--to", "onnx", "-o", onnx)
    image = next(path for path in sorted((options.data / "val").rglob("*.jpg")))
    yield IMPORT, run([sys.executable, "-c", IMPORT]).took()
    yield "tlcli predict, one image", tlcli("predict", image, "-m", trained).took()
    script = onnx.with_name(onnx.name + ".py")
    yield "exported ONNX script, one image", run([sys.executable, script, image]).took()


def cold_and_warm(model: str, options: argparse.Namespace, folder: Path) -> Parts:
    """The main job with an empty cache, and once more."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        for name in ("cold", "warm"):
            output = Path(here, name)
            command = ("finetune", options.data, *MODELS[model], "-o", output)
            done = tlcli(*command, TLCLI_CACHE=Path(here, "cache"))
            yield f"tlcli {name}, {model}", tried(output, done)
    yield IMPORT, run([sys.executable, "-c", IMPORT]).took()  # at that time, since machines drift


def step(options: argparse.Namespace, folder: Path) -> Parts:
    """Images a second of an epoch in which everything is trained, validation not counted."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        output = Path(here, "run")
        tlcli(
            *("finetune", options.data, "--case", "large-similar", "--epochs", 1),
            *("--precision", "bf16", "--no-calibrate", "-o", output),
            TLCLI_CACHE=folder / "cache",
        )
        rows = list(csv.DictReader((output / "history.csv").read_text().splitlines()))
    yield "tlcli large-similar, bf16", {"images_per_s": float(rows[-1]["images_per_s"])}
    rates = []
    for row in tutorial(options, "full", 1, "--limit", options.full_images)["epochs"]:
        rates.append(row["train_n"] / row["train_s"])
    yield "tutorial, full", {"images_per_s": round(statistics.mean(rates), 2)}


def tutorial(options: argparse.Namespace, mode: str, epochs: int, *more: object) -> Record:
    command = ("tests.bench.tutorial", options.data, "--mode", mode, "--epochs", epochs, *more)
    done = run([sys.executable, "-m", *command])
    return done.took() | json.loads(done.stdout)


def frozen_tutorial(options: argparse.Namespace, folder: Path) -> Parts:  # noqa: ARG001
    yield TUTORIAL, tutorial(options, "frozen", options.tutorial_epochs)


def frozen_fastai(options: argparse.Namespace, folder: Path) -> Parts:  # noqa: ARG001
    script = Path(__file__).with_name("fastai_contender.py")
    command = [script, options.data, "--weights", MOBILENET, "--epochs", options.fastai_epochs]
    done = run([options.fastai_python, *command])
    yield FASTAI, done.took() | json.loads(done.stdout)


MEASUREMENTS = (
    Measurement("start-up", 5, start_up),
    Measurement(DEFAULT, 3, lambda o, f: cold_and_warm(DEFAULT, o, f)),
    Measurement("mobilenet_v2", 3, lambda o, f: cold_and_warm("mobilenet_v2", o, f)),
    Measurement("step", 3, step),
    Measurement("fastai", 1, frozen_fastai),
    Measurement("tutorial", 1, frozen_tutorial),
)


def attempt(wanted: Measurement, options: argparse.Namespace, folder: Path) -> Record:
    """One repetition; where it fails, why, beside the parts that were measured before."""
    began = circumstances()
    parts: dict[str, Record] = {}
    try:
        parts |= wanted.measure(options, folder)
    except Failed as error:
        began["error"] = str(error)
    return {"name": wanted.name, "repeats": wanted.repeats, "parts": parts, **began}


def todo(outcomes: list[Record], options: argparse.Namespace) -> list[Measurement]:
    """What is left, in turns; the slow ones come last."""
    known = {name: [o for o in of if "error" not in o] for name, of in latest(outcomes).items()}
    turns = []
    for wanted in MEASUREMENTS:
        if options.only in wanted.name:
            there = 0 if options.again else len(known.get(wanted.name, []))
            turns += [(turn, wanted) for turn in range(min(wanted.repeats - there, options.most))]
    # a stable sort: those of one turn stay in their order
    turns.sort(key=lambda t: (t[1].repeats == 1, t[0]))
    return [wanted for _, wanted in turns]


def main() -> None:
    parser = arguments(__doc__, page.SPEED)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "flowers")
    parser.add_argument("--tutorial-epochs", type=int, default=5)
    parser.add_argument("--fastai-epochs", type=int, default=3)
    parser.add_argument("--full-images", type=int, default=300, help="of the tutorial's full loop")
    parser.add_argument("--most", type=int, default=5, help="repetitions, at most")
    options = parser.parse_args()
    options.data = options.data.resolve()
    left = todo(read(options.results), options)
    if options.list:
        print(*(wanted.name for wanted in left), sep="\n")
        return
    folder = Path(tempfile.gettempdir(), f"tlcli-bench-{options.data.name}")
    folder.mkdir(exist_ok=True)
    work([] if options.table else left, lambda one: attempt(one, options, folder), options)
    page.write(options.page, speed=options.results)


if __name__ == "__main__":
    main()
