"""The main job: a folder of images in, a classifier out."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tlcli.artifacts import run
from tlcli.backbones import build
from tlcli.data.augment import AUGMENTATIONS
from tlcli.errors import UserError
from tlcli.events import Reporter, duration
from tlcli.recipes.options import Options
from tlcli.recipes.planning import Planned, choose_views, decide, feature_cache, scan_told
from tlcli.recipes.record import Record
from tlcli.recipes.together import decide_once
from tlcli.transfer import device
from tlcli.transfer.agree import in_turn, told
from tlcli.transfer.cache import FeatureCache
from tlcli.transfer.calibrate import calibrate, hold_out
from tlcli.transfer.device import Compute
from tlcli.transfer.distributed import joined, raise_if_lost
from tlcli.transfer.features import FrozenForward, remember
from tlcli.transfer.forecast import error_text
from tlcli.transfer.metrics import score
from tlcli.transfer.network import Network, build_network, is_linear
from tlcli.transfer.plan import Plan
from tlcli.transfer.schedule import SCHEDULES, Schedule
from tlcli.transfer.sources import Recomputed, Remembered, Sources, make_sources
from tlcli.transfer.train import Fit, answers, fit


@dataclass(frozen=True)
class Run:
    """A run that ended.

    Attributes:
        folder: the run folder; `bundle` is its model.safetensors.
        plan: what was frozen and trained, and why.
        metrics: on the validation images; under "test" on the test images, where there are any.
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
    data: str | Path,
    options: Options | None = None,
    *,
    reporter: Reporter | None = None,
    **more: Any,
) -> Run:
    """Train a classifier on a folder of images and save it in a run folder.

    Args:
        data: DIR/<class>/**/image, or DIR/train and DIR/val of that form.
        options: all of them at once, or by name: `finetune("flowers", model="vgg16")`.
        reporter: hears of progress and warnings.

    Raises:
        UserError: what is wrong with the data, the weights or the options, and what to do.
        KeyboardInterrupt: interrupted before there was anything to save.
    """
    options, reporter = replace(options or Options(), **more), reporter or Reporter()
    with joined(reporter) as reporter:
        options.check()
        with feature_cache(options, reporter) as cache:
            return _finetune(Path(data), options, cache, reporter)


def _finetune(data: Path, options: Options, cache: FeatureCache, reporter: Reporter) -> Run:
    started = time.perf_counter()
    compute = device.choose(options.device, options.precision)
    augmentation = AUGMENTATIONS[options.augment]
    dataset = scan_told(data, options, reporter)

    torch.manual_seed(options.seed)
    backbone = in_turn(lambda: build.load(options.model, options.weights, reporter))
    for line in backbone.notes:
        reporter.note(line)
    make_plan = partial(decide, dataset, backbone, options, compute, cache, reporter)
    planned = decide_once(dataset, backbone.name, make_plan)
    plan, dataset, decided = planned.plan, planned.dataset, time.perf_counter()
    for line in plan_lines(planned):
        reporter.note(line)
    views = told(lambda: {"views": choose_views(options.views, plan, augmentation)})["views"]
    network = build_network(
        backbone,
        cut=plan.cut,
        dropped=bool(plan.dropped),
        n_classes=len(dataset.classes),
        init=plan.schedule.init,
    )

    make_folder = partial(run.new_run, dataset.root, backbone.name, options.output)
    folder = Path(told(lambda: {"folder": str(make_folder())})["folder"])
    record = Record(folder, network, planned, options, compute, views, started)
    history: list[dict[str, Any]] = []
    trained, result, spare = False, Fit(), None
    with run.removed_if_empty(folder):
        try:
            for phase, cut, schedule in phases(plan, network):
                cut_here = replace(network, cut=cut)
                gathered = make_sources(
                    FrozenForward(
                        cut_here.prefix,
                        backbone.preprocessing,
                        compute,
                        reporter,
                        origin=backbone.origin,
                    ),
                    dataset,
                    views=views,
                    augmentation=augmentation,
                    seed=options.seed,
                    must_remember=schedule.optimizer == "lbfgs",
                    checked=bool(history),
                    cache=cache,
                    reporter=reporter,
                )
                if options.calibrate and plan.schedule.optimizer != "lbfgs":
                    gathered, spare = hold_out(gathered)
                part, sources, dataset = cut_here, gathered, gathered.dataset
                result = fit(
                    part,
                    sources.train,
                    sources.val,
                    schedule,
                    compute,
                    phase=phase,
                    seed=options.seed,
                    reporter=reporter,
                    to_beat=result.best_key,
                    on_best=partial(record.checkpoint, dataset),
                )
                history += result.history
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
            temperature = record.confidence.temperature
            metrics = measure(part, sources, compute, reporter, temperature) if trained else {}
        except KeyboardInterrupt:
            # Between phases or while measuring: what was trained is worth more than its score.
            if not trained:
                raise
            result.stopped = "interrupted"
            metrics = unmeasured(dataset.classes)
        if trained:
            record.save(dataset, metrics, history, result, sources.remembered)
        elif result.stopped == "interrupted":
            raise KeyboardInterrupt
    kept = f"; the best so far is saved in {folder}" if trained else ""
    raise_if_lost(kept)
    if result.stopped == "diverged":
        raise UserError(
            f"{result.problem}, so training was stopped{kept}",
            "is the weight file damaged? --precision fp32 may help too"
            if schedule.optimizer == "lbfgs"
            else f"try a smaller --lr (it was {schedule.lr:g}) or --precision fp32",
        )
    if "plan" in planned.forecast_s and result.stopped == "finished":
        took = time.perf_counter() - decided
        reporter.note(f"after the plan: {error_text(planned.forecast_s['plan'], took)}")
    return Run(folder, plan, metrics, record.status(result))


