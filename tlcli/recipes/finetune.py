"""The main job: a folder of images in, a classifier out."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch

from tlcli.artifacts import run_folder as run
from tlcli.artifacts.tensorboard import check_installed, open_board
from tlcli.backbones.network import Network, build_network, is_linear
from tlcli.errors import UsageError, UserError
from tlcli.features.cache import FeatureCache, feature_cache
from tlcli.features.extractor import FeatureExtractor
from tlcli.features.reference_images import choose_reference_samples
from tlcli.features.sources import make_sources
from tlcli.features.views import Views
from tlcli.metrics.classification import metrics_of_no_images
from tlcli.planning.explain import forecast_error_text
from tlcli.planning.plan import Plan
from tlcli.planning.planned import Planned
from tlcli.planning.training_config import TrainingConfig
from tlcli.planning.training_presets import TRAINING_PRESETS
from tlcli.planning.views import VIEW_LIMIT, choose_views, view_seconds
from tlcli.recipes.decide import decide, decide_on_rank0, scan_and_warn
from tlcli.reporter import Reporter
from tlcli.runs.initial_model import copy_head, load_initial_model, trained_further
from tlcli.runs.interruption import resumable
from tlcli.runs.option_values import OptionValues
from tlcli.runs.options import Options
from tlcli.runs.request import RunRequest, new_run
from tlcli.runs.resume import check_same, reopen_run
from tlcli.runs.score import score_network
from tlcli.runs.writer import RunWriter
from tlcli.runtime import device
from tlcli.runtime.distributed.collectives import (
    broadcast_from_first,
    local_rank_first,
    run_on_rank0,
)
from tlcli.runtime.distributed.process_group import (
    is_rank0,
    process_group,
    raise_if_peer_lost,
    world_size,
)
from tlcli.runtime.distributed.sharding import check_batch_size
from tlcli.runtime.workers import torch_threads
from tlcli.text import format_duration
from tlcli.training.calibration import calibrate, hold_out
from tlcli.training.trainer import FitResult, fit


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
        return self.folder / run.BUNDLE


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
        data: DIR/<class>/**/image, or DIR/train and DIR/val of that form. May be left out where
            `config` names it, or with `resume`.
        options: all of them at once, or by name: `finetune("flowers", model="vgg16")`.
        config: a TOML file with options; those given here win.
        resume: a run folder whose run goes on where it was stopped; `epochs="+10"` adds epochs.
        reporter: hears of progress and warnings.

    Raises:
        UserError: what is wrong with the data, the weights or the options, and what to do.
        KeyboardInterrupt: interrupted before anything was trained; the run can be resumed.
    """
    given = {**(options.non_default() if options else {}), **more}
    with process_group(reporter or Reporter()) as reporter:
        if resume is None:
            return _finetune(new_run(data, config, given), reporter)
        if config is not None:
            raise UsageError("--resume goes on with the run's own options", "leave out --config")
        folder = Path(resume)
        folder = folder.parent if folder.name == run.BUNDLE else folder
        with run.locked(folder):
            start = reopen_run(folder, data, given)
            with torch_threads(start.threads):
                return _finetune(start, reporter)


def _finetune(start: RunRequest, reporter: Reporter) -> Run:
    started, options = time.perf_counter(), start.options
    compute = device.choose_device(*start.numbers, options.compile)
    if options.log:
        check_installed()
    if options.batch_size:
        check_batch_size(options.batch_size)
    scanned = scan_and_warn(start.data, options, reporter)
    torch.manual_seed(options.seed)
    begin = partial(load_initial_model, options.model, options.weights, scanned.classes, reporter)
    origin = local_rank_first(begin)
    for line in origin.backbone.notes:
        reporter.note(line)
    dataset = check_same(start, scanned, origin, reporter) if start.folder else scanned
    make_folder = partial(run.create_run_folder, scanned.root, origin.backbone.name, options.output)
    folder = start.folder or Path(
        broadcast_from_first(lambda: {"folder": str(make_folder())})["folder"]
    )
    record = RunWriter(folder, options, compute, scanned, origin, reporter, started, start.seconds)
    with ExitStack() as held:
        if start.folder is None:
            held.enter_context(run.locked(folder))
        held.enter_context(resumable(folder, start.folder is None, reporter))
        cache = held.enter_context(feature_cache(options.cache, options.cache_limit, reporter))
        record.begin(dataset, start.plan, start.state)
        make_plan = partial(decide, dataset, origin.backbone, options, compute, cache, reporter)
        # Only the first of several processes measures, and all of them share the other views.
        planned = decide_on_rank0(
            dataset, partial(make_plan, ahead=world_size() == 1, known=start.plan)
        )
        if start.plan is None:
            planned = replace(planned, plan=trained_further(planned.plan, origin))
        for line in planned.lines():
            reporter.note(line)
        return _train(start, record, planned, cache, held)


