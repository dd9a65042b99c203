"""Plans for one backbone or several: the recipe behind `tlcli plan`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from tlcli.backbones import catalogue
from tlcli.errors import UsageError, UserError
from tlcli.features.cache import feature_cache
from tlcli.planning.planned import Planned
from tlcli.recipes.decide import PlanRequest, decide, scan_and_warn
from tlcli.reporter import Reporter
from tlcli.runs.initial_model import load_initial_model
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
    """Measure a folder of images and decide which case it is.

    Nothing is trained, and only the feature cache is written.

    Args:
        data, options, reporter, more: as for `tlcli.finetune`.

    Raises:
        UserError: the data, the weights or an option cannot be used; with a hint what to do.
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
    """Plan for several backbones on the same images; the one with the best probe comes first.

    Args:
        backbones: names, or NAME=WEIGHTS; None takes the backbone of the options. Backbones whose
            weights are not available offline are left out with a warning.
    """
    options, reporter = replace(options or Options(), **more), reporter or Reporter()
    options.check()
    compute = device.choose_device(options.device, options.precision, options.compile)
    chosen = (
        [(options.model, options.weights)] if backbones is None else _available(backbones, reporter)
    )
    dataset = scan_and_warn(Path(data), options, reporter)
    plans = []
    with feature_cache(options.cache, options.cache_limit, reporter) as cache:
        for name, weights in chosen:
            initial_model = load_initial_model(name, weights, dataset.classes, reporter)
            if len(chosen) > 1:
                reporter.note(f"measuring {name}")
            for line in initial_model.backbone.notes:
                reporter.note(line)
            request = PlanRequest(dataset, initial_model, options, compute, cache, reporter)
            plans.append(decide(request, always_measure=True))
    return sorted(plans, key=lambda p: -(comparison_row(p)["accuracy"] or 0.0))


def comparison_row(planned: Planned) -> dict[str, Any]:
    """Return a backbone's row in a comparison.

    The accuracy is that of the stage that a new linear head would read, or of the best stage if
    more than a head is trained.
    """
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


def _available(backbones: Sequence[str], reporter: Reporter) -> list[tuple[str, str]]:
    """Return the name and the weights of each backbone whose weights are available offline."""
    chosen: list[tuple[str, str]] = []
    for text in backbones:
        name, _, weights = text.strip().partition("=")
        if name in dict(chosen):
            raise UsageError(f"--compare names {name} twice", "name each backbone once")
        entry = catalogue.find_entry(name)
        if weights and weights != "none" and not Path(weights).is_file():
            raise UserError(
                f"--compare {text}: there is no such file", "write NAME=FILE to name weights"
            )
        if weights or catalogue.at_hand(entry):
            chosen.append((name, weights or "auto"))
        else:
            reporter.warn(
                f"{name} is left out because its weights are not available offline (give a file "
                f"with {name}=FILE, or download them by planning with --model {name})"
            )
    if not chosen:
        raise UserError(
            "none of the backbones to compare has its weights available offline",
            "tlcli models --at-hand lists those that have",
        )
    return chosen