def plan_lines(planned: Planned) -> list[str]:
    """The plan in two lines."""
    plan, seconds = planned.plan, planned.forecast_s.get("plan")
    about = f"; about {duration(seconds)}" if seconds is not None else ""
    trained = plan.trained if len(plan.trained) < 4 else (plan.trained[0], "...", plan.trained[-1])
    dropped = f"; dropped: {plan.dropped[0]} and on" if plan.dropped else ""
    what = f"frozen up to: {plan.cut}; trained: {', '.join(trained)}{dropped}"
    return [
        f"plan: {plan.case}; {what}{about}",
        f"why: {plan.why}",
    ]


def phases(plan: Plan, network: Network) -> Iterator[tuple[str, int, Schedule]]:
    """What is trained one after the other: a name, the cut, the schedule.

    One phase, or the head alone on frozen codes and then all that the plan trains.
    """
    if plan.schedule.head_first:
        # What has no pretrained weights belongs to the head: nothing frozen is random.
        cut = min(len(network.stages) - 1, network.backbone.pretrained)
        solvable = is_linear(network.backbone) and cut == len(network.stages) - 1
        yield "head", cut, SCHEDULES["solve" if solvable else "head"][0]
    yield "all" if plan.schedule.head_first else "", network.cut, plan.schedule


def unmeasured(classes: tuple[str, ...]) -> dict[str, Any]:
    """The score of no images."""
    return score(torch.empty(0, len(classes)), torch.empty(0, dtype=torch.int64), classes)


def measure(
    network: Network, sources: Sources, compute: Compute, reporter: Reporter, temperature: float
) -> dict[str, Any]:
    """The score on the validation images, and under "test" on the test images if there are any.

    In fp32 whatever the training's precision was. `temperature` is what the logits were divided
    by already.
    """
    dataset, suffix, preprocessing = sources.dataset, network.suffix, network.backbone.preprocessing
    compute, mixed = compute.reference(), compute.dtype is not None
    forward = partial(FrozenForward, network.prefix, preprocessing, compute, reporter)
    val = Recomputed(dataset.val, forward()) if mixed else sources.val
    metrics = score(*answers(suffix, val, compute), dataset.classes, temperature)
    if dataset.test:
        codes, labels, bad = remember(dataset.test, forward(), task="test", reporter=reporter)
        for path, why in bad.items():
            reporter.warn(f"test image left out: {path}: {why}")
        test = Remembered(codes, labels)
        metrics["test"] = score(*answers(suffix, test, compute), dataset.classes, temperature)
    return metrics
