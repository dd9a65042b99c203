"""A bundle written for other programs, kept only if it answers as the bundle does."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random

from PIL import Image

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.atomic import write_atomic, write_json, write_text
from tlcli.artifacts.export import formats
from tlcli.artifacts.export.formats import FORMATS, Subject
from tlcli.artifacts.export.model_card import CARD, model_card
from tlcli.artifacts.export.parity import LIMITS, PICTURES, Parity, check
from tlcli.artifacts.export.script import run_script
from tlcli.data.decode import Unreadable, decode
from tlcli.data.drawings.flowers import FLOWERS
from tlcli.data.drawings.sample import draw_flower
from tlcli.data.folders import find_images
from tlcli.errors import UserError
from tlcli.inference.load import open_bundle
from tlcli.reporter import Reporter
from tlcli.text import printable


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        file: the export; `script` beside it shows how to use it: python SCRIPT IMAGE...
        parity: how far its answers are from the bundle's own.
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
        model: a bundle or a run folder; None takes the newest finished run below ./runs.
        to: a key of `FORMATS`; None goes by `output`'s extension, else a state dict.
        output: the file; None: beside the bundle.
        input_name: "image" (any size, the preprocessing inside) or "pixels" (resized and cut).
        images: a folder of images that the comparison is made on; None: the training images.

    Raises:
        UsageError: format, input and file contradict each other.
        UserError: a file is there already, the bundle is damaged, a package is missing, there are
            no such images, or the written file does not answer as the bundle does.
    """
    reporter = reporter or Reporter()
    path = run.find_bundle(model) if model else run.newest_run()
    to, chosen, file = formats.choose_format(to, output, input_name, path.parent)
    formats.check_installed(to)
    beside, about = file.with_name(f"{file.name}.py"), file.with_name(f"{file.name}.json")
    for wanted in (file, beside, *([about] if to == "state-dict" else [])):
        if wanted.exists():
            raise UserError(f"{wanted} is there already, and it is not overwritten", "use --output")
    network, meta = open_bundle(path)
    subject = Subject(meta, network, chosen)
    pictures = find_pictures(images, path.parent, meta.classes, reporter)
    parity = _write_checked(subject, to, file, pictures)
    reporter.note(
        f"checked on {parity.n} inputs: probabilities differ from the bundle's by at most "
        f"{parity.difference:.1e} (limit {LIMITS[chosen]:g}), {parity.same} of {parity.n} answers "
        "are the same"
    )
    write_text(beside, run_script(subject, to, file))
    if to == "state-dict":
        write_json(about, subject.about)
    _write_card(file.with_name(CARD), model_card(meta, run.read_run_json(path.parent)), reporter)
    return Export(file, beside, parity)


def _write_checked(subject: Subject, to: str, file: Path, pictures: list[Image.Image]) -> Parity:
    """The file, in place only once it was opened again and compared."""
    results: list[Parity] = []

    def write(part: Path) -> None:
        FORMATS[to].write(subject, part)
        results.append(check(subject, FORMATS[to].open(subject, part), pictures))

    write_atomic(file, write)
    return results[0]


def _write_card(path: Path, text: str, reporter: Reporter) -> None:
    """The card, unless there is one: it may have been edited."""
    if not path.exists():
        write_text(path, text)
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        reporter.note(f"{path} is there already and says something else: it is left as it is")


def find_pictures(
    images: Path | None, folder: Path, classes: Sequence[str], reporter: Reporter
) -> list[Image.Image]:
    """`PICTURES` RGB pictures: from `images`, else training images of the run in `folder`.

    Where those are gone, drawn ones serve, and it is said.

    Raises:
        UserError: there is none in `images` that can be read.
    """
    if images is not None:
        found = _some(find_images(images, set(), Counter()))
        if not found:
            raise UserError(f"--images {images}: there is no image in it that can be read")
        return found
    dataset = run.read_run_json(folder).get("dataset")
    root = dataset.get("root") if isinstance(dataset, dict) else None
    if isinstance(root, str) and (found := _some(_training_images(Path(root), classes))):
        return found
    gone = f"the training images ({printable(root)}) are not there" if root else "no run.json"
    reporter.note(f"{gone}, so the comparison is made on drawn flowers; --images DIR names others")
    sizes = ((320, 240), (240, 320), (256, 256), (500, 333))
    return [
        draw_flower(name, max(size), Random(name)).crop((0, 0, *size))
        for name, size in zip(FLOWERS, sizes, strict=False)
    ]


def _training_images(root: Path, classes: Sequence[str]) -> list[Path]:
    """Those that are still there, class by class."""
    try:
        train = root / "train" if (root / "train").is_dir() else root
        folders = [train / name for name in classes if (train / name).is_dir()]
        return [image for folder in folders for image in find_images(folder, set(), Counter())]
    except (OSError, UserError):  # another machine's path may lead to where nobody may look
        return []


def _some(paths: list[Path]) -> list[Image.Image]:
    """`PICTURES` from all over `paths`, fewer ones repeated; none where none can be read."""
    spread = [paths[i * len(paths) // PICTURES] for i in range(PICTURES)] if paths else []
    found: list[Image.Image] = []
    for path in [*spread, *paths]:
        if len(found) == PICTURES:
            break
        try:
            found.append(decode(path))
        except Unreadable:
            continue
    return list(islice(cycle(found), PICTURES))
