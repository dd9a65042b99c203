"""How the lines between similar and different were set: `python -m tests.bench.familiarity`.

Measures the familiarity of each shared set for each backbone at hand, on five draws of 300 images
(VGG16, which has no classifier here and is slow, on two of 100), both against the table of
references and without it. For each set the line is set anew from the other sets alone, halfway
between the highest of the different and the lowest of the similar ones, and the set that was left
out is decided by it. And the program decides on folders of a few of a set's classes, which are
taken to be of the set's kind. Writes docs/measured/familiarity.md. `--table` first measures the
references anew and writes them into the package's table of references.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import torch
import torchvision

from tests.bench.regret import SHARED, WEIGHTS
from tlcli.backbones import build
from tlcli.backbones.backbone import Backbone
from tlcli.data.dataset import Sample, scan
from tlcli.features.cache import FeatureCache, default_cache_dir
from tlcli.features.stage_features import StageFeatures
from tlcli.planning import similarity as familiarity
from tlcli.planning.decision import LEVEL_LINE, SELF_LINE, judge_similarity
from tlcli.planning.evidence import Evidence, Familiarity
from tlcli.planning.measure import choose_sample as draw
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device

ROOT = Path(__file__).parent.parent.parent
KIND = {"flowers": "similar", "caltech": "similar", "digits": "different", "eurosat": "different"}
ALL = WEIGHTS | {"vgg16": "vgg16_features-keras-imagenet.pth"}
# Of the weights at hand, on ImageNet's validation images, as their authors published it.
PUBLISHED = {"squeezenet1_1": 57.5, "mobilenet_v2": 71.8, "efficientnet_lite0": 75.1}
SEEDS = range(5)
DRAWN = 300
FEW = (2, 3, 5, 10)
"""Classes of a folder."""
FOLDERS = 45
MOST = 400
"""Images of a set that those are taken from."""
FEWER = {"vgg16": (range(2), 100)}  # at a few images a second


def load(name: str) -> Backbone:
    file = ALL[name]
    return build.load_backbone(name, str(SHARED / "weights" / file) if file else "auto")


def table(cache: FeatureCache) -> None:
    """Measure the references: confidence on the ImageNet samples, most of which the weights were
    trained on, taken down by as much as the accuracy on them is above the published one."""
    found = {}
    paths = sorted((SHARED / "data" / "imagenet-samples").iterdir())
    samples = [
        Sample(path, index, hashlib.sha256(path.read_bytes()).hexdigest())
        for index, path in enumerate(paths)
    ]
    for name, published in PUBLISHED.items():
        backbone = load(name)
        outputs, _ = StageFeatures(backbone, choose_device("cpu"), cache, Reporter()).extract(
            samples
        )
        probabilities = outputs["head"].softmax(1)
        right = (probabilities.argmax(1) == torch.arange(len(samples))).float().mean().item()
        confidence = probabilities.amax(1).mean().item()
        found[backbone.weights_sha256] = {
            "backbone": name,
            "confidence": round(confidence, 4),
            "top1": round(right, 4),
            "published_top1": published / 100,
            "reference": round(confidence * min(1.0, published / 100 / right), 4),
        }
        print(name, found[backbone.weights_sha256], flush=True)
    Path(familiarity.__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    familiarity.references.cache_clear()


def scores(name: str, cache: FeatureCache) -> Iterable[tuple[str, str, list[Familiarity]]]:
    """For each set and way of measuring, a familiarity for each seed."""
    backbone = load(name)
    look = StageFeatures(backbone, choose_device("cpu"), cache, Reporter())
    for data in KIND:
        dataset = scan(SHARED / "data" / data)
        for weights in dict.fromkeys([backbone.weights_sha256, None]):
            if weights is not None and weights not in familiarity.references():
                continue
            found = []
            seeds, drawn = FEWER.get(name, (SEEDS, DRAWN))
            for seed in seeds:
                chosen = draw(dataset.train, drawn, seed)
                outputs, _ = look.extract(chosen)
                measured = familiarity.measure_familiarity(
                    chosen, weights, outputs, look.last_stage, look.extract_transformed
                )
                assert measured is not None
                found.append(measured)
            yield data, found[0].by, found
            mean = sum(f.score for f in found) / len(found)
            print(name, data, found[0].by, f"{mean:.3f}", [f"{f.score:.3f}" for f in found])


def few_classes(cache: FeatureCache) -> list[str]:
    """How the program decides on two, three, five and ten classes of each set, as a table."""
    lines = ["| backbone | set | " + " | ".join(f"{n} classes" for n in FEW) + " |"]
    lines.append("|---|---|" + "---|" * len(FEW))
    for name in WEIGHTS:
        backbone = load(name)
        look = StageFeatures(backbone, choose_device("cpu"), cache, Reporter())
        for data, kind in KIND.items():
            dataset = scan(SHARED / "data" / data)
            samples = draw(dataset.train, MOST, 0)
            outputs, _ = look.extract(samples)
            of = torch.tensor([s.label for s in samples])
            cells = []
            for n in FEW:
                wrong, close, folders = 0, 0, subsets(len(dataset.classes), n)
                for classes in folders:
                    rows = torch.isin(of, torch.tensor(classes)).nonzero()[:, 0].tolist()
                    some = {stage: output[rows] for stage, output in outputs.items()}
                    found = familiarity.measure_familiarity(
                        [samples[row] for row in rows],
                        backbone.weights_sha256,
                        some,
                        look.last_stage,
                        look.extract_transformed,
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
    """At most `FOLDERS` choices of n of the classes, other than all of them."""
    every = list(combinations(range(classes), n)) if n < classes else []
    return random.Random(0).sample(every, min(FOLDERS, len(every)))


def main() -> None:
    torch.set_num_threads(2)
    cache = FeatureCache(default_cache_dir())
    if "--table" in sys.argv:
        table(cache)
    rows = [(name, *row) for name in ALL for row in scores(name, cache)]
    lines = [
        "| backbone | set | it is | measured by | score, mean of the draws (lowest to highest) "
        "| threshold from the other sets | decided by that threshold |",
        "|---|---|---|---|---|---|---|",
    ]
    wrong = 0
    for name, data, by, found in rows:
        others = [(d, f.score) for _, d, b, fs in rows if b == by and d != data for f in fs]
        low = max(s for d, s in others if KIND[d] == "different")
        high = min(s for d, s in others if KIND[d] == "similar")
        line = (low + high) / 2
        values = [f.score for f in found]
        right = sum((v >= line) == (KIND[data] == "similar") for v in values)
        wrong += len(values) - right
        lines.append(
            f"| {name} | {data} | {KIND[data]} | {by} | {sum(values) / len(values):.2f} "
            f"({min(values):.2f} to {max(values):.2f}) | {line:.2f} "
            f"| {right} of {len(values)} correct |"
        )
    text = (
        "# Familiarity: how the thresholds were set\n\n"
        f"Made by `python -m tests.bench.familiarity` (torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}): five draws of {DRAWN} images from each shared set (VGG16: "
        "two of 100). The threshold of a row is set from the other three sets alone, all "
        "backbones together, halfway between the highest different and the lowest similar score; "
        "its own set is then decided by it. "
        f"The program's own thresholds are {LEVEL_LINE} for `level` and {SELF_LINE} for `self`. "
        f"Wrong decisions, without the casting vote of the sweep: {wrong} of "
        f"{sum(len(r[3]) for r in rows)}.\n\n"
    )
    parts = [
        text + "\n".join(lines),
        "## Folders of a few classes",
        f"The program's decisions on folders of some of a set's classes (at most {FOLDERS} "
        f"choices, of {MOST} images), without the sweep's vote. Not every decision counted as "
        "wrong is wrong: ImageNet has classes for some of these things and none for others, and a "
        "person might also call a folder different that holds two things without a class.",
        "\n".join(few_classes(cache)),
    ]
    (ROOT / "docs" / "measured" / "familiarity.md").write_text("\n\n".join(parts) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
