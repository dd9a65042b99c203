"""What the processes of a job have to agree on before they share the work."""

import hashlib
from collections.abc import Callable
from typing import Any

from tlcli.data.augmentation.spec import make_augmentation
from tlcli.data.dataset import Dataset
from tlcli.data.augmentation.presets import parse
from tlcli.errors import UserError
from tlcli.recipes.decide import Planned
from tlcli.runtime.distributed.collectives import told
from tlcli.data.augmentation.mixup import make_mixing
from tlcli.planning.plan import Plan


def decide_once(dataset: Dataset, make: Callable[[], Planned]) -> Planned:
    """What `make` decides about `dataset`, which it is called for by the first process alone.

    The others have the dataset without what was unreadable, and no forecast.

    Raises:
        UserError: this process sees other images than the first.
    """
    made: list[Planned] = []

    def decided() -> dict[str, Any]:
        made.append(make())
        planned = made[0]
        left = {sample.path for sample in _samples(planned.dataset)}
        return {
            "images": _order(dataset),
            "backbone": planned.backbone,
            "plan": planned.plan.to_dict(),
            "colours": getattr(planned.augmentation, "colours", None),
            "gone": [i for i, s in enumerate(_samples(dataset)) if s.path not in left],
        }

    heard = told(decided)
    if made:
        return made[0]
    if heard["images"] != _order(dataset):
        raise UserError(
            f"{dataset.root} holds other images here than for the first process",
            "every machine of a job needs the same folder",
        )
    samples = _samples(dataset)
    gone = {samples[i].path: "unreadable for the first process" for i in heard["gone"]}
    plan = Plan.from_dict(heard["plan"])
    strengths = parse(plan.schedule.augment)
    colours = heard["colours"] and tuple(map(tuple, heard["colours"]))
    return Planned(
        heard["backbone"],
        plan,
        dataset.without(gone) if gone else dataset,
        plan.evidence,
        augmentation=make_augmentation(strengths, colours),
        mixing=make_mixing(strengths),
    )


def _samples(dataset: Dataset) -> list[Any]:
    return [*dataset.train, *dataset.val, *dataset.test]


def _order(dataset: Dataset) -> str:
    """The images' content, in order and by label."""
    text = "".join(f"{s.digest}{s.label} " for s in _samples(dataset))
    return hashlib.sha256(f"{len(dataset.train)} {text}".encode()).hexdigest()
