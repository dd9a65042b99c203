"""The measuring pass over a sample of the images, and the evidence that comes from it."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from tlcli.data.dataset import Sample
from tlcli.features.cache_table import CacheTable
from tlcli.features.stage_features import HEAD, StageFeatures
from tlcli.features.views import PLAIN_VIEW_ONLY, Views
from tlcli.planning import explain
from tlcli.planning.cases import SAMPLE_SIZE
from tlcli.planning.evidence import Evidence
from tlcli.planning.similarity import measure_similarity
from tlcli.planning.stage_probes import add_curve_and_pairs, probe_stages
from tlcli.runtime.workers import torch_threads

MIN_IMAGES_PER_CLASS = 10
"""Images of each class that a probe needs. Where the sample cannot hold that many of every class,
it holds images of some classes only."""


@dataclass
class Measurement:
    """The outcome of the measuring pass.

    Attributes:
        evidence: equal for equal data, seed and machine.
        stage_features: the pass itself.
        samples: the images that were measured.
        tables: the cache tables by the stage's name; those of pooled maps are "NAME+pool".
        unreadable: the images that could not be read, and why.
    """

    evidence: Evidence
    stage_features: StageFeatures
    samples: Sequence[Sample]
    tables: Mapping[str, CacheTable]
    unreadable: dict[Path, str] = field(default_factory=dict)


def measure_folder(
    stage_features: StageFeatures,
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    size: int = SAMPLE_SIZE,
    views: Views = PLAIN_VIEW_ONLY,
    n_views: Callable[[float], int] | None = None,
) -> Measurement:
    """Measure how similar the images are to the pretraining images, and probe each stage.

    Args:
        stage_features: the pass over the backbone's stages.
        samples: the training images.
        size: the number of images to measure, at most.
        views: the views that training will read; their seed draws the sample and the folds too.
        n_views: returns how many of the views to compute; see `StageFeatures.extract`.
    """
    if stage_features.last_stage in {o.name for o in stage_features.outputs if o.pooled}:
        # A head that pools the last maps itself reads what is not kept here.
        views, n_views = replace(views, n=1), None
    chosen = choose_sample(samples, size, views.seed)
    outputs, unreadable = stage_features.extract(chosen, views, n_views)
    chosen = [s for s in chosen[: stage_features.n_measured] if s.path not in unreadable]
    similarity = measure_similarity(
        chosen,
        stage_features.backbone.weights_sha256,
        outputs,
        stage_features.last_stage,
        stage_features.extract_transformed,
    )
    labels = torch.tensor([s.label for s in chosen], dtype=torch.int64)
    features = {name: output for name, output in outputs.items() if name != HEAD}
    with torch_threads(1):
        sweep, best, notes = probe_stages(features, labels, views.seed)
    counts = Counter(s.label for s in samples if s.path not in unreadable)
    sampled_classes = len(set(labels.tolist()))
    if sampled_classes < len(counts):
        notes.insert(0, explain.sampled_classes_text(sampled_classes, len(counts)))
    evidence = Evidence(
        n_train=counts.total(),
        n_classes=len(classes),
        smallest=min(counts.values(), default=0),
        largest=max(counts.values(), default=0),
        sampled=len(chosen),
        sampled_classes=sampled_classes,
        similarity=similarity,
        sweep=sweep,
        notes=tuple(notes),
    )
    if best is not None and evidence.informative_sweep:
        evidence = add_curve_and_pairs(evidence, best, classes)
    pairs = zip(stage_features.outputs, stage_features.tables, strict=True)
    tables = {output.name + "+pool" * output.pooled: table for output, table in pairs}
    return Measurement(evidence, stage_features, chosen, tables, unreadable)


def choose_sample(samples: Sequence[Sample], size: int, seed: int) -> list[Sample]:
    """Choose at most `size` images, from each class in turn.

    Every beginning of the list is as balanced as the images allow. Of very many classes, some are
    drawn. The choice depends on the seed and the images, not on their order.
    """
    rng = random.Random(seed)
    by_class: dict[int, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: s.digest):
        by_class[sample.label].append(sample)
    labels = sorted(by_class)
    if len(samples) > size and len(labels) * MIN_IMAGES_PER_CLASS > size:
        n_classes = max(2, min(len(labels), size // MIN_IMAGES_PER_CLASS))
        labels = sorted(rng.sample(labels, n_classes))
    for label in labels:
        rng.shuffle(by_class[label])
    chosen: list[Sample] = []
    turn = 0
    while len(chosen) < size:
        one_per_class = [by_class[label][turn] for label in labels if turn < len(by_class[label])]
        if not one_per_class:
            break
        rng.shuffle(one_per_class)
        chosen += one_per_class
        turn += 1
    return chosen[:size]
