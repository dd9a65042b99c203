"""Views of an image: their ids and seeds, which caches of earlier versions hold."""

import hashlib
from pathlib import Path

from tlcli.data.augmentation.presets import PRESETS
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import Sample
from tlcli.features.views import PLAIN_VIEW_ONLY, PlannedViews, Views

SAMPLE = Sample(Path("rose.jpg"), 0, "ab12")


def sha256(text):
    return hashlib.sha256(text.encode()).digest()


def test_ids_and_seeds_of_views_do_not_change():
    augmentation = make_augmentation(PRESETS["light"])
    views = Views(2, augmentation, seed=3)
    assert views.view_id(SAMPLE, 0) == PLAIN_VIEW_ONLY.view_id(SAMPLE, 0) == sha256("ab12\0plain")
    assert views.view_id(SAMPLE, 1) == sha256(f"ab12\0{augmentation}:3:1")
    assert [views.view_key(SAMPLE, view) for view in (0, 1)] == ["", "3:ab12:1"]


def test_the_number_of_views_may_change_during_a_pass():
    views = Views(3, make_augmentation(PRESETS["light"]))
    planned = PlannedViews([SAMPLE] * 3, views, lambda seconds: 1 if seconds else 2)
    keys = planned.keys()
    assert next(keys) == ["", "0:ab12:1"]
    planned.view_seconds = 1.0
    assert list(keys) == [[""], [""]]
    assert planned.images_done == [0, 1, 2, 3]
    assert planned.row_ids == [views.view_id(SAMPLE, view) for view in (0, 1, 0, 0)]
    assert list(PlannedViews([SAMPLE], views, None).keys()) == [["", "0:ab12:1", "0:ab12:2"]]
