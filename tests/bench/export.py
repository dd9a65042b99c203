"""How far exports are from the bundle on real photographs: `python -m tests.bench.export`.

Trains a head on the flowers in ../shared, exports it in every format and form, runs each file by
its own runtime over all val images, and writes docs/measured/export.md. The exit code is 1 if a row
misses its target.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from tlcli.artifacts.export.formats import FORMATS, IMAGE, PIXELS, Subject
from tlcli.artifacts.export.parity import LIMITS, compare
from tlcli.data.dataset import scan
from tlcli.data.decode import decode
from tlcli.data.preprocessing import to_tensor
from tlcli.inference.load import open_bundle
from tlcli.recipes.export import Export, export
from tlcli.recipes.finetune import finetune

ROOT = Path(__file__).parent.parent.parent
FLOWERS = ROOT.parent / "shared" / "data" / "flowers"
PAGE = ROOT / "docs" / "measured" / "export.md"
INTRODUCTION = (
    "# Exports, measured\n\n"
    "Made by `python -m tests.bench.export`, over all val images of the shared flowers.\n\n"
)
SAME = {PIXELS: 1.0, IMAGE: 0.995}
"""The share of predictions that must be the same; LIMITS are the allowed differences."""
COLD = 1.0
"""Seconds that the ONNX script may take for one image, starting Python included."""
HEAD = (
    "| format | input | same predictions | largest difference | limit | images/s | MB |\n"
    "|---|---|---|---|---|---|---|"
)


def inputs(subject: Subject, paths: list[Path]) -> list[torch.Tensor]:
    """Each image as an input of its own: [1, h, w, 3]."""
    pictures = map(decode, paths)
    if subject.input == PIXELS:
        fitted = (subject.meta.preprocessing.fit(picture) for picture in pictures)
    else:
        fitted = map(to_tensor, pictures)
    return [pixels.permute(1, 2, 0).contiguous()[None] for pixels in fitted]


def row(subject: Subject, to: str, file: Path, paths: list[Path]) -> tuple[str, bool]:
    """A line of the table, and whether the targets are met."""
    images = inputs(subject, paths)
    runner = FORMATS[to].open(subject, file)
    parity = compare(subject, runner, images)
    started = time.perf_counter()
    with torch.no_grad():
        for image in images[:100]:
            runner(image)
    rate = len(images[:100]) / (time.perf_counter() - started)
    limit, share = LIMITS[subject.input], parity.same / parity.n
    line = (
        f"| {to} | {subject.input} | **{parity.same}** of {parity.n} | {parity.difference:.1e} "
        f"| {limit:g} | {rate:.0f} | {file.stat().st_size / 1e6:.1f} |"
    )
    return line, parity.difference <= limit and share >= SAME[subject.input]


def cold(done: Export, image: Path) -> float:
    """Seconds of the stored script for one image, the median of nine."""
    times = []
    for _ in range(9):
        started = time.perf_counter()
        subprocess.run([sys.executable, done.script, image], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> int:
    lines, met = [HEAD], []
    with tempfile.TemporaryDirectory() as folder:
        bundle = finetune(FLOWERS, output=Path(folder, "run")).bundle
        network, meta = open_bundle(bundle)
        paths = [sample.path for sample in scan(FLOWERS).val]
        for to in ("onnx", "exported-program"):
            for name in (PIXELS, IMAGE):
                done = export(bundle, to=to, input_name=name)
                line, good = row(Subject(meta, network, name), to, done.file, paths)
                lines.append(line)
                met.append(good)
                print(line, flush=True)
        seconds = cold(export(bundle, output=Path(folder, "cold.onnx")), paths[0])
        met.append(seconds <= COLD)
        top1 = json.loads((bundle.parent / "metrics.json").read_text())["top1"]
    names = ("torch", "onnx", "onnxscript", "onnxruntime", "pillow")
    lines.append(
        f"\nThe script beside the ONNX file, for one image, from a cold start: {seconds:.2f} s "
        f"(median of 9; target {COLD:g} s).\n\n`efficientnet_lite0`, {len(paths)} val images "
        f"({top1:.1%} accuracy), one image at a time, {torch.get_num_threads()} thread(s) of "
        f"torch, {os.cpu_count()} cores ({platform.machine()}), shared and noisy; "
        + ", ".join(f"{name} {version(name)}" for name in names)
        + "."
    )
    text = "\n".join(lines)
    print(text)
    PAGE.write_text(f"{INTRODUCTION}{text}\n")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
