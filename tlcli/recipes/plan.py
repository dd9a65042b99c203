"""Measure a folder for one backbone or several: what `tlcli plan` prints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from tlcli.backbones import catalogue
from tlcli.errors import UsageError, UserError
from tlcli.features.cache import feature_cache
from tlcli.planning.planned import Planned
from tlcli.recipes.decide import decide, scan_and_warn
from tlcli.reporter import Reporter
from tlcli.runs.initial_model import load_initial_model, trained_further
from tlcli.runs.option_values import OptionValues
from tlcli.runs.options import Options
from tlcli.runtime import device


def plan(
    data: str | Path,
    options: Options | None = None,
    *,
    reporter: Reporter | None = None,
    **more: Unpack[OptionValues],
) -> Planned:
    """Measure a folder of images and decide which case it is; nothing is trained or written but
    the cache.

    Args:
        data, options, reporter: as for `tlcli.finetune`.

    Raises:
        UserError: what is wrong with the data, the weights or the options, and what to do.
    """
    return compare_backbones(data, None, options, reporter=reporter, **more)[0]


def compare_backbones(
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
    compute = device.choose_device(options.device, options.precision, options.compile)
    chosen = (
        [(options.model, options.weights)] if backbones is None else _at_hand(backbones, reporter)
    )
    dataset = scan_and_warn(Path(data), options, reporter)
    plans = []
    with feature_cache(options.cache, options.cache_limit, reporter) as cache:
        for name, weights in chosen:
            origin = load_initial_model(name, weights, dataset.classes, reporter)
            if len(chosen) > 1:
                reporter.note(f"measuring {name}")
            for line in origin.backbone.notes:
                reporter.note(line)
            made = decide(dataset, origin.backbone, options, compute, cache, reporter, always=True)
            plans.append(replace(made, plan=trained_further(made.plan, origin)))
    return sorted(plans, key=lambda p: -(comparison_row(p)["accuracy"] or 0.0))


def comparison_row(planned: Planned) -> dict[str, Any]:
    """A row of a comparison of backbones: of the stage that the plan's head reads, where it is a
    head alone, else of the best."""
    best = planned.evidence.best_stage if planned.evidence else None
    sweep = planned.evidence.sweep if planned.evidence else ()
    best = next((stage for stage in sweep if stage.name == planned.head_stage), best)
    return {
        "backbone": planned.backbone,
        "accuracy": best and round(best.accuracy, 4),
        "accuracy_error": best and round(best.error, 4),
        "stage": best and best.name,
        "images_per_s": planned.timing and round(1 / planned.timing.image, 1),
        "size_mb": catalogue.find_entry(planned.backbone).size_mb,
        "case": planned.plan.case,
        "runner_up": planned.plan.runner_up or None,
    }


def _at_hand(backbones: Sequence[str], reporter: Reporter) -> list[tuple[str, str]]:
    chosen: list[tuple[str, str]] = []
    for one in backbones:
        name, _, weights = one.strip().partition("=")
        if name in dict(chosen):
            raise UsageError(f"--compare names {name} twice", "name each backbone once")
        entry = catalogue.find_entry(name)
        if weights and weights != "none" and not Path(weights).is_file():
            raise UserError(f"--compare {one}: there is no such file", "NAME=FILE names weights")
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