def _train(
    start: RunRequest, record: RunWriter, planned: Planned, cache: FeatureCache, held: ExitStack
) -> Run:
    """Carry the plan out, from where `start` says."""
    options, compute, reporter = record.options, record.compute, record.reporter
    origin, backbone, folder = record.origin, record.origin.backbone, record.folder
    plan, dataset, decided = planned.plan, planned.dataset, time.perf_counter()
    variation = planned.augmentation, planned.mixing
    pass_s = broadcast_from_first(
        lambda: {"s": view_seconds(plan, planned.timing, len(dataset.train))}
    )["s"]
    views = start.views or choose_views(options.views, plan, *variation, pass_s)
    if views == 1 and options.views is None and pass_s > VIEW_LIMIT and planned.augmentation:
        reporter.note(
            "only the plain view of each image: another takes "
            f"{format_duration(pass_s)} (--views 2)"
        )
    # Whatever was drawn on the way here: a run that goes on has measured nothing.
    torch.manual_seed(options.seed)
    network = build_network(
        backbone,
        cut=plan.cut,
        dropped=bool(plan.dropped),
        n_classes=len(dataset.classes),
        init=plan.training.init,
    )
    if origin.keeps_head(plan):
        copy_head(origin, network)
    record.planned, record.network, record.views = planned, network, views
    record.begin(dataset, plan)
    history = start.history
    board = held.enter_context(
        open_board(
            options.log if is_rank0() else None,
            folder,
            start.epochs_done + 1,
            record.options_text(),
        )
    )
    trained, result, spare = start.trained or origin.keeps_head(plan), FitResult(), None
    try:
        for index, (phase, cut, config) in enumerate(phases(plan, network)):
            if index < start.phase:
                continue
            state = start.fit if index == start.phase else None
            cut_here = replace(network, cut=cut)
            gathered = make_sources(
                FeatureExtractor(
                    cut_here.prefix,
                    backbone.preprocessing,
                    compute,
                    reporter,
                    origin=backbone.origin,
                    reference_samples=choose_reference_samples(dataset.train),
                ),
                dataset,
                Views(views, planned.augmentation, options.seed),
                mixing=None if phase == "head" else planned.mixing,
                must_cache=config.solves_head,
                all_readable=bool(history or state),
                cache=cache,
            )
            if options.calibrate and not plan.training.solves_head:
                gathered, spare = hold_out(gathered)
            part, sources, dataset = cut_here, gathered, gathered.dataset
            result = fit(
                part,
                sources.train,
                sources.val,
                config,
                compute,
                phase=phase,
                seed=options.seed,
                reporter=reporter,
                to_beat=result.best_key,
                on_best=partial(record.keep_best, dataset),
                on_row=board.row,
                keep=partial(record.keep_state, dataset, index, history, trained),
                state=state,
                known=origin.keeps_head(plan) and not history,
            )
            history = [*history, *result.history]
            trained = trained or result.best_epoch is not None
            if result.stopped in ("interrupted", "diverged"):
                break
        if trained and options.calibrate and result.stopped in ("finished", "early"):
            record.confidence = calibrate(
                part,
                sources.train,
                spare,
                result.strength,
                compute.reference(),
                seed=options.seed,
                reporter=reporter,
            )
        if trained and result.stopped == "interrupted":
            # Measuring may take long, and whoever asked it to stop may not wait.
            unknown = metrics_of_no_images(dataset.classes)
            run_on_rank0(partial(record.save, dataset, unknown, history, result, sources.cached))
        temperature = record.confidence.temperature
        metrics = (
            score_network(part, sources, compute, reporter, temperature, cache) if trained else None
        )
    except KeyboardInterrupt:
        # Between phases or while measuring: what was trained is worth more than its score. A run
        # that goes on has it only in its checkpoint until the first phase has.
        if not (trained and result.best):
            raise
        result.stopped = "interrupted"
        metrics = metrics_of_no_images(dataset.classes)
    if metrics is not None:
        run_on_rank0(partial(record.save, dataset, metrics, history, result, sources.cached))
    elif result.stopped == "interrupted":
        raise KeyboardInterrupt
    kept = f"; the best so far is saved in {folder}" if trained else ""
    raise_if_peer_lost(f"{kept}; tlcli finetune --resume {folder} goes on")
    if result.stopped == "diverged":
        raise UserError(
            f"{result.problem}, so training was stopped{kept}",
            "is the weight file damaged? --precision fp32 may help too"
            if config.solves_head
            else f"try a smaller --lr (it was {config.lr:g}) or --precision fp32",
        )
    if "plan" in planned.forecast_s and result.stopped == "finished":
        took = time.perf_counter() - decided
        reporter.note(f"after the plan: {forecast_error_text(planned.forecast_s['plan'], took)}")
    return Run(folder, plan, metrics.to_dict() if metrics else {}, record.status(result))


def phases(plan: Plan, network: Network) -> Iterator[tuple[str, int, TrainingConfig]]:
    """What is trained one after the other: a name, the cut, the schedule.

    One phase, or the head alone on frozen codes and then all that the plan trains.
    """
    if plan.training.head_first:
        # What has no pretrained weights belongs to the head: nothing frozen is random.
        cut = min(len(network.stages) - 1, network.backbone.pretrained)
        solvable = is_linear(network.backbone) and cut == len(network.stages) - 1
        head, asked = TRAINING_PRESETS["solve" if solvable else "head"], plan.training
        # A solved head knows weights only, which come to the same as drawing.
        balance = "weights" if solvable and asked.balance == "sampler" else asked.balance
        yield "head", cut, replace(head, balance=balance, metric=asked.metric)
    yield "all" if plan.training.head_first else "", network.cut, plan.training
