"""Preprocessing equals torchvision's, and invalid values of a damaged bundle are refused."""

import json
import time
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import functional

from tests.fakes import noise_image
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
USUAL = Preprocessing(256, 224, "bilinear", MEAN, STD)
ENTRIES = [
    "ResNet18_Weights.IMAGENET1K_V1",  # 256, 224, bilinear
    "Inception_V3_Weights.IMAGENET1K_V1",  # 342, 299, bilinear
    "EfficientNet_B0_Weights.IMAGENET1K_V1",  # 256, 224, bicubic
    "EfficientNet_B1_Weights.IMAGENET1K_V2",  # 255, 240, bilinear
    "Swin_S_Weights.IMAGENET1K_V1",  # 246, 224, bicubic
    "ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1",  # 518, 518, bicubic
]
SIZES = [
    (500, 333), (333, 500), (256, 256), (255, 257), (224, 224), (37, 41), (1, 1), (7, 1),
    (1023, 256), (256, 1023), (640, 21), (19, 601), (3, 90),
]  # fmt: skip


def of(entry: str) -> tuple[Preprocessing, Any]:
    theirs = torchvision.models.get_weight(entry).transforms()
    ours = Preprocessing(
        theirs.resize_size[0],
        theirs.crop_size[0],
        theirs.interpolation.value,
        tuple(theirs.mean),
        tuple(theirs.std),
    )
    return ours, theirs


@pytest.mark.parametrize("entry", ENTRIES)
def test_equals_torchvision_bit_for_bit(entry: str) -> None:
    ours, theirs = of(entry)
    for size in SIZES if ours.resize < 500 else SIZES[:3]:
        image = noise_image(size)
        fitted = ours.to_pixels(image)
        assert fitted.shape == (3, ours.crop, ours.crop)
        assert fitted.dtype == torch.uint8
        assert fitted.is_contiguous()
        assert torch.equal(ours.normalize(fitted[None])[0], theirs(image)), (entry, size)


@pytest.mark.parametrize("size", [(2000, 31), (31, 2001), (5000, 40), (3, 1000)])
def test_a_very_long_image_shows_the_same_middle(size: tuple[int, int]) -> None:
    # smooth, so that a shift shows as a difference and rounding does not
    image = noise_image((9, 9)).resize(size, Image.Resampling.BICUBIC)
    resized = functional.resize(image, [USUAL.resize], antialias=True)
    theirs = functional.pil_to_tensor(functional.center_crop(resized, [224, 224]))
    difference = (USUAL.to_pixels(image).int() - theirs.int()).abs()
    assert difference.max() <= 3


def test_an_endless_strip_takes_neither_memory_nor_time() -> None:
    start = time.perf_counter()
    assert USUAL.to_pixels(Image.new("RGB", (3_000_000, 1), (9, 8, 7))).shape == (3, 224, 224)
    assert USUAL.to_pixels(Image.new("RGB", (1, 3_000_000), (9, 8, 7))).shape == (3, 224, 224)
    assert time.perf_counter() - start < 2


def test_normalize_takes_a_batch_and_does_not_change_it() -> None:
    batch = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    before = batch.clone()
    out = USUAL.normalize(batch)
    assert out.shape == (4, 3, 5, 6)
    assert out.dtype == torch.float32
    assert torch.equal(batch, before)
    expected = (batch[2, 1, 3, 4].item() / 255 - MEAN[1]) / STD[1]
    assert out[2, 1, 3, 4].item() == pytest.approx(expected, abs=1e-6)


def test_survives_json() -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(USUAL.to_dict()))) == USUAL


@pytest.mark.parametrize(
    "change",
    [
        {"resize": "256"}, {"resize": 256.0}, {"resize": True, "crop": True},
        {"resize": 100}, {"crop": 0}, {"crop": -1},
        {"resize": 10**9, "crop": 224}, {"interpolation": "nearest"},
        {"interpolation": None}, {"interpolation": ["bilinear"]}, {"mean": [0.5, 0.5]},
        {"mean": "abc"}, {"mean": [0.5, 0.5, "x"]}, {"mean": [0.5, 0.5, float("nan")]},
        {"std": [1, 1, 0]}, {"std": [1, 1, -1]}, {"std": [1, 1, float("inf")]}, {"extra": 1},
    ],
)  # fmt: skip
def test_damaged_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="preprocessing is not valid") as caught:
        Preprocessing.from_dict(USUAL.to_dict() | change)
    assert caught.value.hint


@pytest.mark.parametrize("values", [None, [], "x", {}, {"resize": 256}])
def test_values_that_are_no_preprocessing_are_refused(values: object) -> None:
    with pytest.raises(UserError, match="its fields must be"):
        Preprocessing.from_dict(values)
