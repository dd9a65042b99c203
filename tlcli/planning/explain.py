"""TODO"""

from tlcli.planning.evidence import Evidence, Familiarity, StageScore
from tlcli.planning.training_config import TrainingConfig

# How sure, by the score as a multiple of the line.
_SURE = (
    (1.8, "surer of these than"),
    (1.5, "as sure of these as"),
    (0.8, "less sure of these than"),
    (0.0, "much less sure of these than"),
)


def _familiarity_text(found: Familiarity) -> str:
    if found.by == "level":
        how = next(text for least, text in _SURE if found.score >= least * found.line)
        return (
            f"the backbone is {how} of ImageNet's own photographs "
            f"({found.confidence:.2f} against {found.reference:.2f}; similar from "
            f"{found.line * (found.reference or 0):.2f})"
        )
    return _wins_text(found.score, found.line)


def _wins_text(wins: float, line: float) -> str:
    more = "more" if wins >= line else "hardly more" if wins > 0.5 else "no more"
    return (
        f"they say {more} to the backbone than the same upside down "
        f"(in {wins:.0%} of comparisons; similar from {line:.0%})"
    )


def sweep_text(evidence: Evidence, cut: str | None) -> str:
    """What the stages make of the classes, as a clause; "" where they were not probed.

    `cut` is the stage whose output the new head is to read; None: the last.
    """
    sweep, best = evidence.sweep, evidence.best
    if best is None:
        return ""
    if not evidence.telling:
        return (
            f"no stage tells the classes apart better than guessing ({best.accuracy:.1%} at best)"
        )
    last = sweep[-1]
    chosen = next((s for s in sweep if s.name == cut), last)
    figure = f"{chosen.accuracy:.1%} +- {2 * chosen.error:.1%}"
    if chosen is not last and chosen is best:
        behind = f"the last codes are {_points(last)} behind"
        return f"{best.name} tells the classes apart best ({figure}; {behind})"
    if chosen is not last:
        return (
            f"{chosen.name} is the earliest stage within a standard error of the best ({figure}, "
            f"{_points(chosen)} behind {best.name})"
        )
    if last.behind <= 2 * last.behind_error:
        return f"its last codes tell the classes apart as well as any stage ({figure})"
    return f"its last codes tell the classes apart ({figure}; {best.name} is {_points(last)} ahead)"


def _points(stage: StageScore) -> str:
    return f"{100 * stage.behind:.1f} points (+- {200 * stage.behind_error:.1f})"


def describe_training(config: TrainingConfig) -> str:
    """How it is trained, in a line for a person."""
    balance = f"; classes balanced by {config.balance}" if config.balance != "none" else ""
    if config.optimizer == "lbfgs":
        return f"L-BFGS: the head's optimum, the penalty by cross-validation{balance}"
    name = {"adamw": "AdamW", "sgd": f"SGD with momentum {config.momentum:g}"}
    lr = "lr to be found" if config.find_lr else f"lr {config.lr:.2g}"
    if config.layer_decay != 1:
        lr += f" ({config.layer_decay:g} of it for each stage earlier)"
    batch = f"{config.batch_size}"
    if config.accumulate > 1:
        batch += f" x {config.accumulate}"
    rises = f" after {config.warmup:g} epochs of warm-up" if config.warmup else ""
    parts = [
        name[config.optimizer],
        lr,
        f"weight decay {config.weight_decay:g}",
        f"{config.epochs} epoch{'s' * (config.epochs > 1)} in batches of {batch}",
        config.lr_schedule + rises,
        f"BatchNorm {'frozen' if config.batchnorm == 'frozen' else 'adapts'}",
    ]
    if config.head_first:
        parts[0] = f"the head first, then {parts[0]}"
    if config.unfreeze == "gradual":
        parts.append("unfrozen from the head backwards")
    if config.average != "none":
        parts.append(f"weights averaged ({config.average})")
    if config.label_smoothing:
        parts.append(f"label smoothing {config.label_smoothing:g}")
    if config.dropout is not None:
        parts.append(f"dropout {config.dropout:g}")
    if config.augment != TrainingConfig.augment:
        parts.append(f"augmented by {config.augment}")
    return ", ".join(parts) + balance


def forecast_error_text(forecast_s: float, took_s: float) -> str:
    """As "took 39 s, forecast 41 s (5% too long)"."""
    off = forecast_s / max(took_s, 1e-9) - 1
    told = "too long" if off > 0 else "too short"
    return f"took {took_s:.0f} s, forecast {forecast_s:.0f} s ({abs(off):.0%} {told})"
