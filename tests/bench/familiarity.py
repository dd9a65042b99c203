"""Measure familiarity, and how its thresholds were set: `python -m tests.bench.familiarity`.

Measures the familiarity of each shared set for each backbone at hand, on five samples of 300 images
(VGG16, which has no classifier here and is slow: on two of 100), both against the table of
references and without it. For each set, the threshold is recomputed from the other sets alone,
halfway between the highest score of the different and the lowest of the similar ones, and then
decides the set that was left out. The program also decides on folders of a few of a set's classes,
which are expected to be of the set's kind. Writes docs/measured/familiarity.md.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
import torchvision

from tests.bench.common import (
    WEIGHT_FILES,
    WITH_CLASSIFIER,
    load_pretrained,
    make_parser,
    write_page,
)
from tests.paths import DATA
from tlcli.data.dataset import Sample, scan
from tlcli.features.cache import FeatureCache, default_cache_dir
from tlcli.features.stage_features import StageFeatures
from tlcli.planning import similarity
from tlcli.planning.decision import CONFIDENCE_THRESHOLD, WIN_RATE_THRESHOLD, judge_similarity
from tlcli.planning.evidence import Evidence, SimilarityScore
from tlcli.planning.measure import choose_sample
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device

KIND = {"flowers": "similar", "caltech": "similar", "digits": "different", "eurosat": "different"}
# Top-1 accuracy of these weights on ImageNet's validation images, as their authors published it.
PUBLISHED_TOP1 = {"squeezenet1_1": 57.5, "mobilenet_v2": 71.8, "efficientnet_lite0": 75.1}
N_SAMPLES, SAMPLE_SIZE = 5, 300
# VGG16 computes a few images per second.
SMALLER_SAMPLES = {"vgg16": (2, 100)}
CLASS_COUNTS = (2, 3, 5, 10)
"""Numbers of classes in the small folders."""
MAX_FOLDERS = 45
FOLDERS_SAMPLE = 400
"""Images of a set that the small folders are taken from."""

INTRODUCTION = """\
# Familiarity: how the thresholds were set

Made by `python -m tests.bench.familiarity` (torch {torch}, torchvision {torchvision}): five samples
of {size} images from each shared set (VGG16: two of 100). The threshold of a row is computed from
the other three sets alone, all backbones together: it lies halfway between the highest score of the
different and the lowest of the similar sets. Its own set is then decided by it. The program's own
thresholds are {level} for `level` and {self} for `self`. Wrong decisions, before the sweep casts
its vote: {wrong} of {n}.

"""
FEW_CLASSES_TEXT = f"""\
What the program decides for folders of some of a set's classes (at most {MAX_FOLDERS} choices,
from {FOLDERS_SAMPLE} images), without the vote of the sweep. Not every decision that is counted as
wrong is one: ImageNet has classes for some of these things and none for others, and a person might
also call a folder different that holds two classes unknown to ImageNet."""


@dataclass(frozen=True)
class Scores:
    """The familiarity of a set for a backbone, measured one way on several samples."""

    backbone: str
    data: str
    found: list[SimilarityScore]

    @property
    def by(self) -> str:
        return self.found[0].method

    @property
    def values(self) -> list[float]:
        return [familiarity.score for familiarity in self.found]


def stage_features(backbone: str, cache: FeatureCache) -> tuple[StageFeatures, str | None]:
    """Build the pass over a backbone's stages; return it and the digest of the weights."""
    loaded = load_pretrained(backbone)
    passes = StageFeatures(loaded, choose_device("cpu"), cache, Reporter())
    return passes, loaded.weights_sha256


def write_references(cache: FeatureCache) -> None:
    """Measure the references and write them into tlcli/planning/similarity.json.

    The weights were trained on most of the ImageNet samples. So the confidence on these is reduced
    by the ratio of the published accuracy to the accuracy on the samples.
    """
    table = {}
    paths = sorted((DATA / "imagenet-samples").iterdir())
    samples = [
        Sample(path, index, hashlib.sha256(path.read_bytes()).hexdigest())
        for index, path in enumerate(paths)
    ]
    for name, published in PUBLISHED_TOP1.items():
        passes, sha256 = stage_features(name, cache)
        outputs, _ = passes.extract(samples)
        probabilities = outputs["head"].softmax(1)
        top1 = (probabilities.argmax(1) == torch.arange(len(samples))).float().mean().item()
        confidence = probabilities.amax(1).mean().item()
        assert sha256 is not None
        table[sha256] = {
            "backbone": name,
            "confidence": round(confidence, 4),
            "top1": round(top1, 4),
            "published_top1": published / 100,
            "reference": round(confidence * min(1.0, published / 100 / top1), 4),
        }
        print(name, table[sha256], flush=True)
    Path(similarity.__file__).with_suffix(".json").write_text(json.dumps(table, indent=2) + "\n")
    similarity.reference_confidences.cache_clear()


