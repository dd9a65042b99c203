"""Batches: order, padding, unreadable files, views by key alone, bounded memory, and threads."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.fakes import noise_image
from tlcli.data.augmentation.apply import augment_image
from tlcli.data.augmentation.presets import PRESETS
from tlcli.data.augmentation.spec import Augmentation, make_augmentation, random_box
from tlcli.data.decode import decode
from tlcli.data.loader import find_unreadable, load_batches
from tlcli.data.preprocessing import Preprocessing
from tlcli.reporter import Reporter
from tlcli.runtime.threads import map_in_order

PRE = Preprocessing(40, 32, "bilinear", (0.5, 0.25, 1.0), (0.5, 0.5, 0.5))
LIGHT = make_augmentation(PRESETS["light"])
assert LIGHT is not None


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Make eleven images; the first ones are much larger, so they are decoded last."""
    made = []
    for index in range(11):
        size = (900, 700) if index < 3 else (50, 40 + index)
        rng = random.Random(index)
        image = Image.frombytes("RGB", (8, 8), rng.randbytes(192)).resize(size)
        made.append(tmp_path / f"{index}.png")
        image.save(made[-1])
    return made


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_batches_come_in_order_and_the_last_is_padded(paths: list[Path], workers: int) -> None:
    batches = list(load_batches(paths, PRE, batch_size=4, workers=workers))
    assert [len(problems) for _, problems in batches] == [4, 4, 3]
    assert all(images.shape == (4, 3, 32, 32) for images, _ in batches)
    assert all(images.dtype == torch.uint8 for images, _ in batches)
    rows = torch.cat([images for images, _ in batches])
    for row, path in zip(rows, paths, strict=False):
        assert torch.equal(row, PRE.to_pixels(decode(path)))
    assert rows[11].count_nonzero() == 0
    assert all(problem is None for _, problems in batches for problem in problems)


def test_an_unreadable_image_is_zeros_and_named(paths: list[Path]) -> None:
    paths[5].write_text("no picture")
    (images, problems), *_ = load_batches(paths[4:8], PRE, batch_size=4)
    assert [problem and problem.path for problem in problems] == [None, paths[5], None, None]
    assert images[1].count_nonzero() == 0
    assert torch.equal(images[2], PRE.to_pixels(decode(paths[6])))


def test_no_sources_give_no_batch() -> None:
    assert list(load_batches([], PRE, batch_size=4)) == []


def test_sources_may_be_bytes(paths: list[Path]) -> None:
    [(images, _)] = load_batches([paths[4].read_bytes()], PRE, batch_size=1)
    assert torch.equal(images[0], PRE.to_pixels(decode(paths[4])))


def test_views_depend_on_the_key_alone(paths: list[Path]) -> None:
    keys = [f"0/1/{index}" for index in range(11)]

    def views(workers: int, batch: int, picked: list[int]) -> torch.Tensor:
        batches = load_batches(
            [paths[i] for i in picked],
            PRE,
            batch_size=batch,
            augmentation=LIGHT,
            keys=[keys[i] for i in picked],
            workers=workers,
        )
        return torch.cat([images[: len(problems)] for images, problems in batches])

    random.seed(1)
    torch.manual_seed(1)
    first = views(1, 4, list(range(11)))
    random.seed(2)
    torch.manual_seed(2)
    assert torch.equal(first, views(6, 3, list(range(11))))
    assert torch.equal(first.flip(0), views(2, 4, list(range(11))[::-1]))
    other, _ = next(load_batches(paths, PRE, batch_size=11, augmentation=LIGHT, keys=["x"] * 11))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_keys_must_match(paths: list[Path]) -> None:
    with pytest.raises(ValueError, match="key"):
        load_batches(paths, PRE, batch_size=4, augmentation=LIGHT)
    with pytest.raises(ValueError, match="shorter"):
        list(load_batches(paths, PRE, batch_size=4, augmentation=LIGHT, keys=["a"]))


