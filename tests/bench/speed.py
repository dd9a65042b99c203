"""Compare whole commands with the usual ways: `python -m tests.bench.speed`.

All run on the shared flowers (1,000 for training, 400 for validation), each contender in a process
of its own from start to end, with the same weights. Quick measurements are repeated in alternation
and their median counts; slow ones run once. Outcomes are kept in tests/bench/speed.jsonl, one per
line, so the benchmark can be stopped and resumed; docs/measured/benchmarks.md is made from them.

OMP_NUM_THREADS is removed from the environment, so every contender chooses its own number of
threads. fastai runs in an environment of its own (`--fastai-python`); without one, its row says so.
The tutorial's epochs take the most time: `--tutorial-epochs` sets their number, which the page
mentions.
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

from tests.bench import ledger, page
from tests.bench.common import MOBILENET
from tests.bench.ledger import Done, Failed, Record, run, tlcli
from tests.bench.speed_table import DEFAULT, FASTAI, IMPORT, TUTORIAL, latest
from tests.paths import FLOWERS

MODELS = {DEFAULT: (), "mobilenet_v2": ("--model", "mobilenet_v2", "--weights", MOBILENET)}

Parts = Iterator[tuple[str, Record]]


@dataclass(frozen=True)
class Measurement:
    """A measurement that is repeated `repeats` times and yields its parts by name."""

    name: str
    repeats: int
    measure: Callable[[argparse.Namespace, Path], Parts]


def record_of(run_folder: Path, done: Done) -> Record:
    """Return the times of a `finetune` and its correct predictions."""
    metrics = json.loads((run_folder / "metrics.json").read_text())
    return done.times() | {"right": round(metrics["top1"] * metrics["n"]), "n": metrics["n"]}


def start_up(options: argparse.Namespace, folder: Path) -> Parts:
    """Time the imports, and one prediction by the command and by an exported model's script."""
    trained, onnx = folder / "trained", folder / "onnx" / "model.onnx"
    if not onnx.exists():
        if not (trained / "run.json").exists():
            shutil.rmtree(trained, ignore_errors=True)
            tlcli("finetune", options.data, "--case", "small-similar", "-o", trained)
        tlcli("export", trained, "--to", "onnx", "-o", onnx)
    image = next(path for path in sorted((options.data / "val").rglob("*.jpg")))
    yield IMPORT, run([sys.executable, "-c", IMPORT]).times()
    yield "tlcli predict, one image", tlcli("predict", image, "-m", trained).times()
    script = onnx.with_name(onnx.name + ".py")
    yield "exported ONNX script, one image", run([sys.executable, script, image]).times()


def cold_and_warm(model: str, options: argparse.Namespace, folder: Path) -> Parts:
    """Time the main job with an empty cache, and then once more."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        for name in ("cold", "warm"):
            output = Path(here, name)
            command = ("finetune", options.data, *MODELS[model], "-o", output)
            done = tlcli(*command, TLCLI_CACHE=Path(here, "cache"))
            yield f"tlcli {name}, {model}", record_of(output, done)
    yield IMPORT, run([sys.executable, "-c", IMPORT]).times()  # here too, since machines drift


def step(options: argparse.Namespace, folder: Path) -> Parts:
    """Measure images per second of an epoch of full fine-tuning, without validation."""
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
    """Run the tutorial's loop."""
    command = ("tests.bench.tutorial", options.data, "--mode", mode, "--epochs", epochs, *more)
    done = run([sys.executable, "-m", *command])
    return done.times() | json.loads(done.stdout)


def frozen_tutorial(options: argparse.Namespace, folder: Path) -> Parts:  # noqa: ARG001
    """Time the tutorial's frozen epochs."""
    yield TUTORIAL, tutorial(options, "frozen", options.tutorial_epochs)


def frozen_fastai(options: argparse.Namespace, folder: Path) -> Parts:  # noqa: ARG001
    """Time fastai's frozen epochs."""
    script = Path(__file__).with_name("fastai_contender.py")
    command = [script, options.data, "--weights", MOBILENET, "--epochs", options.fastai_epochs]
    done = run([options.fastai_python, *command])
    yield FASTAI, done.times() | json.loads(done.stdout)


MEASUREMENTS = (
    Measurement("start-up", 5, start_up),
    Measurement(DEFAULT, 3, lambda o, f: cold_and_warm(DEFAULT, o, f)),
    Measurement("mobilenet_v2", 3, lambda o, f: cold_and_warm("mobilenet_v2", o, f)),
    Measurement("step", 3, step),
    Measurement("fastai", 1, frozen_fastai),
    Measurement("tutorial", 1, frozen_tutorial),
)


def attempt(measurement: Measurement, options: argparse.Namespace, folder: Path) -> Record:
    """Run one repetition; a failure is kept beside the parts that were measured before it."""
    outcome = ledger.circumstances()
    parts: dict[str, Record] = {}
    try:
        parts |= measurement.measure(options, folder)
    except Failed as error:
        outcome["error"] = str(error)
    return {"name": measurement.name, "repeats": measurement.repeats, "parts": parts, **outcome}


def todo(outcomes: list[Record], options: argparse.Namespace) -> list[Measurement]:
    """List what is left, in alternating rounds; the slow measurements come last."""
    known = {name: [o for o in of if "error" not in o] for name, of in latest(outcomes).items()}
    rounds = []
    for measurement in MEASUREMENTS:
        if options.only in measurement.name:
            n_known = 0 if options.again else len(known.get(measurement.name, []))
            left = min(measurement.repeats - n_known, options.most)
            rounds += [(number, measurement) for number in range(left)]
    # a stable sort: the measurements of one round stay in their order
    rounds.sort(key=lambda r: (r[1].repeats == 1, r[0]))
    return [measurement for _, measurement in rounds]


def main() -> None:
    parser = ledger.ledger_parser(__doc__, page.SPEED)
    parser.add_argument("--data", type=Path, default=FLOWERS)
    parser.add_argument("--tutorial-epochs", type=int, default=5)
    parser.add_argument("--fastai-epochs", type=int, default=3)
    parser.add_argument(
        "--full-images", type=int, default=300, help="images of the tutorial's full loop"
    )
    parser.add_argument("--most", type=int, default=5, help="repetitions at most")
    options = parser.parse_args()
    options.data = options.data.resolve()
    left = todo(ledger.read(options.results), options)
    if options.list:
        print(*(measurement.name for measurement in left), sep="\n")
        return
    folder = Path(tempfile.gettempdir(), f"tlcli-bench-{options.data.name}")
    folder.mkdir(exist_ok=True)
    ledger.work([] if options.table else left, lambda m: attempt(m, options, folder), options)
    page.write(options.page, speed=options.results)


if __name__ == "__main__":
    main()
