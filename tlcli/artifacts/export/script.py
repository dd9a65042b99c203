"""The script that lies beside an export: it shows how to use the file, and runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tlcli.artifacts.export.inputs import PIXELS
from tlcli.artifacts.export.source import ExportSource

_SCRIPT = '''\
"""Print the class of each image that is named, one JSON object per line.

Needs {needs} and Pillow.
"""

import json
import sys
from pathlib import Path

{imports}

FILE = Path(__file__).with_name({file!r})
{setup}

def pixels(path):
    """Return the image as uint8 [1, height, width, 3]."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
{resize}    return np.array(image)[None]


for path in sys.argv[1:]:
{predict}
    best = int(probabilities.argmax())
    prediction = {{"label": ABOUT["classes"][best], "probability": float(probabilities[best])}}
    print(json.dumps({{"path": path, **prediction}}))
'''

_RESIZE = """\
    pre = ABOUT["preprocessing"]
    size = [pre["resize"] * side // min(image.size) for side in image.size]
    image = image.resize(size, Image.Resampling[pre["interpolation"].upper()])
    left, top = (round((side - pre["crop"]) / 2) for side in size)
    image = image.crop((left, top, left + pre["crop"], top + pre["crop"]))
"""


@dataclass(frozen=True)
class ScriptParts:
    """The parts of the script beside an export that differ from format to format.

    Attributes:
        needs: packages that the script imports, beside Pillow, for a person.
        imports: import statements, in order.
        setup: statements that open FILE and set MODEL and ABOUT.
        predict: statements that set `probabilities` of the image at `path`.
    """

    needs: str
    imports: Sequence[str]
    setup: str
    predict: str


def make_script(source: ExportSource, parts: ScriptParts, file: Path) -> str:
    """Return the script for the export at `file`; it has to lie in the same folder."""
    return _SCRIPT.format(
        needs=parts.needs,
        imports="\n".join(parts.imports),
        file=file.name,
        setup=parts.setup,
        resize=_RESIZE if source.input == PIXELS else "",
        predict=parts.predict,
    )
