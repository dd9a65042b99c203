"""What a process of tests/runtime/test_distributed.py does.

`python -m tests.runtime.distributed_worker WHAT OUT`.

Started by the test itself, or by torchrun, or alone.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tlcli.errors import UserError
from tlcli.features.sources import CachedFeatures
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed import collectives as agree
from tlcli.runtime.distributed import process_group as distributed
from tlcli.runtime.distributed import sharding as shares
from tlcli.training.loop import TrainingLoop
from tlcli.training.validation import forward_all

CPU = Compute(torch.device("cpu"), None)


@dataclass
class Toy:
    """As much of a `Network` as `TrainingLoop` reads."""

    stages: tuple[nn.Module, ...]
    cut: int = 0

    @property
    def final(self):
        return self.stages[-1][-1]

    @property
    def suffix(self):
        return nn.Sequential(*self.stages)


def images(n):
    draw = torch.Generator().manual_seed(1)
    codes = torch.randn(n, 2, 6, generator=draw)
    return CachedFeatures(codes, (codes[:, 0, :3].argmax(1)).long(), seed=5)


def trained(n, batch, **more):
    """The weights and rows of two epochs on n images, `batch` a step; its answers."""
    torch.manual_seed(distributed.rank())  # not to be relied on: all begin as the first
    toy = Toy((nn.Linear(6, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))))
    config = TrainingConfig("sgd", **{"lr": 0.1, "epochs": 2, "batch_size": batch, **more})
    rows = list(TrainingLoop(toy, n, config, CPU, 3).epochs(images(n), "", Reporter()))
    logits, labels = forward_all(toy.suffix, images(n), CPU)
    figures = [[row["train_loss"], row["train_top1"]] for row in rows]
    flat = torch.cat([p.detach().flatten() for p in toy.suffix.parameters()])
    return {"weights": flat, "logits": logits, "labels": labels, "figures": torch.tensor(figures)}


def statistics():
    """BatchNorm's, of a training part and of a frozen one, moved apart and made level."""
    norms = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    for norm in norms:
        norm.running_mean.fill_(1.0 + distributed.rank())
    norms[1].eval()
    shares.average_buffers(norms)
    return {"level": norms[0].running_mean, "apart": norms[1].running_mean}


# Other ways to train, by name.
HOW = {
    "accumulated": {"accumulate": 2},
    "weighted": {"balance": "weights", "label_smoothing": 0.1},
    "averaged": {"balance": "sampler", "average": "ema"},
    "gradual": {"unfreeze": "gradual"},
    "found": {"find_lr": True},
}


def agreement(out):
    """Everything that the processes agree on, written by each."""
    found = {}
    # a last batch of unequal parts, of one image (fewer than processes), and of whole batches
    for n, batch in ((21, 8), (17, 8), (70, 32)):
        for name, value in trained(n, batch).items():
            found[f"{name}-{n}"] = value
    for case, more in HOW.items():
        for name, value in trained(21, 4, **more).items():
            found[f"{name}-{case}"] = value
    found |= statistics()
    heard = agree.broadcast_from_first(
        lambda: {"t": torch.arange(3) + distributed.rank(), "j": ["é", None]}
    )
    assert heard["j"] == ["é", None]
    found["told"] = heard["t"]
    bad = agree.all_gather_dict({Path(f"\udcff{distributed.rank()}"): "why"})
    found["union"] = torch.tensor(len(bad))
    found["fair"] = torch.tensor(agree.smallest_share(1000 + distributed.rank()))
    torch.save(found, out / f"{distributed.rank()}.pt")


def failing(_):
    """The second process finds something wrong, while the first waits for it."""
    if distributed.rank() == 1:
        raise UserError("the second one's weights are missing", "look there")
    agree.broadcast_from_first(lambda: time.sleep(1) or {})
    agree.all_gather(1)


def main():
    what, out = sys.argv[1], Path(sys.argv[2])
    try:
        with distributed.process_group(Reporter()):
            {"agreement": agreement, "failing": failing}[what](out)
    except UserError as error:
        print(json.dumps({"error": error.message}))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
