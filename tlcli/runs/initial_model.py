"""The model that training starts from: a pretrained backbone, or a bundle to train further."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.bundle import Ancestor
from tlcli.backbones import build, catalogue
from tlcli.backbones.backbone import Backbone
from tlcli.backbones.network import Network
from tlcli.errors import UsageError
from tlcli.inference.load import open_bundle
from tlcli.planning import explain
from tlcli.planning.plan import Plan
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.text import shorten_list


@dataclass(frozen=True)
class InitialModel:
    """The model that training starts from: a pretrained backbone, or a bundle to train further.

    Attributes:
        backbone: the backbone, or a bundle's stages and preprocessing, which count as pretrained
            except for its head.
        ancestor: the bundle, as the new one records it; None for a backbone.
        head: the tensors of the bundle's final layer before its calibration, if it knows the same
            classes; else None.
    """

    backbone: Backbone
    ancestor: Ancestor | None = None
    head: Mapping[str, Tensor] | None = None

    def keeps_head(self, plan: Plan) -> bool:
        """Return whether the plan trains the bundle's final layer further."""
        config = plan.training
        return self.head is not None and not config.solves_head and config.init == DEFAULT_INIT


DEFAULT_INIT = TrainingConfig.init
"""The initialization of new layers that leaves a bundle's head in place."""


def adapt_plan(plan: Plan, initial_model: InitialModel) -> Plan:
    """Adapt the plan to a bundle: a head that is trained further is not solved first."""
    if initial_model.ancestor is None:
        return plan
    if initial_model.keeps_head(plan):
        config = replace(plan.training, head_first=False)
        return replace(plan, training=config, why=f"{plan.why}; {explain.KEPT_HEAD}")
    if initial_model.head is not None:
        text = explain.replaced_head_text(solved=plan.training.init == DEFAULT_INIT)
        return replace(plan, why=f"{plan.why}; {text}")
    return plan


def load_initial_model(
    model: str, weights: str, classes: Sequence[str], reporter: Reporter | None = None
) -> InitialModel:
    """Load a backbone by its name, or a bundle by its path or that of its run folder.

    Args:
        weights: the backbone's weights; "auto" for a bundle.
        classes: the classes to train. A bundle with the same classes keeps its head.

    Raises:
        UsageError: there is no such model, or weights were named for a bundle.
        UserError: the weights or the bundle cannot be loaded.
    """
    if model in catalogue.catalogue():
        return InitialModel(build.load_backbone(model, weights, reporter))
    if weights != "auto":
        raise UsageError(
            f"--weights goes with a backbone's name, but {model} is a bundle", "leave it out"
        )
    path = run.find_bundle(model)
    network, meta = open_bundle(path)
    backbone = network.backbone
    backbone.stages = network.stages
    backbone.truncated_after = meta.truncated_after
    # The bundle's head does not know ImageNet's classes, which the evidence is measured with.
    backbone.pretrained = len(network.stages) - 1
    backbone.weights = f"{path.resolve().parent.name}/{path.name}"
    backbone.weights_sha256 = tensors_sha256(network.tensors())
    ancestor = Ancestor(backbone.weights, backbone.weights_sha256, meta.weights)
    head = {k: v.detach() * meta.temperature for k, v in network.final_layer.named_parameters()}
    same_classes = tuple(classes) == meta.classes
    known = f"{len(meta.classes)} classes ({shorten_list(meta.classes, 3)})"
    backbone.notes = [
        f"training {backbone.weights} further; it knows {known}"
        + (", the same as here" if same_classes else "; its head is replaced for the classes here")
    ]
    return InitialModel(backbone, ancestor, head if same_classes else None)


@torch.no_grad()
def copy_head(initial_model: InitialModel, network: Network) -> None:
    """Copy the bundle's final layer into `network`, which has the same classes."""
    for name, parameter in network.final_layer.named_parameters():
        parameter.copy_((initial_model.head or {})[name])


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash the names, types, shapes and values of tensors, however they are stored."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
