"""One model per family: frozen tensors stay bit-identical, trained ones change, bundles load into
plain torchvision."""

import json
import re

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from tlcli.artifacts import bundle
from tlcli.backbones.build import build
from tlcli.backbones.families import find_family
from tlcli.backbones.network import build_network, is_linear
from tlcli.features.sources import CachedFeatures
from tlcli.inference.load import open_bundle
from tlcli.planning.cases import Overrides
from tlcli.planning.cut import stage_facts
from tlcli.planning.plan import make_plan
from tlcli.reporter import Reporter
from tlcli.runtime import device
from tlcli.training.trainer import PhaseContext, fit

FAMILY_MEMBERS = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_32",
    "efficientnet_lite0",
]  # fmt: skip


def pretend_pretrained(name):
    """Build a backbone with random weights that are taken for pretrained ones."""
    torch.manual_seed(0)
    backbone = build(name)
    backbone.pretrained = len(backbone.stages)
    return backbone


def train(backbone, plan, n_classes=3, n=6):
    """Train two small steps on random images, through the same calls as a run."""
    network = build_network(
        backbone, cut=plan.cut, dropped=bool(plan.dropped), n_classes=n_classes, init="normal"
    )
    side = backbone.preprocessing.crop
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        codes = network.prefix.eval()(images)
    source = CachedFeatures(codes[:, None], torch.arange(n) % n_classes)
    before = {k: v.clone() for k, v in network.tensors().items()}
    result = fit(
        network,
        source,
        None,
        plan.training,
        device.choose_device("cpu"),
        PhaseContext(),
        Reporter(),
    )
    assert result.stopped == "finished"
    return network, before


def moved(network, before, stages):
    now = network.tensors(stages)
    return {k for k, v in now.items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize("name", FAMILY_MEMBERS)
def test_frozen_tensors_stay_bit_identical_and_trained_ones_change(name):
    backbone = pretend_pretrained(name)
    stages = stage_facts(backbone)
    names = [s.name for s in stages if s.parameters]
    middle = names[len(names) // 2]
    plan = make_plan(
        stages,
        pretrained=len(stages),
        linear_head=is_linear(backbone),
        n_train=6,
        overrides=Overrides(
            freeze=middle,
            training={
                "optimizer": "sgd",
                "lr": 0.05,
                "epochs": 1,
                "batch_size": 3,
                "lr_schedule": "constant",
            },
        ),
    )
    network, before = train(backbone, plan)
    assert moved(network, before, network.stages[: network.cut]) == set()
    trained = {
        k: v
        for k, v in network.tensors(network.stages[network.cut :]).items()
        if v.is_floating_point()
    }
    still = trained.keys() - moved(network, before, network.stages[network.cut :])
    # A relative position bias or a bias before a normalization may have a gradient of zero.
    assert len(still) <= 0.1 * len(trained), sorted(still)
    assert f"{backbone.head}.weight" not in still


@pytest.mark.parametrize("name", FAMILY_MEMBERS)
def test_only_the_new_head_of_small_different_changes(name):
    backbone = pretend_pretrained(name)
    stages = stage_facts(backbone)
    plan = make_plan(
        stages,
        pretrained=len(stages),
        linear_head=is_linear(backbone),
        n_train=6,
        overrides=Overrides(case="small-different"),
    )
    network, before = train(backbone, plan)
    changed = moved(network, before, network.stages)
    assert changed == {"new_head.weight", "new_head.bias"}


def bundle_of(name, path):
    """Save a bundle of an untrained network with three classes."""
    torch.manual_seed(0)
    network = build_network(build(name), cut="none", dropped=False, n_classes=3)
    # Running statistics that are not the initial ones, so that they too have to be restored.
    for module in network.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.num_batches_tracked += 7
    meta = bundle.BundleMeta(
        backbone=name,
        cut="none",
        classes=("a", "b", "c"),
        preprocessing=network.backbone.preprocessing,
        plan={},
        metrics=None,
        dataset="",
        seed=0,
        versions={},
        weights="none",
    )
    bundle.save_bundle(path, network.tensors(), meta)
    return network


@pytest.mark.parametrize("name", [n for n in FAMILY_MEMBERS if n not in find_family(n).own])
def test_a_bundle_loads_into_plain_torchvision(name, tmp_path):
    network = bundle_of(name, tmp_path / "model.safetensors")
    more = {}
    if name in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "transform_input": True, "init_weights": False}
    model = torchvision.models.get_model(name, num_classes=3, **more)
    state = load_file(tmp_path / "model.safetensors")
    if name.startswith("mnasnet"):
        from collections import OrderedDict

        state = OrderedDict(state)
        state._metadata = {"": {"version": 2}}
    model.load_state_dict(state)  # strict
    side = network.backbone.preprocessing.crop
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), network.model.eval()(images))


def test_bundles_reopen_to_the_same_network(tmp_path):
    path = tmp_path / "model.safetensors"
    network = bundle_of("resnet18", path)
    again, meta = open_bundle(path)
    assert meta.classes == ("a", "b", "c")
    assert all(torch.equal(v, network.tensors()[k]) for k, v in again.tensors().items())
    first = path.read_bytes()
    bundle.save_bundle(path, again.tensors(), meta)
    assert path.read_bytes() == first


def tampered(path, change):
    """Change the metadata of a bundle."""
    meta = json.loads(bundle.read_meta(path).to_json())
    change(meta)
    from safetensors.torch import save_file

    save_file(load_file(path), path, metadata={bundle.BUNDLE_KEY: json.dumps(meta)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=99), "format 99.*upgrade"),
        (lambda m: m.update(backbone="../../etc"), "unknown backbone"),
        (lambda m: m.pop("classes"), "damaged"),
        (lambda m: m.update(classes=[1, 2, 3]), "classes"),
        (lambda m: m.update(classes=["a", "b"]), "tensors do not fit"),
        (lambda m: m.update(cut="layer9"), "no stage"),
        (lambda m: m.update(preprocessing={}), "preprocessing"),
        (lambda m: m.update(surprise=1), "damaged"),
        (lambda m: m["preprocessing"].update(crop=10**9), "preprocessing"),
    ],
)
def test_a_changed_bundle_is_refused(tmp_path, change, message):
    from tlcli.errors import UserError

    path = tmp_path / "model.safetensors"
    bundle_of("squeezenet1_1", path)
    tampered(path, change)
    with pytest.raises(UserError) as caught:
        open_bundle(path)
    assert re.search(message, f"{caught.value.message} {caught.value.hint}")


@pytest.mark.parametrize("content", [b"", b"not a bundle", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_bundle_is_refused(tmp_path, content):
    from tlcli.errors import UserError

    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        open_bundle(path)
