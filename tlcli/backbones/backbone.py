"""The class `Backbone`: a model, its stages, its preprocessing, and the weights it was given."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from tlcli.backbones.family import Family
from tlcli.backbones.stages import CLASSIFIER, Stage
from tlcli.data.preprocessing import Preprocessing


@dataclass
class Backbone:
    """A model and its chain of stages, which share their modules.

    Attributes:
        name: the model's name in the catalogue.
        family: the family that the model belongs to.
        model: float32 [n, 3, h, w], normalized, to logits [n, classes].
        stages: in order; run one after the other they are `model.forward`, bit for bit.
        preprocessing: the preprocessing that the weights were trained with.
        categories: ImageNet's class names, if a classifier for them was loaded.
        pretrained: number of leading stages that hold loaded tensors only.
        weights: label of the loaded weights: "none", torchvision's "IMAGENET1K_V1", or a file's
            name.
        weights_sha256: SHA-256 (hex) of the whole weight file.
        notes: messages about the loading, a sentence each.
        truncated_after: name of the last of the model's own stages that are kept, if a pooling
            stage and a head of their own replace the later ones. None: the model is complete.
    """

    name: str
    family: Family
    model: nn.Module
    stages: tuple[Stage, ...]
    preprocessing: Preprocessing
    categories: tuple[str, ...] | None = None
    pretrained: int = 0
    weights: str = "none"
    weights_sha256: str | None = None
    notes: list[str] = field(default_factory=list)
    truncated_after: str | None = None

    @property
    def head(self) -> str:
        """Path of the final classifier layer in `model`."""
        return self.family.head

    @property
    def head_index(self) -> int:
        """The head's index in `stages`, which is the number of stages before it."""
        return len(self.stages) - 1

    @property
    def classifier(self) -> tuple[Stage, ...]:
        """The stages that features-only weights do not contain; the head is the last."""
        return tuple(stage for stage in self.stages if stage.part == CLASSIFIER)

    @property
    def layout(self) -> str:
        """Memory layout of the stages' feature maps: "nchw", "nhwc" or "tokens"."""
        return self.family.layout

    @property
    def origin(self) -> dict[str, str] | None:
        """Identity of the pretrained tensors, for cache keys; None if nothing was loaded."""
        if self.weights_sha256 is None:
            return None
        return {"backbone": self.name, "weights": self.weights_sha256}

    def tensors(self, stages: Iterable[Stage]) -> dict[str, Tensor]:
        """Return the parameters and persistent buffers of `stages`, named as in
        `model.state_dict()`."""
        owned = {
            id(tensor) for stage in stages for tensor in stage.state_dict(keep_vars=True).values()
        }
        state = self.model.state_dict(keep_vars=True)
        return {name: tensor.detach() for name, tensor in state.items() if id(tensor) in owned}
