"""Measure the cost and the calibration of predictions: `python -m tests.bench.predict`.

Trains on the data in ../shared, predicts, and writes docs/measured/predict.md.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.bench.common import (
    MOBILENET,
    environment,
    load_pretrained,
    make_extractor,
    make_parser,
    seconds_of,
    write_page,
)
from tests.paths import DATA
from tlcli import draw_sample, finetune, load
from tlcli.data.dataset import Sample, scan
from tlcli.features.extract import extract_features
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device

N_ROUNDS = 3
MAX_OUTSIDE_IMAGES = 400
"""About this many images of each folder from outside the training data, evenly spread."""


def speed() -> Iterator[str]:
    """Compare predictions with the feature pass of training on the same images, in alternation."""
    paths = sorted((DATA / "flowers").glob("*/*/*.jpg"))
    samples = [Sample(path, 0, "") for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        draw_sample(Path(folder, "data"), per_class=8)
        run = finetune(Path(folder, "data"), output=Path(folder, "run"))
        classifier = load(run.folder)
        backbone = load_pretrained("efficientnet_lite0")

        def features() -> None:
            extractor = make_extractor(backbone, choose_device("cpu", "fp32"))
            extract_features(samples, extractor, task="features", reporter=Reporter())

        def predictions() -> None:
            assert all(prediction.error is None for prediction in classifier.stream(paths))

        seconds = [(seconds_of(features), seconds_of(predictions)) for _ in range(N_ROUNDS)]
    rates = [len(paths) / statistics.median(column) for column in zip(*seconds, strict=True)]
    ratio = statistics.median(a / b for a, b in seconds)
    yield "| pass | images/s |\n|---|---|"
    yield f"| features, as in training | {rates[0]:.0f} |"
    yield f"| `predict`, from decoding to predictions | {rates[1]:.0f} |"
    yield (
        f"\n`predict` runs at **{ratio:.0%}** of the feature pass's speed (median of {N_ROUNDS} "
        f"alternating rounds over {len(paths):,} flower photographs; the target is 85%)."
    )


def memory() -> Iterator[str]:
    """Measure the program's peak memory by the number of paths on stdin."""
    yield "| paths on stdin | format | peak memory, MB | seconds |\n|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        draw_sample(Path(folder, "data"), per_class=8, size=32)
        run = finetune(Path(folder, "data"), model="lenet5", epochs=1, output=Path(folder, "run"))
        small = Path(folder, "small.png")
        Image.new("RGB", (32, 32), "red").save(small)
        for n, name in ((1_000, "tsv"), (100_000, "tsv"), (100_000, "json"), (100_000, "table")):
            listing = Path(folder, "paths")
            listing.write_text(f"{small}\n" * n)
            command = [sys.executable, "-m", "tlcli", "predict", "-", "-q"]
            command += ["-f", name, "-m", str(run.folder)]
            started = time.perf_counter()
            with listing.open() as stdin:
                process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            seconds = time.perf_counter() - started
            yield f"| {n:,} | {name} | {usage.ru_maxrss / 1024:.0f} | {seconds:.0f} |"


@dataclass(frozen=True)
class Case:
    """A run on shared data, and folders of images from outside that data."""

    name: str
    data: str
    options: dict[str, Any]
    outside: tuple[str, ...] = ()


WITH_MOBILENET = {"model": "mobilenet_v2", "weights": str(MOBILENET)}
CASES = (
    Case("flowers", "flowers", {}, ("digits/val", "eurosat", "caltech")),
    Case("flowers, MobileNetV2", "flowers", WITH_MOBILENET, ("digits/val", "eurosat", "caltech")),
    Case(
        "digits, head on a middle stage",
        "digits",
        {"case": "small-different"},
        ("flowers/val", "eurosat"),
    ),
    Case("eurosat", "eurosat", {}),
    Case("caltech", "caltech", {}),
    Case("flowers without tulips", "without tulips", {}, ("flowers/val/tulips",)),
    Case("flowers, head by AdamW", "flowers", {"optimizer": "adamw"}),
    Case("digits, LeNet-5 from scratch", "digits", {"model": "lenet5", "epochs": 20}),
)


