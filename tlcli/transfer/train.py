"""Training what lies behind the cut."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.events import Reporter, duration
from tlcli.transfer.agree import told
from tlcli.transfer.device import Compute
from tlcli.transfer.distributed import watched
from tlcli.transfer.head import Solution, solve
from tlcli.transfer.network import Network, final_layer
from tlcli.transfer.schedule import Schedule
from tlcli.transfer.shares import share, whole
from tlcli.transfer.sources import Remembered, Source
from tlcli.transfer.steps import Diverged, Row, Steps


@dataclass
class Fit:
    """What a training phase came to.

    Attributes:
        history: a row an epoch: phase, epoch, lr, train_loss, train_top1, val_loss, val_top1,
            images_per_s, seconds.
        best_epoch: the one whose tensors are in `best`; None before the first has ended.
        best: the suffix's tensors by state-dict name, copied to the CPU; those it began with
            before the first epoch has ended.
        best_key: top-1 and minus the loss on val of what `best` holds; more is better.
        stopped: "finished", "early" (patience), "interrupted" (Ctrl-C) or "diverged".
        problem: what diverged, and where.
        strength: the L2 penalty of a head that was solved.
    """

    history: list[dict[str, float | int | str | None]] = field(default_factory=list)
    best_epoch: int | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    best_key: tuple[float, float] = (-1.0, -math.inf)
    stopped: str = "finished"
    problem: str = ""
    strength: float | None = None


def fit(
    network: Network,
    train: Source,
    val: Source | None,
    schedule: Schedule,
    compute: Compute,
    *,
    phase: str,
    seed: int,
    reporter: Reporter,
    to_beat: tuple[float, float] = (-1.0, -math.inf),
    on_best: Callable[[], None] = lambda: None,
) -> Fit:
    """Train the suffix on the activations of `train`; keep the best epoch by top-1 on `val`.

    Without images in `val` the last epoch counts as the best. Ctrl-C and a loss that is no
    number end the phase with what was best so far. On return the network holds the best.
    `to_beat` is the `best_key` that it begins with; what does not beat it is not kept.
    """
    # Moving to a device or a memory format gives tensors new storage, so it comes first.
    suffix = network.suffix.to(compute.device).to(memory_format=torch.channels_last)
    network.freeze()
    trained = network.tensors(network.stages[network.cut :])

    def copies() -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone() for k, v in trained.items()}

    result = Fit(best=copies(), best_key=to_beat)
    rows = (
        _solve_head(network, train, result, phase, seed, reporter)
        if schedule.optimizer == "lbfgs"
        else Steps(network, len(train), schedule, compute, seed).epochs(train, phase, reporter)
    )
    worse = 0
    started = time.perf_counter()
    try:
        for row in watched(rows):
            loss, top1 = _validate(suffix, val, compute)
            if loss is not None and not math.isfinite(loss):
                raise Diverged(f"the validation loss became {loss} in epoch {row['epoch']}")
            row |= {"val_loss": loss, "val_top1": top1}
            row["seconds"] = round(time.perf_counter() - started, 3)
            result.history.append(row)
            epochs = 1 if schedule.optimizer == "lbfgs" else schedule.epochs
            reporter.note(_epoch_line(row, epochs))
            key = (top1 or 0.0, -(loss or 0.0))
            if top1 is None or key > result.best_key:
                result.best_key, worse = key, 0
                result.best_epoch = int(row["epoch"] or 0)
                result.best = copies()
                on_best()
            else:
                worse += 1
                if schedule.patience and worse >= schedule.patience:
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
    if len(result.history) > 1:
        reporter.note(_kept_line(result, schedule.patience))
    return result


def _kept_line(result: Fit, patience: int) -> str:
    """Which epoch the network holds, and why there were no more."""
    early = f"no better for {patience} epochs, so it stops; " if result.stopped == "early" else ""
    kept = "what it began with" if result.best_epoch is None else f"epoch {result.best_epoch}"
    return f"{early}kept: {kept}"


def _epoch_line(row: Row, epochs: int) -> str:
    """An epoch's outcome for a person."""
    epoch, seconds = int(row["epoch"] or 1), float(row["seconds"] or 0.0)
    remaining = seconds / epoch * (epochs - epoch)
    left = f", about {duration(remaining)} left" if remaining >= 5 else ""
    val = ""
    if row["val_top1"] is not None:
        val = f", val {row['val_top1']:.1%} (loss {row['val_loss']:.3f})"
    return (
        f"epoch {epoch}/{epochs}: train {row['train_top1']:.1%} "
        f"(loss {row['train_loss']:.3f}){val}, {row['images_per_s']:.0f} images/s{left}"
    )


def _solve_head(
    network: Network, train: Source, result: Fit, phase: str, seed: int, reporter: Reporter
) -> Iterator[Row]:
    """Set the final layer to the optimum of a linear head; one row."""
    if not isinstance(train, Remembered):
        raise TypeError("a head is solved on remembered codes")
    if not torch.isfinite(train.codes).all():
        raise Diverged("some activations at the cut are no finite numbers")
    started = time.perf_counter()
    layer = network.final
    n_classes = layer.weight.shape[0]
    codes = train.codes.flatten(2)
    solved = partial(solve, codes, train.labels, n_classes, bias=layer.bias is not None, seed=seed)
    solution = Solution(**told(lambda: vars(solved())))
    result.strength = solution.strength
    with torch.no_grad():
        layer.weight.copy_(solution.weight)
        if layer.bias is not None:
            layer.bias.copy_(solution.bias)
    logits = codes[:, 0] @ solution.weight.T + solution.bias
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


def n_outputs(suffix: nn.Module) -> int:
    """How many classes the last layer of `suffix` tells apart."""
    return final_layer(suffix).weight.shape[0]


@torch.no_grad()
def outputs(module: nn.Module, source: Source, compute: Compute) -> tuple[Tensor, Tensor]:
    """What `module` makes of a source's activations, float32 [n, ...], and labels, int64 [n].

    In eval mode; both on the CPU.
    """
    module.eval()
    made, labels = [], []
    n, size = len(source), compute.batch_size
    for x, y in source.batches(share(n, size), size):
        with compute.autocast():
            made.append(module(x.to(compute.device)).float().cpu())
        labels.append(y)
    return whole(torch.cat(made), n, size), whole(torch.cat(labels), n, size)


def answers(suffix: nn.Module, source: Source, compute: Compute) -> tuple[Tensor, Tensor]:
    """Logits, float32 [n, classes], and labels, int64 [n], both on the CPU; eval mode."""
    if not len(source):
        return torch.empty(0, n_outputs(suffix)), torch.empty(0, dtype=torch.int64)
    return outputs(suffix, source, compute)


def _validate(
    suffix: nn.Module, val: Source | None, compute: Compute
) -> tuple[float | None, float | None]:
    """Mean cross entropy and top-1."""
    if val is None or not len(val):
        return None, None
    logits, labels = answers(suffix, val, compute)
    loss = F.cross_entropy(logits, labels).item()
    return loss, (logits.argmax(1) == labels).float().mean().item()
