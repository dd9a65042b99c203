"""The catalogue of backbones equals torchvision's metadata and needs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from tests.backbones import make_catalogue
from tlcli.backbones import catalogue
from tlcli.backbones.families import FAMILIES
from tlcli.errors import UsageError


def test_covers_torchvision_and_own_models_exactly() -> None:
    published = set(torchvision.models.list_models(module=torchvision.models))
    own = {name for family in FAMILIES.values() for name in family.own}
    assert not published & own
    assert set(catalogue.catalogue()) == published | own, "add the new models' families"


def test_file_is_what_make_catalogue_writes() -> None:
    written = json.loads(make_catalogue.CATALOGUE.read_text(encoding="utf-8"))
    assert written == make_catalogue.rows(), "run `python -m tests.backbones.make_catalogue`"


def test_every_family_is_known_and_used() -> None:
    assert {entry.family for entry in catalogue.catalogue().values()} == set(FAMILIES)


def test_answers_without_torch() -> None:
    code = (
        "import sys; from tlcli.backbones import catalogue as c; "
        "c.at_hand(c.find_entry(c.DEFAULT_MODEL)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_unknown_name_suggests_close_ones() -> None:
    with pytest.raises(UsageError, match="'resnet51'") as error:
        catalogue.find_entry("resnet51")
    assert "resnet50" in error.value.hint


def test_checkpoint_dir_is_torch_hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variables in (
        {"TORCH_HOME": str(tmp_path)},
        {"XDG_CACHE_HOME": str(tmp_path)},
        {"TORCH_HOME": "~/somewhere"},
        {},
    ):
        with monkeypatch.context() as patch:
            patch.delenv("TORCH_HOME", raising=False)
            patch.delenv("XDG_CACHE_HOME", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            assert str(catalogue.checkpoint_dir()) == torch.hub.get_dir() + "/checkpoints"


def test_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    resnet = catalogue.find_entry("resnet18")
    assert catalogue.at_hand(catalogue.find_entry("efficientnet_lite0"))  # comes with the package
    assert catalogue.at_hand(catalogue.find_entry("lenet5"))  # needs nothing
    assert not catalogue.at_hand(resnet)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / str(resnet.file)).touch()
    assert catalogue.at_hand(resnet)
