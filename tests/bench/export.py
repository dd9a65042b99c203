"""Compare exports with their bundle on real photographs: `python -m tests.bench.export`.

Trains a head on the flowers in ../shared, exports it in every format and with both inputs, runs
each file by its own runtime over all validation images, and writes docs/measured/export.md. The
exit code is 1 if a row misses its target.
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

from tests.bench.common import make_parser, seconds_of, write_page
from tests.paths import FLOWERS
from tlcli.artifacts.export.formats import FORMATS
from tlcli.artifacts.export.inputs import IMAGE, PIXELS
from tlcli.artifacts.export.parity import MAX_DIFFERENCE, compare
from tlcli.artifacts.export.source import ExportSource
from tlcli.data.dataset import scan
from tlcli.data.decode import decode
from tlcli.data.preprocessing import to_tensor
from tlcli.inference.load import open_bundle
from tlcli.recipes.export import Export, export
from tlcli.recipes.finetune import finetune

INTRODUCTION = (
    "# Exports, measured\n\n"
    "Made by `python -m tests.bench.export`, over all validation images of the shared flowers.\n\n"
)
HEADER = (
    "| format | input | same predictions | largest difference | limit | images/s | MB |\n"
    "|---|---|---|---|---|---|---|"
)
MIN_SAME = {PIXELS: 1.0, IMAGE: 0.995}
"""Smallest share of predictions that must be the same; MAX_DIFFERENCE bounds the probabilities."""
MAX_COLD_SECONDS = 1.0
"""Longest time that the ONNX script may take for one image, including starting Python."""
N_COLD_STARTS = 9
TIMED_IMAGES = 100


def inputs(source: ExportSource, paths: list[Path]) -> list[torch.Tensor]:
    """Load each image as a batch of its own: [1, h, w, 3]."""
    pictures = map(decode, paths)
    load = source.meta.preprocessing.to_pixels if source.input == PIXELS else to_tensor
    return [load(picture).permute(1, 2, 0).contiguous()[None] for picture in pictures]


def row(source: ExportSource, to: str, file: Path, paths: list[Path]) -> tuple[str, bool]:
    """Compare one file with the bundle; return its row and whether it meets the targets."""
    images = inputs(source, paths)
    runner = FORMATS[to].open(source, file)
    parity = compare(source, runner, images)
    timed = images[:TIMED_IMAGES]
    started = time.perf_counter()
    with torch.no_grad():
        for image in timed:
            runner(image)
    rate = len(timed) / (time.perf_counter() - started)
    limit, share = MAX_DIFFERENCE[source.input], parity.same / parity.n
    line = (
        f"| {to} | {source.input} | **{parity.same}** of {parity.n} | {parity.difference:.1e} "
        f"| {limit:g} | {rate:.0f} | {file.stat().st_size / 1e6:.1f} |"
    )
    return line, parity.difference <= limit and share >= MIN_SAME[source.input]


def cold_seconds(done: Export, image: Path) -> float:
    """Time the exported script on one image, from a cold start; return the median."""
    command = [sys.executable, str(done.script), str(image)]
    return statistics.median(
        seconds_of(lambda: subprocess.run(command, check=True, capture_output=True))
        for _ in range(N_COLD_STARTS)
    )


def main() -> int:
    make_parser(__doc__).parse_args()
    lines, met = [HEADER], []
    with tempfile.TemporaryDirectory() as folder:
        bundle = finetune(FLOWERS, output=Path(folder, "run")).bundle
        network, meta = open_bundle(bundle)
        paths = [sample.path for sample in scan(FLOWERS).val]
        for to in (name for name, each in FORMATS.items() if each.has_graph):
            for name in (PIXELS, IMAGE):
                done = export(bundle, to=to, input_name=name)
                line, good = row(ExportSource(meta, network, name), to, done.file, paths)
                lines.append(line)
                met.append(good)
                print(line, flush=True)
        seconds = cold_seconds(export(bundle, output=Path(folder, "cold.onnx")), paths[0])
        met.append(seconds <= MAX_COLD_SECONDS)
        top1 = json.loads((bundle.parent / "metrics.json").read_text())["top1"]
    packages = dict.fromkeys(name for each in FORMATS.values() for name in each.packages)
    lines.append(
        f"\nThe script beside the ONNX file, for one image, from a cold start: {seconds:.2f} s "
        f"(median of {N_COLD_STARTS}; target {MAX_COLD_SECONDS:g} s).\n\n`efficientnet_lite0`, "
        f"{len(paths)} validation images ({top1:.1%} accuracy), one image at a time, "
        f"{torch.get_num_threads()} thread(s) of torch, {os.cpu_count()} cores "
        f"({platform.machine()}), shared and noisy; "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "pillow", *packages))
        + "."
    )
    text = "\n".join(lines)
    print(text)
    write_page("export.md", INTRODUCTION + text)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
