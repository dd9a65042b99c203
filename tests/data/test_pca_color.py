"""The PCA color shift: its statistics and where there are none."""

import random

import numpy
import pytest
from PIL import Image

from tlcli.data.augmentation.apply import augment_image
from tlcli.data.augmentation.pca_color import principal_colors
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import Sample
from tlcli.data.preprocessing import Preprocessing

PRE = Preprocessing(72, 64, "bilinear", (0.5, 0.25, 1.0), (0.5, 0.5, 0.5))


def saved(folder, pictures):
    samples = []
    for number, picture in enumerate(pictures):
        path = folder / f"{number}.png"
        picture.save(path)
        samples.append(Sample(path, 0, f"{number:04}"))
    return samples


def test_principal_colors_are_numpys_eigenvectors(tmp_path):
    draw = numpy.random.default_rng(0)
    mixed = draw.normal(size=(32 * 32 * 8, 3)) @ numpy.diag([40, 12, 3]) @ _turn() + 128
    pixels = mixed.clip(0, 255).astype("uint8").reshape(8, 32, 32, 3)
    samples = saved(tmp_path, [Image.fromarray(p) for p in pixels])
    found = numpy.array(principal_colors(samples))
    values, vectors = numpy.linalg.eigh(numpy.cov(pixels.reshape(-1, 3).T / 255, bias=True))
    for row, value, vector in zip(found, values[::-1], vectors.T[::-1], strict=True):
        assert numpy.linalg.norm(row) == pytest.approx(value, abs=3e-6)
        assert abs(row @ vector) == pytest.approx(value, abs=3e-6)
        assert row[numpy.abs(row).argmax()] > 0
    (tmp_path / "text.png").write_text("no picture")
    others = [*reversed(samples), Sample(tmp_path / "text.png", 0, "zzz")]
    assert principal_colors(others) == principal_colors(samples)


def _turn():
    return numpy.linalg.qr(numpy.array([[1.0, 1, 1], [1, -1, 0], [0, 1, 2]]))[0]


def test_without_images_or_colors_nothing_is_shifted(tmp_path):
    assert principal_colors([]) == ((0.0, 0.0, 0.0),) * 3
    black = saved(tmp_path, [Image.new("RGB", (8, 8))])
    assert principal_colors(black) == ((0.0, 0.0, 0.0),) * 3
    with pytest.raises(ValueError, match="principal colors"):
        augment_image(
            Image.new("RGB", (72, 72)),
            PRE,
            make_augmentation(parse_augment("pca")),
            random.Random(0),
        )
