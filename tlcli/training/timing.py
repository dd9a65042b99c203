"""The costs of an image and of a training step on this machine."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

import torch
from torch import Tensor, nn

from tlcli.data.dataset import Sample
from tlcli.data.loader import load_batches
from tlcli.features.stage_features import StageFeatures
from tlcli.planning.evidence import Timing
from tlcli.training.cpu_parallel import ParallelGradients, Sums
from tlcli.training.depthwise import fast_depthwise

IMAGES_PER_PART = 4
"""Images of the larger of two timed steps, for each part that is computed in parallel."""


@torch.no_grad()
def measure_costs(stage_features: StageFeatures, samples: Sequence[Sample]) -> Timing:
    """Measure the costs of an image and of a training step; some of `samples` are computed again.

    Where all of them were cached, the costs are the ones of the time when they were computed.
    """
    compute = stage_features.extractor.compute
    n_timed = compute.batch_size * compute.workers
    stored = {}
    if not stage_features.n_computed and stage_features.tables:
        stored = stage_features.tables[-1].metadata
    with suppress(KeyError, TypeError):  # of another version, or none
        return Timing(**stored["costs"])
    if stage_features.n_computed < 2 * n_timed:
        # All of it was cached, or too little to tell: a batch per worker, after some to warm up.
        paths = [s.path for s in samples[:n_timed]]
        for _ in range(2):
            started = time.perf_counter()
            loaded = load_batches(
                paths, stage_features.extractor.preprocessing, batch_size=compute.batch_size
            )
            for _ in stage_features.compute_batches(loaded):
                pass
            stage_features.seconds = time.perf_counter() - started
            stage_features.n_computed = len(paths)
    spent = stage_features.extractor.stage_seconds
    total = sum(spent) or 1.0
    share = {s.name: sum(spent[: i + 1]) / total for i, s in enumerate(stage_features.stages)}
    image = stage_features.seconds / max(1, stage_features.n_computed)
    timing = Timing(image, share, *_step_costs(stage_features))
    if stage_features.tables:
        stage_features.tables[-1].set_metadata("costs", asdict(timing))
    return timing


@torch.enable_grad()
def _step_costs(stage_features: StageFeatures) -> tuple[float, float]:
    """Measure the seconds of a training step of all stages: its fixed part, and each image's.

    It runs in eval mode, so that no running statistics move; the weights do not change.
    """
    compute = stage_features.extractor.compute
    side = stage_features.backbone.preprocessing.crop
    stages = nn.Sequential(*stage_features.stages).eval()
    parameters = list(stages.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    stages.requires_grad_(True)
    parallel = ParallelGradients(stages, compute)

    def gradients(x: Tensor, _: Tensor) -> Sums:
        with compute.autocast(), fast_depthwise(compute):
            loss = stages(x).float().mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True), loss.detach()

    few, many = parallel.max_parts, IMAGES_PER_PART * parallel.max_parts
    seconds = []
    for n in (many, few, many):  # the first warms up
        x = torch.zeros(n, 3, side, side, device=compute.device)
        x = x.contiguous(memory_format=torch.channels_last)
        started = time.perf_counter()
        parallel.add_up(gradients, x, torch.zeros(n), parallel.max_parts)
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    for parameter in frozen:
        parameter.requires_grad_(False)
    _, small, large = seconds
    image = max(large - small, 0.0) / (many - few) or large / many
    return max(small - few * image, 0.0), image
