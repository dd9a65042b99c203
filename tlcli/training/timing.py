"""What an image and a training step cost on this machine."""

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

STEP_BATCH = 4
"""Images of the training step that is timed, for each that is computed beside others."""


@torch.no_grad()
def measure_costs(look: StageFeatures, samples: Sequence[Sample]) -> Timing:
    """What an image and a training step cost here; some of `samples` are computed for it.

    Where all of them were cached, what it came to when they were computed.
    """
    batch = look.extractor.compute.batch_size
    enough = batch * look.extractor.compute.workers
    known = look.tables[-1].metadata if not look.n_computed and look.tables else {}
    with suppress(KeyError, TypeError):  # of another version, or none
        return Timing(**known["costs"])
    if look.n_computed < 2 * enough:
        # All of it was cached, or too little to tell: a batch a worker, after some to warm up.
        paths = [s.path for s in samples[:enough]]
        for _ in range(2):
            started = time.perf_counter()
            loaded = load_batches(paths, look.extractor.preprocessing, batch_size=batch)
            for _ in look.compute_batches(loaded):
                pass
            look.seconds, look.n_computed = time.perf_counter() - started, len(paths)
    spent = look.extractor.stage_seconds
    total = sum(spent) or 1.0
    share = {s.name: sum(spent[: i + 1]) / total for i, s in enumerate(look.stages)}
    step, step_image = _step_costs(look)
    timing = Timing(look.seconds / max(1, look.n_computed), share, step, step_image)
    if look.tables:
        look.tables[-1].set_metadata("costs", asdict(timing))
    return timing


@torch.enable_grad()
def _step_costs(look: StageFeatures) -> tuple[float, float]:
    """Seconds of a training step of everything: the fixed part, and that of each image.

    In eval mode, so that no running statistics move; the weights do not change.
    """
    compute, side = look.extractor.compute, look.backbone.preprocessing.crop
    stages = nn.Sequential(*look.stages).eval()
    parameters = list(stages.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    stages.requires_grad_(True)
    lanes = ParallelGradients(stages, compute)

    def gradients(x: Tensor, _: Tensor) -> Sums:
        with compute.autocast(), fast_depthwise(compute):
            loss = stages(x).float().mean()
        return torch.autograd.grad(loss, parameters, allow_unused=True), loss.detach()

    few, many = lanes.most, STEP_BATCH * lanes.most
    seconds = []
    for n in (many, few, many):  # the first warms up
        x = torch.zeros(n, 3, side, side, device=compute.device)
        x = x.contiguous(memory_format=torch.channels_last)
        started = time.perf_counter()
        lanes.sums(gradients, x, torch.zeros(n), lanes.most)
        if compute.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    for parameter in frozen:
        parameter.requires_grad_(False)
    _, small, large = seconds
    image = max(large - small, 0.0) / (many - few) or large / many
    return max(small - few * image, 0.0), image
