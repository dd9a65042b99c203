"""One frozen pass over a sample of the images, and the evidence that comes of it."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from tlcli.backbones.backbone import Backbone
from tlcli.data.dataset import Sample
from tlcli.features.cache import FeatureCache
from tlcli.features.cache_table import CacheTable
from tlcli.features.reference_images import choose_reference_samples
from tlcli.features.stage_features import StageFeatures
from tlcli.features.views import PLAIN_VIEW_ONLY, Views
from tlcli.metrics.linear_models import FOLDS, deal_folds
from tlcli.planning import explain
from tlcli.planning import linear_probe as probe
from tlcli.planning.cases import SAMPLE_SIZE
from tlcli.planning.evidence import (
    ACCURACY_DIGITS,
    ConfusedPair,
    CurvePoint,
    Evidence,
    StageScore,
)
from tlcli.planning.similarity import measure_similarity
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.workers import torch_threads

PER_CLASS = 10
"""Images of a class from which a probe is worth its name: where the sample does not hold that many
of every class, it is one of some classes."""
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Of the sample's images, for the learning curve."""
PAIRS = 5
LITTLE = 0.01
"""A gain of accuracy by twice the images that is called little, if it is surely below."""


@dataclass
class Measurement:
    """What the pass came to.

    Attributes:
        evidence: equal for equal data, seed and machine.
        look: the pass itself, and `chosen`, the images that it came to.
        shelves: where activations are kept, by the stage's name; of maps "NAME+pool".
        unreadable: images that could not be looked at, and why.
    """

    evidence: Evidence
    look: StageFeatures
    chosen: Sequence[Sample]
    tables: Mapping[str, CacheTable]
    unreadable: dict[Path, str] = field(default_factory=dict)


def measure_folder(
    samples: Sequence[Sample],
    classes: Sequence[str],
    backbone: Backbone,
    compute: Compute,
    cache: FeatureCache,
    *,
    size: int = SAMPLE_SIZE,
    views: Views = PLAIN_VIEW_ONLY,
    n_views: Callable[[float], int] | None = None,
    reporter: Reporter | None = None,
) -> Measurement:
    """Measure how familiar the images are to the backbone, and what each stage makes of them.

    Args:
        samples: the training images.
        size: how many of them to look at, at most.
        views: The views that training will read. Their seed is that of the sample and folds too.
        n_views: Return how many of them to compute of an image; see `StageFeatures.extract`.
    """
    look = StageFeatures(
        backbone, compute, cache, reporter or Reporter(), choose_reference_samples(samples)
    )
    chosen = choose_sample(samples, size, views.seed)
    if look.last_stage in {output.name for output in look.outputs if output.pooled}:
        # A head that pools the last maps itself reads what is not kept here.
        views, n_views = replace(views, n=1), None
    outputs, unreadable = look.extract(chosen, views, n_views)
    chosen = [s for s in chosen[: look.n_measured] if s.path not in unreadable]
    labels = torch.tensor([s.label for s in chosen], dtype=torch.int64)
    known = measure_similarity(
        chosen, backbone.weights_sha256, outputs, look.last_stage, look.extract_transformed
    )
    stages = {name: output for name, output in outputs.items() if name != "head"}
    readable = [s for s in samples if s.path not in unreadable]
    counts = Counter(s.label for s in readable)
    with torch_threads(1):
        scores, best, notes = probe_stages(stages, labels, views.seed)
    drawn = len(set(labels.tolist()))
    if drawn < len(counts):
        notes.insert(0, explain.sampled_classes_text(drawn, len(counts)))
    evidence = Evidence(
        n_train=len(readable),
        n_classes=len(classes),
        smallest=min(counts.values(), default=0),
        largest=max(counts.values(), default=0),
        sampled=len(chosen),
        sampled_classes=drawn,
        similarity=known,
        sweep=scores,
        notes=tuple(notes),
    )
    if best is not None and evidence.informative_sweep:
        evidence = _with_curve_and_pairs(evidence, best, classes)
    kept = zip(look.outputs, look.tables, strict=True)
    tables = {output.name + "+pool" * output.pooled: table for output, table in kept}
    return Measurement(evidence, look, chosen, tables, unreadable)


