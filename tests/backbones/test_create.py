"""Models for programs that load an exported state dict."""

import pytest
import torch
from torch import nn

import tlcli
from tlcli.backbones.build import build
from tlcli.backbones.network import build_network


@pytest.mark.parametrize(
    ("name", "stage"),
    [("resnet18", "layer2"), ("vit_b_32", "encoder_layer_3"), ("lenet5", "classifier.0")],
)
def test_a_truncated_model_loads_the_tensors_of_its_network(name, stage):
    network = build_network(build(name), cut=stage, dropped=True, n_classes=3)
    model = tlcli.create_model(name, n_classes=3, truncated_after=stage)
    model.load_state_dict(network.tensors())  # strict
    assert model.state_dict().keys() == network.tensors().keys()
    side = network.backbone.preprocessing.crop
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), network.model.eval()(images))


def test_a_truncated_model_is_a_module_like_any_other():
    model = tlcli.create_model("lenet5", n_classes=3, truncated_after="features.3")
    assert {"new_head.weight", "new_head.bias"} <= model.state_dict().keys()
    nested = nn.Sequential(model)
    state = nested.state_dict()
    assert all(name.startswith("0.") for name in state)
    nested.load_state_dict(state)
    del state["0.new_head.bias"]
    with pytest.raises(RuntimeError, match="Missing key"):
        nested.load_state_dict(state)


def test_a_full_model_has_the_classes_and_the_resolution_that_are_named():
    model = tlcli.create_model("vit_b_32", n_classes=3, resolution=64)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="layer9"):
        tlcli.create_model("resnet18", n_classes=3, truncated_after="layer9")
