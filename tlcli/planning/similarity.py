"""How much at home a pretrained network is with images: how sure of them, and which way up.

Two measures. The level: the classifier's mean confidence (maximum softmax probability, Hendrycks
and Gimpel 2017) as a share of what the same weights show on ImageNet photographs that they were
not trained on; a table holds that for the weights that it was measured for. And a measure that
needs no table: photographs of things have an up and a down, so that a network which knows what it
sees is surer of them than of the same pictures upside down, and its last codes are more peaked; of
a texture, a scan or a satellite tile it is not. `docs/four-cases.md` tells more,
`tests/bench/familiarity.py` makes the figures.
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
from tlcli.planning.decision import DOUBT, FEW_CLASSES, LEVEL_LINE, SELF_LINE, doubtful
from tlcli.planning.evidence import Familiarity
from tlcli.planning.linear_probe import balanced

FEW = 192
"""Images that are looked at upside down as well."""
TURNED = "turned"
"""Their view, in the cache."""
PEAK = 0.05
"""Share of the codes that count as the peak."""

Outputs = Mapping[str, Tensor]
Change = Callable[[Tensor], Tensor]


@cache
def references() -> Mapping[str, float]:
    """Mean confidence on unseen ImageNet photographs by the sha256 of the weight file."""
    table = json.loads(Path(__file__).with_suffix(".json").read_text())
    return {sha256: entry["reference"] for sha256, entry in table.items()}


def measure_familiarity(
    samples: Sequence[Sample],
    sha256: str | None,
    outputs: Outputs,
    last: str | None,
    again: Callable[[Sequence[Sample], Change, str], Outputs],
) -> Familiarity | None:
    """The familiarity of `samples`.

    Args:
        sha256: of the weight file.
        outputs: by stage, float32 [n, d]; under "head" the ImageNet logits, where there are any.
        last: the stage whose codes the head reads; None where they cannot be had.
        again: the outputs for some of the samples with the pictures changed, by the name of the
            change.

    Returns:
        None where there are neither logits nor codes.
    """
    logits, reference = outputs.get("head"), references().get(sha256 or "")
    confidence = None
    if logits is not None and len(logits):
        sure, labels = logits.softmax(1).amax(1), [s.label for s in samples]
        weights = balanced(torch.tensor(labels))
        confidence = (weights * sure).mean().item()
        if reference is not None:
            error = (sure.std() / len(sure) ** 0.5).item() / reference if len(sure) > 1 else 1.0
            level = Familiarity(
                confidence / reference,
                LEVEL_LINE,
                error,
                "level",
                confidence,
                reference,
                doubt=max(DOUBT["level"], FEW_CLASSES / len(set(labels))),
            )
            if not doubtful(level):
                return level
    if (logits is None and last is None) or not samples:
        return None
    wins = _upright(samples[:FEW], outputs, last, again)
    named: dict[str, Any] = {name: w.mean().item() for name, w in wins.items()}
    if confidence is not None and reference is not None:
        return replace(level, **named)
    won = torch.stack(list(wins.values())).mean(0)
    error = (won.std() / len(won) ** 0.5).item() if len(won) > 1 else 1.0
    score, doubt = won.mean().item(), DOUBT["self"]
    return Familiarity(score, SELF_LINE, error, "self", confidence, **named, doubt=doubt)


def _upright(
    few: Sequence[Sample],
    outputs: Outputs,
    last: str | None,
    again: Callable[[Sequence[Sample], Change, str], Outputs],
) -> dict[str, Tensor]:
    """By the name of a field of `Familiarity`, 1 where the picture as it is wins over itself
    upside down, else 0: float32 [len(few)]."""
    changed = again(few, upside_down, TURNED)
    wins = {}
    for name, output, measured in (("upright", "head", _prominence), ("peaked", last, _peak)):
        if output is not None and output in outputs:
            won = measured(outputs[output][: len(few)]) > measured(changed[output])
            wins[name] = won.float()
    return wins


def _prominence(logits: Tensor) -> Tensor:
    """How far the largest logit stands out, in standard deviations of all: free of temperature."""
    return (logits.amax(1) - logits.mean(1)) / logits.std(1)


def _peak(codes: Tensor) -> Tensor:
    """The share of the activation that the largest codes hold."""
    codes = codes.clamp_min(0)
    top = codes.topk(max(1, round(PEAK * codes.shape[1])), dim=1).values.sum(1)
    return top / codes.sum(1).clamp_min(1e-12)


def upside_down(images: Tensor) -> Tensor:
    """uint8 [n, 3, h, w], upside down."""
    return images.rot90(2, (2, 3))
