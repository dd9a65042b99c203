"""The plan of a run: measure the images, decide the case, forecast how long it takes."""

from dataclasses import dataclass, replace
from pathlib import Path

from tlcli.backbones.network import is_linear
from tlcli.data.augmentation.mixup import Mixing, make_mixing
from tlcli.data.augmentation.pca_color import fit_augmentation
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.augmentation.spec import Augmentation
from tlcli.data.dataset import Dataset, scan
from tlcli.data.loader import find_unreadable
from tlcli.features.cache import FeatureCache
from tlcli.features.reference_images import choose_reference_samples
from tlcli.features.sources import without_unreadable
from tlcli.features.stage_features import StageFeatures
from tlcli.features.views import Views
from tlcli.planning import explain
from tlcli.planning import views as plan_views
from tlcli.planning.cases import CASES, Overrides, opposite_overrides
from tlcli.planning.cut import stage_facts
from tlcli.planning.evidence import Evidence, Timing
from tlcli.planning.forecast import Workload, forecast
from tlcli.planning.measure import Measurement, measure_folder
from tlcli.planning.plan import Plan, make_plan, needs_evidence
from tlcli.planning.planned import Planned
from tlcli.planning.views import cached_views, caches_features, choose_views, view_seconds
from tlcli.reporter import Reporter
from tlcli.runs.initial_model import InitialModel, adapt_plan
from tlcli.runs.options import Options
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import broadcast_from_first
from tlcli.training.timing import measure_costs

