"""Every export format with every family of backbones: a short network of each here, every real one
in the slow tier."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import (
    VGG,
    AlexNet,
    DenseNet,
    GoogLeNet,
    Inception3,
    MNASNet,
    MobileNetV2,
    MobileNetV3,
    RegNet,
    ResNet,
    ShuffleNetV2,
    SqueezeNet,
    SwinTransformer,
    VisionTransformer,
    convnext,
    efficientnet,
    maxvit,
    mobilenetv3,
    regnet,
    resnet,
    swin_transformer,
    vgg,
)

from tlcli.artifacts.bundle import BundleMeta
from tlcli.artifacts.export.formats import FORMATS
from tlcli.artifacts.export.parity import MAX_DIFFERENCE, compare, reference_probabilities
from tlcli.artifacts.export.source import ExportSource
from tlcli.backbones.backbone import Backbone
from tlcli.backbones.build import build
from tlcli.backbones.catalogue import catalogue
from tlcli.backbones.families import FAMILIES
from tlcli.backbones.lenet5 import LeNet5
from tlcli.backbones.network import build_network
from tlcli.errors import UserError

GRAPHS = [name for name, each in FORMATS.items() if each.has_graph]
TOO_LARGE = {"onnx": ("regnet_y_128gf", "vit_h_14")}
"""The backbones that a format's file cannot hold."""


def narrow(model):
    """AlexNet or VGG with a classifier that is not 4,096 wide."""
    wide = model.classifier
    for i, layer in enumerate(wide):
        if isinstance(layer, nn.Linear):
            inputs = layer.in_features if layer.in_features > 4096 else 8
            wide[i] = nn.Linear(inputs, 8)
    return model


def swin(**more):
    return SwinTransformer(
        [4, 4], embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=[4, 4], **more
    )


# torchvision's own classes with fewer and narrower layers, of every kind that the family has
SHORT = {
    "alexnet": lambda: narrow(AlexNet()),
    "convnext": lambda: convnext.ConvNeXt(
        [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    ),
    "densenet": lambda: DenseNet(4, (1, 1, 1, 1), 8),
    "efficientnet": lambda: efficientnet.EfficientNet(
        [
            efficientnet.FusedMBConvConfig(4, 3, 2, 8, 8, 1),
            efficientnet.MBConvConfig(4, 5, 2, 8, 16, 1),
        ],
        dropout=0.2,
    ),
    "googlenet": lambda: GoogLeNet(**FAMILIES["googlenet"].arguments),
    "inception": lambda: Inception3(**FAMILIES["inception"].arguments),
    "lenet": LeNet5,
    "maxvit": lambda: maxvit.MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.0),
    "mnasnet": lambda: MNASNet(0.1),
    "mobilenetv2": lambda: MobileNetV2(inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]),
    "mobilenetv3": lambda: MobileNetV3(
        [
            mobilenetv3.InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1),
            mobilenetv3.InvertedResidualConfig(16, 5, 48, 24, False, "HS", 2, 1, 1),
        ],
        last_channel=32,
    ),
    "regnet": lambda: RegNet(
        regnet.BlockParams([1, 1], [8, 16], [8, 8], [1.0, 1.0], [2, 2], se_ratio=0.25)
    ),
    "resnet": lambda: ResNet(resnet.Bottleneck, [1, 1, 1, 1]),
    "shufflenetv2": lambda: ShuffleNetV2([2, 1, 1], [8, 16, 32, 64, 128]),
    "squeezenet": lambda: SqueezeNet("1_1"),
    "swin": swin,
    "swin (v2)": lambda: swin(
        block=swin_transformer.SwinTransformerBlockV2,
        downsample_layer=swin_transformer.PatchMergingV2,
    ),
    "vgg": lambda: narrow(VGG(vgg.make_layers([8, "M", 512, "M"], batch_norm=True))),
    "vit": lambda: VisionTransformer(64, 16, 1, 2, 16, 32),
}


