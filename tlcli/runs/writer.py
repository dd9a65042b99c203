"""The files of a run folder, written during the run and at its end."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.atomic import Unwritable, write_json, write_text
from tlcli.artifacts.bundle import BundleMeta, save_bundle
from tlcli.artifacts.checkpoint import save_checkpoint
from tlcli.artifacts.report import Report, write_report
from tlcli.backbones.network import Network
from tlcli.data.dataset import Dataset
from tlcli.metrics.metrics import Metrics
from tlcli.planning.planned import Planned
from tlcli.runs.config_file import to_toml
from tlcli.runs.context import RunContext
from tlcli.runs.description import (
    RunDescription,
    RunOutcome,
    RunRecord,
    current_versions,
    describe_run,
)
from tlcli.runs.progress import TrainingProgress
from tlcli.runs.request import RunRequest
from tlcli.runs.state import RunState
from tlcli.runtime.distributed.process_group import is_rank0
from tlcli.training.calibration import CalibrationResult
from tlcli.training.trainer import State

BEST_INTERVAL_SECONDS = 60.0
"""Seconds between two copies of the best weights so far, during the run."""
MAX_CHECKPOINT_SHARE = 0.1
"""Share of the time that saving the state after each epoch may take; short epochs share one."""


@dataclass
class RunWriter:
    """Writes a run folder: the description, now and then the state and the best weights so far,
    and everything at the end. In a job of several processes only rank 0 writes.

    Attributes:
        started: when this part of the run began, by `time.perf_counter`.
        earlier_seconds: how long earlier parts of the run took.
        planned, network, views: None until they are known.
    """

    context: RunContext
    started: float
    earlier_seconds: float = 0.0
    planned: Planned | None = None
    network: Network | None = None
    views: int | None = None
    calibration: CalibrationResult = field(default_factory=CalibrationResult)
    best_saved_at: float = 0.0
    state_saved_at: float = 0.0
    state_save_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the run has taken, without pauses."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def begin(self, dataset: Dataset, request: RunRequest) -> None:
        """Describe the run before its plan is made, so that it can be resumed from here on."""
        if not is_rank0():
            return
        if request.state is not None:
            # Before run.json, which must not be ahead of the state.
            save_checkpoint(run.state_file(self.context.folder), request.state.to_dict())
        self._write_description(replace(self._describe(dataset), plan=request.plan))

    def begin_training(
        self, dataset: Dataset, planned: Planned, network: Network, views: int
    ) -> None:
        """Describe the run with its plan, before training begins."""
        self.planned, self.network, self.views = planned, network, views
        if is_rank0():
            self._write_description(self._describe(dataset))

    def _write_description(self, description: RunDescription) -> None:
        record = RunRecord("running", description)
        run.write_run_json(self.context.folder, record.to_dict())
        write_text(self.context.folder / run.OPTIONS, self.options_text())

    def options_text(self) -> str:
        """Return the options as TOML, with the values that the plan chose."""
        chosen: dict[str, Any] = {}
        if self.planned is not None:
            plan = self.planned.plan
            chosen = asdict(plan.training)
            if plan.training.solves_head:
                chosen = {"optimizer": plan.training.optimizer}
            chosen |= {"case": None if plan.case == "custom" else plan.case, "views": self.views}
        return to_toml(self.context.options, self.context.scanned.root.resolve(), chosen)

    def save_best(self, dataset: Dataset) -> None:
        """Save the network as it is now in checkpoint/, if the last copy is old enough."""
        now = time.perf_counter()
        if not is_rank0() or now - max(self.best_saved_at, self.started) < BEST_INTERVAL_SECONDS:
            return
        path = self.context.folder / run.CHECKPOINT / run.BUNDLE
        try:
            self._save_bundle(path, dataset, None)
        except Unwritable as error:
            self.context.reporter.warn(f"{error.message}; training continues without it")
        self.best_saved_at = now

    def save_state(
        self, progress: TrainingProgress, phase: int, make_state: Callable[[], State], when: str
    ) -> None:
        """Save the state if it is due, so that the run can be resumed from here.

        On a full disk the previous checkpoint stays and training continues.

        Args:
            progress: the results of the phases before this one.
            phase: index of this phase.
            make_state: makes the state of this phase.
            when: after a "step", an "epoch", or the "last" epoch.
        """
        if not is_rank0():
            return
        now = time.perf_counter()
        interval = {
            "step": 60 * self.context.options.checkpoint_minutes,
            "epoch": self.state_save_seconds / MAX_CHECKPOINT_SHARE,
            "last": 0.0,
        }
        if now - max(self.state_saved_at, self.started) < interval[when]:
            return
        state = RunState(
            run=self._describe(progress.dataset),
            phase=phase,
            history=progress.history,
            trained=progress.improved,
            seconds=self.seconds,
            fit=make_state(),
        )
        try:
            save_checkpoint(run.state_file(self.context.folder), state.to_dict())
        except Unwritable as error:
            self.context.reporter.warn(
                f"{error.message}; training continues without this checkpoint"
            )
        self.state_saved_at = time.perf_counter()
        self.state_save_seconds = self.state_saved_at - now

    def save(self, progress: TrainingProgress, metrics: Metrics) -> None:
        """Write everything that the run folder holds, run.json with the status last.

        The state stays, so that epochs can be added; a solved head has none.
        """
        folder, result, latest = self.context.folder, progress.result, progress.latest
        self._save_bundle(folder / run.BUNDLE, progress.dataset, metrics)
        run.write_history(folder, progress.history)
        write_json(folder / "metrics.json", metrics.to_dict())
        if result.lr_curve:
            points = [{"lr": lr, "loss": loss} for lr, loss in result.lr_curve]
            run.write_history(folder, points, "lr_find.csv")
        outcome = RunOutcome(
            cached=latest is not None and latest.sources.cached,
            stopped=result.stopped,
            best_epoch=result.best_epoch,
            metrics=metrics,
            seconds=round(self.seconds, 2),
            found_lr=result.found_lr if result.lr_curve else None,
        )
        record = RunRecord(progress.status, self._describe(progress.dataset), outcome)
        write_report(folder, self._report(record, metrics, progress))
        run.write_run_json(folder, record.to_dict())
        state_file = run.state_file(folder)
        if state_file.exists():
            (state_file.parent / run.BUNDLE).unlink(missing_ok=True)
        else:
            shutil.rmtree(state_file.parent, ignore_errors=True)

    def _report(self, record: RunRecord, metrics: Metrics, progress: TrainingProgress) -> Report:
        assert self.planned is not None
        description = record.description
        return Report(
            dataset=progress.dataset.root.resolve().name,
            backbone=description.backbone,
            weights=description.weights,
            status=record.status,
            seconds=self.seconds,
            compute=description.compute,
            seed=self.context.options.seed,
            plan=self.planned.plan,
            metrics=metrics,
            history=progress.history,
            lr_curve=progress.result.lr_curve,
            found_lr=progress.result.found_lr,
            warnings=description.dataset.warnings,
        )

    def _describe(self, dataset: Dataset) -> RunDescription:
        return describe_run(self.context, dataset, self.planned, self.views)

    def _save_bundle(self, path: Path, dataset: Dataset, metrics: Metrics | None) -> None:
        assert self.network is not None
        save_bundle(path, self.network.tensors(), self._bundle_metadata(dataset, metrics))

    def _bundle_metadata(self, dataset: Dataset, metrics: Metrics | None) -> BundleMeta:
        assert self.planned is not None
        initial_model, plan = self.context.initial_model, self.planned.plan
        backbone = initial_model.backbone
        return BundleMeta(
            backbone=backbone.name,
            cut=plan.cut,
            classes=dataset.classes,
            preprocessing=backbone.preprocessing,
            plan=plan.to_dict(),
            metrics=metrics,
            dataset=dataset.digest,
            seed=self.context.options.seed,
            versions=current_versions(),
            weights=backbone.weights,
            calibration=self.calibration.calibration,
            ood_detector=self.calibration.ood_detector,
            truncated_after=plan.cut if plan.dropped else backbone.truncated_after,
            ancestor=initial_model.ancestor,
        )
