"""A backbone that is built: its model, its stages, and what is known of its weights."""

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
        model: float32 [n, 3, h, w], normalised, to logits [n, classes].
        stages: in order; run one after the other they are `model.forward`, bit for bit.
        preprocessing: what the weights were trained with.
        categories: ImageNet's names, where the classifier that knows them was loaded.
        pretrained: how many leading stages hold loaded tensors only.
        weights: what was loaded: "none", torchvision's "IMAGENET1K_V1", a file's name.
        weights_sha256: of the whole file.
        notes: what a person should know of the loading, a sentence each.
        ends: the last stage of the model that is kept, where the chain ends before the model
            does: in a pool and a head of its own. None: it is the whole model.
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
    ends: str | None = None

    @property
    def head(self) -> str:
        """The final classifier layer's path in `model`."""
        return self.family.head

    @property
    def layout(self) -> str:
        """How the stages' feature maps lie: "nchw", "nhwc" or "tokens"."""
        return self.family.layout

    @property
    def origin(self) -> dict[str, str] | None:
        """Whose tensors the pretrained stages hold: what their outputs depend on beside the
        image. None where nothing was loaded."""
        if self.weights_sha256 is None:
            return None
        return {"backbone": self.name, "weights": self.weights_sha256}

    @property
    def head_index(self) -> int:
        """The head's index in `stages`, which is the number of stages before it."""
        return len(self.stages) - 1

    @property
    def classifier(self) -> tuple[Stage, ...]:
        """The stages that a features-only state dict does not have; the head is the last."""
        return tuple(stage for stage in self.stages if stage.part == CLASSIFIER)

    def tensors(self, stages: Iterable[Stage]) -> dict[str, Tensor]:
        """The parameters and persistent buffers of `stages`, as `model.state_dict()` has them."""
        owned = {
            id(tensor) for stage in stages for tensor in stage.state_dict(keep_vars=True).values()
        }
        every = self.model.state_dict(keep_vars=True)
        return {name: tensor.detach() for name, tensor in every.items() if id(tensor) in owned}