Variation = tuple[Augmentation | None, Mixing | None]
"""How single training images are augmented, and how those of a batch are mixed."""


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made for and with."""

    dataset: Dataset
    initial_model: InitialModel
    options: Options
    compute: Compute
    cache: FeatureCache
    reporter: Reporter

    def make_plan(self, overrides: Overrides, evidence: Evidence | None) -> Plan:
        """Make the plan that follows from the overrides and the evidence.

        Raises:
            UsageError: the overrides contradict each other.
        """
        backbone = self.initial_model.backbone
        return make_plan(
            stage_facts(backbone),
            pretrained=backbone.pretrained,
            linear_head=is_linear(backbone),
            n_train=len(self.dataset.train),
            overrides=overrides,
            evidence=evidence,
            large_from=self.options.large_from,
        )


def scan_and_warn(data: Path, options: Options, reporter: Reporter) -> Dataset:
    """Scan the folder of images and report the warnings about it."""
    dataset = scan(data, val_fraction=options.val_fraction, seed=options.seed, reporter=reporter)
    for warning in dataset.warnings:
        reporter.warn(warning)
    if dataset.layout == "train+val" and options.val_fraction != Options.val_fraction:
        reporter.warn(f"--val-fraction is not used: {dataset.root} has a val folder")
    return dataset


def decide(
    request: PlanRequest, *, always_measure: bool = False, precompute_views: bool = False
) -> Planned:
    """Measure what the options leave open, make the plan, and forecast its time.

    Args:
        always_measure: measure even if the options decide everything.
        precompute_views: while an image is decoded for measuring, also compute the views of it
            that training will read from the cache.
    """
    dataset, options, overrides = request.dataset, request.options, request.options.overrides()
    backbone = request.initial_model.backbone
    # Options that contradict each other are reported before anything is measured.
    likely = request.make_plan(overrides, None)
    variation = fit_variation(likely, dataset)
    if options.views and likely.cut != "none":
        choose_views(options.views, likely, *variation)
    measured = None
    if backbone.pretrained and backbone.origin and (always_measure or needs_evidence(overrides)):
        measured = _measure(request, likely, variation, precompute_views)
        unreadable = _with_needed_val_images(dataset, measured.unreadable)
        dataset = without_unreadable(dataset, unreadable, request.reporter)
        request = replace(request, dataset=dataset)
    evidence = measured.evidence if measured else None
    plan = request.make_plan(overrides, evidence)
    if plan.training.augment != likely.training.augment:
        variation = fit_variation(plan, dataset)
    planned = make_planned(backbone.name, plan, dataset, variation)
    if measured:
        timing = measure_costs(measured.stage_features, measured.samples)
        halves = {} if plan.override else opposite_overrides(plan.size, plan.similarity)
        planned = replace(
            planned,
            timing=timing,
            forecast_s=_forecasts(request, planned, measured, timing),
            otherwise={
                option: request.make_plan(replace(overrides, **half), evidence)
                for option, half in halves.items()
            },
        )
    return replace(planned, plan=adapt_plan(plan, request.initial_model))


def _measure(
    request: PlanRequest, likely: Plan, variation: Variation, precompute_views: bool
) -> Measurement:
    """Measure the training images, and cache the views that the likely plan trains on."""
    options, augmentation = request.options, variation[0]

    def n_views(seconds_per_image: float) -> int:
        """Return how many views per image training will cache under the likely plan."""
        seconds = seconds_per_image * len(request.dataset.train)
        return choose_views(options.views, likely, *variation, seconds)

    # If the likely case freezes anything, so does the other case of this size.
    cached = likely.cut != "none" and caches_features(likely, variation[1])
    stage_features = StageFeatures(
        request.initial_model.backbone,
        request.compute,
        request.cache,
        request.reporter,
        choose_reference_samples(request.dataset.train),
    )
    return measure_folder(
        stage_features,
        request.dataset.train,
        request.dataset.classes,
        size=options.sample,
        views=Views(augmentation=augmentation, seed=options.seed),
        n_views=n_views if precompute_views and cached else None,
    )


def _forecasts(
    request: PlanRequest, planned: Planned, measured: Measurement, timing: Timing
) -> dict[str, float]:
    """Forecast the seconds of training for each case, and for the plan under "plan"."""
    plan, dataset, options = planned.plan, request.dataset, request.options
    parameters = {s.name: s.parameters for s in stage_facts(request.initial_model.backbone)}
    seconds = view_seconds(plan, timing, len(dataset.train))
    n_views = options.views or choose_views(None, plan, planned.augmentation, seconds=seconds)
    views = Views(n_views, planned.augmentation, options.seed)
    cases = {case: request.make_plan(Overrides(case=case), plan.evidence) for case in CASES}
    return {
        name: forecast(
            p,
            timing,
            Workload(
                n_train=len(dataset.train),
                n_val=len(dataset.val),
                n_classes=len(dataset.classes),
                views=views.n,
                cached=cached_views(p, measured, dataset, views),
                parameters=sum(parameters.get(stage, 0) for stage in p.trained),
                mixed=planned.mixing is not None and not p.training.solves_head,
            ),
        )
        for name, p in {**cases, "plan": plan}.items()
    }


def _with_needed_val_images(dataset: Dataset, unreadable: dict[Path, str]) -> dict[Path, str]:
    """Return the unreadable training images, and the unreadable validation images of the classes
    that need one for training because no other image of theirs is left."""
    left = {s.label for s in dataset.train if s.path not in unreadable}
    return unreadable | find_unreadable([s.path for s in dataset.val if s.label not in left])


def fit_variation(plan: Plan, dataset: Dataset) -> Variation:
    """Return how the plan augments and mixes the training images."""
    strengths = parse_augment(plan.training.augment)
    return fit_augmentation(strengths, dataset.train), make_mixing(strengths)


def make_planned(backbone: str, plan: Plan, dataset: Dataset, variation: Variation) -> Planned:
    """Make a `Planned` without costs and forecasts."""
    augmentation, mixing = variation
    return Planned(backbone, plan, dataset, plan.evidence, augmentation=augmentation, mixing=mixing)


def choose_cached_views(
    planned: Planned, options: Options, recorded: int | None, reporter: Reporter
) -> Views:
    """Choose how many views per image are cached, the same number on all ranks.

    Args:
        recorded: the number of a resumed run, which is kept.
    """
    plan, n_train = planned.plan, len(planned.dataset.train)
    seconds = broadcast_from_first(
        lambda: {"seconds": view_seconds(plan, planned.timing, n_train)}
    )["seconds"]
    n = recorded or choose_views(options.views, plan, planned.augmentation, planned.mixing, seconds)
    too_slow = seconds > plan_views.MAX_VIEW_SECONDS and planned.augmentation is not None
    if n == 1 and options.views is None and too_slow:
        reporter.note(explain.plain_view_only_text(seconds))
    return Views(n, planned.augmentation, options.seed)
