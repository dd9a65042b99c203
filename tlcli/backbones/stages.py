"""Stages: the parts of a backbone's chain, made of torchvision's own modules.

A family divides its models by a row of rules (`stage`, `stage_per_module`, `stage_per_child`,
`stage_per_layer`, `stage_per_block`, `head_stage`). Applied to a model, a rule makes one or more
stages. A stage holds the model's own modules, never copies, so training a stage trains the model.
`tlcli.backbones.layers` has the operations between the modules.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

FEATURES = "features"
CLASSIFIER = "classifier"

Step = str | Callable[[nn.Module], nn.Module]
"""The path of a module in the model, or a function that makes a module from the model."""

StageRule = Callable[[nn.Module], list["Stage"]]
"""Makes stages from a model."""


class Stage(nn.Module):
    """A stage of a backbone: steps that run one after the other.

    Attributes:
        name: unique within the backbone; commands and bundles name cuts by it.
        part: "features", or "classifier" for a stage that features-only weights do not contain.
        steps: the modules, in order.
    """

    def __init__(self, name: str, part: str, steps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.part = part
        self.steps = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.steps(x)
        return out


def stage(name: str, *steps: Step, part: str = FEATURES) -> StageRule:
    """Return the rule for one stage that consists of `steps`."""

    def rule(model: nn.Module) -> list[Stage]:
        modules = [model.get_submodule(s) if isinstance(s, str) else s(model) for s in steps]
        return [Stage(name, part, modules)]

    return rule


def head_stage(*steps: Step) -> StageRule:
    """Return the rule for the last stage: the final classifier layer, with dropout before it and
    whatever follows it."""
    return stage("head", *steps, part=CLASSIFIER)


def stage_per_module(*paths: str) -> StageRule:
    """Return the rule for one stage per module, named like the module."""

    def rule(model: nn.Module) -> list[Stage]:
        return [Stage(_stage_name(path), FEATURES, [model.get_submodule(path)]) for path in paths]

    return rule


def stage_per_child(path: str, start: int = 0, stop: int | None = None) -> StageRule:
    """Return the rule for one stage per child of the module at `path`, as sliced by
    [start:stop]."""

    def rule(model: nn.Module) -> list[Stage]:
        return stage_per_module(*_children(model, path)[start:stop])(model)

    return rule


def stage_per_layer(path: str) -> StageRule:
    """Return the rule for one stage per child with parameters, together with the activation and
    the pooling after it."""

    def rule(model: nn.Module) -> list[Stage]:
        groups: list[list[str]] = []
        for child in _children(model, path):
            if any(True for _ in model.get_submodule(child).parameters()):
                groups.append([])
            groups[-1].append(child)
        return [stage(_stage_name(group[0]), *group)(model)[0] for group in groups]

    return rule


def stage_per_block(path: str) -> StageRule:
    """Return the rule for one stage per run of children that ends in max pooling: block1, ..."""

    def rule(model: nn.Module) -> list[Stage]:
        groups: list[list[str]] = [[]]
        for child in _children(model, path):
            groups[-1].append(child)
            if isinstance(model.get_submodule(child), nn.MaxPool2d):
                groups.append([])
        numbered = enumerate((group for group in groups if group), start=1)
        return [stage(f"block{i}", *group)(model)[0] for i, group in numbered]

    return rule


def child_paths(path: str, start: int, stop: int) -> tuple[str, ...]:
    """Return the paths of the children `start` to `stop - 1` of the sequence at `path`."""
    return tuple(f"{path}.{i}" for i in range(start, stop))


def _children(model: nn.Module, path: str) -> list[str]:
    """Return the paths of all children of the module at `path`."""
    return [f"{path}.{name}" for name, _ in model.get_submodule(path).named_children()]


def _stage_name(path: str) -> str:
    """Return the last part of `path`, with the part before it if the last is a number.

    For example `layer1` or `encoder_layer_0`, but `features.3`.
    """
    parent, _, last = path.rpartition(".")
    return f"{parent.rpartition('.')[2]}.{last}" if last.isdecimal() else last
