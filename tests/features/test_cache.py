"""The feature cache: no feature computed twice, no file half written, no more than the limit."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.fakes import RecordingReporter
from tlcli.data.dataset import scan
from tlcli.data.drawings.sample import draw_sample
from tlcli.features import cache_table
from tlcli.features.cache import FeatureCache, default_cache_dir
from tlcli.features.cache_table import row_id
from tlcli.features.extract import FeatureExtractor, extract_features
from tlcli.features.views import Views


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "features", reporter=RecordingReporter())


def rows(start, n):
    return [row_id(f"image{i}", "plain") for i in range(start, start + n)]


def test_rows_come_back_as_they_were_in_any_order(cache):
    values = torch.randn(7, 3, 2)
    table = cache.table({"cut": "a"})
    table.add(rows(0, 4), values[:4])
    table.flush()
    table.add(rows(4, 3), values[4:])
    table.flush()
    again = cache.table({"cut": "a"})
    order = [6, 0, 3, 5]
    assert torch.equal(again.fetch([rows(0, 7)[i] for i in order]), values[order])
    assert rows(7, 1)[0] not in again
    assert rows(0, 1)[0] not in cache.table({"cut": "b"})


def test_rows_that_are_not_yet_written_can_be_fetched(cache):
    table = cache.table({"cut": "a"})
    table.add(rows(0, 2), torch.ones(2, 3))
    assert not list(cache.folder.glob("*/*.npy"))
    assert torch.equal(table.fetch(rows(0, 2)), torch.ones(2, 3))


def test_the_same_image_twice_is_one_row_and_moves_no_other(cache):
    values = torch.randn(5, 3)
    names = rows(0, 3)
    table = cache.table({"cut": "a"})
    table.add([names[0], names[0], names[1]], values[:3])
    table.flush()
    table.add([names[1], names[2]], values[3:])
    table.flush()
    for there in (table, cache.table({"cut": "a"})):
        assert torch.equal(there.fetch(names), values[[0, 2, 4]])
    assert cache.entries()[0]["images"] == 3


def test_long_passes_write_segments_on_the_way(cache, monkeypatch):
    monkeypatch.setattr(cache_table, "SEGMENT_BYTES", 1280)
    table = cache.table({"cut": "a"})
    for start in range(0, 100, 10):
        table.add(rows(start, 10), torch.ones(10, 16))
    assert len(list(cache.folder.glob("*/*.npy"))) == 5


def test_two_writers_do_not_disturb_each_other(cache):
    one, two = cache.table({"cut": "a"}), cache.table({"cut": "a"})
    one.add(rows(0, 3), torch.zeros(3, 2))
    two.add(rows(2, 3), torch.ones(3, 2))
    one.flush()
    two.flush()
    both = cache.table({"cut": "a"})
    assert both.fetch(rows(0, 5))[:, 0].tolist()[:2] == [0, 0]
    assert both.fetch(rows(0, 5))[:, 0].tolist()[3:] == [1, 1]


def test_a_killed_writer_leaves_no_segment(cache, tmp_path):
    code = f"""
import os, torch, numpy
from pathlib import Path
from tlcli.features.cache import FeatureCache
from tlcli.features.cache_table import row_id
cache = FeatureCache(Path({str(tmp_path / "features")!r}))
table = cache.table({{"cut": "a"}})
def save(file, rows):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
numpy.save = save
table.add([row_id("image0", "plain")], torch.ones(1, 4))
table.flush()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    left = list(cache.folder.glob("*/.*.part"))
    assert len(left) == 1
    table = cache.table({"cut": "a"})
    assert rows(0, 1)[0] not in table
    os.utime(left[0], (1, 1))
    cache.trim()
    assert not left[0].exists()


