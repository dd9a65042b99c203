"""Fixtures for exports: a small bundle, images, and scripts that run in this process."""

import json
import runpy
import sys

import pytest

from tlcli.recipes.finetune import finetune


@pytest.fixture(scope="module")
def small(tmp_path_factory, flowers):
    """Train a network that is small enough for every kind of export to take a moment."""
    folder = tmp_path_factory.mktemp("small") / "run"
    return finetune(flowers, model="lenet5", epochs=2, output=folder).bundle


@pytest.fixture(scope="module")
def pictures(flowers):
    """Return the paths of a few drawn flowers."""
    return sorted(flowers.glob("*/*.jpg"))[::8]


@pytest.fixture
def predictions_here(monkeypatch, capsys):
    """Return a function that runs a script in this process, where torch is already imported."""

    def run(script, *images):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, images)])
        capsys.readouterr()
        runpy.run_path(str(script))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run
