"""The chain of stages is complete, in order, and equals the model bit for bit."""

import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from tlcli.backbones.backbone import Backbone
from tlcli.backbones.build import build, replace_head
from tlcli.backbones.catalogue import catalogue
from tlcli.backbones.empty_init import build_on_meta
from tlcli.backbones.families import FAMILIES
from tlcli.backbones.summary import describe
from tlcli.errors import UsageError

# A small member of each family, and a side of the image that is small too
MEMBERS = {
    "alexnet": ("alexnet", 96),
    "convnext": ("convnext_tiny", 64),
    "densenet": ("densenet121", 64),
    "efficientnet": ("efficientnet_b0", 64),
    "efficientnet_lite": ("efficientnet_lite0", 64),
    "googlenet": ("googlenet", 64),
    "inception": ("inception_v3", 96),
    "lenet": ("lenet5", 32),
    "maxvit": ("maxvit_t", 224),
    "mnasnet": ("mnasnet0_5", 64),
    "mobilenetv2": ("mobilenet_v2", 64),
    "mobilenetv3": ("mobilenet_v3_small", 64),
    "regnet": ("regnet_y_400mf", 64),
    "resnet": ("resnet18", 64),
    "shufflenetv2": ("shufflenet_v2_x0_5", 64),
    "squeezenet": ("squeezenet1_1", 64),
    "swin": ("swin_t", 64),
    "vgg": ("vgg11", 64),
    "vit": ("vit_b_32", 64),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: on a busy machine two wait for each other and take 100 times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def run(modules: list[nn.Module], x: Tensor, training: bool) -> Tensor:
    """Return the chain's output; dropout and stochastic depth use seed 1."""
    torch.manual_seed(1)
    x = x.clone()  # some models begin by writing into their input
    with torch.no_grad():
        for module in modules:
            x = module.train(training)(x)
    return x


def check_chain(backbone: Backbone, x: Tensor) -> None:
    """Check that the stages equal the model's `forward`, bit for bit, in both modes."""
    # ViT's head is made of zeros and would hide everything
    nn.init.normal_(backbone.model.get_parameter(f"{backbone.head}.weight"))
    for training in (True, False):
        expected = run([backbone.model], x, training)
        assert torch.equal(run([*backbone.stages], x, training), expected)
        assert expected.std() > 0


def test_members_are_of_every_family() -> None:
    assert {family: catalogue()[name].family for family, (name, _) in MEMBERS.items()} == {
        family: family for family in FAMILIES
    }


@pytest.mark.parametrize("name", catalogue())
def test_every_tensor_belongs_to_one_stage(name: str) -> None:
    with build_on_meta():
        backbone = build(name)
    every = backbone.model.state_dict(keep_vars=True)
    owners = Counter(
        id(tensor)
        for stage in backbone.stages
        for tensor in stage.state_dict(keep_vars=True).values()
    )
    assert owners == Counter(id(tensor) for tensor in every.values())
    assert list(backbone.tensors(backbone.stages)) == list(every)

    names = [stage.name for stage in backbone.stages]
    assert len(set(names)) == len(names)
    assert names[-1] == "head"
    assert backbone.stages[-len(backbone.classifier) :] == backbone.classifier
    assert 0 < len(backbone.classifier) < len(backbone.stages)

    layers = [
        path
        for path, module in backbone.model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    assert layers[-1] == backbone.head
    weight = backbone.model.get_parameter(f"{backbone.head}.weight")
    assert weight.shape[0] == (10 if name == "lenet5" else 1000)
    assert {id(weight)} <= {id(p) for p in backbone.stages[-1].parameters()}

    entry = catalogue()[name]
    assert sum(p.numel() for p in backbone.model.parameters()) == entry.parameters
    assert backbone.preprocessing.crop == entry.resolution


@pytest.mark.parametrize("family", FAMILIES)
def test_member(family: str) -> None:
    """Run all checks in one test per family, because building the models takes most of the time."""
    name, side = MEMBERS[family]
    backbone = build(name, resolution=side)
    check_replace_head(backbone)
    x = images(side)
    check_chain(backbone, x)  # with the new head: the stages hold it, or they would differ
    check_layout(backbone, x[:1])
    check_folding(backbone, x[:1])


def check_replace_head(backbone: Backbone) -> None:
    before = backbone.model.get_submodule(backbone.head)
    kept = list(backbone.tensors(backbone.stages[:-1]))
    backbone.pretrained = len(backbone.stages)
    replace_head(backbone, 7)
    after = backbone.model.get_submodule(backbone.head)
    assert type(after) is type(before)
    assert after.weight.shape == (7, *before.weight.shape[1:])
    assert (after.bias is None) == (before.bias is None)
    assert backbone.pretrained == backbone.head_index
    assert list(backbone.tensors(backbone.stages[:-1])) == kept
    assert after.weight in {*backbone.stages[-1].parameters()}


def check_layout(backbone: Backbone, x: Tensor) -> None:
    maps = backbone.stages[0].eval()(x.clone())
    dims = {"nchw": 4, "nhwc": 4, "tokens": 3}[backbone.layout]
    assert maps.ndim == dims
    if dims == 4:
        channels = 1 if backbone.layout == "nchw" else 3
        sides = [size for dim, size in enumerate(maps.shape) if dim not in (0, channels)]
        assert sides[0] == sides[1]


def check_folding(backbone: Backbone, x: Tensor) -> None:
    """Check that torch.fx traces a prefix, and that folding BatchNorm hardly changes it."""
    prefix = nn.Sequential(*backbone.stages[: backbone.head_index]).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.fx's own
        folded = fuse(prefix)(x.clone())
        torch.testing.assert_close(folded, prefix(x.clone()), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue())
def test_chain_of_every_model(name: str) -> None:
    backbone = build(name)
    check_chain(backbone, images(backbone.preprocessing.crop))


@pytest.mark.parametrize("family", FAMILIES)
def test_structure(family: str) -> None:
    check_structure(MEMBERS[family][0])


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue())
def test_structure_of_every_model(name: str) -> None:
    check_structure(name)


def check_structure(name: str) -> None:
    structure = describe(name)
    entry = catalogue()[name]
    assert structure.parameters == entry.parameters
    assert structure.resolution == entry.resolution
    assert structure.stages[-1].output == (10 if name == "lenet5" else 1000,)
    assert all(size > 0 for size in chain.from_iterable(row.output for row in structure.stages))
    assert [row.name for row in structure.stages][-1] == "head"


def test_vgg16_structure() -> None:
    rows = [(row.name, row.part, row.output) for row in describe("vgg16").stages]
    assert rows == [
        ("block1", "features", (64, 112, 112)),
        ("block2", "features", (128, 56, 56)),
        ("block3", "features", (256, 28, 28)),
        ("block4", "features", (512, 14, 14)),
        ("block5", "features", (512, 7, 7)),
        ("avgpool", "features", (25088,)),
        ("classifier.0", "classifier", (4096,)),
        ("classifier.3", "classifier", (4096,)),
        ("head", "classifier", (1000,)),
    ]


def test_impossible_resolution() -> None:
    with pytest.raises(UsageError, match="vit_b_32 cannot be built for images of 100 x 100 pixels"):
        build("vit_b_32", resolution=100)
    with pytest.raises(UsageError, match="maxvit_t cannot be built for images of 100 x 100 pixels"):
        build("maxvit_t", resolution=100)


def test_resolution_keeps_the_margin() -> None:
    preprocessing = build("resnet18", resolution=112).preprocessing
    assert (preprocessing.resize, preprocessing.crop) == (128, 112)
