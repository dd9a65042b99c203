"""A linear head that is solved in one go, in place of training in steps."""

import time
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from tlcli.backbones.network import Network
from tlcli.features.buffer import ROWS_PER_COPY
from tlcli.features.sources import CachedFeatures, FeatureSource
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.runtime.distributed.collectives import broadcast_from_first
from tlcli.training.class_balance import class_weights
from tlcli.training.epoch import Diverged, HistoryRow
from tlcli.training.logistic_regression import Solution, solve


@dataclass(frozen=True)
class SolvedHead:
    """The outcome of solving a head: its L2 penalty and its row in the history."""

    l2_penalty: float
    row: HistoryRow


def solve_head(
    network: Network, train: FeatureSource, config: TrainingConfig, seed: int, reporter: Reporter
) -> SolvedHead:
    """Set the final layer to the optimum of a linear head on cached features.

    Rank 0 solves it and broadcasts the result.

    Raises:
        Diverged: some features are not finite.
    """
    if not isinstance(train, CachedFeatures):
        raise TypeError("a head is solved on cached features")
    features = train.selected().flatten(2)
    if not all(part.isfinite().all() for part in features.split(ROWS_PER_COPY)):
        raise Diverged("some features at the cut are not finite")
    started = time.perf_counter()
    layer = network.final_layer
    n_classes = layer.weight.shape[0]
    weighted = config.balance == "weights"
    make_solution = partial(
        solve,
        features,
        train.labels,
        n_classes,
        bias=layer.bias is not None,
        seed=seed,
        class_weights=class_weights(train.labels, n_classes) if weighted else None,
    )
    solution = Solution(**broadcast_from_first(lambda: vars(make_solution())))
    with torch.no_grad():
        layer.weight.copy_(solution.weight)
        if layer.bias is not None:
            layer.bias.copy_(solution.bias)
    logits = solution.logits(features)
    seconds = time.perf_counter() - started
    reporter.note(
        f"head solved in {seconds:.1f} s: L2 penalty {solution.l2_penalty:g} chosen by "
        f"cross-validation, gradient norm {solution.gradient_norm:.0e}"
    )
    row: HistoryRow = {
        "epoch": 1,
        "lr": None,
        "train_loss": F.cross_entropy(logits, train.labels).item(),
        "train_top1": (logits.argmax(1) == train.labels).float().mean().item(),
        "images_per_s": round(len(train) / max(seconds, 1e-9), 1),
    }
    return SolvedHead(solution.l2_penalty, row)
