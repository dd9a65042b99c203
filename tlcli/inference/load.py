"""Bundles and backbones opened as classifiers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlcli.artifacts import bundle
from tlcli.artifacts import run_folder as run
from tlcli.backbones import build, catalogue
from tlcli.backbones.empty_init import skip_init
from tlcli.backbones.network import Network, build_network
from tlcli.data.tta import VIEWS
from tlcli.errors import UsageError, UserError, choice, did_you_mean
from tlcli.inference.classifier import Classifier, Member
from tlcli.inference.prediction import Prediction
from tlcli.metrics.ood import OodDetector
from tlcli.reporter import Reporter
from tlcli.runtime import device
from tlcli.runtime.device import Compute
from tlcli.text import shorten_list

__all__ = ["Classifier", "Prediction", "load", "open_bundle"]

Model = str | Path
MIN_AGREEMENT = 0.99
"""Share of the val answers that must be the same in other numbers than fp32."""
MIN_AGREEMENT_IMAGES = 100
"""Fewer val images than these cannot show it."""


def load(
    model: Model | Sequence[Model] | None = None,
    *,
    weights: str = "auto",
    device_name: str = "auto",
    tta: str = "none",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Classifier:
    """Open a bundle, a run folder, or a backbone with its ImageNet classes.

    Args:
        model: None takes the newest finished run below ./runs. A backbone's name is taken as
            such; write ./NAME for a folder that is called like one. Several are an ensemble,
            whose probabilities are averaged.
        weights: of a backbone: "auto", a file, or the name of one of torchvision's weights.
        tta: what each image is seen by, the answers averaged: "none" (its centre), "flip" (and its
            mirror image), "5" (centre and corners), "10" (those and their mirror images).
        precision: "fp32", "bf16" or "fp16"; "auto" is what is quickest here, where at least
            `MIN_AGREEMENT` of the val answers were the same in it, and that is said; else fp32.

    Raises:
        UserError: there is no such model, it cannot be read, or the classes of several differ.
    """
    reporter = reporter or Reporter()
    choice("--tta", tta, VIEWS)
    if model is None:
        model = run.newest_run()
    models = [model] if isinstance(model, str | Path) else list(model)
    if not models:
        raise UsageError("no model is named")
    opened = [_open(str(one), weights, reporter) for one in models]
    first, classes = opened[0]
    for member, others in opened[1:]:
        _check_same(first.source, classes, member.source, others)
    ordered = tuple(
        replace(member, order=tuple(own.index(c) for c in classes)) for member, own in opened
    )
    source = " + ".join(member.source for member in ordered)
    compute = _choose(device_name, precision, ordered, reporter)
    return Classifier(source, classes, ordered, compute, reporter, tta)


def _choose(
    device_name: str, precision: str, members: Sequence[Member], reporter: Reporter
) -> Compute:
    """Where, and in which numbers."""
    compute = device.choose_device(device_name, precision)
    if precision != "auto" or compute.dtype is None:
        return compute
    said = [member.agreement or {} for member in members]
    shares = [of["same"] / of["n"] for of in said if _agrees(of, compute)]
    if len(shares) < len(members):
        return compute.reference()
    reporter.note(
        f"in {compute.name}, in which {min(shares):.1%} of the val answers were the same as in "
        "fp32 (--precision fp32 for those)"
    )
    return compute


def _agrees(said: Mapping[str, Any], compute: Compute) -> bool:
    n, same = said.get("n"), said.get("same")
    if not isinstance(n, int) or not isinstance(same, int):
        return False
    return (
        said.get("numbers") == compute.name
        and n >= MIN_AGREEMENT_IMAGES
        and MIN_AGREEMENT * n <= same <= n
    )


Opened = tuple[Member, tuple[str, ...]]
"""The network, its classes in the order of its outputs."""


def _open(model: str, weights: str, reporter: Reporter) -> Opened:
    if model in catalogue.catalogue():
        return _open_backbone(model, weights, reporter)
    if weights != "auto":
        raise UsageError(f"--weights is for a backbone's name, and {model} is a bundle")
    known = Path(model)
    if not known.exists() and len(known.parts) == 1 and not known.suffix:
        hint = did_you_mean(model, catalogue.catalogue())
        raise UsageError(
            f"--model {model}: neither a bundle, nor a run folder, nor a backbone's name",
            hint or "tlcli models lists the backbones",
        )
    path = run.find_bundle(model)
    network, meta = open_bundle(path)
    novelty = _novelty(path, meta)
    temperature = (meta.calibration or {}).get("temperature", 1.0)
    *body, head = network.stages
    said = meta.metrics.get("agreement")
    agreement = said if isinstance(said, dict) else None
    member = Member(
        str(path),
        nn.Sequential(*body),
        head,
        meta.preprocessing,
        novelty,
        temperature,
        (),
        agreement,
    )
    return member, meta.classes


def _novelty(path: Path, meta: bundle.BundleMeta) -> OodDetector | None:
    try:
        return None if meta.novelty is None else OodDetector.from_dict(meta.novelty)
    except ValueError as error:
        raise UserError(f"{path}: {error}", "train it anew") from error


def _open_backbone(name: str, weights: str, reporter: Reporter) -> Opened:
    backbone = build.load(name, weights, reporter)
    if backbone.categories is None:
        raise UserError(
            f"{name} has no pretrained classifier with these weights, so it has no classes yet",
            f"train one: tlcli finetune DIR --model {name}",
        )
    *body, head = backbone.stages
    member = Member(name, nn.Sequential(*body), head, backbone.preprocessing, None, 1.0, ())
    return member, backbone.categories


def _check_same(first: str, classes: tuple[str, ...], second: str, others: tuple[str, ...]) -> None:
    """Raises `UserError` where two networks tell different classes apart."""
    if set(classes) == set(others):
        return
    told = [
        f"only {name} knows {shorten_list(sorted(mine - theirs))}"
        for name, mine, theirs in (
            (first, set(classes), set(others)),
            (second, set(others), set(classes)),
        )
        if mine - theirs
    ]
    raise UserError(
        f"an ensemble's models must have the same classes: {'; '.join(told)}",
        "leave one out, or train both on the same folder",
    )


def open_bundle(path: Path) -> tuple[Network, bundle.BundleMeta]:
    """The network that a bundle holds, and its description.

    Raises:
        UserError: the bundle is damaged: its tensors are not those of its backbone.
    """
    meta = bundle.read_meta(path)
    tensors = bundle.read_tensors(path)
    n = len(meta.classes)
    with skip_init():
        backbone = build.build(meta.backbone, n_classes=n, resolution=meta.preprocessing.crop)
    backbone.preprocessing = meta.preprocessing
    if meta.end != "none" and meta.end not in [s.name for s in backbone.stages]:
        raise UserError(f"{path}: {meta.backbone} has no stage {meta.end!r}", "train it anew")
    with skip_init():
        network = build_network(backbone, cut=meta.end, dropped=meta.dropped, n_classes=n)
    _fill(network.tensors(), tensors, path)
    return network, meta


@torch.no_grad()
def _fill(into: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    def shapes(named: dict[str, Tensor]) -> dict[str, tuple[object, ...]]:
        return {k: (v.dtype, *v.shape) for k, v in named.items()}

    if shapes(into) != shapes(tensors):
        differing = dict(shapes(into).items() ^ shapes(tensors).items())
        first = ", ".join(sorted(differing)[:3])
        raise UserError(
            f"{path}: {len(differing)} tensors are not those of its backbone, such as {first}",
            "the file is damaged or was changed; train it anew",
        )
    for name, tensor in into.items():
        tensor.copy_(tensors[name])
