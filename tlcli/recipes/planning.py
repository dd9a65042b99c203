"""Measure a folder and decide its case: what `tlcli plan` prints and `finetune` begins with."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tlcli.backbones import catalogue
from tlcli.backbones.backbone import Backbone
from tlcli.data.augment import Augmentation
from tlcli.data.colour import augmentation_for
from tlcli.data.dataset import Dataset, scan
from tlcli.data.presets import parse
from tlcli.errors import UsageError, UserError
from tlcli.events import Reporter
from tlcli.recipes.continuing import begin_with, trained_further
from tlcli.recipes.options import Options
from tlcli.recipes.views import cached_views, choose_views, view_seconds
from tlcli.transfer import device
from tlcli.transfer.cache import FeatureCache, default_folder
from tlcli.transfer.cases import CASES, Wish
from tlcli.transfer.device import Compute
from tlcli.transfer.distributed import first_here
from tlcli.transfer.evidence import Evidence, Timing
from tlcli.transfer.forecast import forecast
from tlcli.transfer.mixing import Mixing, make_mixing
from tlcli.transfer.network import facts, is_linear
from tlcli.transfer.plan import Plan, make_plan, needs_evidence
from tlcli.transfer.sources import without
from tlcli.transfer.survey import Survey, survey


@dataclass(frozen=True)
class Planned:
    """A plan and what it was decided on.

    Attributes:
        dataset: without the images that the measuring found unreadable.
        evidence: None where everything was set by hand, or nothing is pretrained.
        forecast_s: seconds that each of the four cases would take on this machine, and under
            "plan" what this plan would.
        timing: of the measuring; None where there was none.
        augmentation, mixing: of the training images; None where there is none.
    """

    backbone: str
    plan: Plan
    dataset: Dataset
    evidence: Evidence | None = None
    forecast_s: dict[str, float] = field(default_factory=dict)
    timing: Timing | None = None
    augmentation: Augmentation | None = None
    mixing: Mixing | None = None

    @property
    def reads(self) -> str | None:
        """The stage of the sweep whose output a new linear head reads, where it is one."""
        sweep = self.evidence.sweep if self.evidence else ()
        if not sweep or len(self.plan.trained) != 1:
            return None
        names = [s.name for s in sweep]
        return self.plan.cut if self.plan.cut in names else names[-1]

    def to_dict(self) -> dict[str, Any]:
        """The result fields of `tlcli plan`, in plain JSON types."""
        return {
            "case": self.plan.case,
            "size": self.plan.size,
            "similarity": self.plan.similarity,
            "cut": self.plan.cut,
            "trained": list(self.plan.trained),
            "why": self.plan.why,
            "evidence": self.evidence.to_dict() if self.evidence else None,
            "forecast_s": {k: round(v, 1) for k, v in self.forecast_s.items()},
            "backbone": self.backbone,
            "dropped": list(self.plan.dropped),
            "override": list(self.plan.override),
            "runner_up": self.plan.runner_up,
            "schedule": asdict(self.plan.schedule),
            "images": self.dataset.counts(),
            "seed": self.dataset.seed,
        }


def plan(
    data: str | Path,
    options: Options | None = None,
    *,
    reporter: Reporter | None = None,
    **more: Any,
) -> Planned:
    """Measure a folder of images and decide which case it is; nothing is trained or written but
    the cache.

    Args:
        data, options, reporter: as for `tlcli.finetune`.

    Raises:
        UserError: what is wrong with the data, the weights or the options, and what to do.
    """
    return compare(data, None, options, reporter=reporter, **more)[0]


def compare(
    data: str | Path,
    backbones: Sequence[str] | None,
    options: Options | None = None,
    *,
    reporter: Reporter | None = None,
    **more: Any,
) -> list[Planned]:
    """Plans for several backbones on the same images, the best probe first.

    Args:
        backbones: names, or NAME=WEIGHTS; None: the one of the options. Those whose weights are
            not at hand are left out, and that is said.
    """
    options, reporter = replace(options or Options(), **more), reporter or Reporter()
    options.check()
    compute = device.choose(options.device, options.precision, options.compile)
    chosen = (
        [(options.model, options.weights)] if backbones is None else _at_hand(backbones, reporter)
    )
    dataset = scan_told(Path(data), options, reporter)
    plans = []
    with feature_cache(options, reporter) as cache:
        for name, weights in chosen:
            origin = begin_with(name, weights, dataset.classes, reporter)
            if len(chosen) > 1:
                reporter.note(f"measuring {name}")
            for line in origin.backbone.notes:
                reporter.note(line)
            made = decide(dataset, origin.backbone, options, compute, cache, reporter, always=True)
            plans.append(replace(made, plan=trained_further(made.plan, origin)))
    return sorted(plans, key=lambda p: -(compared(p)["accuracy"] or 0.0))


def compared(planned: Planned) -> dict[str, Any]:
    """A row of a comparison of backbones."""
    best = planned.evidence.best if planned.evidence else None
    return {
        "backbone": planned.backbone,
        "accuracy": best and round(best.accuracy, 4),
        "accuracy_error": best and round(best.error, 4),
        "stage": best and best.name,
        "images_per_s": planned.timing and round(1 / planned.timing.image, 1),
        "size_mb": catalogue.find(planned.backbone).size_mb,
        "case": planned.plan.case,
        "runner_up": planned.plan.runner_up or None,
    }


def _at_hand(backbones: Sequence[str], reporter: Reporter) -> list[tuple[str, str]]:
    chosen: list[tuple[str, str]] = []
    for one in backbones:
        name, _, weights = one.strip().partition("=")
        if name in dict(chosen):
            raise UsageError(f"--compare names {name} twice", "name each backbone once")
        entry = catalogue.find(name)
        if weights or catalogue.at_hand(entry):
            chosen.append((name, weights or "auto"))
        else:
            reporter.warn(
                f"{name} is left out: its weights are not at hand "
                f"(give a file with {name}=FILE, or download them by planning with --model {name})"
            )
    if not chosen:
        raise UserError(
            "none of the backbones to compare has its weights at hand",
            "tlcli models --at-hand lists those that have",
        )
    return chosen


def decide(
    dataset: Dataset,
    backbone: Backbone,
    options: Options,
    compute: Compute,
    cache: FeatureCache,
    reporter: Reporter,
    *,
    always: bool = False,
    known: Plan | None = None,
) -> Planned:
    """Measure what the options leave open, and make the plan.

    Args:
        always: measure even where everything was set by hand.
        known: the plan of a run that goes on: it stays, and nothing is measured.
    """
    if known is not None:
        augmentation, mixing = _variation(known, dataset)
        return Planned(
            backbone.name,
            known,
            dataset,
            known.evidence,
            augmentation=augmentation,
            mixing=mixing,
        )
    wish = options.wish()
    measured: Survey | None = None
    if backbone.pretrained and backbone.origin and (always or needs_evidence(wish)):
        measured = survey(
            dataset.train,
            dataset.classes,
            backbone,
            compute,
            cache,
            size=options.sample,
            seed=options.seed,
            reporter=reporter,
        )
        dataset = without(dataset, measured.unreadable, reporter)
    evidence = measured.evidence if measured else None
    stages = facts(backbone)

    def make(wish: Wish) -> Plan:
        return make_plan(
            stages,
            pretrained=backbone.pretrained,
            linear_head=is_linear(backbone),
            n_train=len(dataset.train),
            wish=wish,
            evidence=evidence,
            large_from=options.large_from,
        )

    made = make(wish)
    augmentation, mixing = _variation(made, dataset)
    if measured is None:
        return Planned(backbone.name, made, dataset, augmentation=augmentation, mixing=mixing)
    sizes = {s.name: s.parameters for s in stages}
    plans = {case: make(Wish(case=case)) for case in CASES} | {"plan": made}
    views = options.views or choose_views(
        None, made, augmentation, seconds=view_seconds(made, measured.timing, len(dataset.train))
    )
    seconds = {
        name: forecast(
            p,
            measured.timing,
            n_train=len(dataset.train),
            n_val=len(dataset.val),
            views=views,
            cached=cached_views(p, measured, dataset, augmentation, options.seed, views),
            parameters=sum(sizes.get(stage, 0) for stage in p.trained),
            n_classes=len(dataset.classes),
            mixed=mixing is not None and p.schedule.optimizer != "lbfgs",
        )
        for name, p in plans.items()
    }
    return Planned(
        backbone.name, made, dataset, evidence, seconds, measured.timing, augmentation, mixing
    )


def _variation(plan: Plan, dataset: Dataset) -> tuple[Augmentation | None, Mixing | None]:
    """How the plan varies and mixes the training images."""
    strengths = parse(plan.schedule.augment)
    return augmentation_for(strengths, dataset.train), make_mixing(strengths)


def scan_told(data: Path, options: Options, reporter: Reporter) -> Dataset:
    """The dataset, its doubts told."""
    dataset = scan(data, val_fraction=options.val_fraction, seed=options.seed, reporter=reporter)
    for warning in dataset.warnings:
        reporter.warn(warning)
    if dataset.layout == "train+val" and options.val_fraction != Options.val_fraction:
        reporter.warn(f"--val-fraction is not used: {dataset.root} has a val folder")
    return dataset


@contextmanager
def feature_cache(options: Options, reporter: Reporter) -> Iterator[FeatureCache]:
    """The cache that the options ask for; trimmed to its limit at the end."""
    limit = round(options.cache_limit * 1e9)
    if not options.cache:
        with tempfile.TemporaryDirectory(prefix="tlcli-") as folder:
            yield FeatureCache(Path(folder), limit, reporter)
        return
    cache = FeatureCache(default_folder(), limit, reporter)
    try:
        yield cache
    finally:
        if first_here():
            cache.trim()
