"""The pictures of docs/augmentation.md: `python -m docs.pictures` draws them.

They show the flowers that tlcli itself draws, so that no photographs are needed.
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
from tlcli.data.augmentation.mixup import make_mixing
from tlcli.data.augmentation.pca_color import principal_colors
from tlcli.data.augmentation.presets import PRESETS, TRANSFORMS, parse_augment
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import scan
from tlcli.data.drawings.sample import draw_flower, draw_sample
from tlcli.recipes.contact_sheet import contact_sheet, mixed_row, picture

FOLDER = Path(__file__).parent / "images"
JPEG_QUALITY = 82
N_VIEWS = 7
"""Views of the same image in each row."""
VISIBLE_STRENGTHS = {"pca": 1, "mixup": 1, "hue": 0.1, "grey": 0.5, "erase": 0.7}
"""Strengths above the usual ones, so that a few views show the effect."""


def draw_transforms(flowers: Path) -> Image.Image:
    """Draw one row of views for each transform alone."""
    pre = native_preprocessing(catalogue.find_entry(catalogue.DEFAULT_MODEL))
    colors = principal_colors(scan(flowers).train)
    sunflower = draw_flower("sunflower", 320, random.Random(5))
    others = [draw_flower(name, 320, random.Random(3)) for name in ("rose", "tulip", "daisy")]
    plain = torch.stack([pre.to_pixels(image) for image in (sunflower, *others)])
    classes = ["sunflower", "rose", "tulip", "daisy"]
    rows = []
    for name, transform in TRANSFORMS.items():
        text = f"{name}={VISIBLE_STRENGTHS.get(name, transform.default):g}"
        strengths = parse_augment(text)
        mixing, augmentation = make_mixing(strengths), make_augmentation(strengths, colors)
        if mixing:
            mixed = mixed_row(plain, torch.arange(4), classes, mixing, 4, N_VIEWS)
            rows.append(GridRow(text, mixed.images, mixed.captions))
        elif augmentation:
            draws = [random.Random(f"{name} {i}") for i in range(N_VIEWS)]
            views = [picture(augment_image(sunflower, pre, augmentation, rng)) for rng in draws]
            rows.append(GridRow(text, views))
    return draw_grid("each transform alone, seven views of one image", rows, tile=100)


def main() -> None:
    """Draw every picture and write it below docs/images/."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        flowers = Path(folder, "flowers")
        draw_sample(flowers, per_class=20, size=320)
        pictures = {"transforms": draw_transforms(flowers)}
        for preset in PRESETS:
            if preset != "none":
                sheet = contact_sheet(flowers, Path(folder, f"{preset}.png"), augment=preset)
                pictures[preset] = Image.open(sheet).convert("RGB")
    for name, image in pictures.items():
        path = FOLDER / f"augment-{name}.jpg"
        image.save(path, quality=JPEG_QUALITY, optimize=True)
        print(f"{path.relative_to(FOLDER.parent.parent)}: {path.stat().st_size // 1000} KB")


if __name__ == "__main__":
    main()
