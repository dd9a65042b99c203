"""How close bf16 features have to be to fp32: `python -m tests.bench.precision`.

It runs up to 1,000 images of each shared set through each available backbone, in fp32 and in bf16,
with the guard of the frozen pass wide open. The distance of bf16 from fp32 is measured as the guard
measures it, on the same four images. On the last features a head is solved as `finetune` solves it,
on four fifths of the images in bf16, evaluated on the last fifth in fp32, as in `metrics.json`, and
compared with a head solved in fp32. On the pooled output of every stage that could be cut at, a
linear probe counts the correct predictions in either precision, held out in five folds. Differences
are bf16 less fp32, image by image, in points, with 95% intervals. Writes
docs/measured/precision.md.
"""

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from tests.bench.familiarity import ALL, load
from tests.bench.regret import SETS, SHARED
from tlcli.data.dataset import Sample, scan
from tlcli.features import precision_check
from tlcli.features.cache import FeatureCache
from tlcli.features.reference_images import N_REFERENCE_IMAGES
from tlcli.features.stage_features import HEAD, StageFeatures
from tlcli.planning import linear_probe as probe
from tlcli.planning.measure import choose_sample as draw
from tlcli.reporter import Reporter
from tlcli.runtime.device import choose_device
from tlcli.training import logistic_regression as head

ROOT = Path(__file__).parent.parent.parent
MOST = 1000
FEWER = {"vgg16": 200}  # at a few images a second
BOUNDS = (0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2)
NEAR = 0.05
"""How far behind the best stage one may be that could be cut at."""
SEED = 0
LIMIT = precision_check.MAX_RELATIVE_ERROR[torch.bfloat16]


@dataclass(frozen=True)
class Stage:
    """One stage in both numbers: how far off, and whether each image was right, float32 [n]."""

    where: str
    off: float
    fp32: Tensor
    bf16: Tensor


def difference(a: Tensor, b: Tensor) -> str:
    """Of b against a, points, with a 95% interval (normal, paired)."""
    d = 100 * (b.float() - a.float())
    return f"{d.mean():+.1f} (+- {1.96 * d.std() / len(d) ** 0.5:.1f})"


def off(plain: Tensor, other: Tensor) -> float:
    """As the guard has it."""
    return ((plain - other).norm() / plain.norm().clamp_min(1e-6)).item()


def guarded(samples: list[Sample]) -> list[int]:
    """Where the images stand that the guard would compare."""
    order = sorted(range(len(samples)), key=lambda i: samples[i].digest)
    return order[:N_REFERENCE_IMAGES]


def heads(plain: Tensor, other: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Right answers on fp32 codes of heads that were solved on fp32 and on bf16 ones."""
    fold = probe.deal_folds(labels, SEED)
    right = torch.zeros(2, len(labels))
    for k in range(probe.FOLDS):
        fit = fold != k
        for row, codes in enumerate((plain, other)):
            solution = head.solve(
                codes[fit][:, None], labels[fit], int(labels.max()) + 1, bias=True, seed=SEED
            )
            answers = solution.logits(plain[~fit][:, None]).argmax(1)
            right[row, ~fit] = (answers == labels[~fit]).float()
    return right[0], right[1]


def measure(name: str, data: str) -> tuple[list[Stage], Stage]:
    """Every stage, and the head on the last codes."""
    backbone = load(name)
    samples = list(draw(scan(SHARED / "data" / data).train, FEWER.get(name, MOST), SEED))
    outputs: list[dict[str, Tensor]] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "bf16"):
            cache = FeatureCache(Path(folder, precision))
            look = StageFeatures(backbone, choose_device("cpu", precision), cache, Reporter())
            found, unreadable = look.extract(samples)
            assert look.n_measured == len(samples)
            assert not unreadable
            outputs.append(found)
    plain, other = outputs
    labels = torch.tensor([s.label for s in samples])
    four, fold = guarded(samples), probe.deal_folds(labels, SEED)
    stages = []
    for stage in plain:
        if stage != HEAD:
            a, b = (probe.probe(o[stage], labels, fold).right for o in outputs)
            distance = off(plain[stage][four], other[stage][four])
            stages.append(Stage(f"{name}, {data}, {stage}", distance, a, b))
    assert look.last_stage is not None
    a, b = heads(plain[look.last_stage], other[look.last_stage], labels)
    compared = HEAD if HEAD in plain else look.last_stage
    solved = Stage(f"{name}, {data}", off(plain[compared][four], other[compared][four]), a, b)
    best = max(s.fp32.mean() for s in stages)
    return [s for s in stages if s.fp32.mean() > best - NEAR], solved


def page(stages: list[Stage], solved: list[Stage]) -> str:
    """docs/measured/precision.md."""
    told = " ".join((__doc__ or "").split("\n\n")[1].split()).removesuffix(
        " Writes docs/measured/precision.md."
    )
    lines = [
        "# How close bf16 has to be to fp32\n",
        f"Made by `python -m tests.bench.precision` (torch {torch.__version__}, CPU). {told}\n",
        f"The guard accepts a distance of {LIMIT:.2f}.\n",
        "## Heads on the last features\n",
        "| backbone, set | distance | images | accuracy, fp32 | difference |",
        "|---|---|---|---|---|",
    ]
    for s in sorted(solved, key=lambda s: s.off):
        lines.append(
            f"| {s.where} | {s.off:.3f} | {len(s.fp32):,} | {s.fp32.mean():.1%} "
            f"| {difference(s.fp32, s.bf16)} |"
        )
    lines += [
        f"\n## Probes on the stages within {100 * NEAR:.0f} points of the best\n",
        "| distance | stages | images | difference | worst stage |",
        "|---|---|---|---|---|",
    ]
    for low, high in pairwise((*BOUNDS, float("inf"))):
        some = [s for s in stages if low <= s.off < high]
        if some:
            a, b = (torch.cat([getattr(s, n) for s in some]) for n in ("fp32", "bf16"))
            worst = min(some, key=lambda s: (s.bf16 - s.fp32).mean().item())
            bound = f"{low:.2f} to {high:.2f}" if high < 1 else f"from {low:.2f}"
            lines.append(
                f"| {bound} | {len(some)} | {len(a):,} | {difference(a, b)} "
                f"| {difference(worst.fp32, worst.bf16)}: {worst.where} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    limits = precision_check.MAX_RELATIVE_ERROR
    precision_check.MAX_RELATIVE_ERROR = dict.fromkeys(limits, float("inf"))
    stages: list[Stage] = []
    solved: list[Stage] = []
    for name in ALL:
        for data in SETS:
            some, one = measure(name, data)
            stages += some
            solved.append(one)
            print(f"{one.where}: off {one.off:.3f}, {difference(one.fp32, one.bf16)}", flush=True)
    (ROOT / "docs" / "measured" / "precision.md").write_text(page(stages, solved))


if __name__ == "__main__":
    main()
