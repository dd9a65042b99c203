"""A process of the jobs that tests/runtime/test_distributed.py starts.

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
from tlcli.runtime.distributed import collectives, process_group, sharding
from tlcli.training.loop import TrainingLoop
from tlcli.training.validation import forward_all

CPU = Compute(torch.device("cpu"), None)


@dataclass
class Toy:
    """The attributes of a `Network` that `TrainingLoop` reads."""

    stages: tuple[nn.Module, ...]
    cut: int = 0

    @property
    def final_layer(self):
        return self.stages[-1][-1]

    @property
    def suffix(self):
        return nn.Sequential(*self.stages)


def images(n):
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(n, 2, 6, generator=draw)
    return CachedFeatures(features, (features[:, 0, :3].argmax(1)).long(), seed=5)


def trained(n, batch, **more):
    """Train a toy for two epochs on n images; return its weights, logits and history."""
    torch.manual_seed(process_group.rank())  # must not matter: all start from rank 0's weights
    toy = Toy((nn.Linear(6, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))))
    config = TrainingConfig("sgd", **{"lr": 0.1, "epochs": 2, "batch_size": batch, **more})
    rows = list(TrainingLoop(toy, n, config, CPU, 3).epochs(images(n), "", Reporter()))
    logits, labels = forward_all(toy.suffix, images(n), CPU)
    figures = [[row["train_loss"], row["train_top1"]] for row in rows]
    flat = torch.cat([p.detach().flatten() for p in toy.suffix.parameters()])
    return {"weights": flat, "logits": logits, "labels": labels, "figures": torch.tensor(figures)}


def statistics():
    """Average the statistics of a training and of a frozen BatchNorm, which differ by rank."""
    norms = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    for norm in norms:
        norm.running_mean.fill_(1.0 + process_group.rank())
    norms[1].eval()
    sharding.average_buffers(norms)
    return {"averaged": norms[0].running_mean, "frozen": norms[1].running_mean}


# Other training options, by name.
TRAINING_OPTIONS = {
    "accumulated": {"accumulate": 2},
    "weighted": {"balance": "weights", "label_smoothing": 0.1},
    "averaged": {"balance": "sampler", "average": "ema"},
    "gradual": {"unfreeze": "gradual"},
    "found": {"find_lr": True},
}


def agreement(out):
    """Write what the processes must agree on, from each of them."""
    found = {}
    # A last batch of unequal shards, of one image (fewer than processes), and of full batches.
    for n, batch in ((21, 8), (17, 8), (70, 32)):
        for name, value in trained(n, batch).items():
            found[f"{name}-{n}"] = value
    for case, more in TRAINING_OPTIONS.items():
        for name, value in trained(21, 4, **more).items():
            found[f"{name}-{case}"] = value
    found |= statistics()
    received = collectives.broadcast_from_first(
        lambda: {"t": torch.arange(3) + process_group.rank(), "j": ["é", None]}
    )
    assert received["j"] == ["é", None]
    found["broadcast"] = received["t"]
    unreadable = collectives.all_gather_dict({Path(f"\udcff{process_group.rank()}"): "why"})
    found["union"] = torch.tensor(len(unreadable))
    found["min_per_process"] = torch.tensor(
        collectives.min_per_process(1000 + process_group.rank())
    )
    torch.save(found, out / f"{process_group.rank()}.pt")


def failing(_):
    """Raise an error in rank 1 while rank 0 waits for it."""
    if process_group.rank() == 1:
        raise UserError("the second one's weights are missing", "look there")
    collectives.broadcast_from_first(lambda: time.sleep(1) or {})
    collectives.all_gather(1)


def main():
    what, out = sys.argv[1], Path(sys.argv[2])
    try:
        with process_group.process_group(Reporter()):
            {"agreement": agreement, "failing": failing}[what](out)
    except UserError as error:
        print(json.dumps({"error": error.message}))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
