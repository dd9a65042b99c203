"""Bundles to export, and the predictions of exports."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tlcli.artifacts import bundle
from tlcli.backbones.build import build
from tlcli.backbones.network import build_network
from tlcli.inference.load import load

HOSTILE = ("<script>alert(1)</script>", "a|b `c` *d* [e](http://f)", "g\n# h\x1b[31m")


def save_network(path, name, *, cut="none", dropped=False, **changes):
    """Write a bundle of an untrained network."""
    torch.manual_seed(0)
    classes = changes.pop("classes", ("a", "b", "c"))
    network = build_network(build(name), cut=cut, dropped=dropped, n_classes=len(classes))
    torch.nn.init.normal_(network.final_layer.weight)
    meta = bundle.BundleMeta(
        backbone=name, cut=cut, truncated_after=cut if dropped else None, classes=classes,
        preprocessing=network.backbone.preprocessing, plan={}, metrics=None, dataset="", seed=0,
        versions={}, weights="none",
    )  # fmt: skip
    bundle.save_bundle(path, network.tensors(), replace(meta, **changes))
    return path


def predictions_of(script, *images, cwd):
    """Run a stored script in a new process outside the repository; return its predictions."""
    done = subprocess.run(
        [sys.executable, script, *images], cwd=cwd, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def agree(predictions, model, images, limit):
    """Check that an export predicts what its bundle predicts."""
    expected = load(model).predict(images)
    assert [p["path"] for p in predictions] == [str(i) for i in images]
    assert [p["label"] for p in predictions] == [e.label for e in expected]
    for p, e in zip(predictions, expected, strict=True):
        assert p["probability"] == pytest.approx(e.probability, abs=limit)