def choose_sample(samples: Sequence[Sample], size: int, seed: int) -> list[Sample]:
    """At most `size` images, class by class in turn, so that every beginning of the list is as
    balanced as the images allow. Of very many classes, some are drawn."""
    rng = random.Random(seed)
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: s.digest):
        by_class[sample.label].append(sample)
    labels = sorted(by_class)
    if len(samples) > size and len(labels) * PER_CLASS > size:
        labels = sorted(rng.sample(labels, max(2, min(len(labels), size // PER_CLASS))))
    for label in labels:
        rng.shuffle(by_class[label])
    chosen: list[Sample] = []
    turn = 0
    while len(chosen) < size:
        this = [by_class[label][turn] for label in labels if turn < len(by_class[label])]
        if not this:
            break
        rng.shuffle(this)
        chosen += this
        turn += 1
    return chosen[:size]


@dataclass
class Probed:
    """The best stage's probe, and what it stood on."""

    probe: probe.Probe
    codes: Tensor
    labels: Tensor
    fold: Tensor
    classes: Tensor


def probe_stages(
    outputs: Mapping[str, Tensor], labels: Tensor, seed: int
) -> tuple[tuple[StageScore, ...], Probed | None, list[str]]:
    """A probe for each stage, the best one with what it stood on, and what was left out."""
    notes = []
    counts = torch.bincount(labels) if len(labels) else torch.zeros(0, dtype=torch.int64)
    single = int((counts == 1).sum())
    if single:
        notes.append(explain.single_images_text(single))
    kept = counts[labels] > 1 if len(labels) else torch.zeros(0, dtype=torch.bool)
    present, labels = labels[kept].unique(return_inverse=True)
    if len(present) < 2 or len(labels) < 2 * FOLDS:
        notes.append(explain.TOO_FEW_TO_PROBE)
        return (), None, notes
    fold = deal_folds(labels, FOLDS, seed)
    probed: dict[str, Probed] = {}
    for name, output in outputs.items():
        if output.isfinite().all():
            found = probe.cross_validate(output[kept], labels, fold)
            probed[name] = Probed(found, output[kept], labels, fold, present)
        else:
            notes.append(explain.dropped_stage_text(name))
    if not probed:
        return (), None, notes
    # The earliest of equals: max keeps the first.
    best = max(probed.values(), key=lambda p: round(p.probe.accuracy, ACCURACY_DIGITS))
    scores = []
    for name, one in probed.items():
        behind, error = best.probe.gain_over(one.probe)
        scores.append(StageScore(name, one.probe.accuracy, one.probe.error, behind, error))
    return tuple(scores), best, notes


def _with_curve_and_pairs(evidence: Evidence, best: Probed, classes: Sequence[str]) -> Evidence:
    penalty = best.probe.penalty
    with torch_threads(1):
        curve = probe.learning_curve(best.codes, best.labels, best.fold, SHARES, penalty)
    points = tuple(CurvePoint(images, p.accuracy, p.error) for images, p in curve)
    (before, less), (images, most) = curve[-2], curve[-1]
    gain, error = most.gain_over(less)
    note = explain.curve_text(before, images, gain, error, LITTLE)
    wrong = best.probe.predicted != best.labels
    of = [classes[label] for label in best.classes.tolist()]
    mistaken = torch.stack([best.labels[wrong], best.probe.predicted[wrong]], 1)
    pairs = Counter((a, b) for a, b in mistaken.sort(1).values.tolist())
    counts = torch.bincount(best.labels).tolist()
    hardest = tuple(
        ConfusedPair((of[a], of[b]), n, counts[a] + counts[b])
        for (a, b), n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:PAIRS]
    )
    return replace(evidence, curve=points, curve_note=note, pairs=hardest)
