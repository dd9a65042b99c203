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
"""Features, [n, ...], and labels: classes, int64 [n], or shares of them, float [n, classes]."""


class Gradients:
    """The computation of gradients, which are added to a suffix's parameters.

    Attributes:
        forward: computes the logits: the suffix, or a wrapper of it.
        compiled: the same through torch.compile, if that was asked for.
        class_weights: the weight of an image of each class, float32 [classes]; None: one.
        batch_limit: the number of images that memory suffices for at a time.
        parallel: computes parts of a batch in parallel on a CPU.
    """

    def __init__(self, suffix: nn.Module, config: TrainingConfig, compute: Compute) -> None:
        self.suffix, self.config, self.compute = suffix, config, compute
        self.forward: Callable[[Tensor], Tensor] = wrap_ddp(
            suffix, unused_parameters=config.unfreeze == "gradual"
        )
        self.compiled: Callable[[Tensor], Tensor] | None = None
        if compute.compiled:
            self.compiled = torch.compile(self.forward, dynamic=False)
        self.class_weights: Tensor | None = None
        self.batch_limit = BatchLimit()
        self.parallel = ParallelGradients(suffix, compute)

    def add(
        self,
        group: Sequence[TrainingBatch],
        size: int,
        scaler: torch.amp.GradScaler,
        reporter: Reporter,
        total: int,
    ) -> Tensor:
        """Add the gradients of the newest batch of a group whose gradients are accumulated.

        Where memory runs out, the batch is computed in parts; the gradients are the same.

        Args:
            size: the number of batches of the whole group, which the gradients are divided by.
            total: the batch's images on all ranks.

        Returns:
            The sum of the losses and the number of correct predictions, float32 [2] on the device,
            as this rank's share.

        Raises:
            UserError: memory ran out for one image, or on one of several ranks.
        """
        rows = len(group[-1][1])
        try:
            return self._backward(*group[-1], size, scaler, total)
        except RuntimeError as error:
            if self.compiled is not None and not is_out_of_memory(error):
                self.compiled = None
                reporter.warn(f"training {compile_error_text(error)}; it runs uncompiled")
            else:
                self._halve_parts(error, rows, reporter)
        # Some gradients may have been added before it failed, so the group begins again.
        for parameter in self.suffix.parameters():
            parameter.grad = None
        for number in range(1, len(group)):
            self.add(group[:number], size, scaler, reporter, total)
        return self.add(group, size, scaler, reporter, total)

    def _halve_parts(self, error: RuntimeError, rows: int, reporter: Reporter) -> None:
        """Compute batches in parts of half as many images from now on."""
        self.batch_limit.reduce_after(error, rows)
        if world_size() > 1:  # the others would wait for as many backward passes
            raise out_of_memory_error(
                f"for {rows} images, this process's shard of a batch",
                "use a smaller --batch-size, with --accumulate to make up for it",
            ) from error
        adapts = self.config.batchnorm == "adapt"
        statistics = ", and BatchNorm's statistics are of these parts" if adapts else ""
        reporter.warn(
            f"not enough memory for batches of {rows}: they are computed in parts of "
            f"{self.batch_limit.max_images}{statistics}"
        )

    def _backward(
        self, x: Tensor, y: Tensor, size: int, scaler: torch.amp.GradScaler, total: int
    ) -> Tensor:
        """Add the gradients of a batch; see `add`."""
        x, y = to_device(x, self.compute.device), to_device(y, self.compute.device)
        sums = torch.zeros(2, device=self.compute.device)
        rows = self.batch_limit.max_images or len(y)
        divisor = loss_divisor(len(y), total) * size
        for part_x, part_y in zip(x.split(rows), y.split(rows), strict=True):
            # Scaled gradients (fp16) are the scaler's to unscale, once and together.
            n_parts = 1 if scaler.is_enabled() else self.parallel.count_parts(part_x)
            if n_parts == 1:
                loss, part_sums = self._loss(part_x, part_y)
                scaler.scale(loss / divisor).backward()
            else:
                part_sums = self._backward_in_parallel(part_x, part_y, divisor, n_parts)
            sums += part_sums
        return sums / n_copies(total)

    def _backward_in_parallel(self, x: Tensor, y: Tensor, divisor: float, n_parts: int) -> Tensor:
        """Add the gradients of a batch whose parts are computed in parallel."""
        learning = [p for p in self.suffix.parameters() if p.requires_grad]

        def compute(x: Tensor, y: Tensor) -> Sums:
            loss, sums = self._loss(x, y)
            return torch.autograd.grad(loss / divisor, learning, allow_unused=True), sums

        gradients, sums = self.parallel.add_up(compute, x, y, n_parts)
        for parameter, gradient in zip(learning, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                # In the parameter's memory format, which fused optimizers rely on.
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            else:
                parameter.grad.add_(gradient)
        return sums

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses, and the same beside the number of correct predictions.

        The second has no graph.
        """
        with self.compute.autocast():
            logits = self._logits(x).float()
        # Summed here, not by cross_entropy, whose weighted mean would depend on the batch.
        loss = F.cross_entropy(
            logits,
            y,
            weight=self.class_weights,
            label_smoothing=self.config.label_smoothing,
            reduction="none",
        ).sum()
        labels = y if y.dim() == 1 else y.argmax(1)
        return loss, torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])

    def _logits(self, x: Tensor) -> Tensor:
        """Compute the logits, compiled where that is worth it."""
        # Batches of another size, such as an epoch's last one, are not worth compiling for.
        if self.compiled is not None and len(x) == shard_batch_size(self.config.batch_size):
            return self.compiled(x)
        with fast_depthwise(self.compute):
            return self.forward(x)
