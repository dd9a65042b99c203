"""tlcli: a folder of images in, a classifier you can trust out.

The same verbs as the command line, from Python:

    import tlcli

    run = tlcli.finetune("flowers", model="vgg16")
    for answer in tlcli.load(run.folder).predict(["img.jpg"]):
        print(answer.label, answer.probability)

Names are resolved when they are first used, so that importing tlcli does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tlcli._version import __version__

_WHERE = {
    "finetune": "tlcli.recipes.finetune",
    "Options": "tlcli.runs.options",
    "plan": "tlcli.recipes.plan",
    "Planned": "tlcli.recipes.decide",
    "Run": "tlcli.recipes.finetune",
    "contact_sheet": "tlcli.recipes.contact_sheet",
    "export": "tlcli.recipes.export",
    "Export": "tlcli.recipes.export",
    "evaluate": "tlcli.inference.evaluate",
    "load": "tlcli.inference.load",
    "Classifier": "tlcli.inference.classifier",
    "Prediction": "tlcli.inference.prediction",
    "draw_sample": "tlcli.data.drawings.sample",
    "Reporter": "tlcli.reporter",
    "UserError": "tlcli.errors",
}

__all__ = [
    "Classifier",
    "Export",
    "Options",
    "Planned",
    "Prediction",
    "Reporter",
    "Run",
    "UserError",
    "__version__",
    "contact_sheet",
    "draw_sample",
    "evaluate",
    "export",
    "finetune",
    "load",
    "plan",
]

if TYPE_CHECKING:
    from tlcli.data.drawings.sample import draw_sample
    from tlcli.errors import UserError
    from tlcli.inference.classifier import Classifier
    from tlcli.inference.evaluate import evaluate
    from tlcli.inference.load import load
    from tlcli.inference.prediction import Prediction
    from tlcli.planning.planned import Planned
    from tlcli.recipes.contact_sheet import contact_sheet
    from tlcli.recipes.export import Export, export
    from tlcli.recipes.finetune import Run, finetune
    from tlcli.recipes.plan import plan
    from tlcli.reporter import Reporter
    from tlcli.runs.options import Options


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tlcli' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
