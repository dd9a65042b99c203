"""Bundles and backbones opened as classifiers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tlcli.artifacts import bundle
from tlcli.artifacts import run_folder as run
from tlcli.backbones import build, catalogue
from tlcli.backbones.empty_init import skip_init
from tlcli.backbones.network import Network, build_network
from tlcli.data.tta import TTA_VIEWS
from tlcli.errors import UsageError, UserError, choice, did_you_mean
from tlcli.inference.classifier import Classifier, Member
from tlcli.reporter import Reporter
from tlcli.runtime import device
from tlcli.runtime.device import Compute
from tlcli.text import shorten_list

Model = str | Path
MIN_AGREEMENT = 0.99
"""Share of the validation predictions that mixed precision must leave as in fp32 to be used."""
MIN_AGREEMENT_IMAGES = 100
"""Validation images that are needed to show it."""


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
        model: a path, a backbone's name, or several of them for an ensemble, whose probabilities
            are averaged. None takes the newest finished run below ./runs. A backbone's name wins
            over a folder of that name; write ./NAME for the folder.
        weights: a backbone's weights: "auto", a file, or the name of one of torchvision's weights.
        device_name: "auto", "cpu", "cuda" or "mps".
        tta: the views of each image whose probabilities are averaged: "none" (its center), "flip"
            (and its mirror image), "5" (center and corners), "10" (those and their mirror images).
        precision: "fp32", "bf16" or "fp16"; "auto" takes the fastest precision here if at least
            99% of the validation predictions were the same in it, and says so; else fp32.

    Raises:
        UserError: there is no such model, it cannot be read, or the classes of several differ.
    """
    reporter = reporter or Reporter()
    choice("--tta", tta, TTA_VIEWS)
    if model is None:
        model = run.newest_run()
    models = [model] if isinstance(model, str | Path) else list(model)
    if not models:
        raise UsageError("no model is named")
    first, *others = members = [_open_member(str(one), weights, reporter) for one in models]
    for other in others:
        _check_same_classes(first, other)
    source = " + ".join(member.source for member in members)
    compute = _choose_compute(device_name, precision, members, reporter)
    return Classifier(source, first.classes, tuple(members), compute, reporter, tta)


def open_bundle(path: Path) -> tuple[Network, bundle.BundleMeta]:
    """Build the network that a bundle holds, and read its metadata.

    Raises:
        UserError: the bundle is damaged: its tensors do not fit its backbone.
    """
    meta = bundle.read_meta(path)
    tensors = bundle.read_tensors(path)
    n = len(meta.classes)
    with skip_init():
        backbone = build.build(meta.backbone, n_classes=n, resolution=meta.preprocessing.crop)
    backbone.preprocessing = meta.preprocessing
    cut = meta.truncated_after or meta.cut
    if cut != "none" and cut not in [s.name for s in backbone.stages]:
        raise UserError(f"{path}: {meta.backbone} has no stage {cut!r}", "train it again")
    with skip_init():
        network = build_network(backbone, cut=cut, dropped=meta.dropped, n_classes=n)
    _copy_tensors(tensors, network.tensors(), path)
    return network, meta


@torch.no_grad()
def _copy_tensors(tensors: dict[str, Tensor], into: dict[str, Tensor], path: Path) -> None:
    def layout(named: dict[str, Tensor]) -> dict[str, tuple[object, ...]]:
        return {k: (v.dtype, *v.shape) for k, v in named.items()}

    if layout(into) != layout(tensors):
        differing = dict(layout(into).items() ^ layout(tensors).items())
        first = ", ".join(sorted(differing)[:3])
        raise UserError(
            f"{path}: {len(differing)} tensors do not fit its backbone, such as {first}",
            "the file is damaged or was changed; train it again",
        )
    for name, tensor in into.items():
        tensor.copy_(tensors[name])


def _choose_compute(
    device_name: str, precision: str, members: Sequence[Member], reporter: Reporter
) -> Compute:
    """Choose the device, and mixed precision only where it is known to leave predictions alike."""
    compute = device.choose_device(device_name, precision)
    if precision != "auto" or compute.dtype is None:
        return compute
    shares = [_agreement(member, compute) for member in members]
    lowest = min(shares)
    if lowest < MIN_AGREEMENT:
        return compute.reference()
    name = compute.name.split()[1]
    reporter.note(
        f"Predicting in {name} (it agreed with fp32 on {100 * lowest:.3g}% of the validation "
        "images; --precision fp32 to change)."
    )
    return compute


def _agreement(member: Member, compute: Compute) -> float:
    """Return the share of validation predictions that were as in fp32; 0 where it is not known.

    A bundle may come from anywhere, so figures that cannot be are not believed.
    """
    agreement = member.agreement
    if agreement is None or agreement.precision != compute.name:
        return 0.0
    n, same = agreement.n, agreement.same
    return same / n if n >= MIN_AGREEMENT_IMAGES and same <= n else 0.0


def _open_member(model: str, weights: str, reporter: Reporter) -> Member:
    if model in catalogue.catalogue():
        return _open_backbone(model, weights, reporter)
    if weights != "auto":
        raise UsageError(f"--weights goes with a backbone's name, but {model} is a bundle")
    given = Path(model)
    if not given.exists() and len(given.parts) == 1 and not given.suffix:
        hint = did_you_mean(model, catalogue.catalogue())
        raise UsageError(
            f"--model {model} is not a bundle, a run folder or a backbone's name",
            hint or "tlcli models lists the backbones",
        )
    path = run.find_bundle(model)
    network, meta = open_bundle(path)
    *stages, head = network.stages
    return Member(
        source=str(path),
        classes=meta.classes,
        stages=nn.Sequential(*stages),
        head=head,
        preprocessing=meta.preprocessing,
        ood_detector=meta.ood_detector,
        temperature=meta.temperature,
        agreement=meta.metrics.agreement if meta.metrics else None,
    )


def _open_backbone(name: str, weights: str, reporter: Reporter) -> Member:
    backbone = build.load_backbone(name, weights, reporter)
    if backbone.categories is None:
        raise UserError(
            f"{name} has no pretrained classifier with these weights, so it knows no classes yet",
            f"train one: tlcli finetune DIR --model {name}",
        )
    *stages, head = backbone.stages
    return Member(name, backbone.categories, nn.Sequential(*stages), head, backbone.preprocessing)


def _check_same_classes(first: Member, second: Member) -> None:
    """Raise `UserError` where two networks know different classes."""
    if set(first.classes) == set(second.classes):
        return
    differences = [
        f"only {a.source} knows {shorten_list(sorted(only))}"
        for a, b in ((first, second), (second, first))
        if (only := set(a.classes) - set(b.classes))
    ]
    raise UserError(
        f"an ensemble's models must have the same classes: {'; '.join(differences)}",
        "leave one out, or train both on the same folder",
    )
