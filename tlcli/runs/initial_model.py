"""Where a run begins: a backbone with published weights, or a bundle that is trained further."""

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
from tlcli.planning.plan import Plan
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.text import shorten_list


@dataclass(frozen=True)
class InitialModel:
    """What a run begins with.

    Attributes:
        backbone: of a bundle: its stages and its preprocessing; all but its head is pretrained.
        ancestor: of a bundle: what the new one says of it.
        head: of a bundle with the same classes: its final layer's tensors, as it was trained.
    """

    backbone: Backbone
    ancestor: Ancestor | None = None
    head: Mapping[str, Tensor] | None = None

    def keeps_head(self, plan: Plan) -> bool:
        """Whether the plan goes on with the bundle's final layer."""
        config = plan.training
        return self.head is not None and not config.solves_head and config.init == INIT


INIT = TrainingConfig.init


def trained_further(plan: Plan, origin: InitialModel) -> Plan:
    """The plan for a bundle: its head, where it is kept, is not solved first, and it is said."""
    if origin.ancestor is None:
        return plan
    if origin.keeps_head(plan):
        config = replace(plan.training, head_first=False)
        why = f"{plan.why}; the bundle's head knows these classes and is trained further"
        return replace(plan, training=config, why=why)
    if origin.head is not None:
        why = f"{plan.why}; the bundle's head knows these classes, but a new one is "
        return replace(plan, why=why + ("solved" if plan.training.init == INIT else "drawn"))
    return plan


def load_initial_model(
    model: str, weights: str, classes: Sequence[str], reporter: Reporter | None = None
) -> InitialModel:
    """The backbone of that name with its weights, or the bundle (or run folder) at that path.

    Raises:
        UsageError: neither, or weights were named for a bundle.
        UserError: the weights or the bundle cannot be had.
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
    # Its head knows other things than ImageNet's, so evidence and plan do without.
    backbone.pretrained = len(network.stages) - 1
    backbone.weights = f"{path.resolve().parent.name}/{path.name}"
    backbone.weights_sha256 = tensors_sha256(network.tensors())
    ancestor = Ancestor(backbone.weights, backbone.weights_sha256, meta.weights)
    head = {k: v.detach() * meta.temperature for k, v in network.final_layer.named_parameters()}
    same = tuple(classes) == meta.classes
    known = f"{len(meta.classes)} classes ({shorten_list(meta.classes, 3)})"
    backbone.notes = [
        f"{backbone.weights} is trained further; it knows {known}"
        + (", the same as here" if same else ", and its head is replaced for those here")
    ]
    return InitialModel(backbone, ancestor, head if same else None)


@torch.no_grad()
def copy_head(origin: InitialModel, network: Network) -> None:
    """Put the bundle's final layer into `network`, which is built for the same classes."""
    for name, parameter in network.final_layer.named_parameters():
        parameter.copy_((origin.head or {})[name])


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and values: the same wherever and however they are stored."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
