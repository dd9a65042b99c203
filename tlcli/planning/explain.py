"""The sentences in which plans, evidence and forecasts are explained to people; needs no torch."""

from collections.abc import Sequence
from dataclasses import asdict

from tlcli.planning.evidence import BY_CONFIDENCE, Evidence, SimilarityScore, StageScore
from tlcli.planning.optimizers import find_optimizer
from tlcli.planning.training_config import TrainingConfig
from tlcli.text import format_duration

# The decision for a case.
SIMILARITY_ASSUMED = "the similarity was not measured, so the images are assumed to be similar"
SIMILARITY_UNKNOWN = "the similarity could not be measured"
EARLIER_STAGE_WINS = "an earlier stage separates the classes clearly better than the last"
# The trained stages of a plan.
FROM_SCRATCH = "nothing is pretrained, so everything is trained from scratch"
INIT_STARTS_HEAD = "--init sets how the head starts, so it is not solved first"
HEAD_ON_MIDDLE_STAGE = "a new head three quarters of the way up, since the probes favor no stage"
HEAD_ON_LAST_STAGE = "a new head on the last stage, which no earlier stage beats"
ALL_NOT_PRETRAINED = "everything without pretrained weights is trained"
HEAD_FIRST = ", the head first"
KEPT_HEAD = "the bundle's head already predicts these classes and is trained further"
# The notes of the evidence.
TOO_FEW_TO_PROBE = "too few images to probe the stages"

_CONFIDENCE_WORDS = (
    (1.8, "more confident on them than"),
    (1.5, "as confident on them as"),
    (0.8, "less confident on them than"),
    (0.0, "much less confident on them than"),
)
"""Words for a confidence from this multiple of its threshold on."""


def similarity_text(similarity: SimilarityScore) -> str:
    """Explain a similarity score by its confidence or its win rate."""
    if similarity.method != BY_CONFIDENCE:
        return win_rate_text(similarity.score, similarity.threshold)
    words = next(
        w for start, w in _CONFIDENCE_WORDS if similarity.score >= start * similarity.threshold
    )
    return (
        f"the backbone is {words} on ImageNet's own photographs "
        f"({similarity.confidence:.2f} against {similarity.reference:.2f}; "
        f"{similarity.threshold * (similarity.reference or 0):.2f} or more counts as similar)"
    )


def win_rate_text(win_rate: float, threshold: float) -> str:
    """Explain how often the images win against themselves upside down."""
    more = "more" if win_rate >= threshold else "hardly more" if win_rate > 0.5 else "no more"
    return (
        f"the backbone is {more} confident on them than on the same images upside down "
        f"(in {win_rate:.0%} of comparisons; {threshold:.0%} or more counts as similar)"
    )


def add_reason(reason: str, other: str, *, agrees: bool) -> str:
    """Join a second reason to a first, which it supports or contradicts."""
    return f"{reason}, {'and' if agrees else 'but'} {other}"


def contradiction_text(similarity: str, reason: str) -> str:
    """Explain that the measurements speak for another similarity than the one set by hand."""
    return f" (but the measurements speak for {similarity}: {reason})"


def case_by_hand_text(contradiction: str) -> str:
    """Explain a case that an option names."""
    return f"set by hand{contradiction}"


def similarity_by_hand_text(similarity: str, contradiction: str) -> str:
    """Explain a similarity that an option names."""
    return f"{similarity}, set by hand{contradiction}"


def cut_by_hand_text(stage: str) -> str:
    """Explain a plan whose cut alone is set by hand."""
    return f"the cut was set by hand (--freeze {stage})"


def size_text(size: str, n_train: int, large_from: int, *, by_hand: bool) -> str:
    """Explain whether a folder counts as small or large."""
    if by_hand:
        return f"{size}, set by hand ({n_train:,} training images)"
    limit = f"fewer than {large_from:,} counts as small"
    if size == "large":
        limit = f"{large_from:,} or more counts as large"
    return f"{n_train:,} training images are a {size} dataset ({limit})"


def sweep_text(evidence: Evidence, cut: str | None) -> str:
    """Explain how well the stages separate the classes; "" where they were not probed.

    Args:
        cut: the stage whose features a new head is to read; None: the last.
    """
    sweep, best = evidence.sweep, evidence.best_stage
    if best is None:
        return ""
    if not evidence.informative_sweep:
        return f"no stage separates the classes better than guessing ({best.accuracy:.1%} at best)"
    last = sweep[-1]
    chosen = next((s for s in sweep if s.name == cut), last)
    accuracy = f"{chosen.accuracy:.1%} +- {2 * chosen.error:.1%}"
    if chosen is not last and chosen is best:
        gap = f"the last stage is {_points(last)} behind"
        return f"features from {best.name} separate the classes best ({accuracy}; {gap})"
    if chosen is not last:
        return (
            f"{chosen.name} is the earliest stage within a standard error of the best ({accuracy}, "
            f"{_points(chosen)} behind {best.name})"
        )
    if last.gap <= 2 * last.gap_error:
        return (
            f"features from the last stage separate the classes as well as any other ({accuracy})"
        )
    return (
        f"features from the last stage separate the classes ({accuracy}; "
        f"{best.name} is {_points(last)} ahead)"
    )


