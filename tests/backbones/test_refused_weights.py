"""Weight files that are refused: foreign, damaged and dangerous ones."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.backbones.weight_files import SMALL, saved
from tlcli.backbones.build import load_backbone
from tlcli.errors import UsageError, UserError


def refused(path: Path | str, name: str = SMALL) -> str:
    with pytest.raises(UserError) as error:
        load_backbone(name, str(path))
    assert Path(path).name in error.value.message
    assert error.value.hint
    return error.value.message


def test_another_models_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(state, tmp_path / "own.pth")
    message = refused(path, "resnet18")
    assert "are not for resnet18: conv1.weight is missing" in message
    assert message.endswith(" more")
    wide = dict(state)
    wide["features.0.weight"] = torch.ones(64, 3, 5, 5)
    assert "size mismatch for features.0.weight" in refused(saved(wide, tmp_path / "wide.pth"))
    assert "extra.weight is unknown" in refused(
        saved(state | {"extra.weight": torch.ones(1)}, tmp_path / "extra.pth")
    )


def test_truncated(state: dict[str, Tensor], tmp_path: Path) -> None:
    saved(state, tmp_path / "full.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "full.safetensors")
    for full in ("full.pth", "old.pth", "full.safetensors"):
        content = (tmp_path / full).read_bytes()
        for size in (0, 1, 100, len(content) // 2, len(content) - 1):
            cut = tmp_path / f"cut-{full}"
            cut.write_bytes(content[:size])
            assert "is damaged or contains no weights" in refused(cut)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(tmp_path / "harmed"),)

    for number, content in enumerate((Attack(), {"state_dict": Attack()})):
        path = tmp_path / f"attack{number}.pth"
        torch.save(content, path)
        assert "contains Python objects (posix.mkdir)" in refused(path)
        path.write_bytes(pickle.dumps(content, protocol=2))
        refused(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer"),
    ],
)
def test_other_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(content)
    assert message in refused(tmp_path / "own.pth")


def test_other_content(tmp_path: Path) -> None:
    assert "contains list, not named tensors" in refused(saved([1], tmp_path / "list.pth"))
    assert "contains int under 'epoch'" in refused(saved({"epoch": 1}, tmp_path / "epoch.pth"))
    assert "contains dict, not named tensors" in refused(saved({}, tmp_path / "empty.pth"))


def test_neither_file_nor_entry(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file, and resnet50 has no weights") as error:
        load_backbone("resnet50", "IMAGENET1K_V3")
    assert "IMAGENET1K_V2" in error.value.hint.upper()
    with pytest.raises(UsageError, match="no such file"):
        load_backbone("resnet50", str(tmp_path / "missing.pth"))
