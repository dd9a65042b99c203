"""Measure a folder and decide its case: what a fine-tuning begins with."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlcli.backbones.backbone import Backbone
from tlcli.backbones.network import is_linear
from tlcli.data.augmentation.mixup import Mixing, make_mixing
from tlcli.data.augmentation.pca_color import fit_augmentation
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.augmentation.spec import Augmentation, make_augmentation
from tlcli.data.dataset import Dataset, scan
from tlcli.data.loader import find_unreadable
from tlcli.errors import UserError
from tlcli.features.cache import FeatureCache
from tlcli.features.sources import without_unreadable
from tlcli.features.views import Views
from tlcli.planning.cases import CASES, Overrides, opposite_overrides
from tlcli.planning.cut import stage_facts
from tlcli.planning.evidence import Evidence
from tlcli.planning.forecast import Workload, forecast
from tlcli.planning.measure import Measurement, measure_folder
from tlcli.planning.plan import Plan, make_plan, needs_evidence
from tlcli.planning.planned import Planned
from tlcli.planning.views import cached_views, caches_features, choose_views, view_seconds
from tlcli.reporter import Reporter
from tlcli.runs.options import Options
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import broadcast_from_first
from tlcli.training.timing import measure_costs


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
    overrides, stages = options.overrides(), stage_facts(backbone)

    def make(overrides: Overrides, evidence: Evidence | None) -> Plan:
        return make_plan(
            stages,
            pretrained=backbone.pretrained,
            linear_head=is_linear(backbone),
            n_train=len(dataset.train),
            overrides=overrides,
            evidence=evidence,
            large_from=options.large_from,
        )

    # What contradicts itself is told before anything is measured.
    likely = make(overrides, None)
    augmentation, mixing = _variation(likely, dataset)

    def views_of(view_s: float) -> int:
        """How many views of an image training will remember, if it comes to the likely plan."""
        seconds = view_s * len(dataset.train)
        return choose_views(options.views, likely, augmentation, mixing, seconds)

    freezes = likely.cut != "none"  # and so does the other case of this size
    if freezes and options.views:
        views_of(0.0)  # told now if there can be none
    ahead = ahead and freezes and caches_features(likely, mixing)
    measured: Measurement | None = None
    if backbone.pretrained and backbone.origin and (always or needs_evidence(overrides)):
        measured = measure_folder(
            dataset.train,
            dataset.classes,
            backbone,
            compute,
            cache,
            size=options.sample,
            views=Views(augmentation=augmentation, seed=options.seed),
            n_views=views_of if ahead else None,
            reporter=reporter,
        )
        dataset = without_unreadable(dataset, _unreadable(dataset, measured.unreadable), reporter)
    evidence = measured.evidence if measured else None
    made = make(overrides, evidence)
    if made.training.augment != likely.training.augment:
        augmentation, mixing = _variation(made, dataset)
    if measured is None:
        return Planned(backbone.name, made, dataset, augmentation=augmentation, mixing=mixing)
    sizes = {s.name: s.parameters for s in stages}
    plans = {case: make(Overrides(case=case), evidence) for case in CASES} | {"plan": made}
    timing = measure_costs(measured.look, measured.chosen)
    views = options.views or choose_views(
        None, made, augmentation, seconds=view_seconds(made, timing, len(dataset.train))
    )
    seconds = {
        name: forecast(
            p,
            timing,
            Workload(
                n_train=len(dataset.train),
                n_val=len(dataset.val),
                n_classes=len(dataset.classes),
                views=views,
                cached=cached_views(p, measured, dataset, Views(views, augmentation, options.seed)),
                parameters=sum(sizes.get(stage, 0) for stage in p.trained),
                mixed=mixing is not None and not p.training.solves_head,
            ),
        )
        for name, p in plans.items()
    }
    halves = {} if made.override else opposite_overrides(made.size, made.similarity)
    return Planned(
        backbone.name,
        made,
        dataset,
        evidence,
        seconds,
        timing,
        augmentation,
        mixing,
        {name: make(replace(overrides, **half), evidence) for name, half in halves.items()},
    )


def _unreadable(dataset: Dataset, found: dict[Path, str]) -> dict[Path, str]:
    """`found` among the training images, and more of the classes that have no other left."""
    left = {s.label for s in dataset.train if s.path not in found}
    return found | find_unreadable([s.path for s in dataset.val if s.label not in left])


def _variation(plan: Plan, dataset: Dataset) -> tuple[Augmentation | None, Mixing | None]:
    """How the plan varies and mixes the training images."""
    strengths = parse_augment(plan.training.augment)
    return fit_augmentation(strengths, dataset.train), make_mixing(strengths)


def scan_and_warn(data: Path, options: Options, reporter: Reporter) -> Dataset:
    """The dataset, its doubts told."""
    dataset = scan(data, val_fraction=options.val_fraction, seed=options.seed, reporter=reporter)
    for warning in dataset.warnings:
        reporter.warn(warning)
    if dataset.layout == "train+val" and options.val_fraction != Options.val_fraction:
        reporter.warn(f"--val-fraction is not used: {dataset.root} has a val folder")
    return dataset


def decide_on_rank0(dataset: Dataset, make: Callable[[], Planned]) -> Planned:
    """What `make` decides about `dataset`, which it is called for by the first process alone.

    The others have the dataset without what was unreadable, and no forecast.

    Raises:
        UserError: this process sees other images than the first.
    """
    made: list[Planned] = []

    def decided() -> dict[str, Any]:
        made.append(make())
        planned = made[0]
        left = {sample.path for sample in _samples(planned.dataset)}
        return {
            "images": _order(dataset),
            "backbone": planned.backbone,
            "plan": planned.plan.to_dict(),
            "colours": getattr(planned.augmentation, "principal_colors", None),
            "gone": [i for i, s in enumerate(_samples(dataset)) if s.path not in left],
        }

    heard = broadcast_from_first(decided)
    if made:
        return made[0]
    if heard["images"] != _order(dataset):
        raise UserError(
            f"{dataset.root} holds other images here than for the first process",
            "every machine of a job needs the same folder",
        )
    samples = _samples(dataset)
    gone = {samples[i].path: "unreadable for the first process" for i in heard["gone"]}
    plan = Plan.from_dict(heard["plan"])
    strengths = parse_augment(plan.training.augment)
    colours = heard["colours"] and tuple(map(tuple, heard["colours"]))
    return Planned(
        heard["backbone"],
        plan,
        dataset.without(gone) if gone else dataset,
        plan.evidence,
        augmentation=make_augmentation(strengths, colours),
        mixing=make_mixing(strengths),
    )


def _samples(dataset: Dataset) -> list[Any]:
    return [*dataset.train, *dataset.val, *dataset.test]


def _order(dataset: Dataset) -> str:
    """The images' content, in order and by label."""
    text = "".join(f"{s.digest}{s.label} " for s in _samples(dataset))
    return hashlib.sha256(f"{len(dataset.train)} {text}".encode()).hexdigest()
