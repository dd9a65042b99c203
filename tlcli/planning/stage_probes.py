"""Linear probes of a backbone's stages, and the evidence in the best of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tlcli.metrics.linear_models import FOLDS, deal_folds
from tlcli.planning import explain
from tlcli.planning.evidence import (
    ACCURACY_DIGITS,
    ConfusedPair,
    CurvePoint,
    Evidence,
    StageScore,
)
from tlcli.planning.linear_probe import Probe, cross_validate, learning_curve
from tlcli.runtime.workers import torch_threads

CURVE_SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of the sample's images that the learning curve is fitted on."""
MAX_CONFUSED_PAIRS = 5
"""Pairs of confused classes that are kept."""
SMALL_GAIN = 0.01
"""A gain in accuracy by twice the images that is called little, if the gain is surely below."""


@dataclass(frozen=True)
class ProbedStage:
    """A stage's probe, and the data that it was fitted on.

    Attributes:
        features: float32 [n, d].
        labels: int64 [n], numbered without gaps.
        fold: int64 [n].
        classes: the dataset's number of each of the labels, int64 [classes].
    """

    probe: Probe
    features: Tensor
    labels: Tensor
    fold: Tensor
    classes: Tensor


def probe_stages(
    outputs: Mapping[str, Tensor], labels: Tensor, seed: int
) -> tuple[tuple[StageScore, ...], ProbedStage | None, list[str]]:
    """Probe the features of each stage.

    Args:
        outputs: float32 [n, d] by stage.
        labels: int64 [n].

    Returns:
        The scores by stage, the best stage (None where nothing could be probed), and notes on what
        was left out.
    """
    notes = []
    counts = torch.bincount(labels) if len(labels) else torch.zeros(0, dtype=torch.int64)
    n_single = int((counts == 1).sum())
    if n_single:
        notes.append(explain.single_images_text(n_single))
    kept = counts[labels] > 1 if len(labels) else torch.zeros(0, dtype=torch.bool)
    classes, labels = labels[kept].unique(return_inverse=True)
    if len(classes) < 2 or len(labels) < 2 * FOLDS:
        notes.append(explain.TOO_FEW_TO_PROBE)
        return (), None, notes
    fold = deal_folds(labels, FOLDS, seed)
    stages: dict[str, ProbedStage] = {}
    for name, output in outputs.items():
        if output.isfinite().all():
            probe = cross_validate(output[kept], labels, fold)
            stages[name] = ProbedStage(probe, output[kept], labels, fold, classes)
        else:
            notes.append(explain.dropped_stage_text(name))
    if not stages:
        return (), None, notes
    # The earliest of equals: max keeps the first.
    best = max(stages.values(), key=lambda s: round(s.probe.accuracy, ACCURACY_DIGITS))
    scores = []
    for name, stage in stages.items():
        gap, gap_error = best.probe.gain_over(stage.probe)
        scores.append(StageScore(name, stage.probe.accuracy, stage.probe.error, gap, gap_error))
    return tuple(scores), best, notes


def add_curve_and_pairs(
    evidence: Evidence, best: ProbedStage, class_names: Sequence[str]
) -> Evidence:
    """Return the evidence with the best stage's learning curve and its confused classes."""
    with torch_threads(1):
        curve = learning_curve(
            best.features, best.labels, best.fold, CURVE_SHARES, best.probe.penalty
        )
    (smaller, before), (larger, after) = curve[-2], curve[-1]
    gain, error = after.gain_over(before)
    return replace(
        evidence,
        curve=tuple(CurvePoint(images, p.accuracy, p.error) for images, p in curve),
        curve_note=explain.curve_text(smaller, larger, gain, error, SMALL_GAIN),
        pairs=_confused_pairs(best, class_names),
    )


def _confused_pairs(best: ProbedStage, class_names: Sequence[str]) -> tuple[ConfusedPair, ...]:
    """Return the pairs of classes that are confused most often, worst first."""
    names = [class_names[label] for label in best.classes.tolist()]
    wrong = best.probe.predicted != best.labels
    mistakes = torch.stack([best.labels[wrong], best.probe.predicted[wrong]], 1)
    pairs = Counter((a, b) for a, b in mistakes.sort(1).values.tolist())
    counts = torch.bincount(best.labels).tolist()
    return tuple(
        ConfusedPair((names[a], names[b]), n, counts[a] + counts[b])
        for (a, b), n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[
            :MAX_CONFUSED_PAIRS
        ]
    )
