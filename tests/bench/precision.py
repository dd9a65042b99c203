"""Compare bf16 features with fp32, and find where they stop being close enough.

Run it as `python -m tests.bench.precision`; it writes docs/measured/precision.md.
"""

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from tests.bench.common import SETS, WEIGHT_FILES, load_pretrained, make_parser, write_page
from tests.paths import DATA
from tlcli.data.dataset import Sample, scan
from tlcli.features import precision_check
from tlcli.features.cache import FeatureCache
from tlcli.features.reference_images import N_REFERENCE_IMAGES
from tlcli.features.stage_features import HEAD, StageFeatures
from tlcli.metrics.linear_models import FOLDS, deal_folds
from tlcli.planning.linear_probe import cross_validate
from tlcli.planning.measure import choose_sample
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device
from tlcli.training.logistic_regression import solve

MAX_IMAGES = 1000
# VGG16 computes a few images per second.
FEWER_IMAGES = {"vgg16": 200}
BOUNDS = (0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2)
MAX_BEHIND = 0.05
"""How far behind the best stage a stage may be to count as a candidate for the cut."""
SEED = 0
LIMIT = precision_check.MAX_RELATIVE_ERROR[torch.bfloat16]

INTRODUCTION = f"""\
# How close bf16 has to be to fp32

Made by `python -m tests.bench.precision` (torch {torch.__version__}, CPU). Up to {MAX_IMAGES:,}
images of each shared set go through each backbone at hand, in fp32 and in bf16, with the precision
check of the frozen pass switched off. The error of bf16 is measured as the check does, on the same
four images. A head on the features of the last stage is solved as `finetune` does it, on four
fifths of the bf16 features, and evaluated on the last fifth in fp32, as `metrics.json` is; another
one is solved on fp32 features. For the pooled output of every stage that could be the cut, a linear
probe counts the correct predictions in both precisions by five-fold cross-validation. Differences
are bf16 minus fp32, image by image, in points, with 95% intervals.

The check accepts errors up to {LIMIT:.2f}.
"""


@dataclass(frozen=True)
class Stage:
    """One stage in both precisions.

    Attributes:
        error: relative error of bf16 on the images that the precision check compares.
        fp32, bf16: whether each image was predicted correctly, float32 [n].
    """

    name: str
    error: float
    fp32: Tensor
    bf16: Tensor


def difference(a: Tensor, b: Tensor) -> str:
    """Format b minus a in points, with a 95% interval (normal, paired)."""
    d = 100 * (b.float() - a.float())
    return f"{d.mean():+.1f} (+- {1.96 * d.std() / len(d) ** 0.5:.1f})"


def relative_error(fp32: Tensor, bf16: Tensor) -> float:
    """Compute the error as the precision check does."""
    return ((fp32 - bf16).norm() / fp32.norm().clamp_min(1e-6)).item()


def checked_rows(samples: list[Sample]) -> list[int]:
    """Return the indices of the images that the precision check would compare."""
    order = sorted(range(len(samples)), key=lambda i: samples[i].digest)
    return order[:N_REFERENCE_IMAGES]


def heads(fp32: Tensor, bf16: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Solve heads on fp32 and on bf16 features; return which fp32 features each gets right."""
    fold = deal_folds(labels, FOLDS, SEED)
    n_classes = int(labels.max()) + 1
    correct = torch.zeros(2, len(labels))
    for k in range(FOLDS):
        fit = fold != k
        for row, features in enumerate((fp32, bf16)):
            solution = solve(features[fit][:, None], labels[fit], n_classes, bias=True, seed=SEED)
            predicted = solution.logits(fp32[~fit][:, None]).argmax(1)
            correct[row, ~fit] = (predicted == labels[~fit]).float()
    return correct[0], correct[1]


def measure(name: str, data: str) -> tuple[list[Stage], Stage]:
    """Compare every stage near the best, and the head on the features of the last stage."""
    backbone = load_pretrained(name)
    train = scan(DATA / data).train
    samples = list(choose_sample(train, FEWER_IMAGES.get(name, MAX_IMAGES), SEED))
    outputs: list[dict[str, Tensor]] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            cache = FeatureCache(Path(folder, precision))
            passes = StageFeatures(backbone, choose_device("cpu", precision), cache, Reporter())
            found, unreadable = passes.extract(samples)
            assert passes.n_measured == len(samples)
            assert not unreadable
            outputs.append(found)
    fp32, bf16 = outputs
    labels = torch.tensor([s.label for s in samples])
    checked, fold = checked_rows(samples), deal_folds(labels, FOLDS, SEED)
    stages = []
    for stage in fp32:
        if stage != HEAD:
            a, b = (cross_validate(o[stage], labels, fold).correct for o in outputs)
            error = relative_error(fp32[stage][checked], bf16[stage][checked])
            stages.append(Stage(f"{name}, {data}, {stage}", error, a, b))
    last = passes.last_stage
    assert last is not None
    a, b = heads(fp32[last], bf16[last], labels)
    compared = HEAD if HEAD in fp32 else last
    error = relative_error(fp32[compared][checked], bf16[compared][checked])
    best = max(s.fp32.mean() for s in stages)
    near = [s for s in stages if s.fp32.mean() > best - MAX_BEHIND]
    return near, Stage(f"{name}, {data}", error, a, b)


def page(stages: list[Stage], heads: list[Stage]) -> str:
    """Write the text of docs/measured/precision.md."""
    lines = [
        INTRODUCTION,
        "## Heads on the last features\n",
        "| backbone, set | error | images | accuracy, fp32 | difference |",
        "|---|---|---|---|---|",
    ]
    for s in sorted(heads, key=lambda s: s.error):
        lines.append(
            f"| {s.name} | {s.error:.3f} | {len(s.fp32):,} | {s.fp32.mean():.1%} "
            f"| {difference(s.fp32, s.bf16)} |"
        )
    lines += [
        f"\n## Probes on the stages within {100 * MAX_BEHIND:.0f} points of the best\n",
        "| error | stages | images | difference | worst stage |",
        "|---|---|---|---|---|",
    ]
    for low, high in pairwise((*BOUNDS, float("inf"))):
        within = [s for s in stages if low <= s.error < high]
        if within:
            fp32, bf16 = torch.cat([s.fp32 for s in within]), torch.cat([s.bf16 for s in within])
            worst = min(within, key=lambda s: (s.bf16 - s.fp32).mean().item())
            bound = f"{low:.2f} to {high:.2f}" if high < 1 else f"{low:.2f} or more"
            lines.append(
                f"| {bound} | {len(within)} | {len(fp32):,} | {difference(fp32, bf16)} "
                f"| {difference(worst.fp32, worst.bf16)}: {worst.name} |"
            )
    return "\n".join(lines)


def main() -> None:
    make_parser(__doc__).parse_args()
    precision_check.MAX_RELATIVE_ERROR = dict.fromkeys(
        precision_check.MAX_RELATIVE_ERROR, float("inf")
    )
    stages: list[Stage] = []
    heads: list[Stage] = []
    for name in WEIGHT_FILES:
        for data in SETS:
            near, head = measure(name, data)
            stages += near
            heads.append(head)
            print(
                f"{head.name}: error {head.error:.3f}, {difference(head.fp32, head.bf16)}",
                flush=True,
            )
    write_page("precision.md", page(stages, heads))


if __name__ == "__main__":
    main()
