"""What a run leaves behind."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision

import tlcli
from tlcli.artifacts import bundle, report, run
from tlcli.artifacts.bundle import BundleMeta
from tlcli.artifacts.files import write_json
from tlcli.data.dataset import Dataset
from tlcli.recipes.options import Options
from tlcli.recipes.planning import Planned
from tlcli.transfer.calibrate import Confidence
from tlcli.transfer.device import Compute
from tlcli.transfer.distributed import first
from tlcli.transfer.network import Network
from tlcli.transfer.train import Fit

CHECKPOINT_EVERY = 60.0
"""Seconds between copies of the best so far on disk, while the run goes on."""


@dataclass
class Record:
    """Writes a run's folder: the best so far now and then, everything at the end."""

    folder: Path
    network: Network
    planned: Planned
    options: Options
    compute: Compute
    views: int
    started: float
    saved: float = 0.0
    confidence: Confidence = field(default_factory=Confidence)

    def status(self, result: Fit) -> str:
        """How the run ended, in run.json's words."""
        return result.stopped if result.stopped in ("interrupted", "diverged") else "finished"

    def checkpoint(self, dataset: Dataset) -> None:
        """Keep the network as it is now in checkpoint/, if the last copy is old enough."""
        now = time.perf_counter()
        if first() and now - max(self.saved, self.started) >= CHECKPOINT_EVERY:
            path = self.folder / run.CHECKPOINT / run.BUNDLE
            bundle.save(path, self.network.tensors(), self.meta(dataset, {}))
            run.write_run(self.folder, {"status": "running", **self.what_went_in(dataset)})
            self.saved = now

    def save(
        self,
        dataset: Dataset,
        metrics: Mapping[str, Any],
        history: Sequence[Mapping[str, Any]],
        result: Fit,
        remembered: bool,
    ) -> None:
        """Write all that the run folder holds, run.json with its status last."""
        if not first():
            return
        meta = self.meta(dataset, metrics)
        bundle.save(self.folder / run.BUNDLE, self.network.tensors(), meta)
        run.write_history(self.folder, history)
        write_json(self.folder / "metrics.json", metrics)
        content = {
            "status": self.status(result),
            **self.what_went_in(dataset),
            "remembered": remembered,
            "stopped": result.stopped,
            "best_epoch": result.best_epoch,
            "metrics": metrics,
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        report.write(self.folder, content, history)
        run.write_run(self.folder, content)
        shutil.rmtree(self.folder / run.CHECKPOINT, ignore_errors=True)

    def meta(self, dataset: Dataset, metrics: Mapping[str, Any]) -> BundleMeta:
        """The bundle's description."""
        backbone = self.network.backbone
        novelty = self.confidence.novelty
        return BundleMeta(
            backbone=backbone.name,
            cut=self.planned.plan.cut,
            dropped=self.network.dropped,
            classes=dataset.classes,
            preprocessing=backbone.preprocessing,
            plan=self.planned.plan.to_dict(),
            metrics=metrics,
            dataset=dataset.digest,
            seed=self.options.seed,
            versions=versions(),
            weights=backbone.weights,
            calibration=self.confidence.to_dict(),
            novelty=None if novelty is None else novelty.to_dict(),
        )

    def what_went_in(self, dataset: Dataset) -> dict[str, Any]:
        """Data, options and plan, as they were resolved."""
        backbone = self.network.backbone
        asked = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.options).items()}
        return {
            "backbone": backbone.name,
            "weights": backbone.weights,
            "weights_sha256": backbone.weights_sha256,
            "preprocessing": backbone.preprocessing.to_dict(),
            "dataset": {
                "root": str(dataset.root),
                "digest": dataset.digest,
                "layout": dataset.layout,
                "classes": dataset.counts(),
                "warnings": list(dataset.warnings),
            },
            "options": asked,
            "plan": self.planned.plan.to_dict(),
            "forecast_s": {k: round(v, 1) for k, v in self.planned.forecast_s.items()},
            "views": self.views,
            "compute": self.compute.name,
            "forward_batch_size": self.compute.batch_size,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """What equal bytes depend on."""
    return {
        "tlcli": tlcli.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