def measure_scores(name: str, cache: FeatureCache) -> Iterator[Scores]:
    """Measure the familiarity of each set for a backbone, with and without the references."""
    passes, sha256 = stage_features(name, cache)
    n_samples, size = SMALLER_SAMPLES.get(name, (N_SAMPLES, SAMPLE_SIZE))
    for data in KIND:
        train = scan(DATA / data).train
        for weights in dict.fromkeys([sha256, None]):
            if weights is not None and weights not in similarity.reference_confidences():
                continue
            found = []
            for seed in range(n_samples):
                samples = choose_sample(train, size, seed)
                outputs, _ = passes.extract(samples)
                measured = similarity.measure_similarity(
                    samples, weights, outputs, passes.last_stage, passes.extract_transformed
                )
                assert measured is not None
                found.append(measured)
            scores = Scores(name, data, found)
            mean = sum(scores.values) / len(found)
            print(name, data, scores.by, f"{mean:.3f}", [f"{v:.3f}" for v in scores.values])
            yield scores


def few_classes(cache: FeatureCache) -> list[str]:
    """Decide on folders of 2, 3, 5 and 10 classes of each set; return the table."""
    lines = ["| backbone | set | " + " | ".join(f"{n} classes" for n in CLASS_COUNTS) + " |"]
    lines.append("|---|---|" + "---|" * len(CLASS_COUNTS))
    for name in WITH_CLASSIFIER:
        passes, sha256 = stage_features(name, cache)
        for data, kind in KIND.items():
            dataset = scan(DATA / data)
            samples = choose_sample(dataset.train, FOLDERS_SAMPLE, 0)
            outputs, _ = passes.extract(samples)
            labels = torch.tensor([s.label for s in samples])
            cells = []
            for n in CLASS_COUNTS:
                wrong, close, folders = 0, 0, subsets(len(dataset.classes), n)
                for classes in folders:
                    rows = torch.isin(labels, torch.tensor(classes)).nonzero()[:, 0].tolist()
                    found = similarity.measure_similarity(
                        [samples[row] for row in rows],
                        sha256,
                        {stage: output[rows] for stage, output in outputs.items()},
                        passes.last_stage,
                        passes.extract_transformed,
                    )
                    evidence = Evidence(len(rows), n, 1, 1, len(rows), n, found)
                    verdict = judge_similarity(evidence)
                    wrong += verdict.similarity != kind
                    close += verdict.close
                cells.append(f"{wrong} wrong, {close} close of {len(folders)}" if folders else "")
            lines.append(f"| {name} | {data} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def subsets(classes: int, n: int) -> list[tuple[int, ...]]:
    """Choose n of the classes in up to `MAX_FOLDERS` ways, never all of them."""
    every = list(combinations(range(classes), n)) if n < classes else []
    return random.Random(0).sample(every, min(MAX_FOLDERS, len(every)))


def threshold_without(data: str, by: str, every: list[Scores]) -> float:
    """Compute the threshold of one measure from all sets but `data`."""
    others = [s for s in every if s.by == by and s.data != data]
    highest = max(v for s in others if KIND[s.data] == "different" for v in s.values)
    lowest = min(v for s in others if KIND[s.data] == "similar" for v in s.values)
    return (highest + lowest) / 2


def page(every: list[Scores], folders: list[str]) -> str:
    """Write the text of docs/measured/familiarity.md."""
    lines = [
        "| backbone | set | it is | measured by | score, mean of the samples (lowest to highest) "
        "| threshold from the other sets | decided by that threshold |",
        "|---|---|---|---|---|---|---|",
    ]
    wrong = 0
    for scores in every:
        threshold, kind, values = (
            threshold_without(scores.data, scores.by, every),
            KIND[scores.data],
            scores.values,
        )
        right = sum((v >= threshold) == (kind == "similar") for v in values)
        wrong += len(values) - right
        lines.append(
            f"| {scores.backbone} | {scores.data} | {kind} | {scores.by} "
            f"| {sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f}) "
            f"| {threshold:.2f} | {right} of {len(values)} correct |"
        )
    introduction = INTRODUCTION.format(
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        size=SAMPLE_SIZE,
        level=CONFIDENCE_THRESHOLD,
        self=WIN_RATE_THRESHOLD,
        wrong=wrong,
        n=sum(len(scores.values) for scores in every),
    )
    parts = [
        introduction + "\n".join(lines),
        "## Folders of a few classes",
        FEW_CLASSES_TEXT,
        "\n".join(folders),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--table",
        action="store_true",
        help="first measure the references and write them into tlcli/planning/similarity.json",
    )
    options = parser.parse_args()
    torch.set_num_threads(2)
    cache = FeatureCache(default_cache_dir())
    if options.table:
        write_references(cache)
    every = [scores for name in WEIGHT_FILES for scores in measure_scores(name, cache)]
    write_page("familiarity.md", page(every, few_classes(cache)))


if __name__ == "__main__":
    main()
