"""The description of a bundle: its JSON, and what earlier formats lack."""

import json
from dataclasses import replace

import pytest

from tests.artifacts.exported import save_network
from tlcli.artifacts.bundle import Ancestor, BundleMeta, read_meta
from tlcli.inference.load import open_bundle
from tlcli.metrics.metrics import Calibration, Metrics

KEYS = {
    *("ancestor", "backbone", "calibration", "classes", "cut", "dataset", "dropped", "ends"),
    *("format", "metrics", "novelty", "plan", "preprocessing", "seed", "versions", "weights"),
}


@pytest.fixture(scope="module")
def meta(tmp_path_factory):
    """The description of a truncated network."""
    path = tmp_path_factory.mktemp("bundle") / "model.safetensors"
    return read_meta(save_network(path, "lenet5", cut="features.3", dropped=True))


def test_the_description_comes_back_from_its_json(meta):
    full = replace(
        meta,
        metrics=Metrics(n=1, top1=1.0),
        calibration=Calibration(1.5, "5-fold", 40),
        ancestor=Ancestor("run/model.safetensors", "abc", "none"),
    )
    text = full.to_json()
    assert BundleMeta.from_json(text) == full
    content = json.loads(text)
    assert list(content) == sorted(KEYS)
    assert (content["format"], content["dropped"], content["ends"]) == (3, True, "features.3")
    assert content["calibration"] == {"temperature": 1.5, "method": "5-fold", "n": 40}
    assert content["ancestor"] == {
        "name": "run/model.safetensors", "sha256": "abc", "weights": "none",
    }  # fmt: skip


def test_nothing_measured_is_an_empty_object(meta):
    content = json.loads(meta.to_json())
    assert (content["metrics"], content["calibration"], content["novelty"]) == ({}, None, None)
    assert meta.metrics is None
    assert meta.temperature == 1


@pytest.mark.parametrize(
    ("version", "lacking"), [(1, ("novelty", "ends", "ancestor")), (2, ("ends", "ancestor"))]
)
def test_earlier_formats_are_read(meta, version, lacking):
    content = json.loads(meta.to_json())
    content["format"] = version
    for key in lacking:
        del content[key]
    assert BundleMeta.from_json(json.dumps(content)) == meta


@pytest.mark.parametrize(
    "damage",
    [
        {"dropped": False},
        {"ends": 3},
        {"metrics": None},
        {"seed": "0"},
        {"versions": []},
        {"ancestor": "x"},
        {"classes": ["a", "a"]},
    ],
)
def test_a_damaged_description_is_refused(meta, damage):
    with pytest.raises(ValueError, match=r"ends|metrics|seed|versions|ancestor|classes|same name"):
        BundleMeta.from_json(json.dumps(json.loads(meta.to_json()) | damage))


def test_a_network_without_its_last_stages_is_opened(tmp_path):
    path = save_network(tmp_path / "model.safetensors", "lenet5", cut="features.3", dropped=True)
    network, meta = open_bundle(path)
    assert meta.dropped
    assert network.stages[-1].name == "new_head"
