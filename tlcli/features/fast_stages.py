"""Frozen stages rewritten for fast inference: folded, cast and compiled."""

import copy
from typing import Any

import torch
from torch import nn

from tlcli.runtime.device import Compute


def build_fast_stages(stages: nn.Sequential, compute: Compute) -> list[nn.Module]:
    """Return the stages for inference as `compute` asks for it; `stages` stays as it is.

    This is the only place that traces (FX) or compiles frozen stages.
    """
    return [build_fast_stage(stage, compute) for stage in stages]


def build_fast_stage(stage: nn.Module, compute: Compute) -> nn.Module:
    """Return one stage for inference; `stage` itself where nothing can be gained.

    BatchNorm is folded into the convolutions, weights are cast to the precision of `compute`, and
    the stage is compiled where `compute` says so.
    """
    fast = stage
    if any(isinstance(m, nn.BatchNorm2d) for m in stage.modules()):
        from torch.fx.experimental.optimization import fuse

        fast = fuse(stage).to(memory_format=torch.channels_last)
    layers = (nn.Conv2d, nn.Linear)
    if compute.dtype is not None and any(isinstance(m, layers) for m in stage.modules()):
        # Autocast would cast these weights again for every batch.
        fast = copy.deepcopy(stage) if fast is stage else fast
        for module in fast.modules():
            if isinstance(module, layers):
                module.to(compute.dtype)
    if compute.compiled:
        # All stages share the code of one `forward`, and each is compiled for itself.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        options: dict[str, Any] = {"freezing": True}
        fast = torch.compile(fast, dynamic=False, options=options)  # type: ignore[assignment]
    return fast
