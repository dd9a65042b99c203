"""What decoding large JPEGs at a part of their size changes: `python -m tests.bench.draft`.

Every fourth of the shared flowers' val photographs, enlarged four times (about 2,000 x 1,300
pixels), is answered decoded whole and decoded with 1, 2 or 3 times `resize` to spare. The program's
own margin is `tlcli.data.preprocessing.SPARE`.
"""

import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

import tlcli
from tlcli.data import preprocessing

FLOWERS = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "flowers"
WHOLE = 10**6


def main() -> None:
    """Print a row a margin."""
    with tempfile.TemporaryDirectory() as folder:
        run = tlcli.finetune(FLOWERS, case="small-similar", output=Path(folder, "run"))
        for path in sorted((FLOWERS / "val").rglob("*.jpg"))[::4]:
            image = Image.open(path).convert("RGB")
            size = (image.width * 4, image.height * 4)
            image.resize(size, Image.Resampling.LANCZOS).save(
                Path(folder, f"{path.parent.name}-{path.name}"), quality=90
            )
        classifier = tlcli.load(run.folder, precision="fp32")
        large = sorted(Path(folder).glob("*.jpg"))
        whole: torch.Tensor | None = None
        print("| to spare | seconds an image | largest difference | other answers |")
        for spare in (WHOLE, 1, 2, 3):
            preprocessing.SPARE = spare
            started = time.process_time()
            answers = torch.cat([batch.probabilities for batch in classifier.batches(large)])
            seconds = (time.process_time() - started) / len(large)
            whole = answers if whole is None else whole
            difference = (answers - whole).abs().max().item()
            flips = int((answers.argmax(1) != whole.argmax(1)).sum())
            named = "whole" if spare == WHOLE else f"{spare} times"
            print(f"| {named} | {seconds:.3f} | {difference:.3f} | {flips} of {len(large)} |")


if __name__ == "__main__":
    main()
