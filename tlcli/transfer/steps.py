"""Training in steps: epochs of SGD or AdamW over a source of activations."""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.events import Reporter
from tlcli.transfer.device import Compute
from tlcli.transfer.distributed import rank
from tlcli.transfer.network import Network
from tlcli.transfer.optimise import make_optimizer, rate_factor
from tlcli.transfer.schedule import Schedule
from tlcli.transfer.shares import divisor, level, parallel, parts, repeats, summed
from tlcli.transfer.sources import Source

Row = dict[str, float | int | str | None]

BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MOMENTUM = 0.1
"""How fast statistics that adapt follow the batches. TensorFlow's weights come with 0.01, of which
a short training sees too little: what it validates with would still be ImageNet's."""


class Diverged(Exception):
    """The loss became NaN or infinite; the text says where."""


class Steps:
    """The suffix in training: its optimizer, schedule and position.

    All that the next epoch depends on is here, in the network's tensors, and in `epoch` and `seed`.
    """

    def __init__(
        self, network: Network, n: int, schedule: Schedule, compute: Compute, seed: int
    ) -> None:
        self.network, self.schedule, self.compute = network, schedule, compute
        self.suffix = parallel(network.suffix)
        self.n, self.seed, self.epoch = n, seed, 0
        self.batches = -(-n // schedule.batch_size)
        self.optimizer = make_optimizer(network, schedule)
        factor = rate_factor(schedule, -(-self.batches // schedule.accumulate))
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        half = compute.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=half)

    def epochs(self, train: Source, phase: str, reporter: Reporter) -> Iterator[Row]:
        """The epochs that are left; a row after each.

        Raises:
            Diverged: the loss is no number any more.
        """
        while self.epoch < self.schedule.epochs:
            self.epoch += 1
            yield {"phase": phase, **self._one(train, phase, reporter)}

    def _one(self, train: Source, phase: str, reporter: Reporter) -> Row:
        started, epoch, n = time.perf_counter(), self.epoch, self.n
        # What is drawn in an epoch, dropout's masks too, depends on the seed, the epoch and the
        # process alone.
        drawn = self.seed * 100_003 + epoch
        torch.manual_seed(drawn + 7_919 * rank())
        order = torch.randperm(n, generator=torch.Generator().manual_seed(drawn))
        set_mode(self.suffix, self.schedule.batchnorm)
        lr = self.optimizer.param_groups[-1]["lr"]
        loss_sum = right = 0.0
        done = 0
        task = f"training {phase}" if phase else "training"
        accumulate = self.schedule.accumulate
        # The last group of an epoch may hold fewer batches.
        short = self.batches % accumulate or accumulate
        batches = train.batches(*parts(order, self.schedule.batch_size), epoch)
        for step, (x, y) in enumerate(batches, 1):
            group = short if step > self.batches - short else accumulate
            total = min(self.schedule.batch_size, n - done)
            value, answers = self._step(x, y, group, total, f"epoch {epoch}, batch {step}")
            if step % accumulate == 0 or step == self.batches:
                self._update()
            done += total
            loss_sum += value
            right += answers
            reporter.progress(
                task,
                (epoch - 1) * n + done,
                n * self.schedule.epochs,
                loss=loss_sum / done,
                top1=right / done,
            )
        level(self.suffix)
        return {
            "epoch": epoch,
            "lr": lr,
            "train_loss": loss_sum / n,
            "train_top1": right / n,
            "images_per_s": round(n / (time.perf_counter() - started), 1),
        }

    def _step(self, x: Tensor, y: Tensor, group: int, total: int, where: str) -> tuple[float, int]:
        """Add a batch's gradients; of its `total` images the losses' sum and the right answers.

        `y` are classes, int64 [n], or shares of them, float [n, classes].
        """
        x, y = x.to(self.compute.device), y.to(self.compute.device)
        with self.compute.autocast():
            logits = self.suffix(x)
            loss = F.cross_entropy(logits.float(), y)
        truth = y if y.dim() == 1 else y.argmax(1)
        right = int((logits.argmax(1) == truth).sum().item())
        sums = torch.tensor([loss.item() * len(y), right], dtype=torch.float64) / repeats(total)
        value, answers = summed(sums).tolist()
        if not math.isfinite(value):
            raise Diverged(f"the loss became {value} in {where}")
        self.scaler.scale(loss * (len(y) / divisor(len(y), total)) / group).backward()
        return value, round(answers)

    def _update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """All but the network's tensors; see `load_state_dict`."""
        return {
            "epoch": self.epoch,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the epoch at which `state` was taken."""
        self.epoch = state["epoch"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])


def set_mode(suffix: nn.Module, batchnorm: str) -> None:
    """Train mode, but for BatchNorm as the schedule says; see `Schedule.batchnorm`."""
    suffix.train()
    for module in suffix.modules():
        if isinstance(module, BATCHNORM):
            if batchnorm == "frozen":
                module.eval()
            else:
                module.momentum = MOMENTUM
