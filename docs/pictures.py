"""Draws the pictures of docs/augmentation.md: `python -m docs.pictures`.

Of the flowers that tlcli itself draws, so that nobody's photographs are needed.
"""

import random
import tempfile
from pathlib import Path

import torch
from PIL import Image

from tlcli.artifacts.image_grid import GridRow, draw_grid
from tlcli.backbones import catalogue
from tlcli.backbones.weights import native_preprocessing
from tlcli.data.augmentation.apply import augment_image
from tlcli.data.augmentation.mixup import MIXING, make_mixing
from tlcli.data.augmentation.pca_color import principal_colors
from tlcli.data.augmentation.presets import PRESETS, TRANSFORMS, parse
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import scan
from tlcli.data.drawings.sample import draw_flower, draw_sample
from tlcli.recipes.contact_sheet import contact_sheet, mixed_row, picture

IMAGES = Path(__file__).parent / "images"
QUALITY = 82
VIEWS = 7
STRONGER = {"pca": 1, "mixup": 1, "hue": 0.1, "grey": 0.5, "erase": 0.7}
"""Strengths other than the usual ones, so that a few views show what happens."""


def transforms(flowers: Path) -> Image.Image:
    """A row for each transform alone."""
    pre = native_preprocessing(catalogue.find_entry(catalogue.DEFAULT_MODEL))
    colours = principal_colors(scan(flowers).train)
    sunflower = draw_flower("sunflower", 320, random.Random(5))
    others = [draw_flower(name, 320, random.Random(3)) for name in ("rose", "tulip", "daisy")]
    plain = [pre.fit(image) for image in (sunflower, *others)]
    rows = []
    for name, of in TRANSFORMS.items():
        text = f"{name}={STRONGER.get(name, of.usual):g}"
        if name in MIXING:
            classes = ["sunflower", "rose", "tulip", "daisy"]
            batch = torch.stack(plain), torch.arange(4)
            mixed = mixed_row(*batch, classes, make_mixing(parse(text)), 4, VIEWS)
            rows.append(GridRow(text, mixed.pictures, mixed.captions))
            continue
        aug = make_augmentation(parse(text), colours)
        draws = [random.Random(f"{name} {i}") for i in range(VIEWS)]
        views = [picture(augment_image(sunflower, pre, aug, rng)) for rng in draws]
        rows.append(GridRow(text, views))
    return draw_grid("each transform alone, seven views of one image", rows, tile=100)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        flowers = Path(folder, "flowers")
        draw_sample(flowers, per_class=20, size=320)
        pictures = {"transforms": transforms(flowers)}
        for preset in PRESETS:
            if preset != "none":
                sheet = contact_sheet(flowers, Path(folder, f"{preset}.png"), augment=preset)
                pictures[preset] = Image.open(sheet).convert("RGB")
    for name, image in pictures.items():
        path = IMAGES / f"augment-{name}.jpg"
        image.save(path, quality=QUALITY, optimize=True)
        print(f"{path.relative_to(IMAGES.parent.parent)}: {path.stat().st_size // 1000} KB")


if __name__ == "__main__":
    main()
