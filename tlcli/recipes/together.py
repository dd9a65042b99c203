"""What the processes of a job have to agree on before they share the work."""

import hashlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from tlcli.data.dataset import Dataset
from tlcli.errors import UserError
from tlcli.recipes.planning import Planned
from tlcli.transfer.agree import told
from tlcli.transfer.plan import Plan
from tlcli.transfer.schedule import Schedule


def decide_once(dataset: Dataset, backbone: str, make: Callable[[], Planned]) -> Planned:
    """What `make` decides about `dataset`, which it is called for by the first process alone.

    The others have the plan without the evidence, and the dataset without what was unreadable.

    Raises:
        UserError: this process sees other images than the first.
    """
    made: list[Planned] = []

    def decided() -> dict[str, Any]:
        made.append(make())
        left = {sample.path for sample in _samples(made[0].dataset)}
        gone = [i for i, s in enumerate(_samples(dataset)) if s.path not in left]
        return {"images": _order(dataset), "plan": made[0].plan.to_dict(), "gone": gone}

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
    return Planned(backbone, _plan(heard["plan"]), dataset.without(gone) if gone else dataset)


def _samples(dataset: Dataset) -> list[Any]:
    return [*dataset.train, *dataset.val, *dataset.test]


def _order(dataset: Dataset) -> str:
    """The images' content, in order and by label."""
    text = "".join(f"{s.digest}{s.label} " for s in _samples(dataset))
    return hashlib.sha256(f"{len(dataset.train)} {text}".encode()).hexdigest()


def _plan(content: dict[str, Any]) -> Plan:
    """The plan that `Plan.to_dict` told, but for its evidence."""
    known = {f.name: content[f.name] for f in fields(Plan)}
    lists = {k: tuple(v) for k, v in known.items() if isinstance(v, list)}
    return Plan(**known | lists | {"schedule": Schedule(**known["schedule"]), "evidence": None})
