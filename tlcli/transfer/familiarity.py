"""How much at home a pretrained network is with images: its confidence, and what shape and
orientation tell it.

Two measures. The level: the classifier's mean confidence (maximum softmax probability, Hendrycks
and Gimpel 2017) as a share of what the same weights show on ImageNet photographs that they were
not trained on; a table holds that for the weights that it was measured for. And a measure that
needs no table: a network that knows what it sees is surer of a picture than of the same picture
in shuffled pieces or upside down, and its last codes are more peaked; of a texture or a scan it
is not. `docs/four-cases.md` has the figures; `tests/bench/familiarity.py` makes them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tlcli.data.dataset import Sample
from tlcli.transfer.decision import LEVEL_LINE, SELF_LINE, doubtful
from tlcli.transfer.evidence import Familiarity

FEW = 96
"""Images that are looked at changed as well."""
PIECES = 4
"""Shuffled pieces along each side."""
PEAK = 0.05
"""Share of the codes that count as the peak."""

Outputs = Mapping[str, Tensor]
Change = Callable[[Tensor], Tensor]


@cache
def references() -> Mapping[str, float]:
    """Mean confidence on unseen ImageNet photographs by the sha256 of the weight file."""
    table = json.loads(Path(__file__).with_suffix(".json").read_text())
    return {sha256: entry["reference"] for sha256, entry in table.items()}


def measure(
    samples: Sequence[Sample],
    weights: str | None,
    outputs: Outputs,
    last: str | None,
    again: Callable[[Sequence[Sample], Change, str], Outputs],
) -> Familiarity | None:
    """The familiarity of `samples`.

    Args:
        weights: sha256 of the weight file.
        outputs: by stage, float32 [n, d]; under "head" the ImageNet logits, where there are any.
        last: the stage whose codes the head reads; None where they cannot be had.
        again: the outputs for some of the samples with the pictures changed.

    Returns:
        None where there are neither logits nor codes.
    """
    logits, reference = outputs.get("head"), references().get(weights or "")
    confidence = None
    if logits is not None and len(logits):
        sure = logits.softmax(1).amax(1)
        confidence = sure.mean().item()
        if reference is not None:
            error = (sure.std() / len(sure) ** 0.5).item() / reference if len(sure) > 1 else 1.0
            level = Familiarity(
                confidence / reference, LEVEL_LINE, error, "level", confidence, reference
            )
            if not doubtful(level):
                return level
    if (logits is None and last is None) or not samples:
        return None
    shares = _compare(samples[:FEW], outputs, last, again)
    if confidence is not None and reference is not None:
        return Familiarity(**{**level.__dict__, **_named(shares)})
    wins = torch.stack(list(shares.values()))
    return Familiarity(
        wins.mean().item(),
        SELF_LINE,
        (wins.mean(0).std() / wins.shape[1] ** 0.5).item() if wins.shape[1] > 1 else 1.0,
        "self",
        confidence,
        **_named(shares),
    )


def _compare(
    few: Sequence[Sample],
    outputs: Outputs,
    last: str | None,
    again: Callable[[Sequence[Sample], Change, str], Outputs],
) -> dict[str, Tensor]:
    """For each comparison 1 where the picture as it is wins, else 0: float32 [len(few)]."""
    shares: dict[str, Tensor] = {}
    for view, change in CHANGES.items():
        changed = again(few, change, view)
        for output, measured in (("head", _prominence), (last, _peak)):
            if output is not None and output in outputs:
                wins = measured(outputs[output][: len(few)]) > measured(changed[output])
                shares[f"{measured.__name__} {view}"] = wins.float()
    return shares


def _named(shares: Mapping[str, Tensor]) -> dict[str, float]:
    """The comparisons under the names of `Familiarity`'s fields."""
    peaks = [w for name, w in shares.items() if name.startswith(_peak.__name__)]
    found = {
        "whole": [w for name, w in shares.items() if name == f"{_prominence.__name__} pieces"],
        "upright": [w for name, w in shares.items() if name == f"{_prominence.__name__} turned"],
        "peaked": peaks,
    }
    return {k: torch.stack(v).mean().item() for k, v in found.items() if v}


def _prominence(logits: Tensor) -> Tensor:
    """How far the largest logit stands out, in standard deviations of all: free of temperature."""
    return (logits.amax(1) - logits.mean(1)) / logits.std(1)


def _peak(codes: Tensor) -> Tensor:
    """The share of the activation that the largest codes hold."""
    codes = codes.clamp_min(0)
    top = codes.topk(max(1, round(PEAK * codes.shape[1])), dim=1).values.sum(1)
    return top / codes.sum(1).clamp_min(1e-12)


def pieces(images: Tensor) -> Tensor:
    """uint8 [n, 3, h, w], cut into `PIECES` x `PIECES` and shuffled, each in its own way.

    What a side that does not divide leaves over stays in place.
    """
    out = images.clone()
    height, width = (side // PIECES for side in images.shape[2:])
    corners = [(y * height, x * width) for y in range(PIECES) for x in range(PIECES)]
    generator = torch.Generator().manual_seed(0)
    for index in range(len(images)):
        order = torch.randperm(len(corners), generator=generator).tolist()
        for (y, x), k in zip(corners, order, strict=True):
            v, u = corners[k]
            piece = images[index, :, v : v + height, u : u + width]
            out[index, :, y : y + height, x : x + width] = piece
    return out


def turned(images: Tensor) -> Tensor:
    """uint8 [n, 3, h, w], upside down."""
    return images.rot90(2, (2, 3))


CHANGES: Mapping[str, Change] = {"pieces": pieces, "turned": turned}
