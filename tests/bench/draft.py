"""Measure how decoding large JPEGs at reduced size changes predictions.

Run it as `python -m tests.bench.draft`. Every fourth validation photograph of the shared flowers is
enlarged four times (about 2,000 x 1,300 pixels), then predicted from the fully decoded image and
from images decoded at reduced size, with at least 1, 2 or 3 times `resize` pixels per side. The
program's own margin is `tlcli.data.preprocessing.DECODE_MARGIN`.
"""

import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

import tlcli
from tests.bench.common import make_parser
from tests.paths import FLOWERS
from tlcli.data import preprocessing

FULL_SIZE = 10**6
"""A margin that no image has, so that each is decoded in full."""


def main() -> None:
    make_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = tlcli.finetune(FLOWERS, case="small-similar", output=Path(folder, "run"))
        for path in sorted((FLOWERS / "val").rglob("*.jpg"))[::4]:
            image = Image.open(path).convert("RGB")
            size = (image.width * 4, image.height * 4)
            image.resize(size, Image.Resampling.LANCZOS).save(
                Path(folder, f"{path.parent.name}-{path.name}"), quality=90
            )
        classifier = tlcli.load(run.folder, precision="fp32")
        enlarged = sorted(Path(folder).glob("*.jpg"))
        reference: torch.Tensor | None = None
        print("| margin | seconds per image | largest difference | changed predictions |")
        for margin in (FULL_SIZE, 1, 2, 3):
            preprocessing.DECODE_MARGIN = margin
            started = time.process_time()
            batches = classifier.batches(enlarged)
            probabilities = torch.cat([batch.probabilities for batch in batches])
            seconds = (time.process_time() - started) / len(enlarged)
            reference = probabilities if reference is None else reference
            difference = (probabilities - reference).abs().max().item()
            flips = int((probabilities.argmax(1) != reference.argmax(1)).sum())
            label = "full size" if margin == FULL_SIZE else f"{margin} times"
            print(f"| {label} | {seconds:.3f} | {difference:.3f} | {flips} of {len(enlarged)} |")


if __name__ == "__main__":
    main()
