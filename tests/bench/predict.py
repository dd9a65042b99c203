"""What predictions cost and how far they can be trusted: `python -m tests.bench.predict`.

Trains on the data in ../shared, predicts, and writes docs/measured/predict.md. `--only WORD` runs
the parts whose name holds WORD (speed, memory, calibration) and prints them alone.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from PIL import Image
from sklearn.metrics import roc_auc_score

from tlcli import draw_sample, finetune, load
from tlcli.backbones import build
from tlcli.data.dataset import Sample, scan
from tlcli.features.extract import FeatureExtractor, extract_features
from tlcli.reporter import Reporter
from tlcli.runtime import device

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT.parent / "shared" / "data"
WEIGHTS = ROOT.parent / "shared" / "weights"
ROUNDS = 3
MOST = 400
"""About so many images of each folder of unlike ones, evenly spread."""


def speed() -> Iterator[str]:
    """Predictions against the feature pass of training, over the same images in turn."""
    paths = sorted((DATA / "flowers").glob("*/*/*.jpg"))
    samples = [Sample(path, 0, "") for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        draw_sample(Path(folder, "data"), per_class=8)
        run = finetune(Path(folder, "data"), output=Path(folder, "run"))
        classifier = load(run.folder)
        backbone = build.load_backbone("efficientnet_lite0")
        compute = device.choose_device("cpu", "fp32")
        prefix = torch.nn.Sequential(*backbone.stages[:-1])

        def features() -> None:
            forward = FeatureExtractor(prefix, backbone.preprocessing, compute)
            extract_features(samples, forward, task="features", reporter=Reporter())

        def predictions() -> None:
            assert all(answer.error is None for answer in classifier.stream(paths))

        seconds = [(timed(features), timed(predictions)) for _ in range(ROUNDS)]
    rates = [len(paths) / statistics.median(column) for column in zip(*seconds, strict=True)]
    ratio = statistics.median(a / b for a, b in seconds)
    yield "| pass | images/s |\n|---|---|"
    yield f"| features, as in training | {rates[0]:.0f} |"
    yield f"| `predict`, from decoding to predictions | {rates[1]:.0f} |"
    yield (
        f"\n`predict` runs at **{ratio:.0%}** of the feature pass's speed (median of {ROUNDS} "
        f"alternating rounds over {len(paths):,} flower photographs; the target is 85%)."
    )


def timed(job: Callable[[], None]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def memory() -> Iterator[str]:
    """Peak memory of the whole program by number of paths on stdin."""
    yield "| paths on stdin | format | peak memory, MB | seconds |\n|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        draw_sample(Path(folder, "data"), per_class=8, size=32)
        run = finetune(Path(folder, "data"), model="lenet5", epochs=1, output=Path(folder, "run"))
        small = Path(folder, "small.png")
        Image.new("RGB", (32, 32), "red").save(small)
        for n, name in ((1_000, "tsv"), (100_000, "tsv"), (100_000, "json"), (100_000, "table")):
            listed = Path(folder, "paths")
            listed.write_text(f"{small}\n" * n)
            command = [
                sys.executable, "-m", "tlcli", "predict", "-", "-q", "-f", name, "-m", run.folder,
            ]  # fmt: skip
            started = time.perf_counter()
            with listed.open() as stdin:
                process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            seconds = time.perf_counter() - started
            yield f"| {n:,} | {name} | {usage.ru_maxrss / 1024:.0f} | {seconds:.0f} |"


@dataclass(frozen=True)
class Case:
    """A run on shared data, and the folders of images that are nothing like it."""

    name: str
    data: str
    options: dict[str, object]
    outside: tuple[str, ...] = ()


MOBILENET = {
    "model": "mobilenet_v2",
    "weights": str(WEIGHTS / "mobilenet_v2-tf-imagenet.pth"),
}
CASES = (
    Case("flowers", "flowers", {}, ("digits/val", "eurosat", "caltech")),
    Case("flowers, MobileNetV2", "flowers", MOBILENET, ("digits/val", "eurosat", "caltech")),
    Case("digits, head on a middle stage", "digits", {"case": "small-different"},
         ("flowers/val", "eurosat")),
    Case("eurosat", "eurosat", {}),
    Case("caltech", "caltech", {}),
    Case("flowers without tulips", "without tulips", {}, ("flowers/val/tulips",)),
    Case("flowers, head by AdamW", "flowers", {"optimizer": "adamw"}),
    Case("digits, LeNet-5 from scratch", "digits", {"model": "lenet5", "epochs": 20}),
)  # fmt: skip


def calibration() -> Iterator[str]:
    """Measure calibration on validation images that had no part in it, and ood on unlike images."""
    rows, outside = [], []
    with tempfile.TemporaryDirectory() as folder:
        for part in ("train", "val"):
            for kind in ("daisy", "dandelion", "roses", "sunflowers"):
                link = Path(folder, "without tulips", part, kind)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((DATA / "flowers" / part / kind).resolve())
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
            usual: list[float] = []
            for other in case.outside:
                usual = usual or scores(run.bundle, held_out(data))
                found_there = sorted((DATA / other).rglob("*.*"))
                strange = scores(run.bundle, found_there[:: 1 + len(found_there) // MOST])
                area = roc_auc_score([0] * len(usual) + [1] * len(strange), usual + strange)
                outside.append(
                    f"| {case.name} | {other} | {area:.3f} | {share(strange):.1%} of "
                    f"{len(strange)} | {share(usual):.1%} of {len(usual)} |"
                )
                print(outside[-1], flush=True)
    yield (
        "| run | val images | top-1 | temperature | ECE raw | ECE calibrated | difference |\n"
        "|---|---|---|---|---|---|---|"
    )
    yield from rows
    yield (
        "\n| run | images from | AUROC | share with `ood` > 1 | the same of its own val images |\n"
        "|---|---|---|---|---|"
    )
    yield from outside


def held_out(data: Path) -> list[Path]:
    """The validation images of a run with the split's own seed."""
    return [sample.path for sample in scan(data).val]


def scores(model: Path, paths: list[Path]) -> list[float]:
    return [a.ood for a in load(model).stream(paths) if a.ood is not None]


def share(values: list[float]) -> float:
    return sum(value > 1 for value in values) / len(values)


def interval(found: dict[str, float], name: str) -> str:
    return f"{found[name]:.3f} ({found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f})"


PARTS = {"Speed": speed, "Memory": memory, "Calibration and ood": calibration}


def main() -> None:
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    text = [
        "# Predictions, measured\n\nMade by `python -m tests.bench.predict` on "
        f"{os.cpu_count()} cores ({platform.machine()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}); the machine is shared and noisy, so compare within a table. "
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
        (ROOT / "docs" / "measured" / "predict.md").write_text("\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
