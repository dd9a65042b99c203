"""Training in steps: epochs of SGD or AdamW over a source of activations."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.events import Reporter
from tlcli.transfer.device import Compute
from tlcli.transfer.network import Network
from tlcli.transfer.optimise import make_optimizer, rate_factor
from tlcli.transfer.schedule import Schedule
from tlcli.transfer.sources import Source

Row = dict[str, float | int | str | None]

BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MOMENTUM = 0.1
"""How fast statistics that adapt follow the batches. TensorFlow's weights come with 0.01, of which
a short training sees too little: what it validates with would still be ImageNet's."""


class Diverged(Exception):
    """The loss became NaN or infinite; the text says where."""


@dataclass
class Part:
    """How much of an epoch is done: batches, images, the sums over them, and the epoch's rate."""

    lr: float
    batches: int = 0
    images: int = 0
    loss: float = 0.0
    right: int = 0


class Steps:
    """The suffix in training: its optimizer, schedule and position.

    All that the next step depends on is here, in the network's tensors, and in `seed`.

    Attributes:
        epoch: the last that ended, or the one that is under way.
        part: how much of that one is done; None between epochs.
        on_step: called after a step, where the state may be taken.
    """

    def __init__(
        self, network: Network, n: int, schedule: Schedule, compute: Compute, seed: int
    ) -> None:
        self.network, self.schedule, self.compute = network, schedule, compute
        self.suffix = network.suffix
        self.n, self.seed, self.epoch = n, seed, 0
        self.part: Part | None = None
        self.on_step: Callable[[], None] = lambda: None
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
        while self.part or self.epoch < self.schedule.epochs:
            self.epoch += self.part is None
            yield {"phase": phase, **self._one(train, phase, reporter)}

    def _one(self, train: Source, phase: str, reporter: Reporter) -> Row:
        started, epoch, n = time.perf_counter(), self.epoch, self.n
        # What is drawn in an epoch, dropout's masks too, depends on the seed and the epoch alone.
        drawn = self.seed * 100_003 + epoch
        order = torch.randperm(n, generator=torch.Generator().manual_seed(drawn))
        set_mode(self.suffix, self.schedule.batchnorm)
        if self.part is None:
            torch.manual_seed(drawn)
            self.part = Part(self.optimizer.param_groups[-1]["lr"])
        part, before = self.part, self.part.images
        task = f"training {phase}" if phase else "training"
        accumulate = self.schedule.accumulate
        # The last group of an epoch may hold fewer batches.
        short = self.batches % accumulate or accumulate
        batches = train.batches(order[before:], self.schedule.batch_size, epoch)
        for step, (x, y) in enumerate(batches, part.batches + 1):
            group = short if step > self.batches - short else accumulate
            value, answers = self._step(x, y, group, f"epoch {epoch}, batch {step}")
            part.batches, part.images = step, part.images + len(y)
            part.loss += value * len(y)
            part.right += answers
            if step % accumulate == 0 or step == self.batches:
                self._update()
                if step < self.batches:
                    self.on_step()
            reporter.progress(
                task,
                (epoch - 1) * n + part.images,
                n * self.schedule.epochs,
                loss=part.loss / part.images,
                top1=part.right / part.images,
            )
        self.part = None
        return {
            "epoch": epoch,
            "lr": part.lr,
            "train_loss": part.loss / n,
            "train_top1": part.right / n,
            "images_per_s": round((n - before) / (time.perf_counter() - started), 1),
        }

    def _step(self, x: Tensor, y: Tensor, group: int, where: str) -> tuple[float, int]:
        """Add a batch's gradients: its loss, and how many answers were right.

        `y` are classes, int64 [n], or shares of them, float [n, classes].
        """
        x, y = x.to(self.compute.device), y.to(self.compute.device)
        with self.compute.autocast():
            logits = self.suffix(x)
            loss = F.cross_entropy(logits.float(), y)
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the loss became {value} in {where}")
        self.scaler.scale(loss / group).backward()
        truth = y if y.dim() == 1 else y.argmax(1)
        return value, int((logits.argmax(1) == truth).sum().item())

    def _update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """All but the network's tensors, between steps; see `load_state_dict`."""
        return {
            "epoch": self.epoch,
            "part": self.part and {**asdict(self.part), "drawn": random_state(self.compute)},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the step at which `state` was taken, whether an epoch's last or not."""
        self.epoch, part = state["epoch"], state["part"]
        if part is not None:
            self.part = Part(**{k: v for k, v in part.items() if k != "drawn"})
            set_random_state(self.compute, part["drawn"])
        self.optimizer.load_state_dict(state["optimizer"])
        laid_out_alike(self.optimizer)
        self.scheduler.load_state_dict(state["scheduler"])
        # A run that is extended has another schedule now: its rate here is that one's.
        rates = zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = base * factor(self.scheduler.last_epoch)
        self.scaler.load_state_dict(state["scaler"])


def random_state(compute: Compute) -> dict[str, Tensor]:
    """What the next random number depends on, by device: uint8 [n]."""
    drawn = {"cpu": torch.get_rng_state()}
    if compute.device.type == "cuda":
        drawn["cuda"] = torch.cuda.get_rng_state(compute.device)
    return drawn


def set_random_state(compute: Compute, drawn: dict[str, Tensor]) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(drawn["cpu"])
    if "cuda" in drawn:
        torch.cuda.set_rng_state(drawn["cuda"], compute.device)


def laid_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer's tensors the memory layout of what they belong to.

    Files keep none, and another layout takes other instructions, with other last digits.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def set_mode(suffix: nn.Module, batchnorm: str) -> None:
    """Train mode, but for BatchNorm as the schedule says; see `Schedule.batchnorm`."""
    suffix.train()
    for module in suffix.modules():
        if isinstance(module, BATCHNORM):
            if batchnorm == "frozen":
                module.eval()
            else:
                module.momentum = MOMENTUM
