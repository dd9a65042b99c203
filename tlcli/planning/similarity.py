"""The similarity of images to a network's pretraining: its confidence, and which way is up.

Two measures. The confidence: the classifier's mean maximum softmax probability (Hendrycks and
Gimpel 2017) as a share of the value that the same weights have on ImageNet photographs that they
were not trained on; a table holds that reference for the weights that it was measured for. And the
win rate, which needs no table: photographs of things have an up and a down, so a network that knows
the things has more prominent logits and more peaked last features for them than for the same
pictures upside down; for a texture, a scan or a satellite tile it has not. `docs/four-cases.md`
tells more, `tests/bench/familiarity.py` makes the figures.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlcli.data.dataset import Sample
from tlcli.features.stage_features import HEAD
from tlcli.planning.decision import (
    CLASS_MARGIN,
    CONFIDENCE_THRESHOLD,
    MARGINS,
    WIN_RATE_THRESHOLD,
    is_uncertain,
)
from tlcli.planning.evidence import BY_CONFIDENCE, BY_WIN_RATE, SimilarityScore
from tlcli.planning.linear_probe import balanced_weights

MAX_ROTATED = 192
"""Images that are compared with themselves upside down."""
ROTATED_VIEW = "turned"
"""The id of the view upside down in the cache."""
PEAK_SHARE = 0.05
"""Share of the features that count as the peak."""

Outputs = Mapping[str, Tensor]
"""The pooled features by stage, float32 [n, d]; under `HEAD` the ImageNet logits."""
Change = Callable[[Tensor], Tensor]
Recompute = Callable[[Sequence[Sample], Change, str], Outputs]
"""A function of samples, a change of their pictures and its view's id: the changed outputs."""


@cache
def reference_confidences() -> Mapping[str, float]:
    """Return the mean confidence on unseen ImageNet photographs by the weight file's sha256."""
    table = json.loads(Path(__file__).with_suffix(".json").read_text())
    return {sha256: entry["reference"] for sha256, entry in table.items()}


def measure_similarity(
    samples: Sequence[Sample],
    sha256: str | None,
    outputs: Outputs,
    last_stage: str | None,
    recompute: Recompute,
) -> SimilarityScore | None:
    """Measure how similar `samples` are to the pretraining images.

    The confidence decides where there is a reference for it. Where there is none, or the
    confidence is uncertain, the win rate is measured too.

    Args:
        sha256: of the weight file.
        last_stage: the stage whose features the head reads; None where they are not available.

    Returns:
        None where there are neither logits nor features.
    """
    logits = outputs.get(HEAD)
    reference = reference_confidences().get(sha256 or "")
    confidence, by_confidence = None, None
    if logits is not None and len(logits):
        probabilities, labels = logits.softmax(1).amax(1), [s.label for s in samples]
        confidence = (balanced_weights(torch.tensor(labels)) * probabilities).mean().item()
        if reference is not None:
            error = _standard_error(probabilities)
            by_confidence = SimilarityScore(
                confidence / reference,
                CONFIDENCE_THRESHOLD,
                1.0 if error is None else error / reference,
                BY_CONFIDENCE,
                confidence,
                reference,
                margin=max(MARGINS[BY_CONFIDENCE], CLASS_MARGIN / len(set(labels))),
            )
            if not is_uncertain(by_confidence):
                return by_confidence
    if (logits is None and last_stage is None) or not samples:
        return None
    wins = _wins(samples[:MAX_ROTATED], outputs, last_stage, recompute)
    rates: dict[str, Any] = {name: won.mean().item() for name, won in wins.items()}
    if by_confidence is not None:
        return replace(by_confidence, **rates)
    won = torch.stack(list(wins.values())).mean(0)
    error = _standard_error(won)
    return SimilarityScore(
        won.mean().item(),
        WIN_RATE_THRESHOLD,
        1.0 if error is None else error,
        BY_WIN_RATE,
        confidence,
        **rates,
        margin=MARGINS[BY_WIN_RATE],
    )


def _standard_error(x: Tensor) -> float | None:
    """Return the standard error of the mean of `x`; None for a single value."""
    return (x.std() / len(x) ** 0.5).item() if len(x) > 1 else None


def _wins(
    samples: Sequence[Sample], outputs: Outputs, last_stage: str | None, recompute: Recompute
) -> dict[str, Tensor]:
    """Compare samples with themselves upside down.

    Returns:
        By the name of a field of `SimilarityScore`, 1 where the upright picture wins, else 0:
        float32 [len(samples)].
    """
    rotated = recompute(samples, upside_down, ROTATED_VIEW)
    comparisons = (
        ("head_win_rate", HEAD, _prominence),
        ("feature_win_rate", last_stage, _peakedness),
    )
    wins = {}
    for name, output, measure in comparisons:
        if output is not None and output in outputs:
            won = measure(outputs[output][: len(samples)]) > measure(rotated[output])
            wins[name] = won.float()
    return wins


def _prominence(logits: Tensor) -> Tensor:
    """Return how far the largest logit stands out, in standard deviations of all logits.

    This does not depend on the temperature.
    """
    return (logits.amax(1) - logits.mean(1)) / logits.std(1)


def _peakedness(features: Tensor) -> Tensor:
    """Return the largest features' share of the activation."""
    features = features.clamp_min(0)
    top = features.topk(max(1, round(PEAK_SHARE * features.shape[1])), dim=1).values.sum(1)
    return top / features.sum(1).clamp_min(1e-12)


def upside_down(images: Tensor) -> Tensor:
    """Rotate images, uint8 [n, 3, h, w], by 180 degrees."""
    return images.rot90(2, (2, 3))
