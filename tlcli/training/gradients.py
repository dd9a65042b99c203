"""The gradients of a batch: as fast as the device can, in parts where memory runs out."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlcli.planning.training_config import TrainingConfig
from tlcli.reporter import Reporter
from tlcli.runtime.device import Compute, compile_error_text, to_device
from tlcli.runtime.distributed.process_group import world_size
from tlcli.runtime.distributed.sharding import loss_divisor, n_copies, shard_batch_size, wrap_ddp
from tlcli.runtime.memory import BatchLimit, is_out_of_memory, out_of_memory_error
from tlcli.training.cpu_parallel import ParallelGradients, Sums
from tlcli.training.depthwise import fast_depthwise

TrainingBatch = tuple[Tensor, Tensor]
"""Activations [n, ...], and classes, int64 [n], or shares of them, float [n, classes]."""


class Gradients:
    """Adds the gradients of batches to a suffix's parameters.

    Attributes:
        forward: what computes the logits: the suffix, or a wrap of it.
        compiled: the same through torch.compile, where that is asked for.
        weights: what an image of each class counts for, float32 [classes]; None: the same.
        room: how many images at a time there is memory for.
        lanes: on a CPU, parts of the batch beside each other.
    """

    def __init__(self, suffix: nn.Module, config: TrainingConfig, compute: Compute) -> None:
        self.suffix, self.config, self.compute = suffix, config, compute
        self.forward: Callable[[Tensor], Tensor] = wrap_ddp(
            suffix, unused_parameters=config.unfreeze == "gradual"
        )
        self.compiled: Callable[[Tensor], Tensor] | None = None
        if compute.compiled:
            self.compiled = torch.compile(self.forward, dynamic=False)
        self.weights: Tensor | None = None
        self.room = BatchLimit()
        self.lanes = ParallelGradients(suffix, compute)

    def add(
        self,
        group: Sequence[TrainingBatch],
        size: int,
        scaler: torch.amp.GradScaler,
        reporter: Reporter,
        total: int,
    ) -> Tensor:
        """Add those of a group's newest batch, divided by the group's whole `size` in batches.

        Where memory runs out, the batch is computed in parts; the gradients are the same.

        Args:
            total: the batch's images in all processes of a job.

        Returns:
            The sum of its losses and the number of right answers, float32 [2] on the device: this
            process' share of those.

        Raises:
            UserError: memory ran out for one image, or in one of several processes.
        """
        rows = len(group[-1][1])
        try:
            return self._backward(*group[-1], size, scaler, total)
        except RuntimeError as error:
            if self.compiled is not None and not is_out_of_memory(error):
                self.compiled = None
                reporter.warn(f"training {compile_error_text(error)}; it runs as it would without")
            else:
                self._smaller(error, rows, reporter)
        # Some gradients may have been added before it failed, so the group begins anew.
        for parameter in self.suffix.parameters():
            parameter.grad = None
        for number in range(1, len(group)):
            self.add(group[:number], size, scaler, reporter, total)
        return self.add(group, size, scaler, reporter, total)

    def _smaller(self, error: RuntimeError, rows: int, reporter: Reporter) -> None:
        """Parts of half as many images from now on."""
        self.room.reduce_after(error, rows)
        if world_size() > 1:  # the others would wait for as many backward passes
            raise out_of_memory_error(
                f"for {rows} images, this process's shard of a batch",
                "use a smaller --batch-size, with --accumulate to make up for it",
            ) from error
        smaller = ", which BatchNorm's statistics are of" * (self.config.batchnorm == "adapt")
        reporter.warn(
            f"not enough memory for batches of {rows}: they are computed in parts of "
            f"{self.room.max_images}{smaller}"
        )

    def _backward(
        self, x: Tensor, y: Tensor, size: int, scaler: torch.amp.GradScaler, total: int
    ) -> Tensor:
        x, y = to_device(x, self.compute.device), to_device(y, self.compute.device)
        sums = torch.zeros(2, device=self.compute.device)
        rows = self.room.max_images or len(y)
        share = loss_divisor(len(y), total) * size
        for part, truth in zip(x.split(rows), y.split(rows), strict=True):
            # Scaled gradients (fp16) are the scaler's to unscale, once and together.
            n = 1 if scaler.is_enabled() else self.lanes.of(part)
            if n == 1:
                loss, found = self._loss(part, truth)
                scaler.scale(loss / share).backward()
            else:
                found = self._in_lanes(part, truth, share, n)
            sums += found
        return sums / n_copies(total)

    def _in_lanes(self, x: Tensor, y: Tensor, share: float, n: int) -> Tensor:
        learning = [p for p in self.suffix.parameters() if p.requires_grad]

        def compute(part: Tensor, truth: Tensor) -> Sums:
            loss, found = self._loss(part, truth)
            return torch.autograd.grad(loss / share, learning, allow_unused=True), found

        gradients, found = self.lanes.sums(compute, x, y, n)
        for parameter, gradient in zip(learning, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                # In the parameter's memory format, which fused optimizers rely on.
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            else:
                parameter.grad.add_(gradient)
        return found

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The losses' sum, and it beside the number of right answers, without a graph."""
        with self.compute.autocast():
            logits = self._logits(x).float()
        # Summed here, not by cross_entropy, whose weighted mean would depend on the batch.
        loss = F.cross_entropy(
            logits,
            y,
            weight=self.weights,
            label_smoothing=self.config.label_smoothing,
            reduction="none",
        ).sum()
        right = y if y.dim() == 1 else y.argmax(1)
        return loss, torch.stack([loss.detach(), (logits.argmax(1) == right).sum()])

    def _logits(self, x: Tensor) -> Tensor:
        # Batches of another size, such as an epoch's last one, are not worth compiling for.
        if self.compiled is not None and len(x) == shard_batch_size(self.config.batch_size):
            return self.compiled(x)
        with fast_depthwise(self.compute):
            return self.forward(x)