def _points(stage: StageScore) -> str:
    """Return a stage's gap in points with twice its standard error."""
    return f"{100 * stage.gap:.1f} points (+- {200 * stage.gap_error:.1f})"


def moved_cut_text(stage: str) -> str:
    """Explain a cut that was moved before the first stage without pretrained weights."""
    return f"{stage} and the stages after it have no pretrained weights, so the cut moves before it"


def steps_text(flags: str) -> str:
    """Explain why a head is trained in steps that would otherwise be solved."""
    return f"the head is trained in steps (AdamW instead of L-BFGS) because of {flags}"


def case_text(case: str, trained: str) -> str:
    """Name the case and what is trained."""
    return f"{case}, {trained}"


def case_with_cut_by_hand_text(stage: str) -> str:
    """Explain a plan whose case was decided, but whose cut is set by hand."""
    return f"with the cut set by hand (--freeze {stage})"


def replaced_head_text(*, solved: bool) -> str:
    """Explain a new head in place of a bundle's head for the same classes."""
    start = "solved" if solved else "initialized"
    return f"the bundle's head already predicts these classes, but a new one is {start}"


def runner_up_text(case: str) -> str:
    """Suggest the case that came close."""
    return f"the decision is close, so {case} is worth a try (--case {case})"


def stages_text(cut: str, trained: Sequence[str], dropped: Sequence[str]) -> str:
    """List the frozen, the trained and the dropped stages in a line."""
    ends = trained if len(trained) < 4 else (trained[0], "...", trained[-1])
    frozen = "frozen: nothing" if cut == "none" else f"frozen up to: {cut}"
    rest = f"; dropped: {dropped[0]} and on" if dropped else ""
    return f"{frozen}; trained: {', '.join(ends)}{rest}"


def describe_training(config: TrainingConfig) -> str:
    """Describe a training in a line."""
    optimizer = find_optimizer(config.optimizer).phrase.format(**asdict(config))
    balance = f"; classes balanced by {config.balance}" if config.balance != "none" else ""
    if config.solves_head:
        return f"{optimizer}{balance}"
    lr = "a measured learning rate" if config.find_lr else f"learning rate {config.lr:.2g}"
    if config.layer_decay != 1:
        lr += f" (times {config.layer_decay:g} for each earlier stage)"
    batch = f"{config.batch_size}"
    if config.accumulate > 1:
        batch += f" x {config.accumulate}"
    warmup = f" after {config.warmup:g} epochs of warm-up" if config.warmup else ""
    parts = [
        f"the head first, then {optimizer}" if config.head_first else optimizer,
        lr,
        f"weight decay {config.weight_decay:g}",
        f"{config.epochs} epoch{'s' * (config.epochs > 1)} in batches of {batch}",
        f"{config.lr_schedule} schedule{warmup}",
        f"BatchNorm {'frozen' if config.batchnorm == 'frozen' else 'adapts'}",
    ]
    if config.unfreeze == "gradual":
        parts.append("unfrozen gradually from the head backwards")
    if config.average != "none":
        parts.append(f"averaged weights ({config.average})")
    if config.label_smoothing:
        parts.append(f"label smoothing {config.label_smoothing:g}")
    if config.dropout is not None:
        parts.append(f"dropout {config.dropout:g}")
    if config.augment != TrainingConfig.augment:
        parts.append(f"augmentation {config.augment}")
    return ", ".join(parts) + balance


def plan_line(case: str, stages: str, seconds: float | None) -> str:
    """Summarize a plan and its forecast in a line."""
    forecast = f"; about {format_duration(seconds)}" if seconds is not None else ""
    return f"plan: {case}; {stages}{forecast}"


def forecast_error_text(forecast_s: float, took_s: float) -> str:
    """Compare a forecast with the time that was taken."""
    error = forecast_s / max(took_s, 1e-9) - 1
    word = "too long" if error > 0 else "too short"
    return f"took {took_s:.0f} s, forecast {forecast_s:.0f} s ({abs(error):.0%} {word})"


def plain_view_only_text(seconds: float) -> str:
    """Note that no augmented views are cached, since another view takes so long."""
    return (
        "caching only the plain view of each image: another view takes "
        f"{format_duration(seconds)} (--views 2)"
    )


def sampled_classes_text(sampled: int, total: int) -> str:
    """Note that only some of the classes were measured."""
    return f"the sample holds images of {sampled} of the {total} classes"


def single_images_text(n: int) -> str:
    """Note that classes with a single image cannot be cross-validated."""
    return f"classes with one image in the sample are not probed: {n}"


def dropped_stage_text(stage: str) -> str:
    """Note that a stage's features cannot be used."""
    return f"{stage} is not probed, since its features are not finite"


def curve_text(smaller: int, larger: int, gain: float, error: float, small_gain: float) -> str:
    """Explain from the learning curve's last step whether more images would help.

    Args:
        smaller, larger: the images of the last two points of the curve.
        gain, error: the gain in accuracy between them, and its standard error.
        small_gain: a gain below this is called little.
    """
    gained = f"{larger} images instead of {smaller} gained {100 * gain:.1f} points"
    gained = f"{gained} (+- {200 * error:.1f})"
    if gain > 2 * error:
        return f"{gained}: more images would help"
    if gain + 2 * error < small_gain:
        return f"{gained}: more images of the same kind would help little"
    return f"{gained}: this may be chance, and there are too few images to tell"
