"""Stages: the links of a backbone's chain, made of torchvision's own modules.

A family's chain is written as a row of links (`one`, `own`, `each`, `layers`, `blocks`); given a
model, a link makes the stages. A stage holds the model's modules themselves, never copies, so
training a stage trains the model. What a model's `forward` does between its modules (flattening,
a mean over the map) is a tiny module here, so that a chain can be cut anywhere and traced by
torch.fx.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

FEATURES = "features"
CLASSIFIER = "classifier"

Step = str | Callable[[nn.Module], nn.Module]  # a module's path, or what makes one of the model
Link = Callable[[nn.Module], list["Stage"]]


class Stage(nn.Module):
    """One link: its steps run one after the other.

    `part` is "features", or "classifier" for what a features-only state dict does not have.
    """

    def __init__(self, name: str, part: str, steps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.part = part
        self.steps = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.steps(x)
        return out


def one(name: str, *steps: Step, part: str = FEATURES) -> Link:
    """One stage of several steps."""

    def link(model: nn.Module) -> list[Stage]:
        made = [model.get_submodule(s) if isinstance(s, str) else s(model) for s in steps]
        return [Stage(name, part, made)]

    return link


def head(*steps: Step) -> Link:
    """The last stage: [dropout,] the final classifier layer and what follows it."""
    return one("head", *steps, part=CLASSIFIER)


def own(*paths: str) -> Link:
    """One stage for each module, under its own name."""

    def link(model: nn.Module) -> list[Stage]:
        return [Stage(_name(path), FEATURES, [model.get_submodule(path)]) for path in paths]

    return link


def each(path: str, start: int = 0, stop: int | None = None) -> Link:
    """One stage for each child of a module, from `start` to before `stop`."""

    def link(model: nn.Module) -> list[Stage]:
        return own(*_children(model, path)[start:stop])(model)

    return link


def layers(path: str) -> Link:
    """One stage for each child that has parameters, with the activation and pooling after it."""

    def link(model: nn.Module) -> list[Stage]:
        groups: list[list[str]] = []
        for child in _children(model, path):
            if any(True for _ in model.get_submodule(child).parameters()):
                groups.append([])
            groups[-1].append(child)
        return [one(_name(group[0]), *group)(model)[0] for group in groups]

    return link


def blocks(path: str) -> Link:
    """One stage for each run of children that ends in max pooling: block1, block2, ..."""

    def link(model: nn.Module) -> list[Stage]:
        groups: list[list[str]] = [[]]
        for child in _children(model, path):
            groups[-1].append(child)
            if isinstance(model.get_submodule(child), nn.MaxPool2d):
                groups.append([])
        named = enumerate((group for group in groups if group), start=1)
        return [one(f"block{i}", *group)(model)[0] for i, group in named]

    return link


def span(path: str, start: int, stop: int) -> tuple[str, ...]:
    """The paths of a sequence's children from `start` to before `stop`."""
    return tuple(f"{path}.{i}" for i in range(start, stop))


def _children(model: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" for name, _ in model.get_submodule(path).named_children()]


def _name(path: str) -> str:
    """`layer1`, `encoder_layer_0`; a bare number keeps the sequence's name: `features.3`."""
    parent, _, last = path.rpartition(".")
    return f"{parent.rpartition('.')[2]}.{last}" if last.isdecimal() else last


# What the models' forward methods do between their modules.
