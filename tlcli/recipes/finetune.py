"""The main job: from a folder of images to a trained classifier in a run folder."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch

from tlcli.artifacts import run_folder
from tlcli.artifacts.tensorboard import Board, NoBoard, check_installed, open_board
from tlcli.backbones.network import Network, build_network
from tlcli.data.dataset import Dataset
from tlcli.errors import UsageError
from tlcli.features.cache import feature_cache
from tlcli.metrics.classification import metrics_of_no_images
from tlcli.planning.plan import Plan
from tlcli.recipes.broadcast_plan import decide_on_rank0
from tlcli.recipes.decide import PlanRequest, choose_cached_views, scan_and_warn
from tlcli.recipes.finish_run import (
    calibrate_and_score,
    raise_if_incomplete,
    report_forecast_error,
    save_run,
)
from tlcli.recipes.train_phase import TrainingJob, train_phases
from tlcli.reporter import Reporter
from tlcli.runs.context import RunContext
from tlcli.runs.initial_model import InitialModel, copy_head, load_initial_model
from tlcli.runs.interruption import resumable
from tlcli.runs.option_values import OptionValues
from tlcli.runs.options import Options
from tlcli.runs.progress import TrainingProgress
from tlcli.runs.request import RunRequest, new_run
from tlcli.runs.resume import check_same, reopen_run
from tlcli.runs.writer import RunWriter
from tlcli.runtime import device
from tlcli.runtime.distributed.collectives import broadcast_from_first, local_rank_first
from tlcli.runtime.distributed.process_group import is_rank0, process_group
from tlcli.runtime.distributed.sharding import check_batch_size
from tlcli.runtime.workers import torch_threads


@dataclass(frozen=True)
class Run:
    """A run that ended.

    Attributes:
        folder: the run folder; `bundle` is its model.safetensors.
        plan: what was frozen and trained, and why.
        metrics: the content of metrics.json: of the validation images, and under "test" of the
            test images, if there are any.
        status: "finished", or "interrupted": the best so far was saved.
    """

    folder: Path
    plan: Plan
    metrics: Mapping[str, Any]
    status: str

    @property
    def bundle(self) -> Path:
        """The trained model's file."""
        return self.folder / run_folder.BUNDLE


def finetune(
    data: str | Path | None = None,
    options: Options | None = None,
    *,
    config: str | Path | None = None,
    resume: str | Path | None = None,
    reporter: Reporter | None = None,
    **more: Unpack[OptionValues],
) -> Run:
    """Train a classifier on a folder of images and save it in a run folder.

    Args:
        data: DIR/<class>/**/image, or DIR/train and DIR/val of that form. May be left out if
            `config` names it, or with `resume`.
        options: all options at once; or give them by name: `finetune("flowers", model="vgg16")`.
        config: a TOML file with options; options given here win.
        resume: the run folder of a stopped run to resume; `epochs="+10"` adds epochs.
        reporter: receives progress, notes and warnings.
        more: options by name, the fields of `tlcli.Options`.

    Raises:
        UserError: the data, the weights or an option cannot be used; with a hint what to do.
        KeyboardInterrupt: interrupted before there was a network to save. The run folder is kept
            and can be resumed.
    """
    given = {**(options.non_default() if options else {}), **more}
    with process_group(reporter or Reporter()) as reporter:
        if resume is None:
            return _finetune(new_run(data, config, given), reporter)
        if config is not None:
            raise UsageError("--resume uses the run's own options", "leave out --config")
        folder = Path(resume)
        folder = folder.parent if folder.name == run_folder.BUNDLE else folder
        with run_folder.locked(folder):
            request = reopen_run(folder, data, given)
            with torch_threads(request.threads):
                return _finetune(request, reporter)


