"""Training what lies behind the cut."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tlcli.backbones.network import Network
from tlcli.features.buffer import ROWS_PER_COPY
from tlcli.features.sources import CachedFeatures, FeatureSource
from tlcli.metrics.classification import MACRO_METRICS
from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.collectives import broadcast_from_first
from tlcli.runtime.distributed.process_group import iterate_detecting_lost_peers
from tlcli.text import format_duration
from tlcli.training.class_balance import class_weights
from tlcli.training.logistic_regression import Solution, solve
from tlcli.training.loop import Diverged, HistoryRow, TrainingLoop
from tlcli.training.lr_finder import Curve
from tlcli.training.validation import key_of, validate

UNVALIDATED = (-math.inf, -math.inf)
"""The key of a network that has not been validated."""


@dataclass
class FitResult:
    """What a training phase came to.

    Attributes:
        history: a row an epoch: phase, epoch, lr, train_loss, train_top1, val_loss, val_top1,
            images_per_s, seconds.
        best_epoch: the one whose tensors are in `best`; None before the first has ended.
        best: the suffix's tensors by state-dict name, copied to the CPU; those it began with
            before the first epoch has ended.
        best_key: the schedule's metric and minus the loss on val of what `best` holds; more is
            better.
        worse: how many epochs in a row brought nothing better.
        stopped: "finished", "early" (patience), "interrupted" (Ctrl-C) or "diverged".
        problem: what diverged, and where.
        strength: the L2 penalty of a head that was solved.
        lr_curve: rates and losses of the learning rate range test, where there was one, and
            `found_lr`, what was picked.
    """

    history: list[dict[str, float | int | str | None]] = field(default_factory=list)
    best_epoch: int | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    best_key: tuple[float, float] = UNVALIDATED
    worse: int = 0
    stopped: str = "finished"
    problem: str = ""
    strength: float | None = None
    lr_curve: Curve = field(default_factory=list)
    found_lr: float | None = None


State = dict[str, Any]
"""A phase as it stands: what `fit` needs to go on as if it had never stopped."""
Keep = Callable[[Callable[[], State], str], None]
"""Is offered the state (made when called) after a "step", an "epoch" or the "last" epoch."""


def fit(
    network: Network,
    train: FeatureSource,
    val: FeatureSource | None,
    config: TrainingConfig,
    compute: Compute,
    *,
    phase: str,
    seed: int,
    reporter: Reporter,
    to_beat: tuple[float, float] = UNVALIDATED,
    on_best: Callable[[], None] = lambda: None,
    on_row: Callable[[HistoryRow], None] = lambda _: None,
    keep: Keep = lambda _make, _when: None,
    state: State | None = None,
    known: bool = False,
) -> FitResult:
    """Train the suffix on the activations of `train`; keep the best epoch by a metric on `val`.

    Without images in `val` the last epoch counts as the best. Ctrl-C and a loss that is no
    number end the phase with what was best so far. On return the network holds the best.
    `to_beat` is the `best_key` that it begins with; what does not beat it is not kept.

    Args:
        on_row: hears of each epoch.
        keep: saves the state, if it wants to. A head that is solved has none.
        state: where to go on.
        known: the network answers already, so that no epoch counts that is worse.
    """
    # Moving to a device or a memory format gives tensors new storage, so it comes first.
    suffix = network.suffix.to(compute.device).to(memory_format=torch.channels_last)
    network.freeze()
    trained = network.tensors(network.stages[network.cut :])

    def copies() -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone() for k, v in trained.items()}

    result, before, epochs, steps = FitResult(best=copies(), best_key=to_beat), 0.0, 1, None
    if config.solves_head:
        rows = _solve_head(network, train, result, config, phase, seed, reporter)
    else:
        steps, epochs = TrainingLoop(network, len(train), config, compute, seed), config.epochs
        if state is not None:
            before = _restore(state, trained, result, steps)
        steps.on_step = lambda: keep(snapshot, "step")
        rows = steps.epochs(train, phase, reporter)
    started = time.perf_counter() - before
    # Remembered val codes are of fp32, as the metrics are; to compute all of val so takes twice as
    # long in every epoch.
    judge = compute.reference() if isinstance(val, CachedFeatures) else compute

    if known and state is None:
        figures = validate(suffix, val, config.metric, judge)
        result.best_key = key_of(figures, config.metric)
        if figures["val_top1"] is not None:
            reporter.note(f"before training: {_val_text(figures, config.metric)}")

    def snapshot() -> State:
        assert steps is not None
        return _state(trained, result, steps, time.perf_counter() - started)

    if config.patience and result.worse >= config.patience:
        result.stopped, rows = "early", iter(())
    try:
        for row in iterate_detecting_lost_peers(rows):
            figures = validate(suffix, val, config.metric, judge)
            loss = figures["val_loss"]
            if loss is not None and not math.isfinite(loss):
                raise Diverged(f"the validation loss became {loss} in epoch {row['epoch']}")
            row |= figures
            row["seconds"] = round(time.perf_counter() - started, 3)
            result.history.append(row)
            reporter.note(_epoch_line(row, epochs, config.metric))
            on_row(row)
            key = key_of(figures, config.metric)
            if loss is None or key > result.best_key:
                result.best = copies()
                result.best_key, result.worse = key, 0
                result.best_epoch = int(row["epoch"] or 0)
                on_best()
            else:
                result.worse += 1
            early = 0 < config.patience <= result.worse
            if not config.solves_head:
                keep(snapshot, "last" if early or row["epoch"] == epochs else "epoch")
            if early:
                result.stopped = "early"
                break
    except KeyboardInterrupt:
        result.stopped = "interrupted"
    except Diverged as error:
        result.stopped = "diverged"
        result.problem = str(error)
    with torch.no_grad():
        for name, tensor in trained.items():
            tensor.copy_(result.best[name])
    if steps is not None and steps.curve:
        result.lr_curve, result.found_lr = steps.curve, steps.config.lr
    if len(result.history) > 1 or (result.history and result.best_epoch is None):
        reporter.note(_kept_line(result, config.patience))
    return result


def _state(
    trained: dict[str, Tensor], result: FitResult, steps: TrainingLoop, seconds: float
) -> State:
    """The trained tensors as they are and as they were best (None: as they are), and the rest."""
    same = all(torch.equal(v.cpu(), result.best[k]) for k, v in trained.items())
    return {
        "now": dict(trained),
        "best": None if same else result.best,
        "best_epoch": result.best_epoch,
        "best_key": list(result.best_key),
        "worse": result.worse,
        "history": result.history,
        "seconds": seconds,
        "steps": steps.state_dict(),
    }


@torch.no_grad()
def _restore(
    state: State, trained: dict[str, Tensor], result: FitResult, steps: TrainingLoop
) -> float:
    """Put everything back as it was when `_state` was taken; the seconds that had passed."""
    for name, tensor in trained.items():
        tensor.copy_(state["now"][name])
    result.best = state["best"] or {k: v.detach().cpu().clone() for k, v in trained.items()}
    result.best_epoch, result.worse = state["best_epoch"], state["worse"]
    result.best_key = (state["best_key"][0], state["best_key"][1])
    result.history = list(state["history"])
    steps.load_state_dict(state["steps"])
    return float(state["seconds"])


def _kept_line(result: FitResult, patience: int) -> str:
    """Which epoch the network holds, and why there were no more."""
    early = f"no better for {patience} epochs, so it stops; " if result.stopped == "early" else ""
    kept = "what it began with" if result.best_epoch is None else f"epoch {result.best_epoch}"
    return f"{early}kept: {kept}"


def _val_text(row: Mapping[str, Any], metric: str) -> str:
    """As "val 91.4% (loss 0.312)", with the metric that counts where it is another."""
    value = row.get(f"val_{metric}") if metric in MACRO_METRICS else None
    chosen = "" if value is None else f", {metric.replace('_', ' ')} {value:.1%}"
    return f"val {row['val_top1']:.1%} (loss {row['val_loss']:.3f}{chosen})"


def _epoch_line(row: HistoryRow, epochs: int, metric: str) -> str:
    """An epoch's outcome for a person."""
    epoch, seconds = int(row["epoch"] or 1), float(row["seconds"] or 0.0)
    remaining = seconds / epoch * (epochs - epoch)
    left = f", about {format_duration(remaining)} left" if remaining >= 5 else ""
    val = "" if row["val_top1"] is None else f", {_val_text(row, metric)}"
    return (
        f"epoch {epoch}/{epochs}: train {row['train_top1']:.1%} "
        f"(loss {row['train_loss']:.3f}){val}, {row['images_per_s']:.0f} images/s{left}"
    )