def test_sources_are_read_at_most_two_batches_ahead(paths: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield paths[5]

    batches = load_batches(endless(), PRE, batch_size=4)
    next(batches)
    assert taken <= 12
    before = threading.active_count()
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_find_unreadable_decodes_to_the_end(paths: list[Path]) -> None:
    calls = []
    reporter = Reporter()
    reporter.progress = lambda task, done, total: calls.append((task, done, total))  # type: ignore
    paths[0].write_bytes(paths[0].read_bytes()[:-2000])
    paths[7].write_bytes(b"")
    bad = find_unreadable(paths, reporter)
    assert list(bad) == [paths[0], paths[7]]
    assert "truncated" in bad[paths[0]]
    assert bad[paths[7]] == "the file is empty"
    assert calls == [("checking images", done, 11) for done in range(1, 12)]


def test_map_in_order_raises_when_the_item_is_due_and_stops() -> None:
    begun = []

    def slow(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ZeroDivisionError
        time.sleep(0.2 if item > 2 else 0)
        return item * item

    results = map_in_order(slow, range(1000), workers=2, ahead=8)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) <= 7  # of ten handed in


# --- augmentation


def test_a_view_without_randomness_is_the_resized_image() -> None:
    still = Augmentation(0, (1, 1), (1, 1), 0)
    view = augment_image(noise_image((64, 64)), PRE, still, random.Random(0))
    expected = noise_image((64, 64)).resize((32, 32), Image.Resampling.BILINEAR)
    assert bytes(view.permute(1, 2, 0).flatten().tolist()) == expected.tobytes()
    mirrored = augment_image(
        noise_image((64, 64)), PRE, Augmentation(1, (1, 1), (1, 1), 0), random.Random(0)
    )
    assert torch.equal(mirrored, view.flip(2))


def test_boxes_keep_to_the_scale_and_ratio_and_reach_everywhere() -> None:
    rng = random.Random(0)
    boxes = [random_box((300, 200), LIGHT.scale, LIGHT.ratio, rng) for _ in range(2000)]
    shares = [(r - l) * (b - t) / 60000 for l, t, r, b in boxes]  # noqa: E741
    ratios = [(r - l) / (b - t) for l, t, r, b in boxes]  # noqa: E741
    assert all(0 <= l < r <= 300 and 0 <= t < b <= 200 for l, t, r, b in boxes)  # noqa: E741
    assert 0.48 < min(shares) < 0.55
    assert max(shares) > 0.85
    assert 0.74 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.35
    assert min(box[0] for box in boxes) == 0
    assert max(box[2] for box in boxes) == 300


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (1, 1), (1, 500), (2, 3)])
def test_images_of_odd_sizes_have_views_too(size: tuple[int, int]) -> None:
    for seed in range(20):
        left, top, right, bottom = random_box(size, LIGHT.scale, LIGHT.ratio, random.Random(seed))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
    assert augment_image(noise_image(size), PRE, LIGHT, random.Random(0)).shape == (3, 32, 32)


def test_rotation_fills_corners_with_the_mean_color() -> None:
    turned = Augmentation(0, (1, 1), (1, 1), 45)
    white = Image.new("RGB", (64, 64), "white")
    corners = torch.stack(
        [augment_image(white, PRE, turned, random.Random(seed))[:, 0, 0] for seed in range(20)]
    )
    assert [128, 64, 255] in corners.tolist()


def test_flips_have_the_given_probability() -> None:
    half = Augmentation(0.5, (1, 1), (1, 1), 0)
    image = noise_image((32, 32))
    plain = PRE.to_pixels(image.resize((40, 40)))
    assert plain.shape == (3, 32, 32)
    views = [augment_image(image, PRE, half, random.Random(f"k{i}")) for i in range(200)]
    first = views[0]
    same = sum(torch.equal(view, first) for view in views)
    assert sum(torch.equal(view, first.flip(2)) for view in views) == 200 - same
    assert 70 < same < 130
