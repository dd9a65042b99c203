"""What a run leaves behind."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tlcli._version import __version__
from tlcli.artifacts import bundle, checkpoint, report
from tlcli.artifacts import run_folder as run
from tlcli.artifacts.atomic import Unwritable, write_json, write_text
from tlcli.artifacts.bundle import BundleMeta
from tlcli.backbones.network import Network
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.dataset import Dataset
from tlcli.metrics.metrics import Metrics
from tlcli.planning.plan import Plan
from tlcli.planning.planned import Planned
from tlcli.reporter import Reporter
from tlcli.runs.config_file import absolute, to_toml
from tlcli.runs.initial_model import InitialModel
from tlcli.runs.options import Options
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.process_group import is_rank0
from tlcli.runtime.torchvision_without_dynamo import torchvision
from tlcli.training.calibration import Confidence
from tlcli.training.trainer import FitResult, State

BEST_EVERY = 60.0
"""Seconds between bundles of the best so far, while the run goes on."""
SHARE = 0.1
"""Of the time, at most so much goes into saving the state after each epoch; quick epochs share."""


@dataclass
class RunWriter:
    """Writes a run's folder: what went in, the state and the best so far now and then, and
    everything at the end. Of a job's processes the first alone writes.

    Attributes:
        scanned: the dataset as it was found, unreadable images and all.
        planned, network, views: None until they are known.
        before: seconds that earlier parts of the run took.
    """

    folder: Path
    options: Options
    compute: Compute
    scanned: Dataset
    origin: InitialModel
    reporter: Reporter
    started: float
    before: float = 0.0
    planned: Planned | None = None
    network: Network | None = None
    views: int | None = None
    best_saved: float = 0.0
    state_saved: float = 0.0
    state_took: float = 0.0
    confidence: Confidence = field(default_factory=Confidence)

    @property
    def seconds(self) -> float:
        """That the run has taken, without pauses."""
        return self.before + time.perf_counter() - self.started

    def begin(
        self, dataset: Dataset, plan: Plan | None, state: Mapping[str, Any] | None = None
    ) -> None:
        """Say what goes in, so that a run that is killed from here on can go on.

        Args:
            plan: None where it is not made yet.
            state: from which the run goes on: before run.json, which must not be ahead of it.
        """
        if not is_rank0():
            return
        if state is not None:
            checkpoint.save(run.state_file(self.folder), state)
        run.write_run_json(
            self.folder,
            {"status": "running", **self.what_went_in(dataset), "plan": plan_json(plan)},
        )
        write_text(self.folder / run.OPTIONS, self.options_text())

    def options_text(self) -> str:
        """The options as TOML, with what the plan chose."""
        chosen: dict[str, Any] = {}
        if self.planned is not None:
            plan = self.planned.plan
            chosen = asdict(plan.training)
            if plan.training.solves_head:
                chosen = {"optimizer": plan.training.optimizer}
            chosen |= {"case": None if plan.case == "custom" else plan.case, "views": self.views}
        return to_toml(self.options, self.scanned.root.resolve(), chosen)

    def status(self, result: FitResult) -> str:
        """How the run ended, in run.json's words."""
        return result.stopped if result.stopped in ("interrupted", "diverged") else "finished"

    def keep_best(self, dataset: Dataset) -> None:
        """Keep the network as it is now in checkpoint/, if the last copy is old enough."""
        now = time.perf_counter()
        if is_rank0() and now - max(self.best_saved, self.started) >= BEST_EVERY:
            path = self.folder / run.CHECKPOINT / run.BUNDLE
            try:
                bundle.save(path, self._network.tensors(), self.meta(dataset, None))
            except Unwritable as error:
                self.reporter.warn(f"{error.message}; going on without")
            self.best_saved = now

    def keep_state(
        self,
        dataset: Dataset,
        phase: int,
        history: Sequence[Mapping[str, Any]],
        trained: bool,
        make: Callable[[], State],
        when: str,
    ) -> None:
        """Save the state where it is due, so that the run can go on from here.

        A disk that is full costs the checkpoint, not the run: the one before stays.

        Args:
            phase: its index in the plan's phases.
            history: the rows of the phases before it.
            trained: whether those have made the network better.
            make: gives the phase's state.
            when: after a "step", an "epoch", or the "last" epoch.
        """
        if not is_rank0():
            return
        now = time.perf_counter()
        pause = {
            "step": 60 * self.options.checkpoint_minutes,
            "epoch": self.state_took / SHARE,
            "last": 0.0,
        }
        if now - max(self.state_saved, self.started) < pause[when]:
            return
        state = {
            "run": self.what_went_in(dataset),
            "phase": phase,
            "history": list(history),
            "trained": trained,
            "seconds": self.seconds,
            "fit": make(),
        }
        try:
            checkpoint.save(run.state_file(self.folder), state)
        except Unwritable as error:
            self.reporter.warn(f"{error.message}; going on without this checkpoint")
        self.state_saved = time.perf_counter()
        self.state_took = self.state_saved - now

    def save(
        self,
        dataset: Dataset,
        metrics: Metrics,
        history: Sequence[Mapping[str, Any]],
        result: FitResult,
        remembered: bool,
    ) -> None:
        """Write all that the run folder holds, run.json with its status last.

        The state stays, for the run to be extended; a solved head has none.
        """
        meta = self.meta(dataset, metrics)
        bundle.save(self.folder / run.BUNDLE, self._network.tensors(), meta)
        run.write_history(self.folder, history)
        write_json(self.folder / "metrics.json", metrics.to_dict())
        content = {
            "status": self.status(result),
            **self.what_went_in(dataset),
            "remembered": remembered,
            "stopped": result.stopped,
            "best_epoch": result.best_epoch,
            "metrics": metrics.to_dict(),
            "seconds": round(self.seconds, 2),
        }
        if result.lr_curve:
            content["found_lr"] = result.found_lr
            points = [{"lr": lr, "loss": loss} for lr, loss in result.lr_curve]
            run.write_history(self.folder, points, "lr_find.csv")
        report.write(self.folder, content, metrics, history, result.lr_curve)
        run.write_run_json(self.folder, content)
        kept = run.state_file(self.folder)
        if kept.exists():
            (kept.parent / run.BUNDLE).unlink(missing_ok=True)
        else:
            shutil.rmtree(kept.parent, ignore_errors=True)

    @property
    def _network(self) -> Network:
        assert self.network is not None
        return self.network

    def meta(self, dataset: Dataset, metrics: Metrics | None) -> BundleMeta:
        """The bundle's description."""
        assert self.planned is not None
        backbone, plan = self.origin.backbone, self.planned.plan
        return BundleMeta(
            backbone=backbone.name,
            cut=plan.cut,
            classes=dataset.classes,
            preprocessing=backbone.preprocessing,
            plan=plan.to_dict(),
            metrics=metrics,
            dataset=dataset.digest,
            seed=self.options.seed,
            versions=versions(),
            weights=backbone.weights,
            calibration=self.confidence.calibration,
            ood_detector=self.confidence.ood_detector,
            truncated_after=plan.cut if plan.dropped else backbone.truncated_after,
            ancestor=self.origin.ancestor,
        )

    def what_went_in(self, dataset: Dataset) -> dict[str, Any]:
        """Data, options and plan, as they were resolved; paths absolute."""
        backbone, planned = self.origin.backbone, self.planned
        asked = {k: absolute(k, v, Path()) for k, v in asdict(self.options).items()}
        asked = {k: str(v) if isinstance(v, Path) else v for k, v in asked.items()}
        there = {s.path for part in (dataset.train, dataset.val, dataset.test) for s in part}
        found = (*self.scanned.train, *self.scanned.val, *self.scanned.test)
        return {
            "backbone": backbone.name,
            "weights": backbone.weights,
            "weights_sha256": backbone.weights_sha256,
            "preprocessing": backbone.preprocessing.to_dict(),
            "dataset": {
                "root": str(dataset.root.resolve()),
                "digest": dataset.digest,
                "scanned": self.scanned.digest,
                "left_out": [
                    str(s.path.relative_to(dataset.root)) for s in found if s.path not in there
                ],
                "layout": dataset.layout,
                "classes": dataset.counts(),
                "warnings": list(dataset.warnings),
            },
            "options": asked,
            "augmentation": {
                "transforms": parse_augment(planned.plan.training.augment) if planned else None,
                "colours": getattr(planned and planned.augmentation, "principal_colors", None),
            },
            "plan": plan_json(planned.plan if planned else None),
            "forecast_s": planned and {k: round(v, 1) for k, v in planned.forecast_s.items()},
            "views": self.views,
            "compute": self.compute.name,
            "forward_batch_size": self.compute.batch_size,
            "threads": torch.get_num_threads(),
            "machine": torch.backends.cpu.get_cpu_capability(),
            "versions": versions(),
        }


def plan_json(plan: Plan | None) -> dict[str, Any] | None:
    """The plan as JSON has it."""
    return None if plan is None else plan.to_dict()


def versions() -> dict[str, str]:
    """What equal bytes depend on."""
    return {
        "tlcli": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