def _solve_head(
    network: Network,
    train: FeatureSource,
    result: FitResult,
    config: TrainingConfig,
    phase: str,
    seed: int,
    reporter: Reporter,
) -> Iterator[HistoryRow]:
    """Set the final layer to the optimum of a linear head; one row."""
    if not isinstance(train, CachedFeatures):
        raise TypeError("a head is solved on remembered codes")
    codes = train.selected().flatten(2)
    if not all(part.isfinite().all() for part in codes.split(ROWS_PER_COPY)):
        raise Diverged("some activations at the cut are no finite numbers")
    started = time.perf_counter()
    layer = network.final_layer
    n_classes = layer.weight.shape[0]
    weighted = config.balance == "weights"
    solved = partial(
        solve,
        codes,
        train.labels,
        n_classes,
        bias=layer.bias is not None,
        seed=seed,
        class_weights=class_weights(train.labels, n_classes) if weighted else None,
    )
    solution = Solution(**broadcast_from_first(lambda: vars(solved())))
    result.strength = solution.strength
    with torch.no_grad():
        layer.weight.copy_(solution.weight)
        if layer.bias is not None:
            layer.bias.copy_(solution.bias)
    logits = solution.logits(codes)
    seconds = time.perf_counter() - started
    reporter.note(
        f"head solved in {seconds:.1f} s: L2 penalty {solution.strength:g} by cross-validation, "
        f"gradient norm {solution.gradient_norm:.0e}"
    )
    yield {
        "phase": phase,
        "epoch": 1,
        "lr": None,
        "train_loss": F.cross_entropy(logits, train.labels).item(),
        "train_top1": (logits.argmax(1) == train.labels).float().mean().item(),
        "images_per_s": round(len(train) / max(seconds, 1e-9), 1),
    }
