"""A backbone as a plain torch module, for programs that load an exported state dict."""

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor, nn

from tlcli.backbones.build import build
from tlcli.backbones.catalogue import NEW_HEAD
from tlcli.backbones.network import Network, build_network


class TruncatedModel(nn.Module):
    """A backbone without its last stages, with pooling and a linear head in their place.

    It maps float32 [n, 3, h, w], normalized, to logits [n, classes]. Its state dict has
    torchvision's names, and "new_head" for the head, although it holds stages.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.stages = network.model
        published = {
            id(tensor): name
            for name, tensor in network.backbone.model.state_dict(keep_vars=True).items()
        }
        self._names = {
            name: published.get(id(tensor), f"{NEW_HEAD}.{name.rpartition('.')[2]}")
            for name, tensor in self.stages.state_dict(prefix="stages.", keep_vars=True).items()
        }
        self.register_state_dict_post_hook(_publish_names)
        self.register_load_state_dict_pre_hook(_restore_names)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.stages(x)
        return logits


def create_model(
    backbone: str,
    *,
    n_classes: int,
    resolution: int | None = None,
    truncated_after: str | None = None,
) -> nn.Module:
    """Build an untrained model whose `load_state_dict` takes what `tlcli export` wrote.

    Args:
        backbone: a name that `tlcli models` lists.
        n_classes: outputs of the final layer.
        resolution: side of the images in pixels; None for the backbone's native one.
        truncated_after: the last stage that is kept; None keeps all of them.

    Raises:
        UsageError: there is no such backbone, or it cannot be built for that resolution.
        ValueError: the backbone has no such stage.
    """
    built = build(backbone, n_classes=n_classes, resolution=resolution)
    if truncated_after is None:
        return built.model
    network = build_network(built, cut=truncated_after, dropped=True, n_classes=n_classes)
    return TruncatedModel(network)


def _publish_names(
    model: TruncatedModel, state: MutableMapping[str, Any], prefix: str, _: Any
) -> None:
    """Rename the tensors of a state dict from their place in `stages` to torchvision's names."""
    for own, published in model._names.items():
        state[prefix + published] = state.pop(prefix + own)


def _restore_names(
    model: TruncatedModel, state: MutableMapping[str, Any], prefix: str, *_: Any
) -> None:
    """Rename the tensors of a state dict that is to be loaded to their place in `stages`."""
    for own, published in model._names.items():
        if prefix + published in state:
            state[prefix + own] = state.pop(prefix + published)
