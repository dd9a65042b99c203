"""Training in steps: epochs of SGD or AdamW over a source of activations."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from tlcli.backbones.network import Network, set_dropout
from tlcli.features.sources import FeatureSource
from tlcli.planning.training_config import TrainingConfig, count_unfrozen
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.process_group import rank, world_size
from tlcli.runtime.distributed.sharding import all_reduce_sum, average_buffers, shard_batches
from tlcli.runtime.optim_without_dynamo import optim
from tlcli.runtime.rng import get_rng_state, set_rng_state
from tlcli.training.class_balance import class_weights, sample_balanced
from tlcli.training.freezing import set_mode, unfreeze
from tlcli.training.gradients import Gradients, TrainingBatch
from tlcli.training.lr_finder import Curve, find_lr
from tlcli.training.optim import lr_factor, make_optimizer, match_memory_format
from tlcli.training.weight_averaging import WeightAverage

HistoryRow = dict[str, float | int | str | None]

READ_EVERY = 10
"""Steps between looks at the loss on devices that compute ahead: each look waits for them."""


class Diverged(Exception):
    """The loss became NaN or infinite; the text says where."""


@dataclass
class PartialEpoch:
    """How much of an epoch is done: batches, images, the sums over them, and the epoch's rate."""

    lr: float
    batches: int = 0
    images: int = 0
    loss: float = 0.0
    right: float = 0.0


