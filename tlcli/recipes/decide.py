"""Measure a folder and decide its case: what a fine-tuning begins with."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tlcli.backbones.backbone import Backbone
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.augmentation.pca_color import augmentation_for
from tlcli.data.dataset import Dataset, scan
from tlcli.data.loader import find_unreadable
from tlcli.data.augmentation.presets import parse
from tlcli.reporter import Reporter, duration
from tlcli.runs.options import Options
from tlcli.planning.views import cached_views, choose_views, remembers, view_seconds
from tlcli.features.cache import FeatureCache, default_folder
from tlcli.planning.cases import CASES, Wish, other_halves
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.process_group import first_here
from tlcli.planning.evidence import Evidence, Timing
from tlcli.planning.forecast import forecast
from tlcli.features.stage_features import only_plain
from tlcli.data.augmentation.mixup import Mixing, make_mixing
from tlcli.backbones.network import facts, is_linear
from tlcli.planning.plan import Plan, make_plan, needs_evidence
from tlcli.planning.training_config import describe
from tlcli.features.sources import without
from tlcli.planning.measure import Survey, survey


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
        otherwise: the plans of the other size and of the other similarity, by the option that
            asks for them; none where something was set by hand.
    """

    backbone: str
    plan: Plan
    dataset: Dataset
    evidence: Evidence | None = None
    forecast_s: dict[str, float] = field(default_factory=dict)
    timing: Timing | None = None
    augmentation: Augmentation | None = None
    mixing: Mixing | None = None
    otherwise: dict[str, Plan] = field(default_factory=dict)

    @property
    def reads(self) -> str | None:
        """The stage of the sweep whose output a new linear head reads, where it is one."""
        sweep = self.evidence.sweep if self.evidence else ()
        if not sweep or len(self.plan.trained) != 1:
            return None
        names = [s.name for s in sweep]
        return self.plan.cut if self.plan.cut in names else names[-1]

    def lines(self) -> list[str]:
        """The plan in three lines."""
        seconds = self.forecast_s.get("plan")
        about = f"; about {duration(seconds)}" if seconds is not None else ""
        return [
            f"plan: {self.plan.case}; {self.plan.parts()}{about}",
            f"why: {self.plan.why}",
            f"training: {describe(self.plan.schedule)}",
        ]

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
            "otherwise": {
                option: {"case": plan.case, "cut": plan.cut, "trained": list(plan.trained)}
                for option, plan in self.otherwise.items()
            },
            "images": self.dataset.counts(),
            "seed": self.dataset.seed,
        }


def decide(
    dataset: Dataset,
    backbone: Backbone,
    options: Options,
    compute: Compute,
    cache: FeatureCache,
    reporter: Reporter,
    *,
    always: bool = False,
    ahead: bool = False,
    known: Plan | None = None,
) -> Planned:
    """Measure what the options leave open, and make the plan.

    Args:
        always: measure even where everything was set by hand.
        ahead: compute the views that training will remember of an image while it is decoded.
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
    wish, stages = options.wish(), facts(backbone)

    def make(wish: Wish, evidence: Evidence | None) -> Plan:
        return make_plan(
            stages,
            pretrained=backbone.pretrained,
            linear_head=is_linear(backbone),
            n_train=len(dataset.train),
            wish=wish,
            evidence=evidence,
            large_from=options.large_from,
        )

    # What contradicts itself is told before anything is measured.
    likely = make(wish, None)
    augmentation, mixing = _variation(likely, dataset)

    def views_of(view_s: float) -> int:
        """How many views of an image training will remember, if it comes to the likely plan."""
        seconds = view_s * len(dataset.train)
        return choose_views(options.views, likely, augmentation, mixing, seconds)

    freezes = likely.cut != "none"  # and so does the other case of this size
    if freezes and options.views:
        views_of(0.0)  # told now if there can be none
    ahead = ahead and freezes and remembers(likely, mixing)
    measured: Survey | None = None
    if backbone.pretrained and backbone.origin and (always or needs_evidence(wish)):
        measured = survey(
            dataset.train,
            dataset.classes,
            backbone,
            compute,
            cache,
            size=options.sample,
            views=views_of if ahead else only_plain,
            augmentation=augmentation,
            seed=options.seed,
            reporter=reporter,
        )
        dataset = without(dataset, _unreadable(dataset, measured.unreadable), reporter)
    evidence = measured.evidence if measured else None
    made = make(wish, evidence)
    if made.schedule.augment != likely.schedule.augment:
        augmentation, mixing = _variation(made, dataset)
    if measured is None:
        return Planned(backbone.name, made, dataset, augmentation=augmentation, mixing=mixing)
    sizes = {s.name: s.parameters for s in stages}
    plans = {case: make(Wish(case=case), evidence) for case in CASES} | {"plan": made}
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
    halves = {} if made.override else other_halves(made.size, made.similarity)
    return Planned(
        backbone.name,
        made,
        dataset,
        evidence,
        seconds,
        measured.timing,
        augmentation,
        mixing,
        {name: make(replace(wish, **half), evidence) for name, half in halves.items()},
    )


def _unreadable(dataset: Dataset, found: dict[Path, str]) -> dict[Path, str]:
    """`found` among the training images, and more of the classes that have no other left."""
    left = {s.label for s in dataset.train if s.path not in found}
    return found | find_unreadable([s.path for s in dataset.val if s.label not in left])


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