def calibration() -> Iterator[str]:
    """Measure calibration on the validation images, and how well images from outside are found."""
    rows, outside = [], []
    with tempfile.TemporaryDirectory() as folder:
        link_without_tulips(Path(folder, "without tulips"))
        for number, case in enumerate(CASES):
            data = next(p for p in (DATA / case.data, Path(folder, case.data)) if p.exists())
            run = finetune(data, output=Path(folder, str(number)), **case.options)
            found = run.metrics["calibration"]
            rows.append(
                f"| {case.name} | {run.metrics['n']} | {run.metrics['top1']:.1%} "
                f"| {found['temperature']:.2f} | {interval(found, 'raw_ece')} "
                f"| {interval(found, 'ece')} | {interval(found, 'difference')} |"
            )
            print(rows[-1], flush=True)
            if case.outside:
                val = ood_scores(run.bundle, [sample.path for sample in scan(data).val])
                for other in case.outside:
                    outside.append(outside_row(case.name, run.bundle, val, other))
                    print(outside[-1], flush=True)
    yield (
        "| run | validation images | top-1 | temperature | ECE raw | ECE calibrated "
        "| difference |\n"
        "|---|---|---|---|---|---|---|"
    )
    yield from rows
    yield (
        "\n| run | images from | AUROC | share with `ood` > 1 "
        "| the same of its own validation images |\n"
        "|---|---|---|---|---|"
    )
    yield from outside


def link_without_tulips(folder: Path) -> None:
    """Link the flowers' folders, all but the tulips."""
    for part in ("train", "val"):
        for kind in ("daisy", "dandelion", "roses", "sunflowers"):
            link = folder / part / kind
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((DATA / "flowers" / part / kind).resolve())


def outside_row(name: str, bundle: Path, val: list[float], other: str) -> str:
    """Compare the OOD scores of a folder from outside with those of the validation images."""
    paths = sorted((DATA / other).rglob("*.*"))
    strange = ood_scores(bundle, paths[:: 1 + len(paths) // MAX_OUTSIDE_IMAGES])
    area = roc_auc_score([0] * len(val) + [1] * len(strange), val + strange)
    return (
        f"| {name} | {other} | {area:.3f} | {share_above_1(strange):.1%} of {len(strange)} "
        f"| {share_above_1(val):.1%} of {len(val)} |"
    )


def ood_scores(bundle: Path, paths: list[Path]) -> list[float]:
    """Predict images and return their OOD scores."""
    return [p.ood for p in load(bundle).stream(paths) if p.ood is not None]


def share_above_1(values: list[float]) -> float:
    return sum(value > 1 for value in values) / len(values)


def interval(found: dict[str, float], name: str) -> str:
    """Format a figure of the calibration with its 95% interval."""
    return f"{found[name]:.3f} ({found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f})"


PARTS = {
    "Speed": speed,
    "Memory": memory,
    "Calibration and out-of-distribution images": calibration,
}


def main() -> None:
    parser = make_parser(
        __doc__, only="run one part (speed, memory or calibration), and only print it"
    )
    only = parser.parse_args().only
    text = [
        f"# Predictions, measured\n\nMade by `python -m tests.bench.predict` on {environment()}; "
        "the machine is shared and noisy, so compare within a table. "
        "[predict.md](../predict.md) explains the figures."
    ]
    for title, part in PARTS.items():
        if only in title.lower():
            print(f"## {title}", flush=True)
            lines = []
            for line in part():
                print(line, flush=True)
                lines.append(line)
            text.append(f"## {title}\n\n" + "\n".join(lines))
    if not only:
        write_page("predict.md", "\n\n".join(text))


if __name__ == "__main__":
    main()