def source_of(backbone, input_name):
    """An untrained network of three classes that tells images apart."""
    network = build_network(backbone, cut="none", dropped=False, n_classes=3)
    enliven(network)
    meta = BundleMeta(
        backbone.name, "none", ("a", "b", "c"), backbone.preprocessing,
        plan={}, metrics=None, dataset="", seed=0, versions={}, weights="none",
    )  # fmt: skip
    return ExportSource(meta, network, input_name)


@torch.no_grad()
def enliven(network):
    """Weights and statistics in which the image is not lost on the way, as it is in fresh ones."""
    whole = network.model.eval()
    for module in whole.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
        blocks = efficientnet.MBConv | efficientnet.FusedMBConv
        if isinstance(module, blocks) and module.use_res_connect:
            # Dozens of them at random, each as loud as what it is added to, turn a rounding into
            # another answer: EfficientNetV2-L's in fp32 would not be those in fp64.
            nn.init.constant_(module.block[-1][1].weight, 0.2)
    side = network.backbone.preprocessing.crop
    pixels = torch.cat(batches(side, side)).permute(0, 3, 1, 2)
    whole(network.backbone.preprocessing.normalize(pixels))
    logits = whole.eval()(network.backbone.preprocessing.normalize(pixels))
    network.final_layer.weight /= logits.std(0).mean()
    if isinstance(network.final_layer, nn.Linear) and network.final_layer.bias is not None:
        network.final_layer.bias -= logits.mean(0) / logits.std(0).mean()


def batches(height, width):
    """One image, and three: noise, each darker than the one before."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (4, height, width, 3), dtype=torch.uint8, generator=generator)
    images = noise // torch.tensor([1, 2, 3, 5], dtype=torch.uint8)[:, None, None, None]
    return [images[:1], images[1:]]


def difference(source, format_name, folder, inputs):
    """Between the written file's answers and the network's, which must not all be the same."""
    path = folder / f"out{FORMATS[format_name].suffixes[0]}"
    FORMATS[format_name].write(source, path)
    parity = compare(source, FORMATS[format_name].open(source, path), inputs)
    assert parity.n == sum(map(len, inputs))
    with torch.no_grad():
        answers = torch.cat([reference_probabilities(source, batch) for batch in inputs])
    assert (answers.amax(0) - answers.amin(0)).max() > max(0.01, 100 * parity.difference)
    return parity.difference


@pytest.mark.parametrize("name", SHORT)
def test_a_short_network_of_each_family(name, tmp_path):
    torch.manual_seed(0)
    family = FAMILIES[name.partition(" ")[0]]
    model = SHORT[name]()
    side = {"lenet": 32, "inception": 80}.get(name, 64)
    pre = replace(build("lenet5").preprocessing, crop=side, resize=side + 8)
    backbone = Backbone("resnet18", family, model, family.stages(model), pre)
    source = source_of(backbone, "pixels")
    for format_name in GRAPHS:
        assert (
            difference(source, format_name, tmp_path, batches(side, side))
            < MAX_DIFFERENCE["pixels"]
        )


def test_no_family_is_forgotten():
    # the turned one is exported with real weights, in test_export.py
    short = {name.partition(" ")[0] for name in SHORT}
    assert short | {"efficientnet_lite"} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue())
def test_every_backbone(name, tmp_path):
    torch.manual_seed(0)
    # small where the network lets us; ViT-H's patches have 14 pixels, MaxViT's windows want 224
    sides = {"vit_h_14": 56, "inception_v3": 96, "maxvit_t": 224, "lenet5": 32}
    source = source_of(build(name, resolution=sides.get(name, 64)), "pixels")
    side = source.meta.preprocessing.crop
    inputs = batches(side, side)
    for format_name in GRAPHS:
        if name in TOO_LARGE.get(format_name, ()):
            with pytest.raises(UserError, match="GiB"):
                FORMATS[format_name].write(source, tmp_path / "out")
        else:
            assert difference(source, format_name, tmp_path, inputs) < MAX_DIFFERENCE["pixels"]
