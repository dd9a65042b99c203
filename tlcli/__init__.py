"""tlcli: turn a folder of images into a classifier you can trust.

The commands of the program, from Python:

    import tlcli

    run = tlcli.finetune("flowers", model="vgg16")
    for prediction in tlcli.load(run.folder).predict(["img.jpg"]):
        print(prediction.label, prediction.probability)

Names are imported when they are first used, so that importing tlcli does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tlcli._version import __version__

_MODULES = {
    "CacheContents": "tlcli.features.cache_contents",
    "CheckedFolder": "tlcli.recipes.check",
    "Classifier": "tlcli.inference.classifier",
    "Demo": "tlcli.recipes.demo",
    "Export": "tlcli.recipes.export",
    "Options": "tlcli.runs.options",
    "Planned": "tlcli.planning.planned",
    "Prediction": "tlcli.inference.prediction",
    "Reporter": "tlcli.reporter",
    "Run": "tlcli.recipes.finetune",
    "UserError": "tlcli.errors",
    "cache": "tlcli.features.cache_contents",
    "check": "tlcli.recipes.check",
    "contact_sheet": "tlcli.recipes.contact_sheet",
    "create_model": "tlcli.backbones.create",
    "demo": "tlcli.recipes.demo",
    "draw_sample": "tlcli.data.drawings.sample",
    "evaluate": "tlcli.inference.evaluate",
    "export": "tlcli.recipes.export",
    "finetune": "tlcli.recipes.finetune",
    "load": "tlcli.inference.load",
    "models": "tlcli.backbones.listing",
    "plan": "tlcli.recipes.plan",
}
"""The module of each public name."""
_FORMER_NAMES = {"Answer": "Prediction"}
"""Names of earlier versions that still work."""

__all__ = [
    "CacheContents",
    "CheckedFolder",
    "Classifier",
    "Demo",
    "Export",
    "Options",
    "Planned",
    "Prediction",
    "Reporter",
    "Run",
    "UserError",
    "__version__",
    "cache",
    "check",
    "contact_sheet",
    "create_model",
    "demo",
    "draw_sample",
    "evaluate",
    "export",
    "finetune",
    "load",
    "models",
    "plan",
]

if TYPE_CHECKING:
    from tlcli.backbones.create import create_model
    from tlcli.backbones.listing import models
    from tlcli.data.drawings.sample import draw_sample
    from tlcli.errors import UserError
    from tlcli.features.cache_contents import CacheContents, cache
    from tlcli.inference.classifier import Classifier
    from tlcli.inference.evaluate import evaluate
    from tlcli.inference.load import load
    from tlcli.inference.prediction import Prediction
    from tlcli.planning.planned import Planned
    from tlcli.recipes.check import CheckedFolder, check
    from tlcli.recipes.contact_sheet import contact_sheet
    from tlcli.recipes.demo import Demo, demo
    from tlcli.recipes.export import Export, export
    from tlcli.recipes.finetune import Run, finetune
    from tlcli.recipes.plan import plan
    from tlcli.reporter import Reporter
    from tlcli.runs.options import Options


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    name = _FORMER_NAMES.get(name, name)
    if name not in _MODULES:
        raise AttributeError(f"module 'tlcli' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
