"""Write a bundle for other programs. The file is kept only if it predicts as the bundle does."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random

from PIL import Image

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.atomic import write_atomic, write_json, write_text
from tlcli.artifacts.export.model_card import CARD, model_card
from tlcli.artifacts.export.parity import MAX_DIFFERENCE, N_IMAGES, Parity, check_parity
from tlcli.artifacts.export.script import make_script
from tlcli.artifacts.export.source import ExportSource
from tlcli.artifacts.export.target import ExportTarget, choose_target
from tlcli.artifacts.run_folder import TrainingData
from tlcli.data.decode import Unreadable, decode
from tlcli.data.drawings.flowers import FLOWERS
from tlcli.data.drawings.sample import draw_flower
from tlcli.data.folders import find_images
from tlcli.errors import UserError
from tlcli.inference.load import open_bundle
from tlcli.reporter import Reporter
from tlcli.text import printable

DRAWN_SIZES = ((320, 240), (240, 320), (256, 256), (500, 333))
"""Width and height of the drawings that stand in for training images."""


@dataclass(frozen=True)
class Export:
    """The files of an export.

    Attributes:
        file: the export.
        script: the script beside it that runs it: python SCRIPT IMAGE...
        parity: how close its predictions are to the bundle's.
    """

    file: Path
    script: Path
    parity: Parity


def export(
    model: str | Path | None = None,
    *,
    to: str | None = None,
    output: Path | None = None,
    input_name: str | None = None,
    images: Path | None = None,
    reporter: Reporter | None = None,
) -> Export:
    """Write a bundle as a state dict, an exported program or an ONNX model.

    Args:
        model: a bundle or a run folder; None takes the newest finished run in ./runs.
        to: a key of `tlcli.artifacts.export.formats.FORMATS`; None goes by `output`'s extension,
            else takes a state dict.
        output: the file; None puts it beside the bundle.
        input_name: "image" (any size, the preprocessing inside) or "pixels" (resized and cropped).
        images: a folder of images to compare export and bundle on; None takes the training images.

    Raises:
        UsageError: format, input and file contradict each other.
        UserError: a file already exists, the bundle is damaged, a package is missing, there are no
            such images, or the written file does not predict as the bundle does.
    """
    reporter = reporter or Reporter()
    path = run.find_bundle(model) if model else run.newest_run()
    target = choose_target(to, output, input_name, path.parent)
    target.format.check_installed()
    for file in target.files:
        if file.exists():
            raise UserError(f"{file} already exists and will not be overwritten", "use --output")
    network, meta = open_bundle(path)
    source = ExportSource(meta, network, target.input)
    data = run.read_training_data(path.parent)
    parity = _write_checked(
        source, target, find_images_to_compare(images, data, meta.classes, reporter)
    )
    reporter.note(
        f"checked on {parity.n} inputs: probabilities differ from the bundle's by at most "
        f"{parity.difference:.1e} (limit {MAX_DIFFERENCE[target.input]:g}), {parity.same} of "
        f"{parity.n} predictions are the same"
    )
    parts = target.format.script_parts(source, target.file)
    write_text(target.script, make_script(source, parts, target.file))
    if target.sidecar is not None:
        write_json(target.sidecar, source.about)
    _write_card(target.file.with_name(CARD), model_card(meta, data), reporter)
    return Export(target.file, target.script, parity)


def _write_checked(
    source: ExportSource, target: ExportTarget, images: Sequence[Image.Image]
) -> Parity:
    """Write the file, and put it in place only once it was opened again and compared."""
    checked: list[Parity] = []

    def write(part: Path) -> None:
        target.format.write(source, part)
        checked.append(check_parity(source, target.format.open(source, part), images))

    write_atomic(target.file, write)
    return checked[0]


def _write_card(path: Path, text: str, reporter: Reporter) -> None:
    """Write the model card, unless there is one already: it may have been edited."""
    if not path.exists():
        write_text(path, text)
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        reporter.note(f"{path} already exists with other content, so it was not changed")


def find_images_to_compare(
    folder: Path | None, data: TrainingData | None, classes: Sequence[str], reporter: Reporter
) -> list[Image.Image]:
    """Return `N_IMAGES` RGB images: from `folder`, else training images.

    Where those are gone, drawn flowers take their place, and the reporter is told.

    Raises:
        UserError: there is no readable image in `folder`.
    """
    if folder is not None:
        found = _decode_some(find_images(folder, set(), Counter()))
        if not found:
            raise UserError(f"--images {folder}: no readable image in it")
        return found
    if data is not None and (found := _decode_some(_training_images(data.root, classes))):
        return found
    reason = (
        "there is no run.json"
        if data is None
        else f"the training images ({printable(data.root)}) are not there"
    )
    reporter.note(
        f"{reason}, so export and bundle are compared on drawn flowers; --images DIR names others"
    )
    return [
        draw_flower(name, max(size), Random(name)).crop((0, 0, *size))
        for name, size in zip(FLOWERS, DRAWN_SIZES, strict=False)
    ]


def _training_images(root: Path, classes: Sequence[str]) -> list[Path]:
    """Return the training images that are still there, class by class."""
    try:
        train = root / "train" if (root / "train").is_dir() else root
        folders = [train / name for name in classes if (train / name).is_dir()]
        return [image for folder in folders for image in find_images(folder, set(), Counter())]
    except (OSError, UserError):  # another machine's path may lead to where nobody may look
        return []


def _decode_some(paths: Sequence[Path]) -> list[Image.Image]:
    """Decode `N_IMAGES` images spread over `paths`, repeated if they are fewer.

    Nothing is returned where none can be read.
    """
    spread = [paths[i * len(paths) // N_IMAGES] for i in range(N_IMAGES)] if paths else []
    found: list[Image.Image] = []
    for path in [*spread, *paths]:
        if len(found) == N_IMAGES:
            break
        try:
            found.append(decode(path))
        except Unreadable:
            continue
    return list(islice(cycle(found), N_IMAGES))
