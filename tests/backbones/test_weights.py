"""Loading weight files: real, old and published ones, and those of the package."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.backbones.weight_files import SMALL, saved
from tlcli.backbones import weights
from tlcli.backbones.build import build, load_backbone
from tlcli.backbones.catalogue import catalogue, find_entry
from tlcli.backbones.families import find_family
from tlcli.backbones.family import PublishedWeights
from tlcli.backbones.state_dict import with_version
from tlcli.data.decode import decode
from tlcli.data.preprocessing import Preprocessing
from tlcli.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    loaded = model.state_dict()
    return all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


# real files


def test_shared_mobilenet(shared: Path) -> None:
    backbone = load_backbone(
        "mobilenet_v2", str(shared / "weights" / "mobilenet_v2-tf-imagenet.pth")
    )
    assert backbone.pretrained == len(backbone.stages)
    assert backbone.weights == "mobilenet_v2-tf-imagenet.pth"
    # of a file of unknown origin torchvision's first entry is believed, not its newest
    assert backbone.preprocessing == Preprocessing(256, 224, "bilinear", *IMAGENET)
    assert backbone.notes == []
    assert count_correct(backbone, shared, 25) >= 17


def test_shared_squeezenet(shared: Path) -> None:
    backbone = load_backbone(SMALL, str(shared / "weights" / "squeezenet1_1-caffe-imagenet.pth"))
    assert backbone.pretrained == len(backbone.stages)
    assert backbone.categories is not None
    assert backbone.categories[:2] == ("tench", "goldfish")


def test_shared_vgg16_has_no_classifier(shared: Path) -> None:
    path = shared / "weights" / "vgg16_features-keras-imagenet.pth"
    backbone = load_backbone("vgg16", str(path))
    assert backbone.stages[backbone.pretrained :] == backbone.classifier
    assert [s.name for s in backbone.classifier] == ["classifier.0", "classifier.3", "head"]
    assert "classifier.0, classifier.3, head" in backbone.notes[0]
    assert backbone.categories is None
    assert backbone.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    # stored in half precision
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    assert 0 < backbone.model.get_parameter("classifier.0.weight").std() < 0.1


def count_correct(backbone, shared: Path, n: int) -> int:
    """Count the correct predictions for `n` ImageNet samples, spread over the classes."""
    files = sorted((shared / "data" / "imagenet-samples").glob("*.*"))
    files = [f for f in files if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
    chosen = range(0, 1000, 1000 // n)
    pixels = torch.stack([backbone.preprocessing.to_pixels(decode(files[i])) for i in chosen])
    with torch.inference_mode():
        logits = backbone.model.eval()(backbone.preprocessing.normalize(pixels))
    return int((logits.argmax(1) == torch.tensor(chosen)).sum())


def test_lite0_is_right_about_imagenet(shared: Path) -> None:
    assert count_correct(load_backbone("efficientnet_lite0"), shared, 25) >= 17


@pytest.mark.slow
def test_lite0_on_all_samples(shared: Path) -> None:
    assert count_correct(load_backbone("efficientnet_lite0"), shared, 1000) >= 850


def test_lite0_pads_as_tensorflow_does() -> None:
    """Rotating image and kernels equals TensorFlow's "same" padding, at even and odd sizes."""
    backbone = load_backbone("efficientnet_lite0")
    assert backbone.weights == "efficientnet-lite0-57934424.pth"
    assert str(backbone.weights_sha256).startswith("57934424")
    assert backbone.family.rotated
    convolution = backbone.model.get_submodule("features.2.0.block.1.0")
    for side in (16, 15):
        x = torch.randn(1, convolution.in_channels, side, side)
        turned = convolution(x.flip(2, 3)).flip(2, 3)
        outputs = -(-side // 2)
        pad = (outputs - 1) * 2 + 3 - side
        padded = nn.functional.pad(x, (pad // 2, pad - pad // 2) * 2)
        kernel = convolution.weight.flip(2, 3)
        expected = nn.functional.conv2d(padded, kernel, stride=2, groups=convolution.groups)
        torch.testing.assert_close(turned, expected)


def test_lite0_saved_by_us_loads_as_it_is(tmp_path: Path) -> None:
    state = load_backbone("efficientnet_lite0").model.state_dict()
    backbone = load_backbone("efficientnet_lite0", saved(state, tmp_path / "own.pth"))
    assert same(backbone.model, state)
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)


# forms of files


def test_none_and_lenet5() -> None:
    assert load_backbone(SMALL, "none").pretrained == 0
    assert load_backbone(SMALL, "none").notes == []
    lenet = load_backbone("lenet5")
    assert (lenet.weights, lenet.pretrained) == ("none", 0)
    assert "no weights are published for lenet5" in lenet.notes[0]


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "module.", "_orig_mod.", "half"])
def test_wrappings(wrap: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    content: object = state
    if wrap in ("state_dict", "model"):
        content = {wrap: state, "epoch": 3}
    elif wrap.endswith("."):
        content = {wrap + name: tensor for name, tensor in state.items()}
    elif wrap == "half":
        content = {name: tensor.half() for name, tensor in state.items()}
        state = {name: tensor.half().float() for name, tensor in state.items()}
    backbone = load_backbone(SMALL, saved(content, tmp_path / "own.pth"))
    assert same(backbone.model, state)
    assert backbone.pretrained == len(backbone.stages)


def test_file_before_torch_1_6(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert same(load_backbone(SMALL, str(path)).model, state)


def test_loaded_tensors_do_not_depend_on_their_file(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "own.pth"
    backbone = load_backbone(SMALL, saved(state, path))
    path.write_bytes(bytes(path.stat().st_size))
    assert same(backbone.model, state)


def test_safetensors_and_mnasnets_version(tmp_path: Path) -> None:
    state = build("mnasnet0_5").model.state_dict()
    save_file(dict(state), tmp_path / "own.safetensors")
    backbone = load_backbone("mnasnet0_5", str(tmp_path / "own.safetensors"))
    assert same(backbone.model, state)
    versioned = with_version(dict(state), find_family("mnasnet0_5"))
    torchvision.models.mnasnet0_5().load_state_dict(versioned)


def test_densenets_old_names(tmp_path: Path) -> None:
    state = build("densenet121").model.state_dict()
    old = {
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): tensor
        for name, tensor in state.items()
    }
    assert old.keys() != state.keys()
    assert same(load_backbone("densenet121", saved(old, tmp_path / "old.pth")).model, state)


def test_googlenets_auxiliary_heads_are_dropped(tmp_path: Path) -> None:
    full = torchvision.models.googlenet(aux_logits=True, init_weights=False).state_dict()
    backbone = load_backbone("googlenet", saved(full, tmp_path / "aux.pth"))
    assert backbone.pretrained == len(backbone.stages)
    assert "aux1.fc1.weight" in full
    assert "aux1.fc1.weight" not in backbone.model.state_dict()


def test_classifier_of_nan_is_no_classifier(tmp_path: Path) -> None:
    state = build("mobilenet_v3_small").model.state_dict()
    for name, tensor in state.items():
        if name.startswith("classifier."):
            tensor.fill_(float("nan"))
    backbone = load_backbone("mobilenet_v3_small", saved(state, tmp_path / "features.pth"))
    assert backbone.stages[backbone.pretrained :] == backbone.classifier
    assert not any(p.isnan().any() for p in backbone.model.parameters())


def test_head_for_other_classes(state: dict[str, Tensor], tmp_path: Path) -> None:
    other = dict(state)
    other["classifier.1.weight"] = torch.ones(37, 512, 1, 1)
    other["classifier.1.bias"] = torch.ones(37)
    backbone = load_backbone(SMALL, saved(other, tmp_path / "pets.pth"))
    assert backbone.pretrained == backbone.head_index
    assert "it has 37 classes, and squeezenet1_1 has 1000" in backbone.notes[0]
    assert backbone.categories is None
    assert backbone.model.get_parameter("classifier.1.weight").std() > 0


# published files


@pytest.fixture
def published(state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put `state` into torchvision's folder, and its file and hash into torchvision's table."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = Path(saved(state, folder / "new.pth"))
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    path = path.rename(folder / f"squeezenet1_1-{digits}.pth")
    entry = PublishedWeights(
        "IMAGENET1K_V1",
        path.name,
        f"https://download.pytorch.org/models/{path.name}",
        Preprocessing(232, 224, "bilinear", *IMAGENET),
    )
    table = {"IMAGENET1K_V1": entry, "DEFAULT": entry}
    monkeypatch.setattr(weights, "published_weights", lambda _: table)
    return path


@pytest.mark.parametrize(
    "wanted", ["auto", "DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1", "file"]
)
def test_published_file_at_hand(wanted: str, published: Path, state: dict[str, Tensor]) -> None:
    backbone = load_backbone(SMALL, str(published) if wanted == "file" else wanted)
    assert same(backbone.model, state)
    assert backbone.weights == "IMAGENET1K_V1"
    assert backbone.preprocessing.resize == 232


@pytest.mark.parametrize("wanted", ["auto", "file"])
def test_published_file_with_a_wrong_hash(wanted: str, published: Path) -> None:
    content = bytearray(published.read_bytes())
    content[len(content) // 2] ^= 1
    published.write_bytes(content)
    with pytest.raises(UserError, match="its SHA-256 begins with") as error:
        load_backbone(SMALL, str(published) if wanted == "file" else wanted)
    assert str(published) in error.value.message


def test_preprocessing_is_torchvisions(shared: Path) -> None:
    picture = decode(next(iter((shared / "data" / "imagenet-samples").glob("*.[jJ]*"))))
    for name in ("resnet50", "inception_v3", "swin_v2_t", "efficientnet_v2_l"):
        preprocessing = weights.native_preprocessing(find_entry(name))
        theirs = torchvision.models.get_model_weights(name).DEFAULT.transforms()(picture)
        ours = preprocessing.normalize(preprocessing.to_pixels(picture)[None])[0]
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_every_published_file_names_its_hash() -> None:
    for entry in catalogue().values():
        for published in weights.published_weights(entry).values():
            assert published.file.endswith(f"-{weights.hash_prefix(published.file)}.pth")


@pytest.mark.parametrize("name", ["swin_t", "vit_b_32", "maxvit_t"])
def test_models_are_built_in_uninitialized_memory(name):
    """`trunc_normal_` repeats draws beyond its limits, and must end without draws too."""
    code = (
        "import torch\n"
        "from tlcli.backbones.empty_init import skip_init\n"
        "from tlcli.runtime.torchvision_without_dynamo import torchvision\n"
        "def used(make):\n"
        "    def made(*args, **how):\n"
        "        found = make(*args, **how)\n"
        "        return found.fill_(9e30) if found.is_floating_point() else found\n"
        "    return made\n"
        "torch.empty, torch.empty_like = used(torch.empty), used(torch.empty_like)\n"
        "with skip_init():\n"
        f"    torchvision.models.get_model({name!r}, weights=None)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