def test_a_damaged_segment_is_computed_again(cache):
    table = cache.table({"cut": "a"})
    table.add(rows(0, 3), torch.ones(3, 2))
    table.flush()
    path = next(cache.folder.glob("*/*.npy"))
    path.write_bytes(path.read_bytes()[:-5])
    assert rows(0, 1)[0] not in cache.table({"cut": "a"})
    np.save(path, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    assert rows(0, 1)[0] not in cache.table({"cut": "a"})


def test_an_empty_file_is_no_segment(cache):
    table = cache.table({"cut": "a"})
    table.add(rows(0, 2), torch.ones(2, 3))
    table.flush()
    (table.folder / "zzz.npy").touch()
    assert torch.equal(cache.table({"cut": "a"}).fetch(rows(0, 2)), torch.ones(2, 3))


def test_the_least_recently_used_segments_are_trimmed_first(cache):
    for number in range(4):
        table = cache.table({"cut": "a"})
        table.add(rows(number, 1), torch.ones(1, 1000))
        table.flush()
        path = table.paths[-1]
        os.utime(path, (1000 + number, 1000 + number))
    cache.table({"cut": "a"}).fetch(rows(0, 1))
    cache.limit = 9000  # two segments of about 4,200 bytes
    freed = cache.trim()
    left = cache.table({"cut": "a"})
    assert freed > 8000
    assert [r in left for r in rows(0, 4)] == [True, False, False, True]


def test_an_unwritable_folder_disables_the_cache_and_not_the_run(tmp_path):
    (tmp_path / "features").write_text("a file, not a folder")
    cache = FeatureCache(tmp_path / "features", reporter=RecordingReporter())
    table = cache.table({"cut": "a"})
    table.add(rows(0, 2), torch.ones(2, 3))
    table.flush()
    assert torch.equal(table.fetch(rows(0, 2)), torch.ones(2, 3))
    assert len(cache.reporter.warnings) == 1
    assert "continuing without it" in cache.reporter.warnings[0]


def test_clear_and_show(tlcli, tmp_path, monkeypatch):
    monkeypatch.setenv("TLCLI_CACHE", str(tmp_path))
    cache = FeatureCache(default_cache_dir())
    table = cache.table({"cut": "layer1", "backbone": "resnet18", "weights": "abc"})
    table.add(rows(0, 3), torch.ones(3, 5))
    table.flush()
    shown = tlcli("cache", "--format", "json")
    assert '"backbone": "resnet18"' in shown.stdout
    assert '"images": 3' in shown.stdout
    assert str(tmp_path) in shown.stderr
    assert "freed " in tlcli("cache", "--clear").stderr
    assert tlcli("cache", "--format", "json").stdout.strip() == "[]"
    assert not list(tmp_path.glob("features/*"))


@pytest.fixture
def counted(monkeypatch):
    """Return the batch sizes that went through a feature extractor."""
    seen = []
    call = FeatureExtractor.__call__

    def counting(self, images):
        seen.append(len(images))
        return call(self, images)

    monkeypatch.setattr(FeatureExtractor, "__call__", counting)
    return seen


def make_extractor(origin="abc", **more):
    from torch import nn

    from tlcli.backbones.stages import Stage
    from tlcli.data.preprocessing import Preprocessing
    from tlcli.runtime.device import choose_device

    torch.manual_seed(0)
    stages = nn.Sequential(Stage("one", "features", [nn.Conv2d(3, 4, 3, 8), nn.Flatten()]))
    given = {"resize": 40, "crop": 32, "interpolation": "bilinear"} | more
    pre = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, **given)
    return FeatureExtractor(
        stages, pre, choose_device("cpu"), origin={"backbone": "x", "weights": origin}
    )


def get(folder, cache, extractor=None, **more):
    dataset = scan(folder)
    samples = [*dataset.train, *dataset.val]
    extractor = extractor or make_extractor()
    return extract_features(
        samples, extractor, task="x", cache=cache, reporter=RecordingReporter(), **more
    )[0], samples


def test_only_new_images_are_computed(tmp_path, cache, counted):
    folder = tmp_path / "flowers"
    draw_sample(folder, per_class=4)
    first, _ = get(folder, cache)
    assert sum(counted) == 32  # one padded batch of 20
    counted.clear()
    again, _ = get(folder, cache)
    assert torch.equal(first, again)
    assert counted == []

    # A moved image is found; a changed one is computed again.
    (folder / "moved").mkdir()
    one, two = sorted(p for p in folder.rglob("*") if p.is_file())[:2]
    one.rename(folder / "moved" / one.name)
    two.write_bytes(two.read_bytes() + b"changed")
    features, _ = get(folder, cache)
    assert len(counted) == 1
    plain, _ = get(folder, None)
    assert torch.equal(features, plain)


@pytest.mark.parametrize(
    "other",
    [{"origin": "other weights"}, {"resize": 36}, {"interpolation": "bicubic"}],
)
def test_other_weights_or_preprocessing_give_other_features(tmp_path, cache, counted, other):
    folder = tmp_path / "flowers"
    draw_sample(folder, per_class=2)
    get(folder, cache)
    counted.clear()
    get(folder, cache, make_extractor(**other))
    assert len(counted) == 1


def test_each_view_and_seed_has_its_own_row(tmp_path, cache, counted):
    from tlcli.data.augmentation.presets import PRESETS
    from tlcli.data.augmentation.spec import make_augmentation

    folder = tmp_path / "flowers"
    draw_sample(folder, per_class=2)
    light = make_augmentation(PRESETS["light"])
    get(folder, cache)
    counted.clear()
    two, _ = get(folder, cache, views=Views(2, light))
    assert len(counted) == 1  # the plain view was there
    three, _ = get(folder, cache, views=Views(3, light))
    assert len(counted) == 2
    assert torch.equal(three[:, :2], two)
    other, _ = get(folder, cache, views=Views(2, light, seed=1))
    assert len(counted) == 3
    assert torch.equal(other[:, 0], two[:, 0])
    assert not torch.equal(other[:, 1], two[:, 1])


def test_a_thousand_rows_are_read_within_a_second(cache):
    table = cache.table({"cut": "a"})
    table.add(rows(0, 1000), torch.ones(1000, 1280))
    table.flush()
    started = time.perf_counter()
    cache.table({"cut": "a"}).fetch(rows(0, 1000))
    assert time.perf_counter() - started < 1
