"""The contact sheet of `tlcli sample`: what it shows and what it refuses."""

import pytest
import torch
from PIL import Image

from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.loader import load_batches
from tlcli.data.preprocessing import Preprocessing, to_tensor


def test_a_contact_sheet_shows_every_class_plain_and_in_views(tlcli, flowers, tmp_path):
    odd = tmp_path / "data"
    for name, source in (("<b>[red]\n\u202ex", "rose"), ("b" * 200, "tulip")):
        (odd / name).mkdir(parents=True)
        for path in sorted((flowers / source).iterdir())[:3]:
            (odd / name / path.name).hardlink_to(path)
    sheet = tmp_path / "sheet.png"
    asked = ("--augment", "strong,mixup", "--views", "3", "-o", sheet)
    done = tlcli("sample", "--augmented", odd, *asked)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{sheet}\n"
    first = sheet.read_bytes()
    with Image.open(sheet) as image:
        assert image.width > 4 * 144
        assert image.height > 3 * 144
    again = tlcli("sample", "--augmented", odd, *asked)
    assert again.exit_code == 1
    assert "will not be overwritten" in again.stderr
    assert sheet.read_bytes() == first
    sheet.unlink()
    assert tlcli("sample", "--augmented", odd, *asked).exit_code == 0
    assert sheet.read_bytes() == first


def test_the_sheet_shows_the_views_of_training(flowers, tmp_path, monkeypatch):
    from tlcli.data.dataset import scan
    from tlcli.recipes import contact_sheet as sheet

    rows = []
    monkeypatch.setattr(
        sheet, "draw_grid", lambda _, given: rows.extend(given) or Image.new("L", (9, 9))
    )
    sheet.contact_sheet(flowers, tmp_path / "a.png", model="lenet5", seed=5)
    assert [row.name for row in rows] == ["daisy", "lavender", "rose", "sunflower", "tulip"]
    dataset = scan(flowers, seed=5)
    daisy = min((s for s in dataset.train if s.label == 0), key=lambda s: s.digest)
    pre = Preprocessing(32, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    light = make_augmentation(parse_augment("light"))
    keys = [f"5:{daisy.digest}:{number}" for number in (1, 2)]
    (batch,) = load_batches([daisy.path] * 2, pre, batch_size=2, augmentation=light, keys=keys)
    for number in (1, 2):
        assert torch.equal(to_tensor(rows[0].images[number]), batch[0][number - 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augment", "strong"], "--augment: only with --augmented"),
        (["--augmented", "--per-class", "3"], "--per-class: only without --augmented"),
        (["--augmented", "-o", "x.jpg"], "the sheet is a PNG"),
        (["--augmented", "--augment", "stong"], "strong"),
        (["--augmented", "--model", "vgg17"], "vgg16"),
    ],
)
def test_invalid_arguments_of_sample_are_refused(tlcli, flowers, arguments, message):
    done = tlcli("sample", flowers, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
