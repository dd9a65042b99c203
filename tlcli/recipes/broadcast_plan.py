"""The plan of a job on several processes: rank 0 makes it, and all other ranks receive it."""

import hashlib
from collections.abc import Mapping
from typing import Any

from tlcli.data.augmentation.mixup import make_mixing
from tlcli.data.augmentation.presets import parse_augment
from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import Dataset
from tlcli.errors import UserError
from tlcli.planning.plan import Plan
from tlcli.planning.planned import Planned
from tlcli.recipes.decide import PlanRequest, decide, fit_variation, make_planned
from tlcli.runtime.distributed.collectives import broadcast_from_first
from tlcli.runtime.distributed.process_group import world_size


def decide_on_rank0(request: PlanRequest, recorded: Plan | None = None) -> Planned:
    """Make the plan on rank 0 and broadcast it. The other ranks get no forecast.

    Args:
        recorded: the plan of a resumed run, which is kept without measuring.

    Raises:
        UserError: this rank sees other images than rank 0.
    """
    made: list[Planned] = []
    dataset, backbone = request.dataset, request.initial_model.backbone
    # Rank 0 measures alone, while the other views are shared by all ranks.
    precompute_views = world_size() == 1

    def decide_here() -> dict[str, Any]:
        if recorded is None:
            planned = decide(request, precompute_views=precompute_views)
        else:
            planned = make_planned(
                backbone.name, recorded, dataset, fit_variation(recorded, dataset)
            )
        made.append(planned)
        return _to_broadcast(planned, dataset)

    received = broadcast_from_first(decide_here)
    return made[0] if made else _from_broadcast(received, backbone.name, dataset)


def _to_broadcast(planned: Planned, dataset: Dataset) -> dict[str, Any]:
    """Return the parts of the plan that the other ranks need, in plain JSON types."""
    left = {sample.path for sample in planned.dataset.samples}
    return {
        "images": _content_hash(dataset),
        "plan": planned.plan.to_dict(),
        "colors": getattr(planned.augmentation, "principal_colors", None),
        "left_out": [i for i, s in enumerate(dataset.samples) if s.path not in left],
    }


def _from_broadcast(received: Mapping[str, Any], backbone: str, dataset: Dataset) -> Planned:
    """Rebuild the plan of rank 0 on another rank."""
    if received["images"] != _content_hash(dataset):
        raise UserError(
            f"{dataset.root} holds other images here than on the first machine",
            "every machine of a job needs the same folder",
        )
    samples = dataset.samples
    left_out = {samples[i].path: "unreadable on the first machine" for i in received["left_out"]}
    plan = Plan.from_dict(received["plan"])
    strengths = parse_augment(plan.training.augment)
    colors = received["colors"] and tuple(map(tuple, received["colors"]))
    variation = make_augmentation(strengths, colors), make_mixing(strengths)
    return make_planned(
        backbone, plan, dataset.without(left_out) if left_out else dataset, variation
    )


def _content_hash(dataset: Dataset) -> str:
    """Return a hash of the images' content, in order and by label."""
    text = "".join(f"{s.digest}{s.label} " for s in dataset.samples)
    return hashlib.sha256(f"{len(dataset.train)} {text}".encode()).hexdigest()