class TrainingLoop:
    """The suffix in training: its optimizer, configuration and position.

    All that the next step depends on is here (`state_dict`), in the network's tensors, in
    `config` and in `seed`.

    Attributes:
        gradients: adds those of a batch; its `forward` is the suffix, or a wrap of it.
        epoch: the last that ended, or the one that is under way.
        part: how much of that one is done; None between epochs.
        on_step: called after a step, where the state may be taken.
        curve: of the learning rate range test, where there was one.
    """

    def __init__(
        self, network: Network, n: int, config: TrainingConfig, compute: Compute, seed: int
    ) -> None:
        self.network, self.config, self.compute = network, config, compute
        set_dropout(network, config.dropout)
        self.suffix = network.suffix
        self.gradients = Gradients(self.suffix, config, compute)
        self.n, self.seed, self.epoch = n, seed, 0
        self.part: PartialEpoch | None = None
        self.on_step: Callable[[], None] = lambda: None
        self.batches = -(-n // config.batch_size)
        self.per_epoch = -(-self.batches // config.accumulate)
        self.average = (
            None
            if config.average == "none"
            else WeightAverage(self.suffix, config.average, config.epochs, self.per_epoch)
        )
        self.unread = torch.zeros(2, device=compute.device)
        self.curve: Curve = []
        self._begin()

    def _begin(self) -> None:
        """The optimizer and what goes with it, as before the first step."""
        self.optimizer = make_optimizer(self.network, self.config)
        factor = lr_factor(self.config, self.per_epoch)
        self.scheduler = optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        half = self.compute.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.compute.device.type, enabled=half)

    def epochs(self, train: FeatureSource, phase: str, reporter: Reporter) -> Iterator[HistoryRow]:
        """The epochs that are left; a row after each.

        While a row is looked at the network holds what is to be validated: the averaged tensors,
        where the schedule asks for an average.

        Raises:
            Diverged: the loss is no number any more.
            UserError: memory runs out with a single image, or no learning rate was found.
        """
        if self.config.balance == "weights":
            n_classes = self.network.final_layer.weight.shape[0]
            weights = class_weights(train.labels, n_classes)
            self.gradients.weights = weights.to(self.compute.device)
        if self.config.find_lr:
            self._find(train, reporter)
        while self.part or self.epoch < self.config.epochs:
            if self.average:
                self.average.show(False)
            self.epoch += self.part is None
            row = {"phase": phase, **self._one(train, phase, reporter)}
            average_buffers(self.suffix)
            if self.average:
                self.average.show(True)
                average_buffers(self.suffix)  # the averaged statistics too
            yield row

    def _one(self, train: FeatureSource, phase: str, reporter: Reporter) -> HistoryRow:
        started, epoch, n = time.perf_counter(), self.epoch, self.n
        order = self._order(train)
        if self.part is None:
            self._draw_anew(epoch)
            self.part = PartialEpoch(self.optimizer.param_groups[-1]["lr"])
        self._set_modes()
        part, before = self.part, self.part.images
        ahead = self.compute.device.type != "cpu"
        task = f"training {phase}" if phase else "training"
        accumulate = self.config.accumulate
        # The last group of an epoch may hold fewer batches.
        short = self.batches % accumulate or accumulate
        batches = train.batches(*shard_batches(order[before:], self.config.batch_size), epoch)
        group: list[TrainingBatch] = []
        for step, batch in enumerate(batches, part.batches + 1):
            group.append(batch)
            size = short if step > self.batches - short else accumulate
            total = min(self.config.batch_size, n - part.images)
            self.unread += self.gradients.add(group, size, self.scaler, reporter, total)
            part.batches, part.images = step, part.images + total
            read = not ahead or step % READ_EVERY == 0 or step == self.batches
            if read:
                self._read()
            if len(group) == size:
                self._update()
                group = []
                # To read takes all processes, and only the first looks at its state.
                if step < self.batches and (read or world_size() == 1):
                    self.on_step()
            reporter.progress(
                task,
                (epoch - 1) * n + part.images,
                n * self.config.epochs,
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

    def _draw_anew(self, epoch: int) -> None:
        """What is drawn in an epoch, dropout's masks too, depends on seed, epoch and process."""
        torch.manual_seed(self.seed * 100_003 + epoch + 7_919 * rank())

    def _order(self, train: FeatureSource) -> Tensor:
        """The epoch's images, int64 [n]."""
        draw = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        if self.config.balance == "sampler":
            return sample_balanced(train.labels, draw)
        return torch.randperm(self.n, generator=draw)

    def _set_modes(self) -> None:
        """Train mode for what learns in the epoch; eval mode, without gradients, for the rest."""
        stages = [s for s in self.network.stages[self.network.cut :] if list(s.parameters())]
        learning = count_unfrozen(self.config, max(self.epoch, 1), len(stages))
        set_mode(self.suffix, self.config.batchnorm)
        unfreeze(stages, learning)

    def _read(self) -> None:
        """Bring the sums up to date; waits for the device."""
        if self.part is None:
            return
        loss, right = all_reduce_sum(self.unread).tolist()
        self.unread.zero_()
        if not math.isfinite(loss):
            where = f"epoch {self.epoch}, batch {self.part.batches}"
            raise Diverged(f"the loss became {loss} in {where}")
        self.part.loss += loss
        self.part.right += right

    def _update(self) -> None:
        self._apply()
        self.scheduler.step()
        if self.average:
            self.average.update()

    def _apply(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _find(self, train: FeatureSource, reporter: Reporter) -> None:
        """Measure the learning rate, and put everything back as it was before."""
        before = {k: v.clone() for k, v in self.suffix.state_dict().items()}
        self._draw_anew(0)
        self._set_modes()
        order, size = self._order(train), self.config.batch_size
        totals = cycle(map(len, order.split(size)))

        def step(x: Tensor, y: Tensor) -> float:
            total = next(totals)
            sums = all_reduce_sum(self.gradients.add([(x, y)], 1, self.scaler, reporter, total))
            self._apply()
            return sums[0].item() / total

        try:
            found, self.curve = find_lr(
                step,
                # No epoch of the training has these views.
                lambda number: train.batches(*shard_batches(order, size), -1 - number),
                self.optimizer,
                reporter,
            )
        finally:
            self.suffix.load_state_dict(before)
        self.config = replace(self.config, lr=found, find_lr=False)
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """All but the network's tensors, between steps: tensors and plain values."""
        if world_size() == 1:
            self._read()
        drawn = get_rng_state(self.compute)
        return {
            "epoch": self.epoch,
            "part": self.part and {**asdict(self.part), "drawn": drawn},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average and self.average.state_dict(),
            "rows": self.gradients.room.max_images,
            "lr": self.config.lr,
            "curve": [list(point) for point in self.curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the step at which `state` was taken, whether an epoch's last or not.

        The network must hold the tensors that it held then.
        """
        self.epoch, part = state["epoch"], state["part"]
        if part is not None:
            self.part = PartialEpoch(**{k: v for k, v in part.items() if k != "drawn"})
            set_rng_state(self.compute, part["drawn"])
            if rank():  # that was the first process'
                self._draw_anew(self.epoch)
        # A rate that was found is not looked for again.
        self.config = replace(self.config, lr=state["lr"], find_lr=False)
        self.curve = [(lr, loss) for lr, loss in state["curve"]]
        self.optimizer.load_state_dict(state["optimizer"])
        match_memory_format(self.optimizer)
        self.scheduler.load_state_dict(state["scheduler"])
        # A run that is extended has another schedule now: its rate here is that one's.
        rates = zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = base * factor(self.scheduler.last_epoch)
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.gradients.room.max_images = state["rows"]
