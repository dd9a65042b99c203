"""The training loop: epochs of optimizer steps over a source of features."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from tlcli.backbones.network import Network, set_dropout
from tlcli.features.sources import FeatureSource
from tlcli.planning.json_fields import from_json_types, to_json_types
from tlcli.planning.training_config import TrainingConfig, count_unfrozen
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute
from tlcli.runtime.distributed.process_group import rank, world_size
from tlcli.runtime.distributed.sharding import all_reduce_sum, average_buffers, shard_batches
from tlcli.runtime.optim_without_dynamo import optim
from tlcli.runtime.rng import get_rng_state, set_rng_state
from tlcli.training.class_balance import class_weights, sample_balanced
from tlcli.training.epoch import Diverged, HistoryRow, PartialEpoch
from tlcli.training.freezing import set_train_mode, unfreeze_last
from tlcli.training.gradients import Gradients, TrainingBatch
from tlcli.training.lr_finder import Curve, find_lr
from tlcli.training.optim import lr_factor, make_optimizer, match_memory_format
from tlcli.training.weight_averaging import WeightAverage

READ_EVERY = 10
"""Steps between readings of the loss on devices that compute ahead: each reading waits for them."""


class TrainingLoop:
    """A suffix in training, with its optimizer and its position.

    Everything that the next step depends on is here (`state_dict`), in the network's tensors, in
    `config` and in `seed`.

    Attributes:
        gradients: adds the gradients of a batch; its `forward` is the suffix, or a wrapper of it.
        epoch: the last epoch that has ended, or the one that is under way.
        part: the finished part of the epoch that is under way; None between epochs.
        on_step: called after a step, where the state may be taken.
        curve: of the learning rate range test, if there was one.
    """

    def __init__(
        self, network: Network, n_train: int, config: TrainingConfig, compute: Compute, seed: int
    ) -> None:
        self.network, self.config, self.compute = network, config, compute
        set_dropout(network, config.dropout)
        self.suffix = network.suffix
        self.gradients = Gradients(self.suffix, config, compute)
        self.n_train, self.seed, self.epoch = n_train, seed, 0
        self.part: PartialEpoch | None = None
        self.on_step: Callable[[], None] = lambda: None
        self.batches_per_epoch = -(-n_train // config.batch_size)
        self.steps_per_epoch = -(-self.batches_per_epoch // config.accumulate)
        self.average = (
            None
            if config.average == "none"
            else WeightAverage(self.suffix, config.average, config.epochs, self.steps_per_epoch)
        )
        self._unread_sums = torch.zeros(2, device=compute.device)
        self.curve: Curve = []
        self._make_optimizer()

    def _make_optimizer(self) -> None:
        """Make the optimizer, its scheduler and its scaler, as before the first step."""
        self.optimizer = make_optimizer(self.network, self.config)
        factor = lr_factor(self.config, self.steps_per_epoch)
        self.scheduler = optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        half = self.compute.dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.compute.device.type, enabled=half)

    def epochs(self, train: FeatureSource, phase: str, reporter: Reporter) -> Iterator[HistoryRow]:
        """Train for the epochs that are left; yield a row after each.

        At each row the network holds the tensors to validate: the averaged ones if the
        configuration asks for an average.

        Raises:
            Diverged: the loss is no longer a number.
            UserError: memory runs out with a single image, or no learning rate was found.
        """
        if self.config.balance == "weights":
            n_classes = self.network.final_layer.weight.shape[0]
            weights = class_weights(train.labels, n_classes)
            self.gradients.class_weights = weights.to(self.compute.device)
        if self.config.find_lr:
            self._find_lr(train, reporter)
        while self.part or self.epoch < self.config.epochs:
            if self.average:
                self.average.show(False)
            self.epoch += self.part is None
            row = {"phase": phase, **self._run_epoch(train, phase, reporter)}
            average_buffers(self.suffix)
            if self.average:
                self.average.show(True)
                average_buffers(self.suffix)  # the averaged statistics too
            yield row

    def _run_epoch(self, train: FeatureSource, phase: str, reporter: Reporter) -> HistoryRow:
        """Train for an epoch, or for the part of it that is left."""
        started = time.perf_counter()
        order = self._order(train)
        if self.part is None:
            self._seed_epoch(self.epoch)
            self.part = PartialEpoch(self.optimizer.param_groups[-1]["lr"])
        self._set_modes()
        part, n_before = self.part, self.part.images
        computes_ahead = self.compute.device.type != "cpu"
        task = f"training {phase}" if phase else "training"
        # The last group of an epoch may hold fewer batches.
        last_group = self.batches_per_epoch % self.config.accumulate or self.config.accumulate
        shard = shard_batches(order[n_before:], self.config.batch_size)
        group: list[TrainingBatch] = []
        for number, batch in enumerate(train.batches(*shard, self.epoch), part.batches + 1):
            group.append(batch)
            in_last_group = number > self.batches_per_epoch - last_group
            size = last_group if in_last_group else self.config.accumulate
            total = min(self.config.batch_size, self.n_train - part.images)
            sums = self.gradients.add(group, size, self.scaler, reporter, total)
            self._unread_sums += sums
            part.batches, part.images = number, part.images + total
            last = number == self.batches_per_epoch
            read = not computes_ahead or number % READ_EVERY == 0 or last
            if read:
                self._read_sums()
            if len(group) == size:
                self._update()
                group = []
                # To read takes all processes, and only the first looks at its state.
                if not last and (read or world_size() == 1):
                    self.on_step()
            reporter.progress(
                task,
                (self.epoch - 1) * self.n_train + part.images,
                self.n_train * self.config.epochs,
                loss=part.loss / part.images,
                top1=part.correct / part.images,
            )
        self.part = None
        seconds = time.perf_counter() - started
        return {
            "epoch": self.epoch,
            "lr": part.lr,
            "train_loss": part.loss / self.n_train,
            "train_top1": part.correct / self.n_train,
            "images_per_s": round((self.n_train - n_before) / seconds, 1),
        }

    def _seed_epoch(self, epoch: int) -> None:
        """Seed torch, so that an epoch's random draws depend on the seed, the epoch and the rank.

        Dropout's masks are among them.
        """
        torch.manual_seed(self.seed * 100_003 + epoch + 7_919 * rank())

    def _order(self, train: FeatureSource) -> Tensor:
        """Return the order of the epoch's images, int64 [n_train]."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        if self.config.balance == "sampler":
            return sample_balanced(train.labels, generator)
        return torch.randperm(self.n_train, generator=generator)

    def _set_modes(self) -> None:
        """Put stages that learn in this epoch into train mode, and the others into eval mode."""
        stages = [s for s in self.network.stages[self.network.cut :] if list(s.parameters())]
        n_learning = count_unfrozen(self.config, max(self.epoch, 1), len(stages))
        set_train_mode(self.suffix, self.config.batchnorm)
        unfreeze_last(stages, n_learning)

    def _read_sums(self) -> None:
        """Add the newest losses to the part's sums; this waits for the device.

        Raises:
            Diverged: the loss is no longer a number.
        """
        if self.part is None:
            return
        loss, correct = all_reduce_sum(self._unread_sums).tolist()
        self._unread_sums.zero_()
        if not math.isfinite(loss):
            where = f"epoch {self.epoch}, batch {self.part.batches}"
            raise Diverged(f"the loss became {loss} in {where}")
        self.part.loss += loss
        self.part.correct += correct

    def _update(self) -> None:
        """Take a step, and update the learning rate and the average."""
        self._step_optimizer()
        self.scheduler.step()
        if self.average:
            self.average.update()

    def _step_optimizer(self) -> None:
        """Take a step with the gradients, and clear them."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _find_lr(self, train: FeatureSource, reporter: Reporter) -> None:
        """Measure the learning rate, and put everything back as it was before."""
        before = {k: v.clone() for k, v in self.suffix.state_dict().items()}
        self._seed_epoch(0)
        self._set_modes()
        order, size = self._order(train), self.config.batch_size
        totals = cycle(map(len, order.split(size)))

        def step(x: Tensor, y: Tensor) -> float:
            total = next(totals)
            sums = all_reduce_sum(self.gradients.add([(x, y)], 1, self.scaler, reporter, total))
            self._step_optimizer()
            return sums[0].item() / total

        try:
            lr, self.curve = find_lr(
                step,
                # No epoch of the training has these views.
                lambda number: train.batches(*shard_batches(order, size), -1 - number),
                self.optimizer,
                reporter,
            )
        finally:
            self.suffix.load_state_dict(before)
        self.config = replace(self.config, lr=lr, find_lr=False)
        self._make_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the network's tensors, between steps: tensors and plain values."""
        if world_size() == 1:
            self._read_sums()
        rng_state = get_rng_state(self.compute)
        return {
            "epoch": self.epoch,
            "part": self.part and {**to_json_types(self.part), "drawn": rng_state},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average and self.average.state_dict(),
            "rows": self.gradients.batch_limit.max_images,
            "lr": self.config.lr,
            "curve": [list(point) for point in self.curve],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the step at which `state` was taken, whether an epoch's last or not.

        The network must hold the tensors that it held then.
        """
        self.epoch, part = state["epoch"], state["part"]
        if part is not None:
            content = {k: v for k, v in part.items() if k != "drawn"}
            self.part = from_json_types(PartialEpoch, content)
            set_rng_state(self.compute, part["drawn"])
            if rank():  # the state is of rank 0
                self._seed_epoch(self.epoch)
        # A rate that was found is not looked for again.
        self.config = replace(self.config, lr=state["lr"], find_lr=False)
        self.curve = [(lr, loss) for lr, loss in state["curve"]]
        self.optimizer.load_state_dict(state["optimizer"])
        match_memory_format(self.optimizer)
        self.scheduler.load_state_dict(state["scheduler"])
        # A run that is extended has another schedule now, and so another rate here.
        rates = zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = base * factor(self.scheduler.last_epoch)
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.gradients.batch_limit.max_images = state["rows"]