def _finetune(request: RunRequest, reporter: Reporter) -> Run:
    """Scan, measure and plan, cut, train on features, evaluate, save."""
    started, options, is_new = time.perf_counter(), request.options, request.folder is None
    compute = device.choose_device(*request.device_and_precision, options.compile)
    _check_requirements(options)

    dataset = scanned = scan_and_warn(request.data, options, reporter)
    torch.manual_seed(options.seed)
    initial_model = _load_initial_model(options, scanned.classes, reporter)
    if not is_new:
        dataset = check_same(request, scanned, initial_model, reporter)
    folder = request.folder or _create_folder(scanned, initial_model, options)
    context = RunContext(folder, options, compute, scanned, initial_model, reporter)
    writer = RunWriter(context, started, request.seconds)
    with ExitStack() as stack:
        if is_new:
            stack.enter_context(run_folder.locked(folder))
        stack.enter_context(resumable(folder, is_new, reporter))
        cache = stack.enter_context(feature_cache(options.cache, options.cache_limit, reporter))
        writer.begin(dataset, request)

        to_plan = PlanRequest(dataset, initial_model, options, compute, cache, reporter)
        planned = decide_on_rank0(to_plan, request.plan)
        for line in planned.lines():
            reporter.note(line)
        plan, dataset, planned_at = planned.plan, planned.dataset, time.perf_counter()
        views = choose_cached_views(planned, options, request.views, reporter)

        network = _cut_network(plan, initial_model, len(dataset.classes), options.seed)
        writer.begin_training(dataset, planned, network, views.n)
        board = stack.enter_context(_open_board(writer, request.epochs_done + 1))
        job = TrainingJob(context, request, writer, planned, network, views, cache, board)
        improved = request.improved or initial_model.keeps_head(plan)
        progress = TrainingProgress(dataset, improved, request.history)
        try:
            train_phases(job, progress)
            metrics = calibrate_and_score(job, progress)
        except KeyboardInterrupt:
            # Between phases or while scoring: the trained network is worth more than its metrics.
            if not progress.has_best:
                raise
            progress.result.stopped = "interrupted"
            metrics = metrics_of_no_images(progress.dataset.classes)

        save_run(job, progress, metrics)
        raise_if_incomplete(job, progress)
        report_forecast_error(planned, progress, planned_at, reporter)
        return Run(folder, plan, metrics.to_dict(), progress.status)


def _check_requirements(options: Options) -> None:
    """Check what can be checked before the images are read."""
    if options.log:
        check_installed()
    if options.batch_size:
        check_batch_size(options.batch_size)


def _load_initial_model(
    options: Options, classes: tuple[str, ...], reporter: Reporter
) -> InitialModel:
    load = partial(load_initial_model, options.model, options.weights, classes, reporter)
    initial_model = local_rank_first(load)
    for line in initial_model.backbone.notes:
        reporter.note(line)
    return initial_model


def _create_folder(scanned: Dataset, initial_model: InitialModel, options: Options) -> Path:
    """Create the run folder on rank 0 and broadcast its path."""
    create = partial(run_folder.create_run_folder, scanned.root, initial_model.backbone.name)
    return Path(broadcast_from_first(lambda: {"folder": str(create(options.output))})["folder"])


def _cut_network(plan: Plan, initial_model: InitialModel, n_classes: int, seed: int) -> Network:
    """Build the plan's network, with the initial model's head where that is trained further."""
    # Seeded again: a resumed run has measured nothing, so it has drawn fewer numbers until here.
    torch.manual_seed(seed)
    network = build_network(
        initial_model.backbone,
        cut=plan.cut,
        dropped=bool(plan.dropped),
        n_classes=n_classes,
        init=plan.training.init,
    )
    if initial_model.keeps_head(plan):
        copy_head(initial_model, network)
    return network


def _open_board(writer: RunWriter, first_epoch: int) -> AbstractContextManager[Board | NoBoard]:
    """Open the log of epochs that --log asks for; only rank 0 writes one."""
    log = writer.context.options.log if is_rank0() else None
    return open_board(log, writer.context.folder, first_epoch, writer.options_text())
