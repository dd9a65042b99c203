"""run.json as data: the inputs of a run as they were resolved, and how it ended."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch

from tlcli._version import __version__
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.dataset import Dataset
from tlcli.metrics.metrics import Metrics
from tlcli.planning.plan import Plan
from tlcli.planning.planned import Planned
from tlcli.runs.config_file import absolute
from tlcli.runs.context import RunContext
from tlcli.runs.options import Options
from tlcli.runtime.torchvision_without_dynamo import torchvision


@dataclass(frozen=True)
class DatasetDescription:
    """The images of a run.

    Attributes:
        root: absolute path of the folder.
        digest: SHA-256 of the images that are used.
        scanned: SHA-256 of the images as they were found, unreadable ones included.
        left_out: paths of the unreadable images, relative to `root`.
        layout: see `tlcli.data.dataset.Dataset`.
        classes: {class: {"train": n, "val": n, "test": n}}.
        warnings: the warnings about the images that were reported.
    """

    root: str
    digest: str
    scanned: str
    left_out: list[str]
    layout: str
    classes: Mapping[str, Mapping[str, int]]
    warnings: list[str]


@dataclass(frozen=True)
class AugmentationDescription:
    """How a run's training images are varied.

    Attributes:
        transforms: strengths of the transforms by name; None before the plan is made.
        colors: the training images' color statistics, where colors are varied; its key in JSON
            is "colours".
    """

    transforms: Mapping[str, float] | None
    colors: Any


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """Everything that a run's result depends on, as it was resolved.

    Attributes:
        weights: the backbone's weights by name, and `weights_sha256` their SHA-256.
        preprocessing: as `Preprocessing.to_dict` gives it.
        options: the run's options; paths are absolute.
        plan: None before it is made.
        forecast_s: see `Planned`; None before the plan is made.
        views: views cached per image; None before they are chosen.
        compute: device and precision, such as "cpu bf16".
        forward_batch_size: images per batch of a forward pass.
        threads: how many threads torch uses.
        machine: the CPU's capability by torch's name.
        versions: of tlcli, torch and torchvision.
    """

    backbone: str
    weights: str
    weights_sha256: str | None
    preprocessing: Mapping[str, Any]
    dataset: DatasetDescription
    options: Options
    augmentation: AugmentationDescription
    plan: Plan | None
    forecast_s: Mapping[str, float] | None
    views: int | None = None
    compute: str
    forward_batch_size: int
    threads: int
    machine: str | None = None
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the description in plain JSON types, as run.json and checkpoints store it."""
        options = self.options.values()
        options = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
        augmentation = self.augmentation
        return {
            **vars(self),
            "dataset": asdict(self.dataset),
            "options": options,
            "augmentation": {
                "transforms": augmentation.transforms,
                "colours": augmentation.colors,
            },
            "plan": None if self.plan is None else self.plan.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the content that `to_dict` returned; other keys of run.json are ignored.

        Raises:
            KeyError, TypeError: a field is missing, unknown or of another kind.
        """
        own = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        own["dataset"] = DatasetDescription(**content["dataset"])
        own["options"] = Options(**content["options"])
        own["augmentation"] = AugmentationDescription(
            content["augmentation"]["transforms"], content["augmentation"]["colours"]
        )
        own["plan"] = Plan.from_dict(content["plan"]) if content["plan"] else None
        return cls(**own)


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        cached: whether the last phase trained on cached features; its key in JSON is
            "remembered".
        stopped: "finished", "early" (patience), "interrupted" (Ctrl-C) or "diverged".
        best_epoch: the epoch whose weights are saved; None where none was an improvement.
        seconds: how long the run took, without pauses.
        found_lr: the learning rate that a range test picked; None where there was no test.
    """

    cached: bool
    stopped: str
    best_epoch: int | None
    metrics: Metrics
    seconds: float
    found_lr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome in plain JSON types."""
        content = {
            "remembered": self.cached,
            "stopped": self.stopped,
            "best_epoch": self.best_epoch,
            "metrics": self.metrics.to_dict(),
            "seconds": self.seconds,
        }
        return content if self.found_lr is None else {**content, "found_lr": self.found_lr}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the content that `to_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        return cls(
            content["remembered"],
            content["stopped"],
            content["best_epoch"],
            Metrics.from_dict(content["metrics"]),
            content["seconds"],
            content.get("found_lr"),
        )


@dataclass(frozen=True)
class RunRecord:
    """run.json: the description of a run, its status and, once it has ended, its outcome.

    Attributes:
        status: "running", "finished", "interrupted" or "diverged".
    """

    status: str
    description: RunDescription
    outcome: RunOutcome | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return run.json's content."""
        outcome = {} if self.outcome is None else self.outcome.to_dict()
        return {"status": self.status, **self.description.to_dict(), **outcome}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read run.json's content.

        Raises:
            KeyError, TypeError: a field is missing, unknown or of another kind.
        """
        outcome = RunOutcome.from_dict(content) if "stopped" in content else None
        return cls(content["status"], RunDescription.from_dict(content), outcome)


def describe_run(
    context: RunContext, dataset: Dataset, planned: Planned | None, views: int | None
) -> RunDescription:
    """Describe a run.

    Args:
        dataset: the images that are used.
        planned, views: None before they are known.
    """
    options, compute, backbone = context.options, context.compute, context.initial_model.backbone
    paths = {k: absolute(k, v, Path()) for k, v in options.values().items()}
    return RunDescription(
        backbone=backbone.name,
        weights=backbone.weights,
        weights_sha256=backbone.weights_sha256,
        preprocessing=backbone.preprocessing.to_dict(),
        dataset=_describe_dataset(dataset, context.scanned),
        options=Options(**paths),
        augmentation=AugmentationDescription(
            parse_augment(planned.plan.training.augment) if planned else None,
            getattr(planned and planned.augmentation, "principal_colors", None),
        ),
        plan=planned.plan if planned else None,
        forecast_s={k: round(v, 1) for k, v in planned.forecast_s.items()} if planned else None,
        views=views,
        compute=compute.name,
        forward_batch_size=compute.batch_size,
        threads=torch.get_num_threads(),
        machine=torch.backends.cpu.get_cpu_capability(),
        versions=current_versions(),
    )


def _describe_dataset(dataset: Dataset, scanned: Dataset) -> DatasetDescription:
    used = {sample.path for sample in dataset.samples}
    return DatasetDescription(
        root=str(dataset.root.resolve()),
        digest=dataset.digest,
        scanned=scanned.digest,
        left_out=[
            str(sample.path.relative_to(dataset.root))
            for sample in scanned.samples
            if sample.path not in used
        ],
        layout=dataset.layout,
        classes=dataset.counts(),
        warnings=list(dataset.warnings),
    )


def current_versions() -> dict[str, str]:
    """Return the versions that equal bytes depend on."""
    return {
        "tlcli": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
